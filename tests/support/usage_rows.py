"""Rows of the ledger and recorded events, written as the meter role writes them, and a naive recount of them."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, Final
from zoneinfo import ZoneInfo

import asyncpg

from tallygate_server.catalog import Catalogs, CatalogSource
from tallygate_server.clock import SystemClock
from tallygate_server.domain.catalog import MeterAggregation
from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.limits import PAGE_SIZE_MAX
from tallygate_server.domain.usage_windows import WindowSize
from tallygate_server.rollups import QueriedRow, UsageQuery, UsageSums
from tallygate_server.storage.engine import Database
from tallygate_server.storage.usage_sums import Subject
from tallygate_server.tenants import TenantDirectory
from tests.support.clock import FrozenClock

STUDIO: Final = TenantId("studio")
AGGREGATIONS: Final = {each.value: each for each in MeterAggregation}

_CATALOG: Final = """
tenant: {tenant}
features:
  tokens: {{kind: counter}}
  words: {{kind: counter}}
  seats: {{kind: gauge}}
  export: {{kind: boolean}}
meters:
  sum: {{event_type: used, aggregation: sum, value_property: n, group_by: {{model: model, region: region}}}}
  count: {{event_type: used, aggregation: count, group_by: {{model: model, region: region}}}}
  max: {{event_type: used, aggregation: max, value_property: n, group_by: {{model: model, region: region}}}}
  min: {{event_type: used, aggregation: min, value_property: n, group_by: {{model: model, region: region}}}}
  average:
    event_type: used
    aggregation: average
    value_property: n
    scale: 2
    group_by: {{model: model, region: region}}
  unique: {{event_type: used, aggregation: unique, value_property: user, group_by: {{model: model, region: region}}}}
  latest: {{event_type: used, aggregation: latest, value_property: n, group_by: {{model: model, region: region}}}}
