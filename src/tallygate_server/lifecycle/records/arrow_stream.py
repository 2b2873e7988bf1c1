"""Reads Arrow IPC streams that strangers sent.

What a stream says of its own size is looked at before anything is made of it: the rows of each record batch, and the
bytes that each compressed buffer unpacks to. For that the few numbers needed are taken from the messages' metadata
(FlatBuffers, as the Arrow format documents `Message.fbs` and `Schema.fbs`); everything else is the library's work, and
what it makes is validated before it is used.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from tallygate_server.domain.lifecycle import SEGMENT_ROWS_MAX
from tallygate_server.errors import InvalidRequest
from tallygate_server.lifecycle.columnar import TIME, TIME_TYPE
from tallygate_server.lifecycle.records.batches import BATCH_BYTES_MAX, COLUMNS_MAX, ColumnRecords
from tallygate_server.lifecycle.records.schema import COLUMN_NAME

FIELD: Final = "arrow_stream"
ARROW_ROWS_MAX: Final = SEGMENT_ROWS_MAX
MESSAGES_MAX: Final = 10_000
"""Record batches and dictionaries of one stream."""

_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3
_NOT_COMPRESSED: Final = -1
_INT64 = struct.Struct("<q")
_BUFFER_BYTES: Final = 16
_UNREADABLE: Final = (
    pa.ArrowException,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    struct.error,
    MemoryError,
)


def read_arrow(stream: bytes) -> ColumnRecords:
    """Return the records of an Arrow IPC stream. Raises InvalidRequest of `arrow_stream`, and nothing else."""
    try:
        _check_sizes(stream)
        with pa.ipc.open_stream(pa.py_buffer(stream)) as reader:
            _check_schema(reader.schema)
            batches = list(reader)
            schema = reader.schema
        for batch in batches:
            batch.validate(full=True)
        table = pa.Table.from_batches(batches, schema)
        if not table.num_rows:
            raise _refused("holds no record")
        plain = _plain(table)
    except InvalidRequest:
        raise
    except _UNREADABLE as error:
        raise _refused(f"cannot be read: {str(error)[:200]}") from None
    return ColumnRecords(table=plain, field=FIELD)


def _check_schema(schema: pa.Schema) -> None:
    names = schema.names
    if len(names) > COLUMNS_MAX + 1:
        raise _refused(f"has {len(names) - 1} columns beside `time`, the most is {COLUMNS_MAX}")
    if len(set(names)) < len(names):
        raise _refused("has two columns of the same name")
    if TIME not in names:
        raise _refused("has no column 'time'")
    if not pa.types.is_timestamp(schema.field(TIME).type):
        raise _refused(f"column 'time' must hold timestamps, not {schema.field(TIME).type}")
    for field in schema:
        if field.name != TIME and not COLUMN_NAME.fullmatch(field.name):
            raise _refused(
                f"{field.name[:80]!r} cannot be the name of a column: a letter, then up to 63 letters, digits,"
                " `_`, `.` or `-`"
            )
        if not _readable(field.type):
            raise _refused(f"column {field.name!r} has the type {field.type}, which records cannot have")


def _readable(arrow: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(arrow):
        return bool(types.is_string(arrow.value_type) or types.is_large_string(arrow.value_type))
    return bool(
        types.is_integer(arrow)
        or types.is_floating(arrow)
        or types.is_string(arrow)
        or types.is_large_string(arrow)
        or types.is_boolean(arrow)
        or types.is_timestamp(arrow)
        or types.is_null(arrow)
    )


def _plain(table: pa.Table) -> pa.Table:
    """Return the table in the types of columns, `time` first."""
    columns = {TIME: _instants(table.column(TIME))}
    total = 0
    for name in table.column_names:
        if name != TIME:
            total += _expanded_bytes(table.column(name))
            if total > BATCH_BYTES_MAX:
                raise _too_large()
            columns[name] = _column(table.column(name))
    return pa.table(columns)


def _column(values: pa.ChunkedArray) -> pa.ChunkedArray:
    types = pa.types
    if types.is_integer(values.type):
        return values.cast(pa.int64())
    if types.is_floating(values.type):
        return values.cast(pa.float64())
    if types.is_timestamp(values.type):
        return _instants(values)
    if types.is_boolean(values.type) or types.is_null(values.type):
        return values
    return values.cast(pa.string())


def _instants(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return instants in microseconds and UTC, cut where they are finer; without a time zone they are UTC."""
    unzoned = values.cast(pa.timestamp(values.type.unit))
    # Coarser units must not overflow; only finer ones are cut.
    return unzoned.cast(pa.timestamp("us"), safe=values.type.unit != "ns").cast(pa.int64()).cast(TIME_TYPE)


