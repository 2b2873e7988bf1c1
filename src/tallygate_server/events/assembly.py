"""The parts that tell tenants what happened, wired to each other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from tallygate_server.clock import Clock
from tallygate_server.errors import StoreUnavailable
from tallygate_server.events.addresses import AddressRules
from tallygate_server.events.deliverer import Deliverer
from tallygate_server.events.endpoints import Endpoints
from tallygate_server.events.event_log import EventLog
from tallygate_server.events.hub import EventHub
from tallygate_server.events.publisher import Publisher
from tallygate_server.events.sending import Sender
from tallygate_server.storage.engine import CONNECTION_ERRORS, Database, DatabaseRole
from tallygate_server.storage.listener import Listener
from tallygate_server.storage.outbox import CHANNEL
from tallygate_server.tenants import TenantDirectory

OUTBOX_POOL_SIZE: Final = 6
"""For the publisher, the reader for watchers, and deliveries that begin and end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventOptions:
    """What the settings of the same names say."""

    addresses: AddressRules = field(default_factory=AddressRules)
    concurrency: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """Everything about events; publisher and deliverer work only once they are started."""

    log: EventLog
    hub: EventHub
    endpoints: Endpoints
    publisher: Publisher
    deliverer: Deliverer

    async def start(self) -> None:
        """Begin to publish and to deliver."""
        await self.publisher.start()
        await self.deliverer.start()

    async def stop(self) -> None:
        """Publish and deliver no more; what is under way is given back."""
        await self.publisher.close()
        await self.deliverer.close()


@asynccontextmanager
async def open_events(
    database_url: str, *, database: Database, tenants: TenantDirectory, clock: Clock, options: EventOptions
) -> AsyncIterator[Events]:
    """Wire the parts and listen for what other processes announce; raises StoreUnavailable."""
    async with AsyncExitStack() as stack:
        outbox_database = Database(database_url, role=DatabaseRole.OUTBOX, pool_size=OUTBOX_POOL_SIZE)
        stack.push_async_callback(outbox_database.close)
        sender = Sender(options.addresses, concurrency=options.concurrency)
        stack.push_async_callback(sender.close)
        publisher = Publisher(outbox_database, clock=clock)
        stack.push_async_callback(publisher.close)
        deliverer = Deliverer(outbox_database, sender, clock=clock, concurrency=options.concurrency)
        stack.push_async_callback(deliverer.close)
        hub = EventHub(database, outbox_database, tenants=tenants)
        stack.push_async_callback(hub.close)

        def hear(_announcement: str) -> None:
            hub.wake()
            deliverer.wake()

        listener = Listener(database_url, CHANNEL, hear, role=DatabaseRole.OUTBOX)
        stack.push_async_callback(listener.close)
        try:
            await listener.start()
        except CONNECTION_ERRORS as error:
            raise StoreUnavailable(f"Postgres cannot be reached: {error}") from error
        await hub.start()
        yield Events(
            log=EventLog(database, tenants=tenants),
            hub=hub,
            endpoints=Endpoints(database, sender, tenants=tenants, clock=clock),
            publisher=publisher,
            deliverer=deliverer,
        )
