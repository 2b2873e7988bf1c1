"""Answering: the CheckAccess use case.

All checks of one event-loop tick share one round trip, which validates the cached accounts' revisions and
reads the counters. Without Redis the same questions go to Postgres; without Postgres the answers rest on
what is cached and say so (`stale`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from itertools import islice
from typing import Any, Final

import structlog

from tallygate_server.clock import Clock
from tallygate_server.counters.counters import READ_FIELDS, Counters, Settlement
from tallygate_server.domain.call import Check, CheckAnswer
from tallygate_server.domain.catalog import FailureMode, Feature
from tallygate_server.domain.entitlement import Reason, decide
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.domain.usage import threshold_percent_reached, threshold_quantity_crossed
from tallygate_server.errors import RevisionNotReached, StoreUnavailable, TallygateError, Unavailable
from tallygate_server.gathering import Gathering
from tallygate_server.hot_accounts import (
    NEVER_MS,
    HotAccount,
    HotAccounts,
    HotFeature,
    Loaded,
    counter_ttl_ms,
)
from tallygate_server.metering.credit_book import CountedFeature, read_accounts
from tallygate_server.metering.settling import settlement
from tallygate_server.storage.cache_epochs import CacheEpochs
from tallygate_server.storage.ledger import NO_COUNTER, CounterKey, CounterState, Ledger, LedgerDown, read_counters
from tallygate_server.telemetry import metrics
from tallygate_server.tenants import TenantDirectory

log = structlog.get_logger(__name__)

OnAnswer = Callable[[CheckAnswer | TallygateError], None]

_Question = tuple[str, str, str, int, int] | int
"""What makes checks equal; a number for one that is asked apart from all others."""

CHECKS_PER_READ_MAX: Final = 1_000
"""Bound on one script, so that Redis is never kept from others for long."""
CACHE_TTL_MS_MAX: Final = 60_000
"""Longest time for which a caller may keep an answer about a feature that is not counted."""
CACHE_TTL_DENIED_MS: Final = 5_000
"""A denial is kept for less long: whoever has just paid should not wait."""


class _Pending:
    """One check on its way."""

    __slots__ = ("account", "at_ms", "check", "counter_index", "done", "feature", "fresh", "stale", "twins")

    def __init__(self, check: Check, done: OnAnswer) -> None:
        self.check = check
        self.done = done
        self.account: HotAccount | None = None
        self.feature: HotFeature | None = None
        self.fresh = False
        self.counter_index = -1
        self.stale = False
        """Answered from the cache, without asking anybody whether the account has changed."""
        self.at_ms: int | None = None
        """When it is decided, if not now."""
        self.twins: list[OnAnswer] | None = None
        """Who asked the same in the same moment, and hears the same answer."""


class AccessChecker:
    """Answers checks from cached accounts, validated in Redis each time."""

    def __init__(
        self,
        *,
        accounts: HotAccounts,
        counters: Counters,
        ledger: Ledger,
        epochs: CacheEpochs,
        tenants: TenantDirectory,
        clock: Clock,
    ) -> None:
        """Wire the checker."""
        self._epochs = epochs
        self._accounts = accounts
        self._counters = counters
        self._ledger = ledger
        self._tenants = tenants
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._arrived: dict[_Question, _Pending] = {}
        self._rounds = 0
        self._asking = False
        """Whether a read is on its way: what arrives meanwhile goes with the next one."""
        self._tasks: set[asyncio.Task[None]] = set()

    def check_soon(self, check: Check, done: OnAnswer) -> None:
        """Answer one check; `done` is called on the loop with the answer or the error. Never raises."""
        question = (check.tenant_id, check.account_id, check.feature_key, check.quantity, check.min_revision)
        twin = self._arrived.get(question)
        if twin is None:
            self._arrive(question, _Pending(check, done))
        elif twin.twins is None:
            twin.twins = [done]
        else:
            twin.twins.append(done)

    async def check(self, check: Check) -> CheckAnswer:
        """Answer one check; raises TallygateError."""
        outcome = (await self.check_many([check]))[0]
        if isinstance(outcome, TallygateError):
            raise outcome
        return outcome

    async def check_many(self, checks: Sequence[Check]) -> list[CheckAnswer | TallygateError]:
        """Answer many, in order."""
        gathering: Gathering[CheckAnswer] = Gathering(len(checks))
        for i, check in enumerate(checks):
            self.check_soon(check, gathering.place(i))
        return await gathering

    async def list_entitlements(self, tenant_id: TenantId, account_id: AccountId) -> list[tuple[str, CheckAnswer]]:
        """Answer for every feature that the account's sources or the tenant's catalog mention, sorted by key.

        Raises TallygateError, AccountNotFound among them only for the tenant: an unknown account is answered as
        CheckAccess would.
        """
        tenant = await self._tenants.get(tenant_id)
        loaded = await self._accounts.load(tenant_id, account_id, ask_redis=True)
        mentioned = set(tenant.features)
        if loaded.account is not None:
            mentioned |= set(loaded.account.features(self._clock.now_ms()))
        feature_keys = sorted(mentioned)
        outcomes = await self.check_many([Check(tenant_id, account_id, FeatureKey(key)) for key in feature_keys])
        answers: list[tuple[str, CheckAnswer]] = []
        for feature_key, outcome in zip(feature_keys, outcomes, strict=True):
            if isinstance(outcome, TallygateError):
                raise outcome
            answers.append((feature_key, outcome))
        return answers

    def judge(
        self,
        check: Check,
        account: HotAccount | None,
        *,
        feature: HotFeature | None,
        at_ms: int,
        feature_known: bool,
        used: int = 0,
        held: int = 0,
    ) -> CheckAnswer:
        """Return what a check is answered at that moment, with these numbers; asks nobody, and tells no metric.

        The feature is the account's at that moment, with the limit that its credits make of it.
        """
        pending = _Pending(check, lambda _outcome: None)
        pending.at_ms = at_ms
        pending.account = account
        pending.feature = feature
        return self._decided(pending, used, held, feature_known=feature_known, stale=False)

    async def close(self) -> None:
        """Wait for what is on its way."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def _stale(self) -> bool:
        """Whether Postgres may know of changes that nobody here has heard of."""
        return not (self._ledger.up and self._epochs.heard)

    # ------------------------------------------------------------------ one tick

    def _arrive(self, question: _Question, pending: _Pending) -> None:
        if not self._arrived and not self._asking:
            self._loop.call_soon(self._flush)
        self._arrived[question] = pending

    def _come_round(self, pending: _Pending) -> None:
        """Ask again, now that the check's account is loaded; apart from those who have yet to look for theirs."""
        self._rounds += 1
        self._arrive(self._rounds, pending)

    def _flush(self) -> None:
        """Ask for what has arrived, in one script; more of it in the next one."""
        arrived = list(islice(self._arrived.values(), CHECKS_PER_READ_MAX))
        if len(arrived) == len(self._arrived):
            self._arrived = {}
        else:
            self._arrived = dict(islice(self._arrived.items(), CHECKS_PER_READ_MAX, None))
            self._loop.call_soon(self._flush)
        if not arrived:
            return
        if not self._counters.ready:
            metrics.fallback("check_without_redis", len(arrived))
            self._spawn(self._ask_postgres(arrived))
            return
        now_ms = self._clock.now_ms()
        account_index: dict[str, int] = {}
        counter_index: dict[str, int] = {}
        asked: list[_Pending] = []
        for pending in arrived:
            check = pending.check
            account = pending.account or self._accounts.cached(check.tenant_id, check.account_id)
            if account is None:
                self._load(pending, ask_redis=True)
                continue
            pending.account = account
            feature = pending.feature = account.feature(check.feature_key, now_ms)
            account_index.setdefault(account.key, len(account_index))
            # Also for a check that comes round again: its account, as loaded now, may count nothing any more.
            pending.counter_index = -1
            if feature is not None and feature.metered:
                pending.counter_index = counter_index.setdefault(feature.counter_key, len(counter_index))
            asked.append(pending)
        if asked:
            self._asking = True
            self._counters.read_soon(
                list(account_index), list(counter_index), lambda reply: self._on_read(asked, account_index, reply)
            )

    def _on_read(
        self, asked: list[_Pending], account_index: dict[str, int], reply: list[bytes | None] | Exception
    ) -> None:
        self._asking = False
        if self._arrived:
            self._loop.call_soon(self._flush)
        if isinstance(reply, Exception):
            metrics.fallback("check_without_redis", len(asked))
            self._spawn(self._ask_postgres(asked))
            return
        first_counter = len(account_index)
        unknown: list[_Pending] = []
        for pending in asked:
            account = pending.account
            assert account is not None
            if not pending.fresh and reply[account_index[account.key]] != account.revision_bytes:
                self._load(pending, ask_redis=True)
            elif pending.counter_index < 0:
                self._answer(pending, 0, 0)
            else:
                position = first_counter + READ_FIELDS * pending.counter_index
                committed, held, expire_ms = reply[position : position + READ_FIELDS]
                assert pending.feature is not None
                if (
                    committed is None
                    or pending.feature.exact_only
                    # A reservation may be over that nobody has ended yet.
                    or (expire_ms is not None and int(expire_ms) <= self._clock.now_ms())
                ):
                    unknown.append(pending)
                else:
                    self._answer(pending, int(committed), int(held or 0))
        if unknown:
            self._spawn(self._read_unknown(unknown))

    def _load(self, pending: _Pending, *, ask_redis: bool) -> None:
        check = pending.check

        def on_loaded(loaded: Loaded | TallygateError) -> None:
            if isinstance(loaded, Unavailable):
                self._answer_from_cache(pending, loaded)
            elif isinstance(loaded, TallygateError):
                self._finish(pending, loaded)
            elif loaded.account is None:
                self._answer_without_account(pending)
            else:
                pending.account = loaded.account
                pending.fresh = loaded.fresh
                self._come_round(pending)

        self._accounts.load_soon(check.tenant_id, check.account_id, on_loaded, ask_redis=ask_redis)

    async def _read_unknown(self, unknown: list[_Pending]) -> None:
        """Ask Postgres for counters that Redis does not know, and tell Redis."""
        try:
            states = await self._read_counters(unknown)
        except LedgerDown:
            for pending in unknown:
                self._answer_blind(pending)
            return
        settlements: dict[str, Settlement] = {}
        now_ms = self._clock.now_ms()
        for pending in unknown:
            feature = pending.feature
            assert feature is not None
            assert feature.period is not None
            state = states.get(_ledger_key(pending), NO_COUNTER)
            settlements[feature.counter_key] = settlement(
                feature.counter_key, "", state, counter_ttl_ms(feature.period, now_ms)
            )
            self._answer(pending, state.used, state.held)
        self._counters.settle_soon(list(settlements.values()))

    async def _read_counters(self, asked: list[_Pending]) -> dict[CounterKey, CounterState]:
        """Ask Postgres for counters, and for all that a limit depends on beside its counter; raise LedgerDown."""
        now = self._clock.now()
        keys = list({_ledger_key(pending) for pending in asked})
        counted = {_ledger_key(pending): _counted(pending) for pending in asked if _exact_only(pending)}
        if not counted:
            return await self._ledger.read_counters(keys, now)
        async with self._ledger.reading() as connection:
            states = await read_counters(connection, keys, now)
            accounts = await read_accounts(connection, list(counted.values()), states, now)
        for pending in asked:
            account = accounts.get(_ledger_key(pending))
            if account is not None:
                assert pending.feature is not None
                pending.feature = pending.feature.with_limit(account.limit_quantity)
        return states

    # ------------------------------------------------------------------ degraded

    async def _ask_postgres(self, arrived: list[_Pending]) -> None:
        """Answer without Redis: accounts and counters as Postgres has them now."""
        wanted = {(pending.check.tenant_id, pending.check.account_id) for pending in arrived}
        loads = dict(
            zip(
                wanted,
                await asyncio.gather(*(self._accounts.load(*account) for account in wanted), return_exceptions=True),
                strict=True,
            )
        )
        now_ms = self._clock.now_ms()
        metered: list[_Pending] = []
        for pending in arrived:
            check = pending.check
            loaded = loads[check.tenant_id, check.account_id]
            if isinstance(loaded, Unavailable):
                self._answer_from_cache(pending, loaded)
            elif isinstance(loaded, TallygateError):
                self._finish(pending, loaded)
            elif isinstance(loaded, BaseException):
                log.error("load_failed", error=type(loaded).__name__)
                self._finish(pending, StoreUnavailable("entitlements cannot be read just now"))
            elif loaded.account is None:
                self._answer_without_account(pending)
            else:
                pending.account = loaded.account
                pending.feature = loaded.account.feature(check.feature_key, now_ms)
                if pending.feature is not None and pending.feature.metered:
                    metered.append(pending)
                else:
                    self._answer(pending, 0, 0)
        if not metered:
            return
        try:
            states = await self._read_counters(metered)
        except LedgerDown:
            for pending in metered:
                self._answer_blind(pending)
            return
        for pending in metered:
            state = states.get(_ledger_key(pending), NO_COUNTER)
            self._answer(pending, state.used, state.held)

    def _answer_from_cache(self, pending: _Pending, error: TallygateError) -> None:
        """Without Postgres: go by the account as last known, if it is known at all."""
        check = pending.check
        account = self._accounts.cached(check.tenant_id, check.account_id)
        if account is None:
            self._finish(pending, error)
            return
        metrics.fallback("check_from_cache")
        pending.account = account
        pending.stale = True
        pending.feature = account.feature(check.feature_key, self._clock.now_ms())
        if pending.feature is None or not pending.feature.metered:
            self._answer(pending, 0, 0)
        elif self._counters.ready and not pending.feature.exact_only:
            self._counters.read_soon([], [pending.feature.counter_key], lambda reply: self._on_counter(pending, reply))
        else:
            self._answer_blind(pending)

    def _on_counter(self, pending: _Pending, reply: list[bytes | None] | Exception) -> None:
        if isinstance(reply, Exception) or reply[0] is None:
            self._answer_blind(pending)
        else:
            self._answer(pending, int(reply[0]), int(reply[1] or 0))

    def _answer_blind(self, pending: _Pending) -> None:
        """Nobody knows the counter: the feature's failure mode decides, fail-closed unless its tenant says open."""
        feature = self._declared(pending.check)
        if feature is not None and feature.failure_mode is FailureMode.OPEN:
            metrics.fallback("fail_open")
            self._answer(pending, 0, 0)
        else:
            metrics.fallback("fail_closed")
            self._finish(pending, StoreUnavailable("usage cannot be read just now"))

    # ------------------------------------------------------------------ answers

    def _answer(self, pending: _Pending, used: int, held: int) -> None:
        account, feature, check = pending.account, pending.feature, pending.check
        assert account is not None
        stale = pending.stale or self._stale
        if check.min_revision > account.revision:
            self._finish(
                pending,
                StoreUnavailable("the wanted revision cannot be looked up just now")
                if stale
                else RevisionNotReached(wanted=check.min_revision, current=account.revision),
            )
            return
        known = feature is not None or self._declared(check) is not None
        if not known and not stale:
            self._spawn(self._ask_catalog(pending))
            return
        self._finish(pending, self._decided(pending, used, held, feature_known=known, stale=stale))

    def _answer_without_account(self, pending: _Pending) -> None:
        pending.account = pending.feature = None
        if self._declared(pending.check) is None:
            # An unknown feature is named before an unknown account: the ladder's first rung.
            self._spawn(self._ask_catalog(pending))
        else:
            self._finish(pending, self._decided(pending, 0, 0, feature_known=True, stale=False))

    def _declared(self, check: Check) -> Feature | None:
        """Return the feature as the tenant's catalog declares it, as far as this process knows."""
        tenant = self._tenants.last_known(check.tenant_id)
        return tenant.features.get(check.feature_key) if tenant is not None else None

    async def _ask_catalog(self, pending: _Pending) -> None:
        """Ask the catalog about a feature that nobody knows: it may be new."""
        try:
            tenant = await self._tenants.refresh(pending.check.tenant_id)
        except TallygateError as error:
            self._finish(pending, error)
            return
        known = pending.check.feature_key in tenant.features
        self._finish(pending, self._decided(pending, 0, 0, feature_known=known, stale=self._stale))

    def _decided(self, pending: _Pending, used: int, held: int, *, feature_known: bool, stale: bool) -> CheckAnswer:
        account, feature, check = pending.account, pending.feature, pending.check
        if feature is None or account is None:
            reason = decide(
                feature_known=feature_known,
                account_state=account.sources.state if account is not None else None,
                entitlement=None,
                quantity=check.quantity,
                used=0,
                held=0,
            )
            answer = self._denied(pending, reason)
            answer.stale = stale
            return answer
        entitlement = feature.entitlement
        reason = decide(
            feature_known=True,
            account_state=account.sources.state,
            entitlement=entitlement,
            quantity=check.quantity,
            used=used,
            held=held,
        )
        if entitlement.denied is not None:
            answer = self._denied(pending, reason)
            answer.stale = stale
            return answer
        answer = CheckAnswer(
            reason=reason,
            revision=account.revision,
            feature_kind=entitlement.kind,
            value=entitlement.value,
            grace_end_time=entitlement.grace_end_time,
            plan_key=entitlement.plan_key,
            stale=stale,
        )
        if feature.metered:
            assert feature.period is not None
            answer.limit_quantity = feature.limit
            answer.used_quantity = used
            answer.held_quantity = held
            answer.reset_time = feature.period.end
            if entitlement.thresholds_percent:
                answer.threshold_percent = threshold_percent_reached(
                    used=used, limit=feature.limit, thresholds=entitlement.thresholds_percent
                )
            if entitlement.thresholds_absolute:
                answer.threshold_quantity = threshold_quantity_crossed(
                    used_before=0, used_after=used, thresholds=entitlement.thresholds_absolute
                )
        if not reason.allows:
            answer.upgrade_url = self._upgrade_link(check)
            answer.cache_ttl_ms = self._cache_ttl(pending, CACHE_TTL_DENIED_MS)
        elif not feature.metered and not stale:
            answer.cache_ttl_ms = self._cache_ttl(pending, CACHE_TTL_MS_MAX)
        return answer

    def _cache_ttl(self, pending: _Pending, longest_ms: int) -> int:
        """Return for how long the answer may be kept: never beyond a reset, or an end or start of any source."""
        account, feature, now_ms = pending.account, pending.feature, self._moment(pending)
        assert account is not None
        assert feature is not None
        ends_ms = account.expire_ms
        if feature.metered:
            ends_ms = min(ends_ms, feature.period_end_ms)
        return longest_ms if ends_ms == NEVER_MS else max(0, min(longest_ms, ends_ms - now_ms))

    def _denied(self, pending: _Pending, reason: Reason) -> CheckAnswer:
        account, declared = pending.account, self._declared(pending.check)
        kind = pending.feature.entitlement.kind if pending.feature is not None else None
        return CheckAnswer(
            reason=reason,
            revision=account.revision if account is not None else 0,
            feature_kind=kind or (declared.kind if declared is not None else None),
            plan_key=account.plan_key(self._moment(pending)) if account is not None else "",
            upgrade_url=self._upgrade_link(pending.check),
            cache_ttl_ms=CACHE_TTL_DENIED_MS,
        )

    def _moment(self, pending: _Pending) -> int:
        return self._clock.now_ms() if pending.at_ms is None else pending.at_ms

    def _upgrade_link(self, check: Check) -> str:
        tenant = self._tenants.last_known(check.tenant_id)
        return tenant.settings.upgrade_link(check.account_id, check.feature_key) if tenant is not None else ""

    def _finish(self, pending: _Pending, outcome: CheckAnswer | TallygateError) -> None:
        twins = pending.twins
        metrics.check(outcome, 1 if twins is None else 1 + len(twins))
        pending.done(outcome)
        for done in twins or ():
            done(outcome)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _exact_only(pending: _Pending) -> bool:
    return pending.feature is not None and pending.feature.exact_only


def _counted(pending: _Pending) -> CountedFeature:
    account, feature = pending.account, pending.feature
    assert account is not None
    assert feature is not None
    assert feature.period is not None
    return CountedFeature.of(account.sources, feature, feature.period)


def _ledger_key(pending: _Pending) -> CounterKey:
    check, feature = pending.check, pending.feature
    assert feature is not None
    assert feature.period is not None
    period = feature.period
    return CounterKey(check.tenant_id, check.account_id, check.feature_key, period.kind.value, period.start)
