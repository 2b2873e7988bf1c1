"""The log of denied increments: written behind the answers, bounded, in batches."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from tallygate_server.storage.ledger import DenialRow, Ledger, LedgerDown
from tallygate_server.telemetry import metrics

DENIALS_WAITING_MAX: Final = 20_000
DENIALS_PER_WRITE_MAX: Final = 1_000
_INTERVAL_SECONDS: Final = 0.05


class DenialLog:
    """Keeps denials that need not be recorded before they are answered."""

    def __init__(self, ledger: Ledger) -> None:
        """Write to the ledger's denials."""
        self._ledger = ledger
        self._waiting: deque[DenialRow] = deque()
        self._writing = asyncio.Lock()

    def __len__(self) -> int:
        """Return how many denials wait."""
        return len(self._waiting)

    def take(self, row: DenialRow) -> None:
        """Record the denial soon; one beyond the bound is dropped and counted."""
        if len(self._waiting) >= DENIALS_WAITING_MAX:
            metrics.denial_unrecorded()
        else:
            self._waiting.append(row)

    async def run(self) -> None:
        """Write batch after batch, until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL_SECONDS)
            try:
                await self.flush()
            except LedgerDown:
                continue

    async def drain(self) -> None:
        """Write all that waits, as soon as Postgres lets us; cancelled, what is left stays."""
        while self._waiting or self._writing.locked():
            try:
                await self.flush()
            except LedgerDown:
                await self._ledger.wait_up(_INTERVAL_SECONDS)
                await asyncio.sleep(_INTERVAL_SECONDS)

    async def flush(self) -> None:
        """Write all that waits; raises LedgerDown, and keeps what was not written."""
        waiting = self._waiting
        async with self._writing:
            while waiting:
                rows = [waiting.popleft() for _ in range(min(len(waiting), DENIALS_PER_WRITE_MAX))]
                try:
                    await self._ledger.write_denials(rows)
                except BaseException:
                    # Rows that were written all the same are not written twice.
                    waiting.extendleft(reversed(rows))
                    raise
