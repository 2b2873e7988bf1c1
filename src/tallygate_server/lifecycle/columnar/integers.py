"""Whole numbers: constants, even steps, runs, pcodec over narrowed numbers, zstd over their bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tallygate_server.lifecycle.columnar.effort import Effort
from tallygate_server.lifecycle.columnar.errors import SegmentDamaged
from tallygate_server.lifecycle.columnar.libraries import (
    pco_compress,
    pco_decompress,
    room,
    zstd_compress,
    zstd_decompress,
)
from tallygate_server.lifecycle.columnar.wire import (
    SEGMENT_ROWS_MAX,
    UINT64_MAX,
    Reader,
    write_bytes,
    write_signed,
    write_unsigned,
)

Integers = npt.NDArray[np.int64]
Signed = npt.NDArray[Any]
Narrow = npt.NDArray[Any]

CONSTANT: Final = 0
STEPS: Final = 1
RUNS: Final = 2
PCO: Final = 3
ZSTD: Final = 4
SPLIT: Final = 5
RAW: Final = 6

WIDTHS: Final = (np.dtype("<u1"), np.dtype("<u2"), np.dtype("<u4"), np.dtype("<u8"))
_ROW_NUMBERS: Final = np.arange(SEGMENT_ROWS_MAX, dtype=np.uint64)
"""Made once: a megabyte that every segment's even steps begin with."""

_UNSIGNED: Final[dict[int, np.dtype[Any]]] = {4: np.dtype("<u4"), 8: np.dtype("<u8")}
_WIDTH_OF_BYTES: Final = tuple(WIDTHS[place] for place in (0, 0, 1, 2, 2, 3, 3, 3, 3))
FLOAT_WHOLE_MAX: Final = 2**53
"""Up to here every whole number is a floating-point number."""

FLOAT_QUOTIENT_MAX: Final = 2**52

RAW_BYTES_MAX: Final = 24
"""Fewer bytes than any library's own frame: they are kept as they are."""

RUN_ROWS_MIN: Final = 48
"""Runs of at least so many rows on average are coded as runs without asking for anything else."""

PROBES: Final = 3
PROBE_BYTES: Final = 24
REPEAT_ROWS_MIN: Final = 8_192
REPEAT_GAIN: Final = 0.8
"""Where zstd needs at most this share of what a sample promises of pcodec, pcodec is not asked."""

BLOCK_ROWS: Final = 256
ONE_BLOCK_ROWS_MAX: Final = 512
BLOCKS_FROM_ROWS: Final = 6_000
"""Up to here a small sample is one block from the middle: joining blocks costs as much as a trial."""

DIVISOR_SAMPLE: Final = 32
DISTINCT_SAMPLE: Final = 768
DISTINCT_STEP_MIN: Final = 6
TRIAL_PCO_LEVEL: Final = 4
"""Enough to tell which differences are the smaller ones."""

DELTAS_TRIED: Final = ("d1", "d0", "d2")
DELTAS_OF_THOROUGH: Final = (*DELTAS_TRIED, "lookback")


def encode_integers(
    values: Signed,
    effort: Effort,
    *,
    depth: int = 0,
    divided: bool = True,
    deltas: tuple[str, ...] = (),
    bounds: tuple[int, int] | None = None,
) -> tuple[bytes, str]:
    """Return the smallest form found of at least one signed number of 8 or 4 bytes, and its name.

    Who knows that the numbers have no common divisor says so, who knows which differences are the smallest ones names
    them, and who knows the lowest and the highest number says those; otherwise all this is found out.
    """
    low, high = bounds or (int(values.min()), int(values.max()))
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
    narrow, divisor = _narrowed(values, low, high, divided=divided and depth == 0)
    if depth == 0 and len(values) >= RUN_ROWS_MIN:
        changed = narrow[1:] != narrow[:-1]
        if np.count_nonzero(changed) * RUN_ROWS_MIN < len(values):
            return _encode_runs(values, np.flatnonzero(changed) + 1, effort)
    codec, body, name = _smallest(narrow, effort, deltas)
    out.append(codec)
    write_signed(out, low)
    write_unsigned(out, divisor)
    out.append(WIDTHS.index(narrow.dtype))
    return bytes(out) + body, name


def decode_integers(source: memoryview, count: int, *, depth: int = 0) -> Integers:
    """Return exactly so many numbers, at least one."""
    reader = Reader(source)
    codec = reader.byte()
    if codec == CONSTANT:
        values = room(count, np.int64)
        values[:] = reader.signed()
        return values
    if codec == STEPS:
        first, step = reader.signed(), reader.unsigned()
        steps = room(count, np.uint64)
        np.multiply(_ROW_NUMBERS[:count], np.uint64(step), out=steps)
        steps += np.uint64(first & UINT64_MAX)
        return steps.view(np.int64)
    if codec == RUNS:
        return _decode_runs(reader, count, depth)
    narrow, low, divisor = _decode_narrow(codec, reader, count)
    wide = room(count, np.uint64)
    wide[:] = narrow
    if divisor != 1:
        wide *= np.uint64(divisor)
    if low:
        wide += np.uint64(low & UINT64_MAX)
    return wide.view(np.int64)


