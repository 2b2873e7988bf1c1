"""`tallygate data policy ...`, `hold ...`, `classify` and `cleanup` as a person uses them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tallygate_server.cli import app as command_line
from tallygate_server.domain.lifecycle import StorageTier
from tests.support.acme import ACME
from tests.support.clock import FrozenClock
from tests.support.lifecycle import NOON, a_dataset, a_table
from tests.support.lifecycle_jobs import running_jobs
from tests.support.lifecycle_server import ServedLifecycle, serving_lifecycle

Say = Callable[..., Awaitable[Result]]

POLICY = """
data_type: ride
standard_retention_days: 365
compression_threshold_days: 30
deletion_threshold_days: 90
quality_threshold: 0.5
compression:
  form: summary
  window: 15m
  zones: {speed: [1, 2.5]}
exceptions:
  - {account_id: bob, start_time: 2026-01-01, retention_days: -1, reason_text: a study}
importance_rules:
  - {name: sprint, column: speed, min_value: 8, importance: critical}
"""


@pytest.fixture
async def served(database_without_tenants: str, fresh_redis: str, tmp_path: Path) -> AsyncIterator[ServedLifecycle]:
    clock = FrozenClock(NOON)
    async with serving_lifecycle("native", database_without_tenants, fresh_redis, tmp_path, clock=clock) as served:
        yield served


@pytest.fixture
def say(served: ServedLifecycle) -> Say:
    """Run commands in a thread: they have a loop of their own."""

    async def say(*arguments: str) -> Result:
        return await asyncio.to_thread(
            CliRunner().invoke, command_line, ["data", *arguments], env={"TALLYGATE_TARGET": served.address}
        )

    return say


async def put(served: ServedLifecycle, *, days_ago: float, quality: float) -> None:
    dataset = await a_dataset(served.lifecycle)
    segments = served.lifecycle.segments
    table = a_table(NOON - timedelta(days=days_ago), 10)
    prepared = await segments.prepare(dataset, table, tier=StorageTier.HOT, quality_score=quality)
    async with segments.database.tenant_transaction(ACME) as connection:
        await segments.put_hot(connection, prepared)


async def test_a_policy_is_set_from_a_file(served: ServedLifecycle, say: Say, tmp_path: Path) -> None:
    await put(served, days_ago=100, quality=1)
    file = tmp_path / "ride.yaml"
    file.write_text(POLICY)

    dry = await say("policy", "set", ACME, str(file), "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert "It would let happen" in dry.stdout
    assert "10 records" in dry.stdout
    assert "No policies" in (await say("policy", "list", ACME)).stdout
    assert (await say("policy", "set", ACME, str(file), "--expected-version", "0")).exit_code == 0
    stale = await say("policy", "set", ACME, str(file), "--expected-version", "0")
    assert stale.exit_code == 2
    assert "version 0 was expected" in stale.output

    shown = await say("policy", "get", ACME, "ride", "--account", "bob")
    assert shown.exit_code == 0, shown.output
    for expected in ("version 1", "365 days", "summary", "rule sprint: critical where speed from 8", "a study"):
        assert expected in shown.stdout
    assert "ride" in (await say("policy", "list", ACME)).stdout
    found = json.loads((await say("policy", "get", ACME, "ride", "--json")).stdout)["policy"]
    assert (found["compression"]["window"], found["compression"]["zones"]["speed"]["values"]) == ("900s", [1, 2.5])
    assert found["exceptions"][0]["start_time"] == "2026-01-01T00:00:00Z"


async def test_what_does_not_fit_is_named(say: Say, tmp_path: Path) -> None:
    file = tmp_path / "ride.yaml"
    file.write_text(
        "data_type: ride\nstandard_retention_day: 3\nhot_days: soon\ncompression: {form: zip, window: long}\n"
        "exceptions: [{retention_days: 1, reason_text: x, start_time: never}]\nimportance_rules: 7\n"
    )

    wrong = await say("policy", "set", ACME, str(file))

    assert wrong.exit_code == 2
    for expected in (
        "standard_retention_day: there is no such field; do you mean standard_retention_days?",
        "hot_days: 'soon': must be a whole number",
        "compression.form: 'zip': must be one of none, lossless, summary",
        "compression.window: 'long': is no length of time",
        "exceptions[0].start_time: 'never': is no time",
        "importance_rules: must be a list",
    ):
        assert expected in " ".join(wrong.output.split())

    file.write_text("data_type: ride\nhot_days: 40\nwarm_days: 30\n")
    refused = await say("policy", "set", ACME, str(file))
    assert refused.exit_code == 2
    assert "policy.hot_days" in refused.output
    file.write_text("data_type: [")
    assert "ride.yaml" in (await say("policy", "set", ACME, str(file))).output


async def test_a_hold_stops_a_clean_up(served: ServedLifecycle, say: Say) -> None:
    await put(served, days_ago=100, quality=0.1)
    await put(served, days_ago=10, quality=0.1)
    created = await say("hold", "create", ACME, "--reason", "a suit", "--to", "2025-12-31", "--json")
    assert created.exit_code == 0, created.output
    hold = json.loads(created.stdout)
    assert hold["record_count"] == "10"
    hold_id = hold["legal_hold"]["legal_hold_id"]
    assert hold_id in (await say("hold", "list", ACME)).stdout

    async with running_jobs(served.lifecycle):
        cleaned = await say("cleanup", ACME, "--before", "2026-03-01", "--type", "ride")
    assert cleaned.exit_code == 0, cleaned.output
    assert "legal hold" in cleaned.stdout
    worth = await say("classify", ACME, "--type", "ride")
    assert worth.exit_code == 0, worth.output
    assert worth.stdout.count("seg_") == 1
    explained = await say("classify", ACME, "--explain")
    assert "recency x 0.3" in explained.stdout

    released = await say("hold", "release", ACME, hold_id, "--reason", "it is over")
    assert released.exit_code == 0, released.output
    assert "No holds" in (await say("hold", "list", ACME)).stdout
    assert hold_id in (await say("hold", "list", ACME, "--released")).stdout
