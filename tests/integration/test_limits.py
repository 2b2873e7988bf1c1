"""A limit is never passed and never missed, however many race for it and whatever happens to Redis meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from tallygate_server.domain.call import IncrementAnswer
from tallygate_server.domain.entitlement import Reason
from tallygate_server.embedded import EmbeddedServers
from tallygate_server.errors import TallygateError
from tallygate_server.service import Service
from tests.support.acme import (
    a_check,
    allowed,
    an_increment,
    assert_redis_agrees,
    change_plan,
    denied,
    failed,
    fetch,
    outcome_of,
    services,
    used,
)
from tests.support.eventually import eventually
from tests.support.faulty_proxy import redis_proxy

CALLERS = 200
Outcomes = list[IncrementAnswer | TallygateError]


async def race(running: list[Service], feature_key: str, quantities: Callable[[int, int], int | None]) -> Outcomes:
    """Let 200 callers increment, spread over the servers, until their quantities run out (None)."""
    outcomes: Outcomes = []

    async def caller(i: int) -> None:
        n = 0
        while (quantity := quantities(i, n)) is not None:
            outcomes.append(await outcome_of(running[i % len(running)], an_increment(feature_key, quantity)))
            n += 1

    await asyncio.gather(*(caller(i) for i in range(CALLERS)))
    return outcomes


@asynccontextmanager
async def meanwhile(disturb: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Do something over and over while the block runs."""
    over = False

    async def again() -> None:
        while not over:
            await disturb()

    task = asyncio.create_task(again())
    try:
        yield
    finally:
        over = True
        await task


def seven_units_each(_caller: int, n: int) -> int | None:
    return 1 if n < 7 else None


def units_until(disturbed: Callable[[], bool]) -> Callable[[int, int], int | None]:
    """Ask for more than there is, and go on until there was disturbance enough, however fast the machine."""
    return lambda _caller, n: 1 if n < 7 or not disturbed() else None


def mixed_quantities(caller: int, n: int) -> int | None:
    return random.Random(caller * 1000 + n).choice([1, 2, 3, 5, 8, 13]) if n < 6 else None


def assert_nothing_missed(outcomes: Outcomes, limit: int, quantities: list[int]) -> None:
    """Check that no refused quantity would have fitted into what was left in the end."""
    answers = allowed(outcomes)
    totals = sorted(answer.used_quantity for answer in answers)
    assert totals[-1] <= limit
    if denied(outcomes):
        # Totals only grow, so whoever was refused met at most the final total.
        assert limit - totals[-1] < max(quantities)


@pytest.mark.parametrize("servers_count", [1, 2])
async def test_two_hundred_callers_get_exactly_the_limit(
    acme_database: str, fresh_redis: str, servers_count: int
) -> None:
    async with services(acme_database, fresh_redis, servers_count) as running:
        outcomes = await race(running, "words", seven_units_each)

        assert not failed(outcomes)
        assert sorted(answer.used_quantity for answer in allowed(outcomes)) == list(range(1, 1001))
        assert len(denied(outcomes)) == 400
        assert {answer.reason for answer in denied(outcomes)} == {Reason.EXHAUSTED}
        assert await used(acme_database, "words") == 1000
        await assert_redis_agrees(running[0], acme_database)


async def test_the_limit_holds_while_redis_is_flushed(
    acme_database: str, fresh_redis: str, servers: EmbeddedServers
) -> None:
    flushes = 0

    async def flush() -> None:
        nonlocal flushes
        await servers.flush_redis()
        flushes += 1

    async with services(acme_database, fresh_redis, 2) as running:
        async with meanwhile(flush):
            outcomes = await race(running, "words", units_until(lambda: flushes > 10))

        assert not failed(outcomes)
        assert sorted(answer.used_quantity for answer in allowed(outcomes)) == list(range(1, 1001))
        assert {answer.reason for answer in denied(outcomes)} == {Reason.EXHAUSTED}


async def test_the_limit_holds_while_the_way_to_redis_breaks(acme_database: str, fresh_redis: str) -> None:
    cuts = 0
    with tempfile.TemporaryDirectory(prefix="tallygate-test-") as parent:
        async with (
            redis_proxy(fresh_redis, Path(parent) / "wire") as (address, proxy),
            services(acme_database, address, 2) as running,
        ):

            async def cut() -> None:
                nonlocal cuts
                await eventually(lambda: any(service.counters.ready for service in running))
                proxy.cut()
                cuts += 1
                await asyncio.sleep(0)

            async with meanwhile(cut):
                outcomes = await race(running, "words", units_until(lambda: cuts > 3))

            assert not failed(outcomes)
            assert sorted(answer.used_quantity for answer in allowed(outcomes)) == list(range(1, 1001))


