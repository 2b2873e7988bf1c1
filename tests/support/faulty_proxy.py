"""A wire that fails on command: stands between a client and a server on Unix sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tallygate_server.embedded.data_directory import POSTGRES_PORT


class FaultyProxy:
    """Forwards bytes both ways, until told otherwise."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.swallows_replies = False
        """The server hears and acts, the client hears nothing."""
        self.swallows_after = b""
        """As soon as a request contains these bytes, replies are swallowed."""
        self.refuses = False
        """New connections are closed at once."""
        self.flows = asyncio.Event()
        """Cleared: nothing moves in either direction, nothing is closed."""
        self.flows.set()
        self.replies_swallowed = 0

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._pairs)

    def cut(self) -> None:
        """Break every connection, both ends at once; replies flow again on new ones."""
        self.swallows_replies = False
        self.swallows_after = b""
        for pair in list(self._pairs):
            for writer in pair:
                writer.transport.abort()

    @asynccontextmanager
    async def listening(self, path: Path) -> AsyncIterator[FaultyProxy]:
        """Listen on a socket."""
        server = await asyncio.start_unix_server(self._accept, path)
        try:
            yield self
        finally:
            server.close()
            self.flows.set()
            self.cut()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await server.wait_closed()
            path.unlink(missing_ok=True)

    async def _accept(self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            client_writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_unix_connection(self._target)
        except OSError:
            client_writer.transport.abort()
            return
        pair = (client_writer, server_writer)
        self._pairs.add(pair)
        task = asyncio.ensure_future(self._join(client_reader, server_reader, pair))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _join(
        self,
        client_reader: asyncio.StreamReader,
        server_reader: asyncio.StreamReader,
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        client_writer, server_writer = pair
        directions = [
            asyncio.ensure_future(self._pump(client_reader, server_writer, replies=False)),
            asyncio.ensure_future(self._pump(server_reader, client_writer, replies=True)),
        ]
        await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        self._pairs.discard(pair)
        for direction in directions:
            direction.cancel()
        await asyncio.gather(*directions, return_exceptions=True)
        for writer in pair:
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                await self.flows.wait()
                if replies and self.swallows_replies:
                    self.replies_swallowed += 1
                    continue
                if not replies and self.swallows_after and self.swallows_after in data:
                    self.swallows_replies = True
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def postgres_proxy(database_url: str, directory: Path) -> AsyncIterator[tuple[str, FaultyProxy]]:
    """Put a proxy before Postgres; yield the address through it."""
    parts = urlsplit(database_url)
    host = parse_qs(parts.query)["host"][0]
    directory.mkdir(mode=0o711)
    name = f".s.PGSQL.{POSTGRES_PORT}"
    async with FaultyProxy(Path(host) / name).listening(directory / name) as proxy:
        yield parts._replace(query=f"host={directory}").geturl(), proxy


@asynccontextmanager
async def redis_proxy(redis_url: str, directory: Path) -> AsyncIterator[tuple[str, FaultyProxy]]:
    """Put a proxy before Redis; yield the address through it."""
    directory.mkdir(mode=0o711)
    async with FaultyProxy(Path(urlsplit(redis_url).path)).listening(directory / "redis.sock") as proxy:
        yield f"unix://{directory / 'redis.sock'}", proxy
