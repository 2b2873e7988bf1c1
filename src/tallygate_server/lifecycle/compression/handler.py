"""The job that compresses: group by group, each in the place of the segments that it stands for, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import pyarrow as pa

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.lifecycle import (
    ONE_MICROSECOND,
    CompressionForm,
    CompressionSettings,
    DataSelection,
    Dataset,
    Segment,
    SegmentState,
    StorageTier,
)
from tallygate_server.errors import ArchiveCorruption, CompressionFailed, IntegrityViolation, SegmentsChanged
from tallygate_server.lifecycle import columnar
from tallygate_server.lifecycle.compression.bounds import parts
from tallygate_server.lifecycle.compression.protection import (
    USUAL,
    Skip,
    SkipKind,
    Worth,
    Worths,
    why_not,
)
from tallygate_server.lifecycle.compression.report import (
    BRIEF_RESULTS_MAX,
    LOSSLESS_ANALYSES,
    SEALED_METRICS,
    Compressed,
    Report,
    compression_facts,
    open_metrics,
    seal_metrics,
)
from tallygate_server.lifecycle.jobs import JobControl, LifecycleJob
from tallygate_server.lifecycle.keys import KeyDestroyed, KeyUnreadable
from tallygate_server.lifecycle.lossy import (
    ColumnLoss,
    LossyPayloadDamaged,
    LossyResult,
    LossySettings,
    LossySettingsInvalid,
    check,
    encode,
    lossy_settings,
)
from tallygate_server.lifecycle.lossy.measure import summarize
from tallygate_server.lifecycle.policies import Policies
from tallygate_server.lifecycle.segments import PreparedSegment, SegmentStore
from tallygate_server.lifecycle.tiers.groups import groups_of
from tallygate_server.lifecycle.tiers.records import read_merged
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.data_keys import KeyState, read_keys_of_account
from tallygate_server.storage.data_records import forget_replaced
from tallygate_server.storage.data_segments import read_segments, total_of_segments
from tallygate_server.storage.datasets import read_dataset_by_id

SEGMENTS_PER_LOOK_MAX: Final = 1_000
PASSES_MAX: Final = 3
"""Looks at everything that was chosen: another one where others moved data meanwhile."""
TRIES_MAX: Final = 5
"""Of a group that others change while it is compressed."""
ACTION: Final = "data.compressed"


def compression_request(selection: DataSelection, settings: CompressionSettings | None) -> dict[str, Any]:
    """Return what a compression job is asked; settings None: as the policy of each sort of data says."""
    return {
        "selection": selection.to_document(),
        "settings": settings.to_document() if settings is not None else None,
    }


class _Protected(Exception):
    """Something came to protect the data while it was compressed."""

    def __init__(self, segment: Segment, skip: Skip) -> None:
        super().__init__(skip.explanation)
        self.segment = segment
        self.skip = skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Encoded:
    """What takes the place of a group, before it is sealed, and what is told of it."""

    result: LossyResult | None
    """None: without loss."""
    table: pa.Table
    payload_bytes: int
    columns: tuple[ColumnLoss, ...]
    summary_metrics: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What is to become of one dataset."""

    dataset: Dataset
    selection: DataSelection
    settings: CompressionSettings
    worths: Mapping[str, Worth]
    by_policy: bool
    """Whether the settings are the policy's, and not those of the request."""


