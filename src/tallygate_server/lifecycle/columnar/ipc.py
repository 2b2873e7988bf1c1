"""Arrow IPC behind a checksum, for the tier that is read most: quick to write, quick to read, nothing squeezed."""

from __future__ import annotations

import zlib
from typing import Final

import pyarrow as pa

from tallygate_server.lifecycle.columnar.errors import SegmentDamaged, SegmentRefused
from tallygate_server.lifecycle.columnar.segment import check_table

IPC_MAGIC: Final = b"TGI\x01"
CHECKSUM_BYTES: Final = 4
"""With the magic eight bytes, so that the stream behind them stays aligned."""


def to_ipc(table: pa.Table) -> bytes:
    """Return a table as a magic, a CRC-32, and an uncompressed Arrow IPC stream.

    Raises SegmentRefused as `encode` does.
    """
    check_table(table)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    stream = sink.getvalue()
    return b"".join((IPC_MAGIC, zlib.crc32(stream).to_bytes(CHECKSUM_BYTES, "little"), stream))


def from_ipc(payload: bytes | memoryview) -> pa.Table:
    """Return the table that `to_ipc` wrote; raises SegmentDamaged, and nothing else, for any other bytes."""
    content = memoryview(payload)
    front = len(IPC_MAGIC) + CHECKSUM_BYTES
    if bytes(content[: len(IPC_MAGIC)]) != IPC_MAGIC:
        raise SegmentDamaged("not a stream of a version that is known here")
    stream = content[front:]
    if zlib.crc32(stream) != int.from_bytes(content[len(IPC_MAGIC) : front], "little"):
        raise SegmentDamaged("the stream is damaged")
    try:
        with pa.ipc.open_stream(pa.py_buffer(stream)) as reader:
            table = reader.read_all()
        table.validate(full=True)
        check_table(table)
    except (pa.ArrowException, OSError, ValueError, TypeError, SegmentRefused) as error:
        raise SegmentDamaged(f"the stream cannot be read: {error}") from error
    return table
