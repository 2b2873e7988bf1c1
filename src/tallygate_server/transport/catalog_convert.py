"""Between the catalog's wire messages and the catalog of the domain.

The contract says more than this release does. What a caller sets and we would have to ignore is refused by
name, because a catalog that is half applied is worse than none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from google.protobuf.message import Message

from tallygate.v1 import access_pb2, catalog_pb2, catalog_service_pb2, money_pb2, period_pb2
from tallygate_server.catalog import CatalogApplied, CatalogSource
from tallygate_server.catalog_diff import CatalogChange, CatalogElement, ChangeKind
from tallygate_server.catalog_files import inherited_meters
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
    MeterFilter,
    ModelPrice,
    OverrunPolicy,
    Plan,
    Price,
    Rollover,
    TenantSettings,
)
from tallygate_server.domain.identifier import FeatureKey, PlanKey, TenantId
from tallygate_server.domain.limits import GRACE_DAYS_DEFAULT
from tallygate_server.domain.period import PeriodAnchor, PeriodKind
from tallygate_server.errors import CatalogInvalid, FieldViolation, InvalidRequest, NotBuilt
from tallygate_server.storage.catalogs import FeatureRow, MeterRow, PlanRow
from tallygate_server.transport.convert import (
    api_enum,
    domain_enum,
    from_api_time,
    from_api_value,
    to_api_optional_instant,
    to_api_value,
)

_UNBUILT_TENANT: Final = ("metadata",)
_UNBUILT_FEATURE: Final = ("metadata",)
_UNBUILT_PLAN: Final = ("metadata",)
_UNBUILT_ALLOWANCE: Final = ("grace_days", "failure_mode")

FEATURE_KINDS: Final = domain_enum(FeatureKind, access_pb2.FeatureKind, "FEATURE_KIND")
_FAILURE_MODES: Final = {
    access_pb2.FAILURE_MODE_OPEN: FailureMode.OPEN,
    access_pb2.FAILURE_MODE_CLOSED: FailureMode.CLOSED,
}
INTERVALS: Final = domain_enum(BillingInterval, catalog_pb2.BillingInterval, "BILLING_INTERVAL")
PERIODS: Final = domain_enum(PeriodKind, period_pb2.PeriodKind, "PERIOD_KIND")
ANCHORS: Final = domain_enum(PeriodAnchor, period_pb2.PeriodAnchor, "PERIOD_ANCHOR")

_API_KIND: Final = api_enum(FeatureKind, access_pb2.FeatureKind, "FEATURE_KIND")
API_INTERVAL: Final = api_enum(BillingInterval, catalog_pb2.BillingInterval, "BILLING_INTERVAL")
_API_FAILURE_MODE: Final = api_enum(FailureMode, access_pb2.FailureMode, "FAILURE_MODE")
API_PERIOD: Final = api_enum(PeriodKind, period_pb2.PeriodKind, "PERIOD_KIND")
API_ANCHOR: Final = api_enum(PeriodAnchor, period_pb2.PeriodAnchor, "PERIOD_ANCHOR")
API_ENFORCEMENT: Final = api_enum(LimitMode, catalog_pb2.Enforcement, "ENFORCEMENT")
_API_CHANGE: Final = api_enum(ChangeKind, catalog_service_pb2.CatalogChangeKind, "CATALOG_CHANGE_KIND")
_API_ELEMENT: Final = api_enum(CatalogElement, catalog_service_pb2.CatalogElement, "CATALOG_ELEMENT")
OVERRUN_POLICIES: Final = domain_enum(OverrunPolicy, catalog_pb2.OverrunPolicy, "OVERRUN_POLICY")
API_OVERRUN_POLICY: Final = api_enum(OverrunPolicy, catalog_pb2.OverrunPolicy, "OVERRUN_POLICY")
_AGGREGATIONS: Final = domain_enum(MeterAggregation, catalog_pb2.MeterAggregation, "METER_AGGREGATION")
_API_AGGREGATION: Final = api_enum(MeterAggregation, catalog_pb2.MeterAggregation, "METER_AGGREGATION")


# From the wire


def from_api_catalog_source(request: catalog_service_pb2.ApplyCatalogRequest) -> CatalogSource | CatalogSet:
    """Convert what is to be applied; raise CatalogInvalid or NotBuilt for what this release cannot do."""
    if request.migrate_subscriptions:
        raise NotBuilt("ApplyCatalog with migrate_subscriptions")
    if request.WhichOneof("source") == "yaml":
        return CatalogSource(request.yaml)
    return _Reader().catalog_set(request.catalog)


class _Reader:
    """Reads catalog messages, collecting everything that is wrong with them."""

    def __init__(self) -> None:
        self._violations: list[FieldViolation] = []

    def catalog_set(self, message: catalog_pb2.Catalog) -> CatalogSet:
        root = self._catalog(message, "catalog")
        stores = []
        for index, child in enumerate(message.children):
            path = f"catalog.children[{index}]"
            if child.children:
                self._refuse(f"{path}.children", "a store has no stores of its own")
            stores.append(self._catalog(child, path, product=root))
        if self._violations:
            raise CatalogInvalid(self._violations)
        return CatalogSet(root=root, stores=tuple(stores))

    def _catalog(self, message: catalog_pb2.Catalog, path: str, *, product: Catalog | None = None) -> Catalog:
        tenant = message.tenant
        self._refuse_set(tenant, f"{path}.tenant", _UNBUILT_TENANT)
        if product is None and tenant.inherit_features:
            self._refuse(f"{path}.tenant.inherit_features", "only a store in its product's catalog inherits")
        parent = product.settings.tenant_id if product is not None else ""
        failure_mode = _FAILURE_MODES.get(tenant.default_failure_mode, FailureMode.CLOSED)
        grace_days = tenant.default_grace_days if tenant.HasField("default_grace_days") else GRACE_DAYS_DEFAULT
        settings = TenantSettings(
            tenant_id=TenantId(tenant.tenant_id),
            name=tenant.display_name,
            parent_tenant_id=TenantId(tenant.parent_tenant_id or parent) or None,
            default_plan_key=PlanKey(tenant.default_plan_key) or None,
            auto_provision=tenant.auto_provision,
            upgrade_url=tenant.upgrade_url_template,
            default_currency_code=tenant.default_currency_code,
            default_time_zone=tenant.default_time_zone,
            default_failure_mode=failure_mode,
            default_grace_days=grace_days,
            closed_period_corrections=tenant.closed_period_corrections,
            late_event_window=self._late_event_window(tenant, f"{path}.tenant"),
            usage_retention_days=tenant.usage_retention_days,
        )
        currency = tenant.default_currency_code or (product.settings.default_currency_code if product else "")
        features = [
            self._feature(feature, f"{path}.features[{index}]", failure_mode)
            for index, feature in enumerate(message.features)
        ]
        meters = [self._meter(meter, f"{path}.meters[{index}]") for index, meter in enumerate(message.meters)]
        if product is not None and tenant.inherit_features:
            # As in a catalog file; one that is declared again is refused by the rules.
            features = [*product.features, *features]
            own = {meter.key for meter in meters}
            meters = [*(meter for meter in inherited_meters(product) if meter.key not in own), *meters]
        kinds = {feature.key: feature.kind for feature in features}
        return Catalog(
            settings=settings,
            features=tuple(features),
            plans=tuple(
                self._plan(plan, f"{path}.plans[{index}]", kinds, grace_days, currency)
                for index, plan in enumerate(message.plans)
            ),
            meters=tuple(meters),
            model_prices=tuple(
                self._model_price(price, f"{path}.model_prices[{index}]")
                for index, price in enumerate(message.model_prices)
            ),
        )

    def _late_event_window(self, tenant: catalog_pb2.Tenant, path: str) -> timedelta | None:
        if not tenant.HasField("late_event_window"):
            return None
        window = tenant.late_event_window
        if window.nanos:
            self._refuse(f"{path}.late_event_window", "a number of whole seconds")
        return timedelta(seconds=window.seconds)

    def _feature(self, message: catalog_pb2.Feature, path: str, failure_mode: FailureMode) -> Feature:
        self._refuse_set(message, path, _UNBUILT_FEATURE)
        return Feature(
            key=FeatureKey(message.key),
            kind=FEATURE_KINDS[message.kind],
            name=message.display_name,
            description=message.description,
            unit=message.unit,
            failure_mode=_FAILURE_MODES.get(message.failure_mode, failure_mode),
            meter_key=message.meter_key,
        )

    def _plan(
        self,
        message: catalog_pb2.Plan,
        path: str,
        kinds: dict[FeatureKey, FeatureKind],
        grace_days: int,
        currency: str,
    ) -> Plan:
        self._refuse_set(message, path, _UNBUILT_PLAN)
        return Plan(
            key=PlanKey(message.key),
            version=0,
            name=message.display_name,
            description=message.description,
            rank=message.rank,
            prices=tuple(self._prices(message, path, currency)),
            allowances=tuple(self._allowances(message, path, kinds)),
            grace_days=message.grace_days if message.HasField("grace_days") else grace_days,
            trial_days=message.trial_days,
        )

    def _prices(self, plan: catalog_pb2.Plan, path: str, currency: str) -> Iterator[Price]:
        for index, message in enumerate(plan.prices):
            interval = INTERVALS.get(message.interval)
            if interval is None or message.interval_count > 1:
                self._refuse(f"{path}.prices[{index}].interval", "plans are sold by month or by year")
                continue
            yield Price(
                interval=interval,
                amount_minor=message.amount.minor_units,
                currency=message.amount.currency_code or currency,
                stripe_price_id=message.stripe_price_id,
            )

    def _allowances(
        self, plan: catalog_pb2.Plan, path: str, kinds: dict[FeatureKey, FeatureKind]
    ) -> Iterator[Allowance]:
        for index, message in enumerate(plan.allowances):
            where = f"{path}.allowances[{index}]"
            key = FeatureKey(message.feature_key)
            kind = kinds.get(key)
            self._refuse_set(message, where, _UNBUILT_ALLOWANCE)
            if kind is None:
                self._refuse(f"{where}.feature_key", f"the catalog has no feature {key!r}")
                continue
            gift = message.WhichOneof("gift")
            if gift == "enabled" and not message.enabled:
                yield Allowance(feature_key=key, kind=kind, enabled=False)
            elif gift == "enabled" and kind is FeatureKind.BOOLEAN:
                yield Allowance(feature_key=key, kind=kind)
            elif gift == "config_value" and kind is FeatureKind.CONFIG:
                yield Allowance(feature_key=key, kind=kind, value=from_api_value(message.config_value))
            elif gift == "limit" and kind.metered:
                yield self._limit(message.limit, key, kind)
            else:
                self._refuse(f"{where}.{gift}", f"does not fit {key!r}, which is a {kind.value} feature")

    def _limit(self, message: catalog_pb2.Limit, key: FeatureKey, kind: FeatureKind) -> Allowance:
        period = PeriodKind.MONTH if kind is FeatureKind.COUNTER else PeriodKind.LIFETIME
        soft = message.enforcement == catalog_pb2.ENFORCEMENT_SOFT
        thresholds = message.thresholds
        return Allowance(
            feature_key=key,
            kind=kind,
            limit_quantity=message.quantity,
            period_kind=PERIODS.get(message.period, period),
            period_anchor=ANCHORS.get(message.anchor, PeriodAnchor.UTC),
            limit_mode=LimitMode.SOFT if soft else LimitMode.HARD,
            thresholds_percent=tuple(t.percent for t in thresholds if t.WhichOneof("point") == "percent"),
            thresholds_absolute=tuple(t.quantity for t in thresholds if t.WhichOneof("point") == "quantity"),
            rollover=from_api_rollover(message.rollover) if message.HasField("rollover") else None,
            overrun_policy=OVERRUN_POLICIES.get(message.overrun_policy, OverrunPolicy.REJECT),
            trial_limit_quantity=message.trial_quantity if message.HasField("trial_quantity") else None,
        )

    def _meter(self, message: catalog_pb2.Meter, path: str) -> Meter:
        if message.aggregation not in _AGGREGATIONS:
            self._refuse(f"{path}.aggregation", "is none that this release knows")
        return Meter(
            key=message.key,
            event_type=message.event_type,
            aggregation=_AGGREGATIONS.get(message.aggregation, MeterAggregation.COUNT),
            value_property=message.value_property,
            scale=message.scale,
            group_by=tuple(message.group_by.items()),
            filters=tuple(MeterFilter(dimension=each.dimension, values=tuple(each.values)) for each in message.filters),
            name=message.display_name,
            description=message.description,
        )

    def _model_price(self, message: catalog_pb2.ModelPrice, path: str) -> ModelPrice:
        cached = message.HasField("cached_input_micros_per_million")
        return ModelPrice(
            model_key=message.model_key,
            currency_code=message.currency_code,
            input_micros_per_million=message.input_micros_per_million,
            output_micros_per_million=message.output_micros_per_million,
            cached_input_micros_per_million=message.cached_input_micros_per_million if cached else None,
            start_time=self._instant(message, "start_time", path),
            end_time=self._instant(message, "end_time", path),
        )

    def _instant(self, message: catalog_pb2.ModelPrice, field: str, path: str) -> datetime | None:
        if not message.HasField(field):
            return None
        try:
            return from_api_time(getattr(message, field), f"{path}.{field}")
        except InvalidRequest as error:
            self._violations.extend(error.violations)
            return None

    def _refuse(self, path: str, description: str) -> None:
        self._violations.append(FieldViolation(path, description))

    def _refuse_set(self, message: Message, path: str, names: Sequence[str]) -> None:
        for descriptor, _value in message.ListFields():
            if descriptor.name in names:
                self._refuse(f"{path}.{descriptor.name}", "is not built in this release; leave it out")


# To the wire


def to_api_applied(applied: CatalogApplied) -> catalog_service_pb2.ApplyCatalogResponse:
    """Convert what an application changed, or would change."""
    return catalog_service_pb2.ApplyCatalogResponse(
        changes=[to_api_change(change) for change in applied.changes],
        affected_account_count=applied.affected_accounts,
        affected_subscription_count=applied.affected_subscriptions,
        catalog_revision=applied.revision,
        applied=applied.applied,
        tenant_id=applied.tenant_id,
    )


def to_api_change(change: CatalogChange) -> catalog_service_pb2.CatalogChange:
    """Convert one difference."""
    return catalog_service_pb2.CatalogChange(
        tenant_id=change.tenant_id,
        kind=_API_CHANGE[change.kind],
        element=_API_ELEMENT[change.element],
        key=change.key,
        path=change.path,
        before_json=_json(change.before),
        after_json=_json(change.after),
        affected_account_count=change.affected_accounts,
        affected_subscription_count=change.affected_subscriptions,
        restrictive=change.restrictive,
    )


def to_api_catalog(catalog: Catalog, *, revision: int) -> catalog_pb2.Catalog:
    """Convert a whole catalog."""
    settings = catalog.settings
    return catalog_pb2.Catalog(
        tenant=catalog_pb2.Tenant(
            tenant_id=settings.tenant_id,
            display_name=settings.name,
            parent_tenant_id=settings.parent_tenant_id or "",
            default_plan_key=settings.default_plan_key or "",
            auto_provision=settings.auto_provision,
            upgrade_url_template=settings.upgrade_url,
            default_currency_code=settings.default_currency_code,
            default_time_zone=settings.default_time_zone,
            default_failure_mode=_API_FAILURE_MODE[settings.default_failure_mode],
            default_grace_days=settings.default_grace_days,
            closed_period_corrections=settings.closed_period_corrections,
            late_event_window=settings.late_event_window,
            usage_retention_days=settings.usage_retention_days,
        ),
        features=[to_api_feature(feature) for feature in catalog.features],
        plans=[to_api_plan(plan) for plan in catalog.plans],
        meters=[to_api_meter(meter) for meter in catalog.meters],
        model_prices=[to_api_model_price(price) for price in catalog.model_prices],
        revision=revision,
    )


def to_api_feature(feature: Feature, *, retired: bool = False) -> catalog_pb2.Feature:
    """Convert a feature."""
    return catalog_pb2.Feature(
        key=feature.key,
        kind=_API_KIND[feature.kind],
        display_name=feature.name,
        description=feature.description,
        unit=feature.unit,
        failure_mode=_API_FAILURE_MODE[feature.failure_mode],
        meter_key=feature.meter_key,
        retired=retired,
    )


def to_api_plan(plan: Plan, *, retired: bool = False) -> catalog_pb2.Plan:
    """Convert a plan version."""
    return catalog_pb2.Plan(
        key=plan.key,
        version=plan.version,
        display_name=plan.name,
        description=plan.description,
        rank=plan.rank,
        prices=[to_api_price(price) for price in plan.prices],
        allowances=[to_api_allowance(allowance) for allowance in plan.allowances],
        grace_days=plan.grace_days,
        trial_days=plan.trial_days,
        retired=retired,
    )


def to_api_price(price: Price) -> catalog_pb2.Price:
    """Convert a price."""
    return catalog_pb2.Price(
        interval=API_INTERVAL[price.interval],
        interval_count=1,
        amount=to_api_money(price),
        stripe_price_id=price.stripe_price_id,
    )


def to_api_money(price: Price) -> money_pb2.Money:
    """Convert what a price amounts to."""
    return money_pb2.Money(minor_units=price.amount_minor, currency_code=price.currency)


def to_api_meter(meter: Meter, *, retired: bool = False) -> catalog_pb2.Meter:
    """Convert a meter."""
    return catalog_pb2.Meter(
        key=meter.key,
        event_type=meter.event_type,
        aggregation=_API_AGGREGATION[meter.aggregation],
        value_property=meter.value_property,
        group_by=dict(meter.group_by),
        display_name=meter.name,
        description=meter.description,
        scale=meter.scale,
        filters=[catalog_pb2.DimensionFilter(dimension=each.dimension, values=each.values) for each in meter.filters],
        retired=retired,
    )


def to_api_model_price(price: ModelPrice) -> catalog_pb2.ModelPrice:
    """Convert the price of an AI model."""
    return catalog_pb2.ModelPrice(
        model_key=price.model_key,
        currency_code=price.currency_code,
        input_micros_per_million=price.input_micros_per_million,
        output_micros_per_million=price.output_micros_per_million,
        cached_input_micros_per_million=price.cached_input_micros_per_million,
        start_time=to_api_optional_instant(price.start_time),
        end_time=to_api_optional_instant(price.end_time),
    )


def from_api_rollover(message: catalog_pb2.Rollover) -> Rollover:
    """Convert a rollover."""
    return Rollover(min_quantity=message.min_quantity, max_quantity=message.max_quantity)


def to_api_rollover(rollover: Rollover | None) -> catalog_pb2.Rollover | None:
    """Convert a rollover that may be absent."""
    if rollover is None:
        return None
    return catalog_pb2.Rollover(min_quantity=rollover.min_quantity, max_quantity=rollover.max_quantity)


def wanted_features(
    request: catalog_service_pb2.ListFeaturesRequest, features: Sequence[FeatureRow], plans: Sequence[PlanRow]
) -> list[FeatureRow]:
    """Keep the features that the request's filters let through; `plans` holds the plan asked for, if any."""
    mentioned = {allowance.feature_key for row in plans for allowance in row.plan.allowances}
    return [
        row
        for row in features
        if (not request.plan_key or row.feature.key in mentioned)
        and request.kind in (access_pb2.FEATURE_KIND_UNSPECIFIED, _API_KIND[row.feature.kind])
    ]


