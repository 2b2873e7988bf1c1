"""What a catalog must obey, whether it came as a file or as a message.

The rules look at domain values only and name every breach by its path; where a path stands in a file is
known by `catalog_files`.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from tallygate_server.domain import limits
from tallygate_server.domain.catalog import (
    Allowance,
    Catalog,
    ConfigValue,
    Feature,
    FeatureKind,
    LimitMode,
    Meter,
    MeterAggregation,
    ModelPrice,
    OverrunPolicy,
    Plan,
    Price,
    Rollover,
    TenantSettings,
)
from tallygate_server.domain.identifier import is_key, is_tenant_id
from tallygate_server.domain.money import AMOUNT_MINOR_MAX, CURRENCIES
from tallygate_server.domain.period import PeriodAnchor, PeriodKind
from tallygate_server.time_zones import time_zones

Path = tuple[str, ...]

NAME_LENGTH_MAX: Final = 200
DESCRIPTION_LENGTH_MAX: Final = 2_000
UNIT_LENGTH_MAX: Final = 64
UPGRADE_URL_LENGTH_MAX: Final = 2_000
UPGRADE_URL_PLACEHOLDERS: Final = frozenset({"account_id", "feature_key"})
RANK_MAX: Final = 1_000_000
TRIAL_DAYS_MAX: Final = 730
THRESHOLD_PERCENT_MAX: Final = 1_000
STORES_PER_CATALOG_MAX: Final = 100
METERS_PER_CATALOG_MAX: Final = 500
METER_DIMENSIONS_MAX: Final = 16
METER_SCALE_MAX: Final = 9
METER_FILTERS_MAX: Final = 16
METER_FILTER_VALUES_MAX: Final = 100
MODEL_PRICES_PER_CATALOG_MAX: Final = 1_000
MODEL_PRICE_MICROS_MAX: Final = 1_000_000_000_000
MODEL_PRICE_TIME_MIN: Final = datetime(2000, 1, 1, tzinfo=UTC)
MODEL_PRICE_TIME_MAX: Final = datetime(2100, 1, 1, tzinfo=UTC)
"""First instant that is too late."""
LATE_EVENT_WINDOW_MAX: Final = timedelta(days=35)
USAGE_RETENTION_DAYS_MAX: Final = 36_500
CONFIG_VALUE_BYTES_MAX: Final = 4_096
CONFIG_VALUE_DEPTH_MAX: Final = 8
CONFIG_NUMBER_MAX: Final = 2**53 - 1
"""Larger integers are not exact in JSON readers that use doubles, and larger floats come back as integers."""

_STRIPE_PRICE_ID = re.compile(r"price_[A-Za-z0-9_]{1,120}")
_EVENT_TYPE = re.compile(r"[!-~]{1,200}")
_VALUE_PROPERTY = re.compile(r"[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,7}")
_MODEL_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}")
_FILTER_VALUE = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{0,256}")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_URL = re.compile(r"(https?://[^\s/?#]+|/(?!/))[^\s]*")
# Control characters break terminals and logs; surrogates and NUL cannot be stored.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]")

KEY_RULE = "a key is 1 to 64 characters: a lower-case letter, then lower-case letters, digits, '_', '.' or '-'"
TENANT_ID_RULE = "a tenant id is 1 to 63 characters: lower-case letters, digits and '-', not beginning with '-'"


@dataclass(frozen=True, slots=True)
class Breach:
    """A rule that a catalog breaks: where, and what to do about it."""

    path: Path
    description: str
    needs: Path = ()
    """The breach is true only if everything at and below this path could be read; empty: needs nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogSet:
    """The catalogs of one file or request: a product's, and those of its stores. Applied all or none."""

    root: Catalog
    stores: tuple[Catalog, ...] = ()

    @property
    def catalogs(self) -> tuple[Catalog, ...]:
        """The root, then its stores."""
        return (self.root, *self.stores)


