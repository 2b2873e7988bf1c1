"""Raw usage that a tenant no longer wants in Postgres: moved into cold records, and its partitions dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import pyarrow as pa
import structlog
from pyarrow import csv

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import DataColumn
from tallygate_server.domain.limits import USAGE_RETENTION_DAYS_MIN
from tallygate_server.lifecycle.own_data.archive import ARROW_TYPES, TIME_TYPE, DatasetTaken, RecordArchive, RowsChanged
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.partitions import drop_partition, ended_partitions, is_empty
from tallygate_server.storage.usage_export import (
    SOURCES,
    UsageBatch,
    UsageSource,
    count_rows,
    next_account,
    read_rows,
    retentions,
    take_out,
)

log = structlog.get_logger(__name__)

ROWS_PER_SEGMENT_MAX: Final = 50_000
BYTES_PER_SEGMENT_MAX: Final = 32 * 1024 * 1024
"""As text; the last row may reach beyond."""
RETENTION_MIN: Final = timedelta(days=USAGE_RETENTION_DAYS_MIN)
_EVERY_TENANT: Final = TenantId("*")


@dataclass(slots=True, kw_only=True)
class ExportedUsage:
    """What was done, or would be."""

    records: int = 0
    segments: int = 0
    partitions_dropped: int = 0
    accounts_waiting: int = 0
    """Their usage is not in the rollups yet, or changed meanwhile: the next run takes it."""
    accounts_refused: int = 0
    """They keep other records under the name."""


class UsageExport:
    """Exports months that lie wholly beyond a tenant's retention, and drops partitions that nobody has rows in."""

    def __init__(self, archive: RecordArchive, clock: Clock) -> None:
        """Export into records."""
        self._archive = archive
        self._database = archive.segments.database
        self._clock = clock

    async def run(self, *, validate_only: bool = False) -> ExportedUsage:
        """Export all that is due, account by account in batches; with `validate_only` only count.

        Raises StoreUnavailable.
        """
        done = ExportedUsage()
        async with self._database.tenant_snapshot(_EVERY_TENANT) as connection:
            tenants = await retentions(connection)
        for tenant_id, retention in tenants.items():
            before = export_horizon(self._clock.now(), retention)
            for source in SOURCES:
                if validate_only:
                    async with self._database.tenant_snapshot(tenant_id) as connection:
                        rows = await count_rows(connection, source, tenant_id, before=before)
                    done.records += rows
                    done.segments += -(-rows // ROWS_PER_SEGMENT_MAX)
                else:
                    await self._export(source, tenant_id, before, done)
        await self._drop_partitions(tenants.values(), done, validate_only=validate_only)
        return done

    async def _export(self, source: UsageSource, tenant_id: TenantId, before: datetime, done: ExportedUsage) -> None:
        account_id: AccountId | None = AccountId("")
        while account_id is not None:
            async with self._database.tenant_snapshot(tenant_id) as connection:
                account_id = await next_account(connection, source, tenant_id, after=account_id, before=before)
            if account_id is None:
                return
            try:
                while exported := await self._export_batch(source, tenant_id, account_id, before):
                    done.records += exported
                    done.segments += 1
            except DatasetTaken:
                log.warning("usage_not_exported", tenant_id=tenant_id, why="another dataset has the name")
                done.accounts_refused += 1
            except RowsChanged:
                done.accounts_waiting += 1

    async def _export_batch(
        self, source: UsageSource, tenant_id: TenantId, account_id: AccountId, before: datetime
    ) -> int:
        async with self._database.tenant_snapshot(tenant_id) as connection:
            text = await read_rows(
                connection,
                source,
                tenant_id,
                account_id,
                before=before,
                limit=ROWS_PER_SEGMENT_MAX,
                bytes_max=BYTES_PER_SEGMENT_MAX,
            )
        rows = await asyncio.to_thread(parse_rows, source.columns, text)
        if not rows.table.num_rows:
            return 0
        if not rows.rolled_up:
            raise RowsChanged(source.data_type)
        batch = UsageBatch(
            source=source,
            tenant_id=tenant_id,
            account_id=account_id,
            before=before,
            last_key=rows.table.column(source.key)[-1].as_py(),
            row_count=rows.table.num_rows,
            row_hash=rows.row_hash,
        )
        dataset = await self._archive.dataset(tenant_id, account_id, source.data_type, source.columns)

        async def take(connection: Connection) -> None:
            if not await take_out(connection, batch):
                raise RowsChanged(source.data_type)

        await self._archive.move(dataset, rows.table, action="data.exported", take_out=take)
        return batch.row_count

    async def _drop_partitions(self, kept: Iterable[timedelta], done: ExportedUsage, *, validate_only: bool) -> None:
        # Without a tenant whose usage ends, partitions stay as they are.
        before = max((export_horizon(self._clock.now(), each) for each in kept), default=None)
        if before is None:
            return
        async with self._database.tenant_snapshot(_EVERY_TENANT) as connection:
            ended = await ended_partitions(connection, before=before)
        for partition in ended:
            async with self._database.tenant_snapshot(_EVERY_TENANT) as connection:
                empty = await is_empty(connection, partition)
            if not empty:
                continue
            if validate_only or await drop_partition(self._database.url, partition):
                done.partitions_dropped += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedRows:
    """Rows as records, in the order of their keys."""

    table: pa.Table
    row_hash: int
    rolled_up: bool
    """Whether all of them are in the rollups, so that sums can do without them."""


def parse_rows(columns: Sequence[DataColumn], text: bytes) -> ExportedRows:
    """Return the rows of a CSV as `read_rows` writes it, with exactly the types of the columns. Pure."""
    types = {column.name: ARROW_TYPES[column.type] for column in columns}
    table = csv.read_csv(
        pa.BufferReader(text),
        # In one piece: a row may be of any length.
        read_options=csv.ReadOptions(use_threads=False, block_size=len(text) + 1),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types=types | {"recorded_time": TIME_TYPE, "waits": pa.int64(), "row_hash": pa.int64()},
            # Postgres quotes an empty text and leaves out one that is missing.
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    hashes = table.column("row_hash").to_numpy()
    return ExportedRows(
        table=table.select(["recorded_time", *types]).rename_columns(["time", *types]).combine_chunks(),
        row_hash=int(np.bitwise_xor.reduce(hashes)) if len(hashes) else 0,
        rolled_up=not np.any(table.column("waits").to_numpy()),
    )


def export_horizon(now: datetime, retention: timedelta) -> datetime:
    """Return the begin of the month, in UTC, before which all usage lies wholly beyond the retention.

    What may still be asked for by the id of its request is kept, whatever the retention says.
    """
    oldest = (now - max(retention, RETENTION_MIN)).astimezone(UTC)
    return oldest.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
