"""How many calls are under way, and when the server takes no more."""

from __future__ import annotations

from typing import Final

from tallygate_server.errors import Overloaded

IN_FLIGHT_DEFAULT: Final = 4_096
"""Calls under way before new ones are shed: some hundred milliseconds of work, less than a client waits."""


class InFlight:
    """Counts calls under way. Health probes and reflection never enter, so they are never shed."""

    __slots__ = ("count", "maximum", "shed_count")

    def __init__(self, maximum: int = IN_FLIGHT_DEFAULT) -> None:
        self.maximum = maximum
        self.count = 0
        self.shed_count = 0
        """Calls refused so far."""

    def enter(self) -> None:
        """Begin a call, or refuse it with Overloaded; every success needs one `leave`."""
        if self.count >= self.maximum:
            self.shed_count += 1
            raise overloaded()
        self.count += 1

    def leave(self) -> None:
        """End a call that entered."""
        self.count -= 1


def overloaded() -> Overloaded:
    """Build the error that shed calls get."""
    return Overloaded("the server has more calls under way than it can answer in time", **{"class": "call"})
