"""Locks on objects of the billing provider, across all servers.

Whoever fetches an object and stores what it saw holds the object's lock from before the fetch until after the commit:
so what is stored was fetched after everything that was stored before it, and no late answer of the provider overwrites
a newer one. The lock is an advisory one of a session of its own: no transaction and no row stay open while the
provider is slow, no reader notices, and a server that dies lets go.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from tallygate_server.errors import StoreUnavailable
from tallygate_server.storage.engine import CONNECTION_ERRORS, DatabaseRole, connection_settings

LOCKS_AT_ONCE_MAX: Final = 8
"""Objects of the provider that one server works on at a time; further ones wait."""
WAIT_SECONDS_MAX: Final = 30.0
"""Longest wait for another server, which asks the provider with bounds of its own."""

_SPACE: Final = "tallygate-provider:"


class HeldLock:
    """A lock that is held as long as its session lives."""

    def __init__(self, session: asyncpg.Connection) -> None:
        """Belong to the session."""
        self._session = session

    async def confirm(self) -> None:
        """Make sure that the lock is still held; raise StoreUnavailable when its session broke meanwhile.

        Called when the rows that are to be written are locked: whoever takes the object's lock after that waits for
        these rows, and stores what it fetched later.
        """
        try:
            await self._session.fetchval("SELECT 1")
        except (asyncpg.PostgresError, *CONNECTION_ERRORS) as error:
            raise StoreUnavailable("the lock of the billing provider's object was lost; nothing was changed") from error


class ProviderLocks:
    """Takes locks."""

    def __init__(self, database_url: str) -> None:
        """Prepare; sessions are opened when they are needed."""
        self._url = database_url
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()
        # Waiting for somebody of the same server costs no session.
        self._local: dict[str, asyncio.Lock] = {}
        self._interested: Counter[str] = Counter()

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[HeldLock]:
        """Hold the lock of the object, waiting for whoever has it; raise StoreUnavailable where that takes too long.

        Never taken while another one is held: two who do so in a different order would wait for each other.
        """
        local = self._local.setdefault(name, asyncio.Lock())
        self._interested[name] += 1
        try:
            async with local, self._session() as session:
                number = int.from_bytes(hashlib.blake2b((_SPACE + name).encode(), digest_size=8).digest(), signed=True)
                try:
                    await session.execute("SELECT pg_advisory_lock($1)", number)
                except (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError, *CONNECTION_ERRORS) as error:
                    raise StoreUnavailable("another server works on the same object just now") from error
                try:
                    yield HeldLock(session)
                finally:
                    await _let_go(session, number)
        finally:
            self._interested[name] -= 1
            if not self._interested[name]:
                del self._interested[name], self._local[name]

    async def close(self) -> None:
        """Close every session."""
        if self._pool is not None:
            self._pool.terminate()

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[asyncpg.Connection]:
        try:
            if self._pool is None:
                async with self._opening:
                    if self._pool is None:
                        self._pool = await asyncpg.create_pool(
                            self._url,
                            # Without a floor asyncpg does not reconnect by itself.
                            min_size=0,
                            max_size=LOCKS_AT_ONCE_MAX,
                            timeout=5,
                            server_settings=connection_settings(
                                DatabaseRole.INTAKE,
                                lock_timeout=str(int(WAIT_SECONDS_MAX * 1_000)),
                                statement_timeout=str(int(WAIT_SECONDS_MAX * 1_000) + 1_000),
                            ),
                        )
            session = await self._pool.acquire(timeout=WAIT_SECONDS_MAX)
        except CONNECTION_ERRORS as error:
            raise StoreUnavailable("the database cannot be reached just now") from error
        try:
            yield session
        finally:
            try:
                await self._pool.release(session, timeout=5)
            except (asyncpg.PostgresError, *CONNECTION_ERRORS):
                session.terminate()


async def _let_go(session: asyncpg.Connection, number: int) -> None:
    try:
        await session.execute("SELECT pg_advisory_unlock($1)", number)
    except (asyncpg.PostgresError, *CONNECTION_ERRORS):
        # A broken session holds nothing any more; one whose state is in doubt is ended.
        session.terminate()
