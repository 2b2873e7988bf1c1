"""How fast a simulation is, how much memory it takes, and what it does to live calls.

Accounts and their ledger are made in SQL on private stores in a directory that is thrown away. Then a draft with half
the limits is simulated while increments go on, one after the other.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import psutil

from tallygate_server.catalog import CatalogSource
from tallygate_server.clock import SystemClock
from tallygate_server.domain.call import Increment
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.embedded import EmbeddedServers
from tallygate_server.service import Service, open_service
from tallygate_server.simulation import SimulatedAccount, SimulationTotals, WantedSimulation
from tallygate_server.storage import migrations
from tallygate_server.storage.engine import DatabaseRole, connect

TENANT: Final = TenantId("simulated")
FEATURE: Final = FeatureKey("calls")
LIVE: Final = FeatureKey("live")
MODEL: Final = AccountId("model")
ENTRIES_DEFAULT: Final = 1_000_000
ACCOUNTS_DEFAULT: Final = 2_000
DAYS: Final = 30
_IDLE_CALLS: Final = 500
_SAMPLE_SECONDS: Final = 0.02

_CATALOG: Final = """
tenant: simulated
default_plan: free
features:
  calls: {{kind: counter}}
  live: {{kind: counter}}
plans:
  free:
    allowances:
      calls: {{limit: {limit}, period: day}}
      live: {{limit: 1000000000000, period: day}}
"""

# Every account is a copy of one that the service made.
_ACCOUNTS: Final = """
INSERT INTO accounts
SELECT copy.* FROM accounts AS model, generate_series(1, $2::int) AS number,
    jsonb_populate_record(model, jsonb_build_object('account_id', 'account-' || number)) AS copy
WHERE model.tenant_id = $1 AND model.account_id = 'model'
"""
_SUBSCRIPTIONS: Final = """
INSERT INTO subscriptions
SELECT copy.* FROM subscriptions AS model, generate_series(1, $2::int) AS number,
    jsonb_populate_record(
        model, jsonb_build_object('account_id', 'account-' || number, 'subscription_id', 'sub-' || number)
    ) AS copy
WHERE model.tenant_id = $1 AND model.account_id = 'model'
"""
_REVISIONS: Final = """
INSERT INTO account_revisions
SELECT copy.* FROM account_revisions AS model, generate_series(1, $2::int) AS number,
    jsonb_populate_record(
        model, jsonb_build_object('account_id', 'account-' || number, 'begin_time', $3::timestamptz)
    ) AS copy
WHERE model.tenant_id = $1 AND model.account_id = 'model'
"""
# One unit each, spread evenly: every account counts the same number each day.
_ENTRIES: Final = """
INSERT INTO usage_entries (
    tenant_id, account_id, entry_id, recorded_time, feature_key, period_kind, period_start, quantity, used_after,
    limit_quantity, event_time, kind, plan_key
)
SELECT $1, 'account-' || (number % $3 + 1),
    ((extract(epoch FROM at) * 1000 - 1735689600000)::bigint << 22) + number % 4096, at, $6, 'd',
    date_trunc('day', at, 'UTC'), 1,
    row_number() OVER (PARTITION BY number % $3, date_trunc('day', at, 'UTC') ORDER BY number), $7, at, 1, 'free'
FROM (
    SELECT number, $4::timestamptz + number * $5::interval / $2::bigint AS at
    FROM generate_series(0, $2::bigint - 1) AS number
) AS entry
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationMeasured:
    """What was measured."""

    entry_count: int
    account_count: int
    denied_count: int
    accounts_told: int
    seconds: float
    processor_seconds: float
    """Of the process of the simulation."""
    memory_mib: float
    """Most that the process of the simulation held."""
    idle_ms: tuple[float, float]
    """Median and 99th percentile of an increment before the simulation."""
    beside_ms: tuple[float, float]
    """The same during it."""
    calls_beside: int

    @property
    def entries_per_second(self) -> float:
        """Lines of the ledger that are replayed in a second, starting the process included."""
        return self.entry_count / self.seconds


