"""`tallygate account ...`: consents, an export, an erasure and its receipt, as people use them."""

from __future__ import annotations

import asyncio
import json
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tallygate_server.app import App
from tallygate_server.cli import app as command_line
from tallygate_server.config import Settings
from tests.support.tallygate_process import ROOT

Say = Callable[..., Awaitable[Result]]


@pytest.fixture
async def say(fresh_database: str, fresh_redis: str, tmp_path: Path) -> AsyncIterator[Say]:
    """Serve the example catalogs, and run commands in a thread: they have a loop of their own."""
    settings = Settings.model_validate(
        {
            "database_url": fresh_database,
            "redis_url": fresh_redis,
            "data_dir": tmp_path / "data",
            "grpc_port": 0,
            "ops_port": 0,
            "drain_delay_ms": 0,
        }
    )
    async with App.open(settings, catalogs_dir=ROOT / "examples" / "catalogs") as app:

        async def say(*arguments: str, text: str = "") -> Result:
            return await asyncio.to_thread(
                CliRunner().invoke,
                command_line,
                ["account", *arguments],
                input=text,
                env={"TALLYGATE_TARGET": f"127.0.0.1:{app.grpc_port}"},
            )

        yield say


async def as_json(said: Awaitable[Result], *, exit_code: int = 0) -> Any:
    result = await said
    assert result.exit_code == exit_code, result.output
    # The server in this process says things on the same standard output.
    return json.JSONDecoder().raw_decode(result.stdout[result.stdout.index("{\n") :])[0]


async def test_an_account_consents_takes_its_data_away_and_is_erased(say: Say, tmp_path: Path) -> None:
    who = ("lekhak", "writer-1")
    given = await say("consent", "record", *who, "ai_training", "--granted", "--source", "signup")
    await say("consent", "record", *who, "ai_training", "--refused", "--request-id", "r1")
    history = await as_json(say("consent", "list", *who, "--json"))
    current = await say("consent", "list", *who, "--current")
    assert given.exit_code == 0, given.output
    assert [consent["granted"] for consent in history["consents"]] == [False, True]
    assert "refused" in current.stdout
    assert "granted" not in current.stdout

    file = tmp_path / "mine.zip"
    exported = await say("export", *who, "--output", str(file))
    twice = await say("export", *who, "--output", str(file))
    assert exported.exit_code == 0, exported.output
    assert twice.exit_code == 2
    with zipfile.ZipFile(file) as archive:
        assert b"ai_training" in archive.read("account/consents.csv")

    looked = await say("erase", *who, "--reason", "asked for", "--dry-run")
    declined = await say("erase", *who, "--reason", "asked for", text="n\n")
    erased = await as_json(say("erase", *who, "--reason", "asked for", "--yes", "--json"))
    assert looked.exit_code == 0, looked.output
    assert "Will be removed" in looked.stdout
    assert declined.exit_code == 1
    receipt = erased["erasure"]["receipt"]
    assert {item["kind"] for item in receipt["removed"]} >= {"accounts", "consents", "account_exports"}

    kept = tmp_path / "receipt.json"
    kept.write_text(json.dumps(receipt))
    good = await say("receipt", "verify", "lekhak", receipt["receipt_id"], "--account", "writer-1")
    from_file = await as_json(say("receipt", "verify", "lekhak", "--file", str(kept), "--json"))
    kept.write_text(json.dumps({**receipt, "erase_time": receipt["erase_time"].replace("Z", "1Z")}))
    forged = await as_json(say("receipt", "verify", "lekhak", "--file", str(kept), "--json"), exit_code=1)
    shown = await say("receipt", "show", "lekhak", receipt["receipt_id"])
    assert good.exit_code == 0, good.output
    assert "still" in good.stdout
    assert from_file["signature_valid"]
    assert not forged["signature_valid"]
    assert "Removed" in shown.stdout
    gone = await say("export", *who, "--output", str(tmp_path / "again.zip"))
    assert "ACCOUNT_NOT_FOUND" in gone.output

    rotated = await as_json(say("rotate-keys", "lekhak", "--reencrypt", "--json"))
    assert rotated["state"] == "LIFECYCLE_JOB_STATE_SUCCEEDED"
