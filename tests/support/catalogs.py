"""Hypothesis strategies of sound catalogs."""

from __future__ import annotations

import datetime as dt
import itertools
from typing import Any

from hypothesis import strategies as st

from tallygate_server.catalog_files import inherited_meters
from tallygate_server.catalog_rules import METER_SCALE_MAX, MODEL_PRICE_MICROS_MAX, CatalogSet
from tallygate_server.domain.catalog import (
    Allowance,
    BillingInterval,
    Catalog,
    FailureMode,
    Feature,
    FeatureKind,
    LimitMode,
    Meter,
    MeterAggregation,
    MeterFilter,
    ModelPrice,
    OverrunPolicy,
    Plan,
    Price,
    Rollover,
    TenantSettings,
)
from tallygate_server.domain.identifier import FeatureKey, PlanKey, TenantId
from tallygate_server.domain.limits import GRACE_DAYS_MAX, LIMIT_MAX, LIMIT_UNLIMITED
from tallygate_server.domain.money import CURRENCIES
from tallygate_server.domain.period import PeriodAnchor, PeriodKind

keys = st.sampled_from(["a", "on", "value", "null", "x.y", "long-key_1", "features", "unlimited", "y", "n1e5"])
tenant_ids = st.sampled_from(["shop", "shop-2", "0", "1e5", "true", "null"]).map(TenantId)
model_keys = st.sampled_from(["gpt-4o-mini", "A", "0", "true", "m:1@b/c.d_e"])
# Everything printable, and what YAML finds special.
texts = st.one_of(
    st.sampled_from(["", "on", "-1", "1.0", "unlimited", "a: b", "# no", "- x", "'", '"', "é", "😀", " padded ", "~"]),
    st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters="\ufeff"), max_size=20),
)
config_scalars = st.one_of(
    st.booleans(),
    st.integers(-(2**53) + 1, 2**53 - 1),
    st.floats(-1e15, 1e15, allow_nan=False),
    texts,
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\x7f"), max_size=10),
)
config_values = st.recursive(
    config_scalars,
    lambda inner: st.lists(st.none() | inner, max_size=3) | st.dictionaries(texts, st.none() | inner, max_size=3),
    max_leaves=6,
)


@st.composite
def rollovers(draw: st.DrawFn) -> Rollover:
    """Draw a rollover that something can roll over by."""
    lowest, highest = sorted((draw(st.integers(0, LIMIT_MAX)), draw(st.integers(0, LIMIT_MAX))))
    return Rollover(min_quantity=lowest, max_quantity=draw(st.sampled_from([0, highest])))


@st.composite
def meters(draw: st.DrawFn, key: str) -> Meter:
    """Draw a meter."""
    dimensions = draw(st.dictionaries(keys, st.sampled_from(["a", "usage.Model", "on", "1.2", "-"]), max_size=3))
    filtered = draw(st.sets(st.sampled_from(sorted(dimensions)))) if dimensions else set()
    values = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=10) | texts
    return Meter(
        key=key,
        event_type="com.example.used",
        aggregation=draw(st.sampled_from(MeterAggregation)),
        value_property="usage.total_tokens",
        scale=draw(st.integers(0, METER_SCALE_MAX)),
        group_by=tuple(dimensions.items()),
        filters=tuple(
            MeterFilter(dimension=dimension, values=tuple(draw(st.sets(values, min_size=1, max_size=3))))
            for dimension in filtered
        ),
        name=draw(texts),
        description=draw(texts),
    )


@st.composite
def prices_of_model(draw: st.DrawFn, model_key: str) -> list[ModelPrice]:
    """Draw the prices of one model, one after the other."""
    instants = st.datetimes(
        dt.datetime(2000, 1, 1),  # noqa: DTZ001 - made UTC below
        dt.datetime(2099, 12, 31),  # noqa: DTZ001 - made UTC below
        timezones=st.just(dt.UTC),
    )
    bounds = sorted(draw(st.sets(instants, min_size=2, max_size=6)))
    since_ever = draw(st.booleans())
    return [
        ModelPrice(
            model_key=model_key,
            currency_code=draw(st.sampled_from(sorted(CURRENCIES))),
            input_micros_per_million=draw(st.integers(0, MODEL_PRICE_MICROS_MAX)),
            output_micros_per_million=draw(st.integers(0, MODEL_PRICE_MICROS_MAX)),
            cached_input_micros_per_million=draw(st.none() | st.integers(0, MODEL_PRICE_MICROS_MAX)),
            start_time=None if since_ever and start == bounds[0] else start,
            end_time=draw(st.sampled_from([None, end])),
        )
        for start, end in itertools.pairwise(bounds)
    ]


