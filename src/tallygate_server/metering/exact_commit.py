"""The exact commit: lock the counters, look up request ids, decide each call in order, write.

Slower than the group commit and always right; it serves what Redis could not decide, repeated requests,
gauges going down, and atomic batches.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import structlog

from tallygate_server.clock import Clock
from tallygate_server.counters.counters import Counters
from tallygate_server.domain.call import IncrementAnswer
from tallygate_server.domain.credits import CounterAccount, Payment
from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.usage import fits
from tallygate_server.errors import RequestIdReused, TallygateError
from tallygate_server.metering.announcing import step
from tallygate_server.metering.answers import Answers
from tallygate_server.metering.calls import (
    AtomicSet,
    CallEnd,
    IncrementCall,
    calls_of,
    dimensions_json,
    thresholds_text,
)
from tallygate_server.metering.credit_book import CountedFeature, CreditBook, credits_json
from tallygate_server.metering.settling import Settling
from tallygate_server.storage.ledger import (
    CounterKey,
    CounterState,
    DenialRow,
    DuplicateRow,
    ExactEntry,
    ExactTransaction,
    GroupRefused,
    Ledger,
    LedgerDown,
    LedgerLost,
    LockedCounter,
    RequestRow,
    UsageAnnouncement,
)
from tallygate_server.telemetry import metrics

log = structlog.get_logger(__name__)

_EXACT_BATCH_MAX: Final = 256
_CONFLICTS_MAX: Final = 10
"""How often a batch starts anew because others committed one of its request ids; each time finds more of them."""

Item = IncrementCall | AtomicSet


class ExactCommit:
    """Commits calls one by one inside a transaction that holds their counters' locks."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        counters: Counters,
        clock: Clock,
        answers: Answers,
        end: CallEnd,
        timeout_ms: int,
    ) -> None:
        """Give up on Postgres after the timeout."""
        self._ledger = ledger
        self._counters = counters
        self._clock = clock
        self._answers = answers
        self._end = end
        self._timeout_seconds = timeout_ms / 1000
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Item] = deque()
        self._wakes = asyncio.Event()

    def __len__(self) -> int:
        """Return how many calls and sets wait."""
        return len(self._waiting)

    def take(self, item: Item) -> None:
        """Commit the call, or the set, with the next batch."""
        self._waiting.append(item)
        self._wakes.set()

    async def run(self) -> None:
        """Commit batch after batch, until cancelled."""
        queue = self._waiting
        while True:
            if not queue:
                self._wakes.clear()
                await self._wakes.wait()
            items: list[Item] = []
            while queue and len(items) < _EXACT_BATCH_MAX:
                item = queue.popleft()
                # One set at a time beside single calls keeps transactions, and so lock times, bounded.
                items.append(item)
                if isinstance(item, AtomicSet):
                    break
            try:
                await self._commit_items(items)
            except asyncio.CancelledError:
                raise
            except Exception:
                log.exception("exact_commit_failed")
                for call in calls_of(items):
                    call.doubtful = True
                    self._end.give_up(call)

    async def _commit_items(self, items: list[Item]) -> None:
        now = self._clock.now()
        for call in calls_of(items):
            if call.recorded_time is None:
                call.entry_id = call.entry_id or self._answers.next_entry_id()
                call.recorded_time = now
        deadline = self._loop.time() + self._timeout_seconds
        conflicts = 0
        while items:
            verdict = _Verdict(self._answers, items, self._clock.now())
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
                await self._commit_singly(items, error)
                return
            except LedgerLost:
                for call in verdict.calls:
                    call.doubtful = True
            except LedgerDown:
                pass
            else:
                metrics.commit("exact", verdict.entries_written, self._loop.time() - started)
                self._on_verdict(verdict)
                return
            self._fail_waiting()
            remaining = deadline - self._loop.time()
            if remaining <= 0:
                items = self._keep_accepted(items)
                remaining = self._timeout_seconds
            if items:
                await self._ledger.wait_up(remaining)

    async def _commit_singly(self, items: list[Item], error: GroupRefused) -> None:
        """Try each item alone: one that Postgres refuses must not take the others with it."""
        if len(items) == 1:
            log.error("call_refused", error=str(error))
            for call in calls_of(items):
                self._end.give_up(call)
            return
        log.warning("exact_refused", error=str(error), calls=len(items))
        for item in items:
            await self._commit_items([item])

    def _fail_waiting(self) -> None:
        """Turn away what waits behind a batch while Postgres is down, but for what was accepted."""
        waiting = list(self._waiting)
        self._waiting.clear()
        self._waiting.extend(self._keep_accepted(waiting))

    def _keep_accepted(self, items: list[Item]) -> list[Item]:
        """Give up on what was promised nothing; return the others."""
        kept: list[Item] = []
        for item in items:
            if isinstance(item, IncrementCall) and item.answered:
                self._end.keep_waiting(item)
                kept.append(item)
            else:
                for call in calls_of([item]):
                    self._end.give_up(call)
        return kept

    def _on_verdict(self, verdict: _Verdict) -> None:
        settling = Settling(self._counters, self._clock)
        counted: dict[str, list[IncrementCall]] = {}
        for call in verdict.calls:
            if call.period is not None:
                counted.setdefault(call.counter_key, []).append(call)
        for calls in counted.values():
            settling.add(calls, verdict.states.get(calls[0].ledger_key()))
        settling.send()
        for call, outcome in verdict.outcomes:
            if call.answered and isinstance(outcome, IncrementAnswer) and not outcome.reason.allows:
                # Accepted on the strength of a Redis that was lost since; the limit holds all the same.
                metrics.accepted_refused()
            self._end.finish(call, outcome)


