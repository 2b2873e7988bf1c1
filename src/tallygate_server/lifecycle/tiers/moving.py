"""Moves what is due from hot to warm and from warm to cold, in bounded batches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import pyarrow as pa
import structlog

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.lifecycle import (
    CompressionForm,
    DataSelection,
    Dataset,
    Segment,
    StorageTier,
)
from tallygate_server.domain.retention import RetentionPolicy
from tallygate_server.domain.retention_rules import Protections
from tallygate_server.errors import ArchiveCorruption, IntegrityViolation, SegmentsChanged
from tallygate_server.lifecycle.segments import PreparedSegment, SegmentStore
from tallygate_server.lifecycle.tiers.groups import groups_of, is_ripe
from tallygate_server.lifecycle.tiers.records import read_merged
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.data_records import forget_replaced
from tallygate_server.storage.data_segments import DueDataset, due_datasets, read_segments
from tallygate_server.storage.datasets import read_dataset_by_id

log = structlog.get_logger(__name__)

SEGMENTS_PER_LOOK_MAX: Final = 2_000
EVERY_TENANT: Final = TenantId("*")
ACTOR: Final = "lifecycle"
NEXT: Final = {StorageTier.HOT: StorageTier.WARM, StorageTier.WARM: StorageTier.COLD}


class Policies(Protocol):
    """Where the mover asks how long data stays in a tier."""

    async def policy_for(self, tenant_id: TenantId, data_type: str) -> RetentionPolicy:
        """Return the policy of a sort of data: its own, the one for all, or the defaults."""


ProtectionsIn = Callable[[Connection, TenantId], Awaitable[Protections]]
"""Tells what protects a tenant's data until the transaction ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What was moved."""

    segment_count: int = 0
    record_count: int = 0
    source_bytes: int = 0
    target_bytes: int = 0
    segments: tuple[Segment, ...] = ()
    """The new ones."""

    def __add__(self, other: Moved) -> Moved:
        """Return the sums."""
        return Moved(
            segment_count=self.segment_count + other.segment_count,
            record_count=self.record_count + other.record_count,
            source_bytes=self.source_bytes + other.source_bytes,
            target_bytes=self.target_bytes + other.target_bytes,
            segments=self.segments + other.segments,
        )