class CompressionHandler:
    """Compresses what a selection covers, as the request or the policy says."""

    def __init__(
        self,
        store: SegmentStore,
        policies: Policies,
        worths: Worths,
        clock: Clock,
        *,
        retrieval: Mapping[StorageTier, timedelta],
    ) -> None:
        """Ask these what protects data; `retrieval` is how long it takes to get at a segment of a tier."""
        self._store = store
        self._policies = policies
        self._worths = worths
        self._clock = clock
        self._retrieval = retrieval

    async def run(self, job: LifecycleJob, control: JobControl) -> dict[str, Any]:
        """Compress; an attempt after a crash goes on with what is left, and its sums with those before.

        Raises CompressionFailed where settings do not suit the data, IntegrityViolation, ArchiveCorruption,
        StoreUnavailable.
        """
        work = _Work(job, control, Report(control.checkpoint), self._clock.now())
        selection = DataSelection.from_document(job.request["selection"])
        told = job.request["settings"]
        settings = CompressionSettings.from_document(told) if told is not None else None
        async with self._store.database.tenant_transaction(job.tenant_id) as connection:
            total = await total_of_segments(connection, job.tenant_id, selection)
        work.total = total + work.report.done_count
        for _ in range(PASSES_MAX):
            work.changed = False
            async for segments in self._pages(job.tenant_id, selection):
                for dataset_id in dict.fromkeys(segment.dataset_id for segment in segments):
                    mine = [
                        segment
                        for segment in segments
                        if segment.dataset_id == dataset_id and not work.report.has_made(segment)
                    ]
                    await self._compress_dataset(work, dataset_id, mine, selection, settings)
            if not work.changed:
                break
        return work.report.to_document()

    async def reveal(self, job: LifecycleJob, *, brief: bool) -> dict[str, Any]:
        """Return the report as callers see it: statistics opened where the key is left; briefly, without them."""
        assert job.result is not None, "only a job that has ended has a report"
        report = dict(job.result)
        results = [dict(result) for result in report["results"]]
        if brief:
            report["results"] = results = results[:BRIEF_RESULTS_MAX]
            report["skipped"] = list(report["skipped"])[:BRIEF_RESULTS_MAX]
        secrets: dict[str, bytes | None] = {}
        for result in results:
            sealed = result.pop(SEALED_METRICS, None)
            if sealed is None or brief:
                continue
            if sealed["key_id"] not in secrets:
                secrets[sealed["key_id"]] = await self._secret(job.tenant_id, sealed["key_id"])
            if (secret := secrets[sealed["key_id"]]) is not None:
                metrics = open_metrics(secret, sealed, job.tenant_id, result["original_segment_id"])
                result["summary_metrics"] = metrics
        report["results"] = results
        return report

    async def _secret(self, tenant_id: TenantId, key_id: str) -> bytes | None:
        try:
            return await self._store.keys.to_unseal(tenant_id, key_id)
        except (KeyDestroyed, KeyUnreadable):
            return None

    async def _pages(self, tenant_id: TenantId, selection: DataSelection) -> AsyncIterator[list[Segment]]:
        after: tuple[datetime, str] | None = None
        while True:
            async with self._store.database.tenant_transaction(tenant_id) as connection:
                page = await read_segments(
                    connection, tenant_id, selection, state=None, after=after, limit=SEGMENTS_PER_LOOK_MAX
                )
            if page:
                after = (page[-1].start_time, page[-1].segment_id)
                yield page
            if len(page) < SEGMENTS_PER_LOOK_MAX:
                return

    async def _compress_dataset(
        self,
        work: _Work,
        dataset_id: str,
        segments: Sequence[Segment],
        selection: DataSelection,
        settings: CompressionSettings | None,
    ) -> None:
        async with self._store.database.tenant_transaction(work.job.tenant_id) as connection:
            dataset = await read_dataset_by_id(connection, work.job.tenant_id, dataset_id)
        if dataset is None:
            return
        protections = await self._policies.protections(dataset.tenant_id, [dataset.account_id])
        policy = protections.policy_for(dataset.data_type)
        chosen = settings or policy.compression
        erased = await self._erased_keys(dataset)
        segments = [segment for segment in segments if segment.key_id not in erased]
        worths: dict[str, Worth] = {}
        allowed: list[Segment] = []
        if chosen.form.exact:
            for segment in segments:
                skip = _why_not_without_loss(segment)
                if skip is None:
                    allowed.append(segment)
                else:
                    work.report.skip(segment, skip)
        else:
            worths |= await self._worths.worths(segments)
            for segment in segments:
                worth = worths.get(segment.segment_id, USUAL)
                skip = _why_not_again(segment) or why_not(segment, worth, policy, protections, self._clock.now())
                if skip is None:
                    allowed.append(segment)
                else:
                    work.report.skip(segment, skip)
        wish = _Wish(dataset=dataset, selection=selection, settings=chosen, worths=worths, by_policy=settings is None)
        for tier in StorageTier:
            for group in groups_of([segment for segment in allowed if segment.tier is tier]):
                await self._compress(work, wish, group)
                await work.tell()

    async def _compress(self, work: _Work, wish: _Wish, group: list[Segment]) -> None:
        """Compress a group; where others change it meanwhile, or begin to protect it, what is left of it."""
        for _ in range(TRIES_MAX):
            if not group:
                return
            try:
                await self._compress_once(work, wish, group)
            except SegmentsChanged:
                work.changed = True
                group = await self._again(group)
                continue
            except KeyDestroyed:
                # The account is being erased: what is left of its data is none of a compression's business.
                return
            except _Protected as protected:
                work.report.skip(protected.segment, protected.skip)
                group = [each for each in group if each.segment_id != protected.segment.segment_id]
                continue
            except (IntegrityViolation, ArchiveCorruption) as error:
                damaged = [each for each in group if each.segment_id == error.facts["segment_id"]]
                if not damaged or work.job.validate_only:
                    raise
                if damaged[0].key_id in await self._erased_keys(wish.dataset):
                    return
                why = str(error.facts["why"])
                if await self._store.quarantine(damaged[0], why, actor=work.job.actor):
                    work.report.skip(damaged[0], Skip(kind=SkipKind.QUARANTINE, explanation=f"it is damaged: {why}"))
                else:
                    # It was not damaged, but is not there any more: what came in its place is found by the next pass.
                    work.changed = True
                group = [each for each in group if each is not damaged[0]]
                continue
            return
        raise SegmentsChanged(wish.dataset.dataset_id)

    async def _erased_keys(self, dataset: Dataset) -> frozenset[str]:
        """Return keys that were destroyed: what they sealed is no damage, but erased."""
        async with self._store.database.tenant_transaction(dataset.tenant_id) as connection:
            keys = await read_keys_of_account(connection, dataset.tenant_id, dataset.account_id)
        return frozenset(key.key_id for key in keys if key.state is KeyState.DESTROYED)

    async def _again(self, group: Sequence[Segment]) -> list[Segment]:
        """Return which of a group are still there, as they are now."""
        known = {segment.segment_id for segment in group}
        narrowed = DataSelection(
            dataset_ids=(group[0].dataset_id,),
            start_time=min(segment.start_time for segment in group),
            end_time=max(segment.end_time for segment in group),
        )
        async with self._store.database.tenant_transaction(group[0].tenant_id) as connection:
            present = await read_segments(connection, group[0].tenant_id, narrowed)
        return [segment for segment in present if segment.segment_id in known]

    async def _compress_once(self, work: _Work, wish: _Wish, group: Sequence[Segment]) -> None:
        dataset, settings = wish.dataset, wish.settings
        table, dropped = await read_merged(self._store, group)
        inside, outside = await asyncio.to_thread(parts, table, wish.selection)
        if not inside.num_rows:
            return
        encoded = await asyncio.to_thread(_encoded, inside, settings, dataset)
        prepared = [
            await self._prepared(dataset, group, encoded, settings),
            *[await self._without_loss(dataset, group, part, settings.level) for part in outside],
        ]
        before = sum(segment.stored_bytes for segment in group)
        after = sum(each.segment.stored_bytes for each in prepared)
        has_form = all(segment.form is settings.form for segment in group)
        if after >= before and (wish.by_policy or has_form):
            # Who names a form gets it, even if few records take more bytes in it; a policy only wants to save some.
            for segment in group:
                work.report.skip(
                    segment,
                    Skip(kind=SkipKind.NO_GAIN, explanation=f"it takes {before} bytes now and would take {after}"),
                )
            return
        made = replace(prepared[0], segment=_inheriting(prepared[0].segment, group))
        key = await self._store.keys.to_seal(dataset.tenant_id, dataset.account_id)
        compressed = _compressed(
            made.segment,
            group,
            encoded,
            sealed_metrics=seal_metrics(key, encoded.summary_metrics, group[0]),
            now=self._clock.now(),
            retrieval_time=self._retrieval[made.segment.tier],
        )
        if work.job.validate_only:
            compressed = replace(compressed, segment_id="")
        report = work.report.with_result(compressed)
        if not work.job.validate_only:
            others = [replace(each, segment=_inheriting(each.segment, group)) for each in prepared[1:]]

            async def confirm(connection: Connection) -> None:
                if not settings.form.exact:
                    await self._confirm_allowed(connection, group, wish.worths)
                if await forget_replaced(connection, dataset.tenant_id, dataset.dataset_id, dropped) != len(dropped):
                    raise SegmentsChanged(dataset.dataset_id)
                await work.control.note(connection, report.checkpoint())

            await self._store.replace(
                group, [made, *others], actor=work.job.actor, action=ACTION, in_transaction=confirm
            )
        work.report = report

    async def _confirm_allowed(
        self, connection: Connection, group: Sequence[Segment], worths: Mapping[str, Worth]
    ) -> None:
        """Ask again in the transaction that takes something away: a hold that was answered before it holds."""
        protections = await self._policies.protections_in(connection, group[0].tenant_id)
        policy = protections.policy_for(group[0].data_type)
        for segment in group:
            worth = worths.get(segment.segment_id, USUAL)
            if (skip := why_not(segment, worth, policy, protections, self._clock.now())) is not None:
                raise _Protected(segment, skip)

    async def _prepared(
        self, dataset: Dataset, group: Sequence[Segment], encoded: _Encoded, settings: CompressionSettings
    ) -> PreparedSegment:
        if encoded.result is None:
            return await self._without_loss(dataset, group, encoded.table, settings.level)
        result = encoded.result
        prepared = await self._store.prepare_lossy(
            dataset,
            result.payload,
            form=settings.form,
            replaced=group,
            facts=compression_facts(result, lossy_settings(settings)),
            verify=_verifier(result, encoded.table, lossy_settings(settings)),
            codecs={loss.column: loss.codec for loss in result.columns},
            tier=group[0].tier,
        )
        # The group may be cut: the segment stands for what was encoded.
        return replace(prepared, segment=replace(prepared.segment, **_extent(encoded.table)))

    async def _without_loss(
        self, dataset: Dataset, group: Sequence[Segment], table: pa.Table, level: int
    ) -> PreparedSegment:
        return await self._store.prepare(
            dataset,
            table,
            tier=group[0].tier,
            form=CompressionForm.LOSSLESS,
            level=level,
            quality_score=_quality(group),
        )


