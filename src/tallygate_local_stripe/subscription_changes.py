"""Changes subscriptions: items with their prorations, and all that has no bearing on the current period's money."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tallygate_local_stripe import billing, catalog, invoices, payment_methods, subscriptions
from tallygate_local_stripe.errors import refuse_unsupported, refused
from tallygate_local_stripe.objects import JsonObject, merge_metadata
from tallygate_local_stripe.subscription_creation import (
    UNSUPPORTED,
    await_confirmation,
    refuse_unless_chargeable,
    trial_settings,
)
from tallygate_local_stripe.subscriptions import ENDED, UPDATED, items_of, set_cancellation
from tallygate_local_stripe.world import World

# What may be changed together with `payment_behavior=pending_if_incomplete`.
_WITH_PENDING_UPDATES: Final = frozenset(
    {
        "billing_cycle_anchor",
        "discounts",
        "expand",
        "items",
        "off_session",
        "payment_behavior",
        "proration_behavior",
        "proration_date",
        "trial_end",
    }
)


def update_subscription(world: World, subscription: JsonObject, given: JsonObject) -> None:
    """Change a subscription from checked parameters.

    Raises:
        StripeError: the change is not possible, or is not paid for and must be.

    """
    refuse_unsupported(given, UNSUPPORTED)
    _refuse_impossible(subscription, given)
    change = plan_of(world, subscription, given)
    behaviour = given.get("payment_behavior", "allow_incomplete")
    on_session = not given.get("off_session", False)
    bills = change is not None and change.invoiced and change.amount > 0 and _collects(subscription)
    if bills and behaviour == "error_if_incomplete":
        refuse_unless_chargeable(invoices.method_for(world, subscription), on_session=on_session)
    if change is not None and bills and behaviour == "pending_if_incomplete" and not _pays(world, subscription):
        _hold_back(world, subscription, change, on_session=on_session)
        return
    invoice = None
    with world.updating(UPDATED, subscription):
        _apply_plain(world, subscription, given)
        if change is not None:
            subscriptions.apply_plan(world, subscription, change.plan)
            if given.get("trial_end") == "now":
                subscription |= {"status": "active", "trial_end": world.now(subscription)}
            invoices.keep_for_next(world, subscription, [line for line in change.plan.lines if line.proration])
            if change.invoiced:
                lines = [line for line in change.plan.lines if not line.proration]
                invoice = subscriptions.invoice_now(world, subscription, reason="subscription_update", lines=lines)
    if invoice is not None:
        if behaviour == "default_incomplete" and invoice["status"] == "open":
            await_confirmation(world, subscription, invoice)
            world.on_invoice(invoice, invoices.ACTION_REQUIRED)
        else:
            subscriptions.collect_first(world, subscription, invoice, on_session=on_session)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a change of items, cycle or trial means, and whether it is invoiced at once."""

    plan: billing.Plan
    invoiced: bool

    @property
    def amount(self) -> int:
        """Return what the change costs."""
        return sum(line.amount for line in self.plan.lines)


def plan_of(world: World, subscription: JsonObject, given: JsonObject) -> Change | None:
    """Work out what changes of items, anchor or trial mean; None if there are none."""
    now = world.now(subscription)
    anchor_type = (given.get("billing_cycle_anchor") or {}).get("type")
    ends_trial = given.get("trial_end") == "now" and subscription["status"] == "trialing"
    if "items" not in given and anchor_type != "now" and not ends_trial:
        return None
    behaviour = given.get("proration_behavior", "create_prorations")
    at = given.get("proration_date", now)
    first = min(item["current_period_start"] for item in items_of(subscription))
    if not first <= at <= max(item["current_period_end"] for item in items_of(subscription)):
        raise refused("Invalid proration date: it must be within the current period.", param="proration_date")
    plan = billing.plan_change(
        world,
        subscription,
        given.get("items") or [],
        at=at,
        anchor_type="now" if ends_trial else anchor_type,
        prorate=behaviour != "none" and not ends_trial,
    )
    invoiced = plan.starts_cycle or (behaviour == "always_invoice" and bool(plan.lines))
    return Change(plan=plan, invoiced=invoiced)


