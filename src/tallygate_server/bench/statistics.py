"""From single requests to rates, percentiles and medians."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from tallygate_server.bench.h2load import Sample

EDGE_SHARE: Final = 0.05
"""Of a slice, cut off at each end: there connections open, and the last calls end one by one."""

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How fast a slice was."""

    calls_per_s: float
    p50_ms: float
    p99_ms: float


def speed_of(samples: Sequence[Sample]) -> Speed:
    """Return rate and percentiles of the calls that ended in the middle of the time in which all processes ran.

    Where there was no such time, or no call ended in it, the whole time counts.
    """
    ends = [
        [start + duration for start, duration in zip(sample.start_us, sample.duration_us, strict=True)]
        for sample in samples
    ]
    began_us = max(min(sample.start_us) for sample in samples)
    ended_us = min(max(process_ends) for process_ends in ends)
    if ended_us <= began_us:
        began_us = min(min(sample.start_us) for sample in samples)
        ended_us = max(max(process_ends) for process_ends in ends)
    edge_us = (ended_us - began_us) * EDGE_SHARE
    middle = math.ceil(began_us + edge_us), math.floor(ended_us - edge_us)
    calls = [
        (end, duration)
        for sample, process_ends in zip(samples, ends, strict=True)
        for end, duration in zip(process_ends, sample.duration_us, strict=True)
    ]
    durations_us = sorted(duration for end, duration in calls if middle[0] <= end < middle[1])
    if durations_us:
        began_us, ended_us = middle
    else:
        # All calls ended as one, as a handful of large batches may.
        durations_us = sorted(duration for _, duration in calls)
    return Speed(
        calls_per_s=len(durations_us) * 1e6 / (ended_us - began_us),
        p50_ms=percentile(durations_us, 50) / 1_000,
        p99_ms=percentile(durations_us, 99) / 1_000,
    )


def percentile(ascending: Sequence[float], percent: int) -> float:
    """Return the smallest value that at least so many percent do not exceed."""
    return ascending[max(0, math.ceil(len(ascending) * percent / 100) - 1)]


def median(values: Iterable[float]) -> float:
    """Return the middle value, or the mean of the two in the middle."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def interleaved(items: Sequence[Item], turns: int) -> Iterator[tuple[int, Item]]:
    """Go through all items in every turn, forwards and backwards by turns: A B C, C B A, A B C."""
    for turn in range(turns):
        for item in items if turn % 2 == 0 else reversed(items):
            yield turn, item
