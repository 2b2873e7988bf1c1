"""Jobs that remove data of low value by hand: what is older than a time, of some sorts, and of little importance."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from tallygate_server.clock import Clock
from tallygate_server.domain.classification import Classification
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import DataImportance, DataSelection, Segment, SegmentState
from tallygate_server.domain.retention_rules import Kept, KeptKind, Protections
from tallygate_server.errors import ArchiveCorruption, CriticalDataLoss, IntegrityViolation, SegmentsChanged
from tallygate_server.lifecycle.classification.classifier import Classifier, Comparison
from tallygate_server.lifecycle.jobs import JobControl, LifecycleJob
from tallygate_server.lifecycle.policies.documents import classification_document, skipped_document
from tallygate_server.lifecycle.policies.policies import Policies
from tallygate_server.lifecycle.policies.removal import (
    SEGMENTS_PER_STEP_MAX,
    Candidate,
    Removed,
    Remover,
    records_before,
)
from tallygate_server.lifecycle.segments import SegmentStore
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.data_segments import read_segments, total_of_segments
from tallygate_server.storage.segment_ages import live_ids

SEGMENTS_PER_LOOK_MAX: Final = 500
SKIPPED_TOLD_MAX: Final = 1_000
SAMPLE_MAX: Final = 100
PASSES_MAX: Final = 5
"""Looks at everything, where others moved data meanwhile."""
ACTION: Final = "data.cleaned_up"


def cleanup_request(
    *,
    cutoff_time: datetime,
    data_types: Sequence[str],
    account_id: AccountId | None,
    max_importance: DataImportance,
) -> dict[str, Any]:
    """Return what a job of this kind is asked."""
    selection = DataSelection(account_id=account_id, data_types=tuple(data_types), end_time=cutoff_time)
    return {"selection": selection.to_document(), "max_importance": int(max_importance)}


class CleanupHandler:
    """Removes what is chosen and not protected; where critical data is chosen, nothing at all."""

    def __init__(
        self, store: SegmentStore, policies: Policies, classifier: Classifier, remover: Remover, clock: Clock
    ) -> None:
        """Ask these what data is worth and what protects it."""
        self._store = store
        self._policies = policies
        self._classifier = classifier
        self._remover = remover
        self._clock = clock

    async def run(self, job: LifecycleJob, control: JobControl) -> dict[str, Any]:
        """Remove; an attempt after a crash goes on with what is left, and its sums with those before.

        Raises CriticalDataLoss, StoreUnavailable.
        """
        run = _Run(job, control)
        async with self._store.database.tenant_transaction(job.tenant_id) as connection:
            run.total = run.report.segment_count + await total_of_segments(connection, job.tenant_id, run.selection)
        if run.max_importance is DataImportance.CRITICAL and not run.report.checked:
            await self._refuse_critical(run)
        for _ in range(PASSES_MAX):
            if await self._pass(run):
                break
        return run.report.document()

    async def _refuse_critical(self, run: _Run) -> None:
        """Raise CriticalDataLoss where critical data is chosen that is still to be kept."""
        first, count = "", 0
        async for protections, classifications in self._pages(run):
            now = self._clock.now()
            for each in classifications:
                kept = protections.why_kept(each.segment, each.importance, now, by_hand=True)
                if kept is not None and kept.kind is KeptKind.CRITICAL:
                    first, count = first or each.segment.dataset_id, count + 1
            await run.tell("looking for critical data")
        if count:
            raise CriticalDataLoss(
                f"{count} of the chosen segments are critical; nothing was removed: choose a lower max_importance",
                dataset_id=first,
                segment_count=count,
            )
        run.report.checked = True

    async def _pass(self, run: _Run) -> bool:
        """Go through everything that is chosen, once; False where others changed it meanwhile."""
        complete = True
        run.seen = 0
        run.moved = False
        async for protections, classifications in self._pages(run):
            whole: dict[str, list[Classification]] = {}
            for each in classifications:
                kept = self._why_not(run, each, protections)
                if kept is not None:
                    run.report.skip(each.segment, kept)
                elif each.segment.end_time <= run.cutoff:
                    whole.setdefault(each.segment.dataset_id, []).append(each)
                else:
                    complete &= await self._step(run, [each], protections)
            for several in whole.values():
                for start in range(0, len(several), SEGMENTS_PER_STEP_MAX):
                    complete &= await self._step(run, several[start : start + SEGMENTS_PER_STEP_MAX], protections)
            run.seen += len(classifications)
            await run.tell("removing")
        return complete and not run.moved

    def _why_not(self, run: _Run, each: Classification, protections: Protections) -> Kept | None:
        segment = each.segment
        kept = protections.why_kept(segment, each.importance, self._clock.now(), by_hand=True)
        if kept is not None:
            return kept
        if each.importance > run.max_importance:
            kind = KeptKind.CRITICAL if each.importance is DataImportance.CRITICAL else KeptKind.POLICY
            name = each.importance.name.lower()
            return Kept(kind=kind, explanation=f"it is of {name} importance: {each.explanation}")
        if segment.end_time > run.cutoff and not segment.form.exact:
            return Kept(
                kind=KeptKind.POLICY, explanation="it is compressed with loss, and cannot be cut at the cutoff time"
            )
        return None

    async def _step(self, run: _Run, several: Sequence[Classification], seen: Protections) -> bool:
        """Remove segments of one dataset, or what one of them has before the cutoff; False: look again."""
        first = several[0].segment
        cut = first.end_time > run.cutoff
        try:
            if run.job.validate_only:
                run.report.add(await self._estimated(several, run.cutoff if cut else None), several)
                return True
            candidates = [Candidate(segment=each.segment, importance=each.importance) for each in several]

            async def note(connection: Connection, removed: Removed) -> None:
                # With the removal itself: whoever goes on after a crash neither forgets it nor counts it twice.
                await run.control.note(connection, run.report.with_added(removed, several).checkpoint)

            options: dict[str, Any] = {"seen": seen, "by_hand": True, "actor": run.job.actor, "action": ACTION}
            if cut:
                removed = await self._remover.remove_before(candidates[0], run.cutoff, **options, note=note)
            else:
                removed = await self._remover.remove(candidates, **options, note=note)
        except SegmentsChanged:
            return False
        except (IntegrityViolation, ArchiveCorruption) as error:
            return await self._quarantine([each.segment for each in several], error, run)
        run.report = run.report.with_added(removed, several)
        return True

    async def _quarantine(
        self, segments: Sequence[Segment], error: IntegrityViolation | ArchiveCorruption, run: _Run
    ) -> bool:
        """Take a damaged segment out; return whether it was the only one of its step."""
        for segment in segments:
            if segment.segment_id == error.facts["segment_id"]:
                if not run.job.validate_only:
                    await self._store.quarantine(segment, error.facts["why"], actor=run.job.actor)
                run.report.skip(segment, Kept(kind=KeptKind.QUARANTINE, explanation=f"it is damaged: {error.message}"))
        return len(segments) == 1

    async def _estimated(self, several: Sequence[Classification], cutoff: datetime | None) -> Removed:
        """Return what removing would do; of a segment that would be cut, the share of its records tells the bytes."""
        segments = [each.segment for each in several]
        if cutoff is None:
            return Removed(
                segments=tuple(segments),
                record_count=sum(segment.record_count for segment in segments),
                freed_bytes=sum(segment.stored_bytes for segment in segments),
            )
        [segment] = segments
        count = await asyncio.to_thread(records_before, await self._store.read(segment, columns=[]), cutoff)
        return Removed(record_count=count, freed_bytes=segment.stored_bytes * count // max(segment.record_count, 1))

    async def _pages(self, run: _Run) -> AsyncIterator[tuple[Protections, list[Classification]]]:
        """Go through what is chosen, each page with what protects it; damaged segments are noted on the way."""
        tenant_id: TenantId = run.job.tenant_id
        comparison = Comparison()
        after: tuple[datetime, str] | None = None
        while True:
            async with self._store.database.tenant_transaction(tenant_id) as connection:
                page = await read_segments(
                    connection, tenant_id, run.selection, state=None, after=after, limit=SEGMENTS_PER_LOOK_MAX
                )
            live = [segment for segment in page if segment.state is SegmentState.LIVE]
            protections = await self._policies.protections(tenant_id, {segment.account_id for segment in live})
            for segment in page:
                kept = protections.why_held(segment, self._clock.now())
                if segment.state is SegmentState.QUARANTINED and kept is not None:
                    run.report.skip(segment, kept)
            found = await self._classifier.classify(tenant_id, live, protections=protections, comparison=comparison)
            # What went away while it was looked at may be taken for something that it was not.
            async with self._store.database.tenant_transaction(tenant_id) as connection:
                there = await live_ids(connection, tenant_id, [segment.segment_id for segment in live])
            run.moved |= len(there) < len(live)
            yield protections, [each for each in found if each.segment.segment_id in there]
            if len(page) < SEGMENTS_PER_LOOK_MAX:
                return
            after = (page[-1].start_time, page[-1].segment_id)


class _Run:
    """One attempt."""

    def __init__(self, job: LifecycleJob, control: JobControl) -> None:
        self.job = job
        self.control = control
        self.selection = DataSelection.from_document(job.request["selection"])
        assert self.selection.end_time is not None, "there is always a cutoff"
        self.cutoff = self.selection.end_time
        self.max_importance = DataImportance(job.request["max_importance"])
        self.report = _Report(control.checkpoint)
        self.total = 0
        self.seen = 0
        self.moved = False
        """Whether others moved or removed data while this pass looked at it."""

    async def tell(self, phase: str) -> None:
        done = max(self.report.segment_count, min(self.seen, self.total))
        await self.control.report(done=done, total=self.total, phase=phase, checkpoint=self.report.checkpoint)


class _Report:
    """Sums that survive a crash: they are the job's checkpoint."""

    def __init__(self, checkpoint: Mapping[str, Any]) -> None:
        self.checkpoint: dict[str, Any] = {
            "checked": False,
            "segment_count": 0,
            "record_count": 0,
            "freed_bytes": 0,
            "record_count_by_type": {},
            "sample": [],
            "skipped": [],
            **checkpoint,
        }

    @property
    def checked(self) -> bool:
        """Whether it is known that no critical data is chosen."""
        return bool(self.checkpoint["checked"])

    @checked.setter
    def checked(self, value: bool) -> None:
        self.checkpoint = {**self.checkpoint, "checked": value}

    @property
    def segment_count(self) -> int:
        """Segments removed."""
        return int(self.checkpoint["segment_count"])

    def with_added(self, removed: Removed, several: Sequence[Classification]) -> _Report:
        """Return the report with a step added."""
        report = _Report(self.checkpoint)
        report.add(removed, several)
        return report

    def add(self, removed: Removed, several: Sequence[Classification]) -> None:
        """Add a step."""
        if removed.record_count:
            data_type = several[0].segment.data_type
            by_type = dict(self.checkpoint["record_count_by_type"])
            by_type[data_type] = by_type.get(data_type, 0) + removed.record_count
            kept = {segment.segment_id for segment, _ in removed.kept}
            told = self.checkpoint["sample"]
            new = [classification_document(each) for each in several if each.segment.segment_id not in kept]
            self.checkpoint = {
                **self.checkpoint,
                "segment_count": self.segment_count + len(removed.segments),
                "record_count": self.checkpoint["record_count"] + removed.record_count,
                "freed_bytes": self.checkpoint["freed_bytes"] + removed.freed_bytes,
                "record_count_by_type": by_type,
                "sample": [*told, *new[: SAMPLE_MAX - len(told)]],
            }
        for segment, why in removed.kept:
            self.skip(segment, why)

    def skip(self, segment: Segment, kept: Kept) -> None:
        """Note that a segment is left alone, and why."""
        skipped = self.checkpoint["skipped"]
        if len(skipped) < SKIPPED_TOLD_MAX and segment.segment_id not in {each["segment_id"] for each in skipped}:
            self.checkpoint = {**self.checkpoint, "skipped": [*skipped, skipped_document(segment, kept)]}

    def document(self) -> dict[str, Any]:
        """Return the report."""
        return {name: value for name, value in self.checkpoint.items() if name != "checked"}
