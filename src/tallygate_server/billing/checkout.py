"""Pages at the billing provider: one where a plan is paid for, and one where billing is managed.

A page changes nothing here: access begins when the payment arrives, through the webhook.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from tallygate_server.billing.checkout_pages import CheckoutPages
from tallygate_server.billing.customers import Customers
from tallygate_server.billing.not_configured import connected
from tallygate_server.billing.observed import ObservedCheckoutSession
from tallygate_server.billing.operations import Operation, Operations, Work
from tallygate_server.billing.ports import Order, SubscriptionSync
from tallygate_server.billing.provider import SUBSCRIPTION_ATTRIBUTE, PaymentProvider, Sale
from tallygate_server.billing.sales import (
    check_not_bought,
    plan_on_sale,
    price_to_pay,
    sale_from_json,
    sale_of,
    sale_to_json,
    trial_to_give,
)
from tallygate_server.clock import Clock
from tallygate_server.domain.catalog import BillingInterval
from tallygate_server.domain.entitlement import AccountState
from tallygate_server.domain.identifier import AccountId, PlanKey, TenantId
from tallygate_server.errors import AccountDeleted, AccountNotFound
from tallygate_server.storage import accounts as account_rows
from tallygate_server.storage import checkout_sessions as rows
from tallygate_server.storage.audit import add_audit_entry
from tallygate_server.storage.checkout_sessions import CheckoutSessionRow
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.engine import Database
from tallygate_server.storage.mapping import Json
from tallygate_server.tenants import TenantDirectory
from tallygate_server.unique_ids import new_id

OPEN_FOR: Final = timedelta(hours=23)
"""How long a page stays open. The provider's own bound is a day, by its clock and from when it is asked."""
REUSED_UNTIL: Final = timedelta(minutes=30)
"""Time that a page must still be open for, to be shown once more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedPage:
    """What `Checkout.open_page` is asked for; None and empty mean the default."""

    plan_key: PlanKey
    interval: BillingInterval | None = None
    """None: the month where the plan is sold by month, else its only interval."""
    quantity: int = 1
    success_url: str
    cancel_url: str
    trial_days: int | None = None
    """None: as many as the plan gives."""
    promotion_code: str = ""
    currency: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckoutPage:
    """A page where a plan is paid for."""

    provider_session_id: str
    url: str
    expire_time: datetime
    reused: bool
    """Whether it was open already."""


class Provisioner(Protocol):
    """Creates unknown accounts where their tenant allows it."""

    async def provision(self, tenant_id: TenantId, account_id: AccountId) -> bool:
        """Return whether the account exists afterwards."""


class Checkout:
    """Opens pages."""

    def __init__(
        self,
        database: Database,
        operations: Operations,
        customers: Customers,
        *,
        provider: PaymentProvider | None,
        sync: SubscriptionSync | None,
        tenants: TenantDirectory,
        accounts: Provisioner,
        clock: Clock,
    ) -> None:
        """Open pages at the provider (None: none is connected); `sync` learns of what was bought on one."""
        self._database = database
        self._operations = operations
        self._customers = customers
        self._provider = provider
        self._pages = (
            None if provider is None or sync is None else CheckoutPages(database, provider=provider, sync=sync)
        )
        self._tenants = tenants
        self._accounts = accounts
        self._clock = clock

    async def open_portal(self, tenant_id: TenantId, account_id: AccountId, *, return_url: str) -> str:
        """Return the address of a page where the account's customer manages billing.

        Raises BillingProviderNotConfigured, TenantNotFound, AccountNotFound, CustomerNotFound,
        BillingProviderUnavailable, PaymentRefused.
        """
        provider = connected(self._provider)
        await self._tenants.get(tenant_id)
        async with self._database.tenant_transaction(tenant_id) as connection:
            if not await account_rows.account_exists(connection, tenant_id, account_id):
                raise AccountNotFound(account_id)
        customer = await self._customers.find(tenant_id, account_id)
        return await provider.create_portal_session(customer.provider_customer_id, return_url=return_url)

    async def open_page(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        wanted: WantedPage,
        *,
        request_id: str = "",
        actor: str = "",
    ) -> CheckoutPage:
        """Return the open page of the account and plan; one with other content is closed and replaced.

        Raises BillingProviderNotConfigured, TenantNotFound, AccountNotFound, AccountDeleted, PlanNotFound,
        PriceNotFound, InvalidRequest, SubscriptionExists, RequestIdReused, OperationInProgress,
        BillingProviderUnavailable, PaymentRefused.
        """
        connected(self._provider)
        assert self._pages is not None
        await self._tenants.get(tenant_id)
        now = self._clock.now()
        async with self._database.tenant_transaction(tenant_id) as connection:
            plan = await plan_on_sale(connection, tenant_id, wanted.plan_key)
            price = price_to_pay(plan, wanted.interval, wanted.currency)
            trial_days = trial_to_give(plan, wanted.trial_days)
            known = await _check_account(connection, tenant_id, account_id)
        if not known and not await self._accounts.provision(tenant_id, account_id):
            raise AccountNotFound(account_id)
        sale = sale_of(tenant_id, plan, price)
        page = {
            "sale": sale_to_json(sale),
            "quantity": wanted.quantity,
            "trial_days": trial_days,
            "promotion_code": wanted.promotion_code,
            "success_url": wanted.success_url,
            "cancel_url": wanted.cancel_url,
        }
        order = Order(
            tenant_id=tenant_id,
            account_id=account_id,
            actor=actor,
            reason="",
            request_id=request_id,
            fingerprint=_digest("create_checkout_session", asdict(wanted) | {"interval": price.interval.value}),
        )
        fingerprint = _fingerprint(page)
        if not request_id:
            present = await self._reusable(order, sale, fingerprint)
            if present is not None:
                return present

        async def prepare() -> Json:
            customer = await self._customers.ensure(tenant_id, account_id, actor=actor)
            return page | {
                "customer_id": customer.provider_customer_id,
                "subscription_id": new_id("sub", now),
                "expire_time": (now + OPEN_FOR).isoformat(timespec="seconds"),
                "fingerprint": fingerprint,
            }

        work = Work(
            kind="create_checkout_session",
            subject=plan.key,
            prepare=prepare,
            look=self._look,
            act=lambda operation: self._act(operation, order),
            remember=lambda opened: {"provider_session_id": opened.provider_session_id},
            recall=lambda result: self._recall(order, sale, fingerprint, result),
        )
        opened, _ = await self._operations.carry_out(order, work)
        return opened

    async def _reusable(self, order: Order, sale: Sale, fingerprint: str) -> CheckoutPage | None:
        """Return the page with this content that is open long enough, or None."""
        assert self._pages is not None
        row = await self._pages.open_page(order.tenant_id, order.account_id, sale.plan_key, actor=order.actor)
        await self._check_not_bought(order, sale)
        if row is None or row.fingerprint != fingerprint:
            return None
        if row.expire_time < self._clock.now() + REUSED_UNTIL:
            return None
        return CheckoutPage(
            provider_session_id=row.provider_session_id, url=row.url, expire_time=row.expire_time, reused=True
        )

    async def _act(self, operation: Operation, order: Order) -> CheckoutPage:
        provider, pages = connected(self._provider), self._pages
        assert pages is not None
        prepared = operation.prepared
        sale = sale_from_json(operation.tenant_id, prepared["sale"])
        present = await self._reusable(order, sale, prepared["fingerprint"])
        if present is not None:
            return present
        await pages.close(order.tenant_id, order.account_id, sale.plan_key, actor=order.actor, key=operation.key)
        # On the page that was just closed it may have been paid for.
        await self._check_not_bought(order, sale)
        observed = await provider.create_checkout_session(
            sale,
            customer_id=prepared["customer_id"],
            account_id=operation.account_id,
            subscription_id=prepared["subscription_id"],
            quantity=prepared["quantity"],
            trial_days=prepared["trial_days"],
            success_url=prepared["success_url"],
            cancel_url=prepared["cancel_url"],
            promotion_code=prepared["promotion_code"],
            expire_time=datetime.fromisoformat(prepared["expire_time"]),
            operation_id=operation.key,
        )
        return await self._store(operation, sale, observed, order.actor)

    async def _look(self, operation: Operation) -> CheckoutPage | None:
        prepared = operation.prepared
        for observed in await connected(self._provider).open_checkout_sessions(prepared["customer_id"]):
            if observed.metadata.get(SUBSCRIPTION_ATTRIBUTE) == prepared["subscription_id"]:
                sale = sale_from_json(operation.tenant_id, prepared["sale"])
                return await self._store(operation, sale, observed, "")
        return None

    async def _store(
        self, operation: Operation, sale: Sale, observed: ObservedCheckoutSession, actor: str
    ) -> CheckoutPage:
        row = CheckoutSessionRow(
            provider_session_id=observed.session_id,
            account_id=operation.account_id,
            plan_key=sale.plan_key,
            interval=sale.price.interval,
            fingerprint=operation.prepared["fingerprint"],
            state=rows.OPEN,
            url=observed.url,
            expire_time=observed.expire_time,
            create_time=self._clock.now(),
        )
        async with self._database.tenant_transaction(operation.tenant_id) as connection:
            if await rows.add_session(connection, operation.tenant_id, row):
                await add_audit_entry(
                    connection,
                    operation.tenant_id,
                    actor=actor,
                    action="checkout_session.create",
                    subject=f"account:{operation.account_id}",
                    detail={"plan_key": sale.plan_key, "provider_session_id": observed.session_id},
                )
        return CheckoutPage(
            provider_session_id=row.provider_session_id, url=row.url, expire_time=row.expire_time, reused=False
        )

    async def _recall(self, order: Order, sale: Sale, fingerprint: str, result: Json) -> CheckoutPage | None:
        page = await self._reusable(order, sale, fingerprint)
        return page if page is not None and page.provider_session_id == result["provider_session_id"] else None

    async def _check_not_bought(self, order: Order, sale: Sale) -> None:
        async with self._database.tenant_transaction(order.tenant_id) as connection:
            await check_not_bought(
                connection,
                order.tenant_id,
                order.account_id,
                plan_key=sale.plan_key,
                interval=sale.price.interval,
                at=self._clock.now(),
            )


async def _check_account(connection: Connection, tenant_id: TenantId, account_id: AccountId) -> bool:
    """Tell whether there is the account; raise AccountDeleted where there is not any more."""
    account = await account_rows.read_account(connection, tenant_id, account_id)
    if account is not None and account.state is AccountState.DELETED:
        raise AccountDeleted(account_id)
    return account is not None


def _fingerprint(page: Json) -> str:
    """Return a digest of what a page sells and where it leads; plan versions at the same price sell the same."""
    sale = {name: value for name, value in page["sale"].items() if name not in ("plan_version", "plan_name")}
    return _digest("page", page | {"sale": sale})


def _digest(what: str, content: Json) -> str:
    return hashlib.sha256(f"{what} {json.dumps(content, sort_keys=True)}".encode()).hexdigest()
