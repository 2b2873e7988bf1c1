"""A total that reaches Redis late never hides a newer one, whatever Redis forgot in between."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tallygate_server.embedded import EmbeddedServers
from tallygate_server.errors import OutcomeUnknown
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
    used,
)
from tests.support.eventually import eventually
from tests.support.faulty_proxy import FaultyProxy, postgres_proxy, redis_proxy


@dataclass(frozen=True, slots=True)
class Pair:
    """A server whose ways to the stores can be held up, and one that reaches them directly."""

    late: Service
    postgres: FaultyProxy
    redis: FaultyProxy
    prompt: Service


@pytest.fixture
async def pair(acme_database: str, fresh_redis: str) -> AsyncIterator[Pair]:
    with tempfile.TemporaryDirectory(prefix="tallygate-test-") as parent:
        async with (
            postgres_proxy(acme_database, Path(parent) / "postgres") as (database_address, postgres),
            redis_proxy(fresh_redis, Path(parent) / "redis") as (redis_address, redis),
            services(database_address, redis_address) as [late],
            services(acme_database, fresh_redis) as [prompt],
        ):
            for service in (late, prompt):
                await outcome_of(service, an_increment("ten"))
            yield Pair(late, postgres, redis, prompt)


async def held(service: Service) -> int:
    return sum(int(counter.get("h", 0)) for counter in (await redis_counters(service)).values())


async def seen(service: Service) -> int:
    return (await service.checker.check(a_check("ten"))).used_quantity


async def count_with_a_late_settlement(pair: Pair, quantity: int) -> None:
    """Count on the late server: it is committed and answered, and what it tells Redis is still on its way."""
    pair.postgres.flows.clear()
    call = asyncio.ensure_future(outcome_of(pair.late, an_increment("ten", quantity)))

    async def is_held() -> bool:
        return await held(pair.prompt) == quantity

    await eventually(is_held)
    pair.redis.flows.clear()
    pair.postgres.flows.set()
    assert allowed([await call])


async def let_it_arrive(pair: Pair) -> None:
    """Let the late settlement through, and wait until Redis has taken it: the server's next command comes after it."""
    pair.redis.flows.set()
    assert await pair.late.redis.execute("PING") == b"PONG"


async def test_a_settlement_from_before_a_flush_makes_no_counter(
    pair: Pair, acme_database: str, servers: EmbeddedServers
) -> None:
    await count_with_a_late_settlement(pair, 3)
    await outcome_of(pair.prompt, an_increment("ten", 2))
    await servers.flush_redis()

    await let_it_arrive(pair)

    assert await seen(pair.prompt) == await seen(pair.late) == 7
    await assert_redis_agrees(pair.prompt, acme_database)


async def test_a_settlement_from_before_a_flush_does_not_replace_what_was_read_after_it(
    pair: Pair, acme_database: str, servers: EmbeddedServers
) -> None:
    await count_with_a_late_settlement(pair, 3)
    await outcome_of(pair.prompt, an_increment("ten", 2))
    await servers.flush_redis()
    before = await seen(pair.prompt)

    await let_it_arrive(pair)

    assert before == await seen(pair.prompt) == await seen(pair.late) == 7
    await assert_redis_agrees(pair.prompt, acme_database)


async def test_a_newer_settlement_that_comes_while_a_counter_is_read_is_kept(
    pair: Pair, acme_database: str, servers: EmbeddedServers
) -> None:
    """Between the question to Postgres and the word to Redis, another server commits and says so."""
    await servers.flush_redis()
    read = pair.late.ledger.read_counters
    has_read, may_go_on = asyncio.Event(), asyncio.Event()

    async def slowly(keys: object) -> object:
        states = await read(keys)  # type: ignore[arg-type]
        has_read.set()
        await may_go_on.wait()
        return states

    pair.late.ledger.read_counters = slowly  # type: ignore[assignment, method-assign]
    check = asyncio.ensure_future(seen(pair.late))
    await has_read.wait()
    del pair.late.ledger.read_counters
    await outcome_of(pair.prompt, an_increment("ten", 5))
    may_go_on.set()
    await check

    assert await seen(pair.prompt) == await seen(pair.late) == 7
    await assert_redis_agrees(pair.prompt, acme_database)


async def test_what_could_not_be_told_to_a_redis_that_died_is_no_news_to_the_next(
    pair: Pair, acme_database: str, servers: EmbeddedServers
) -> None:
    pair.redis.refuses = True
    pair.redis.cut()
    await eventually(lambda: not pair.late.counters.ready)
    assert allowed([await outcome_of(pair.late, an_increment("ten", 3))])
    assert allowed([await outcome_of(pair.prompt, an_increment("ten", 2))])
    restarts = servers.redis_restarts
    assert servers.redis_pid is not None
    os.kill(servers.redis_pid, signal.SIGKILL)
    await eventually(lambda: servers.redis_restarts > restarts)

    pair.redis.refuses = False
    await eventually(lambda: pair.late.counters.ready)
    await eventually(lambda: pair.prompt.counters.ready)

    assert await seen(pair.prompt) == await seen(pair.late) == 7
    await assert_redis_agrees(pair.prompt, acme_database)


