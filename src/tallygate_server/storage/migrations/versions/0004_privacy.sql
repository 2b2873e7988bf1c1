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
