"""`tallygate data job ...` as a person uses it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from grpc import StatusCode
from typer.testing import CliRunner, Result

from tallygate.v1 import data_lifecycle_pb2 as data
from tallygate.v1 import data_lifecycle_service_pb2 as data_service
from tallygate_server.cli import app as command_line
from tallygate_server.cli import job_progress
from tallygate_server.client import CallFailed
from tallygate_server.domain.lifecycle import JobKind
from tallygate_server.domain.lifecycle_job import LifecycleJob
from tallygate_server.errors import LegalHoldActive
from tallygate_server.lifecycle.jobs import JobControl
from tests.support.acme import ACME
from tests.support.lifecycle_jobs import Scripted, a_job, only, running_jobs
from tests.support.lifecycle_server import ServedLifecycle, serving_lifecycle

Say = Callable[..., Awaitable[Result]]


@pytest.fixture
async def served(database_without_tenants: str, fresh_redis: str, tmp_path: Path) -> AsyncIterator[ServedLifecycle]:
    async with serving_lifecycle("native", database_without_tenants, fresh_redis, tmp_path) as served:
        yield served


@pytest.fixture
def say(served: ServedLifecycle) -> Say:
    """Run commands in a thread: they have a loop of their own."""

    async def say(*arguments: str) -> Result:
        return await asyncio.to_thread(
            CliRunner().invoke, command_line, [*arguments], env={"TALLYGATE_TARGET": served.address}
        )

    return say


async def test_a_job_is_watched_to_its_report(served: ServedLifecycle, say: Say) -> None:
    async def work(_job: LifecycleJob, control: JobControl) -> dict[str, Any]:
        await control.report(done=2, total=4, phase="moving", read_bytes=2_000_000, written_bytes=300_000)
        return {
            "segment_count": 4,
            "source_bytes": 1_572_864,
            "target_tier": "STORAGE_TIER_COLD",
            "skipped": [{"segment_id": "seg_1", "kind": "legal_hold", "explanation": "a hold of the court"}],
        }

    only(served.lifecycle, {JobKind.ARCHIVE: Scripted(work)})
    job = await served.lifecycle.jobs.submit(a_job())
    async with running_jobs(served.lifecycle):
        watched = await say("data", "job", "watch", ACME, job.job_id)
    assert watched.exit_code == 0, watched.output
    assert "succeeded" in watched.stdout
    assert "1.50 MiB" in watched.stdout
    assert "cold" in watched.stdout
    assert re.search(r"record count +0", watched.stdout), "that there was nothing is an answer"
    assert "a hold of the court" in watched.stdout

    shown = await say("data", "job", "get", ACME, job.job_id, "--json")
    assert json.loads(shown.stdout)["move"]["segment_count"] == "4"
    listed = await say("data", "job", "list", ACME, "--kind", "archive", "--state", "succeeded")
    assert job.job_id in listed.stdout
    assert "100 %" in listed.stdout, "of 4 steps it did 2, and nobody else will do the others"
    assert job.job_id not in (await say("data", "job", "list", ACME, "--kind", "export")).stdout


async def test_exit_codes_tell_a_failure_and_a_cancellation(served: ServedLifecycle, say: Say) -> None:
    async def work(_job: LifecycleJob, _control: JobControl) -> dict[str, Any]:
        raise LegalHoldActive("a hold of the court forbids it", legal_hold_id="hold_1")

    only(served.lifecycle, {JobKind.ARCHIVE: Scripted(work)})
    waiting = await served.lifecycle.jobs.submit(a_job(JobKind.CLEANUP))
    canceled = await say("data", "job", "cancel", ACME, waiting.job_id)
    assert (canceled.exit_code, "canceled" in canceled.stdout) == (0, True)
    assert (await say("data", "job", "watch", ACME, waiting.job_id)).exit_code == 1
    again = await say("data", "job", "cancel", ACME, waiting.job_id, "--json")
    assert (again.exit_code, "JOB_ENDED" in again.output) == (2, True)

    failing = await served.lifecycle.jobs.submit(a_job())
    async with running_jobs(served.lifecycle):
        failed = await say("data", "job", "watch", ACME, failing.job_id)
    assert failed.exit_code == 2
    assert "(LEGAL_HOLD)" in failed.stdout


async def test_a_watch_goes_on_when_the_server_was_away_and_gives_up_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_progress, "RETRY_S", 0.0)
    monkeypatch.setattr(job_progress, "RETRIES_MAX", 3)

    def client(*, breaks: int) -> Any:
        async def stream(_method: object, request: Any) -> AsyncIterator[Any]:
            calls.append(request)
            if len(calls) <= breaks:
                raise CallFailed(method="WatchLifecycleJob", target="", code=StatusCode.UNAVAILABLE, message="away")
            state = data.LIFECYCLE_JOB_STATE_SUCCEEDED
            yield data_service.WatchLifecycleJobResponse(job=data.LifecycleJob(job_id="job_1", state=state))

        calls: list[Any] = []
        return SimpleNamespace(stream=stream, lifecycle=SimpleNamespace(WatchLifecycleJob=None))

    job = data.LifecycleJob(job_id="job_1", state=data.LIFECYCLE_JOB_STATE_RUNNING)
    ended = await job_progress.follow_job(client(breaks=3), job, quiet=True)
    assert ended.state == data.LIFECYCLE_JOB_STATE_SUCCEEDED
    with pytest.raises(CallFailed):
        await job_progress.follow_job(client(breaks=4), job, quiet=True)
