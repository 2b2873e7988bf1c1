"""Usage put right from the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from typer.testing import CliRunner, Result

from tallygate_server.app import App
from tallygate_server.cli import app as command_line
from tallygate_server.config import Settings
from tests.support.tallygate_process import ROOT

Say = Callable[..., Awaitable[Result]]


@pytest.fixture
async def say(fresh_database: str, fresh_redis: str) -> AsyncIterator[Say]:
    """Run a command against a server with the example catalogs, in a thread: commands have a loop of their own."""
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
    async with App.open(settings, catalogs_dir=ROOT / "examples" / "catalogs") as app:

        async def say(*arguments: str) -> Result:
            environment = {"TALLYGATE_TARGET": f"127.0.0.1:{app.grpc_port}"}
            return await asyncio.to_thread(CliRunner().invoke, command_line, list(arguments), env=environment)

        yield say


async def test_a_line_is_reversed_and_a_counter_corrected(say: Say) -> None:
    counted = json.loads((await say("increment", "lekhak", "a", "text_rewrite", "-q", "9", "--json")).stdout)
    entry_id = counted["entry_id"]

    reversed_ = await say("usage", "reverse", "lekhak", "a", entry_id, "-q", "4", "--reason", "counted twice")
    corrected = await say("usage", "correct", "lekhak", "a", "text_rewrite", "--reason", "by hand", "--", "-2")
    entries = await say("usage", "lekhak", "a", "--entries")

    assert reversed_.exit_code == 0, reversed_.stdout
    assert entry_id in reversed_.stdout
    assert "5 of 10 used, 5 left" in reversed_.stdout
    assert "Nobody was denied because of it." in reversed_.stdout
    assert corrected.exit_code == 0, corrected.stdout
    assert "3 of 10 used, 7 left" in corrected.stdout
    assert "tallygate command line" in corrected.stdout
    assert [word in entries.stdout for word in ("increment", "reversal", "correction")] == [True] * 3


async def test_what_goes_wrong_is_said_and_exits_with_two(say: Say) -> None:
    await say("increment", "lekhak", "a", "text_rewrite")

    nothing = await say("usage", "reverse", "lekhak", "a", "1", "--reason", "x")
    words = await say("usage", "correct", "lekhak", "a", "text_rewrite", "five", "--reason", "x")
    time = await say("usage", "correct", "lekhak", "a", "text_rewrite", "5", "--reason", "x", "--at", "noon")
    as_json = await say("usage", "correct", "lekhak", "a", "text_rewrite", "+5", "--reason", "x", "--json")

    assert (nothing.exit_code, words.exit_code, time.exit_code) == (2, 2, 2)
    assert "no entry" in nothing.stderr
    assert "five: a whole number" in words.stderr
    assert "--at noon" in time.stderr
    assert json.loads(as_json.stdout)["entry"]["quantity"] == "5"
