"""Texts: few distinct ones as codes, those of one shape by what differs in it, others end to end."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tallygate_server.lifecycle.columnar.arrow import Bits, fixed_values
from tallygate_server.lifecycle.columnar.effort import Effort
from tallygate_server.lifecycle.columnar.errors import SegmentDamaged, SegmentRefused
from tallygate_server.lifecycle.columnar.integers import Integers, decode_integers, encode_integers, seems_distinct
from tallygate_server.lifecycle.columnar.libraries import room, zstd_compress, zstd_decompress
from tallygate_server.lifecycle.columnar.wire import Reader, write_bytes, write_unsigned

Octets = npt.NDArray[np.uint8]

DISTINCT: Final = 0
PLAIN: Final = 1
PLAIN_ZSTD: Final = 2
COLUMNS: Final = 3
COLUMNS_ZSTD: Final = 4
HEX: Final = 5
HEX_ZSTD: Final = 6
DIGITS: Final = 7

TEXT_BYTES_MAX: Final = 2**28
"""UTF-8 bytes of one column of one segment; a decoder allocates no more, whatever a segment claims."""

DISTINCT_SHARE_MAX: Final = 0.5
SHAPE_LENGTH_MAX: Final = 256
"""Texts that all have the same length are laid out by place up to this one."""

SHAPE_ROWS_MIN: Final = 8
SAMPLE_ROWS: Final = 512
DIGITS_MAX: Final = 18
"""So many decimal digits always fit 64 bits."""

ZERO, NINE, LOWER_A, LOWER_F = b"09af"


def text_layout(texts: pa.StringArray) -> tuple[npt.NDArray[np.int32], memoryview]:
    """Return each text's length in bytes, and all bytes end to end, of an array without nulls."""
    _, offsets, content = texts.buffers()
    if offsets is None or len(texts) == 0:
        return np.zeros(len(texts), np.int32), memoryview(b"")
    ends = np.frombuffer(offsets, np.int32, texts.offset + len(texts) + 1)[texts.offset :]
    return ends[1:] - ends[:-1], memoryview(b"" if content is None else content)[int(ends[0]) : int(ends[-1])]


def encode_texts(texts: pa.StringArray, effort: Effort) -> tuple[bytes, str]:
    """Return the smallest form found of at least one text, none of them null, and its name."""
    size_bytes = len(text_layout(texts)[1])
    if size_bytes > TEXT_BYTES_MAX:
        raise SegmentRefused(f"a column of a segment holds {TEXT_BYTES_MAX} bytes of text, not {size_bytes}")
    if not seems_distinct(len(texts), lambda rows: len(texts[rows].unique()), DISTINCT_SHARE_MAX):
        encoded = texts.dictionary_encode()
        if len(encoded.dictionary) <= DISTINCT_SHARE_MAX * len(texts):
            out = bytearray((DISTINCT,))
            write_unsigned(out, len(encoded.dictionary))
            write_bytes(out, _encode_each(encoded.dictionary, effort)[0])
            body, name = encode_integers(fixed_values(encoded.indices, np.int32), effort, divided=False)
            return bytes(out) + body, f"distinct+{name}"
    return _encode_each(texts, effort)


def decode_texts(source: memoryview, count: int, present: Bits | None) -> pa.StringArray:
    """Return `count` texts, at least one, spread over the rows that are present."""
    reader = Reader(source)
    codec = reader.byte()
    if codec == DISTINCT:
        known = reader.unsigned(count)
        if known == 0:
            raise SegmentDamaged("no text to choose from")
        one = Reader(reader.sized())
        lengths, content = _decode_each(one.byte(), one, known)
        codes = decode_integers(reader.rest(), count)
        if int(codes.min()) < 0 or int(lengths[codes].sum()) > TEXT_BYTES_MAX:
            raise SegmentDamaged("texts of too many bytes")
        dictionary = _text_array(lengths, content)
        if present is None:
            return dictionary.take(pa.array(codes))
        indices = np.zeros(len(present), np.int64)
        indices[present.view(np.bool_)] = codes
        return dictionary.take(pa.array(indices, mask=present == 0))
    lengths, content = _decode_each(codec, reader, count)
    if present is None:
        return _text_array(lengths, content)
    spread = np.zeros(len(present), np.int64)
    spread[present.view(np.bool_)] = lengths
    return _text_array(spread, content, present)


