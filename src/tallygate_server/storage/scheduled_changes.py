"""SQL of changes that wait for their time. Every function runs in the caller's transaction."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Any

from sqlalchemy import Row, select, update

from tallygate_server.domain.catalog import BillingInterval
from tallygate_server.domain.identifier import AccountId, PlanKey, TenantId
from tallygate_server.domain.subscription import BillingProvider, ScheduledChange, ScheduledChangeKind
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.mapping import Json
from tallygate_server.storage.tables import scheduled_changes, subscriptions


class ChangeOutcome(Enum):
    """What became of a change that no longer waits."""

    DONE = "done"
    CANCELED = "canceled"
    FAILED = "failed"


async def read_pending(connection: Connection, tenant_id: TenantId, subscription_id: str) -> ScheduledChange | None:
    """Return the change that the subscription waits for, or None."""
    rows = await connection.execute(
        select(scheduled_changes).where(
            scheduled_changes.c.tenant_id == tenant_id,
            scheduled_changes.c.subscription_id == subscription_id,
            scheduled_changes.c.state == "pending",
        )
    )
    row = rows.one_or_none()
    return _change(row) if row is not None else None


async def read_pending_of(
    connection: Connection, tenant_id: TenantId, subscription_ids: list[str]
) -> dict[str, ScheduledChange]:
    """Return the changes that these subscriptions wait for, by subscription."""
    if not subscription_ids:
        return {}
    rows = await connection.execute(
        select(scheduled_changes).where(
            scheduled_changes.c.tenant_id == tenant_id,
            scheduled_changes.c.subscription_id.in_(subscription_ids),
            scheduled_changes.c.state == "pending",
        )
    )
    return {row.subscription_id: _change(row) for row in rows}


async def read_pending_of_account(
    connection: Connection, tenant_id: TenantId, account_id: AccountId
) -> dict[str, ScheduledChange]:
    """Return the changes that the account's subscriptions wait for, also those that have ended, by subscription."""
    rows = await connection.execute(
        select(scheduled_changes)
        .join(
            subscriptions,
            (subscriptions.c.tenant_id == scheduled_changes.c.tenant_id)
            & (subscriptions.c.subscription_id == scheduled_changes.c.subscription_id),
        )
        .where(
            # By way of the subscriptions, which are few and indexed by account.
            subscriptions.c.tenant_id == tenant_id,
            subscriptions.c.account_id == account_id,
            scheduled_changes.c.state == "pending",
        )
    )
    return {row.subscription_id: _change(row) for row in rows}


async def add_pending(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, change: ScheduledChange
) -> None:
    """Add a change that waits; the subscription must have none that does."""
    await connection.execute(
        scheduled_changes.insert().values(
            tenant_id=tenant_id,
            scheduled_change_id=change.scheduled_change_id,
            subscription_id=change.subscription_id,
            account_id=account_id,
            kind=change.kind.value,
            state="pending",
            effective_time=change.effective_time,
            plan_key=change.plan_key,
            plan_version=change.plan_version,
            interval=change.interval.value if change.interval is not None else None,
            quantity=change.quantity,
            provider=change.provider.value if change.provider is not None else None,
            resume_time=change.resume_time,
            provider_schedule_id=change.provider_schedule_id or None,
            actor=change.actor,
            reason=change.reason,
            create_time=change.create_time,
            update_time=change.create_time,
        )
    )


async def end_pending(
    connection: Connection,
    tenant_id: TenantId,
    subscription_id: str,
    outcome: ChangeOutcome,
    *,
    at: datetime,
    error: str = "",
) -> None:
    """Record what became of the change that the subscription waits for; does nothing where it waits for none."""
    await connection.execute(
        update(scheduled_changes)
        .where(
            scheduled_changes.c.tenant_id == tenant_id,
            scheduled_changes.c.subscription_id == subscription_id,
            scheduled_changes.c.state == "pending",
        )
        .values(state=outcome.value, update_time=at, error=error)
    )


def change_to_json(change: ScheduledChange | None) -> Json | None:
    """Return the change as JSON, as history carries it."""
    if change is None:
        return None
    return {
        "scheduled_change_id": change.scheduled_change_id,
        "subscription_id": change.subscription_id,
        "kind": change.kind.value,
        "effective_time": change.effective_time.isoformat(),
        "plan_key": change.plan_key,
        "plan_version": change.plan_version,
        "interval": change.interval.value if change.interval is not None else None,
        "quantity": change.quantity,
        "provider": change.provider.value if change.provider is not None else None,
        "resume_time": change.resume_time.isoformat() if change.resume_time is not None else None,
        "provider_schedule_id": change.provider_schedule_id,
        "actor": change.actor,
        "reason": change.reason,
        "create_time": change.create_time.isoformat(),
    }


def change_from_json(json: Json | None) -> ScheduledChange | None:
    """Return the change that `change_to_json` wrote."""
    if json is None:
        return None
    return ScheduledChange(
        scheduled_change_id=json["scheduled_change_id"],
        subscription_id=json["subscription_id"],
        kind=ScheduledChangeKind(json["kind"]),
        effective_time=datetime.fromisoformat(json["effective_time"]),
        plan_key=PlanKey(json["plan_key"]) if json["plan_key"] is not None else None,
        plan_version=json["plan_version"],
        interval=BillingInterval(json["interval"]) if json["interval"] is not None else None,
        quantity=json["quantity"],
        provider=BillingProvider(json["provider"]) if json["provider"] is not None else None,
        resume_time=datetime.fromisoformat(json["resume_time"]) if json["resume_time"] is not None else None,
        provider_schedule_id=json["provider_schedule_id"],
        actor=json["actor"],
        reason=json["reason"],
        create_time=datetime.fromisoformat(json["create_time"]),
    )


def _change(row: Row[Any]) -> ScheduledChange:
    return ScheduledChange(
        scheduled_change_id=row.scheduled_change_id,
        subscription_id=row.subscription_id,
        kind=ScheduledChangeKind(row.kind),
        effective_time=row.effective_time,
        plan_key=PlanKey(row.plan_key) if row.plan_key is not None else None,
        plan_version=row.plan_version,
        interval=BillingInterval(row.interval) if row.interval is not None else None,
        quantity=row.quantity,
        provider=BillingProvider(row.provider) if row.provider is not None else None,
        resume_time=row.resume_time,
        provider_schedule_id=row.provider_schedule_id or "",
        actor=row.actor,
        reason=row.reason,
        create_time=row.create_time,
    )
