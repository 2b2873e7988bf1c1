"""What a catalog would change about the present one: pure, so that a dry run and the real one agree."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from tallygate_server.catalog_files import (
    failure_mode_word,
    feature_to_json,
    late_event_window_text,
    meter_to_json,
    model_prices_to_json,
    plan_to_json,
)
from tallygate_server.domain.catalog import (
    Allowance,
    Catalog,
    Feature,
    FeatureKind,
    LimitMode,
    Meter,
    ModelPrice,
    OverrunPolicy,
    Plan,
    TenantSettings,
)
from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.limits import GRACE_DAYS_DEFAULT, LIMIT_UNLIMITED
from tallygate_server.domain.period import PeriodKind, nominal_seconds


class ChangeKind(Enum):
    """What happens to an element of the catalog."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"
    """Retired: what uses it keeps working, nothing new gets it."""


class CatalogElement(Enum):
    """What sort of element differs."""

    TENANT = "tenant"
    FEATURE = "feature"
    METER = "meter"
    PLAN = "plan"
    PRICE = "price"
    ALLOWANCE = "allowance"
    MODEL_PRICE = "model_price"


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogChange:
    """One difference between the present catalog and the given one."""

    tenant_id: TenantId
    kind: ChangeKind
    element: CatalogElement
    key: str
    """Of the tenant, feature, meter, plan or AI model; a price's and an allowance's plan is in the path."""
    path: str
    """`plans.pro.allowances.text_rewrite.limit`."""
    before: Any = None
    """JSON as in a catalog file; None when added."""
    after: Any = None
    """JSON as in a catalog file; None when removed."""
    description: str = ""
    affected_accounts: int = 0
    """Accounts with a live subscription to the plan."""
    affected_subscriptions: int = 0
    """Live subscriptions to the plan; they keep the version they have."""
    restrictive: bool = False
    """Whether somebody gets less than before."""

    @property
    def subject(self) -> str:
        """What differs: `plan pro`, `feature text_rewrite`, `tenant lekhak`."""
        parts = self.path.split(".", 2)
        if self.element in (CatalogElement.PRICE, CatalogElement.ALLOWANCE):
            return f"plan {parts[1]}"
        return f"{self.element.value.replace('_', ' ')} {self.key}"

    def to_json(self) -> dict[str, Any]:
        """Return the change as the catalog's history keeps it."""
        return {
            "kind": self.kind.value,
            "element": self.element.value,
            "key": self.key,
            "path": self.path,
            "before": self.before,
            "after": self.after,
            "description": self.description,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PresentPlan:
    """The newest version of a plan, how its content hashes, and who lives on which version."""

    plan: Plan
    digest: str
    retired: bool
    live_by_version: Mapping[int, int]
    accounts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PresentCatalog:
    """A tenant's catalog as it is, with what was retired from it; nothing at revision 0."""

    settings: TenantSettings
    revision: int
    features: Mapping[str, Feature]
    retired_features: Mapping[str, Feature]
    plans: Mapping[str, PresentPlan]
    meters: Mapping[str, Meter]
    retired_meters: Mapping[str, Meter]
    model_prices: tuple[ModelPrice, ...] = ()
    """By model and start."""


def plan_digest(plan: Plan) -> str:
    """Return the SHA-256 of what a plan version says; the order of prices and allowances says nothing."""
    return hashlib.sha256(json.dumps(_plan_json(plan), sort_keys=True).encode()).hexdigest()


def catalog_changes(present: PresentCatalog, given: Catalog) -> list[CatalogChange]:
    """Return every difference in the order of a catalog file; nothing when the two say the same."""
    diff = _Diff(given.settings.tenant_id)
    return [
        *diff.settings(present, given.settings),
        *diff.features(present, given),
        *diff.plans(present, given),
        *diff.meters(present, given),
        *diff.model_prices(present, given),
    ]


class _Diff:
    def __init__(self, tenant_id: TenantId) -> None:
        self._tenant_id = tenant_id

    def settings(self, present: PresentCatalog, given: TenantSettings) -> Iterator[CatalogChange]:
        after = _settings_json(given)
        if present.revision == 0:
            yield self._change(
                ChangeKind.ADDED,
                CatalogElement.TENANT,
                given.tenant_id,
                "tenant",
                after=after,
                description=f"tenant {given.tenant_id}: new",
            )
            return
        for path, old, new in _differences(_settings_json(present.settings), after, ()):
            yield self._change(
                ChangeKind.CHANGED,
                CatalogElement.TENANT,
                given.tenant_id,
                path[0],
                before=old,
                after=new,
                description=f"tenant {given.tenant_id}: {path[0]} {_shown(old)} -> {_shown(new)}",
            )

    def features(self, present: PresentCatalog, given: Catalog) -> Iterator[CatalogChange]:
        for feature in given.features:
            before = present.features.get(feature.key)
            again = feature.key in present.retired_features
            yield from self._item(
                CatalogElement.FEATURE,
                "features",
                feature.key,
                _FEATURE_DEFAULTS | feature_to_json(before) if before is not None else None,
                _FEATURE_DEFAULTS | feature_to_json(feature),
                again=again,
            )
        for key, feature in present.features.items():
            if key not in given.features_by_key:
                yield self._retired(CatalogElement.FEATURE, "features", key, feature_to_json(feature))

    def meters(self, present: PresentCatalog, given: Catalog) -> Iterator[CatalogChange]:
        given_keys = {meter.key for meter in given.meters}
        for meter in given.meters:
            before = present.meters.get(meter.key)
            yield from self._item(
                CatalogElement.METER,
                "meters",
                meter.key,
                _METER_DEFAULTS | meter_to_json(before) if before is not None else None,
                _METER_DEFAULTS | meter_to_json(meter),
                again=meter.key in present.retired_meters,
            )
        for key, meter in present.meters.items():
            if key not in given_keys:
                yield self._retired(CatalogElement.METER, "meters", key, meter_to_json(meter))

    def model_prices(self, present: PresentCatalog, given: Catalog) -> Iterator[CatalogChange]:
        """Yield one difference for each model, because its prices make sense only one after the other."""
        before, after = model_prices_to_json(present.model_prices), model_prices_to_json(given.model_prices)
        for model_key in (*after, *(key for key in before if key not in after)):
            old, new = before.get(model_key), after.get(model_key)
            if old == new:
                continue
            kind = ChangeKind.ADDED if old is None else ChangeKind.REMOVED if new is None else ChangeKind.CHANGED
            yield self._change(
                kind,
                CatalogElement.MODEL_PRICE,
                model_key,
                f"model_prices.{model_key}",
                before=old,
                after=new,
                description=(
                    f"model price {model_key}: {_shown(old)} -> {_shown(new)}; what is recorded from now on costs this"
                ),
            )

    def plans(self, present: PresentCatalog, given: Catalog) -> Iterator[CatalogChange]:
        for plan in given.plans:
            before = present.plans.get(plan.key)
            path = f"plans.{plan.key}"
            if before is None or before.retired:
                version = "new"
                if before is not None:
                    same = before.digest == plan_digest(plan)
                    version = f"on sale again, as version {before.plan.version + (0 if same else 1)}"
                yield self._change(
                    ChangeKind.ADDED,
                    CatalogElement.PLAN,
                    plan.key,
                    path,
                    after=plan_to_json(plan),
                    description=f"plan {plan.key}: {version}",
                )
            elif before.digest != plan_digest(plan):
                yield from self._plan(before, plan)
        for key, before in present.plans.items():
            if key not in given.plans_by_key and not before.retired:
                change = self._retired(CatalogElement.PLAN, "plans", key, plan_to_json(before.plan))
                yield replace(
                    change,
                    description=f"plan {key}: no longer on sale; {_who_keeps(before)}",
                    affected_accounts=before.accounts,
                    affected_subscriptions=sum(before.live_by_version.values()),
                    restrictive=True,
                )

    def _plan(self, before: PresentPlan, plan: Plan) -> Iterator[CatalogChange]:
        restricted = set(_restricted(before.plan, plan))
        for path, old, new in _differences(_plan_json(before.plan), _plan_json(plan), ()):
            element, key, words = CatalogElement.PLAN, str(plan.key), path
            if path[0] == "allowances":
                element, key, words = CatalogElement.ALLOWANCE, path[1], path[1:]
            elif path[0] == "prices":
                element, key, words = CatalogElement.PRICE, path[1], ("price", "per", *path[1:])
            kind = ChangeKind.CHANGED
            if len(path) == 2:  # noqa: PLR2004 - a whole price or allowance
                kind = ChangeKind.ADDED if old is None else ChangeKind.REMOVED if new is None else kind
            yield self._change(
                kind,
                element,
                key,
                ".".join(("plans", plan.key, *path)),
                before=old,
                after=new,
                description=(
                    f"plan {plan.key}: {' '.join(words)} {_shown(old)} -> {_shown(new)}; "
                    f"new subscriptions only, as version {before.plan.version + 1}; {_who_keeps(before)}"
                ),
                affected_accounts=before.accounts,
                affected_subscriptions=sum(before.live_by_version.values()),
                restrictive=path[:2] in restricted or path[:1] in restricted,
            )

    def _item(
        self,
        element: CatalogElement,
        section: str,
        key: str,
        before: Mapping[str, Any] | None,
        after: Mapping[str, Any],
        *,
        again: bool,
    ) -> Iterator[CatalogChange]:
        path = f"{section}.{key}"
        if before is None:
            description = f"{element.value} {key}: {'in the catalog again' if again else 'new'}"
            yield self._change(ChangeKind.ADDED, element, key, path, after=dict(after), description=description)
            return
        for inner, old, new in _differences(before, after, ()):
            yield self._change(
                ChangeKind.CHANGED,
                element,
                key,
                ".".join((path, *inner)),
                before=old,
                after=new,
                description=f"{element.value} {key}: {' '.join(inner)} {_shown(old)} -> {_shown(new)}",
            )

    def _retired(self, element: CatalogElement, section: str, key: str, before: Any) -> CatalogChange:
        return self._change(
            ChangeKind.REMOVED,
            element,
            key,
            f"{section}.{key}",
            before=before,
            description=f"{element.value} {key}: retired; what uses it keeps working",
        )

    def _change(self, kind: ChangeKind, element: CatalogElement, key: str, path: str, **facts: Any) -> CatalogChange:
        return CatalogChange(tenant_id=self._tenant_id, kind=kind, element=element, key=key, path=path, **facts)


_FEATURE_DEFAULTS = {"name": "", "description": "", "unit": "", "failure_mode": "closed", "meter": ""}
_METER_DEFAULTS: dict[str, Any] = {
    "name": "",
    "description": "",
    "value_property": "",
    "scale": 0,
    "group_by": [],
    "filters": {},
}
_PLAN_DEFAULTS: dict[str, Any] = {
    "name": "",
    "description": "",
    "grace_days": GRACE_DAYS_DEFAULT,
    "trial_days": 0,
    "prices": {},
    "allowances": {},
}
_LIMITED_DEFAULTS: dict[str, Any] = {"mode": "hard", "thresholds": []}


def _settings_json(settings: TenantSettings) -> dict[str, Any]:
    return {
        "name": settings.name,
        "parent": settings.parent_tenant_id,
        "default_plan": settings.default_plan_key,
        "auto_provision": settings.auto_provision,
        "upgrade_url": settings.upgrade_url,
        "currency": settings.default_currency_code,
        "time_zone": settings.default_time_zone,
        "failure_mode": failure_mode_word(settings.default_failure_mode),
        "grace_days": settings.default_grace_days,
        "closed_period_corrections": settings.closed_period_corrections,
        "late_event_window": late_event_window_text(settings.late_event_window),
        "usage_retention_days": settings.usage_retention_days,
    }


def _plan_json(plan: Plan) -> dict[str, Any]:
    """Return the plan as in a file, with everything that a file of the first release could leave out.

    What came later is not filled in: versions are told apart by digests of this, and those that are there stay.
    """
    full = _PLAN_DEFAULTS | plan_to_json(plan)
    full["allowances"] = {
        key: _LIMITED_DEFAULTS | allowance if isinstance(allowance, dict) and "limit" in allowance else allowance
        for key, allowance in full["allowances"].items()
    }
    return full


def _differences(
    before: Mapping[str, Any], after: Mapping[str, Any], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yield (path, before, after) of each leaf that differs, in the order of `after`."""
    for key in (*after, *(key for key in before if key not in after)):
        old, new = before.get(key), after.get(key)
        # A config value is one value, whatever is inside it.
        if isinstance(old, Mapping) and isinstance(new, Mapping) and path[-1:] != ("value",) and key != "value":
            yield from _differences(old, new, (*path, key))
        elif _canonical(old) != _canonical(new):
            yield (*path, key), old, new


def _canonical(value: Any) -> str:
    # As text, because in Python 1 == True and 1 == 1.0.
    return json.dumps(value, sort_keys=True)


def _restricted(before: Plan, after: Plan) -> Iterator[tuple[str, ...]]:
    """Yield the paths of what gives less than before."""
    if after.grace_days < before.grace_days:
        yield ("grace_days",)
    if after.trial_days < before.trial_days:
        yield ("trial_days",)
    given = {allowance.feature_key: allowance for allowance in after.allowances}
    for allowance in before.allowances:
        if _gives_less(allowance, given.get(allowance.feature_key)):
            yield ("allowances", allowance.feature_key)
    intervals = {price.interval for price in after.prices}
    for price in before.prices:
        if price.interval not in intervals:
            yield ("prices", price.interval.value)


def _gives_less(before: Allowance, after: Allowance | None) -> bool:
    if not before.enabled:
        return False
    if after is None or not after.enabled:
        return True
    if before.kind is FeatureKind.CONFIG:
        old, new = before.value, after.value
        numbers = isinstance(old, int | float) and isinstance(new, int | float)
        if not numbers or new == LIMIT_UNLIMITED:
            return False
        return old == LIMIT_UNLIMITED or new < old  # type: ignore[operator] # both are numbers, as just checked
    if not before.kind.metered:
        return False
    if before.rollover is not None and after.rollover is None:
        return True
    if before.overrun_policy is OverrunPolicy.OVERDRAW and after.overrun_policy is OverrunPolicy.REJECT:
        return True
    if before.limit_mode is LimitMode.SOFT and after.limit_mode is LimitMode.HARD:
        return True
    return any(
        _less_per_time((old, before.period_kind), (new, after.period_kind))
        for old, new in (
            (before.limit_quantity, after.limit_quantity),
            (_trial_limit(before), _trial_limit(after)),
        )
    )


def _trial_limit(allowance: Allowance) -> int:
    limit = allowance.trial_limit_quantity
    return allowance.limit_quantity if limit is None else limit


def _less_per_time(before: tuple[int, PeriodKind], after: tuple[int, PeriodKind]) -> bool:
    (old, old_period), (new, new_period) = before, after
    if new == LIMIT_UNLIMITED:
        return False
    return old == LIMIT_UNLIMITED or new * nominal_seconds(old_period) < old * nominal_seconds(new_period)


def _who_keeps(before: PresentPlan) -> str:
    live = sum(before.live_by_version.values())
    versions = sorted(before.live_by_version)
    if not live:
        return "no live subscription has it"
    named = f"version {versions[0]}" if len(versions) == 1 else f"versions {_listed(versions)}"
    return f"{live} live subscription{'s keep' if live > 1 else ' keeps'} {named}"


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "nothing"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