def decode_as_floats(source: memoryview, count: int) -> npt.NDArray[np.float64]:
    """Return what `decode_integers` returns, as floating-point numbers, in fewer steps where nothing can be lost."""
    reader = Reader(source)
    codec = reader.byte()
    if codec in _DECODERS:
        narrow, low, divisor = _decode_narrow(codec, reader, count)
        if divisor << (8 * narrow.itemsize) <= FLOAT_WHOLE_MAX and abs(low) <= FLOAT_WHOLE_MAX:
            floats = room(count, np.float64)
            floats[:] = narrow
            if divisor != 1:
                floats *= divisor
            if low:
                floats += low
            return floats
    return decode_integers(source, count).astype(np.float64)


def _decode_narrow(codec: int, reader: Reader, count: int) -> tuple[Narrow, int, int]:
    low, divisor, width = reader.signed(), reader.unsigned(), reader.byte()
    if codec not in _DECODERS or width >= len(WIDTHS):
        raise SegmentDamaged("numbers of an unknown codec or width")
    return _DECODERS[codec](reader.rest(), count, WIDTHS[width]), low, divisor


def _even_step(values: Signed) -> int | None:
    """Return the difference, modulo 2**64, between all neighbours if there is only one."""
    head: list[int] = values[:3].tolist()
    step = head[1] - head[0]
    if len(head) > 2 and head[2] - head[1] != step:  # noqa: PLR2004 - The first two differences.
        return None
    wide, modulus = values.view(_UNSIGNED[values.itemsize]), 1 << (8 * values.itemsize)
    if not ((wide[1:] - wide[:-1]) == wide.dtype.type(step % modulus)).all():
        return None
    return step & UINT64_MAX


