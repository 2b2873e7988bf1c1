"""SQL of subscriptions and their history. Every function runs in the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, func, or_, select, update

from tallygate_server.domain.catalog import BillingInterval
from tallygate_server.domain.identifier import AccountId, PlanKey, TenantId
from tallygate_server.domain.subscription import (
    LIVE_STATES,
    BillingProvider,
    ScheduledChange,
    Subscription,
    SubscriptionState,
)
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.mapping import Json
from tallygate_server.storage.scheduled_changes import change_to_json
from tallygate_server.storage.tables import (
    accounts,
    billing_operations,
    scheduled_changes,
    subscription_history,
    subscriptions,
)

_LIVE = tuple(sorted(state.value for state in LIVE_STATES))


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionRow:
    """A subscription as stored."""

    account_id: AccountId
    subscription: Subscription
    create_time: datetime
    update_time: datetime
    metadata: dict[str, str] = field(default_factory=dict)
    provider_subscription_id: str = ""
    provider_customer_id: str = ""
    provider_price_id: str = ""
    create_request_id: str = ""
    create_fingerprint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRow:
    """One step of a subscription's history."""

    history_id: int
    subscription_id: str
    action: str
    before: Json | None
    after: Json
    actor: str
    reason: str
    create_time: datetime
    webhook_event_id: str = ""
    revision: int = 0
    """Of the account's entitlements afterwards."""
    request: Json | None = None
    """Id and fingerprint of the request that made the step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationMark:
    """What is known of a request that went to a billing provider."""

    state: str
    """pending, done or failed."""
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveCount:
    """How many live subscriptions are pinned to one version of a plan."""

    plan_key: PlanKey
    version: int
    subscriptions: int


async def read_subscription(
    connection: Connection, tenant_id: TenantId, subscription_id: str
) -> SubscriptionRow | None:
    """Return the subscription, or None."""
    rows = await connection.execute(
        select(subscriptions).where(
            subscriptions.c.tenant_id == tenant_id, subscriptions.c.subscription_id == subscription_id
        )
    )
    row = rows.one_or_none()
    return _row(row) if row is not None else None


async def live_subscriptions(
    connection: Connection, tenant_id: TenantId, account_id: AccountId
) -> list[SubscriptionRow]:
    """Return the account's subscriptions whose stored state is not final, oldest first."""
    rows = await connection.execute(
        select(subscriptions)
        .where(
            subscriptions.c.tenant_id == tenant_id,
            subscriptions.c.account_id == account_id,
            subscriptions.c.state.in_(_LIVE),
        )
        .order_by(subscriptions.c.create_time, subscriptions.c.subscription_id)
    )
    return [_row(row) for row in rows]


async def page_of_subscriptions(
    connection: Connection,
    tenant_id: TenantId,
    *,
    at: datetime,
    account_id: str,
    plan_key: str,
    states: Sequence[SubscriptionState],
    before_subscription_id: str,
    limit: int,
) -> list[SubscriptionRow]:
    """Return subscriptions, newest first, from before the given one (empty: from the newest).

    Empty filters admit everything. Rows to which something has happened by the instant that is not written down yet
    are returned whatever the filters: the caller knows how they stand.
    """
    statement = select(subscriptions).where(subscriptions.c.tenant_id == tenant_id)
    if account_id:
        statement = statement.where(subscriptions.c.account_id == account_id)
    stored: list[ColumnElement[bool]] = []
    if plan_key:
        stored.append(subscriptions.c.plan_key == plan_key)
    if states:
        stored.append(subscriptions.c.state.in_([state.value for state in states]))
    if stored:
        matches = stored[0] if len(stored) == 1 else stored[0] & stored[1]
        statement = statement.where(or_(matches, _unwritten(at)))
    if before_subscription_id:
        statement = statement.where(subscriptions.c.subscription_id < before_subscription_id)
    statement = statement.order_by(subscriptions.c.subscription_id.desc()).limit(limit)
    return [_row(row) for row in await connection.execute(statement)]


