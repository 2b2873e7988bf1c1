"""Counting: which calls of a sequence fit a limit, and which thresholds each of them crosses.

`admit` is the reference for what Redis' hold script and Postgres' exact commit do.
"""

from __future__ import annotations

from collections.abc import Sequence

from tallygate_server.domain.limits import LIMIT_UNLIMITED


def fits(*, used: int, quantity: int, limit: int) -> bool:
    """Tell whether the whole quantity fits: never above the limit going up, never below zero going down."""
    after = used + quantity
    if quantity < 0:
        return after >= 0
    return limit == LIMIT_UNLIMITED or after <= limit


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
