"""Worth, critical data, samples, training sets and priorities, as callers ask for them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from tallygate_server.clock import Clock
from tallygate_server.domain.classification import DEFAULT_WEIGHTS
from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.lifecycle import DataSelection, Segment
from tallygate_server.errors import InvalidRequest
from tallygate_server.lifecycle.model_process import ModelJobRefused
from tallygate_server.lifecycle.segments import SegmentStore
from tallygate_server.lifecycle.value.gathering import Gatherer, Records, instant_of, records_in
from tallygate_server.lifecycle.value.priorities import adapted
from tallygate_server.lifecycle.value.scoring import Scored, Scorer
from tallygate_server.lifecycle.value.seasons import SEASONS_DEFAULT, SeasonKind
from tallygate_server.storage import value_rows as rows
from tallygate_server.storage.audit import add_audit_entry
from tallygate_server.storage.data_segments import read_segments
from tallygate_server.storage.value_rows import ModelWeights

ACCURACY_RATIO_DEFAULT: Final = 0.95
CRITICAL_LISTED_MAX: Final = 1_000
MEASURED_AHEAD_MAX: Final = timedelta(minutes=5)
"""By how much the clock of whoever measured may be ahead."""
SEGMENTS_COMPARED_MAX: Final = 20_000
"""Segments whose importance is compared before and after new weights."""


class ModelUse(Protocol):
    """Does heavy work in a process of its own."""

    async def run(self, job: str, parameters: Mapping[str, Any], tables: Sequence[Any] = ()) -> dict[str, Any]:
        """Do a job and return its result."""


class TenantUse(Protocol):
    """Knows tenants."""

    async def get(self, tenant_id: TenantId) -> Any:
        """Return the tenant. Raises TenantNotFound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticalData:
    """The data that a model could not do without."""

    segments: tuple[Scored, ...]
    """Most critical first, at most CRITICAL_LISTED_MAX."""
    segment_count: int
    record_count: int
    accuracy_full: float = 0.0
    accuracy_critical: float = 0.0
    explanation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A record that stands for others."""

    dataset_id: str
    time: datetime
    values: Mapping[str, Any]
    record_id: str
    stratum: str
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Records that represent all data."""

    samples: tuple[Sample, ...]
    coverage: float
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A part of a training set."""

    dataset_id: str
    start_time: datetime
    end_time: datetime
    stride: int
    weight: float
    explanation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """The training set of a given size that is worth most."""

    spans: tuple[Span, ...] = ()
    record_count: int = 0
    excluded_record_count: int
    unconsented_record_count: int
    coverage: float = 0.0
    value_retained: float = 0.0
    accuracy_full: float = 0.0
    accuracy_optimized: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """How a model performed."""

    model_key: str
    accuracy: float
    importance_by_type: Mapping[str, float]
    measure_time: datetime | None = None
    """None: now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsChange:
    """Weights of the value terms for one sort of data."""

    data_type: str
    before: Mapping[str, float]
    after: Mapping[str, float]


