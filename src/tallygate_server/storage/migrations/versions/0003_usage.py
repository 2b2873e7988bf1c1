"""Usage in depth: reservations, meters, grants, rollups, events, history."""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

from tallygate_server.storage.migrations.statements import read_statements

revision = "0003"
down_revision = "0002"

_FILES = (
    "0003_counting.sql",
    "0003_grants.sql",
    "0003_history.sql",
    "0003_recording.sql",
    "0003_rollups.sql",
    "0003_events.sql",
    "0003_catalog.sql",
)
_TENANT_TABLES = (
    "reservations",
    "grant_balances",
    "account_revisions",
    "usage_series",
    "usage_rollups",
    "usage_rollup_values",
    "model_prices",
    "usage_events",
    "usage_event_keys",
)
"""New ones: each is closed to other tenants."""


def upgrade() -> None:
    """Add the tables and columns; what the release before writes stays valid."""
    for name in _FILES:
        for statement in read_statements(name):
            op.execute(statement)
    for table in _TENANT_TABLES:
        _close(table)
    _index_entries_concurrently()


def downgrade() -> None:
    """Drop what was added. What was recorded in it is lost."""
    for table in reversed(_TENANT_TABLES):
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP POLICY every_tenant ON outbox_events")
    op.execute("REVOKE ALL ON outbox_events FROM tallygate_meter")
    op.execute("DROP TABLE usage_rollup_progress")
    op.execute("DROP INDEX ix_usage_entries_commit_xid")
    op.execute("DROP INDEX uq_grants_request")
    op.execute("DROP INDEX ix_grants_expiring")
    for table, columns in {
        "usage_counters": (
            "reserved_quantity",
            "reserve_expire_time",
            "peak_quantity",
            "credited_quantity",
            "rolled_in_quantity",
            "rolled_out_quantity",
        ),
        "usage_entries": (
            "kind",
            "plan_key",
            "reservation_id",
            "reversed_entry_id",
            "reason_text",
            "actor",
            "credits",
            "commit_xid",
        ),
        "usage_requests": ("answer",),
        "grants": (
            '"limit"',
            "recurrence",
            "rollover",
            "metadata",
            "request_id",
            "fingerprint",
            "revoke_reason",
            "notice_time",
        ),
        "tenants": ("settings",),
        "features": ("meter_key",),
    }.items():
        op.execute(f"ALTER TABLE {table} " + ", ".join(f"DROP COLUMN {column}" for column in columns))
    op.execute("COMMENT ON COLUMN grants.kind IS 'bonus, override, enable or disable'")


def _close(table: str) -> None:
    """Let the application and readers see the rows of their tenant only, as in the first release's migration."""
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
    own = "tenant_id = NULLIF(current_setting('tallygate.tenant_id', true), '')"
    op.execute(f"CREATE POLICY tenant_of_setting ON {table} FOR ALL TO tallygate_app USING ({own}) WITH CHECK ({own})")
    op.execute(f"CREATE POLICY tenant_of_setting_read ON {table} FOR SELECT TO tallygate_reader USING ({own})")
    op.execute(f"GRANT SELECT ON {table} TO tallygate_reader")


def _index_entries_concurrently() -> None:
    """Index the ledger by transaction without keeping anybody from writing: partition by partition."""
    partitions = [
        row[0]
        for row in op.get_bind().execute(
            text(
                "SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid"
                " WHERE i.inhparent = 'usage_entries'::regclass ORDER BY c.relname"
            )
        )
    ]
    op.execute("CREATE INDEX ix_usage_entries_commit_xid ON ONLY usage_entries (commit_xid)")
    with op.get_context().autocommit_block():
        for partition in partitions:
            # What an attempt before this one left behind may be half an index.
            op.execute(f"DROP INDEX IF EXISTS {partition}_commit_xid_idx")
            op.execute(f"CREATE INDEX CONCURRENTLY {partition}_commit_xid_idx ON {partition} (commit_xid)")
    for partition in partitions:
        op.execute(f"ALTER INDEX ix_usage_entries_commit_xid ATTACH PARTITION {partition}_commit_xid_idx")
