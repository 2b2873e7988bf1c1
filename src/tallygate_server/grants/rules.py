"""What a grant may be: its gift fits its kind, and both fit the feature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Final

from tallygate_server.domain.catalog import ConfigValue, Feature, FeatureKind, Rollover
from tallygate_server.domain.entitlement import Grant, GrantKind, LimitOverride
from tallygate_server.domain.identifier import FeatureKey
from tallygate_server.domain.limits import LIMIT_MAX, LIMIT_UNLIMITED, QUANTITY_MAX
from tallygate_server.domain.period import PeriodKind
from tallygate_server.errors import FieldViolation, InvalidRequest
from tallygate_server.unique_ids import new_id

GRANT_PREFIX: Final = "grant"


class AskedKind(Enum):
    """What sort of extra is asked for."""

    BONUS = "bonus"
    PURCHASE = "purchase"
    OVERRIDE = "override"
    SWITCH = "switch"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewGrant:
    """A grant that is asked for; exactly one of the gifts is given."""

    feature_key: FeatureKey
    kind: AskedKind
    enabled: bool | None = None
    config_value: ConfigValue = None
    credit_quantity: int | None = None
    limit: LimitOverride | None = None
    priority: int = 0
    start_time: datetime | None = None
    """None: now."""
    expire_time: datetime | None = None
    recurrence: PeriodKind | None = None
    rollover: Rollover | None = None
    grace_end_time: datetime | None = None
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def gift(self) -> str:
        """The field that says what is given."""
        if self.enabled is not None:
            return "enabled"
        if self.credit_quantity is not None:
            return "credit_quantity"
        return "limit" if self.limit is not None else "config_value"

    @property
    def grant_kind(self) -> GrantKind:
        """How it is stored."""
        if self.kind is AskedKind.SWITCH:
            return GrantKind.ENABLE if self.enabled else GrantKind.DISABLE
        return GrantKind(self.kind.value)


_GIFTS: Final = {
    AskedKind.BONUS: ("credit_quantity",),
    AskedKind.PURCHASE: ("credit_quantity",),
    AskedKind.OVERRIDE: ("config_value", "limit"),
    AskedKind.SWITCH: ("enabled",),
}


def check_grant(wanted: NewGrant, feature: Feature, now: datetime) -> None:
    """Raise InvalidRequest naming every field that does not fit the others, the feature or the present."""
    violations = [
        *_gift_violations(wanted, feature),
        *_recurrence_violations(wanted, feature),
    ]
    if wanted.expire_time is not None:
        if wanted.expire_time <= now:
            violations.append(FieldViolation("expire_time", "must be in the future"))
        elif wanted.start_time is not None and wanted.expire_time <= wanted.start_time:
            violations.append(FieldViolation("expire_time", "must be after start_time"))
    if violations:
        raise InvalidRequest(violations)


def grant_of(wanted: NewGrant, feature: Feature, now: datetime) -> Grant:
    """Return the grant that is asked for, which must have been checked."""
    return Grant(
        grant_id=new_id(GRANT_PREFIX, now),
        feature_key=feature.key,
        feature_kind=feature.kind,
        kind=wanted.grant_kind,
        quantity=wanted.credit_quantity or (wanted.limit.quantity if wanted.limit is not None else 0),
        value=wanted.config_value,
        limit=wanted.limit,
        recurrence=wanted.recurrence,
        rollover=wanted.rollover,
        priority=wanted.priority,
        start_time=wanted.start_time or now,
        expire_time=wanted.expire_time,
        create_time=now,
        grace_end_time=wanted.grace_end_time,
    )


def _gift_violations(wanted: NewGrant, feature: Feature) -> list[FieldViolation]:
    gift, kind = wanted.gift, feature.kind
    if gift not in _GIFTS[wanted.kind]:
        fitting = " or ".join(_GIFTS[wanted.kind])
        return [FieldViolation(gift, f"does not fit kind {wanted.kind.name}, which gives {fitting}")]
    described = f"{feature.key!r} is a {kind.value} feature"
    if gift == "credit_quantity" and not kind.metered:
        return [FieldViolation("kind", f"{described}; units are given to counters and gauges only")]
    if gift == "config_value" and kind is not FeatureKind.CONFIG:
        return [FieldViolation("config_value", f"{described}; a value is given to config features only")]
    if gift == "limit" and not kind.metered:
        return [FieldViolation("limit", f"{described}; a limit is given to counters and gauges only")]
    violations = []
    if wanted.credit_quantity is not None and not 1 <= wanted.credit_quantity <= QUANTITY_MAX:
        violations.append(FieldViolation("credit_quantity", f"must be between 1 and {QUANTITY_MAX}"))
    if wanted.limit is not None:
        violations += _limit_violations(wanted.limit, kind)
    return violations


def _limit_violations(limit: LimitOverride, kind: FeatureKind) -> list[FieldViolation]:
    violations = []
    if not LIMIT_UNLIMITED <= limit.quantity <= LIMIT_MAX:
        violations.append(FieldViolation("limit.quantity", f"must be between {LIMIT_UNLIMITED} and {LIMIT_MAX}"))
    if kind is FeatureKind.GAUGE:
        for name, value in (
            ("period", limit.period_kind),
            ("anchor", limit.period_anchor),
            ("rollover", limit.rollover),
        ):
            if value is not None:
                violations.append(FieldViolation(f"limit.{name}", "a gauge has no period"))
    violations += _rollover_violations(limit.rollover, "limit.rollover")
    return violations


def _recurrence_violations(wanted: NewGrant, feature: Feature) -> list[FieldViolation]:
    violations = []
    counted = wanted.gift == "credit_quantity" and feature.kind is FeatureKind.COUNTER
    if wanted.recurrence is not None and not counted:
        violations.append(FieldViolation("recurrence", "only credits of counters are given again"))
    if wanted.rollover is not None and wanted.recurrence in (None, PeriodKind.LIFETIME):
        violations.append(FieldViolation("rollover", "is for credits that recur; nothing follows one that does not"))
    violations += _rollover_violations(wanted.rollover, "rollover")
    return violations


def _rollover_violations(rollover: Rollover | None, path: str) -> list[FieldViolation]:
    if rollover is not None and 0 < rollover.max_quantity < rollover.min_quantity:
        return [FieldViolation(f"{path}.max_quantity", "must not be less than min_quantity")]
    return []
