"""Floating-point numbers, to the bit: decimals as whole numbers, few distinct values, pcodec, or zstd over bytes.

Decimals may be coarse: 575.2 - 500 is 75.20000000000005, which is 75.2 rounded to the multiples of 2**-43 that numbers
of the size of 575 are. What a device sends less a fixed offset looks so in every row.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tallygate_server.lifecycle.columnar.arrow import fixed_values
from tallygate_server.lifecycle.columnar.effort import Effort
from tallygate_server.lifecycle.columnar.errors import SegmentDamaged
from tallygate_server.lifecycle.columnar.integers import (
    DELTAS_OF_THOROUGH,
    DELTAS_TRIED,
    FLOAT_WHOLE_MAX,
    TRIAL_PCO_LEVEL,
    decode_as_floats,
    decode_integers,
    encode_integers,
    joined,
    repeats,
    sampled,
    seems_distinct,
    smallest_of,
    split,
)
from tallygate_server.lifecycle.columnar.libraries import (
    MODES,
    pco_compress,
    pco_decompress,
    room,
    zstd_compress,
    zstd_decompress,
)
from tallygate_server.lifecycle.columnar.wire import Reader, write_bytes, write_unsigned

Floats = npt.NDArray[np.float64]

CONSTANT: Final = 0
DECIMAL: Final = 1
DISTINCT: Final = 2
PCO: Final = 3
SPLIT: Final = 4
RAW: Final = 5
COARSE: Final = 6

DIGITS_MAX: Final = 9
SCALES: Final = 10.0 ** np.arange(DIGITS_MAX + 1)
COLUMN_OF_SCALES: Final = SCALES[:, None]
FLOAT_DIGITS: Final = 53
"""Binary digits of a floating-point number."""

GRID_BITS_MIN: Final = 4
"""A decimal step is at least 2**4 times the grid that it was rounded to; otherwise any number would be a decimal."""

GRID_MAX: Final = 100

DECIMAL_SAMPLE: Final = 32
DECIMAL_SHARE_MIN: Final = 0.9
EXCEPTIONS_SHARE_MAX: Final = 0.05
"""Values that are no decimals of as many digits (and -0.0, NaN, infinities) are kept beside, up to this share."""

DISTINCT_SHARE_MAX: Final = 0.2
DISTINCT_ROWS_MIN: Final = 64
RAW_BYTES_MAX: Final = 24
FLOAT: Final = np.dtype("<f8")
BITS: Final = np.dtype("<u8")


def encode_floats(values: Floats, effort: Effort) -> tuple[bytes, str]:
    """Return the smallest form found of at least one value, and its name."""
    bits = values.view(np.int64)
    if bits[0] == bits[-1] and (bits == bits[0]).all():
        return bytes((CONSTANT,)) + values[:1].tobytes(), "constant"
    if values.nbytes <= RAW_BYTES_MAX:
        return bytes((RAW,)) + values.tobytes(), "raw"
    decimal = _as_decimals(values, bits, effort)
    if decimal is not None:
        return decimal
    distinct = _as_distinct(bits, effort)
    if distinct is not None:
        return distinct
    return _as_numbers(values, effort)


def decode_floats(source: memoryview, count: int) -> Floats:
    """Return exactly so many values, at least one."""
    reader = Reader(source)
    codec = reader.byte()
    if codec == CONSTANT:
        return np.repeat(np.frombuffer(reader.take(FLOAT.itemsize), FLOAT), count)
    if codec in (DECIMAL, COARSE):
        return _decode_decimals(reader, count, coarse=codec == COARSE)
    if codec == DISTINCT:
        known = reader.unsigned(count)
        values = decode_integers(reader.sized(), known) if known else np.empty(0, np.int64)
        return _unordered(values)[decode_integers(reader.rest(), count)].view(np.float64)
    rest = reader.rest()
    if codec == PCO:
        return pco_decompress(rest, count, FLOAT)
    if codec == SPLIT:
        return joined(zstd_decompress(rest, count * FLOAT.itemsize), count, BITS).view(FLOAT)
    if codec == RAW and len(rest) == count * FLOAT.itemsize:
        # A copy, because Arrow wants numbers at even addresses.
        return np.frombuffer(rest, FLOAT, count).copy()
    raise SegmentDamaged("values of an unknown codec")


def _digits(sample: Floats, grid: int) -> int | None:
    """Return how many decimal digits write nearly all of a sample, or None."""
    whole = np.rint(sample * COLUMN_OF_SCALES)
    again = whole / COLUMN_OF_SCALES
    if grid:
        again = np.rint(again * 2.0**grid) / 2.0**grid
    enough = np.add.reduce(again == sample, axis=1, dtype=np.intp) >= DECIMAL_SHARE_MIN * len(sample)
    digits = int(enough.argmax())
    if not enough[digits] or (grid and SCALES[digits] > 2.0 ** (grid - GRID_BITS_MIN)):
        return None
    return digits


def _grid(sample: Floats) -> int:
    """Return g if a sample's values are multiples of 2**-g, and coarser than their size would allow; otherwise 0."""
    finite = sample[np.isfinite(sample)].tolist()
    if not finite:
        return 0
    grid = max(value.as_integer_ratio()[1] for value in finite).bit_length() - 1
    _, exponent = math.frexp(max(map(abs, finite)))
    return grid if GRID_BITS_MIN < grid < FLOAT_DIGITS - exponent and grid <= GRID_MAX else 0


