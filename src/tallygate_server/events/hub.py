"""Tells watchers what is published: one reader for a process, however many watch.

A watcher first reads what it has missed from the database, at its own pace, and is then told what the reader finds. In
between it is attached at the reader's place and reads up to there, so that nothing is missed and nothing told twice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from tallygate_server.domain.event_types import wants
from tallygate_server.domain.identifier import TenantId
from tallygate_server.errors import ResumePointLost, StoreUnavailable, TallygateError, WatcherTooSlow
from tallygate_server.storage import outbox
from tallygate_server.storage.engine import Database
from tallygate_server.storage.outbox import EventFilter, OutboxEvent
from tallygate_server.streams import HEARTBEAT_SECONDS, BoundedStream, OpenStreams
from tallygate_server.tenants import TenantDirectory

log = structlog.get_logger(__name__)

WATCHERS_MAX: Final = 2_000
"""Watches of events that one process serves at a time."""
WATCH_BUFFER_MAX: Final = 1_000
"""Events held for a watcher who reads more slowly than they happen; watchers share the events themselves."""
READ_BATCH_MAX: Final = 500
PAGE_MAX: Final = 50
"""Events that a watcher who catches up reads at a time, and holds while it reads slowly."""
CATCHING_UP_MAX: Final = 4
"""Watchers who read from the database at the same moment: many begin at once where another server drains."""
POLL_SECONDS: Final = 1.0
"""Pause between two looks, where nobody announces anything."""


class _Taker(Protocol):
    """Who is told events."""

    @property
    def ended(self) -> bool:
        """Whether it takes no more."""

    def put(self, event: OutboxEvent, /) -> bool:
        """Take an event; False once it takes no more."""


class _Listening:
    """Somebody in this process, who takes everything at once."""

    ended = False

    def __init__(self, hear: Callable[[OutboxEvent], None]) -> None:
        self._hear = hear

    def put(self, event: OutboxEvent, /) -> bool:
        """Pass the event on."""
        self._hear(event)
        return True


@dataclass(slots=True, kw_only=True, eq=False)
class _Watcher:
    """Who watches, and how far it is."""

    tenant_id: TenantId
    wanted: EventFilter
    stream: _Taker
    sent_sequence: int = 0

    def wants(self, event: OutboxEvent) -> bool:
        """Tell whether the event is one to be told."""
        return (not self.wanted.account_id or event.account_id == self.wanted.account_id) and wants(
            self.wanted.event_types, event.event_type
        )


class EventHub:
    """Serves watches of events."""

    def __init__(
        self,
        database: Database,
        outbox_database: Database,
        *,
        tenants: TenantDirectory,
        watchers_max: int = WATCHERS_MAX,
        buffer_max: int = WATCH_BUFFER_MAX,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        """Catch watchers up as the application, and read on for all of them as the outbox."""
        self._database = database
        self._outbox_database = outbox_database
        self._tenants = tenants
        self._buffer_max = buffer_max
        self._heartbeat_seconds = heartbeat_seconds
        self._open: OpenStreams[OutboxEvent] = OpenStreams(streams_max=watchers_max)
        self._watchers: defaultdict[TenantId, set[_Watcher]] = defaultdict(set)
        self._position = 0
        """Everything up to here was told to whoever was attached."""
        self._attachments = 0
        self._catching_up = asyncio.Semaphore(CATCHING_UP_MAX)
        self._woken = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to read; raises StoreUnavailable."""
        async with self._outbox_database.plain_transaction() as connection:
            self._position = await outbox.last_sequence(connection)
        self._reader = asyncio.create_task(self._repeat(), name="event-hub")

    async def close(self) -> None:
        """Stop reading."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    def wake(self) -> None:
        """Look for what was published, now."""
        self._woken.set()

    def end(self, error: TallygateError) -> None:
        """End every watch with the error, and refuse new ones with it."""
        self._open.end(error)

    @property
    def watcher_count(self) -> int:
        """Watches that are open."""
        return len(self._open)

    def listen(
        self, tenant_id: TenantId, wanted: EventFilter, hear: Callable[[OutboxEvent], None]
    ) -> Callable[[], None]:
        """Call `hear`, on the loop, for each of the tenant's events from now on; what is returned ends that."""
        watcher = _Watcher(tenant_id=tenant_id, wanted=wanted, stream=_Listening(hear))
        self._attach(watcher)
        return lambda: self._detach(watcher)

    async def watch(
        self, tenant_id: TenantId, wanted: EventFilter, *, after_sequence: int | None
    ) -> AsyncGenerator[OutboxEvent | None]:
        """Yield the tenant's events after a sequence (None: from now), in order, and None as a sign of life.

        Ends with an error only: TenantNotFound, ResumePointLost, Overloaded, WatcherTooSlow, StoreUnavailable, or what
        all watches are ended with.
        """
        await self._tenants.get(tenant_id)
        stream: BoundedStream[OutboxEvent] = BoundedStream(
            items_max=self._buffer_max, too_slow=lambda: WatcherTooSlow(sequence=watcher.sent_sequence)
        )
        watcher = _Watcher(tenant_id=tenant_id, wanted=wanted, stream=stream)
        self._open.add(stream)
        try:
            watcher.sent_sequence = await self._beginning(tenant_id, after_sequence)
            if after_sequence is not None:
                # As far as there is, before anything is held for the watcher.
                async with contextlib.aclosing(self._missed(watcher, up_to=None)) as missed:
                    async for event in missed:
                        yield event
            attached_at = self._attach(watcher)
            async with contextlib.aclosing(self._missed(watcher, up_to=attached_at)) as missed:
                async for event in missed:
                    yield event
            items = stream.items(heartbeat_seconds=self._heartbeat_seconds)
            async with contextlib.aclosing(items) as news:
                async for item in news:
                    if item is None:
                        yield None
                    elif item.sequence > watcher.sent_sequence:
                        watcher.sent_sequence = item.sequence
                        yield item
        finally:
            self._detach(watcher)
            self._open.discard(stream)

    # --- One watcher --------------------------------------------------------------------------------------

    async def _beginning(self, tenant_id: TenantId, after_sequence: int | None) -> int:
        """Return the sequence after which the watch begins; raises ResumePointLost."""
        async with self._catching_up, self._database.tenant_transaction(tenant_id) as connection:
            last = await outbox.last_sequence(connection)
            if after_sequence is None:
                return last
            if after_sequence == 0:
                return 0
            gone, oldest = await outbox.horizon(connection, tenant_id)
        # One that was never given is of a database that was lost: what it gives out next would be passed over.
        if after_sequence < gone or after_sequence > last:
            raise ResumePointLost("after_sequence", wanted=after_sequence, oldest=oldest)
        return after_sequence

    async def _missed(self, watcher: _Watcher, *, up_to: int | None) -> AsyncGenerator[OutboxEvent]:
        """Yield what is in the database after what the watcher was sent, until there is no more or the watch ends."""
        while up_to is None or watcher.sent_sequence < up_to:
            async with self._catching_up, self._database.tenant_transaction(watcher.tenant_id) as connection:
                page = await outbox.events_after(
                    connection,
                    watcher.tenant_id,
                    watcher.wanted,
                    after=watcher.sent_sequence,
                    up_to=up_to,
                    limit=PAGE_MAX,
                )
            for event in page:
                if watcher.stream.ended:
                    return
                watcher.sent_sequence = event.sequence
                yield event
            if len(page) < PAGE_MAX:
                return

    def _attach(self, watcher: _Watcher) -> int:
        """Have the watcher told whatever is read from now on; return how far reading is."""
        if watcher.tenant_id not in self._watchers:
            self._attachments += 1
        self._watchers[watcher.tenant_id].add(watcher)
        return self._position

    def _detach(self, watcher: _Watcher) -> None:
        watchers = self._watchers.get(watcher.tenant_id)
        if watchers is not None:
            watchers.discard(watcher)
            if not watchers:
                del self._watchers[watcher.tenant_id]

    # --- All of them --------------------------------------------------------------------------------------

    async def _repeat(self) -> None:
        while True:
            self._woken.clear()
            try:
                await self._read_on()
            except StoreUnavailable as error:
                log.debug("events_not_read", error=type(error).__name__)
            except Exception as error:
                # A right that is missing, or a defect: it may be mended while we run.
                log.exception("events_not_read", error=type(error).__name__)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._woken.wait()

    async def _read_on(self) -> None:
        """Read what was published since, and tell it."""
        while True:
            async with self._outbox_database.plain_transaction() as connection:
                last = await outbox.last_sequence(connection)
                if last <= self._position:
                    return
                if not self._watchers:
                    self._position = last
                    return
                attachments = self._attachments
                events = await outbox.read_published(
                    connection, list(self._watchers), after=self._position, up_to=last, limit=READ_BATCH_MAX
                )
            if attachments != self._attachments:
                # Somebody watches a tenant now whose events were not asked for.
                continue
            # Nothing is waited for from here on: whoever attaches does so before it all or after it all.
            for event in events:
                self._tell(event)
            self._position = events[-1].sequence if len(events) == READ_BATCH_MAX else last

    def _tell(self, event: OutboxEvent) -> None:
        for watcher in list(self._watchers.get(event.tenant_id, ())):
            if watcher.wants(event) and not watcher.stream.put(event):
                self._detach(watcher)
