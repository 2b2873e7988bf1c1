"""One multiplexed connection to Redis: any number of commands in flight, one write per event-loop tick.

Costs about a twentieth of what a general client does per command, which is what the hot path needs; all
other work with Redis goes through redis-py.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import hiredis
import structlog
from redis.asyncio.connection import parse_url

log = structlog.get_logger(__name__)

Reply = Any
"""What hiredis makes of an answer: bytes, int, None, or a list of such."""
OnReply = Callable[[Reply | Exception], None]

RECONNECT_DELAY_SECONDS_MIN: Final = 0.05
RECONNECT_DELAY_SECONDS_MAX: Final = 1.0
_WATCH_INTERVAL_SECONDS: Final = 0.1


class RedisUnavailable(Exception):
    """There is no working connection, or it broke before the answer came."""


class RedisCommandError(Exception):
    """Redis refused the command; the message is Redis' own."""


def _tell(on_reply: OnReply, reply: Reply | Exception) -> None:
    """Hand over a reply; whoever fails over it does not take the others with him."""
    try:
        on_reply(reply)
    except Exception:
        log.exception("redis_reply_not_taken")


class _Protocol(asyncio.Protocol):
    """Pairs replies with commands, in order."""

    def __init__(self, on_lost: Callable[[_Protocol], None]) -> None:
        self._reader = hiredis.Reader(protocolError=RedisUnavailable, replyError=RedisCommandError)
        self._on_lost = on_lost
        self.transport: asyncio.Transport | None = None
        self.awaiting: deque[tuple[float, OnReply]] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's transports are not registered as asyncio's.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hand each complete reply to the command that waits for it."""
        reader, awaiting = self._reader, self.awaiting
        reader.feed(data)
        while True:
            try:
                reply = reader.gets()
            except RedisUnavailable:
                log.exception("redis_protocol_error")
                self.abort()
                return
            if reply is False:
                return
            if not awaiting:
                log.error("redis_reply_unasked")
                self.abort()
                return
            _tell(awaiting.popleft()[1], reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every command that waits."""
        self.transport = None
        awaiting, self.awaiting = self.awaiting, deque()
        self._on_lost(self)
        for _, on_reply in awaiting:
            _tell(on_reply, RedisUnavailable(str(exc or "connection closed")))

    def abort(self) -> None:
        """Drop the connection without waiting for anything."""
        if self.transport is not None:
            self.transport.abort()


