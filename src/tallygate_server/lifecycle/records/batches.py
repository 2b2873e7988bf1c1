"""What callers put: records one by one, or column by column, before anybody looked at a schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tallygate_server.domain.lifecycle import ColumnType
from tallygate_server.errors import InvalidRequest
from tallygate_server.lifecycle.columnar import TIME, TIME_TYPE

COLUMNS_MAX: Final = 500
"""Of one dataset."""
TEXT_LENGTH_MAX: Final = 10_000
"""Characters of one text in a column."""
BATCH_BYTES_MAX: Final = 2**26
"""What a batch may take in memory once it is decoded: sixteen times the largest call."""

TIME_MIN_US: Final = int(datetime(1900, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
TIME_END_US: Final = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
"""Times of records lie from 1900 and before 2100."""

ARROW_TYPE: Final = {
    ColumnType.INT64: pa.int64(),
    ColumnType.DOUBLE: pa.float64(),
    ColumnType.STRING: pa.string(),
    ColumnType.BOOL: pa.bool_(),
    ColumnType.TIMESTAMP: TIME_TYPE,
}
COLUMN_TYPE: Final = {arrow: column for column, arrow in ARROW_TYPE.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainRecords:
    """Records one by one, in the order in which they came."""

    times_us: Sequence[int | None]
    """Microseconds since 1970; None where a record has no time."""
    values: Sequence[Mapping[str, Any]]
    """JSON objects, whose numbers are floats."""
    record_ids: Sequence[str]
    """Empty: none."""

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.values)

    @property
    def has_record_ids(self) -> bool:
        """Tell whether any record has an id."""
        return any(self.record_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnRecords:
    """Records column by column, in the order in which they came."""

    table: pa.Table
    """`time` and columns of the types that columns have, or of nulls only."""
    field: str
    """Of the request, for errors."""
    whole_times: bool = False
    """Whether whole numbers may stand for instants, as microseconds: their way of coming has no type for these."""

    def __len__(self) -> int:
        """Return the number of records."""
        return int(self.table.num_rows)

    @property
    def has_record_ids(self) -> bool:
        """Tell whether any record has an id."""
        return False


Batch = PlainRecords | ColumnRecords


def check_times(times: pa.ChunkedArray, field: str, *, by_place: bool) -> None:
    """Raise InvalidRequest of the field where a time is missing, or is not within the years 1900 to 2099.

    `by_place` tells that the field lists the times, so that its path names the place, too.
    """

    def refused(place: int, why: str) -> InvalidRequest:
        if by_place:
            return InvalidRequest.of(f"{field}[{place}]", why)
        return InvalidRequest.of(field, f"the time of record {place} {why}")

    if times.null_count:
        place = pc.index(pc.is_null(times.combine_chunks()), value=True).as_py()
        raise refused(place, "is missing, and a record of a time series needs one")
    micros = times.cast(pa.int64()).to_numpy()
    outside = (micros < TIME_MIN_US) | (micros >= TIME_END_US)
    if outside.any():
        raise refused(int(np.argmax(outside)), "must lie within the years 1900 to 2099")


def check_texts(table: pa.Table, field: str) -> None:
    """Raise InvalidRequest of the field where a text is too long, or all together take too much memory."""
    for name in table.column_names:
        column = table.column(name)
        if column.type == pa.string() and column.nbytes > TEXT_LENGTH_MAX:
            longest = pc.max(pc.utf8_length(column)).as_py()
            if longest is not None and longest > TEXT_LENGTH_MAX:
                raise InvalidRequest.of(
                    field, f"a text of column {name!r} has {longest} characters, the most is {TEXT_LENGTH_MAX}"
                )


def time_array(times_us: Any) -> pa.Array:
    """Return microseconds since 1970, a sequence or numpy's array, as instants."""
    return pa.array(times_us, pa.int64()).cast(TIME_TYPE)


def time_of(table: pa.Table) -> Any:
    """Return the times of records as numpy's 64-bit microseconds."""
    return table.column(TIME).cast(pa.int64()).to_numpy()
