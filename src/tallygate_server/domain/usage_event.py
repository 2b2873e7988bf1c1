"""One thing that happened, as callers report it: shaped like a CloudEvent."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from tallygate_server.domain.catalog import ConfigValue
from tallygate_server.domain.identifier import AccountId


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientContext:
    """Where a call came from; kept with the event, and never used as a dimension by itself."""

    user_agent: str = ""
    ip_address: str = ""
    input_text_length: int = 0
    """In characters."""
    output_text_length: int = 0


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
            "ai": asdict(self.ai) if self.ai is not None else None,
            "client": asdict(self.client) if self.client is not None else None,
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], signed=True)
