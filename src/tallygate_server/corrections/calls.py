"""What callers want corrected, and what they hear."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tallygate_server.domain.corrections import Denial
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.usage_queries import FeatureUsage, UsageEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Reversal:
    """Take back what one line of the ledger counted, or a part of it."""

    tenant_id: TenantId
    account_id: AccountId
    entry_id: str
    quantity: int | None = None
    """None: all that is left of the line."""
    reason_text: str
    request_id: str = ""
    """Empty: every call is a new one."""
    actor: str

    def fingerprint(self) -> int:
        """Return a 64-bit hash of what the request id stands for; the RPC's name sets it apart from other calls."""
        return _hash(["ReverseUsage", self.entry_id, self.quantity, self.reason_text])


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """Add to a counter or a gauge, or take away from it, whatever its limit says."""

    tenant_id: TenantId
    account_id: AccountId
    feature_key: FeatureKey
    quantity: int
    """Never 0; negative takes away."""
    event_time: datetime | None = None
    """Decides the period; None: now."""
    reason_text: str
    request_id: str = ""
    """Empty: every call is a new one."""
    actor: str

    def fingerprint(self) -> int:
        """Return a 64-bit hash of what the request id stands for; the RPC's name sets it apart from other calls."""
        event_time = self.event_time.isoformat() if self.event_time is not None else ""
        return _hash(["CorrectUsage", self.feature_key, self.quantity, event_time, self.reason_text])


@dataclass(frozen=True, slots=True, kw_only=True)
class ReversalAnswer:
    """What became of a reversal."""

    entry: UsageEntry
    """The new line."""
    reversible_quantity: int
    """What can still be taken back of the reversed line."""
    usage: FeatureUsage
    """Of the period of the reversed line, which may have ended."""
    redeemable_denials: tuple[Denial, ...]
    """Denials that would have been allowed without what was taken back: the first of them, in order of time."""
    redeemable_denial_count: int
    replayed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectionAnswer:
    """What became of a correction."""

    entry: UsageEntry
    usage: FeatureUsage
    replayed: bool


def _hash(content: list[Any]) -> int:
    text = json.dumps(content, separators=(",", ":"))
    value: int = struct.unpack(">q", hashlib.blake2b(text.encode(), digest_size=8).digest())[0]
    return value
