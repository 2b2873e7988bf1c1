"""Whole numbers: constants, even steps, runs, pcodec over narrowed numbers, zstd over their bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tallygate_server.lifecycle.columnar.effort import Effort
from tallygate_server.lifecycle.columnar.errors import SegmentDamaged
from tallygate_server.lifecycle.columnar.libraries import pco_compress, pco_decompress, zstd_compress, zstd_decompress
from tallygate_server.lifecycle.columnar.wire import (
    UINT64_MAX,
    Reader,
    write_bytes,
    write_signed,
    write_unsigned,
)

Integers = npt.NDArray[np.int64]
Narrow = npt.NDArray[Any]

CONSTANT: Final = 0
STEPS: Final = 1
RUNS: Final = 2
PCO: Final = 3
ZSTD: Final = 4
SPLIT: Final = 5
RAW: Final = 6

WIDTHS: Final = (np.dtype("<u1"), np.dtype("<u2"), np.dtype("<u4"), np.dtype("<u8"))
RAW_BYTES_MAX: Final = 24
"""Fewer bytes than any library's own frame: they are kept as they are."""

RUN_ROWS_MIN: Final = 48
"""Runs of at least so many rows on average are coded as runs without asking for anything else."""

PROBES: Final = 6
PROBE_BYTES: Final = 24
REPEAT_ROWS_MIN: Final = 4_096
BLOCK_ROWS: Final = 256
DIVISOR_SAMPLE: Final = 64
STEP_SAMPLE: Final = 16
DELTAS_TRIED: Final = ("d1", "d0", "d2")
DELTAS_OF_THOROUGH: Final = (*DELTAS_TRIED, "lookback", "conv")
NUMBER_OF_RUN_DEPTH: Final = 2


def encode_integers(values: Integers, effort: Effort, *, depth: int = 0) -> tuple[bytes, str]:
    """Return the smallest form found of at least one number, and its name."""
    count = len(values)
    low, high = int(values.min()), int(values.max())
    out = bytearray()
    if low == high:
        out.append(CONSTANT)
        write_signed(out, low)
        return bytes(out), "constant"
    step = _even_step(values)
    if step is not None:
        out.append(STEPS)
        write_signed(out, int(values[0]))
        write_unsigned(out, step)
        return bytes(out), "steps"
    narrow, divisor = _narrowed(values, low, high)
    if depth == 0 and count >= RUN_ROWS_MIN:
        starts = np.flatnonzero(narrow[1:] != narrow[:-1])
        if len(starts) * RUN_ROWS_MIN < count:
            return _encode_runs(values, starts + 1, effort)
    write_signed(out, low)
    write_unsigned(out, divisor)
    out.append(WIDTHS.index(narrow.dtype))
    codec, body, name = _smallest(narrow, effort)
    return bytes((codec,)) + out + body, name


def decode_integers(source: memoryview, count: int, *, depth: int = 0) -> Integers:
    """Return exactly so many numbers, at least one."""
    reader = Reader(source)
    codec = reader.byte()
    if codec == CONSTANT:
        return np.full(count, reader.signed(), np.int64)
    if codec == STEPS:
        first, step = reader.signed(), reader.unsigned()
        with np.errstate(over="ignore"):
            return (np.arange(count, dtype=np.uint64) * np.uint64(step) + np.uint64(first & UINT64_MAX)).view(np.int64)
    if codec == RUNS:
        return _decode_runs(reader, count, depth)
    low, divisor, width = reader.signed(), reader.unsigned(), reader.byte()
    if width >= len(WIDTHS):
        raise SegmentDamaged("numbers of an unknown width")
    narrow = _DECODERS[codec](reader.rest(), count, WIDTHS[width]) if codec in _DECODERS else None
    if narrow is None:
        raise SegmentDamaged("numbers of an unknown codec")
    wide = narrow.astype(np.uint64)
    if divisor != 1:
        wide *= np.uint64(divisor)
    if low:
        wide += np.uint64(low & UINT64_MAX)
    return wide.view(np.int64)


def _even_step(values: Integers) -> int | None:
    """Return the difference, modulo 2**64, between all neighbours if there is only one."""
    count = len(values)
    head = values[: STEP_SAMPLE + 1].view(np.uint64)
    differences = head[1:] - head[:-1]
    step = differences[0]
    if not (differences == step).all():
        return None
    if count > STEP_SAMPLE + 1:
        wide = values.view(np.uint64)
        if not ((wide[1:] - wide[:-1]) == step).all():
            return None
    return int(step)


