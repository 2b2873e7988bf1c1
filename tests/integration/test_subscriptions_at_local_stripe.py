"""What the use cases ask of Stripe, with the real library against a local Stripe, through the whole service."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator

import pytest

from tallygate_server.billing.assembly import StripeOptions
from tallygate_server.catalog import CatalogSource
from tallygate_server.domain.call import Check
from tallygate_server.domain.identifier import AccountId, FeatureKey, PlanKey, TenantId
from tallygate_server.domain.subscription import BillingProvider, ScheduledChangeKind, SubscriptionState
from tallygate_server.errors import IllegalTransition, SubscriptionExists
from tallygate_server.service import Service, open_service
from tallygate_server.subscriptions import ChangeTiming, NewSubscription, SubscriptionView
from tests.integration.test_subscription_lifecycle import CATALOG
from tests.support.clock import FrozenClock
from tests.support.local_stripe import LocalStripe, local_stripe

CLUB, ANNA = TenantId("club"), AccountId("anna")
FREE, BASIC, PRO = PlanKey("free"), PlanKey("basic"), PlanKey("pro")
STATE = SubscriptionState
CARD = "pm_card_visa"


@pytest.fixture(scope="module")
async def stripe_process() -> AsyncIterator[LocalStripe]:
    async with local_stripe() as started:
        yield started


@pytest.fixture
async def clock(stripe_process: LocalStripe) -> FrozenClock:
    await stripe_process.reset()
    return FrozenClock(dt.datetime.fromtimestamp(await stripe_process.now(), dt.UTC))


@pytest.fixture
async def service(
    fresh_database: str, fresh_redis: str, clock: FrozenClock, stripe_process: LocalStripe
) -> AsyncIterator[Service]:
    options = StripeOptions(api_key="sk_test_local", api_base=stripe_process.url, retries_max=0)
    async with open_service(database_url=fresh_database, redis_url=fresh_redis, clock=clock, stripe=options) as running:
        await running.catalogs.apply(CatalogSource(CATALOG))
        await running.accounts.provision(CLUB, ANNA)
        yield running


async def buy(service: Service, plan: PlanKey, *, request_id: str = "") -> SubscriptionView:
    wanted = NewSubscription(plan_key=plan, payment_method_id=CARD, trial_days=0)
    return await service.subscriptions.create(CLUB, ANNA, wanted, request_id=request_id, actor="shop")


async def words(service: Service) -> int:
    return (await service.checker.check(Check(CLUB, ANNA, FeatureKey("words")))).limit_quantity


async def test_from_free_to_paid_up_down_and_out(service: Service) -> None:
    use = service.subscriptions

    bought = await use.change_plan(CLUB, ANNA, plan_key=BASIC, payment_method_id=CARD, request_id="buy")
    again = await use.change_plan(CLUB, ANNA, plan_key=BASIC, payment_method_id=CARD, request_id="buy")
    target = bought.subscription.subscription_id

    assert bought.subscription.provider is BillingProvider.STRIPE
    assert bought.subscription.state is STATE.ACTIVE
    assert (again.replayed, again.subscription) == (True, bought.subscription)
    assert await words(service) == 500
    with pytest.raises(SubscriptionExists):
        await buy(service, BASIC)

    preview = await service.previews.preview(CLUB, ANNA, plan_key=PRO, subscription_id=target, quantity=2)
    assert preview.due_now is not None
    assert preview.due_now.minor > 0
    assert preview.lines
    upgraded = await use.change_plan(
        CLUB, ANNA, plan_key=PRO, quantity=2, subscription_id=target, preview_time=preview.preview_time
    )
    assert (upgraded.subscription.plan_key, upgraded.subscription.quantity) == (PRO, 2)
    assert upgraded.current_period_end == bought.current_period_end
    assert await words(service) == 1000

    planned = await use.change_plan(CLUB, ANNA, plan_key=BASIC, subscription_id=target)
    assert planned.scheduled_change is not None
    assert planned.scheduled_change.kind is ScheduledChangeKind.PLAN
    assert planned.scheduled_change.plan_key == BASIC
    assert planned.scheduled_change.effective_time == planned.current_period_end
    assert planned.scheduled_change.provider_schedule_id.startswith("sub_sched_")
    taken_back = await use.cancel_scheduled_change(CLUB, ANNA, subscription_id=target)
    assert (taken_back.scheduled_change, taken_back.subscription.plan_key) == (None, PRO)

    to_free = await use.change_plan(CLUB, ANNA, plan_key=FREE, subscription_id=target)
    assert to_free.ends_with_period
    kept = await use.resume(CLUB, ANNA)
    assert (kept.end_time, kept.subscription.state) == (None, STATE.ACTIVE)

    ended = await use.cancel(CLUB, ANNA, subscription_id=target, timing=ChangeTiming.NOW, reason="enough")
    assert ended.subscription.state is STATE.CANCELED
    assert await words(service) == 10
    with pytest.raises(IllegalTransition):
        await use.resume(CLUB, ANNA, subscription_id=target)
    steps = await use.list_changes(CLUB, ANNA, subscription_id=target, limit=20)
    causes = [step.cause for step in reversed(steps)]
    assert causes[0] == "create"
    assert causes[-1] == "cancel"
    assert {"change_plan", "cancel_scheduled_change", "resume"} <= set(causes)


async def test_a_pause_for_later_and_its_end_are_asked_for_when_they_are_due(
    service: Service, clock: FrozenClock, stripe_process: LocalStripe
) -> None:
    use = service.subscriptions
    target = (await buy(service, PRO)).subscription.subscription_id
    begin, end = clock.now() + dt.timedelta(days=3), clock.now() + dt.timedelta(days=5)

    planned = await use.pause(
        CLUB, ANNA, subscription_id=target, timing=ChangeTiming.AT_TIME, effective_time=begin, resume_time=end
    )
    assert planned.subscription.state is STATE.ACTIVE
    assert planned.scheduled_change is not None
    clock.set(begin)
    await stripe_process.advance_to(int(begin.timestamp()))
    assert await service.due_subscriptions.write_down() == {"steps": 1}

    paused = await use.get(CLUB, target)
    assert paused.subscription.state is STATE.PAUSED
    assert paused.scheduled_change is not None
    assert (paused.scheduled_change.kind, paused.scheduled_change.effective_time) == (
        ScheduledChangeKind.RESUMPTION,
        end,
    )
    assert await words(service) == 10
    assert await service.due_subscriptions.write_down() == {}

    clock.set(end)
    await stripe_process.advance_to(int(end.timestamp()))
    assert await service.due_subscriptions.write_down() == {"steps": 1}
    resumed = await use.get(CLUB, target)
    assert (resumed.subscription.state, resumed.scheduled_change) == (STATE.ACTIVE, None)
    assert await words(service) == 1000
    assert await service.due_subscriptions.write_down() == {}
