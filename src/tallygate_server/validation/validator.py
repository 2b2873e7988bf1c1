"""The use case ValidateEntitlements: looks at every account, a page at a time, and repairs where that is asked.

No live call waits for it, and none makes it cry wolf. What Postgres says is read in one snapshot, in which counters and
ledger agree whoever writes. Redis is read *before* that snapshot: it hears of a commit only afterwards, so it may be
behind for a moment, which is looked at again until the moment is over, and never ahead.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, timedelta
from typing import Any, Final

import structlog

from tallygate_server.clock import Clock
from tallygate_server.counters import keys
from tallygate_server.counters.connection import RedisCommandError, RedisUnavailable
from tallygate_server.counters.counters import Counters
from tallygate_server.domain.entitlement import AccountSources, resolve
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.period import Period, PeriodAnchor, PeriodKind, period_at
from tallygate_server.entitlement_changes import EntitlementChanges
from tallygate_server.errors import AccountNotFound, Overloaded, StoreUnavailable
from tallygate_server.hot_accounts import HotAccounts, counter_ttl_ms
from tallygate_server.metering.settling import settlement
from tallygate_server.storage.audit import add_audit_entry
from tallygate_server.storage.billing import every_tenant
from tallygate_server.storage.engine import Database
from tallygate_server.storage.ledger import CounterKey, CounterState, GroupRefused, Ledger, LedgerDown, LedgerLost
from tallygate_server.storage.sources import sources_from_document
from tallygate_server.storage.validation_rows import (
    ExaminedAccounts,
    ExaminedBalance,
    ExaminedCounter,
    ValidationRows,
    open_validation,
    recount,
    repair_balance,
)
from tallygate_server.tenants import TenantDirectory
from tallygate_server.validation.differences import (
    Difference,
    DifferencePlace,
    ValidationProgress,
    ValidationTotals,
    ValidationUpdate,
)

log = structlog.get_logger(__name__)

VALIDATIONS_AT_ONCE_MAX: Final = 1
"""Of one server process."""
ACCOUNTS_PER_PAGE_MAX: Final = 100
CATCH_UP_SECONDS_MAX: Final = 5.0
"""How long Redis may take to hear of what is committed; a settlement takes milliseconds."""
_CATCH_UP_PAUSE_SECONDS: Final = 0.05
_RECENT: Final = timedelta(days=1)
"""Counters of periods that have ended stay in Redis for as long."""
CAUSE: Final = "validation.repair"
"""Cause of the revision that a repaired history gets."""

Hashes = Mapping[str, Mapping[str, str]]
"""What Redis says, by key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A difference, and how to repair it."""

    difference: Difference
    repair: Callable[[str], Awaitable[bool]]
    """Takes who asks for it; says whether it is repaired."""


class _NotRepaired(Exception):
    """There is nothing to repair it with."""


class Validations:
    """Compares what is derived with the rows of record."""

    def __init__(
        self,
        database_url: str,
        *,
        database: Database,
        lookups: Database,
        changes: EntitlementChanges,
        counters: Counters,
        ledger: Ledger,
        hot_accounts: HotAccounts,
        tenants: TenantDirectory,
        clock: Clock,
    ) -> None:
        """Read on connections of its own; `lookups` knows all tenants."""
        self._database_url = database_url
        self._database = database
        self._lookups = lookups
        self._changes = changes
        self._counters = counters
        self._ledger = ledger
        self._hot_accounts = hot_accounts
        self._tenants = tenants
        self._clock = clock
        self._running = 0

    async def validate(
        self, *, tenant_id: str = "", account_id: str = "", repair: bool = False, actor: str = ""
    ) -> AsyncGenerator[ValidationUpdate]:
        """Yield what differs and how far it is, and the totals last; empty ids stand for all.

        While Redis is away nobody goes by it, and it is not looked at. Raises TenantNotFound, AccountNotFound,
        Overloaded, StoreUnavailable.
        """
        if self._running >= VALIDATIONS_AT_ONCE_MAX:
            raise Overloaded("a validation is running")
        self._running += 1
        try:
            async with open_validation(self._database_url) as rows:
                tenant_ids = await self._tenant_ids(tenant_id)
                total = 0
                for each in tenant_ids:
                    total += await rows.count_accounts(each, account_id)
                if tenant_id and account_id and not total:
                    raise AccountNotFound(account_id)
                totals = ValidationTotals()
                yield ValidationProgress(account_count=0, account_count_total=total)
                for each in tenant_ids:
                    async for page in _pages(rows, each, account_id):
                        examined, found = await self._examine(rows, each, page)
                        for one in found:
                            difference = one.difference
                            if repair:
                                difference = await self._repair(one, actor)
                            totals = replace(
                                totals,
                                difference_count=totals.difference_count + 1,
                                repaired_count=totals.repaired_count + difference.repaired,
                            )
                            yield difference
                        totals = replace(
                            totals,
                            account_count=totals.account_count + len(page),
                            counter_count=totals.counter_count + len(examined.counters),
                            entry_count=totals.entry_count + sum(each.entry_count for each in examined.counters),
                        )
                        yield ValidationProgress(
                            account_count=totals.account_count, account_count_total=max(total, totals.account_count)
                        )
                yield totals
        finally:
            self._running -= 1

    async def _tenant_ids(self, tenant_id: str) -> list[TenantId]:
        if tenant_id:
            await self._tenants.get(TenantId(tenant_id))
            return [TenantId(tenant_id)]
        async with self._lookups.plain_transaction() as connection:
            return await every_tenant(connection)

    # ------------------------------------------------------------------ looking

    async def _examine(
        self, rows: ValidationRows, tenant_id: TenantId, account_ids: Sequence[AccountId]
    ) -> tuple[ExaminedAccounts, list[_Found]]:
        """Compare a page of accounts."""
        try:
            hashes = await self._look(rows, tenant_id, account_ids) if self._counters.ready else None
        except (RedisUnavailable, RedisCommandError):
            hashes = None
        cached = {account_id: self._hot_accounts.cached(tenant_id, account_id) for account_id in account_ids}
        examined = await rows.examine(tenant_id, account_ids, self._clock.now())
        found = [one for counter in examined.counters for one in self._counter_differences(counter)]
        found += [self._balance_difference(tenant_id, balance) for balance in examined.balances if _off(balance)]
        now = self._clock.now()
        deadline = asyncio.get_running_loop().time() + CATCH_UP_SECONDS_MAX
        for account_id, (revision, document) in examined.documents.items():
            # Reading documents takes its time: live calls come in between.
            await asyncio.sleep(0)
            present = _comparable(sources_from_document(tenant_id, account_id, document), now)
            newest = examined.newest.get(account_id)
            if newest is not None:
                told = _comparable(sources_from_document(tenant_id, account_id, newest.document), now)
                if newest.revision > revision or replace(told, revision=revision) != present:
                    found.append(self._history_difference(present, told))
            account = cached[account_id]
            # An older one is compared by every call, and loaded anew; there is never a newer one.
            if account is not None and account.revision >= revision:
                told = _comparable(account.sources, now)
                if told != present:
                    found.append(self._cached_difference(present, told))
            if hashes is not None:
                found += await self._snapshot_differences(present, hashes, deadline)
        if hashes is not None:
            states = {counter.key: counter for counter in examined.counters}
            for key in _counter_keys_of(hashes):
                found += await self._redis_counter_differences(key, hashes[key], states, deadline)
        return examined, found

    async def _look(self, rows: ValidationRows, tenant_id: TenantId, account_ids: Sequence[AccountId]) -> Hashes:
        """Return what Redis says of the accounts, and of every counter that calls may look at."""
        now = self._clock.now()
        wanted = {
            _redis_key(self._counters, key) for key in await rows.counter_keys(tenant_id, account_ids, now - _RECENT)
        }
        for account_id, (_revision, document) in (await rows.documents(tenant_id, account_ids, now)).items():
            account_key = self._counters.account_key(tenant_id, account_id)
            wanted.add(account_key)
            sources = sources_from_document(tenant_id, account_id, document)
            resolution = resolve(sources, now)
            for entitlement in resolution.entitlements.values():
                if entitlement.denied is None and entitlement.kind.metered:
                    period = entitlement.period_at(now, resolution.time_zone)
                    wanted.add(keys.counter(account_key, entitlement.feature_key, period))
            await asyncio.sleep(0)
        ordered = sorted(wanted)
        hashes = await asyncio.gather(*(self._counters.look(key) for key in ordered))
        return {key: fields for key, fields in zip(ordered, hashes, strict=True) if fields}

    def _counter_differences(self, counter: ExaminedCounter) -> list[_Found]:
        differences = []
        if (
            counter.version is None
            or counter.used != counter.ledger_quantity
            or counter.credited != counter.paid_quantity
            or (counter.used == counter.ledger_quantity and not counter.last_total_known)
        ):
            differences.append(
                self._of_counter(
                    counter,
                    DifferencePlace.COUNTER,
                    {"used": counter.ledger_quantity, "credited": counter.paid_quantity},
                    {"used": counter.used, "credited": counter.credited}
                    | ({"row": None} if counter.version is None else {})
                    | ({} if counter.last_total_known else {"last_total_known": False}),
                )
            )
        if counter.reserved != counter.held_quantity:
            differences.append(
                self._of_counter(
                    counter,
                    DifferencePlace.HOLDS,
                    {"reserved": counter.held_quantity},
                    {"reserved": counter.reserved},
                )
            )
        return [_Found(difference=one, repair=lambda _: self._recount(counter)) for one in differences]

    def _of_counter(
        self, counter: ExaminedCounter, place: DifferencePlace, expected: dict[str, Any], actual: dict[str, Any]
    ) -> Difference:
        named = {"period_kind": counter.key.period_kind, "period_start": counter.key.period_start.isoformat()}
        return Difference(
            tenant_id=counter.key.tenant_id,
            account_id=counter.key.account_id,
            feature_key=counter.key.feature_key,
            place=place,
            expected=named | expected,
            actual=named | actual,
        )

    def _balance_difference(self, tenant_id: TenantId, balance: ExaminedBalance) -> _Found:
        named = {"grant_id": balance.grant_id, "window_start": balance.window_start.isoformat()}
        difference = Difference(
            tenant_id=tenant_id,
            account_id=balance.account_id,
            feature_key=balance.feature_key,
            place=DifferencePlace.COUNTER,
            expected=named | {"used": balance.paid_quantity},
            actual=named | {"used": balance.used},
        )

        async def repair(_actor: str) -> bool:
            async with self._ledger.exact() as transaction:
                return await repair_balance(
                    transaction.connection, tenant_id, balance.account_id, balance.grant_id, balance.window_start
                )

        return _Found(difference=difference, repair=repair)

    def _history_difference(self, present: AccountSources, told: AccountSources) -> _Found:
        async def repair(actor: str) -> bool:
            # The one way to change what accounts may do: the present sources get a revision of their own.
            async with self._changes.begin(present.tenant_id, [present.account_id], actor=actor, cause=CAUSE):
                return True

        return _Found(difference=_of_snapshot("history", present, told), repair=repair)

    def _cached_difference(self, present: AccountSources, told: AccountSources) -> _Found:
        async def repair(_actor: str) -> bool:
            self._hot_accounts.forget(present.tenant_id, present.account_id)
            return True

        return _Found(difference=_of_snapshot("process", present, told), repair=repair)

    async def _snapshot_differences(self, present: AccountSources, hashes: Hashes, deadline: float) -> list[_Found]:
        """Compare what Redis says of an account, which may be behind for a moment."""
        key = self._counters.account_key(present.tenant_id, present.account_id)
        fields = hashes.get(key, {})
        while True:
            # Without a revision, or with an empty one, everybody asks Postgres.
            revision = int(fields.get("rev") or 0)
            if not revision:
                return []
            behind = revision < present.revision
            if not behind or asyncio.get_running_loop().time() >= deadline:
                break
            await asyncio.sleep(_CATCH_UP_PAUSE_SECONDS)
            fields = await self._counters.look(key)
            if int(fields.get("rev") or 0) > present.revision:
                # Changed again meanwhile: what is found now is of a later moment than the snapshot.
                return []
        told: AccountSources | None = None
        if "src" in fields:
            told = _comparable(
                sources_from_document(present.tenant_id, present.account_id, fields["src"]), self._clock.now()
            )
        if revision == present.revision and (told is None or told == present):
            return []
        if told is None:
            told = replace(present, revision=revision)

        async def repair(_actor: str) -> bool:
            self._counters.forget_soon(present.tenant_id, present.account_id)
            return await self._counters.look(key) != fields

        return [_Found(difference=_of_snapshot("redis", present, told), repair=repair)]

    async def _redis_counter_differences(
        self,
        redis_key: str,
        fields: Mapping[str, str],
        states: Mapping[CounterKey, ExaminedCounter],
        deadline: float,
    ) -> list[_Found]:
        """Compare a counter in Redis, which may be behind for a moment and is never ahead."""
        key = CounterKey(*keys.parse_counter(redis_key))
        counter = states.get(key)
        state = (
            CounterState(0, 0)
            if counter is None
            else CounterState(counter.used, counter.version or 0, counter.reserved)
        )
        first = fields
        while fields and int(fields.get("v", -1)) < state.version and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_CATCH_UP_PAUSE_SECONDS)
            fields = await self._counters.look(redis_key)
        found: list[_Found] = []
        moved_on = fields is not first and int(fields.get("v", -1)) > state.version
        if "c" in fields and not moved_on:
            expected = {"used": state.used, "version": state.version, "reserved": state.reserved}
            actual = {
                "used": int(fields["c"]),
                "version": int(fields.get("v", -1)),
                "reserved": int(fields.get("r", 0)),
            }
            if actual != expected:
                place = DifferencePlace.CACHED_COUNTER
                if (actual["used"], actual["version"]) == (expected["used"], expected["version"]):
                    place = DifferencePlace.HOLDS
                found.append(self._of_redis(key, place, expected, actual, redis_key))
        if not found and fields:
            found += await self._hold_differences(key, redis_key, fields)
        return found

    async def _hold_differences(self, key: CounterKey, redis_key: str, fields: Mapping[str, str]) -> list[_Found]:
        """Compare what Redis holds with the batches that hold it, and these with the registries of their servers."""
        batches = {name.removeprefix("h:"): int(value) for name, value in fields.items() if name.startswith("h:")}
        expected = sum(batches.values()) + int(fields.get("r", 0))
        held = int(fields.get("h", 0))
        if held != expected:
            return [self._of_redis(key, DifferencePlace.HOLDS, {"held": expected}, {"held": held}, redis_key)]
        for batch_id, quantity in batches.items():
            if await self._counters.registered(batch_id):
                continue
            # Settled in between, most likely.
            if f"h:{batch_id}" in await self._counters.look(redis_key) and not await self._counters.registered(
                batch_id
            ):
                actual = {"held": held, "by_nobody": quantity}
                return [self._of_redis(key, DifferencePlace.HOLDS, {"held": held - quantity}, actual, redis_key)]
        return []

    def _of_redis(
        self,
        key: CounterKey,
        place: DifferencePlace,
        expected: dict[str, Any],
        actual: dict[str, Any],
        redis_key: str,
    ) -> _Found:
        named = {"period_kind": key.period_kind, "period_start": key.period_start.isoformat()}
        difference = Difference(
            tenant_id=key.tenant_id,
            account_id=key.account_id,
            feature_key=key.feature_key,
            place=place,
            expected=named | expected,
            actual=named | actual,
        )

        async def repair(_actor: str) -> bool:
            # As after a flush: whoever needs it asks Postgres, and what was held ends by itself.
            await self._counters.forget_counter(redis_key)
            return True

        return _Found(difference=difference, repair=repair)

    # ------------------------------------------------------------------ repairing

    async def _repair(self, found: _Found, actor: str) -> Difference:
        """Repair and audit; what cannot be repaired is told as it is. Raises StoreUnavailable."""
        try:
            await self._repair_audited(found, actor)
        except _NotRepaired:
            return found.difference
        except (LedgerDown, LedgerLost) as error:
            raise StoreUnavailable("the ledger cannot be reached just now") from error
        except (GroupRefused, RedisUnavailable, RedisCommandError) as error:
            log.warning("repair_failed", error=str(error))
            return found.difference
        return replace(found.difference, repaired=True)

    async def _repair_audited(self, found: _Found, actor: str) -> None:
        difference = found.difference
        async with self._database.tenant_transaction(difference.tenant_id) as connection:
            await add_audit_entry(
                connection,
                difference.tenant_id,
                actor=actor,
                action="entitlements.repair",
                subject=f"account:{difference.account_id}",
                detail={
                    "place": difference.place.value,
                    "feature_key": difference.feature_key,
                    "expected": dict(difference.expected),
                    "actual": dict(difference.actual),
                },
            )
            # What is not repaired is not audited either.
            if not await found.repair(actor):
                raise _NotRepaired

    async def _recount(self, counter: ExaminedCounter) -> bool:
        """Make a counter say what its ledger and its reservations say; tell Redis. Its lock keeps all others out."""
        key = counter.key
        period = _period_of(counter)
        async with self._ledger.exact() as transaction:
            locked = await transaction.lock_counters([(key, period.end)])
            truth = await recount(transaction.connection, key)
            row = locked[key]
            row.used, row.credited = truth.used, truth.credited
            row.reserved, row.reserve_expire_time = truth.reserved, truth.reserve_expire_time
            row.changed = True
            await transaction.write(counters=locked)
        redis_key = _redis_key(self._counters, key)
        ttl_ms = counter_ttl_ms(period, self._clock.now_ms())
        self._counters.settle_soon([settlement(redis_key, "", row.state(), ttl_ms)])
        return True


async def _pages(rows: ValidationRows, tenant_id: TenantId, account_id: str) -> AsyncIterator[list[AccountId]]:
    after = ""
    while page := await rows.account_ids(tenant_id, only=account_id, after=after, limit=ACCOUNTS_PER_PAGE_MAX):
        yield page
        after = page[-1]


def _off(balance: ExaminedBalance) -> bool:
    return balance.used != balance.paid_quantity


def _comparable(sources: AccountSources, now: Any) -> AccountSources:
    """Return the sources without what is over, in one order: rows have none."""
    return replace(
        sources,
        subscriptions=tuple(sorted(sources.subscriptions, key=lambda each: each.subscription.subscription_id)),
        grants=tuple(
            sorted(
                (grant for grant in sources.grants if grant.end_time is None or grant.end_time > now),
                key=lambda grant: grant.grant_id,
            )
        ),
    )


def _of_snapshot(where: str, present: AccountSources, told: AccountSources) -> Difference:
    return Difference(
        tenant_id=present.tenant_id,
        account_id=present.account_id,
        feature_key="",
        place=DifferencePlace.SNAPSHOT,
        expected={"where": where, **_summary(present)},
        actual={"where": where, **_summary(told)},
    )


def _summary(sources: AccountSources) -> dict[str, Any]:
    """Return what people look for, and a digest of all of it."""
    return {
        "revision": sources.revision,
        "state": sources.state.value,
        "time_zone": sources.time_zone,
        "subscriptions": [
            [
                source.subscription.subscription_id,
                source.subscription.plan_key,
                source.subscription.plan_version,
                source.subscription.state.value,
            ]
            for source in sources.subscriptions
        ],
        "grants": [grant.grant_id for grant in sources.grants],
        "digest": hashlib.sha256(json.dumps(repr(replace(sources, revision=0))).encode()).hexdigest()[:16],
    }


def _counter_keys_of(hashes: Hashes) -> list[str]:
    return [key for key in hashes if "}:" in key]


def _redis_key(counters: Counters, key: CounterKey) -> str:
    account_key = counters.account_key(key.tenant_id, key.account_id)
    return keys.counter(account_key, key.feature_key, Period(PeriodKind(key.period_kind), key.period_start, None))


def _period_of(counter: ExaminedCounter) -> Period:
    kind, start = PeriodKind(counter.key.period_kind), counter.key.period_start
    if counter.period_end is not None or kind is PeriodKind.LIFETIME:
        return Period(kind, start, counter.period_end)
    # A row that is missing: its entries say when the period began, and how long its kind lasts is known.
    return period_at(kind, PeriodAnchor.BILLING, start, billing_anchor=start, time_zone=UTC)
