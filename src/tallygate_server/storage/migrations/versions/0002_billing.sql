-- Money: customers, invoices and payments as the billing provider reports them; changes that wait for their time;
-- operations at the provider; webhooks as they came in.

ALTER TABLE subscriptions ADD COLUMN pause_start_time TIMESTAMP WITH TIME ZONE;
ALTER TABLE subscriptions ADD COLUMN resume_time TIMESTAMP WITH TIME ZONE;

-- What exists at Stripe is stored as it is, even twice; nothing of ours makes a second one.
DROP INDEX uq_subscriptions_live_price;
CREATE UNIQUE INDEX uq_subscriptions_live_price ON subscriptions (tenant_id, account_id, plan_key, coalesce(interval, '')) WHERE state NOT IN ('incomplete_expired', 'canceled', 'expired') AND provider <> 'stripe';
CREATE UNIQUE INDEX uq_subscriptions_provider_subscription ON subscriptions (provider, provider_subscription_id) WHERE provider_subscription_id IS NOT NULL;

-- What is due by itself is looked for every second, and is rare.
CREATE INDEX ix_subscriptions_ending ON subscriptions (period_end_time) WHERE cancel_at_period_end AND state NOT IN ('incomplete_expired', 'canceled', 'expired');
CREATE INDEX ix_subscriptions_in_trial ON subscriptions (trial_end_time) WHERE state = 'trialing';
CREATE INDEX ix_subscriptions_resuming ON subscriptions (resume_time) WHERE state = 'paused';
CREATE INDEX ix_subscriptions_overdue ON subscriptions (grace_end_time) WHERE state = 'past_due';

CREATE TABLE scheduled_changes (
    tenant_id TEXT NOT NULL,
    scheduled_change_id TEXT NOT NULL,
    subscription_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    effective_time TIMESTAMP WITH TIME ZONE NOT NULL,
    plan_key TEXT,
    plan_version INTEGER,
    interval TEXT,
    quantity BIGINT,
    provider TEXT,
    resume_time TIMESTAMP WITH TIME ZONE,
    provider_schedule_id TEXT,
    actor TEXT DEFAULT '' NOT NULL,
    reason TEXT DEFAULT '' NOT NULL,
    error TEXT DEFAULT '' NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_scheduled_changes PRIMARY KEY (tenant_id, scheduled_change_id),
    CONSTRAINT fk_scheduled_changes_tenant_id_subscription_id_subscriptions FOREIGN KEY(tenant_id, subscription_id) REFERENCES subscriptions (tenant_id, subscription_id),
    CONSTRAINT ck_scheduled_changes_kind_known CHECK (kind IN ('plan', 'cancellation', 'pause', 'resumption')),
    CONSTRAINT ck_scheduled_changes_state_known CHECK (state IN ('pending', 'done', 'canceled', 'failed'))
);
CREATE INDEX ix_scheduled_changes_due ON scheduled_changes (effective_time) WHERE state = 'pending';
CREATE UNIQUE INDEX uq_scheduled_changes_pending ON scheduled_changes (tenant_id, subscription_id) WHERE state = 'pending';
COMMENT ON COLUMN scheduled_changes.kind IS 'plan, cancellation, pause or resumption';
COMMENT ON COLUMN scheduled_changes.state IS 'pending, done, canceled or failed';
COMMENT ON COLUMN scheduled_changes.plan_key IS 'afterwards; null where the plan stays';
COMMENT ON COLUMN scheduled_changes.interval IS 'afterwards, of a plan with prices';
COMMENT ON COLUMN scheduled_changes.quantity IS 'afterwards; null where it stays';
COMMENT ON COLUMN scheduled_changes.provider IS 'who collects the money afterwards; null where that stays';
COMMENT ON COLUMN scheduled_changes.provider_schedule_id IS 'schedule at the provider, which carries it out';

