-- Usage summed up by minute, quarter of an hour and day: what queries read in place of months of raw rows.
CREATE TABLE usage_series (
    tenant_id TEXT NOT NULL,
    series_id BIGINT GENERATED ALWAYS AS IDENTITY NOT NULL,
    subject TEXT NOT NULL,
    subject_key TEXT NOT NULL,
    account_id TEXT NOT NULL,
    digest BYTEA NOT NULL,
    dimensions JSONB NOT NULL,
    CONSTRAINT pk_usage_series PRIMARY KEY (tenant_id, series_id),
    CONSTRAINT uq_usage_series_content UNIQUE (tenant_id, subject, subject_key, account_id, digest),
    CONSTRAINT ck_usage_series_subject_known CHECK (subject IN ('feature', 'meter', 'ai_cost'))
);
COMMENT ON COLUMN usage_series.subject IS 'feature, meter or ai_cost';
COMMENT ON COLUMN usage_series.subject_key IS 'of the feature or meter; empty for ai_cost';
COMMENT ON COLUMN usage_series.account_id IS 'empty for all accounts of the tenant together';
COMMENT ON COLUMN usage_series.digest IS 'SHA-256 of the dimensions as text: an index of their own could not hold long ones';

-- Rows are changed again and again while their time lasts: room for that keeps the index out of it.
CREATE TABLE usage_rollups (
    tenant_id TEXT NOT NULL,
    series_id BIGINT NOT NULL,
    minutes SMALLINT NOT NULL,
    start_time TIMESTAMP WITH TIME ZONE NOT NULL,
    event_count BIGINT NOT NULL,
    quantity NUMERIC NOT NULL,
    min_quantity BIGINT,
    max_quantity BIGINT,
    latest_time TIMESTAMP WITH TIME ZONE,
    latest_key BIGINT,
    latest_quantity BIGINT,
    xids INT8MULTIRANGE,
    CONSTRAINT pk_usage_rollups PRIMARY KEY (tenant_id, series_id, minutes, start_time)
) WITH (fillfactor = '90');
COMMENT ON COLUMN usage_rollups.minutes IS 'length of the bucket: 1, 15 or 1440';
COMMENT ON COLUMN usage_rollups.quantity IS 'sum of all quantities';
COMMENT ON COLUMN usage_rollups.latest_key IS 'event_key of the latest event: decides between two of one instant';
COMMENT ON COLUMN usage_rollups.xids
    IS 'transactions among which its rows are; of minutes of all accounts together only';
COMMENT ON COLUMN usage_rollups.min_quantity IS 'of meters only, as all that follows';

CREATE TABLE usage_rollup_values (
    tenant_id TEXT NOT NULL,
    series_id BIGINT NOT NULL,
    minutes SMALLINT NOT NULL,
    start_time TIMESTAMP WITH TIME ZONE NOT NULL,
    value TEXT NOT NULL,
    CONSTRAINT pk_usage_rollup_values PRIMARY KEY (tenant_id, series_id, minutes, start_time, value)
);
COMMENT ON COLUMN usage_rollup_values.value IS 'one of the different values of a meter that counts those';

CREATE TABLE usage_rollup_progress (
    source TEXT NOT NULL,
    next_xid BIGINT NOT NULL,
    next_recorded_time TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_usage_rollup_progress PRIMARY KEY (source),
    CONSTRAINT ck_usage_rollup_progress_source_known CHECK (source IN ('entries', 'events'))
);
COMMENT ON COLUMN usage_rollup_progress.next_xid IS 'rows of transactions before this one are in the rollups';
COMMENT ON COLUMN usage_rollup_progress.next_recorded_time
    IS 'of the rows without a transaction, those recorded before this are in the rollups; null: all';
INSERT INTO usage_rollup_progress (source, next_xid, next_recorded_time)
VALUES ('entries', 0, '-infinity'), ('events', 0, NULL);

CREATE POLICY every_tenant ON usage_series FOR ALL TO tallygate_meter USING (true) WITH CHECK (true);
CREATE POLICY every_tenant ON usage_rollups FOR ALL TO tallygate_meter USING (true) WITH CHECK (true);
CREATE POLICY every_tenant ON usage_rollup_values FOR ALL TO tallygate_meter USING (true) WITH CHECK (true);
GRANT SELECT, INSERT ON usage_series, usage_rollup_values TO tallygate_meter;
GRANT SELECT, INSERT, UPDATE ON usage_rollups TO tallygate_meter;
GRANT SELECT, UPDATE ON usage_rollup_progress TO tallygate_meter;
GRANT SELECT ON usage_series, usage_rollups, usage_rollup_values, usage_rollup_progress TO tallygate_app;
GRANT SELECT ON usage_rollup_progress TO tallygate_reader;
