"""The two hot calls and their answers, as plain values.

Slotted and mutable on purpose: frozen dataclasses cost several times as much to build, and these are
built for every call.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from tallygate_server.domain.catalog import ConfigValue, FeatureKind
from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.domain.limits import LIMIT_UNLIMITED


@dataclass(slots=True)
class Check:
    """May this account do this? Nothing is counted."""

    tenant_id: TenantId
    account_id: AccountId
    feature_key: FeatureKey
    quantity: int = 1
    min_revision: int = 0


@dataclass(slots=True)
class CheckAnswer:
    """What `CheckAccess` says."""

    reason: Reason
    revision: int = 0
    feature_kind: FeatureKind | None = None
    value: ConfigValue = None
    limit_quantity: int = 0
    used_quantity: int = 0
    held_quantity: int = 0
    reset_time: datetime | None = None
    threshold_percent: int = 0
    """Highest percent threshold that usage has reached; 0 for none."""
    threshold_quantity: int = 0
    """Highest absolute threshold that usage has reached; 0 for none."""
    grace_end_time: datetime | None = None
    upgrade_url: str = ""
    """Set on denials only."""
    plan_key: str = ""
    cache_ttl_ms: int = 0
    stale: bool = False

    @property
    def remaining_quantity(self) -> int:
        """What is left in this period; -1 for unlimited."""
        if self.limit_quantity == LIMIT_UNLIMITED:
            return LIMIT_UNLIMITED
        return max(0, self.limit_quantity - self.used_quantity - self.held_quantity)


@dataclass(slots=True)
class Increment:
    """Count this, if the limit allows."""

    tenant_id: TenantId
    account_id: AccountId
    feature_key: FeatureKey
    quantity: int = 1
    request_id: str = ""
    """Empty: not deduplicated."""
    event_time: datetime | None = None
    """None: now."""
    dimensions: dict[str, str] = field(default_factory=dict)
    accepted: bool = False
    """Answer after the hold, commit in the background."""


@dataclass(slots=True)
class IncrementAnswer:
    """What `Increment` says."""

    reason: Reason
    revision: int = 0
    feature_kind: FeatureKind | None = None
    limit_quantity: int = 0
    used_quantity: int = 0
    """Right after this call in commit order; for ACCEPTED and denials, as known at that moment."""
    held_quantity: int = 0
    reset_time: datetime | None = None
    threshold_percent: int = 0
    """Highest percent threshold that this call crossed; 0 for none."""
    threshold_quantity: int = 0
    """Highest absolute threshold that this call crossed; 0 for none."""
    grace_end_time: datetime | None = None
    upgrade_url: str = ""
    plan_key: str = ""
    replayed: bool = False
    entry_id: int = 0
    """The ledger entry; 0 for none (a denial)."""

    @property
    def remaining_quantity(self) -> int:
        """What is left in this period; -1 for unlimited."""
        if self.limit_quantity == LIMIT_UNLIMITED:
            return LIMIT_UNLIMITED
        return max(0, self.limit_quantity - self.used_quantity - self.held_quantity)
