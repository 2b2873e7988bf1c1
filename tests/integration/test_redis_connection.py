"""The multiplexed connection to Redis: order, one write per turn, loss, time-outs, reconnecting."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tallygate_server.counters import scripts
from tallygate_server.counters.connection import (
    RedisCommandError,
    RedisConnection,
    RedisUnavailable,
    Reply,
)
from tests.support.eventually import eventually
from tests.support.faulty_proxy import FaultyProxy, redis_proxy


async def do_nothing(_: RedisConnection) -> None:
    """Leave a new connection as it is."""


@asynccontextmanager
async def connected(url: str, *, timeout_ms: int = 2_000, **more: Any) -> AsyncIterator[RedisConnection]:
    connection = RedisConnection(url, timeout_ms=timeout_ms, on_connected=more.pop("on_connected", do_nothing), **more)
    await connection.start()
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def wire(fresh_redis: str) -> AsyncIterator[tuple[str, FaultyProxy]]:
    with tempfile.TemporaryDirectory(prefix="tallygate-test-") as parent:
        async with redis_proxy(fresh_redis, Path(parent) / "wire") as made:
            yield made


@asynccontextmanager
async def a_server_that_says(path: Path, *answers: bytes) -> AsyncIterator[str]:
    """Answer each read with the next of the bytes, then with nothing."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            if not await reader.read(65_536):
                break
            writer.write(answer)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(talk, path)
    try:
        yield f"unix://{path}"
    finally:
        server.close()
        await server.wait_closed()


def collect() -> tuple[list[Reply | Exception], Callable[[Reply | Exception], None]]:
    """Return a list, and a callback that fills it."""
    replies: list[Reply | Exception] = []
    return replies, replies.append


async def test_replies_come_in_the_order_of_the_commands(fresh_redis: str) -> None:
    async with connected(fresh_redis) as connection:
        replies, keep = collect()
        for i in range(2_000):
            connection.send(("ECHO", str(i)), keep)
        await eventually(lambda: len(replies) == 2_000)

        assert replies == [str(i).encode() for i in range(2_000)]


async def test_an_error_is_the_reply_of_its_own_command(fresh_redis: str) -> None:
    async with connected(fresh_redis) as connection:
        replies, keep = collect()
        connection.send(("SET", "k", "text"), keep)
        connection.send(("INCR", "k"), keep)
        connection.send(("GET", "k"), keep)
        await eventually(lambda: len(replies) == 3)

        assert replies[0] == b"OK"
        assert isinstance(replies[1], RedisCommandError)
        assert replies[2] == b"text"
        with pytest.raises(RedisCommandError):
            await connection.execute("INCR", "k")


async def test_commands_of_one_turn_are_one_write(wire: tuple[str, FaultyProxy]) -> None:
    """A script that is flushed ahead of an answer is on the wire before whatever that answer causes."""
    url, _ = wire
    async with connected(url) as connection:
        protocol = connection._protocol
        assert protocol is not None
        assert protocol.transport is not None
        writes: list[bytes] = []
        write = protocol.transport.write

        def keep_and_write(data: bytes) -> None:
            writes.append(bytes(data))
            write(data)

        protocol.transport.write = keep_and_write  # type: ignore[assignment, method-assign]
        replies, keep = collect()

        for _ in range(50):
            connection.send(("PING",), keep)
        connection.flush()
        at_once = len(writes)
        connection.send(("PING",), keep)
        connection.send(("PING",), keep)
        await eventually(lambda: len(replies) == 52)

        assert at_once == 1
        assert len(writes) == 2


async def test_bytes_text_and_numbers_arrive_as_they_are(fresh_redis: str) -> None:
    async with connected(fresh_redis) as connection:
        big = "x" * 1_000_000
        await connection.execute("SET", "k", big)
        await connection.execute("SET", b"\x00\xff", 2**53)

        assert await connection.execute("GET", "k") == big.encode()
        assert await connection.execute("GET", b"\x00\xff") == str(2**53).encode()
        assert await connection.execute("GET", "absent") is None


