"""SQL of the manifest: which segments stand for a dataset's records, where they lie, and the payloads in Postgres."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, delete, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import (
    CompressionForm,
    DataSelection,
    Segment,
    SegmentState,
    StorageTier,
)
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.tables import (
    data_payloads,
    data_segment_reads,
    data_segments,
    datasets,
    stored_objects,
)

OBJECT_WRITING, OBJECT_LIVE, OBJECT_LEAVING = 1, 2, 3

_c = data_segments.c


async def read_segments(
    connection: Connection,
    tenant_id: TenantId,
    selection: DataSelection,
    *,
    state: SegmentState | None = SegmentState.LIVE,
    after: tuple[datetime, str] | None = None,
    limit: int | None = None,
) -> list[Segment]:
    """Return the segments that a selection covers, by begin and id, those after one.

    `state` None: any.
    """
    statement = select(data_segments).where(_c.tenant_id == tenant_id, *chosen(selection))
    if state is not None:
        statement = statement.where(_c.state == int(state))
    if after is not None:
        start_time, segment_id = after
        statement = statement.where(
            (_c.start_time > start_time) | ((_c.start_time == start_time) & (_c.segment_id > segment_id))
        )
    statement = statement.order_by(_c.start_time, _c.segment_id)
    rows = await connection.execute(statement.limit(limit) if limit is not None else statement)
    return [segment_of(row) for row in rows]


async def count_by_account_and_type(
    connection: Connection, tenant_id: TenantId, selection: DataSelection
) -> dict[tuple[AccountId, str], tuple[int, int]]:
    """Return how many live segments and records a selection covers, by account and data type."""
    rows = await connection.execute(
        select(_c.account_id, _c.data_type, func.count(), func.sum(_c.record_count))
        .where(_c.tenant_id == tenant_id, _c.state == int(SegmentState.LIVE), *chosen(selection))
        .group_by(_c.account_id, _c.data_type)
        .order_by(_c.account_id, _c.data_type)
    )
    return {(AccountId(account_id), data_type): (count, int(records)) for account_id, data_type, count, records in rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class DueDataset:
    """A dataset with something in a tier that may have been there long enough."""

    tenant_id: TenantId
    dataset_id: str
    data_type: str
    oldest_end_time: datetime


async def due_datasets(connection: Connection, tier: StorageTier, *, ended_before: datetime) -> list[DueDataset]:
    """Return the datasets, of every tenant that the connection sees, with live segments in the tier that ended so."""
    rows = await connection.execute(
        select(_c.tenant_id, _c.dataset_id, _c.data_type, func.min(_c.end_time).label("oldest_end_time"))
        .where(_c.tier == int(tier), _c.end_time < ended_before, _c.state == int(SegmentState.LIVE))
        .group_by(_c.tenant_id, _c.dataset_id, _c.data_type)
        .order_by(_c.tenant_id, _c.dataset_id)
    )
    return [DueDataset(**row._mapping) for row in rows]  # noqa: SLF001 - public in spite of its name


async def read_segment(connection: Connection, tenant_id: TenantId, segment_id: str) -> Segment | None:
    """Return one segment; None where it is gone."""
    statement = select(data_segments).where(_c.tenant_id == tenant_id, _c.segment_id == segment_id)
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else segment_of(row)


async def lock_segments(connection: Connection, tenant_id: TenantId, segment_ids: Iterable[str]) -> list[Segment]:
    """Return those of the segments that are there, locked in the order of their ids."""
    statement = (
        select(data_segments)
        .where(_c.tenant_id == tenant_id, _c.segment_id.in_(sorted(set(segment_ids))))
        .order_by(_c.segment_id)
        .with_for_update()
    )
    return [segment_of(row) for row in await connection.execute(statement)]


async def add_segments(connection: Connection, segments: Sequence[Segment]) -> None:
    """Write new rows of the manifest."""
    if segments:
        await connection.execute(insert(data_segments), [_values(segment) for segment in segments])


async def write_segment(
    connection: Connection, tenant_id: TenantId, segment_id: str, values: Mapping[str, Any]
) -> None:
    """Change columns of a row of the manifest."""
    await connection.execute(
        update(data_segments).where(_c.tenant_id == tenant_id, _c.segment_id == segment_id).values(**values)
    )


async def delete_segments(connection: Connection, segments: Sequence[Segment], *, now: datetime) -> None:
    """Delete rows of the manifest with their payloads; objects are marked as leaving and go after the commit."""
    if not segments:
        return
    tenant_id, ids = segments[0].tenant_id, sorted(segment.segment_id for segment in segments)
    payloads, reads, objects = data_payloads.c, data_segment_reads.c, stored_objects.c
    await connection.execute(delete(data_payloads).where(payloads.tenant_id == tenant_id, payloads.segment_id.in_(ids)))
    await connection.execute(delete(data_segment_reads).where(reads.tenant_id == tenant_id, reads.segment_id.in_(ids)))
    await connection.execute(delete(data_segments).where(_c.tenant_id == tenant_id, _c.segment_id.in_(ids)))
    paths = sorted(segment.object_path for segment in segments if segment.object_path)
    if paths:
        await connection.execute(
            update(stored_objects)
            .where(objects.tenant_id == tenant_id, objects.object_path.in_(paths))
            .values(state=OBJECT_LEAVING, leave_time=now)
        )


async def hand_reads_on(connection: Connection, old: Sequence[Segment], new: Segment) -> None:
    """Let a segment inherit the reads of those in whose place it comes."""
    columns = data_segment_reads.c
    ids = sorted(segment.segment_id for segment in old)
    sums = (
        select(columns.tenant_id, literal(new.segment_id), columns.day, func.sum(columns.read_count))
        .where(columns.tenant_id == new.tenant_id, columns.segment_id.in_(ids))
        .group_by(columns.tenant_id, columns.day)
    )
    await connection.execute(
        insert(data_segment_reads).from_select(["tenant_id", "segment_id", "day", "read_count"], sums)
    )


async def add_payload(connection: Connection, tenant_id: TenantId, segment_id: str, payload: bytes) -> None:
    """Write a sealed payload."""
    await connection.execute(data_payloads.insert().values(tenant_id=tenant_id, segment_id=segment_id, payload=payload))


async def read_payload(connection: Connection, tenant_id: TenantId, segment_id: str) -> bytes | None:
    """Return a sealed payload; None where there is none."""
    columns = data_payloads.c
    statement = select(columns.payload).where(columns.tenant_id == tenant_id, columns.segment_id == segment_id)
    payload: bytes | None = (await connection.execute(statement)).scalar_one_or_none()
    return payload


async def read_payloads(connection: Connection, tenant_id: TenantId, segment_ids: Sequence[str]) -> dict[str, bytes]:
    """Return sealed payloads by segment; those that there are not are left out."""
    columns = data_payloads.c
    statement = select(columns.segment_id, columns.payload).where(
        columns.tenant_id == tenant_id, columns.segment_id.in_(list(segment_ids))
    )
    return {row.segment_id: row.payload for row in await connection.execute(statement)}


async def payload_size(connection: Connection, tenant_id: TenantId, segment_id: str) -> int | None:
    """Return the bytes of a sealed payload without reading it; None where there is none."""
    columns = data_payloads.c
    statement = select(func.length(columns.payload)).where(
        columns.tenant_id == tenant_id, columns.segment_id == segment_id
    )
    size: int | None = (await connection.execute(statement)).scalar_one_or_none()
    return size


async def total_of_segments(connection: Connection, tenant_id: TenantId, selection: DataSelection) -> int:
    """Return how many segments a selection covers, in any state."""
    statement = select(func.count()).where(_c.tenant_id == tenant_id, *chosen(selection))
    return int((await connection.execute(statement)).scalar_one())


async def unmentioned_objects(connection: Connection, tenant_id: TenantId, *, limit: int) -> list[str]:
    """Return live objects of segments that the manifest does not have."""
    columns = stored_objects.c
    mentioned = select(_c.segment_id).where(_c.tenant_id == tenant_id, _c.object_path == columns.object_path)
    rows = await connection.execute(
        select(columns.object_path)
        .where(
            columns.tenant_id == tenant_id,
            columns.kind == "segment",
            columns.state == OBJECT_LIVE,
            ~mentioned.exists(),
        )
        .order_by(columns.object_path)
        .limit(limit)
    )
    return list(rows.scalars())


async def unmentioned_payloads(connection: Connection, tenant_id: TenantId, *, limit: int) -> list[str]:
    """Return payloads of segments that the manifest does not have."""
    columns = data_payloads.c
    mentioned = select(_c.segment_id).where(_c.tenant_id == tenant_id, _c.segment_id == columns.segment_id)
    rows = await connection.execute(
        select(columns.segment_id)
        .where(columns.tenant_id == tenant_id, ~mentioned.exists())
        .order_by(columns.segment_id)
        .limit(limit)
    )
    return list(rows.scalars())


async def segments_without_place(connection: Connection, tenant_id: TenantId, *, limit: int) -> list[tuple[str, str]]:
    """Return segments, and their dataset's id, whose dataset is not there."""
    known = select(datasets.c.dataset_id).where(
        datasets.c.tenant_id == tenant_id, datasets.c.dataset_id == _c.dataset_id
    )
    rows = await connection.execute(
        select(_c.segment_id, _c.dataset_id)
        .where(_c.tenant_id == tenant_id, ~known.exists())
        .order_by(_c.segment_id)
        .limit(limit)
    )
    return [(row.segment_id, row.dataset_id) for row in rows]


