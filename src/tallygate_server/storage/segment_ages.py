"""SQL of how old data is, for policies: segments without what only reading needs, and whose they are."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, literal, or_, select

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import Segment, SegmentState
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.data_segments import segment_of
from tallygate_server.storage.tables import data_segments

_c = data_segments.c
_NOT_NEEDED: Final = ("facts", "codecs", "checksum", "values_digest")
_BARE: Final[list[Any]] = [column for column in _c if column.name not in _NOT_NEEDED]


async def bare_segments(
    connection: Connection,
    tenant_id: TenantId,
    *,
    only: str | None = None,
    but: Sequence[str] = (),
    ended_before: datetime | None = None,
    chosen_before: datetime | None = None,
    after_id: str = "",
    limit: int,
) -> list[Segment]:
    """Return live segments of one data type, or of all but some, by id, those after one.

    Only those whose last record lies before an instant, where one is given, or whose retention was chosen by hand to
    end before another. What tells of their content is left empty.
    """
    statement: Select[Any] = select(*_BARE, literal(b"").label("checksum"), literal(b"").label("values_digest")).where(
        _c.tenant_id == tenant_id, _c.state == int(SegmentState.LIVE), _c.segment_id > after_id, *_types(only, but)
    )
    bounds = [
        column <= bound
        for column, bound in ((_c.end_time, ended_before), (_c.retention_end_time, chosen_before))
        if bound is not None
    ]
    if bounds:
        statement = statement.where(or_(*bounds))
    rows = await connection.execute(statement.order_by(_c.segment_id).limit(limit))
    return [segment_of(row) for row in rows]


async def segments_by_id(connection: Connection, tenant_id: TenantId, segment_ids: Sequence[str]) -> list[Segment]:
    """Return those of the segments that are live, by dataset and id."""
    statement = (
        select(data_segments)
        .where(
            _c.tenant_id == tenant_id, _c.state == int(SegmentState.LIVE), _c.segment_id.in_(sorted(set(segment_ids)))
        )
        .order_by(_c.dataset_id, _c.segment_id)
    )
    return [segment_of(row) for row in await connection.execute(statement)]


async def live_ids(connection: Connection, tenant_id: TenantId, segment_ids: Sequence[str]) -> set[str]:
    """Return which of the segments are live."""
    rows = await connection.execute(
        select(_c.segment_id).where(
            _c.tenant_id == tenant_id, _c.state == int(SegmentState.LIVE), _c.segment_id.in_(sorted(set(segment_ids)))
        )
    )
    return set(rows.scalars())


async def accounts_with_data(
    connection: Connection, tenant_id: TenantId, *, only: str | None = None, but: Sequence[str] = ()
) -> list[AccountId]:
    """Return the accounts that have data of one data type, or of any but some."""
    rows = await connection.execute(
        select(_c.account_id)
        .distinct()
        .where(_c.tenant_id == tenant_id, _c.state == int(SegmentState.LIVE), *_types(only, but))
        .order_by(_c.account_id)
    )
    return list(rows.scalars())


def _types(only: str | None, but: Sequence[str]) -> list[ColumnElement[bool]]:
    if only is not None:
        return [_c.data_type == only]
    return [_c.data_type.not_in(but)] if but else []
