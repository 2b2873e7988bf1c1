"""Measure the archive's codec against Parquet with zstd, plain Postgres rows and CSV: bytes, and speed on one core.

Parquet is written and read by pyarrow into and from memory, as the codec works too. Both encode on one thread (pyarrow
has no other way to write); for decoding pyarrow is measured on one thread and, beside it, as it comes, with all cores.
Repetitions take turns, so that whatever else the machine does meets all of them alike; medians count.
"""

from __future__ import annotations

import contextlib
import gc
import io
import math
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from tallygate_server.bench.record_files import made_up, read_records, repeated
from tallygate_server.bench.statistics import median
from tallygate_server.embedded import EmbeddedServers
from tallygate_server.lifecycle.columnar import (
    LEVEL_DEFAULT,
    SEGMENT_ROWS_MAX,
    TIME,
    EncodedSegment,
    decode,
    encode,
    values_digest,
)
from tallygate_server.storage.plain_records import PlainSize, plain_size

RATIO_CEILING: Final = 0.60
"""Promised: cold bytes over those of Parquet with zstd level 3, geometric mean."""

SPEED_FLOOR: Final = 1.0
"""Promised: encoding and decoding at least as fast as Parquet."""

PARQUET_LEVEL: Final = 3
ENVELOPE_BYTES: Final = 64
"""What encryption and naming add to a stored object, at most."""

TURNS_DEFAULT: Final = 31
TURNS_OF_FULL_SEGMENTS: Final = 7

_SQL_TYPES: Final = {
    pa.int64(): "bigint",
    pa.float64(): "double precision",
    pa.string(): "text",
    pa.bool_(): "boolean",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Bytes of the same records in each form."""

    csv_bytes: int
    postgres_heap_bytes: int
    postgres_index_bytes: int
    parquet_bytes: int
    parquet_best_bytes: int
    cold_bytes: int

    @property
    def postgres_bytes(self) -> int:
        """Table and index."""
        return self.postgres_heap_bytes + self.postgres_index_bytes

    @property
    def ratio(self) -> float:
        """Cold bytes over those of Parquet."""
        return self.cold_bytes / self.parquet_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """Million bytes a second, of the records' Arrow form, on one thread but for the one that says otherwise."""

    encode_mb_per_s: float
    decode_mb_per_s: float
    parquet_encode_mb_per_s: float
    parquet_decode_mb_per_s: float
    parquet_decode_all_threads_mb_per_s: float

    @property
    def encode_ratio(self) -> float:
        """How many times as fast as Parquet."""
        return self.encode_mb_per_s / self.parquet_encode_mb_per_s

    @property
    def decode_ratio(self) -> float:
        """How many times as fast as Parquet, which uses one thread or all, whichever is faster."""
        return self.decode_mb_per_s / max(self.parquet_decode_mb_per_s, self.parquet_decode_all_threads_mb_per_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """One file's records."""

    name: str
    rows: int
    columns: int
    identical: bool
    sizes: Sizes
    speeds: Speeds
    full_segment: Speeds
    """The same records again and again, up to a whole segment."""

    codecs: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecReport:
    """What was measured."""

    level: int
    files: Sequence[FileReport]

    @property
    def ratio(self) -> float:
        """Geometric mean of cold bytes over those of Parquet."""
        return geometric_mean(file.sizes.ratio for file in self.files)

    @property
    def encode_ratio(self) -> float:
        """Geometric mean of how many times as fast as Parquet it encodes."""
        return geometric_mean(file.speeds.encode_ratio for file in self.files)

    @property
    def decode_ratio(self) -> float:
        """Geometric mean of how many times as fast as Parquet it decodes."""
        return geometric_mean(file.speeds.decode_ratio for file in self.files)

    @property
    def identical(self) -> bool:
        """Whether every value came back to the bit."""
        return all(file.identical for file in self.files)

    @property
    def holds(self) -> bool:
        """Whether all promises are kept."""
        return (
            self.identical and self.ratio <= RATIO_CEILING and min(self.encode_ratio, self.decode_ratio) >= SPEED_FLOOR
        )

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "level": self.level,
            "ratio_to_parquet": self.ratio,
            "encode_speed_to_parquet": self.encode_ratio,
            "decode_speed_to_parquet": self.decode_ratio,
            "identical": self.identical,
            "holds": self.holds,
            "files": [
                asdict(file)
                | {
                    "ratio_to_parquet": file.sizes.ratio,
                    "encode_speed_to_parquet": file.speeds.encode_ratio,
                    "decode_speed_to_parquet": file.speeds.decode_ratio,
                }
                for file in self.files
            ],
        }


def geometric_mean(values: Iterable[float]) -> float:
    """Return the number whose logarithm is the mean of the logarithms."""
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms))


