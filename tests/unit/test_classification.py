"""What data is worth, how important it is, and what should become of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tallygate_server.domain.classification import (
    DEFAULT_WEIGHTS,
    DISTANCE_MAX,
    READS_FOR_HALF_USE,
    RECENCY_HALF_LIFE,
    UNKNOWN_RARITY,
    Classification,
    Rarity,
    ScoreTerm,
    Statistics,
    classify,
    importance_of,
    rarity_of,
    spreads_of,
    statistics_in,
    training_value,
    value_terms,
)
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import (
    CompressionForm,
    CompressionSettings,
    DataImportance,
    DataSelection,
    Segment,
    StorageOptimization,
    StorageTier,
)
from tallygate_server.domain.retention import ImportanceRule, LegalHold, RetentionPolicy
from tallygate_server.domain.retention_rules import PolicySet, Protections

ACME = TenantId("acme")
NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)
DAY = timedelta(days=1)
LOW, MEDIUM, HIGH, CRITICAL = DataImportance
SPEED: Statistics = {"speed": {"count": 10, "missing": 0, "min": 1.0, "max": 9.0, "mean": 5.0, "std": 2.0}}


def a_segment(age_days: float = 100, **more: Any) -> Segment:
    end_time = NOW - timedelta(days=age_days)
    facts = {
        "tenant_id": ACME,
        "segment_id": "seg_1",
        "dataset_id": "ds_1",
        "account_id": AccountId("ann"),
        "data_type": "ride",
        "tier": StorageTier.HOT,
        "form": CompressionForm.NONE,
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


def a_policy(**more: Any) -> RetentionPolicy:
    return RetentionPolicy(tenant_id=ACME, data_type="ride", version=1, **more)


def a_rule(importance: DataImportance, **more: Any) -> ImportanceRule:
    return ImportanceRule(**{"name": importance.name.lower(), "importance": importance, **more})


def a_column(mean: float, std: float = 1.0) -> Statistics:
    return {"speed": {"count": 10, "missing": 0, "min": mean - 3, "max": mean + 3, "mean": mean, "std": std}}


# --- Worth ---------------------------------------------------------------------------------------------------------


def test_each_term_says_what_it_measures() -> None:
    terms = value_terms(
        age=RECENCY_HALF_LIFE,
        rarity=Rarity(value=0.25, explanation="x"),
        quality_score=0.75,
        read_count=READS_FOR_HALF_USE,
    )

    assert [(term.name, term.value) for term in terms] == [
        ("recency", 0.5),
        ("rarity", 0.25),
        ("quality", 0.75),
        ("use", 0.5),
    ]
    assert {term.name: term.weight for term in terms} == DEFAULT_WEIGHTS
    assert all(term.explanation for term in terms)
    assert training_value(terms) == pytest.approx(0.3 * 0.5 + 0.3 * 0.25 + 0.2 * 0.75 + 0.2 * 0.5)


@pytest.mark.parametrize(("age", "reads", "recency", "use"), [(-DAY, 0, 1.0, 0.0), (0 * DAY, 10**9, 1.0, 1.0)])
def test_terms_stay_between_0_and_1(age: timedelta, reads: int, recency: float, use: float) -> None:
    terms = value_terms(age=age, rarity=Rarity(value=1, explanation=""), quality_score=1.5, read_count=reads)

    assert terms[0].value == recency
    assert terms[3].value == pytest.approx(use)
    assert all(0 <= term.value <= 1 for term in terms)


def test_weights_of_a_model_count_and_none_weigh_nothing() -> None:
    def value(**weights: float) -> float:
        rarity = Rarity(value=1, explanation="")
        return training_value(value_terms(age=DAY, rarity=rarity, quality_score=0.5, read_count=0, weights=weights))

    assert value(quality=7) == 0.5
    assert value(quality=1, rarity=3) == pytest.approx(0.875)
    assert value() == 0.0
    assert training_value([ScoreTerm(name="x", value=0.3, weight=2, explanation="")]) == pytest.approx(0.3)


def test_what_is_like_the_others_is_not_rare_and_what_is_not_is() -> None:
    usual = [a_column(mean) for mean in (4.0, 5.0, 6.0)]
    odd = a_column(50.0)
    spreads = spreads_of([*usual, odd])

    like = rarity_of(usual[1], spreads_of(usual), included=True)
    unlike = rarity_of(odd, spreads, included=True)
    outside = rarity_of(odd, spreads_of(usual), included=False)

    assert like.value < 0.3
    assert 0.9 < unlike.value < 1
    # Being among those that it is compared with makes no difference.
    assert unlike.value == pytest.approx(outside.value)
    assert "3 other segments" in unlike.explanation
    assert "speed" in unlike.explanation
    wider = rarity_of(a_column(5.0, std=20.0), spreads_of(usual), included=False)
    assert wider.value > 0.9


def test_what_cannot_be_compared_is_neither_rare_nor_usual() -> None:
    nothing: Statistics = {}
    text: Statistics = {"note": {"count": 3}}

    for own, others in ((nothing, [a_column(1)]), (text, [text]), (a_column(1), [nothing])):
        assert rarity_of(own, spreads_of(others), included=False).value == UNKNOWN_RARITY
    assert rarity_of(a_column(1), spreads_of([a_column(1)]), included=True).value == UNKNOWN_RARITY


def test_constants_and_numbers_without_end_make_no_nonsense() -> None:
    constant = [a_column(1e12, std=0.0)] * 5
    spreads = spreads_of(constant)

    assert rarity_of(constant[0], spreads, included=True).value == 0.0
    far = rarity_of(a_column(2e12, std=0.0), spreads, included=False)
    assert far.value == pytest.approx(DISTANCE_MAX / (1 + DISTANCE_MAX))
    endless = rarity_of(a_column(float("inf")), spreads_of([a_column(1), a_column(float("nan"))]), included=False)
    assert endless.value == UNKNOWN_RARITY


# --- Importance ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "quality", "importance"),
    [
        (0.9, 0.49, LOW),
        (0.5, 0.5, HIGH),
        (0.499, 1.0, MEDIUM),
        (0.25, 1.0, MEDIUM),
        (0.249, 1.0, LOW),
    ],
)
def test_without_a_rule_quality_and_worth_decide(value: float, quality: float, importance: DataImportance) -> None:
    found, why = importance_of(a_policy(), a_segment(quality_score=quality), statistics=SPEED, value=value)

    assert found is importance
    assert "threshold" in why


@pytest.mark.parametrize(
    ("rule", "applies"),
    [
        ({}, True),
        ({"min_training_value": 0.5}, True),
        ({"min_training_value": 0.501}, False),
        ({"column": "speed"}, True),
        ({"column": "power"}, False),
        # Any record that may fit is enough to raise: 1 to 9 were measured.
        ({"column": "speed", "min_value": 9.0}, True),
        ({"column": "speed", "min_value": 9.001}, False),
        ({"column": "speed", "max_value": 1.0}, True),
        ({"column": "speed", "max_value": 0.999}, False),
        ({"column": "speed", "min_value": 4.0, "max_value": 4.0}, True),
        # A text has no bounds.
        ({"column": "note"}, True),
        ({"column": "note", "min_value": 1.0}, False),
    ],
)
def test_a_rule_raises_what_any_record_fits(rule: dict[str, Any], *, applies: bool) -> None:
    policy = a_policy(importance_rules=(a_rule(CRITICAL, **rule),))

    found, why = importance_of(policy, a_segment(), statistics=SPEED, columns=["speed", "note"], value=0.5)

    assert (found is CRITICAL) == applies
    assert ("rule 'critical'" in why) == applies


@pytest.mark.parametrize(
    ("rule", "applies"),
    [
        ({"column": "speed", "min_value": 1.0, "max_value": 9.0}, True),
        ({"column": "speed", "max_value": 8.999}, False),
        ({"column": "speed", "min_value": 1.001}, False),
    ],
)
def test_a_rule_lowers_only_what_every_record_fits(rule: dict[str, Any], *, applies: bool) -> None:
    policy = a_policy(importance_rules=(a_rule(LOW, **rule),))

    found, _ = importance_of(policy, a_segment(), statistics=SPEED, value=0.9)
    one_missing, _ = importance_of(policy, a_segment(record_count=11), statistics=SPEED, value=0.9)

    assert (found is LOW) == applies
    assert one_missing is HIGH


def test_the_rule_that_gives_most_decides_in_any_order() -> None:
    rules = (a_rule(LOW), a_rule(CRITICAL), a_rule(MEDIUM))

    for several in (rules, rules[::-1]):
        found, why = importance_of(a_policy(importance_rules=several), a_segment(), statistics={}, value=0)
        assert found is CRITICAL
        assert "rule 'critical' (all records)" in why


def test_what_cannot_be_read_is_taken_for_what_it_may_be() -> None:
    rules = (a_rule(CRITICAL, column="speed", min_value=1e9), a_rule(LOW, column="speed"))

    unread, _ = importance_of(a_policy(importance_rules=rules), a_segment(), statistics=None, value=0.9)
    read, _ = importance_of(a_policy(importance_rules=rules), a_segment(), statistics=SPEED, value=0.9)

    assert (unread, read) == (CRITICAL, LOW)
    assert statistics_in({"quality": []}) is None
    assert statistics_in({"statistics": {}}) == {}


# --- What should become of it --------------------------------------------------------------------------------------

LOSSY = CompressionSettings(form=CompressionForm.SUMMARY)


def classified(
    policy: RetentionPolicy, segment: Segment, *, value: float = 0.3, holds: tuple[LegalHold, ...] = ()
) -> Classification:
    protections = Protections(policy_set=PolicySet.of(ACME, [policy]), holds=holds)
    terms = (ScoreTerm(name="x", value=value, weight=1, explanation=""),)
    return classify(segment, protections, statistics=SPEED, terms=terms, access_time=None, access_count=0, now=NOW)


NONE, COMPRESS, SUMMARIZE, DELETE = StorageOptimization


@pytest.mark.parametrize(
    ("policy", "segment", "value", "action"),
    [
        ({}, a_segment(1), 0.3, NONE),
        # Old enough to leave the hot tier: without loss.
        ({}, a_segment(30), 0.3, COMPRESS),
        ({}, a_segment(29.9), 0.3, NONE),
        ({}, a_segment(30, form=CompressionForm.LOSSLESS, tier=StorageTier.WARM), 0.3, NONE),
        # Old enough to lose something.
        ({"compression_threshold_days": 10, "compression": LOSSY}, a_segment(10), 0.3, SUMMARIZE),
        ({"compression_threshold_days": 10, "compression": LOSSY}, a_segment(9.9), 0.3, NONE),
        ({"compression_threshold_days": 10, "compression": LOSSY}, a_segment(10), 0.5, NONE),
        ({"compression_threshold_days": 10}, a_segment(10), 0.3, COMPRESS),
        (
            {"compression_threshold_days": 10, "compression": LOSSY},
            a_segment(10, form=CompressionForm.SUMMARY),
            0.3,
            NONE,
        ),
        # Old enough to go: of low value at the threshold, all at the end.
        ({"deletion_threshold_days": 50, "standard_retention_days": 100}, a_segment(50), 0.1, DELETE),
        ({"deletion_threshold_days": 50, "standard_retention_days": 100}, a_segment(50), 0.3, COMPRESS),
        ({"deletion_threshold_days": 50, "standard_retention_days": 100}, a_segment(100), 0.9, DELETE),
    ],
)
def test_what_should_become_of_data(
    policy: dict[str, Any], segment: Segment, value: float, action: StorageOptimization
) -> None:
    found = classified(a_policy(**policy), segment, value=value)

    assert found.storage_optimization is action
    assert found.compression_eligible == (
        action in {SUMMARIZE, DELETE, COMPRESS} and "compression_threshold_days" in policy
    )


def test_what_is_on_hold_is_neither_removed_nor_made_less() -> None:
    hold = LegalHold(
        tenant_id=ACME,
        legal_hold_id="lh_1",
        selection=DataSelection(),
        reason_text="a suit",
        actor="jo",
        create_time=NOW,
    )
    policy = a_policy(
        deletion_threshold_days=2, standard_retention_days=3, compression_threshold_days=1, compression=LOSSY
    )

    held = classified(policy, a_segment(), value=0.0, holds=(hold,))
    free = classified(policy, a_segment(), value=0.0)

    assert (held.storage_optimization, held.compression_eligible) == (COMPRESS, False)
    assert "lh_1" in held.explanation
    assert free.storage_optimization is DELETE
    assert held.retention_days == 3


def test_critical_data_is_kept_as_critical_data() -> None:
    policy = a_policy(standard_retention_days=3, critical_retention_days=9, importance_rules=(a_rule(CRITICAL),))

    found = classified(policy, replace(a_segment(), quality_score=0.0))

    assert (found.importance, found.retention_days) == (CRITICAL, 9)
    assert found.storage_optimization is COMPRESS
    assert "by hand" in found.explanation
