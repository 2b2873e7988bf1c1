from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, strategies

from tallygate_local_stripe.periods import cycle, share, step
from tests.local_stripe.conftest import at

INTERVALS = strategies.sampled_from(["day", "week", "month", "year"])
MOMENTS = strategies.integers(min_value=at("2000-01-01T00:00:00"), max_value=at("2100-01-01T00:00:00"))


@given(anchor=MOMENTS, moment=MOMENTS, interval=INTERVALS, count=strategies.integers(1, 5))
def test_a_moment_is_in_one_cycle_and_cycles_follow_one_another(
    anchor: int, moment: int, interval: str, count: int
) -> None:
    start, end = cycle(anchor, interval, count, moment)

    assert start <= moment < end
    assert cycle(anchor, interval, count, end)[0] == end
    assert cycle(anchor, interval, count, start) == (start, end)


@given(anchor=MOMENTS, count=strategies.integers(-60, 60))
def test_a_month_keeps_the_day_or_ends_with_its_last(anchor: int, count: int) -> None:
    before = datetime.fromtimestamp(anchor, UTC)
    after = datetime.fromtimestamp(step(anchor, "month", count), UTC)
    next_day = datetime.fromtimestamp(step(anchor, "month", count) + 86_400, UTC)

    assert after.time() == before.time()
    assert after.day == before.day or (after.day < before.day and next_day.day == 1)


@pytest.mark.parametrize(
    ("amount", "part", "whole", "expected"),
    [
        (1000, 1, 3, 333),
        (1000, 2, 3, 667),
        (-1000, 2, 3, -667),
        (1, 1, 2, 1),
        (-1, 1, 2, -1),
        (999, 0, 5, 0),
        (5, 1, 0, 0),
    ],
)
def test_a_share_is_rounded_half_away_from_zero(amount: int, part: int, whole: int, expected: int) -> None:
    assert share(amount, part_seconds=part, whole_seconds=whole) == expected
