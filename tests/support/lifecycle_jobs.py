"""Jobs on stored data for tests: handlers that do as they are told, runners that begin and end with a block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from tallygate_server.domain.lifecycle import JobKind
from tallygate_server.domain.lifecycle_job import LifecycleJob, NewJob
from tallygate_server.lifecycle.assembly import Lifecycle
from tallygate_server.lifecycle.jobs import JobControl, LifecycleJobRunner
from tests.support.acme import ACME, ANN

REPORT = {"segment_count": 3, "record_count": 300, "target_tier": "STORAGE_TIER_COLD"}
"""What a handler for tests answers: a MoveReport."""

Work = Callable[[LifecycleJob, JobControl], Awaitable[dict[str, Any]]]


class Scripted:
    """A handler that does what the test says."""

    def __init__(self, work: Work) -> None:
        """Do this for every job."""
        self.work = work
        self.begun = asyncio.Event()
        self.attempts: list[LifecycleJob] = []

    async def run(self, job: LifecycleJob, control: JobControl) -> dict[str, Any]:
        """Do it, and keep what it was asked."""
        self.attempts.append(job)
        self.begun.set()
        return await self.work(job, control)


async def at_once(_job: LifecycleJob, _control: JobControl) -> dict[str, Any]:
    """Be done."""
    return dict(REPORT)


def a_job(
    kind: JobKind = JobKind.ARCHIVE,
    *,
    request: dict[str, Any] | None = None,
    request_id: str = "",
    schedule_time: datetime | None = None,
    validate_only: bool = False,
) -> NewJob:
    """Ask for a job of Ann's."""
    return NewJob(
        kind=kind,
        tenant_id=ACME,
        account_id=ANN,
        request=request or {"wanted": "all"},
        validate_only=validate_only,
        actor="test",
        request_id=request_id,
        schedule_time=schedule_time,
    )


def only(lifecycle: Lifecycle, handlers: Mapping[JobKind, Scripted]) -> None:
    """Let these handlers do the work in place of the real ones, and nobody that of other kinds."""
    lifecycle.jobs._handlers.clear()
    for kind, handler in handlers.items():
        lifecycle.jobs.register(kind, handler)


@asynccontextmanager
async def running_jobs(lifecycle: Lifecycle, **options: Any) -> AsyncIterator[LifecycleJobRunner]:
    """Run the jobs of a lifecycle until the block is left."""
    runner = LifecycleJobRunner(lifecycle.jobs, **options)
    await runner.start()
    try:
        yield runner
    finally:
        await runner.close()
