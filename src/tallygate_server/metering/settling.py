"""Ending holds, and telling Redis the totals that Postgres arrived at."""

from __future__ import annotations

from collections.abc import Sequence

from tallygate_server.clock import Clock
from tallygate_server.counters.counters import Counters, Settlement
from tallygate_server.hot_accounts import counter_ttl_ms, to_ms
from tallygate_server.metering.calls import IncrementCall
from tallygate_server.storage.ledger import CounterState


class Settling:
    """Collects what one commit settles, then sends it as one script."""

    __slots__ = ("_counters", "_ended", "_now_ms", "_settlements")

    def __init__(self, counters: Counters, clock: Clock) -> None:
        """Begin with nothing to settle."""
        self._counters = counters
        self._now_ms = clock.now_ms()
        self._settlements: list[Settlement] = []
        self._ended: list[str] = []

    def add(self, calls: Sequence[IncrementCall], state: CounterState | None) -> None:
        """End the holds of one counter's calls and carry its new total (None: only end the holds)."""
        first = calls[0]
        assert first.period is not None
        ttl_ms = counter_ttl_ms(first.period, self._now_ms)
        batches: list[str] = []
        for call in calls:
            group, call.hold = call.hold, None
            if group is None:
                continue
            group.calls -= 1
            if group.calls == 0:
                batches.append(group.batch.id)
                group.batch.groups -= 1
                if group.batch.groups == 0:
                    self._ended.append(group.batch.id)
        if not batches and state is not None:
            batches.append("")
        self._settlements.extend(settlement(first.counter_key, batch, state, ttl_ms) for batch in batches)

    def send(self) -> None:
        """Put the settlement on the wire, ahead of the answers: who was answered finds the new total in Redis."""
        if self._settlements:
            self._counters.settle_soon(self._settlements, ended_batches=self._ended)
            self._counters.flush()


def settlement(counter_key: str, batch_id: str, state: CounterState | None, ttl_ms: int) -> Settlement:
    """Return what Redis is told of a counter (None: only that a hold ends)."""
    if state is None:
        return Settlement(counter_key, batch_id, None, 0, ttl_ms)
    # Rounded down: a reservation that Redis takes for expired too early is looked up in Postgres.
    expire_ms = 0 if state.reserve_expire_time is None else to_ms(state.reserve_expire_time)
    return Settlement(counter_key, batch_id, state.used, state.version, ttl_ms, state.reserved, expire_ms)


def release(calls: Sequence[IncrementCall], counters: Counters, clock: Clock) -> None:
    """End the holds of calls that were not counted."""
    settling = Settling(counters, clock)
    for call in calls:
        if call.hold is not None:
            settling.add([call], None)
    settling.send()