def plan_position(row: PlanRow) -> str:
    """Return a text by which plans sort as they are listed: by rank and key, versions newest first."""
    return f"{row.plan.rank:010}/{row.plan.key}/{10**12 - row.plan.version:013}"


def feature_position(row: FeatureRow) -> str:
    """Return a text by which features sort as they are listed."""
    return row.feature.key


def meter_position(row: MeterRow) -> str:
    """Return a text by which meters sort as they are listed."""
    return row.meter.key


def to_api_allowance(allowance: Allowance) -> catalog_pb2.Allowance:
    """Convert what a plan gives for a feature."""
    if not allowance.enabled or allowance.kind is FeatureKind.BOOLEAN:
        return catalog_pb2.Allowance(feature_key=allowance.feature_key, enabled=allowance.enabled)
    if allowance.kind is FeatureKind.CONFIG:
        return catalog_pb2.Allowance(feature_key=allowance.feature_key, config_value=to_api_value(allowance.value))
    counter = allowance.kind is FeatureKind.COUNTER
    thresholds = [catalog_pb2.Threshold(percent=percent) for percent in allowance.thresholds_percent]
    thresholds += [catalog_pb2.Threshold(quantity=quantity) for quantity in allowance.thresholds_absolute]
    return catalog_pb2.Allowance(
        feature_key=allowance.feature_key,
        limit=catalog_pb2.Limit(
            quantity=allowance.limit_quantity,
            period=API_PERIOD[allowance.period_kind] if counter else period_pb2.PERIOD_KIND_UNSPECIFIED,
            anchor=API_ANCHOR[allowance.period_anchor] if counter else period_pb2.PERIOD_ANCHOR_UNSPECIFIED,
            enforcement=API_ENFORCEMENT[allowance.limit_mode],
            thresholds=thresholds,
            rollover=to_api_rollover(allowance.rollover),
            trial_quantity=allowance.trial_limit_quantity,
            overrun_policy=API_OVERRUN_POLICY[allowance.overrun_policy],
        ),
    )


def _json(value: Any) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False, sort_keys=True)