async def add_subscription(connection: Connection, tenant_id: TenantId, row: SubscriptionRow) -> None:
    """Add a subscription."""
    await connection.execute(
        subscriptions.insert().values(
            tenant_id=tenant_id,
            account_id=row.account_id,
            subscription_id=row.subscription.subscription_id,
            metadata=row.metadata,
            provider_subscription_id=row.provider_subscription_id or None,
            provider_customer_id=row.provider_customer_id or None,
            provider_price_id=row.provider_price_id or None,
            create_request_id=row.create_request_id or None,
            create_fingerprint=row.create_fingerprint or None,
            create_time=row.create_time,
            update_time=row.update_time,
            **_columns(row.subscription),
        )
    )


async def write_subscription(
    connection: Connection, tenant_id: TenantId, subscription: Subscription, *, at: datetime
) -> None:
    """Store the subscription as it now is."""
    await connection.execute(
        update(subscriptions)
        .where(
            subscriptions.c.tenant_id == tenant_id,
            subscriptions.c.subscription_id == subscription.subscription_id,
        )
        .values(update_time=at, **_columns(subscription))
    )


async def add_history(
    connection: Connection,
    tenant_id: TenantId,
    *,
    account_id: AccountId,
    action: str,
    before: Subscription | None,
    after: Subscription,
    actor: str,
    reason: str,
    at: datetime,
    request: Mapping[str, str] | None = None,
    webhook_event_id: str = "",
    pending_before: ScheduledChange | None = None,
    pending_after: ScheduledChange | None = None,
    raises_revision: bool = True,
) -> None:
    """Add a step: what was done, by whom and why; `request` is what a retry is recognised by.

    The revision that it writes is the one that the change of the account's entitlements will end at; a step that
    changes none says so.
    """
    revision = await connection.execute(
        select(accounts.c.revision + int(raises_revision)).where(
            accounts.c.tenant_id == tenant_id, accounts.c.account_id == account_id
        )
    )
    written = subscription_to_json(after) | {"scheduled_change": change_to_json(pending_after)}
    written["revision"] = revision.scalar_one_or_none() or 0
    if request is not None:
        written["request"] = dict(request)
    if webhook_event_id:
        written["webhook_event_id"] = webhook_event_id
    json_before = None
    if before is not None:
        json_before = subscription_to_json(before) | {"scheduled_change": change_to_json(pending_before)}
    await connection.execute(
        subscription_history.insert().values(
            tenant_id=tenant_id,
            subscription_id=after.subscription_id,
            account_id=account_id,
            action=action,
            before=json_before,
            after=written,
            actor=actor,
            reason=reason,
            create_time=at,
        )
    )


async def page_of_history(
    connection: Connection,
    tenant_id: TenantId,
    account_id: AccountId,
    *,
    subscription_id: str = "",
    before_history_id: int | None = None,
    limit: int,
) -> list[HistoryRow]:
    """Return steps of the account (or of one subscription), newest first, from before the given one."""
    statement = select(subscription_history).where(
        subscription_history.c.tenant_id == tenant_id, subscription_history.c.account_id == account_id
    )
    if subscription_id:
        statement = statement.where(subscription_history.c.subscription_id == subscription_id)
    if before_history_id is not None:
        statement = statement.where(subscription_history.c.history_id < before_history_id)
    statement = statement.order_by(subscription_history.c.history_id.desc()).limit(limit)
    return [_history(row) for row in await connection.execute(statement)]


async def read_last_step(
    connection: Connection, tenant_id: TenantId, subscription_id: str, action: str
) -> HistoryRow | None:
    """Return the newest step of the kind, or None."""
    rows = await connection.execute(
        select(subscription_history)
        .where(
            subscription_history.c.tenant_id == tenant_id,
            subscription_history.c.subscription_id == subscription_id,
            subscription_history.c.action == action,
        )
        .order_by(subscription_history.c.history_id.desc())
        .limit(1)
    )
    row = rows.one_or_none()
    return _history(row) if row is not None else None


