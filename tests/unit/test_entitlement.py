from __future__ import annotations

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
from tallygate_server.domain.identifier import FeatureKey
from tallygate_server.domain.period import PeriodKind
from tallygate_server.domain.subscription import SubscriptionState
from tests.support.builders import (
    DAY,
    NOW,
    a_counter,
    a_gauge,
    a_grant,
    a_subscription,
    a_switch,
    a_value,
    an_account,
)

UNLIMITED = a_counter(-1)


def entitlement(account: AccountSources, feature: str = "words") -> Entitlement:
    return resolve(account, NOW).entitlements[feature]


def reason(
    account: AccountSources, feature: str = "words", *, quantity: int = 1, used: int = 0, held: int = 0
) -> Reason:
    return decide(
        feature_known=True,
        account_state=account.state,
        entitlement=resolve(account, NOW).entitlements.get(feature),
        quantity=quantity,
        used=used,
        held=held,
    )


# ---------------------------------------------------------------- the ladder, rung by rung


def test_an_unknown_feature_is_named_before_anything_else() -> None:
    outcome = decide(
        feature_known=False,
        account_state=AccountState.SUSPENDED,
        entitlement=None,
        quantity=1,
        used=0,
        held=0,
    )

    assert outcome is Reason.UNKNOWN_FEATURE


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (None, Reason.ACCOUNT_NOT_FOUND),
        (AccountState.DELETED, Reason.ACCOUNT_DELETED),
        (AccountState.SUSPENDED, Reason.ACCOUNT_SUSPENDED),
        (AccountState.ACTIVE, Reason.NO_ENTITLEMENT),
    ],
)
def test_the_account_comes_before_the_entitlement(state: AccountState | None, expected: Reason) -> None:
    outcome = decide(feature_known=True, account_state=state, entitlement=None, quantity=1, used=0, held=0)

    assert outcome is expected


def test_a_suspended_account_may_not_use_what_it_has_paid_for() -> None:
    assert reason(an_account(a_subscription(UNLIMITED), state=AccountState.SUSPENDED)) is Reason.ACCOUNT_SUSPENDED


def test_no_source_at_all_denies() -> None:
    assert reason(an_account()) is Reason.NO_ENTITLEMENT


def test_a_feature_that_the_plan_switches_off_is_not_an_entitlement() -> None:
    assert reason(an_account(a_subscription(a_switch(on=False))), "export") is Reason.NO_ENTITLEMENT


def test_an_inactive_subscription_is_told_apart_from_none() -> None:
    account = an_account(a_subscription(UNLIMITED, state=SubscriptionState.CANCELED))

    assert reason(account) is Reason.SUBSCRIPTION_INACTIVE


def test_a_hard_limit_counts_what_is_held() -> None:
    account = an_account(a_subscription(a_counter(10)))

    assert reason(account, used=7, held=2) is Reason.OK
    assert reason(account, used=7, held=3) is Reason.EXHAUSTED
    assert reason(account, used=7, quantity=4) is Reason.EXHAUSTED


def test_a_soft_limit_allows_and_says_overage() -> None:
    account = an_account(a_subscription(a_counter(10, limit_mode=LimitMode.SOFT)))

    assert reason(account, used=10) is Reason.OVERAGE


def test_unlimited_is_said() -> None:
    assert reason(an_account(a_subscription(UNLIMITED)), used=10**15) is Reason.UNLIMITED


def test_a_limit_of_zero_allows_nothing() -> None:
    assert reason(an_account(a_subscription(a_counter(0)))) is Reason.EXHAUSTED


def test_a_gauge_may_not_go_below_zero() -> None:
    assert reason(an_account(a_subscription(a_gauge(3))), "devices", quantity=-1, used=0) is Reason.BELOW_ZERO


# ---------------------------------------------------------------- state and expiry, both