CREATE TABLE customers (
    tenant_id TEXT NOT NULL,
    customer_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    provider_customer_id TEXT NOT NULL,
    email TEXT DEFAULT '' NOT NULL,
    name TEXT DEFAULT '' NOT NULL,
    default_payment_method_id TEXT DEFAULT '' NOT NULL,
    currency TEXT DEFAULT '' NOT NULL,
    tax_ids JSONB DEFAULT '[]'::jsonb NOT NULL,
    address JSONB,
    metadata JSONB DEFAULT '{}'::jsonb NOT NULL,
    deleted BOOLEAN DEFAULT false NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_customers PRIMARY KEY (tenant_id, customer_id),
    CONSTRAINT fk_customers_tenant_id_account_id_accounts FOREIGN KEY(tenant_id, account_id) REFERENCES accounts (tenant_id, account_id)
);
CREATE INDEX ix_customers_tenant_id_account_id ON customers (tenant_id, account_id);
CREATE UNIQUE INDEX uq_customers_provider_customer ON customers (provider, provider_customer_id);

CREATE TABLE invoices (
    tenant_id TEXT NOT NULL,
    invoice_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    subscription_id TEXT,
    provider TEXT NOT NULL,
    provider_invoice_id TEXT NOT NULL,
    state TEXT NOT NULL,
    number TEXT DEFAULT '' NOT NULL,
    currency TEXT NOT NULL,
    due_minor BIGINT NOT NULL,
    paid_minor BIGINT DEFAULT 0 NOT NULL,
    tax_minor BIGINT DEFAULT 0 NOT NULL,
    period_start_time TIMESTAMP WITH TIME ZONE,
    period_end_time TIMESTAMP WITH TIME ZONE,
    due_time TIMESTAMP WITH TIME ZONE,
    attempt_count INTEGER DEFAULT 0 NOT NULL,
    next_attempt_time TIMESTAMP WITH TIME ZONE,
    hosted_url TEXT DEFAULT '' NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE NOT NULL,
    paid_time TIMESTAMP WITH TIME ZONE,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_invoices PRIMARY KEY (tenant_id, invoice_id),
    CONSTRAINT fk_invoices_tenant_id_account_id_accounts FOREIGN KEY(tenant_id, account_id) REFERENCES accounts (tenant_id, account_id),
    CONSTRAINT ck_invoices_state_known CHECK (state IN ('draft', 'open', 'paid', 'void', 'uncollectible'))
);
CREATE INDEX ix_invoices_tenant_id_account_id_create_time ON invoices (tenant_id, account_id, create_time);
CREATE INDEX ix_invoices_tenant_id_create_time ON invoices (tenant_id, create_time);
CREATE UNIQUE INDEX uq_invoices_provider_invoice ON invoices (provider, provider_invoice_id);
COMMENT ON COLUMN invoices.state IS 'draft, open, paid, void or uncollectible';

CREATE TABLE payments (
    tenant_id TEXT NOT NULL,
    payment_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    subscription_id TEXT,
    invoice_id TEXT,
    provider TEXT NOT NULL,
    provider_payment_id TEXT NOT NULL,
    state TEXT NOT NULL,
    currency TEXT NOT NULL,
    amount_minor BIGINT NOT NULL,
    refunded_minor BIGINT DEFAULT 0 NOT NULL,
    description TEXT DEFAULT '' NOT NULL,
    failure_code TEXT DEFAULT '' NOT NULL,
    disputed BOOLEAN DEFAULT false NOT NULL,
    fraud_warning BOOLEAN DEFAULT false NOT NULL,
    metadata JSONB DEFAULT '{}'::jsonb NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_payments PRIMARY KEY (tenant_id, payment_id),
    CONSTRAINT fk_payments_tenant_id_account_id_accounts FOREIGN KEY(tenant_id, account_id) REFERENCES accounts (tenant_id, account_id),
    CONSTRAINT ck_payments_state_known CHECK (state IN ('pending', 'succeeded', 'failed', 'action_required', 'refunded'))
);
CREATE INDEX ix_payments_tenant_id_account_id_create_time ON payments (tenant_id, account_id, create_time);
CREATE INDEX ix_payments_tenant_id_create_time ON payments (tenant_id, create_time);
CREATE UNIQUE INDEX uq_payments_provider_payment ON payments (provider, provider_payment_id);
COMMENT ON COLUMN payments.state IS 'pending, succeeded, failed, action_required or refunded';

