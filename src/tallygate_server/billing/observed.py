"""What the billing provider says, as values of ours: everything else works on these, never on its objects.

Amounts are in the currency's minor unit, currencies in ISO 4217 capitals, instants aware and in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from tallygate_server.domain.subscription import SubscriptionState


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedPrice:
    """A price at the provider."""

    price_id: str
    lookup_key: str
    """Empty where it has none; Tallygate's own are made by `lookup_key_of`."""
    unit_amount_minor: int
    currency: str
    interval: str
    """`month` or `year`, or what else the provider sells by."""
    interval_count: int
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedInvoice:
    """A bill at the provider."""

    invoice_id: str
    customer_id: str
    provider_subscription_id: str
    """Empty where it bills none."""
    state: str
    """`draft`, `open`, `paid`, `void` or `uncollectible`."""
    number: str
    currency: str
    due_minor: int
    paid_minor: int
    tax_minor: int
    period_start_time: datetime | None
    """Of the lines that bill the subscription, not of the invoice itself."""
    period_end_time: datetime | None
    due_time: datetime | None
    attempt_count: int
    next_attempt_time: datetime | None
    hosted_url: str
    create_time: datetime
    paid_time: datetime | None
    client_secret: str = field(default="", repr=False)
    """With which a browser finishes its payment; empty where none is needed or it was not asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedSchedulePhase:
    """One phase of a schedule."""

    price_id: str
    quantity: int
    start_time: datetime
    end_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedSchedule:
    """Planned phases of a subscription at the provider."""

    schedule_id: str
    provider_subscription_id: str
    """The one that it steers, or steered until it was released; empty where it has none yet."""
    state: str
    """`not_started`, `active`, `completed`, `released` or `canceled`."""
    phases: tuple[ObservedSchedulePhase, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedSubscription:
    """A subscription at the provider."""

    provider_subscription_id: str
    customer_id: str
    state: SubscriptionState
    """Never EXPIRED: the provider has no such state."""
    price: ObservedPrice
    """Of its first item; Tallygate's have one item."""
    item_id: str
    quantity: int
    start_time: datetime
    """Instant that billing periods are counted from (the provider's billing cycle anchor)."""
    create_time: datetime
    period_start_time: datetime
    period_end_time: datetime
    """Of the item: the provider moves it on at renewal, before the money is there."""
    trial_start_time: datetime | None
    trial_end_time: datetime | None
    cancel_at_period_end: bool
    cancel_time: datetime | None
    """When it will end although its period goes on, or because its period ends; None while it renews."""
    cancel_request_time: datetime | None
    end_time: datetime | None
    """When it ended; None while it lives."""
    overdue_since_time: datetime | None
    """When the oldest bill that is due and was not paid was made; None where all are paid. Grace counts from here."""
    collection_paused: bool
    resume_time: datetime | None
    default_payment_method_id: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    schedule: ObservedSchedule | None = None
    latest_invoice: ObservedInvoice | None = None


class PaymentOutcome(Enum):
    """What became of a payment."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ACTION_REQUIRED = "action_required"
    REFUNDED = "refunded"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedPayment:
    """Money that was taken, or was to be taken, at the provider: one payment intent."""

    payment_id: str
    customer_id: str
    invoice_id: str
    """Empty where it pays none."""
    outcome: PaymentOutcome
    currency: str
    amount_minor: int
    refunded_minor: int
    disputed: bool
    """Whether the payer disputes it, or has won."""
    fraud_warning: bool
    failure_code: str
    description: str
    create_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PostalAddress:
    """Where bills go; empty strings where unknown."""

    line1: str = ""
    line2: str = ""
    city: str = ""
    state: str = ""
    postal_code: str = ""
    country_code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedCustomer:
    """Who pays, at the provider."""

    customer_id: str
    deleted: bool
    email: str = ""
    name: str = ""
    default_payment_method_id: str = ""
    currency: str = ""
    tax_ids: tuple[tuple[str, str], ...] = ()
    """Pairs of type and value."""
    address: PostalAddress | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    create_time: datetime | None = None
    """None for a deleted one: the provider tells its id only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedCheckoutSession:
    """A page where a plan is paid for."""

    session_id: str
    state: str
    """`open`, `complete` or `expired`."""
    paid: bool
    """Whether the money is there (or none is due): an asynchronous payment comes later."""
    url: str
    expire_time: datetime
    customer_id: str
    provider_subscription_id: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedProration:
    """What the provider would bill for a change."""

    due_now_minor: int
    """Negative for a credit."""
    next_invoice_minor: int
    currency: str
    lines: tuple[ObservedProrationLine, ...]
    proration_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedProrationLine:
    """One line of it."""

    description: str
    amount_minor: int
    period_start_time: datetime
    period_end_time: datetime
