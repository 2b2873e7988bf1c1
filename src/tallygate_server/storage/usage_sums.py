"""SQL that sums up usage by window and group: rollups as far as they go, and raw rows for the rest, in one snapshot.

What the rollups lack are the rows of transactions from the progress row on, few and found by an index, and, at the ends
of a range that cuts a minute, parts of a minute.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Final

from tallygate_server.domain.catalog import MeterAggregation
from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.usage_windows import Bucket, Run
from tallygate_server.storage.connection import Connection

ACCOUNT_DIMENSION: Final = "account_id"
"""Grouped and filtered by like a dimension; it hides a dimension of this name."""


class Subject(Enum):
    """What is summed up; the values are stored."""

    FEATURE = "feature"
    METER = "meter"
    AI_COST = "ai_cost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What usage is asked for."""

    tenant_id: TenantId
    subject: Subject
    subject_key: str
    aggregation: MeterAggregation
    bounds: Sequence[datetime]
    """Where windows begin, and the end of the last one; with `by_minute` the start and the end only."""
    by_minute: bool
    runs: Sequence[Run]
    account_ids: Sequence[str] | None
    """None: all."""
    group_by: Sequence[str]
    filters: Sequence[tuple[str, Sequence[str]]]
    """Dimensions and the values that are kept; without `account_id`."""
    top_count: int
    """0: every group."""

    @property
    def by_account(self) -> bool:
        """Whether sums of single accounts are needed."""
        return self.account_ids is not None or ACCOUNT_DIMENSION in self.group_by


@dataclass(frozen=True, slots=True)
class Position:
    """A place between rows: right after the row with these."""

    window_start: datetime
    rest: bool
    group: Sequence[str] = ()
    digest: bytes | None = None
    """In place of a group that is too long to be carried about."""


def group_digest(group: Sequence[str]) -> bytes:
    """Return what stands for a group."""
    return hashlib.sha256(_SEPARATOR.join(group).encode()).digest()


_SEPARATOR: Final = "\x1f"
"""No dimension has a control character."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SumRow:
    """Usage of one group in one window."""

    window_start: datetime
    rest: bool
    group: tuple[str, ...]
    """Values in the order of `group_by`; empty for the rest."""
    event_count: int
    quantity: int
    """Sum, smallest, largest or latest value, or the number of different values: as the aggregation says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """A page of rows, and what all pages together have."""

    rows: Sequence[SumRow]
    row_count: int
    event_count: int
    quantity: int
    """Sum over all rows."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """A part of a minute, and where its rows that are rolled up can be found."""

    start: datetime
    end: datetime
    xids: Sequence[tuple[int, int]]
    """Ranges `[low, high)` of the transactions that wrote them."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the rollups go."""

    next_xid: int
    next_recorded_time: datetime | None
    """None: everything of the first releases is in them."""
    end_xid: int
    """No transaction from this one on is in the snapshot; says that the rest is small where nothing else does."""


_WORK_MEM: Final = "32MB"
"""Memory of Postgres for each step; sums of many groups go to disk otherwise."""

_EPOCH: Final = "timestamptz '1970-01-01 00:00:00+00'"
_AVERAGED: Final = "sum(quantity) / NULLIF(sum(event_count), 0)"
_MEASURE: Final = {
    MeterAggregation.SUM: "sum(quantity)",
    MeterAggregation.COUNT: "sum(event_count)",
    MeterAggregation.MAX: "max(max_quantity)",
    MeterAggregation.MIN: "min(min_quantity)",
    # The sum goes out; it is divided where fractions are exact.
    MeterAggregation.AVERAGE: "sum(quantity)",
    MeterAggregation.UNIQUE: "count(DISTINCT value)",
    MeterAggregation.LATEST: "(array_agg(latest_quantity ORDER BY latest_time DESC, latest_key DESC))[1]",
}
"""How the parts of one row become its number."""


