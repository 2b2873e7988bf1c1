"""Sends deliveries until each has arrived or has failed too often.

A delivery belongs to the process that claimed it until its lease ends, so one whose process was killed is sent all the
same, at least once. Each endpoint has few attempts under way at a time, one that fails has one, and all that fail share
half of the places: an endpoint that hangs or is away delays itself only.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, Protocol

import structlog

from tallygate_server.clock import Clock
from tallygate_server.errors import StoreUnavailable
from tallygate_server.events.sending import ATTEMPT_SECONDS_MAX, GONE, Sent
from tallygate_server.storage import outbox, webhook_deliveries, webhook_endpoints
from tallygate_server.storage.engine import Database
from tallygate_server.storage.outbox import OutboxEvent
from tallygate_server.storage.webhook_deliveries import ClaimedDelivery, DeliveryState, EndpointKey
from tallygate_server.storage.webhook_endpoints import EndpointRow
from tallygate_server.telemetry import metrics

log = structlog.get_logger(__name__)

RETRY_DELAYS: Final = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=14),
    timedelta(hours=20),
    timedelta(hours=24),
)
"""Pauses after each failed attempt of a delivery, about three days in all; after one more it has failed."""
ATTEMPTS_MAX: Final = len(RETRY_DELAYS) + 1
JITTER: Final = 0.1
"""Part of a pause that chance adds or takes, so that what failed together is not attempted together."""

PAUSE_FAILURES_MIN: Final = 5
"""Failures in a row from which on an endpoint is left alone for a while after each."""
PAUSE_FIRST: Final = timedelta(seconds=5)
PAUSE_MAX: Final = timedelta(hours=1)
"""The pause of an endpoint doubles with each failure, up to this."""
_GROWTHS_MAX: Final = 20

DISABLE_FAILURES: Final = 100
"""Failures in a row after which an endpoint is disabled: with the pauses, after some four days."""
DISABLE_AFTER: Final = timedelta(days=5)
DISABLE_AFTER_FAILURES_MIN: Final = 10
"""An endpoint is also disabled when nothing has arrived for so long, in at least so many attempts."""

OF_EACH_ENDPOINT_MAX: Final = 4
"""Attempts under way for one endpoint."""
LEASE: Final = timedelta(seconds=60)
"""For how long nobody else takes a delivery that is claimed; longer than any attempt."""
POLL_SECONDS: Final = 1.0
"""Pause between two looks for what is due, where nobody announces anything: bounds how late a retry begins."""
CLOSE_SECONDS: Final = 2.0
"""Longest wait at the end for a look that is under way."""

assert LEASE.total_seconds() > ATTEMPT_SECONDS_MAX


class SenderUse(Protocol):
    """Sends one event to one address."""

    async def send(self, event: OutboxEvent, *, url: str, secrets: tuple[str, ...], now: datetime) -> Sent:
        """Make one attempt; never raises but when it is cancelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How an endpoint stands after an attempt."""

    values: dict[str, Any]
    """Columns to write."""
    disable_reason: str = ""
    """Why it is disabled now; empty where it is not."""


class Deliverer:
    """Works on what is due, many deliveries at a time."""

    def __init__(
        self,
        database: Database,
        sender: SenderUse,
        *,
        clock: Clock,
        concurrency: int,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Work on the database of the outbox, with at most so many attempts under way."""
        self._database = database
        self._sender = sender
        self._clock = clock
        self._concurrency = concurrency
        self._failing_max = max(1, concurrency // 2)
        self._chance = chance
        self._woken = asyncio.Event()
        self._closing = False
        self._running: set[asyncio.Task[None]] = set()
        self._busy: Counter[EndpointKey] = Counter()
        self._failing = 0
        self._dispatcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to deliver."""
        self._dispatcher = asyncio.create_task(self._dispatch(), name="event-deliverer")

    async def close(self) -> None:
        """Stop; deliveries under way are given back."""
        # The dispatcher first: it would begin with others.
        self._closing = True
        self._woken.set()
        if self._dispatcher is not None:
            await asyncio.wait([self._dispatcher], timeout=CLOSE_SECONDS)
            self._dispatcher.cancel()
            await asyncio.gather(self._dispatcher, return_exceptions=True)
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def wake(self) -> None:
        """Look for what is due, now."""
        self._woken.set()

    @property
    def under_way(self) -> int:
        """Attempts under way."""
        return len(self._running)

    async def run_due(self) -> int:
        """Attempt everything that is due, and what becomes due meanwhile; return the number of attempts.

        For tests and for whoever delivers by hand. Raises StoreUnavailable.
        """
        count = 0
        while True:
            claimed = await self._claim(self._concurrency, failing=False)
            claimed += await self._claim(self._failing_max, failing=True)
            if not claimed:
                return count
            await asyncio.gather(*(self._attempt(delivery) for delivery in claimed))
            count += len(claimed)

    # --- Choosing -----------------------------------------------------------------------------------------

    async def _dispatch(self) -> None:
        while not self._closing:
            self._woken.clear()
            try:
                begun = await self._begin(failing=False) + await self._begin(failing=True)
            except StoreUnavailable as error:
                log.debug("deliveries_not_claimed", error=type(error).__name__)
                begun = 0
            except Exception as error:
                # A right that is missing, or a defect: it may be mended while we run.
                log.exception("deliveries_not_claimed", error=type(error).__name__)
                begun = 0
            if begun:
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._woken.wait()

    async def _begin(self, *, failing: bool) -> int:
        free = self._concurrency - len(self._running)
        if failing:
            free = min(free, self._failing_max - self._failing)
        if free <= 0 or self._closing:
            return 0
        claimed = await self._claim(free, failing=failing)
        for delivery in claimed:
            self._busy[delivery.endpoint_key] += 1
            self._failing += failing
            task = asyncio.create_task(self._attempt(delivery), name="event-delivery")
            self._running.add(task)
            task.add_done_callback(partial(self._note_end, delivery.endpoint_key, failing))
        return len(claimed)

    def _note_end(self, key: EndpointKey, failing: bool, task: asyncio.Task[None]) -> None:  # noqa: FBT001 - a callback
        self._running.discard(task)
        self._failing -= failing
        self._busy[key] -= 1
        if not self._busy[key]:
            del self._busy[key]
        self._woken.set()

    async def _claim(self, limit: int, *, failing: bool) -> list[ClaimedDelivery]:
        now = self._clock.now()
        async with self._database.plain_transaction() as connection:
            return await webhook_deliveries.claim(
                connection,
                now=now,
                lease_end=now + LEASE,
                limit=limit,
                of_each=1 if failing else OF_EACH_ENDPOINT_MAX,
                failing=failing,
                busy=self._busy,
            )

    # --- One attempt --------------------------------------------------------------------------------------

    async def _attempt(self, delivery: ClaimedDelivery) -> None:
        """Send the event and write down how that ended; never raises but when it is cancelled."""
        try:
            await self._deliver(delivery)
        except asyncio.CancelledError:
            with contextlib.suppress(StoreUnavailable):
                async with self._database.plain_transaction() as connection:
                    await webhook_deliveries.release(connection, delivery, now=self._clock.now())
            raise
        except StoreUnavailable as error:
            # How it ended cannot be written down: the delivery is due again when its lease ends.
            log.warning("delivery_attempt_lost", tenant_id=delivery.tenant_id, error=type(error).__name__)
        except Exception as error:
            # A defect of ours, told as such; the same follows.
            log.exception("delivery_attempt_lost", tenant_id=delivery.tenant_id, error=type(error).__name__)

    async def _deliver(self, delivery: ClaimedDelivery) -> None:
        now = self._clock.now()
        async with self._database.plain_transaction() as connection:
            endpoint = await webhook_endpoints.read_endpoint(connection, delivery.tenant_id, delivery.endpoint_id)
            event = await outbox.read_event(connection, delivery.tenant_id, delivery.event_id)
            if endpoint is not None and endpoint.disabled:
                await webhook_deliveries.release(connection, delivery, now=now)
                return
        if endpoint is None:
            # Deleted a moment ago, with all that waits for it.
            return
        if event is None:
            await self._end(delivery, Sent(error="the event is no longer kept"), final=True)
            return
        if delivery.attempt > ATTEMPTS_MAX:
            # Every attempt ended in the middle, without anybody to write it down: it may be what kills us.
            await self._end(delivery, Sent(error="none of its attempts came to an end"), final=True)
            return
        sent = await self._sender.send(event, url=endpoint.url, secrets=endpoint.secrets_at(now), now=now)
        await self._end(delivery, sent, final=delivery.attempt >= ATTEMPTS_MAX or sent.http_status == GONE)

    async def _end(self, delivery: ClaimedDelivery, sent: Sent, *, final: bool) -> None:
        now = self._clock.now()
        if sent.arrived:
            state, retry_time = DeliveryState.DELIVERED, None
        elif final:
            state, retry_time = DeliveryState.FAILED, None
        else:
            state, retry_time = DeliveryState.PENDING, now + retry_delay(delivery.attempt, chance=self._chance())
        disable_reason = ""
        async with self._database.plain_transaction() as connection:
            ours = await webhook_deliveries.finish(
                connection,
                delivery,
                state=state,
                http_status=sent.http_status,
                error=sent.error,
                next_attempt_time=retry_time,
                end_time=None if state is DeliveryState.PENDING else now,
            )
            endpoint = await webhook_endpoints.read_endpoint(
                connection, delivery.tenant_id, delivery.endpoint_id, lock=True
            )
            if ours and endpoint is not None and not endpoint.disabled:
                standing = standing_after(endpoint, sent, now=now)
                disable_reason = standing.disable_reason
                await webhook_endpoints.write_endpoint(
                    connection, delivery.tenant_id, delivery.endpoint_id, standing.values
                )
                if disable_reason:
                    await outbox.add_event(
                        connection,
                        delivery.tenant_id,
                        event_type="endpoint.disabled",
                        # Not its address, which may hold a secret of the consumer's.
                        payload={
                            "endpoint_id": endpoint.endpoint_id,
                            "description": endpoint.description,
                            "reason": disable_reason,
                        },
                        create_time=now,
                    )
        if not ours:
            log.warning("delivery_attempt_overtaken", tenant_id=delivery.tenant_id)
            return
        outcome = "retrying" if state is DeliveryState.PENDING else state.value
        metrics.delivery(outcome)
        if disable_reason:
            metrics.endpoint_disabled()
            log.warning("webhook_endpoint_disabled", tenant_id=delivery.tenant_id, reason=disable_reason)


def retry_delay(attempt: int, *, chance: float) -> timedelta:
    """Return the pause after a failed attempt, the first being 1; chance, from 0 to 1, makes it longer or shorter."""
    return RETRY_DELAYS[attempt - 1] * (1 + JITTER * (2 * chance - 1))


def pause_after(failure_count: int) -> timedelta | None:
    """Return for how long an endpoint is left alone after so many failures in a row; None for not at all."""
    growths = failure_count - PAUSE_FAILURES_MIN
    if growths < 0:
        return None
    # Nobody counts further: the power shall not overflow.
    growth: int = 2 ** min(growths, _GROWTHS_MAX)
    return min(PAUSE_FIRST * growth, PAUSE_MAX)


def standing_after(endpoint: EndpointRow, sent: Sent, *, now: datetime) -> Standing:
    """Decide how an endpoint stands after an attempt."""
    if sent.arrived:
        return Standing(
            values={"failure_count": 0, "failing_since_time": None, "retry_time": None, "success_time": now}
        )
    failures = endpoint.failure_count + 1
    since = endpoint.failing_since_time or now
    pause = pause_after(failures)
    values = {
        "failure_count": failures,
        "failing_since_time": since,
        "retry_time": None if pause is None else now + pause,
    }
    reason = ""
    if sent.http_status == GONE:
        reason = f"it answered with status {GONE}: it wants nothing any more"
    elif failures >= DISABLE_FAILURES:
        reason = f"{failures} attempts failed one after another; the last one: {sent.error}"
    elif now - since >= DISABLE_AFTER and failures >= DISABLE_AFTER_FAILURES_MIN:
        reason = f"nothing has arrived for {DISABLE_AFTER.days} days; the last error: {sent.error}"
    if reason:
        values |= {"disabled": True, "disable_reason": reason, "update_time": now}
    return Standing(values=values, disable_reason=reason)
