"""Subscriptions and their history as callers see them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tallygate_server.domain.catalog import Plan, Price
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.subscription import (
    LIVE_STATES,
    ScheduledChange,
    ScheduledChangeKind,
    Subscription,
    SubscriptionState,
    access_window,
)
from tallygate_server.storage.mapping import Json
from tallygate_server.storage.subscriptions import HistoryRow, SubscriptionRow
from tallygate_server.subscriptions.decisions import Held, billing_period, shown_change


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionView:
    """A subscription as callers see it, at the instant of the call."""

    tenant_id: TenantId
    account_id: AccountId
    subscription: Subscription
    """As it is at the instant: what has run out is canceled or expired, whatever its row says."""
    price: Price | None
    """None for a plan that costs nothing."""
    current_period_start: datetime
    current_period_end: datetime | None
    """None for what costs nothing and has no end."""
    end_time: datetime | None
    """When it will end, or has ended; None while it renews by itself."""
    grace_end_time: datetime | None
    """When access ends if an overdue payment does not come; None outside grace."""
    scheduled_change: ScheduledChange | None
    """What will change by itself: a planned change, a cancellation to come, the end of a pause."""
    metadata: dict[str, str]
    create_time: datetime
    update_time: datetime
    provider_subscription_id: str = ""
    provider_customer_id: str = ""
    provider_price_id: str = ""
    payment_client_secret: str = ""
    """With which a browser finishes a payment; only in the answer that asked for it. Never logged."""
    hosted_invoice_url: str = ""
    revision: int = 0
    """Of the account's entitlements after the change that was asked for; 0 where none was."""
    replayed: bool = False

    @property
    def ends_with_period(self) -> bool:
        """Whether it ends when the current period does."""
        live = self.subscription.state in LIVE_STATES
        return live and self.end_time is not None and self.end_time == self.current_period_end


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionChangeView:
    """One step of a subscription's history: who changed what, when and why."""

    change_id: int
    subscription_id: str
    cause: str
    state_before: SubscriptionState | None
    """None for the first step."""
    state_after: SubscriptionState
    plan_key_before: str
    plan_key_after: str
    difference: dict[str, dict[str, Any]]
    """Every field that changed: its value before and after."""
    reason: str
    actor: str
    webhook_event_id: str
    change_time: datetime
    revision: int


def view_of(tenant_id: TenantId, row: SubscriptionRow, held: Held, plan: Plan, now: datetime) -> SubscriptionView:
    """Return the subscription as it is held at the instant; `row` has the rest."""
    subscription = held.subscription
    start, end = billing_period(subscription, now)
    ended: datetime | None = None
    if subscription.cancel_at_period_end:
        ended = subscription.period_end_time
    elif subscription.state not in LIVE_STATES:
        ended = subscription.canceled_time
    elif held.pending is not None and held.pending.kind is ScheduledChangeKind.CANCELLATION:
        ended = held.pending.effective_time
    return SubscriptionView(
        tenant_id=tenant_id,
        account_id=row.account_id,
        subscription=subscription,
        price=plan.price_for(subscription.interval) if subscription.interval is not None else None,
        current_period_start=start,
        current_period_end=end,
        end_time=ended,
        grace_end_time=_grace_end(subscription, plan.grace_days, now),
        scheduled_change=shown_change(held),
        metadata=row.metadata,
        create_time=row.create_time,
        update_time=row.update_time,
        provider_subscription_id=row.provider_subscription_id,
        provider_customer_id=row.provider_customer_id,
        provider_price_id=row.provider_price_id,
    )


def _grace_end(subscription: Subscription, grace_days: int, now: datetime) -> datetime | None:
    window = access_window(subscription, grace_days)
    if window is None or window.paid_end is None or window.grace_end is None:
        return None
    return window.grace_end if window.paid_end <= now and window.paid_end < window.grace_end else None


def change_view_of(step: HistoryRow) -> SubscriptionChangeView:
    """Return a step of history as callers see it."""
    return SubscriptionChangeView(
        change_id=step.history_id,
        subscription_id=step.subscription_id,
        cause=step.action,
        state_before=SubscriptionState(step.before["state"]) if step.before is not None else None,
        state_after=SubscriptionState(step.after["state"]),
        plan_key_before=step.before["plan_key"] if step.before is not None else "",
        plan_key_after=step.after["plan_key"],
        difference=difference_of(step.before or {}, step.after),
        reason=step.reason,
        actor=step.actor,
        webhook_event_id=step.webhook_event_id,
        change_time=step.create_time,
        revision=step.revision,
    )


def difference_of(before: Json, after: Json) -> dict[str, dict[str, Any]]:
    """Return every field that differs, with its value before and after."""
    return {
        name: {"before": before.get(name), "after": after.get(name)}
        for name in sorted({*before, *after})
        if name != "subscription_id" and before.get(name) != after.get(name)
    }
