"""Simulations against what really happened."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import pytest

from tallygate_server.bench.simulation import DAYS, measure
from tallygate_server.catalog import CatalogSource
from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.limits import CATALOG_BYTES_MAX
from tallygate_server.errors import CatalogConflict, CatalogInvalid, InvalidRequest, Overloaded, TenantNotFound
from tallygate_server.service import Service
from tallygate_server.simulation import (
    SIMULATIONS_AT_ONCE_MAX,
    SimulatedAccount,
    SimulationJob,
    SimulationProgress,
    SimulationTotals,
    SimulationUpdate,
    WantedSimulation,
)
from tallygate_server.simulation.job import SimulationFailed
from tallygate_server.storage.replay_rows import ACCOUNTS_PER_READ_MAX, REVISIONS_PER_READ_MAX
from tests.support.acme import ACME, ANN, BOB, an_increment, change_plan, services
from tests.support.clock import FrozenClock
from tests.support.tallygate_process import environ

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


DRAFT = """
tenant: acme
default_plan: free
features:
  ten: {kind: counter}
  devices: {kind: gauge}
plans:
  free:
    allowances:
      ten: {limit: LIMIT, period: PERIOD}
      devices: 1
"""


def a_draft(limit: int, period: str = "day") -> CatalogSource:
    return CatalogSource(DRAFT.replace("LIMIT", str(limit)).replace("PERIOD", period))


async def use(service: Service, quantity: int, *, account_id: str = ANN, feature_key: str = "ten") -> None:
    for _ in range(quantity):
        await service.meter.increment(an_increment(feature_key, account_id=account_id))


async def test_a_draft_is_told_by_account_and_feature_with_totals_at_the_end(
    service: Service, clock: FrozenClock
) -> None:
    await use(service, 3, feature_key="devices")
    clock.advance(timedelta(hours=30))
    await use(service, 7)
    await use(service, 4, account_id=BOB)

    updates = await simulated(service, draft=a_draft(5), start_time=START)

    found = {(each.account_id, each.feature_key): each for each in accounts(updates)}
    assert found.keys() == {(ANN, "devices"), (ANN, "ten")}
    assert (found[ANN, "ten"].denied_count, found[ANN, "ten"].used_quantity) == (2, 7)
    assert found[ANN, "ten"].first_denial_time == START + timedelta(hours=30)
    assert (found[ANN, "devices"].denied_count, found[ANN, "devices"].limit_quantity) == (2, 1)
    last = totals(updates)
    assert (last.entry_count, last.account_count, last.denied_account_count) == (14, 2, 1)
    assert (last.denied_count, last.denied_quantity, last.first_day_account_count) == (4, 4, 1)


async def test_a_draft_with_longer_periods_counts_what_was_used_before_the_window(
    service: Service, clock: FrozenClock
) -> None:
    for _ in range(3):
        await use(service, 6)
        clock.advance(timedelta(days=1))

    monthly = await simulated(service, draft=a_draft(15, "month"), start_time=START + timedelta(days=2))
    hourly = await simulated(service, draft=a_draft(5, "hour"), start_time=START + timedelta(days=2))

    assert [each.denied_count for each in accounts(monthly)] == [3]
    assert [each.denied_count for each in accounts(hourly)] == [1]
    assert totals(monthly).entry_count == 6


async def test_plans_that_the_draft_lacks_stay_as_each_subscription_has_them(service: Service) -> None:
    await use(service, 6)
    await use(service, 1, account_id=BOB)
    await change_plan(service, "pro", account_id=BOB)
    await use(service, 15, account_id=BOB)

    updates = await simulated(service, draft=a_draft(5))

    assert [(each.account_id, each.denied_count) for each in accounts(updates)] == [(ANN, 1)]


async def test_what_is_simulated_can_be_narrowed_down(service: Service) -> None:
    await service.accounts.identify(ACME, [], account_id=BOB)
    await change_plan(service, "pro", account_id=BOB)
    for account_id in (ANN, BOB):
        await use(service, 4, account_id=account_id)
        await use(service, 3, account_id=account_id, feature_key="devices")
    zero = CatalogSource(
        DRAFT.replace("LIMIT", "0").replace("PERIOD", "day")
        + "  pro:\n    allowances:\n      ten: {limit: 0, period: day}\n"
    )

    async def found(**wanted: Any) -> set[tuple[str, str]]:
        updates = await simulated(service, draft=zero, **wanted)
        assert totals(updates).account_count == len({each.account_id for each in accounts(updates)})
        return {(each.account_id, each.feature_key) for each in accounts(updates)}

    # The draft's pro plan gives no devices at all: none of them would have been let in.
    assert await found() == {(ANN, "ten"), (ANN, "devices"), (BOB, "ten"), (BOB, "devices")}
    assert await found(account_id=ANN) == {(ANN, "ten"), (ANN, "devices")}
    assert await found(feature_key="ten") == {(ANN, "ten"), (BOB, "ten")}
    assert await found(plan_key="pro") == {(BOB, "ten"), (BOB, "devices")}
    assert await found(account_id=ANN, plan_key="pro") == set()


async def test_the_window_is_half_open(service: Service, clock: FrozenClock) -> None:
    await use(service, 1)
    clock.advance(timedelta(hours=1))
    await use(service, 1)
    clock.advance(timedelta(hours=1))
    await use(service, 1)

    updates = await simulated(service, start_time=START + timedelta(hours=1), end_time=START + timedelta(hours=2))

    assert totals(updates).entry_count == 1


async def test_a_plan_change_in_the_window_is_seen_in_the_history(service: Service, clock: FrozenClock) -> None:
    await use(service, 12)
    clock.advance(timedelta(minutes=1))
    await change_plan(service, "pro")
    await use(service, 12)
    await service.meter._denials.drain()

    updates = await simulated(service, include_denied_usage=True)

    [only] = accounts(updates)
    assert (only.denied_count, only.real_denied_count, only.limit_quantity) == (4, 4, 10)
    assert totals(updates).unexplained_count == 0


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ({"tenant_id": TenantId("nobody")}, TenantNotFound),
        ({"end_time": START - timedelta(days=1)}, InvalidRequest),
        ({"draft": CatalogSource("tenant: acme\nplans: [")}, CatalogInvalid),
        ({"draft": CatalogSource("tenant: somebody")}, CatalogInvalid),
        ({"draft": CatalogSource("tenant: acme\nfeatures:\n  ten: {kind: boolean}")}, CatalogConflict),
    ],
    ids=["unknown tenant", "empty window", "no catalog", "another tenant's", "another kind of feature"],
)
async def test_what_cannot_be_simulated_is_refused_by_name(
    service: Service, wanted: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await simulated(service, **wanted)


async def test_a_simulation_that_nobody_listens_to_ends_and_leaves_no_process(service: Service) -> None:
    await use(service, 1)
    running = service.simulations.simulate(a_window())
    await anext(running)
    assert len(simulations_of_this_process()) == 1

    await running.aclose()

    assert simulations_of_this_process() == []


async def test_so_many_run_at_a_time_and_one_more_is_told_to_wait(service: Service) -> None:
    await use(service, 1)
    running = [service.simulations.simulate(a_window()) for _ in range(SIMULATIONS_AT_ONCE_MAX)]
    for each in running:
        await anext(each)

    with pytest.raises(Overloaded):
        await simulated(service)

    for each in running:
        await each.aclose()
    assert totals(await simulated(service)).entry_count == 1


async def test_a_process_that_dies_is_told_as_a_failure(service: Service) -> None:
    await use(service, 1)
    running = service.simulations.simulate(a_window())
    await anext(running)
    [process] = simulations_of_this_process()

    process.kill()

    with pytest.raises(SimulationFailed):
        await remaining(running)
    assert simulations_of_this_process() == []


@pytest.mark.parametrize("job", [b"", b"{", None], ids=["before the job", "in the middle of it", "after it"])
async def test_the_process_ends_with_the_server_that_started_it(acme_database: str, job: bytes | None) -> None:
    """Its standard input ends then."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tallygate_server.simulation", stdin=PIPE, stdout=PIPE, env=environ()
    )
    line = a_job(acme_database).to_line() if job is None else job

    async with asyncio.timeout(300):
        output, _ = await process.communicate(line)

    assert b"totals" not in output
    assert process.returncode == 1


