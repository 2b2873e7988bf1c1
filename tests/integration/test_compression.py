"""Data is compressed in the place of its segments, gives back what it can, and is left alone where it is protected."""

from __future__ import annotations

import json
import math
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tallygate_server.domain.lifecycle import (
    ONE_MICROSECOND,
    ColumnType,
    CompressionForm,
    CompressionSettings,
    DataColumn,
    DataImportance,
    DataSelection,
    Dataset,
    JobState,
    Segment,
    SegmentState,
    StorageTier,
)
from tallygate_server.domain.lifecycle_job import LifecycleJob
from tallygate_server.domain.retention import ImportanceRule, RetentionException, RetentionPolicy
from tallygate_server.errors import (
    ConsentRequired,
    FormNotRestorable,
    IntegrityViolation,
    InvalidRequest,
    RequestIdReused,
    RetrievalTimeout,
    Unavailable,
)
from tallygate_server.lifecycle.assembly import Lifecycle
from tallygate_server.lifecycle.compression import (
    AnalysisDocument,
    AnalysisHeader,
    AnalysisKind,
    Fetching,
    WantedAnalysis,
    WantedImpact,
    analysis,
    compression_request,
)
from tallygate_server.lifecycle.compression.handler import CompressionHandler
from tallygate_server.lifecycle.compression.protection import Skip, SkipKind, Worth
from tallygate_server.lifecycle.compression.report import (
    DETAILS_BYTES_MAX,
    RESULTS_TOLD_MAX,
    SKIPPED_TOLD_MAX,
    Compressed,
    Report,
)
from tallygate_server.lifecycle.jobs import JobControl
from tallygate_server.lifecycle.policies import NewLegalHold
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.data_keys import KeyState, set_key_state
from tallygate_server.storage.data_segments import read_segments
from tests.support.acme import ACME, ANN, apply_catalog, services
from tests.support.clock import FrozenClock
from tests.support.lifecycle import NOON, a_dataset, lifecycles
from tests.support.lifecycle_jobs import running_jobs

COLUMNS = (
    DataColumn(name="rate", type=ColumnType.DOUBLE, nullable=True),
    DataColumn(name="power", type=ColumnType.INT64),
    DataColumn(name="what", type=ColumnType.STRING),
)
STATISTICAL = CompressionSettings(form=CompressionForm.STATISTICAL)
SUMMARY = CompressionSettings(form=CompressionForm.SUMMARY, window=timedelta(minutes=10))
BEHAVIORAL = CompressionSettings(form=CompressionForm.BEHAVIORAL)
SEASONAL = CompressionSettings(form=CompressionForm.STATISTICAL, seasonal=True)
ALL = DataSelection()
COUNT = 1_800
RETRIEVAL = dict.fromkeys(StorageTier, timedelta(milliseconds=20))


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(NOON + timedelta(days=10))


@pytest.fixture
async def lifecycle(
    fresh_database: str, fresh_redis: str, tmp_path: Path, clock: FrozenClock
) -> AsyncIterator[Lifecycle]:
    await apply_catalog(fresh_database)
    async with (
        services(fresh_database, fresh_redis, clock=clock) as [service],
        lifecycles(fresh_database, service, tmp_path, clock=clock) as made,
        running_jobs(made),
    ):
        yield made


