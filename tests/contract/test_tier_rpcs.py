"""Archiving, restoring and checking through a real channel, on both transports, over real stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest
from grpc import aio

from tallygate.v1 import data_lifecycle_pb2 as data
from tallygate.v1 import data_lifecycle_service_pb2 as wire
from tallygate_server.domain.lifecycle import DataSelection, Dataset, Segment, SegmentState, StorageTier
from tallygate_server.lifecycle.jobs import LifecycleJobRunner
from tallygate_server.storage.data_segments import read_segments, write_segment
from tallygate_server.transport.convert import to_api_instant
from tests.support.acme import ACME, ANN
from tests.support.clock import FrozenClock
from tests.support.lifecycle import NOON, a_dataset, a_table
from tests.support.lifecycle_server import TRANSPORTS, ServedLifecycle, serving_lifecycle
from tests.support.transport_servers import refusal_of


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(NOON + timedelta(hours=1))


@pytest.fixture(params=TRANSPORTS)
async def served(
    request: pytest.FixtureRequest, fresh_database: str, fresh_redis: str, tmp_path: Path, clock: FrozenClock
) -> AsyncIterator[ServedLifecycle]:
    async with serving_lifecycle(request.param, fresh_database, fresh_redis, tmp_path, clock=clock) as served:
        yield served


async def done(served: ServedLifecycle, answer: Any) -> data.LifecycleJob:
    """Run what was asked for and return the job as it is afterwards."""
    await LifecycleJobRunner(served.lifecycle.jobs).run_due()
    asked = wire.GetLifecycleJobRequest(tenant_id=ACME, job_id=answer.job.job_id)
    job: data.LifecycleJob = (await served.stub.GetLifecycleJob(asked)).job
    assert job.state == data.LIFECYCLE_JOB_STATE_SUCCEEDED, job
    return job


async def put_hot(served: ServedLifecycle, dataset: Dataset, table: pa.Table) -> Segment:
    segments = served.lifecycle.segments
    prepared = await segments.prepare(dataset, table, tier=StorageTier.HOT)
    async with segments.database.tenant_transaction(dataset.tenant_id) as connection:
        await segments.put_hot(connection, prepared)
    return prepared.segment


async def manifest(served: ServedLifecycle) -> list[Segment]:
    async with served.lifecycle.database.tenant_transaction(ACME) as connection:
        return await read_segments(connection, ACME, DataSelection(), state=None)


async def rows_of(served: ServedLifecycle) -> pa.Table:
    tables = [await served.lifecycle.segments.read(segment) for segment in await manifest(served)]
    return pa.concat_tables(tables).sort_by("time")


def chosen(start_time: datetime | None = None, end_time: datetime | None = None) -> data.DataSelection:
    return data.DataSelection(
        account_id=ANN,
        data_types=["ride"],
        start_time=to_api_instant(start_time) if start_time else None,
        end_time=to_api_instant(end_time) if end_time else None,
    )


async def test_a_part_is_archived_and_the_rest_stays(served: ServedLifecycle, clock: FrozenClock) -> None:
    dataset = await a_dataset(served.lifecycle)
    await put_hot(served, dataset, a_table(count=100))
    request = wire.ArchiveDataRequest(
        tenant_id=ACME,
        selection=chosen(NOON + timedelta(seconds=20), NOON + timedelta(seconds=50)),
        retention_days=10,
        validate_only=True,
    )

    trial = await done(served, await served.stub.ArchiveData(request))
    untouched = await manifest(served)
    request.validate_only = False
    job = await done(served, await served.stub.ArchiveData(request))

    assert [segment.tier for segment in untouched] == [StorageTier.HOT]
    assert trial.move.segment_count == 1
    found = {(segment.tier.name, segment.record_count) for segment in await manifest(served)}
    assert found == {("HOT", 20), ("COLD", 30), ("HOT", 50)}
    assert (await rows_of(served)).equals(a_table(count=100))
    assert (job.move.segment_count, job.move.record_count) == (1, 30)
    assert job.move.target_tier == data.STORAGE_TIER_COLD
    [told] = job.move.segments
    assert (told.record_count, told.encrypted, told.state) == (30, True, data.SEGMENT_STATE_LIVE)
    assert job.move.retention_end_time == to_api_instant(clock.now() + timedelta(days=10))


async def test_what_was_restored_goes_back_by_itself(served: ServedLifecycle, clock: FrozenClock) -> None:
    dataset = await a_dataset(served.lifecycle)
    await put_hot(served, dataset, a_table())
    await done(served, await served.stub.ArchiveData(wire.ArchiveDataRequest(tenant_id=ACME, selection=chosen())))
    clock.advance(timedelta(days=200))

    request = wire.RestoreDataRequest(tenant_id=ACME, selection=chosen(), target_tier=data.STORAGE_TIER_HOT)
    job = await done(served, await served.stub.RestoreData(request))
    restored = await manifest(served)
    clock.advance(timedelta(days=6))
    await served.lifecycle.mover.run()
    before = await manifest(served)
    clock.advance(timedelta(days=1, seconds=1))
    await served.lifecycle.mover.run()
    [after] = await manifest(served)

    assert (job.move.target_tier, job.move.record_count) == (data.STORAGE_TIER_HOT, 100)
    assert [segment.tier for segment in restored] == [segment.tier for segment in before] == [StorageTier.HOT]
    assert after.tier is StorageTier.WARM
    assert (await rows_of(served)).equals(a_table())


async def test_damage_is_found_named_and_put_in_quarantine(served: ServedLifecycle, tmp_path: Path) -> None:
    made = {}
    for kind in ("sound", "flipped", "missing", "miscounted"):
        dataset = await a_dataset(served.lifecycle, data_type=kind)
        await put_hot(served, dataset, a_table())
    everything = data.DataSelection(account_id=ANN)
    await done(served, await served.stub.ArchiveData(wire.ArchiveDataRequest(tenant_id=ACME, selection=everything)))
    made = {segment.data_type: segment for segment in await manifest(served)}
    objects = tmp_path / "objects"
    flipped = bytearray((objects / made["flipped"].object_path).read_bytes())
    flipped[40] ^= 4
    (objects / made["flipped"].object_path).write_bytes(flipped)
    lost = (objects / made["missing"].object_path).rename(tmp_path / "lost")
    async with served.lifecycle.database.tenant_transaction(ACME) as connection:
        await write_segment(connection, ACME, made["miscounted"].segment_id, {"record_count": 99})

    request = wire.ValidateIntegrityRequest(tenant_id=ACME, validate_only=True)
    trial = (await done(served, await served.stub.ValidateIntegrity(request))).integrity
    states = {segment.data_type: segment.state for segment in await manifest(served)}
    request.validate_only = False
    report = (await done(served, await served.stub.ValidateIntegrity(request))).integrity
    quarantined = {segment.data_type for segment in await manifest(served) if segment.state == SegmentState.QUARANTINED}

    assert set(states.values()) == {SegmentState.LIVE}
    for each in (trial, report):
        assert {(finding.segment_id, finding.kind) for finding in each.findings} == {
            (made["flipped"].segment_id, data.INTEGRITY_FINDING_KIND_CHECKSUM_MISMATCH),
            (made["missing"].segment_id, data.INTEGRITY_FINDING_KIND_MISSING),
            (made["miscounted"].segment_id, data.INTEGRITY_FINDING_KIND_COUNT_MISMATCH),
        }
    assert (report.segment_count, report.finding_count) == (4, 3)
    assert all(finding.quarantined for finding in report.findings)
    assert quarantined == {"flipped", "missing", "miscounted"}

    lost.rename(objects / made["missing"].object_path)
    request.depth = wire.INTEGRITY_DEPTH_VALUES
    await done(served, await served.stub.ValidateIntegrity(request))

    quarantined = {segment.data_type for segment in await manifest(served) if segment.state == SegmentState.QUARANTINED}
    assert quarantined == {"flipped", "miscounted"}


async def test_what_others_move_meanwhile_is_archived_all_the_same(
    served: ServedLifecycle, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = await a_dataset(served.lifecycle)
    for begin in range(0, 300, 100):
        await put_hot(served, dataset, a_table(NOON + timedelta(seconds=begin)))
    clock.advance(timedelta(days=40))
    mover = served.lifecycle.mover
    move_group = mover.move_group

    async def overtaken(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(mover, "move_group", move_group)
        await mover.run()
        return await move_group(*arguments, **options)

    monkeypatch.setattr(mover, "move_group", overtaken)
    answer = await served.stub.ArchiveData(wire.ArchiveDataRequest(tenant_id=ACME, selection=chosen()))
    job = await done(served, answer)

    assert [(segment.tier, segment.record_count) for segment in await manifest(served)] == [(StorageTier.COLD, 300)]
    assert (job.move.segment_count, job.move.record_count) == (1, 300)


async def test_a_damaged_segment_is_left_behind_and_named(served: ServedLifecycle) -> None:
    dataset = await a_dataset(served.lifecycle)
    damaged = await put_hot(served, dataset, a_table())
    await put_hot(served, dataset, a_table(NOON + timedelta(seconds=100)))
    async with served.lifecycle.database.tenant_transaction(ACME) as connection:
        await write_segment(connection, ACME, damaged.segment_id, {"checksum": b"another"})

    answer = await served.stub.ArchiveData(wire.ArchiveDataRequest(tenant_id=ACME, selection=chosen()))
    job = await done(served, answer)

    assert [(skipped.segment_id, skipped.kind) for skipped in job.move.skipped] == [(damaged.segment_id, "quarantine")]
    found = {segment.segment_id: (segment.tier, segment.state) for segment in await manifest(served)}
    assert found.pop(damaged.segment_id) == (StorageTier.HOT, SegmentState.QUARANTINED)
    assert list(found.values()) == [(StorageTier.COLD, SegmentState.LIVE)]


async def test_a_tier_that_is_none_is_named(served: ServedLifecycle) -> None:
    selection = data.DataSelection(account_id=ANN, tiers=[data.STORAGE_TIER_WARM, data.STORAGE_TIER_UNSPECIFIED])

    with pytest.raises(aio.AioRpcError) as caught:
        await served.stub.ArchiveData(wire.ArchiveDataRequest(tenant_id=ACME, selection=selection))

    refusal = refusal_of(caught.value)
    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["selection.tiers[1]"])
