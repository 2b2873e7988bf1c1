-- Tables of the first release. Roles and row-level security follow in 0001_access.sql.

CREATE TABLE accounts (
    tenant_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    state TEXT DEFAULT 'active' NOT NULL,
    revision BIGINT DEFAULT 1 NOT NULL,
    time_zone TEXT DEFAULT 'UTC' NOT NULL,
    display_name TEXT DEFAULT '' NOT NULL,
    email TEXT DEFAULT '' NOT NULL,
    preferences JSONB DEFAULT '{}'::jsonb NOT NULL,
    metadata JSONB DEFAULT '{}'::jsonb NOT NULL,
    suspend_reason TEXT DEFAULT '' NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    last_seen_time TIMESTAMP WITH TIME ZONE,
    delete_time TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_accounts PRIMARY KEY (tenant_id, account_id),
    CONSTRAINT ck_accounts_state_known CHECK (state IN ('active', 'suspended', 'deleted')),
    CONSTRAINT ck_accounts_revision_positive CHECK (revision >= 1)
);

CREATE TABLE audit_entries (
    tenant_id TEXT NOT NULL,
    audit_id BIGINT GENERATED ALWAYS AS IDENTITY,
    actor TEXT DEFAULT '' NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail JSONB NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_audit_entries PRIMARY KEY (tenant_id, audit_id)
);

CREATE INDEX ix_audit_entries_tenant_id_subject_audit_id ON audit_entries (tenant_id, subject, audit_id);

CREATE TABLE cache_epochs (
    single BOOLEAN NOT NULL,
    epoch BIGINT NOT NULL,
    begin_time TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT pk_cache_epochs PRIMARY KEY (single),
    CONSTRAINT ck_cache_epochs_single_row CHECK (single)
);

COMMENT ON COLUMN cache_epochs.epoch IS 'rises when a change could not be told to Redis';

CREATE TABLE catalog_revisions (
    tenant_id TEXT NOT NULL,
    revision BIGINT NOT NULL,
    source TEXT NOT NULL,
    actor TEXT DEFAULT '' NOT NULL,
    changes JSONB NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_catalog_revisions PRIMARY KEY (tenant_id, revision)
);

CREATE TABLE features (
    tenant_id TEXT NOT NULL,
    feature_key TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT DEFAULT '' NOT NULL,
    description TEXT DEFAULT '' NOT NULL,
    unit TEXT DEFAULT '' NOT NULL,
    failure_mode TEXT DEFAULT 'fail_closed' NOT NULL,
    position INTEGER DEFAULT 0 NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    retire_time TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_features PRIMARY KEY (tenant_id, feature_key),
    CONSTRAINT ck_features_kind_known CHECK (kind IN ('boolean', 'config', 'counter', 'gauge'))
);

CREATE TABLE job_runs (
    job TEXT NOT NULL,
    run_id BIGINT GENERATED ALWAYS AS IDENTITY,
    start_time TIMESTAMP WITH TIME ZONE NOT NULL,
    end_time TIMESTAMP WITH TIME ZONE,
    state TEXT NOT NULL,
    detail JSONB DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT pk_job_runs PRIMARY KEY (job, run_id)
);

COMMENT ON COLUMN job_runs.state IS 'running, succeeded or failed';

CREATE TABLE meters (
    tenant_id TEXT NOT NULL,
    meter_key TEXT NOT NULL,
    definition JSONB NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    retire_time TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_meters PRIMARY KEY (tenant_id, meter_key)
);

CREATE TABLE outbox_events (
    tenant_id TEXT NOT NULL,
    event_id BIGINT GENERATED ALWAYS AS IDENTITY,
    type TEXT NOT NULL,
    account_id TEXT DEFAULT '' NOT NULL,
    revision BIGINT DEFAULT 0 NOT NULL,
    payload JSONB NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    publish_time TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_outbox_events PRIMARY KEY (tenant_id, event_id)
);

CREATE INDEX ix_outbox_events_unpublished ON outbox_events (tenant_id, event_id) WHERE publish_time IS NULL;

CREATE TABLE plans (
    tenant_id TEXT NOT NULL,
    plan_key TEXT NOT NULL,
    version INTEGER NOT NULL,
    name TEXT DEFAULT '' NOT NULL,
    description TEXT DEFAULT '' NOT NULL,
    rank INTEGER DEFAULT 0 NOT NULL,
    grace_days INTEGER NOT NULL,
    trial_days INTEGER DEFAULT 0 NOT NULL,
    prices JSONB NOT NULL,
    allowances JSONB NOT NULL,
    digest TEXT NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    retire_time TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_plans PRIMARY KEY (tenant_id, plan_key, version),
    CONSTRAINT ck_plans_version_positive CHECK (version >= 1)
);

