"""Catalogs: applied as a whole, shown, and looked things up in.

Plan versions are immutable and subscriptions pin one, so applying a catalog never changes what an account
may do today; it decides what is sold from now on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from tallygate_server.catalog_diff import (
    CatalogChange,
    PresentCatalog,
    PresentPlan,
    catalog_changes,
    plan_digest,
)
from tallygate_server.catalog_files import catalog_to_yaml, parse_catalog
from tallygate_server.catalog_rules import CatalogSet, catalog_set_breaches
from tallygate_server.clock import Clock
from tallygate_server.domain.catalog import Catalog, Feature, Meter, Plan
from tallygate_server.domain.identifier import TenantId
from tallygate_server.errors import (
    CatalogConflict,
    CatalogInvalid,
    CatalogRevisionMismatch,
    FieldViolation,
    TenantNotFound,
)
from tallygate_server.storage import catalogs as rows
from tallygate_server.storage.audit import add_audit_entry
from tallygate_server.storage.catalogs import FeatureRow, MeterRow, PlanRow
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.engine import Database
from tallygate_server.storage.outbox import add_event
from tallygate_server.storage.subscriptions import live_account_counts, live_counts
from tallygate_server.tenants import TenantDirectory


@dataclass(frozen=True, slots=True)
class CatalogSource:
    """The text of a catalog file, YAML or JSON."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantApplied:
    """What became of one tenant of an applied catalog."""

    tenant_id: TenantId
    revision: int
    """Of its catalog afterwards; without a change the present one, 0 for none."""
    applied: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogApplied:
    """What an application changed, or would change; `tenant_id` and `revision` are the product's."""

    tenant_id: TenantId
    revision: int
    applied: bool
    """Whether anything was written for any tenant of the catalog."""
    changes: list[CatalogChange]
    affected_accounts: int
    """Accounts with a live subscription to a plan that changes or leaves the catalog."""
    affected_subscriptions: int
    """Live subscriptions to such plans; each keeps the version it has."""
    tenants: tuple[TenantApplied, ...]
    """The product and its stores, in the catalog's order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One tenant's part of an application, looked at under its lock."""

    given: Catalog
    present: PresentCatalog
    stored_features: Sequence[FeatureRow]
    changes: list[CatalogChange]
    affected_accounts: int


