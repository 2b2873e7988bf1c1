-- Events are told to tenants: in one order, to watchers and to endpoints of theirs.
ALTER TABLE outbox_events
    ADD COLUMN sequence BIGINT,
    ADD COLUMN public_type TEXT;
COMMENT ON COLUMN outbox_events.sequence IS 'position among all events, given when it is published; none: not for tenants';
COMMENT ON COLUMN outbox_events.public_type IS 'type as tenants know it';

-- Whoever publishes holds this row until the commit, so that sequences become visible in their order.
CREATE TABLE outbox_position (
    single BOOLEAN NOT NULL,
    last_sequence BIGINT NOT NULL,
    CONSTRAINT pk_outbox_position PRIMARY KEY (single),
    CONSTRAINT ck_outbox_position_single_row CHECK (single)
);
INSERT INTO outbox_position (single, last_sequence) VALUES (true, 0);

CREATE TABLE outbox_horizons (
    tenant_id TEXT NOT NULL,
    sequence BIGINT NOT NULL,
    CONSTRAINT pk_outbox_horizons PRIMARY KEY (tenant_id)
);
COMMENT ON COLUMN outbox_horizons.sequence IS 'of the newest event that is no longer kept';

CREATE TABLE webhook_endpoints (
    tenant_id TEXT NOT NULL,
    endpoint_id TEXT NOT NULL,
    url TEXT NOT NULL,
    event_types TEXT[] DEFAULT '{}' NOT NULL,
    description TEXT DEFAULT '' NOT NULL,
    disabled BOOLEAN DEFAULT false NOT NULL,
    disable_reason TEXT DEFAULT '' NOT NULL,
    failure_count INTEGER DEFAULT 0 NOT NULL,
    failing_since_time TIMESTAMP WITH TIME ZONE,
    retry_time TIMESTAMP WITH TIME ZONE,
    success_time TIMESTAMP WITH TIME ZONE,
    secret TEXT NOT NULL,
    old_secret TEXT DEFAULT '' NOT NULL,
    old_secret_expire_time TIMESTAMP WITH TIME ZONE,
    request_id TEXT,
    fingerprint TEXT,
    create_time TIMESTAMP WITH TIME ZONE NOT NULL,
    update_time TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_webhook_endpoints PRIMARY KEY (tenant_id, endpoint_id)
);
CREATE UNIQUE INDEX uq_webhook_endpoints_request ON webhook_endpoints (tenant_id, request_id)
    WHERE request_id IS NOT NULL;
COMMENT ON COLUMN webhook_endpoints.failure_count IS 'attempts that failed one after another';
COMMENT ON COLUMN webhook_endpoints.retry_time IS 'nothing is attempted before, while it fails';

CREATE TABLE webhook_deliveries (
    tenant_id TEXT NOT NULL,
    delivery_id BIGINT GENERATED ALWAYS AS IDENTITY,
    endpoint_id TEXT NOT NULL,
    event_id BIGINT NOT NULL,
    event_type TEXT NOT NULL,
    state TEXT NOT NULL,
    attempt_count INTEGER DEFAULT 0 NOT NULL,
    http_status INTEGER DEFAULT 0 NOT NULL,
    error TEXT DEFAULT '' NOT NULL,
    next_attempt_time TIMESTAMP WITH TIME ZONE,
    create_time TIMESTAMP WITH TIME ZONE NOT NULL,
    end_time TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_webhook_deliveries PRIMARY KEY (tenant_id, delivery_id),
    CONSTRAINT ck_webhook_deliveries_state_known CHECK (state IN ('pending', 'delivered', 'failed'))
);
CREATE INDEX ix_webhook_deliveries_due ON webhook_deliveries (tenant_id, endpoint_id, next_attempt_time, delivery_id)
    WHERE state = 'pending';
CREATE INDEX ix_webhook_deliveries_endpoint ON webhook_deliveries (tenant_id, endpoint_id, delivery_id);
CREATE INDEX ix_webhook_deliveries_event ON webhook_deliveries (tenant_id, event_id);
CREATE INDEX ix_webhook_deliveries_create_time ON webhook_deliveries (create_time);
COMMENT ON COLUMN webhook_deliveries.state IS 'pending, delivered or failed';
COMMENT ON COLUMN webhook_deliveries.next_attempt_time IS 'of one that is being attempted: when its lease ends';

-- Who publishes and delivers sees the events of every tenant, and nothing else of them.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tallygate_outbox') THEN
        BEGIN
            CREATE ROLE tallygate_outbox NOLOGIN NOSUPERUSER NOBYPASSRLS NOINHERIT;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END IF;
    IF NOT pg_has_role(
        current_user, 'tallygate_outbox',
        CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END
    ) THEN
        GRANT tallygate_outbox TO CURRENT_USER;
    END IF;
END $$;
GRANT USAGE ON SCHEMA public TO tallygate_outbox;
DO $$
DECLARE
    tenant_table text;
BEGIN
    FOREACH tenant_table IN ARRAY ARRAY[
        'outbox_events', 'outbox_horizons', 'webhook_endpoints', 'webhook_deliveries'
    ] LOOP
        EXECUTE format(
            'CREATE POLICY every_tenant_of_outbox ON %I FOR ALL TO tallygate_outbox USING (true) WITH CHECK (true)',
            tenant_table
        );
    END LOOP;
END $$;
GRANT SELECT, DELETE ON outbox_events TO tallygate_outbox;
GRANT UPDATE (sequence, public_type, publish_time) ON outbox_events TO tallygate_outbox;
GRANT INSERT (tenant_id, type, account_id, revision, payload, create_time) ON outbox_events TO tallygate_outbox;
GRANT SELECT, UPDATE ON outbox_position TO tallygate_outbox;
GRANT SELECT ON outbox_position TO tallygate_app;
GRANT SELECT, INSERT, UPDATE ON outbox_horizons TO tallygate_outbox;
GRANT SELECT ON outbox_horizons TO tallygate_app;
GRANT SELECT ON webhook_endpoints TO tallygate_outbox;
GRANT UPDATE (
    disabled, disable_reason, failure_count, failing_since_time, retry_time, success_time, update_time
) ON webhook_endpoints TO tallygate_outbox;
GRANT SELECT, INSERT, UPDATE, DELETE ON webhook_endpoints TO tallygate_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON webhook_deliveries TO tallygate_outbox;
GRANT SELECT, INSERT, UPDATE, DELETE ON webhook_deliveries TO tallygate_app;
