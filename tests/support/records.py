"""Puts and queries records through the use cases, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import DataSelection, Segment, SegmentState, StorageTier
from tallygate_server.lifecycle.assembly import Lifecycle
from tallygate_server.lifecycle.records import (
    ColumnRecords,
    NewRecords,
    PlainRecords,
    RecordQuery,
    RecordsHeader,
    RecordsPut,
    RecordsTotals,
)
from tallygate_server.storage.data_segments import read_segments
from tallygate_server.storage.datasets import read_dataset_by_id
from tallygate_server.storage.engine import connect
from tests.support.acme import ACME, ANN


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer."""

    header: RecordsHeader
    table: pa.Table
    totals: RecordsTotals

    @property
    def gaps(self) -> list[tuple[str, datetime, datetime]]:
        """Kinds and spans of the parts that are not given exactly."""
        return [(gap.kind, gap.start_time, gap.end_time) for gap in self.header.gaps]


async def forget_records(database_url: str) -> None:
    """Empty every table of records: cheaper than another database."""
    connection = await connect(database_url)
    try:
        await connection.execute(
            "TRUNCATE datasets, data_segments, data_payloads, stored_objects, data_record_ids, data_replaced_records,"
            " data_segment_reads, data_requests, data_keys"
        )
    finally:
        await connection.close()


async def put_table(
    lifecycle: Lifecycle,
    table: pa.Table,
    *,
    tenant_id: TenantId = ACME,
    account_id: AccountId = ANN,
    data_type: str = "ride",
    **more: Any,
) -> RecordsPut:
    """Put a table whose column `time` holds instants."""
    batch = ColumnRecords(table=table, field="columns", whole_times=True)
    return await lifecycle.records.put(
        NewRecords(tenant_id=tenant_id, account_id=account_id, data_type=data_type, batch=batch, **more)
    )


async def put_records(
    lifecycle: Lifecycle,
    records: Sequence[tuple[datetime, str, dict[str, Any]]],
    *,
    data_type: str = "ride",
    **more: Any,
) -> RecordsPut:
    """Put records one by one: time, id and values of each."""
    batch = PlainRecords(
        times_us=[round(time.timestamp() * 1_000_000) for time, _, _ in records],
        record_ids=[record_id for _, record_id, _ in records],
        values=[values for _, _, values in records],
    )
    wanted: dict[str, Any] = {"tenant_id": ACME, "account_id": ANN, "data_type": data_type, **more}
    return await lifecycle.records.put(NewRecords(batch=batch, **wanted))


async def query(lifecycle: Lifecycle, **wanted: Any) -> Answer:
    """Return everything that a query answers."""
    full: dict[str, Any] = {"tenant_id": ACME, "account_id": ANN, "data_type": "ride", **wanted}
    parts = [part async for part in lifecycle.record_queries.query(RecordQuery(**full))]
    header, *tables, totals = parts
    assert isinstance(header, RecordsHeader)
    assert isinstance(totals, RecordsTotals)
    whole = pa.concat_tables(tables) if tables else pa.table({"time": pa.array([], pa.timestamp("us", tz="UTC"))})
    assert totals.record_count == whole.num_rows
    return Answer(header=header, table=whole, totals=totals)


async def manifest(lifecycle: Lifecycle, *, state: SegmentState | None = SegmentState.LIVE) -> list[Segment]:
    """Return the tenant's segments by begin."""
    async with lifecycle.database.tenant_transaction(ACME) as connection:
        return await read_segments(connection, ACME, DataSelection(), state=state)


async def move(lifecycle: Lifecycle, segment: Segment, tier: StorageTier) -> Segment:
    """Put a segment's records into another tier."""
    async with lifecycle.database.tenant_transaction(segment.tenant_id) as connection:
        dataset = await read_dataset_by_id(connection, segment.tenant_id, segment.dataset_id)
    assert dataset is not None
    prepared = await lifecycle.segments.prepare(dataset, await lifecycle.segments.read(segment), tier=tier)
    [moved] = await lifecycle.segments.replace([segment], [prepared], actor="test", action="data.moved")
    return moved
