"""Retention applied by the background job, and clean-up by hand, over real stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tallygate_server.catalog import CatalogSource
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import (
    CompressionForm,
    CompressionSettings,
    DataImportance,
    DataSelection,
    Dataset,
    JobKind,
    JobState,
    Segment,
    SegmentState,
    StorageTier,
)
from tallygate_server.domain.retention import ImportanceRule, RetentionPolicy
from tallygate_server.errors import SegmentsChanged, StoreUnavailable
from tallygate_server.lifecycle.assembly import Lifecycle
from tallygate_server.lifecycle.classification import cleanup_request
from tallygate_server.lifecycle.jobs import LifecycleJob, LifecycleJobRunner, NewJob
from tallygate_server.lifecycle.policies import Candidate, NewLegalHold, Removed, Remover
from tallygate_server.lifecycle.records import NewRecords
from tallygate_server.lifecycle.records.batches import PlainRecords
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.data_segments import read_segments
from tests.support.acme import ANN, services
from tests.support.clock import FrozenClock
from tests.support.lifecycle import a_dataset, a_table, lifecycles

SPORTS = TenantId("sports")
QUIET = TenantId("quiet")
BOB = AccountId("bob")
CATALOGS = (
    """
tenant: sports
default_plan: free
auto_provision: true
features: {data_retention_days: {kind: config}}
plans: {free: {rank: 0, allowances: {data_retention_days: 30}}}
""",
    """
