"""`tallygate data compress`, `impact` and `analyse` as a person uses them."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

from tallygate.v1 import data_lifecycle_pb2 as messages
from tallygate.v1 import data_lifecycle_service_pb2 as pb
from tallygate_server.cli import app as command_line
from tests.support.acme import ACME
from tests.support.lifecycle import NOON
from tests.support.lifecycle_jobs import running_jobs
from tests.support.lifecycle_server import ServedLifecycle, serving_lifecycle

Say = Callable[..., Awaitable[Result]]


@pytest.fixture
async def served(database_without_tenants: str, fresh_redis: str, tmp_path: Path) -> AsyncIterator[ServedLifecycle]:
    async with (
        serving_lifecycle("native", database_without_tenants, fresh_redis, tmp_path) as served,
        running_jobs(served.lifecycle),
    ):
        yield served


@pytest.fixture
def say(served: ServedLifecycle) -> Say:
    """Run commands in a thread: they have a loop of their own."""

    async def say(*arguments: str) -> Result:
        return await asyncio.to_thread(
            CliRunner().invoke, command_line, ["data", *arguments], env={"TALLYGATE_TARGET": served.address}
        )

    return say


async def put_ride(served: ServedLifecycle, count: int = 1_200) -> None:
    numbers = random.Random(2)
    start = int(NOON.timestamp()) * 1_000_000
    columns = [
        messages.ColumnValues(
            name="power",
            int64_values=messages.Int64Values(values=[200 + int(numbers.gauss(0, 30)) for _ in range(count)]),
        ),
        messages.ColumnValues(
            name="what",
            string_values=messages.StringValues(values=[numbers.choice(["climb", "roll"]) for _ in range(count)]),
        ),
    ]
    times = [start + place * 1_000_000 for place in range(count)]
    batch = messages.ColumnBatch(time_micros=times, columns=columns)
    await served.stub.PutRecords(
        pb.PutRecordsRequest(tenant_id=ACME, account_id="ann", data_type="ride", columns=batch)
    )


async def test_data_is_measured_compressed_and_shown(served: ServedLifecycle, say: Say, tmp_path: Path) -> None:
    await put_ride(served)
    summary = ("--form", "summary", "--window", "5m", "--zones", "power=180,220")

    measured = await say("impact", ACME, *summary, "--account", "ann", "--predict", "power")
    dry = await say("compress", ACME, *summary, "--dry-run")
    rows = await say("analyse", ACME, "--rows", "3", "--output", str(tmp_path / "rows.arrow"))
    done = await say("compress", ACME, *summary)
    windows = await say("analyse", ACME, "--kind", "windows", "--resolution", "10m", "--column", "power")
    gone = await say("analyse", ACME)
    again = await say("compress", ACME, "--form", "statistical", "--max-error", "0.05", "--json")

    assert measured.exit_code == 0, measured.output
    assert "r2 of" in measured.stdout
    assert "nothing was changed" in dry.stdout
    assert rows.exit_code == 0, rows.output
    with pa.ipc.open_stream((tmp_path / "rows.arrow").read_bytes()) as stream:
        assert stream.read_all().num_rows == 1_200
    assert done.exit_code == 0, done.output
    assert "summary" in done.stdout
    assert "Single records are gone" in done.stdout
    header = windows.stdout.split("2026-03-01")[0].replace("\n", " ")
    assert "power.mean" in header or "mean" in header
    assert "p95" not in header
    assert "quantiles are approximate" in windows.stdout
    assert (gone.exit_code, "FORM_NOT_RESTORABLE" in gone.output or "Single records" in gone.output) == (2, True)
    assert json.loads(again.stdout)["compression"]["skipped"][0]["kind"] == "form"


async def test_a_plan_waits_and_documents_are_json(served: ServedLifecycle, say: Say) -> None:
    await put_ride(served, 50)

    planned = await say("compress", ACME, "--form", "behavioral", "--gap", "10m", "--at", "2040-01-01")
    behavior = await say("analyse", ACME, "--kind", "behavior")
    wrong = await say("compress", ACME, "--form", "summary", "--window", "soon")
    without = await say("compress", ACME, "--max-error", "0.5")
    nothing = await say("analyse", ACME, "--account", "nobody")

    assert "pending" in planned.stdout
    assert '"climb"' in behavior.stdout
    assert (wrong.exit_code, "--window soon" in wrong.output) == (2, True)
    assert (without.exit_code, "--form" in without.output) == (2, True)
    assert "no such data" in nothing.stdout