def catalog_set_breaches(catalogs: CatalogSet) -> list[Breach]:
    """Return every breach of a product's and its stores' catalogs, in the order of a file."""
    breaches = list(_catalog(catalogs.root, ()))
    root_id = catalogs.root.settings.tenant_id
    if catalogs.stores and catalogs.root.settings.parent_tenant_id is not None:
        breaches.append(Breach(("stores",), "a store has no stores of its own: leave out 'parent' or 'stores'"))
    if len(catalogs.stores) > STORES_PER_CATALOG_MAX:
        breaches.append(
            Breach(("stores",), f"at most {STORES_PER_CATALOG_MAX} stores, here are {len(catalogs.stores)}")
        )
    seen = {root_id}
    for index, store in enumerate(catalogs.stores):
        path = ("stores", str(index))
        if store.settings.tenant_id in seen:
            breaches.append(Breach((*path, "tenant"), f"tenant {store.settings.tenant_id!r} is declared twice"))
        seen.add(store.settings.tenant_id)
        if store.settings.parent_tenant_id != root_id:
            breaches.append(Breach((*path, "parent"), f"the parent of a store here is {root_id!r}"))
        breaches.extend(_catalog(store, path))
    return breaches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `: did you mean 'x'?` for the closest known word, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f": did you mean {close[0]!r}?" if close else ""


def _catalog(catalog: Catalog, path: Path) -> Iterator[Breach]:
    yield from _settings(catalog.settings, catalog, path)
    yield from _unique((feature.key for feature in catalog.features), (*path, "features"), "feature")
    yield from _at_most(len(catalog.features), limits.FEATURES_PER_CATALOG_MAX, (*path, "features"), "features")
    for feature in catalog.features:
        yield from _feature(feature, catalog.meters_by_key, (*path, "features", feature.key))
    yield from _unique((plan.key for plan in catalog.plans), (*path, "plans"), "plan")
    yield from _at_most(len(catalog.plans), limits.PLANS_PER_CATALOG_MAX, (*path, "plans"), "plans")
    for plan in catalog.plans:
        yield from _plan(plan, catalog.features_by_key, (*path, "plans", plan.key))
    yield from _unique((meter.key for meter in catalog.meters), (*path, "meters"), "meter")
    yield from _at_most(len(catalog.meters), METERS_PER_CATALOG_MAX, (*path, "meters"), "meters")
    for meter in catalog.meters:
        yield from _meter(meter, (*path, "meters", meter.key))
    count = len(catalog.model_prices)
    yield from _at_most(count, MODEL_PRICES_PER_CATALOG_MAX, (*path, "model_prices"), "prices of models")
    for model_key, of_model in itertools.groupby(catalog.model_prices, key=lambda price: price.model_key):
        yield from _model_prices(model_key, list(of_model), (*path, "model_prices", model_key))