class RedisConnection:
    """Keeps one connection open, reconnecting with backoff; commands fail at once while there is none."""

    def __init__(
        self,
        url: str,
        *,
        timeout_ms: int,
        on_connected: Callable[[RedisConnection], Any],
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare for a `redis://`, `rediss://` or `unix://` URL; `on_connected` (async) runs before any other use.

        A connection whose oldest command waits longer than the timeout is given up.
        """
        self._options = parse_url(url)
        self._timeout_seconds = timeout_ms / 1000
        self._on_connected = on_connected
        self._on_lost = on_lost
        self._protocol: _Protocol | None = None
        self._buffer: list[bytes] = []
        self._ready = False
        self._keeper: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    @property
    def ready(self) -> bool:
        """Whether commands have a chance right now."""
        return self._ready

    async def start(self) -> None:
        """Try to connect once, then keep trying in the background; never raises for an absent Redis."""
        connected = await self._try_connect()
        self._keeper = asyncio.create_task(self._keep(connected=connected), name="redis-connection")

    async def close(self) -> None:
        """Close for good."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        self._ready = False
        if self._protocol is not None:
            self._protocol.abort()

    def send(self, command: Sequence[str | bytes | int], on_reply: OnReply) -> None:
        """Send a command with this tick's others; the callback gets the reply or the exception, never raises."""
        if not self._ready:
            self._loop.call_soon(on_reply, RedisUnavailable("not connected"))
            return
        self._send(command, on_reply)

    async def execute(self, *command: str | bytes | int) -> Reply:
        """Send a command and return its reply.

        Raises RedisUnavailable or RedisCommandError.
        """
        if not self._ready:
            raise RedisUnavailable("not connected")
        return await self._execute(command)

    def flush(self) -> None:
        """Write what this tick has gathered, now."""
        buffer, protocol = self._buffer, self._protocol
        if not buffer:
            return
        self._buffer = []
        if protocol is not None and protocol.transport is not None:
            protocol.transport.write(buffer[0] if len(buffer) == 1 else b"".join(buffer))

    def _send(self, command: Sequence[str | bytes | int], on_reply: OnReply) -> None:
        protocol = self._protocol
        if protocol is None or protocol.transport is None:
            self._loop.call_soon(on_reply, RedisUnavailable("not connected"))
            return
        if not self._buffer:
            self._loop.call_soon(self.flush)
        self._buffer.append(hiredis.pack_command(tuple(command)))  # type: ignore[arg-type] # wants a union of its own order
        protocol.awaiting.append((self._loop.time(), on_reply))

    async def _execute(self, command: Sequence[str | bytes | int]) -> Reply:
        future: asyncio.Future[Reply] = self._loop.create_future()

        def resolve(reply: Reply | Exception) -> None:
            if future.done():
                return
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)

        self._send(command, resolve)
        return await future

    async def _try_connect(self) -> bool:
        self._lost.clear()
        self._buffer = []
        try:
            async with asyncio.timeout(max(1.0, self._timeout_seconds)):
                self._protocol = await self._open()
                if password := self._options.get("password"):
                    username = self._options.get("username") or "default"
                    await self._execute(("AUTH", username, password))
                if database := self._options.get("db"):
                    await self._execute(("SELECT", int(database)))
                await self._on_connected(self)
        except (OSError, TimeoutError, RedisUnavailable, RedisCommandError) as error:
            log.warning("redis_connect_failed", error=type(error).__name__)
            if self._protocol is not None:
                self._protocol.abort()
            return False
        self._ready = True
        log.info("redis_connected")
        return True

    async def _open(self) -> _Protocol:
        if path := self._options.get("path"):
            _, protocol = await self._loop.create_unix_connection(lambda: _Protocol(self._lost_one), path)
            return protocol
        secure = "SSL" in getattr(self._options.get("connection_class"), "__name__", "")
        _, protocol = await self._loop.create_connection(
            lambda: _Protocol(self._lost_one),
            self._options.get("host", "localhost"),
            int(self._options.get("port", 6379)),
            ssl=ssl.create_default_context() if secure else None,
        )
        return protocol

    def _lost_one(self, protocol: _Protocol) -> None:
        if protocol is not self._protocol:
            return
        self._protocol = None
        self._buffer = []
        was_ready, self._ready = self._ready, False
        self._lost.set()
        if was_ready:
            log.warning("redis_lost")
            self._on_lost()

    async def _keep(self, *, connected: bool) -> None:
        delay = RECONNECT_DELAY_SECONDS_MIN
        while True:
            if connected:
                delay = RECONNECT_DELAY_SECONDS_MIN
                await self._watch()
            await asyncio.sleep(delay)
            delay = min(delay * 2, RECONNECT_DELAY_SECONDS_MAX)
            connected = await self._try_connect()

    async def _watch(self) -> None:
        """Return when the connection is lost; give up one that does not answer in time."""
        while not self._lost.is_set():
            try:
                async with asyncio.timeout(_WATCH_INTERVAL_SECONDS):
                    await self._lost.wait()
            except TimeoutError:
                protocol = self._protocol
                if protocol is None or not protocol.awaiting:
                    continue
                waited = self._loop.time() - protocol.awaiting[0][0]
                if waited > self._timeout_seconds:
                    log.warning("redis_timeout", waited_ms=round(waited * 1000))
                    protocol.abort()
