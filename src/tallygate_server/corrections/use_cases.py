"""Corrections: the ReverseUsage and CorrectUsage use cases.

    load the account -> find the line or the period -> lock the counter, decide, write -> tell Redis the new total
                     -> look who was denied because of it -> answer

Nothing in the ledger is ever changed: a correction is a line of its own, with who made it and why.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final, Self, TypeVar

import structlog

from tallygate_server.clock import Clock
from tallygate_server.corrections.attempts import Attempt, CorrectionAttempt, ReversalAttempt
from tallygate_server.corrections.calls import Correction, CorrectionAnswer, Reversal, ReversalAnswer
from tallygate_server.corrections.standing import usage_of
from tallygate_server.counters import keys
from tallygate_server.counters.counters import Counters
from tallygate_server.domain.catalog import FeatureKind
from tallygate_server.domain.corrections import Denial, Redemption
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.limits import EVENT_AHEAD_SECONDS_MAX
from tallygate_server.errors import (
    AccountNotFound,
    EntryNotFound,
    FeatureNotFound,
    FeatureNotMetered,
    InvalidRequest,
    OutcomeUnknown,
    Overloaded,
    StoreUnavailable,
)
from tallygate_server.hot_accounts import HotAccount, HotAccounts, HotFeature, counter_ttl_ms
from tallygate_server.metering.settling import settlement
from tallygate_server.storage.corrections import LedgerLine, denials_between, find_line, find_taken_back, was_exported
from tallygate_server.storage.ledger import DuplicateRow, GroupRefused, Ledger, LedgerDown, LedgerLost
from tallygate_server.tenants import Tenant, TenantDirectory
from tallygate_server.usage_queries import UsageEntry

log = structlog.get_logger(__name__)

CORRECTIONS_AT_ONCE_MAX: Final = 1
"""The ledger has few connections, and increments that need one are never kept waiting by corrections."""
CORRECTIONS_WAITING_MAX: Final = 256
REFUSALS_MAX: Final = 10
"""How often a correction starts anew because of a deadlock, or because its request id came up meanwhile."""
REDEEMABLE_DENIALS_MAX: Final = 1_000
"""Denials that an answer lists; all are counted."""
_ENTRY_ID_MAX: Final = 2**63 - 1
_EVENT_AHEAD_MAX: Final = timedelta(seconds=EVENT_AHEAD_SECONDS_MAX)

A = TypeVar("A")


class Corrections:
    """Takes usage back and puts it right."""

    def __init__(
        self,
        *,
        accounts: HotAccounts,
        counters: Counters,
        ledger: Ledger,
        tenants: TenantDirectory,
        clock: Clock,
        next_entry_id: Callable[[], int],
        record_denials: Callable[[], Awaitable[None]],
        timeout_ms: int,
    ) -> None:
        """Give up on Postgres after the timeout; `next_entry_id` numbers ledger entries.

        `record_denials` writes the denials that this process has answered and not recorded yet, or raises LedgerDown.
        """
        self._accounts = accounts
        self._counters = counters
        self._ledger = ledger
        self._tenants = tenants
        self._clock = clock
        self._next_entry_id = next_entry_id
        self._record_denials = record_denials
        self._timeout_seconds = timeout_ms / 1000
        self._loop = asyncio.get_running_loop()
        self._turns = asyncio.Semaphore(CORRECTIONS_AT_ONCE_MAX)
        self._running: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def closing(self) -> AsyncIterator[Self]:
        """Correct inside; leaving waits for what is being corrected."""
        try:
            yield self
        finally:
            await asyncio.gather(*self._running, return_exceptions=True)

    async def reverse(self, reversal: Reversal) -> ReversalAnswer:
        """Take back what a line of the ledger counted, in whole or in part, with a line of kind REVERSAL.

        Any line with a positive quantity can be reversed, of counters and gauges, all reversals of one together up to
        its quantity, and never so far that the total falls below zero. Credits that paid get back what they paid, the
        last one first. The period must not have ended, unless the tenant allows that. Thresholds that were crossed in
        the period stay crossed.

        The answer names the denials that would have been allowed without what was taken back of this line: those of
        its feature and period, recorded after it and before this reversal, for want of quantity (EXHAUSTED, not as part
        of an atomic batch). They are looked at in the order of time, see `Redemption`. Other servers record denials a
        moment after they answered them: who asks again with the same request id hears of those, too.

        Raises TenantNotFound, AccountNotFound, EntryNotFound, EntryAlreadyReversed (with what is left), PeriodClosed,
        RequestIdReused, Overloaded, StoreUnavailable, OutcomeUnknown.
        """
        return await self._in_turn(self._reverse(reversal))

    async def correct(self, correction: Correction) -> CorrectionAnswer:
        """Add to a counter or a gauge, or take away from it, with a line of kind CORRECTION.

        The limit is not asked; credits pay what the allowance does not, as far as they go. Thresholds that are crossed
        are announced. The total never falls below zero. The period must not have ended, unless the tenant allows that.

        Raises TenantNotFound, AccountNotFound, FeatureNotFound, FeatureNotMetered, InvalidRequest, PeriodClosed,
        RequestIdReused, Overloaded, StoreUnavailable, OutcomeUnknown.
        """
        return await self._in_turn(self._correct(correction))

    async def _in_turn(self, work: Coroutine[Any, Any, A]) -> A:
        if len(self._running) >= CORRECTIONS_WAITING_MAX + CORRECTIONS_AT_ONCE_MAX:
            work.close()
            raise Overloaded("too many corrections are waiting")
        task = asyncio.create_task(self._take_turn(work))
        self._running.add(task)
        task.add_done_callback(self._ended)
        # A caller that goes away undoes nothing: Redis must hear of what was committed.
        return await asyncio.shield(task)

    async def _take_turn(self, work: Coroutine[Any, Any, A]) -> A:
        async with self._turns:
            return await work

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        # The caller may have gone away; an error that nobody took is not worth a warning.
        if not task.cancelled():
            task.exception()

    async def _reverse(self, reversal: Reversal) -> ReversalAnswer:
        tenant, account = await self._load(reversal.tenant_id, reversal.account_id)
        line = await self._find(reversal)
        feature = tenant.features.get(line.key.feature_key) or tenant.retired_features.get(line.key.feature_key)
        attempt = ReversalAttempt(
            reversal,
            line,
            feature.kind if feature is not None else FeatureKind.COUNTER,
            account,
            entry_id=self._next_entry_id(),
            now=self._clock.now(),
            closed_allowed=tenant.settings.closed_period_corrections,
        )
        await self._commit(attempt, account)
        denials, count = await self._redeemable(line, attempt.line)
        return ReversalAnswer(
            entry=_entry(attempt.line),
            reversible_quantity=attempt.answer["reversible"],
            usage=usage_of(attempt.answer["standing"], attempt.line, attempt.revision),
            redeemable_denials=denials,
            redeemable_denial_count=count,
            replayed=attempt.replayed,
        )

    async def _correct(self, correction: Correction) -> CorrectionAnswer:
        tenant, account = await self._load(correction.tenant_id, correction.account_id)
        now = self._clock.now()
        at = correction.event_time or now
        if at > now + _EVENT_AHEAD_MAX:
            raise InvalidRequest.of("event_time", f"is more than {EVENT_AHEAD_SECONDS_MAX // 60} minutes in the future")
        feature = self._feature(tenant, account, correction)
        attempt = CorrectionAttempt(
            correction,
            feature,
            account.period_at(feature, at),
            account,
            entry_id=self._next_entry_id(),
            now=now,
            closed_allowed=tenant.settings.closed_period_corrections,
        )
        await self._commit(attempt, account)
        return CorrectionAnswer(
            entry=_entry(attempt.line),
            usage=usage_of(attempt.answer["standing"], attempt.line, attempt.revision),
            replayed=attempt.replayed,
        )

    async def _load(self, tenant_id: TenantId, account_id: AccountId) -> tuple[Tenant, HotAccount]:
        tenant = await self._tenants.get(tenant_id)
        loaded = await self._accounts.load(tenant_id, account_id, ask_redis=False)
        if loaded.account is None:
            raise AccountNotFound(account_id)
        return tenant, loaded.account

    async def _find(self, reversal: Reversal) -> LedgerLine:
        # Ids are decimal numbers; what is none, or is written another way, names no line.
        text = reversal.entry_id
        if not text.isascii() or not text.isdigit() or text != str(int(text)) or int(text) > _ENTRY_ID_MAX:
            raise EntryNotFound(text)
        try:
            async with self._ledger.reading() as connection:
                owner = (reversal.tenant_id, reversal.account_id)
                line = await find_line(connection, *owner, int(text))
                exported = line is None and await was_exported(connection, *owner, int(text))
        except LedgerDown as error:
            raise StoreUnavailable("the ledger cannot be read just now") from error
        if line is None:
            raise EntryNotFound(text, exported=exported)
        return line

    def _feature(self, tenant: Tenant, account: HotAccount, correction: Correction) -> HotFeature:
        feature_key = correction.feature_key
        feature = account.feature(feature_key, self._clock.now_ms())
        if feature is not None and feature.metered:
            return feature
        declared = tenant.features.get(feature_key)
        if declared is None:
            raise FeatureNotFound(feature_key)
        if not declared.kind.metered:
            raise FeatureNotMetered(feature_key, declared.kind.value)
        raise InvalidRequest.of(
            "feature_key", f"the account has no right to {feature_key!r}: nothing counts for it now"
        )

    async def _commit(self, attempt: Attempt, account: HotAccount) -> None:
        """Write the correction once, however often that takes, and tell Redis."""
        deadline = self._loop.time() + self._timeout_seconds
        refusals = 0
        while True:
            try:
                async with self._ledger.exact() as transaction:
                    await attempt.reach(transaction)
            except (GroupRefused, DuplicateRow) as error:
                refusals += 1
                if refusals < REFUSALS_MAX:
                    continue
                log.error("correction_refused", error=str(error))  # noqa: TRY400 - the trace says nothing more
                raise StoreUnavailable("the correction could not be written") from error
            except LedgerLost:
                attempt.doubtful = True
            except LedgerDown:
                pass
            else:
                self._settle(attempt, account)
                return
            remaining = deadline - self._loop.time()
            if remaining <= 0 or not await self._ledger.wait_up(remaining):
                if attempt.doubtful:
                    raise OutcomeUnknown("Postgres went away during the correction; ask again with the same request id")
                raise StoreUnavailable("the ledger cannot be written just now")

    def _settle(self, attempt: Attempt, account: HotAccount) -> None:
        """Put the new total on the wire, ahead of the answer: who was answered finds it in Redis."""
        redis_key = keys.counter(account.key, attempt.key.feature_key, attempt.period)
        ttl_ms = counter_ttl_ms(attempt.period, self._clock.now_ms())
        self._counters.settle_soon([settlement(redis_key, "", attempt.state, ttl_ms)])
        self._counters.flush()

    async def _redeemable(self, line: LedgerLine, reversal: LedgerLine) -> tuple[tuple[Denial, ...], int]:
        """Return the first denials that would have been allowed, and how many there are.

        Looked for when the reversal is committed, because the counter is not to be kept locked meanwhile.
        """
        listed: list[Denial] = []
        count = 0
        try:
            await self._record_denials()
            async with self._ledger.reading() as connection:
                taken_back = [
                    each
                    for each in await find_taken_back(connection, line)
                    # Later ones are not what was asked about first.
                    if each.position <= reversal.position
                ]
                redemption = Redemption(taken_back)
                freed = sum(each.quantity for each in taken_back)
                async for denial in denials_between(connection, line, reversal.position, freed=freed):
                    if redemption.admits(denial):
                        count += 1
                        if count <= REDEEMABLE_DENIALS_MAX:
                            listed.append(denial)
        except LedgerDown as error:
            raise OutcomeUnknown("Postgres went away after the reversal; ask again with the same request id") from error
        return tuple(listed), count


def _entry(line: LedgerLine) -> UsageEntry:
    return UsageEntry(
        entry_id=line.entry_id,
        feature_key=line.key.feature_key,
        quantity=line.quantity,
        used_after=line.used_after,
        limit_quantity=line.limit,
        period_kind=line.period.kind,
        period_start=line.period.start,
        period_end=line.period.end,
        event_time=line.event_time,
        recorded_time=line.position.recorded_time,
        request_id=line.request_id,
        dimensions=line.dimensions,
        kind=line.kind,
        plan_key=line.plan_key,
        reservation_id=line.reservation_id,
        reversed_entry_id=line.reversed_entry_id,
        reason_text=line.reason_text,
        actor=line.actor,
    )
