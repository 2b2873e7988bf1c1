"""Whatever policies, holds, exceptions, plans and hands say: what must stay stays, and what may go goes in the end."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tallygate_server.catalog import CatalogSource
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import DataImportance, DataSelection, Segment, StorageTier
from tallygate_server.domain.retention import ImportanceRule, RetentionException, RetentionPolicy
from tallygate_server.embedded import EmbeddedServers
from tallygate_server.lifecycle.assembly import Lifecycle
from tallygate_server.lifecycle.policies import NewLegalHold
from tallygate_server.storage.data_segments import read_segments
from tests.conftest import copied_database
from tests.support.acme import change_plan, services
from tests.support.clock import FrozenClock
from tests.support.lifecycle import a_dataset, a_table, lifecycles
from tests.support.long_run import LONG

EXAMPLES = 200 if LONG else 8
START = datetime(2026, 3, 15, 12, tzinfo=UTC)
DAY = timedelta(days=1)
TYPES = ("ride", "run")
ACCOUNTS = (AccountId("ann"), AccountId("bob"))
PLANS = {"none": None, "short": 20, "long": 300, "endless": -1}
CATALOG = """
tenant: {tenant}
default_plan: none
auto_provision: true
features:
  data_retention_days: {{kind: config}}
plans:
  none: {{rank: 0, allowances: {{}}}}
  short: {{rank: 1, allowances: {{data_retention_days: 20}}}}
  long: {{rank: 2, allowances: {{data_retention_days: 300}}}}
  endless: {{rank: 3, allowances: {{data_retention_days: unlimited}}}}
"""


@dataclass(frozen=True)
class Piece:
    """A segment as a test wants it."""

    account: int
    sort: int
    age: int
    bad: bool
    fast: bool
    chosen: int | None
    """Days from the start at which a hand lets it go."""


@dataclass(frozen=True)
class Rule:
    """A policy as a test wants it."""

    standard: int
    threshold: int
    exception: tuple[int, int, int | None] | None
    """Account, days, and in how many days the exception ends."""


pieces = st.builds(
    Piece,
    account=st.integers(0, 1),
    sort=st.integers(0, 1),
    age=st.integers(1, 400),
    bad=st.booleans(),
    fast=st.sampled_from([False, False, True]),
    chosen=st.sampled_from([None, None, None, 5, 500]),
)
exceptions = st.tuples(st.integers(0, 1), st.sampled_from([1, 100, -1]), st.sampled_from([None, 0, 15]))
rules = st.builds(
    Rule,
    standard=st.sampled_from([-1, 60, 200]),
    threshold=st.sampled_from([-1, 10, 50]),
    exception=st.none() | exceptions,
)
policies = st.dictionaries(st.sampled_from([*TYPES, "*"]), rules, max_size=3)
holds = st.lists(
    st.tuples(st.sampled_from([None, 0, 1]), st.sampled_from([None, 0, 1]), st.sampled_from([None, 12, 40])), max_size=2
)
plans = st.tuples(st.sampled_from(sorted(PLANS)), st.sampled_from(sorted(PLANS)))


def may_go(
    piece: Piece,
    day: int,
    policy: Rule | None,
    plan: int | None,
    on_hold: list[tuple[int | None, int | None, int | None]],
) -> bool:
    """Tell whether a job may remove a segment so many days after the start: the rules, said a second time."""
    for account, sort, ends in on_hold:
        if account in {None, piece.account} and sort in {None, piece.sort} and (ends is None or day < ends):
            return False
    age = piece.age + day
    if policy is not None and policy.exception is not None:
        account, days, ends = policy.exception
        if account == piece.account and (ends is None or day < ends):
            # Critical data is not removed by a job, whatever an exception says, but by a hand's choice.
            return days != -1 and age >= days and (not piece.fast or piece.chosen is not None)
    if piece.chosen is not None:
        return day >= piece.chosen
    if policy is not None and piece.fast:
        return False
    if plan is not None:
        return plan != -1 and age >= plan
    if policy is None:
        return False
    limits = [policy.standard, policy.threshold] if piece.bad else [policy.standard]
    return any(limit != -1 and age >= limit for limit in limits)


class World:
    """A lifecycle on a clock of ours, driven from outside of its event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, lifecycle: Lifecycle, clock: FrozenClock) -> None:
        self.loop = loop
        self.lifecycle = lifecycle
        self.clock = clock
        self.examples = itertools.count()

    async def put(self, tenant_id: TenantId, piece: Piece, number: int) -> str:
        """Store a segment as it is wanted; return its id."""
        segments = self.lifecycle.segments
        dataset = await a_dataset(
            self.lifecycle, tenant_id=tenant_id, account_id=ACCOUNTS[piece.account], data_type=TYPES[piece.sort]
        )
        end_time = START - piece.age * DAY
        table = a_table(end_time - timedelta(seconds=3 + number), 3, speed=[9.0 if piece.fast else 1.0, 1.0, 2.0])
        prepared = await segments.prepare(dataset, table, tier=StorageTier.HOT, quality_score=0.1 if piece.bad else 1.0)
        chosen = START + piece.chosen * DAY if piece.chosen is not None else None
        # To the day, so that the test's ages are whole ones.
        segment = replace(prepared.segment, end_time=end_time, retention_end_time=chosen)
        async with segments.database.tenant_transaction(tenant_id) as connection:
            await segments.put_hot(connection, replace(prepared, segment=segment))
        return segment.segment_id

    async def left(self, tenant_id: TenantId) -> dict[str, Segment]:
        """Return what is stored."""
        async with self.lifecycle.database.tenant_transaction(tenant_id) as connection:
            return {each.segment_id: each for each in await read_segments(connection, tenant_id, DataSelection())}

    async def play(
        self, wanted: list[Piece], said: dict[str, Rule], on_hold: list[Any], chosen_plans: tuple[str, str]
    ) -> None:
        """Do what is said, let time pass, and compare what is left with what may be."""
        self.clock.set(START)
        tenant_id = TenantId(f"t{next(self.examples)}")
        lifecycle = self.lifecycle
        await lifecycle.service.catalogs.apply(CatalogSource(CATALOG.format(tenant=tenant_id)))
        for account_id, plan in zip(ACCOUNTS, chosen_plans, strict=True):
            await lifecycle.service.accounts.provision(tenant_id, account_id)
            if plan != "none":
                await change_plan(lifecycle.service, plan, account_id=account_id, tenant_id=tenant_id)
        for data_type, rule in said.items():
            await lifecycle.policies.set(a_policy(tenant_id, data_type, rule), actor="test")
        for account, sort, ends in on_hold:
            selection = DataSelection(
                account_id=None if account is None else ACCOUNTS[account],
                data_types=() if sort is None else (TYPES[sort],),
            )
            end_time = None if ends is None else START + ends * DAY
            hold = NewLegalHold(selection=selection, reason_text="a suit", end_time=end_time)
            await lifecycle.holds.create(tenant_id, hold, actor="test")
        stored = {await self.put(tenant_id, piece, number): piece for number, piece in enumerate(wanted)}
        gone: set[str] = set()
        for day in (0, 11, 39, 40, 250):
            self.clock.set(START + day * DAY)
            await lifecycle.retainer.retain(tenant_id)
            gone |= {
                segment_id
                for segment_id, piece in stored.items()
                if may_go(
                    piece, day, said.get(TYPES[piece.sort], said.get("*")), PLANS[chosen_plans[piece.account]], on_hold
                )
            }
            assert set(await self.left(tenant_id)) == stored.keys() - gone, f"on day {day}"


