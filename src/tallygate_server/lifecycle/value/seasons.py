"""Strata of records by season, and how many samples each of them gets."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_ROUNDING: Final = 1e-9
_SCALE_MAX: Final = 2.0**200
_HALVINGS: Final = 120
_HOUR_MICROS: Final = 3_600_000_000
_DAY_MICROS: Final = 24 * _HOUR_MICROS
_THURSDAY: Final = 3
"""The day of the week on which 1970 began, counted from Monday."""
_DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTHS: Final = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip


class SeasonKind(IntEnum):
    """What records are stratified by; numbers are those of the contract."""

    HOUR_OF_DAY = 1
    DAY_OF_WEEK = 2
    MONTH_OF_YEAR = 3


SEASONS_DEFAULT: Final = (SeasonKind.DAY_OF_WEEK, SeasonKind.HOUR_OF_DAY)


def strata_of(times: Integers, seasons: Sequence[SeasonKind]) -> tuple[Integers, list[str]]:
    """Return the stratum of each record, as a place in the list of the strata's names, and that list.

    Times are microseconds since 1970 in UTC. Names go from the longest season to the shortest: `january/monday/08`.
    Only strata that have a record are there, in the order of the calendar.
    """
    days = np.floor_divide(times, _DAY_MICROS)
    codes = np.zeros(len(times), dtype=np.int64)
    kinds = [kind for kind in sorted(SeasonKind, reverse=True) if kind in (seasons or SEASONS_DEFAULT)]
    for kind in kinds:
        codes = codes * _size(kind) + _place(kind, times, days)
    present, strata = np.unique(codes, return_inverse=True)
    return strata.astype(np.int64), [_name(int(code), kinds) for code in present]


def allocate(weights: Floats, sample_count: int, sizes: Integers) -> Integers:
    """Divide samples among strata in proportion to their weights, by the largest remainder.

    Every stratum with a record gets one where there are enough, and none gets more than its `sizes`: what these bounds
    take or leave is divided in proportion again. The sum is the smaller of the wanted count and all sizes together.
    """
    room = np.asarray(sizes, dtype=np.float64)
    count = min(sample_count, int(room.sum()))
    shares = np.where(room > 0, np.asarray(weights, dtype=np.float64), 0.0)
    least = np.minimum(room, 1.0) if count >= np.count_nonzero(room) else np.zeros(len(room))
    quotas = np.clip(shares * _scale(shares, least, room, count), least, room)
    # Off by less than a rounding error of the scale: what is whole must not fall below itself.
    given = np.floor(quotas + _ROUNDING).astype(np.int64)
    remainders = np.where(given < room, quotas - given, -1.0)
    for place in np.argsort(-remainders, kind="stable")[: count - int(given.sum())]:
        given[place] += 1
    return given


def _scale(shares: Floats, least: Floats, most: Floats, count: int) -> float:
    """Return what to multiply shares by so that, within their bounds, they sum to the count."""
    low, high = 0.0, 1.0
    while np.clip(shares * high, least, most).sum() < count and high < _SCALE_MAX:
        high *= 2.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        if np.clip(shares * middle, least, most).sum() < count:
            low = middle
        else:
            high = middle
    return high


def _size(kind: SeasonKind) -> int:
    return {SeasonKind.HOUR_OF_DAY: 24, SeasonKind.DAY_OF_WEEK: 7, SeasonKind.MONTH_OF_YEAR: 12}[kind]


def _place(kind: SeasonKind, times: Integers, days: Integers) -> Any:
    if kind is SeasonKind.HOUR_OF_DAY:
        return (times - days * _DAY_MICROS) // _HOUR_MICROS
    if kind is SeasonKind.DAY_OF_WEEK:
        return (days + _THURSDAY) % 7
    return days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) % 12


def _name(code: int, kinds: Sequence[SeasonKind]) -> str:
    parts: list[str] = []
    for kind in reversed(kinds):
        code, place = divmod(code, _size(kind))
        if kind is SeasonKind.HOUR_OF_DAY:
            parts.append(f"{place:02}")
        else:
            parts.append((_DAYS if kind is SeasonKind.DAY_OF_WEEK else _MONTHS)[place])
    return "/".join(reversed(parts))
