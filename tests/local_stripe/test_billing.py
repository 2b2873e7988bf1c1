"""Paths of billing that other tests do not take: cycles, several items, clients that confirm, invoices by hand."""

from __future__ import annotations

import pytest
import stripe

from tests.local_stripe.conftest import DAY, HOUR, Shop, at, only_item
from tests.support.local_stripe import LocalStripe


async def test_a_trial_can_be_ended_now_and_is_then_paid(shop: Shop, client: stripe.StripeClient) -> None:
    clock = await shop.clock("2027-04-01T00:00:00")
    trial = await client.v1.subscriptions.create_async(
        {"customer": await shop.customer(clock=clock), "items": [{"price": shop.basic}], "trial_period_days": 30}
    )

    ended = await client.v1.subscriptions.update_async(trial.id, {"trial_end": "now", "expand": ["latest_invoice"]})

    assert (trial.status, only_item(trial).current_period_end) == ("trialing", at("2027-05-01T00:00:00"))
    assert (ended.status, ended.trial_end) == ("active", at("2027-04-01T00:00:00"))
    assert isinstance(ended.latest_invoice, stripe.Invoice)
    assert (ended.latest_invoice.amount_paid, len(ended.latest_invoice.lines.data)) == (1000, 1)


async def test_a_trial_can_be_made_longer(local: LocalStripe, shop: Shop, client: stripe.StripeClient) -> None:
    clock = await shop.clock("2027-04-01T00:00:00")
    trial = await client.v1.subscriptions.create_async(
        {"customer": await shop.customer(clock=clock), "items": [{"price": shop.basic}], "trial_period_days": 5}
    )

    await client.v1.subscriptions.update_async(trial.id, {"trial_end": at("2027-04-20T00:00:00")})
    await local.advance_test_clock(clock, at("2027-04-19T00:00:00"))
    longer = await client.v1.subscriptions.retrieve_async(trial.id)
    await local.advance_test_clock(clock, at("2027-04-20T02:00:00"))

    paying = await client.v1.subscriptions.retrieve_async(trial.id)
    assert (longer.status, paying.status) == ("trialing", "active")
    assert only_item(paying).current_period_end == at("2027-05-20T00:00:00")


