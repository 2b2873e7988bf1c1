"""Jobs on stored data: asked for once, run once at a time, resumed, cancelled, watched, forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tallygate_server.domain.lifecycle import JobKind, JobState
from tallygate_server.domain.lifecycle_job import LifecycleJob, NewJob
from tallygate_server.errors import (
    ArchiveCorruption,
    InvalidRequest,
    JobEnded,
    NotFound,
    Overloaded,
    RequestIdReused,
    StoreUnavailable,
    TenantNotFound,
)
from tallygate_server.lifecycle.assembly import Lifecycle
from tallygate_server.lifecycle.jobs import JobControl, JobLost, LifecycleJobRunner, use_cases
from tallygate_server.lifecycle.jobs import runner as runner_module
from tallygate_server.lifecycle.jobs.control import LEASE
from tallygate_server.lifecycle.jobs.runner import CRASHES_MAX, RETRY_DELAY
from tallygate_server.lifecycle.jobs.use_cases import JOB_AGE_MAX
from tallygate_server.lifecycle.jobs.watches import JobWatches
from tests.support.acme import ACME, GLOBEX, apply_catalog, services
from tests.support.clock import FrozenClock
from tests.support.eventually import eventually
from tests.support.lifecycle import NOON, lifecycles
from tests.support.lifecycle_jobs import REPORT, Scripted, a_job, at_once, only, running_jobs

PATIENCE = timedelta(seconds=60)
ONE_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Stand:
    """A lifecycle with a handler for archives, and its clock."""

    lifecycle: Lifecycle
    handler: Scripted
    clock: FrozenClock

    @property
    def runner(self) -> LifecycleJobRunner:
        """Another runner, which has not started."""
        return LifecycleJobRunner(self.lifecycle.jobs)

    async def submit(self, wanted: NewJob | None = None, wait: timedelta | None = None) -> LifecycleJob:
        """Ask for a job."""
        return await self.lifecycle.jobs.submit(wanted or a_job(), wait)

    async def now(self, job: LifecycleJob) -> LifecycleJob:
        """Return the job as it is now."""
        return await self.lifecycle.jobs.get(job.tenant_id, job.job_id)


@pytest.fixture
async def stand(database_without_tenants: str, fresh_redis: str, tmp_path: Path) -> AsyncIterator[Stand]:
    await apply_catalog(database_without_tenants)
    clock = FrozenClock(NOON)
    async with (
        services(database_without_tenants, fresh_redis, clock=clock) as [service],
        lifecycles(database_without_tenants, service, tmp_path) as lifecycle,
    ):
        handler = Scripted(at_once)
        only(lifecycle, {JobKind.ARCHIVE: handler})
        yield Stand(lifecycle, handler, clock)


async def test_a_job_is_run_and_its_caller_waits_for_the_end(stand: Stand) -> None:
    async with running_jobs(stand.lifecycle):
        job = await stand.submit(wait=PATIENCE)

    assert (job.state, job.result, job.attempt_count) == (JobState.SUCCEEDED, REPORT, 1)
    assert (job.create_time, job.start_time, job.end_time) == (NOON, NOON, NOON)
    assert stand.handler.attempts[0].request == {"wanted": "all"}


async def test_who_waits_too_long_gets_the_job_as_it_is_then(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(use_cases, "WAIT_MAX", timedelta(milliseconds=20))

    assert (await stand.submit(wait=PATIENCE)).state is JobState.PENDING


async def test_a_request_id_asks_for_one_job(stand: Stand) -> None:
    first, second = await asyncio.gather(stand.submit(a_job(request_id="r1")), stand.submit(a_job(request_id="r1")))
    other_kind = await stand.submit(a_job(JobKind.RESTORE, request_id="r1"))

    assert first.job_id == second.job_id != other_kind.job_id
    with pytest.raises(RequestIdReused):
        await stand.submit(a_job(request_id="r1", request={"wanted": "less"}))
    await stand.runner.run_due()
    assert (await stand.submit(a_job(request_id="r1"), PATIENCE)).state is JobState.SUCCEEDED
    assert len(stand.handler.attempts) == 1


async def test_who_has_too_many_open_jobs_gets_no_more(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(use_cases, "OPEN_JOBS_MAX", 2)
    await stand.submit(a_job(request_id="r1"))
    await stand.submit()

    with pytest.raises(Overloaded):
        await stand.submit()
    await stand.submit(a_job(request_id="r1"))


async def test_a_tenant_sees_its_own_jobs_only(stand: Stand, database_without_tenants: str) -> None:
    await apply_catalog(database_without_tenants, GLOBEX)
    job = await stand.submit()

    with pytest.raises(NotFound):
        await stand.lifecycle.jobs.get(GLOBEX, job.job_id)
    with pytest.raises(TenantNotFound):
        await stand.lifecycle.jobs.get("nobody", job.job_id)  # type: ignore[arg-type]
    assert await stand.lifecycle.jobs.page(GLOBEX, limit=10) == []
    assert [each.job_id for each in await stand.lifecycle.jobs.page(ACME, limit=10)] == [job.job_id]


async def test_a_job_waits_for_its_time(stand: Stand) -> None:
    job = await stand.submit(a_job(schedule_time=NOON + ONE_SECOND))

    assert await stand.runner.run_due() == 0
    assert (await stand.now(job)).state is JobState.PENDING
    stand.clock.advance(ONE_SECOND)
    assert await stand.runner.run_due() == 1
    assert (await stand.now(job)).state is JobState.SUCCEEDED


async def test_tenants_take_turns(stand: Stand, database_without_tenants: str) -> None:
    await apply_catalog(database_without_tenants, GLOBEX)
    for _ in range(3):
        await stand.submit()
    stand.clock.advance(ONE_SECOND)
    await stand.submit(NewJob(**{name: getattr(a_job(), name) for name in NewJob.__slots__} | {"tenant_id": GLOBEX}))

    await LifecycleJobRunner(stand.lifecycle.jobs, at_once=1).run_due()

    assert [job.tenant_id for job in stand.handler.attempts] == [ACME, GLOBEX, ACME, ACME]


async def test_a_kind_without_a_handler_waits_for_a_server_that_has_one(stand: Stand) -> None:
    job = await stand.submit(a_job(JobKind.CLEANUP))

    assert await stand.runner.run_due() == 0
    assert (await stand.now(job)).state is JobState.PENDING


async def test_progress_is_written_with_the_end_that_it_promises(stand: Stand) -> None:
    async def work(job: LifecycleJob, control: JobControl) -> dict[str, Any]:
        await control.report(done=0, total=10)
        stand.clock.advance(timedelta(minutes=2))
        await control.report(done=4, total=10, phase="moving", read_bytes=7, written_bytes=5, at_once=True)
        seen.append(await stand.now(job))
        return dict(REPORT)

    seen: list[LifecycleJob] = []
    stand.handler.work = work
    await stand.submit()
    await stand.runner.run_due()

    progress = seen[0].progress
    assert (progress.done, progress.total, progress.phase) == (4, 10, "moving")
    assert (progress.read_bytes, progress.written_bytes) == (7, 5)
    assert progress.estimated_end_time == NOON + timedelta(minutes=5)
    assert seen[0].state is JobState.RUNNING


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ArchiveCorruption("segment seg_1 is damaged", segment_id="seg_1", dataset_id="ds_1"), "ARCHIVE_CORRUPTION"),
        (InvalidRequest.of("selection", "chooses nothing"), "VALIDATION_FAILED"),
        (ZeroDivisionError("by zero"), "INTERNAL"),
    ],
)
async def test_a_failure_is_kept(stand: Stand, error: Exception, reason: str) -> None:
    async def work(_job: LifecycleJob, _control: JobControl) -> dict[str, Any]:
        raise error

    stand.handler.work = work
    job = await stand.submit()
    with capture_logs():
        await stand.runner.run_due()
    job = await stand.now(job)

    assert (job.state, job.result) == (JobState.FAILED, None)
    assert job.error is not None
    assert job.error.reason == reason
    assert "by zero" not in job.error.message
    assert ("incident_id" in job.error.facts) == (reason == "INTERNAL")


@pytest.mark.parametrize("value", [float("nan"), object()])
async def test_a_report_that_cannot_be_written_is_an_incident(stand: Stand, value: object) -> None:
    async def work(_job: LifecycleJob, _control: JobControl) -> dict[str, Any]:
        return {"value_retained": value}

    stand.handler.work = work
    job = await stand.submit()
    # A stack through the database's client takes seconds to be shown in colours.
    with capture_logs() as logs:
        assert await stand.runner.run_due() == 1
    job = await stand.now(job)

    assert (job.state, job.result) == (JobState.FAILED, None)
    assert job.error is not None
    assert job.error.reason == "INTERNAL"
    assert [entry["incident_id"] for entry in logs if "incident_id" in entry] == [job.error.facts["incident_id"]]


async def test_the_end_is_written_when_the_database_is_back(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, tries = stand.runner, []
    write = runner._write

    async def away_at_first(*what: Any) -> None:
        tries.append(what)
        if len(tries) < 3:
            raise StoreUnavailable("the database cannot be reached just now")
        await write(*what)

    monkeypatch.setattr(runner_module, "WRITE_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(runner, "_write", away_at_first)
    job = await stand.submit()

    assert await runner.run_due() == 1
    assert ((await stand.now(job)).state, len(stand.handler.attempts)) == (JobState.SUCCEEDED, 1)


async def test_a_job_goes_on_where_a_dead_runner_left_it_and_the_dead_one_changes_nothing(stand: Stand) -> None:
    async def hang(_job: LifecycleJob, control: JobControl) -> dict[str, Any]:
        await control.report(done=5, total=10, checkpoint={"at": 5}, at_once=True)
        hangs.set()
        await come_back.wait()
        try:
            await control.report(done=10, total=10, checkpoint={"at": 10}, at_once=True)
        except JobLost:
            lost.set()
            raise
        return {"segment_count": 999}

    hangs, come_back, lost = asyncio.Event(), asyncio.Event(), asyncio.Event()
    stand.handler.work = hang
    job = await stand.submit()
    async with running_jobs(stand.lifecycle):
        await hangs.wait()
        stand.handler.work = at_once

        stand.clock.advance(LEASE - ONE_SECOND)
        assert await stand.runner.run_due() == 0
        stand.clock.advance(ONE_SECOND)
        assert await stand.runner.run_due() == 1
        come_back.set()
        await lost.wait()

    job = await stand.now(job)
    assert (job.state, job.result, job.attempt_count) == (JobState.SUCCEEDED, REPORT, 2)
    assert job.checkpoint == {"at": 5}
    assert stand.handler.attempts[1].checkpoint == {"at": 5}


async def test_who_hears_of_its_loss_at_the_renewal_stops(stand: Stand) -> None:
    async def hang(_job: LifecycleJob, _control: JobControl) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    stand.handler.work = hang
    await stand.submit()
    async with running_jobs(stand.lifecycle, heartbeat_seconds=0.01, lease=timedelta(0)) as runner:
        await stand.handler.begun.wait()
        stand.handler.work = at_once
        assert await stand.runner.run_due() == 1
        await eventually(lambda: runner.running_count == 0)


async def test_renewals_keep_a_job(stand: Stand) -> None:
    async def hang(_job: LifecycleJob, _control: JobControl) -> dict[str, Any]:
        await release.wait()
        return dict(REPORT)

    async def renewed() -> bool:
        return (await stand.now(job)).lease_time == stand.clock.now() + LEASE

    release = asyncio.Event()
    stand.handler.work = hang
    job = await stand.submit()
    async with running_jobs(stand.lifecycle, heartbeat_seconds=0.01):
        await stand.handler.begun.wait()
        stand.clock.advance(LEASE / 2)
        await eventually(renewed)
        stand.clock.advance(LEASE / 2)
        assert await stand.runner.run_due() == 0
        release.set()


async def test_a_job_that_kills_its_servers_is_given_up(stand: Stand) -> None:
    job = await stand.submit()
    for _ in range(CRASHES_MAX):
        await _die_with(stand, report=None)

    assert await stand.runner.run_due() == 1
    job = await stand.now(job)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert f"{CRASHES_MAX} times" in job.error.message
    assert stand.handler.attempts == []


async def test_a_job_that_gets_further_each_time_is_not_given_up(stand: Stand) -> None:
    job = await stand.submit()
    for attempt in range(CRASHES_MAX + 1):
        await _die_with(stand, report=attempt + 1)

    assert await stand.runner.run_due() == 1
    assert (await stand.now(job)).state is JobState.SUCCEEDED


async def _die_with(stand: Stand, *, report: int | None) -> None:
    """Take the job as a runner that dies before it says another word."""
    runner = stand.runner
    [key] = await runner._due(1)
    run = await runner._claim(key)
    assert run is not None
    run.task.cancel()
    await asyncio.gather(run.task, return_exceptions=True)
    if report is not None:
        await run.control.report(done=report, at_once=True)
    stand.clock.advance(LEASE)


async def test_without_a_store_a_job_is_tried_again_later(stand: Stand) -> None:
    async def away(_job: LifecycleJob, _control: JobControl) -> dict[str, Any]:
        raise StoreUnavailable("the object store cannot be reached just now")

    stand.handler.work = away
    job = await stand.submit()
    for attempt in range(1, CRASHES_MAX):
        assert await stand.runner.run_due() == 1
        assert (await stand.now(job)).state is JobState.PENDING
        stand.clock.advance(RETRY_DELAY * attempt)
    assert await stand.runner.run_due() == 1

    job = await stand.now(job)
    assert (job.state, job.attempt_count) == (JobState.FAILED, CRASHES_MAX)
    assert job.error is not None
    assert job.error.reason == "STORE_UNAVAILABLE"


async def test_who_stops_gives_its_jobs_back_with_what_was_reported(stand: Stand) -> None:
    async def hang(_job: LifecycleJob, control: JobControl) -> dict[str, Any]:
        await control.report(done=1, total=3, checkpoint={"at": 1})
        await control.report(done=2, total=3, checkpoint={"at": 2})
        reported.set()
        await asyncio.Event().wait()
        return {}

    reported = asyncio.Event()
    stand.handler.work = hang
    job = await stand.submit()
    async with running_jobs(stand.lifecycle):
        await reported.wait()

    job = await stand.now(job)
    assert (job.state, job.checkpoint, job.progress.done) == (JobState.PENDING, {"at": 2}, 2)
    stand.handler.work = at_once
    assert await stand.runner.run_due() == 1
    assert (await stand.now(job)).attempt_count == 2


async def test_a_checkpoint_stands_or_falls_with_its_step(stand: Stand) -> None:
    async def work(job: LifecycleJob, control: JobControl) -> dict[str, Any]:
        async with stand.lifecycle.database.tenant_transaction(job.tenant_id) as connection:
            await control.note(connection, {"step": 1})
        with pytest.raises(ZeroDivisionError):
            await half_a_step(job, control)
        stand.clock.advance(ONE_SECOND)
        await control.report(done=1, at_once=True)
        now = await stand.now(job)
        assert now.lease_time == stand.clock.now() + LEASE
        seen.append(now.checkpoint)
        return dict(REPORT)

    async def half_a_step(job: LifecycleJob, control: JobControl) -> None:
        async with stand.lifecycle.database.tenant_transaction(job.tenant_id) as connection:
            await control.note(connection, {"step": 2})
            raise ZeroDivisionError

    seen: list[object] = []
    stand.handler.work = work
    job = await stand.submit()
    await stand.runner.run_due()

    assert seen == [{"step": 1}]
    assert (await stand.now(job)).checkpoint == {"step": 1}


async def test_a_waiting_job_is_cancelled_at_once_and_an_ended_one_not_at_all(stand: Stand) -> None:
    job = await stand.submit()
    job = await stand.lifecycle.jobs.cancel(ACME, job.job_id, actor="test")

    assert (job.state, job.end_time) == (JobState.CANCELED, NOON)
    assert await stand.runner.run_due() == 0
    with pytest.raises(JobEnded) as caught:
        await stand.lifecycle.jobs.cancel(ACME, job.job_id, actor="test")
    assert caught.value.facts["state"] == "canceled"
    with pytest.raises(NotFound):
        await stand.lifecycle.jobs.cancel(ACME, "job_none", actor="test")


async def test_a_running_job_stops_after_its_present_step(stand: Stand) -> None:
    async def steps(_job: LifecycleJob, control: JobControl) -> dict[str, Any]:
        for step in range(1_000_000):
            await control.report(done=step, at_once=True)
            await asyncio.sleep(0)
        return dict(REPORT)

    stand.handler.work = steps
    job = await stand.submit()
    async with running_jobs(stand.lifecycle):
        await stand.handler.begun.wait()
        job = await stand.lifecycle.jobs.cancel(ACME, job.job_id, actor="test")
        assert job.state is JobState.RUNNING
        [*_, last] = [state async for state in stand.lifecycle.jobs.watch(ACME, job.job_id)]

    assert (last.state, last.result, last.error) == (JobState.CANCELED, None, None)


async def test_a_cancelled_job_whose_runner_died_is_not_begun_again(stand: Stand) -> None:
    job = await stand.submit()
    await _die_with(stand, report=None)
    await stand.lifecycle.jobs.cancel(ACME, job.job_id, actor="test")

    assert await stand.runner.run_due() == 1
    assert (await stand.now(job)).state is JobState.CANCELED
    assert stand.handler.attempts == []


async def test_watchers_see_the_job_as_it_is_its_progress_and_its_end(stand: Stand) -> None:
    async def work(_job: LifecycleJob, control: JobControl) -> dict[str, Any]:
        await go_on.wait()
        await control.report(done=1, total=2, at_once=True)
        stand.lifecycle.jobs.watches.look()
        await both_saw.wait()
        return dict(REPORT)

    async def watch() -> list[JobState]:
        states = []
        async for state in stand.lifecycle.jobs.watch(ACME, job.job_id):
            states.append(state.state)
            go_on.set()
            if state.progress.done:
                saw.append(state)
                if len(saw) == 2:
                    both_saw.set()
        return states

    go_on, both_saw = asyncio.Event(), asyncio.Event()
    saw: list[LifecycleJob] = []
    stand.handler.work = work
    job = await stand.submit()
    async with running_jobs(stand.lifecycle):
        first, second = await asyncio.gather(watch(), watch())

    for states in (first, second):
        assert states[-1] is JobState.SUCCEEDED
        assert JobState.RUNNING in states
    assert [state.state async for state in stand.lifecycle.jobs.watch(ACME, job.job_id)] == [JobState.SUCCEEDED]
    assert len(stand.lifecycle.jobs.watches) == 0


async def test_watches_end_with_the_server_and_waits_with_the_job_as_it_is(stand: Stand) -> None:
    job = await stand.submit()
    watch = stand.lifecycle.jobs.watch(ACME, job.job_id)
    assert await anext(watch) == job
    waiting = asyncio.create_task(stand.submit(a_job(request_id="r1"), PATIENCE))
    await eventually(lambda: len(stand.lifecycle.jobs.watches._waits) == 1)

    stand.lifecycle.jobs.end_watches(StoreUnavailable("the server is shutting down"))

    with pytest.raises(StoreUnavailable):
        await anext(watch)
    assert (await waiting).state is JobState.PENDING


async def test_a_silent_job_is_told_of_again_as_a_sign_of_life(stand: Stand) -> None:
    watches = JobWatches(stand.lifecycle.database, heartbeat_seconds=0.001)
    job = await stand.submit()
    watch = watches.watch(job)

    assert [await anext(watch), await anext(watch), await anext(watch)] == [job, job, job]
    await watch.aclose()
    await watches.close()


async def test_watches_are_bounded(stand: Stand) -> None:
    watches = JobWatches(stand.lifecycle.database, watchers_max=1)
    job = await stand.submit()
    first = watches.watch(job)
    await anext(first)

    with pytest.raises(Overloaded):
        await anext(watches.watch(job))
    await first.aclose()
    await anext(again := watches.watch(job))
    await again.aclose()
    await watches.close()


async def test_old_jobs_are_forgotten_but_not_what_was_exported_or_erased(stand: Stand) -> None:
    for kind in (JobKind.EXPORT, JobKind.ERASURE):
        stand.lifecycle.jobs.register(kind, Scripted(at_once))
    kept = [await stand.submit(a_job(kind)) for kind in (JobKind.EXPORT, JobKind.ERASURE)]
    await stand.submit(a_job(JobKind.ERASURE, validate_only=True))
    await stand.submit()
    await stand.runner.run_due()
    waiting = await stand.submit(a_job(JobKind.CLEANUP))

    stand.clock.advance(JOB_AGE_MAX)
    assert await stand.lifecycle.jobs.forget() == {}
    stand.clock.advance(ONE_SECOND)
    assert await stand.lifecycle.jobs.forget() == {"lifecycle_jobs_forgotten": 2}

    left = {job.job_id for job in await stand.lifecycle.jobs.page(ACME, limit=10)}
    assert left == {waiting.job_id, *(job.job_id for job in kept)}