class Catalogs:
    """Applies and shows catalogs."""

    def __init__(self, database: Database, tenants: TenantDirectory, *, clock: Clock) -> None:
        """Work on the database, telling the directory what changed."""
        self._database = database
        self._tenants = tenants
        self._clock = clock

    async def apply(
        self,
        source: CatalogSource | Catalog | CatalogSet,
        *,
        validate_only: bool = False,
        actor: str = "",
        tenant_id: str = "",
        expected_revision: int | None = None,
    ) -> CatalogApplied:
        """Make the catalog of a product, and of each store in it, what the source says: all or nothing.

        `validate_only` writes nothing and returns the same differences. `tenant_id`, when given, must be the
        product's; `expected_revision` the revision of its catalog. Raises CatalogInvalid, CatalogConflict,
        CatalogRevisionMismatch.
        """
        catalogs, text = await _read(source)
        root_id = catalogs.root.settings.tenant_id
        if tenant_id and tenant_id != root_id:
            message = f"the catalog is about {root_id!r}, not about {tenant_id!r}"
            raise CatalogInvalid([FieldViolation("tenant", message)])
        steps: dict[str, _Step] = {}
        async with self._database.tenant_transaction(root_id) as connection:
            # In the order of ids, so that two applications never wait for each other in a circle.
            for catalog in sorted(catalogs.catalogs, key=lambda each: each.settings.tenant_id):
                step = await _look(connection, catalog, lock=not validate_only)
                steps[catalog.settings.tenant_id] = step
            present_revision = steps[root_id].present.revision
            if expected_revision is not None and expected_revision != present_revision:
                raise CatalogRevisionMismatch(expected=expected_revision, current=present_revision)
            for step in steps.values():
                _check_kinds(step)
                await _check_parent(connection, step, catalogs)
            if not validate_only:
                for step in steps.values():
                    is_root = step.given is catalogs.root
                    source_text = text if is_root else catalog_to_yaml(step.given)
                    await _write(connection, step, source=source_text, actor=actor, now=self._clock.now())
        if not validate_only:
            for step in steps.values():
                self._tenants.forget(step.given.settings.tenant_id)
        ordered = [steps[catalog.settings.tenant_id] for catalog in catalogs.catalogs]
        outcomes = tuple(_outcome(step, validate_only=validate_only) for step in ordered)
        return CatalogApplied(
            tenant_id=root_id,
            revision=outcomes[0].revision,
            applied=any(outcome.applied for outcome in outcomes),
            changes=[change for step in ordered for change in step.changes],
            affected_accounts=sum(step.affected_accounts for step in ordered),
            affected_subscriptions=sum(_affected_subscriptions(step) for step in ordered),
            tenants=outcomes,
        )

    async def get(self, tenant_id: TenantId) -> tuple[Catalog, int]:
        """Return what the tenant sells now, and the catalog's revision; raise TenantNotFound."""
        async with self._database.tenant_transaction(tenant_id) as connection:
            tenant = await _tenant(connection, tenant_id)
            features = await rows.read_features(connection, tenant_id)
            plans = await rows.read_plans(connection, tenant_id)
            meters = await rows.read_meters(connection, tenant_id)
            model_prices = await rows.read_model_prices(connection, tenant_id)
        catalog = Catalog(
            settings=tenant.settings,
            features=tuple(row.feature for row in features if not row.retired),
            plans=tuple(row.plan for row in plans if not row.retired),
            meters=tuple(row.meter for row in meters if not row.retired),
            model_prices=model_prices,
        )
        return catalog, tenant.catalog_revision

    async def plans(self, tenant_id: TenantId, *, include_retired: bool = False) -> list[Plan]:
        """Return the newest version of each plan, by rank and key; raise TenantNotFound."""
        listed = await self.plan_rows(tenant_id, include_retired=include_retired)
        return [row.plan for row in listed]

    async def plan_rows(
        self,
        tenant_id: TenantId,
        *,
        plan_key: str = "",
        all_versions: bool = False,
        include_retired: bool = False,
    ) -> list[PlanRow]:
        """Return plans by rank and key with what is stored about them; versions newest first."""
        async with self._database.tenant_transaction(tenant_id) as connection:
            await _tenant(connection, tenant_id)
            found = await rows.read_plans(connection, tenant_id, plan_key=plan_key or None, all_versions=all_versions)
        return [row for row in found if include_retired or not row.retired]

    async def features(self, tenant_id: TenantId) -> list[Feature]:
        """Return the features in the catalog, by key; raise TenantNotFound."""
        return [row.feature for row in await self.feature_rows(tenant_id)]

    async def feature_rows(self, tenant_id: TenantId, *, include_retired: bool = False) -> list[FeatureRow]:
        """Return features by key with what is stored about them."""
        async with self._database.tenant_transaction(tenant_id) as connection:
            await _tenant(connection, tenant_id)
            found = await rows.read_features(connection, tenant_id)
        listed = [row for row in found if include_retired or not row.retired]
        return sorted(listed, key=lambda row: row.feature.key)

    async def meters(self, tenant_id: TenantId) -> list[Meter]:
        """Return the meters in the catalog, by key; raise TenantNotFound."""
        return [row.meter for row in await self.meter_rows(tenant_id)]

    async def meter_rows(self, tenant_id: TenantId, *, include_retired: bool = False) -> list[MeterRow]:
        """Return meters by key with what is stored about them."""
        async with self._database.tenant_transaction(tenant_id) as connection:
            await _tenant(connection, tenant_id)
            found = await rows.read_meters(connection, tenant_id)
        return [row for row in found if include_retired or not row.retired]


