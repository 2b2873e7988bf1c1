"""Merges tables that overlap in time, holding only those whose time has come. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from tallygate_server.lifecycle.records.batches import time_of


class Merge:
    """Tables, each sorted by time, of which everything before a frontier has been taken.

    They come in the order of their begins: whoever takes all records before the begin of the next table misses none.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        """Begin without a table."""
        self._held: list[tuple[pa.Table, Any]] = []

    @property
    def empty(self) -> bool:
        """Tell whether every record has been taken."""
        return not self._held

    @property
    def row_count(self) -> int:
        """Return how many records are held."""
        return sum(table.num_rows for table, _ in self._held)

    @property
    def byte_count(self) -> int:
        """Return the bytes that these records take."""
        return sum(int(table.nbytes) for table, _ in self._held)

    def add(self, table: pa.Table) -> None:
        """Hold a table, whose columns are those of all others."""
        if table.num_rows:
            self._held.append((table, time_of(table)))

    def bound(self, before_us: int | None, rows_max: int) -> int | None:
        """Return up to where to take at once: before the instant (None: all), or earlier where that is too much.

        All records of one instant are taken together, however many there are.
        """
        parts = [part if before_us is None else part[: _end(part, before_us)] for _, part in self._held]
        if sum(map(len, parts)) <= rows_max:
            return before_us
        times = np.concatenate(parts)
        return max(int(np.partition(times, rows_max)[rows_max]), int(times.min()) + 1)

    def take(self, before_us: int | None) -> pa.Table | None:
        """Return all records before an instant (None: all), by time; of equal times, those of earlier tables first."""
        pieces: list[tuple[pa.Table, Any]] = []
        held: list[tuple[pa.Table, Any]] = []
        for table, times in self._held:
            cut = len(times) if before_us is None else _end(times, before_us)
            if cut:
                pieces.append((table.slice(0, cut), times[:cut]))
            if cut < len(times):
                held.append((table.slice(cut), times[cut:]))
        self._held = held
        if not pieces:
            return None
        if len(pieces) == 1:
            return pieces[0][0]
        times = np.concatenate([part for _, part in pieces])
        merged = pa.concat_tables([part for part, _ in pieces]).combine_chunks()
        if np.any(np.diff(times) < 0):
            merged = merged.take(np.argsort(times, kind="stable"))
        return merged

    def shed(self, bytes_max: int) -> int | None:
        """Drop the latest records where all together take too much; return from when on they are gone, None if none.

        The earliest instant is kept whole, whatever it takes.
        """
        size = self.byte_count
        if size <= bytes_max:
            return None
        times = np.concatenate([part for _, part in self._held])
        kept = min(self.row_count * bytes_max // size, len(times) - 1)
        cut = max(int(np.partition(times, kept)[kept]), int(times.min()) + 1)
        held, dropped = [], False
        for table, part in self._held:
            end = _end(part, cut)
            dropped |= end < len(part)
            if end:
                # Copied: a slice would keep all of the table's memory.
                held.append((table.take(np.arange(end)), part[:end].copy()))
        self._held = held
        return cut if dropped else None


def _end(times: Any, before_us: int) -> int:
    """Return how many of ascending times lie before an instant."""
    return int(np.searchsorted(times, before_us, side="left"))


def slices(table: pa.Table, rows_max: int) -> Iterator[pa.Table]:
    """Yield a table in parts of so many rows."""
    for start in range(0, table.num_rows, rows_max):
        yield table.slice(start, rows_max)
