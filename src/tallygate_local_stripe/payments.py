"""Payment intents, charges, refunds, disputes and early fraud warnings."""

from __future__ import annotations

from typing import Any

from stripe import params

from tallygate_local_stripe import payment_methods
from tallygate_local_stripe.errors import refused
from tallygate_local_stripe.objects import JsonObject, listing, merge_metadata
from tallygate_local_stripe.payment_methods import DECLINED, NEEDS_ACTION, SUCCEEDS
from tallygate_local_stripe.periods import DAY
from tallygate_local_stripe.routing import Call, Routes
from tallygate_local_stripe.world import World

routes = Routes()

_OPEN_STATUSES = ("requires_payment_method", "requires_confirmation", "requires_action", "processing")


def create_intent(world: World, customer: JsonObject, *, amount: int, currency: str, description: str) -> JsonObject:
    """Create a payment intent that waits for a method."""
    intent = world.store.add(
        "payment_intent",
        amount=amount,
        currency=currency,
        customer=customer["id"],
        description=description,
        capture_method="automatic",
        confirmation_method="automatic",
        payment_method_types=["card"],
        setup_future_usage="off_session",
        status="requires_payment_method",
        created=world.now(customer),
    )
    intent["client_secret"] = f"{intent['id']}_secret_local"
    world.emit("payment_intent.created", intent)
    return intent