def a_ride(begin: int = 0, count: int = COUNT) -> pa.Table:
    """Return records, one a second, with a curve, a power and an action, as uneven as real ones."""
    places = range(begin, begin + count)
    numbers = [random.Random(place) for place in places]
    return pa.table(
        {
            "time": pa.array([NOON + timedelta(seconds=place) for place in places], pa.timestamp("us", tz="UTC")),
            "rate": [
                None if place % 50 == 7 else 120 + 30 * math.sin(place / 90) + number.gauss(0, 0.2)
                for place, number in zip(places, numbers, strict=True)
            ],
            "power": [200 + int(number.gauss(0, 40)) for number in numbers],
            "what": ["climb" if place // 300 % 2 else "roll" for place in places],
        }
    )


class UsualWorths:
    """Takes every segment for one of usual worth."""

    async def worths(self, segments: Sequence[Segment]) -> Mapping[str, Worth]:
        """Return the usual worth."""
        return {segment.segment_id: Worth() for segment in segments}


class Noted(JobControl):
    """Of a job that nobody has claimed: keeps what is noted here."""

    noted: dict[str, Any]

    async def note(self, _connection: Connection, checkpoint: dict[str, Any]) -> None:
        """Keep it."""
        self.noted = json.loads(json.dumps(checkpoint))

    async def report(self, **_options: Any) -> None:
        """Do nothing."""


async def put(lifecycle: Lifecycle, dataset: Dataset, table: pa.Table, tier: StorageTier = StorageTier.WARM) -> Segment:
    prepared = await lifecycle.segments.prepare(dataset, table, tier=tier)
    if tier is StorageTier.HOT:
        async with lifecycle.database.tenant_transaction(ACME) as connection:
            await lifecycle.segments.put_hot(connection, prepared)
        return prepared.segment
    [written] = await lifecycle.segments.replace([], [prepared], actor="test", action="data.put")
    return written


async def compress(
    lifecycle: Lifecycle,
    settings: CompressionSettings | None,
    selection: DataSelection = ALL,
    *,
    validate_only: bool = False,
) -> dict[str, Any]:
    job = await job_of(lifecycle, settings, selection, validate_only=validate_only)
    assert job.state is JobState.SUCCEEDED, job.error
    assert job.result is not None
    return dict(job.result)


async def job_of(
    lifecycle: Lifecycle, settings: CompressionSettings | None, selection: DataSelection = ALL, **options: Any
) -> LifecycleJob:
    asked: dict[str, Any] = {"validate_only": False, "request_id": "", "wait": timedelta(seconds=60)}
    return await lifecycle.compressions.compress(ACME, selection, settings, actor="test", **(asked | options))


async def manifest(lifecycle: Lifecycle) -> list[Segment]:
    async with lifecycle.database.tenant_transaction(ACME) as connection:
        return await read_segments(connection, ACME, ALL, state=None)


async def analysed(
    lifecycle: Lifecycle, kind: AnalysisKind, selection: DataSelection = ALL, **options: Any
) -> tuple[AnalysisHeader, list[Any]]:
    wanted = WantedAnalysis(tenant_id=ACME, selection=selection, kind=kind, **options)
    header, *parts = [part async for part in lifecycle.analyses.analyse(wanted)]
    assert isinstance(header, AnalysisHeader)
    return header, parts


async def rows_of(lifecycle: Lifecycle, selection: DataSelection = ALL, **options: Any) -> pa.Table:
    _, parts = await analysed(lifecycle, AnalysisKind.ROWS, selection, **options)
    return pa.concat_tables(parts)


async def test_a_curve_takes_the_place_of_rows_in_every_tier(lifecycle: Lifecycle) -> None:
    for tier in StorageTier:
        await a_curve_takes_the_place_of_rows(lifecycle, tier)


async def a_curve_takes_the_place_of_rows(lifecycle: Lifecycle, tier: StorageTier) -> None:
    data_type = tier.name.lower()
    chosen = DataSelection(data_types=(data_type,))
    dataset = await a_dataset(lifecycle, data_type=data_type, columns=COLUMNS)
    old = await put(lifecycle, dataset, a_ride(), tier)

    report = await compress(lifecycle, STATISTICAL, chosen)

    [new] = [segment for segment in await manifest(lifecycle) if segment.data_type == data_type]
    assert (new.form, new.tier, new.record_count) == (CompressionForm.STATISTICAL, tier, COUNT)
    assert (new.start_time, new.end_time) == (old.start_time, old.end_time)
    assert new.stored_bytes < old.stored_bytes
    assert bool(new.object_path) is (tier is StorageTier.COLD)
    [result] = report["results"]
    assert (result["original_segment_id"], result["segment_id"]) == (old.segment_id, new.segment_id)
    assert report["segment_count"] == 1
    assert report["record_count"] == COUNT
    assert report["original_bytes"] == result["original_bytes"] == old.original_bytes
    assert report["compressed_bytes"] == result["compressed_bytes"] == new.stored_bytes
    assert result["compression_ratio"] == pytest.approx(new.stored_bytes / old.original_bytes)
    assert 0.9 < result["value_retained"] < 1
    assert result["summary_metrics"]["power"]["count"] == COUNT
    assert result["retrieval"]["tier"] == f"STORAGE_TIER_{tier.name}"
    assert result["retrieval"]["exact"] is False
    assert result["retrieval"]["available_analyses"] == ["rows", "windows", "patterns"]

    rows = await rows_of(lifecycle, chosen)
    original = a_ride()
    assert rows.column("time").equals(original.column("time"))
    assert rows.column("what").equals(original.column("what"))
    for name, told in (("rate", result["columns"][0]), ("power", result["columns"][1])):
        pairs = zip(original.column(name).to_pylist(), rows.column(name).to_pylist(), strict=True)
        errors = [abs(a - b) for a, b in pairs if a is not None]
        values = [value for value in original.column(name).to_pylist() if value is not None]
        assert max(errors) == pytest.approx(told["max_error"])
        assert max(errors) <= 0.01 * (max(values) - min(values))
    assert rows.column("rate").null_count == original.column("rate").null_count


async def test_only_what_was_chosen_is_compressed_and_what_lies_around_it_stays_exact(lifecycle: Lifecycle) -> None:
    dataset = await a_dataset(lifecycle, columns=COLUMNS)
    await put(lifecycle, dataset, a_ride())
    begin, end = NOON + timedelta(seconds=400), NOON + timedelta(seconds=1_500)

    report = await compress(lifecycle, SUMMARY, DataSelection(start_time=begin, end_time=end))

    assert report["record_count"] == 1_100
    found = {(segment.form.name, segment.record_count) for segment in await manifest(lifecycle)}
    assert found == {("LOSSLESS", 400), ("SUMMARY", 1_100), ("LOSSLESS", 300)}
    header, parts = await analysed(lifecycle, AnalysisKind.ROWS)
    original = a_ride()
    assert pa.concat_tables(parts).equals(pa.concat_tables([original.slice(0, 400), original.slice(1_500)]))
    [gap] = header.gaps
    last = end - timedelta(seconds=1)
    assert (gap.start_time, gap.end_time, gap.kind) == (begin, last + ONE_MICROSECOND, "compressed")
    assert "Single records are gone" in gap.explanation


async def test_many_small_pieces_become_one(lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = await a_dataset(lifecycle, columns=COLUMNS)
    for place in range(6):
        await put(lifecycle, dataset, a_ride(place * 300, 300), StorageTier.HOT)
    monkeypatch.setattr(analysis, "SEGMENTS_MAX", 6)
    monkeypatch.setattr(analysis, "SEGMENTS_TOLD_MAX", 5)
    header, parts = await analysed(lifecycle, AnalysisKind.ROWS)
    assert len(header.segments) == 5
    assert pa.concat_tables(parts).equals(a_ride())
    monkeypatch.setattr(analysis, "SEGMENTS_MAX", 5)
    with pytest.raises(InvalidRequest):
        await analysed(lifecycle, AnalysisKind.ROWS)

    report = await compress(lifecycle, SUMMARY)

    [segment] = await manifest(lifecycle)
    assert (segment.form, segment.record_count) == (CompressionForm.SUMMARY, COUNT)
    assert report["segment_count"] == 6
    assert len(report["results"]) == 1


async def test_without_loss_every_value_stays(lifecycle: Lifecycle) -> None:
    dataset = await a_dataset(lifecycle, columns=COLUMNS)
    hot = await put(lifecycle, dataset, a_ride(), StorageTier.HOT)

    report = await compress(lifecycle, CompressionSettings())
    again = await compress(lifecycle, CompressionSettings())

    [segment] = await manifest(lifecycle)
    assert (segment.form, segment.tier) == (CompressionForm.LOSSLESS, StorageTier.HOT)
    assert segment.values_digest == hot.values_digest
    assert (await lifecycle.segments.read(segment)).equals(a_ride())
    assert report["value_retained"] == 1
    assert report["results"][0]["retrieval"]["exact"] is True
    assert again["segment_count"] == 0
    assert [each["kind"] for each in again["skipped"]] == ["no_gain"]


async def test_a_dry_run_measures_and_changes_nothing(lifecycle: Lifecycle) -> None:
    dataset = await a_dataset(lifecycle, columns=COLUMNS)
    await put(lifecycle, dataset, a_ride())
    before = await manifest(lifecycle)

    dry = await compress(lifecycle, STATISTICAL, validate_only=True)

    assert await manifest(lifecycle) == before
    assert dry["results"][0]["segment_id"] == ""
    real = await compress(lifecycle, STATISTICAL)
    assert (dry["compressed_bytes"], dry["value_retained"]) == (real["compressed_bytes"], real["value_retained"])


async def test_holds_exceptions_and_policies_leave_data_alone(lifecycle: Lifecycle, clock: FrozenClock) -> None:
    held = await a_dataset(lifecycle, data_type="held", columns=COLUMNS)
    excepted = await a_dataset(lifecycle, data_type="excepted", columns=COLUMNS)
    young = await a_dataset(lifecycle, data_type="young", columns=COLUMNS)
    never = await a_dataset(lifecycle, data_type="never", columns=COLUMNS)
    free = await a_dataset(lifecycle, data_type="free", columns=COLUMNS)
    others = [await a_dataset(lifecycle, data_type=name, columns=COLUMNS) for name in ("critical", "worthy")]
    datasets = (held, excepted, young, never, free, *others)
    segments = {each.data_type: await put(lifecycle, each, a_ride()) for each in datasets}
    hold, _ = await lifecycle.holds.create(
        ACME, NewLegalHold(selection=DataSelection(data_types=("held",)), reason_text="case 7"), actor="test"
    )
    exception = RetentionException(retention_days=-1, reason_text="a promise")
    critical = ImportanceRule(name="all", importance=DataImportance.CRITICAL)
    for policy in (
        RetentionPolicy(
            tenant_id=ACME, data_type="critical", compression_threshold_days=0, importance_rules=(critical,)
        ),
        RetentionPolicy(tenant_id=ACME, data_type="worthy", compression_threshold_days=0, ai_value_threshold=0.0),
        RetentionPolicy(tenant_id=ACME, data_type="excepted", compression_threshold_days=0, exceptions=(exception,)),
        RetentionPolicy(tenant_id=ACME, data_type="young", compression_threshold_days=30, ai_value_threshold=1.0),
        RetentionPolicy(tenant_id=ACME, data_type="never", ai_value_threshold=1.0),
        RetentionPolicy(tenant_id=ACME, data_type="free", compression_threshold_days=0, ai_value_threshold=1.0),
    ):
        await lifecycle.policies.set(policy, actor="test")

    report = await compress(lifecycle, SUMMARY)

    skipped = {each["segment_id"]: each for each in report["skipped"]}
    assert {name: skipped[segments[name].segment_id]["kind"] for name in segments if name != "free"} == {
        "critical": "critical",
        "worthy": "policy",
        "held": "legal_hold",
        "excepted": "exception",
        "young": "policy",
        "never": "policy",
    }
    assert hold.legal_hold_id in skipped[segments["held"].segment_id]["explanation"]
    due = segments["young"].end_time + timedelta(days=30)
    assert datetime.fromisoformat(skipped[segments["young"].segment_id]["possible_time"]) == due
    assert report["segment_count"] == 1
    forms = {segment.data_type: segment.form for segment in await manifest(lifecycle)}
    assert forms == dict.fromkeys(segments, CompressionForm.LOSSLESS) | {"free": CompressionForm.SUMMARY}

    # Without loss nothing is taken away: holds do not stand against it.
    skipped = {each["segment_id"]: each for each in (await compress(lifecycle, CompressionSettings()))["skipped"]}
    assert {skipped[segments[name].segment_id]["kind"] for name in segments if name != "free"} == {"no_gain"}


async def test_a_hold_that_comes_while_data_is_compressed_wins(lifecycle: Lifecycle, clock: FrozenClock) -> None:
    dataset = await a_dataset(lifecycle, columns=COLUMNS)
    segment = await put(lifecycle, dataset, a_ride())

    class HoldsWhenAsked(UsualWorths):
        """Somebody sets a hold after protections were looked at, and before anything is replaced."""

        async def worths(self, segments: Any) -> Any:
            await lifecycle.holds.create(
                ACME, NewLegalHold(selection=DataSelection(), reason_text="at the last moment"), actor="test"
            )
            return await super().worths(segments)

    handler = CompressionHandler(lifecycle.segments, lifecycle.policies, HoldsWhenAsked(), clock, retrieval=RETRIEVAL)
    job = await job_of(lifecycle, SUMMARY, schedule_time=clock.now() + timedelta(days=1), wait=None)
    report = await handler.run(job, Noted(lifecycle.database, clock, job))

    assert [each["kind"] for each in report["skipped"]] == ["legal_hold"]
    assert await manifest(lifecycle) == [segment]


async def test_what_has_lost_something_loses_no_more(lifecycle: Lifecycle) -> None:
    dataset = await a_dataset(lifecycle, columns=COLUMNS)
    await put(lifecycle, dataset, a_ride())
    await compress(lifecycle, STATISTICAL)
    before = await manifest(lifecycle)

    report = await compress(lifecycle, SUMMARY)

    assert [each["kind"] for each in report["skipped"]] == ["form"]
    assert await manifest(lifecycle) == before


async def test_settings_that_do_not_suit_the_data_fail_and_change_nothing(lifecycle: Lifecycle) -> None:
    dataset = await a_dataset(lifecycle, columns=COLUMNS)
    await put(lifecycle, dataset, a_ride())
    before = await manifest(lifecycle)

    wrong = CompressionSettings(form=CompressionForm.BEHAVIORAL, action_column="nothing")
    job = await job_of(lifecycle, wrong)

    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error.reason == "COMPRESSION_FAILED"
    assert job.error.facts == {"dataset_id": dataset.dataset_id, "column": "nothing"}
    assert await manifest(lifecycle) == before
    with pytest.raises(InvalidRequest):
        await job_of(lifecycle, CompressionSettings(form=CompressionForm.SUMMARY, zones={"rate": (2.0, 1.0)}))
    with pytest.raises(InvalidRequest):
        await job_of(lifecycle, CompressionSettings(form=CompressionForm.NONE))


async def test_a_damaged_segment_is_put_in_quarantine_and_left_alone(lifecycle: Lifecycle) -> None:
    dataset = await a_dataset(lifecycle, columns=COLUMNS)
    damaged = await put(lifecycle, dataset, a_ride())
    await put(lifecycle, dataset, a_ride(COUNT))
    async with lifecycle.database.tenant_transaction(ACME) as connection:
        await connection.exec_driver_sql(
            "UPDATE data_payloads SET payload = set_byte(payload, 500, 255 - get_byte(payload, 500))"
            f" WHERE segment_id = '{damaged.segment_id}'"
        )

    report = await compress(lifecycle, STATISTICAL)

    assert [(each["segment_id"], each["kind"]) for each in report["skipped"]] == [(damaged.segment_id, "quarantine")]
    found = {segment.state: segment for segment in await manifest(lifecycle)}
    assert found[SegmentState.QUARANTINED].segment_id == damaged.segment_id
    assert found[SegmentState.LIVE].record_count == COUNT
    header, _ = await analysed(lifecycle, AnalysisKind.ROWS)
    assert [gap.kind for gap in header.gaps] == ["quarantined", "compressed"]


async def test_an_attempt_after_a_crash_goes_on_and_counts_everything_once(
    lifecycle: Lifecycle, clock: FrozenClock
) -> None:
    dataset = await a_dataset(lifecycle, columns=COLUMNS)
    other = await a_dataset(lifecycle, data_type="walk", columns=COLUMNS)
    await put(lifecycle, dataset, a_ride())
    await put(lifecycle, other, a_ride())
    handler = CompressionHandler(lifecycle.segments, lifecycle.policies, UsualWorths(), clock, retrieval=RETRIEVAL)
    job = await job_of(lifecycle, SUMMARY, schedule_time=clock.now() + timedelta(days=1), wait=None)

    class Crash(Exception):
        """The server died."""

    class Dying(Noted):
        async def report(self, **_options: Any) -> None:
            raise Crash

    dying = Dying(lifecycle.database, clock, job)
    with pytest.raises(Crash):
        await handler.run(job, dying)
    [done] = [segment for segment in await manifest(lifecycle) if not segment.form.exact]
    after = replace(job, checkpoint=dying.noted)
    report = await handler.run(after, Noted(lifecycle.database, clock, after))

    assert dying.noted["results"][0]["segment_id"] == done.segment_id
    assert report["segment_count"] == 2
    assert report["record_count"] == 2 * COUNT
    assert report["skipped"] == []
    assert {segment.form for segment in await manifest(lifecycle)} == {CompressionForm.SUMMARY}


async def test_a_planned_job_waits_for_its_time(lifecycle: Lifecycle, clock: FrozenClock) -> None:
    dataset = await a_dataset(lifecycle, columns=COLUMNS)
    await put(lifecycle, dataset, a_ride())
    when = clock.now() + timedelta(days=3)

    job = await job_of(lifecycle, SUMMARY, schedule_time=when, wait=timedelta(0), request_id="plan-1")
    same = await job_of(lifecycle, SUMMARY, schedule_time=when, wait=timedelta(0), request_id="plan-1")

    assert (job.state, job.schedule_time) == (JobState.PENDING, when)
    assert same.job_id == job.job_id
    with pytest.raises(RequestIdReused):
        await job_of(lifecycle, STATISTICAL, schedule_time=when, wait=timedelta(0), request_id="plan-1")
    assert [segment.form for segment in await manifest(lifecycle)] == [CompressionForm.LOSSLESS]


async def test_windows_come_from_every_form_and_meet_at_their_borders(lifecycle: Lifecycle) -> None:
    dataset = await a_dataset(lifecycle, columns=COLUMNS)
    await put(lifecycle, dataset, a_ride(0, 900))
    await compress(lifecycle, SUMMARY)
    await put(lifecycle, dataset, a_ride(900, 900), StorageTier.HOT)

    header, parts = await analysed(lifecycle, AnalysisKind.WINDOWS)
    table = pa.concat_tables(parts)
    _, hourly = await analysed(lifecycle, AnalysisKind.WINDOWS, resolution=timedelta(hours=1), columns=("power",))

    assert table.column("time").to_pylist() == [NOON + timedelta(minutes=10) * place for place in range(3)]
    power = a_ride().column("power").to_pylist()
    for place in range(3):
        inside = power[place * 600 : place * 600 + 600]
        assert table.column("power.count")[place].as_py() == 600
        assert table.column("power.mean")[place].as_py() == pytest.approx(sum(inside) / 600)
        assert table.column("power.max")[place].as_py() == max(inside)
    assert "power.p95" in {column.name for column in header.columns}
    assert len(header.segments) == 2
    [row] = pa.concat_tables(hourly).to_pylist()
    assert row["power.sum"] == sum(power)
    assert not any(name.startswith("rate") for name in row)


async def test_what_a_form_cannot_give_is_refused_or_named(lifecycle: Lifecycle) -> None:
    dataset = await a_dataset(lifecycle, columns=COLUMNS)
    await put(lifecycle, dataset, a_ride())
    await compress(lifecycle, SUMMARY)

    for kind, resolution in [
        (AnalysisKind.ROWS, None),
        (AnalysisKind.SEASONS, None),
        (AnalysisKind.BEHAVIOR, None),
        (AnalysisKind.WINDOWS, timedelta(minutes=1)),
        (AnalysisKind.WINDOWS, timedelta(minutes=15)),
    ]:
        with pytest.raises(FormNotRestorable) as caught:
            await analysed(lifecycle, kind, resolution=resolution)
        assert caught.value.facts["form"] == "summary"
    header, _ = await analysed(lifecycle, AnalysisKind.WINDOWS, resolution=timedelta(minutes=30))
    assert "quantiles are approximate" in header.gaps[0].explanation


async def test_behaviour_and_seasons_come_as_documents(lifecycle: Lifecycle) -> None:
    dataset = await a_dataset(lifecycle, columns=COLUMNS)
    await put(lifecycle, dataset, a_ride())

    _, [exact] = await analysed(lifecycle, AnalysisKind.BEHAVIOR)
    _, [seasons] = await analysed(lifecycle, AnalysisKind.SEASONS, columns=("power",))
    await compress(lifecycle, BEHAVIORAL)
    _, [kept] = await analysed(lifecycle, AnalysisKind.BEHAVIOR)

    assert isinstance(exact, AnalysisDocument)
    assert exact.content == kept.content
    assert exact.content["profile"]["actions"] == {"climb": 900, "roll": 900}
    assert exact.content["profile"]["transitions"] == {
        "climb": {"climb": 897, "roll": 2},
        "roll": {"climb": 3, "roll": 897},
    }
    assert len(exact.content["sessions"]) == 1
    assert set(seasons.content) == {"power"}
    with pytest.raises(InvalidRequest):
        await analysed(lifecycle, AnalysisKind.ROWS, columns=("rate", "nothing"))
    await put(lifecycle, await a_dataset(lifecycle, data_type="x", columns=COLUMNS), a_ride())
    with pytest.raises(InvalidRequest):
        await analysed(lifecycle, AnalysisKind.BEHAVIOR)


async def test_patterns_draw_rows_at_any_distance(lifecycle: Lifecycle) -> None:
    dataset = await a_dataset(lifecycle, columns=COLUMNS)
    await put(lifecycle, dataset, a_ride())
    await compress(lifecycle, SEASONAL)

    rows = await rows_of(lifecycle, resolution=timedelta(minutes=1))
    header, _ = await analysed(lifecycle, AnalysisKind.ROWS)

    assert rows.num_rows == 30
    assert rows.schema.field("power").type == pa.int64()
    assert rows.column("what").null_count == 30
    assert header.gaps[0].max_errors["rate"] > 1


async def test_documents_are_compressed_by_their_fields(lifecycle: Lifecycle) -> None:
    dataset = await a_dataset(lifecycle)
    documents = [json.dumps({"action": "ab"[place % 2], "n": random.Random(place).random()}) for place in range(500)]
    await put(lifecycle, dataset, a_ride(count=500).select(["time"]).append_column("document", [documents]))

    settings = CompressionSettings(form=CompressionForm.BEHAVIORAL, action_column="action")
    report = await compress(lifecycle, settings)

    _, [kept] = await analysed(lifecycle, AnalysisKind.BEHAVIOR)
    assert kept.content["profile"]["actions"] == {"a": 250, "b": 250}
    assert {column["column"] for column in report["results"][0]["columns"]} == {"action", "n"}


async def test_the_impact_is_measured_without_changing_anything(lifecycle: Lifecycle) -> None:
    dataset = await a_dataset(lifecycle, columns=COLUMNS)
    await put(lifecycle, dataset, a_ride(0, 900))
    await put(lifecycle, dataset, a_ride(900, 900), StorageTier.HOT)
    before = await manifest(lifecycle)
    selection = DataSelection(account_id=ANN, end_time=NOON + timedelta(seconds=1_700))

    found = await lifecycle.impacts.evaluate(
        WantedImpact(tenant_id=ACME, selection=selection, settings=STATISTICAL, target_column="rate", seed=3)
    )

    assert await manifest(lifecycle) == before
    assert found["record_count"] == 1_700
    assert found["accuracy_before"]["metric"] == "r2"
    assert abs(found["accuracy_before"]["value"] - found["accuracy_after"]["value"]) < 0.1
    assert {column["column"]: column["max_error"] > 0 for column in found["columns"]}["rate"]
    with pytest.raises(InvalidRequest):
        await lifecycle.impacts.evaluate(
            WantedImpact(tenant_id=ACME, selection=selection, settings=STATISTICAL, target_column="no")
        )
    await lifecycle.policies.set(
        RetentionPolicy(tenant_id=ACME, data_type="ride", training_purpose="ai_training"), actor="test"
    )
    with pytest.raises(ConsentRequired):
        await lifecycle.impacts.evaluate(
            WantedImpact(tenant_id=ACME, selection=selection, settings=STATISTICAL, target_column="rate")
        )


def test_a_request_is_told_whole() -> None:
    request = compression_request(DataSelection(account_id=ANN), SUMMARY)

    assert CompressionSettings.from_document(request["settings"]) == SUMMARY
    assert DataSelection.from_document(request["selection"]) == DataSelection(account_id=ANN)
    assert compression_request(ALL, None)["settings"] is None


async def test_what_a_destroyed_key_sealed_is_named_as_erased(lifecycle: Lifecycle) -> None:
    dataset = await a_dataset(lifecycle, columns=COLUMNS)
    segment = await put(lifecycle, dataset, a_ride())
    async with lifecycle.database.tenant_transaction(ACME) as connection:
        await set_key_state(connection, ACME, segment.key_id, KeyState.DESTROYED, now=lifecycle.clock.now())

    header, parts = await analysed(lifecycle, AnalysisKind.ROWS)

    assert [gap.kind for gap in header.gaps] == ["erased"]
    assert (header.gaps[0].start_time, header.gaps[0].end_time) == (segment.start_time, segment.end_time)
    assert parts == []


async def test_damage_that_an_analysis_meets_is_told_and_put_in_quarantine(lifecycle: Lifecycle) -> None:
    dataset = await a_dataset(lifecycle, columns=COLUMNS)
    damaged = await put(lifecycle, dataset, a_ride())
    async with lifecycle.database.tenant_transaction(ACME) as connection:
        await connection.exec_driver_sql(
            "UPDATE data_payloads SET payload = set_byte(payload, 500, 255 - get_byte(payload, 500))"
        )

    with pytest.raises(IntegrityViolation) as caught:
        await analysed(lifecycle, AnalysisKind.ROWS)

    assert caught.value.facts["segment_id"] == damaged.segment_id
    [found] = await manifest(lifecycle)
    assert found.state is SegmentState.QUARANTINED


async def test_data_that_moves_while_it_is_read_is_not_called_damaged(lifecycle: Lifecycle) -> None:
    dataset = await a_dataset(lifecycle, columns=COLUMNS)
    await put(lifecycle, dataset, a_ride(), StorageTier.HOT)
    wanted = WantedAnalysis(tenant_id=ACME, selection=ALL, kind=AnalysisKind.ROWS)
    [before] = await manifest(lifecycle)
    fetching = Fetching(lifecycle.segments, retrieval_timeout_ms=60_000)
    await compress(lifecycle, CompressionSettings())

    with pytest.raises(Unavailable):
        await fetching.records([before])
    with pytest.raises(RetrievalTimeout):
        await Fetching(lifecycle.segments, retrieval_timeout_ms=0).records(await manifest(lifecycle))

    assert [part async for part in lifecycle.analyses.analyse(wanted)]


def test_reports_stay_small_enough_for_a_message() -> None:
    sealed = {"key_id": "key", "sealed": "x" * 5_000}
    segment = Segment(
        tenant_id=ACME,
        segment_id="seg_1",
        dataset_id="ds_1",
        account_id=ANN,
        data_type="ride",
        tier=StorageTier.WARM,
        form=CompressionForm.LOSSLESS,
        start_time=NOON,
        end_time=NOON,
        record_count=1,
        stored_bytes=1,
        original_bytes=1,
        checksum=b"",
        values_digest=b"",
        key_id="key",
        create_time=NOON,
    )
    compressed = Compressed(
        sources=(segment,),
        segment_id="seg_2",
        form=CompressionForm.SUMMARY,
        compress_time=NOON,
        record_count=10,
        original_bytes=100,
        compressed_bytes=10,
        value_retained=0.5,
        columns=(),
        sealed_metrics=sealed,
        exact=False,
        available_analyses=("windows",),
        limitation="",
        retrieval_time=timedelta(0),
    )
    report = Report({})
    for _ in range(RESULTS_TOLD_MAX + 1):
        report = report.with_result(compressed)
    for place in range(SKIPPED_TOLD_MAX + 1):
        for _ in range(2):
            report.skip(replace(segment, segment_id=f"left_{place}"), Skip(kind=SkipKind.POLICY, explanation="young"))
    document = report.to_document()

    assert len(document["skipped"]) == SKIPPED_TOLD_MAX
    assert document["segment_count"] == RESULTS_TOLD_MAX + 1
    assert document["record_count"] == 10 * (RESULTS_TOLD_MAX + 1)
    assert document["value_retained"] == pytest.approx(0.5)
    assert len(document["results"]) == RESULTS_TOLD_MAX
    detailed = [result for result in document["results"] if "sealed_metrics" in result]
    each = len(json.dumps({"columns": [], "sealed_metrics": sealed}))
    assert len(detailed) == DETAILS_BYTES_MAX // each
    assert len(json.dumps(document)) < 2_000_000
    assert Report(report.checkpoint()).to_document() == document


async def test_reports_tell_statistics_and_nothing_readable_is_stored(lifecycle: Lifecycle) -> None:
    dataset = await a_dataset(lifecycle, columns=COLUMNS)
    table = a_ride().drop_columns(["what"]).append_column("what", [["a very private remark"] * COUNT])
    segment = await put(lifecycle, dataset, table)

    job = await job_of(lifecycle, SUMMARY)
    [listed] = await lifecycle.jobs.page(ACME, limit=10)
    watched = [state async for state in lifecycle.jobs.watch(ACME, job.job_id)]
    async with lifecycle.database.tenant_transaction(ACME) as connection:
        stored = (await connection.exec_driver_sql("SELECT row_to_json(j)::text FROM lifecycle_jobs j")).scalar_one()
        await set_key_state(connection, ACME, segment.key_id, KeyState.DESTROYED, now=lifecycle.clock.now())
    await lifecycle.segments.keys.store.destroy(ACME, segment.key_id)
    lifecycle.segments.keys.forget(ACME, segment.key_id)
    erased = await lifecycle.jobs.get(ACME, job.job_id)

    assert job.result is not None
    assert listed.result is not None
    assert erased.result is not None
    assert job.result["results"][0]["summary_metrics"]["what"]["top"] == {"a very private remark": COUNT}
    assert watched[-1].result == job.result
    assert "summary_metrics" not in listed.result["results"][0]
    assert "private" not in stored
    assert "summary_metrics" not in erased.result["results"][0]
    assert "sealed_metrics" not in erased.result["results"][0]


async def test_a_named_form_comes_whatever_it_saves_and_a_policys_only_when_it_saves(lifecycle: Lifecycle) -> None:
    dataset = await a_dataset(lifecycle, columns=COLUMNS)
    few = await put(lifecycle, dataset, a_ride(count=1))
    await lifecycle.policies.set(
        RetentionPolicy(
            tenant_id=ACME, data_type="ride", compression=SUMMARY, compression_threshold_days=0, ai_value_threshold=1.0
        ),
        actor="test",
    )

    by_policy = await compress(lifecycle, None)
    named = await compress(lifecycle, STATISTICAL)

    assert [(each["segment_id"], each["kind"]) for each in by_policy["skipped"]] == [(few.segment_id, "no_gain")]
    assert named["results"][0]["form"] == "COMPRESSION_FORM_STATISTICAL"
    assert (await rows_of(lifecycle)).equals(a_ride(count=1))