class _Work:
    """A job while it runs."""

    def __init__(self, job: LifecycleJob, control: JobControl, report: Report, now: datetime) -> None:
        self.job = job
        self.control = control
        self.report = report
        self.total = 0
        self.changed = False
        """Whether others changed what was to be compressed: then something may have been missed."""
        # Of the first attempt: beyond what is told one by one, time tells what it has written.
        report.begun = report.begun or now

    async def tell(self) -> None:
        """Tell how far the job is."""
        await self.control.report(
            done=self.report.done_count,
            total=max(self.total, self.report.done_count),
            phase="measuring" if self.job.validate_only else "compressing",
            read_bytes=self.report.read_bytes,
            written_bytes=self.report.written_bytes,
            checkpoint=self.report.checkpoint(),
        )


def _why_not_without_loss(segment: Segment) -> Skip | None:
    if segment.state is SegmentState.QUARANTINED:
        return Skip(kind=SkipKind.QUARANTINE, explanation=f"it is damaged: {segment.quarantine_reason}")
    return _why_not_again(segment)


def _why_not_again(segment: Segment) -> Skip | None:
    if segment.form.exact:
        return None
    form = segment.form.name.lower()
    return Skip(kind=SkipKind.FORM, explanation=f"it has lost something before: its form is {form}")


