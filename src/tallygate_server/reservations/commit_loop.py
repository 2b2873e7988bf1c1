"""Commits calls on reservations, all that wait at a time in one transaction."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import datetime, timedelta
from typing import Final

import structlog

from tallygate_server.clock import Clock
from tallygate_server.counters import keys
from tallygate_server.counters.counters import Counters, Settlement
from tallygate_server.domain.period import Period, PeriodKind
from tallygate_server.errors import OutcomeUnknown, Overloaded, StoreUnavailable, TallygateError
from tallygate_server.hot_accounts import counter_ttl_ms
from tallygate_server.metering.settling import settlement
from tallygate_server.reservations.calls import Answer, CommitAnswer, Place, ReservationCall, Reserve, ReserveAnswer
from tallygate_server.reservations.verdict import Verdict
from tallygate_server.storage.ledger import (
    CounterKey,
    CounterState,
    DuplicateRow,
    GroupRefused,
    Ledger,
    LedgerDown,
    LedgerLost,
)
from tallygate_server.storage.reservations import ReservationKey
from tallygate_server.telemetry import metrics
from tallygate_server.tenants import TenantDirectory

log = structlog.get_logger(__name__)

RESERVATION_BATCH_MAX: Final = 256
"""Calls in one transaction: bounds how long it keeps its counters from others."""
COMMITTERS: Final = 2
"""Transactions at a time: while Postgres works on one, the next is laid out."""
PLACES_KEPT_MAX: Final = 50_000
"""Reservations made here whose counters are remembered; of others they are looked up."""
_CONFLICTS_MAX: Final = 10
"""How often a batch starts anew because others committed one of its request ids; each time finds more of them."""


class ReservationCommits:
    """Runs transactions of reservations, few at a time, each with all calls that came meanwhile."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        counters: Counters,
        clock: Clock,
        tenants: TenantDirectory,
        late_window: timedelta,
        waiting_max: int,
        timeout_ms: int,
    ) -> None:
        """Refuse calls beyond so many that wait; give up on Postgres after the timeout."""
        self._ledger = ledger
        self._counters = counters
        self._clock = clock
        self._tenants = tenants
        self._late_window = late_window
        self._waiting_max = waiting_max
        self._timeout_seconds = timeout_ms / 1_000
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[ReservationCall] = deque()
        self._wakes = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._places: dict[ReservationKey, Place] = {}
        self._working = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to commit."""
        self._tasks = [asyncio.create_task(self._run(), name=f"reservation-commits-{i}") for i in range(COMMITTERS)]

    async def close(self, timeout_seconds: float = 5.0) -> None:
        """Finish what waits, within the time, then stop."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._idle.wait()
        except TimeoutError:
            log.warning("reservations_closed_with_work_left", calls=len(self._waiting))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for call in self._waiting:
            _give_up(call)

    def take(self, call: ReservationCall) -> None:
        """Commit the call with the next batch; it hears the outcome through its future."""
        if len(self._waiting) >= self._waiting_max:
            call.finish(Overloaded("too many calls on reservations are waiting"))
        elif not self._ledger.up:
            _give_up(call)
        else:
            self._waiting.append(call)
            self._idle.clear()
            self._wakes.set()

    async def _run(self) -> None:
        queue = self._waiting
        while True:
            while not queue:
                if not self._working:
                    self._idle.set()
                self._wakes.clear()
                await self._wakes.wait()
            calls = [queue.popleft() for _ in range(min(len(queue), RESERVATION_BATCH_MAX))]
            self._working += 1
            try:
                await self._commit(calls)
            except asyncio.CancelledError:
                for call in calls:
                    call.doubtful = True
                    _give_up(call)
                raise
            except Exception:
                log.exception("reservation_commit_failed")
                for call in calls:
                    call.doubtful = True
                    _give_up(call)
            finally:
                self._working -= 1

    async def _commit(self, calls: list[ReservationCall]) -> None:
        deadline = self._loop.time() + self._timeout_seconds
        conflicts = 0
        while True:
            verdict = Verdict(
                calls,
                now=self._clock.now(),
                late_window=self._late_window,
                tenants=self._tenants,
                places=self._places,
            )
            started = self._loop.time()
            try:
                async with self._ledger.exact() as transaction:
                    await verdict.reach(transaction)
            except DuplicateRow:
                # The same request id was committed meanwhile, on another counter, or our own lost attempt was
                # committed after all: look again.
                conflicts += 1
                if conflicts >= _CONFLICTS_MAX:
                    raise
                continue
            except GroupRefused as error:
                await self._commit_singly(calls, error)
                return
            except LedgerLost:
                for call in calls:
                    call.doubtful = True
            except LedgerDown:
                pass
            else:
                metrics.reservation_batch(len(calls), self._loop.time() - started)
                self._answer(verdict)
                return
            self._fail_waiting()
            left = deadline - self._loop.time()
            if left <= 0:
                for call in calls:
                    _give_up(call)
                return
            await self._ledger.wait_up(left)

    async def _commit_singly(self, calls: list[ReservationCall], error: GroupRefused) -> None:
        """Try each call alone: one that Postgres refuses must not take the others with it."""
        if len(calls) == 1:
            log.error("call_refused", error=str(error))
            _give_up(calls[0])
            return
        log.warning("exact_refused", error=str(error), calls=len(calls))
        for call in calls:
            await self._commit([call])

    def _fail_waiting(self) -> None:
        """Turn away what waits behind a batch while Postgres is down."""
        while self._waiting:
            _give_up(self._waiting.popleft())

    def _answer(self, verdict: Verdict) -> None:
        states = {key: verdict.counters[key].state() for key in verdict.period_ends}
        tell_redis(self._counters, self._clock, states, verdict.period_ends)
        for call, outcome in verdict.outcomes:
            place = verdict.places.get(call.key)
            if place is not None and isinstance(call.wish, Reserve) and isinstance(outcome, ReserveAnswer):
                self._remember(call.key, place)
            metrics.reservation(type(call.wish).__name__.lower(), _result(outcome))
            call.finish(outcome)

    def _remember(self, key: ReservationKey, place: Place) -> None:
        self._places[key] = place
        if len(self._places) > PLACES_KEPT_MAX:
            del self._places[next(iter(self._places))]