"""

_keys = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """One line of the ledger, or one reading, or the cost of one event."""

    subject: Subject
    subject_key: str
    account_id: str
    event_time: datetime
    quantity: int = 1
    value: str | None = None
    dimensions: dict[str, str] = field(default_factory=dict)
    key: int = field(default_factory=lambda: next(_keys))
    recorded_time: datetime = datetime(2026, 3, 15, 12, tzinfo=UTC)
    tenant_id: str = STUDIO


async def apply_catalog(database_url: str, tenant_id: str = STUDIO, more: str = "") -> None:
    """Make the tenant, its features and a meter of every sort known, and what else the text says."""
    database = Database(database_url, pool_size=1)
    try:
        catalogs = Catalogs(database, TenantDirectory(database, SystemClock()), clock=SystemClock())
        await catalogs.apply(CatalogSource(_CATALOG.format(tenant=tenant_id) + more))
    finally:
        await database.close()


@asynccontextmanager
async def usage_sums(database_url: str, clock: FrozenClock | None = None) -> AsyncIterator[UsageSums]:
    """Give the queries over the database."""
    database = Database(database_url, pool_size=2)
    clock = clock or FrozenClock()
    tenants = TenantDirectory(database, clock)
    try:
        yield UsageSums(database, tenants=tenants, clock=clock)
    finally:
        await tenants.close()
        await database.close()


async def write_rows(connection: asyncpg.Connection, rows: Iterable[UsageRow]) -> None:
    """Write the rows: those of features as lines of the ledger, all others as one event each."""
    entries, events = [], []
    for row in rows:
        if row.subject is Subject.FEATURE:
            entries.append(
                (
                    row.tenant_id, row.account_id, row.key, row.recorded_time, row.subject_key, row.event_time,
                    row.quantity, json.dumps(row.dimensions) if row.dimensions else None,
                )
            )  # fmt: skip
            continue
        readings: list[dict[str, Any]] = []
        ai, currency = None, ""
        if row.subject is Subject.METER:
            value = row.value if row.value is not None else row.quantity
            readings = [{"meter": row.subject_key, "value": value, "dimensions": row.dimensions}]
        else:
            currency = row.dimensions["currency_code"]
            ai = json.dumps({"model_key": row.dimensions["model"], "operation": row.dimensions["operation"]})
        events.append(
            (
                row.tenant_id, row.account_id, row.key, row.recorded_time, "s", f"e{row.key}", "used", row.event_time,
                ai, json.dumps(readings), row.quantity if currency else 0, currency,
            )
        )  # fmt: skip
    await connection.executemany(
        "INSERT INTO usage_entries (tenant_id, account_id, entry_id, recorded_time, feature_key, period_kind,"
        " period_start, quantity, used_after, limit_quantity, event_time, dimensions)"
        " VALUES ($1, $2, $3, $4, $5, 'm', '2026-01-01Z', $7, 0, -1, $6, $8::jsonb)",
        entries,
    )
    await connection.executemany(
        "INSERT INTO usage_events (tenant_id, account_id, event_key, recorded_time, source, event_id, type, event_time,"
        " ai, readings, cost_nanos, cost_currency_code)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, $10::jsonb, $11, $12)",
        events,
    )


async def all_pages(sums: UsageSums, query: UsageQuery) -> tuple[list[QueriedRow], int]:
    """Return the rows of every page, and the total, which every page must state."""
    rows: list[QueriedRow] = []
    totals = set()
    while True:
        answer = await sums.query(query)
        rows += answer.rows
        totals.add(answer.total_quantity)
        assert len(answer.rows) <= query.limit
        if answer.next is None:
            break
        assert len(answer.rows) == query.limit
        query = replace(query, after=answer.next)
    assert len(totals) == 1
    return rows, totals.pop()


def recount(rows: Iterable[UsageRow], query: UsageQuery) -> tuple[list[tuple[Any, ...]], int]:
    """Answer the query from raw rows alone, in the plainest way; `(start, end, rest, group, quantity, count)` each."""
    assert query.end is not None
    zone = ZoneInfo(query.time_zone or "UTC")
    start, _ = _window(query, query.start, zone)
    last, last_end = _window(query, query.end, zone)
    end = query.end if last == query.end or query.window_size is None else last_end
    chosen: list[tuple[datetime, datetime, tuple[str, ...], UsageRow]] = []
    for row in rows:
        if (row.tenant_id, row.subject, row.subject_key) != (query.tenant_id, query.subject, query.subject_key):
            continue
        if not start <= row.event_time < end or (query.account_ids and row.account_id not in query.account_ids):
            continue
        named = row.dimensions | {"account_id": row.account_id}
        if any(named.get(dimension, "") not in values for dimension, values in query.filters):
            continue
        group = tuple(named.get(name, "") for name in query.group_by)
        chosen.append((*_window(query, row.event_time, zone), group, row))
    aggregation = AGGREGATIONS[query.subject_key] if query.subject is Subject.METER else MeterAggregation.SUM
    by_group: defaultdict[tuple[str, ...], list[UsageRow]] = defaultdict(list)
    for _, _, group, row in chosen:
        by_group[group].append(row)
    top = set(by_group)
    if query.top_count and query.group_by:
        ranked = sorted(by_group, key=lambda group: (-_exact(aggregation, by_group[group]), group))
        top = set(ranked[: query.top_count])
    found: defaultdict[tuple[Any, ...], list[UsageRow]] = defaultdict(list)
    for window_start, window_end, group, row in chosen:
        rest = group not in top
        found[window_start, window_end, rest, () if rest else group].append(row)
    answer = [
        (
            window_start,
            window_end,
            rest,
            {} if rest else dict(zip(query.group_by, group, strict=True)),
            round(_exact(aggregation, members)),
            len(members),
        )
        for (window_start, window_end, rest, group), members in sorted(
            found.items(), key=lambda item: (item[0][0], item[0][2], item[0][3])
        )
    ]
    total = sum(row[4] for row in answer)
    if aggregation is MeterAggregation.AVERAGE:
        everything = [row for members in found.values() for row in members]
        total = round(_exact(aggregation, everything)) if everything else 0
    elif aggregation in (MeterAggregation.UNIQUE, MeterAggregation.LATEST):
        total = 0
    return answer, total


def _exact(aggregation: MeterAggregation, rows: Sequence[UsageRow]) -> Fraction:
    quantities = [row.quantity for row in rows]
    match aggregation:
        case MeterAggregation.SUM:
            return Fraction(sum(quantities))
        case MeterAggregation.COUNT:
            return Fraction(len(rows))
        case MeterAggregation.MAX:
            return Fraction(max(quantities))
        case MeterAggregation.MIN:
            return Fraction(min(quantities))
        case MeterAggregation.AVERAGE:
            return Fraction(sum(quantities), len(rows))
        case MeterAggregation.UNIQUE:
            return Fraction(len({row.value for row in rows}))
        case _:
            return Fraction(max(rows, key=lambda row: (row.event_time, row.key)).quantity)


def _window(query: UsageQuery, at: datetime, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """Return the window of an instant, by the wall clock; not for days on which a clock is set back over midnight."""
    if query.window_size is None:
        assert query.end is not None
        return query.start, query.end
    wall = at.astimezone(zone)
    day = wall.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)

    def utc(midnight: datetime) -> datetime:
        return midnight.replace(tzinfo=zone).astimezone(UTC)

    match query.window_size:
        case WindowSize.MINUTE:
            begin = at.replace(second=0, microsecond=0)
            return begin, begin + timedelta(minutes=1)
        case WindowSize.HOUR:
            begin = at - timedelta(minutes=wall.minute, seconds=wall.second, microseconds=wall.microsecond)
            return begin, begin + timedelta(hours=1)
        case WindowSize.DAY:
            return utc(day), utc(day + timedelta(days=1))
        case WindowSize.WEEK:
            monday = day - timedelta(days=day.weekday())
            return utc(monday), utc(monday + timedelta(weeks=1))
        case WindowSize.MONTH:
            first = day.replace(day=1)
            return utc(first), utc((first + timedelta(days=32)).replace(day=1))


def a_query(**changes: Any) -> UsageQuery:
    """Build a query of all that the ledger has of tokens in March 2026."""
    wanted: dict[str, Any] = {
        "tenant_id": STUDIO,
        "subject": Subject.FEATURE,
        "subject_key": "tokens",
        "start": datetime(2026, 3, 1, tzinfo=UTC),
        "end": datetime(2026, 4, 1, tzinfo=UTC),
        "limit": PAGE_SIZE_MAX,
    }
    return UsageQuery(**(wanted | changes))


def as_tuples(rows: Iterable[QueriedRow]) -> list[tuple[Any, ...]]:
    """Return rows in the shape of a recount."""
    return [(row.window_start, row.window_end, row.rest, row.group, row.quantity, row.event_count) for row in rows]


async def assert_equal(sums: UsageSums, rows: Sequence[UsageRow], query: UsageQuery) -> int:
    """Compare the answer with a recount; return how many rows it has."""
    expected, expected_total = recount(rows, query)
    found, total = await all_pages(sums, query)

    assert as_tuples(found) == expected, query
    assert total == expected_total, query
    return len(found)
