"""SQL that finds subscriptions for which something is due, of every tenant: for a connection of the intake role.

It sees ids, states and instants only; the work itself is done as the application, one account at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy import Select, literal, select, tuple_, union

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.subscription import BillingProvider, SubscriptionState
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.tables import scheduled_changes, subscription_history, subscriptions

_STRIPE: Final = BillingProvider.STRIPE.value
_FINAL: Final = (
    SubscriptionState.INCOMPLETE_EXPIRED.value,
    SubscriptionState.CANCELED.value,
    SubscriptionState.EXPIRED.value,
)


@dataclass(frozen=True, slots=True, order=True)
class DueAccount:
    """An account that has something due."""

    tenant_id: TenantId
    account_id: AccountId


@dataclass(frozen=True, slots=True, order=True)
class DueSubscription:
    """A subscription that others are to be told of."""

    tenant_id: TenantId
    subscription_id: str
    account_id: AccountId


async def due_accounts(
    connection: Connection, at: datetime, *, after: DueAccount | None, limit: int
) -> list[DueAccount]:
    """Return accounts with something due by the instant, in order, from after the given one.

    Each branch reads its own partial index of `0002_billing.sql`, so looking costs nothing while nothing is due.
    """
    s, c = subscriptions.c, scheduled_changes.c
    ending = select(s.tenant_id, s.account_id).where(
        s.cancel_at_period_end, s.period_end_time <= at, s.state.not_in(_FINAL), s.provider != _STRIPE
    )
    trial_over = select(s.tenant_id, s.account_id).where(
        s.state == SubscriptionState.TRIALING.value, s.trial_end_time <= at, s.provider != _STRIPE
    )
    pause_over = select(s.tenant_id, s.account_id).where(s.state == SubscriptionState.PAUSED.value, s.resume_time <= at)
    planned = select(c.tenant_id, c.account_id).where(
        c.state == "pending", c.effective_time <= at, c.provider_schedule_id.is_(None)
    )
    branches = [_after_account(branch, after) for branch in (ending, trial_over, pause_over, planned)]
    due = union(*branches).subquery()
    statement = select(due).order_by(due.c.tenant_id, due.c.account_id).limit(limit)
    return [
        DueAccount(TenantId(row.tenant_id), AccountId(row.account_id)) for row in await connection.execute(statement)
    ]


async def trials_ending(
    connection: Connection, at: datetime, until: datetime, *, after: DueSubscription | None, limit: int
) -> list[DueSubscription]:
    """Return trials that end after the first instant and not after the second, but those that a provider tells of."""
    s = subscriptions.c
    statement = select(s.tenant_id, s.subscription_id, s.account_id).where(
        s.state == SubscriptionState.TRIALING.value,
        s.trial_end_time > at,
        s.trial_end_time <= until,
        s.provider != _STRIPE,
    )
    return await _subscriptions(connection, statement, after, limit)


async def graces_over(
    connection: Connection, at: datetime, *, after: DueSubscription | None, limit: int
) -> list[DueSubscription]:
    """Return overdue subscriptions whose grace has ended."""
    s = subscriptions.c
    statement = select(s.tenant_id, s.subscription_id, s.account_id).where(
        s.state == SubscriptionState.PAST_DUE.value, s.grace_end_time <= at
    )
    return await _subscriptions(connection, statement, after, limit)


async def without_step(
    connection: Connection, tenant_id: TenantId, subscription_ids: list[str], action: str, instant: str
) -> list[str]:
    """Return those whose history has no such step for the value that the row has of the instant's column now.

    Runs as the application, in one tenant.
    """
    s, h = subscriptions.c, subscription_history.c
    told = (
        select(literal(1))
        .where(
            h.tenant_id == s.tenant_id,
            h.subscription_id == s.subscription_id,
            h.action == action,
            h.after[instant].astext.cast(s[instant].type) == s[instant],
        )
        .exists()
    )
    statement = select(s.subscription_id).where(
        s.tenant_id == tenant_id, s.subscription_id.in_(subscription_ids), ~told
    )
    return [row.subscription_id for row in await connection.execute(statement)]


def _after_account(branch: Select[tuple[str, str]], after: DueAccount | None) -> Select[tuple[str, str]]:
    if after is None:
        return branch
    tenant_id, account_id = branch.selected_columns
    return branch.where(tuple_(tenant_id, account_id) > tuple_(literal(after.tenant_id), literal(after.account_id)))


async def _subscriptions(
    connection: Connection,
    statement: Select[tuple[str, str, str]],
    after: DueSubscription | None,
    limit: int,
) -> list[DueSubscription]:
    s = subscriptions.c
    if after is not None:
        statement = statement.where(
            tuple_(s.tenant_id, s.subscription_id) > tuple_(literal(after.tenant_id), literal(after.subscription_id))
        )
    statement = statement.order_by(s.tenant_id, s.subscription_id).limit(limit)
    return [
        DueSubscription(TenantId(row.tenant_id), row.subscription_id, AccountId(row.account_id))
        for row in await connection.execute(statement)
    ]
