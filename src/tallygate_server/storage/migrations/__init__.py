"""Schema migrations: expand, backfill, contract; run by `tallygate migrate`, or at start when embedded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from tallygate_server.storage.engine import owner_engine
from tallygate_server.storage.partitions import create_partitions_ahead

LOCK_TIMEOUT_MS = 4_000
# Serialises concurrent `migrate` runs; any constant will do, as long as nobody else uses it.
_ADVISORY_LOCK = 0x7A11_96A7
_LOOK_SECONDS = 0.1
"""Pause between two looks whether another migration has ended."""


async def upgrade(database_url: str, revision: str = "head") -> None:
    """Bring the schema to the revision and make the ledger's partitions; safe to run from many processes."""
    await _run(database_url, lambda config: command.upgrade(config, revision))


async def downgrade(database_url: str, revision: str) -> None:
    """Take the schema back to the revision (`base` for an empty database)."""
    await _run(database_url, lambda config: command.downgrade(config, revision), partitions=False)


async def current_and_head(database_url: str) -> tuple[str | None, str]:
    """Return the database's revision (None: not migrated) and the newest one that this release knows."""
    engine = owner_engine(database_url)
    try:
        async with engine.connect() as connection:
            current = await connection.run_sync(lambda sync: MigrationContext.configure(sync).get_current_revision())
    finally:
        await engine.dispose()
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return current, head


async def _lock(connection: AsyncConnection) -> None:
    """Wait for another migration however long it takes.

    Between two looks no transaction is open: one that waited inside would be waited for, in turn, by an index that the
    other migration builds concurrently.
    """
    while True:
        taken = (await connection.execute(text(f"SELECT pg_try_advisory_lock({_ADVISORY_LOCK})"))).scalar_one()
        await connection.commit()
        if taken:
            return
        await asyncio.sleep(_LOOK_SECONDS)


async def _run(database_url: str, run: Callable[[Config], None], *, partitions: bool = True) -> None:
    engine = owner_engine(database_url)
    try:
        async with engine.connect() as connection:
            await _lock(connection)
            await connection.execute(text(f"SET lock_timeout = {LOCK_TIMEOUT_MS}"))
            await connection.commit()
            await connection.run_sync(lambda sync: _with_config(sync, run))
            await connection.commit()
            if partitions:
                await create_partitions_ahead(connection)
                await connection.commit()
    finally:
        await engine.dispose()


def _with_config(connection: Connection, run: Callable[[Config], None]) -> None:
    config = _config()
    config.attributes["connection"] = connection
    run(config)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config
