"""What a piece of data is worth, how important it is, and what should become of it: every score by its terms."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from tallygate_server.domain.lifecycle import (
    CompressionForm,
    DataImportance,
    Segment,
    StorageOptimization,
    StorageTier,
)
from tallygate_server.domain.retention import FOR_EVER, ImportanceRule, RetentionPolicy
from tallygate_server.domain.retention_rules import KeptKind, Protections, days_text

RECENCY_HALF_LIFE: Final = timedelta(days=90)
"""Age at which data has lost half of its recency."""
READS_FOR_HALF_USE: Final = 4
"""Reads in 30 days that make half of the greatest use."""
USE_WINDOW: Final = timedelta(days=30)
LOW_VALUE_SHARE: Final = 0.5
"""Data below this share of the policy's `ai_value_threshold` is of low value."""
UNKNOWN_RARITY: Final = 0.5
"""Rarity of what cannot be compared: texts, and the only data of its sort."""
DISTANCE_MAX: Final = 1_000.0
"""Spreads; what lies further away is as rare."""
NOISE: Final = 1e-7
"""Share of a column's values below which sums over segments tell no difference."""
DEFAULT_WEIGHTS: Final[Mapping[str, float]] = {"recency": 0.3, "rarity": 0.3, "quality": 0.2, "use": 0.2}
"""Weights of the terms for models in general."""

