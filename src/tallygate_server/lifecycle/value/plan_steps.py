"""Carries out steps of plans for smaller storage: once, whole, and only where nothing has come to protect the data."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final

import pyarrow as pa

from tallygate_server.clock import Clock
from tallygate_server.domain.lifecycle import (
    ONE_MICROSECOND,
    CompressionForm,
    CompressionSettings,
    Dataset,
    Segment,
    StorageOptimization,
)
from tallygate_server.domain.lifecycle_job import LifecycleJob
from tallygate_server.domain.retention_rules import Protections
from tallygate_server.errors import ArchiveCorruption, IntegrityViolation, SegmentsChanged
from tallygate_server.lifecycle import columnar
from tallygate_server.lifecycle.compression.report import compression_facts
from tallygate_server.lifecycle.lossy import (
    LossyPayloadDamaged,
    LossySettingsInvalid,
    check,
    encode,
    lossy_settings,
)
from tallygate_server.lifecycle.policies import Candidate, Policies, Removed, Remover
from tallygate_server.lifecycle.segments import PreparedSegment, SegmentStore
from tallygate_server.lifecycle.tiers.records import read_merged
from tallygate_server.lifecycle.value.plan_rules import Untouchable, demand_allowed, lossy_settings_for
from tallygate_server.lifecycle.value.scoring import Scored, Scorer
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.data_records import forget_replaced
from tallygate_server.storage.data_segments import read_segment
from tallygate_server.storage.datasets import read_dataset_by_id
from tallygate_server.storage.value_rows import Plan, PlanStep, write_step_done

ACTION: Final = "data.optimized"
LOSS_MARGIN: Final = 0.05
"""By how much a step may lose more of a segment's worth than the plan has estimated."""
CHANGED: Final = "the segment has changed since"


