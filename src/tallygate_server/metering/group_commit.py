"""The group commit: one statement counts everything that waits.

What a single statement cannot settle (a limit within reach, a request id seen before) goes to the exact
commit, call by call.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from itertools import chain

import structlog

from tallygate_server.clock import Clock
from tallygate_server.counters.counters import Counters
from tallygate_server.domain.call import IncrementAnswer
from tallygate_server.domain.entitlement import allowed_reason
from tallygate_server.metering.answers import Answers
from tallygate_server.metering.calls import CallEnd, IncrementCall, dimensions_json, thresholds_text
from tallygate_server.metering.exact_commit import ExactCommit
from tallygate_server.metering.settling import Settling
from tallygate_server.storage.ledger import (
    CounterChange,
    CounterState,
    DuplicateRow,
    EntryDetails,
    EntryRow,
    GroupRefused,
    Ledger,
    LedgerDown,
    LedgerLost,
)
from tallygate_server.telemetry import metrics

log = structlog.get_logger(__name__)


class GroupCommit:
    """Commits increments of counters that only go up, as many at a time as are waiting."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        counters: Counters,
        clock: Clock,
        answers: Answers,
        exact: ExactCommit,
        end: CallEnd,
        batch_max: int,
        timeout_ms: int,
    ) -> None:
        """Commit at most `batch_max` calls at a time; give up on Postgres after the timeout."""
        self._ledger = ledger
        self._counters = counters
        self._clock = clock
        self._answers = answers
        self._exact = exact
        self._end = end
        self._batch_max = batch_max
        self._timeout_seconds = timeout_ms / 1000
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[IncrementCall] = deque()
        self._wakes = asyncio.Event()

    def __len__(self) -> int:
        """Return how many calls wait."""
        return len(self._waiting)

    def take(self, call: IncrementCall) -> None:
        """Commit the call with the next group."""
        self._waiting.append(call)
        self._wakes.set()

    async def run(self) -> None:
        """Commit group after group, until cancelled."""
        queue = self._waiting
        while True:
            if not queue:
                self._wakes.clear()
                await self._wakes.wait()
            calls = [queue.popleft() for _ in range(min(len(queue), self._batch_max))]
            try:
                await self._commit_group(calls)
            except asyncio.CancelledError:
                raise
            except Exception:
                log.exception("group_commit_failed")
                for call in calls:
                    call.doubtful = True
                    self._end.give_up(call)

    async def _commit_group(self, calls: list[IncrementCall]) -> None:
        recorded_time = calls[0].recorded_time or self._clock.now()
        changes, entries, members = self._group(calls, recorded_time)
        deadline = self._loop.time() + self._timeout_seconds
        while True:
            started = self._loop.time()
            try:
                states = await self._ledger.commit(recorded_time, changes, entries)
            except LedgerLost:
                for call in calls:
                    call.doubtful = True
            except LedgerDown:
                pass
            except DuplicateRow:
                # Either a request id was used before, or our own doubtful attempt did commit.
                self._to_exact(calls)
                return
            except GroupRefused as error:
                # One call must not take the others with it: each is tried alone.
                if len(calls) == 1:
                    raise
                log.warning("group_refused", error=str(error), calls=len(calls))
                for call in calls:
                    await self._commit_alone(call)
                return
            else:
                # Behind the next group's statement: Postgres works on that while these are answered.
                self._loop.call_soon(self._answer, changes, members, states, self._loop.time() - started)
                return
            # Postgres is away. Who has been promised nothing is not kept waiting for long; what was accepted
            # stays until it is counted. A second attempt repeats the same entry ids, so it cannot count twice.
            self._fail_waiting()
            remaining = deadline - self._loop.time()
            if remaining <= 0:
                calls = self._keep_accepted(calls)
                if not calls:
                    return
                changes, entries, members = self._group(calls, recorded_time)
                remaining = self._timeout_seconds
            await self._ledger.wait_up(remaining)

    async def _commit_alone(self, call: IncrementCall) -> None:
        try:
            await self._commit_group([call])
        except GroupRefused:
            log.exception("call_refused")
            self._end.give_up(call)

    def _keep_accepted(self, calls: list[IncrementCall]) -> list[IncrementCall]:
        """Give up on calls that were promised nothing; return the others."""
        for call in calls:
            if call.answered:
                self._end.keep_waiting(call)
            else:
                self._end.give_up(call)
        return [call for call in calls if not call.finished]

    def _fail_waiting(self) -> None:
        """Turn away what waits behind a group while Postgres is down, but for what was accepted."""
        waiting = list(self._waiting)
        self._waiting.clear()
        self._waiting.extend(self._keep_accepted(waiting))

    def _group(
        self, calls: list[IncrementCall], recorded_time: datetime
    ) -> tuple[list[CounterChange], list[EntryRow], list[list[IncrementCall]]]:
        """Lay a group out by counter, in lock order; return changes, entries and each change's calls."""
        by_key: dict[str, list[IncrementCall]] = {}
        for call in calls:
            by_key.setdefault(call.counter_key, []).append(call)
        members = list(by_key.values())
        keys = [listed[0].ledger_key() for listed in members]
        order = sorted(range(len(members)), key=keys.__getitem__)
        changes: list[CounterChange] = []
        entries: list[EntryRow] = []
        for position, i in enumerate(order):
            first = members[i][0]
            assert first.period is not None
            assert first.feature is not None
            assert first.account is not None
            change = CounterChange(
                keys[i],
                first.period.end,
                first.feature.effective_limit,
                plan_key=first.feature.entitlement.plan_key,
                revision=first.account.revision,
                marks=first.feature.marks,
                told_limit=first.feature.limit,
            )
            for call in members[i]:
                feature, increment = call.feature, call.increment
                assert feature is not None
                # Calls that were validated at different revisions may see different limits: the group keeps the
                # lowest, and whoever is refused by it gets a verdict of its own from the exact commit.
                change.limit = _lower_limit(change.limit, feature.effective_limit)
                change.total += increment.quantity
                if not call.entry_id:
                    call.entry_id = self._answers.next_entry_id()
                call.recorded_time = recorded_time
                entries.append(
                    EntryRow(position, call.entry_id, increment.quantity, change.total, feature.limit, _details(call))
                )
            changes.append(change)
        return changes, entries, [members[i] for i in order]

    def _answer(
        self,
        changes: list[CounterChange],
        members: list[list[IncrementCall]],
        states: list[CounterState | None],
        seconds: float,
    ) -> None:
        try:
            self._on_committed(changes, members, states, seconds)
        except Exception:
            log.exception("group_answer_failed")
            for call in chain.from_iterable(members):
                self._end.give_up(call)

    def _on_committed(
        self,
        changes: list[CounterChange],
        members: list[list[IncrementCall]],
        states: list[CounterState | None],
        seconds: float,
    ) -> None:
        settling = Settling(self._counters, self._clock)
        answers: list[tuple[IncrementCall, IncrementAnswer]] = []
        committed = 0
        for change, calls, state in zip(changes, members, states, strict=True):
            if state is None:
                self._to_exact(calls)
                continue
            used = state.used - change.total
            for call in calls:
                used += call.increment.quantity
                answers.append((call, self._answers.allowed(call, used_after=used, held=state.reserved)))
            committed += len(calls)
            settling.add(calls, state)
        metrics.commit("fast", committed, seconds)
        settling.send()
        for call, answer in answers:
            self._end.finish(call, answer)

    def _to_exact(self, calls: Sequence[IncrementCall]) -> None:
        metrics.fallback("exact_commit", len(calls))
        for call in calls:
            self._exact.take(call)


def _lower_limit(a: int, b: int) -> int:
    if a == b or b < 0:
        return a
    return b if a < 0 else min(a, b)


def _details(call: IncrementCall) -> EntryDetails | None:
    increment, feature, account = call.increment, call.feature, call.account
    if not (increment.request_id or increment.dimensions or increment.event_time is not None):
        return None
    details = EntryDetails(event_time=increment.event_time, dimensions=dimensions_json(increment))
    if increment.request_id:
        assert feature is not None
        assert account is not None
        details.request_id = increment.request_id
        details.fingerprint = call.fingerprint
        details.reason = int(allowed_reason(feature.entitlement))
        details.thresholds = thresholds_text(call)
        details.plan_key = feature.entitlement.plan_key
        details.revision = account.revision
    return details
