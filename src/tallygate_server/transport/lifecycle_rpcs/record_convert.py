"""Messages of records, datasets and segments, to and from what the use cases take and tell.

Conversions of whole batches take a while: callers run them in threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
from google.protobuf import json_format, struct_pb2
from google.protobuf.message import Message

from tallygate.v1 import data_lifecycle_pb2 as messages
from tallygate.v1 import data_lifecycle_service_pb2 as wire
from tallygate.v1 import period_pb2
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import (
    ColumnType,
    CompressionForm,
    DataColumn,
    DatasetShape,
    Segment,
    SegmentState,
    StorageTier,
)
from tallygate_server.errors import InvalidRequest
from tallygate_server.lifecycle.columnar import TIME
from tallygate_server.lifecycle.records import (
    ColumnDefinition,
    ColumnRecords,
    DatasetView,
    NewRecords,
    PlainRecords,
    RecordQuery,
    RecordsGap,
    RecordsHeader,
    RecordsPut,
    RecordsTotals,
)
from tallygate_server.lifecycle.records.arrow_stream import read_arrow
from tallygate_server.lifecycle.records.batches import ARROW_TYPE, time_array
from tallygate_server.lifecycle.records.merge import slices
from tallygate_server.lifecycle.records.schema import DOCUMENT
from tallygate_server.lifecycle.records.writing import RECORD_ID
from tallygate_server.transport import convert

SHAPE: Final = convert.api_enum(DatasetShape, messages.DatasetShape, "DATASET_SHAPE")
COLUMN_TYPE: Final = convert.api_enum(ColumnType, messages.ColumnType, "COLUMN_TYPE")
TIER: Final = convert.api_enum(StorageTier, messages.StorageTier, "STORAGE_TIER")
FORM: Final = convert.api_enum(CompressionForm, messages.CompressionForm, "COMPRESSION_FORM")
STATE: Final = convert.api_enum(SegmentState, messages.SegmentState, "SEGMENT_STATE")

RECORDS_PER_MESSAGE_MAX: Final = 1_000
ROWS_PER_MESSAGE_MAX: Final = 10_000
MESSAGE_BYTES_MAX: Final = 2**20
"""What a message of records should not exceed; one record alone may."""

_Batch = TypeVar("_Batch", bound=Message)

_NANOS_PER_SECOND: Final = 1_000_000_000
_MICROS_PER_SECOND: Final = 1_000_000
_INSTANT: Final = pa.timestamp("us", tz="UTC")
_SETTER: Final = {
    pa.int64(): "number_value",
    pa.float64(): "number_value",
    pa.string(): "string_value",
    pa.bool_(): "bool_value",
    _INSTANT: "string_value",
}
_COLUMN_FIELD: Final = {
    pa.int64(): "int64_values",
    pa.float64(): "double_values",
    pa.string(): "string_values",
    pa.bool_(): "bool_values",
    _INSTANT: "int64_values",
}
_FILLER: Final = {
    pa.int64(): pa.scalar(0, pa.int64()),
    pa.float64(): pa.scalar(0.0, pa.float64()),
    pa.string(): pa.scalar("", pa.string()),
    pa.bool_(): pa.scalar(value=False, type=pa.bool_()),
}

# --- Putting ----------------------------------------------------------------------------------------------------


def from_api_records(request: wire.PutRecordsRequest) -> NewRecords:
    """Convert what is to be put. Raises InvalidRequest."""
    kind = request.WhichOneof("batch")
    batch: PlainRecords | ColumnRecords
    if kind == "records":
        batch = _plain_records(request.records)
    elif kind == "columns":
        batch = _column_records(request.columns)
    else:
        batch = read_arrow(request.arrow_stream)
    return NewRecords(
        tenant_id=TenantId(request.tenant_id),
        account_id=AccountId(request.account_id),
        data_type=request.data_type,
        batch=batch,
        shape=DatasetShape(request.shape) if request.shape else None,
        definitions=[_definition(column) for column in request.column_definitions],
        request_id=request.request_id,
        content=request.SerializeToString(deterministic=True) if request.request_id else b"",
        source=request.source,
    )


def _definition(column: messages.DataColumn) -> ColumnDefinition:
    return ColumnDefinition(
        name=column.name,
        type=ColumnType(column.type) if column.type else None,
        unit=column.unit,
        min_valid=column.min_valid if column.HasField("min_valid") else None,
        max_valid=column.max_valid if column.HasField("max_valid") else None,
        nullable=column.nullable,
    )


def _plain_records(batch: messages.RecordBatch) -> PlainRecords:
    times: list[int | None] = []
    values: list[dict[str, Any]] = []
    record_ids: list[str] = []
    for index, record in enumerate(batch.records):
        if record.HasField("time"):
            time = record.time
            if not 0 <= time.nanos < _NANOS_PER_SECOND:
                raise InvalidRequest.of(f"records.records[{index}].time", "is not an instant")
            times.append(time.seconds * _MICROS_PER_SECOND + time.nanos // 1_000)
        else:
            times.append(None)
        values.append(_object(record.values))
        record_ids.append(record.record_id)
    return PlainRecords(times_us=times, values=values, record_ids=record_ids)


def _object(struct: struct_pb2.Struct) -> dict[str, Any]:
    return {name: _value(value) for name, value in struct.fields.items()}


def _value(value: struct_pb2.Value) -> Any:
    """Convert a JSON value; numbers stay doubles."""
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        return value.number_value
    if kind == "string_value":
        return value.string_value
    if kind == "bool_value":
        return value.bool_value
    if kind == "struct_value":
        return _object(value.struct_value)
    if kind == "list_value":
        return [_value(item) for item in value.list_value.values]
    return None


def _column_records(batch: messages.ColumnBatch) -> ColumnRecords:
    count = len(batch.time_micros)
    columns = {TIME: time_array(np.fromiter(batch.time_micros, np.int64, count))}
    for index, column in enumerate(batch.columns):
        path = f"columns.columns[{index}]"
        if column.name in columns:
            whose = "the times" if column.name == TIME else "another column"
            raise InvalidRequest.of(f"{path}.name", f"{column.name!r} is the name of {whose}")
        columns[column.name] = _column_values(column, count, path)
    return ColumnRecords(table=pa.table(columns), field="columns", whole_times=True)


def _column_values(column: messages.ColumnValues, count: int, path: str) -> pa.Array:
    kind = column.WhichOneof("values")
    assert kind is not None, "the declared rules demand it"
    values = getattr(column, kind).values
    if len(values) != count:
        raise InvalidRequest.of(f"{path}.{kind}.values", f"there are {count} times and {len(values)} values")
    missing: Any = None
    if column.null_positions:
        positions = np.fromiter(column.null_positions, np.int64, len(column.null_positions))
        if positions.max() >= count:
            raise InvalidRequest.of(f"{path}.null_positions", f"{positions.max()} is no position of {count} records")
        missing = np.zeros(count, bool)
        missing[positions] = True
    if kind == "int64_values":
        return pa.array(np.fromiter(values, np.int64, count), mask=missing)
    if kind == "double_values":
        return pa.array(np.fromiter(values, np.float64, count), mask=missing, from_pandas=False)
    if kind == "bool_values":
        return pa.array(np.fromiter(values, np.bool_, count), mask=missing)
    return pa.array(np.array(values, object), pa.string(), mask=missing, from_pandas=False)


def to_api_put(put: RecordsPut) -> wire.PutRecordsResponse:
    """Convert what became of records."""
    return wire.PutRecordsResponse(
        dataset=to_api_dataset(put.dataset),
        record_count=put.record_count,
        replaced_count=put.replaced_count,
        quality=json_format.ParseDict(dict(put.quality), messages.DataQuality()),
        replayed=put.replayed,
    )


# --- Datasets and segments --------------------------------------------------------------------------------------


def to_api_dataset(view: DatasetView) -> messages.Dataset:
    """Convert a dataset."""
    return messages.Dataset(
        dataset_id=view.dataset_id,
        tenant_id=view.tenant_id,
        account_id=view.account_id,
        data_type=view.data_type,
        shape=SHAPE[view.shape],
        columns=[to_api_column(column) for column in view.columns],
        record_count=view.record_count,
        span=to_api_span(view.start_time, view.end_time) if view.start_time and view.end_time else None,
        tiers=[
            messages.TierUsage(
                tier=TIER[tier.tier],
                record_count=tier.record_count,
                stored_bytes=tier.stored_bytes,
                original_bytes=tier.original_bytes,
                segment_count=tier.segment_count,
            )
            for tier in view.tiers
        ],
        quality_score=view.quality_score,
        create_time=convert.to_api_instant(view.create_time),
        update_time=convert.to_api_instant(view.update_time),
        access_time=convert.to_api_optional_instant(view.access_time),
    )


def to_api_column(column: DataColumn) -> messages.DataColumn:
    """Convert a column."""
    return messages.DataColumn(
        name=column.name,
        type=COLUMN_TYPE[column.type],
        unit=column.unit,
        min_valid=column.min_valid,
        max_valid=column.max_valid,
        nullable=column.nullable,
    )


def to_api_segment(segment: Segment) -> messages.DataSegment:
    """Convert a segment."""
    return messages.DataSegment(
        segment_id=segment.segment_id,
        dataset_id=segment.dataset_id,
        account_id=segment.account_id,
        data_type=segment.data_type,
        tier=TIER[segment.tier],
        form=FORM[segment.form],
        span=to_api_span(segment.start_time, segment.end_time),
        record_count=segment.record_count,
        stored_bytes=segment.stored_bytes,
        original_bytes=segment.original_bytes,
        checksum_sha256=segment.checksum.hex(),
        state=STATE[segment.state],
        encrypted=True,
        codecs=dict(segment.codecs),
        create_time=convert.to_api_instant(segment.create_time),
        retention_end_time=convert.to_api_optional_instant(segment.retention_end_time),
    )


def to_api_span(start_time: datetime, end_time: datetime) -> period_pb2.Period:
    """Convert a span of time."""
    return period_pb2.Period(start_time=convert.to_api_instant(start_time), end_time=convert.to_api_instant(end_time))


def _optional_time(message: Message, name: str, path: str = "") -> datetime | None:
    if not message.HasField(name):
        return None
    return convert.from_api_time(getattr(message, name), path + name)


# --- Querying ---------------------------------------------------------------------------------------------------


def from_api_query(request: wire.QueryRecordsRequest) -> RecordQuery:
    """Convert which records are wanted. Raises InvalidRequest."""
    return RecordQuery(
        tenant_id=TenantId(request.tenant_id),
        account_id=AccountId(request.account_id),
        data_type=request.data_type,
        start_time=_optional_time(request, "start_time"),
        end_time=_optional_time(request, "end_time"),
        columns=tuple(request.columns),
        record_count_max=request.record_count_max,
        with_record_ids=request.format in {wire.RECORD_FORMAT_UNSPECIFIED, wire.RECORD_FORMAT_RECORDS},
        allow_approximation=request.allow_approximation,
    )


def to_api_header(header: RecordsHeader) -> wire.QueryRecordsResponse:
    """Convert how exact an answer is."""
    return wire.QueryRecordsResponse(
        header=wire.RecordsHeader(
            dataset=to_api_dataset(header.dataset),
            columns=[to_api_column(column) for column in header.columns],
            gaps=[to_api_gap(gap) for gap in header.gaps],
            visible_start_time=convert.to_api_optional_instant(header.visible_start_time),
        )
    )


def to_api_gap(gap: RecordsGap) -> wire.RecordsGap:
    """Convert a part that is not given exactly."""
    return wire.RecordsGap(
        span=to_api_span(gap.start_time, gap.end_time),
        kind=gap.kind,
        max_errors=gap.max_errors,
        explanation=gap.explanation,
    )


def to_api_totals(totals: RecordsTotals) -> wire.QueryRecordsResponse:
    """Convert the sums of an answer."""
    return wire.QueryRecordsResponse(
        totals=wire.RecordsTotals(
            record_count=totals.record_count, segment_count=totals.segment_count, read_bytes=totals.read_bytes
        )
    )


def answers_of(header: RecordsHeader, record_format: int) -> RecordAnswers:
    """Begin the answer that a header is of."""
    documents = header.dataset.shape is DatasetShape.DOCUMENTS
    fields = [(TIME, _INSTANT), *((column.name, ARROW_TYPE[column.type]) for column in header.columns)]
    if documents:
        fields.append((DOCUMENT, pa.string()))
    return RecordAnswers(record_format, documents=documents, schema=pa.schema(fields))


class RecordAnswers:
    """Makes messages of tables, in the format that was asked for."""

    def __init__(self, record_format: int, *, documents: bool, schema: pa.Schema | None = None) -> None:
        """Begin an answer; with a schema an Arrow stream is one even without a record."""
        self._arrow = _ArrowPieces(schema) if record_format == wire.RECORD_FORMAT_ARROW else None
        self._columns = record_format == wire.RECORD_FORMAT_COLUMNS
        self._documents = documents

    def messages(self, table: pa.Table) -> list[wire.QueryRecordsResponse]:
        """Return a table as messages."""
        if self._arrow is not None:
            return [wire.QueryRecordsResponse(arrow_stream=piece) for piece in self._arrow.pieces(table)]
        if self._columns:
            return [
                wire.QueryRecordsResponse(columns=batch)
                for part in slices(table, ROWS_PER_MESSAGE_MAX)
                for batch in _small_enough(_column_batch, part)
            ]
        make = _document_batch if self._documents else _record_batch
        return [
            wire.QueryRecordsResponse(records=batch)
            for part in slices(table, RECORDS_PER_MESSAGE_MAX)
            for batch in _small_enough(make, part)
        ]

    def rest(self) -> list[wire.QueryRecordsResponse]:
        """Return what ends the records."""
        if self._arrow is None:
            return []
        return [wire.QueryRecordsResponse(arrow_stream=piece) for piece in self._arrow.end()]


class _ArrowPieces:
    """An Arrow IPC stream, a piece at a time; the schema comes with the first piece."""

    def __init__(self, schema: pa.Schema | None) -> None:
        self._sink = _Sink()
        self._writer = pa.ipc.new_stream(self._sink, schema) if schema is not None else None

    def pieces(self, table: pa.Table) -> list[bytes]:
        """Return the bytes of a table."""
        if self._writer is None:
            self._writer = pa.ipc.new_stream(self._sink, table.schema)
        rows_max = max(1, table.num_rows * MESSAGE_BYTES_MAX // max(1, table.nbytes))
        self._writer.write_table(table.combine_chunks(), max_chunksize=rows_max)
        return self._sink.cut()

    def end(self) -> list[bytes]:
        """Return the bytes that end the stream; none where there was neither a schema nor a record."""
        if self._writer is None:
            return []
        self._writer.close()
        return self._sink.cut()


class _Sink:
    """A file that gives away what is written to it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.closed = False

    def write(self, content: Any) -> int:
        """Keep bytes."""
        part = bytes(content)
        self._parts.append(part)
        return len(part)

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def close(self) -> None:
        """Take no more."""
        self.closed = True

    def cut(self) -> list[bytes]:
        """Return what was written since, in pieces that fit into messages."""
        content = b"".join(self._parts)
        self._parts.clear()
        return [content[start : start + MESSAGE_BYTES_MAX] for start in range(0, len(content), MESSAGE_BYTES_MAX)]


