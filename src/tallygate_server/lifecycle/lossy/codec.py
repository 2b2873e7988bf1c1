"""Encode records with loss, and give back what each form can give.

    result = encode(table, LossySettings(form=LossyForm.SUMMARY))
    kept = decode(result.payload)
    kept.windows(timedelta(hours=6))

Nothing here waits or does I/O; a segment takes seconds of a processor at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar, Final

import numpy as np
import pyarrow as pa

from tallygate_server.lifecycle import columnar
from tallygate_server.lifecycle.lossy import behavioral, piecewise, seasonal, summary
from tallygate_server.lifecycle.lossy.behavioral import Behavior
from tallygate_server.lifecycle.lossy.documents import as_columns
from tallygate_server.lifecycle.lossy.failures import AnalysisUnavailable, LossyPayloadDamaged
from tallygate_server.lifecycle.lossy.measure import LOST, ColumnFit, measure_fit, summarize
from tallygate_server.lifecycle.lossy.payload import PayloadReader, PayloadWriter
from tallygate_server.lifecycle.lossy.records import (
    TIME,
    Column,
    ColumnKind,
    Integers,
    columns_of,
    sorted_records,
    times_of,
)
from tallygate_server.lifecycle.lossy.settings import WINDOW_DEFAULT, LossyForm, LossySettings
from tallygate_server.lifecycle.lossy.summary import Windows

ROWS: Final = "rows"
WINDOWS: Final = "windows"
PROFILE: Final = "profile"
SESSIONS: Final = "sessions"
PATTERNS: Final = "patterns"
COLUMNS_NAMED_MAX: Final = 10
"""In a sentence for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnLoss:
    """What came of one column."""

    column: str
    codec: str
    original_bytes: int
    compressed_bytes: int
    max_error: float
    """In the column's unit; 1 for a column that holds no numbers and has a wrong value."""
    root_mean_square_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LossyResult:
    """What came of encoding."""

    form: LossyForm
    payload: bytes
    record_count: int
    original_bytes: int
    columns: tuple[ColumnLoss, ...]
    summary_metrics: Mapping[str, Any]
    """Statistics of each column of the original records."""
    value_retained: float
    """0 to 1: the mean over all columns of the share that is explained; `measure.py` says what that is. Of actions it
    is the share of their entropy that what is kept of them tells (`behavioral.explained_share`)."""
    exact: bool
    """True when every value is given back."""
    available_analyses: tuple[str, ...]
    limitation: str
    """What cannot be got any more; empty when everything can."""


class Kept:
    """What is left of records. Each form overrides what it can give."""

    form: ClassVar[LossyForm]
    available_analyses: ClassVar[tuple[str, ...]] = ()

    def __init__(self, reader: PayloadReader) -> None:
        """Read a payload."""
        self._header: Mapping[str, Any] = reader.header
        self.record_count: int = reader.header["records"]
        self.summary_metrics: Mapping[str, Any] = reader.header["summary"]

    @property
    def limitation(self) -> str:
        """Say what cannot be got any more."""
        return ""

    def rows(self, resolution: timedelta | None = None) -> pa.Table:  # noqa: ARG002 - for forms that have rows
        """Return rows. Raises AnalysisUnavailable."""
        raise AnalysisUnavailable(ROWS, self.limitation)

    def windows(self, resolution: timedelta | None = None) -> Windows:  # noqa: ARG002 - as above
        """Return statistics of windows; None: as stored. Raises AnalysisUnavailable."""
        raise AnalysisUnavailable(WINDOWS, self.limitation)

    def profile(self) -> dict[str, Any]:
        """Return counts, transitions and the profile of actions. Raises AnalysisUnavailable."""
        raise AnalysisUnavailable(PROFILE, self.limitation)

    def sessions(self) -> list[dict[str, Any]]:
        """Return the sessions. Raises AnalysisUnavailable."""
        raise AnalysisUnavailable(SESSIONS, self.limitation)

    def patterns(self) -> dict[str, Any]:
        """Return trend, profile and spread by column. Raises AnalysisUnavailable."""
        raise AnalysisUnavailable(PATTERNS, self.limitation)

    def estimate(self, times: Integers, columns: list[Column]) -> dict[str, Column]:
        """Return what is known of records at these times, row by row, by column; without a column: nothing is known."""
        raise NotImplementedError


