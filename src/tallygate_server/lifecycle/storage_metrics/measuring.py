"""Writes down every day how much is stored, and shows it in the metrics of each process."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

import structlog

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.lifecycle import StorageTier
from tallygate_server.domain.storage_cost import TierFacts
from tallygate_server.errors import StoreUnavailable
from tallygate_server.storage import storage_sums as rows
from tallygate_server.storage.engine import Database
from tallygate_server.telemetry import metrics

log = structlog.get_logger(__name__)

PUBLISH_SECONDS: Final = 600.0
"""Pause between two looks at what all tenants store, for the metrics."""
DAYS_KEPT: Final = 730
"""Days whose sums are kept: two years."""


class StorageMeasuring:
    """Measures all tenants."""

    def __init__(self, database: Database, clock: Clock, tiers: TierFacts) -> None:
        """Use a database with the lifecycle's role."""
        self._database = database
        self._clock = clock
        self._tiers = tiers

    async def measure(self) -> dict[str, int]:
        """Write down today's sums of every tenant, in place of those of an hour ago; return how many tenants."""
        today = self._clock.now().date()
        async with self._database.tenant_snapshot(TenantId("*")) as connection:
            tenants = await rows.tenants_to_measure(connection, since=today - timedelta(days=1))
        for tenant_id in tenants:
            async with self._database.tenant_transaction(tenant_id) as connection:
                await rows.write_day(connection, tenant_id, today)
                await rows.forget_days(connection, tenant_id, before=today - timedelta(days=DAYS_KEPT))
        return {"tenants_measured": len(tenants)} if tenants else {}

    async def keep_published(self) -> None:
        """Show what is stored in the metrics of this process, again and again; whoever measures may have none."""
        while True:
            try:
                await self.publish()
            except StoreUnavailable as error:
                log.debug("storage_not_read", error=type(error).__name__)
            except Exception as error:  # noqa: BLE001 - whatever it is, it may be mended while we run.
                # A right that is missing, or a schema that is not there yet.
                log.warning("storage_not_read", error=type(error).__name__)
            await asyncio.sleep(PUBLISH_SECONDS)

    async def publish(self) -> None:
        """Show what is stored now in the metrics of this process. Raises StoreUnavailable."""
        async with self._database.tenant_snapshot(TenantId("*")) as connection:
            by_tier = await rows.sum_tiers_of_all(connection)
            quarantined = await rows.count_quarantined_of_all(connection)
        stored = {tier: by_tier.get(tier, (0, 0))[1] for tier in StorageTier}
        records = {tier: by_tier.get(tier, (0, 0))[0] for tier in StorageTier}
        costs = {tier: float(self._tiers.cost({tier: stored[tier]})) for tier in StorageTier}
        metrics.stored_bytes.read_with(lambda: {(tier.name.lower(),): count for tier, count in stored.items()})
        metrics.stored_records.read_with(lambda: {(tier.name.lower(),): count for tier, count in records.items()})
        metrics.storage_cost.read_with(
            lambda: {(tier.name.lower(), self._tiers.currency): cost for tier, cost in costs.items()}
        )
        metrics.segments_quarantined.read_with(lambda: quarantined)