@pytest.mark.parametrize(
    ("state", "ends_in_days", "expected"),
    [
        (SubscriptionState.ACTIVE, 1, Reason.OK),
        (SubscriptionState.ACTIVE, -1, Reason.IN_GRACE),
        (SubscriptionState.ACTIVE, -14, Reason.SUBSCRIPTION_INACTIVE),
        (SubscriptionState.ACTIVE, -400, Reason.SUBSCRIPTION_INACTIVE),
        (SubscriptionState.TRIALING, 1, Reason.OK),
        (SubscriptionState.TRIALING, 0, Reason.SUBSCRIPTION_INACTIVE),
        (SubscriptionState.PAST_DUE, 3, Reason.IN_GRACE),
        (SubscriptionState.PAST_DUE, -13, Reason.IN_GRACE),
        (SubscriptionState.PAST_DUE, -14, Reason.SUBSCRIPTION_INACTIVE),
        (SubscriptionState.INCOMPLETE, 1, Reason.SUBSCRIPTION_INACTIVE),
        (SubscriptionState.INCOMPLETE_EXPIRED, 1, Reason.SUBSCRIPTION_INACTIVE),
        (SubscriptionState.UNPAID, 1, Reason.SUBSCRIPTION_INACTIVE),
        (SubscriptionState.PAUSED, 1, Reason.SUBSCRIPTION_INACTIVE),
        (SubscriptionState.CANCELED, 1, Reason.SUBSCRIPTION_INACTIVE),
        (SubscriptionState.EXPIRED, 1, Reason.SUBSCRIPTION_INACTIVE),
    ],
)
def test_state_and_period_end_are_both_checked(state: SubscriptionState, ends_in_days: int, expected: Reason) -> None:
    """A row that still says `active` but whose period and grace are over grants nothing."""
    account = an_account(a_subscription(a_counter(10), state=state, period_end=NOW + ends_in_days * DAY))

    assert reason(account) is expected


def test_a_subscription_canceled_at_period_end_has_no_grace() -> None:
    source = a_subscription(UNLIMITED, period_end=NOW, cancel_at_period_end=True)

    assert reason(an_account(source)) is Reason.SUBSCRIPTION_INACTIVE


def test_the_grace_of_a_failed_payment_may_be_set_on_the_subscription() -> None:
    source = a_subscription(
        UNLIMITED,
        state=SubscriptionState.PAST_DUE,
        period_end=NOW - 20 * DAY,
        grace_end_time=NOW + DAY,
    )

    assert reason(an_account(source)) is Reason.IN_GRACE
    assert entitlement(an_account(source)).grace_end_time == NOW + DAY


def test_the_resolution_expires_at_the_next_boundary() -> None:
    source = a_subscription(UNLIMITED, period_end=NOW + 3 * DAY)

    assert resolve(an_account(source), NOW).expire_time == NOW + 3 * DAY
    assert resolve(an_account(source), NOW + 3 * DAY).expire_time == NOW + 17 * DAY
    assert resolve(an_account(source), NOW + 17 * DAY).expire_time is None


# ---------------------------------------------------------------- merging


def test_the_more_generous_subscription_wins_feature_by_feature() -> None:
    account = an_account(
        a_subscription(a_counter(10), a_switch("export"), subscription_id="a", plan="small"),
        a_subscription(a_counter(50), a_switch("export", on=False), subscription_id="b", plan="large"),
    )

    assert entitlement(account).limit_quantity == 50
    assert entitlement(account).plan_key == "large"
    assert entitlement(account, "export").denied is None


def test_limits_over_unlike_periods_compare_by_what_they_allow_per_time() -> None:
    account = an_account(
        a_subscription(a_counter(10, period=PeriodKind.DAY), subscription_id="a", plan="daily"),
        a_subscription(a_counter(200, period=PeriodKind.MONTH), subscription_id="b", plan="monthly"),
    )

    assert entitlement(account).plan_key == "daily"


def test_an_overdue_subscription_never_takes_away_what_another_one_gives() -> None:
    overdue = a_subscription(
        a_counter(10), subscription_id="a", state=SubscriptionState.PAST_DUE, period_end=NOW - 100 * DAY
    )
    paid = a_subscription(a_counter(5), subscription_id="b")

    assert reason(an_account(overdue, paid)) is Reason.OK
    assert entitlement(an_account(overdue, paid)).limit_quantity == 5


def test_between_equal_sources_the_paid_one_is_named_not_the_one_in_grace() -> None:
    overdue = a_subscription(a_counter(10), subscription_id="z", state=SubscriptionState.PAST_DUE, period_end=NOW - DAY)
    paid = a_subscription(a_counter(10), subscription_id="a")

    assert reason(an_account(overdue, paid)) is Reason.OK


