"""Reading usage: one counter, all counters of an account, the ledger's entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, and_, select

from tallygate_server.access import AccessChecker
from tallygate_server.clock import Clock
from tallygate_server.domain.call import Check
from tallygate_server.domain.catalog import FeatureKind
from tallygate_server.domain.entitlement import AccountSources, Reason
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.domain.limits import LIMIT_UNLIMITED
from tallygate_server.domain.period import PeriodKind
from tallygate_server.domain.usage import EntryKind, threshold_percent_reached
from tallygate_server.errors import (
    AccountNotFound,
    FeatureNotFound,
    FeatureNotMetered,
    StoreUnavailable,
    TallygateError,
)
from tallygate_server.hot_accounts import HotAccount, HotAccounts, HotFeature
from tallygate_server.metering.credit_book import CountedFeature, read_accounts
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.engine import CONNECTION_ERRORS, Database
from tallygate_server.storage.ledger import NO_COUNTER, CounterKey, Ledger, LedgerDown, read_counters
from tallygate_server.storage.tables import usage_counters, usage_entries, usage_requests
from tallygate_server.tenants import TenantDirectory

_COUNTER_KEY: Final = ("tenant_id", "account_id", "feature_key", "period_kind", "period_start")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureUsage:
    """How far one feature of one account is used in one period."""

    feature_key: str
    feature_kind: FeatureKind
    limit_quantity: int
    used_quantity: int
    held_quantity: int
    period_kind: PeriodKind
    period_start: datetime
    period_end: datetime | None
    """When the counter resets; None for never."""
    threshold_percent: int
    plan_key: str
    revision: int
    reason: Reason

    @property
    def remaining_quantity(self) -> int:
        """What is left in the period; -1 for unlimited."""
        if self.limit_quantity == LIMIT_UNLIMITED:
            return LIMIT_UNLIMITED
        return max(0, self.limit_quantity - self.used_quantity - self.held_quantity)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountQuota:
    """How far everything that is counted for an account is used."""

    usages: tuple[FeatureUsage, ...]
    """By feature key."""
    plan_key: str
    """The account's leading plan; empty for none."""
    revision: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStanding:
    """What decides an account's entitlements, and how much of them it uses."""

    sources: AccountSources
    used_quantities: dict[str, int]
    """Units used and held in the present periods, by counted feature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageEntry:
    """One entry of the ledger."""

    entry_id: int
    feature_key: str
    quantity: int
    used_after: int
    limit_quantity: int
    period_kind: PeriodKind
    period_start: datetime
    period_end: datetime | None
    """None for a lifetime."""
    event_time: datetime
    recorded_time: datetime
    request_id: str
    dimensions: dict[str, str]
    kind: EntryKind = EntryKind.INCREMENT
    plan_key: str = ""
    """Plan in force when it was written; empty for none, and for what the first release wrote."""
    reservation_id: str = ""
    reversed_entry_id: int | None = None
    reason_text: str = ""
    actor: str = ""


class UsageQueries:
    """Reads usage; never counts."""

    def __init__(
        self,
        *,
        checker: AccessChecker,
        accounts: HotAccounts,
        ledger: Ledger,
        database: Database,
        tenants: TenantDirectory,
        clock: Clock,
    ) -> None:
        """Wire the queries."""
        self._checker = checker
        self._accounts = accounts
        self._ledger = ledger
        self._database = database
        self._tenants = tenants
        self._clock = clock

    async def usage(
        self, tenant_id: TenantId, account_id: AccountId, feature_key: FeatureKey, at: datetime | None = None
    ) -> FeatureUsage:
        """Return one counter, now or in the period that contained another instant.

        Raises AccountNotFound, FeatureNotFound, FeatureNotMetered and what checks raise.
        """
        account = await self._account(tenant_id, account_id)
        feature = account.feature(feature_key, self._clock.now_ms())
        if feature is None or not feature.metered:
            tenant = await self._tenants.get(tenant_id)
            declared = tenant.features.get(feature_key)
            if declared is None:
                raise FeatureNotFound(feature_key)
            if not declared.kind.metered:
                raise FeatureNotMetered(feature_key, declared.kind.value)
            return self._nothing(account, feature_key, declared.kind, feature)
        if at is None:
            return (await self._now(account, [feature]))[0]
        period = account.period_at(feature, at)
        key = CounterKey(tenant_id, account_id, feature_key, period.kind.value, period.start)
        now = self._clock.now()
        try:
            if feature.exact_in(period):
                async with self._ledger.reading() as connection:
                    states = await read_counters(connection, [key], now)
                    counted = CountedFeature.of(account.sources, feature, period)
                    standing = (await read_accounts(connection, [counted], states, now))[key]
                feature = feature.with_limit(standing.limit_quantity)
            else:
                states = await self._ledger.read_counters([key], now)
            state = states.get(key, NO_COUNTER)
        except LedgerDown as error:
            raise StoreUnavailable("past usage cannot be read just now") from error
        return _usage(
            account, feature, used=state.used, held=state.held, start=period.start, end=period.end, reason=Reason.OK
        )

    async def quota(self, tenant_id: TenantId, account_id: AccountId) -> AccountQuota:
        """Return every metered feature that the account has; raises AccountNotFound."""
        account = await self._account(tenant_id, account_id)
        now_ms = self._clock.now_ms()
        features = account.features(now_ms)
        usages = await self._now(account, [features[key] for key in sorted(features) if features[key].metered])
        return AccountQuota(usages=tuple(usages), plan_key=account.plan_key(now_ms), revision=account.revision)

    async def standing(self, tenant_id: TenantId, account_id: AccountId) -> AccountStanding:
        """Return what the account has, as Postgres says now, and what it uses of it; raises AccountNotFound."""
        account = await self._account(tenant_id, account_id)
        usages = await self._now(
            account, [each for each in account.features(self._clock.now_ms()).values() if each.metered]
        )
        return AccountStanding(
            sources=account.sources,
            used_quantities={usage.feature_key: usage.used_quantity + usage.held_quantity for usage in usages},
        )

    async def entries(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        *,
        feature_key: str = "",
        start: datetime | None = None,
        end: datetime | None = None,
        kind: int = 0,
        request_id: str = "",
        before_entry_id: int | None = None,
        limit: int,
    ) -> list[UsageEntry]:
        """Return ledger entries, newest first: those of usage in `[start, end)`, older than an entry, at most so many.

        Keyset-paged on the primary key (tenant_id, account_id, entry_id). `kind` is an EntryKind's number, 0 for any.
        """
        t = usage_entries.c
        query = (
            select(usage_entries, usage_counters.c.period_end)
            .join_from(
                usage_entries,
                usage_counters,
                # An entry and its counter are written in one transaction: the counter is always there.
                and_(*(usage_entries.c[column] == usage_counters.c[column] for column in _COUNTER_KEY)),
            )
            .where(t.tenant_id == tenant_id, t.account_id == account_id)
            .order_by(t.entry_id.desc())
            .limit(limit)
        )
        if before_entry_id is not None:
            query = query.where(t.entry_id < before_entry_id)
        if feature_key:
            query = query.where(t.feature_key == feature_key)
        if kind:
            query = query.where(t.kind == kind)
        if start is not None:
            query = query.where(t.event_time >= start)
        if end is not None:
            query = query.where(t.event_time < end)
        await self._tenants.get(tenant_id)
        try:
            async with self._database.tenant_transaction(tenant_id) as connection:
                if request_id:
                    query = query.where(await _of_request(connection, tenant_id, account_id, request_id))
                rows = (await connection.execute(query)).all()
        except CONNECTION_ERRORS as error:
            raise StoreUnavailable("the ledger cannot be read just now") from error
        return [
            UsageEntry(
                entry_id=row.entry_id,
                feature_key=row.feature_key,
                quantity=row.quantity,
                used_after=row.used_after,
                limit_quantity=row.limit_quantity,
                period_kind=PeriodKind(row.period_kind),
                period_start=row.period_start,
                period_end=row.period_end,
                event_time=row.event_time,
                recorded_time=row.recorded_time,
                request_id=row.request_id or "",
                dimensions=row.dimensions or {},
                kind=EntryKind(row.kind),
                plan_key=row.plan_key or "",
                reservation_id=row.reservation_id or "",
                reversed_entry_id=row.reversed_entry_id,
                reason_text=row.reason_text or "",
                actor=row.actor or "",
            )
            for row in rows
        ]

    async def _account(self, tenant_id: TenantId, account_id: AccountId) -> HotAccount:
        loaded = await self._accounts.load(tenant_id, account_id, ask_redis=False)
        if loaded.account is None:
            raise AccountNotFound(account_id)
        return loaded.account

    async def _now(self, account: HotAccount, features: Sequence[HotFeature]) -> list[FeatureUsage]:
        sources = account.sources
        checks = [
            Check(sources.tenant_id, sources.account_id, feature.entitlement.feature_key, 1) for feature in features
        ]
        usages = []
        for feature, outcome in zip(features, await self._checker.check_many(checks), strict=True):
            if isinstance(outcome, TallygateError):
                raise outcome
            period = feature.period
            assert period is not None
            usages.append(
                _usage(
                    account,
                    # As the answer says, which knows what credits make of it.
                    feature.with_limit(outcome.limit_quantity) if feature.exact_only else feature,
                    used=outcome.used_quantity,
                    held=outcome.held_quantity,
                    start=period.start,
                    end=outcome.reset_time,
                    reason=outcome.reason,
                )
            )
        return usages

    def _nothing(
        self, account: HotAccount, feature_key: FeatureKey, kind: FeatureKind, feature: HotFeature | None
    ) -> FeatureUsage:
        """Describe a counted feature that the account does not have."""
        denied = feature.entitlement.denied if feature is not None else None
        return FeatureUsage(
            feature_key=feature_key,
            feature_kind=kind,
            limit_quantity=0,
            used_quantity=0,
            held_quantity=0,
            period_kind=PeriodKind.LIFETIME,
            period_start=account.sources.create_time,
            period_end=None,
            threshold_percent=0,
            plan_key="",
            revision=account.revision,
            reason=denied or Reason.NO_ENTITLEMENT,
        )


async def _of_request(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, request_id: str
) -> ColumnElement[bool]:
    """Return what chooses the entry of a request: its key, while the request is remembered; the ledger has no index."""
    r = usage_requests.c
    entry_id = await connection.scalar(
        select(r.entry_id).where(r.tenant_id == tenant_id, r.account_id == account_id, r.request_id == request_id)
    )
    return usage_entries.c.request_id == request_id if entry_id is None else usage_entries.c.entry_id == entry_id


def _usage(
    account: HotAccount,
    feature: HotFeature,
    *,
    used: int,
    held: int,
    start: datetime,
    end: datetime | None,
    reason: Reason,
) -> FeatureUsage:
    entitlement = feature.entitlement
    return FeatureUsage(
        feature_key=entitlement.feature_key,
        feature_kind=entitlement.kind,
        limit_quantity=feature.limit,
        used_quantity=used,
        held_quantity=held,
        period_kind=entitlement.period_kind,
        period_start=start,
        period_end=end,
        threshold_percent=threshold_percent_reached(
            used=used, limit=feature.limit, thresholds=entitlement.thresholds_percent
        ),
        plan_key=entitlement.plan_key,
        revision=account.revision,
        reason=reason,
    )
