"""Files of records: CSV, Parquet and Arrow as batches of Arrow, JSON Lines as records one by one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from tallygate_server.cli.explanations import CommandError

if TYPE_CHECKING:
    import pyarrow as pa

    from tallygate.v1 import data_lifecycle_pb2

TIME: Final = "time"
RECORD_ID: Final = "record_id"
JSON_LINES: Final = frozenset({".jsonl", ".ndjson"})
TABLES: Final = frozenset({".csv", ".parquet", ".arrow", ".arrows"})
BATCH_ROWS_MAX: Final = 50_000
BATCH_BYTES_MAX: Final = 3_000_000
"""Of a call, which may take 4 MiB."""
RECORDS_MAX: Final = 5_000


def digest_of(file: Path) -> str:
    """Return what tells this content from all others, short enough for a request id."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:32]


def arrow_streams(file: Path, *, time_column: str) -> Iterator[tuple[bytes, int]]:
    """Yield Arrow IPC streams that fit into a call, each with its number of records."""
    import pyarrow as pa

    for batch in _batches(file):
        table = _with_time(pa.Table.from_batches([batch]), time_column, file)
        yield from _streams(table)


def _batches(file: Path) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    suffix = file.suffix.lower()
    try:
        if suffix == ".csv":
            yield from pyarrow.csv.open_csv(file)
        elif suffix == ".parquet":
            with pyarrow.parquet.ParquetFile(file) as parquet:
                yield from parquet.iter_batches(BATCH_ROWS_MAX)
        else:
            with pa.OSFile(str(file)) as source, pa.ipc.open_stream(source) as reader:
                yield from reader
    except pa.ArrowException as error:
        raise CommandError(f"{file}: cannot be read: {error}") from None


def _with_time(table: pa.Table, time_column: str, file: Path) -> pa.Table:
    import pyarrow as pa

    if time_column not in table.column_names:
        raise CommandError(f"{file}: has no column {time_column!r}; name the one of the times with --time-column")
    table = table.rename_columns([TIME if name == time_column else name for name in table.column_names])
    place, times = table.column_names.index(TIME), table.column(TIME)
    if not pa.types.is_timestamp(times.type):
        try:
            times = times.cast(pa.timestamp("us"))
        except pa.ArrowException:
            raise CommandError(f"{file}: column {time_column!r} holds {times.type}, not instants") from None
        table = table.set_column(place, TIME, times)
    return table


def _streams(table: pa.Table) -> Iterator[tuple[bytes, int]]:
    """Yield a table as streams, halved until each fits."""
    import pyarrow as pa

    for start in range(0, table.num_rows, BATCH_ROWS_MAX):
        part = table.slice(start, BATCH_ROWS_MAX).combine_chunks()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, part.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(part)
        stream = sink.getvalue().to_pybytes()
        if len(stream) <= BATCH_BYTES_MAX or part.num_rows == 1:
            yield stream, part.num_rows
        else:
            half = part.num_rows // 2
            yield from _streams(part.slice(0, half))
            yield from _streams(part.slice(half))


def record_batches(file: Path, *, time_column: str) -> Iterator[data_lifecycle_pb2.RecordBatch]:
    """Yield the records of JSON Lines in messages that fit into a call.

    Each line is an object: its time under the name of the time column, its id under `record_id`, values under the rest.
    """
    from tallygate.v1 import data_lifecycle_pb2 as messages

    batch = messages.RecordBatch()
    size = 0
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            record = _record(line, time_column, f"{file}, line {number}")
            size += record.ByteSize() + 8
            if batch.records and (len(batch.records) >= RECORDS_MAX or size > BATCH_BYTES_MAX):
                yield batch
                batch, size = messages.RecordBatch(), record.ByteSize() + 8
            batch.records.append(record)
    if batch.records:
        yield batch


def _record(line: str, time_column: str, place: str) -> data_lifecycle_pb2.Record:
    from google.protobuf import json_format

    from tallygate.v1 import data_lifecycle_pb2 as messages

    try:
        values: Any = json.loads(line)
        if not isinstance(values, dict):
            raise CommandError(f"{place}: is no JSON object")
        told = {"time": values.pop(time_column, None), "record_id": values.pop(RECORD_ID, ""), "values": values}
        return json_format.ParseDict(told, messages.Record())
    except (ValueError, json_format.ParseError) as error:
        raise CommandError(f"{place}: {error}") from None


@contextmanager
def written(file: Path) -> Iterator[BinaryIO]:
    """Take JSON Lines, or an Arrow IPC stream, and make of it the file that its name promises.

    The file is there when everything has been taken; an answer that fails leaves the one before untouched.
    """
    part = file.with_name(f"{file.name}.part")
    try:
        with part.open("wb") as taken:
            yield taken
        if file.suffix.lower() in {".csv", ".parquet"}:
            _convert(part, file)
        else:
            part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _convert(stream: Path, file: Path) -> None:
    """Write the records of an Arrow IPC stream as CSV or Parquet, a batch at a time."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    with pa.OSFile(str(stream)) as source, pa.ipc.open_stream(source) as reader:
        writing = pyarrow.csv.CSVWriter if file.suffix.lower() == ".csv" else pyarrow.parquet.ParquetWriter
        with writing(str(file), reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
