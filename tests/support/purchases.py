"""What buys at a billing provider, over one database and a provider in memory, as the service wires it."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

from tallygate_server.billing.checkout import Checkout, CheckoutPage, WantedPage
from tallygate_server.billing.customers import Customers
from tallygate_server.billing.observed import ObservedSubscription
from tallygate_server.billing.operations import Operations
from tallygate_server.billing.paid_subscriptions import StripePaidSubscriptions
from tallygate_server.billing.planned_changes import PlannedChanges
from tallygate_server.billing.ports import Applied, Cause, Order, Paid, SubscriptionSync
from tallygate_server.billing.provider import PaymentProvider
from tallygate_server.domain.catalog import BillingInterval, Plan, Price
from tallygate_server.domain.identifier import AccountId, PlanKey
from tallygate_server.entitlement_changes import EntitlementChanges
from tallygate_server.errors import OperationInProgress, StoreUnavailable, Unavailable
from tests.support.billing import ANNA, Billing, billing
from tests.support.clock import FrozenClock
from tests.support.use_cases import LEKHAK

PRO, UNLIMITED, FREE = PlanKey("pro"), PlanKey("unlimited"), PlanKey("free")
MONTH, YEAR = BillingInterval.MONTH, BillingInterval.YEAR
SUCCESS, BACK = "https://lekhak.example/thanks", "https://lekhak.example/plans"


class FailingSync:
    """The real thing, until Postgres goes away between the provider's effect and our commit."""

    def __init__(self, inner: SubscriptionSync) -> None:
        self._inner = inner
        self.failures = 0
        """How many of the next calls fail."""

    async def apply(self, observed: ObservedSubscription, cause: Cause) -> Applied | None:
        """Store, or fail."""
        self._fail()
        return await self._inner.apply(observed, cause)

    async def refresh(self, provider_subscription_id: str, cause: Cause) -> Applied | None:
        """Store, or fail."""
        self._fail()
        return await self._inner.refresh(provider_subscription_id, cause)

    def _fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("the database cannot be reached just now")


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchases:
    """One server's purchases."""

    billing: Billing
    clock: FrozenClock
    sync: FailingSync
    customers: Customers
    checkout: Checkout
    paid: StripePaidSubscriptions

    async def plan(self, plan_key: PlanKey = PRO) -> Plan:
        """Return a plan of lekhak's."""
        (row,) = await self.billing.world.catalogs.plan_rows(LEKHAK, plan_key=plan_key, include_retired=False)
        return row.plan

    async def price(self, plan_key: PlanKey = PRO, interval: BillingInterval = MONTH) -> Price:
        """Return one of its prices."""
        price = (await self.plan(plan_key)).price_for(interval)
        assert price is not None
        return price

    async def buy(
        self, plan_key: PlanKey = PRO, interval: BillingInterval = MONTH, *, request_id: str = "", **more: Any
    ) -> Paid:
        """Subscribe anna."""
        terms: dict[str, Any] = {
            "quantity": 1,
            "trial_days": 0,
            "payment_method_id": "",
            "promotion_code": "",
            "metadata": {},
        } | more
        return await self.paid.create(
            order(request_id, "create", plan_key, interval, sorted(terms.items(), key=str)),
            plan=await self.plan(plan_key),
            price=await self.price(plan_key, interval),
            **terms,
        )

    async def page(self, plan_key: PlanKey = PRO, *, request_id: str = "", **more: Any) -> CheckoutPage:
        """Open a page for anna."""
        wanted = WantedPage(**({"plan_key": plan_key, "success_url": SUCCESS, "cancel_url": BACK} | more))
        return await self.checkout.open_page(LEKHAK, ANNA, wanted, request_id=request_id, actor="shop")

    async def operations(self) -> list[dict[str, Any]]:
        """Return the operations, oldest first."""
        return await self.billing.world.fetch("SELECT * FROM billing_operations ORDER BY create_time, operation_id")


def order(request_id: str, *content: object, account_id: AccountId = ANNA) -> Order:
    """Ask for something in the name of support."""
    return Order(
        tenant_id=LEKHAK,
        account_id=account_id,
        actor="support",
        reason="asked for it",
        request_id=request_id,
        fingerprint=str(content),
    )


async def patiently(clock: FrozenClock, call: Any, seconds: Sequence[float] = (1, 2, 4, 8, 16, 32, 64, 128)) -> Any:
    """Retry a call as a good client does, letting time pass in between."""
    for step in seconds:
        try:
            return await call()
        except (Unavailable, OperationInProgress):
            clock.advance(dt.timedelta(seconds=step))
    return await call()


async def impatiently(call: Any) -> Any:
    """Retry a call again and again while an earlier one is still under way somewhere."""
    for _ in range(600):
        try:
            return await call()
        except (Unavailable, OperationInProgress):
            await asyncio.sleep(0.05)
    return await call()


@asynccontextmanager
async def purchases(
    database_url: str, provider: PaymentProvider, *, clock: FrozenClock, servers: int = 1
) -> AsyncIterator[list[Purchases]]:
    """Build the purchases of several servers over a migrated database and one provider; anna has an account."""
    async with billing(database_url, provider, clock=clock, servers=servers) as built:
        world = built[0].world
        await world.accounts.identify(
            LEKHAK, [], account_id=ANNA, email="anna@lekhak.example", display_name="Anna Example"
        )
        yield [wire(each, provider, clock) for each in built]


def wire(server: Billing, provider: PaymentProvider, clock: FrozenClock) -> Purchases:
    """Put the parts together, as the service does."""
    world = server.world
    sync = FailingSync(cast("SubscriptionSync", server.sync))
    operations = Operations(world.database, clock)
    customers = Customers(world.database, operations, provider=provider, tenants=world.tenants, clock=clock)
    return Purchases(
        billing=server,
        clock=clock,
        sync=sync,
        customers=customers,
        checkout=Checkout(
            world.database,
            operations,
            customers,
            provider=provider,
            sync=sync,
            tenants=world.tenants,
            accounts=world.accounts,
            clock=clock,
        ),
        paid=StripePaidSubscriptions(
            world.database,
            operations,
            customers,
            planned=PlannedChanges(world.database, EntitlementChanges(world.database, world.marks, clock=clock), clock),
            provider=provider,
            sync=sync,
            clock=clock,
        ),
    )
