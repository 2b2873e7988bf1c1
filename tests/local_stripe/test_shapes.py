"""Every object has the shape that the pinned SDK gives its class: no field too many, none missing."""

from __future__ import annotations

import typing
from typing import Any, get_args, get_origin

import pytest
import stripe
from stripe._stripe_object import UntypedStripeObject

from tallygate_local_stripe.objects import LEFT_OUT
from tests.local_stripe.conftest import DAY, Shop, at, only_item
from tests.support.local_stripe import LocalStripe

CLASSES: dict[str, type] = {
    "/v1/billing_portal/configurations": stripe.billing_portal.Configuration,
    "/v1/charges": stripe.Charge,
    "/v1/checkout/sessions": stripe.checkout.Session,
    "/v1/coupons": stripe.Coupon,
    "/v1/customers": stripe.Customer,
    "/v1/disputes": stripe.Dispute,
    "/v1/events": stripe.Event,
    "/v1/invoice_payments": stripe.InvoicePayment,
    "/v1/invoiceitems": stripe.InvoiceItem,
    "/v1/invoices": stripe.Invoice,
    "/v1/payment_intents": stripe.PaymentIntent,
    "/v1/prices": stripe.Price,
    "/v1/products": stripe.Product,
    "/v1/promotion_codes": stripe.PromotionCode,
    "/v1/refunds": stripe.Refund,
    "/v1/subscription_schedules": stripe.SubscriptionSchedule,
    "/v1/subscriptions?status=all": stripe.Subscription,
    "/v1/test_helpers/test_clocks": stripe.test_helpers.TestClock,
    "/v1/webhook_endpoints": stripe.WebhookEndpoint,
}


def own_class(annotation: Any) -> type | None:
    """Return the class of a part of an object, or of the entries of a list in it."""
    if isinstance(annotation, type) and issubclass(annotation, stripe.StripeObject):
        return None if issubclass(annotation, UntypedStripeObject) else annotation
    if get_origin(annotation) in (typing.Union, list):
        return next((found for found in map(own_class, get_args(annotation)) if found is not None), None)
    return None


def differences(cls: type, shown: dict[str, Any], where: str) -> list[str]:
    """Return how an object differs from its class."""
    fields = {name: hint for name, hint in cls.__annotations__.items() if name != "OBJECT_NAME"}
    found = [f"{where}.{name} is not of this version" for name in shown if name not in fields]
    for name, hint in fields.items():
        value = shown.get(name)
        if name not in shown:
            needed = type(None) not in get_args(hint) and name not in LEFT_OUT.get(shown.get("object", ""), ())
            found += [f"{where}.{name} is missing"] if needed else []
            continue
        inner = own_class(hint)
        for entry in value if isinstance(value, list) else [value]:
            if inner is not None and isinstance(entry, dict) and "object" not in entry:
                found += differences(inner, entry, f"{where}.{name}")
    return found


@pytest.fixture
async def busy(local: LocalStripe, shop: Shop, client: stripe.StripeClient) -> LocalStripe:
    """Have a little of everything happen."""
    await local.add_endpoint("http://127.0.0.1:9/nobody", enabled_events=["charge.expired"])
    clock = await shop.clock("2027-04-01T00:00:00")
    coupon = await client.v1.coupons.create_async({"amount_off": 100, "currency": "usd", "duration": "forever"})
    await client.v1.promotion_codes.create_async({"promotion": {"type": "coupon", "coupon": coupon.id}})
    customer = await shop.customer()
    discounts: list[stripe.params.SubscriptionCreateParamsDiscount] = [{"coupon": coupon.id}]
    subscription = await client.v1.subscriptions.create_async(
        {"customer": customer, "items": [{"price": shop.basic}], "discounts": discounts}
    )
    change: stripe.params.SubscriptionUpdateParamsItem = {"id": only_item(subscription).id, "price": shop.pro}
    await client.v1.subscriptions.update_async(subscription.id, {"items": [change]})
    await client.v1.subscription_schedules.create_async({"from_subscription": subscription.id})
    failing = await client.v1.payment_methods.attach_async("pm_card_chargeCustomerFail", {"customer": customer})
    held = await shop.subscribe(customer)
    await client.v1.subscriptions.update_async(
        held.id, {"default_payment_method": failing.id, "pause_collection": {"behavior": "void"}}
    )
    await client.v1.subscriptions.update_async(
        held.id,
        {
            "items": [{"id": only_item(held).id, "quantity": 2}],
            "payment_behavior": "pending_if_incomplete",
            "proration_behavior": "always_invoice",
        },
    )
    paused = await shop.subscribe(await shop.customer())
    await client.v1.subscriptions.pause_async(paused.id)
    timed = await shop.customer(clock=clock)
    await client.v1.subscriptions.create_async(
        {"customer": timed, "items": [{"price": shop.basic}], "trial_period_days": 5}
    )
    await local.advance_test_clock(clock, at("2027-04-10T00:00:00"))
    session = await client.v1.checkout.sessions.create_async(
        {
            "mode": "subscription",
            "line_items": [{"price": shop.basic, "quantity": 1}],
            "discounts": [{"coupon": coupon.id}],
        }
    )
    await local.complete_checkout(session.id)
    [charge, *_] = (await client.v1.charges.list_async({"customer": customer})).data
    good = next(c for c in (await client.v1.charges.list_async()).data if c.status == "succeeded")
    await client.v1.refunds.create_async({"charge": good.id})
    await local.dispute(good.id)
    await client.v1.billing_portal.sessions.create_async({"customer": customer})
    await client.v1.subscriptions.cancel_async(paused.id)
    await local.advance(40 * DAY)
    assert charge.status == "failed"
    return local


async def test_all_objects_have_the_shape_of_the_pinned_version(busy: LocalStripe) -> None:
    headers = {"Authorization": "Bearer sk_test_local"}
    found: list[str] = []
    empty: list[str] = []
    for path, cls in CLASSES.items():
        listed = (await busy.http.get(path, params={"limit": 100}, headers=headers)).json()["data"]
        empty += [] if listed else [path]
        for entry in listed:
            found += differences(cls, entry, cls.__name__)
            for line in entry["lines"]["data"] if cls is stripe.Invoice else []:
                found += differences(stripe.InvoiceLineItem, line, "InvoiceLineItem")
            for item in entry["items"]["data"] if cls is stripe.Subscription else []:
                found += differences(stripe.SubscriptionItem, item, "SubscriptionItem")

    assert sorted(set(found)) == []
    assert empty == []


async def test_nothing_of_ours_is_shown(busy: LocalStripe) -> None:
    headers = {"Authorization": "Bearer sk_test_local"}
    events = await busy.http.get("/v1/events", params={"limit": 100}, headers=headers)
    subscriptions = await busy.http.get("/v1/subscriptions", params={"status": "all"}, headers=headers)

    assert '"_' not in events.text
    assert '"_' not in subscriptions.text
