"""Writes down what has happened to subscriptions by itself, and tells others of what is about to.

Access rests on none of it: what is due is so already, for every check (see `domain.timeline`). What is written is rows,
history, audit and events, through the same change as any call; twice, late, or by two servers comes to the same.
A pause of a subscription that Stripe collects for is the exception: Stripe must be told when its time has come.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, TypeVar

import structlog

from tallygate_server.billing.ports import Order, PaidSubscriptions
from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.subscription import (
    LIVE_STATES,
    BillingProvider,
    ScheduledChange,
    ScheduledChangeKind,
    SubscriptionState,
)
from tallygate_server.domain.timeline import steps_until
from tallygate_server.entitlement_changes import EntitlementChange, EntitlementChanges
from tallygate_server.errors import IllegalTransition, PaymentRefused, Unavailable
from tallygate_server.storage import due_subscriptions as due_rows
from tallygate_server.storage import scheduled_changes as change_rows
from tallygate_server.storage import subscriptions as rows
from tallygate_server.storage.due_subscriptions import DueAccount, DueSubscription
from tallygate_server.storage.engine import Database
from tallygate_server.storage.scheduled_changes import ChangeOutcome
from tallygate_server.storage.subscriptions import SubscriptionRow
from tallygate_server.subscriptions.decisions import Held, shown_change
from tallygate_server.subscriptions.steps import CLOCK_ACTOR, record, store, write_down
from tallygate_server.subscriptions.wishes import fingerprint_of

log = structlog.get_logger(__name__)

TRIAL_WARNING: Final = timedelta(days=3)
"""How long before the end of a trial others are told; Stripe does the same for its own."""
BATCH_SIZE: Final = 200
BATCHES_PER_RUN_MAX: Final = 50
RETRY_AFTER: Final = timedelta(seconds=30)
"""How long an account that could not be done is left alone, by this server."""
FAILING_MAX: Final = 10_000
"""How many such accounts are remembered."""

_Found = TypeVar("_Found", DueAccount, DueSubscription)


class DueSubscriptions:
    """Does what is due, of every tenant, in bounded batches."""

    def __init__(
        self,
        database: Database,
        lookups: Database,
        changes: EntitlementChanges,
        *,
        clock: Clock,
        paid: PaidSubscriptions | None = None,
    ) -> None:
        """Work on the database; `lookups` has the intake role, and `paid` is None without a billing provider."""
        self._database = database
        self._lookups = lookups
        self._changes = changes
        self._clock = clock
        self._paid = paid
        self._failing: dict[DueAccount, datetime] = {}

    async def write_down(self) -> dict[str, int]:
        """Write down ends, ends of trials and pauses, and planned changes; return how many steps."""
        now = self._clock.now()
        steps = failed = 0

        async def find(after: DueAccount | None) -> list[DueAccount]:
            async with self._lookups.plain_transaction() as connection:
                return await due_rows.due_accounts(connection, now, after=after, limit=BATCH_SIZE)

        async def do(account: DueAccount) -> None:
            nonlocal steps, failed
            if self._failing.get(account, now) > now:
                return
            try:
                done = await self._do_account(account, now)
            except Unavailable:
                # Postgres or the provider is away: it stays due.
                self._leave_alone(account, now)
                failed += 1
            except Exception:
                # One account that cannot be done must not keep the others waiting.
                log.exception("due_subscriptions_failed", tenant_id=account.tenant_id)
                self._leave_alone(account, now)
                failed += 1
            else:
                steps += done
                if done:
                    self._failing.pop(account, None)
                else:
                    # Nothing of it can be done here: by a server without a provider, say.
                    self._leave_alone(account, now)

        await self._each(find, do)
        return {name: count for name, count in (("steps", steps), ("failed", failed)) if count}

    async def tell(self) -> dict[str, int]:
        """Tell others of trials that are about to end, and of graces that have ended, once each."""
        now = self._clock.now()
        told = 0

        async def tell(found: DueSubscription, action: str, instant: str) -> None:
            nonlocal told
            told += await self._tell_once(found, action, instant, now)

        async def find_trials(after: DueSubscription | None) -> list[DueSubscription]:
            async with self._lookups.plain_transaction() as connection:
                return await due_rows.trials_ending(connection, now, now + TRIAL_WARNING, after=after, limit=BATCH_SIZE)

        async def find_graces(after: DueSubscription | None) -> list[DueSubscription]:
            async with self._lookups.plain_transaction() as connection:
                return await due_rows.graces_over(connection, now, after=after, limit=BATCH_SIZE)

        await self._each(find_trials, lambda found: tell(found, "trial_will_end", "trial_end_time"))
        await self._each(find_graces, lambda found: tell(found, "grace_ended", "grace_end_time"))
        return {"told": told} if told else {}

    # --- Steps --------------------------------------------------------------------------------------------------

    async def _each(
        self, find: Callable[[_Found | None], Awaitable[list[_Found]]], do: Callable[[_Found], Awaitable[None]]
    ) -> None:
        after: _Found | None = None
        for _ in range(BATCHES_PER_RUN_MAX):
            batch = await find(after)
            for found in batch:
                await do(found)
            if len(batch) < BATCH_SIZE:
                return
            after = batch[-1]

    async def _do_account(self, account: DueAccount, now: datetime) -> int:
        tenant_id, account_id = account.tenant_id, account.account_id
        done = 0
        async with self._database.tenant_transaction(tenant_id) as connection:
            live = await rows.live_subscriptions(connection, tenant_id, account_id)
            pending = await change_rows.read_pending_of_account(connection, tenant_id, account_id)
        living = {row.subscription.subscription_id: row for row in live}
        ours = any(
            steps_until(row.subscription, pending.get(row.subscription.subscription_id), now)
            for row in live
            if row.subscription.provider is not BillingProvider.STRIPE
        )
        ended = [subscription_id for subscription_id in pending if subscription_id not in living]
        if ours or ended:
            async with self._begin(tenant_id, account_id, "subscription.due") as change:
                done += await write_down(change, account_id, now)
                for subscription_id in ended:
                    # It ended otherwise, before the change's time came.
                    await change_rows.end_pending(
                        change.connection, tenant_id, subscription_id, ChangeOutcome.CANCELED, at=now,
                        error="the subscription has ended",
                    )  # fmt: skip
                    done += 1
        for row in live:
            if row.subscription.provider is BillingProvider.STRIPE:
                done += await self._do_at_provider(tenant_id, row, pending.get(row.subscription.subscription_id), now)
        return done

    async def _do_at_provider(
        self, tenant_id: TenantId, row: SubscriptionRow, pending: ScheduledChange | None, now: datetime
    ) -> int:
        """Pause or resume at the provider what is to be paused or resumed by now."""
        held = Held(subscription=row.subscription, pending=pending)
        due = shown_change(held)
        if due is None or due.effective_time > now or due.provider_schedule_id or self._paid is None:
            return 0
        order = Order(
            tenant_id=tenant_id,
            account_id=row.account_id,
            actor=due.actor or CLOCK_ACTOR,
            reason=due.reason,
            # The same for every attempt, of every server.
            request_id=f"due:{due.scheduled_change_id}:{int(due.effective_time.timestamp())}",
            fingerprint=fingerprint_of("due", due.scheduled_change_id, due.kind, due.effective_time),
        )
        outcome, error = ChangeOutcome.DONE, ""
        try:
            if due.kind is ScheduledChangeKind.PAUSE:
                await self._paid.pause(order, row, resume_time=due.resume_time)
            elif due.kind is ScheduledChangeKind.RESUMPTION:
                await self._paid.resume(order, row)
            else:
                # Its end, and a move of its plan, are the provider's own.
                return 0
        except (PaymentRefused, IllegalTransition) as refused:
            outcome, error = ChangeOutcome.FAILED, refused.message
        if pending is None and outcome is ChangeOutcome.DONE:
            return 1
        async with self._begin(tenant_id, row.account_id, "subscription.due") as change:
            await change_rows.end_pending(
                change.connection, tenant_id, row.subscription.subscription_id, outcome, at=now, error=error
            )
            if pending is None:
                # A pause whose end was refused goes on until somebody resumes it; it is not tried for ever.
                present = await rows.read_subscription(change.connection, tenant_id, row.subscription.subscription_id)
                if present is not None and present.subscription.state is SubscriptionState.PAUSED:
                    await self._forget_resumption(change, present, error, now)
        return 1

    async def _forget_resumption(
        self, change: EntitlementChange, row: SubscriptionRow, error: str, now: datetime
    ) -> None:
        before = Held(subscription=row.subscription)
        after = Held(subscription=replace(row.subscription, resume_time=None))
        await store(
            change, row.account_id, before, after, action="resumption_failed", reason=error, at=now, actor=CLOCK_ACTOR
        )

    async def _tell_once(self, found: DueSubscription, action: str, instant: str, now: datetime) -> int:
        tenant_id, account_id, subscription_id = found.tenant_id, found.account_id, found.subscription_id
        async with self._database.tenant_transaction(tenant_id) as connection:
            if not await due_rows.without_step(connection, tenant_id, [subscription_id], action, instant):
                return 0
        async with self._begin(tenant_id, account_id, f"subscription.{action}") as change:
            connection = change.connection
            # Again, now that nobody else changes the account.
            if not await due_rows.without_step(connection, tenant_id, [subscription_id], action, instant):
                return 0
            row = await rows.read_subscription(connection, tenant_id, subscription_id)
            if row is None or row.subscription.state not in LIVE_STATES:
                return 0
            pending = await change_rows.read_pending(connection, tenant_id, subscription_id)
            held = Held(subscription=row.subscription, pending=pending)
            await record(
                change, account_id, before=held, after=held, action=action, reason="", at=now, actor=CLOCK_ACTOR,
                event=f"subscription.{action}",
            )  # fmt: skip
        return 1

    def _leave_alone(self, account: DueAccount, now: datetime) -> None:
        self._failing.pop(account, None)
        self._failing[account] = now + RETRY_AFTER
        if len(self._failing) > FAILING_MAX:
            del self._failing[next(iter(self._failing))]

    def _begin(
        self, tenant_id: TenantId, account_id: AccountId, cause: str
    ) -> AbstractAsyncContextManager[EntitlementChange]:
        return self._changes.begin(tenant_id, [account_id], actor=CLOCK_ACTOR, cause=cause)
