"""The endpoints of subscriptions."""

from __future__ import annotations

from typing import Final

from stripe import params

from tallygate_local_stripe import billing, invoices, subscriptions
from tallygate_local_stripe.errors import refused
from tallygate_local_stripe.invoices import Line
from tallygate_local_stripe.objects import JsonObject
from tallygate_local_stripe.routing import Call, Routes
from tallygate_local_stripe.subscription_changes import update_subscription
from tallygate_local_stripe.subscription_creation import create_subscription
from tallygate_local_stripe.subscriptions import ENDED, UPDATED, items_of

routes = Routes()


@routes("POST", "/v1/subscriptions", params.SubscriptionCreateParams)
def create(call: Call) -> JsonObject:
    """Create a subscription."""
    return create_subscription(call.world, call.params)


@routes("GET", "/v1/subscriptions", params.SubscriptionListParams)
def list_all(call: Call) -> JsonObject:
    """List subscriptions: without a status all but canceled ones; those on test clocks by clock or customer only."""
    status, price, clock = call.get("status"), call.get("price"), call.get("test_clock")

    def wanted(subscription: JsonObject) -> bool:
        state = subscription["status"]
        fits = {None: state != "canceled", "all": True, "ended": state in ENDED}.get(status, state == status)
        return (
            fits
            and (price is None or any(item["price"]["id"] == price for item in items_of(subscription)))
            and (subscription["test_clock"] == clock or (clock is None and "customer" in call.params))
            and all(_period_matches(subscription, name, call.get(name)) for name in _PERIOD_FILTERS)
        )

    ignoring = frozenset({"status", "price", "test_clock", *_PERIOD_FILTERS})
    return call.page(list(call.world.store.all("subscription", wanted)), ignoring=ignoring)


_PERIOD_FILTERS: Final = ("current_period_start", "current_period_end")


def _period_matches(subscription: JsonObject, name: str, wanted: JsonObject | int | None) -> bool:
    if wanted is None:
        return True
    bounds = wanted if isinstance(wanted, dict) else {"gte": wanted, "lte": wanted}
    low, high = max(bounds.get("gte", 0), bounds.get("gt", -1) + 1), bounds.get("lte", bounds.get("lt", 1 << 62) - 1)
    return any(low <= item[name] <= high for item in items_of(subscription))


@routes("GET", "/v1/subscriptions/{id}", params.SubscriptionRetrieveParams)
def retrieve(call: Call) -> JsonObject:
    """Return a subscription."""
    return call.world.store.get("subscription", call.id)


@routes("POST", "/v1/subscriptions/{id}", params.SubscriptionUpdateParams)
def update(call: Call) -> JsonObject:
    """Change a subscription."""
    subscription = call.world.store.get("subscription", call.id)
    update_subscription(call.world, subscription, call.params)
    return subscription


@routes("DELETE", "/v1/subscriptions/{id}", params.SubscriptionCancelParams)
def cancel(call: Call) -> JsonObject:
    """Cancel a subscription now, with a last invoice or credit if asked for."""
    world = call.world
    subscription = world.store.get("subscription", call.id)
    if subscription["status"] in ENDED:
        raise refused(f"No such subscription: '{call.id}'", code="resource_missing", param="id")
    lines: list[Line] = []
    if call.get("prorate") and subscription["status"] not in ("trialing", "incomplete"):
        now = world.now(subscription)
        lines = [billing.unused_time(world, item, now) for item in items_of(subscription)]
        invoices.keep_for_next(world, subscription, lines)
    if call.get("invoice_now") and invoices.pending_items(world, subscription):
        invoice = subscriptions.invoice_now(world, subscription, reason="manual", lines=[])
        subscriptions.collect_first(world, subscription, invoice, on_session=False)
    subscription["cancellation_details"] |= call.get("cancellation_details") or {}
    subscriptions.end(world, subscription, reason="cancellation_requested")
    return subscription


@routes("POST", "/v1/subscriptions/{id}/pause", params.SubscriptionPauseParams)
def pause(call: Call) -> JsonObject:
    """Pause a subscription; unused time is credited unless asked otherwise."""
    world = call.world
    subscription = world.store.get("subscription", call.id)
    if subscription["status"] not in ("active", "trialing", "past_due"):
        raise refused(f"A subscription that is {subscription['status']} cannot be paused.")
    chosen = ((call.get("bill_for") or {}).get("unused_time_from") or {}).get("type", "now")
    if chosen != "none" and subscription["status"] != "trialing":
        now = world.now(subscription)
        lines = [
            billing.unused_time(world, item, now if chosen == "now" else item["current_period_start"])
            for item in items_of(subscription)
        ]
        invoices.keep_for_next(world, subscription, lines)
        if call.get("invoicing_behavior") == "invoice":
            subscriptions.invoice_now(world, subscription, reason="subscription_update", lines=[])
    subscriptions.pause(world, subscription, cause="pause_requested")
    return subscription


@routes("POST", "/v1/subscriptions/{id}/resume", params.SubscriptionResumeParams)
def resume(call: Call) -> JsonObject:
    """Resume a paused subscription: active at once, or when its invoice is paid."""
    world = call.world
    subscription = world.store.get("subscription", call.id)
    if subscription["status"] != "paused":
        raise refused("A subscription can only be resumed if its status is `paused`.")
    now = world.now(subscription)
    restart = (call.get("billing_cycle_anchor") or {}).get("type", "now") == "now"
    with world.updating(UPDATED, subscription):
        if restart:
            subscription["billing_cycle_anchor"] = now
        for item in items_of(subscription):
            billing.set_period(item, subscription["billing_cycle_anchor"], now)
    lines = subscriptions.period_lines(world, subscription, items_of(subscription))
    if not restart and call.get("proration_behavior") == "none":
        lines = []
    invoice = subscriptions.invoice_now(world, subscription, reason="subscription_update", lines=lines)
    waits = call.get("payment_behavior") == "resume_on_payment_success" and invoice["status"] == "open"
    if waits:
        subscription["_resume_invoice"] = invoice["id"]
    else:
        subscriptions.activate(world, subscription)
    subscriptions.arm(world, subscription)
    subscriptions.collect_first(world, subscription, invoice, on_session=True)
    return subscription


@routes("GET", "/v1/subscription_items", params.SubscriptionItemListParams)
def list_items(call: Call) -> JsonObject:
    """List the items of a subscription."""
    subscription = call.world.store.get("subscription", call.get("subscription"), param="subscription")
    return call.page(list(reversed(items_of(subscription))), ignoring=frozenset({"subscription"}))


@routes("DELETE", "/v1/customers/{id}")
def delete_customer(call: Call) -> JsonObject:
    """Delete a customer, which ends its subscriptions at once."""
    world = call.world
    customer = world.store.get("customer", call.id)
    for subscription in world.store.all("subscription", lambda entry: entry["customer"] == call.id):
        if subscription["status"] not in ENDED:
            subscriptions.end(world, subscription, reason="cancellation_requested")
    world.emit("customer.deleted", customer)
    world.store.remove("customer", call.id)
    gone = {"id": call.id, "object": "customer", "deleted": True, "test_clock": customer["test_clock"]}
    world.store.tables.setdefault("deleted_customer", {})[call.id] = gone
    return {"id": call.id, "object": "customer", "deleted": True}