@pytest.mark.parametrize("flushed", [False, True])
async def test_mixed_quantities_fill_the_limit_without_a_refusal_too_many(
    acme_database: str, fresh_redis: str, servers: EmbeddedServers, *, flushed: bool
) -> None:
    async with services(acme_database, fresh_redis, 2) as running:
        async with meanwhile(servers.flush_redis) if flushed else contextlib.nullcontext():
            outcomes = await race(running, "words", mixed_quantities)
        rest = 1000 - await used(acme_database, "words")

        assert not failed(outcomes)
        assert_nothing_missed(outcomes, 1000, [1, 2, 3, 5, 8, 13])
        if rest:
            assert isinstance(last := await outcome_of(running[0], an_increment("words", rest)), IncrementAnswer)
            assert last.used_quantity == 1000


async def test_a_refused_call_would_not_have_fitted_where_it_stands(acme_database: str, fresh_redis: str) -> None:
    """Every refusal is recorded with the total that it met: with the call's quantity that is above the limit."""
    async with services(acme_database, fresh_redis, 2) as running:
        outcomes = await race(running, "words", mixed_quantities)

        async def recorded() -> list[asyncpg.Record] | None:
            rows = await fetch(acme_database, "SELECT quantity, used_quantity, limit_quantity FROM usage_denials")
            return rows if len(rows) >= len(denied(outcomes)) else None

        assert denied(outcomes)
        denials = await eventually(recorded)

    assert denials is not None
    assert len(denials) == len(denied(outcomes))
    for row in denials:
        assert row["used_quantity"] + row["quantity"] > row["limit_quantity"] == 1000


@pytest.mark.parametrize("flushed", [False, True])
async def test_gauges_stay_between_zero_and_their_limit(
    acme_database: str, fresh_redis: str, servers: EmbeddedServers, *, flushed: bool
) -> None:
    async with services(acme_database, fresh_redis, 2) as running:
        async with meanwhile(servers.flush_redis) if flushed else contextlib.nullcontext():
            outcomes = await race(
                running,
                "devices",
                lambda caller, n: random.Random(caller * 7 + n).choice([1, 2, -1, -2, 3]) if n < 4 else None,
            )

        reasons = {answer.reason for answer in denied(outcomes)}
        assert not failed(outcomes)
        assert all(0 <= answer.used_quantity <= 5 for answer in allowed(outcomes))
        assert reasons == {Reason.EXHAUSTED, Reason.BELOW_ZERO}
        assert 0 <= await used(acme_database, "devices") <= 5


async def test_what_a_gauge_gives_back_can_be_taken_at_once(acme_database: str, fresh_redis: str) -> None:
    async with services(acme_database, fresh_redis, 2) as [one, other]:
        for _ in range(20):
            full = await outcome_of(one, an_increment("devices", 5))
            more = await outcome_of(other, an_increment("devices"))
            back = await outcome_of(other, an_increment("devices", -5))
            below = await outcome_of(one, an_increment("devices", -1))

            assert len(allowed([full, back])) == 2
            assert [answer.reason for answer in denied([more, below])] == [Reason.EXHAUSTED, Reason.BELOW_ZERO]


async def test_soft_limits_allow_and_say_overage(acme_database: str, fresh_redis: str) -> None:
    async with services(acme_database, fresh_redis, 2) as running:
        outcomes = await race(running, "soft", lambda _caller, n: 1 if n < 1 else None)

        assert len(allowed(outcomes)) == CALLERS
        by_total = {answer.used_quantity: answer for answer in allowed(outcomes)}
        assert sorted(by_total) == list(range(1, CALLERS + 1))
        assert {by_total[n].reason for n in range(1, 11)} == {Reason.OK}
        assert {by_total[n].reason for n in range(11, CALLERS + 1)} == {Reason.OVERAGE}
        crossed = {n: answer.threshold_percent for n, answer in by_total.items() if answer.threshold_percent}
        assert crossed == {10: 100, 20: 200}


