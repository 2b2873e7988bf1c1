"""SQL of how much is stored: sums over the manifest, day by day, and what could be smaller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from sqlalchemy import (
    Boolean,
    ColumnElement,
    DateTime,
    Double,
    Row,
    String,
    and_,
    column,
    delete,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
    true,
    tuple_,
    values,
)
from sqlalchemy.dialects.postgresql import insert

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import CompressionForm, DataSelection, Segment, SegmentState, StorageTier
from tallygate_server.domain.storage_trend import StoragePoint
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.data_segments import OBJECT_LIVE, chosen, segment_of
from tallygate_server.storage.tables import (
    data_segment_reads,
    data_segments,
    storage_days,
    storage_removals,
    stored_objects,
)

READ_DAYS: Final = 30
"""Days over which reads are counted."""
NEVER_DUE: Final = datetime(1, 1, 1, tzinfo=UTC)
"""Nothing ended before."""

_s = data_segments.c
_STORED: Final = (int(SegmentState.LIVE), int(SegmentState.QUARANTINED))
_LOSSY: Final = tuple(int(form) for form in CompressionForm if not form.exact)
_GROUPS: Final = {"account_id": _s.account_id, "data_type": _s.data_type, "tier": _s.tier}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredGroup:
    """How much is stored of one group."""

    account_id: AccountId | None = None
    data_type: str = ""
    tier: StorageTier | None = None
    record_count: int
    stored_bytes: int
    original_bytes: int
    quality_score: float
    access_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTotals:
    """How much is stored in all."""

    bytes_by_tier: Mapping[StorageTier, int]
    original_bytes: int
    compression_savings_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeRule:
    """What a policy says about one sort of data, as instants: data that ended before is due."""

    data_type: str
    hot_before: datetime
    warm_before: datetime
    compress_before: datetime
    delete_before: datetime
    expired_before: datetime
    quality_threshold: float
    keeps_all: bool
    """Whether a rule says that all data of this sort is important."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DueSums:
    """What is stored of one sort of data in one tier, and what of it could be smaller."""

    data_type: str
    tier: StorageTier
    worth: float
    """Records, each as much as its quality."""
    lossless_bytes: int
    lossless_original_bytes: int
    """Of columnar segments without loss."""
    lossy_bytes: int
    lossy_original_bytes: int
    """Of segments with loss."""
    late_bytes: int
    late_original_bytes: int
    """Of segments that should have left the tier."""
    shrinkable_bytes: int
    shrinkable_original_bytes: int
    shrinkable_worth: float
    """Of exact segments that the policy lets compress with loss."""
    removable_bytes: int
    removable_worth: float
    """Of segments of low value past the threshold, or past their retention."""
    quarantined_bytes: int


async def sum_groups(
    connection: Connection,
    tenant_id: TenantId,
    *,
    account_id: AccountId | None,
    data_type: str,
    group_by: Sequence[str],
    after: Sequence[Any],
    limit: int,
    today: date,
) -> list[StoredGroup]:
    """Return what is stored by group, largest first, those after a position (see `position_of`)."""
    keys = [_GROUPS[name] for name in group_by]
    sums = (
        select(
            *keys,
            func.coalesce(func.sum(_s.record_count), 0).label("record_count"),
            func.coalesce(func.sum(_s.stored_bytes), 0).label("stored_bytes"),
            func.coalesce(func.sum(_s.original_bytes), 0).label("original_bytes"),
            func.coalesce(func.sum(_s.quality_score * _s.record_count), 0.0).label("quality_sum"),
        )
        .where(*_within(tenant_id, account_id, data_type))
        .group_by(*keys)
        .subquery()
    )
    named = [sums.c[name] for name in group_by]
    statement = select(sums).order_by(sums.c.stored_bytes.desc(), *named).limit(limit)
    if after:
        stored_bytes, *rest = after
        behind = and_(sums.c.stored_bytes == stored_bytes, tuple_(*named) > tuple_(*rest)) if named else literal(False)  # noqa: FBT003
        statement = statement.where(or_(sums.c.stored_bytes < stored_bytes, behind))
    found = (await connection.execute(statement)).all()
    since = today - timedelta(days=READ_DAYS)
    reads = await _count_reads(
        connection,
        _within(tenant_id, account_id, data_type),
        group_by,
        [tuple(getattr(row, name) for name in group_by) for row in found],
        tenant_id=tenant_id,
        since=since,
    )
    return [_group(row, group_by, reads) for row in found]


