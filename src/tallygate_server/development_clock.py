"""Follows the clock of a local Stripe, so that both live at the same time while somebody tries billing out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

import httpx
import structlog

from tallygate_server.clock import ShiftedClock

POLL_SECONDS: Final = 0.1
TIMEOUT_SECONDS: Final = 5.0

log = structlog.get_logger(__name__)


@asynccontextmanager
async def followed_clock(url: str) -> AsyncIterator[ShiftedClock]:
    """Give a clock that is as far ahead of the machine's as the one at the address says, asked again and again.

    The answer is JSON with `ahead_seconds`. While nobody answers, the clock goes on as it was.
    """
    clock = ShiftedClock()
    log.warning("development_clock", address=url)
    async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS) as client:
        await _follow_once(client, url, clock)
        following = asyncio.create_task(_follow(client, url, clock), name="development-clock")
        try:
            yield clock
        finally:
            following.cancel()
            await asyncio.wait([following])


async def _follow(client: httpx.AsyncClient, url: str, clock: ShiftedClock) -> None:
    while True:
        await asyncio.sleep(POLL_SECONDS)
        await _follow_once(client, url, clock)


async def _follow_once(client: httpx.AsyncClient, url: str, clock: ShiftedClock) -> None:
    try:
        answer = (await client.get(url)).raise_for_status().json()
        clock.shift(timedelta(seconds=float(answer["ahead_seconds"])))
    except (httpx.HTTPError, ValueError, KeyError, TypeError, OverflowError) as error:
        log.debug("development_clock_silent", error=type(error).__name__)
