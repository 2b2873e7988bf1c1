"""A clock that stands still until a test moves it."""

from __future__ import annotations

import datetime as dt

DEFAULT_START = dt.datetime(2026, 3, 15, 12, 0, tzinfo=dt.UTC)


class FrozenClock:
    """Satisfies `tallygate_server.clock.Clock`."""

    def __init__(self, start: dt.datetime = DEFAULT_START) -> None:
        assert start.tzinfo is not None
        self._now = start.astimezone(dt.UTC)
        self._monotonic_ns = 0

    def now(self) -> dt.datetime:
        """Return the instant the test chose."""
        return self._now

    def now_ns(self) -> int:
        """Return the same instant in nanoseconds since the epoch."""
        since_epoch = self._now - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
        return (since_epoch.days * 86_400 + since_epoch.seconds) * 1_000_000_000 + since_epoch.microseconds * 1_000

    def now_ms(self) -> int:
        """Return the same instant in milliseconds since the epoch."""
        return self.now_ns() // 1_000_000

    def monotonic_ns(self) -> int:
        """Return the time that has passed since the clock was made, as far as the test let it."""
        return self._monotonic_ns

    def advance(self, step: dt.timedelta) -> None:
        """Let time pass."""
        assert step >= dt.timedelta(0)
        self._now += step
        self._monotonic_ns += int(step / dt.timedelta(microseconds=1)) * 1_000

    def set(self, instant: dt.datetime) -> None:
        """Jump, also backwards, as a wall clock may; the monotonic time stays."""
        self._now = instant.astimezone(dt.UTC)
