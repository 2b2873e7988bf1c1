"""Half-open periods `[start, end)` in which counters count.

Period n is computed from its anchor alone, never from period n-1, so a month anchored on the 31st is
clamped in February and returns to the 31st in March.
"""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from enum import Enum

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class PeriodKind(Enum):
    """Length of a period. The values are stored and part of Redis keys: never change one."""

    HOUR = "h"
    DAY = "d"
    WEEK = "w"
    MONTH = "m"
    YEAR = "y"
    LIFETIME = "l"


class PeriodAnchor(Enum):
    """Where periods begin: UTC calendar, the account's calendar, or the subscription's own start."""

    UTC = "utc"
    ACCOUNT_TIMEZONE = "account_timezone"
    BILLING = "billing"


@dataclass(frozen=True, slots=True)
class Period:
    """A half-open span of time; `end` is None for a lifetime."""

    kind: PeriodKind
    start: datetime
    end: datetime | None

    def __contains__(self, at: object) -> bool:
        """Tell whether the instant lies in `[start, end)`."""
        return isinstance(at, datetime) and self.start <= at and (self.end is None or at < self.end)

    def clamp(self, at: datetime) -> datetime:
        """Return the instant of the period that lies nearest."""
        if self.end is not None and at >= self.end:
            at = self.end - timedelta(microseconds=1)
        return max(at, self.start)


LIFETIME = Period(PeriodKind.LIFETIME, EPOCH, None)

# Shortest possible length of each kind, in seconds: what makes limits of unlike periods comparable.
_NOMINAL_SECONDS = {
    PeriodKind.HOUR: 3_600,
    PeriodKind.DAY: 86_400,
    PeriodKind.WEEK: 7 * 86_400,
    PeriodKind.MONTH: 30 * 86_400,
    PeriodKind.YEAR: 365 * 86_400,
    PeriodKind.LIFETIME: 100 * 365 * 86_400,
}


def nominal_seconds(kind: PeriodKind) -> int:
    """Return the length by which limits over unlike periods are compared, in seconds."""
    return _NOMINAL_SECONDS[kind]


def period_at(
    kind: PeriodKind,
    anchor: PeriodAnchor,
    at: datetime,
    *,
    billing_anchor: datetime,
    time_zone: tzinfo,
) -> Period:
    """Return the period of this kind that contains the instant.

    `at` and `billing_anchor` are aware; starts and ends are returned in UTC. Under the `billing` anchor
    periods are laid out from `billing_anchor` in UTC, also backwards for instants before it.
    """
    if kind is PeriodKind.LIFETIME:
        return LIFETIME
    at = at.astimezone(UTC)
    if anchor is PeriodAnchor.BILLING:
        return _anchored(kind, billing_anchor.astimezone(UTC), at)
    zone = time_zone if anchor is PeriodAnchor.ACCOUNT_TIMEZONE else UTC
    return _calendar(kind, at, zone)


def add_months(start: datetime, months: int) -> datetime:
    """Return the same day and time some months later (or earlier), clamped to the month's last day."""
    index = start.year * 12 + start.month - 1 + months
    year, month = divmod(index, 12)
    day = min(start.day, calendar.monthrange(year, month + 1)[1])
    return start.replace(year=year, month=month + 1, day=day)


def periods_between(kind: PeriodKind, first: datetime, last: datetime, calendar_zone: tzinfo) -> int:
    """Return how many periods after the one that starts first the one that starts last comes.

    `calendar_zone` is the zone whose calendar lays them out: UTC for the anchors `utc` and `billing`. Both instants are
    starts of such periods.
    """
    start, end = first.astimezone(calendar_zone), last.astimezone(calendar_zone)
    if kind is PeriodKind.LIFETIME:
        return 0
    if kind is PeriodKind.HOUR:
        # Some zones change by half an hour, which makes an hour shorter, and no other one.
        return round((last - first) / _STEPS[kind])
    if kind in _STEPS:
        # By the calendar, where a day may have 23 hours; at a billing anchor every day begins at the same time.
        return (end.date() - start.date()) // _STEPS[kind]
    months = (end.year - start.year) * 12 + end.month - start.month
    return months // 12 if kind is PeriodKind.YEAR else months


