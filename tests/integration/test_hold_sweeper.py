"""Holds that nobody ends are ended by the sweeper of any server, by what the ledger says."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from tallygate_server.service import Service
from tests.support.acme import (
    a_check,
    allowed,
    an_increment,
    assert_redis_agrees,
    hurry,
    outcome_of,
    redis_counters,
    services,
)
from tests.support.clock import FrozenClock
from tests.support.eventually import eventually
from tests.support.faulty_proxy import postgres_proxy, redis_proxy

HOLD_TTL = timedelta(seconds=10)


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
async def sweeping(acme_database: str, fresh_redis: str, clock: FrozenClock) -> AsyncIterator[Service]:
    async with services(acme_database, fresh_redis, clock=clock) as [service]:
        await outcome_of(service, an_increment("ten", 2))
        yield service


async def held(service: Service) -> int:
    return sum(int(counter.get("h", 0)) for counter in (await redis_counters(service)).values())


@pytest.mark.parametrize("committed", [False, True])
async def test_what_a_dead_server_held_is_ended_after_its_deadline(
    acme_database: str, fresh_redis: str, sweeping: Service, clock: FrozenClock, *, committed: bool
) -> None:
    """Whether its commit happened or not, the ledger's total is what counts."""
    with tempfile.TemporaryDirectory(prefix="tallygate-test-") as parent:
        async with (
            postgres_proxy(acme_database, Path(parent) / "postgres") as (database_address, postgres),
            redis_proxy(fresh_redis, Path(parent) / "redis") as (redis_address, redis),
            services(database_address, redis_address, clock=clock) as [dying],
        ):
            await dying.checker.check(a_check("ten"))
            await outcome_of(dying, an_increment("ten", 1))
            hurry(dying, 300)
            if committed:
                postgres.swallows_replies = True
            else:
                postgres.flows.clear()
            call = asyncio.ensure_future(outcome_of(dying, an_increment("ten", 3)))
            await eventually(lambda: is_held(sweeping, 3))
            if committed:
                await eventually(lambda: postgres.replies_swallowed)
            # It dies: nothing it says reaches anybody any more.
            redis.refuses = postgres.refuses = True
            redis.cut()
            postgres.cut()
            postgres.flows.set()
            early = await sweeping.sweeper.sweep()
            still_held = await held(sweeping)
            clock.advance(HOLD_TTL + timedelta(milliseconds=1))
            late = await sweeping.sweeper.sweep()
            await eventually(lambda: is_held(sweeping, 0))
            await call

    assert (early, still_held, late) == (0, 3, 1)
    await assert_redis_agrees(sweeping, acme_database)
    rest = await sweeping.meter.increment_many([an_increment("ten") for _ in range(10)], atomic=False)
    assert max(answer.used_quantity for answer in allowed(rest)) == 10
    assert len(allowed(rest)) == (4 if committed else 7)


async def is_held(service: Service, quantity: int) -> bool:
    return await held(service) == quantity


async def test_holds_of_calls_in_flight_are_left_alone(
    acme_database: str, fresh_redis: str, sweeping: Service, clock: FrozenClock
) -> None:
    with tempfile.TemporaryDirectory(prefix="tallygate-test-") as parent:
        async with (
            postgres_proxy(acme_database, Path(parent) / "postgres") as (address, postgres),
            services(address, fresh_redis, clock=clock) as [busy],
        ):
            await outcome_of(busy, an_increment("ten"))
            postgres.flows.clear()
            call = asyncio.ensure_future(outcome_of(busy, an_increment("ten", 3)))
            await eventually(lambda: is_held(sweeping, 3))
            clock.advance(HOLD_TTL - timedelta(milliseconds=1))
            swept = await sweeping.sweeper.sweep()
            during = await held(sweeping)
            postgres.flows.set()
            outcome = await call

    assert swept == 0
    assert during == 3
    assert [answer.used_quantity for answer in allowed([outcome])] == [6]
    await assert_redis_agrees(sweeping, acme_database)


async def test_a_hold_that_was_swept_too_early_is_settled_all_the_same(
    acme_database: str, fresh_redis: str, sweeping: Service, clock: FrozenClock
) -> None:
    """A call may outlive its hold's deadline; its commit is checked by Postgres and its settling finds nothing left."""
    with tempfile.TemporaryDirectory(prefix="tallygate-test-") as parent:
        async with (
            postgres_proxy(acme_database, Path(parent) / "postgres") as (address, postgres),
            services(address, fresh_redis, clock=clock) as [slow],
        ):
            await outcome_of(slow, an_increment("ten"))
            postgres.flows.clear()
            call = asyncio.ensure_future(outcome_of(slow, an_increment("ten", 3)))
            await eventually(lambda: is_held(sweeping, 3))
            clock.advance(HOLD_TTL * 2)
            swept = await sweeping.sweeper.sweep()
            await eventually(lambda: is_held(sweeping, 0))
            postgres.flows.set()
            outcome = await call

    assert swept == 1
    assert [answer.used_quantity for answer in allowed([outcome])] == [6]
    await assert_redis_agrees(sweeping, acme_database)


async def test_two_sweepers_at_once_end_each_hold_once(
    acme_database: str, fresh_redis: str, sweeping: Service, clock: FrozenClock
) -> None:
    async with services(acme_database, fresh_redis, clock=clock) as [other]:
        [key] = (await redis_counters(sweeping)).keys()
        for n in range(20):
            await sweeping.redis.execute("HINCRBY", key, "h", 1)
            await sweeping.redis.execute("HSET", key, f"h:dead:{n}", 1)
            await sweeping.redis.execute("HSET", "tg:holds:dead", f"dead:{n}", f"{clock.now_ms()} {key}")
        await sweeping.redis.execute("SADD", "tg:servers", "dead")

        await asyncio.gather(*(service.sweeper.sweep() for service in (sweeping, other) * 3))
        await assert_redis_agrees(sweeping, acme_database)
        await eventually(lambda: nobody_listed(sweeping))


async def nobody_listed(service: Service) -> bool:
    await service.sweeper.sweep()
    return await service.counters.servers_with_holds() == []


async def test_without_a_store_nothing_is_swept(acme_database: str, fresh_redis: str, clock: FrozenClock) -> None:
    with tempfile.TemporaryDirectory(prefix="tallygate-test-") as parent:
        async with (
            redis_proxy(fresh_redis, Path(parent) / "redis") as (address, redis),
            services(acme_database, address, clock=clock) as [service],
        ):
            redis.refuses = True
            redis.cut()
            await eventually(lambda: not service.counters.ready)

            assert await service.sweeper.sweep() == 0