class KeptRows(Kept):
    """Rows with a guaranteed largest error."""

    form = LossyForm.PIECEWISE
    available_analyses = (ROWS, WINDOWS, PATTERNS)

    def __init__(self, reader: PayloadReader) -> None:
        """Read the rows."""
        super().__init__(reader)
        self._rows = piecewise.read_rows(reader, reader.header["rows"])

    @property
    def bounds(self) -> Mapping[str, float]:
        """Return how far off a value may be, by column; others are exact."""
        found: Mapping[str, float] = self._header["bounds"]
        return found

    @property
    def limitation(self) -> str:
        """Name the columns that are approximate."""
        bounds = self.bounds
        if not bounds:
            return ""
        told = _told({column: f"within {bound:.6g}" for column, bound in bounds.items()})
        return f"Values are approximate: {told}. Everything else is exact."

    def rows(self, resolution: timedelta | None = None) -> pa.Table:
        """Return the rows in the order of time; with a resolution, the first of each stretch of that length."""
        if resolution is None or not self._rows.num_rows:
            return self._rows
        stretches = times_of(self._rows) // (resolution // timedelta(microseconds=1))
        return self._rows.take(pa.array(np.unique(stretches, return_index=True)[1]))

    def windows(self, resolution: timedelta | None = None) -> Windows:
        """Return statistics of the approximate rows."""
        found = windows_of(self._rows, resolution or WINDOW_DEFAULT)
        inexact = set(self._header["bounds"])
        counts = {*summary.COUNTS, "top"}
        return Windows(
            table=found.table,
            window=found.window,
            approximate=tuple(
                name
                for name in found.table.column_names
                if name.rpartition(".")[0] in inexact and name.rpartition(".")[2] not in counts
            ),
            columns=found.columns,
        )

    def patterns(self) -> dict[str, Any]:
        """Return the patterns of the approximate rows."""
        return patterns_of(self._rows)

    def estimate(self, times: Integers, columns: list[Column]) -> dict[str, Column]:  # noqa: ARG002 - it has them
        """Return the rows themselves."""
        return {column.name: column for column in columns_of(self._rows)}


class KeptWindows(Kept):
    """Statistics of windows."""

    form = LossyForm.SUMMARY
    available_analyses = (WINDOWS,)

    def __init__(self, reader: PayloadReader) -> None:
        """Read the windows."""
        super().__init__(reader)
        self._windows = summary.read_windows(reader, reader.header["windows"])

    @property
    def limitation(self) -> str:
        """Say that rows are gone."""
        return summary.LIMITATION

    def windows(self, resolution: timedelta | None = None) -> Windows:
        """Return the stored windows, or longer ones that are multiples of them."""
        return summary.coarser(self._windows, resolution or self._windows.window)

    def estimate(self, times: Integers, columns: list[Column]) -> dict[str, Column]:
        """Return the mean, or the commonest value, of each record's window."""
        return summary.rows_from(self._windows, times, columns)


class KeptBehavior(Kept):
    """What actions come to."""

    form = LossyForm.BEHAVIORAL
    available_analyses = (PROFILE, SESSIONS)

    def __init__(self, reader: PayloadReader) -> None:
        """Read what actions come to."""
        super().__init__(reader)
        self.behavior = behavioral.read_behavior(reader, reader.header["behavior"])
        self.action_column: str = reader.header["action_column"]

    @property
    def limitation(self) -> str:
        """Say that single actions are gone."""
        return behavioral.LIMITATION

    def profile(self) -> dict[str, Any]:
        """Return counts, transitions and the profile of the week."""
        return self.behavior.profile_document()

    def sessions(self) -> list[dict[str, Any]]:
        """Return the sessions."""
        return self.behavior.session_documents()

    def estimate(self, times: Integers, columns: list[Column]) -> dict[str, Column]:
        """Return the commonest action of each hour of the week, and of other numbers the mean."""
        found = _from_statistics(self.summary_metrics, times, columns)
        actions = behavioral.likely_actions(self.behavior, times)
        if any(column.name == self.action_column for column in columns):
            found[self.action_column] = Column(self.action_column, ColumnKind.STRING, actions)
        return found