def attempt(world: World, intent: JsonObject, method: JsonObject | None, *, on_session: bool) -> str:
    """Try to collect an intent with a method; return `succeeds`, `declined` or `needs_action`."""
    if method is None:
        intent["status"] = "requires_payment_method"
        return DECLINED
    outcome = payment_methods.behaviour(method)
    intent["payment_method"] = method["id"]
    if outcome == NEEDS_ACTION and on_session:
        intent["status"] = "requires_action"
        intent["next_action"] = {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect"}}
        world.emit("payment_intent.requires_action", intent)
        return NEEDS_ACTION
    if outcome == SUCCEEDS:
        succeed(world, intent, method)
        return SUCCEEDS
    code = "authentication_required" if outcome == NEEDS_ACTION else "card_declined"
    error = payment_methods.decline_of(method)
    charge = _charge(world, intent, method, failure=(code, error.message))
    intent["latest_charge"] = charge["id"]
    intent["status"] = "requires_payment_method"
    intent["last_payment_error"] = {
        "code": code,
        "decline_code": "authentication_required" if outcome == NEEDS_ACTION else error.extra["decline_code"],
        "message": error.message,
        "type": "card_error",
        "charge": charge["id"],
        "payment_method": world.render(method),
    }
    world.emit("charge.failed", charge)
    world.emit("payment_intent.payment_failed", intent)
    return outcome


def succeed(world: World, intent: JsonObject, method: JsonObject) -> None:
    """Take the money of an intent."""
    charge = _charge(world, intent, method, failure=None)
    intent |= {
        "status": "succeeded",
        "amount_received": intent["amount"],
        "latest_charge": charge["id"],
        "payment_method": method["id"],
        "last_payment_error": None,
        "next_action": None,
    }
    world.emit("charge.succeeded", charge)
    world.emit("payment_intent.succeeded", intent)


def _charge(world: World, intent: JsonObject, method: JsonObject, *, failure: tuple[str, str] | None) -> JsonObject:
    card = {name: method["card"][name] for name in ("brand", "country", "exp_month", "exp_year", "funding", "last4")}
    return world.store.add(
        "charge",
        amount=intent["amount"],
        amount_captured=0 if failure else intent["amount"],
        currency=intent["currency"],
        customer=intent["customer"],
        description=intent["description"],
        captured=failure is None,
        paid=failure is None,
        failure_code=failure[0] if failure else None,
        failure_message=failure[1] if failure else None,
        payment_intent=intent["id"],
        payment_method=method["id"],
        payment_method_details={"type": "card", "card": card},
        status="failed" if failure else "succeeded",
        created=world.now(intent),
    )


@routes("GET", "/v1/payment_intents", params.PaymentIntentListParams)
def list_intents(call: Call) -> JsonObject:
    """List payment intents."""
    return call.page(list(call.world.store.all("payment_intent")))


@routes("GET", "/v1/payment_intents/{id}", params.PaymentIntentRetrieveParams)
def retrieve_intent(call: Call) -> JsonObject:
    """Return a payment intent."""
    return call.world.store.get("payment_intent", call.id)


@routes("POST", "/v1/payment_intents/{id}/confirm", params.PaymentIntentConfirmParams)
def confirm_intent(call: Call) -> JsonObject:
    """Try to collect an intent, as a customer does who types a card."""
    world = call.world
    intent = world.store.get("payment_intent", call.id)
    _must_be_open(intent, "confirm")
    chosen = call.get("payment_method") or intent["payment_method"]
    if chosen is None:
        raise refused("You cannot confirm this PaymentIntent because it's missing a payment method.")
    method = payment_methods.load(world, chosen)
    if method["customer"] is None and intent["customer"]:
        payment_methods.attach(world, method, world.store.get("customer", intent["customer"]))
    outcome = world.settle_intent(intent, method, on_session=not call.get("off_session", False))
    if outcome == DECLINED:
        raise payment_methods.decline_of(method, extra={"payment_intent": world.render(intent)})
    return intent


@routes("POST", "/v1/payment_intents/{id}/cancel", params.PaymentIntentCancelParams)
def cancel_intent(call: Call) -> JsonObject:
    """Cancel an intent that is not an invoice's."""
    intent = call.world.store.get("payment_intent", call.id)
    _must_be_open(intent, "cancel")
    if intent.get("_invoice"):
        raise refused("You cannot cancel a PaymentIntent of an invoice; void the invoice instead.")
    cancel(call.world, intent, reason=call.get("cancellation_reason"))
    return intent


def cancel(world: World, intent: JsonObject, *, reason: str | None) -> None:
    """Close an intent for good."""
    if intent["status"] in _OPEN_STATUSES:
        intent |= {"status": "canceled", "canceled_at": world.now(intent), "cancellation_reason": reason}
        world.emit("payment_intent.canceled", intent)


def _must_be_open(intent: JsonObject, verb: str) -> None:
    if intent["status"] not in _OPEN_STATUSES:
        raise refused(
            f"You cannot {verb} this PaymentIntent because it has a status of {intent['status']}.",
            code="payment_intent_unexpected_state",
        )


def authenticate(world: World, intent_id: str, *, succeeds: bool) -> JsonObject:
    """Do what the customer does in the bank's window: agree to a payment, or not.

    Raises:
        StripeError: the intent does not wait for this.

    """
    intent = world.store.get("payment_intent", intent_id)
    if intent["status"] not in ("requires_action", "requires_payment_method") or intent["payment_method"] is None:
        raise refused("This PaymentIntent does not wait for a customer's action.")
    method = world.store.get("payment_method", intent["payment_method"])
    if succeeds:
        method["_authenticated"] = True
        world.settle_intent(intent, method, on_session=True)
    else:
        intent |= {"status": "requires_payment_method", "next_action": None}
        world.emit("payment_intent.payment_failed", intent)
    return intent


@routes("GET", "/v1/charges", params.ChargeListParams)
def list_charges(call: Call) -> JsonObject:
    """List charges."""
    return call.page(list(call.world.store.all("charge")))


@routes("GET", "/v1/charges/{id}", params.ChargeRetrieveParams)
def retrieve_charge(call: Call) -> JsonObject:
    """Return a charge."""
    return call.world.store.get("charge", call.id)


@routes("POST", "/v1/refunds", params.RefundCreateParams)
def create_refund(call: Call) -> JsonObject:
    """Give back a charge, or a part of it."""
    world = call.world
    charge = _charge_to_refund(call)
    left = charge["amount_captured"] - charge["amount_refunded"]
    amount = call.get("amount", left)
    if left == 0:
        raise refused(f"Charge {charge['id']} has already been refunded.", code="charge_already_refunded")
    if not 0 < amount <= left:
        raise refused(f"Refund amount ({amount}) is greater than unrefunded amount on charge ({left})", param="amount")
    refund = world.store.add(
        "refund",
        amount=amount,
        currency=charge["currency"],
        charge=charge["id"],
        payment_intent=charge["payment_intent"],
        reason=call.get("reason"),
        metadata=merge_metadata({}, call.get("metadata")),
        status="succeeded",
        created=world.now(charge),
        _customer=charge["customer"],
    )
    before = {"amount_refunded": charge["amount_refunded"], "refunded": charge["refunded"]}
    charge["amount_refunded"] += amount
    charge["refunded"] = charge["amount_refunded"] == charge["amount_captured"]
    world.emit("refund.created", refund)
    world.emit("charge.refunded", charge, previous={key: old for key, old in before.items() if charge[key] != old})
    return refund


def _charge_to_refund(call: Call) -> JsonObject:
    charge_id = call.get("charge")
    if charge_id is None and "payment_intent" in call.params:
        intent = call.world.store.get("payment_intent", call.get("payment_intent"), param="payment_intent")
        charge_id = intent["latest_charge"]
    if charge_id is None:
        raise refused("One of the following params should be provided for this request: payment_intent or charge.")
    charge = call.world.store.get("charge", charge_id, param="charge")
    if charge["status"] != "succeeded":
        raise refused("This charge has not been captured.", code="charge_not_refundable")
    return charge


@routes("GET", "/v1/refunds", params.RefundListParams)
def list_refunds(call: Call) -> JsonObject:
    """List refunds, of a charge or an intent."""
    return call.page(list(call.world.store.all("refund")))


@routes("GET", "/v1/refunds/{id}", params.RefundRetrieveParams)
def retrieve_refund(call: Call) -> JsonObject:
    """Return a refund."""
    return call.world.store.get("refund", call.id)


@routes("GET", "/v1/disputes", params.DisputeListParams)
def list_disputes(call: Call) -> JsonObject:
    """List disputes."""
    return call.page(list(call.world.store.all("dispute")))


@routes("GET", "/v1/disputes/{id}", params.DisputeRetrieveParams)
def retrieve_dispute(call: Call) -> JsonObject:
    """Return a dispute."""
    return call.world.store.get("dispute", call.id)


@routes("GET", "/v1/radar/early_fraud_warnings", params.radar.EarlyFraudWarningListParams)
def list_early_fraud_warnings(call: Call) -> JsonObject:
    """List early fraud warnings, by charge or intent."""
    return call.page(list(call.world.store.all("radar.early_fraud_warning")))


@routes("GET", "/v1/radar/early_fraud_warnings/{id}", params.radar.EarlyFraudWarningRetrieveParams)
def retrieve_early_fraud_warning(call: Call) -> JsonObject:
    """Return an early fraud warning."""
    return call.world.store.get("radar.early_fraud_warning", call.id)


def open_dispute(world: World, charge_id: str, *, amount: int | None, reason: str) -> JsonObject:
    """Have the cardholder dispute a charge."""
    charge = world.store.get("charge", charge_id, param="charge")
    if charge["disputed"]:
        raise refused("This charge is disputed already.")
    charge["disputed"] = True
    dispute = _new_dispute(world, charge, amount, reason)
    world.emit("charge.dispute.created", dispute)
    return dispute


def _new_dispute(world: World, charge: JsonObject, amount: int | None, reason: str) -> JsonObject:
    now = world.now(charge)
    return world.store.add(
        "dispute",
        amount=amount if amount is not None else charge["amount"],
        charge=charge["id"],
        payment_intent=charge["payment_intent"],
        currency=charge["currency"],
        reason=reason,
        status="needs_response",
        network_reason_code="10.4",
        evidence_details={"due_by": now + 7 * DAY, "submission_method": "not_submitted"},
        payment_method_details=_dispute_card(charge),
        created=now,
        _customer=charge["customer"],
    )


def _dispute_card(charge: JsonObject) -> dict[str, Any]:
    brand = charge["payment_method_details"]["card"]["brand"]
    return {"type": "card", "card": {"brand": brand, "case_type": "chargeback", "network": brand}}


def close_dispute(world: World, dispute_id: str, *, status: str) -> JsonObject:
    """Decide a dispute: won, lost or warning_closed."""
    dispute = world.store.get("dispute", dispute_id)
    if dispute["status"] in ("won", "lost", "warning_closed"):
        raise refused("This dispute is closed already.")
    before = dispute["status"]
    dispute["status"] = status
    world.emit("charge.dispute.closed", dispute, previous={"status": before})
    return dispute


def warn_of_fraud(world: World, charge_id: str, *, fraud_type: str) -> JsonObject:
    """Have the card's network warn of a fraudulent charge."""
    charge = world.store.get("charge", charge_id, param="charge")
    warning = world.store.add(
        "radar.early_fraud_warning",
        charge=charge_id,
        payment_intent=charge["payment_intent"],
        fraud_type=fraud_type,
        actionable=True,
        created=world.now(charge),
        _customer=charge["customer"],
    )
    world.emit("radar.early_fraud_warning.created", warning)
    return warning


def include_refunds(world: World, charge: JsonObject) -> JsonObject:
    """Return what `expand[]=refunds` shows of a charge."""
    refunds = list(world.store.all("refund", lambda entry: entry["charge"] == charge["id"]))
    return listing(f"/v1/charges/{charge['id']}/refunds", list(reversed(refunds)))
