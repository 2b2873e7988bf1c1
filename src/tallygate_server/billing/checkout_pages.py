"""Open pages where plans are paid for: at most one of an account and plan, and none that would sell a plan twice."""

from __future__ import annotations

from tallygate_server.billing.observed import ObservedCheckoutSession
from tallygate_server.billing.ports import Cause, SubscriptionSync
from tallygate_server.billing.provider import PaymentProvider
from tallygate_server.domain.identifier import AccountId, PlanKey, TenantId
from tallygate_server.errors import BillingProviderUnavailable
from tallygate_server.storage import checkout_sessions as rows
from tallygate_server.storage.checkout_sessions import CheckoutSessionRow
from tallygate_server.storage.engine import Database


class CheckoutPages:
    """Knows and closes open pages."""

    def __init__(self, database: Database, *, provider: PaymentProvider, sync: SubscriptionSync) -> None:
        """Keep pages in the database as the provider has them; `sync` learns of what was bought on one."""
        self._database = database
        self._provider = provider
        self._sync = sync

    async def open_page(
        self, tenant_id: TenantId, account_id: AccountId, plan_key: PlanKey, *, actor: str
    ) -> CheckoutSessionRow | None:
        """Return the page that is open at the provider, or None; one that is not any more is noted as closed."""
        async with self._database.tenant_transaction(tenant_id) as connection:
            row = await rows.read_open_session(connection, tenant_id, account_id, plan_key)
        if row is None:
            return None
        observed = await self._provider.checkout_session(row.provider_session_id)
        if observed is not None and observed.state == rows.OPEN:
            return row
        await self._note_closed(tenant_id, row, observed, actor)
        return None

    async def close(
        self, tenant_id: TenantId, account_id: AccountId, plan_key: PlanKey, *, actor: str, key: str
    ) -> None:
        """Close the page that is open, if one is; the account may just have paid on it, which is noted then."""
        row = await self.open_page(tenant_id, account_id, plan_key, actor=actor)
        if row is None:
            return
        await self._provider.expire_checkout_session(row.provider_session_id, operation_id=key)
        observed = await self._provider.checkout_session(row.provider_session_id)
        if observed is not None and observed.state == rows.OPEN:
            raise BillingProviderUnavailable("stripe", "it does not close a page")
        await self._note_closed(tenant_id, row, observed, actor)

    async def _note_closed(
        self, tenant_id: TenantId, row: CheckoutSessionRow, observed: ObservedCheckoutSession | None, actor: str
    ) -> None:
        if observed is not None and observed.provider_subscription_id:
            await self._sync.refresh(observed.provider_subscription_id, Cause(action="checkout", actor=actor))
        complete = observed is not None and observed.state == rows.COMPLETE
        async with self._database.tenant_transaction(tenant_id) as connection:
            await rows.close_checkout_session(
                connection, tenant_id, row.provider_session_id, rows.COMPLETE if complete else rows.EXPIRED
            )
