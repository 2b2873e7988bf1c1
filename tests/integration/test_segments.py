"""Segments are written, read back, replaced and found damaged, in rows and objects."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from tallygate_server.domain.lifecycle import (
    CompressionForm,
    DataSelection,
    Dataset,
    Segment,
    SegmentState,
    StorageTier,
)
from tallygate_server.errors import ArchiveCorruption, IntegrityViolation, SegmentsChanged
from tallygate_server.lifecycle.assembly import Lifecycle, open_lifecycle
from tallygate_server.lifecycle.keys import MasterKeys
from tallygate_server.lifecycle.segments import PreparedSegment
from tallygate_server.storage.data_segments import read_payload, read_segments
from tests.support.acme import ACME, apply_catalog, services
from tests.support.lifecycle import NOON, a_dataset, a_table, lifecycles, options_in


@pytest.fixture
async def lifecycle(fresh_database: str, fresh_redis: str, tmp_path: Path) -> AsyncIterator[Lifecycle]:
    await apply_catalog(fresh_database)
    async with (
        services(fresh_database, fresh_redis) as [service],
        lifecycles(fresh_database, service, tmp_path) as made,
    ):
        yield made


async def put_hot(lifecycle: Lifecycle, dataset: Dataset, *, count: int = 100) -> Segment:
    prepared = await lifecycle.segments.prepare(dataset, a_table(count=count), tier=StorageTier.HOT)
    async with lifecycle.database.tenant_transaction(dataset.tenant_id) as connection:
        await lifecycle.segments.put_hot(connection, prepared)
    return prepared.segment


async def moved(lifecycle: Lifecycle, dataset: Dataset, old: Segment, tier: StorageTier) -> Segment:
    prepared = await lifecycle.segments.prepare(dataset, await lifecycle.segments.read(old), tier=tier)
    [new] = await lifecycle.segments.replace([old], [prepared], actor="test", action="data.moved")
    return new


async def manifest(lifecycle: Lifecycle) -> list[Segment]:
    async with lifecycle.database.tenant_transaction(ACME) as connection:
        return await read_segments(connection, ACME, DataSelection(), state=None)


async def test_records_come_back_from_every_tier(lifecycle: Lifecycle, tmp_path: Path) -> None:
    dataset = await a_dataset(lifecycle)
    hot = await put_hot(lifecycle, dataset)

    warm = await moved(lifecycle, dataset, hot, StorageTier.WARM)
    from_warm = await lifecycle.segments.read(warm)
    cold = await moved(lifecycle, dataset, warm, StorageTier.COLD)
    from_cold = await lifecycle.segments.read(cold, columns=["speed"])

    assert from_warm.equals(a_table())
    assert from_cold.equals(a_table().select(["time", "speed"]))
    assert await manifest(lifecycle) == [cold]
    assert (hot.form, warm.form, cold.form) == (
        CompressionForm.NONE,
        CompressionForm.LOSSLESS,
        CompressionForm.LOSSLESS,
    )
    assert hot.values_digest == warm.values_digest == cold.values_digest
    assert [path.name for path in (tmp_path / "objects").rglob("seg_*")] == [cold.segment_id]


async def test_what_was_replaced_meanwhile_is_not_replaced_again(lifecycle: Lifecycle, tmp_path: Path) -> None:
    dataset = await a_dataset(lifecycle)
    hot = await put_hot(lifecycle, dataset)
    prepared = await lifecycle.segments.prepare(dataset, a_table(), tier=StorageTier.COLD)
    warm = await moved(lifecycle, dataset, hot, StorageTier.WARM)

    with pytest.raises(SegmentsChanged):
        await lifecycle.segments.replace([hot], [prepared], actor="test", action="data.moved")

    assert await manifest(lifecycle) == [warm]
    assert len(list((tmp_path / "objects").rglob("seg_*"))) == 1


@pytest.mark.parametrize("tier", [StorageTier.WARM, StorageTier.COLD])
async def test_what_reads_back_differently_takes_no_place(lifecycle: Lifecycle, tier: StorageTier) -> None:
    dataset = await a_dataset(lifecycle)
    hot = await put_hot(lifecycle, dataset)
    prepared = await lifecycle.segments.prepare(dataset, a_table(), tier=tier)
    torn = PreparedSegment(
        segment=prepared.segment, sealed=prepared.sealed[:-1], verify=prepared.verify, key=prepared.key
    )

    with pytest.raises((IntegrityViolation, ArchiveCorruption)):
        await lifecycle.segments.replace([hot], [torn], actor="test", action="data.moved")

    assert await manifest(lifecycle) == [hot]
    assert (await lifecycle.segments.read(hot)).equals(a_table())


async def test_a_flipped_bit_of_an_object_is_an_error_that_names_the_segment(
    lifecycle: Lifecycle, tmp_path: Path
) -> None:
    dataset = await a_dataset(lifecycle)
    cold = await moved(lifecycle, dataset, await put_hot(lifecycle, dataset), StorageTier.COLD)
    file = tmp_path / "objects" / cold.object_path
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)

    with pytest.raises(ArchiveCorruption) as caught:
        await lifecycle.segments.read(cold)
    assert caught.value.facts["segment_id"] == cold.segment_id
    assert await lifecycle.segments.quarantine(cold, "a flipped bit", actor="test")

    assert [segment.state for segment in await manifest(lifecycle)] == [SegmentState.QUARANTINED]


async def test_nothing_stored_is_readable(lifecycle: Lifecycle) -> None:
    dataset = await a_dataset(lifecycle)
    table = a_table(note=["a very private remark"] * 100)
    prepared = await lifecycle.segments.prepare(dataset, table, tier=StorageTier.HOT, facts={"said": "private"})
    async with lifecycle.database.tenant_transaction(ACME) as connection:
        await lifecycle.segments.put_hot(connection, prepared)
        stored = await read_payload(connection, ACME, prepared.segment.segment_id)

    assert stored is not None
    assert b"private" not in stored + prepared.segment.facts
    assert (await lifecycle.segments.read_facts(prepared.segment))["said"] == "private"
    assert (await lifecycle.segments.read(prepared.segment)).num_rows == 100
    assert prepared.segment.start_time == NOON


async def test_a_server_without_the_keys_takes_nothing_away(
    lifecycle: Lifecycle, fresh_database: str, tmp_path: Path
) -> None:
    dataset = await a_dataset(lifecycle)
    hot = await put_hot(lifecycle, dataset)
    strangers = MasterKeys(keys={"first": bytes(32)})
    options = replace(options_in(tmp_path), master_keys=strangers)
    elsewhere = replace(options_in(tmp_path), key_store_url=(tmp_path / "other keys").as_uri())

    for wrong in (options, elsewhere):
        async with open_lifecycle(fresh_database, lifecycle.service, wrong, clock=lifecycle.clock) as other:
            with pytest.raises(IntegrityViolation) as caught:
                await other.segments.read(hot)
            assert not await other.segments.quarantine(hot, str(caught.value), actor="test")

    assert [segment.state for segment in await manifest(lifecycle)] == [SegmentState.LIVE]