def _small_enough(make: Callable[[pa.Table], _Batch], table: pa.Table) -> Iterator[_Batch]:
    """Yield messages of a table, halved until each fits."""
    batch = make(table)
    if table.num_rows <= 1 or batch.ByteSize() <= MESSAGE_BYTES_MAX:
        yield batch
        return
    half = table.num_rows // 2
    yield from _small_enough(make, table.slice(0, half))
    yield from _small_enough(make, table.slice(half))


def _record_batch(table: pa.Table) -> messages.RecordBatch:
    batch = messages.RecordBatch()
    columns = [
        (name, _SETTER[column.type], _scalars(column))
        for name, column in zip(table.column_names, table.columns, strict=True)
        if name not in {TIME, RECORD_ID}
    ]
    for row, record in enumerate(_records_with_times(batch, table)):
        fields = record.values.fields
        for name, setter, values in columns:
            value = values[row]
            if value is None:
                fields[name].null_value = struct_pb2.NULL_VALUE
            else:
                setattr(fields[name], setter, value)
    return batch


def _document_batch(table: pa.Table) -> messages.RecordBatch:
    batch = messages.RecordBatch()
    documents = table.column(DOCUMENT).to_pylist()
    for document, record in zip(documents, _records_with_times(batch, table), strict=True):
        json_format.Parse(document, record.values)
    return batch


