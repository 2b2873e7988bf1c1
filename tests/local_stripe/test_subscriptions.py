from __future__ import annotations

import pytest
import stripe

from tests.local_stripe.conftest import DAY, HOUR, Shop, at, only_item
from tests.support.local_stripe import LocalStripe


async def kinds(client: stripe.StripeClient) -> list[str]:
    """Return the types of all events, oldest first."""
    events = await client.v1.events.list_async({"limit": 100})
    return [event.type for event in reversed(events.data)]


async def test_a_paid_subscription_is_active_with_its_invoice_paid(shop: Shop, client: stripe.StripeClient) -> None:
    customer = await shop.customer()

    subscription = await client.v1.subscriptions.create_async(
        {"customer": customer, "items": [{"price": shop.basic}], "expand": ["latest_invoice.payments"]}
    )

    invoice = subscription.latest_invoice
    assert isinstance(invoice, stripe.Invoice)
    assert subscription.status == "active"
    assert (invoice.status, invoice.total, invoice.amount_paid) == ("paid", 1000, 1000)
    assert invoice.parent is not None
    assert invoice.parent.subscription_details is not None
    assert invoice.parent.subscription_details.subscription == subscription.id
    assert invoice.payments is not None
    assert [payment.status for payment in invoice.payments.data] == ["paid"]
    assert not hasattr(subscription, "current_period_end")
    assert subscription.billing_mode.type == "flexible"


async def test_month_ends_come_from_the_anchor(local: LocalStripe, shop: Shop, client: stripe.StripeClient) -> None:
    clock = await shop.clock("2027-01-31T10:00:00")
    subscription = await shop.subscribe(await shop.customer(clock=clock))

    ends = [only_item(subscription).current_period_end]
    for month in ("2027-03-01", "2027-04-01", "2027-05-01"):
        await local.advance_test_clock(clock, at(f"{month}T12:00:00"))
        ends.append(only_item(await client.v1.subscriptions.retrieve_async(subscription.id)).current_period_end)

    assert ends == [at(f"2027-{day}T10:00:00") for day in ("02-28", "03-31", "04-30", "05-31")]


