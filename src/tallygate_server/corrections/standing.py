"""Where an account stands in the period that was corrected: told, and kept for those who ask again."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from tallygate_server.domain.catalog import FeatureKind
from tallygate_server.domain.entitlement import Reason, decide
from tallygate_server.domain.identifier import FeatureKey
from tallygate_server.domain.period import Period, PeriodKind
from tallygate_server.domain.usage import threshold_percent_reached
from tallygate_server.hot_accounts import HotAccount, HotFeature
from tallygate_server.storage.corrections import LedgerLine
from tallygate_server.storage.ledger import LockedCounter
from tallygate_server.usage_queries import FeatureUsage


def standing(
    account: HotAccount, feature: HotFeature, period: Period, counter: LockedCounter, *, now: datetime
) -> dict[str, Any]:
    """Describe a locked counter of a feature that the account has, with its limit as it is now, as JSON."""
    entitlement = feature.entitlement
    present = now in period
    reason = Reason.OK
    if present:
        reason = decide(
            feature_known=True,
            account_state=account.sources.state,
            entitlement=entitlement,
            quantity=1,
            used=counter.used,
            held=counter.reserved,
        )
    return {
        "feature_kind": entitlement.kind.value,
        "limit": feature.limit,
        "used": counter.used,
        "held": counter.reserved,
        "threshold_percent": threshold_percent_reached(
            used=counter.used, limit=feature.limit, thresholds=entitlement.thresholds_percent
        ),
        "plan_key": entitlement.plan_key,
        "reason": int(reason),
    }


def bare_standing(
    line: LedgerLine, kind: FeatureKind, counter: LockedCounter, *, reason: Reason = Reason.OK
) -> dict[str, Any]:
    """Describe a locked counter in which the account counts no more, with the limit that held last, as JSON."""
    return {
        "feature_kind": kind.value,
        "limit": counter.limit,
        "used": counter.used,
        "held": counter.reserved,
        "threshold_percent": 0,
        "plan_key": line.plan_key,
        "reason": int(reason),
    }


def usage_of(standing_json: dict[str, Any], line: LedgerLine, revision: int) -> FeatureUsage:
    """Return what such JSON says of the line's counter."""
    return FeatureUsage(
        feature_key=FeatureKey(line.key.feature_key),
        feature_kind=FeatureKind(standing_json["feature_kind"]),
        limit_quantity=standing_json["limit"],
        used_quantity=standing_json["used"],
        held_quantity=standing_json["held"],
        period_kind=PeriodKind(line.key.period_kind),
        period_start=line.key.period_start,
        period_end=line.period_end,
        threshold_percent=standing_json["threshold_percent"],
        plan_key=standing_json["plan_key"],
        revision=revision,
        reason=Reason(standing_json["reason"]),
    )