class PlanSteps:
    """Does steps of plans."""

    def __init__(
        self, segments: SegmentStore, scorer: Scorer, policies: Policies, remover: Remover, clock: Clock
    ) -> None:
        """Ask these what protects data, and remove it by the remover."""
        self._store = segments
        self._scorer = scorer
        self._policies = policies
        self._remover = remover
        self._clock = clock

    async def do(self, job: LifecycleJob, plan: Plan, step: PlanStep) -> PlanStep:
        """Do a step, or with `validate_only` look whether it can be done; return it with what it saved and lost.

        Raises Untouchable where it must not be done, or cannot be.
        """
        tenant_id = job.tenant_id
        async with self._store.database.tenant_transaction(tenant_id) as connection:
            segment = await read_segment(connection, tenant_id, step.segment_id)
            dataset = await read_dataset_by_id(connection, tenant_id, segment.dataset_id) if segment else None
        if segment is None or dataset is None or segment.checksum != step.checksum:
            raise Untouchable(CHANGED)
        protections = await self._policies.protections(tenant_id, [segment.account_id])
        [scored] = await self._scorer.score(
            tenant_id, [segment], model_key=str(plan.document["model_key"]), protections=protections
        )
        demand_allowed(protections, scored, step.action, self._clock.now())
        if job.validate_only:
            return replace(step, done_bytes=step.saved_bytes, done_value_lost=step.value_lost)
        try:
            if step.action is StorageOptimization.DELETE:
                return await self._remove(job, plan, step, scored, protections)
            return await self._make_smaller(job, plan, step, dataset=dataset, scored=scored, protections=protections)
        except SegmentsChanged:
            raise Untouchable(CHANGED) from None
        except (IntegrityViolation, ArchiveCorruption) as error:
            raise Untouchable(f"the segment is damaged: {error.facts['why']}") from error

    async def _remove(
        self, job: LifecycleJob, plan: Plan, step: PlanStep, scored: Scored, protections: Protections
    ) -> PlanStep:
        saved = scored.segment.stored_bytes

        async def note(connection: Connection, _removed: Removed) -> None:
            await write_step_done(
                connection, job.tenant_id, plan.plan_id, step.segment_id, saved_bytes=saved, value_lost=1.0
            )

        removed = await self._remover.remove(
            [Candidate(segment=scored.segment, importance=scored.importance)],
            seen=protections,
            by_hand=True,
            actor=job.actor,
            action=ACTION,
            note=note,
        )
        for _, kept in removed.kept:
            raise Untouchable(kept.explanation)
        return replace(step, done_bytes=saved, done_value_lost=1.0)

    async def _make_smaller(
        self,
        job: LifecycleJob,
        plan: Plan,
        step: PlanStep,
        *,
        dataset: Dataset,
        scored: Scored,
        protections: Protections,
    ) -> PlanStep:
        segment = scored.segment
        table, dropped = await read_merged(self._store, [segment])
        if not table.num_rows:
            raise Untouchable("all its records were replaced by others; the next move between tiers removes it")
        if step.action is StorageOptimization.COMPRESS:
            prepared, lost = await self._lossless(dataset, segment, table), 0.0
        else:
            settings = lossy_settings_for(protections, segment.data_type)
            prepared, lost = await self._lossy(dataset, segment, table, settings)
            if lost > step.value_lost + LOSS_MARGIN:
                raise Untouchable(f"it would lose {lost:.0%} of its worth, not {step.value_lost:.0%} as planned")
        saved = segment.stored_bytes - prepared.segment.stored_bytes
        if saved <= 0:
            raise Untouchable("it would not get smaller")

        async def confirm(connection: Connection) -> None:
            again = await self._policies.protections_in(connection, job.tenant_id, plans=protections.plans)
            demand_allowed(again, scored, step.action, self._clock.now())
            if await forget_replaced(connection, job.tenant_id, segment.dataset_id, dropped) != len(dropped):
                raise SegmentsChanged(segment.dataset_id)
            await write_step_done(
                connection, job.tenant_id, plan.plan_id, step.segment_id, saved_bytes=saved, value_lost=lost
            )

        await self._store.replace([segment], [prepared], actor=job.actor, action=ACTION, in_transaction=confirm)
        return replace(step, done_bytes=saved, done_value_lost=lost)

    async def _lossless(self, dataset: Dataset, segment: Segment, table: pa.Table) -> PreparedSegment:
        facts = {name: fact for name, fact in (await self._store.read_facts(segment)).items() if name != "statistics"}
        prepared = await self._store.prepare(
            dataset,
            table,
            tier=segment.tier,
            form=CompressionForm.LOSSLESS,
            quality_score=segment.quality_score,
            facts=facts,
        )
        return _promising(prepared, segment)

    async def _lossy(
        self, dataset: Dataset, segment: Segment, table: pa.Table, settings: CompressionSettings
    ) -> tuple[PreparedSegment, float]:
        """Return a segment's lossy form, and the share of its worth that it loses."""
        try:
            known = lossy_settings(settings)
            result = await asyncio.to_thread(encode, table, known)
        except LossySettingsInvalid as error:
            raise Untouchable(f"it has no such form: {error.description}") from error

        def verify(payload: bytes) -> None:
            if payload != result.payload:
                raise ValueError("other bytes")
            try:
                check(payload, table, known)
            except LossyPayloadDamaged as error:
                raise ValueError(str(error)) from error

        prepared = await self._store.prepare_lossy(
            dataset,
            result.payload,
            form=settings.form,
            replaced=[segment],
            facts=compression_facts(result, known),
            verify=verify,
            codecs={loss.column: loss.codec for loss in result.columns},
            tier=segment.tier,
        )
        # Records that others replaced are gone: it stands for what was encoded.
        standing = replace(
            prepared.segment,
            start_time=table.column("time")[0].as_py(),
            end_time=table.column("time")[-1].as_py() + ONE_MICROSECOND,
            record_count=table.num_rows,
            original_bytes=await asyncio.to_thread(columnar.plain_bytes, table),
        )
        lost = 1.0 - max(0.0, min(1.0, result.value_retained))
        return _promising(replace(prepared, segment=standing), segment), lost


def _promising(prepared: PreparedSegment, segment: Segment) -> PreparedSegment:
    """Return a segment with the promises of the one that it takes the place of."""
    promising = replace(
        prepared.segment, retention_end_time=segment.retention_end_time, stay_end_time=segment.stay_end_time
    )
    return replace(prepared, segment=promising)
