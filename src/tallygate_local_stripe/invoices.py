"""Invoices: draft, finalize, collect, retry, void, and their payments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from stripe import params

from tallygate_local_stripe import catalog, payment_methods, payments
from tallygate_local_stripe.errors import card_declined, refused
from tallygate_local_stripe.objects import JsonObject, build, listing, merge_metadata
from tallygate_local_stripe.payment_methods import DECLINED, NEEDS_ACTION, SUCCEEDS
from tallygate_local_stripe.periods import DAY
from tallygate_local_stripe.routing import Call, Routes
from tallygate_local_stripe.world import World

routes = Routes()

PAID, FAILED, ACTION_REQUIRED, EXHAUSTED, VOIDED = "paid", "failed", "action_required", "exhausted", "voided"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What one line of an invoice charges or gives back."""

    amount: int
    description: str
    start: int
    end: int
    price: JsonObject
    quantity: int
    subscription: str | None = None
    subscription_item: str | None = None
    invoice_item: str | None = None
    proration: bool = False
    metadata: dict[str, str] = field(default_factory=dict)


def draft(
    world: World, subscription: JsonObject, *, reason: str, lines: Iterable[Line], start: int, end: int
) -> JsonObject:
    """Make a draft of a subscription's invoice and announce it."""
    fields = compose(world, subscription, reason=reason, lines=list(lines), start=start, end=end)
    invoice = world.store.add("invoice", **fields)
    for line in invoice["lines"]["data"]:
        line["invoice"] = invoice["id"]
        taken = world.store.find(line["parent"]["subscription_item_details"]["invoice_item"] or "")
        if taken is not None:
            taken["invoice"] = invoice["id"]
    invoice["lines"]["url"] = f"/v1/invoices/{invoice['id']}/lines"
    for discount_id in invoice["discounts"]:
        world.store.get("discount", discount_id)["_used"] = True
    customer = world.store.get("customer", subscription["customer"])
    with world.updating("customer.updated", customer):
        customer["currency"] = customer["currency"] or invoice["currency"]
    subscription["latest_invoice"] = invoice["id"]
    world.emit("invoice.created", invoice)
    return invoice


def compose(
    world: World, subscription: JsonObject, *, reason: str, lines: list[Line], start: int, end: int
) -> JsonObject:
    """Return the fields of a draft invoice, with its sums; nothing is stored."""
    customer = world.store.get("customer", subscription["customer"])
    subtotal = sum(line.amount for line in lines)
    discounts = _discount_amounts(world, subscription, subtotal)
    total = subtotal - sum(entry["amount"] for entry in discounts)
    now = world.now(subscription)
    return {
        "amount_due": max(0, total),
        "amount_remaining": max(0, total),
        "auto_advance": True,
        "billing_reason": reason,
        "collection_method": subscription["collection_method"],
        "created": now,
        "currency": subscription["currency"],
        "customer": customer["id"],
        "customer_address": customer["address"],
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "customer_phone": customer["phone"],
        "customer_tax_exempt": customer["tax_exempt"],
        "customer_tax_ids": [
            {"type": entry["type"], "value": entry["value"]}
            for entry in world.store.all("tax_id", lambda entry: entry["customer"] == customer["id"])
        ],
        "default_payment_method": None,
        "discounts": [entry["discount"] for entry in discounts],
        "issuer": {"type": "self"},
        "lines": listing("/v1/invoices/upcoming/lines", [_line(line, subscription["currency"]) for line in lines]),
        "metadata": {},
        "parent": {
            "type": "subscription_details",
            "subscription_details": {"subscription": subscription["id"], "metadata": dict(subscription["metadata"])},
        },
        "payment_settings": {},
        "period_start": start,
        "period_end": end,
        "starting_balance": 0,
        "status": "draft",
        "subtotal": subtotal,
        "subtotal_excluding_tax": subtotal,
        "test_clock": customer["test_clock"],
        "total": total,
        "total_discount_amounts": discounts,
        "total_excluding_tax": total,
        "total_taxes": [],
    }


