"""Rows with a guaranteed largest error: each column of numbers as the smallest curve that stays within it.

The guarantee: no finite value that is given back differs from the original one by more than the column's ratio times
its range, the distance of its largest and smallest finite values. Times, the order of records, missing values,
not-a-numbers, infinite values and all columns that hold no numbers are exact.

By trial each column gets the smallest of: `quantized` (every value on a grid of twice the largest error), `steps` (runs
of one level), `lines` (one connected line over time), or what a segment without loss would store. What was chosen is
given back as it was stored and compared; a value that misses the bound is stored beside the curve, and a column with
many of them gets a finer curve, or is stored exactly. So floating point cannot break the guarantee.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tallygate_server.lifecycle import columnar
from tallygate_server.lifecycle.lossy import curves
from tallygate_server.lifecycle.lossy.failures import LossyPayloadDamaged
from tallygate_server.lifecycle.lossy.masks import add_mask, read_mask
from tallygate_server.lifecycle.lossy.payload import PayloadReader, PayloadWriter
from tallygate_server.lifecycle.lossy.records import (
    Column,
    ColumnKind,
    Floats,
    Integers,
    columns_of,
    kind_of,
    number_array,
    single,
    times_of,
)
from tallygate_server.lifecycle.lossy.settings import LossySettings

EXACT_INTEGER_MAX: Final = 2**53
"""Beyond it doubles cannot tell whole numbers apart; such a range is stored exactly."""
LARGEST_VALUE: Final = 1e300
SMALLEST_BOUND: Final = 1e-280
"""Beyond these, slopes and levels would leave the range of doubles; such columns are stored exactly."""
LEVELS_MAX: Final = 2**40
"""How many bounds a range may be wide; a finer curve would save nothing."""
PATCH_SHARE_MAX: Final = 0.01
"""Of the values: more outliers than that, and the curve is made finer."""
ATTEMPTS_MAX: Final = 3
"""Curves that are tried, each twice as fine, before a column is stored exactly."""
PIECES_SHARE_MAX: Final = 0.25
"""Of the values: a curve of more pieces is never the smallest form."""
_POINTS_MIN: Final = 4
_SLACK: Final = 1e-9
"""Of the largest error, kept back so that a caller's own rounding finds the guarantee kept."""

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """Where the values of a column lie, and how far a given-back one may be off."""

    kind: ColumnKind
    low: float
    high: float
    """For whole numbers `low` and `high` are exact as integers."""
    tolerance: float
    """Of a curve. Whole numbers are rounded afterwards, which is why theirs may be almost a half more."""
    quantum: float
    bound: float
    """What every value must keep."""


def add_rows(writer: PayloadWriter, table: pa.Table, settings: LossySettings) -> tuple[dict[str, Any], dict[str, int]]:
    """Store sorted records; return what the reader must know, and the bytes of each column."""
    told: list[dict[str, Any]] = []
    stored: dict[str, int] = {}
    curved = {column.name for column in columns_of(table) if column.kind.numeric}
    exact: list[str] = []
    x = _abscissa(times_of(table))
    for index, name in enumerate(table.column_names):
        found: tuple[dict[str, Any], int] | None = None
        if name in curved:
            column = Column(name, kind_of(table.schema.field(name).type), single(table.column(name)))
            found = _add_curve(writer, f"c{index}", column, x, settings.error_ratio(name))
        if found is None:
            exact.append(name)
            told.append({"name": name})
            continue
        facts, stored[name] = found
        told.append({"name": name, **facts})
    segment = columnar.encode(table.select(exact), level=settings.level)
    writer.add_bytes("exact", segment.payload)
    codecs = segment.codecs | {facts["name"]: facts["codec"] for facts in told if "codec" in facts}
    return {"columns": told, "codecs": codecs}, stored | segment.column_bytes


