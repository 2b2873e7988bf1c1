"""Monthly partitions of the ledger: made ahead by migrations and by a daily job, dropped by retention."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import asyncpg
from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio import AsyncConnection

from tallygate_server.domain.period import add_months
from tallygate_server.storage.engine import connect
from tallygate_server.storage.tables import PARTITIONED_TABLES

MONTHS_AHEAD = 12
LOCK_TIMEOUT_MS: Final = 2_000
"""Making a partition locks its parent for a moment. While the lock is waited for, every commit waits behind it, so a
long query of somebody else's must not hold it up; the next run tries again."""
DROP_LOCK_TIMEOUT_MS: Final = 200
"""While a drop waits for its lock, every commit waits behind it."""
_ADVISORY_LOCK: Final = 0x7A11_96A8
_MONTHLY: Final = re.compile(r"_(\d{4})_(\d{2})")


async def create_partitions_ahead(
    connection: AsyncConnection, *, at: datetime | None = None, months_ahead: int = MONTHS_AHEAD
) -> list[str]:
    """Create each missing month's partition from the instant's month on, as owner; return the names made.

    `at` defaults to the database's clock. A default partition catches what no month covers, so an insert
    never fails for want of a partition; rows that it caught move to their month's partition when that is made.
    Several processes may do this at once. Works in the caller's transaction.
    """
    await connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
    await connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"))
    if at is None:
        at = (await connection.execute(text("SELECT now()"))).scalar_one()
    month = at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    made: list[str] = []
    for table in PARTITIONED_TABLES:
        default = f"{table.name}_default"
        if not await _exists(connection, default):
            await _create(connection, default, table, "DEFAULT")
            made.append(default)
        for index in range(months_ahead + 1):
            start, end = add_months(month, index), add_months(month, index + 1)
            name = f"{table.name}_{start:%Y_%m}"
            if await _exists(connection, name):
                continue
            await _move_out(connection, default, start, end)
            await _create(connection, name, table, f"FOR VALUES FROM ('{start.isoformat()}') TO ('{end.isoformat()}')")
            await _move_in(connection, table)
            made.append(name)
    return made


async def _exists(connection: AsyncConnection, name: str) -> bool:
    return (await connection.execute(text("SELECT to_regclass(:name)"), {"name": name})).scalar_one() is not None


async def _create(connection: AsyncConnection, name: str, table: Table, bounds: str) -> None:
    await connection.execute(text(f"CREATE TABLE {name} PARTITION OF {table.name} {bounds}"))
    # A partition reached by its own name must be as closed as its parent.
    await connection.execute(text(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY"))
    await connection.execute(text(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY"))


async def _move_out(connection: AsyncConnection, default: str, start: datetime, end: datetime) -> None:
    """Take the month's rows out of the default partition: while it has one, no partition for the month can be made."""
    # Row-level security, which holds the owner too, would hide the rows.
    await connection.execute(text(f"ALTER TABLE {default} NO FORCE ROW LEVEL SECURITY"))
    await connection.execute(text(f"CREATE TEMPORARY TABLE moving (LIKE {default}) ON COMMIT DROP"))
    await connection.execute(
        text(
            f"WITH moved AS (DELETE FROM {default} WHERE recorded_time >= :start AND recorded_time < :end RETURNING *)"  # noqa: S608 - names of our own.
            " INSERT INTO moving SELECT * FROM moved"
        ),
        {"start": start, "end": end},
    )
    await connection.execute(text(f"ALTER TABLE {default} FORCE ROW LEVEL SECURITY"))


async def _move_in(connection: AsyncConnection, table: Table) -> None:
    await connection.execute(text(f"ALTER TABLE {table.name} NO FORCE ROW LEVEL SECURITY"))
    await connection.execute(text(f"INSERT INTO {table.name} SELECT * FROM moving"))  # noqa: S608 - as above.
    await connection.execute(text(f"ALTER TABLE {table.name} FORCE ROW LEVEL SECURITY"))
    await connection.execute(text("DROP TABLE moving"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A month of a partitioned table."""

    table: str
    name: str
    start: datetime
    end: datetime


async def ended_partitions(connection: AsyncConnection, *, before: datetime) -> list[Partition]:
    """Return the partitions of months that ended at the instant or before, oldest first."""
    rows = await connection.execute(
        text("SELECT inhparent::regclass::text, inhrelid::regclass::text FROM pg_inherits ORDER BY 2")
    )
    found = []
    for table, name in rows:
        match = _MONTHLY.fullmatch(name.removeprefix(table))
        if table in {each.name for each in PARTITIONED_TABLES} and match is not None:
            start = datetime(int(match[1]), int(match[2]), 1, tzinfo=UTC)
            found.append(Partition(table=table, name=name, start=start, end=add_months(start, 1)))
    return [partition for partition in found if partition.end <= before]


async def is_empty(connection: AsyncConnection, partition: Partition) -> bool:
    """Tell whether no tenant has a row in the month; in a transaction that sees all tenants."""
    found = await connection.execute(
        text(
            f"SELECT NOT EXISTS (SELECT FROM {partition.table} WHERE recorded_time >= :start AND recorded_time < :end)"  # noqa: S608
        ),
        {"start": partition.start, "end": partition.end},
    )
    return bool(found.scalar_one())


async def drop_partition(database_url: str, partition: Partition) -> bool:
    """Drop an empty partition, as owner; False where it has rows after all, or a lock was not to be had at once.

    A partition cannot be detached beside running work while there is a default one, so the parent is locked for the
    moment that the drop takes: nobody waits longer than `DROP_LOCK_TIMEOUT_MS` for us, and we try again another time.
    """
    connection = await connect(database_url)
    try:
        # What was deleted leaves its space behind; without it the look at the table below takes no time.
        await connection.execute(f"VACUUM (TRUNCATE) {partition.name}")
        async with connection.transaction():
            if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _ADVISORY_LOCK):
                return False
            await connection.execute(f"SET LOCAL lock_timeout = {DROP_LOCK_TIMEOUT_MS}")
            await connection.execute(f"SET LOCAL statement_timeout = {DROP_LOCK_TIMEOUT_MS}")
            await connection.execute(f"LOCK TABLE {partition.table} IN ACCESS EXCLUSIVE MODE")
            # Row-level security, which holds the owner too, would hide rows.
            await connection.execute(f"ALTER TABLE {partition.name} NO FORCE ROW LEVEL SECURITY")
            if await connection.fetchval(f"SELECT EXISTS (SELECT FROM {partition.name})"):  # noqa: S608 - as above.
                await connection.execute(f"ALTER TABLE {partition.name} FORCE ROW LEVEL SECURITY")
                return False
            await connection.execute(f"DROP TABLE {partition.name}")
    except (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError, asyncpg.UndefinedTableError):
        return False
    finally:
        await connection.close()
    return True
