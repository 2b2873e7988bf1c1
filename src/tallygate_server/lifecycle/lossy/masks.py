"""Where values are missing, and which ones are the commonest."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tallygate_server.lifecycle.lossy.failures import LossyPayloadDamaged
from tallygate_server.lifecycle.lossy.payload import PayloadReader, PayloadWriter
from tallygate_server.lifecycle.lossy.records import Truths


def add_mask(writer: PayloadWriter, section: str, valid: Truths) -> int:
    """Store where there are values, when not everywhere; return the bytes it takes."""
    return 0 if valid.all() else writer.add_bytes(section, _packed(valid))


def read_mask(reader: PayloadReader, section: str, count: int) -> Truths:
    """Return where there are values."""
    return _unpacked(reader.bytes_of(section), count) if reader.has(section) else np.ones(count, dtype=np.bool_)


def distinct_counts(array: pa.Array, most: int) -> tuple[int, dict[str, int]]:
    """Return how many distinct values there are, and the commonest as texts with their counts.

    Equally common ones come in the order of their texts.
    """
    counted = pc.value_counts(array.drop_null().cast(pa.string()))
    pairs = zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)
    ranked = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
    return len(ranked), dict(ranked[:most])


def _packed(truths: Truths) -> bytes:
    return np.packbits(truths).tobytes()


def _unpacked(data: bytes, count: int) -> Truths:
    bits = np.frombuffer(data, dtype=np.uint8)
    if len(bits) != (count + 7) // 8:
        raise LossyPayloadDamaged("a mask has the wrong length")
    return np.unpackbits(bits, count=count).astype(np.bool_)
