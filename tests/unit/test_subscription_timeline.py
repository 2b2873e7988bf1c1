"""What a subscription goes through by itself, at the very instant and never before."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallygate_server.domain.catalog import BillingInterval
from tallygate_server.domain.entitlement import GrantKind, PlanTerms, Reason, SubscriptionSource, decide, resolve
from tallygate_server.domain.identifier import PlanKey
from tallygate_server.domain.subscription import (
    LIVE_STATES,
    BillingProvider,
    ScheduledChange,
    ScheduledChangeKind,
    Subscription,
    SubscriptionState,
    access_window,
    may_move,
)
from tallygate_server.domain.timeline import StepKind, next_step, standing, steps_until
from tests.support.builders import DAY, NOW, a_counter, a_grant, a_subscription, a_switch, an_account

MOMENT = timedelta(microseconds=1)
ACTIVE, TRIALING, PAUSED = SubscriptionState.ACTIVE, SubscriptionState.TRIALING, SubscriptionState.PAUSED
CANCELED, EXPIRED = SubscriptionState.CANCELED, SubscriptionState.EXPIRED


def a_change(kind: ScheduledChangeKind, at: datetime, **more: object) -> ScheduledChange:
    change = ScheduledChange(
        scheduled_change_id="chg_1", subscription_id="s1", kind=kind, effective_time=at, create_time=NOW
    )
    return replace(change, **more)  # type: ignore[arg-type]


def to_free(at: datetime) -> ScheduledChange:
    return a_change(
        ScheduledChangeKind.PLAN, at, plan_key=PlanKey("free"), plan_version=3, quantity=1,
        provider=BillingProvider.NONE,
    )  # fmt: skip


def manual(**more: object) -> Subscription:
    return replace(a_subscription().subscription, **({"provider": BillingProvider.MANUAL} | more))  # type: ignore[arg-type]


def a_trial(end: datetime) -> Subscription:
    return manual(state=TRIALING, trial_end_time=end, start_time=end)


def test_a_trial_paid_outside_becomes_a_subscription_when_it_ends() -> None:
    trial = a_trial(NOW + DAY)

    assert standing(trial, None, NOW + DAY - MOMENT).subscription == trial
    after = standing(trial, None, NOW + DAY).subscription
    assert (after.state, after.start_time) == (ACTIVE, NOW + DAY)
    assert access_window(after, 14) is not None


def test_a_trial_at_stripe_is_left_to_stripe() -> None:
    trial = replace(a_trial(NOW + DAY), provider=BillingProvider.STRIPE)

    assert steps_until(trial, None, NOW + 100 * DAY) == []
    assert standing(trial, None, NOW + 100 * DAY).next_time is None


@pytest.mark.parametrize(
    ("provider", "asked", "state"),
    [
        (BillingProvider.MANUAL, None, EXPIRED),
        (BillingProvider.MANUAL, NOW, CANCELED),
        (BillingProvider.STRIPE, None, CANCELED),
        (BillingProvider.STRIPE, NOW, CANCELED),
    ],
)
def test_an_end_expires_or_cancels(provider: BillingProvider, asked: datetime | None, state: SubscriptionState) -> None:
    ending = manual(provider=provider, period_end_time=NOW + DAY, cancel_at_period_end=True, canceled_time=asked)

    assert standing(ending, None, NOW + DAY - MOMENT).subscription.state is ACTIVE
    assert standing(ending, None, NOW + DAY).subscription.state is state


def test_a_canceled_trial_ends_with_the_trial() -> None:
    trial = replace(a_trial(NOW + DAY), period_end_time=NOW + DAY, cancel_at_period_end=True, canceled_time=NOW)

    assert [step.kind for step in steps_until(trial, None, NOW + DAY)] == [StepKind.EXPIRY]


def test_a_pause_ends_by_itself_and_what_is_left_of_a_trial_is_given() -> None:
    pause = manual(state=PAUSED, pause_start_time=NOW, resume_time=NOW + DAY)
    in_trial = replace(pause, trial_end_time=NOW + 2 * DAY, start_time=NOW + 2 * DAY)
    past_trial = replace(pause, trial_end_time=NOW + DAY, start_time=NOW + DAY)

    assert standing(pause, None, NOW + DAY - MOMENT).subscription.state is PAUSED
    resumed = standing(pause, None, NOW + DAY).subscription
    assert (resumed.state, resumed.pause_start_time, resumed.resume_time) == (ACTIVE, None, None)
    assert standing(in_trial, None, NOW + DAY).subscription.state is TRIALING
    assert standing(in_trial, None, NOW + 2 * DAY).subscription.state is ACTIVE
    assert standing(past_trial, None, NOW + DAY).subscription.state is ACTIVE


def test_a_planned_move_takes_effect_at_its_instant() -> None:
    change = to_free(NOW + DAY)

    before = standing(manual(), change, NOW + DAY - MOMENT)
    after = standing(manual(), change, NOW + DAY)

    assert (before.subscription, before.pending, before.next_time) == (manual(), change, NOW + DAY)
    assert (after.pending, after.moved, after.next_time) == (None, True, None)
    moved = after.subscription
    assert (moved.plan_key, moved.plan_version, moved.interval) == ("free", 3, None)
    assert (moved.provider, moved.start_time) == (BillingProvider.NONE, NOW + DAY)


def test_a_planned_move_without_another_interval_keeps_the_billing_anchor() -> None:
    change = a_change(
        ScheduledChangeKind.PLAN, NOW + DAY, plan_key=PlanKey("basic"), plan_version=1, interval=BillingInterval.MONTH
    )

    moved = standing(manual(), change, NOW + DAY).subscription

    assert (moved.plan_key, moved.start_time) == ("basic", manual().start_time)


def test_a_planned_pause_begins_and_ends() -> None:
    change = a_change(ScheduledChangeKind.PAUSE, NOW + DAY, resume_time=NOW + 3 * DAY)

    kinds = [(step.kind, step.at) for step in steps_until(manual(), change, NOW + 9 * DAY)]

    assert kinds == [(StepKind.SCHEDULED_CHANGE, NOW + DAY), (StepKind.RESUMPTION, NOW + 3 * DAY)]
    assert standing(manual(), change, NOW + 2 * DAY).subscription.state is PAUSED


def test_at_one_instant_the_end_comes_first_and_the_trials_end_before_the_planned_move() -> None:
    at = NOW + DAY
    ending = manual(period_end_time=at, cancel_at_period_end=True)

    assert [step.kind for step in steps_until(ending, to_free(at), at)] == [StepKind.EXPIRY]
    assert standing(ending, to_free(at), at).pending is None
    assert [step.kind for step in steps_until(a_trial(at), to_free(at), at)] == [
        StepKind.TRIAL_END,
        StepKind.SCHEDULED_CHANGE,
    ]


def test_a_planned_move_at_stripe_is_left_to_stripe() -> None:
    stripe = manual(provider=BillingProvider.STRIPE)

    held = standing(stripe, to_free(NOW + DAY), NOW + 9 * DAY)

    assert held.subscription == stripe
    assert held.pending is not None


# ---------------------------------------------------------------- what it gives


def words(source: SubscriptionSource, at: datetime) -> int | None:
    found = resolve(an_account(source), at).entitlements.get("words")
    return None if found is None or found.denied is not None else found.limit_quantity


def test_checks_follow_a_planned_move_without_any_job() -> None:
    source = replace(
        a_subscription(a_counter(1000), a_switch()),
        subscription=manual(),
        change=to_free(NOW + DAY),
        terms_after=PlanTerms(plan_rank=0, grace_days=14, allowances=(a_counter(10),)),
    )

    before = resolve(an_account(source), NOW)
    after = resolve(an_account(source), NOW + DAY)

    assert before.expire_time == NOW + DAY
    assert (before.plan_key, after.plan_key) == ("pro", "free")
    assert words(source, NOW + DAY - MOMENT) == 1000
    assert words(source, NOW + DAY) == 10
    assert "export" in before.entitlements
    assert "export" not in after.entitlements


def test_checks_follow_a_planned_pause_and_its_end_without_any_job() -> None:
    source = replace(
        a_subscription(a_counter(1000)),
        subscription=manual(),
        change=a_change(ScheduledChangeKind.PAUSE, NOW + DAY, resume_time=NOW + 2 * DAY),
    )

    seen = [words(source, NOW + step) for step in (0 * DAY, DAY - MOMENT, DAY, 2 * DAY - MOMENT, 2 * DAY)]

    assert seen == [1000, 1000, None, None, 1000]
    assert resolve(an_account(source), NOW + DAY).expire_time == NOW + 2 * DAY


def test_an_end_in_favour_of_a_plan_that_the_account_has_gives_nothing_itself() -> None:
    change = a_change(ScheduledChangeKind.CANCELLATION, NOW + DAY, plan_key=PlanKey("free"), plan_version=3)
    source = replace(
        a_subscription(a_counter(1000)),
        subscription=manual(),
        change=change,
        terms_after=PlanTerms(plan_rank=0, grace_days=14, allowances=(a_counter(10),)),
    )

    resolved = resolve(an_account(source), NOW + DAY).entitlements["words"]

    assert resolved.denied is Reason.SUBSCRIPTION_INACTIVE


# ---------------------------------------------------------------- grace


def overdue(**more: object) -> SubscriptionSource:
    source = a_subscription(a_counter(1000), subscription_id="late", state=SubscriptionState.PAST_DUE)
    return replace(
        source, subscription=replace(source.subscription, provider=BillingProvider.STRIPE, **more)  # type: ignore[arg-type]
    )  # fmt: skip


def test_an_overdue_subscription_gives_until_its_grace_ends_and_closes_exactly_then() -> None:
    source = overdue(grace_end_time=NOW + DAY)

    assert words(source, NOW + DAY - MOMENT) == 1000
    assert words(source, NOW + DAY) is None
    assert resolve(an_account(source), NOW).entitlements["words"].grace_end_time == NOW + DAY


def test_an_overdue_subscription_never_closes_what_another_one_gives() -> None:
    account = an_account(overdue(grace_end_time=NOW - DAY), a_subscription(a_counter(50), subscription_id="paid"))

    resolved = resolve(account, NOW).entitlements["words"]

    assert (resolved.denied, resolved.limit_quantity, resolved.grace_end_time) == (None, 50, None)


def test_grace_is_of_the_subscription_that_gives_and_ends_into_the_next_best() -> None:
    account = an_account(overdue(grace_end_time=NOW + DAY), a_subscription(a_counter(50), subscription_id="paid"))

    in_grace = resolve(account, NOW)
    after = resolve(account, NOW + DAY)

    assert (in_grace.entitlements["words"].limit_quantity, in_grace.expire_time) == (1000, NOW + DAY)
    assert in_grace.entitlements["words"].grace_end_time == NOW + DAY
    assert after.entitlements["words"].limit_quantity == 50
    assert after.entitlements["words"].grace_end_time is None


@pytest.mark.parametrize(("plan_days", "days"), [(14, 14), (3, 3), (0, 0)])
def test_without_a_stored_end_the_grace_is_the_plans(plan_days: int, days: int) -> None:
    source = replace(overdue(period_start_time=NOW, period_end_time=NOW + 30 * DAY), grace_days=plan_days)
    window = access_window(source.subscription, plan_days)

    assert window is not None
    assert window.grace_end == NOW + 30 * DAY + days * DAY


def export_reason(at: datetime, *subscriptions: SubscriptionSource, grace_end: datetime | None) -> Reason:
    off = a_grant(GrantKind.DISABLE, feature="export", grace_end_time=grace_end)
    account = an_account(*subscriptions, grants=(replace(off, feature_kind=a_switch().kind),))
    return decide(
        feature_known=True,
        account_state=account.state,
        entitlement=resolve(account, at).entitlements.get("export"),
        quantity=1,
        used=0,
        held=0,
    )


def test_a_disabled_feature_works_through_its_own_grace_and_not_an_instant_longer() -> None:
    source = a_subscription(a_switch())

    assert export_reason(NOW, source, grace_end=NOW + DAY) is Reason.IN_GRACE
    assert export_reason(NOW + DAY - MOMENT, source, grace_end=NOW + DAY) is Reason.IN_GRACE
    assert export_reason(NOW + DAY, source, grace_end=NOW + DAY) is Reason.FEATURE_DISABLED
    assert export_reason(NOW, source, grace_end=None) is Reason.FEATURE_DISABLED


def test_a_disabled_feature_is_off_however_many_subscriptions_give_it() -> None:
    both = (a_subscription(a_switch()), a_subscription(a_switch(), subscription_id="s2", plan="max", rank=9))

    assert export_reason(NOW, *both, grace_end=NOW + DAY) is Reason.IN_GRACE
    assert export_reason(NOW + DAY, *both, grace_end=NOW + DAY) is Reason.FEATURE_DISABLED


def test_the_grace_of_a_disabled_feature_gives_nothing_that_no_subscription_gives() -> None:
    closed = a_subscription(a_switch(), state=CANCELED)

    assert export_reason(NOW, closed, grace_end=NOW + DAY) is Reason.FEATURE_DISABLED
    assert export_reason(NOW, grace_end=NOW + DAY) is Reason.FEATURE_DISABLED


def test_of_two_graces_the_earlier_one_ends_access() -> None:
    late = replace(overdue(grace_end_time=NOW + 2 * DAY), allowances=(a_switch(),))
    off = replace(a_grant(GrantKind.DISABLE, feature="export", grace_end_time=NOW + DAY), feature_kind=a_switch().kind)

    resolved = resolve(an_account(late, grants=(off,)), NOW)

    assert resolved.entitlements["export"].grace_end_time == NOW + DAY
    assert resolved.expire_time == NOW + DAY


# ---------------------------------------------------------------- whatever there is

offsets = st.integers(0, 40).map(lambda days: NOW + days * DAY)
maybe = st.none() | offsets


@st.composite
def subscriptions(draw: st.DrawFn) -> Subscription:
    state = draw(st.sampled_from([TRIALING, ACTIVE, PAUSED, CANCELED, EXPIRED]))
    trial_end = draw(offsets) if state is TRIALING else draw(maybe)
    end = draw(maybe)
    return manual(
        state=state,
        provider=draw(st.sampled_from(BillingProvider)),
        trial_end_time=trial_end,
        period_end_time=end,
        cancel_at_period_end=end is not None and draw(st.booleans()),
        canceled_time=draw(st.none() | st.just(NOW)),
        pause_start_time=NOW if state is PAUSED else None,
        resume_time=draw(maybe) if state is PAUSED else None,
    )


changes = st.none() | st.one_of(
    offsets.map(to_free),
    offsets.map(lambda at: a_change(ScheduledChangeKind.PAUSE, at, resume_time=at + 5 * DAY)),
    offsets.map(lambda at: a_change(ScheduledChangeKind.PAUSE, at)),
    offsets.map(lambda at: a_change(ScheduledChangeKind.CANCELLATION, at)),
    offsets.map(lambda at: a_change(ScheduledChangeKind.RESUMPTION, at)),
)


@given(subscription=subscriptions(), change=changes, early=offsets, late=offsets)
def test_looking_in_between_changes_nothing(
    subscription: Subscription, change: ScheduledChange | None, early: datetime, late: datetime
) -> None:
    """To write down what has happened by one instant and go on from there ends where going straight there ends."""
    early, late = min(early, late), max(early, late)

    between = standing(subscription, change, early)
    straight = standing(subscription, change, late)
    resumed = standing(between.subscription, between.pending, late)

    assert resumed.subscription == straight.subscription
    assert resumed.next_time == straight.next_time


@given(subscription=subscriptions(), change=changes, at=offsets)
def test_every_step_is_a_permitted_move_in_the_order_of_time(
    subscription: Subscription, change: ScheduledChange | None, at: datetime
) -> None:
    steps = steps_until(subscription, change, at)

    before = subscription
    for step in steps:
        assert step.after.state is before.state or may_move(before.state, step.after.state)
        before = step.after
    assert [step.at for step in steps] == sorted(step.at for step in steps)
    assert standing(subscription, change, at).subscription == before


@given(subscription=subscriptions(), change=changes, at=offsets)
def test_nothing_changes_before_the_time_that_is_told(
    subscription: Subscription, change: ScheduledChange | None, at: datetime
) -> None:
    held = standing(subscription, change, at)

    if held.next_time is None:
        assert next_step(held.subscription, held.pending) is None
    else:
        assert held.next_time > at
        before = standing(subscription, change, held.next_time - MOMENT)
        assert before.subscription == held.subscription
    if held.subscription.state not in LIVE_STATES:
        assert held.next_time is None
