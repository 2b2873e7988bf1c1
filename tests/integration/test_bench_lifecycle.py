from __future__ import annotations

import contextlib
import json

from tallygate_server.bench.lifecycle import ENVELOPE_BYTES, RATIO_CEILING, measure_codec
from tallygate_server.bench.record_files import made_up


async def test_the_benchmark_measures_every_form_of_the_same_records(empty_database: str) -> None:
    tables = {name: records.slice(0, 1_500) for name, records in list(made_up().items())[1:]}

    report = await measure_codec(
        tables, {"made-up run": 77_777}, open_database=lambda: contextlib.nullcontext(empty_database), turns=1
    )

    assert report.identical
    assert report.ratio <= RATIO_CEILING
    assert [(file.name, file.rows) for file in report.files] == [(name, 1_500) for name in tables]
    for file in report.files:
        sizes = file.sizes
        assert ENVELOPE_BYTES < sizes.cold_bytes < sizes.parquet_bytes < sizes.csv_bytes < sizes.postgres_bytes
        assert sizes.parquet_best_bytes < sizes.parquet_bytes
    assert report.files[1].sizes.csv_bytes == 77_777
    assert json.loads(json.dumps(report.as_json()))["files"][0]["sizes"]["cold_bytes"] > 0