@dataclass(slots=True)
class _Rows:
    """What one exact commit writes."""

    entries: list[ExactEntry] = field(default_factory=list)
    requests: list[RequestRow] = field(default_factory=list)
    denials: list[DenialRow] = field(default_factory=list)
    announcements: list[UsageAnnouncement] = field(default_factory=list)


class _Verdict:
    """One exact commit: what Postgres says about each call, and what is written for it."""

    def __init__(self, answers: Answers, items: list[Item], now: datetime) -> None:
        self._answers = answers
        self._items = items
        self._now = now
        self.calls = calls_of(items)
        self._written: dict[int, int] = {}
        """Entries of our own earlier, doubtful attempts: used_after by entry id."""
        self.entries_written = 0
        """How many calls are counted by this commit: neither denials nor replays."""
        self.states: dict[CounterKey, CounterState] = {}
        self.outcomes: list[tuple[IncrementCall, IncrementAnswer | TallygateError]] = []

    async def reach(self, transaction: ExactTransaction) -> None:
        """Lock, look, decide in order, write."""
        keys: dict[CounterKey, datetime | None] = {}
        counted: dict[CounterKey, CountedFeature] = {}
        for call in self.calls:
            if call.reason is None:
                assert call.period is not None
                assert call.feature is not None
                key = call.ledger_key()
                keys[key] = call.period.end
                if call.feature.exact_in(call.period):
                    assert call.account is not None
                    counted[key] = CountedFeature.of(call.account.sources, call.feature, call.period)
        # What has expired stands in nobody's way, whether or not anybody has written that down.
        locked, book = await CreditBook.lock(transaction, keys, counted.values(), self._now)
        doubtful = [call for call in self.calls if call.doubtful]
        if doubtful:
            # Under the counters' locks, so that a lost attempt that still runs over there has ended by now.
            self._written = await transaction.find_entries(
                [(c.increment.tenant_id, c.increment.account_id, c.entry_id, c.recorded_time) for c in doubtful]
            )
        found = await transaction.find_requests(
            [
                (call.increment.tenant_id, call.increment.account_id, call.increment.request_id)
                for call in self.calls
                if call.increment.request_id
            ]
        )
        rows = _Rows()
        for item in self._items:
            members = item.calls if isinstance(item, AtomicSet) else [item]
            if self._replay(members, found):
                continue
            for call, reason in zip(members, _decide(members, locked, book), strict=True):
                self.outcomes.append((call, self._answer(call, reason, locked, book, rows)))
        await transaction.write(
            counters=locked,
            entries=rows.entries,
            requests=rows.requests,
            denials=rows.denials,
            announcements=rows.announcements,
        )
        await book.write()
        self.entries_written = len(rows.entries)
        self.states = {key: counter.state() for key, counter in locked.items()}

    def _answer(
        self,
        call: IncrementCall,
        reason: Reason,
        locked: dict[CounterKey, LockedCounter],
        book: CreditBook,
        rows: _Rows,
    ) -> IncrementAnswer:
        """Count the call, or note its denial; return what it is told."""
        answers = self._answers
        key = call.ledger_key() if call.reason is None else None
        counter = locked[key] if key is not None else None
        account = book.account(key) if key is not None else None
        limit = call.feature.plain.effective_limit if call.feature is not None else 0
        if account is not None:
            assert call.feature is not None
            call.feature = call.feature.with_limit(account.limit_quantity)
        peak = 0
        if reason.allows:
            assert key is not None
            assert counter is not None
            peak = counter.peak or 0
            paid_by = None
            if account is not None:
                payment = account.pay(call.increment.quantity)
                account.burn(payment)
                paid_by = credits_json(payment)
            rows.announcements += _step(call, key, counter, limit)
            rows.entries.append(_exact_entry(call, key, counter.used, paid_by))
            answer = answers.allowed(call, used_after=counter.used, held=counter.reserved, peak=peak)
        else:
            used, held = (counter.used, counter.reserved) if counter is not None else (0, 0)
            if call.account is not None:
                rows.denials.append(answers.denial_row(call, reason, used, _recorded_time(call)))
            answer = answers.denial(call, reason, used=used, held=held)
        if call.increment.request_id:
            rows.requests.append(_request_row(call, answer, peak))
        return answer

    def _replay(self, members: list[IncrementCall], found: dict[tuple[TenantId, AccountId, str], Any]) -> bool:
        """Answer calls that were decided before; False when they are new."""
        if all(call.entry_id in self._written for call in members):
            for call in members:
                self.outcomes.append((call, self._answers.allowed(call, used_after=self._written[call.entry_id])))
            return True
        rows = [found.get(call.request_key) if call.increment.request_id else None for call in members]
        if not any(rows):
            return False
        for call, row in zip(members, rows, strict=True):
            if row is None or row["fingerprint"] != call.fingerprint:
                # A set of which a part was decided in another request is not the same request: it has one fate.
                error = RequestIdReused(call.increment.request_id)
                self.outcomes.extend((member, error) for member in members)
                return True
        for call, row in zip(members, rows, strict=True):
            assert row is not None
            self.outcomes.append((call, self._answers.replay(call, row, replayed=not _wrote(call, row))))
        return True


