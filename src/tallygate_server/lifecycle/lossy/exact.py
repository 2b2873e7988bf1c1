"""Columns that are stored as they are: what no curve can stand for, and what shall not be approximated."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tallygate_server.lifecycle.lossy.failures import LossyPayloadDamaged
from tallygate_server.lifecycle.lossy.payload import PayloadReader, PayloadWriter
from tallygate_server.lifecycle.lossy.records import Column, ColumnKind, Truths, number_array

DICTIONARY_SHARE_MAX: Final = 0.5
"""Of the values: with more distinct ones a dictionary saves nothing."""


def add_exact(writer: PayloadWriter, section: str, column: Column) -> tuple[dict[str, Any], int]:
    """Store a column; return what its reader must know, and the bytes it takes."""
    stored = add_mask(writer, f"{section}.valid", column.valid)
    told: dict[str, Any] = {"codec": "exact"}
    if column.kind in (ColumnKind.STRING, ColumnKind.BOOL):
        values = column.array.drop_null()
        if column.kind is ColumnKind.BOOL:
            told["codec"] = "bits"
            return told, stored + writer.add_bytes(f"{section}.bits", _packed(np.asarray(values.cast(pa.uint8())) != 0))
        encoded = values.dictionary_encode()
        if len(encoded.dictionary) <= DICTIONARY_SHARE_MAX * len(values):
            told["codec"] = "dictionary"
            stored += writer.add_array(f"{section}.indices", np.asarray(encoded.indices))
            values = encoded.dictionary
        else:
            told["codec"] = "zstd"
        return told, stored + writer.add_bytes(f"{section}.texts", _as_ipc(values))
    told["codec"] = "pcodec"
    return told, stored + writer.add_array(f"{section}.values", column.numbers()[column.valid])


def read_exact(reader: PayloadReader, section: str, kind: ColumnKind, codec: str, count: int) -> pa.Array:
    """Return a column that `add_exact` has stored."""
    valid = read_mask(reader, f"{section}.valid", count)
    present = int(valid.sum())
    if codec == "pcodec":
        dtype = np.float64 if kind is ColumnKind.DOUBLE else np.int64
        values = np.zeros(count, dtype=dtype)
        values[valid] = _sized(reader.array(f"{section}.values", dtype), present)
        return number_array(values, valid, kind)
    found: pa.Array
    if codec == "bits":
        found = pa.array(_unpacked(reader.bytes_of(f"{section}.bits"), present))
    else:
        found = _from_ipc(reader.bytes_of(f"{section}.texts"))
        if codec == "dictionary":
            found = found.take(pa.array(reader.array(f"{section}.indices", np.int32)))
    if len(found) != present:
        raise LossyPayloadDamaged(f"section {section} has the wrong count")
    if present == count:
        return found
    places = np.cumsum(valid) - 1
    return found.take(pa.array(places, mask=~valid))


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


def _sized(values: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    if len(values) != count:
        raise LossyPayloadDamaged("a section has the wrong count")
    return values


def _as_ipc(values: pa.Array) -> bytes:
    sink = pa.BufferOutputStream()
    batch = pa.record_batch([values], names=["values"])
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _from_ipc(data: bytes) -> pa.Array:
    try:
        with pa.ipc.open_stream(data) as stream:
            table = stream.read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise LossyPayloadDamaged("texts cannot be read") from error
    column = table.column(0)
    return column.chunk(0) if column.num_chunks else pa.array([], type=column.type)
