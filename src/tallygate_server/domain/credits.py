"""Credits and rollovers: what there is beside a plan's allowance, and what pays for what.

A plan's allowance is used first, then credits in order. A credit has a balance for each window of its recurrence;
a window ends with what is left in it, or hands it on. An allowance with a rollover hands the rest of a period on in
the same way. Everything is computed from stored facts: nothing happens at a boundary, so nothing is counted twice
there. No I/O; `metering/credit_book.py` reads and writes what stands here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Final, NamedTuple, Protocol

from tallygate_server.domain.catalog import Rollover
from tallygate_server.domain.entitlement import Entitlement, Grant
from tallygate_server.domain.limits import LIMIT_UNLIMITED
from tallygate_server.domain.period import Period, PeriodAnchor, PeriodKind, period_at, periods_between

CARRIED_MAX: Final = 1_000_000_000_000_000
"""Most that goes over into the next period or window, also where a rollover says everything: the largest limit."""


class Burn(NamedTuple):
    """What one window of one credit paid."""

    grant_id: str
    window_start: datetime
    quantity: int


@dataclass(frozen=True, slots=True)
class Payment:
    """Who pays for a quantity: credits, and for the rest the plan's allowance."""

    quantity: int
    burns: tuple[Burn, ...] = ()
    uncovered: int = 0
    """Part that nothing covers: overage of a soft limit, or what was counted although it exceeds a hard one."""

    @property
    def credited(self) -> int:
        """The part that credits pay for."""
        return sum(burn.quantity for burn in self.burns)


# --- Rolling over -------------------------------------------------------------------------------------------


def carried(rest: int, rollover: Rollover | None) -> int:
    """Return what of an unused rest goes into the next period or window."""
    if rollover is None or rest <= 0 or rest < rollover.min_quantity:
        return 0
    return min(rest, rollover.max_quantity or CARRIED_MAX, CARRIED_MAX)


