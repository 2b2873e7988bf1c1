"""Querying records: every tier, in the order of time, in bounded memory.

Segments are read in the order of their begins. Whatever lies before the begin of the next one is complete and goes
out, so that only segments that overlap at the frontier are held, and one that is fetched ahead. Where a segment was
moved meanwhile, the manifest is read again from the frontier on: nothing is lost or told twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import (
    ColumnType,
    CompressionForm,
    DataColumn,
    Dataset,
    DatasetShape,
    Segment,
    SegmentState,
)
from tallygate_server.errors import (
    ArchiveCorruption,
    IntegrityViolation,
    InvalidRequest,
    NotFound,
    RetrievalTimeout,
    TallygateError,
    Unavailable,
)
from tallygate_server.lifecycle import lossy
from tallygate_server.lifecycle.columnar import TIME
from tallygate_server.lifecycle.records.batches import ARROW_TYPE
from tallygate_server.lifecycle.records.merge import Merge, slices
from tallygate_server.lifecycle.records.schema import DOCUMENT
from tallygate_server.lifecycle.records.views import DatasetView
from tallygate_server.lifecycle.records.writing import RECORD_ID, SEQUENCE
from tallygate_server.lifecycle.segments import SegmentStore
from tallygate_server.storage import data_records as rows
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.data_keys import KeyState, read_keys_of_account
from tallygate_server.storage.data_segments import add_reads, read_segment
from tallygate_server.storage.datasets import read_dataset, write_dataset
from tallygate_server.storage.engine import Database
from tallygate_server.tenants import TenantDirectory

log = structlog.get_logger(__name__)

QUERY_ROWS_MAX: Final = 10_000
"""Records handed on at once."""
MANIFEST_PAGE: Final = 500
"""Segments looked up at once."""
GROUP_SEGMENTS_MAX: Final = 128
GROUP_BYTES_MAX: Final = 2**20
"""Small segments in Postgres are fetched together: so many, of so many bytes in all."""
MERGED_ROWS_MAX: Final = 2**17
"""Records of several segments that are put in order at once."""
HELD_BYTES_MAX: Final = 2**27
"""What overlapping segments may take in memory; beyond that the latest records are read once more in their time."""
GAPS_MAX: Final = 1_000
"""Parts that a header names; beyond that the last one stands for all that follow."""
RESTARTS_MAX: Final = 100
"""Times that one query follows a manifest that changes."""
QUERY_ACTOR: Final = "query"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class History(Protocol):
    """Knows how far back an account's plan lets it see."""

    async def visible_start(self, tenant_id: TenantId, account_id: AccountId, now: datetime, /) -> datetime | None:
        """Return the first instant that the account sees; None: everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordQuery:
    """Which records are wanted."""

    tenant_id: TenantId
    account_id: AccountId
    data_type: str
    start_time: datetime | None = None
    end_time: datetime | None = None
    columns: tuple[str, ...] = ()
    """Empty: all."""
    record_count_max: int = 0
    """0: all."""
    with_record_ids: bool = False
    allow_approximation: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordsGap:
    """A part of a range that is not given exactly."""

    start_time: datetime
    end_time: datetime
    kind: str
    """`compressed`, `quarantined`, `erased` or `beyond_history`."""
    max_errors: Mapping[str, float] = field(default_factory=dict)
    explanation: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordsHeader:
    """How exact an answer is."""

    dataset: DatasetView
    columns: tuple[DataColumn, ...]
    gaps: tuple[RecordsGap, ...]
    visible_start_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordsTotals:
    """The sums of an answer."""

    record_count: int
    segment_count: int
    read_bytes: int


RecordsPart: TypeAlias = RecordsHeader | pa.Table | RecordsTotals


class _ManifestChangedError(Exception):
    """A segment is not there any more: others stand for its records."""


@dataclass(slots=True, kw_only=True)
class _Manifest:
    """What there was at one instant."""

    dataset: Dataset
    view: DatasetView
    upcoming: deque[Segment]
    last: Segment | None
    """Up to which the manifest was looked up."""
    complete: bool
    """Whether there are no segments behind it."""
    inexact: list[Segment]
    erased_keys: frozenset[str]
    replaced: Any
    """Numbers of records that others took the place of, ascending."""
    max_errors: Mapping[str, Mapping[str, float]]
    """Of lossy segments that are given approximately, by column."""
    first_time: datetime | None = None
    """Of all records, where it lies before what the account may see."""


class RecordReading:
    """Queries records."""

    def __init__(
        self,
        segments: SegmentStore,
        *,
        tenants: TenantDirectory,
        history: History,
        retrieval_timeout_ms: int,
        clock: Clock,
    ) -> None:
        """Read through the segment store."""
        self._segments = segments
        self._database: Database = segments.database
        self._tenants = tenants
        self._history = history
        self._retrieval_timeout_ms = retrieval_timeout_ms
        self._clock = clock

    async def query(self, wanted: RecordQuery) -> AsyncGenerator[RecordsPart]:
        """Yield how exact the answer is, then records by time, at most 10,000 at once, and the sums last.

        Tables have `time`, the wanted columns (of documents `document`), and `_id` when ids are wanted. Raises
        TenantNotFound, NotFound, InvalidRequest, IntegrityViolation, ArchiveCorruption, RetrievalTimeout, Unavailable.
        """
        await self._tenants.get(wanted.tenant_id)
        now = self._clock.now()
        visible = await self._history.visible_start(wanted.tenant_id, wanted.account_id, now)
        start_time = max((time for time in (wanted.start_time, visible) if time is not None), default=None)
        manifest = await self._manifest(wanted, start_time, visible)
        columns = _wanted_columns(wanted, manifest.dataset)
        yield RecordsHeader(
            dataset=manifest.view,
            columns=columns,
            gaps=tuple(_gaps(wanted, manifest, columns, start_time, visible)),
            visible_start_time=visible,
        )
        run = _Run(
            self._segments,
            self,
            wanted=wanted,
            manifest=manifest,
            columns=columns,
            start_time=start_time,
            retrieval_timeout_ms=self._retrieval_timeout_ms,
        )
        sent = 0
        try:
            while (table := await run.next()) is not None:
                for part in slices(table, QUERY_ROWS_MAX):
                    room = wanted.record_count_max - sent if wanted.record_count_max else part.num_rows
                    sent += min(room, part.num_rows)
                    yield part if part.num_rows <= room else part.slice(0, room)
                    if wanted.record_count_max and sent >= wanted.record_count_max:
                        break
                if wanted.record_count_max and sent >= wanted.record_count_max:
                    break
        finally:
            await run.close()
        await self._note_reads(manifest.dataset, sorted(run.read_segments), now)
        yield RecordsTotals(record_count=sent, segment_count=len(run.read_segments), read_bytes=run.read_bytes)

    async def _manifest(
        self, wanted: RecordQuery, start_time: datetime | None, visible: datetime | None = None
    ) -> _Manifest:
        """Return everything about the range as it is at one instant. Raises NotFound."""
        tenant_id = wanted.tenant_id
        max_errors = await self._approximate(wanted, start_time) if wanted.allow_approximation else {}
        async with self._database.tenant_snapshot(tenant_id) as connection:
            dataset = await read_dataset(connection, tenant_id, wanted.account_id, wanted.data_type)
            if dataset is None:
                raise NotFound("dataset", f"{wanted.account_id}/{wanted.data_type}", field="data_type")
            usage = await rows.usage_of(connection, tenant_id, [dataset])
            keys = await read_keys_of_account(connection, tenant_id, wanted.account_id)
            page = await self.page(connection, dataset, start_time, wanted.end_time, also=tuple(max_errors))
            inexact = await rows.inexact_segments(
                connection,
                tenant_id,
                dataset.dataset_id,
                start_time=start_time,
                end_time=wanted.end_time,
                limit=GAPS_MAX + 1,
            )
            replaced = (
                await rows.read_replaced(connection, tenant_id, dataset.dataset_id) if dataset.has_record_ids else []
            )
            first_time = (
                await rows.first_record_time(connection, tenant_id, dataset.dataset_id, before=visible)
                if visible is not None
                else None
            )
        return _Manifest(
            dataset=dataset,
            view=DatasetView.of(dataset, usage[dataset.dataset_id]),
            upcoming=deque(page),
            last=page[-1] if page else None,
            complete=len(page) < MANIFEST_PAGE,
            inexact=inexact,
            erased_keys=frozenset(key.key_id for key in keys if key.state is KeyState.DESTROYED),
            replaced=np.array(replaced, np.int64),
            max_errors=max_errors,
            first_time=first_time,
        )

    async def _approximate(self, wanted: RecordQuery, start_time: datetime | None) -> dict[str, Mapping[str, float]]:
        """Return the lossy segments that give rows within guaranteed errors, and these errors by column."""
        tenant_id = wanted.tenant_id
        async with self._database.tenant_transaction(tenant_id) as connection:
            dataset = await read_dataset(connection, tenant_id, wanted.account_id, wanted.data_type)
            if dataset is None:
                return {}
            segments = await rows.inexact_segments(
                connection,
                tenant_id,
                dataset.dataset_id,
                start_time=start_time,
                end_time=wanted.end_time,
                limit=GAPS_MAX,
            )
        found: dict[str, Mapping[str, float]] = {}
        for segment in segments:
            if segment.form is CompressionForm.STATISTICAL and segment.state is SegmentState.LIVE:
                try:
                    facts = await self._segments.read_facts(segment)
                except (IntegrityViolation, ArchiveCorruption):
                    continue
                told = facts.get("compression", {})
                if told.get("form") == lossy.LossyForm.PIECEWISE.value:
                    found[segment.segment_id] = {
                        column["column"]: column["max_error"] for column in told["columns"] if column["max_error"]
                    }
        return found

    async def page(
        self,
        connection: Connection,
        dataset: Dataset,
        start_time: datetime | None,
        end_time: datetime | None,
        *,
        also: Sequence[str] = (),
        after: Segment | None = None,
    ) -> list[Segment]:
        """Return the next segments of the manifest that give records."""
        return await rows.exact_segments(
            connection,
            dataset.tenant_id,
            dataset.dataset_id,
            start_time=start_time,
            end_time=end_time,
            also=also,
            after=(after.start_time, after.segment_id) if after is not None else None,
            limit=MANIFEST_PAGE,
        )

    async def again(self, wanted: RecordQuery, start_time: datetime | None) -> _Manifest:
        """Return the manifest as it is now, from a time on."""
        return await self._manifest(wanted, start_time)

    async def more(
        self, manifest: _Manifest, start_time: datetime | None, end_time: datetime | None, after: Segment
    ) -> list[Segment]:
        """Return the page of the manifest after a segment."""
        dataset = manifest.dataset
        async with self._database.tenant_transaction(dataset.tenant_id) as connection:
            return await self.page(
                connection, dataset, start_time, end_time, also=tuple(manifest.max_errors), after=after
            )

    async def _note_reads(self, dataset: Dataset, segment_ids: Sequence[str], now: datetime) -> None:
        """Count the reads; an answer does not fail for their sake."""
        try:
            async with self._database.tenant_transaction(dataset.tenant_id) as connection:
                if segment_ids:
                    await add_reads(connection, dataset.tenant_id, segment_ids, now=now)
                await write_dataset(connection, dataset.tenant_id, dataset.dataset_id, {"access_time": now})
        except TallygateError as error:
            log.warning("reads_not_counted", error=str(error))


class _Run:
    """One query on its way through the manifest."""

    def __init__(
        self,
        segments: SegmentStore,
        reading: RecordReading,
        *,
        wanted: RecordQuery,
        manifest: _Manifest,
        columns: tuple[DataColumn, ...],
        start_time: datetime | None,
        retrieval_timeout_ms: int,
    ) -> None:
        self._segments = segments
        self._reading = reading
        self._wanted = wanted
        self._manifest = manifest
        self._start = self._frontier = start_time
        """Everything before the frontier has been handed on; the manifest was read from the start on."""
        self._timeout_ms = retrieval_timeout_ms
        self._merge = Merge()
        self._ahead: tuple[list[Segment], asyncio.Task[list[pa.Table]]] | None = None
        """The segments that come next, being fetched."""
        self._overlapping: list[Segment] = []
        """Segments that were read and reach beyond the frontier."""
        self._restarts = 0
        self._known_gaps = {segment.segment_id for segment in manifest.inexact}
        self._schema = _answer_schema(wanted, manifest.dataset, columns)
        self._names = [*self._schema.names[1:], *([SEQUENCE] if manifest.dataset.has_record_ids else [])]
        self.read_segments: set[str] = set()
        self.read_bytes = 0

    async def next(self) -> pa.Table | None:
        """Return the next records; None at the end."""
        while True:
            segment = await self._peek()
            if segment is None:
                return await self._take(None)
            if (table := await self._take(segment.start_time)) is not None:
                return table
            try:
                loaded = await self._load()
            except _ManifestChangedError:
                await self._restart()
                continue
            cut = await asyncio.to_thread(self._add, loaded)
            if cut is not None:
                await self._come_back(_EPOCH + cut * _MICROSECOND)

    def _add(self, loaded: Sequence[tuple[Segment, pa.Table]]) -> int | None:
        """Hold records; return from when on some had to be dropped, None if none."""
        self._merge.add(self._joined(loaded))
        return self._merge.shed(HELD_BYTES_MAX)

    async def _come_back(self, cut: datetime) -> None:
        """Read again, when their time has come, the segments whose records from an instant on were dropped."""
        await self.close()
        upcoming = {segment.segment_id: segment for segment in self._manifest.upcoming}
        for segment in self._overlapping:
            if segment.end_time > cut:
                waiting = upcoming.get(segment.segment_id)
                start_time = cut if waiting is None else min(cut, waiting.start_time)
                upcoming[segment.segment_id] = replace(segment, start_time=start_time)
        self._manifest.upcoming = deque(sorted(upcoming.values(), key=_place))

    async def close(self) -> None:
        """Stop what is being fetched."""
        if self._ahead is not None:
            _, task = self._ahead
            self._ahead = None
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _take(self, before: datetime | None) -> pa.Table | None:
        """Return records before an instant (None: all), so many as are merged at once; None where there are none."""
        table: pa.Table | None = None
        if not self._merge.empty:
            table, bound_us = await asyncio.to_thread(self._taken, None if before is None else _micros(before))
            before = None if bound_us is None else _EPOCH + bound_us * _MICROSECOND
        if before is not None and (self._frontier is None or before > self._frontier):
            self._frontier = before
        return table

    def _taken(self, before_us: int | None) -> tuple[pa.Table | None, int | None]:
        bound_us = self._merge.bound(before_us, MERGED_ROWS_MAX)
        return self._merge.take(bound_us), bound_us

    async def _peek(self) -> Segment | None:
        """Return the segment that comes next."""
        manifest = self._manifest
        while True:
            if not self._next_is_known():
                assert manifest.last is not None, "a page that is not the last one has segments"
                page = await self._reading.more(manifest, self._start, self._wanted.end_time, manifest.last)
                manifest.upcoming = deque(sorted([*manifest.upcoming, *page], key=_place))
                manifest.last = page[-1] if page else manifest.last
                manifest.complete = len(page) < MANIFEST_PAGE
            elif not manifest.upcoming:
                return None
            elif manifest.upcoming[0].key_id in manifest.erased_keys:
                manifest.upcoming.popleft()
            else:
                return manifest.upcoming[0]

    def _next_is_known(self) -> bool:
        """Tell whether nothing that was not looked up can come before what is upcoming."""
        manifest = self._manifest
        if manifest.complete or manifest.last is None:
            return True
        return bool(manifest.upcoming) and manifest.upcoming[0].start_time <= manifest.last.start_time

    async def _load(self) -> list[tuple[Segment, pa.Table]]:
        """Return the records of the segments that come next, and begin to fetch those behind them meanwhile."""
        if self._ahead is None:
            self._fetch()
        assert self._ahead is not None, "there is a segment to come"
        segments, task = self._ahead
        # Shielded: whoever leaves the query ends what it fetches in `close`.
        tables = await asyncio.shield(task)
        self._ahead = None
        for segment in segments:
            assert self._manifest.upcoming.popleft() is segment, "they were the next ones"
        frontier = self._frontier
        self._overlapping = [
            segment
            for segment in self._overlapping
            if (frontier is None or segment.end_time > frontier) and segment.segment_id not in _ids(segments)
        ]
        self._overlapping.extend(segments)
        self.read_segments.update(segment.segment_id for segment in segments)
        self.read_bytes += sum(segment.stored_bytes for segment in segments)
        upcoming = self._manifest.upcoming
        if upcoming and self._next_is_known() and upcoming[0].key_id not in self._manifest.erased_keys:
            self._fetch()
        return list(zip(segments, tables, strict=True))

    def _fetch(self) -> None:
        segments = self._next_group()
        self._ahead = (segments, asyncio.create_task(self._read(segments)))

    def _next_group(self) -> list[Segment]:
        """Return the next segment to fetch; of small ones in Postgres as many as are fetched in one go."""
        group: list[Segment] = []
        size = 0
        for segment in self._manifest.upcoming:
            size += segment.stored_bytes
            alone = bool(segment.object_path) or not segment.form.exact
            erased = segment.key_id in self._manifest.erased_keys
            if group and (alone or erased or size > GROUP_BYTES_MAX or len(group) >= GROUP_SEGMENTS_MAX):
                break
            group.append(segment)
            if alone:
                break
        return group

    async def _read(self, segments: Sequence[Segment]) -> list[pa.Table]:
        first = segments[0]
        timeout = asyncio.timeout(self._timeout_ms / 1_000) if first.object_path else nullcontext()
        try:
            async with timeout:
                if len(segments) > 1:
                    return await self._segments.read_many(segments, columns=self._names)
                if first.form.exact:
                    return [await self._segments.read(first, columns=self._names)]
                payload = await self._segments.read_payload(first)
                return [await asyncio.to_thread(_approximation, first, payload)]
        except TimeoutError:
            raise RetrievalTimeout(dataset_id=first.dataset_id, timeout_ms=self._timeout_ms) from None
        except (IntegrityViolation, ArchiveCorruption) as error:
            damaged = next((each for each in segments if each.segment_id == error.facts.get("segment_id")), first)
            if await self._moved(damaged, error):
                raise _ManifestChangedError from None
            raise

    async def _moved(self, segment: Segment, error: TallygateError) -> bool:
        """Tell whether others stand for the segment now; a damaged one is put in quarantine."""
        async with self._segments.database.tenant_transaction(segment.tenant_id) as connection:
            present = await read_segment(connection, segment.tenant_id, segment.segment_id)
            keys = await read_keys_of_account(connection, segment.tenant_id, segment.account_id)
        if any(key.key_id == segment.key_id and key.state is KeyState.DESTROYED for key in keys):
            return True
        if present is None or present.state in {SegmentState.REPLACED, SegmentState.DELETED}:
            return True
        await self._segments.quarantine(segment, error.facts.get("why", error.message), actor=QUERY_ACTOR)
        return False

    async def _restart(self) -> None:
        """Begin anew at the frontier, with the manifest as it is now."""
        self._restarts += 1
        if self._restarts > RESTARTS_MAX:
            raise Unavailable("the dataset's segments keep changing; query again")
        await self.close()
        before = self._manifest
        manifest = await self._reading.again(self._wanted, self._frontier)
        unknown = [segment for segment in manifest.inexact if segment.segment_id not in self._known_gaps]
        if unknown or manifest.erased_keys - before.erased_keys:
            # The header is out already, and nothing may be left out silently.
            raise Unavailable("a part of the data changed its form while it was read; query again")
        self._merge, self._overlapping = Merge(), []
        self._manifest, self._start = manifest, self._frontier

    def _joined(self, loaded: Sequence[tuple[Segment, pa.Table]]) -> pa.Table:
        """Return the records of segments as one table, in the order of time."""
        joined = Merge()
        for segment, table in loaded:
            joined.add(self._arranged(segment, table))
        merged = joined.take(None)
        return self._schema.empty_table() if merged is None else merged

    def _arranged(self, segment: Segment, table: pa.Table) -> pa.Table:
        """Return the records that belong to the answer and have yet to come, with its columns in its order."""
        times = table.column(TIME)
        chosen: Any = None
        # One that comes back begins where its first records ended.
        start = segment.start_time if self._frontier is None else max(segment.start_time, self._frontier)
        for bound, comparison in ((start, pc.greater_equal), (self._wanted.end_time, pc.less)):
            if bound is not None:
                fits = comparison(times, pa.scalar(bound, times.type))
                chosen = fits if chosen is None else pc.and_(chosen, fits)
        if len(self._manifest.replaced) and SEQUENCE in table.column_names:
            gone = np.isin(table.column(SEQUENCE).to_numpy(), self._manifest.replaced)
            kept = pa.chunked_array([pa.array(~gone)])
            chosen = kept if chosen is None else pc.and_(chosen, kept)
        if chosen is not None and not pc.all(chosen).as_py():
            table = table.filter(chosen)
        present = set(table.column_names)
        arrays = [
            table.column(each.name).cast(each.type) if each.name in present else pa.nulls(table.num_rows, each.type)
            for each in self._schema
        ]
        return pa.table(arrays, schema=self._schema)


def _approximation(segment: Segment, payload: bytes) -> pa.Table:
    """Return the rows that a lossy form gives. Raises IntegrityViolation or ArchiveCorruption."""
    try:
        return lossy.decode(payload).rows()
    except lossy.LossyPayloadDamaged as error:
        kind = ArchiveCorruption if segment.object_path else IntegrityViolation
        raise kind(
            f"it cannot be decoded: {error}", dataset_id=segment.dataset_id, segment_id=segment.segment_id
        ) from error


def _wanted_columns(wanted: RecordQuery, dataset: Dataset) -> tuple[DataColumn, ...]:
    if dataset.shape is DatasetShape.DOCUMENTS:
        if wanted.columns:
            raise InvalidRequest.of("columns", "documents have no columns")
        return ()
    known = {column.name: column for column in dataset.columns}
    for index, name in enumerate(wanted.columns):
        if name not in known:
            raise InvalidRequest.of(f"columns[{index}]", f"the dataset has no column {name!r}")
    chosen = set(wanted.columns)
    return tuple(column for column in dataset.columns if not chosen or column.name in chosen)


def _answer_schema(wanted: RecordQuery, dataset: Dataset, columns: Sequence[DataColumn]) -> pa.Schema:
    names = [(TIME, ARROW_TYPE[ColumnType.TIMESTAMP])]
    if dataset.shape is DatasetShape.DOCUMENTS:
        names.append((DOCUMENT, pa.string()))
    names.extend((column.name, ARROW_TYPE[column.type]) for column in columns)
    if wanted.with_record_ids and dataset.has_record_ids:
        names.append((RECORD_ID, pa.string()))
    return pa.schema(names)


def _gaps(
    wanted: RecordQuery,
    manifest: _Manifest,
    columns: Sequence[DataColumn],
    start_time: datetime | None,
    visible: datetime | None,
) -> list[RecordsGap]:
    gaps: list[RecordsGap] = []
    hidden_from = max((time for time in (wanted.start_time, manifest.first_time) if time is not None), default=None)
    if visible is not None and manifest.first_time is not None and hidden_from is not None and hidden_from < visible:
        hidden_until = visible if wanted.end_time is None else min(visible, wanted.end_time)
        if hidden_from < hidden_until:
            gaps.append(
                RecordsGap(
                    start_time=hidden_from,
                    end_time=hidden_until,
                    kind="beyond_history",
                    explanation="the account's plan does not show data this old",
                )
            )
    erased = [segment for segment in manifest.upcoming if segment.key_id in manifest.erased_keys]
    for segment in sorted([*manifest.inexact, *erased], key=lambda segment: (segment.start_time, segment.segment_id)):
        kind, explanation = _why_inexact(segment, manifest)
        gap = RecordsGap(
            start_time=segment.start_time if start_time is None else max(segment.start_time, start_time),
            end_time=segment.end_time if wanted.end_time is None else min(segment.end_time, wanted.end_time),
            kind=kind,
            max_errors=_errors_of(segment, manifest, columns),
            explanation=explanation,
        )
        gaps.append(gap)
    if len(gaps) > GAPS_MAX:
        rest = gaps[GAPS_MAX - 1 :]
        gaps[GAPS_MAX - 1 :] = [
            RecordsGap(
                start_time=rest[0].start_time,
                end_time=max(gap.end_time for gap in rest) if wanted.end_time is None else wanted.end_time,
                kind=rest[0].kind,
                explanation="from here on there are more parts than can be named; query a shorter range",
            )
        ]
    return gaps


def _errors_of(segment: Segment, manifest: _Manifest, columns: Sequence[DataColumn]) -> dict[str, float]:
    """Return the largest error of each column of the answer; nothing where the segment is left out."""
    told = manifest.max_errors.get(segment.segment_id, {})
    return {column.name: told[column.name] for column in columns if column.name in told}


def _why_inexact(segment: Segment, manifest: _Manifest) -> tuple[str, str]:
    if segment.key_id in manifest.erased_keys:
        return "erased", "the key to it was destroyed; nothing can be got"
    if segment.state is SegmentState.QUARANTINED:
        return "quarantined", f"it is damaged: {segment.quarantine_reason}"
    if segment.segment_id in manifest.max_errors:
        return "compressed", "given approximately: no value is off by more than its column's largest error"
    form = segment.form.name.lower()
    return "compressed", f"left out: only its {form} form is left; DecompressForAnalysis tells what that can give"


def _place(segment: Segment) -> tuple[datetime, str]:
    return segment.start_time, segment.segment_id


def _ids(segments: Sequence[Segment]) -> set[str]:
    return {segment.segment_id for segment in segments}


def _micros(instant: datetime) -> int:
    return (instant - _EPOCH) // _MICROSECOND
