"""Jobs run at their intervals, one runner at a time, and leave a row for what they did."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from tallygate_server.errors import StoreUnavailable
from tallygate_server.storage.engine import DatabaseRole, connect
from tallygate_server.workers import jobs
from tallygate_server.workers.jobs import Job, JobRunner
from tests.support.eventually import eventually


async def runs(database_url: str, job: str = "work") -> list[tuple[str, Any]]:
    connection = await connect(database_url, DatabaseRole.APP)
    try:
        rows = await connection.fetch("SELECT state, detail FROM job_runs WHERE job = $1 ORDER BY run_id", job)
        return [(row["state"], json.loads(row["detail"])) for row in rows]
    finally:
        await connection.close()


def a_job(run: Callable[[], Any], name: str = "work") -> Job:
    return Job(name=name, interval_seconds=0.001, run=run)


async def test_what_was_done_leaves_a_row_and_nothing_leaves_none(fresh_database: str) -> None:
    results: list[dict[str, int]] = [{"swept": 1}, {}, {}, {"swept": 2}]

    async def work() -> dict[str, int]:
        return results.pop(0) if results else {}

    runner = JobRunner(fresh_database, [a_job(work)])
    await runner.start()
    await eventually(lambda: not results)
    await eventually(lambda: has(fresh_database, 2))
    await runner.close()

    assert await runs(fresh_database) == [("succeeded", {"swept": 1}), ("succeeded", {"swept": 2})]


async def has(database_url: str, count: int) -> bool:
    return len(await runs(database_url)) >= count


async def test_one_runner_at_a_time_over_many_servers(fresh_database: str) -> None:
    at_once = most = done = 0

    async def work() -> dict[str, int]:
        nonlocal at_once, most, done
        at_once += 1
        most = max(most, at_once)
        for _ in range(5):
            await asyncio.sleep(0)
        at_once -= 1
        done += 1
        return {}

    runners = [JobRunner(fresh_database, [a_job(work)]) for _ in range(4)]
    for runner in runners:
        await runner.start()
    await eventually(lambda: done > 40)
    for runner in runners:
        await runner.close()

    assert most == 1


async def test_jobs_of_unlike_names_run_side_by_side(fresh_database: str) -> None:
    both = asyncio.Barrier(2)

    async def work() -> dict[str, int]:
        async with asyncio.timeout(60):
            await both.wait()
        return {"met": 1}

    runner = JobRunner(fresh_database, [a_job(work, "work"), a_job(work, "other")])
    await runner.start()
    await eventually(lambda: has(fresh_database, 1))
    await runner.close()


@pytest.mark.parametrize("error", [ZeroDivisionError(), StoreUnavailable("away")])
async def test_a_failure_is_recorded_and_the_job_goes_on(fresh_database: str, error: Exception) -> None:
    attempts = 0

    async def work() -> dict[str, int]:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise error
        return {"attempt": attempts} if attempts == 2 else {}

    runner = JobRunner(fresh_database, [a_job(work)])
    await runner.start()
    await eventually(lambda: has(fresh_database, 2))
    await runner.close()

    assert await runs(fresh_database) == [
        ("failed", {"error": type(error).__name__}),
        ("succeeded", {"attempt": 2}),
    ]


async def test_a_runner_that_dies_lets_go_of_its_job(fresh_database: str) -> None:
    hangs, started = asyncio.Event(), asyncio.Event()

    async def hang() -> dict[str, int]:
        started.set()
        await hangs.wait()
        return {}

    async def work() -> dict[str, int]:
        return {"by": 2}

    first, second = JobRunner(fresh_database, [a_job(hang)]), JobRunner(fresh_database, [a_job(work)])
    await first.start()
    await started.wait()
    await second.start()
    assert await runs(fresh_database) == []
    await first.close()
    await eventually(lambda: has(fresh_database, 1))
    await second.close()

    assert (await runs(fresh_database))[0] == ("succeeded", {"by": 2})


async def test_a_runner_outlives_its_connections_and_a_missing_table(fresh_database: str) -> None:
    done = 0

    async def work() -> dict[str, int]:
        nonlocal done
        done += 1
        return {"n": done}

    owner = await asyncpg.connect(fresh_database)
    runner = JobRunner(fresh_database, [a_job(work)])
    await runner.start()
    await eventually(lambda: done > 2)
    await owner.execute("ALTER TABLE job_runs RENAME TO elsewhere")
    before = done
    await eventually(lambda: done > before + 2)
    await owner.execute("ALTER TABLE elsewhere RENAME TO job_runs")
    rows = len(await runs(fresh_database))
    await eventually(lambda: has(fresh_database, rows + 2))
    await runner.close()
    await owner.close()


async def test_no_more_rows_are_kept_than_the_bound(fresh_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "RUNS_KEPT_PER_JOB", 3)
    done = 0

    async def work() -> dict[str, int]:
        nonlocal done
        done += 1
        return {"n": done}

    async def other() -> dict[str, int]:
        return {"other": 1}

    runner = JobRunner(fresh_database, [a_job(work), a_job(other, "other")])
    await runner.start()
    await eventually(lambda: done > 8)
    await runner.close()

    kept = [detail["n"] for _, detail in await runs(fresh_database)]
    assert len(kept) == 3
    assert kept == list(range(kept[0], kept[0] + 3))
    assert kept[-1] >= 8
