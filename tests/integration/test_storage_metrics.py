"""How much is stored is what sums over the made segments say; savings, costs and estimates follow from them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tallygate_server.domain.identifier import AccountId
from tallygate_server.domain.lifecycle import (
    CompressionForm,
    CompressionSettings,
    DataSelection,
    Segment,
    SegmentState,
    StorageOptimization,
    StorageTier,
)
from tallygate_server.domain.retention import RetentionPolicy
from tallygate_server.domain.storage_cost import TierFacts
from tallygate_server.errors import TenantNotFound
from tallygate_server.lifecycle.assembly import Lifecycle
from tallygate_server.lifecycle.policies import NewLegalHold
from tallygate_server.lifecycle.storage_metrics import StorageMetrics, WantedMetrics
from tallygate_server.lifecycle.storage_metrics.measuring import DAYS_KEPT
from tallygate_server.lifecycle.storage_metrics.opportunities import (
    LOSSLESS_RATIO_ASSUMED,
    LOSSY_RATIO_ASSUMED,
    VALUE_RETAINED_ASSUMED,
)
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.data_segments import add_reads, delete_segments, note_object
from tallygate_server.storage.removals import add_removal
from tallygate_server.storage.storage_sums import READ_DAYS, StoredGroup, read_days
from tallygate_server.telemetry import metrics
from tests.support.acme import ACME, BOB, GLOBEX, apply_catalog, services
from tests.support.clock import FrozenClock
from tests.support.lifecycle import NOON, a_dataset, a_table, lifecycles
from tests.support.stored_segments import a_segment, add_rows

HOT, WARM, COLD = StorageTier
STATISTICAL = CompressionForm.STATISTICAL
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Stand:
    """A lifecycle, its clock, and segments that are made of nothing but their row."""

    lifecycle: Lifecycle
    clock: FrozenClock

    async def add(self, segments: Sequence[Segment]) -> None:
        """Write rows of the manifest."""
        await add_rows(self.lifecycle, segments)

    async def get(self, **wanted: Any) -> StorageMetrics:
        """Ask for the metrics of acme."""
        return await self.lifecycle.storage.get(ACME, WantedMetrics(**{"limit": 100, **wanted}))

    async def set_policy(self, **terms: Any) -> None:
        """Set the policy for all data."""
        await self.lifecycle.policies.set(RetentionPolicy(tenant_id=ACME, **terms), actor="test", validate_only=False)


@pytest.fixture
async def stand(database_without_tenants: str, fresh_redis: str, tmp_path: Path) -> AsyncIterator[Stand]:
    await apply_catalog(database_without_tenants)
    clock = FrozenClock(NOON)
    async with (
        services(database_without_tenants, fresh_redis, clock=clock) as [service],
        lifecycles(database_without_tenants, service, tmp_path) as lifecycle,
    ):
        yield Stand(lifecycle, clock)


SEGMENTS = (
    a_segment(1, stored_bytes=1_000),
    a_segment(2, account_id=BOB, stored_bytes=3_000, original_bytes=3_300, quality_score=0.5),
    a_segment(3, tier=WARM, lossless=True, stored_bytes=400, original_bytes=2_000, age_days=40),
    a_segment(4, tier=COLD, lossless=True, stored_bytes=300, original_bytes=2_000, age_days=100),
    a_segment(5, data_type="sleep", tier=COLD, form=STATISTICAL, stored_bytes=50, original_bytes=900, age_days=200),
    a_segment(6, data_type="sleep", stored_bytes=700, original_bytes=600, state=SegmentState.QUARANTINED),
)


def total(segments: Iterable[Segment], name: str) -> int:
    return sum(getattr(segment, name) for segment in segments)


async def test_sums_are_those_of_the_segments(stand: Stand) -> None:
    await stand.add([*SEGMENTS, replace(SEGMENTS[0], state=SegmentState.DELETED, segment_id="seg_gone")])
    metrics = await stand.get(group_by=("data_type", "tier"))

    assert metrics.total_bytes == total(SEGMENTS, "stored_bytes")
    assert metrics.original_bytes == total(SEGMENTS, "original_bytes")
    assert metrics.bytes_by_tier == {HOT: 1_000 + 3_000 + 700, WARM: 400, COLD: 350}
    assert metrics.compression_savings_bytes == 1_600 + 1_700 + 850
    groups = {(group.data_type, group.tier): group for group in metrics.groups}
    assert [(*key, group.stored_bytes) for key, group in groups.items()] == [
        ("ride", HOT, 4_000),
        ("sleep", HOT, 700),
        ("ride", WARM, 400),
        ("ride", COLD, 300),
        ("sleep", COLD, 50),
    ]
    assert groups["ride", HOT].record_count == 30
    assert groups["ride", HOT].quality_score == pytest.approx((10 * 1 + 20 * 0.5) / 30)
    assert groups["sleep", COLD].original_bytes == 900


async def test_one_account_or_sort_of_data_is_summed_alone_and_nothing_is_one_row(stand: Stand) -> None:
    await stand.add(SEGMENTS)

    [everything] = (await stand.get()).groups
    assert (everything.stored_bytes, everything.record_count) == (total(SEGMENTS, "stored_bytes"), 210)
    of_bob = await stand.get(account_id=BOB, group_by=("account_id",))
    assert [(group.account_id, group.stored_bytes) for group in of_bob.groups] == [(BOB, 3_000)]
    assert (of_bob.total_bytes, of_bob.history, of_bob.projection) == (3_000, [], [])
    assert (await stand.get(data_type="sleep")).total_bytes == 750
    [nothing] = (await stand.get(data_type="none")).groups
    assert (nothing.stored_bytes, nothing.quality_score) == (0, 0.0)
    with pytest.raises(TenantNotFound):
        await stand.lifecycle.storage.get(GLOBEX, WantedMetrics(limit=1))


async def test_pages_go_on_where_the_one_before_ended_even_between_equals(stand: Stand) -> None:
    await stand.add([a_segment(number, account_id=AccountId(f"user{number % 7}")) for number in range(1, 22)])
    group_by = ("account_id", "data_type")
    whole = (await stand.get(group_by=group_by)).groups

    seen: list[StoredGroup] = []
    while page := (
        await stand.get(
            group_by=group_by,
            limit=2,
            after=[seen[-1].stored_bytes, seen[-1].account_id, seen[-1].data_type] if seen else (),
        )
    ).groups:
        seen += page
    assert seen == list(whole)
    assert len(seen) == 7
    assert (await stand.get(limit=1, after=[10**9])).groups == (await stand.get()).groups
    assert (await stand.get(limit=1, after=[0])).groups == []


async def test_reads_of_the_last_thirty_days_are_counted(stand: Stand) -> None:
    await stand.add(SEGMENTS)
    async with stand.lifecycle.database.tenant_transaction(ACME) as connection:
        for age in (0, READ_DAYS - 1, READ_DAYS):
            await add_reads(connection, ACME, ["seg_1"], now=NOON - age * DAY)
    groups = (await stand.get(group_by=("tier",))).groups

    assert {group.tier: group.access_count for group in groups} == {HOT: 2, WARM: 0, COLD: 0}


async def test_costs_are_bytes_times_prices(stand: Stand) -> None:
    gb = 1_000_000_000
    await stand.add(
        [
            a_segment(1, stored_bytes=4 * gb, original_bytes=5 * gb),
            a_segment(2, tier=COLD, lossless=True, stored_bytes=10 * gb, original_bytes=100 * gb),
        ]
    )
    metrics = await stand.get()
    prices = TierFacts().prices_per_gb

    assert metrics.cost == 4 * prices[HOT] + 10 * prices[COLD]
    assert metrics.cost_by_tier == {HOT: 4 * prices[HOT], WARM: 0, COLD: 10 * prices[COLD]}
    assert metrics.cost_without_lifecycle == 105 * prices[HOT]


async def test_removed_segments_are_counted_as_saved(stand: Stand) -> None:
    lifecycle = stand.lifecycle
    dataset = await a_dataset(lifecycle)
    prepared = await lifecycle.segments.prepare(dataset, a_table(), tier=HOT)
    async with lifecycle.database.tenant_transaction(ACME) as connection:
        await lifecycle.segments.put_hot(connection, prepared)
    warm = await lifecycle.segments.prepare(dataset, a_table(), tier=WARM)
    [segment] = await lifecycle.segments.replace([prepared.segment], [warm], actor="test", action="data.moved")
    assert (await stand.get()).deletion_savings_bytes == 0

    async def count(connection: Connection) -> None:
        await add_removal(
            connection, ACME, "ride", day=NOON.date(), record_count=100, removed_bytes=segment.stored_bytes
        )

    await lifecycle.segments.replace([segment], [], actor="test", action="data.removed", in_transaction=count)

    assert (await stand.get()).deletion_savings_bytes == segment.stored_bytes
    assert (await stand.get(data_type="ride")).deletion_savings_bytes == segment.stored_bytes
    assert (await stand.get(data_type="sleep")).deletion_savings_bytes == 0


async def test_days_are_written_down_and_projected(stand: Stand) -> None:
    measure = stand.lifecycle.measuring.measure
    for day in range(4):
        await stand.add([a_segment(10 * day + 1, stored_bytes=500), a_segment(10 * day + 2, tier=COLD)])
        assert await measure() == {"tenants_measured": 1}
        # The row of today is put right until the day is over.
        await stand.add([a_segment(10 * day + 3, stored_bytes=500)])
        assert await measure() == {"tenants_measured": 1}
        stand.clock.advance(DAY)

    found = await stand.get(history_days=30)
    assert [point.bytes_by_tier for point in found.history] == [
        {HOT: 1_000 * n, COLD: 1_000 * n} for n in (1, 2, 3, 4, 4)
    ]
    assert [point.day for point in found.history] == [(NOON + n * DAY).date() for n in range(5)]
    # Four days grew by 2,000; the fifth has not begun to.
    assert found.projected_growth_bytes == 30 * 2_000
    assert len(found.projection) == 30
    assert found.projection[0].total_bytes == 10_000
    assert [len((await stand.get(history_days=2)).history), len((await stand.get(history_days=2)).projection)] == [2, 2]
    assert [point.bytes_by_tier for point in (await stand.get(data_type="none")).history] == [{}]


async def test_what_is_gone_stands_with_nothing_and_other_tenants_do_not_count(
    stand: Stand, database_without_tenants: str
) -> None:
    await apply_catalog(database_without_tenants, GLOBEX)
    segments = [a_segment(1), a_segment(2, tenant_id=GLOBEX, tier=WARM, state=SegmentState.QUARANTINED)]
    await stand.add(segments)
    assert await stand.lifecycle.measuring.measure() == {"tenants_measured": 2}
    await stand.lifecycle.measuring.publish()
    read = {tier: metrics.stored_bytes._read()[tier,] for tier in ("hot", "warm", "cold")}  # type: ignore[misc,index]
    assert read == {"hot": 1_000, "warm": 1_000, "cold": 0}
    assert metrics.segments_quarantined._read() == 1  # type: ignore[misc]
    assert metrics.storage_cost._read()["warm", "USD"] == pytest.approx(0.12e-6)  # type: ignore[misc,index]

    stand.clock.advance(DAY)
    async with stand.lifecycle.database.tenant_transaction(ACME) as connection:
        await delete_segments(connection, segments[:1], now=stand.clock.now())
    for expected in (2, 1):
        assert await stand.lifecycle.measuring.measure() == {"tenants_measured": expected}
        stand.clock.advance(DAY)

    assert [point.total_bytes for point in (await stand.get()).history] == [1_000, 0, 0]


async def test_days_are_kept_for_two_years(stand: Stand) -> None:
    await stand.add([a_segment(1)])
    for age in (DAYS_KEPT + 1, DAYS_KEPT, 0):
        stand.clock.set(NOON - age * DAY)
        await stand.lifecycle.measuring.measure()
    async with stand.lifecycle.database.tenant_transaction(ACME) as connection:
        days = await read_days(connection, ACME, data_type="", first_day=(NOON - 2_000 * DAY).date())

    assert [(NOON.date() - point.day).days for point in days] == [DAYS_KEPT, 0]


# --- What could be saved ----------------------------------------------------------------------------------


async def opportunities(stand: Stand) -> dict[tuple[StorageOptimization, str], Any]:
    found = (await stand.get()).opportunities
    assert list(found) == sorted(found, key=lambda each: -each.saved_bytes)
    return {(each.action, each.data_type): each for each in found}


async def test_late_moves_are_estimated_by_what_the_same_sort_gave(stand: Stand) -> None:
    late = [
        a_segment(1, stored_bytes=2_000, original_bytes=2_000, age_days=30),
        a_segment(2, tier=WARM, lossless=True, stored_bytes=400, original_bytes=2_000, age_days=90),
        a_segment(3, data_type="sleep", stored_bytes=800, original_bytes=800, age_days=31),
    ]
    in_time = [
        a_segment(4, stored_bytes=9_000, age_days=29.9),
        a_segment(5, stored_bytes=9_000, age_days=300, stay_end_time=NOON + DAY),
        a_segment(6, tier=WARM, lossless=True, stored_bytes=100, original_bytes=500, age_days=89),
    ]
    await stand.add([*late, *in_time])
    found = await opportunities(stand)

    prices = TierFacts().prices_per_gb
    ride = found.pop((StorageOptimization.COMPRESS, "ride"))
    assert ride.saved_bytes == 2_000 - 2_000 * (400 + 100) / (2_000 + 500)
    assert ride.saved_cost == (2_000 * prices[HOT] - 400 * prices[WARM]) / 1_000_000_000
    assert ride.value_lost == 0
    sleep = found.pop((StorageOptimization.COMPRESS, "sleep"))
    assert sleep.saved_bytes == 800 - 160
    assert "other data" in sleep.explanation
    colder = found.pop((StorageOptimization.NONE, "ride"))
    assert (colder.saved_bytes, colder.saved_cost) == (0, 400 * (prices[WARM] - prices[COLD]) / 1_000_000_000)
    assert found == {}


async def test_without_anything_measured_an_estimate_says_that_it_is_assumed(stand: Stand) -> None:
    await stand.set_policy(
        compression=CompressionSettings(form=STATISTICAL), compression_threshold_days=60, standard_retention_days=-1
    )
    await stand.add([a_segment(1, stored_bytes=1_000, original_bytes=1_000, age_days=60)])
    found = await opportunities(stand)

    move = found[StorageOptimization.COMPRESS, "ride"]
    shrink = found[StorageOptimization.SUMMARIZE, "ride"]
    assert move.saved_bytes == 1_000 * (1 - LOSSLESS_RATIO_ASSUMED)
    assert shrink.saved_bytes == 1_000 * (1 - LOSSY_RATIO_ASSUMED)
    assert shrink.value_lost == pytest.approx(1 - VALUE_RETAINED_ASSUMED)
    assert "assumed" in move.explanation
    assert "assumed" in shrink.explanation


async def test_compression_with_loss_is_estimated_by_what_it_measurably_kept(stand: Stand) -> None:
    await stand.set_policy(compression=CompressionSettings(form=STATISTICAL), compression_threshold_days=60)
    lifecycle = stand.lifecycle
    dataset = await a_dataset(lifecycle)
    old = a_segment(1, stored_bytes=1_000, original_bytes=10_000, age_days=300, dataset_id=dataset.dataset_id)
    lossy = await lifecycle.segments.prepare_lossy(
        dataset,
        b"a curve",
        form=STATISTICAL,
        replaced=[old],
        facts={"compression": {"value_retained": 0.75}},
        verify=lambda _payload: None,
        codecs={},
        tier=COLD,
    )
    candidate = a_segment(3, stored_bytes=8_000, original_bytes=20_000, tier=COLD, lossless=True, age_days=61)
    too_young = a_segment(6, stored_bytes=8_000, original_bytes=20_000, tier=COLD, lossless=True, age_days=59)
    await stand.add([lossy.segment, candidate, too_young])

    found = (await opportunities(stand))[StorageOptimization.SUMMARIZE, "ride"]
    ratio = lossy.segment.stored_bytes / 10_000
    assert found.saved_bytes == 8_000 - round(20_000 * ratio)
    assert found.value_lost == pytest.approx(0.25 * 30 / (10 + 30 + 60))
    assert "75%" in found.explanation


async def test_low_value_expired_damaged_and_orphaned_data_could_go(stand: Stand) -> None:
    await stand.set_policy(deletion_threshold_days=100, quality_threshold=0.4, standard_retention_days=400)
    await stand.add(
        [
            a_segment(1, tier=COLD, lossless=True, stored_bytes=70, quality_score=0.39, age_days=100),
            a_segment(2, tier=COLD, lossless=True, stored_bytes=600, quality_score=0.4, age_days=101),
            a_segment(3, tier=COLD, lossless=True, stored_bytes=5, quality_score=0.1, age_days=99),
            a_segment(4, tier=COLD, lossless=True, stored_bytes=9, age_days=400),
            a_segment(5, tier=COLD, lossless=True, stored_bytes=9, age_days=400, retention_end_time=NOON + DAY),
            a_segment(6, data_type="sleep", stored_bytes=11, state=SegmentState.QUARANTINED),
        ]
    )
    async with stand.lifecycle.database.tenant_transaction(ACME) as connection:
        for age, path in ((2 * DAY, "left"), (timedelta(minutes=1), "being_written")):
            await note_object(connection, ACME, path, kind="segment", stored_bytes=33, now=NOON - age)
    found = await opportunities(stand)

    ride = found.pop((StorageOptimization.DELETE, "ride"))
    assert ride.saved_bytes == 70 + 9
    assert ride.value_lost == pytest.approx((10 * 0.39 + 40) / (10 * 0.39 + 20 * 0.4 + 30 * 0.1 + 40 + 50))
    assert (found.pop((StorageOptimization.DELETE, "sleep"))).saved_bytes == 11
    assert (found.pop((StorageOptimization.DELETE, ""))).saved_bytes == 33
    assert found == {}


async def test_what_is_on_hold_could_not(stand: Stand) -> None:
    await stand.set_policy(deletion_threshold_days=100, quality_threshold=0.9)
    await stand.add(
        [
            a_segment(1, tier=COLD, lossless=True, stored_bytes=70, quality_score=0.3, age_days=200),
            a_segment(2, tier=COLD, lossless=True, stored_bytes=80, quality_score=0.3, age_days=200, account_id=BOB),
        ]
    )
    await stand.lifecycle.holds.create(
        ACME, NewLegalHold(selection=DataSelection(account_id=BOB), reason_text="a case"), actor="test"
    )
    found = await opportunities(stand)

    assert found[StorageOptimization.DELETE, "ride"].saved_bytes == 70
    assert found[StorageOptimization.DELETE, "ride"].saved_cost == Decimal(70) * Decimal("0.023") / 1_000_000_000
