"""Stops asking somebody who has not answered for a while: callers then fail at once, not after a timeout each."""

from __future__ import annotations

from enum import Enum


class BreakerState(Enum):
    """Whether calls go through; the number is what the metric shows."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class CircuitBreaker:
    """Counts failures in a row; pure: instants are passed in, in nanoseconds of a clock that never steps back.

    Only what says that nobody is there counts as a failure. A refusal is an answer, and an answer closes it.
    """

    __slots__ = ("_failures", "_failures_max", "_open_ns", "_opened_ns", "_probing")

    def __init__(self, *, failures_max: int, open_ms: int) -> None:
        """Open after so many failures in a row, and let one call try again after so long."""
        self._failures_max = failures_max
        self._open_ns = open_ms * 1_000_000
        self._failures = 0
        self._opened_ns: int | None = None
        self._probing = False

    def state(self, now_ns: int) -> BreakerState:
        """Return the state at the instant."""
        if self._opened_ns is None:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if now_ns - self._opened_ns >= self._open_ns else BreakerState.OPEN

    def admit(self, now_ns: int) -> bool:
        """Tell whether a call may go out; one that may must be followed by exactly one of the methods below."""
        state = self.state(now_ns)
        if state is BreakerState.CLOSED:
            return True
        if state is BreakerState.OPEN or self._probing:
            return False
        self._probing = True
        return True

    def answered(self) -> None:
        """Note that a call was answered, however."""
        self._failures = 0
        self._opened_ns = None
        self._probing = False

    def failed(self, now_ns: int) -> None:
        """Note that a call was not answered."""
        self._failures += 1
        if self._probing or self._failures >= self._failures_max:
            self._opened_ns = now_ns
        self._probing = False

    def abandoned(self) -> None:
        """Note that a call was given up by its caller: that says nothing, and another may try in its place."""
        self._probing = False
