"""SQL of tenants and their catalogs: settings, features, plan versions, meters and catalog revisions.

Every function runs in the caller's transaction, which sees one tenant's rows; `switch_tenant` moves it to
another tenant, so that a product and its stores change together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from sqlalchemy import Row, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import distinct_on, insert

from tallygate_server.domain.catalog import (
    FailureMode,
    Feature,
    FeatureKind,
    Meter,
    MeterAggregation,
    MeterFilter,
    ModelPrice,
    Plan,
    TenantSettings,
)
from tallygate_server.domain.identifier import FeatureKey, PlanKey, TenantId
from tallygate_server.domain.limits import GRACE_DAYS_DEFAULT
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.mapping import (
    Json,
    allowance_from_json,
    allowance_to_json,
    price_from_json,
    price_to_json,
)
from tallygate_server.storage.tables import catalog_revisions, features, meters, model_prices, plans, tenants


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantRow:
    """A tenant as stored; revision 0 means that no catalog was ever applied."""

    settings: TenantSettings
    catalog_revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRow:
    """A feature as stored, in the catalog or retired from it."""

    feature: Feature
    position: int
    retired: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow:
    """A plan version as stored; `retired` is said of the newest version only."""

    plan: Plan
    digest: str
    retired: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterRow:
    """A meter as stored."""

    meter: Meter
    retired: bool


async def switch_tenant(connection: Connection, tenant_id: TenantId) -> None:
    """Let the rest of the transaction see and write this tenant's rows, and no others."""
    await connection.execute(text("SELECT set_config('tallygate.tenant_id', :id, true)"), {"id": tenant_id})


async def lock_tenant(connection: Connection, tenant_id: TenantId) -> TenantRow:
    """Lock the tenant's row until the transaction ends, making it (at revision 0) where there is none."""
    await connection.execute(
        insert(tenants).values(tenant_id=tenant_id).on_conflict_do_nothing(index_elements=["tenant_id"])
    )
    rows = await connection.execute(select(tenants).where(tenants.c.tenant_id == tenant_id).with_for_update())
    return _tenant(rows.one())


async def read_tenant(connection: Connection, tenant_id: TenantId) -> TenantRow | None:
    """Return the tenant, or None where there is none or no catalog was ever applied."""
    rows = await connection.execute(
        select(tenants).where(tenants.c.tenant_id == tenant_id, tenants.c.catalog_revision > 0)
    )
    row = rows.one_or_none()
    return _tenant(row) if row is not None else None


async def write_tenant(connection: Connection, settings: TenantSettings, *, catalog_revision: int) -> None:
    """Store the settings and the new revision of a tenant that exists."""
    await connection.execute(
        update(tenants)
        .where(tenants.c.tenant_id == settings.tenant_id)
        .values(
            parent_tenant_id=settings.parent_tenant_id,
            name=settings.name,
            default_plan_key=settings.default_plan_key,
            auto_provision=settings.auto_provision,
            upgrade_url=settings.upgrade_url,
            settings=settings_to_json(settings),
            catalog_revision=catalog_revision,
            update_time=func.now(),
        )
    )


async def read_features(connection: Connection, tenant_id: TenantId) -> list[FeatureRow]:
    """Return every feature, retired ones too, in the catalog's order."""
    rows = await connection.execute(
        select(features).where(features.c.tenant_id == tenant_id).order_by(features.c.position, features.c.feature_key)
    )
    return [
        FeatureRow(
            feature=Feature(
                key=FeatureKey(row.feature_key),
                kind=FeatureKind(row.kind),
                name=row.name,
                description=row.description,
                unit=row.unit,
                failure_mode=FailureMode(row.failure_mode),
                meter_key=row.meter_key,
            ),
            position=row.position,
            retired=row.retire_time is not None,
        )
        for row in rows
    ]


async def write_feature(connection: Connection, tenant_id: TenantId, feature: Feature, *, position: int) -> None:
    """Add the feature, or change what may change of it; a retired one is in the catalog again."""
    described = {
        "name": feature.name,
        "description": feature.description,
        "unit": feature.unit,
        "failure_mode": feature.failure_mode.value,
        "meter_key": feature.meter_key,
        "position": position,
        "retire_time": None,
    }
    await connection.execute(
        insert(features)
        .values(tenant_id=tenant_id, feature_key=feature.key, kind=feature.kind.value, **described)
        .on_conflict_do_update(index_elements=["tenant_id", "feature_key"], set_=described)
    )


async def move_feature(connection: Connection, tenant_id: TenantId, feature_key: str, *, position: int) -> None:
    """Store where in the catalog the feature stands."""
    await connection.execute(
        update(features)
        .where(features.c.tenant_id == tenant_id, features.c.feature_key == feature_key)
        .values(position=position)
    )


