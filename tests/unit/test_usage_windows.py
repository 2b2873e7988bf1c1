"""Windows of every zone, and the buckets that cover them: nothing twice, nothing left out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallygate_server.domain.usage_windows import (
    MINUTE,
    Bucket,
    Run,
    WindowSize,
    aligned,
    boundaries,
    cover,
    window_at,
)

BERLIN, KOLKATA, KATHMANDU = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kolkata"), ZoneInfo("Asia/Kathmandu")
NEW_YORK, LORD_HOWE, ST_JOHNS = (
    ZoneInfo("America/New_York"),
    ZoneInfo("Australia/Lord_Howe"),
    ZoneInfo("America/St_Johns"),
)


def at(text: str) -> datetime:
    """Return an instant in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("size", "zone", "instant", "start", "end"),
    [
        (WindowSize.MINUTE, UTC, "2026-03-15T12:34:56.789", "2026-03-15T12:34", "2026-03-15T12:35"),
        (WindowSize.HOUR, UTC, "2026-03-15T12:34", "2026-03-15T12:00", "2026-03-15T13:00"),
        (WindowSize.HOUR, KOLKATA, "2026-03-15T12:34", "2026-03-15T12:30", "2026-03-15T13:30"),
        (WindowSize.HOUR, KATHMANDU, "2026-03-15T12:34", "2026-03-15T12:15", "2026-03-15T13:15"),
        # Lord Howe's clocks change by half an hour: one hour is cut short, at each change.
        (WindowSize.HOUR, LORD_HOWE, "2026-04-04T14:45", "2026-04-04T14:00", "2026-04-04T15:00"),
        (WindowSize.HOUR, LORD_HOWE, "2026-04-04T15:15", "2026-04-04T15:00", "2026-04-04T15:30"),
        (WindowSize.DAY, UTC, "2026-03-15T12:34", "2026-03-15T00:00", "2026-03-16T00:00"),
        (WindowSize.DAY, BERLIN, "2026-03-15T12:34", "2026-03-14T23:00", "2026-03-15T23:00"),
        # 23 hours in spring, 25 in autumn.
        (WindowSize.DAY, BERLIN, "2026-03-29T12:00", "2026-03-28T23:00", "2026-03-29T22:00"),
        (WindowSize.DAY, BERLIN, "2026-10-25T12:00", "2026-10-24T22:00", "2026-10-25T23:00"),
        (WindowSize.DAY, NEW_YORK, "2026-03-08T12:00", "2026-03-08T05:00", "2026-03-09T04:00"),
        (WindowSize.DAY, NEW_YORK, "2026-11-01T12:00", "2026-11-01T04:00", "2026-11-02T05:00"),
        (WindowSize.DAY, KATHMANDU, "2026-03-15T12:34", "2026-03-14T18:15", "2026-03-15T18:15"),
        # Until 2011 Newfoundland set its clocks back a minute past midnight: the day began at the first midnight.
        (WindowSize.DAY, ST_JOHNS, "2010-11-07T03:00", "2010-11-07T02:30", "2010-11-08T03:30"),
        # Weeks begin on Monday.
        (WindowSize.WEEK, UTC, "2026-03-15T23:59", "2026-03-09T00:00", "2026-03-16T00:00"),
        (WindowSize.WEEK, BERLIN, "2026-03-29T12:00", "2026-03-22T23:00", "2026-03-29T22:00"),
        (WindowSize.MONTH, UTC, "2028-02-29T12:00", "2028-02-01T00:00", "2028-03-01T00:00"),
        (WindowSize.MONTH, UTC, "2026-12-31T23:59:59.999999", "2026-12-01T00:00", "2027-01-01T00:00"),
        (WindowSize.MONTH, BERLIN, "2026-03-31T22:30", "2026-03-31T22:00", "2026-04-30T22:00"),
    ],
)
def test_a_window_is_that_of_the_zone(size: WindowSize, zone: ZoneInfo, instant: str, start: str, end: str) -> None:
    assert window_at(size, at(instant), zone) == (at(start), at(end))


def test_a_range_is_rounded_outwards_to_windows() -> None:
    assert aligned(WindowSize.DAY, at("2026-03-01T05:00"), at("2026-03-03T00:00"), UTC) == (
        at("2026-03-01"),
        at("2026-03-03"),
    )
    assert aligned(WindowSize.DAY, at("2026-03-01"), at("2026-03-03T00:00:00.000001"), UTC) == (
        at("2026-03-01"),
        at("2026-03-04"),
    )
    assert aligned(None, at("2026-03-01T05:00:01"), at("2026-03-03T00:00:07"), UTC) == (
        at("2026-03-01T05:00:01"),
        at("2026-03-03T00:00:07"),
    )


def test_boundaries_are_where_windows_begin_and_the_end() -> None:
    found = boundaries(WindowSize.DAY, at("2026-03-27T23:00"), at("2026-03-30T22:00"), BERLIN)

    assert found == [at("2026-03-27T23:00"), at("2026-03-28T23:00"), at("2026-03-29T22:00"), at("2026-03-30T22:00")]


