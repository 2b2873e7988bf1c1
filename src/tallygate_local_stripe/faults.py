"""Faults on request: what goes wrong, at which endpoint, how often."""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
from dataclasses import dataclass
from typing import Final

from tallygate_local_stripe.errors import refused

KINDS: Final = (
    "error_500",
    "rate_limit_429",
    "timeout_before",
    "timeout_after",
    "cut_before",
    "cut_after",
    "error_after",
    "slow_ms",
)


@dataclass(slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong.

    `on` is "METHOD path", where `*` stands for anything. The next `skip` matching requests pass, then `count` fail.
    """

    on: str
    kind: str
    count: int = 1
    skip: int = 0
    slow_ms: int = 0
    # What an answer of 500 before the effect does to the request's key: real outages leave it unused.
    saved: bool = False


class Faults:
    """The faults that wait for their requests."""

    def __init__(self) -> None:
        self.waiting: list[Fault] = []
        self._cleared = asyncio.Event()

    def add(self, fault: Fault) -> None:
        """Have something go wrong.

        Raises:
            StripeError: there is no such kind of fault.

        """
        if fault.kind not in KINDS:
            raise refused(f"Unknown fault: {fault.kind}; there are {', '.join(KINDS)}.", param="kind")
        self.waiting.append(fault)

    def clear(self) -> None:
        """Let nothing go wrong any more, and slow requests go on."""
        self.waiting.clear()
        self._cleared.set()
        self._cleared = asyncio.Event()

    async def slow_down(self, fault: Fault) -> None:
        """Wait as long as the fault says, or until faults are cleared."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._cleared.wait(), fault.slow_ms / 1000)

    def take(self, method: str, path: str) -> Fault | None:
        """Return the fault that this request meets, used up by one."""
        for fault in self.waiting:
            if not fnmatch.fnmatchcase(f"{method} {path}", fault.on):
                continue
            if fault.skip > 0:
                fault.skip -= 1
                continue
            fault.count -= 1
            if fault.count <= 0:
                self.waiting.remove(fault)
            return fault
        return None