async def note_object(
    connection: Connection, tenant_id: TenantId, object_path: str, *, kind: str, stored_bytes: int, now: datetime
) -> None:
    """Write down that an object is about to be written, so that it is found if nobody comes to need it."""
    await connection.execute(
        stored_objects.insert().values(
            tenant_id=tenant_id,
            object_path=object_path,
            kind=kind,
            state=OBJECT_WRITING,
            stored_bytes=stored_bytes,
            create_time=now,
        )
    )


async def settle_objects(connection: Connection, tenant_id: TenantId, paths: Sequence[str]) -> int:
    """Mark objects as live; return how many were being written."""
    columns = stored_objects.c
    rows = await connection.execute(
        update(stored_objects)
        .where(
            columns.tenant_id == tenant_id,
            columns.object_path.in_(sorted(paths)),
            columns.state == OBJECT_WRITING,
        )
        .values(state=OBJECT_LIVE)
        .returning(columns.object_path)
    )
    return len(rows.all())


async def leaving_objects(
    connection: Connection, tenant_id: TenantId, *, written_before: datetime, limit: int
) -> list[str]:
    """Return paths of objects that must go: those marked so, and those whose writer has died."""
    columns = stored_objects.c
    rows = await connection.execute(
        select(columns.object_path)
        .where(
            columns.tenant_id == tenant_id,
            (columns.state == OBJECT_LEAVING)
            | ((columns.state == OBJECT_WRITING) & (columns.create_time < written_before)),
        )
        .order_by(columns.object_path)
        .limit(limit)
    )
    return list(rows.scalars())


