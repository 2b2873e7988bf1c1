"""Gives the space of deleted rows back, so that new rows overwrite what they said."""

from __future__ import annotations

from collections.abc import Iterable

import asyncpg
import structlog

from tallygate_server.storage.engine import CONNECTION_ERRORS, connect
from tallygate_server.storage.tables import metadata

log = structlog.get_logger(__name__)


async def vacuum(database_url: str, table_names: Iterable[str]) -> bool:
    """Vacuum tables as their owner; False where that is not possible here, which is no harm."""
    try:
        connection = await connect(database_url)
    except CONNECTION_ERRORS:
        return False
    try:
        for name in table_names:
            assert name in metadata.tables, name
            # A table that somebody else is busy with is left to autovacuum.
            await connection.execute(f"VACUUM (SKIP_LOCKED) {name}")
    except (asyncpg.PostgresError, *CONNECTION_ERRORS) as error:
        log.warning("not_vacuumed", error=type(error).__name__)
        return False
    finally:
        await connection.close()
    return True