async def retire_features(connection: Connection, tenant_id: TenantId, keys: Sequence[str]) -> None:
    """Take the features out of the catalog; plan versions that mention them keep working."""
    await connection.execute(
        update(features)
        .where(features.c.tenant_id == tenant_id, features.c.feature_key.in_(keys))
        .values(retire_time=func.now())
    )


async def read_plans(
    connection: Connection,
    tenant_id: TenantId,
    *,
    plan_key: str | None = None,
    all_versions: bool = False,
) -> list[PlanRow]:
    """Return plans by rank and key, retired ones too: the newest version of each, or all, newest first."""
    statement = select(plans).where(plans.c.tenant_id == tenant_id)
    if plan_key is not None:
        statement = statement.where(plans.c.plan_key == plan_key)
    statement = statement.order_by(plans.c.plan_key, plans.c.version.desc())
    if not all_versions:
        statement = statement.ext(distinct_on(plans.c.plan_key))
    found = [_plan(row) for row in await connection.execute(statement)]
    ranks: dict[str, int] = {}
    for row in found:
        ranks.setdefault(row.plan.key, row.plan.rank)
    # Stable: versions of one plan stay together, newest first.
    return sorted(found, key=lambda row: (ranks[row.plan.key], row.plan.key))


async def read_plan(
    connection: Connection, tenant_id: TenantId, plan_key: str, *, version: int | None = None
) -> PlanRow | None:
    """Return one version of the plan (None: the newest, also if it is retired)."""
    statement = select(plans).where(plans.c.tenant_id == tenant_id, plans.c.plan_key == plan_key)
    if version is not None:
        statement = statement.where(plans.c.version == version)
    row = (await connection.execute(statement.order_by(plans.c.version.desc()).limit(1))).one_or_none()
    return _plan(row) if row is not None else None


async def add_plan_version(connection: Connection, tenant_id: TenantId, plan: Plan, digest: str) -> None:
    """Add a version; versions are never changed afterwards."""
    await connection.execute(
        plans.insert().values(
            tenant_id=tenant_id,
            plan_key=plan.key,
            version=plan.version,
            name=plan.name,
            description=plan.description,
            rank=plan.rank,
            grace_days=plan.grace_days,
            trial_days=plan.trial_days,
            prices=[price_to_json(price) for price in plan.prices],
            allowances=[allowance_to_json(allowance) for allowance in plan.allowances],
            digest=digest,
        )
    )


async def retire_plans(connection: Connection, tenant_id: TenantId, keys: Sequence[str]) -> None:
    """Take the plans off sale, every version; subscriptions keep theirs."""
    await connection.execute(
        update(plans)
        .where(plans.c.tenant_id == tenant_id, plans.c.plan_key.in_(keys), plans.c.retire_time.is_(None))
        .values(retire_time=func.now())
    )


async def restore_plan(connection: Connection, tenant_id: TenantId, plan_key: str, version: int) -> None:
    """Put a retired version on sale again."""
    await connection.execute(
        update(plans)
        .where(plans.c.tenant_id == tenant_id, plans.c.plan_key == plan_key, plans.c.version == version)
        .values(retire_time=None)
    )


async def read_meters(connection: Connection, tenant_id: TenantId) -> list[MeterRow]:
    """Return every meter by key, retired ones too."""
    rows = await connection.execute(select(meters).where(meters.c.tenant_id == tenant_id).order_by(meters.c.meter_key))
    return [MeterRow(meter=_meter(row.meter_key, row.definition), retired=row.retire_time is not None) for row in rows]


async def write_meter(connection: Connection, tenant_id: TenantId, meter: Meter) -> None:
    """Add or change the meter; a retired one is in the catalog again."""
    values = {"definition": meter_to_json(meter), "retire_time": None}
    await connection.execute(
        insert(meters)
        .values(tenant_id=tenant_id, meter_key=meter.key, **values)
        .on_conflict_do_update(index_elements=["tenant_id", "meter_key"], set_=values)
    )


async def retire_meters(connection: Connection, tenant_id: TenantId, keys: Sequence[str]) -> None:
    """Take the meters out of the catalog; what they measured stays."""
    await connection.execute(
        update(meters)
        .where(meters.c.tenant_id == tenant_id, meters.c.meter_key.in_(keys))
        .values(retire_time=func.now())
    )


async def read_model_prices(connection: Connection, tenant_id: TenantId) -> tuple[ModelPrice, ...]:
    """Return the prices of models in the catalog, by model and start."""
    rows = await connection.execute(
        select(model_prices)
        .where(model_prices.c.tenant_id == tenant_id)
        .order_by(model_prices.c.model_key, model_prices.c.position)
    )
    return tuple(
        ModelPrice(
            model_key=row.model_key,
            currency_code=row.currency_code,
            input_micros_per_million=row.input_micros_per_million,
            output_micros_per_million=row.output_micros_per_million,
            cached_input_micros_per_million=row.cached_input_micros_per_million,
            start_time=row.start_time,
            end_time=row.end_time,
        )
        for row in rows
    )


