"""The archive of an export: exact values, two forms of every table, pieces of one size, a manifest that is true."""

from __future__ import annotations

import csv
import io
import json
import math
import zipfile
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from tallygate_server.privacy import archive as archives
from tallygate_server.privacy.archive import Archive, exact

NOON = datetime(2026, 3, 1, 12, 0, 0, 5, tzinfo=UTC)


class Pieces:
    """Keeps pieces in memory."""

    def __init__(self) -> None:
        self.all: list[bytes] = []

    async def put(self, number: int, content: bytes) -> None:
        """Keep the next piece."""
        assert number == len(self.all)
        self.all.append(content)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (2**53, 2**53),
        (2**53 + 1, str(2**53 + 1)),
        (-(2**53) - 1, str(-(2**53) - 1)),
        (Decimal("0.10"), "0.10"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (math.nan, "NaN"),
        (0.1, 0.1),
        (True, True),
        (None, None),
        (NOON, "2026-03-01T12:00:00.000005Z"),
        (NOON.astimezone(timezone(timedelta(hours=2))), "2026-03-01T12:00:00.000005Z"),
        (date(2026, 3, 1), "2026-03-01"),
        (b"text", "text"),
        (b"\xff\x00", "base64:/wA="),
        ({"a": [2**60]}, {"a": [str(2**60)]}),
    ],
)
def test_a_value_is_said_exactly(value: Any, said: Any) -> None:
    assert exact(value) == said


async def test_records_are_written_column_by_column_as_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "PIECE_BYTES", 100)
    records = pa.table(
        {
            "time": pa.array([NOON, NOON], pa.timestamp("us", tz="UTC")),
            "note": ['say "hi",\nthere', None],
            "count": pa.array([2**60, None], pa.int64()),
            "speed": [1.5, math.nan],
            "moving": [True, None],
        }
    )
    columns = [{"name": name, "type": "any"} for name in (*records.column_names, "missing")]
    pieces = Pieces()
    archive = Archive(pieces)

    async with archive.table("fast", columns) as fast:
        await fast.write_records(records)
    async with archive.table("slow", columns) as slow:
        await slow.write(records.to_pylist())
    await archive.close()

    assert {len(piece) for piece in pieces.all[:-1]} == {100}
    assert archive.size == sum(map(len, pieces.all))
    with zipfile.ZipFile(io.BytesIO(b"".join(pieces.all))) as written:
        assert written.read("fast.jsonl") == written.read("slow.jsonl")
        assert written.read("fast.csv") == written.read("slow.csv")
        lines = [json.loads(line) for line in written.read("fast.jsonl").splitlines()]
        cells = list(csv.DictReader(io.StringIO(written.read("fast.csv").decode(), newline="")))
    assert lines[0]["note"] == cells[0]["note"] == 'say "hi",\nthere'
    assert (lines[0]["count"], lines[1]["speed"], lines[1]["missing"]) == (str(2**60), "NaN", None)
    assert [file.rows for file in archive.files] == [2, 2, 2, 2]


async def test_an_archive_that_is_given_up_ships_nothing_more() -> None:
    pieces = Pieces()
    archive = Archive(pieces)
    await archive.add("a.txt", b"a")

    archive.abandon()

    assert pieces.all == []
