"""Whatever happens: a simulation of the plans in force denies exactly what was really denied."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tallygate_server.corrections import Correction, Reversal
from tallygate_server.domain.catalog import OverrunPolicy
from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.identifier import AccountId, FeatureKey
from tallygate_server.domain.reservation import ReservationState
from tallygate_server.embedded import EmbeddedServers
from tallygate_server.errors import TallygateError
from tallygate_server.grants import FeatureOverride, NewGrant
from tallygate_server.grants.rules import AskedKind
from tallygate_server.reservations import Commit, Release, Reserve
from tallygate_server.service import Service
from tallygate_server.simulation import SimulatedAccount, SimulationJob, SimulationTotals, SimulationUpdate
from tallygate_server.simulation.replaying import simulate
from tests.support.acme import _CATALOG, ACME, an_increment, change_plan, fetch, services
from tests.support.clock import FrozenClock
from tests.support.long_run import LONG

EXAMPLES, STEPS = (300, 80) if LONG else (8, 50)
# Shortly before the end of an hour, a day and a month, in a billing period of its own.
START = datetime(2026, 3, 31, 23, 58, tzinfo=UTC)

names = st.sampled_from(["a", "b"])
feature_keys = st.sampled_from(
    ["words", "ten", "ten", "ten", "none", "soft", "hourly", "billed", "local", "devices", "devices", "unheard_of"]
)
quantities = st.sampled_from([1, 1, 2, 3, 4, 6, 10, 40, 990])
calls = st.tuples(names, feature_keys, quantities)
operations = st.one_of(
    st.tuples(st.just("count"), st.lists(calls, min_size=1, max_size=6)),
    st.tuples(st.just("count"), st.lists(calls, min_size=1, max_size=6)),
    st.tuples(st.just("count with ids"), st.lists(calls, min_size=1, max_size=3)),
    st.tuples(st.just("all or nothing"), st.lists(calls, min_size=2, max_size=5)),
    st.tuples(st.just("go down"), names, quantities),
    st.tuples(st.just("late"), names, st.sampled_from(["ten", "hourly", "words"]), quantities, st.integers(0, 3)),
    st.tuples(st.just("reserve"), names, feature_keys, quantities),
    st.tuples(st.just("reserve"), names, st.sampled_from(["ten", "words"]), quantities),
    st.tuples(st.just("commit"), names, st.integers(-3, 12), st.sampled_from(list(OverrunPolicy))),
    st.tuples(st.just("release"), names),
    st.tuples(st.just("correct"), names, st.sampled_from(["ten", "devices", "words"]), st.sampled_from([-4, -1, 2, 9])),
    st.tuples(st.just("reverse"), names),
    st.tuples(st.just("plan"), names, st.sampled_from(["free", "pro", "bare"])),
    st.tuples(st.just("suspend"), names),
    st.tuples(st.just("reinstate"), names),
    st.tuples(st.just("grant"), names, st.sampled_from(["ten", "words", "devices"]), st.sampled_from([1, 3, 20])),
    st.tuples(st.just("switch"), names, st.sampled_from(["ten", "soft"]), st.sampled_from(list(FeatureOverride))),
    st.tuples(st.just("wait"), st.sampled_from([1, 1_000, 60_000, 3_600_000, 26 * 3_600_000])),
)

Denials = dict[tuple[str, str], tuple[int, int, datetime]]
"""By account and feature: how many, how much, and when first."""


class World:
    """A server on a clock of ours, driven from outside of its event loop."""

    def __init__(self, database_url: str, redis_url: str, embedded: EmbeddedServers) -> None:
        self.loop = asyncio.new_event_loop()
        self.database_url = database_url
        self.redis_url = redis_url
        self.embedded = embedded
        self.examples = itertools.count()

    def run(self, work: Any) -> Any:
        """Run to the end."""
        return self.loop.run_until_complete(asyncio.wait_for(work, 300))

    async def play(self, script: Sequence[Any]) -> None:
        """Do what the script says with new accounts, and compare."""
        clock = FrozenClock(START)
        prefix = f"p{next(self.examples)}-"
        await self.embedded.flush_redis()
        async with AsyncExitStack() as stack:
            [service] = await stack.enter_async_context(services(self.database_url, self.redis_url, clock=clock))
            for name in ("a", "b"):
                await service.accounts.identify(ACME, [], account_id=AccountId(prefix + name))
            for step in script:
                await perform(service, clock, prefix, step)
            await service.meter._denials.drain()
        await self.compare(prefix)

    async def compare(self, prefix: str) -> None:
        """Simulate the plans in force, and the same as a draft: both must deny what was denied."""
        rows = await fetch(
            self.database_url, "SELECT * FROM usage_denials WHERE starts_with(account_id, $1) ORDER BY entry_id", prefix
        )
        real: Denials = {}
        for row in rows:
            key = (row["account_id"], row["feature_key"])
            count, quantity, first = real.get(key, (0, 0, row["recorded_time"]))
            real[key] = (count + 1, quantity + row["quantity"], min(first, row["recorded_time"]))
        for catalog_yaml in (None, _CATALOG.format(tenant=ACME)):
            updates = await self.simulated(catalog_yaml, include_denied_usage=True)
            told = [
                each for each in updates if isinstance(each, SimulatedAccount) and each.account_id.startswith(prefix)
            ]
            found = {
                (each.account_id, each.feature_key): (each.denied_count, each.denied_quantity, each.first_denial_time)
                for each in told
            }
            assert found == real
            assert all(each.real_denied_count == each.denied_count for each in told)
            assert totals(updates).unexplained_count == 0
            without = await self.simulated(catalog_yaml, include_denied_usage=False)
            assert [each for each in without if isinstance(each, SimulatedAccount)] == []

    async def simulated(self, catalog_yaml: str | None, *, include_denied_usage: bool) -> list[SimulationUpdate]:
        """Simulate in this process; that it works in one of its own is proved elsewhere."""
        updates: list[SimulationUpdate] = []
        job = SimulationJob(
            database_url=self.database_url,
            tenant_id=ACME,
            catalog_yaml=catalog_yaml,
            start_time=START - timedelta(days=1),
            end_time=START + timedelta(days=400),
            account_id="",
            feature_key="",
            plan_key="",
            include_denied_usage=include_denied_usage,
        )
        await simulate(job, updates.append)
        return updates


def totals(updates: Sequence[SimulationUpdate]) -> SimulationTotals:
    last = updates[-1]
    assert isinstance(last, SimulationTotals)
    return last


async def perform(service: Service, clock: FrozenClock, prefix: str, step: Any) -> None:
    """Do one step; what the service refuses is none."""
    match step:
        case ("count", wanted):
            await service.meter.increment_many(
                [an_increment(key, quantity, account_id=prefix + name) for name, key, quantity in wanted], atomic=False
            )
        case ("count with ids", wanted):
            increments = [
                an_increment(key, quantity, account_id=prefix + name, request_id=f"{clock.now_ms()}-{key}-{quantity}")
                for name, key, quantity in wanted
            ]
            await service.meter.increment_many(increments, atomic=False)
            await service.meter.increment_many(increments, atomic=False)
        case ("all or nothing", wanted):
            await service.meter.increment_many(
                [an_increment(key, quantity, account_id=prefix + name) for name, key, quantity in wanted], atomic=True
            )
        case ("go down", name, quantity):
            await service.meter.increment_many(
                [an_increment("devices", -quantity, account_id=prefix + name)], atomic=False
            )
        case ("late", name, key, quantity, hours):
            event_time = clock.now() - timedelta(hours=hours, minutes=1)
            await service.meter.increment_many(
                [an_increment(key, quantity, account_id=prefix + name, event_time=event_time)], atomic=False
            )
        case ("wait", milliseconds):
            clock.advance(timedelta(milliseconds=milliseconds))
        case (what, name, *more):
            try:
                await change(service, what, AccountId(prefix + name), more)
            except TallygateError:
                return


async def change(service: Service, what: str, account_id: AccountId, more: list[Any]) -> None:
    """Change what an account may do."""
    match what, more:
        case "plan", [plan]:
            await change_plan(service, plan, account_id=account_id)
        case "suspend", []:
            await service.accounts.suspend(ACME, account_id)
        case "reinstate", []:
            await service.accounts.suspend(ACME, account_id, suspend=False)
        case "grant", [key, quantity]:
            await service.grants.create(
                ACME,
                account_id,
                NewGrant(
                    feature_key=FeatureKey(key), kind=AskedKind.BONUS, credit_quantity=quantity, reason="for a test"
                ),
            )
        case "switch", [key, override]:
            await service.grants.override(ACME, account_id, FeatureKey(key), override, reason="for a test")
        case "reserve", [key, quantity]:
            ttl = timedelta(hours=2)
            await service.reservations.reserve(
                Reserve(tenant_id=ACME, account_id=account_id, feature_key=FeatureKey(key), quantity=quantity, ttl=ttl)
            )
        case "correct", [key, quantity]:
            await service.corrections.correct(
                Correction(
                    tenant_id=ACME,
                    account_id=account_id,
                    feature_key=FeatureKey(key),
                    quantity=quantity,
                    reason_text="for a test",
                    actor="tester",
                )
            )
        case "reverse", []:
            for entry in await service.usage.entries(ACME, account_id, limit=1):
                await service.corrections.reverse(
                    Reversal(
                        tenant_id=ACME,
                        account_id=account_id,
                        entry_id=str(entry.entry_id),
                        reason_text="for a test",
                        actor="tester",
                    )
                )
        case _:
            await end_reservation(service, what, account_id, more)


async def end_reservation(service: Service, what: str, account_id: AccountId, more: list[Any]) -> None:
    """Commit, or release, the newest reservation."""
    for reservation in await service.reservations.list(ACME, account_id, state=ReservationState.HELD, limit=1):
        if what == "release":
            await service.reservations.release(
                Release(tenant_id=ACME, account_id=account_id, reservation_id=reservation.reservation_id)
            )
            return
        surplus, policy = more
        await service.reservations.commit(
            Commit(
                tenant_id=ACME,
                account_id=account_id,
                reservation_id=reservation.reservation_id,
                quantity=max(reservation.quantity + surplus, 0),
                overrun_policy=policy,
            )
        )


def test_the_plans_in_force_deny_exactly_what_was_denied(
    acme_database: str, fresh_redis: str, servers: EmbeddedServers
) -> None:
    world = World(acme_database, fresh_redis, servers)
    seen: defaultdict[Reason, int] = defaultdict(int)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate] if not LONG else list(Phase),
        print_blob=True,
    )
    @given(st.lists(operations, min_size=STEPS // 2, max_size=STEPS))
    def play(script: list[Any]) -> None:
        world.run(world.play(script))

    try:
        play()
        for row in world.run(fetch(acme_database, "SELECT reason, count(*) AS count FROM usage_denials GROUP BY 1")):
            seen[Reason(row["reason"])] = row["count"]
    finally:
        world.loop.close()

    # Every way to be denied was taken.
    assert {
        Reason.EXHAUSTED,
        Reason.ATOMIC_BATCH,
        Reason.BELOW_ZERO,
        Reason.ACCOUNT_SUSPENDED,
        Reason.NO_ENTITLEMENT,
        Reason.UNKNOWN_FEATURE,
        Reason.FEATURE_DISABLED,
    } <= seen.keys()
