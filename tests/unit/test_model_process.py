"""Models are fitted in processes that answer, refuse, and end with whoever started them."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from tallygate_server.domain.lifecycle import CompressionForm, CompressionSettings
from tallygate_server.errors import Overloaded
from tallygate_server.lifecycle.lossy.impact import evaluate_impact
from tallygate_server.lifecycle.model_process import ModelJobRefused, ModelProcesses, ModelProcessFailed
from tallygate_server.lifecycle.model_process.process import PROCESSES_AT_ONCE_MAX, WAITING_MAX

START = datetime(2026, 1, 1, tzinfo=UTC)


def rides(count: int = 1_200) -> pa.Table:
    """Return a heart rate that follows power, a walk that nothing explains, and whether the effort is hard."""
    numbers = random.Random(3)
    power, rate, rows = 200.0, 120.0, []
    for place in range(count):
        power += numbers.gauss(0, 12) - (power - 200) * 0.03
        rate += (power * 0.5 + 30 - rate) * 0.2 + numbers.gauss(0, 0.5)
        rows.append(
            {
                "time": START + timedelta(seconds=place),
                "power": round(power),
                "rate": None if place % 97 == 5 else round(rate, 1),
                "hard": "yes" if power > 200 else "no",
                "up": power > 200,
            }
        )
    numbers.shuffle(rows)
    schema = {"power": pa.int64(), "rate": pa.float64(), "hard": pa.string(), "up": pa.bool_()}
    return pa.Table.from_pylist(rows, pa.schema({"time": pa.timestamp("us", tz="UTC"), **schema}))


async def impact(settings: CompressionSettings, target: str, *tables: pa.Table) -> dict[str, Any]:
    parameters = {"settings": settings.to_document(), "target_column": target, "seed": 7}
    return await ModelProcesses().run("evaluate_impact", parameters, tables or [rides()])


async def test_a_process_answers_with_what_it_was_given() -> None:
    answer = await ModelProcesses().run("echo", {"said": ["ä", 1, None]}, [rides(10), rides(20)])

    assert answer == {"parameters": {"said": ["ä", 1, None]}, "rows": [10, 20]}


async def test_what_is_lost_is_measured_before_and_afterwards_the_same_each_time() -> None:
    fine = CompressionSettings(form=CompressionForm.STATISTICAL)
    coarse = CompressionSettings(form=CompressionForm.SUMMARY, window=timedelta(hours=1))

    first, again, less = await asyncio.gather(impact(fine, "rate"), impact(fine, "rate"), impact(coarse, "rate"))

    assert first == again
    assert first["record_count"] == 1_200
    assert first["compressed_bytes"] < first["original_bytes"] / 10
    assert {column["column"] for column in first["columns"]} == {"power", "rate", "hard", "up"}
    assert first["accuracy_before"]["metric"] == "r2"
    assert first["accuracy_before"]["value"] > 0.9
    assert abs(first["accuracy_after"]["value"] - first["accuracy_before"]["value"]) < 0.05
    assert less["accuracy_before"] == first["accuracy_before"]
    assert less["accuracy_after"]["value"] < 0.5
    assert less["value_retained"] < 0.5 < first["value_retained"]


async def test_without_loss_nothing_changes_and_texts_are_told_apart() -> None:
    summary = CompressionSettings(form=CompressionForm.SUMMARY, window=timedelta(seconds=10))
    found, truths = await asyncio.gather(
        impact(CompressionSettings(form=CompressionForm.LOSSLESS), "hard", rides(700), rides(500)),
        impact(summary, "up"),
    )

    assert truths["accuracy_before"]["metric"] == "accuracy"
    assert truths["accuracy_after"]["value"] > 0.8
    assert found["accuracy_before"] == found["accuracy_after"]
    assert found["accuracy_before"]["metric"] == "accuracy"
    assert found["accuracy_before"]["value"] > 0.9
    assert found["record_count"] == 1_200
    assert all(column["max_error"] == 0 for column in found["columns"])
    assert found["value_retained"] == 1


async def test_what_cannot_be_done_is_refused_with_the_field_that_is_to_blame() -> None:
    with pytest.raises(ModelJobRefused) as caught:
        await impact(CompressionSettings(), "nothing", rides(100))

    assert caught.value.field == "target_column"


@pytest.mark.parametrize(
    ("settings", "target", "count", "field"),
    [
        (CompressionSettings(), "time", 100, "target_column"),
        (CompressionSettings(), "rate", 39, "target_column"),
        (CompressionSettings(form=CompressionForm.BEHAVIORAL, action_column="gone"), "", 9, "settings.action_column"),
    ],
)
def test_a_target_needs_values_and_settings_must_suit(
    settings: CompressionSettings, target: str, count: int, field: str
) -> None:
    with pytest.raises(ModelJobRefused) as caught:
        evaluate_impact([rides(count)], settings, target, 1)

    assert caught.value.field == field


async def test_what_nobody_foresaw_and_what_takes_too_long_fails() -> None:
    with pytest.raises(ModelProcessFailed, match="KeyError"):
        await ModelProcesses().run("no such job", {})
    with pytest.raises(ModelProcessFailed, match="longer"):
        await ModelProcesses().run("echo", {}, timeout=timedelta(0))


async def test_more_jobs_than_may_wait_are_refused() -> None:
    models = ModelProcesses()
    running = [asyncio.create_task(models.run("echo", {})) for _ in range(PROCESSES_AT_ONCE_MAX + WAITING_MAX)]
    await asyncio.sleep(0)

    with pytest.raises(Overloaded):
        await models.run("echo", {})
    for task in running:
        task.cancel()
    ended = await asyncio.gather(*running, return_exceptions=True)

    assert all(isinstance(each, asyncio.CancelledError) for each in ended)
    assert await models.run("echo", {}) == {"parameters": {}, "rows": []}


async def test_a_process_ends_when_its_input_does() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tallygate_server.lifecycle.model_process",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    output, _ = await asyncio.wait_for(process.communicate(b'{"job": "echo", "parameters": {}, "str'), 60)

    assert process.returncode == 1
    assert output == b""


def test_no_model_library_is_loaded_where_calls_are_served() -> None:
    code = (
        "import sys, tallygate_server.lifecycle.assembly, tallygate_server.lifecycle.lossy.impact;"
        "assert not {'sklearn', 'matplotlib', 'scipy'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
