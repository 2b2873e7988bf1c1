"""Measure how fast a year of one account's records goes from hot to warm to cold, against a plain `COPY ... TO`."""

from __future__ import annotations

import asyncio
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tallygate_server.clock import ShiftedClock
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import (
    DataSelection,
    Dataset,
    DatasetShape,
    Segment,
    StorageTier,
)
from tallygate_server.domain.retention import RetentionPolicy
from tallygate_server.embedded import EmbeddedServers
from tallygate_server.lifecycle import columnar
from tallygate_server.lifecycle.keys import DataKeys, KeyStore, MasterKeys
from tallygate_server.lifecycle.objects import ObjectStore
from tallygate_server.lifecycle.segments import SegmentStore
from tallygate_server.lifecycle.tiers import Mover
from tallygate_server.storage import migrations
from tallygate_server.storage.data_segments import read_segments
from tallygate_server.storage.datasets import add_dataset
from tallygate_server.storage.engine import Database, DatabaseRole
from tallygate_server.storage.plain_table import PlainTable

ROWS_DEFAULT: Final = 30_000_000
ROWS_PER_PUT: Final = 100_000
STEP: Final = timedelta(seconds=1)
RATE_FLOOR: Final = 0.5
MEMORY_CEILING_BYTES: Final = 2**30
DAY: Final = timedelta(days=1)

TENANT: Final = TenantId("bench")
ACCOUNT: Final = AccountId("ann")


