-- Who may touch what. Roles belong to the whole cluster, so each is created only where it is missing.
-- The login that runs migrations owns the tables; it is made a member of the others so that one database
-- URL can serve every role (a connection chooses its role when it starts).
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['tallygate_app', 'tallygate_meter', 'tallygate_reader'] LOOP
        -- A login without CREATEROLE will do where an administrator has made the roles and granted them.
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOBYPASSRLS NOINHERIT', role_name);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;
            END;
        END IF;
        -- From Postgres 16 on, who creates a role is a member that may not yet take it.
        IF NOT pg_has_role(
            current_user, role_name,
            CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END
        ) THEN
            EXECUTE format('GRANT %I TO CURRENT_USER', role_name);
        END IF;
    END LOOP;
END $$;

GRANT USAGE ON SCHEMA public TO tallygate_app, tallygate_meter, tallygate_reader;

-- Every table with a tenant_id: row-level security on and forced, one policy for the application, one for
-- readers. After a commit the setting reads as an empty string, not NULL: hence NULLIF, and no tenant's
-- rows without a setting.
DO $$
DECLARE
    tenant_table text;
BEGIN
    FOR tenant_table IN
        SELECT c.relname
        FROM pg_class c
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    LOOP
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
    END LOOP;
END $$;

-- The application: everything of its tenant but the usage tables, which it only reads.
GRANT SELECT, INSERT, UPDATE ON
    tenants, features, plans, meters, accounts, subscriptions, grants, outbox_events TO tallygate_app;
GRANT SELECT, INSERT, DELETE ON account_identities TO tallygate_app;
GRANT SELECT, INSERT ON catalog_revisions, subscription_history, audit_entries TO tallygate_app;
GRANT SELECT ON usage_counters, usage_entries, usage_requests, usage_denials TO tallygate_app;
GRANT SELECT, INSERT, DELETE ON job_runs TO tallygate_app;
GRANT SELECT, INSERT, UPDATE ON cache_epochs TO tallygate_app;

-- The group commit: one transaction for many tenants, on the usage tables and nothing else.
DO $$
DECLARE
    usage_table text;
BEGIN
    FOREACH usage_table IN ARRAY ARRAY['usage_counters', 'usage_entries', 'usage_requests', 'usage_denials'] LOOP
        EXECUTE format(
            'CREATE POLICY every_tenant ON %I FOR ALL TO tallygate_meter USING (true) WITH CHECK (true)', usage_table
        );
    END LOOP;
END $$;
GRANT SELECT, INSERT, UPDATE ON usage_counters TO tallygate_meter;
GRANT SELECT, INSERT ON usage_entries, usage_denials TO tallygate_meter;
GRANT SELECT, INSERT, DELETE ON usage_requests TO tallygate_meter;

-- Numbers the server processes: the middle part of ledger entry ids.
CREATE SEQUENCE server_nodes AS bigint;
GRANT USAGE ON SEQUENCE server_nodes TO tallygate_meter;

-- Rows that decide entitlements, when somebody changes them by hand: the account's revision rises all the
-- same, and the servers are told to forget it. The service's own changes raise revisions themselves and say
-- so in a setting.
CREATE FUNCTION note_changed_by_hand() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed record;
BEGIN
    IF current_setting('tallygate.change', true) = 'own' THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'DELETE' THEN
        changed := OLD;
    ELSE
        changed := NEW;
    END IF;
    UPDATE accounts SET revision = revision + 1
    WHERE tenant_id = changed.tenant_id AND account_id = changed.account_id;
    PERFORM pg_notify('tallygate_changed', changed.tenant_id || '/' || changed.account_id);
    RETURN NULL;
END $$;

CREATE TRIGGER changed_by_hand AFTER INSERT OR UPDATE OR DELETE ON subscriptions
    FOR EACH ROW EXECUTE FUNCTION note_changed_by_hand();
CREATE TRIGGER changed_by_hand AFTER INSERT OR UPDATE OR DELETE ON grants
    FOR EACH ROW EXECUTE FUNCTION note_changed_by_hand();
CREATE TRIGGER changed_by_hand AFTER UPDATE OF state, time_zone ON accounts
    FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state OR OLD.time_zone IS DISTINCT FROM NEW.time_zone)
    EXECUTE FUNCTION note_changed_by_hand();
