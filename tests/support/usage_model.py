"""A reference model of usage in depth: a few dictionaries and plain loops, slow and easy to believe.

It knows nothing of Postgres, Redis, transactions or caches. Tests drive the service and the model side by side and
compare every answer and every number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

UNLIMITED = -1
LATE = timedelta(hours=1)
"""How long after its end a reservation may still be committed."""

Plan = dict[str, int]
"""Limits by feature; what is not there is not given."""


@dataclass(slots=True)
class Credit:
    """Units on top of a plan's, for one feature, given once."""

    feature: str
    quantity: int
    priority: int
    create_time: datetime
    expire_time: datetime | None
    number: int
    used: int = 0
    revoked: bool = False

    def active(self, now: datetime) -> bool:
        """Tell whether it can be used."""
        return not self.revoked and (self.expire_time is None or now < self.expire_time)

    def order(self) -> tuple[int, float, datetime, int]:
        """Sort credits into the order in which they are used."""
        expiry = self.expire_time.timestamp() if self.expire_time is not None else float("inf")
        return (self.priority, expiry, self.create_time, self.number)


@dataclass(slots=True)
class Held:
    """A reservation."""

    feature: str
    period: str
    quantity: int
    create_time: datetime
    expire_time: datetime
    state: str = "held"

    def stands(self, now: datetime) -> bool:
        """Tell whether it holds its quantity."""
        return self.state == "held" and now < self.expire_time


@dataclass(slots=True)
class Line:
    """A line of the ledger that counted something."""

    feature: str
    period: str
    quantity: int
    paid: list[tuple[Credit, int]]
    """Credits that paid, in the order in which they did."""
    reversed: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an account stands with a feature in a period."""

    limit: int
    used: int
    held: int
    remaining: int


@dataclass(slots=True)
class ModelAccount:
    """One account."""

    plan: Plan
    gauges: frozenset[str] = frozenset()
    used: dict[tuple[str, str], int] = field(default_factory=dict)
    credited: dict[tuple[str, str], int] = field(default_factory=dict)
    credits: list[Credit] = field(default_factory=list)
    reservations: dict[str, Held] = field(default_factory=dict)
    lines: dict[str, Line] = field(default_factory=dict)

    # --- Numbers ----------------------------------------------------------------------------------------

    def active_credits(self, feature: str, now: datetime) -> list[Credit]:
        """Return the credits that can be used, in order."""
        return sorted((c for c in self.credits if c.feature == feature and c.active(now)), key=Credit.order)

    def held(self, feature: str, period: str, now: datetime) -> int:
        """Sum up what is reserved."""
        return sum(
            each.quantity
            for each in self.reservations.values()
            if (each.feature, each.period) == (feature, period) and each.stands(now)
        )

    def entitled(self, feature: str, now: datetime) -> bool:
        """Tell whether any plan or credit gives the feature."""
        return feature in self.plan or bool(self.active_credits(feature, now))

    def standing(self, feature: str, period: str, now: datetime) -> Standing:
        """Say where the account stands; it must be entitled."""
        key = (feature, period)
        used, credited, held = self.used.get(key, 0), self.credited.get(key, 0), self.held(feature, period, now)
        base = self.plan.get(feature, 0)
        if base == UNLIMITED:
            return Standing(UNLIMITED, used, held, UNLIMITED)
        left = sum(c.quantity - c.used for c in self.active_credits(feature, now))
        limit = max(base + credited, used) + left if left else base + credited
        remaining = max(0, base - (used - credited)) + left - held
        return Standing(limit, used, held, max(0, remaining))

    # --- Counting ---------------------------------------------------------------------------------------

    def fits(self, feature: str, period: str, quantity: int, now: datetime, *, without: str = "") -> bool:
        """Tell whether a quantity could be counted; `without` names a reservation that stands aside."""
        if not self.entitled(feature, now):
            return False
        if quantity < 0:
            return self.used.get((feature, period), 0) + quantity >= 0
        held = self.reservations.get(without)
        kept, aside = (held.state, held) if held is not None else ("", None)
        if aside is not None:
            aside.state = "aside"
        remaining = self.standing(feature, period, now).remaining
        if aside is not None:
            aside.state = kept
        return remaining == UNLIMITED or quantity <= remaining

    def count(self, line: str, feature: str, period: str, quantity: int, now: datetime) -> None:
        """Count, fitting or not, and let credits pay for what the plan does not, as far as they go."""
        key = (feature, period)
        base = self.plan.get(feature, 0)
        paid: list[tuple[Credit, int]] = []
        if base != UNLIMITED and quantity > 0:
            plan_part = self.used.get(key, 0) - self.credited.get(key, 0)
            base_left = max(0, base - plan_part)
            left = quantity - min(quantity, max(0, base_left - self.held(feature, period, now)))
            for credit in self.active_credits(feature, now):
                burned = min(left, credit.quantity - credit.used)
                if burned > 0:
                    credit.used += burned
                    left -= burned
                    paid.append((credit, burned))
        self.used[key] = self.used.get(key, 0) + quantity
        self.credited[key] = self.credited.get(key, 0) + sum(burned for _, burned in paid)
        self.lines[line] = Line(feature, period, quantity, paid)

    def reverse(self, line: str, quantity: int) -> None:
        """Take back part of a line; the last credit that paid is the first that is paid back."""
        entry = self.lines[line]
        key = (entry.feature, entry.period)
        skip, left = entry.reversed, quantity
        for credit, burned in reversed(entry.paid):
            skipped = min(skip, burned)
            skip -= skipped
            back = min(left, burned - skipped)
            left -= back
            credit.used -= back
            self.credited[key] -= back
        entry.reversed += quantity
        self.used[key] -= quantity
