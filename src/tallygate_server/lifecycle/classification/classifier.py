"""Classifies segments: by what their sealed facts say, the policies in force, and how often they were read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from typing import Final

import structlog

from tallygate_server.clock import Clock
from tallygate_server.domain.classification import (
    DEFAULT_WEIGHTS,
    USE_WINDOW,
    Classification,
    ColumnSpread,
    Statistics,
    classify,
    rarity_of,
    spreads_of,
    statistics_in,
    value_terms,
)
from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.lifecycle import DataSelection, Dataset, Segment
from tallygate_server.domain.retention_rules import Protections
from tallygate_server.errors import ArchiveCorruption, IntegrityViolation, SegmentGone
from tallygate_server.lifecycle.policies import Policies
from tallygate_server.lifecycle.segments import SegmentStore
from tallygate_server.storage.data_segments import read_segments
from tallygate_server.storage.datasets import read_datasets
from tallygate_server.storage.segment_use import SegmentUse, read_use, sample_segments
from tallygate_server.tenants import TenantDirectory

log = structlog.get_logger(__name__)

SEGMENTS_PER_PAGE_MAX: Final = 1_000
COMPARED_SEGMENTS_MAX: Final = 200
"""Segments of its data type that each one is compared with."""
OPENED_AT_ONCE: Final = 50
"""Seals that are opened before others get their turn: about a millisecond."""

Weights = Callable[[TenantId, str, str], Awaitable[Mapping[str, float]]]
"""Weights of the value terms for a tenant, a model and a data type."""


async def default_weights(_tenant_id: TenantId, _model_key: str, _data_type: str) -> Mapping[str, float]:
    """Return the weights for models in general."""
    return DEFAULT_WEIGHTS


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassificationPage:
    """Some classifications, and where the next page begins."""

    classifications: tuple[Classification, ...]
    position: tuple[datetime, str] | None
    """None on the last page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Segments of one data type that others are compared with."""

    segment_ids: frozenset[str]
    spreads: Mapping[str, ColumnSpread]


@dataclass(slots=True)
class Comparison:
    """What segments are compared with, read once for a data type and kept for a run."""

    by_type: dict[str, Sample] = field(default_factory=dict)


class Classifier:
    """Tells what data is worth and what should become of it; changes nothing."""

    def __init__(
        self,
        store: SegmentStore,
        policies: Policies,
        tenants: TenantDirectory,
        clock: Clock,
        *,
        weights: Weights = default_weights,
    ) -> None:
        """Read segments of this store; `weights` are those of models."""
        self._store = store
        self._policies = policies
        self._tenants = tenants
        self._clock = clock
        self.weights = weights

    async def page(
        self,
        tenant_id: TenantId,
        selection: DataSelection,
        *,
        model_key: str = "",
        after: tuple[datetime, str] | None = None,
        limit: int,
    ) -> ClassificationPage:
        """Return classifications by span, those after a position. Raises TenantNotFound, StoreUnavailable."""
        await self._tenants.get(tenant_id)
        async with self._store.database.tenant_transaction(tenant_id) as connection:
            segments = await read_segments(connection, tenant_id, selection, after=after, limit=limit + 1)
        more = len(segments) > limit
        segments = segments[:limit]
        found = await self.classify(tenant_id, segments, model_key=model_key)
        position = (segments[-1].start_time, segments[-1].segment_id) if more else None
        return ClassificationPage(classifications=tuple(found), position=position)

    async def classify(
        self,
        tenant_id: TenantId,
        segments: Sequence[Segment],
        *,
        protections: Protections | None = None,
        model_key: str = "",
        comparison: Comparison | None = None,
    ) -> list[Classification]:
        """Classify at most 1,000 segments of a tenant, in their order.

        With `comparison` what they are compared with is read once for several calls. Raises StoreUnavailable.
        """
        assert len(segments) <= SEGMENTS_PER_PAGE_MAX, "a page at a time"
        if not segments:
            return []
        now = self._clock.now()
        if protections is None:
            protections = await self._policies.protections(tenant_id, {segment.account_id for segment in segments})
        comparison = comparison or Comparison()
        ids = [segment.segment_id for segment in segments]
        async with self._store.database.tenant_transaction(tenant_id) as connection:
            use = await read_use(connection, tenant_id, ids, since=(now - USE_WINDOW).date())
            datasets = await read_datasets(connection, tenant_id, [segment.dataset_id for segment in segments])
        weights = {}
        for data_type in sorted({segment.data_type for segment in segments}):
            weights[data_type] = await self.weights(tenant_id, model_key, data_type)
            if data_type not in comparison.by_type:
                comparison.by_type[data_type] = await self._compared(tenant_id, data_type)
        statistics = await self._statistics(segments)
        known = protections

        def work() -> list[Classification]:
            return [
                _classified(
                    segment,
                    known,
                    statistics=statistics[segment.segment_id],
                    dataset=datasets.get(segment.dataset_id),
                    others=comparison.by_type[segment.data_type],
                    use=use.get(segment.segment_id),
                    weights=weights[segment.data_type],
                    now=now,
                )
                for segment in segments
            ]

        return await asyncio.to_thread(work)

    async def _compared(self, tenant_id: TenantId, data_type: str) -> Sample:
        async with self._store.database.tenant_transaction(tenant_id) as connection:
            segments = await sample_segments(connection, tenant_id, data_type, limit=COMPARED_SEGMENTS_MAX)
        known = {
            segment_id: statistics
            for segment_id, statistics in (await self._statistics(segments)).items()
            if statistics is not None
        }
        return Sample(segment_ids=frozenset(known), spreads=spreads_of(known.values()))

    async def _statistics(self, segments: Sequence[Segment]) -> dict[str, Statistics | None]:
        """Return the statistics of segments; None where they cannot be read: what follows then is careful."""
        found: dict[str, Statistics | None] = {}
        for number, segment in enumerate(segments):
            if number % OPENED_AT_ONCE == 0:
                # Opening seals is work: others get their turn in between.
                await asyncio.sleep(0)
            try:
                found[segment.segment_id] = statistics_in(await self._store.read_facts(segment))
            except SegmentGone:
                found[segment.segment_id] = None
            except (IntegrityViolation, ArchiveCorruption) as error:
                log.warning("facts_not_read", segment_id=segment.segment_id, error=str(error))
                found[segment.segment_id] = None
        return found


def _classified(
    segment: Segment,
    protections: Protections,
    *,
    statistics: Statistics | None,
    dataset: Dataset | None,
    others: Sample,
    use: SegmentUse | None,
    weights: Mapping[str, float],
    now: datetime,
) -> Classification:
    rarity = rarity_of(statistics or {}, others.spreads, included=segment.segment_id in others.segment_ids)
    read_count = use.read_count if use is not None else 0
    return classify(
        segment,
        protections,
        statistics=statistics,
        columns=[column.name for column in dataset.columns] if dataset is not None else (),
        terms=value_terms(
            age=now - segment.end_time,
            rarity=rarity,
            quality_score=segment.quality_score,
            read_count=read_count,
            weights=weights,
        ),
        access_time=datetime.combine(use.last_day, time(), UTC) if use is not None else None,
        access_count=read_count,
        now=now,
    )
