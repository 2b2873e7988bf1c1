"""Jobs that move chosen data to the cold tier, and back for a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.lifecycle import DataSelection, Dataset, Segment, SegmentState, StorageTier
from tallygate_server.errors import ArchiveCorruption, IntegrityViolation, SegmentsChanged, StoreUnavailable
from tallygate_server.lifecycle.jobs import JobControl, LifecycleJob
from tallygate_server.lifecycle.segments import PreparedSegment, SegmentStore
from tallygate_server.lifecycle.tiers.documents import segment_document, time_document
from tallygate_server.lifecycle.tiers.groups import groups_of
from tallygate_server.lifecycle.tiers.moving import Moved, Mover
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.data_segments import read_segments, total_of_segments
from tallygate_server.storage.datasets import read_dataset_by_id

SEGMENTS_PER_LOOK_MAX: Final = 1_000
SEGMENTS_TOLD_MAX: Final = 1_000
FOR_EVER_TIME: Final = datetime.fromisoformat("9999-01-01T00:00:00+00:00")
"""Retention of what was archived for ever: no policy removes it."""
TRIES_MAX: Final = 5
LOOKS_MAX: Final = 50
"""For what others replace while it is moved."""


def archive_request(selection: DataSelection, *, retention_days: int) -> dict[str, Any]:
    """Return what an archive job is asked; days 0: as the policy says, -1: for ever."""
    return {"selection": selection.to_document(), "retention_days": retention_days}


def restore_request(selection: DataSelection, *, target_tier: StorageTier, stay: timedelta) -> dict[str, Any]:
    """Return what a restore job is asked."""
    return {
        "selection": selection.to_document(),
        "target_tier": int(target_tier),
        "stay_seconds": stay.total_seconds(),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Move:
    """What one job does to what it chooses."""

    target_tier: StorageTier
    source_tiers: tuple[StorageTier, ...]
    stay_end_time: datetime | None = None
    retention_end_time: datetime | None = None


class _MovingHandler:
    """Moves what a selection covers, group by group; what a selection cuts is cut first."""

    def __init__(self, mover: Mover, store: SegmentStore, clock: Clock) -> None:
        self._mover = mover
        self._store = store
        self._clock = clock

    def _asked(self, request: Mapping[str, Any], begun: datetime) -> _Move:
        raise NotImplementedError

    async def run(self, job: LifecycleJob, control: JobControl) -> dict[str, Any]:
        """Move; an attempt after a crash goes on with what is left, and its sums with those before."""
        checkpoint = dict(control.checkpoint)
        # Of the first attempt: what it promised must not change when another goes on.
        begun = datetime.fromisoformat(checkpoint.setdefault("begun", self._clock.now().isoformat()))
        move = self._asked(job.request, begun)
        asked = DataSelection.from_document(job.request["selection"])
        selection = replace(asked, tiers=tuple(t for t in move.source_tiers if not asked.tiers or t in asked.tiers))
        report = _Report(checkpoint, move)
        if not selection.tiers:
            return report.document()
        async with self._store.database.tenant_transaction(job.tenant_id) as connection:
            total = await total_of_segments(connection, job.tenant_id, selection)
        total_count = total + report.sums["segment_count"]
        for _ in range(LOOKS_MAX):
            report.missed = False
            async for dataset, group in self._groups(job.tenant_id, selection, report):
                if job.validate_only:
                    report.add(await self._measure(dataset, group, selection, move))
                else:
                    await self._move(dataset, group, selection, move, report, job=job, control=control)
                await control.report(
                    done=report.sums["segment_count"],
                    total=max(total_count, report.sums["segment_count"]),
                    phase=f"moving to {move.target_tier.name.lower()}",
                    read_bytes=report.sums["source_bytes"],
                    written_bytes=report.sums["target_bytes"],
                    checkpoint=report.checkpoint,
                )
            # What somebody else replaced meanwhile has other ids now: look for what is left until nothing is.
            if not report.missed:
                return report.document()
        raise StoreUnavailable("others keep moving the same data; the job goes on in a moment")

    async def _groups(
        self, tenant_id: TenantId, selection: DataSelection, report: _Report
    ) -> AsyncIterator[tuple[Dataset, list[Segment]]]:
        after: tuple[datetime, str] | None = None
        while True:
            async with self._store.database.tenant_transaction(tenant_id) as connection:
                page = await read_segments(
                    connection, tenant_id, selection, state=None, after=after, limit=SEGMENTS_PER_LOOK_MAX
                )
            if not page:
                return
            after = (page[-1].start_time, page[-1].segment_id)
            whole: dict[str, list[Segment]] = {}
            for segment in page:
                if segment.state is SegmentState.QUARANTINED:
                    report.skip(segment, "quarantine", f"it is damaged: {segment.quarantine_reason}")
                elif not segment.form.exact and _is_cut(segment, selection):
                    report.skip(
                        segment, "policy", "it is compressed with loss, and cannot be cut at the bounds asked for"
                    )
                else:
                    whole.setdefault(segment.dataset_id, []).append(segment)
            for dataset_id, segments in whole.items():
                async with self._store.database.tenant_transaction(tenant_id) as connection:
                    dataset = await read_dataset_by_id(connection, tenant_id, dataset_id)
                if dataset is not None:
                    for group in groups_of(segments):
                        yield dataset, group

    async def _move(
        self,
        dataset: Dataset,
        group: list[Segment],
        selection: DataSelection,
        move: _Move,
        report: _Report,
        *,
        job: LifecycleJob,
        control: JobControl,
    ) -> None:
        """Move a group; what is damaged is put in quarantine and left behind, what others took is looked for again."""

        async def note(connection: Connection, moved: Moved) -> None:
            # With the move itself: whoever goes on after a crash neither forgets it nor counts it twice.
            await control.note(connection, report.with_added(moved))

        while group:
            try:
                uncut = [
                    piece
                    for segment in group
                    for piece in (
                        await self._cut(dataset, segment, selection, actor=job.actor)
                        if _is_cut(segment, selection)
                        else [segment]
                    )
                ]
                if uncut:
                    moved = await self._mover.move_group(
                        dataset,
                        uncut,
                        move.target_tier,
                        actor=job.actor,
                        stay_end_time=move.stay_end_time,
                        retention_end_time=move.retention_end_time,
                        note=note,
                    )
                    report.add(moved)
            except SegmentsChanged:
                report.missed = True
            except (IntegrityViolation, ArchiveCorruption) as error:
                damaged = next((each for each in group if each.segment_id == error.facts["segment_id"]), None)
                if damaged is None:
                    # What we have just written reads back differently: nothing was replaced, and the job fails.
                    raise
                why = str(error.facts["why"])
                await self._store.quarantine(damaged, why, actor=job.actor)
                report.skip(damaged, "quarantine", f"it is damaged: {why}")
                group = [each for each in group if each is not damaged]
                continue
            return

    async def _measure(self, dataset: Dataset, group: list[Segment], selection: DataSelection, move: _Move) -> Moved:
        """Return what moving a group would come to; nothing is written."""
        part = None
        if any(_is_cut(segment, selection) for segment in group):

            def part(table: pa.Table) -> pa.Table:
                return _parts(table, selection)[0]

        for _ in range(TRIES_MAX):
            try:
                return await self._mover.measure_group(dataset, group, move.target_tier, part=part)
            except SegmentsChanged:
                group = await self._again(group, selection)
                if not group:
                    return Moved()
        raise SegmentsChanged(dataset.dataset_id)

    async def _again(self, group: Sequence[Segment], selection: DataSelection) -> list[Segment]:
        """Return which of a group are still there, as they are now."""
        known = {segment.segment_id for segment in group}
        narrowed = replace(
            selection,
            dataset_ids=(group[0].dataset_id,),
            start_time=min(segment.start_time for segment in group),
            end_time=max(segment.end_time for segment in group),
        )
        async with self._store.database.tenant_transaction(group[0].tenant_id) as connection:
            present = await read_segments(connection, group[0].tenant_id, narrowed)
        return [segment for segment in present if segment.segment_id in known]

    async def _cut(self, dataset: Dataset, segment: Segment, selection: DataSelection, *, actor: str) -> list[Segment]:
        """Cut a segment at the bounds of the selection, within its tier; return the part that is chosen, if any."""
        table = await self._store.read(segment)
        inside, outside = await asyncio.to_thread(_parts, table, selection)
        prepared: list[PreparedSegment] = []
        for part in (inside, *outside):
            if part.num_rows:
                made = await self._store.prepare(dataset, part, tier=segment.tier, quality_score=segment.quality_score)
                kept = replace(
                    made.segment,
                    retention_end_time=segment.retention_end_time,
                    stay_end_time=segment.stay_end_time,
                )
                prepared.append(replace(made, segment=kept))
        if len(prepared) == 1:
            # Its records lie on one side of the bounds, though its span does not.
            return [segment] if inside.num_rows else []
        written = await self._store.replace([segment], prepared, actor=actor, action="data.cut")
        return written[:1] if inside.num_rows else []


class ArchiveHandler(_MovingHandler):
    """Moves to the cold tier."""

    def _asked(self, request: Mapping[str, Any], begun: datetime) -> _Move:
        days = request["retention_days"]
        end_time = {0: None, -1: FOR_EVER_TIME}.get(days, begun + timedelta(days=max(days, 0)))
        return _Move(
            target_tier=StorageTier.COLD,
            source_tiers=(StorageTier.HOT, StorageTier.WARM),
            retention_end_time=end_time,
        )


class RestoreHandler(_MovingHandler):
    """Moves from the cold tier, for a while."""

    def _asked(self, request: Mapping[str, Any], begun: datetime) -> _Move:
        return _Move(
            target_tier=StorageTier(request["target_tier"]),
            source_tiers=(StorageTier.COLD,),
            stay_end_time=begun + timedelta(seconds=request["stay_seconds"]),
        )


class _Report:
    """Sums that survive a crash: they are the job's checkpoint."""

    def __init__(self, checkpoint: Mapping[str, Any], move: _Move) -> None:
        self.checkpoint: dict[str, Any] = {
            "sums": {"segment_count": 0, "record_count": 0, "source_bytes": 0, "target_bytes": 0},
            "segments": [],
            "skipped": [],
            **checkpoint,
        }
        self._move = move
        self.missed = False
        """Whether somebody else replaced what was to be moved."""

    @property
    def sums(self) -> dict[str, int]:
        sums: dict[str, int] = self.checkpoint["sums"]
        return sums

    def with_added(self, moved: Moved) -> dict[str, Any]:
        """Return the checkpoint with what was moved added."""
        sums = {name: value + getattr(moved, name) for name, value in self.sums.items()}
        told = self.checkpoint["segments"]
        new = [segment_document(segment) for segment in moved.segments[: SEGMENTS_TOLD_MAX - len(told)]]
        return {**self.checkpoint, "sums": sums, "segments": [*told, *new]}

    def add(self, moved: Moved) -> None:
        self.checkpoint = self.with_added(moved)

    def skip(self, segment: Segment, kind: str, explanation: str) -> None:
        skipped = self.checkpoint["skipped"]
        known = {each["segment_id"] for each in skipped}
        if segment.segment_id not in known and len(skipped) < SEGMENTS_TOLD_MAX:
            told = {"segment_id": segment.segment_id, "kind": kind, "explanation": explanation}
            self.checkpoint = {**self.checkpoint, "skipped": [*skipped, told]}

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            **self.sums,
            "target_tier": f"STORAGE_TIER_{self._move.target_tier.name}",
            "segments": self.checkpoint["segments"],
            "skipped": self.checkpoint["skipped"],
        }
        end_time = self._move.retention_end_time
        if end_time is not None and end_time != FOR_EVER_TIME:
            document["retention_end_time"] = time_document(end_time)
        return document


def _is_cut(segment: Segment, selection: DataSelection) -> bool:
    """Tell whether a bound of the selection lies within the segment."""
    begin, end = selection.start_time, selection.end_time
    return (begin is not None and segment.start_time < begin) or (end is not None and segment.end_time > end)


def _parts(table: pa.Table, selection: DataSelection) -> tuple[pa.Table, list[pa.Table]]:
    """Return what lies within the bounds, and what lies before and behind."""
    times = table.column("time")
    kind = times.type
    begin = 0
    end = table.num_rows
    if selection.start_time is not None:
        begin = int(pc.sum(pc.less(times, pa.scalar(selection.start_time, kind))).as_py() or 0)
    if selection.end_time is not None:
        end = int(pc.sum(pc.less(times, pa.scalar(selection.end_time, kind))).as_py() or 0)
    return table.slice(begin, max(end - begin, 0)), [table.slice(0, begin), table.slice(max(begin, end))]
