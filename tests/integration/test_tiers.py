"""Data goes from hot to warm to cold when it is due, and comes back when asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.lifecycle import DataSelection, Dataset, Segment, SegmentState, StorageTier
from tallygate_server.domain.retention import RetentionPolicy
from tallygate_server.lifecycle.assembly import Lifecycle
from tallygate_server.lifecycle.tiers import Mover
from tallygate_server.lifecycle.tiers.groups import GROUP_SPAN_MAX, groups_of, is_ripe
from tallygate_server.storage.data_segments import read_segments
from tests.support.acme import ACME, apply_catalog, services
from tests.support.clock import FrozenClock
from tests.support.lifecycle import NOON, a_dataset, a_table, lifecycles


class OnePolicy:
    """The same policy for everything."""

    def __init__(self, policy: RetentionPolicy) -> None:
        self.policy = policy

    async def policy_for(self, _tenant_id: TenantId, _data_type: str) -> RetentionPolicy:
        """Return it."""
        return self.policy


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(NOON + timedelta(hours=1))


@pytest.fixture
async def lifecycle(
    fresh_database: str, fresh_redis: str, tmp_path: Path, clock: FrozenClock
) -> AsyncIterator[Lifecycle]:
    await apply_catalog(fresh_database)
    async with (
        services(fresh_database, fresh_redis, clock=clock) as [service],
        lifecycles(fresh_database, service, tmp_path, clock=clock) as made,
    ):
        yield made


@pytest.fixture
def mover(lifecycle: Lifecycle, clock: FrozenClock) -> Mover:
    return Mover(lifecycle.segments, OnePolicy(RetentionPolicy(tenant_id=ACME)), clock)


async def put_hot(lifecycle: Lifecycle, dataset: Dataset, table: pa.Table) -> Segment:
    prepared = await lifecycle.segments.prepare(dataset, table, tier=StorageTier.HOT)
    async with lifecycle.database.tenant_transaction(dataset.tenant_id) as connection:
        await lifecycle.segments.put_hot(connection, prepared)
    return prepared.segment


async def manifest(lifecycle: Lifecycle) -> list[Segment]:
    async with lifecycle.database.tenant_transaction(ACME) as connection:
        return await read_segments(connection, ACME, DataSelection(), state=None)


def tiers(segments: list[Segment]) -> list[str]:
    return [segment.tier.name for segment in segments]


async def test_data_leaves_the_hot_tier_after_30_days_and_the_warm_after_90(
    lifecycle: Lifecycle, mover: Mover, clock: FrozenClock
) -> None:
    dataset = await a_dataset(lifecycle)
    pieces = [a_table(NOON + timedelta(seconds=100 * place)) for place in range(3)]
    for piece in (pieces[1], pieces[0], pieces[2]):
        await put_hot(lifecycle, dataset, piece)

    clock.advance(NOON - clock.now() + timedelta(days=30))
    assert await mover.run() == {}
    clock.advance(NOON - clock.now() + timedelta(days=30, hours=2))
    assert await mover.run() == {"segments_warm": 3, "records_warm": 300}
    assert tiers(await manifest(lifecycle)) == ["WARM"]
    clock.advance(NOON - clock.now() + timedelta(days=90))
    assert await mover.run() == {}
    clock.advance(NOON - clock.now() + timedelta(days=91, hours=2))
    assert await mover.run() == {"segments_cold": 1, "records_cold": 300}

    [cold] = await manifest(lifecycle)
    assert cold.tier is StorageTier.COLD
    assert (await lifecycle.segments.read(cold)).equals(pa.concat_tables(pieces))


async def test_measuring_a_move_changes_nothing_and_tells_what_comes_of_it(lifecycle: Lifecycle, mover: Mover) -> None:
    dataset = await a_dataset(lifecycle)
    pieces = [a_table(NOON + timedelta(seconds=100 * place)) for place in range(2)]
    group = [await put_hot(lifecycle, dataset, piece) for piece in pieces]
    before = await manifest(lifecycle)

    measured = await mover.measure_group(dataset, group, StorageTier.COLD)
    half = await mover.measure_group(dataset, group, StorageTier.COLD, part=lambda table: table.slice(0, 100))

    assert await manifest(lifecycle) == before
    assert (half.segment_count, half.record_count, half.source_bytes) == (2, 100, measured.source_bytes // 2)
    moved = await mover.move_group(dataset, group, StorageTier.COLD)
    assert measured == replace(moved, segments=())
    assert measured.target_bytes < measured.source_bytes


async def test_a_damaged_segment_stays_behind_in_quarantine(
    lifecycle: Lifecycle, mover: Mover, clock: FrozenClock
) -> None:
    dataset = await a_dataset(lifecycle)
    damaged = await put_hot(lifecycle, dataset, a_table())
    other = await a_dataset(lifecycle, data_type="walk")
    await put_hot(lifecycle, other, a_table())
    async with lifecycle.database.tenant_transaction(ACME) as connection:
        await connection.exec_driver_sql(
            "UPDATE data_payloads SET payload = set_byte(payload, 500, 255 - get_byte(payload, 500))"
            f" WHERE segment_id = '{damaged.segment_id}'"
        )

    clock.advance(NOON - clock.now() + timedelta(days=40))
    await mover.run()

    found = {segment.data_type: segment for segment in await manifest(lifecycle)}
    assert found["walk"].tier is StorageTier.WARM
    assert (found["ride"].tier, found["ride"].state) == (StorageTier.HOT, SegmentState.QUARANTINED)
    assert await mover.run() == {}


async def test_groups_are_bounded_and_wait_for_company(lifecycle: Lifecycle) -> None:
    dataset = await a_dataset(lifecycle)
    made = [
        (await lifecycle.segments.prepare(dataset, a_table(count=2), tier=StorageTier.HOT)).segment for _ in range(3)
    ]
    large = [replace(segment, record_count=65_536) for segment in made]

    groups = list(groups_of(large))

    assert [len(group) for group in groups] == [2, 1]
    cutoff = made[0].end_time
    assert is_ripe(groups[0], cutoff, last=False)
    assert not is_ripe(groups[1], cutoff, last=True)
    assert is_ripe(groups[1], cutoff + timedelta(hours=1), last=True)


async def test_what_lies_months_apart_stays_apart(lifecycle: Lifecycle) -> None:
    dataset = await a_dataset(lifecycle)
    [first, last] = [
        (await lifecycle.segments.prepare(dataset, a_table(begin, count=2), tier=StorageTier.HOT)).segment
        for begin in (NOON, NOON + timedelta(days=20))
    ]
    span = last.end_time - first.start_time
    at_the_bound = replace(last, end_time=last.end_time + GROUP_SPAN_MAX - span)
    beyond = replace(last, end_time=at_the_bound.end_time + timedelta(microseconds=1))

    assert [len(group) for group in groups_of([first, at_the_bound])] == [2]
    assert [len(group) for group in groups_of([first, beyond])] == [1, 1]
