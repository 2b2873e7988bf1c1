"""Applies retention, of all tenants, in bounded batches: removes what has had its days, queues what may be smaller.

Nothing is removed that nobody has said anything about: without a policy, a plan's days or a hand's, data is kept for
ever. Critical data is never removed here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import date, datetime
from typing import Final

import structlog

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.lifecycle import DataImportance, DataSelection, JobKind, Segment
from tallygate_server.domain.retention_rules import RETENTION_FEATURE, Protections
from tallygate_server.errors import (
    ArchiveCorruption,
    IntegrityViolation,
    Overloaded,
    SegmentsChanged,
    TallygateError,
    Unavailable,
)
from tallygate_server.lifecycle.classification.classifier import Classifier, Comparison
from tallygate_server.lifecycle.compression import compression_request
from tallygate_server.lifecycle.jobs import LifecycleJobs, NewJob
from tallygate_server.lifecycle.policies.policies import Policies, compressible
from tallygate_server.lifecycle.policies.removal import SEGMENTS_PER_STEP_MAX, Candidate, Removed, Remover
from tallygate_server.lifecycle.segments import SegmentStore
from tallygate_server.storage.removals import tenants_with_retention
from tallygate_server.storage.segment_ages import bare_segments, segments_by_id

log = structlog.get_logger(__name__)

SEGMENTS_PER_LOOK_MAX: Final = 500
"""At a time: reading more rows at once would keep calls waiting."""
SEGMENTS_PER_RUN_MAX: Final = 200_000
"""Of one tenant that one run looks at; the next goes on there."""
CLASSIFIED_AT_ONCE_MAX: Final = 500
ACTOR: Final = "lifecycle"
ACTION: Final = "data.expired"
EVERY_TENANT: Final = TenantId("*")


class Retainer:
    """Removes data whose time is over."""

    def __init__(
        self,
        store: SegmentStore,
        *,
        policies: Policies,
        classifier: Classifier,
        remover: Remover,
        jobs: LifecycleJobs,
        clock: Clock,
    ) -> None:
        """Ask these what data is worth and what protects it; compression becomes jobs."""
        self._store = store
        self._policies = policies
        self._classifier = classifier
        self._remover = remover
        self._jobs = jobs
        self._clock = clock
        self._positions: dict[TenantId, str] = {}
        """Where the last run stopped before the end."""
        self._asked: tuple[date, set[tuple[TenantId, str]]] = (date.min, set())
        """What was asked to be compressed today."""

    async def run(self) -> dict[str, int]:
        """Apply retention to all tenants; return what was done. Raises StoreUnavailable."""
        async with self._store.database.tenant_snapshot(EVERY_TENANT) as connection:
            tenants = await tenants_with_retention(connection, RETENTION_FEATURE, now=self._clock.now())
        done = {"segments_removed": 0, "records_removed": 0, "compressions_queued": 0}
        for tenant_id in tenants:
            try:
                for name, count in (await self.retain(tenant_id)).items():
                    done[name] += count
            except Unavailable:
                raise
            except TallygateError as error:
                # One tenant's trouble keeps nobody else's promises from being kept.
                log.warning("retention_failed", tenant_id=tenant_id, error=str(error))
        return {name: count for name, count in done.items() if count}

    async def retain(self, tenant_id: TenantId) -> dict[str, int]:
        """Apply retention to one tenant, from where the last run stopped."""
        segments = records = 0
        smaller: set[str] = set()
        comparison = Comparison()
        after_id = self._positions.pop(tenant_id, "")
        for _ in range(0, SEGMENTS_PER_RUN_MAX, SEGMENTS_PER_LOOK_MAX):
            now = self._clock.now()
            due_before = await self._policies.oldest_kept(tenant_id, now)
            async with self._store.database.tenant_transaction(tenant_id) as connection:
                page = await bare_segments(
                    connection,
                    tenant_id,
                    ended_before=due_before,
                    chosen_before=now,
                    after_id=after_id,
                    limit=SEGMENTS_PER_LOOK_MAX,
                )
            protections = await self._policies.protections(tenant_id, {segment.account_id for segment in page})
            due, types = await asyncio.to_thread(_sifted, page, protections, now)
            smaller |= types
            for start in range(0, len(due), CLASSIFIED_AT_ONCE_MAX):
                removed = await self._remove(
                    tenant_id, due[start : start + CLASSIFIED_AT_ONCE_MAX], protections, comparison
                )
                segments += len(removed.segments)
                records += removed.record_count
            if len(page) < SEGMENTS_PER_LOOK_MAX:
                break
            after_id = page[-1].segment_id
        else:
            self._positions[tenant_id] = after_id
        queued = 0
        for data_type in sorted(smaller):
            queued += await self._queue_compression(tenant_id, data_type)
        return {"segments_removed": segments, "records_removed": records, "compressions_queued": queued}

    async def _remove(
        self, tenant_id: TenantId, segment_ids: Sequence[str], protections: Protections, comparison: Comparison
    ) -> Removed:
        """Remove those of the segments that may go; what others change meanwhile is left to the next run."""
        async with self._store.database.tenant_transaction(tenant_id) as connection:
            segments = await segments_by_id(connection, tenant_id, segment_ids)
        classified = await self._classifier.classify(
            tenant_id, segments, protections=protections, comparison=comparison
        )
        now = self._clock.now()
        by_dataset: dict[str, list[Candidate]] = {}
        for each in classified:
            if protections.why_kept(each.segment, each.importance, now) is None:
                candidate = Candidate(segment=each.segment, importance=each.importance)
                by_dataset.setdefault(each.segment.dataset_id, []).append(candidate)
        total = Removed()
        for candidates in by_dataset.values():
            for start in range(0, len(candidates), SEGMENTS_PER_STEP_MAX):
                removed = await self._step(candidates[start : start + SEGMENTS_PER_STEP_MAX], protections)
                total = Removed(
                    segments=(*total.segments, *removed.segments),
                    record_count=total.record_count + removed.record_count,
                )
        return total

    async def _step(self, candidates: Sequence[Candidate], seen: Protections) -> Removed:
        try:
            return await self._remover.remove(candidates, seen=seen, actor=ACTOR, action=ACTION)
        except SegmentsChanged:
            return Removed()
        except (IntegrityViolation, ArchiveCorruption) as error:
            for each in candidates:
                if each.segment.segment_id == error.facts["segment_id"]:
                    await self._store.quarantine(each.segment, error.facts["why"], actor=ACTOR)
            return Removed()

    async def _queue_compression(self, tenant_id: TenantId, data_type: str) -> int:
        """Ask once a day for a sort of data to be compressed as its policy says; return whether that is new."""
        now = self._clock.now()
        if self._asked[0] != now.date():
            self._asked = (now.date(), set())
        if (tenant_id, data_type) in self._asked[1]:
            return 0
        wanted = NewJob(
            kind=JobKind.COMPRESSION,
            tenant_id=tenant_id,
            account_id=None,
            # The handler looks at ages and worth itself, segment by segment.
            request=compression_request(DataSelection(data_types=(data_type,)), None),
            validate_only=False,
            actor=ACTOR,
            request_id=f"retain-{data_type}-{now.date().isoformat()}",
        )
        try:
            job = await self._jobs.submit(wanted)
        except Overloaded as error:
            log.info("compression_not_queued", tenant_id=tenant_id, error=str(error))
            return 0
        self._asked[1].add((tenant_id, data_type))
        # Another server may have asked before.
        return int(job.create_time == now)


def _sifted(page: Sequence[Segment], protections: Protections, now: datetime) -> tuple[list[str], set[str]]:
    """Return the ids of segments that may go if they are of low value, and types of which some may lose something."""
    due, smaller = [], set()
    for segment in page:
        if protections.why_kept(segment, DataImportance.LOW, now) is None:
            due.append(segment.segment_id)
        elif segment.data_type not in smaller and compressible(protections, segment, now):
            lossy = not protections.policy_for(segment.data_type).compression.form.exact
            smaller |= {segment.data_type} if lossy else set()
    return due, smaller