def _encode_each(texts: pa.StringArray, effort: Effort) -> tuple[bytes, str]:
    lengths, content = text_layout(texts)
    length = int(lengths[0])
    if len(texts) >= SHAPE_ROWS_MIN and 0 < length <= SHAPE_LENGTH_MAX and (lengths == length).all():
        shaped = _encode_shaped(np.frombuffer(content, np.uint8).reshape(len(texts), length), effort)
        if shaped is not None:
            return shaped
    out = bytearray()
    write_bytes(out, encode_integers(lengths, effort)[0])
    return _squeezed(PLAIN, bytes(out), content, effort, "plain")


def _encode_shaped(table: Octets, effort: Effort) -> tuple[bytes, str] | None:
    """Encode a byte per row and place, or return None where the texts end to end are smaller.

    Dashes, prefixes and whatever else is the same in every row are kept once. What differs is taken for one decimal
    number if it is all digits, for half a byte each if it is hexadecimal, and otherwise place by place.
    """
    places = np.flatnonzero((table != table[0]).any(axis=0))
    if len(places) == 0:
        return None
    varying = room(len(places) * len(table), np.uint8).reshape(len(places), len(table))
    for place, values in zip(places.tolist(), varying, strict=True):
        values[:] = table[:, place]
    head = bytearray()
    write_bytes(head, table[0].tobytes())
    mask = np.zeros(table.shape[1], np.uint8)
    mask[places] = 1
    head += np.packbits(mask, bitorder="little").tobytes()
    lowest, highest = int(varying.min()), int(varying.max())
    if len(places) <= DIGITS_MAX and lowest >= ZERO and highest <= NINE:
        body, name = encode_integers(_numbers(varying), effort, divided=False)
        return bytes((DIGITS,)) + head + body, f"digits+{name}"
    codec, layout, name = COLUMNS, varying, "columns"
    if lowest >= ZERO and highest <= LOWER_F and _are_hexadecimal(varying):
        codec, layout, name = HEX, _halved(varying), "hex"
    rows = min(SAMPLE_ROWS, len(table))
    start = (len(table) - rows) // 2
    sample = np.ascontiguousarray(layout[:, start : start + rows])
    plain = zstd_compress(np.ascontiguousarray(table[start : start + rows]), effort.zstd)
    squeezed = zstd_compress(sample, effort.zstd)
    if min(len(squeezed), sample.nbytes) > len(plain):
        return None
    # What did not shrink at all in the sample is left alone.
    if len(squeezed) >= sample.nbytes and not effort.thorough:
        return bytes((codec,)) + head + layout.tobytes(), name
    return _squeezed(codec, bytes(head), layout, effort, name)


def _squeezed(codec: int, head: bytes, content: Any, effort: Effort, name: str) -> tuple[bytes, str]:
    """Return codec, head and content, the content through zstd if that is smaller."""
    body = zstd_compress(content, effort.zstd) if content.nbytes else b""
    if 0 < len(body) < content.nbytes:
        return bytes((codec + 1,)) + head + body, f"{name}-zstd"
    return bytes((codec,)) + head + content.tobytes(), name


def _numbers(digits: Octets) -> Integers:
    """Return what rows of digits mean, the first place the highest."""
    numbers = np.zeros(digits.shape[1], np.int64)
    for place in digits:
        numbers *= 10
        numbers += place - np.uint8(ZERO)
    return numbers


def _digits(numbers: Integers, places: int) -> Octets:
    """Undo `_numbers`."""
    if int(numbers.min()) < 0 or int(numbers.max()) >= 10**places:
        raise SegmentDamaged("a number of too many digits")
    digits = np.empty((places, len(numbers)), np.uint8)
    rest: Any = numbers.astype(np.uint32) if int(numbers.max()) < 2**32 else numbers
    for place in range(places - 1, -1, -1):
        tenth = rest // 10
        np.subtract(rest, tenth * 10, out=digits[place], casting="unsafe")
        rest = tenth
    digits += np.uint8(ZERO)
    return digits


