"""`tallygate data status` as a person uses it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tallygate_server.cli import app as command_line
from tallygate_server.cli.output import bytes_text
from tallygate_server.cli.storage_commands import sparkline
from tallygate_server.cli.storage_plot import round_sizes
from tallygate_server.domain.lifecycle import StorageTier
from tests.support.acme import ACME, BOB
from tests.support.clock import FrozenClock
from tests.support.lifecycle import NOON
from tests.support.lifecycle_server import ServedLifecycle, serving_lifecycle
from tests.support.stored_segments import a_segment, add_rows

Say = Callable[..., Awaitable[Result]]
GIB = 1_073_741_824


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
            CliRunner().invoke, command_line, ["data", "status", *arguments], env={"TALLYGATE_TARGET": served.address}
        )

    return say


async def fill(served: ServedLifecycle) -> None:
    """Let three days pass, each with a GiB more in the hot tier and a quarter of one in the cold."""
    clock = served.lifecycle.clock
    assert isinstance(clock, FrozenClock)
    for day in range(3):
        await add_rows(
            served.lifecycle,
            [
                a_segment(10 * day + 1, stored_bytes=GIB, original_bytes=GIB),
                a_segment(
                    10 * day + 2,
                    account_id=BOB,
                    data_type="sleep",
                    tier=StorageTier.COLD,
                    lossless=True,
                    stored_bytes=GIB // 4,
                    original_bytes=GIB,
                    age_days=100,
                ),
            ],
        )
        await served.lifecycle.measuring.measure()
        clock.advance(timedelta(days=1))


async def test_the_status_is_drawn_told_and_plotted(served: ServedLifecycle, say: Say, tmp_path: Path) -> None:
    assert (await say(ACME)).stdout == "Nothing is stored.\n"
    await fill(served)

    png = tmp_path / "growth.png"
    drawn = await say(ACME, "--plot", str(png), "--days", "30")
    assert drawn.exit_code == 0, drawn.output
    for told in ("3.75 GiB stored, 6.00 GiB as plain rows", "0.81 USD a month", "2.25 GiB by compression"):
        assert told in drawn.stdout
    lines = drawn.stdout.splitlines()
    [hot] = [line for line in lines if line.startswith("  hot")]
    assert hot.count("█") == round(32 * 3 / 3.75)
    assert [line.split()[:2] for line in lines if line.startswith(("ride ", "sleep "))] == [
        ["ride", "3.00"],
        ["sleep", "768"],
    ]
    assert any(line.startswith("bob ") for line in lines)
    assert "a month; " in drawn.stdout
    assert png.read_bytes().startswith(b"\x89PNG")

    svg = tmp_path / "growth.svg"
    as_json = await say(ACME, "--json", "--plot", str(svg))
    assert json.loads(as_json.stdout)["total_bytes"] == str(3 * GIB + 3 * GIB // 4)
    assert "<svg" in svg.read_text("utf-8")
    of_bob = await say(ACME, "--account", BOB)
    assert "768 MiB stored" in of_bob.stdout
    assert "growth" not in of_bob.stdout


async def test_other_forms_and_nothing_to_draw_are_refused(served: ServedLifecycle, say: Say, tmp_path: Path) -> None:
    refused = await say(ACME, "--plot", str(tmp_path / "growth.jpeg"))
    assert (refused.exit_code, ".png or .svg" in refused.output) == (2, True)
    await add_rows(served.lifecycle, [a_segment(1)])
    without_days = await say(ACME, "--account", "ann", "--plot", str(tmp_path / "growth.png"))
    assert (without_days.exit_code, "no day is known" in without_days.output) == (2, True)
    assert list(tmp_path.glob("growth.*")) == []


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1_023, "1,023 B"),
        (1_024, "1.00 KiB"),
        (10 * 1_024, "10.0 KiB"),
        (100 * 1_024, "100 KiB"),
        (-3 * GIB, "-3.00 GiB"),
        (5_000 * 1_024 * GIB, "5,000 TiB"),
    ],
)
def test_sizes_have_three_digits(count: int, text: str) -> None:
    assert bytes_text(count) == text


def test_the_axis_has_round_sizes() -> None:
    assert round_sizes(8) == [*range(9)]
    assert round_sizes(9) == [0, 2, 4, 6, 8]
    assert round_sizes(5 * GIB) == [n * GIB for n in range(6)]


def test_a_sparkline_has_a_bound_and_ends_with_the_last_value() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇██"
    assert sparkline([]) == ""
    assert sparkline([0, 0]) == "▁▁"
    long = sparkline([*range(99), 1_000], width=10)
    assert (len(long), long[-1]) == (10, "█")
