"""`tallygate usage record` and `tallygate usage events`, against a server in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tallygate.v1 import usage_event_pb2
from tallygate_server.app import App
from tallygate_server.cli import app as command_line
from tallygate_server.cli import usage_event_commands
from tallygate_server.cli.usage_event_commands import LineError, cost_text, event_of
from tallygate_server.config import Settings
from tests.support.recording import METERED, apply_metered_catalog

Say = Callable[..., Awaitable[Result]]


@pytest.fixture
async def say(fresh_database: str, fresh_redis: str) -> AsyncIterator[Say]:
    """Serve the tenant `metered`, and run commands in a thread: they have a loop of their own."""
    await apply_metered_catalog(fresh_database)
    settings = Settings.model_validate(
        {
            "database_url": fresh_database,
            "redis_url": fresh_redis,
            "grpc_port": 0,
            "ops_port": 0,
            "run_workers": False,
            "drain_delay_ms": 0,
        }
    )
    async with App.open(settings) as app:

        async def say(*arguments: str, sent: str | None = None) -> Result:
            return await asyncio.to_thread(
                CliRunner().invoke,
                command_line,
                ["usage", *arguments],
                env={"TALLYGATE_TARGET": f"127.0.0.1:{app.grpc_port}"},
                input=sent,
            )

        yield say


def a_line(event_id: str, **more: Any) -> str:
    attributes = {
        "specversion": "1.0",
        "id": event_id,
        "source": "/chat",
        "type": "llm.call",
        "subject": "ann",
        "datacontenttype": "application/json",
        "ai": {"model_key": "small", "input_tokens": 1_000, "output_tokens": 500, "operation": "chat"},
        "data": {"region": "eu"},
        **more,
    }
    return json.dumps(attributes)


async def test_a_file_is_recorded_and_going_on_records_the_rest(say: Say, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join([a_line("1"), "", a_line("2")]))
    first = await say("record", METERED, str(file))
    file.write_text("\n".join([a_line("1"), a_line("2"), a_line("3", type="other")]))

    again = await say("record", METERED, str(file), "--json")
    shown = await say("events", METERED, "--account", "ann")

    assert first.exit_code == 0, first.output
    assert first.stdout.split() == ["recorded", "2", "cost", "0.0009", "USD"]
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout) == {
        "recorded": 1,
        "duplicates": 2,
        "refused": 0,
        "cost_nanos": {"USD": 450_000},
        "refused_lines": [],
    }
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["happened", "account", "type", "source", "id", "tokens", "cost", "meters"]
    assert [line.split("/chat")[1].split()[0] for line in lines[1:]] == ["3", "2", "1"]
    assert "0.00045 USD" in lines[2]
    assert "ai_cost, requests, tokens" in lines[2]


async def test_each_refused_line_is_named_and_the_others_are_recorded(say: Say, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text(
        "\n".join(
            [
                a_line("1"),
                "{",
                a_line("2", source="with space"),
                a_line("1", subject="bob"),
                a_line("3", data=[1]),
                a_line("4"),
                a_line("5", time="yesterday"),
                "7",
            ]
        )
    )

    result = await say("record", METERED, str(file), "--json")

    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert (report["recorded"], report["refused"]) == (2, 6)
    refused = {each["line"]: each["reason"] for each in report["refused_lines"]}
    assert refused == {
        2: "LINE_UNREADABLE",
        3: "VALIDATION_FAILED",
        4: "EVENT_ID_REUSED",
        5: "LINE_UNREADABLE",
        7: "LINE_UNREADABLE",
        8: "LINE_UNREADABLE",
    }
    assert "line 3: source: " in result.stderr
    assert "line 4: id: event '1' of '/chat' was recorded before with other content (EVENT_ID_REUSED)" in result.stderr


async def test_events_come_from_standard_input_in_batches(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_event_commands, "BATCH_EVENTS_MAX", 10)

    result = await say("record", METERED, "-", "--json", sent="\n".join(a_line(str(n)) for n in range(25)))

    assert json.loads(result.stdout)["recorded"] == 25
    listed = await say("events", METERED, "-n", "20")
    assert listed.stdout.splitlines()[-1] == "There are more than 20."


async def test_a_line_has_a_bound(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    length = len(a_line("1")) + 1
    monkeypatch.setattr(usage_event_commands, "LINE_BYTES_MAX", length)

    result = await say("record", METERED, "-", "--json", sent="\n".join([a_line("1"), a_line("22"), a_line("3"), ""]))

    report = json.loads(result.stdout)
    assert report["recorded"] == 2
    assert [(each["line"], each["reason"]) for each in report["refused_lines"]] == [(2, "LINE_TOO_LONG")]


async def test_events_are_filtered(say: Say) -> None:
    lines = [a_line("1"), a_line("2", subject="bob", type="other"), a_line("3", source="/jobs")]
    await say("record", METERED, "-", sent="\n".join(lines))

    async def found(*options: str) -> list[str]:
        result = await say("events", METERED, "--json", *options)
        assert result.exit_code == 0, result.output
        return [each["event"]["id"] for each in json.loads(result.stdout)["events"]]

    assert await found() == ["3", "2", "1"]
    assert await found("-a", "bob") == ["2"]
    assert await found("--type", "llm.call") == ["3", "1"]
    assert await found("--source", "/jobs") == ["3"]
    assert await found("--id", "1") == ["1"]
    assert await found("--start", "2099-01-01") == []
    assert await found("--end", "2020-01-01T00:00") == []
    none = await say("events", METERED, "--end", "2020-01-01")
    assert none.stdout == "There are no such events.\n"


async def test_what_cannot_be_done_is_said_in_a_sentence(say: Say, tmp_path: Path) -> None:
    missing = await say("record", METERED, str(tmp_path / "none.jsonl"))
    nobody = await say("record", "nobody", "-", sent=a_line("1"))
    time = await say("events", METERED, "--start", "now")

    assert [each.exit_code for each in (missing, nobody, time)] == [2, 2, 2]
    assert "there is no such file" in missing.stderr
    assert "TENANT_NOT_FOUND" in nobody.stderr
    assert "--start now: say a time" in time.stderr


def test_a_line_is_an_event_with_the_attributes_that_are_known() -> None:
    event = event_of(a_line("1", time="2026-03-01T12:00:00+01:00", extension="x").encode())

    assert event == usage_event_pb2.UsageEvent(
        id="1",
        source="/chat",
        type="llm.call",
        subject="ann",
        time=event.time,
        data=event.data,
        ai={"model_key": "small", "input_tokens": 1_000, "output_tokens": 500, "operation": "chat"},
    )
    assert event.time.ToJsonString() == "2026-03-01T11:00:00Z"
    assert dict(event.data) == {"region": "eu"}


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b"7", b'{"data": 7}', b'{"id": 7}', b'{"ai": {"tokens": 1}}', b'{"time": "x"}', b"\xff"]
)
def test_what_is_no_event_is_named(line: bytes) -> None:
    with pytest.raises(LineError):
        event_of(line)


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (0, "0.00 USD"),
        (1, "0.000000001 USD"),
        (450_000, "0.00045 USD"),
        (1_500_000_000, "1.50 USD"),
        (1_234_567_000_000_000, "1,234,567.00 USD"),
    ],
)
def test_a_cost_is_told_exactly(nanos: int, text: str) -> None:
    assert cost_text(nanos, "USD") == text
    assert cost_text(0, "") == ""
