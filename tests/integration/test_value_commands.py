"""`tallygate data value ...`, `data plan` and `data optimize` as a person uses them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tallygate_server.cli import app as command_line
from tallygate_server.cli.explanations import CommandError
from tallygate_server.cli.value_commands import bytes_of
from tests.support.acme import ACME
from tests.support.clock import FrozenClock
from tests.support.data_value import DAY, ModelsHere, manifest, put_days
from tests.support.lifecycle import NOON
from tests.support.lifecycle_jobs import running_jobs
from tests.support.lifecycle_server import ServedLifecycle, serving_lifecycle

Say = Callable[..., Awaitable[Result]]


@pytest.fixture
async def served(database_without_tenants: str, fresh_redis: str, tmp_path: Path) -> AsyncIterator[ServedLifecycle]:
    clock = FrozenClock(NOON + 10 * DAY)
    async with serving_lifecycle("native", database_without_tenants, fresh_redis, tmp_path, clock=clock) as served:
        served.lifecycle.values._models = ModelsHere()
        await put_days(served, range(3))
        yield served


@pytest.fixture
def say(served: ServedLifecycle) -> Say:
    async def say(*arguments: str) -> Result:
        return await asyncio.to_thread(
            CliRunner().invoke, command_line, ["data", *arguments], env={"TALLYGATE_TARGET": served.address}
        )

    return say


async def test_values_are_shown_and_chosen_from(say: Say) -> None:
    assessed = await say("value", "assess", ACME, "--account", "ann", "--type", "ride")
    critical = await say("value", "critical", ACME, "--column", "speed", "--ratio", "0.9")
    samples = await say("value", "samples", ACME, "--count", "5", "--season", "hour_of_day")
    chosen = await say("value", "training-set", ACME, "60", "--column", "speed")
    told = await say("value", "samples", ACME, "--count", "5", "--json")

    for result in (assessed, critical, samples, chosen, told):
        assert result.exit_code == 0, result.output
    assert assessed.stdout.splitlines()[0].split() == [
        "segment", "from", "until", "worth", "recency", "rarity", "quality", "use"
    ]  # fmt: skip
    assert len(assessed.stdout.splitlines()) == 4
    assert "accuracy with these" in critical.stdout
    assert "heart_rate" in samples.stdout
    assert "of all data lies close to one" in samples.stdout
    assert [line.split() for line in chosen.stdout.splitlines() if "left out" in line] == [["left", "out", "300"]]
    assert len(json.loads(told.stdout)["samples"]) == 5


async def test_priorities_are_tried_before_they_are_changed(say: Say) -> None:
    trial = await say("value", "priorities", ACME, "coach", "0.4", "-i", "ride=0.9", "--dry-run")
    changed = await say("value", "priorities", ACME, "coach", "0.4", "-i", "ride=0.9")
    wrong = await say("value", "priorities", ACME, "coach", "0.4", "-i", "ride")

    assert "would change" in trial.stdout
    assert trial.stdout.splitlines()[:-1] == changed.stdout.splitlines()[:-1]
    assert (wrong.exit_code, "TYPE=SHARE" in wrong.output) == (2, True)


async def test_a_plan_is_made_and_carried_out(served: ServedLifecycle, say: Say) -> None:
    plan = await say("plan", ACME, "100B")
    plan_id = next(word for word in plan.stdout.split() if word.startswith("plan_"))
    async with running_jobs(served.lifecycle):
        trial = await say("optimize", ACME, "--plan", plan_id, "--dry-run")
        before = await manifest(served)
        done = await say("optimize", ACME, "--plan", plan_id)
        target = await say("optimize", ACME, "--by", "0.5")
    neither = await say("optimize", ACME)

    assert plan.exit_code == 0
    assert f"tallygate data optimize {ACME} --plan {plan_id}" in plan.stdout
    assert (trial.exit_code, len(before)) == (0, 3)
    assert (done.exit_code, await manifest(served)) == (0, [])
    assert "succeeded" in done.stdout
    assert target.exit_code == 0
    assert (neither.exit_code, "--by and --plan" in neither.output) == (2, True)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1000000", 1_000_000), ("500MB", 500_000_000), ("2GiB", 2 * 1024**3), ("1.5 kB", 1_500), ("7B", 7)],
)
def test_sizes_are_read_with_their_unit(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "MB", "5 apples", "-1", "1001TB", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(CommandError):
        bytes_of(text)
