"""API objects as JSON: ids, shapes of the pinned version, snapshots and differences.

An object is a dict. Keys that start with an underscore are ours (secrets, the behaviour of a card) and never leave.
"""

from __future__ import annotations

import secrets
import string
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeAlias, get_args, get_origin

import stripe
from stripe._stripe_object import UntypedStripeObject

JsonObject: TypeAlias = dict[str, Any]

_ID_LENGTH = 24
_ALPHABET = string.ascii_letters + string.digits

_KINDS: Mapping[str, tuple[str, type]] = {
    "billing_portal.configuration": ("bpc", stripe.billing_portal.Configuration),
    "billing_portal.session": ("bps", stripe.billing_portal.Session),
    "charge": ("ch", stripe.Charge),
    "checkout.session": ("cs_test", stripe.checkout.Session),
    "coupon": ("", stripe.Coupon),
    "customer": ("cus", stripe.Customer),
    "discount": ("di", stripe.Discount),
    "dispute": ("du", stripe.Dispute),
    "event": ("evt", stripe.Event),
    "invoice": ("in", stripe.Invoice),
    "invoice_payment": ("inpay", stripe.InvoicePayment),
    "invoiceitem": ("ii", stripe.InvoiceItem),
    "item": ("li", stripe.LineItem),
    "line_item": ("il", stripe.InvoiceLineItem),
    "payment_intent": ("pi", stripe.PaymentIntent),
    "payment_method": ("pm", stripe.PaymentMethod),
    "price": ("price", stripe.Price),
    "product": ("prod", stripe.Product),
    "promotion_code": ("promo", stripe.PromotionCode),
    "radar.early_fraud_warning": ("issfr", stripe.radar.EarlyFraudWarning),
    "refund": ("re", stripe.Refund),
    "subscription": ("sub", stripe.Subscription),
    "subscription_item": ("si", stripe.SubscriptionItem),
    "subscription_schedule": ("sub_sched", stripe.SubscriptionSchedule),
    "tax_id": ("txi", stripe.TaxId),
    "test_helpers.test_clock": ("clock", stripe.test_helpers.TestClock),
    "webhook_endpoint": ("we", stripe.WebhookEndpoint),
}

# Fields that the API leaves out unless asked for with expand[], or that belong to something that is never present here.
LEFT_OUT: Mapping[str, frozenset[str]] = {
    "charge": frozenset({"refunds"}),
    "checkout.session": frozenset({"line_items"}),
    "customer": frozenset({"sources", "subscriptions", "tax_ids", "cash_balance", "tax", "invoice_credit_balance"}),
    "invoice": frozenset({"payments", "confirmation_secret", "status_details"}),
    "coupon": frozenset({"applies_to"}),
    "price": frozenset({"tiers"}),
    "subscription_item": frozenset({"plan"}),
    "webhook_endpoint": frozenset({"secret"}),
    "event": frozenset({"account", "context"}),
}
_LEFT_OUT_BY_ALL = frozenset({"OBJECT_NAME", "deleted", "customer_account", "currency_options"})
_COUNTS_FROM_ZERO = ("amount_", "attempt_count", "times_", "submission_", "post_payment_", "pre_payment_", "starting_")
_PAYMENT_METHOD_TYPES_SHOWN = frozenset(
    {
        "id",
        "object",
        "allow_redisplay",
        "billing_details",
        "card",
        "created",
        "customer",
        "livemode",
        "metadata",
        "type",
    }
)


def new_id(kind: str) -> str:
    """Return a fresh id with the prefix of this kind."""
    text = "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))
    prefix = _KINDS[kind][0]
    return f"{prefix}_{text}" if prefix else text[:8].upper()


@cache
def _prefixes() -> tuple[tuple[str, str], ...]:
    found = [(prefix + "_", kind) for kind, (prefix, _) in _KINDS.items() if prefix]
    return tuple(sorted(found, key=lambda entry: -len(entry[0])))


def kind_of(object_id: str) -> str | None:
    """Return the kind that an id's prefix names."""
    return next((kind for prefix, kind in _prefixes() if object_id.startswith(prefix)), None)