class KeptPatterns(Kept):
    """Trend, profile and spread."""

    form = LossyForm.SEASONAL
    available_analyses = (PATTERNS, ROWS)

    def __init__(self, reader: PayloadReader) -> None:
        """Read the patterns."""
        super().__init__(reader)
        told = reader.header["seasons"]
        self._seasons = [
            seasonal.read_season(reader, f"s{index}", facts["column"], facts) for index, facts in enumerate(told)
        ]
        self._first, self._last, self._distance = reader.header["span"]
        self._measured: Mapping[str, Mapping[str, float]] = reader.header["measured"]

    @property
    def limitation(self) -> str:
        """Say that rows are gone, and how far drawn ones are off."""
        errors = _told({column: f"{facts['root_mean_square_error']:.6g}" for column, facts in self._measured.items()})
        return seasonal.LIMITATION + (f" Root of the mean squared error: {errors}." if errors else "")

    def rows(self, resolution: timedelta | None = None) -> pa.Table:
        """Return rows at even distances: as the readings usually were, or at the resolution."""
        if not self.record_count:
            return seasonal.drawn([], 0, -1, timedelta(seconds=1))
        distance = resolution or timedelta(microseconds=max(self._distance, 1))
        return seasonal.drawn(self._seasons, self._first, self._last, distance)

    def patterns(self) -> dict[str, Any]:
        """Return the patterns by column, with their measured errors."""
        return {season.column: season.document(self._measured[season.column]) for season in self._seasons}

    def estimate(self, times: Integers, columns: list[Column]) -> dict[str, Column]:
        """Return trend and profile at each time, and of other columns the commonest value."""
        found = _from_statistics(self.summary_metrics, times, columns)
        return found | {season.column: seasonal.column_at(season, times) for season in self._seasons}


def _told(columns: Mapping[str, str]) -> str:
    names = sorted(columns)
    more = len(names) - COLUMNS_NAMED_MAX
    told = [f"{name} {columns[name]}" for name in names[:COLUMNS_NAMED_MAX]]
    return ", ".join([*told, f"and {more} more columns"] if more > 0 else told)


_KEPT: Final[Mapping[str, type[Kept]]] = {
    kept.form.value: kept for kept in (KeptRows, KeptWindows, KeptBehavior, KeptPatterns)
}


def decode(payload: bytes) -> Kept:
    """Return what is left. Raises LossyPayloadDamaged."""
    reader = PayloadReader(payload)
    try:
        with np.errstate(all="ignore"):
            return _KEPT[reader.header["form"]](reader)
    except (KeyError, IndexError, ValueError, TypeError, pa.ArrowException) as error:
        raise LossyPayloadDamaged("the payload does not hold what its header says") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """A payload, and what each column became in it."""

    payload: bytes
    codecs: Mapping[str, str]
    column_bytes: Mapping[str, int]
    shares: Mapping[str, float] = field(default_factory=dict)
    """How much of a column is explained, where that is not measured by estimates."""


def encode(table: pa.Table, settings: LossySettings) -> LossyResult:
    """Encode records of any order; what is told of the loss is measured on what the payload gives back.

    Raises LossySettingsInvalid when the settings do not suit the records.
    """
    with np.errstate(all="ignore"):
        records = sorted_records(table)
        flat = records if settings.form is LossyForm.PIECEWISE else as_columns(records)
        metrics = summarize(flat)
        header = {"form": settings.form.value, "records": records.num_rows, "summary": metrics}
        if settings.form is LossyForm.PIECEWISE:
            written = _write_rows(records, settings, header)
        elif settings.form is LossyForm.SUMMARY:
            written = _write_windows(flat, settings, header)
        elif settings.form is LossyForm.BEHAVIORAL:
            written = _write_behavior(records, settings, header)
        else:
            written = _write_patterns(flat, settings, header)
        return _measured(records, flat, settings, metrics, written)


