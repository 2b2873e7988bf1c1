"""Yes and no, for flags and for which values are there: constants, runs, or packed bits with or without zstd."""

from __future__ import annotations

from typing import Final

import numpy as np

from tallygate_server.lifecycle.columnar.arrow import Bits
from tallygate_server.lifecycle.columnar.effort import Effort
from tallygate_server.lifecycle.columnar.errors import SegmentDamaged
from tallygate_server.lifecycle.columnar.integers import decode_run_lengths, encode_integers, run_lengths
from tallygate_server.lifecycle.columnar.libraries import zstd_compress, zstd_decompress
from tallygate_server.lifecycle.columnar.wire import Reader, write_unsigned

ALL_ZERO: Final = 0
ALL_ONE: Final = 1
RUNS_FROM_ZERO: Final = 2
RUNS_FROM_ONE: Final = 3
PACKED: Final = 4
PACKED_ZSTD: Final = 5

SPARSE: Final = 8
"""Where runs take at most this part of the packed bits, zstd is not asked."""

ZSTD_BYTES_MIN: Final = 32


def encode_bits(bits: Bits, effort: Effort) -> tuple[bytes, str]:
    """Return the smallest form found of at least one bit, and its name."""
    changes = np.flatnonzero(bits[1:] != bits[:-1])
    first = int(bits[0])
    if len(changes) == 0:
        return bytes((ALL_ONE if first else ALL_ZERO,)), "constant"
    packed = np.packbits(bits, bitorder="little").tobytes()
    best, name = bytes((PACKED,)) + packed, "bits"
    if len(changes) < len(packed):
        out = bytearray((RUNS_FROM_ONE if first else RUNS_FROM_ZERO,))
        write_unsigned(out, len(changes) + 1)
        out += encode_integers(run_lengths(changes + 1, len(bits)), effort, depth=1)[0]
        if len(out) < len(best):
            best, name = bytes(out), "runs"
    if len(best) * SPARSE > len(packed) >= ZSTD_BYTES_MIN:
        body = zstd_compress(packed, effort.zstd)
        if len(body) + 1 < len(best):
            best, name = bytes((PACKED_ZSTD,)) + body, "bits-zstd"
    return best, name


def decode_bits(source: memoryview, count: int) -> Bits:
    """Return exactly so many bits, at least one."""
    reader = Reader(source)
    codec = reader.byte()
    if codec in (ALL_ZERO, ALL_ONE):
        return np.full(count, codec == ALL_ONE, np.uint8)
    if codec in (RUNS_FROM_ZERO, RUNS_FROM_ONE):
        runs = reader.unsigned(count)
        if runs == 0:
            raise SegmentDamaged("runs of nothing")
        lengths = decode_run_lengths(reader.rest(), runs, count)
        values = (np.arange(runs, dtype=np.uint8) + (codec == RUNS_FROM_ONE)) & 1
        return np.repeat(values, lengths)
    size = (count + 7) // 8
    if codec == PACKED:
        packed = reader.take(size)
    elif codec == PACKED_ZSTD:
        packed = memoryview(zstd_decompress(reader.rest(), size))
    else:
        raise SegmentDamaged("bits of an unknown codec")
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=count, bitorder="little")