class RecordsDiffer(Exception):
    """What came back from the cold tier is not what was put: the speed means nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TierReport:
    """What was measured."""

    rows: int
    columns: int
    copy_s: float
    copy_bytes: int
    put_s: float
    to_warm_s: float
    to_cold_s: float
    hot_bytes: int
    warm_bytes: int
    cold_bytes: int
    cold_objects: int
    day_query_ms: float
    day_rows: int
    day_segments: int
    memory_bytes: int

    @property
    def rate_ratio(self) -> float:
        """Rows a second through both moves over rows a second of the copy."""
        return self.copy_s / (self.to_warm_s + self.to_cold_s)

    @property
    def holds(self) -> bool:
        """Whether what was promised is reached."""
        return self.rate_ratio >= RATE_FLOOR and self.memory_bytes < MEMORY_CEILING_BYTES

    def as_json(self) -> dict[str, Any]:
        """Return the same for programs."""
        measured = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**measured, "rate_ratio": self.rate_ratio, "rate_floor": RATE_FLOOR, "holds": self.holds}


class _OneTenant:
    """The defaults, for everything."""

    async def policy_for(self, tenant_id: TenantId, _data_type: str) -> RetentionPolicy:
        return RetentionPolicy(tenant_id=tenant_id)


async def run_tier_benchmark(
    table: pa.Table, rows: int, *, parent_dir: Path | None = None, note: Callable[[str], None] = lambda _: None
) -> TierReport:
    """Repeat records to that many rows, move them, and measure; raise RecordsDiffer or SetupError."""
    with tempfile.TemporaryDirectory(prefix="tallygate-bench-", dir=parent_dir) as name:
        directory = Path(name)
        # Root's stores run as somebody else, who must be able to pass.
        directory.chmod(0o711)
        async with EmbeddedServers.start(data_dir=directory / "data", with_redis=False) as servers:
            return await measure_tiers(servers.database_url, directory, table, rows, note=note)


async def measure_tiers(
    database_url: str,
    directory: Path,
    table: pa.Table,
    rows: int,
    *,
    note: Callable[[str], None] = lambda _: None,
) -> TierReport:
    """Fill an empty database and measure; raise RecordsDiffer."""
    await migrations.upgrade(database_url)
    note(f"a plain table of {rows:,} rows")
    plain = await PlainTable.create(database_url, table, count=rows, step=STEP)
    try:
        started = time.perf_counter()
        copy_bytes = await plain.copy_out()
        copy_s = time.perf_counter() - started
    finally:
        await plain.close()
    clock = ShiftedClock()
    database = Database(database_url, role=DatabaseRole.LIFECYCLE, pool_size=8)
    try:
        objects = ObjectStore.open((directory / "objects").as_uri())
        master_keys = MasterKeys(keys={"bench": bytes(32)})
        keys = DataKeys(database, KeyStore(ObjectStore.open((directory / "keys").as_uri()), master_keys), clock)
        store = SegmentStore(database, objects, keys, clock)
        return await _measure(store, clock, table, rows, copy_s=copy_s, copy_bytes=copy_bytes, note=note)
    finally:
        await database.close()


async def _measure(
    store: SegmentStore,
    clock: ShiftedClock,
    table: pa.Table,
    rows: int,
    *,
    copy_s: float,
    copy_bytes: int,
    note: Callable[[str], None],
) -> TierReport:
    begin = datetime(2025, 1, 1, tzinfo=UTC)
    dataset = await _dataset(store, clock)
    note(f"putting {rows:,} records into the hot tier")
    started = time.perf_counter()
    for first in range(0, rows, ROWS_PER_PUT):
        batch = await asyncio.to_thread(repeated, table, begin, first, min(ROWS_PER_PUT, rows - first))
        prepared = await store.prepare(dataset, batch, tier=StorageTier.HOT)
        async with store.database.tenant_transaction(TENANT) as connection:
            await store.put_hot(connection, prepared)
    put_s = time.perf_counter() - started
    mover = Mover(store, _OneTenant(), clock)
    hot = await _segments(store)
    end = begin + rows * STEP
    note("moving to warm")
    clock.shift(end + 32 * DAY - datetime.now(UTC))
    started = time.perf_counter()
    # Warm data leaves after 90 days: kept back until all is warm, so that both moves are measured whole.
    await mover.move_due(StorageTier.HOT)
    to_warm_s = time.perf_counter() - started
    warm = await _segments(store)
    note("moving to cold")
    clock.shift(end + 92 * DAY - datetime.now(UTC))
    started = time.perf_counter()
    await mover.move_due(StorageTier.WARM)
    to_cold_s = time.perf_counter() - started
    cold = await _segments(store)
    memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if {segment.tier for segment in cold} != {StorageTier.COLD} or sum(s.record_count for s in cold) != rows:
        raise RecordsDiffer("not every record arrived")
    note("comparing a day, and all counts")
    day = begin + ((end - begin) // 2 // DAY) * DAY
    started = time.perf_counter()
    found, read = await _range(store, day, day + DAY)
    day_query_ms = (time.perf_counter() - started) * 1000
    first = int((day - begin) / STEP)
    if columnar.values_digest(found) != columnar.values_digest(
        repeated(table, begin, first, min(int(DAY / STEP), rows - first))
    ):
        raise RecordsDiffer("the day has other values")
    return TierReport(
        rows=rows,
        columns=table.num_columns,
        copy_s=copy_s,
        copy_bytes=copy_bytes,
        put_s=put_s,
        to_warm_s=to_warm_s,
        to_cold_s=to_cold_s,
        hot_bytes=sum(segment.stored_bytes for segment in hot),
        warm_bytes=sum(segment.stored_bytes for segment in warm),
        cold_bytes=sum(segment.stored_bytes for segment in cold),
        cold_objects=len(cold),
        day_query_ms=day_query_ms,
        day_rows=found.num_rows,
        day_segments=read,
        memory_bytes=memory_bytes,
    )


def repeated(table: pa.Table, begin: datetime, first: int, count: int) -> pa.Table:
    """Return rows `first` to `first + count` of a table without end that repeats the given rows, one each step."""
    numbers = np.arange(first, first + count, dtype=np.int64)
    step = int(STEP / timedelta(microseconds=1))
    epoch = int((begin - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))
    times = pa.array(epoch + numbers * step).cast(columnar.TIME_TYPE)
    values = table.drop_columns([columnar.TIME]).take(pa.array(numbers % table.num_rows))
    return values.add_column(0, columnar.TIME, times).combine_chunks()


async def _dataset(store: SegmentStore, clock: ShiftedClock) -> Dataset:
    now = clock.now()
    dataset = Dataset(
        tenant_id=TENANT,
        dataset_id="ds_bench",
        account_id=ACCOUNT,
        data_type="ride",
        shape=DatasetShape.TIME_SERIES,
        create_time=now,
        update_time=now,
    )
    async with store.database.tenant_transaction(TENANT) as connection:
        return await add_dataset(connection, dataset)


async def _segments(store: SegmentStore, **chosen: Any) -> list[Segment]:
    async with store.database.tenant_transaction(TENANT) as connection:
        return await read_segments(connection, TENANT, DataSelection(**chosen))


async def _range(store: SegmentStore, begin: datetime, end: datetime) -> tuple[pa.Table, int]:
    segments = await _segments(store, start_time=begin, end_time=end)
    table = pa.concat_tables([await store.read(segment) for segment in segments])
    kind = table.column("time").type
    times = table.column("time")
    inside = pc.and_(
        pc.greater_equal(times, pa.scalar(begin, kind)),
        pc.less(times, pa.scalar(end, kind)),
    )
    return table.filter(inside), len(segments)
