"""Records are put whole or not at all, and come back from every tier; what is not there exactly is named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tallygate_server.catalog import CatalogSource
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import CompressionForm, Segment, SegmentState, StorageTier
from tallygate_server.errors import (
    AccountNotFound,
    ArchiveCorruption,
    IntegrityViolation,
    InvalidRequest,
    RequestIdReused,
    RetrievalTimeout,
    SchemaDrift,
    StorageLimitExceeded,
    Unavailable,
)
from tallygate_server.lifecycle import lossy
from tallygate_server.lifecycle.assembly import Lifecycle, open_lifecycle
from tallygate_server.lifecycle.compression.report import compression_facts
from tallygate_server.lifecycle.keys import MasterKeys
from tallygate_server.lifecycle.records import NewRecords, PlainRecords, RecordQuery, RecordsPut
from tallygate_server.lifecycle.records.reading import RecordReading
from tallygate_server.storage.data_keys import KeyState, set_key_state
from tallygate_server.storage.datasets import read_dataset_by_id
from tallygate_server.storage.engine import DatabaseRole, connect
from tests.conftest import copied_database
from tests.support.acme import ACME, ANN, services
from tests.support.clock import FrozenClock
from tests.support.lifecycle import NOON, a_table, lifecycles, options_in
from tests.support.records import forget_records, manifest, move, put_records, put_table, query

CATALOG = """
tenant: {tenant}
default_plan: free
auto_provision: {provision}
features:
  history_days: {{kind: config}}
  storage_limit_bytes: {{kind: config}}
plans:
  free:
    rank: 0
    allowances:
      history_days: 180
      storage_limit_bytes: {limit}