def a_policy(tenant_id: TenantId, data_type: str, rule: Rule) -> RetentionPolicy:
    """Return a policy under which a segment is critical (fast), of low value (bad) or of high importance."""
    exceptions: tuple[RetentionException, ...] = ()
    if rule.exception is not None:
        account, days, ends = rule.exception
        exceptions = (
            RetentionException(
                account_id=ACCOUNTS[account],
                retention_days=days,
                reason_text="a study",
                expire_time=None if ends is None else START + ends * DAY,
            ),
        )
    return RetentionPolicy(
        tenant_id=tenant_id,
        data_type=data_type,
        standard_retention_days=rule.standard,
        deletion_threshold_days=rule.threshold,
        ai_value_threshold=0.0,
        exceptions=exceptions,
        importance_rules=(
            ImportanceRule(name="fast", column="speed", min_value=8.0, importance=DataImportance.CRITICAL),
        ),
    )


@pytest.fixture
def world(servers: EmbeddedServers, database_url: str, template_database: str, tmp_path: Path) -> Any:
    loop = asyncio.new_event_loop()
    clock = FrozenClock(START)

    async def open_all(stack: AsyncExitStack) -> Lifecycle:
        url = await stack.enter_async_context(copied_database(database_url, template_database))
        await servers.flush_redis()
        [service] = await stack.enter_async_context(services(url, servers.redis_url, clock=clock))
        return await stack.enter_async_context(lifecycles(url, service, tmp_path))

    stack = AsyncExitStack()
    try:
        yield World(loop, loop.run_until_complete(open_all(stack)), clock)
    finally:
        loop.run_until_complete(stack.aclose())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def test_what_must_stay_stays_and_what_may_go_goes(world: World) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=not LONG,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink] if LONG else [Phase.generate],
    )
    @given(wanted=st.lists(pieces, min_size=3, max_size=10), said=policies, on_hold=holds, chosen_plans=plans)
    def play(wanted: list[Piece], said: dict[str, Rule], on_hold: list[Any], chosen_plans: tuple[str, str]) -> None:
        world.loop.run_until_complete(asyncio.wait_for(world.play(wanted, said, on_hold, chosen_plans), 120))

    play()
