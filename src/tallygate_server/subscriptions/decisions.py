"""What becomes of a subscription when somebody asks for something: pure, from what it is and the instant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum
from typing import Final, NoReturn
from zoneinfo import ZoneInfo

from tallygate_server.domain.catalog import BillingInterval, Plan, Price
from tallygate_server.domain.limits import SUBSCRIPTIONS_PER_ACCOUNT_MAX
from tallygate_server.domain.period import PeriodAnchor, PeriodKind, period_at
from tallygate_server.domain.subscription import (
    LIVE_STATES,
    SCHEDULED_CHANGE_PREFIX,
    BillingProvider,
    ScheduledChange,
    ScheduledChangeKind,
    Subscription,
    SubscriptionState,
    may_move,
)
from tallygate_server.domain.timeline import paused, resumed, standing, with_plan
from tallygate_server.errors import (
    BillingProviderNotConfigured,
    BillingProviderRequired,
    IllegalTransition,
    InvalidRequest,
    NotBuilt,
    NotFound,
    PriceNotFound,
    SubscriptionExists,
)
from tallygate_server.subscriptions.wishes import ChangeTiming, NewSubscription, PlanMove
from tallygate_server.unique_ids import new_id

STRIPE_SETTING: Final = "TALLYGATE_STRIPE_API_KEY"

_UTC = ZoneInfo("UTC")
_PERIOD_OF = {BillingInterval.MONTH: PeriodKind.MONTH, BillingInterval.YEAR: PeriodKind.YEAR}


class PlanChangeDirection(Enum):
    """Whether a change of plan gives more or less, by rank."""

    UPGRADE = "upgrade"
    DOWNGRADE = "downgrade"
    LATERAL = "lateral"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A subscription as it is at the instant, with the change that it waits for."""

    subscription: Subscription
    pending: ScheduledChange | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Who asks, why and when: what a scheduled change remembers of it."""

    at: datetime
    actor: str
    reason: str


# --- What it is at an instant -------------------------------------------------------------------------------


def state_at(subscription: Subscription, at: datetime, change: ScheduledChange | None = None) -> SubscriptionState:
    """Return the state at the instant: what was to happen by then has happened, whatever the row still says."""
    return standing(subscription, change, at).subscription.state


def billing_period(subscription: Subscription, at: datetime) -> tuple[datetime, datetime | None]:
    """Return start and end of the period that the subscription is in; the end is None for what has none.

    The subscription is as it is at the instant.
    """
    if subscription.state is SubscriptionState.TRIALING:
        return subscription.period_start_time, subscription.trial_end_time
    if subscription.interval is None or subscription.provider is BillingProvider.STRIPE:
        return subscription.period_start_time, subscription.period_end_time
    # What has ended stays in the period in which it ended.
    end = subscription.period_end_time
    if end is not None and end <= at:
        at = end - timedelta(microseconds=1)
    period = period_at(
        _PERIOD_OF[subscription.interval],
        PeriodAnchor.BILLING,
        max(at, subscription.period_start_time),
        billing_anchor=subscription.start_time,
        time_zone=_UTC,
    )
    if end is not None and (period.end is None or end < period.end):
        return period.start, end
    return period.start, period.end


def paid_until(subscription: Subscription, at: datetime) -> datetime | None:
    """Return the end of the period that is paid for (or the trial's); None for what has none just now."""
    if subscription.interval is None or subscription.state not in (
        SubscriptionState.ACTIVE,
        SubscriptionState.TRIALING,
        SubscriptionState.PAST_DUE,
    ):
        return None
    _, end = billing_period(subscription, at)
    return end if end is not None and end > at else None


# --- What is sold, and who collects the money -----------------------------------------------------------------


def provider_of(
    plan: Plan, wanted: BillingProvider | None, present: BillingProvider | None, *, stripe: bool
) -> BillingProvider:
    """Return who collects the money; raise where nobody does for a plan that costs something.

    Unset, it is whoever does so now, else Stripe where it is connected.
    """
    if wanted is BillingProvider.STRIPE and not stripe:
        refuse_stripe()
    if not plan.priced:
        return BillingProvider.NONE
    for provider in (wanted, present):
        if provider is BillingProvider.STRIPE or provider is BillingProvider.MANUAL:
            return provider
    if stripe:
        return BillingProvider.STRIPE
    raise BillingProviderRequired(
        f"billing_provider: plan {plan.key!r} costs something, so somebody must collect the money:"
        f" BILLING_PROVIDER_STRIPE (needs {STRIPE_SETTING}), or BILLING_PROVIDER_MANUAL when it is paid outside",
        plan_key=plan.key,
        field="billing_provider",
    )


def price_of(plan: Plan, interval: BillingInterval | None, currency: str = "") -> Price | None:
    """Return the price at the interval (None: the month, or the only one); None for a plan without prices."""
    price = plan.price_for(interval or BillingInterval.MONTH)
    if interval is None and price is None and plan.prices:
        price = plan.prices[0]
    if price is None and interval is None:
        return None
    if price is None or (currency and currency != price.currency):
        sold = ", ".join(f"{each.interval.value} in {each.currency}" for each in plan.prices)
        wanted = " in ".join(part for part in (interval.value if interval else "", currency) if part)
        raise PriceNotFound(
            f"interval: plan {plan.key!r} is not sold by {wanted}, but {f'by {sold}' if sold else 'free'}",
            plan_key=plan.key,
            interval=interval.value if interval else "",
            field="interval",
        )
    return price


def price_after(before: Subscription, plan: Plan, interval: BillingInterval | None) -> Price | None:
    """Return the price that a move to the plan ends at: the interval stays where the plan has it."""
    keeps = interval is None and before.interval is not None and plan.price_for(before.interval) is not None
    return price_of(plan, before.interval if keeps else interval)


def trial_days_of(plan: Plan, wanted: int | None) -> int:
    """Return the days of trial: what the plan gives, or fewer."""
    if wanted is None:
        return plan.trial_days
    if wanted > plan.trial_days:
        allowed = f"at most {plan.trial_days} days" if plan.trial_days else "no trial"
        raise InvalidRequest.of("trial_days", f"plan {plan.key!r} allows {allowed}")
    return wanted


def check_room(others: Sequence[Held], wanted: Subscription, *, account_id: str) -> None:
    """Raise where another live subscription has this price, or will have it, and where there are too many."""
    for other in others:
        held, pending = other.subscription, other.pending
        same = held.plan_key == wanted.plan_key and held.interval is wanted.interval
        planned = (
            pending is not None
            and pending.kind is ScheduledChangeKind.PLAN
            and pending.plan_key == wanted.plan_key
            and pending.interval is wanted.interval
        )
        if same or planned:
            raise SubscriptionExists(
                f"the account has a live subscription to this price of plan {wanted.plan_key!r} already:"
                f" {held.subscription_id}" + ("" if same else ", which is planned to move to it"),
                account_id=account_id,
                plan_key=wanted.plan_key,
                subscription_id=held.subscription_id,
            )
    if len(others) >= SUBSCRIPTIONS_PER_ACCOUNT_MAX:
        raise InvalidRequest.of(
            "account_id",
            f"has {len(others)} live subscriptions, and {SUBSCRIPTIONS_PER_ACCOUNT_MAX} is the most",
        )


def refuse_stripe() -> NoReturn:
    """Raise BillingProviderNotConfigured, naming the setting."""
    raise BillingProviderNotConfigured(
        f"billing_provider: this server has no connection to Stripe; set {STRIPE_SETTING}",
        billing_provider="BILLING_PROVIDER_STRIPE",
        setting=STRIPE_SETTING,
        field="billing_provider",
    )


# --- Moves ------------------------------------------------------------------------------------------------


def demand_move(before: Subscription, state: SubscriptionState) -> None:
    """Raise IllegalTransition where the subscription cannot go to the state."""
    if not may_move(before.state, state):
        raise IllegalTransition(before.state.value, state.value)


def demand_live(before: Subscription, state: SubscriptionState) -> None:
    """Raise IllegalTransition, on the way to the state, where the subscription has ended."""
    if before.state not in LIVE_STATES:
        raise IllegalTransition(before.state.value, state.value)


def direction_of(rank_before: int, rank_after: int) -> PlanChangeDirection:
    """Return whether the move is to a higher or a lower rank."""
    if rank_after > rank_before:
        return PlanChangeDirection.UPGRADE
    return PlanChangeDirection.DOWNGRADE if rank_after < rank_before else PlanChangeDirection.LATERAL


def effective_time_of(
    before: Subscription, timing: ChangeTiming, effective_time: datetime | None, now: datetime
) -> datetime | None:
    """Return when a change takes effect; None for now, also where no period is paid for that could end first."""
    if timing is ChangeTiming.NOW:
        return None
    if timing is ChangeTiming.PERIOD_END:
        effective_time = paid_until(before, now)
    end = before.period_end_time if before.cancel_at_period_end else None
    if effective_time is not None and end is not None and effective_time >= end:
        raise InvalidRequest.of(
            "timing", f"the subscription ends at {end:%Y-%m-%d %H:%M:%S} UTC, before that; resume it first"
        )
    return effective_time


def decide_new(plan: Plan, wanted: NewSubscription, provider: BillingProvider, now: datetime) -> Subscription:
    """Return the new subscription, for a plan that is free or paid outside."""
    price = price_of(plan, wanted.interval, wanted.currency)
    trial_days = trial_days_of(plan, wanted.trial_days)
    for name in ("payment_method_id", "promotion_code"):
        if getattr(wanted, name):
            raise InvalidRequest.of(name, "is used with BILLING_PROVIDER_STRIPE only")
    start = wanted.start_time or now
    if start > now:
        raise NotBuilt("CreateSubscription with a start in the future")
    end = wanted.end_time
    if end is not None and end <= now:
        raise InvalidRequest.of("end_time", "must be in the future")
    trial_end = start + timedelta(days=trial_days) if trial_days else None
    # A trial that a start in the past has used up is none.
    trialing = trial_end is not None and trial_end > now
    return Subscription(
        subscription_id=new_id("sub", now),
        plan_key=plan.key,
        plan_version=plan.version,
        state=SubscriptionState.TRIALING if trialing else SubscriptionState.ACTIVE,
        provider=provider,
        interval=price.interval if price is not None else None,
        quantity=wanted.quantity,
        # Billing begins when the trial ends, and so do the periods anchored to it.
        start_time=trial_end if trial_end is not None else start,
        period_start_time=start,
        period_end_time=end,
        trial_end_time=trial_end,
        cancel_at_period_end=end is not None,
    )


def decide_move(
    held: Held,
    plan: Plan,
    move: PlanMove,
    provider: BillingProvider,
    *,
    at: datetime | None,
    stands_already: bool,
    asked: Asked,
) -> Held:
    """Return what a local subscription becomes: moved now (`at` is None), or with the move planned.

    Where the account has a live subscription to the free plan that it would move to (`stands_already`), this one ends
    instead, and the other goes on.
    """
    before = held.subscription
    price = price_after(before, plan, move.interval)
    quantity = before.quantity if move.quantity is None else move.quantity
    interval = price.interval if price is not None else None
    after = with_plan(
        before,
        plan_key=plan.key,
        plan_version=plan.version,
        provider=provider,
        interval=interval,
        quantity=quantity,
        at=asked.at,
    )
    if at is None:
        if stands_already:
            return canceled_now(held, asked.at)
        return Held(subscription=after)
    if after == before:
        # It is asked to stay as it is: what was planned is dropped.
        return Held(subscription=before)
    planned = ScheduledChange(
        scheduled_change_id=new_id(SCHEDULED_CHANGE_PREFIX, asked.at),
        subscription_id=before.subscription_id,
        kind=ScheduledChangeKind.CANCELLATION if stands_already else ScheduledChangeKind.PLAN,
        effective_time=at,
        plan_key=plan.key,
        plan_version=plan.version,
        interval=interval,
        quantity=quantity,
        provider=provider,
        actor=asked.actor,
        reason=asked.reason,
        create_time=asked.at,
    )
    return Held(subscription=before, pending=_unless_same(held.pending, planned))


def decide_cancel(held: Held, timing: ChangeTiming | None, effective_time: datetime | None, now: datetime) -> Held:
    """Return what cancellation makes of a local subscription; what is planned for it is dropped.

    What costs nothing, or is not paid for now, has no period to wait for and ends at once.
    """
    before = held.subscription
    demand_live(before, SubscriptionState.CANCELED)
    end = cancel_time_of(before, timing, effective_time, now)
    if end is None:
        return canceled_now(held, now)
    if before.cancel_at_period_end and before.period_end_time is not None and before.period_end_time <= end:
        if before.canceled_time is not None and timing is not ChangeTiming.AT_TIME:
            return Held(subscription=before)
        end = before.period_end_time if timing is not ChangeTiming.AT_TIME else end
    return Held(subscription=replace(before, period_end_time=end, cancel_at_period_end=True, canceled_time=now))


def cancel_time_of(
    before: Subscription, timing: ChangeTiming | None, effective_time: datetime | None, now: datetime
) -> datetime | None:
    """Return when a cancellation ends the subscription; None for now."""
    if timing is ChangeTiming.NOW:
        return None
    if timing is ChangeTiming.AT_TIME:
        return effective_time
    if timing is None and before.state is SubscriptionState.PAST_DUE:
        # Not paid for: there is nothing to keep, unless it is asked for.
        return None
    return paid_until(before, now)


def canceled_now(held: Held, now: datetime) -> Held:
    """Return the subscription, ended."""
    before = held.subscription
    demand_move(before, SubscriptionState.CANCELED)
    return Held(
        subscription=replace(
            before,
            state=SubscriptionState.CANCELED,
            canceled_time=now,
            cancel_at_period_end=False,
            pause_start_time=None,
            resume_time=None,
        )
    )


def decide_pause(
    held: Held,
    timing: ChangeTiming | None,
    effective_time: datetime | None,
    resume_time: datetime | None,
    asked: Asked,
) -> Held:
    """Return what a pause makes of a subscription: paused now, or with the pause planned."""
    before = held.subscription
    demand_move(before, SubscriptionState.PAUSED)
    at = effective_time_of(before, timing or ChangeTiming.PERIOD_END, effective_time, asked.at)
    if resume_time is not None and resume_time <= (at or asked.at):
        raise InvalidRequest.of("resume_time", "must be after the pause begins")
    if at is None:
        keeps = held.pending is not None and held.pending.kind is not ScheduledChangeKind.PAUSE
        return Held(subscription=paused(before, asked.at, resume_time), pending=held.pending if keeps else None)
    planned = ScheduledChange(
        scheduled_change_id=new_id(SCHEDULED_CHANGE_PREFIX, asked.at),
        subscription_id=before.subscription_id,
        kind=ScheduledChangeKind.PAUSE,
        effective_time=at,
        resume_time=resume_time,
        actor=asked.actor,
        reason=asked.reason,
        create_time=asked.at,
    )
    return Held(subscription=before, pending=_unless_same(held.pending, planned))


def decide_resume(held: Held, fixed_end: datetime | None, now: datetime) -> Held:
    """Return what resuming makes of a local subscription: its pause is over, or its cancellation taken back.

    `fixed_end` is the end that it had before it was canceled. Raises IllegalTransition where there is neither.
    """
    before = held.subscription
    if before.state is SubscriptionState.PAUSED:
        keeps = held.pending is not None and held.pending.kind is not ScheduledChangeKind.RESUMPTION
        return Held(subscription=resumed(before, now), pending=held.pending if keeps else None)
    if is_canceled_later(held):
        return _kept(held, fixed_end)
    raise IllegalTransition(before.state.value, SubscriptionState.ACTIVE.value)


def decide_drop(held: Held, scheduled_change_id: str, fixed_end: datetime | None) -> Held:
    """Return the subscription without the change that was planned for it; raise NotFound where there is none."""
    before = held.subscription
    shown = shown_change(held)
    if shown is None or scheduled_change_id not in ("", shown.scheduled_change_id):
        raise NotFound("scheduled change", scheduled_change_id, field="scheduled_change_id")
    if held.pending is not None:
        return Held(subscription=before)
    if before.state is SubscriptionState.PAUSED and shown.kind is ScheduledChangeKind.RESUMPTION:
        return Held(subscription=replace(before, resume_time=None))
    return _kept(held, fixed_end)


def is_canceled_later(held: Held) -> bool:
    """Tell whether somebody has asked for an end that is still to come."""
    subscription, pending = held.subscription, held.pending
    if subscription.state not in LIVE_STATES:
        return False
    return (subscription.cancel_at_period_end and subscription.canceled_time is not None) or (
        pending is not None and pending.kind is ScheduledChangeKind.CANCELLATION
    )


def shown_change(held: Held) -> ScheduledChange | None:
    """Return what will change by itself: what is planned, else a cancellation or resumption of its own row."""
    subscription = held.subscription
    if held.pending is not None or subscription.state not in LIVE_STATES:
        return held.pending
    if subscription.state is SubscriptionState.PAUSED and subscription.resume_time is not None:
        return ScheduledChange(
            scheduled_change_id=f"{subscription.subscription_id}_resume",
            subscription_id=subscription.subscription_id,
            kind=ScheduledChangeKind.RESUMPTION,
            effective_time=subscription.resume_time,
            create_time=subscription.pause_start_time or subscription.resume_time,
        )
    end, asked = subscription.period_end_time, subscription.canceled_time
    if subscription.cancel_at_period_end and end is not None and asked is not None:
        return ScheduledChange(
            scheduled_change_id=f"{subscription.subscription_id}_end",
            subscription_id=subscription.subscription_id,
            kind=ScheduledChangeKind.CANCELLATION,
            effective_time=end,
            create_time=asked,
        )
    return None


def _kept(held: Held, fixed_end: datetime | None) -> Held:
    before = held.subscription
    if held.pending is not None and held.pending.kind is ScheduledChangeKind.CANCELLATION:
        return Held(subscription=before)
    kept = replace(before, period_end_time=fixed_end, cancel_at_period_end=fixed_end is not None, canceled_time=None)
    return Held(subscription=kept, pending=held.pending)


def _unless_same(present: ScheduledChange | None, planned: ScheduledChange) -> ScheduledChange:
    """Return the present change where it does the same: asking twice changes nothing."""
    if present is None:
        return planned
    same = replace(
        planned,
        scheduled_change_id=present.scheduled_change_id,
        actor=present.actor,
        reason=present.reason,
        create_time=present.create_time,
    )
    return present if present == same else planned
