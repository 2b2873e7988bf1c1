"""Checkout sessions for subscriptions, and what the customer does on their page."""

from __future__ import annotations

from typing import Final

from stripe import params

from tallygate_local_stripe import billing, catalog, customers, invoices, payment_methods, subscriptions
from tallygate_local_stripe.errors import missing_parameter, refuse_unsupported, refused
from tallygate_local_stripe.objects import JsonObject, build, listing, merge_metadata
from tallygate_local_stripe.periods import HOUR
from tallygate_local_stripe.routing import Call, Routes
from tallygate_local_stripe.subscription_creation import create_subscription
from tallygate_local_stripe.world import World

routes = Routes()

LIFETIME_SECONDS: Final = 24 * HOUR
LIFETIME_SECONDS_MIN: Final = HOUR // 2
_UNSUPPORTED_OF_SUBSCRIPTION: Final = ("billing_cycle_anchor", "default_tax_rates", "transfer_data")
_SUBSCRIPTION_DATA: Final = (
    "billing_mode",
    "description",
    "metadata",
    "trial_end",
    "trial_period_days",
    "trial_settings",
)


@routes("POST", "/v1/checkout/sessions", params.checkout.SessionCreateParams)
def create(call: Call) -> JsonObject:
    """Open a session on which a customer subscribes."""
    world, given = call.world, call.params
    if given.get("mode") != "subscription":
        raise refused("The local Stripe knows mode `subscription` only.", param="mode")
    if not given.get("line_items"):
        raise missing_parameter("line_items")
    if "customer" in given and "customer_email" in given:
        raise refused("You may only specify one of these parameters: customer, customer_email.")
    if "discounts" in given and "allow_promotion_codes" in given:
        raise refused("You may only specify one of these parameters: allow_promotion_codes, discounts.")
    customer = world.store.get("customer", given["customer"], param="customer") if "customer" in given else None
    now = world.now(customer)
    expires_at = given.get("expires_at", now + LIFETIME_SECONDS)
    if not now + LIFETIME_SECONDS_MIN <= expires_at <= now + LIFETIME_SECONDS:
        raise refused(
            "The `expires_at` timestamp must be between 30 minutes and 24 hours from now.", param="expires_at"
        )
    items = [_line_item(world, entry, f"line_items[{n}]") for n, entry in enumerate(given["line_items"])]
    subtotal = sum(item["amount_subtotal"] for item in items)
    discount = catalog.discount_on(world, given.get("discounts") or [], subtotal)
    data = given.get("subscription_data") or {}
    refuse_unsupported(data, _UNSUPPORTED_OF_SUBSCRIPTION, where="subscription_data")
    trial = bool(data.get("trial_period_days") or data.get("trial_end"))
    session = world.store.add(
        "checkout.session",
        allow_promotion_codes=given.get("allow_promotion_codes"),
        amount_subtotal=0 if trial else subtotal,
        amount_total=0 if trial else subtotal - discount,
        cancel_url=given.get("cancel_url"),
        client_reference_id=given.get("client_reference_id"),
        created=now,
        currency=items[0]["currency"],
        customer=customer["id"] if customer is not None else None,
        customer_creation=None if customer is not None else "always",
        customer_email=given.get("customer_email"),
        custom_text={},
        expires_at=expires_at,
        metadata=merge_metadata({}, given.get("metadata")),
        mode="subscription",
        payment_method_collection=given.get("payment_method_collection", "always"),
        payment_method_types=["card"],
        payment_status="unpaid",
        status="open",
        success_url=given.get("success_url"),
        total_details={"amount_discount": 0 if trial else discount},
        ui_mode="hosted_page",
        _line_items=items,
        _subscription_data={name: data[name] for name in _SUBSCRIPTION_DATA if name in data},
        _discounts=given.get("discounts") or [],
    )
    session["discounts"] = [{"coupon": None, "promotion_code": None, **entry} for entry in session["_discounts"]]
    session["url"] = f"{world.url}/c/pay/{session['id']}"
    world.later(session, expires_at, "checkout.expire")
    return session


def _line_item(world: World, given: JsonObject, where: str) -> JsonObject:
    item = billing.new_item(world, {"id": "", "currency": ""}, given, where=where)
    amount = billing.amount_of(item)
    return build(
        "item",
        {
            "amount_subtotal": amount,
            "amount_total": amount,
            "currency": item["price"]["currency"],
            "description": world.store.get("product", item["price"]["product"])["name"],
            "price": item["price"],
            "quantity": item["quantity"],
        },
    )


@routes("GET", "/v1/checkout/sessions", params.checkout.SessionListParams)
def list_all(call: Call) -> JsonObject:
    """List sessions, by customer, status or subscription."""
    email = (call.get("customer_details") or {}).get("email")
    found = call.world.store.all(
        "checkout.session", lambda entry: email is None or (entry["customer_details"] or {}).get("email") == email
    )
    return call.page(list(found), ignoring=frozenset({"customer_details"}))


@routes("GET", "/v1/checkout/sessions/{id}", params.checkout.SessionRetrieveParams)
def retrieve(call: Call) -> JsonObject:
    """Return a session."""
    return call.world.store.get("checkout.session", call.id)


@routes("POST", "/v1/checkout/sessions/{id}", params.checkout.SessionUpdateParams)
def update(call: Call) -> JsonObject:
    """Change a session's metadata."""
    session = call.world.store.get("checkout.session", call.id)
    session["metadata"] = merge_metadata(session["metadata"], call.get("metadata"))
    return session


