"""Records customers, invoices and payments as the billing provider has them: one row each, however often it is told.

Like subscriptions they are fetched under a lock of their own and written when they differ. A payment's events are
written in the transaction that changes its row, so each is sent once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

from tallygate_server.billing.customers import free_metadata
from tallygate_server.billing.observed import ObservedCustomer, ObservedInvoice, ObservedPayment, PaymentOutcome
from tallygate_server.billing.ports import Cause, SubscriptionSync
from tallygate_server.billing.provider import ACCOUNT_ATTRIBUTE, TENANT_ATTRIBUTE, PaymentProvider
from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import AccountId, TenantId, is_account_id, is_tenant_id
from tallygate_server.storage import accounts as account_rows
from tallygate_server.storage import billing as rows
from tallygate_server.storage.billing import CustomerRow, InvoiceRow, Owner, PaymentRow
from tallygate_server.storage.engine import Database
from tallygate_server.storage.outbox import add_event
from tallygate_server.storage.provider_locks import HeldLock, ProviderLocks
from tallygate_server.telemetry import metrics
from tallygate_server.unique_ids import id_of

CUSTOMER_PREFIX: Final = "cus"
INVOICE_PREFIX: Final = "inv"
PAYMENT_PREFIX: Final = "pay"

_PAID: Final = frozenset({PaymentOutcome.SUCCEEDED.value, PaymentOutcome.REFUNDED.value})
"""States in which the money was there."""


class Recorder:
    """Keeps the rows."""

    def __init__(
        self,
        database: Database,
        *,
        lookups: Database,
        provider: PaymentProvider,
        sync: SubscriptionSync,
        locks: ProviderLocks,
        clock: Clock,
    ) -> None:
        """Write to the database; `lookups` (role INTAKE) tells whose something is.

        `sync` looks at subscriptions that are unknown here.
        """
        self._database = database
        self._lookups = lookups
        self._provider = provider
        self._sync = sync
        self._locks = locks
        self._clock = clock

    # --- Customers ----------------------------------------------------------------------------------------

    async def customer(self, customer_id: str) -> Owner | None:
        """Record the customer as it is; None where it is nobody's of ours."""
        async with self._locks.hold(f"customer:{customer_id}") as lock:
            observed = await self._provider.customer(customer_id)
            if observed is None:
                return None
            owner = await self._owner_of_customer(observed)
            if owner is None:
                return None
            tenant_id, account_id = owner.tenant_id, owner.account_id
            async with self._database.tenant_transaction(tenant_id) as connection:
                if not await account_rows.account_exists(connection, tenant_id, account_id):
                    return None
                await account_rows.read_account(connection, tenant_id, account_id, lock=True)
                await lock.confirm()
                present = await rows.read_customer(connection, tenant_id, customer_id)
                wanted = self._customer_row(observed, account_id, present)
                if wanted != present:
                    await rows.write_customer(connection, tenant_id, replace(wanted, update_time=self._clock.now()))
        return owner

    def _customer_row(
        self, observed: ObservedCustomer, account_id: AccountId, present: CustomerRow | None
    ) -> CustomerRow:
        if observed.deleted and present is not None:
            # Of a deleted one the provider tells its id only; who it was stays on record.
            return replace(present, deleted=True)
        now = self._clock.now()
        made = observed.create_time or now
        return CustomerRow(
            customer_id=present.customer_id if present else id_of(CUSTOMER_PREFIX, made, observed.customer_id),
            account_id=present.account_id if present else account_id,
            provider_customer_id=observed.customer_id,
            email=observed.email,
            name=observed.name,
            default_payment_method_id=observed.default_payment_method_id,
            currency=observed.currency,
            tax_ids=observed.tax_ids,
            address=observed.address,
            metadata=free_metadata(observed.metadata),
            deleted=observed.deleted,
            create_time=present.create_time if present else made,
            update_time=present.update_time if present else now,
        )

    async def _owner_of_customer(self, observed: ObservedCustomer) -> Owner | None:
        async with self._lookups.plain_transaction() as connection:
            owner = await rows.owner_of_customer(connection, observed.customer_id)
        if owner is not None:
            return owner
        tenant_id = observed.metadata.get(TENANT_ATTRIBUTE, "")
        account_id = observed.metadata.get(ACCOUNT_ATTRIBUTE, "")
        if not is_tenant_id(tenant_id) or not is_account_id(account_id):
            return None
        return Owner(tenant_id=TenantId(tenant_id), account_id=AccountId(account_id))

    # --- Invoices -----------------------------------------------------------------------------------------

    async def invoice(self, invoice_id: str, cause: Cause) -> Owner | None:
        """Record the invoice as it is; None where it is nobody's of ours.

        A subscription that it bills and that is unknown here is looked at first. The cause is said of that.
        """
        return await self._with_what_it_is_for(partial(self._invoice, invoice_id), cause)

    async def _invoice(self, invoice_id: str, *, final: bool) -> Owner | _First | None:
        async with self._locks.hold(f"invoice:{invoice_id}") as lock:
            observed = await self._provider.invoice(invoice_id)
            if observed is None:
                return None
            owner = await self._owner(observed.provider_subscription_id, observed.customer_id)
            if observed.provider_subscription_id and (owner is None or not owner.subscription_id) and not final:
                return _First(subscription_id=observed.provider_subscription_id)
            if owner is not None:
                await self._write_invoice(owner, observed, lock)
            return owner

    async def _write_invoice(self, owner: Owner, observed: ObservedInvoice, lock: HeldLock) -> None:
        async with self._database.tenant_transaction(owner.tenant_id) as connection:
            await account_rows.read_account(connection, owner.tenant_id, owner.account_id, lock=True)
            await lock.confirm()
            present = await rows.read_invoice(connection, owner.tenant_id, observed.invoice_id)
            now = self._clock.now()
            wanted = InvoiceRow(
                invoice_id=id_of(INVOICE_PREFIX, observed.create_time, observed.invoice_id),
                account_id=present.account_id if present else owner.account_id,
                subscription_id=owner.subscription_id or (present.subscription_id if present else ""),
                provider_invoice_id=observed.invoice_id,
                state=observed.state,
                number=observed.number,
                currency=observed.currency,
                due_minor=observed.due_minor,
                paid_minor=observed.paid_minor,
                tax_minor=observed.tax_minor,
                period_start_time=observed.period_start_time,
                period_end_time=observed.period_end_time,
                due_time=observed.due_time,
                attempt_count=observed.attempt_count,
                next_attempt_time=observed.next_attempt_time,
                hosted_url=observed.hosted_url,
                create_time=observed.create_time,
                paid_time=observed.paid_time,
                update_time=present.update_time if present else now,
            )
            if wanted != present:
                await rows.write_invoice(connection, owner.tenant_id, replace(wanted, update_time=now))

    # --- Payments -----------------------------------------------------------------------------------------

    async def payment(self, payment_id: str, cause: Cause) -> Owner | None:
        """Record the payment as it is, after the invoice that it pays; None where it is nobody's of ours."""
        return await self._with_what_it_is_for(partial(self._payment, payment_id), cause)

    async def payment_of_charge(self, charge_id: str, cause: Cause) -> Owner | None:
        """Record the payment that the charge belongs to; None where it belongs to none, or to nobody's of ours."""
        observed = await self._provider.payment_of_charge(charge_id)
        return None if observed is None else await self.payment(observed.payment_id, cause)

    async def payments_of_invoice(self, invoice_id: str, cause: Cause) -> None:
        """Record every payment that was tried for the invoice."""
        for observed in await self._provider.payments_of_invoice(invoice_id):
            await self.payment(observed.payment_id, cause)

    async def _payment(self, payment_id: str, *, final: bool) -> Owner | _First | None:
        async with self._locks.hold(f"payment:{payment_id}") as lock:
            observed = await self._provider.payment(payment_id)
            if observed is None:
                return None
            owner, invoice = None, None
            async with self._lookups.plain_transaction() as connection:
                owner = await rows.owner_of_customer(connection, observed.customer_id)
            if owner is not None and observed.invoice_id:
                async with self._database.tenant_transaction(owner.tenant_id) as connection:
                    invoice = await rows.read_invoice(connection, owner.tenant_id, observed.invoice_id)
            if observed.invoice_id and invoice is None and not final:
                return _First(invoice_id=observed.invoice_id)
            if owner is not None:
                await self._write_payment(owner, observed, invoice, lock)
            return owner

    async def _write_payment(
        self, owner: Owner, observed: ObservedPayment, invoice: InvoiceRow | None, lock: HeldLock
    ) -> None:
        tenant_id = owner.tenant_id
        async with self._database.tenant_transaction(tenant_id) as connection:
            await account_rows.read_account(connection, tenant_id, owner.account_id, lock=True)
            await lock.confirm()
            present = await rows.read_payment(connection, tenant_id, observed.payment_id)
            now = self._clock.now()
            account_id = owner.account_id if invoice is None else invoice.account_id
            wanted = PaymentRow(
                payment_id=id_of(PAYMENT_PREFIX, observed.create_time, observed.payment_id),
                account_id=present.account_id if present else account_id,
                subscription_id="" if invoice is None else invoice.subscription_id,
                invoice_id="" if invoice is None else invoice.invoice_id,
                provider_payment_id=observed.payment_id,
                state=observed.outcome.value,
                currency=observed.currency,
                amount_minor=observed.amount_minor,
                refunded_minor=observed.refunded_minor,
                description=observed.description,
                failure_code=observed.failure_code,
                disputed=observed.disputed,
                fraud_warning=observed.fraud_warning,
                metadata=present.metadata if present else {},
                create_time=observed.create_time,
                update_time=present.update_time if present else now,
            )
            if wanted == present:
                return
            await rows.write_payment(connection, tenant_id, replace(wanted, update_time=now))
            happened = payment_happenings(present, wanted)
            for outcome in happened:
                await add_event(
                    connection,
                    tenant_id,
                    event_type=f"payment.{outcome}",
                    account_id=wanted.account_id,
                    payload=_payload(present, wanted),
                    create_time=now,
                )
        for outcome in happened:
            metrics.payments.add(outcome)

    # --- Whose it is --------------------------------------------------------------------------------------

    async def _owner(self, provider_subscription_id: str, customer_id: str) -> Owner | None:
        async with self._lookups.plain_transaction() as connection:
            if provider_subscription_id:
                owner = await rows.owner_of_subscription(connection, provider_subscription_id)
                if owner is not None:
                    return owner
            return await rows.owner_of_customer(connection, customer_id)

    async def _with_what_it_is_for(
        self, record: Callable[..., Awaitable[Owner | _First | None]], cause: Cause
    ) -> Owner | None:
        """Record something, after what it is for where that is unknown here; no lock is held in between."""
        found = await record(final=False)
        if not isinstance(found, _First):
            return found
        if found.subscription_id:
            await self._sync.refresh(found.subscription_id, cause)
        if found.invoice_id:
            await self.invoice(found.invoice_id, cause)
        found = await record(final=True)
        assert not isinstance(found, _First)
        return found