def _line(line: Line, currency: str) -> JsonObject:
    return build(
        "line_item",
        {
            "amount": line.amount,
            "currency": currency,
            "description": line.description,
            "discount_amounts": [],
            "discountable": True,
            "metadata": line.metadata,
            "parent": {
                "type": "subscription_item_details",
                "subscription_item_details": {
                    "subscription": line.subscription,
                    "subscription_item": line.subscription_item,
                    "invoice_item": line.invoice_item,
                    "proration": line.proration,
                    "proration_details": {} if line.proration else None,
                },
            },
            "period": {"start": line.start, "end": line.end},
            "pricing": {
                "type": "price_details",
                "price_details": {"price": line.price["id"], "product": line.price["product"]},
                "unit_amount_decimal": line.price["unit_amount_decimal"],
            },
            "quantity": line.quantity,
            "quantity_decimal": str(line.quantity),
            "subscription": line.subscription,
            "subtotal": line.amount,
            "taxes": [],
        },
    )


def _discount_amounts(world: World, subscription: JsonObject, subtotal: int) -> list[JsonObject]:
    """Return what each discount takes off, in order, never below zero."""
    amounts = []
    left = max(0, subtotal)
    for discount_id in subscription["discounts"]:
        discount = world.store.get("discount", discount_id)
        coupon = discount["_coupon"]
        over = discount["end"] is not None and discount["end"] <= world.now(subscription)
        if over or (coupon["duration"] == "once" and discount["_used"]):
            continue
        amount = min(left, catalog.amount_off(coupon, left))
        left -= amount
        amounts.append({"amount": amount, "discount": discount_id})
    return amounts


def finalize(world: World, invoice: JsonObject) -> None:
    """Give an invoice its number and open it for payment; one with nothing to pay is paid at once."""
    customer = world.store.get("customer", invoice["customer"])
    now = world.now(invoice)
    with world.updating("invoice.updated", invoice):
        invoice["status"] = "open"
        invoice["number"] = f"{customer['invoice_prefix']}-{customer['next_invoice_sequence']:04}"
        customer["next_invoice_sequence"] += 1
        invoice["effective_at"] = invoice["status_transitions"]["finalized_at"] = now
        invoice["automatically_finalizes_at"] = None
        invoice["hosted_invoice_url"] = f"{world.url}/i/{invoice['id']}"
        invoice["invoice_pdf"] = f"{world.url}/i/{invoice['id']}/pdf"
        _use_balance(invoice, customer)
    world.emit("invoice.finalized", invoice)
    if invoice["amount_due"] == 0:
        _mark_paid(world, invoice)
        return
    description = (
        "Subscription creation" if invoice["billing_reason"] == "subscription_create" else "Subscription update"
    )
    intent = payments.create_intent(
        world, customer, amount=invoice["amount_due"], currency=invoice["currency"], description=description
    )
    intent["_invoice"] = invoice["id"]
    invoice["_intent"] = intent["id"]
    world.store.add(
        "invoice_payment",
        amount_requested=invoice["amount_due"],
        created=now,
        currency=invoice["currency"],
        invoice=invoice["id"],
        is_default=True,
        payment={"type": "payment_intent", "payment_intent": intent["id"]},
        status="open",
        _customer=customer["id"],
    )


def _use_balance(invoice: JsonObject, customer: JsonObject) -> None:
    """Settle with the customer's balance: below zero it is credit, and a negative total adds to it."""
    invoice["starting_balance"] = customer["balance"]
    after = customer["balance"] + invoice["total"]
    if invoice["total"] < 0 or customer["balance"] < 0:
        customer["balance"] = min(0, after)
        invoice["amount_due"] = max(0, after)
    invoice["ending_balance"] = customer["balance"]
    invoice["amount_remaining"] = invoice["amount_due"]


def method_for(world: World, invoice_or_subscription: JsonObject) -> JsonObject | None:
    """Return the payment method that would be charged: the subscription's, else the customer's default."""
    subject = invoice_or_subscription
    chosen = subject["default_payment_method"]
    if subject["object"] == "invoice" and chosen is None:
        subscription = subscription_of(world, subject)
        chosen = subscription["default_payment_method"] if subscription is not None else None
    if chosen is None:
        customer = world.store.get("customer", subject["customer"])
        chosen = customer["invoice_settings"]["default_payment_method"]
    return world.store.get("payment_method", chosen) if chosen is not None else None


def subscription_of(world: World, invoice: JsonObject) -> JsonObject | None:
    """Return the subscription that an invoice bills."""
    parent = invoice["parent"]
    return world.store.find(parent["subscription_details"]["subscription"]) if parent is not None else None


