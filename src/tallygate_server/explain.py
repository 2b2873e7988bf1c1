"""Explaining: why `CheckAccess` answers as it does, or did at a time in the past.

For now, the check is made and its numbers are taken apart. For the past, what decided is read from the account's
history and what was used from the ledger; the same code then decides. What only Redis knew for the milliseconds of an
increment on its way is not remembered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import structlog

from tallygate_server.access import AccessChecker
from tallygate_server.catalog_files import parse_catalog
from tallygate_server.clock import Clock
from tallygate_server.domain.call import Check, CheckAnswer
from tallygate_server.domain.catalog import Feature, LimitMode
from tallygate_server.domain.credits import (
    CounterAccount,
    CreditBalance,
    StoredBalance,
    Totals,
    balance_at,
    window_at,
)
from tallygate_server.domain.entitlement import burn_order
from tallygate_server.domain.explanation import (
    ExplainedSource,
    Facts,
    Step,
    explain_past_grant,
    explain_sources,
    explain_steps,
    why_no_source,
)
from tallygate_server.domain.period import Period
from tallygate_server.errors import CatalogInvalid, InvalidRequest, StoreUnavailable
from tallygate_server.grants.views import GrantView, view_of
from tallygate_server.hot_accounts import HotAccount, HotAccounts, HotFeature, end_of_ms, to_ms
from tallygate_server.metering.credit_book import CountedFeature, read_accounts
from tallygate_server.storage import usage_history
from tallygate_server.storage.account_history import sources_at
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.credit_rows import CreditKey, find_balances, read_chains
from tallygate_server.storage.engine import Database
from tallygate_server.storage.grants import GrantRow, page_of_grants
from tallygate_server.storage.ledger import CounterKey, Ledger, LedgerDown, read_counters
from tallygate_server.tenants import TenantDirectory

log = structlog.get_logger(__name__)

ATTEMPTS_MAX: Final = 5
"""Of explaining what is so now: the account may change between the check and the look at it."""
GRANTS_MAX: Final = 500
"""Grants of an account for one feature that are looked at, the newest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """An answer of `CheckAccess`, taken apart."""

    check: Check
    answer: CheckAnswer
    steps: tuple[Step, ...]
    sources: tuple[ExplainedSource, ...]
    grants: tuple[GrantView, ...]
    """Those that count, in the order of use."""
    period: Period | None
    """In which usage counted; None for what is not counted."""
    feature: Feature | None
    """As the catalog describes it now; None where it does not."""
    at: datetime
    catalog_revision: int
    history_complete: bool
    """Whether what decided then is certain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Then:
    """What was so at the time that is explained, beside the answer."""

    at: datetime
    feature_known: bool
    catalog_revision: int
    complete: bool
    grants: Sequence[GrantRow]
    """Of the account and feature, as they are now."""
    balances: Sequence[CreditBalance]
    """What credits had left."""


class Explainer:
    """Explains answers."""

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
        """Wire the explainer."""
        self._checker = checker
        self._accounts = accounts
        self._ledger = ledger
        self._database = database
        self._tenants = tenants
        self._clock = clock

    async def explain(self, check: Check, at: datetime | None = None) -> Explanation:
        """Explain the answer to a check now, or at an instant in the past.

        Raises TenantNotFound, InvalidRequest for an instant that is still to come, and what checks raise.
        """
        await self._tenants.get(check.tenant_id)
        if at is None:
            return await self._explain_now(check)
        if at > self._clock.now():
            raise InvalidRequest.of("at_time", "is still to come")
        return await self._explain_then(check, at)

    async def _explain_now(self, check: Check) -> Explanation:
        for _ in range(ATTEMPTS_MAX):
            answer = await self._checker.check(check)
            account = (await self._accounts.load(check.tenant_id, check.account_id)).account
            now = self._clock.now()
            if (account.revision if account is not None else 0) != answer.revision:
                continue
            tenant = await self._tenants.refresh(check.tenant_id)
            feature = None if account is None else account.feature(check.feature_key, to_ms(now))
            async with self._database.tenant_transaction(check.tenant_id) as connection:
                rows = await _grant_rows(connection, check)
            balances: Sequence[CreditBalance] = ()
            if account is not None and feature is not None and feature.exact_only:
                balances = await self._balances_now(account, feature, now)
            explanation = self._explanation(
                check,
                account,
                answer,
                _Then(
                    at=now,
                    feature_known=check.feature_key in tenant.features,
                    catalog_revision=tenant.catalog_revision,
                    complete=True,
                    grants=rows,
                    balances=balances,
                ),
            )
            # Between the check and now a period may have ended, or the catalog changed.
            if explanation.steps[-1].reason is answer.reason:
                return explanation
        raise StoreUnavailable("the account keeps changing; try again")

    async def _explain_then(self, check: Check, at: datetime) -> Explanation:
        at_ms = to_ms(at)
        balances: Sequence[CreditBalance] = ()
        async with self._database.tenant_transaction(check.tenant_id) as connection:
            sources, complete = await sources_at(connection, check.tenant_id, check.account_id, at)
            catalog_revision, catalog = await usage_history.catalog_at(connection, check.tenant_id, at)
            rows = await _grant_rows(connection, check)
            account = None if sources is None else HotAccount(sources, "")
            feature = None if account is None else account.feature(check.feature_key, at_ms)
            used = held = 0
            if feature is not None and feature.metered:
                key = _counter_key(check, feature)
                used, certain = await usage_history.used_at(connection, key, at)
                complete = complete and certain
                held = await usage_history.reserved_at(connection, key, at)
        if account is not None and feature is not None and feature.exact_only:
            counted = await self._account_then(account, feature, at, used=used, held=held)
            feature = feature.with_limit(counted.limit_quantity)
            balances = counted.credits
        # A source that mentions the feature tells what it is, too.
        declared = await self._declared_then(check, catalog) if feature is None else None
        known = feature is not None or declared is not None
        answer = self._checker.judge(
            check, account, feature=feature, at_ms=at_ms, feature_known=known, used=used, held=held
        )
        if feature is None:
            answer.feature_kind = declared.kind if declared is not None else None
        return self._explanation(
            check,
            account,
            answer,
            _Then(
                at=at,
                feature_known=known,
                catalog_revision=catalog_revision,
                complete=complete,
                grants=rows,
                balances=balances,
            ),
        )

    async def _balances_now(self, account: HotAccount, feature: HotFeature, now: datetime) -> Sequence[CreditBalance]:
        assert feature.period is not None
        counted = CountedFeature.of(account.sources, feature, feature.period)
        try:
            async with self._ledger.reading() as connection:
                states = await read_counters(connection, [counted.key], now)
                return (await read_accounts(connection, [counted], states, now))[counted.key].credits
        except LedgerDown as error:
            raise StoreUnavailable("credits cannot be read just now") from error

    async def _account_then(
        self, account: HotAccount, feature: HotFeature, at: datetime, *, used: int, held: int
    ) -> CounterAccount:
        """Return the counter with what its allowance and credits had left at the instant."""
        assert feature.period is not None
        counted = CountedFeature.of(account.sources, feature, feature.period)
        key, entitlement = counted.key, counted.entitlement
        active = [grant for grant in entitlement.credits if grant.active(at)]
        windows = {
            CreditKey(key.tenant_id, key.account_id, grant.grant_id, window_at(grant, at).start): grant
            for grant in active
        }
        try:
            async with self._ledger.reading() as connection:
                chain = (await read_chains(connection, [key]))[key]
                found = await find_balances(connection, sorted(windows), lock=False)
                present = (await read_accounts(connection, [counted], {}, at))[key].counter
        except LedgerDown as error:
            raise StoreUnavailable("credits cannot be read just now") from error
        since = min((grant.start_time for grant in active), default=at)
        async with self._database.tenant_transaction(key.tenant_id) as connection:
            credited, paid = await usage_history.credits_at(connection, key, since, at)
        balances = []
        for credit_key, grant in windows.items():
            balance = balance_at(grant, at, found[credit_key].balance)
            balance.used = paid.get((grant.grant_id, credit_key.window_start), 0)
            balances.append(balance)
        ended = counted.period.end is not None and counted.period.end <= at
        return CounterAccount(
            limit=entitlement.limit_quantity,
            hard=entitlement.limit_mode is LimitMode.HARD,
            counter=Totals(
                used=used,
                reserved=held,
                credited=credited,
                rolled_in=present.rolled_in,
                # The next period takes the rest when it begins.
                rolled_out=chain.totals.rolled_out if ended and chain.totals is not None else 0,
            ),
            credits=tuple(balances),
        )

    async def _declared_then(self, check: Check, source: str) -> Feature | None:
        """Return the feature as the catalog of this source declares it; of one that is not kept, as it does now."""
        if source:
            try:
                # A large one takes a while, in which others shall be answered.
                catalogs = await asyncio.to_thread(parse_catalog, source)
                return catalogs.root.features_by_key.get(check.feature_key)
            except CatalogInvalid:
                # What an older release accepted, perhaps.
                log.warning("catalog_not_understood", tenant_id=check.tenant_id)
        return (await self._tenants.get(check.tenant_id)).features.get(check.feature_key)

    def _explanation(self, check: Check, account: HotAccount | None, answer: CheckAnswer, then: _Then) -> Explanation:
        at = then.at
        feature = None if account is None else account.feature(check.feature_key, to_ms(at))
        # As calls are placed in time: by whole milliseconds.
        instant = end_of_ms(to_ms(at))
        sources = [] if account is None else explain_sources(account.sources, check.feature_key, instant)
        among = {source.grant.grant_id for source in sources if source.grant is not None}
        if account is not None:
            sources += [
                explain_past_grant(row.grant, at, row.grant.revoke_time)
                for row in then.grants
                if row.grant.grant_id not in among and row.grant.create_time <= at
            ]
        facts = Facts(
            account_id=check.account_id,
            feature_key=check.feature_key,
            feature_known=then.feature_known,
            account_state=account.sources.state if account is not None else None,
            entitlement=feature.entitlement if feature is not None else None,
            limit=answer.limit_quantity,
            quantity=check.quantity,
            used=answer.used_quantity,
            held=answer.held_quantity,
            reset_time=answer.reset_time,
            why_not=why_no_source(sources, answer.reason),
        )
        tenant = self._tenants.last_known(check.tenant_id)
        return Explanation(
            check=check,
            answer=answer,
            steps=tuple(explain_steps(facts)),
            sources=tuple(sources),
            grants=_views(check, sources, then),
            period=feature.period if feature is not None and feature.metered else None,
            feature=tenant.features.get(check.feature_key) if tenant is not None else None,
            at=at,
            catalog_revision=then.catalog_revision,
            history_complete=then.complete,
        )


async def _grant_rows(connection: Connection, check: Check) -> list[GrantRow]:
    return await page_of_grants(
        connection,
        check.tenant_id,
        account_id=check.account_id,
        feature_key=check.feature_key,
        kinds=(),
        before=None,
        limit=GRANTS_MAX,
    )


def _views(check: Check, sources: Sequence[ExplainedSource], then: _Then) -> tuple[GrantView, ...]:
    """Return the grants that count, in the order of use, as they were then."""
    rows = {row.grant.grant_id: row for row in then.grants}
    balances = {balance.grant_id: balance for balance in then.balances}
    counting = [source.grant for source in sources if source.grant is not None and source.effective]
    views = []
    for grant in sorted(counting, key=burn_order):
        row = rows.get(grant.grant_id)
        if row is None:
            continue
        revoke_time = row.grant.revoke_time
        if revoke_time is not None and revoke_time > then.at:
            row = replace(row, grant=replace(row.grant, revoke_time=None), revoke_reason="")
        balance = balances.get(grant.grant_id)
        stored = None if balance is None else StoredBalance(balance.window.start, balance.given, balance.used)
        views.append(view_of(check.tenant_id, row, stored, then.at))
    return tuple(views)


def _counter_key(check: Check, feature: HotFeature) -> CounterKey:
    period = feature.period
    assert period is not None
    return CounterKey(check.tenant_id, check.account_id, check.feature_key, period.kind.value, period.start)
