"""The quality of a batch is the product of five terms, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallygate_server.domain.lifecycle import ColumnType, DataColumn, DatasetShape
from tallygate_server.lifecycle.records.batches import time_array
from tallygate_server.lifecycle.records.quality import (
    FINDINGS_MAX,
    GAP_RECORDS_MAX,
    DataQuality,
    QualityFinding,
    quality_of,
)
from tallygate_server.lifecycle.records.schema import Conformed

SECOND = 1_000_000
START = datetime(1970, 1, 1, tzinfo=UTC)
LIMITED = DataColumn(name="hr", type=ColumnType.DOUBLE, min_valid=30, max_valid=220)


def judged(
    times: Sequence[float],
    *columns: DataColumn,
    record_ids: Sequence[str] = (),
    shape: DatasetShape = DatasetShape.TIME_SERIES,
    **values: Any,
) -> DataQuality:
    arrays = {name: pa.array(each) for name, each in values.items()}
    table = pa.table({"time": time_array([round(second * SECOND) for second in times]), **arrays})
    return quality_of(Conformed(shape=shape, columns=columns, table=table, record_ids=record_ids))


def term(quality: DataQuality, name: str) -> float:
    (found,) = [each for each in quality.terms if each.name == name]
    assert found.explanation
    return found.value


def found(quality: DataQuality) -> list[tuple[str, str, int, float]]:
    return [
        (each.kind, each.column, each.count, (each.first_time - START).total_seconds()) for each in quality.findings
    ]


def test_a_faultless_batch_scores_one() -> None:
    quality = judged(range(10), LIMITED, hr=[100.0] * 10)

    assert quality.score == 1
    assert [each.name for each in quality.terms] == [
        "completeness",
        "valid_ranges",
        "time_order",
        "duplicates",
        "gaps",
    ]
    assert not quality.findings


def test_missing_values_and_columns_lower_completeness() -> None:
    cadence = DataColumn(name="cadence", type=ColumnType.DOUBLE)

    quality = judged(range(10), LIMITED, cadence, hr=[None, 100.0] * 5)

    assert term(quality, "completeness") == quality.score == 1 - 15 / 20
    assert found(quality) == [("missing", "cadence", 10, 0), ("missing", "hr", 5, 0)]


def test_values_outside_their_limits_count_and_missing_ones_do_not() -> None:
    quality = judged(range(6), LIMITED, hr=[29.9, 30.0, 220.0, 220.1, math.nan, None])

    assert term(quality, "valid_ranges") == pytest.approx(1 - 3 / 5)
    assert ("out_of_range", "hr", 3, 0) in found(quality)
    assert judged([0], DataColumn(name="hr", type=ColumnType.DOUBLE), hr=[math.nan]).score == 1


def test_only_one_limit_is_enough() -> None:
    low = judged([0, 1], DataColumn(name="n", type=ColumnType.INT64, min_valid=5), n=[4, 5])
    high = judged([0, 1], DataColumn(name="n", type=ColumnType.INT64, max_valid=4), n=[4, 5])

    assert (term(low, "valid_ranges"), term(high, "valid_ranges")) == (0.5, 0.5)
    assert "below 5" in low.findings[0].explanation
    assert "above 4" in high.findings[0].explanation


def test_steps_back_in_time_are_counted_as_they_came() -> None:
    quality = judged([0, 2, 1, 3, 4])

    assert term(quality, "time_order") == 1 - 1 / 4
    assert found(quality) == [("not_monotonic", "", 1, 1)]


def test_duplicate_times_and_ids_count_once() -> None:
    quality = judged([0, 1, 1, 2], record_ids=["a", "b", "b", "a"])

    assert term(quality, "duplicates") == 1 - 2 / 4
    assert found(quality) == [("duplicate", "", 2, 1), ("duplicate", "", 1, 1)]


def test_documents_are_duplicates_by_time_and_content_and_have_no_gaps() -> None:
    documents = ['{"a":1}', '{"a":1}', '{"a":2}', "{}"]

    quality = judged([0, 0, 0, 9_999], shape=DatasetShape.DOCUMENTS, document=documents)

    assert term(quality, "duplicates") == 1 - 1 / 4
    assert term(quality, "completeness") == 1 - 1 / 4
    assert term(quality, "gaps") == 1


def test_a_gap_is_measured_in_usual_steps() -> None:
    quality = judged([0, 1, 2, 3, 4, 9, 10])

    assert term(quality, "gaps") == 7 / (7 + 4)
    assert found(quality) == [("gap", "", 1, 4)]


def test_a_long_pause_is_no_greater_loss() -> None:
    times = [*range(100), *range(1_000_000, 1_000_100)]

    assert term(judged(times), "gaps") == 200 / (200 + GAP_RECORDS_MAX)


def test_irregular_events_are_not_full_of_gaps() -> None:
    steps = np.random.default_rng(7).exponential(60, 1_000)

    assert term(judged(np.cumsum(steps).tolist()), "gaps") > 0.9


@pytest.mark.parametrize("times", [[0], [0, 1], [0, 1, 500], [5, 5, 5, 5, 5]])
def test_too_few_steps_tell_no_gap(times: list[float]) -> None:
    assert term(judged(times), "gaps") == 1


def test_findings_come_worst_first_and_end_somewhere() -> None:
    columns = [DataColumn(name=f"c{number}", type=ColumnType.DOUBLE) for number in range(FINDINGS_MAX + 1)]
    values: dict[str, Any] = {
        column.name: [None] * (1 + number % 3) + [1.0] * (5 - number % 3) for number, column in enumerate(columns)
    }

    quality = judged(range(6), *columns, **values)

    counts = [each.count for each in quality.findings]
    assert len(counts) == FINDINGS_MAX
    assert counts == sorted(counts, reverse=True)


def test_a_quality_is_the_contracts_json() -> None:
    finding = QualityFinding(
        kind="gap", count=2, first_time=START + timedelta(microseconds=1_500), explanation="two gaps"
    )

    assert finding.to_document()["first_time"] == "1970-01-01T00:00:00.001500Z"
    assert set(judged([0]).to_document()) == {"score", "terms", "findings"}


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.one_of(st.none(), st.floats(width=32))),
        min_size=1,
        max_size=40,
    )
)
def test_every_score_is_a_share_and_the_product_of_its_terms(rows: list[tuple[int, float | None]]) -> None:
    quality = judged([time for time, _ in rows], LIMITED, hr=pa.array([value for _, value in rows], pa.float64()))

    assert 0 <= quality.score <= 1
    assert quality.score == pytest.approx(math.prod(each.value**each.weight for each in quality.terms))
    assert all(0 <= each.value <= 1 for each in quality.terms)
