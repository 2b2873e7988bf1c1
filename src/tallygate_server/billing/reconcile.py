"""Compares subscriptions with the billing provider and repairs what differs, for the case that webhooks were lost.

It asks the provider what has changed since it last looked, which finds also what was bought and never heard of; once a
day, and for a single account, it looks at everything that either side has. Repairs go the way that webhooks go. What
cannot be repaired (a subscription that the provider does not know, a price that is no plan) is reported.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import structlog

from tallygate_server.billing.not_configured import connected
from tallygate_server.billing.observation import Difference
from tallygate_server.billing.observed import ObservedInvoice, PaymentOutcome
from tallygate_server.billing.ports import Cause
from tallygate_server.billing.provider import PaymentProvider
from tallygate_server.billing.recorder import Recorder
from tallygate_server.billing.sync import Compared, StripeSubscriptions
from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.errors import TallygateError, Unavailable
from tallygate_server.storage import billing as rows
from tallygate_server.storage.audit import add_audit_entry
from tallygate_server.storage.billing import InvoiceRow, Reconciled
from tallygate_server.storage.checkout_sessions import COMPLETE, EXPIRED, close_checkout_session
from tallygate_server.storage.engine import Database
from tallygate_server.telemetry import metrics
from tallygate_server.tenants import TenantDirectory

log = structlog.get_logger(__name__)

ACTION: Final = "reconcile"
JOB_ACTOR: Final = "reconciliation"
OVERLAP: Final = timedelta(minutes=10)
"""How far before the last look the next one begins: the provider's list of what happened may lag behind."""
EVERYTHING_EVERY: Final = timedelta(hours=24)
PAYMENT_AGE_MAX: Final = timedelta(days=180)
"""Age of an invoice up to which its payments are looked at again: refunds and disputes come that late."""
OPERATION_AGE_MIN: Final = timedelta(minutes=5)
"""Age from which an operation whose outcome is unknown is looked after; a younger one may still be under way."""
DIFFERENCES_MAX: Final = 1_000
"""Differences that one run tells one by one; all are counted."""
AT_ONCE: Final = 4
"""Subscriptions that are asked about at the same time."""
PAGE: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionDifference:
    """A difference between the provider and us; values as JSON can carry them."""

    tenant_id: str
    account_id: str
    """Empty where it is unknown here, as the next."""
    subscription_id: str
    provider_subscription_id: str
    field: str
    here: Any
    there: Any
    repaired: bool


@dataclass(slots=True, kw_only=True)
class Reconciliation:
    """What a run has found and done."""

    examined_count: int = 0
    differences: list[SubscriptionDifference] = field(default_factory=list)
    """At most `DIFFERENCES_MAX`."""
    difference_count: int = 0
    repaired_count: int = 0
    failed_count: int = 0
    """Subscriptions that could not be compared; the log says why."""

    def add(self, difference: SubscriptionDifference) -> None:
        """Count the difference, and keep it where there is room."""
        self.difference_count += 1
        self.repaired_count += difference.repaired
        if len(self.differences) < DIFFERENCES_MAX:
            self.differences.append(difference)
        metrics.reconciled.add(difference.field, "repaired" if difference.repaired else "reported")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scope:
    """What a run looks at."""

    tenant_id: str
    """Empty: every tenant."""
    account_id: str
    repair: bool
    thorough: bool
    """Whether payments are looked at that nothing points to."""
    cause: Cause
    found: Reconciliation


