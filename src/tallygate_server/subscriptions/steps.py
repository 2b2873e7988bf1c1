"""Steps of a change: reading how subscriptions stand; writing what becomes of them, with history, audit and events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from tallygate_server.domain.catalog import Plan
from tallygate_server.domain.entitlement import AccountState
from tallygate_server.domain.identifier import AccountId, PlanKey, TenantId
from tallygate_server.domain.subscription import (
    LIVE_STATES,
    BillingProvider,
    Subscription,
    SubscriptionState,
)
from tallygate_server.domain.timeline import Step, StepKind, standing, steps_until
from tallygate_server.entitlement_changes import EntitlementChange
from tallygate_server.errors import (
    AccountDeleted,
    AccountNotFound,
    InvalidRequest,
    PlanNotFound,
    RequestIdReused,
    SubscriptionNotFound,
)
from tallygate_server.storage import accounts as account_rows
from tallygate_server.storage import catalogs as catalog_rows
from tallygate_server.storage import scheduled_changes as change_rows
from tallygate_server.storage import subscriptions as rows
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.scheduled_changes import ChangeOutcome
from tallygate_server.storage.subscriptions import SubscriptionRow
from tallygate_server.subscriptions.decisions import Held, decide_new
from tallygate_server.subscriptions.views import SubscriptionView, view_of
from tallygate_server.subscriptions.wishes import NewSubscription

CLOCK_ACTOR: Final = "clock"
"""Who does what happens by itself."""

_REASON_OF: Final = {
    StepKind.EXPIRY: "its end has passed",
    StepKind.TRIAL_END: "its trial is over",
    StepKind.RESUMPTION: "its pause is over",
    StepKind.SCHEDULED_CHANGE: "",
}
_LISTED_MAX: Final = 10
"""How many subscriptions an error names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldRow:
    """A row, and how it stands at the instant."""

    row: SubscriptionRow
    held: Held

    @property
    def subscription(self) -> Subscription:
        """The subscription at the instant."""
        return self.held.subscription

    @property
    def live(self) -> bool:
        """Whether it has not ended."""
        return self.held.subscription.state in LIVE_STATES


# --- Reading ------------------------------------------------------------------------------------------------


async def on_sale(connection: Connection, tenant_id: TenantId, plan_key: PlanKey) -> Plan:
    """Return the newest version of the plan; raise PlanNotFound."""
    row = await catalog_rows.read_plan(connection, tenant_id, plan_key)
    if row is None or row.retired:
        raise PlanNotFound(plan_key)
    return row.plan


async def pinned(connection: Connection, tenant_id: TenantId, subscription: Subscription) -> Plan:
    """Return the plan version that the subscription is pinned to."""
    row = await catalog_rows.read_plan(connection, tenant_id, subscription.plan_key, version=subscription.plan_version)
    assert row is not None  # a foreign key holds it
    return row.plan


async def check_account(connection: Connection, tenant_id: TenantId, account_id: AccountId) -> int:
    """Return the account's revision; raise AccountNotFound or AccountDeleted."""
    account = await account_rows.read_account(connection, tenant_id, account_id)
    if account is None:
        raise AccountNotFound(account_id)
    if account.state is AccountState.DELETED:
        raise AccountDeleted(account_id)
    return account.revision


async def held_rows(
    connection: Connection, tenant_id: TenantId, found: Sequence[SubscriptionRow], now: datetime
) -> list[HeldRow]:
    """Return how the rows stand at the instant."""
    pending = await change_rows.read_pending_of(
        connection, tenant_id, [row.subscription.subscription_id for row in found]
    )
    held = []
    for row in found:
        at = standing(row.subscription, pending.get(row.subscription.subscription_id), now)
        held.append(HeldRow(row=row, held=Held(subscription=at.subscription, pending=at.pending)))
    return held


async def live_rows(connection: Connection, tenant_id: TenantId, account_id: AccountId, now: datetime) -> list[HeldRow]:
    """Return the account's subscriptions that live at the instant, oldest first."""
    found = await rows.live_subscriptions(connection, tenant_id, account_id)
    return [each for each in await held_rows(connection, tenant_id, found, now) if each.live]


async def find(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, subscription_id: str, now: datetime
) -> HeldRow:
    """Return the account's subscription, or its only live one where no id is given."""
    if subscription_id:
        row = await rows.read_subscription(connection, tenant_id, subscription_id)
        if row is None or row.account_id != account_id:
            raise SubscriptionNotFound(subscription_id)
        return (await held_rows(connection, tenant_id, [row], now))[0]
    return only(await live_rows(connection, tenant_id, account_id, now))


