"""Reservations: quantity taken from a limit before the cost of the work is known.

A reservation that is held counts against the limit, apart from what is used. It ends once: committed with the actual
quantity, released, or expired by itself. What was reserved is promised: a commit of it always counts, whatever has
become of the limit since. Only a surplus, and what is committed after the reservation has expired, asks the limit
that is in force then.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from tallygate_server.domain.catalog import OverrunPolicy
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.domain.limits import LIMIT_UNLIMITED
from tallygate_server.domain.period import Period

_MICROSECOND: Final = timedelta(microseconds=1)


class ReservationState(Enum):
    """Where a reservation is in its life; the values are stored."""

    HELD = "held"
    COMMITTED = "committed"
    RELEASED = "released"
    EXPIRED = "expired"


class Settlement(Enum):
    """What became of the difference between reserved and actual quantity; the values are stored."""

    EXACT = "exact"
    RETURNED = "returned"
    SURPLUS_TAKEN = "surplus_taken"
    OVERDRAWN = "overdrawn"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """A hold on a limit with a time to live."""

    tenant_id: TenantId
    account_id: AccountId
    reservation_id: str
    feature_key: FeatureKey
    period: Period
    state: ReservationState = ReservationState.HELD
    quantity: int
    overrun_policy: OverrunPolicy = OverrunPolicy.REJECT
    dimensions: dict[str, str] = field(default_factory=dict)
    request_id: str = ""
    """Empty when it was made without one."""
    event_time: datetime | None = None
    """When the work happens, where the caller said so."""
    create_time: datetime
    expire_time: datetime
    close_time: datetime | None = None
    """When it was committed, released or expired; None while it is held."""
    committed_quantity: int = 0
    entry_id: int = 0
    """The line in the ledger; 0 for none."""

    @property
    def usage_time(self) -> datetime:
        """When its usage happens: as the caller said, else when it was made; always within its period."""
        at = self.event_time if self.event_time is not None else self.create_time
        # Made in the very millisecond in which its period began or ended, it may lie a little beside it.
        if self.period.end is not None and at >= self.period.end:
            at = self.period.end - _MICROSECOND
        return max(at, self.period.start)


def standing(reservation: Reservation, now: datetime) -> Reservation:
    """Return the reservation as it is at the instant: one whose time is over has expired, whatever job has not run."""
    if reservation.state is ReservationState.HELD and reservation.expire_time <= now:
        return replace(reservation, state=ReservationState.EXPIRED, close_time=reservation.expire_time)
    return reservation


def may_commit(reservation: Reservation, now: datetime, *, late_window: timedelta) -> bool:
    """Tell whether a commit may count: while it is held, and for as long as the window after it has expired."""
    state = standing(reservation, now).state
    return state is ReservationState.HELD or (
        state is ReservationState.EXPIRED and now - reservation.expire_time <= late_window
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitVerdict:
    """What a commit comes to."""

    settlement: Settlement
    quantity: int
    """Units that are counted."""
    overdrawn: int = 0
    """Units among them beyond the limit."""
    late: bool = False

    @property
    def counted(self) -> bool:
        """Whether the commit is done; a rejected one leaves the reservation as it was."""
        return self.settlement is not Settlement.REJECTED


def decide_commit(
    reservation: Reservation,
    quantity: int,
    now: datetime,
    *,
    used: int,
    held_by_others: int,
    limit: int,
    policy: OverrunPolicy,
) -> CommitVerdict:
    """Decide a commit of a reservation that may still be committed.

    `used` and `held_by_others` are of the reservation's own counter, without the reservation itself. `limit` is the one
    in force now: 0 where the account has no right any more, LIMIT_UNLIMITED where none is enforced (a soft one).
    """
    late = standing(reservation, now).state is ReservationState.EXPIRED
    if quantity == 0:
        return CommitVerdict(settlement=Settlement.RETURNED, quantity=0, late=late)
    promised = 0 if late else reservation.quantity
    beyond = 0
    if limit != LIMIT_UNLIMITED:
        beyond = min(quantity, max(0, used + held_by_others + quantity - limit))
    if quantity <= promised or not beyond:
        if quantity > reservation.quantity:
            settlement = Settlement.SURPLUS_TAKEN
        else:
            settlement = Settlement.EXACT if quantity == reservation.quantity else Settlement.RETURNED
        return CommitVerdict(settlement=settlement, quantity=quantity, overdrawn=beyond, late=late)
    if policy is OverrunPolicy.OVERDRAW:
        return CommitVerdict(settlement=Settlement.OVERDRAWN, quantity=quantity, overdrawn=beyond, late=late)
    return CommitVerdict(settlement=Settlement.REJECTED, quantity=0, late=late)
