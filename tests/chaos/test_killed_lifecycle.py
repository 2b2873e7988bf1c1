"""Processes that move, archive, restore and erase data are killed at random moments: nothing is lost or half done."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from tallygate_server.domain.identifier import AccountId
from tallygate_server.domain.lifecycle import (
    DataSelection,
    JobKind,
    JobState,
    Segment,
    SegmentState,
    StorageTier,
)
from tallygate_server.lifecycle.assembly import Lifecycle
from tallygate_server.lifecycle.tiers.records import merged
from tallygate_server.storage.data_segments import read_segments
from tests.support.acme import ACME, apply_catalog, services
from tests.support.eventually import eventually
from tests.support.lifecycle import a_dataset, a_table, lifecycles
from tests.support.lifecycle_worker import SPAN_SECONDS, a_runner, erasure_id
from tests.support.long_run import LONG

pytestmark = pytest.mark.chaos

KILLS = 200 if LONG else 4
SEED = random.SystemRandom().randrange(2**32) if LONG else 20_261_120
DELAY_SECONDS_MAX = 1.5
ROOT = Path(__file__).parents[2]
KEPT = ("ann", "bob")
ERASED = tuple(f"leaver-{number}" for number in range(KILLS // 3))


async def kill_one(database_url: str, redis_url: str, directory: Path, chance: random.Random) -> None:
    """Let a process work for a random while, and kill it."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.lifecycle_worker", database_url, redis_url, str(directory)),
        *(str(chance.randrange(2**32)), *ERASED),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), timeout=120) == b"ready\n"
        try:
            code = await asyncio.wait_for(process.wait(), timeout=chance.uniform(0, DELAY_SECONDS_MAX))
        except TimeoutError:
            code = None
        assert code is None, "it worked until it was killed"
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def segments_of(lifecycle: Lifecycle, account_id: str) -> list[Segment]:
    async with lifecycle.database.tenant_transaction(ACME) as connection:
        return await read_segments(connection, ACME, DataSelection(account_id=AccountId(account_id)), state=None)


Seen = dict[str, frozenset[tuple[str, bytes]]]
"""Ids and checksums of an account's segments when its records were read last: what is the same is not read again."""


async def assert_whole(lifecycle: Lifecycle, account_id: str, expected: pa.Table, seen: Seen) -> None:
    """Every record is there once, in whatever tier."""
    segments = await segments_of(lifecycle, account_id)
    assert {segment.state for segment in segments} == {SegmentState.LIVE}
    present = frozenset((segment.segment_id, segment.checksum) for segment in segments)
    if seen.get(account_id) == present:
        return
    seen[account_id] = present
    table = merged([await lifecycle.segments.read(segment) for segment in segments], [])
    assert table.sort_by("time").equals(expected), account_id


async def erasure_of(lifecycle: Lifecycle, account_id: str) -> JobState | None:
    jobs = await lifecycle.jobs.page(
        ACME, account_id=None, kind=JobKind.ERASURE, state=None, before_job_id="", limit=1_000
    )
    states = [job.state for job in jobs if job.request_id == erasure_id(account_id)]
    return states[0] if states else None


async def test_kills_at_random_moments_lose_nothing(fresh_database: str, fresh_redis: str, tmp_path: Path) -> None:
    await apply_catalog(fresh_database)
    chance = random.Random(SEED)
    expected = a_table(count=SPAN_SECONDS)
    seen: Seen = {}
    async with (
        services(fresh_database, fresh_redis) as [service],
        lifecycles(fresh_database, service, tmp_path) as lifecycle,
    ):
        for account_id in (*KEPT, *ERASED):
            await service.accounts.provision(ACME, AccountId(account_id))
            dataset = await a_dataset(lifecycle, account_id=AccountId(account_id))
            for begin in range(0, SPAN_SECONDS, 500):
                piece = expected.slice(begin, 500)
                prepared = await lifecycle.segments.prepare(dataset, piece, tier=StorageTier.HOT)
                async with lifecycle.database.tenant_transaction(ACME) as connection:
                    await lifecycle.segments.put_hot(connection, prepared)

        for _ in range(KILLS):
            await kill_one(fresh_database, fresh_redis, tmp_path, chance)
            for account_id in KEPT:
                await assert_whole(lifecycle, account_id, expected, seen)
            for account_id in ERASED:
                state = await erasure_of(lifecycle, account_id)
                if state is None:
                    await assert_whole(lifecycle, account_id, expected, seen)
                elif state.ended:
                    assert await segments_of(lifecycle, account_id) == []

        async def open_jobs() -> list[str]:
            await a_runner(lifecycle).run_due()
            jobs = await lifecycle.jobs.page(
                ACME, account_id=None, kind=None, state=None, before_job_id="", limit=1_000
            )
            assert [job for job in jobs if job.state in {JobState.FAILED, JobState.CANCELED}] == []
            return [job.job_id for job in jobs if not job.state.ended]

        async def all_ended() -> bool:
            return not await open_jobs()

        await eventually(all_ended)
        for account_id in KEPT:
            await assert_whole(lifecycle, account_id, expected, {})
        for account_id in ERASED:
            if await erasure_of(lifecycle, account_id) is not None:
                assert await segments_of(lifecycle, account_id) == []

        # A writer that died is given an hour; afterwards the store holds what the manifest says, and nothing else.
        async with lifecycle.database.tenant_transaction(ACME) as connection:
            await connection.exec_driver_sql("UPDATE stored_objects SET create_time = '2026-01-01'")
        await lifecycle.segments.sweep_objects(ACME)
        everybody = [each for account_id in (*KEPT, *ERASED) for each in await segments_of(lifecycle, account_id)]
        stored = {str(file.relative_to(tmp_path / "objects")) for file in (tmp_path / "objects").rglob("seg_*")}
        assert stored == {segment.object_path for segment in everybody if segment.object_path}
