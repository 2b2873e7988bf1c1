"""A segment: a table of records as bytes, each column for itself, behind a header that says where each stands."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from tallygate_server.lifecycle.columnar.arrow import Bits, fixed_values, one_array, packed_bits
from tallygate_server.lifecycle.columnar.bits import decode_bits, encode_bits
from tallygate_server.lifecycle.columnar.effort import LEVEL_DEFAULT, Effort, effort
from tallygate_server.lifecycle.columnar.errors import SegmentDamaged, SegmentRefused
from tallygate_server.lifecycle.columnar.floats import DIGITS_MAX, decode_floats, encode_floats
from tallygate_server.lifecycle.columnar.integers import decode_integers, encode_integers
from tallygate_server.lifecycle.columnar.libraries import room
from tallygate_server.lifecycle.columnar.texts import decode_texts, encode_texts
from tallygate_server.lifecycle.columnar.wire import SEGMENT_ROWS_MAX, Reader, write_bytes, write_unsigned

MAGIC: Final = b"TGC\x01"
"""The last byte is the version of the format."""

SEGMENT_COLUMNS_MAX: Final = 1_024
COLUMN_NAME_BYTES_MAX: Final = 1_024
HEADER_BYTES_MAX: Final = 2**22
CHECKSUM_BYTES: Final = 4
TIME_BYTES: Final = 8

TIME: Final = "time"
TIME_TYPE: Final = pa.timestamp("us", tz="UTC")

TYPES: Final[tuple[pa.DataType, ...]] = (pa.int64(), pa.float64(), pa.string(), pa.bool_(), TIME_TYPE)
TYPE_MASK: Final = 0x07
NULLABLE: Final = 0x08
HAS_NULLS: Final = 0x10
NUMBER_OF: Final = {kind: number for number, kind in enumerate(TYPES)}
INT64, DOUBLE, STRING, BOOL, TIMESTAMP = range(len(TYPES))

NOTHING: Final = "nothing"
"""The codec of a column without a single value."""

CODEC_NAMES: Final = (
    "",
    NOTHING,
    *("constant", "steps", "runs", "raw", "zstd", "zstd-split"),
    *("pco-d0", "pco-d1", "pco-d2", "pco-lookback"),
    *("pco-auto-d0", "pco-auto-d1", "pco-auto-d2", "pco-auto-lookback"),
    *("pco-classic-d0", "pco-classic-d1", "pco-classic-d2", "pco-classic-lookback"),
    *("bits", "bits-zstd", "distinct", "plain", "plain-zstd", "columns", "columns-zstd", "hex", "hex-zstd", "digits"),
    *(f"decimal{digits}" for digits in range(DIGITS_MAX + 1)),
    *(f"coarse{digits}" for digits in range(DIGITS_MAX + 1)),
)
"""Their places are part of the format: new ones go to the end."""

CODEC_NUMBERS: Final = {name: number for number, name in enumerate(CODEC_NAMES)}


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSegment:
    """A table as bytes, and what each column became."""

    payload: bytes
    codecs: dict[str, str]
    column_bytes: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnDescription:
    """What the header says of one column."""

    name: str
    type: pa.DataType
    nullable: bool
    has_nulls: bool
    codec: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentDescription:
    """What the header says of a segment; times are of the first and the last row, in microseconds since 1970."""

    rows: int
    columns: tuple[ColumnDescription, ...]
    first_time_us: int | None
    last_time_us: int | None
    header_bytes: int

    @property
    def codecs(self) -> dict[str, str]:
        """The codec of each column."""
        return {column.name: column.codec for column in self.columns}

    @property
    def column_bytes(self) -> dict[str, int]:
        """The bytes of each column."""
        return {column.name: column.size_bytes for column in self.columns}


@dataclass(frozen=True, slots=True)
class _Header:
    description: SegmentDescription
    checksums: tuple[int, ...]


def encode(table: pa.Table, *, level: int = LEVEL_DEFAULT) -> EncodedSegment:
    """Return a table as bytes, from level 1 (fast) to 9 (small).

    Raises SegmentRefused for a table that no segment can hold, and ValueError for an unknown level.
    """
    trying = effort(level)
    check_table(table)
    rows = table.num_rows
    header = bytearray()
    write_unsigned(header, rows)
    write_unsigned(header, table.num_columns)
    codecs: dict[str, str] = {}
    column_bytes: dict[str, int] = {}
    bodies: list[bytes] = []
    for field, chunked in zip(table.schema, table.columns, strict=True):
        values = one_array(chunked)
        number = NUMBER_OF[field.type]
        has_nulls = values.null_count > 0
        body, codec = _encode_column(values, number, trying)
        write_bytes(header, field.name.encode())
        header.append(number | (NULLABLE if field.nullable else 0) | (HAS_NULLS if has_nulls else 0))
        outer, _, inner = codec.partition("+")
        header += bytes((CODEC_NUMBERS[outer], CODEC_NUMBERS[inner]))
        write_unsigned(header, len(body))
        header += checksum_of(body).to_bytes(CHECKSUM_BYTES, "little")
        codecs[field.name], column_bytes[field.name] = codec, len(body)
        bodies.append(body)
    if rows:
        times = fixed_values(one_array(table.column(TIME)), np.int64)
        header += times[0].tobytes() + times[-1].tobytes()
    front = bytearray(MAGIC)
    write_unsigned(front, len(header))
    front += checksum_of(header).to_bytes(CHECKSUM_BYTES, "little")
    payload = b"".join((front, header, *bodies))
    return EncodedSegment(payload=payload, codecs=codecs, column_bytes=column_bytes)


def decode(payload: bytes | memoryview, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the table, or of its columns the wanted ones in the order of the table; `time` always comes.

    A wanted column that the segment lacks is left out. Raises SegmentDamaged, and nothing else, for bytes that are no
    segment; damage in a column that is not wanted goes unnoticed.
    """
    try:
        return _decode(memoryview(payload), None if columns is None else {TIME, *columns})
    except SegmentDamaged:
        raise
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, OSError, pa.ArrowException) as error:
        raise SegmentDamaged(f"the segment cannot be read: {error}") from error