def read_rows(reader: PayloadReader, columns: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return the records in the order of time."""
    try:
        exact = columnar.decode(reader.bytes_of("exact"))
    except columnar.SegmentDamaged as error:
        raise LossyPayloadDamaged("the exact columns cannot be read") from error
    x = _abscissa(times_of(exact))
    arrays = [
        _read_curve(reader, f"c{index}", told, x) if "scale" in told else exact.column(told["name"])
        for index, told in enumerate(columns)
    ]
    return pa.table(arrays, names=[told["name"] for told in columns])


def _abscissa(times: Integers) -> Floats:
    """Return what lines run over: the time, or the position where two records have the same time."""
    if len(times) and bool(np.all(times[1:] > times[:-1])):
        since_first: Floats = (times - times[0]).astype(np.float64)
        return since_first
    return np.arange(len(times), dtype=np.float64)


def _add_curve(
    writer: PayloadWriter, section: str, column: Column, x: Floats, ratio: float
) -> tuple[dict[str, Any], int] | None:
    """Store a column as a curve; None when it is to be stored exactly."""
    values = column.numbers()
    finite = column.valid & np.isfinite(values)
    present, places = values[finite], x[finite]
    scale = _scale(column.kind, present, ratio) if ratio > 0 and len(present) >= _POINTS_MIN else None
    exact_bytes = len(writer.packed(values[column.valid]))
    for _ in range(ATTEMPTS_MAX):
        if scale is None:
            return None
        codec, arrays, taken = _smallest(writer, present, places, scale)
        if taken >= exact_bytes:
            return None
        misses = np.flatnonzero(_errors(present, _values_on(codec, arrays, scale, places)) > scale.bound)
        if len(misses) <= PATCH_SHARE_MAX * len(present):
            break
        scale = _finer(scale)
    else:
        return None
    assert scale is not None
    if len(misses):
        arrays |= {"patched": misses, "patches": present[misses]}
    stored = add_mask(writer, f"{section}.valid", column.valid)
    stored += sum(writer.add_array(f"{section}.{name}", array) for name, array in arrays.items())
    if len(present) < int(column.valid.sum()):
        sorts = _sorts_of(values[column.valid])
        stored += writer.add_bytes(f"{section}.sorts", sorts.tobytes())
    integers = scale.kind is ColumnKind.INT64
    low, high = (int(scale.low), int(scale.high)) if integers else (scale.low, scale.high)
    return {"codec": codec, "kind": scale.kind.value, "scale": [low, high, scale.tolerance, scale.quantum]}, stored


def _read_curve(reader: PayloadReader, section: str, told: Mapping[str, Any], x: Floats) -> pa.Array:
    count = len(x)
    kind = ColumnKind(told["kind"])
    low, high, tolerance, quantum = told["scale"]
    scale = _Scale(kind=kind, low=low, high=high, tolerance=tolerance, quantum=quantum, bound=math.inf)
    valid = read_mask(reader, f"{section}.valid", count)
    finite = valid.copy()
    values = np.zeros(count, dtype=np.int64 if kind is ColumnKind.INT64 else np.float64)
    if reader.has(f"{section}.sorts"):
        sorts = np.frombuffer(reader.bytes_of(f"{section}.sorts"), dtype=np.uint8)
        if len(sorts) != int(valid.sum()):
            raise LossyPayloadDamaged(f"section {section} has the wrong count")
        values[valid] = np.choose(sorts, [0.0, np.nan, np.inf, -np.inf])
        finite[valid] = sorts == 0
    names = _SECTIONS[told["codec"]]
    arrays: Arrays = {name: reader.array(f"{section}.{name}", np.int64) for name in names}
    found = _values_on(told["codec"], arrays, scale, x[finite])
    if len(found) != int(finite.sum()):
        raise LossyPayloadDamaged(f"section {section} has the wrong count")
    if reader.has(f"{section}.patched"):
        found[reader.array(f"{section}.patched", np.int64)] = reader.array(f"{section}.patches", found.dtype.type)
    values[finite] = found
    return number_array(values, valid, kind)


def _sorts_of(values: Floats) -> npt.NDArray[np.uint8]:
    return np.select([np.isnan(values), values == np.inf, values == -np.inf], [1, 2, 3], 0).astype(np.uint8)


def _scale(kind: ColumnKind, values: npt.NDArray[Any], ratio: float) -> _Scale | None:
    """Return what a column allows, or None when only exact values keep it."""
    if kind is ColumnKind.INT64:
        low, high = int(values.min()), int(values.max())
        # In rationals: no rounding decides whether a whole number is still within the bound.
        most = math.floor(Fraction(ratio) * (high - low))
        if not most or high - low > EXACT_INTEGER_MAX:
            return None
        return _Scale(kind=kind, low=low, high=high, tolerance=most + 0.49, quantum=2 * most + 1, bound=float(most))
    lowest, highest = float(values.min()), float(values.max())
    with np.errstate(over="ignore"):
        bound = ratio * (highest - lowest) * (1 - _SLACK)
    # What the addition of an offset to the smallest value can add.
    rounding = 4 * math.ulp(max(abs(lowest), abs(highest)))
    tolerance = bound * (1 - _SLACK) - rounding
    usual = bound >= SMALLEST_BOUND and max(abs(lowest), abs(highest)) <= LARGEST_VALUE
    if not usual or tolerance <= rounding or bound * LEVELS_MAX < highest - lowest:
        return None
    return _Scale(kind=kind, low=lowest, high=highest, tolerance=tolerance, quantum=2 * tolerance, bound=bound)


def _finer(scale: _Scale) -> _Scale | None:
    if scale.kind is ColumnKind.INT64:
        # Whole numbers that still miss it are few; halves of their tolerance would be no whole numbers.
        return None
    half = scale.tolerance / 2
    return _Scale(kind=scale.kind, low=scale.low, high=scale.high, tolerance=half, quantum=2 * half, bound=scale.bound)


_SECTIONS: Final = {"quantized": ("levels",), "steps": ("lengths", "levels"), "lines": ("runs", "levels")}


def _smallest(writer: PayloadWriter, values: npt.NDArray[Any], x: Floats, scale: _Scale) -> tuple[str, Arrays, int]:
    """Return the curve that takes the fewest bytes."""
    offsets = (values - (int(scale.low) if scale.kind is ColumnKind.INT64 else scale.low)).astype(np.float64)
    pieces_max = int(PIECES_SHARE_MAX * len(values)) + 2
    candidates: list[tuple[str, Arrays]] = [
        ("quantized", {"levels": np.rint(offsets / scale.quantum).astype(np.int64)})
    ]
    if (steps := curves.fit_steps(offsets, scale.tolerance, pieces_max=pieces_max)) is not None:
        candidates.append(("steps", {"lengths": steps[0], "levels": steps[1]}))
    if (lines := curves.fit_lines(x, offsets, scale.tolerance, pieces_max=pieces_max)) is not None:
        candidates.append(("lines", {"runs": np.diff(lines[0]), "levels": lines[1]}))
    sized = [
        (sum(len(writer.packed(array)) for array in arrays.values()), codec, arrays) for codec, arrays in candidates
    ]
    taken, codec, arrays = min(sized, key=lambda candidate: candidate[0])
    return codec, arrays, taken


def _values_on(codec: str, arrays: Arrays, scale: _Scale, x: Floats) -> npt.NDArray[Any]:
    """Return the values that a stored curve gives back."""
    levels = arrays["levels"]
    grid = scale.tolerance * curves.GRID_SHARE
    if codec == "quantized":
        offsets = levels.astype(np.float64) * scale.quantum
    elif codec == "steps":
        offsets = curves.along_steps(arrays["lengths"], levels, grid)
    else:
        positions = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(arrays["runs"])])
        offsets = curves.along_lines(x, positions, levels, grid)
    # Beyond the ends of the range a value is only farther off.
    if scale.kind is ColumnKind.INT64:
        width = int(scale.high) - int(scale.low)
        return np.clip(np.rint(offsets), 0, width).astype(np.int64) + int(scale.low)
    return np.clip(offsets + scale.low, scale.low, scale.high)


def _errors(values: npt.NDArray[Any], found: npt.NDArray[Any]) -> Floats:
    # Both lie in the range, which doubles hold exactly when it is one of whole numbers.
    errors: Floats = np.abs(values - found).astype(np.float64)
    return errors
