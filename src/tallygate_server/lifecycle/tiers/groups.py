"""Which segments go together: pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from tallygate_server.domain.lifecycle import SEGMENT_ROWS_MAX, Segment, StorageTier

GROUP_SEGMENTS_MAX: Final = 1_000
"""Segments that become one: a month of puts every hour, or a quarter of an hour of puts every second."""
GROUP_SPAN_MAX: Final = timedelta(days=31)
"""Longest span of segments that become one: retention, holds and exceptions are about segments as a whole, so that old
data that was put bit by bit must not be kept because of what came years later."""
SLACK: Final = {StorageTier.HOT: timedelta(hours=1), StorageTier.WARM: timedelta(days=1)}
"""How long due segments wait for company, by the tier they leave; a full group does not wait."""


def groups_of(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Yield segments that become one, in the order of their begin; those of a lossy form stay alone."""
    group: list[Segment] = []
    count = 0
    for segment in sorted(segments, key=lambda each: (each.start_time, each.segment_id)):
        full = count + segment.record_count > SEGMENT_ROWS_MAX or len(group) == GROUP_SEGMENTS_MAX
        wide = bool(group) and segment.end_time - group[0].start_time > GROUP_SPAN_MAX
        if group and (full or wide or not segment.form.exact or not group[0].form.exact):
            yield group
            group, count = [], 0
        group.append(segment)
        count += segment.record_count
    if group:
        yield group


def is_ripe(group: Sequence[Segment], cutoff: datetime, *, last: bool) -> bool:
    """Tell whether a group of due segments moves now: the last one may wait for more that come due."""
    oldest = min(segment.end_time for segment in group)
    return not last or oldest <= cutoff - SLACK[group[0].tier]
