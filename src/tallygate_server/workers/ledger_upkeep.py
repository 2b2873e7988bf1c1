"""Keeps the ledger going: partitions made ahead, ids of requests and events forgotten after their window."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from tallygate_server.clock import Clock
from tallygate_server.storage.engine import owner_engine
from tallygate_server.storage.ledger import Ledger, LedgerDown, LedgerLost
from tallygate_server.storage.partitions import create_partitions_ahead
from tallygate_server.storage.usage_events import forget_keys
from tallygate_server.workers.jobs import Detail

REQUESTS_PER_DELETE_MAX: Final = 5_000
EVENT_KEYS_PER_DELETE_MAX: Final = 5_000


async def make_partitions(database_url: str, months_ahead: int) -> Detail:
    """Create the monthly partitions that are missing; needs the tables' owner."""
    engine = owner_engine(database_url)
    try:
        async with engine.begin() as connection:
            made = await create_partitions_ahead(connection, months_ahead=months_ahead)
    finally:
        await engine.dispose()
    return {"partitions_made": made} if made else {}


async def forget_requests(ledger: Ledger, clock: Clock, retention_days: int) -> Detail:
    """Delete request ids older than the window, in bounded batches."""
    before = clock.now() - timedelta(days=retention_days)
    forgotten = 0
    try:
        while ledger.up:
            deleted = await ledger.forget_requests(before, REQUESTS_PER_DELETE_MAX)
            forgotten += deleted
            if deleted < REQUESTS_PER_DELETE_MAX:
                break
    except LedgerDown:
        pass
    return {"requests_forgotten": forgotten} if forgotten else {}


async def forget_event_keys(ledger: Ledger, clock: Clock, retention_days: int) -> Detail:
    """Delete keys of usage events older than the window, in bounded batches."""
    before = clock.now() - timedelta(days=retention_days)
    forgotten = 0
    try:
        while ledger.up:
            async with ledger.exact() as transaction:
                deleted = await forget_keys(transaction, before, EVENT_KEYS_PER_DELETE_MAX)
            forgotten += deleted
            if deleted < EVENT_KEYS_PER_DELETE_MAX:
                break
    except (LedgerDown, LedgerLost):
        pass
    return {"event_keys_forgotten": forgotten} if forgotten else {}