def _decide(members: list[IncrementCall], locked: dict[CounterKey, LockedCounter], book: CreditBook) -> list[Reason]:
    """Decide calls in order against locked totals; several members are one atomic set."""
    tentative: dict[CounterKey, int] = {}
    burned: list[tuple[CounterAccount, Payment]] = []
    reasons: list[Reason] = []
    for call in members:
        if call.reason is not None:
            reasons.append(call.reason)
            continue
        key, quantity = call.ledger_key(), call.increment.quantity
        assert call.feature is not None
        counter, ahead = locked[key], tentative.get(key, 0)
        account = book.account(key)
        if account is not None:
            payment = account.plan(quantity, ahead=ahead)
            fit = payment is not None
            if payment is not None:
                account.burn(payment)
                burned.append((account, payment))
        else:
            limit = call.feature.effective_limit
            fit = fits(used=counter.used + ahead, quantity=quantity, limit=limit, reserved=counter.reserved)
        if fit:
            tentative[key] = ahead + quantity
            reasons.append(Reason.OK)
        else:
            reasons.append(Reason.BELOW_ZERO if quantity < 0 else Reason.EXHAUSTED)
    # Only tried: what is counted is burned for good when its turn comes.
    for account, payment in reversed(burned):
        account.unburn(payment)
    if all(reason.allows for reason in reasons):
        return reasons
    return [Reason.ATOMIC_BATCH if reason.allows else reason for reason in reasons]


def _step(call: IncrementCall, key: CounterKey, counter: LockedCounter, limit: int) -> list[UsageAnnouncement]:
    feature, account, period = call.feature, call.account, call.period
    assert feature is not None
    assert account is not None
    assert period is not None
    return step(
        key,
        counter,
        call.increment.quantity,
        kind=feature.entitlement.kind,
        limit=limit,
        told_limit=feature.limit,
        marks=feature.marks,
        plan_key=feature.entitlement.plan_key,
        revision=account.revision,
        entry_id=call.entry_id,
        period_end=period.end,
        at=_recorded_time(call),
    )


def _exact_entry(call: IncrementCall, key: CounterKey, used_after: int, paid_by: str | None) -> ExactEntry:
    increment, feature, period = call.increment, call.feature, call.period
    assert feature is not None
    assert period is not None
    return ExactEntry(
        key=key,
        period_end=period.end,
        entry_id=call.entry_id,
        recorded_time=_recorded_time(call),
        quantity=increment.quantity,
        used_after=used_after,
        limit=feature.limit,
        event_time=increment.event_time,
        request_id=increment.request_id or None,
        dimensions=dimensions_json(increment),
        plan_key=feature.entitlement.plan_key,
        credits=paid_by,
    )


def _request_row(call: IncrementCall, answer: IncrementAnswer, peak: int) -> RequestRow:
    increment = call.increment
    return RequestRow(
        tenant_id=increment.tenant_id,
        account_id=increment.account_id,
        request_id=increment.request_id,
        fingerprint=call.fingerprint,
        reason=int(answer.reason),
        entry_id=answer.entry_id or None,
        quantity=increment.quantity,
        used_quantity=answer.used_quantity,
        limit_quantity=answer.limit_quantity,
        thresholds=thresholds_text(call, peak),
        reset_time=answer.reset_time,
        plan_key=answer.plan_key,
        revision=answer.revision,
        recorded_time=_recorded_time(call),
    )


def _wrote(call: IncrementCall, row: Any) -> bool:
    """Tell whether the request's row was written by a lost attempt of this very call."""
    return call.doubtful and row["recorded_time"] == call.recorded_time and row["entry_id"] in (None, call.entry_id)


def _recorded_time(call: IncrementCall) -> datetime:
    assert call.recorded_time is not None
    return call.recorded_time
