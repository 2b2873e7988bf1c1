"""Counters whose commit was lost in doubt: it may happen yet, and nobody would tell Redis of the total."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Final

import structlog

from tallygate_server.counters.counters import Counters, Settlement
from tallygate_server.storage.ledger import CounterKey, Ledger, LedgerDown

log = structlog.get_logger(__name__)

DOUBTS_MAX: Final = 10_000
"""Counters at a time; one beyond it waits for its next increment."""
_COUNTERS_PER_LOOK_MAX: Final = 500
_PAUSE_SECONDS: Final = 0.5


class Doubts:
    """Looks at such counters again when the lost commit has had its time, and tells Redis what the ledger says.

    Kept here and not in Redis, which may be flushed meanwhile.
    """

    def __init__(self, *, ledger: Ledger, counters: Counters, delay_ms: int) -> None:
        """Look again after the delay."""
        self._ledger = ledger
        self._counters = counters
        self._delay_seconds = delay_ms / 1_000
        self._loop = asyncio.get_running_loop()
        self._due: dict[str, tuple[float, CounterKey]] = {}
        """By Redis key: when, and the ledger's key; the first is due first."""
        self._noted = asyncio.Event()

    def note(self, counter_key: str, ledger_key: CounterKey) -> None:
        """Have the counter looked at; what was noted of it before is covered by that."""
        self._due.pop(counter_key, None)
        if len(self._due) < DOUBTS_MAX:
            self._due[counter_key] = (self._loop.time() + self._delay_seconds, ledger_key)
            self._noted.set()

    async def run(self) -> None:
        """Look at one after the other, until cancelled."""
        while True:
            if not self._due:
                self._noted.clear()
                await self._noted.wait()
            due_seconds, _ = next(iter(self._due.values()))
            await asyncio.sleep(due_seconds - self._loop.time())
            try:
                await self._look()
            except LedgerDown:
                await self._ledger.wait_up(_PAUSE_SECONDS)
            except Exception:
                log.exception("doubts_not_looked_at")
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _look(self) -> None:
        now = self._loop.time()
        due = {
            counter_key: ledger_key
            for counter_key, (seconds, ledger_key) in islice(self._due.items(), _COUNTERS_PER_LOOK_MAX)
            if seconds <= now
        }
        states = await self._ledger.read_counters(sorted(set(due.values())))
        # Without a lease: a counter that Redis does not know is left to those who ask for it.
        self._counters.settle_soon(
            [
                Settlement(counter_key, "", states[ledger_key].used, states[ledger_key].version, 0)
                for counter_key, ledger_key in due.items()
                if ledger_key in states
            ]
        )
        for counter_key in due:
            # Noted again meanwhile, it is due later.
            if self._due[counter_key][0] <= now:
                del self._due[counter_key]