async def test_without_a_limit_everything_is_counted(acme_database: str, fresh_redis: str) -> None:
    async with services(acme_database, fresh_redis, 2) as running:
        outcomes = await race(running, "endless", lambda _caller, n: 10**12 if n < 2 else None)

        assert {answer.reason for answer in allowed(outcomes)} == {Reason.UNLIMITED}
        assert sorted(answer.used_quantity for answer in allowed(outcomes)) == [
            n * 10**12 for n in range(1, 2 * CALLERS + 1)
        ]


async def test_a_limit_of_zero_lets_nothing_through(acme_database: str, fresh_redis: str) -> None:
    async with services(acme_database, fresh_redis, 2) as running:
        outcomes = await race(running, "none", lambda _caller, n: 1 if n < 2 else None)

        assert {answer.reason for answer in denied(outcomes)} == {Reason.EXHAUSTED}
        assert len(denied(outcomes)) == 2 * CALLERS
        assert await used(acme_database, "none") == 0


async def test_the_largest_limit_is_kept_to_the_unit(acme_database: str, fresh_redis: str) -> None:
    async with services(acme_database, fresh_redis, 2) as running:
        filled = await asyncio.gather(
            *(running[i % 2].meter.increment_many([an_increment("much", 10**12)] * 111, atomic=False) for i in range(9))
        )
        last = await race(running, "much", lambda _caller, n: 10**12 - 1 if n < 1 else None)
        rest = await outcome_of(running[0], an_increment("much", 10**12))
        one = await race(running, "much", lambda _caller, n: 1 if n < 1 else None)

        assert sum(len(allowed(outcomes)) for outcomes in filled) == 999
        assert len(allowed(last)) == 1
        assert len(allowed(one)) == 1
        assert denied([rest])
        assert await used(acme_database, "much") == 10**15


async def test_thresholds_are_crossed_exactly_once(acme_database: str, fresh_redis: str) -> None:
    async with services(acme_database, fresh_redis, 2) as running:
        outcomes = await race(running, "words", mixed_quantities)

        crossings = sorted(answer.threshold_percent for answer in allowed(outcomes) if answer.threshold_percent)
        total = max(answer.used_quantity for answer in allowed(outcomes))
        assert crossings == ([50, 80, 100] if total == 1000 else [50, 80])


async def test_a_lower_limit_after_a_downgrade_counts_at_once(acme_database: str, fresh_redis: str) -> None:
    async with services(acme_database, fresh_redis, 2) as [one, other]:
        await outcome_of(one, an_increment("ten", 4))
        await outcome_of(other, an_increment("ten", 1))
        await change_plan(one, "bare")

        refused = await asyncio.gather(*(outcome_of(service, an_increment("ten")) for service in (one, other) * 10))
        down = await outcome_of(other, an_increment("devices", 1))

        assert {answer.reason for answer in denied(refused)} == {Reason.EXHAUSTED}
        assert {answer.limit_quantity for answer in denied(refused)} == {1}
        assert allowed([down])


async def test_a_gauge_above_its_lowered_limit_can_only_go_down(acme_database: str, fresh_redis: str) -> None:
    async with services(acme_database, fresh_redis) as [service]:
        await outcome_of(service, an_increment("devices", 4))
        await change_plan(service, "bare")

        up = await outcome_of(service, an_increment("devices", 1))
        down = await outcome_of(service, an_increment("devices", -1))
        check = await service.checker.check(a_check("devices", 0))

        assert [answer.reason for answer in denied([up])] == [Reason.EXHAUSTED]
        assert [answer.used_quantity for answer in allowed([down])] == [3]
        assert check.remaining_quantity == 0


async def test_plans_that_change_under_load_are_obeyed_by_each_call(acme_database: str, fresh_redis: str) -> None:
    """Calls that see different limits meet in one group; each is held to its own."""
    async with services(acme_database, fresh_redis, 2) as running:
        await outcome_of(running[0], an_increment("ten"))
        plans = itertools.cycle(["pro", "free"])

        async def change() -> None:
            await change_plan(running[1], next(plans))

        async with meanwhile(change):
            outcomes = await race(running, "ten", lambda _caller, n: 1 if n < 3 else None)

        assert not failed(outcomes)
        for answer in allowed(outcomes):
            assert answer.used_quantity <= answer.limit_quantity
            assert answer.limit_quantity in (10, 20)