class Mover:
    """Moves segments between tiers, each group of them whole or not at all."""

    def __init__(
        self, store: SegmentStore, policies: Policies, clock: Clock, *, protections: ProtectionsIn | None = None
    ) -> None:
        """Move by these policies; `protections` tells of legal holds (None: there are none)."""
        self.store = store
        self._policies = policies
        self._clock = clock
        self._protections = protections

    async def run(self) -> dict[str, Any]:
        """Move everything that is due, of all tenants; damaged data is put in quarantine and left behind."""
        # Warm first: nothing passes through both tiers in one run.
        moved = {NEXT[tier]: await self.move_due(tier) for tier in (StorageTier.WARM, StorageTier.HOT)}
        return {
            f"{name}_{tier.name.lower()}": value
            for tier, sums in moved.items()
            for name, value in (("segments", sums.segment_count), ("records", sums.record_count))
            if value
        }

    async def move_due(self, tier: StorageTier) -> Moved:
        """Move everything that has been in a tier for long enough, of all tenants; return the sums."""
        moved = Moved()
        for due in await self._due(tier):
            moved += await self._move_dataset(due, tier)
        return moved

    async def move_group(
        self,
        dataset: Dataset,
        group: Sequence[Segment],
        tier: StorageTier,
        *,
        actor: str = ACTOR,
        stay_end_time: datetime | None = None,
        retention_end_time: datetime | None = None,
        note: Callable[[Connection, Moved], Awaitable[None]] | None = None,
    ) -> Moved:
        """Move segments, together at most one segment's records, to a tier as one.

        `note` writes down what was moved in the transaction that does it. Raises as SegmentStore.replace.
        """
        prepared, dropped = await self._prepare(dataset, group, tier)
        if retention_end_time is None:
            ends = [segment.retention_end_time for segment in group if segment.retention_end_time is not None]
            # Of several, the longest promise holds.
            retention_end_time = max(ends, default=None)
        new = [
            replace(
                each,
                segment=replace(each.segment, retention_end_time=retention_end_time, stay_end_time=stay_end_time),
            )
            for each in prepared
        ]

        async def forget(connection: Connection) -> None:
            if dropped and await self._on_hold(connection, group):
                # Set since the records were read: they are read again, and nothing of them is dropped.
                raise SegmentsChanged(dataset.dataset_id)
            if await forget_replaced(connection, dataset.tenant_id, dataset.dataset_id, dropped) != len(dropped):
                raise SegmentsChanged(dataset.dataset_id)
            if note is not None:
                await note(connection, moved)

        moved = _moved(group, [each.segment for each in new])
        await self.store.replace(
            group, new, actor=actor, action=f"data.moved_{tier.name.lower()}", in_transaction=forget
        )
        return moved

    async def measure_group(
        self,
        dataset: Dataset,
        group: Sequence[Segment],
        tier: StorageTier,
        *,
        part: Callable[[pa.Table], pa.Table] | None = None,
    ) -> Moved:
        """Return the sums of `move_group` by doing everything but the writing; `part` picks what would be moved.

        Raises IntegrityViolation, ArchiveCorruption and SegmentsChanged as reading does.
        """
        prepared, _dropped = await self._prepare(dataset, group, tier, part=part)
        moved = _moved(group, [each.segment for each in prepared])
        whole = sum(segment.record_count for segment in group)
        share = 1.0 if part is None else moved.record_count / max(whole, 1)
        return replace(moved, source_bytes=round(moved.source_bytes * share), segments=())

    async def _prepare(
        self,
        dataset: Dataset,
        group: Sequence[Segment],
        tier: StorageTier,
        *,
        part: Callable[[pa.Table], pa.Table] | None = None,
    ) -> tuple[list[PreparedSegment], list[int]]:
        """Return what takes the place of a group, and the replaced records that are dropped on the way."""
        policy = await self._policies.policy_for(dataset.tenant_id, dataset.data_type)
        only = group[0]
        encoded = CompressionForm.NONE if tier is StorageTier.HOT else CompressionForm.LOSSLESS
        copied = not only.form.exact or (only.form is encoded and not dataset.has_record_ids)
        if part is None and len(group) == 1 and copied:
            return [await self.store.prepare_copy(only, tier=tier)], []
        # What is on hold is kept as it was: also what has been replaced since, though no query finds it.
        held = False
        if dataset.has_record_ids:
            async with self.store.database.tenant_transaction(dataset.tenant_id) as connection:
                held = await self._on_hold(connection, group)
        table, dropped = await read_merged(self.store, group, with_replaced=held)
        if part is not None:
            table = await asyncio.to_thread(part, table)
        if table.num_rows == 0:
            return [], dropped
        weight = sum(segment.record_count for segment in group)
        quality = sum(segment.quality_score * segment.record_count for segment in group) / max(weight, 1)
        prepared = await self.store.prepare(
            dataset, table, tier=tier, level=policy.compression.level, quality_score=quality
        )
        return [prepared], dropped

    async def _on_hold(self, connection: Connection, group: Sequence[Segment]) -> bool:
        """Tell whether a legal hold covers any of these segments."""
        if self._protections is None:
            return False
        protections, now = await self._protections(connection, group[0].tenant_id), self._clock.now()
        return any(protections.why_on_hold(segment, now) is not None for segment in group)

    async def _move_dataset(self, due: DueDataset, tier: StorageTier) -> Moved:
        policy = await self._policies.policy_for(due.tenant_id, due.data_type)
        days = policy.hot_days if tier is StorageTier.HOT else policy.warm_days
        now = self._clock.now()
        cutoff = now - timedelta(days=days)
        total = Moved()
        if due.oldest_end_time > cutoff:
            return total
        async with self.store.database.tenant_transaction(due.tenant_id) as connection:
            dataset = await read_dataset_by_id(connection, due.tenant_id, due.dataset_id)
        if dataset is None:
            return total
        after: tuple[datetime, str] | None = None
        held: list[Segment] = []
        while True:
            async with self.store.database.tenant_transaction(due.tenant_id) as connection:
                page = await read_segments(
                    connection,
                    due.tenant_id,
                    DataSelection(dataset_ids=(due.dataset_id,), tiers=(tier,), end_time=cutoff),
                    after=after,
                    limit=SEGMENTS_PER_LOOK_MAX,
                )
            last = len(page) < SEGMENTS_PER_LOOK_MAX
            if page:
                after = (page[-1].start_time, page[-1].segment_id)
            groups = list(groups_of(held + [each for each in page if _is_due(each, cutoff, now)]))
            # The last group may grow by what the next page brings.
            held = groups.pop() if groups and not last else []
            ripe = [group for group in groups if is_ripe(group, cutoff, last=group is groups[-1] and last)]
            total += await self._move_groups(dataset, ripe, NEXT[tier])
            if last:
                return total

    async def _move_groups(self, dataset: Dataset, groups: Sequence[Sequence[Segment]], tier: StorageTier) -> Moved:
        """Move one group after the other: side by side they would take the processor from those who call."""
        total = Moved()
        for group in groups:
            try:
                total += replace(await self.move_group(dataset, group, tier), segments=())
            except SegmentsChanged:
                # Somebody else was faster; the next look sees what is left to do.
                continue
            except (IntegrityViolation, ArchiveCorruption) as error:
                for segment in group:
                    if segment.segment_id == error.facts["segment_id"]:
                        await self.store.quarantine(segment, str(error.facts["why"]), actor=ACTOR)
        return total

    async def _due(self, tier: StorageTier) -> list[DueDataset]:
        async with self.store.database.tenant_snapshot(EVERY_TENANT) as connection:
            # No policy keeps data for less than a day in a tier.
            return await due_datasets(connection, tier, ended_before=self._clock.now() - timedelta(days=1))


def _moved(old: Sequence[Segment], new: Sequence[Segment]) -> Moved:
    return Moved(
        segment_count=len(old),
        record_count=sum(segment.record_count for segment in new),
        source_bytes=sum(segment.stored_bytes for segment in old),
        target_bytes=sum(segment.stored_bytes for segment in new),
        segments=tuple(new),
    )


def _is_due(segment: Segment, cutoff: datetime, now: datetime) -> bool:
    stays = segment.stay_end_time is not None and segment.stay_end_time > now
    return segment.end_time <= cutoff and not stays
