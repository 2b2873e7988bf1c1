"""Checks beside changes: what holds after one, what is listed, and how long an answer may be kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.identifier import PlanKey
from tallygate_server.service import Service
from tallygate_server.subscriptions import ChangeTiming, NewSubscription
from tests.support.acme import ACME, ANN, a_check, an_increment, services
from tests.support.clock import FrozenClock


@pytest.fixture
async def pair(acme_database: str, fresh_redis: str) -> AsyncIterator[list[Service]]:
    async with services(acme_database, fresh_redis, 2) as running:
        yield running


async def test_a_counted_feature_that_is_lost_is_denied_at_once_on_every_server(pair: list[Service]) -> None:
    """The cached account still had a counter to read, the loaded one has none."""
    for service in pair:
        await service.meter.increment(an_increment("words"))
        await service.checker.check(a_check("words"))

    await pair[0].subscriptions.cancel(ACME, ANN, timing=ChangeTiming.NOW)
    answers = [await asyncio.wait_for(service.checker.check(a_check("words")), timeout=60) for service in pair]

    assert [answer.reason for answer in answers] == [Reason.SUBSCRIPTION_INACTIVE] * 2
    assert all(service.counters.ready for service in pair)


async def test_checks_of_one_tick_lose_and_keep_their_counters_side_by_side(pair: list[Service]) -> None:
    """Positions in one answer of Redis belong to the calls that asked for them."""
    server = pair[0]
    for account_id in (ANN, "bea"):
        await server.meter.increment(an_increment("words", 7, account_id=account_id))
    checks = [a_check("words"), a_check("words", account_id="bea"), a_check("export")]
    await server.checker.check_many(checks)

    await pair[1].subscriptions.cancel(ACME, ANN, timing=ChangeTiming.NOW)
    outcomes = await asyncio.wait_for(server.checker.check_many(checks), timeout=60)

    assert [getattr(outcome, "reason", None) for outcome in outcomes] == [
        Reason.SUBSCRIPTION_INACTIVE,
        Reason.OK,
        Reason.SUBSCRIPTION_INACTIVE,
    ]
    assert [getattr(outcome, "used_quantity", None) for outcome in outcomes] == [0, 7, 0]


async def test_an_exhausted_counter_is_listed_as_exhausted(pair: list[Service]) -> None:
    await pair[0].meter.increment(an_increment("ten", 10))

    listed = dict(await pair[0].checker.list_entitlements(ACME, ANN))

    assert listed["ten"].reason is Reason.EXHAUSTED
    assert listed["words"].reason is Reason.OK
    assert listed["export"].reason is Reason.OK


async def test_an_answer_may_not_be_kept_beyond_the_end_of_its_source(acme_database: str, fresh_redis: str) -> None:
    clock = FrozenClock(datetime(2026, 3, 1, 12, tzinfo=UTC))
    async with services(acme_database, fresh_redis, clock=clock) as (server,):
        await server.subscriptions.create(
            ACME,
            ANN,
            NewSubscription(plan_key=PlanKey("pro"), end_time=clock.now() + timedelta(seconds=20)),
        )

        near = await server.checker.check(a_check("history"))
        clock.advance(timedelta(seconds=20))
        after = await server.checker.check(a_check("history"))

    assert (near.value, near.cache_ttl_ms) == (180, 20_000)
    assert (after.value, after.cache_ttl_ms) == (30, 60_000)
