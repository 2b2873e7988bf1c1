"""Asks for jobs, shows them, watches them and cancels them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import JobKind, JobState
from tallygate_server.domain.lifecycle_job import JobProgress, LifecycleJob, NewJob
from tallygate_server.errors import JobEnded, NotFound, Overloaded, RequestIdReused, StoreUnavailable, TallygateError
from tallygate_server.lifecycle.jobs.control import JobHandler, RevealingHandler
from tallygate_server.lifecycle.jobs.watches import JobWatches
from tallygate_server.storage import lifecycle_jobs as rows
from tallygate_server.storage.audit import add_audit_entry
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.engine import Database
from tallygate_server.tenants import TenantDirectory
from tallygate_server.unique_ids import new_id

WAIT_MAX: Final = timedelta(seconds=60)
"""Longest wait of a call for the end of its job."""
OPEN_JOBS_MAX: Final = 1_000
"""Jobs of one tenant that have not ended; more are refused."""
JOB_AGE_MAX: Final = timedelta(days=35)
"""Time after its end for which a job is kept; those that say what was exported or erased are kept for longer."""


class LifecycleJobs:
    """Long work on data, of all tenants."""

    def __init__(self, database: Database, tenants: TenantDirectory, clock: Clock) -> None:
        """Use a database with the lifecycle's role."""
        self.database = database
        self.clock = clock
        self.watches = JobWatches(database)
        self._tenants = tenants
        self._handlers: dict[JobKind, JobHandler] = {}
        self._on_submitted: list[Callable[[], None]] = []

    def register(self, kind: JobKind, handler: JobHandler) -> None:
        """Let a handler do the work of a kind."""
        assert kind not in self._handlers, f"{kind.name} has a handler"
        self._handlers[kind] = handler

    @property
    def handlers(self) -> Mapping[JobKind, JobHandler]:
        """Who does the work of each kind."""
        return self._handlers

    def tell(self, on_submitted: Callable[[], None]) -> Callable[[], None]:
        """Call this whenever a job is asked for here; return how to stop that."""
        self._on_submitted.append(on_submitted)
        return lambda: self._on_submitted.remove(on_submitted)

    async def submit(self, wanted: NewJob, wait: timedelta | None = None) -> LifecycleJob:
        """Ask for a job, once for each request id, and wait for its end for a while; return it as it is then.

        Whoever stops waiting leaves the job running. Raises TenantNotFound, RequestIdReused, Overloaded,
        StoreUnavailable.
        """
        await self._tenants.get(wanted.tenant_id)
        job = await self._add(wanted)
        if not job.state.ended:
            for on_submitted in self._on_submitted:
                on_submitted()
        if wait is None or wait <= timedelta(0) or job.state.ended:
            return await self._revealed(job)
        ended = await self.watches.wait(job, min(wait, WAIT_MAX))
        return await self._revealed(ended) if ended else await self.get(job.tenant_id, job.job_id)

    async def get(self, tenant_id: TenantId, job_id: str) -> LifecycleJob:
        """Return a job. Raises TenantNotFound, NotFound, StoreUnavailable."""
        await self._tenants.get(tenant_id)
        async with self.database.tenant_transaction(tenant_id) as connection:
            job = await rows.read_job(connection, tenant_id, job_id)
        if job is None:
            raise _no_job(job_id)
        return await self._revealed(job)

    async def page(
        self,
        tenant_id: TenantId,
        *,
        account_id: AccountId | None = None,
        kind: JobKind | None = None,
        state: JobState | None = None,
        before_job_id: str = "",
        limit: int,
    ) -> Sequence[LifecycleJob]:
        """Return jobs, newest first, those before one. Raises TenantNotFound, StoreUnavailable."""
        await self._tenants.get(tenant_id)
        async with self.database.tenant_transaction(tenant_id) as connection:
            jobs = await rows.page_of_jobs(
                connection,
                tenant_id,
                account_id=account_id,
                kind=kind,
                state=state,
                before_job_id=before_job_id,
                limit=limit,
            )
        return [await self._revealed(job, brief=True) for job in jobs]

    async def cancel(self, tenant_id: TenantId, job_id: str, *, actor: str) -> LifecycleJob:
        """Cancel a job: at once while it waits, else after its present step.

        Raises TenantNotFound, NotFound, JobEnded, StoreUnavailable.
        """
        await self._tenants.get(tenant_id)
        async with self.database.tenant_transaction(tenant_id) as connection:
            job = await rows.read_job(connection, tenant_id, job_id, lock=True)
            if job is None:
                raise _no_job(job_id)
            if job.state.ended:
                raise JobEnded(job_id, job.state.name.lower())
            if job.cancel_requested:
                return job
            values: dict[str, object] = {"cancel_requested": True}
            if job.state is JobState.PENDING:
                values |= {"state": int(JobState.CANCELED), "end_time": self.clock.now(), "lease_time": None}
            job = await rows.write_any_job(connection, (tenant_id, job_id), values)
            await add_audit_entry(
                connection,
                tenant_id,
                actor=actor,
                action="data.job_canceled",
                subject=f"lifecycle_job/{job_id}",
                detail={"kind": job.kind.name.lower()},
            )
        self.watches.look()
        return job

    async def watch(self, tenant_id: TenantId, job_id: str) -> AsyncGenerator[LifecycleJob]:
        """Yield a job as it is, then whenever it is further, about once a second, until it has ended.

        Raises TenantNotFound, NotFound, Overloaded, StoreUnavailable, or what all watches are ended with.
        """
        async with contextlib.aclosing(self.watches.watch(await self.get(tenant_id, job_id))) as states:
            async for job in states:
                yield await self._revealed(job)

    async def forget(self) -> dict[str, int]:
        """Delete jobs that ended long ago; return how many."""
        ended_before = self.clock.now() - JOB_AGE_MAX
        async with self.database.tenant_snapshot(TenantId("*")) as connection:
            tenants = await rows.tenants_with_old_jobs(connection, ended_before=ended_before)
        forgotten = 0
        for tenant_id in tenants:
            async with self.database.tenant_transaction(tenant_id) as connection:
                forgotten += await rows.forget_jobs(connection, tenant_id, ended_before=ended_before)
        return {"lifecycle_jobs_forgotten": forgotten} if forgotten else {}

    def end_watches(self, error: TallygateError) -> None:
        """End every watch with the error, and every wait with the job as it is: the server drains."""
        self.watches.end(error)

    async def close(self) -> None:
        """Stop looking at what is watched."""
        await self.watches.close()

    async def _revealed(self, job: LifecycleJob, *, brief: bool = False) -> LifecycleJob:
        """Return a job whose report can be read: handlers seal in it what must not lie about readable."""
        handler = self._handlers.get(job.kind)
        if job.result is None or not isinstance(handler, RevealingHandler):
            return job
        return replace(job, result=await handler.reveal(job, brief=brief))

    async def _add(self, wanted: NewJob) -> LifecycleJob:
        fingerprint = fingerprint_of(wanted)
        now = self.clock.now()
        job = LifecycleJob(
            tenant_id=wanted.tenant_id,
            job_id=new_id("job", now),
            account_id=wanted.account_id,
            kind=wanted.kind,
            state=JobState.PENDING,
            validate_only=wanted.validate_only,
            request=wanted.request,
            progress=JobProgress(),
            checkpoint={},
            result=None,
            error=None,
            actor=wanted.actor,
            request_id=wanted.request_id,
            fingerprint=fingerprint,
            attempt_count=0,
            crash_count=0,
            cancel_requested=False,
            runner_id="",
            lease_time=None,
            schedule_time=wanted.schedule_time,
            create_time=now,
            start_time=None,
            end_time=None,
        )
        async with self.database.tenant_transaction(wanted.tenant_id) as connection:
            before = await self._before(connection, wanted, fingerprint)
            if before is not None:
                return before
            if await rows.count_open_jobs(connection, wanted.tenant_id) >= OPEN_JOBS_MAX:
                raise Overloaded(f"the tenant has {OPEN_JOBS_MAX} jobs that have not ended", **{"class": "job"})
            if await rows.add_job(connection, job):
                await add_audit_entry(
                    connection,
                    wanted.tenant_id,
                    actor=wanted.actor,
                    action="data.job_requested",
                    subject=f"lifecycle_job/{job.job_id}",
                    detail={"kind": wanted.kind.name.lower(), "validate_only": wanted.validate_only},
                )
                return job
            # Somebody else asked for the same in this very moment.
            before = await self._before(connection, wanted, fingerprint)
        if before is None:
            raise StoreUnavailable("the job of this request id is being changed; ask again")
        return before

    async def _before(self, connection: Connection, wanted: NewJob, fingerprint: str) -> LifecycleJob | None:
        if not wanted.request_id:
            return None
        before = await rows.read_job_by_request(connection, wanted.tenant_id, wanted.kind, wanted.request_id)
        if before is not None and before.fingerprint != fingerprint:
            raise RequestIdReused(wanted.request_id)
        return before


def fingerprint_of(wanted: NewJob) -> str:
    """Return a digest of what is asked for: the same for a retry, another one for anything else."""
    content = [
        int(wanted.kind),
        wanted.account_id,
        wanted.request,
        wanted.validate_only,
        wanted.schedule_time.timestamp() if wanted.schedule_time else None,
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _no_job(job_id: str) -> NotFound:
    return NotFound("lifecycle job", job_id, field="job_id")