async def _count_reads(
    connection: Connection,
    within: Sequence[ColumnElement[bool]],
    group_by: Sequence[str],
    groups: Sequence[tuple[Any, ...]],
    *,
    tenant_id: TenantId,
    since: date,
) -> dict[tuple[Any, ...], int]:
    """Return the reads after a day of each of the groups.

    Apart from the sums, and from the side of the reads: most segments have none.
    """
    reads = data_segment_reads.c
    keys = [_GROUPS[name] for name in group_by]
    statement = (
        select(*keys, func.coalesce(func.sum(reads.read_count), 0).label("access_count"))
        .select_from(
            data_segment_reads.join(
                data_segments, and_(_s.tenant_id == reads.tenant_id, _s.segment_id == reads.segment_id)
            )
        )
        .where(reads.tenant_id == tenant_id, reads.day > since, *within)
        .group_by(*keys)
    )
    if keys:
        statement = statement.where(tuple_(*keys).in_(groups))
    rows = await connection.execute(statement)
    return {tuple(getattr(row, name) for name in group_by): int(row.access_count) for row in rows}


def position_of(group: StoredGroup, group_by: Sequence[str]) -> list[Any]:
    """Return where the list goes on after a group, as JSON holds it."""
    return [group.stored_bytes, *(getattr(group, name) for name in group_by)]


async def sum_all(
    connection: Connection, tenant_id: TenantId, *, account_id: AccountId | None = None, data_type: str = ""
) -> StoredTotals:
    """Return what is stored in all, by tier."""
    compressed = and_(_s.state == int(SegmentState.LIVE), _s.form != int(CompressionForm.NONE))
    saved = func.greatest(_s.original_bytes - _s.stored_bytes, 0)
    statement = (
        select(
            _s.tier,
            func.sum(_s.stored_bytes).label("stored"),
            func.sum(_s.original_bytes).label("original"),
            func.coalesce(func.sum(saved).filter(compressed), 0).label("saved"),
        )
        .where(*_within(tenant_id, account_id, data_type))
        .group_by(_s.tier)
    )
    rows = (await connection.execute(statement)).all()
    return StoredTotals(
        bytes_by_tier={StorageTier(row.tier): int(row.stored) for row in rows},
        original_bytes=sum(int(row.original) for row in rows),
        compression_savings_bytes=sum(int(row.saved) for row in rows),
    )


async def data_types_of(connection: Connection, tenant_id: TenantId, *, data_type: str, limit: int) -> list[str]:
    """Return the sorts of data that most is stored of."""
    statement = (
        select(_s.data_type)
        .where(*_within(tenant_id, None, data_type))
        .group_by(_s.data_type)
        .order_by(func.sum(_s.stored_bytes).desc(), _s.data_type)
        .limit(limit)
    )
    return list((await connection.execute(statement)).scalars())


