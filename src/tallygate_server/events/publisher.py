"""Publishes events: gives each its place in the one order, and makes the deliveries that follow from it.

Any server may publish, one at a time does. An event's transaction may commit long after one that began later; so places
are given here, after the commits, and not where events are written.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from datetime import timedelta
from typing import Final

import structlog

from tallygate_server.clock import Clock
from tallygate_server.domain.event_types import PUBLIC_EVENTS, wants
from tallygate_server.errors import StoreUnavailable
from tallygate_server.storage import outbox, webhook_deliveries, webhook_endpoints
from tallygate_server.storage.engine import Database
from tallygate_server.storage.outbox import Publication
from tallygate_server.storage.webhook_deliveries import NewDelivery
from tallygate_server.storage.webhook_endpoints import EndpointRow
from tallygate_server.telemetry import metrics

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 0.1
"""Pause between two looks for events that were written: bounds how late one is published."""
BATCH_MAX: Final = 500
"""Events published in one transaction."""
RETENTION: Final = timedelta(days=35)
"""How long events and deliveries are kept."""
FORGET_BATCH_MAX: Final = 5_000
LAG_SECONDS: Final = 10.0
"""Pause between two looks at how far publishing and delivering are behind, for the metrics."""


class Publisher:
    """Looks for events that were written, again and again."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        """Work on the database of the outbox."""
        self._database = database
        self._clock = clock
        self._tasks: list[asyncio.Task[None]] = []
        self._lag_seconds = 0.0
        self._pending = 0

    async def start(self) -> None:
        """Begin to publish."""
        self._tasks = [
            asyncio.create_task(self._repeat(), name="event-publisher"),
            asyncio.create_task(self._measure(), name="event-lag"),
        ]

    async def close(self) -> None:
        """Stop; a batch under way is rolled back, and published by somebody else."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def lag_seconds(self) -> float:
        """Age of the oldest event that waited when this was last looked at."""
        return self._lag_seconds

    @property
    def deliveries_pending(self) -> int:
        """Deliveries that waited when they were last counted."""
        return self._pending

    async def publish(self) -> int:
        """Publish everything that waits, unless somebody else does; return how many events. Raises StoreUnavailable."""
        count = 0
        while batch := await self._publish_batch():
            count += batch
            if batch < BATCH_MAX:
                break
        return count

    async def forget(self) -> dict[str, int]:
        """Delete events and deliveries that are older than the retention, in bounded batches; return how many."""
        before = self._clock.now() - RETENTION
        forgotten: defaultdict[str, int] = defaultdict(int)
        for name, forget in (
            ("deliveries_forgotten", webhook_deliveries.forget_deliveries),
            ("events_forgotten", outbox.forget_published),
        ):
            while True:
                async with self._database.plain_transaction() as connection:
                    deleted = await forget(connection, before=before, limit=FORGET_BATCH_MAX)
                if deleted:
                    forgotten[name] += deleted
                if deleted < FORGET_BATCH_MAX:
                    break
        return dict(forgotten)

    async def _publish_batch(self) -> int:
        async with self._database.plain_transaction() as connection:
            if not await outbox.any_waiting(connection):
                return 0
            sequence = await outbox.take_position(connection)
            if sequence is None:
                return 0
            publications = []
            for event in await outbox.waiting_events(connection, limit=BATCH_MAX):
                public = PUBLIC_EVENTS.get(event.event_type)
                if public is None:
                    publications.append(Publication(event=event, public_type=None, sequence=None))
                    continue
                sequence += 1
                publications.append(Publication(event=event, public_type=public.type, sequence=sequence))
            if not publications:
                return 0
            now = self._clock.now()
            endpoints = await webhook_endpoints.enabled_endpoints(
                connection, {each.event.tenant_id for each in publications if each.public_type is not None}
            )
            await outbox.publish(connection, publications, last_sequence=sequence, publish_time=now)
            await webhook_deliveries.add_deliveries(connection, deliveries_of(publications, endpoints), now=now)
        for each in publications:
            metrics.event_published(each.public_type)
        return len(publications)

    async def _repeat(self) -> None:
        while True:
            try:
                await self.publish()
            except StoreUnavailable as error:
                log.debug("events_not_published", error=type(error).__name__)
            except Exception as error:
                # A right that is missing, or a defect: it may be mended while we run.
                log.exception("events_not_published", error=type(error).__name__)
            await asyncio.sleep(LOOK_SECONDS)

    async def _measure(self) -> None:
        while True:
            try:
                async with self._database.plain_transaction() as connection:
                    oldest = await outbox.oldest_waiting_time(connection)
                    self._pending = await webhook_deliveries.count_pending(connection)
                now = self._clock.now()
                self._lag_seconds = 0.0 if oldest is None else max(0.0, (now - oldest).total_seconds())
            except StoreUnavailable as error:
                log.debug("event_lag_unknown", error=type(error).__name__)
            except Exception as error:
                log.exception("event_lag_unknown", error=type(error).__name__)
            await asyncio.sleep(LAG_SECONDS)


def deliveries_of(publications: list[Publication], endpoints: list[EndpointRow]) -> list[NewDelivery]:
    """Return which events are sent to which endpoints."""
    by_tenant: defaultdict[str, list[EndpointRow]] = defaultdict(list)
    for endpoint in endpoints:
        by_tenant[endpoint.tenant_id].append(endpoint)
    return [
        NewDelivery(
            tenant_id=each.event.tenant_id,
            endpoint_id=endpoint.endpoint_id,
            event_id=each.event.event_id,
            event_type=each.public_type,
        )
        for each in publications
        if each.public_type is not None
        for endpoint in by_tenant[each.event.tenant_id]
        if wants(endpoint.event_types, each.public_type)
    ]