async def test_the_job_stands_in_no_command_line_and_no_environment(service: Service) -> None:
    await use(service, 1)
    running = service.simulations.simulate(a_window())
    await anext(running)
    [process] = simulations_of_this_process()
    told = " ".join([*process.cmdline(), *process.environ().values()])
    await running.aclose()

    assert "postgresql://" not in told


MEMORY_MIB_MAX = 130
"""Of which some 70 are Python and its libraries; a hundred thousand calls would take as much again."""


async def test_memory_stays_bounded_whatever_one_account_has_and_live_calls_go_on(
    fresh_database: str, fresh_redis: str
) -> None:
    async with services(fresh_database, fresh_redis) as [service]:
        measured = await measure(service, fresh_database, entries=100_000, accounts=1)

    assert measured.entry_count == 100_000
    assert measured.denied_count > 0
    assert measured.calls_beside > 0
    assert measured.memory_mib < MEMORY_MIB_MAX


async def test_more_accounts_than_are_looked_up_at_a_time_are_all_replayed(
    fresh_database: str, fresh_redis: str
) -> None:
    accounts = 2 * ACCOUNTS_PER_READ_MAX + 1

    async with services(fresh_database, fresh_redis) as [service]:
        measured = await measure(service, fresh_database, entries=DAYS * 2 * accounts, accounts=accounts)

    assert (measured.account_count, measured.accounts_told) == (accounts, accounts)
    assert measured.denied_count == DAYS * accounts


