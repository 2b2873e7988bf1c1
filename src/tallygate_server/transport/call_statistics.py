"""Counts of finished calls, as plain integers: cheap enough for every call, read when somebody asks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

DURATION_BOUNDS_SECONDS: Final = (
    0.000_25,
    0.000_5,
    0.001,
    0.002_5,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
)
"""Upper bounds of the duration histogram; slower calls land in one more bucket."""


class CallObserver(Protocol):
    """Whoever wants to know about every finished call."""

    def __call__(self, method: str, code: str, seconds: float, /) -> None:
        """Take note of one call: full method name, gRPC code name, duration."""


@dataclass(slots=True)
class CallSeries:
    """The calls of one method that ended with one code."""

    method: str
    code: str
    count: int = 0
    seconds_total: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(DURATION_BOUNDS_SECONDS) + 1))
    """Calls per duration bucket, not cumulated."""


class CallStatistics:
    """Adds up finished calls by method and code. One loop's property: not safe across threads for writing."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str], CallSeries] = {}

    def __call__(self, method: str, code: str, seconds: float, /) -> None:
        """Add one call."""
        series = self._series.get((method, code))
        if series is None:
            series = self._series[method, code] = CallSeries(method, code)
        series.count += 1
        series.seconds_total += seconds
        series.buckets[bisect_left(DURATION_BOUNDS_SECONDS, seconds)] += 1

    def __iter__(self) -> Iterator[CallSeries]:
        """Go through all series; their number is bounded by methods times codes."""
        return iter(list(self._series.values()))

    def count(self, method: str, code: str) -> int:
        """Return how many calls of the method ended with the code."""
        series = self._series.get((method, code))
        return 0 if series is None else series.count