@routes("GET", "/v1/checkout/sessions/{id}/line_items", params.checkout.SessionLineItemListParams)
def list_line_items(call: Call) -> JsonObject:
    """List what a session sells."""
    return call.page(list(reversed(call.world.store.get("checkout.session", call.id)["_line_items"])))


@routes("POST", "/v1/checkout/sessions/{id}/expire", params.checkout.SessionExpireParams)
def expire(call: Call) -> JsonObject:
    """Close an open session."""
    session = _open(call.world, call.id, "expire")
    _expire(call.world, session)
    return session


def _expire(world: World, session: JsonObject) -> None:
    session |= {"status": "expired", "url": None}
    world.store.revision += 1
    world.emit("checkout.session.expired", session)


def _open(world: World, session_id: str, verb: str) -> JsonObject:
    session = world.store.get("checkout.session", session_id)
    if session["status"] != "open":
        raise refused(
            f'Only Checkout Sessions with a status in ["open"] can be {verb}d. This Checkout Session has a status of'
            f" {session['status']}."
        )
    return session


def complete(
    world: World,
    session_id: str,
    *,
    payment_method: str = "pm_card_visa",
    outcome: str = "paid",
    email: str | None = None,
) -> JsonObject:
    """Do what a customer does on the page: pay, start an asynchronous payment, or be declined.

    The `outcome` is `paid`, `async_pending` or `declined`; after `declined` the session stays open.

    Raises:
        StripeError: the session is not open, or the card is refused.

    """
    session = _open(world, session_id, "complete")
    declined = outcome == "declined" or (
        payment_methods.behaviour(_probe(payment_method)) == payment_methods.DECLINED and session["amount_total"] > 0
    )
    if declined:
        raise payment_methods.decline_of(_probe("pm_card_chargeDeclined"))
    customer = _customer(world, session, email)
    method = payment_methods.attach(world, payment_methods.load(world, payment_method), customer)
    # The customer authenticates in the same window.
    method["_authenticated"] = True
    subscription = _subscribe(world, session, customer, method)
    invoice = world.store.get("invoice", subscription["latest_invoice"])
    session |= {"customer": customer["id"], "subscription": subscription["id"], "invoice": invoice["id"]}
    session["customer_details"] = {
        "address": customer["address"],
        "email": customer["email"],
        "name": customer["name"],
        "tax_exempt": customer["tax_exempt"],
        "tax_ids": [],
    }
    if invoice["status"] == "open" and outcome == "async_pending":
        world.store.get("payment_intent", invoice["_intent"])["status"] = "processing"
        # A payment under way counts as good until it fails: the subscription runs, the session is unpaid.
        subscriptions.activate(world, subscription)
    elif invoice["status"] == "open":
        invoices.collect(world, invoice, method=method, on_session=True)
        session["payment_status"] = "paid"
    else:
        session["payment_status"] = "no_payment_required" if invoice["total"] == 0 else "paid"
    session |= {"status": "complete", "url": None}
    world.store.revision += 1
    world.emit("checkout.session.completed", session)
    return session


def _probe(payment_method: str) -> JsonObject:
    """Return a card to ask for its behaviour, without making one."""
    name = payment_method.removeprefix("pm_card_")
    return {"_card": name if name in payment_methods.TEST_CARDS else "visa"}


def _customer(world: World, session: JsonObject, email: str | None) -> JsonObject:
    if session["customer"] is not None:
        return world.store.get("customer", session["customer"])
    address = session["customer_email"] or email or "customer@example.com"
    return customers.create_customer(world, {"email": address})


def _subscribe(world: World, session: JsonObject, customer: JsonObject, method: JsonObject) -> JsonObject:
    given: JsonObject = {
        **session["_subscription_data"],
        "customer": customer["id"],
        "items": [{"price": item["price"]["id"], "quantity": item["quantity"]} for item in session["_line_items"]],
        "default_payment_method": method["id"],
        "payment_behavior": "default_incomplete",
        "discounts": session["_discounts"],
    }
    return create_subscription(world, given, session=session)


def settle_async(world: World, session_id: str, *, succeeds: bool) -> JsonObject:
    """Let the asynchronous payment of a completed session arrive or fail.

    Raises:
        StripeError: no payment is under way.

    """
    session = world.store.get("checkout.session", session_id)
    invoice = world.store.find(session["invoice"] or "")
    if session["payment_status"] != "unpaid" or invoice is None or invoice["status"] != "open":
        raise refused("No asynchronous payment is under way for this Checkout Session.")
    intent = world.store.get("payment_intent", invoice["_intent"])
    method = world.store.get("payment_method", intent["payment_method"])
    if succeeds:
        invoices.collect(world, invoice, method=method, on_session=True)
        session["payment_status"] = "paid"
    else:
        failing = payment_methods.load(world, "pm_card_chargeCustomerFail")
        invoices.collect(world, invoice, method=failing, on_session=True)
    name = "succeeded" if succeeds else "failed"
    world.emit(f"checkout.session.async_payment_{name}", session)
    return session


def install(world: World) -> None:
    """Connect sessions to the clock and to expand[]."""

    def expire_due(session_id: str, at: int) -> None:
        session = world.store.find(session_id)
        if session is not None and session["status"] == "open" and session["expires_at"] <= at:
            _expire(world, session)

    world.clocks.tasks["checkout.expire"] = expire_due
    world.includes["checkout.session", "line_items"] = lambda w, shown: listing(
        f"/v1/checkout/sessions/{shown['id']}/line_items", w.store.get("checkout.session", shown["id"])["_line_items"]
    )
