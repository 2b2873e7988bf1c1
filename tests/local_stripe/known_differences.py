"""Where the local Stripe and localstripe differ, what each says, and why: the list that `second_opinion.py` goes by.

An entry that no longer holds fails the comparison as a new difference does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A difference that has been looked into."""

    ours: Any
    theirs: Any
    reason: str


def _no_code(ours: str) -> Known:
    return Known(ours=ours, theirs=None, reason="localstripe gives no error code but that of a declined card")


def _not_there() -> Known:
    return Known(ours=True, theirs=False, reason="localstripe does not have this resource")


_MISSING: Final = _no_code("resource_missing")
_NAMED: Final = Known(
    ours=400, theirs=404, reason="Stripe answers 404 for the object of the path, 400 for a parameter's"
)
_DELETED: Final = "Stripe goes on to answer for a deleted customer, with its id and `deleted`; localstripe forgets it"
_UNCHECKED: Final = "localstripe creates first and finds out then; Stripe refuses, and nothing is made"
_STRICT: Final = (
    "localstripe leaves it incomplete, whatever payment_behavior says; Stripe answers 402, and nothing is made"
)
_CANCELED: Final = "Stripe no longer finds what is canceled; localstripe cancels it again, and tells of it again"
_REFUNDED: Final = "localstripe gives back the whole charge, whatever was given back before; Stripe what is left"
_ATTACHED: Final = "Stripe refuses a card that another customer has; localstripe moves it"
_TRIAL: Final = "localstripe has no state `trialing` and no invoice of nothing at a trial's start"
_NO_EVENT: Final = "localstripe does not send this type"
_OLD_INVOICE: Final = (
    "localstripe speaks an older API: fields that came later are missing, moved ones are where they were"
)

