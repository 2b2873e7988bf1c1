"""Postgres and Valkey are killed while callers reserve and commit: nothing is counted twice, nothing stays held."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest

from tallygate_server.domain.identifier import FeatureKey
from tallygate_server.embedded import EmbeddedServers
from tallygate_server.errors import OutcomeUnknown, StoreUnavailable
from tallygate_server.service import Service
from tallygate_server.storage import migrations
from tests.conftest import create_database
from tests.support.acme import (
    ACME,
    ANN,
    apply_catalog,
    assert_books_balance,
    fetch,
    services,
    used,
)
from tests.support.eventually import eventually
from tests.support.long_run import LONG
from tests.support.reservations import commit, held, release, reserve

pytestmark = pytest.mark.chaos

KILLS = 20 if LONG else 2
LIMIT = 1_000
CALLERS = 20

Answered = TypeVar("Answered")


@pytest.fixture
async def servers(reachable_dir: Path) -> AsyncIterator[EmbeddedServers]:
    """Start servers of this test alone."""
    async with EmbeddedServers.start(data_dir=reachable_dir / "killed-with-reservations") as running:
        yield running


@pytest.fixture
async def database_url(servers: EmbeddedServers) -> AsyncIterator[str]:
    """Make a database in them, whose books must balance in the end."""
    url = await create_database(servers.database_url, "reservations")
    await migrations.upgrade(url)
    await apply_catalog(url)
    yield url
    await eventually(lambda: fetch(url, "SELECT 1"), ignore=(OSError, asyncpg.PostgresError, asyncpg.InterfaceError))
    await assert_books_balance(url)


@dataclass(slots=True)
class Work:
    """Callers that reserve and commit until told to stop, and what they were told was counted."""

    running: list[Service]
    counted: dict[str, int] = field(default_factory=dict)
    ended: int = 0
    failures: int = 0
    stopping: bool = False

    async def caller(self, number: int) -> None:
        """Reserve, then commit or release, each until there is an answer."""
        chance = random.Random(number)
        turn = 0
        while not self.stopping:
            turn += 1
            made = await self.persistently(
                partial(reserve, feature_key="words", quantity=3, request_id=f"{number}-{turn}"), chance
            )
            if made.reservation is None:
                continue
            reservation_id = made.reservation.reservation_id
            if chance.random() < 0.3:
                await self.persistently(partial(release, reservation_id=reservation_id), chance)
            else:
                answer = await self.persistently(
                    partial(commit, reservation_id=reservation_id, quantity=chance.randint(0, 1)), chance
                )
                self.counted[reservation_id] = answer.reservation.committed_quantity
            self.ended += 1

    async def persistently(
        self, act: Callable[[Service], Coroutine[Any, Any, Answered]], chance: random.Random
    ) -> Answered:
        """Act, on a server of its choice at each attempt, until there is an answer."""
        while True:
            try:
                return await act(chance.choice(self.running))
            except (OutcomeUnknown, StoreUnavailable):
                self.failures += 1
                # A caller that is told to wait does not come back at once.
                await asyncio.sleep(0.02)

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Keep the callers at work while the block runs."""
        async with asyncio.TaskGroup() as group:
            for number in range(CALLERS):
                group.create_task(self.caller(number))
            try:
                yield
            finally:
                self.stopping = True

    async def more(self, count: int) -> None:
        """Wait until so many more reservations were ended."""
        before = self.ended
        await eventually(lambda: self.ended >= before + count)


def kill(pid: int | None) -> None:
    assert pid is not None
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


async def test_killed_stores_lose_no_reservation_and_count_none_twice(
    servers: EmbeddedServers, database_url: str
) -> None:
    async with services(database_url, servers.redis_url, 2, hold_ttl_ms=500) as running:
        for service in running:
            service.reservations._commits._timeout_seconds = 2.0
        work = Work(running)
        async with work.going_on():
            for _ in range(KILLS):
                await work.more(60)
                postgres, redis = servers.postgres_restarts, servers.redis_restarts
                kill(servers.postgres_pid)
                await eventually(lambda before=postgres: servers.postgres_restarts > before)  # type: ignore[misc]
                await work.more(60)
                kill(servers.redis_pid)
                await eventually(lambda before=redis: servers.redis_restarts > before)  # type: ignore[misc]
            await work.more(60)
        await eventually(lambda: all(service.counters.ready and service.ledger.up for service in running))

        assert work.failures, "nobody noticed"
        ledger = {
            row["reservation_id"]: row["quantity"] for row in await fetch(database_url, "SELECT * FROM usage_entries")
        }
        assert ledger == {key: quantity for key, quantity in work.counted.items() if quantity}
        assert await held(database_url, "words") == 0
        assert await used(database_url, "words") <= LIMIT
        # Whoever asks makes Redis hear what it missed while it was away.
        quota = await running[0].usage.usage(ACME, ANN, FeatureKey("words"))
        assert (quota.used_quantity, quota.held_quantity) == (sum(ledger.values()), 0)
