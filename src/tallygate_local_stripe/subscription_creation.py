"""Begins subscriptions: their first period, their first invoice, and how that is paid."""

from __future__ import annotations

from typing import Final

from tallygate_local_stripe import billing, catalog, invoices, payment_methods, subscriptions
from tallygate_local_stripe.errors import StripeError, missing_parameter, refuse_unsupported, refused
from tallygate_local_stripe.invoices import Line
from tallygate_local_stripe.objects import JsonObject, build, listing, merge_metadata
from tallygate_local_stripe.periods import DAY
from tallygate_local_stripe.subscriptions import ENDED, items_of, set_cancellation
from tallygate_local_stripe.world import World

# Parameters that would change what is paid and that the local Stripe does not work out: refused rather than ignored.
UNSUPPORTED: Final = (
    "add_invoice_items",
    "backdate_start_date",
    "billing_cycle_anchor_config",
    "billing_schedules",
    "billing_thresholds",
    "default_tax_rates",
    "pending_invoice_item_interval",
    "transfer_data",
    "trial_from_plan",
)


def create_subscription(world: World, given: JsonObject, *, session: JsonObject | None = None) -> JsonObject:
    """Create a subscription from checked parameters; a checkout session has its customer pay in the same breath."""
    refuse_unsupported(given, UNSUPPORTED)
    customer = world.store.get("customer", given.get("customer") or "", param="customer")
    if not given.get("items"):
        raise missing_parameter("items")
    subscription = blank(world, customer, given)
    plan = billing.plan_change(world, subscription, given["items"], at=world.now(customer))
    subscription["currency"] = plan.items[0]["price"]["currency"]
    if customer["currency"] not in (None, subscription["currency"]):
        raise refused(f"You cannot combine currencies on a single customer. This customer has {customer['currency']}.")
    subscriptions.set_items(subscription, plan.items)
    _set_first_period(world, subscription, given)
    if "default_payment_method" in given:
        subscription["default_payment_method"] = payment_methods.owned(
            world, given["default_payment_method"], customer, param="default_payment_method"
        )
    behaviour = given.get("payment_behavior", "allow_incomplete")
    if session is None:
        _refuse_unpayable(world, subscription, behaviour, on_session=not given.get("off_session", False))
    subscription["discounts"] = catalog.redeem(world, given.get("discounts"), subscription)
    set_cancellation(world, subscription, given)
    world.store.keep(subscription)
    free_stub = given.get("proration_behavior") == "none" and subscription["billing_cycle_anchor"] > world.now(customer)
    lines = [] if free_stub else subscriptions.period_lines(world, subscription, items_of(subscription))
    return _begin(world, subscription, lines, behaviour, on_session=not given.get("off_session", False))


def blank(world: World, customer: JsonObject, given: JsonObject) -> JsonObject:
    """Build a subscription without items; nothing is stored."""
    now = world.now(customer)
    return build(
        "subscription",
        {
            "automatic_tax": {"enabled": bool((given.get("automatic_tax") or {}).get("enabled", False))},
            "billing_cycle_anchor": given.get("billing_cycle_anchor", now),
            "billing_mode": {"type": "flexible", "flexible": {"proration_discounts": "included"}}
            | (given.get("billing_mode") or {}),
            "cancellation_details": {},
            "collection_method": given.get("collection_method", "charge_automatically"),
            "created": now,
            "currency": "",
            "customer": customer["id"],
            "days_until_due": given.get("days_until_due"),
            "description": given.get("description"),
            "invoice_settings": {"issuer": {"type": "self"}},
            "items": listing("/v1/subscription_items", []) | {"total_count": 0},
            "metadata": merge_metadata({}, given.get("metadata")),
            "payment_settings": {"save_default_payment_method": "off"} | _scalars(given.get("payment_settings")),
            "start_date": now,
            "status": "incomplete",
            "test_clock": customer["test_clock"],
            "trial_settings": trial_settings(given.get("trial_settings")),
        },
    )


def _scalars(given: JsonObject | None) -> JsonObject:
    return {name: value for name, value in (given or {}).items() if not isinstance(value, dict | list)}