tenant: quiet
default_plan: free
auto_provision: true
features: {words: {kind: counter}}
plans: {free: {rank: 0, allowances: {words: {limit: 1, period: day}}}}
""",
)


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
async def lifecycle(
    fresh_database: str, fresh_redis: str, tmp_path: Path, clock: FrozenClock
) -> AsyncIterator[Lifecycle]:
    async with (
        services(fresh_database, fresh_redis, clock=clock) as [service],
        lifecycles(fresh_database, service, tmp_path) as made,
    ):
        for catalog in CATALOGS:
            await service.catalogs.apply(CatalogSource(catalog))
        yield made


async def put(
    lifecycle: Lifecycle,
    dataset: Dataset,
    *,
    days_ago: float,
    quality: float = 1.0,
    count: int = 10,
    tier: StorageTier = StorageTier.HOT,
) -> Segment:
    start = lifecycle.clock.now() - timedelta(days=days_ago, seconds=count)
    prepared = await lifecycle.segments.prepare(dataset, a_table(start, count), tier=tier, quality_score=quality)
    if tier is StorageTier.COLD:
        [segment] = await lifecycle.segments.replace([], [prepared], actor="test", action="data.put")
        return segment
    async with lifecycle.database.tenant_transaction(dataset.tenant_id) as connection:
        await lifecycle.segments.put_hot(connection, prepared)
    return prepared.segment


async def left(lifecycle: Lifecycle, tenant_id: TenantId = SPORTS) -> set[str]:
    async with lifecycle.database.tenant_transaction(tenant_id) as connection:
        segments = await read_segments(connection, tenant_id, DataSelection(), state=None)
    return {segment.segment_id for segment in segments}


async def all_of(lifecycle: Lifecycle, sql: str) -> list[Any]:
    async with lifecycle.database.tenant_transaction(SPORTS) as connection:
        return list(await connection.execute(text(sql)))


async def cleaned_up(lifecycle: Lifecycle, *, importance: DataImportance = DataImportance.LOW) -> LifecycleJob:
    request = cleanup_request(
        cutoff_time=lifecycle.clock.now(), data_types=["ride"], account_id=None, max_importance=importance
    )
    wanted = NewJob(
        kind=JobKind.CLEANUP,
        tenant_id=SPORTS,
        account_id=None,
        request=request,
        validate_only=False,
        actor="jo",
        request_id="",
    )
    job = await lifecycle.jobs.submit(wanted)
    await LifecycleJobRunner(lifecycle.jobs).run_due()
    return await lifecycle.jobs.get(SPORTS, job.job_id)


async def test_the_plan_alone_is_enough_and_nobodys_word_is_not(lifecycle: Lifecycle, tmp_path: Path) -> None:
    await lifecycle.service.accounts.provision(SPORTS, ANN)
    anns = await a_dataset(lifecycle, tenant_id=SPORTS)
    bobs = await a_dataset(lifecycle, tenant_id=SPORTS, account_id=BOB)
    await put(lifecycle, anns, days_ago=30, tier=StorageTier.COLD)
    young = await put(lifecycle, anns, days_ago=29)
    stranger = await put(lifecycle, bobs, days_ago=3_000)
    elsewhere = await put(lifecycle, await a_dataset(lifecycle, tenant_id=QUIET), days_ago=3_000)

    done = await lifecycle.retainer.run()
    again = await lifecycle.retainer.run()

    assert (done, again) == ({"segments_removed": 1, "records_removed": 10}, {})
    assert await left(lifecycle) == {young.segment_id, stranger.segment_id}
    assert await left(lifecycle, QUIET) == {elsewhere.segment_id}
    assert list((tmp_path / "objects").rglob("seg_*")) == []
    [removals] = await all_of(lifecycle, "SELECT * FROM storage_removals")
    assert (removals.data_type, removals.record_count) == ("ride", 10)
    [audit] = await all_of(lifecycle, "SELECT * FROM audit_entries WHERE action = 'data.expired'")
    assert audit.detail["removed_records"] == 10


async def test_a_run_goes_on_where_the_last_one_stopped(lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "tallygate_server.lifecycle.classification.retaining"
    monkeypatch.setattr(f"{module}.SEGMENTS_PER_LOOK_MAX", 2)
    monkeypatch.setattr(f"{module}.SEGMENTS_PER_RUN_MAX", 4)
    policy = RetentionPolicy(tenant_id=SPORTS, data_type="*", standard_retention_days=10)
    await lifecycle.policies.set(policy, actor="jo")
    dataset = await a_dataset(lifecycle, tenant_id=SPORTS)
    for _ in range(7):
        await put(lifecycle, dataset, days_ago=11)

    counts = [(await lifecycle.retainer.run()).get("segments_removed", 0) for _ in range(3)]

    assert counts == [4, 3, 0]


async def test_compression_is_asked_for_once_a_day(lifecycle: Lifecycle, clock: FrozenClock) -> None:
    policy = RetentionPolicy(
        tenant_id=SPORTS,
        data_type="ride",
        compression_threshold_days=10,
        ai_value_threshold=0.9,
        compression=CompressionSettings(form=CompressionForm.SUMMARY),
    )
    await lifecycle.policies.set(policy, actor="jo")
    dataset = await a_dataset(lifecycle, tenant_id=SPORTS, account_id=BOB)
    await put(lifecycle, dataset, days_ago=9, count=5_000)

    early = await lifecycle.retainer.run()
    clock.advance(timedelta(days=1))
    due = [await lifecycle.retainer.run() for _ in range(2)]
    [job] = await lifecycle.jobs.page(SPORTS, limit=10)
    await LifecycleJobRunner(lifecycle.jobs).run_due()
    clock.advance(timedelta(days=1))
    later = await lifecycle.retainer.run()

    assert early == {}
    assert due == [{"compressions_queued": 1}, {}]
    assert (job.kind, job.actor, job.account_id) == (JobKind.COMPRESSION, "lifecycle", None)
    async with lifecycle.database.tenant_transaction(SPORTS) as connection:
        [segment] = await read_segments(connection, SPORTS, DataSelection())
    # What is compressed needs it no more.
    assert (segment.form, later) == (CompressionForm.SUMMARY, {})


async def test_a_hold_or_a_policy_between_look_and_removal_counts(lifecycle: Lifecycle) -> None:
    remover = Remover(lifecycle.segments, lifecycle.policies, lifecycle.clock)
    dataset = await a_dataset(lifecycle, tenant_id=SPORTS)
    held, free = [await put(lifecycle, dataset, days_ago=days) for days in (50, 40)]
    policy = RetentionPolicy(tenant_id=SPORTS, standard_retention_days=10)
    await lifecycle.policies.set(policy, actor="jo")
    seen = await lifecycle.policies.protections(SPORTS)
    hold = NewLegalHold(selection=DataSelection(end_time=held.end_time), reason_text="a suit")
    await lifecycle.holds.create(SPORTS, hold, actor="jo")
    candidates = [Candidate(segment=each, importance=DataImportance.LOW) for each in (held, free)]
    noted: list[Removed] = []

    async def note(_connection: Connection, removed: Removed) -> None:
        noted.append(removed)

    removed = await remover.remove(candidates, seen=seen, actor="test", action="data.expired", note=note)

    assert [segment.segment_id for segment in removed.segments] == [free.segment_id]
    assert [(segment.segment_id, why.kind.value) for segment, why in removed.kept] == [(held.segment_id, "legal_hold")]
    assert noted == [removed]
    late = await put(lifecycle, dataset, days_ago=30)
    rule = ImportanceRule(name="all", importance=DataImportance.CRITICAL)
    await lifecycle.policies.set(
        RetentionPolicy(tenant_id=SPORTS, standard_retention_days=10, importance_rules=(rule,)), actor="jo"
    )
    with pytest.raises(SegmentsChanged):
        await remover.remove(
            [Candidate(segment=late, importance=DataImportance.LOW)], seen=seen, actor="test", action="data.expired"
        )
    assert await left(lifecycle) == {held.segment_id, late.segment_id}


async def test_ids_of_removed_records_are_free_again(lifecycle: Lifecycle) -> None:
    await lifecycle.service.accounts.provision(SPORTS, ANN)
    now = lifecycle.clock.now()

    async def put_records(days_ago: float) -> int:
        times = [int((now - timedelta(days=days_ago, seconds=second)).timestamp() * 1e6) for second in (2, 1)]
        rows = PlainRecords(times_us=times, values=[{"speed": 1.0}, {"speed": 2.0}], record_ids=["a", "b"])
        wanted = NewRecords(tenant_id=SPORTS, account_id=ANN, data_type="ride", batch=rows)
        return (await lifecycle.records.put(wanted)).replaced_count

    assert [await put_records(40), await put_records(35)] == [0, 2]
    await lifecycle.retainer.run()

    assert await left(lifecycle) == set()
    assert await all_of(lifecycle, "SELECT * FROM data_record_ids") == []
    assert await all_of(lifecycle, "SELECT * FROM data_replaced_records") == []
    assert await put_records(1) == 0


async def test_what_is_on_hold_survives_being_replaced_and_moved(lifecycle: Lifecycle, clock: FrozenClock) -> None:
    await lifecycle.service.accounts.provision(SPORTS, ANN)
    hold, _ = await lifecycle.holds.create(
        SPORTS, NewLegalHold(selection=DataSelection(account_id=ANN), reason_text="a suit"), actor="jo"
    )
    times = [int((lifecycle.clock.now() - timedelta(days=1)).timestamp() * 1e6)]
    for speed in (1.0, 2.0):
        rows = PlainRecords(times_us=times, values=[{"speed": speed}], record_ids=["a"])
        await lifecycle.records.put(NewRecords(tenant_id=SPORTS, account_id=ANN, data_type="ride", batch=rows))
    policy = RetentionPolicy(tenant_id=SPORTS, data_type="*", standard_retention_days=1_000)
    await lifecycle.policies.set(policy, actor="jo")

    clock.advance(timedelta(days=31))
    await lifecycle.mover.run()
    async with lifecycle.database.tenant_transaction(SPORTS) as connection:
        [held] = await read_segments(connection, SPORTS, DataSelection())
    await lifecycle.holds.release(SPORTS, hold.legal_hold_id, reason="it is over", actor="jo")
    clock.advance(timedelta(days=90))
    await lifecycle.mover.run()
    async with lifecycle.database.tenant_transaction(SPORTS) as connection:
        [free] = await read_segments(connection, SPORTS, DataSelection())

    assert (held.tier, held.record_count) == (StorageTier.WARM, 2)
    assert (free.tier, free.record_count) == (StorageTier.COLD, 1)
    assert (await lifecycle.segments.read(free)).column("speed").to_pylist() == [2.0]


async def test_a_clean_up_goes_on_after_a_crash_and_counts_once(
    lifecycle: Lifecycle, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tallygate_server.lifecycle.classification.cleanup.SEGMENTS_PER_STEP_MAX", 1)
    dataset = await a_dataset(lifecycle, tenant_id=SPORTS)
    for days_ago in (50, 40, 35):
        await put(lifecycle, dataset, days_ago=days_ago, quality=0.1)
    replace, calls = lifecycle.segments.replace, []

    async def once(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise StoreUnavailable("gone")
        return await replace(*arguments, **options)

    monkeypatch.setattr(lifecycle.segments, "replace", once)
    job = await cleaned_up(lifecycle)
    clock.advance(timedelta(minutes=10))
    await LifecycleJobRunner(lifecycle.jobs).run_due()
    job = await lifecycle.jobs.get(SPORTS, job.job_id)

    assert (job.state, job.attempt_count) == (JobState.SUCCEEDED, 2)
    assert job.result is not None
    assert (job.result["segment_count"], job.result["record_count"]) == (3, 30)
    assert len(job.result["sample"]) == 3
    assert await left(lifecycle) == set()


async def test_a_damaged_segment_is_put_in_quarantine_and_the_rest_is_cleaned_up(
    lifecycle: Lifecycle, clock: FrozenClock, tmp_path: Path
) -> None:
    dataset = await a_dataset(lifecycle, tenant_id=SPORTS)
    whole = await put(lifecycle, dataset, days_ago=50, quality=0.1)
    cut = await put(lifecycle, dataset, days_ago=-5 / 86_400, quality=0.1, tier=StorageTier.COLD)
    (tmp_path / "objects" / cut.object_path).write_bytes(b"rubbish")

    job = await cleaned_up(lifecycle)
    clock.advance(timedelta(seconds=2))
    before = await left(lifecycle)
    again = await cleaned_up(lifecycle)

    assert job.result is not None
    assert (job.state, job.result["segment_count"], before) == (JobState.SUCCEEDED, 1, {cut.segment_id})
    assert whole.segment_id not in before
    for each in (job, again):
        assert each.result is not None
        assert [(told["segment_id"], told["kind"]) for told in each.result["skipped"]] == [
            (cut.segment_id, "quarantine")
        ]
    async with lifecycle.database.tenant_transaction(SPORTS) as connection:
        [damaged] = await read_segments(connection, SPORTS, DataSelection(), state=None)
    assert damaged.state is SegmentState.QUARANTINED
