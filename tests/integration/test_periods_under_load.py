"""Counters roll over at their boundaries while calls come in, whatever the clock does."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from tallygate_server.accounts import AccountUpdate
from tallygate_server.counters import keys
from tallygate_server.domain.call import IncrementAnswer
from tallygate_server.domain.identifier import AccountId
from tallygate_server.service import Service
from tests.support.acme import (
    ACME,
    ANN,
    a_check,
    allowed,
    an_increment,
    assert_redis_agrees,
    denied,
    fetch,
    outcome_of,
    redis_counters,
    services,
)
from tests.support.clock import FrozenClock
from tests.support.eventually import eventually

MIDNIGHT = datetime(2026, 3, 16, tzinfo=UTC)
MS = timedelta(milliseconds=1)


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(MIDNIGHT - timedelta(minutes=1))


@pytest.fixture
async def pair(acme_database: str, fresh_redis: str, clock: FrozenClock) -> AsyncIterator[list[Service]]:
    async with services(acme_database, fresh_redis, 2, clock=clock) as running:
        await outcome_of(running[0], an_increment("endless"))
        yield running


def by_period(answers: list[IncrementAnswer]) -> dict[datetime | None, list[int]]:
    """Return the totals of each period, sorted."""
    totals: defaultdict[datetime | None, list[int]] = defaultdict(list)
    for answer in answers:
        totals[answer.reset_time].append(answer.used_quantity)
    return {reset_time: sorted(used) for reset_time, used in totals.items()}


async def exhausted(service: Service) -> None:
    """Wait until the present day has nothing left."""

    async def full() -> bool:
        return not (await service.checker.check(a_check("ten"))).reason.allows

    await eventually(full)


async def test_each_day_has_its_own_limit_under_load(pair: list[Service], clock: FrozenClock) -> None:
    """Three midnights pass while 30 callers go on: no unit of a day is lost, none is taken from another."""
    clock.set(MIDNIGHT - 5 * MS)
    over = False

    async def caller(i: int) -> list[IncrementAnswer]:
        heard: list[IncrementAnswer] = []
        while not over:
            outcome = await outcome_of(pair[i % 2], an_increment("ten"))
            assert isinstance(outcome, IncrementAnswer)
            heard.append(outcome)
        return heard

    callers = [asyncio.create_task(caller(i)) for i in range(30)]
    for day in range(3):
        clock.set(MIDNIGHT + timedelta(days=day) - 5 * MS)
        await exhausted(pair[0])
        for _ in range(10):
            await outcome_of(pair[0], an_increment("endless"))
            clock.advance(MS)
    await exhausted(pair[1])
    over = True
    answers = [answer for heard in await asyncio.gather(*callers) for answer in heard]

    totals = by_period([answer for answer in answers if answer.reason.allows])
    assert totals == {MIDNIGHT + timedelta(days=day): list(range(1, 11)) for day in range(4)}
    for answer in denied(answers):
        assert answer.reset_time in totals


async def test_the_last_and_the_first_instant_of_a_day_are_told_apart(pair: list[Service], clock: FrozenClock) -> None:
    clock.set(MIDNIGHT - timedelta(microseconds=1))
    last = await outcome_of(pair[0], an_increment("ten", 9))
    clock.set(MIDNIGHT)
    first = await outcome_of(pair[1], an_increment("ten", 9))

    assert by_period(allowed([last, first])) == {MIDNIGHT: [9], MIDNIGHT + timedelta(days=1): [9]}


async def test_billing_months_are_clamped_and_come_back(
    acme_database: str, fresh_redis: str, clock: FrozenClock
) -> None:
    start = datetime(2026, 1, 31, 10, 30, 15, 123_456, tzinfo=UTC)
    clock.set(start)
    async with services(acme_database, fresh_redis, 2, clock=clock) as pair:
        resets = []
        for n, month in enumerate(["2026-02-28", "2026-03-31", "2026-04-30", "2026-05-31"]):
            boundary = datetime.fromisoformat(f"{month}T10:30:15.123456+00:00")
            within = await outcome_of(pair[n % 2], an_increment("billed", 60))
            # The same month until its last millisecond: no room for 60 more.
            clock.set(boundary - MS)
            late = await outcome_of(pair[n % 2], an_increment("billed", 60))
            await assert_redis_agrees(pair[0], acme_database)
            resets += [answer.reset_time for answer in allowed([within])]
            assert denied([late])
            clock.set(boundary)

    assert [reset.isoformat()[:10] for reset in resets if reset] == [
        "2026-02-28",
        "2026-03-31",
        "2026-04-30",
        "2026-05-31",
    ]


async def test_the_sweeper_finds_the_counters_of_billing_months(
    acme_database: str, fresh_redis: str, clock: FrozenClock
) -> None:
    """Their starts have microseconds; a sweep that misses them would tell Redis that nothing is used."""
    clock.set(datetime(2026, 1, 31, 10, 30, 15, 123_456, tzinfo=UTC))
    async with services(acme_database, fresh_redis, clock=clock) as [service]:
        await outcome_of(service, an_increment("billed", 100))
        [(key, state)] = (await counters_of(service, "billed")).items()
        batch = f"{service.server_id}:lost"
        await service.redis.execute("HSET", key, "h", "5", f"h:{batch}", "5")
        await service.redis.execute("SADD", "tg:servers", service.server_id)
        await service.redis.execute("HSET", f"tg:holds:{service.server_id}", batch, f"{clock.now_ms() + 1000} {key}")
        await service.redis.execute("SADD", keys.SERVERS, service.server_id)
        early = await service.sweeper.sweep()
        clock.advance(timedelta(seconds=2))
        late = await service.sweeper.sweep()

        assert state["c"] == "100"
        assert (early, late) == (0, 1)
        await assert_redis_agrees(service, acme_database)
        await service.redis.execute("DEL", key)
        assert (await service.checker.check(a_check("billed"))).used_quantity == 100


async def counters_of(service: Service, feature_key: str) -> dict[str, dict[str, str]]:
    return {key: state for key, state in (await redis_counters(service)).items() if f":{feature_key}:" in key}


async def test_what_happened_yesterday_counts_yesterday(pair: list[Service], clock: FrozenClock) -> None:
    clock.set(MIDNIGHT + timedelta(hours=1))
    yesterday = MIDNIGHT - timedelta(hours=3)

    late = await outcome_of(pair[0], an_increment("ten", 8, event_time=yesterday))
    now = await outcome_of(pair[1], an_increment("ten", 8))
    too_much = await outcome_of(pair[1], an_increment("ten", 3, event_time=yesterday))
    usage = await pair[0].usage.usage(ACME, ANN, an_increment("ten").feature_key, yesterday)

    assert by_period(allowed([late, now])) == {MIDNIGHT: [8], MIDNIGHT + timedelta(days=1): [8]}
    assert [answer.reset_time for answer in denied([too_much])] == [MIDNIGHT]
    assert usage.used_quantity == 8


async def test_a_clock_that_steps_back_counts_in_the_older_period_again(
    pair: list[Service], clock: FrozenClock, acme_database: str
) -> None:
    before = await outcome_of(pair[0], an_increment("ten", 4))
    clock.set(MIDNIGHT + timedelta(minutes=5))
    after = await outcome_of(pair[0], an_increment("ten", 4))
    clock.set(MIDNIGHT - timedelta(minutes=5))
    back = await outcome_of(pair[0], an_increment("ten", 4))
    forth_again = []
    for minutes in (6, -6, 7, -7):
        clock.set(MIDNIGHT + timedelta(minutes=minutes))
        forth_again.append(await outcome_of(pair[1], an_increment("ten", 1)))

    answers = allowed([before, after, back, *forth_again])
    assert by_period(answers) == {MIDNIGHT: [4, 8, 9, 10], MIDNIGHT + timedelta(days=1): [4, 5, 6]}
    rows = await fetch(acme_database, "SELECT entry_id FROM usage_entries")
    assert len({row["entry_id"] for row in rows}) == len(rows)


async def test_servers_whose_clocks_differ_keep_both_days_exact(acme_database: str, fresh_redis: str) -> None:
    ahead, behind = FrozenClock(MIDNIGHT + timedelta(minutes=30)), FrozenClock(MIDNIGHT - timedelta(minutes=30))
    async with (
        services(acme_database, fresh_redis, clock=ahead) as [one],
        services(acme_database, fresh_redis, clock=behind) as [other],
    ):
        outcomes = await asyncio.gather(*(outcome_of((one, other)[i % 2], an_increment("ten")) for i in range(60)))

        assert by_period(allowed(outcomes)) == {
            MIDNIGHT: list(range(1, 11)),
            MIDNIGHT + timedelta(days=1): list(range(1, 11)),
        }


async def test_days_of_the_account_begin_where_it_lives(pair: list[Service], clock: FrozenClock) -> None:
    """Over the night in which Berlin's clocks go forward: 23 hours, one limit."""
    berlin = AccountId("berlin")
    await outcome_of(pair[0], an_increment("local", account_id=berlin))
    await pair[0].accounts.update(ACME, berlin, AccountUpdate(time_zone="Europe/Berlin"))
    chance = random.Random(1)
    at = datetime(2026, 3, 28, 22, 0, tzinfo=UTC)
    seen: defaultdict[datetime | None, list[int]] = defaultdict(list)
    while at < datetime(2026, 3, 30, 23, 0, tzinfo=UTC):
        clock.set(at)
        [answer] = allowed([await outcome_of(chance.choice(pair), an_increment("local", account_id=berlin))])
        seen[answer.reset_time].append(answer.used_quantity)
        at += timedelta(minutes=30)

    assert list(seen) == [
        datetime(2026, 3, 28, 23, 0, tzinfo=UTC),
        datetime(2026, 3, 29, 22, 0, tzinfo=UTC),
        datetime(2026, 3, 30, 22, 0, tzinfo=UTC),
        datetime(2026, 3, 31, 22, 0, tzinfo=UTC),
    ]
    assert [len(totals) for totals in seen.values()] == [2, 46, 48, 2]
    assert all(totals == list(range(totals[0], totals[0] + len(totals))) for totals in seen.values())
