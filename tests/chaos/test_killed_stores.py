"""Postgres and Valkey are killed or frozen under load: answers stay exact, nothing piles up, everything recovers."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import psutil
import pytest

from tallygate_server.domain.call import Increment, IncrementAnswer
from tallygate_server.embedded import EmbeddedServers
from tallygate_server.errors import OutcomeUnknown, StoreUnavailable, TallygateError
from tallygate_server.service import Service
from tallygate_server.storage import migrations
from tests.conftest import create_database
from tests.support.acme import (
    a_check,
    allowed,
    an_increment,
    apply_catalog,
    assert_books_balance,
    assert_redis_agrees,
    failed,
    fetch,
    hurry,
    outcome_of,
    services,
    used,
)
from tests.support.eventually import TIMEOUT_S, eventually
from tests.support.long_run import LONG

pytestmark = pytest.mark.chaos

KILLS = 30 if LONG else 3


@dataclass(frozen=True, slots=True)
class Stores:
    """Servers of this file alone, and a database in them."""

    servers: EmbeddedServers
    database_url: str


@pytest.fixture(scope="module")
async def own_servers(reachable_dir: Path) -> AsyncIterator[EmbeddedServers]:
    async with EmbeddedServers.start(data_dir=reachable_dir / "killed") as running:
        yield running


@pytest.fixture
async def stores(own_servers: EmbeddedServers, request: pytest.FixtureRequest) -> AsyncIterator[Stores]:
    database_url = await create_database(own_servers.database_url, f"chaos_{abs(hash(request.node.name))}")
    await migrations.upgrade(database_url)
    await apply_catalog(database_url)
    await own_servers.flush_redis()
    made = Stores(own_servers, database_url)
    yield made
    await answering(made)
    await assert_books_balance(database_url)


async def answering(stores: Stores) -> None:
    """Wait until Postgres answers again after what the test did to it."""
    await eventually(
        lambda: fetch(stores.database_url, "SELECT 1"), ignore=(OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
    )


@dataclass(slots=True)
class Load:
    """Callers that go on until told to stop, and what they heard."""

    running: list[Service]
    feature_key: str = "endless"
    retries: bool = True
    acknowledged: dict[str, IncrementAnswer] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    slowest_seconds: float = 0.0
    stopping: bool = False

    async def caller(self, i: int) -> None:
        """Count, with a request id, and repeat what failed until there is an answer."""
        chance = random.Random(i)
        n = 0
        while not self.stopping:
            increment = an_increment(
                self.feature_key, chance.choice([1, 2, 3]), account_id=f"a{i % 5}", request_id=f"{i}-{n}"
            )
            n += 1
            answer = await self.count(increment, chance)
            if answer is not None:
                self.acknowledged[increment.request_id] = answer

    async def count(self, increment: Increment, chance: random.Random) -> IncrementAnswer | None:
        """Count one, on a server of its choice at each attempt."""
        while True:
            started = time.monotonic()
            outcome = await outcome_of(chance.choice(self.running), increment)
            self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - started)
            if isinstance(outcome, IncrementAnswer):
                return outcome
            assert isinstance(outcome, OutcomeUnknown | StoreUnavailable), repr(outcome)
            self.errors[type(outcome).__name__] += 1
            if not self.retries:
                return None
            # A caller that is told to wait for half a second does not come back at once.
            await asyncio.sleep(0.02)

    @asynccontextmanager
    async def on(self, callers: int = 40) -> AsyncIterator[None]:
        """Keep the load up while the block runs."""
        async with asyncio.TaskGroup() as group:
            for i in range(callers):
                group.create_task(self.caller(i))
            try:
                yield
            finally:
                self.stopping = True

    async def more(self, count: int, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until so many more calls were answered."""
        before = len(self.acknowledged)
        await eventually(lambda: len(self.acknowledged) >= before + count, timeout_s)


@contextmanager
def frozen(pid: int | None) -> Iterator[None]:
    """Stop a process and all of its children, without killing anything."""
    assert pid is not None
    process = psutil.Process(pid)
    process.send_signal(signal.SIGSTOP)
    # It makes no more children from here on; of those it had, some may end by themselves.
    family = [*process.children(recursive=True), process]
    send(signal.SIGSTOP, family)
    try:
        yield
    finally:
        send(signal.SIGCONT, family)


