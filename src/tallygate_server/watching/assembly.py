"""Watches of entitlements, wired to what Postgres announces."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from tallygate_server.access import AccessChecker
from tallygate_server.clock import Clock
from tallygate_server.errors import StoreUnavailable
from tallygate_server.hot_accounts import HotAccounts
from tallygate_server.storage.account_history import CHANNEL
from tallygate_server.storage.changes_by_hand import ChangesByHand
from tallygate_server.storage.engine import CONNECTION_ERRORS, Database, DatabaseRole
from tallygate_server.storage.ledger import Ledger
from tallygate_server.storage.listener import Listener
from tallygate_server.tenants import TenantDirectory
from tallygate_server.watching.watches import EntitlementWatches, UsageNews


@asynccontextmanager
async def open_watches(
    database_url: str,
    *,
    checker: AccessChecker,
    accounts: HotAccounts,
    ledger: Ledger,
    database: Database,
    tenants: TenantDirectory,
    news: UsageNews,
    by_hand: ChangesByHand,
    clock: Clock,
) -> AsyncIterator[EntitlementWatches]:
    """Serve watches and listen for what changes; raises StoreUnavailable."""
    async with AsyncExitStack() as stack:
        watches = EntitlementWatches(
            checker=checker,
            accounts=accounts,
            ledger=ledger,
            database=database,
            tenants=tenants,
            news=news,
            clock=clock,
        )
        await watches.start()
        stack.push_async_callback(watches.close)
        by_hand.also_tell(watches.mark)
        revised = Listener(database_url, CHANNEL, watches.hear, role=DatabaseRole.APP)
        stack.push_async_callback(revised.close)
        try:
            await revised.start()
        except CONNECTION_ERRORS as error:
            raise StoreUnavailable(f"Postgres cannot be reached: {error}") from error
        yield watches
