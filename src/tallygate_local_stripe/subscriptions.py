"""Subscriptions: what happens to one by itself as time passes and invoices are paid or not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tallygate_local_stripe import billing, invoices
from tallygate_local_stripe.errors import refused
from tallygate_local_stripe.invoices import ACTION_REQUIRED, EXHAUSTED, FAILED, PAID, VOIDED, Line
from tallygate_local_stripe.objects import JsonObject, build
from tallygate_local_stripe.payment_methods import SUCCEEDS
from tallygate_local_stripe.periods import DAY
from tallygate_local_stripe.world import World

LIVE: Final = ("trialing", "active", "past_due", "unpaid")
ENDED: Final = ("canceled", "incomplete_expired")
UPDATED: Final = "customer.subscription.updated"


def items_of(subscription: JsonObject) -> list[JsonObject]:
    """Return the items."""
    data: list[JsonObject] = subscription["items"]["data"]
    return data


def period_end(subscription: JsonObject) -> int:
    """Return when the first of the items' periods ends."""
    ends: int = min(item["current_period_end"] for item in items_of(subscription))
    return ends


def set_items(subscription: JsonObject, items: list[JsonObject]) -> None:
    """Replace the items."""
    subscription["items"] |= {"data": items, "total_count": len(items)}


def arm(world: World, subscription: JsonObject) -> None:
    """Have the subscription looked at when its periods end, and before."""
    for end in {item["current_period_end"] for item in items_of(subscription)}:
        world.later(subscription, end, "subscription.period_end")
    upcoming = period_end(subscription) - world.settings.upcoming_days * DAY
    if upcoming > world.now(subscription):
        world.later(subscription, upcoming, "subscription.upcoming")


def begin_trial(world: World, subscription: JsonObject, trial_end: int) -> None:
    """Let the trial run to this moment, which becomes the billing cycle's anchor."""
    now = world.now(subscription)
    subscription |= {"status": "trialing", "trial_end": trial_end, "billing_cycle_anchor": trial_end}
    subscription["trial_start"] = subscription["trial_start"] or now
    for item in items_of(subscription):
        item |= {"current_period_start": item["current_period_start"] or now, "current_period_end": trial_end}
    warning = trial_end - world.settings.trial_will_end_days * DAY
    world.later(subscription, max(now, warning), "subscription.trial_will_end")
    arm(world, subscription)


def period_lines(world: World, subscription: JsonObject, items: Iterable[JsonObject]) -> list[Line]:
    """Return the lines for the current periods of items."""
    if subscription["status"] == "trialing":
        return [billing.trial_line(world, item) for item in items]
    return [billing.period_line(world, item, subscription["billing_cycle_anchor"]) for item in items]


def invoice_now(world: World, subscription: JsonObject, *, reason: str, lines: list[Line]) -> JsonObject:
    """Draft an invoice and finalize it at once; collecting it is the caller's."""
    now = world.now(subscription)
    taken = [*invoices.pending_lines(world, subscription), *lines]
    invoice = invoices.draft(world, subscription, reason=reason, lines=taken, start=now, end=now)
    invoices.finalize(world, invoice)
    return invoice


def apply_plan(world: World, subscription: JsonObject, plan: billing.Plan) -> None:
    """Take over the items and the cycle of a change."""
    set_items(subscription, plan.items)
    subscription["billing_cycle_anchor"] = plan.anchor
    arm(world, subscription)


def end_of_period(world: World, subscription: JsonObject, at: int) -> None:
    """Renew what has run out, or end the trial or the subscription."""
    if subscription["status"] not in LIVE or period_end(subscription) > at:
        return
    if subscription["cancel_at"] is not None and subscription["cancel_at"] <= at:
        end(world, subscription, reason="cancellation_requested")
        return
    if subscription["status"] == "trialing" and _trial_ends_badly(world, subscription):
        return
    begin, due = period_end(subscription), []
    with world.updating(UPDATED, subscription):
        if subscription["status"] == "trialing":
            subscription["status"] = "active"
        for item in items_of(subscription):
            if item["current_period_end"] <= at:
                billing.set_period(item, subscription["billing_cycle_anchor"], item["current_period_end"])
                due.append(item)
        lines = [*invoices.pending_lines(world, subscription), *period_lines(world, subscription, due)]
        start = min(item["current_period_start"] for item in due)
        invoice = invoices.draft(
            world, subscription, reason="subscription_cycle", lines=lines, start=min(begin, start), end=at
        )
    arm(world, subscription)
    _settle_cycle(world, subscription, invoice)