def _settings(settings: TenantSettings, catalog: Catalog, path: Path) -> Iterator[Breach]:
    if not is_tenant_id(settings.tenant_id):
        yield Breach((*path, "tenant"), f"{settings.tenant_id[:80]!r} is not a tenant id: {TENANT_ID_RULE}")
    parent = settings.parent_tenant_id
    if parent is not None and not is_tenant_id(parent):
        yield Breach((*path, "parent"), f"{parent[:80]!r} is not a tenant id: {TENANT_ID_RULE}")
    elif parent == settings.tenant_id:
        yield Breach((*path, "parent"), "a tenant is not its own parent")
    yield from _text(settings.name, NAME_LENGTH_MAX, (*path, "name"))
    yield from _upgrade_url(settings.upgrade_url, (*path, "upgrade_url"))
    currency = settings.default_currency_code
    if currency and currency not in CURRENCIES:
        hint = did_you_mean(currency, CURRENCIES)
        yield Breach((*path, "currency"), f"{currency[:20]!r} is not an ISO 4217 code such as USD{hint}")
    zone = settings.default_time_zone
    if zone and zone not in time_zones():
        hint = did_you_mean(zone, time_zones())
        yield Breach((*path, "time_zone"), f"{zone[:64]!r} is no IANA time zone such as Europe/Berlin{hint}")
    yield from _in_range(settings.default_grace_days, 0, limits.GRACE_DAYS_MAX, (*path, "grace_days"))
    yield from _late_event_window(settings.late_event_window, (*path, "late_event_window"))
    yield from _in_range(settings.usage_retention_days, 0, USAGE_RETENTION_DAYS_MAX, (*path, "usage_retention_days"))
    if 0 < settings.usage_retention_days < limits.USAGE_RETENTION_DAYS_MIN:
        yield Breach(
            (*path, "usage_retention_days"),
            f"{settings.usage_retention_days} is too few: 0 to keep raw usage for ever, or at least"
            f" {limits.USAGE_RETENTION_DAYS_MIN}, as answers to repeated requests rest on it",
        )
    plan = None
    if settings.default_plan_key is not None:
        plan = catalog.plans_by_key.get(settings.default_plan_key)
        if plan is None:
            hint = did_you_mean(settings.default_plan_key, catalog.plans_by_key)
            yield Breach((*path, "default_plan"), f"there is no plan {settings.default_plan_key[:80]!r} here{hint}")
    if settings.auto_provision and settings.default_plan_key is None:
        yield Breach((*path, "auto_provision"), "accounts cannot be provisioned by themselves without 'default_plan'")
    if settings.auto_provision and plan is not None and plan.priced:
        yield Breach(
            (*path, "auto_provision"),
            f"the default plan {plan.key!r} costs something: nobody is put on a priced plan by a first call",
        )


def _upgrade_url(url: str, path: Path) -> Iterator[Breach]:
    if not url:
        return
    if len(url) > UPGRADE_URL_LENGTH_MAX:
        yield Breach(path, f"at most {UPGRADE_URL_LENGTH_MAX} characters, here are {len(url)}")
    if _URL.fullmatch(url) is None or _UNPRINTABLE.search(url):
        yield Breach(path, "not a link: it begins with https://, http:// or a single / and has no spaces")
    for name in _PLACEHOLDER.findall(url):
        if name not in UPGRADE_URL_PLACEHOLDERS:
            known = ", ".join(f"{{{each}}}" for each in sorted(UPGRADE_URL_PLACEHOLDERS))
            yield Breach(path, f"unknown placeholder {{{name[:40]}}}: there are {known}")
    if re.search(r"[{}]", _PLACEHOLDER.sub("", url)):
        yield Breach(path, "a brace without its partner: placeholders are written {account_id}")


def _late_event_window(window: timedelta | None, path: Path) -> Iterator[Breach]:
    if window is None:
        return
    if not timedelta(0) <= window <= LATE_EVENT_WINDOW_MAX:
        yield Breach(path, f"between 0 seconds and {LATE_EVENT_WINDOW_MAX.days} days, as long as events are remembered")
    elif window.microseconds:
        yield Breach(path, "a number of whole seconds")


def _feature(feature: Feature, meters: Mapping[str, Meter], path: Path) -> Iterator[Breach]:
    if not is_key(feature.key):
        yield Breach(path, f"{feature.key[:80]!r} is not a key: {KEY_RULE}")
    yield from _text(feature.name, NAME_LENGTH_MAX, (*path, "name"))
    yield from _text(feature.description, DESCRIPTION_LENGTH_MAX, (*path, "description"), lines=True)
    yield from _text(feature.unit, UNIT_LENGTH_MAX, (*path, "unit"))
    if feature.unit and not feature.kind.metered:
        yield Breach((*path, "unit"), f"a {feature.kind.value} feature is not counted, so it has no unit")
    if feature.meter_key:
        yield from _feature_meter(feature, meters, (*path, "meter"))


