"""Corrections of the ledger: what of a line can still be taken back, and who was denied because of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple


class Position(NamedTuple):
    """Where a line of the ledger, or a denial, stands in time; the id decides within one instant."""

    recorded_time: datetime
    entry_id: int


@dataclass(frozen=True, slots=True)
class TakenBack:
    """One reversal of a line."""

    position: Position
    quantity: int
    """Positive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """A call that was denied because the limit was used up, with the numbers of that moment."""

    position: Position
    feature_key: str
    quantity: int
    used_quantity: int
    limit_quantity: int
    request_id: str = ""


def reversible(*, quantity: int, taken_back: Iterable[TakenBack], used: int) -> int:
    """Return how much of a line can still be taken back.

    Never more than is left of the line, and never so much that the counter's total falls below zero: a negative
    correction may have taken the same units back already. Nothing of a line that takes usage back itself.
    """
    left = quantity - sum(each.quantity for each in taken_back)
    return max(0, min(left, used))


class Redemption:
    """Tells which denials would have been calls without what was taken back of one line.

    Asked about denials in the order of time. One would have been allowed if it fits under the limit of its moment once
    two things are taken into account: what was taken back of the line since then is subtracted from the total of that
    moment, and the quantities of those denials that would have been allowed before it are added, because they would
    have been used. What was reserved at that moment is not known any more, and counts for nothing.
    """

    def __init__(self, taken_back: Sequence[TakenBack]) -> None:
        """Ask about a line with these reversals."""
        self._taken_back = taken_back
        self._admitted = 0

    def admits(self, denial: Denial) -> bool:
        """Tell whether the denial would have been allowed; it then counts for those that come after it."""
        freed = sum(each.quantity for each in self._taken_back if each.position > denial.position)
        used = denial.used_quantity - freed + self._admitted
        if not freed or used + denial.quantity > denial.limit_quantity:
            return False
        self._admitted += denial.quantity
        return True
