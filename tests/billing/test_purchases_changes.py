"""Changes of what was bought happen once, and the row follows the provider, whatever fails in between."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tallygate_server.billing.operations import EFFECT_AFTER
from tallygate_server.domain.identifier import PlanKey
from tallygate_server.domain.subscription import ScheduledChange, ScheduledChangeKind, SubscriptionState
from tallygate_server.errors import (
    BillingProviderUnavailable,
    IllegalTransition,
    OperationInProgress,
    PaymentRefused,
    StoreUnavailable,
    SubscriptionExists,
)
from tallygate_server.storage.scheduled_changes import add_pending
from tests.support.billing import ANNA, WEBHOOK
from tests.support.clock import FrozenClock
from tests.support.payment_provider import Fault, PaymentProviderInMemory
from tests.support.purchases import FREE, MONTH, PRO, UNLIMITED, YEAR, Purchases, order, patiently, purchases
from tests.support.use_cases import LEKHAK

DAY = dt.timedelta(days=1)


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
def provider(clock: FrozenClock) -> PaymentProviderInMemory:
    return PaymentProviderInMemory(clock)


@pytest.fixture
async def shop(
    billing_database: str, provider: PaymentProviderInMemory, clock: FrozenClock
) -> AsyncIterator[Purchases]:
    async with purchases(billing_database, provider, clock=clock) as (built,):
        await built.buy()
        yield built


async def change_now(shop: Purchases, plan_key: PlanKey = UNLIMITED, *, request_id: str = "", **more: Any) -> Any:
    terms: dict[str, Any] = {"quantity": 1, "payment_method_id": "", "preview_time": None} | more
    interval = terms.pop("interval", MONTH)
    return await shop.paid.change_now(
        order(request_id, "change_now", plan_key, interval, sorted(terms.items(), key=str)),
        await shop.billing.row(),
        plan=await shop.plan(plan_key),
        price=await shop.price(plan_key, interval),
        **terms,
    )


async def change_later(shop: Purchases, plan_key: PlanKey = PRO, **more: Any) -> Any:
    terms: dict[str, Any] = {"quantity": 3, "effective_time": None} | more
    return await shop.paid.change_later(
        order("", "change_later", plan_key, sorted(terms.items(), key=str)),
        await shop.billing.row(),
        plan=await shop.plan(plan_key),
        price=None if plan_key == FREE else await shop.price(plan_key),
        **terms,
    )


async def cancel(shop: Purchases, *, now: bool = False, at: dt.datetime | None = None) -> Any:
    return await shop.paid.cancel(order("", "cancel", now, at), await shop.billing.row(), now=now, at=at)


async def pause(shop: Purchases, resume_time: dt.datetime | None = None) -> Any:
    return await shop.paid.pause(order("", "pause", resume_time), await shop.billing.row(), resume_time=resume_time)


async def resume(shop: Purchases) -> Any:
    return await shop.paid.resume(order("", "resume"), await shop.billing.row())


async def drop(shop: Purchases) -> Any:
    return await shop.paid.drop_scheduled_change(order("", "drop"), await shop.billing.row())


async def pending(shop: Purchases) -> dict[str, Any]:
    found = await shop.billing.world.fetch("SELECT * FROM scheduled_changes WHERE state = 'pending'")
    return found[0] if found else {}


# ---- each change, and what is left of it when it fails


async def test_an_upgrade_answers_with_what_is_stored(shop: Purchases) -> None:
    paid = await change_now(shop, request_id="r1")

    row = await shop.billing.row()
    assert (row.subscription.plan_key, row.subscription.subscription_id) == (UNLIMITED, paid.subscription_id)
    step = (await shop.billing.history(paid.subscription_id))[-1]
    assert (step.action, step.actor, step.reason) == ("change_plan", "support", "asked for it")
    assert step.revision == paid.revision


Change = Callable[[Purchases], Awaitable[Any]]
CHANGES: list[tuple[str, Change, Change | None]] = [
    ("change_subscription", change_now, None),
    ("schedule_change", change_later, None),
    ("release_schedule", drop, change_later),
    ("keep", drop, cancel),
    ("cancel_at", cancel, None),
    ("cancel_now", lambda shop: cancel(shop, now=True), None),
    ("pause", pause, None),
    ("resume", resume, pause),
    ("keep", resume, cancel),
    ("cancel_at", lambda shop: change_later(shop, FREE), None),
]


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.STORED, Fault.STORED_NOTHING])
@pytest.mark.parametrize("case", CHANGES, ids=[f"{number}_{each[0]}" for number, each in enumerate(CHANGES)])
async def test_a_change_that_failed_is_finished_by_its_retry(
    shop: Purchases,
    provider: PaymentProviderInMemory,
    case: tuple[str, Change, Change | None],
    fault: Fault,
) -> None:
    method, change, first = case
    if first is not None:
        await first(shop)
    provider.faults[method] = [fault]

    with pytest.raises(BillingProviderUnavailable):
        await change(shop)
    await patiently(shop.clock, lambda: change(shop))

    (there,) = provider.subscriptions.values()
    row = await shop.billing.row()
    assert row.subscription.state is there.state
    assert row.provider_price_id == there.price.price_id
    assert row.subscription.cancel_at_period_end is (there.cancel_time is not None or there.cancel_at_period_end)
    assert bool(await pending(shop)) is (there.schedule is not None)
    assert len(provider.schedules) <= 1


@pytest.mark.parametrize("change", [change_now, change_later, cancel, pause])
async def test_a_commit_that_failed_is_made_up_by_the_retry(
    shop: Purchases, provider: PaymentProviderInMemory, change: Change
) -> None:
    shop.sync.failures = 1
    with pytest.raises(StoreUnavailable):
        await change(shop)
    calls = provider.calls.total()

    await change(shop)

    # It was found done: nothing was asked of the provider a second time.
    assert provider.calls.total() == calls
    assert [each["state"] for each in await shop.operations()] == ["done"] * 3


async def test_a_repeated_request_needs_no_provider(shop: Purchases, provider: PaymentProviderInMemory) -> None:
    bought = await shop.buy(UNLIMITED, YEAR, request_id="r1")
    provider.down = True

    assert await shop.buy(UNLIMITED, YEAR, request_id="r1") == bought


async def test_something_else_waits_for_a_change_that_may_still_have_its_effect(
    shop: Purchases, provider: PaymentProviderInMemory, clock: FrozenClock
) -> None:
    provider.faults["change_subscription"] = [Fault.AFTER]
    with pytest.raises(BillingProviderUnavailable):
        await change_now(shop)

    with pytest.raises(OperationInProgress):
        await change_now(shop, quantity=5)
    clock.advance(EFFECT_AFTER)
    await change_now(shop, quantity=5)

    row = await shop.billing.row()
    assert (row.subscription.plan_key, row.subscription.quantity) == (UNLIMITED, 5)
    assert {each["state"] for each in await shop.operations()} == {"done"}


async def test_a_refused_change_leaves_the_subscription(shop: Purchases, provider: PaymentProviderInMemory) -> None:
    before = await shop.billing.row()
    provider.faults["change_subscription"] = [Fault.REFUSED]

    with pytest.raises(PaymentRefused):
        await change_now(shop)

    assert (await shop.billing.row()).subscription == before.subscription


async def test_what_has_ended_there_is_found_out_and_refused(
    shop: Purchases, provider: PaymentProviderInMemory, clock: FrozenClock
) -> None:
    (there,) = provider.subscriptions
    provider.change(there, state=SubscriptionState.CANCELED, end_time=clock.now())

    with pytest.raises(IllegalTransition):
        await change_now(shop)

    assert (await shop.billing.row()).subscription.state is SubscriptionState.CANCELED


async def test_what_stripe_does_not_know_is_refused(shop: Purchases, provider: PaymentProviderInMemory) -> None:
    provider.subscriptions.clear()

    with pytest.raises(PaymentRefused) as caught:
        await cancel(shop)
    assert caught.value.facts["provider_code"] == "resource_missing"


async def test_a_move_to_what_another_subscription_has_is_refused(shop: Purchases) -> None:
    first = await shop.billing.row()
    await shop.buy(UNLIMITED)

    with pytest.raises(SubscriptionExists):
        await shop.paid.change_now(
            order("", "change_now"),
            first,
            plan=await shop.plan(UNLIMITED),
            price=await shop.price(UNLIMITED),
            quantity=1,
            payment_method_id="",
            preview_time=None,
        )


# ---- what is planned


async def test_an_upgrade_drops_what_was_planned(shop: Purchases) -> None:
    await change_later(shop)
    assert (await pending(shop))["quantity"] == 3

    await change_now(shop)

    assert await pending(shop) == {}


async def test_another_plan_replaces_the_planned_one(shop: Purchases, provider: PaymentProviderInMemory) -> None:
    await change_later(shop)
    await change_later(shop, quantity=7)

    assert (await pending(shop))["quantity"] == 7
    (there,) = provider.subscriptions.values()
    assert there.schedule is not None
    assert there.schedule.phases[-1].quantity == 7


async def test_a_plan_takes_the_place_of_an_end(shop: Purchases) -> None:
    await cancel(shop)
    await change_later(shop)

    assert (await pending(shop))["quantity"] == 3
    assert not (await shop.billing.row()).subscription.cancel_at_period_end


async def test_the_end_of_a_pause_is_kept_though_the_provider_does_not_know_it(
    shop: Purchases, provider: PaymentProviderInMemory, clock: FrozenClock
) -> None:
    end = clock.now() + 7 * DAY
    paid = await pause(shop, end)
    (there,) = provider.subscriptions

    await shop.billing.sync.refresh(there, WEBHOOK)
    row = await shop.billing.row()
    assert (row.subscription.state, row.subscription.resume_time) == (SubscriptionState.PAUSED, end)
    assert (await shop.billing.history(paid.subscription_id))[-1].revision == paid.revision

    await resume(shop)
    assert (await shop.billing.row()).subscription.resume_time is None


async def test_a_pause_that_was_planned_here_is_dropped_by_an_end(shop: Purchases, clock: FrozenClock) -> None:
    row = await shop.billing.row()
    planned = ScheduledChange(
        scheduled_change_id="chg_1",
        subscription_id=row.subscription.subscription_id,
        kind=ScheduledChangeKind.PAUSE,
        effective_time=clock.now() + 3 * DAY,
        create_time=clock.now(),
    )
    async with shop.billing.world.database.tenant_transaction(LEKHAK) as connection:
        await add_pending(connection, LEKHAK, ANNA, planned)

    await cancel(shop)

    assert await pending(shop) == {}
