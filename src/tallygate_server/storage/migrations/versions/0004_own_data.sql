-- Our own data under the same rules: what became of rows that were moved out of the tables they were written to.
CREATE TABLE archived_webhook_events (
    source TEXT NOT NULL,
    event_id TEXT NOT NULL,
    archive_time TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_archived_webhook_events PRIMARY KEY (source, event_id)
);
CREATE INDEX ix_archived_webhook_events_age ON archived_webhook_events (archive_time);
COMMENT ON TABLE archived_webhook_events IS 'names of events that are records now, so that one that comes again is known';

CREATE TABLE usage_exports (
    tenant_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    data_type TEXT NOT NULL,
    record_count BIGINT NOT NULL,
    last_recorded_time TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_usage_exports PRIMARY KEY (tenant_id, account_id, data_type)
);
COMMENT ON TABLE usage_exports IS 'how far an account''s raw usage was moved to cold records';
COMMENT ON COLUMN usage_exports.data_type IS 'usage_entry, usage_event or usage_denial';

CREATE TABLE exported_usage_sums (
    tenant_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    feature_key TEXT NOT NULL,
    period_kind TEXT NOT NULL,
    period_start TIMESTAMP WITH TIME ZONE NOT NULL,
    quantity BIGINT NOT NULL,
    credited_quantity BIGINT NOT NULL,
    entry_count BIGINT NOT NULL,
    last_recorded_time TIMESTAMP WITH TIME ZONE NOT NULL,
    last_entry_id BIGINT NOT NULL,
    last_used_after BIGINT NOT NULL,
    CONSTRAINT pk_exported_usage_sums PRIMARY KEY (tenant_id, account_id, feature_key, period_kind, period_start)
);
COMMENT ON TABLE exported_usage_sums IS 'what the ledger''s exported entries came to, by counter';
COMMENT ON COLUMN exported_usage_sums.last_used_after IS 'the counter after the newest of them';

CREATE TABLE exported_credit_sums (
    tenant_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    feature_key TEXT NOT NULL,
    grant_id TEXT NOT NULL,
    window_start TIMESTAMP WITH TIME ZONE NOT NULL,
    period_kind TEXT NOT NULL,
    period_start TIMESTAMP WITH TIME ZONE NOT NULL,
    quantity BIGINT NOT NULL,
    CONSTRAINT pk_exported_credit_sums
        PRIMARY KEY (tenant_id, account_id, feature_key, grant_id, window_start, period_kind, period_start)
);
COMMENT ON TABLE exported_credit_sums IS 'what credits paid of the ledger''s exported entries';

-- Validation recounts counters under their locks, as the meter; reversals ask what became of a line.
CREATE POLICY every_tenant ON usage_exports FOR SELECT TO tallygate_meter USING (true);
CREATE POLICY every_tenant ON exported_usage_sums FOR SELECT TO tallygate_meter USING (true);
CREATE POLICY every_tenant ON exported_credit_sums FOR SELECT TO tallygate_meter USING (true);
GRANT SELECT ON usage_exports, exported_usage_sums, exported_credit_sums TO tallygate_meter;
GRANT SELECT ON archived_webhook_events TO tallygate_intake;
