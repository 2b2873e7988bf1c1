"""Usage by window and group, served from rollups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from tallygate_server.clock import Clock
from tallygate_server.domain.catalog import Meter, MeterAggregation
from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.limits import EVENT_AHEAD_SECONDS_MAX, QUERY_ROWS_MAX, QUERY_WINDOWS_MAX
from tallygate_server.domain.meters import decimal_text
from tallygate_server.domain.rounding import divide_half_even
from tallygate_server.domain.usage_windows import (
    MINUTE,
    Bucket,
    Run,
    WindowSize,
    aligned,
    boundaries,
    cover,
    window_at,
)
from tallygate_server.errors import (
    FeatureNotFound,
    FeatureNotMetered,
    FieldViolation,
    InvalidRequest,
    MeterNotFound,
    PageTokenInvalid,
    QueryTooLarge,
    StoreUnavailable,
)
from tallygate_server.storage import catalogs
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.engine import Database
from tallygate_server.storage.usage_export import last_exported_time
from tallygate_server.storage.usage_sums import (
    ACCOUNT_DIMENSION,
    Position,
    Question,
    Subject,
    Sums,
    read_extent,
    read_progress,
    read_sums,
)
from tallygate_server.tenants import TenantDirectory
from tallygate_server.time_zones import time_zones

_QUANTITY_MAX: Final = 2**63 - 1
_HOUR: Final = timedelta(hours=1)
_AHEAD_MAX: Final = timedelta(seconds=EVENT_AHEAD_SECONDS_MAX)
"""Usage may have happened so much later than it was recorded."""
_UNADDED: Final = (MeterAggregation.UNIQUE, MeterAggregation.LATEST)
"""Their numbers do not add up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """What usage is wanted, and which page of it."""

    tenant_id: TenantId
    subject: Subject
    subject_key: str
    """Of the meter or the feature; empty for the cost of AI usage."""
    start: datetime
    end: datetime | None = None
    """None: now."""
    window_size: WindowSize | None = None
    """None: one window over the whole range."""
    time_zone: str = ""
    """Empty: UTC."""
    account_ids: Sequence[str] = ()
    """Empty: all."""
    group_by: Sequence[str] = ()
    filters: Sequence[tuple[str, Sequence[str]]] = ()
    top_count: int = 0
    after: Position | None = None
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueriedRow:
    """Usage of one group in one window."""

    window_start: datetime
    window_end: datetime
    group: dict[str, str]
    quantity: int
    decimal_quantity: str
    """In the property's own unit; empty without a scale."""
    event_count: int
    rest: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageAnswer:
    """A page of rows."""

    rows: Sequence[QueriedRow]
    total_quantity: int
    fresh_time: datetime
    """Everything that was committed before it is in the rows."""
    next: Position | None
    """Where the next page begins; None on the last one."""


@dataclass(frozen=True, slots=True)
class _Measure:
    """How numbers of the subject are put together and shown."""

    aggregation: MeterAggregation
    scale: int = 0

    def quantity(self, value: int, event_count: int) -> int:
        """Return the number of a row; a mean is rounded half to even."""
        if self.aggregation is MeterAggregation.AVERAGE:
            value = divide_half_even(value, event_count) if event_count else 0
        return max(-_QUANTITY_MAX - 1, min(value, _QUANTITY_MAX))