def _narrowed(values: Integers, low: int, high: int) -> tuple[Narrow, int]:
    """Return (values - low) / divisor in the fewest bytes each, and the divisor."""
    above = values.view(np.uint64) - np.uint64(low & UINT64_MAX) if low else values.view(np.uint64)
    sample = above[:: max(1, len(above) // DIVISOR_SAMPLE)]
    divisor = int(np.gcd.reduce(sample))
    if divisor == 0:
        # Only the low itself was met; the sample says nothing.
        divisor = 1
    if divisor > 1:
        quotient = above // np.uint64(divisor)
        if (quotient * np.uint64(divisor) == above).all():
            above = quotient
        else:
            divisor = int(np.gcd.reduce(above))
            if divisor > 1:
                above = above // np.uint64(divisor)
    top = (high - low) // divisor
    for width in WIDTHS:
        if top >> (8 * width.itemsize) == 0:
            return above.astype(width), divisor
    raise AssertionError("unreachable: every difference of two 64-bit numbers fits 64 bits")


def _encode_runs(values: Integers, starts: npt.NDArray[np.intp], effort: Effort) -> tuple[bytes, str]:
    firsts = values[np.concatenate((np.zeros(1, np.intp), starts))]
    lengths = np.diff(starts, prepend=0, append=len(values))
    out = bytearray((RUNS,))
    write_unsigned(out, len(firsts))
    write_bytes(out, encode_integers(firsts, effort, depth=1)[0])
    out += encode_integers(lengths, effort, depth=1)[0]
    return bytes(out), "runs"


def _decode_runs(reader: Reader, count: int, depth: int) -> Integers:
    if depth >= 1:
        raise SegmentDamaged("runs within runs")
    runs = reader.unsigned(count)
    if runs == 0:
        raise SegmentDamaged("runs of nothing")
    firsts = decode_integers(reader.sized(), runs, depth=1)
    lengths = decode_integers(reader.rest(), runs, depth=1)
    # Each within bounds first, so that their sum cannot wrap around.
    if int(lengths.min()) < 0 or int(lengths.max()) > count or int(lengths.sum()) != count:
        raise SegmentDamaged("runs of another length")
    return np.repeat(firsts, lengths)


def _smallest(narrow: Narrow, effort: Effort) -> tuple[int, bytes, str]:
    """Try codecs, on a sample first, and return the best one's number, bytes and name."""
    if narrow.nbytes <= RAW_BYTES_MAX:
        return RAW, narrow.tobytes(), "raw"
    sample = sampled(narrow, effort.sample_rows)
    tried = DELTAS_OF_THOROUGH if effort.thorough else DELTAS_TRIED
    sizes = {delta: len(pco_compress(sample, delta=delta, level=effort.pco)) for delta in tried}
    delta = min(sizes, key=lambda name: sizes[name])
    best = PCO, pco_compress(narrow, delta=delta, level=effort.pco), f"pco-{delta}"
    if effort.thorough or repeats(narrow):
        for body, codec, name in (
            (zstd_compress(narrow, effort.zstd), ZSTD, "zstd"),
            *(((zstd_compress(split(narrow), effort.zstd), SPLIT, "zstd-split"),) if narrow.itemsize > 1 else ()),
        ):
            if len(body) < len(best[1]):
                best = codec, body, name
    if len(best[1]) >= narrow.nbytes:
        return RAW, narrow.tobytes(), "raw"
    return best


def sampled(values: Narrow, rows: int) -> Narrow:
    """Return blocks from all over an array, about so many rows; neighbours stay neighbours within a block."""
    count = len(values)
    if rows == 0 or count <= 2 * rows:
        return values
    blocks = max(2, rows // BLOCK_ROWS)
    starts = np.linspace(0, count - rows // blocks, blocks).astype(np.intp)
    return np.concatenate([values[start : start + rows // blocks] for start in starts.tolist()])


def repeats(narrow: Narrow) -> bool:
    """Tell whether stretches from the second half occur before, byte for byte: then a dictionary coder wins."""
    count = len(narrow)
    if count < REPEAT_ROWS_MIN:
        return False
    content = narrow.tobytes()
    found = 0
    for probe in range(PROBES):
        start = (count // 2 + probe * (count // 2 - PROBE_BYTES) // PROBES) * narrow.itemsize
        stretch = content[start : start + PROBE_BYTES * narrow.itemsize]
        if stretch[: len(stretch) // 2] != stretch[len(stretch) // 2 :]:
            found += content.find(stretch, 0, start) >= 0
    return 2 * found > PROBES


def split(narrow: Narrow) -> Narrow:
    """Return all lowest bytes, then all second ones, and so on."""
    return np.ascontiguousarray(narrow.view(np.uint8).reshape(len(narrow), narrow.itemsize).T)


def joined(content: Any, count: int, dtype: np.dtype[Any]) -> Narrow:
    """Undo `split`."""
    columns = np.frombuffer(content, np.uint8, count * dtype.itemsize).reshape(dtype.itemsize, count)
    return np.ascontiguousarray(columns.T).reshape(-1).view(dtype)


def _decode_zstd(source: memoryview, count: int, dtype: np.dtype[Any]) -> Narrow:
    return np.frombuffer(zstd_decompress(source, count * dtype.itemsize), dtype, count)


def _decode_split(source: memoryview, count: int, dtype: np.dtype[Any]) -> Narrow:
    return joined(zstd_decompress(source, count * dtype.itemsize), count, dtype)


def _decode_raw(source: memoryview, count: int, dtype: np.dtype[Any]) -> Narrow:
    if len(source) != count * dtype.itemsize:
        raise SegmentDamaged("another number of numbers")
    return np.frombuffer(source, dtype, count)


_DECODERS: Final[dict[int, Callable[[memoryview, int, np.dtype[Any]], Narrow]]] = {
    PCO: pco_decompress,
    ZSTD: _decode_zstd,
    SPLIT: _decode_split,
    RAW: _decode_raw,
}