def _feature_meter(feature: Feature, meters: Mapping[str, Meter], path: Path) -> Iterator[Breach]:
    meter = meters.get(feature.meter_key)
    if feature.kind is not FeatureKind.COUNTER:
        yield Breach(path, f"a {feature.kind.value} feature does not count events: only counters hang on a meter")
    elif meter is None:
        hint = did_you_mean(feature.meter_key, meters)
        yield Breach(path, f"there is no meter {feature.meter_key[:80]!r} here{hint}")
    elif not meter.aggregation.additive:
        what = f"{meter.key!r} takes the {meter.aggregation.value}, which does not add up"
        # In a file it may only be that the aggregation could not be read.
        needs = (*path[:-3], "meters", meter.key, "aggregation")
        yield Breach(path, f"{what}: a feature hangs on a meter that is a sum or a count", needs=needs)


def _plan(plan: Plan, features: dict[str, Feature], path: Path) -> Iterator[Breach]:
    if not is_key(plan.key):
        yield Breach(path, f"{plan.key[:80]!r} is not a key: {KEY_RULE}")
    yield from _text(plan.name, NAME_LENGTH_MAX, (*path, "name"))
    yield from _text(plan.description, DESCRIPTION_LENGTH_MAX, (*path, "description"), lines=True)
    yield from _in_range(plan.rank, 0, RANK_MAX, (*path, "rank"))
    yield from _in_range(plan.grace_days, 0, limits.GRACE_DAYS_MAX, (*path, "grace_days"))
    yield from _in_range(plan.trial_days, 0, TRIAL_DAYS_MAX, (*path, "trial_days"))
    if plan.trial_days and not plan.priced:
        nothing_to_try = "the plan costs nothing, so there is nothing to try for free"
        yield Breach((*path, "trial_days"), nothing_to_try, needs=(*path, "prices"))
    yield from _unique((price.interval.value for price in plan.prices), (*path, "prices"), "price for the")
    for price in plan.prices:
        yield from _price(price, (*path, "prices", price.interval.value))
    yield from _unique((allowance.feature_key for allowance in plan.allowances), (*path, "allowances"), "allowance for")
    for allowance in plan.allowances:
        allowance_path = (*path, "allowances", allowance.feature_key)
        feature = features.get(allowance.feature_key)
        if feature is None:
            hint = did_you_mean(allowance.feature_key, features)
            yield Breach(allowance_path, f"there is no feature {allowance.feature_key[:80]!r} here{hint}")
        elif feature.kind is not allowance.kind:
            yield Breach(
                allowance_path,
                f"{feature.key!r} is a {feature.kind.value} feature, not a {allowance.kind.value} one",
            )
        else:
            yield from _allowance(allowance, allowance_path)


def _price(price: Price, path: Path) -> Iterator[Breach]:
    if price.amount_minor == 0:
        yield Breach(path, "a price of nothing: leave it out, a plan without prices is free")
    else:
        yield from _in_range(price.amount_minor, 1, AMOUNT_MINOR_MAX, (*path, "amount"))
    if price.currency not in CURRENCIES:
        hint = did_you_mean(price.currency, CURRENCIES)
        yield Breach((*path, "currency"), f"{price.currency[:20]!r} is not an ISO 4217 code such as USD{hint}")
    if price.stripe_price_id and _STRIPE_PRICE_ID.fullmatch(price.stripe_price_id) is None:
        yield Breach((*path, "stripe_price_id"), "not the id of a price at Stripe, which looks like price_1N...")