async def test_a_29th_of_february_renews_on_the_28th_and_comes_back(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    clock = await shop.clock("2028-02-29T00:00:00")
    subscription = await shop.subscribe(await shop.customer(clock=clock), shop.pro_yearly)

    ends = [only_item(subscription).current_period_end]
    for year in (2029, 2030, 2031):
        await local.advance_test_clock(clock, at(f"{year}-03-02T00:00:00"))
        ends.append(only_item(await client.v1.subscriptions.retrieve_async(subscription.id)).current_period_end)

    assert ends == [at(f"{day}T00:00:00") for day in ("2029-02-28", "2030-02-28", "2031-02-28", "2032-02-29")]


async def test_an_upgrade_in_mid_period_is_prorated_to_the_second(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    clock = await shop.clock("2027-04-01T00:00:00")
    subscription = await shop.subscribe(await shop.customer(clock=clock))
    item = only_item(subscription)
    # 30 days; a third of them is left, less one second.
    moment = at("2027-04-21T00:00:01")
    await local.advance_test_clock(clock, moment)
    change: list[stripe.params.SubscriptionUpdateParamsItem] = [{"id": item.id, "price": shop.pro}]

    preview = await client.v1.invoices.create_preview_async(
        {
            "subscription": subscription.id,
            "subscription_details": {
                "items": [{"id": item.id, "price": shop.pro}],
                "proration_behavior": "always_invoice",
                "proration_date": moment,
            },
        }
    )
    changed = await client.v1.subscriptions.update_async(
        subscription.id,
        {
            "items": change,
            "proration_behavior": "always_invoice",
            "proration_date": moment,
            "expand": ["latest_invoice"],
        },
    )

    invoice = changed.latest_invoice
    assert isinstance(invoice, stripe.Invoice)
    left = 10 * DAY - 1
    expected = [-round(1000 * left / (30 * DAY)), round(3000 * left / (30 * DAY))]
    assert [line.amount for line in preview.lines.data] == expected
    assert [line.amount for line in invoice.lines.data] == expected
    assert preview.total == invoice.total == sum(expected)
    assert (changed.status, invoice.status) == ("active", "paid")
    assert only_item(changed).current_period_end == item.current_period_end


async def test_prorations_wait_for_the_next_invoice_unless_told_otherwise(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    clock = await shop.clock("2027-04-01T00:00:00")
    subscription = await shop.subscribe(await shop.customer(clock=clock))
    await local.advance_test_clock(clock, at("2027-04-16T00:00:00"))

    await client.v1.subscriptions.update_async(
        subscription.id, {"items": [{"id": only_item(subscription).id, "quantity": 3}]}
    )
    await local.advance_test_clock(clock, at("2027-05-01T02:00:00"))

    [renewal, _first] = (await client.v1.invoices.list_async({"subscription": subscription.id})).data
    assert [line.amount for line in renewal.lines.data] == [-500, 1500, 3000]
    assert (renewal.status, renewal.billing_reason) == ("paid", "subscription_cycle")


async def test_a_change_of_interval_begins_a_new_period_at_once(shop: Shop, client: stripe.StripeClient) -> None:
    clock = await shop.clock("2027-04-01T00:00:00")
    subscription = await shop.subscribe(await shop.customer(clock=clock))

    changed = await client.v1.subscriptions.update_async(
        subscription.id,
        {"items": [{"id": only_item(subscription).id, "price": shop.pro_yearly}], "expand": ["latest_invoice"]},
    )

    assert only_item(changed).current_period_end == at("2028-04-01T00:00:00")
    assert isinstance(changed.latest_invoice, stripe.Invoice)
    assert [line.amount for line in changed.latest_invoice.lines.data] == [-1000, 30000]


async def test_a_failed_renewal_is_retried_and_then_ends_the_subscription(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    clock = await shop.clock("2027-04-01T00:00:00")
    customer = await shop.customer(clock=clock)
    subscription = await shop.subscribe(customer)
    failing = await client.v1.payment_methods.attach_async("pm_card_chargeCustomerFail", {"customer": customer})
    await client.v1.customers.update_async(customer, {"invoice_settings": {"default_payment_method": failing.id}})

    states = []
    for moment in ("2027-05-01T00:30:00", "2027-05-01T02:00:00", "2027-05-09T02:00:00", "2027-05-16T02:00:00"):
        await local.advance_test_clock(clock, at(moment))
        states.append((await client.v1.subscriptions.retrieve_async(subscription.id)).status)

    ended = await client.v1.subscriptions.retrieve_async(subscription.id, {"expand": ["latest_invoice"]})
    assert states == ["active", "past_due", "past_due", "canceled"]
    assert ended.cancellation_details is not None
    assert ended.cancellation_details.reason == "payment_failed"
    assert isinstance(ended.latest_invoice, stripe.Invoice)
    assert (ended.latest_invoice.status, ended.latest_invoice.attempt_count) == ("open", 4)
    assert ended.latest_invoice.next_payment_attempt is None
    assert (await kinds(client)).count("invoice.payment_failed") == 4


async def test_a_later_payment_makes_an_overdue_subscription_active(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    clock = await shop.clock("2027-04-01T00:00:00")
    customer = await shop.customer(clock=clock, card="pm_card_chargeCustomerFail")
    with pytest.raises(stripe.CardError):
        await client.v1.subscriptions.create_async(
            {
                "customer": customer,
                "items": [{"price": shop.basic}],
                "payment_behavior": "error_if_incomplete",
            }
        )
    subscription = await client.v1.subscriptions.create_async(
        {"customer": customer, "items": [{"price": shop.basic}], "trial_period_days": 7}
    )
    await local.advance_test_clock(clock, at("2027-04-08T02:00:00"))
    overdue = await client.v1.subscriptions.retrieve_async(subscription.id)
    assert isinstance(overdue.latest_invoice, str)

    good = await client.v1.payment_methods.attach_async("pm_card_visa", {"customer": customer})
    paid = await client.v1.invoices.pay_async(overdue.latest_invoice, {"payment_method": good.id})

    assert overdue.status == "past_due"
    assert paid.status == "paid"
    assert (await client.v1.subscriptions.retrieve_async(subscription.id)).status == "active"


async def test_retries_can_end_unpaid(local: LocalStripe, shop: Shop, client: stripe.StripeClient) -> None:
    await local.billing_settings(retry_days=[1], after_retries="unpaid")
    clock = await shop.clock("2027-04-01T00:00:00")
    customer = await shop.customer(clock=clock, card="pm_card_chargeCustomerFail")
    subscription = await client.v1.subscriptions.create_async(
        {"customer": customer, "items": [{"price": shop.basic}], "trial_period_days": 1}
    )

    await local.advance_test_clock(clock, at("2027-04-04T02:00:00"))

    assert (await client.v1.subscriptions.retrieve_async(subscription.id)).status == "unpaid"


async def test_an_unconfirmed_first_payment_expires_after_23_hours(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    clock = await shop.clock("2027-04-01T00:00:00")
    customer = await shop.customer(clock=clock)
    subscription = await client.v1.subscriptions.create_async(
        {
            "customer": customer,
            "items": [{"price": shop.basic}],
            "payment_behavior": "default_incomplete",
            "expand": ["latest_invoice.confirmation_secret"],
        }
    )
    assert isinstance(subscription.latest_invoice, stripe.Invoice)
    assert subscription.latest_invoice.confirmation_secret is not None

    await local.advance_test_clock(clock, at("2027-04-01T22:59:59"))
    before = await client.v1.subscriptions.retrieve_async(subscription.id)
    await local.advance_test_clock(clock, at("2027-04-01T23:00:00"))
    after = await client.v1.subscriptions.retrieve_async(subscription.id, {"expand": ["latest_invoice"]})

    assert (before.status, after.status) == ("incomplete", "incomplete_expired")
    assert isinstance(after.latest_invoice, stripe.Invoice)
    assert after.latest_invoice.status == "void"


async def test_a_payment_that_needs_the_customer_waits_for_them(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    customer = await shop.customer(card="pm_card_authenticationRequired")
    subscription = await shop.subscribe(customer)
    [intent] = (await client.v1.payment_intents.list_async({"customer": customer})).data

    await local.authenticate(intent.id)

    assert (subscription.status, intent.status) == ("incomplete", "requires_action")
    assert (await client.v1.subscriptions.retrieve_async(subscription.id)).status == "active"
    assert "invoice.payment_action_required" in await kinds(client)


@pytest.mark.parametrize(
    ("behaviour", "status"), [("cancel", "canceled"), ("pause", "paused"), ("create_invoice", "past_due")]
)
async def test_a_trial_without_payment_method_ends_as_its_settings_say(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient, behaviour: str, status: str
) -> None:
    clock = await shop.clock("2027-04-01T00:00:00")
    subscription = await client.v1.subscriptions.create_async(
        {
            "customer": await shop.customer(clock=clock, card=None),
            "items": [{"price": shop.basic}],
            "trial_period_days": 14,
            "trial_settings": {"end_behavior": {"missing_payment_method": behaviour}},
        }
    )

    await local.advance_test_clock(clock, at("2027-04-15T02:00:00"))

    ended = await client.v1.subscriptions.retrieve_async(subscription.id)
    seen = await kinds(client)
    assert (subscription.status, ended.status) == ("trialing", status)
    assert "customer.subscription.trial_will_end" in seen
    assert ("customer.subscription.paused" in seen) == (status == "paused")


async def test_a_paused_trial_is_resumed_with_a_new_cycle(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    clock = await shop.clock("2027-04-01T00:00:00")
    customer = await shop.customer(clock=clock, card=None)
    subscription = await client.v1.subscriptions.create_async(
        {
            "customer": customer,
            "items": [{"price": shop.basic}],
            "trial_period_days": 1,
            "trial_settings": {"end_behavior": {"missing_payment_method": "pause"}},
        }
    )
    await local.advance_test_clock(clock, at("2027-04-10T00:00:00"))
    card = await client.v1.payment_methods.attach_async("pm_card_visa", {"customer": customer})
    await client.v1.subscriptions.update_async(subscription.id, {"default_payment_method": card.id})

    resumed = await client.v1.subscriptions.resume_async(
        subscription.id, {"billing_cycle_anchor": {"type": "now"}, "expand": ["latest_invoice"]}
    )

    assert resumed.status == "active"
    assert only_item(resumed).current_period_end == at("2027-05-10T00:00:00")
    assert isinstance(resumed.latest_invoice, stripe.Invoice)
    assert resumed.latest_invoice.amount_paid == 1000
    assert "customer.subscription.resumed" in await kinds(client)


async def test_cancellation_at_period_end_can_be_taken_back(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    clock = await shop.clock("2027-04-01T00:00:00")
    subscription = await shop.subscribe(await shop.customer(clock=clock))

    leaving = await client.v1.subscriptions.update_async(subscription.id, {"cancel_at_period_end": True})
    staying = await client.v1.subscriptions.update_async(subscription.id, {"cancel_at_period_end": False})
    await client.v1.subscriptions.update_async(subscription.id, {"cancel_at_period_end": True})
    await local.advance_test_clock(clock, at("2027-05-01T00:00:00"))

    ended = await client.v1.subscriptions.retrieve_async(subscription.id)
    assert (leaving.cancel_at, staying.cancel_at) == (at("2027-05-01T00:00:00"), None)
    assert (ended.status, ended.ended_at) == ("canceled", at("2027-05-01T00:00:00"))
    assert (await kinds(client)).count("customer.subscription.deleted") == 1


async def test_cancelling_now_can_credit_the_unused_time(shop: Shop, client: stripe.StripeClient) -> None:
    clock = await shop.clock("2027-04-01T00:00:00")
    customer = await shop.customer(clock=clock)
    subscription = await shop.subscribe(customer)

    ended = await client.v1.subscriptions.cancel_async(subscription.id, {"invoice_now": True, "prorate": True})

    assert ended.status == "canceled"
    assert (await client.v1.customers.retrieve_async(customer)).balance == -1000


async def test_a_refused_update_changes_nothing(shop: Shop, client: stripe.StripeClient) -> None:
    subscription = await shop.subscribe(await shop.customer())
    someone_elses = await client.v1.payment_methods.create_async({"type": "card", "card": {"token": "tok_visa"}})
    before = subscription.to_dict()

    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.subscriptions.update_async(
            subscription.id, {"metadata": {"a": "b"}, "default_payment_method": someone_elses.id}
        )
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.subscriptions.update_async(subscription.id, {"description": "x", "cancel_at": 1})

    assert (await client.v1.subscriptions.retrieve_async(subscription.id)).to_dict() == before


async def test_an_update_that_must_be_paid_waits_until_it_is(shop: Shop, client: stripe.StripeClient) -> None:
    customer = await shop.customer()
    subscription = await shop.subscribe(customer)
    failing = await client.v1.payment_methods.attach_async("pm_card_chargeCustomerFail", {"customer": customer})
    await client.v1.subscriptions.update_async(subscription.id, {"default_payment_method": failing.id})

    held = await client.v1.subscriptions.update_async(
        subscription.id,
        {
            "items": [{"id": only_item(subscription).id, "price": shop.pro}],
            "payment_behavior": "pending_if_incomplete",
            "proration_behavior": "always_invoice",
        },
    )
    good = await client.v1.payment_methods.attach_async("pm_card_visa", {"customer": customer})
    assert isinstance(held.latest_invoice, str)
    await client.v1.invoices.pay_async(held.latest_invoice, {"payment_method": good.id})

    applied = await client.v1.subscriptions.retrieve_async(subscription.id)
    assert held.pending_update is not None
    assert (only_item(held).price.id, only_item(applied).price.id) == (shop.basic, shop.pro)
    assert (held.status, applied.status, applied.pending_update) == ("active", "active", None)


async def test_voiding_the_invoice_of_a_waiting_update_drops_it(shop: Shop, client: stripe.StripeClient) -> None:
    subscription = await shop.subscribe(await shop.customer())
    failing = await client.v1.payment_methods.attach_async(
        "pm_card_chargeCustomerFail", {"customer": str(subscription.customer)}
    )
    await client.v1.subscriptions.update_async(subscription.id, {"default_payment_method": failing.id})
    change: stripe.params.SubscriptionUpdateParams = {
        "items": [{"id": only_item(subscription).id, "price": shop.pro}],
        "payment_behavior": "pending_if_incomplete",
        "proration_behavior": "always_invoice",
    }

    with pytest.raises(stripe.InvalidRequestError) as refused:
        await client.v1.subscriptions.update_async(subscription.id, {**change, "metadata": {"a": "b"}})
    held = await client.v1.subscriptions.update_async(subscription.id, change)
    await client.v1.invoices.void_invoice_async(str(held.latest_invoice))

    kept = await client.v1.subscriptions.retrieve_async(subscription.id)
    assert refused.value.param == "payment_behavior"
    assert held.pending_update is not None
    assert (kept.pending_update, kept.status, only_item(kept).price.id) == (None, "active", shop.basic)


async def test_a_waiting_update_expires_after_23_hours(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    subscription = await shop.subscribe(await shop.customer())
    failing = await client.v1.payment_methods.attach_async(
        "pm_card_chargeCustomerFail", {"customer": str(subscription.customer)}
    )
    await client.v1.subscriptions.update_async(subscription.id, {"default_payment_method": failing.id})
    held = await client.v1.subscriptions.update_async(
        subscription.id,
        {
            "items": [{"id": only_item(subscription).id, "quantity": 5}],
            "payment_behavior": "pending_if_incomplete",
            "proration_behavior": "always_invoice",
        },
    )

    await local.advance(23 * HOUR)

    kept = await client.v1.subscriptions.retrieve_async(subscription.id)
    assert (kept.pending_update, only_item(kept).quantity) == (None, 1)
    assert (await client.v1.invoices.retrieve_async(str(held.latest_invoice))).status == "void"
    assert "customer.subscription.pending_update_expired" in await kinds(client)


async def test_a_pause_credits_unused_time_and_a_resumption_waits_for_its_payment(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    clock = await shop.clock("2027-04-01T00:00:00")
    customer = await shop.customer(clock=clock)
    subscription = await shop.subscribe(customer)
    await local.advance_test_clock(clock, at("2027-04-16T00:00:00"))

    paused = await client.v1.subscriptions.pause_async(subscription.id)
    await local.advance_test_clock(clock, at("2027-05-20T00:00:00"))
    failing = await client.v1.payment_methods.attach_async("pm_card_chargeCustomerFail", {"customer": customer})
    await client.v1.subscriptions.update_async(subscription.id, {"default_payment_method": failing.id})
    resuming = await client.v1.subscriptions.resume_async(
        subscription.id,
        {"billing_cycle_anchor": {"type": "now"}, "payment_behavior": "resume_on_payment_success"},
    )
    good = await client.v1.payment_methods.attach_async("pm_card_visa", {"customer": customer})
    paid = await client.v1.invoices.pay_async(str(resuming.latest_invoice), {"payment_method": good.id})

    resumed = await client.v1.subscriptions.retrieve_async(subscription.id)
    assert (paused.status, resuming.status, resumed.status) == ("paused", "paused", "active")
    assert [line.amount for line in paid.lines.data] == [-500, 1000]
    assert only_item(resumed).current_period_end == at("2027-06-20T00:00:00")


async def test_the_clock_of_everything_renews_by_hand(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    subscription = await shop.subscribe(await shop.customer())
    end = only_item(subscription).current_period_end

    await local.advance_to(end + 2 * HOUR)

    renewed = await client.v1.subscriptions.retrieve_async(subscription.id, {"expand": ["latest_invoice"]})
    assert only_item(renewed).current_period_start == end
    assert isinstance(renewed.latest_invoice, stripe.Invoice)
    assert renewed.latest_invoice.status == "paid"
    assert "invoice.upcoming" in await kinds(client)


async def test_a_coupon_takes_its_part_off(shop: Shop, client: stripe.StripeClient) -> None:
    coupon = await client.v1.coupons.create_async({"percent_off": 25, "duration": "once"})
    code = await client.v1.promotion_codes.create_async(
        {"promotion": {"type": "coupon", "coupon": coupon.id}, "code": "WELCOME"}
    )

    subscription = await client.v1.subscriptions.create_async(
        {
            "customer": await shop.customer(),
            "items": [{"price": shop.basic}],
            "discounts": [{"promotion_code": code.id}],
            "expand": ["latest_invoice"],
        }
    )

    assert isinstance(subscription.latest_invoice, stripe.Invoice)
    assert (subscription.latest_invoice.subtotal, subscription.latest_invoice.total) == (1000, 750)
