"""What becomes of one sort of data: policies, exceptions, importance rules, legal holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import CompressionSettings, DataImportance, DataSelection

FOR_EVER: Final = -1
"""Days: kept for ever; thresholds: never."""
HOT_DAYS: Final = 30
WARM_DAYS: Final = 90
ALL_TYPES: Final = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionException:
    """Data that a policy does not apply to."""

    account_id: AccountId | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    retention_days: int
    reason_text: str
    expire_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportanceRule:
    """Gives data an importance, whatever its worth."""

    name: str
    column: str = ""
    min_value: float | None = None
    max_value: float | None = None
    min_training_value: float = 0.0
    importance: DataImportance


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """What becomes of one sort of data of a tenant; the contract's `RetentionPolicy` explains each field.

    The defaults are those of a tenant that never set one: everything is kept, moved between tiers without loss.
    """

    tenant_id: TenantId
    data_type: str = ALL_TYPES
    critical_retention_days: int = FOR_EVER
    standard_retention_days: int = FOR_EVER
    compression_threshold_days: int = FOR_EVER
    deletion_threshold_days: int = FOR_EVER
    ai_value_threshold: float = 0.5
    quality_threshold: float = 0.5
    hot_days: int = HOT_DAYS
    warm_days: int = WARM_DAYS
    compression: CompressionSettings = field(default_factory=CompressionSettings)
    exceptions: tuple[RetentionException, ...] = ()
    importance_rules: tuple[ImportanceRule, ...] = ()
    training_purpose: str = ""
    version: int = 0
    """0: nobody has set it."""
    update_time: datetime | None = None
    actor: str = ""

    def to_document(self) -> dict[str, Any]:
        """Return as JSON what somebody sets: all but tenant, version, time and actor."""
        return {
            "data_type": self.data_type,
            "critical_retention_days": self.critical_retention_days,
            "standard_retention_days": self.standard_retention_days,
            "compression_threshold_days": self.compression_threshold_days,
            "deletion_threshold_days": self.deletion_threshold_days,
            "ai_value_threshold": self.ai_value_threshold,
            "quality_threshold": self.quality_threshold,
            "hot_days": self.hot_days,
            "warm_days": self.warm_days,
            "compression": self.compression.to_document(),
            "exceptions": [_exception_document(each) for each in self.exceptions],
            "importance_rules": [_rule_document(each) for each in self.importance_rules],
            "training_purpose": self.training_purpose,
        }

    @classmethod
    def from_document(
        cls,
        tenant_id: TenantId,
        document: Mapping[str, Any],
        *,
        version: int = 0,
        update_time: datetime | None = None,
        actor: str = "",
    ) -> RetentionPolicy:
        """Return the policy that `to_document` wrote."""
        own = {
            **document,
            "compression": CompressionSettings.from_document(document["compression"]),
            "exceptions": tuple(_exception(each) for each in document["exceptions"]),
            "importance_rules": tuple(_rule(each) for each in document["importance_rules"]),
        }
        return cls(tenant_id=tenant_id, version=version, update_time=update_time, actor=actor, **own)


@dataclass(frozen=True, slots=True, kw_only=True)
class LegalHold:
    """Forbids removal of data, whatever a policy says."""

    tenant_id: TenantId
    legal_hold_id: str
    selection: DataSelection
    reason_text: str
    actor: str
    create_time: datetime
    end_time: datetime | None = None
    release_time: datetime | None = None

    def active_at(self, now: datetime) -> bool:
        """Tell whether it holds at this instant."""
        return self.release_time is None and (self.end_time is None or now < self.end_time)


def _exception_document(exception: RetentionException) -> dict[str, Any]:
    return {
        "account_id": exception.account_id,
        "start_time": _text(exception.start_time),
        "end_time": _text(exception.end_time),
        "retention_days": exception.retention_days,
        "reason_text": exception.reason_text,
        "expire_time": _text(exception.expire_time),
    }


def _exception(document: Mapping[str, Any]) -> RetentionException:
    times = {name: _instant(document[name]) for name in ("start_time", "end_time", "expire_time")}
    return RetentionException(**{**document, **times})


def _rule_document(rule: ImportanceRule) -> dict[str, Any]:
    return {
        "name": rule.name,
        "column": rule.column,
        "min_value": rule.min_value,
        "max_value": rule.max_value,
        "min_training_value": rule.min_training_value,
        "importance": int(rule.importance),
    }


def _rule(document: Mapping[str, Any]) -> ImportanceRule:
    return ImportanceRule(**{**document, "importance": DataImportance(document["importance"])})


def _text(instant: datetime | None) -> str | None:
    return instant.isoformat() if instant else None


def _instant(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
