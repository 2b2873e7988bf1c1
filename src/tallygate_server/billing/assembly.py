"""The parts that deal with money, wired to each other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from tallygate_server.billing.checkout import Checkout
from tallygate_server.billing.customers import Customers
from tallygate_server.billing.operations import Operations
from tallygate_server.billing.paid_subscriptions import StripePaidSubscriptions
from tallygate_server.billing.planned_changes import PlannedChanges
from tallygate_server.billing.provider import PaymentProvider
from tallygate_server.billing.reconcile import Reconciler
from tallygate_server.billing.recorder import Recorder
from tallygate_server.billing.records import BillingRecords
from tallygate_server.billing.stripe_events import StripeEvents
from tallygate_server.billing.stripe_gateway import StripeGateway
from tallygate_server.billing.sync import StripeSubscriptions
from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.entitlement_changes import EntitlementChanges
from tallygate_server.storage.engine import Database
from tallygate_server.storage.provider_locks import ProviderLocks
from tallygate_server.tenants import TenantDirectory


@dataclass(frozen=True, slots=True, kw_only=True)
class StripeOptions:
    """What the settings of the same names say; there are none where Stripe is not connected."""

    api_key: str = field(repr=False)
    api_base: str = "https://api.stripe.com"
    timeout_ms: int = 8_000
    call_timeout_ms: int = 25_000
    retries_max: int = 2
    breaker_failures_max: int = 5
    breaker_open_ms: int = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Billing:
    """Everything about money; what needs a provider is None where none is connected."""

    provider: PaymentProvider | None
    sync: StripeSubscriptions | None
    paid: StripePaidSubscriptions | None
    events: StripeEvents | None
    customers: Customers
    checkout: Checkout
    records: BillingRecords
    reconciler: Reconciler


class Provisioner(Protocol):
    """Creates unknown accounts where their tenant allows it."""

    async def provision(self, tenant_id: TenantId, account_id: AccountId) -> bool:
        """Return whether the account exists afterwards."""


@asynccontextmanager
async def open_billing(
    database_url: str,
    *,
    database: Database,
    lookups: Database,
    changes: EntitlementChanges,
    tenants: TenantDirectory,
    accounts: Provisioner,
    clock: Clock,
    stripe: StripeOptions | None,
) -> AsyncIterator[Billing]:
    """Wire the parts; `lookups` has the intake's role. Nothing is sent to the provider before the first call."""
    operations = Operations(database, clock)
    async with AsyncExitStack() as stack:
        provider: StripeGateway | None = None
        sync: StripeSubscriptions | None = None
        events: StripeEvents | None = None
        recorder: Recorder | None = None
        if stripe is not None:
            provider = StripeGateway(
                api_key=stripe.api_key,
                api_base=stripe.api_base,
                clock=clock,
                timeout_ms=stripe.timeout_ms,
                call_timeout_ms=stripe.call_timeout_ms,
                retries_max=stripe.retries_max,
                breaker_failures_max=stripe.breaker_failures_max,
                breaker_open_ms=stripe.breaker_open_ms,
            )
            stack.push_async_callback(provider.close)
            locks = ProviderLocks(database_url)
            stack.push_async_callback(locks.close)
            sync = StripeSubscriptions(
                database,
                lookups=lookups,
                changes=changes,
                provider=provider,
                accounts=accounts,
                locks=locks,
                clock=clock,
            )
            recorder = Recorder(database, lookups=lookups, provider=provider, sync=sync, locks=locks, clock=clock)
            events = StripeEvents(database, lookups=lookups, provider=provider, sync=sync, recorder=recorder)
        customers = Customers(database, operations, provider=provider, tenants=tenants, clock=clock)
        paid: StripePaidSubscriptions | None = None
        if provider is not None and sync is not None:
            paid = StripePaidSubscriptions(
                database,
                operations,
                customers,
                planned=PlannedChanges(database, changes, clock),
                provider=provider,
                sync=sync,
                clock=clock,
            )
        yield Billing(
            provider=provider,
            sync=sync,
            paid=paid,
            events=events,
            customers=customers,
            checkout=Checkout(
                database,
                operations,
                customers,
                provider=provider,
                sync=sync,
                tenants=tenants,
                accounts=accounts,
                clock=clock,
            ),
            records=BillingRecords(database, tenants),
            reconciler=Reconciler(
                database,
                lookups=lookups,
                tenants=tenants,
                provider=provider,
                sync=sync,
                recorder=recorder,
                clock=clock,
            ),
        )
