"""What a tenant sells: features, plan versions and their allowances."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime, timedelta
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


class MeterAggregation(Enum):
    """How a meter puts the values of events together."""

    SUM = "sum"
    COUNT = "count"
    MAX = "max"
    MIN = "min"
    AVERAGE = "average"
    UNIQUE = "unique"
    LATEST = "latest"

    @property
    def additive(self) -> bool:
        """Whether what it measures adds up, event by event: what a limit can hang on."""
        return self in (MeterAggregation.SUM, MeterAggregation.COUNT)


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
    meter_key: str = ""
    """Meter whose events count here too, besides direct increments; counters only, empty for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollover:
    """How an unused rest of a period goes into the next one."""

    min_quantity: int = 0
    """Smallest rest that goes over; a smaller one is lost."""
    max_quantity: int = 0
    """Most that goes over; 0 means everything."""


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
    rollover: Rollover | None = None
    """What of an unused rest goes into the next period; None: nothing. Counters only."""
    overrun_policy: OverrunPolicy = OverrunPolicy.REJECT
    trial_limit_quantity: int | None = None
    """Limit during a trial, in place of `limit_quantity`; None: the same."""
    grace_days: int = 0
    """Days that the feature stays after the plan, or a change of it, has taken it away."""


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
class MeterFilter:
    """Keeps the events that have one of some values in a dimension, compared exactly."""

    dimension: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        """Sort the values: neither their order nor their number says anything."""
        object.__setattr__(self, "values", tuple(sorted(set(self.values))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """How raw usage events become a number."""

    key: str
    event_type: str
    """CloudEvents type of the events that it reads."""
    aggregation: MeterAggregation
    value_property: str = ""
    """Dotted path into the event's data where the value is; not needed for a count."""
    scale: int = 0
    """Decimal places that are kept: the stored quantity is the value times 10^scale, rounded half to even."""
    group_by: tuple[tuple[str, str], ...] = ()
    """Dimensions that usage can be grouped by: name and dotted path into the event's data; by name."""
    filters: tuple[MeterFilter, ...] = ()
    """Events that do not match every one of them are not counted; by dimension, each one of `group_by`."""
    name: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        """Sort dimensions and filters: their order says nothing."""
        object.__setattr__(self, "group_by", tuple(sorted(self.group_by)))
        object.__setattr__(self, "filters", tuple(sorted(self.filters, key=lambda each: each.dimension)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPrice:
    """What an AI model costs from `start_time` (None: since ever) until before `end_time`.

    Amounts are millionths of the currency's major unit for a million tokens: 3 dollars per million tokens are
    3000000. Without an end the price holds until another price of the model begins.
    """

    model_key: str
    currency_code: str
    input_micros_per_million: int
    output_micros_per_million: int
    cached_input_micros_per_million: int | None = None
    """For input tokens that were read from a cache; None: as those that were not."""
    start_time: datetime | None = None
    end_time: datetime | None = None


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
    default_currency_code: str = ""
    """ISO 4217 code of prices that name no currency; empty: every price names its own."""
    default_time_zone: str = ""
    """IANA time zone of new accounts; empty: UTC."""
    default_failure_mode: FailureMode = FailureMode.CLOSED
    """Of features that say nothing themselves; features carry what came of it."""
    default_grace_days: int = GRACE_DAYS_DEFAULT
    """Of plans that say nothing themselves; plan versions carry what came of it."""
    closed_period_corrections: bool = False
    """Whether usage of a period that has ended may still be corrected."""
    late_event_window: timedelta | None = None
    """How long after the end of its period an event still counts in it; None: until it has been over for a day."""
    usage_retention_days: int = 0
    """Days that raw usage is kept before it is exported and dropped; 0: for ever."""

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
    model_prices: tuple[ModelPrice, ...] = ()
    """By model and start; like that of meters, the order of a file says nothing."""
    features_by_key: dict[str, Feature] = field(init=False, repr=False, compare=False)
    plans_by_key: dict[str, Plan] = field(init=False, repr=False, compare=False)
    meters_by_key: dict[str, Meter] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index features, plans and meters by key; sort meters and the prices of models."""
        object.__setattr__(self, "meters", tuple(sorted(self.meters, key=lambda meter: meter.key)))
        object.__setattr__(self, "model_prices", tuple(sorted(self.model_prices, key=model_price_position)))
        object.__setattr__(self, "features_by_key", {feature.key: feature for feature in self.features})
        object.__setattr__(self, "plans_by_key", {plan.key: plan for plan in self.plans})
        object.__setattr__(self, "meters_by_key", {meter.key: meter for meter in self.meters})


def model_price_position(price: ModelPrice) -> tuple[str, float]:
    """Return what prices of models sort by: the model, then the start."""
    return (price.model_key, price.start_time.timestamp() if price.start_time is not None else -math.inf)
