"""Reads segments of one dataset as one table: in the order of time, without records that others replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.lifecycle import Segment
from tallygate_server.lifecycle.segments import SegmentStore
from tallygate_server.storage.data_records import replaced_sequences

SEQUENCE = "_sequence"


async def read_merged(
    store: SegmentStore, segments: Sequence[Segment], *, with_replaced: bool = False
) -> tuple[pa.Table, list[int]]:
    """Return the records of exact segments, and the sequences of replaced ones that were left out, if they are."""
    tables = [await store.read(segment) for segment in segments]
    replaced: list[int] = []
    if not with_replaced and any(SEQUENCE in table.column_names for table in tables):
        replaced = await _replaced(store, segments[0].tenant_id, segments[0].dataset_id, tables)
    return await asyncio.to_thread(merged, tables, replaced), replaced


def merged(tables: Sequence[pa.Table], replaced: Sequence[int]) -> pa.Table:
    """Return one table, sorted by time; what is equal in time keeps its order."""
    table = tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="default")
    if replaced:
        left = pc.is_in(table.column(SEQUENCE), value_set=pa.array(replaced, pa.int64()))
        table = table.filter(pc.invert(left))
    if len(tables) > 1 and not _sorted(table):
        table = table.take(pc.sort_indices(table, sort_keys=[("time", "ascending")]))
    return table.combine_chunks()


def _sorted(table: pa.Table) -> bool:
    times = table.column("time").cast(pa.int64()).combine_chunks()
    if len(times) < 2:  # noqa: PLR2004 - one record is in order.
        return True
    return bool(pc.all(pc.less_equal(times.slice(0, len(times) - 1), times.slice(1))).as_py())


async def _replaced(store: SegmentStore, tenant_id: TenantId, dataset_id: str, tables: Sequence[pa.Table]) -> list[int]:
    numbered = [table.column(SEQUENCE) for table in tables if SEQUENCE in table.column_names]
    bounds = [pc.min_max(column).as_py() for column in numbered if len(column)]
    if not bounds:
        return []
    async with store.database.tenant_transaction(tenant_id) as connection:
        marked = await replaced_sequences(
            connection,
            tenant_id,
            dataset_id,
            first=min(each["min"] for each in bounds),
            last=max(each["max"] for each in bounds),
        )
    if not marked:
        return []
    present = pa.chunked_array([chunk for column in numbered for chunk in column.chunks], pa.int64())
    found = pc.is_in(pa.array(sorted(marked), pa.int64()), value_set=present).to_pylist()
    return [sequence for sequence, here in zip(sorted(marked), found, strict=True) if here]
