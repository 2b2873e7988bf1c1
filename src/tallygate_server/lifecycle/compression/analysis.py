"""What compressed data can still give for an analysis: rows, windows, patterns or behaviour, and what it cannot.

Segments that are stored without loss can give everything: it is made of their rows. What a form cannot give is a gap in
the header, never left out silently; where nothing of a selection can give it, the call fails. Parts come in the order
of time, each made when it is wanted.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from itertools import zip_longest
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.lifecycle import (
    ONE_MICROSECOND,
    CompressionForm,
    DataColumn,
    DataSelection,
    Dataset,
    DatasetShape,
    Segment,
    SegmentState,
    StorageTier,
)
from tallygate_server.errors import FormNotRestorable, InvalidRequest
from tallygate_server.lifecycle.columnar import TIME_TYPE
from tallygate_server.lifecycle.compression.bounds import within
from tallygate_server.lifecycle.compression.fetching import Fetching
from tallygate_server.lifecycle.compression.report import LOSSLESS_ANALYSES, retrieval_document
from tallygate_server.lifecycle.lossy import (
    PATTERNS,
    PROFILE,
    ROWS,
    WINDOWS,
    AnalysisUnavailable,
    Kept,
    KeptRows,
    LossyForm,
    LossySettingsInvalid,
    Windows,
    behavior_of,
    joined,
    patterns_of,
    windows_of,
)
from tallygate_server.lifecycle.policies import Policies
from tallygate_server.lifecycle.records.batches import ARROW_TYPE, COLUMN_TYPE, time_of
from tallygate_server.lifecycle.records.merge import Merge, slices
from tallygate_server.lifecycle.records.reading import RecordsGap
from tallygate_server.lifecycle.tiers.groups import groups_of
from tallygate_server.storage.data_records import read_replaced
from tallygate_server.storage.data_segments import add_reads, read_segments
from tallygate_server.storage.datasets import read_dataset_by_id
from tallygate_server.tenants import TenantDirectory

SEGMENTS_MAX: Final = 10_000
"""Of one analysis; a longer range is asked for in pieces."""
SEGMENTS_TOLD_MAX: Final = 1_000
"""In a header, those with loss first: how to get at the others is no secret."""
ROWS_AT_ONCE: Final = 10_000
SESSIONS_AT_ONCE: Final = 1_000
"""In one document; more follow in further ones."""
WINDOW_DEFAULT: Final = timedelta(hours=1)
COMPRESSED: Final = "compressed"


class AnalysisKind(IntEnum):
    """What is wanted; numbers are those of the contract."""

    ROWS = 1
    WINDOWS = 2
    SEASONS = 3
    BEHAVIOR = 4


_NEEDS: Final = {
    AnalysisKind.ROWS: ROWS,
    AnalysisKind.WINDOWS: WINDOWS,
    AnalysisKind.SEASONS: PATTERNS,
    AnalysisKind.BEHAVIOR: PROFILE,
}
"""What a form must have available."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedAnalysis:
    """What is asked for."""

    tenant_id: TenantId
    selection: DataSelection
    kind: AnalysisKind
    columns: tuple[str, ...] = ()
    """Empty: all. Of behaviour: the column, or the field of documents, that names the action."""
    resolution: timedelta | None = None
    """Distance of points or length of windows; None: as stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisHeader:
    """What the stored forms can and cannot give."""

    segments: Mapping[str, dict[str, Any]]
    """How to get at each segment, as the contract's JSON has it."""
    gaps: tuple[RecordsGap, ...] = ()
    columns: tuple[DataColumn, ...] = ()
    """That follow."""
    documents: bool = False
    """Whether rows are documents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisDocument:
    """What one segment tells about behaviour or seasons."""

    segment_id: str
    start_time: datetime
    end_time: datetime
    content: Mapping[str, Any] = field(repr=False)


AnalysisPart: TypeAlias = AnalysisHeader | pa.Table | AnalysisDocument


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A segment, and what is known of it without opening it."""

    segment: Segment
    facts: Mapping[str, Any]
    """Of compression; empty without loss."""

    @property
    def available(self) -> Sequence[str]:
        return self.facts["available_analyses"] if self.facts else LOSSLESS_ANALYSES


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """How an analysis goes about."""

    wanted: WantedAnalysis
    dataset: Dataset
    sources: tuple[_Source, ...]
    """That can give what is wanted, by their begin."""
    resolution: timedelta
    """Of windows."""
    start_time: datetime | None
    """From where on rows are seen."""
    action_column: str
    session_gap: timedelta
    zones: Mapping[str, tuple[float, ...]]


