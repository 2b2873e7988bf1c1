"""What a store that goes away does to recording: nothing half-done, nothing twice."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from tallygate_server.domain.usage_event import UsageEvent
from tallygate_server.errors import OutcomeUnknown, Overloaded, StoreUnavailable
from tallygate_server.recording import RecordResult, recorder
from tallygate_server.service import Service
from tests.support.acme import a_check, assert_books_balance, assert_redis_agrees, fetch
from tests.support.eventually import eventually
from tests.support.faulty_proxy import FaultyProxy, postgres_proxy
from tests.support.recording import (
    METERED,
    a_call,
    a_job,
    apply_metered_catalog,
    events_in,
    metered_services,
    outcomes,
    totals,
)

BATCH = [a_call(str(n)) for n in range(3)]
HURRIED_SECONDS = 0.3


@pytest.fixture
async def metered_database(fresh_database: str) -> AsyncIterator[str]:
    """Make a database with the tenant `metered`; its books must balance after the test."""
    await apply_metered_catalog(fresh_database)
    yield fresh_database
    await assert_books_balance(fresh_database)


@asynccontextmanager
async def behind_a_proxy(database_url: str, redis_url: str) -> AsyncIterator[tuple[Service, FaultyProxy]]:
    """Open a service whose way to Postgres can be broken; tenant and account are known."""
    with tempfile.TemporaryDirectory(prefix="tallygate-test-") as parent:
        async with (
            postgres_proxy(database_url, Path(parent) / "wire") as (address, proxy),
            metered_services(address, redis_url) as [service],
        ):
            assert outcomes(await service.recorder.record(METERED, [a_job("warm", 0)])) == ["recorded"]
            yield service, proxy


async def committed(database_url: str) -> bool:
    return await events_in(database_url) > 1


@asynccontextmanager
async def halfway(
    service: Service, database_url: str, batch: Sequence[UsageEvent] = BATCH
) -> AsyncIterator[asyncio.Future[list[RecordResult]]]:
    """Record, and keep the transaction from going on after it has locked its counters until the block is left."""
    owner = await asyncpg.connect(database_url)
    try:
        async with owner.transaction():
            await owner.execute("LOCK TABLE usage_event_keys IN EXCLUSIVE MODE")
            call = asyncio.ensure_future(service.recorder.record(METERED, batch))
            await eventually(
                lambda: owner.fetchval(
                    "SELECT count(*) FROM pg_locks WHERE relation = 'usage_event_keys'::regclass AND NOT granted"
                )
            )
            yield call
    finally:
        await owner.close()


async def test_a_batch_whose_answer_was_lost_is_recorded_once(metered_database: str, fresh_redis: str) -> None:
    async with behind_a_proxy(metered_database, fresh_redis) as (service, proxy):
        async with halfway(service, metered_database) as call:
            proxy.swallows_after = b"COMMIT;"
        await eventually(lambda: committed(metered_database))
        assert proxy.swallows_replies
        proxy.cut()
        results = await call

        # It hears what it would have heard, not that somebody was faster.
        assert outcomes(results) == ["recorded"] * 3
        assert results[0].meter_keys == ("ai_cost", "requests", "tokens")
        assert await events_in(metered_database) == 4
        assert (await totals(metered_database))["requests"] == 3
        check = await service.checker.check(a_check("requests", tenant_id=METERED))
        assert check.used_quantity == 3
        await assert_redis_agrees(service, metered_database)


async def test_a_connection_that_breaks_before_the_commit_loses_nothing(
    metered_database: str, fresh_redis: str
) -> None:
    async with behind_a_proxy(metered_database, fresh_redis) as (service, proxy):
        async with halfway(service, metered_database) as call:
            proxy.cut()
        results = await call

        assert outcomes(results) == ["recorded"] * 3
        assert (await totals(metered_database))["requests"] == 3
        await assert_redis_agrees(service, metered_database)


async def test_a_call_that_gives_up_in_doubt_says_so_and_its_repetition_is_exact(
    metered_database: str, fresh_redis: str
) -> None:
    async with behind_a_proxy(metered_database, fresh_redis) as (service, proxy):
        patience, service.recorder._timeout_seconds = service.recorder._timeout_seconds, HURRIED_SECONDS
        async with halfway(service, metered_database) as call:
            proxy.swallows_after = b"COMMIT;"
            proxy.refuses = True
        await eventually(lambda: committed(metered_database))
        proxy.cut()
        with pytest.raises(OutcomeUnknown):
            await call
        service.recorder._timeout_seconds = patience
        proxy.refuses = False
        await eventually(lambda: service.ledger.up)

        assert outcomes(await service.recorder.record(METERED, BATCH)) == ["duplicate"] * 3
        assert (await totals(metered_database))["requests"] == 3


async def test_without_postgres_the_call_fails_and_nothing_is_recorded(metered_database: str, fresh_redis: str) -> None:
    async with behind_a_proxy(metered_database, fresh_redis) as (service, proxy):
        service.recorder._timeout_seconds = HURRIED_SECONDS
        proxy.refuses = True
        proxy.cut()
        await eventually(lambda: not service.ledger.up)

        with pytest.raises(StoreUnavailable):
            await service.recorder.record(METERED, BATCH)

        proxy.refuses = False
        await eventually(lambda: service.ledger.up)
        assert await events_in(metered_database) == 1
        assert outcomes(await service.recorder.record(METERED, BATCH)) == ["recorded"] * 3


async def test_a_caller_that_goes_away_undoes_nothing(metered_database: str, fresh_redis: str) -> None:
    async with behind_a_proxy(metered_database, fresh_redis) as (service, proxy):
        proxy.flows.clear()
        call = asyncio.ensure_future(service.recorder.record(METERED, BATCH))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        proxy.flows.set()
        await eventually(lambda: committed(metered_database))

        async def told() -> bool:
            check = await service.checker.check(a_check("requests", tenant_id=METERED))
            return check.used_quantity == 3

        await eventually(told)
        await assert_redis_agrees(service, metered_database)


async def test_without_redis_events_are_recorded(
    metered_database: str,
) -> None:
    # Nobody listens there.
    async with metered_services(metered_database, "unix:///nowhere/redis.sock") as [service]:
        results = await service.recorder.record(METERED, BATCH)

        assert outcomes(results) == ["recorded"] * 3
        assert (await totals(metered_database))["requests"] == 3


async def test_an_event_that_postgres_refuses_takes_no_other_with_it(
    metered_database: str, fresh_redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await asyncpg.connect(metered_database)
    try:
        await connection.execute("ALTER TABLE usage_events ADD CONSTRAINT no_three CHECK (event_id <> '3')")
    finally:
        await connection.close()
    async with metered_services(metered_database, fresh_redis) as [service]:
        results = await service.recorder.record(METERED, [a_call(str(n)) for n in range(7)])

        expected = ["recorded"] * 3 + ["STORE_UNAVAILABLE"] + ["recorded"] * 3
        assert outcomes(results) == expected
        assert (await totals(metered_database))["requests"] == 6
        await assert_redis_agrees(service, metered_database)
        with pytest.raises(StoreUnavailable):
            await service.recorder.record(METERED, [a_call("3")])
    rows = await fetch(metered_database, "SELECT event_id FROM usage_event_keys")
    assert sorted(row[0] for row in rows) == ["0", "1", "2", "4", "5", "6"]


async def test_batches_that_wait_are_bounded(
    metered_database: str, fresh_redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "BATCHES_WAITING_MAX", 1)
    async with behind_a_proxy(metered_database, fresh_redis) as (service, proxy):
        proxy.flows.clear()
        waiting = [
            asyncio.ensure_future(service.recorder.record(METERED, [a_call(f"{n}")]))
            for n in range(recorder.BATCHES_AT_ONCE_MAX + 1)
        ]
        await asyncio.sleep(0)

        with pytest.raises(Overloaded):
            await service.recorder.record(METERED, [a_call("one too many")])

        proxy.flows.set()
        results: list[list[RecordResult]] = await asyncio.gather(*waiting)
        assert [outcomes(each) for each in results] == [["recorded"]] * 3


async def test_closing_waits_for_what_is_being_recorded(metered_database: str, fresh_redis: str) -> None:
    events: list[UsageEvent] = [a_call(str(n)) for n in range(100)]
    async with metered_services(metered_database, fresh_redis) as [service]:
        call = asyncio.ensure_future(service.recorder.record(METERED, events))
        await asyncio.sleep(0)
    results = await call

    assert outcomes(results) == ["recorded"] * 100
