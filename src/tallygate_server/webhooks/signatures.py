"""Whether a webhook is genuine and fresh: pure checks of its bytes and headers.

- stripe: `Stripe-Signature: t=<seconds>,v1=<signature>`, with further `v1=` for further secrets. Signed are the
  seconds, a dot and the body; the signature is hexadecimal.
- clerk (Svix): `svix-id`, `svix-timestamp` and `svix-signature: v1,<signature>`, with further ones after a space; the
  same names with `webhook-`, as Standard Webhooks has them, will do. Signed are the id, the seconds and the body, with
  dots in between; the signature is base64.
- ayrshare: `X-Authorization-Timestamp` in seconds and `X-Authorization-Content-SHA256`; while a secret is replaced also
  `X-Authorization-Content-SHA256-V2`. Signed is the body alone; the signature is hexadecimal or base64.

The MAC is HMAC-SHA256 throughout. Every source may have several secrets: one signature by one of them suffices. The
time may be off by the tolerance either way, and there is no way to switch that off. Ayrshare does not sign its time:
what keeps an old body with a new time from being processed again is that its event is known already.

Stripe's own library is not asked, as it takes what is dated into the future, takes the first of two times, and decodes
the body before it looks at it; a test compares the two on what both accept.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from tallygate_server.errors import SignatureInvalid
from tallygate_server.webhooks.events import WebhookSource

HEADER_LENGTH_MAX: Final = 8_192
SIGNATURES_MAX: Final = 16
"""Signatures in one header; Stripe and Svix send one for each secret that is in use."""
_SVIX_PREFIX: Final = "whsec_"

Headers = Mapping[str, str]
"""By lower-case name."""

_SECONDS = re.compile(r"[0-9]{1,12}")
_SCHEME = re.compile(r"[a-z0-9]+")
_HEXADECIMAL = re.compile(r"[0-9a-fA-F]{64}")
_BASE64 = re.compile(r"[A-Za-z0-9+/]{43}=")
_MESSAGE_ID = re.compile(r"[!-~]{1,255}")


class Rule(StrEnum):
    """What a refused webhook breaks."""

    MISSING = "missing"
    MALFORMED = "malformed"
    MISMATCH = "mismatch"
    TOO_OLD = "too_old"
    IN_FUTURE = "in_future"
    CONTENT_CHANGED = "content_changed"


_SENTENCES: Final[Mapping[Rule, str]] = {
    Rule.MISSING: "a header of the signature is missing",
    Rule.MALFORMED: "a header of the signature is not of its form",
    Rule.MISMATCH: "no signature matches the body",
    Rule.TOO_OLD: "it was signed too long ago",
    Rule.IN_FUTURE: "it is dated into the future",
    Rule.CONTENT_CHANGED: "an event of this id came in before, with other content",
}


def refusal(source: WebhookSource, rule: Rule) -> SignatureInvalid:
    """Return the error for a broken rule; it repeats nothing of the webhook."""
    return SignatureInvalid(f"{source} webhook refused: {_SENTENCES[rule]}", source=source, rule=rule)


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """How far a webhook's time may be from ours."""

    now: datetime
    tolerance_seconds: int

    def check(self, source: WebhookSource, seconds: int) -> None:
        """Return if the time, in seconds since 1970, is near enough; raise SignatureInvalid."""
        age = int(self.now.timestamp()) - seconds
        if age > self.tolerance_seconds:
            raise refusal(source, Rule.TOO_OLD)
        if -age > self.tolerance_seconds:
            raise refusal(source, Rule.IN_FUTURE)


