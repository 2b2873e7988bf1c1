"""Changes of a paid subscription that the provider cannot carry out by itself, such as the end of a pause.

They are planned here, beside what is planned at the provider.
"""

from __future__ import annotations

from tallygate_server.billing.ports import Order
from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.subscription import ScheduledChange
from tallygate_server.entitlement_changes import EntitlementChanges
from tallygate_server.storage import scheduled_changes as rows
from tallygate_server.storage.engine import Database
from tallygate_server.storage.scheduled_changes import ChangeOutcome
from tallygate_server.storage.subscriptions import SubscriptionRow


class PlannedChanges:
    """Plans and drops them."""

    def __init__(self, database: Database, changes: EntitlementChanges, clock: Clock) -> None:
        """Write through `changes`."""
        self._database = database
        self._changes = changes
        self._clock = clock

    async def put(self, order: Order, row: SubscriptionRow, planned: ScheduledChange) -> int:
        """Plan the change in place of what we planned before; return the revision, 0 where it is planned already."""
        pending = await self._pending(order.tenant_id, row)
        if pending is not None and pending.scheduled_change_id == planned.scheduled_change_id:
            return 0
        return await self._write(order, row, planned)

    async def drop(self, order: Order, row: SubscriptionRow) -> int:
        """Take back what we planned; return the revision, 0 where nothing was."""
        pending = await self._pending(order.tenant_id, row)
        if pending is None or pending.provider_schedule_id:
            return 0
        return await self._write(order, row, None)

    async def _pending(self, tenant_id: TenantId, row: SubscriptionRow) -> ScheduledChange | None:
        async with self._database.tenant_transaction(tenant_id) as connection:
            return await rows.read_pending(connection, tenant_id, row.subscription.subscription_id)

    async def _write(self, order: Order, row: SubscriptionRow, planned: ScheduledChange | None) -> int:
        cause = "subscription.scheduled" if planned is not None else "subscription.schedule_canceled"
        tenant_id, account_id = order.tenant_id, order.account_id
        async with self._changes.begin(tenant_id, [account_id], actor=order.actor, cause=cause) as change:
            subscription_id = row.subscription.subscription_id
            before = await rows.read_pending(change.connection, tenant_id, subscription_id)
            now = self._clock.now()
            await rows.end_pending(change.connection, tenant_id, subscription_id, ChangeOutcome.CANCELED, at=now)
            if planned is not None:
                await rows.add_pending(change.connection, tenant_id, account_id, planned)
            detail = {
                "account_id": account_id,
                "subscription_id": subscription_id,
                "before": rows.change_to_json(before),
                "after": rows.change_to_json(planned),
                "reason": order.reason,
            }
            await change.audit("subscription.schedule", f"subscription:{subscription_id}", detail)
            await change.emit(cause, account_id, detail)
        return change.revisions[account_id]