def _encoded(table: pa.Table, settings: CompressionSettings, dataset: Dataset) -> _Encoded:
    """Encode records. Raises CompressionFailed."""
    if settings.form.exact:
        lossless = columnar.encode(table, level=settings.level)
        columns = tuple(
            ColumnLoss(
                column=name,
                codec=codec,
                original_bytes=int(table.column(name).nbytes),
                compressed_bytes=lossless.column_bytes[name],
                max_error=0.0,
                root_mean_square_error=0.0,
            )
            for name, codec in lossless.codecs.items()
        )
        return _Encoded(
            result=None,
            table=table,
            payload_bytes=len(lossless.payload),
            columns=columns,
            summary_metrics=summarize(table),
        )
    try:
        result = encode(table, lossy_settings(settings))
        check(result.payload, table, lossy_settings(settings))
    except LossySettingsInvalid as error:
        raise CompressionFailed(
            f"settings.{error.field}: {error.description}", dataset_id=dataset.dataset_id, column=error.column
        ) from error
    except (LossyPayloadDamaged, ValueError) as error:
        raise CompressionFailed(
            f"what was encoded does not give back what it should: {error}", dataset_id=dataset.dataset_id
        ) from error
    return _Encoded(
        result=result,
        table=table,
        payload_bytes=len(result.payload),
        columns=result.columns,
        summary_metrics=dict(result.summary_metrics),
    )


