"""Tenants as the hot path needs them: settings and features, cached in the process for seconds."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

from tallygate_server.clock import Clock
from tallygate_server.domain.catalog import Feature, Meter, ModelPrice, TenantSettings
from tallygate_server.domain.identifier import TenantId
from tallygate_server.errors import TenantNotFound
from tallygate_server.storage import catalogs
from tallygate_server.storage.engine import Database

FRESH_NS: Final = 5_000_000_000
"""How long a cached tenant is used unasked: a changed catalog is seen everywhere after this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A tenant's settings and features at one revision of its catalog."""

    settings: TenantSettings
    features: dict[str, Feature]
    """By key; those in the catalog now."""
    retired_features: dict[str, Feature]
    """By key; no longer in the catalog, but older plan versions may still give them."""
    catalog_revision: int
    meters: dict[str, Meter] = field(default_factory=dict)
    """By key; those in the catalog now."""
    model_prices: dict[str, tuple[ModelPrice, ...]] = field(default_factory=dict)
    """By model, by start."""


class TenantDirectory:
    """Knows every tenant that this process has been asked about."""

    def __init__(self, database: Database, clock: Clock) -> None:
        """Read from the database; ages are taken from the clock's monotonic time."""
        self._database = database
        self._clock = clock
        self._known: dict[str, tuple[int, Tenant]] = {}
        self._asking: dict[str, asyncio.Task[Tenant]] = {}
        self._running: set[asyncio.Task[Tenant]] = set()
        """Also those whose tenant was forgotten meanwhile."""
        self._forgotten = 0

    def cached(self, tenant_id: str) -> Tenant | None:
        """Return the tenant if it was read within the last five seconds; never waits."""
        entry = self._known.get(tenant_id)
        if entry is None or self._clock.monotonic_ns() - entry[0] >= FRESH_NS:
            return None
        return entry[1]

    def last_known(self, tenant_id: str) -> Tenant | None:
        """Return the tenant as last read, however long ago; one that is no longer fresh is asked for meanwhile."""
        entry = self._known.get(tenant_id)
        if entry is None:
            return None
        if self._clock.monotonic_ns() - entry[0] >= FRESH_NS:
            self._ask(TenantId(tenant_id))
        return entry[1]

    async def get(self, tenant_id: TenantId) -> Tenant:
        """Return the tenant, asking Postgres when the cache is too old; raise TenantNotFound."""
        tenant = self.cached(tenant_id)
        if tenant is not None:
            return tenant
        return await asyncio.shield(self._ask(tenant_id))

    async def refresh(self, tenant_id: TenantId) -> Tenant:
        """Ask Postgres, whatever is cached; raise TenantNotFound."""
        asked_ns, forgotten = self._clock.monotonic_ns(), self._forgotten
        async with self._database.tenant_transaction(tenant_id) as connection:
            row = await catalogs.read_tenant(connection, tenant_id)
            features = await catalogs.read_features(connection, tenant_id) if row is not None else []
            meters = await catalogs.read_meters(connection, tenant_id) if row is not None else []
            prices = await catalogs.read_model_prices(connection, tenant_id) if row is not None else ()
        if row is None:
            self.forget(tenant_id)
            raise TenantNotFound(tenant_id)
        tenant = Tenant(
            settings=row.settings,
            features={each.feature.key: each.feature for each in features if not each.retired},
            retired_features={each.feature.key: each.feature for each in features if each.retired},
            catalog_revision=row.catalog_revision,
            meters={each.meter.key: each.meter for each in meters if not each.retired},
            model_prices={key: tuple(each) for key, each in groupby(prices, key=lambda price: price.model_key)},
        )
        # A read that began before something was forgotten, or before a newer read, must not be kept.
        known = self._known.get(tenant_id)
        if self._forgotten == forgotten and (known is None or known[1].catalog_revision <= tenant.catalog_revision):
            self._known[tenant_id] = (asked_ns, tenant)
        return tenant

    def forget(self, tenant_id: str) -> None:
        """Drop the tenant from the cache: the next `get` asks Postgres."""
        self._forgotten += 1
        self._known.pop(tenant_id, None)
        self._asking.pop(tenant_id, None)

    async def close(self) -> None:
        """End what is being asked, so that nobody uses the database after this."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _ask(self, tenant_id: TenantId) -> asyncio.Task[Tenant]:
        # Everybody who finds the cache too old at the same time waits for one read.
        task = self._asking.get(tenant_id)
        if task is None:
            task = asyncio.create_task(self.refresh(tenant_id))
            self._asking[tenant_id] = task
            self._running.add(task)
            task.add_done_callback(lambda done: self._asked(tenant_id, done))
        return task

    def _asked(self, tenant_id: str, task: asyncio.Task[Tenant]) -> None:
        self._running.discard(task)
        if self._asking.get(tenant_id) is task:
            del self._asking[tenant_id]
        # Every waiter may have gone away; an error that nobody took is not worth a warning.
        if not task.cancelled():
            task.exception()