def tell_redis(
    counters: Counters,
    clock: Clock,
    states: dict[CounterKey, CounterState],
    period_ends: dict[CounterKey, datetime | None],
    *,
    make: bool = True,
) -> None:
    """Put what became of counters on the wire, ahead of the answers; with `make` also where Redis knows none."""
    now_ms = clock.now_ms()
    settlements: list[Settlement] = []
    for key, state in states.items():
        period = Period(PeriodKind(key.period_kind), key.period_start, period_ends[key])
        account_key = counters.account_key(key.tenant_id, key.account_id)
        counter_key = keys.counter(account_key, key.feature_key, period)
        settlements.append(settlement(counter_key, "", state, counter_ttl_ms(period, now_ms) if make else 0))
    if settlements:
        counters.settle_soon(settlements)
        counters.flush()


def _result(outcome: Answer | TallygateError) -> str:
    if isinstance(outcome, TallygateError):
        return f"error_{outcome.reason.lower()}"
    if isinstance(outcome, ReserveAnswer | CommitAnswer):
        if outcome.replayed:
            return "replayed"
        return "allowed" if outcome.reason.allows else "denied"
    return "allowed"


def _give_up(call: ReservationCall) -> None:
    """Say that Postgres is away, or, where an attempt was lost in the middle, that the outcome is not known."""
    error: TallygateError
    if call.doubtful:
        if isinstance(call.wish, Reserve):
            error = OutcomeUnknown("whether this was reserved is not known: retry with the same request_id")
        else:
            error = OutcomeUnknown("what became of this reservation is not known: retry to hear")
    else:
        error = StoreUnavailable("reservations cannot be recorded just now")
    call.finish(error)
