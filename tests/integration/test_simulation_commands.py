"""`tallygate simulate`, `catalog diff --simulate` and `validate` as a person uses them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tallygate_server.app import App
from tallygate_server.cli import app as command_line
from tallygate_server.cli.explanations import CommandError
from tallygate_server.cli.simulation_commands import length_of
from tallygate_server.config import Settings
from tests.support.acme import an_increment
from tests.support.tallygate_process import ROOT

CATALOGS = ROOT / "examples" / "catalogs"

Say = Callable[..., Awaitable[Result]]


@pytest.fixture
async def server(fresh_database: str, fresh_redis: str) -> AsyncIterator[App]:
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
    async with App.open(settings, catalogs_dir=CATALOGS) as app:
        for account_id in ("ann", "bob"):
            await app.service.meter.increment_many(
                [an_increment("text_rewrite", 4, account_id=account_id, tenant_id="lekhak") for _ in range(3)],
                atomic=False,
            )
        await app.service.meter._denials.drain()
        yield app


@pytest.fixture
def say(server: App) -> Say:
    async def say(*arguments: str) -> Result:
        return await asyncio.to_thread(
            CliRunner().invoke,
            command_line,
            list(arguments),
            env={"TALLYGATE_TARGET": f"127.0.0.1:{server.grpc_port}"},
        )

    return say


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    """Write the example catalog with a smaller limit."""
    text = (CATALOGS / "lekhak.yaml").read_text("utf-8")
    file = tmp_path / "draft.yaml"
    before = "text_rewrite: {limit: 10"
    assert before in text
    file.write_text(text.replace(before, "text_rewrite: {limit: 5", 1))
    return file


async def test_a_difference_shows_who_would_be_blocked_by_it(say: Say, draft: Path) -> None:
    result = await say("catalog", "diff", str(draft), "--simulate", "--window", "2d")

    assert result.exit_code == 1
    assert "Would be blocked" in result.stdout
    assert [line.split()[0] for line in result.stdout.splitlines() if "text_rewrite  free" in line] == ["ann", "bob"]
    assert "2 of 2 accounts would be blocked, 0 of them within the first day: 2 calls, 8 units." in result.stdout


async def test_a_difference_is_told_as_json_with_its_simulation(say: Say, draft: Path) -> None:
    result = await say("catalog", "diff", str(draft), "--simulate", "--json")

    told = json.loads(result.stdout)
    assert result.exit_code == 1
    assert told["differences"]["changes"]
    assert told["simulation"]["totals"]["denied_quantity"] == "8"


async def test_the_plans_in_force_are_simulated_without_a_file(say: Say) -> None:
    shown = await say("simulate", "lekhak", "--include-denied")
    told = json.loads((await say("simulate", "lekhak", "--include-denied", "--account", "bob", "--json")).stdout)

    assert shown.exit_code == 0
    assert "exhausted" in shown.stdout
    assert "4 lines of the ledger replayed" in shown.stdout
    assert [account["real_denied_count"] for account in told["accounts"]] == ["1"]


async def test_the_table_has_so_many_rows_and_says_how_many_more_there_are(say: Say) -> None:
    result = await say("simulate", "lekhak", "--include-denied", "--rows", "1")

    assert "and 1 more; --json lists all" in result.stdout


async def test_validate_says_what_differs_and_ends_with_1_until_it_is_repaired(say: Say, server: App) -> None:
    right = await say("validate", "lekhak")
    key = server.service.counters.account_key("lekhak", "ann")  # type: ignore[arg-type]
    await server.service.redis.execute("HSET", key, "rev", "99")
    wrong = await say("validate", "lekhak", "--json")
    repaired = await say("validate", "lekhak", "ann", "--repair")
    again = await say("validate")

    assert (right.exit_code, wrong.exit_code, repaired.exit_code, again.exit_code) == (0, 1, 0, 0)
    assert "2 accounts, 2 counters and 4 lines of the ledger examined: 0 differences" in right.stdout
    assert json.loads(wrong.stdout)["differences"][0]["place"] == "DIFFERENCE_PLACE_SNAPSHOT"
    assert "snapshot" in repaired.stdout
    assert "1 differences, 1 repaired" in repaired.stdout


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("90m", timedelta(minutes=90)),
        ("12h", timedelta(hours=12)),
        ("30d", timedelta(days=30)),
        ("4w", timedelta(weeks=4)),
    ],
)
def test_a_window_is_a_number_and_a_unit(text: str, length: timedelta) -> None:
    assert length_of(text) == length


@pytest.mark.parametrize("text", ["", "30", "d", "0d", "30y", "1234567d", "-1d"])
def test_anything_else_is_no_window(text: str) -> None:
    with pytest.raises(CommandError):
        length_of(text)
