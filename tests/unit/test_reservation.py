"""The rules of reservations, case by case."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from tallygate_server.domain.catalog import OverrunPolicy
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.domain.limits import LIMIT_UNLIMITED
from tallygate_server.domain.period import Period, PeriodKind
from tallygate_server.domain.reservation import (
    CommitVerdict,
    Reservation,
    ReservationState,
    Settlement,
    decide_commit,
    may_commit,
    standing,
)
from tests.support.builders import NOW

MINUTE = timedelta(minutes=1)
MICROSECOND = timedelta(microseconds=1)
DAY = Period(PeriodKind.DAY, NOW.replace(hour=0), NOW.replace(hour=0) + timedelta(days=1))
WINDOW = timedelta(hours=1)

REJECT, OVERDRAW = OverrunPolicy.REJECT, OverrunPolicy.OVERDRAW


def a_reservation(**changes: Any) -> Reservation:
    """Hold ten units for a minute."""
    reservation = Reservation(
        tenant_id=TenantId("acme"),
        account_id=AccountId("ann"),
        reservation_id="rsv_1",
        feature_key=FeatureKey("words"),
        period=DAY,
        quantity=10,
        create_time=NOW,
        expire_time=NOW + MINUTE,
    )
    return replace(reservation, **changes)


def decided(quantity: int, at: datetime = NOW, **more: Any) -> CommitVerdict:
    """Commit so much of ten reserved ones, under a limit of 100 that is empty otherwise."""
    facts: dict[str, Any] = {"used": 0, "held_by_others": 0, "limit": 100, "policy": REJECT} | more
    return decide_commit(a_reservation(), quantity, at, **facts)


@pytest.mark.parametrize(
    ("quantity", "facts", "settlement", "counted", "overdrawn"),
    [
        # What was reserved counts as it is, or less, and the rest comes back.
        (10, {}, Settlement.EXACT, 10, 0),
        (9, {}, Settlement.RETURNED, 9, 0),
        (1, {"limit": LIMIT_UNLIMITED}, Settlement.RETURNED, 1, 0),
        (0, {}, Settlement.RETURNED, 0, 0),
        (0, {"limit": 0, "used": 50}, Settlement.RETURNED, 0, 0),
        # What was promised counts whatever the limit is now.
        (10, {"used": 90}, Settlement.EXACT, 10, 0),
        (10, {"used": 95}, Settlement.EXACT, 10, 5),
        (10, {"limit": 0}, Settlement.EXACT, 10, 10),
        (7, {"limit": 5, "used": 3}, Settlement.RETURNED, 7, 5),
        # A surplus that is left is taken, to the last unit.
        (11, {}, Settlement.SURPLUS_TAKEN, 11, 0),
        (100, {}, Settlement.SURPLUS_TAKEN, 100, 0),
        (60, {"used": 20, "held_by_others": 20}, Settlement.SURPLUS_TAKEN, 60, 0),
        (1_000, {"limit": LIMIT_UNLIMITED}, Settlement.SURPLUS_TAKEN, 1_000, 0),
        # One unit more is rejected, or overdrawn.
        (101, {}, Settlement.REJECTED, 0, 0),
        (61, {"used": 20, "held_by_others": 20}, Settlement.REJECTED, 0, 0),
        (11, {"limit": 0}, Settlement.REJECTED, 0, 0),
        (101, {"policy": OVERDRAW}, Settlement.OVERDRAWN, 101, 1),
        (61, {"used": 20, "held_by_others": 20, "policy": OVERDRAW}, Settlement.OVERDRAWN, 61, 1),
        (11, {"used": 500, "policy": OVERDRAW}, Settlement.OVERDRAWN, 11, 11),
    ],
)
def test_a_commit_in_time(
    quantity: int, facts: dict[str, Any], settlement: Settlement, counted: int, overdrawn: int
) -> None:
    verdict = decided(quantity, **facts)

    assert verdict == CommitVerdict(settlement=settlement, quantity=counted, overdrawn=overdrawn)
    assert verdict.counted is (settlement is not Settlement.REJECTED)


@pytest.mark.parametrize(
    ("quantity", "facts", "settlement", "counted", "overdrawn"),
    [
        (10, {}, Settlement.EXACT, 10, 0),
        (4, {}, Settlement.RETURNED, 4, 0),
        (11, {}, Settlement.SURPLUS_TAKEN, 11, 0),
        (0, {"limit": 0}, Settlement.RETURNED, 0, 0),
        (10, {"used": 90}, Settlement.EXACT, 10, 0),
        # Nothing is promised any more.
        (10, {"used": 91}, Settlement.REJECTED, 0, 0),
        (10, {"used": 80, "held_by_others": 11}, Settlement.REJECTED, 0, 0),
        (10, {"used": 91, "policy": OVERDRAW}, Settlement.OVERDRAWN, 10, 1),
    ],
)
def test_a_late_commit(
    quantity: int, facts: dict[str, Any], settlement: Settlement, counted: int, overdrawn: int
) -> None:
    verdict = decided(quantity, NOW + MINUTE, **facts)

    assert verdict == CommitVerdict(settlement=settlement, quantity=counted, overdrawn=overdrawn, late=True)


def test_a_reservation_expires_at_its_very_instant() -> None:
    reservation = a_reservation()

    assert standing(reservation, NOW + MINUTE - MICROSECOND) is reservation
    assert standing(reservation, NOW + MINUTE) == a_reservation(state=ReservationState.EXPIRED, close_time=NOW + MINUTE)


@pytest.mark.parametrize(
    ("state", "late", "expected"),
    [
        (ReservationState.HELD, -MINUTE, True),
        (ReservationState.HELD, WINDOW, True),
        (ReservationState.HELD, WINDOW + MICROSECOND, False),
        (ReservationState.EXPIRED, timedelta(0), True),
        (ReservationState.EXPIRED, WINDOW, True),
        (ReservationState.EXPIRED, WINDOW + MICROSECOND, False),
        (ReservationState.RELEASED, -MINUTE, False),
        (ReservationState.COMMITTED, -MINUTE, False),
    ],
)
def test_a_commit_counts_until_the_window_has_passed(
    state: ReservationState, late: timedelta, *, expected: bool
) -> None:
    reservation = a_reservation(state=state)

    assert may_commit(reservation, reservation.expire_time + late, late_window=WINDOW) is expected


@pytest.mark.parametrize(
    ("event_time", "create_time", "expected"),
    [
        (None, NOW, NOW),
        (NOW - MINUTE, NOW, NOW - MINUTE),
        (None, DAY.end, NOW.replace(hour=0) + timedelta(days=1) - MICROSECOND),
        (None, DAY.start - MICROSECOND, DAY.start),
    ],
)
def test_usage_happens_when_the_work_does_and_within_its_period(
    event_time: datetime | None, create_time: datetime, expected: datetime
) -> None:
    assert a_reservation(event_time=event_time, create_time=create_time).usage_time == expected
