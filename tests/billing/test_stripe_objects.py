"""Stripe's objects become ours, and what is not of the promised shape is named, never met by accident."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from tallygate_server.billing.observed import PaymentOutcome, PostalAddress
from tallygate_server.billing.stripe_objects import (
    AMOUNT_MAX,
    INSTANT_MAX,
    StripeObjectInvalid,
    checkout_session_of,
    customer_of,
    failure_code_of,
    invoice_of,
    payment_of,
    price_of,
    proration_of,
    schedule_of,
    subscription_id_of_event,
    subscription_of,
)
from tallygate_server.domain.subscription import SubscriptionState
from tests.support import stripe_shapes as shapes
from tests.support.stripe_shapes import MONTH, NOW


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


# ------------------------------------------------------------------ what is read


def test_the_period_of_a_subscription_is_its_items() -> None:
    data = shapes.subscription(current_period_start=1, current_period_end=2)

    observed = subscription_of(data)

    assert (observed.period_start_time, observed.period_end_time) == (at(NOW), at(NOW + MONTH))
    assert observed.start_time == at(NOW)
    assert (observed.item_id, observed.quantity, observed.price.price_id) == ("si_1", 1, "price_pro")


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("incomplete", SubscriptionState.INCOMPLETE),
        ("incomplete_expired", SubscriptionState.INCOMPLETE_EXPIRED),
        ("trialing", SubscriptionState.TRIALING),
        ("active", SubscriptionState.ACTIVE),
        ("past_due", SubscriptionState.PAST_DUE),
        ("unpaid", SubscriptionState.UNPAID),
        ("paused", SubscriptionState.PAUSED),
        ("canceled", SubscriptionState.CANCELED),
    ],
)
def test_every_status_of_stripes_is_a_state_of_ours(status: str, state: SubscriptionState) -> None:
    assert subscription_of(shapes.subscription(status=status)).state is state


@pytest.mark.parametrize(
    ("fields", "cancel_time"),
    [
        ({}, None),
        ({"cancel_at_period_end": True}, at(NOW + MONTH)),
        ({"cancel_at": NOW + 60}, at(NOW + 60)),
        ({"cancel_at_period_end": True, "cancel_at": NOW + MONTH}, at(NOW + MONTH)),
    ],
)
def test_the_end_of_a_subscription_is_told_however_it_was_asked_for(
    fields: dict[str, Any], cancel_time: datetime | None
) -> None:
    assert subscription_of(shapes.subscription(**fields)).cancel_time == cancel_time


def test_what_is_expanded_is_read_and_what_is_not_is_left_out() -> None:
    bare = subscription_of(shapes.subscription(schedule="sub_sched_1", customer=shapes.customer()))
    full = subscription_of(shapes.subscription(schedule=shapes.schedule(), latest_invoice=shapes.invoice()))

    assert (bare.schedule, bare.latest_invoice, bare.customer_id) == (None, None, "cus_1")
    assert full.schedule is not None
    assert full.schedule.phases[0].price_id == "price_pro"
    assert full.latest_invoice is not None
    assert full.latest_invoice.provider_subscription_id == "sub_1"


def test_a_pause_of_collection_is_told_with_its_end() -> None:
    data = shapes.subscription(pause_collection={"behavior": "void", "resumes_at": NOW + 60})

    observed = subscription_of(data)

    assert (observed.collection_paused, observed.resume_time) == (True, at(NOW + 60))


def test_a_price_without_an_amount_or_an_interval_is_still_a_price() -> None:
    price = price_of(shapes.price(unit_amount=None, recurring=None, lookup_key=None, metadata=None))

    assert (price.unit_amount_minor, price.interval, price.interval_count) == (0, "", 1)
    assert (price.lookup_key, price.metadata) == ("", {})
    assert price.currency == "USD"


def test_an_invoice_covers_the_period_that_it_bills_in_full() -> None:
    lines = shapes.listed(
        shapes.line(proration=True, start=NOW - 60, end=NOW + 2 * MONTH),
        shapes.line(start=NOW, end=NOW + MONTH),
        {**shapes.line(), "parent": None},
    )

    observed = invoice_of(shapes.invoice(lines=lines))

    assert (observed.period_start_time, observed.period_end_time) == (at(NOW), at(NOW + MONTH))


def test_an_invoice_of_prorations_only_covers_the_last_of_them() -> None:
    lines = shapes.listed(shapes.line(proration=True, end=NOW + 60), shapes.line(proration=True, end=NOW + 90))

    assert invoice_of(shapes.invoice(lines=lines)).period_end_time == at(NOW + 90)


def test_an_invoice_of_no_subscription_has_neither_period_nor_subscription() -> None:
    observed = invoice_of(shapes.invoice(parent=None, lines=shapes.listed(), customer=None, status=None))

    assert (observed.period_start_time, observed.provider_subscription_id, observed.customer_id) == (None, "", "")
    assert observed.state == "draft"


def test_taxes_are_added_up() -> None:
    assert invoice_of(shapes.invoice(total_taxes=[{"amount": 19}, {"amount": 7}])).tax_minor == 26


@pytest.mark.parametrize(("status", "shown"), [("open", "pi_secret"), ("paid", ""), ("void", "")])
def test_the_secret_of_an_invoice_is_told_while_it_opens_something(status: str, shown: str) -> None:
    secret = {"type": "payment_intent", "client_secret": "pi_secret"}

    observed = invoice_of(shapes.invoice(status=status, confirmation_secret=secret))

    assert observed.client_secret == shown
    assert "pi_secret" not in repr(observed)


@pytest.mark.parametrize(
    ("intent", "outcome", "failure"),
    [
        ({}, PaymentOutcome.SUCCEEDED, ""),
        ({"latest_charge": shapes.charge(amount_refunded=400)}, PaymentOutcome.SUCCEEDED, ""),
        ({"latest_charge": shapes.charge(amount_refunded=1_000, refunded=True)}, PaymentOutcome.REFUNDED, ""),
        ({"status": "processing"}, PaymentOutcome.PENDING, ""),
        ({"status": "requires_capture"}, PaymentOutcome.PENDING, ""),
        ({"status": "requires_action"}, PaymentOutcome.ACTION_REQUIRED, ""),
        ({"status": "requires_confirmation"}, PaymentOutcome.ACTION_REQUIRED, ""),
        ({"status": "requires_payment_method"}, PaymentOutcome.PENDING, ""),
        (
            {"status": "requires_payment_method", "last_payment_error": {"code": "card_declined"}},
            PaymentOutcome.FAILED,
            "card_declined",
        ),
        (
            {
                "status": "requires_payment_method",
                "last_payment_error": {"code": "card_declined", "decline_code": "insufficient_funds"},
            },
            PaymentOutcome.FAILED,
            "insufficient_funds",
        ),
        ({"status": "canceled"}, PaymentOutcome.FAILED, ""),
        # A payment that got through in the end did not fail.
        ({"last_payment_error": {"code": "card_declined"}}, PaymentOutcome.SUCCEEDED, ""),
    ],
)
def test_a_payment_is_what_became_of_it(intent: dict[str, Any], outcome: PaymentOutcome, failure: str) -> None:
    observed = payment_of(shapes.intent(**intent))

    assert (observed.outcome, observed.failure_code) == (outcome, failure)


def test_a_payment_carries_what_other_objects_say_about_it() -> None:
    charge = shapes.charge(amount_refunded=400)

    observed = payment_of(shapes.intent(latest_charge=charge), invoice_id="in_9", disputed=True, fraud_warning=True)

    assert (observed.invoice_id, observed.disputed, observed.fraud_warning) == ("in_9", True, True)
    assert (observed.amount_minor, observed.refunded_minor, observed.currency) == (1_000, 400, "USD")


def test_a_failure_without_any_code_is_a_failure() -> None:
    assert failure_code_of(shapes.intent(last_payment_error={})) == "failed"
    assert failure_code_of(shapes.intent()) == ""


def test_a_customer_has_tax_ids_and_an_address() -> None:
    data = shapes.customer(
        currency="eur",
        invoice_settings={"default_payment_method": {"id": "pm_1", "object": "payment_method"}},
        tax_ids=shapes.listed({"id": "txi_1", "type": "eu_vat", "value": "DE1"}),
        address={
            "line1": "Street 1",
            "line2": None,
            "city": "Berlin",
            "state": None,
            "postal_code": "1",
            "country": "DE",
        },
    )

    observed = customer_of(data)

    assert observed.tax_ids == (("eu_vat", "DE1"),)
    assert observed.address == PostalAddress(line1="Street 1", city="Berlin", postal_code="1", country_code="DE")
    assert (observed.default_payment_method_id, observed.currency) == ("pm_1", "EUR")


def test_of_a_deleted_customer_only_the_id_is_known() -> None:
    observed = customer_of({"id": "cus_1", "object": "customer", "deleted": True})

    assert (observed.customer_id, observed.deleted, observed.create_time) == ("cus_1", True, None)


@pytest.mark.parametrize(("payment_status", "paid"), [("paid", True), ("no_payment_required", True), ("unpaid", False)])
def test_a_page_is_paid_when_the_money_is_there_or_none_is_due(payment_status: str, *, paid: bool) -> None:
    assert checkout_session_of(shapes.session(payment_status=payment_status)).paid is paid


def test_a_released_schedule_tells_what_it_steered() -> None:
    data = shapes.schedule(status="released", subscription=None, released_subscription="sub_9")

    assert schedule_of(data).provider_subscription_id == "sub_9"


def test_a_preview_may_come_to_a_credit() -> None:
    change = shapes.invoice(total=-500, lines=shapes.listed(shapes.line(amount=-500)))

    observed = proration_of(change, shapes.invoice(total=300), proration_time=at(NOW))

    assert (observed.due_now_minor, observed.next_invoice_minor, observed.currency) == (-500, 300, "USD")
    assert [line.amount_minor for line in observed.lines] == [-500]


@pytest.mark.parametrize(
    ("subject", "subscription_id"),
    [
        (shapes.subscription("sub_7"), "sub_7"),
        (shapes.invoice(), "sub_1"),
        (shapes.invoice(parent=None), ""),
        # Of an account whose own API version is older than basil.
        (shapes.invoice(parent=None, subscription="sub_old"), "sub_old"),
        (shapes.schedule(), "sub_1"),
        (shapes.schedule(subscription=None, released_subscription="sub_2"), "sub_2"),
        (shapes.schedule(subscription=None), ""),
        (shapes.customer(), ""),
    ],
)
def test_an_event_names_its_subscription(subject: dict[str, Any], subscription_id: str) -> None:
    event = {"id": "evt_1", "object": "event", "data": {"object": subject}}

    assert subscription_id_of_event(event) == subscription_id


# ------------------------------------------------------------------ what is refused

_SUBSCRIPTION = shapes.subscription(schedule=shapes.schedule(), latest_invoice=shapes.invoice())

HOSTILE: list[tuple[Callable[[object], object], dict[str, Any], str]] = [
    (subscription_of, _SUBSCRIPTION, "id"),
    (subscription_of, _SUBSCRIPTION, "customer"),
    (subscription_of, _SUBSCRIPTION, "status"),
    (subscription_of, _SUBSCRIPTION, "billing_cycle_anchor"),
    (subscription_of, _SUBSCRIPTION, "created"),
    (subscription_of, _SUBSCRIPTION, "items.data[0].id"),
    (subscription_of, _SUBSCRIPTION, "items.data[0].current_period_start"),
    (subscription_of, _SUBSCRIPTION, "items.data[0].current_period_end"),
    (subscription_of, _SUBSCRIPTION, "items.data[0].price"),
    (subscription_of, _SUBSCRIPTION, "items.data[0].price.id"),
    (subscription_of, _SUBSCRIPTION, "items.data[0].price.currency"),
    (subscription_of, _SUBSCRIPTION, "items.data[0].price.recurring.interval"),
    (subscription_of, _SUBSCRIPTION, "schedule.id"),
    (subscription_of, _SUBSCRIPTION, "schedule.status"),
    (subscription_of, _SUBSCRIPTION, "schedule.phases[0].start_date"),
    (subscription_of, _SUBSCRIPTION, "schedule.phases[0].items[0].price"),
    (subscription_of, _SUBSCRIPTION, "latest_invoice.amount_due"),
    (subscription_of, _SUBSCRIPTION, "latest_invoice.lines.data[0].period.end"),
    (invoice_of, shapes.invoice(), "currency"),
    (invoice_of, shapes.invoice(), "amount_paid"),
    (payment_of, shapes.intent(), "status"),
    (payment_of, shapes.intent(), "amount"),
    (customer_of, shapes.customer(), "created"),
    (checkout_session_of, shapes.session(), "expires_at"),
    (checkout_session_of, shapes.session(), "status"),
    (schedule_of, shapes.schedule(), "id"),
]


def _with(data: dict[str, Any], path: str, change: Callable[[Any, Any], None]) -> dict[str, Any]:
    """Return a copy in which the field at the path was changed."""
    copied = copy.deepcopy(data)
    place: Any = copied
    steps = path.replace("[", ".").replace("]", "").split(".")
    for step in steps[:-1]:
        place = place[int(step)] if step.isdigit() else place[step]
    change(place, steps[-1])
    return copied


@pytest.mark.parametrize(("parse", "data", "path"), HOSTILE, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("bad", ["missing", None, [], {"surprise": True}, 1.5, True, "\x00"], ids=repr)
def test_a_field_that_is_not_as_promised_is_named_and_not_shown(
    parse: Callable[[object], object], data: dict[str, Any], path: str, bad: object
) -> None:
    def spoil(place: Any, name: str) -> None:
        if bad == "missing":
            del place[name]
        else:
            place[name] = bad

    with pytest.raises(StripeObjectInvalid) as caught:
        parse(_with(data, path, spoil))

    assert caught.value.path.startswith(path)
    assert "surprise" not in str(caught.value)
    assert caught.value.kind in str(caught.value)


@pytest.mark.parametrize(
    ("path", "bad"),
    [
        ("status", "dancing"),
        ("metadata", ["a"]),
        ("metadata", {"key": 1}),
        ("metadata", {"key": "a\x00b"}),
        ("cancel_at_period_end", "yes"),
        ("cancel_at", "tomorrow"),
        ("trial_end", {}),
        ("default_payment_method", 7),
        ("default_payment_method", {"object": "payment_method"}),
        ("pause_collection", "now"),
        ("items", []),
        ("items", None),
        ("items.data", {}),
        ("items.data", []),
        ("items.data", ["si_1"]),
        ("items.data[0].quantity", "2"),
        ("items.data[0].quantity", AMOUNT_MAX + 1),
        ("items.data[0].price", "price_pro"),
        ("items.data[0].price.unit_amount", "1000"),
        ("items.data[0].price.recurring", "month"),
        ("items.data[0].current_period_end", -1),
        ("items.data[0].current_period_end", INSTANT_MAX + 1),
        ("schedule.phases", "none"),
        ("schedule.phases[0].items", []),
        ("schedule.metadata", 3),
        ("latest_invoice.lines", 5),
        ("latest_invoice.total_taxes", [{"amount": None}]),
        ("latest_invoice.parent", "sub_1"),
        ("latest_invoice.status", "lost"),
        ("latest_invoice.confirmation_secret", "secret"),
    ],
)
def test_hostile_subscriptions_raise_nothing_but_the_typed_error(path: str, bad: object) -> None:
    def spoil(place: Any, name: str) -> None:
        place[name] = bad

    with pytest.raises(StripeObjectInvalid):
        subscription_of(_with(_SUBSCRIPTION, path, spoil))


@pytest.mark.parametrize("data", [None, 3, "sub_1", [], [{}], True])
@pytest.mark.parametrize(
    "parse",
    [subscription_of, invoice_of, payment_of, customer_of, checkout_session_of, schedule_of, price_of,
     subscription_id_of_event],
)  # fmt: skip
def test_what_is_no_object_at_all_is_refused(parse: Callable[[object], object], data: object) -> None:
    with pytest.raises(StripeObjectInvalid):
        parse(data)


def test_instants_and_amounts_at_their_bounds_are_read() -> None:
    data = _with(
        _SUBSCRIPTION, "items.data[0].current_period_end", lambda place, name: place.update({name: INSTANT_MAX})
    )

    assert subscription_of(data).period_end_time.year == 9999
    assert price_of(shapes.price(unit_amount=AMOUNT_MAX)).unit_amount_minor == AMOUNT_MAX


def test_the_error_shows_an_id_in_harmless_characters() -> None:
    with pytest.raises(StripeObjectInvalid) as caught:
        price_of({"id": "price\n\x1b[31m" + "x" * 500})

    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 200
