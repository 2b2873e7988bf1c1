-- What becomes of data, and what must not become of it.
CREATE TABLE retention_policies (
    tenant_id TEXT NOT NULL,
    data_type TEXT NOT NULL,
    version BIGINT NOT NULL,
    policy JSONB NOT NULL,
    actor TEXT NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_retention_policies PRIMARY KEY (tenant_id, data_type, version)
);
COMMENT ON TABLE retention_policies IS 'every version; the highest counts';

CREATE TABLE legal_holds (
    tenant_id TEXT NOT NULL,
    legal_hold_id TEXT NOT NULL,
    account_id TEXT DEFAULT '' NOT NULL,
    selection JSONB NOT NULL,
    reason_text TEXT NOT NULL,
    actor TEXT NOT NULL,
    request_id TEXT,
    create_time TIMESTAMP WITH TIME ZONE NOT NULL,
    end_time TIMESTAMP WITH TIME ZONE,
    release_time TIMESTAMP WITH TIME ZONE,
    release_reason TEXT DEFAULT '' NOT NULL,
    CONSTRAINT pk_legal_holds PRIMARY KEY (tenant_id, legal_hold_id)
);
CREATE UNIQUE INDEX uq_legal_holds_request ON legal_holds (tenant_id, request_id) WHERE request_id IS NOT NULL;
CREATE INDEX ix_legal_holds_account ON legal_holds (tenant_id, account_id);
COMMENT ON COLUMN legal_holds.account_id IS 'of its selection; empty: all accounts';
