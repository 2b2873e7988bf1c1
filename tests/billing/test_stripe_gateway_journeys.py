"""The gateway against the local Stripe: whole lives of subscriptions, and every write through every fault."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest

from tallygate_server.billing.observed import (
    ObservedCheckoutSession,
    ObservedSubscription,
    PaymentOutcome,
    PostalAddress,
)
from tallygate_server.billing.provider import CustomerDetails, PaymentProvider
from tallygate_server.billing.stripe_gateway import StripeGateway
from tallygate_server.domain.catalog import BillingInterval
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.subscription import SubscriptionState
from tallygate_server.errors import BillingProviderUnavailable, PaymentRefused
from tests.support.clock import FrozenClock
from tests.support.local_stripe import API_KEY, LocalStripe
from tests.support.stripe_shapes import sale

ACME = TenantId("acme")
ANNA = AccountId("acct-anna")
PRO = sale("pro", 1_000)
TEAM = sale("team", 3_000)
TEAM_YEARLY = sale("team", 30_000, interval=BillingInterval.YEAR)

VISA = "pm_card_visa"
DECLINED = "pm_card_chargeCustomerFail"
ASKS_PAYER = "pm_card_authenticationRequired"
DAY = 86_400

DONE = "https://shop.example.test/done"
BACK = "https://shop.example.test/"


def gateway_to(local: LocalStripe, **settings: int) -> StripeGateway:
    given = {"retries_max": 0, "timeout_ms": 60_000, "call_timeout_ms": 120_000, **settings}
    return StripeGateway(api_key=API_KEY, api_base=local.url, clock=FrozenClock(), **given)


@pytest.fixture
async def stripe(local: LocalStripe) -> AsyncIterator[StripeGateway]:
    made = gateway_to(local)
    yield made
    await made.close()


async def customer_of(provider: PaymentProvider, *, card: str = VISA) -> str:
    details = CustomerDetails(email="anna@example.test", name="Anna")
    made = await provider.create_customer(ACME, ANNA, details, operation_id="op-customer")
    if card:
        details = CustomerDetails(default_payment_method_id=card)
        await provider.update_customer(made.customer_id, details, operation_id="op-card")
    return made.customer_id


async def subscribe(
    provider: PaymentProvider,
    customer_id: str,
    *,
    card: str = "",
    trial_days: int = 0,
    promotion_code: str = "",
    operation_id: str = "op-subscribe",
    subscription_id: str = "sub_ours",
) -> ObservedSubscription:
    return await provider.create_subscription(
        PRO,
        customer_id=customer_id,
        account_id=ANNA,
        subscription_id=subscription_id,
        quantity=1,
        trial_days=trial_days,
        payment_method_id=card,
        promotion_code=promotion_code,
        metadata={},
        operation_id=operation_id,
    )


async def upgrade(
    provider: PaymentProvider, present: ObservedSubscription, *, card: str = "", operation_id: str = "op-upgrade"
) -> ObservedSubscription:
    return await provider.change_subscription(
        present, TEAM, quantity=1, payment_method_id=card, proration_time=None, operation_id=operation_id
    )


async def seen(provider: PaymentProvider, subscription: ObservedSubscription) -> ObservedSubscription:
    found = await provider.subscription(subscription.provider_subscription_id)
    assert found is not None
    return found


async def intent_of(local: LocalStripe, subscription: ObservedSubscription) -> str:
    assert subscription.latest_invoice is not None
    payments = await local.client.v1.invoice_payments.list_async({"invoice": subscription.latest_invoice.invoice_id})
    intent = payments.data[0].payment.payment_intent
    assert isinstance(intent, str)
    return intent


# ------------------------------------------------------------------ lives


async def test_from_the_first_payment_over_a_planned_downgrade_to_the_end(
    local: LocalStripe, stripe: StripeGateway
) -> None:
    present = await subscribe(stripe, await customer_of(stripe))
    assert present.state is SubscriptionState.ACTIVE
    assert present.latest_invoice is not None
    assert (present.latest_invoice.state, present.latest_invoice.paid_minor) == ("paid", 1_000)

    preview = await stripe.preview_change(present, TEAM, quantity=1, proration_time=present.period_start_time)
    assert (preview.due_now_minor, preview.next_invoice_minor) == (2_000, 3_000)
    present = await stripe.change_subscription(
        present,
        TEAM,
        quantity=1,
        payment_method_id="",
        proration_time=preview.proration_time,
        operation_id="op-upgrade",
    )
    assert (present.price.unit_amount_minor, present.price.lookup_key) == (3_000, TEAM.lookup_key)
    assert present.latest_invoice is not None
    assert present.latest_invoice.paid_minor == preview.due_now_minor

    end = present.period_end_time
    planned = await stripe.schedule_change(present, PRO, quantity=2, effective_time=end, operation_id="op-down")
    assert [(phase.quantity, phase.start_time) for phase in planned.phases][1] == (2, end)
    present = await seen(stripe, present)
    assert present.schedule is not None
    assert present.price.unit_amount_minor == 3_000

    await local.advance_to(int(end.timestamp()) + DAY)
    present = await seen(stripe, present)
    assert (present.price.unit_amount_minor, present.quantity, present.period_start_time) == (1_000, 2, end)

    ending = await stripe.cancel_at(present.provider_subscription_id, at=None, operation_id="op-cancel")
    assert ending.cancel_time == ending.period_end_time
    kept = await stripe.keep(present.provider_subscription_id, operation_id="op-keep")
    assert (kept.cancel_time, kept.cancel_at_period_end) == (None, False)
    ending = await stripe.cancel_at(present.provider_subscription_id, at=None, operation_id="op-cancel-2")
    await local.advance_to(int(ending.period_end_time.timestamp()) + DAY)
    present = await seen(stripe, present)
    assert (present.state, present.end_time) == (SubscriptionState.CANCELED, ending.period_end_time)


@pytest.mark.parametrize("days", [-10, 0, 10])
async def test_a_change_can_be_planned_for_before_at_and_after_the_periods_end(
    local: LocalStripe, stripe: StripeGateway, days: int
) -> None:
    present = await subscribe(stripe, await customer_of(stripe))
    at = present.period_end_time + timedelta(days=days)

    await stripe.schedule_change(present, TEAM_YEARLY, quantity=1, effective_time=at, operation_id="op-1")
    again = await stripe.schedule_change(
        await seen(stripe, present), TEAM, quantity=1, effective_time=at, operation_id="op-2"
    )

    assert (await local.counts())["subscription_schedule"] == 1
    await local.advance_to(int(at.timestamp()) - 60)
    assert (await seen(stripe, present)).price.unit_amount_minor == 1_000
    await local.advance_to(int(at.timestamp()) + 60)
    changed = await seen(stripe, present)
    assert changed.price.unit_amount_minor == 3_000
    assert changed.metadata["tallygate_plan_key"] == "team"
    assert again.state == "active"


async def test_a_planned_change_that_is_taken_back_does_not_happen(local: LocalStripe, stripe: StripeGateway) -> None:
    present = await subscribe(stripe, await customer_of(stripe))
    end = present.period_end_time
    planned = await stripe.schedule_change(present, TEAM, quantity=1, effective_time=end, operation_id="op-down")

    await stripe.release_schedule(planned.schedule_id, operation_id="op-release")
    await stripe.release_schedule(planned.schedule_id, operation_id="op-release-2")

    await local.advance_to(int(end.timestamp()) + DAY)
    assert (await seen(stripe, present)).price.unit_amount_minor == 1_000
    released = await stripe.schedule(planned.schedule_id)
    assert released is not None
    assert (released.state, released.provider_subscription_id) == ("released", present.provider_subscription_id)


async def test_an_unpaid_renewal_is_overdue_until_it_is_paid(local: LocalStripe, stripe: StripeGateway) -> None:
    customer_id = await customer_of(stripe)
    present = await subscribe(stripe, customer_id)
    details = CustomerDetails(default_payment_method_id=DECLINED)
    await stripe.update_customer(customer_id, details, operation_id="op-bad-card")

    await local.advance_to(int(present.period_end_time.timestamp()) + DAY)

    overdue = await seen(stripe, present)
    assert overdue.state is SubscriptionState.PAST_DUE
    assert overdue.latest_invoice is not None
    assert overdue.overdue_since_time == overdue.latest_invoice.create_time
    [payment] = await stripe.payments_of_invoice(overdue.latest_invoice.invoice_id)
    assert payment.outcome is PaymentOutcome.FAILED
    assert payment.failure_code

    details = CustomerDetails(default_payment_method_id=VISA)
    await stripe.update_customer(customer_id, details, operation_id="op-good-card")
    await local.client.v1.invoices.pay_async(overdue.latest_invoice.invoice_id)
    paid = await seen(stripe, present)
    assert (paid.state, paid.overdue_since_time) == (SubscriptionState.ACTIVE, None)


async def test_a_new_default_method_pays_the_renewals_of_every_subscription(
    local: LocalStripe, stripe: StripeGateway
) -> None:
    customer_id = await customer_of(stripe, card="")
    with_its_own = await subscribe(stripe, customer_id, card=VISA)
    ended = await subscribe(stripe, customer_id, card=VISA, operation_id="op-2", subscription_id="sub_second")
    await stripe.cancel_now(ended.provider_subscription_id, reason="", operation_id="op-3")

    details = CustomerDetails(default_payment_method_id="pm_card_mastercard")
    changed = await stripe.update_customer(customer_id, details, operation_id="op-4")

    after = await seen(stripe, with_its_own)
    assert after.default_payment_method_id == changed.default_payment_method_id
    assert after.default_payment_method_id != with_its_own.default_payment_method_id
    await local.advance_to(int(with_its_own.period_end_time.timestamp()) + DAY)
    assert (await seen(stripe, with_its_own)).state is SubscriptionState.ACTIVE


async def test_a_declined_method_refuses_and_leaves_nothing_that_takes_money(
    local: LocalStripe, stripe: StripeGateway
) -> None:
    customer_id = await customer_of(stripe, card="")

    with pytest.raises(PaymentRefused) as caught:
        await subscribe(stripe, customer_id, card=DECLINED)
    with pytest.raises(PaymentRefused):
        await subscribe(stripe, customer_id, card=DECLINED)

    assert caught.value.facts["field"] == "payment_method_id"
    live = await local.client.v1.subscriptions.list_async({"customer": customer_id})
    assert [each.status for each in live.data if each.status not in {"canceled", "incomplete_expired"}] == []
    unpaid = await local.client.v1.invoices.list_async({"customer": customer_id, "status": "open"})
    assert unpaid.data == []
    made = await subscribe(stripe, customer_id, card=VISA, operation_id="op-again", subscription_id="sub_second")
    assert made.state is SubscriptionState.ACTIVE


async def test_a_payment_that_needs_the_payer_is_incomplete_until_they_confirm(
    local: LocalStripe, stripe: StripeGateway
) -> None:
    present = await subscribe(stripe, await customer_of(stripe, card=""), card=ASKS_PAYER)
    assert present.state is SubscriptionState.INCOMPLETE
    assert present.latest_invoice is not None
    assert present.latest_invoice.client_secret
    assert present.latest_invoice.hosted_url

    await local.authenticate(await intent_of(local, present))

    assert (await seen(stripe, present)).state is SubscriptionState.ACTIVE


async def test_without_any_method_the_first_payment_is_left_to_a_browser(
    local: LocalStripe, stripe: StripeGateway
) -> None:
    present = await subscribe(stripe, await customer_of(stripe, card=""))
    assert present.state is SubscriptionState.INCOMPLETE
    assert present.latest_invoice is not None
    assert present.latest_invoice.client_secret

    await local.client.v1.payment_intents.confirm_async(await intent_of(local, present), {"payment_method": VISA})

    paid = await seen(stripe, present)
    assert paid.state is SubscriptionState.ACTIVE
    assert paid.default_payment_method_id


async def test_a_trial_without_a_method_ends_the_subscription(local: LocalStripe, stripe: StripeGateway) -> None:
    present = await subscribe(stripe, await customer_of(stripe, card=""), trial_days=14)
    assert present.state is SubscriptionState.TRIALING
    assert present.trial_end_time == present.start_time

    await local.advance(15 * DAY)

    assert (await seen(stripe, present)).state is SubscriptionState.CANCELED


async def test_a_declined_upgrade_leaves_everything_as_it_was(local: LocalStripe, stripe: StripeGateway) -> None:
    before = await subscribe(stripe, await customer_of(stripe, card=""), card=VISA)

    with pytest.raises(PaymentRefused):
        await upgrade(stripe, before, card=DECLINED)

    after = await seen(stripe, before)
    assert (after.price, after.default_payment_method_id) == (before.price, before.default_payment_method_id)
    assert after.latest_invoice is not None
    assert after.latest_invoice.state == "void"
    raw = await local.client.v1.subscriptions.retrieve_async(before.provider_subscription_id)
    assert raw.pending_update is None
    await local.advance_to(int(before.period_end_time.timestamp()) + DAY)
    renewed = await seen(stripe, before)
    assert (renewed.state, renewed.price) == (SubscriptionState.ACTIVE, before.price)


async def test_an_upgrade_that_needs_the_payer_happens_when_they_confirm(
    local: LocalStripe, stripe: StripeGateway
) -> None:
    before = await subscribe(stripe, await customer_of(stripe))

    waiting = await upgrade(stripe, before, card=ASKS_PAYER)
    assert waiting.price == before.price
    assert waiting.latest_invoice is not None
    assert waiting.latest_invoice.client_secret

    await local.authenticate(await intent_of(local, waiting))
    assert (await seen(stripe, before)).price.unit_amount_minor == 3_000


async def test_a_paused_subscription_is_billed_again_when_it_is_resumed(
    local: LocalStripe, stripe: StripeGateway
) -> None:
    present = await subscribe(stripe, await customer_of(stripe))
    paused = await stripe.pause(present.provider_subscription_id, operation_id="op-pause")
    invoices = (await local.counts())["invoice"]
    await local.advance(70 * DAY)
    assert paused.state is SubscriptionState.PAUSED
    assert (await seen(stripe, present)).state is SubscriptionState.PAUSED
    assert (await local.counts())["invoice"] == invoices

    resumed = await stripe.resume(present.provider_subscription_id, operation_id="op-resume")

    assert resumed.state is SubscriptionState.ACTIVE
    assert resumed.period_start_time == datetime.fromtimestamp(await local.now(), UTC)


async def test_a_resumption_that_is_declined_stays_paused(local: LocalStripe, stripe: StripeGateway) -> None:
    customer_id = await customer_of(stripe)
    present = await subscribe(stripe, customer_id)
    await local.advance(20 * DAY)
    await stripe.pause(present.provider_subscription_id, operation_id="op-pause")
    details = CustomerDetails(default_payment_method_id=DECLINED)
    await stripe.update_customer(customer_id, details, operation_id="op-bad-card")

    with pytest.raises(PaymentRefused):
        await stripe.resume(present.provider_subscription_id, operation_id="op-resume")

    after = await seen(stripe, present)
    assert after.state is SubscriptionState.PAUSED
    unpaid = await local.client.v1.invoices.list_async({"customer": customer_id, "status": "open"})
    assert unpaid.data == []


async def test_a_page_that_is_paid_makes_a_subscription_that_says_whose_it_is(
    local: LocalStripe, stripe: StripeGateway
) -> None:
    customer_id = await customer_of(stripe, card="")
    page = await open_page(stripe, customer_id, await local.now())
    assert (page.state, page.paid) == ("open", False)
    assert [each.session_id for each in await stripe.open_checkout_sessions(customer_id)] == [page.session_id]

    await local.complete_checkout(page.session_id)

    after = await stripe.checkout_session(page.session_id)
    assert after is not None
    assert (after.state, after.paid) == ("complete", True)
    bought = await stripe.subscription(after.provider_subscription_id)
    assert bought is not None
    assert bought.metadata["tallygate_subscription_id"] == "sub_ours"
    assert bought.metadata["tallygate_account_id"] == ANNA
    await stripe.expire_checkout_session(page.session_id, operation_id="op-expire")
    assert (await stripe.create_portal_session(customer_id, return_url=BACK)).startswith(local.url)


async def open_page(provider: PaymentProvider, customer_id: str, now: int) -> ObservedCheckoutSession:
    return await provider.create_checkout_session(
        PRO,
        customer_id=customer_id,
        account_id=ANNA,
        subscription_id="sub_ours",
        quantity=1,
        trial_days=0,
        success_url=DONE,
        cancel_url=BACK,
        promotion_code="",
        expire_time=datetime.fromtimestamp(now + 3_600, UTC),
        operation_id="op-page",
    )


async def test_a_code_that_counts_once_is_not_refused_to_its_own_retry(
    local: LocalStripe, stripe: StripeGateway
) -> None:
    coupon = await local.client.v1.coupons.create_async({"percent_off": 50, "duration": "once"})
    await local.client.v1.promotion_codes.create_async(
        {"promotion": {"type": "coupon", "coupon": coupon.id}, "code": "SPRING", "max_redemptions": 1}
    )
    customer_id = await customer_of(stripe)
    await local.fault("POST /v1/subscriptions", "cut_after")

    with pytest.raises(BillingProviderUnavailable):
        await subscribe(stripe, customer_id, promotion_code="SPRING")
    made = await subscribe(stripe, customer_id, promotion_code="SPRING")

    assert made.latest_invoice is not None
    assert made.latest_invoice.paid_minor == 500
    assert (await local.counts())["subscription"] == 1


async def test_tax_ids_and_address_are_replaced_and_metadata_is_merged(stripe: StripeGateway) -> None:
    made = await stripe.create_customer(
        ACME,
        ANNA,
        CustomerDetails(
            email="anna@example.test",
            tax_ids=(("eu_vat", "DE123456789"),),
            address=PostalAddress(line1="Street 1", country_code="DE"),
            metadata={"crm": "7", "old": "x"},
        ),
        operation_id="op-1",
    )
    assert made.tax_ids == (("eu_vat", "DE123456789"),)

    changed = await stripe.update_customer(
        made.customer_id,
        CustomerDetails(
            tax_ids=(("gb_vat", "GB123456789"),),
            address=PostalAddress(city="London", country_code="GB"),
            metadata={"old": "", "new": "1"},
        ),
        operation_id="op-2",
    )

    assert changed.tax_ids == (("gb_vat", "GB123456789"),)
    assert changed.address == PostalAddress(city="London", country_code="GB")
    assert (changed.metadata["crm"], changed.metadata["new"]) == ("7", "1")
    assert "old" not in changed.metadata
    assert changed.email == "anna@example.test"


async def test_refunds_disputes_and_warnings_are_told_with_the_payment(
    local: LocalStripe, stripe: StripeGateway
) -> None:
    present = await subscribe(stripe, await customer_of(stripe))
    assert present.latest_invoice is not None
    [paid] = await stripe.payments_of_invoice(present.latest_invoice.invoice_id)
    intent = await local.client.v1.payment_intents.retrieve_async(paid.payment_id)
    charge_id = str(intent.latest_charge)

    await local.warn_of_fraud(charge_id)
    dispute = await local.dispute(charge_id)
    disputed = await stripe.payment_of_charge(charge_id)
    await local.close_dispute(dispute["id"], "won")
    await local.client.v1.refunds.create_async({"charge": charge_id, "amount": 400})
    refunded = await stripe.payment(paid.payment_id)

    assert (paid.outcome, paid.disputed, paid.fraud_warning) == (PaymentOutcome.SUCCEEDED, False, False)
    assert disputed is not None
    assert (disputed.payment_id, disputed.disputed, disputed.fraud_warning) == (paid.payment_id, True, True)
    assert refunded is not None
    assert (refunded.refunded_minor, refunded.disputed) == (400, False)


async def test_what_has_changed_since_is_told(local: LocalStripe, stripe: StripeGateway) -> None:
    customer_id = await customer_of(stripe)
    first = await subscribe(stripe, customer_id)
    await local.advance(DAY)
    since = datetime.fromtimestamp(await local.now(), UTC)
    await local.advance(60)
    second = await subscribe(stripe, customer_id, operation_id="op-2", subscription_id="sub_second")

    async def ids(since: datetime | None, customer_id: str = "") -> list[str]:
        return [found async for found in stripe.changed_subscription_ids(since=since, customer_id=customer_id)]

    both = {first.provider_subscription_id, second.provider_subscription_id}
    assert await ids(since) == [second.provider_subscription_id]
    assert set(await ids(None)) == both
    assert set(await ids(since, customer_id)) == both


# ------------------------------------------------------------------ every write through every fault

Write = Callable[[PaymentProvider, "World"], Awaitable[object]]


class World:
    """What the writes begin with."""

    customer_id: str
    method_id: str
    present: ObservedSubscription
    schedule_id: str
    page_id: str
    now: int


async def prepared(local: LocalStripe, provider: PaymentProvider, name: str) -> World:
    world = World()
    world.now = await local.now()
    await provider.ensure_price(PRO)
    await provider.ensure_price(TEAM)
    if name == "customer":
        return world
    world.customer_id = await customer_of(provider)
    # One that exists; the test methods come into being when they are attached.
    made = await local.client.v1.payment_methods.create_async({"type": "card", "card": {"token": "tok_visa"}})
    world.method_id = made.id
    if name in {"subscription", "subscription with a method", "page"}:
        return world
    world.present = await subscribe(provider, world.customer_id, operation_id="op-before")
    if name in {"release", "resume", "keep", "cancel over a plan"}:
        await local.advance(DAY)
    if name in {"release", "cancel over a plan"}:
        end = world.present.period_end_time
        planned = await provider.schedule_change(
            world.present, TEAM, quantity=1, effective_time=end, operation_id="op-planned"
        )
        world.schedule_id = planned.schedule_id
    if name == "keep":
        await provider.cancel_at(world.present.provider_subscription_id, at=None, operation_id="op-canceled")
    if name == "resume":
        await provider.pause(world.present.provider_subscription_id, operation_id="op-paused")
    if name == "expire":
        page = await open_page(provider, world.customer_id, await local.now())
        world.page_id = page.session_id
    return world


WRITES: dict[str, tuple[str, Write]] = {
    "customer": ("POST /v1/customers", lambda p, _: customer_of(p, card="")),
    "method": (
        "POST /v1/payment_methods/*/attach",
        lambda p, w: p.update_customer(
            w.customer_id, CustomerDetails(default_payment_method_id=w.method_id), operation_id="op-1"
        ),
    ),
    "tax id": (
        "POST /v1/customers/*/tax_ids",
        lambda p, w: p.update_customer(
            w.customer_id, CustomerDetails(tax_ids=(("eu_vat", "DE123456789"),)), operation_id="op-1"
        ),
    ),
    "subscription": ("POST /v1/subscriptions", lambda p, w: subscribe(p, w.customer_id)),
    "subscription with a method": (
        "POST /v1/payment_methods/*/attach",
        lambda p, w: subscribe(p, w.customer_id, card=w.method_id),
    ),
    "upgrade": ("POST /v1/subscriptions/*", lambda p, w: upgrade(p, w.present)),
    "plan": (
        "POST /v1/subscription_schedules",
        lambda p, w: p.schedule_change(
            w.present, TEAM, quantity=1, effective_time=w.present.period_end_time, operation_id="op-1"
        ),
    ),
    "phases of a plan": (
        "POST /v1/subscription_schedules/*",
        lambda p, w: p.schedule_change(
            w.present, TEAM, quantity=1, effective_time=w.present.period_end_time, operation_id="op-1"
        ),
    ),
    "release": (
        "POST /v1/subscription_schedules/*/release",
        lambda p, w: p.release_schedule(w.schedule_id, operation_id="op-1"),
    ),
    "cancel": (
        "DELETE /v1/subscriptions/*",
        lambda p, w: p.cancel_now(w.present.provider_subscription_id, reason="", operation_id="op-1"),
    ),
    "cancel over a plan": (
        "POST /v1/subscription_schedules/*/release",
        lambda p, w: p.cancel_now(w.present.provider_subscription_id, reason="", operation_id="op-1"),
    ),
    "cancel later": (
        "POST /v1/subscriptions/*",
        lambda p, w: p.cancel_at(w.present.provider_subscription_id, at=None, operation_id="op-1"),
    ),
    "keep": (
        "POST /v1/subscriptions/*",
        lambda p, w: p.keep(w.present.provider_subscription_id, operation_id="op-1"),
    ),
    "pause": (
        "POST /v1/subscriptions/*/pause",
        lambda p, w: p.pause(w.present.provider_subscription_id, operation_id="op-1"),
    ),
    "resume": (
        "POST /v1/subscriptions/*/resume",
        lambda p, w: p.resume(w.present.provider_subscription_id, operation_id="op-1"),
    ),
    "page": ("POST /v1/checkout/sessions", lambda p, w: open_page(p, w.customer_id, w.now)),
    "expire": (
        "POST /v1/checkout/sessions/*/expire",
        lambda p, w: p.expire_checkout_session(w.page_id, operation_id="op-1"),
    ),
}

COUNTED = (
    "customer",
    "subscription",
    "subscription_schedule",
    "invoice",
    "charge",
    "payment_method",
    "tax_id",
    "checkout.session",
    "price",
    "product",
)

FAULTS: dict[str, dict[str, object]] = {
    "error_500": {},
    "error_500 that is stored": {"saved": True},
    "error_after": {},
    "rate_limit_429": {},
    "cut_before": {},
    "cut_after": {},
    "timeout_before": {},
    "timeout_after": {},
}


_counts_without_fault: dict[str, dict[str, int]] = {}


async def counted_without_fault(local: LocalStripe, name: str) -> dict[str, int]:
    """Return how many objects there are after the write; found out once for each write."""
    if name not in _counts_without_fault:
        # One of its own: prices are remembered, and forgotten by the local Stripe.
        provider = gateway_to(local)
        await WRITES[name][1](provider, await prepared(local, provider, name))
        await provider.close()
        _counts_without_fault[name] = await local.counts()
        await local.reset()
    return _counts_without_fault[name]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", WRITES)
async def test_a_write_that_meets_a_fault_is_done_once_by_its_retry(local: LocalStripe, name: str, fault: str) -> None:
    """Do it without the fault and count; do it with the fault, and again: the counts are the same."""
    kind = fault.partition(" ")[0]
    route, write = WRITES[name]
    once = await counted_without_fault(local, name)
    first = gateway_to(local, timeout_ms=1_000) if kind.startswith("timeout") else gateway_to(local)
    # The retry may find the first request still under way.
    retry = gateway_to(local, retries_max=5)
    try:
        world = await prepared(local, retry, name)
        await local.fault(route, kind, **FAULTS[fault])

        with pytest.raises(BillingProviderUnavailable) as caught:
            await write(first, world)
        await local.clear_faults()
        await write(retry, world)
        await write(retry, world)
    finally:
        await first.close()
        await retry.close()

    assert caught.value.retry_delay_ms > 0
    again = await local.counts()
    assert {kind: again.get(kind, 0) for kind in COUNTED} == {kind: once.get(kind, 0) for kind in COUNTED}


async def test_the_library_gets_past_a_passing_fault_by_itself(local: LocalStripe) -> None:
    gateway = gateway_to(local, retries_max=2)
    customer_id = await customer_of(gateway)
    await local.fault("POST /v1/subscriptions", "cut_after")

    made = await subscribe(gateway, customer_id)

    assert made.state is SubscriptionState.ACTIVE
    assert (await local.counts())["subscription"] == 1
    await gateway.close()
