"""Processes stored webhooks until each is done: at once, then later and later, and never twice at the same time.

An event belongs to the worker that claimed it until its lease ends, so one whose worker was killed is processed all
the same. Order means nothing here: whoever handles an event asks its source how things are now.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from tallygate_server.clock import Clock
from tallygate_server.errors import StoreUnavailable, TallygateError
from tallygate_server.storage import webhook_events as rows
from tallygate_server.storage.engine import Database
from tallygate_server.storage.webhook_events import ClaimedEvent, EventKey
from tallygate_server.telemetry import metrics
from tallygate_server.webhooks.events import EventHandler, Handled, StoredEvent, WebhookEventState, WebhookSource

log = structlog.get_logger(__name__)

ERROR_LENGTH_MAX: Final = 500
POLL_SECONDS: Final = 1.0
"""Pause between two looks for what is due, where nobody announces anything: bounds how late a retry begins."""
BACKLOG_SECONDS: Final = 10.0
"""Pause between two counts of what waits, for the metric."""
CLOSE_SECONDS: Final = 2.0
"""Longest wait at the end for a look that is under way: what it claims is given back, not left to its lease."""
_GROWTHS_MAX: Final = 16
_STACK_FRAMES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """How often, and when, an event is attempted."""

    count_max: int = 12
    first_delay: timedelta = timedelta(seconds=1)
    delay_factor: float = 4.0
    """Growth of the delay from one attempt to the next."""
    delay_max: timedelta = timedelta(hours=1)
    seconds_max: float = 30.0
    """Longest duration of one attempt."""
    lease: timedelta = timedelta(seconds=60)
    """For how long nobody else takes an event that is claimed; longer than any attempt."""

    def delay_after(self, attempt: int, *, chance: float) -> timedelta:
        """Return the pause after a failed attempt; chance, from 0 to 1, takes up to a quarter off it."""
        # Nobody gets that far: the power shall not overflow all the same.
        growth = self.delay_factor ** min(attempt - 1, _GROWTHS_MAX)
        delay = min(self.first_delay * growth, self.delay_max)
        return delay * (1 - chance / 4)


class WebhookProcessor:
    """Works on what is due, several events at a time."""

    def __init__(
        self,
        database: Database,
        handlers: Mapping[WebhookSource, EventHandler],
        *,
        clock: Clock,
        attempts: Attempts | None = None,
        concurrency: int = 4,
        on_ended: Callable[[EventKey], None] | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Work on the database of the intake; events of sources without a handler wait.

        `on_ended` is called with each event whose attempt has ended, whatever the result.
        """
        self._database = database
        self._handlers = dict(handlers)
        self._clock = clock
        self._plan = attempts or Attempts()
        self._concurrency = concurrency
        self._on_ended = on_ended or (lambda _key: None)
        self._chance = chance
        self._woken = asyncio.Event()
        self._closing = False
        self._running: set[asyncio.Task[None]] = set()
        self._dispatcher: asyncio.Task[None] | None = None
        self._counter: asyncio.Task[None] | None = None
        self._backlog: Mapping[WebhookEventState, int] = {}

    async def start(self) -> None:
        """Begin to work."""
        self._dispatcher = asyncio.create_task(self._dispatch(), name="webhook-dispatcher")
        self._counter = asyncio.create_task(self._count(), name="webhook-backlog")

    async def close(self) -> None:
        """Stop; events under way are given back."""
        # The dispatcher first: it would begin with others.
        self._closing = True
        self._woken.set()
        tasks = [task for task in (self._dispatcher, self._counter) if task is not None]
        if self._dispatcher is not None:
            await asyncio.wait([self._dispatcher], timeout=CLOSE_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def wake(self) -> None:
        """Look for what is due, now."""
        self._woken.set()

    def backlog(self) -> dict[tuple[str, ...], float]:
        """Return how many events were open when they were last counted, by state."""
        return {(state.value,): count for state, count in self._backlog.items()}

    async def run_due(self) -> int:
        """Process everything that is due, and what becomes due meanwhile; return the number of attempts.

        For tests and for whoever runs the worker by hand. Raises StoreUnavailable.
        """
        count = 0
        while claimed := await self._claim(self._concurrency):
            await asyncio.gather(*(self._attempt(event) for event in claimed))
            count += len(claimed)
        return count

    # --- Choosing -----------------------------------------------------------------------------------------

    async def _dispatch(self) -> None:
        while not self._closing:
            self._woken.clear()
            free = self._concurrency - len(self._running)
            claimed: Sequence[ClaimedEvent] = ()
            if free:
                try:
                    claimed = await self._claim(free)
                except StoreUnavailable as error:
                    log.debug("webhooks_not_claimed", error=type(error).__name__)
                except Exception as error:
                    # A right that is missing, or a defect: it may be mended while we run.
                    log.exception("webhooks_not_claimed", error=type(error).__name__)
            for event in claimed:
                task = asyncio.create_task(self._attempt(event), name="webhook-attempt")
                self._running.add(task)
                task.add_done_callback(self._note_end)
            if free and len(claimed) == free:
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._woken.wait()

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._woken.set()

    async def _claim(self, limit: int) -> list[ClaimedEvent]:
        if not self._handlers:
            return []
        now = self._clock.now()
        async with self._database.plain_transaction() as connection:
            return await rows.claim(
                connection, self._handlers.keys(), now=now, lease_end=now + self._plan.lease, limit=limit
            )

    async def _count(self) -> None:
        while True:
            try:
                async with self._database.plain_transaction() as connection:
                    self._backlog = await rows.count_open(connection)
            except StoreUnavailable as error:
                log.debug("webhooks_not_counted", error=type(error).__name__)
            await asyncio.sleep(BACKLOG_SECONDS)

    # --- One attempt --------------------------------------------------------------------------------------

    async def _attempt(self, event: ClaimedEvent) -> None:
        """Handle the event and write down how that ended; never raises but when it is cancelled."""
        try:
            await self._process(event)
        except asyncio.CancelledError:
            with contextlib.suppress(StoreUnavailable):
                async with self._database.plain_transaction() as connection:
                    await rows.release(connection, event, now=self._clock.now())
            raise
        except StoreUnavailable as error:
            # How it ended cannot be written down: the event is due again when its lease ends.
            log.warning(
                "webhook_attempt_lost", source=event.source, event_id=event.event_id, error=type(error).__name__
            )
        finally:
            self._on_ended(event.key)

    async def _process(self, event: ClaimedEvent) -> None:
        handler = self._handlers[event.source]
        if event.event_type not in handler.known_types:
            await self._finish(event, WebhookEventState.IGNORED)
            return
        if event.attempt > self._plan.count_max:
            # Every attempt ended in the middle, without anybody to write it down: it may be what kills us.
            await self._fail(event, "none of its attempts came to an end")
            return
        try:
            handled = await self._handle(handler, event)
        except Exception as error:  # noqa: BLE001 - whatever a handler meets is a reason to try again, not to stop.
            log.warning(
                "webhook_attempt_failed",
                source=event.source,
                event_id=event.event_id,
                attempt=event.attempt,
                error=type(error).__name__,
                stack=None if isinstance(error, TallygateError) else _where(error),
            )
            await self._fail(event, error_text(error))
        else:
            await self._finish(event, WebhookEventState.PROCESSED, handled=handled)

    async def _handle(self, handler: EventHandler, event: ClaimedEvent) -> Handled:
        stored = StoredEvent(
            source=event.source,
            event_id=event.event_id,
            event_type=event.event_type,
            payload=event.payload,
            event_time=event.event_time,
            attempt=event.attempt,
            tenant_id=event.tenant_id,
            processed_before=event.processed_before,
        )
        async with asyncio.timeout(self._plan.seconds_max):
            return await handler.handle(stored)

    async def _fail(self, event: ClaimedEvent, error: str) -> None:
        if event.attempt < self._plan.count_max:
            delay = self._plan.delay_after(event.attempt, chance=self._chance())
            await self._finish(event, WebhookEventState.RETRYING, error=error, delay=delay)
            return
        if await self._finish(event, WebhookEventState.DEAD, error=error):
            log.error("webhook_dead", source=event.source, event_id=event.event_id, attempt=event.attempt)

    async def _finish(
        self,
        event: ClaimedEvent,
        state: WebhookEventState,
        *,
        error: str = "",
        delay: timedelta | None = None,
        handled: Handled | None = None,
    ) -> bool:
        now = self._clock.now()
        processed = state is WebhookEventState.PROCESSED
        async with self._database.plain_transaction() as connection:
            ours = await rows.finish(
                connection,
                event,
                state=state,
                error=error,
                next_attempt_time=None if delay is None else now + delay,
                process_time=now if processed else None,
                tenant_id=handled.tenant_id if handled else "",
                account_id=handled.account_id if handled else "",
            )
        if not ours:
            log.warning("webhook_attempt_overtaken", source=event.source, event_id=event.event_id)
            return False
        metrics.webhook_processed(event.source.value, state.value)
        if processed:
            metrics.webhook_lag(event.source.value, max(0.0, (now - event.receive_time).total_seconds()))
        return True


def error_text(error: Exception) -> str:
    """Return what is stored of an error: type and message of our own ones, of others the type alone."""
    if isinstance(error, TallygateError):
        text = f"{type(error).__name__}: {error.message}"
        return text.replace("\0", "").encode(errors="replace").decode()[:ERROR_LENGTH_MAX]
    return type(error).__name__


def _where(error: Exception) -> str:
    """Return the innermost frames of what went wrong: lines of code, and none of its values."""
    return "".join(traceback.format_tb(error.__traceback__)[-_STACK_FRAMES:])
