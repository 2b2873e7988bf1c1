"""Arrow's arrays as numpy's, without a copy where there is none to make."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Bits = npt.NDArray[np.uint8]
"""One byte a row, 0 or 1."""


def one_array(chunked: pa.ChunkedArray) -> pa.Array:
    """Return a column's values as one array, without a copy where it already is one."""
    if chunked.num_chunks == 1:
        return chunked.chunk(0)
    if chunked.num_chunks == 0:
        return pa.array([], chunked.type)
    return pa.concat_arrays(chunked.chunks)


def fixed_values(values: pa.Array, dtype: Any) -> Any:
    """Return an array of 8-byte values as numpy's, without a copy; what stands in null slots is arbitrary."""
    if len(values) == 0:
        return np.empty(0, dtype)
    return np.frombuffer(values.buffers()[1], dtype, values.offset + len(values))[values.offset :]


def packed_bits(buffer: pa.Buffer, offset: int, count: int) -> Bits:
    """Return bits of an Arrow buffer, one byte each."""
    octets = np.frombuffer(buffer, np.uint8)[offset // 8 : (offset + count + 7) // 8]
    return np.unpackbits(octets, count=offset % 8 + count, bitorder="little")[offset % 8 :]