def _settle_cycle(world: World, subscription: JsonObject, invoice: JsonObject) -> None:
    pause = subscription["pause_collection"]
    if subscription["status"] == "unpaid" or (pause is not None and pause["behavior"] == "keep_as_draft"):
        invoice["auto_advance"] = False
    elif pause is not None:
        invoice["auto_advance"] = False
        invoices.finalize(world, invoice)
        if invoice["status"] == "open":
            invoices.close(world, invoice, "void" if pause["behavior"] == "void" else "uncollectible")
    else:
        invoices.finalize_later(world, invoice)


def _trial_ends_badly(world: World, subscription: JsonObject) -> bool:
    """Cancel or pause a trial without payment method, if its settings say so."""
    if invoices.method_for(world, subscription) is not None or billing.total_of(items_of(subscription)) == 0:
        return False
    behaviour = subscription["trial_settings"]["end_behavior"]["missing_payment_method"]
    if behaviour == "cancel":
        end(world, subscription, reason=None)
    elif behaviour == "pause":
        pause(world, subscription, cause="trial_end_without_payment_method")
    return behaviour in ("cancel", "pause")


def pause(world: World, subscription: JsonObject, *, cause: str) -> None:
    """Stop a subscription until it is resumed."""
    now = world.now(subscription)
    with world.updating(UPDATED, subscription):
        subscription["status"] = "paused"
        subscription["status_details"] = {
            "paused": {"type": "subscription", "subscription": {"type": cause}, "transitioned_at": now}
        }
    world.emit("customer.subscription.paused", subscription)


def end(world: World, subscription: JsonObject, *, reason: str | None) -> None:
    """End a subscription for good."""
    now = world.now(subscription)
    subscription["status"] = "canceled"
    subscription["ended_at"] = now
    subscription["canceled_at"] = subscription["canceled_at"] or now
    subscription["cancellation_details"]["reason"] = reason
    subscription["pending_update"] = None
    world.store.revision += 1
    for invoice in world.store.all("invoice", lambda entry: entry["status"] in ("draft", "open")):
        if invoices.subscription_of(world, invoice) is subscription:
            invoice |= {"auto_advance": False, "next_payment_attempt": None}
    world.emit("customer.subscription.deleted", subscription)
    schedule = world.store.find(subscription["schedule"] or "")
    if schedule is not None:
        schedule |= {"status": "canceled", "canceled_at": now, "current_phase": None}
        aborted = reason == "payment_failed"
        world.emit("subscription_schedule.aborted" if aborted else "subscription_schedule.canceled", schedule)


def set_cancellation(world: World, subscription: JsonObject, given: JsonObject) -> None:
    """Take over `cancel_at_period_end` or `cancel_at`, if they are given.

    Raises:
        StripeError: the moment is not in the future.

    """
    now = world.now(subscription)
    if "cancel_at_period_end" in given:
        at_end = given["cancel_at_period_end"]
        subscription |= {
            "cancel_at_period_end": at_end,
            "cancel_at": max(item["current_period_end"] for item in items_of(subscription)) if at_end else None,
        }
    elif "cancel_at" in given:
        wanted = given["cancel_at"] or None
        if wanted in ("min_period_end", "max_period_end", "max_billed_until"):
            ends = [item["current_period_end"] for item in items_of(subscription)]
            wanted = min(ends) if wanted == "min_period_end" else max(ends)
        if wanted is not None and int(wanted) <= now:
            raise refused("`cancel_at` must be in the future.", param="cancel_at")
        subscription |= {"cancel_at": int(wanted) if wanted else None, "cancel_at_period_end": False}
    else:
        return
    if subscription["cancel_at"] is not None:
        subscription["canceled_at"] = now
        subscription["cancellation_details"]["reason"] = "cancellation_requested"
        world.later(subscription, subscription["cancel_at"], "subscription.cancel")
    else:
        subscription["canceled_at"] = None
        subscription["cancellation_details"]["reason"] = None


