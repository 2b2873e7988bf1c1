"""Windows of time over which usage is summed up, and the buckets of rollups that cover them exactly.

Rollups hold usage in buckets of three sizes, all laid out in UTC: minutes, quarters of an hour, days. Every zone has
been a whole number of quarter hours off UTC since the year 2000, so the days of any zone are made of quarters; where a
window begins or ends within one, minutes fill the gap, and what is left at the two ends of a query without windows is
less than a minute each: that part comes from the raw rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from enum import Enum
from itertools import pairwise
from typing import Final

from tallygate_server.domain.period import EPOCH, PeriodAnchor, PeriodKind, period_at


class WindowSize(Enum):
    """Length of a window."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class Bucket(Enum):
    """Length of a bucket, in minutes; the values are stored. RAW stands for the rows themselves."""

    DAY = 1_440
    QUARTER = 15
    MINUTE = 1
    RAW = 0


@dataclass(frozen=True, slots=True)
class Run:
    """Buckets of one length, one after the other: all that begin in `[start, end)`."""

    bucket: Bucket
    start: datetime
    end: datetime


MINUTE: Final = timedelta(minutes=1)
_COARSEST_FIRST: Final = (Bucket.DAY, Bucket.QUARTER, Bucket.MINUTE)
_PERIOD_KIND: Final = {
    WindowSize.HOUR: PeriodKind.HOUR,
    WindowSize.DAY: PeriodKind.DAY,
    WindowSize.WEEK: PeriodKind.WEEK,
    WindowSize.MONTH: PeriodKind.MONTH,
}


def window_at(size: WindowSize, at: datetime, zone: tzinfo) -> tuple[datetime, datetime]:
    """Return the window `[start, end)` of the zone that contains the instant, in UTC."""
    if size is WindowSize.MINUTE:
        start = _floor(at, MINUTE)
        return start, start + MINUTE
    period = period_at(_PERIOD_KIND[size], PeriodAnchor.ACCOUNT_TIMEZONE, at, billing_anchor=EPOCH, time_zone=zone)
    assert period.end is not None
    return period.start, period.end


def aligned(size: WindowSize | None, start: datetime, end: datetime, zone: tzinfo) -> tuple[datetime, datetime]:
    """Return the range with its start rounded down and its end rounded up to a window; as it is without a size."""
    if size is None:
        return start, end
    begin, _ = window_at(size, start, zone)
    last, after = window_at(size, end, zone)
    return begin, end if last == end else after


def boundaries(size: WindowSize | None, start: datetime, end: datetime, zone: tzinfo) -> list[datetime]:
    """Return where the windows of an aligned range begin, and its end.

    Without a size there is one window. Minutes are not listed: they are their own buckets.
    """
    if size is None or size is WindowSize.MINUTE:
        return [start, end]
    found = [start]
    while found[-1] < end:
        found.append(window_at(size, found[-1], zone)[1])
    return found


def cover(bounds: Sequence[datetime], coarsest: Bucket = Bucket.DAY) -> list[Run]:
    """Return the runs of buckets that make up the windows between the boundaries: disjoint, complete, in order.

    No bucket reaches over a boundary, and each is as long as can be, up to the coarsest.
    """
    first = _COARSEST_FIRST.index(coarsest)
    runs: list[Run] = []
    for start, end in pairwise(bounds):
        for run in _pieces(start, end, first):
            if runs and runs[-1].bucket is run.bucket and runs[-1].end == run.start:
                runs[-1] = Run(run.bucket, runs[-1].start, run.end)
            else:
                runs.append(run)
    return runs


def _pieces(start: datetime, end: datetime, index: int) -> Iterator[Run]:
    if start >= end:
        return
    if index == len(_COARSEST_FIRST):
        yield Run(Bucket.RAW, start, end)
        return
    bucket = _COARSEST_FIRST[index]
    length = MINUTE * bucket.value
    first, last = _ceiling(start, length), _floor(end, length)
    if first >= last:
        yield from _pieces(start, end, index + 1)
        return
    yield from _pieces(start, first, index + 1)
    yield Run(bucket, first, last)
    yield from _pieces(last, end, index + 1)


def _floor(at: datetime, length: timedelta) -> datetime:
    return at - (at - EPOCH) % length


def _ceiling(at: datetime, length: timedelta) -> datetime:
    return at + (EPOCH - at) % length