def only(live: Sequence[HeldRow]) -> HeldRow:
    """Return the one that is meant without an id; raise SubscriptionNotFound, or InvalidRequest for several."""
    if not live:
        raise SubscriptionNotFound("")
    if len(live) > 1:
        ids = ", ".join(
            f"{each.subscription.subscription_id} ({each.subscription.plan_key})" for each in live[:_LISTED_MAX]
        )
        raise InvalidRequest.of("subscription_id", f"the account has several live subscriptions, name one: {ids}")
    return live[0]


async def first_answer(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, request_id: str, fingerprint: str
) -> SubscriptionView | None:
    """Return the answer that the request id got before; raise RequestIdReused where it was about something else."""
    if not request_id:
        return None
    step = await rows.read_step_of_request(connection, tenant_id, account_id, request_id)
    if step is None or step.request is None:
        return None
    if step.request["fingerprint"] != fingerprint:
        raise RequestIdReused(request_id)
    row = await rows.read_subscription(connection, tenant_id, step.subscription_id)
    account = await account_rows.read_account(connection, tenant_id, account_id)
    assert row is not None
    assert account is not None
    first = Held(
        subscription=rows.subscription_from_json(step.after),
        pending=change_rows.change_from_json(step.after.get("scheduled_change")),
    )
    plan = await pinned(connection, tenant_id, first.subscription)
    view = view_of(tenant_id, replace(row, update_time=step.create_time), first, plan, step.create_time)
    return replace(view, revision=account.revision, replayed=True)


async def fixed_end(connection: Connection, tenant_id: TenantId, held: Held) -> datetime | None:
    """Return the end that the subscription had before somebody asked for another one; None: it ran on."""
    if not held.subscription.cancel_at_period_end or held.subscription.provider is BillingProvider.STRIPE:
        return None
    step = await rows.read_last_step(connection, tenant_id, held.subscription.subscription_id, "create")
    if step is None or not step.after["cancel_at_period_end"]:
        return None
    end = step.after["period_end_time"]
    return datetime.fromisoformat(end) if end is not None else None


# --- Writing ------------------------------------------------------------------------------------------------


async def add(
    change: EntitlementChange,
    row: SubscriptionRow,
    *,
    reason: str,
    at: datetime,
    request: Mapping[str, str] | None,
) -> None:
    """Add a subscription."""
    await rows.add_subscription(change.connection, change.tenant_id, row)
    await record(
        change,
        row.account_id,
        before=None,
        after=Held(subscription=row.subscription),
        action="create",
        reason=reason,
        at=at,
        request=request,
    )


async def store(
    change: EntitlementChange,
    account_id: AccountId,
    before: Held,
    after: Held,
    *,
    action: str,
    reason: str,
    at: datetime,
    request: Mapping[str, str] | None = None,
    actor: str | None = None,
    written_at: datetime | None = None,
    outcome: ChangeOutcome = ChangeOutcome.CANCELED,
) -> None:
    """Write what becomes of a subscription and of the change that was planned for it.

    `at` is when it happens, `written_at` (by default the same) when it is written down; `outcome` is what becomes of a
    planned change that is planned no longer.
    """
    connection, tenant_id = change.connection, change.tenant_id
    written_at = written_at or at
    subscription_id = after.subscription.subscription_id
    if after.pending != before.pending:
        await change_rows.end_pending(connection, tenant_id, subscription_id, outcome, at=written_at)
        if after.pending is not None:
            await change_rows.add_pending(connection, tenant_id, account_id, after.pending)
    # Also where only a plan for it changes: its `update_time` says so.
    await rows.write_subscription(connection, tenant_id, after.subscription, at=written_at)
    await record(
        change, account_id, before=before, after=after, action=action, reason=reason, at=at, request=request,
        actor=actor, dropped=outcome is not ChangeOutcome.DONE,
    )  # fmt: skip


