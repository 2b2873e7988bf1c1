"""Worth, consent, samples, training sets, plans and priorities over real stores, as callers see them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from grpc import aio
from sqlalchemy import func, select

from tallygate.v1 import data_lifecycle_pb2 as data
from tallygate.v1 import data_lifecycle_service_pb2 as wire
from tallygate_server.domain.classification import DEFAULT_WEIGHTS
from tallygate_server.domain.lifecycle import (
    CompressionForm,
    DataImportance,
    DataSelection,
    Segment,
    StorageTier,
)
from tallygate_server.domain.retention import ImportanceRule, RetentionException, RetentionPolicy
from tallygate_server.errors import StoreUnavailable
from tallygate_server.lifecycle.jobs import LifecycleJob
from tallygate_server.lifecycle.policies import NewLegalHold
from tallygate_server.lifecycle.segments import SegmentStore
from tallygate_server.lifecycle.value import plans
from tallygate_server.lifecycle.value.plan_steps import PlanSteps
from tallygate_server.privacy.consents import NewConsent
from tallygate_server.storage.datasets import read_dataset_by_id
from tallygate_server.storage.tables import data_plan_steps
from tallygate_server.storage.value_rows import Plan, PlanStep
from tallygate_server.transport.convert import to_api_instant
from tests.support.acme import ACME, ANN, BOB
from tests.support.clock import FrozenClock
from tests.support.data_value import DAY, MODEL, ModelsHere, a_ride, asked, done, manifest, put_days
from tests.support.lifecycle import NOON
from tests.support.lifecycle_server import ServedLifecycle, serving_lifecycle
from tests.support.transport_servers import refusal_of

STEPS_NEED = ("store", "scorer", "policies", "remover", "clock")


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(NOON + 10 * DAY)


@pytest.fixture
async def served(
    database_without_tenants: str, fresh_redis: str, tmp_path: Path, clock: FrozenClock
) -> AsyncIterator[ServedLifecycle]:
    async with serving_lifecycle("native", database_without_tenants, fresh_redis, tmp_path, clock=clock) as served:
        served.lifecycle.values._models = ModelsHere()
        yield served


async def test_a_process_of_its_own_answers_as_a_thread_does(served: ServedLifecycle) -> None:
    await put_days(served, [0])
    request = wire.SelectRepresentativeSamplesRequest(**asked(sample_count=7, seed=3))

    here = await served.stub.SelectRepresentativeSamples(request)
    served.lifecycle.values._models = served.lifecycle.models
    there = await served.stub.SelectRepresentativeSamples(request)

    assert here == there


async def test_critical_data_samples_and_training_sets_are_of_the_records(served: ServedLifecycle) -> None:
    dataset = await put_days(served, range(3), offsets=[0, 0, 40])
    rides_put = [a_ride(day, offset=offset) for day, offset in enumerate([0, 0, 40])]
    every = {record["time"]: record for table in rides_put for record in table.to_pylist()}

    critical = await served.stub.IdentifyCriticalData(
        wire.IdentifyCriticalDataRequest(**asked(model_key=MODEL, target_column="speed"))
    )
    samples = await served.stub.SelectRepresentativeSamples(
        wire.SelectRepresentativeSamplesRequest(**asked(sample_count=20, seed=1))
    )
    chosen = await served.stub.OptimizeTrainingDataset(
        wire.OptimizeTrainingDatasetRequest(
            **asked(model_key=MODEL, target_record_count=100, target_column="speed", seed=1)
        )
    )

    assert 0 < critical.segment_count <= 3
    assert critical.accuracy_critical >= 0.95 * critical.accuracy_full > 0
    assert "speed" in critical.explanation
    assert len(samples.samples) == 20
    assert sum(sample.weight for sample in samples.samples) == pytest.approx(1.0)
    for sample in samples.samples:
        record = every[sample.record.time.ToDatetime(UTC)]
        assert dict(sample.record.values) == {"heart_rate": record["heart_rate"], "speed": record["speed"]}
        assert (sample.dataset_id, sample.stratum) == (dataset.dataset_id, f"{record['time']:%A/%H}".lower())
    assert sum(samples.sample_count_by_stratum.values()) == 20
    assert (chosen.record_count, chosen.excluded_record_count) == (100, 260)
    spans = [
        (span.span.start_time.ToDatetime(UTC), span.span.end_time.ToDatetime(UTC), span.stride) for span in chosen.spans
    ]
    assert sum(len([time for time in every if start <= time < end][::stride]) for start, end, stride in spans) == 100
    assert 0 < chosen.value_retained < 1
    assert chosen.accuracy_optimized > 0


async def test_worth_is_the_weighted_mean_of_its_terms_and_that_of_the_classification(served: ServedLifecycle) -> None:
    await put_days(served, [0, 5, 9], quality=[0.5, 1.0, 1.0], offsets=[0, 0, 60])

    request = wire.AssessDataValueRequest(**asked(model_key=MODEL, page_size=2))
    first = await served.stub.AssessDataValue(request)
    request.page_token = first.next_page_token
    second = await served.stub.AssessDataValue(request)
    classified = await served.stub.ClassifyData(wire.ClassifyDataRequest(**asked()))

    scores = [*first.scores, *second.scores]
    assert (len(first.scores), len(second.scores), second.next_page_token) == (2, 1, "")
    for score in scores:
        terms = {term.name: term for term in score.terms}
        assert set(terms) == {"recency", "rarity", "quality", "use"}
        assert all(term.explanation for term in score.terms)
        weight = sum(term.weight for term in score.terms)
        assert score.score == pytest.approx(sum(term.value * term.weight for term in score.terms) / weight)
    assert [score.score for score in scores] == [each.training_value for each in classified.classifications]
    by_term = [{term.name: term.value for term in score.terms} for score in scores]
    assert by_term[0]["recency"] < by_term[1]["recency"] < by_term[2]["recency"]
    assert by_term[0]["quality"] == 0.5
    assert by_term[2]["rarity"] > max(by_term[0]["rarity"], by_term[1]["rarity"])


async def test_without_a_target_the_fewest_segments_with_the_worth_are_critical(served: ServedLifecycle) -> None:
    await put_days(served, range(5), quality=[0.1, 1.0, 0.3, 1.0, 0.6])
    scores = (await served.stub.AssessDataValue(wire.AssessDataValueRequest(**asked(model_key=MODEL)))).scores

    critical = await served.stub.IdentifyCriticalData(
        wire.IdentifyCriticalDataRequest(**asked(model_key=MODEL, min_accuracy_ratio=0.6))
    )

    worths = sorted((score.score for score in scores), reverse=True)
    fewest = next(count for count in range(6) if sum(worths[:count]) >= 0.6 * sum(worths))
    assert critical.segment_count == fewest
    assert [segment.score for segment in critical.segments] == worths[:fewest]
    assert (critical.accuracy_full, critical.record_count) == (0.0, 120 * fewest)


async def test_training_without_consent_is_refused(served: ServedLifecycle) -> None:
    await put_days(served, [0], count=60)
    await put_days(served, [0, 1], account_id=BOB, count=60)
    policy = RetentionPolicy(tenant_id=ACME, data_type="ride", training_purpose="ai_training")
    await served.lifecycle.policies.set(policy, actor="test")
    calls: dict[str, Any] = {
        "AssessDataValue": wire.AssessDataValueRequest(**asked(model_key=MODEL)),
        "IdentifyCriticalData": wire.IdentifyCriticalDataRequest(**asked(model_key=MODEL)),
        "SelectRepresentativeSamples": wire.SelectRepresentativeSamplesRequest(**asked(sample_count=5)),
        "OptimizeTrainingDataset": wire.OptimizeTrainingDatasetRequest(**asked(model_key=MODEL, target_record_count=5)),
    }

    for name, request in calls.items():
        for account_id in (ANN, ""):
            request.selection.account_id = account_id
            with pytest.raises(aio.AioRpcError) as caught:
                await getattr(served.stub, name)(request)
            assert refusal_of(caught.value).reason == "CONSENT_REQUIRED", name

    consent = NewConsent(purpose="ai_training", granted=True)
    await served.lifecycle.consents.record(ACME, BOB, consent, actor="test")
    scores = (await served.stub.AssessDataValue(calls["AssessDataValue"])).scores
    chosen = await served.stub.OptimizeTrainingDataset(calls["OptimizeTrainingDataset"])

    assert {score.dataset_id for score in scores} == {f"ds_{BOB}_ride"}
    assert {span.dataset_id for span in chosen.spans} == {f"ds_{BOB}_ride"}
    assert (chosen.record_count, chosen.excluded_record_count, chosen.unconsented_record_count) == (5, 115, 60)


async def planned(served: ServedLifecycle, limit: int, **more: Any) -> wire.PlanRetentionResponse:
    request = wire.PlanRetentionRequest(tenant_id=ACME, storage_limit_bytes=limit, **more)
    answer: wire.PlanRetentionResponse = await served.stub.PlanRetention(request)
    return answer


async def carried_out(served: ServedLifecycle, plan_id: str, *, state: int = 0, **more: Any) -> Any:
    request = wire.OptimizeStorageRequest(tenant_id=ACME, plan_id=plan_id, **more)
    return await done(served, await served.stub.OptimizeStorage(request), state or data.LIFECYCLE_JOB_STATE_SUCCEEDED)


async def test_a_plan_is_carried_out_and_keeps_its_promises(served: ServedLifecycle) -> None:
    await put_days(served, range(6), quality=[0.1, 1, 1, 1, 1, 1])
    before = await manifest(served)
    present = sum(segment.stored_bytes for segment in before)
    limit = present // 8

    plan = await planned(served, limit)
    trial = await carried_out(served, plan.plan_id, validate_only=True)
    untouched = await manifest(served)
    job = await carried_out(served, plan.plan_id, actor="ops")

    after = await manifest(served)
    assert (plan.present_bytes, plan.feasible, plan.planned_bytes <= limit) == (present, True, True)
    assert plan.present_bytes - plan.planned_bytes == sum(step.saved_bytes for step in plan.steps)
    assert untouched == before
    assert (trial.optimization.optimized_bytes, trial.optimization.target_reached) == (plan.planned_bytes, True)
    assert not any(step.done for step in trial.optimization.steps)
    report = job.optimization
    assert job.progress.done_count == job.progress.total_count == len(plan.steps)
    assert report.target_reached
    assert sum(segment.stored_bytes for segment in after) == report.optimized_bytes <= limit
    assert all(step.done for step in report.steps)
    assert {step.segment_id for step in report.steps} == {step.segment_id for step in plan.steps}
    assert report.reduction_ratio == pytest.approx(1 - report.optimized_bytes / present)
    assert 0 <= report.value_retained <= 1

    again = await carried_out(served, plan.plan_id, state=data.LIFECYCLE_JOB_STATE_FAILED, request_id="again")
    with pytest.raises(aio.AioRpcError) as caught:
        await carried_out(served, plan.plan_id)
    assert again.error.message == refusal_of(caught.value).message
    assert refusal_of(caught.value).reason == "PLAN_OUTDATED"


async def test_a_lossless_plan_loses_nothing_and_a_target_is_planned_by_a_job(served: ServedLifecycle) -> None:
    await put_days(served, range(2), count=2_000)
    before = [await served.lifecycle.segments.read(segment) for segment in await manifest(served)]

    job = await done(
        served,
        await served.stub.OptimizeStorage(
            wire.OptimizeStorageRequest(**asked(target_reduction_ratio=0.2, min_value_retained=1.0))
        ),
    )
    plan = job.optimization
    report = (await carried_out(served, plan.plan_id, min_value_retained=1.0)).optimization

    assert (plan.target_reached, plan.value_retained, plan.reduction_ratio >= 0.2) == (True, 1.0, True)
    assert {step.action for step in plan.steps} == {data.STORAGE_OPTIMIZATION_COMPRESS}
    assert (report.target_reached, report.value_retained) == (True, 1.0)
    segments = await manifest(served)
    assert CompressionForm.LOSSLESS in {segment.form for segment in segments}
    after = [await served.lifecycle.segments.read(segment) for segment in segments]
    assert all(new.equals(old) for new, old in zip(after, before, strict=True))


async def test_what_is_held_excepted_or_critical_is_in_no_plan(served: ServedLifecycle, clock: FrozenClock) -> None:
    """Even a limit of nothing moves only what nobody protects."""
    await put_days(served, range(5), offsets=[0, 0, 0, 0, 100])
    hold = NewLegalHold(
        selection=DataSelection(account_id=ANN, start_time=NOON, end_time=NOON + DAY), reason_text="a trial"
    )
    await served.lifecycle.holds.create(ACME, hold, actor="test")
    exception = RetentionException(
        account_id=ANN, start_time=NOON + DAY, end_time=NOON + 2 * DAY, retention_days=-1, reason_text="a promise"
    )
    rule = ImportanceRule(name="sprints", column="heart_rate", min_value=200.0, importance=DataImportance.CRITICAL)
    policy = RetentionPolicy(
        tenant_id=ACME,
        data_type="ride",
        standard_retention_days=5,
        exceptions=(exception,),
        importance_rules=(rule,),
    )
    await served.lifecycle.policies.set(policy, actor="test")
    segments = await manifest(served)

    plan = await planned(served, 0)
    job = await carried_out(served, plan.plan_id)

    touched = {step.segment_id for step in plan.steps}
    assert touched == {segments[2].segment_id, segments[3].segment_id}
    assert not plan.feasible
    assert not job.optimization.target_reached
    left = {segment.segment_id for segment in await manifest(served)}
    assert left >= {segments[place].segment_id for place in (0, 1, 4)}


async def test_what_came_to_be_protected_since_is_left_alone_and_told(served: ServedLifecycle) -> None:
    await put_days(served, range(4))
    plan = await planned(served, 0)
    hold = NewLegalHold(
        selection=DataSelection(account_id=ANN, start_time=NOON, end_time=NOON + DAY), reason_text="a trial"
    )
    await served.lifecycle.holds.create(ACME, hold, actor="test")
    [held, *_] = await manifest(served)

    report = (await carried_out(served, plan.plan_id)).optimization

    assert [segment.segment_id for segment in await manifest(served)] == [held.segment_id]
    kept = [step for step in report.steps if not step.done]
    assert [step.segment_id for step in kept] == [held.segment_id]
    assert "a trial" in kept[0].explanation
    assert not report.target_reached


async def test_a_plan_for_data_that_has_changed_is_outdated(served: ServedLifecycle, clock: FrozenClock) -> None:
    await put_days(served, range(4))
    plan, second = await planned(served, 0), await planned(served, 0)
    [first, *_] = await manifest(served)
    await served.lifecycle.segments.replace([first], [], actor="test", action="data.removed")

    job = await carried_out(served, plan.plan_id, state=data.LIFECYCLE_JOB_STATE_FAILED)
    clock.advance(timedelta(hours=24))
    with pytest.raises(aio.AioRpcError) as expired:
        await carried_out(served, second.plan_id)
    with pytest.raises(aio.AioRpcError) as unknown:
        await carried_out(served, "plan_unknown")

    assert "segments with 25% of what plan" in job.error.message
    assert len(await manifest(served)) == 3
    assert refusal_of(expired.value).reason == "PLAN_OUTDATED"
    assert refusal_of(unknown.value).reason == "NOT_FOUND"


async def test_a_plan_that_broke_off_goes_on_and_does_nothing_twice(
    served: ServedLifecycle, clock: FrozenClock
) -> None:
    await put_days(served, range(4))
    plan = await planned(served, 0)
    steps = served.lifecycle.plans._steps
    did: list[str] = []

    class BreakingOff(PlanSteps):
        async def do(self, job: LifecycleJob, plan: Plan, step: PlanStep) -> PlanStep:
            if len(did) == 2:
                raise StoreUnavailable("the database is away")
            did.append(step.segment_id)
            return await super().do(job, plan, step)

    served.lifecycle.plans._steps = BreakingOff(*(getattr(steps, f"_{name}") for name in STEPS_NEED))
    request = wire.OptimizeStorageRequest(tenant_id=ACME, plan_id=plan.plan_id)
    asked_for = await served.stub.OptimizeStorage(request)
    await done(served, asked_for, data.LIFECYCLE_JOB_STATE_PENDING)
    half = await manifest(served)
    served.lifecycle.plans._steps = steps
    clock.advance(timedelta(minutes=10))
    report = (await done(served, asked_for)).optimization

    assert {segment.segment_id for segment in half} == {step.segment_id for step in plan.steps} - set(did)
    assert await manifest(served) == []
    assert [step.done for step in report.steps] == [True] * 4
    assert report.optimized_bytes == 0


async def test_priorities_follow_the_model_and_change_what_is_important(
    served: ServedLifecycle, clock: FrozenClock
) -> None:
    await put_days(served, range(4), quality=[0.2, 0.4, 0.9, 1.0])
    request = wire.UpdatePrioritiesRequest(
        tenant_id=ACME,
        model_key=MODEL,
        accuracy=0.2,
        importance_by_type={"ride": 1.0},
        validate_only=True,
        measure_time=to_api_instant(clock.now() - DAY),
    )

    trial = (await served.stub.UpdatePriorities(request)).weights[0]
    request.validate_only = False
    first = (await served.stub.UpdatePriorities(request)).weights[0]
    retried = (await served.stub.UpdatePriorities(request)).weights[0]
    request.ClearField("measure_time")
    counts = [(await served.stub.UpdatePriorities(request)).changed_segment_count for _ in range(12)]
    [score, *_] = (await served.stub.AssessDataValue(wire.AssessDataValueRequest(**asked(model_key=MODEL)))).scores
    [other, *_] = (await served.stub.AssessDataValue(wire.AssessDataValueRequest(**asked(model_key="new")))).scores

    assert dict(trial.weights_before) == dict(DEFAULT_WEIGHTS)
    assert trial == first
    assert retried.weights_before == retried.weights_after == first.weights_after
    assert sum(first.weights_after.values()) == pytest.approx(1.0)
    assert first.weights_after["rarity"] > first.weights_before["rarity"]
    assert first.weights_after["recency"] < first.weights_before["recency"]
    assert sum(counts) > 0
    rarity, fresh = ({term.name: term.weight for term in each.terms}["rarity"] for each in (score, other))
    assert rarity > fresh == DEFAULT_WEIGHTS["rarity"]
    request.measure_time.CopyFrom(to_api_instant(clock.now() + DAY))
    with pytest.raises(aio.AioRpcError) as caught:
        await served.stub.UpdatePriorities(request)
    assert refusal_of(caught.value).fields == ["measure_time"]


async def test_documents_are_sampled_as_they_were_put_without_those_that_others_replaced(
    served: ServedLifecycle, clock: FrozenClock
) -> None:
    async def put(numbers: range, mood: str) -> None:
        records = [
            data.Record(
                time=to_api_instant(clock.now() - timedelta(hours=number)),
                values={"mood": mood, "steps": number * 100.0, "where": {"city": "Pune"}},
                record_id=f"entry-{number}",
            )
            for number in numbers
        ]
        await served.stub.PutRecords(
            wire.PutRecordsRequest(
                tenant_id=ACME,
                account_id=ANN,
                data_type="diary",
                records=data.RecordBatch(records=records),
                shape=data.DATASET_SHAPE_DOCUMENTS,
            )
        )

    await put(range(30), "fine")
    await put(range(10), "sleepy")

    found = await served.stub.SelectRepresentativeSamples(
        wire.SelectRepresentativeSamplesRequest(
            tenant_id=ACME, selection=data.DataSelection(account_id=ANN, data_types=["diary"]), sample_count=1_000
        )
    )

    told = {sample.record.record_id: sample.record.values for sample in found.samples}
    assert len(found.samples) == len(told) == 30
    assert {told[f"entry-{number}"]["mood"] for number in range(10)} == {"sleepy"}
    assert {told[f"entry-{number}"]["mood"] for number in range(10, 30)} == {"fine"}
    assert told["entry-3"]["where"]["city"] == "Pune"
    assert found.coverage == 1.0


class MovingStore(SegmentStore):
    """A store where others are always faster, once for each segment."""

    moved: ClassVar[set[str]] = set()

    async def read(self, segment: Segment, *, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the records of a segment that was replaced just now."""
        if segment.form is CompressionForm.NONE:
            self.moved.add(segment.segment_id)
            async with self.database.tenant_transaction(ACME) as connection:
                dataset = await read_dataset_by_id(connection, ACME, segment.dataset_id)
            assert dataset is not None
            table = await super().read(segment)
            prepared = await self.prepare(dataset, table, tier=StorageTier.WARM)
            await self.replace([segment], [prepared], actor="test", action="data.moved")
        return await super().read(segment, columns=columns)