def collect(world: World, invoice: JsonObject, *, method: JsonObject | None = None, on_session: bool = False) -> str:
    """Try to have an open invoice paid, and do what follows."""
    chosen = method or method_for(world, invoice)
    if invoice["status"] != "open":
        return SUCCEEDS
    intent = world.store.get("payment_intent", invoice["_intent"])
    outcome = payments.attempt(world, intent, chosen, on_session=on_session)
    if outcome == SUCCEEDS:
        _mark_paid(world, invoice)
        return outcome
    with world.updating("invoice.updated", invoice):
        invoice["attempt_count"] += 1
        invoice["attempted"] = True
    if outcome == NEEDS_ACTION:
        world.emit("invoice.payment_action_required", invoice)
    _plan_retry(world, invoice)
    if outcome == DECLINED or not on_session:
        world.emit("invoice.payment_failed", invoice)
    world.on_invoice(invoice, ACTION_REQUIRED if outcome == NEEDS_ACTION else FAILED)
    if invoice["next_payment_attempt"] is None and not _is_first(world, invoice):
        world.on_invoice(invoice, EXHAUSTED)
    return outcome


def settle_intent(world: World, intent: JsonObject, method: JsonObject, *, on_session: bool) -> str:
    """Collect an intent; if it is an invoice's, the invoice follows."""
    invoice = world.store.find(intent.get("_invoice", ""))
    if invoice is not None:
        return collect(world, invoice, method=method, on_session=on_session)
    return payments.attempt(world, intent, method, on_session=on_session)


def _plan_retry(world: World, invoice: JsonObject) -> None:
    """Set the next automatic attempt: none for a first invoice, none after the last of the planned ones."""
    failures = invoice["attempt_count"]
    days = world.settings.retry_days
    if _is_first(world, invoice) or not invoice["auto_advance"] or failures > len(days):
        invoice["next_payment_attempt"] = None
        return
    moment = world.now(invoice) + days[failures - 1] * DAY
    invoice["next_payment_attempt"] = moment
    world.later(invoice, moment, "invoice.retry")


def _is_first(world: World, invoice: JsonObject) -> bool:
    """Say whether a subscription waits for this invoice to begin: such a one is not retried by itself."""
    subscription = subscription_of(world, invoice)
    return subscription is not None and subscription["status"] == "incomplete"


def _mark_paid(world: World, invoice: JsonObject, *, out_of_band: bool = False) -> None:
    now = world.now(invoice)
    with world.updating("invoice.updated", invoice):
        invoice["status"] = "paid"
        invoice["attempted"] = True
        invoice["attempt_count"] += invoice["amount_due"] > 0
        invoice["amount_paid"] = invoice["amount_due"]
        invoice["amount_paid_off_stripe"] = invoice["amount_due"] if out_of_band else 0
        invoice["amount_remaining"] = 0
        invoice["next_payment_attempt"] = None
        invoice["auto_advance"] = False
        invoice["status_transitions"]["paid_at"] = now
    for payment in payments_of(world, invoice):
        if payment["status"] == "open" and not out_of_band:
            payment |= {"status": "paid", "amount_paid": invoice["amount_paid"]}
            payment["status_transitions"]["paid_at"] = now
            world.emit("invoice_payment.paid", payment)
    world.emit("invoice.paid", invoice)
    world.emit("invoice.payment_succeeded", invoice)
    world.on_invoice(invoice, PAID)


def close(world: World, invoice: JsonObject, status: str) -> None:
    """Void an invoice or write it off; neither is collected any more."""
    stamp = {"void": "voided_at", "uncollectible": "marked_uncollectible_at"}[status]
    with world.updating("invoice.updated", invoice):
        invoice["status"] = status
        invoice["auto_advance"] = False
        invoice["next_payment_attempt"] = None
        invoice["status_transitions"][stamp] = world.now(invoice)
        if status == "void":
            invoice["amount_remaining"] = 0
    if status == "void" and "_intent" in invoice:
        payments.cancel(world, world.store.get("payment_intent", invoice["_intent"]), reason="void_invoice")
    world.emit("invoice.voided" if status == "void" else "invoice.marked_uncollectible", invoice)
    if status == "void":
        world.on_invoice(invoice, VOIDED)


def payments_of(world: World, invoice: JsonObject) -> list[JsonObject]:
    """Return an invoice's payments."""
    return list(world.store.all("invoice_payment", lambda entry: entry["invoice"] == invoice["id"]))


