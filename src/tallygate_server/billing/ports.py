"""What the parts of billing ask of each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from tallygate_server.billing.observed import ObservedSubscription
from tallygate_server.domain.catalog import Plan, Price
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.storage.subscriptions import SubscriptionRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why a subscription changes, for its history and the audit log."""

    action: str
    """`create`, `change_plan`, `payment_failed`, `renewal`, `reconcile`, ..."""
    actor: str
    reason: str = ""
    request: Mapping[str, str] | None = None
    """Id and fingerprint of the request, so that a retry of it is recognised."""
    webhook_event_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What became of an observation."""

    tenant_id: TenantId
    account_id: AccountId
    subscription_id: str
    revision: int
    """Of the account's entitlements afterwards."""
    changed: bool
    """False when everything was as observed already; nothing was written then."""


class SubscriptionSync(Protocol):
    """Makes our subscriptions what the provider says they are."""

    async def apply(self, observed: ObservedSubscription, cause: Cause) -> Applied | None:
        """Store the subscription as observed, in one change of its account; None when it is none of ours.

        Safe in any order and as often as wanted: the caller has just fetched what it hands over, and what is final
        stays final.
        """

    async def refresh(self, provider_subscription_id: str, cause: Cause) -> Applied | None:
        """Fetch the subscription under a lock of its account's and apply it; None when it is none of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paid:
    """What a change at the provider came to."""

    subscription_id: str
    revision: int
    payment_client_secret: str = ""
    """With which a browser finishes a payment; empty where none is needed. Never logged, never stored."""
    hosted_invoice_url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Who asks for a change, and how a retry of it is recognised."""

    tenant_id: TenantId
    account_id: AccountId
    actor: str
    reason: str
    request_id: str
    """Empty: a retry cannot be told from a new request, unless an operation of the same kind is still pending."""
    fingerprint: str


class PaidSubscriptions(Protocol):
    """Changes subscriptions that the provider collects money for; the rules have been checked by the caller."""

    async def create(
        self,
        order: Order,
        *,
        plan: Plan,
        price: Price,
        quantity: int,
        trial_days: int,
        payment_method_id: str,
        promotion_code: str,
        metadata: Mapping[str, str],
    ) -> Paid:
        """Subscribe the account's customer, who is made where there is none."""

    async def change_now(
        self,
        order: Order,
        row: SubscriptionRow,
        *,
        plan: Plan,
        price: Price,
        quantity: int,
        payment_method_id: str,
        preview_time: datetime | None,
    ) -> Paid:
        """Move the subscription to the price at once; the difference is billed at once. A planned change is dropped."""

    async def change_later(
        self,
        order: Order,
        row: SubscriptionRow,
        *,
        plan: Plan,
        price: Price | None,
        quantity: int,
        effective_time: datetime | None,
    ) -> Paid:
        """Plan the move for a time (None: the end of the paid period).

        Without a price the plan is a free one: the subscription ends at that time, and a free one follows it.
        """

    async def cancel(self, order: Order, row: SubscriptionRow, *, now: bool, at: datetime | None) -> Paid:
        """Cancel at once, at a time, or (neither) at the end of the paid period."""

    async def resume(self, order: Order, row: SubscriptionRow) -> Paid:
        """End a pause, or take back a cancellation that has not taken effect."""

    async def pause(self, order: Order, row: SubscriptionRow, *, resume_time: datetime | None) -> Paid:
        """Pause at once."""

    async def drop_scheduled_change(self, order: Order, row: SubscriptionRow) -> Paid:
        """Take back what is planned at the provider."""
