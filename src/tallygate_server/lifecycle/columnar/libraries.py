"""The two libraries that squeeze: pcodec for numbers, zstd for bytes; damage in their input is SegmentDamaged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pcodec import ChunkConfig, DeltaSpec, ModeSpec, PagingSpec, standalone

from tallygate_server.lifecycle.columnar.errors import SegmentDamaged

Numbers = npt.NDArray[Any]

DELTAS: Final[Mapping[str, DeltaSpec]] = {
    "d0": DeltaSpec.no_op(),
    "d1": DeltaSpec.try_consecutive(1),
    "d2": DeltaSpec.try_consecutive(2),
    "lookback": DeltaSpec.try_lookback(),
}
"""What is coded instead of the numbers: themselves, differences once or twice, or from one met before."""

MODES: Final[Mapping[str, ModeSpec]] = {"classic": ModeSpec.classic(), "auto": ModeSpec.auto()}

CHUNK_ROWS: Final = 65_536
"""Numbers that pcodec takes at once: its scratch memory stays below what the system takes back after each call."""

POOL_BYTES_MIN: Final = 16_384

_PAGING: Final = PagingSpec.equal_pages_up_to(CHUNK_ROWS)
_CONFIGS: Final = {
    (mode, delta, level): ChunkConfig(
        compression_level=level, mode_spec=mode_spec, delta_spec=delta_spec, paging_spec=_PAGING, enable_8_bit=True
    )
    for mode, mode_spec in MODES.items()
    for delta, delta_spec in DELTAS.items()
    for level in range(13)
}
_ZSTD: Final = {level: pa.Codec("zstd", compression_level=level) for level in range(1, 20)}


def room(count: int, dtype: npt.DTypeLike) -> Numbers:
    """Return an array of arbitrary numbers to be overwritten.

    Large ones come from Arrow's pool, which keeps its pages: memory fresh from the system costs several times as much
    as the work that is done in it here.
    """
    kind = np.dtype(dtype)
    if count * kind.itemsize < POOL_BYTES_MIN:
        return np.empty(count, kind)
    return np.frombuffer(pa.allocate_buffer(count * kind.itemsize), kind)


def pco_compress(numbers: Numbers, *, delta: str, level: int, mode: str = "classic") -> bytes | None:
    """Compress a contiguous array of at least one number; None if the library fails, so that another can try."""
    try:
        return bytes(standalone.simple_compress(numbers, _CONFIGS[mode, delta, level]))
    except BaseException as error:
        if _is_failure(error):
            return None
        raise


def pco_decompress(source: memoryview, count: int, dtype: npt.DTypeLike) -> Numbers:
    """Return exactly so many numbers of the type."""
    numbers = room(count, dtype)
    try:
        progress = standalone.simple_decompress_into(bytes(source), numbers)
    except BaseException as error:
        if _is_failure(error):
            raise SegmentDamaged(f"numbers cannot be read: {error}") from None
        raise
    if progress.n_processed != count or not progress.finished:
        raise SegmentDamaged("another number of numbers")
    return numbers


def _is_failure(error: BaseException) -> bool:
    """Tell a library's failure from an interruption; a broken invariant in Rust has a type that nobody can import."""
    return isinstance(error, RuntimeError | TypeError | ValueError) or type(error).__name__ == "PanicException"


def zstd_compress(source: bytes | memoryview | Numbers, level: int) -> bytes:
    """Compress bytes into one zstd frame."""
    return bytes(_ZSTD[level].compress(source, asbytes=True))


def zstd_decompress(source: memoryview, size: int) -> pa.Buffer:
    """Return exactly so many bytes; no more are ever allocated, whatever the frame says."""
    if size == 0:
        raise SegmentDamaged("nothing was compressed")
    try:
        return pa.decompress(pa.py_buffer(source), decompressed_size=size, codec="zstd")
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SegmentDamaged(f"bytes cannot be read: {error}") from None
