"""The endpoints of subscriptions and the preview of invoices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from stripe import params

from tallygate_local_stripe import billing, catalog, invoices, payment_methods, subscriptions
from tallygate_local_stripe.errors import StripeError, missing_parameter, refused
from tallygate_local_stripe.invoices import Line
from tallygate_local_stripe.objects import JsonObject, build, listing, merge_metadata, new_id
from tallygate_local_stripe.periods import DAY
from tallygate_local_stripe.routing import Call, Routes
from tallygate_local_stripe.subscriptions import ENDED, UPDATED, items_of, period_end
from tallygate_local_stripe.world import World

routes = Routes()

# Parameters that would change what is paid and that the local Stripe does not work out: refused rather than ignored.
_UNSUPPORTED: Final = (
    "add_invoice_items",
    "schedule",
    "schedule_details",
    "invoice_items",
    "backdate_start_date",
    "billing_cycle_anchor_config",
    "billing_schedules",
    "billing_thresholds",
    "default_tax_rates",
    "pending_invoice_item_interval",
    "transfer_data",
    "trial_from_plan",
)


def _refuse_unsupported(given: JsonObject) -> None:
    for name in _UNSUPPORTED:
        if given.get(name):
            raise refused(f"The local Stripe does not support `{name}`.", code="local_stripe_unsupported", param=name)


def create_subscription(world: World, given: JsonObject, *, session: JsonObject | None = None) -> JsonObject:
    """Create a subscription from checked parameters; a checkout session has its customer pay in the same breath."""
    _refuse_unsupported(given)
    customer = world.store.get("customer", given.get("customer") or "", param="customer")
    if not given.get("items"):
        raise missing_parameter("items")
    subscription = _blank(world, customer, given)
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
    world.store.tables.setdefault("subscription", {})[subscription["id"]] = subscription
    subscription["discounts"] = catalog.redeem(world, given.get("discounts"), subscription)
    if "cancel_at" in given or "cancel_at_period_end" in given:
        _set_cancellation(world, subscription, given)
    free_stub = given.get("proration_behavior") == "none" and subscription["billing_cycle_anchor"] > world.now(customer)
    lines = [] if free_stub else subscriptions.period_lines(world, subscription, items_of(subscription))
    return _begin(world, subscription, lines, behaviour, on_session=not given.get("off_session", False))


def _blank(world: World, customer: JsonObject, given: JsonObject) -> JsonObject:
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
            "trial_settings": _trial_settings(given.get("trial_settings")),
        },
    )


def _scalars(given: JsonObject | None) -> JsonObject:
    return {name: value for name, value in (given or {}).items() if not isinstance(value, dict | list)}


def _trial_settings(given: JsonObject | None) -> JsonObject:
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


def update_subscription(world: World, subscription: JsonObject, given: JsonObject) -> None:
    """Change a subscription from checked parameters.

    Raises:
        StripeError: the change is not possible, or is not paid for and must be.

    """
    _refuse_unsupported(given)
    _refuse_impossible(subscription, given)
    change = _plan(world, subscription, given)
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
class _Change:
    plan: billing.Plan
    invoiced: bool

    @property
    def amount(self) -> int:
        return sum(line.amount for line in self.plan.lines)


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
    if given.get("cancel_at_period_end") and given.get("cancel_at"):
        raise refused("You may only specify one of these parameters: cancel_at, cancel_at_period_end.")


def _plan(world: World, subscription: JsonObject, given: JsonObject) -> _Change | None:
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
    return _Change(plan=plan, invoiced=invoiced)


def _hold_back(world: World, subscription: JsonObject, change: _Change, *, on_session: bool) -> None:
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
        subscription["trial_settings"] = _trial_settings(given["trial_settings"])
    if "discounts" in given:
        subscription["discounts"] = catalog.redeem(world, given["discounts"], subscription)
    if "pause_collection" in given:
        pause = given["pause_collection"] or None
        subscription["pause_collection"] = {"resumes_at": None, **pause} if pause else None
        if pause and pause.get("resumes_at"):
            world.later(subscription, pause["resumes_at"], "subscription.resume_collection")
    subscription["cancellation_details"] |= given.get("cancellation_details") or {}
    _set_cancellation(world, subscription, given)
    trial_end = given.get("trial_end")
    if isinstance(trial_end, int):
        if trial_end <= world.now(subscription):
            raise refused("Invalid timestamp: must be an integer Unix timestamp in the future.", param="trial_end")
        subscriptions.begin_trial(world, subscription, trial_end)


def _set_cancellation(world: World, subscription: JsonObject, given: JsonObject) -> None:
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


@routes("POST", "/v1/invoices/create_preview", params.InvoiceCreatePreviewParams)
def create_preview(call: Call) -> JsonObject:
    """Return the invoice that a change, or the next renewal, would bring; nothing is stored."""
    world = call.world
    details = call.get("subscription_details") or {}
    _refuse_unsupported(details | call.params)
    if "subscription" not in call.params:
        return _preview_of_new(world, call.params, details)
    subscription = world.store.get("subscription", call.get("subscription"), param="subscription")
    if subscription["status"] in ENDED:
        raise refused("No upcoming invoices for customer", code="invoice_upcoming_none")
    at = details.get("proration_date", world.now(subscription))
    if details.get("cancel_now"):
        lines = [billing.unused_time(world, item, at) for item in items_of(subscription)]
        return _preview(world, subscription, lines, at=at)
    change = _plan(world, subscription, details)
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
    subscription = _blank(world, customer, details | {"billing_cycle_anchor": world.now(customer)})
    plan = billing.plan_change(world, subscription, details.get("items") or [], at=world.now(customer))
    subscription["currency"] = plan.items[0]["price"]["currency"]
    for item in plan.items:
        billing.set_period(item, subscription["billing_cycle_anchor"], world.now(customer))
    lines = [billing.period_line(world, item, subscription["billing_cycle_anchor"]) for item in plan.items]
    return _preview(world, subscription, lines, at=world.now(customer))


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