class Analyses:
    """Gives what compressed data can give."""

    def __init__(
        self,
        fetching: Fetching,
        policies: Policies,
        tenants: TenantDirectory,
        clock: Clock,
        *,
        retrieval: Mapping[StorageTier, timedelta],
    ) -> None:
        """Fetch segments; `retrieval` is how long it takes to get at one of a tier."""
        self._fetching = fetching
        self._segments = fetching.segments
        self._retrieval = retrieval
        self._policies = policies
        self._tenants = tenants
        self._clock = clock

    async def analyse(self, wanted: WantedAnalysis) -> AsyncGenerator[AnalysisPart]:
        """Yield the header, then tables of rows or windows, or documents.

        Raises TenantNotFound, InvalidRequest, FormNotRestorable, IntegrityViolation, ArchiveCorruption,
        RetrievalTimeout, Unavailable, StoreUnavailable.
        """
        await self._tenants.get(wanted.tenant_id)
        now = self._clock.now()
        found = await self._found(wanted)
        if not found:
            yield AnalysisHeader(segments={})
            return
        dataset = await self._dataset(wanted.tenant_id, found)
        _check_columns(wanted, dataset)
        visible = await self._policies.visible_start(wanted.tenant_id, dataset.account_id, now)
        plan, header = await self._planned(wanted, dataset, found, visible)
        async with aclosing(self._parts(plan)) as parts:
            first = await anext(parts, None)
            if plan.wanted.kind is AnalysisKind.WINDOWS and isinstance(first, pa.Table):
                # Which statistics there are depends on what is found.
                header = replace(header, columns=_described(first))
            yield header
            if first is not None:
                yield first
            async for part in parts:
                yield part
        async with self._segments.database.tenant_transaction(wanted.tenant_id) as connection:
            read = [source.segment.segment_id for source in plan.sources]
            if read:
                await add_reads(connection, wanted.tenant_id, read, now=now)

    async def _found(self, wanted: WantedAnalysis) -> list[Segment]:
        async with self._segments.database.tenant_transaction(wanted.tenant_id) as connection:
            found = await read_segments(
                connection, wanted.tenant_id, wanted.selection, state=None, limit=SEGMENTS_MAX + 1
            )
        if len(found) > SEGMENTS_MAX:
            raise InvalidRequest.of("selection", f"covers more than {SEGMENTS_MAX} segments; ask for a shorter range")
        if len({segment.dataset_id for segment in found}) > 1:
            raise InvalidRequest.of("selection", "covers several datasets; choose one account and one sort of data")
        return found

    async def _dataset(self, tenant_id: TenantId, found: Sequence[Segment]) -> Dataset:
        async with self._segments.database.tenant_transaction(tenant_id) as connection:
            dataset = await read_dataset_by_id(connection, tenant_id, found[0].dataset_id)
        assert dataset is not None, "a segment is of a dataset"
        return dataset

    async def _planned(
        self, wanted: WantedAnalysis, dataset: Dataset, found: Sequence[Segment], visible: datetime | None
    ) -> tuple[_Plan, AnalysisHeader]:
        policy = await self._policies.policy_for(dataset.tenant_id, dataset.data_type)
        erased = await self._fetching.erased_keys(dataset.tenant_id, dataset.account_id)
        gaps: list[RecordsGap] = []
        sources: list[_Source] = []
        retrievals: dict[str, dict[str, Any]] = {}
        for segment in found:
            if visible is not None and segment.end_time <= visible:
                gaps.append(_gap(segment, "beyond_history", "the account's plan does not show data this old"))
                continue
            if segment.key_id in erased:
                gaps.append(_gap(segment, "erased", "the key to it was destroyed; nothing can be got"))
                continue
            if segment.state is SegmentState.QUARANTINED:
                gaps.append(_gap(segment, "quarantined", f"it is damaged: {segment.quarantine_reason}"))
                continue
            facts = {} if segment.form.exact else await self._facts(segment)
            source = _Source(segment=segment, facts=facts)
            sources.append(source)
            retrievals[segment.segment_id] = retrieval_document(
                segment.tier,
                self._retrieval[segment.tier],
                exact=segment.form.exact or bool(facts["exact"]),
                available_analyses=source.available,
                limitation=facts.get("limitation", ""),
            )
        resolution = wanted.resolution or max(
            (_window_of(source) for source in sources if _window_of(source)), default=WINDOW_DEFAULT
        )
        able: list[_Source] = []
        for source in sources:
            why_not = _why_unable(source, wanted.kind, resolution, visible)
            if why_not:
                gaps.append(_gap(source.segment, COMPRESSED, why_not))
                continue
            able.append(source)
            if (gap := _approximation(source, wanted.kind, resolution)) is not None:
                gaps.append(gap)
        if sources and not able:
            raise FormNotRestorable(
                f"nothing of this data can give {_NEEDS[wanted.kind]}: {gaps[-1].explanation}",
                dataset_id=dataset.dataset_id,
                form=sources[0].segment.form.name.lower(),
            )
        action = wanted.columns[0] if wanted.kind is AnalysisKind.BEHAVIOR and wanted.columns else ""
        plan = _Plan(
            wanted=wanted,
            dataset=dataset,
            sources=tuple(able),
            resolution=resolution,
            start_time=max((each for each in (wanted.selection.start_time, visible) if each is not None), default=None),
            action_column=action or policy.compression.action_column,
            session_gap=policy.compression.session_gap,
            zones=policy.compression.zones,
        )
        header = AnalysisHeader(
            segments=dict(sorted(retrievals.items(), key=lambda each: each[1]["exact"])[:SEGMENTS_TOLD_MAX]),
            gaps=tuple(_coalesced(gaps)),
            columns=_columns(plan) if wanted.kind is AnalysisKind.ROWS else (),
            documents=wanted.kind is AnalysisKind.ROWS and dataset.shape is DatasetShape.DOCUMENTS,
        )
        return plan, header

    async def _facts(self, segment: Segment) -> Mapping[str, Any]:
        facts: Mapping[str, Any] = (await self._segments.read_facts(segment))["compression"]
        return facts

    def _parts(self, plan: _Plan) -> AsyncGenerator[pa.Table | AnalysisDocument]:
        if plan.wanted.kind is AnalysisKind.ROWS:
            return self._rows(plan)
        if plan.wanted.kind is AnalysisKind.WINDOWS:
            return self._windows(plan)
        return self._documents(plan)

    async def _opened(self, plan: _Plan) -> AsyncGenerator[tuple[Segment, pa.Table | Kept, datetime | None]]:
        """Yield rows, or what is left of them, and when those begin that follow.

        Segments without loss come several together.
        """
        exact = [source.segment for source in plan.sources if source.segment.form.exact]
        lossy = [source.segment for source in plan.sources if not source.segment.form.exact]
        groups: list[list[Segment]] = [*groups_of(exact), *([segment] for segment in lossy)]
        groups.sort(key=lambda group: (group[0].start_time, group[0].segment_id))
        followers = [group[0].start_time for group in groups[1:]]
        for group, follower in zip_longest(groups, followers):
            first = group[0]
            if first.form.exact:
                table = await self._fetching.records(group)
                yield first, await asyncio.to_thread(_bounded, table, plan), follower
                continue
            kept = await self._fetching.kept(first)
            if isinstance(kept, KeptRows):
                table = await self._without_replaced(plan.dataset, kept.rows())
                yield first, await asyncio.to_thread(_bounded, table, plan), follower
            else:
                yield first, kept, follower

    async def _without_replaced(self, dataset: Dataset, table: pa.Table) -> pa.Table:
        """Return rows without those that others have taken the place of."""
        if not dataset.has_record_ids or "_sequence" not in table.column_names:
            return table
        async with self._segments.database.tenant_transaction(dataset.tenant_id) as connection:
            replaced = await read_replaced(connection, dataset.tenant_id, dataset.dataset_id)
        gone = pc.is_in(table.column("_sequence"), value_set=pa.array(replaced, pa.int64()))
        return table.filter(pc.invert(gone))

    async def _rows(self, plan: _Plan) -> AsyncGenerator[pa.Table]:
        documents = plan.dataset.shape is DatasetShape.DOCUMENTS
        schema = pa.schema(
            [("time", TIME_TYPE), *([("document", pa.string())] if documents else [])]
            + [(column.name, ARROW_TYPE[column.type]) for column in _columns(plan)]
        )
        merge = Merge()

        def made(opened: pa.Table | Kept) -> pa.Table:
            table = _bounded(opened.rows(plan.wanted.resolution), plan) if isinstance(opened, Kept) else opened
            return _shaped(_thinned(table, plan.wanted.resolution), schema)

        async for _, opened, follower in self._opened(plan):
            try:
                merge.add(await asyncio.to_thread(made, opened))
            except AnalysisUnavailable as error:
                raise InvalidRequest.of("resolution", error.limitation) from error
            complete = await asyncio.to_thread(merge.take, None if follower is None else _micros(follower))
            for part in slices(complete, ROWS_AT_ONCE) if complete is not None else ():
                yield part

    async def _windows(self, plan: _Plan) -> AsyncGenerator[pa.Table]:
        held: list[Windows] = []

        def made(opened: pa.Table | Kept, follower: datetime | None) -> tuple[pa.Table, list[Windows]]:
            """Return windows that are complete, as none that follows can reach into them, and the others."""
            if isinstance(opened, Kept):
                part = opened.windows(plan.resolution)
            else:
                part = windows_of(opened, plan.resolution, plan.zones)
            together = joined([*held, part], plan.resolution)
            complete, rest = _cut(together, follower)
            return _chosen(complete, plan.wanted.columns), [rest] if rest.table.num_rows else []

        async for _, opened, follower in self._opened(plan):
            complete, held = await asyncio.to_thread(made, opened, follower)
            for part in slices(complete, ROWS_AT_ONCE):
                yield part

    async def _documents(self, plan: _Plan) -> AsyncGenerator[AnalysisDocument]:
        make = _patterns if plan.wanted.kind is AnalysisKind.SEASONS else _behavior
        async for segment, opened, _ in self._opened(plan):
            try:
                contents = await asyncio.to_thread(make, opened, plan)
            except LossySettingsInvalid as error:
                raise InvalidRequest.of("columns", f"{error.description}, alone") from error
            for content in contents:
                yield AnalysisDocument(
                    segment_id=segment.segment_id,
                    start_time=segment.start_time,
                    end_time=segment.end_time,
                    content=content,
                )


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _check_columns(wanted: WantedAnalysis, dataset: Dataset) -> None:
    """Raise InvalidRequest for a column that there is not."""
    if dataset.shape is DatasetShape.DOCUMENTS:
        if wanted.columns and wanted.kind is AnalysisKind.ROWS:
            raise InvalidRequest.of("columns", "documents have no columns")
        return
    known = {column.name for column in dataset.columns}
    for index, name in enumerate(wanted.columns):
        if name not in known:
            raise InvalidRequest.of(f"columns[{index}]", f"the dataset has no column {name!r}")


