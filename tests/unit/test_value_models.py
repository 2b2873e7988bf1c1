"""What a model process finds out about records: samples, critical segments and training sets, on made series."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tallygate_server.lifecycle.model_process import ModelJobRefused
from tallygate_server.lifecycle.model_process.jobs import job_function
from tallygate_server.lifecycle.value import models
from tallygate_server.lifecycle.value.models import choose_training_set, identify_critical, select_samples

START = 1_772_409_600_000_000
MINUTE = 60_000_000


def a_table(count: int = 600, *, segments: int = 3, datasets: int = 1, weight: int = 1, noise: int = 0) -> pa.Table:
    """Return rows, one a minute; speed follows the heart rate, of which segment 0 tells nothing."""
    numbers = np.random.default_rng(noise)
    segment = np.arange(count) * segments // count
    rate = 120 + 20 * np.sin(np.arange(count) / 40) + numbers.normal(0, 1, count)
    speed = rate / 10 + numbers.normal(0, 0.2, count)
    return pa.table(
        {
            "time": START + np.arange(count) * MINUTE * weight,
            "dataset": (np.arange(count) * datasets // count).astype(np.int32),
            "segment": segment.astype(np.int32),
            "weight": np.full(count, weight),
            "n:rate": rate,
            "n:speed": speed,
            "t:place": np.where(np.arange(count) % 97 == 0, "hill", "flat"),
        }
    )


def samples_of(table: pa.Table, count: int, *, seasons: Sequence[int] = (), seed: int = 1) -> dict[str, Any]:
    return select_samples({"sample_count": count, "seasons": list(seasons), "seed": seed}, [table])


def test_every_job_is_known_to_the_process() -> None:
    assert job_function("select_samples") is models.select_samples
    assert job_function("identify_critical") is models.identify_critical
    assert job_function("choose_training_set") is models.choose_training_set


@pytest.mark.parametrize("count", [1, 7, 50, 600, 601])
def test_samples_are_as_many_as_asked_and_stand_for_everything(count: int) -> None:
    table = a_table(segments=2)

    told = samples_of(table, count)

    assert len(set(told["rows"])) == len(told["rows"]) == min(count, 600)
    assert sum(told["weights"]) == pytest.approx(1.0)
    assert sum(told["counts"].values()) == len(told["rows"])
    assert told["rows"] == sorted(told["rows"])
    assert told == samples_of(table, count)


def test_samples_are_divided_by_season_in_proportion() -> None:
    told = samples_of(a_table(), 20, seasons=[1])

    assert told["counts"] == {f"{hour:02}": 2 for hour in range(10)}
    assert set(told["strata"]) == set(told["counts"])


def test_more_samples_cover_more_and_chosen_ones_cover_more_than_random_ones() -> None:
    table = a_table()
    rows = models._Rows.of(table)
    features = models._features(rows, 1)
    numbers = np.random.default_rng(0)
    random = [models._coverage(features, rows.weights, numbers.choice(600, 5, replace=False)) for _ in range(10)]

    coverage = [samples_of(table, count)["coverage"] for count in (1, 2, 5, 20, 600)]

    assert coverage == sorted(coverage)
    assert coverage[-1] == 1.0
    assert coverage[2] > sum(random) / len(random)


def critical_of(table: pa.Table, *, ratio: float = 0.95, target: str = "speed", **more: Any) -> dict[str, Any]:
    count = max(table.column("segment").to_pylist()) + 1
    parameters = {"target": target, "min_accuracy_ratio": ratio, "worths": [1.0] * count, "seed": 1, **more}
    return identify_critical(parameters, [table])


def a_table_of_parts() -> pa.Table:
    """Return four segments, each with a speed that depends on another one of four signals."""
    numbers = np.random.default_rng(0)
    segment = np.arange(400) // 100
    signals = numbers.normal(size=(4, 400)) * (np.arange(4)[:, None] == segment)
    return pa.table(
        {
            "time": START + np.arange(400) * MINUTE,
            "dataset": np.zeros(400, dtype=np.int32),
            "segment": segment.astype(np.int32),
            "weight": np.ones(400, dtype=np.int64),
            "n:speed": signals.sum(axis=0) * (1 + segment),
        }
        | {f"n:signal_{place}": signal for place, signal in enumerate(signals)}
    )


@pytest.mark.parametrize("ratio", [0.3, 0.8, 0.99])
def test_critical_segments_are_the_smallest_set_that_keeps_the_accuracy(ratio: float) -> None:
    table = a_table_of_parts()
    task = models._Task.of(models._Rows.of(table), "speed", 1)

    told = critical_of(table, ratio=ratio)

    assert told["accuracy_critical"] >= ratio * told["accuracy_full"]
    smaller = [each for size in range(len(told["segments"])) for each in combinations(range(4), size)]
    assert all(task.accuracy(each) < ratio * told["accuracy_full"] for each in smaller)
    assert told == critical_of(table, ratio=ratio)


@pytest.mark.parametrize("segments", [12, 60])
def test_many_segments_are_searched_greedily_and_keep_the_accuracy_too(segments: int) -> None:
    told = critical_of(a_table(segments=segments), worths=list(range(segments)))

    assert told["accuracy_critical"] >= 0.95 * told["accuracy_full"] > 0
    assert 0 < len(told["segments"]) < segments


def test_what_no_model_learns_is_said() -> None:
    table = a_table()
    blind = table.set_column(
        table.column_names.index("n:speed"), "n:speed", pa.array(np.random.default_rng(5).normal(size=600))
    )

    told = critical_of(blind.drop_columns(["n:rate"]))

    assert (told["learned"], told["segments"]) == (False, [])


@pytest.mark.parametrize(
    ("target", "why"),
    [("pulse", "no record has a column 'pulse'"), ("one", "has 1 values"), ("rare", "fewer than 40 records")],
)
def test_a_target_that_cannot_be_learned_is_refused(target: str, why: str) -> None:
    table = a_table()
    table = table.append_column("t:one", pa.array(["x"] * 600))
    table = table.append_column("n:rare", pa.array([1.0] * 39 + [None] * 561))

    with pytest.raises(ModelJobRefused, match=why) as caught:
        critical_of(table, target=target)
    assert caught.value.field == "target_column"


def test_a_text_is_predicted_too() -> None:
    table = a_table()
    fast = pa.array(np.where(table.column("n:rate").to_numpy() > 120, "fast", "slow"))

    told = critical_of(table.append_column("t:pace", fast), target="pace")

    assert (told["metric"], told["accuracy_full"] > 0.9) == ("accuracy", True)


def training_set_of(table: pa.Table, count: int, *, target: str = "", scores: Sequence[float] = ()) -> dict[str, Any]:
    segments = max(table.column("segment").to_pylist()) + 1
    parameters = {"target_record_count": count, "target": target, "scores": list(scores) or [0.5] * segments, "seed": 1}
    return choose_training_set(parameters, [table])


def taken(table: pa.Table, told: dict[str, Any]) -> list[int]:
    """Return the rows that spans and strides choose, as a caller would."""
    times, datasets = table.column("time").to_numpy(), table.column("dataset").to_numpy()
    found: list[int] = []
    for span in told["spans"]:
        inside = (datasets == span["dataset"]) & (times >= span["start"]) & (times < span["end"])
        found += np.flatnonzero(inside)[:: span["stride"]].tolist()
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 10, 99, 100, 599, 600, 601])
@pytest.mark.parametrize("datasets", [1, 3])
def test_spans_and_strides_choose_as_many_records_as_asked(count: int, datasets: int) -> None:
    table = a_table(datasets=datasets)

    told = training_set_of(table, count)

    chosen = taken(table, told)
    assert len(chosen) == len(set(chosen)) == told["record_count"] == min(count, 600)
    assert told == training_set_of(table, count)


def test_what_is_worth_more_is_taken_more_often() -> None:
    table = a_table()

    told = training_set_of(table, 200, scores=[0.1, 0.1, 0.9])

    segments = table.column("segment").to_numpy()[taken(table, told)]
    counts = np.bincount(segments, minlength=3)
    assert counts[2] > 2 * max(counts[0], counts[1])
    assert min(counts) > 0
    assert told["value_retained"] > 200 / 600


def test_larger_sets_keep_more_worth_and_cover_more() -> None:
    told = [training_set_of(a_table(), count, scores=[0.2, 0.5, 0.9]) for count in (5, 50, 300, 600)]

    for term in ("coverage", "value_retained"):
        assert [each[term] for each in told] == sorted(each[term] for each in told)
        assert told[-1][term] == pytest.approx(1.0)


def test_the_accuracy_with_the_set_is_measured_beside_that_with_all() -> None:
    told = training_set_of(a_table(), 100, target="speed")

    assert 0.7 < told["accuracy_chosen"] <= told["accuracy_full"] + 0.05 <= 1.05


def test_rows_that_stand_for_several_count_as_so_many() -> None:
    table = a_table(weight=10)

    assert sum(samples_of(table, 10)["weights"]) == pytest.approx(1.0)
    told = training_set_of(table, 600)
    assert abs(told["record_count"] - 600) <= 10


def test_records_without_a_single_number_are_told_apart_by_time() -> None:
    table = a_table().select(["time", "dataset", "segment", "weight"])

    assert len(samples_of(table, 5)["rows"]) == 5
    assert training_set_of(table, 5)["record_count"] == 5


def test_missing_and_infinite_values_do_no_harm() -> None:
    table = a_table()
    rate = [None if place % 3 else float("nan") if place % 2 else float("inf") for place in range(600)]
    broken = table.set_column(table.column_names.index("n:rate"), "n:rate", pa.array(rate, pa.float64()))

    assert len(samples_of(broken, 10)["rows"]) == 10
    assert critical_of(broken)["learned"] in {True, False}
