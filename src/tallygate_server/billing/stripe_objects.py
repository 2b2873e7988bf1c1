"""Stripe's objects, in the shape of the pinned API version, turned into values of ours.

Every field is checked where it is read. One that is missing or of another type raises StripeObjectInvalid, which names
the object, its id and the field, and never shows a value: those belong to customers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from tallygate_server.billing.observed import (
    ObservedCheckoutSession,
    ObservedCustomer,
    ObservedInvoice,
    ObservedPayment,
    ObservedPrice,
    ObservedProration,
    ObservedProrationLine,
    ObservedSchedule,
    ObservedSchedulePhase,
    ObservedSubscription,
    PaymentOutcome,
    PostalAddress,
)
from tallygate_server.domain.subscription import SubscriptionState

JsonObject = Mapping[str, Any]

INSTANT_MAX: Final = 253_402_300_799
"""The last second of the year 9999, beyond which Python's datetime ends."""

AMOUNT_MAX: Final = 2**63 - 1
"""What a 64-bit column holds."""

_NAME_LENGTH_MAX: Final = 64

_STATES: Final[Mapping[str, SubscriptionState]] = {
    "incomplete": SubscriptionState.INCOMPLETE,
    "incomplete_expired": SubscriptionState.INCOMPLETE_EXPIRED,
    "trialing": SubscriptionState.TRIALING,
    "active": SubscriptionState.ACTIVE,
    "past_due": SubscriptionState.PAST_DUE,
    "unpaid": SubscriptionState.UNPAID,
    "paused": SubscriptionState.PAUSED,
    "canceled": SubscriptionState.CANCELED,
}

_OUTCOMES: Final[Mapping[str, PaymentOutcome]] = {
    "succeeded": PaymentOutcome.SUCCEEDED,
    "canceled": PaymentOutcome.FAILED,
    "requires_action": PaymentOutcome.ACTION_REQUIRED,
    "requires_confirmation": PaymentOutcome.ACTION_REQUIRED,
    "requires_payment_method": PaymentOutcome.PENDING,
    "requires_capture": PaymentOutcome.PENDING,
    "processing": PaymentOutcome.PENDING,
}

SCHEDULE_STATES: Final = frozenset({"not_started", "active", "completed", "released", "canceled"})
INVOICE_STATES: Final = frozenset({"draft", "open", "paid", "void", "uncollectible"})
SESSION_STATES: Final = frozenset({"open", "complete", "expired"})


class StripeObjectInvalid(Exception):
    """An object of Stripe's is not of the shape that the pinned API version promises."""

    def __init__(self, kind: str, object_id: str, path: str, problem: str) -> None:
        """Name the object, its id, the path of the field, and what is wrong with it."""
        super().__init__(f"{kind} {object_id}: {path}: {problem}")
        self.kind = kind
        self.object_id = object_id
        self.path = path