CREATE TABLE checkout_sessions (
    tenant_id TEXT NOT NULL,
    provider_session_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    plan_key TEXT NOT NULL,
    interval TEXT,
    fingerprint TEXT NOT NULL,
    state TEXT NOT NULL,
    url TEXT NOT NULL,
    expire_time TIMESTAMP WITH TIME ZONE NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_checkout_sessions PRIMARY KEY (tenant_id, provider_session_id),
    CONSTRAINT fk_checkout_sessions_tenant_id_account_id_accounts FOREIGN KEY(tenant_id, account_id) REFERENCES accounts (tenant_id, account_id),
    CONSTRAINT ck_checkout_sessions_state_known CHECK (state IN ('open', 'complete', 'expired'))
);
CREATE UNIQUE INDEX uq_checkout_sessions_open ON checkout_sessions (tenant_id, account_id, plan_key) WHERE state = 'open';
COMMENT ON COLUMN checkout_sessions.fingerprint IS 'of what the page sells: another one replaces the page';
COMMENT ON COLUMN checkout_sessions.state IS 'open, complete or expired';

CREATE TABLE billing_operations (
    tenant_id TEXT NOT NULL,
    operation_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    request_id TEXT,
    fingerprint TEXT NOT NULL,
    prepared JSONB DEFAULT '{}'::jsonb NOT NULL,
    state TEXT NOT NULL,
    result JSONB,
    key_number INTEGER DEFAULT 1 NOT NULL,
    key_time TIMESTAMP WITH TIME ZONE NOT NULL,
    attempt TEXT,
    attempt_time TIMESTAMP WITH TIME ZONE NOT NULL,
    create_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_billing_operations PRIMARY KEY (tenant_id, operation_id),
    CONSTRAINT ck_billing_operations_state_known CHECK (state IN ('pending', 'done', 'failed'))
);
CREATE UNIQUE INDEX uq_billing_operations_pending ON billing_operations (tenant_id, account_id, kind, subject) WHERE state = 'pending';
CREATE UNIQUE INDEX uq_billing_operations_request ON billing_operations (tenant_id, account_id, request_id) WHERE request_id IS NOT NULL;
COMMENT ON COLUMN billing_operations.operation_id IS 'idempotency keys at the provider are derived from it';
COMMENT ON COLUMN billing_operations.kind IS 'create_subscription, change_plan, create_checkout_session, ...';
COMMENT ON COLUMN billing_operations.subject IS 'what it is done to: a plan and interval, or a subscription';
COMMENT ON COLUMN billing_operations.prepared IS 'what was chosen before the provider was asked, the same at every attempt';
COMMENT ON COLUMN billing_operations.state IS 'pending, done or failed';
COMMENT ON COLUMN billing_operations.key_number IS 'rises when the provider keeps answering with a failure that it saved';
COMMENT ON COLUMN billing_operations.attempt IS 'who works on it; null while nobody does';

CREATE TABLE webhook_events (
    source TEXT NOT NULL,
    event_id TEXT NOT NULL,
    sequence BIGINT GENERATED ALWAYS AS IDENTITY,
    event_type TEXT NOT NULL,
    tenant_id TEXT,
    account_id TEXT,
    state TEXT NOT NULL,
    attempt_count INTEGER DEFAULT 0 NOT NULL,
    delivery_count INTEGER DEFAULT 1 NOT NULL,
    error TEXT DEFAULT '' NOT NULL,
    next_attempt_time TIMESTAMP WITH TIME ZONE,
    api_version TEXT DEFAULT '' NOT NULL,
    api_version_mismatch BOOLEAN DEFAULT false NOT NULL,
    payload BYTEA NOT NULL,
    event_time TIMESTAMP WITH TIME ZONE,
    receive_time TIMESTAMP WITH TIME ZONE NOT NULL,
    process_time TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_webhook_events PRIMARY KEY (source, event_id),
    CONSTRAINT ck_webhook_events_source_known CHECK (source IN ('stripe', 'clerk', 'ayrshare')),
    CONSTRAINT ck_webhook_events_state_known CHECK (state IN ('pending', 'processed', 'ignored', 'retrying', 'dead'))
);
CREATE INDEX ix_webhook_events_account ON webhook_events (tenant_id, account_id, sequence);
CREATE INDEX ix_webhook_events_dead ON webhook_events (sequence) WHERE state = 'dead';
CREATE INDEX ix_webhook_events_due ON webhook_events (next_attempt_time) WHERE state IN ('pending', 'retrying');
CREATE UNIQUE INDEX uq_webhook_events_sequence ON webhook_events (sequence);
COMMENT ON COLUMN webhook_events.source IS 'stripe, clerk or ayrshare';
COMMENT ON COLUMN webhook_events.sequence IS 'order of arrival';
COMMENT ON COLUMN webhook_events.tenant_id IS 'null while unknown';
COMMENT ON COLUMN webhook_events.state IS 'pending, processed, ignored, retrying or dead';

