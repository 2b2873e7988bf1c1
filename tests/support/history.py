"""Histories of increments, and the check that one counter could have answered them one after the other."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One counted increment, as its caller saw it; times are monotonic nanoseconds."""

    start_ns: int
    end_ns: int
    quantity: int
    used_after: int


async def timed(count: Callable[[], Awaitable[int | None]], quantity: int) -> Step | None:
    """Count and keep what happened; `count` returns the total after it, or None when it was refused."""
    start_ns = time.monotonic_ns()
    used_after = await count()
    end_ns = time.monotonic_ns()
    if used_after is None:
        return None
    return Step(start_ns=start_ns, end_ns=end_ns, quantity=quantity, used_after=used_after)


def why_not_linearizable(history: Sequence[Step]) -> str | None:
    """Return why no single counter can have answered like this; None when one can.

    Totals of a counter that only grows name their own order, so there is no search: that order must have no gaps,
    and nobody may come after a call that began only once he had his answer.
    """
    total = 0
    latest_start_ns = 0
    for step in sorted(history, key=lambda step: step.used_after):
        if step.used_after != total + step.quantity:
            return f"{step} does not follow a total of {total}"
        if step.end_ns < latest_start_ns:
            return f"{step} had its answer before one with a lower total began"
        total = step.used_after
        latest_start_ns = max(latest_start_ns, step.start_ns)
    return None
