"""SQL of records: whose id is whose, which were replaced, what was answered, and how much there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, LargeBinary, bindparam, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import CompressionForm, Dataset, Segment, SegmentState, StorageTier
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.data_keys import KeyState
from tallygate_server.storage.data_segments import segment_of
from tallygate_server.storage.tables import data_keys, data_replaced_records, data_requests, data_segments, datasets

_STORED = (int(SegmentState.LIVE), int(SegmentState.QUARANTINED))
_EXACT = tuple(int(form) for form in CompressionForm if form.exact)

_TAKE_PLACES = text(
    """
WITH incoming AS (
    SELECT * FROM unnest(CAST(:digests AS bytea[]), CAST(:sequences AS bigint[])) AS i(id_digest, sequence)
), old AS (
    SELECT sequence
    FROM data_record_ids
    WHERE tenant_id = :tenant_id AND dataset_id = :dataset_id AND id_digest = ANY(CAST(:digests AS bytea[]))
), marked AS (
    INSERT INTO data_replaced_records (tenant_id, dataset_id, sequence)
    SELECT :tenant_id, :dataset_id, sequence FROM old
    ON CONFLICT DO NOTHING
), taken AS (
    INSERT INTO data_record_ids (tenant_id, dataset_id, id_digest, sequence)
    SELECT :tenant_id, :dataset_id, id_digest, sequence FROM incoming
    ON CONFLICT (tenant_id, dataset_id, id_digest) DO UPDATE SET sequence = EXCLUDED.sequence
)
SELECT count(*) FROM old
"""
).bindparams(
    bindparam("digests", type_=ARRAY(LargeBinary)),
    bindparam("sequences", type_=ARRAY(BigInteger)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRequest:
    """The first answer to a request id."""

    call: str
    fingerprint: str
    answer: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TierUsage:
    """What a tier holds of a dataset."""

    tier: StorageTier
    record_count: int
    stored_bytes: int
    original_bytes: int
    segment_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetUsage:
    """What is stored of a dataset."""

    tiers: tuple[TierUsage, ...] = ()
    start_time: datetime | None = None
    end_time: datetime | None = None
    replaced_count: int = 0
    """Records that are stored still, though others took their place."""

    @property
    def record_count(self) -> int:
        """Return the records in all tiers that others did not take the place of."""
        return sum(tier.record_count for tier in self.tiers) - self.replaced_count


async def reserve_sequences(connection: Connection, tenant_id: TenantId, dataset_id: str, count: int) -> int:
    """Take so many numbers of records that nobody else gets; return the first."""
    columns = datasets.c
    statement = (
        update(datasets)
        .where(columns.tenant_id == tenant_id, columns.dataset_id == dataset_id)
        .values(next_sequence=columns.next_sequence + count)
        .returning(columns.next_sequence)
    )
    return int((await connection.execute(statement)).scalar_one()) - count


async def take_places(
    connection: Connection, tenant_id: TenantId, dataset_id: str, digests: Sequence[bytes], sequences: Sequence[int]
) -> int:
    """Let records, by the digests of their ids, take the place of those that had them; return how many had one.

    The dataset's row is locked, and no digest comes twice.
    """
    values = {
        "tenant_id": tenant_id,
        "dataset_id": dataset_id,
        "digests": list(digests),
        "sequences": list(sequences),
    }
    return int((await connection.execute(_TAKE_PLACES, values)).scalar_one())


async def read_replaced(connection: Connection, tenant_id: TenantId, dataset_id: str) -> list[int]:
    """Return the numbers of records that others took the place of, ascending."""
    columns = data_replaced_records.c
    rows = await connection.execute(
        select(columns.sequence)
        .where(columns.tenant_id == tenant_id, columns.dataset_id == dataset_id)
        .order_by(columns.sequence)
    )
    return list(rows.scalars())


async def read_request(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, request_id: str
) -> DataRequest | None:
    """Return what a request id was answered first; None where it is new."""
    columns = data_requests.c
    statement = select(columns.call, columns.fingerprint, columns.answer).where(
        columns.tenant_id == tenant_id, columns.account_id == account_id, columns.request_id == request_id
    )
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else DataRequest(call=row.call, fingerprint=row.fingerprint, answer=row.answer)


async def add_request(
    connection: Connection,
    tenant_id: TenantId,
    account_id: AccountId,
    request_id: str,
    request: DataRequest,
    *,
    now: datetime,
) -> bool:
    """Keep the first answer to a request id; False where somebody was faster."""
    columns = data_requests.c
    statement = (
        insert(data_requests)
        .values(
            tenant_id=tenant_id,
            account_id=account_id,
            request_id=request_id,
            call=request.call,
            fingerprint=request.fingerprint,
            answer=request.answer,
            create_time=now,
        )
        .on_conflict_do_nothing()
        .returning(columns.request_id)
    )
    return (await connection.execute(statement)).one_or_none() is not None


async def hold_keys(connection: Connection, tenant_id: TenantId, key_ids: Sequence[str]) -> dict[str, KeyState]:
    """Keep others from retiring or destroying keys until the transaction ends; return in which state each is."""
    columns = data_keys.c
    statement = (
        select(columns.key_id, columns.state)
        .where(columns.tenant_id == tenant_id, columns.key_id.in_(sorted(set(key_ids))))
        .order_by(columns.key_id)
        .with_for_update(read=True)
    )
    return {row.key_id: KeyState(row.state) for row in await connection.execute(statement)}


async def stored_bytes_of(connection: Connection, tenant_id: TenantId, account_id: AccountId) -> int:
    """Return the bytes that an account's segments take in all tiers."""
    columns = data_segments.c
    statement = select(func.coalesce(func.sum(columns.stored_bytes), 0)).where(
        columns.tenant_id == tenant_id, columns.account_id == account_id, columns.state.in_(_STORED)
    )
    return int((await connection.execute(statement)).scalar_one())