"""
LIMIT = 1_000_000
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """What all tests of this module share."""

    database_url: str
    directory: Path
    clock: FrozenClock
    lifecycle: Lifecycle


@pytest.fixture(scope="module")
async def stores(
    database_url: str, template_database: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stores]:
    directory = tmp_path_factory.mktemp("records")
    clock = FrozenClock(NOON + timedelta(hours=1))
    async with (
        copied_database(database_url, template_database) as copied,
        services(copied, redis_url, clock=clock) as [service],
        lifecycles(copied, service, directory, clock=clock) as lifecycle,
    ):
        await service.catalogs.apply(CatalogSource(CATALOG.format(tenant=ACME, provision="true", limit=LIMIT)))
        yield Stores(database_url=copied, directory=directory, clock=clock, lifecycle=lifecycle)


@pytest.fixture
async def lifecycle(stores: Stores) -> Lifecycle:
    await forget_records(stores.database_url)
    return stores.lifecycle


@pytest.fixture
def clock(stores: Stores) -> FrozenClock:
    return stores.clock


async def every(database_url: str, sql: str) -> list[Any]:
    """Return rows of the tenant, whatever table they stand in."""
    connection = await connect(database_url, DatabaseRole.LIFECYCLE, **{"tallygate.tenant_id": ACME})
    try:
        rows: list[Any] = await connection.fetch(sql)
        return rows
    finally:
        await connection.close()


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


async def test_a_query_merges_tiers_and_reads_only_what_it_needs(lifecycle: Lifecycle) -> None:
    first, second, third = (a_table(NOON + timedelta(seconds=start), 60) for start in (-7200, -30, 0))
    for table in (third, first, second):
        await put_table(lifecycle, table)
    before, overlapping, newest = await manifest(lifecycle)
    await move(lifecycle, before, StorageTier.COLD)
    await move(lifecycle, overlapping, StorageTier.WARM)

    everything = await query(lifecycle)
    part = await query(
        lifecycle, start_time=NOON - timedelta(seconds=30), end_time=NOON + timedelta(seconds=10), columns=("speed",)
    )
    limited = await query(lifecycle, record_count_max=61)

    merged = pa.concat_tables([first, second, third]).sort_by("time")
    assert everything.table.column("time").equals(merged.column("time"))
    assert sorted(map(str, rows_of(everything.table))) == sorted(map(str, rows_of(merged)))
    assert everything.totals.segment_count == 3
    assert everything.totals.read_bytes == sum(segment.stored_bytes for segment in await manifest(lifecycle))
    assert part.table.column_names == ["time", "speed"]
    assert (part.table.num_rows, part.totals.segment_count) == (30 + 10 + 10, 2)
    assert part.totals.read_bytes < everything.totals.read_bytes
    assert limited.table.num_rows == 61
    assert not everything.gaps
    assert {tier.tier for tier in everything.header.dataset.tiers} == set(StorageTier)
    assert newest.tier is StorageTier.HOT


async def test_reads_are_counted_once_for_a_query(lifecycle: Lifecycle, stores: Stores) -> None:
    await put_table(lifecycle, a_table(count=10))
    await put_table(lifecycle, a_table(NOON + timedelta(minutes=10), count=10))

    await query(lifecycle)
    await query(lifecycle, end_time=NOON + timedelta(minutes=5))
    last = await query(lifecycle, record_count_max=1)

    [early, late] = await manifest(lifecycle)
    found = await every(stores.database_url, "SELECT segment_id, day, read_count FROM data_segment_reads")
    now = lifecycle.clock.now()
    assert {(row["segment_id"], row["day"], row["read_count"]) for row in found} == {
        (early.segment_id, now.date(), 3),
        # Fetched together with the first, though the last query needed none of it.
        (late.segment_id, now.date(), 2),
    }
    assert last.header.dataset.access_time == now


async def test_nobody_sees_beyond_the_plans_history(lifecycle: Lifecycle, clock: FrozenClock) -> None:
    visible = clock.now() - 180 * DAY
    await put_table(lifecycle, a_table(visible - timedelta(seconds=5), count=10))

    answer = await query(lifecycle)
    later = await query(lifecycle, start_time=visible + timedelta(seconds=1))
    hidden = await query(lifecycle, end_time=visible - timedelta(seconds=3))

    assert answer.header.visible_start_time == visible
    assert answer.table.num_rows == 5
    assert answer.gaps == [("beyond_history", visible - timedelta(seconds=5), visible)]
    assert (later.table.num_rows, later.gaps) == (4, [])
    assert (hidden.table.num_rows, [kind for kind, _, _ in hidden.gaps]) == (0, ["beyond_history"])


async def test_storage_is_limited_to_the_byte(lifecycle: Lifecycle) -> None:
    (tier,) = (await put_table(lifecycle, a_table())).dataset.tiers
    exact, short = TenantId("exact"), TenantId("short")
    for tenant_id, limit in ((exact, 2 * tier.stored_bytes), (short, 2 * tier.stored_bytes - 1)):
        catalog = CATALOG.format(tenant=tenant_id, provision="true", limit=limit)
        await lifecycle.service.catalogs.apply(CatalogSource(catalog))
        await put_table(lifecycle, a_table(), tenant_id=tenant_id)

    await put_table(lifecycle, a_table(), tenant_id=exact)
    with pytest.raises(StorageLimitExceeded) as caught:
        await put_table(lifecycle, a_table(), tenant_id=short)

    assert caught.value.facts == {
        "limit_bytes": str(2 * tier.stored_bytes - 1),
        "used_bytes": str(tier.stored_bytes),
    }
    assert (await query(lifecycle, tenant_id=short)).table.num_rows == 100
    await put_table(lifecycle, a_table(), tenant_id=short, account_id=AccountId("bob"))


async def test_unknown_accounts_are_made_only_where_the_tenant_says_so(lifecycle: Lifecycle) -> None:
    strict = TenantId("strict")
    await lifecycle.service.catalogs.apply(CatalogSource(CATALOG.format(tenant=strict, provision="false", limit=LIMIT)))

    with pytest.raises(AccountNotFound):
        await put_table(lifecycle, a_table(), tenant_id=strict)
    await lifecycle.service.accounts.identify(strict, [], account_id=ANN)
    await put_table(lifecycle, a_table(), tenant_id=strict)

    await put_table(lifecycle, a_table())
    assert (await lifecycle.service.accounts.get(ACME, ANN)).account_id == ANN


async def test_a_refused_batch_leaves_nothing(lifecycle: Lifecycle, stores: Stores) -> None:
    with pytest.raises(InvalidRequest):
        await put_records(lifecycle, [(NOON, "a", {"n": 1.0}), (NOON, "b", {"n": "x"})], request_id="r", content=b"1")
    assert not await every(stores.database_url, "SELECT FROM datasets")

    await put_records(lifecycle, [(NOON, "a", {"n": 1.0})], request_id="r", content=b"2")
    with pytest.raises(SchemaDrift):
        await put_records(lifecycle, [(NOON, "a", {"n": 2.0, "m": 1.0})])
    assert rows_of((await query(lifecycle, with_record_ids=True)).table) == [{"time": NOON, "n": 1.0, "_id": "a"}]


async def test_concurrent_puts_of_the_same_ids_leave_one_of_each(lifecycle: Lifecycle) -> None:
    ids = [f"id-{number}" for number in range(20)]

    async def put(turn: int) -> int:
        records = [(NOON + timedelta(seconds=turn), each, {"turn": float(turn)}) for each in ids]
        return (await put_records(lifecycle, records)).replaced_count

    replaced = await asyncio.gather(*(put(turn) for turn in range(6)))
    table = (await query(lifecycle, with_record_ids=True)).table

    assert sorted(replaced) == [0, 20, 20, 20, 20, 20]
    assert sorted(table.column("_id").to_pylist()) == sorted(ids)
    assert len(set(table.column("turn").to_pylist())) == 1
    assert (await query(lifecycle)).header.dataset.record_count == 20


async def test_the_same_request_at_the_same_time_puts_once(lifecycle: Lifecycle) -> None:
    async def put() -> RecordsPut:
        return await put_records(lifecycle, [(NOON, "", {"n": 1.0})], request_id="r", content=b"1")

    answers = await asyncio.gather(*(put() for _ in range(5)))

    assert sorted(answer.replayed for answer in answers) == [False, True, True, True, True]
    assert len({answer.dataset.dataset_id for answer in answers}) == 1
    assert (await query(lifecycle)).table.num_rows == 1


async def test_ids_are_known_again_after_the_key_has_changed(lifecycle: Lifecycle, clock: FrozenClock) -> None:
    await put_records(lifecycle, [(NOON, "a", {"n": 1.0})], request_id="r", content=b"1")
    await lifecycle.keys.retire(ACME, ANN)
    clock.advance(timedelta(seconds=1))

    second = await put_records(lifecycle, [(NOON, "a", {"n": 2.0})])
    with pytest.raises(RequestIdReused):
        await put_records(lifecycle, [(NOON, "a", {"n": 1.0})], request_id="r", content=b"2")
    again = await put_records(lifecycle, [(NOON, "a", {"n": 1.0})], request_id="r", content=b"1")

    assert second.replaced_count == 1
    assert again.replayed
    assert len({segment.key_id for segment in await manifest(lifecycle)}) == 2
    assert (await query(lifecycle)).table.column("n").to_pylist() == [2.0]


async def test_nothing_that_was_said_is_readable_in_the_database(lifecycle: Lifecycle, stores: Stores) -> None:
    secret = "a-very-private-remark"
    await put_records(lifecycle, [(NOON, secret, {"note": secret})], source=secret, request_id="r", content=b"1")

    tables = await every(
        stores.database_url,
        "SELECT c.relname AS name FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace"
        " AND has_table_privilege(c.oid, 'SELECT')",
    )
    said = [
        row["said"]
        for table in tables
        for row in await every(stores.database_url, f"SELECT t::text AS said FROM {table['name']} t")
    ]
    assert any("note" in row for row in said), "names of columns are"
    assert not [row for row in said if secret in row or secret.encode().hex() in row]


class Moving:
    """Reads as the store does, and moves every segment when the second is about to be read."""

    def __init__(self, lifecycle: Lifecycle, tier: StorageTier) -> None:
        self._lifecycle = lifecycle
        self._tier = tier
        self._read = lifecycle.segments.read
        self._read_many = lifecycle.segments.read_many
        self.reads: list[str] = []

    async def read(self, segment: Segment, *, columns: Any = None) -> pa.Table:
        """Read a segment."""
        await self._note(segment)
        return await self._read(segment, columns=columns)

    async def read_many(self, segments: Sequence[Segment], *, columns: Any = None) -> list[pa.Table]:
        """Read several."""
        await self._note(segments[0])
        return await self._read_many(segments, columns=columns)

    async def _note(self, segment: Segment) -> None:
        self.reads.append(segment.segment_id)
        if len(self.reads) == 2:
            for each in await manifest(self._lifecycle):
                await move(self._lifecycle, each, self._tier)


@pytest.mark.parametrize("tier", [StorageTier.WARM, StorageTier.COLD])
@pytest.mark.parametrize("together", [1, 2])
async def test_what_moves_while_it_is_read_is_neither_lost_nor_told_twice(
    lifecycle: Lifecycle, tier: StorageTier, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tallygate_server.lifecycle.records.reading.GROUP_SEGMENTS_MAX", together)
    for start in (0, 50, 50, 200, 300):
        await put_table(lifecycle, a_table(NOON + timedelta(seconds=start), 100))
    before = (await query(lifecycle)).table
    moving = Moving(lifecycle, tier)
    monkeypatch.setattr(lifecycle.segments, "read", moving.read)
    monkeypatch.setattr(lifecycle.segments, "read_many", moving.read_many)

    after = (await query(lifecycle)).table

    assert len(moving.reads) > 2
    assert {segment.tier for segment in await manifest(lifecycle)} == {tier}
    assert after.num_rows == 500
    assert after.column("time").equals(before.column("time"))
    assert sorted(map(str, rows_of(after))) == sorted(map(str, rows_of(before)))


async def test_damage_ends_the_answer_once_and_is_named_from_then_on(lifecycle: Lifecycle, stores: Stores) -> None:
    await put_table(lifecycle, a_table())
    await put_table(lifecycle, a_table(NOON + timedelta(minutes=10)))
    [segment, _] = await manifest(lifecycle)
    cold = await move(lifecycle, segment, StorageTier.COLD)
    file = stores.directory / "objects" / cold.object_path
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)

    with pytest.raises(ArchiveCorruption) as caught:
        await query(lifecycle)
    answer = await query(lifecycle)

    assert caught.value.facts["segment_id"] == cold.segment_id
    assert [each.segment_id for each in await manifest(lifecycle, state=SegmentState.QUARANTINED)] == [cold.segment_id]
    assert answer.gaps == [("quarantined", NOON, cold.end_time)]
    assert answer.table.num_rows == 100


async def test_a_server_without_the_master_key_puts_nothing_in_quarantine(lifecycle: Lifecycle, stores: Stores) -> None:
    await put_table(lifecycle, a_table())
    options = options_in(stores.directory, master_keys=MasterKeys(keys={"other": bytes(32)}))

    async with open_lifecycle(stores.database_url, lifecycle.service, options, clock=lifecycle.clock) as other:
        with pytest.raises(IntegrityViolation):
            await query(other)

    assert [segment.state for segment in await manifest(lifecycle)] == [SegmentState.LIVE]
    assert (await query(lifecycle)).table.num_rows == 100


async def test_a_part_whose_key_is_gone_is_named(lifecycle: Lifecycle) -> None:
    await put_table(lifecycle, a_table())
    [segment] = await manifest(lifecycle)
    await lifecycle.keys.retire(ACME, ANN)
    await put_table(lifecycle, a_table(NOON + timedelta(minutes=10)))
    async with lifecycle.database.tenant_transaction(ACME) as connection:
        await set_key_state(connection, ACME, segment.key_id, KeyState.DESTROYED, now=lifecycle.clock.now())

    answer = await query(lifecycle)

    assert [kind for kind, _, _ in answer.gaps] == ["erased"]
    assert answer.table.num_rows == 100


async def compress(lifecycle: Lifecycle, segment: Segment, form: lossy.LossyForm, target: CompressionForm) -> Segment:
    async with lifecycle.database.tenant_transaction(segment.tenant_id) as connection:
        dataset = await read_dataset_by_id(connection, segment.tenant_id, segment.dataset_id)
    assert dataset is not None
    settings = lossy.LossySettings(form=form)
    result = lossy.encode(await lifecycle.segments.read(segment), settings)
    prepared = await lifecycle.segments.prepare_lossy(
        dataset,
        result.payload,
        form=target,
        replaced=[segment],
        facts=compression_facts(result, settings),
        verify=lambda _payload: None,
        codecs={},
        tier=StorageTier.WARM,
    )
    [made] = await lifecycle.segments.replace([segment], [prepared], actor="test", action="data.compressed")
    return made


async def test_compressed_parts_are_named_and_approximated_only_where_that_is_wanted(lifecycle: Lifecycle) -> None:
    for minutes in (0, 10, 20):
        await put_table(lifecycle, a_table(NOON + timedelta(minutes=minutes)))
    [curve, exact, windows] = await manifest(lifecycle)
    await compress(lifecycle, curve, lossy.LossyForm.PIECEWISE, CompressionForm.STATISTICAL)
    await compress(lifecycle, windows, lossy.LossyForm.SUMMARY, CompressionForm.SUMMARY)

    without = await query(lifecycle)
    approximate = await query(lifecycle, allow_approximation=True)

    assert [kind for kind, _, _ in without.gaps] == ["compressed", "compressed"]
    assert all(not gap.max_errors and "left out" in gap.explanation for gap in without.header.gaps)
    assert rows_of(without.table) == rows_of(a_table(exact.start_time))
    assert approximate.table.num_rows == 200
    first, second = approximate.header.gaps
    assert first.max_errors
    assert not second.max_errors
    for column, bound in first.max_errors.items():
        truth = a_table().column(column).to_pylist()
        given = approximate.table.column(column).to_pylist()[:100]
        assert max(abs(float(a) - float(b)) for a, b in zip(truth, given, strict=True)) <= bound


async def test_an_archive_that_does_not_answer_is_not_waited_for_longer_than_set(
    lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put_table(lifecycle, a_table())
    [segment] = await manifest(lifecycle)
    await move(lifecycle, segment, StorageTier.COLD)
    closed = asyncio.Event()

    async def never(_path: str) -> bytes:
        await closed.wait()
        return b""

    monkeypatch.setattr(lifecycle.objects, "get", never)
    hurried = RecordReading(
        lifecycle.segments,
        tenants=lifecycle.service.tenants,
        history=lifecycle.policies,
        retrieval_timeout_ms=1,
        clock=lifecycle.clock,
    )

    with pytest.raises(RetrievalTimeout) as caught:
        async for _part in hurried.query(RecordQuery(tenant_id=ACME, account_id=ANN, data_type="ride")):
            pass
    assert caught.value.facts["timeout_ms"] == "1"


async def test_small_segments_are_fetched_together_and_bounded(
    lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for minute in range(5):
        await put_table(lifecycle, a_table(NOON + timedelta(minutes=minute), 10))
    sizes: list[int] = []
    read_many = lifecycle.segments.read_many

    async def counted(segments: Sequence[Segment], *, columns: Any = None) -> list[pa.Table]:
        sizes.append(len(segments))
        return await read_many(segments, columns=columns)

    monkeypatch.setattr(lifecycle.segments, "read_many", counted)
    together = (await query(lifecycle)).table
    monkeypatch.setattr("tallygate_server.lifecycle.records.reading.GROUP_SEGMENTS_MAX", 2)
    by_twos = await query(lifecycle)
    [first, *_] = await manifest(lifecycle)
    monkeypatch.setattr("tallygate_server.lifecycle.records.reading.GROUP_BYTES_MAX", first.stored_bytes)
    apart = await query(lifecycle)

    assert sizes == [5, 2, 2]
    assert together.equals(by_twos.table)
    assert together.equals(apart.table)
    assert by_twos.totals.segment_count == apart.totals.segment_count == 5


async def test_a_query_that_is_left_lets_go_of_what_it_fetches_ahead(lifecycle: Lifecycle) -> None:
    for minutes in range(5):
        await put_table(lifecycle, a_table(NOON + timedelta(minutes=10 * minutes)))

    parts = lifecycle.record_queries.query(RecordQuery(tenant_id=ACME, account_id=ANN, data_type="ride"))
    async for part in parts:
        if isinstance(part, pa.Table):
            break
    await parts.aclose()

    assert not [task for task in asyncio.all_tasks() if "_read" in repr(task.get_coro())]


async def test_columns_added_later_are_missing_before(lifecycle: Lifecycle) -> None:
    await put_records(lifecycle, [(NOON, "", {"a": 1.0, "b": 2.0})])
    await put_records(lifecycle, [(NOON + timedelta(seconds=1), "x", {"a": 3.0})])

    answer = await query(lifecycle, with_record_ids=True)

    assert rows_of(answer.table) == [
        {"time": NOON, "a": 1.0, "b": 2.0, "_id": None},
        {"time": NOON + timedelta(seconds=1), "a": 3.0, "b": None, "_id": "x"},
    ]
    assert [column.nullable for column in answer.header.columns] == [False, True]


async def test_the_quality_of_batches_adds_up_and_stays_with_the_segment(lifecycle: Lifecycle) -> None:
    await put_records(lifecycle, [(NOON + timedelta(seconds=second), "", {"a": 1.0}) for second in range(3)])
    put = await put_records(lifecycle, [(NOON, "", {"a": None})], source="watch")

    [first, second] = await manifest(lifecycle)
    facts = await lifecycle.segments.read_facts(second)

    assert put.quality["score"] == 0
    assert put.dataset.quality_score == 0.75
    assert {first.quality_score, second.quality_score} == {1.0, 0.0}
    told = facts if facts.get("source") else await lifecycle.segments.read_facts(first)
    assert told["quality"] == put.quality
    assert told["source"] == "watch"


async def test_a_dataset_that_keeps_changing_is_left_to_a_retry(
    lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tallygate_server.lifecycle.records.writing.ATTEMPTS_MAX", 0)
    batch = PlainRecords(times_us=[0], values=[{}], record_ids=[""])

    with pytest.raises(Unavailable):
        await lifecycle.records.put(NewRecords(tenant_id=ACME, account_id=ANN, data_type="ride", batch=batch))
