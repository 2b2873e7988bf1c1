"""Jobs on stored data as callers see them, on both transports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc import aio

from tallygate.v1 import data_lifecycle_pb2 as data
from tallygate.v1 import data_lifecycle_service_pb2 as calls
from tallygate_server.domain.lifecycle import JobKind, JobState
from tallygate_server.domain.lifecycle_job import LifecycleJob
from tallygate_server.errors import ArchiveCorruption
from tallygate_server.lifecycle.jobs import JobControl
from tallygate_server.transport.lifecycle_rpcs import job_rpcs
from tallygate_server.transport.lifecycle_rpcs.job_convert import JOB_KIND, JOB_STATE, RESULT_FIELD
from tests.support.acme import ACME, ANN
from tests.support.clock import FrozenClock
from tests.support.lifecycle import NOON
from tests.support.lifecycle_jobs import Scripted, a_job, only, running_jobs
from tests.support.lifecycle_server import TRANSPORTS, ServedLifecycle, serving_lifecycle
from tests.support.transport_servers import refusal_of


@pytest.fixture(params=TRANSPORTS)
async def served(
    request: pytest.FixtureRequest, fresh_database: str, fresh_redis: str, tmp_path: Path
) -> AsyncIterator[ServedLifecycle]:
    async with serving_lifecycle(
        request.param, fresh_database, fresh_redis, tmp_path, clock=FrozenClock(NOON)
    ) as served:
        yield served


async def get(served: ServedLifecycle, job_id: str) -> data.LifecycleJob:
    response = await served.stub.GetLifecycleJob(calls.GetLifecycleJobRequest(tenant_id=ACME, job_id=job_id))
    job: data.LifecycleJob = response.job
    return job


async def test_a_job_is_seen_whole_listed_watched_and_cancelled(served: ServedLifecycle) -> None:
    async def work(_job: LifecycleJob, control: JobControl) -> dict[str, Any]:
        await control.report(done=1, total=4, phase="moving", read_bytes=10, written_bytes=4, at_once=True)
        served.lifecycle.jobs.watches.look()
        await seen.wait()
        return {"segment_count": 3, "target_tier": "STORAGE_TIER_COLD", "retention_end_time": "2027-01-01T00:00:00Z"}

    jobs, clock = served.lifecycle.jobs, served.lifecycle.clock
    assert isinstance(clock, FrozenClock)
    seen = asyncio.Event()
    only(served.lifecycle, {JobKind.ARCHIVE: Scripted(work)})
    first = await jobs.submit(a_job(request_id="r1", schedule_time=NOON))
    clock.advance(timedelta(seconds=1))
    other = await jobs.submit(a_job(JobKind.CLEANUP, validate_only=True, schedule_time=NOON + timedelta(days=1)))

    messages = []
    async with running_jobs(served.lifecycle):
        async for message in served.stub.WatchLifecycleJob(
            calls.WatchLifecycleJobRequest(tenant_id=ACME, job_id=first.job_id)
        ):
            messages.append(message.job)
            if message.job.progress.done_count:
                seen.set()
    running, ended = messages[-2:]
    assert (running.state, running.progress.phase) == (data.LIFECYCLE_JOB_STATE_RUNNING, "moving")
    assert (running.progress.total_count, running.progress.read_bytes, running.progress.written_bytes) == (4, 10, 4)
    assert ended == await get(served, first.job_id)
    assert (ended.state, ended.kind) == (data.LIFECYCLE_JOB_STATE_SUCCEEDED, data.LIFECYCLE_JOB_KIND_ARCHIVE)
    assert (ended.move.segment_count, ended.move.target_tier) == (3, data.STORAGE_TIER_COLD)
    assert ended.move.retention_end_time.ToJsonString() == "2027-01-01T00:00:00Z"
    assert (ended.tenant_id, ended.account_id, ended.actor, ended.request_id) == (ACME, ANN, "test", "r1")
    assert (ended.attempt_count, ended.validate_only, ended.HasField("error")) == (1, False, False)
    assert ended.create_time.ToJsonString() == ended.schedule_time.ToJsonString() == "2026-03-01T12:00:00Z"
    assert ended.start_time.ToJsonString() == ended.end_time.ToJsonString() == "2026-03-01T12:00:01Z"

    listed = await served.stub.ListLifecycleJobs(calls.ListLifecycleJobsRequest(tenant_id=ACME, page_size=1))
    assert [job.job_id for job in listed.jobs] == [other.job_id]
    assert listed.jobs[0].validate_only
    rest = await served.stub.ListLifecycleJobs(
        calls.ListLifecycleJobsRequest(tenant_id=ACME, page_size=1, page_token=listed.next_page_token)
    )
    assert (list(rest.jobs), rest.next_page_token) == ([ended], "")
    for filters, expected in (
        ({"kind": data.LIFECYCLE_JOB_KIND_CLEANUP}, [other.job_id]),
        ({"state": data.LIFECYCLE_JOB_STATE_SUCCEEDED}, [first.job_id]),
        ({"account_id": "bob"}, []),
    ):
        found = await served.stub.ListLifecycleJobs(calls.ListLifecycleJobsRequest(tenant_id=ACME, **filters))
        assert [job.job_id for job in found.jobs] == expected

    cancel = calls.CancelLifecycleJobRequest(tenant_id=ACME, job_id=other.job_id)
    assert (await served.stub.CancelLifecycleJob(cancel)).job.state == data.LIFECYCLE_JOB_STATE_CANCELED
    with pytest.raises(aio.AioRpcError) as caught:
        await served.stub.CancelLifecycleJob(cancel)
    refusal = refusal_of(caught.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "JOB_ENDED")


async def test_a_failed_job_tells_why_and_an_unknown_one_is_not_found(served: ServedLifecycle) -> None:
    async def work(_job: LifecycleJob, _control: JobControl) -> dict[str, Any]:
        raise ArchiveCorruption("it is torn", dataset_id="ds_1", segment_id="seg_1")

    only(served.lifecycle, {JobKind.ARCHIVE: Scripted(work)})
    async with running_jobs(served.lifecycle):
        job = await served.lifecycle.jobs.submit(a_job(), timedelta(seconds=60))

    api = await get(served, job.job_id)
    info = error_details_pb2.ErrorInfo()
    assert api.error.details[0].Unpack(info)
    assert (api.state, api.WhichOneof("result")) == (data.LIFECYCLE_JOB_STATE_FAILED, None)
    assert (api.error.code, info.reason) == (grpc.StatusCode.DATA_LOSS.value[0], "ARCHIVE_CORRUPTION")
    assert (info.domain, info.metadata["segment_id"]) == ("tallygate.dev", "seg_1")
    watch = served.stub.WatchLifecycleJob(calls.WatchLifecycleJobRequest(tenant_id=ACME, job_id="job_none"))
    with pytest.raises(aio.AioRpcError) as caught:
        await watch.read()
    assert refusal_of(caught.value).reason == "NOT_FOUND"


async def test_a_report_that_is_none_spoils_its_own_job_only(served: ServedLifecycle) -> None:
    async def work(_job: LifecycleJob, _control: JobControl) -> dict[str, Any]:
        return {"segment_count": 3, "no_such_field": 1}

    only(served.lifecycle, {JobKind.ARCHIVE: Scripted(work)})
    async with running_jobs(served.lifecycle):
        await served.lifecycle.jobs.submit(a_job(), timedelta(seconds=60))

    listed = await served.stub.ListLifecycleJobs(calls.ListLifecycleJobsRequest(tenant_id=ACME))
    [job] = listed.jobs
    assert (job.state, job.WhichOneof("result")) == (data.LIFECYCLE_JOB_STATE_SUCCEEDED, None)
    assert job.error.code == grpc.StatusCode.INTERNAL.value[0]


async def test_a_page_of_long_reports_ends_before_it_is_too_long(
    served: ServedLifecycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [await served.lifecycle.jobs.submit(a_job()) for _ in range(3)]
    size = (await get(served, jobs[0].job_id)).ByteSize()
    request = calls.ListLifecycleJobsRequest(tenant_id=ACME)
    for bytes_max, expected in ((3 * size, 3), (3 * size - 1, 2), (1, 1)):
        monkeypatch.setattr(job_rpcs, "PAGE_BYTES_MAX", bytes_max)
        page = await served.stub.ListLifecycleJobs(request)
        assert (len(page.jobs), bool(page.next_page_token)) == (expected, expected < 3)


async def test_a_watch_ends_when_the_server_drains(served: ServedLifecycle) -> None:
    job = await served.lifecycle.jobs.submit(a_job())
    watch = served.stub.WatchLifecycleJob(calls.WatchLifecycleJobRequest(tenant_id=ACME, job_id=job.job_id))
    assert (await watch.read()).job.job_id == job.job_id

    draining = asyncio.create_task(served.server.drain(drain_delay_ms=0, grace_ms=60_000))
    with pytest.raises(aio.AioRpcError) as caught:
        await watch.read()
    await draining
    assert refusal_of(caught.value).reason == "SHUTTING_DOWN"


def test_kinds_states_and_results_are_those_of_the_contract() -> None:
    assert len(JOB_KIND) == len(data.LifecycleJobKind.keys()) - 1
    assert len(JOB_STATE) == len(data.LifecycleJobState.keys()) - 1
    assert all(int(kind) == number for kind, number in JOB_KIND.items())
    assert all(int(state) == number for state, number in JOB_STATE.items())
    result = data.LifecycleJob.DESCRIPTOR.oneofs_by_name["result"]
    assert set(RESULT_FIELD.values()) == {field.name for field in result.fields}
    assert set(RESULT_FIELD) == set(JobKind)
    assert JobState(data.LIFECYCLE_JOB_STATE_CANCELED).ended
