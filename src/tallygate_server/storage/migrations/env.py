"""Alembic's entry: runs on the connection that `migrations.upgrade` hands over."""

from __future__ import annotations

from alembic import context

from tallygate_server.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