async def replace_model_prices(connection: Connection, tenant_id: TenantId, prices: Sequence[ModelPrice]) -> None:
    """Store these prices, given by model and start, in place of those that were in the catalog."""
    await connection.execute(delete(model_prices).where(model_prices.c.tenant_id == tenant_id))
    if not prices:
        return
    await connection.execute(
        insert(model_prices),
        [
            {
                "tenant_id": tenant_id,
                "model_key": price.model_key,
                "position": position,
                "currency_code": price.currency_code,
                "input_micros_per_million": price.input_micros_per_million,
                "output_micros_per_million": price.output_micros_per_million,
                "cached_input_micros_per_million": price.cached_input_micros_per_million,
                "start_time": price.start_time,
                "end_time": price.end_time,
            }
            for _, of_model in groupby(prices, key=lambda each: each.model_key)
            for position, price in enumerate(of_model)
        ],
    )


async def add_catalog_revision(
    connection: Connection,
    tenant_id: TenantId,
    *,
    revision: int,
    source: str,
    actor: str,
    changes: Sequence[Json],
    create_time: datetime,
) -> None:
    """Keep what was applied, by whom, and what it changed."""
    await connection.execute(
        catalog_revisions.insert().values(
            tenant_id=tenant_id,
            revision=revision,
            source=source,
            actor=actor,
            changes=list(changes),
            create_time=create_time,
        )
    )


def meter_to_json(meter: Meter) -> Json:
    """Return the meter as JSON, without its key."""
    return {
        "event_type": meter.event_type,
        "aggregation": meter.aggregation.value,
        "value_property": meter.value_property,
        "scale": meter.scale,
        "group_by": [list(pair) for pair in meter.group_by],
        "filters": [[each.dimension, list(each.values)] for each in meter.filters],
        "name": meter.name,
        "description": meter.description,
    }


def _meter(key: str, definition: Json) -> Meter:
    # The first releases wrote the names of dimensions alone, and none of what has a default here.
    return Meter(
        key=key,
        event_type=definition["event_type"],
        aggregation=MeterAggregation(definition["aggregation"]),
        value_property=definition["value_property"],
        scale=definition.get("scale", 0),
        group_by=tuple(
            (each, each) if isinstance(each, str) else (each[0], each[1]) for each in definition["group_by"]
        ),
        filters=tuple(
            MeterFilter(dimension=dimension, values=tuple(values))
            for dimension, values in definition.get("filters", ())
        ),
        name=definition.get("name", ""),
        description=definition.get("description", ""),
    )


def settings_to_json(settings: TenantSettings) -> Json:
    """Return the settings that have no column of their own."""
    window = settings.late_event_window
    return {
        "default_currency_code": settings.default_currency_code,
        "default_time_zone": settings.default_time_zone,
        "default_failure_mode": settings.default_failure_mode.value,
        "default_grace_days": settings.default_grace_days,
        "closed_period_corrections": settings.closed_period_corrections,
        "late_event_window_seconds": None if window is None else window // timedelta(seconds=1),
        "usage_retention_days": settings.usage_retention_days,
    }


def _tenant(row: Row[Any]) -> TenantRow:
    # Tenants whose catalog was applied before these settings were there have none of them.
    rest: Json = row.settings
    window = rest.get("late_event_window_seconds")
    return TenantRow(
        settings=TenantSettings(
            tenant_id=TenantId(row.tenant_id),
            name=row.name,
            parent_tenant_id=TenantId(row.parent_tenant_id) if row.parent_tenant_id is not None else None,
            default_plan_key=PlanKey(row.default_plan_key) if row.default_plan_key is not None else None,
            auto_provision=row.auto_provision,
            upgrade_url=row.upgrade_url,
            default_currency_code=rest.get("default_currency_code", ""),
            default_time_zone=rest.get("default_time_zone", ""),
            default_failure_mode=FailureMode(rest.get("default_failure_mode", FailureMode.CLOSED.value)),
            default_grace_days=rest.get("default_grace_days", GRACE_DAYS_DEFAULT),
            closed_period_corrections=rest.get("closed_period_corrections", False),
            late_event_window=None if window is None else timedelta(seconds=window),
            usage_retention_days=rest.get("usage_retention_days", 0),
        ),
        catalog_revision=row.catalog_revision,
    )


def _plan(row: Row[Any]) -> PlanRow:
    return PlanRow(
        plan=Plan(
            key=PlanKey(row.plan_key),
            version=row.version,
            name=row.name,
            description=row.description,
            rank=row.rank,
            prices=tuple(price_from_json(price) for price in row.prices),
            allowances=tuple(allowance_from_json(allowance) for allowance in row.allowances),
            grace_days=row.grace_days,
            trial_days=row.trial_days,
        ),
        digest=row.digest,
        retired=row.retire_time is not None,
    )
