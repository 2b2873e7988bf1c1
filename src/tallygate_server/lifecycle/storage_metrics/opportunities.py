"""What could be saved, and what that would lose: estimates from what the same sort of data has measurably given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from tallygate_server.domain.lifecycle import DataImportance, DataSelection, StorageOptimization, StorageTier
from tallygate_server.domain.retention import ALL_TYPES, FOR_EVER, RetentionPolicy
from tallygate_server.domain.retention_rules import Protections
from tallygate_server.domain.storage_cost import TierFacts
from tallygate_server.storage.storage_sums import NEVER_DUE, DueSums, TypeRule

LOSSLESS_RATIO_ASSUMED: Final = 0.5
LOSSY_RATIO_ASSUMED: Final = 0.1
"""Bytes that are left of each byte of plain rows, where nothing of the tenant's has been measured yet."""
VALUE_RETAINED_ASSUMED: Final = 0.5
"""The same for the share of worth that a form with loss keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageOpportunity:
    """Something that could be saved."""

    action: StorageOptimization
    data_type: str
    saved_bytes: int
    saved_cost: Decimal
    """In a month, in the currency's major unit."""
    value_lost: float
    """Share of the worth of this sort of data."""
    explanation: str


@dataclass(frozen=True, slots=True)
class _Ratio:
    """Bytes left of each byte of plain rows, and where that was learned."""

    value: float
    source: str


def rule_of(policy: RetentionPolicy, data_type: str, now: datetime) -> TypeRule:
    """Return a policy as instants."""
    lossy = not policy.compression.form.exact
    return TypeRule(
        data_type=data_type,
        hot_before=_before(policy.hot_days, now),
        warm_before=_before(policy.warm_days, now),
        compress_before=_before(policy.compression_threshold_days, now) if lossy else NEVER_DUE,
        delete_before=_before(policy.deletion_threshold_days, now),
        expired_before=_before(policy.standard_retention_days, now),
        quality_threshold=policy.quality_threshold,
        keeps_all=any(
            not rule.column and rule.min_training_value <= 0 and rule.importance >= DataImportance.HIGH
            for rule in policy.importance_rules
        ),
    )


def protected_data(protections: Protections, data_types: Sequence[str], now: datetime) -> list[DataSelection]:
    """Return what holds and exceptions protect now."""
    held = [hold.selection for hold in protections.holds if hold.active_at(now)]
    excepted = []
    seen: set[str] = set()
    for policy in (protections.policy_for(data_type) for data_type in data_types):
        if policy.data_type in seen:
            continue
        seen.add(policy.data_type)
        of_types = tuple(data_types) if policy.data_type == ALL_TYPES else (policy.data_type,)
        excepted += [
            DataSelection(
                account_id=exception.account_id,
                data_types=of_types,
                start_time=exception.start_time,
                end_time=exception.end_time,
            )
            for exception in policy.exceptions
            if exception.expire_time is None or now < exception.expire_time
        ]
    return [*held, *excepted]


def find_opportunities(
    sums: Sequence[DueSums],
    policies: Mapping[str, RetentionPolicy],
    tiers: TierFacts,
    *,
    value_retained: Mapping[str, float],
    orphan_bytes: int,
) -> list[StorageOpportunity]:
    """Return what could be saved, most bytes first."""
    found: list[StorageOpportunity] = []
    by_type: dict[str, list[DueSums]] = {}
    for each in sums:
        by_type.setdefault(each.data_type, []).append(each)
    for data_type, rows in by_type.items():
        policy = policies[data_type]
        found += _late(data_type, rows, policy, tiers, _lossless_ratio(rows, sums))
        retained = value_retained.get(data_type)
        found += _shrinkable(data_type, rows, policy, tiers, ratio=_lossy_ratio(rows, sums), retained=retained)
        found += _removable(data_type, rows, policy, tiers)
        found += _quarantined(data_type, rows, tiers)
    if orphan_bytes:
        found.append(
            StorageOpportunity(
                action=StorageOptimization.DELETE,
                data_type="",
                saved_bytes=orphan_bytes,
                saved_cost=tiers.cost({StorageTier.COLD: orphan_bytes}),
                value_lost=0.0,
                explanation="objects that nothing refers to any more; they are removed by themselves",
            )
        )
    return sorted(found, key=lambda each: (-each.saved_bytes, -each.saved_cost, each.data_type, each.action))


