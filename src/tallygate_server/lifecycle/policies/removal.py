"""Removes segments that nothing protects, asking again what does in the very transaction that removes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from tallygate_server.clock import Clock
from tallygate_server.domain.lifecycle import DataImportance, Dataset, Segment
from tallygate_server.domain.retention_rules import Kept, Protections
from tallygate_server.errors import SegmentsChanged
from tallygate_server.lifecycle.policies.policies import Policies
from tallygate_server.lifecycle.segments import SegmentStore
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.datasets import read_dataset_by_id
from tallygate_server.storage.removals import add_removal, forget_records

SEGMENTS_PER_STEP_MAX: Final = 50
"""Segments of one dataset that are removed in one transaction."""
SEQUENCE_COLUMN: Final = "_sequence"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A segment that may be removed, as far as was seen."""

    segment: Segment
    importance: DataImportance


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What one step removed, and what it left alone after all."""

    segments: tuple[Segment, ...] = ()
    record_count: int = 0
    freed_bytes: int = 0
    kept: tuple[tuple[Segment, Kept], ...] = ()


Note = Callable[[Connection, Removed], Awaitable[None]]
"""Writes down what is removed, in the transaction that removes."""


class _Protected(Exception):
    """Something came to protect segments meanwhile; nothing was removed."""

    def __init__(self, kept: Sequence[tuple[Segment, Kept]]) -> None:
        super().__init__()
        self.kept = tuple(kept)


class Remover:
    """Removes segments, and parts of them."""

    def __init__(self, store: SegmentStore, policies: Policies, clock: Clock) -> None:
        """Ask these policies."""
        self._store = store
        self._policies = policies
        self._clock = clock

    async def remove(
        self,
        candidates: Sequence[Candidate],
        *,
        seen: Protections,
        by_hand: bool = False,
        actor: str,
        action: str,
        note: Note | None = None,
    ) -> Removed:
        """Remove segments of one dataset, all that nothing protects, in one transaction.

        `seen` is what protected data when their importance was told. Raises SegmentsChanged where somebody else moved
        or removed one of them, or set another policy: look again. Raises IntegrityViolation or ArchiveCorruption where
        one is damaged, and StoreUnavailable.
        """
        assert len(candidates) <= SEGMENTS_PER_STEP_MAX, "a step at a time"
        left, kept = list(candidates), list[tuple[Segment, Kept]]()
        sequences = await self._sequences([each.segment for each in left])
        while left:
            removed = Removed(
                segments=tuple(each.segment for each in left),
                record_count=sum(each.segment.record_count for each in left),
                freed_bytes=sum(each.segment.stored_bytes for each in left),
                kept=tuple(kept),
            )
            gone = [number for each in left for number in sequences.get(each.segment.segment_id, ())]
            check = self._check(left, removed, gone, seen=seen, by_hand=by_hand, note=note)
            try:
                await self._store.replace(removed.segments, [], actor=actor, action=action, in_transaction=check)
            except _Protected as protected:
                kept += protected.kept
                ids = {segment.segment_id for segment, _ in protected.kept}
                left = [each for each in left if each.segment.segment_id not in ids]
                continue
            return removed
        return Removed(kept=tuple(kept))

    async def remove_before(
        self,
        candidate: Candidate,
        cutoff: datetime,
        *,
        seen: Protections,
        by_hand: bool = False,
        actor: str,
        action: str,
        note: Note | None = None,
    ) -> Removed:
        """Remove the records of an exact segment before an instant; the others stay, in a segment of their own.

        Raises as `remove`.
        """
        segment = candidate.segment
        async with self._store.database.tenant_transaction(segment.tenant_id) as connection:
            dataset = await read_dataset_by_id(connection, segment.tenant_id, segment.dataset_id)
        if dataset is None:
            raise SegmentsChanged(segment.dataset_id)
        table = await self._store.read(segment)
        count = await asyncio.to_thread(records_before, table, cutoff)
        if count == 0:
            return Removed()
        facts = {name: fact for name, fact in (await self._store.read_facts(segment)).items() if name != "statistics"}
        prepared = await self._store.prepare(
            dataset, table.slice(count), tier=segment.tier, quality_score=segment.quality_score, facts=facts
        )
        rest = replace(
            prepared,
            segment=replace(
                prepared.segment,
                retention_end_time=segment.retention_end_time,
                stay_end_time=segment.stay_end_time,
            ),
        )
        removed = Removed(record_count=count, freed_bytes=max(segment.stored_bytes - rest.segment.stored_bytes, 0))
        gone = _numbers(table.slice(0, count), dataset)
        check = self._check([candidate], removed, gone, seen=seen, by_hand=by_hand, note=note)
        try:
            await self._store.replace([segment], [rest], actor=actor, action=action, in_transaction=check)
        except _Protected as protected:
            return Removed(kept=protected.kept)
        return removed

    def _check(
        self,
        candidates: Sequence[Candidate],
        removed: Removed,
        gone: Sequence[int],
        *,
        seen: Protections,
        by_hand: bool,
        note: Note | None,
    ) -> Callable[[Connection], Awaitable[None]]:
        first = candidates[0].segment

        async def check(connection: Connection) -> None:
            protections = await self._policies.protections_in(connection, first.tenant_id, plans=seen.plans)
            if protections.policy_for(first.data_type) != seen.policy_for(first.data_type):
                # What is critical may be another matter now.
                raise SegmentsChanged(first.dataset_id)
            now = self._clock.now()
            kept = [
                (each.segment, why)
                for each in candidates
                if (why := protections.why_kept(each.segment, each.importance, now, by_hand=by_hand)) is not None
            ]
            if kept:
                raise _Protected(kept)
            await forget_records(connection, first.tenant_id, first.dataset_id, gone)
            await add_removal(
                connection,
                first.tenant_id,
                first.data_type,
                day=now.date(),
                record_count=removed.record_count,
                removed_bytes=removed.freed_bytes,
            )
            if note is not None:
                await note(connection, removed)

        return check

    async def _sequences(self, segments: Sequence[Segment]) -> dict[str, list[int]]:
        """Return the numbers of records whose ids must be forgotten; a lossy form knows of none."""
        if not segments:
            return {}
        async with self._store.database.tenant_transaction(segments[0].tenant_id) as connection:
            dataset = await read_dataset_by_id(connection, segments[0].tenant_id, segments[0].dataset_id)
        if dataset is None or not dataset.has_record_ids:
            return {}
        return {
            segment.segment_id: _numbers(await self._store.read(segment, columns=[SEQUENCE_COLUMN]), dataset)
            for segment in segments
            if segment.form.exact
        }


def records_before(table: pa.Table, cutoff: datetime) -> int:
    """Return how many of some records, sorted by time, lie before an instant."""
    times = table.column("time")
    return int(pc.sum(pc.less(times, pa.scalar(cutoff, times.type))).as_py() or 0)


def _numbers(table: pa.Table, dataset: Dataset) -> list[int]:
    if not dataset.has_record_ids or SEQUENCE_COLUMN not in table.column_names:
        return []
    numbers: list[int | None] = table.column(SEQUENCE_COLUMN).to_pylist()
    return [number for number in numbers if number is not None]
