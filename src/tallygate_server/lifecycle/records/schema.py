"""The schema of a dataset: learned from its first batch, enforced afterwards. Pure.

A later batch may lack columns, whose values are then missing; it may bring no new ones and no other types, because a
silent change of meaning spoils more than a refused call. Whoever means it names the new column in the definitions.
Nothing is converted that would change a value: whole numbers go into a column of doubles when they are exact there, and
the doubles of JSON into a column of whole numbers when they are whole.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tallygate_server.domain.lifecycle import ColumnType, DataColumn, Dataset, DatasetShape
from tallygate_server.errors import FieldViolation, InvalidRequest, SchemaDrift
from tallygate_server.lifecycle.columnar import TIME, TIME_TYPE
from tallygate_server.lifecycle.records.batches import (
    ARROW_TYPE,
    COLUMN_TYPE,
    COLUMNS_MAX,
    Batch,
    ColumnRecords,
    PlainRecords,
    check_texts,
    check_times,
    time_array,
)

DOCUMENT: Final = "document"
EXACT_DOUBLE_MAX: Final = 2**53
"""Up to here every whole number is a double."""
COLUMN_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")

_NUMERIC: Final = {ColumnType.INT64, ColumnType.DOUBLE}
_JSON_TYPE: Final = {bool: "bool", float: "double", str: "string", list: "list", dict: "document"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnDefinition:
    """What a caller says of a column; what is absent is learned, or stays as it is."""

    name: str
    type: ColumnType | None = None
    unit: str = ""
    min_valid: float | None = None
    max_valid: float | None = None
    nullable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Conformed:
    """A batch as its dataset holds it, in the order in which it came."""

    shape: DatasetShape
    columns: tuple[DataColumn, ...]
    """Of the dataset, from now on."""
    table: pa.Table
    """`time` and the columns that the batch has, in the dataset's order; of documents `time` and `document`."""
    record_ids: Sequence[str]
    """One for each record, empty where it has none; empty when no record has one."""


@dataclass(frozen=True, slots=True)
class _Came:
    """A column of a batch."""

    values: pa.Array
    type_name: str
    """Of the values, for errors; empty when they tell none."""
    loose: bool = False
    """Came as JSON: numbers are doubles, instants are texts."""
    whole_times: bool = False

    @property
    def empty(self) -> bool:
        """Tell whether every value is missing."""
        return bool(self.values.null_count == len(self.values))


class _MisfitError(Exception):
    """The values do not fit the column's type."""


def conform(
    batch: Batch,
    dataset: Dataset | None,
    *,
    shape: DatasetShape | None = None,
    definitions: Sequence[ColumnDefinition] = (),
    now: datetime,
) -> Conformed:
    """Return the batch as its dataset holds it, and the dataset's schema afterwards.

    `now` is the time of documents without one. Raises InvalidRequest, and SchemaDrift where the batch does not fit a
    dataset that is there.
    """
    _check_definitions(definitions)
    if dataset is not None and shape is not None and shape is not dataset.shape:
        raise _drift(
            dataset,
            "",
            dataset.shape.name.lower(),
            shape.name.lower(),
            f"holds {_plural(dataset.shape)}, not {_plural(shape)}; put these under another data type",
        )
    decided = dataset.shape if dataset is not None else shape or _learned_shape(batch)
    if decided is DatasetShape.DOCUMENTS:
        return _documents(batch, dataset, definitions, now)
    return _series(batch, dataset, definitions)


def canonical_json(document: Mapping[str, Any]) -> str:
    """Return a document as text: keys sorted, no spaces, whole numbers without a point. Raises ValueError."""
    plain = {key: _plain(value) for key, value in document.items()}
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


# --- Documents --------------------------------------------------------------------------------------------------