def given_after(carry: int, *, amount: int, rollover: Rollover | None, steps: int) -> int:
    """Return what there is some periods after one that handed this on, when none in between was used.

    Each gives the amount anew, and the rest of the one before as far as it goes over. `steps` is at least 1. Takes
    constant time: a credit may lie untouched for a hundred thousand hours.
    """
    given = amount + carry
    left = steps - 1
    while left > 0:
        after = amount + carried(given, rollover)
        if after == given:
            break
        taken = 1
        if after == given + amount:
            # All of it goes over, step by step, until there is more than may.
            assert rollover is not None
            most = min(rollover.max_quantity or CARRIED_MAX, CARRIED_MAX)
            taken = min(left, (most - given) // amount + 1)
        given += (after - given) * taken
        left -= taken
    return given


# --- Credits ------------------------------------------------------------------------------------------------


class Window(NamedTuple):
    """The half-open span in which one helping of a credit can be used; `end` is None where nothing ends it."""

    start: datetime
    end: datetime | None


class StoredBalance(NamedTuple):
    """A stored balance of a credit: the newest one of the wanted window or of one before."""

    window_start: datetime
    given: int
    used: int


@dataclass(slots=True)
class CreditBalance:
    """What one credit has in its present window."""

    grant_id: str
    window: Window
    given: int
    used: int
    stored: bool = False
    """Whether there is a row for the window."""
    changed: bool = False
    closed: bool = False
    """A later window has its rest already: nothing is left here."""

    @property
    def remaining(self) -> int:
        """Units that can still be used in the window."""
        return 0 if self.closed else max(0, self.given - self.used)


def window_at(grant: Grant, at: datetime) -> Window:
    """Return the credit's window that contains the instant, laid out from its start in UTC.

    An anchor day that a month lacks is clamped to the month's last day.
    """
    if not recurs(grant):
        return Window(grant.start_time, grant.expire_time)
    assert grant.recurrence is not None
    period = period_at(grant.recurrence, PeriodAnchor.BILLING, at, billing_anchor=grant.start_time, time_zone=UTC)
    assert period.end is not None
    end = period.end if grant.expire_time is None else min(period.end, grant.expire_time)
    return Window(period.start, end)


def recurs(grant: Grant) -> bool:
    """Tell whether the credit is given again and again."""
    return grant.recurrence is not None and grant.recurrence is not PeriodKind.LIFETIME


def balance_at(grant: Grant, at: datetime, stored: StoredBalance | None, *, later: bool = False) -> CreditBalance:
    """Return the credit's balance in the window of an instant at which it is active.

    `stored` is its newest row up to that window (None: it was never used); `later` tells that there is a row of a later
    window, as after a clock stepped back.
    """
    window = window_at(grant, at)
    # What a later window was given may include this one's rest.
    closed = later and grant.rollover is not None
    if stored is not None and stored.window_start == window.start:
        return CreditBalance(grant.grant_id, window, stored.given, stored.used, stored=True, closed=closed)
    given = grant.quantity
    if grant.rollover is not None and recurs(grant):
        assert grant.recurrence is not None
        first = stored.window_start if stored is not None else grant.start_time
        rest = stored.given - stored.used if stored is not None else grant.quantity
        steps = periods_between(grant.recurrence, first, window.start, UTC)
        if steps > 0:
            given = given_after(
                carried(rest, grant.rollover), amount=grant.quantity, rollover=grant.rollover, steps=steps
            )
    return CreditBalance(grant.grant_id, window, given, 0, closed=closed)


def give_back(burns: Sequence[Burn], quantity: int, *, reversed_before: int = 0) -> tuple[Burn, ...]:
    """Return which credits get back how much when part of what they paid for is reversed.

    The last to pay is the first to be paid back; the plan's allowance paid first and so comes last. `reversed_before`
    is what earlier reversals of the same entry have taken back.
    """
    returned: list[Burn] = []
    skip, left = reversed_before, quantity
    for burn in reversed(burns):
        skipped = min(skip, burn.quantity)
        skip -= skipped
        back = min(left, burn.quantity - skipped)
        left -= back
        if back:
            returned.append(burn._replace(quantity=back))
    return tuple(returned)


# --- One counter --------------------------------------------------------------------------------------------


class CounterTotals(Protocol):
    """A counter's row, as far as limits depend on it."""

    used: int
    reserved: int
    credited: int
    rolled_in: int | None
    rolled_out: int


@dataclass(slots=True)
class Totals:
    """A counter's row that is only read."""

    used: int = 0
    reserved: int = 0
    credited: int = 0
    rolled_in: int | None = None
    rolled_out: int = 0


@dataclass(slots=True)
class CounterAccount:
    """One counter with all that may be used in it: the allowance, what rolled over, and credits in order."""

    limit: int
    """The allowance itself; -1 without limit."""
    hard: bool
    counter: CounterTotals
    credits: tuple[CreditBalance, ...] = ()

    @property
    def base(self) -> int:
        """What the plan gives in this period, with what came over from the period before; -1 without limit."""
        if self.limit == LIMIT_UNLIMITED:
            return LIMIT_UNLIMITED
        return max(0, self.limit + (self.counter.rolled_in or 0) - self.counter.rolled_out)

    @property
    def credit_left(self) -> int:
        """Units left in all credits."""
        return sum(credit.remaining for credit in self.credits)

    @property
    def limit_quantity(self) -> int:
        """The limit that callers hear of: with what is used and held it leaves `remaining`; -1 without limit."""
        if self.limit == LIMIT_UNLIMITED:
            return LIMIT_UNLIMITED
        credited, credit_left = self.counter.credited, self.credit_left
        if credit_left:
            # Credits are there for what comes, also where the allowance was exceeded before.
            return max(self.base + credited, self.counter.used) + credit_left
        return self.base + credited

    @property
    def remaining(self) -> int:
        """Units that can be used now, never below 0; -1 without limit."""
        if self.limit == LIMIT_UNLIMITED:
            return LIMIT_UNLIMITED
        return max(0, self._base_left(0) + self.credit_left - self.counter.reserved)

    def plan(self, quantity: int, *, ahead: int = 0) -> Payment | None:
        """Return who would pay for a positive quantity; None where it does not fit a hard limit.

        `ahead` is what was planned before in the same breath and is not counted yet.
        """
        payment = self.pay(quantity, ahead=ahead)
        if self.hard and self.limit != LIMIT_UNLIMITED:
            room = self._base_left(ahead) + self.credit_left - self.counter.reserved
            if quantity > room:
                return None
        return payment

    def pay(self, quantity: int, *, ahead: int = 0) -> Payment:
        """Return who pays for a positive quantity that is counted whether it fits or not."""
        if self.limit == LIMIT_UNLIMITED:
            return Payment(quantity)
        base_left = self._base_left(ahead)
        # What is reserved is as good as used, and took from the allowance first.
        left = quantity - min(quantity, max(0, base_left - self.counter.reserved))
        burns = []
        for credit in self.credits:
            burned = min(left, credit.remaining)
            if burned > 0:
                burns.append(Burn(credit.grant_id, credit.window.start, burned))
                left -= burned
        return Payment(quantity, tuple(burns), left)

    def burn(self, payment: Payment) -> None:
        """Take from the credits what the payment says. The counter's total is somebody else's to raise."""
        self._move(payment, 1)

    def unburn(self, payment: Payment) -> None:
        """Undo `burn`."""
        self._move(payment, -1)

    def _move(self, payment: Payment, sign: int) -> None:
        by_id = {credit.grant_id: credit for credit in self.credits}
        for burn in payment.burns:
            credit = by_id[burn.grant_id]
            credit.used += sign * burn.quantity
            credit.changed = True
        self.counter.credited += sign * payment.credited

    def _base_left(self, ahead: int) -> int:
        return max(0, self.base - (self.counter.used + ahead - self.counter.credited))


# --- Rolling an allowance over ------------------------------------------------------------------------------


class PeriodBefore(NamedTuple):
    """The newest counter of a feature before a period."""

    period_start: datetime
    used: int
    reserved: int
    credited: int
    limit: int
    """Allowance when it was last decided; -1 for none, or a soft one."""
    rolled_in: int | None
    """None: it was counted without a rollover, and hands nothing on."""
    rolled_out: int


class Rolled(NamedTuple):
    """What comes into a period from those before, and what goes out of them."""

    rolled_in: int
    rolled_out: int
    """What this period has handed on already, because a later one was counted first."""
    out_of_before: int | None
    """What the newest counter before hands on; None: that is settled, or there is none."""


NOTHING_ROLLED: Final = Rolled(0, 0, None)


def roll(
    entitlement: Entitlement, period: Period, before: PeriodBefore | None, *, later: bool, time_zone: tzinfo
) -> Rolled:
    """Return what rolls into a period that is counted in for the first time, and out of the one before.

    Periods without a counter were not used. The chain begins with the source of the allowance. `later` tells that a
    later period was counted in before, as with an event that is reported late: its share is fixed, and nothing else
    goes out. What the present allowance says holds for periods without a counter, too.
    """
    amount, rollover = entitlement.limit_quantity, entitlement.rollover
    if rollover is None or amount == LIMIT_UNLIMITED or entitlement.period_kind is PeriodKind.LIFETIME:
        return NOTHING_ROLLED
    since = entitlement.rollover_since or entitlement.billing_anchor
    first = entitlement.period_at(since, time_zone).start
    if period.start <= first:
        # Not even where an earlier source has left something: that was another allowance.
        rolled_in, out_of_before = 0, None
    else:
        out_of_before = None
        if before is None or before.period_start < first:
            start, carry = first, carried(amount, rollover)
        else:
            start, carry = before.period_start, before.rolled_out
            if before.rolled_in is not None and not later:
                limit = before.limit if before.limit != LIMIT_UNLIMITED else amount
                rest = limit + before.rolled_in - (before.used - before.credited) - before.reserved
                carry = out_of_before = carried(rest, rollover)
        calendar = time_zone if entitlement.period_anchor is PeriodAnchor.ACCOUNT_TIMEZONE else UTC
        steps = periods_between(entitlement.period_kind, start, period.start, calendar)
        rolled_in = given_after(carry, amount=amount, rollover=rollover, steps=max(1, steps)) - amount
    return Rolled(rolled_in, carried(amount + rolled_in, rollover) if later else 0, out_of_before)
