"""One open page of an account and plan; none sells a plan twice."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator

import pytest

from tallygate_server.billing.checkout import OPEN_FOR, REUSED_UNTIL, Checkout, CheckoutPage, WantedPage
from tallygate_server.billing.customers import Customers
from tallygate_server.billing.observed import PostalAddress
from tallygate_server.billing.operations import EFFECT_AFTER, Operations
from tallygate_server.billing.provider import SUBSCRIPTION_ATTRIBUTE, CustomerDetails
from tallygate_server.domain.identifier import AccountId, PlanKey, TenantId
from tallygate_server.domain.subscription import BillingProvider
from tallygate_server.errors import (
    AccountNotFound,
    BillingProviderNotConfigured,
    BillingProviderUnavailable,
    CustomerNotFound,
    InvalidRequest,
    OperationInProgress,
    PaymentRefused,
    PlanNotFound,
    PriceNotFound,
    RequestIdReused,
    SubscriptionExists,
    TallygateError,
    TenantNotFound,
)
from tallygate_server.storage.checkout_sessions import close_checkout_session
from tests.support.billing import ANNA, WEBHOOK
from tests.support.clock import FrozenClock
from tests.support.payment_provider import Fault, PaymentProviderInMemory
from tests.support.purchases import BACK, FREE, PRO, SUCCESS, UNLIMITED, YEAR, Purchases, patiently, purchases
from tests.support.use_cases import LEKHAK

ONE_PAGE = {"customers": 1, "subscriptions": 0, "sessions": 1, "open_sessions": 1}


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


# ---- pages


async def test_a_page_is_opened_and_changes_nothing(shop: Purchases, provider: PaymentProviderInMemory) -> None:
    page = await shop.page(trial_days=0, quantity=2)

    (session,) = provider.sessions.values()
    assert page == CheckoutPage(
        provider_session_id=session.session_id,
        url=session.url,
        expire_time=shop.clock.now().replace(microsecond=0) + OPEN_FOR,
        reused=False,
    )
    assert session.metadata[SUBSCRIPTION_ATTRIBUTE].startswith("sub_")
    assert await shop.billing.rows() == []


async def test_the_open_page_is_shown_once_more(shop: Purchases, provider: PaymentProviderInMemory) -> None:
    first = await shop.page()
    again = await shop.page()
    with_id = await shop.page(request_id="r1")

    assert not first.reused
    assert again.reused
    assert with_id.reused
    assert {first.url, again.url, with_id.url} == {first.url}
    assert provider.made() == ONE_PAGE


@pytest.mark.parametrize("other", [{"interval": YEAR}, {"quantity": 3}, {"success_url": "https://lekhak.example/yes"}])
async def test_other_content_closes_the_page_and_opens_another(
    shop: Purchases, provider: PaymentProviderInMemory, other: dict[str, object]
) -> None:
    first = await shop.page()
    second = await shop.page(**other)

    assert second.provider_session_id != first.provider_session_id
    assert not second.reused
    assert provider.made() == ONE_PAGE | {"sessions": 2}
    assert provider.sessions[first.provider_session_id].state == "expired"


async def test_pages_of_different_plans_are_open_side_by_side(
    shop: Purchases, provider: PaymentProviderInMemory
) -> None:
    await shop.page(PRO)
    await shop.page(UNLIMITED)

    assert provider.made() == ONE_PAGE | {"sessions": 2, "open_sessions": 2}


async def test_a_page_that_is_about_to_close_is_replaced(
    shop: Purchases, provider: PaymentProviderInMemory, clock: FrozenClock
) -> None:
    first = await shop.page()
    clock.advance(OPEN_FOR - REUSED_UNTIL)
    assert (await shop.page()).url == first.url
    clock.advance(dt.timedelta(seconds=1))

    assert (await shop.page()).url != first.url
    assert provider.made()["open_sessions"] == 1


async def test_a_page_that_closed_at_the_provider_is_replaced_although_nobody_told(
    shop: Purchases, provider: PaymentProviderInMemory
) -> None:
    first = await shop.page(request_id="r1")
    await provider.expire_checkout_session(first.provider_session_id, operation_id="by-hand")

    again = await shop.page(request_id="r1")

    assert again.url != first.url
    assert (await shop.page(request_id="r1")).url == again.url


async def test_what_was_bought_on_a_page_is_not_sold_again_although_nobody_told(
    shop: Purchases, provider: PaymentProviderInMemory
) -> None:
    page = await shop.page(request_id="r1")
    provider.pay(page.provider_session_id)

    for request_id in ("r1", "r2", ""):
        with pytest.raises(SubscriptionExists):
            await shop.page(request_id=request_id)
    row = await shop.billing.row()
    assert row.subscription.plan_key == PRO
    rows = await shop.billing.world.fetch("SELECT state FROM checkout_sessions")
    assert [each["state"] for each in rows] == ["complete"]


async def test_the_webhook_closes_the_page(shop: Purchases, provider: PaymentProviderInMemory) -> None:
    page = await shop.page()
    there = provider.pay(page.provider_session_id)
    await shop.billing.sync.refresh(there.provider_subscription_id, WEBHOOK)
    for state in ("complete", "expired"):
        async with shop.billing.world.database.tenant_transaction(LEKHAK) as connection:
            await close_checkout_session(connection, LEKHAK, page.provider_session_id, state)

    rows = await shop.billing.world.fetch("SELECT state FROM checkout_sessions")
    assert [each["state"] for each in rows] == ["complete"]
    assert (await shop.billing.row()).subscription.subscription_id == provider.sessions[
        page.provider_session_id
    ].metadata[SUBSCRIPTION_ATTRIBUTE]


async def test_buying_without_the_page_closes_it(shop: Purchases, provider: PaymentProviderInMemory) -> None:
    await shop.page()
    await shop.buy()

    assert provider.made() == {"customers": 1, "subscriptions": 1, "sessions": 1, "open_sessions": 0}


async def test_a_page_paid_at_the_last_moment_is_not_followed_by_another_purchase(
    shop: Purchases, provider: PaymentProviderInMemory
) -> None:
    page = await shop.page()
    provider.pay(page.provider_session_id)

    with pytest.raises(SubscriptionExists):
        await shop.buy()

    assert provider.made()["subscriptions"] == 1
    assert len(await shop.billing.rows()) == 1


@pytest.mark.parametrize("request_id", ["r1", ""])
@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER, Fault.STORED, Fault.STORED_NOTHING])
async def test_a_page_that_failed_to_open_is_opened_once_by_the_retry(
    shop: Purchases, provider: PaymentProviderInMemory, fault: Fault, request_id: str
) -> None:
    provider.faults["create_checkout_session"] = [fault]

    with pytest.raises(BillingProviderUnavailable):
        await shop.page(request_id=request_id)
    page = await patiently(shop.clock, lambda: shop.page(request_id=request_id))

    assert provider.made() == ONE_PAGE
    assert provider.sessions[page.provider_session_id].url == page.url
    assert (await shop.page(request_id=request_id)).url == page.url


async def test_a_lost_page_is_closed_before_another_is_opened(
    shop: Purchases, provider: PaymentProviderInMemory, clock: FrozenClock
) -> None:
    provider.faults["create_checkout_session"] = [Fault.AFTER]
    with pytest.raises(BillingProviderUnavailable):
        await shop.page()
    with pytest.raises(OperationInProgress):
        await shop.page(quantity=5)
    clock.advance(EFFECT_AFTER)

    await shop.page(quantity=5)

    assert provider.made() == ONE_PAGE | {"sessions": 2}


async def test_many_at_once_open_one_page(shops: list[Purchases], provider: PaymentProviderInMemory) -> None:
    async def one(number: int) -> str:
        for _ in range(100):
            try:
                return (await shops[number % 2].page()).url
            except OperationInProgress:
                await asyncio.sleep(0.01)
        raise AssertionError

    urls = await asyncio.gather(*(one(number) for number in range(12)))

    assert len(set(urls)) == 1
    assert provider.made() == ONE_PAGE


async def test_a_request_id_with_other_content_is_refused(shop: Purchases) -> None:
    await shop.page(request_id="r1")

    with pytest.raises(RequestIdReused):
        await shop.page(request_id="r1", quantity=2)


async def test_an_unknown_account_is_made_where_the_tenant_allows_it(
    shop: Purchases, provider: PaymentProviderInMemory
) -> None:
    wanted = WantedPage(plan_key=PRO, success_url=SUCCESS, cancel_url=BACK)
    await shop.checkout.open_page(LEKHAK, AccountId("newcomer"), wanted)

    assert (await shop.billing.world.accounts.get(LEKHAK, AccountId("newcomer"))).account_id == "newcomer"
    assert provider.made() == ONE_PAGE


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ({"plan_key": PlanKey("gold")}, PlanNotFound),
        ({"plan_key": FREE}, InvalidRequest),
        ({"currency": "EUR"}, PriceNotFound),
        ({"trial_days": 30}, InvalidRequest),
        ({"promotion_code": "x" * 4}, None),
    ],
)
async def test_what_is_not_sold_has_no_page(
    shop: Purchases, provider: PaymentProviderInMemory, wanted: dict[str, object], error: type[TallygateError] | None
) -> None:
    if error is None:
        await shop.page(**wanted)
        return
    with pytest.raises(error):
        await shop.page(**wanted)
    assert provider.made()["customers"] == 0


async def test_a_plan_that_is_held_by_invoice_has_no_page(shop: Purchases) -> None:
    from tallygate_server.subscriptions import NewSubscription  # noqa: PLC0415 - its module moves

    wanted = NewSubscription(plan_key=PRO, provider=BillingProvider.MANUAL)
    await shop.billing.world.subscriptions.create(LEKHAK, ANNA, wanted)

    with pytest.raises(SubscriptionExists):
        await shop.page()
    await shop.page(interval=YEAR)


async def test_an_unknown_tenant_has_no_pages(shop: Purchases) -> None:
    wanted = WantedPage(plan_key=PRO, success_url=SUCCESS, cancel_url=BACK)

    with pytest.raises(TenantNotFound):
        await shop.checkout.open_page(TenantId("nowhere"), ANNA, wanted)


# ---- the portal


async def test_the_portal_needs_a_customer(shop: Purchases) -> None:
    with pytest.raises(CustomerNotFound):
        await shop.checkout.open_portal(LEKHAK, ANNA, return_url=BACK)
    with pytest.raises(AccountNotFound):
        await shop.checkout.open_portal(LEKHAK, AccountId("nobody"), return_url=BACK)
    customer = await shop.customers.ensure(LEKHAK, ANNA, actor="shop")

    url = await shop.checkout.open_portal(LEKHAK, ANNA, return_url=BACK)

    assert customer.provider_customer_id in url


# ---- customers


async def test_a_customer_is_made_and_then_changed(shop: Purchases, provider: PaymentProviderInMemory) -> None:
    address = PostalAddress(line1="Main Street 1", city="Linz", country_code="AT")
    details = CustomerDetails(
        email="billing@lekhak.example",
        tax_ids=(("eu_vat", "ATU12345678"),),
        address=address,
        metadata={"crm": "17", "gone": "soon"},
    )
    made = await shop.customers.update(LEKHAK, ANNA, details, request_id="r1", actor="shop")
    changed = await shop.customers.update(
        LEKHAK, ANNA, CustomerDetails(name="Anna & Co", metadata={"gone": ""}), actor="shop"
    )

    assert (made.email, made.name, made.tax_ids) == (
        "billing@lekhak.example",
        "Anna Example",
        (("eu_vat", "ATU12345678"),),
    )
    assert changed.customer_id == made.customer_id
    assert (changed.name, changed.email, changed.address) == ("Anna & Co", "billing@lekhak.example", address)
    assert dict(changed.metadata) == {"crm": "17"}
    assert await shop.customers.find(LEKHAK, ANNA) == changed
    assert provider.made()["customers"] == 1
    audited = await shop.billing.world.fetch("SELECT actor, action FROM audit_entries WHERE action LIKE 'customer.%'")
    assert [(each["actor"], each["action"]) for each in audited] == [
        ("shop", "customer.create"),
        ("shop", "customer.update"),
        ("shop", "customer.update"),
    ]


async def test_the_same_request_changes_a_customer_once(shop: Purchases, provider: PaymentProviderInMemory) -> None:
    provider.faults["update_customer"] = [Fault.AFTER]
    details = CustomerDetails(name="Anna & Co")
    with pytest.raises(BillingProviderUnavailable):
        await shop.customers.update(LEKHAK, ANNA, details, request_id="r1")
    first = await shop.customers.update(LEKHAK, ANNA, details, request_id="r1")
    calls = provider.calls["update_customer"]

    assert await shop.customers.update(LEKHAK, ANNA, details, request_id="r1") == first
    assert provider.calls["update_customer"] == calls
    with pytest.raises(RequestIdReused):
        await shop.customers.update(LEKHAK, ANNA, CustomerDetails(name="Bea"), request_id="r1")


async def test_a_refused_change_leaves_the_customer(shop: Purchases, provider: PaymentProviderInMemory) -> None:
    before = await shop.customers.ensure(LEKHAK, ANNA, actor="shop")
    provider.faults["update_customer"] = [Fault.REFUSED]

    with pytest.raises(PaymentRefused):
        await shop.customers.update(LEKHAK, ANNA, CustomerDetails(default_payment_method_id="pm_bad"))

    assert await shop.customers.find(LEKHAK, ANNA) == before


@pytest.mark.parametrize(
    "metadata",
    [
        {"tallygate_tenant_id": "other"},
        {"k" * 41: "v"},
        {"k": "v" * 501},
        {f"k{number}": "v" for number in range(41)},
    ],
)
async def test_metadata_that_the_provider_would_refuse_is_refused_by_name(
    shop: Purchases, provider: PaymentProviderInMemory, metadata: dict[str, str]
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await shop.customers.update(LEKHAK, ANNA, CustomerDetails(metadata=metadata))
    assert caught.value.violations[0].field.startswith("metadata")
    assert provider.made()["customers"] == 0


async def test_nobody_but_stripe_keeps_customers(shop: Purchases) -> None:
    with pytest.raises(InvalidRequest):
        await shop.customers.update(LEKHAK, ANNA, CustomerDetails(), billing_provider=BillingProvider.MANUAL)
    with pytest.raises(AccountNotFound):
        await shop.customers.update(LEKHAK, AccountId("nobody"), CustomerDetails())


# ---- without a provider


async def test_without_stripe_everything_says_what_to_set(shop: Purchases, clock: FrozenClock) -> None:
    world = shop.billing.world
    operations = Operations(world.database, clock)
    customers = Customers(world.database, operations, provider=None, tenants=world.tenants, clock=clock)
    checkout = Checkout(
        world.database,
        operations,
        customers,
        provider=None,
        sync=None,
        tenants=world.tenants,
        accounts=world.accounts,
        clock=clock,
    )
    wanted = WantedPage(plan_key=PRO, success_url=SUCCESS, cancel_url=BACK)

    for call in (
        checkout.open_page(LEKHAK, ANNA, wanted),
        checkout.open_portal(LEKHAK, ANNA, return_url=BACK),
        customers.update(LEKHAK, ANNA, CustomerDetails()),
    ):
        with pytest.raises(BillingProviderNotConfigured) as caught:
            await call
        assert caught.value.facts["setting"] == "TALLYGATE_STRIPE_API_KEY"
