"""The job that keeps rollups close behind the ledger and the recorded events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from tallygate_server.errors import StoreUnavailable
from tallygate_server.storage.rollups import Rollups, RollupsDown, RollupSource
from tallygate_server.telemetry import metrics

BATCHES_PER_RUN_MAX: Final = 100
"""Of one source, so that a ledger that was filled before there were rollups does not keep the others waiting."""


class RollUp:
    """Rolls up whatever is final, batch by batch."""

    def __init__(self, rollups: Rollups) -> None:
        """Work on these."""
        self._rollups = rollups

    async def run(self) -> dict[str, int]:
        """Catch up; return how many rows of each source went in. Raises StoreUnavailable."""
        done: dict[str, int] = {}
        try:
            for source in RollupSource:
                for _ in range(BATCHES_PER_RUN_MAX):
                    batch = await self._rollups.advance(source)
                    if batch.rows:
                        metrics.rolled_up(source.value, batch.rows)
                        done[source.value] = done.get(source.value, 0) + batch.rows
                    if batch.finished:
                        break
        except RollupsDown as error:
            raise StoreUnavailable("usage cannot be rolled up just now") from error
        return done


@asynccontextmanager
async def open_roll_up(database_url: str) -> AsyncIterator[RollUp]:
    """Give the job a connection of its own, which is opened when there is work and closed at the end."""
    rollups = Rollups(database_url)
    try:
        yield RollUp(rollups)
    finally:
        await rollups.close()
