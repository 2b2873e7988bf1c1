"""What a tenant sells: features, plan versions and their allowances."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import quote

from tallygate_server.domain.identifier import FeatureKey, PlanKey, TenantId
from tallygate_server.domain.limits import GRACE_DAYS_DEFAULT, LIMIT_UNLIMITED
from tallygate_server.domain.period import PeriodAnchor, PeriodKind


class FeatureKind(Enum):
    """How a feature is given and counted."""

    BOOLEAN = "boolean"
    CONFIG = "config"
    COUNTER = "counter"
    GAUGE = "gauge"

    @property
    def metered(self) -> bool:
        """Whether usage of the feature is counted."""
        return self in (FeatureKind.COUNTER, FeatureKind.GAUGE)


class LimitMode(Enum):
    """What happens at the limit: a hard one denies, a soft one allows and reports overage."""

    HARD = "hard"
    SOFT = "soft"


class FailureMode(Enum):
    """What CheckAccess answers when neither Redis nor Postgres can be asked."""

    CLOSED = "fail_closed"
    OPEN = "fail_open"


class OverrunPolicy(Enum):
    """What the commit of a reservation does when more was consumed than was reserved and is left."""

    REJECT = "reject"
    OVERDRAW = "overdraw"


class BillingInterval(Enum):
    """How often a price is charged."""

    MONTH = "month"
    YEAR = "year"


ConfigValue = None | bool | int | float | str | list["ConfigValue"] | dict[str, "ConfigValue"]
"""A JSON value, as `config` features carry it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """Something a plan can switch on, set or limit."""

    key: FeatureKey
    kind: FeatureKind
    name: str = ""
    description: str = ""
    unit: str = ""
    failure_mode: FailureMode = FailureMode.CLOSED


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What a plan gives for one feature.

    `enabled` speaks for every kind; `value` only for config features; the limit, period and thresholds
    only for counters and gauges (a gauge has no period: it never resets).
    """

    feature_key: FeatureKey
    kind: FeatureKind
    enabled: bool = True
    value: ConfigValue = None
    limit_quantity: int = LIMIT_UNLIMITED
    period_kind: PeriodKind = PeriodKind.LIFETIME
    period_anchor: PeriodAnchor = PeriodAnchor.UTC
    limit_mode: LimitMode = LimitMode.HARD
    thresholds_percent: tuple[int, ...] = ()
    thresholds_absolute: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """One way to pay for a plan; the amount is in the currency's minor unit."""

    interval: BillingInterval
    amount_minor: int
    currency: str
    stripe_price_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One immutable version of a plan; subscriptions pin (key, version)."""

    key: PlanKey
    version: int
    name: str = ""
    description: str = ""
    rank: int = 0
    """Position in the upgrade ladder: the next higher rank is the upgrade hint."""
    prices: tuple[Price, ...] = ()
    allowances: tuple[Allowance, ...] = ()
    grace_days: int = GRACE_DAYS_DEFAULT
    trial_days: int = 0

    @property
    def priced(self) -> bool:
        """Whether the plan costs anything in any interval."""
        return any(price.amount_minor > 0 for price in self.prices)

    def price_for(self, interval: BillingInterval) -> Price | None:
        """Return the price charged at the interval, if the plan has one."""
        return next((price for price in self.prices if price.interval is interval), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """How raw usage events become a number; evaluated by usage recording, carried by the catalog."""

    key: str
    event_type: str
    aggregation: str
    value_property: str = ""
    group_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Sort the dimensions: their order says nothing, and the message form, a map, has none."""
        object.__setattr__(self, "group_by", tuple(sorted(self.group_by)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantSettings:
    """How a tenant treats its accounts."""

    tenant_id: TenantId
    name: str = ""
    parent_tenant_id: TenantId | None = None
    default_plan_key: PlanKey | None = None
    auto_provision: bool = False
    """Whether an unknown account is created on the default plan at its first call."""
    upgrade_url: str = ""
    """Template of the link shown with a denial; `{account_id}` and `{feature_key}` are filled in."""

    def upgrade_link(self, account_id: str, feature_key: str) -> str:
        """Return the link at which the account can get more of the feature; empty when the tenant has none."""
        if not self.upgrade_url:
            return ""
        link = self.upgrade_url.replace("{account_id}", quote(account_id, safe=""))
        return link.replace("{feature_key}", quote(feature_key, safe=""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Everything a tenant declares, as one value: what a catalog file says."""

    settings: TenantSettings
    features: tuple[Feature, ...] = ()
    plans: tuple[Plan, ...] = ()
    meters: tuple[Meter, ...] = ()
    features_by_key: dict[str, Feature] = field(init=False, repr=False, compare=False)
    plans_by_key: dict[str, Plan] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index features and plans by key."""
        object.__setattr__(self, "features_by_key", {feature.key: feature for feature in self.features})
        object.__setattr__(self, "plans_by_key", {plan.key: plan for plan in self.plans})
