"""Payment methods: Stripe's test cards by their magic names, and how each one behaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from stripe import params

from tallygate_local_stripe.errors import StripeError, card_declined, missing, refused
from tallygate_local_stripe.objects import JsonObject, merge_metadata
from tallygate_local_stripe.routing import Call, Routes
from tallygate_local_stripe.world import World

routes = Routes()

SUCCEEDS: Final = "succeeds"
DECLINED: Final = "declined"
NEEDS_ACTION: Final = "needs_action"


@dataclass(frozen=True, slots=True, kw_only=True)
class TestCard:
    """A card that Stripe documents for tests."""

    brand: str
    last4: str
    behaviour: str = SUCCEEDS
    attaches: bool = True
    decline_code: str = "generic_decline"


TEST_CARDS: Final = {
    "visa": TestCard(brand="visa", last4="4242"),
    "visa_debit": TestCard(brand="visa", last4="5556"),
    "mastercard": TestCard(brand="mastercard", last4="4444"),
    "amex": TestCard(brand="amex", last4="8431"),
    "threeDSecure2Required": TestCard(brand="visa", last4="3220", behaviour=NEEDS_ACTION),
    "authenticationRequired": TestCard(brand="visa", last4="3184", behaviour=NEEDS_ACTION),
    "chargeDeclined": TestCard(brand="visa", last4="0002", behaviour=DECLINED, attaches=False),
    "chargeDeclinedInsufficientFunds": TestCard(
        brand="visa", last4="9995", behaviour=DECLINED, attaches=False, decline_code="insufficient_funds"
    ),
    "chargeCustomerFail": TestCard(brand="visa", last4="0341", behaviour=DECLINED),
}


def load(world: World, payment_method_id: str, *, param: str = "payment_method") -> JsonObject:
    """Return a payment method; a magic name makes a new one.

    Raises:
        StripeError: there is neither.

    """
    if payment_method_id.startswith("pm_card_"):
        return _create_card(world, payment_method_id.removeprefix("pm_card_"), param=param)
    return world.store.get("payment_method", payment_method_id, param=param)


def _create_card(world: World, name: str, *, param: str, billing: JsonObject | None = None) -> JsonObject:
    card = TEST_CARDS.get(name)
    if card is None:
        raise missing("PaymentMethod", f"pm_card_{name}", param=param)
    return world.store.add(
        "payment_method",
        type="card",
        created=world.now(),
        allow_redisplay="unspecified",
        billing_details=billing or {},
        metadata={},
        card={
            "brand": card.brand,
            "country": "US",
            "display_brand": card.brand,
            "exp_month": 12,
            "exp_year": 2040,
            "fingerprint": f"local{card.last4}",
            "funding": "credit",
            "last4": card.last4,
        },
        _card=name,
    )


def behaviour(method: JsonObject) -> str:
    """Say what a charge of this method does."""
    return TEST_CARDS[method["_card"]].behaviour if not method.get("_authenticated") else SUCCEEDS


def decline_of(method: JsonObject, *, extra: JsonObject | None = None) -> StripeError:
    """Return the error of a declined charge."""
    code = TEST_CARDS[method["_card"]].decline_code
    reason = " Your card has insufficient funds." if code == "insufficient_funds" else " Your card was declined."
    return card_declined(reason.strip(), code="card_declined", decline_code=code, extra=extra)


def attach(world: World, method: JsonObject, customer: JsonObject) -> JsonObject:
    """Attach a method to a customer.

    Raises:
        StripeError: the card is refused, or belongs to another customer.

    """
    if method["customer"] not in (None, customer["id"]):
        raise refused("The payment method you provided has already been attached to a customer.")
    if not TEST_CARDS[method["_card"]].attaches:
        raise decline_of(method)
    method["customer"] = customer["id"]
    world.store.revision += 1
    return method


def owned(world: World, payment_method_id: str, customer: JsonObject, *, param: str) -> str:
    """Return the id of a method of this customer.

    Raises:
        StripeError: it does not belong to the customer.

    """
    method = load(world, payment_method_id, param=param)
    if method["customer"] != customer["id"]:
        raise refused(
            f"The customer does not have a payment method with the ID {payment_method_id}. The payment method must be"
            " attached to the customer.",
            code="resource_missing",
            param=param,
        )
    identity: str = method["id"]
    return identity


@routes("POST", "/v1/payment_methods", params.PaymentMethodCreateParams)
def create(call: Call) -> JsonObject:
    """Create a card from a test token (tok_visa, tok_chargeCustomerFail, ...)."""
    if call.get("type") != "card":
        raise refused("The local Stripe knows cards only.", param="type")
    token = (call.get("card") or {}).get("token") or "tok_visa"
    name = str(token).removeprefix("tok_")
    method = _create_card(call.world, name, param="card[token]", billing=call.get("billing_details"))
    method["metadata"] = merge_metadata({}, call.get("metadata"))
    return method


@routes("GET", "/v1/payment_methods", params.PaymentMethodListParams)
@routes("GET", "/v1/customers/{id}/payment_methods", params.CustomerPaymentMethodListParams)
def list_all(call: Call) -> JsonObject:
    """List the payment methods of a customer."""
    owner = call.names.get("id") or call.get("customer")
    found = call.world.store.all("payment_method", lambda entry: entry["customer"] == owner and owner is not None)
    return call.page(list(found))


@routes("GET", "/v1/payment_methods/{id}", params.PaymentMethodRetrieveParams)
def retrieve(call: Call) -> JsonObject:
    """Return a payment method."""
    return call.world.store.get("payment_method", call.id)


@routes("POST", "/v1/payment_methods/{id}", params.PaymentMethodUpdateParams)
def update(call: Call) -> JsonObject:
    """Change a payment method's metadata or billing details."""
    method = call.world.store.get("payment_method", call.id)
    method["metadata"] = merge_metadata(method["metadata"], call.get("metadata"))
    method["billing_details"] |= call.get("billing_details") or {}
    return method


@routes("POST", "/v1/payment_methods/{id}/attach", params.PaymentMethodAttachParams)
def attach_to_customer(call: Call) -> JsonObject:
    """Attach a payment method to a customer."""
    customer = call.world.store.get("customer", call.get("customer"), param="customer")
    method = attach(call.world, load(call.world, call.id), customer)
    call.world.emit("payment_method.attached", method)
    return method


@routes("POST", "/v1/payment_methods/{id}/detach", params.PaymentMethodDetachParams)
def detach(call: Call) -> JsonObject:
    """Detach a payment method, also as anybody's default."""
    world = call.world
    method = world.store.get("payment_method", call.id)
    for customer in world.store.all("customer", lambda entry: entry["id"] == method["customer"]):
        if customer["invoice_settings"]["default_payment_method"] == method["id"]:
            with world.updating("customer.updated", customer):
                customer["invoice_settings"]["default_payment_method"] = None
    for subscription in world.store.all("subscription", lambda entry: entry["default_payment_method"] == method["id"]):
        with world.updating("customer.subscription.updated", subscription):
            subscription["default_payment_method"] = None
    method["customer"] = None
    world.emit("payment_method.detached", method)
    return method
