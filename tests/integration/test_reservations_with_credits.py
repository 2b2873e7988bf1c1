"""Reservations of a feature whose limit is an allowance, what rolled over to it, and credits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from tallygate_server.domain.catalog import OverrunPolicy
from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.identifier import FeatureKey
from tallygate_server.domain.reservation import Settlement
from tallygate_server.service import Service
from tests.support import reservations
from tests.support.acme import ANN, assert_books_balance, services
from tests.support.clock import FrozenClock
from tests.support.credits import CREDITA, a_credit, apply_catalog, assert_credits_balance, balances, give, spend, spent
from tests.support.reservations import HOUR

BEGIN = datetime(2026, 1, 10, tzinfo=UTC)
FEBRUARY = datetime(2026, 2, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)

reserve = partial(reservations.reserve, tenant_id=CREDITA)
reserved = partial(reservations.reserved, tenant_id=CREDITA)
commit = partial(reservations.commit, tenant_id=CREDITA)
release = partial(reservations.release, tenant_id=CREDITA)


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(BEGIN)


@pytest.fixture
async def server(fresh_database: str, fresh_redis: str, clock: FrozenClock) -> AsyncIterator[Service]:
    """Serve a tenant with credits, whose books must balance in the end."""
    async with services(fresh_database, fresh_redis, clock=clock) as [running]:
        await apply_catalog(running)
        yield running
    await assert_books_balance(fresh_database)


async def quota(server: Service, feature_key: str = "words") -> tuple[int, int, int, int]:
    """Return (limit, used, held, remaining), as everybody sees them."""
    usage = await server.usage.usage(CREDITA, ANN, FeatureKey(feature_key))
    return usage.limit_quantity, usage.used_quantity, usage.held_quantity, usage.remaining_quantity


async def test_a_reservation_may_reach_into_credits_and_burns_what_it_really_took(
    server: Service, fresh_database: str
) -> None:
    grant = await give(server, a_credit(5))
    denied = await reserve(server, "words", 16)
    answer = await reserve(server, "words", 14)
    held = await quota(server)
    assert answer.reservation is not None

    counted = await commit(server, answer.reservation.reservation_id, 12)

    assert (denied.reason, denied.limit_quantity, denied.remaining_quantity) == (Reason.EXHAUSTED, 15, 15)
    assert (answer.limit_quantity, answer.held_quantity, answer.remaining_quantity) == (15, 14, 1)
    assert held == (15, 0, 14, 1)
    assert (counted.settlement, counted.limit_quantity, counted.remaining_quantity) == (Settlement.RETURNED, 15, 3)
    assert await quota(server) == (15, 12, 0, 3)
    assert await balances(fresh_database) == {(grant.grant.grant_id, BEGIN): (5, 2)}
    await assert_credits_balance(fresh_database)


async def test_what_is_released_burns_nothing(server: Service, fresh_database: str) -> None:
    await give(server, a_credit(5))
    answer = await release(server, await reserved(server, "words", 15))

    assert answer.remaining_quantity == 15
    assert await quota(server) == (15, 0, 0, 15)
    assert not any(used for _, used in (await balances(fresh_database)).values())


async def test_beside_a_reservation_of_the_allowance_increments_burn_credits(
    server: Service, fresh_database: str
) -> None:
    grant = await give(server, a_credit(5))
    reservation_id = await reserved(server, "words", 10)

    beside = await spend(server, 3)
    over = await spent(server, 3)
    counted = await commit(server, reservation_id)

    assert (beside.used_quantity, beside.held_quantity, beside.remaining_quantity) == (3, 10, 2)
    assert not over
    assert (counted.used_quantity, counted.remaining_quantity) == (13, 2)
    assert await balances(fresh_database) == {(grant.grant.grant_id, BEGIN): (5, 3)}
    await assert_credits_balance(fresh_database)


async def test_a_surplus_is_taken_from_credits_and_an_overdraft_is_paid_by_nobody(
    server: Service, fresh_database: str
) -> None:
    grant = await give(server, a_credit(5))
    first, second = await reserved(server, "words", 2), await reserved(server, "words", 2)

    taken = await commit(server, first, 12)
    rejected = await commit(server, second, 4)
    overdrawn = await commit(server, second, 4, overrun_policy=OverrunPolicy.OVERDRAW)

    assert (taken.settlement, taken.remaining_quantity) == (Settlement.SURPLUS_TAKEN, 1)
    assert rejected.settlement is Settlement.REJECTED
    assert (overdrawn.settlement, overdrawn.overdrawn_quantity) == (Settlement.OVERDRAWN, 1)
    assert overdrawn.used_quantity == 16
    assert await balances(fresh_database) == {(grant.grant.grant_id, BEGIN): (5, 5)}


async def test_a_reservation_that_outlives_its_period_counts_beside_what_rolled_over(
    server: Service, fresh_database: str, clock: FrozenClock
) -> None:
    clock.set(FEBRUARY - SECOND)
    reservation_id = await reserved(server, "rolling", 6, ttl=HOUR)
    clock.set(FEBRUARY)
    # Four of January's ten are neither used nor promised.
    assert await spent(server, 1, "rolling")
    february = await quota(server, "rolling")

    counted = await commit(server, reservation_id, 5)

    assert february == (14, 1, 0, 13)
    assert (counted.used_quantity, counted.reservation.period.end) == (5, FEBRUARY)
    assert await quota(server, "rolling") == february
    await assert_credits_balance(fresh_database)
