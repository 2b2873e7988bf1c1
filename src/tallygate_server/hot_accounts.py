"""Accounts as the hot path holds them: compiled in process, loaded when missing or outdated.

A cached account is never trusted by itself: every call compares its revision with Redis in the same round
trip that reads or holds counters. What `load_soon` returns from Postgres was read after the call came in,
and needs no comparison.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg
import structlog

from tallygate_server.clock import Clock
from tallygate_server.counters import keys
from tallygate_server.counters.connection import RedisCommandError, RedisUnavailable
from tallygate_server.counters.counters import COUNTER_KEEP_MS, COUNTER_TTL_MS_MAX, Counters
from tallygate_server.domain.catalog import FeatureKind, LimitMode
from tallygate_server.domain.entitlement import AccountSources, Entitlement, Resolution, resolve
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.limits import LIMIT_UNLIMITED
from tallygate_server.domain.period import Period
from tallygate_server.domain.usage import usage_marks
from tallygate_server.errors import StoreUnavailable, TallygateError
from tallygate_server.storage.engine import CONNECTION_ERRORS
from tallygate_server.storage.sources import read_documents, sources_from_document
from tallygate_server.telemetry import metrics
from tallygate_server.tenants import TenantDirectory

log = structlog.get_logger(__name__)

NEVER_MS: Final = 1 << 62
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LOADS_AT_ONCE_MAX: Final = 4
_LOAD_TIMEOUT_SECONDS: Final = 5.0
_ACCOUNTS_PER_LOAD_MAX: Final = 500
_PROVISIONS_AT_ONCE_MAX: Final = 4


_MILLISECOND: Final = timedelta(milliseconds=1)
_MICROSECOND: Final = timedelta(microseconds=1)


def to_ms(instant: datetime | None) -> int:
    """Return the millisecond since 1970 in which the instant lies; None is never."""
    if instant is None:
        return NEVER_MS
    return (instant - EPOCH) // _MILLISECOND


def end_of_ms(ms: int) -> datetime:
    """Return the last instant of a millisecond.

    Calls are placed in time by whole milliseconds. Taken at its end, one that follows a change (a new billing anchor,
    say) always comes after it; whole milliseconds, as in all calendar boundaries, are told apart exactly.
    """
    return EPOCH + (ms + 1) * _MILLISECOND - _MICROSECOND


class HotFeature:
    """One entitlement with its current period and counter key."""

    __slots__ = (
        "_depends",
        "_plain",
        "counter_key",
        "entitlement",
        "exact_only",
        "hard",
        "limit",
        "marks",
        "metered",
        "period",
        "period_end_ms",
        "period_start_ms",
    )

    def __init__(self, entitlement: Entitlement) -> None:
        self.entitlement = entitlement
        self._plain: HotFeature | None = None
        self.limit = entitlement.limit_quantity
        self.hard = entitlement.limit_mode is LimitMode.HARD
        self.metered = entitlement.kind.metered and entitlement.denied is None
        self.exact_only = self._depends = (
            entitlement.kind is FeatureKind.COUNTER
            and self.metered
            and self.limit != LIMIT_UNLIMITED
            and (bool(entitlement.credits) or entitlement.rollover is not None)
        )
        """Whether the limit depends on more than the counter: then Postgres decides alone, and Redis is not asked."""
        self.marks = (
            usage_marks(
                limit=self.limit,
                hard=self.hard,
                thresholds_percent=entitlement.thresholds_percent,
                thresholds_absolute=entitlement.thresholds_absolute,
            )
            if self.metered
            else ()
        )
        self.period: Period | None = None
        self.period_start_ms = NEVER_MS
        self.period_end_ms = 0
        self.counter_key = ""

    def exact_in(self, period: Period) -> bool:
        """Tell whether the limit depends on more than the counter in a period: also on credits that are over."""
        if self._depends:
            return True
        until = self.entitlement.credited_until
        return until is not None and until > period.start and self.metered and self.limit != LIMIT_UNLIMITED

    @property
    def plain(self) -> HotFeature:
        """The feature with its plan's own limit, where this one speaks of what credits make of it."""
        return self._plain or self

    def with_limit(self, limit: int) -> HotFeature:
        """Return the feature with the limit that its credits, and what rolled over, make of it now."""
        feature = HotFeature(replace(self.entitlement, limit_quantity=limit))
        feature._plain = self.plain
        feature.exact_only, feature._depends = self.exact_only, self._depends
        feature.period = self.period
        feature.period_start_ms = self.period_start_ms
        feature.period_end_ms = self.period_end_ms
        feature.counter_key = self.counter_key
        return feature

    @property
    def effective_limit(self) -> int:
        """The limit that Redis and Postgres enforce: none at all for a soft one."""
        return self.limit if self.hard else -1


