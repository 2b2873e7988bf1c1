"""Domain values to and from the JSON that rows and Redis carry: one spelling for both."""

from __future__ import annotations

from typing import Any

from tallygate_server.domain.catalog import (
    Allowance,
    BillingInterval,
    FeatureKind,
    LimitMode,
    OverrunPolicy,
    Price,
    Rollover,
)
from tallygate_server.domain.entitlement import LimitOverride
from tallygate_server.domain.identifier import FeatureKey
from tallygate_server.domain.limits import LIMIT_UNLIMITED
from tallygate_server.domain.period import PeriodAnchor, PeriodKind

Json = dict[str, Any]


def allowance_to_json(allowance: Allowance) -> Json:
    """Return the allowance as JSON, without what does not apply to its kind."""
    json: Json = {"feature": allowance.feature_key, "kind": allowance.kind.value, "enabled": allowance.enabled}
    if allowance.kind is FeatureKind.CONFIG:
        json["value"] = allowance.value
    if allowance.kind.metered:
        json["limit"] = allowance.limit_quantity
        json["mode"] = allowance.limit_mode.value
        json["percent"] = list(allowance.thresholds_percent)
        json["absolute"] = list(allowance.thresholds_absolute)
        # Left out where they say nothing, as in what the first releases wrote.
        if allowance.overrun_policy is not OverrunPolicy.REJECT:
            json["overrun"] = allowance.overrun_policy.value
        if allowance.trial_limit_quantity is not None:
            json["trial_limit"] = allowance.trial_limit_quantity
    if allowance.kind is FeatureKind.COUNTER:
        json["period"] = allowance.period_kind.value
        json["anchor"] = allowance.period_anchor.value
        if allowance.rollover is not None:
            json["rollover"] = rollover_to_json(allowance.rollover)
    if allowance.grace_days:
        json["grace_days"] = allowance.grace_days
    return json


def allowance_from_json(json: Json) -> Allowance:
    """Return the allowance that `allowance_to_json` wrote."""
    return Allowance(
        feature_key=FeatureKey(json["feature"]),
        kind=FeatureKind(json["kind"]),
        enabled=json["enabled"],
        value=json.get("value"),
        limit_quantity=json.get("limit", LIMIT_UNLIMITED),
        limit_mode=LimitMode(json.get("mode", "hard")),
        period_kind=PeriodKind(json.get("period", PeriodKind.LIFETIME.value)),
        period_anchor=PeriodAnchor(json.get("anchor", "utc")),
        thresholds_percent=tuple(json.get("percent", ())),
        thresholds_absolute=tuple(json.get("absolute", ())),
        rollover=rollover_from_json(json["rollover"]) if "rollover" in json else None,
        overrun_policy=OverrunPolicy(json.get("overrun", "reject")),
        trial_limit_quantity=json.get("trial_limit"),
        grace_days=json.get("grace_days", 0),
    )


def limit_override_to_json(limit: LimitOverride) -> Json:
    """Return the override as JSON, in the words of an allowance and without what stays as the plan has it."""
    json: Json = {"limit": limit.quantity}
    if limit.mode is not None:
        json["mode"] = limit.mode.value
    if limit.period_kind is not None:
        json["period"] = limit.period_kind.value
    if limit.period_anchor is not None:
        json["anchor"] = limit.period_anchor.value
    if limit.thresholds_percent is not None:
        json["percent"] = list(limit.thresholds_percent)
    if limit.thresholds_absolute is not None:
        json["absolute"] = list(limit.thresholds_absolute)
    if limit.rollover is not None:
        json["rollover"] = rollover_to_json(limit.rollover)
    if limit.overrun_policy is not None:
        json["overrun"] = limit.overrun_policy.value
    return json


def limit_override_from_json(json: Json) -> LimitOverride:
    """Return the override that `limit_override_to_json` wrote."""
    return LimitOverride(
        quantity=json["limit"],
        mode=LimitMode(json["mode"]) if "mode" in json else None,
        period_kind=PeriodKind(json["period"]) if "period" in json else None,
        period_anchor=PeriodAnchor(json["anchor"]) if "anchor" in json else None,
        thresholds_percent=tuple(json["percent"]) if "percent" in json else None,
        thresholds_absolute=tuple(json["absolute"]) if "absolute" in json else None,
        rollover=rollover_from_json(json["rollover"]) if "rollover" in json else None,
        overrun_policy=OverrunPolicy(json["overrun"]) if "overrun" in json else None,
    )


def rollover_to_json(rollover: Rollover) -> Json:
    """Return the rollover as JSON."""
    return {"min": rollover.min_quantity, "max": rollover.max_quantity}


def rollover_from_json(json: Json) -> Rollover:
    """Return the rollover that `rollover_to_json` wrote."""
    return Rollover(min_quantity=json["min"], max_quantity=json["max"])


def price_to_json(price: Price) -> Json:
    """Return the price as JSON."""
    return {
        "interval": price.interval.value,
        "amount_minor": price.amount_minor,
        "currency": price.currency,
        "stripe_price_id": price.stripe_price_id,
    }


def price_from_json(json: Json) -> Price:
    """Return the price that `price_to_json` wrote."""
    return Price(
        interval=BillingInterval(json["interval"]),
        amount_minor=json["amount_minor"],
        currency=json["currency"],
        stripe_price_id=json["stripe_price_id"],
    )
