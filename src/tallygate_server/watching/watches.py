"""Serves watches: one state for each watched account of this process, one worker that keeps them all current."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, islice
from typing import Final, Protocol

import structlog

from tallygate_server.access import AccessChecker
from tallygate_server.clock import Clock
from tallygate_server.domain.boundaries import boundaries_between
from tallygate_server.domain.call import Check, CheckAnswer
from tallygate_server.domain.entitlement import AccountSources
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.errors import AccountNotFound, StoreUnavailable, TallygateError, WatcherTooSlow
from tallygate_server.hot_accounts import NEVER_MS, HotAccount, HotAccounts, HotFeature, end_of_ms
from tallygate_server.metering.credit_book import CountedFeature, read_accounts
from tallygate_server.storage import account_history
from tallygate_server.storage.account_history import AccountRevision
from tallygate_server.storage.engine import Database
from tallygate_server.storage.ledger import NO_COUNTER, CounterKey, CounterState, Ledger, LedgerDown, read_counters
from tallygate_server.storage.outbox import EventFilter, OutboxEvent
from tallygate_server.streams import HEARTBEAT_SECONDS, BoundedStream, OpenStreams
from tallygate_server.tenants import TenantDirectory
from tallygate_server.watching.changes import (
    AccountChange,
    AccountSnapshot,
    Answers,
    change_by_revision,
    changes_by_themselves,
    entitled,
)

log = structlog.get_logger(__name__)

WATCHERS_MAX: Final = 2_500
"""Watches of entitlements that one process serves at a time."""
WATCH_BUFFER_MAX: Final = 200
"""Changes held for a watcher who reads more slowly than they happen; watchers share the changes themselves."""
ACCOUNTS_PER_LOOK_MAX: Final = 100
"""Accounts that are read anew in one go."""
ACCOUNTS_PER_TURN_MAX: Final = 10
"""Accounts that are compared before others have their turn: some milliseconds of work."""
REVISIONS_PER_LOOK_MAX: Final = 50
"""Revisions of an account that are told one by one; of more that came together, the last."""
POLL_SECONDS: Final = 10.0
"""Pause between two looks at everything that is watched: bounds how late a signal that was lost is made up for."""
TICK_SECONDS: Final = 0.5
"""How often the clock is looked at: it may jump, where it is not the machine's."""
RETRY_SECONDS: Final = 0.5
"""Pause after a look that failed."""

_USAGE: Final = EventFilter(event_types=("usage.threshold_crossed", "usage.exhausted"))

_AccountKey = tuple[TenantId, AccountId]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life."""

    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counters:
    """What was read of usage for a look."""

    states: Mapping[CounterKey, CounterState]
    limits: Mapping[tuple[CounterKey, int], int]
    """By counter and revision, where a limit depends on more than the counter: what it is now."""

    def of(self, sources: AccountSources, feature: HotFeature) -> tuple[CounterState, HotFeature]:
        """Return the feature's counter, and the feature with its present limit."""
        if not feature.metered:
            return NO_COUNTER, feature
        key = _counter_key(sources, feature)
        if feature.exact_only:
            feature = feature.with_limit(self.limits[key, sources.revision])
        return self.states.get(key, NO_COUNTER), feature

    def usage_of(self, account: HotAccount, now_ms: int) -> dict[CounterKey, tuple[CounterState, int | None]]:
        """Return what was read of the account's counters, for comparison."""
        keys = [
            _counter_key(account.sources, feature) for feature in account.features(now_ms).values() if feature.metered
        ]
        return {key: (self.states.get(key, NO_COUNTER), self.limits.get((key, account.revision))) for key in keys}


class UsageNews(Protocol):
    """Tells events of usage when they are published."""

    def listen(
        self, tenant_id: TenantId, wanted: EventFilter, hear: Callable[[OutboxEvent], None]
    ) -> Callable[[], None]:
        """Call `hear` for each event of the tenant; what is returned ends that."""


WatchUpdate = AccountSnapshot | AccountChange | Heartbeat


