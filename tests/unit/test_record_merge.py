"""Overlapping tables come out as one, in the order of time."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from tallygate_server.lifecycle.records.batches import time_array
from tallygate_server.lifecycle.records.merge import Merge, slices


def a_table(times: list[int], label: int) -> pa.Table:
    return pa.table({"time": time_array(times), "label": pa.array([label] * len(times), pa.int64())})


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), max_size=8).map(sorted), max_size=6))
def test_everything_comes_once_by_time_then_by_table(parts: list[list[int]]) -> None:
    parts = sorted((part for part in parts if part), key=lambda part: part[0])
    merge = Merge()
    taken: list[tuple[int, int]] = []

    for label, times in enumerate(parts):
        take(merge, times[0], taken)
        merge.add(a_table(times, label))
    take(merge, None, taken)

    assert merge.empty
    assert taken == sorted((time, label) for label, times in enumerate(parts) for time in times)


def take(merge: Merge, before: int | None, taken: list[tuple[int, int]]) -> None:
    table = merge.take(before)
    if table is not None:
        times = table.column("time").cast(pa.int64()).to_pylist()
        taken.extend(zip(times, table.column("label").to_pylist(), strict=True))


def test_only_what_is_at_or_behind_the_frontier_is_held() -> None:
    merge = Merge()
    merge.add(a_table([1, 2, 3], 0))
    merge.add(a_table([], 1))

    taken = merge.take(3)

    assert taken is not None
    assert taken.num_rows == 2
    assert merge.row_count == 1
    assert merge.take(3) is None
    assert not merge.empty


def test_what_is_put_in_order_at_once_is_bounded() -> None:
    merge = Merge()
    merge.add(a_table([1, 2, 3, 9], 0))
    merge.add(a_table([1, 2, 2, 2], 1))

    assert merge.bound(None, 8) is None
    assert merge.bound(9, 7) == 9
    assert merge.bound(None, 7) == 9
    assert merge.bound(None, 2) == 2
    assert merge.bound(None, 1) == 2


def test_what_takes_too_much_is_dropped_from_an_instant_on() -> None:
    merge = Merge()
    merge.add(a_table([1, 2, 3, 4], 0))
    merge.add(a_table([1, 5, 6, 7], 1))
    half = merge.byte_count // 2

    assert merge.shed(2 * half) is None
    assert merge.shed(half) == 4
    assert merge.byte_count <= half
    taken: list[tuple[int, int]] = []
    take(merge, None, taken)
    assert taken == [(1, 0), (1, 1), (2, 0), (3, 0)]


def test_one_instant_is_kept_whole() -> None:
    merge = Merge()
    merge.add(a_table([5] * 10, 0))
    merge.add(a_table([5, 6], 1))

    assert merge.shed(1) == 6
    assert merge.row_count == 11
    assert merge.shed(1) is None


def test_slices_have_a_bounded_number_of_rows() -> None:
    assert [part.num_rows for part in slices(a_table(list(range(7)), 0), 3)] == [3, 3, 1]