def install(world: World) -> None:
    """Connect invoices to payments, to the clock and to expand[]."""

    def retry(invoice_id: str, moment: int) -> None:
        invoice = world.store.find(invoice_id)
        if invoice is not None and invoice["status"] == "open" and invoice["next_payment_attempt"] == moment:
            collect(world, invoice)

    def finalize_due(invoice_id: str, moment: int) -> None:
        invoice = world.store.find(invoice_id)
        if invoice is not None and invoice["status"] == "draft" and invoice["automatically_finalizes_at"] == moment:
            finalize(world, invoice)
            if invoice["collection_method"] == "charge_automatically":
                collect(world, invoice)

    def settle(intent: JsonObject, method: JsonObject, *, on_session: bool) -> str:
        return settle_intent(world, intent, method, on_session=on_session)

    world.clocks.tasks |= {"invoice.retry": retry, "invoice.finalize": finalize_due}
    world.settle_intent = settle
    world.includes["invoice", "payments"] = lambda w, shown: listing(
        "/v1/invoice_payments", [w.render(entry) for entry in payments_of(w, shown)]
    )
    world.includes["invoice", "confirmation_secret"] = _confirmation_secret


def _confirmation_secret(world: World, shown: JsonObject) -> JsonObject | None:
    invoice = world.store.get("invoice", shown["id"])
    if "_intent" not in invoice:
        return None
    intent = world.store.get("payment_intent", invoice["_intent"])
    return {"client_secret": intent["client_secret"], "type": "payment_intent"}


def finalize_later(world: World, invoice: JsonObject) -> None:
    """Leave a draft open for changes for a while, as Stripe does with renewals."""
    moment = world.now(invoice) + world.settings.draft_seconds
    invoice["automatically_finalizes_at"] = moment
    world.later(invoice, moment, "invoice.finalize")


@routes("GET", "/v1/invoices", params.InvoiceListParams)
def list_all(call: Call) -> JsonObject:
    """List invoices, by customer, subscription or status."""
    wanted = call.get("subscription")

    def is_of(invoice: JsonObject) -> bool:
        return wanted is None or bool(invoice["parent"]["subscription_details"]["subscription"] == wanted)

    return call.page(list(call.world.store.all("invoice", is_of)), ignoring=frozenset({"subscription"}))


@routes("GET", "/v1/invoices/{id}", params.InvoiceRetrieveParams)
def retrieve(call: Call) -> JsonObject:
    """Return an invoice."""
    return call.world.store.get("invoice", call.id)


@routes("POST", "/v1/invoices/{id}", params.InvoiceUpdateParams)
def update(call: Call) -> JsonObject:
    """Change an invoice's metadata, description or whether it advances by itself."""
    invoice = call.world.store.get("invoice", call.id)
    with call.world.updating("invoice.updated", invoice):
        invoice["metadata"] = merge_metadata(invoice["metadata"], call.get("metadata"))
        for name in ("description", "auto_advance", "default_payment_method"):
            if name in call.params:
                invoice[name] = call.get(name)
    return invoice


@routes("GET", "/v1/invoices/{id}/lines", params.InvoiceLineItemListParams)
def list_lines(call: Call) -> JsonObject:
    """List an invoice's lines."""
    return call.page(list(reversed(call.world.store.get("invoice", call.id)["lines"]["data"])))


@routes("POST", "/v1/invoices/{id}/finalize", params.InvoiceFinalizeInvoiceParams)
def finalize_now(call: Call) -> JsonObject:
    """Finalize a draft without waiting."""
    invoice = _in_status(call, "draft")
    finalize(call.world, invoice)
    return invoice


@routes("POST", "/v1/invoices/{id}/pay", params.InvoicePayParams)
def pay(call: Call) -> JsonObject:
    """Pay an invoice now, with a method of the customer's."""
    world = call.world
    invoice = world.store.get("invoice", call.id)
    if invoice["status"] == "paid":
        raise refused("Invoice is already paid", code="invoice_already_paid")
    if invoice["status"] == "draft":
        finalize(world, invoice)
    elif invoice["status"] not in ("open", "uncollectible"):
        raise refused("This invoice can no longer be paid.", code="invoice_not_editable")
    if call.get("paid_out_of_band"):
        _mark_paid(world, invoice, out_of_band=True)
        return invoice
    if invoice["status"] == "uncollectible":
        invoice["status"] = "open"
    method = payment_methods.load(world, call.get("payment_method")) if "payment_method" in call.params else None
    if method is None and method_for(world, invoice) is None and invoice["status"] == "open":
        raise refused(
            "This customer has no attached payment source or default payment method.", code="resource_missing"
        )
    outcome = collect(world, invoice, method=method, on_session=not call.get("off_session", True))
    if outcome != SUCCEEDS:
        raise failure_of(world, invoice, outcome)
    return invoice


