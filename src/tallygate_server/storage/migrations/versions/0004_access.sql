-- Who keeps data small and promises about it: reads, moves and removes rows of one tenant at a time, the one in the
-- setting. With '*' in the setting it reads those of all, to find work; it never writes so.
DO $$
BEGIN
    -- A login without CREATEROLE will do where an administrator has made the role and granted it.
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tallygate_lifecycle') THEN
        BEGIN
            CREATE ROLE tallygate_lifecycle NOLOGIN NOSUPERUSER NOBYPASSRLS NOINHERIT;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END IF;
    IF NOT pg_has_role(
        current_user, 'tallygate_lifecycle',
        CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END
    ) THEN
        GRANT tallygate_lifecycle TO CURRENT_USER;
    END IF;
END $$;

GRANT USAGE ON SCHEMA public TO tallygate_lifecycle;

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
        EXECUTE format(
            'CREATE POLICY tenant_of_setting_lifecycle ON %I FOR ALL TO tallygate_lifecycle'
            ' USING (tenant_id = NULLIF(current_setting(''tallygate.tenant_id'', true), ''''))'
            ' WITH CHECK (tenant_id = NULLIF(current_setting(''tallygate.tenant_id'', true), ''''))',
            tenant_table
        );
        EXECUTE format(
            'CREATE POLICY every_tenant_to_find_work ON %I FOR SELECT TO tallygate_lifecycle'
            ' USING (current_setting(''tallygate.tenant_id'', true) = ''*'')',
            tenant_table
        );
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO tallygate_lifecycle', tenant_table);
    END LOOP;
END $$;
GRANT SELECT, INSERT ON signing_keys TO tallygate_lifecycle;
GRANT SELECT ON signing_keys TO tallygate_app;

-- Webhooks of nobody we know lie in no tenant: a transaction of no tenant removes them when they are old.
CREATE POLICY events_of_nobody ON webhook_events FOR ALL TO tallygate_lifecycle
    USING (tenant_id IS NULL AND NULLIF(current_setting('tallygate.tenant_id', true), '') IS NULL)
    WITH CHECK (false);
GRANT SELECT, INSERT, DELETE ON archived_webhook_events TO tallygate_lifecycle;
-- What was exported of the ledger is as closed to the application as the ledger.
REVOKE INSERT, UPDATE, DELETE ON usage_exports, exported_usage_sums, exported_credit_sums FROM tallygate_app;
-- Nothing is exported that is not in the rollups.
GRANT SELECT ON usage_rollup_progress TO tallygate_lifecycle;