async def _read(source: CatalogSource | Catalog | CatalogSet) -> tuple[CatalogSet, str]:
    if isinstance(source, CatalogSource):
        # Reading a megabyte of YAML takes seconds: not on the loop that answers checks.
        return await asyncio.to_thread(parse_catalog, source.text), source.text
    catalogs = CatalogSet(root=source) if isinstance(source, Catalog) else source
    breaches = catalog_set_breaches(catalogs)
    if breaches:
        raise CatalogInvalid(
            [FieldViolation(".".join(breach.path) or "catalog", breach.description) for breach in breaches]
        )
    return catalogs, catalog_to_yaml(catalogs)


async def _tenant(connection: Connection, tenant_id: TenantId) -> rows.TenantRow:
    tenant = await rows.read_tenant(connection, tenant_id)
    if tenant is None:
        raise TenantNotFound(tenant_id)
    return tenant


async def _look(connection: Connection, given: Catalog, *, lock: bool) -> _Step:
    """Read what the tenant has now and compare; with `lock` nobody else can change it meanwhile."""
    tenant_id = given.settings.tenant_id
    await rows.switch_tenant(connection, tenant_id)
    tenant = await (rows.lock_tenant if lock else rows.read_tenant)(connection, tenant_id)
    features = await rows.read_features(connection, tenant_id)
    plans = await rows.read_plans(connection, tenant_id)
    meters = await rows.read_meters(connection, tenant_id)
    keys = [row.plan.key for row in plans]
    counts = await live_counts(connection, tenant_id, keys)
    accounts, _ = await live_account_counts(connection, tenant_id, keys)
    present = PresentCatalog(
        settings=tenant.settings if tenant is not None else given.settings,
        revision=tenant.catalog_revision if tenant is not None else 0,
        features={row.feature.key: row.feature for row in features if not row.retired},
        retired_features={row.feature.key: row.feature for row in features if row.retired},
        plans={
            row.plan.key: PresentPlan(
                plan=row.plan,
                digest=row.digest,
                retired=row.retired,
                live_by_version={
                    count.version: count.subscriptions for count in counts if count.plan_key == row.plan.key
                },
                accounts=accounts.get(row.plan.key, 0),
            )
            for row in plans
        },
        meters={row.meter.key: row.meter for row in meters if not row.retired},
        retired_meters={row.meter.key: row.meter for row in meters if row.retired},
        model_prices=await rows.read_model_prices(connection, tenant_id),
    )
    changes = catalog_changes(present, given)
    changed = sorted(_changed_plans(present, given))
    _, affected = await live_account_counts(connection, tenant_id, changed) if changed else ({}, 0)
    return _Step(given=given, present=present, stored_features=features, changes=changes, affected_accounts=affected)


def _changed_plans(present: PresentCatalog, given: Catalog) -> set[str]:
    """Return the plans on sale that get a new version or leave the catalog."""
    return {
        key
        for key, before in present.plans.items()
        if not before.retired
        and (key not in given.plans_by_key or before.digest != plan_digest(given.plans_by_key[key]))
    }


def _affected_subscriptions(step: _Step) -> int:
    plans = step.present.plans
    return sum(sum(plans[key].live_by_version.values()) for key in _changed_plans(step.present, step.given))


def _check_kinds(step: _Step) -> None:
    """Refuse another kind for a feature that exists: counters, grants and old plan versions rely on it."""
    known = {**step.present.features, **step.present.retired_features}
    for feature in step.given.features:
        before = known.get(feature.key)
        if before is not None and before.kind is not feature.kind:
            raise CatalogConflict(
                step.given.settings.tenant_id,
                f"features.{feature.key}.kind",
                f"{feature.key!r} is a {before.kind.value} feature and cannot become a"
                f" {feature.kind.value} one, because plans and usage rely on its kind: choose another key",
            )