async def test_an_absent_redis_fails_commands_at_once_and_is_found_later(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with connected(f"unix://{path}") as connection:
        replies, keep = collect()
        connection.send(("PING",), keep)
        await eventually(lambda: replies)
        with pytest.raises(RedisUnavailable):
            await connection.execute("PING")
        assert not connection.ready

        async with a_server_that_says(path, b"+PONG\r\n"):
            await eventually(lambda: connection.ready)
            assert await connection.execute("PING") == b"PONG"

    assert isinstance(replies[0], RedisUnavailable)


async def test_a_lost_connection_fails_what_waits_and_comes_back(wire: tuple[str, FaultyProxy]) -> None:
    url, proxy = wire
    lost = 0

    def on_lost() -> None:
        nonlocal lost
        lost += 1

    async with connected(url, on_lost=on_lost) as connection:
        for n in range(1, 6):
            proxy.swallows_replies = True
            replies, keep = collect()
            for _ in range(10):
                connection.send(("PING",), keep)
            await eventually(lambda: proxy.replies_swallowed > 0)
            proxy.cut()
            proxy.replies_swallowed = 0
            await eventually(lambda replies=replies: len(replies) == 10)  # type: ignore[arg-type, misc]
            await eventually(lambda: connection.ready)

            assert all(isinstance(reply, RedisUnavailable) for reply in replies)
            assert await connection.execute("PING") == b"PONG"
            assert lost == n


async def test_a_redis_that_does_not_answer_in_time_is_given_up(wire: tuple[str, FaultyProxy]) -> None:
    url, proxy = wire
    async with connected(url, timeout_ms=100) as connection:
        proxy.flows.clear()
        told: list[tuple[Reply | Exception, bool]] = []
        # Looked at once: it finds the way to the proxy again a moment later.
        connection.send(("PING",), lambda reply: told.append((reply, connection.ready)))
        await eventually(lambda: told)
        proxy.flows.set()
        await eventually(lambda: connection.ready)

        [(reply, ready)] = told
        assert isinstance(reply, RedisUnavailable)
        assert not ready
        assert await connection.execute("PING") == b"PONG"


async def test_a_reply_that_makes_no_sense_ends_the_connection(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with a_server_that_says(path, b"!what is this\r\n", b"+PONG\r\n") as url, connected(url) as connection:
        with pytest.raises(RedisUnavailable):
            await connection.execute("PING")


async def test_a_reply_that_nobody_asked_for_ends_the_connection(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with a_server_that_says(path, b"+PONG\r\n+PONG\r\n") as url, connected(url) as connection:
        assert await connection.execute("PING") == b"PONG"
        await eventually(lambda: connection._protocol is None or connection.ready)


async def test_a_callback_that_fails_takes_nobody_with_it(fresh_redis: str) -> None:
    async with connected(fresh_redis) as connection:
        replies, keep = collect()

        def fail(_: Reply | Exception) -> None:
            raise ZeroDivisionError

        connection.send(("PING",), keep)
        connection.send(("PING",), fail)
        connection.send(("PING",), keep)
        await eventually(lambda: len(replies) == 2)

        assert replies == [b"PONG", b"PONG"]
        assert await connection.execute("PING") == b"PONG"


async def test_closing_fails_what_waits(wire: tuple[str, FaultyProxy]) -> None:
    url, proxy = wire
    replies, keep = collect()
    async with connected(url) as connection:
        proxy.swallows_replies = True
        connection.send(("PING",), keep)
        await eventually(lambda: proxy.replies_swallowed)
    await eventually(lambda: replies)

    assert isinstance(replies[0], RedisUnavailable)
    with pytest.raises(RedisUnavailable):
        await connection.execute("PING")


async def test_nobody_else_uses_a_connection_before_it_is_prepared(wire: tuple[str, FaultyProxy]) -> None:
    url, _ = wire
    prepared = asyncio.Event()
    asked: list[bool] = []

    async def prepare(connection: RedisConnection) -> None:
        asked.append(connection.ready)
        await connection._execute(("SET", "prepared", "1"))
        prepared.set()

    async with connected(url, on_connected=prepare) as connection:
        assert prepared.is_set()
        assert asked == [False]
        assert await connection.execute("GET", "prepared") == b"1"


async def test_a_preparation_that_fails_is_tried_again(fresh_redis: str) -> None:
    attempts = 0

    async def prepare(connection: RedisConnection) -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            await connection._execute(("NO-SUCH-COMMAND",))

    async with connected(fresh_redis, on_connected=prepare) as connection:
        await eventually(lambda: connection.ready)

        assert attempts == 3
        assert await connection.execute("PING") == b"PONG"


async def test_a_script_that_redis_has_lost_is_given_to_it_again(fresh_redis: str) -> None:
    async with connected(fresh_redis) as connection:
        for _ in range(3):
            await connection.execute("SCRIPT", "FLUSH")
            replies, keep = collect()
            for i in range(5):
                scripts.call_soon(connection, scripts.READ, [f"k{i}"], [1], keep)
            await eventually(lambda replies=replies: len(replies) == 5)  # type: ignore[arg-type, misc]

            assert replies == [[None]] * 5
            await connection.execute("SCRIPT", "FLUSH")
            assert await scripts.call(connection, scripts.READ, ["k"], [1]) == [None]


async def test_password_and_database_of_the_url_are_used(tmp_path: Path) -> None:
    path = tmp_path / "s"
    said: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            said.append(data)
            writer.write(b"+OK\r\n")
        writer.close()

    server = await asyncio.start_unix_server(talk, path)
    async with connected(f"unix://user:secret@{path}?db=3") as connection:
        assert connection.ready
    server.close()

    assert [data.split(b"\r\n")[2:-1:2] for data in said] == [[b"AUTH", b"user", b"secret"], [b"SELECT", b"3"]]