def _allowance(allowance: Allowance, path: Path) -> Iterator[Breach]:
    if not allowance.enabled:
        off = Allowance(feature_key=allowance.feature_key, kind=allowance.kind, enabled=False)
        if allowance != off:
            yield Breach(path, "an allowance that is off says nothing else")
        return
    kind = allowance.kind
    if kind is FeatureKind.CONFIG:
        yield from _config_value(allowance.value, (*path, "value"))
    elif allowance.value is not None:
        yield Breach((*path, "value"), f"only config features have a value, this one is a {kind.value}")
    if kind.metered:
        lowest, highest = limits.LIMIT_UNLIMITED, limits.LIMIT_MAX
        yield from _in_range(allowance.limit_quantity, lowest, highest, (*path, "limit"))
        if allowance.trial_limit_quantity is not None:
            yield from _in_range(allowance.trial_limit_quantity, lowest, highest, (*path, "trial_limit"))
        yield from _thresholds(allowance, (*path, "thresholds"))
    else:
        yield from _nothing_counted(allowance, path)
    if kind is not FeatureKind.COUNTER:
        without = "a gauge never resets" if kind is FeatureKind.GAUGE else f"a {kind.value} feature is not counted"
        if allowance.period_kind is not PeriodKind.LIFETIME:
            yield Breach((*path, "period"), f"{without}, so it has no period")
        if allowance.period_anchor is not PeriodAnchor.UTC:
            yield Breach((*path, "anchor"), f"{without}, so it has no anchor")
    elif allowance.period_kind is PeriodKind.LIFETIME and allowance.period_anchor is not PeriodAnchor.UTC:
        yield Breach((*path, "anchor"), "a lifetime has no anchor", needs=(*path, "period"))
    if allowance.rollover is not None:
        yield from _rollover(allowance, allowance.rollover, (*path, "rollover"))


def _nothing_counted(allowance: Allowance, path: Path) -> Iterator[Breach]:
    """Refuse what only counters and gauges have; the first is enough."""
    why = f"a {allowance.kind.value} feature is not counted, so"
    if allowance.limit_quantity != limits.LIMIT_UNLIMITED:
        yield Breach((*path, "limit"), f"{why} it has no limit")
    elif allowance.trial_limit_quantity is not None:
        yield Breach((*path, "trial_limit"), f"{why} it has no limit")
    elif allowance.thresholds_percent or allowance.thresholds_absolute:
        yield Breach((*path, "thresholds"), f"{why} it has no thresholds")
    elif allowance.limit_mode is not LimitMode.HARD:
        yield Breach((*path, "mode"), f"{why} nothing happens at a limit")
    elif allowance.overrun_policy is not OverrunPolicy.REJECT:
        yield Breach((*path, "overrun"), f"{why} nothing of it is reserved")


def _rollover(allowance: Allowance, rollover: Rollover, path: Path) -> Iterator[Breach]:
    if allowance.kind is not FeatureKind.COUNTER:
        what = "a gauge never resets" if allowance.kind is FeatureKind.GAUGE else "nothing is counted"
        yield Breach(path, f"{what}, so nothing rolls over")
        return
    if allowance.period_kind is PeriodKind.LIFETIME:
        yield Breach(path, "a lifetime has no next period to roll over into", needs=(*path[:-1], "period"))
    if allowance.limit_quantity == limits.LIMIT_UNLIMITED:
        yield Breach(path, "without a limit nothing is left to roll over", needs=(*path[:-1], "limit"))
    yield from _in_range(rollover.min_quantity, 0, limits.LIMIT_MAX, (*path, "min"))
    yield from _in_range(rollover.max_quantity, 0, limits.LIMIT_MAX, (*path, "max"))
    if 0 < rollover.max_quantity < rollover.min_quantity:
        yield Breach((*path, "max"), f"{rollover.max_quantity} is less than min: nothing could ever roll over")


def _thresholds(allowance: Allowance, path: Path) -> Iterator[Breach]:
    count = len(allowance.thresholds_percent) + len(allowance.thresholds_absolute)
    yield from _at_most(count, limits.THRESHOLDS_PER_ALLOWANCE_MAX, path, "thresholds")
    for thresholds, largest, unit in (
        (allowance.thresholds_percent, THRESHOLD_PERCENT_MAX, "%"),
        (allowance.thresholds_absolute, limits.LIMIT_MAX, ""),
    ):
        for threshold in thresholds:
            if not 1 <= threshold <= largest:
                yield Breach(path, f"{threshold}{unit} is not between 1{unit} and {largest}{unit}")
        for before, after in itertools.pairwise(thresholds):
            if before == after:
                yield Breach(path, f"{after}{unit} stands here twice")
            elif before > after:
                yield Breach(path, f"thresholds rise: write {after}{unit} before {before}{unit}")