CREATE TABLE reconciliations (
    tenant_id TEXT NOT NULL,
    provider TEXT NOT NULL,
    changed_until_time TIMESTAMP WITH TIME ZONE NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_reconciliations PRIMARY KEY (tenant_id, provider)
);

-- Who takes in webhooks finds out whom they are about, of whichever tenant; it changes nothing but webhooks.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tallygate_intake') THEN
        BEGIN
            CREATE ROLE tallygate_intake NOLOGIN NOSUPERUSER NOBYPASSRLS NOINHERIT;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END IF;
    IF NOT pg_has_role(
        current_user, 'tallygate_intake',
        CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END
    ) THEN
        GRANT tallygate_intake TO CURRENT_USER;
    END IF;
END $$;
GRANT USAGE ON SCHEMA public TO tallygate_intake;

DO $$
DECLARE
    tenant_table text;
BEGIN
    FOREACH tenant_table IN ARRAY ARRAY[
        'scheduled_changes', 'customers', 'invoices', 'payments', 'checkout_sessions', 'billing_operations',
        'reconciliations'
    ] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', tenant_table);
        EXECUTE format(
            'CREATE POLICY tenant_of_setting ON %I FOR ALL TO tallygate_app'
            ' USING (tenant_id = NULLIF(current_setting(''tallygate.tenant_id'', true), ''''))'
            ' WITH CHECK (tenant_id = NULLIF(current_setting(''tallygate.tenant_id'', true), ''''))',
            tenant_table
        );
        EXECUTE format(
            'CREATE POLICY tenant_of_setting_read ON %I FOR SELECT TO tallygate_reader'
            ' USING (tenant_id = NULLIF(current_setting(''tallygate.tenant_id'', true), ''''))',
            tenant_table
        );
        EXECUTE format('GRANT SELECT ON %I TO tallygate_reader', tenant_table);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON %I TO tallygate_app', tenant_table);
    END LOOP;
END $$;

-- Webhooks come in before anybody knows whose they are: they are the intake's, and nobody else sees them.
ALTER TABLE webhook_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE webhook_events FORCE ROW LEVEL SECURITY;
CREATE POLICY every_event ON webhook_events FOR ALL TO tallygate_intake USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE ON webhook_events TO tallygate_intake;

-- Jobs that walk every tenant ask the intake what is due, and do the work as the application.
DO $$
DECLARE
    tenant_table text;
BEGIN
    FOREACH tenant_table IN ARRAY ARRAY['tenants', 'customers', 'subscriptions', 'scheduled_changes', 'account_identities']
    LOOP
        EXECUTE format(
            'CREATE POLICY every_tenant_read ON %I FOR SELECT TO tallygate_intake USING (true)', tenant_table
        );
    END LOOP;
END $$;
GRANT SELECT (tenant_id) ON tenants TO tallygate_intake;
GRANT SELECT (tenant_id, account_id, provider, provider_customer_id) ON customers TO tallygate_intake;
GRANT SELECT (
    tenant_id, subscription_id, account_id, state, provider, provider_subscription_id, provider_customer_id,
    period_end_time, trial_end_time,
    grace_end_time, cancel_at_period_end, resume_time
) ON subscriptions TO tallygate_intake;
GRANT SELECT (tenant_id, scheduled_change_id, subscription_id, account_id, state, effective_time, provider_schedule_id)
    ON scheduled_changes TO tallygate_intake;
GRANT SELECT (tenant_id, provider, external_id, account_id) ON account_identities TO tallygate_intake;

-- A change that waits decides entitlements when its time comes.
CREATE TRIGGER changed_by_hand AFTER INSERT OR UPDATE OR DELETE ON scheduled_changes
    FOR EACH ROW EXECUTE FUNCTION note_changed_by_hand();
