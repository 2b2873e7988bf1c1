"""What a lossy form loses, measured: the given-back values against the original ones.

The share that is explained is what `value_retained` is made of:

- A column of numbers: the share of its variance that the given-back values explain (R squared, not below 0), times the
  share of rows in which a missing or not finite value is known as such.
- Any other column: how much better the given-back values hit than the commonest value alone (Goodman and Kruskal's
  lambda, not below 0).

A form that gives back everything has 1; one that gives back no more than a mean or the commonest value has 0.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tallygate_server.lifecycle.lossy.masks import distinct_counts
from tallygate_server.lifecycle.lossy.records import Column, ColumnKind, Floats, Integers, columns_of

QUANTILES: Final = (5, 25, 50, 75, 95)
TOP_VALUES_MAX: Final = 10
TEXT_LENGTH_MAX: Final = 100
"""Of a value that is named in statistics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFit:
    """How near given-back values come to the original ones.

    For texts, truth values and instants an error is 1 where the value is another one, and 0 where it is the same.
    """

    max_error: float
    root_mean_square_error: float
    explained: float
    """0 to 1."""
    same_sorts: bool = True
    """Whether every missing and not finite value is given back as such."""


PERFECT: Final = ColumnFit(max_error=0.0, root_mean_square_error=0.0, explained=1.0)
LOST: Final = ColumnFit(max_error=1.0, root_mean_square_error=1.0, explained=0.0)


def measure_fit(original: Column, given: Column) -> ColumnFit:
    """Measure how near the given values come, row by row."""
    if len(original.array) == 0:
        return PERFECT
    # Numbers may be known as texts: those that name an action.
    numbers = original.kind.numeric and given.kind.numeric
    return _fit_of_numbers(original, given) if numbers else _fit_of_others(original, given)


def _fit_of_numbers(original: Column, given: Column) -> ColumnFit:
    values, finite = original.floats()
    given_values, given_finite = given.floats()
    same_sort = _sorts(original) == _sorts(given)
    both = finite & given_finite
    errors = (
        _distances(original.numbers()[both], given.numbers()[both])
        if original.kind is given.kind is ColumnKind.INT64
        else np.abs(values[both] - given_values[both])
    )
    known = float(np.mean(same_sort))
    if not len(errors):
        return ColumnFit(max_error=0.0, root_mean_square_error=0.0, explained=known, same_sorts=known == 1.0)
    # Doubles may be farther apart than a double can say.
    most = min(float(errors.max()), sys.float_info.max)
    # Scaled, so that squares of large numbers stay finite.
    rmse = most * math.sqrt(float(np.mean(np.minimum(errors / most, 1.0) ** 2))) if most > 0 else 0.0
    scale = float(np.abs(values[both]).max()) or 1.0
    scaled = values[both] / scale
    spread = float(np.std(scaled)) * scale
    if rmse == 0:
        share = 1.0
    elif spread == 0:
        share = 0.0
    else:
        share = max(0.0, 1.0 - min(rmse / spread, 1.0) ** 2)
    return ColumnFit(
        max_error=most, root_mean_square_error=rmse, explained=share * known, same_sorts=bool(same_sort.all())
    )


def _sorts(column: Column) -> np.ndarray[Any, Any]:
    """Return for each row whether the value is finite 0, not-a-number 1, infinite 2, minus infinite 3, missing 4."""
    if column.kind is not ColumnKind.DOUBLE:
        return np.where(column.valid, 0, 4)
    values = column.numbers()
    sorts = np.select([np.isnan(values), values == np.inf, values == -np.inf], [1, 2, 3], 0)
    return np.where(column.valid, sorts, 4)


def _distances(left: Integers, right: Integers) -> Floats:
    # Modulo 2^64 the difference of the larger and the smaller one is exact, however far they are apart.
    larger, smaller = np.maximum(left, right), np.minimum(left, right)
    return (larger.view(np.uint64) - smaller.view(np.uint64)).astype(np.float64)


def _fit_of_others(original: Column, given: Column) -> ColumnFit:
    # Statistics know values of every type by their text.
    wanted = original.array if original.kind is given.kind else original.array.cast(given.kind.arrow)
    equal = pc.fill_null(pc.equal(wanted, given.array), fill_value=False)
    neither = pc.and_(original.array.is_null(), given.array.is_null())
    hit = float(np.mean(np.asarray(pc.or_(equal, neither))))
    counts = pc.value_counts(original.array).field("counts")
    commonest = float(pc.max(counts).as_py()) / len(original.array)
    wrong = 1.0 - hit
    explained = hit if commonest == 1.0 else max(0.0, (hit - commonest) / (1.0 - commonest))
    return ColumnFit(max_error=1.0 if wrong > 0 else 0.0, root_mean_square_error=math.sqrt(wrong), explained=explained)


def summarize(table: pa.Table) -> dict[str, Any]:
    """Return statistics of every column of the sorted records, ready for JSON; what is not finite is null."""
    return {column.name: summarize_column(column) for column in columns_of(table)}


def summarize_column(column: Column) -> dict[str, Any]:
    """Return the statistics of one column."""
    missing = int(column.array.null_count)
    if not column.kind.numeric:
        distinct, top = distinct_counts(column.array, TOP_VALUES_MAX)
        told = {text[:TEXT_LENGTH_MAX]: count for text, count in top.items()}
        return {"count": len(column.array) - missing, "missing": missing, "distinct": distinct, "top": told}
    values, finite = column.floats()
    nans = int(np.isnan(values[column.valid]).sum())
    present = values[finite]
    statistics: dict[str, Any] = {
        "count": len(present),
        "missing": missing,
        "nan": nans,
        "infinite": int(column.valid.sum()) - len(present) - nans,
    }
    if not len(present):
        return statistics
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = {
            "min": present.min(),
            "max": present.max(),
            "mean": present.mean(),
            "std": present.std(),
            "sum": present.sum(),
            "first": present[0],
            "last": present[-1],
        }
        quantiles = np.percentile(present, QUANTILES)
        numbers |= {f"p{share}": value for share, value in zip(QUANTILES, quantiles, strict=True)}
    return statistics | {name: _finite(float(value)) for name, value in numbers.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
