"""Records to measure with: from CSV files, or made up where there are none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from tallygate_server.lifecycle.columnar import TIME, TIME_TYPE

TIME_NAMES: Final = ("time", "timestamp", "datetime", "date", "ts", "at")
EPOCH_UNITS: Final = ("s", "ms", "us", "ns")
EPOCH_FACTOR: Final = 1_000
EPOCH_SECONDS_MAX: Final = 10**11
"""An epoch above it counts something smaller than seconds, and so on by thousands."""

KEPT_TYPES: Final = (pa.int64(), pa.float64(), pa.string(), pa.bool_(), TIME_TYPE)
SECOND_US: Final = 1_000_000


class NoRecords(Exception):
    """A file holds no rows, or no column that could be their time."""


def read_records(path: Path) -> pa.Table:
    """Return a CSV file's rows by time: types as pyarrow infers them, empty cells as nulls.

    The time is the column that is named like one, or else the first, if it holds ISO 8601 or seconds, milli-, micro- or
    nanoseconds since 1970. Raises NoRecords.
    """
    table = pa_csv.read_csv(path, convert_options=pa_csv.ConvertOptions(strings_can_be_null=True))
    if table.num_rows == 0 or table.num_columns == 0:
        raise NoRecords(f"{path} holds no rows")
    named = [name for name in table.column_names if name.strip().lower() in TIME_NAMES]
    for name in (*named, table.column_names[0]):
        times = _as_times(table.column(name))
        if times is not None:
            break
    else:
        raise NoRecords(f"{path} has no column of times")
    columns = {TIME: times}
    for other in table.column_names:
        if other != name:
            columns[f"{other}_" if other == TIME else other] = _as_kept(table.column(other))
    fields = [pa.field(column, values.type, nullable=column != TIME) for column, values in columns.items()]
    records = pa.table(list(columns.values()), schema=pa.schema(fields))
    return records.take(pc.sort_indices(records, sort_keys=[(TIME, "ascending")])).combine_chunks()


def _as_times(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Return a column as times, or None where it holds none, or not in every row."""
    if column.null_count:
        return None
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        unit = 0
        while pc.max(column).as_py() > EPOCH_SECONDS_MAX * EPOCH_FACTOR**unit and unit + 1 < len(EPOCH_UNITS):
            unit += 1
        if pa.types.is_integer(column.type):
            return column.cast(pa.timestamp(EPOCH_UNITS[unit])).cast(pa.timestamp("us"), safe=False).cast(TIME_TYPE)
        microseconds = pc.round(pc.multiply(column, SECOND_US / EPOCH_FACTOR**unit))
        return microseconds.cast(pa.int64()).cast(TIME_TYPE)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        # A record's time is kept in microseconds; finer parts are cut off on both sides of the comparison.
        return column.cast(pa.timestamp("us", tz=getattr(column.type, "tz", None)), safe=False).cast(TIME_TYPE)
    return None


def _as_kept(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if column.type in KEPT_TYPES:
        return column
    if pa.types.is_null(column.type):
        return column.cast(pa.float64())
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return column.cast(pa.timestamp("us"), safe=False).cast(TIME_TYPE)
    return column.cast(pa.string())


def repeated(records: pa.Table, rows: int) -> pa.Table:
    """Return the records again and again, each time later, until there are so many rows."""
    times = records.column(TIME).cast(pa.int64()).to_numpy()
    span_us = int(times[-1] - times[0]) + SECOND_US
    parts = []
    for turn in range(-(-rows // records.num_rows)):
        later = pa.array(times + turn * span_us).cast(TIME_TYPE)
        parts.append(records.set_column(0, records.schema.field(TIME), later))
    return pa.concat_tables(parts).slice(0, rows).combine_chunks()


def joined(files: Sequence[Path]) -> pa.Table:
    """Return the records of several files, one behind the other, with the columns of all; of none: made-up ones."""
    tables = [read_records(file) for file in files] or list(made_up().values())[:3]
    return pa.concat_tables(tables, promote_options="permissive").combine_chunks()


def made_up() -> dict[str, pa.Table]:
    """Return tables like those that devices and meters send: two rides, a run, and half a year of a city's demand."""
    random = np.random.default_rng(20_261_120)
    return {
        "made-up ride": _activity(random, rows=10_000, speed_mps=8.0, with_power=False, gap_share=0.002),
        "made-up ride with power": _activity(random, rows=4_700, speed_mps=9.0, with_power=True, gap_share=0.0),
        "made-up run": _activity(random, rows=2_800, speed_mps=3.2, with_power=False, gap_share=0.1),
        "made-up demand": _demand(random, rows=10_300),
    }


def _activity(
    random: np.random.Generator, *, rows: int, speed_mps: float, with_power: bool, gap_share: float
) -> pa.Table:
    seconds = np.cumsum(1 + (random.random(rows) < gap_share) * random.integers(1, 5, rows))
    speed = np.maximum(0, np.round(speed_mps + _wandering(random, rows, 0.15, 0.98), 3))
    distance = np.round(np.cumsum(speed + random.normal(0, 0.2, rows).clip(-0.5, 0.5)).clip(0), 2)
    altitude = np.round((620 + _wandering(random, rows, 0.4, 0.999)) * 5) / 5 - 500
    heart = np.round(145 + _wandering(random, rows, 1.2, 0.99)).astype(np.int64)
    cadence = np.round(82 + _wandering(random, rows, 2.5, 0.9)).astype(np.int64)
    temperature = np.round(21 + _wandering(random, rows, 0.01, 0.9999)).astype(np.int64)
    columns: dict[str, Any] = {
        "distance_m": distance,
        "altitude_m": altitude,
        "speed_mps": speed,
        "heart_rate_bpm": pa.array(heart, mask=random.random(rows) < 0.005),  # noqa: PLR2004 - A loose strap.
        "cadence_rpm": pa.array(cadence, mask=random.random(rows) < 0.01),  # noqa: PLR2004 - A lost signal.
    }
    if with_power:
        columns["power_w"] = np.maximum(0, np.round(210 + _wandering(random, rows, 40, 0.7))).astype(np.int64)
    columns["temperature_c"] = temperature
    return _table(seconds * SECOND_US, columns)


def _demand(random: np.random.Generator, *, rows: int) -> pa.Table:
    half_hours = np.arange(rows)
    day, week = 2 * np.pi * half_hours / 48, 2 * np.pi * half_hours / 336
    demand = 15_000 + 8_000 * np.sin(day - 2) + 1_500 * np.sin(week) + random.normal(0, 900, rows)
    return _table(half_hours * 1_800 * SECOND_US, {"value": np.maximum(0, demand).astype(np.int64)})


def _wandering(random: np.random.Generator, rows: int, step: float, memory: float) -> npt.NDArray[np.float64]:
    """Return a series that drifts, and is drawn back to zero."""
    values, value = np.empty(rows), 0.0
    for row, shock in enumerate(random.normal(0, step, rows)):
        value = memory * value + shock
        values[row] = value
    return values


def _table(times_us: npt.NDArray[np.int64], columns: dict[str, Any]) -> pa.Table:
    start_us = 1_700_000_000 * SECOND_US
    arrays = {TIME: pa.array(times_us + start_us).cast(TIME_TYPE)} | {
        name: values if isinstance(values, pa.Array) else pa.array(values) for name, values in columns.items()
    }
    fields = [pa.field(name, values.type, nullable=name != TIME) for name, values in arrays.items()]
    return pa.table(list(arrays.values()), schema=pa.schema(fields))
