"""The epoch of what Redis knows, and whether Postgres is heard at all.

A change that could not be told to Redis begins a new epoch in Postgres. Every server asks for the epoch several
times a second, and looks at nothing in Redis that is of another one. Whoever began an epoch waits until each
server has either asked, or not heard Postgres for so long that it calls its answers stale.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import asyncpg
import structlog

from tallygate_server.errors import StoreUnavailable
from tallygate_server.storage.engine import CONNECTION_ERRORS, DatabaseRole, connect

log = structlog.get_logger(__name__)

BEAT_SECONDS: Final = 0.25
HEARD_SECONDS: Final = 1.0
"""For how long after it was asked Postgres' answer is relied upon."""
SETTLED_SECONDS: Final = HEARD_SECONDS + 0.1
"""Wait after which an epoch is everybody's; the tenth of a second is for clocks that run at unlike speed."""
SILENT_SECONDS: Final = 2.5
"""Silence after which Postgres counts as away; longer, as a busy machine alone must not break connections."""
START_SECONDS: Final = 10.0
"""Wait for the first connection, and for the first answer: a server that starts on a busy machine need not give up."""
_OLD_SECONDS: Final = 10.0
"""Age at which an epoch is everybody's for certain, also for a server that has just started."""

_READ: Final = """
SELECT epoch, extract(epoch FROM clock_timestamp() - begin_time)::float8 AS age
FROM cache_epochs
"""
_BEGIN: Final = """
INSERT INTO cache_epochs AS present (single, epoch) VALUES (true, 1)
ON CONFLICT (single) DO UPDATE SET epoch = present.epoch + 1, begin_time = clock_timestamp()
"""


class CacheEpochs:
    """Follows the epoch on a connection of its own."""

    def __init__(self, database_url: str, *, on_begun: Callable[[int], None], on_silence: Callable[[], None]) -> None:
        """Call `on_begun` with each new epoch, and `on_silence` when Postgres does not answer in time."""
        self._url = database_url
        self._on_begun = on_begun
        self._on_silence = on_silence
        self._loop = asyncio.get_running_loop()
        self._connection: asyncpg.Connection | None = None
        self._asked = float("-inf")
        self._epoch = 0
        self._settled = float("-inf")
        self._task: asyncio.Task[None] | None = None

    @property
    def heard(self) -> bool:
        """Whether the epoch is known to be the present one, give or take what others wait for."""
        return self._loop.time() - self._asked < HEARD_SECONDS

    async def start(self) -> None:
        """Learn the epoch; raises what connecting raises."""
        await self._ask(START_SECONDS)
        self._task = asyncio.create_task(self._follow(), name="cache-epochs")

    async def close(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._connection is not None:
            self._connection.terminate()

    async def begin(self) -> None:
        """Begin a new epoch; raises StoreUnavailable when Postgres cannot be asked."""
        try:
            connection = await connect(self._url, DatabaseRole.APP)
            try:
                await connection.execute(_BEGIN)
                self._take(await connection.fetchrow(_READ, timeout=HEARD_SECONDS))
            finally:
                connection.terminate()
        except CONNECTION_ERRORS as error:
            raise StoreUnavailable("a change could not be made known to every server just now") from error
        log.warning("cache_epoch_begun", epoch=self._epoch)

    async def settled(self) -> None:
        """Wait until every server keeps to the present epoch: at once, but for the second after one began."""
        # Another epoch may begin meanwhile; then that one's second counts.
        while (remaining := self._settled - self._loop.time()) > 0:  # noqa: ASYNC110 - an event would need a timer too.
            await asyncio.sleep(remaining)

    async def _follow(self) -> None:
        silent = False
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            try:
                await self._ask()
            except CONNECTION_ERRORS as error:
                log.debug("epoch_not_read", error=type(error).__name__)
                if self._connection is not None:
                    self._connection.terminate()
                if not silent and self._loop.time() - self._asked > SILENT_SECONDS:
                    silent = True
                    self._on_silence()
            else:
                silent = False

    async def _ask(self, patience_seconds: float | None = None) -> None:
        if self._connection is None or self._connection.is_closed():
            # Takes many round trips, and so a while on a busy machine; the answer is no older for it.
            async with asyncio.timeout(patience_seconds or SILENT_SECONDS):
                self._connection = await connect(self._url, DatabaseRole.APP)
        asked = self._loop.time()
        async with asyncio.timeout(patience_seconds or HEARD_SECONDS):
            row = await self._connection.fetchrow(_READ)
        self._asked = asked
        self._take(row)

    def _take(self, row: asyncpg.Record | None) -> None:
        if row is None or row["epoch"] <= self._epoch:
            return
        self._epoch = row["epoch"]
        if row["age"] < _OLD_SECONDS:
            self._settled = self._loop.time() + SETTLED_SECONDS
        self._on_begun(self._epoch)
