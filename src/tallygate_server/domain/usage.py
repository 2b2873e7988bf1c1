"""Counting: which calls of a sequence fit a limit, and which thresholds each of them crosses.

`admit` is the reference for what Redis' hold script and Postgres' exact commit do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum

from tallygate_server.domain.limits import LIMIT_UNLIMITED


class EntryKind(IntEnum):
    """How a line of the ledger came about. The numbers are stored, and are those of the contract."""

    INCREMENT = 1
    RESERVATION = 2
    EVENT = 3
    REVERSAL = 4
    CORRECTION = 5


class MarkKind(Enum):
    """What is reached at a mark; the values stand in SQL and in events."""

    PERCENT = "percent"
    QUANTITY = "quantity"
    EXHAUSTED = "exhausted"


@dataclass(frozen=True, slots=True)
class UsageMark:
    """A total that is reported when usage reaches it."""

    kind: MarkKind
    threshold: int
    """Percent, or units; the limit itself for EXHAUSTED."""
    quantity: int
    """The smallest total, in units, that has reached it."""


def usage_marks(
    *, limit: int, hard: bool, thresholds_percent: Sequence[int], thresholds_absolute: Sequence[int]
) -> tuple[UsageMark, ...]:
    """Return what is to be reported of a counter, by rising quantity: its thresholds, and the end of a hard limit.

    Without a limit, and with one of 0, no percentage is ever reached.
    """
    marks = [UsageMark(MarkKind.QUANTITY, quantity, quantity) for quantity in thresholds_absolute]
    if limit > 0:
        # Rounded up: 80 % of 9 is reached by the eighth unit.
        marks += [UsageMark(MarkKind.PERCENT, percent, -(-percent * limit // 100)) for percent in thresholds_percent]
        if hard:
            marks.append(UsageMark(MarkKind.EXHAUSTED, limit, limit))
    return tuple(sorted(marks, key=lambda mark: (mark.quantity, mark.kind.value, mark.threshold)))


def crossed(marks: Sequence[UsageMark], *, used_before: int, used_after: int) -> list[UsageMark]:
    """Return the marks that a step from one total to another crosses: those in `(used_before, used_after]`."""
    return [mark for mark in marks if used_before < mark.quantity <= used_after]


def peak_after(*, peak: int | None, used_before: int, used_after: int) -> int | None:
    """Return the highest total of a period where it is not the present one, after a step; else None.

    What was reached once in a period is not reached again after a correction: marks up to the peak are passed over.
    """
    highest = used_before if peak is None else max(peak, used_before)
    return highest if used_after < highest else None


def fits(*, used: int, quantity: int, limit: int, reserved: int = 0) -> bool:
    """Tell whether the whole quantity fits: never above the limit going up, never below zero going down.

    What is reserved is as good as used for everybody else.
    """
    after = used + quantity
    if quantity < 0:
        return after >= 0
    return limit == LIMIT_UNLIMITED or after + reserved <= limit


def admit(quantities: Sequence[int], *, used: int, limit: int) -> list[bool]:
    """Admit each quantity wholly or not at all, in order, each against the total of those before it."""
    admitted = []
    for quantity in quantities:
        fit = fits(used=used, quantity=quantity, limit=limit)
        if fit:
            used += quantity
        admitted.append(fit)
    return admitted


def threshold_percent_crossed(*, used_before: int, used_after: int, limit: int, thresholds: Sequence[int]) -> int:
    """Return the highest percent threshold in `(used_before, used_after]` of the limit, or 0 for none.

    A threshold of p percent is crossed by the one call that takes usage from below p percent to it or
    beyond; integer arithmetic, so 80 % of 10 is crossed exactly by the eighth unit.
    """
    if limit <= 0:
        return 0
    crossed = [p for p in thresholds if used_before * 100 < p * limit <= used_after * 100]
    return max(crossed, default=0)


def threshold_quantity_crossed(*, used_before: int, used_after: int, thresholds: Sequence[int]) -> int:
    """Return the highest absolute threshold in `(used_before, used_after]`, or 0 for none."""
    return max((t for t in thresholds if used_before < t <= used_after), default=0)


def threshold_percent_reached(*, used: int, limit: int, thresholds: Sequence[int]) -> int:
    """Return the highest percent threshold that usage has reached, or 0 for none."""
    if limit <= 0:
        return 0
    return max((p for p in thresholds if p * limit <= used * 100), default=0)
