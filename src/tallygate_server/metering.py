"""Counting: the Increment use case.

    increment -> hold (one script for all calls of this event-loop tick)
              -> group commit (one statement for all waiting calls)
              -> settle (one script, on the wire before the answers) -> answer

Redis decides what is worth a commit; Postgres has the last word on every limit. A call that Redis cannot
decide (counter unknown there, Redis away, only holds in the way) goes to Postgres without a hold.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

import structlog

from tallygate_server.clock import Clock
from tallygate_server.counters.connection import RedisUnavailable
from tallygate_server.counters.counters import (
    EXHAUSTED,
    HELD,
    MISSING,
    STALE,
    CounterHold,
    Counters,
    HoldReply,
    Settlement,
)
from tallygate_server.domain.call import Increment, IncrementAnswer
from tallygate_server.domain.catalog import FeatureKind
from tallygate_server.domain.entitlement import AccountState, Reason, allowed_reason, decide
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.limits import LIMIT_UNLIMITED
from tallygate_server.domain.period import Period
from tallygate_server.domain.usage import fits, threshold_percent_crossed
from tallygate_server.errors import (
    FeatureNotMetered,
    OutcomeUnknown,
    Overloaded,
    RequestIdReused,
    StoreUnavailable,
    TallygateError,
)
from tallygate_server.hot_accounts import HotAccount, HotAccounts, HotFeature, Loaded, counter_ttl_ms
from tallygate_server.storage.ledger import (
    CounterChange,
    CounterKey,
    CounterState,
    DenialRow,
    DuplicateRow,
    EntryRow,
    ExactEntry,
    ExactTransaction,
    Ledger,
    LedgerDown,
    LedgerLost,
    RequestRow,
    entry_ids,
)
from tallygate_server.telemetry import metrics
from tallygate_server.tenants import TenantDirectory

log = structlog.get_logger(__name__)

RequestKey = tuple[TenantId, AccountId, str]
OnAnswer = Callable[[IncrementAnswer | TallygateError], None]

RECENT_REQUESTS_MAX: Final = 100_000
DENIALS_WAITING_MAX: Final = 20_000
DENIALS_PER_WRITE_MAX: Final = 1_000
_DENIAL_INTERVAL_SECONDS: Final = 0.05
_EXACT_BATCH_MAX: Final = 256
_EXACT_ATTEMPTS_MAX: Final = 5


class _HoldBatch:
    """The holds of one tick, until all of them are settled."""

    __slots__ = ("groups", "id")

    def __init__(self, batch_id: str) -> None:
        self.id = batch_id
        self.groups = 0


class _HoldGroup:
    """One batch's hold on one counter; ends when the last of its calls is settled."""

    __slots__ = ("batch", "calls")

    def __init__(self, batch: _HoldBatch) -> None:
        self.batch = batch
        self.calls = 0


class _Call:
    """One increment on its way."""

    __slots__ = (
        "account",
        "answered",
        "atomic_set",
        "counter_key",
        "done",
        "entry_id",
        "exact",
        "feature",
        "fingerprint",
        "finished",
        "followers",
        "fresh",
        "hold",
        "increment",
        "period",
        "reason",
    )

    def __init__(self, increment: Increment, done: OnAnswer) -> None:
        self.increment = increment
        self.done = done
        self.account: HotAccount | None = None
        self.feature: HotFeature | None = None
        self.period: Period | None = None
        self.counter_key = ""
        self.fresh = False
        self.exact = False
        self.hold: _HoldGroup | None = None
        self.reason: Reason | None = None
        self.answered = False
        """The caller has heard; an accepted call is then still on its way to Postgres."""
        self.finished = False
        self.entry_id = 0
        self.fingerprint = 0
        self.followers: list[tuple[Increment, OnAnswer]] | None = None
        self.atomic_set: _AtomicSet | None = None

    @property
    def request_key(self) -> RequestKey:
        increment = self.increment
        return (increment.tenant_id, increment.account_id, increment.request_id)

    def ledger_key(self) -> CounterKey:
        increment, period = self.increment, self.period
        assert period is not None
        return CounterKey(
            increment.tenant_id, increment.account_id, increment.feature_key, period.kind.value, period.start
        )


class _AtomicSet:
    """Calls that are counted all or not at all."""

    __slots__ = ("calls", "waiting")

    def __init__(self, calls: list[_Call]) -> None:
        self.calls = calls
        self.waiting = len(calls)
        """Calls whose account is not validated yet."""