class _Statement:
    """The parameters of a statement while its text is put together."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def bind(self, value: Any, kind: str) -> str:
        """Take a value; return what stands for it in the text."""
        self.values.append(value)
        return f"${len(self.values)}::{kind}"


async def read_progress(connection: Connection, subject: Subject) -> Progress:
    """Return how far the rollups of the subject go, as this transaction sees them."""
    source = "entries" if subject is Subject.FEATURE else "events"
    rows = await connection.exec_driver_sql(
        "SELECT next_xid, CASE WHEN next_recorded_time = '-infinity' THEN timestamptz '1970-01-01 00:00:00+00'"
        " ELSE next_recorded_time END, pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
        " FROM usage_rollup_progress WHERE source = $1",
        (source,),
    )
    return Progress(*tuple[Any, ...](rows.one()))


async def read_extent(
    connection: Connection, question: Question, progress: Progress
) -> tuple[datetime, datetime] | None:
    """Return days between which all usage of the subject lies; None where it has none."""
    statement = _Statement()
    tenant_id = statement.bind(question.tenant_id, "text")
    series = (
        f"s.tenant_id = {tenant_id} AND s.subject = {statement.bind(question.subject.value, 'text')}"
        f" AND s.subject_key = {statement.bind(question.subject_key, 'text')} AND s.account_id = ''"
    )
    raw = " UNION ALL ".join(
        f"SELECT event_time, event_time FROM ({part}) AS raw"  # noqa: S608 - every value is bound.
        for part in _raw_parts(question, progress, (), statement)
    )
    found = await connection.exec_driver_sql(
        f"""
        SELECT date_bin('1 day', min(low), {_EPOCH}), date_bin('1 day', max(high), {_EPOCH}) + interval '1 day'
        FROM (
            SELECT ends.low, ends.high
            FROM usage_series AS s
            CROSS JOIN LATERAL (
                SELECT min(r.start_time), max(r.start_time) FROM usage_rollups AS r
                WHERE r.tenant_id = {tenant_id} AND r.series_id = s.series_id AND r.minutes = 1440
            ) AS ends(low, high)
            WHERE {series}
            UNION ALL {raw}
        ) AS t(low, high)
        """,  # noqa: S608 - every value is bound.
        tuple(statement.values),
    )
    low, high = tuple[Any, ...](found.one())
    return None if low is None else (low, high)


async def read_sums(
    connection: Connection, question: Question, progress: Progress, *, after: Position | None, limit: int
) -> Sums:
    """Return the rows after a position, at most so many, by window and group, the rest last in its window."""
    # The transactions' index alone finds all raw rows. A table without statistics tempts the planner to combine it with
    # that of the tenant, which reads the whole ledger.
    await connection.exec_driver_sql("SET LOCAL enable_bitmapscan = off")
    await connection.exec_driver_sql(f"SET LOCAL work_mem = '{_WORK_MEM}'")
    fragments = [await _fragment(connection, question, run) for run in question.runs if run.bucket is Bucket.RAW]
    statement = _Statement()
    parts = _value_parts if question.aggregation is MeterAggregation.UNIQUE else _parts
    text = f"""