def _micros(instant: datetime) -> int:
    return (instant - _EPOCH) // ONE_MICROSECOND


def _columns(plan: _Plan) -> tuple[DataColumn, ...]:
    chosen = set(plan.wanted.columns)
    return tuple(column for column in plan.dataset.columns if not chosen or column.name in chosen)


def _window_of(source: _Source) -> timedelta:
    seconds = source.facts.get("window_seconds", 0) if source.segment.form is CompressionForm.SUMMARY else 0
    return timedelta(seconds=seconds)


def _gap(segment: Segment, kind: str, explanation: str, max_errors: Mapping[str, float] | None = None) -> RecordsGap:
    return RecordsGap(
        start_time=segment.start_time,
        end_time=segment.end_time,
        kind=kind,
        explanation=explanation,
        max_errors=max_errors or {},
    )


def _why_unable(source: _Source, kind: AnalysisKind, resolution: timedelta, visible: datetime | None) -> str:
    """Tell why a segment cannot give what is wanted; empty where it can."""
    segment, facts = source.segment, source.facts
    if not facts or facts["form"] == LossyForm.PIECEWISE.value:
        return ""
    if visible is not None and segment.start_time < visible and kind is not AnalysisKind.ROWS:
        return "a part of it is older than the account's plan shows"
    if _NEEDS[kind] not in source.available:
        return str(facts["limitation"])
    window = _window_of(source)
    if kind is AnalysisKind.WINDOWS and window and (resolution < window or resolution % window):
        return f"windows of {window} are stored: ask for these, or for multiples of them"
    return ""


