"""Runs jobs: several at a time, each by one process, resumed elsewhere when that process dies.

A job that runs is leased to its runner, who renews the lease for as long as it lives. Leases are told by the servers'
own clocks, as everything is: one that is ahead takes a job too early, never wrongly, because everything that the old
runner writes afterwards asks whether the job is still its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import structlog

from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.lifecycle import JobState
from tallygate_server.domain.lifecycle_job import JobError, LifecycleJob
from tallygate_server.errors import InvalidRequest, StoreUnavailable, TallygateError, Unavailable
from tallygate_server.lifecycle.jobs.control import LEASE, JobCanceled, JobControl, JobLost
from tallygate_server.lifecycle.jobs.use_cases import LifecycleJobs
from tallygate_server.storage import lifecycle_jobs as rows
from tallygate_server.storage.lifecycle_jobs import JobKey
from tallygate_server.telemetry import metrics

log = structlog.get_logger(__name__)

HEARTBEAT_SECONDS: Final = 5.0
"""Pause between two renewals: several may fail before the lease is over."""
POLL_SECONDS: Final = 1.0
"""Pause between two looks for jobs that are due, or that other servers were asked for."""
CRASHES_MAX: Final = 5
"""Attempts in a row that get no further and end without a word, or without a store, before a job is given up."""
RETRY_DELAY: Final = timedelta(seconds=5)
"""Pause before the next attempt where a store could not be reached, times the number of such attempts."""
JOBS_AT_ONCE_DEFAULT: Final = 2
WRITES_MAX: Final = 10
WRITE_PAUSE_SECONDS: Final = 1.0
"""How often, and with which pause, it is tried to write down how a job ended."""
DUE_JOBS_MAX: Final = 1_000
"""Jobs that are looked at to choose the next ones."""
TENANTS_REMEMBERED_MAX: Final = 10_000
CLOSE_SECONDS: Final = 2.0
"""Longest wait at the end for a look that is under way: what it claims is given back, not left to its lease."""

INCIDENT_MESSAGE: Final = "the job met an unexpected condition; the server's log has the details under the incident id"


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """A job that runs here."""

    job: LifecycleJob
    control: JobControl
    task: asyncio.Task[None]


class LifecycleJobRunner:
    """Runs what is due until it is closed."""

    def __init__(
        self,
        jobs: LifecycleJobs,
        *,
        at_once: int = JOBS_AT_ONCE_DEFAULT,
        lease: timedelta = LEASE,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        """Run so many jobs at once."""
        self.runner_id = f"runner_{secrets.token_hex(8)}"
        self._jobs = jobs
        self._at_once = at_once
        self._lease = lease
        self._heartbeat_seconds = heartbeat_seconds
        self._poll_seconds = poll_seconds
        self._running: dict[JobKey, _Run] = {}
        self._turn = 0
        self._turns: dict[TenantId, int] = {}
        """Number of the last job that each tenant got, the longest ago first."""
        self._woken = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._untell: Callable[[], None] = lambda: None
        self._closing = asyncio.Event()

    async def start(self) -> None:
        """Begin."""
        self._untell = self._jobs.tell(self._woken.set)
        self._tasks = [
            asyncio.create_task(self._dispatch(), name="lifecycle-jobs"),
            asyncio.create_task(self._renew(), name="lifecycle-job-leases"),
        ]

    async def close(self) -> None:
        """Stop; jobs under way are given back at once, with their checkpoints."""
        # The dispatcher first: it would begin with others, and what it is about to claim is given back too.
        self._closing.set()
        self._untell()
        self._woken.set()
        if self._tasks:
            await asyncio.wait(self._tasks[:1], timeout=CLOSE_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        runs = list(self._running.values())
        for run in runs:
            run.task.cancel()
        await asyncio.gather(*(run.task for run in runs), return_exceptions=True)

    @property
    def running_count(self) -> int:
        """Jobs that run here."""
        return len(self._running)

    async def run_due(self) -> int:
        """Run everything that is due, and what becomes due meanwhile; return the number of attempts.

        For tests and for whoever runs jobs by hand. Raises StoreUnavailable.
        """
        count = 0
        while keys := await self._due(self._at_once):
            claimed = [run for key in keys if (run := await self._claim(key)) is not None]
            await asyncio.gather(*(run.task for run in claimed))
            count += len(claimed)
        return count

    # --- Choosing -----------------------------------------------------------------------------------------

    async def _dispatch(self) -> None:
        while not self._closing.is_set():
            self._woken.clear()
            try:
                for key in await self._due(self._at_once - len(self._running)):
                    if not self._closing.is_set():
                        await self._claim(key)
            except StoreUnavailable as error:
                log.debug("lifecycle_jobs_not_read", error=type(error).__name__)
            except Exception as error:  # noqa: BLE001 - whatever it is, it may be mended while we run.
                # A right that is missing, or a schema that is not there yet.
                log.warning("lifecycle_jobs_not_read", error=type(error).__name__)
            if self._closing.is_set():
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_seconds):
                    await self._woken.wait()

    async def _due(self, limit: int) -> Sequence[JobKey]:
        if limit <= 0 or not self._jobs.handlers:
            return ()
        async with self._jobs.database.tenant_snapshot(TenantId("*")) as connection:
            found = await rows.due_jobs(
                connection,
                self._jobs.handlers.keys(),
                now=self._jobs.clock.now(),
                but=self._running,
                per_tenant=limit,
                limit=DUE_JOBS_MAX,
            )
        # Whose turn was longest ago comes first, so that nobody waits for a thousand jobs of somebody else.
        found.sort(key=lambda each: (each[0], self._turns.get(each[1][0], 0)))
        return [key for _, key in found[:limit]]

    async def _claim(self, key: JobKey) -> _Run | None:
        now = self._jobs.clock.now()
        async with self._jobs.database.tenant_transaction(key[0]) as connection:
            job = await rows.claim_job(connection, key, runner_id=self.runner_id, now=now, lease_time=now + self._lease)
        if job is None:
            return None
        self._turn += 1
        self._turns.pop(key[0], None)
        self._turns[key[0]] = self._turn
        while len(self._turns) > TENANTS_REMEMBERED_MAX:
            del self._turns[next(iter(self._turns))]
        control = JobControl(self._jobs.database, self._jobs.clock, job, lease=self._lease)
        task = asyncio.create_task(self._attempt(job, control), name=f"lifecycle-job-{job.job_id}")
        run = self._running[key] = _Run(job, control, task)
        return run

    # --- Running ------------------------------------------------------------------------------------------

    async def _attempt(self, job: LifecycleJob, control: JobControl) -> None:
        """Run a job that is ours to whatever end; raises nothing."""
        started = time.monotonic()
        outcome = "lost"
        try:
            values, outcome = await self._outcome(job, control)
            try:
                await self._end(job, control, values)
            except (JobLost, Unavailable):
                raise
            except Exception as error:  # noqa: BLE001 - whatever cannot be written as JSON.
                outcome = "failed"
                await self._end(job, control, self._incident(job, error))
        except JobLost:
            outcome = "lost"
            log.warning("lifecycle_job_lost", job_id=job.job_id, kind=job.kind.name.lower())
        except Unavailable as error:
            # How it ended cannot be written down: it is gone on with when its lease ends.
            log.warning("lifecycle_job_not_written", job_id=job.job_id, error=type(error).__name__)
        except Exception:
            log.exception("lifecycle_job_not_written", job_id=job.job_id)
        finally:
            self._running.pop((job.tenant_id, job.job_id), None)
            self._woken.set()
            self._jobs.watches.look()
            metrics.lifecycle_job(job.kind.name.lower(), outcome, time.monotonic() - started)

    async def _outcome(self, job: LifecycleJob, control: JobControl) -> tuple[dict[str, Any], str]:
        """Do the work; return what is to be written about it, and the outcome's name. Raises JobLost."""
        if job.cancel_requested:
            return self._ended(JobState.CANCELED), "canceled"
        if job.crash_count >= CRASHES_MAX:
            return self._ended(JobState.FAILED, error=_given_up(job)), "failed"
        try:
            result = await self._jobs.handlers[job.kind].run(job, control)
        except asyncio.CancelledError:
            if control.lost:
                raise JobLost(job.job_id) from None
            if not self._closing.is_set():
                raise
            return self._given_back(), "given_back"
        except JobCanceled:
            return self._ended(JobState.CANCELED), "canceled"
        except Unavailable as error:
            crashes = 1 if control.got_further else job.crash_count + 1
            if crashes >= CRASHES_MAX:
                return self._ended(JobState.FAILED, error=error_of(error)), "failed"
            log.warning("lifecycle_job_delayed", job_id=job.job_id, error=type(error).__name__)
            return self._delayed(crashes), "delayed"
        except TallygateError as error:
            return self._ended(JobState.FAILED, error=error_of(error)), "failed"
        except JobLost:
            raise
        except Exception as error:  # noqa: BLE001 - a defect of the handler: it is told as an incident.
            return self._incident(job, error), "failed"
        return self._ended(JobState.SUCCEEDED, result=result), "succeeded"

    async def _end(self, job: LifecycleJob, control: JobControl, values: dict[str, Any]) -> None:
        writing = asyncio.ensure_future(self._write_patiently(job, control, values))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            # It has ended, or is given back: that is written down whoever does not want to wait for it.
            await writing

    async def _write_patiently(self, job: LifecycleJob, control: JobControl, values: dict[str, Any]) -> None:
        """Write how a job ended, also when the database is away for a moment: else all would be done again."""
        for _ in range(WRITES_MAX - 1):
            try:
                return await self._write(job, control, values)
            except Unavailable:
                if self._closing.is_set():
                    raise
                await asyncio.sleep(WRITE_PAUSE_SECONDS)
        return await self._write(job, control, values)

    async def _write(self, job: LifecycleJob, control: JobControl, values: dict[str, Any]) -> None:
        standing = control.standing()
        async with self._jobs.database.tenant_transaction(job.tenant_id) as connection:
            if await rows.write_job(connection, job, standing | values) is None:
                raise JobLost(job.job_id)

    def _ended(
        self, state: JobState, *, result: dict[str, Any] | None = None, error: JobError | None = None
    ) -> dict[str, Any]:
        values: dict[str, Any] = {
            "state": int(state),
            "end_time": self._jobs.clock.now(),
            "runner_id": "",
            "lease_time": None,
        }
        if result is not None:
            values["result"] = result
        if error is not None:
            values["error"] = error.to_document()
        return values

    def _incident(self, job: LifecycleJob, error: Exception) -> dict[str, Any]:
        incident_id = secrets.token_hex(8)
        log.error(
            "lifecycle_job_failed_unexpectedly",
            job_id=job.job_id,
            kind=job.kind.name.lower(),
            incident_id=incident_id,
            exc_info=error,
        )
        told = JobError(reason="INTERNAL", message=INCIDENT_MESSAGE, facts={"incident_id": incident_id})
        return self._ended(JobState.FAILED, error=told)

    def _given_back(self) -> dict[str, Any]:
        return {"state": int(JobState.PENDING), "runner_id": "", "lease_time": None}

    def _delayed(self, crashes: int) -> dict[str, Any]:
        return {
            "state": int(JobState.PENDING),
            "runner_id": "",
            "lease_time": self._jobs.clock.now() + RETRY_DELAY * crashes,
            "crash_count": crashes,
        }

    # --- Leases -------------------------------------------------------------------------------------------

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_seconds)
            for run in list(self._running.values()):
                try:
                    await self._renew_one(run)
                except Exception:
                    # The others' leases are to be renewed all the same.
                    log.exception("lifecycle_job_not_renewed", job_id=run.job.job_id)

    async def _renew_one(self, run: _Run) -> None:
        job = run.job
        lease_time = self._jobs.clock.now() + self._lease
        try:
            async with self._jobs.database.tenant_transaction(job.tenant_id) as connection:
                present = await rows.write_job(connection, job, {"lease_time": lease_time})
        except Unavailable as error:
            log.debug("lifecycle_job_not_renewed", job_id=job.job_id, error=type(error).__name__)
            return
        if present is None and (job.tenant_id, job.job_id) not in self._running:
            return
        run.control.hear(present)
        if run.control.lost:
            run.task.cancel()


def error_of(error: TallygateError) -> JobError:
    """Return what callers are told about an error."""
    violations = error.violations if isinstance(error, InvalidRequest) else ()
    return JobError(
        reason=error.reason,
        message=error.message,
        facts=error.facts,
        violations=tuple((violation.field, violation.description) for violation in violations),
    )


def _given_up(job: LifecycleJob) -> JobError:
    return JobError(
        reason="INTERNAL",
        message=f"the job was started {job.crash_count} times in a row without getting any further, and each time the"
        " server that ran it died or lost its store; it is given up",
        facts={"attempt_count": str(job.attempt_count), "crash_count": str(job.crash_count)},
    )
