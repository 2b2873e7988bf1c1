"""Between what data is worth, and what follows from it, and their wire messages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from tallygate.v1 import data_lifecycle_pb2 as lifecycle_wire
from tallygate.v1 import data_lifecycle_service_pb2 as wire
from tallygate.v1 import period_pb2
from tallygate_server.domain.classification import ScoreTerm
from tallygate_server.domain.lifecycle import StorageOptimization
from tallygate_server.errors import FieldViolation, PageTokenInvalid
from tallygate_server.lifecycle.value import (
    STEPS_LISTED_MAX,
    CriticalData,
    Measurement,
    PlanView,
    Sample,
    Samples,
    Scored,
    SeasonKind,
    TrainingSet,
    WantedOptimization,
    WeightsChange,
)
from tallygate_server.transport import convert
from tallygate_server.transport.lifecycle_rpcs.selection_convert import from_api_selection

_SEASONS: Final = convert.domain_enum(SeasonKind, wire.SeasonKind, "SEASON_KIND")
_ACTION: Final = convert.api_enum(StorageOptimization, lifecycle_wire.StorageOptimization, "STORAGE_OPTIMIZATION")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def position_text(scored: Scored) -> str:
    """Return where the page after a segment begins as text, for its token."""
    return f"{(scored.segment.start_time - _EPOCH) // _MICROSECOND}/{scored.segment.segment_id}"


def position_of(text: str) -> tuple[datetime, str] | None:
    """Return what `position_text` wrote; None for the first page."""
    if not text:
        return None
    micros, _, segment_id = text.partition("/")
    if not micros.lstrip("-").isdigit():
        raise PageTokenInvalid([FieldViolation("page_token", "was not made by this call")])
    return _EPOCH + int(micros) * _MICROSECOND, segment_id


def from_api_seasons(request: wire.SelectRepresentativeSamplesRequest) -> list[SeasonKind]:
    """Convert what samples are stratified by."""
    return [_SEASONS[kind] for kind in request.seasons]


def from_api_optimization(request: wire.OptimizeStorageRequest) -> WantedOptimization:
    """Convert what is to be done."""
    planning = request.WhichOneof("goal") == "target_reduction_ratio"
    return WantedOptimization(
        selection=from_api_selection(request.selection),
        target_reduction_ratio=request.target_reduction_ratio if planning else None,
        plan_id=request.plan_id,
        min_value_retained=request.min_value_retained,
    )


def from_api_measurement(request: wire.UpdatePrioritiesRequest) -> Measurement:
    """Convert how a model performed."""
    return Measurement(
        model_key=request.model_key,
        accuracy=request.accuracy,
        importance_by_type=dict(request.importance_by_type),
        measure_time=convert.from_api_optional_time(request, "measure_time"),
    )


def to_api_score(scored: Scored) -> wire.DataValueScore:
    """Convert what a segment is worth."""
    segment = scored.segment
    return wire.DataValueScore(
        segment_id=segment.segment_id,
        dataset_id=segment.dataset_id,
        span=_span(segment.start_time, segment.end_time),
        score=scored.score,
        terms=[to_api_term(term) for term in scored.terms],
    )


def to_api_term(term: ScoreTerm) -> lifecycle_wire.ScoreTerm:
    """Convert one term of a score."""
    return lifecycle_wire.ScoreTerm(name=term.name, value=term.value, weight=term.weight, explanation=term.explanation)


def to_api_critical(critical: CriticalData) -> wire.IdentifyCriticalDataResponse:
    """Convert the data that a model could not do without."""
    return wire.IdentifyCriticalDataResponse(
        segments=[to_api_score(each) for each in critical.segments],
        segment_count=critical.segment_count,
        record_count=critical.record_count,
        accuracy_full=critical.accuracy_full,
        accuracy_critical=critical.accuracy_critical,
        explanation=critical.explanation,
    )


def to_api_samples(samples: Samples) -> wire.SelectRepresentativeSamplesResponse:
    """Convert samples."""
    return wire.SelectRepresentativeSamplesResponse(
        samples=[_sample(each) for each in samples.samples],
        coverage=samples.coverage,
        sample_count_by_stratum=dict(samples.counts),
    )


def to_api_training_set(chosen: TrainingSet) -> wire.OptimizeTrainingDatasetResponse:
    """Convert a training set."""
    return wire.OptimizeTrainingDatasetResponse(
        spans=[
            wire.TrainingSpan(
                dataset_id=span.dataset_id,
                span=_span(span.start_time, span.end_time),
                stride=span.stride,
                weight=span.weight,
                explanation=span.explanation,
            )
            for span in chosen.spans
        ],
        record_count=chosen.record_count,
        excluded_record_count=chosen.excluded_record_count,
        unconsented_record_count=chosen.unconsented_record_count,
        coverage=chosen.coverage,
        value_retained=chosen.value_retained,
        accuracy_full=chosen.accuracy_full,
        accuracy_optimized=chosen.accuracy_optimized,
    )


def to_api_plan(view: PlanView) -> wire.PlanRetentionResponse:
    """Convert a plan."""
    return wire.PlanRetentionResponse(
        plan_id=view.plan.plan_id,
        steps=[
            lifecycle_wire.OptimizationStep(
                segment_id=step.segment_id,
                action=_ACTION[step.action],
                saved_bytes=step.saved_bytes,
                value_lost=step.value_lost,
                explanation=step.explanation,
            )
            for step in view.plan.steps[:STEPS_LISTED_MAX]
        ],
        present_bytes=view.present_bytes,
        planned_bytes=view.planned_bytes,
        value_retained=view.value_retained,
        feasible=view.feasible,
        expire_time=convert.to_api_instant(view.plan.expire_time),
    )


def to_api_weights(change: WeightsChange) -> wire.PriorityWeights:
    """Convert weights before and afterwards."""
    return wire.PriorityWeights(
        data_type=change.data_type, weights_before=dict(change.before), weights_after=dict(change.after)
    )


def _sample(sample: Sample) -> wire.SelectedSample:
    record = lifecycle_wire.Record(
        time=convert.to_api_instant(sample.time),
        values=convert.to_api_struct(dict(sample.values)),
        record_id=sample.record_id,
    )
    # Also for a record without a single value.
    record.values.SetInParent()
    return wire.SelectedSample(
        dataset_id=sample.dataset_id, record=record, stratum=sample.stratum, weight=sample.weight
    )


def _span(start_time: datetime, end_time: datetime) -> period_pb2.Period:
    return period_pb2.Period(start_time=convert.to_api_instant(start_time), end_time=convert.to_api_instant(end_time))