def _verifier(result: LossyResult, table: pa.Table, settings: LossySettings) -> Callable[[bytes], None]:
    def verify(payload: bytes) -> None:
        if payload != result.payload:
            raise ValueError("other bytes")
        try:
            check(payload, table, settings)
        except LossyPayloadDamaged as error:
            raise ValueError(str(error)) from error

    return verify


def _compressed(
    segment: Segment,
    group: Sequence[Segment],
    encoded: _Encoded,
    *,
    sealed_metrics: Mapping[str, str],
    now: datetime,
    retrieval_time: timedelta,
) -> Compressed:
    result = encoded.result
    return Compressed(
        sources=tuple(group),
        segment_id=segment.segment_id,
        form=segment.form,
        compress_time=now,
        record_count=segment.record_count,
        original_bytes=segment.original_bytes,
        compressed_bytes=segment.stored_bytes,
        value_retained=result.value_retained if result is not None else 1.0,
        columns=encoded.columns,
        sealed_metrics=sealed_metrics,
        exact=result is None or result.exact,
        available_analyses=result.available_analyses if result is not None else LOSSLESS_ANALYSES,
        limitation=result.limitation if result is not None else "",
        retrieval_time=retrieval_time,
    )


def _extent(table: pa.Table) -> dict[str, Any]:
    """Return the facts of the manifest that depend on which records a segment stands for."""
    times = table.column("time")
    return {
        "start_time": times[0].as_py(),
        "end_time": times[-1].as_py() + ONE_MICROSECOND,
        "record_count": table.num_rows,
        "original_bytes": columnar.plain_bytes(table),
    }


def _inheriting(segment: Segment, group: Sequence[Segment]) -> Segment:
    """Return a segment with the promises of those that it takes the place of: of several, the longest."""
    ends = [each.retention_end_time for each in group if each.retention_end_time is not None]
    stays = [each.stay_end_time for each in group if each.stay_end_time is not None]
    return replace(segment, retention_end_time=max(ends, default=None), stay_end_time=max(stays, default=None))


def _quality(group: Sequence[Segment]) -> float:
    weight = sum(segment.record_count for segment in group)
    return sum(segment.quality_score * segment.record_count for segment in group) / max(weight, 1)