async def test_what_moves_while_it_is_read_is_looked_at_again(served: ServedLifecycle) -> None:
    await put_days(served, range(2))
    lifecycle = served.lifecycle
    store = MovingStore(lifecycle.database, lifecycle.objects, lifecycle.keys, lifecycle.clock)
    lifecycle.values._gatherer._store = store

    found = await served.stub.SelectRepresentativeSamples(
        wire.SelectRepresentativeSamplesRequest(**asked(sample_count=1_000))
    )

    assert len(store.moved) == 2
    assert len(found.samples) == 240


async def test_plans_that_have_expired_or_are_too_many_go_with_their_steps(
    served: ServedLifecycle, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "PLANS_MAX", 2)

    async def kept() -> list[tuple[str, int]]:
        async with served.lifecycle.database.tenant_transaction(ACME) as connection:
            found = await connection.execute(
                select(data_plan_steps.c.plan_id, func.count())
                .group_by(data_plan_steps.c.plan_id)
                .order_by(data_plan_steps.c.plan_id)
            )
            return [(plan_id, count) for plan_id, count in found]

    await put_days(served, range(3))
    first, second, third = [await planned_after(served, clock, timedelta(seconds=1)) for _ in range(3)]
    crowded = await kept()
    last = await planned_after(served, clock, timedelta(hours=24))

    assert crowded == sorted([(second.plan_id, 3), (third.plan_id, 3)])
    assert first.plan_id not in dict(crowded)
    assert await kept() == [(last.plan_id, 3)]


async def planned_after(served: ServedLifecycle, clock: FrozenClock, pause: timedelta) -> wire.PlanRetentionResponse:
    clock.advance(pause)
    return await planned(served, 0)
