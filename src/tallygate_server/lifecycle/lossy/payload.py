"""The bytes of a lossy form: a magic number, a version, a digest, a small JSON header, and named sections.

Layout: `TGLY`, one byte of version, 16 bytes of BLAKE2b over all that follows, four bytes (little endian) with the
length of the header, the header as compressed JSON, and the sections one after the other in the header's order. Each
section says whether it is compressed as it is (arrays come compressed already).
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import zstandard
from pcodec import ChunkConfig, standalone

from tallygate_server.lifecycle.lossy.failures import LossyPayloadDamaged

MAGIC: Final = b"TGLY"
VERSION: Final = 1
SECTION_BYTES_MAX: Final = 1 << 30
"""Of one section when it is unpacked: nothing of ours comes near it."""
_DIGEST_BYTES: Final = 16
_LENGTH: Final = struct.Struct("<I")
_PREFIX_BYTES: Final = len(MAGIC) + 1 + _DIGEST_BYTES
_PLAIN, _ZSTD = 0, 1

Array = npt.NDArray[Any]


class PayloadWriter:
    """Collects the sections of a payload."""

    def __init__(self, *, level: int) -> None:
        """Begin a payload; level: effort, 1 to 9."""
        self._zstd = zstandard.ZstdCompressor(level=2 * level + 1)
        self._config = ChunkConfig(compression_level=min(level + 3, 12))
        self._sections: list[tuple[str, int, bytes]] = []

    def add_bytes(self, name: str, data: bytes) -> int:
        """Add a section of bytes; return how many it takes."""
        packed = self._zstd.compress(data)
        kind, stored = (_ZSTD, packed) if len(packed) < len(data) else (_PLAIN, data)
        self._sections.append((name, kind, stored))
        return len(stored)

    def add_array(self, name: str, values: Array) -> int:
        """Add a section of numbers; return how many bytes it takes."""
        return self.add_bytes(name, self.packed(values))

    def packed(self, values: Array) -> bytes:
        """Return numbers as they would be stored."""
        packed: bytes = standalone.simple_compress(np.ascontiguousarray(values), self._config)
        return packed

    def finish(self, header: Mapping[str, Any]) -> bytes:
        """Return the payload."""
        index = [[name, kind, len(stored)] for name, kind, stored in self._sections]
        told = json.dumps({"header": header, "sections": index}, separators=(",", ":"), allow_nan=False)
        packed = self._zstd.compress(told.encode())
        body = b"".join([_LENGTH.pack(len(packed)), packed, *(stored for _, _, stored in self._sections)])
        return MAGIC + bytes([VERSION]) + _digest(body) + body


class PayloadReader:
    """Reads the sections of a payload. Raises LossyPayloadDamaged when it is not one, or not whole."""

    def __init__(self, payload: bytes) -> None:
        """Check the payload and read its header."""
        if payload[: len(MAGIC)] != MAGIC:
            raise LossyPayloadDamaged("not a payload of this kind")
        if payload[len(MAGIC) : len(MAGIC) + 1] != bytes([VERSION]):
            raise LossyPayloadDamaged("a version that is not known")
        body = payload[_PREFIX_BYTES:]
        if _digest(body) != payload[_PREFIX_BYTES - _DIGEST_BYTES : _PREFIX_BYTES] or len(body) < _LENGTH.size:
            raise LossyPayloadDamaged("the digest does not match")
        try:
            (length,) = _LENGTH.unpack_from(body)
            told = json.loads(_unzstd(body[_LENGTH.size : _LENGTH.size + length]))
            self.header: dict[str, Any] = told["header"]
            self._sections: dict[str, tuple[int, bytes]] = {}
            offset = _LENGTH.size + length
            for name, kind, stored in told["sections"]:
                self._sections[name] = (kind, body[offset : offset + stored])
                offset += stored
        except (struct.error, ValueError, KeyError, TypeError) as error:
            raise LossyPayloadDamaged("the header cannot be read") from error

    def has(self, name: str) -> bool:
        """Tell whether there is a section."""
        return name in self._sections

    def bytes_of(self, name: str) -> bytes:
        """Return a section of bytes."""
        if (found := self._sections.get(name)) is None:
            raise LossyPayloadDamaged(f"section {name} is missing")
        kind, stored = found
        return _unzstd(stored) if kind == _ZSTD else stored

    def array(self, name: str, dtype: type[np.generic]) -> Array:
        """Return a section of numbers."""
        packed = self.bytes_of(name)
        try:
            values = standalone.simple_decompress(packed)
        except (RuntimeError, TypeError) as error:
            raise LossyPayloadDamaged(f"section {name} cannot be read") from error
        # Without numbers it does not know their type.
        return np.zeros(0, dtype=dtype) if values is None else values.astype(dtype, copy=False)


def _unzstd(data: bytes) -> bytes:
    try:
        if zstandard.frame_content_size(data) > SECTION_BYTES_MAX:
            raise LossyPayloadDamaged("a section is larger than any can be")
        return zstandard.ZstdDecompressor().decompress(data)
    except zstandard.ZstdError as error:
        raise LossyPayloadDamaged("a section cannot be unpacked") from error


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()
