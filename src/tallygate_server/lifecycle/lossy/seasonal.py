"""Patterns instead of rows: of each column of numbers a trend, a profile of the day or week, and how the rest spreads.

The cycle is a week when the records span at least two of them, a day when they span at least two days, else there is
none. The profile has a value for each step of the cycle in UTC, Mondays first: half an hour, or the next longer part of
a day when readings are farther apart. The trend is a line through the median of each cycle. Trend and profile are
medians, fitted in turns, so that a few odd readings do not bend them. The rest is what they leave: its standard
deviation and quantiles are kept for each step.

Levels are whole multiples of a 64th of the rest's spread. There is no guaranteed error: what is lost is measured, and
told with the patterns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tallygate_server.lifecycle.lossy.behavioral import iso_time
from tallygate_server.lifecycle.lossy.failures import AnalysisUnavailable
from tallygate_server.lifecycle.lossy.measure import QUANTILES
from tallygate_server.lifecycle.lossy.payload import PayloadReader, PayloadWriter
from tallygate_server.lifecycle.lossy.records import TIME, Column, ColumnKind, Floats, Integers, time_array

STEP_SECONDS_MIN: Final = 1_800
DAY_SECONDS: Final = 86_400
STEPS_SECONDS: Final = tuple(hours * 1_800 for hours in (1, 2, 4, 6, 8, 12, 16, 24, 48))
"""Parts of a day that a profile may have: half an hour, 1, 2, 3, 4, 6, 8, 12 and 24 hours."""
CYCLES_MIN: Final = 2
"""Of a day or week; with fewer there is nothing to compare."""
TREND_PIECES: Final = 8
"""Of the trend when there is no cycle."""
TURNS: Final = 3
LEVELS_PER_SPREAD: Final = 64
POINTS_MAX: Final = 1_000_000
"""Rows that patterns are drawn as at once."""
LIMITATION: Final = (
    "Single records are gone: rows are drawn from trend and profile at even distances, and are only as near as the"
    " stated errors say; columns that hold no numbers are known by their statistics alone."
)
_SPREADS: Final = ("std", *(f"p{share}" for share in QUANTILES))
_MICROS: Final = 1_000_000
_MONDAY: Final = 4 * DAY_SECONDS * _MICROS
"""The first Monday since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Season:
    """The patterns of one column."""

    column: str
    origin: int
    """Microseconds since 1970 of the first cycle's begin."""
    piece: int
    """Length of a piece of the trend in microseconds."""
    trend: Floats
    """In the middle of each piece; not-a-number where it holds nothing."""
    cycle_steps: int
    """Steps of the cycle; 1: there is no cycle."""
    step: int
    """Microseconds."""
    profile: Floats
    """What each step lies above the trend; not-a-number where the step has no reading."""
    spread: Mapping[str, Floats]
    """Standard deviation and quantiles of the rest, for each step."""

    def at(self, times: Integers) -> Floats:
        """Return trend and profile at some times."""
        with np.errstate(all="ignore"):
            return self._at(times)

    def _at(self, times: Integers) -> Floats:
        known = np.flatnonzero(~np.isnan(self.trend))
        middles = self.origin + known * float(self.piece) + self.piece / 2
        trend = np.interp(times.astype(np.float64), middles, self.trend[known])
        return trend + np.nan_to_num(self.profile)[self._steps(times)]

    def _steps(self, times: Integers) -> Integers:
        return steps_of(times, self.step, self.cycle_steps)

    def document(self, measured: Mapping[str, float]) -> dict[str, Any]:
        """Return the patterns ready for JSON, with the errors that were measured."""
        rows = max(1, self.cycle_steps * self.step // (DAY_SECONDS * _MICROS))

        def shaped(values: Floats) -> list[Any]:
            told = [float(value) if np.isfinite(value) else None for value in values]
            size = len(told) // rows
            return [told[row * size : (row + 1) * size] for row in range(rows)] if rows > 1 else told

        cycle = "none" if self.cycle_steps == 1 else "day" if rows == 1 else "week"
        return {
            "trend": [
                {"time": iso_time(self.origin + place * self.piece + self.piece // 2), "value": float(value)}
                for place, value in enumerate(self.trend)
                if np.isfinite(value)
            ],
            "cycle": cycle,
            "step_seconds": self.step / _MICROS,
            "profile": shaped(self.profile),
            "spread": {name: shaped(values) for name, values in self.spread.items()},
            "measured": dict(measured),
        }


def steps_of(times: Integers, step: int, cycle_steps: int) -> Integers:
    """Return the step of the cycle that each time lies in."""
    return (times - _MONDAY) // step % cycle_steps


def season_of(column: Column, times: Integers) -> Season | None:
    """Return the patterns of a column of sorted records, or None when it has no finite value."""
    values, finite = column.floats()
    if not finite.any():
        return None
    present, at = values[finite], times[finite]
    step, cycle_steps, piece = _layout(at)
    # Pieces of a trend without a cycle may be far shorter than a step: they begin with the first reading.
    origin = (int(at[0]) - _MONDAY) // step * step + _MONDAY if cycle_steps > 1 else int(at[0])
    pieces = (at - origin) // piece
    steps = steps_of(at, step, cycle_steps)
    profile = np.zeros(cycle_steps)
    season = Season(
        column=column.name, origin=origin, piece=piece, trend=np.zeros(1), cycle_steps=cycle_steps, step=step,
        profile=profile, spread={},
    )  # fmt: skip
    for _ in range(TURNS):
        trend = _medians(present - np.nan_to_num(profile)[steps], pieces, int(pieces[-1]) + 1)
        flat = _with(season, trend=trend, profile=np.zeros(cycle_steps))
        if cycle_steps > 1:
            profile = _medians(present - flat.at(at), steps, cycle_steps)
            profile = profile - np.nanmean(profile)
        season = _with(flat, profile=profile)
    return _with_spread(season, present - season.at(at), steps)


def _layout(times: Integers) -> tuple[int, int, int]:
    """Return the length of a step, the steps of the cycle, and the length of a piece of the trend."""
    span = int(times[-1] - times[0])
    distances = np.diff(times)
    distance = int(np.median(distances[distances > 0])) if (distances > 0).any() else 0
    day = DAY_SECONDS * _MICROS
    step = next((size * _MICROS for size in STEPS_SECONDS if size * _MICROS >= distance), day)
    for length in (7 * day, day):
        if span >= CYCLES_MIN * length and distance < length and step < length:
            return step, length // step, length
    return step, 1, max(span // TREND_PIECES + 1, 1)


def _medians(values: Floats, groups: Integers, count: int) -> Floats:
    """Return the median of each group, not-a-number for an empty one."""
    order = np.lexsort((values, groups))
    ranked = values[order]
    size = np.bincount(groups, minlength=count)
    found = np.full(count, np.nan)
    begins = (np.cumsum(size) - size)[size > 0]
    sizes = size[size > 0]
    found[size > 0] = (ranked[begins + (sizes - 1) // 2] + ranked[begins + sizes // 2]) / 2
    return found


def _with_spread(season: Season, rest: Floats, steps: Integers) -> Season:
    count = season.cycle_steps
    order = np.lexsort((rest, steps))
    ranked = rest[order]
    size = np.bincount(steps, minlength=count)
    some = size > 0
    begins, sizes = (np.cumsum(size) - size)[some], size[some]
    sums = np.bincount(steps, weights=rest, minlength=count)[some] / sizes
    squares = np.bincount(steps, weights=rest**2, minlength=count)[some] / sizes
    spread: dict[str, Floats] = {"std": _filled(np.sqrt(np.maximum(squares - sums**2, 0)), some)}
    for share in QUANTILES:
        place = (sizes - 1) * share / 100
        below = np.floor(place).astype(np.int64)
        low, high = ranked[begins + below], ranked[begins + np.minimum(below + 1, sizes - 1)]
        spread[f"p{share}"] = _filled(low + (high - low) * (place - below), some)
    profile = _filled(np.nan_to_num(season.profile)[some], some)
    return _with(season, profile=profile, spread=spread)


def _filled(values: Floats, some: npt.NDArray[np.bool_]) -> Floats:
    found = np.full(len(some), np.nan)
    found[some] = values
    return found


def _with(season: Season, **changes: Any) -> Season:
    told = {
        name: getattr(season, name)
        for name in ("column", "origin", "piece", "trend", "cycle_steps", "step", "profile", "spread")
    }
    return Season(**(told | changes))


def add_season(writer: PayloadWriter, section: str, season: Season) -> tuple[dict[str, Any], int]:
    """Store patterns; return what the reader must know, and the bytes they take."""
    known = ~np.isnan(season.profile)
    spreads = season.spread["std"][~np.isnan(season.spread["std"])]
    spread = float(np.max(spreads, initial=0.0))
    grid = spread / LEVELS_PER_SPREAD if spread > 0 and np.isfinite(spread) else 0.0
    stored = writer.add_array(f"{section}.trend", season.trend)
    stored += writer.add_bytes(f"{section}.known", np.packbits(known).tobytes())
    for name, values in [("profile", season.profile), *season.spread.items()]:
        present = values[known]
        # Where nothing spreads, or levels would not fit, the numbers themselves.
        levels = np.rint(present / grid) if grid and np.abs(present).max() / grid < 2**52 else None
        stored += writer.add_array(f"{section}.{name}", present if levels is None else levels.astype(np.int64))
        if levels is None:
            stored += writer.add_bytes(f"{section}.{name}.plain", b"\x01")
    told = {
        "origin": season.origin,
        "piece": season.piece,
        "steps": season.cycle_steps,
        "step": season.step,
        "grid": grid,
    }
    return told, stored


def read_season(reader: PayloadReader, section: str, column: str, told: Mapping[str, Any]) -> Season:
    """Return the patterns that `add_season` has stored."""
    steps = int(told["steps"])
    known = np.unpackbits(np.frombuffer(reader.bytes_of(f"{section}.known"), dtype=np.uint8), count=steps) != 0

    def read(name: str) -> Floats:
        plain = reader.has(f"{section}.{name}.plain")
        values = reader.array(f"{section}.{name}", np.float64 if plain else np.int64).astype(np.float64)
        return _filled(values if plain else values * told["grid"], known)

    return Season(
        column=column,
        origin=int(told["origin"]),
        piece=int(told["piece"]),
        trend=reader.array(f"{section}.trend", np.float64),
        cycle_steps=steps,
        step=int(told["step"]),
        profile=read("profile"),
        spread={name: read(name) for name in _SPREADS},
    )


def drawn(seasons: Sequence[Season], first: int, last: int, distance: timedelta) -> pa.Table:
    """Return rows at even distances from the first to the last record. Raises AnalysisUnavailable for too many."""
    step = max(distance // timedelta(microseconds=1), 1)
    count = (last - first) // step + 1
    if count > POINTS_MAX:
        raise AnalysisUnavailable("rows", f"{count} rows are more than the {POINTS_MAX} that are drawn at once")
    times = first + np.arange(count, dtype=np.int64) * step
    return pa.table({TIME: time_array(times)} | {season.column: pa.array(season.at(times)) for season in seasons})


def column_at(season: Season, times: Integers) -> Column:
    """Return what patterns say of each record."""
    return Column(season.column, ColumnKind.DOUBLE, pa.array(season.at(times)))
