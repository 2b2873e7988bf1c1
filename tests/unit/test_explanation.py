"""Explanations lead to what the ladder decides, and tell of every source why it counted or did not."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallygate_server.domain.catalog import FeatureKind, LimitMode
from tallygate_server.domain.entitlement import (
    AccountSources,
    AccountState,
    Entitlement,
    GrantKind,
    Reason,
    decide,
    resolve,
)
from tallygate_server.domain.explanation import LADDER, ExplainedSource, Facts, explain_sources, explain_steps
from tallygate_server.domain.identifier import FeatureKey
from tallygate_server.domain.subscription import SubscriptionState
from tests.support.builders import DAY, NOW, a_counter, a_grant, a_subscription, a_switch, an_account

DENIED = (None, Reason.NO_ENTITLEMENT, Reason.FEATURE_DISABLED, Reason.SUBSCRIPTION_INACTIVE)
LIMITS = st.sampled_from((-1, 0, 1, 5, 10))
QUANTITIES = st.integers(-3, 12)


@st.composite
def entitlements(draw: st.DrawFn) -> Entitlement:
    return Entitlement(
        feature_key=FeatureKey("words"),
        kind=draw(st.sampled_from(FeatureKind)),
        denied=draw(st.sampled_from(DENIED)),
        limit_quantity=draw(LIMITS),
        limit_mode=draw(st.sampled_from(LimitMode)),
        billing_anchor=NOW,
        grace_end_time=draw(st.sampled_from((None, NOW + DAY))),
    )


@st.composite
def facts(draw: st.DrawFn) -> Facts:
    entitlement = draw(st.none() | entitlements())
    return Facts(
        account_id="ann",
        feature_key="words",
        feature_known=entitlement is not None or draw(st.booleans()),
        account_state=draw(st.none() | st.sampled_from(AccountState)),
        entitlement=entitlement,
        limit=entitlement.limit_quantity if entitlement is not None else 0,
        quantity=draw(QUANTITIES),
        used=draw(st.integers(0, 12)),
        held=draw(st.integers(0, 3)),
        reset_time=draw(st.sampled_from((None, NOW + DAY))),
    )


def applies(reason: Reason, told: Facts) -> bool:
    """Tell whether a rung would decide if it were the first one."""
    entitlement, after = told.entitlement, told.used + told.quantity
    given = entitlement if entitlement is not None and entitlement.denied is None else None
    counted = given if given is not None and given.kind.metered else None
    exceeded = counted is not None and told.quantity > 0 and 0 <= counted.limit_quantity < after + told.held
    return {
        Reason.UNKNOWN_FEATURE: not told.feature_known and entitlement is None,
        Reason.ACCOUNT_NOT_FOUND: told.account_state is None,
        Reason.ACCOUNT_DELETED: told.account_state is AccountState.DELETED,
        Reason.ACCOUNT_SUSPENDED: told.account_state is AccountState.SUSPENDED,
        Reason.NO_ENTITLEMENT: entitlement is None or entitlement.denied is Reason.NO_ENTITLEMENT,
        Reason.FEATURE_DISABLED: entitlement is not None and entitlement.denied is Reason.FEATURE_DISABLED,
        Reason.SUBSCRIPTION_INACTIVE: entitlement is not None and entitlement.denied is Reason.SUBSCRIPTION_INACTIVE,
        Reason.BELOW_ZERO: counted is not None and after < 0,
        Reason.EXHAUSTED: exceeded and counted is not None and counted.limit_mode is LimitMode.HARD,
        Reason.OVERAGE: exceeded and counted is not None and counted.limit_mode is LimitMode.SOFT,
        Reason.IN_GRACE: given is not None and given.grace_end_time is not None,
        Reason.UNLIMITED: counted is not None and counted.limit_quantity == -1,
        Reason.OK: given is not None,
    }[reason]


@given(facts())
def test_the_last_step_is_what_the_ladder_decides_and_no_step_before_it_applies(told: Facts) -> None:
    steps = explain_steps(told)

    assert steps[-1].reason is decide(
        feature_known=told.feature_known,
        account_state=told.account_state,
        entitlement=told.entitlement,
        quantity=told.quantity,
        used=told.used,
        held=told.held,
    )
    assert [step.decided for step in steps] == [applies(step.reason, told) for step in steps]
    assert [step.decided for step in steps] == [False] * (len(steps) - 1) + [True]
    order = [rung.reason for rung in LADDER]
    positions = [order.index(step.reason) for step in steps]
    assert positions == sorted(positions)
    assert all(step.explanation for step in steps)


def test_every_reason_that_a_check_can_have_is_a_rung() -> None:
    assert {rung.reason for rung in LADDER} == set(Reason) - {Reason.ATOMIC_BATCH}


# --- Sources ---------------------------------------------------------------------------------------------


def told(account: AccountSources, feature_key: str = "words") -> list[tuple[str, bool, str]]:
    """Return id, effect and explanation of each source."""
    return [
        (id_of(source), source.effective, source.explanation) for source in explain_sources(account, feature_key, NOW)
    ]


def id_of(source: ExplainedSource) -> str:
    if source.grant is not None:
        return source.grant.grant_id
    assert source.subscription is not None
    return source.subscription.subscription_id


def test_a_subscription_that_does_not_name_the_feature_is_no_source_of_it() -> None:
    assert told(an_account(a_subscription(a_switch("export")))) == []


@pytest.mark.parametrize(
    ("changes", "explanation"),
    [
        ({"state": SubscriptionState.CANCELED, "period_end": NOW - DAY}, "canceled on 2026-03-14 12:00:00 UTC"),
        ({"state": SubscriptionState.CANCELED, "canceled_time": NOW - DAY}, "canceled on 2026-03-14 12:00:00 UTC"),
        ({"state": SubscriptionState.EXPIRED, "period_end": NOW - DAY}, "expired on 2026-03-14 12:00:00 UTC"),
        ({"state": SubscriptionState.UNPAID}, "unpaid"),
        ({"state": SubscriptionState.INCOMPLETE}, "the first payment is still to come"),
        ({"state": SubscriptionState.PAUSED, "pause_start_time": NOW - DAY}, "paused since 2026-03-14 12:00:00 UTC"),
        ({"period_end": NOW - 15 * DAY}, "grace ended on 2026-03-14 12:00:00 UTC"),
        ({"period_end": NOW - DAY, "grace_days": 0}, "ended on 2026-03-14 12:00:00 UTC"),
    ],
)
def test_a_subscription_that_gives_nothing_says_why(changes: dict[str, object], explanation: str) -> None:
    account = an_account(a_subscription(a_counter(), **changes))  # type: ignore[arg-type]

    assert told(account) == [("s1", False, explanation)]


def test_a_plan_that_switches_the_feature_off_says_so() -> None:
    account = an_account(a_subscription(a_switch("export", on=False)))

    assert told(account, "export") == [("s1", False, "plan 'pro' switches the feature off")]


def test_of_several_plans_the_most_generous_one_comes_first() -> None:
    account = an_account(
        a_subscription(a_counter(10), subscription_id="small"),
        a_subscription(a_counter(20), subscription_id="large"),
        a_subscription(a_counter(15), subscription_id="middle"),
    )

    assert told(account) == [
        ("large", True, ""),
        ("middle", False, "a more generous plan applies"),
        ("small", False, "a more generous plan applies"),
    ]


def test_of_two_that_give_the_same_one_counts() -> None:
    account = an_account(
        a_subscription(a_counter(10), subscription_id="a"), a_subscription(a_counter(10), subscription_id="b")
    )

    assert [effective for _, effective, _ in told(account)] == [True, False]


def test_a_switch_that_takes_the_feature_away_comes_first_and_is_named() -> None:
    account = an_account(
        a_subscription(a_counter()),
        grants=(a_grant(GrantKind.DISABLE), a_grant(GrantKind.BONUS, grant_id="g2", quantity=5)),
    )

    assert told(account) == [
        ("g1", True, ""),
        ("s1", False, "a grant switches the feature off"),
        ("g2", False, "switched off by grant g1"),
    ]


def test_grants_that_are_to_come_or_over_say_when() -> None:
    account = an_account(
        a_subscription(a_counter()),
        grants=(
            a_grant(GrantKind.BONUS, grant_id="later", start_time=NOW + DAY, quantity=5),
            a_grant(GrantKind.BONUS, grant_id="over", expire_time=NOW, quantity=5),
            a_grant(GrantKind.BONUS, grant_id="now", expire_time=NOW + timedelta(microseconds=1), quantity=5),
            a_grant(GrantKind.BONUS, grant_id="elsewhere", feature="pages", quantity=5),
        ),
    )

    assert told(account) == [
        ("s1", True, ""),
        ("now", True, ""),
        ("over", False, "expired on 2026-03-15 12:00:00 UTC"),
        ("later", False, "begins on 2026-03-16 12:00:00 UTC"),
    ]


@given(
    st.lists(
        st.builds(
            a_subscription,
            st.builds(a_counter, LIMITS),
            subscription_id=st.uuids().map(str),
            state=st.sampled_from(SubscriptionState),
            period_end=st.sampled_from((None, NOW - 20 * DAY, NOW - DAY, NOW + DAY)),
            rank=st.integers(0, 3),
        ),
        max_size=4,
    ),
    st.lists(
        st.builds(
            a_grant,
            st.sampled_from(GrantKind),
            grant_id=st.uuids().map(str),
            quantity=st.integers(1, 5),
            start_time=st.sampled_from((NOW - DAY, NOW + DAY)),
            expire_time=st.sampled_from((None, NOW - timedelta(hours=1), NOW + 2 * DAY)),
        ),
        max_size=3,
    ),
)
def test_a_source_counts_or_says_why_not_and_what_gives_is_among_them(
    subscriptions: list[object], grants: list[object]
) -> None:
    account = replace(an_account(), subscriptions=tuple(subscriptions), grants=tuple(grants))  # type: ignore[arg-type]
    resolved = resolve(account, NOW).entitlements.get("words")

    sources = explain_sources(account, "words", NOW)

    assert len(sources) == len(subscriptions) + len(grants)
    assert all(source.effective is not bool(source.explanation) for source in sources)
    assert sum(source.effective and source.subscription is not None for source in sources) <= 1
    if resolved is not None and resolved.denied is None:
        assert sources[0].effective
        if resolved.plan_key:
            assert any(source.effective and source.subscription is not None for source in sources)
    else:
        assert not any(source.effective and source.subscription is not None for source in sources)