def _late(
    data_type: str, rows: Sequence[DueSums], policy: RetentionPolicy, tiers: TierFacts, ratio: _Ratio
) -> list[StorageOpportunity]:
    found = []
    by_tier = {row.tier: row for row in rows}
    hot = by_tier.get(StorageTier.HOT)
    if hot is not None and hot.late_bytes:
        left = round(hot.late_original_bytes * ratio.value)
        found.append(
            StorageOpportunity(
                action=StorageOptimization.COMPRESS,
                data_type=data_type,
                saved_bytes=max(0, hot.late_bytes - left),
                saved_cost=tiers.cost({StorageTier.HOT: hot.late_bytes}) - tiers.cost({StorageTier.WARM: left}),
                value_lost=0.0,
                explanation=f"older than {policy.hot_days} days and still hot: the warm tier holds it by column, in"
                f" {ratio.value:.2f} of its plain bytes ({ratio.source})",
            )
        )
    warm = by_tier.get(StorageTier.WARM)
    if warm is not None and warm.late_bytes:
        before, after = ({tier: warm.late_bytes} for tier in (StorageTier.WARM, StorageTier.COLD))
        found.append(
            StorageOpportunity(
                action=StorageOptimization.NONE,
                data_type=data_type,
                saved_bytes=0,
                saved_cost=tiers.cost(before) - tiers.cost(after),
                value_lost=0.0,
                explanation=f"older than {policy.warm_days} days and still warm: the same bytes cost less in the cold"
                " tier",
            )
        )
    return found


def _shrinkable(
    data_type: str,
    rows: Sequence[DueSums],
    policy: RetentionPolicy,
    tiers: TierFacts,
    *,
    ratio: _Ratio,
    retained: float | None,
) -> list[StorageOpportunity]:
    stored = sum(row.shrinkable_bytes for row in rows)
    if not stored:
        return []
    saved = {
        row.tier: max(0, row.shrinkable_bytes - round(row.shrinkable_original_bytes * ratio.value)) for row in rows
    }
    if not sum(saved.values()):
        return []
    kept = VALUE_RETAINED_ASSUMED if retained is None else retained
    learned = "assumed, as nothing of this sort was compressed so yet" if retained is None else "measured on this sort"
    return [
        StorageOpportunity(
            action=StorageOptimization.SUMMARIZE,
            data_type=data_type,
            saved_bytes=sum(saved.values()),
            saved_cost=tiers.cost(saved),
            value_lost=(1 - kept) * _share(sum(row.shrinkable_worth for row in rows), rows),
            explanation=f"older than {policy.compression_threshold_days} days: the policy lets it be compressed"
            f" ({policy.compression.form.name.lower()}), to {ratio.value:.2f} of its plain bytes ({ratio.source});"
            f" {kept:.0%} of its worth is kept ({learned})",
        )
    ]


def _removable(
    data_type: str, rows: Sequence[DueSums], policy: RetentionPolicy, tiers: TierFacts
) -> list[StorageOpportunity]:
    stored = {row.tier: row.removable_bytes for row in rows}
    if not sum(stored.values()):
        return []
    reasons = []
    if policy.deletion_threshold_days != FOR_EVER:
        reasons.append(
            f"of a quality below {policy.quality_threshold:g} and older than {policy.deletion_threshold_days} days"
        )
    if policy.standard_retention_days != FOR_EVER:
        reasons.append(f"older than its retention of {policy.standard_retention_days} days")
    return [
        StorageOpportunity(
            action=StorageOptimization.DELETE,
            data_type=data_type,
            saved_bytes=sum(stored.values()),
            saved_cost=tiers.cost(stored),
            value_lost=_share(sum(row.removable_worth for row in rows), rows),
            explanation=", or ".join(reasons),
        )
    ]


def _quarantined(data_type: str, rows: Sequence[DueSums], tiers: TierFacts) -> list[StorageOpportunity]:
    stored = {row.tier: row.quarantined_bytes for row in rows}
    if not sum(stored.values()):
        return []
    return [
        StorageOpportunity(
            action=StorageOptimization.DELETE,
            data_type=data_type,
            saved_bytes=sum(stored.values()),
            saved_cost=tiers.cost(stored),
            value_lost=0.0,
            explanation="damaged and in quarantine: restore it from a backup, or remove it",
        )
    ]


def _lossless_ratio(rows: Sequence[DueSums], everything: Sequence[DueSums]) -> _Ratio:
    for chosen, source in ((rows, "measured on this sort"), (everything, "measured on the tenant's other data")):
        original = sum(row.lossless_original_bytes for row in chosen)
        if original:
            return _Ratio(sum(row.lossless_bytes for row in chosen) / original, source)
    return _Ratio(LOSSLESS_RATIO_ASSUMED, "assumed, as nothing was measured yet")


def _lossy_ratio(rows: Sequence[DueSums], everything: Sequence[DueSums]) -> _Ratio:
    for chosen, source in ((rows, "measured on this sort"), (everything, "measured on the tenant's other data")):
        original = sum(row.lossy_original_bytes for row in chosen)
        if original:
            return _Ratio(sum(row.lossy_bytes for row in chosen) / original, source)
    return _Ratio(LOSSY_RATIO_ASSUMED, "assumed, as nothing was measured yet")


def _share(worth: float, rows: Sequence[DueSums]) -> float:
    whole = sum(row.worth for row in rows)
    return min(1.0, worth / whole) if whole else 0.0


def _before(days: int, now: datetime) -> datetime:
    return NEVER_DUE if days == FOR_EVER else now - timedelta(days=days)
