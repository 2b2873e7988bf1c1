"""Stripe's error answers, as exceptions that carry what the body says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

DOC_URL = "https://stripe.com/docs/error-codes/"


class StripeError(Exception):
    """Answer a request with an error body of Stripe's form."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.kind = kind
        self.code = code
        self.param = param
        self.extra = extra or {}

    def body(self, request_id: str) -> dict[str, Any]:
        """Return the JSON body; absent facts are left out, as Stripe does."""
        error: dict[str, Any] = {"message": self.message, "type": self.kind}
        if self.code is not None:
            error |= {"code": self.code, "doc_url": DOC_URL + self.code.replace("_", "-")}
        if self.param is not None:
            error["param"] = self.param
        return {
            "error": error | self.extra | {"request_log_url": f"https://dashboard.stripe.com/test/logs/{request_id}"}
        }


def missing(kind: str, object_id: str, *, param: str = "id") -> StripeError:
    """Say that no object of this kind has this id."""
    name = kind.rsplit(".", 1)[-1].replace("_", " ")
    return StripeError(f"No such {name}: '{object_id}'", status=404, code="resource_missing", param=param)


def refused(message: str, *, code: str | None = None, param: str | None = None) -> StripeError:
    """Refuse a request that is well formed but not possible in this state."""
    return StripeError(message, code=code, param=param)


def unknown_parameter(param: str) -> StripeError:
    """Refuse a parameter that the pinned version does not have."""
    return StripeError(f"Received unknown parameter: {param}", code="parameter_unknown", param=param)


def refuse_unsupported(given: Mapping[str, Any], names: Iterable[str], *, where: str = "") -> None:
    """Refuse parameters that Stripe knows and the local one does not work out, rather than overlook them.

    Raises:
        StripeError: one of them is given.

    """
    for name in names:
        if given.get(name):
            param = f"{where}[{name}]" if where else name
            raise refused(f"The local Stripe does not support `{param}`.", code="local_stripe_unsupported", param=param)


def missing_parameter(param: str) -> StripeError:
    """Refuse a request without a required parameter."""
    return StripeError(f"Missing required param: {param}.", code="parameter_missing", param=param)


def card_declined(
    message: str, *, code: str, decline_code: str | None = None, extra: dict[str, Any] | None = None
) -> StripeError:
    """Say that a card was refused (402)."""
    facts = dict(extra or {})
    if decline_code is not None:
        facts["decline_code"] = decline_code
    return StripeError(message, status=402, kind="card_error", code=code, extra=facts)
