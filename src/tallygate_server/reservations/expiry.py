"""Writing down what has expired: reservations end by themselves, whether or not anybody asks."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import structlog

from tallygate_server.clock import Clock
from tallygate_server.counters.counters import Counters
from tallygate_server.reservations.commit_loop import tell_redis
from tallygate_server.storage import reservations as rows
from tallygate_server.storage.ledger import DuplicateRow, GroupRefused, Ledger, LedgerDown, LedgerLost
from tallygate_server.telemetry import metrics

log = structlog.get_logger(__name__)

EXPIRED_PER_TRANSACTION_MAX: Final = 500
"""Reservations looked at for one transaction, which bounds how many counters it locks."""
TRANSACTIONS_PER_RUN_MAX: Final = 20
FORGOTTEN_PER_DELETE_MAX: Final = 5_000


class ReservationExpiry:
    """Ends reservations whose time is over, and forgets those that ended long ago."""

    def __init__(self, *, ledger: Ledger, counters: Counters, clock: Clock) -> None:
        """Work on the ledger, and tell Redis."""
        self._ledger = ledger
        self._counters = counters
        self._clock = clock

    async def expire(self) -> int:
        """End what has expired by now, in bounded transactions; return how many. Stops while Postgres is away."""
        expired = 0
        for _ in range(TRANSACTIONS_PER_RUN_MAX):
            try:
                found, ended = await self._expire_some()
            except (LedgerDown, LedgerLost, GroupRefused, DuplicateRow) as error:
                log.warning("expiry_interrupted", error=type(error).__name__)
                break
            expired += ended
            if not found:
                break
        if expired:
            metrics.reservation_expired(expired)
        return expired

    async def forget(self, retention: timedelta) -> int:
        """Delete reservations that ended longer ago than this; return how many."""
        forgotten = 0
        before = self._clock.now() - retention
        try:
            while self._ledger.up:
                async with self._ledger.exact() as transaction:
                    deleted = await rows.forget_closed(transaction, before, FORGOTTEN_PER_DELETE_MAX)
                forgotten += deleted
                if deleted < FORGOTTEN_PER_DELETE_MAX:
                    break
        except (LedgerDown, LedgerLost, GroupRefused) as error:
            log.warning("expiry_interrupted", error=type(error).__name__)
        return forgotten

    async def _expire_some(self) -> tuple[bool, int]:
        """Return whether anything was due, and how many were ended."""
        now = self._clock.now()
        async with self._ledger.exact() as transaction:
            period_ends = await rows.due_counters(transaction, now, EXPIRED_PER_TRANSACTION_MAX)
            if not period_ends:
                return False, 0
            locked = await transaction.lock_counters(sorted(period_ends.items(), key=lambda item: item[0]))
            ended = await transaction.expire_reservations(locked, now)
            await transaction.write(counters=locked)
        states = {key: counter.state() for key, counter in locked.items() if counter.changed}
        # Redis is corrected where it knows the counter; elsewhere nobody asks for it.
        tell_redis(self._counters, self._clock, states, period_ends, make=False)
        return True, ended