class HotAccount:
    """One account's sources at one revision, resolved for now."""

    __slots__ = (
        "_expire_ms",
        "_features",
        "_resolution",
        "_resolve_ms",
        "key",
        "revision",
        "revision_bytes",
        "revision_text",
        "sources",
    )

    def __init__(self, sources: AccountSources, key: str) -> None:
        self.sources = sources
        self.key = key
        self.revision = sources.revision
        self.revision_text = str(sources.revision)
        self.revision_bytes = self.revision_text.encode()
        self._resolve_ms = NEVER_MS
        self._expire_ms = 0
        self._resolution: Resolution | None = None
        self._features: dict[str, HotFeature] = {}

    @property
    def expire_ms(self) -> int:
        """Until when what was resolved last is true, whatever is written meanwhile."""
        return self._expire_ms

    def feature(self, feature_key: str, now_ms: int) -> HotFeature | None:
        """Return the account's right to the feature now, with the counter of the current period; None for none."""
        # Also when the clock stepped back: a resolution says nothing about the time before it.
        if not self._resolve_ms <= now_ms < self._expire_ms:
            self._resolve(now_ms)
        feature = self._features.get(feature_key)
        if feature is not None and feature.metered and not feature.period_start_ms <= now_ms < feature.period_end_ms:
            self._roll(feature, now_ms)
        return feature

    def plan_key(self, now_ms: int) -> str:
        """Return the account's leading plan now; empty for none."""
        if now_ms >= self._expire_ms:
            self._resolve(now_ms)
        assert self._resolution is not None
        return self._resolution.plan_key

    def features(self, now_ms: int) -> dict[str, HotFeature]:
        """Return every feature that any source mentions, by key, each in its current period."""
        if not self._resolve_ms <= now_ms < self._expire_ms:
            self._resolve(now_ms)
        for feature_key in self._features:
            self.feature(feature_key, now_ms)
        return self._features

    def period_at(self, feature: HotFeature, at: datetime) -> Period:
        """Return the feature's period at another instant than now."""
        assert self._resolution is not None
        return feature.entitlement.period_at(at, self._resolution.time_zone)

    def counter_key(self, feature: HotFeature, period: Period) -> str:
        """Return the Redis key of the feature's counter in a period."""
        return keys.counter(self.key, feature.entitlement.feature_key, period)

    def _resolve(self, now_ms: int) -> None:
        self._resolution = resolve(self.sources, end_of_ms(now_ms))
        self._resolve_ms = now_ms
        self._expire_ms = to_ms(self._resolution.expire_time)
        self._features = {key: HotFeature(value) for key, value in self._resolution.entitlements.items()}

    def _roll(self, feature: HotFeature, now_ms: int) -> None:
        period = self.period_at(feature, end_of_ms(now_ms))
        feature.period = period
        feature.period_start_ms = to_ms(period.start)
        feature.period_end_ms = to_ms(period.end)
        feature.counter_key = self.counter_key(feature, period)
        feature.exact_only = feature.exact_in(period)


def counter_ttl_ms(period: Period, now_ms: int) -> int:
    """Return how long a counter of the period is worth keeping in Redis."""
    if period.end is None:
        return COUNTER_TTL_MS_MAX
    return min(max(to_ms(period.end) - now_ms, 0) + COUNTER_KEEP_MS, COUNTER_TTL_MS_MAX)


class Loaded:
    """What a load found: the account (None: there is none), and whether Postgres said so just now."""

    __slots__ = ("account", "fresh")

    def __init__(self, account: HotAccount | None, *, fresh: bool) -> None:
        self.account = account
        self.fresh = fresh


