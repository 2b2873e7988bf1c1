"""The only place that asks what time it is."""

from __future__ import annotations

import time
from datetime import UTC, datetime
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
