"""Any puts, in any order, with and without ids, moved between tiers: a query tells what a dictionary would."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tallygate_server.domain.lifecycle import StorageTier
from tallygate_server.lifecycle.assembly import Lifecycle
from tallygate_server.lifecycle.tiers.records import read_merged
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.data_records import forget_replaced
from tallygate_server.storage.datasets import read_dataset_by_id
from tests.support.acme import apply_catalog, services
from tests.support.clock import FrozenClock
from tests.support.lifecycle import NOON, lifecycles
from tests.support.long_run import LONG
from tests.support.records import manifest, put_records, query

EXAMPLES: Final = 200 if LONG else 12

seconds = st.integers(0, 40)
records = st.tuples(seconds, st.sampled_from(("", "", "a", "b", "c")), st.integers(-3, 3))
steps = st.one_of(
    st.lists(records, min_size=1, max_size=6),
    st.lists(records, min_size=1, max_size=6),
    st.tuples(st.integers(1, 4), st.sampled_from((StorageTier.WARM, StorageTier.COLD))),
)


@pytest.fixture
async def lifecycle(fresh_database: str, fresh_redis: str, tmp_path: Path) -> AsyncIterator[Lifecycle]:
    await apply_catalog(fresh_database)
    clock = FrozenClock(NOON + timedelta(hours=1))
    async with (
        services(fresh_database, fresh_redis, clock=clock) as [service],
        lifecycles(fresh_database, service, tmp_path, clock=clock) as made,
    ):
        yield made


async def merge_some(lifecycle: Lifecycle, data_type: str, count: int, tier: StorageTier) -> None:
    """Put the oldest segments of one tier together into another, as the mover does."""
    segments = [each for each in await manifest(lifecycle) if each.data_type == data_type and each.tier < tier]
    group = [each for each in segments if each.tier is segments[0].tier][:count]
    if not group:
        return
    async with lifecycle.database.tenant_transaction(group[0].tenant_id) as connection:
        dataset = await read_dataset_by_id(connection, group[0].tenant_id, group[0].dataset_id)
    assert dataset is not None
    table, dropped = await read_merged(lifecycle.segments, group)

    async def forget(connection: Connection) -> None:
        assert await forget_replaced(connection, dataset.tenant_id, dataset.dataset_id, dropped) == len(dropped)

    prepared = [await lifecycle.segments.prepare(dataset, table, tier=tier)] if table.num_rows else []
    await lifecycle.segments.replace(group, prepared, actor="test", action="data.moved", in_transaction=forget)


numbers = itertools.count()


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # Every step talks to real stores: shrinking would only take long.
    phases=[Phase.explicit, Phase.generate],
    print_blob=True,
)
@given(st.lists(steps, min_size=1, max_size=8), seconds, seconds)
async def test_a_query_tells_what_a_dictionary_would(
    lifecycle: Lifecycle,
    drawn: list[list[tuple[int, str, int]] | tuple[int, StorageTier]],
    start: int,
    end: int,
) -> None:
    data_type = f"t{next(numbers)}"
    by_id: dict[str, tuple[int, str, int]] = {}
    without: list[tuple[int, str, int]] = []
    put = 0

    for step in drawn:
        if isinstance(step, tuple):
            await merge_some(lifecycle, data_type, *step)
            continue
        batch = [(NOON + timedelta(seconds=time), record_id, {"n": float(n)}) for time, record_id, n in step]
        known = len(by_id)
        by_id |= {record[1]: record for record in step if record[1]}
        without += [record for record in step if not record[1]]
        answer = await put_records(lifecycle, batch, data_type=data_type)
        named = sum(1 for record in step if record[1])
        assert answer.replaced_count == named - (len(by_id) - known)
        put += 1
    if not put:
        return
    model = sorted([*by_id.values(), *without])
    everything = await query(lifecycle, data_type=data_type, with_record_ids=True)
    with pytest.MonkeyPatch.context() as cramped:
        bounds = {"HELD_BYTES_MAX": 100, "MERGED_ROWS_MAX": 2, "MANIFEST_PAGE": 2, "GROUP_SEGMENTS_MAX": 2}
        for bound, value in bounds.items():
            cramped.setattr(f"tallygate_server.lifecycle.records.reading.{bound}", value)
        again = await query(lifecycle, data_type=data_type, with_record_ids=True)
    ranged = await query(
        lifecycle,
        data_type=data_type,
        with_record_ids=True,
        start_time=NOON + timedelta(seconds=min(start, end)),
        end_time=NOON + timedelta(seconds=max(start, end) + 1),
    )

    for found, expected in (
        (everything, model),
        (again, model),
        (ranged, [record for record in model if min(start, end) <= record[0] <= max(start, end)]),
    ):
        rows = found.table.to_pylist()
        told = [(int((row["time"] - NOON).total_seconds()), row.get("_id") or "", int(row["n"])) for row in rows]
        assert [time for time, _, _ in told] == sorted(time for time, _, _ in told)
        assert sorted(told) == expected
    assert everything.header.dataset.record_count == len(model)
