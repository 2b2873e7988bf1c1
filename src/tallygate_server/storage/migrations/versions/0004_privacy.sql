-- Promises to the people whom the data is about.
CREATE TABLE consents (
    tenant_id TEXT NOT NULL,
    consent_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    purpose TEXT NOT NULL,
    granted BOOLEAN NOT NULL,
    policy_version TEXT DEFAULT '' NOT NULL,
    source TEXT DEFAULT '' NOT NULL,
    consent_time TIMESTAMP WITH TIME ZONE NOT NULL,
    expire_time TIMESTAMP WITH TIME ZONE,
    actor TEXT NOT NULL,
    request_id TEXT DEFAULT '' NOT NULL,
    fingerprint TEXT DEFAULT '' NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE NOT NULL,
    sequence BIGINT GENERATED ALWAYS AS IDENTITY,
    CONSTRAINT pk_consents PRIMARY KEY (tenant_id, consent_id)
);
CREATE INDEX ix_consents_account ON consents (tenant_id, account_id, purpose, consent_time);
CREATE UNIQUE INDEX uq_consents_request ON consents (tenant_id, account_id, request_id) WHERE request_id <> '';
COMMENT ON COLUMN consents.sequence IS 'order of recording: decides between statements of one instant';

CREATE TABLE erasure_receipts (
    tenant_id TEXT NOT NULL,
    receipt_id TEXT NOT NULL,
    receipt JSONB NOT NULL,
    signature BYTEA NOT NULL,
    signing_key_id TEXT NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_erasure_receipts PRIMARY KEY (tenant_id, receipt_id)
);

CREATE TABLE signing_keys (
    signing_key_id TEXT NOT NULL,
    public_key BYTEA NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_signing_keys PRIMARY KEY (signing_key_id)
);
COMMENT ON TABLE signing_keys IS 'public halves, so that old receipts can be verified; the private ones are in the key store';

CREATE TABLE account_exports (
    tenant_id TEXT NOT NULL,
    job_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    state SMALLINT NOT NULL,
    key_id TEXT NOT NULL,
    object_prefix TEXT NOT NULL,
    piece_count INTEGER DEFAULT 0 NOT NULL,
    archive_bytes BIGINT DEFAULT 0 NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE NOT NULL,
    expire_time TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_account_exports PRIMARY KEY (tenant_id, job_id)
);
CREATE INDEX ix_account_exports_account ON account_exports (tenant_id, account_id);
CREATE INDEX ix_account_exports_expiring ON account_exports (expire_time);
COMMENT ON COLUMN account_exports.state IS '1 being written, 2 complete';
COMMENT ON COLUMN account_exports.object_prefix IS 'of the sealed pieces; their numbers follow';

CREATE TABLE erased_usage_totals (
    tenant_id TEXT NOT NULL,
    feature_key TEXT NOT NULL,
    period_kind TEXT NOT NULL,
    period_start TIMESTAMP WITH TIME ZONE NOT NULL,
    used_quantity NUMERIC NOT NULL,
    credited_quantity NUMERIC NOT NULL,
    account_count BIGINT NOT NULL,
    CONSTRAINT pk_erased_usage_totals PRIMARY KEY (tenant_id, feature_key, period_kind, period_start)
);
COMMENT ON TABLE erased_usage_totals IS 'what accounts that were erased had used, all together';
