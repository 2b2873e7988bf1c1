"""Buying at the provider happens once, whatever fails in between."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator

import pytest

from tallygate_server.billing.operations import EFFECT_AFTER, RESUME_AFTER
from tallygate_server.domain.subscription import SubscriptionState
from tallygate_server.errors import (
    BillingProviderUnavailable,
    OperationInProgress,
    PaymentRefused,
    RequestIdReused,
    StoreUnavailable,
    SubscriptionExists,
    TallygateError,
)
from tests.support.billing import ANNA, WEBHOOK
from tests.support.clock import FrozenClock
from tests.support.payment_provider import Fault, PaymentProviderInMemory
from tests.support.purchases import PRO, UNLIMITED, YEAR, Purchases, patiently, purchases
from tests.support.use_cases import LEKHAK

ONE_OF_EACH = {"customers": 1, "subscriptions": 1, "sessions": 0, "open_sessions": 0}


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
def provider(clock: FrozenClock) -> PaymentProviderInMemory:
    return PaymentProviderInMemory(clock)


@pytest.fixture
async def shops(
    billing_database: str, provider: PaymentProviderInMemory, clock: FrozenClock
) -> AsyncIterator[list[Purchases]]:
    async with purchases(billing_database, provider, clock=clock, servers=2) as built:
        yield built


@pytest.fixture
def shop(shops: list[Purchases]) -> Purchases:
    return shops[0]


async def _nothing(*_arguments: object) -> None:
    return None


# ---- once


async def test_buying_makes_a_customer_and_a_subscription_there_and_here(
    shop: Purchases, provider: PaymentProviderInMemory
) -> None:
    paid = await shop.buy(request_id="r1", metadata={"campaign": "spring"})

    row = await shop.billing.row()
    assert row.subscription.subscription_id == paid.subscription_id
    assert row.subscription.state is SubscriptionState.ACTIVE
    assert (row.subscription.plan_key, row.subscription.plan_version) == (PRO, 1)
    assert row.metadata == {"campaign": "spring"}
    (there,) = provider.subscriptions.values()
    assert row.provider_subscription_id == there.provider_subscription_id
    (customer,) = provider.customers.values()
    assert (customer.email, customer.name) == ("anna@lekhak.example", "Anna Example")
    assert (await shop.customers.find(LEKHAK, ANNA)).provider_customer_id == customer.customer_id
    (step,) = await shop.billing.history(paid.subscription_id)
    assert (step.action, step.actor, step.reason) == ("create", "support", "asked for it")
    assert paid.revision > 1
    assert (paid.payment_client_secret, paid.hosted_invoice_url) == ("", "")


async def test_what_must_be_paid_first_is_told_and_kept_nowhere(
    shop: Purchases, provider: PaymentProviderInMemory
) -> None:
    provider.needs_payment = True

    paid = await shop.buy(request_id="r1")
    again = await shop.buy(request_id="r1")

    assert paid.payment_client_secret.endswith("secret_local")
    assert paid.hosted_invoice_url
    assert again == paid
    assert (await shop.billing.row()).subscription.state is SubscriptionState.INCOMPLETE
    assert "secret_local" not in str(await shop.operations())


async def test_the_same_request_is_answered_from_what_is_stored(
    shop: Purchases, provider: PaymentProviderInMemory
) -> None:
    first = await shop.buy(request_id="r1")
    provider.calls.clear()

    again = await shop.buy(request_id="r1")

    assert (again.subscription_id, again.revision) == (first.subscription_id, first.revision)
    assert not provider.calls
    assert provider.made() == ONE_OF_EACH


async def test_a_request_id_with_other_content_is_refused(shop: Purchases) -> None:
    await shop.buy(request_id="r1")

    with pytest.raises(RequestIdReused):
        await shop.buy(request_id="r1", quantity=2)
    with pytest.raises(RequestIdReused):
        await shop.buy(UNLIMITED, request_id="r1")


async def test_the_same_price_is_not_sold_twice_but_another_is(
    shop: Purchases, provider: PaymentProviderInMemory
) -> None:
    first = await shop.buy()

    with pytest.raises(SubscriptionExists, match=first.subscription_id):
        await shop.buy()
    await shop.buy(interval=YEAR)

    assert provider.made() == ONE_OF_EACH | {"subscriptions": 2}


# ---- failures of the provider


@pytest.mark.parametrize("request_id", ["r1", ""])
@pytest.mark.parametrize(
    ("method", "fault"),
    [
        (method, fault)
        for method in ("create_customer", "create_subscription")
        for fault in (Fault.BEFORE, Fault.AFTER, Fault.STORED, Fault.STORED_NOTHING)
    ],
)
async def test_a_call_that_failed_is_finished_by_its_retry(
    shop: Purchases, provider: PaymentProviderInMemory, method: str, fault: Fault, request_id: str
) -> None:
    clock = shop.clock
    provider.faults[method] = [fault]

    with pytest.raises(BillingProviderUnavailable):
        await shop.buy(request_id=request_id)
    paid = await patiently(clock, lambda: shop.buy(request_id=request_id))

    assert provider.made() == ONE_OF_EACH
    assert (await shop.billing.row()).subscription.subscription_id == paid.subscription_id
    assert [each["state"] for each in await shop.operations()] == ["done", "done"]


async def test_a_provider_that_is_down_leaves_nothing_half_done(
    shop: Purchases, provider: PaymentProviderInMemory, clock: FrozenClock
) -> None:
    provider.down = True
    for _ in range(3):
        with pytest.raises(BillingProviderUnavailable):
            await shop.buy(request_id="r1")
    assert await shop.billing.rows() == []

    provider.down = False
    await patiently(clock, lambda: shop.buy(request_id="r1"))

    assert provider.made() == ONE_OF_EACH


async def test_a_refusal_is_final_and_gives_the_request_id_free(
    shop: Purchases, provider: PaymentProviderInMemory
) -> None:
    provider.faults["create_subscription"] = [Fault.REFUSED]

    with pytest.raises(PaymentRefused):
        await shop.buy(request_id="r1")
    paid = await shop.buy(request_id="r1", payment_method_id="pm_better")

    assert provider.made() == ONE_OF_EACH
    assert (await shop.billing.row()).subscription.subscription_id == paid.subscription_id
    states = {
        each["state"]: each["result"] for each in await shop.operations() if each["kind"] == "create_subscription"
    }
    assert set(states) == {"failed", "done"}
    assert "card_declined" in str(states["failed"])


# ---- failures of ours


async def test_a_commit_that_fails_after_the_effect_is_made_up_by_the_retry(
    shops: list[Purchases], provider: PaymentProviderInMemory
) -> None:
    first, second = shops
    first.sync.failures = 1

    with pytest.raises(StoreUnavailable):
        await first.buy(request_id="r1")
    assert await first.billing.rows() == []
    paid = await second.buy(request_id="r1")

    assert provider.made() == ONE_OF_EACH
    assert (await second.billing.row()).subscription.subscription_id == paid.subscription_id


async def test_a_webhook_finishes_what_nobody_retries(
    shops: list[Purchases], provider: PaymentProviderInMemory
) -> None:
    first, second = shops
    first.sync.failures = 1
    with pytest.raises(StoreUnavailable):
        await first.buy(request_id="r1")
    (there,) = provider.subscriptions

    applied = await second.billing.sync.refresh(there, WEBHOOK)
    paid = await second.buy(request_id="r1")

    assert applied is not None
    assert applied.subscription_id == paid.subscription_id
    assert len(await first.billing.rows()) == 1
    assert provider.made() == ONE_OF_EACH


async def test_what_a_dead_server_left_is_taken_over_once_it_is_old(
    shops: list[Purchases],
    provider: PaymentProviderInMemory,
    clock: FrozenClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = shops
    await first.customers.ensure(LEKHAK, ANNA, actor="support")
    provider.gates["create_subscription"] = asyncio.Event()
    hanging = asyncio.create_task(first.buy(request_id="r1"))
    await provider.waiting.wait()
    with monkeypatch.context() as patched:
        # It has no time to say that it gave up.
        patched.setattr(first.paid._operations, "_leave_pending", _nothing)
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging
    del provider.gates["create_subscription"]

    with pytest.raises(OperationInProgress):
        await second.buy(request_id="r1")
    clock.advance(RESUME_AFTER)
    await second.buy(request_id="r1")

    assert provider.made() == ONE_OF_EACH


async def test_while_one_works_another_with_the_same_request_waits(
    shops: list[Purchases], provider: PaymentProviderInMemory
) -> None:
    first, second = shops
    await first.buy(UNLIMITED)
    gate = provider.gates["create_subscription"] = asyncio.Event()
    working = asyncio.create_task(first.buy(request_id="r1"))
    await provider.waiting.wait()

    with pytest.raises(OperationInProgress):
        await second.buy(request_id="r1")
    with pytest.raises(OperationInProgress):
        await second.buy()
    gate.set()
    paid = await working

    assert (await second.buy(request_id="r1")).subscription_id == paid.subscription_id
    assert len(provider.subscriptions) == 2


@pytest.mark.parametrize("request_id", ["r1", ""])
async def test_twenty_at_once_buy_once(
    shops: list[Purchases], provider: PaymentProviderInMemory, clock: FrozenClock, request_id: str
) -> None:
    async def one(number: int) -> object:
        try:
            return (await shops[number % 2].buy(request_id=request_id)).subscription_id
        except (OperationInProgress, SubscriptionExists) as error:
            return error

    outcomes = await asyncio.gather(*(one(number) for number in range(20)))
    clock.advance(EFFECT_AFTER)
    while not any(isinstance(each, str) for each in outcomes):
        outcomes = [await one(0)]

    assert provider.made() == ONE_OF_EACH
    row = await shops[0].billing.row()
    assert {each for each in outcomes if isinstance(each, str)} == {row.subscription.subscription_id}


# ---- something else is asked meanwhile


async def test_something_else_waits_until_the_first_can_have_no_effect_any_more(
    shop: Purchases, provider: PaymentProviderInMemory, clock: FrozenClock
) -> None:
    provider.faults["create_subscription"] = [Fault.BEFORE]
    with pytest.raises(BillingProviderUnavailable):
        await shop.buy(request_id="r1")

    with pytest.raises(OperationInProgress):
        await shop.buy(request_id="r2", quantity=3)
    clock.advance(EFFECT_AFTER)
    await shop.buy(request_id="r2", quantity=3)

    assert provider.made() == ONE_OF_EACH
    assert (await shop.billing.row()).subscription.quantity == 3
    # The first may be asked for once more: it was given up, and what there is stands in its way.
    with pytest.raises(SubscriptionExists):
        await shop.buy(request_id="r1")


@pytest.mark.parametrize("fault", [Fault.AFTER, Fault.STORED])
async def test_what_had_an_effect_is_not_lost_when_something_else_is_asked(
    shop: Purchases, provider: PaymentProviderInMemory, clock: FrozenClock, fault: Fault
) -> None:
    provider.faults["create_subscription"] = [fault]
    with pytest.raises(BillingProviderUnavailable):
        await shop.buy(request_id="r1")
    clock.advance(EFFECT_AFTER)

    with pytest.raises(SubscriptionExists):
        await shop.buy(request_id="r2", quantity=3)

    assert provider.made() == ONE_OF_EACH
    row = await shop.billing.row()
    assert row.subscription.quantity == 1
    assert (await shop.buy(request_id="r1")).subscription_id == row.subscription.subscription_id


async def test_an_old_operation_is_begun_anew_with_what_is_sold_now(
    shop: Purchases, provider: PaymentProviderInMemory, clock: FrozenClock
) -> None:
    provider.faults["create_subscription"] = [Fault.BEFORE]
    with pytest.raises(BillingProviderUnavailable):
        await shop.buy(request_id="r1")
    clock.advance(dt.timedelta(hours=2))

    await shop.buy(request_id="r1")

    assert provider.made() == ONE_OF_EACH
    states = [each["state"] for each in await shop.operations() if each["kind"] == "create_subscription"]
    assert states == ["failed", "done"]


async def test_a_defect_of_ours_leaves_the_operation_to_be_finished(
    shop: Purchases, provider: PaymentProviderInMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = provider.create_subscription

    async def broken(*arguments: object, **terms: object) -> object:
        await real(*arguments, **terms)  # type: ignore[arg-type]
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(provider, "create_subscription", broken)
        with pytest.raises(ZeroDivisionError):
            await shop.buy(request_id="r1")
    await shop.buy(request_id="r1")

    assert provider.made() == ONE_OF_EACH


# ---- customers


async def test_a_customer_deleted_at_the_provider_is_replaced_at_the_next_purchase(
    shop: Purchases, provider: PaymentProviderInMemory
) -> None:
    first = await shop.customers.ensure(LEKHAK, ANNA, actor="support")
    provider.delete_customer(first.provider_customer_id)

    await shop.buy()

    (there,) = provider.subscriptions.values()
    second = await shop.customers.find(LEKHAK, ANNA)
    assert there.customer_id == second.provider_customer_id != first.provider_customer_id
    rows = await shop.billing.world.fetch("SELECT deleted FROM customers ORDER BY create_time, deleted DESC")
    assert [row["deleted"] for row in rows] == [True, False]


async def test_purchases_of_different_plans_at_once_share_one_customer(
    shops: list[Purchases], provider: PaymentProviderInMemory
) -> None:
    async def buy(number: int) -> object:
        try:
            return await shops[number % 2].buy(PRO if number % 2 else UNLIMITED)
        except TallygateError as error:
            return error

    await asyncio.gather(*(buy(number) for number in range(8)))

    assert provider.made()["customers"] == 1
    assert len(provider.customers) == 1
