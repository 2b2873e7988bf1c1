"""What whoever runs a job and the job's handler say to each other."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, Final, Protocol, runtime_checkable

from tallygate_server.clock import Clock
from tallygate_server.domain.lifecycle_job import JobProgress, LifecycleJob
from tallygate_server.storage import lifecycle_jobs as rows
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.engine import Database

LEASE: Final = timedelta(seconds=30)
"""Time after the last renewal at which another runner takes a job over."""
WRITE_SECONDS: Final = 1.0
"""Shortest pause between two writes of a job's progress."""


class JobCanceled(Exception):
    """Somebody cancelled the job: stop after the present step; what was done stays done."""


class JobLost(Exception):
    """Somebody else runs the job now: change nothing any more."""


class JobHandler(Protocol):
    """Does the work of one kind of job."""

    async def run(self, job: LifecycleJob, control: JobControl) -> dict[str, Any]:
        """Do it and return the report: the message in its proto's JSON form with the original field names.

        A TallygateError becomes the job's error; anything else an incident. Work that was begun before is gone on with
        from `control.checkpoint`.
        """


@runtime_checkable
class RevealingHandler(JobHandler, Protocol):
    """A handler whose reports hold something sealed."""

    async def reveal(self, job: LifecycleJob, *, brief: bool) -> dict[str, Any]:
        """Return the report of a job as callers see it; brief: short, for lists."""


class JobControl:
    """Tells how far a job is, and hears whether to go on."""

    def __init__(self, database: Database, clock: Clock, job: LifecycleJob, *, lease: timedelta = LEASE) -> None:
        """Speak for the attempt that the job was claimed for; whatever is written renews the lease."""
        self.checkpoint: dict[str, Any] = dict(job.checkpoint)
        """Of the attempt before, and then as it was reported last; empty at first."""
        self._lease = lease
        self._checkpoint_to_write: dict[str, Any] | None = None
        self._database = database
        self._clock = clock
        self._job = job
        self._progress = job.progress
        self._begin_time = clock.now()
        self._begin_done: int | None = None
        self._written_at = -WRITE_SECONDS
        self._unwritten = False
        self.got_further = False
        """Whether this attempt has done what none before had."""
        self._canceled = job.cancel_requested
        self._lost = False

    async def report(
        self,
        *,
        done: int,
        total: int = 0,
        phase: str = "",
        read_bytes: int = 0,
        written_bytes: int = 0,
        checkpoint: dict[str, Any] | None = None,
        at_once: bool = False,
    ) -> None:
        """Tell how far it is, and from where to go on after a crash (None: as before).

        Cheap: it is written about once a second, or with `at_once` now. Raises JobCanceled and JobLost, and
        StoreUnavailable.
        """
        if self._begin_done is None:
            # What was done before this attempt says nothing about its speed.
            self._begin_done = done
        if checkpoint is not None and checkpoint != self.checkpoint:
            self.checkpoint = self._checkpoint_to_write = dict(checkpoint)
            self.got_further = True
        self.got_further |= done > self._progress.furthest
        self._progress = JobProgress(
            done=done,
            total=total,
            phase=phase,
            read_bytes=read_bytes,
            written_bytes=written_bytes,
            furthest=max(done, self._progress.furthest),
        )
        self._unwritten = True
        self.check()
        elapsed = asyncio.get_running_loop().time() - self._written_at
        if at_once or elapsed >= WRITE_SECONDS:
            await self.flush()
            self.check()

    def check(self) -> None:
        """Raise JobCanceled or JobLost where somebody said so; waits for nothing, so threads may call it too."""
        if self._lost:
            raise JobLost(self._job.job_id)
        if self._canceled:
            raise JobCanceled(self._job.job_id)

    async def note(self, connection: Connection, checkpoint: dict[str, Any]) -> None:
        """Write a checkpoint within the transaction that does the step, so that it is done once whatever happens.

        The transaction must be one of the job's tenant under the lifecycle's role, and this its last work but for
        small things: whoever else writes the job waits for its end. Where it is rolled back the checkpoint that was
        written before counts. Raises JobLost.
        """
        # What was reported before is older; should the transaction fail, one older still is as good.
        self._checkpoint_to_write = None
        self.got_further = True
        values = {"checkpoint": dict(checkpoint), "crash_count": 0, "lease_time": self._clock.now() + self._lease}
        if await rows.write_job(connection, self._job, values) is None:
            self.lose()
            self.check()

    async def flush(self) -> None:
        """Write what was reported last. Raises JobLost and StoreUnavailable."""
        self._written_at = asyncio.get_running_loop().time()
        async with self._database.tenant_transaction(self._job.tenant_id) as connection:
            standing = self.standing() | {"lease_time": self._clock.now() + self._lease}
            written = await rows.write_job(connection, self._job, standing)
        self.hear(written)
        if self._lost:
            self.check()
        self._unwritten = False

    def standing(self) -> dict[str, Any]:
        """Return the columns that say how far the job is."""
        values: dict[str, Any] = {"progress": self.progress.to_document()}
        if self._checkpoint_to_write is not None:
            values["checkpoint"] = self._checkpoint_to_write
        if self.got_further:
            values["crash_count"] = 0
        return values

    @property
    def progress(self) -> JobProgress:
        """How far it is, with the end that its speed promises."""
        now, known = self._clock.now(), self._progress
        done, left = known.done - (self._begin_done or 0), known.total - known.done
        elapsed = now - self._begin_time
        end = None
        if done > 0 and left >= 0 and known.total > 0 and elapsed > timedelta(0):
            end = now + elapsed * (left / done)
        return JobProgress(
            done=known.done,
            total=known.total,
            phase=known.phase,
            read_bytes=known.read_bytes,
            written_bytes=known.written_bytes,
            estimated_end_time=end,
            furthest=known.furthest,
        )

    @property
    def unwritten(self) -> bool:
        """Whether something was reported since the last write."""
        return self._unwritten

    def hear(self, job: LifecycleJob | None) -> None:
        """Take note of the job as its row is; None: it is ours no more."""
        if job is None:
            self.lose()
        elif job.cancel_requested:
            self._canceled = True

    def lose(self) -> None:
        """Stop the work at its next step: somebody else runs the job now."""
        self._lost = True

    @property
    def lost(self) -> bool:
        """Whether somebody else runs the job now."""
        return self._lost
