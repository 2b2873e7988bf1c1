"""Purchases with the real client against the local Stripe, which fails as it is told: everything happens once."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tallygate_server.billing.checkout_pages import CheckoutPages
from tallygate_server.billing.provider import SUBSCRIPTION_ATTRIBUTE, CustomerDetails
from tallygate_server.billing.stripe_gateway import StripeGateway
from tallygate_server.domain.catalog import BillingInterval
from tallygate_server.domain.identifier import PlanKey
from tallygate_server.domain.subscription import SubscriptionState
from tallygate_server.errors import (
    OperationInProgress,
    PaymentRefused,
    StoreUnavailable,
    SubscriptionExists,
)
from tests.support.billing import ANNA, WEBHOOK
from tests.support.clock import FrozenClock
from tests.support.local_stripe import LocalStripe, local_stripe
from tests.support.purchases import (
    BACK,
    MONTH,
    PRO,
    UNLIMITED,
    YEAR,
    Purchases,
    impatiently,
    order,
    patiently,
    purchases,
)
from tests.support.use_cases import LEKHAK

VISA = "pm_card_visa"
CUSTOMERS, SUBSCRIPTIONS, PAGES = "POST /v1/customers", "POST /v1/subscriptions", "POST /v1/checkout/sessions"
ANSWER_MS = 2_000
"""How long the gateway waits for an answer here; a healthy one takes milliseconds, and a slow one is made up for."""


@pytest.fixture(scope="module")
async def stripe_process() -> AsyncIterator[LocalStripe]:
    async with local_stripe() as started:
        yield started


@pytest.fixture
async def local(stripe_process: LocalStripe) -> LocalStripe:
    await stripe_process.reset()
    return stripe_process


@pytest.fixture
async def clock(local: LocalStripe) -> FrozenClock:
    return FrozenClock(dt.datetime.fromtimestamp(await local.now(), dt.UTC))


@pytest.fixture
async def gateway(local: LocalStripe, clock: FrozenClock) -> AsyncIterator[StripeGateway]:
    opened = a_gateway(local.url, clock)
    yield opened
    await opened.close()


@pytest.fixture
async def shops(billing_database: str, gateway: StripeGateway, clock: FrozenClock) -> AsyncIterator[list[Purchases]]:
    async with purchases(billing_database, gateway, clock=clock, servers=2) as built:
        yield built


@pytest.fixture
def shop(shops: list[Purchases]) -> Purchases:
    return shops[0]


def a_gateway(url: str, clock: FrozenClock, **bounds: Any) -> StripeGateway:
    """Connect to a local Stripe, without patience of its own: the retries are what is tested."""
    limits: dict[str, Any] = {
        "timeout_ms": ANSWER_MS,
        "call_timeout_ms": 30_000,
        "retries_max": 0,
        "breaker_failures_max": 1_000,
    }
    return StripeGateway(api_key="sk_test_local", api_base=url, clock=clock, **(limits | bounds))


async def retrying(clock: FrozenClock, fault: dict[str, Any], call: Callable[[], Awaitable[Any]]) -> Any:
    """Retry as a good client does; what is only slow goes on meanwhile, in time that no test can move."""
    return await (impatiently(call) if "slow_ms" in fault else patiently(clock, call))


async def made(local: LocalStripe) -> dict[str, int]:
    """Return how many of each thing there are at the local Stripe."""
    counts = await local.counts()
    return {name: counts.get(name, 0) for name in ("customer", "subscription", "checkout.session")}


# ---- once


FAULTS: list[dict[str, Any]] = [
    {"kind": "error_500"},
    {"kind": "error_500", "saved": True},
    {"kind": "rate_limit_429"},
    {"kind": "cut_before"},
    {"kind": "cut_after"},
    {"kind": "timeout_before"},
    {"kind": "timeout_after"},
    {"kind": "error_after"},
    {"kind": "slow_ms", "slow_ms": ANSWER_MS + 500},
    {"kind": "error_500", "count": 3},
]
NAMES = ["_".join(str(value) for value in each.values()) for each in FAULTS]
LOSSES = [{"kind": "error_500", "saved": True}, {"kind": "cut_before"}, {"kind": "cut_after"}, {"kind": "error_after"}]
LOSS_NAMES = ["_".join(str(value) for value in each.values()) for each in LOSSES]


@pytest.mark.parametrize("fault", FAULTS, ids=NAMES)
@pytest.mark.parametrize("on", [CUSTOMERS, SUBSCRIPTIONS])
async def test_a_subscription_is_bought_once(
    shop: Purchases, local: LocalStripe, clock: FrozenClock, on: str, fault: dict[str, Any]
) -> None:
    await local.fault(on, **fault)

    paid = await retrying(clock, fault, lambda: shop.buy(request_id="r1", payment_method_id=VISA))

    assert await made(local) == {"customer": 1, "subscription": 1, "checkout.session": 0}
    row = await shop.billing.row()
    assert row.subscription.subscription_id == paid.subscription_id
    assert row.subscription.state is SubscriptionState.ACTIVE
    assert row.metadata == {}


@pytest.mark.parametrize("fault", FAULTS, ids=NAMES)
async def test_a_page_is_opened_once(
    shop: Purchases, local: LocalStripe, clock: FrozenClock, fault: dict[str, Any]
) -> None:
    await local.fault(PAGES, **fault)

    page = await retrying(clock, fault, shop.page)
    again = await shop.page()

    assert await made(local) == {"customer": 1, "subscription": 0, "checkout.session": 1}
    assert again.url == page.url
    assert again.reused


@pytest.mark.parametrize("kind", ["cut_after", "error_after"])
async def test_something_else_asked_after_a_lost_answer_doubles_nothing(
    shop: Purchases, local: LocalStripe, clock: FrozenClock, kind: str
) -> None:
    await shop.customers.ensure(LEKHAK, ANNA, actor="shop")
    await local.fault(SUBSCRIPTIONS, kind)
    # The gateway finds what a stored failure has made at once.
    outcome = await _outcome(lambda: shop.buy(payment_method_id=VISA))

    with pytest.raises(SubscriptionExists):
        await patiently(clock, lambda: shop.buy(payment_method_id=VISA, quantity=2))

    assert await made(local) == {"customer": 1, "subscription": 1, "checkout.session": 0}
    assert (await shop.billing.row()).subscription.quantity == 1
    assert outcome is not None


async def _outcome(call: Callable[[], Awaitable[object]]) -> object:
    try:
        return await call()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at afterwards
        return error


async def test_a_server_that_dies_after_the_effect_is_made_up_for_by_another(
    shops: list[Purchases], local: LocalStripe
) -> None:
    first, second = shops
    first.sync.failures = 1
    with pytest.raises(StoreUnavailable):
        await first.buy(request_id="r1", payment_method_id=VISA)

    paid = await second.buy(request_id="r1", payment_method_id=VISA)

    assert await made(local) == {"customer": 1, "subscription": 1, "checkout.session": 0}
    assert (await second.billing.row()).subscription.subscription_id == paid.subscription_id


@pytest.mark.parametrize("request_id", ["r1", ""])
async def test_twenty_at_once_buy_once(shops: list[Purchases], local: LocalStripe, request_id: str) -> None:
    async def one(number: int) -> object:
        for _ in range(200):
            try:
                return (await shops[number % 2].buy(request_id=request_id, payment_method_id=VISA)).subscription_id
            except OperationInProgress:
                await asyncio.sleep(0.05)
            except SubscriptionExists as error:
                return error.facts["subscription_id"]
        raise AssertionError

    outcomes = await asyncio.gather(*(one(number) for number in range(20)))

    assert await made(local) == {"customer": 1, "subscription": 1, "checkout.session": 0}
    assert set(outcomes) == {(await shops[0].billing.row()).subscription.subscription_id}


async def test_twenty_pages_at_once_are_one(shops: list[Purchases], local: LocalStripe) -> None:
    async def one(number: int) -> str:
        for _ in range(200):
            try:
                return (await shops[number % 2].page()).url
            except OperationInProgress:
                await asyncio.sleep(0.05)
        raise AssertionError

    assert len(set(await asyncio.gather(*(one(number) for number in range(20))))) == 1
    assert await made(local) == {"customer": 1, "subscription": 0, "checkout.session": 1}


# ---- buying


async def test_a_declined_card_leaves_nothing_behind(shop: Purchases, local: LocalStripe) -> None:
    with pytest.raises(PaymentRefused) as caught:
        await shop.buy(request_id="r1", payment_method_id="pm_card_chargeDeclined")
    assert caught.value.facts["provider_code"]

    await shop.buy(request_id="r1", payment_method_id=VISA)

    (row,) = [each for each in await shop.billing.rows() if each.subscription.state is SubscriptionState.ACTIVE]
    assert row.subscription.plan_key == PRO
    assert (await local.counts())["customer"] == 1


async def test_without_a_card_the_first_payment_is_left_to_the_browser(shop: Purchases) -> None:
    paid = await shop.buy(request_id="r1")
    again = await shop.buy(request_id="r1")

    assert (await shop.billing.row()).subscription.state is SubscriptionState.INCOMPLETE
    assert paid.payment_client_secret
    assert again.payment_client_secret == paid.payment_client_secret
    assert paid.payment_client_secret not in str(await shop.operations())


async def test_a_page_that_is_paid_becomes_the_subscription_that_was_named_on_it(
    shop: Purchases, local: LocalStripe, gateway: StripeGateway
) -> None:
    page = await shop.page(quantity=2)
    await local.complete_checkout(page.provider_session_id)
    session = await gateway.checkout_session(page.provider_session_id)
    assert session is not None

    with pytest.raises(SubscriptionExists):
        await shop.page()
    applied = await shop.billing.sync.refresh(session.provider_subscription_id, WEBHOOK)

    assert applied is not None
    assert applied.subscription_id == session.metadata[SUBSCRIPTION_ATTRIBUTE]
    row = await shop.billing.row()
    assert (row.subscription.state, row.subscription.quantity) == (SubscriptionState.ACTIVE, 2)


async def test_a_page_with_other_content_replaces_the_open_one(shop: Purchases, gateway: StripeGateway) -> None:
    first = await shop.page()
    second = await shop.page(interval=YEAR)

    closed = await gateway.checkout_session(first.provider_session_id)
    assert closed is not None
    assert closed.state == "expired"
    assert second.url != first.url
    customer = await shop.customers.find(LEKHAK, ANNA)
    (only,) = await gateway.open_checkout_sessions(customer.provider_customer_id)
    assert only.session_id == second.provider_session_id


async def test_a_lost_customer_is_found(shop: Purchases, gateway: StripeGateway, clock: FrozenClock) -> None:
    created = await gateway.create_customer(LEKHAK, ANNA, CustomerDetails(email="a@b.example"), operation_id="op_1")

    found = await gateway.find_customer(LEKHAK, ANNA, created_since=clock.now() - dt.timedelta(minutes=5))

    assert found is not None
    assert found.customer_id == created.customer_id
    assert await gateway.find_customer(LEKHAK, ANNA, created_since=clock.now() + dt.timedelta(days=1)) is None


async def test_a_customer_is_changed_there_and_here(shop: Purchases, gateway: StripeGateway) -> None:
    details = CustomerDetails(
        email="billing@lekhak.example",
        name="Anna & Co",
        tax_ids=(("eu_vat", "ATU12345678"),),
        default_payment_method_id=VISA,
        metadata={"crm": "17"},
    )

    row = await shop.customers.update(LEKHAK, ANNA, details, request_id="r1", actor="shop")

    there = await gateway.customer(row.provider_customer_id)
    assert there is not None
    assert (there.email, there.name, there.tax_ids) == (row.email, row.name, row.tax_ids)
    assert row.default_payment_method_id.startswith("pm_")
    assert dict(row.metadata) == {"crm": "17"}
    assert (await shop.checkout.open_portal(LEKHAK, ANNA, return_url=BACK)).startswith("http")


# ---- changing


@pytest.fixture
async def bought(shop: Purchases) -> Purchases:
    await shop.buy(payment_method_id=VISA)
    return shop


async def test_an_upgrade_is_made_at_once_and_billed(bought: Purchases, local: LocalStripe) -> None:
    row = await bought.billing.row()
    paid = await _change_now(bought, UNLIMITED)

    after = await bought.billing.row()
    assert after.subscription.plan_key == UNLIMITED
    assert after.subscription.subscription_id == row.subscription.subscription_id == paid.subscription_id
    assert (await local.counts())["subscription"] == 1
    steps = await bought.billing.history(paid.subscription_id)
    assert [step.action for step in steps] == ["create", "change_plan"]


@pytest.mark.parametrize("fault", LOSSES, ids=LOSS_NAMES)
async def test_an_upgrade_is_billed_once(
    bought: Purchases, local: LocalStripe, clock: FrozenClock, fault: dict[str, Any]
) -> None:
    row = await bought.billing.row()
    bills = (await local.counts())["invoice"]
    await local.fault(f"{SUBSCRIPTIONS}/{row.provider_subscription_id}", **fault)

    await retrying(clock, fault, lambda: _change_now(bought, UNLIMITED))

    assert (await bought.billing.row()).subscription.plan_key == UNLIMITED
    assert (await local.counts())["invoice"] == bills + 1


async def test_a_downgrade_is_planned_seen_and_taken_back(bought: Purchases) -> None:
    await _change_now(bought, UNLIMITED)
    row = await bought.billing.row()

    await _change_later(bought, PRO)
    planned = await _pending(bought)
    assert planned["plan_key"] == PRO
    assert planned["effective_time"] == row.subscription.period_end_time
    assert planned["provider_schedule_id"].startswith("sub_sched_")
    assert (await bought.billing.row()).subscription.plan_key == UNLIMITED

    await bought.paid.drop_scheduled_change(order("", "drop"), await bought.billing.row())
    assert await _pending(bought) == {}


@pytest.mark.parametrize("on", ["POST /v1/subscription_schedules", "POST /v1/subscription_schedules/*"])
@pytest.mark.parametrize("fault", LOSSES, ids=LOSS_NAMES)
async def test_a_downgrade_is_planned_once(
    bought: Purchases, local: LocalStripe, clock: FrozenClock, on: str, fault: dict[str, Any]
) -> None:
    await _change_now(bought, UNLIMITED)
    await local.fault(on, **fault)

    await retrying(clock, fault, lambda: _change_later(bought, PRO))

    assert (await _pending(bought))["plan_key"] == PRO
    assert (await local.counts())["subscription_schedule"] == 1


async def test_an_upgrade_drops_a_planned_downgrade(bought: Purchases) -> None:
    await _change_later(bought, PRO, quantity=3)
    assert (await _pending(bought))["quantity"] == 3

    await _change_now(bought, UNLIMITED)

    assert await _pending(bought) == {}
    assert (await bought.billing.row()).subscription.plan_key == UNLIMITED


async def test_cancellation_waits_for_the_period_and_can_be_taken_back(bought: Purchases) -> None:
    await _change_later(bought, PRO, quantity=3)
    await bought.paid.cancel(order("", "cancel"), await bought.billing.row(), now=False, at=None)
    row = await bought.billing.row()
    assert row.subscription.cancel_at_period_end
    assert row.subscription.state is SubscriptionState.ACTIVE
    assert await _pending(bought) == {}

    await bought.paid.resume(order("", "resume"), row)
    assert not (await bought.billing.row()).subscription.cancel_at_period_end

    await bought.paid.cancel(order("", "cancel now"), await bought.billing.row(), now=True, at=None)
    assert (await bought.billing.row()).subscription.state is SubscriptionState.CANCELED


async def test_a_move_to_a_free_plan_ends_the_paid_one_at_its_time(bought: Purchases) -> None:
    row = await bought.billing.row()
    plan = await bought.plan(PlanKey("free"))
    await bought.paid.change_later(order("", "free"), row, plan=plan, price=None, quantity=1, effective_time=None)

    after = await bought.billing.row()
    assert after.subscription.cancel_at_period_end
    assert after.subscription.period_end_time == row.subscription.period_end_time


async def test_cancellation_at_a_given_time_is_planned(bought: Purchases, clock: FrozenClock) -> None:
    at = clock.now().replace(microsecond=0) + dt.timedelta(days=10)
    await bought.paid.cancel(order("", "cancel"), await bought.billing.row(), now=False, at=at)

    assert (await bought.billing.row()).subscription.period_end_time == at


async def test_a_pause_ends_by_resuming(bought: Purchases) -> None:
    await bought.paid.pause(order("", "pause"), await bought.billing.row(), resume_time=None)
    row = await bought.billing.row()
    assert row.subscription.state is SubscriptionState.PAUSED

    await bought.paid.resume(order("", "resume"), row)
    assert (await bought.billing.row()).subscription.state is SubscriptionState.ACTIVE


@pytest.mark.parametrize("fault", LOSSES, ids=LOSS_NAMES)
async def test_a_cancellation_whose_answer_was_lost_is_made_once(
    bought: Purchases, local: LocalStripe, clock: FrozenClock, fault: dict[str, Any]
) -> None:
    row = await bought.billing.row()
    await local.fault(f"DELETE /v1/subscriptions/{row.provider_subscription_id}", **fault)

    await retrying(clock, fault, lambda: bought.paid.cancel(order("r9", "cancel"), row, now=True, at=None))

    assert (await bought.billing.row()).subscription.state is SubscriptionState.CANCELED


async def _change_now(shop: Purchases, plan_key: PlanKey, interval: BillingInterval = MONTH) -> Any:
    return await shop.paid.change_now(
        order("", "change_now", plan_key, interval),
        await shop.billing.row(),
        plan=await shop.plan(plan_key),
        price=await shop.price(plan_key, interval),
        quantity=1,
        payment_method_id="",
        preview_time=None,
    )


async def _change_later(shop: Purchases, plan_key: PlanKey, quantity: int = 1) -> Any:
    return await shop.paid.change_later(
        order("", "change_later", plan_key, quantity),
        await shop.billing.row(),
        plan=await shop.plan(plan_key),
        price=await shop.price(plan_key),
        quantity=quantity,
        effective_time=None,
    )


async def _pending(shop: Purchases) -> dict[str, Any]:
    found = await shop.billing.world.fetch("SELECT * FROM scheduled_changes WHERE state = 'pending'")
    return found[0] if found else {}


# ---- bounds


async def test_pages_of_nobody_close_without_ado(shop: Purchases, gateway: StripeGateway) -> None:
    pages = CheckoutPages(shop.billing.world.database, provider=gateway, sync=shop.sync)

    await pages.close(LEKHAK, ANNA, PRO, actor="shop", key="op_1")