def send(number: signal.Signals, processes: list[psutil.Process]) -> None:
    """Send a signal to those that are still there."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


async def kill(pid_of: Callable[[], int | None]) -> int:
    """Kill a server as soon as there is one; return who it was."""
    pid = await eventually(pid_of)
    assert pid is not None
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return pid


async def assert_ledger_is_what_was_acknowledged(stores: Stores, load: Load) -> None:
    rows = await fetch(stores.database_url, "SELECT * FROM usage_entries WHERE request_id IS NOT NULL")
    ledger = {row["request_id"]: (row["used_after"], row["entry_id"]) for row in rows}
    assert len(ledger) == len(rows)
    assert ledger == {
        request_id: (answer.used_quantity, answer.entry_id)
        for request_id, answer in load.acknowledged.items()
        if answer.reason.allows
    }


async def test_a_killed_postgres_loses_nothing_that_was_acknowledged(stores: Stores) -> None:
    async with services(stores.database_url, stores.servers.redis_url, 2, hold_ttl_ms=500) as running:
        for service in running:
            hurry(service, 2_000)
        load = Load(running)
        async with load.on():
            for _ in range(KILLS):
                await load.more(300)
                restarts = stores.servers.postgres_restarts
                await kill(lambda: stores.servers.postgres_pid)
                await eventually(lambda restarts=restarts: stores.servers.postgres_restarts > restarts)  # type: ignore[misc]
            await load.more(300)

        await assert_ledger_is_what_was_acknowledged(stores, load)
        await assert_redis_agrees(running[0], stores.database_url, sweeping=True)
        assert load.errors or load.slowest_seconds > 0.05, "nobody noticed"


async def test_a_killed_valkey_is_noticed_by_nobody(stores: Stores) -> None:
    async with services(stores.database_url, stores.servers.redis_url, 2, hold_ttl_ms=500) as running:
        load = Load(running)
        async with load.on():
            for _ in range(KILLS + 2):
                await load.more(200)
                restarts = stores.servers.redis_restarts
                await kill(lambda: stores.servers.redis_pid)
                await eventually(lambda restarts=restarts: stores.servers.redis_restarts > restarts)  # type: ignore[misc]
            await load.more(200)
        await eventually(lambda: all(service.counters.ready for service in running))

        assert not load.errors
        await assert_ledger_is_what_was_acknowledged(stores, load)
        await outcome_of(running[0], an_increment("endless", account_id="a0"))
        await assert_redis_agrees(running[0], stores.database_url, sweeping=True)


async def test_a_frozen_postgres_is_told_from_a_slow_one_and_thaws(stores: Stores) -> None:
    """Longer than every time-out; calls in flight stay few, new ones are turned away at once."""
    async with services(stores.database_url, stores.servers.redis_url, 2, commit_queue_max=500) as running:
        await outcome_of(running[0], an_increment("ten", account_id="known"))
        for service in running:
            hurry(service, 300)
        load = Load(running)
        async with load.on():
            await load.more(200)
            with frozen(stores.servers.postgres_pid):
                await eventually(lambda: not any(service.ledger.up for service in running))
                await eventually(lambda: not any(service.meter.in_flight > 80 for service in running))
                # From now on every store error comes at once.
                outcomes, seconds = [], []
                for _ in range(20):
                    started = time.monotonic()
                    outcomes.append(await outcome_of(running[0], an_increment("endless", account_id="a1")))
                    seconds.append(time.monotonic() - started)
                started = time.monotonic()
                check = await running[0].checker.check(a_check("ten", account_id="known"))
                unknown = (await running[0].checker.check_many([a_check("ten", account_id="unknown")]))[0]
                unknown_s = time.monotonic() - started
                in_flight = [service.meter.in_flight for service in running]
            await load.more(300)

        assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
        # Any of them may have been held up by a busy machine, but none waited for the time-out.
        assert min(seconds) < 0.3
        assert check.stale
        assert check.used_quantity == 1
        assert isinstance(unknown, TallygateError)
        assert unknown_s < 10.0
        assert all(n <= 40 for n in in_flight)
        assert load.errors
        assert load.slowest_seconds < 30.0
        await assert_ledger_is_what_was_acknowledged(stores, load)


async def test_a_frozen_valkey_costs_its_timeout_once(stores: Stores) -> None:
    async with services(stores.database_url, stores.servers.redis_url, 2, redis_timeout_ms=1_000) as running:
        load = Load(running)
        async with load.on():
            await load.more(200)
            with frozen(stores.servers.redis_pid):
                await eventually(lambda: not any(service.counters.ready for service in running))
                await load.more(100)
                seconds = []
                for _ in range(10):
                    started = time.monotonic()
                    await outcome_of(running[0], an_increment("endless", account_id="a1"))
                    check = await running[1].checker.check(a_check("endless", account_id="a1"))
                    seconds.append(time.monotonic() - started)
                    assert not check.stale
            await eventually(lambda: all(service.counters.ready for service in running))
            await load.more(200)

        assert not load.errors
        # Any of them may have been held up by a busy machine, but none waited for the time-out.
        assert min(seconds) < 1.0
        assert load.slowest_seconds < 30.0
        await assert_ledger_is_what_was_acknowledged(stores, load)


async def test_both_stores_killed_at_once_come_back_to_exact_books(stores: Stores) -> None:
    async with services(stores.database_url, stores.servers.redis_url, 2) as running:
        load = Load(running, feature_key="words")
        async with load.on():
            await load.more(300)
            await kill(lambda: stores.servers.postgres_pid)
            await kill(lambda: stores.servers.redis_pid)
            await load.more(400)

        await assert_ledger_is_what_was_acknowledged(stores, load)
        assert max(answer.used_quantity for answer in load.acknowledged.values()) <= 1000


async def test_without_ids_a_call_in_doubt_is_counted_at_most_once(stores: Stores) -> None:
    """Killed in the middle of commits: the ledger has what was acknowledged, and no more than was called."""
    labels: dict[str, IncrementAnswer | TallygateError] = {}

    async with services(stores.database_url, stores.servers.redis_url, 2) as running:

        async def caller(i: int) -> None:
            for n in range(120):
                label = f"{i}-{n}"
                increment = an_increment("endless", account_id=f"a{i % 3}", dimensions={"label": label})
                labels[label] = await outcome_of(running[i % 2], increment)
                if isinstance(labels[label], TallygateError):
                    await asyncio.sleep(0.01)

        calls = asyncio.gather(*(caller(i) for i in range(30)))
        for answers in (300, 900):
            await eventually(lambda answers=answers: len(labels) > answers)  # type: ignore[misc]
            pid = await kill(lambda: stores.servers.postgres_pid)
            await eventually(lambda pid=pid: stores.servers.postgres_pid not in (None, pid))  # type: ignore[arg-type, misc]
        await calls

    await answering(stores)
    rows = await fetch(stores.database_url, "SELECT dimensions->>'label' AS label, used_after FROM usage_entries")
    ledger = {row["label"]: row["used_after"] for row in rows}
    assert len(ledger) == len(rows)
    acknowledged = {label: each for label, each in labels.items() if isinstance(each, IncrementAnswer)}
    assert {label: answer.used_quantity for label, answer in acknowledged.items()}.items() <= ledger.items()
    in_doubt = {label for label, each in labels.items() if isinstance(each, OutcomeUnknown)}
    assert ledger.keys() <= acknowledged.keys() | in_doubt


async def test_accepted_calls_survive_a_killed_postgres(stores: Stores) -> None:
    async with services(stores.database_url, stores.servers.redis_url) as [service]:
        await outcome_of(service, an_increment("endless"))
        await kill(lambda: stores.servers.postgres_pid)
        outcomes = await service.meter.increment_many(
            [an_increment("endless", accepted=True) for _ in range(500)], atomic=False
        )
        await eventually(lambda: service.meter.in_flight == 0)

        assert await used(stores.database_url, "endless") == 1 + len(allowed(outcomes))
        assert len(allowed(outcomes)) + len(failed(outcomes)) == 500
