"""SQL of how data is used: reads by day, and segments to compare others with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from sqlalchemy import func, select

from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.lifecycle import Segment, SegmentState
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.data_segments import segment_of
from tallygate_server.storage.tables import data_segment_reads, data_segments

ID_RANDOM_DIGITS = 16
"""Random digits at the end of a segment's id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentUse:
    """How often a segment was read since a day, and when last."""

    read_count: int
    last_day: date


async def read_use(
    connection: Connection, tenant_id: TenantId, segment_ids: Sequence[str], *, since: date
) -> dict[str, SegmentUse]:
    """Return the use of those segments that were ever read; reads are counted from a day on."""
    columns = data_segment_reads.c
    rows = await connection.execute(
        select(
            columns.segment_id,
            func.coalesce(func.sum(columns.read_count).filter(columns.day >= since), 0).label("read_count"),
            func.max(columns.day).label("last_day"),
        )
        .where(columns.tenant_id == tenant_id, columns.segment_id.in_(sorted(set(segment_ids))))
        .group_by(columns.segment_id)
    )
    return {row.segment_id: SegmentUse(read_count=int(row.read_count), last_day=row.last_day) for row in rows}


async def sample_segments(connection: Connection, tenant_id: TenantId, data_type: str, *, limit: int) -> list[Segment]:
    """Return some live segments of a data type, the same ones each time, spread over all accounts and times."""
    columns = data_segments.c
    rows = await connection.execute(
        select(data_segments)
        .where(
            columns.tenant_id == tenant_id,
            columns.data_type == data_type,
            columns.state == int(SegmentState.LIVE),
        )
        # By the random part of the id: no account and no time is preferred.
        .order_by(func.right(columns.segment_id, ID_RANDOM_DIGITS), columns.segment_id)
        .limit(limit)
    )
    return [segment_of(row) for row in rows]