def check(payload: bytes, table: pa.Table, settings: LossySettings) -> None:
    """Compare a payload, as it was read back, with the records that it stands for.

    Raises LossyPayloadDamaged where it cannot be read, and ValueError where it does not give back what it must.
    """
    kept = decode(payload)
    if kept.form is not settings.form or kept.record_count != table.num_rows:
        raise ValueError(f"{kept.record_count} records as {kept.form.value} in place of {table.num_rows}")
    if settings.form is not LossyForm.PIECEWISE:
        return
    records, rows = sorted_records(table), kept.rows()
    if rows.schema.names != records.schema.names or not rows.column(TIME).equals(records.column(TIME)):
        raise ValueError("other times or columns")
    with np.errstate(all="ignore"):
        for original, given in zip(columns_of(records), columns_of(rows), strict=True):
            fit = measure_fit(original, given)
            bound = _bound(original, settings)
            if fit.max_error > bound or not fit.same_sorts:
                raise ValueError(f"column {original.name!r} is off by {fit.max_error}, which is more than {bound}")


def _bound(column: Column, settings: LossySettings) -> float:
    """Return how far off a value of a column may be."""
    if not column.kind.numeric:
        return 0.0
    values, finite = column.floats()
    return settings.error_ratio(column.name) * float(np.ptp(values[finite])) if finite.any() else 0.0


def _write_rows(records: pa.Table, settings: LossySettings, header: Mapping[str, Any]) -> _Written:
    writer = PayloadWriter(level=settings.level)
    told, stored = piecewise.add_rows(writer, records, settings)
    bounds = {
        facts["name"]: settings.error_ratio(facts["name"]) * (facts["scale"][1] - facts["scale"][0])
        for facts in told["columns"]
        if "scale" in facts
    }
    payload = writer.finish({**header, "rows": told["columns"], "bounds": bounds})
    return _Written(payload=payload, codecs=told["codecs"], column_bytes=stored)


def _write_windows(records: pa.Table, settings: LossySettings, header: Mapping[str, Any]) -> _Written:
    writer = PayloadWriter(level=settings.level)
    told, stored = summary.add_windows(writer, summary.windows_of(records, settings))
    payload = writer.finish({**header, "windows": told})
    return _Written(payload=payload, codecs=dict.fromkeys(stored, "windows"), column_bytes=stored)


def _write_patterns(records: pa.Table, settings: LossySettings, header: Mapping[str, Any]) -> _Written:
    times = times_of(records)
    columns = columns_of(records)
    told: list[dict[str, Any]] = []
    stored: dict[str, int] = {}
    writer = PayloadWriter(level=settings.level)
    for column in columns:
        season = seasonal.season_of(column, times) if column.kind.numeric else None
        if season is not None:
            facts, stored[column.name] = seasonal.add_season(writer, f"s{len(told)}", season)
            told.append({"column": column.name, **facts})
    distances = np.diff(times)
    usual = int(np.median(distances[distances > 0])) if (distances > 0).any() else 0
    span = [int(times[0]), int(times[-1]), usual] if len(times) else [0, 0, 0]
    # Written twice: the errors that it tells are those of what is given back, levels included.
    draft = decode(writer.finish({**header, "seasons": told, "span": span, "measured": {}}))
    given = draft.estimate(times, columns)
    measured = {
        column.name: _as_json(measure_fit(column, given[column.name])) for column in columns if column.name in stored
    }
    payload = writer.finish({**header, "seasons": told, "span": span, "measured": measured})
    return _Written(payload=payload, codecs=dict.fromkeys(stored, "seasons"), column_bytes=stored)


