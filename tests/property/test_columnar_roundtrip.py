"""Whatever a table holds comes back to the bit, and whatever bytes are not a segment are refused as one."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tallygate_server.lifecycle.columnar import (
    LEVEL_MAX,
    LEVEL_MIN,
    TIME,
    TIME_TYPE,
    SegmentDamaged,
    decode,
    encode,
    from_ipc,
    segment,
    to_ipc,
    values_digest,
)
from tests.support.long_run import LONG

EXAMPLES: Final = 3_000 if LONG else 80
DAMAGES: Final = 20_000 if LONG else 300
ROWS_MAX: Final = 3_000
INT64: Final = np.iinfo(np.int64)

example_settings = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=not LONG
)

SPECIAL_FLOATS: Final = tuple(
    struct.unpack("<d", struct.pack("<Q", bits))[0]
    for bits in (
        *(0x0000000000000000, 0x8000000000000000, 0x7FF0000000000000, 0xFFF0000000000000),
        *(0x7FF8000000000000, 0xFFF8000000000000, 0x7FF0000000000001, 0x7FFDEADBEEF01234, 0xFFFFFFFFFFFFFFFF),
        *(0x0000000000000001, 0x800FFFFFFFFFFFFF, 0x7FEFFFFFFFFFFFFF, 0x4340000000000000, 0x4340000000000001),
    )
)
"""Both zeros, infinities, NaNs with payloads, the smallest and the largest, and 2**53 and what follows it."""

Random = np.random.Generator
INTEGERS: Final[dict[str, Callable[[Random, int], Any]]] = {
    "any": lambda random, rows: random.integers(INT64.min, INT64.max, rows, endpoint=True),
    "extremes": lambda random, rows: random.choice([INT64.min, INT64.max, 0, -1], rows),
    "constant": lambda random, rows: np.full(rows, random.integers(-5, 5)),
    "walk": lambda random, rows: np.cumsum(random.integers(-9, 9, rows)),
    "steps": lambda random, rows: np.arange(rows) * random.integers(-(2**40), 2**40) + INT64.max - 5,
    "multiples": lambda random, rows: random.integers(0, 99, rows) * 1_000_000 + 7,
    "nearly multiples": lambda random, rows: random.integers(0, 9, rows) * 1_000 + (np.arange(rows) == rows // 3),
    "runs": lambda random, rows: np.repeat(random.integers(0, 2**50, rows), random.integers(1, 400, rows))[:rows],
    "repeated": lambda random, rows: np.tile(random.integers(0, 3_000, 97), rows // 97 + 1)[:rows],
}
FLOATS: Final[dict[str, Callable[[Random, int], Any]]] = {
    "any": lambda random, rows: random.integers(INT64.min, INT64.max, rows).view(np.float64),
    "special": lambda random, rows: random.choice(SPECIAL_FLOATS, rows),
    "constant": lambda random, rows: np.full(rows, random.choice(SPECIAL_FLOATS)),
    "decimals": lambda random, rows: np.round(np.cumsum(random.normal(size=rows)), int(random.integers(0, 9))),
    "decimals and others": lambda random, rows: np.where(
        random.random(rows) < 0.02, random.choice(SPECIAL_FLOATS, rows), np.round(random.normal(size=rows), 2)
    ),
    "off by 500": lambda random, rows: random.integers(2_000, 3_000, rows) / 5 - 500,
    "noise": lambda random, rows: random.normal(size=rows),
    "whole beyond 2**53": lambda random, rows: random.integers(2**52, 2**62, rows).astype(np.float64),
    "few": lambda random, rows: random.normal(size=5)[random.integers(0, 5, rows)],
}


def texts(random: Random, rows: int) -> list[str]:
    kind = random.integers(0, 6)
    if kind == 0:
        return [f"word {number}" for number in random.integers(0, 5, rows)]
    if kind == 1:
        octets = [random.bytes(16).hex() for _ in range(rows)]
        return [f"{hexed[:8]}-{hexed[8:12]}-{hexed[12:16]}-{hexed[16:20]}-{hexed[20:]}" for hexed in octets]
    if kind == 2:
        return [f"{number:08d}" for number in range(rows)]
    if kind == 3:
        return ["" for _ in range(rows)]
    if kind == 4:
        return [f'{{"at":{row},"name":"ünïcode 🚲","tags":{[row % 3] * (row % 5)}}}' for row in range(rows)]
    return ["x" * int(size) for size in random.integers(0, 40, rows)]


def column(random: Random, kind: pa.DataType, rows: int, null_share: float) -> pa.Array:
    nulls = None if null_share == 0 else random.random(rows) < null_share
    if kind in (pa.int64(), TIME_TYPE):
        values = INTEGERS[str(random.choice(list(INTEGERS)))](random, rows).astype(np.int64)
    elif kind == pa.float64():
        # From bits, so that a NaN is no null.
        values = FLOATS[str(random.choice(list(FLOATS)))](random, rows)
        validity = None if nulls is None else pa.py_buffer(np.packbits(~nulls, bitorder="little"))
        return pa.Array.from_buffers(kind, rows, [validity, pa.py_buffer(np.ascontiguousarray(values))])
    elif kind == pa.string():
        words = texts(random, rows)
        return pa.array([None if nulls is not None and nulls[row] else words[row] for row in range(rows)], kind)
    else:
        values = random.random(rows) < random.choice([0.0, 0.01, 0.5, 1.0])
    return pa.array(values, kind, mask=nulls)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Draw a shape, and fill it from a seed: a table of thousands of drawn values would take seconds."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = draw(st.sampled_from([0, 1, 2, 3, 7, 8, 9, 50, 700, ROWS_MAX]))
    # Unsorted, with duplicates, or even: a caller sorts, but nothing here may depend on it.
    arrays = {TIME: column(random, TIME_TYPE, rows, 0)}
    kinds = draw(st.lists(st.sampled_from(segment.TYPES), max_size=6))
    for number, kind in enumerate(kinds):
        arrays[f"column {number} é"] = column(random, kind, rows, draw(st.sampled_from([0, 0, 0.01, 0.5, 0.97, 1])))
    names = draw(st.permutations(list(arrays)))
    fields = [pa.field(name, arrays[name].type, nullable=name != TIME) for name in names]
    table = pa.Table.from_arrays([arrays[name] for name in names], schema=pa.schema(fields))
    start = draw(st.integers(0, min(rows, 9)))
    return pa.concat_tables([table.slice(0, start), table.slice(start)]) if draw(st.booleans()) else table.slice(start)


def bits_equal(left: pa.Table, right: pa.Table) -> bool:
    """Compare types, nulls and values, numbers by their bits."""
    if left.schema != right.schema or left.num_rows != right.num_rows:
        return False
    return all(as_bits(one) == as_bits(other) for one, other in zip(left.columns, right.columns, strict=True))


def as_bits(chunked: pa.ChunkedArray) -> list[Any]:
    if chunked.type != pa.float64():
        return list(chunked.cast(pa.int64()).to_pylist() if chunked.type == TIME_TYPE else chunked.to_pylist())
    return [None if value is None else struct.pack("<d", value) for value in chunked.to_pylist()]


@example_settings
@given(tables(), st.integers(LEVEL_MIN, LEVEL_MAX), st.data())
def test_a_table_comes_back_to_the_bit(table: pa.Table, level: int, data: st.DataObject) -> None:
    payload = encode(table, level=level).payload
    wanted = data.draw(st.lists(st.sampled_from(table.column_names), unique=True))

    whole, part = decode(payload), decode(payload, columns=wanted)

    whole.validate(full=True)
    assert bits_equal(whole, table)
    assert bits_equal(part, table.select([name for name in table.column_names if name in {TIME, *wanted}]))
    assert values_digest(whole) == values_digest(table)
    assert bits_equal(from_ipc(to_ipc(table)), table)


def made_up(seed: int) -> pa.Table:
    """Return a table in which every type and most codecs occur."""
    random = np.random.default_rng(seed)
    rows = int(random.integers(1, 900))
    arrays = [column(random, TIME_TYPE, rows, 0)]
    arrays += [column(random, kind, rows, null_share) for kind in segment.TYPES for null_share in (0, 0.3)]
    return pa.table(arrays, names=[TIME, *(f"c{number}" for number in range(len(arrays) - 1))])


@pytest.mark.parametrize("form", ["columnar", "ipc"])
def test_every_flipped_cut_or_added_byte_is_noticed(form: str) -> None:
    random = np.random.default_rng(42)
    table = made_up(1)
    payload = encode(table).payload if form == "columnar" else to_ipc(table)
    read = decode if form == "columnar" else from_ipc
    places = range(len(payload)) if LONG else random.integers(0, len(payload), 300).tolist()
    for place in places:
        flipped = bytearray(payload)
        flipped[place] ^= 1 << int(random.integers(0, 8))
        with pytest.raises(SegmentDamaged):
            read(bytes(flipped))
    for size in random.integers(0, len(payload), 50).tolist():
        with pytest.raises(SegmentDamaged):
            read(payload[:size])
    with pytest.raises(SegmentDamaged):
        read(payload + b"\0")


def test_a_forged_checksum_brings_a_table_or_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the checksums every decoder stands up to any bytes by itself."""
    random = np.random.default_rng(7)
    segments = [encode(made_up(seed), level=seed % LEVEL_MAX + 1).payload for seed in range(2 * LEVEL_MAX)]
    monkeypatch.setattr(segment, "checksum_of", lambda _content: AnyChecksum())
    refused = 0
    for number in range(DAMAGES):
        payload = segments[number % len(segments)]
        description = segment.describe(payload)
        damaged = bytearray(payload)
        for _ in range(int(random.integers(1, 4))):
            damaged[int(random.integers(description.header_bytes, len(damaged)))] = int(random.integers(0, 256))
        try:
            result = decode(bytes(damaged))
        except SegmentDamaged:
            refused += 1
        else:
            result.validate(full=True)
            assert result.num_rows == description.rows

    assert 0 < refused < DAMAGES


class AnyChecksum:
    """Equal to everything, so that damage reaches the decoders."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]