class Meter:
    """Counts increments exactly, whatever fails meanwhile."""

    def __init__(
        self,
        *,
        accounts: HotAccounts,
        counters: Counters,
        ledger: Ledger,
        tenants: TenantDirectory,
        clock: Clock,
        server_id: str,
        hold_ttl_ms: int,
        commit_batch_max: int,
        commit_queue_max: int,
        commit_timeout_ms: int,
        accepted_queue_max: int,
    ) -> None:
        """Wire the meter; `start` runs its loops."""
        self._accounts = accounts
        self._counters = counters
        self._ledger = ledger
        self._tenants = tenants
        self._clock = clock
        self._server_id = server_id
        self._hold_ttl_ms = hold_ttl_ms
        self._commit_batch_max = commit_batch_max
        self._commit_queue_max = commit_queue_max
        self._commit_timeout_seconds = commit_timeout_ms / 1000
        self._accepted_queue_max = accepted_queue_max
        self._loop = asyncio.get_running_loop()
        self._next_entry_id = entry_ids(ledger.node, clock.now_ms)
        self._next_batch = 0
        self._arrived: list[_Call] = []
        self._fast: deque[_Call] = deque()
        self._exact: deque[_Call | _AtomicSet] = deque()
        self._denials: deque[DenialRow] = deque()
        self._fast_wakes = asyncio.Event()
        self._exact_wakes = asyncio.Event()
        self._open_requests: dict[RequestKey, _Call] = {}
        self._recent_requests: dict[int, None] = {}
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Run the commit loops."""
        self._tasks = [
            asyncio.create_task(self._commit_fast(), name="commit-fast"),
            asyncio.create_task(self._commit_exact(), name="commit-exact"),
            asyncio.create_task(self._write_denials(), name="write-denials"),
        ]

    async def close(self, timeout_seconds: float = 5.0) -> None:
        """Finish what is in flight, within the time, then stop."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._idle.wait()
                while self._denials and self._ledger.up:
                    await self._flush_denials()
        except (TimeoutError, LedgerDown):
            log.warning("meter_closed_with_work_left", calls=self._in_flight, denials=len(self._denials))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ------------------------------------------------------------------ entry

    def increment_soon(self, increment: Increment, done: OnAnswer) -> None:
        """Count one increment; `done` is called on the loop with the answer or the error. Never raises."""
        call = _Call(increment, done)
        if increment.request_id and not self._join(call):
            return
        self._submit(call)

    async def increment(self, increment: Increment) -> IncrementAnswer:
        """Count one increment; raises TallygateError."""
        outcome = (await self.increment_many([increment], atomic=False))[0]
        if isinstance(outcome, TallygateError):
            raise outcome
        return outcome

    async def increment_many(
        self, increments: Sequence[Increment], *, atomic: bool
    ) -> list[IncrementAnswer | TallygateError]:
        """Count many; outcomes in order. With `atomic` all are counted or none."""
        if not increments:
            return []
        outcomes: list[IncrementAnswer | TallygateError | None] = [None] * len(increments)
        missing = len(increments)
        finished: asyncio.Future[None] = self._loop.create_future()

        def collect(index: int) -> OnAnswer:
            def done(outcome: IncrementAnswer | TallygateError) -> None:
                nonlocal missing
                outcomes[index] = outcome
                missing -= 1
                if missing == 0 and not finished.done():
                    finished.set_result(None)

            return done

        if atomic:
            self._submit_atomic([_Call(increment, collect(i)) for i, increment in enumerate(increments)])
        else:
            for i, increment in enumerate(increments):
                self.increment_soon(increment, collect(i))
        await finished
        return [outcome for outcome in outcomes if outcome is not None]

    def _join(self, call: _Call) -> bool:
        """Register a call with a request id; False when it now waits for the same request already in flight."""
        call.fingerprint = fingerprint(call.increment)
        key = call.request_key
        first = self._open_requests.get(key)
        if first is not None:
            if first.followers is None:
                first.followers = []
            first.followers.append((call.increment, call.done))
            return False
        self._open_requests[key] = call
        # Seen not long ago: most likely a retry, which the exact commit answers without spoiling a group.
        call.exact = hash(key) in self._recent_requests
        return True

    def _submit(self, call: _Call) -> None:
        self._in_flight += 1
        if self._in_flight == 1:
            self._idle.clear()
        if self._in_flight > self._commit_queue_max:
            self._finish(call, Overloaded("too many increments are waiting"))
            return
        if call.increment.accepted and self._in_flight > self._accepted_queue_max:
            self._finish(call, Overloaded("too many accepted increments are waiting to be committed"))
            return
        self._arrive(call)

    def _submit_atomic(self, calls: list[_Call]) -> None:
        requests = [call.request_key for call in calls if call.increment.request_id]
        doubled = len(set(requests)) < len(requests)
        busy = any(key in self._open_requests for key in requests)
        atomic_set = _AtomicSet(calls)
        for call in calls:
            call.atomic_set = atomic_set
            call.exact = True
            self._in_flight += 1
            self._idle.clear()
        if doubled or busy or self._in_flight > self._commit_queue_max:
            for call in calls:
                self._finish(
                    call,
                    RequestIdReused(call.increment.request_id)
                    if doubled
                    else Overloaded("another call with one of these request ids is in flight"),
                )
            return
        for call in calls:
            if call.increment.request_id:
                call.fingerprint = fingerprint(call.increment)
                self._open_requests[call.request_key] = call
            self._arrive(call)

    def _arrive(self, call: _Call) -> None:
        if not self._arrived:
            self._loop.call_soon(self._flush)
        self._arrived.append(call)

    # ------------------------------------------------------------------ one tick: validate and hold

    def _flush(self) -> None:
        calls, self._arrived = self._arrived, []
        now_ms = self._clock.now_ms()
        redis = self._counters.ready
        to_hold: list[_Call] = []
        to_validate: list[_Call] = []
        for call in calls:
            increment = call.increment
            account = call.account or self._accounts.cached(increment.tenant_id, increment.account_id)
            if account is None or not (redis or call.fresh):
                self._load(call, ask_redis=redis)
                continue
            call.account = account
            if not self._place(call, account, now_ms):
                to_validate.append(call)
            else:
                to_hold.append(call)
        if not redis:
            for call in to_validate:
                self._proceed(call)
            for call in to_hold:
                self._to_postgres(call)
            return
        if to_hold:
            self._hold(to_hold, now_ms)
        if to_validate:
            self._validate(to_validate)

    def _place(self, call: _Call, account: HotAccount, now_ms: int) -> bool:
        """Find the call's counter; False when it takes no hold (denied by the ladder, or decided in Postgres)."""
        increment = call.increment
        feature = account.feature(increment.feature_key, now_ms)
        call.feature = feature
        call.reason = None
        call.period = None
        if feature is None or not feature.metered or account.sources.state is not AccountState.ACTIVE:
            return False
        if increment.event_time is None:
            call.period = feature.period
            call.counter_key = feature.counter_key
        else:
            call.period = account.period_at(feature, increment.event_time)
            call.counter_key = account.counter_key(feature, call.period)
        if increment.request_id and not feature.hard:
            # Whether a soft limit was passed is part of the recorded answer: only the exact commit knows it.
            call.exact = True
        return not call.exact and increment.quantity > 0

    def _load(self, call: _Call, *, ask_redis: bool) -> None:
        increment = call.increment

        def on_loaded(loaded: Loaded | TallygateError) -> None:
            if isinstance(loaded, TallygateError):
                self._fail(call, loaded)
            elif loaded.account is None:
                self._deny_without_account(call)
            else:
                call.account = loaded.account
                call.fresh = loaded.fresh
                if self._tenants.last_known(increment.tenant_id) is None:
                    self._spawn(self._learn_tenant(call))
                else:
                    self._arrive(call)

        self._accounts.load_soon(increment.tenant_id, increment.account_id, on_loaded, ask_redis=ask_redis)

    async def _learn_tenant(self, call: _Call) -> None:
        """Make the tenant known before its account goes on: a denial shows the tenant's upgrade link."""
        try:
            await self._tenants.get(call.increment.tenant_id)
        except TallygateError as error:
            self._fail(call, error)
        else:
            self._arrive(call)

    def _hold(self, calls: list[_Call], now_ms: int) -> None:
        batch = _HoldBatch(f"{self._server_id}:{self._next_batch}")
        self._next_batch += 1
        account_index: dict[int, int] = {}
        accounts: list[tuple[str, str]] = []
        groups: dict[tuple[int, str, int], tuple[CounterHold, list[_Call]]] = {}
        for call in calls:
            account, feature = call.account, call.feature
            assert account is not None
            assert feature is not None
            index = account_index.get(id(account))
            if index is None:
                accounts.append((account.key, "*" if call.fresh else account.revision_text))
                index = account_index[id(account)] = len(accounts)
            group_key = (index, call.counter_key, feature.limit)
            group = groups.get(group_key)
            if group is None:
                hold = CounterHold(index, call.counter_key, feature.limit, feature.hard, [])
                group = groups[group_key] = (hold, [])
            group[0].quantities.append(call.increment.quantity)
            group[1].append(call)
        listed = list(groups.values())
        self._counters.hold_soon(
            batch_id=batch.id,
            deadline_ms=now_ms + self._hold_ttl_ms,
            accounts=accounts,
            counters=[hold for hold, _ in listed],
            on_reply=lambda reply: self._on_held(batch, listed, reply),
        )

    def _on_held(
        self, batch: _HoldBatch, groups: list[tuple[CounterHold, list[_Call]]], reply: HoldReply | Exception
    ) -> None:
        if isinstance(reply, Exception):
            # Redis broke, or refused: the holds may or may not be there; the sweeper knows how to end them.
            metrics.fallback("hold_without_redis")
            if not isinstance(reply, RedisUnavailable):
                log.error("hold_refused", error=str(reply))
            for _, calls in groups:
                for call in calls:
                    if call.fresh:
                        self._to_postgres(call)
                    else:
                        self._load(call, ask_redis=False)
            return
        for (_, calls), result in zip(groups, reply, strict=True):
            if result == STALE:
                for call in calls:
                    self._load(call, ask_redis=True)
            elif result == MISSING:
                for call in calls:
                    self._to_postgres(call)
            else:
                self._on_group_held(batch, calls, result)

    def _on_group_held(self, batch: _HoldBatch, calls: list[_Call], result: bytes | list[bytes]) -> None:
        committed, held, codes = int(result[0]), int(result[1]), result[2]
        assert isinstance(codes, bytes)
        group: _HoldGroup | None = None
        for call, code in zip(calls, codes, strict=True):
            if code == HELD:
                if group is None:
                    group = _HoldGroup(batch)
                    batch.groups += 1
                group.calls += 1
                call.hold = group
                held += call.increment.quantity
                self._to_postgres(call)
                if call.increment.accepted:
                    self._answer_accepted(call, committed, held)
            elif code == EXHAUSTED and call.feature is not None and call.feature.entitlement.kind is FeatureKind.COUNTER:
                # What is committed only grows within a period: final.
                self._deny(call, Reason.EXHAUSTED, used=committed, held=held)
            else:
                metrics.fallback("contended")
                self._to_postgres(call)

    def _validate(self, calls: list[_Call]) -> None:
        """Compare revisions for calls that take no hold."""
        index: dict[str, int] = {}
        for call in calls:
            assert call.account is not None
            index.setdefault(call.account.key, len(index))

        def on_read(reply: list[bytes | None] | Exception) -> None:
            for call in calls:
                account = call.account
                assert account is not None
                if call.fresh or (
                    not isinstance(reply, Exception) and reply[index[account.key]] == account.revision_bytes
                ):
                    self._proceed(call)
                else:
                    self._load(call, ask_redis=not isinstance(reply, Exception))

        self._counters.read_soon(list(index), [], on_read)

    def _proceed(self, call: _Call) -> None:
        """Go on with a validated call that takes no hold."""
        account, feature = call.account, call.feature
        assert account is not None
        increment = call.increment
        if call.period is not None:
            self._to_postgres(call)
            return
        kind = feature.entitlement.kind if feature is not None else None
        if kind is not None and not kind.metered:
            self._fail(call, FeatureNotMetered(increment.feature_key, kind.value))
            return
        if feature is not None:
            self._deny_by_ladder(call, feature_known=True)
            return
        # No source mentions the feature: only the catalog knows whether it exists at all.
        tenant = self._tenants.last_known(increment.tenant_id)
        if tenant is not None and increment.feature_key in tenant.features:
            self._proceed_unmentioned(call, tenant.features[increment.feature_key].kind)
        else:
            self._spawn(self._ask_catalog(call))

    async def _ask_catalog(self, call: _Call) -> None:
        try:
            tenant = await self._tenants.refresh(call.increment.tenant_id)
        except TallygateError as error:
            self._fail(call, error)
            return
        feature = tenant.features.get(call.increment.feature_key)
        if feature is None:
            self._deny_by_ladder(call, feature_known=False)
        else:
            self._proceed_unmentioned(call, feature.kind)

    def _proceed_unmentioned(self, call: _Call, kind: FeatureKind) -> None:
        if kind.metered:
            self._deny_by_ladder(call, feature_known=True)
        else:
            self._fail(call, FeatureNotMetered(call.increment.feature_key, kind.value))

    def _deny_by_ladder(self, call: _Call, *, feature_known: bool) -> None:
        assert call.account is not None
        reason = decide(
            feature_known=feature_known,
            account_state=call.account.sources.state,
            entitlement=call.feature.entitlement if call.feature is not None else None,
            quantity=call.increment.quantity,
            used=0,
            held=0,
        )
        self._deny(call, reason, used=0, held=0)

    def _deny_without_account(self, call: _Call) -> None:
        call.account = call.feature = call.period = None
        self._deny(call, Reason.ACCOUNT_NOT_FOUND, used=0, held=0)

    def _spawn(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)

    # ------------------------------------------------------------------ answers

    def _to_postgres(self, call: _Call) -> None:
        if call.atomic_set is not None:
            self._validated_in_set(call)
            return
        if not self._ledger.up and not (call.increment.accepted and call.hold is not None):
            self._fail(call, StoreUnavailable("usage cannot be recorded just now"))
            return
        if call.exact or call.increment.quantity < 0:
            self._exact.append(call)
            self._exact_wakes.set()
        else:
            self._fast.append(call)
            self._fast_wakes.set()

    def _validated_in_set(self, call: _Call) -> None:
        atomic_set = call.atomic_set
        assert atomic_set is not None
        if call.answered:
            return
        atomic_set.waiting -= 1
        if atomic_set.waiting == 0:
            self._exact.append(atomic_set)
            self._exact_wakes.set()

    def _deny(self, call: _Call, reason: Reason, *, used: int, held: int) -> None:
        """Answer a denial; with a request id only after it is recorded, so that a retry hears the same."""
        # Postgres looks again at an exhausted counter: its total is part of the recorded answer.
        call.reason = None if reason is Reason.EXHAUSTED else reason
        if call.atomic_set is not None or call.increment.request_id:
            call.exact = True
            self._to_postgres(call)
            return
        self._log_denial(call, reason, used)
        self._finish(call, self.denial(call, reason, used=used, held=held))

    def denial(self, call: _Call, reason: Reason, *, used: int, held: int) -> IncrementAnswer:
        increment, account, feature = call.increment, call.account, call.feature
        entitlement = feature.entitlement if feature is not None else None
        metered = entitlement is not None and entitlement.denied is None
        return IncrementAnswer(
            reason=reason,
            revision=account.revision if account is not None else 0,
            feature_kind=entitlement.kind if entitlement is not None else None,
            limit_quantity=feature.limit if metered and feature is not None else 0,
            used_quantity=used,
            held_quantity=held,
            reset_time=call.period.end if call.period is not None else None,
            grace_end_time=entitlement.grace_end_time if entitlement is not None else None,
            plan_key=entitlement.plan_key if entitlement is not None else "",
            upgrade_url=self.upgrade_link(increment),
        )

    def upgrade_link(self, increment: Increment) -> str:
        """Return where the account can get more of the feature; empty when the tenant has no such place."""
        tenant = self._tenants.last_known(increment.tenant_id)
        if tenant is None:
            return ""
        return tenant.settings.upgrade_link(increment.account_id, increment.feature_key)

    def _log_denial(self, call: _Call, reason: Reason, used: int) -> None:
        if call.account is None:
            return
        if len(self._denials) >= DENIALS_WAITING_MAX:
            metrics.denial_unrecorded()
            return
        self._denials.append(self.denial_row(call, reason, used, self._clock.now()))

    def denial_row(self, call: _Call, reason: Reason, used: int, recorded_time: datetime) -> DenialRow:
        increment, feature = call.increment, call.feature
        return DenialRow(
            tenant_id=increment.tenant_id,
            account_id=increment.account_id,
            entry_id=self._next_entry_id(),
            recorded_time=recorded_time,
            feature_key=increment.feature_key,
            quantity=increment.quantity,
            reason=int(reason),
            used_quantity=used,
            limit_quantity=feature.limit if feature is not None and feature.entitlement.denied is None else 0,
            event_time=increment.event_time,
            request_id=increment.request_id or None,
        )

    def allowed(self, call: _Call, *, used_after: int, held: int = 0) -> IncrementAnswer:
        feature, account, increment = call.feature, call.account, call.increment
        assert feature is not None
        assert account is not None
        entitlement = feature.entitlement
        limit = feature.limit
        reason = allowed_reason(entitlement)
        if limit != LIMIT_UNLIMITED and used_after > limit and not feature.hard:
            reason = Reason.OVERAGE
        threshold = 0
        if entitlement.thresholds_percent and increment.quantity > 0:
            threshold = threshold_percent_crossed(
                used_before=used_after - increment.quantity,
                used_after=used_after,
                limit=limit,
                thresholds=entitlement.thresholds_percent,
            )
        return IncrementAnswer(
            reason=reason,
            revision=account.revision,
            feature_kind=entitlement.kind,
            limit_quantity=limit,
            used_quantity=used_after,
            held_quantity=held,
            reset_time=call.period.end if call.period is not None else None,
            threshold_percent=threshold,
            grace_end_time=entitlement.grace_end_time,
            plan_key=entitlement.plan_key,
            entry_id=call.entry_id,
        )

    def _answer_accepted(self, call: _Call, committed: int, held: int) -> None:
        call.entry_id = self._next_entry_id()
        answer = self.allowed(call, used_after=committed + held)
        call.answered = True
        metrics.increment(answer)
        call.done(answer)

    def _fail(self, call: _Call, error: TallygateError) -> None:
        """End a call, and with it its whole atomic set, without having counted anything."""
        if call.atomic_set is not None:
            for member in call.atomic_set.calls:
                if not member.answered:
                    self._finish(member, error)
            return
        self._finish(call, error)

    def _finish(self, call: _Call, outcome: IncrementAnswer | TallygateError) -> None:
        """Answer the call and those that joined it; the one place where a call leaves the meter."""
        if call.finished:
            return
        call.finished = True
        self._in_flight -= 1
        if self._in_flight == 0:
            self._idle.set()
        increment = call.increment
        if increment.request_id and self._open_requests.get(call.request_key) is call:
            del self._open_requests[call.request_key]
            if isinstance(outcome, IncrementAnswer):
                self._remember(call.request_key)
        if not call.answered:
            call.answered = True
            metrics.increment(outcome)
            call.done(outcome)
        for follower, done in call.followers or ():
            done(_replay_for_follower(follower, call, outcome))

    def _remember(self, request_key: RequestKey) -> None:
        self._recent_requests[hash(request_key)] = None
        if len(self._recent_requests) > RECENT_REQUESTS_MAX:
            del self._recent_requests[next(iter(self._recent_requests))]

    # ------------------------------------------------------------------ the group commit

    async def _commit_fast(self) -> None:
        queue = self._fast
        while True:
            if not queue:
                self._fast_wakes.clear()
                await self._fast_wakes.wait()
            calls = [queue.popleft() for _ in range(min(len(queue), self._commit_batch_max))]
            try:
                await self._commit_group(calls)
            except asyncio.CancelledError:
                raise
            except Exception:
                log.exception("group_commit_failed")
                for call in calls:
                    self._give_up(call, doubtful=True)

    async def _commit_group(self, calls: list[_Call]) -> None:
        recorded_time = self._clock.now()
        changes, entries, members = self._group(calls)
        deadline = self._loop.time() + self._commit_timeout_seconds
        doubtful = False
        while True:
            started = self._loop.time()
            try:
                states = await self._ledger.commit(recorded_time, changes, entries)
            except LedgerLost:
                doubtful = True
            except LedgerDown:
                pass
            except DuplicateRow:
                # Either a request id was used before, or our own doubtful attempt did commit.
                if not doubtful or not await self._recover(recorded_time, changes, members):
                    self._to_exact(calls)
                return
            else:
                self._on_committed(changes, members, states, self._loop.time() - started)
                return
            # Postgres is away. Who has been promised nothing is not kept waiting for long; what was accepted
            # stays until it is counted. A second attempt repeats the same entry ids, so it cannot count twice.
            self._fail_waiting()
            remaining = deadline - self._loop.time()
            if remaining <= 0:
                for call in calls:
                    if not call.answered:
                        self._give_up(call, doubtful=doubtful)
                calls = [call for call in calls if not call.finished]
                if not calls:
                    return
                changes, entries, members = self._group(calls)
                remaining = self._commit_timeout_seconds
            await self._ledger.wait_up(remaining)

    def _fail_waiting(self) -> None:
        """Turn away what waits behind a group while Postgres is down, but for what was accepted."""
        waiting = list(self._fast)
        self._fast.clear()
        for call in waiting:
            if call.answered:
                self._fast.append(call)
            else:
                self._give_up(call, doubtful=False)

    def _give_up(self, call: _Call, *, doubtful: bool) -> None:
        if doubtful:
            # Its hold stays until the sweeper has asked the ledger.
            self._fail(
                call, OutcomeUnknown("whether this call was counted is not known: retry with the same request_id")
            )
        else:
            self._release([call])
            self._fail(call, StoreUnavailable("usage cannot be recorded just now"))

    def _group(self, calls: list[_Call]) -> tuple[list[CounterChange], list[EntryRow], list[list[_Call]]]:
        """Lay a group out by counter, in lock order; return changes, entries and each change's calls."""
        by_key: dict[str, list[_Call]] = {}
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
            change = CounterChange(keys[i], first.period.end, first.feature.effective_limit)
            for call in members[i]:
                feature, account, increment = call.feature, call.account, call.increment
                assert feature is not None
                assert account is not None
                # Calls that were validated at different revisions may see different limits: the group keeps the
                # lowest, and whoever is refused by it gets a verdict of its own from the exact commit.
                change.limit = _lower_limit(change.limit, feature.effective_limit)
                change.total += increment.quantity
                if not call.entry_id:
                    call.entry_id = self._next_entry_id()
                entries.append(_entry_row(call, position, change.total))
            changes.append(change)
        return changes, entries, [members[i] for i in order]

    def _on_committed(
        self,
        changes: list[CounterChange],
        members: list[list[_Call]],
        states: list[CounterState | None],
        seconds: float,
    ) -> None:
        now_ms = self._clock.now_ms()
        settlements: list[Settlement] = []
        ended: list[str] = []
        answers: list[tuple[_Call, IncrementAnswer]] = []
        committed = 0
        for change, calls, state in zip(changes, members, states, strict=True):
            if state is None:
                self._to_exact(calls)
                continue
            used = state.used - change.total
            for call in calls:
                used += call.increment.quantity
                answers.append((call, self.allowed(call, used_after=used)))
            committed += len(calls)
            self._settle(settlements, ended, calls, state, now_ms)
        metrics.commit("fast", committed, seconds)
        self._send_settlements(settlements, ended)
        for call, answer in answers:
            self._finish(call, answer)

    def _settle(
        self,
        settlements: list[Settlement],
        ended: list[str],
        calls: Sequence[_Call],
        state: CounterState | None,
        now_ms: int,
    ) -> None:
        """Add what ends the holds of one counter's calls and carries its new total (None: only end the holds)."""
        first = calls[0]
        assert first.period is not None
        ttl_ms = counter_ttl_ms(first.period, now_ms)
        used, version = (state.used, state.version) if state is not None else (None, 0)
        batches: list[str] = []
        for call in calls:
            group, call.hold = call.hold, None
            if group is None:
                continue
            group.calls -= 1
            if group.calls == 0:
                batches.append(group.batch.id)
                group.batch.groups -= 1
                if group.batch.groups == 0:
                    ended.append(group.batch.id)
        if not batches and state is not None:
            batches.append("")
        settlements.extend(Settlement(first.counter_key, batch, used, version, ttl_ms) for batch in batches)

    def _send_settlements(self, settlements: list[Settlement], ended: list[str]) -> None:
        if settlements and self._counters.ready:
            self._counters.settle_soon(settlements, ended_batches=ended)
            # On the wire before the answers: who was answered finds the new total in Redis.
            self._counters.flush()

    async def _recover(
        self, recorded_time: datetime, changes: list[CounterChange], members: list[list[_Call]]
    ) -> bool:
        """After a doubtful commit: if its entries are in the ledger, answer from them. False when they are not."""
        try:
            written = await self._ledger.find_entries(
                recorded_time,
                [(c.increment.tenant_id, c.increment.account_id, c.entry_id) for calls in members for c in calls],
            )
            states = await self._ledger.read_counters([change.key for change in changes])
        except LedgerDown:
            return False
        if not written:
            return False
        metrics.fallback("commit_recovered")
        now_ms = self._clock.now_ms()
        settlements: list[Settlement] = []
        ended: list[str] = []
        answers: list[tuple[_Call, IncrementAnswer]] = []
        for change, calls in zip(changes, members, strict=True):
            if calls[0].entry_id not in written:
                self._to_exact(calls)
                continue
            self._settle(settlements, ended, calls, states.get(change.key), now_ms)
            answers += [(call, self.allowed(call, used_after=written[call.entry_id])) for call in calls]
        self._send_settlements(settlements, ended)
        for call, answer in answers:
            self._finish(call, answer)
        return True

    def _to_exact(self, calls: Sequence[_Call]) -> None:
        metrics.fallback("exact_commit", len(calls))
        self._exact.extend(calls)
        self._exact_wakes.set()

    def _release(self, calls: Sequence[_Call]) -> None:
        """End the holds of calls that were not counted."""
        settlements: list[Settlement] = []
        ended: list[str] = []
        now_ms = self._clock.now_ms()
        for call in calls:
            if call.hold is not None:
                self._settle(settlements, ended, [call], None, now_ms)
        self._send_settlements(settlements, ended)

    # ------------------------------------------------------------------ the exact commit

    async def _commit_exact(self) -> None:
        queue = self._exact
        while True:
            if not queue:
                self._exact_wakes.clear()
                await self._exact_wakes.wait()
            items: list[_Call | _AtomicSet] = []
            while queue and len(items) < _EXACT_BATCH_MAX:
                item = queue.popleft()
                # One set at a time beside single calls keeps transactions, and so lock times, bounded.
                items.append(item)
                if isinstance(item, _AtomicSet):
                    break
            try:
                await self._commit_items(items)
            except asyncio.CancelledError:
                raise
            except Exception:
                log.exception("exact_commit_failed")
                for call in _calls_of(items):
                    self._give_up(call, doubtful=True)

    async def _commit_items(self, items: list[_Call | _AtomicSet]) -> None:
        recorded_time = self._clock.now()
        calls = _calls_of(items)
        for call in calls:
            if not call.entry_id:
                call.entry_id = self._next_entry_id()
        deadline = self._loop.time() + self._commit_timeout_seconds
        doubtful = False
        attempts = 0
        while True:
            attempts += 1
            verdict = _Verdict(self, items, recorded_time)
            started = self._loop.time()
            try:
                if doubtful:
                    verdict.written = await self._ledger.find_entries(
                        recorded_time,
                        [(c.increment.tenant_id, c.increment.account_id, c.entry_id) for c in calls],
                    )
                async with self._ledger.exact() as transaction:
                    await verdict.reach(transaction)
                metrics.commit("exact", len(calls), self._loop.time() - started)
                self._on_verdict(verdict)
                return
            except DuplicateRow:
                # The same request id was committed meanwhile, on another counter: look again.
                if attempts >= _EXACT_ATTEMPTS_MAX:
                    raise
                continue
            except LedgerLost:
                doubtful = True
            except LedgerDown:
                pass
            remaining = deadline - self._loop.time()
            if remaining <= 0:
                for call in calls:
                    self._give_up(call, doubtful=doubtful)
                return
            await self._ledger.wait_up(remaining)

    def _on_verdict(self, verdict: _Verdict) -> None:
        now_ms = self._clock.now_ms()
        settlements: list[Settlement] = []
        ended: list[str] = []
        counted: dict[str, list[_Call]] = {}
        for call in verdict.calls:
            if call.period is not None:
                counted.setdefault(call.counter_key, []).append(call)
        for calls in counted.values():
            self._settle(settlements, ended, calls, verdict.states.get(calls[0].ledger_key()), now_ms)
        self._send_settlements(settlements, ended)
        for call, outcome in verdict.outcomes:
            if call.answered and isinstance(outcome, IncrementAnswer) and not outcome.reason.allows:
                # Accepted on the strength of a Redis that was lost since; the limit holds all the same.
                metrics.accepted_refused()
            self._finish(call, outcome)

    # ------------------------------------------------------------------ denials

    async def _write_denials(self) -> None:
        while True:
            await asyncio.sleep(_DENIAL_INTERVAL_SECONDS)
            try:
                while self._denials and self._ledger.up:
                    await self._flush_denials()
            except LedgerDown:
                continue

    async def _flush_denials(self) -> None:
        rows = [self._denials.popleft() for _ in range(min(len(self._denials), DENIALS_PER_WRITE_MAX))]
        try:
            await self._ledger.write_denials(rows)
        except LedgerDown:
            self._denials.extendleft(reversed(rows))
            raise


