"""Subscriptions: created, moved between plans, paused, resumed, canceled; every check sees each change at once.

What nobody, or the tenant itself, collects money for is carried out here. Such a subscription is taken as paid until it
is canceled or its end comes, so it has no stored period end until one of the two is known; its billing periods are
computed from its anchor, `start_time`:

- the anchor is when the subscription began, or when its trial ends;
- a change of plan keeps it as long as the interval stays, and moves it to the instant of the change when
  the interval changes, which a move between a free and a priced plan always does;
- a pause leaves it where it is.

What Stripe collects is changed there first (`billing.ports.PaidSubscriptions`); the row follows what Stripe says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Protocol

from tallygate_server.billing.ports import Order, Paid, PaidSubscriptions
from tallygate_server.clock import Clock
from tallygate_server.domain.catalog import BillingInterval, Plan
from tallygate_server.domain.identifier import AccountId, PlanKey, TenantId
from tallygate_server.domain.subscription import (
    BillingProvider,
    ScheduledChangeKind,
    SubscriptionState,
)
from tallygate_server.entitlement_changes import EntitlementChanges
from tallygate_server.errors import (
    AccountNotFound,
    IllegalTransition,
    InvalidRequest,
    RequestIdReused,
    SubscriptionNotFound,
)
from tallygate_server.storage import accounts as account_rows
from tallygate_server.storage import subscriptions as rows
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.engine import Database
from tallygate_server.storage.subscriptions import HistoryRow, OperationMark, SubscriptionRow
from tallygate_server.subscriptions import steps
from tallygate_server.subscriptions.decisions import (
    Asked,
    Held,
    cancel_time_of,
    check_room,
    decide_cancel,
    decide_drop,
    decide_move,
    decide_new,
    decide_pause,
    decide_resume,
    demand_live,
    effective_time_of,
    is_canceled_later,
    price_of,
    provider_of,
    refuse_stripe,
    trial_days_of,
)
from tallygate_server.subscriptions.moves import Move, read_move
from tallygate_server.subscriptions.steps import HeldRow
from tallygate_server.subscriptions.views import SubscriptionChangeView, SubscriptionView, change_view_of, view_of
from tallygate_server.subscriptions.wishes import (
    ChangeTiming,
    NewSubscription,
    PlanMove,
    check_new,
    check_quantity,
    check_request_id,
    check_timing,
    fingerprint_of,
)
from tallygate_server.tenants import TenantDirectory

LIST_READS_MAX: Final = 10
"""Reads of one page of a list, each of a page's size: rows may have moved on since they were written."""


