"""Hears of entitlements that somebody changed in the database by hand.

The service's own changes need none of this. A trigger raises the account's revision and notifies; every
server then forgets the account, so the next call reads it anew. What is changed while a server is cut off
from Postgres it learns when the sources' time to live in Redis ends.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import structlog

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.errors import StoreUnavailable
from tallygate_server.storage.engine import CONNECTION_ERRORS, DatabaseRole
from tallygate_server.storage.listener import Listener

log = structlog.get_logger(__name__)

CHANNEL: Final = "tallygate_changed"

OnChanged = Callable[[TenantId, AccountId], None]


class ChangesByHand:
    """Listens on a connection of its own, for as long as it runs."""

    def __init__(self, database_url: str, on_changed: OnChanged) -> None:
        """Call `on_changed`, on the loop, for each account that was changed by hand."""
        self._on_changed = [on_changed]
        self._listener = Listener(database_url, CHANNEL, self._hear, role=DatabaseRole.APP)

    def also_tell(self, on_changed: OnChanged) -> None:
        """Call this, too, from now on, after those that were named before."""
        self._on_changed.append(on_changed)

    @classmethod
    @asynccontextmanager
    async def listening(cls, database_url: str, on_changed: OnChanged) -> AsyncIterator[ChangesByHand]:
        """Listen until the block is left; raises StoreUnavailable."""
        by_hand = cls(database_url, on_changed)
        try:
            await by_hand.start()
        except CONNECTION_ERRORS as error:
            raise StoreUnavailable(f"Postgres cannot be reached: {error}") from error
        try:
            yield by_hand
        finally:
            await by_hand.close()

    async def start(self) -> None:
        """Listen; raises what connecting raises."""
        await self._listener.start()

    async def close(self) -> None:
        """Stop listening."""
        await self._listener.close()

    def _hear(self, payload: str) -> None:
        tenant_id, _, account_id = payload.partition("/")
        log.info("changed_by_hand", tenant_id=tenant_id, account_id=account_id)
        for on_changed in self._on_changed:
            on_changed(TenantId(tenant_id), AccountId(account_id))
