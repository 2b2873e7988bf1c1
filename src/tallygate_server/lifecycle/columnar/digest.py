"""What is compared before anything is deleted: a digest of the content, and the bytes it would take as plain rows."""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
import pyarrow as pa

from tallygate_server.lifecycle.columnar.arrow import fixed_values, one_array, packed_bits
from tallygate_server.lifecycle.columnar.errors import SegmentRefused
from tallygate_server.lifecycle.columnar.segment import BOOL, NUMBER_OF, STRING
from tallygate_server.lifecycle.columnar.texts import text_layout

DIGEST_BYTES: Final = 32
ROW_BYTES: Final = 28
"""What Postgres spends on a row before its values: 24 of header, 4 of pointer."""

VALUE_BYTES: Final = 8
TEXT_HEADER_BYTES: Final = 4


def values_digest(table: pa.Table) -> bytes:
    """Return 32 bytes that are the same for the same columns, rows and values, however they are laid out.

    Names, types, the order of rows, nulls and the bits of numbers count; chunks, offsets, the order of columns, and
    what stands in null slots do not. Raises SegmentRefused for a column of a type that no segment holds.
    """
    whole = hashlib.sha256(f"tallygate records 1\n{table.num_rows}\n".encode())
    for name in sorted(table.column_names):
        whole.update(_column_digest(name, one_array(table.column(name))))
    return whole.digest()


def _column_digest(name: str, values: pa.Array) -> bytes:
    number = NUMBER_OF.get(values.type)
    if number is None:
        raise SegmentRefused(f"column {name!r} has the type {values.type}, which no segment holds")
    digest = hashlib.sha256(f"{len(name.encode())}:{name}:{number}:{values.null_count}\n".encode())
    if values.null_count:
        present = packed_bits(values.buffers()[0], values.offset, len(values))
        digest.update(np.packbits(present, bitorder="little").data)
        values = values.drop_null()
    if number == STRING:
        lengths, content = text_layout(values)
        digest.update(lengths.data)
        digest.update(content)
    elif len(values) and number == BOOL:
        flags = packed_bits(values.buffers()[1], values.offset, len(values))
        digest.update(np.packbits(flags, bitorder="little").data)
    elif len(values):
        digest.update(fixed_values(values, np.int64))
    return digest.digest()


def plain_bytes(table: pa.Table) -> int:
    """Return the bytes of the records as plain rows of a database, without any index.

    A row takes 28 bytes (header and pointer), and a bit per column, in whole bytes, where the table has nulls; a number
    or a time takes 8 bytes, a flag 1, a text 4 and its UTF-8 bytes, a null nothing.
    """
    rows = table.num_rows
    total: int = rows * ROW_BYTES
    if any(column.null_count for column in table.columns):
        total += rows * ((table.num_columns + 7) // 8)
    for chunked in table.columns:
        there = rows - chunked.null_count
        if chunked.type == pa.string():
            total += there * TEXT_HEADER_BYTES + sum(_text_bytes(chunk) for chunk in chunked.chunks)
        elif chunked.type == pa.bool_():
            total += there
        else:
            total += there * VALUE_BYTES
    return total


def _text_bytes(texts: pa.StringArray) -> int:
    return len(text_layout(texts.drop_null() if texts.null_count else texts)[1])