async def mark_leaving(
    connection: Connection, tenant_id: TenantId, paths: Sequence[str], *, now: datetime
) -> list[str]:
    """Mark objects that are not live as leaving, so that no late writer settles them; return which are."""
    columns = stored_objects.c
    rows = await connection.execute(
        update(stored_objects)
        .where(
            columns.tenant_id == tenant_id,
            columns.object_path.in_(sorted(paths)),
            columns.state != OBJECT_LIVE,
        )
        .values(state=OBJECT_LEAVING, leave_time=func.coalesce(columns.leave_time, now))
        .returning(columns.object_path)
    )
    return list(rows.scalars())


async def forget_objects(connection: Connection, tenant_id: TenantId, paths: Sequence[str]) -> None:
    """Delete the rows of objects that are gone."""
    columns = stored_objects.c
    await connection.execute(
        delete(stored_objects).where(
            columns.tenant_id == tenant_id, columns.object_path.in_(sorted(paths)), columns.state == OBJECT_LEAVING
        )
    )


async def add_reads(connection: Connection, tenant_id: TenantId, segment_ids: Sequence[str], *, now: datetime) -> None:
    """Count a read of each segment."""
    columns = data_segment_reads.c
    statement = insert(data_segment_reads)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=[columns.tenant_id, columns.segment_id, columns.day],
            set_={"read_count": columns.read_count + 1},
        ),
        [
            {"tenant_id": tenant_id, "segment_id": segment_id, "day": now.date(), "read_count": 1}
            for segment_id in sorted(set(segment_ids))
        ],
    )


async def count_records(connection: Connection, tenant_id: TenantId, selection: DataSelection) -> int:
    """Return the records of all segments that a selection covers, damaged ones too."""
    states = [int(SegmentState.LIVE), int(SegmentState.QUARANTINED)]
    statement = select(func.coalesce(func.sum(_c.record_count), 0)).where(
        _c.tenant_id == tenant_id, _c.state.in_(states), *chosen(selection)
    )
    return int((await connection.execute(statement)).scalar_one())


def segment_of(row: Row[Any]) -> Segment:
    """Return the segment of a row of the manifest."""
    values = dict(row._mapping)  # noqa: SLF001 - public in spite of its name
    values["tier"] = StorageTier(values["tier"])
    values["form"] = CompressionForm(values["form"])
    values["state"] = SegmentState(values["state"])
    return Segment(**values)


def of_account(tenant_id: TenantId, account_id: AccountId) -> Select[Any]:
    """Return the query of everything that the manifest has of an account."""
    return select(data_segments).where(_c.tenant_id == tenant_id, _c.account_id == account_id)


def chosen(selection: DataSelection) -> list[ColumnElement[bool]]:
    """Return the conditions on rows of the manifest that a selection covers."""
    conditions: list[ColumnElement[bool]] = []
    if selection.account_id is not None:
        conditions.append(_c.account_id == selection.account_id)
    if selection.data_types:
        conditions.append(_c.data_type.in_(selection.data_types))
    if selection.dataset_ids:
        conditions.append(_c.dataset_id.in_(selection.dataset_ids))
    if selection.start_time is not None:
        conditions.append(_c.end_time > selection.start_time)
    if selection.end_time is not None:
        conditions.append(_c.start_time < selection.end_time)
    if selection.tiers:
        conditions.append(_c.tier.in_([int(tier) for tier in selection.tiers]))
    return conditions


def _values(segment: Segment) -> dict[str, Any]:
    values = {name: getattr(segment, name) for name in _c.keys()}  # noqa: SIM118 - not a mapping
    values |= {"tier": int(segment.tier), "form": int(segment.form), "state": int(segment.state)}
    values["codecs"] = dict(segment.codecs)
    return values
