"""The only place that asks what time it is."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Where a process takes the time from."""

    def now(self) -> datetime:
        """Return the current instant, aware, in UTC."""

    def now_ms(self) -> int:
        """Return the current instant in milliseconds since 1970."""

    def monotonic_ns(self) -> int:
        """Return nanoseconds on a clock that never steps back: for ages and durations."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the current instant, aware, in UTC."""
        return datetime.now(UTC)

    def now_ms(self) -> int:
        """Return the current instant in milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def monotonic_ns(self) -> int:
        """Return nanoseconds on a clock that never steps back: for ages and durations."""
        return time.monotonic_ns()


class ShiftedClock:
    """The machine's clock, ahead by as much as somebody says: months of billing pass in a minute of trying it."""

    def __init__(self) -> None:
        """Begin at the machine's time."""
        self._ahead = timedelta(0)
        self._ahead_ms = 0

    def shift(self, ahead: timedelta) -> None:
        """Be ahead of the machine's clock by this much from now on."""
        self._ahead = ahead
        self._ahead_ms = ahead // timedelta(milliseconds=1)

    def now(self) -> datetime:
        """Return the current instant, aware, in UTC."""
        return datetime.now(UTC) + self._ahead

    def now_ms(self) -> int:
        """Return the current instant in milliseconds since 1970."""
        return time.time_ns() // 1_000_000 + self._ahead_ms

    def monotonic_ns(self) -> int:
        """Return nanoseconds on a clock that never steps back: for ages and durations."""
        return time.monotonic_ns()
