"""Whatever a lost connection leaves in doubt is counted once in the end."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tallygate_server.domain.call import Increment, IncrementAnswer
from tallygate_server.errors import OutcomeUnknown, TallygateError
from tallygate_server.service import Service
from tests.support.acme import (
    PATIENT,
    allowed,
    an_increment,
    assert_redis_agrees,
    denied,
    fetch,
    hurry,
    outcome_of,
    services,
    used,
)
from tests.support.eventually import eventually
from tests.support.faulty_proxy import FaultyProxy, postgres_proxy


@asynccontextmanager
async def behind_a_proxy(
    database_url: str, redis_url: str, **limits: Any
) -> AsyncIterator[tuple[Service, FaultyProxy]]:
    """Open a service whose way to Postgres can be broken."""
    with tempfile.TemporaryDirectory(prefix="tallygate-test-") as parent:
        async with (
            postgres_proxy(database_url, Path(parent) / "wire") as (address, proxy),
            services(address, redis_url, **limits) as [service],
        ):
            # The account is known and every statement prepared.
            await outcome_of(service, an_increment("hourly"))
            await outcome_of(service, an_increment("hourly", request_id="warm"))
            await outcome_of(service, an_increment("none"))
            await eventually(lambda: recorded_denials(database_url))
            yield service, proxy


async def entries(database_url: str, feature_key: str) -> int:
    return len(await fetch(database_url, "SELECT 1 FROM usage_entries WHERE feature_key = $1", feature_key))


async def lose_the_answer(
    service: Service,
    proxy: FaultyProxy,
    database_url: str,
    increments: list[Increment],
    *,
    atomic: bool = False,
    stays_away: bool = False,
) -> list[IncrementAnswer | TallygateError]:
    """Let the calls be committed, lose the answers, then let the server find Postgres again."""
    written = {increment.feature_key: await entries(database_url, increment.feature_key) for increment in increments}
    # What is prepared already takes one round trip; a transaction takes several, of which only the last one decides.
    first = increments[0]
    if atomic or first.quantity < 0 or (first.feature_key == "soft" and first.request_id):
        proxy.swallows_after = b"COMMIT;"
    else:
        proxy.swallows_replies = True
    proxy.refuses = stays_away
    calls = asyncio.ensure_future(service.meter.increment_many(increments, atomic=atomic))

    async def committed() -> bool:
        return all([await entries(database_url, feature_key) > before for feature_key, before in written.items()])

    await eventually(committed)
    proxy.cut()
    return await calls


@pytest.mark.parametrize("with_ids", [False, True], ids=["without ids", "with ids"])
@pytest.mark.parametrize("feature_key", ["words", "ten", "endless", "soft", "devices"])
async def test_a_group_whose_answer_was_lost_is_counted_once(
    acme_database: str, fresh_redis: str, feature_key: str, *, with_ids: bool
) -> None:
    size = 4 if feature_key == "devices" else 6
    increments = [an_increment(feature_key, request_id=f"r{i}" if with_ids else "") for i in range(size)]
    async with behind_a_proxy(acme_database, fresh_redis) as (service, proxy):
        outcomes = await lose_the_answer(service, proxy, acme_database, increments)

        assert sorted(answer.used_quantity for answer in allowed(outcomes)) == list(range(1, size + 1))
        assert not any(answer.replayed for answer in allowed(outcomes))
        assert len({answer.entry_id for answer in allowed(outcomes)}) == size
        assert await used(acme_database, feature_key) == size
        await assert_redis_agrees(service, acme_database)


async def test_a_gauge_going_down_is_counted_once(acme_database: str, fresh_redis: str) -> None:
    async with behind_a_proxy(acme_database, fresh_redis) as (service, proxy):
        await outcome_of(service, an_increment("devices", 5))

        [outcome] = await lose_the_answer(service, proxy, acme_database, [an_increment("devices", -2)])

        assert isinstance(outcome, IncrementAnswer)
        assert outcome.used_quantity == 3
        assert await used(acme_database, "devices") == 3
        await assert_redis_agrees(service, acme_database)


@pytest.mark.parametrize("with_ids", [False, True], ids=["without ids", "with ids"])
async def test_an_atomic_batch_whose_answer_was_lost_is_counted_once(
    acme_database: str, fresh_redis: str, *, with_ids: bool
) -> None:
    batch = [
        an_increment("words", 3, request_id="a" if with_ids else ""),
        an_increment("ten", 6, request_id="b" if with_ids else ""),
    ]
    async with behind_a_proxy(acme_database, fresh_redis) as (service, proxy):
        outcomes = await lose_the_answer(service, proxy, acme_database, batch, atomic=True)

        assert [answer.used_quantity for answer in allowed(outcomes)] == [3, 6]
        assert await used(acme_database, "words") == 3
        assert await used(acme_database, "ten") == 6


async def test_a_call_that_gives_up_in_doubt_says_so_and_its_retry_is_exact(
    acme_database: str, fresh_redis: str
) -> None:
    increments = [an_increment("ten", request_id=f"r{i}") for i in range(6)]
    async with behind_a_proxy(acme_database, fresh_redis) as (service, proxy):
        hurry(service, 300)
        outcomes = await lose_the_answer(service, proxy, acme_database, increments, stays_away=True)
        hurry(service, PATIENT.commit_timeout_ms)
        proxy.refuses = False
        await eventually(lambda: service.ledger.up)
        again = await service.meter.increment_many(increments, atomic=False)

        assert all(isinstance(outcome, OutcomeUnknown) for outcome in outcomes)
        assert len(outcomes) == 6
        assert sorted(answer.used_quantity for answer in allowed(again)) == [1, 2, 3, 4, 5, 6]
        assert all(answer.replayed for answer in allowed(again))
        assert await used(acme_database, "ten") == 6


async def test_losses_during_recovery_change_nothing(acme_database: str, fresh_redis: str) -> None:
    increments = [an_increment("ten") for _ in range(4)]
    async with behind_a_proxy(acme_database, fresh_redis) as (service, proxy):
        proxy.swallows_replies = True
        calls = asyncio.ensure_future(service.meter.increment_many(increments, atomic=False))

        async def committed() -> bool:
            return await entries(acme_database, "ten") == 4

        await eventually(committed)
        for statement in (b"WITH ", b"INSERT INTO usage_counters", b"COMMIT;"):
            # Cut again at each step of the recovery.
            proxy.cut()
            proxy.swallows_after = statement
            await eventually(lambda: proxy.swallows_replies)
        proxy.cut()
        outcomes = await calls

        assert sorted(answer.used_quantity for answer in allowed(outcomes)) == [1, 2, 3, 4]
        assert await used(acme_database, "ten") == 4


async def recorded_denials(database_url: str) -> int:
    rows = await fetch(database_url, "SELECT count(*), count(*) FILTER (WHERE request_id IS NULL) FROM usage_denials")
    total: int = rows[0][0]
    return total


async def test_denials_whose_record_was_in_doubt_are_recorded_once(acme_database: str, fresh_redis: str) -> None:
    async with behind_a_proxy(acme_database, fresh_redis) as (service, proxy):
        before = await recorded_denials(acme_database)
        await outcome_of(service, an_increment("ten", 10))
        proxy.swallows_replies = True
        outcomes = await service.meter.increment_many([an_increment("ten") for _ in range(20)], atomic=False)

        async def recorded() -> bool:
            return await recorded_denials(acme_database) > before

        await eventually(recorded)
        proxy.cut()
        await eventually(lambda: service.ledger.up)
        more = await service.meter.increment_many([an_increment("ten") for _ in range(5)], atomic=False)

        assert len(denied(outcomes)) + len(denied(more)) == 25

    assert await recorded_denials(acme_database) == before + 25


async def test_accepted_calls_outlive_a_loss_close_to_their_limit(acme_database: str, fresh_redis: str) -> None:
    increments = [an_increment("ten", accepted=True) for _ in range(6)]
    async with behind_a_proxy(acme_database, fresh_redis) as (service, proxy):
        await outcome_of(service, an_increment("ten"))
        hurry(service, 200)

        outcomes = await lose_the_answer(service, proxy, acme_database, increments, stays_away=True)
        await eventually(lambda: not service.ledger.up)
        await outcome_of(service, an_increment("ten"))
        hurry(service, PATIENT.commit_timeout_ms)
        proxy.refuses = False
        await eventually(lambda: service.meter.in_flight == 0)

        assert len(allowed(outcomes)) == 6
        assert await used(acme_database, "ten") == 7
        await assert_redis_agrees(service, acme_database)


async def test_accepted_calls_wait_in_the_exact_commit_too(acme_database: str, fresh_redis: str) -> None:
    """Repeated ids send a group there; what was accepted may not be given up on the way."""
    increments = [an_increment("words", request_id=f"r{i}", accepted=True) for i in range(20)]
    async with behind_a_proxy(acme_database, fresh_redis) as (service, proxy):
        async with services(acme_database, fresh_redis) as [other]:
            await outcome_of(other, an_increment("words", request_id="r0"))
        hurry(service, 200)
        proxy.swallows_after = b"COMMIT;"
        proxy.refuses = True
        outcomes = await service.meter.increment_many(increments, atomic=False)
        await eventually(lambda: proxy.swallows_replies)
        proxy.cut()
        await eventually(lambda: not service.ledger.up)
        held = service.meter.in_flight
        await outcome_of(service, an_increment("words"))
        hurry(service, PATIENT.commit_timeout_ms)
        proxy.refuses = False
        await eventually(lambda: service.meter.in_flight == 0)

        assert len(allowed(outcomes)) == 20
        assert held >= 20
        assert await used(acme_database, "words") == 20
        await assert_redis_agrees(service, acme_database)