class _Verdict:
    """One exact commit: what Postgres says about each call, and what is written for it."""

    def __init__(self, meter: Meter, items: list[_Call | _AtomicSet], recorded_time: datetime) -> None:
        self._meter = meter
        self._items = items
        self._recorded_time = recorded_time
        self.calls = _calls_of(items)
        self.written: dict[int, int] = {}
        """Entries of our own earlier, doubtful attempt: used_after by entry id."""
        self.states: dict[CounterKey, CounterState] = {}
        self.outcomes: list[tuple[_Call, IncrementAnswer | TallygateError]] = []

    async def reach(self, transaction: ExactTransaction) -> None:
        """Lock, look, decide in order, write."""
        keys: dict[CounterKey, datetime | None] = {}
        for call in self.calls:
            if call.reason is None:
                assert call.period is not None
                keys[call.ledger_key()] = call.period.end
        locked = await transaction.lock_counters(sorted(keys.items(), key=lambda item: item[0])) if keys else {}
        found = await transaction.find_requests(
            [
                (call.increment.tenant_id, call.increment.account_id, call.increment.request_id)
                for call in self.calls
                if call.increment.request_id
            ]
        )
        totals = {key: state.used for key, state in locked.items()}
        limits: dict[CounterKey, int] = {}
        entries: list[ExactEntry] = []
        requests: list[RequestRow] = []
        denials: list[DenialRow] = []
        for item in self._items:
            members = item.calls if isinstance(item, _AtomicSet) else [item]
            if self._replay(members, found):
                continue
            for call, reason in zip(members, _decide(members, totals), strict=True):
                answer = self._answer(call, reason, totals, limits, entries, denials)
                self.outcomes.append((call, answer))
                if call.increment.request_id:
                    requests.append(_request_row(call, answer))
        await transaction.write(
            self._recorded_time,
            counters=[(key, totals[key], limits[key]) for key in sorted(limits)],
            entries=entries,
            requests=requests,
            denials=denials,
        )
        self.states = {
            key: CounterState(totals[key], state.version + (key in limits)) for key, state in locked.items()
        }

    def _answer(
        self,
        call: _Call,
        reason: Reason,
        totals: dict[CounterKey, int],
        limits: dict[CounterKey, int],
        entries: list[ExactEntry],
        denials: list[DenialRow],
    ) -> IncrementAnswer:
        meter = self._meter
        key = call.ledger_key() if call.reason is None else None
        used = totals[key] if key is not None else 0
        if not reason.allows:
            if call.account is not None:
                denials.append(meter.denial_row(call, reason, used, self._recorded_time))
            return meter.denial(call, reason, used=used, held=0)
        assert key is not None
        assert call.feature is not None
        used = totals[key] = used + call.increment.quantity
        limits[key] = call.feature.effective_limit
        entries.append(_exact_entry(call, key, used))
        return meter.allowed(call, used_after=used)

    def _replay(self, members: list[_Call], found: dict[tuple[TenantId, AccountId, str], Any]) -> bool:
        """Answer calls that were decided before; False when they are new."""
        known = [found.get(call.request_key) if call.increment.request_id else None for call in members]
        ours = [call.entry_id in self.written for call in members]
        if not any(known) and not any(ours):
            return False
        for call, row, mine in zip(members, known, ours, strict=True):
            if mine and row is None:
                self.outcomes.append((call, self._meter.allowed(call, used_after=self.written[call.entry_id])))
            elif row is None or row["fingerprint"] != call.fingerprint:
                # For a set: a part of it was decided in another request, so it is not the same request.
                self.outcomes.append((call, RequestIdReused(call.increment.request_id)))
            else:
                own = row["recorded_time"] == self._recorded_time and row["entry_id"] in (None, call.entry_id)
                answer = _replay_of_row(call, row, replayed=not own)
                if not answer.reason.allows:
                    answer.upgrade_url = self._meter.upgrade_link(call.increment)
                self.outcomes.append((call, answer))
        return True