Statistics = Mapping[str, Mapping[str, float]]
"""By column: `count`, `missing`, `min`, `max`, `mean`, `std`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTerm:
    """One term of a score."""

    name: str
    value: float
    """0 to 1."""
    weight: float
    explanation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rarity:
    """How unlike the other data of its sort a segment is."""

    value: float
    """0 to 1: 0 is like the others, 0.5 is one spread away from them."""
    explanation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """What a segment is worth, and what should become of it."""

    segment: Segment
    importance: DataImportance
    retention_days: int
    compression_eligible: bool
    training_value: float
    storage_optimization: StorageOptimization
    access_time: datetime | None
    """To the day."""
    access_count: int
    terms: tuple[ScoreTerm, ...]
    explanation: str


# --- Worth ---------------------------------------------------------------------------------------------------------


def value_terms(
    *,
    age: timedelta,
    rarity: Rarity,
    quality_score: float,
    read_count: int,
    weights: Mapping[str, float] = DEFAULT_WEIGHTS,
) -> tuple[ScoreTerm, ...]:
    """Return what the worth for training consists of; a term without a weight weighs nothing.

    `age` counts from the last record; `read_count` is that of the last 30 days.
    """
    days = max(age, timedelta(0)) / timedelta(days=1)
    values = {
        "recency": (
            0.5 ** (days / (RECENCY_HALF_LIFE / timedelta(days=1))),
            f"{days:.1f} days old; halves every {RECENCY_HALF_LIFE.days} days",
        ),
        "rarity": (rarity.value, rarity.explanation),
        "quality": (min(max(quality_score, 0.0), 1.0), f"quality score {quality_score:.3f}"),
        "use": (
            read_count / (read_count + READS_FOR_HALF_USE),
            f"read {read_count} times in {USE_WINDOW.days} days; {READS_FOR_HALF_USE} reads make a half",
        ),
    }
    return tuple(
        ScoreTerm(name=name, value=value, weight=weights.get(name, 0.0), explanation=explanation)
        for name, (value, explanation) in values.items()
    )


def training_value(terms: Iterable[ScoreTerm]) -> float:
    """Return the weighted mean of the terms, 0 to 1."""
    known = list(terms)
    weight = sum(term.weight for term in known)
    return min(max(sum(term.value * term.weight for term in known) / weight, 0.0), 1.0) if weight > 0 else 0.0


@dataclass(frozen=True, slots=True)
class ColumnSpread:
    """How a column lies in several segments: sums over them, so that one of them can be taken out again."""

    segment_count: int
    pivot: float
    """That the means are counted from, so that sums of squares keep their digits."""
    shift_sum: float
    shift_squares: float
    variance_sum: float

    def without(self, mine: Mapping[str, float]) -> ColumnSpread:
        """Return the spread of the others."""
        shift = mine["mean"] - self.pivot
        return ColumnSpread(
            self.segment_count - 1,
            self.pivot,
            self.shift_sum - shift,
            self.shift_squares - shift**2,
            self.variance_sum - mine.get("std", 0.0) ** 2,
        )


def spreads_of(segments: Iterable[Statistics]) -> dict[str, ColumnSpread]:
    """Return how each numeric column lies in several segments."""
    spreads: dict[str, ColumnSpread] = {}
    for statistics in segments:
        for column, each in statistics.items():
            if "mean" not in each or not math.isfinite(each["mean"]):
                continue
            known = spreads.get(column) or ColumnSpread(0, each["mean"], 0.0, 0.0, 0.0)
            shift = each["mean"] - known.pivot
            spreads[column] = ColumnSpread(
                known.segment_count + 1,
                known.pivot,
                known.shift_sum + shift,
                known.shift_squares + shift**2,
                known.variance_sum + each.get("std", 0.0) ** 2,
            )
    return spreads


def rarity_of(own: Statistics, spreads: Mapping[str, ColumnSpread], *, included: bool) -> Rarity:
    """Return how unlike a segment's statistics are to those of the other segments of its sort.

    By column, the distance of its mean from theirs, and of its spread from theirs, in units of their spread: within and
    between segments. The mean distance d over the columns makes d / (1 + d). `included`: it is among those that the
    spreads are of, and is taken out.
    """
    distances: dict[str, float] = {}
    compared = 0
    for column, mine in own.items():
        spread = spreads.get(column)
        if spread is None or "mean" not in mine or not math.isfinite(mine["mean"]):
            continue
        theirs = spread.without(mine) if included else spread
        if theirs.segment_count > 0:
            distances[column] = _distance(mine, theirs)
            compared = max(compared, theirs.segment_count)
    if not distances:
        return Rarity(value=UNKNOWN_RARITY, explanation="there is nothing to compare it with")
    distance = sum(distances.values()) / len(distances)
    column = max(sorted(distances), key=lambda name: distances[name])
    return Rarity(
        value=distance / (1 + distance),
        explanation=(
            f"{distance:.2f} spreads away from {compared} other segments of its sort; most in {column}"
            f" ({distances[column]:.2f})"
        ),
    )


def _distance(mine: Mapping[str, float], theirs: ColumnSpread) -> float:
    """Return how far a column is from the same column of others, in their spreads, at most 1,000."""
    count = theirs.segment_count
    mean_shift = theirs.shift_sum / count
    between = max(theirs.shift_squares / count - mean_shift**2, 0.0)
    within = max(theirs.variance_sum / count, 0.0)
    spread = math.sqrt(between + within)
    away = abs(mine["mean"] - theirs.pivot - mean_shift) + abs(mine.get("std", 0.0) - math.sqrt(within))
    # Sums have an error of their own: below it nothing differs.
    noise = NOISE * max(abs(theirs.pivot + mean_shift), abs(mine["mean"]), mine.get("std", 0.0))
    if not math.isfinite(away) or not math.isfinite(spread) or away <= noise:
        return 0.0
    return min(away / spread, DISTANCE_MAX) if spread > noise else DISTANCE_MAX


# --- Importance ----------------------------------------------------------------------------------------------------


def importance_of(
    policy: RetentionPolicy,
    segment: Segment,
    *,
    statistics: Statistics | None,
    columns: Collection[str] = (),
    value: float,
) -> tuple[DataImportance, str]:
    """Return how important a segment is, and which rule says so.

    Of the policy's rules that apply, the one that gives the highest importance decides, so that no order of them loses
    critical data. Where none applies, the quality and the worth decide. Without statistics (None: they cannot be read)
    every rule that raises the importance is taken to apply. `columns` are those of the dataset, also of texts.
    """
    applying = [
        rule
        for rule in policy.importance_rules
        if value >= rule.min_training_value and _applies(rule, segment, statistics, columns)
    ]
    if applying:
        rule = max(applying, key=lambda each: each.importance)
        return rule.importance, f"rule {rule.name!r} {_rule_text(rule)} makes it {rule.importance.name.lower()}"
    if segment.quality_score < policy.quality_threshold:
        return DataImportance.LOW, (
            f"quality {segment.quality_score:.3f} is below the policy's quality_threshold {policy.quality_threshold:g}"
        )
    if value >= policy.ai_value_threshold:
        return DataImportance.HIGH, (
            f"training value {value:.3f} reaches the policy's ai_value_threshold {policy.ai_value_threshold:g}"
        )
    low = policy.ai_value_threshold * LOW_VALUE_SHARE
    if value < low:
        return DataImportance.LOW, (
            f"training value {value:.3f} is below {low:g}, half of the policy's ai_value_threshold"
        )
    return DataImportance.MEDIUM, (
        f"training value {value:.3f} is between {low:g} and the policy's ai_value_threshold"
        f" {policy.ai_value_threshold:g}"
    )


def _applies(rule: ImportanceRule, segment: Segment, statistics: Statistics | None, columns: Collection[str]) -> bool:
    """Tell whether the values fit a rule: one that raises needs any record that may, one that lowers all of them."""
    if not rule.column:
        return True
    raises = rule.importance >= DataImportance.HIGH
    if statistics is None:
        return raises
    known = statistics.get(rule.column)
    if known is None:
        # Texts and the like have no statistics: a rule without bounds is about whoever has the column.
        return rule.column in columns and rule.min_value is None and rule.max_value is None
    if not known.get("count"):
        return False
    low, high = known.get("min", -math.inf), known.get("max", math.inf)
    least = -math.inf if rule.min_value is None else rule.min_value
    most = math.inf if rule.max_value is None else rule.max_value
    if raises:
        return low <= most and high >= least
    return least <= low and high <= most and known["count"] >= segment.record_count


def _rule_text(rule: ImportanceRule) -> str:
    parts = []
    if rule.column:
        bounds = [
            f"from {rule.min_value:g}" if rule.min_value is not None else "",
            f"to {rule.max_value:g}" if rule.max_value is not None else "",
        ]
        parts.append(" ".join(["column", rule.column, *(bound for bound in bounds if bound)]))
    if rule.min_training_value:
        parts.append(f"training value from {rule.min_training_value:g}")
    return f"({', '.join(parts) or 'all records'})"


# --- What should become of it --------------------------------------------------------------------------------------


def classify(
    segment: Segment,
    protections: Protections,
    *,
    statistics: Statistics | None,
    columns: Collection[str] = (),
    terms: tuple[ScoreTerm, ...],
    access_time: datetime | None,
    access_count: int,
    now: datetime,
) -> Classification:
    """Classify a segment by the policy that counts for it."""
    policy = protections.policy_for(segment.data_type)
    value = training_value(terms)
    importance, why = importance_of(policy, segment, statistics=statistics, columns=columns, value=value)
    retention = protections.retention(segment, importance, now)
    eligible = _compressible(policy, segment, protections, importance, value=value, now=now)
    action, what = _action(policy, segment, protections, importance, eligible=eligible, now=now)
    return Classification(
        segment=segment,
        importance=importance,
        retention_days=retention.days,
        compression_eligible=eligible,
        training_value=value,
        storage_optimization=action,
        access_time=access_time,
        access_count=access_count,
        terms=terms,
        explanation=f"{why}; {retention.decided_by} keeps it {days_text(retention.days)}; {what}",
    )


def _compressible(
    policy: RetentionPolicy,
    segment: Segment,
    protections: Protections,
    importance: DataImportance,
    *,
    value: float,
    now: datetime,
) -> bool:
    threshold = policy.compression_threshold_days
    return (
        segment.form.exact
        and threshold != FOR_EVER
        and now >= segment.end_time + timedelta(days=threshold)
        and value < policy.ai_value_threshold
        and protections.why_lossless(segment, importance, now) is None
    )


def _action(
    policy: RetentionPolicy,
    segment: Segment,
    protections: Protections,
    importance: DataImportance,
    *,
    eligible: bool,
    now: datetime,
) -> tuple[StorageOptimization, str]:
    """Return what should become of a segment, and why: deleted, made smaller with loss or without, or nothing."""
    kept = protections.why_kept(segment, importance, now)
    if kept is None:
        ends = protections.removable_from(segment, importance, now)
        return StorageOptimization.DELETE, f"{ends.decided_by} let it go after {days_text(ends.days)}"
    reason = f"it stays: {kept.explanation}" if kept.kind is not KeptKind.POLICY else "it is not due for removal"
    if eligible and not policy.compression.form.exact:
        return StorageOptimization.SUMMARIZE, (
            f"{reason}; it is older than compression_threshold_days {policy.compression_threshold_days}"
            f" and may become {policy.compression.form.name.lower()}"
        )
    moves = segment.tier is StorageTier.HOT and now >= segment.end_time + timedelta(days=policy.hot_days)
    if segment.form is CompressionForm.NONE and (eligible or moves):
        return StorageOptimization.COMPRESS, f"{reason}; it is old enough to be compressed without loss"
    return StorageOptimization.NONE, reason


def statistics_in(facts: Mapping[str, Any]) -> Statistics | None:
    """Return the statistics that are kept sealed beside a segment; None where there are none."""
    found = facts.get("statistics")
    return found if isinstance(found, Mapping) else None
