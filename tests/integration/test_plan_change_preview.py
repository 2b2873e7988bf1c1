"""What a change of plan would mean, told by the whole service, and that it is so afterwards."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator

import pytest

from tallygate_server.catalog import CatalogSource
from tallygate_server.domain.call import Check, Increment
from tallygate_server.domain.catalog import BillingInterval
from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.identifier import AccountId, FeatureKey, PlanKey, TenantId
from tallygate_server.domain.subscription import BillingProvider
from tallygate_server.errors import AccountNotFound, InvalidRequest, PlanNotFound, SubscriptionNotFound
from tallygate_server.service import Service, open_service
from tallygate_server.subscriptions import ChangeTiming, NewSubscription, PlanChangeDirection, SubscriptionView
from tallygate_server.subscriptions.preview import Amount, ExceededLimit
from tests.integration.test_subscription_lifecycle import CATALOG
from tests.support.clock import FrozenClock

CLUB, ANNA = TenantId("club"), AccountId("anna")
FREE, BASIC, PRO = PlanKey("free"), PlanKey("basic"), PlanKey("pro")
MANUAL = BillingProvider.MANUAL


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(dt.datetime(2026, 3, 15, 12, 0, 0, 750_000, tzinfo=dt.UTC))


@pytest.fixture
async def service(fresh_database: str, fresh_redis: str, clock: FrozenClock) -> AsyncIterator[Service]:
    async with open_service(database_url=fresh_database, redis_url=fresh_redis, clock=clock) as running:
        await running.catalogs.apply(CatalogSource(CATALOG))
        await running.accounts.provision(CLUB, ANNA)
        yield running


async def buy(service: Service, plan: PlanKey = PRO, **wanted: object) -> SubscriptionView:
    new = NewSubscription(plan_key=plan, provider=MANUAL, trial_days=0, **wanted)  # type: ignore[arg-type]
    return await service.subscriptions.create(CLUB, ANNA, new)


async def use(service: Service, clock: FrozenClock, feature: str, quantity: int) -> Reason:
    answer = await service.meter.increment(
        Increment(
            tenant_id=CLUB, account_id=ANNA, feature_key=FeatureKey(feature), quantity=quantity,
            event_time=clock.now(),
        )
    )  # fmt: skip
    return answer.reason


async def test_a_downgrade_tells_price_time_and_what_is_too_much(service: Service, clock: FrozenClock) -> None:
    bought = await buy(service, quantity=2)
    target = bought.subscription.subscription_id
    await use(service, clock, "words", 600)
    await use(service, clock, "seats", 4)

    preview = await service.previews.preview(CLUB, ANNA, plan_key=BASIC, subscription_id=target)

    assert preview.direction is PlanChangeDirection.DOWNGRADE
    assert preview.effective_time == bought.current_period_end
    assert preview.present_price == Amount(minor=2_000, currency="USD")
    assert preview.new_price == Amount(minor=1_000, currency="USD")
    assert (preview.due_now, preview.next_invoice, preview.lines) == (None, None, ())
    assert preview.preview_time == clock.now().replace(microsecond=0)
    assert preview.access.lost_feature_keys == ("export",)
    assert preview.access.gained_feature_keys == ()
    seats, words = preview.access.exceeded_limits
    assert seats == ExceededLimit(feature_key="seats", used_quantity=4, limit_quantity=2)
    assert (words.feature_key, words.excess_quantity) == ("words", 100)


async def test_a_downgrade_deletes_nothing_and_denies_more(service: Service, clock: FrozenClock) -> None:
    target = (await buy(service)).subscription.subscription_id
    await use(service, clock, "words", 600)
    await use(service, clock, "seats", 4)

    await service.subscriptions.change_plan(CLUB, ANNA, plan_key=BASIC, subscription_id=target, timing=ChangeTiming.NOW)

    quota = {each.feature_key: each for each in (await service.usage.quota(CLUB, ANNA)).usages}
    assert (quota["words"].used_quantity, quota["words"].limit_quantity) == (600, 500)
    assert (quota["seats"].used_quantity, quota["seats"].limit_quantity) == (4, 2)
    assert await use(service, clock, "words", 1) is Reason.EXHAUSTED
    assert await use(service, clock, "seats", 1) is Reason.EXHAUSTED
    # Giving back goes on.
    assert await use(service, clock, "seats", -1) is Reason.OK
    await service.subscriptions.change_plan(CLUB, ANNA, plan_key=PRO, subscription_id=target)
    assert await use(service, clock, "words", 1) is Reason.OK
    quota = {each.feature_key: each for each in (await service.usage.quota(CLUB, ANNA)).usages}
    assert (quota["words"].used_quantity, quota["seats"].used_quantity) == (601, 3)


async def test_what_another_subscription_gives_is_neither_lost_nor_exceeded(
    service: Service, clock: FrozenClock
) -> None:
    target = (await buy(service)).subscription.subscription_id
    await buy(service, PRO, interval=BillingInterval.YEAR)
    await use(service, clock, "seats", 4)

    preview = await service.previews.preview(CLUB, ANNA, plan_key=FREE, subscription_id=target)

    assert preview.access.lost_feature_keys == ()
    assert preview.access.exceeded_limits == ()


async def test_what_is_lost_altogether_and_in_use_is_too_much(service: Service, clock: FrozenClock) -> None:
    target = (await buy(service)).subscription.subscription_id
    await use(service, clock, "seats", 1)

    preview = await service.previews.preview(CLUB, ANNA, plan_key=FREE, subscription_id=target)

    assert preview.access.lost_feature_keys == ("export", "seats")
    assert preview.access.exceeded_limits == (ExceededLimit(feature_key="seats", used_quantity=1, limit_quantity=0),)
    assert preview.new_price is None


async def test_from_free_it_is_an_upgrade_at_once_and_nobody_need_collect(service: Service, clock: FrozenClock) -> None:
    preview = await service.previews.preview(CLUB, ANNA, plan_key=PRO, quantity=3)

    assert preview.direction is PlanChangeDirection.UPGRADE
    assert preview.effective_time == clock.now()
    assert (preview.present_price, preview.new_price) == (None, Amount(minor=3_000, currency="USD"))
    assert preview.access.gained_feature_keys == ("export", "seats")


async def test_without_a_live_subscription_the_plan_is_a_new_one(service: Service) -> None:
    await service.subscriptions.cancel(CLUB, ANNA)

    preview = await service.previews.preview(CLUB, ANNA, plan_key=BASIC, interval=BillingInterval.YEAR)

    assert preview.direction is PlanChangeDirection.UPGRADE
    assert preview.new_price == Amount(minor=5_000, currency="USD")
    assert preview.access.gained_feature_keys == ("seats", "words")


async def test_a_preview_changes_nothing(service: Service) -> None:
    target = (await buy(service)).subscription.subscription_id
    before = await service.subscriptions.get(CLUB, target)

    await service.previews.preview(CLUB, ANNA, plan_key=BASIC, subscription_id=target)

    assert await service.subscriptions.get(CLUB, target) == before


async def test_what_cannot_be_previewed_is_refused(service: Service, clock: FrozenClock) -> None:
    target = (await buy(service)).subscription.subscription_id
    preview = service.previews.preview

    with pytest.raises(AccountNotFound):
        await preview(CLUB, AccountId("nobody"), plan_key=PRO)
    with pytest.raises(PlanNotFound):
        await preview(CLUB, ANNA, plan_key=PlanKey("gold"), subscription_id=target)
    with pytest.raises(SubscriptionNotFound):
        await preview(CLUB, ANNA, plan_key=PRO, subscription_id="sub_none")
    with pytest.raises(InvalidRequest, match="several live"):
        await preview(CLUB, ANNA, plan_key=BASIC)
    with pytest.raises(InvalidRequest, match="effective_time"):
        await preview(CLUB, ANNA, plan_key=BASIC, subscription_id=target, effective_time=clock.now())
    with pytest.raises(InvalidRequest, match="quantity"):
        await preview(CLUB, ANNA, plan_key=BASIC, subscription_id=target, quantity=0)


async def test_every_server_denies_from_the_instant_of_a_planned_downgrade(
    service: Service, clock: FrozenClock
) -> None:
    bought = await buy(service)
    target, end = bought.subscription.subscription_id, bought.current_period_end
    assert end is not None
    check = Check(CLUB, ANNA, FeatureKey("export"))
    await service.subscriptions.change_plan(CLUB, ANNA, plan_key=BASIC, subscription_id=target)
    assert (await service.checker.check(check)).reason is Reason.OK

    clock.set(end - dt.timedelta(milliseconds=1))
    before = await service.checker.check(check)
    clock.set(end)
    after = await service.checker.check(check)

    # Cached before, asked of nobody since: the cache itself knows the time.
    assert (before.reason, after.reason) == (Reason.OK, Reason.NO_ENTITLEMENT)