class _First:
    """What is to be looked at first: it is not known here."""

    def __init__(self, *, subscription_id: str = "", invoice_id: str = "") -> None:
        self.subscription_id = subscription_id
        self.invoice_id = invoice_id


def payment_happenings(before: PaymentRow | None, after: PaymentRow) -> list[str]:
    """Return what happened to a payment between two observations, as types of events without prefix."""
    found = []
    if after.state in _PAID and (before is None or before.state not in _PAID):
        found.append("succeeded")
    failed = PaymentOutcome.FAILED.value
    if after.state == failed and (before is None or before.state != failed):
        found.append("failed")
    if after.refunded_minor > (0 if before is None else before.refunded_minor):
        found.append("refunded")
    if after.disputed and (before is None or not before.disputed):
        found.append("disputed")
    if after.fraud_warning and (before is None or not before.fraud_warning):
        found.append("fraud_warning")
    return found


def _payload(before: PaymentRow | None, after: PaymentRow) -> dict[str, Any]:
    return {
        "payment_id": after.payment_id,
        "provider_payment_id": after.provider_payment_id,
        "invoice_id": after.invoice_id,
        "subscription_id": after.subscription_id,
        "state_before": None if before is None else before.state,
        "state_after": after.state,
        "amount_minor": after.amount_minor,
        "refunded_minor": after.refunded_minor,
        "currency": after.currency,
        "failure_code": after.failure_code,
    }
