"""Reservations without Redis, without Postgres, behind a lock, and at their bounds."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from tallygate_server.domain.entitlement import Reason
from tallygate_server.errors import Overloaded, RequestIdReused, StoreUnavailable
from tallygate_server.storage.engine import DatabaseRole, connect
from tests.support.acme import an_increment, assert_redis_agrees, change_plan, fetch, outcome_of, services
from tests.support.clock import FrozenClock
from tests.support.eventually import eventually
from tests.support.faulty_proxy import postgres_proxy, redis_proxy
from tests.support.reservations import a_reserve, commit, held, outcomes_of, release, reserve, reserved


@asynccontextmanager
async def locked(database_url: str) -> AsyncIterator[None]:
    """Keep every counter from all others while the block runs."""
    connection = await connect(database_url, DatabaseRole.METER)
    try:
        async with connection.transaction():
            await connection.execute("SELECT 1 FROM usage_counters FOR UPDATE")
            yield
    finally:
        await connection.close()


async def test_without_redis_postgres_decides(acme_database: str, fresh_redis: str) -> None:
    with tempfile.TemporaryDirectory(prefix="tallygate-test-") as parent:
        async with (
            redis_proxy(fresh_redis, Path(parent) / "wire") as (address, proxy),
            services(acme_database, address) as [service],
        ):
            before = await reserved(service, "ten", 4)
            proxy.refuses = True
            proxy.cut()
            await eventually(lambda: not service.counters.ready)

            denied = await reserve(service, "ten", 7)
            beside = await reserve(service, "ten", 6)
            over = await outcome_of(service, an_increment("ten"))
            counted = await commit(service, before, 3)
            proxy.refuses = False
            await eventually(lambda: service.counters.ready)

            assert denied.reason is Reason.EXHAUSTED
            assert (beside.held_quantity, beside.remaining_quantity) == (10, 0)
            assert not isinstance(over, Exception)
            assert over.reason is Reason.EXHAUSTED
            assert (counted.used_quantity, counted.held_quantity) == (3, 6)
            await assert_redis_agrees(service, acme_database)


async def test_without_postgres_nothing_is_reserved(acme_database: str, fresh_redis: str) -> None:
    with tempfile.TemporaryDirectory(prefix="tallygate-test-") as parent:
        async with (
            postgres_proxy(acme_database, Path(parent) / "wire") as (address, proxy),
            services(address, fresh_redis) as [service],
        ):
            reservation_id = await reserved(service, "ten", 4)
            proxy.refuses = True
            proxy.cut()
            await eventually(lambda: not service.ledger.up)

            for call in (reserve(service, "ten", 1), commit(service, reservation_id), release(service, reservation_id)):
                with pytest.raises(StoreUnavailable):
                    await call
            expired = await service.reservation_expiry.expire()
            proxy.refuses = False
            await eventually(lambda: service.ledger.up)

            assert expired == 0
            assert await held(acme_database) == 4


async def test_a_change_of_plan_is_seen_by_the_next_reservation_on_every_server(
    acme_database: str, fresh_redis: str
) -> None:
    async with services(acme_database, fresh_redis, 2) as [one, other]:
        assert (await reserve(other, "ten", 11)).reason is Reason.EXHAUSTED
        for plan, room in (("pro", 20), ("bare", 1), ("pro", 20)):
            revision = await change_plan(one, plan)
            answer = await reserve(other, "ten", room)
            assert (answer.reason, answer.revision) == (Reason.OK, revision)
            assert answer.reservation is not None
            await release(other, answer.reservation.reservation_id)
            assert (await reserve(other, "ten", room + 1)).reason is Reason.EXHAUSTED


async def test_so_many_calls_may_wait_and_no_more(
    acme_database: str, fresh_redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tallygate_server.reservations.commit_loop.RESERVATION_BATCH_MAX", 3)
    monkeypatch.setattr("tallygate_server.reservations.commit_loop.COMMITTERS", 2)
    async with services(acme_database, fresh_redis, commit_queue_max=5) as [service]:
        await reserved(service, "ten", 1)
        commits = service.reservations._commits
        async with locked(acme_database):
            # One call for each of the two committers, which find their counter locked; the others queue up.
            working = [asyncio.create_task(reserve(service, "ten", 1))]
            await eventually(lambda: commits._working == 1)
            working.append(asyncio.create_task(reserve(service, "ten", 1)))
            await eventually(lambda: commits._working == 2)
            waiting = [asyncio.create_task(reserve(service, "words", 1)) for _ in range(5)]
            await eventually(lambda: len(commits._waiting) == 5)
            [refused] = await outcomes_of([reserve(service, "words", 1)])
        answers = await asyncio.gather(*working, *waiting)

        assert isinstance(refused, Overloaded)
        assert all(answer.reservation is not None for answer in answers)
        assert await held(acme_database, "ten") == 3
        assert await held(acme_database, "words") == 5


async def test_where_reservations_count_is_looked_up_when_it_is_not_remembered(
    acme_database: str, fresh_redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tallygate_server.reservations.commit_loop.PLACES_KEPT_MAX", 1)
    async with services(acme_database, fresh_redis) as [service]:
        first, second = await reserved(service, "ten", 2), await reserved(service, "words", 3)
        remembered = [key[2] for key in service.reservations._commits._places]

        answers = [await commit(service, each) for each in (first, second)]

        assert remembered == [second]
        assert [answer.used_quantity for answer in answers] == [2, 3]


async def test_one_turn_of_the_job_ends_so_many_and_the_next_one_the_rest(
    acme_database: str, fresh_redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tallygate_server.reservations.expiry.EXPIRED_PER_TRANSACTION_MAX", 1)
    monkeypatch.setattr("tallygate_server.reservations.expiry.TRANSACTIONS_PER_RUN_MAX", 2)
    clock = FrozenClock()
    async with services(acme_database, fresh_redis, clock=clock) as [service]:
        for account in range(3):
            await reserved(service, "ten", 1, account_id=f"a{account}")
        clock.advance(timedelta(hours=1))

        assert [await service.reservation_expiry.expire() for _ in range(3)] == [2, 1, 0]


async def test_one_request_id_on_two_counters_at_once_is_one_request(acme_database: str, fresh_redis: str) -> None:
    async with services(acme_database, fresh_redis, 2) as running:
        for turn in range(10):
            outcomes = await outcomes_of(
                [
                    running[0].reservations.reserve(a_reserve("words", 1, request_id=f"r{turn}")),
                    running[1].reservations.reserve(a_reserve("much", 1, request_id=f"r{turn}")),
                ]
            )
            assert sorted(type(each).__name__ for each in outcomes) == ["RequestIdReused", "ReserveAnswer"]
            assert any(isinstance(each, RequestIdReused) for each in outcomes)

    assert len(await fetch(acme_database, "SELECT 1 FROM reservations")) == 10