def _as_decimals(values: Floats, bits: npt.NDArray[np.int64], effort: Effort) -> tuple[bytes, str] | None:
    count = len(values)
    sample = values[:: max(1, count // DECIMAL_SAMPLE)]
    with np.errstate(all="ignore"):
        grid = 0
        digits = _digits(sample, grid)
        if digits is None:
            grid = _grid(sample)
            digits = _digits(sample, grid) if grid else None
        if digits is None:
            return None
        out = bytearray((COARSE, digits, grid) if grid else (DECIMAL, digits))
        scratch, whole = room(count, np.float64), room(count, np.int64)
        np.multiply(values, SCALES[digits], out=scratch)
        np.rint(scratch, out=scratch)
        np.copyto(whole, scratch, casting="unsafe")
        np.divide(whole, SCALES[digits], out=scratch)
        if grid:
            _coarsen(scratch, grid)
    # Bits are compared, not values: -0.0 is not 0.0, and a NaN is itself.
    exact = scratch.view(np.int64) == bits
    low, high = int(whole.min()), int(whole.max())
    plain = bool(exact.all()) and max(-low, high) <= FLOAT_WHOLE_MAX
    if plain:
        write_unsigned(out, 0)
    else:
        exact &= (whole <= FLOAT_WHOLE_MAX) & (whole >= -FLOAT_WHOLE_MAX)
        exceptions = np.flatnonzero(~exact)
        if len(exceptions) > EXCEPTIONS_SHARE_MAX * count:
            return None
        write_unsigned(out, len(exceptions))
        write_bytes(out, encode_integers(exceptions.astype(np.int64), effort, deltas=("d1",))[0])
        write_bytes(out, encode_integers(bits[exceptions], effort)[0])
        # The value before stands in, which costs next to nothing.
        whole = whole[np.maximum.accumulate(np.where(exact, np.arange(count), 0))]
        whole[: int(exact.argmax())] = 0
    body, name = encode_integers(whole, effort, bounds=(low, high) if plain else None)
    return bytes(out) + body, f"{'coarse' if grid else 'decimal'}{digits}+{name}"


def _coarsen(values: Floats, grid: int) -> None:
    """Round values to multiples of 2**-grid in place."""
    values *= 2.0**grid
    np.rint(values, out=values)
    values *= 2.0**-grid


def _decode_decimals(reader: Reader, count: int, *, coarse: bool) -> Floats:
    digits = reader.byte()
    grid = reader.byte() if coarse else 0
    if digits > DIGITS_MAX or grid > GRID_MAX:
        raise SegmentDamaged("decimals of too many digits")
    exceptions = reader.unsigned(count)
    places = others = None
    if exceptions:
        places = decode_integers(reader.sized(), exceptions)
        others = decode_integers(reader.sized(), exceptions)
    values = decode_as_floats(reader.rest(), count)
    if digits:
        values /= SCALES[digits]
    if grid:
        _coarsen(values, grid)
    if places is not None and others is not None:
        if int(places.min()) < 0:
            raise SegmentDamaged("a value before the first")
        values.view(np.int64)[places] = others
    return values


def _as_distinct(bits: npt.NDArray[np.int64], effort: Effort) -> tuple[bytes, str] | None:
    count = len(bits)
    if count < DISTINCT_ROWS_MIN:
        return None
    if seems_distinct(count, lambda rows: len(set(bits[rows].tolist())), DISTINCT_SHARE_MAX):
        return None
    encoded = pa.array(bits).dictionary_encode()
    if len(encoded.dictionary) > DISTINCT_SHARE_MAX * count:
        return None
    known = _ordered(fixed_values(encoded.dictionary, np.int64))
    order = known.argsort()
    ranks = np.empty(len(known), np.int32)
    ranks[order] = np.arange(len(known))
    out = bytearray((DISTINCT,))
    write_unsigned(out, len(known))
    write_bytes(out, encode_integers(known[order], effort, deltas=("d1",))[0])
    ranked = ranks[fixed_values(encoded.indices, np.int32)]
    body, name = encode_integers(ranked, effort, divided=False)
    return bytes(out) + body, f"distinct+{name}"


def _ordered(bits: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return numbers that stand in the order of the values of these bits; its own inverse."""
    return bits ^ ((bits >> 63) & np.int64(2**63 - 1))


_unordered = _ordered


def _as_numbers(values: Floats, effort: Effort) -> tuple[bytes, str]:
    sample = sampled(values, effort.sample_rows)
    final_level = effort.pco_of(len(values))
    level = final_level if effort.thorough else TRIAL_PCO_LEVEL
    # What pcodec finds by itself, such as multiples of a number, takes time: it is asked for again only if it pays.
    mode, _ = smallest_of({mode: pco_compress(sample, delta="d1", level=level, mode=mode) for mode in MODES})
    delta, _ = smallest_of(
        {
            delta: pco_compress(sample, delta=delta, level=level, mode=mode or "classic")
            for delta in (DELTAS_OF_THOROUGH if effort.thorough else DELTAS_TRIED)
        }
    )
    best: tuple[int, bytes, str] = RAW, values.tobytes(), "raw"
    if mode and delta:
        body = pco_compress(values, delta=delta, level=final_level, mode=mode)
        if body and len(body) < len(best[1]):
            best = PCO, body, f"pco-{mode}-{delta}"
    if effort.thorough or best[0] == RAW or repeats(values.view(BITS)):
        body = zstd_compress(split(values.view(BITS)), effort.zstd)
        if len(body) < len(best[1]):
            best = SPLIT, body, "zstd-split"
    return bytes(best[:1]) + best[1], best[2]
