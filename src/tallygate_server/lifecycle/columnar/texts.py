"""Texts: few distinct ones as codes, UUIDs as their bytes, texts of one length by place, others end to end."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tallygate_server.lifecycle.columnar.arrow import Bits
from tallygate_server.lifecycle.columnar.effort import Effort
from tallygate_server.lifecycle.columnar.errors import SegmentDamaged
from tallygate_server.lifecycle.columnar.integers import decode_integers, encode_integers
from tallygate_server.lifecycle.columnar.libraries import zstd_compress, zstd_decompress
from tallygate_server.lifecycle.columnar.wire import Reader, write_bytes, write_unsigned

Octets = npt.NDArray[np.uint8]

DISTINCT: Final = 0
PLAIN: Final = 1
PLAIN_ZSTD: Final = 2
COLUMNS: Final = 3
COLUMNS_ZSTD: Final = 4
UUIDS: Final = 5
UUIDS_ZSTD: Final = 6

TEXT_BYTES_MAX: Final = 2**28
"""UTF-8 bytes of one column of one segment; a decoder allocates no more, whatever a segment claims."""

DISTINCT_SHARE_MAX: Final = 0.5
SAMPLE_ROWS: Final = 512
COLUMN_LENGTH_MAX: Final = 256
"""Texts of one length are laid out by place up to this length."""

UUID_LENGTH: Final = 36
UUID_BYTES: Final = 16
DASHES: Final = (8, 13, 18, 23)
DIGIT_PLACES: Final = np.array([place for place in range(UUID_LENGTH) if place not in DASHES])
HEX_DIGITS: Final = np.frombuffer(b"0123456789abcdef", np.uint8)
NO_DIGIT: Final = 255
DIGIT_VALUES: Final = np.full(256, NO_DIGIT, np.uint8)
DIGIT_VALUES[HEX_DIGITS] = np.arange(16)


def text_layout(texts: pa.StringArray) -> tuple[npt.NDArray[np.int64], memoryview]:
    """Return each text's length in bytes, and all bytes end to end, of an array without nulls."""
    _, offsets, content = texts.buffers()
    if offsets is None or len(texts) == 0:
        return np.zeros(len(texts), np.int64), memoryview(b"")
    ends = np.frombuffer(offsets, np.int32, texts.offset + len(texts) + 1)[texts.offset :]
    start, stop = int(ends[0]), int(ends[-1])
    return np.diff(ends).astype(np.int64), memoryview(b"" if content is None else content)[start:stop]


def encode_texts(texts: pa.StringArray, effort: Effort) -> tuple[bytes, str]:
    """Return the smallest form found of at least one text, none of them null, and its name."""
    sample = texts if len(texts) <= 2 * SAMPLE_ROWS else texts.take(pa.array(_spread(len(texts))))
    if len(sample.unique()) <= DISTINCT_SHARE_MAX * len(sample):
        encoded = texts.dictionary_encode()
        if len(encoded.dictionary) <= DISTINCT_SHARE_MAX * len(texts):
            out = bytearray((DISTINCT,))
            write_unsigned(out, len(encoded.dictionary))
            write_bytes(out, _encode_plain(encoded.dictionary, effort)[0])
            body, name = encode_integers(encoded.indices.to_numpy().astype(np.int64), effort)
            return bytes(out) + body, f"distinct+{name}"
    return _encode_plain(texts, effort)


def _spread(count: int) -> npt.NDArray[np.int64]:
    return np.linspace(0, count - 1, SAMPLE_ROWS).astype(np.int64)


def _encode_plain(texts: pa.StringArray, effort: Effort) -> tuple[bytes, str]:
    lengths, content = text_layout(texts)
    length = int(lengths[0])
    if 0 < length <= COLUMN_LENGTH_MAX and (lengths == length).all():
        table = np.frombuffer(content, np.uint8).reshape(len(texts), length)
        if length == UUID_LENGTH:
            octets = _uuid_octets(table)
            if octets is not None:
                return _squeezed(UUIDS, b"", octets.T, effort, "uuids")
        out = bytearray()
        write_unsigned(out, length)
        by_place, plain = np.ascontiguousarray(table.T), zstd_compress(content, effort.zstd)
        body, name = _squeezed(COLUMNS, bytes(out), by_place, effort, "columns")
        if len(body) < len(plain):
            return body, name
    out = bytearray()
    write_bytes(out, encode_integers(lengths, effort)[0])
    return _squeezed(PLAIN, bytes(out), content, effort, "plain")