def activate(world: World, subscription: JsonObject) -> None:
    """Let a subscription be active, because it is paid or resumed."""
    was_paused = subscription["status"] == "paused"
    with world.updating(UPDATED, subscription):
        subscription["status"] = "active"
        subscription["status_details"] = None
        subscription.pop("_resume_invoice", None)
    if was_paused:
        world.emit("customer.subscription.resumed", subscription)


def _after_invoice(world: World, invoice: JsonObject, outcome: str) -> None:
    subscription = invoices.subscription_of(world, invoice)
    if subscription is None or subscription["status"] in ENDED:
        return
    if outcome == PAID:
        _after_payment(world, subscription, invoice)
    elif outcome in (FAILED, ACTION_REQUIRED):
        _after_failure(world, subscription, invoice)
    elif outcome == VOIDED and invoice["id"] == subscription.get("_pending_invoice"):
        _drop_pending_update(world, subscription)
    elif outcome == EXHAUSTED and subscription["status"] == "past_due":
        _after_last_failure(world, subscription)


def _after_payment(world: World, subscription: JsonObject, invoice: JsonObject) -> None:
    _set_delinquent(world, subscription, delinquent=False)
    _keep_method(world, subscription, invoice)
    if invoice["id"] == subscription.get("_pending_invoice"):
        apply_pending_update(world, subscription)
    if subscription["status"] == "incomplete" or invoice["id"] == subscription.get("_resume_invoice"):
        activate(world, subscription)
    if subscription["status"] in ("past_due", "unpaid") and subscription["latest_invoice"] == invoice["id"]:
        activate(world, subscription)


def _keep_method(world: World, subscription: JsonObject, invoice: JsonObject) -> None:
    """Remember the method that paid, if the subscription's settings say so."""
    wanted = (subscription["payment_settings"] or {}).get("save_default_payment_method") == "on_subscription"
    if wanted and subscription["default_payment_method"] is None and "_intent" in invoice:
        with world.updating(UPDATED, subscription):
            intent = world.store.get("payment_intent", invoice["_intent"])
            subscription["default_payment_method"] = intent["payment_method"]


def _after_failure(world: World, subscription: JsonObject, invoice: JsonObject) -> None:
    waits = (subscription.get("_pending_invoice"), subscription.get("_resume_invoice"))
    if subscription["status"] in ("active", "trialing") and invoice["id"] not in waits:
        with world.updating(UPDATED, subscription):
            subscription["status"] = "past_due"
        _set_delinquent(world, subscription, delinquent=True)


def _after_last_failure(world: World, subscription: JsonObject) -> None:
    if world.settings.after_retries == "cancel":
        end(world, subscription, reason="payment_failed")
    elif world.settings.after_retries == "unpaid":
        with world.updating(UPDATED, subscription):
            subscription["status"] = "unpaid"


def _set_delinquent(world: World, subscription: JsonObject, *, delinquent: bool) -> None:
    customer = world.store.get("customer", subscription["customer"])
    with world.updating("customer.updated", customer):
        customer["delinquent"] = delinquent


def apply_pending_update(world: World, subscription: JsonObject) -> None:
    """Make the change that waited for its invoice to be paid."""
    plan = subscription.pop("_pending_plan")
    subscription.pop("_pending_invoice")
    with world.updating(UPDATED, subscription):
        subscription["pending_update"] = None
        set_items(subscription, plan["items"])
        subscription["billing_cycle_anchor"] = plan["anchor"]
    arm(world, subscription)
    world.emit("customer.subscription.pending_update_applied", subscription)