@dataclass(slots=True, kw_only=True, eq=False)
class _Watcher:
    """Who watches, and how far it is."""

    feature_keys: frozenset[str]
    stream: BoundedStream[AccountChange]
    sent_revision: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class _Waiting:
    """A watcher that waits for its snapshot."""

    watcher: _Watcher
    snapshot: asyncio.Future[AccountSnapshot]

    def fail(self, error: TallygateError) -> None:
        """Tell it that there is none."""
        if not self.snapshot.done():
            self.snapshot.set_exception(error)


@dataclass(slots=True, kw_only=True, eq=False)
class _Watched:
    """An account that is watched, as it was looked at last."""

    key: _AccountKey
    account: HotAccount | None = None
    """None until it was looked at."""
    answers: Answers = field(default_factory=dict)
    looked_at_ms: int = 0
    watches: int = 0
    """How many watch it, or are about to."""
    usage: Mapping[CounterKey, tuple[CounterState, int | None]] = field(default_factory=dict)
    """What was read of its counters."""
    due_ms: int = NEVER_MS
    """When time changes something by itself."""
    watchers: set[_Watcher] = field(default_factory=set)
    waiting: list[_Waiting] = field(default_factory=list)
    """Who waits for a look that begins from now on."""

    @property
    def revision(self) -> int:
        """The revision that was looked at last; 0 for none."""
        return self.account.revision if self.account is not None else 0


@dataclass(slots=True, kw_only=True, eq=False)
class _Look:
    """What a look at one account has found."""

    watched: _Watched
    stages: list[tuple[HotAccount, AccountRevision | None]]
    """The revisions that are new, in order; None of one that changed by hand. Empty: none is new."""

    @property
    def accounts(self) -> list[HotAccount]:
        """The account as it was looked at last, and at each new revision."""
        before = [self.watched.account] if self.watched.account is not None else []
        return [*before, *(account for account, _ in self.stages)]