async def read_operation(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, *, request_id: str, fingerprint: str
) -> OperationMark | None:
    """Return what is known of a request at the billing provider: by its id, else by its content while it is pending."""
    known = billing_operations.c.tenant_id == tenant_id, billing_operations.c.account_id == account_id
    if request_id:
        same = billing_operations.c.request_id == request_id
    else:
        same = (billing_operations.c.fingerprint == fingerprint) & (billing_operations.c.state == "pending")
    rows = await connection.execute(
        select(billing_operations.c.state, billing_operations.c.fingerprint)
        .where(*known, same)
        .order_by(billing_operations.c.create_time.desc())
        .limit(1)
    )
    row = rows.one_or_none()
    return OperationMark(state=row.state, fingerprint=row.fingerprint) if row is not None else None


async def read_history(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, *, subscription_id: str = ""
) -> list[HistoryRow]:
    """Return the account's history (or one subscription's), oldest step first."""
    statement = select(subscription_history).where(
        subscription_history.c.tenant_id == tenant_id, subscription_history.c.account_id == account_id
    )
    if subscription_id:
        statement = statement.where(subscription_history.c.subscription_id == subscription_id)
    rows = await connection.execute(statement.order_by(subscription_history.c.history_id))
    return [_history(row) for row in rows]


async def read_step_of_request(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, request_id: str
) -> HistoryRow | None:
    """Return the step that the request made, or None."""
    rows = await connection.execute(
        select(subscription_history)
        .where(
            subscription_history.c.tenant_id == tenant_id,
            subscription_history.c.account_id == account_id,
            subscription_history.c.after["request"]["id"].astext == request_id,
        )
        .order_by(subscription_history.c.history_id)
        .limit(1)
    )
    row = rows.one_or_none()
    return _history(row) if row is not None else None


async def live_counts(connection: Connection, tenant_id: TenantId, plan_keys: Sequence[str]) -> list[LiveCount]:
    """Return how many live subscriptions each version of the plans has; versions without any are left out."""
    rows = await connection.execute(
        select(subscriptions.c.plan_key, subscriptions.c.plan_version, func.count().label("live"))
        .where(_live_on(tenant_id, plan_keys))
        .group_by(subscriptions.c.plan_key, subscriptions.c.plan_version)
        .order_by(subscriptions.c.plan_key, subscriptions.c.plan_version)
    )
    return [LiveCount(plan_key=PlanKey(row.plan_key), version=row.plan_version, subscriptions=row.live) for row in rows]


async def live_account_counts(
    connection: Connection, tenant_id: TenantId, plan_keys: Sequence[str]
) -> tuple[dict[str, int], int]:
    """Return how many accounts have a live subscription to each of the plans, and to any of them."""
    distinct = func.count(subscriptions.c.account_id.distinct()).label("accounts")
    rows = await connection.execute(
        select(subscriptions.c.plan_key, distinct)
        .where(_live_on(tenant_id, plan_keys))
        .group_by(subscriptions.c.plan_key)
    )
    total = await connection.execute(select(distinct).where(_live_on(tenant_id, plan_keys)))
    return {row.plan_key: row.accounts for row in rows}, total.scalar_one()


def subscription_to_json(subscription: Subscription) -> Json:
    """Return the subscription as JSON, as history and events carry it."""
    columns = _columns(subscription)
    return {"subscription_id": subscription.subscription_id} | {
        name: value.isoformat() if isinstance(value, datetime) else value for name, value in columns.items()
    }


def subscription_from_json(json: Json) -> Subscription:
    """Return the subscription that `subscription_to_json` wrote."""

    def time(name: str) -> datetime | None:
        return datetime.fromisoformat(json[name]) if json.get(name) is not None else None

    return Subscription(
        subscription_id=json["subscription_id"],
        plan_key=PlanKey(json["plan_key"]),
        plan_version=json["plan_version"],
        state=SubscriptionState(json["state"]),
        provider=BillingProvider(json["provider"]),
        interval=BillingInterval(json["interval"]) if json["interval"] is not None else None,
        quantity=json["quantity"],
        start_time=datetime.fromisoformat(json["start_time"]),
        period_start_time=datetime.fromisoformat(json["period_start_time"]),
        period_end_time=time("period_end_time"),
        trial_end_time=time("trial_end_time"),
        cancel_at_period_end=json["cancel_at_period_end"],
        canceled_time=time("canceled_time"),
        grace_end_time=time("grace_end_time"),
        pause_start_time=time("pause_start_time"),
        resume_time=time("resume_time"),
    )