def _squeezed(codec: int, head: bytes, content: Any, effort: Effort, name: str) -> tuple[bytes, str]:
    """Return codec, head and content, the content through zstd if that is smaller."""
    raw = content if isinstance(content, memoryview) else np.ascontiguousarray(content)
    body = zstd_compress(raw, effort.zstd) if raw.nbytes else b""
    if 0 < len(body) < raw.nbytes:
        return bytes((codec + 1,)) + head + body, f"{name}-zstd"
    return bytes((codec,)) + head + raw.tobytes(), name


def _uuid_octets(table: Octets) -> Octets | None:
    if (table[:, DASHES] != ord("-")).any():
        return None
    digits = DIGIT_VALUES[table[:, DIGIT_PLACES]]
    if (digits == NO_DIGIT).any():
        return None
    return (digits[:, 0::2] << np.uint8(4)) | digits[:, 1::2]


def decode_texts(source: memoryview, count: int, present: Bits | None) -> pa.StringArray:
    """Return `count` texts, at least one, spread over the rows that are present."""
    reader = Reader(source)
    if source[:1] == bytes((DISTINCT,)):
        reader.byte()
        known = reader.unsigned(count)
        if known == 0:
            raise SegmentDamaged("no text to choose from")
        lengths, content = _decode_plain(Reader(reader.sized()), known)
        codes = decode_integers(reader.rest(), count)
        if int(codes.min()) < 0 or int(lengths[codes].sum()) > TEXT_BYTES_MAX:
            raise SegmentDamaged("texts of too many bytes")
        dictionary = _text_array(lengths, content)
        if present is None:
            return dictionary.take(pa.array(codes))
        indices = np.zeros(len(present), np.int64)
        indices[present.view(np.bool_)] = codes
        return dictionary.take(pa.array(indices, mask=present == 0))
    lengths, content = _decode_plain(reader, count)
    if present is None:
        return _text_array(lengths, content)
    spread = np.zeros(len(present), np.int64)
    spread[present.view(np.bool_)] = lengths
    return _text_array(spread, content, present)


def _text_array(lengths: npt.NDArray[np.int64], content: Any, present: Bits | None = None) -> pa.StringArray:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    validity = None if present is None else pa.py_buffer(np.packbits(present, bitorder="little"))
    buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(content)]
    texts = pa.Array.from_buffers(pa.string(), len(lengths), buffers)
    # The library below checks that the bytes are UTF-8.
    texts.validate(full=True)
    return texts


def _decode_plain(reader: Reader, count: int) -> tuple[npt.NDArray[np.int64], Any]:
    codec = reader.byte()
    if codec in (UUIDS, UUIDS_ZSTD):
        octets = _unsqueezed(reader, count * UUID_BYTES, squeezed=codec == UUIDS_ZSTD)
        table = np.full((count, UUID_LENGTH), ord("-"), np.uint8)
        digits = np.empty((count, 2 * UUID_BYTES), np.uint8)
        by_row = octets.reshape(UUID_BYTES, count).T
        digits[:, 0::2] = HEX_DIGITS[by_row >> 4]
        digits[:, 1::2] = HEX_DIGITS[by_row & 15]
        table[:, DIGIT_PLACES] = digits
        return np.full(count, UUID_LENGTH), table.reshape(-1)
    if codec in (COLUMNS, COLUMNS_ZSTD):
        length = reader.unsigned(COLUMN_LENGTH_MAX)
        places = _unsqueezed(reader, count * length, squeezed=codec == COLUMNS_ZSTD)
        return np.full(count, length), np.ascontiguousarray(places.reshape(length, count).T).reshape(-1)
    if codec not in (PLAIN, PLAIN_ZSTD):
        raise SegmentDamaged("texts of an unknown codec")
    lengths = decode_integers(reader.sized(), count)
    # Each within bounds first, so that their sum cannot wrap around.
    if int(lengths.min()) < 0 or int(lengths.max()) > TEXT_BYTES_MAX or int(lengths.sum()) > TEXT_BYTES_MAX:
        raise SegmentDamaged("texts of too many bytes")
    return lengths, _unsqueezed(reader, int(lengths.sum()), squeezed=codec == PLAIN_ZSTD)


def _unsqueezed(reader: Reader, size: int, *, squeezed: bool) -> Octets:
    rest = reader.rest()
    if squeezed:
        return np.frombuffer(zstd_decompress(rest, size), np.uint8)
    if len(rest) != size:
        raise SegmentDamaged("texts of another length")
    return np.frombuffer(rest, np.uint8)