async def sum_due(
    connection: Connection,
    tenant_id: TenantId,
    rules: Sequence[TypeRule],
    *,
    account_id: AccountId | None,
    protected: Sequence[DataSelection],
    now: datetime,
) -> list[DueSums]:
    """Return by sort of data and tier what could be smaller, as the policies say; what is protected is not counted."""
    if not rules:
        return []
    rule = values(
        column("data_type", String),
        column("hot_before", DateTime(timezone=True)),
        column("warm_before", DateTime(timezone=True)),
        column("compress_before", DateTime(timezone=True)),
        column("delete_before", DateTime(timezone=True)),
        column("expired_before", DateTime(timezone=True)),
        column("quality_threshold", Double),
        column("keeps_all", Boolean),
        name="rules",
    ).data(
        [
            (
                each.data_type,
                each.hot_before,
                each.warm_before,
                each.compress_before,
                each.delete_before,
                each.expired_before,
                each.quality_threshold,
                each.keeps_all,
            )
            for each in rules
        ]
    )
    live = _s.state == int(SegmentState.LIVE)
    free = not_(or_(*(and_(true(), *chosen(selection)) for selection in protected))) if protected else true()
    free = and_(live, free, not_(rule.c.keeps_all))
    stays = and_(_s.stay_end_time.is_not(None), _s.stay_end_time > now)
    late = and_(
        live,
        not_(stays),
        or_(
            and_(_s.tier == int(StorageTier.HOT), _s.end_time <= rule.c.hot_before),
            and_(_s.tier == int(StorageTier.WARM), _s.end_time <= rule.c.warm_before),
        ),
    )
    by_hand = and_(_s.retention_end_time.is_not(None), _s.retention_end_time > now)
    removable = and_(
        free,
        not_(by_hand),
        or_(
            and_(_s.quality_score < rule.c.quality_threshold, _s.end_time <= rule.c.delete_before),
            _s.end_time <= rule.c.expired_before,
        ),
    )
    shrinkable = and_(
        free,
        _s.form.not_in(_LOSSY),
        _s.end_time <= rule.c.compress_before,
        not_(removable),
    )
    lossless = and_(live, _s.form == int(CompressionForm.LOSSLESS))
    lossy = and_(live, _s.form.in_(_LOSSY))
    worth = _s.quality_score * _s.record_count

    def total(what: ColumnElement[Any], condition: ColumnElement[bool], name: str) -> ColumnElement[Any]:
        return func.coalesce(func.sum(what).filter(condition), 0).label(name)

    statement = (
        select(
            _s.data_type,
            _s.tier,
            total(worth, live, "worth"),
            total(_s.stored_bytes, lossless, "lossless_bytes"),
            total(_s.original_bytes, lossless, "lossless_original_bytes"),
            total(_s.stored_bytes, lossy, "lossy_bytes"),
            total(_s.original_bytes, lossy, "lossy_original_bytes"),
            total(_s.stored_bytes, late, "late_bytes"),
            total(_s.original_bytes, late, "late_original_bytes"),
            total(_s.stored_bytes, shrinkable, "shrinkable_bytes"),
            total(_s.original_bytes, shrinkable, "shrinkable_original_bytes"),
            total(worth, shrinkable, "shrinkable_worth"),
            total(_s.stored_bytes, removable, "removable_bytes"),
            total(worth, removable, "removable_worth"),
            total(_s.stored_bytes, _s.state == int(SegmentState.QUARANTINED), "quarantined_bytes"),
        )
        .select_from(data_segments.join(rule, rule.c.data_type == _s.data_type))
        .where(*_within(tenant_id, account_id, ""))
        .group_by(_s.data_type, _s.tier)
        .order_by(_s.data_type, _s.tier)
    )
    return [_due(row) for row in await connection.execute(statement)]


async def newest_lossy_segments(
    connection: Connection, tenant_id: TenantId, *, data_type: str, limit: int
) -> list[Segment]:
    """Return segments of a sort of data that were compressed with loss, newest first."""
    statement = (
        select(data_segments)
        .where(
            _s.tenant_id == tenant_id,
            _s.data_type == data_type,
            _s.state == int(SegmentState.LIVE),
            _s.form.in_(_LOSSY),
        )
        .order_by(_s.create_time.desc(), _s.segment_id)
        .limit(limit)
    )
    return [segment_of(row) for row in await connection.execute(statement)]


async def sum_orphans(connection: Connection, tenant_id: TenantId, *, written_before: datetime) -> int:
    """Return the bytes of objects that nothing needs: those that are leaving, and those whose writer died."""
    objects = stored_objects.c
    statement = select(func.coalesce(func.sum(objects.stored_bytes), 0)).where(
        objects.tenant_id == tenant_id, objects.state != OBJECT_LIVE, objects.create_time < written_before
    )
    return int((await connection.execute(statement)).scalar_one())


# --- Day by day -----------------------------------------------------------------------------------------


async def read_days(
    connection: Connection, tenant_id: TenantId, *, data_type: str, first_day: date
) -> list[StoragePoint]:
    """Return what was stored on each day that is known, in order."""
    days = storage_days.c
    statement = (
        select(days.day, days.tier, func.sum(days.stored_bytes).label("stored"))
        .where(days.tenant_id == tenant_id, days.day >= first_day)
        .group_by(days.day, days.tier)
        .order_by(days.day, days.tier)
    )
    if data_type:
        statement = statement.where(days.data_type == data_type)
    by_day: dict[date, dict[StorageTier, int]] = {}
    for row in await connection.execute(statement):
        by_day.setdefault(row.day, {})[StorageTier(row.tier)] = int(row.stored)
    return [StoragePoint(day=day, bytes_by_tier=by_tier) for day, by_tier in by_day.items()]


async def sum_removals(connection: Connection, tenant_id: TenantId, *, data_type: str) -> int:
    """Return the bytes that removed segments took."""
    removals = storage_removals.c
    statement = select(func.coalesce(func.sum(removals.removed_bytes), 0)).where(removals.tenant_id == tenant_id)
    if data_type:
        statement = statement.where(removals.data_type == data_type)
    return int((await connection.execute(statement)).scalar_one())


