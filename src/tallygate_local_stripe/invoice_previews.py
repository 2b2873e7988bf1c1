"""Previews of invoices: what a change, or the next renewal, would bring. Nothing is stored."""

from __future__ import annotations

from typing import Final

from stripe import params

from tallygate_local_stripe import billing, invoices, subscriptions
from tallygate_local_stripe.errors import refuse_unsupported, refused
from tallygate_local_stripe.invoices import Line
from tallygate_local_stripe.objects import JsonObject, build, listing, new_id
from tallygate_local_stripe.routing import Call, Routes
from tallygate_local_stripe.subscription_changes import plan_of
from tallygate_local_stripe.subscription_creation import UNSUPPORTED, blank
from tallygate_local_stripe.subscriptions import ENDED, items_of, period_end
from tallygate_local_stripe.world import World

routes = Routes()

_UNSUPPORTED: Final = ("discounts", "invoice_items", "schedule", "schedule_details")
_UNSUPPORTED_OF_SUBSCRIPTION: Final = ("cancel_at", "pause", "resume_at", "start_date")


@routes("POST", "/v1/invoices/create_preview", params.InvoiceCreatePreviewParams)
def create_preview(call: Call) -> JsonObject:
    """Return the invoice that a change, or the next renewal, would bring; nothing is stored."""
    world = call.world
    details = call.get("subscription_details") or {}
    refuse_unsupported(call.params, _UNSUPPORTED)
    refuse_unsupported(details, UNSUPPORTED + _UNSUPPORTED_OF_SUBSCRIPTION, where="subscription_details")
    if "subscription" not in call.params:
        return _preview_of_new(world, call.params, details)
    subscription = world.store.get("subscription", call.get("subscription"), param="subscription")
    if subscription["status"] in ENDED:
        raise refused("No upcoming invoices for customer", code="invoice_upcoming_none")
    at = details.get("proration_date", world.now(subscription))
    if details.get("cancel_now"):
        lines = [billing.unused_time(world, item, at) for item in items_of(subscription)]
        return _preview(world, subscription, lines, at=at)
    change = plan_of(world, subscription, details)
    if change is None:
        cancel_at = subscription["cancel_at"]
        if details.get("cancel_at_period_end") or (cancel_at is not None and cancel_at <= period_end(subscription)):
            raise refused("No upcoming invoices for customer", code="invoice_upcoming_none")
        fields = subscriptions.preview_of_renewal(world, subscription)
        return build("invoice", fields | {"id": f"upcoming_{new_id('invoice')}"})
    changed = subscription | {
        "items": listing("", change.plan.items),
        "billing_cycle_anchor": change.plan.anchor,
    }
    lines = list(change.plan.lines)
    if call.get("preview_mode") == "recurring":
        lines = []
    if not change.invoiced or call.get("preview_mode") == "recurring":
        ends = period_end(changed)
        renewed = [dict(item) for item in change.plan.items if item["current_period_end"] == ends]
        for item in renewed:
            billing.set_period(item, change.plan.anchor, ends)
        lines += [billing.period_line(world, item, change.plan.anchor) for item in renewed]
    return _preview(world, changed, lines, at=at)


def _preview(world: World, subscription: JsonObject, lines: list[Line], *, at: int) -> JsonObject:
    fields = invoices.compose(world, subscription, reason="upcoming", lines=lines, start=at, end=at)
    fields["parent"]["subscription_details"]["subscription_proration_date"] = at
    return build("invoice", fields | {"id": f"upcoming_{new_id('invoice')}"})


def _preview_of_new(world: World, given: JsonObject, details: JsonObject) -> JsonObject:
    customer = world.store.get("customer", given.get("customer") or "", param="customer")
    subscription = blank(world, customer, details | {"billing_cycle_anchor": world.now(customer)})
    plan = billing.plan_change(world, subscription, details.get("items") or [], at=world.now(customer))
    subscription["currency"] = plan.items[0]["price"]["currency"]
    for item in plan.items:
        billing.set_period(item, subscription["billing_cycle_anchor"], world.now(customer))
    lines = [billing.period_line(world, item, subscription["billing_cycle_anchor"]) for item in plan.items]
    return _preview(world, subscription, lines, at=world.now(customer))
