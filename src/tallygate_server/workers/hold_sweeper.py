"""Ends holds whose server died, or lost its way, between taking and settling them.

The ledger is asked for the counters' totals: whether the lost commit happened or not is in them. A commit
that comes even later is still checked by Postgres, so ending a hold early can never break a limit.
"""

from __future__ import annotations

from typing import Final

import structlog

from tallygate_server.clock import Clock
from tallygate_server.counters import keys
from tallygate_server.counters.connection import RedisCommandError, RedisUnavailable
from tallygate_server.counters.counters import COUNTER_TTL_MS_MAX, Counters
from tallygate_server.metering.settling import settlement
from tallygate_server.storage.ledger import NO_COUNTER, CounterKey, Ledger, LedgerDown
from tallygate_server.telemetry import metrics

log = structlog.get_logger(__name__)

_BATCHES_PER_SWEEP_MAX: Final = 1_000


class HoldSweeper:
    """Looks through every server's registry of unsettled holds."""

    def __init__(self, *, counters: Counters, ledger: Ledger, clock: Clock) -> None:
        """Sweep for all servers."""
        self._counters = counters
        self._ledger = ledger
        self._clock = clock

    async def sweep(self) -> int:
        """End every hold past its deadline; return how many. Does nothing while Redis or Postgres is away."""
        if not (self._counters.ready and self._ledger.up):
            return 0
        swept = 0
        try:
            for server_id in await self._counters.servers_with_holds():
                batches = await self._counters.hold_batches(server_id)
                if not batches:
                    await self._counters.forget_server(server_id)
                now_ms = self._clock.now_ms()
                due = [
                    (batch_id, counter_keys)
                    for batch_id, (deadline_ms, counter_keys) in batches.items()
                    if deadline_ms <= now_ms
                ]
                swept += await self._end(server_id, due[:_BATCHES_PER_SWEEP_MAX])
        except (RedisUnavailable, RedisCommandError, LedgerDown) as error:
            log.warning("sweep_interrupted", error=type(error).__name__)
        if swept:
            metrics.hold_swept(swept)
            log.info("holds_swept", holds=swept)
        return swept

    async def _end(self, server_id: str, due: list[tuple[str, list[str]]]) -> int:
        if not due:
            return 0
        wanted = {key: ledger_key(key) for _, counter_keys in due for key in counter_keys}
        states = await self._ledger.read_counters(sorted(set(wanted.values())), self._clock.now())
        settlements = []
        for batch_id, counter_keys in due:
            for key in counter_keys:
                state = states.get(wanted[key], NO_COUNTER)
                settlements.append(settlement(key, batch_id, state, COUNTER_TTL_MS_MAX))
        await self._counters.settle_for(server_id, settlements, ended_batches=[batch_id for batch_id, _ in due])
        return len(settlements)


def ledger_key(counter_key: str) -> CounterKey:
    """Return the ledger's key of a Redis counter key."""
    return CounterKey(*keys.parse_counter(counter_key))
