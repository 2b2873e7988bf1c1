"""`tallygate subscription ...` as a person uses it, against a server in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tallygate_server.app import App
from tallygate_server.cli import app as command_line
from tallygate_server.config import Settings
from tests.support.tallygate_process import ROOT

Say = Callable[..., Awaitable[Result]]


@pytest.fixture
async def say(fresh_database: str, fresh_redis: str) -> AsyncIterator[Say]:
    """Serve the example catalogs, and run commands in a thread: they have a loop of their own."""
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
            return await asyncio.to_thread(
                CliRunner().invoke,
                command_line,
                ["subscription", *arguments],
                env={"TALLYGATE_TARGET": f"127.0.0.1:{app.grpc_port}"},
            )

        yield say


async def as_json(said: Awaitable[Result]) -> Any:
    result = await said
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


async def test_a_subscription_is_bought_moved_paused_and_canceled(say: Say) -> None:
    bought = await say("create", "lekhak", "a", "unlimited", "--provider", "manual", "-q", "2", "--request-id", "r1")
    again = await as_json(
        say("create", "lekhak", "a", "unlimited", "--provider", "manual", "-q", "2", "--request-id", "r1", "--json")
    )
    target = again["subscription"]["subscription_id"]

    assert bought.exit_code == 0, bought.output
    assert bought.stdout.startswith(target)
    assert "19.99 USD a month" in bought.stdout
    assert again["replayed"] is True
    previewed = await say("preview", "lekhak", "a", "pro", "-s", target)
    assert previewed.stdout.startswith("downgrade at ")
    planned = await say("change", "lekhak", "a", "pro", "-s", target, "--reason", "cheaper")
    assert "pro at " in planned.stdout
    table = await say("show", "lekhak", "a")
    assert {"plan", "free", "unlimited", target} <= set(table.stdout.split())
    one = await say("show", "lekhak", "a", target)
    assert "manual" in one.stdout
    dropped = await as_json(say("unschedule", "lekhak", "a", target, "--json"))
    assert dropped["subscription"].get("scheduled_change") is None
    paused = await say("pause", "lekhak", "a", "-s", target, "--now", "--resume-at", "2099-01-01")
    assert "to 2099-01-01 00:00:00 UTC" in paused.stdout
    resumed = await as_json(say("resume", "lekhak", "a", "--json"))
    assert resumed["subscription"]["state"] == "SUBSCRIPTION_STATE_ACTIVE"
    ending = await say("cancel", "lekhak", "a", "-s", target, "--at", "2098-12-31T12:30")
    assert "2098-12-31 12:30:00 UTC" in ending.stdout
    ended = await as_json(say("cancel", "lekhak", "a", "-s", target, "--now", "--json"))
    assert ended["subscription"]["state"] == "SUBSCRIPTION_STATE_CANCELED"
    steps = await as_json(say("history", "lekhak", "a", target, "--json"))
    assert [step["cause"] for step in steps["changes"]] == [
        "cancel", "cancel", "resume", "pause", "cancel_scheduled_change", "change_plan", "create",
    ]  # fmt: skip
    assert steps["changes"][5]["reason_text"] == "cheaper"
    shown = await say("history", "lekhak", "a", "-n", "2")
    assert "There are more" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cancel", "lekhak", "a", "--now", "--period-end"), "exclude each other"),
        (("cancel", "lekhak", "a", "--at", "soon"), "--at soon: is no time"),
        (("cancel", "lekhak", "a", "--at", "2001-01-01"), "effective_time: "),
        (("create", "lekhak", "a", "pro", "--provider", "stripe"), "TALLYGATE_STRIPE_API_KEY"),
        (("create", "lekhak", "a", "pro"), "BILLING_PROVIDER_REQUIRED"),
        (("resume", "lekhak", "a"), "a subscription cannot go from active to active (ILLEGAL_TRANSITION)"),
        (("show", "lekhak", "a", "sub_none"), "(SUBSCRIPTION_NOT_FOUND)"),
        (("history", "lekhak", "nobody"), "(ACCOUNT_NOT_FOUND)"),
    ],
)
async def test_what_is_wrong_is_one_sentence(say: Say, arguments: tuple[str, ...], words: str) -> None:
    await say("create", "lekhak", "a", "free")
    told = await say(*arguments)

    assert told.exit_code == 2
    assert words in told.output
    assert "Traceback" not in told.output