def _config_value(value: ConfigValue, path: Path) -> Iterator[Breach]:
    if value is None:
        yield Breach(path, "a config feature needs a value; to take it away write enabled: false")
        return
    problems = list(_json_problems(value, CONFIG_VALUE_DEPTH_MAX))
    yield from (Breach(path, problem) for problem in problems)
    if not problems:
        size = len(json.dumps(value, ensure_ascii=False).encode())
        if size > CONFIG_VALUE_BYTES_MAX:
            yield Breach(path, f"at most {CONFIG_VALUE_BYTES_MAX} bytes as JSON, here are {size}")


def _json_problems(value: ConfigValue, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        if _storable(value) is None:
            yield "contains a character that cannot be stored"
    elif isinstance(value, float) and not math.isfinite(value):
        yield "not a finite number"
    elif isinstance(value, int | float) and abs(value) > CONFIG_NUMBER_MAX:
        yield f"numbers go up to {CONFIG_NUMBER_MAX}"
    elif isinstance(value, list | dict) and depth == 0:
        yield f"nested more than {CONFIG_VALUE_DEPTH_MAX} levels deep"
    elif isinstance(value, list):
        for item in value:
            yield from _json_problems(item, depth - 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _json_problems(key, depth - 1)
            yield from _json_problems(item, depth - 1)


def _storable(text: str) -> str | None:
    return None if re.search(r"[\x00\ud800-\udfff]", text) else text


def _meter(meter: Meter, path: Path) -> Iterator[Breach]:
    if not is_key(meter.key):
        yield Breach(path, f"{meter.key[:80]!r} is not a key: {KEY_RULE}")
    if _EVENT_TYPE.fullmatch(meter.event_type) is None:
        yield Breach((*path, "event_type"), "an event type is 1 to 200 printable ASCII characters without spaces")
    if not meter.value_property and meter.aggregation is not MeterAggregation.COUNT:
        needed = f"'{meter.aggregation.value}' needs the property whose values it takes"
        yield Breach((*path, "value_property"), needed, needs=(*path, "aggregation"))
    if meter.value_property and _VALUE_PROPERTY.fullmatch(meter.value_property) is None:
        yield Breach((*path, "value_property"), "a dotted path of up to 8 names, such as usage.total_tokens")
    yield from _text(meter.name, NAME_LENGTH_MAX, (*path, "name"))
    yield from _text(meter.description, DESCRIPTION_LENGTH_MAX, (*path, "description"), lines=True)
    yield from _in_range(meter.scale, 0, METER_SCALE_MAX, (*path, "scale"))
    yield from _at_most(len(meter.group_by), METER_DIMENSIONS_MAX, (*path, "group_by"), "dimensions")
    yield from _unique((name for name, _ in meter.group_by), (*path, "group_by"), "dimension", at_key=False)
    for dimension, source in meter.group_by:
        where = (*path, "group_by", dimension)
        if not is_key(dimension):
            yield Breach(where, f"{dimension[:80]!r} is not a key: {KEY_RULE}")
        if _VALUE_PROPERTY.fullmatch(source) is None:
            yield Breach(where, f"{source[:80]!r} is not a dotted path of up to 8 names, such as usage.model")
    yield from _meter_filters(meter, (*path, "filters"))


def _meter_filters(meter: Meter, path: Path) -> Iterator[Breach]:
    yield from _at_most(len(meter.filters), METER_FILTERS_MAX, path, "filters")
    yield from _unique((each.dimension for each in meter.filters), path, "filter of dimension")
    dimensions = dict(meter.group_by)
    for each in meter.filters:
        where = (*path, each.dimension)
        if each.dimension not in dimensions:
            hint = did_you_mean(each.dimension, dimensions)
            missing = f"there is no dimension {each.dimension[:80]!r} under 'group_by'{hint}"
            yield Breach(where, missing, needs=(*path[:-1], "group_by"))
        if not each.values:
            yield Breach(where, "no value to keep: nothing would ever be counted", needs=where)
        yield from _at_most(len(each.values), METER_FILTER_VALUES_MAX, where, "values to keep")
        for value in each.values:
            if _FILTER_VALUE.fullmatch(value) is None:
                yield Breach(where, "a value to keep is at most 256 characters, none of them a control character")


def _model_prices(model_key: str, prices: Sequence[ModelPrice], path: Path) -> Iterator[Breach]:
    """Look at the prices of one model, given by start."""
    if _MODEL_KEY.fullmatch(model_key) is None:
        rule = "1 to 128 letters, digits and . _ : @ / -, beginning with a letter or digit"
        yield Breach(path, f"{model_key[:80]!r} is not the key of a model: {rule}")
    for index, price in enumerate(prices):
        where = (*path, str(index)) if len(prices) > 1 else path
        yield from _model_price(price, where)
        before = prices[index - 1] if index else None
        if before is None:
            continue
        # Without an end a price holds until the next one begins, so only one that says its end can overlap it.
        overlaps = before.end_time is not None and price.start_time is not None and price.start_time < before.end_time
        if overlaps or price.start_time == before.start_time:
            yield Breach(where, f"two prices of {model_key[:80]!r} at once: {_validity(before)} and {_validity(price)}")


def _model_price(price: ModelPrice, path: Path) -> Iterator[Breach]:
    if price.currency_code not in CURRENCIES:
        hint = did_you_mean(price.currency_code, CURRENCIES)
        yield Breach((*path, "currency"), f"{price.currency_code[:20]!r} is not an ISO 4217 code such as USD{hint}")
    for key, micros in (
        ("input", price.input_micros_per_million),
        ("output", price.output_micros_per_million),
        ("cached_input", price.cached_input_micros_per_million),
    ):
        if micros is not None and not 0 <= micros <= MODEL_PRICE_MICROS_MAX:
            highest = MODEL_PRICE_MICROS_MAX // 1_000_000
            yield Breach((*path, key), f"a million tokens cost between 0 and {highest} {price.currency_code[:20]}")
    for key, instant in (("start", price.start_time), ("end", price.end_time)):
        if instant is not None and not MODEL_PRICE_TIME_MIN <= instant < MODEL_PRICE_TIME_MAX:
            yield Breach((*path, key), f"prices begin and end between {MODEL_PRICE_TIME_MIN.year} and 2099")
    if price.start_time is not None and price.end_time is not None and price.end_time <= price.start_time:
        yield Breach((*path, "end"), "the end is not after the start")


def _validity(price: ModelPrice) -> str:
    start = "ever" if price.start_time is None else _instant_text(price.start_time)
    end = "" if price.end_time is None else f" until {_instant_text(price.end_time)}"
    return f"the one since {start}{end}"


def _instant_text(instant: datetime) -> str:
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").replace(".000000", "").removesuffix("T00:00:00Z")


def _text(text: str, length_max: int, path: Path, *, lines: bool = False) -> Iterator[Breach]:
    if len(text) > length_max:
        yield Breach(path, f"at most {length_max} characters, here are {len(text)}")
    if _UNPRINTABLE.search(text) or (not lines and re.search(r"[\t\n]", text)):
        yield Breach(
            path,
            "contains a control character or line break" if not lines else "contains a control character",
        )


def _in_range(number: int, lowest: int, highest: int, path: Path) -> Iterator[Breach]:
    if not lowest <= number <= highest:
        yield Breach(path, f"{number} is not between {lowest} and {highest}")


def _at_most(count: int, most: int, path: Path, things: str) -> Iterator[Breach]:
    if count > most:
        yield Breach(path, f"at most {most} {things}, here are {count}")


def _unique(keys: Iterable[str] | Sequence[str], path: Path, thing: str, *, at_key: bool = True) -> Iterator[Breach]:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            yield Breach((*path, key) if at_key else path, f"{thing} {key!r} is declared twice")
        seen.add(key)
