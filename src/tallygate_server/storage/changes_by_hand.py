"""Hears of entitlements that somebody changed in the database by hand.

The service's own changes need none of this. A trigger raises the account's revision and notifies; every
server then forgets the account, so the next call reads it anew. What is changed while a server is cut off
from Postgres it learns when the sources' time to live in Redis ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.storage.engine import DatabaseRole
from tallygate_server.storage.listener import Listener

log = structlog.get_logger(__name__)

CHANNEL: Final = "tallygate_changed"

OnChanged = Callable[[TenantId, AccountId], None]


class ChangesByHand:
    """Listens on a connection of its own, for as long as it runs."""

    def __init__(self, database_url: str, on_changed: OnChanged) -> None:
        """Call `on_changed`, on the loop, for each account that was changed by hand."""
        self._on_changed = on_changed
        self._listener = Listener(database_url, CHANNEL, self._hear, role=DatabaseRole.APP)

    async def start(self) -> None:
        """Listen; raises what connecting raises."""
        await self._listener.start()

    async def close(self) -> None:
        """Stop listening."""
        await self._listener.close()

    def _hear(self, payload: str) -> None:
        tenant_id, _, account_id = payload.partition("/")
        log.info("changed_by_hand", tenant_id=tenant_id, account_id=account_id)
        self._on_changed(TenantId(tenant_id), AccountId(account_id))
