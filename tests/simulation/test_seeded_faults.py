"""Callers, servers and faults at random, by seed: whatever happened, the books agree with what everybody was told."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tallygate_server.domain.call import Increment, IncrementAnswer
from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.identifier import AccountId
from tallygate_server.embedded import EmbeddedServers
from tallygate_server.errors import Overloaded, RequestInProgress, TallygateError, Unavailable
from tallygate_server.service import Service
from tests.support.acme import (
    ACME,
    a_check,
    an_increment,
    assert_books_balance,
    assert_redis_agrees,
    change_plan,
    fetch,
    services,
)
from tests.support.eventually import eventually
from tests.support.faulty_proxy import FaultyProxy, postgres_proxy, redis_proxy
from tests.support.history import Step, why_not_linearizable

pytestmark = pytest.mark.simulation

SEEDS = range(300)
FAULTS = 25
CALLERS = 24
ACCOUNTS = ("a0", "a1", "a2")
LIMITS = {"words": 1000, "ten": 10, "devices": 5, "hourly": 100}


@dataclass(frozen=True, slots=True)
class Server:
    """One server, and its ways to the stores."""

    service: Service
    postgres: FaultyProxy
    redis: FaultyProxy


@dataclass(slots=True)
class Told:
    """What a caller knows of one call."""

    increment: Increment
    outcomes: list[IncrementAnswer | TallygateError] = field(default_factory=list)
    start_ns: int = 0
    end_ns: int = 0

    @property
    def answer(self) -> IncrementAnswer | None:
        """The last answer that was one."""
        return next((each for each in reversed(self.outcomes) if isinstance(each, IncrementAnswer)), None)

    @property
    def in_doubt(self) -> bool:
        """Whether it may have been counted although nobody said so."""
        return any(isinstance(each, Unavailable) and each.reason == "OUTCOME_UNKNOWN" for each in self.outcomes)


class Simulation:
    """A seeded world."""

    def __init__(self, seed: int, running: list[Server], embedded: EmbeddedServers) -> None:
        self.chance = random.Random(seed)
        self.running = running
        self.embedded = embedded
        self.told: list[Told] = []
        self.faults: Counter[str] = Counter()
        self.stopping = False
        self.revisions: defaultdict[str, int] = defaultdict(int)

    async def run(self) -> None:
        """Let callers and faults loose on the servers, then heal everything and let it come to rest."""
        async with asyncio.TaskGroup() as group:
            for i in range(CALLERS):
                group.create_task(self.caller(random.Random(f"{self.chance.random()}/{i}"), i))
            group.create_task(self.writer(random.Random(f"{self.chance.random()}/writer")))
            await self.make_trouble()
            await eventually(lambda: sum(told.answer is not None for told in self.told) > 100)
            self.stopping = True
        for server in self.running:
            await eventually(
                lambda server=server: server.service.ledger.up and server.service.counters.ready  # type: ignore[misc]
            )
            await eventually(lambda server=server: server.service.meter.in_flight == 0)  # type: ignore[misc]

    async def caller(self, chance: random.Random, number: int) -> None:
        """Count, repeating what failed when there is a request id to do it with."""
        for n in itertools.count():
            if self.stopping:
                return
            feature_key = chance.choice(["words", "endless", "ten", "devices", "hourly", "soft"])
            quantity = chance.choice([1, 2, -1, -2]) if feature_key == "devices" else chance.choice([1, 1, 2, 5])
            label = f"{number}-{n}"
            told = Told(
                an_increment(
                    feature_key,
                    quantity,
                    account_id=chance.choice(ACCOUNTS),
                    request_id=label if chance.random() < 0.5 else "",
                    dimensions={"label": label},
                    accepted=feature_key == "endless" and chance.random() < 0.2,
                )
            )
            self.told.append(told)
            loop = asyncio.get_running_loop()
            told.start_ns = int(loop.time() * 1e9)
            await self.count(told, chance)
            told.end_ns = int(loop.time() * 1e9)
            if chance.random() < 0.2:
                await self.check(chance)

    async def count(self, told: Told, chance: random.Random) -> None:
        """Count one, on any server, again and again while it fails."""
        for attempt in range(200):
            server = chance.choice(self.running)
            atomic = chance.random() < 0.1 and not told.increment.accepted
            [outcome] = await server.service.meter.increment_many([told.increment], atomic=atomic)
            told.outcomes.append(outcome)
            if isinstance(outcome, IncrementAnswer):
                return
            assert isinstance(outcome, Unavailable | RequestInProgress | Overloaded), repr(outcome)
            if not told.increment.request_id or (self.stopping and attempt > 100):
                return
            await asyncio.sleep(0.01)

    async def check(self, chance: random.Random) -> None:
        """Ask; an answer that does not say `stale` is never older than what was answered to a writer before."""
        account_id = chance.choice(ACCOUNTS)
        floor = self.revisions[account_id]
        checker = chance.choice(self.running).service.checker
        [outcome] = await checker.check_many([a_check("words", account_id=account_id)])
        if isinstance(outcome, TallygateError):
            assert isinstance(outcome, Unavailable), repr(outcome)
        elif not outcome.stale:
            assert outcome.revision >= floor, f"revision {outcome.revision} after {floor}"

    async def writer(self, chance: random.Random) -> None:
        """Change plans between such that give the same limits."""
        for n in itertools.count():
            if self.stopping:
                return
            account_id = AccountId(chance.choice(ACCOUNTS))
            service = chance.choice(self.running).service
            try:
                await service.accounts.suspend(ACME, account_id, suspend=n % 2 == 0)
                revision = (await service.accounts.suspend(ACME, account_id, suspend=False)).revision
            except Unavailable:
                await asyncio.sleep(0.02)
                continue
            self.revisions[account_id] = max(self.revisions[account_id], revision)
            await asyncio.sleep(0.01)

    async def make_trouble(self) -> None:
        """Break something, wait a moment, mend it, and again."""
        kinds = [
            *("flush", "sweep", "cut redis", "cut postgres", "swallow postgres", "swallow commit"),
            *("lose redis", "lose postgres", "freeze redis", "freeze postgres"),
        ]
        for _ in range(FAULTS):
            await asyncio.sleep(self.chance.random() * 0.05)
            kind = self.chance.choice(kinds)
            self.faults[kind] += 1
            server = self.chance.choice(self.running)
            wait_s = self.chance.random() * 0.15
            proxy = server.redis if "redis" in kind else server.postgres
            match kind.split(" ")[0]:
                case "flush":
                    await self.embedded.flush_redis()
                case "cut":
                    proxy.cut()
                case "swallow":
                    if "commit" in kind:
                        proxy.swallows_after = b"COMMIT;"
                    else:
                        proxy.swallows_replies = True
                    await asyncio.sleep(wait_s)
                    proxy.cut()
                case "lose":
                    proxy.refuses = True
                    proxy.cut()
                    await asyncio.sleep(wait_s)
                    proxy.refuses = False
                case "freeze":
                    proxy.flows.clear()
                    await asyncio.sleep(wait_s * 3)
                    proxy.flows.set()
                case "sweep":
                    await server.service.sweeper.sweep()

    # --- The audit --------------------------------------------------------------------------------------

    async def audit(self, database_url: str) -> None:
        """Compare what everybody was told with the ledger."""
        await assert_books_balance(database_url)
        rows = await fetch(database_url, "SELECT *, dimensions->>'label' AS label FROM usage_entries")
        entries = {row["label"]: row for row in rows}
        assert len(entries) == len(rows)
        for told in self.told:
            self.audit_call(told, entries.get(told.increment.dimensions["label"]))
        for feature_key, limit in LIMITS.items():
            for account_id in ACCOUNTS:
                totals = [
                    row["used_after"]
                    for row in rows
                    if (row["feature_key"], row["account_id"]) == (feature_key, account_id)
                ]
                assert max(totals, default=0) <= limit
        self.audit_order(entries)

    def audit_call(self, told: Told, entry: Any) -> None:
        """Compare one call with its entry."""
        answer = told.answer
        if answer is None:
            assert entry is None or told.in_doubt or told.increment.request_id, f"{told} was counted"
        elif told.increment.accepted and answer.reason.allows:
            # Answered before its commit: its place in the order was not known yet.
            assert entry is not None, f"{told} was accepted and not counted"
        elif answer.reason.allows:
            assert entry is not None, f"{told} was not counted"
            assert (entry["entry_id"], entry["used_after"]) == (answer.entry_id, answer.used_quantity)
        elif told.increment.request_id or not told.in_doubt:
            assert entry is None, f"{told} was denied and counted"

    def audit_order(self, entries: dict[str, Any]) -> None:
        """Check the order of the answers of each counter that only grows."""
        histories: defaultdict[tuple[object, ...], list[Step]] = defaultdict(list)
        for told in self.told:
            increment = told.increment
            entry = entries.get(increment.dimensions["label"])
            if entry is None or increment.feature_key == "devices":
                continue
            # A call in doubt, or one accepted, may take effect at any later time.
            known = told.answer is not None and not increment.accepted
            histories[increment.account_id, increment.feature_key, entry["period_start"]].append(
                Step(
                    start_ns=told.start_ns,
                    end_ns=told.end_ns if known else 2**62,
                    quantity=increment.quantity,
                    used_after=entry["used_after"],
                )
            )
        for counter, history in histories.items():
            assert why_not_linearizable(history) is None, (counter, why_not_linearizable(history))


@pytest.mark.usefixtures("usual_epochs")
@pytest.mark.parametrize("seed", SEEDS)
async def test_the_books_agree_with_what_everybody_was_told(
    acme_database: str, fresh_redis: str, servers: EmbeddedServers, tmp_path: Path, seed: int
) -> None:
    async with AsyncExitStack() as stack:
        running = []
        for number in range(3):
            database_address, postgres = await stack.enter_async_context(
                postgres_proxy(acme_database, tmp_path / f"postgres-{number}")
            )
            redis_address, redis = await stack.enter_async_context(
                redis_proxy(fresh_redis, tmp_path / f"redis-{number}")
            )
            [service] = await stack.enter_async_context(
                services(
                    database_address, redis_address, commit_timeout_ms=250, redis_timeout_ms=100, hold_ttl_ms=1_000
                )
            )
            running.append(Server(service, postgres, redis))
        for account_id in ACCOUNTS:
            await running[0].service.accounts.provision(ACME, AccountId(account_id))
            await change_plan(running[0].service, "free", account_id=AccountId(account_id))
        simulation = Simulation(seed, running, servers)

        await simulation.run()

        await simulation.audit(acme_database)
        await assert_redis_agrees(running[0].service, acme_database, sweeping=True)
        answers = [told.answer for told in simulation.told if told.answer is not None]
        assert {answer.reason for answer in answers} >= {Reason.UNLIMITED}
