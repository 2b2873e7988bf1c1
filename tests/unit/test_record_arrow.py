"""Arrow streams of strangers: what can be read is, all else is refused by name, and nothing is unpacked blindly."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallygate_server.errors import InvalidRequest
from tallygate_server.lifecycle.records.arrow_stream import ARROW_ROWS_MAX, MESSAGES_MAX, read_arrow
from tallygate_server.lifecycle.records.batches import BATCH_BYTES_MAX, COLUMNS_MAX

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
INSTANT = pa.timestamp("us", tz="UTC")


def stream_of(*tables: pa.Table, compression: str | None = None, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    wanted = pa.ipc.IpcWriteOptions(compression=compression, **options)
    with pa.ipc.new_stream(sink, tables[0].schema, options=wanted) as writer:
        for table in tables:
            writer.write_table(table)
    return bytes(sink.getvalue())


def times(count: int, arrow: pa.DataType = INSTANT) -> pa.Array:
    return pa.array(np.arange(count, dtype=np.int64)).cast(arrow)


def refusal(stream: bytes) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read_arrow(stream)
    (violation,) = caught.value.violations
    assert violation.field == "arrow_stream"
    return violation.description


def test_types_become_those_of_columns() -> None:
    table = pa.table(
        {
            "small": pa.array([1, None], pa.int8()),
            "large": pa.array([1, 2**63 - 1], pa.uint64()),
            "single": pa.array([0.5, float("nan")], pa.float32()),
            "text": pa.array(["x", "y"], pa.large_string()),
            "coded": pa.array(["x", None]).dictionary_encode(),
            "flag": pa.array([True, False]),
            "at": pa.array([1, 2], pa.timestamp("s", tz="Europe/Berlin")),
            "time": pa.array([1_001, 2_999], pa.timestamp("ns")),
            "nothing": pa.nulls(2),
        }
    )

    found = read_arrow(stream_of(table)).table

    assert found.column_names[0] == "time"
    assert {field.name: field.type for field in found.schema} == {
        "time": INSTANT, "small": pa.int64(), "large": pa.int64(), "single": pa.float64(), "text": pa.string(),
        "coded": pa.string(), "flag": pa.bool_(), "at": INSTANT, "nothing": pa.null(),
    }  # fmt: skip
    assert found.column("time").cast(pa.int64()).to_pylist() == [1, 2]
    assert found.column("at").cast(pa.int64()).to_pylist() == [1_000_000, 2_000_000]
    assert found.column("large").to_pylist() == [1, 2**63 - 1]
    assert found.column("coded").to_pylist() == ["x", None]


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_streams_are_read(compression: str) -> None:
    table = pa.table({"time": times(1_000), "n": pa.array([7] * 1_000), "s": pa.array(["x"] * 1_000)})

    assert read_arrow(stream_of(table, table, compression=compression)).table.equals(pa.concat_tables([table, table]))


def test_rows_are_bounded() -> None:
    at_the_bound = pa.table({"time": times(ARROW_ROWS_MAX)})
    half = pa.table({"time": times(ARROW_ROWS_MAX // 2 + 1)})

    assert len(read_arrow(stream_of(at_the_bound))) == ARROW_ROWS_MAX
    assert "131072" in refusal(stream_of(pa.table({"time": times(ARROW_ROWS_MAX + 1)})))
    assert refusal(stream_of(half, half)) == "has more than 131072 records"


def test_columns_are_bounded() -> None:
    def wide(count: int) -> bytes:
        return stream_of(pa.table({"time": times(1), **{f"c{number}": pa.array([1]) for number in range(count)}}))

    assert read_arrow(wide(COLUMNS_MAX)).table.num_columns == COLUMNS_MAX + 1
    assert refusal(wide(COLUMNS_MAX + 1)) == "has 501 columns beside `time`, the most is 500"


def test_messages_are_bounded() -> None:
    one = pa.table({"time": times(1)})

    assert len(read_arrow(stream_of(*[one] * MESSAGES_MAX))) == MESSAGES_MAX
    assert "more than 10000 record batches" in refusal(stream_of(*[one] * (MESSAGES_MAX + 1)))


def test_what_would_unpack_to_too_much_is_refused_before_it_is_unpacked() -> None:
    zeros = pa.table({"time": times(1), "z": pa.array(["\0" * (BATCH_BYTES_MAX + 1)])})
    bomb = stream_of(zeros, compression="zstd")

    before = pa.total_allocated_bytes()
    assert len(bomb) < 100_000
    assert "unpacks to more than" in refusal(bomb)
    assert pa.total_allocated_bytes() - before < BATCH_BYTES_MAX


def test_a_dictionary_is_counted_as_if_it_were_spelled_out() -> None:
    codes = pa.array(np.zeros(100_000, np.int32))
    coded = pa.DictionaryArray.from_arrays(codes, pa.array(["x" * 1_000]))

    assert "unpacks to more than" in refusal(stream_of(pa.table({"time": times(100_000), "c": coded})))


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"n": [1]}, "has no column 'time'"),
        ({"time": [1]}, "column 'time' must hold timestamps, not int64"),
        ({"time": times(1), "a b": [1]}, "'a b' cannot be the name of a column"),
        ({"time": times(1), "l": [[1]]}, "column 'l' has the type list<"),
        ({"time": times(1), "s": [{"a": 1}]}, "column 's' has the type struct<"),
        ({"time": times(1), "b": [b"x"]}, "column 'b' has the type binary"),
        ({"time": times(0)}, "holds no record"),
        ({"time": times(1), "n": pa.array([2**64 - 1], pa.uint64())}, "cannot be read"),
        ({"time": pa.array([2**62], pa.timestamp("s"))}, "cannot be read"),
        ({"time": times(1), "r": pa.array([1]).dictionary_encode()}, "column 'r' has the type dictionary<"),
    ],
)
def test_what_records_cannot_have_is_named(columns: dict[str, Any], why: str) -> None:
    assert why in refusal(stream_of(pa.table(columns)))


def test_two_columns_of_a_name_are_refused() -> None:
    table = pa.Table.from_arrays([times(1), pa.array([1]), pa.array([2])], names=["time", "a", "a"])

    assert refusal(stream_of(table)) == "has two columns of the same name"


def test_bytes_that_are_no_stream_are_refused() -> None:
    for garbage in (b"x", b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\0" * 100, b"ARROW1\0\0"):
        assert refusal(garbage)


SAMPLE = stream_of(
    pa.table(
        {
            "time": times(20),
            "n": pa.array(range(20)),
            "s": pa.array([f"text {number % 3}" for number in range(20)]).dictionary_encode(),
        }
    ),
    compression="lz4",
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(1, len(SAMPLE)),
)
def test_a_damaged_stream_is_read_or_refused_and_nothing_else(changes: list[tuple[int, int]], cut: int) -> None:
    damaged = bytearray(SAMPLE)
    for place, value in changes:
        damaged[place] = value

    for stream in (bytes(damaged), bytes(damaged[:cut])):
        with suppress(InvalidRequest):
            read_arrow(stream).table.validate(full=True)