_STEPS = {PeriodKind.HOUR: timedelta(hours=1), PeriodKind.DAY: timedelta(days=1), PeriodKind.WEEK: timedelta(weeks=1)}


def _anchored(kind: PeriodKind, anchor: datetime, at: datetime) -> Period:
    step = _STEPS.get(kind)
    if step is not None:
        start = anchor + ((at - anchor) // step) * step
        return Period(kind, start, start + step)
    months = 12 if kind is PeriodKind.YEAR else 1
    elapsed = (at.year - anchor.year) * 12 + at.month - anchor.month
    n = elapsed // months
    # The guess is off by at most one: the month may have begun, but not yet reached the anchor's day.
    if add_months(anchor, n * months) > at:
        n -= 1
    return Period(kind, add_months(anchor, n * months), add_months(anchor, (n + 1) * months))


def _calendar(kind: PeriodKind, at: datetime, zone: tzinfo) -> Period:
    local = at.astimezone(zone)
    if kind is PeriodKind.HOUR:
        return _hour(at, local, zone)
    first, last = _wall_period(kind, local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0, tzinfo=None))
    # Where clocks are set back over midnight, a day begins at its first midnight: what the clock then shows of the day
    # before, a second time, belongs to the new one.
    while _to_utc(last, zone) <= at:
        first, last = _wall_period(kind, last)
    return Period(kind, _to_utc(first, zone), _to_utc(last, zone))


def _wall_period(kind: PeriodKind, midnight: datetime) -> tuple[datetime, datetime]:
    """Return the first midnights, by the wall clock, of the period that contains the day, and of the next one."""
    if kind is PeriodKind.DAY:
        return midnight, midnight + timedelta(days=1)
    if kind is PeriodKind.WEEK:
        first = midnight - timedelta(days=midnight.weekday())
        return first, first + timedelta(weeks=1)
    if kind is PeriodKind.MONTH:
        first = midnight.replace(day=1)
        return first, add_months(first, 1)
    first = midnight.replace(month=1, day=1)
    return first, add_months(first, 12)


def _hour(at: datetime, local: datetime, zone: tzinfo) -> Period:
    """Return the hour by the zone's minutes: 3,600 seconds, cut short where the zone changes by part of an hour."""
    start = at - timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
    end = start + _HOUR
    minutes = _minutes(at, zone)
    if _minutes(start, zone) != minutes:
        start = _first_with(minutes, start, at, zone)
    last = end - _SECOND
    if _minutes(last, zone) != minutes:
        end = _first_with(_minutes(last, zone), at, last, zone)
    return Period(PeriodKind.HOUR, start, end)


_HOUR = timedelta(hours=1)
_SECOND = timedelta(seconds=1)


def _minutes(at: datetime, zone: tzinfo) -> timedelta:
    """Return by how much the zone's full hours lie off those of UTC."""
    offset = at.astimezone(zone).utcoffset()
    assert offset is not None
    return offset % _HOUR


def _first_with(minutes: timedelta, before: datetime, after: datetime, zone: tzinfo) -> datetime:
    """Return the instant, after the first and not after the second, from which full hours lie so; in whole seconds."""
    low = int((before - EPOCH) // _SECOND)
    high = -int(-(after - EPOCH) // _SECOND)
    while high - low > 1:
        middle = (low + high) // 2
        if _minutes(EPOCH + middle * _SECOND, zone) == minutes:
            high = middle
        else:
            low = middle
    return EPOCH + high * _SECOND


def _to_utc(wall: datetime, zone: tzinfo) -> datetime:
    """Place a wall-clock midnight on the UTC line; one that a DST change skips becomes the instant after."""
    return wall.replace(tzinfo=zone).astimezone(UTC)