def check_stripe(payload: bytes, headers: Headers, secrets: Sequence[str], freshness: Freshness) -> None:
    """Return if Stripe signed the payload just now; raise SignatureInvalid."""
    source = WebhookSource.STRIPE
    header = _header(source, headers, "stripe-signature")
    times: list[str] = []
    signatures: list[str] = []
    for item in header.split(","):
        scheme, equals, value = item.partition("=")
        if not equals or _SCHEME.fullmatch(scheme) is None:
            raise refusal(source, Rule.MALFORMED)
        # Other schemes are weaker: one that is left out of the check cannot be used to get around it.
        if scheme == "t":
            times.append(value)
        elif scheme == "v1":
            signatures.append(value)
    if len(times) != 1 or _SECONDS.fullmatch(times[0]) is None or not 1 <= len(signatures) <= SIGNATURES_MAX:
        raise refusal(source, Rule.MALFORMED)
    signed = times[0].encode() + b"." + payload
    expected = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets]
    _match(source, expected, signatures)
    freshness.check(source, int(times[0]))


def check_svix(payload: bytes, headers: Headers, secrets: Sequence[str], freshness: Freshness) -> str:
    """Return the id of the message if its sender signed the payload just now; raise SignatureInvalid."""
    source = WebhookSource.CLERK
    prefix = "svix" if "svix-signature" in headers else "webhook"
    message_id = _header(source, headers, f"{prefix}-id")
    time = _header(source, headers, f"{prefix}-timestamp")
    header = _header(source, headers, f"{prefix}-signature")
    items = [item.partition(",") for item in header.split(" ")]
    signatures = [signature for version, _, signature in items if version == "v1"]
    if (
        _MESSAGE_ID.fullmatch(message_id) is None
        or _SECONDS.fullmatch(time) is None
        or not all(comma for _, comma, _ in items)
        or not 1 <= len(signatures) <= SIGNATURES_MAX
        or not all(_BASE64.fullmatch(signature) for signature in signatures)
    ):
        raise refusal(source, Rule.MALFORMED)
    signed = f"{message_id}.{time}.".encode() + payload
    expected = [base64.b64encode(hmac.digest(svix_key(secret), signed, hashlib.sha256)).decode() for secret in secrets]
    _match(source, expected, signatures)
    freshness.check(source, int(time))
    return message_id


def check_ayrshare(payload: bytes, headers: Headers, secrets: Sequence[str], freshness: Freshness) -> None:
    """Return if Ayrshare signed the payload, and says that it did so just now; raise SignatureInvalid."""
    source = WebhookSource.AYRSHARE
    time = _header(source, headers, "x-authorization-timestamp")
    names = ("x-authorization-content-sha256", "x-authorization-content-sha256-v2")
    given = [_header(source, headers, name) for name in names if name in headers]
    if not given:
        raise refusal(source, Rule.MISSING)
    if _SECONDS.fullmatch(time) is None:
        raise refusal(source, Rule.MALFORMED)
    signatures = []
    for signature in given:
        if _HEXADECIMAL.fullmatch(signature) is not None:
            signatures.append(signature.lower())
        elif _BASE64.fullmatch(signature) is not None:
            signatures.append(base64.b64decode(signature).hex())
        else:
            raise refusal(source, Rule.MALFORMED)
    expected = [hmac.new(secret.encode(), payload, hashlib.sha256).hexdigest() for secret in secrets]
    _match(source, expected, signatures)
    freshness.check(source, int(time))


def svix_key(secret: str) -> bytes:
    """Return the key in a secret of Svix, `whsec_` and base64; raise ValueError where it is none."""
    try:
        key = base64.b64decode(secret.removeprefix(_SVIX_PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError("is not whsec_ and base64") from error
    if not key:
        raise ValueError("is empty")
    return key


def _header(source: WebhookSource, headers: Headers, name: str) -> str:
    value = headers.get(name, "")
    if not value:
        raise refusal(source, Rule.MISSING)
    if len(value) > HEADER_LENGTH_MAX:
        raise refusal(source, Rule.MALFORMED)
    return value


def _match(source: WebhookSource, expected: Sequence[str], signatures: Sequence[str]) -> None:
    """Return if one of the signatures is an expected one, comparing all with all in constant time."""
    matches = [
        hmac.compare_digest(one.encode(), other.encode("utf-8", "surrogatepass"))
        for one in expected
        for other in signatures
    ]
    if not any(matches):
        raise refusal(source, Rule.MISMATCH)
