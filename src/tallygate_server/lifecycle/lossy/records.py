"""Tables of records as numbers: times in microseconds, values with the places where they are missing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Truths = npt.NDArray[np.bool_]

TIME: Final = "time"
RESERVED: Final = ("_id", "_sequence")
DOCUMENT: Final = "document"
TIME_TYPE: Final = pa.timestamp("us", tz="UTC")


class ColumnKind(Enum):
    """Type of a column's values; the values are stored."""

    INT64 = "int64"
    DOUBLE = "double"
    STRING = "string"
    BOOL = "bool"
    TIMESTAMP = "timestamp"

    @property
    def numeric(self) -> bool:
        """Tell whether its values are amounts."""
        return self in (ColumnKind.INT64, ColumnKind.DOUBLE)

    @property
    def arrow(self) -> pa.DataType:
        """Return the type in a table."""
        return _ARROW[self]


_ARROW: Final[dict[ColumnKind, pa.DataType]] = {
    ColumnKind.INT64: pa.int64(),
    ColumnKind.DOUBLE: pa.float64(),
    ColumnKind.STRING: pa.string(),
    ColumnKind.BOOL: pa.bool_(),
    ColumnKind.TIMESTAMP: TIME_TYPE,
}


def kind_of(data_type: pa.DataType) -> ColumnKind:
    """Return the kind of a column of a table. Raises TypeError for a type that records do not have."""
    for kind, arrow in _ARROW.items():
        if data_type == arrow:
            return kind
    raise TypeError(f"records have no columns of type {data_type}")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table, as an Arrow array without chunks."""

    name: str
    kind: ColumnKind
    array: pa.Array

    @property
    def valid(self) -> Truths:
        """Tell for each row whether there is a value."""
        return np.asarray(self.array.is_valid())

    def numbers(self) -> npt.NDArray[Any]:
        """Return int64 or float64 values; zero where there is none. Only for numbers and times."""
        array = self.array.cast(pa.int64()) if self.kind is ColumnKind.TIMESTAMP else self.array
        return np.asarray(array.fill_null(0))

    def floats(self) -> tuple[Floats, Truths]:
        """Return values as doubles, and where they are finite."""
        values = self.numbers().astype(np.float64)
        return values, self.valid & np.isfinite(values)


def sorted_records(table: pa.Table) -> pa.Table:
    """Return the records in the order of time; those of one time stay in their order."""
    times = times_of(table)
    if len(times) < 2 or bool(np.all(times[1:] >= times[:-1])):  # noqa: PLR2004 - one record is in order
        return table.combine_chunks()
    return table.take(pa.array(np.argsort(times, kind="stable"))).combine_chunks()


def times_of(table: pa.Table) -> Integers:
    """Return the times in microseconds since 1970."""
    return np.asarray(single(table.column(TIME)).cast(pa.int64()))


def columns_of(table: pa.Table) -> list[Column]:
    """Return the columns with data, without the time and the reserved ones."""
    return [
        Column(name, kind_of(table.schema.field(name).type), single(table.column(name)))
        for name in table.column_names
        if name != TIME and name not in RESERVED
    ]


def single(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], type=column.type)


def time_array(times: Integers) -> pa.Array:
    """Return times as a column."""
    return pa.array(times).cast(TIME_TYPE)


def number_array(values: npt.NDArray[Any], valid: Truths, kind: ColumnKind) -> pa.Array:
    """Return numbers or times as a column; not-a-number is a value."""
    array = pa.array(values, mask=None if valid.all() else ~valid, from_pandas=False)
    return array if array.type == kind.arrow else array.cast(kind.arrow)
