from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallygate_server.domain.period import LIFETIME, Period, PeriodAnchor, PeriodKind, add_months, period_at

RESETTING = [kind for kind in PeriodKind if kind is not PeriodKind.LIFETIME]
ZONES = [
    "UTC",
    "America/New_York",
    "America/Sao_Paulo",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Europe/London",
    "Pacific/Auckland",
    "Pacific/Kiritimati",
]

# Hypothesis wants naive bounds and adds the zone itself.
instants = st.datetimes(min_value=datetime(1980, 1, 1), max_value=datetime(2090, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def calendar(kind: PeriodKind, at: str, zone: str = "UTC") -> Period:
    return period_at(
        kind,
        PeriodAnchor.ACCOUNT_TIMEZONE,
        utc(at),
        billing_anchor=utc("2020-01-01"),
        time_zone=ZoneInfo(zone),
    )


def billing(kind: PeriodKind, at: str, anchor: str) -> Period:
    return period_at(kind, PeriodAnchor.BILLING, utc(at), billing_anchor=utc(anchor), time_zone=UTC)


@pytest.mark.parametrize(
    ("kind", "at", "start", "end"),
    [
        (PeriodKind.HOUR, "2026-03-15T12:34:56", "2026-03-15T12:00", "2026-03-15T13:00"),
        (PeriodKind.DAY, "2026-03-15T12:34:56", "2026-03-15", "2026-03-16"),
        (PeriodKind.DAY, "2026-03-15T00:00:00", "2026-03-15", "2026-03-16"),
        (PeriodKind.WEEK, "2026-03-15T12:34:56", "2026-03-09", "2026-03-16"),
        (PeriodKind.MONTH, "2024-02-29T23:59:59", "2024-02-01", "2024-03-01"),
        (PeriodKind.YEAR, "2026-12-31T23:59:59.999999", "2026-01-01", "2027-01-01"),
    ],
)
def test_utc_periods_follow_the_calendar(kind: PeriodKind, at: str, start: str, end: str) -> None:
    assert calendar(kind, at) == Period(kind, utc(start), utc(end))


@pytest.mark.parametrize(
    ("anchor", "at", "start", "end"),
    [
        ("2026-01-31T10:00", "2026-02-15", "2026-01-31T10:00", "2026-02-28T10:00"),
        ("2026-01-31T10:00", "2026-02-28T10:00", "2026-02-28T10:00", "2026-03-31T10:00"),
        ("2026-01-31T10:00", "2026-04-30T09:59", "2026-03-31T10:00", "2026-04-30T10:00"),
        ("2024-01-30", "2024-02-29T12:00", "2024-02-29", "2024-03-30"),
        ("2024-01-29", "2025-02-28T12:00", "2025-02-28", "2025-03-29"),
        ("2026-05-20T08:30", "2026-03-25", "2026-03-20T08:30", "2026-04-20T08:30"),
    ],
)
def test_billing_months_clamp_at_month_end_and_return_to_their_day(anchor: str, at: str, start: str, end: str) -> None:
    assert billing(PeriodKind.MONTH, at, anchor) == Period(PeriodKind.MONTH, utc(start), utc(end))


def test_billing_year_of_a_leap_day_clamps_and_returns() -> None:
    assert billing(PeriodKind.YEAR, "2025-06-01", "2024-02-29").start == utc("2025-02-28")
    assert billing(PeriodKind.YEAR, "2028-06-01", "2024-02-29").start == utc("2028-02-29")


@pytest.mark.parametrize(
    ("at", "zone", "hours"),
    [
        ("2026-03-08T12:00", "America/New_York", 23),
        ("2026-11-01T12:00", "America/New_York", 25),
        ("2026-03-29T12:00", "Europe/London", 23),
        ("2018-11-04T12:00", "America/Sao_Paulo", 23),
    ],
)
def test_a_local_day_is_as_long_as_daylight_saving_makes_it(at: str, zone: str, hours: int) -> None:
    period = calendar(PeriodKind.DAY, at, zone)

    assert period.end is not None
    assert period.end - period.start == timedelta(hours=hours)


def test_local_days_begin_at_local_midnight_east_and_west_of_utc() -> None:
    assert calendar(PeriodKind.DAY, "2026-07-01T20:00", "Asia/Kolkata").start == utc("2026-07-01T18:30")
    assert calendar(PeriodKind.DAY, "2026-07-01T03:00", "America/New_York").start == utc("2026-06-30T04:00")


def test_a_lifetime_never_ends() -> None:
    assert calendar(PeriodKind.LIFETIME, "2026-01-01") is LIFETIME


@given(
    at=instants,
    anchor=instants,
    kind=st.sampled_from(RESETTING),
    anchoring=st.sampled_from(PeriodAnchor),
    zone=st.sampled_from(ZONES),
)
def test_periods_partition_time(
    at: datetime, anchor: datetime, kind: PeriodKind, anchoring: PeriodAnchor, zone: str
) -> None:
    """Every instant lies in exactly one period, and the next period begins where this one ends."""

    def containing(instant: datetime) -> Period:
        return period_at(kind, anchoring, instant, billing_anchor=anchor, time_zone=ZoneInfo(zone))

    period = containing(at)

    assert period.end is not None
    assert period.start <= at < period.end
    assert containing(period.start) == period
    assert containing(period.end - timedelta(microseconds=1)) == period
    assert containing(period.end).start == period.end


@given(start=instants, months=st.integers(-600, 600))
def test_adding_months_keeps_the_day_or_clamps_to_the_last(start: datetime, months: int) -> None:
    after = add_months(start, months)

    assert (after.year - start.year) * 12 + after.month - start.month == months
    assert after.day == start.day or (after + timedelta(days=1)).month != after.month
