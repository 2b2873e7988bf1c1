"""`tallygate data put`, `query`, `datasets` and `segments` as a person uses them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from typer.testing import CliRunner, Result

from tallygate_server.app import App
from tallygate_server.cli import app as command_line
from tallygate_server.cli.explanations import CommandError
from tallygate_server.cli.record_files import arrow_streams, record_batches
from tallygate_server.config import Settings
from tallygate_server.domain.identifier import AccountId, TenantId
from tests.support.lifecycle import NOON, a_table
from tests.support.tallygate_process import ROOT

Say = Callable[..., Awaitable[Result]]
RIDE = ("lekhak", "ann", "ride")


@pytest.fixture
async def say(fresh_database: str, fresh_redis: str, tmp_path: Path) -> AsyncIterator[Say]:
    settings = Settings.model_validate(
        {
            "database_url": fresh_database,
            "redis_url": fresh_redis,
            "data_dir": tmp_path / "data",
            "grpc_port": 0,
            "ops_port": 0,
            "run_workers": False,
            "drain_delay_ms": 0,
        }
    )
    async with App.open(settings, catalogs_dir=ROOT / "examples" / "catalogs") as app:
        await app.service.accounts.identify(TenantId("lekhak"), [], account_id=AccountId("ann"))

        async def say(*arguments: str) -> Result:
            return await asyncio.to_thread(
                CliRunner().invoke,
                command_line,
                ["data", *arguments],
                env={"TALLYGATE_TARGET": f"127.0.0.1:{app.grpc_port}"},
            )

        yield say


async def test_a_file_goes_in_once_and_comes_out_in_every_format(say: Say, tmp_path: Path) -> None:
    table = a_table(count=50)
    source = tmp_path / "ride.csv"
    pa.csv.write_csv(table.rename_columns(["when", "heart_rate", "speed"]), source)

    first = await say("put", *RIDE, str(source), "--time-column", "when")
    again = await say("put", *RIDE, str(source), "--time-column", "when")
    shown = await say("query", *RIDE, "--limit", "2", "--column", "speed")
    as_json = json.loads((await say("query", *RIDE, "--json", "--limit", "3")).stdout)
    for name in ("out.csv", "out.parquet", "out.arrow", "out.jsonl"):
        written = await say("query", *RIDE, "--output", str(tmp_path / name))
        assert written.exit_code == 0, written.output
        assert "50 records from 1 segments" in written.stdout

    assert first.exit_code == again.exit_code == 0, first.output
    assert "records put           50" in first.stdout
    assert "put before            50" in again.stdout
    assert "2026-03-01T12:00:01Z  5.1" in shown.stdout
    assert [record["values"]["heart_rate"] for record in as_json["records"]] == [100.0, 101.0, 102.0]
    assert pa.parquet.read_table(tmp_path / "out.parquet").equals(table)
    assert pa.csv.read_csv(tmp_path / "out.csv").num_rows == 50
    assert pa.ipc.open_stream((tmp_path / "out.arrow").read_bytes()).read_all().equals(table)
    lines = (tmp_path / "out.jsonl").read_text("utf-8").splitlines()
    assert json.loads(lines[1]) == {"time": "2026-03-01T12:00:01Z", "heart_rate": 101.0, "speed": 5.1}
    assert not list(tmp_path.glob("*.part"))


async def test_documents_are_put_queried_and_listed(say: Say, tmp_path: Path) -> None:
    source = tmp_path / "posts.jsonl"
    source.write_text('{"time":"2026-03-01T12:00:00Z","record_id":"a","text":"hi"}\n\n{"tags":["x"]}\n', "utf-8")

    put = await say("put", "lekhak", "ann", "post", str(source), "--documents")
    shown = await say("query", "lekhak", "ann", "post")
    datasets = await say("datasets", "lekhak")
    segments = await say("segments", "lekhak", "--tier", "hot", "--state", "live")
    none = await say("segments", "lekhak", "--tier", "cold", "--json")

    assert put.exit_code == 0, put.output
    assert '{"text": "hi"}' in shown.stdout
    assert "post" in datasets.stdout
    assert "hot" in segments.stdout
    assert json.loads(none.stdout)["segments"] == []


async def test_mistakes_are_told_as_sentences(say: Say, tmp_path: Path) -> None:
    file = tmp_path / "ride.csv"
    file.write_text("when,n\n2026-03-01T12:00:00Z,1\n", "utf-8")

    no_time = await say("put", *RIDE, str(file))
    unknown = await say("query", *RIDE)
    format_ = await say("query", *RIDE, "--output", str(tmp_path / "out.xls"))

    assert "has no column 'time'" in no_time.output
    assert "there is no dataset 'ann/ride'" in unknown.output
    assert "must end in" in format_.output
    assert no_time.exit_code == unknown.exit_code == format_.exit_code == 2
    assert not (tmp_path / "out.csv").exists()


def test_calls_stay_within_their_bytes(tmp_path: Path) -> None:
    file = tmp_path / "large.parquet"
    texts = [bytes(range(65, 91)).decode() * 100 + str(number) for number in range(4_000)]
    rows = pa.table({"time": pa.array([NOON] * 4_000, pa.timestamp("us", tz="UTC")), "text": pa.array(texts)})
    pa.parquet.write_table(rows, file)
    lines = tmp_path / "large.jsonl"
    lines.write_text("".join(json.dumps({"time": NOON.isoformat(), "text": text}) + "\n" for text in texts), "utf-8")

    streams = list(arrow_streams(file, time_column="time"))
    batches = list(record_batches(lines, time_column="time"))

    assert sum(count for _, count in streams) == sum(len(batch.records) for batch in batches) == 4_000
    assert len(batches) > 1
    assert max(len(stream) for stream, _ in streams) < 4_000_000
    assert max(batch.ByteSize() for batch in batches) < 4_000_000


def test_a_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text('{"time":"2026-03-01T12:00:00Z"}\n[1]\n', "utf-8")

    with pytest.raises(CommandError, match="line 2: is no JSON object"):
        list(record_batches(file, time_column="time"))