def failure_of(world: World, invoice: JsonObject, outcome: str) -> Exception:
    """Return the 402 that a failed payment of an invoice answers."""
    intent = world.render(world.store.get("payment_intent", invoice["_intent"]))
    if outcome == NEEDS_ACTION:
        return card_declined(
            "Payment for this subscription requires additional user action before it can be completed successfully.",
            code="subscription_payment_intent_requires_action",
            extra={"payment_intent": intent},
        )
    method = world.store.get("payment_method", intent["payment_method"])
    return payment_methods.decline_of(method, extra={"payment_intent": intent})


@routes("POST", "/v1/invoices/{id}/void", params.InvoiceVoidInvoiceParams)
def void(call: Call) -> JsonObject:
    """Void an open invoice."""
    invoice = _in_status(call, "open", "uncollectible")
    close(call.world, invoice, "void")
    return invoice


@routes("POST", "/v1/invoices/{id}/mark_uncollectible", params.InvoiceMarkUncollectibleParams)
def mark_uncollectible(call: Call) -> JsonObject:
    """Write an open invoice off."""
    invoice = _in_status(call, "open")
    close(call.world, invoice, "uncollectible")
    return invoice


def _in_status(call: Call, *statuses: str) -> JsonObject:
    invoice = call.world.store.get("invoice", call.id)
    if invoice["status"] not in statuses:
        raise refused(f"This invoice is {invoice['status']}.", code="invoice_not_editable")
    return invoice


@routes("GET", "/v1/invoice_payments", params.InvoicePaymentListParams)
def list_payments(call: Call) -> JsonObject:
    """List the payments of invoices, by invoice, status or payment intent."""
    wanted = (call.get("payment") or {}).get("payment_intent")
    found = call.world.store.all("invoice_payment", lambda entry: wanted in (None, entry["payment"]["payment_intent"]))
    return call.page(list(found), ignoring=frozenset({"payment"}))


@routes("GET", "/v1/invoice_payments/{id}", params.InvoicePaymentRetrieveParams)
def retrieve_payment(call: Call) -> JsonObject:
    """Return a payment of an invoice."""
    return call.world.store.get("invoice_payment", call.id)


@routes("GET", "/v1/invoiceitems", params.InvoiceItemListParams)
def list_items(call: Call) -> JsonObject:
    """List invoice items: what waits for the next invoice, and what was invoiced."""
    pending = call.get("pending")
    found = call.world.store.all("invoiceitem", lambda entry: pending is None or (entry["invoice"] is None) == pending)
    return call.page(list(found), ignoring=frozenset({"pending"}))


def pending_items(world: World, subscription: JsonObject) -> list[JsonObject]:
    """Return the prorations of a subscription that no invoice has taken yet."""
    return list(
        world.store.all(
            "invoiceitem",
            lambda entry: (
                entry["invoice"] is None
                and entry["parent"]["subscription_details"]["subscription"] == subscription["id"]
            ),
        )
    )


def keep_for_next(world: World, subscription: JsonObject, lines: Iterable[Line]) -> None:
    """Put prorations aside for the next invoice."""
    for line in lines:
        item = world.store.add(
            "invoiceitem",
            amount=line.amount,
            currency=subscription["currency"],
            customer=subscription["customer"],
            date=world.now(subscription),
            description=line.description,
            discountable=False,
            parent={
                "type": "subscription_details",
                "subscription_details": {
                    "subscription": subscription["id"],
                    "subscription_item": line.subscription_item,
                },
            },
            period={"start": line.start, "end": line.end},
            pricing={
                "type": "price_details",
                "price_details": {"price": line.price["id"], "product": line.price["product"]},
                "unit_amount_decimal": line.price["unit_amount_decimal"],
            },
            proration=line.proration,
            quantity=line.quantity,
            quantity_decimal=str(line.quantity),
            _price=line.price,
        )
        world.emit("invoiceitem.created", item)


def pending_lines(world: World, subscription: JsonObject) -> list[Line]:
    """Return the prorations put aside as lines; the invoice that is drafted with them takes them."""
    return [
        Line(
            amount=item["amount"],
            description=item["description"],
            start=item["period"]["start"],
            end=item["period"]["end"],
            price=item["_price"],
            quantity=item["quantity"],
            subscription=subscription["id"],
            subscription_item=item["parent"]["subscription_details"]["subscription_item"],
            invoice_item=item["id"],
            proration=item["proration"],
        )
        for item in pending_items(world, subscription)
    ]