@st.composite
def allowances(draw: st.DrawFn, feature: Feature) -> Allowance:
    """Draw an allowance that fits the feature."""
    given: dict[str, Any] = {"feature_key": feature.key, "kind": feature.kind}
    if draw(st.integers(0, 4)) == 0:
        return Allowance(**given, enabled=False)
    if feature.kind is FeatureKind.CONFIG:
        given["value"] = draw(config_values)
    if feature.kind.metered:
        given["limit_quantity"] = draw(st.just(LIMIT_UNLIMITED) | st.integers(0, LIMIT_MAX))
        given["limit_mode"] = draw(st.sampled_from(LimitMode))
        given["thresholds_percent"] = tuple(sorted(draw(st.sets(st.integers(1, 1000), max_size=5))))
        given["thresholds_absolute"] = tuple(sorted(draw(st.sets(st.integers(1, LIMIT_MAX), max_size=5))))
        given["overrun_policy"] = draw(st.sampled_from(OverrunPolicy))
        given["trial_limit_quantity"] = draw(st.none() | st.just(LIMIT_UNLIMITED) | st.integers(0, LIMIT_MAX))
    if feature.kind is FeatureKind.COUNTER:
        given["period_kind"] = draw(st.sampled_from(PeriodKind))
        if given["period_kind"] is not PeriodKind.LIFETIME:
            given["period_anchor"] = draw(st.sampled_from(PeriodAnchor))
            if given["limit_quantity"] != LIMIT_UNLIMITED:
                given["rollover"] = draw(st.none() | rollovers())
    return Allowance(**given)


@st.composite
def plans(draw: st.DrawFn, key: str, features: tuple[Feature, ...]) -> Plan:
    """Draw a plan over the features."""
    intervals = draw(st.sets(st.sampled_from(BillingInterval)))
    prices = tuple(
        Price(
            interval=interval,
            amount_minor=draw(st.integers(1, 10**12)),
            currency=draw(st.sampled_from(sorted(CURRENCIES))),
            stripe_price_id=draw(st.sampled_from(["", "price_1N"])),
        )
        for interval in sorted(intervals, key=lambda interval: interval.value)
    )
    chosen = [feature for feature in features if draw(st.booleans())]
    return Plan(
        key=PlanKey(key),
        version=0,
        name=draw(texts),
        description=draw(texts),
        rank=draw(st.integers(0, 100)),
        prices=prices,
        allowances=tuple(draw(allowances(feature)) for feature in chosen),
        grace_days=draw(st.integers(0, GRACE_DAYS_MAX)),
        trial_days=draw(st.integers(0, 730)) if prices else 0,
    )


@st.composite
def catalogs(
    draw: st.DrawFn,
    tenant_id: TenantId | None = None,
    parent: TenantId | None = None,
    inherited: tuple[Feature, ...] = (),
    brought: tuple[Meter, ...] = (),
) -> Catalog:
    """Draw a catalog that obeys every rule; a store's has the product's features and the meters they hang on."""
    own_meters = tuple(
        draw(meters(key))
        for key in draw(st.lists(keys, unique=True, max_size=2))
        if key not in {meter.key for meter in brought}
    )
    drawn_meters = (*brought, *own_meters)
    additive = [meter.key for meter in drawn_meters if meter.aggregation.additive]
    inherited_keys = {feature.key for feature in inherited}
    features = list(inherited)
    for key in draw(st.lists(keys, unique=True, max_size=5)):
        if key in inherited_keys:
            continue
        kind = draw(st.sampled_from(FeatureKind))
        features.append(
            Feature(
                key=FeatureKey(key),
                kind=kind,
                name=draw(texts),
                description=draw(texts),
                unit=draw(texts) if kind.metered else "",
                failure_mode=draw(st.sampled_from(FailureMode)),
                meter_key=draw(st.sampled_from(["", *additive])) if kind is FeatureKind.COUNTER else "",
            )
        )
    drawn = tuple(draw(plans(key, tuple(features))) for key in draw(st.lists(keys, unique=True, max_size=3)))
    default = draw(st.none() | st.sampled_from(drawn)) if drawn else None
    return Catalog(
        settings=TenantSettings(
            tenant_id=tenant_id or draw(tenant_ids),
            name=draw(texts),
            parent_tenant_id=parent,
            default_plan_key=default.key if default is not None else None,
            auto_provision=default is not None and not default.priced and draw(st.booleans()),
            upgrade_url=draw(st.sampled_from(["", "/up?user={account_id}&f={feature_key}", "https://x.example/#up"])),
            default_currency_code=draw(st.sampled_from(["", "USD", "ALL"])),
            default_time_zone=draw(st.sampled_from(["", "Europe/Berlin", "Etc/GMT+1"])),
            default_failure_mode=draw(st.sampled_from(FailureMode)),
            default_grace_days=draw(st.integers(0, GRACE_DAYS_MAX)),
            closed_period_corrections=draw(st.booleans()),
            late_event_window=draw(st.none() | st.integers(0, 35 * 86_400).map(lambda s: dt.timedelta(seconds=s))),
            usage_retention_days=draw(st.one_of(st.just(0), st.integers(40, 36_500))),
        ),
        features=tuple(features),
        plans=drawn,
        meters=drawn_meters,
        model_prices=tuple(
            price for key in draw(st.sets(model_keys, max_size=2)) for price in draw(prices_of_model(key))
        ),
    )


@st.composite
def catalog_sets(draw: st.DrawFn) -> CatalogSet:
    """Draw a product with stores, some of which have its features."""
    root = draw(catalogs())
    root_id = root.settings.tenant_id
    store_ids = draw(st.lists(tenant_ids.filter(lambda tenant_id: tenant_id != root_id), unique=True, max_size=2))
    stores = []
    for store_id in store_ids:
        inherits = draw(st.booleans())
        inherited = root.features if inherits else ()
        stores.append(draw(catalogs(store_id, root_id, inherited, inherited_meters(root) if inherits else ())))
    return CatalogSet(root=root, stores=tuple(stores))