def preview_of_renewal(world: World, subscription: JsonObject) -> JsonObject:
    """Return the fields of the invoice that the next end of a period would bring."""
    ends = period_end(subscription)
    renewed = [dict(item) for item in items_of(subscription) if item["current_period_end"] == ends]
    anchor = subscription["billing_cycle_anchor"]
    for item in renewed:
        billing.set_period(item, anchor, ends)
    lines = [*invoices.pending_lines(world, subscription)]
    lines += [billing.period_line(world, item, anchor) for item in renewed]
    start = min(item["current_period_start"] for item in items_of(subscription))
    return invoices.compose(world, subscription, reason="upcoming", lines=lines, start=start, end=ends)


def _upcoming(world: World, subscription: JsonObject, at: int) -> None:
    due = period_end(subscription) - world.settings.upcoming_days * DAY == at
    if due and subscription["status"] in LIVE and subscription["cancel_at"] is None:
        invoice = build("invoice", preview_of_renewal(world, subscription))
        invoice["next_payment_attempt"] = period_end(subscription) + world.settings.draft_seconds
        # A preview is no stored invoice: the event's object has no id.
        del invoice["id"]
        world.emit("invoice.upcoming", invoice)


def _expire_incomplete(world: World, subscription: JsonObject) -> None:
    if subscription["status"] != "incomplete":
        return
    invoice = world.store.get("invoice", subscription["latest_invoice"])
    if invoice["status"] == "open":
        invoices.close(world, invoice, "void")
    with world.updating(UPDATED, subscription):
        subscription |= {"status": "incomplete_expired", "ended_at": world.now(subscription)}


def _expire_pending_update(world: World, subscription: JsonObject, at: int) -> None:
    if subscription["pending_update"] is None or subscription["pending_update"]["expires_at"] != at:
        return
    invoice = world.store.get("invoice", subscription["_pending_invoice"])
    if invoice["status"] == "open":
        invoices.close(world, invoice, "void")
    world.emit("customer.subscription.pending_update_expired", subscription)


def _drop_pending_update(world: World, subscription: JsonObject) -> None:
    """Forget a change whose invoice was voided, by hand or because nobody paid in time."""
    subscription.pop("_pending_invoice")
    subscription.pop("_pending_plan")
    with world.updating(UPDATED, subscription):
        subscription["pending_update"] = None


def collect_first(world: World, subscription: JsonObject, invoice: JsonObject, *, on_session: bool) -> str:
    """Try to collect the invoice of a creation or a change."""
    if invoice["status"] != "open" or subscription["collection_method"] != "charge_automatically":
        return SUCCEEDS
    return invoices.collect(world, invoice, on_session=on_session)


def install(world: World) -> None:
    """Connect subscriptions to the clock and to their invoices."""

    def task(name: str) -> None:
        def run(subscription_id: str, at: int) -> None:
            subscription = world.store.find(subscription_id)
            if subscription is not None:
                _TASKS[name](world, subscription, at)

        world.clocks.tasks["subscription." + name] = run

    for name in _TASKS:
        task(name)
    world.on_invoice = lambda invoice, outcome: _after_invoice(world, invoice, outcome)


def _cancel_due(world: World, subscription: JsonObject, at: int) -> None:
    if subscription["status"] not in ENDED and subscription["cancel_at"] == at:
        end(world, subscription, reason="cancellation_requested")


def _trial_will_end(world: World, subscription: JsonObject, at: int) -> None:
    ends = subscription["trial_end"]
    if subscription["status"] == "trialing" and ends - at <= world.settings.trial_will_end_days * DAY:
        world.emit("customer.subscription.trial_will_end", subscription)


def _resume_collection(world: World, subscription: JsonObject, at: int) -> None:
    if subscription["pause_collection"] is not None and subscription["pause_collection"]["resumes_at"] == at:
        with world.updating(UPDATED, subscription):
            subscription["pause_collection"] = None


def _period_end(world: World, subscription: JsonObject, at: int) -> None:
    world.before_period_end(subscription, at)
    end_of_period(world, subscription, at)


_TASKS: Final = {
    "period_end": _period_end,
    "upcoming": _upcoming,
    "cancel": _cancel_due,
    "trial_will_end": _trial_will_end,
    "expire_incomplete": lambda world, subscription, _: _expire_incomplete(world, subscription),
    "expire_pending_update": _expire_pending_update,
    "resume_collection": _resume_collection,
}
