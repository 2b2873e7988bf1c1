"""Statistics of windows instead of rows.

Windows are laid out from 1970 on in UTC: one of an hour begins at every full hour. Of each window that holds a record
and each column of numbers are kept: how many values are finite (`count`), `missing`, `nan` and `infinite`; and of the
finite ones `min`, `max`, `sum`, `mean`, `std` (of the population), `first`, `last` and the exact quantiles `p5`, `p25`,
`p50`, `p75` and `p95` (linear between neighbours). Of any other column: `count`, `missing` and the commonest values.

Time in zone: a reading holds until the next one of its column, but no longer than `hold_seconds`, which is three times
the median distance of readings in the segment; the last one of a segment holds for no time, nor does not-a-number. What
goes over the end of a window counts in the next one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tallygate_server.lifecycle.lossy.failures import AnalysisUnavailable, LossyPayloadDamaged
from tallygate_server.lifecycle.lossy.measure import QUANTILES, TEXT_LENGTH_MAX, TOP_VALUES_MAX
from tallygate_server.lifecycle.lossy.payload import PayloadReader, PayloadWriter
from tallygate_server.lifecycle.lossy.records import (
    TIME,
    Column,
    ColumnKind,
    Floats,
    Integers,
    columns_of,
    single,
    time_array,
    times_of,
)
from tallygate_server.lifecycle.lossy.settings import LossySettings

HOLD_DISTANCES: Final = 3
"""How many usual distances of readings one of them holds at most."""
ZONE_PIECES_MAX: Final = 4_000_000
"""Pieces that held readings are cut into at the ends of windows; more, and the hold is shortened."""
MICROS: Final = 1_000_000

COUNTS: Final = ("count", "missing", "nan", "infinite")
AMOUNTS: Final = ("min", "max", "sum", "std", "first", "last")
SHARES: Final = tuple(f"p{share}" for share in QUANTILES)
LIMITATION: Final = (
    "Single records are gone; statistics of windows are exact, finer ones than the stored windows are not."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """Statistics of windows."""

    table: pa.Table
    """`time` is a window's begin; the statistics of a column are named after it: `speed.mean`."""
    window: timedelta
    approximate: tuple[str, ...] = ()
    """Columns of the table that are only near the truth."""
    columns: tuple[str, ...] = ()
    """Of the records, in their order."""


class _Groups:
    """Sorted records, cut into windows."""

    def __init__(self, times: Integers, window: timedelta, also: Sequence[Integers] = ()) -> None:
        self.length = window // timedelta(microseconds=1)
        indices = times // self.length
        self.windows: Integers = np.unique(np.concatenate([indices, *also]))
        self.of_row: Integers = np.searchsorted(self.windows, indices)

    def counts(self, chosen: npt.NDArray[np.bool_]) -> Integers:
        """Return in how many rows of each window something is so."""
        return np.bincount(self.of_row[chosen], minlength=len(self.windows)).astype(np.int64)


def windows_of(table: pa.Table, settings: LossySettings) -> Windows:
    """Return the statistics of sorted records."""
    times = times_of(table)
    length = settings.window // timedelta(microseconds=1)
    columns = columns_of(table)
    zones = {
        column.name: _time_in_zones(column, times, settings.zones[column.name], length)
        for column in columns
        if column.kind.numeric and column.name in settings.zones
    }
    groups = _Groups(times, settings.window, [found.windows for found in zones.values()])
    found: dict[str, pa.Array] = {TIME: time_array(groups.windows * length)}
    for column in columns:
        statistics = _of_numbers(column, groups) if column.kind.numeric else _of_others(column, groups)
        if column.name in zones:
            statistics |= zones[column.name].seconds_in(groups.windows)
        found |= {f"{column.name}.{name}": array for name, array in statistics.items()}
    return Windows(table=pa.table(found), window=settings.window, columns=tuple(column.name for column in columns))


