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
    "0003_corrections.sql",
)
_TENANT_TABLES = (
    "reservations",
    "grant_balances",
    "grant_requests",
    "account_revisions",
    "outbox_horizons",
    "webhook_endpoints",
    "webhook_deliveries",
    "usage_series",
    "usage_rollups",
    "usage_rollup_values",
    "model_prices",
    "usage_events",
    "usage_event_keys",
)
"""New ones: each is closed to other tenants."""
_ENDPOINT_COLUMNS_READ = (
    "tenant_id, endpoint_id, url, event_types, description, disabled, disable_reason, failure_count,"
    " failing_since_time, retry_time, success_time, old_secret_expire_time, request_id, create_time, update_time"
)
_OUTBOX_INDEXES = {
    "ix_outbox_events_waiting": "INDEX {} ON outbox_events (event_id) WHERE publish_time IS NULL",
    "uq_outbox_events_sequence": "UNIQUE INDEX {} ON outbox_events (sequence) WHERE sequence IS NOT NULL",
    "ix_outbox_events_tenant_sequence": ("INDEX {} ON outbox_events (tenant_id, sequence) WHERE sequence IS NOT NULL"),
    "ix_outbox_events_account_sequence": (
        "INDEX {} ON outbox_events (tenant_id, account_id, sequence) WHERE sequence IS NOT NULL"
    ),
    "ix_outbox_events_publish_time": "INDEX {} ON outbox_events (publish_time) WHERE publish_time IS NOT NULL",
}


def upgrade() -> None:
    """Add the tables and columns; what the release before writes stays valid."""
    for name in _FILES:
        for statement in read_statements(name):
            op.execute(statement)
    for table in _TENANT_TABLES:
        _close(table)
    # Secrets are for those who sign with them.
    op.execute("REVOKE SELECT ON webhook_endpoints FROM tallygate_reader")
    op.execute(f"GRANT SELECT ({_ENDPOINT_COLUMNS_READ}) ON webhook_endpoints TO tallygate_reader")
    _index_entries_concurrently()
    _index_outbox_concurrently()


def downgrade() -> None:
    """Drop what was added. What was recorded in it is lost."""
    for table in reversed(_TENANT_TABLES):
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP POLICY every_tenant ON audit_entries")
    op.execute("REVOKE ALL ON audit_entries FROM tallygate_meter")
    op.execute("DROP INDEX ix_usage_entries_reversed_entry_id")
    op.execute("DROP TABLE outbox_position")
    op.execute("DROP POLICY every_tenant_of_outbox ON outbox_events")
    op.execute("REVOKE ALL ON outbox_events FROM tallygate_outbox")
    op.execute("REVOKE ALL ON SCHEMA public FROM tallygate_outbox")
    for name in _OUTBOX_INDEXES:
        op.execute(f"DROP INDEX {name}")
    op.execute(
        "CREATE INDEX ix_outbox_events_unpublished ON outbox_events (tenant_id, event_id) WHERE publish_time IS NULL"
    )
    op.execute("DROP POLICY every_tenant ON outbox_events")
    op.execute("REVOKE ALL ON outbox_events FROM tallygate_meter")
    op.execute("DROP TABLE usage_rollup_progress")
    op.execute("DROP INDEX ix_usage_entries_commit_xid")
    op.execute("DROP INDEX ix_grants_newest")
    op.execute("DROP INDEX ix_grants_expiring")
    op.execute("DROP POLICY every_tenant_read ON grants")
    op.execute(
        "REVOKE SELECT (tenant_id, account_id, grant_id, start_time, expire_time, revoke_time)"
        " ON grants FROM tallygate_intake"
    )
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
            "revoke_reason",
            "notice_time",
        ),
        "tenants": ("settings",),
        "features": ("meter_key",),
        "outbox_events": ("sequence", "public_type"),
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


_ENTRY_INDEXES = {
    "commit_xid": "(commit_xid)",
    # Of few lines: most are never reversed.
    "reversed_entry_id": "(tenant_id, account_id, reversed_entry_id) WHERE reversed_entry_id IS NOT NULL",
}


def _index_entries_concurrently() -> None:
    """Index the ledger by transaction and reversal without keeping anybody from writing: partition by partition."""
    partitions = [
        row[0]
        for row in op.get_bind().execute(
            text(
                "SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid"
                " WHERE i.inhparent = 'usage_entries'::regclass ORDER BY c.relname"
            )
        )
    ]
    for column, definition in _ENTRY_INDEXES.items():
        op.execute(f"CREATE INDEX ix_usage_entries_{column} ON ONLY usage_entries {definition}")
    with op.get_context().autocommit_block():
        for partition in partitions:
            for column, definition in _ENTRY_INDEXES.items():
                # What an attempt before this one left behind may be half an index.
                op.execute(f"DROP INDEX IF EXISTS {partition}_{column}_idx")
                op.execute(f"CREATE INDEX CONCURRENTLY {partition}_{column}_idx ON {partition} {definition}")
    for partition in partitions:
        for column in _ENTRY_INDEXES:
            op.execute(f"ALTER INDEX ix_usage_entries_{column} ATTACH PARTITION {partition}_{column}_idx")


def _index_outbox_concurrently() -> None:
    """Index the outbox by what a publisher and watchers ask for, without keeping anybody from writing to it."""
    with op.get_context().autocommit_block():
        for name, definition in _OUTBOX_INDEXES.items():
            op.execute(f"DROP INDEX IF EXISTS {name}")
            op.execute("CREATE " + definition.format(f"CONCURRENTLY {name}"))
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_outbox_events_unpublished")