def _collects(subscription: JsonObject) -> bool:
    return bool(subscription["collection_method"] == "charge_automatically" and subscription["status"] != "trialing")


def _pays(world: World, subscription: JsonObject) -> bool:
    method = invoices.method_for(world, subscription)
    return method is not None and payment_methods.behaviour(method) == payment_methods.SUCCEEDS


def _refuse_impossible(subscription: JsonObject, given: JsonObject) -> None:
    if subscription["status"] in ENDED:
        allowed = {"metadata", "cancellation_details", "expand"}
        if set(given) - allowed:
            raise refused(
                "A canceled subscription can only update its cancellation_details and metadata.", param="status"
            )
    if subscription["schedule"] is not None:
        managed = {"items", "trial_end", "cancel_at", "cancel_at_period_end", "billing_cycle_anchor"}
        for name in sorted(managed & set(given)):
            raise refused(
                f"The subscription is managed by the subscription schedule `{subscription['schedule']}`, and updating"
                f" `{name}` directly is not allowed. Please update the schedule instead.",
                param=name,
            )
    if given.get("payment_behavior") == "pending_if_incomplete":
        rejected = sorted(set(given) - _WITH_PENDING_UPDATES)
        if rejected or subscription["collection_method"] != "charge_automatically":
            raise refused(
                "`payment_behavior=pending_if_incomplete` needs automatic collection and does not go"
                f" together with: {', '.join(rejected)}.",
                param="payment_behavior",
            )
    if given.get("cancel_at_period_end") and given.get("cancel_at"):
        raise refused("You may only specify one of these parameters: cancel_at, cancel_at_period_end.")


def _hold_back(world: World, subscription: JsonObject, change: Change, *, on_session: bool) -> None:
    """Invoice a change that is made only once it is paid."""
    now = world.now(subscription)
    expires_at = now + world.settings.incomplete_expires_seconds
    invoice = invoices.draft(
        world, subscription, reason="subscription_update", lines=change.plan.lines, start=now, end=now
    )
    subscription["_pending_invoice"] = invoice["id"]
    subscription["_pending_plan"] = {"items": change.plan.items, "anchor": change.plan.anchor}
    with world.updating(UPDATED, subscription):
        subscription["pending_update"] = {
            "billing_cycle_anchor": None,
            "cancel_at_period_end": None,
            "discount": None,
            "discounts": None,
            "expires_at": expires_at,
            "metadata": None,
            "subscription_items": change.plan.items,
            "trial_end": None,
            "trial_from_plan": None,
        }
    invoice["auto_advance"] = False
    invoices.finalize(world, invoice)
    world.later(subscription, expires_at, "subscription.expire_pending_update")
    subscriptions.collect_first(world, subscription, invoice, on_session=on_session)


def _apply_plain(world: World, subscription: JsonObject, given: JsonObject) -> None:
    """Change what has no bearing on the money of the current period."""
    customer = world.store.get("customer", subscription["customer"])
    if "metadata" in given:
        subscription["metadata"] = merge_metadata(subscription["metadata"], given["metadata"])
    for name in ("description", "collection_method", "days_until_due"):
        if name in given:
            subscription[name] = given[name] if given[name] != "" else None
    if "default_payment_method" in given:
        wanted = given["default_payment_method"]
        subscription["default_payment_method"] = (
            payment_methods.owned(world, wanted, customer, param="default_payment_method") if wanted else None
        )
    if "trial_settings" in given:
        subscription["trial_settings"] = trial_settings(given["trial_settings"])
    if "discounts" in given:
        subscription["discounts"] = catalog.redeem(world, given["discounts"], subscription)
    if "pause_collection" in given:
        pause = given["pause_collection"] or None
        subscription["pause_collection"] = {"resumes_at": None, **pause} if pause else None
        if pause and pause.get("resumes_at"):
            world.later(subscription, pause["resumes_at"], "subscription.resume_collection")
    subscription["cancellation_details"] |= given.get("cancellation_details") or {}
    set_cancellation(world, subscription, given)
    trial_end = given.get("trial_end")
    if isinstance(trial_end, int):
        if trial_end <= world.now(subscription):
            raise refused("Invalid timestamp: must be an integer Unix timestamp in the future.", param="trial_end")
        subscriptions.begin_trial(world, subscription, trial_end)