def describe(payload: bytes | memoryview) -> SegmentDescription:
    """Return what the header says; the columns may be missing. Raises SegmentDamaged."""
    return _read_header(Reader(payload)).description


def checksum_of(content: bytes | bytearray | memoryview) -> int:
    """Return the CRC-32, which notices every damage of up to four bytes in a row."""
    return zlib.crc32(content)


def check_table(table: pa.Table) -> None:
    """Raise SegmentRefused for a table that no segment can hold."""
    if table.num_rows > SEGMENT_ROWS_MAX:
        raise SegmentRefused(f"a segment holds {SEGMENT_ROWS_MAX} rows, not {table.num_rows}")
    names, types = table.column_names, table.schema.types
    if len(names) > SEGMENT_COLUMNS_MAX:
        raise SegmentRefused(f"a segment holds {SEGMENT_COLUMNS_MAX} columns, not {len(names)}")
    if len(set(names)) < len(names):
        raise SegmentRefused("two columns have the same name")
    for name, kind in zip(names, types, strict=True):
        if kind not in NUMBER_OF:
            raise SegmentRefused(f"column {name!r} has the type {kind}, which no segment holds")
        if len(name) * 4 > COLUMN_NAME_BYTES_MAX < len(name.encode()):
            raise SegmentRefused(f"a column's name has more than {COLUMN_NAME_BYTES_MAX} bytes")
    if TIME not in names or types[names.index(TIME)] != TIME_TYPE:
        raise SegmentRefused(f"there is no column {TIME!r} of the type {TIME_TYPE}")
    if table.column(TIME).null_count:
        raise SegmentRefused("a record has no time")


def _encode_column(values: pa.Array, number: int, trying: Effort) -> tuple[bytes, str]:
    out = bytearray()
    present: Bits | None = None
    if values.null_count:
        present = packed_bits(values.buffers()[0], values.offset, len(values))
        mask, _ = encode_bits(present, trying)
        write_bytes(out, mask)
        if values.null_count == len(values):
            return bytes(out), NOTHING
    elif len(values) == 0:
        return b"", NOTHING
    if number == STRING:
        body, codec = encode_texts(values if present is None else values.drop_null(), trying)
    elif number == BOOL:
        body, codec = encode_bits(_there(packed_bits(values.buffers()[1], values.offset, len(values)), present), trying)
    elif number == DOUBLE:
        body, codec = encode_floats(_there(fixed_values(values, np.float64), present), trying)
    else:
        body, codec = encode_integers(_there(fixed_values(values, np.int64), present), trying)
    return bytes(out) + body if out else body, codec


def _there(values: Any, present: Bits | None) -> Any:
    return values if present is None else values[present.view(np.bool_)]


