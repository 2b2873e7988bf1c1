"""Servers, stores and faults against a model of a few dictionaries: after every step they agree."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tallygate_server.domain.call import Increment, IncrementAnswer
from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.identifier import AccountId
from tallygate_server.embedded import EmbeddedServers
from tallygate_server.errors import RequestIdReused, TallygateError
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
from tests.support.clock import FrozenClock
from tests.support.eventually import eventually
from tests.support.faulty_proxy import FaultyProxy, redis_proxy
from tests.support.long_run import LONG

Value = TypeVar("Value")

EXAMPLES, STEPS = (400, 60) if LONG else (10, 30)

SOFT, UNLIMITED = "soft", -1
PLANS: dict[str, dict[str, int]] = {
    "free": {
        "words": 1000, "ten": 10, "none": 0, "much": 10**15, "endless": UNLIMITED, "soft": 10, "hourly": 100,
        "devices": 5,
    },
    "pro": {"words": 100_000, "ten": 20, "none": 5, "devices": 50},
    "bare": {"words": 5, "ten": 1, "devices": 1},
}  # fmt: skip
THRESHOLDS = {("free", "ten"): (80, 100), ("pro", "ten"): (80, 100), ("free", "words"): (50, 80, 100)}
FEATURES = [*PLANS["free"], "unheard_of"]
PERIODS = {"hourly": "hour", "endless": "month", "much": "ever", "devices": "ever"}

features = st.sampled_from(FEATURES)
accounts = st.sampled_from(["a", "b"])
quantities = st.sampled_from([1, 1, 2, 3, 4, 7, 10, 100, 999])
servers_numbers = st.integers(0, 2)
request_ids = st.sampled_from(["", "", "", "r1", "r2", "r3", "r4"])


@dataclass(frozen=True, slots=True)
class Expected:
    """What an increment must be answered."""

    reason: Reason
    used_quantity: int = 0
    limit_quantity: int = 0
    threshold_percent: int = 0


@dataclass(slots=True)
class ModelAccount:
    """What the model knows of an account."""

    plan: str = "free"
    suspended: bool = False
    used: dict[tuple[str, str], int] = field(default_factory=dict)
    """By feature and period."""
    requests: dict[str, tuple[tuple[str, int], Expected]] = field(default_factory=dict)
    """Content and first answer, by request id."""

    def verdict(self, feature_key: str, quantity: int, period: str, used: dict[tuple[str, str], int]) -> Expected:
        """Decide one increment against some totals, and count it there."""
        if feature_key == "unheard_of":
            return Expected(Reason.UNKNOWN_FEATURE)
        if self.suspended:
            return Expected(Reason.ACCOUNT_SUSPENDED)
        limit = PLANS[self.plan].get(feature_key)
        if limit is None:
            return Expected(Reason.NO_ENTITLEMENT)
        before = used.get((feature_key, period), 0)
        after = before + quantity
        if after < 0:
            return Expected(Reason.BELOW_ZERO, before, limit)
        over = quantity > 0 and limit != UNLIMITED and after > limit
        if over and feature_key != SOFT:
            return Expected(Reason.EXHAUSTED, before, limit)
        used[feature_key, period] = after
        crossed = [
            percent
            for percent in THRESHOLDS.get((self.plan, feature_key), ())
            if before * 100 < percent * limit <= after * 100
        ]
        if feature_key == SOFT:
            crossed = [percent for percent in (100, 200) if before * 100 < percent * limit <= after * 100]
        reason = Reason.OVERAGE if over else Reason.UNLIMITED if limit == UNLIMITED else Reason.OK
        return Expected(reason, after, limit, max(crossed, default=0))


@dataclass(frozen=True, slots=True)
class Wire:
    """A server's way to Redis."""

    url: str
    proxy: FaultyProxy


class World:
    """Real stores and servers, driven from outside of their event loop."""

    def __init__(self, database_url: str, redis_url: str, embedded: EmbeddedServers, directory: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.database_url = database_url
        self.embedded = embedded
        self.examples = itertools.count()
        self._stack = AsyncExitStack()
        self.wires = [
            Wire(*self.run(self._stack.enter_async_context(redis_proxy(redis_url, directory / str(number)))))
            for number in range(3)
        ]

    def close(self) -> None:
        """Take the wires down."""
        self.run(self._stack.aclose())
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, Value]) -> Value:
        """Run to the end."""
        return self.loop.run_until_complete(asyncio.wait_for(work, 120))