async def run_codec_benchmark(
    files: Sequence[Path],
    *,
    level: int = LEVEL_DEFAULT,
    turns: int = TURNS_DEFAULT,
    parent_dir: Path | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> CodecReport:
    """Measure files of records, or made-up records where there are none.

    Starts a private Postgres in a directory that is thrown away. Raises NoRecords or SetupError.
    """
    tables = {file.name: read_records(file) for file in files} or made_up()
    csv_bytes = {file.name: file.stat().st_size for file in files}
    return await measure_codec(
        tables, csv_bytes, open_database=lambda: _private_database(parent_dir), level=level, turns=turns, note=note
    )


@contextlib.asynccontextmanager
async def _private_database(parent_dir: Path | None) -> AsyncIterator[str]:
    with tempfile.TemporaryDirectory(prefix="tallygate-bench-", dir=parent_dir) as directory:
        # Root's stores run as somebody else, who must be able to pass.
        Path(directory).chmod(0o711)
        async with EmbeddedServers.start(data_dir=Path(directory) / "data", with_redis=False) as servers:
            yield servers.database_url


async def measure_codec(
    tables: Mapping[str, pa.Table],
    csv_bytes: Mapping[str, int],
    *,
    open_database: Callable[[], contextlib.AbstractAsyncContextManager[str]],
    level: int = LEVEL_DEFAULT,
    turns: int = TURNS_DEFAULT,
    note: Callable[[str], None] = lambda _: None,
) -> CodecReport:
    """Measure tables; those without bytes of a CSV file are written as CSV."""
    # Measured before Postgres is there, which has work of its own after it starts.
    measured: dict[str, _Measured] = {}
    for name, records in tables.items():
        note(f"measuring {name}")
        measured[name] = _measure(records, level, turns)
    reports = []
    note("starting Postgres")
    async with open_database() as database_url:
        for name, records in tables.items():
            note(f"copying {name} into Postgres")
            plain = await _plain_size(database_url, records)
            reports.append(_report(name, records, measured[name], plain, csv_bytes.get(name)))
    return CodecReport(level=level, files=reports)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    segments: Sequence[EncodedSegment]
    parquet_bytes: int
    parquet_best_bytes: int
    identical: bool
    speeds: Speeds
    full_segment: Speeds


def _measure(records: pa.Table, level: int, turns: int) -> _Measured:
    segments = _encode(records, level)
    parquet = parquet_of(records)
    digest = values_digest(records)
    return _Measured(
        segments=segments,
        parquet_bytes=len(parquet),
        parquet_best_bytes=len(best_parquet_of(records)),
        identical=values_digest(_decode(segments)) == digest
        and values_digest(_read_parquet(parquet, use_threads=False)) == digest,
        speeds=_speeds(records, level, turns),
        full_segment=_speeds(repeated(records, SEGMENT_ROWS_MAX), level, min(turns, TURNS_OF_FULL_SEGMENTS)),
    )


def _encode(records: pa.Table, level: int) -> list[EncodedSegment]:
    return [
        encode(records.slice(start, SEGMENT_ROWS_MAX), level=level)
        for start in range(0, records.num_rows, SEGMENT_ROWS_MAX)
    ]


def _decode(segments: Sequence[EncodedSegment]) -> pa.Table:
    return pa.concat_tables([decode(segment.payload) for segment in segments])


def _speeds(records: pa.Table, level: int, turns: int) -> Speeds:
    segments, parquet = _encode(records, level), parquet_of(records)
    works: dict[str, Callable[[], object]] = {
        "encode_mb_per_s": lambda: _encode(records, level),
        "parquet_encode_mb_per_s": lambda: parquet_of(records),
        "decode_mb_per_s": lambda: _decode(segments),
        "parquet_decode_mb_per_s": lambda: _read_parquet(parquet, use_threads=False),
        "parquet_decode_all_threads_mb_per_s": lambda: _read_parquet(parquet, use_threads=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    gc.collect()
    for turn in range(turns):
        # Forwards and backwards, so that none always runs in the wake of the same other one.
        for name in works if turn % 2 == 0 else reversed(works):
            began_s = time.perf_counter()
            works[name]()
            seconds[name].append(time.perf_counter() - began_s)
    return Speeds(**{name: records.nbytes / median(times) / 1e6 for name, times in seconds.items()})


def parquet_of(records: pa.Table) -> bytes:
    """Return records as a Parquet file: zstd level 3, and everything else as pyarrow does it."""
    sink = io.BytesIO()
    pq.write_table(records, sink, compression="zstd", compression_level=PARQUET_LEVEL)
    return sink.getvalue()


def best_parquet_of(records: pa.Table) -> bytes:
    """Return the smallest Parquet file that tuning reaches: the best encoding for each column, zstd level 9."""
    best: dict[str, tuple[int, str | None]] = {}
    for encoding in (None, "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT", "DELTA_BYTE_ARRAY", "PLAIN"):
        for field in records.schema:
            try:
                size = len(_tuned(records.select([field.name]), {field.name: encoding}))
            except (pa.ArrowException, OSError):
                # Not an encoding for this type.
                continue
            if field.name not in best or size < best[field.name][0]:
                best[field.name] = size, encoding
    return _tuned(records, {name: encoding for name, (_, encoding) in best.items()})


def _tuned(records: pa.Table, encodings: Mapping[str, str | None]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(
        records,
        sink,
        compression="zstd",
        compression_level=9,
        use_dictionary=[name for name, encoding in encodings.items() if encoding is None],
        column_encoding={name: encoding for name, encoding in encodings.items() if encoding is not None} or None,
        write_statistics=False,
        store_schema=False,
    )
    return sink.getvalue()


def _read_parquet(content: bytes, *, use_threads: bool) -> pa.Table:
    return pq.read_table(pa.BufferReader(content), use_threads=use_threads)


async def _plain_size(database_url: str, records: pa.Table) -> PlainSize:
    values = {field.name: _SQL_TYPES.get(field.type, "timestamptz") for field in records.schema if field.name != TIME}
    lists = [records.column(name).to_pylist() for name in (TIME, *values)]
    distinct = pc.count_distinct(records.column(TIME)).as_py() == records.num_rows
    return await plain_size(database_url, values, zip(*lists, strict=True), times_distinct=distinct)


def _report(name: str, records: pa.Table, measured: _Measured, plain: PlainSize, csv_bytes: int | None) -> FileReport:
    if csv_bytes is None:
        sink = io.BytesIO()
        pa_csv.write_csv(records, sink)
        csv_bytes = len(sink.getvalue())
    return FileReport(
        name=name,
        rows=records.num_rows,
        columns=records.num_columns,
        identical=measured.identical,
        sizes=Sizes(
            csv_bytes=csv_bytes,
            postgres_heap_bytes=plain.heap_bytes,
            postgres_index_bytes=plain.index_bytes,
            parquet_bytes=measured.parquet_bytes,
            parquet_best_bytes=measured.parquet_best_bytes,
            cold_bytes=sum(len(segment.payload) + ENVELOPE_BYTES for segment in measured.segments),
        ),
        speeds=measured.speeds,
        full_segment=measured.full_segment,
        codecs=measured.segments[0].codecs,
    )
