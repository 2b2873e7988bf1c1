"""Recording: the RecordUsage use case.

    look for repetitions -> load the accounts -> judge each event -> write, all that is good in one transaction
                         -> tell Redis the new totals -> answer

Events are no questions: whether a limit allows them is not asked. Those that meters with limits count go into the
ledger with the event, and may take a counter beyond its limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final, Self

import structlog

from tallygate_server.clock import Clock
from tallygate_server.counters.counters import SETTLEMENTS_AT_ONCE_MAX, Counters, Settlement
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.usage_event import UsageEvent
from tallygate_server.errors import (
    EventIdReused,
    OutcomeUnknown,
    Overloaded,
    StoreUnavailable,
    TallygateError,
    Unavailable,
)
from tallygate_server.hot_accounts import HotAccount, HotAccounts, counter_ttl_ms
from tallygate_server.metering.settling import settlement
from tallygate_server.recording.judging import Judge, Recordable
from tallygate_server.recording.results import RecordOutcome, RecordResult, refused
from tallygate_server.recording.writing import EVENTS_AT_A_STRETCH, Writing, recorded_before
from tallygate_server.storage.ledger import (
    CounterKey,
    CounterState,
    DuplicateRow,
    GroupRefused,
    Ledger,
    LedgerDown,
    LedgerLost,
)
from tallygate_server.storage.usage_events import EventName, RecordedBefore, find_recorded
from tallygate_server.telemetry import metrics
from tallygate_server.tenants import TenantDirectory

log = structlog.get_logger(__name__)

BATCHES_AT_ONCE_MAX: Final = 2
"""Fewer than the ledger has connections: increments that need an exact commit are never kept waiting by events."""
BATCHES_WAITING_MAX: Final = 64
REFUSALS_MAX: Final = 3
"""How often Postgres may refuse a batch, for a deadlock perhaps, before it is cut in two."""


class UsageRecorder:
    """Records events once, with what they count."""

    def __init__(
        self,
        *,
        accounts: HotAccounts,
        counters: Counters,
        ledger: Ledger,
        tenants: TenantDirectory,
        clock: Clock,
        next_entry_id: Callable[[], int],
        timeout_ms: int,
    ) -> None:
        """Give up on Postgres after the timeout; `next_entry_id` numbers events and ledger entries."""
        self._accounts = accounts
        self._counters = counters
        self._ledger = ledger
        self._tenants = tenants
        self._clock = clock
        self._next_entry_id = next_entry_id
        self._timeout_seconds = timeout_ms / 1000
        self._loop = asyncio.get_running_loop()
        self._turns = asyncio.Semaphore(BATCHES_AT_ONCE_MAX)
        self._batches: set[asyncio.Task[list[RecordResult]]] = set()

    async def record(self, tenant_id: TenantId, events: Sequence[UsageEvent | TallygateError]) -> list[RecordResult]:
        """Record each event alone; return what became of each, in order.

        In place of an event that breaks a rule of the contract stands the error that says so. Raises TenantNotFound,
        Overloaded, StoreUnavailable and OutcomeUnknown: then nothing was recorded, as far as is known, and the same
        events may be sent again.
        """
        if len(self._batches) >= BATCHES_WAITING_MAX + BATCHES_AT_ONCE_MAX:
            raise Overloaded("too many batches of events are waiting to be recorded")
        task = asyncio.create_task(self._record_in_turn(tenant_id, events))
        self._batches.add(task)
        task.add_done_callback(self._ended)
        # A caller that goes away undoes nothing: Redis must hear of what was committed.
        return await asyncio.shield(task)

    @asynccontextmanager
    async def closing(self) -> AsyncIterator[Self]:
        """Record inside; leaving waits for what is being recorded."""
        try:
            yield self
        finally:
            await asyncio.gather(*self._batches, return_exceptions=True)

    def _ended(self, task: asyncio.Task[list[RecordResult]]) -> None:
        self._batches.discard(task)
        # The caller may have gone away; an error that nobody took is not worth a warning.
        if not task.cancelled():
            task.exception()

    async def _record_in_turn(
        self, tenant_id: TenantId, events: Sequence[UsageEvent | TallygateError]
    ) -> list[RecordResult]:
        async with self._turns:
            results = await self._record(tenant_id, events)
        for result in results:
            metrics.usage_events.add(result.outcome.value)
        return results

    async def _record(self, tenant_id: TenantId, events: Sequence[UsageEvent | TallygateError]) -> list[RecordResult]:
        tenant = await self._tenants.get(tenant_id)
        judge = Judge(tenant, now=self._clock.now(), now_ms=self._clock.now_ms(), next_entry_id=self._next_entry_id)
        names = [EventName(event.source, event.event_id) for event in events if isinstance(event, UsageEvent)]
        known = await self._find_recorded(tenant_id, names)
        accounts = await self._load(
            tenant_id,
            {
                event.account_id
                for event in events
                if isinstance(event, UsageEvent) and EventName(event.source, event.event_id) not in known
            },
        )
        batch = _Batch(judge, known, accounts)
        for index, event in enumerate(events):
            if index % EVENTS_AT_A_STRETCH == 0:
                await asyncio.sleep(0)
            batch.add(f"events[{index}]", event)
        await self._write(tenant_id, judge.now, list(batch.recordables.values()))
        results = batch.results()
        _raise_if_unavailable(results)
        return results

    async def _find_recorded(self, tenant_id: TenantId, names: Sequence[EventName]) -> dict[EventName, RecordedBefore]:
        if not names:
            return {}
        try:
            async with self._ledger.exact() as transaction:
                return await find_recorded(transaction, tenant_id, names)
        except (LedgerDown, LedgerLost, GroupRefused) as error:
            raise StoreUnavailable("events cannot be recorded just now") from error

    async def _load(
        self, tenant_id: TenantId, account_ids: set[AccountId]
    ) -> dict[AccountId, HotAccount | TallygateError | None]:
        """Return the accounts as Postgres has them now, made where the tenant allows that; None for none."""

        async def load(account_id: AccountId) -> HotAccount | TallygateError | None:
            try:
                return (await self._accounts.load(tenant_id, account_id)).account
            except TallygateError as error:
                return error

        ordered = sorted(account_ids)
        return dict(zip(ordered, await asyncio.gather(*map(load, ordered)), strict=True))

    async def _write(self, tenant_id: TenantId, recorded_time: datetime, batch: Sequence[Recordable]) -> None:
        """Write the batch, or say of each of its events why it could not be; what Postgres refuses goes alone."""
        if not batch:
            return
        deadline = self._loop.time() + self._timeout_seconds
        doubtful = False
        refusals = 0
        while True:
            writing = Writing(tenant_id, recorded_time, batch)
            try:
                async with self._ledger.exact() as transaction:
                    await writing.reach(transaction)
            except (GroupRefused, DuplicateRow) as error:
                refusals += 1
                if refusals < REFUSALS_MAX:
                    continue
                await self._write_in_halves(tenant_id, recorded_time, batch, error)
                return
            except LedgerLost:
                doubtful = True
            except LedgerDown:
                pass
            else:
                self._settle(batch, writing.states)
                for each, result in zip(batch, writing.results, strict=True):
                    each.result = result
                return
            remaining = deadline - self._loop.time()
            if remaining <= 0 or not await self._ledger.wait_up(remaining):
                for each in batch:
                    each.refuse(_gave_up(doubtful=doubtful))
                return

    async def _write_in_halves(
        self, tenant_id: TenantId, recorded_time: datetime, batch: Sequence[Recordable], error: Exception
    ) -> None:
        """Try each half alone: an event that Postgres refuses must not take the others with it."""
        if len(batch) == 1:
            log.error("event_refused", error=str(error))
            batch[0].refuse(StoreUnavailable("the event could not be recorded"))
            return
        log.warning("events_refused", error=str(error), rows=len(batch))
        middle = len(batch) // 2
        await self._write(tenant_id, recorded_time, batch[:middle])
        await self._write(tenant_id, recorded_time, batch[middle:])

    def _settle(self, batch: Sequence[Recordable], states: Mapping[CounterKey, CounterState]) -> None:
        """Put the totals on the wire, ahead of the answer: who was answered finds them in Redis."""
        now_ms = self._clock.now_ms()
        settlements: dict[CounterKey, Settlement] = {}
        for each in batch:
            for count in each.counts:
                if count.key in settlements:
                    continue
                redis_key = each.account.counter_key(count.feature, count.period)
                ttl_ms = counter_ttl_ms(count.period, now_ms)
                settlements[count.key] = settlement(redis_key, "", states[count.key], ttl_ms)
        ordered = list(settlements.values())
        for start in range(0, len(ordered), SETTLEMENTS_AT_ONCE_MAX):
            self._counters.settle_soon(ordered[start : start + SETTLEMENTS_AT_ONCE_MAX])
        if ordered:
            self._counters.flush()


class _Batch:
    """The events of one call on their way to their results."""

    def __init__(
        self,
        judge: Judge,
        known: Mapping[EventName, RecordedBefore],
        accounts: Mapping[AccountId, HotAccount | TallygateError | None],
    ) -> None:
        self._judge = judge
        self._known = known
        self._accounts = accounts
        self.recordables: dict[EventName, Recordable] = {}
        """What is to be written, each name once."""
        self._ends: list[Callable[[], RecordResult]] = []
        """How each event ends, once everything is written."""

    def add(self, path: str, event: UsageEvent | TallygateError) -> None:
        """Judge the next event."""
        try:
            self._ends.append(self._judged(path, event))
        except TallygateError as error:
            result = refused(error)
            self._ends.append(lambda: result)

    def results(self) -> list[RecordResult]:
        """Return what became of the events, in order."""
        return [end() for end in self._ends]

    def _judged(self, path: str, event: UsageEvent | TallygateError) -> Callable[[], RecordResult]:
        if isinstance(event, TallygateError):
            raise event
        name = EventName(event.source, event.event_id)
        fingerprint = event.fingerprint()
        if (known := self._known.get(name)) is not None:
            result = recorded_before(fingerprint, name, known, field=f"{path}.id")
            return lambda: result
        if (first := self.recordables.get(name)) is not None:
            return lambda: _repetition(first, fingerprint, field=f"{path}.id")
        account = self._accounts[event.account_id]
        if isinstance(account, TallygateError):
            raise account
        recordable = self._judge.judge(path, event, account, fingerprint=fingerprint)
        self.recordables[name] = recordable
        return lambda: _result(recordable)


def _result(recordable: Recordable) -> RecordResult:
    assert recordable.result is not None
    return recordable.result


def _repetition(first: Recordable, fingerprint: int, *, field: str) -> RecordResult:
    """Return the result of an event whose name stands in the same batch before, once that one's is known."""
    if first.known is not None:
        # Somebody else was faster, and may have sent what this one says.
        return recorded_before(fingerprint, first.name, first.known, field=field)
    result = _result(first)
    if result.outcome is not RecordOutcome.RECORDED:
        return result
    if first.fingerprint != fingerprint:
        return refused(EventIdReused(first.event.source, first.event.event_id, field=field))
    return first.recorded(RecordOutcome.DUPLICATE)


def _gave_up(*, doubtful: bool) -> TallygateError:
    if doubtful:
        return OutcomeUnknown("Postgres went away during a commit; send the same events again")
    return StoreUnavailable("events cannot be recorded just now")


def _raise_if_unavailable(results: Sequence[RecordResult]) -> None:
    """Fail as a whole where a store kept everything from being recorded."""
    if any(result.outcome is not RecordOutcome.REFUSED for result in results):
        return
    for result in results:
        if isinstance(result.error, Unavailable):
            raise result.error
