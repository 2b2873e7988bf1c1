"""Counting: the Increment use case.

    increment -> hold (one script for all calls of this event-loop tick)
              -> group commit (one statement for all waiting calls)
              -> settle (one script, on the wire before the answers) -> answer

Redis decides what is worth a commit; Postgres has the last word on every limit. A call that Redis cannot
decide (counter unknown there, Redis away, only holds in the way) goes to Postgres without a hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Final

import structlog

from tallygate_server.clock import Clock
from tallygate_server.counters.connection import RedisUnavailable
from tallygate_server.counters.counters import (
    CONTENDED,
    EXHAUSTED,
    HELD,
    MISSING,
    STALE,
    CounterHold,
    Counters,
    HoldReply,
)
from tallygate_server.domain.call import Increment, IncrementAnswer
from tallygate_server.domain.catalog import FeatureKind
from tallygate_server.domain.entitlement import AccountState, Reason, decide
from tallygate_server.errors import (
    FeatureNotMetered,
    InvalidRequest,
    OutcomeUnknown,
    Overloaded,
    RequestIdReused,
    RequestInProgress,
    StoreUnavailable,
    TallygateError,
)
from tallygate_server.gathering import Gathering
from tallygate_server.hot_accounts import HotAccount, HotAccounts, Loaded
from tallygate_server.metering.answers import Answers, replay_for_follower
from tallygate_server.metering.calls import (
    AtomicSet,
    HoldBatch,
    HoldGroup,
    IncrementCall,
    OnAnswer,
    RequestKey,
    fingerprint,
)
from tallygate_server.metering.denial_log import DenialLog
from tallygate_server.metering.exact_commit import ExactCommit
from tallygate_server.metering.group_commit import GroupCommit
from tallygate_server.metering.settling import release
from tallygate_server.storage.ledger import Ledger, entry_ids
from tallygate_server.telemetry import metrics
from tallygate_server.tenants import TenantDirectory

log = structlog.get_logger(__name__)

CALLS_PER_SCRIPT_MAX: Final = 1_000
"""Bound on one batch of holds, so that Redis is never kept from others for long."""
CONTENDED_SECONDS_MAX: Final = 0.25
"""How long a call waits for the holds of others to end before Postgres decides."""
_CONTENDED_PAUSE_SECONDS: Final = 0.002
RECENT_REQUESTS_MAX: Final = 100_000
"""How many finished request ids are remembered, to send likely retries straight to the exact commit."""


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
        self._commit_queue_max = commit_queue_max
        self._accepted_queue_max = accepted_queue_max
        self._loop = asyncio.get_running_loop()
        self._next_batch = 0
        self._arrived: list[IncrementCall] = []
        self._holding = False
        """Whether holds are on their way: what arrives meanwhile goes with the next batch."""
        self._open_requests: dict[RequestKey, IncrementCall] = {}
        self._recent_requests: dict[int, None] = {}
        self._in_flight = 0
        self._accepted = 0
        """Calls that may be, or were, answered before they are committed."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._answers = Answers(tenants, clock, entry_ids(ledger.node, clock.now_ms))
        self._denials = DenialLog(ledger)
        self._exact = ExactCommit(
            ledger=ledger,
            counters=counters,
            clock=clock,
            answers=self._answers,
            end=self,
            timeout_ms=commit_timeout_ms,
        )
        self._group = GroupCommit(
            ledger=ledger,
            counters=counters,
            clock=clock,
            answers=self._answers,
            exact=self._exact,
            end=self,
            batch_max=commit_batch_max,
            timeout_ms=commit_timeout_ms,
        )

    @property
    def waiting(self) -> int:
        """How many increments wait for a commit."""
        return len(self._group) + len(self._exact)

    def next_entry_id(self) -> int:
        """Return an id for a line of the ledger that somebody else writes in this process; no other line has it."""
        return self._answers.next_entry_id()

    async def record_denials(self) -> None:
        """Write every denial that was answered so far by this process; raises LedgerDown."""
        await self._denials.flush()

    @property
    def in_flight(self) -> int:
        """How many increments are between arrival and commit."""
        return self._in_flight

    async def start(self) -> None:
        """Run the commit loops."""
        self._spawn(self._group.run())
        self._spawn(self._exact.run())
        self._spawn(self._denials.run())

    async def close(self, timeout_seconds: float = 5.0) -> None:
        """Finish what is in flight, within the time, then stop."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._idle.wait()
                await self._denials.drain()
        except TimeoutError:
            log.warning("meter_closed_with_work_left", calls=self._in_flight, denials=len(self._denials))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ------------------------------------------------------------------ entry

    def increment_soon(self, increment: Increment, done: OnAnswer) -> None:
        """Count one increment; `done` is called on the loop with the answer or the error. Never raises."""
        call = IncrementCall(increment, done)
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
        gathering: Gathering[IncrementAnswer] = Gathering(len(increments))
        if atomic:
            self._submit_atomic(
                [IncrementCall(increment, gathering.place(i)) for i, increment in enumerate(increments)]
            )
        else:
            for i, increment in enumerate(increments):
                self.increment_soon(increment, gathering.place(i))
        return await gathering

    def _join(self, call: IncrementCall) -> bool:
        """Register a call with a request id; False when it now waits for the same request already in flight."""
        call.fingerprint = fingerprint(call.increment)
        key = call.request_key
        first = self._open_requests.get(key)
        if first is not None:
            if first.accepted_answer is not None and call.increment.accepted:
                call.done(replay_for_follower(call.increment, first, first.accepted_answer))
                return False
            if first.followers is None:
                first.followers = []
            first.followers.append((call.increment, call.done))
            return False
        self._open_requests[key] = call
        # Seen not long ago: most likely a retry, which the exact commit answers without spoiling a group.
        call.exact = hash(key) in self._recent_requests
        return True

    def _submit(self, call: IncrementCall) -> None:
        self._in_flight += 1
        if self._in_flight == 1:
            self._idle.clear()
        if self._in_flight > self._commit_queue_max:
            self.finish(call, Overloaded("too many increments are waiting"))
            return
        if call.increment.accepted:
            if self._accepted >= self._accepted_queue_max:
                self.finish(call, Overloaded("too many accepted increments are waiting to be committed"))
                return
            self._accepted += 1
            call.queued_as_accepted = True
        self._arrive(call)

    def _submit_atomic(self, calls: list[IncrementCall]) -> None:
        atomic_set = AtomicSet(calls)
        for call in calls:
            call.atomic_set = atomic_set
            call.exact = True
            self._in_flight += 1
            self._idle.clear()
        error = self._refusal_of_set(calls)
        for call in calls:
            if error is not None:
                self.finish(call, error)
                continue
            if call.increment.request_id:
                call.fingerprint = fingerprint(call.increment)
                self._open_requests[call.request_key] = call
            self._arrive(call)

    def _refusal_of_set(self, calls: list[IncrementCall]) -> TallygateError | None:
        """Return why the set cannot be tried at all; None when it can."""
        seen: set[RequestKey] = set()
        for i, call in enumerate(calls):
            increment, key = call.increment, call.request_key
            if bool(increment.request_id) is not bool(calls[0].increment.request_id):
                # What an item without an id was answered could not be said again.
                return InvalidRequest.of(
                    f"increments[{i}].request_id", "either all items of an atomic batch have one or none has"
                )
            if not increment.request_id:
                continue
            if key in seen:
                return RequestIdReused(increment.request_id)
            if key in self._open_requests:
                return RequestInProgress(increment.request_id)
            seen.add(key)
        if self._in_flight > self._commit_queue_max:
            return Overloaded("too many increments are waiting")
        return None

    def _arrive(self, call: IncrementCall) -> None:
        if not self._arrived and not self._holding:
            self._loop.call_soon(self._flush)
        self._arrived.append(call)

    # ------------------------------------------------------------------ one tick: validate and hold

    def _flush(self) -> None:
        """Hold, validate or pass on what has arrived, at most so much at a time."""
        calls, self._arrived = self._arrived[:CALLS_PER_SCRIPT_MAX], self._arrived[CALLS_PER_SCRIPT_MAX:]
        if self._arrived:
            self._loop.call_soon(self._flush)
        now_ms = self._clock.now_ms()
        redis = self._counters.ready
        to_hold: list[IncrementCall] = []
        to_validate: list[IncrementCall] = []
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
            self._holding = True
            self._hold(to_hold, now_ms)
        if to_validate:
            self._validate(to_validate)

    def _place(self, call: IncrementCall, account: HotAccount, now_ms: int) -> bool:
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
            call.exact = call.exact or feature.exact_in(call.period)
        if feature.exact_only or (increment.request_id and not feature.hard):
            # Whether a soft limit was passed is part of the recorded answer: only the exact commit knows it.
            call.exact = True
        return not call.exact and increment.quantity > 0

    def _load(self, call: IncrementCall, *, ask_redis: bool) -> None:
        increment = call.increment

        def on_loaded(loaded: Loaded | TallygateError) -> None:
            if isinstance(loaded, TallygateError):
                self._fail(call, loaded)
            elif loaded.account is None:
                self._deny_without_account(call)
            else:
                call.account = loaded.account
                call.fresh = loaded.fresh
                self._arrive(call)

        self._accounts.load_soon(increment.tenant_id, increment.account_id, on_loaded, ask_redis=ask_redis)

    def _hold(self, calls: list[IncrementCall], now_ms: int) -> None:
        batch = HoldBatch(f"{self._server_id}:{self._next_batch}")
        self._next_batch += 1
        account_index: dict[tuple[str, str], int] = {}
        groups: dict[tuple[int, str, int], tuple[CounterHold, list[IncrementCall]]] = {}
        for call in calls:
            account, feature = call.account, call.feature
            assert account is not None
            assert feature is not None
            expected = (account.key, "*" if call.fresh else account.revision_text)
            index = account_index.get(expected)
            if index is None:
                index = account_index[expected] = len(account_index) + 1
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
            accounts=list(account_index),
            counters=[hold for hold, _ in listed],
            on_reply=lambda reply: self._on_held(batch, listed, reply),
        )

    def _on_held(
        self, batch: HoldBatch, groups: list[tuple[CounterHold, list[IncrementCall]]], reply: HoldReply | Exception
    ) -> None:
        self._holding = False
        if self._arrived:
            self._loop.call_soon(self._flush)
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
        holding: list[tuple[IncrementCall, int]] = []
        hold_groups: dict[str, HoldGroup] = {}
        for (_, calls), result in zip(groups, reply, strict=True):
            if result == STALE:
                for call in calls:
                    self._load(call, ask_redis=True)
            elif result == MISSING:
                for call in calls:
                    self._to_postgres(call)
            else:
                holding += self._on_group_held(batch, calls, result, hold_groups)
        # Only now, as the last of a batch's calls to end takes the batch out of Redis.
        for call, used in holding:
            self._to_postgres(call)
            if call.increment.accepted and not call.answered:
                self._answer_accepted(call, used)

    def _on_group_held(
        self,
        batch: HoldBatch,
        calls: list[IncrementCall],
        result: bytes | list[bytes],
        hold_groups: dict[str, HoldGroup],
    ) -> list[tuple[IncrementCall, int]]:
        """Go on with the calls that hold nothing; return the others, each with what is used and held after it."""
        committed, held, codes = int(result[0]), int(result[1]), result[2]
        assert isinstance(codes, bytes)
        group = hold_groups.get(calls[0].counter_key)
        assert calls[0].feature is not None
        kind = calls[0].feature.entitlement.kind
        holding: list[tuple[IncrementCall, int]] = []
        for call, code in zip(calls, codes, strict=True):
            if code == HELD:
                if group is None:
                    group = hold_groups[calls[0].counter_key] = HoldGroup(batch)
                    batch.groups += 1
                group.calls += 1
                call.hold = group
                held += call.increment.quantity
                holding.append((call, committed + held))
            elif code == EXHAUSTED and kind is FeatureKind.COUNTER:
                # What is committed only grows within a period: final.
                self._deny(call, Reason.EXHAUSTED, used=committed, held=held)
            elif code == CONTENDED:
                self._wait_for_holds(call)
            else:
                # A gauge may have gone down since, and a reservation may have ended: Postgres knows.
                self._to_postgres(call)
        return holding

    def _wait_for_holds(self, call: IncrementCall) -> None:
        """Try again in a moment: only calls in flight stand in the way, and what they hold is theirs.

        Holds end within milliseconds. Those that do not were left by a server that died: then Postgres decides.
        """
        now = self._loop.time()
        if call.contended_since is None:
            metrics.fallback("contended")
            call.contended_since = now
        if now - call.contended_since < CONTENDED_SECONDS_MAX:
            self._loop.call_later(_CONTENDED_PAUSE_SECONDS, self._arrive, call)
        else:
            metrics.fallback("contended_too_long")
            self._to_postgres(call)

    def _validate(self, calls: list[IncrementCall]) -> None:
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

    def _proceed(self, call: IncrementCall) -> None:
        """Go on with a validated call that takes no hold."""
        feature, increment = call.feature, call.increment
        if call.period is not None:
            assert feature is not None
            if increment.quantity < 0 and feature.entitlement.kind is not FeatureKind.GAUGE:
                self._fail(call, InvalidRequest.of("quantity", "must be positive: only a gauge goes down"))
            else:
                self._to_postgres(call)
            return
        kind = feature.entitlement.kind if feature is not None else None
        if kind is not None and not kind.metered:
            self._fail(call, FeatureNotMetered(increment.feature_key, kind.value))
            return
        if feature is not None:
            self._deny_by_ladder(call, feature_known=True)
            return
        self._proceed_undeclared(call)

    def _proceed_undeclared(self, call: IncrementCall) -> None:
        """Go on with a call whose feature no source mentions: only the catalog knows whether it exists at all."""
        increment = call.increment
        tenant = self._tenants.last_known(increment.tenant_id)
        if tenant is not None and increment.feature_key in tenant.features:
            self._proceed_unmentioned(call, tenant.features[increment.feature_key].kind)
        else:
            self._spawn(self._ask_catalog(call))

    async def _ask_catalog(self, call: IncrementCall) -> None:
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

    def _proceed_unmentioned(self, call: IncrementCall, kind: FeatureKind) -> None:
        if kind.metered:
            self._deny_by_ladder(call, feature_known=True)
        else:
            self._fail(call, FeatureNotMetered(call.increment.feature_key, kind.value))

    def _deny_by_ladder(self, call: IncrementCall, *, feature_known: bool) -> None:
        reason = decide(
            feature_known=feature_known,
            account_state=call.account.sources.state if call.account is not None else None,
            entitlement=call.feature.entitlement if call.feature is not None else None,
            quantity=call.increment.quantity,
            used=0,
            held=0,
        )
        self._deny(call, reason, used=0, held=0)

    def _deny_without_account(self, call: IncrementCall) -> None:
        call.account = call.feature = call.period = None
        self._proceed_undeclared(call)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ------------------------------------------------------------------ answers

    def _to_postgres(self, call: IncrementCall) -> None:
        if call.atomic_set is not None:
            self._validated_in_set(call)
            return
        if not self._ledger.up and not (call.increment.accepted and call.hold is not None):
            self.give_up(call)
            return
        if call.exact or call.increment.quantity < 0:
            self._exact.take(call)
        else:
            self._group.take(call)

    def _validated_in_set(self, call: IncrementCall) -> None:
        atomic_set = call.atomic_set
        assert atomic_set is not None
        if call.answered:
            return
        atomic_set.waiting -= 1
        if not self._ledger.up:
            self.give_up(call)
        elif atomic_set.waiting == 0:
            self._exact.take(atomic_set)

    def _deny(self, call: IncrementCall, reason: Reason, *, used: int, held: int) -> None:
        """Answer a denial; with a request id only after it is recorded, so that a retry hears the same."""
        # Postgres looks again at an exhausted counter: its total is part of the recorded answer.
        call.reason = None if reason is Reason.EXHAUSTED else reason
        if call.atomic_set is not None or call.increment.request_id:
            call.exact = True
            self._to_postgres(call)
            return
        if call.account is not None:
            self._denials.take(self._answers.denial_row(call, reason, used, self._clock.now()))
        self.finish(call, self._answers.denial(call, reason, used=used, held=held))

    def _answer_accepted(self, call: IncrementCall, used_after: int) -> None:
        call.entry_id = self._answers.next_entry_id()
        answer = call.accepted_answer = self._answers.allowed(call, used_after=used_after)
        call.answered = True
        metrics.increment(answer)
        call.done(answer)

    def _fail(self, call: IncrementCall, error: TallygateError) -> None:
        """End a call, and with it its whole atomic set, without having counted anything."""
        if call.atomic_set is not None:
            for member in call.atomic_set.calls:
                if not member.answered:
                    self.finish(member, error)
            return
        self.finish(call, error)

    def give_up(self, call: IncrementCall) -> None:
        """Answer that Postgres is away, or, where an attempt was lost in the middle, that the outcome is not known."""
        if call.doubtful:
            # Its hold stays until the sweeper has asked the ledger.
            self._fail(
                call, OutcomeUnknown("whether this call was counted is not known: retry with the same request_id")
            )
        else:
            release([call], self._counters, self._clock)
            self._fail(call, StoreUnavailable("usage cannot be recorded just now"))

    def keep_waiting(self, call: IncrementCall) -> None:
        """Leave an accepted call waiting for Postgres, but not those that joined it."""
        followers, call.followers = call.followers, None
        for follower, done in followers or ():
            unknown = OutcomeUnknown("this call was accepted before and is not committed yet: retry to hear more")
            done(replay_for_follower(follower, call, unknown))

    def finish(self, call: IncrementCall, outcome: IncrementAnswer | TallygateError) -> None:
        """Answer the call and those that joined it; the one place where a call leaves the meter."""
        if call.finished:
            return
        call.finished = True
        self._in_flight -= 1
        self._accepted -= call.queued_as_accepted
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
            done(replay_for_follower(follower, call, outcome))

    def _remember(self, request_key: RequestKey) -> None:
        self._recent_requests[hash(request_key)] = None
        if len(self._recent_requests) > RECENT_REQUESTS_MAX:
            del self._recent_requests[next(iter(self._recent_requests))]
