"""Any sequence of calls and of time passing, with the job now and then: what must always hold, holds."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallygate_server.catalog import CatalogSource
from tallygate_server.domain.catalog import BillingInterval
from tallygate_server.domain.entitlement import resolve
from tallygate_server.domain.identifier import AccountId, PlanKey, TenantId
from tallygate_server.domain.subscription import LIVE_STATES, BillingProvider, SubscriptionState, access_window
from tallygate_server.errors import (
    IllegalTransition,
    InvalidRequest,
    NotFound,
    SubscriptionExists,
)
from tallygate_server.storage.engine import DatabaseRole, connect
from tallygate_server.storage.sources import read_documents, sources_from_document
from tallygate_server.subscriptions import ChangeTiming, NewSubscription, SubscriptionView
from tests.integration.test_subscription_lifecycle import CATALOG
from tests.support.use_cases import UseCases, use_cases

CLUB: Final = TenantId("club")
DAY: Final = dt.timedelta(days=1)
LIMITS: Final = {"free": 10, "basic": 500, "pro": 1000}
REFUSALS: Final = (IllegalTransition, InvalidRequest, NotFound, SubscriptionExists)
"""What may be answered to a call that does not fit."""

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Call:
    """One call, or time passing, or the job."""

    name: str
    subscription: int
    plan: str
    interval: BillingInterval | None
    quantity: int | None
    timing: ChangeTiming | None
    days: int
    resumes_after: int | None


calls = st.builds(
    Call,
    name=st.sampled_from(
        ["create", "change_plan", "change_plan", "cancel", "pause", "resume", "drop", "pass", "pass", "job"]
    ),
    subscription=st.integers(0, 3),
    plan=st.sampled_from(sorted(LIMITS)),
    interval=st.none() | st.sampled_from(BillingInterval),
    quantity=st.none() | st.integers(1, 3),
    timing=st.none() | st.sampled_from(ChangeTiming),
    days=st.integers(1, 45),
    resumes_after=st.none() | st.integers(1, 45),
)


@pytest.fixture
async def world(database_without_tenants: str) -> AsyncIterator[UseCases]:
    async with use_cases(database_without_tenants) as running:
        await running.catalogs.apply(CatalogSource(CATALOG))
        yield running


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(sequence=st.lists(calls, min_size=3, max_size=14))
async def test_whatever_is_called_the_invariants_hold(world: UseCases, sequence: list[Call]) -> None:
    account_id = AccountId(f"a{next(_numbers)}")
    await world.accounts.provision(CLUB, account_id)
    over: dict[str, SubscriptionState] = {}

    for call in sequence:
        await make(world, account_id, call)
        await assert_invariants(world, account_id, over)

    # Written down or not, it is the same to callers.
    before = await views(world, account_id)
    await world.due.write_down()
    after = await views(world, account_id)
    assert [replace(view, update_time=DAY) for view in after] == [replace(view, update_time=DAY) for view in before]  # type: ignore[arg-type]
    await assert_invariants(world, account_id, over)
    assert await world.due.write_down() == {}


async def make(world: UseCases, account_id: AccountId, call: Call) -> None:
    """Do it; a refusal is an answer as good as any."""
    if call.name == "pass":
        world.clock.advance(call.days * DAY)
        return
    if call.name == "job":
        await world.due.write_down()
        return
    use, now = world.subscriptions, world.clock.now()
    at = now + call.days * DAY if call.timing is ChangeTiming.AT_TIME else None
    found = await views(world, account_id)
    target: dict[str, Any] = {
        "subscription_id": found[call.subscription % len(found)].subscription.subscription_id,
        "actor": "anna",
    }
    try:
        if call.name == "create":
            end = now + call.resumes_after * DAY if call.resumes_after is not None else None
            wanted = NewSubscription(
                plan_key=PlanKey(call.plan), interval=call.interval if call.plan != "free" else None,
                provider=BillingProvider.MANUAL, end_time=end,
            )  # fmt: skip
            await use.create(CLUB, account_id, wanted, actor="anna")
        elif call.name == "change_plan":
            await use.change_plan(
                CLUB, account_id, plan_key=PlanKey(call.plan), interval=call.interval if call.plan != "free" else None,
                quantity=call.quantity, provider=BillingProvider.MANUAL, timing=call.timing, effective_time=at,
                **target,
            )  # fmt: skip
        elif call.name == "cancel":
            await use.cancel(CLUB, account_id, timing=call.timing, effective_time=at, **target)
        elif call.name == "pause":
            resumes = None if call.resumes_after is None else now + call.resumes_after * DAY
            await use.pause(CLUB, account_id, timing=call.timing, effective_time=at, resume_time=resumes, **target)
        elif call.name == "resume":
            await use.resume(CLUB, account_id, **target)
        else:
            await use.cancel_scheduled_change(CLUB, account_id, **target)
    except REFUSALS:
        pass


async def views(world: UseCases, account_id: AccountId) -> list[SubscriptionView]:
    return list(await world.subscriptions.list(CLUB, account_id=account_id, limit=100))


async def assert_invariants(world: UseCases, account_id: AccountId, over: dict[str, SubscriptionState]) -> None:
    now = world.clock.now()
    found = await views(world, account_id)
    live = [view.subscription for view in found if view.subscription.state in LIVE_STATES]

    # What has ended stays as it ended.
    for view in found:
        state, subscription_id = view.subscription.state, view.subscription.subscription_id
        assert over.get(subscription_id, state) is state
        if state not in LIVE_STATES:
            over[subscription_id] = state
            assert view.scheduled_change is None
            assert view.end_time is not None
            assert view.end_time <= now
        elif view.end_time is not None:
            assert view.end_time > now
        if view.scheduled_change is not None:
            assert view.scheduled_change.effective_time > now
        assert view.current_period_start <= now or state is SubscriptionState.TRIALING
        assert view.current_period_end is None or view.current_period_end > now or state not in LIVE_STATES

    # One live subscription for each price.
    prices = [(each.plan_key, each.interval) for each in live]
    assert len(prices) == len(set(prices))

    # Access is what the windows of states and dates say, of the most generous one.
    open_plans = []
    for each in live:
        window = access_window(each, 14)
        if window is not None and (window.paid_end is None or now < window.paid_end):
            open_plans.append(each.plan_key)
    connection = await connect(world.url, DatabaseRole.APP)
    try:
        (_, document) = (await read_documents(connection, CLUB, [account_id], now))[account_id]
    finally:
        await connection.close()
    resolution = resolve(sources_from_document(CLUB, account_id, document), now)
    words = resolution.entitlements.get("words")
    given_limit = words.limit_quantity if words is not None and words.denied is None else None
    assert given_limit == max((LIMITS[plan] for plan in open_plans), default=None)

    # History is a chain that ends at what is stored.
    steps = await world.subscriptions.history(CLUB, account_id)
    last: dict[str, Any] = {}
    for step in steps:
        assert step.before == last.get(step.subscription_id)
        last[step.subscription_id] = step.after
        assert step.actor
    rows = await world.fetch(
        "SELECT subscription_id, state, plan_key FROM subscriptions WHERE account_id = $1", account_id, tenant_id=CLUB
    )
    assert {row["subscription_id"]: (row["state"], row["plan_key"]) for row in rows} == {
        subscription_id: (after["state"], after["plan_key"]) for subscription_id, after in last.items()
    }
