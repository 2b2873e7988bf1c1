"""Data lifecycle: records in tiers, policies, jobs, value, privacy."""

from __future__ import annotations

from alembic import op

from tallygate_server.storage.migrations.statements import read_statements

revision = "0004"
down_revision = "0003"

_FILES = (
    "0004_records.sql",
    "0004_policies.sql",
    "0004_jobs.sql",
    "0004_value.sql",
    "0004_privacy.sql",
    "0004_own_data.sql",
)
_TENANT_TABLES = (
    "data_keys",
    "datasets",
    "data_segments",
    "data_payloads",
    "stored_objects",
    "data_record_ids",
    "data_replaced_records",
    "data_segment_reads",
    "data_requests",
    "retention_policies",
    "legal_holds",
    "lifecycle_jobs",
    "storage_days",
    "storage_removals",
    "value_weights",
    "data_plans",
    "data_plan_steps",
    "consents",
    "erasure_receipts",
    "account_exports",
    "erased_usage_totals",
    "usage_exports",
    "exported_usage_sums",
    "exported_credit_sums",
)
"""New ones: each is closed to other tenants."""


def upgrade() -> None:
    """Add the tables; what the release before writes stays valid."""
    for name in _FILES:
        for statement in read_statements(name):
            op.execute(statement)
    for table in _TENANT_TABLES:
        _close(table)
    for statement in read_statements("0004_access.sql"):
        op.execute(statement)


def downgrade() -> None:
    """Drop what was added. Records put since are lost, and so are consents, receipts and what was archived."""
    op.execute(
        """
        DO $$
        DECLARE
            tenant_table text;
        BEGIN
            FOR tenant_table IN SELECT polrelid::regclass::text FROM pg_policy
                WHERE polname = 'tenant_of_setting_lifecycle'
            LOOP
                EXECUTE format('DROP POLICY tenant_of_setting_lifecycle ON %s', tenant_table);
                EXECUTE format('DROP POLICY every_tenant_to_find_work ON %s', tenant_table);
                EXECUTE format('REVOKE ALL ON %s FROM tallygate_lifecycle', tenant_table);
            END LOOP;
        END $$
        """
    )
    op.execute("REVOKE SELECT ON usage_rollup_progress FROM tallygate_lifecycle")
    op.execute("DROP POLICY events_of_nobody ON webhook_events")
    op.execute("REVOKE ALL ON SCHEMA public FROM tallygate_lifecycle")
    for table in reversed(_TENANT_TABLES):
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP TABLE signing_keys")
    op.execute("DROP TABLE archived_webhook_events")


def _close(table: str) -> None:
    """Let the application and readers see the rows of their tenant only, as in the first release's migration."""
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    own = "tenant_id = NULLIF(current_setting('tallygate.tenant_id', true), '')"
    op.execute(f"CREATE POLICY tenant_of_setting ON {table} FOR ALL TO tallygate_app USING ({own}) WITH CHECK ({own})")
    op.execute(f"CREATE POLICY tenant_of_setting_read ON {table} FOR SELECT TO tallygate_reader USING ({own})")
    op.execute(f"GRANT SELECT ON {table} TO tallygate_reader")
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO tallygate_app")