def build(kind: str, fields: Mapping[str, Any]) -> JsonObject:
    """Return an object of this kind: the given fields, and every other field of the pinned version at its blank value.

    Raises:
        KeyError: a field without a blank value is not given, or a given field is not of the pinned version.

    """
    given = dict(fields)
    given.setdefault("id", new_id(kind))
    own = {name: given.pop(name) for name in list(given) if name.startswith("_")}
    filled = _complete(_KINDS[kind][1], {"object": kind, **given}, LEFT_OUT.get(kind, frozenset()))
    if kind == "payment_method":
        filled = {name: value for name, value in filled.items() if name in _PAYMENT_METHOD_TYPES_SHOWN}
    return {"id": filled.pop("id"), "object": filled.pop("object"), **filled, **own}


def _complete(cls: type, given: Mapping[str, Any], left_out: frozenset[str]) -> JsonObject:
    annotations = cls.__annotations__
    unknown = set(given) - set(annotations)
    if unknown:
        raise KeyError(f"{cls.__qualname__} has no {sorted(unknown)} in the pinned version")
    filled: JsonObject = {}
    for name, annotation in annotations.items():
        if name in given:
            filled[name] = _complete_given(annotation, given[name])
        elif name not in left_out and name not in _LEFT_OUT_BY_ALL:
            filled[name] = _blank(cls, name, annotation)
    return filled


def _complete_given(annotation: Any, value: Any) -> Any:
    nested = _nested(annotation)
    if nested is None:
        return value
    if isinstance(value, dict):
        return _complete(nested, value, frozenset())
    if isinstance(value, list):
        return [_complete(nested, entry, frozenset()) if isinstance(entry, dict) else entry for entry in value]
    return value


def _nested(annotation: Any) -> type | None:
    """Return the SDK's class of a part of an object, if the annotation names one (also optional, or a list of it)."""
    if isinstance(annotation, type):
        inside = issubclass(annotation, stripe.StripeObject) and not issubclass(annotation, UntypedStripeObject)
        return annotation if inside and "." in annotation.__qualname__ else None
    if get_origin(annotation) in (typing.Union, list):
        return next((found for found in map(_nested, get_args(annotation)) if found is not None), None)
    return None


def _blank(cls: type, name: str, annotation: Any) -> Any:
    if type(None) in get_args(annotation):
        return None
    if get_origin(annotation) is list:
        return []
    if annotation is bool:
        return False
    if name == "metadata":
        return {}
    if annotation is int and name.startswith(_COUNTS_FROM_ZERO):
        return 0
    nested = _nested(annotation)
    if nested is not None:
        return _complete(nested, {}, frozenset())
    raise KeyError(f"{cls.__qualname__}.{name} must be given")


def owner_of(subject: JsonObject) -> str | None:
    """Return the id of the customer whom an object belongs to, or is."""
    owner: str | None = subject.get("customer") or subject.get("_customer")
    return subject["id"] if subject.get("object") == "customer" else owner


def public(value: Any) -> Any:
    """Return a deep copy without our own fields."""
    if isinstance(value, dict):
        return {key: public(entry) for key, entry in value.items() if not key.startswith("_")}
    if isinstance(value, list):
        return [public(entry) for entry in value]
    return value


def previous_attributes(before: JsonObject, after: JsonObject) -> JsonObject:
    """Return the old values of what changed, nested as Stripe nests them."""
    changed: JsonObject = {}
    for key in before.keys() | after.keys():
        old, new = before.get(key), after.get(key)
        if old == new:
            continue
        changed[key] = previous_attributes(old, new) if isinstance(old, dict) and isinstance(new, dict) else old
    return changed


def merge_metadata(current: Mapping[str, str] | None, given: Any) -> dict[str, str]:
    """Apply Stripe's rules: keys are merged, an empty value removes its key, an empty string removes all."""
    if given == "":
        return {}
    merged = {**(current or {}), **(given or {})}
    return {key: value for key, value in merged.items() if value != ""}


def listing(url: str, data: list[JsonObject], *, has_more: bool = False) -> JsonObject:
    """Return a list object."""
    return {"object": "list", "data": data, "has_more": has_more, "url": url}
