"""The lossless columnar codec of records: a table in, few bytes out, and back to the bit.

Pure: nothing here awaits, reads or writes anything but its arguments. README.md describes the format.
"""

from __future__ import annotations

from tallygate_server.lifecycle.columnar.digest import plain_bytes, values_digest
from tallygate_server.lifecycle.columnar.effort import LEVEL_DEFAULT, LEVEL_MAX, LEVEL_MIN
from tallygate_server.lifecycle.columnar.errors import SegmentDamaged, SegmentRefused
from tallygate_server.lifecycle.columnar.ipc import from_ipc, to_ipc
from tallygate_server.lifecycle.columnar.segment import (
    SEGMENT_COLUMNS_MAX,
    TIME,
    TIME_TYPE,
    ColumnDescription,
    EncodedSegment,
    SegmentDescription,
    decode,
    describe,
    encode,
)
from tallygate_server.lifecycle.columnar.texts import TEXT_BYTES_MAX
from tallygate_server.lifecycle.columnar.wire import SEGMENT_ROWS_MAX

__all__ = [
    "LEVEL_DEFAULT",
    "LEVEL_MAX",
    "LEVEL_MIN",
    "SEGMENT_COLUMNS_MAX",
    "SEGMENT_ROWS_MAX",
    "TEXT_BYTES_MAX",
    "TIME",
    "TIME_TYPE",
    "ColumnDescription",
    "EncodedSegment",
    "SegmentDamaged",
    "SegmentDescription",
    "SegmentRefused",
    "decode",
    "describe",
    "encode",
    "from_ipc",
    "plain_bytes",
    "to_ipc",
    "values_digest",
]