KNOWN: Final[dict[str, Known]] = {
    "customer: an empty value removes a metadata key": Known(
        ours={"b": "3", "c": "4"},
        theirs={"a": "", "b": "3", "c": "4"},
        reason="Stripe removes a key that is set to an empty value; localstripe keeps it",
    ),
    "customer: an empty value removes a field": Known(
        ours=None, theirs="", reason="Stripe unsets what is set to an empty value; localstripe keeps it"
    ),
    "customer: listed newest first": Known(
        ours=True, theirs=False, reason="Stripe lists newest first; localstripe in the order of creation"
    ),
    "customer: retrieved when deleted: status": Known(ours=200, theirs=404, reason=_DELETED),
    "customer: retrieved when deleted: type": Known(ours=None, theirs="invalid_request_error", reason=_DELETED),
    "customer: deleted flag when retrieved": Known(ours=True, theirs=None, reason=_DELETED),
    "customer: changed when deleted: code": _MISSING,
    "customer: missing: code": _MISSING,
    "customer: unknown parameter: code": _no_code("parameter_unknown"),
    "customer: one idempotency key makes one": Known(
        ours=True, theirs=False, reason="localstripe does not look at idempotency keys"
    ),
    "tax id: missing: code": _MISSING,
    "product: same id again: status": Known(
        ours=400, theirs=409, reason="Stripe keeps 409 for conflicts of requests; a taken id is a 400"
    ),
    "product: same id again: code": _no_code("resource_already_exists"),
    "product: without a name: code": _no_code("parameter_missing"),
    "product: missing: code": _MISSING,
    "card: declined when attached: type": Known(
        ours="card_error", theirs="invalid_request_error", reason="localstripe knows one error type only"
    ),
    "card: attached to nobody: status": _NAMED,
    "card: attached to nobody: code": _MISSING,
    "card: attached without a customer: code": _no_code("parameter_missing"),
    "card: attached to another too: status": Known(ours=400, theirs=200, reason=_ATTACHED),
    "card: attached to another too: type": Known(ours="invalid_request_error", theirs=None, reason=_ATTACHED),
    "card: missing: code": _MISSING,
    "card: default when detached": Known(
        ours="none", theirs="the detached one", reason="a detached card cannot be paid with; localstripe leaves it"
    ),
    "subscription: the period is of": Known(
        ours="the item", theirs="the subscription", reason="current_period_end moved to the items with API 2025-03-31"
    ),
    "invoice: remaining": Known(ours=0, theirs="no such field", reason=_OLD_INVOICE),
    "invoice: billing reason": Known(
        ours="subscription_create", theirs=None, reason="localstripe does not say why an invoice was made"
    ),
    "invoice: subscription is named at the top": Known(ours=False, theirs=True, reason=_OLD_INVOICE),
    "invoice: paid again: code": _no_code("invoice_already_paid"),
    "invoice: missing: code": _MISSING,
    "subscription: metadata is merged": Known(
        ours={"order": "7", "seat": "a"},
        theirs={"order": "7"},
        reason="localstripe overlooks the metadata of a subscription's update",
    ),
    "subscription: item keeps its id": Known(
        ours=True, theirs=False, reason="localstripe makes a new item for a new price; Stripe changes the one named"
    ),
    "subscription: canceled_at": Known(ours="set", theirs="not set", reason="localstripe sets ended_at only"),
    "subscription: canceled again: status": Known(ours=404, theirs=200, reason=_CANCELED),
    "subscription: canceled again: type": Known(ours="invalid_request_error", theirs=None, reason=_CANCELED),
    "subscription: canceled again: code": Known(ours="resource_missing", theirs=None, reason=_CANCELED),
    "subscription: missing: code": _MISSING,
    "subscription: status in trial": Known(ours="trialing", theirs="incomplete", reason=_TRIAL),
    "invoice: in trial": Known(ours=1, theirs=0, reason=_TRIAL),
    "subscription: declined, error_if_incomplete: status": Known(ours=402, theirs=200, reason=_STRICT),
    "subscription: declined, error_if_incomplete: type": Known(ours="card_error", theirs=None, reason=_STRICT),
    "subscription: declined, error_if_incomplete: code": Known(ours="card_declined", theirs=None, reason=_STRICT),
    "subscription: none is made when declined": Known(ours=0, theirs=1, reason=_STRICT),
    "charge: none is made when declined": Known(ours=0, theirs=1, reason=_STRICT),
    "subscription: without a card: status": Known(ours=400, theirs=404, reason=_UNCHECKED),
    "subscription: without a card: code": _MISSING,
    "subscription: none is made without a card": Known(ours=0, theirs=1, reason=_UNCHECKED),
    "subscription: of nobody: status": _NAMED,
    "subscription: of nobody: code": _MISSING,
    "subscription: to nothing: status": _NAMED,
    "subscription: to nothing: code": _MISSING,
    "subscription: without items: code": _no_code("parameter_missing"),
    "refund: of the rest": Known(ours=[3000, "succeeded"], theirs=[5000, "succeeded"], reason=_REFUNDED),
    "charge: refunded": Known(ours=[5000, True], theirs=[7000, True], reason=_REFUNDED),
    "refund: of more than there is: status": Known(ours=400, theirs=200, reason=_REFUNDED),
    "refund: of more than there is: type": Known(ours="invalid_request_error", theirs=None, reason=_REFUNDED),
    "refund: of more than there is: code": Known(ours="charge_already_refunded", theirs=None, reason=_REFUNDED),
    "refund: of a missing charge: status": _NAMED,
    "refund: of a missing charge: code": _MISSING,
    "refund: of a failed charge: code": _no_code("charge_not_refundable"),
    "event: of this API version": Known(
        ours=True, theirs=False, reason="localstripe calls itself 2017-08-15, whatever it speaks"
    ),
    "event: missing: code": _MISSING,
    "webhook: of the buyer, customer.subscription.updated": Known(ours=5, theirs=0, reason=_NO_EVENT),
    "webhook: of the buyer, customer.subscription.deleted": Known(ours=1, theirs=2, reason=_CANCELED),
    "webhook: of the buyer, invoice.paid": Known(ours=1, theirs=0, reason=_NO_EVENT),
    "webhook: of the buyer, charge.succeeded": Known(ours=1, theirs=0, reason=_NO_EVENT),
    "has prices": _not_there(),
    "has plans": Known(ours=False, theirs=True, reason="plans came before prices; what is bought here is a price"),
    "has checkout": _not_there(),
    "has schedules": _not_there(),
    "has portal": _not_there(),
    "has test clocks": _not_there(),
    "has disputes": _not_there(),
    "has invoice payments": _not_there(),
}
