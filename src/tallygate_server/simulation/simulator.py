"""The use case SimulateLimits: a process for each simulation, and what it says to the caller."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import structlog

from tallygate_server.catalog import CatalogSource
from tallygate_server.catalog_files import catalog_to_yaml
from tallygate_server.catalog_rules import CatalogSet
from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import TenantId
from tallygate_server.errors import InvalidRequest, Overloaded
from tallygate_server.simulation.job import (
    LINE_BYTES_MAX,
    SimulationFailed,
    SimulationJob,
    SimulationTotals,
    SimulationUpdate,
    parse_line,
)
from tallygate_server.tenants import TenantDirectory

log = structlog.get_logger(__name__)

SIMULATIONS_AT_ONCE_MAX: Final = 2
"""Of one server process; each takes up to a processor's time and a connection to Postgres."""
_CHUNK_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedSimulation:
    """What a caller wants to know."""

    tenant_id: TenantId
    draft: CatalogSource | CatalogSet | None
    """None: the plans in force."""
    start_time: datetime
    end_time: datetime | None = None
    """None: now."""
    account_id: str = ""
    """Empty: all."""
    feature_key: str = ""
    """Empty: all."""
    plan_key: str = ""
    """Only accounts that were on the plan; empty: all."""
    include_denied_usage: bool = False


class LimitSimulations:
    """Runs simulations, each in a process of its own."""

    def __init__(self, database_url: str, *, tenants: TenantDirectory, clock: Clock) -> None:
        """Let simulations read from the database."""
        self._database_url = database_url
        self._tenants = tenants
        self._clock = clock
        self._running = 0

    async def simulate(self, wanted: WantedSimulation) -> AsyncGenerator[SimulationUpdate]:
        """Replay a window of the tenant's ledger; yield what would be denied and progress, and the totals last.

        Nothing goes on when nobody listens. Raises TenantNotFound, InvalidRequest, CatalogInvalid, CatalogConflict,
        Overloaded, StoreUnavailable.
        """
        await self._tenants.get(wanted.tenant_id)
        end_time = wanted.end_time or self._clock.now()
        if end_time <= wanted.start_time:
            raise InvalidRequest.of("start_time", "must be before the end of the window")
        job = SimulationJob(
            database_url=self._database_url,
            tenant_id=wanted.tenant_id,
            catalog_yaml=await _as_yaml(wanted.draft),
            start_time=wanted.start_time,
            end_time=end_time,
            account_id=wanted.account_id,
            feature_key=wanted.feature_key,
            plan_key=wanted.plan_key,
            include_denied_usage=wanted.include_denied_usage,
        )
        if self._running >= SIMULATIONS_AT_ONCE_MAX:
            raise Overloaded("too many simulations are running")
        self._running += 1
        started_ns = self._clock.monotonic_ns()
        try:
            process = await _start()
            try:
                async with aclosing(_converse(process, job)) as updates:
                    async for update in updates:
                        if not isinstance(update, SimulationTotals):
                            yield update
                            continue
                        if update.unexplained_count:
                            log.info("simulation_unexplained", tenant_id=job.tenant_id, rows=update.unexplained_count)
                        took_ns = self._clock.monotonic_ns() - started_ns
                        yield replace(update, duration=timedelta(microseconds=took_ns // 1_000))
            finally:
                await _end(process)
        finally:
            self._running -= 1


async def _as_yaml(draft: CatalogSource | CatalogSet | None) -> str | None:
    # The process reads it: what is wrong with a draft is found there, too.
    if draft is None or isinstance(draft, CatalogSource):
        return draft.text if draft is not None else None
    return await asyncio.to_thread(catalog_to_yaml, draft)


async def _start() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tallygate_server.simulation",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_BYTES_MAX,
        # The same code, wherever this process has found it; none of the settings, and so none of their secrets.
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("TALLYGATE_")},
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        },
    )


async def _converse(process: asyncio.subprocess.Process, job: SimulationJob) -> AsyncGenerator[SimulationUpdate]:
    """Give the process its job and yield what it says, as fast as it is wanted."""
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(job.to_line())
        await process.stdin.drain()
    while line := await process.stdout.readline():
        update = parse_line(line)
        yield update
        if isinstance(update, SimulationTotals):
            return
    raise SimulationFailed("the process ended early")


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the process, whatever it does, and its pipes."""
    assert process.stdin is not None
    assert process.stdout is not None
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
    process.stdin.close()
    # Its pipe is closed when all of it is read.
    while await process.stdout.read(_CHUNK_BYTES):
        pass
    await process.wait()