class UsageSums:
    """Answers queries; reads only."""

    def __init__(self, database: Database, *, tenants: TenantDirectory, clock: Clock) -> None:
        """Wire the queries."""
        self._database = database
        self._tenants = tenants
        self._clock = clock

    async def query(self, wanted: UsageQuery) -> UsageAnswer:
        """Return usage by window and group, in one snapshot of rollups and raw rows.

        Raises TenantNotFound, FeatureNotFound, FeatureNotMetered, MeterNotFound, InvalidRequest, QueryTooLarge,
        StoreUnavailable.
        """
        await self._tenants.get(wanted.tenant_id)
        zone = _zone(wanted.time_zone)
        now = self._clock.now()
        async with self._database.tenant_snapshot(wanted.tenant_id) as connection:
            measure = await self._measure(connection, wanted)
            sums = await self._sums(connection, wanted, measure, zone, now)
        rows = sums.rows[: wanted.limit]
        if sums.row_count > QUERY_ROWS_MAX:
            raise QueryTooLarge(rows=sums.row_count, rows_max=QUERY_ROWS_MAX)
        if not rows and sums.row_count and wanted.after is not None and wanted.after.digest is not None:
            # The row at which the page before ended has moved into the rest.
            raise PageTokenInvalid(
                [FieldViolation("page_token", "leads to a row that is gone; begin again without one")]
            )
        last = rows[-1] if len(sums.rows) > wanted.limit else None
        total = 0 if measure.aggregation in _UNADDED else measure.quantity(sums.quantity, sums.event_count)
        whole_end = now if wanted.end is None else wanted.end
        return UsageAnswer(
            rows=[
                _row(
                    wanted,
                    measure,
                    start=row.window_start,
                    end=_window_end(wanted.window_size, row.window_start, whole_end, zone),
                    group=None if row.rest else dict(zip(wanted.group_by, row.group, strict=True)),
                    value=row.quantity,
                    event_count=row.event_count,
                )
                for row in rows
            ],
            total_quantity=total,
            fresh_time=now,
            next=Position(last.window_start, last.rest, last.group) if last is not None else None,
        )

    async def _measure(self, connection: Connection, wanted: UsageQuery) -> _Measure:
        """Return how the subject is put together; what a catalog no longer has can still be asked for."""
        tenant = await self._tenants.get(wanted.tenant_id)
        match wanted.subject:
            case Subject.AI_COST:
                return _Measure(MeterAggregation.SUM)
            case Subject.METER:
                meter = tenant.meters.get(wanted.subject_key) or await _stored_meter(connection, wanted)
                return _Measure(meter.aggregation, meter.scale)
            case Subject.FEATURE:
                known = tenant.retired_features | tenant.features
                feature = next((each for key, each in known.items() if key == wanted.subject_key), None)
                if feature is None:
                    raise FeatureNotFound(wanted.subject_key)
                if not feature.kind.metered:
                    raise FeatureNotMetered(feature.key, feature.kind.value)
                return _Measure(MeterAggregation.SUM)

    async def _sums(
        self, connection: Connection, wanted: UsageQuery, measure: _Measure, zone: ZoneInfo, now: datetime
    ) -> Sums:
        end = now if wanted.end is None else wanted.end
        if wanted.start >= end:
            return _NOTHING
        accounts, filters = _accounts(wanted)
        size = wanted.window_size
        start, end = aligned(size, wanted.start, end, zone)
        question = Question(
            tenant_id=wanted.tenant_id,
            subject=wanted.subject,
            subject_key=wanted.subject_key,
            aggregation=measure.aggregation,
            bounds=(start, end),
            by_minute=size is WindowSize.MINUTE,
            runs=(),
            account_ids=accounts,
            group_by=wanted.group_by,
            filters=filters,
            top_count=wanted.top_count if wanted.group_by else 0,
        )
        progress = await read_progress(connection, wanted.subject)
        if progress.next_xid > progress.end_xid:
            # A dump of another cluster: what is written here has smaller numbers, and would be in neither part.
            raise StoreUnavailable("rollups are those of another Postgres cluster; docs/queries.md says what to do")
        if size is WindowSize.HOUR and end - start > QUERY_ROWS_MAX * _HOUR:
            # So many hours cannot all have usage: those before the first and after the last are not laid out.
            extent = await read_extent(connection, question, progress)
            if extent is None:
                return _NOTHING
            low, high = max(start, extent[0]), min(end, extent[1])
            if low >= high:
                return _NOTHING
            start, end = aligned(size, low, high, zone)
            if (end - start) // _HOUR > QUERY_WINDOWS_MAX:
                raise QueryTooLarge(rows=(end - start) // _HOUR, rows_max=QUERY_ROWS_MAX)
        bounds = boundaries(size, start, end, zone)
        runs = cover(bounds, Bucket.MINUTE if size is WindowSize.MINUTE else Bucket.DAY)
        await _demand_raw_rows(connection, question, runs)
        return await read_sums(
            connection,
            replace(question, bounds=bounds, runs=runs),
            progress,
            after=wanted.after,
            limit=wanted.limit + 1,
        )


async def _demand_raw_rows(connection: Connection, question: Question, runs: Sequence[Run]) -> None:
    """Raise InvalidRequest where a range cuts a minute of which no raw rows are left."""
    cut = [run.start for run in runs if run.bucket is Bucket.RAW]
    if not cut:
        return
    data_type = "usage_entry" if question.subject is Subject.FEATURE else "usage_event"
    exported = await last_exported_time(connection, question.tenant_id, data_type)
    if exported is not None and min(cut) <= exported + _AHEAD_MAX:
        raise InvalidRequest.of(
            "start_time",
            f"of usage until {exported.isoformat()}, which was moved to the archive, sums are kept by the minute:"
            " begin and end on a whole one",
        )


_NOTHING: Final = Sums(rows=(), row_count=0, event_count=0, quantity=0)


def _zone(name: str) -> ZoneInfo:
    if name and name not in time_zones():
        raise InvalidRequest.of("time_zone", f"{name!r} is no IANA time zone such as Europe/Berlin")
    return ZoneInfo(name or "UTC")


async def _stored_meter(connection: Connection, wanted: UsageQuery) -> Meter:
    for row in await catalogs.read_meters(connection, wanted.tenant_id):
        if row.meter.key == wanted.subject_key:
            return row.meter
    raise MeterNotFound(wanted.subject_key)


def _accounts(wanted: UsageQuery) -> tuple[Sequence[str] | None, Sequence[tuple[str, Sequence[str]]]]:
    """Return the accounts that are asked for (None: all), and the filters of dimensions.

    A filter on `account_id` is one on accounts.
    """
    kept: set[str] | None = set(wanted.account_ids) if wanted.account_ids else None
    filters = []
    for dimension, values in wanted.filters:
        if dimension != ACCOUNT_DIMENSION:
            filters.append((dimension, values))
        else:
            kept = set(values) if kept is None else kept & set(values)
    return None if kept is None else sorted(kept), filters


def _window_end(size: WindowSize | None, start: datetime, whole_end: datetime, zone: ZoneInfo) -> datetime:
    if size is None:
        return whole_end.astimezone(UTC)
    return start + MINUTE if size is WindowSize.MINUTE else window_at(size, start, zone)[1]


def _row(
    wanted: UsageQuery,
    measure: _Measure,
    *,
    start: datetime,
    end: datetime,
    group: dict[str, str] | None,
    value: int,
    event_count: int,
) -> QueriedRow:
    quantity = measure.quantity(value, event_count)
    return QueriedRow(
        window_start=start,
        window_end=end,
        group=group or {},
        quantity=quantity,
        decimal_quantity=decimal_text(quantity, measure.scale) if measure.scale else "",
        event_count=event_count,
        rest=group is None and wanted.top_count > 0,
    )
