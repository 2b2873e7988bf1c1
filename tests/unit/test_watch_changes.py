"""What watchers are told differs by cause: a revision, a period, a threshold, an instant; and no increment is told."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tallygate_server.domain.boundaries import boundaries_between
from tallygate_server.domain.call import CheckAnswer
from tallygate_server.domain.catalog import FeatureKind
from tallygate_server.domain.entitlement import GrantKind, Reason
from tallygate_server.domain.subscription import SubscriptionState
from tallygate_server.watching.changes import (
    AccountChange,
    AccountSnapshot,
    change_by_revision,
    changes_by_themselves,
    entitled,
    public_cause,
)
from tests.support.builders import DAY, NOW, a_counter, a_grant, a_subscription, an_account

TOMORROW = NOW + DAY


def words(**changes: object) -> CheckAnswer:
    answer = CheckAnswer(
        reason=Reason.OK,
        revision=3,
        feature_kind=FeatureKind.COUNTER,
        limit_quantity=10,
        reset_time=TOMORROW,
        plan_key="free",
    )
    for name, value in changes.items():
        setattr(answer, name, value)
    return answer


def by_itself(before: CheckAnswer, after: CheckAnswer, *boundaries: tuple[object, str]) -> list[AccountChange]:
    return changes_by_themselves(
        {"words": before},
        {"words": after},
        revision=3,
        boundaries=list(boundaries),  # type: ignore[arg-type]
        now=NOW,
    )


def test_what_is_denied_is_not_had_but_for_what_is_used_up() -> None:
    answers = {
        "b": words(),
        "a": words(reason=Reason.IN_GRACE),
        "used_up": words(reason=Reason.EXHAUSTED),
        "off": words(reason=Reason.FEATURE_DISABLED),
        "suspended": words(reason=Reason.ACCOUNT_SUSPENDED),
    }

    assert list(entitled(answers)) == ["a", "b", "used_up"]


@pytest.mark.parametrize("changes", [{"used_quantity": 3}, {"held_quantity": 9, "reason": Reason.EXHAUSTED}])
def test_what_is_used_or_held_within_the_limit_is_told_to_nobody(changes: dict[str, object]) -> None:
    assert by_itself(words(), words(**changes)) == []


@pytest.mark.parametrize(
    ("before", "after", "cause"),
    [
        ({}, {"used_quantity": 5, "threshold_percent": 50}, "usage.threshold_crossed"),
        ({"threshold_percent": 50}, {"threshold_percent": 50, "threshold_quantity": 7}, "usage.threshold_crossed"),
        ({}, {"used_quantity": 10, "threshold_percent": 100, "reason": Reason.EXHAUSTED}, "usage.exhausted"),
        ({"used_quantity": 10, "reason": Reason.EXHAUSTED}, {"used_quantity": 9}, "usage.corrected"),
        ({"used_quantity": 5}, {"reset_time": TOMORROW + DAY}, "period.reset"),
        ({}, {"limit_quantity": 20}, "entitlement.changed"),
    ],
)
def test_each_difference_has_its_cause(before: dict[str, object], after: dict[str, object], cause: str) -> None:
    (change,) = by_itself(words(**before), words(**after))

    assert (change.cause, change.revision, set(change.changed)) == (cause, 3, {"words"})


def test_a_period_that_ended_changed_at_its_end() -> None:
    (change,) = by_itself(words(reset_time=NOW - timedelta(hours=1)), words())

    assert (change.cause, change.change_time) == ("period.reset", NOW - timedelta(hours=1))


def test_what_begins_or_ends_by_itself_is_named_with_its_instant() -> None:
    ended = (NOW - timedelta(minutes=1), "grace.ended")

    (taken,) = by_itself(words(), words(reason=Reason.SUBSCRIPTION_INACTIVE), ended)
    (given,) = by_itself(words(reason=Reason.NO_ENTITLEMENT), words(), ended)

    assert (taken.cause, taken.change_time, taken.removed) == ("grace.ended", ended[0], ("words",))
    assert (given.cause, set(given.changed)) == ("grace.ended", {"words"})


def test_several_causes_are_told_one_by_one_in_order_of_time() -> None:
    earlier = NOW - timedelta(hours=1)
    changes = changes_by_themselves(
        {"words": words(reset_time=earlier), "pages": words(), "export": words()},
        {"words": words(), "pages": words(threshold_percent=80), "export": words(limit_quantity=3)},
        revision=3,
        boundaries=[(NOW - timedelta(minutes=1), "grant.expired")],
        now=NOW,
    )

    assert [(change.cause, set(change.changed)) for change in changes] == [
        ("period.reset", {"words"}),
        ("grant.expired", {"export"}),
        ("usage.threshold_crossed", {"pages"}),
    ]


def test_a_revision_is_told_also_when_it_changes_nothing() -> None:
    change = change_by_revision(
        {"words": words()}, {"words": words()}, revision=4, cause="catalog.changed", change_time=NOW
    )

    assert (change.empty, change.revision, change.cause) == (True, 4, "catalog.applied")


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        ("account.suspend", "account.suspended"),
        ("subscription.change_plan", "subscription.updated"),
        ("subscription.created", "subscription.created"),
        ("grant.created", "grant.created"),
        ("account.time_zone", "account.time_zone"),
    ],
)
def test_causes_are_called_as_tenants_know_them(inside: str, outside: str) -> None:
    assert public_cause(inside) == outside


def test_who_names_features_is_told_of_these_only() -> None:
    change = AccountChange(
        revision=3, cause="x", change_time=NOW, changed={"a": words(), "b": words()}, removed=("c", "d")
    )
    snapshot = AccountSnapshot(revision=3, entitlements={"a": words(), "b": words()})

    assert change.of(frozenset()) is change
    assert (set(change.of(frozenset("ac")).changed), change.of(frozenset("ac")).removed) == ({"a"}, ("c",))
    assert set(snapshot.of(frozenset("b")).entitlements) == {"b"}


# --- What time does --------------------------------------------------------------------------------------


def test_ends_and_beginnings_of_sources_are_found_in_order() -> None:
    account = an_account(
        a_subscription(a_counter(), period_end=NOW, grace_days=1, subscription_id="paid"),
        a_subscription(
            a_counter(),
            state=SubscriptionState.TRIALING,
            trial_end_time=NOW + timedelta(hours=2),
            subscription_id="try",
        ),
        grants=(
            a_grant(GrantKind.BONUS, start_time=NOW + timedelta(hours=1), expire_time=NOW + timedelta(hours=3)),
            a_grant(GrantKind.DISABLE, grant_id="g2", grace_end_time=NOW + timedelta(hours=4)),
        ),
    )

    found = boundaries_between(account, NOW - timedelta(microseconds=1), NOW + DAY)

    assert found == [
        (NOW, "grace.began"),
        (NOW + timedelta(hours=1), "grant.began"),
        (NOW + timedelta(hours=2), "trial.ended"),
        (NOW + timedelta(hours=3), "grant.expired"),
        (NOW + timedelta(hours=4), "grace.ended"),
        (NOW + DAY, "grace.ended"),
    ]
    assert boundaries_between(account, NOW, NOW) == []
    assert (NOW, "grace.began") not in boundaries_between(account, NOW, NOW + DAY)
