"""One thing that happened, as callers report it: shaped like a CloudEvent."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from tallygate_server.domain.catalog import ConfigValue
from tallygate_server.domain.identifier import AccountId
from tallygate_server.domain.limits import (
    EVENT_AGE_SECONDS_MAX,
    EVENT_AHEAD_SECONDS_MAX,
    LATE_EVENT_WINDOW_SECONDS_DEFAULT,
)

_AGE_MAX: Final = timedelta(seconds=EVENT_AGE_SECONDS_MAX)
_AHEAD_MAX: Final = timedelta(seconds=EVENT_AHEAD_SECONDS_MAX)
_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
_LATE_WINDOW_DEFAULT: Final = timedelta(seconds=LATE_EVENT_WINDOW_SECONDS_DEFAULT)


@dataclass(frozen=True, slots=True, kw_only=True)
class AiUsage:
    """What an AI model did for one request."""

    model_key: str
    input_tokens: int = 0
    """Cached ones included."""
    output_tokens: int = 0
    cached_input_tokens: int = 0
    """Input tokens that were read from a cache; never more than `input_tokens`."""
    operation: str = ""

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def as_json(self) -> dict[str, str | int]:
        """Return the fields under the names of the contract."""
        return {
            "model_key": self.model_key,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cached_input_tokens": self.cached_input_tokens,
            "operation": self.operation,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientContext:
    """Where a call came from; kept with the event, and never used as a dimension by itself."""

    user_agent: str = ""
    ip_address: str = ""
    input_text_length: int = 0
    """In characters."""
    output_text_length: int = 0

    def as_json(self) -> dict[str, str | int]:
        """Return the fields under the names of the contract."""
        return {
            "user_agent": self.user_agent,
            "ip_address": self.ip_address,
            "input_text_length": self.input_text_length,
            "output_text_length": self.output_text_length,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageEvent:
    """One event that obeys the rules of the contract."""

    source: str
    event_id: str
    """Unique for its source."""
    type: str
    account_id: AccountId
    time: datetime | None = None
    """When it happened, in UTC; None: when the call came in."""
    data: dict[str, ConfigValue] | None = None
    ai: AiUsage | None = None
    client: ClientContext | None = None

    def fingerprint(self) -> int:
        """Return a 64-bit hash of all that the event says: what its source and id stand for.

        An event that names no time has the same fingerprint whenever it is sent.
        """
        content: dict[str, Any] = {
            "type": self.type,
            "subject": self.account_id,
            "time": self.time.isoformat() if self.time is not None else None,
            "data": self.data,
            "ai": self.ai.as_json() if self.ai is not None else None,
            "client": self.client.as_json() if self.client is not None else None,
        }
        return int.from_bytes(hashlib.sha256(_ENCODER.encode(content).encode()).digest()[:8], signed=True)


def out_of_range(happened: datetime, now: datetime) -> str:
    """Return why an event of this time is not taken now; empty where it is."""
    if now - happened > _AGE_MAX:
        return f"is more than {_AGE_MAX.days} days ago"
    if happened - now > _AHEAD_MAX:
        return f"is more than {EVENT_AHEAD_SECONDS_MAX // 60} minutes ahead"
    return ""


def still_counts(period_end: datetime | None, now: datetime, window: timedelta | None) -> bool:
    """Tell whether a period (None: without end) takes an event that happened in it and comes in now.

    It does until it has been over for longer than the window; None is the default, one day.
    """
    return period_end is None or now - period_end <= (_LATE_WINDOW_DEFAULT if window is None else window)
