-- Settings of tenants that recording and correcting usage go by.
ALTER TABLE tenants ADD COLUMN settings JSONB DEFAULT '{}'::jsonb NOT NULL;
COMMENT ON COLUMN tenants.settings IS 'settings that have no column of their own';

CREATE TABLE usage_events (
    tenant_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    event_key BIGINT NOT NULL,
    recorded_time TIMESTAMP WITH TIME ZONE NOT NULL,
    source TEXT NOT NULL,
    event_id TEXT NOT NULL,
    type TEXT NOT NULL,
    event_time TIMESTAMP WITH TIME ZONE NOT NULL,
    data JSONB,
    ai JSONB,
    client JSONB,
    readings JSONB NOT NULL,
    cost_nanos BIGINT DEFAULT 0 NOT NULL,
    cost_currency_code TEXT DEFAULT '' NOT NULL,
    commit_xid BIGINT DEFAULT pg_current_xact_id()::text::bigint NOT NULL,
    CONSTRAINT pk_usage_events PRIMARY KEY (tenant_id, event_key, recorded_time)
) PARTITION BY RANGE (recorded_time);
CREATE INDEX ix_usage_events_account ON usage_events (tenant_id, account_id, event_key);
CREATE INDEX ix_usage_events_event_id ON usage_events (tenant_id, event_id);
CREATE INDEX ix_usage_events_commit_xid ON usage_events (commit_xid);
COMMENT ON COLUMN usage_events.event_key IS 'time-ordered, as ids of ledger entries: milliseconds, node, sequence';
COMMENT ON COLUMN usage_events.event_time IS 'when it happened; when it came in, where the event does not say';
COMMENT ON COLUMN usage_events.ai IS 'what a model did, under the names of the contract; null where it is about none';
COMMENT ON COLUMN usage_events.readings IS '[{"meter": key, "value": whole number or text, "dimensions": {...}}, ...]';
COMMENT ON COLUMN usage_events.cost_nanos IS 'billionths of the major unit of the currency; 0 without a price';
COMMENT ON COLUMN usage_events.cost_currency_code IS 'ISO 4217 code; empty without a price';
COMMENT ON COLUMN usage_events.commit_xid IS 'transaction that wrote it: what rollups go by';

CREATE TABLE usage_event_keys (
    tenant_id TEXT NOT NULL,
    source TEXT NOT NULL,
    event_id TEXT NOT NULL,
    fingerprint BIGINT NOT NULL,
    event_key BIGINT NOT NULL,
    recorded_time TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_usage_event_keys PRIMARY KEY (tenant_id, source, event_id)
);
CREATE INDEX ix_usage_event_keys_recorded_time ON usage_event_keys USING brin (recorded_time);
COMMENT ON COLUMN usage_event_keys.fingerprint IS 'hash of the event''s content';

-- Events are written with the counters that they move, in one transaction; their keys are forgotten after a while.
CREATE POLICY every_tenant ON usage_events FOR ALL TO tallygate_meter USING (true) WITH CHECK (true);
CREATE POLICY every_tenant ON usage_event_keys FOR ALL TO tallygate_meter USING (true) WITH CHECK (true);
GRANT SELECT, INSERT ON usage_events TO tallygate_meter;
GRANT SELECT, INSERT, DELETE ON usage_event_keys TO tallygate_meter;
GRANT SELECT ON usage_events, usage_event_keys TO tallygate_app;
