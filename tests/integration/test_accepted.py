"""Increments that are answered before they are committed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from tallygate_server.errors import InvalidRequest
from tallygate_server.metering import meter
from tallygate_server.service import Service
from tests.support.acme import allowed, an_increment, assert_books_balance, services, used
from tests.support.eventually import eventually


@pytest.fixture
async def pair(acme_database: str, fresh_redis: str) -> AsyncIterator[list[Service]]:
    async with services(acme_database, fresh_redis, 2) as running:
        # Known to Redis from here on: only then is a hold a promise.
        await running[0].meter.increment(an_increment())
        yield running


async def test_what_was_accepted_reaches_the_ledger_also_in_a_race_for_the_last_units(
    pair: list[Service], acme_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Committed and accepted calls race on two servers for more than there is, in unlike quantities."""
    # Commits are slow on a busy machine; whoever does not wait for the holds of others may take their room.
    monkeypatch.setattr(meter, "CONTENDED_SECONDS_MAX", 60.0)
    rng = random.Random(7)
    increments = [an_increment(quantity=rng.randint(1, 9), accepted=rng.random() < 0.5) for _ in range(400)]

    outcomes = await asyncio.gather(
        *(pair[i % 2].meter.increment_many([increment], atomic=False) for i, increment in enumerate(increments))
    )

    promised = 1 + sum(
        increment.quantity for increment, (outcome,) in zip(increments, outcomes, strict=True) if allowed([outcome])
    )

    async def all_there() -> bool:
        return await used(acme_database, "words") == promised

    await eventually(all_there)
    # Nothing that would still have fitted was turned away: less than one more of the largest quantity is left.
    assert 1000 - 9 < promised <= 1000
    await assert_books_balance(acme_database)


async def test_a_counter_does_not_go_down(pair: list[Service], acme_database: str) -> None:
    (outcome,) = await pair[0].meter.increment_many([an_increment(quantity=-1)], atomic=False)

    assert isinstance(outcome, InvalidRequest)
    assert [violation.field for violation in outcome.violations] == ["quantity"]
    assert await used(acme_database, "words") == 1