async def usage_of(connection: Connection, tenant_id: TenantId, wanted: Sequence[Dataset]) -> dict[str, DatasetUsage]:
    """Return what is stored of each of a tenant's datasets."""
    columns = data_segments.c
    dataset_ids = [dataset.dataset_id for dataset in wanted]
    rows = await connection.execute(
        select(
            columns.dataset_id,
            columns.tier,
            func.sum(columns.record_count).label("record_count"),
            func.sum(columns.stored_bytes).label("stored_bytes"),
            func.sum(columns.original_bytes).label("original_bytes"),
            func.count().label("segment_count"),
            func.min(columns.start_time).label("start_time"),
            func.max(columns.end_time).label("end_time"),
        )
        .where(
            columns.tenant_id == tenant_id,
            # The index begins with it.
            columns.account_id.in_({dataset.account_id for dataset in wanted}),
            columns.dataset_id.in_(dataset_ids),
            columns.state.in_(_STORED),
        )
        .group_by(columns.dataset_id, columns.tier)
        .order_by(columns.dataset_id, columns.tier)
    )
    by_dataset: dict[str, list[Any]] = {dataset_id: [] for dataset_id in dataset_ids}
    for row in rows:
        by_dataset[row.dataset_id].append(row)
    marks = data_replaced_records.c
    replaced = {
        row.dataset_id: int(row.marked)
        for row in await connection.execute(
            select(marks.dataset_id, func.count().label("marked"))
            .where(marks.tenant_id == tenant_id, marks.dataset_id.in_(dataset_ids))
            .group_by(marks.dataset_id)
        )
    }
    return {
        dataset_id: DatasetUsage(
            tiers=tuple(
                TierUsage(
                    tier=StorageTier(row.tier),
                    record_count=int(row.record_count),
                    stored_bytes=int(row.stored_bytes),
                    original_bytes=int(row.original_bytes),
                    segment_count=row.segment_count,
                )
                for row in found
            ),
            start_time=min((row.start_time for row in found), default=None),
            end_time=max((row.end_time for row in found), default=None),
            replaced_count=replaced.get(dataset_id, 0),
        )
        for dataset_id, found in by_dataset.items()
    }


