"""Growth is a robust line: exact on a line, unmoved by a few odd days, and its tiers add up."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallygate_server.domain.lifecycle import StorageTier
from tallygate_server.domain.storage_cost import GB_BYTES, TierFacts
from tallygate_server.domain.storage_trend import TREND_DAYS_MIN, StoragePoint, growth_of, slope_of
from tests.support.long_run import LONG

HOT, WARM, COLD = StorageTier
TODAY = date(2026, 3, 1)


def point(days_ago: int, hot: int, warm: int = 0, cold: int = 0) -> StoragePoint:
    return StoragePoint(day=TODAY - timedelta(days=days_ago), bytes_by_tier={HOT: hot, WARM: warm, COLD: cold})


def test_a_line_is_projected_as_it_is() -> None:
    history = [point(ago, 1_000 - 10 * ago, 500 + 2 * ago, 300 - 5 * ago) for ago in range(40, -1, -1)]
    growth = growth_of(history)

    assert growth is not None
    assert growth.bytes_per_day == {HOT: 10, WARM: -2, COLD: 5}
    assert growth.month_bytes == 30 * 13
    assert growth.project(history[-1], 2) == [point(-1, 1_010, 498, 305), point(-2, 1_020, 496, 310)]


def test_a_tier_never_falls_below_nothing() -> None:
    growth = growth_of([point(2, 30), point(1, 20), point(0, 10)])

    assert growth is not None
    assert [each.bytes_by_tier[HOT] for each in growth.project(point(0, 10), 3)] == [0, 0, 0]


def test_a_few_odd_days_and_moves_between_tiers_do_not_bend_it() -> None:
    history = [point(ago, 10_000 - 100 * ago) for ago in range(30, -1, -1)]
    for odd in (3, 11, 20, 21):
        history[odd] = StoragePoint(day=history[odd].day, bytes_by_tier={HOT: 9_000_000})
    growth = growth_of(history)
    moved = [point(ago, 0 if ago < 5 else 1_000 - ago, 1_000 - ago if ago < 5 else 0) for ago in range(30, -1, -1)]
    growth_with_moves = growth_of(moved)

    assert growth is not None
    assert growth.month_bytes == pytest.approx(3_000, rel=0.15)
    assert growth_with_moves is not None
    assert growth_with_moves.month_bytes == 30


def test_too_few_days_tell_nothing() -> None:
    history = [point(ago, 100 - ago) for ago in range(TREND_DAYS_MIN - 1, -1, -1)]

    assert growth_of(history) is not None
    assert growth_of(history[1:]) is None
    assert growth_of([]) is None
    # Days before the last ninety do not count.
    assert growth_of([point(91, 1), point(90, 1), *history[1:]]) is None
    assert growth_of([point(89, 1), *history[1:]]) is not None


@settings(max_examples=2_000 if LONG else 20)
@given(
    st.lists(st.integers(0, 10**12), min_size=3, max_size=12),
    st.lists(st.integers(0, 10**12), min_size=3, max_size=12),
)
def test_the_tiers_add_up_to_the_whole(hot: list[int], cold: list[int]) -> None:
    days = min(len(hot), len(cold))
    history = [point(days - 1 - n, hot[n], 0, cold[n]) for n in range(days)]
    growth = growth_of(history)

    assert growth is not None
    whole = slope_of([(each.day, each.total_bytes) for each in history])
    assert sum(growth.bytes_per_day.values()) == pytest.approx(whole, rel=1e-6, abs=1.0)


def test_costs_are_exact_and_rounded_once() -> None:
    tiers = TierFacts(prices_per_gb={HOT: Decimal("0.25"), WARM: Decimal("0.12"), COLD: Decimal("0.023")})

    cost = tiers.cost({HOT: 3 * GB_BYTES, COLD: 1})
    assert cost == Decimal("0.75") + Decimal("0.023") / GB_BYTES
    assert tiers.minor_units(cost) == 75
    assert tiers.minor_units(Decimal("0.005")) == 1
    assert TierFacts(currency="JPY").minor_units(Decimal("12.5")) == 13
    assert TierFacts(currency="KWD").minor_units(Decimal("0.0014")) == 1