def _approximation(source: _Source, kind: AnalysisKind, resolution: timedelta) -> RecordsGap | None:
    """Return what a segment gives only approximately; None where what it gives is exact."""
    segment, facts = source.segment, source.facts
    window = _window_of(source)
    if window and resolution != window:
        return _gap(segment, COMPRESSED, f"quantiles are approximate: they are combined from windows of {window}")
    if not facts or window or kind is AnalysisKind.BEHAVIOR:
        return None
    if facts["form"] == LossyForm.SEASONAL.value and kind is AnalysisKind.SEASONS:
        return None
    errors = {column["column"]: column["max_error"] for column in facts["columns"] if column["max_error"] > 0}
    if not errors:
        return None
    if kind is AnalysisKind.ROWS:
        drawn = facts["form"] == LossyForm.SEASONAL.value
        explanation = (
            "rows are drawn from patterns: where there were records, they are no farther off than max_errors"
            if drawn
            else "values are approximate: no farther off than max_errors"
        )
        return _gap(segment, COMPRESSED, explanation, errors)
    return _gap(segment, COMPRESSED, "made of approximate values")


def _coalesced(gaps: Sequence[RecordsGap]) -> list[RecordsGap]:
    """Put parts of the same sort that follow each other together, so that a header stays small."""
    told: list[RecordsGap] = []
    for gap in gaps:
        last = told[-1] if told else None
        if last is None or (last.kind, last.explanation) != (gap.kind, gap.explanation):
            told.append(gap)
            continue
        errors = {
            name: max(last.max_errors.get(name, 0.0), gap.max_errors.get(name, 0.0))
            for name in {**last.max_errors, **gap.max_errors}
        }
        told[-1] = replace(last, end_time=max(last.end_time, gap.end_time), max_errors=errors)
    return told