def _of_numbers(column: Column, groups: _Groups) -> dict[str, pa.Array]:
    values, finite = column.floats()
    nans = column.valid & np.isnan(values)
    counts = groups.counts(finite)
    some = counts > 0
    ends = np.cumsum(counts)[some]
    begins = ends - counts[some]
    present, rows = values[finite], groups.of_row[finite]
    size = counts[some]
    order = np.lexsort((present, rows))
    ranked = present[order]
    originals = column.numbers()[finite]
    sums = np.add.reduceat(present, begins) if len(begins) else np.zeros(0)
    # Around the mean, and in two passes: the difference of large squares would be noise.
    means = sums / size
    deviations = present - np.repeat(means, size)
    squares = np.add.reduceat(deviations**2, begins) if len(begins) else np.zeros(0)
    told: dict[str, pa.Array] = {
        "count": pa.array(counts),
        "missing": pa.array(groups.counts(~column.valid)),
        "nan": pa.array(groups.counts(nans)),
        "infinite": pa.array(groups.counts(column.valid & ~nans & ~finite)),
        "min": _spread(originals[order][begins], some),
        "max": _spread(originals[order][ends - 1], some),
        "sum": _spread(sums, some),
        "mean": _spread(means, some),
        "std": _spread(np.sqrt(squares / size), some),
        "first": _spread(originals[begins], some),
        "last": _spread(originals[ends - 1], some),
    }
    for share in QUANTILES:
        told[f"p{share}"] = _spread(_quantiles(ranked, begins, size, share / 100), some)
    return told


def _quantiles(ranked: Floats, begins: Integers, size: Integers, share: float) -> Floats:
    place = (size - 1) * share
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, size - 1)
    low, high = ranked[begins + below], ranked[begins + above]
    found: Floats = low + (high - low) * (place - below)
    return found


def _spread(values: npt.NDArray[Any], some: npt.NDArray[np.bool_]) -> pa.Array:
    """Return values of those windows that have one, as a column of all."""
    full = np.zeros(len(some), dtype=values.dtype)
    full[some] = values
    return pa.array(full, mask=~some, from_pandas=False)