def _narrowed(values: Signed, low: int, high: int, *, divided: bool) -> tuple[Narrow, int]:
    """Return (values - low) / divisor in the fewest bytes each, and the divisor."""
    wide = values.view(_UNSIGNED[values.itemsize])
    lowest = wide.dtype.type(low % (1 << (8 * values.itemsize)))
    divisor = int(np.gcd.reduce(wide[:: max(1, len(wide) // DIVISOR_SAMPLE)] - lowest)) if divided else 1
    if divisor > 1:
        quotients = _quotients(wide - lowest, divisor, high - low)
        if quotients is not None:
            narrow = room(len(values), _width((high - low) // divisor))
            np.copyto(narrow, quotients, casting="unsafe")
            return narrow, divisor
    dtype = _width(high - low)
    narrow = room(len(values), dtype)
    np.subtract(wide, lowest, out=narrow, casting="unsafe")
    return narrow, 1


def _width(top: int) -> np.dtype[Any]:
    """Return the narrowest type that holds a number."""
    return _WIDTH_OF_BYTES[(top.bit_length() + 7) // 8]


def _quotients(above: npt.NDArray[Any], divisor: int, top: int) -> Narrow | None:
    """Return numbers divided without a rest, or None if one leaves a rest."""
    if top <= FLOAT_QUOTIENT_MAX:
        # Many times as fast as whole numbers, and exact where there is no rest; a rest always shows up to here.
        floats = room(len(above), np.float64)
        np.divide(above, float(divisor), out=floats)
        return floats if (np.floor(floats) == floats).all() else None
    quotients = above // above.dtype.type(divisor)
    return quotients if (quotients * above.dtype.type(divisor) == above).all() else None


def _encode_runs(values: Signed, starts: npt.NDArray[np.intp], effort: Effort) -> tuple[bytes, str]:
    firsts = np.concatenate((values[:1], values[starts]))
    lengths = run_lengths(starts, len(values))
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
    return np.repeat(firsts, decode_run_lengths(reader.rest(), runs, count))


def run_lengths(starts: npt.NDArray[np.intp], count: int) -> Integers:
    """Return how long each run is; the first one starts at 0, `starts` are those of the others."""
    lengths = np.empty(len(starts) + 1, np.int64)
    lengths[:-1] = starts
    lengths[-1] = count
    lengths[1:] -= starts
    return lengths


def decode_run_lengths(source: memoryview, runs: int, count: int) -> Integers:
    """Return the lengths of runs, which together are as many rows as there must be."""
    lengths = decode_integers(source, runs, depth=1)
    # Each within bounds first, so that their sum cannot wrap around.
    if int(lengths.min()) < 0 or int(lengths.max()) > count or int(lengths.sum()) != count:
        raise SegmentDamaged("runs of another length")
    return lengths


def _smallest(narrow: Narrow, effort: Effort, deltas: tuple[str, ...]) -> tuple[int, bytes, str]:
    """Try codecs, on a sample first, and return the best one's number, bytes and name."""
    if narrow.nbytes <= RAW_BYTES_MAX:
        return RAW, narrow.tobytes(), "raw"
    sample = sampled(narrow, effort.sample_rows)
    whole = sample is narrow
    final_level = effort.pco_of(len(narrow))
    level = final_level if whole or effort.thorough else TRIAL_PCO_LEVEL
    delta, trial = smallest_of(
        {
            delta: pco_compress(sample, delta=delta, level=level)
            for delta in deltas or (DELTAS_OF_THOROUGH if effort.thorough else DELTAS_TRIED)
        }
    )
    found: tuple[int, bytes, str] | None = None
    smallest = narrow.nbytes
    if effort.thorough or not trial or repeats(narrow):
        for codec, name, content in (
            *(((ZSTD, "zstd", narrow),) if effort.thorough or narrow.itemsize == 1 else ()),
            *(((SPLIT, "zstd-split", split(narrow)),) if narrow.itemsize > 1 else ()),
        ):
            body = zstd_compress(content, effort.zstd)
            if len(body) < smallest:
                found, smallest = (codec, body, name), len(body)
    if trial and (effort.thorough or smallest > REPEAT_GAIN * len(trial) * len(narrow) / len(sample)):
        numbers = trial if whole else pco_compress(narrow, delta=delta, level=final_level)
        if numbers and len(numbers) < smallest:
            return PCO, numbers, f"pco-{delta}"
    return found or (RAW, narrow.tobytes(), "raw")


def smallest_of(trials: Mapping[str, bytes | None]) -> tuple[str, bytes]:
    """Return the name and the bytes of the smallest trial; no bytes where all of them failed."""
    there = {name: body for name, body in trials.items() if body}
    if not there:
        return "", b""
    name = min(there, key=lambda one: len(there[one]))
    return name, there[name]


def sampled(values: Narrow, rows: int) -> Narrow:
    """Return blocks from all over an array, about so many rows; neighbours stay neighbours within a block."""
    count = len(values)
    if rows == 0 or count <= 2 * rows:
        return values
    if count <= BLOCKS_FROM_ROWS and rows <= ONE_BLOCK_ROWS_MAX:
        return values[(count - rows) // 2 :][:rows]
    blocks = max(2, rows // BLOCK_ROWS)
    size = rows // blocks
    # From the middle of equal parts: beginnings and ends are seldom like the rest.
    starts = [(2 * block + 1) * count // (2 * blocks) - size // 2 for block in range(blocks)]
    return np.concatenate([values[start : start + size] for start in starts])


def seems_distinct(count: int, distinct_in: Callable[[slice], int], share_max: float) -> bool:
    """Guess whether more than a share of the rows are distinct, from a block of neighbours and from every n-th row.

    `distinct_in` counts the distinct values of some rows. Drawn at random from d values, m rows hold about m * m / 2d
    of them again.
    """
    step = count // DISTINCT_SAMPLE
    if step < DISTINCT_STEP_MIN:
        # Counting all of them costs no more.
        return False
    if distinct_in(slice(count // 2, count // 2 + BLOCK_ROWS)) <= share_max * BLOCK_ROWS:
        return False
    rows = -(-count // step)
    again = rows - distinct_in(slice(None, None, step))
    return again * 2 * share_max * count < rows * rows and again < (1 - share_max) * rows


def repeats(narrow: Narrow) -> bool:
    """Tell whether stretches from the second half occur before, byte for byte: then a dictionary coder wins."""
    count = len(narrow)
    if count < REPEAT_ROWS_MIN:
        return False
    content = narrow.tobytes()
    found = missed = 0
    for probe in range(PROBES):
        start = (count // 2 + (2 * probe + 1) * count // (4 * PROBES)) * narrow.itemsize
        if content.find(content[start : start + PROBE_BYTES * narrow.itemsize], 0, start) < 0:
            missed += 1
        else:
            found += 1
        if 2 * max(found, missed) > PROBES:
            break
    return found > missed


def split(narrow: Narrow) -> Narrow:
    """Return all lowest bytes, then all second ones, and so on."""
    parts = room(narrow.nbytes, np.uint8).reshape(narrow.itemsize, len(narrow))
    for place, part in enumerate(parts):
        np.right_shift(narrow, narrow.dtype.type(8 * place), out=part, casting="unsafe")
    return parts


def joined(content: Any, count: int, dtype: np.dtype[Any]) -> Narrow:
    """Undo `split`, for unsigned numbers of the type's width."""
    parts = np.frombuffer(content, np.uint8, count * dtype.itemsize).reshape(dtype.itemsize, count)
    narrow = room(count, dtype)
    narrow[:] = parts[-1]
    for part in parts[-2::-1]:
        narrow <<= dtype.type(8)
        narrow |= part
    return narrow


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
