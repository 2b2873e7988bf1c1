"""Hears what Postgres announces on a channel, on a connection of its own that is made again when it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import asyncpg
import structlog

from tallygate_server.storage.engine import CONNECTION_ERRORS, DatabaseRole, connect

log = structlog.get_logger(__name__)

_RECONNECT_DELAY_SECONDS: Final = 0.5


class Listener:
    """Listens for as long as it runs; what is said while the connection is broken is not heard."""

    def __init__(self, database_url: str, channel: str, on_heard: Callable[[str], None], *, role: DatabaseRole) -> None:
        """Call `on_heard`, on the loop, with the text of each announcement."""
        self._url = database_url
        self._channel = channel
        self._on_heard = on_heard
        self._role = role
        self._connection: asyncpg.Connection | None = None
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen; raises what connecting raises."""
        await self._listen()
        self._task = asyncio.create_task(self._keep(), name=f"listen-{self._channel}")

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
        self._connection = await connect(self._url, self._role)
        self._connection.add_termination_listener(self._note_end)
        await self._connection.add_listener(self._channel, self._hear)

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
        self._on_heard(str(payload))
