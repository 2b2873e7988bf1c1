"""Whatever a lost connection leaves in doubt is reserved, counted and given back once in the end."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.reservation import ReservationState, Settlement
from tallygate_server.errors import OutcomeUnknown, StoreUnavailable
from tallygate_server.reservations import CommitAnswer, ReserveAnswer
from tallygate_server.service import Service
from tests.support.acme import PATIENT, assert_redis_agrees, fetch, services, used
from tests.support.eventually import eventually
from tests.support.faulty_proxy import FaultyProxy, postgres_proxy
from tests.support.reservations import a_reserve, commit, extend, held, outcomes_of, release, reserve, reserved

Answered = TypeVar("Answered")


@asynccontextmanager
async def behind_a_proxy(database_url: str, redis_url: str) -> AsyncIterator[tuple[Service, FaultyProxy]]:
    """Open a service whose way to Postgres can be broken."""
    with tempfile.TemporaryDirectory(prefix="tallygate-test-") as parent:
        async with (
            postgres_proxy(database_url, Path(parent) / "wire") as (address, proxy),
            services(address, redis_url) as [service],
        ):
            # The account is known.
            await release(service, await reserved(service, "hourly"))
            yield service, proxy


async def lose_the_answer(
    proxy: FaultyProxy, call: Coroutine[Any, Any, Answered], *, stays_away: bool = False
) -> Answered | Exception:
    """Let a call be committed, lose the answer, then let the server find Postgres again, or not."""
    swallowed = proxy.replies_swallowed
    proxy.swallows_after = b"COMMIT;"
    proxy.refuses = stays_away
    task = asyncio.ensure_future(outcomes_of([call]))
    await eventually(lambda: proxy.replies_swallowed > swallowed)
    proxy.cut()
    [outcome] = await task
    return outcome


def in_haste(service: Service, timeout_ms: int) -> None:
    """Let calls on reservations wait no longer than this for Postgres."""
    service.reservations._commits._timeout_seconds = timeout_ms / 1_000


async def rows(database_url: str, feature_key: str = "ten") -> list[Any]:
    return await fetch(database_url, "SELECT * FROM reservations WHERE feature_key = $1", feature_key)


@pytest.mark.parametrize("request_id", ["", "r1"], ids=["without an id", "with an id"])
async def test_a_reservation_whose_answer_was_lost_is_made_once(
    acme_database: str, fresh_redis: str, request_id: str
) -> None:
    async with behind_a_proxy(acme_database, fresh_redis) as (service, proxy):
        answer = await lose_the_answer(proxy, reserve(service, "ten", 4, request_id=request_id))

        assert isinstance(answer, ReserveAnswer)
        assert (answer.reason, answer.held_quantity, answer.replayed) == (Reason.OK, 4, False)
        [row] = await rows(acme_database)
        assert answer.reservation is not None
        assert row["reservation_id"] == answer.reservation.reservation_id
        assert await held(acme_database) == 4
        await assert_redis_agrees(service, acme_database)


async def test_a_denial_whose_answer_was_lost_is_recorded_once(acme_database: str, fresh_redis: str) -> None:
    async with behind_a_proxy(acme_database, fresh_redis) as (service, proxy):
        answer = await lose_the_answer(proxy, reserve(service, "ten", 11, request_id="r1"))
        again = await reserve(service, "ten", 11, request_id="r1")

        assert isinstance(answer, ReserveAnswer)
        assert (answer.reason, answer.replayed) == (Reason.EXHAUSTED, False)
        assert again == replace(answer, replayed=True)
        assert len(await fetch(acme_database, "SELECT 1 FROM usage_denials WHERE feature_key = 'ten'")) == 1


@pytest.mark.parametrize("quantity", [0, 3, 4, 7])
async def test_a_commit_whose_answer_was_lost_counts_once(acme_database: str, fresh_redis: str, quantity: int) -> None:
    async with behind_a_proxy(acme_database, fresh_redis) as (service, proxy):
        reservation_id = await reserved(service, "ten", 4)

        answer = await lose_the_answer(proxy, commit(service, reservation_id, quantity))
        again = await commit(service, reservation_id, quantity)

        assert isinstance(answer, CommitAnswer)
        assert (answer.used_quantity, answer.held_quantity, answer.replayed) == (quantity, 0, False)
        assert again == replace(answer, replayed=True)
        assert await used(acme_database, "ten") == quantity
        await assert_redis_agrees(service, acme_database)


async def test_a_rejected_commit_whose_answer_was_lost_is_rejected(acme_database: str, fresh_redis: str) -> None:
    async with behind_a_proxy(acme_database, fresh_redis) as (service, proxy):
        reservation_id = await reserved(service, "ten", 4)

        answer = await lose_the_answer(proxy, commit(service, reservation_id, 11))

        assert isinstance(answer, CommitAnswer)
        assert answer.settlement is Settlement.REJECTED
        assert await held(acme_database) == 4


async def test_releases_and_extensions_may_be_lost_as_well(acme_database: str, fresh_redis: str) -> None:
    async with behind_a_proxy(acme_database, fresh_redis) as (service, proxy):
        reservation_id = await reserved(service, "ten", 4)

        extended = await lose_the_answer(proxy, extend(service, reservation_id))
        released = await lose_the_answer(proxy, release(service, reservation_id))

        assert not isinstance(extended, Exception)
        assert not isinstance(released, Exception)
        assert released.reservation.state is ReservationState.RELEASED
        assert await held(acme_database) == 0
        await assert_redis_agrees(service, acme_database)


async def test_a_call_that_gives_up_in_doubt_says_so_and_its_retry_is_exact(
    acme_database: str, fresh_redis: str
) -> None:
    async with behind_a_proxy(acme_database, fresh_redis) as (service, proxy):
        in_haste(service, 200)
        lost = await lose_the_answer(proxy, reserve(service, "ten", 4, request_id="r1"), stays_away=True)
        away = (await outcomes_of([service.reservations.reserve(a_reserve("ten", 1))]))[0]
        in_haste(service, PATIENT.commit_timeout_ms)
        proxy.refuses = False
        await eventually(lambda: service.ledger.up)
        again = await reserve(service, "ten", 4, request_id="r1")
        assert again.reservation is not None
        in_haste(service, 200)
        reservation_id = again.reservation.reservation_id
        lost_commit = await lose_the_answer(proxy, commit(service, reservation_id, 3), stays_away=True)
        in_haste(service, PATIENT.commit_timeout_ms)
        proxy.refuses = False
        await eventually(lambda: service.ledger.up)
        answer = await commit(service, reservation_id, 3)

        assert isinstance(lost, OutcomeUnknown)
        assert isinstance(away, StoreUnavailable)
        assert (again.held_quantity, again.replayed) == (4, True)
        assert isinstance(lost_commit, OutcomeUnknown)
        assert (answer.used_quantity, answer.replayed) == (3, True)
        assert await used(acme_database, "ten") == 3
        assert await held(acme_database) == 0


async def test_many_calls_in_one_lost_transaction_are_each_done_once(acme_database: str, fresh_redis: str) -> None:
    async with behind_a_proxy(acme_database, fresh_redis) as (service, proxy):
        ids = [await reserved(service, "words", 10) for _ in range(5)]
        proxy.swallows_after = b"COMMIT;"
        wanted: list[Coroutine[Any, Any, CommitAnswer | ReserveAnswer]] = [
            *(commit(service, each, 7) for each in ids),
            *(service.reservations.reserve(a_reserve("words", 3)) for _ in range(5)),
        ]
        calls = asyncio.create_task(outcomes_of(wanted))
        await eventually(lambda: proxy.replies_swallowed)
        proxy.cut()
        outcomes = await calls

        assert not [each for each in outcomes if isinstance(each, Exception)]
        assert not any(each.replayed for each in outcomes if isinstance(each, CommitAnswer))
        assert await used(acme_database, "words") == 35
        assert await held(acme_database, "words") == 15
        await assert_redis_agrees(service, acme_database)
