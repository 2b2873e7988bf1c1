"""The ledger's monthly partitions are made ahead, also when rows came before their partition."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from tallygate_server.storage import migrations
from tallygate_server.storage.engine import DatabaseRole, connect, owner_engine
from tallygate_server.storage.partitions import create_partitions_ahead
from tallygate_server.storage.tables import PARTITIONED_TABLES
from tallygate_server.workers.ledger_upkeep import make_partitions
from tests.support.acme import an_increment, assert_books_balance, fetch, outcome_of, services
from tests.support.clock import FrozenClock

FAR = datetime(2031, 5, 17, 12, tzinfo=UTC)
TABLES = [table.name for table in PARTITIONED_TABLES]


@pytest.fixture
async def owner(fresh_database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(fresh_database)
    yield connection
    await connection.close()


async def partitions(connection: asyncpg.Connection, table: str = "usage_entries") -> list[str]:
    rows = await connection.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = $1::regclass ORDER BY 1", table
    )
    return [row["name"] for row in rows]


async def make(database_url: str, at: datetime, months_ahead: int = 2) -> list[str]:
    engine = owner_engine(database_url)
    try:
        async with engine.begin() as connection:
            return await create_partitions_ahead(connection, at=at, months_ahead=months_ahead)
    finally:
        await engine.dispose()


async def test_a_year_is_made_ahead_by_the_migrations(empty_database: str) -> None:
    await migrations.upgrade(empty_database)

    connection = await asyncpg.connect(empty_database)
    try:
        this_month = (await connection.fetchval("SELECT now()")).strftime("%Y_%m")
        for table in TABLES:
            names = await partitions(connection, table)
            assert f"{table}_default" in names
            assert f"{table}_{this_month}" in names
            assert len(names) == 14
    finally:
        await connection.close()


async def test_what_is_missing_is_made_once(fresh_database: str, owner: asyncpg.Connection) -> None:
    made = await make(fresh_database, FAR)
    again = await make(fresh_database, FAR)

    assert made == [f"{table}_2031_{month:02}" for table in TABLES for month in (5, 6, 7)]
    assert again == []
    assert set(made[:3]) <= set(await partitions(owner))


async def test_a_new_partition_is_as_closed_as_its_parent(fresh_database: str, owner: asyncpg.Connection) -> None:
    made = await make(fresh_database, FAR)

    for name in [*made, *TABLES, *(f"{table}_default" for table in TABLES)]:
        row = await owner.fetchrow(
            "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = $1::regclass", name
        )
        assert tuple(row) == (True, True), name
    for role in DatabaseRole:
        connection = await connect(fresh_database, role)
        try:
            for name in made:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.fetch(f"SELECT * FROM {name}")
        finally:
            await connection.close()


async def test_rows_that_came_before_their_partition_move_into_it(acme_database: str, fresh_redis: str) -> None:
    """The default partition catches them, and must not keep the month's partition from being made."""
    clock = FrozenClock(FAR)
    async with services(acme_database, fresh_redis, clock=clock) as [service]:
        for _ in range(5):
            await outcome_of(service, an_increment("ten", 2, request_id=f"r{clock.now_ms()}"))
            await outcome_of(service, an_increment("none", request_id=f"d{clock.now_ms()}"))
            clock.advance(timedelta(days=20))
    everything = await fetch(acme_database, "SELECT * FROM usage_entries ORDER BY entry_id")
    before = await fetch(acme_database, "SELECT tableoid::regclass::text AS part FROM usage_entries")

    made = await make(acme_database, FAR, months_ahead=6)

    after = await fetch(acme_database, "SELECT tableoid::regclass::text AS part FROM usage_entries ORDER BY entry_id")
    denials = await fetch(acme_database, "SELECT tableoid::regclass::text AS part FROM usage_denials")
    assert len(made) == 7 * len(TABLES)
    assert {row["part"] for row in before} == {"usage_entries_default"}
    assert [row["part"] for row in after] == [
        "usage_entries_2031_05",
        "usage_entries_2031_06",
        "usage_entries_2031_06",
        "usage_entries_2031_07",
        "usage_entries_2031_08",
    ]
    assert await fetch(acme_database, "SELECT * FROM usage_entries ORDER BY entry_id") == everything
    assert "usage_denials_default" not in {row["part"] for row in denials}
    await assert_books_balance(acme_database)


async def test_two_processes_make_them_at_once(fresh_database: str) -> None:
    made = await asyncio.gather(*(make(fresh_database, FAR, months_ahead=3) for _ in range(4)))

    assert sorted(name for names in made for name in names) == sorted(
        f"{table}_2031_{month:02}" for table in TABLES for month in (5, 6, 7, 8)
    )


async def test_a_long_query_of_somebody_else_is_not_waited_for(fresh_database: str, owner: asyncpg.Connection) -> None:
    """While the lock is waited for, every commit waits behind it: the job gives up and comes again."""
    async with owner.transaction():
        await owner.execute("SELECT count(*) FROM usage_entries")

        with pytest.raises(Exception, match="lock timeout"):
            await make(fresh_database, FAR)

    assert await make(fresh_database, FAR)


async def test_the_job_tells_what_it_made(fresh_database: str) -> None:
    # The database is copied from one that may have been made last month.
    await make_partitions(fresh_database, 12)
    assert await make_partitions(fresh_database, 12) == {}

    detail = await make_partitions(fresh_database, 13)

    assert len(detail["partitions_made"]) == len(TABLES)