@pytest.mark.parametrize("count", [REVISIONS_PER_READ_MAX - 1, REVISIONS_PER_READ_MAX, 2 * REVISIONS_PER_READ_MAX + 3])
async def test_more_changes_than_are_read_at_a_time_are_all_seen(
    service: Service, clock: FrozenClock, count: int
) -> None:
    await use(service, 1)
    for number in range(count):
        clock.advance(timedelta(hours=25))
        await change_plan(service, ("pro", "bare")[number % 2])
        await service.meter.increment_many([an_increment("ten", 20)], atomic=False)
    await service.meter._denials.drain()

    updates = await simulated(service, include_denied_usage=True, end_time=START + timedelta(days=60))

    [only] = accounts(updates)
    assert (only.denied_count, only.plan_key, only.limit_quantity) == (count // 2, "bare", 1)
    assert totals(updates).entry_count == 1 + count - count // 2
    assert totals(updates).unexplained_count == 0


async def test_a_draft_of_a_megabyte_that_is_all_escapes_reaches_the_process(service: Service) -> None:
    with pytest.raises(CatalogInvalid):
        await simulated(service, draft=CatalogSource("\x01" * CATALOG_BYTES_MAX))


async def remaining(updates: AsyncGenerator[SimulationUpdate]) -> list[SimulationUpdate]:
    return [update async for update in updates]


def a_job(database_url: str) -> SimulationJob:
    return SimulationJob(
        database_url=database_url,
        tenant_id=ACME,
        catalog_yaml=None,
        start_time=START - timedelta(days=1),
        end_time=START + timedelta(days=40),
        account_id="",
        feature_key="",
        plan_key="",
        include_denied_usage=False,
    )


def a_window() -> WantedSimulation:
    return WantedSimulation(
        tenant_id=ACME, draft=None, start_time=START - timedelta(days=1), end_time=START + timedelta(days=40)
    )


def simulations_of_this_process() -> list[psutil.Process]:
    """Return the processes of simulations that this one has started and that still run."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if "tallygate_server.simulation" in child.cmdline():
                found.append(child)
    return found