async def measure(service: Service, database_url: str, *, entries: int, accounts: int) -> SimulationMeasured:
    """Fill the ledger, then simulate half the limit while increments go on."""
    per_day = max(entries // (accounts * DAYS), 2)
    end = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    start = end - timedelta(days=DAYS)
    await service.catalogs.apply(CatalogSource(_CATALOG.format(limit=2 * per_day)))
    await service.accounts.identify(TENANT, [], account_id=MODEL)
    await _fill(database_url, entries=entries, accounts=accounts, start=start, limit=2 * per_day)
    await _increment(service)
    idle = [await _increment(service) for _ in range(_IDLE_CALLS)]
    draft = CatalogSource(_CATALOG.format(limit=per_day // 2))
    beside: list[float] = []
    stop = asyncio.Event()
    peak = 0
    processor_seconds = 0.0

    async def call() -> None:
        while not stop.is_set():
            beside.append(await _increment(service))

    async def watch() -> None:
        nonlocal peak, processor_seconds
        while not stop.is_set():
            held, used = _children()
            peak, processor_seconds = max(peak, held), max(processor_seconds, used)
            await asyncio.sleep(_SAMPLE_SECONDS)

    began = time.perf_counter()
    told = 0
    totals = SimulationTotals()
    async with asyncio.TaskGroup() as group:
        group.create_task(call())
        group.create_task(watch())
        wanted = WantedSimulation(tenant_id=TENANT, draft=draft, start_time=start, end_time=end)
        try:
            async with aclosing(service.simulations.simulate(wanted)) as updates:
                async for update in updates:
                    if isinstance(update, SimulatedAccount):
                        told += 1
                    elif isinstance(update, SimulationTotals):
                        totals = update
            seconds = time.perf_counter() - began
        finally:
            stop.set()
    return SimulationMeasured(
        entry_count=totals.entry_count,
        account_count=totals.account_count,
        denied_count=totals.denied_count,
        accounts_told=told,
        seconds=seconds,
        processor_seconds=processor_seconds,
        memory_mib=peak / 1_048_576,
        idle_ms=_percentiles(idle),
        beside_ms=_percentiles(beside),
        calls_beside=len(beside),
    )


async def _fill(database_url: str, *, entries: int, accounts: int, start: datetime, limit: int) -> None:
    connection = await connect(database_url, DatabaseRole.APP, statement_timeout="0")
    try:
        async with connection.transaction():
            await connection.execute("SELECT set_config('tallygate.tenant_id', $1, true)", TENANT)
            await connection.execute("SELECT set_config('tallygate.change', 'own', true)")
            await connection.execute(_ACCOUNTS, TENANT, accounts)
            await connection.execute(_SUBSCRIPTIONS, TENANT, accounts)
            await connection.execute(_REVISIONS, TENANT, accounts, start - timedelta(days=1))
    finally:
        await connection.close()
    connection = await connect(database_url, DatabaseRole.METER, statement_timeout="0")
    try:
        span = timedelta(days=DAYS)
        await connection.execute(_ENTRIES, TENANT, entries, accounts, start, span, FEATURE, limit, timeout=None)
    finally:
        await connection.close()


async def _increment(service: Service) -> float:
    """Count one unit of the model account; return how long that took, in milliseconds."""
    began = time.perf_counter()
    await service.meter.increment(Increment(TENANT, MODEL, LIVE, 1))
    return (time.perf_counter() - began) * 1_000


def _children() -> tuple[int, float]:
    """Return the memory of simulations that this process has started, and the processor time that they have used."""
    held, used = 0, 0.0
    for child in psutil.Process().children():
        try:
            if "tallygate_server.simulation" in child.cmdline():
                held += child.memory_info().rss
                times = child.cpu_times()
                used += times.user + times.system
        except psutil.Error:
            continue
    return held, used


def _percentiles(milliseconds: list[float]) -> tuple[float, float]:
    ordered = sorted(milliseconds)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) * 99 // 100, len(ordered) - 1)]


@asynccontextmanager
async def open_bench() -> AsyncIterator[tuple[Service, str]]:
    """Start private stores and a service over them, in a directory that is thrown away."""
    with tempfile.TemporaryDirectory(prefix="tallygate-bench-") as directory:
        Path(directory).chmod(0o711)
        async with EmbeddedServers.start(data_dir=Path(directory) / "data") as servers:
            await migrations.upgrade(servers.database_url)
            async with open_service(
                database_url=servers.database_url, redis_url=servers.redis_url, clock=SystemClock()
            ) as service:
                yield service, servers.database_url


async def run_simulation_benchmark(*, entries: int, accounts: int) -> SimulationMeasured:
    """Measure on stores of its own; raises EmbeddedError."""
    async with open_bench() as (service, database_url):
        return await measure(service, database_url, entries=entries, accounts=accounts)