class DataValues:
    """Tells what data is worth for a model, and what follows from it."""

    def __init__(
        self,
        segments: SegmentStore,
        gatherer: Gatherer,
        scorer: Scorer,
        models: ModelUse,
        *,
        tenants: TenantUse,
        clock: Clock,
    ) -> None:
        """Use a segment store with the lifecycle's role."""
        self._database = segments.database
        self._gatherer = gatherer
        self._scorer = scorer
        self._models = models
        self._tenants = tenants
        self._clock = clock

    async def assess(
        self,
        tenant_id: TenantId,
        selection: DataSelection,
        *,
        model_key: str,
        after: tuple[datetime, str] | None = None,
        limit: int,
    ) -> list[Scored]:
        """Return what segments are worth for a model, by span, those after one.

        Data of accounts that have not consented is left out where there is other data. Raises TenantNotFound,
        ConsentRequired.
        """
        await self._tenants.get(tenant_id)
        now = self._clock.now()
        chosen = await self._gatherer.choose(tenant_id, selection, now)
        page: list[Segment] = []
        while len(page) < limit:
            async with self._database.tenant_snapshot(tenant_id) as connection:
                found = await read_segments(connection, tenant_id, selection, after=after, limit=limit)
            page += [segment for segment in found if chosen.allows(segment)]
            if len(found) < limit:
                break
            after = (found[-1].start_time, found[-1].segment_id)
        return await self._scorer.score(tenant_id, page[:limit], model_key=model_key)

    async def identify_critical(
        self,
        tenant_id: TenantId,
        selection: DataSelection,
        *,
        model_key: str,
        target_column: str,
        min_accuracy_ratio: float,
        seed: int,
    ) -> CriticalData:
        """Find the fewest segments that keep a share of a model's accuracy; without a target, of the worth.

        Raises TenantNotFound, ConsentRequired, InvalidRequest.
        """
        await self._tenants.get(tenant_id)
        ratio = min_accuracy_ratio or ACCURACY_RATIO_DEFAULT
        gathered = await self._gatherer.gather(
            tenant_id, selection, self._clock.now(), with_records=bool(target_column)
        )
        records = gathered.records
        known = await self._scorer.score(tenant_id, gathered.segments, model_key=model_key)
        if records is None:
            return _critical_by_worth(known, ratio)
        worths = {each.segment.segment_id: each.worth for each in known}
        told = await self._run(
            "identify_critical",
            {
                "target": target_column,
                "min_accuracy_ratio": ratio,
                "worths": [worths[segment.segment_id] for segment in records.segments],
                "seed": seed,
            },
            records,
        )
        if not told["learned"]:
            by_worth = _critical_by_worth(known, ratio)
            return CriticalData(
                segments=by_worth.segments,
                segment_count=by_worth.segment_count,
                record_count=by_worth.record_count,
                explanation=f"no small model learns {target_column} from this data; {by_worth.explanation}",
            )
        by_id = {each.segment.segment_id: each for each in known}
        critical = [by_id[records.segments[place].segment_id] for place in told["segments"]]
        metric = "R squared" if told["metric"] == "r2" else "share of right answers"
        return CriticalData(
            segments=tuple(critical[:CRITICAL_LISTED_MAX]),
            segment_count=len(critical),
            record_count=sum(each.segment.record_count for each in critical),
            accuracy_full=told["accuracy_full"],
            accuracy_critical=told["accuracy_critical"],
            explanation=(
                f"{len(critical)} of {len(records.segments)} segments keep at least {ratio:.0%} of the {metric} with"
                f" which a {told['model'].replace('_', ' ')} model predicts {target_column} on the last 30 % of every"
                f" segment, which it was not trained on: {told['accuracy_critical']:.3f} of"
                f" {told['accuracy_full']:.3f}; {told['method']}"
            ),
        )

    async def select_samples(
        self,
        tenant_id: TenantId,
        selection: DataSelection,
        *,
        sample_count: int,
        seasons: Sequence[SeasonKind],
        seed: int,
    ) -> Samples:
        """Select records that represent all, stratified by season. Raises as `identify_critical`."""
        await self._tenants.get(tenant_id)
        records = (await self._gatherer.gather(tenant_id, selection, self._clock.now())).records
        if records is None:
            return Samples(samples=(), coverage=0.0, counts={})
        told = await self._run(
            "select_samples",
            {"sample_count": sample_count, "seasons": [int(kind) for kind in seasons or SEASONS_DEFAULT], "seed": seed},
            records,
        )
        originals = await asyncio.to_thread(records.rows, told["rows"])
        datasets = records.table.column("dataset").to_numpy()
        return Samples(
            samples=tuple(
                Sample(dataset_id=records.dataset_ids[datasets[row]], stratum=stratum, weight=weight, **original)
                for row, stratum, weight, original in zip(
                    told["rows"], told["strata"], told["weights"], originals, strict=True
                )
            ),
            coverage=told["coverage"],
            counts=told["counts"],
        )

    async def optimize_training_set(
        self,
        tenant_id: TenantId,
        selection: DataSelection,
        *,
        model_key: str,
        target_record_count: int,
        target_column: str,
        seed: int,
    ) -> TrainingSet:
        """Choose the training set of a size that covers most and is worth most. Raises as `identify_critical`."""
        await self._tenants.get(tenant_id)
        gathered = await self._gatherer.gather(tenant_id, selection, self._clock.now())
        segments, records = gathered.segments, gathered.records
        unconsented_count = sum(records_in(segment, selection) for segment in gathered.unconsented)
        if records is None:
            return TrainingSet(
                excluded_record_count=sum(records_in(segment, selection) for segment in segments),
                unconsented_record_count=unconsented_count,
            )
        read = {segment.segment_id for segment in records.segments}
        unread = sum(records_in(segment, selection) for segment in segments if segment.segment_id not in read)
        known = await self._scorer.score(tenant_id, records.segments, model_key=model_key)
        told = await self._run(
            "choose_training_set",
            {
                "target_record_count": target_record_count,
                "target": target_column,
                "scores": [each.score for each in known],
                "seed": seed,
            },
            records,
        )
        return TrainingSet(
            spans=tuple(
                Span(
                    dataset_id=records.dataset_ids[span["dataset"]],
                    start_time=instant_of(span["start"]),
                    end_time=instant_of(span["end"]),
                    stride=span["stride"],
                    weight=span["weight"],
                    explanation=_span_text(span),
                )
                for span in told["spans"]
            ),
            record_count=told["record_count"],
            excluded_record_count=records.record_count + unread - told["record_count"],
            unconsented_record_count=unconsented_count,
            coverage=told["coverage"],
            value_retained=told["value_retained"],
            accuracy_full=told["accuracy_full"],
            accuracy_optimized=told["accuracy_chosen"],
        )

    async def update_priorities(
        self, tenant_id: TenantId, measured: Measurement, *, validate_only: bool, actor: str
    ) -> tuple[list[WeightsChange], int]:
        """Adapt a model's weights to how it performed; return them, and how many segments' importance changes.

        A measurement that is not newer than the one that the weights follow changes nothing. Raises TenantNotFound.
        """
        await self._tenants.get(tenant_id)
        now = self._clock.now()
        measure_time = measured.measure_time or now
        if measure_time > now + MEASURED_AHEAD_MAX:
            raise InvalidRequest.of("measure_time", "must not be in the future")
        changes: list[WeightsChange] = []
        async with self._database.tenant_transaction(tenant_id) as connection:
            present = await rows.read_weights(connection, tenant_id, measured.model_key, lock=True)
            for data_type, importance in sorted(measured.importance_by_type.items()):
                known = present.get(data_type)
                before = dict(known.weights) if known is not None else dict(DEFAULT_WEIGHTS)
                newer = known is None or measured.measure_time is None or known.measure_time < measure_time
                after = adapted(before, importance=importance, accuracy=measured.accuracy) if newer else before
                changes.append(WeightsChange(data_type=data_type, before=before, after=after))
                if newer and not validate_only:
                    weights = ModelWeights(
                        data_type=data_type, weights=after, accuracy=measured.accuracy, measure_time=measure_time
                    )
                    await rows.write_weights(connection, tenant_id, measured.model_key, weights, actor=actor, now=now)
            if not validate_only:
                await add_audit_entry(
                    connection,
                    tenant_id,
                    actor=actor,
                    action="data.priorities_updated",
                    subject=f"model/{measured.model_key}",
                    detail={
                        "accuracy": measured.accuracy,
                        "weights": {each.data_type: dict(each.after) for each in changes},
                    },
                )
        return changes, await self._changed(tenant_id, changes)

    async def _changed(self, tenant_id: TenantId, changes: Sequence[WeightsChange]) -> int:
        """Count segments whose importance is another one under the new weights."""
        moved = [each for each in changes if each.before != each.after]
        if not moved:
            return 0
        selection = DataSelection(data_types=tuple(each.data_type for each in moved))
        async with self._database.tenant_snapshot(tenant_id) as connection:
            segments = await read_segments(connection, tenant_id, selection, limit=SEGMENTS_COMPARED_MAX)
        before, after = [
            await self._scorer.score(tenant_id, segments, model_key="", weights=weights)
            for weights in (
                {each.data_type: each.before for each in moved},
                {each.data_type: each.after for each in moved},
            )
        ]
        return sum(old.importance != new.importance for old, new in zip(before, after, strict=True))

    async def _run(self, job: str, parameters: Mapping[str, Any], records: Records) -> dict[str, Any]:
        try:
            return await self._models.run(job, parameters, [records.table])
        except ModelJobRefused as error:
            raise InvalidRequest.of(error.field, error.description) from error


def _critical_by_worth(scored: Sequence[Scored], ratio: float) -> CriticalData:
    """Take the segments with the most worth until they have the wanted share: no smaller set has it."""
    ordered = sorted(scored, key=lambda each: (-each.worth, each.segment.segment_id))
    total = sum(each.worth for each in ordered)
    kept: list[Scored] = []
    found = 0.0
    for each in ordered:
        if found >= ratio * total:
            break
        kept.append(each)
        found += each.worth
    share = found / total if total else 1.0
    return CriticalData(
        segments=tuple(kept[:CRITICAL_LISTED_MAX]),
        segment_count=len(kept),
        record_count=sum(each.segment.record_count for each in kept),
        explanation=(
            f"{len(kept)} of {len(ordered)} segments have {share:.1%} of the worth (score times records); no fewer have"
            f" {ratio:.0%}; no accuracy was measured"
        ),
    )


def _span_text(span: Mapping[str, Any]) -> str:
    every = "every record" if span["stride"] == 1 else f"one record in {span['stride']}"
    return (
        f"{every}, {span['records']:,} in all: worth {span['score']:.2f}, and uncommon by {span['novelty']:.2f};"
        " the more of both, the more is taken"
    )