def _expanded_bytes(values: pa.ChunkedArray) -> int:
    """Return what a column takes once dictionaries are spelled out and numbers are as wide as they get."""
    if pa.types.is_dictionary(values.type):
        total = 0
        for chunk in values.chunks:
            lengths = pc.binary_length(chunk.dictionary).cast(pa.int64())
            total += pc.sum(lengths.take(chunk.indices)).as_py() or 0
        return total + 4 * len(values)
    wide = 8 if pa.types.is_integer(values.type) or pa.types.is_floating(values.type) else 1
    return max(int(values.nbytes), wide * len(values))


# --- What the messages say of themselves ------------------------------------------------------------------------


def _check_sizes(stream: bytes) -> None:
    """Raise InvalidRequest where the stream says that it unpacks to too much."""
    row_count = byte_count = batch_count = 0
    for metadata, body in _messages(stream):
        message = _Table.root(metadata)
        kind = message.byte(1)
        if kind not in {_DICTIONARY_BATCH, _RECORD_BATCH}:
            continue
        batch_count += 1
        if batch_count > MESSAGES_MAX:
            raise _refused(f"has more than {MESSAGES_MAX} record batches and dictionaries")
        batch = message.table(2)
        if batch is not None and kind == _DICTIONARY_BATCH:
            batch = batch.table(1)
        if batch is None:
            raise _refused("has a message without a content")
        length = batch.int64(0)
        if not 0 <= length <= ARROW_ROWS_MAX:
            raise _refused(f"has a record batch of {length} rows; the most of one call is {ARROW_ROWS_MAX}")
        if kind == _RECORD_BATCH:
            row_count += length
        byte_count += _unpacked_bytes(batch, body)
        if row_count > ARROW_ROWS_MAX:
            raise _refused(f"has more than {ARROW_ROWS_MAX} records")
        if byte_count > BATCH_BYTES_MAX:
            raise _too_large()


def _messages(stream: bytes) -> Iterator[tuple[bytes, memoryview]]:
    reader = pa.ipc.MessageReader.open_stream(pa.py_buffer(stream))
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            return
        body = message.body
        yield message.metadata.to_pybytes(), memoryview(body) if body is not None else memoryview(b"")


def _unpacked_bytes(batch: _Table, body: memoryview) -> int:
    """Return the bytes of a batch's buffers once they are unpacked, each counted where several share a place."""
    compressed = batch.table(3) is not None
    total = 0
    for offset, size in batch.pairs(2):
        if not 0 <= offset <= len(body) or not 0 <= size <= len(body) - offset:
            raise _refused("has a buffer outside its message")
        unpacked = size
        if compressed and size >= _INT64.size:
            (unpacked,) = _INT64.unpack_from(body, offset)
            if unpacked == _NOT_COMPRESSED:
                unpacked = size
            elif unpacked < 0:
                raise _refused("has a buffer of a negative size")
        total += unpacked
    return total


class _Table:
    """A table of a FlatBuffer, read by the numbers of its fields; raises struct.error outside the buffer."""

    __slots__ = ("_at", "_buffer", "_size", "_start")

    def __init__(self, buffer: bytes, at: int) -> None:
        self._buffer = buffer
        self._at = at
        self._start = at - self._number("<i", at)
        self._size = self._number("<H", self._start)

    @classmethod
    def root(cls, buffer: bytes) -> _Table:
        """Return the table that a buffer is about."""
        (at,) = struct.unpack_from("<I", buffer, 0)
        return cls(buffer, at)

    def byte(self, number: int) -> int:
        """Return a field of one byte; 0 where it is absent."""
        at = self._field(number)
        return self._number("<B", at) if at else 0

    def int64(self, number: int) -> int:
        """Return a field of eight bytes; 0 where it is absent."""
        at = self._field(number)
        return self._number("<q", at) if at else 0

    def table(self, number: int) -> _Table | None:
        """Return a table in a field; None where it is absent."""
        at = self._field(number)
        return _Table(self._buffer, at + self._number("<I", at)) if at else None

    def pairs(self, number: int) -> Iterator[tuple[int, int]]:
        """Yield the pairs of eight-byte numbers that a field lists."""
        at = self._field(number)
        if not at:
            return
        start = at + self._number("<I", at)
        for index in range(self._number("<I", start)):
            place = start + 4 + index * _BUFFER_BYTES
            yield self._number("<q", place), self._number("<q", place + 8)

    def _field(self, number: int) -> int:
        """Return where a field stands; 0 where it is absent."""
        place = 4 + 2 * number
        if place + 2 > self._size:
            return 0
        offset = self._number("<H", self._start + place)
        return self._at + offset if offset else 0

    def _number(self, kind: str, at: int) -> int:
        if at < 0:
            raise struct.error("outside the buffer")
        (value,) = struct.unpack_from(kind, self._buffer, at)
        return int(value)


def _too_large() -> InvalidRequest:
    return _refused(f"unpacks to more than {BATCH_BYTES_MAX} bytes; send fewer records at once")


def _refused(description: str) -> InvalidRequest:
    return InvalidRequest.of(FIELD, description)
