from __future__ import annotations

import itertools
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from tallygate_server.bench.record_files import NoRecords, made_up, read_records, repeated
from tallygate_server.lifecycle.columnar import TIME, TIME_TYPE, decode, encode

MORNING = datetime(2026, 3, 1, 6, 30, 15, 250_000, tzinfo=UTC)


@pytest.mark.parametrize(
    "time",
    [
        *("2026-03-01T06:30:15.25Z", "2026-03-01 06:30:15.250", "2026-03-01T07:30:15.250000+01:00"),
        *("1772346615.25", "1772346615250", "1772346615250000", "1772346615250000000", "2026-03-01 06:30:15.250000999"),
    ],
)
def test_times_are_read_in_the_usual_spellings(time: str, tmp_path: Path) -> None:
    file = tmp_path / "records.csv"
    file.write_text(f"value,timestamp\n7,{time}\n")

    records = read_records(file)

    assert records.schema == pa.schema([pa.field(TIME, TIME_TYPE, nullable=False), pa.field("value", pa.int64())])
    assert records.to_pylist() == [{TIME: MORNING, "value": 7}]


def test_types_are_inferred_and_rows_sorted(tmp_path: Path) -> None:
    file = tmp_path / "records.csv"
    file.write_text("when,n,f,word,yes,day,none\n1772346616,,1.5,,true,2026-03-01,\n1772346615,2,,a,,2026-03-02,\n")

    records = read_records(file)

    kinds = [TIME_TYPE, pa.int64(), pa.float64(), pa.string(), pa.bool_(), TIME_TYPE, pa.float64()]
    assert records.schema.types == kinds
    assert records.column("n").to_pylist() == [2, None]
    assert records.column("word").to_pylist() == ["a", None]
    assert decode(encode(records).payload).equals(records)


@pytest.mark.parametrize("content", ["a,b\n", "a,b\nx,y\n", "time,b\n1772346615,1\n,2\n"])
def test_a_file_without_times_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "records.csv"
    file.write_text(content)

    with pytest.raises(NoRecords):
        read_records(file)


def test_repeated_records_go_on_in_time() -> None:
    records = made_up()["made-up run"].slice(0, 10)

    longer = repeated(records, 25)

    times = longer.column(TIME).to_pylist()
    assert longer.num_rows == 25
    assert all(earlier < later for earlier, later in itertools.pairwise(times))
    assert longer.slice(0, 10).equals(records)