class MeteringMachine(RuleBasedStateMachine):
    """Three servers, each with a way of its own to Redis, and the model."""

    world: World

    @initialize(hour=st.integers(0, 23))
    def begin(self, hour: int) -> None:
        """Start afresh, with accounts that nobody has seen."""
        self.prefix = f"m{next(self.world.examples)}-"
        self.clock = FrozenClock(datetime(2026, 3, 30, hour, 59, 30, tzinfo=UTC))
        self.redis_is_behind = False
        for wire in self.world.wires:
            wire.proxy.refuses = False
        self.world.run(self.world.embedded.flush_redis())
        self.model = {name: ModelAccount() for name in ("a", "b")}
        self.stacks: list[AsyncExitStack] = []
        self.running: list[Service] = []
        for number in range(3):
            stack, service = self.world.run(self.open(number))
            self.stacks.append(stack)
            self.running.append(service)

    async def open(self, number: int) -> tuple[AsyncExitStack, Service]:
        """Open a server, with or without a way to Redis."""
        wire = self.world.wires[number]
        stack = AsyncExitStack()
        [service] = await stack.enter_async_context(services(self.world.database_url, wire.url, clock=self.clock))
        await eventually(lambda: service.counters.ready is not wire.proxy.refuses)
        return stack, service

    @property
    def all_have_redis(self) -> bool:
        """Whether no server is cut off."""
        return not any(wire.proxy.refuses for wire in self.world.wires)

    @property
    def redis_may_be_behind(self) -> bool:
        """Whether a counter may be older in Redis than in Postgres."""
        return self.redis_is_behind or not self.all_have_redis

    def teardown(self) -> None:
        """Close the servers and audit the books."""
        for stack in getattr(self, "stacks", []):
            self.world.run(stack.aclose())
        self.world.run(assert_books_balance(self.world.database_url))

    def period(self, feature_key: str) -> str:
        """Name the feature's period now."""
        now = self.clock.now()
        return {"hour": f"{now:%Y%m%d%H}", "month": f"{now:%Y%m}", "ever": ""}.get(
            PERIODS.get(feature_key, "day"), f"{now:%Y%m%d}"
        )

    def increment(self, account: str, feature_key: str, quantity: int, request_id: str = "") -> Increment:
        """Build an increment of this example."""
        return an_increment(feature_key, quantity, account_id=self.prefix + account, request_id=request_id)

    def expect(self, account: str, feature_key: str, quantity: int, request_id: str) -> Expected | None:
        """Let the model count; None where the id was used for something else."""
        model = self.model[account]
        content = (feature_key, quantity)
        if request_id in model.requests:
            first, answer = model.requests[request_id]
            return answer if first == content else None
        expected = model.verdict(feature_key, quantity, self.period(feature_key), model.used)
        if request_id:
            model.requests[request_id] = (content, expected)
        return expected

    # --- Rules ------------------------------------------------------------------------------------------

    @rule(number=servers_numbers, account=accounts, feature_key=features, quantity=quantities, request_id=request_ids)
    def count(self, number: int, account: str, feature_key: str, quantity: int, request_id: str) -> None:
        """Count one."""
        self.count_one(number, account, feature_key, quantity, request_id)

    @rule(number=servers_numbers, account=accounts, quantity=st.integers(-6, 6).filter(bool), request_id=request_ids)
    def move_gauge(self, number: int, account: str, quantity: int, request_id: str) -> None:
        """Move a gauge up or down."""
        self.count_one(number, account, "devices", quantity, request_id)

    def count_one(self, number: int, account: str, feature_key: str, quantity: int, request_id: str) -> None:
        """Count on a server and in the model."""
        again = request_id in self.model[account].requests
        expected = self.expect(account, feature_key, quantity, request_id)
        increment = self.increment(account, feature_key, quantity, request_id)

        [outcome] = self.world.run(self.running[number].meter.increment_many([increment], atomic=False))

        self.compare(outcome, expected, replayed=again)

    @rule(
        number=servers_numbers,
        items=st.lists(st.tuples(accounts, st.sampled_from(list(PLANS["pro"])), quantities), min_size=1, max_size=6),
        batch_id=st.sampled_from(["", "x", "y"]),
    )
    def count_atomically(self, number: int, items: list[tuple[str, str, int]], batch_id: str) -> None:
        """Count several, all or none."""
        ids = [f"{batch_id}{n}" if batch_id else "" for n in range(len(items))]
        known = [
            self.model[account].requests.get(request_id) for request_id, (account, _, _) in zip(ids, items, strict=True)
        ]
        increments = [
            self.increment(account, feature_key, quantity, request_id)
            for request_id, (account, feature_key, quantity) in zip(ids, items, strict=True)
        ]
        expected: list[Expected | None]
        if any(known):
            same = [
                each is not None and each[0] == (feature_key, quantity)
                for each, (_, feature_key, quantity) in zip(known, items, strict=True)
            ]
            expected = [each[1] if each and all(same) else None for each in known]
        else:
            expected = list(self.expect_set(items))
            for request_id, (account, feature_key, quantity), each in zip(ids, items, expected, strict=True):
                if request_id and each is not None:
                    self.model[account].requests[request_id] = ((feature_key, quantity), each)

        outcomes = self.world.run(self.running[number].meter.increment_many(increments, atomic=True))

        for outcome, each in zip(outcomes, expected, strict=True):
            self.compare(outcome, each, replayed=any(known))

    def expect_set(self, items: list[tuple[str, str, int]]) -> list[Expected]:
        """Let the model count all or none."""
        tentative = {name: dict(model.used) for name, model in self.model.items()}
        verdicts = [
            self.model[account].verdict(feature_key, quantity, self.period(feature_key), tentative[account])
            for account, feature_key, quantity in items
        ]
        if all(verdict.reason.allows for verdict in verdicts):
            for name, model in self.model.items():
                model.used = tentative[name]
            return verdicts
        return [
            Expected(Reason.ATOMIC_BATCH if verdict.reason.allows else verdict.reason, -1, -1) for verdict in verdicts
        ]

    def compare(self, outcome: IncrementAnswer | TallygateError, expected: Expected | None, *, replayed: bool) -> None:
        """Check an answer."""
        if expected is None:
            assert isinstance(outcome, RequestIdReused), outcome
            return
        assert isinstance(outcome, IncrementAnswer), outcome
        assert outcome.reason is expected.reason
        assert outcome.replayed is replayed
        assert bool(outcome.entry_id) is expected.reason.allows
        if expected.reason.allows or (expected.reason is Reason.EXHAUSTED and expected.limit_quantity >= 0):
            assert (outcome.used_quantity, outcome.limit_quantity) == (expected.used_quantity, expected.limit_quantity)
            assert outcome.threshold_percent == expected.threshold_percent

    @rule(number=servers_numbers, account=accounts, feature_key=features, quantity=st.integers(0, 12))
    def check(self, number: int, account: str, feature_key: str, quantity: int) -> None:
        """Ask, which counts nothing."""
        model = self.model[account]
        period = self.period(feature_key)
        expected = model.verdict(feature_key, quantity, period, dict(model.used))

        answer = self.world.run(
            self.running[number].checker.check(a_check(feature_key, quantity, account_id=self.prefix + account))
        )

        assert not answer.stale
        if self.redis_may_be_behind and expected.reason in (Reason.OK, Reason.UNLIMITED, Reason.EXHAUSTED):
            # What a server without Redis counts, the others learn of when it is back, or when they count themselves.
            return
        assert answer.reason is expected.reason
        if expected.reason.allows or expected.reason is Reason.EXHAUSTED:
            assert answer.used_quantity == model.used.get((feature_key, period), 0)
            assert answer.held_quantity == 0
            assert answer.limit_quantity == expected.limit_quantity

    # A change without Redis takes a second by itself, which is tested elsewhere.
    @precondition(lambda self: self.all_have_redis)
    @rule(number=servers_numbers, account=accounts, plan=st.sampled_from(list(PLANS)))
    def move_to_plan(self, number: int, account: str, plan: str) -> None:
        """Change the account's plan."""
        self.world.run(self.running[number].accounts.provision(ACME, self.id_of(account)))
        self.world.run(change_plan(self.running[number], plan, account_id=self.id_of(account)))
        self.model[account].plan = plan

    @precondition(lambda self: self.all_have_redis)
    @rule(number=servers_numbers, account=accounts, suspend=st.booleans())
    def suspend(self, number: int, account: str, *, suspend: bool) -> None:
        """Suspend the account, or let it work again."""
        self.world.run(self.running[number].accounts.provision(ACME, self.id_of(account)))
        self.world.run(self.running[number].accounts.suspend(ACME, self.id_of(account), suspend=suspend))
        self.model[account].suspended = suspend

    def id_of(self, account: str) -> AccountId:
        """Return the account's id in this example."""
        return AccountId(self.prefix + account)

    @rule()
    def flush_redis(self) -> None:
        """Let Redis forget everything."""
        self.redis_is_behind = False
        self.world.run(self.world.embedded.flush_redis())

    @rule(number=servers_numbers)
    def lose_or_find_redis(self, number: int) -> None:
        """Cut a server off from Redis, or let it find it again."""
        proxy = self.world.wires[number].proxy
        proxy.refuses = not proxy.refuses
        self.world.run(self.notice(number))

    async def notice(self, number: int) -> None:
        """Wait until the server knows whether there is a Redis."""
        proxy = self.world.wires[number].proxy
        if proxy.refuses:
            proxy.cut()
        await eventually(lambda: self.running[number].counters.ready is not proxy.refuses)

    @rule(number=servers_numbers)
    def restart(self, number: int) -> None:
        """Replace a server by a new one."""
        # One that ends without Redis takes with it what Redis should have heard of.
        self.redis_is_behind |= self.world.wires[number].proxy.refuses
        self.world.run(self.stacks[number].aclose())
        self.stacks[number], self.running[number] = self.world.run(self.open(number))

    @rule(step=st.sampled_from([0.001, 1, 29, 31, 3_599, 3_600, 86_400, 90_000]))
    def let_time_pass(self, step: float) -> None:
        """Move the clock."""
        self.clock.advance(timedelta(seconds=step))

    @rule(step=st.sampled_from([0.001, 1, 60, 7_200]))
    def step_back(self, step: float) -> None:
        """Let the clock step back, as clocks sometimes do."""
        self.clock.set(self.clock.now() - timedelta(seconds=step))

    @rule(number=servers_numbers)
    def sweep(self, number: int) -> None:
        """Sweep holds."""
        self.world.run(self.running[number].sweeper.sweep())

    # --- Invariants -------------------------------------------------------------------------------------

    @precondition(lambda self: hasattr(self, "model"))
    @invariant()
    def postgres_and_redis_agree_with_the_model(self) -> None:
        """Compare every total."""
        self.world.run(self.compare_totals())

    async def compare_totals(self) -> None:
        """Compare every total."""
        rows = await fetch(
            self.world.database_url,
            "SELECT account_id, feature_key, sum(used_quantity)::bigint AS used FROM usage_counters"
            " WHERE starts_with(account_id, $1) GROUP BY 1, 2 HAVING sum(used_quantity) > 0",
            self.prefix,
        )
        modelled: dict[tuple[str, str], int] = {}
        for name, model in self.model.items():
            for (feature_key, _), used in model.used.items():
                if used:
                    key = (self.prefix + name, feature_key)
                    modelled[key] = modelled.get(key, 0) + used
        assert {(row["account_id"], row["feature_key"]): row["used"] for row in rows} == modelled
        if not self.redis_may_be_behind:
            await assert_redis_agrees(self.running[0], self.world.database_url)


@pytest.mark.timeout(7_200 if LONG else 900)
def test_servers_agree_with_the_model(
    fresh_redis: str, acme_database: str, servers: EmbeddedServers, tmp_path: Path
) -> None:
    world = World(acme_database, fresh_redis, servers, tmp_path)
    MeteringMachine.world = world
    try:
        run_state_machine_as_test(
            MeteringMachine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                # Every step talks to real stores, whose timing does not repeat: shrinking would only take long.
                phases=[Phase.explicit, Phase.generate],
                print_blob=True,
            ),
        )
    finally:
        world.close()
