"""What segments are worth: their terms, weighed for a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.lifecycle import DataImportance, DataSelection, Segment
from tallygate_server.lifecycle.segments import SegmentStore
from tallygate_server.storage import value_rows as rows
from tallygate_server.storage.data_segments import read_segments


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    name: str
    value: float
    weight: float
    explanation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A segment and what it is worth."""

    segment: Segment
    score: float
    """0 to 1: the weighted mean of the terms."""
    terms: tuple[Term, ...]

    @property
    def worth(self) -> float:
        """In records: what sums of segments are made of."""
        return self.score * self.segment.record_count


class Scorer:
    """Scores segments from their sealed statistics, their quality and their reads."""

    def __init__(self, segments: SegmentStore) -> None:
        self._store = segments

    def default_weights(self) -> dict[str, float]:
        return {"recency": 0.25, "rarity": 0.25, "quality": 0.25, "use": 0.25}

    async def score(
        self, tenant_id: TenantId, segments: Sequence[Segment], *, model_key: str, now: datetime
    ) -> list[Scored]:
        async with self._store.database.tenant_snapshot(tenant_id) as connection:
            weights = await rows.read_weights(connection, tenant_id, model_key)
        return await self._scored(tenant_id, segments, {k: v.weights for k, v in weights.items()}, now)

    async def importances(
        self,
        tenant_id: TenantId,
        segments: Sequence[Segment],
        *,
        weights: Mapping[str, Mapping[str, float]],
        now: datetime,
    ) -> dict[str, DataImportance]:
        return {
            each.segment.segment_id: DataImportance(1 + min(3, int(each.score * 4)))
            for each in await self._scored(tenant_id, segments, weights, now)
        }

    async def _scored(
        self,
        tenant_id: TenantId,
        segments: Sequence[Segment],
        weights: Mapping[str, Mapping[str, float]],
        now: datetime,
    ) -> list[Scored]:
        found = []
        for segment in segments:
            own = weights.get(segment.data_type) or self.default_weights()
            age = max(0.0, (now - segment.end_time) / timedelta(days=1))
            values = {"recency": 0.5 ** (age / 90), "rarity": 0.5, "quality": segment.quality_score, "use": 0.0}
            terms = tuple(
                Term(name=name, value=value, weight=own.get(name, 0.0), explanation="")
                for name, value in values.items()
            )
            score = sum(t.value * t.weight for t in terms) / (sum(t.weight for t in terms) or 1.0)
            found.append(Scored(segment=segment, score=score, terms=terms))
        return found