class Provisioner(Protocol):
    """Creates unknown accounts where their tenant allows it."""

    async def provision(self, tenant_id: TenantId, account_id: AccountId) -> bool:
        """Return whether the account exists afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ask:
    """One call that changes a subscription."""

    tenant_id: TenantId
    account_id: AccountId
    subscription_id: str
    action: str
    request_id: str
    fingerprint: str
    actor: str
    reason: str
    now: datetime

    @property
    def asked(self) -> Asked:
        return Asked(at=self.now, actor=self.actor, reason=self.reason)

    @property
    def request(self) -> dict[str, str] | None:
        return {"id": self.request_id, "fingerprint": self.fingerprint} if self.request_id else None

    @property
    def order(self) -> Order:
        return Order(
            tenant_id=self.tenant_id,
            account_id=self.account_id,
            actor=self.actor,
            reason=self.reason,
            request_id=self.request_id,
            fingerprint=self.fingerprint,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Peek:
    """What a look before the change found."""

    answer: SubscriptionView | None = None
    """Set where nothing more is to be done."""
    held: HeldRow | None = None
    move: Move | None = None
    mark: OperationMark | None = None
    """What is known of the same request at the provider."""

    @property
    def replayed(self) -> bool:
        return self.mark is not None and self.mark.state == "done"


Decide = Callable[[Connection, HeldRow], Awaitable[Held]]


class Subscriptions:
    """Changes and shows subscriptions."""

    def __init__(
        self,
        database: Database,
        changes: EntitlementChanges,
        *,
        tenants: TenantDirectory,
        accounts: Provisioner,
        clock: Clock,
        paid: PaidSubscriptions | None = None,
    ) -> None:
        """Work on the database; every change of an account goes through `changes`, every payment through `paid`.

        `paid` is None where no billing provider is configured.
        """
        self._database = database
        self._changes = changes
        self._tenants = tenants
        self._accounts = accounts
        self._clock = clock
        self._paid = paid

    # --- Creating -----------------------------------------------------------------------------------------------

    async def create(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        wanted: NewSubscription,
        *,
        request_id: str = "",
        actor: str = "",
        reason: str = "",
    ) -> SubscriptionView:
        """Subscribe the account to the newest version of a plan.

        The same request id with the same content returns the first answer again. Raises PlanNotFound,
        PriceNotFound, BillingProviderRequired, BillingProviderNotConfigured, SubscriptionExists,
        AccountNotFound, AccountDeleted, RequestIdReused, InvalidRequest, and for Stripe what `PaidSubscriptions` does.
        """
        check_new(wanted)
        ask = await self._ask(
            tenant_id, account_id, "create", wanted, request_id=request_id, actor=actor, reason=reason
        )
        # First without a change: what is refused, or answered already, disturbs nobody who reads the account.
        async with self._database.tenant_transaction(tenant_id) as connection:
            first = await self._first_answer(connection, ask)
            plan = await steps.on_sale(connection, tenant_id, wanted.plan_key)
            provider = provider_of(plan, wanted.provider, None, stripe=self._paid is not None)
            mark = None
            if provider is BillingProvider.STRIPE:
                mark = await self._mark(connection, ask)
            elif first is None:
                decide_new(plan, wanted, provider, ask.now)
            if first is not None and first.subscription.state is not SubscriptionState.INCOMPLETE:
                return first
            known = await account_rows.account_exists(connection, tenant_id, account_id)
        if first is None and not known and not await self._accounts.provision(tenant_id, account_id):
            raise AccountNotFound(account_id)
        if provider is BillingProvider.STRIPE:
            return await self._buy(ask, plan, wanted, mark, replayed=first is not None)
        async with self._changes.begin(tenant_id, [account_id], actor=actor, cause="subscription.created") as change:
            connection = change.connection
            view = await steps.first_answer(connection, tenant_id, account_id, request_id, ask.fingerprint)
            if view is None:
                await steps.check_account(connection, tenant_id, account_id)
                await steps.write_down(change, account_id, ask.now)
                plan = await steps.on_sale(connection, tenant_id, wanted.plan_key)
                provider = provider_of(plan, wanted.provider, None, stripe=self._paid is not None)
                subscription = decide_new(plan, wanted, provider, ask.now)
                live = await steps.live_rows(connection, tenant_id, account_id, ask.now)
                check_room([each.held for each in live], subscription, account_id=account_id)
                row = SubscriptionRow(
                    account_id=account_id,
                    subscription=subscription,
                    create_time=ask.now,
                    update_time=ask.now,
                    metadata=dict(wanted.metadata),
                    create_request_id=request_id,
                    create_fingerprint=ask.fingerprint if request_id else "",
                )
                await steps.add(change, row, reason=reason, at=ask.now, request=ask.request)
                view = view_of(tenant_id, row, Held(subscription=subscription), plan, ask.now)
        return replace(view, revision=change.revisions.get(account_id, 0))

    async def _buy(
        self, ask: _Ask, plan: Plan, wanted: NewSubscription, mark: OperationMark | None, *, replayed: bool
    ) -> SubscriptionView:
        """Subscribe the account at Stripe."""
        paid = self._provider()
        for name in ("start_time", "end_time"):
            if getattr(wanted, name) is not None:
                raise InvalidRequest.of(name, "is used with BILLING_PROVIDER_MANUAL only; Stripe renews by itself")
        price = price_of(plan, wanted.interval, wanted.currency)
        assert price is not None  # the plan is priced
        trial_days = trial_days_of(plan, wanted.trial_days)
        if mark is None and not replayed:
            # A retry goes on with what it began, which may be there already.
            async with self._database.tenant_transaction(ask.tenant_id) as connection:
                await steps.check_account(connection, ask.tenant_id, ask.account_id)
                live = await steps.live_rows(connection, ask.tenant_id, ask.account_id, ask.now)
                bought = decide_new(
                    plan,
                    replace(wanted, interval=price.interval, payment_method_id="", promotion_code=""),
                    BillingProvider.STRIPE,
                    ask.now,
                )
                check_room([each.held for each in live], bought, account_id=ask.account_id)
        made = await paid.create(
            ask.order,
            plan=plan,
            price=price,
            quantity=wanted.quantity,
            trial_days=trial_days,
            payment_method_id=wanted.payment_method_id,
            promotion_code=wanted.promotion_code,
            metadata=wanted.metadata,
        )
        return await self._paid_view(ask, made, replayed=replayed or (mark is not None and mark.state == "done"))

    # --- Changing -----------------------------------------------------------------------------------------------

    async def change_plan(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        *,
        plan_key: PlanKey,
        subscription_id: str = "",
        interval: BillingInterval | None = None,
        quantity: int | None = None,
        provider: BillingProvider | None = None,
        timing: ChangeTiming | None = None,
        effective_time: datetime | None = None,
        payment_method_id: str = "",
        preview_time: datetime | None = None,
        request_id: str = "",
        actor: str = "",
        reason: str = "",
    ) -> SubscriptionView:
        """Move a subscription to the newest version of a plan, to another interval or number of seats.

        Without a timing an upgrade (by rank) is made now; a downgrade waits for the end of the period that is paid for.
        Without a subscription id it is the account's only live one. Asking for what it already is changes nothing, but
        drops what is planned. Two moves are none of the subscription itself: from a free plan to one that Stripe
        collects for, a subscription begins beside it; and to a free plan that the account has anyway, or from Stripe to
        a free one, this subscription ends, and the free one goes on. Raises IllegalTransition for one that has ended,
        and as `create`.
        """
        wanted = PlanMove(
            plan_key=plan_key,
            interval=interval,
            quantity=quantity,
            provider=provider,
            timing=timing,
            effective_time=effective_time,
            payment_method_id=payment_method_id,
            preview_time=preview_time,
        )
        if quantity is not None:
            check_quantity(quantity)
        ask = await self._ask(
            tenant_id,
            account_id,
            "change_plan",
            wanted,
            subscription_id=subscription_id,
            request_id=request_id,
            actor=actor,
            reason=reason,
        )
        async with self._database.tenant_transaction(tenant_id) as connection:
            peek = await self._peek(connection, ask)
            if peek.answer is not None:
                return peek.answer
            check_timing(timing, effective_time, ask.now)
            move = await self._read_move(connection, ask, wanted)
            if peek.mark is None and move.changes_nothing:
                return await self._unchanged(connection, ask, move.held)
            stripe = BillingProvider.STRIPE in (move.held.subscription.provider, move.provider)
            if not stripe and self._moved(ask, move, wanted) == move.held.held:
                return await self._unchanged(connection, ask, move.held)
        if stripe:
            return await self._move_at_stripe(ask, move, wanted, peek)

        async def decide(connection: Connection, _: HeldRow) -> Held:
            return self._moved(ask, await self._read_move(connection, ask, wanted), wanted)

        return await self._change(ask, decide)

    def _moved(self, ask: _Ask, move: Move, wanted: PlanMove) -> Held:
        """Return what a local subscription becomes; raise where its new price is taken."""
        after = decide_move(
            move.held.held,
            move.plan,
            wanted,
            move.provider,
            at=move.at,
            stands_already=move.stands_already,
            asked=ask.asked,
        )
        self._check_room_after(move, after, ask.account_id)
        return after

    def _check_room_after(self, move: Move, after: Held, account_id: AccountId) -> None:
        others = [each.held for each in move.others]
        if after.subscription.state is SubscriptionState.CANCELED:
            return
        check_room(others, after.subscription, account_id=account_id)
        if after.pending is not None and after.pending.kind is ScheduledChangeKind.PLAN:
            target = replace(after.subscription, plan_key=move.plan.key, interval=after.pending.interval)
            check_room(others, target, account_id=account_id)

    async def _read_move(self, connection: Connection, ask: _Ask, wanted: PlanMove) -> Move:
        live = await steps.live_rows(connection, ask.tenant_id, ask.account_id, ask.now)
        held = await steps.find(connection, ask.tenant_id, ask.account_id, ask.subscription_id, ask.now)
        return await read_move(
            connection, ask.tenant_id, held, live, wanted, stripe=self._paid is not None, now=ask.now
        )

    async def _move_at_stripe(self, ask: _Ask, move: Move, wanted: PlanMove, peek: _Peek) -> SubscriptionView:
        paid = self._provider()
        if move.begins_beside:
            bought = NewSubscription(
                plan_key=move.plan.key,
                interval=move.price.interval if move.price is not None else None,
                quantity=move.quantity,
                trial_days=0,
                payment_method_id=wanted.payment_method_id,
            )
            return await self._buy(ask, move.plan, bought, peek.mark, replayed=False)
        row = move.held.row
        if move.price is None:
            await self._stand_by(ask, move)
            if move.at is None:
                made = await paid.cancel(ask.order, row, now=True, at=None)
            else:
                made = await paid.change_later(
                    ask.order, row, plan=move.plan, price=None, quantity=move.quantity,
                    effective_time=wanted.effective_time,
                )  # fmt: skip
        elif move.at is None:
            made = await paid.change_now(
                ask.order,
                row,
                plan=move.plan,
                price=move.price,
                quantity=move.quantity,
                payment_method_id=wanted.payment_method_id,
                preview_time=wanted.preview_time,
            )
        else:
            made = await paid.change_later(
                ask.order,
                row,
                plan=move.plan,
                price=move.price,
                quantity=move.quantity,
                effective_time=wanted.effective_time,
            )
        return await self._paid_view(ask, made, replayed=peek.replayed)

    async def _stand_by(self, ask: _Ask, move: Move) -> None:
        """Make sure that the account has the free plan which it goes on with when Stripe's subscription ends.

        It begins at once: beside a priced plan it takes nothing away, and nothing must happen at the very end.
        """
        if move.stands_already:
            return
        async with self._changes.begin(
            ask.tenant_id, [ask.account_id], actor=ask.actor, cause="subscription.created"
        ) as change:
            live = await steps.live_rows(change.connection, ask.tenant_id, ask.account_id, ask.now)
            subscription = decide_new(move.plan, NewSubscription(plan_key=move.plan.key), BillingProvider.NONE, ask.now)
            if any(each.subscription.plan_key == move.plan.key for each in live):
                return
            check_room([each.held for each in live], subscription, account_id=ask.account_id)
            row = SubscriptionRow(
                account_id=ask.account_id, subscription=subscription, create_time=ask.now, update_time=ask.now
            )
            await steps.add(change, row, reason=ask.reason, at=ask.now, request=None)

    async def cancel(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        *,
        subscription_id: str = "",
        timing: ChangeTiming | None = None,
        effective_time: datetime | None = None,
        request_id: str = "",
        actor: str = "",
        reason: str = "",
    ) -> SubscriptionView:
        """Cancel a subscription, by default at the end of the period that is paid for.

        What costs nothing, or is not paid for now, has no such period and ends at once. A change that was planned is
        dropped. Canceling again at the period's end changes nothing; canceling what has ended raises IllegalTransition.
        """
        ask = await self._ask(
            tenant_id,
            account_id,
            "cancel",
            timing,
            effective_time,
            subscription_id=subscription_id,
            request_id=request_id,
            actor=actor,
            reason=reason,
        )

        async def decide(_: Connection, held: HeldRow) -> Held:
            return decide_cancel(held.held, timing, effective_time, ask.now)

        async with self._database.tenant_transaction(tenant_id) as connection:
            peek = await self._peek(connection, ask)
            if peek.answer is not None:
                return peek.answer
            check_timing(timing, effective_time, ask.now)
            held = await steps.find(connection, tenant_id, account_id, subscription_id, ask.now)
            before = held.subscription
            if before.provider is not BillingProvider.STRIPE and await decide(connection, held) == held.held:
                return await self._unchanged(connection, ask, held)
            if peek.mark is None:
                demand_live(before, SubscriptionState.CANCELED)
        if before.provider is BillingProvider.STRIPE:
            paid = self._provider()
            end = cancel_time_of(before, timing, effective_time, ask.now)
            made = await paid.cancel(
                ask.order, held.row, now=end is None, at=end if timing is ChangeTiming.AT_TIME else None
            )
            return await self._paid_view(ask, made, replayed=peek.replayed)
        return await self._change(ask, decide)

    async def pause(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        *,
        subscription_id: str = "",
        timing: ChangeTiming | None = None,
        effective_time: datetime | None = None,
        resume_time: datetime | None = None,
        request_id: str = "",
        actor: str = "",
        reason: str = "",
    ) -> SubscriptionView:
        """Pause a subscription, by default at the end of the period that is paid for; what has none pauses at once.

        It gives no access until it is resumed, or the resume time comes. Raises IllegalTransition for what cannot be
        paused.
        """
        ask = await self._ask(
            tenant_id,
            account_id,
            "pause",
            timing,
            effective_time,
            resume_time,
            subscription_id=subscription_id,
            request_id=request_id,
            actor=actor,
            reason=reason,
        )

        async def decide(_: Connection, held: HeldRow) -> Held:
            after = decide_pause(held.held, timing, effective_time, resume_time, ask.asked)
            pending = held.held.pending
            if pending is not None and pending.provider_schedule_id and after.pending != pending:
                raise InvalidRequest.of(
                    "subscription_id", "a change of it is planned at Stripe; take it back with CancelScheduledChange"
                )
            return after

        async with self._database.tenant_transaction(tenant_id) as connection:
            peek = await self._peek(connection, ask)
            if peek.answer is not None:
                return peek.answer
            check_timing(timing, effective_time, ask.now)
            held = await steps.find(connection, tenant_id, account_id, subscription_id, ask.now)
            before = held.subscription
            if peek.mark is None and await decide(connection, held) == held.held:
                return await self._unchanged(connection, ask, held)
            at = None
            if peek.mark is None:
                at = effective_time_of(before, timing or ChangeTiming.PERIOD_END, effective_time, ask.now)
        if before.provider is BillingProvider.STRIPE:
            paid = self._provider()
            if at is None:
                made = await paid.pause(ask.order, held.row, resume_time=resume_time)
                return await self._paid_view(ask, made, replayed=peek.replayed)
        return await self._change(ask, decide)

    async def resume(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        *,
        subscription_id: str = "",
        request_id: str = "",
        actor: str = "",
        reason: str = "",
    ) -> SubscriptionView:
        """Resume a paused subscription, or take back a cancellation that has not taken effect.

        Without an id it is the account's only one that is paused or canceled for later. Raises IllegalTransition where
        there is nothing to resume.
        """
        ask = await self._ask(
            tenant_id,
            account_id,
            "resume",
            subscription_id=subscription_id,
            request_id=request_id,
            actor=actor,
            reason=reason,
        )

        async def decide(connection: Connection, held: HeldRow) -> Held:
            end = await steps.fixed_end(connection, tenant_id, held.held)
            return decide_resume(held.held, end, ask.now)

        async with self._database.tenant_transaction(tenant_id) as connection:
            peek = await self._peek(connection, ask)
            if peek.answer is not None:
                return peek.answer
            held = await self._find_resumable(connection, ask)
            before = held.subscription
            if peek.mark is None:
                await decide(connection, held)
        ask = replace(ask, subscription_id=before.subscription_id)
        if before.provider is BillingProvider.STRIPE:
            made = await self._provider().resume(ask.order, held.row)
            return await self._paid_view(ask, made, replayed=peek.replayed)
        return await self._change(ask, decide)

    async def _find_resumable(self, connection: Connection, ask: _Ask) -> HeldRow:
        if ask.subscription_id:
            return await steps.find(connection, ask.tenant_id, ask.account_id, ask.subscription_id, ask.now)
        live = await steps.live_rows(connection, ask.tenant_id, ask.account_id, ask.now)
        resumable = [
            each for each in live if each.subscription.state is SubscriptionState.PAUSED or is_canceled_later(each.held)
        ]
        if not resumable and len(live) == 1:
            state = live[0].subscription.state
            raise IllegalTransition(state.value, SubscriptionState.ACTIVE.value)
        return steps.only(resumable)

    async def cancel_scheduled_change(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        *,
        subscription_id: str,
        scheduled_change_id: str = "",
        actor: str = "",
        reason: str = "",
    ) -> SubscriptionView:
        """Take back a change that has not taken effect; without an id, whichever is planned. Raises NotFound."""
        ask = await self._ask(
            tenant_id,
            account_id,
            "cancel_scheduled_change",
            scheduled_change_id,
            subscription_id=subscription_id,
            actor=actor,
            reason=reason,
        )

        async def decide(connection: Connection, held: HeldRow) -> Held:
            end = await steps.fixed_end(connection, tenant_id, held.held)
            return decide_drop(held.held, scheduled_change_id, end)

        async with self._database.tenant_transaction(tenant_id) as connection:
            await self._peek(connection, ask)
            held = await steps.find(connection, tenant_id, account_id, subscription_id, ask.now)
            await decide(connection, held)
        if held.subscription.provider is BillingProvider.STRIPE:
            pending = held.held.pending
            if pending is not None and pending.provider_schedule_id:
                return await self._paid_view(ask, await self._provider().drop_scheduled_change(ask.order, held.row))
            if pending is None and held.subscription.state is not SubscriptionState.PAUSED:
                return await self._paid_view(ask, await self._provider().resume(ask.order, held.row))
        return await self._change(ask, decide)

    # --- Looking ------------------------------------------------------------------------------------------------

    async def get(self, tenant_id: TenantId, subscription_id: str) -> SubscriptionView:
        """Return one subscription; raise TenantNotFound or SubscriptionNotFound."""
        await self._tenants.get(tenant_id)
        now = self._clock.now()
        async with self._database.tenant_transaction(tenant_id) as connection:
            row = await rows.read_subscription(connection, tenant_id, subscription_id)
            if row is None:
                raise SubscriptionNotFound(subscription_id)
            (held,) = await steps.held_rows(connection, tenant_id, [row], now)
            return await self._view(connection, tenant_id, held, now)

    async def list(
        self,
        tenant_id: TenantId,
        *,
        account_id: str = "",
        plan_key: str = "",
        states: Sequence[SubscriptionState] = (),
        before_subscription_id: str = "",
        limit: int,
    ) -> Sequence[SubscriptionView]:
        """Return subscriptions, newest first; the page goes on before the last id of the page before.

        States and plans are those at the instant, whatever the rows still say.
        """
        await self._tenants.get(tenant_id)
        now = self._clock.now()
        kept: list[HeldRow] = []
        views = []
        async with self._database.tenant_transaction(tenant_id) as connection:
            for _ in range(LIST_READS_MAX):
                found = await rows.page_of_subscriptions(
                    connection,
                    tenant_id,
                    at=now,
                    account_id=account_id,
                    plan_key=plan_key,
                    states=states,
                    before_subscription_id=before_subscription_id,
                    limit=limit,
                )
                kept += [
                    each
                    for each in await steps.held_rows(connection, tenant_id, found, now)
                    if (not states or each.subscription.state in states)
                    and plan_key in ("", each.subscription.plan_key)
                ]
                if len(found) < limit or len(kept) >= limit:
                    break
                before_subscription_id = found[-1].subscription.subscription_id
            plans: dict[tuple[str, int], Plan] = {}
            for each in kept[:limit]:
                subscription = each.subscription
                pin = (subscription.plan_key, subscription.plan_version)
                if pin not in plans:
                    plans[pin] = await steps.pinned(connection, tenant_id, subscription)
                views.append(view_of(tenant_id, each.row, each.held, plans[pin], now))
        return views

    async def history(
        self, tenant_id: TenantId, account_id: AccountId, *, subscription_id: str = ""
    ) -> Sequence[HistoryRow]:
        """Return who changed what, when and why, oldest first."""
        await self._tenants.get(tenant_id)
        async with self._database.tenant_transaction(tenant_id) as connection:
            return await rows.read_history(connection, tenant_id, account_id, subscription_id=subscription_id)

    async def list_changes(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        *,
        subscription_id: str = "",
        before_change_id: int | None = None,
        limit: int,
    ) -> Sequence[SubscriptionChangeView]:
        """Return steps of history, newest first; the page goes on before the last step of the page before.

        Raises AccountNotFound.
        """
        await self._tenants.get(tenant_id)
        async with self._database.tenant_transaction(tenant_id) as connection:
            if not await account_rows.account_exists(connection, tenant_id, account_id):
                raise AccountNotFound(account_id)
            found = await rows.page_of_history(
                connection,
                tenant_id,
                account_id,
                subscription_id=subscription_id,
                before_history_id=before_change_id,
                limit=limit,
            )
        return [change_view_of(step) for step in found]

    # --- Steps --------------------------------------------------------------------------------------------------

    async def _ask(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        action: str,
        *content: object,
        subscription_id: str = "",
        request_id: str = "",
        actor: str,
        reason: str,
    ) -> _Ask:
        """Return the call, its content digested together with the subscription that it names."""
        check_request_id(request_id)
        await self._tenants.get(tenant_id)
        return _Ask(
            tenant_id=tenant_id,
            account_id=account_id,
            subscription_id=subscription_id,
            action=action,
            request_id=request_id,
            fingerprint=fingerprint_of(action, subscription_id, *content),
            actor=actor,
            reason=reason,
            now=self._clock.now(),
        )

    async def _first_answer(self, connection: Connection, ask: _Ask) -> SubscriptionView | None:
        return await steps.first_answer(connection, ask.tenant_id, ask.account_id, ask.request_id, ask.fingerprint)

    async def _mark(self, connection: Connection, ask: _Ask) -> OperationMark | None:
        """Return what is known of the request at the provider; raise RequestIdReused for another one's id."""
        mark = await rows.read_operation(
            connection, ask.tenant_id, ask.account_id, request_id=ask.request_id, fingerprint=ask.fingerprint
        )
        if mark is not None and mark.fingerprint != ask.fingerprint:
            raise RequestIdReused(ask.request_id)
        return mark

    async def _peek(self, connection: Connection, ask: _Ask) -> _Peek:
        first = await self._first_answer(connection, ask)
        if first is not None:
            return _Peek(answer=first)
        mark = await self._mark(connection, ask)
        await steps.check_account(connection, ask.tenant_id, ask.account_id)
        return _Peek(mark=mark)

    async def _unchanged(self, connection: Connection, ask: _Ask, held: HeldRow) -> SubscriptionView:
        revision = await steps.check_account(connection, ask.tenant_id, ask.account_id)
        return replace(await self._view(connection, ask.tenant_id, held, ask.now), revision=revision)

    async def _change(self, ask: _Ask, decide: Decide) -> SubscriptionView:
        """Make the change that is decided, on what is written down up to now."""
        async with self._changes.begin(
            ask.tenant_id, [ask.account_id], actor=ask.actor, cause=f"subscription.{ask.action}"
        ) as change:
            connection = change.connection
            view = await self._first_answer(connection, ask)
            if view is None:
                await steps.check_account(connection, ask.tenant_id, ask.account_id)
                await steps.write_down(change, ask.account_id, ask.now)
                held = await steps.find(connection, ask.tenant_id, ask.account_id, ask.subscription_id, ask.now)
                after = await decide(connection, held)
                await steps.store(
                    change,
                    ask.account_id,
                    held.held,
                    after,
                    action=ask.action,
                    reason=ask.reason,
                    at=ask.now,
                    request=ask.request,
                )
                changed = HeldRow(row=replace(held.row, update_time=ask.now), held=after)
                view = await self._view(connection, ask.tenant_id, changed, ask.now)
        return replace(view, revision=change.revisions.get(ask.account_id, 0))

    async def _view(
        self, connection: Connection, tenant_id: TenantId, held: HeldRow, now: datetime
    ) -> SubscriptionView:
        plan = await steps.pinned(connection, tenant_id, held.subscription)
        return view_of(tenant_id, held.row, held.held, plan, now)

    async def _paid_view(self, ask: _Ask, made: Paid, *, replayed: bool = False) -> SubscriptionView:
        view = await self.get(ask.tenant_id, made.subscription_id)
        return replace(
            view,
            revision=made.revision,
            replayed=replayed,
            payment_client_secret=made.payment_client_secret,
            hosted_invoice_url=made.hosted_invoice_url,
        )

    def _provider(self) -> PaidSubscriptions:
        if self._paid is None:
            refuse_stripe()
        return self._paid