OnLoaded = Callable[[Loaded | TallygateError], None]
Provision = Callable[[TenantId, AccountId], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class _Lease:
    """The right to store what is read from now on; ends with the next change."""

    key: str
    token: bytes


@dataclass(slots=True)
class _Wanted:
    """Who waits for an account that is to be loaded, and the lease under which it may be stored."""

    waiting: list[OnLoaded] = field(default_factory=list)
    lease: _Lease | None = None


class HotAccounts:
    """The process' cache of accounts, and the loader behind it."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        counters: Counters,
        tenants: TenantDirectory,
        clock: Clock,
        provision: Provision,
        postgres_up: Callable[[], bool],
        cache_max: int,
    ) -> None:
        """Load through a pool of application connections; while Postgres is known to be away, not at all.

        `provision` creates an unknown account where its tenant allows that, and raises TenantNotFound.
        """
        self._postgres_up = postgres_up
        self._token_prefix = secrets.token_hex(8)
        self._tokens = itertools.count()
        counters.on_renamed = self._forget_all
        self._pool = pool
        self._counters = counters
        self._tenants = tenants
        self._clock = clock
        self._provision = provision
        self._cache: dict[tuple[TenantId, AccountId], HotAccount] = {}
        self._cache_max = cache_max
        self._wanted: dict[TenantId, dict[AccountId, _Wanted]] = {}
        self._loading: set[asyncio.Task[None]] = set()
        self._tenants_loading: set[TenantId] = set()
        self._loads = asyncio.Semaphore(_LOADS_AT_ONCE_MAX)
        self._provisions = asyncio.Semaphore(_PROVISIONS_AT_ONCE_MAX)

    def __len__(self) -> int:
        """Return how many accounts are cached."""
        return len(self._cache)

    def cached(self, tenant_id: TenantId, account_id: AccountId) -> HotAccount | None:
        """Return the account if this process has it, at whatever revision."""
        return self._cache.get((tenant_id, account_id))

    def forget(self, tenant_id: TenantId, account_id: AccountId) -> None:
        """Drop the account from the process' cache."""
        self._cache.pop((tenant_id, account_id), None)

    def forget_if_gone(self, tenant_id: TenantId, account_id: AccountId) -> None:
        """Look soon whether a cached account still exists, and drop it where it does not.

        One that exists stays, out of date as it may be: it answers while it cannot be loaded anew.
        """
        if (tenant_id, account_id) in self._cache:
            self._spawn(self._forget_gone(tenant_id, account_id))

    def load_soon(self, tenant_id: TenantId, account_id: AccountId, on_loaded: OnLoaded, *, ask_redis: bool) -> None:
        """Load the account, as it is now or later; many loads of one tenant become one query.

        With `ask_redis`, sources that Redis holds will do (their revision is compared by the next script). The
        account's tenant is known to the directory afterwards: denials show its upgrade link.
        """
        if self._tenants.last_known(tenant_id) is None:
            self._spawn(self._learn_tenant_and_load(tenant_id, account_id, on_loaded, ask_redis=ask_redis))
            return
        if ask_redis and self._counters.ready:
            self._spawn(self._load_from_redis(tenant_id, account_id, on_loaded))
            return
        self._load_from_postgres(tenant_id, account_id, on_loaded, lease=None)

    async def _learn_tenant_and_load(
        self, tenant_id: TenantId, account_id: AccountId, on_loaded: OnLoaded, *, ask_redis: bool
    ) -> None:
        try:
            await self._tenants.get(tenant_id)
        except TallygateError as error:
            on_loaded(error)
        else:
            self.load_soon(tenant_id, account_id, on_loaded, ask_redis=ask_redis)

    def _load_from_postgres(
        self, tenant_id: TenantId, account_id: AccountId, on_loaded: OnLoaded, *, lease: _Lease | None
    ) -> None:
        # A load that is already running may have read before this call came in: it is never joined.
        wanted = self._wanted.setdefault(tenant_id, {}).setdefault(account_id, _Wanted())
        wanted.waiting.append(on_loaded)
        wanted.lease = lease or wanted.lease
        if tenant_id not in self._tenants_loading:
            self._tenants_loading.add(tenant_id)
            self._spawn(self._load_tenant(tenant_id))

    async def load(self, tenant_id: TenantId, account_id: AccountId, *, ask_redis: bool = False) -> Loaded:
        """Load the account; raises TallygateError."""
        future: asyncio.Future[Loaded] = asyncio.get_running_loop().create_future()

        def resolve_future(loaded: Loaded | TallygateError) -> None:
            if future.done():
                return
            if isinstance(loaded, TallygateError):
                future.set_exception(loaded)
            else:
                future.set_result(loaded)

        self.load_soon(tenant_id, account_id, resolve_future, ask_redis=ask_redis)
        return await future

    async def close(self) -> None:
        """Wait for running loads."""
        await asyncio.gather(*self._loading, return_exceptions=True)

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._loading.add(task)
        task.add_done_callback(self._loading.discard)

    async def _forget_gone(self, tenant_id: TenantId, account_id: AccountId) -> None:
        try:
            documents = await self._read(tenant_id, [account_id])
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing is known to be gone.
            log.warning("account_not_looked_at", error=type(error).__name__)
            return
        if account_id not in documents:
            self.forget(tenant_id, account_id)

    def _forget_all(self) -> None:
        """Forget every account: their keys have other names from now on."""
        self._cache.clear()

    async def _load_from_redis(self, tenant_id: TenantId, account_id: AccountId, on_loaded: OnLoaded) -> None:
        key = self._counters.account_key(tenant_id, account_id)
        document = token = None
        try:
            document, token = await self._counters.sources(key, f"{self._token_prefix}{next(self._tokens)}")
        except (RedisUnavailable, RedisCommandError) as error:
            log.debug("sources_not_read", error=type(error).__name__)
        if document is not None:
            try:
                account = self._build(tenant_id, account_id, key, document)
            except (ValueError, LookupError, TypeError):
                # Written by another release, perhaps: Postgres has them in our own spelling.
                log.warning("sources_not_understood", tenant_id=tenant_id)
            else:
                metrics.account_load("redis")
                on_loaded(Loaded(self._keep(account), fresh=False))
                return
        lease = _Lease(key, token) if token is not None else None
        self._load_from_postgres(tenant_id, account_id, on_loaded, lease=lease)

    async def _load_tenant(self, tenant_id: TenantId) -> None:
        try:
            while wanted := self._wanted.pop(tenant_id, None):
                batch = dict(list(wanted.items())[:_ACCOUNTS_PER_LOAD_MAX])
                rest = {account_id: waiting for account_id, waiting in wanted.items() if account_id not in batch}
                if rest:
                    self._wanted[tenant_id] = rest
                async with self._loads:
                    await self._load_batch(tenant_id, batch)
        finally:
            self._tenants_loading.discard(tenant_id)

    async def _load_batch(self, tenant_id: TenantId, batch: dict[AccountId, _Wanted]) -> None:
        try:
            documents = await self._read(tenant_id, list(batch))
        except Exception as error:  # noqa: BLE001 - whoever waits must hear something, whatever went wrong.
            for wanted in batch.values():
                _tell(wanted.waiting, _as_unavailable(error))
            return
        for account_id, wanted in batch.items():
            if account_id in documents:
                self._found(tenant_id, account_id, documents[account_id], wanted)
            else:
                self._spawn(self._provision_and_load(tenant_id, account_id, wanted))

    async def _provision_and_load(self, tenant_id: TenantId, account_id: AccountId, wanted: _Wanted) -> None:
        try:
            async with self._provisions:
                exists = await self._provision(tenant_id, account_id)
            documents = await self._read(tenant_id, [account_id]) if exists else {}
        except Exception as error:  # noqa: BLE001 - as above.
            _tell(wanted.waiting, _as_unavailable(error))
            return
        if account_id in documents:
            self._found(tenant_id, account_id, documents[account_id], wanted)
        else:
            _tell(wanted.waiting, Loaded(None, fresh=True))

    async def _read(self, tenant_id: TenantId, account_ids: list[AccountId]) -> dict[AccountId, tuple[int, str]]:
        if not self._postgres_up():
            raise StoreUnavailable("entitlements cannot be read just now")
        try:
            async with asyncio.timeout(_LOAD_TIMEOUT_SECONDS), self._pool.acquire() as connection:
                return await read_documents(connection, tenant_id, account_ids, self._clock.now())
        except CONNECTION_ERRORS as error:
            raise StoreUnavailable("entitlements cannot be read just now") from error

    def _found(self, tenant_id: TenantId, account_id: AccountId, document: tuple[int, str], wanted: _Wanted) -> None:
        revision, text = document
        try:
            account = self._build(tenant_id, account_id, self._counters.account_key(tenant_id, account_id), text)
        except Exception as error:  # noqa: BLE001 - one account that makes no sense must not stop the others.
            _tell(wanted.waiting, _as_unavailable(error))
            return
        metrics.account_load("postgres")
        account = self._keep(account)
        if wanted.lease is not None:
            self._spawn(self._store(wanted.lease, revision, text))
        _tell(wanted.waiting, Loaded(account, fresh=True))

    def _build(self, tenant_id: TenantId, account_id: AccountId, key: str, document: str | bytes) -> HotAccount:
        account = HotAccount(sources_from_document(tenant_id, account_id, document), key)
        # Resolved here and not by the first call: what cannot be (a time zone that somebody wrote by hand, say) fails
        # the callers of this account, and not all calls of a tick.
        account.features(self._clock.now_ms())
        return account

    async def _store(self, lease: _Lease, revision: int, text: str) -> None:
        try:
            await self._counters.store_sources(lease.key, lease.token, revision, text)
        except (RedisUnavailable, RedisCommandError) as error:
            log.debug("sources_not_stored", error=str(error))

    def _keep(self, account: HotAccount) -> HotAccount:
        cache_key = (account.sources.tenant_id, account.sources.account_id)
        known = self._cache.get(cache_key)
        if known is not None and known.revision > account.revision:
            # A slower, older load: good for those who wait for it, not for the cache.
            return account
        self._cache.pop(cache_key, None)
        self._cache[cache_key] = account
        if len(self._cache) > self._cache_max:
            del self._cache[next(iter(self._cache))]
        return account


def _as_unavailable(error: Exception) -> TallygateError:
    if isinstance(error, TallygateError):
        return error
    log.error("load_failed", error=str(error), exc_info=error)
    return StoreUnavailable("the account could not be loaded just now")


def _tell(waiting: list[OnLoaded], loaded: Loaded | TallygateError) -> None:
    for on_loaded in waiting:
        on_loaded(loaded)