COMMENT ON COLUMN plans.digest IS 'SHA-256 of the version''s content: equal content is the same version';

CREATE TABLE subscription_history (
    tenant_id TEXT NOT NULL,
    subscription_id TEXT NOT NULL,
    history_id BIGINT GENERATED ALWAYS AS IDENTITY,
    account_id TEXT NOT NULL,
    action TEXT NOT NULL,
    before JSONB,
    after JSONB NOT NULL,
    actor TEXT DEFAULT '' NOT NULL,
    reason TEXT DEFAULT '' NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_subscription_history PRIMARY KEY (tenant_id, subscription_id, history_id)
);

CREATE INDEX ix_subscription_history_tenant_id_account_id_history_id ON subscription_history (tenant_id, account_id, history_id);

CREATE TABLE tenants (
    tenant_id TEXT NOT NULL,
    parent_tenant_id TEXT,
    name TEXT DEFAULT '' NOT NULL,
    default_plan_key TEXT,
    auto_provision BOOLEAN DEFAULT false NOT NULL,
    upgrade_url TEXT DEFAULT '' NOT NULL,
    catalog_revision BIGINT DEFAULT 0 NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_tenants PRIMARY KEY (tenant_id),
    CONSTRAINT ck_tenants_tenant_id_present CHECK (tenant_id <> '')
);

CREATE TABLE usage_counters (
    tenant_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    feature_key TEXT NOT NULL,
    period_kind TEXT NOT NULL,
    period_start TIMESTAMP WITH TIME ZONE NOT NULL,
    period_end TIMESTAMP WITH TIME ZONE,
    used_quantity BIGINT NOT NULL,
    version BIGINT NOT NULL,
    limit_quantity BIGINT NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_usage_counters PRIMARY KEY (tenant_id, account_id, feature_key, period_kind, period_start),
    CONSTRAINT ck_usage_counters_used_quantity_not_negative CHECK (used_quantity >= 0)
)
 WITH (fillfactor = 70);

COMMENT ON COLUMN usage_counters.period_kind IS 'PeriodKind value: h, d, w, m, y or l';

COMMENT ON COLUMN usage_counters.used_quantity IS 'equals the sum of the counter''s ledger entries';

COMMENT ON COLUMN usage_counters.version IS 'rises by one with every change of the row';

COMMENT ON COLUMN usage_counters.limit_quantity IS 'limit in force at the last change; -1 for unlimited';

CREATE TABLE usage_denials (
    tenant_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    entry_id BIGINT NOT NULL,
    recorded_time TIMESTAMP WITH TIME ZONE NOT NULL,
    feature_key TEXT NOT NULL,
    quantity BIGINT NOT NULL,
    reason SMALLINT NOT NULL,
    used_quantity BIGINT NOT NULL,
    limit_quantity BIGINT NOT NULL,
    event_time TIMESTAMP WITH TIME ZONE NOT NULL,
    request_id TEXT,
    CONSTRAINT pk_usage_denials PRIMARY KEY (tenant_id, account_id, entry_id, recorded_time)
)
 PARTITION BY RANGE (recorded_time);

CREATE TABLE usage_entries (
    tenant_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    entry_id BIGINT NOT NULL,
    recorded_time TIMESTAMP WITH TIME ZONE NOT NULL,
    feature_key TEXT NOT NULL,
    period_kind TEXT NOT NULL,
    period_start TIMESTAMP WITH TIME ZONE NOT NULL,
    quantity BIGINT NOT NULL,
    used_after BIGINT NOT NULL,
    limit_quantity BIGINT NOT NULL,
    event_time TIMESTAMP WITH TIME ZONE NOT NULL,
    request_id TEXT,
    dimensions JSONB,
    CONSTRAINT pk_usage_entries PRIMARY KEY (tenant_id, account_id, entry_id, recorded_time)
)
 PARTITION BY RANGE (recorded_time);

COMMENT ON COLUMN usage_entries.entry_id IS 'time-ordered: milliseconds, node, sequence';

COMMENT ON COLUMN usage_entries.used_after IS 'the counter right after this entry, in commit order';

COMMENT ON COLUMN usage_entries.limit_quantity IS 'limit that admitted it; -1 for unlimited';

CREATE TABLE usage_requests (
    tenant_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    fingerprint BIGINT NOT NULL,
    reason SMALLINT NOT NULL,
    entry_id BIGINT,
    quantity BIGINT NOT NULL,
    used_quantity BIGINT NOT NULL,
    limit_quantity BIGINT NOT NULL,
    thresholds TEXT NOT NULL,
    reset_time TIMESTAMP WITH TIME ZONE,
    plan_key TEXT NOT NULL,
    revision BIGINT NOT NULL,
    recorded_time TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_usage_requests PRIMARY KEY (tenant_id, account_id, request_id)
);

