"""Variable-length numbers and byte strings: the few shapes that headers are made of."""

from __future__ import annotations

from typing import Final

from tallygate_server.lifecycle.columnar.errors import SegmentDamaged

SEGMENT_ROWS_MAX: Final = 131_072
"""Rows of a segment; no count of a segment is larger."""

VARINT_BYTES_MAX: Final = 10
MORE: Final = 0x80
"""The bit of a byte that says that another one follows."""

UINT64_MAX: Final = 2**64 - 1


def write_unsigned(out: bytearray, value: int) -> None:
    """Append a number of 0 to 2**64 - 1, seven bits a byte, lowest first."""
    while value >= MORE:
        out.append(value & (MORE - 1) | MORE)
        value >>= 7
    out.append(value)


def write_signed(out: bytearray, value: int) -> None:
    """Append a number of -2**63 to 2**63 - 1; small ones of either sign stay short."""
    write_unsigned(out, (value << 1) ^ (value >> 63))


def write_bytes(out: bytearray, value: bytes | bytearray) -> None:
    """Append bytes after their number."""
    write_unsigned(out, len(value))
    out += value


class Reader:
    """Reads from the front of bytes that may be damaged; every method raises SegmentDamaged past their end."""

    __slots__ = ("_at", "_bytes")

    def __init__(self, source: bytes | memoryview) -> None:
        self._bytes = memoryview(source)
        self._at = 0

    @property
    def position(self) -> int:
        """How many bytes have been read."""
        return self._at

    def byte(self) -> int:
        """Read one byte."""
        if self._at >= len(self._bytes):
            raise SegmentDamaged("the segment ends too early")
        value = self._bytes[self._at]
        self._at += 1
        return value

    def unsigned(self, maximum: int = UINT64_MAX) -> int:
        """Read a number as `write_unsigned` wrote it, and refuse one above the maximum."""
        value = 0
        for shift in range(0, 7 * VARINT_BYTES_MAX, 7):
            byte = self.byte()
            value |= (byte & ~MORE) << shift
            if byte < MORE:
                if value > maximum:
                    raise SegmentDamaged(f"a number above its bound: {value} > {maximum}")
                return value
        raise SegmentDamaged("a number of too many bytes")

    def signed(self) -> int:
        """Read a number as `write_signed` wrote it."""
        value = self.unsigned()
        return (value >> 1) ^ -(value & 1)

    def take(self, size: int) -> memoryview:
        """Read exactly so many bytes, without a copy."""
        if size > len(self._bytes) - self._at:
            raise SegmentDamaged("the segment ends too early")
        part = self._bytes[self._at : self._at + size]
        self._at += size
        return part

    def sized(self) -> memoryview:
        """Read bytes that stand after their number."""
        return self.take(self.unsigned(len(self._bytes)))

    def rest(self) -> memoryview:
        """Read everything that is left."""
        return self.take(len(self._bytes) - self._at)