def test_a_larger_value_wins_and_minus_one_is_unlimited() -> None:
    def value(*values: object) -> object:
        sources = [a_subscription(a_value(v), subscription_id=str(i)) for i, v in enumerate(values)]
        return entitlement(an_account(*sources), "history_days").value

    assert value(180, 365) == 365
    assert value(365, -1, 180) == -1


allowances = st.builds(a_counter, st.integers(-1, 100), period=st.sampled_from(PeriodKind))
sources = st.lists(
    st.builds(
        a_subscription,
        allowances,
        subscription_id=st.uuids().map(str),
        state=st.sampled_from(SubscriptionState),
        period_end=st.none() | st.integers(-40, 40).map(lambda days: NOW + timedelta(days=days)),
    ),
    max_size=5,
)


@given(sources=sources)
def test_the_order_of_sources_changes_nothing(sources: list[object]) -> None:
    forward = resolve(an_account(*sources), NOW)  # type: ignore[arg-type]
    backward = resolve(an_account(*reversed(sources)), NOW)  # type: ignore[arg-type]

    assert forward == backward


@given(sources=sources, used=st.integers(0, 200), quantity=st.integers(1, 50))
def test_nothing_is_allowed_without_an_open_subscription_that_gives_it(
    sources: list[object], used: int, quantity: int
) -> None:
    account = an_account(*sources)  # type: ignore[arg-type]
    outcome = reason(account, used=used, quantity=quantity)

    if outcome.allows:
        assert any(
            reason(an_account(source), used=used, quantity=quantity).allows  # type: ignore[arg-type]
            for source in sources
        )


# ---------------------------------------------------------------- grants


def test_a_bonus_stands_beside_the_limit_while_it_lasts() -> None:
    source = a_subscription(a_counter(10))
    bonus = a_grant(GrantKind.BONUS, quantity=5, expire_time=NOW + DAY)

    during = entitlement(an_account(source, grants=(bonus,)))
    after = resolve(an_account(source, grants=(bonus,)), NOW + DAY).entitlements["words"]

    assert (during.limit_quantity, during.credits) == (10, (bonus,))
    assert (after.limit_quantity, after.credits) == (10, ())


def test_an_override_replaces_the_limit_and_the_strongest_one_wins() -> None:
    source = a_subscription(a_counter(10))
    weak = a_grant(GrantKind.OVERRIDE, grant_id="weak", quantity=100, priority=50)
    strong = a_grant(GrantKind.OVERRIDE, grant_id="strong", quantity=3, priority=10)

    assert entitlement(an_account(source, grants=(strong, weak))).limit_quantity == 3


def test_a_disabling_grant_closes_after_its_grace() -> None:
    source = a_subscription(a_counter(10))
    off = a_grant(GrantKind.DISABLE, grace_end_time=NOW + DAY)
    account = an_account(source, grants=(off,))

    assert reason(account) is Reason.IN_GRACE
    assert resolve(account, NOW + DAY).entitlements["words"].denied is Reason.FEATURE_DISABLED


def test_an_enabling_grant_gives_a_switch_that_no_plan_gives() -> None:
    on = a_grant(GrantKind.ENABLE, feature="export", feature_kind=FeatureKind.BOOLEAN)

    assert reason(an_account(grants=(on,)), "export") is Reason.OK


def test_a_bonus_alone_gives_the_feature_and_no_allowance() -> None:
    bonus = a_grant(GrantKind.BONUS, quantity=5)
    alone = entitlement(an_account(grants=(bonus,)))

    assert (alone.denied, alone.limit_quantity, alone.credits) == (None, 0, (bonus,))


def test_a_grant_that_has_not_begun_changes_nothing() -> None:
    later = a_grant(GrantKind.OVERRIDE, quantity=99, start_time=NOW + DAY)
    account = an_account(a_subscription(a_counter(10)), grants=(later,))

    assert entitlement(account).limit_quantity == 10
    assert resolve(account, NOW).expire_time == NOW + DAY
    assert FeatureKey("words") in resolve(account, NOW + DAY).entitlements
