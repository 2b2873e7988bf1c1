"""The rules of simulations: histories of one account, replayed under drafts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tallygate_server.domain.catalog import Allowance, FeatureKind, LimitMode
from tallygate_server.domain.entitlement import (
    AccountSources,
    AccountState,
    Grant,
    GrantKind,
    PlanTerms,
    Reason,
    SubscriptionSource,
)
from tallygate_server.domain.identifier import AccountId, FeatureKey, PlanKey, TenantId
from tallygate_server.domain.limits import BATCH_ITEMS_MAX
from tallygate_server.domain.period import PeriodKind
from tallygate_server.domain.simulation import (
    CLOCK_SKEW,
    DECISION_LAG,
    AccountReplay,
    Draft,
    ReplayedDenial,
    ReplayedEntry,
    Revision,
    SimulatedFeature,
    Timeline,
)
from tallygate_server.domain.subscription import BillingProvider, Subscription, SubscriptionState
from tallygate_server.simulation.replaying import counted_elsewhere

T0 = datetime(2026, 3, 15, 12, 0, tzinfo=UTC)
DAY_START = datetime(2026, 3, 15, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
CALLS = FeatureKey("calls")
IN_FORCE = Draft(plans={}, feature_keys=frozenset({"calls"}))


def allowance(limit: int = 10, **changes: Any) -> Allowance:
    given: dict[str, Any] = {
        "feature_key": CALLS,
        "kind": FeatureKind.COUNTER,
        "limit_quantity": limit,
        "period_kind": PeriodKind.DAY,
    }
    return Allowance(**(given | changes))


def sources(
    revision: int = 1,
    *,
    limit: int = 10,
    plan: str = "free",
    state: AccountState = AccountState.ACTIVE,
    allowances: Sequence[Allowance] | None = None,
    grants: tuple[Grant, ...] = (),
) -> AccountSources:
    subscription = Subscription(
        subscription_id="sub",
        plan_key=PlanKey(plan),
        plan_version=1,
        state=SubscriptionState.ACTIVE,
        provider=BillingProvider.MANUAL,
        interval=None,
        quantity=1,
        start_time=DAY_START,
        period_start_time=DAY_START,
        period_end_time=None,
        trial_end_time=None,
        cancel_at_period_end=False,
        canceled_time=None,
        grace_end_time=None,
    )
    given = tuple(allowances) if allowances is not None else (allowance(limit),)
    return AccountSources(
        tenant_id=TenantId("acme"),
        account_id=AccountId("ann"),
        revision=revision,
        state=state,
        time_zone="UTC",
        create_time=DAY_START,
        subscriptions=(SubscriptionSource(subscription=subscription, plan_rank=0, grace_days=14, allowances=given),),
        grants=grants,
    )


def draft(*allowances: Allowance, plan: str = "free") -> Draft:
    terms = PlanTerms(plan_rank=0, grace_days=14, allowances=allowances)
    return Draft(plans={plan: terms}, feature_keys=frozenset({"calls"}), given_feature_keys=frozenset({"calls"}))


def an_entry(quantity: int, used_after: int, *, at: datetime = T0, limit: int = 10, **changes: Any) -> ReplayedEntry:
    given: dict[str, Any] = {
        "recorded_time": at,
        "event_time": at,
        "kind": 1,
        "quantity": quantity,
        "used_after": used_after,
        "limit_quantity": limit,
        "period_kind": "d",
        "period_start": at.replace(hour=0, minute=0, second=0, microsecond=0),
        "plan_key": "free",
    }
    return ReplayedEntry(**(given | changes))


def a_denial(
    quantity: int, used: int, *, reason: Reason = Reason.EXHAUSTED, at: datetime = T0, limit: int = 10, number: int = 1
) -> ReplayedDenial:
    return ReplayedDenial(
        entry_id=number,
        recorded_time=at,
        event_time=at,
        quantity=quantity,
        reason=reason,
        used_quantity=used,
        limit_quantity=limit,
    )


def replay(*revisions: Revision, under: Draft = IN_FORCE, with_denied_usage: bool = True) -> AccountReplay:
    account = AccountReplay(under, with_denied_usage=with_denied_usage)
    for revision in revisions or (Revision(1, DAY_START, sources()),):
        account.timeline.add(revision)
    return account


def outcome(account: AccountReplay) -> SimulatedFeature | None:
    found = account.outcomes()
    return found[0] if found else None


def test_what_was_counted_is_not_denied_by_the_plans_in_force() -> None:
    account = replay()
    for used in range(1, 11):
        account.feature(CALLS).entry(an_entry(1, used))

    assert outcome(account) is None
    assert account.feature(CALLS).used_quantity == 10
    assert account.unexplained_count == 0


@pytest.mark.parametrize(("limit", "denied"), [(10, 0), (9, 1), (4, 6), (0, 10), (-1, 0), (11, 0)])
def test_a_draft_denies_what_is_beyond_its_limit(limit: int, denied: int) -> None:
    account = replay(under=draft(allowance(limit)))
    for used in range(1, 11):
        account.feature(CALLS).entry(an_entry(1, used, at=T0 + used * MINUTE))

    found = outcome(account)
    if not denied:
        assert found is None
        return
    assert found is not None
    assert (found.denied_count, found.denied_quantity, found.used_quantity) == (denied, denied, 10)
    assert found.first_denial_time == T0 + (limit + 1) * MINUTE
    assert (found.limit_quantity, found.reason, found.plan_key) == (limit, Reason.EXHAUSTED, "free")


def test_a_call_that_does_not_fit_is_denied_whole_and_a_smaller_one_after_it_fits() -> None:
    account = replay(under=draft(allowance(5)))
    account.feature(CALLS).entry(an_entry(4, 4))
    account.feature(CALLS).entry(an_entry(3, 7))
    account.feature(CALLS).entry(an_entry(1, 8))

    found = outcome(account)

    assert found is not None
    assert (found.denied_count, found.denied_quantity) == (1, 3)


def test_the_window_begins_with_what_was_used_before_it() -> None:
    account = replay(under=draft(allowance(6)))
    account.feature(CALLS).entry(an_entry(1, 6))
    account.feature(CALLS).entry(an_entry(1, 7))

    found = outcome(account)

    assert found is not None
    assert found.denied_count == 1


def test_a_soft_limit_denies_nothing() -> None:
    account = replay(under=draft(allowance(1, limit_mode=LimitMode.SOFT)))
    for used in range(1, 5):
        account.feature(CALLS).entry(an_entry(1, used))

    assert outcome(account) is None


@pytest.mark.parametrize("kind", [3, 4, 5], ids=["event", "reversal", "correction"])
def test_what_is_never_denied_counts_whatever_the_draft_says(kind: int) -> None:
    account = replay(under=draft(allowance(5)))
    account.feature(CALLS).entry(an_entry(20, 20, kind=kind))
    account.feature(CALLS).entry(an_entry(1, 21))

    found = outcome(account)

    assert found is not None
    assert found.denied_count == 1


def test_a_denied_call_is_tried_again_where_that_is_wanted() -> None:
    account = replay(under=draft(allowance(12)))
    account.feature(CALLS).entry(an_entry(10, 10))
    account.denial(CALLS, a_denial(2, 10, number=2))
    account.denial(CALLS, a_denial(1, 10, number=3, at=T0 + MINUTE))

    found = outcome(account)

    assert found is not None
    assert (found.denied_count, found.denied_quantity, found.real_denied_count) == (1, 1, 2)
    assert found.first_denial_time == T0 + MINUTE


def test_without_denied_usage_denials_are_only_counted() -> None:
    account = replay(with_denied_usage=False)
    account.feature(CALLS).entry(an_entry(10, 10))
    account.denial(CALLS, a_denial(1, 10, number=2))

    assert outcome(account) is None
    assert account.feature(CALLS).real_denied_count == 1


@pytest.mark.parametrize("draft_of", [IN_FORCE, draft(allowance(10))], ids=["in force", "the same as a draft"])
def test_the_plans_in_force_deny_what_they_denied_in_whatever_order_it_was_written(draft_of: Draft) -> None:
    account = replay(under=draft_of)
    account.denial(CALLS, a_denial(3, 8, number=1))
    account.feature(CALLS).entry(an_entry(2, 8))
    account.feature(CALLS).entry(an_entry(6, 6))
    account.denial(CALLS, a_denial(5, 6, number=2))

    found = outcome(account)

    assert found is not None
    assert (found.denied_count, found.denied_quantity) == (2, 8)


def test_a_gauge_goes_down_again() -> None:
    gauge = allowance(2, kind=FeatureKind.GAUGE, period_kind=PeriodKind.LIFETIME)
    account = replay(Revision(1, DAY_START, sources(allowances=[gauge])), under=draft(replace_limit(gauge, 1)))
    steps = [(1, 1), (1, 2), (-1, 1), (-1, 0), (1, 1)]
    for quantity, used_after in steps:
        entry = an_entry(quantity, used_after, limit=2, period_kind="l", period_start=datetime(1970, 1, 1, tzinfo=UTC))
        account.feature(CALLS).entry(entry)

    found = outcome(account)

    assert found is not None
    assert (found.denied_count, found.denied_quantity) == (1, 1)


def replace_limit(given: Allowance, limit: int) -> Allowance:
    return allowance(limit, kind=given.kind, period_kind=given.period_kind)


def test_an_upgrade_in_the_window_is_seen_from_its_instant_on() -> None:
    change = T0 + MINUTE
    account = replay(
        Revision(1, DAY_START, sources()),
        Revision(2, change, sources(2, limit=20, plan="pro")),
        under=draft(allowance(5)),
    )
    account.feature(CALLS).entry(an_entry(10, 10))
    account.feature(CALLS).entry(an_entry(10, 20, at=change + MINUTE, limit=20, plan_key="pro"))

    found = outcome(account)

    assert found is not None
    assert (found.denied_count, found.denied_quantity, found.plan_key) == (1, 10, "free")


@pytest.mark.parametrize("lag", [timedelta(), timedelta(seconds=1), DECISION_LAG], ids=["none", "a second", "most"])
def test_a_call_that_was_recorded_after_a_change_is_decided_as_before_it(lag: timedelta) -> None:
    account = replay(Revision(1, DAY_START, sources()), Revision(2, T0, sources(2, limit=3, plan="bare")))
    account.feature(CALLS).entry(an_entry(9, 9, at=T0 + lag))
    account.denial(CALLS, a_denial(2, 9, at=T0 + lag))
    account.denial(CALLS, a_denial(1, 9, at=T0 + lag, limit=3, number=2))

    found = outcome(account)

    assert found is not None
    assert (found.denied_count, found.denied_quantity) == (2, 3)
    assert account.unexplained_count == 0


def test_a_call_that_was_recorded_by_a_slower_clock_is_decided_as_after_the_change() -> None:
    account = replay(Revision(1, DAY_START, sources(limit=3)), Revision(2, T0, sources(2, limit=20)))
    account.feature(CALLS).entry(an_entry(15, 15, at=T0 - CLOCK_SKEW, limit=20))

    assert outcome(account) is None
    assert account.unexplained_count == 0


def test_changes_of_one_instant_are_told_apart_by_what_was_recorded() -> None:
    account = replay(
        Revision(1, DAY_START, sources()),
        Revision(2, T0, sources(2, state=AccountState.SUSPENDED)),
        Revision(3, T0, sources(3, limit=2, plan="bare")),
    )
    account.feature(CALLS).entry(an_entry(8, 8))
    account.denial(CALLS, a_denial(1, 0, reason=Reason.ACCOUNT_SUSPENDED, limit=0))
    account.denial(CALLS, a_denial(1, 8, limit=2, number=2))

    found = outcome(account)

    assert found is not None
    assert (found.denied_count, found.reason) == (2, Reason.ACCOUNT_SUSPENDED)
    assert account.unexplained_count == 0


def test_what_no_history_explains_stays_as_it_was_recorded_under_the_plans_in_force() -> None:
    account = replay(Revision(1, DAY_START, sources(limit=3)))
    account.feature(CALLS).entry(an_entry(9, 9, limit=10))
    account.feature(CALLS).entry(an_entry(1, 10, limit=10))
    account.denial(CALLS, a_denial(1, 0, reason=Reason.NO_ENTITLEMENT, limit=0))

    found = outcome(account)

    assert found is not None
    assert (found.denied_count, found.reason) == (1, Reason.NO_ENTITLEMENT)
    assert account.unexplained_count == 3


@pytest.mark.parametrize(("limit", "denied"), [(10, 2), (11, 1), (12, 0)])
def test_a_batch_of_all_or_nothing_is_spoilt_by_the_call_that_does_not_fit(limit: int, denied: int) -> None:
    account = replay(under=draft(allowance(limit)))
    account.denial(CALLS, a_denial(1, 10, reason=Reason.ATOMIC_BATCH, number=1))
    account.denial(CALLS, a_denial(1, 10, number=2))

    found = outcome(account)

    assert (found.denied_count if found is not None else 0) == denied


def test_a_batch_that_another_account_spoilt_stays_spoilt() -> None:
    account = replay(under=draft(allowance(100)))
    account.denial(CALLS, a_denial(1, 5, reason=Reason.ATOMIC_BATCH))

    found = outcome(account)

    assert found is not None
    assert found.reason is Reason.ATOMIC_BATCH


def test_what_others_held_stands_in_the_way_again() -> None:
    """Of 10, 4 were used and, by reservations or earlier calls of a batch, at least 3 held."""
    account = replay()
    account.denial(CALLS, a_denial(4, 4))

    found = outcome(account)

    assert found is not None
    assert found.denied_count == 1


@pytest.mark.parametrize("count", [BATCH_ITEMS_MAX, BATCH_ITEMS_MAX + 1])
def test_denials_of_one_moment_are_kept_up_to_the_size_of_a_batch(count: int) -> None:
    account = replay()
    for number in range(count):
        account.denial(CALLS, a_denial(1, 10, number=number))
        assert len(account._moment) <= BATCH_ITEMS_MAX

    found = outcome(account)

    assert found is not None
    assert found.denied_count == count


def test_a_draft_that_counts_in_longer_periods_counts_from_their_beginning() -> None:
    monthly = allowance(25, period_kind=PeriodKind.MONTH)
    account = replay(under=draft(monthly))
    feature = account.feature(CALLS)
    feature.carry_in(an_entry(10, 10, at=T0 - timedelta(days=1)))
    feature.entry(an_entry(10, 10))
    feature.entry(an_entry(10, 10, at=T0 + timedelta(days=1)))
    feature.entry(an_entry(5, 5, at=T0 + timedelta(days=2)))
    feature.entry(an_entry(10, 10, at=T0 + timedelta(days=20)))

    found = outcome(account)

    assert found is not None
    assert (found.denied_count, found.denied_quantity) == (1, 10)
    assert found.first_denial_time == T0 + timedelta(days=1)


def test_a_credit_pays_as_it_did_beside_a_smaller_allowance() -> None:
    credit = Grant(
        grant_id="g",
        feature_key=CALLS,
        feature_kind=FeatureKind.COUNTER,
        kind=GrantKind.PURCHASE,
        quantity=5,
        start_time=DAY_START,
        create_time=DAY_START,
    )
    given = Revision(1, DAY_START, sources(grants=(credit,)))
    for under, denied in ((IN_FORCE, 1), (draft(allowance(10)), 1), (draft(allowance(8)), 3)):
        account = replay(given, under=under)
        for used in range(1, 16):
            account.feature(CALLS).entry(an_entry(1, used, limit=15))
        account.denial(CALLS, a_denial(1, 15, limit=15))

        found = outcome(account)

        assert found is not None
        assert found.denied_count == denied
        assert account.unexplained_count == 0


def test_old_revisions_are_dropped_and_the_one_in_force_is_kept() -> None:
    timeline = Timeline(IN_FORCE)
    for number in range(100):
        timeline.add(Revision(number + 1, T0 + number * MINUTE, sources(number + 1)))

    timeline.forget_before(T0 + 50 * MINUTE)

    assert len(timeline) == 51
    segment = timeline.at(T0 + 50 * MINUTE)
    assert segment is not None
    assert segment.start <= T0 + 50 * MINUTE < segment.end


def test_features_that_plans_count_in_unlike_periods_are_counted_from_the_longest_of_them() -> None:
    daily, monthly, ever = (
        allowance(period_kind=kind) for kind in (PeriodKind.DAY, PeriodKind.MONTH, PeriodKind.LIFETIME)
    )

    assert counted_elsewhere([daily], [daily]) == (set(), timedelta())
    assert counted_elsewhere([monthly], []) == (set(), timedelta())
    assert counted_elsewhere([daily], [monthly])[0] == {"calls"}
    assert counted_elsewhere([daily], [monthly])[1] == timedelta(days=33)
    assert counted_elsewhere([monthly], [daily])[1] == timedelta(days=2)
    assert counted_elsewhere([daily], [ever]) == ({"calls"}, None)
    assert counted_elsewhere([daily, allowance(enabled=False, period_kind=PeriodKind.YEAR)], [daily]) == (
        set(),
        timedelta(),
    )
