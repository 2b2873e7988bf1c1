"""No point of a curve is farther off than promised, whatever the series: compared in rationals, never rounded."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tallygate_server.lifecycle.lossy import LossyForm, LossyResult, LossySettings, decode, encode
from tests.support.long_run import LONG

EXAMPLES: Final = 3_000 if LONG else 40
START: Final = datetime(2026, 1, 31, 23, 59, tzinfo=UTC)
TIME: Final = pa.timestamp("us", tz="UTC")
RATIOS: Final = st.sampled_from([0.0, 1e-9, 0.001, 0.01, 0.01, 0.01, 0.07, 0.5, 1.0])
ANY_FLOATS: Final = st.lists(st.none() | st.floats(), max_size=40)
NEAR_FLOATS: Final = st.lists(st.none() | st.floats(-1e3, 1e3) | st.sampled_from([math.nan, math.inf]), max_size=80)
ANY_INTEGERS: Final = st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=40)
NEAR_INTEGERS: Final = st.lists(st.none() | st.integers(-500, 500), max_size=80)
LONG_SHAPES: Final = ("walk", "noise", "line", "steps", "far", "tiny", "spikes", "sine")


def series(shape: str, count: int, seed: int) -> list[float | None]:
    """Return a longer series of some shape, some values missing, not-a-number or infinite."""
    numbers = np.random.default_rng(seed)
    walk = np.cumsum(numbers.normal(size=count))
    made = {
        "walk": walk,
        "noise": numbers.normal(size=count) * 10.0 ** numbers.integers(-5, 6),
        "line": np.linspace(numbers.normal(), numbers.normal() * 1e6, count),
        "steps": np.repeat(numbers.normal(size=count), numbers.integers(1, 9, size=count))[:count],
        "far": walk + 1e15,
        "tiny": walk * 1e-250,
        "spikes": np.where(numbers.random(count) < 0.02, walk * 1e9, walk),
        "sine": np.sin(np.arange(count) / 20) * 1e3 + numbers.normal(size=count),
    }[shape]
    values: list[float | None] = [float(value) for value in made]
    for place in numbers.integers(0, count, size=count // 10):
        values[place] = [None, math.nan, math.inf, -math.inf][int(numbers.integers(0, 4))]
    return values


def assert_kept(values: list[Any], type_: pa.DataType, ratio: float, offsets: list[int] | None = None) -> LossyResult:
    """Encode values at any times, and compare what is given back with what a plain sort of them says."""
    micros = offsets or [place * 1_000_000 for place in range(len(values))]
    times = [START + timedelta(microseconds=offset) for offset in micros]
    notes = [None if place % 7 == 3 else f"note {place % 5}" for place in range(len(values))]
    table = pa.table(
        {"time": pa.array(times, TIME), "v": pa.array(values, type_), "note": pa.array(notes, pa.string())}
    )

    result = encode(table, LossySettings(form=LossyForm.PIECEWISE, max_error_ratio=ratio))
    rows = decode(result.payload).rows()

    order = sorted(range(len(values)), key=lambda place: times[place])
    assert rows.schema == table.schema
    assert rows.column("time").to_pylist() == [times[place] for place in order]
    assert rows.column("note").to_pylist() == [notes[place] for place in order]
    finite = [Fraction(value) for value in values if value is not None and math.isfinite(value)]
    bound = Fraction(ratio) * (max(finite) - min(finite)) if finite else Fraction(0)
    most = Fraction(0)
    for value, found in zip([values[place] for place in order], rows.column("v").to_pylist(), strict=True):
        if value is None or found is None:
            assert value is found is None
        elif not math.isfinite(value):
            assert found == value or (math.isnan(value) and math.isnan(found))
        else:
            most = max(most, abs(Fraction(found) - Fraction(value)))
    assert most <= bound
    assert result.columns[0].max_error == pytest.approx(float(most), rel=1e-9)
    return result


@settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=not LONG,
          suppress_health_check=[HealthCheck.too_slow])  # fmt: skip
@given(values=ANY_FLOATS | NEAR_FLOATS, ratio=RATIOS, data=st.data())
@example(values=[], ratio=0.01, data=None)
@example(values=[5.0], ratio=0.01, data=None)
@example(values=[math.nan] * 9, ratio=0.01, data=None)
@example(values=[None] * 9, ratio=0.01, data=None)
@example(values=[7.25] * 9, ratio=0.01, data=None)
@example(values=[-1.7e308, 1.7e308, 0.0, 5e-324, -0.0], ratio=0.01, data=None)
@example(values=[0.0, 5e-324, 1e-323, 1.5e-323, 2e-323], ratio=1.0, data=None)
def test_doubles_at_any_times_stay_within_the_bound(values: list[float | None], ratio: float, data: Any) -> None:
    offsets = None if data is None else data.draw(times_for(values))

    assert_kept(values, pa.float64(), ratio, offsets)


@settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=not LONG,
          suppress_health_check=[HealthCheck.too_slow])  # fmt: skip
@given(values=ANY_INTEGERS | NEAR_INTEGERS, ratio=RATIOS, data=st.data())
@example(values=[-(2**63), 2**63 - 1, 0, 1, 2, 3], ratio=0.01, data=None)
@example(values=[2**62 + place * 37 for place in range(90)], ratio=0.01, data=None)
@example(values=[2**53, 2**53 + 1, 2**53 + 100, 2**53 + 3, 2**53 + 99], ratio=0.07, data=None)
def test_whole_numbers_at_any_times_stay_within_the_bound(values: list[int | None], ratio: float, data: Any) -> None:
    offsets = None if data is None else data.draw(times_for(values))

    assert_kept(values, pa.int64(), ratio, offsets)


def times_for(values: list[Any]) -> st.SearchStrategy[list[int]]:
    """Return microseconds in any order, some the same, some years apart."""
    return st.lists(
        st.integers(0, 20).map(lambda second: second * 1_000_000) | st.integers(0, 10**15),
        min_size=len(values),
        max_size=len(values),
    )


@pytest.mark.parametrize("shape", LONG_SHAPES)
@pytest.mark.parametrize("seed", range(40 if LONG else 2))
def test_long_series_stay_within_the_bound_and_become_small(shape: str, seed: int) -> None:
    values = series(shape, 1_500, seed)
    numbers = np.random.default_rng(seed)
    offsets = numbers.permutation(np.cumsum(numbers.integers(0, 3, size=len(values)))) * 1_000_000

    result = assert_kept(values, pa.float64(), 0.01, offsets.tolist())
    in_order = assert_kept(values, pa.float64(), 0.01)

    if shape != "far":
        # Sums around 1e15 are whole eighths: there every value of the walk is kept as it is.
        assert result.columns[0].compressed_bytes < result.columns[0].original_bytes / 4
        assert in_order.columns[0].codec in {"quantized", "steps", "lines"}


def test_columns_have_bounds_of_their_own() -> None:
    walk = [float(value) for value in np.cumsum(np.random.default_rng(1).normal(size=500))]
    times = [START + timedelta(seconds=place) for place in range(500)]
    table = pa.table({"time": pa.array(times, TIME), "exact": walk, "rough": walk, "usual": walk})

    result = encode(table, LossySettings(form=LossyForm.PIECEWISE, column_error_ratios={"exact": 0.0, "rough": 0.2}))
    errors = {loss.column: loss.max_error / (max(walk) - min(walk)) for loss in result.columns}

    assert errors["exact"] == 0
    assert 0.01 < errors["rough"] <= 0.2
    assert 0 < errors["usual"] <= 0.01
    assert decode(result.payload).rows().column("exact").to_pylist() == walk