async def write_down(change: EntitlementChange, account_id: AccountId, now: datetime) -> int:
    """Write down everything that has happened by itself to the account's subscriptions; return how many steps.

    What is collected by a provider is left to what the provider says.
    """
    found = await rows.live_subscriptions(change.connection, change.tenant_id, account_id)
    ours = {
        row.subscription.subscription_id: row
        for row in found
        if row.subscription.provider is not BillingProvider.STRIPE
    }
    pending = await change_rows.read_pending_of(change.connection, change.tenant_id, list(ours))
    due: list[tuple[datetime, int, str, Step]] = []
    for subscription_id, row in ours.items():
        for number, step in enumerate(steps_until(row.subscription, pending.get(subscription_id), now)):
            due.append((step.at, number, subscription_id, step))
    held = {
        subscription_id: Held(subscription=row.subscription, pending=pending.get(subscription_id))
        for subscription_id, row in ours.items()
    }
    # In the order in which they happened: one that ends makes room for another that moves to its price.
    for at, _, subscription_id, step in sorted(due, key=lambda each: each[:3]):
        before = held[subscription_id]
        planned = before.pending
        applied = step.kind is StepKind.SCHEDULED_CHANGE
        live = step.after.state in LIVE_STATES
        after = Held(subscription=step.after, pending=None if applied or not live else planned)
        await store(
            change,
            account_id,
            before,
            after,
            action=step.kind.value,
            reason=planned.reason if applied and planned is not None else _REASON_OF[step.kind],
            actor=planned.actor if applied and planned is not None and planned.actor else CLOCK_ACTOR,
            at=at,
            written_at=now,
            outcome=ChangeOutcome.DONE if applied else ChangeOutcome.CANCELED,
        )
        held[subscription_id] = after
    return len(due)


async def record(
    change: EntitlementChange,
    account_id: AccountId,
    *,
    before: Held | None,
    after: Held,
    action: str,
    reason: str,
    at: datetime,
    request: Mapping[str, str] | None = None,
    actor: str | None = None,
    dropped: bool = True,
    event: str = "",
) -> None:
    """Write history, audit and events of one step; `dropped`: a change that is planned no longer was taken back.

    The events follow from what changes, but for one that is named.
    """
    await rows.add_history(
        change.connection,
        change.tenant_id,
        account_id=account_id,
        action=action,
        before=before.subscription if before is not None else None,
        after=after.subscription,
        actor=change.actor if actor is None else actor,
        reason=reason,
        at=at,
        request=request,
        pending_before=before.pending if before is not None else None,
        pending_after=after.pending,
    )
    json_after = rows.subscription_to_json(after.subscription)
    json_before = rows.subscription_to_json(before.subscription) if before is not None else None
    await change.audit(
        f"subscription.{action}",
        f"subscription:{after.subscription.subscription_id}",
        {
            "account_id": account_id,
            "reason": reason,
            "before": json_before,
            "after": json_after,
            "scheduled_change": change_rows.change_to_json(after.pending),
        },
    )
    for event_type in [event] if event else events_of(before, after, dropped=dropped):
        await change.emit(
            event_type,
            account_id,
            {
                "subscription": json_after,
                "state_before": json_before["state"] if json_before is not None else None,
                "state_after": json_after["state"],
                "scheduled_change": change_rows.change_to_json(after.pending),
                "reason": reason,
            },
        )


def events_of(before: Held | None, after: Held, *, dropped: bool) -> list[str]:
    """Return the types of the events that tell others of a step."""
    if before is None:
        return ["subscription.created"]
    events = []
    if before.subscription != after.subscription:
        events.append(f"subscription.{_verb(before.subscription.state, after.subscription.state)}")
    if before.pending is not None and before.pending != after.pending and dropped:
        events.append("subscription.schedule_canceled")
    if after.pending is not None and before.pending != after.pending:
        events.append("subscription.scheduled")
    return events


def _verb(before: SubscriptionState, after: SubscriptionState) -> str:
    if after is SubscriptionState.CANCELED:
        return "canceled"
    if after is SubscriptionState.EXPIRED:
        return "expired"
    if after is SubscriptionState.PAUSED and before is not after:
        return "paused"
    if before is SubscriptionState.PAUSED and before is not after:
        return "resumed"
    return "changed"


async def start_default_subscription(
    change: EntitlementChange, account_id: AccountId, default_plan_key: PlanKey | None, *, at: datetime
) -> None:
    """Put a new account on its tenant's default plan, if there is one and it costs nothing."""
    if default_plan_key is None:
        return
    row = await catalog_rows.read_plan(change.connection, change.tenant_id, default_plan_key)
    if row is None or row.retired or row.plan.priced:
        return
    subscription = decide_new(row.plan, NewSubscription(plan_key=default_plan_key), BillingProvider.NONE, at)
    new = SubscriptionRow(account_id=account_id, subscription=subscription, create_time=at, update_time=at)
    await add(change, new, reason="default plan of the tenant", at=at, request=None)
