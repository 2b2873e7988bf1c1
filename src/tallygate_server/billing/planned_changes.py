"""What is planned here for a subscription that the provider collects for, because the provider cannot: pauses.

Their beginning at a later time, and their end, are carried out when they are due (`subscriptions.due_work`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from tallygate_server.billing.ports import Order
from tallygate_server.clock import Clock
from tallygate_server.domain.subscription import SubscriptionState
from tallygate_server.entitlement_changes import EntitlementChanges
from tallygate_server.storage import scheduled_changes as change_rows
from tallygate_server.storage import subscriptions as rows
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.engine import Database
from tallygate_server.storage.subscriptions import SubscriptionRow
from tallygate_server.subscriptions import steps
from tallygate_server.subscriptions.decisions import Held


class PlannedChanges:
    """Plans and drops them."""

    def __init__(self, database: Database, changes: EntitlementChanges, clock: Clock) -> None:
        """Write through `changes`."""
        self._database = database
        self._changes = changes
        self._clock = clock

    async def drop(self, order: Order, row: SubscriptionRow) -> int:
        """Take back what we planned for a time to come; return the account's revision, 0 where nothing was."""
        now = self._clock.now()

        def without(held: Held) -> Held:
            pending = held.pending
            # What is due is being carried out, by whoever asks for this.
            if pending is None or pending.provider_schedule_id or pending.effective_time <= now:
                return held
            return Held(subscription=held.subscription)

        return await self._write(order, row, without, "cancel_scheduled_change", now)

    async def resume_at(self, order: Order, row: SubscriptionRow, resume_time: datetime | None) -> int:
        """Let the pause that has begun end at the time (None: by hand); return the revision, 0 where it does."""

        def with_end(held: Held) -> Held:
            if held.subscription.state is not SubscriptionState.PAUSED:
                return held
            return Held(subscription=replace(held.subscription, resume_time=resume_time), pending=held.pending)

        return await self._write(order, row, with_end, "pause", self._clock.now())

    async def _write(
        self, order: Order, row: SubscriptionRow, decide: Callable[[Held], Held], action: str, now: datetime
    ) -> int:
        tenant_id, account_id = order.tenant_id, order.account_id
        subscription_id = row.subscription.subscription_id
        async with self._database.tenant_transaction(tenant_id) as connection:
            before = await _held(connection, order, subscription_id)
        if before is None or decide(before) == before:
            return 0
        async with self._changes.begin(
            tenant_id, [account_id], actor=order.actor, cause=f"subscription.{action}"
        ) as change:
            before = await _held(change.connection, order, subscription_id)
            if before is not None and decide(before) != before:
                await steps.store(
                    change, account_id, before, decide(before), action=action, reason=order.reason, at=now
                )
        return change.revisions[account_id]


async def _held(connection: Connection, order: Order, subscription_id: str) -> Held | None:
    row = await rows.read_subscription(connection, order.tenant_id, subscription_id)
    if row is None:
        return None
    pending = await change_rows.read_pending(connection, order.tenant_id, subscription_id)
    return Held(subscription=row.subscription, pending=pending)
