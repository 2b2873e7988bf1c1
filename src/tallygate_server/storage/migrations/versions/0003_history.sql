-- What decided an account's entitlements, revision by revision: the answer to every question about the past.
CREATE TABLE account_revisions (
    tenant_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    revision BIGINT NOT NULL,
    begin_time TIMESTAMP WITH TIME ZONE NOT NULL,
    cause TEXT NOT NULL,
    sources JSONB NOT NULL,
    CONSTRAINT pk_account_revisions PRIMARY KEY (tenant_id, account_id, revision)
);
CREATE INDEX ix_account_revisions_time ON account_revisions (tenant_id, account_id, begin_time);
COMMENT ON COLUMN account_revisions.begin_time IS 'by the clock of the server that made the change';
COMMENT ON COLUMN account_revisions.cause IS 'as in the event entitlement.changed';
COMMENT ON COLUMN account_revisions.sources IS 'the document that storage/sources.py reads';

GRANT SELECT, INSERT ON account_revisions TO tallygate_app;