class Fields:
    """One JSON object of Stripe's, read field by field."""

    __slots__ = ("_data", "_id", "_kind", "_path")

    def __init__(self, data: object, *, kind: str, object_id: str = "", path: str = "") -> None:
        """Take an object that must be a JSON object; the kind is what it should be, for the error."""
        self._kind = kind
        self._id = object_id
        self._path = path
        if not isinstance(data, Mapping):
            raise StripeObjectInvalid(kind, object_id or "?", path or "(itself)", "is no object")
        self._data: JsonObject = data
        if not path:
            self._id = _shown(data.get("id"))

    def invalid(self, name: str, problem: str) -> StripeObjectInvalid:
        """Return the error that says what is wrong with a field."""
        return StripeObjectInvalid(self._kind, self._id, self._at(name), problem)

    # ---- text

    def text(self, name: str) -> str:
        """Return a text that is not empty."""
        value = self.text_or_empty(name)
        if not value:
            raise self.invalid(name, "is missing")
        return value

    def text_or_empty(self, name: str) -> str:
        """Return a text; empty where there is none."""
        value = self._data.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.invalid(name, "is no text")
        if "\x00" in value:
            # Postgres stores no NUL; Stripe never sends one.
            raise self.invalid(name, "holds a NUL character")
        return value

    def one_of(self, name: str, allowed: Iterable[str]) -> str:
        """Return a text out of a known set."""
        value = self.text(name)
        if value not in allowed:
            raise self.invalid(name, "is none of the known values")
        return value

    def texts(self, name: str) -> dict[str, str]:
        """Return a mapping of texts, such as metadata; empty where there is none."""
        value = self._data.get(name)
        if value is None:
            return {}
        inner = self.inside(name)
        for key in value:
            inner.text_or_empty(key)
        return {str(key): inner.text_or_empty(key) for key in value}

    # ---- numbers, flags, instants

    def number(self, name: str) -> int:
        """Return an integer that 64 bits hold."""
        value = self._data.get(name)
        # A bool is an int to Python, and none to anybody else.
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.invalid(name, "is missing" if value is None else "is no integer")
        if not -AMOUNT_MAX <= value <= AMOUNT_MAX:
            raise self.invalid(name, "is out of range")
        return value

    def number_or(self, name: str, absent: int) -> int:
        """Return an integer, or what stands for none."""
        return absent if self._data.get(name) is None else self.number(name)

    def flag(self, name: str) -> bool:
        """Return a flag; absent is false."""
        value = self._data.get(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self.invalid(name, "is no flag")
        return value

    def instant(self, name: str) -> datetime:
        """Return an instant, which Stripe tells in seconds since 1970."""
        value = self.number(name)
        if not 0 <= value <= INSTANT_MAX:
            raise self.invalid(name, "is no instant")
        return datetime.fromtimestamp(value, UTC)

    def instant_or_none(self, name: str) -> datetime | None:
        """Return an instant; None where there is none."""
        return None if self._data.get(name) is None else self.instant(name)

    # ---- objects

    def has_object(self, name: str) -> bool:
        """Tell whether the field is an object: one that may be expanded was."""
        return isinstance(self._data.get(name), Mapping)

    def inside(self, name: str) -> Fields:
        """Return an object inside."""
        value = self._data.get(name)
        if value is None:
            raise self.invalid(name, "is missing")
        return Fields(value, kind=self._kind, object_id=self._id, path=self._at(name))

    def inside_or_none(self, name: str) -> Fields | None:
        """Return an object inside; None where there is none."""
        return None if self._data.get(name) is None else self.inside(name)

    def each(self, name: str) -> list[Fields]:
        """Return the objects of an array; none where it is absent."""
        value = self._data.get(name)
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            raise self.invalid(name, "is no array")
        return [
            Fields(item, kind=self._kind, object_id=self._id, path=self._at(f"{name}[{position}]"))
            for position, item in enumerate(value)
        ]

    def listed(self, name: str) -> list[Fields]:
        """Return the objects of a list object's first page; none where it is absent."""
        page = self.inside_or_none(name)
        return [] if page is None else page.each("data")

    def reference(self, name: str) -> str:
        """Return the id of an object that may be expanded."""
        found = self.reference_or_empty(name)
        if not found:
            raise self.invalid(name, "is missing")
        return found

    def reference_or_empty(self, name: str) -> str:
        """Return the id of an object that may be expanded; empty where there is none."""
        return self.inside(name).text("id") if self.has_object(name) else self.text_or_empty(name)

    @property
    def data(self) -> JsonObject:
        """The object itself."""
        return self._data

    def _at(self, name: str) -> str:
        name = _shown(name)
        return f"{self._path}.{name}" if self._path else name


# ------------------------------------------------------------------ objects


def price_of(data: object) -> ObservedPrice:
    """Read a price; one without a fixed amount has the amount 0, one that is paid once no interval."""
    return _price(Fields(data, kind="price"))


def subscription_of(data: object, *, overdue_since_time: datetime | None = None) -> ObservedSubscription:
    """Read a subscription whose latest invoice and schedule are expanded."""
    fields = Fields(data, kind="subscription")
    items = fields.listed("items")
    if not items:
        raise fields.invalid("items.data[0]", "is missing")
    item = items[0]
    # The period is the item's: the subscription itself has none since basil.
    period_end_time = item.instant("current_period_end")
    cancel_at_period_end = fields.flag("cancel_at_period_end")
    pause = fields.inside_or_none("pause_collection")
    return ObservedSubscription(
        provider_subscription_id=fields.text("id"),
        customer_id=fields.reference("customer"),
        state=_STATES[fields.one_of("status", _STATES)],
        price=_price(item.inside("price")),
        item_id=item.text("id"),
        quantity=item.number_or("quantity", 1),
        start_time=fields.instant("billing_cycle_anchor"),
        create_time=fields.instant("created"),
        period_start_time=item.instant("current_period_start"),
        period_end_time=period_end_time,
        trial_start_time=fields.instant_or_none("trial_start"),
        trial_end_time=fields.instant_or_none("trial_end"),
        cancel_at_period_end=cancel_at_period_end,
        cancel_time=fields.instant_or_none("cancel_at") or (period_end_time if cancel_at_period_end else None),
        cancel_request_time=fields.instant_or_none("canceled_at"),
        end_time=fields.instant_or_none("ended_at"),
        overdue_since_time=overdue_since_time,
        collection_paused=pause is not None,
        resume_time=pause.instant_or_none("resumes_at") if pause is not None else None,
        default_payment_method_id=fields.reference_or_empty("default_payment_method"),
        metadata=fields.texts("metadata"),
        schedule=_schedule(fields.inside("schedule")) if fields.has_object("schedule") else None,
        latest_invoice=_invoice(fields.inside("latest_invoice")) if fields.has_object("latest_invoice") else None,
    )


def schedule_of(data: object) -> ObservedSchedule:
    """Read a subscription schedule."""
    return _schedule(Fields(data, kind="subscription_schedule"))


def invoice_of(data: object) -> ObservedInvoice:
    """Read an invoice."""
    return _invoice(Fields(data, kind="invoice"))


def payment_of(
    data: object, *, invoice_id: str = "", disputed: bool = False, fraud_warning: bool = False
) -> ObservedPayment:
    """Read a payment intent whose latest charge is expanded; the rest is what other objects say about it."""
    fields = Fields(data, kind="payment_intent")
    outcome = _OUTCOMES[fields.one_of("status", _OUTCOMES)]
    failure = failure_code_of(data)
    refunded_minor = 0
    if fields.has_object("latest_charge"):
        charge = fields.inside("latest_charge")
        refunded_minor = charge.number_or("amount_refunded", 0)
        if outcome is PaymentOutcome.SUCCEEDED and charge.flag("refunded"):
            outcome = PaymentOutcome.REFUNDED
    if outcome is PaymentOutcome.PENDING and failure:
        outcome = PaymentOutcome.FAILED
    return ObservedPayment(
        payment_id=fields.text("id"),
        customer_id=fields.reference_or_empty("customer"),
        invoice_id=invoice_id,
        outcome=outcome,
        currency=fields.text("currency").upper(),
        amount_minor=fields.number("amount"),
        refunded_minor=refunded_minor,
        disputed=disputed,
        fraud_warning=fraud_warning,
        failure_code=failure if outcome in _WITH_FAILURE else "",
        description=fields.text_or_empty("description"),
        create_time=fields.instant("created"),
    )


_WITH_FAILURE: Final = frozenset({PaymentOutcome.FAILED, PaymentOutcome.ACTION_REQUIRED})


def failure_code_of(data: object) -> str:
    """Return why the last try of a payment intent failed: the issuer's code before Stripe's; empty: it did not."""
    error = Fields(data, kind="payment_intent").inside_or_none("last_payment_error")
    if error is None:
        return ""
    return error.text_or_empty("decline_code") or error.text_or_empty("code") or error.text_or_empty("type") or "failed"


def customer_of(data: object) -> ObservedCustomer:
    """Read a customer whose tax ids are expanded; of a deleted one only the id is told."""
    fields = Fields(data, kind="customer")
    if fields.flag("deleted"):
        return ObservedCustomer(customer_id=fields.text("id"), deleted=True)
    settings = fields.inside_or_none("invoice_settings")
    address = fields.inside_or_none("address")
    return ObservedCustomer(
        customer_id=fields.text("id"),
        deleted=False,
        email=fields.text_or_empty("email"),
        name=fields.text_or_empty("name"),
        default_payment_method_id=settings.reference_or_empty("default_payment_method") if settings else "",
        currency=fields.text_or_empty("currency").upper(),
        tax_ids=tuple((tax_id.text("type"), tax_id.text("value")) for tax_id in fields.listed("tax_ids")),
        address=_address(address) if address is not None else None,
        metadata=fields.texts("metadata"),
        create_time=fields.instant("created"),
    )


def checkout_session_of(data: object) -> ObservedCheckoutSession:
    """Read a Checkout session."""
    fields = Fields(data, kind="checkout.session")
    return ObservedCheckoutSession(
        session_id=fields.text("id"),
        state=fields.one_of("status", SESSION_STATES),
        paid=fields.one_of("payment_status", _PAYMENT_STATUSES) != "unpaid",
        url=fields.text_or_empty("url"),
        expire_time=fields.instant("expires_at"),
        customer_id=fields.reference_or_empty("customer"),
        provider_subscription_id=fields.reference_or_empty("subscription"),
        metadata=fields.texts("metadata"),
    )


_PAYMENT_STATUSES: Final = frozenset({"paid", "unpaid", "no_payment_required"})


def proration_of(change: object, recurring: object, *, proration_time: datetime) -> ObservedProration:
    """Read two previews: the invoice of the change, and the one of a whole period after it."""
    fields = Fields(change, kind="invoice preview")
    return ObservedProration(
        due_now_minor=fields.number("total"),
        next_invoice_minor=Fields(recurring, kind="invoice preview").number("total"),
        currency=fields.text("currency").upper(),
        lines=tuple(_proration_line(line) for line in fields.listed("lines")),
        proration_time=proration_time,
    )


def subscription_id_of_event(data: object) -> str:
    """Return the subscription that an event of a subscription, a schedule or an invoice is about; empty: none."""
    subject = Fields(data, kind="event").inside("data").inside("object")
    kind = subject.text("object")
    if kind == "subscription":
        return subject.text("id")
    if kind == "subscription_schedule":
        return subject.reference_or_empty("subscription") or subject.text_or_empty("released_subscription")
    if kind == "invoice":
        # Events keep the shape that the account's own API version had, which may be older than the pinned one.
        return _subscription_of_invoice(subject) or subject.reference_or_empty("subscription")
    return ""


# ------------------------------------------------------------------ parts


def _price(fields: Fields) -> ObservedPrice:
    recurring = fields.inside_or_none("recurring")
    return ObservedPrice(
        price_id=fields.text("id"),
        lookup_key=fields.text_or_empty("lookup_key"),
        unit_amount_minor=fields.number_or("unit_amount", 0),
        currency=fields.text("currency").upper(),
        interval=recurring.text("interval") if recurring is not None else "",
        interval_count=recurring.number_or("interval_count", 1) if recurring is not None else 1,
        metadata=fields.texts("metadata"),
    )


def _schedule(fields: Fields) -> ObservedSchedule:
    return ObservedSchedule(
        schedule_id=fields.text("id"),
        provider_subscription_id=fields.reference_or_empty("subscription")
        or fields.text_or_empty("released_subscription"),
        state=fields.one_of("status", SCHEDULE_STATES),
        phases=tuple(_phase(phase) for phase in fields.each("phases")),
        metadata=fields.texts("metadata"),
    )


def _phase(fields: Fields) -> ObservedSchedulePhase:
    items = fields.each("items")
    if not items:
        raise fields.invalid("items[0]", "is missing")
    return ObservedSchedulePhase(
        price_id=items[0].reference("price"),
        quantity=items[0].number_or("quantity", 1),
        start_time=fields.instant("start_date"),
        end_time=fields.instant_or_none("end_date"),
    )


def _invoice(fields: Fields) -> ObservedInvoice:
    transitions = fields.inside_or_none("status_transitions")
    secret = fields.inside_or_none("confirmation_secret")
    start_time, end_time = _billed_period(fields)
    # One that is being made has no status yet.
    state = fields.one_of("status", INVOICE_STATES) if fields.data.get("status") is not None else "draft"
    return ObservedInvoice(
        invoice_id=fields.text("id"),
        customer_id=fields.reference_or_empty("customer"),
        provider_subscription_id=_subscription_of_invoice(fields),
        state=state,
        number=fields.text_or_empty("number"),
        currency=fields.text("currency").upper(),
        due_minor=fields.number("amount_due"),
        paid_minor=fields.number("amount_paid"),
        tax_minor=sum(tax.number("amount") for tax in fields.each("total_taxes")),
        period_start_time=start_time,
        period_end_time=end_time,
        due_time=fields.instant_or_none("due_date"),
        attempt_count=fields.number_or("attempt_count", 0),
        next_attempt_time=fields.instant_or_none("next_payment_attempt"),
        hosted_url=fields.text_or_empty("hosted_invoice_url"),
        create_time=fields.instant("created"),
        paid_time=transitions.instant_or_none("paid_at") if transitions is not None else None,
        # Stripe tells the secret of a paid one too, which opens nothing that anybody needs.
        client_secret=secret.text_or_empty("client_secret") if secret is not None and state == "open" else "",
    )


def _subscription_of_invoice(fields: Fields) -> str:
    parent = fields.inside_or_none("parent")
    details = parent.inside_or_none("subscription_details") if parent is not None else None
    return details.reference_or_empty("subscription") if details is not None else ""


def _billed_period(invoice: Fields) -> tuple[datetime | None, datetime | None]:
    """Return the last period that the invoice bills in full, else the last that it bills in part."""
    whole: list[tuple[datetime, datetime]] = []
    parts: list[tuple[datetime, datetime]] = []
    for line in invoice.listed("lines"):
        parent = line.inside_or_none("parent")
        details = parent.inside_or_none("subscription_item_details") if parent is not None else None
        if details is None:
            continue
        period = line.inside("period")
        found = (period.instant("start"), period.instant("end"))
        (parts if details.flag("proration") else whole).append(found)
    found_periods = whole or parts
    if not found_periods:
        return None, None
    return max(found_periods, key=lambda found: found[1])


def _proration_line(line: Fields) -> ObservedProrationLine:
    period = line.inside("period")
    return ObservedProrationLine(
        description=line.text_or_empty("description"),
        amount_minor=line.number("amount"),
        period_start_time=period.instant("start"),
        period_end_time=period.instant("end"),
    )


def _address(fields: Fields) -> PostalAddress:
    return PostalAddress(
        line1=fields.text_or_empty("line1"),
        line2=fields.text_or_empty("line2"),
        city=fields.text_or_empty("city"),
        state=fields.text_or_empty("state"),
        postal_code=fields.text_or_empty("postal_code"),
        country_code=fields.text_or_empty("country"),
    )


def _shown(value: object) -> str:
    """Return an id or a field's name as an error may show it: short, and of harmless characters."""
    text = value if isinstance(value, str) and value else "?"
    return "".join(
        char if char.isascii() and (char.isalnum() or char in "_-.[]") else "?" for char in text[:_NAME_LENGTH_MAX]
    )
