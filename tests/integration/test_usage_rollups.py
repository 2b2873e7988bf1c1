"""Queries equal a recount of raw rows: before, while and after the rollups are made, whoever writes meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from sqlalchemy import text

from tallygate_server.domain.usage_windows import WindowSize
from tallygate_server.errors import StoreUnavailable
from tallygate_server.rollups import RollUp, UsageQuery, UsageSums
from tallygate_server.storage import rollups
from tallygate_server.storage.engine import Database, DatabaseRole, connect
from tallygate_server.storage.rollups import Rollups, RollupSource
from tallygate_server.storage.usage_sums import Subject
from tests.support.eventually import eventually
from tests.support.usage_rows import (
    AGGREGATIONS,
    STUDIO,
    UsageRow,
    a_query,
    apply_catalog,
    assert_equal,
    usage_sums,
    write_rows,
)

FIRST = datetime(2026, 3, 1, tzinfo=UTC)
ZONES = ("", "UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe")
SUBJECTS = [
    (Subject.FEATURE, "tokens"),
    (Subject.FEATURE, "seats"),
    *((Subject.METER, key) for key in AGGREGATIONS),
    (Subject.AI_COST, ""),
]
MODELS = ("small", "large", "")
REGIONS = ("eu", "us")
ACCOUNTS = ("ann", "bob", "cem", "dee")


class Books:
    """A database, what was written to it, and who rolls it up."""

    def __init__(self, url: str, sums: UsageSums) -> None:
        self.url = url
        self.sums = sums
        self.rows: list[UsageRow] = []
        """Those that are committed."""

    async def write(self, rows: Sequence[UsageRow]) -> None:
        """Commit the rows."""
        connection = await connect(self.url, DatabaseRole.METER)
        try:
            async with connection.transaction():
                await write_rows(connection, rows)
        finally:
            await connection.close()
        self.rows += rows

    async def roll_up(self, batch_rows: int = 1_000_000) -> dict[str, int]:
        """Let a job run once."""
        under_test = Rollups(self.url, batch_rows=batch_rows)
        try:
            return await RollUp(under_test).run()
        finally:
            await under_test.close()

    async def roll_up_all(self) -> None:
        """Roll up until nothing raw is left; what else runs in the cluster may keep it waiting."""

        async def nothing_left() -> bool:
            await self.roll_up()
            return await self.left() == 0

        await eventually(nothing_left)

    async def left(self) -> int:
        """Count the rows that are not in rollups yet."""
        connection = await connect(self.url, DatabaseRole.METER)
        try:
            count: int = await connection.fetchval(
                "SELECT (SELECT count(*) FROM usage_entries WHERE commit_xid >= (SELECT next_xid"
                " FROM usage_rollup_progress WHERE source = 'entries')) + (SELECT count(*) FROM usage_events"
                " WHERE commit_xid >= (SELECT next_xid FROM usage_rollup_progress WHERE source = 'events'))"
            )
        finally:
            await connection.close()
        return count

    async def check(self, queries: Sequence[UsageQuery]) -> None:
        """Compare every answer with a recount."""
        for query in queries:
            await assert_equal(self.sums, self.rows, query)


@pytest.fixture
async def books(fresh_database: str) -> AsyncIterator[Books]:
    await apply_catalog(fresh_database)
    async with usage_sums(fresh_database) as sums:
        yield Books(fresh_database, sums)


def some_rows(rng: random.Random, count: int) -> list[UsageRow]:
    """Draw rows of every subject, some in the same minute, some a day around the clock change of March."""
    rows = []
    for _ in range(count):
        subject, key = rng.choice(SUBJECTS)
        if rng.random() < 0.3:
            at = datetime(2026, 3, 29, 1, tzinfo=UTC) + timedelta(seconds=rng.randint(-7200, 7200))
        else:
            at = FIRST + timedelta(seconds=rng.randint(-86_400, 33 * 86_400), microseconds=rng.randint(0, 999_999))
        dimensions = {}
        if rng.random() < 0.8:
            dimensions["model"] = rng.choice(MODELS)
        if rng.random() < 0.5:
            dimensions["region"] = rng.choice(REGIONS)
        if subject is Subject.AI_COST:
            dimensions = {
                "currency_code": rng.choice(("USD", "EUR")),
                "model": rng.choice(MODELS),
                "operation": rng.choice(REGIONS),
            }
        unique = subject is Subject.METER and key == "unique"
        # Reversals and gauges going down are negative lines.
        quantity = 0 if unique else 1 if key == "count" else rng.randint(-50, 1_000)
        rows.append(
            UsageRow(
                subject=subject,
                subject_key=key,
                account_id=rng.choice(ACCOUNTS),
                event_time=at,
                quantity=quantity,
                value=rng.choice("abcdefgh") if unique else None,
                dimensions=dimensions,
            )
        )
    return rows


def some_queries(rng: random.Random, count: int) -> list[UsageQuery]:
    """Draw queries of every shape, without end times that are not said."""
    queries = []
    for index in range(count):
        subject, key = SUBJECTS[index % len(SUBJECTS)]
        size = rng.choice([None, *WindowSize])
        start = FIRST + timedelta(seconds=rng.randint(-90_000, 30 * 86_400), microseconds=rng.choice((0, 7)))
        length = {
            None: timedelta(seconds=rng.randint(1, 40 * 86_400)),
            WindowSize.MINUTE: timedelta(seconds=rng.randint(1, 40 * 86_400)),
            WindowSize.HOUR: timedelta(hours=rng.randint(1, 900)),
        }.get(size, timedelta(days=rng.randint(1, 60)))
        names = ["model", "operation", "currency_code"] if subject is Subject.AI_COST else ["model", "region", "other"]
        group_by = rng.sample([*names, "account_id"], rng.randint(0, 4))
        filters = []
        if rng.random() < 0.4:
            filters.append(("model", tuple(rng.sample(MODELS, rng.randint(1, 2)))))
        if rng.random() < 0.2:
            filters.append(("account_id", ("ann", "bob", "nobody")))
        queries.append(
            a_query(
                subject=subject,
                subject_key=key,
                start=start,
                end=start + length,
                window_size=size,
                time_zone=rng.choice(ZONES),
                account_ids=tuple(rng.sample(ACCOUNTS, 2)) if rng.random() < 0.3 else (),
                group_by=tuple(group_by),
                filters=tuple(filters),
                top_count=rng.choice((0, 0, 1, 2, 5)),
                limit=rng.choice((3, 50, 1_000)),
            )
        )
    return queries


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_answers_equal_a_recount_at_every_stage(books: Books, seed: int) -> None:
    rng = random.Random(seed)

    await books.write(some_rows(rng, 150))
    await books.check(some_queries(rng, 15))
    open_writer = await connect(books.url, DatabaseRole.METER)
    try:
        # An older transaction that commits late, with rows of the same minutes.
        transaction = open_writer.transaction()
        await transaction.start()
        late = some_rows(rng, 60)
        await write_rows(open_writer, late)
        await books.write(some_rows(rng, 80))
        await books.roll_up(batch_rows=40)
        await books.check(some_queries(rng, 15))
        await books.write(some_rows(rng, 40))
        await transaction.commit()
        books.rows += late
    finally:
        await open_writer.close()
    await books.check(some_queries(rng, 15))
    await books.roll_up(batch_rows=25)
    await books.check(some_queries(rng, 15))
    await books.write(some_rows(rng, 100))
    await asyncio.gather(*(books.roll_up(batch_rows=10) for _ in range(3)))
    await books.check(some_queries(rng, 15))
    await books.roll_up_all()
    await books.check(some_queries(rng, 40))


async def test_an_older_transaction_that_commits_later_is_not_lost(books: Books) -> None:
    first, second = (an_entry(quantity=quantity) for quantity in (1, 10))
    open_writer = await connect(books.url, DatabaseRole.METER)
    try:
        transaction = open_writer.transaction()
        await transaction.start()
        await write_rows(open_writer, [first])
        await books.write([second])

        rolled_up = await books.roll_up()
        before = await books.sums.query(a_query())
        await transaction.commit()
    finally:
        await open_writer.close()
    after = await books.sums.query(a_query())
    await books.roll_up_all()
    settled = await books.sums.query(a_query())

    assert rolled_up == {}
    assert [answer.total_quantity for answer in (before, after, settled)] == [10, 11, 11]


def an_entry(**changes: object) -> UsageRow:
    row = {
        "subject": Subject.FEATURE,
        "subject_key": "tokens",
        "account_id": "ann",
        "event_time": datetime(2026, 3, 10, 10, tzinfo=UTC),
    }
    return UsageRow(**(row | changes))  # type: ignore[arg-type]


async def test_a_transaction_that_is_rolled_back_leaves_nothing(books: Books) -> None:
    connection = await connect(books.url, DatabaseRole.METER)
    try:
        transaction = connection.transaction()
        await transaction.start()
        await write_rows(connection, [an_entry()])
        await transaction.rollback()
    finally:
        await connection.close()
    await books.write([an_entry(quantity=5)])

    await books.roll_up_all()

    assert (await books.sums.query(a_query())).total_quantity == 5


async def test_a_batch_that_is_interrupted_is_rolled_up_once(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    await books.write([an_entry(quantity=5)])
    under_test = Rollups(books.url)
    execute = asyncpg.Connection.execute

    async def broken(self: asyncpg.Connection, sql: str, *arguments: object) -> object:
        if sql.startswith("UPDATE usage_rollup_progress"):
            raise ConnectionResetError
        return await execute(self, sql, *arguments)

    async def interrupted() -> bool:
        # Until then something else in the cluster holds it up.
        with monkeypatch.context() as patched:
            patched.setattr(asyncpg.Connection, "execute", broken)
            try:
                await RollUp(under_test).run()
            except Exception:  # noqa: BLE001 - any will do.
                return True
        return False

    try:
        await eventually(interrupted)
        between = await books.sums.query(a_query())
    finally:
        await under_test.close()
    await books.roll_up_all()

    assert between.total_quantity == 5
    assert (await books.sums.query(a_query())).total_quantity == 5


async def test_lines_of_the_first_releases_are_rolled_up_day_by_day_and_counted_throughout(books: Books) -> None:
    rows = [
        an_entry(quantity=day, recorded_time=datetime(2026, 3, day, 12, tzinfo=UTC), event_time=FIRST)
        for day in range(1, 6)
    ]
    await books.write(rows)
    owner = await connect(books.url)
    try:
        await owner.execute("ALTER TABLE usage_entries NO FORCE ROW LEVEL SECURITY")
        await owner.execute("UPDATE usage_entries SET commit_xid = NULL")
        await owner.execute("ALTER TABLE usage_entries FORCE ROW LEVEL SECURITY")
    finally:
        await owner.close()
    under_test = Rollups(books.url)
    totals = [(await books.sums.query(a_query())).total_quantity]
    done = []
    try:
        while not (batch := await under_test.advance(RollupSource.ENTRIES)).finished:
            done.append(batch.rows)
            totals.append(
                (await books.sums.query(a_query(start=FIRST, end=FIRST + timedelta(seconds=1)))).total_quantity
            )
    finally:
        await under_test.close()

    assert [rows for rows in done if rows] == [1, 1, 1, 1, 1]
    assert set(totals) == {15}


async def test_parts_of_a_minute_are_found_however_many_stragglers_it_has(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollups, "RANGES_MAX", 2)
    minute, other = datetime(2026, 3, 10, 10, tzinfo=UTC), datetime(2026, 3, 10, 11, tzinfo=UTC)
    counts = []
    connection = await connect(books.url, DatabaseRole.METER)
    try:
        for _ in range(5):
            for begin in (minute, other):
                await books.write([an_entry(event_time=begin + timedelta(seconds=30)), an_entry(event_time=begin)])
                await books.roll_up_all()
            counts.append(
                await connection.fetchval(
                    "SELECT (SELECT count(*) FROM unnest(xids)) FROM usage_rollups"
                    " WHERE minutes = 1 AND xids IS NOT NULL AND start_time = $1",
                    minute,
                )
            )
    finally:
        await connection.close()

    # Two stand alone; a third one makes one wide range of them all.
    assert counts == [1, 2, 1, 2, 1]
    part = a_query(start=minute + timedelta(seconds=10), end=minute + timedelta(seconds=50))
    assert await assert_equal(books.sums, books.rows, part) == 1
    assert (await books.sums.query(part)).total_quantity == 5


async def test_a_snapshot_leaves_its_connection_as_it_was(fresh_database: str) -> None:
    database = Database(fresh_database, pool_size=1)
    settings = text("SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')")
    try:
        async with database.tenant_snapshot(STUDIO) as connection:
            within = tuple((await connection.execute(settings)).one())
        async with database.tenant_transaction(STUDIO) as connection:
            after = tuple((await connection.execute(settings)).one())
    finally:
        await database.close()

    assert within == ("repeatable read", "on")
    assert after == ("read committed", "off")


async def test_tenants_do_not_see_each_other(books: Books) -> None:
    await apply_catalog(books.url, "other")
    await books.write([an_entry(quantity=5), an_entry(quantity=7, tenant_id="other")])

    before = await books.sums.query(a_query())
    await books.roll_up_all()
    after = await books.sums.query(a_query())

    assert (before.total_quantity, after.total_quantity) == (5, 5)
    assert (await books.sums.query(a_query(tenant_id="other"))).total_quantity == 7


async def test_rollups_of_another_cluster_are_noticed(books: Books) -> None:
    await books.write([an_entry()])
    owner = await connect(books.url)
    try:
        # As after a dump of a cluster that has seen more transactions than this one.
        await owner.execute("UPDATE usage_rollup_progress SET next_xid = 1000000000000, next_recorded_time = NULL")
    finally:
        await owner.close()

    with pytest.raises(StoreUnavailable):
        await books.sums.query(a_query())
    assert await books.roll_up() == {}
