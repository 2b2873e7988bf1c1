"""Jobs and storage metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Final

from tallygate.v1 import data_lifecycle_pb2
from tallygate.v1 import data_lifecycle_service_pb2 as wire
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import JobKind, JobState
from tallygate_server.transport import convert, paging
from tallygate_server.transport.lifecycle_rpcs import storage_convert
from tallygate_server.transport.lifecycle_rpcs.base import Context, LifecycleRpcs
from tallygate_server.transport.lifecycle_rpcs.job_convert import job_to_api

PAGE_BYTES_MAX: Final = 2 * 1_048_576
"""Of the jobs on one page; gRPC's clients take messages of up to 4 MiB."""


class JobRpcs(LifecycleRpcs):
    """Jobs and storage metrics."""

    async def GetLifecycleJob(
        self, request: wire.GetLifecycleJobRequest, _context: Context
    ) -> wire.GetLifecycleJobResponse:
        """Get one job."""
        job = await self._lifecycle.jobs.get(TenantId(request.tenant_id), request.job_id)
        return wire.GetLifecycleJobResponse(job=job_to_api(job))

    async def ListLifecycleJobs(
        self, request: wire.ListLifecycleJobsRequest, _context: Context
    ) -> wire.ListLifecycleJobsResponse:
        """List jobs, newest first."""
        now = self._now()
        size = paging.page_size_of(request.page_size)
        jobs = await self._lifecycle.jobs.page(
            TenantId(request.tenant_id),
            account_id=AccountId(request.account_id) if request.account_id else None,
            kind=JobKind(request.kind) if request.kind else None,
            state=JobState(request.state) if request.state else None,
            before_job_id=paging.page_position(request, now=now),
            limit=size + 1,
        )
        page: list[data_lifecycle_pb2.LifecycleJob] = []
        page_bytes = 0
        for job in jobs[:size]:
            api = job_to_api(job)
            page_bytes += api.ByteSize()
            # Reports may be long: a page of some of them is better than one that no client takes.
            if page and page_bytes > PAGE_BYTES_MAX:
                break
            page.append(api)
        more = len(jobs) > len(page)
        return wire.ListLifecycleJobsResponse(
            jobs=page,
            next_page_token=paging.page_token(request, page[-1].job_id, now=now) if more else "",
        )

    async def CancelLifecycleJob(
        self, request: wire.CancelLifecycleJobRequest, _context: Context
    ) -> wire.CancelLifecycleJobResponse:
        """Cancel a job."""
        job = await self._lifecycle.jobs.cancel(
            TenantId(request.tenant_id), request.job_id, actor=convert.actor_of(request)
        )
        return wire.CancelLifecycleJobResponse(job=job_to_api(job))

    async def WatchLifecycleJob(
        self, request: wire.WatchLifecycleJobRequest, _context: Context
    ) -> AsyncIterator[wire.WatchLifecycleJobResponse]:
        """Send a job as it is, and every progress until it ends."""
        states = self._lifecycle.jobs.watch(TenantId(request.tenant_id), request.job_id)
        async with aclosing(states):
            async for job in states:
                yield wire.WatchLifecycleJobResponse(job=job_to_api(job))

    async def GetStorageMetrics(
        self, request: wire.GetStorageMetricsRequest, _context: Context
    ) -> wire.GetStorageMetricsResponse:
        """Get how much is stored, and what follows from it."""
        now = self._now()
        size = paging.page_size_of(request.page_size)
        wanted = storage_convert.wanted_of(request, position=paging.page_position(request, now=now), limit=size + 1)
        storage = self._lifecycle.storage
        found = await storage.get(TenantId(request.tenant_id), wanted)
        page, more = found.groups[:size], len(found.groups) > size
        token = ""
        if more:
            token = paging.page_token(request, storage_convert.position_text(page[-1], wanted), now=now)
        return storage_convert.metrics_to_api(found, page, storage.tiers, next_page_token=token)