def _decide(members: list[_Call], totals: dict[CounterKey, int]) -> list[Reason]:
    """Decide calls in order against locked totals; several members are one atomic set."""
    tentative: dict[CounterKey, int] = {}
    reasons: list[Reason] = []
    for call in members:
        if call.reason is not None:
            reasons.append(call.reason)
            continue
        key, quantity = call.ledger_key(), call.increment.quantity
        assert call.feature is not None
        used = tentative.get(key, totals[key])
        if fits(used=used, quantity=quantity, limit=call.feature.effective_limit):
            tentative[key] = used + quantity
            reasons.append(Reason.OK)
        else:
            reasons.append(Reason.BELOW_ZERO if quantity < 0 else Reason.EXHAUSTED)
    if all(reason.allows for reason in reasons):
        return reasons
    return [Reason.ATOMIC_BATCH if reason.allows else reason for reason in reasons]


def fingerprint(increment: Increment) -> int:
    """Return a 64-bit hash of what a request id stands for: feature, quantity, event time and dimensions."""
    event_time = increment.event_time.isoformat() if increment.event_time is not None else ""
    content = json.dumps(
        [increment.feature_key, increment.quantity, event_time, sorted(increment.dimensions.items())],
        separators=(",", ":"),
    )
    digest = hashlib.blake2b(content.encode(), digest_size=8).digest()
    value: int = struct.unpack(">q", digest)[0]
    return value


