"""Subscription states, the moves between them, and the window in which a subscription gives access."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from tallygate_server.domain.catalog import BillingInterval
from tallygate_server.domain.identifier import PlanKey


class SubscriptionState(Enum):
    """Where a subscription stands."""

    INCOMPLETE = "incomplete"
    INCOMPLETE_EXPIRED = "incomplete_expired"
    TRIALING = "trialing"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    UNPAID = "unpaid"
    PAUSED = "paused"
    CANCELED = "canceled"
    EXPIRED = "expired"


class BillingProvider(Enum):
    """Who collects the money: nobody, Stripe, or the tenant itself outside of Tallygate."""

    NONE = "none"
    STRIPE = "stripe"
    MANUAL = "manual"


_S = SubscriptionState

TRANSITIONS: dict[SubscriptionState, frozenset[SubscriptionState]] = {
    _S.INCOMPLETE: frozenset({_S.ACTIVE, _S.TRIALING, _S.INCOMPLETE_EXPIRED, _S.CANCELED}),
    _S.INCOMPLETE_EXPIRED: frozenset(),
    _S.TRIALING: frozenset({_S.ACTIVE, _S.PAST_DUE, _S.PAUSED, _S.CANCELED, _S.EXPIRED}),
    _S.ACTIVE: frozenset({_S.PAST_DUE, _S.UNPAID, _S.PAUSED, _S.CANCELED, _S.EXPIRED}),
    _S.PAST_DUE: frozenset({_S.ACTIVE, _S.UNPAID, _S.PAUSED, _S.CANCELED, _S.EXPIRED}),
    _S.UNPAID: frozenset({_S.ACTIVE, _S.CANCELED, _S.EXPIRED}),
    _S.PAUSED: frozenset({_S.TRIALING, _S.ACTIVE, _S.PAST_DUE, _S.CANCELED, _S.EXPIRED}),
    _S.CANCELED: frozenset(),
    _S.EXPIRED: frozenset(),
}
"""Every permitted move; a state absent from a set is refused. Empty sets are terminal.

It speaks of what is asked for here, and of what happens here by itself. What a billing provider reports is compared
with nothing but finality: several of its moves may lie between two looks at it.
"""

LIVE_STATES = frozenset(state for state, following in TRANSITIONS.items() if following)
"""States from which a subscription can still change: at most one live one per account and plan."""


def may_move(before: SubscriptionState, after: SubscriptionState) -> bool:
    """Tell whether the move is in the transition table."""
    return after in TRANSITIONS[before]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """One account's subscription to one pinned plan version."""

    subscription_id: str
    plan_key: PlanKey
    plan_version: int
    state: SubscriptionState
    provider: BillingProvider
    interval: BillingInterval | None
    """None for a plan that costs nothing."""
    quantity: int
    start_time: datetime
    """Anchor of billing periods: stored once, every later period is computed from it."""
    period_start_time: datetime
    period_end_time: datetime | None
    """None when the subscription runs until it is canceled."""
    trial_end_time: datetime | None = None
    cancel_at_period_end: bool = False
    canceled_time: datetime | None = None
    grace_end_time: datetime | None = None
    """When the grace of a failed payment ends; None means period end plus the plan's grace."""
    pause_start_time: datetime | None = None
    """When the pause that it is in began; None outside one."""
    resume_time: datetime | None = None
    """When the pause ends by itself; None: when somebody resumes it."""


SCHEDULED_CHANGE_PREFIX: Final = "chg"
"""Of the ids of scheduled changes."""


class ScheduledChangeKind(Enum):
    """What a change does that waits for its time."""

    PLAN = "plan"
    CANCELLATION = "cancellation"
    PAUSE = "pause"
    RESUMPTION = "resumption"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduledChange:
    """A change of one subscription that takes effect by itself; a subscription has at most one that is pending."""

    scheduled_change_id: str
    subscription_id: str
    kind: ScheduledChangeKind
    effective_time: datetime
    plan_key: PlanKey | None = None
    """Plan afterwards, at `plan_version`; None where it stays, as do `interval`, `quantity` and `provider`."""
    plan_version: int | None = None
    interval: BillingInterval | None = None
    """Afterwards; None for a plan without price (or where the plan stays)."""
    quantity: int | None = None
    provider: BillingProvider | None = None
    resume_time: datetime | None = None
    """When a pause ends by itself."""
    provider_schedule_id: str = ""
    """The schedule at the provider, which then carries the change out; empty: Tallygate does."""
    actor: str = ""
    reason: str = ""
    create_time: datetime


@dataclass(frozen=True, slots=True)
class AccessWindow:
    """Until when a subscription gives access: fully until `paid_end`, in grace until `grace_end`.

    None means without end. `grace_end >= paid_end` whenever both are set.
    """

    paid_end: datetime | None
    grace_end: datetime | None


def access_window(subscription: Subscription, grace_days: int) -> AccessWindow | None:
    """Return the window in which the subscription's state and dates give access, or None for none at all.

    The state alone never grants: an `active` row whose period end and grace have passed is as good as
    expired, whatever job has not run yet.
    """
    state = subscription.state
    end = subscription.period_end_time
    if state is SubscriptionState.TRIALING:
        # A trial has not been paid for: no grace behind it.
        trial_end = _earlier(subscription.trial_end_time, end)
        return AccessWindow(trial_end, trial_end)
    if state is SubscriptionState.ACTIVE:
        if end is None:
            return AccessWindow(None, None)
        if subscription.cancel_at_period_end:
            return AccessWindow(end, end)
        return AccessWindow(end, subscription.grace_end_time or end + timedelta(days=grace_days))
    if state is SubscriptionState.PAST_DUE:
        grace_end = subscription.grace_end_time
        if grace_end is None:
            grace_end = (end or subscription.period_start_time) + timedelta(days=grace_days)
        # Already overdue: no moment of it counts as paid.
        return AccessWindow(subscription.period_start_time, grace_end)
    return None


def _earlier(a: datetime | None, b: datetime | None) -> datetime | None:
    if a is None or b is None:
        return a or b
    return min(a, b)
