"""Simulations against what really happened."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tallygate_server.domain.entitlement import Reason
from tallygate_server.service import Service
from tallygate_server.simulation import (
    SimulatedAccount,
    SimulationProgress,
    SimulationTotals,
    SimulationUpdate,
    WantedSimulation,
)
from tests.support.acme import ACME, ANN, BOB, an_increment, services
from tests.support.clock import FrozenClock

START = datetime(2026, 3, 15, 12, 0, tzinfo=UTC)


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(START)


@pytest.fixture
async def service(acme_database: str, fresh_redis: str, clock: FrozenClock) -> AsyncIterator[Service]:
    async with services(acme_database, fresh_redis, clock=clock) as [running]:
        yield running


async def simulated(service: Service, **wanted: Any) -> list[SimulationUpdate]:
    """Simulate a window of a day before and after, and return all that is told."""
    given = {
        "tenant_id": ACME,
        "draft": None,
        "start_time": START - timedelta(days=1),
        "end_time": START + timedelta(days=40),
    }
    async with aclosing(service.simulations.simulate(WantedSimulation(**(given | wanted)))) as updates:
        return [update async for update in updates]


def accounts(updates: Sequence[SimulationUpdate]) -> list[SimulatedAccount]:
    return [update for update in updates if isinstance(update, SimulatedAccount)]


def totals(updates: Sequence[SimulationUpdate]) -> SimulationTotals:
    last = updates[-1]
    assert isinstance(last, SimulationTotals)
    return last


async def test_the_plans_in_force_deny_what_they_denied(service: Service, acme_database: str) -> None:
    await service.meter.increment_many([an_increment("ten", 4) for _ in range(5)], atomic=False)
    await service.meter.increment_many([an_increment("ten", 10, account_id=BOB)], atomic=False)
    await service.meter._denials.drain()

    updates = await simulated(service, include_denied_usage=True)
    without = await simulated(service)

    [only] = accounts(updates)
    assert (only.account_id, only.denied_count, only.denied_quantity, only.reason) == (ANN, 3, 12, Reason.EXHAUSTED)
    assert (only.real_denied_count, only.used_quantity, only.limit_quantity, only.plan_key) == (3, 8, 10, "free")
    assert isinstance(updates[0], SimulationProgress)
    assert totals(updates).unexplained_count == 0
    assert accounts(without) == []
