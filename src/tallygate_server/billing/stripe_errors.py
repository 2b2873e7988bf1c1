"""What Stripe's errors mean to us: a refusal, an absence, or nobody there.

Nothing that Stripe wrote for people goes further than this module: its messages may quote what a customer typed, and
for a wrong key a part of the key. Codes and parameter names are shown when they look like such.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import stripe

from tallygate_server.errors import BillingProviderUnavailable, PaymentRefused

PROVIDER: Final = "stripe"

_CODE: Final = re.compile(r"[a-z0-9_]{1,64}")
_PARAMETER: Final = re.compile(r"[a-z0-9_\[\]]{1,100}")

_FIELDS: Final[Mapping[str, str]] = {
    "payment_method": "payment_method_id",
    "default_payment_method": "payment_method_id",
    "invoice_settings[default_payment_method]": "payment_method_id",
    "promotion_code": "promotion_code",
    "coupon": "promotion_code",
    "discounts": "promotion_code",
    "email": "email",
    "quantity": "quantity",
    "address[country]": "address.country_code",
    "success_url": "success_url",
    "cancel_url": "cancel_url",
    "return_url": "return_url",
    "customer": "customer_id",
}
"""Fields of our requests by Stripe's names for them, where they differ or are worth naming."""

_SENTENCES: Final[Mapping[str, str]] = {
    "card_declined": "the card was declined",
    "generic_decline": "the card was declined",
    "insufficient_funds": "the card has insufficient funds",
    "expired_card": "the card has expired",
    "incorrect_cvc": "the card's security code is wrong",
    "processing_error": "the card could not be processed",
    "authentication_required": "the bank wants the payer to confirm the payment",
    "payment_intent_authentication_failure": "the payer did not confirm the payment",
    "subscription_payment_intent_requires_action": "the bank wants the payer to confirm the payment",
    "resource_missing": "Stripe does not know what the request names",
    "tax_id_invalid": "the tax id is not valid",
    "coupon_expired": "the promotion code has expired",
    "promotion_code_unknown": "there is no such promotion code that can be used",
    "price_mismatch": "the price at Stripe is not the one of the catalog",
    "idempotency_error": "Stripe has another request under the same key",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What an error of Stripe's says, as far as it can be trusted to be harmless."""

    status: int
    """HTTP status; 0 where there was no answer."""
    kind: str
    code: str
    parameter: str


def problem_of(error: stripe.StripeError) -> Problem:
    """Read an error's body, which may be anything."""
    body = error.json_body if isinstance(error.json_body, Mapping) else {}
    inner = body.get("error")
    said: Mapping[str, object] = inner if isinstance(inner, Mapping) else {}
    return Problem(
        status=error.http_status or 0,
        kind=_matching(_CODE, said.get("type")),
        code=_matching(_CODE, said.get("decline_code")) or _matching(_CODE, said.get("code")),
        parameter=_matching(_PARAMETER, said.get("param")),
    )


def is_absence(error: stripe.StripeError) -> bool:
    """Tell whether Stripe says that there is no such object."""
    return isinstance(error, stripe.InvalidRequestError) and error.http_status == 404  # noqa: PLR2004 - Not Found.


def is_conflict(error: stripe.StripeError) -> bool:
    """Tell whether Stripe is still busy with an earlier request, under the same key or about the same object."""
    return error.http_status == 409  # noqa: PLR2004 - Conflict.


def refusal(code: str, *, parameter: str = "") -> PaymentRefused:
    """Return the error for a refusal, by its code."""
    code = _matching(_CODE, code) or "refused"
    sentence = _SENTENCES.get(code, f"Stripe refused the request ({code})")
    # `discounts[0][promotion_code]` is about the discounts.
    field = _FIELDS.get(parameter) or _FIELDS.get(parameter.partition("[")[0], "")
    if field:
        return PaymentRefused(f"{field}: {sentence}", billing_provider=PROVIDER, provider_code=code, field=field)
    return PaymentRefused(sentence, billing_provider=PROVIDER, provider_code=code)


def unavailable(why: str) -> BillingProviderUnavailable:
    """Return the error for an answer that did not come, or that says nothing about the request."""
    return BillingProviderUnavailable(PROVIDER, why)


def translated(error: stripe.StripeError) -> PaymentRefused | BillingProviderUnavailable:
    """Return our error for Stripe's.

    Only what Stripe says about the request itself is a refusal: a wrong key, too many requests or a conflict with a
    request under way say nothing about it, and the same request may succeed later.
    """
    problem = problem_of(error)
    if isinstance(error, stripe.CardError | stripe.InvalidRequestError):
        return refusal(problem.code or problem.kind, parameter=problem.parameter)
    if isinstance(error, stripe.IdempotencyError) and not is_conflict(error):
        return refusal("idempotency_error")
    if isinstance(error, stripe.APIConnectionError):
        return unavailable("no answer")
    if isinstance(error, stripe.AuthenticationError | stripe.PermissionError):
        return unavailable("it does not accept the configured key")
    if isinstance(error, stripe.RateLimitError):
        return unavailable("too many requests")
    return unavailable(f"status {problem.status}")


def _matching(pattern: re.Pattern[str], value: object) -> str:
    return value if isinstance(value, str) and pattern.fullmatch(value) else ""
