"""What keeps our rows as the billing provider says, over one database and a provider, as the service wires it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import cast

from tallygate_server.billing.ports import Cause
from tallygate_server.billing.provider import PaymentProvider
from tallygate_server.billing.reconcile import Reconciler
from tallygate_server.billing.recorder import Recorder
from tallygate_server.billing.stripe_events import StripeEvents
from tallygate_server.billing.sync import StripeSubscriptions
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.entitlement_changes import EntitlementChanges
from tallygate_server.storage import subscriptions as subscription_rows
from tallygate_server.storage.engine import Database, DatabaseRole
from tallygate_server.storage.provider_locks import ProviderLocks
from tallygate_server.storage.subscriptions import HistoryRow, SubscriptionRow
from tallygate_server.webhooks.events import Handled, StoredEvent, WebhookSource
from tests.support.clock import FrozenClock
from tests.support.use_cases import LEKHAK, UseCases, example, use_cases

ANNA = AccountId("anna")
WEBHOOK = Cause(action="", actor="stripe", webhook_event_id="evt_1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Billing:
    """One server's billing."""

    world: UseCases
    lookups: Database
    locks: ProviderLocks
    sync: StripeSubscriptions
    recorder: Recorder
    stripe_events: StripeEvents
    reconciler: Reconciler

    async def hear(self, event_type: str, subject: dict[str, object] | str, *, event_id: str = "evt_1") -> Handled:
        """Process a webhook about the object (or the id of one)."""
        about = {"id": subject} if isinstance(subject, str) else subject
        return await self.stripe_events.handle(
            StoredEvent(
                source=WebhookSource.STRIPE,
                event_id=event_id,
                event_type=event_type,
                payload=json.dumps({"id": event_id, "type": event_type, "data": {"object": about}}).encode(),
                event_time=None,
                attempt=1,
            )
        )

    async def rows(self, tenant_id: TenantId = LEKHAK, account_id: AccountId = ANNA) -> list[SubscriptionRow]:
        """Return the account's subscriptions at the provider, oldest first."""
        found = await self.world.fetch(
            "SELECT subscription_id FROM subscriptions WHERE account_id = $1 AND provider = 'stripe'"
            " ORDER BY create_time, subscription_id",
            account_id,
            tenant_id=tenant_id,
        )
        async with self.world.database.tenant_transaction(tenant_id) as connection:
            rows = [
                await subscription_rows.read_subscription(connection, tenant_id, each["subscription_id"])
                for each in found
            ]
        return [row for row in rows if row is not None]

    async def row(self) -> SubscriptionRow:
        """Return the account's only subscription at the provider."""
        (row,) = await self.rows()
        return row

    async def history(self, subscription_id: str) -> list[HistoryRow]:
        """Return the subscription's history, oldest step first."""
        async with self.world.database.tenant_transaction(LEKHAK) as connection:
            return await subscription_rows.read_history(connection, LEKHAK, ANNA, subscription_id=subscription_id)

    async def events(self, prefix: str = "subscription.") -> list[str]:
        """Return types of outbox events about the provider's objects, in order."""
        found = await self.world.fetch(
            "SELECT type FROM outbox_events WHERE type LIKE $1 AND payload ? 'provider_subscription_id'"
            " OR type LIKE $1 AND payload ? 'provider_payment_id' ORDER BY event_id",
            f"{prefix}%",
        )
        return [each["type"] for each in found]


@asynccontextmanager
async def billing(
    database_url: str, provider: object, *, clock: FrozenClock | None = None, servers: int = 1
) -> AsyncIterator[list[Billing]]:
    """Build the billing of several servers over a migrated database and one provider; lekhak's catalog is applied."""
    clock = clock or FrozenClock()
    async with AsyncExitStack() as stack:
        built = []
        for _ in range(servers):
            world = await stack.enter_async_context(use_cases(database_url, clock))
            lookups = Database(database_url, role=DatabaseRole.INTAKE, pool_size=4)
            stack.push_async_callback(lookups.close)
            locks = ProviderLocks(database_url)
            stack.push_async_callback(locks.close)
            asked = cast("PaymentProvider", provider)
            sync = StripeSubscriptions(
                world.database,
                lookups=lookups,
                changes=EntitlementChanges(world.database, world.marks, clock=world.clock),
                provider=asked,
                accounts=world.accounts,
                locks=locks,
                clock=clock,
            )
            recorder = Recorder(world.database, lookups=lookups, provider=asked, sync=sync, locks=locks, clock=clock)
            events = StripeEvents(world.database, lookups=lookups, provider=asked, sync=sync, recorder=recorder)
            built.append(
                Billing(
                    world=world,
                    lookups=lookups,
                    locks=locks,
                    sync=sync,
                    recorder=recorder,
                    stripe_events=events,
                    reconciler=Reconciler(
                        world.database,
                        lookups=lookups,
                        tenants=world.tenants,
                        provider=asked,
                        sync=sync,
                        recorder=recorder,
                        clock=clock,
                    ),
                )
            )
        await built[0].world.catalogs.apply(example("lekhak"))
        yield built