class EntitlementWatches:
    """Serves watches of entitlements."""

    def __init__(
        self,
        *,
        checker: AccessChecker,
        accounts: HotAccounts,
        ledger: Ledger,
        database: Database,
        tenants: TenantDirectory,
        news: UsageNews,
        clock: Clock,
        watchers_max: int = WATCHERS_MAX,
        buffer_max: int = WATCH_BUFFER_MAX,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        """Wire the watches."""
        self._checker = checker
        self._accounts = accounts
        self._ledger = ledger
        self._database = database
        self._tenants = tenants
        self._news = news
        self._clock = clock
        self._buffer_max = buffer_max
        self._heartbeat_seconds = heartbeat_seconds
        self._poll_seconds = poll_seconds
        self._open: OpenStreams[AccountChange] = OpenStreams(streams_max=watchers_max)
        self._watched: dict[_AccountKey, _Watched] = {}
        self._marked: dict[_AccountKey, None] = {}
        """Accounts to be looked at, in the order in which they were marked."""
        self._accounts_of: Counter[TenantId] = Counter()
        self._listening: dict[TenantId, Callable[[], None]] = {}
        """How to stop listening to the usage of each tenant whose accounts are watched."""
        self._woken = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look."""
        self._worker = asyncio.create_task(self._work(), name="watch-entitlements")

    async def close(self) -> None:
        """Stop looking."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        for watched in self._watched.values():
            for waiting in watched.waiting:
                waiting.fail(StoreUnavailable("the account is no longer watched"))

    def end(self, error: TallygateError) -> None:
        """End every watch with the error, and refuse new ones with it."""
        self._open.end(error)

    @property
    def watcher_count(self) -> int:
        """Watches that are open."""
        return len(self._open)

    def mark(self, tenant_id: TenantId, account_id: AccountId) -> None:
        """Look at the account soon, if anybody watches it: something may have changed."""
        if (tenant_id, account_id) in self._watched:
            self._marked[tenant_id, account_id] = None
            self._woken.set()

    def hear(self, announcement: str) -> None:
        """Mark the account that Postgres announces as tenant/account."""
        tenant_id, _, account_id = announcement.partition("/")
        self.mark(TenantId(tenant_id), AccountId(account_id))

    async def watch(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        *,
        feature_keys: Iterable[str] = (),
        resume_revision: int = 0,
    ) -> AsyncGenerator[WatchUpdate]:
        """Yield everything the account is entitled to, unless nothing has changed since a revision; then each change.

        Only of these features, where some are named. Ends with an error only: TenantNotFound, AccountNotFound,
        Overloaded, WatcherTooSlow, StoreUnavailable, or what all watches are ended with.
        """
        await self._tenants.get(tenant_id)
        watcher = _Watcher(
            feature_keys=frozenset(feature_keys),
            stream=BoundedStream(
                items_max=self._buffer_max, too_slow=lambda: WatcherTooSlow(revision=watcher.sent_revision)
            ),
        )
        self._open.add(watcher.stream)
        watched: _Watched | None = None
        try:
            # Makes an account that may be made, as a check would.
            if (await self._accounts.load(tenant_id, account_id)).account is None:
                raise AccountNotFound(account_id)
            watched = self._join((tenant_id, account_id))
            snapshot = await self._first(watched, watcher)
            watcher.sent_revision = snapshot.revision
            if resume_revision != snapshot.revision:
                yield snapshot.of(watcher.feature_keys)
            items = watcher.stream.items(heartbeat_seconds=self._heartbeat_seconds)
            async with contextlib.aclosing(items) as news:
                async for change in news:
                    if change is None:
                        yield Heartbeat(watcher.sent_revision)
                        continue
                    told = change.of(watcher.feature_keys)
                    # Another revision is told although it changes none of these features: watch again from there.
                    if not told.empty or change.revision != watcher.sent_revision:
                        watcher.sent_revision = change.revision
                        yield told
        finally:
            self._open.discard(watcher.stream)
            if watched is not None:
                self._leave(watched, watcher)

    # --- One watcher --------------------------------------------------------------------------------------

    async def _first(self, watched: _Watched, watcher: _Watcher) -> AccountSnapshot:
        """Return everything, read from now on; what changes afterwards is put into the watcher's stream."""
        waiting = _Waiting(watcher=watcher, snapshot=asyncio.get_running_loop().create_future())
        watched.waiting.append(waiting)
        self._marked[watched.key] = None
        self._woken.set()
        return await waiting.snapshot

    def _join(self, key: _AccountKey) -> _Watched:
        watched = self._watched.get(key)
        if watched is None:
            watched = self._watched[key] = _Watched(key=key)
            tenant_id = key[0]
            self._accounts_of[tenant_id] += 1
            if tenant_id not in self._listening:
                self._listening[tenant_id] = self._news.listen(tenant_id, _USAGE, self._hear_usage)
        watched.watches += 1
        return watched

    def _listen_no_more(self, tenant_id: TenantId) -> None:
        self._accounts_of[tenant_id] -= 1
        if not self._accounts_of[tenant_id]:
            del self._accounts_of[tenant_id]
            self._listening.pop(tenant_id)()

    def _hear_usage(self, event: OutboxEvent) -> None:
        self.mark(event.tenant_id, AccountId(event.account_id))

    def _leave(self, watched: _Watched, watcher: _Watcher) -> None:
        watched.watchers.discard(watcher)
        watched.waiting = [waiting for waiting in watched.waiting if waiting.watcher is not watcher]
        watched.watches -= 1
        if not watched.watches:
            del self._watched[watched.key]
            self._listen_no_more(watched.key[0])

    # --- All accounts -------------------------------------------------------------------------------------

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        polled = loop.time()
        while True:
            pause = TICK_SECONDS
            try:
                await self._look_at_marked()
            except (StoreUnavailable, LedgerDown) as error:
                log.debug("watched_not_read", error=type(error).__name__)
                pause = RETRY_SECONDS
                self._woken.clear()
            except Exception as error:  # noqa: BLE001 - whatever it is, others are to be looked at.
                # A right that is missing, or a defect: it may be mended while we run.
                log.warning("watched_not_read", error=type(error).__name__)
                pause = RETRY_SECONDS
                self._woken.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._woken.wait()
            if loop.time() - polled >= self._poll_seconds:
                polled = loop.time()
                self._marked.update(dict.fromkeys(self._watched))
            self._mark_due()

    def _mark_due(self) -> None:
        now_ms = self._clock.now_ms()
        for key, watched in self._watched.items():
            if watched.due_ms <= now_ms or now_ms < watched.looked_at_ms:
                self._marked[key] = None

    async def _look_at_marked(self) -> None:
        self._woken.clear()
        while self._marked:
            batch = list(islice(self._marked, ACCOUNTS_PER_LOOK_MAX))
            by_tenant: dict[TenantId, list[_Watched]] = {}
            for key in batch:
                # Unmarked before it is read: what changes from now on marks it again.
                del self._marked[key]
                if key in self._watched:
                    by_tenant.setdefault(key[0], []).append(self._watched[key])
            for tenant_id, of_tenant in by_tenant.items():
                await self._look_at(tenant_id, of_tenant)

    async def _look_at(self, tenant_id: TenantId, accounts: Sequence[_Watched]) -> None:
        """Read these accounts and tell what has changed; when that fails, they stay marked."""
        # Whoever comes while this is read waits for the next look.
        waiting = {watched.key: watched.waiting for watched in accounts}
        for watched in accounts:
            watched.waiting = []
        try:
            looks = await self._read(tenant_id, accounts)
            now = self._clock.now()
            now_ms = self._clock.now_ms()
            looks = [look for look in looks if _makes_sense(look, now_ms)]
            counters = await self._read_counters(looks, now, now_ms)
            for n, look in enumerate(looks):
                # Nothing is waited for between these two: a watcher comes before a change, or after it.
                self._tell(look, counters, now, now_ms)
                self._attach(look.watched, waiting.pop(look.watched.key))
                if n % ACCOUNTS_PER_TURN_MAX == ACCOUNTS_PER_TURN_MAX - 1:
                    await asyncio.sleep(0)
        except BaseException:
            self._marked.update(dict.fromkeys(waiting))
            raise
        finally:
            for each in chain.from_iterable(waiting.values()):
                each.fail(StoreUnavailable("the account cannot be read just now"))

    async def _read(self, tenant_id: TenantId, accounts: Sequence[_Watched]) -> list[_Look]:
        by_id = {watched.key[1]: watched for watched in accounts}
        async with self._database.tenant_transaction(tenant_id) as connection:
            revisions = await account_history.read_revisions(connection, tenant_id, list(by_id))
            behind = {
                account_id: by_id[account_id].revision
                for account_id, revision in revisions.items()
                if by_id[account_id].account is not None and revision != by_id[account_id].revision
            }
            recorded = await account_history.revisions_after(
                connection, tenant_id, behind, limit=REVISIONS_PER_LOOK_MAX
            )
            stages = {
                account_id: [(_hot(each.sources), each) for each in recorded.get(account_id, ())]
                for account_id in by_id
            }
            # Those that are looked at for the first time, and those that changed by hand.
            unrecorded = [
                account_id
                for account_id, revision in revisions.items()
                if max((account.revision for account, _ in stages[account_id]), default=by_id[account_id].revision)
                < revision
            ]
            current = await account_history.current_sources(connection, tenant_id, unrecorded, self._clock.now())
        return [
            _Look(
                watched=watched,
                stages=[
                    *stages[account_id],
                    *([(_hot(current[account_id]), None)] if account_id in current else []),
                ],
            )
            for account_id, watched in by_id.items()
        ]

    async def _read_counters(self, looks: Sequence[_Look], now: datetime, now_ms: int) -> _Counters:
        """Read what every revision looked at counts in now, and what its limits depend on beside."""
        keys: set[CounterKey] = set()
        # A counter may have another limit at each revision: then it is read in several rounds.
        rounds: list[dict[CounterKey, tuple[int, CountedFeature]]] = []
        for look in looks:
            for account in look.accounts:
                for feature in account.features(now_ms).values():
                    if not feature.metered:
                        continue
                    key = _counter_key(account.sources, feature)
                    keys.add(key)
                    if feature.exact_only:
                        assert feature.period is not None
                        counted = CountedFeature.of(account.sources, feature, feature.period)
                        free = next((each for each in rounds if key not in each), None)
                        if free is None:
                            rounds.append(free := {})
                        free[key] = (account.revision, counted)
        limits: dict[tuple[CounterKey, int], int] = {}
        async with self._ledger.reading() as connection:
            states = await read_counters(connection, list(keys), now)
            for each in rounds:
                accounts = await read_accounts(connection, [counted for _, counted in each.values()], states, now)
                limits |= {(key, revision): accounts[key].limit_quantity for key, (revision, _) in each.items()}
        return _Counters(states=states, limits=limits)

    def _tell(
        self,
        look: _Look,
        counters: _Counters,
        now: datetime,
        now_ms: int,
    ) -> None:
        watched = look.watched
        usage = counters.usage_of(look.accounts[-1], now_ms) if look.accounts else {}
        before = watched.looked_at_ms
        if not look.stages and before <= now_ms < watched.due_ms and usage == watched.usage:
            # As it mostly is: nothing has changed, and time does nothing yet.
            return
        watched.usage = usage
        changes: list[AccountChange] = []
        if watched.account is not None:
            answers = self._answers(watched.account, counters, now_ms)
            since, until = end_of_ms(watched.looked_at_ms), end_of_ms(now_ms)
            changes += changes_by_themselves(
                watched.answers,
                answers,
                revision=watched.revision,
                boundaries=boundaries_between(watched.account.sources, since, until),
                now=now,
            )
            watched.answers = answers
        for account, recorded in look.stages:
            answers = self._answers(account, counters, now_ms)
            if watched.account is not None:
                changes.append(
                    change_by_revision(
                        watched.answers,
                        answers,
                        revision=account.revision,
                        cause=recorded.cause if recorded is not None else "entitlement.changed",
                        change_time=recorded.begin_time if recorded is not None else now,
                    )
                )
            watched.account, watched.answers = account, answers
        watched.looked_at_ms = now_ms
        watched.due_ms = _due_ms(watched.account, now_ms)
        for watcher in list(watched.watchers):
            if not all(watcher.stream.put(change) for change in changes):
                watched.watchers.discard(watcher)

    def _attach(self, watched: _Watched, waiting: Sequence[_Waiting]) -> None:
        snapshot = AccountSnapshot(revision=watched.revision, entitlements=entitled(watched.answers))
        for each in waiting:
            if not each.snapshot.done():
                watched.watchers.add(each.watcher)
                each.snapshot.set_result(snapshot)

    def _answers(self, account: HotAccount, counters: _Counters, now_ms: int) -> dict[str, CheckAnswer]:
        sources = account.sources
        answers = {}
        features = account.features(now_ms)
        for feature_key, feature in features.items():
            state, limited = counters.of(sources, feature)
            answers[feature_key] = self._checker.judge(
                Check(sources.tenant_id, sources.account_id, FeatureKey(feature_key)),
                account,
                feature=limited,
                at_ms=now_ms,
                feature_known=True,
                used=state.used,
                held=state.held,
            )
        return answers


def _makes_sense(look: _Look, now_ms: int) -> bool:
    """Tell whether what was read can be resolved; a time zone that was written by hand, say, must not stop others."""
    try:
        for account in look.accounts:
            account.features(now_ms)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one account.
        log.warning("watched_not_understood", tenant_id=look.watched.key[0], error=type(error).__name__)
        return False
    return True


def _hot(sources: AccountSources) -> HotAccount:
    return HotAccount(sources, "")


def _counter_key(sources: AccountSources, feature: HotFeature) -> CounterKey:
    period = feature.period
    assert period is not None
    key = feature.entitlement.feature_key
    return CounterKey(sources.tenant_id, sources.account_id, key, period.kind.value, period.start)


def _due_ms(account: HotAccount | None, now_ms: int) -> int:
    """Return when time next changes something by itself."""
    if account is None:
        return NEVER_MS
    ends = (feature.period_end_ms for feature in account.features(now_ms).values() if feature.metered)
    return min((account.expire_ms, *ends))
