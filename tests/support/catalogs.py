"""Hypothesis strategies of sound catalogs."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tallygate_server.catalog_rules import CatalogSet
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
    Plan,
    Price,
    TenantSettings,
)
from tallygate_server.domain.identifier import FeatureKey, PlanKey, TenantId
from tallygate_server.domain.limits import GRACE_DAYS_MAX, LIMIT_MAX, LIMIT_UNLIMITED
from tallygate_server.domain.money import CURRENCIES
from tallygate_server.domain.period import PeriodAnchor, PeriodKind

keys = st.sampled_from(["a", "on", "value", "null", "x.y", "long-key_1", "features", "unlimited", "y", "n1e5"])
tenant_ids = st.sampled_from(["shop", "shop-2", "0", "1e5", "true", "null"]).map(TenantId)
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
    if feature.kind is FeatureKind.COUNTER:
        given["period_kind"] = draw(st.sampled_from(PeriodKind))
        if given["period_kind"] is not PeriodKind.LIFETIME:
            given["period_anchor"] = draw(st.sampled_from(PeriodAnchor))
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
) -> Catalog:
    """Draw a catalog that obeys every rule."""
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
            )
        )
    drawn = tuple(draw(plans(key, tuple(features))) for key in draw(st.lists(keys, unique=True, max_size=3)))
    default = draw(st.none() | st.sampled_from(drawn)) if drawn else None
    meters = tuple(
        Meter(
            key=key,
            event_type="com.example.used",
            aggregation=draw(st.sampled_from(MeterAggregation)),
            value_property="usage.total_tokens",
            group_by=tuple((name, name) for name in draw(st.lists(keys, unique=True, max_size=3))),
        )
        for key in draw(st.lists(keys, unique=True, max_size=2))
    )
    return Catalog(
        settings=TenantSettings(
            tenant_id=tenant_id or draw(tenant_ids),
            name=draw(texts),
            parent_tenant_id=parent,
            default_plan_key=default.key if default is not None else None,
            auto_provision=default is not None and not default.priced and draw(st.booleans()),
            upgrade_url=draw(st.sampled_from(["", "/up?user={account_id}&f={feature_key}", "https://x.example/#up"])),
        ),
        features=tuple(features),
        plans=drawn,
        meters=meters,
    )


@st.composite
def catalog_sets(draw: st.DrawFn) -> CatalogSet:
    """Draw a product with stores, some of which have its features."""
    root = draw(catalogs())
    root_id = root.settings.tenant_id
    store_ids = draw(st.lists(tenant_ids.filter(lambda tenant_id: tenant_id != root_id), unique=True, max_size=2))
    stores = []
    for store_id in store_ids:
        inherited = root.features if draw(st.booleans()) else ()
        stores.append(draw(catalogs(store_id, root_id, inherited)))
    return CatalogSet(root=root, stores=tuple(stores))
