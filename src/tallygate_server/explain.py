"""Explaining: why `CheckAccess` answers as it does, or did at a time in the past.

For now, the check is made and its numbers are taken apart. For the past, what decided is read from the account's
history and what was used from the ledger; the same code then decides. What only Redis knew for the milliseconds of an
increment on its way is not remembered.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from tallygate_server.access import AccessChecker
from tallygate_server.catalog_files import parse_catalog
from tallygate_server.clock import Clock
from tallygate_server.domain.call import Check, CheckAnswer
from tallygate_server.domain.catalog import Feature
from tallygate_server.domain.entitlement import AccountSources
from tallygate_server.domain.explanation import (
    ExplainedSource,
    Facts,
    Step,
    explain_sources,
    explain_steps,
    why_no_source,
)
from tallygate_server.domain.period import Period
from tallygate_server.errors import CatalogInvalid, InvalidRequest, StoreUnavailable
from tallygate_server.hot_accounts import HotAccount, HotAccounts, HotFeature, end_of_ms, to_ms
from tallygate_server.storage import usage_history
from tallygate_server.storage.account_history import sources_at
from tallygate_server.storage.engine import Database
from tallygate_server.storage.ledger import CounterKey
from tallygate_server.tenants import TenantDirectory

log = structlog.get_logger(__name__)

ATTEMPTS_MAX: Final = 5
"""Of explaining what is so now: the account may change between the check and the look at it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """An answer of `CheckAccess`, taken apart."""

    check: Check
    answer: CheckAnswer
    steps: tuple[Step, ...]
    sources: tuple[ExplainedSource, ...]
    period: Period | None
    """In which usage counted; None for what is not counted."""
    feature: Feature | None
    """As the catalog describes it now; None where it does not."""
    at: datetime
    catalog_revision: int
    history_complete: bool
    """Whether what decided then is certain."""


class Explainer:
    """Explains answers."""

    def __init__(
        self,
        *,
        checker: AccessChecker,
        accounts: HotAccounts,
        database: Database,
        tenants: TenantDirectory,
        clock: Clock,
    ) -> None:
        """Wire the explainer."""
        self._checker = checker
        self._accounts = accounts
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
            loaded = await self._accounts.load(check.tenant_id, check.account_id)
            now = self._clock.now()
            account = loaded.account
            if (account.revision if account is not None else 0) != answer.revision:
                continue
            tenant = await self._tenants.refresh(check.tenant_id)
            explanation = self._explanation(
                check,
                account,
                answer,
                at=now,
                feature_known=check.feature_key in tenant.features,
                catalog_revision=tenant.catalog_revision,
                history_complete=True,
            )
            # Between the check and now a period may have ended, or the catalog changed.
            if explanation.steps[-1].reason is answer.reason:
                return explanation
        raise StoreUnavailable("the account keeps changing; try again")

    async def _explain_then(self, check: Check, at: datetime) -> Explanation:
        at_ms = to_ms(at)
        async with self._database.tenant_transaction(check.tenant_id) as connection:
            sources, complete = await sources_at(connection, check.tenant_id, check.account_id, at)
            catalog_revision, catalog = await usage_history.catalog_at(connection, check.tenant_id, at)
            account = None if sources is None else HotAccount(sources, "")
            feature = None if account is None else account.feature(check.feature_key, at_ms)
            used = held = 0
            if feature is not None and feature.metered:
                key = _counter_key(check, feature)
                used = await usage_history.used_at(connection, key, at)
                held = await usage_history.reserved_at(connection, key, at)
        # A source that mentions the feature tells what it is, too.
        declared = await self._declared_then(check, catalog) if feature is None else None
        known = feature is not None or declared is not None
        answer = self._checker.judge(check, account, at_ms=at_ms, feature_known=known, used=used, held=held)
        if feature is None:
            answer.feature_kind = declared.kind if declared is not None else None
        return self._explanation(
            check,
            account,
            answer,
            at=at,
            feature_known=known,
            catalog_revision=catalog_revision,
            history_complete=complete,
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

    def _explanation(
        self,
        check: Check,
        account: HotAccount | None,
        answer: CheckAnswer,
        *,
        at: datetime,
        feature_known: bool,
        catalog_revision: int,
        history_complete: bool,
    ) -> Explanation:
        feature = None if account is None else account.feature(check.feature_key, to_ms(at))
        sources = () if account is None else _sources(account.sources, check.feature_key, at)
        facts = Facts(
            account_id=check.account_id,
            feature_key=check.feature_key,
            feature_known=feature_known,
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
            sources=sources,
            period=feature.period if feature is not None and feature.metered else None,
            feature=tenant.features.get(check.feature_key) if tenant is not None else None,
            at=at,
            catalog_revision=catalog_revision,
            history_complete=history_complete,
        )


def _sources(sources: AccountSources, feature_key: str, at: datetime) -> tuple[ExplainedSource, ...]:
    # As calls are placed in time: by whole milliseconds.
    return tuple(explain_sources(sources, feature_key, end_of_ms(to_ms(at))))


def _counter_key(check: Check, feature: HotFeature) -> CounterKey:
    period = feature.period
    assert period is not None
    return CounterKey(check.tenant_id, check.account_id, check.feature_key, period.kind.value, period.start)
