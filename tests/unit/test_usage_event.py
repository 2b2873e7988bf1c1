"""When an event may still be told, and in which period it then counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tallygate_server.domain.limits import (
    EVENT_AGE_SECONDS_MAX,
    EVENT_AHEAD_SECONDS_MAX,
    LATE_EVENT_WINDOW_SECONDS_DEFAULT,
)
from tallygate_server.domain.usage_event import out_of_range, still_counts

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
AGE_MAX = timedelta(seconds=EVENT_AGE_SECONDS_MAX)
AHEAD_MAX = timedelta(seconds=EVENT_AHEAD_SECONDS_MAX)
DEFAULT_WINDOW = timedelta(seconds=LATE_EVENT_WINDOW_SECONDS_DEFAULT)


def test_the_bounds_are_those_of_the_contract() -> None:
    assert timedelta(days=35) == AGE_MAX
    assert timedelta(minutes=5) == AHEAD_MAX
    assert timedelta(days=1) == DEFAULT_WINDOW


@pytest.mark.parametrize("offset", [timedelta(0), -AGE_MAX, AHEAD_MAX])
def test_an_event_within_the_bounds_is_taken(offset: timedelta) -> None:
    assert out_of_range(NOW + offset, NOW) == ""


@pytest.mark.parametrize(
    ("offset", "why"),
    [(-AGE_MAX - MICROSECOND, "is more than 35 days ago"), (AHEAD_MAX + MICROSECOND, "is more than 5 minutes ahead")],
)
def test_an_event_beyond_the_bounds_is_told_why_not(offset: timedelta, why: str) -> None:
    assert out_of_range(NOW + offset, NOW) == why


@pytest.mark.parametrize("window", [None, timedelta(0), timedelta(hours=3), timedelta(days=35)])
def test_a_period_takes_events_until_it_has_been_over_for_longer_than_the_window(window: timedelta | None) -> None:
    length = DEFAULT_WINDOW if window is None else window

    assert still_counts(NOW + MICROSECOND, NOW, window)
    assert still_counts(NOW - length, NOW, window)
    assert not still_counts(NOW - length - MICROSECOND, NOW, window)


def test_a_period_without_an_end_takes_events_always() -> None:
    assert still_counts(None, NOW, timedelta(0))
