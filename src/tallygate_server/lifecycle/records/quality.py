"""How good a batch is, and why: five terms whose product is the score. Pure.

Everything is measured on the batch as it was given, before it is sorted. Explanations tell counts and the limits that
were set, never a value that somebody measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tallygate_server.domain.lifecycle import DataColumn, DatasetShape
from tallygate_server.lifecycle.records.batches import time_of
from tallygate_server.lifecycle.records.schema import DOCUMENT, Conformed

FINDINGS_MAX: Final = 100
GAP_STEPS_MIN: Final = 3
"""A gap is longer than so many usual steps."""
GAP_QUARTILES: Final = 3.0
"""And longer than the third quartile by so many times what lies between the quartiles: irregular is not broken."""
GAP_RECORDS_MAX: Final = 60
"""What one gap counts for at most: a longer pause is a pause, and no greater loss."""
STEPS_MIN: Final = 3
"""Fewer steps tell nothing about what is usual."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreTerm:
    """One factor of a score."""

    name: str
    value: float
    """0 to 1."""
    weight: float = 1.0
    explanation: str

    def to_document(self) -> dict[str, Any]:
        """Return the term as the contract's JSON."""
        return {"name": self.name, "value": self.value, "weight": self.weight, "explanation": self.explanation}


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityFinding:
    """Something wrong with records."""

    kind: str
    column: str = ""
    count: int
    first_time: datetime
    explanation: str

    def to_document(self) -> dict[str, Any]:
        """Return the finding as the contract's JSON."""
        return {
            "kind": self.kind,
            "column": self.column,
            "count": self.count,
            "first_time": self.first_time.isoformat().replace("+00:00", "Z"),
            "explanation": self.explanation,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class DataQuality:
    """How good a batch is, and why."""

    score: float
    """Product of the terms, each to the power of its weight."""
    terms: tuple[ScoreTerm, ...]
    findings: tuple[QualityFinding, ...]
    """Worst first."""

    def to_document(self) -> dict[str, Any]:
        """Return the quality as the contract's JSON."""
        return {
            "score": self.score,
            "terms": [term.to_document() for term in self.terms],
            "findings": [finding.to_document() for finding in self.findings],
        }


_Measured = tuple[ScoreTerm, list[QualityFinding]]


def quality_of(batch: Conformed) -> DataQuality:
    """Return how good a batch of at least one record is."""
    times = time_of(batch.table)
    measured = [
        _completeness(batch, times),
        _valid_ranges(batch, times),
        _time_order(times),
        _duplicates(batch, times),
        _gaps(batch, times),
    ]
    terms = tuple(term for term, _ in measured)
    findings = [finding for _, found in measured for finding in found]
    # Sorting keeps the order of the terms among findings that are equally frequent.
    findings.sort(key=lambda finding: -finding.count)
    score = float(np.prod([term.value**term.weight for term in terms]))
    return DataQuality(score=score, terms=terms, findings=tuple(findings[:FINDINGS_MAX]))


def _completeness(batch: Conformed, times: Any) -> _Measured:
    rows = batch.table.num_rows
    if batch.shape is DatasetShape.DOCUMENTS:
        empty = pc.equal(batch.table.column(DOCUMENT), "{}").to_numpy()
        count = int(np.count_nonzero(empty))
        explanation = f"{count} of {rows} documents are empty"
        found = [_finding("missing", "", empty, times, explanation)] if count else []
        return _term("completeness", 1 - count / rows, explanation), found
    present = set(batch.table.column_names)
    found, missing = [], 0
    for column in batch.columns:
        if column.name not in present:
            missing += rows
            everywhere = np.ones(rows, bool)
            found.append(_finding("missing", column.name, everywhere, times, "the batch does not have the column"))
            continue
        values = batch.table.column(column.name)
        if values.null_count:
            missing += values.null_count
            explanation = f"{values.null_count} of {rows} values are missing"
            found.append(_finding("missing", column.name, pc.is_null(values).to_numpy(), times, explanation))
    cells = rows * len(batch.columns)
    value = 1 - missing / cells if cells else 1.0
    return _term("completeness", value, f"{missing} of {cells} values are missing"), found


def _valid_ranges(batch: Conformed, times: Any) -> _Measured:
    present = set(batch.table.column_names)
    found, outside, checked = [], 0, 0
    for column in batch.columns:
        if column.name not in present or (column.min_valid is None and column.max_valid is None):
            continue
        values = batch.table.column(column.name)
        odd = _out_of_range(column, values)
        count = int(np.count_nonzero(odd))
        checked += len(values) - values.null_count
        outside += count
        if count:
            explanation = f"{count} of {len(values)} values are {_limits(column)}"
            found.append(_finding("out_of_range", column.name, odd, times, explanation))
    if not checked:
        return _term("valid_ranges", 1.0, "no value has limits"), found
    explanation = f"{outside} of {checked} values with limits lie outside them"
    return _term("valid_ranges", 1 - outside / checked, explanation), found


def _out_of_range(column: DataColumn, values: pa.ChunkedArray) -> Any:
    """Return where values lie outside the limits; not-a-number does wherever there is one."""
    inside = pa.chunked_array([pa.array(np.ones(len(values), bool))])
    if column.min_valid is not None:
        inside = pc.and_(inside, pc.greater_equal(values, pa.scalar(column.min_valid, pa.float64())))
    if column.max_valid is not None:
        inside = pc.and_(inside, pc.less_equal(values, pa.scalar(column.max_valid, pa.float64())))
    # A missing value is neither inside nor outside.
    return pc.fill_null(pc.invert(inside), fill_value=False).to_numpy()


def _limits(column: DataColumn) -> str:
    if column.min_valid is None:
        return f"above {column.max_valid:g}"
    if column.max_valid is None:
        return f"below {column.min_valid:g}"
    return f"below {column.min_valid:g} or above {column.max_valid:g}"


def _time_order(times: Any) -> _Measured:
    steps = len(times) - 1
    back = np.diff(times) < 0
    count = int(np.count_nonzero(back))
    explanation = f"{count} of {steps} steps go back in time"
    if not count:
        return _term("time_order", 1.0, explanation), []
    where = np.concatenate(([False], back))
    return (
        _term("time_order", 1 - count / steps, explanation),
        [_finding("not_monotonic", "", where, times, f"{count} records are older than the one before")],
    )


def _duplicates(batch: Conformed, times: Any) -> _Measured:
    """Count records with the id of another, rows with the time of another, and documents that are there twice."""
    rows = len(times)
    found = []
    if batch.shape is DatasetShape.TIME_SERIES:
        again, what = _again(times), "records have the time of another"
    else:
        texts = batch.table.column(DOCUMENT).combine_chunks().dictionary_encode()
        alike = (texts.chunk(0) if isinstance(texts, pa.ChunkedArray) else texts).indices.to_numpy()
        order = np.lexsort((alike, times))
        same = (np.diff(times[order]) == 0) & (np.diff(alike[order]) == 0)
        again, what = np.zeros(rows, bool), "documents have the time and the content of another"
        again[order[1:][same]] = True
    count = int(np.count_nonzero(again))
    if count:
        found.append(_finding("duplicate", "", again, times, f"{count} {what}"))
    doubled = _again_ids(batch.record_ids, rows)
    if doubled.any():
        count = int(np.count_nonzero(doubled))
        found.append(_finding("duplicate", "", doubled, times, f"{count} records have the id of another in the batch"))
    count = int(np.count_nonzero(again | doubled))
    return _term("duplicates", 1 - count / rows, f"{count} of {rows} records are there before in the batch"), found


def _again(values: Any) -> Any:
    """Return where a value stands that stood before."""
    order = np.argsort(values, kind="stable")
    again = np.zeros(len(values), bool)
    again[order[1:][np.diff(values[order]) == 0]] = True
    return again


def _again_ids(record_ids: Sequence[str], rows: int) -> Any:
    again, seen = np.zeros(rows, bool), set[str]()
    for index, record_id in enumerate(record_ids):
        if record_id:
            again[index] = record_id in seen
            seen.add(record_id)
    return again


def _gaps(batch: Conformed, times: Any) -> _Measured:
    """Count steps that are much longer than the usual one, and than the spread of steps makes likely."""
    if batch.shape is DatasetShape.DOCUMENTS:
        return _term("gaps", 1.0, "documents come when they come"), []
    moments = np.unique(times)
    steps = np.diff(moments)
    if len(steps) < STEPS_MIN:
        return _term("gaps", 1.0, "too few records to know a usual step"), []
    first_quartile, median, third_quartile = np.percentile(steps, [25, 50, 75])
    bound = max(GAP_STEPS_MIN * median, third_quartile + GAP_QUARTILES * (third_quartile - first_quartile))
    long = steps > bound
    count = int(np.count_nonzero(long))
    usual = timedelta(microseconds=float(median))
    if not count:
        return _term("gaps", 1.0, f"no step is much longer than the usual {_seconds(usual)}"), []
    lost = float(np.minimum(np.round(steps[long] / median) - 1, GAP_RECORDS_MAX).sum())
    explanation = f"{count} steps are longer than {_seconds(timedelta(microseconds=float(bound)))}"
    first = _EPOCH + timedelta(microseconds=int(moments[:-1][long][0]))
    finding = QualityFinding(
        kind="gap",
        count=count,
        first_time=first,
        explanation=f"{explanation}; the usual step is {_seconds(usual)}",
    )
    value = len(moments) / (len(moments) + lost)
    return _term("gaps", value, f"{explanation}: about {lost:.0f} records are missing"), [finding]


def _seconds(span: timedelta) -> str:
    return f"{span.total_seconds():g} s"


def _term(name: str, value: float, explanation: str) -> ScoreTerm:
    return ScoreTerm(name=name, value=float(value), explanation=explanation)


def _finding(kind: str, column: str, where: Any, times: Any, explanation: str) -> QualityFinding:
    return QualityFinding(
        kind=kind,
        column=column,
        count=int(np.count_nonzero(where)),
        # The first in time, not in the batch.
        first_time=_EPOCH + timedelta(microseconds=int(times[where].min())),
        explanation=explanation,
    )
