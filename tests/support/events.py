"""Events, published and told by the real parts, at a time that stands still."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection
from standardwebhooks import Webhook

from tallygate_server.domain.identifier import TenantId
from tallygate_server.events.addresses import AddressRules
from tallygate_server.events.deliverer import Deliverer
from tallygate_server.events.endpoints import CreatedEndpoint, Endpoints
from tallygate_server.events.event_log import EventLog
from tallygate_server.events.hub import EventHub
from tallygate_server.events.publisher import Publisher
from tallygate_server.events.sending import Sender, Sent
from tallygate_server.storage.engine import Database, DatabaseRole, connect
from tallygate_server.storage.outbox import EventFilter, OutboxEvent, add_event
from tests.support.clock import FrozenClock
from tests.support.scripted_http import Asked
from tests.support.webhooks import EveryTenant

ACME: Final = TenantId("acme")
GLOBEX: Final = TenantId("globex")
TYPE: Final = "usage.threshold_crossed"
ANYWHERE: Final = AddressRules(private_networks=True, plain_http=True)
ALL: Final = EventFilter()


@dataclass(slots=True)
class RecordingSender:
    """Sends nowhere, remembers, and answers as it is told to."""

    answer: Callable[[OutboxEvent, str], Sent] = lambda _event, _url: Sent(http_status=204)
    sent: list[tuple[str, int]] = field(default_factory=list)
    """Addresses and event ids, in the order of sending."""

    async def send(self, event: OutboxEvent, *, url: str, secrets: tuple[str, ...], now: datetime) -> Sent:  # noqa: ARG002
        """Remember."""
        self.sent.append((url, event.event_id))
        return self.answer(event, url)


@dataclass(slots=True, kw_only=True)
class EventWorld:
    """The parts of one server over one database."""

    url: str
    clock: FrozenClock
    database: Database
    outbox_database: Database
    sender: Sender
    tenants: Any
    publisher: Publisher
    deliverer: Deliverer
    endpoints: Endpoints
    log: EventLog
    hub: EventHub

    async def add(
        self, event_type: str = TYPE, *, tenant_id: TenantId = ACME, account_id: str = "ann", **payload: Any
    ) -> None:
        """Write an event, committed at once."""
        async with self.database.tenant_transaction(tenant_id) as connection:
            await self.add_in(connection, event_type, tenant_id=tenant_id, account_id=account_id, **payload)

    async def add_in(
        self,
        connection: AsyncConnection,
        event_type: str = TYPE,
        *,
        tenant_id: TenantId = ACME,
        account_id: str = "ann",
        **payload: Any,
    ) -> None:
        """Write an event in a transaction of the test's."""
        await add_event(
            connection,
            tenant_id,
            event_type=event_type,
            account_id=account_id,
            payload=payload,
            create_time=self.clock.now(),
        )

    async def publish(self, count: int = 0, event_type: str = TYPE, *, tenant_id: TenantId = ACME) -> None:
        """Write so many events, numbered, and publish everything."""
        for number in range(count):
            await self.add(event_type, tenant_id=tenant_id, number=number)
        await self.publisher.publish()

    async def endpoint(self, url: str, *event_types: str, tenant_id: TenantId = ACME) -> CreatedEndpoint:
        """Create an endpoint."""
        return await self.endpoints.create(tenant_id, url=url, event_types=event_types, actor="test")

    async def events(self, tenant_id: TenantId = ACME, wanted: EventFilter = ALL) -> list[OutboxEvent]:
        """Return what is published, oldest first."""
        found = await self.log.list(
            tenant_id, wanted, start_time=None, end_time=None, before_sequence=None, limit=1_000
        )
        return list(reversed(found))

    async def rows(self, sql: str, *values: object) -> list[dict[str, Any]]:
        """Look into the tables of events as the outbox, over all tenants."""
        connection = await connect(self.url, DatabaseRole.OUTBOX)
        try:
            return [dict(row) for row in await connection.fetch(sql, *values)]
        finally:
            await connection.close()

    async def deliveries(self) -> list[dict[str, Any]]:
        """Return every delivery, oldest first."""
        return await self.rows("SELECT * FROM webhook_deliveries ORDER BY delivery_id")

    async def endpoint_row(self, endpoint_id: str) -> dict[str, Any]:
        """Return an endpoint as it is stored."""
        (row,) = await self.rows("SELECT * FROM webhook_endpoints WHERE endpoint_id = $1", endpoint_id)
        return row

    def another_deliverer(self, sender: Any, *, concurrency: int = 32) -> Deliverer:
        """Return the deliverer of another server, or one that sends otherwise."""
        return Deliverer(self.outbox_database, sender, clock=self.clock, concurrency=concurrency, chance=lambda: 0.5)


@asynccontextmanager
async def event_world(database_url: str) -> AsyncIterator[EventWorld]:
    """Build the parts; publisher and deliverer do nothing unless they are started or run by hand, the hub reads."""
    # The library that checks signatures asks the machine for the time.
    clock = FrozenClock(datetime.now(UTC))
    tenants: Any = EveryTenant()
    async with AsyncExitStack() as stack:
        database = Database(database_url, pool_size=5)
        stack.push_async_callback(database.close)
        outbox_database = Database(database_url, role=DatabaseRole.OUTBOX, pool_size=8)
        stack.push_async_callback(outbox_database.close)
        sender = Sender(ANYWHERE, concurrency=32)
        stack.push_async_callback(sender.close)
        publisher = Publisher(outbox_database, clock=clock)
        stack.push_async_callback(publisher.close)
        deliverer = Deliverer(outbox_database, sender, clock=clock, concurrency=32, chance=lambda: 0.5)
        stack.push_async_callback(deliverer.close)
        hub = EventHub(database, outbox_database, tenants=tenants)
        stack.push_async_callback(hub.close)
        await hub.start()
        yield EventWorld(
            url=database_url,
            clock=clock,
            database=database,
            outbox_database=outbox_database,
            sender=sender,
            tenants=tenants,
            publisher=publisher,
            deliverer=deliverer,
            endpoints=Endpoints(database, sender, tenants=tenants, clock=clock),
            log=EventLog(database, tenants=tenants),
            hub=hub,
        )


def verified(asked: Asked, secret: str) -> dict[str, Any]:
    """Check the signature of what came in as a consumer does, and return the content."""
    Webhook(secret).verify(asked.body, asked.headers)
    content: dict[str, Any] = json.loads(asked.body)
    return content


async def first_events(watch: Any, count: int) -> list[OutboxEvent]:
    """Return the first events of a watch, leaving signs of life aside, and end it."""
    found: list[OutboxEvent] = []
    async with aclosing(watch) as events:
        if count == 0:
            return found
        async for event in events:
            if event is not None:
                found.append(event)
                if len(found) == count:
                    break
    return found