def _live_on(tenant_id: TenantId, plan_keys: Sequence[str]) -> ColumnElement[bool]:
    return (
        (subscriptions.c.tenant_id == tenant_id)
        & subscriptions.c.plan_key.in_(plan_keys)
        & subscriptions.c.state.in_(_LIVE)
    )


def _unwritten(at: datetime) -> ColumnElement[bool]:
    """Tell whether something has happened to the row by itself up to the instant (see `domain.timeline`)."""
    live = subscriptions.c.state.in_(_LIVE)
    planned = (
        select(scheduled_changes.c.tenant_id)
        .where(
            scheduled_changes.c.tenant_id == subscriptions.c.tenant_id,
            scheduled_changes.c.subscription_id == subscriptions.c.subscription_id,
            scheduled_changes.c.state == "pending",
            scheduled_changes.c.effective_time <= at,
        )
        .exists()
    )
    return live & or_(
        subscriptions.c.cancel_at_period_end & (subscriptions.c.period_end_time <= at),
        (subscriptions.c.state == SubscriptionState.TRIALING.value) & (subscriptions.c.trial_end_time <= at),
        (subscriptions.c.state == SubscriptionState.PAUSED.value) & (subscriptions.c.resume_time <= at),
        planned,
    )


def _columns(subscription: Subscription) -> dict[str, Any]:
    return {
        "plan_key": subscription.plan_key,
        "plan_version": subscription.plan_version,
        "state": subscription.state.value,
        "provider": subscription.provider.value,
        "interval": subscription.interval.value if subscription.interval is not None else None,
        "quantity": subscription.quantity,
        "start_time": subscription.start_time,
        "period_start_time": subscription.period_start_time,
        "period_end_time": subscription.period_end_time,
        "trial_end_time": subscription.trial_end_time,
        "cancel_at_period_end": subscription.cancel_at_period_end,
        "canceled_time": subscription.canceled_time,
        "grace_end_time": subscription.grace_end_time,
        "pause_start_time": subscription.pause_start_time,
        "resume_time": subscription.resume_time,
    }


def _row(row: Row[Any]) -> SubscriptionRow:
    return SubscriptionRow(
        account_id=AccountId(row.account_id),
        subscription=Subscription(
            subscription_id=row.subscription_id,
            plan_key=PlanKey(row.plan_key),
            plan_version=row.plan_version,
            state=SubscriptionState(row.state),
            provider=BillingProvider(row.provider),
            interval=BillingInterval(row.interval) if row.interval is not None else None,
            quantity=row.quantity,
            start_time=row.start_time,
            period_start_time=row.period_start_time,
            period_end_time=row.period_end_time,
            trial_end_time=row.trial_end_time,
            cancel_at_period_end=row.cancel_at_period_end,
            canceled_time=row.canceled_time,
            grace_end_time=row.grace_end_time,
            pause_start_time=row.pause_start_time,
            resume_time=row.resume_time,
        ),
        create_time=row.create_time,
        update_time=row.update_time,
        metadata=row.metadata,
        provider_subscription_id=row.provider_subscription_id or "",
        provider_customer_id=row.provider_customer_id or "",
        provider_price_id=row.provider_price_id or "",
        create_request_id=row.create_request_id or "",
        create_fingerprint=row.create_fingerprint or "",
    )


def _history(row: Row[Any]) -> HistoryRow:
    after = dict(row.after)
    # What is said of the step, and not of the subscription.
    request, revision, webhook_event_id = (after.pop(key, None) for key in ("request", "revision", "webhook_event_id"))
    return HistoryRow(
        history_id=row.history_id,
        subscription_id=row.subscription_id,
        action=row.action,
        before=row.before,
        after=after,
        actor=row.actor,
        reason=row.reason,
        create_time=row.create_time,
        webhook_event_id=webhook_event_id or "",
        revision=revision or 0,
        request=request,
    )