def _calls_of(items: Sequence[_Call | _AtomicSet]) -> list[_Call]:
    calls: list[_Call] = []
    for item in items:
        if isinstance(item, _AtomicSet):
            calls += item.calls
        else:
            calls.append(item)
    return calls


def _lower_limit(a: int, b: int) -> int:
    if a == b or b < 0:
        return a
    return b if a < 0 else min(a, b)


def _dimensions_json(increment: Increment) -> str | None:
    return json.dumps(increment.dimensions) if increment.dimensions else None


def _thresholds_text(call: _Call) -> str:
    if call.feature is None:
        return ""
    return ",".join(map(str, call.feature.entitlement.thresholds_percent))


def _entry_row(call: _Call, counter: int, prefix: int) -> EntryRow:
    increment, feature, account = call.increment, call.feature, call.account
    assert feature is not None
    assert account is not None
    entry = EntryRow(
        counter=counter,
        entry_id=call.entry_id,
        quantity=increment.quantity,
        prefix=prefix,
        event_time=increment.event_time,
        request_id=increment.request_id or None,
        fingerprint=call.fingerprint,
        dimensions=_dimensions_json(increment) if increment.dimensions else None,
        reason=0,
        thresholds="",
        plan_key="",
        revision=0,
    )
    if entry.request_id is not None:
        entry.reason = int(allowed_reason(feature.entitlement))
        entry.thresholds = _thresholds_text(call)
        entry.plan_key = feature.entitlement.plan_key
        entry.revision = account.revision
    return entry


