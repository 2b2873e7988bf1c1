"""First release: all tables, roles and row-level security.

Rules for every migration: it must work while the previous release is still serving (expand, then
backfill, then contract, in separate releases); `lock_timeout` is set for the whole run; an index on a
filled table is created concurrently; the downgrade is real or says why it is not.
"""

from __future__ import annotations

from alembic import op

from tallygate_server.storage.migrations.statements import read_statements

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create everything."""
    for name in ("0001_tables.sql", "0001_access.sql"):
        for statement in read_statements(name):
            op.execute(statement)


def downgrade() -> None:
    """Drop the tables. The roles stay: other databases of the cluster may use them."""
    op.execute(
        """
        DO $$
        DECLARE
            table_name text;
        BEGIN
            FOR table_name IN
                SELECT relname FROM pg_class
                WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
                  AND relname <> 'alembic_version'
            LOOP
                EXECUTE format('DROP TABLE %I CASCADE', table_name);
            END LOOP;
        END $$
        """
    )
    op.execute("DROP SEQUENCE server_nodes")
    op.execute("DROP FUNCTION note_changed_by_hand()")
