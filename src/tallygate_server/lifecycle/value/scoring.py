"""What segments are worth for a model: the classification's terms, weighed as the model's performance says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tallygate_server.clock import Clock
from tallygate_server.domain.classification import DEFAULT_WEIGHTS, ScoreTerm
from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.lifecycle import DataImportance, Segment
from tallygate_server.domain.retention_rules import Protections
from tallygate_server.lifecycle.classification import SEGMENTS_PER_PAGE_MAX, Classifier, Comparison
from tallygate_server.lifecycle.compression import Worth
from tallygate_server.lifecycle.policies import Policies
from tallygate_server.lifecycle.segments import SegmentStore
from tallygate_server.storage import value_rows as rows
from tallygate_server.storage.engine import Database
from tallygate_server.tenants import TenantDirectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A segment, and what it is worth."""

    segment: Segment
    score: float
    """0 to 1: the weighted mean of the terms."""
    terms: tuple[ScoreTerm, ...]
    importance: DataImportance
    compression_eligible: bool
    """Whether the policy lets it be compressed with loss."""

    @property
    def worth(self) -> float:
        """In records: what sums over segments are made of."""
        return self.score * self.segment.record_count


class ModelWeights:
    """Knows the weights of models: those that their performance has changed, else those for models in general."""

    def __init__(self, database: Database) -> None:
        """Use a database with the lifecycle's role."""
        self._database = database

    async def of(self, tenant_id: TenantId, model_key: str, data_type: str) -> Mapping[str, float]:
        """Return the weights of the value terms for a tenant, a model and a data type."""
        if not model_key:
            return DEFAULT_WEIGHTS
        async with self._database.tenant_transaction(tenant_id) as connection:
            found = (await rows.read_weights(connection, tenant_id, model_key)).get(data_type)
        return found.weights if found is not None else DEFAULT_WEIGHTS


class Scorer:
    """Scores any number of segments."""

    def __init__(
        self, segments: SegmentStore, policies: Policies, tenants: TenantDirectory, clock: Clock, weights: ModelWeights
    ) -> None:
        """Use a segment store with the lifecycle's role."""
        self._store = segments
        self._policies = policies
        self._tenants = tenants
        self._clock = clock
        self._weights = weights

    async def score(
        self,
        tenant_id: TenantId,
        segments: Sequence[Segment],
        *,
        model_key: str,
        weights: Mapping[str, Mapping[str, float]] | None = None,
        protections: Protections | None = None,
    ) -> list[Scored]:
        """Return what segments are worth for a model, in their order.

        `weights`, by data type, are used in place of the model's. Raises StoreUnavailable.
        """

        async def given(_tenant_id: TenantId, _model_key: str, data_type: str) -> Mapping[str, float]:
            return (weights or {}).get(data_type, DEFAULT_WEIGHTS)

        classifier = Classifier(
            self._store,
            self._policies,
            self._tenants,
            self._clock,
            weights=self._weights.of if weights is None else given,
        )
        if protections is None:
            protections = await self._policies.protections(tenant_id, {segment.account_id for segment in segments})
        comparison = Comparison()
        found: list[Scored] = []
        for start in range(0, len(segments), SEGMENTS_PER_PAGE_MAX):
            found += [
                Scored(
                    segment=each.segment,
                    score=each.training_value,
                    terms=each.terms,
                    importance=each.importance,
                    compression_eligible=each.compression_eligible,
                )
                for each in await classifier.classify(
                    tenant_id,
                    segments[start : start + SEGMENTS_PER_PAGE_MAX],
                    protections=protections,
                    model_key=model_key,
                    comparison=comparison,
                )
            ]
        return found

    async def worths(self, segments: Sequence[Segment]) -> Mapping[str, Worth]:
        """Return what segments of one tenant are worth to models in general, as far as that protects them."""
        if not segments:
            return {}
        found = await self.score(segments[0].tenant_id, segments, model_key="")
        return {each.segment.segment_id: Worth(importance=each.importance, training_value=each.score) for each in found}
