"""What can be wrong with a segment, or with the table that should become one."""

from __future__ import annotations


class SegmentDamaged(Exception):
    """The bytes are not a segment that this package wrote: truncated, flipped, or made up."""


class SegmentRefused(ValueError):
    """The table cannot become a segment: a column of another type, no time, or more than a segment may hold."""
