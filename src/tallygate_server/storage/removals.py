"""SQL of what removing data leaves behind: counts by day, and ids of records that are gone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Final

from sqlalchemy import select, text, union
from sqlalchemy.dialects.postgresql import insert

from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.lifecycle import SegmentState
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.tables import data_segments, features, retention_policies, storage_removals

_FORGET_IDS: Final = text("""
DELETE FROM data_record_ids
WHERE tenant_id = :tenant_id AND dataset_id = :dataset_id AND sequence = ANY(CAST(:sequences AS bigint[]))
""")
_FORGET_MARKS: Final = text("""
DELETE FROM data_replaced_records
WHERE tenant_id = :tenant_id AND dataset_id = :dataset_id AND sequence = ANY(CAST(:sequences AS bigint[]))
""")


async def add_removal(
    connection: Connection, tenant_id: TenantId, data_type: str, *, day: date, record_count: int, removed_bytes: int
) -> None:
    """Count what is removed."""
    columns = storage_removals.c
    statement = insert(storage_removals).values(
        tenant_id=tenant_id, day=day, data_type=data_type, record_count=record_count, removed_bytes=removed_bytes
    )
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=[columns.tenant_id, columns.day, columns.data_type],
            set_={
                "record_count": columns.record_count + record_count,
                "removed_bytes": columns.removed_bytes + removed_bytes,
            },
        )
    )


async def forget_records(
    connection: Connection, tenant_id: TenantId, dataset_id: str, sequences: Sequence[int]
) -> None:
    """Forget the ids of records that are removed, so that the next with such an id is a new one."""
    if sequences:
        values = {"tenant_id": tenant_id, "dataset_id": dataset_id, "sequences": list(sequences)}
        await connection.execute(_FORGET_IDS, values)
        await connection.execute(_FORGET_MARKS, values)


async def tenants_with_retention(connection: Connection, retention_feature: str, *, now: datetime) -> list[TenantId]:
    """Return tenants that have data, and said how long any is kept: by policy, by plan, or by hand.

    With `*` in the setting: of all.
    """
    said = union(
        select(retention_policies.c.tenant_id),
        select(features.c.tenant_id).where(features.c.feature_key == retention_feature),
        select(data_segments.c.tenant_id).where(data_segments.c.retention_end_time <= now),
    ).subquery()
    has_data = (
        select(data_segments.c.segment_id)
        .where(data_segments.c.tenant_id == said.c.tenant_id, data_segments.c.state == int(SegmentState.LIVE))
        .limit(1)
        .correlate(said)
        .exists()
    )
    rows = await connection.execute(select(said.c.tenant_id).where(has_data).order_by(said.c.tenant_id))
    return list(rows.scalars())