WITH series AS MATERIALIZED ({_series(question, statement)}),
part AS MATERIALIZED ({parts(question, progress, fragments, statement)}),
answer AS MATERIALIZED ({_answer(question, statement)})
SELECT total.row_count, total.event_count, total.quantity, page.*
FROM (
    SELECT count(*) AS row_count, COALESCE(sum(event_count), 0) AS event_count, COALESCE(sum(quantity), 0) AS quantity
    FROM answer
) AS total
LEFT JOIN LATERAL (
    SELECT * FROM answer
    WHERE {_after(after, statement)}
    ORDER BY window_start, rest, groups
    LIMIT {statement.bind(limit, "bigint")}
) AS page ON true
ORDER BY page.window_start, page.rest, page.groups
"""  # noqa: S608 - every value is bound.
    result = await connection.exec_driver_sql(text, tuple(statement.values))
    found = [tuple[Any, ...](row) for row in result.all()]
    row_count, event_count, quantity = found[0][:3]
    return Sums(
        rows=[
            SumRow(
                window_start=row[3],
                rest=row[4],
                group=tuple(row[5]),
                event_count=_whole(row[6]),
                quantity=_whole(row[7]),
            )
            for row in found
            if row[3] is not None
        ],
        row_count=row_count,
        event_count=_whole(event_count),
        quantity=_whole(quantity),
    )


def _whole(number: Decimal | int) -> int:
    return int(number)


def _after(after: Position | None, statement: _Statement) -> str:
    if after is None:
        return "true"
    start = statement.bind(after.window_start, "timestamptz")
    if after.digest is None:
        rest, group = statement.bind(after.rest, "boolean"), statement.bind(list(after.group), "text[]")
        return f"(window_start, rest, groups) > ({start}, {rest}, {group})"
    digest = f"sha256(convert_to(array_to_string(groups, {statement.bind(_SEPARATOR, 'text')}), 'UTF8'))"
    return (
        "(window_start, rest, groups) > (SELECT window_start, rest, groups FROM answer"  # noqa: S608 - as above.
        f" WHERE window_start = {start} AND NOT rest AND {digest} = {statement.bind(after.digest, 'bytea')})"
    )


def _answer(question: Question, statement: _Statement) -> str:
    """Return the rows: one for each window and group, or for each of the groups with the most usage and the rest."""
    measure = _MEASURE[question.aggregation]
    numbers = f"sum(event_count) AS event_count, COALESCE({measure}, 0) AS quantity"
    if not question.top_count:
        return f"SELECT window_start, false AS rest, groups, {numbers} FROM part GROUP BY window_start, groups"  # noqa: S608
    rank = _AVERAGED if question.aggregation is MeterAggregation.AVERAGE else measure
    return f"""
    SELECT part.window_start, top.groups IS NULL AS rest,
        COALESCE(top.groups, '{{}}'::text[]) COLLATE "C" AS groups, {numbers}
    FROM part
    LEFT JOIN (
        SELECT groups FROM part GROUP BY groups ORDER BY {rank} DESC NULLS LAST, groups
        LIMIT {statement.bind(question.top_count, "bigint")}
    ) AS top USING (groups)
    GROUP BY part.window_start, top.groups"""  # noqa: S608 - as above.


def _series(question: Question, statement: _Statement) -> str:
    """Return the series that are asked for: those of single accounts, or those of all accounts together."""
    conditions = [
        f"s.tenant_id = {statement.bind(question.tenant_id, 'text')}",
        f"s.subject = {statement.bind(question.subject.value, 'text')}",
        f"s.subject_key = {statement.bind(question.subject_key, 'text')}",
    ]
    if question.account_ids is not None:
        conditions.append(f"s.account_id = ANY ({statement.bind(list(question.account_ids), 'text[]')})")
    else:
        conditions.append("s.account_id <> ''" if question.by_account else "s.account_id = ''")
    conditions += _filters(question, "s.dimensions", statement)
    groups = _groups(question, "s.account_id", "s.dimensions", statement)
    return f"SELECT s.series_id, {groups} AS groups FROM usage_series AS s WHERE {' AND '.join(conditions)}"  # noqa: S608


def _parts(question: Question, progress: Progress, fragments: Sequence[Fragment], statement: _Statement) -> str:
    """Return numbers by window and group, several of them for one row: from rollups and from raw rows."""
    columns = [f"{_PARTS[question.aggregation].get(name, f'NULL::{kind}')} AS {name}" for name, kind in _NUMBERS]
    inner = ", ".join(["sum(r.event_count)::bigint AS event_count", *columns])
    names = ", ".join(["event_count", *(name for name, _ in _NUMBERS)])
    return _from_rollups(question, statement, "usage_rollups", inner, names) + "".join(
        f"""
    UNION ALL
    SELECT {_window(question, "event_time", statement)}, groups, 1, quantity, quantity, quantity, event_time, key,
        quantity
    FROM ({part}) AS raw"""  # noqa: S608 - as above.
        for part in _raw_parts(question, progress, fragments, statement)
    )


def _value_parts(question: Question, progress: Progress, fragments: Sequence[Fragment], statement: _Statement) -> str:
    """Return numbers of events and different values by window and group, the latter without a number."""
    counts = _from_rollups(
        question,
        statement,
        "usage_rollups",
        "sum(r.event_count)::bigint AS event_count",
        "event_count, NULL::text AS value",
    )
    values = _from_rollups(question, statement, "usage_rollup_values", "r.value", "0, value", also_by="r.value")
    raw = [
        f"SELECT {_window(question, 'event_time', statement)}, groups, 1, value FROM ({part}) AS raw"  # noqa: S608
        for part in _raw_parts(question, progress, fragments, statement)
    ]
    return " UNION ALL ".join([counts, values, *raw])


_NUMBERS: Final = (
    ("quantity", "numeric"),
    ("min_quantity", "bigint"),
    ("max_quantity", "bigint"),
    ("latest_time", "timestamptz"),
    ("latest_key", "bigint"),
    ("latest_quantity", "bigint"),
)
_PARTS: Final[dict[MeterAggregation, dict[str, str]]] = {
    MeterAggregation.SUM: {"quantity": "sum(r.quantity)"},
    MeterAggregation.COUNT: {},
    MeterAggregation.MAX: {"max_quantity": "max(r.max_quantity)"},
    MeterAggregation.MIN: {"min_quantity": "min(r.min_quantity)"},
    MeterAggregation.AVERAGE: {"quantity": "sum(r.quantity)"},
    MeterAggregation.LATEST: {
        "latest_time": "max(r.latest_time)",
        "latest_key": "(array_agg(r.latest_key ORDER BY r.latest_time DESC, r.latest_key DESC))[1]",
        "latest_quantity": "(array_agg(r.latest_quantity ORDER BY r.latest_time DESC, r.latest_key DESC))[1]",
    },
}
"""What is needed of the buckets of one series and window; nothing else is put together."""


def _from_rollups(
    question: Question, statement: _Statement, table: str, inner: str, outer: str, *, also_by: str = ""
) -> str:
    """Return what a table of buckets has of the series in the runs.

    Each series and run is looked up by itself, so that only what is asked for is read, whatever the planner knows; and
    put together by window at once, so that what goes on is small.
    """
    runs = [run for run in question.runs if run.bucket is not Bucket.RAW]
    tenant_id = statement.bind(question.tenant_id, "text")
    minutes = statement.bind([run.bucket.value for run in runs], "smallint[]")
    starts = statement.bind([run.start for run in runs], "timestamptz[]")
    ends = statement.bind([run.end for run in runs], "timestamptz[]")
    if question.by_minute:
        place, start = "r.start_time", "b.place"
    else:
        bounds = statement.bind(list(question.bounds), "timestamptz[]")
        place, start = f"width_bucket(r.start_time, {bounds})", f"({bounds})[b.place]"
    return f"""
    SELECT {start} AS window_start, series.groups, {outer}
    FROM series
    CROSS JOIN unnest({minutes}, {starts}, {ends}) AS run(minutes, start_time, end_time)
    CROSS JOIN LATERAL (
        SELECT {place} AS place, {inner}
        FROM {table} AS r
        WHERE r.tenant_id = {tenant_id} AND r.series_id = series.series_id AND r.minutes = run.minutes
            AND r.start_time >= run.start_time AND r.start_time < run.end_time
        GROUP BY {", ".join(filter(None, (place, also_by)))}
        OFFSET 0
    ) AS b"""  # noqa: S608 - as above.


async def _fragment(connection: Connection, question: Question, run: Run) -> Fragment:
    """Look up which transactions wrote what the minute of the run has of the subject."""
    found = await connection.exec_driver_sql(
        """
        SELECT lower(x), upper(x)
        FROM (
            SELECT unnest(range_agg(b.xids)) AS x
            FROM usage_series AS s
            CROSS JOIN LATERAL (
                SELECT r.xids FROM usage_rollups AS r
                WHERE r.tenant_id = s.tenant_id AND r.series_id = s.series_id AND r.minutes = 1
                    AND r.start_time = date_bin('1 minute', $4::timestamptz, timestamptz '1970-01-01 00:00:00+00')
                OFFSET 0
            ) AS b
            WHERE s.tenant_id = $1::text AND s.subject = $2::text AND s.subject_key = $3::text AND s.account_id = ''
        ) AS t
        """,
        (question.tenant_id, question.subject.value, question.subject_key, run.start),
    )
    return Fragment(run.start, run.end, [(low, high) for low, high in map(tuple[Any, ...], found.all())])


def _raw_parts(
    question: Question, progress: Progress, fragments: Sequence[Fragment], statement: _Statement
) -> list[str]:
    """Return the raw rows that no bucket of the runs has, as queries of one shape."""
    next_xid = statement.bind(progress.next_xid, "bigint")
    end_xid = statement.bind(progress.end_xid, "bigint")
    within = _within(question.bounds[0], question.bounds[-1], statement)
    parts = [_raw(question, statement, f"e.commit_xid >= {next_xid} AND e.commit_xid < {end_xid} AND {within}")]
    if progress.next_recorded_time is not None and question.subject is Subject.FEATURE:
        # Lines of the first releases do not say which transaction wrote them.
        recorded = statement.bind(progress.next_recorded_time, "timestamptz")
        parts.append(_raw(question, statement, f"e.commit_xid IS NULL AND e.recorded_time >= {recorded} AND {within}"))
    for fragment in fragments:
        # A parameter that nothing uses has no type: these are bound where they are needed.
        known = [(low, high) for low, high in fragment.xids if high > 0]
        if known:
            lows = statement.bind([low for low, _ in known], "bigint[]")
            highs = statement.bind([high for _, high in known], "bigint[]")
            within = _within(fragment.start, fragment.end, statement)
            inner = _raw(question, statement, f"e.commit_xid >= x.low AND e.commit_xid < x.high AND {within}")
            parts.append(
                f"SELECT r.* FROM unnest({lows}, {highs}) AS x(low, high)"  # noqa: S608 - as above.
                f" CROSS JOIN LATERAL ({inner} OFFSET 0) AS r"
            )
        if any(low < 0 for low, _ in fragment.xids):
            within = _within(fragment.start, fragment.end, statement)
            recorded = "true"
            if progress.next_recorded_time is not None:
                recorded = f"e.recorded_time < {statement.bind(progress.next_recorded_time, 'timestamptz')}"
            parts.append(_raw(question, statement, f"e.commit_xid IS NULL AND {recorded} AND {within}"))
    return parts


def _within(start: datetime, end: datetime, statement: _Statement) -> str:
    first, beyond = statement.bind(start, "timestamptz"), statement.bind(end, "timestamptz")
    return f"e.event_time >= {first} AND e.event_time < {beyond}"


def _raw(question: Question, statement: _Statement, condition: str) -> str:
    """Return raw rows of the subject with a condition on `e`: event_time, groups, key, quantity, value."""
    conditions = [f"e.tenant_id = {statement.bind(question.tenant_id, 'text')}", condition]
    if question.account_ids is not None:
        conditions.append(f"e.account_id = ANY ({statement.bind(list(question.account_ids), 'text[]')})")
    subject_key = statement.bind(question.subject_key, "text")
    match question.subject:
        case Subject.FEATURE:
            origin, dimensions = "usage_entries AS e", "e.dimensions"
            columns = "e.entry_id AS key, e.quantity, NULL::text AS value"
            conditions.append(f"e.feature_key = {subject_key}")
        case Subject.METER:
            origin = (
                "usage_events AS e CROSS JOIN LATERAL"
                " jsonb_to_recordset(e.readings) AS m(meter text, value jsonb, dimensions jsonb)"
            )
            dimensions = "m.dimensions"
            columns = (
                "e.event_key AS key,"
                " CASE WHEN jsonb_typeof(m.value) = 'number' THEN m.value::bigint ELSE 0 END AS quantity,"
                " CASE WHEN jsonb_typeof(m.value) = 'string' THEN m.value #>> '{}' END AS value"
            )
            conditions.append(f"m.meter = {subject_key}")
        case _:
            origin = (
                "usage_events AS e CROSS JOIN LATERAL (SELECT jsonb_build_object("
                "'currency_code', e.cost_currency_code, 'model', COALESCE(e.ai ->> 'model_key', ''),"
                " 'operation', COALESCE(e.ai ->> 'operation', ''))) AS m(dimensions)"
            )
            dimensions = "m.dimensions"
            columns = "e.event_key AS key, e.cost_nanos AS quantity, NULL::text AS value"
            # The key is empty; its type has to be known all the same.
            conditions.append(f"e.cost_currency_code <> {subject_key}")
    conditions += _filters(question, dimensions, statement)
    groups = _groups(question, "e.account_id", dimensions, statement)
    return f"SELECT e.event_time, {groups} AS groups, {columns} FROM {origin} WHERE {' AND '.join(conditions)}"  # noqa: S608


def _filters(question: Question, dimensions: str, statement: _Statement) -> list[str]:
    return [
        f"COALESCE({dimensions} ->> {statement.bind(name, 'text')}, '') = ANY ({statement.bind(list(kept), 'text[]')})"
        for name, kept in question.filters
    ]


def _groups(question: Question, account_id: str, dimensions: str, statement: _Statement) -> str:
    values = [
        account_id if name == ACCOUNT_DIMENSION else f"COALESCE({dimensions} ->> {statement.bind(name, 'text')}, '')"
        for name in question.group_by
    ]
    return f'ARRAY[{", ".join(values)}]::text[] COLLATE "C"'


def _window(question: Question, instant: str, statement: _Statement) -> str:
    if question.by_minute:
        return f"date_bin('1 minute', {instant}, {_EPOCH})"
    bounds = statement.bind(list(question.bounds), "timestamptz[]")
    return f"({bounds})[width_bucket({instant}, {bounds})]"
