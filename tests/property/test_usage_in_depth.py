"""Increments, reservations, corrections, credits, plan changes and jumps of the clock against the reference model.

Two servers answer as the contract says; after every step the model, Postgres and Redis agree on every number.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tallygate.v1 import access_pb2, catalog_pb2, entitlement_pb2, entitlement_service_pb2, usage_service_pb2
from tallygate_server.app import servicers
from tallygate_server.catalog import CatalogSource
from tallygate_server.counters.keys import parse_counter
from tallygate_server.domain.identifier import AccountId, PlanKey, TenantId
from tallygate_server.embedded import EmbeddedServers
from tallygate_server.errors import ReservationClosed, TallygateError
from tallygate_server.service import Service
from tallygate_server.subscriptions import ChangeTiming, NewSubscription
from tallygate_server.transport.entitlement_servicer import EntitlementServicer
from tallygate_server.transport.usage_servicer import UsageServicer
from tests.support.acme import fetch, redis_counters, services
from tests.support.clock import FrozenClock
from tests.support.long_run import LONG
from tests.support.usage_model import LATE, UNLIMITED, Credit, Held, ModelAccount, Plan

Value = TypeVar("Value")

EXAMPLES, STEPS = (300, 80) if LONG else (8, 40)
TENANT: Final = TenantId("depths")
START: Final = datetime(2026, 11, 20, 12, tzinfo=UTC)
NO_CONTEXT: Final[Any] = None
"""Servicers leave the context aside."""
ALLOWED: Final = access_pb2.DECISION_ALLOWED
CATALOG: Final = f"""
tenant: {TENANT}
name: Depths
auto_provision: true
default_plan: free
closed_period_corrections: true
features:
  tokens: {{kind: counter}}
  calls: {{kind: counter}}
  endless: {{kind: counter}}
  extra: {{kind: counter}}
  slots: {{kind: gauge}}
plans:
  free:
    rank: 0
    allowances:
      tokens: {{limit: 100, period: month, thresholds: [50%, 100%]}}
      calls: {{limit: 10, period: day}}
      slots: 5
  pro:
    rank: 1
    allowances:
      tokens: {{limit: 1000, period: month, thresholds: [50%, 100%]}}
      calls: {{limit: 50, period: day}}
      endless: {{limit: unlimited, period: month}}
      slots: 8