async def tenants_to_measure(connection: Connection, *, since: date) -> list[TenantId]:
    """Return tenants that have data, or had some since a day."""
    days = storage_days.c
    with_data = select(_s.tenant_id).where(_s.state.in_(_STORED))
    lately = select(days.tenant_id).where(days.day >= since, days.stored_bytes > 0)
    statement = with_data.union(lately).subquery()
    rows = await connection.execute(select(statement.c.tenant_id).order_by(statement.c.tenant_id))
    return [TenantId(tenant_id) for tenant_id in rows.scalars()]


async def write_day(connection: Connection, tenant_id: TenantId, day: date) -> None:
    """Write down what is stored now as that of a day, in place of what was written for it before.

    What was there on the day before and is gone stands with nothing, once.
    """
    days = storage_days.c
    await connection.execute(delete(storage_days).where(days.tenant_id == tenant_id, days.day == day))
    names = ["tenant_id", "day", "data_type", "tier", "record_count", "stored_bytes", "original_bytes"]
    sums = (
        select(
            _s.tenant_id,
            literal(day).label("day"),
            _s.data_type,
            _s.tier,
            func.sum(_s.record_count),
            func.sum(_s.stored_bytes),
            func.sum(_s.original_bytes),
        )
        .where(_s.tenant_id == tenant_id, _s.state.in_(_STORED))
        .group_by(_s.tenant_id, _s.data_type, _s.tier)
    )
    await connection.execute(insert(storage_days).from_select(names, sums))
    before, same = storage_days.alias("before"), storage_days.alias("same")
    gone = select(
        before.c.tenant_id, literal(day).label("day"), before.c.data_type, before.c.tier, *[literal(0)] * 3
    ).where(
        before.c.tenant_id == tenant_id,
        before.c.day == day - timedelta(days=1),
        before.c.stored_bytes > 0,
        ~exists().where(
            same.c.tenant_id == tenant_id,
            same.c.day == day,
            same.c.data_type == before.c.data_type,
            same.c.tier == before.c.tier,
        ),
    )
    await connection.execute(insert(storage_days).from_select(names, gone))


async def forget_days(connection: Connection, tenant_id: TenantId, *, before: date) -> None:
    """Delete what was written down for days of long ago."""
    days = storage_days.c
    await connection.execute(delete(storage_days).where(days.tenant_id == tenant_id, days.day < before))


async def sum_tiers_of_all(connection: Connection) -> dict[StorageTier, tuple[int, int]]:
    """Return records and bytes by tier, of all tenants."""
    statement = (
        select(_s.tier, func.sum(_s.record_count).label("records"), func.sum(_s.stored_bytes).label("stored"))
        .where(_s.state.in_(_STORED))
        .group_by(_s.tier)
    )
    return {StorageTier(row.tier): (int(row.records), int(row.stored)) for row in await connection.execute(statement)}


async def count_quarantined_of_all(connection: Connection) -> int:
    """Return the number of damaged segments, of all tenants."""
    statement = select(func.count()).where(_s.state == int(SegmentState.QUARANTINED))
    count: int = (await connection.execute(statement)).scalar_one()
    return count


def _within(tenant_id: TenantId, account_id: AccountId | None, data_type: str) -> list[ColumnElement[bool]]:
    conditions = [_s.tenant_id == tenant_id, _s.state.in_(_STORED)]
    if account_id is not None:
        conditions.append(_s.account_id == account_id)
    if data_type:
        conditions.append(_s.data_type == data_type)
    return conditions


def _group(row: Row[Any], group_by: Sequence[str], reads: Mapping[tuple[Any, ...], int]) -> StoredGroup:
    keys: dict[str, Any] = {name: getattr(row, name) for name in group_by}
    access_count = reads.get(tuple(keys.values()), 0)
    if "tier" in keys:
        keys["tier"] = StorageTier(keys["tier"])
    records = int(row.record_count)
    return StoredGroup(
        **keys,
        record_count=records,
        stored_bytes=int(row.stored_bytes),
        original_bytes=int(row.original_bytes),
        quality_score=float(row.quality_sum) / records if records else 0.0,
        access_count=access_count,
    )


def _due(row: Any) -> DueSums:
    sums: dict[str, Any] = dict(row._mapping)  # noqa: SLF001 - public in spite of its name
    for name, value in sums.items():
        if name.endswith("_bytes"):
            sums[name] = int(value)
        elif name.endswith("worth"):
            sums[name] = float(value)
    return DueSums(**{**sums, "tier": StorageTier(sums["tier"])})
