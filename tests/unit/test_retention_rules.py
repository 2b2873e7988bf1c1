"""Who says how long data is kept, and what forbids its removal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import (
    CompressionForm,
    CompressionSettings,
    DataImportance,
    DataSelection,
    Segment,
    SegmentState,
    StorageTier,
)
from tallygate_server.domain.retention import ImportanceRule, LegalHold, RetentionException, RetentionPolicy
from tallygate_server.domain.retention_rules import (
    PLAN_DAYS_MAX,
    KeptKind,
    PlanDays,
    PolicySet,
    Protections,
    days_of,
    effective_retention_days,
    policy_problems,
    visible_start,
)

ACME = TenantId("acme")
ANN = AccountId("ann")
NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
DAY = timedelta(days=1)
LOW, MEDIUM, HIGH, CRITICAL = DataImportance


def a_segment(age_days: float = 100, **more: Any) -> Segment:
    end_time = NOW - timedelta(days=age_days)
    facts = {
        "tenant_id": ACME,
        "segment_id": "seg_1",
        "dataset_id": "ds_1",
        "account_id": ANN,
        "data_type": "ride",
        "tier": StorageTier.WARM,
        "form": CompressionForm.LOSSLESS,
        "start_time": end_time - timedelta(hours=1),
        "end_time": end_time,
        "record_count": 10,
        "stored_bytes": 10,
        "original_bytes": 10,
        "checksum": b"",
        "values_digest": b"",
        "key_id": "k",
        "create_time": end_time,
    }
    return Segment(**{**facts, **more})


def a_policy(data_type: str = "ride", **days: Any) -> RetentionPolicy:
    return RetentionPolicy(tenant_id=ACME, data_type=data_type, version=1, **days)


def a_hold(**more: Any) -> LegalHold:
    facts = {
        "tenant_id": ACME,
        "legal_hold_id": "lh_1",
        "selection": DataSelection(),
        "reason_text": "a suit",
        "actor": "jo",
        "create_time": NOW - DAY,
    }
    return LegalHold(**{**facts, **more})


def an_exception(days: int, **more: Any) -> RetentionException:
    return RetentionException(retention_days=days, reason_text="a study", **more)


def protections(*policies: RetentionPolicy, holds: tuple[LegalHold, ...] = (), plan: int | None = None) -> Protections:
    return Protections(policy_set=PolicySet.of(ACME, policies), holds=holds, plans={ANN: PlanDays(retention_days=plan)})


@pytest.mark.parametrize(
    ("policy", "plan", "importance", "age_days", "kind"),
    [
        # Nobody has said anything: kept for ever.
        (None, None, LOW, 30_000, KeptKind.POLICY),
        # The standard days, to the instant.
        ({"standard_retention_days": 100}, None, MEDIUM, 100, None),
        ({"standard_retention_days": 100}, None, MEDIUM, 99.999, KeptKind.POLICY),
        # The plan wins, shorter and longer.
        ({"standard_retention_days": 100}, 30, HIGH, 30, None),
        ({"standard_retention_days": 100}, 730, MEDIUM, 729, KeptKind.POLICY),
        ({"standard_retention_days": 100}, -1, MEDIUM, 30_000, KeptKind.POLICY),
        (None, 30, MEDIUM, 30, None),
        # What is of low value goes earlier, unless the plan has said how long.
        ({"standard_retention_days": 100, "deletion_threshold_days": 50}, None, LOW, 50, None),
        ({"standard_retention_days": 100, "deletion_threshold_days": 50}, None, MEDIUM, 50, KeptKind.POLICY),
        ({"standard_retention_days": 100, "deletion_threshold_days": 50}, 730, LOW, 100, KeptKind.POLICY),
        ({"standard_retention_days": 100, "deletion_threshold_days": 50}, 30, LOW, 30, None),
        ({"deletion_threshold_days": 50}, None, LOW, 49.999, KeptKind.POLICY),
        # No job removes what is critical; neither plan nor days shorten it.
        ({"critical_retention_days": 200, "standard_retention_days": 100}, 30, CRITICAL, 300, KeptKind.CRITICAL),
    ],
)
def test_who_says_how_long(
    policy: dict[str, Any] | None,
    plan: int | None,
    importance: DataImportance,
    age_days: float,
    kind: KeptKind | None,
) -> None:
    made = protections(*([] if policy is None else [a_policy(**policy)]), plan=plan)

    kept = made.why_kept(a_segment(age_days), importance, NOW)

    assert (kept.kind if kept else None) is kind


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_hold_wins_over_everything_until_it_ends_or_is_released(by_hand: bool) -> None:  # noqa: FBT001
    policy = a_policy(standard_retention_days=1, exceptions=(an_exception(0),))
    archived = a_segment(retention_end_time=NOW - DAY)

    def kept(hold: LegalHold, now: datetime = NOW) -> Any:
        return protections(policy, holds=(hold,), plan=0).why_kept(archived, LOW, now, by_hand=by_hand)

    held = kept(a_hold(end_time=NOW + DAY))
    assert held.kind is KeptKind.LEGAL_HOLD
    assert held.possible_time == NOW + DAY
    assert held.legal_hold_id == "lh_1"
    assert kept(a_hold(end_time=NOW + DAY), NOW + DAY) is None
    assert kept(a_hold(release_time=NOW)) is None
    assert kept(a_hold()).possible_time is None


@pytest.mark.parametrize(
    ("selection", "held"),
    [
        (DataSelection(account_id=ANN), True),
        (DataSelection(account_id=AccountId("bob")), False),
        (DataSelection(data_types=("run", "ride")), True),
        (DataSelection(data_types=("run",)), False),
        (DataSelection(dataset_ids=("ds_2",)), False),
        # One record is enough, and the bounds are those of the records.
        (DataSelection(end_time=a_segment().start_time + timedelta(microseconds=1)), True),
        (DataSelection(end_time=a_segment().start_time), False),
        (DataSelection(start_time=a_segment().end_time - timedelta(microseconds=1)), True),
        (DataSelection(start_time=a_segment().end_time), False),
    ],
)
def test_a_hold_covers_a_segment_of_which_it_covers_a_record(selection: DataSelection, *, held: bool) -> None:
    made = protections(a_policy(standard_retention_days=1), holds=(a_hold(selection=selection),))

    assert (made.why_kept(a_segment(), LOW, NOW) is not None) == held


def test_of_several_holds_that_which_ends_last_is_told() -> None:
    first = a_hold(legal_hold_id="lh_1", end_time=NOW + 2 * DAY)
    second = a_hold(legal_hold_id="lh_2", end_time=NOW + DAY)
    endless = a_hold(legal_hold_id="lh_3")

    two = protections(holds=(second, first)).why_on_hold(a_segment(), NOW)
    three = protections(holds=(second, endless, first)).why_on_hold(a_segment(), NOW)

    assert two is not None
    assert two.possible_time == NOW + 2 * DAY
    assert three is not None
    assert three.legal_hold_id == "lh_3"


def test_an_exception_gives_its_own_days_instead_until_it_ends() -> None:
    def kept(age_days: float, *exceptions: RetentionException) -> KeptKind | None:
        policy = a_policy(standard_retention_days=100, deletion_threshold_days=10, exceptions=exceptions)
        why = protections(policy, plan=50).why_kept(a_segment(age_days), LOW, NOW)
        return why.kind if why else None

    assert kept(199, an_exception(200)) is KeptKind.EXCEPTION
    assert kept(200, an_exception(200)) is None
    assert kept(5, an_exception(5)) is None
    assert kept(199, an_exception(5), an_exception(200)) is KeptKind.EXCEPTION
    assert kept(30_000, an_exception(200), an_exception(-1)) is KeptKind.EXCEPTION
    assert kept(60, an_exception(-1, expire_time=NOW)) is None
    assert kept(60, an_exception(-1, expire_time=NOW + DAY)) is KeptKind.EXCEPTION
    assert kept(60, an_exception(-1, account_id=AccountId("bob"))) is None
    assert kept(60, an_exception(-1, start_time=a_segment(60).end_time)) is None
    assert kept(60, an_exception(-1, end_time=a_segment(60).start_time + timedelta(microseconds=1))) is (
        KeptKind.EXCEPTION
    )


def test_days_chosen_by_hand_when_archiving_win_over_policy_and_plan() -> None:
    made = protections(a_policy(standard_retention_days=10, deletion_threshold_days=5), plan=20)
    archived = a_segment(100, retention_end_time=NOW + DAY)

    kept = made.why_kept(archived, LOW, NOW)

    assert kept is not None
    assert (kept.kind, kept.possible_time) == (KeptKind.POLICY, NOW + DAY)
    assert made.why_kept(archived, LOW, NOW + DAY) is None
    # A hand has decided, also about critical data.
    assert made.why_kept(archived, CRITICAL, NOW + DAY) is None


def test_by_hand_may_go_what_nobody_said_anything_about_and_critical_data_after_its_days() -> None:
    def kept(policy: RetentionPolicy | None, importance: DataImportance) -> KeptKind | None:
        made = protections(*([policy] if policy else []))
        why = made.why_kept(a_segment(100), importance, NOW, by_hand=True)
        return why.kind if why else None

    assert kept(None, HIGH) is None
    assert kept(None, CRITICAL) is KeptKind.CRITICAL
    assert kept(a_policy(), LOW) is KeptKind.POLICY
    assert kept(a_policy(critical_retention_days=100, standard_retention_days=100), CRITICAL) is None
    assert kept(a_policy(critical_retention_days=101, standard_retention_days=100), CRITICAL) is KeptKind.CRITICAL


def test_what_is_damaged_waits_for_a_decision() -> None:
    damaged = a_segment(state=SegmentState.QUARANTINED, quarantine_reason="a flipped bit")

    kept = protections(a_policy(standard_retention_days=1)).why_kept(damaged, LOW, NOW, by_hand=True)

    assert kept is not None
    assert kept.kind is KeptKind.QUARANTINE


def test_what_may_not_lose_anything() -> None:
    made = protections(a_policy())

    assert made.why_lossless(a_segment(), MEDIUM, NOW) is None
    assert made.why_lossless(a_segment(), HIGH, NOW) is not None
    assert made.why_lossless(a_segment(), CRITICAL, NOW) is not None
    assert protections(holds=(a_hold(),)).why_lossless(a_segment(), LOW, NOW) is not None


def test_a_data_types_own_policy_counts_then_that_for_all_then_none() -> None:
    made = PolicySet.of(ACME, [a_policy("ride", standard_retention_days=1), a_policy("*", standard_retention_days=2)])

    assert made.policy_for("ride").standard_retention_days == 1
    assert made.policy_for("run").standard_retention_days == 2
    assert PolicySet.of(ACME, []).policy_for("run").version == 0


def test_nothing_younger_than_what_any_policy_says_is_looked_at() -> None:
    made = PolicySet.of(
        ACME,
        [
            a_policy("ride", standard_retention_days=100, compression_threshold_days=20),
            a_policy("*", deletion_threshold_days=50, exceptions=(an_exception(30), an_exception(-1))),
        ],
    )

    assert made.youngest_days == 20
    assert PolicySet.of(ACME, [a_policy()]).youngest_days == -1


@pytest.mark.parametrize(
    ("value", "days"),
    [
        (180, 180),
        (0, 0),
        (-1, -1),
        (-1.0, -1),
        (1.5, 2),
        (PLAN_DAYS_MAX, PLAN_DAYS_MAX),
        (PLAN_DAYS_MAX + 1, -1),
        (-2, None),
        (-0.5, None),
        (True, None),
        ("180", None),
        (None, None),
    ],
)
def test_days_of_a_plan(value: Any, days: int | None) -> None:
    assert days_of(value) == days


def test_a_free_account_sees_180_days_and_an_unlimited_one_everything() -> None:
    assert visible_start(PlanDays(history_days=180), NOW) == NOW - 180 * DAY
    assert visible_start(PlanDays(history_days=-1), NOW) is None
    assert visible_start(PlanDays(retention_days=30), NOW) is None


def test_the_plans_days_are_those_that_count() -> None:
    policy = a_policy(standard_retention_days=100)

    assert effective_retention_days(policy, PlanDays()) == 100
    assert effective_retention_days(policy, PlanDays(retention_days=30)) == 30
    assert effective_retention_days(policy, PlanDays(retention_days=-1)) == -1


SOUND = RetentionPolicy(
    tenant_id=ACME,
    critical_retention_days=365,
    standard_retention_days=365,
    compression_threshold_days=90,
    deletion_threshold_days=90,
    hot_days=30,
    warm_days=30,
    compression=CompressionSettings(zones={"speed": (1.0, 2.0)}),
    exceptions=(an_exception(1, start_time=NOW, end_time=NOW + DAY),),
    importance_rules=(ImportanceRule(name="fast", column="speed", min_value=1, max_value=1, importance=HIGH),),
)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"critical_retention_days": 364}, "critical_retention_days"),
        ({"standard_retention_days": -1}, "critical_retention_days"),
        ({"compression_threshold_days": 91}, "compression_threshold_days"),
        ({"deletion_threshold_days": 366}, "deletion_threshold_days"),
        ({"hot_days": 31}, "hot_days"),
        ({"compression": CompressionSettings(zones={"speed": (2.0, 2.0)})}, "compression.zones[speed]"),
        ({"compression": CompressionSettings(zones={"speed": ()})}, "compression.zones[speed]"),
        ({"exceptions": (an_exception(1, start_time=NOW, end_time=NOW),)}, "exceptions[0].end_time"),
        ({"importance_rules": SOUND.importance_rules * 2}, "importance_rules[1].name"),
        (
            {"importance_rules": (replace(SOUND.importance_rules[0], min_value=2.0),)},
            "importance_rules[0].max_value",
        ),
        ({"importance_rules": (replace(SOUND.importance_rules[0], column=""),)}, "importance_rules[0].column"),
    ],
)
def test_what_makes_no_sense_is_named(change: dict[str, Any], field: str) -> None:
    assert [named for named, _ in policy_problems(replace(SOUND, **change))] == [field]


@pytest.mark.parametrize(
    "change",
    [
        lambda policy: policy,
        lambda policy: replace(policy, critical_retention_days=-1),
        lambda policy: replace(policy, deletion_threshold_days=-1),
        lambda policy: replace(policy, compression_threshold_days=-1),
        lambda policy: replace(policy, deletion_threshold_days=365),
        lambda _policy: RetentionPolicy(tenant_id=ACME),
    ],
)
def test_what_makes_sense_is_taken(change: Callable[[RetentionPolicy], RetentionPolicy]) -> None:
    assert policy_problems(change(SOUND)) == []