def trial_settings(given: JsonObject | None) -> JsonObject:
    """Return the trial settings with what is not given at its default."""
    chosen = (given or {}).get("end_behavior", {})
    return {"end_behavior": {"billing_cycle_anchor": None, "missing_payment_method": "create_invoice"} | chosen}


def _set_first_period(world: World, subscription: JsonObject, given: JsonObject) -> None:
    now = world.now(subscription)
    trial_end = given.get("trial_end")
    if trial_end is None and given.get("trial_period_days"):
        trial_end = now + given["trial_period_days"] * DAY
    if trial_end not in (None, "now"):
        if trial_end <= now:
            raise refused("Invalid timestamp: must be an integer Unix timestamp in the future.", param="trial_end")
        for item in items_of(subscription):
            item["current_period_start"] = now
        subscriptions.begin_trial(world, subscription, trial_end)
        return
    anchor = given.get("billing_cycle_anchor", now)
    for item in items_of(subscription):
        billing.set_period(item, anchor, now)
    if anchor > min(item["current_period_end"] for item in items_of(subscription)):
        raise refused(
            "billing_cycle_anchor cannot be later than next natural billing date", param="billing_cycle_anchor"
        )


def _refuse_unpayable(world: World, subscription: JsonObject, behaviour: str, *, on_session: bool) -> None:
    """Refuse what cannot be collected, before anything exists."""
    automatic = subscription["collection_method"] == "charge_automatically"
    free = subscription["status"] == "trialing" or billing.total_of(items_of(subscription)) == 0
    if not automatic or free or behaviour in ("default_incomplete", "pending_if_incomplete"):
        return
    method = invoices.method_for(world, subscription)
    if method is None:
        raise refused(
            "This customer has no attached payment source or default payment method. Please consider adding a default"
            " payment method.",
            code="resource_missing",
        )
    if behaviour == "error_if_incomplete":
        refuse_unless_chargeable(method, on_session=on_session)


def refuse_unless_chargeable(method: JsonObject | None, *, on_session: bool) -> None:
    """Raise the 402 of a payment that would fail.

    Raises:
        StripeError: it would fail.

    """
    if method is None:
        raise StripeError("There is no payment method to charge.", status=402, kind="card_error", code="missing")
    outcome = payment_methods.behaviour(method)
    if outcome == payment_methods.NEEDS_ACTION and on_session:
        raise StripeError(
            "Payment for this subscription requires additional user action before it can be completed successfully.",
            status=402,
            kind="card_error",
            code="subscription_payment_intent_requires_action",
        )
    if outcome != payment_methods.SUCCEEDS:
        raise payment_methods.decline_of(method)


def _begin(
    world: World, subscription: JsonObject, lines: list[Line], behaviour: str, *, on_session: bool
) -> JsonObject:
    """Announce a subscription with its first invoice, and collect that if it shall be."""
    by_hand = subscription["collection_method"] == "send_invoice"
    if by_hand and subscription["status"] == "incomplete":
        subscription["status"] = "active"
    now = world.now(subscription)
    # The first invoice is drafted before the subscription is announced, so that the event's snapshot names it.
    invoice = invoices.draft(world, subscription, reason="subscription_create", lines=lines, start=now, end=now)
    world.emit("customer.subscription.created", subscription)
    if by_hand and invoice["amount_due"] > 0:
        invoice["due_date"] = now + (subscription["days_until_due"] or 30) * DAY
        invoices.finalize_later(world, invoice)
    else:
        invoices.finalize(world, invoice)
    if subscription["status"] == "incomplete":
        moment = now + world.settings.incomplete_expires_seconds
        world.later(subscription, moment, "subscription.expire_incomplete")
        if behaviour == "default_incomplete":
            await_confirmation(world, subscription, invoice)
        else:
            subscriptions.collect_first(world, subscription, invoice, on_session=on_session)
    if subscription["status"] not in ENDED:
        subscriptions.arm(world, subscription)
    return subscription


def await_confirmation(world: World, subscription: JsonObject, invoice: JsonObject) -> None:
    """Leave an open invoice to the client, who confirms its intent."""
    method = invoices.method_for(world, subscription)
    if method is not None and invoice["status"] == "open":
        intent = world.store.get("payment_intent", invoice["_intent"])
        intent |= {"payment_method": method["id"], "status": "requires_confirmation"}
