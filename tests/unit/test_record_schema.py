"""Schemas are learned once, then enforced; nothing is converted that would change a value."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import ColumnType, DataColumn, Dataset, DatasetShape
from tallygate_server.errors import InvalidRequest, SchemaDrift
from tallygate_server.lifecycle.columnar import TIME_TYPE
from tallygate_server.lifecycle.records import ColumnDefinition, ColumnRecords, PlainRecords, canonical_json
from tallygate_server.lifecycle.records.batches import (
    COLUMNS_MAX,
    TEXT_LENGTH_MAX,
    TIME_END_US,
    TIME_MIN_US,
    time_array,
)
from tallygate_server.lifecycle.records.schema import EXACT_DOUBLE_MAX, Conformed, conform

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
INT64, DOUBLE, STRING, BOOL, TIMESTAMP = ColumnType


def plain(*values: dict[str, Any], times: Sequence[int | None] | None = None) -> PlainRecords:
    return PlainRecords(
        times_us=list(range(len(values))) if times is None else times, values=values, record_ids=[""] * len(values)
    )


def columns(count: int = 2, *, whole_times: bool = True, **arrays: Any) -> ColumnRecords:
    made = {name: values if isinstance(values, pa.Array) else pa.array(values) for name, values in arrays.items()}
    table = pa.table({"time": time_array(np.arange(count, dtype=np.int64)), **made})
    return ColumnRecords(table=table, field="columns", whole_times=whole_times)


def a_dataset(*known: DataColumn, shape: DatasetShape = DatasetShape.TIME_SERIES) -> Dataset:
    return Dataset(
        tenant_id=TenantId("acme"), dataset_id="ds_1", account_id=AccountId("ann"), data_type="ride", shape=shape,
        columns=known, create_time=NOW, update_time=NOW,
    )  # fmt: skip


def fitted(batch: PlainRecords | ColumnRecords, *known: DataColumn, **more: Any) -> Conformed:
    return conform(batch, a_dataset(*known), now=NOW, **more)


def learned(batch: PlainRecords | ColumnRecords, **more: Any) -> Conformed:
    return conform(batch, None, now=NOW, **more)


def drift_of(batch: PlainRecords | ColumnRecords, *known: DataColumn, **more: Any) -> dict[str, str]:
    with pytest.raises(SchemaDrift) as caught:
        fitted(batch, *known, **more)
    facts = caught.value.facts
    assert facts["dataset_id"] == "ds_1"
    assert caught.value.message.startswith("dataset ds_1 of 'ride' ")
    return facts


def invalid_field(batch: PlainRecords | ColumnRecords, **more: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        learned(batch, **more)
    return caught.value.violations[0].field


@pytest.mark.parametrize(
    ("batch", "shape"),
    [
        (plain({"a": 1.0}, {"a": None, "b": "x"}), DatasetShape.TIME_SERIES),
        (plain({}), DatasetShape.TIME_SERIES),
        (plain({"a": 1.0}, {"a": 1.0}, times=[1, None]), DatasetShape.DOCUMENTS),
        (plain({"a": 1.0}, {"a": [1.0]}), DatasetShape.DOCUMENTS),
        (plain({"a": {"b": 1.0}}), DatasetShape.DOCUMENTS),
        (plain({"no name": 1.0}), DatasetShape.DOCUMENTS),
        (plain({"time": 1.0}), DatasetShape.DOCUMENTS),
        (columns(a=[1, 2]), DatasetShape.TIME_SERIES),
    ],
)
def test_rows_have_times_and_flat_values_and_all_else_is_documents(
    batch: PlainRecords | ColumnRecords, shape: DatasetShape
) -> None:
    assert learned(batch).shape is shape


def test_json_teaches_doubles_texts_and_truth_values() -> None:
    found = learned(plain({"n": 1.0, "t": "x", "b": True, "none": None}, {"n": 2.5, "t": "y"}))

    assert [(c.name, c.type, c.nullable) for c in found.columns] == [
        ("b", BOOL, True),
        ("n", DOUBLE, False),
        ("t", STRING, False),
    ]
    assert found.table.column_names == ["time", "b", "n", "t"]
    assert found.table.column("b").to_pylist() == [True, None]


def test_columns_teach_their_very_types() -> None:
    found = learned(
        columns(
            i=[1, 2], d=[1.0, float("nan")], s=["x", None], b=[True, False], at=pa.array([1, 2], TIME_TYPE),
            nothing=pa.nulls(2),
        )
    )  # fmt: skip

    assert {c.name: c.type for c in found.columns} == {"i": INT64, "d": DOUBLE, "s": STRING, "b": BOOL, "at": TIMESTAMP}
    assert [c.name for c in found.columns if c.nullable] == ["s"]


def test_columns_teach_their_types_also_without_a_value() -> None:
    empty = columns(n=pa.nulls(2, pa.int64()), nothing=pa.nulls(2))

    found = learned(empty)

    assert found.columns == (DataColumn(name="n", type=INT64, nullable=True),)
    assert fitted(empty, DataColumn(name="a", type=DOUBLE)).table.column_names == ["time"]
    assert fitted(empty, DataColumn(name="n", type=STRING)).table.column("n").type == pa.string()


def test_definitions_add_units_limits_and_columns_that_have_yet_to_come() -> None:
    wanted = [
        ColumnDefinition(name="hr", unit="bpm", min_valid=30, max_valid=220),
        ColumnDefinition(name="power", type=DOUBLE, nullable=True),
        ColumnDefinition(name="lap", type=INT64),
    ]

    found = learned(plain({"hr": 60.0, "lap": 2.0}), definitions=wanted)

    assert found.columns == (
        DataColumn(name="hr", type=DOUBLE, unit="bpm", min_valid=30, max_valid=220),
        DataColumn(name="power", type=DOUBLE, nullable=True),
        DataColumn(name="lap", type=INT64),
    )
    assert found.table.column_names == ["time", "hr", "lap"]
    assert found.table.column("lap").type == pa.int64()


def test_a_missing_column_becomes_nullable() -> None:
    found = fitted(plain({"a": 1.0}), DataColumn(name="a", type=DOUBLE), DataColumn(name="b", type=STRING))

    assert [c.nullable for c in found.columns] == [False, True]
    assert found.table.column_names == ["time", "a"]


def test_a_new_column_is_drift_unless_it_is_meant() -> None:
    known = DataColumn(name="a", type=DOUBLE)

    facts = drift_of(plain({"a": 1.0, "b": "x"}), known)
    meant = fitted(plain({"a": 1.0, "b": "x"}), known, definitions=[ColumnDefinition(name="b")])
    empty = fitted(plain({"a": 1.0, "b": None}), known)

    assert (facts["column"], facts["expected_type"], facts["actual_type"]) == ("b", "", "string")
    assert meant.columns == (known, DataColumn(name="b", type=STRING, nullable=True))
    assert empty.columns == (known,)


@pytest.mark.parametrize(
    ("batch", "known", "actual"),
    [
        (plain({"a": "x"}), DOUBLE, "string"),
        (plain({"a": True}), DOUBLE, "bool"),
        (plain({"a": 1.5}), INT64, "double"),
        (plain({"a": float(2 * EXACT_DOUBLE_MAX)}), INT64, "double"),
        (plain({"a": float("nan")}), INT64, "double"),
        (plain({"a": 1.0}), STRING, "double"),
        (plain({"a": "noon"}), TIMESTAMP, "string"),
        (plain({"a": "2026-03-01T12:00:00"}), TIMESTAMP, "string"),
        (plain({"a": {"b": 1.0}}), DOUBLE, "document"),
        (plain({"a": 1.0}, {"a": "x"}), DOUBLE, "string"),
        (columns(a=[1.0, 2.0]), INT64, "double"),
        (columns(a=[EXACT_DOUBLE_MAX + 1, 0]), DOUBLE, "int64"),
        (columns(a=[1, 2], whole_times=False), TIMESTAMP, "int64"),
        (columns(a=["x", "y"]), BOOL, "string"),
    ],
)
def test_another_type_is_drift(batch: PlainRecords | ColumnRecords, known: ColumnType, actual: str) -> None:
    facts = drift_of(batch, DataColumn(name="a", type=known))

    assert facts["column"] == "a"
    assert (facts["expected_type"], facts["actual_type"]) == (known.name.lower(), actual)


@pytest.mark.parametrize(
    ("batch", "known", "values"),
    [
        (plain({"a": 3.0}), INT64, [3]),
        (plain({"a": float(EXACT_DOUBLE_MAX)}), INT64, [EXACT_DOUBLE_MAX]),
        (plain({"a": "2026-03-01T13:00:00+01:00"}), TIMESTAMP, [NOW]),
        (plain({"a": None}), TIMESTAMP, [None]),
        (columns(1, a=[EXACT_DOUBLE_MAX]), DOUBLE, [float(EXACT_DOUBLE_MAX)]),
        (columns(1, a=[2 * EXACT_DOUBLE_MAX]), DOUBLE, [float(2 * EXACT_DOUBLE_MAX)]),
        (columns(1, a=[int(NOW.timestamp()) * 1_000_000]), TIMESTAMP, [NOW]),
    ],
)
def test_values_that_stay_themselves_fit(
    batch: PlainRecords | ColumnRecords, known: ColumnType, values: list[Any]
) -> None:
    assert fitted(batch, DataColumn(name="a", type=known)).table.column("a").to_pylist() == values


def test_a_known_column_takes_new_limits_and_no_other_type() -> None:
    known = DataColumn(name="a", type=DOUBLE, unit="W", min_valid=0)

    found = fitted(plain({"a": 1.0}), known, definitions=[ColumnDefinition(name="a", max_valid=9.0)])
    facts = drift_of(plain({"a": 1.0}), known, definitions=[ColumnDefinition(name="a", type=INT64)])

    assert found.columns == (DataColumn(name="a", type=DOUBLE, unit="W", min_valid=0, max_valid=9.0),)
    assert (facts["expected_type"], facts["actual_type"]) == ("double", "int64")


def test_shapes_do_not_mix() -> None:
    with pytest.raises(SchemaDrift) as columns_into_documents:
        conform(columns(a=[1, 2]), a_dataset(shape=DatasetShape.DOCUMENTS), now=NOW)
    other = drift_of(plain({}), shape=DatasetShape.DOCUMENTS)

    assert columns_into_documents.value.facts["actual_type"] == "columns"
    assert (other["expected_type"], other["actual_type"]) == ("time_series", "documents")


@pytest.mark.parametrize(
    ("batch", "more", "field"),
    [
        (plain({"a": float("inf")}, times=[None]), {}, "records.records[0].values"),
        (plain({}, {}, times=[0, None]), {"shape": DatasetShape.TIME_SERIES}, "records.records[1].time"),
        (plain({"a b": 1.0}), {"shape": DatasetShape.TIME_SERIES}, "records.records[0].values"),
        (plain({"time": 1.0}), {"shape": DatasetShape.TIME_SERIES}, "records.records[0].values"),
        (plain({"a": 1.0}, {"a": "x"}), {}, "records.records[1].values"),
        (plain({"a": [1.0]}), {"shape": DatasetShape.TIME_SERIES}, "records.records[0].values"),
        (plain({"a": "x" * (TEXT_LENGTH_MAX + 1)}), {}, "records.records"),
        (plain({f"c{number}": 1.0 for number in range(COLUMNS_MAX + 1)}), {}, "records.records"),
        (columns(a=[1, 2]), {"shape": DatasetShape.DOCUMENTS}, "shape"),
        (plain({}, times=[None]), {"definitions": [ColumnDefinition(name="a", type=INT64)]}, "column_definitions"),
        (plain({}), {"definitions": [ColumnDefinition(name="a")]}, "column_definitions[0].type"),
        (plain({}), {"definitions": [ColumnDefinition(name="time", type=INT64)]}, "column_definitions[0].name"),
        (plain({}), {"definitions": [ColumnDefinition(name="a", type=INT64)] * 2}, "column_definitions[1].name"),
        (
            plain({"a": "x"}),
            {"definitions": [ColumnDefinition(name="a", min_valid=1)]},
            "column_definitions[0].min_valid",
        ),
        (
            plain({"a": 1.0}),
            {"definitions": [ColumnDefinition(name="a", min_valid=2, max_valid=1)]},
            "column_definitions[0].max_valid",
        ),
        (plain({"a": "x"}), {"definitions": [ColumnDefinition(name="a", type=INT64)]}, "column_definitions[0].type"),
    ],
)
def test_what_no_dataset_could_take_names_its_field(
    batch: PlainRecords | ColumnRecords, more: dict[str, Any], field: str
) -> None:
    assert invalid_field(batch, **more) == field


def test_many_names_of_one_value_each_are_refused_early() -> None:
    many = plain(*({f"c{number}": 1.0} for number in range(5_000)))

    assert invalid_field(many) == "records.records"


def test_a_time_that_is_missing_is_named() -> None:
    times = pa.array([1, None], TIME_TYPE)
    arrow = ColumnRecords(table=pa.table({"time": times}), field="arrow_stream")

    with pytest.raises(InvalidRequest, match="arrow_stream: the time of record 1 is missing"):
        learned(arrow)


def test_bounds_are_inclusive() -> None:
    assert len(learned(plain({f"c{number}": 1.0 for number in range(COLUMNS_MAX)})).columns) == COLUMNS_MAX
    assert learned(plain({"a": "é" * TEXT_LENGTH_MAX})).table.num_rows == 1


@pytest.mark.parametrize("micros", [TIME_MIN_US, TIME_END_US - 1])
def test_times_within_two_centuries_fit(micros: int) -> None:
    assert learned(at_micros(micros)).table.num_rows == 2


@pytest.mark.parametrize("micros", [TIME_MIN_US - 1, TIME_END_US])
def test_times_outside_are_named(micros: int) -> None:
    assert invalid_field(at_micros(micros)) == "columns.time_micros[1]"


def at_micros(micros: int) -> ColumnRecords:
    return ColumnRecords(table=pa.table({"time": time_array([0, micros])}), field="columns", whole_times=True)


def test_documents_are_canonical_and_come_now_without_a_time() -> None:
    found = learned(plain({"b": 1.0, "a": [1.5, {"d": None, "c": "é"}]}, times=[None]))

    assert found.table.column("document").to_pylist() == ['{"a":[1.5,{"c":"é","d":null}],"b":1}']
    assert found.table.column("time").to_pylist() == [NOW]
    assert found.columns == ()
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})
