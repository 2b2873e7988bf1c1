"""What segments are worth for a model: the terms of the classification, weighed as the model's performance says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from tallygate_server.domain.classification import (
    DEFAULT_WEIGHTS,
    USE_WINDOW,
    ScoreTerm,
    Statistics,
    importance_of,
    rarity_of,
    statistics_in,
    training_value,
    value_terms,
)
from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.lifecycle import DataImportance, DataSelection, Segment
from tallygate_server.domain.retention import RetentionPolicy
from tallygate_server.lifecycle.segments import SegmentStore
from tallygate_server.storage import value_rows as rows
from tallygate_server.storage.data_segments import read_segments

PEERS_MAX: Final = 64
"""Segments of a dataset that each of its segments is compared with; of more, an even choice in the order of time."""
READS_ASKED_MAX: Final = 1_000
"""Segments whose reads one statement asks for."""


class PolicyUse(Protocol):
    """Knows what becomes of data."""

    async def policy_for(self, tenant_id: TenantId, data_type: str) -> RetentionPolicy:
        """Return the policy that counts for a data type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A segment, and what it is worth."""

    segment: Segment
    score: float
    """0 to 1: the weighted mean of the terms."""
    terms: tuple[ScoreTerm, ...]
    importance: DataImportance

    @property
    def worth(self) -> float:
        """In records: what sums over segments are made of."""
        return self.score * self.segment.record_count


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the scores of segments are made from; the same for all weights."""

    statistics: Mapping[str, Statistics]
    """By segment, those of their peers among them."""
    peers: Mapping[str, Sequence[str]]
    """By dataset: the segments that others are compared with."""
    reads: Mapping[str, int]
    policies: Mapping[str, RetentionPolicy]
    """By data type."""


class Scorer:
    """Scores segments from their sealed statistics, their quality and their reads."""

    def __init__(self, segments: SegmentStore, policies: PolicyUse) -> None:
        """Use a segment store with the lifecycle's role."""
        self._store = segments
        self._policies = policies

    async def weights(self, tenant_id: TenantId, model_key: str) -> dict[str, Mapping[str, float]]:
        """Return a model's weights, by sort of data: those that its performance has changed."""
        async with self._store.database.tenant_snapshot(tenant_id) as connection:
            found = await rows.read_weights(connection, tenant_id, model_key)
        return {data_type: each.weights for data_type, each in found.items()}

    async def score(
        self, tenant_id: TenantId, segments: Sequence[Segment], *, model_key: str, now: datetime
    ) -> list[Scored]:
        """Return what segments are worth for a model, in their order. Raises what reading their facts raises."""
        weights = await self.weights(tenant_id, model_key)
        return scored(segments, await self.facts(tenant_id, segments, now=now), weights=weights, now=now)

    async def facts(self, tenant_id: TenantId, segments: Sequence[Segment], *, now: datetime) -> Facts:
        """Read what scores are made from."""
        peers: dict[str, list[Segment]] = {}
        reads: dict[str, int] = {}
        ids = [segment.segment_id for segment in segments]
        async with self._store.database.tenant_snapshot(tenant_id) as connection:
            for dataset_id in sorted({segment.dataset_id for segment in segments}):
                of_dataset = await read_segments(connection, tenant_id, DataSelection(dataset_ids=(dataset_id,)))
                peers[dataset_id] = _even(of_dataset)
            for start in range(0, len(ids), READS_ASKED_MAX):
                part = ids[start : start + READS_ASKED_MAX]
                reads |= await rows.read_counts(connection, tenant_id, part, since=(now - USE_WINDOW).date())
        wanted = {segment.segment_id: segment for segment in segments}
        wanted |= {segment.segment_id: segment for each in peers.values() for segment in each}
        statistics = {
            segment_id: statistics_in(await self._store.read_facts(segment)) for segment_id, segment in wanted.items()
        }
        policies = {
            data_type: await self._policies.policy_for(tenant_id, data_type)
            for data_type in sorted({segment.data_type for segment in segments})
        }
        return Facts(
            statistics=statistics,
            peers={dataset_id: [segment.segment_id for segment in each] for dataset_id, each in peers.items()},
            reads=reads,
            policies=policies,
        )


def scored(
    segments: Sequence[Segment], facts: Facts, *, weights: Mapping[str, Mapping[str, float]], now: datetime
) -> list[Scored]:
    """Return what segments are worth under weights by sort of data; others have those of models in general."""
    return [_scored(segment, facts, weights.get(segment.data_type, DEFAULT_WEIGHTS), now) for segment in segments]


def _scored(segment: Segment, facts: Facts, weights: Mapping[str, float], now: datetime) -> Scored:
    others = [facts.statistics[peer] for peer in facts.peers[segment.dataset_id] if peer != segment.segment_id]
    statistics = facts.statistics[segment.segment_id]
    terms = value_terms(
        age=now - segment.end_time,
        rarity=rarity_of(statistics, others),
        quality_score=segment.quality_score,
        read_count=facts.reads.get(segment.segment_id, 0),
        weights=weights,
    )
    value = training_value(terms)
    importance, _ = importance_of(facts.policies[segment.data_type], segment, statistics=statistics, value=value)
    return Scored(segment=segment, score=value, terms=terms, importance=importance)


def _even(segments: Sequence[Segment]) -> list[Segment]:
    if len(segments) <= PEERS_MAX:
        return list(segments)
    return [segments[len(segments) * place // PEERS_MAX] for place in range(PEERS_MAX)]