def _write_behavior(records: pa.Table, settings: LossySettings, header: Mapping[str, Any]) -> _Written:
    behavior = behavioral.behavior_of(records, settings)
    writer = PayloadWriter(level=settings.level)
    told, taken = behavioral.add_behavior(writer, behavior)
    column = settings.action_column or behavioral.only_text(columns_of(records))
    payload = writer.finish({**header, "behavior": told, "action_column": column})
    return _Written(
        payload=payload,
        codecs={column: "behavior"},
        column_bytes={column: taken},
        shares={column: behavioral.explained_share(behavior)},
    )


def _measured(
    records: pa.Table, flat: pa.Table, settings: LossySettings, metrics: Mapping[str, Any], written: _Written
) -> LossyResult:
    """Measure what the payload gives back, and tell it."""
    kept = decode(written.payload)
    columns = columns_of(flat)
    given = kept.estimate(times_of(flat), columns)
    fits = {
        column.name: measure_fit(column, given[column.name]) if column.name in given else LOST for column in columns
    }
    explained = [written.shares.get(name, fit.explained) for name, fit in fits.items()]
    losses = tuple(
        ColumnLoss(
            column=column.name,
            codec=written.codecs.get(column.name, "statistics"),
            original_bytes=int(column.array.nbytes),
            compressed_bytes=written.column_bytes.get(column.name, 0),
            max_error=fits[column.name].max_error,
            root_mean_square_error=fits[column.name].root_mean_square_error,
        )
        for column in columns
    )
    return LossyResult(
        form=settings.form,
        payload=written.payload,
        record_count=records.num_rows,
        original_bytes=columnar.plain_bytes(records),
        columns=losses,
        summary_metrics=metrics,
        value_retained=float(np.mean(explained)) if explained else 1.0,
        exact=isinstance(kept, KeptRows) and all(loss.max_error == 0 for loss in losses),
        available_analyses=kept.available_analyses,
        limitation=kept.limitation,
    )


def _as_json(fit: ColumnFit) -> dict[str, float]:
    return {
        "max_error": fit.max_error,
        "root_mean_square_error": fit.root_mean_square_error,
        "explained": fit.explained,
    }


def _from_statistics(metrics: Mapping[str, Any], times: Integers, columns: list[Column]) -> dict[str, Column]:
    """Return for each record the mean of a column of numbers, or the commonest value of another one."""
    found: dict[str, Column] = {}
    for column in columns:
        known = metrics.get(column.name, {})
        if column.kind.numeric:
            if (mean := known.get("mean")) is not None:
                found[column.name] = Column(column.name, ColumnKind.DOUBLE, pa.array(np.full(len(times), mean)))
        elif top := known.get("top"):
            commonest = pa.scalar(next(iter(top)), type=pa.string())
            found[column.name] = Column(column.name, ColumnKind.STRING, pa.repeat(commonest, len(times)))
    return found


def windows_of(table: pa.Table, window: timedelta, zones: Mapping[str, tuple[float, ...]] | None = None) -> Windows:
    """Return the statistics of the windows of rows."""
    settings = LossySettings(form=LossyForm.SUMMARY, window=window, zones=zones or {})
    with np.errstate(all="ignore"):
        return summary.windows_of(as_columns(sorted_records(table)), settings)


def behavior_of(table: pa.Table, action_column: str, session_gap: timedelta) -> Behavior:
    """Return what the actions of rows come to. Raises LossySettingsInvalid where it cannot tell which they are."""
    settings = LossySettings(form=LossyForm.BEHAVIORAL, action_column=action_column, session_gap=session_gap)
    return behavioral.behavior_of(sorted_records(table), settings)


def patterns_of(table: pa.Table) -> dict[str, Any]:
    """Return the patterns of rows, with what they miss of them, by column."""
    flat = as_columns(sorted_records(table))
    times = times_of(flat)
    found: dict[str, Any] = {}
    with np.errstate(all="ignore"):
        for column in columns_of(flat):
            season = seasonal.season_of(column, times) if column.kind.numeric else None
            if season is not None:
                fit = measure_fit(column, seasonal.column_at(season, times))
                found[column.name] = season.document(_as_json(fit))
    return found
