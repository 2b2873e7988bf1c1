"""Shows customers, invoices and payments as they are on record; needs no billing provider."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from tallygate_server.domain.identifier import TenantId
from tallygate_server.storage import billing as rows
from tallygate_server.storage.billing import CustomerRow, InvoiceRow, PaymentRow
from tallygate_server.storage.engine import Database
from tallygate_server.tenants import TenantDirectory


class BillingRecords:
    """Lists what is on record, newest first; a page goes on before the last id of the page before."""

    def __init__(self, database: Database, tenants: TenantDirectory) -> None:
        """Read from the database."""
        self._database = database
        self._tenants = tenants

    async def customers(
        self, tenant_id: TenantId, *, account_id: str = "", before_customer_id: str = "", limit: int
    ) -> Sequence[CustomerRow]:
        """Return customers, deleted ones too; raise TenantNotFound."""
        await self._tenants.get(tenant_id)
        async with self._database.tenant_transaction(tenant_id) as connection:
            return await rows.page_of_customers(
                connection, tenant_id, account_id=account_id, before_customer_id=before_customer_id, limit=limit
            )

    async def invoices(
        self,
        tenant_id: TenantId,
        *,
        account_id: str = "",
        subscription_id: str = "",
        state: str = "",
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        before_invoice_id: str = "",
        limit: int,
    ) -> Sequence[InvoiceRow]:
        """Return invoices; empty filters admit everything. Raises TenantNotFound."""
        await self._tenants.get(tenant_id)
        async with self._database.tenant_transaction(tenant_id) as connection:
            return await rows.page_of_invoices(
                connection,
                tenant_id,
                account_id=account_id,
                subscription_id=subscription_id,
                state=state,
                start_time=start_time,
                end_time=end_time,
                before_invoice_id=before_invoice_id,
                limit=limit,
            )

    async def payments(
        self,
        tenant_id: TenantId,
        *,
        account_id: str = "",
        subscription_id: str = "",
        state: str = "",
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        before_payment_id: str = "",
        limit: int,
    ) -> Sequence[PaymentRow]:
        """Return payments; empty filters admit everything. Raises TenantNotFound."""
        await self._tenants.get(tenant_id)
        async with self._database.tenant_transaction(tenant_id) as connection:
            return await rows.page_of_payments(
                connection,
                tenant_id,
                account_id=account_id,
                subscription_id=subscription_id,
                state=state,
                start_time=start_time,
                end_time=end_time,
                before_payment_id=before_payment_id,
                limit=limit,
            )
