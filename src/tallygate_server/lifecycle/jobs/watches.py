"""Watches of jobs: one look a second for all that this process watches, however many watch them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator, Mapping
from datetime import timedelta
from typing import Final

import structlog

from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.lifecycle_job import LifecycleJob
from tallygate_server.errors import NotFound, Overloaded, StoreUnavailable, TallygateError
from tallygate_server.storage import lifecycle_jobs as rows
from tallygate_server.storage.engine import Database
from tallygate_server.storage.lifecycle_jobs import JobKey
from tallygate_server.streams import HEARTBEAT_SECONDS, BoundedStream, OpenStreams

log = structlog.get_logger(__name__)

WATCHERS_MAX: Final = 1_000
"""Watches of jobs that one process serves at once."""
LOOK_SECONDS: Final = 1.0
"""Pause between two looks at what is watched."""
_ITEMS_MAX: Final = 2
"""Held for one watcher: a progress that it has not read, and the end. Progress in between is left out."""


class JobWatches:
    """Reads the jobs that somebody watches or waits for."""

    def __init__(
        self,
        database: Database,
        *,
        watchers_max: int = WATCHERS_MAX,
        look_seconds: float = LOOK_SECONDS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        """Use a database that may look at all tenants' jobs."""
        self._database = database
        self._look_seconds = look_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._open: OpenStreams[LifecycleJob] = OpenStreams(streams_max=watchers_max)
        self._readers: dict[JobKey, dict[BoundedStream[LifecycleJob], LifecycleJob]] = {}
        """Who watches each job, and what each was told last."""
        self._waits: set[BoundedStream[LifecycleJob]] = set()
        self._woken = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """Return how many watches are open."""
        return len(self._open)

    async def watch(self, job: LifecycleJob) -> AsyncGenerator[LifecycleJob]:
        """Yield the job, then whenever it is further, until it has ended; as it was last as a sign of life."""
        stream = self._stream()
        self._open.add(stream)
        try:
            yield job
            if job.state.ended:
                return
            with self._reading(stream, job):
                items = stream.items(heartbeat_seconds=self._heartbeat_seconds)
                async with contextlib.aclosing(items) as states:
                    async for state in states:
                        job = state or job
                        yield job
        finally:
            self._open.discard(stream)

    async def wait(self, job: LifecycleJob, duration: timedelta) -> LifecycleJob | None:
        """Wait for the end of the job; None where it has not ended in this time, or nobody looks any more."""
        stream = self._stream()
        self._waits.add(stream)
        try:
            with contextlib.suppress(TimeoutError), self._reading(stream, job):
                async with asyncio.timeout(duration.total_seconds()):
                    async with contextlib.aclosing(stream.items()) as states:
                        async for state in states:
                            if state is not None and state.state.ended:
                                return state
        finally:
            self._waits.discard(stream)
        return None

    def look(self) -> None:
        """Look now: something has changed."""
        self._woken.set()

    def end(self, error: TallygateError) -> None:
        """End every watch with the error, and refuse new ones with it; whoever waits goes without."""
        self._open.end(error)
        for stream in list(self._waits):
            stream.end()

    async def close(self) -> None:
        """Stop looking."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
            self._looking = None

    @staticmethod
    def _stream() -> BoundedStream[LifecycleJob]:
        # Never too slow: what is not read is not added to.
        return BoundedStream(items_max=_ITEMS_MAX, too_slow=lambda: Overloaded("the watch is not read"))

    @contextlib.contextmanager
    def _reading(self, stream: BoundedStream[LifecycleJob], job: LifecycleJob) -> Iterator[None]:
        key = (job.tenant_id, job.job_id)
        self._readers.setdefault(key, {})[stream] = job
        # It may have changed since it was read.
        self._woken.set()
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_on(), name="watch-lifecycle-jobs")
        try:
            yield
        finally:
            del self._readers[key][stream]
            if not self._readers[key]:
                del self._readers[key]
            self._woken.set()

    async def _look_on(self) -> None:
        """Look until nobody watches any more."""
        while self._readers:
            self._woken.clear()
            try:
                await self._look_once()
            except StoreUnavailable as error:
                log.debug("watched_jobs_not_read", error=type(error).__name__)
            except Exception as error:  # noqa: BLE001 - whatever it is, it may be mended while we run.
                # A right that is missing, or a defect.
                log.warning("watched_jobs_not_read", error=type(error).__name__)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._look_seconds):
                    await self._woken.wait()

    async def _look_once(self) -> None:
        watched = list(self._readers)
        async with self._database.tenant_snapshot(TenantId("*")) as connection:
            jobs = await rows.read_jobs_by_key(connection, watched)
        for key in watched:
            for stream, told in list(self._readers.get(key, {}).items()):
                self._tell(key, stream, told, jobs)

    def _tell(
        self,
        key: JobKey,
        stream: BoundedStream[LifecycleJob],
        told: LifecycleJob,
        jobs: Mapping[JobKey, LifecycleJob],
    ) -> None:
        job = jobs.get(key)
        if job is None:
            stream.end(NotFound("lifecycle job", key[1], field="job_id"))
        elif job.state.ended:
            stream.put(job)
            stream.end()
        elif not len(stream) and _standing(job) != _standing(told):
            stream.put(job)
            self._readers[key][stream] = job


def _standing(job: LifecycleJob) -> tuple[object, ...]:
    """Return what a watcher is told of: not that a lease was renewed."""
    return (job.state, job.progress, job.attempt_count, job.start_time)
