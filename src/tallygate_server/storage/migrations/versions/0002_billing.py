"""Billing: customers, invoices, payments, webhooks, and changes of subscriptions that wait for their time."""

from __future__ import annotations

from alembic import op

from tallygate_server.storage.migrations.statements import read_statements

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the tables; what the release before writes stays valid."""
    for statement in read_statements("0002_billing.sql"):
        op.execute(statement)


def downgrade() -> None:
    """Drop what was added. The role stays: other databases of the cluster may use it."""
    for table in (
        "reconciliations",
        "webhook_events",
        "billing_operations",
        "checkout_sessions",
        "payments",
        "invoices",
        "customers",
        "scheduled_changes",
    ):
        op.execute(f"DROP TABLE {table}")
    for table in ("tenants", "subscriptions", "account_identities"):
        op.execute(f"DROP POLICY every_tenant_read ON {table}")
        op.execute(f"REVOKE ALL ON {table} FROM tallygate_intake")
    op.execute("DROP INDEX uq_subscriptions_provider_subscription")
    op.execute("DROP INDEX uq_subscriptions_live_price")
    op.execute(
        "CREATE UNIQUE INDEX uq_subscriptions_live_price"
        " ON subscriptions (tenant_id, account_id, plan_key, coalesce(interval, ''))"
        " WHERE state NOT IN ('incomplete_expired', 'canceled', 'expired')"
    )
    op.execute("ALTER TABLE subscriptions DROP COLUMN resume_time")
    op.execute("ALTER TABLE subscriptions DROP COLUMN pause_start_time")
    op.execute("REVOKE ALL ON SCHEMA public FROM tallygate_intake")
