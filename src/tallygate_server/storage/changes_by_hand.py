"""Hears of entitlements that somebody changed in the database by hand.

The service's own changes need none of this. A trigger raises the account's revision and notifies; every
server then forgets the account, so the next call reads it anew. What is changed while a server is cut off
from Postgres it learns when the sources' time to live in Redis ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import asyncpg
import structlog

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.storage.engine import CONNECTION_ERRORS, DatabaseRole, connect

log = structlog.get_logger(__name__)

CHANNEL: Final = "tallygate_changed"
_RECONNECT_DELAY_SECONDS: Final = 0.5

OnChanged = Callable[[TenantId, AccountId], None]


class ChangesByHand:
    """Listens on a connection of its own, for as long as it runs."""

    def __init__(self, database_url: str, on_changed: OnChanged) -> None:
        """Call `on_changed`, on the loop, for each account that was changed by hand."""
        self._url = database_url
        self._on_changed = on_changed
        self._connection: asyncpg.Connection | None = None
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen; raises what connecting raises."""
        await self._listen()
        self._task = asyncio.create_task(self._keep(), name="changes-by-hand")

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._connection is not None:
            self._connection.terminate()

    async def _listen(self) -> None:
        # The one before may still say that it has ended: nobody listens to it any more.
        self._connection = None
        self._ended.clear()
        self._connection = await connect(self._url, DatabaseRole.APP)
        self._connection.add_termination_listener(self._note_end)
        await self._connection.add_listener(CHANNEL, self._hear)

    def _note_end(self, connection: asyncpg.Connection) -> None:
        if connection is self._connection:
            self._ended.set()

    async def _keep(self) -> None:
        while True:
            await self._ended.wait()
            await asyncio.sleep(_RECONNECT_DELAY_SECONDS)
            if self._connection is not None:
                self._connection.terminate()
            try:
                await self._listen()
            except CONNECTION_ERRORS as error:
                self._ended.set()
                log.debug("listen_failed", error=type(error).__name__)

    def _hear(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        tenant_id, _, account_id = str(payload).partition("/")
        log.info("changed_by_hand", tenant_id=tenant_id, account_id=account_id)
        self._on_changed(TenantId(tenant_id), AccountId(account_id))