class Reconciler:
    """Compares and repairs."""

    def __init__(
        self,
        database: Database,
        *,
        lookups: Database,
        tenants: TenantDirectory,
        provider: PaymentProvider | None,
        sync: StripeSubscriptions | None,
        recorder: Recorder | None,
        clock: Clock,
    ) -> None:
        """Compare with the provider (None, as the next two: none is connected), and repair through `sync`."""
        self._database = database
        self._lookups = lookups
        self._tenants = tenants
        self._provider = provider
        self._sync = sync
        self._recorder = recorder
        self._clock = clock

    async def run(
        self,
        tenant_id: TenantId,
        *,
        account_id: str = "",
        changed_after: datetime | None = None,
        validate_only: bool = False,
        actor: str = "",
    ) -> Reconciliation:
        """Reconcile a tenant, or one account of it as a whole; with `validate_only` repair nothing.

        Without a time: what changed since the last reconciliation, everything where there was none. Raises
        TenantNotFound, BillingProviderNotConfigured, BillingProviderUnavailable, StoreUnavailable.
        """
        provider = connected(self._provider)
        await self._tenants.get(tenant_id)
        begun = self._clock.now()
        since = changed_after
        if since is None and not account_id:
            async with self._database.tenant_transaction(tenant_id) as connection:
                until = await rows.read_reconciled_until(connection, tenant_id)
            since = None if until is None else until - OVERLAP
        scope = _Scope(
            tenant_id=tenant_id,
            account_id=account_id,
            repair=not validate_only,
            thorough=bool(account_id) or since is None,
            cause=Cause(action=ACTION, actor=actor),
            found=Reconciliation(),
        )
        if account_id:
            await self._compare_all(self._ids_of_account(provider, tenant_id, account_id), scope)
        elif since is None:
            await self._compare_all(self._every_id(provider, tenant_id), scope)
        else:
            await self._compare_all(provider.changed_subscription_ids(since=since), scope)
        await self._settle(provider, scope)
        if scope.repair:
            # A run from a time of the caller's own may have left out what came before it.
            marked = not account_id and changed_after is None
            await self._finish(tenant_id, scope, begun, everything=marked and since is None, marked=marked)
        return scope.found

    async def run_due(self) -> dict[str, int]:
        """Reconcile every tenant: what changed since the last look, once a day everything; return what was done.

        The result is empty where nothing differed. Does nothing while no provider is connected. Raises
        BillingProviderUnavailable, StoreUnavailable; the next run then begins where this one did.
        """
        if self._provider is None:
            return {}
        begun = self._clock.now()
        async with self._lookups.plain_transaction() as connection:
            tenant_ids = await rows.every_tenant(connection)
        if not tenant_ids:
            return {}
        marks: dict[TenantId, datetime | None] = {}
        everything = False
        for tenant_id in tenant_ids:
            async with self._database.tenant_transaction(tenant_id) as connection:
                marks[tenant_id] = await rows.read_reconciled_until(connection, tenant_id)
                last = await rows.read_reconciled_until(connection, tenant_id, Reconciled.EVERYTHING)
            everything = everything or last is None or begun - last >= EVERYTHING_EVERY
        scope = _Scope(
            tenant_id="",
            account_id="",
            repair=True,
            thorough=everything,
            cause=Cause(action=ACTION, actor=JOB_ACTOR),
            found=Reconciliation(),
        )
        known = [mark for mark in marks.values() if mark is not None]
        if everything or len(known) < len(marks):
            await self._compare_all(self._every_id(self._provider, ""), scope)
        else:
            since = min(known) - OVERLAP
            await self._compare_all(self._provider.changed_subscription_ids(since=since), scope)
        for tenant_id in tenant_ids:
            part = _Scope(
                tenant_id=tenant_id,
                account_id="",
                repair=True,
                thorough=everything,
                cause=scope.cause,
                found=scope.found,
            )
            await self._settle(self._provider, part)
            await self._finish(tenant_id, part, begun, everything=everything, marked=True)
        return _told(scope.found)

    # --- What to look at ----------------------------------------------------------------------------------

    async def _every_id(self, provider: PaymentProvider, tenant_id: str) -> AsyncIterator[str]:
        """Yield what the provider has, then what only we have."""
        seen: set[str] = set()
        async for found in provider.changed_subscription_ids(since=None):
            seen.add(found)
            yield found
        async for found in self._our_ids(tenant_id, ""):
            if found not in seen:
                yield found

    async def _ids_of_account(
        self, provider: PaymentProvider, tenant_id: TenantId, account_id: str
    ) -> AsyncIterator[str]:
        async with self._database.tenant_transaction(tenant_id) as connection:
            customers = await rows.read_customers_of(connection, tenant_id, AccountId(account_id))
        seen: set[str] = set()
        for customer in customers:
            async for found in provider.changed_subscription_ids(since=None, customer_id=customer.provider_customer_id):
                if found not in seen:
                    seen.add(found)
                    yield found
        async for found in self._our_ids(tenant_id, account_id):
            if found not in seen:
                yield found

    async def _our_ids(self, tenant_id: str, account_id: str) -> AsyncIterator[str]:
        after = ""
        while True:
            async with self._lookups.plain_transaction() as connection:
                page = await rows.subscriptions_at_provider(
                    connection,
                    tenant_id=tenant_id,
                    account_id=account_id,
                    after_provider_subscription_id=after,
                    limit=PAGE,
                )
            for held in page:
                yield held.provider_subscription_id
            if len(page) < PAGE:
                return
            after = page[-1].provider_subscription_id

    # --- Comparing ----------------------------------------------------------------------------------------

    async def _compare_all(self, ids: AsyncIterator[str], scope: _Scope) -> None:
        batch: list[str] = []
        async for provider_subscription_id in ids:
            batch.append(provider_subscription_id)
            if len(batch) == AT_ONCE:
                await self._compare_batch(batch, scope)
                batch = []
        await self._compare_batch(batch, scope)

    async def _compare_batch(self, batch: Iterable[str], scope: _Scope) -> None:
        outcomes = await asyncio.gather(*(self._compare(each, scope) for each in batch), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _compare(self, provider_subscription_id: str, scope: _Scope) -> None:
        assert self._sync is not None
        try:
            compared = await self._sync.compare(
                provider_subscription_id,
                scope.cause,
                repair=scope.repair,
                tenant_id=scope.tenant_id,
                account_id=scope.account_id,
            )
            if compared is None:
                return
            scope.found.examined_count += 1
            for each in compared.differences:
                # One that cannot be repaired stands beside those that were.
                repaired = compared.repaired and each not in compared.unrepairable
                scope.found.add(_told_of(compared, each, repaired=repaired))
            await self._compare_money(compared, scope)
        except Unavailable:
            raise
        except TallygateError as error:
            scope.found.failed_count += 1
            log.warning("subscription_not_reconciled", error=type(error).__name__, tenant_id=scope.tenant_id)
        except Exception as error:
            # One that we do not understand must not keep the others from being repaired.
            scope.found.failed_count += 1
            log.exception("subscription_not_reconciled", error=type(error).__name__, tenant_id=scope.tenant_id)

    async def _compare_money(self, compared: Compared, scope: _Scope) -> None:
        """Compare the subscription's invoices with those on record, and see that their payments are on record."""
        if not compared.known_there or not compared.tenant_id:
            return
        provider, recorder = connected(self._provider), self._recorder
        assert recorder is not None
        tenant_id = TenantId(compared.tenant_id)
        for observed in await provider.invoices_of_subscription(compared.provider_subscription_id):
            async with self._database.tenant_transaction(tenant_id) as connection:
                present = await rows.read_invoice(connection, tenant_id, observed.invoice_id)
                paid_here = present is not None and await rows.payments_known_of(
                    connection, tenant_id, present.invoice_id
                )
            differs = present is None or _as_recorded(present) != _as_observed(observed)
            if differs:
                here = None if present is None else present.state
                difference = Difference(field="invoice", here=here, there=f"{observed.invoice_id} {observed.state}")
                scope.found.add(_told_of(compared, difference, repaired=scope.repair))
                if scope.repair:
                    await recorder.invoice(observed.invoice_id, scope.cause)
            recent = self._clock.now() - observed.create_time <= PAYMENT_AGE_MAX
            tried = observed.attempt_count > 0 or observed.paid_minor > 0
            if tried and (differs or not paid_here or (scope.thorough and recent)):
                await self._compare_payments(compared, observed, scope)

    async def _compare_payments(self, compared: Compared, invoice: ObservedInvoice, scope: _Scope) -> None:
        provider, recorder = connected(self._provider), self._recorder
        assert recorder is not None
        tenant_id = TenantId(compared.tenant_id)
        for observed in await provider.payments_of_invoice(invoice.invoice_id):
            async with self._database.tenant_transaction(tenant_id) as connection:
                present = await rows.read_payment(connection, tenant_id, observed.payment_id)
            there = (observed.outcome, observed.refunded_minor, observed.disputed, observed.fraud_warning)
            here = None
            if present is not None:
                outcome = PaymentOutcome(present.state)
                here = (outcome, present.refunded_minor, present.disputed, present.fraud_warning)
            if here == there:
                continue
            difference = Difference(
                field="payment",
                here=None if present is None else present.state,
                there=f"{observed.payment_id} {observed.outcome.value}",
            )
            scope.found.add(_told_of(compared, difference, repaired=scope.repair))
            if scope.repair:
                await recorder.payment(observed.payment_id, scope.cause)

    # --- What was begun and not ended ---------------------------------------------------------------------

    async def _settle(self, provider: PaymentProvider, scope: _Scope) -> None:
        """Look after pages that should be closed, and operations of which nobody knows what became of them."""
        if not scope.repair:
            return
        assert self._sync is not None
        tenant_id, now = TenantId(scope.tenant_id), self._clock.now()
        async with self._database.tenant_transaction(tenant_id) as connection:
            pages = await rows.open_checkout_sessions(
                connection,
                tenant_id,
                account_id=scope.account_id,
                # An open page may be paid on at any time: what is bought there is found by what changed.
                expired_by=None if scope.thorough else now,
                limit=PAGE,
            )
            begun = await rows.accounts_with_pending_operations(
                connection, tenant_id, account_id=scope.account_id, begun_by=now - OPERATION_AGE_MIN, limit=PAGE
            )
        for session_id in pages:
            session = await provider.checkout_session(session_id)
            if session is not None and session.state not in (COMPLETE, EXPIRED):
                continue
            if session is not None and session.provider_subscription_id:
                await self._sync.refresh(session.provider_subscription_id, scope.cause)
            # A page that the provider does not know can be paid on no more than one that is over.
            state = EXPIRED if session is None else session.state
            async with self._database.tenant_transaction(tenant_id) as connection:
                await close_checkout_session(connection, tenant_id, session_id, state)
        if scope.account_id:
            # The account was looked at as a whole already.
            return
        for account_id in begun:
            part = _Scope(
                tenant_id=tenant_id,
                account_id=account_id,
                repair=True,
                thorough=False,
                cause=scope.cause,
                found=scope.found,
            )
            await self._compare_all(self._ids_of_account(provider, tenant_id, account_id), part)

    async def _finish(
        self, tenant_id: TenantId, scope: _Scope, begun: datetime, *, everything: bool, marked: bool
    ) -> None:
        """Write until when all is known, and who repaired how much."""
        mine = [each for each in scope.found.differences if each.tenant_id == tenant_id]
        async with self._database.tenant_transaction(tenant_id) as connection:
            if marked:
                now = self._clock.now()
                await rows.write_reconciled_until(connection, tenant_id, begun, at=now)
                if everything:
                    await rows.write_reconciled_until(connection, tenant_id, begun, at=now, what=Reconciled.EVERYTHING)
            if mine:
                fields = Counter(each.field for each in mine)
                await add_audit_entry(
                    connection,
                    tenant_id,
                    actor=scope.cause.actor,
                    action="subscription.reconciliation",
                    subject=f"account:{scope.account_id}" if scope.account_id else f"tenant:{tenant_id}",
                    detail={"differences": dict(fields), "repaired": sum(each.repaired for each in mine)},
                )
        if mine:
            log.warning(
                "subscriptions_differed",
                tenant_id=tenant_id,
                differences=len(mine),
                repaired=sum(each.repaired for each in mine),
            )


def _as_recorded(row: InvoiceRow) -> tuple[object, ...]:
    return (row.state, row.number, row.due_minor, row.paid_minor, row.attempt_count, row.next_attempt_time)


def _as_observed(observed: ObservedInvoice) -> tuple[object, ...]:
    return (
        observed.state,
        observed.number,
        observed.due_minor,
        observed.paid_minor,
        observed.attempt_count,
        observed.next_attempt_time,
    )


def _told_of(compared: Compared, difference: Difference, *, repaired: bool) -> SubscriptionDifference:
    return SubscriptionDifference(
        tenant_id=compared.tenant_id,
        account_id=compared.account_id,
        subscription_id=compared.subscription_id,
        provider_subscription_id=compared.provider_subscription_id,
        field=difference.field,
        here=difference.here,
        there=difference.there,
        repaired=repaired,
    )


def _told(found: Reconciliation) -> dict[str, int]:
    counts = {
        "examined": found.examined_count,
        "differences": found.difference_count,
        "repaired": found.repaired_count,
        "failed": found.failed_count,
    }
    return counts if found.difference_count or found.failed_count else {}
