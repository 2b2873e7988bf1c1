"""How storage grows: a robust straight line through what was stored on each day.

The line is that of Theil and Sen: its slope is the median of the slopes between all pairs of days, so that up to
about a quarter of the days may be anything (an import, a clean-up) without bending it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import combinations
from statistics import median
from typing import Final

from tallygate_server.domain.lifecycle import StorageTier

TREND_DAYS_MAX: Final = 90
"""Days that the line goes through, counted back from today: as many of them as are known."""
TREND_DAYS_MIN: Final = 3
"""Known days without which there is no telling."""
MONTH_DAYS: Final = 30

TierBytes = Mapping[StorageTier, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoragePoint:
    """What was stored on a day, or will be."""

    day: date
    bytes_by_tier: TierBytes

    @property
    def total_bytes(self) -> int:
        """Bytes in all tiers."""
        return sum(self.bytes_by_tier.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """What a day adds."""

    bytes_per_day: Mapping[StorageTier, float]
    """By tier; negative where a tier shrinks. Their sum is the slope of the whole."""

    @property
    def month_bytes(self) -> int:
        """Bytes that a month adds to all tiers."""
        return round(sum(self.bytes_per_day.values()) * MONTH_DAYS)

    def project(self, today: StoragePoint, days: int) -> list[StoragePoint]:
        """Return what will be stored on each of the days after today; no tier falls below nothing."""
        return [
            StoragePoint(
                day=today.day + timedelta(days=ahead),
                bytes_by_tier={
                    tier: max(0, round(today.bytes_by_tier.get(tier, 0) + slope * ahead))
                    for tier, slope in self.bytes_per_day.items()
                },
            )
            for ahead in range(1, days + 1)
        ]


def growth_of(history: Sequence[StoragePoint]) -> Growth | None:
    """Return how storage grew over days in ascending order, the last of them today; None where too few are known.

    The tiers' lines are shifted so that their sum is the line of the whole, which moves between tiers do not bend.
    """
    today = history[-1] if history else None
    if today is None:
        return None
    known = [point for point in history if (today.day - point.day).days < TREND_DAYS_MAX]
    if len(known) < TREND_DAYS_MIN:
        return None
    slopes = {
        tier: slope_of([(point.day, point.bytes_by_tier.get(tier, 0)) for point in known]) for tier in StorageTier
    }
    whole = slope_of([(point.day, point.total_bytes) for point in known])
    rest = whole - sum(slopes.values())
    total = today.total_bytes
    for tier in slopes:
        share = today.bytes_by_tier.get(tier, 0) / total if total else 1 / len(slopes)
        slopes[tier] += rest * share
    return Growth(bytes_per_day=slopes)


def slope_of(points: Sequence[tuple[date, int]]) -> float:
    """Return the median of the slopes between all pairs of days, in units a day; 0 for fewer than two days."""
    slopes = [(later - earlier) / (then - day).days for (day, earlier), (then, later) in combinations(points, 2)]
    return float(median(slopes)) if slopes else 0.0
