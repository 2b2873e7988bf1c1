"""A server that follows the clock of a local Stripe."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from tallygate_server.config import SettingsError, load_settings
from tallygate_server.development_clock import followed_clock
from tests.support.eventually import eventually


class _Clock:
    """Answers every request with a text."""

    def __init__(self) -> None:
        self.answer = '{"ahead_seconds": 0}'
        self.asked = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        body = self.answer.encode()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()


@asynccontextmanager
async def _serving(clock: _Clock) -> AsyncIterator[str]:
    server = await asyncio.start_server(clock.serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/clock"


def _is_ahead(now: datetime, days: int) -> bool:
    return abs(now - datetime.now(UTC) - timedelta(days=days)) < timedelta(hours=1)


async def test_time_passes_as_the_other_clock_says() -> None:
    other = _Clock()
    other.answer = '{"ahead_seconds": 864000.5}'
    async with _serving(other) as url, followed_clock(url) as clock:
        # Before anything is served, not some time later.
        assert _is_ahead(clock.now(), 10)
        other.answer = '{"ahead_seconds": 3456000}'
        await eventually(lambda: _is_ahead(clock.now(), 40))
        assert abs(clock.now_ms() / 1000 - clock.now().timestamp()) < 60


@pytest.mark.parametrize("nonsense", ["", "[]", "{}", '{"ahead_seconds": "soon"}', '{"ahead_seconds": 1e999}'])
async def test_nonsense_leaves_the_clock_as_it_is(nonsense: str) -> None:
    other = _Clock()
    other.answer = '{"ahead_seconds": 864000}'
    async with _serving(other) as url, followed_clock(url) as clock:
        other.answer = nonsense
        asked = other.asked
        await eventually(lambda: other.asked > asked + 2)
        assert _is_ahead(clock.now(), 10)


async def test_nobody_who_answers_is_no_reason_not_to_start() -> None:
    async with _serving(_Clock()) as url:
        pass
    async with followed_clock(url) as clock:
        assert _is_ahead(clock.now(), 0)


@pytest.mark.parametrize("url", ["https://127.0.0.1/x", "http://example.com/x", "http://10.0.0.1/", "127.0.0.1:1", "x"])
def test_only_a_clock_of_this_machine_is_followed(url: str) -> None:
    with pytest.raises(SettingsError, match="TALLYGATE_DEVELOPMENT_CLOCK_URL"):
        load_settings(development_clock_url=url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "http://[::1]:1/x", "http://localhost:1/x"])
def test_a_clock_of_this_machine_is_followed(url: str) -> None:
    assert load_settings(development_clock_url=url).development_clock_url == url