async def test_what_was_counted_without_redis_is_told_to_the_one_that_lived_on(pair: Pair, acme_database: str) -> None:
    pair.redis.refuses = True
    pair.redis.cut()
    await eventually(lambda: not pair.late.counters.ready)
    assert allowed([await outcome_of(pair.late, an_increment("ten", 3))])

    pair.redis.refuses = False
    await eventually(lambda: pair.late.counters.ready)

    assert await seen(pair.prompt) == await seen(pair.late) == 5
    await assert_redis_agrees(pair.prompt, acme_database)


async def test_what_is_counted_while_redis_is_told_what_it_missed_is_told_too(pair: Pair, acme_database: str) -> None:
    """The connection is there, and not yet anybody's."""
    redis = pair.late.redis
    execute = redis._execute
    telling, may_go_on = asyncio.Event(), asyncio.Event()

    async def slowly(command: Sequence[str | bytes | int]) -> object:
        if command[0] == "EVALSHA":
            telling.set()
            await may_go_on.wait()
        return await execute(command)

    pair.redis.refuses = True
    pair.redis.cut()
    await eventually(lambda: not pair.late.counters.ready)
    assert allowed([await outcome_of(pair.late, an_increment("ten", 3))])
    redis._execute = slowly  # type: ignore[method-assign]
    pair.redis.refuses = False
    await telling.wait()
    assert allowed([await outcome_of(pair.late, an_increment("ten", 2))])
    may_go_on.set()
    await eventually(lambda: pair.late.counters.ready)

    assert await seen(pair.prompt) == await seen(pair.late) == 7
    await assert_redis_agrees(pair.prompt, acme_database)


async def test_what_redis_missed_is_told_to_the_connection_after_one_that_broke(pair: Pair, acme_database: str) -> None:
    redis = pair.late.redis
    execute = redis._execute
    broken = 0

    async def break_twice(command: Sequence[str | bytes | int]) -> object:
        nonlocal broken
        if command[0] == "EVALSHA" and broken < 2:
            broken += 1
            pair.redis.cut()
        return await execute(command)

    pair.redis.refuses = True
    pair.redis.cut()
    await eventually(lambda: not pair.late.counters.ready)
    assert allowed([await outcome_of(pair.late, an_increment("ten", 3))])
    redis._execute = break_twice  # type: ignore[method-assign]
    pair.redis.refuses = False
    await eventually(lambda: pair.late.counters.ready)

    assert broken == 2
    assert await seen(pair.prompt) == await seen(pair.late) == 5
    await assert_redis_agrees(pair.prompt, acme_database)


@pytest.mark.parametrize("case", ["no hold", "hold forgotten"])
async def test_a_counter_whose_commit_was_lost_in_doubt_is_looked_at_again(
    acme_database: str, fresh_redis: str, case: str
) -> None:
    """It is committed, and nobody hears of it: Redis learns of the total all the same, without another increment."""
    with tempfile.TemporaryDirectory(prefix="tallygate-test-") as parent:
        async with (
            postgres_proxy(acme_database, Path(parent) / "postgres") as (database_address, postgres),
            redis_proxy(fresh_redis, Path(parent) / "redis") as (redis_address, redis),
            services(database_address, redis_address, hold_ttl_ms=500) as [cut_off],
            services(acme_database, fresh_redis) as [other],
        ):
            await outcome_of(cut_off, an_increment("ten", 3))
            assert await seen(other) == 3
            [(key, before)] = (await redis_counters(other)).items()
            if case == "no hold":
                redis.refuses = True
                redis.cut()
                await eventually(lambda: not cut_off.counters.ready)
            hurry(cut_off, 300)
            postgres.swallows_after = b"lost one"
            call = asyncio.ensure_future(outcome_of(cut_off, an_increment("ten", 2, dimensions={"label": "lost one"})))

            async def committed() -> bool:
                return await used(acme_database, "ten") == 5

            await eventually(committed)
            postgres.refuses = True
            postgres.cut()
            assert isinstance(await call, OutcomeUnknown)
            if case == "hold forgotten":
                await other.redis.execute("FLUSHALL")
                # As somebody may have read it just before the commit.
                await other.redis.execute("HSET", key, "c", before["c"], "v", before["v"])
            redis.refuses = postgres.refuses = False

            async def known() -> bool:
                return (await redis_counters(other))[key]["c"] == "5"

            await eventually(known)
            assert await seen(other) == 5