def _decode(payload: memoryview, wanted: set[str] | None) -> pa.Table:
    reader = Reader(payload)
    header = _read_header(reader)
    description = header.description
    fields: list[pa.Field] = []
    arrays: list[pa.Array] = []
    for column, checksum in zip(description.columns, header.checksums, strict=True):
        body = reader.take(column.size_bytes)
        if wanted is not None and column.name not in wanted:
            continue
        if checksum_of(body) != checksum:
            raise SegmentDamaged(f"column {column.name!r} is damaged")
        fields.append(pa.field(column.name, column.type, nullable=column.nullable))
        arrays.append(_decode_column(body, column, description.rows))
    if reader.rest():
        raise SegmentDamaged("more bytes than the segment has")
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _decode_column(body: memoryview, column: ColumnDescription, rows: int) -> pa.Array:
    if rows == 0:
        return pa.array([], column.type)
    number = NUMBER_OF[column.type]
    present: Bits | None = None
    count = rows
    if column.has_nulls:
        reader = Reader(body)
        present = decode_bits(reader.sized(), rows)
        body = reader.rest()
        count = int(np.count_nonzero(present))
        if count == 0:
            return pa.nulls(rows, column.type)
    if number == STRING:
        return decode_texts(body, count, present)
    values: Any
    if number == BOOL:
        values = decode_bits(body, count)
    elif number == DOUBLE:
        values = decode_floats(body, count)
    else:
        values = decode_integers(body, count)
    if present is None:
        validity = None
    else:
        spread = room(rows, values.dtype)
        spread[:] = 0
        spread[present.view(np.bool_)] = values
        values = spread
        validity = pa.py_buffer(np.packbits(present, bitorder="little"))
    if number == BOOL:
        values = np.packbits(values, bitorder="little")
    return pa.Array.from_buffers(column.type, rows, [validity, pa.py_buffer(values)], rows - count)


def _read_header(front: Reader) -> _Header:
    if bytes(front.take(len(MAGIC))) != MAGIC:
        raise SegmentDamaged("not a segment of a version that is known here")
    size = front.unsigned(HEADER_BYTES_MAX)
    checksum = int.from_bytes(front.take(CHECKSUM_BYTES), "little")
    content = front.take(size)
    if checksum_of(content) != checksum:
        raise SegmentDamaged("the header is damaged")
    header_bytes = front.position
    reader = Reader(content)
    rows = reader.unsigned(SEGMENT_ROWS_MAX)
    columns: list[ColumnDescription] = []
    checksums: list[int] = []
    for _ in range(reader.unsigned(SEGMENT_COLUMNS_MAX)):
        column, column_checksum = _read_column(reader)
        columns.append(column)
        checksums.append(column_checksum)
    first = last = None
    if rows:
        first = int.from_bytes(reader.take(TIME_BYTES), "little", signed=True)
        last = int.from_bytes(reader.take(TIME_BYTES), "little", signed=True)
    if reader.rest():
        raise SegmentDamaged("more bytes than the header has")
    if len({column.name for column in columns}) < len(columns):
        raise SegmentDamaged("two columns have the same name")
    if not any(column.name == TIME and column.type == TIME_TYPE and not column.has_nulls for column in columns):
        raise SegmentDamaged("the segment has no time")
    return _Header(
        SegmentDescription(
            rows=rows,
            columns=tuple(columns),
            first_time_us=first,
            last_time_us=last,
            header_bytes=header_bytes,
        ),
        tuple(checksums),
    )


def _read_column(reader: Reader) -> tuple[ColumnDescription, int]:
    try:
        name = bytes(reader.sized()).decode()
    except UnicodeDecodeError:
        raise SegmentDamaged("a column's name cannot be read") from None
    shape = reader.byte()
    outer, inner = reader.byte(), reader.byte()
    if shape & TYPE_MASK >= len(TYPES) or max(outer, inner) >= len(CODEC_NAMES):
        raise SegmentDamaged(f"column {name!r} is of an unknown type or codec")
    column = ColumnDescription(
        name=name,
        type=TYPES[shape & TYPE_MASK],
        nullable=bool(shape & NULLABLE),
        has_nulls=bool(shape & HAS_NULLS),
        codec="+".join(part for part in (CODEC_NAMES[outer], CODEC_NAMES[inner]) if part),
        size_bytes=reader.unsigned(),
    )
    return column, int.from_bytes(reader.take(CHECKSUM_BYTES), "little")
