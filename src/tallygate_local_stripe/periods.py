"""Billing periods and proration: pure arithmetic on Unix seconds and minor units."""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime
from typing import Final

MINUTE: Final = 60
HOUR: Final = 3600
DAY: Final = 86_400
_SECONDS: Final = {"day": DAY, "week": 7 * DAY}
_MONTHS: Final = {"month": 1, "year": 12}


def step(anchor: int, interval: str, count: int) -> int:
    """Return the anchor moved by `count` intervals; a day that a month lacks becomes its last day (UTC)."""
    if interval in _SECONDS:
        return anchor + count * _SECONDS[interval]
    moment = datetime.fromtimestamp(anchor, UTC)
    months = moment.year * 12 + (moment.month - 1) + count * _MONTHS[interval]
    year, month = months // 12, months % 12 + 1
    day = min(moment.day, monthrange(year, month)[1])
    return int(moment.replace(year=year, month=month, day=day).timestamp())


def cycle(anchor: int, interval: str, interval_count: int, moment: int) -> tuple[int, int]:
    """Return the cycle `[start, end)` that holds a moment. Boundaries come from the anchor, never from one another."""
    low, high = _around(anchor, interval, interval_count, moment)
    while high - low > 1:
        middle = (low + high) // 2
        if step(anchor, interval, middle * interval_count) > moment:
            high = middle
        else:
            low = middle
    return step(anchor, interval, low * interval_count), step(anchor, interval, high * interval_count)


def _around(anchor: int, interval: str, interval_count: int, moment: int) -> tuple[int, int]:
    """Return two cycle numbers, the first at or before `moment`, the second later."""
    longest = interval_count * (_SECONDS[interval] if interval in _SECONDS else 31 * DAY * _MONTHS[interval])
    low = (moment - anchor) // longest - 1
    high = low + 1
    while step(anchor, interval, low * interval_count) > moment:
        low -= 1
    width = 1
    while step(anchor, interval, high * interval_count) <= moment:
        high += width
        width *= 2
    return low, high


def share(amount: int, *, part_seconds: int, whole_seconds: int) -> int:
    """Return the part of an amount that belongs to a part of a period, half a minor unit rounded away from zero."""
    if whole_seconds <= 0:
        return 0
    doubled = 2 * abs(amount) * part_seconds + whole_seconds
    rounded = doubled // (2 * whole_seconds)
    return rounded if amount >= 0 else -rounded


def percent_of(amount: int, percent: float) -> int:
    """Return a percentage of an amount, half a minor unit rounded up."""
    return (amount * round(percent * 100) + 5_000) // 10_000


def day_name(moment: int) -> str:
    """Return the date as invoices print it."""
    return datetime.fromtimestamp(moment, UTC).strftime("%d %b %Y")
