"""`tallygate explain` and `tallygate watch` as a person uses them, against a server in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from typer.testing import CliRunner, Result

from tallygate_server.app import App
from tallygate_server.cli import app as command_line
from tallygate_server.config import Settings
from tallygate_server.domain.identifier import AccountId, TenantId
from tests.support.eventually import eventually
from tests.support.tallygate_process import ROOT

Say = Callable[..., Awaitable[Result]]
LEKHAK = TenantId("lekhak")


@pytest.fixture
async def app(fresh_database: str, fresh_redis: str) -> AsyncIterator[App]:
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
    async with App.open(settings, catalogs_dir=ROOT / "examples" / "catalogs") as running:
        yield running


@pytest.fixture
def say(app: App) -> Say:
    async def say(*arguments: str) -> Result:
        return await asyncio.to_thread(
            CliRunner().invoke, command_line, list(arguments), env={"TALLYGATE_TARGET": f"127.0.0.1:{app.grpc_port}"}
        )

    return say


async def test_an_answer_is_explained_rule_by_rule(say: Say) -> None:
    counted = await say("increment", "lekhak", "ann", "text_rewrite", "--quantity", "3")
    assert counted.exit_code == 0, counted.output

    allowed = await say("explain", "lekhak", "ann", "text_rewrite")
    denied = await say("explain", "lekhak", "ann", "text_rewrite", "--quantity", "1000000")
    unknown = await say("explain", "lekhak", "ann", "nonsense", "--json")

    assert allowed.exit_code == 0, allowed.output
    assert allowed.stdout.startswith("allowed (ok)")
    assert "3 used + 0 held + 1 wanted = 4, within the limit of" in allowed.stdout
    assert "free, version 1" in allowed.stdout
    assert (denied.exit_code, denied.stdout.split("\n")[0]) == (1, "denied (exhausted)")
    told = json.loads(unknown.stdout)
    assert unknown.exit_code == 1
    assert told["steps"] == [
        {
            "reason": "DECISION_REASON_UNKNOWN_FEATURE",
            "decided": True,
            "explanation": "the tenant's catalog has no feature 'nonsense'",
        }
    ]


async def test_the_past_is_explained_and_the_future_is_not(say: Say) -> None:
    await say("check", "lekhak", "ann", "text_rewrite")

    past = await say("explain", "lekhak", "ann", "text_rewrite", "--at", "2026-01-01T09:30")
    future = await say("explain", "lekhak", "ann", "text_rewrite", "--at", "2099-01-01")
    wrong = await say("explain", "lekhak", "ann", "text_rewrite", "--at", "yesterday")

    assert "there is no account 'ann'" in past.stdout
    assert (future.exit_code, wrong.exit_code) == (2, 2)
    assert "at_time: is still to come" in future.stderr
    assert "--at yesterday: is no time" in wrong.stderr


async def watched(app: App, say: Say, *arguments: str, suspend: bool) -> Result:
    """Watch an account for two messages, of which the second one comes from a change."""

    async def change() -> None:
        await eventually(lambda: any(each.watchers for each in app.service.watches._watched.values()))
        await app.service.accounts.suspend(LEKHAK, AccountId("ann"), suspend=suspend)

    result, _ = await asyncio.gather(say("watch", "lekhak", "ann", *arguments, "--count", "2"), change())
    assert result.exit_code == 0, result.output
    return result


async def test_an_account_is_watched_until_enough_was_shown(app: App, say: Say) -> None:
    await say("check", "lekhak", "ann", "text_rewrite")

    shown = await watched(app, say, "text_rewrite", suspend=True)
    await eventually(lambda: app.service.watches.watcher_count == 0)
    lines = [json.loads(line) for line in (await watched(app, say, "--json", suspend=False)).stdout.splitlines()]

    assert "text_rewrite: no longer" in shown.stdout
    assert "account.suspended" in shown.stdout
    assert [next(iter(line)) for line in lines] == ["snapshot", "change"]
    assert lines[0]["snapshot"]["entitlements"] == []
    assert int(lines[1]["change"]["revision"]) == int(lines[0]["snapshot"]["revision"]) + 1


async def test_a_watch_of_nothing_says_so(say: Say) -> None:
    result = await say("watch", "elsewhere", "ann")

    assert result.exit_code == 2
    assert "TENANT_NOT_FOUND" in result.stderr