def _documents(
    batch: Batch, dataset: Dataset | None, definitions: Sequence[ColumnDefinition], now: datetime
) -> Conformed:
    if definitions:
        raise InvalidRequest.of("column_definitions", "documents have no columns")
    if isinstance(batch, ColumnRecords):
        if dataset is not None:
            why = "holds documents, which come one by one; put columns under another data type"
            raise _drift(dataset, "", "documents", "columns", why)
        raise InvalidRequest.of("shape", "documents come one by one, in `records`")
    now_us = round(now.timestamp() * 1_000_000)
    texts = []
    for index, values in enumerate(batch.values):
        try:
            texts.append(canonical_json(values))
        except ValueError:
            raise InvalidRequest.of(f"records.records[{index}].values", "has a number that is not finite") from None
    times = time_array([now_us if time is None else time for time in batch.times_us])
    return Conformed(
        shape=DatasetShape.DOCUMENTS,
        columns=(),
        table=pa.table({TIME: times, DOCUMENT: pa.array(texts, pa.string())}),
        record_ids=batch.record_ids if batch.has_record_ids else (),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


# --- Time series ------------------------------------------------------------------------------------------------


def _series(batch: Batch, dataset: Dataset | None, definitions: Sequence[ColumnDefinition]) -> Conformed:
    field = batch.field if isinstance(batch, ColumnRecords) else "records.records"
    if isinstance(batch, ColumnRecords):
        times, came = batch.table.column(TIME), _columns_of_table(batch)
        check_times(times, f"{field}.time_micros" if batch.whole_times else field, by_place=batch.whole_times)
    else:
        _check_every_time(batch)
        times, came = time_array(batch.times_us), _columns_of_records(batch, dataset)
    known = {column.name: column for column in dataset.columns} if dataset is not None else {}
    said = {definition.name: (index, definition) for index, definition in enumerate(definitions)}
    columns: dict[str, DataColumn] = {}
    arrays: dict[str, pa.Array] = {}
    for name in (*known, *(name for name in (*said, *came) if name not in known)):
        if name in columns:
            continue
        column = _column(name, known.get(name), said.get(name), came.get(name), dataset)
        if column is None:
            continue
        arrived = came.get(name)
        if arrived is not None:
            try:
                arrays[name] = _fitted(arrived, column.type)
            except _MisfitError:
                raise _misfit(dataset, name, column.type, arrived, said.get(name)) from None
        missing = arrived is None or arrays[name].null_count > 0
        columns[name] = replace(column, nullable=column.nullable or missing)
    if len(columns) > COLUMNS_MAX:
        raise InvalidRequest.of(field, f"a dataset has {COLUMNS_MAX} columns at most, not {len(columns)}")
    table = pa.table({TIME: times, **arrays})
    check_texts(table, field)
    return Conformed(
        shape=DatasetShape.TIME_SERIES,
        columns=tuple(columns.values()),
        table=table,
        record_ids=batch.record_ids if isinstance(batch, PlainRecords) and batch.has_record_ids else (),
    )


def _column(
    name: str,
    known: DataColumn | None,
    said: tuple[int, ColumnDefinition] | None,
    came: _Came | None,
    dataset: Dataset | None,
) -> DataColumn | None:
    """Return the column as it is from now on; None for one of which nothing is known."""
    definition = said[1] if said is not None else None
    if known is None:
        learned = None if came is None or not came.type_name else COLUMN_TYPE.get(came.values.type)
        if definition is None and dataset is not None and came is not None:
            if came.empty:
                # Nothing is lost with a column that has no value.
                return None
            raise _drift(
                dataset,
                name,
                "",
                came.type_name,
                f"has no column {name!r}; leave it out, or add it on purpose with `column_definitions`",
            )
        wanted = (definition.type if definition is not None else None) or learned
        if wanted is None:
            if definition is not None and said is not None:
                raise InvalidRequest.of(
                    f"column_definitions[{said[0]}].type", "must be set: the batch has no value to learn it from"
                )
            # All values are missing: nothing is known of the column, and nothing is lost.
            return None
        # What was put before this column was added has no value of it.
        known = DataColumn(name=name, type=wanted, nullable=dataset is not None)
    elif definition is not None and definition.type is not None and definition.type is not known.type:
        assert dataset is not None, "only a dataset has known columns"
        why = f"has column {name!r} as {_name(known.type)}; its type cannot change"
        raise _drift(dataset, name, _name(known.type), _name(definition.type), why)
    if definition is None:
        return known
    column = replace(
        known,
        unit=definition.unit or known.unit,
        min_valid=known.min_valid if definition.min_valid is None else definition.min_valid,
        max_valid=known.max_valid if definition.max_valid is None else definition.max_valid,
        nullable=known.nullable or definition.nullable,
    )
    assert said is not None, "the definition came from there"
    path = f"column_definitions[{said[0]}]"
    if column.type not in _NUMERIC and (column.min_valid is not None or column.max_valid is not None):
        raise InvalidRequest.of(f"{path}.min_valid", f"limits are for numbers, and {name!r} is {_name(column.type)}")
    if column.min_valid is not None and column.max_valid is not None and column.min_valid > column.max_valid:
        raise InvalidRequest.of(f"{path}.max_valid", f"is below the smallest valid value, {column.min_valid}")
    return column


def _fitted(came: _Came, wanted: ColumnType) -> pa.Array:
    """Return the values in the column's type, each unchanged; raises _MisfitError."""
    values, target = came.values, ARROW_TYPE[wanted]
    if values.type == target:
        return values
    if came.empty:
        return pa.nulls(len(values), target)
    if wanted is ColumnType.DOUBLE and values.type == pa.int64() and _exact_as_doubles(values):
        return values.cast(pa.float64(), safe=False)
    if wanted is ColumnType.INT64 and came.loose and values.type == pa.float64() and _whole(values):
        return values.cast(pa.int64())
    if wanted is ColumnType.TIMESTAMP and came.whole_times and values.type == pa.int64():
        return values.cast(TIME_TYPE)
    if wanted is ColumnType.TIMESTAMP and came.loose and values.type == pa.string():
        return _instants(values)
    raise _MisfitError


def _exact_as_doubles(values: pa.Array) -> bool:
    bounds = pc.min_max(values).as_py()
    if bounds["min"] >= -EXACT_DOUBLE_MAX and bounds["max"] <= EXACT_DOUBLE_MAX:
        return True
    return all(int(float(value)) == value for value in values.drop_null().to_pylist())


def _whole(values: pa.Array) -> bool:
    numbers = values.drop_null().to_numpy(zero_copy_only=False)
    return bool(np.all(np.abs(numbers) <= EXACT_DOUBLE_MAX) and np.all(np.floor(numbers) == numbers))


def _instants(texts: pa.Array) -> pa.Array:
    instants: list[datetime | None] = []
    for text in texts.to_pylist():
        if text is None:
            instants.append(None)
            continue
        try:
            instant = datetime.fromisoformat(text)
        except ValueError:
            raise _MisfitError from None
        if instant.tzinfo is None:
            raise _MisfitError
        instants.append(instant)
    try:
        return pa.array(instants, TIME_TYPE)
    except (pa.ArrowException, OverflowError):
        raise _MisfitError from None


# --- Columns of a batch -----------------------------------------------------------------------------------------


def _columns_of_table(batch: ColumnRecords) -> dict[str, _Came]:
    columns = {}
    for name in batch.table.column_names:
        if name == TIME:
            continue
        values = batch.table.column(name).combine_chunks()
        if isinstance(values, pa.ChunkedArray):
            values = values.chunk(0) if values.num_chunks else pa.array([], values.type)
        type_name = _name(COLUMN_TYPE[values.type]) if values.type in COLUMN_TYPE else ""
        columns[name] = _Came(values, type_name, whole_times=batch.whole_times)
    return columns


def _columns_of_records(batch: PlainRecords, dataset: Dataset | None) -> dict[str, _Came]:
    count = len(batch)
    lists: dict[str, list[Any]] = {}
    for index, values in enumerate(batch.values):
        for name, value in values.items():
            column = lists.get(name)
            if column is None:
                _check_name(name, index)
                if len(lists) >= COLUMNS_MAX:
                    # Before more is laid out: a million names of one value each would be a million columns.
                    raise InvalidRequest.of("records.records", f"have more than {COLUMNS_MAX} columns")
                column = lists[name] = [None] * count
            column[index] = value
    # The members of a JSON object have no order of their own.
    return {name: _came(name, lists[name], dataset) for name in sorted(lists)}


def _came(name: str, values: list[Any], dataset: Dataset | None) -> _Came:
    kinds = set(map(type, values)) - {type(None)}
    if not kinds:
        return _Came(pa.nulls(len(values)), "", loose=True)
    first = next(index for index, value in enumerate(values) if value is not None)
    kind = type(values[first])
    odd = next((index for index, value in enumerate(values) if value is not None and type(value) is not kind), None)
    if kind in {list, dict}:
        odd = first
    if odd is not None:
        actual = _JSON_TYPE[type(values[odd])]
        known = next((column for column in dataset.columns if column.name == name), None) if dataset else None
        expected = _name(known.type) if known is not None else _JSON_TYPE[kind]
        if dataset is not None:
            why = f"has column {name!r} as {expected}, and record {odd} holds a {actual}; correct the record"
            raise _drift(dataset, name, expected, actual, why)
        raise InvalidRequest.of(
            f"records.records[{odd}].values",
            f"{name!r} holds a {actual}, which no column can" if kind in {list, dict} or actual in {"list", "document"}
            else f"{name!r} holds a {actual} here and a {expected} before; a column has one type",
        )  # fmt: skip
    arrow = {bool: pa.bool_(), float: pa.float64(), str: pa.string()}[kind]
    return _Came(pa.array(values, arrow), _JSON_TYPE[kind], loose=True)


def _check_name(name: str, index: int) -> None:
    if name == TIME:
        raise InvalidRequest.of(f"records.records[{index}].values", "'time' is the record's own time, not a value")
    if not COLUMN_NAME.fullmatch(name):
        raise InvalidRequest.of(
            f"records.records[{index}].values",
            f"{name[:80]!r} cannot be the name of a column: a letter, then up to 63 letters, digits, `_`, `.` or `-`",
        )


def _check_every_time(batch: PlainRecords) -> None:
    for index, time in enumerate(batch.times_us):
        if time is None:
            raise InvalidRequest.of(f"records.records[{index}].time", "a record of a time series needs a time")


def _learned_shape(batch: Batch) -> DatasetShape:
    """Return rows when every record has a time, and flat values under names that columns can have."""
    if isinstance(batch, ColumnRecords):
        return DatasetShape.TIME_SERIES
    if any(time is None for time in batch.times_us):
        return DatasetShape.DOCUMENTS
    for values in batch.values:
        for name, value in values.items():
            if isinstance(value, list | dict) or name == TIME or not COLUMN_NAME.fullmatch(name):
                return DatasetShape.DOCUMENTS
    return DatasetShape.TIME_SERIES


def _check_definitions(definitions: Sequence[ColumnDefinition]) -> None:
    seen: set[str] = set()
    violations = []
    for index, definition in enumerate(definitions):
        path = f"column_definitions[{index}]"
        if definition.name == TIME:
            violations.append(FieldViolation(f"{path}.name", "'time' is the record's own time, not a column"))
        if definition.name in seen:
            violations.append(FieldViolation(f"{path}.name", f"{definition.name!r} is defined twice"))
        seen.add(definition.name)
        for bound in ("min_valid", "max_valid"):
            value = getattr(definition, bound)
            if value is not None and not math.isfinite(value):
                violations.append(FieldViolation(f"{path}.{bound}", "must be a finite number"))
    if violations:
        raise InvalidRequest(violations)


def _misfit(
    dataset: Dataset | None, name: str, wanted: ColumnType, came: _Came, said: tuple[int, ColumnDefinition] | None
) -> InvalidRequest | SchemaDrift:
    actual = came.type_name
    exact = wanted is ColumnType.DOUBLE and actual == "int64"
    reason = "some of its whole numbers are no doubles" if exact else f"the batch holds {actual}"
    if dataset is None:
        index = said[0] if said is not None else 0
        return InvalidRequest.of(f"column_definitions[{index}].type", f"is {_name(wanted)}, and {reason}")
    why = f"has column {name!r} as {_name(wanted)}, and {reason}; send {_name(wanted)}, or name the column otherwise"
    return _drift(dataset, name, _name(wanted), actual, why)


def _drift(dataset: Dataset, column: str, expected: str, actual: str, why: str) -> SchemaDrift:
    return SchemaDrift(
        f"dataset {dataset.dataset_id} of {dataset.data_type!r} {why}",
        dataset_id=dataset.dataset_id,
        column=column,
        expected_type=expected,
        actual_type=actual,
    )


def _name(column_type: ColumnType) -> str:
    return column_type.name.lower()


def _plural(shape: DatasetShape) -> str:
    return "documents" if shape is DatasetShape.DOCUMENTS else "rows of a time series"