def _records_with_times(batch: messages.RecordBatch, table: pa.Table) -> Iterator[messages.Record]:
    for micros, record_id in zip(_micros(table), _ids(table), strict=True):
        record = batch.records.add(record_id=record_id)
        record.time.seconds, below = divmod(micros, _MICROS_PER_SECOND)
        record.time.nanos = below * 1_000
        # Also for a record without a single value.
        record.values.SetInParent()
        yield record


def _column_batch(table: pa.Table) -> messages.ColumnBatch:
    batch = messages.ColumnBatch(time_micros=_micros(table))
    for name, column in zip(table.column_names, table.columns, strict=True):
        if name == TIME:
            continue
        values = batch.columns.add(name=name)
        target = getattr(values, _COLUMN_FIELD[column.type])
        # Also where it is empty: it tells the type.
        target.SetInParent()
        plain = column.cast(pa.int64()) if column.type == _INSTANT else column
        if plain.null_count:
            values.null_positions.extend(np.flatnonzero(plain.is_null().to_numpy()).tolist())
            plain = plain.fill_null(_FILLER[plain.type])
        target.values.extend(plain.to_pylist())
    return batch


def _scalars(column: pa.ChunkedArray) -> Sequence[Any]:
    values: list[Any] = column.to_pylist()
    if column.type == _INSTANT:
        return [None if value is None else value.isoformat().replace("+00:00", "Z") for value in values]
    return values


def _micros(table: pa.Table) -> list[int]:
    micros: list[int] = table.column(TIME).cast(pa.int64()).to_pylist()
    return micros


def _ids(table: pa.Table) -> list[str]:
    if RECORD_ID not in table.column_names:
        return [""] * table.num_rows
    return [record_id or "" for record_id in table.column(RECORD_ID).to_pylist()]
