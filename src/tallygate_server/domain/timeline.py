"""What a subscription goes through by itself: its end, the end of its trial or pause, a change that was planned.

All of it follows from the row, the change that is planned for it, and the instant. So access and answers are right at
every instant, and the job that writes the steps down may come late, or never.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from tallygate_server.domain.catalog import BillingInterval
from tallygate_server.domain.identifier import PlanKey
from tallygate_server.domain.subscription import (
    LIVE_STATES,
    BillingProvider,
    ScheduledChange,
    ScheduledChangeKind,
    Subscription,
    SubscriptionState,
    may_move,
)


class StepKind(Enum):
    """What happens by itself; the values are the causes that history names."""

    EXPIRY = "expiry"
    TRIAL_END = "trial_end"
    RESUMPTION = "resumption"
    SCHEDULED_CHANGE = "scheduled_change"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that happens by itself."""

    kind: StepKind
    at: datetime
    after: Subscription


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A subscription at an instant."""

    subscription: Subscription
    pending: ScheduledChange | None
    """The planned change that has not taken effect."""
    moved: bool
    """Whether the planned change has taken effect."""
    next_time: datetime | None
    """When something happens next by itself; None: nothing will."""


def next_step(subscription: Subscription, change: ScheduledChange | None) -> Step | None:
    """Return what happens next by itself; None when nothing will.

    Of what falls on one instant the end comes first, then the end of a trial, then that of a pause, then the planned
    change: so what begins at the end of a trial finds it over, and nothing follows an end. At a billing provider's
    subscription only the end is ours to see; the rest happens there and is observed.
    """
    if subscription.state not in LIVE_STATES:
        return None
    end = subscription.period_end_time if subscription.cancel_at_period_end else None
    if subscription.provider is BillingProvider.STRIPE:
        return None if end is None else Step(kind=StepKind.EXPIRY, at=end, after=_ended(subscription))
    trial_end = subscription.trial_end_time if subscription.state is SubscriptionState.TRIALING else None
    resumption = subscription.resume_time if subscription.state is SubscriptionState.PAUSED else None
    first: tuple[datetime, StepKind] | None = None
    for at, kind in (
        (end, StepKind.EXPIRY),
        (trial_end, StepKind.TRIAL_END),
        (resumption, StepKind.RESUMPTION),
        (change.effective_time if change is not None else None, StepKind.SCHEDULED_CHANGE),
    ):
        if at is not None and (first is None or at < first[0]):
            first = at, kind
    if first is None:
        return None
    at, kind = first
    if kind is StepKind.EXPIRY:
        after = _ended(subscription)
    elif kind is StepKind.TRIAL_END:
        after = _paid(subscription, at)
    elif kind is StepKind.RESUMPTION:
        after = resumed(subscription, at)
    else:
        assert change is not None
        after = _changed(subscription, change, at)
    return Step(kind=kind, at=at, after=after)


def steps_until(subscription: Subscription, change: ScheduledChange | None, at: datetime) -> list[Step]:
    """Return everything that has happened by itself up to the instant, in order."""
    steps = []
    while (step := next_step(subscription, change)) is not None and step.at <= at:
        steps.append(step)
        subscription = step.after
        if step.kind is StepKind.SCHEDULED_CHANGE:
            change = None
    return steps


def standing(subscription: Subscription, change: ScheduledChange | None, at: datetime) -> Standing:
    """Return the subscription as it is at the instant, whatever its row still says."""
    moved = False
    while (step := next_step(subscription, change)) is not None and step.at <= at:
        subscription = step.after
        if step.kind is StepKind.SCHEDULED_CHANGE:
            change, moved = None, True
    live = subscription.state in LIVE_STATES
    return Standing(
        subscription=subscription,
        pending=change if live else None,
        moved=moved,
        next_time=step.at if step is not None else None,
    )


def with_plan(
    before: Subscription,
    *,
    plan_key: PlanKey,
    plan_version: int,
    provider: BillingProvider,
    interval: BillingInterval | None,
    quantity: int,
    at: datetime,
) -> Subscription:
    """Return the subscription after a move at the instant; `interval` is None for what costs nothing.

    Its billing periods go on as long as the interval stays, and begin anew when it changes. A trial goes on, unless
    what is moved to costs nothing.
    """
    after = replace(
        before,
        plan_key=plan_key,
        plan_version=plan_version,
        provider=provider,
        interval=interval,
        quantity=quantity,
    )
    if before.state is SubscriptionState.TRIALING:
        if interval is not None:
            return after
        return replace(
            after,
            state=SubscriptionState.ACTIVE,
            start_time=at,
            period_start_time=at,
            trial_end_time=max(at, before.period_start_time),
        )
    if interval is not before.interval:
        after = replace(after, start_time=at, period_start_time=at)
    return after


def paused(before: Subscription, at: datetime, resume_time: datetime | None) -> Subscription:
    """Return the subscription after a pause has begun at the instant."""
    return replace(before, state=SubscriptionState.PAUSED, pause_start_time=at, resume_time=resume_time)


def resumed(before: Subscription, at: datetime) -> Subscription:
    """Return the subscription after its pause has ended at the instant; billing periods went on meanwhile.

    What is left of a trial is given; a trial whose end fell into the pause is over.
    """
    after = replace(before, pause_start_time=None, resume_time=None)
    trial_end = before.trial_end_time
    if trial_end is not None and at < trial_end:
        return replace(after, state=SubscriptionState.TRIALING)
    return replace(after, state=SubscriptionState.ACTIVE)


def _paid(before: Subscription, at: datetime) -> Subscription:
    # Billing begins where the trial ended, and so do the periods anchored to it.
    return replace(before, state=SubscriptionState.ACTIVE, start_time=at)


def _ended(before: Subscription) -> Subscription:
    asked = before.canceled_time is not None or before.provider is BillingProvider.STRIPE
    return replace(before, state=SubscriptionState.CANCELED if asked else SubscriptionState.EXPIRED)


def _changed(before: Subscription, change: ScheduledChange, at: datetime) -> Subscription:
    if change.kind is ScheduledChangeKind.PLAN:
        return with_plan(
            before,
            plan_key=change.plan_key if change.plan_key is not None else before.plan_key,
            plan_version=change.plan_version if change.plan_version is not None else before.plan_version,
            provider=change.provider or before.provider,
            interval=change.interval if change.plan_key is not None else before.interval,
            quantity=change.quantity if change.quantity is not None else before.quantity,
            at=at,
        )
    if change.kind is ScheduledChangeKind.PAUSE:
        if not may_move(before.state, SubscriptionState.PAUSED):
            return before
        return paused(before, at, change.resume_time)
    if change.kind is ScheduledChangeKind.RESUMPTION:
        return resumed(before, at) if before.state is SubscriptionState.PAUSED else before
    return replace(
        before,
        state=SubscriptionState.CANCELED,
        canceled_time=before.canceled_time or change.create_time,
        period_end_time=at if at > before.period_start_time else before.period_end_time,
        cancel_at_period_end=True,
    )
