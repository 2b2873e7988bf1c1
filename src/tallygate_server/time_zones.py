"""The time zones that this machine knows."""

from __future__ import annotations

from functools import cache
from zoneinfo import available_timezones


@cache
def time_zones() -> frozenset[str]:
    """Return the names of the IANA time zones; looks into the files of the machine, once."""
    # The two left out mean whatever the machine says.
    return frozenset(available_timezones() - {"localtime", "Factory"})