CREATE INDEX ix_usage_requests_recorded_time ON usage_requests USING brin (recorded_time);

COMMENT ON COLUMN usage_requests.fingerprint IS 'hash of the request''s content';

COMMENT ON COLUMN usage_requests.reason IS 'entitlement.Reason of the first answer';

COMMENT ON COLUMN usage_requests.entry_id IS 'null for a denied request';

COMMENT ON COLUMN usage_requests.thresholds IS 'as in force at the first answer: 80%,100%,500';

CREATE TABLE account_identities (
    tenant_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    external_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_account_identities PRIMARY KEY (tenant_id, provider, external_id),
    CONSTRAINT fk_account_identities_tenant_id_account_id_accounts FOREIGN KEY(tenant_id, account_id) REFERENCES accounts (tenant_id, account_id)
);

CREATE INDEX ix_account_identities_tenant_id_account_id ON account_identities (tenant_id, account_id);

CREATE TABLE grants (
    tenant_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    grant_id TEXT NOT NULL,
    feature_key TEXT NOT NULL,
    kind TEXT NOT NULL,
    quantity BIGINT DEFAULT 0 NOT NULL,
    value JSONB,
    priority INTEGER DEFAULT 100 NOT NULL,
    start_time TIMESTAMP WITH TIME ZONE NOT NULL,
    expire_time TIMESTAMP WITH TIME ZONE,
    grace_end_time TIMESTAMP WITH TIME ZONE,
    reason TEXT DEFAULT '' NOT NULL,
    actor TEXT DEFAULT '' NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    revoke_time TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_grants PRIMARY KEY (tenant_id, account_id, grant_id),
    CONSTRAINT fk_grants_tenant_id_account_id_accounts FOREIGN KEY(tenant_id, account_id) REFERENCES accounts (tenant_id, account_id),
    CONSTRAINT fk_grants_tenant_id_feature_key_features FOREIGN KEY(tenant_id, feature_key) REFERENCES features (tenant_id, feature_key)
);

COMMENT ON COLUMN grants.kind IS 'bonus, override, enable or disable';

CREATE TABLE subscriptions (
    tenant_id TEXT NOT NULL,
    subscription_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    plan_key TEXT NOT NULL,
    plan_version INTEGER NOT NULL,
    state TEXT NOT NULL,
    provider TEXT NOT NULL,
    interval TEXT,
    quantity BIGINT DEFAULT 1 NOT NULL,
    start_time TIMESTAMP WITH TIME ZONE NOT NULL,
    period_start_time TIMESTAMP WITH TIME ZONE NOT NULL,
    period_end_time TIMESTAMP WITH TIME ZONE,
    trial_end_time TIMESTAMP WITH TIME ZONE,
    cancel_at_period_end BOOLEAN DEFAULT false NOT NULL,
    canceled_time TIMESTAMP WITH TIME ZONE,
    grace_end_time TIMESTAMP WITH TIME ZONE,
    provider_subscription_id TEXT,
    provider_customer_id TEXT,
    provider_price_id TEXT,
    metadata JSONB DEFAULT '{}'::jsonb NOT NULL,
    create_request_id TEXT,
    create_fingerprint TEXT,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_subscriptions PRIMARY KEY (tenant_id, subscription_id),
    CONSTRAINT fk_subscriptions_tenant_id_account_id_accounts FOREIGN KEY(tenant_id, account_id) REFERENCES accounts (tenant_id, account_id),
    CONSTRAINT fk_subscriptions_tenant_id_plan_key_plan_version_plans FOREIGN KEY(tenant_id, plan_key, plan_version) REFERENCES plans (tenant_id, plan_key, version),
    CONSTRAINT ck_subscriptions_quantity_positive CHECK (quantity >= 1),
    CONSTRAINT ck_subscriptions_period_ordered CHECK (period_end_time IS NULL OR period_end_time > period_start_time),
    CONSTRAINT ck_subscriptions_state_known CHECK (state IN ('incomplete', 'incomplete_expired', 'trialing', 'active', 'past_due', 'unpaid', 'paused', 'canceled', 'expired'))
);

CREATE INDEX ix_subscriptions_tenant_id_account_id ON subscriptions (tenant_id, account_id);

CREATE UNIQUE INDEX uq_subscriptions_create_request ON subscriptions (tenant_id, account_id, create_request_id) WHERE create_request_id IS NOT NULL;

CREATE UNIQUE INDEX uq_subscriptions_live_price ON subscriptions (tenant_id, account_id, plan_key, coalesce(interval, '')) WHERE state NOT IN ('incomplete_expired', 'canceled', 'expired');

COMMENT ON COLUMN subscriptions.provider IS 'none, stripe or manual';

COMMENT ON COLUMN subscriptions.interval IS 'month or year; null for a plan without price';