def _are_hexadecimal(octets: Octets) -> bool:
    between = (octets > NINE) & (octets < LOWER_A)
    return not between.any()


def _halved(characters: Octets) -> Octets:
    """Return two hexadecimal digits a byte; of an odd number of places, the last one stands alone."""
    values = (characters & np.uint8(15)) + np.uint8(9) * (characters >> np.uint8(6))
    halves = values[0::2].copy()
    halves[: len(values) // 2] <<= np.uint8(4)
    halves[: len(values) // 2] |= values[1::2]
    return halves


def _unhalved(halves: Octets, places: int) -> Octets:
    """Undo `_halved`."""
    values = np.empty((places, halves.shape[1]), np.uint8)
    pairs = places // 2
    np.right_shift(halves[:pairs], np.uint8(4), out=values[0 : 2 * pairs : 2])
    np.bitwise_and(halves, np.uint8(15), out=halves)
    values[1::2] = halves[:pairs]
    if places % 2:
        values[-1] = halves[-1]
    values += np.uint8(ZERO)
    values += np.uint8(LOWER_A - NINE - 1) * (values > NINE)
    return values


def _decode_each(codec: int, reader: Reader, count: int) -> tuple[npt.NDArray[Any], Any]:
    if codec in (PLAIN, PLAIN_ZSTD):
        lengths = decode_integers(reader.sized(), count)
        # Each within bounds first, so that their sum cannot wrap around.
        if int(lengths.min()) < 0 or int(lengths.max()) > TEXT_BYTES_MAX or int(lengths.sum()) > TEXT_BYTES_MAX:
            raise SegmentDamaged("texts of too many bytes")
        return lengths, _unsqueezed(reader, int(lengths.sum()), squeezed=codec == PLAIN_ZSTD)
    first = np.frombuffer(reader.sized(), np.uint8)
    if not 0 < len(first) <= SHAPE_LENGTH_MAX:
        raise SegmentDamaged("texts of too many places")
    mask = np.frombuffer(reader.take((len(first) + 7) // 8), np.uint8)
    places = np.flatnonzero(np.unpackbits(mask, count=len(first), bitorder="little"))
    if len(places) == 0:
        raise SegmentDamaged("texts in which nothing differs")
    if codec in (COLUMNS, COLUMNS_ZSTD):
        varying = _unsqueezed(reader, count * len(places), squeezed=codec == COLUMNS_ZSTD).reshape(-1, count)
    elif codec in (HEX, HEX_ZSTD):
        halves = _unsqueezed(reader, count * ((len(places) + 1) // 2), squeezed=codec == HEX_ZSTD)
        varying = _unhalved(halves.reshape(-1, count).copy(), len(places))
    elif codec == DIGITS and len(places) <= DIGITS_MAX:
        varying = _digits(decode_integers(reader.rest(), count), len(places))
    else:
        raise SegmentDamaged("texts of an unknown codec")
    table = room(count * len(first), np.uint8).reshape(count, len(first))
    table[:] = first
    for place, values in zip(places.tolist(), varying, strict=True):
        table[:, place] = values
    return np.full(count, len(first)), table.reshape(-1)


def _unsqueezed(reader: Reader, size: int, *, squeezed: bool) -> Octets:
    rest = reader.rest()
    if squeezed:
        return np.frombuffer(zstd_decompress(rest, size), np.uint8)
    if len(rest) != size:
        raise SegmentDamaged("texts of another length")
    return np.frombuffer(rest, np.uint8)


def _text_array(lengths: npt.NDArray[Any], content: Any, present: Bits | None = None) -> pa.StringArray:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    validity = None if present is None else pa.py_buffer(np.packbits(present, bitorder="little"))
    texts = pa.Array.from_buffers(pa.string(), len(lengths), [validity, pa.py_buffer(offsets), pa.py_buffer(content)])
    # The library below checks that the bytes are UTF-8.
    texts.validate(full=True)
    return texts
