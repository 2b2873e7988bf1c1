"""A webhook is genuine and fresh, or it is refused for a reason that is named and repeats nothing of it."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from stripe import SignatureVerificationError, WebhookSignature

from tallygate_server.errors import SignatureInvalid
from tallygate_server.webhooks.events import WebhookSource
from tallygate_server.webhooks.signatures import (
    HEADER_LENGTH_MAX,
    SIGNATURES_MAX,
    Freshness,
    Headers,
    Rule,
    check_ayrshare,
    check_stripe,
    check_svix,
    svix_key,
)
from tests.support import webhooks

NOW = datetime(2026, 3, 15, 12, 0, tzinfo=UTC)
BODY = b'{"id":"evt_1","type":"invoice.paid","note":"a-text-that-nobody-may-see"}'
TOLERANCE = 300
SECOND = timedelta(seconds=1)

Sign = Callable[..., dict[str, str]]

SIGNERS: dict[WebhookSource, Sign] = {
    WebhookSource.STRIPE: webhooks.stripe_headers,
    WebhookSource.CLERK: webhooks.svix_headers,
    WebhookSource.AYRSHARE: webhooks.ayrshare_headers,
}
SECRETS = {
    WebhookSource.STRIPE: (webhooks.STRIPE_SECRET, "whsec_other"),
    WebhookSource.CLERK: (webhooks.SVIX_SECRET, "whsec_" + base64.b64encode(b"other").decode()),
    WebhookSource.AYRSHARE: (webhooks.AYRSHARE_SECRET, "other"),
}
CHECKS = {
    WebhookSource.STRIPE: check_stripe,
    WebhookSource.CLERK: check_svix,
    WebhookSource.AYRSHARE: check_ayrshare,
}
SIGNATURE_HEADER = {
    WebhookSource.STRIPE: "stripe-signature",
    WebhookSource.CLERK: "svix-signature",
    WebhookSource.AYRSHARE: "x-authorization-content-sha256",
}
TIME_HEADER = {WebhookSource.CLERK: "svix-timestamp", WebhookSource.AYRSHARE: "x-authorization-timestamp"}

every_source = pytest.mark.parametrize("source", list(WebhookSource))


def signed(source: WebhookSource, body: bytes = BODY, at: datetime = NOW, *, secret: str = "") -> dict[str, str]:
    headers = SIGNERS[source](body, at, secret=secret or SECRETS[source][0])
    return {name.lower(): value for name, value in headers.items()}


def check(
    source: WebhookSource, headers: Headers, body: bytes = BODY, *, secrets: tuple[str, ...] = (), now: datetime = NOW
) -> object:
    freshness = Freshness(now=now, tolerance_seconds=TOLERANCE)
    return CHECKS[source](body, headers, secrets or SECRETS[source], freshness)


def rule_broken(
    source: WebhookSource, headers: Headers, body: bytes = BODY, *, secrets: tuple[str, ...] = (), now: datetime = NOW
) -> Rule:
    with pytest.raises(SignatureInvalid) as refused:
        check(source, headers, body, secrets=secrets, now=now)
    assert refused.value.facts["source"] == source
    assert "nobody-may-see" not in f"{refused.value} {refused.value.facts}"
    return Rule(refused.value.facts["rule"])


@every_source
def test_what_its_sender_signed_now_is_genuine(source: WebhookSource) -> None:
    check(source, signed(source))


@every_source
@pytest.mark.parametrize("position", [0, 1])
def test_each_of_several_secrets_will_do(source: WebhookSource, position: int) -> None:
    check(source, signed(source, secret=SECRETS[source][position]))


@every_source
def test_a_secret_that_is_no_longer_set_will_not_do(source: WebhookSource) -> None:
    assert rule_broken(source, signed(source), secrets=SECRETS[source][1:]) is Rule.MISMATCH


@every_source
@pytest.mark.parametrize("off", [timedelta(0), TOLERANCE * SECOND, -TOLERANCE * SECOND])
def test_a_time_within_the_tolerance_will_do(source: WebhookSource, off: timedelta) -> None:
    check(source, signed(source, at=NOW + off))


@every_source
@pytest.mark.parametrize(
    ("off", "rule"),
    [
        (-(TOLERANCE + 1) * SECOND, Rule.TOO_OLD),
        ((TOLERANCE + 1) * SECOND, Rule.IN_FUTURE),
        (timedelta(days=-4), Rule.TOO_OLD),
        (timedelta(days=400), Rule.IN_FUTURE),
    ],
)
def test_a_time_beyond_the_tolerance_will_not_do(source: WebhookSource, off: timedelta, rule: Rule) -> None:
    assert rule_broken(source, signed(source, at=NOW + off)) is rule


@every_source
@pytest.mark.parametrize(
    "other",
    [BODY + b" ", BODY[:-1], BODY.replace(b"paid", b"Paid"), b"", BODY + b"\n", b"\xef\xbb\xbf" + BODY],
    ids=["longer", "truncated", "changed", "empty", "newline", "byte order mark"],
)
def test_other_bytes_are_not_what_was_signed(source: WebhookSource, other: bytes) -> None:
    assert rule_broken(source, signed(source), other) is Rule.MISMATCH


@every_source
def test_without_a_signature_nothing_is_genuine(source: WebhookSource) -> None:
    headers = signed(source)
    for name in list(headers):
        assert rule_broken(source, {**headers, name: ""}) is Rule.MISSING
        assert rule_broken(source, {each: value for each, value in headers.items() if each != name}) is Rule.MISSING
    assert rule_broken(source, {}) is Rule.MISSING


@every_source
def test_a_header_that_is_given_twice_is_refused(source: WebhookSource) -> None:
    headers = signed(source)
    for name, value in headers.items():
        assert rule_broken(source, {**headers, name: f"{value}, {value}"}) in {Rule.MALFORMED, Rule.MISMATCH}


@pytest.mark.parametrize("source", [WebhookSource.CLERK, WebhookSource.AYRSHARE])
@pytest.mark.parametrize("time", ["", " ", "now", "-1", "1e9", "1773576000.0", "١٧٧٣٥٧٦٠٠٠", "9" * 13, "0x10"])
def test_a_time_that_is_none_is_refused(source: WebhookSource, time: str) -> None:
    rule = rule_broken(source, {**signed(source), TIME_HEADER[source]: time})

    assert rule is (Rule.MALFORMED if time else Rule.MISSING)


@every_source
def test_a_time_changed_after_signing_is_refused_where_it_is_signed(source: WebhookSource) -> None:
    headers = signed(source, at=NOW - timedelta(hours=1))
    if source is WebhookSource.STRIPE:
        now = int(NOW.timestamp())
        headers["stripe-signature"] = f"t={now},{headers['stripe-signature'].partition(',')[2]}"
    else:
        headers[TIME_HEADER[source]] = str(int(NOW.timestamp()))

    if source is WebhookSource.AYRSHARE:
        check(source, headers)  # Ayrshare signs the body alone; that its event is known stops it, see the intake.
    else:
        assert rule_broken(source, headers) is Rule.MISMATCH


@every_source
def test_a_header_that_is_too_long_is_refused(source: WebhookSource) -> None:
    headers = signed(source)
    name = SIGNATURE_HEADER[source]

    assert rule_broken(source, {**headers, name: headers[name].ljust(HEADER_LENGTH_MAX + 1, "0")}) is Rule.MALFORMED


@every_source
@pytest.mark.parametrize("garbage", ["\x00", "ÿ" * 64, "\udfff", "v1", "=,=,=", "t=,v1=", " ", ",,,", "v1,"])
def test_garbage_for_a_signature_is_refused(source: WebhookSource, garbage: str) -> None:
    assert rule_broken(source, {**signed(source), SIGNATURE_HEADER[source]: garbage}) in {
        Rule.MALFORMED,
        Rule.MISMATCH,
    }


# --- Stripe -----------------------------------------------------------------------------------------------


def stripe_signature(at: datetime = NOW) -> tuple[str, str]:
    time, _, signature = signed(WebhookSource.STRIPE, at=at)["stripe-signature"].partition(",")
    return time, signature


def test_one_of_several_signatures_of_stripe_will_do() -> None:
    time, signature = stripe_signature()
    others = ",".join(["v1=" + "0" * 64] * (SIGNATURES_MAX - 1))

    check(WebhookSource.STRIPE, {"stripe-signature": f"{time},{others},{signature},v0=ignored,x=y"})
    assert rule_broken(WebhookSource.STRIPE, {"stripe-signature": f"{time},v1=0,{others},{signature}"}) is (
        Rule.MALFORMED
    )


def test_a_weaker_scheme_of_stripe_will_not_do() -> None:
    time, signature = stripe_signature()
    weaker = signature.replace("v1=", "v0=")

    assert rule_broken(WebhookSource.STRIPE, {"stripe-signature": f"{time},{weaker}"}) is Rule.MALFORMED
    assert rule_broken(WebhookSource.STRIPE, {"stripe-signature": f"{time},{weaker},v1={'0' * 64}"}) is Rule.MISMATCH


@pytest.mark.parametrize(
    "header",
    ["t={t},t={t},{v}", "t={t},t=0,{v}", "t={t}", "{v}", "t=,{v}", "t=-{t},{v}", "t={t}.0,{v}", "t={t},{v},", "t,{v}"],
)
def test_a_header_of_stripe_that_is_not_of_its_form_is_refused(header: str) -> None:
    time, signature = stripe_signature()
    header = header.format(t=time.removeprefix("t="), v=signature)

    assert rule_broken(WebhookSource.STRIPE, {"stripe-signature": header}) is Rule.MALFORMED


@pytest.mark.parametrize("body", [BODY, "Grüße, 世界 \U0001f600".encode(), b"{}"])
def test_stripes_own_library_takes_the_same_signatures(body: bytes) -> None:
    theirs = WebhookSignature.generate_signature_header(
        body.decode(), webhooks.STRIPE_SECRET, timestamp=int(NOW.timestamp())
    )

    check(WebhookSource.STRIPE, {"stripe-signature": theirs}, body)

    ours = signed(WebhookSource.STRIPE, body)["stripe-signature"]
    assert WebhookSignature.verify_header(body, ours, webhooks.STRIPE_SECRET)
    with pytest.raises(SignatureVerificationError):
        WebhookSignature.verify_header(body, ours.replace("v1=", "v1=0"), webhooks.STRIPE_SECRET)


# --- Svix -------------------------------------------------------------------------------------------------


def test_the_id_of_the_message_is_returned_and_signed() -> None:
    headers = signed(WebhookSource.CLERK)

    assert check(WebhookSource.CLERK, headers) == "msg_1"
    assert rule_broken(WebhookSource.CLERK, {**headers, "svix-id": "msg_2"}) is Rule.MISMATCH


def test_names_of_standard_webhooks_will_do() -> None:
    headers = webhooks.svix_headers(BODY, NOW, prefix="webhook")

    assert check(WebhookSource.CLERK, headers) == "msg_1"


def test_one_of_several_signatures_of_svix_will_do() -> None:
    headers = signed(WebhookSource.CLERK)
    several = f"v1a,other v2,other v1,{'0' * 43}= {headers['svix-signature']}"

    check(WebhookSource.CLERK, {**headers, "svix-signature": several})


@pytest.mark.parametrize("header", ["{s}", "v1{s}", "v2,{s}", "v1,{s} ", "v1,{s}  v1,{s}", " v1,{s}"])
def test_a_header_of_svix_that_is_not_of_its_form_is_refused(header: str) -> None:
    headers = signed(WebhookSource.CLERK)
    given = header.format(s=headers["svix-signature"].removeprefix("v1,"))

    assert rule_broken(WebhookSource.CLERK, {**headers, "svix-signature": given}) is Rule.MALFORMED


@pytest.mark.parametrize("message_id", ["a" * 256, "msg 1", "msg\u00e9", "msg\n1"])
def test_an_id_that_cannot_be_one_is_refused(message_id: str) -> None:
    headers = {**signed(WebhookSource.CLERK), "svix-id": message_id}

    assert rule_broken(WebhookSource.CLERK, headers) is Rule.MALFORMED


@pytest.mark.parametrize("secret", ["whsec_", "whsec_!", "whsec_abc", ""])
def test_a_secret_of_svix_is_base64(secret: str) -> None:
    with pytest.raises(ValueError):
        svix_key(secret)


# --- Ayrshare ---------------------------------------------------------------------------------------------


def test_ayrshare_may_sign_in_hexadecimal_or_base64() -> None:
    headers = signed(WebhookSource.AYRSHARE)
    name = SIGNATURE_HEADER[WebhookSource.AYRSHARE]
    digest = hmac.new(webhooks.AYRSHARE_SECRET.encode(), BODY, hashlib.sha256).digest()

    check(WebhookSource.AYRSHARE, {**headers, name: digest.hex().upper()})
    check(WebhookSource.AYRSHARE, {**headers, name: base64.b64encode(digest).decode()})


def test_while_a_secret_is_replaced_the_second_header_of_ayrshare_will_do() -> None:
    headers = signed(WebhookSource.AYRSHARE)
    name = SIGNATURE_HEADER[WebhookSource.AYRSHARE]
    both = {**headers, name: "0" * 64, f"{name}-v2": headers[name]}

    check(WebhookSource.AYRSHARE, both)
    assert rule_broken(WebhookSource.AYRSHARE, {**both, f"{name}-v2": "1" * 64}) is Rule.MISMATCH