def test_a_month_of_days_in_utc_is_one_run_of_days() -> None:
    bounds = boundaries(WindowSize.DAY, at("2026-03-01"), at("2026-04-01"), UTC)

    assert len(bounds) == 32
    assert cover(bounds) == [Run(Bucket.DAY, at("2026-03-01"), at("2026-04-01"))]


def test_a_month_of_days_elsewhere_is_one_run_of_quarters() -> None:
    start, end = aligned(WindowSize.MONTH, at("2026-05-10"), at("2026-05-10"), KOLKATA)

    assert cover(boundaries(WindowSize.DAY, start, end, KOLKATA)) == [Run(Bucket.QUARTER, start, end)]


def test_a_whole_range_is_days_with_ever_finer_ends() -> None:
    assert cover([at("2026-03-01T23:43:30"), at("2026-03-04T00:31:00.5")]) == [
        Run(Bucket.RAW, at("2026-03-01T23:43:30"), at("2026-03-01T23:44")),
        Run(Bucket.MINUTE, at("2026-03-01T23:44"), at("2026-03-01T23:45")),
        Run(Bucket.QUARTER, at("2026-03-01T23:45"), at("2026-03-02")),
        Run(Bucket.DAY, at("2026-03-02"), at("2026-03-04")),
        Run(Bucket.QUARTER, at("2026-03-04"), at("2026-03-04T00:30")),
        Run(Bucket.MINUTE, at("2026-03-04T00:30"), at("2026-03-04T00:31")),
        Run(Bucket.RAW, at("2026-03-04T00:31"), at("2026-03-04T00:31:00.5")),
    ]


def test_less_than_a_minute_is_raw() -> None:
    assert cover([at("2026-03-01T00:00:10"), at("2026-03-01T00:00:40")]) == [
        Run(Bucket.RAW, at("2026-03-01T00:00:10"), at("2026-03-01T00:00:40"))
    ]


ZONES = st.sampled_from(
    [
        "UTC", "Europe/Berlin", "Europe/London", "America/New_York", "America/St_Johns", "America/Caracas",
        "America/Sao_Paulo", "Asia/Kolkata", "Asia/Kathmandu", "Asia/Pyongyang", "Asia/Amman", "Africa/Cairo",
        "Australia/Lord_Howe", "Pacific/Apia", "Pacific/Chatham",
    ]
)  # fmt: skip
INSTANTS = st.datetimes(datetime(2000, 1, 1), datetime(2039, 1, 1)).map(lambda when: when.replace(tzinfo=UTC))  # noqa: DTZ001
LENGTHS = {
    WindowSize.MINUTE: timedelta(days=90),
    WindowSize.HOUR: timedelta(days=60),
    WindowSize.DAY: timedelta(days=800),
    WindowSize.WEEK: timedelta(days=4_000),
    WindowSize.MONTH: timedelta(days=8_000),
}


@given(st.data(), st.sampled_from([None, *WindowSize]), ZONES, INSTANTS)
def test_runs_cover_every_window_exactly(
    data: st.DataObject, size: WindowSize | None, zone: str, begin: datetime
) -> None:
    longest = timedelta(days=4_000) if size is None else LENGTHS[size]
    end = begin + data.draw(st.timedeltas(timedelta(microseconds=1), longest))
    start, end = aligned(size, begin, end, ZoneInfo(zone))
    bounds = boundaries(size, start, end, ZoneInfo(zone))

    runs = cover(bounds, Bucket.MINUTE if size is WindowSize.MINUTE else Bucket.DAY)

    # Disjoint and complete: each run begins where the one before ends.
    assert (runs[0].start, runs[-1].end) == (bounds[0], bounds[-1])
    assert all(before.end == after.start for before, after in pairwise(runs))
    # Whole buckets only, and no boundary inside of one.
    for run in runs:
        assert run.start < run.end
        if run.bucket is not Bucket.RAW:
            length = MINUTE * run.bucket.value
            assert _is_multiple(run.start, length)
            assert _is_multiple(run.end, length)
            assert all(_is_multiple(bound, length) for bound in bounds if run.start <= bound <= run.end)
    # Raw rows only at the two ends, and less than a minute each.
    raw = [run for run in runs if run.bucket is Bucket.RAW]
    assert size is None or not raw
    assert all(run.end - run.start < MINUTE for run in raw)
    assert all(run in (runs[0], runs[-1]) for run in raw)


def _is_multiple(instant: datetime, length: timedelta) -> bool:
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) % length == timedelta(0)


@given(st.sampled_from(list(WindowSize)), ZONES, INSTANTS)
def test_windows_follow_each_other_without_gaps(size: WindowSize, zone: str, instant: datetime) -> None:
    start, end = window_at(size, instant, ZoneInfo(zone))

    assert start <= instant < end
    assert window_at(size, start, ZoneInfo(zone)) == (start, end)
    assert window_at(size, end, ZoneInfo(zone))[0] == end
    # Rollups are by quarters of an hour: no zone's windows begin in between.
    assert size is WindowSize.MINUTE or _is_multiple(start, timedelta(minutes=15))