async def inexact_segments(
    connection: Connection,
    tenant_id: TenantId,
    dataset_id: str,
    *,
    start_time: datetime | None,
    end_time: datetime | None,
    limit: int,
) -> list[Segment]:
    """Return segments in a range that give no records: those in quarantine, and live ones that are lossy."""
    columns = data_segments.c
    statement = select(data_segments).where(
        columns.tenant_id == tenant_id,
        columns.dataset_id == dataset_id,
        (columns.state == int(SegmentState.QUARANTINED))
        | ((columns.state == int(SegmentState.LIVE)) & columns.form.not_in(_EXACT)),
    )
    if start_time is not None:
        statement = statement.where(columns.end_time > start_time)
    if end_time is not None:
        statement = statement.where(columns.start_time < end_time)
    rows = await connection.execute(statement.order_by(columns.start_time, columns.segment_id).limit(limit))
    return [segment_of(row) for row in rows]


async def exact_segments(
    connection: Connection,
    tenant_id: TenantId,
    dataset_id: str,
    *,
    start_time: datetime | None,
    end_time: datetime | None,
    also: Sequence[str] = (),
    after: tuple[datetime, str] | None = None,
    limit: int,
) -> list[Segment]:
    """Return live segments in a range that give their very records, by begin and id, those after one.

    `also` names lossy ones that are wanted all the same.
    """
    columns = data_segments.c
    statement = select(data_segments).where(
        columns.tenant_id == tenant_id,
        columns.dataset_id == dataset_id,
        columns.state == int(SegmentState.LIVE),
        columns.form.in_(_EXACT) | columns.segment_id.in_(list(also)) if also else columns.form.in_(_EXACT),
    )
    if start_time is not None:
        statement = statement.where(columns.end_time > start_time)
    if end_time is not None:
        statement = statement.where(columns.start_time < end_time)
    if after is not None:
        begin, segment_id = after
        statement = statement.where(
            (columns.start_time > begin) | ((columns.start_time == begin) & (columns.segment_id > segment_id))
        )
    rows = await connection.execute(statement.order_by(columns.start_time, columns.segment_id).limit(limit))
    return [segment_of(row) for row in rows]


async def first_record_time(
    connection: Connection, tenant_id: TenantId, dataset_id: str, *, before: datetime
) -> datetime | None:
    """Return the begin of the dataset's first segment, where it lies before a time."""
    columns = data_segments.c
    statement = select(func.min(columns.start_time)).where(
        columns.tenant_id == tenant_id,
        columns.dataset_id == dataset_id,
        columns.start_time < before,
        columns.state.in_(_STORED),
    )
    found: datetime | None = (await connection.execute(statement)).scalar_one()
    return found


async def replaced_sequences(
    connection: Connection, tenant_id: TenantId, dataset_id: str, *, first: int, last: int
) -> list[int]:
    """Return which records between two sequences, both included, another has taken the place of."""
    columns = data_replaced_records.c
    rows = await connection.execute(
        select(columns.sequence).where(
            columns.tenant_id == tenant_id,
            columns.dataset_id == dataset_id,
            columns.sequence.between(first, last),
        )
    )
    return list(rows.scalars())


async def forget_replaced(
    connection: Connection, tenant_id: TenantId, dataset_id: str, sequences: Sequence[int]
) -> int:
    """Delete marks of records that are gone now; return how many there were."""
    if not sequences:
        return 0
    columns = data_replaced_records.c
    gone = await connection.execute(
        delete(data_replaced_records)
        .where(
            columns.tenant_id == tenant_id,
            columns.dataset_id == dataset_id,
            columns.sequence.in_(list(sequences)),
        )
        .returning(columns.sequence)
    )
    return len(gone.all())