async def _check_parent(connection: Connection, step: _Step, catalogs: CatalogSet) -> None:
    """Refuse a parent that is missing, is a store itself, or differs from the one the tenant has."""
    tenant_id, parent = step.given.settings.tenant_id, step.given.settings.parent_tenant_id
    before = step.present.settings.parent_tenant_id
    if step.present.revision and before != parent:
        was = f"a store of {before!r}" if before is not None else "a product of its own"
        raise CatalogConflict(tenant_id, "parent", f"{tenant_id!r} is {was}, which never changes")
    if parent is None or parent == catalogs.root.settings.tenant_id:
        return
    await rows.switch_tenant(connection, parent)
    found = await rows.read_tenant(connection, parent)
    if found is None:
        raise CatalogConflict(tenant_id, "parent", f"there is no tenant {parent!r}: apply its catalog first")
    if found.settings.parent_tenant_id is not None:
        raise CatalogConflict(tenant_id, "parent", f"{parent!r} is a store, and a store has no stores of its own")


async def _write(connection: Connection, step: _Step, *, source: str, actor: str, now: datetime) -> None:
    given, present = step.given, step.present
    tenant_id = given.settings.tenant_id
    await rows.switch_tenant(connection, tenant_id)
    await _write_features(connection, step)
    if not step.changes:
        return
    revision = present.revision + 1
    await rows.write_tenant(connection, given.settings, catalog_revision=revision)
    await _write_plans(connection, given, present)
    for meter in given.meters:
        if present.meters.get(meter.key) != meter:
            await rows.write_meter(connection, tenant_id, meter)
    gone = set(present.meters) - {meter.key for meter in given.meters}
    if gone:
        await rows.retire_meters(connection, tenant_id, sorted(gone))
    if present.model_prices != given.model_prices:
        await rows.replace_model_prices(connection, tenant_id, given.model_prices)
    changes: list[dict[str, Any]] = [change.to_json() for change in step.changes]
    await rows.add_catalog_revision(
        connection, tenant_id, revision=revision, source=source, actor=actor, changes=changes, create_time=now
    )
    detail = {"revision": revision, "changes": [change.description for change in step.changes]}
    await add_audit_entry(
        connection,
        tenant_id,
        actor=actor,
        action="catalog.apply",
        subject=f"tenant:{tenant_id}",
        detail=detail,
    )
    told = {"revision": revision, "actor": actor}
    await add_event(connection, tenant_id, event_type="catalog.changed", payload=told, create_time=now)


async def _write_features(connection: Connection, step: _Step) -> None:
    tenant_id, present = step.given.settings.tenant_id, step.present
    positions = {row.feature.key: row.position for row in step.stored_features}
    for position, feature in enumerate(step.given.features):
        if present.features.get(feature.key) != feature:
            await rows.write_feature(connection, tenant_id, feature, position=position)
        elif positions[feature.key] != position:
            # The order of a file is presentation: stored, but no change of the catalog.
            await rows.move_feature(connection, tenant_id, feature.key, position=position)
    gone = set(present.features) - set(step.given.features_by_key)
    if gone:
        await rows.retire_features(connection, tenant_id, sorted(gone))


async def _write_plans(connection: Connection, given: Catalog, present: PresentCatalog) -> None:
    tenant_id = given.settings.tenant_id
    for plan in given.plans:
        before, digest = present.plans.get(plan.key), plan_digest(plan)
        if before is None or before.digest != digest:
            version = before.plan.version + 1 if before is not None else 1
            await rows.add_plan_version(connection, tenant_id, replace(plan, version=version), digest)
        elif before.retired:
            await rows.restore_plan(connection, tenant_id, plan.key, before.plan.version)
    gone = {key for key, before in present.plans.items() if not before.retired} - set(given.plans_by_key)
    if gone:
        await rows.retire_plans(connection, tenant_id, sorted(gone))


def _outcome(step: _Step, *, validate_only: bool) -> TenantApplied:
    applied = bool(step.changes) and not validate_only
    return TenantApplied(
        tenant_id=step.given.settings.tenant_id,
        revision=step.present.revision + int(applied),
        applied=applied,
    )