def _of_others(column: Column, groups: _Groups) -> dict[str, pa.Array]:
    valid = column.valid
    encoded = column.array.cast(pa.string()).dictionary_encode()
    texts: list[str] = encoded.dictionary.to_pylist()
    rank = np.argsort(np.argsort(np.array(texts, dtype=object))) if texts else np.zeros(0, dtype=np.int64)
    codes = np.asarray(encoded.indices.fill_null(0)).astype(np.int64)[valid]
    pairs, counted = np.unique(groups.of_row[valid] * max(len(texts), 1) + codes, return_counts=True)
    rows, found = pairs // max(len(texts), 1), pairs % max(len(texts), 1)
    tops: list[dict[str, int]] = [{} for _ in groups.windows]
    for place in np.lexsort((rank[found], -counted, rows)).tolist():
        top = tops[rows[place]]
        if len(top) < TOP_VALUES_MAX:
            top[texts[found[place]][:TEXT_LENGTH_MAX]] = int(counted[place])
    return {
        "count": pa.array(groups.counts(valid)),
        "missing": pa.array(groups.counts(~valid)),
        "top": pa.array([json.dumps(top) for top in tops], type=pa.string()),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Zones:
    windows: Integers
    zone: Integers
    micros: Integers
    zone_count: int

    def seconds_in(self, windows: Integers) -> dict[str, pa.Array]:
        places = np.searchsorted(windows, self.windows)
        sums = np.zeros((self.zone_count, len(windows)), dtype=np.int64)
        np.add.at(sums, (self.zone, places), self.micros)
        return {f"zone{index}_seconds": pa.array(row / MICROS) for index, row in enumerate(sums)}


def hold_micros(times: Integers) -> int:
    """Return how long a reading holds at most when no other follows, in microseconds."""
    distances = np.diff(times)
    distances = distances[distances > 0]
    return int(HOLD_DISTANCES * np.median(distances)) if len(distances) else 0


def _time_in_zones(column: Column, times: Integers, bounds: Sequence[float], length: int) -> _Zones:
    values = column.numbers()[column.valid].astype(np.float64)
    begins = times[column.valid]
    hold = hold_micros(begins)
    ends = np.minimum(np.append(begins[1:], begins[-1:]), begins + hold)
    held = (ends > begins) & ~np.isnan(values)
    begins, ends, values = begins[held], ends[held], values[held]
    zone = np.searchsorted(np.array(bounds, dtype=np.float64), values, side="right")
    first = begins // length
    pieces = (ends - 1) // length - first + 1
    if int(pieces.sum()) > ZONE_PIECES_MAX:
        # A window is far shorter than the distance of readings: each counts where it begins.
        pieces = np.ones_like(first)
        ends = np.minimum(ends, (first + 1) * length)
    rows = np.repeat(np.arange(len(first)), pieces)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    windows = first[rows] + within
    micros = np.minimum(ends[rows], (windows + 1) * length) - np.maximum(begins[rows], windows * length)
    return _Zones(windows=windows, zone=zone[rows], micros=micros, zone_count=len(bounds) + 1)


def coarser(windows: Windows, resolution: timedelta) -> Windows:
    """Combine windows to longer ones: exactly, but for the quantiles, which are weighted by the counts.

    Raises AnalysisUnavailable for a length that is not a multiple of the stored one.
    """
    if resolution == windows.window:
        return windows
    if resolution < windows.window or resolution % windows.window:
        raise AnalysisUnavailable(
            "windows",
            f"windows of {windows.window} are stored; others can be made only in multiples of it, not of {resolution}",
        )
    return _grouped(windows, resolution)


def _grouped(windows: Windows, resolution: timedelta) -> Windows:
    # Sums of numbers near the largest may leave the range of doubles.
    with np.errstate(all="ignore"):
        return _put_together(windows, resolution)


def _put_together(windows: Windows, resolution: timedelta) -> Windows:
    table = windows.table
    groups = _Groups(times_of(table), resolution)
    found: dict[str, pa.Array] = {TIME: time_array(groups.windows * groups.length)}
    approximate: list[str] = []
    for name in windows.columns:
        stored = {
            key.removeprefix(f"{name}."): single(table.column(key))
            for key in table.column_names
            if key.rpartition(".")[0] == name
        }
        combined = _combined(stored, groups) if "mean" in stored else _combined_others(stored, groups)
        approximate += [f"{name}.{key}" for key in combined if key in SHARES or key == "top"]
        found |= {f"{name}.{key}": array for key, array in combined.items()}
    return Windows(table=pa.table(found), window=resolution, approximate=tuple(approximate), columns=windows.columns)


def joined(parts: Sequence[Windows], resolution: timedelta) -> Windows:
    """Put the windows of several parts together: one that lies in several of them is combined from theirs."""
    shaped = [coarser(part, resolution) for part in parts]
    if len(shaped) == 1:
        return shaped[0]
    columns = tuple(dict.fromkeys(name for part in shaped for name in part.columns))
    table = pa.concat_tables([part.table for part in shaped], promote_options="permissive")
    order = np.argsort(times_of(table), kind="stable")
    windows = Windows(
        table=table.take(pa.array(order)).combine_chunks(),
        window=resolution,
        columns=columns,
        approximate=tuple(dict.fromkeys(name for part in shaped for name in part.approximate)),
    )
    times = times_of(windows.table)
    return windows if bool((np.diff(times) > 0).all()) else _grouped(windows, resolution)


def _combined(stored: Mapping[str, pa.Array], groups: _Groups) -> dict[str, pa.Array]:
    def summed(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        sums = np.zeros(len(groups.windows), dtype=values.dtype)
        np.add.at(sums, groups.of_row, values)
        return sums

    numbers = {key: np.asarray(array.fill_null(0)) for key, array in stored.items()}
    weights = numbers["count"].astype(np.float64)
    chosen = numbers["count"] > 0
    counts = summed(numbers["count"])
    some = counts > 0
    told = {key: pa.array(summed(numbers[key])) for key in COUNTS}
    rows = groups.of_row[chosen]
    begins = np.searchsorted(rows, np.flatnonzero(some), side="left")
    ends = np.searchsorted(rows, np.flatnonzero(some), side="right")
    size = counts[some]

    def reduced(ufunc: np.ufunc, key: str) -> pa.Array:
        values = numbers[key][chosen]
        return _spread(ufunc.reduceat(values, begins) if len(begins) else values[:0], some)

    sums = summed(numbers["sum"])[some]
    means = sums / size
    around = np.zeros(len(groups.windows))
    around[some] = means
    # The spread within the windows, and that of their means around the mean of all.
    squares = weights * (numbers["std"] ** 2 + np.where(chosen, numbers["mean"] - around[groups.of_row], 0) ** 2)
    told |= {
        "min": reduced(np.minimum, "min"),
        "max": reduced(np.maximum, "max"),
        "sum": _spread(sums, some),
        "mean": _spread(means, some),
        "std": _spread(np.sqrt(summed(squares)[some] / size), some),
        "first": _spread(numbers["first"][chosen][begins], some),
        "last": _spread(numbers["last"][chosen][ends - 1], some),
    }
    for key in SHARES:
        told[key] = _spread(summed(weights * numbers[key])[some] / size, some)
    for key, values in numbers.items():
        if key.startswith("zone"):
            told[key] = pa.array(summed(values))
    return told


def _combined_others(stored: Mapping[str, pa.Array], groups: _Groups) -> dict[str, pa.Array]:
    counts = np.zeros((2, len(groups.windows)), dtype=np.int64)
    np.add.at(counts[0], groups.of_row, np.asarray(stored["count"]))
    np.add.at(counts[1], groups.of_row, np.asarray(stored["missing"]))
    tops: list[dict[str, int]] = [{} for _ in groups.windows]
    for row, text in zip(groups.of_row.tolist(), stored["top"].to_pylist(), strict=True):
        for value, count in json.loads(text).items():
            tops[row][value] = tops[row].get(value, 0) + count
    ranked = [dict(sorted(top.items(), key=lambda pair: (-pair[1], pair[0]))[:TOP_VALUES_MAX]) for top in tops]
    return {"count": pa.array(counts[0]), "missing": pa.array(counts[1]), "top": pa.array(map(json.dumps, ranked))}


def add_windows(writer: PayloadWriter, windows: Windows) -> tuple[dict[str, Any], dict[str, int]]:
    """Store windows; return what the reader must know, and the bytes of each column of the records."""
    table = windows.table
    told: list[list[str]] = []
    stored: dict[str, int] = {TIME: writer.add_array("t", times_of(table) // (windows.window // timedelta.resolution))}
    for index, name in enumerate(table.column_names):
        owner, _, statistic = name.rpartition(".")
        array = single(table.column(name))
        kind = "text" if array.type == pa.string() else "integer" if array.type == pa.int64() else "number"
        told.append([name, kind])
        if name == TIME or statistic == "mean":
            # A mean is the sum by the count.
            continue
        if kind == "text":
            taken = writer.add_bytes(f"w{index}", json.dumps(array.to_pylist()).encode())
        else:
            taken = writer.add_array(f"w{index}", np.asarray(array.drop_null()))
        stored[owner] = stored.get(owner, 0) + taken
    return {"window": windows.window // timedelta.resolution, "table": told, "columns": list(windows.columns)}, stored


def read_windows(reader: PayloadReader, header: Mapping[str, Any]) -> Windows:
    """Return the windows that `add_windows` has stored."""
    length = int(header["window"])
    found: dict[str, pa.Array] = {}
    for index, (name, kind) in enumerate(header["table"]):
        owner, _, statistic = name.rpartition(".")
        if name == TIME:
            found[name] = time_array(reader.array("t", np.int64) * length)
        elif statistic == "mean":
            counts = np.asarray(found[f"{owner}.count"])
            sums = np.asarray(found[f"{owner}.sum"].fill_null(0))
            some = counts > 0
            found[name] = _spread(sums[some] / counts[some], some)
        elif kind == "text":
            found[name] = pa.array(json.loads(reader.bytes_of(f"w{index}")), type=pa.string())
        else:
            values = reader.array(f"w{index}", np.int64 if kind == "integer" else np.float64)
            per_value = statistic in AMOUNTS or statistic in SHARES
            some = np.asarray(found[f"{owner}.count"]) > 0 if per_value else np.ones(len(values), dtype=np.bool_)
            if len(values) != int(some.sum()):
                raise LossyPayloadDamaged(f"{name} has the wrong count")
            found[name] = _spread(values, some)
    return Windows(table=pa.table(found), window=timedelta(microseconds=length), columns=tuple(header["columns"]))


def rows_from(windows: Windows, times: Integers, columns: Sequence[Column]) -> dict[str, Column]:
    """Return what windows say of each record: the mean, or the commonest value, of the window that it lies in."""
    length = windows.window // timedelta.resolution
    known = times_of(windows.table) // length
    rows = pa.array(np.searchsorted(known, times // length))
    found: dict[str, Column] = {}
    for column in columns:
        if column.kind.numeric:
            means = single(windows.table.column(f"{column.name}.mean")).take(rows)
            found[column.name] = Column(column.name, ColumnKind.DOUBLE, means)
            continue
        tops = [next(iter(json.loads(text)), None) for text in windows.table.column(f"{column.name}.top").to_pylist()]
        texts = pa.array(tops, type=pa.string()).take(rows)
        found[column.name] = Column(column.name, ColumnKind.STRING, texts)
    return found