async def test_a_first_period_up_to_an_anchor_costs_its_share(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    clock = await shop.clock("2027-04-21T00:00:00")
    subscription = await client.v1.subscriptions.create_async(
        {
            "customer": await shop.customer(clock=clock),
            "items": [{"price": shop.pro}],
            "billing_cycle_anchor": at("2027-05-01T00:00:00"),
            "expand": ["latest_invoice"],
        }
    )
    await local.advance_test_clock(clock, at("2027-05-01T02:00:00"))

    [renewal, first] = (await client.v1.invoices.list_async({"subscription": subscription.id})).data
    assert (first.total, renewal.total) == (1000, 3000)
    assert only_item(subscription).current_period_end == at("2027-05-01T00:00:00")


async def test_items_of_two_intervals_renew_each_in_its_time(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    clock = await shop.clock("2027-04-01T00:00:00")
    subscription = await client.v1.subscriptions.create_async(
        {
            "customer": await shop.customer(clock=clock),
            "items": [{"price": shop.basic}, {"price": shop.pro_yearly, "quantity": 2}],
        }
    )
    for moment in ("2027-05-01T02:00:00", "2027-06-01T02:00:00"):
        await local.advance_test_clock(clock, at(moment))

    renewed = await client.v1.subscriptions.retrieve_async(subscription.id)
    invoices = (await client.v1.invoices.list_async({"subscription": subscription.id})).data
    assert [invoice.total for invoice in invoices] == [1000, 1000, 61000]
    assert [item.current_period_end for item in renewed["items"].data] == [
        at("2027-07-01T00:00:00"),
        at("2028-04-01T00:00:00"),
    ]


async def test_items_are_added_and_deleted_with_their_prorations(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    clock = await shop.clock("2027-04-01T00:00:00")
    subscription = await shop.subscribe(await shop.customer(clock=clock))
    await local.advance_test_clock(clock, at("2027-04-16T00:00:00"))

    changed = await client.v1.subscriptions.update_async(
        subscription.id,
        {
            "items": [{"id": only_item(subscription).id, "deleted": True}, {"price": shop.pro}],
            "proration_behavior": "always_invoice",
            "expand": ["latest_invoice"],
        },
    )

    assert isinstance(changed.latest_invoice, stripe.Invoice)
    assert [line.amount for line in changed.latest_invoice.lines.data] == [-500, 1500]
    assert only_item(changed).current_period_end == at("2027-05-01T00:00:00")
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.subscriptions.update_async(subscription.id, {"items": [{"price": shop.pro}]})


async def test_a_downgrade_now_leaves_credit_for_the_next_invoice(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    clock = await shop.clock("2027-04-01T00:00:00")
    customer = await shop.customer(clock=clock)
    subscription = await shop.subscribe(customer, shop.pro)
    await local.advance_test_clock(clock, at("2027-04-16T00:00:00"))

    await client.v1.subscriptions.update_async(
        subscription.id,
        {"items": [{"id": only_item(subscription).id, "price": shop.basic}], "proration_behavior": "always_invoice"},
    )
    credit = (await client.v1.customers.retrieve_async(customer)).balance
    await local.advance_test_clock(clock, at("2027-05-01T02:00:00"))

    [renewal, *_] = (await client.v1.invoices.list_async({"subscription": subscription.id})).data
    assert credit == -1000
    assert (renewal.total, renewal.starting_balance, renewal.amount_due, renewal.status) == (1000, -1000, 0, "paid")
    assert (await client.v1.customers.retrieve_async(customer)).balance == 0


async def test_a_client_confirms_the_first_payment(shop: Shop, client: stripe.StripeClient) -> None:
    customer = await shop.customer(card=None)
    subscription = await client.v1.subscriptions.create_async(
        {
            "customer": customer,
            "items": [{"price": shop.basic}],
            "payment_behavior": "default_incomplete",
            "payment_settings": {"save_default_payment_method": "on_subscription"},
        }
    )
    [intent] = (await client.v1.payment_intents.list_async({"customer": customer})).data
    with pytest.raises(stripe.CardError):
        await client.v1.payment_intents.confirm_async(intent.id, {"payment_method": "pm_card_chargeCustomerFail"})

    confirmed = await client.v1.payment_intents.confirm_async(intent.id, {"payment_method": "pm_card_visa"})

    active = await client.v1.subscriptions.retrieve_async(subscription.id)
    assert (subscription.status, confirmed.status, active.status) == ("incomplete", "succeeded", "active")
    assert active.default_payment_method == confirmed.payment_method


async def test_an_invoice_can_be_paid_elsewhere_or_written_off(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    clock = await shop.clock("2027-04-01T00:00:00")
    subscription = await client.v1.subscriptions.create_async(
        {
            "customer": await shop.customer(clock=clock, card=None),
            "items": [{"price": shop.basic}],
            "collection_method": "send_invoice",
            "days_until_due": 14,
        }
    )
    await local.advance_test_clock(clock, at("2027-04-01T02:00:00"))

    written_off = await client.v1.invoices.mark_uncollectible_async(str(subscription.latest_invoice))
    paid = await client.v1.invoices.pay_async(written_off.id, {"paid_out_of_band": True})

    assert subscription.status == "active"
    assert (written_off.status, written_off.due_date) == ("uncollectible", at("2027-04-15T00:00:00"))
    assert (paid.status, paid.amount_paid_off_stripe) == ("paid", 1000)


async def test_paused_collection_voids_renewals_until_it_resumes(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    clock = await shop.clock("2027-04-01T00:00:00")
    subscription = await shop.subscribe(await shop.customer(clock=clock))
    await client.v1.subscriptions.update_async(
        subscription.id, {"pause_collection": {"behavior": "void", "resumes_at": at("2027-05-15T00:00:00")}}
    )
    for moment in ("2027-05-01T02:00:00", "2027-06-01T02:00:00"):
        await local.advance_test_clock(clock, at(moment))

    invoices = (await client.v1.invoices.list_async({"subscription": subscription.id})).data
    kept = await client.v1.subscriptions.retrieve_async(subscription.id)
    assert [invoice.status for invoice in invoices] == ["paid", "void", "paid"]
    assert (kept.status, kept.pause_collection) == ("active", None)


async def test_previews_show_the_renewal_and_a_first_invoice(shop: Shop, client: stripe.StripeClient) -> None:
    clock = await shop.clock("2027-04-01T00:00:00")
    customer = await shop.customer(clock=clock)
    subscription = await shop.subscribe(customer)
    item = only_item(subscription).id

    renewal = await client.v1.invoices.create_preview_async({"subscription": subscription.id})
    recurring = await client.v1.invoices.create_preview_async(
        {
            "subscription": subscription.id,
            "preview_mode": "recurring",
            "subscription_details": {"items": [{"id": item, "price": shop.pro_yearly}], "proration_behavior": "none"},
        }
    )
    first = await client.v1.invoices.create_preview_async(
        {"customer": customer, "subscription_details": {"items": [{"price": shop.pro, "quantity": 2}]}}
    )
    with pytest.raises(stripe.InvalidRequestError) as nothing:
        await client.v1.invoices.create_preview_async(
            {"subscription": subscription.id, "subscription_details": {"cancel_at_period_end": True}}
        )

    assert [preview.total for preview in (renewal, recurring, first)] == [1000, 30000, 6000]
    assert renewal.id.startswith("upcoming_in_")
    assert nothing.value.code == "invoice_upcoming_none"
    assert (await client.v1.subscriptions.retrieve_async(subscription.id)).to_dict() == subscription.to_dict()


async def test_the_upcoming_invoice_has_no_id(local: LocalStripe, shop: Shop, client: stripe.StripeClient) -> None:
    clock = await shop.clock("2027-04-01T00:00:00")
    await shop.subscribe(await shop.customer(clock=clock))

    await local.advance_test_clock(clock, at("2027-04-24T00:00:00"))

    [event] = (await client.v1.events.list_async({"type": "invoice.upcoming"})).data
    assert "id" not in event.data.object.to_dict()
    assert event.created == at("2027-04-24T00:00:00")


async def test_a_test_clock_moves_two_intervals_at_most_and_takes_its_customers_with_it(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    clocks = client.v1.test_helpers.test_clocks
    clock = await shop.clock("2027-04-01T00:00:00")
    customer = await shop.customer(clock=clock)
    subscription = await shop.subscribe(customer)
    elsewhere = await shop.subscribe(await shop.customer())

    with pytest.raises(stripe.InvalidRequestError):
        await clocks.advance_async(clock, {"frozen_time": at("2027-06-01T00:00:01")})
    advancing = await clocks.advance_async(clock, {"frozen_time": at("2027-06-01T00:00:00")})
    listed = await client.v1.subscriptions.list_async({"test_clock": clock})
    unnamed = await client.v1.subscriptions.list_async()
    await clocks.delete_async(clock)

    assert advancing.status == "advancing"
    assert [entry.id for entry in listed.data] == [subscription.id]
    assert [entry.id for entry in unnamed.data] == [elsewhere.id]
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.customers.retrieve_async(customer)


async def test_a_cancellation_at_a_time_comes_then(local: LocalStripe, shop: Shop, client: stripe.StripeClient) -> None:
    subscription = await shop.subscribe(await shop.customer())
    moment = await local.now() + 10 * DAY

    await client.v1.subscriptions.update_async(subscription.id, {"cancel_at": moment})
    await local.advance(10 * DAY + HOUR)

    ended = await client.v1.subscriptions.retrieve_async(subscription.id)
    assert (ended.status, ended.ended_at) == ("canceled", moment)
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.subscriptions.update_async(subscription.id, {"quantity": 2})  # type: ignore[arg-type]


async def test_moving_from_free_to_paid_begins_a_cycle(shop: Shop, client: stripe.StripeClient) -> None:
    customer = await shop.customer()
    free = await shop.subscribe(customer, shop.free)

    paid = await client.v1.subscriptions.update_async(
        free.id, {"items": [{"id": only_item(free).id, "price": shop.pro}], "expand": ["latest_invoice"]}
    )

    assert (free.status, paid.status) == ("active", "active")
    assert isinstance(paid.latest_invoice, stripe.Invoice)
    assert (paid.latest_invoice.total, paid.latest_invoice.status) == (3000, "paid")


async def test_what_is_not_worked_out_is_refused(shop: Shop, client: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await client.v1.subscriptions.create_async(
            {
                "customer": await shop.customer(),
                "items": [{"price": shop.basic}],
                "add_invoice_items": [{"price": shop.basic}],
            }
        )

    assert (refused.value.code, refused.value.param) == ("local_stripe_unsupported", "add_invoice_items")