def _exact_entry(call: _Call, key: CounterKey, used_after: int) -> ExactEntry:
    increment, feature = call.increment, call.feature
    assert feature is not None
    return ExactEntry(
        key=key,
        entry_id=call.entry_id,
        quantity=increment.quantity,
        used_after=used_after,
        limit=feature.limit,
        event_time=increment.event_time,
        request_id=increment.request_id or None,
        dimensions=_dimensions_json(increment),
    )


def _request_row(call: _Call, answer: IncrementAnswer) -> RequestRow:
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
        thresholds=_thresholds_text(call),
        reset_time=answer.reset_time,
        plan_key=answer.plan_key,
        revision=answer.revision,
    )


def _replay_of_row(call: _Call, row: Any, *, replayed: bool) -> IncrementAnswer:
    reason = Reason(row["reason"])
    threshold = 0
    if reason.allows and row["quantity"] > 0 and row["threshold_percents"]:
        threshold = threshold_percent_crossed(
            used_before=row["used_quantity"] - row["quantity"],
            used_after=row["used_quantity"],
            limit=row["limit_quantity"],
            thresholds=[int(percent) for percent in row["threshold_percents"].split(",")],
        )
    return IncrementAnswer(
        reason=reason,
        revision=row["revision"],
        feature_kind=call.feature.entitlement.kind if call.feature is not None else None,
        limit_quantity=row["limit_quantity"],
        used_quantity=row["used_quantity"],
        reset_time=row["reset_time"],
        threshold_percent=threshold,
        plan_key=row["plan_key"],
        replayed=replayed,
        entry_id=row["entry_id"] or 0,
    )


def _replay_for_follower(
    increment: Increment, first: _Call, outcome: IncrementAnswer | TallygateError
) -> IncrementAnswer | TallygateError:
    """Return what a call hears that came while the same request was in flight."""
    if fingerprint(increment) != first.fingerprint:
        return RequestIdReused(increment.request_id)
    if isinstance(outcome, IncrementAnswer):
        return replace(outcome, replayed=True)
    return outcome
