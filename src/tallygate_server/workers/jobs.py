"""Runs background jobs: each at its interval, by one process at a time, with a row per run."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import structlog

from tallygate_server.errors import TallygateError
from tallygate_server.storage.engine import CONNECTION_ERRORS, DatabaseRole, connect
from tallygate_server.telemetry import metrics

log = structlog.get_logger(__name__)

Detail = dict[str, Any]

RUNS_KEPT_PER_JOB: Final = 1_000
_LOCK_SPACE: Final = "tallygate-job:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Something done again and again.

    `run` returns what it did; an empty result means that there was nothing to do, and leaves no row.
    """

    name: str
    interval_seconds: float
    run: Callable[[], Awaitable[Detail]]
    delay_seconds: float = 0.0
    """Pause before the first run: what is not urgent stays out of a start's way."""


class JobRunner:
    """Runs jobs until it is closed; a job that fails is logged and tried again at its next turn."""

    def __init__(self, database_url: str, jobs: Sequence[Job]) -> None:
        """Prepare; `start` begins."""
        self._url = database_url
        self._jobs = tuple(jobs)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin with every job."""
        self._tasks = [asyncio.create_task(self._repeat(job), name=f"job-{job.name}") for job in self._jobs]

    async def close(self) -> None:
        """Stop; a job under way is cancelled."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _repeat(self, job: Job) -> None:
        connection: asyncpg.Connection | None = None
        try:
            if job.delay_seconds:
                await asyncio.sleep(job.delay_seconds)
            while True:
                try:
                    if connection is None or connection.is_closed():
                        connection = await connect(self._url, DatabaseRole.APP)
                    await self._run_once(job, connection)
                except CONNECTION_ERRORS as error:
                    log.warning("job_without_database", job=job.name, error=type(error).__name__)
                except asyncpg.PostgresError:
                    # A schema that is not there yet, or a right that is missing: it may be mended while we run.
                    log.exception("job_not_run", job=job.name)
                await asyncio.sleep(job.interval_seconds)
        finally:
            if connection is not None:
                connection.terminate()

    async def _run_once(self, job: Job, connection: asyncpg.Connection) -> None:
        digest = hashlib.blake2b((_LOCK_SPACE + job.name).encode(), digest_size=8).digest()
        lock = int.from_bytes(digest, "big", signed=True)
        # Held by the session, so a runner that dies lets go of it.
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", lock):
            return
        try:
            await self._run_locked(job, connection)
        finally:
            if not connection.is_closed():
                await connection.execute("SELECT pg_advisory_unlock($1)", lock)

    async def _run_locked(self, job: Job, connection: asyncpg.Connection) -> None:
        start_time = await connection.fetchval("SELECT now()")
        started = time.monotonic()
        try:
            detail = await job.run()
            state = "succeeded"
        except (TallygateError, *CONNECTION_ERRORS) as error:
            log.warning("job_failed", job=job.name, error=type(error).__name__)
            detail, state = {"error": type(error).__name__}, "failed"
        except Exception as error:
            log.exception("job_failed", job=job.name)
            detail, state = {"error": type(error).__name__}, "failed"
        metrics.job(job.name, "succeeded" if state == "succeeded" else "failed", time.monotonic() - started)
        if not detail:
            return
        # One statement, so that whoever is stopped in between leaves neither a row too many nor one too few. The row
        # that it adds is not among those that it counts.
        await connection.execute(
            "WITH added AS (INSERT INTO job_runs (job, start_time, end_time, state, detail)"
            " VALUES ($1, $2, now(), $3, $4))"
            " DELETE FROM job_runs WHERE job = $1 AND run_id <="
            " (SELECT run_id FROM job_runs WHERE job = $1 ORDER BY run_id DESC OFFSET $5 LIMIT 1)",
            job.name,
            start_time,
            state,
            json.dumps(detail),
            RUNS_KEPT_PER_JOB - 1,
        )
