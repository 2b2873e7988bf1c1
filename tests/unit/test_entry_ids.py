from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tallygate_server.storage.ledger import entry_ids

EPOCH_MS = 1_735_689_600_000


def test_ids_carry_time_node_and_sequence() -> None:
    make = entry_ids(5, lambda: EPOCH_MS + 1_000)

    assert [make() for _ in range(3)] == [(1_000 << 22) | (5 << 12) | n for n in range(3)]


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=300))
def test_ids_rise_whatever_the_clock_does(steps: list[int]) -> None:
    now_ms = EPOCH_MS + 10_000

    def now() -> int:
        return now_ms

    make = entry_ids(1_023, now)
    ids = []
    for step in steps:
        now_ms += step
        ids += [make(), make()]

    assert ids == sorted(set(ids))


def test_more_than_a_milliseconds_worth_is_taken_from_the_next() -> None:
    make = entry_ids(0, lambda: EPOCH_MS + 1)

    ids = [make() for _ in range(10_000)]

    assert len(set(ids)) == 10_000
    assert ids == sorted(ids)
    assert ids[-1] >> 22 == 3


def test_nodes_never_share_an_id() -> None:
    makes = [entry_ids(node, lambda: EPOCH_MS + 1) for node in (0, 1, 1_023)]

    assert len({make() for make in makes for _ in range(4_096)}) == 3 * 4_096


def test_ids_fit_the_column_for_decades() -> None:
    until_2090_ms = EPOCH_MS + 65 * 366 * 86_400_000

    assert entry_ids(1_023, lambda: until_2090_ms)() < 2**63