def _bounded(table: pa.Table, plan: _Plan) -> pa.Table:
    return within(table, plan.start_time, plan.wanted.selection.end_time)


def _thinned(table: pa.Table, resolution: timedelta | None) -> pa.Table:
    """Return the first row of each stretch of the length."""
    if resolution is None or not table.num_rows:
        return table
    stretches = time_of(table) // (resolution // ONE_MICROSECOND)
    return table.take(pa.array(np.unique(stretches, return_index=True)[1]))


def _shaped(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with the columns that an answer has; drawn numbers become whole where the column's are."""
    arrays: list[Any] = []
    for each in schema:
        if each.name not in table.column_names:
            drawn = each.name == "document"
            arrays.append(_as_documents(table) if drawn else pa.nulls(table.num_rows, each.type))
            continue
        column = table.column(each.name)
        if column.type != each.type:
            rounded = pc.round(column) if pa.types.is_floating(column.type) else column
            column = rounded.cast(each.type, safe=False)
        arrays.append(column)
    return pa.table(arrays, schema=schema)


def _as_documents(table: pa.Table) -> pa.Array:
    fields = table.drop_columns(["time"]).to_pylist()
    return pa.array([json.dumps(document) for document in fields], pa.string())


def _cut(windows: Windows, follower: datetime | None) -> tuple[Windows, Windows]:
    """Return windows that end before what follows begins, and the others."""
    table = windows.table
    count = table.num_rows
    if follower is not None:
        border = _micros(follower) - windows.window // ONE_MICROSECOND
        count = int(np.searchsorted(time_of(table), border, side="right"))
    return replace(windows, table=table.slice(0, count)), replace(windows, table=table.slice(count))


def _chosen(windows: Windows, columns: Sequence[str]) -> pa.Table:
    if not columns:
        return windows.table
    wanted = set(columns)
    names = [name for name in windows.table.column_names if name == "time" or name.rpartition(".")[0] in wanted]
    return windows.table.select(names)


def _described(windows: pa.Table) -> tuple[DataColumn, ...]:
    return tuple(
        DataColumn(name=each.name, type=COLUMN_TYPE[each.type], nullable=True)
        for each in windows.schema
        if each.name != "time"
    )


def _patterns(opened: pa.Table | Kept, plan: _Plan) -> list[dict[str, Any]]:
    found = opened.patterns() if isinstance(opened, Kept) else patterns_of(opened)
    chosen = set(plan.wanted.columns)
    return [{name: content for name, content in found.items() if not chosen or name in chosen}]


def _behavior(opened: pa.Table | Kept, plan: _Plan) -> list[dict[str, Any]]:
    if isinstance(opened, Kept):
        profile, sessions = opened.profile(), opened.sessions()
    else:
        behavior = behavior_of(opened, plan.action_column, plan.session_gap)
        profile, sessions = behavior.profile_document(), behavior.session_documents()
    first = {"profile": profile, "sessions": sessions[:SESSIONS_AT_ONCE]}
    rest = range(SESSIONS_AT_ONCE, len(sessions), SESSIONS_AT_ONCE)
    return [first, *({"sessions": sessions[begin : begin + SESSIONS_AT_ONCE]} for begin in rest)]
