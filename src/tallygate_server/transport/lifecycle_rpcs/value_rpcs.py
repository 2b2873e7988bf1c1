"""Tells what data is worth, and plans by it."""

from __future__ import annotations

import asyncio

from tallygate.v1 import data_lifecycle_service_pb2 as wire
from tallygate_server.domain.identifier import TenantId
from tallygate_server.transport import convert, paging
from tallygate_server.transport.lifecycle_rpcs import value_convert
from tallygate_server.transport.lifecycle_rpcs.base import Context, LifecycleRpcs
from tallygate_server.transport.lifecycle_rpcs.job_convert import job_to_api
from tallygate_server.transport.lifecycle_rpcs.selection_convert import from_api_duration, from_api_selection


class ValueRpcs(LifecycleRpcs):
    """Tells what data is worth, and plans by it."""

    async def AssessDataValue(
        self, request: wire.AssessDataValueRequest, _context: Context
    ) -> wire.AssessDataValueResponse:
        """Tell what segments are worth for a model."""
        now = self._now()
        size = paging.page_size_of(request.page_size)
        scores = await self._lifecycle.values.assess(
            TenantId(request.tenant_id),
            from_api_selection(request.selection),
            model_key=request.model_key,
            after=value_convert.position_of(paging.page_position(request, now=now)),
            limit=size + 1,
        )
        page, more = scores[:size], len(scores) > size
        return wire.AssessDataValueResponse(
            scores=[value_convert.to_api_score(each) for each in page],
            next_page_token=paging.page_token(request, value_convert.position_text(page[-1]), now=now) if more else "",
        )

    async def IdentifyCriticalData(
        self, request: wire.IdentifyCriticalDataRequest, _context: Context
    ) -> wire.IdentifyCriticalDataResponse:
        """Find the data that a model could not do without."""
        critical = await self._lifecycle.values.identify_critical(
            TenantId(request.tenant_id),
            from_api_selection(request.selection),
            model_key=request.model_key,
            target_column=request.target_column,
            min_accuracy_ratio=request.min_accuracy_ratio,
            seed=request.seed,
        )
        return value_convert.to_api_critical(critical)

    async def SelectRepresentativeSamples(
        self, request: wire.SelectRepresentativeSamplesRequest, _context: Context
    ) -> wire.SelectRepresentativeSamplesResponse:
        """Select samples that represent all data."""
        samples = await self._lifecycle.values.select_samples(
            TenantId(request.tenant_id),
            from_api_selection(request.selection),
            sample_count=request.sample_count,
            seasons=value_convert.from_api_seasons(request),
            seed=request.seed,
        )
        # Up to 10,000 records: others get their turn in between.
        return await asyncio.to_thread(value_convert.to_api_samples, samples)

    async def OptimizeTrainingDataset(
        self, request: wire.OptimizeTrainingDatasetRequest, _context: Context
    ) -> wire.OptimizeTrainingDatasetResponse:
        """Select the training set of a size that is worth most."""
        chosen = await self._lifecycle.values.optimize_training_set(
            TenantId(request.tenant_id),
            from_api_selection(request.selection),
            model_key=request.model_key,
            target_record_count=request.target_record_count,
            target_column=request.target_column,
            seed=request.seed,
        )
        return value_convert.to_api_training_set(chosen)

    async def PlanRetention(self, request: wire.PlanRetentionRequest, _context: Context) -> wire.PlanRetentionResponse:
        """Plan what to keep under a storage limit."""
        view = await self._lifecycle.plans.plan_retention(
            TenantId(request.tenant_id),
            from_api_selection(request.selection),
            storage_limit_bytes=request.storage_limit_bytes,
            model_key=request.model_key,
            actor=convert.ACTOR_DEFAULT,
        )
        return value_convert.to_api_plan(view)

    async def UpdatePriorities(
        self, request: wire.UpdatePrioritiesRequest, _context: Context
    ) -> wire.UpdatePrioritiesResponse:
        """Adapt the weights of the value terms to how a model performed."""
        changes, changed_segment_count = await self._lifecycle.values.update_priorities(
            TenantId(request.tenant_id),
            value_convert.from_api_measurement(request),
            validate_only=request.validate_only,
            actor=convert.actor_of(request),
        )
        return wire.UpdatePrioritiesResponse(
            weights=[value_convert.to_api_weights(each) for each in changes],
            changed_segment_count=changed_segment_count,
        )

    async def OptimizeStorage(
        self, request: wire.OptimizeStorageRequest, _context: Context
    ) -> wire.OptimizeStorageResponse:
        """Make storage smaller: a plan first, which a second call carries out."""
        job = await self._lifecycle.plans.optimize(
            TenantId(request.tenant_id),
            value_convert.from_api_optimization(request),
            validate_only=request.validate_only,
            wait=from_api_duration(request.wait) if request.HasField("wait") else None,
            request_id=request.request_id,
            actor=convert.actor_of(request),
        )
        return wire.OptimizeStorageResponse(job=job_to_api(job))
