"""The benchmark of queries, in its short form: what it measures is right, however long it takes here."""

from __future__ import annotations

from tallygate_server.bench.query_benchmark import RATIO_FLOOR, TAIL_ENTRIES, QueryReport, measure_queries

ENTRIES = 5_000


async def test_the_benchmark_compares_every_row_with_a_scan(empty_database: str) -> None:
    report = await measure_queries(empty_database, ENTRIES)

    # Eight models on each day of the month, which this ledger is large enough to fill.
    assert report.answer_rows > 8 * 20
    assert report.rollup_rows > ENTRIES
    assert 0 < report.total_quantity < (ENTRIES + TAIL_ENTRIES) * 2_000


def test_the_ratio_is_that_of_the_medians() -> None:
    report = QueryReport(
        entries=1_000_000,
        accounts=1,
        write_s=1.0,
        roll_up_s=3.0,
        rollup_rows=1,
        query_ms=5.0,
        query_ms_max=9.0,
        scan_ms=5.0 * RATIO_FLOOR,
        answer_rows=1,
        total_quantity=1,
    )

    assert report.ratio == RATIO_FLOOR
    assert report.holds
    assert report.roll_up_s_per_million == 3.0
    assert report.as_json()["holds"] is True