"""
PLANS: Final[dict[str, Plan]] = {
    "free": {"tokens": 100, "calls": 10, "slots": 5},
    "pro": {"tokens": 1_000, "calls": 50, "endless": UNLIMITED, "slots": 8},
    "": {},
}
FEATURES: Final = ("tokens", "calls", "endless", "extra", "slots")
NAMES: Final = ("a", "b")

names = st.sampled_from(NAMES)
numbers = st.integers(0, 1)
features = st.sampled_from(FEATURES)
countable = st.sampled_from(("tokens", "tokens", "calls", "extra", "endless"))
quantities = st.sampled_from((1, 1, 2, 3, 5, 8, 13, 40, 99))


class World:
    """Real stores and two servers, driven from outside of their event loop."""

    def __init__(self, database_url: str, redis_url: str, embedded: EmbeddedServers) -> None:
        self.loop = asyncio.new_event_loop()
        self.database_url = database_url
        self.embedded = embedded
        self.clock = FrozenClock(START)
        self.examples = itertools.count()
        self._stack = AsyncExitStack()
        self.services: list[Service] = self.run(
            self._stack.enter_async_context(services(database_url, redis_url, 2, clock=self.clock))
        )
        self.run(self.services[0].catalogs.apply(CatalogSource(CATALOG)))
        self.usage: list[UsageServicer] = []
        self.rights: list[EntitlementServicer] = []
        for service in self.services:
            for servicer in servicers(service):
                if isinstance(servicer, UsageServicer):
                    self.usage.append(servicer)
                elif isinstance(servicer, EntitlementServicer):
                    self.rights.append(servicer)

    def close(self) -> None:
        """Close the servers."""
        self.run(self._stack.aclose())
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, Value]) -> Value:
        """Run to the end."""
        return self.loop.run_until_complete(asyncio.wait_for(work, 120))


class UsageMachine(RuleBasedStateMachine):
    """Two servers and the model."""

    world: World
    reservations = Bundle("reservations")
    entries = Bundle("entries")
    grants = Bundle("grants")

    @initialize()
    def begin(self) -> None:
        """Start with accounts that nobody has seen."""
        self.prefix = f"d{next(self.world.examples)}-"
        self.plans = dict.fromkeys(NAMES, "free")
        self.model = {name: ModelAccount(dict(PLANS["free"]), frozenset({"slots"})) for name in NAMES}
        for name in NAMES:
            self.world.run(self.world.services[0].accounts.provision(TENANT, self.account(name)))

    # --- Names ------------------------------------------------------------------------------------------

    def account(self, name: str) -> AccountId:
        """Return the account's id."""
        return AccountId(self.prefix + name)

    @property
    def now(self) -> datetime:
        """Return the instant."""
        return self.world.clock.now()

    def period(self, name: str, feature: str) -> str:
        """Name the period that the feature counts in now: what only a credit gives has none."""
        if feature not in self.model[name].plan or feature == "slots":
            return "ever"
        return f"{self.now:%Y%m%d}" if feature == "calls" else f"{self.now:%Y%m}"

    def at(self, name: str) -> dict[str, Any]:
        """Return what every request begins with."""
        return {"tenant_id": TENANT, "account_id": self.account(name)}

    # --- Rules ------------------------------------------------------------------------------------------

    @rule(target=entries, number=numbers, name=names, feature=countable, quantity=quantities)
    def count(self, number: int, name: str, feature: str, quantity: int) -> Any:
        """Count up."""
        return self.count_one(number, name, feature, quantity)

    @rule(target=entries, number=numbers, name=names, quantity=st.integers(-4, 4).filter(bool))
    def move_gauge(self, number: int, name: str, quantity: int) -> Any:
        """Move a gauge."""
        return self.count_one(number, name, "slots", quantity)

    def count_one(self, number: int, name: str, feature: str, quantity: int) -> Any:
        """Count on a server and in the model; return the line of the ledger, if there is one that can be reversed."""
        model, period = self.model[name], self.period(name, feature)
        fits = model.fits(feature, period, quantity, self.now)

        answer = self.world.run(
            self.world.usage[number].Increment(
                usage_service_pb2.IncrementRequest(**self.at(name), feature_key=feature, quantity=quantity),
                NO_CONTEXT,
            )
        )

        assert (answer.decision == ALLOWED) == fits, answer
        if not fits:
            return multiple()
        model.count(answer.entry_id, feature, period, quantity, self.now)
        assert answer.used_quantity == model.used[feature, period]
        return (name, answer.entry_id) if quantity > 0 else multiple()

    @rule(
        target=reservations,
        number=numbers,
        name=names,
        feature=st.sampled_from(("tokens", "tokens", "calls", "extra", "slots")),
        quantity=quantities,
        ttl=st.sampled_from((1, 30, 600, 86_400)),
    )
    def reserve(self, number: int, name: str, feature: str, quantity: int, ttl: int) -> Any:
        """Reserve."""
        model, period = self.model[name], self.period(name, feature)
        fits = model.fits(feature, period, quantity, self.now)

        answer = self.world.run(
            self.world.usage[number].Reserve(
                usage_service_pb2.ReserveRequest(
                    **self.at(name), feature_key=feature, quantity=quantity, ttl=Duration(seconds=ttl)
                ),
                NO_CONTEXT,
            )
        )

        assert (answer.decision == ALLOWED) == fits, answer
        if not fits:
            return multiple()
        reservation_id = answer.reservation.reservation_id
        model.reservations[reservation_id] = Held(
            feature, period, quantity, self.now, self.now + timedelta(seconds=ttl)
        )
        assert answer.held_quantity == model.held(feature, period, self.now)
        return (name, reservation_id)

    @rule(
        target=entries,
        number=numbers,
        reservation=reservations,
        quantity=st.sampled_from((None, 0, 1, 5, 14, 60)),
        overdraw=st.booleans(),
    )
    def commit(self, number: int, reservation: tuple[str, str], quantity: int | None, *, overdraw: bool) -> Any:
        """Commit a reservation that is held, has expired, or has ended before."""
        name, reservation_id = reservation
        model = self.model[name]
        held = model.reservations[reservation_id]
        actual = held.quantity if quantity is None else quantity
        policy = catalog_pb2.OVERRUN_POLICY_OVERDRAW if overdraw else catalog_pb2.OVERRUN_POLICY_REJECT
        request = usage_service_pb2.CommitReservationRequest(
            **self.at(name), reservation_id=reservation_id, quantity=actual, overrun_policy=policy
        )
        if held.state != "held" or self.now > held.expire_time + LATE:
            self.ended(self.world.usage[number].CommitReservation(request, NO_CONTEXT), held, actual)
            return multiple()
        late = self.now >= held.expire_time
        promised = 0 if late else held.quantity
        counts = (
            actual <= promised
            or overdraw
            or model.fits(held.feature, held.period, actual, self.now, without=reservation_id)
        )

        answer = self.world.run(self.world.usage[number].CommitReservation(request, NO_CONTEXT))

        assert (answer.decision == ALLOWED) == counts, (answer, held)
        if not counts:
            return multiple()
        held.state = f"committed {actual}"
        assert answer.late == late
        assert answer.committed_quantity == actual
        if not actual:
            return multiple()
        model.count(answer.entry_id, held.feature, held.period, actual, self.now)
        assert answer.used_quantity == model.used[held.feature, held.period]
        return (name, answer.entry_id)

    def ended(self, call: Coroutine[Any, Any, Any], held: Held, actual: int) -> None:
        """Expect the first answer again, or a refusal."""
        try:
            answer = self.world.run(call)
        except ReservationClosed:
            assert held.state != f"committed {actual}"
        else:
            assert answer.replayed
            assert held.state == f"committed {actual}"

    @rule(number=numbers, reservation=consumes(reservations))
    def release(self, number: int, reservation: tuple[str, str]) -> None:
        """Give a reservation back, if it is still held."""
        name, reservation_id = reservation
        held = self.model[name].reservations[reservation_id]
        request = usage_service_pb2.ReleaseReservationRequest(**self.at(name), reservation_id=reservation_id)
        if held.state.startswith("committed") or self.now > held.expire_time + LATE:
            with pytest.raises(ReservationClosed):
                self.world.run(self.world.usage[number].ReleaseReservation(request, NO_CONTEXT))
            return
        self.world.run(self.world.usage[number].ReleaseReservation(request, NO_CONTEXT))
        if held.stands(self.now):
            held.state = "released"

    @rule(number=numbers, entry=entries, quantity=st.sampled_from((None, 1, 4, 30)))
    def reverse(self, number: int, entry: tuple[str, str], quantity: int | None) -> None:
        """Take back usage, in part or all that is left."""
        name, entry_id = entry
        model = self.model[name]
        line = model.lines[entry_id]
        # A gauge may have gone down since: nothing takes a total below zero.
        left = min(line.quantity - line.reversed, model.used[line.feature, line.period])
        request = usage_service_pb2.ReverseUsageRequest(**self.at(name), entry_id=entry_id, reason_text="wrong")
        if quantity is not None:
            request.quantity = quantity
        wanted = left if quantity is None else quantity
        if not left or wanted > left:
            with pytest.raises(TallygateError):
                self.world.run(self.world.usage[number].ReverseUsage(request, NO_CONTEXT))
            return

        answer = self.world.run(self.world.usage[number].ReverseUsage(request, NO_CONTEXT))

        model.reverse(entry_id, wanted)
        assert answer.reversible_quantity == left - wanted
        assert answer.entry.used_quantity == model.used[line.feature, line.period]

    @rule(
        target=grants,
        number=numbers,
        name=names,
        feature=st.sampled_from(("tokens", "calls", "extra", "extra")),
        quantity=st.sampled_from((1, 5, 30)),
        priority=st.integers(0, 2),
        days=st.sampled_from((None, 1, 3)),
        paid=st.booleans(),
    )
    def grant(  # noqa: PLR0917 - as many as a credit has sides.
        self, number: int, name: str, feature: str, quantity: int, priority: int, days: int | None, *, paid: bool
    ) -> Any:
        """Give a credit."""
        model = self.model[name]
        expire = self.now + timedelta(days=days) if days is not None else None
        request = entitlement_service_pb2.CreateGrantRequest(
            **self.at(name),
            feature_key=feature,
            kind=entitlement_pb2.GRANT_KIND_PURCHASE if paid else entitlement_pb2.GRANT_KIND_BONUS,
            credit_quantity=quantity,
            priority=priority,
            reason_text="model",
        )
        if expire is not None:
            stamp = Timestamp()
            stamp.FromDatetime(expire)
            request.expire_time.CopyFrom(stamp)

        answer = self.world.run(self.world.rights[number].CreateGrant(request, NO_CONTEXT))

        # Credits of one instant come in the order of their ids.
        credit = Credit(feature, quantity, priority, self.now, expire, len(model.credits))
        model.credits.append(credit)
        # No two are made at one instant, so that the order of their ids does not matter.
        self.world.clock.advance(timedelta(milliseconds=1))
        return (name, credit.number, answer.grant.grant_id)

    @rule(number=numbers, grant=consumes(grants))
    def revoke(self, number: int, grant: tuple[str, int, str]) -> None:
        """Take a credit back."""
        name, index, grant_id = grant
        request = entitlement_service_pb2.RevokeGrantRequest(**self.at(name), grant_id=grant_id, reason_text="model")
        self.world.run(self.world.rights[number].RevokeGrant(request, NO_CONTEXT))
        self.model[name].credits[index].revoked = True

    @rule(number=numbers, name=names, plan=st.sampled_from(("free", "pro", "")))
    def change_plan(self, number: int, name: str, plan: str) -> None:
        """Move to a plan, or to none."""
        before, subscriptions = self.plans[name], self.world.services[number].subscriptions
        if plan == before:
            return
        account_id = self.account(name)
        if not plan:
            self.world.run(subscriptions.cancel(TENANT, account_id, timing=ChangeTiming.NOW))
        elif not before:
            self.world.run(subscriptions.create(TENANT, account_id, NewSubscription(plan_key=PlanKey(plan))))
        else:
            self.world.run(
                subscriptions.change_plan(TENANT, account_id, plan_key=PlanKey(plan), timing=ChangeTiming.NOW)
            )
        self.plans[name] = plan
        self.model[name].plan = dict(PLANS[plan])

    @rule(seconds=st.sampled_from((1, 29, 31, 3_000, 3_700, 40_000, 90_000, 15 * 86_400)))
    def let_time_pass(self, seconds: int) -> None:
        """Let time pass: reservations expire, days and months begin."""
        self.world.clock.advance(timedelta(seconds=seconds))

    @rule()
    def lose_redis(self) -> None:
        """Lose everything that Redis knows."""
        self.world.run(self.world.embedded.flush_redis())

    # --- Invariants -------------------------------------------------------------------------------------

    @precondition(lambda self: hasattr(self, "model"))
    @invariant()
    def both_servers_agree_with_the_model(self) -> None:
        """Ask for every feature of every account."""
        self.world.run(self.compare_answers())

    async def compare_answers(self) -> None:
        """Compare what is checked and shown."""
        for name, model in self.model.items():
            for rights, usage in zip(self.world.rights, self.world.usage, strict=True):
                for feature in FEATURES:
                    period = self.period(name, feature)
                    check = await rights.CheckAccess(
                        entitlement_service_pb2.CheckAccessRequest(**self.at(name), feature_key=feature),
                        NO_CONTEXT,
                    )
                    assert (check.decision == ALLOWED) == model.fits(feature, period, 1, self.now), (name, check)
                    if not model.entitled(feature, self.now):
                        continue
                    standing = model.standing(feature, period, self.now)
                    expected = (standing.limit, standing.used, standing.held, standing.remaining)
                    assert figures(check) == expected, (name, feature)
                    shown = await usage.GetUsage(
                        usage_service_pb2.GetUsageRequest(**self.at(name), feature_key=feature),
                        NO_CONTEXT,
                    )
                    assert figures(shown.quota) == expected, (name, feature)

    @precondition(lambda self: hasattr(self, "model"))
    @invariant()
    def the_stores_agree_with_the_model(self) -> None:
        """Compare rows and hashes."""
        self.world.run(self.compare_stores())

    async def compare_stores(self) -> None:
        """Compare counters with the model, with their lines and reservations, and with Redis."""
        rows = await fetch(
            self.world.database_url,
            "SELECT c.*, COALESCE((SELECT sum(quantity) FROM usage_entries AS e WHERE"
            " (e.tenant_id, e.account_id, e.feature_key, e.period_kind, e.period_start)"
            " = (c.tenant_id, c.account_id, c.feature_key, c.period_kind, c.period_start)), 0) AS counted,"
            " COALESCE((SELECT sum(quantity) FROM reservations AS r WHERE r.state = 'held' AND"
            " (r.tenant_id, r.account_id, r.feature_key, r.period_kind, r.period_start)"
            " = (c.tenant_id, c.account_id, c.feature_key, c.period_kind, c.period_start)), 0) AS held"
            " FROM usage_counters AS c WHERE starts_with(account_id, $1)",
            self.prefix,
        )
        totals: dict[tuple[str, str], int] = {}
        for row in rows:
            assert row["used_quantity"] == row["counted"], row
            assert row["reserved_quantity"] == row["held"], row
            key = (row["account_id"], row["feature_key"])
            totals[key] = totals.get(key, 0) + row["used_quantity"]
        modelled: dict[tuple[str, str], int] = {}
        for name, model in self.model.items():
            for (feature, _), used in model.used.items():
                key = (self.account(name), feature)
                modelled[key] = modelled.get(key, 0) + used
        assert {key: used for key, used in totals.items() if used} == {
            key: used for key, used in modelled.items() if used
        }
        in_postgres = {
            (row["account_id"], row["feature_key"], row["period_kind"], row["period_start"]): row for row in rows
        }
        for redis_key, state in (await redis_counters(self.world.services[0])).items():
            parts = counter_parts(redis_key)
            row = in_postgres.get(parts)
            if row is None or "c" not in state:
                continue
            assert int(state["c"]) == row["used_quantity"], (redis_key, state, row)
            assert int(state.get("r", 0)) == row["reserved_quantity"], (redis_key, state, row)
            assert int(state.get("h", 0)) == row["reserved_quantity"], (redis_key, state, row)


def figures(answer: Any) -> tuple[int, int, int, int]:
    """Return limit, used, held and remaining of an answer."""
    return (answer.limit_quantity, answer.used_quantity, answer.held_quantity, answer.remaining_quantity)


def counter_parts(redis_key: str) -> tuple[str, str, str, datetime]:
    """Return the account, feature and period of a counter's key."""
    parts = parse_counter(redis_key)
    return (parts.account_id, parts.feature_key, parts.period_kind, parts.period_start)


@pytest.mark.timeout(7_200 if LONG else 900)
def test_usage_in_depth_agrees_with_the_model(fresh_redis: str, fresh_database: str, servers: EmbeddedServers) -> None:
    world = World(fresh_database, fresh_redis, servers)
    UsageMachine.world = world
    try:
        run_state_machine_as_test(
            UsageMachine,
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
