"""Records within the bounds of a selection: pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tallygate_server.domain.lifecycle import DataSelection


def within(table: pa.Table, start_time: datetime | None, end_time: datetime | None) -> pa.Table:
    """Return the rows at or after one time and before another; None: no bound."""
    times = table.column("time")
    chosen: Any = None
    for bound, fits in ((start_time, pc.greater_equal), (end_time, pc.less)):
        if bound is not None:
            each = fits(times, pa.scalar(bound, times.type))
            chosen = each if chosen is None else pc.and_(chosen, each)
    return table if chosen is None else table.filter(chosen)


def parts(table: pa.Table, selection: DataSelection) -> tuple[pa.Table, list[pa.Table]]:
    """Return what of sorted records lies within the bounds of a selection, and what lies before and behind."""
    times = np.asarray(table.column("time").combine_chunks().cast(pa.int64()))

    def place(instant: datetime | None, default: int) -> int:
        if instant is None:
            return default
        micros = pa.scalar(instant, table.schema.field("time").type).cast(pa.int64()).as_py()
        return int(np.searchsorted(times, micros, side="left"))

    begin, end = place(selection.start_time, 0), place(selection.end_time, table.num_rows)
    outside = [table.slice(0, begin), table.slice(max(begin, end))]
    return table.slice(begin, max(end - begin, 0)), [part for part in outside if part.num_rows]
