"""Rows that become records: written as cold segments, read back, and only then deleted where they stood."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import ColumnType, DataColumn, Dataset, DatasetShape, Segment, StorageTier
from tallygate_server.lifecycle.segments import SegmentStore
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.datasets import add_dataset, read_dataset, read_dataset_by_id, write_dataset
from tallygate_server.unique_ids import new_id

ACTOR: Final = "tallygate upkeep"
TIME_TYPE: Final = pa.timestamp("us", tz="UTC")
ARROW_TYPES: Final[Mapping[ColumnType, pa.DataType]] = {
    ColumnType.INT64: pa.int64(),
    ColumnType.DOUBLE: pa.float64(),
    ColumnType.STRING: pa.string(),
    ColumnType.BOOL: pa.bool_(),
    ColumnType.TIMESTAMP: TIME_TYPE,
}


class DatasetTaken(Exception):
    """Somebody keeps records of another shape under the name that our own data has."""


class RowsChanged(Exception):
    """The rows are not what they were when they were read: nothing was deleted; look again."""


class RecordArchive:
    """Moves rows into datasets of the accounts that they are about."""

    def __init__(self, segments: SegmentStore, clock: Clock) -> None:
        """Write segments with this store."""
        self.segments = segments
        self._clock = clock

    async def dataset(
        self, tenant_id: TenantId, account_id: AccountId, data_type: str, columns: Sequence[DataColumn] = ()
    ) -> Dataset:
        """Return the account's dataset of our own data, made when missing: documents where there are no columns.

        Raises DatasetTaken.
        """
        wanted = tuple(columns)
        shape = DatasetShape.TIME_SERIES if wanted else DatasetShape.DOCUMENTS
        async with self.segments.database.tenant_transaction(tenant_id) as connection:
            present = await read_dataset(connection, tenant_id, account_id, data_type)
            if present is None:
                now = self._clock.now()
                present = await add_dataset(
                    connection,
                    Dataset(
                        tenant_id=tenant_id,
                        dataset_id=new_id("ds", now),
                        account_id=account_id,
                        data_type=data_type,
                        shape=shape,
                        columns=wanted,
                        create_time=now,
                        update_time=now,
                    ),
                )
        if (present.shape, present.columns) != (shape, wanted) or present.has_record_ids:
            raise DatasetTaken(data_type)
        return present

    async def move(
        self, dataset: Dataset, table: pa.Table, *, action: str, take_out: Callable[[Connection], Awaitable[None]]
    ) -> Segment:
        """Write records as a cold segment and delete the rows they were, in one transaction with the manifest.

        `take_out` deletes the rows and raises RowsChanged unless they are all there as they were read; then, as after
        a crash at any moment, the rows stay, and the object that nobody came to need is swept. Raises RowsChanged,
        StoreUnavailable, ArchiveCorruption.
        """
        by_time = await asyncio.to_thread(table.sort_by, "time")
        prepared = await self.segments.prepare(dataset, by_time, tier=StorageTier.COLD)

        async def in_transaction(connection: Connection) -> None:
            present = await read_dataset_by_id(connection, dataset.tenant_id, dataset.dataset_id, lock=True)
            if present is None:
                # The account was erased meanwhile; what its key sealed is gone with it.
                raise RowsChanged(dataset.dataset_id)
            await take_out(connection)
            await write_dataset(
                connection,
                dataset.tenant_id,
                dataset.dataset_id,
                {
                    "update_time": self._clock.now(),
                    "quality_sum": present.quality_sum + table.num_rows,
                    "quality_weight": present.quality_weight + table.num_rows,
                },
            )

        [segment] = await self.segments.replace(
            [], [prepared], actor=ACTOR, action=action, in_transaction=in_transaction
        )
        return segment


def documents(times: Sequence[datetime], texts: Sequence[str]) -> pa.Table:
    """Return records that are documents."""
    return pa.table({"time": pa.array(times, TIME_TYPE), "document": pa.array(texts, pa.string())})


def canonical_json(value: Any) -> str:
    """Return the one text of a JSON value: sorted keys, no spaces, no escapes that are not needed."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def instant_text(instant: datetime | None) -> str | None:
    """Return an instant as RFC 3339 has it, to the microsecond."""
    return None if instant is None else instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
