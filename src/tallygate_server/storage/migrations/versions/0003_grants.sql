-- Credits that are given again and again, rests that roll over, and overrides of whole limits.
ALTER TABLE grants ADD COLUMN "limit" JSONB;
ALTER TABLE grants ADD COLUMN recurrence TEXT;
ALTER TABLE grants ADD COLUMN rollover JSONB;
ALTER TABLE grants ADD COLUMN metadata JSONB DEFAULT '{}'::jsonb NOT NULL;
ALTER TABLE grants ADD COLUMN revoke_reason TEXT DEFAULT '' NOT NULL;
ALTER TABLE grants ADD COLUMN notice_time TIMESTAMP WITH TIME ZONE;
COMMENT ON COLUMN grants.kind IS 'bonus, purchase, override, enable or disable';
COMMENT ON COLUMN grants."limit" IS 'override of a counter or gauge: what a plan''s allowance says of a limit';
COMMENT ON COLUMN grants.recurrence IS 'PeriodKind value of a credit that is given anew; null: once';
COMMENT ON COLUMN grants.rollover IS '{"min": ..., "max": ...}; null: nothing rolls over';
COMMENT ON COLUMN grants.notice_time IS 'when it was announced that it expires';
CREATE INDEX ix_grants_expiring ON grants (expire_time) WHERE revoke_time IS NULL AND notice_time IS NULL;
CREATE INDEX ix_grants_newest ON grants (tenant_id, create_time DESC, grant_id DESC);

-- First answers to the request ids of CreateGrant and SetFeatureOverride, which may leave no grant.
CREATE TABLE grant_requests (
    tenant_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    grant_id TEXT,
    revision BIGINT NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_grant_requests PRIMARY KEY (tenant_id, account_id, request_id)
);
COMMENT ON COLUMN grant_requests.grant_id IS 'null when a switch was taken back';
COMMENT ON COLUMN grant_requests.revision IS 'of the account after the first call';
GRANT SELECT, INSERT ON grant_requests TO tallygate_app;

-- The job that announces what expires asks the intake, as the others that walk every tenant.
CREATE POLICY every_tenant_read ON grants FOR SELECT TO tallygate_intake USING (true);
GRANT SELECT (tenant_id, account_id, grant_id, start_time, expire_time, revoke_time, notice_time)
    ON grants TO tallygate_intake;

CREATE TABLE grant_balances (
    tenant_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    grant_id TEXT NOT NULL,
    window_start TIMESTAMP WITH TIME ZONE NOT NULL,
    window_end TIMESTAMP WITH TIME ZONE,
    feature_key TEXT NOT NULL,
    given_quantity BIGINT NOT NULL,
    used_quantity BIGINT DEFAULT 0 NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_grant_balances PRIMARY KEY (tenant_id, account_id, grant_id, window_start),
    CONSTRAINT ck_grant_balances_used_quantity_in_range CHECK (used_quantity >= 0 AND used_quantity <= given_quantity)
);
CREATE INDEX ix_grant_balances_feature ON grant_balances (tenant_id, account_id, feature_key);
COMMENT ON COLUMN grant_balances.window_start IS 'of the recurrence; the start of a grant that is given once';
COMMENT ON COLUMN grant_balances.given_quantity IS 'the credit and what rolled over from the window before';

-- Balances change with the ledger, in its transaction.
CREATE POLICY every_tenant ON grant_balances FOR ALL TO tallygate_meter USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE ON grant_balances TO tallygate_meter;
GRANT SELECT ON grant_balances TO tallygate_app;
