"""Subscriptions that the billing provider collects money for: every change is made there first, then stored here.

Each change is an operation (`operations.py`). What the provider answers goes the way that webhooks and the
reconciliation go, so nothing is lost when one of them comes first, or when the store goes away in between.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from tallygate_server.billing.checkout_pages import CheckoutPages
from tallygate_server.billing.customers import Customers
from tallygate_server.billing.observed import ObservedSubscription
from tallygate_server.billing.operations import PROVIDER, Operation, Operations, Work
from tallygate_server.billing.planned_changes import PlannedChanges
from tallygate_server.billing.ports import Applied, Cause, Order, Paid, SubscriptionSync
from tallygate_server.billing.provider import SUBSCRIPTION_ATTRIBUTE, PaymentProvider, Sale
from tallygate_server.billing.sales import check_not_bought, sale_from_json, sale_of, sale_to_json
from tallygate_server.clock import Clock
from tallygate_server.domain.catalog import Plan, Price
from tallygate_server.domain.subscription import LIVE_STATES, SubscriptionState
from tallygate_server.errors import IllegalTransition, PaymentRefused, TallygateError
from tallygate_server.storage.engine import Database
from tallygate_server.storage.mapping import Json
from tallygate_server.storage.subscriptions import SubscriptionRow
from tallygate_server.unique_ids import new_id


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    """What came of an operation."""

    paid: Paid
    provider_subscription_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """A change of a subscription that there is."""

    kind: str
    """Of its operation: all of one kind have prepared the same fields."""
    action: str
    """In the subscription's history."""
    prepared: Json
    is_done: Callable[[ObservedSubscription, Json], Awaitable[bool]]
    """Tell whether the subscription is as it should become."""
    act: Callable[[ObservedSubscription, Json, str], Awaitable[ObservedSubscription | None]]
    """Change it, with keys derived from the id; None: it has to be fetched."""
    afterwards: Callable[[Json], Awaitable[int]] | None = None
    """Write what only we know; return the revision, 0 where nothing was written."""


class StripePaidSubscriptions:
    """Satisfies `PaidSubscriptions`."""

    def __init__(
        self,
        database: Database,
        operations: Operations,
        customers: Customers,
        *,
        planned: PlannedChanges,
        provider: PaymentProvider,
        sync: SubscriptionSync,
        clock: Clock,
    ) -> None:
        """Change subscriptions at the provider and store them through `sync`."""
        self._database = database
        self._operations = operations
        self._customers = customers
        self._planned = planned
        self._provider = provider
        self._sync = sync
        self._pages = CheckoutPages(database, provider=provider, sync=sync)
        self._clock = clock

    # ---- PaidSubscriptions

    async def create(
        self,
        order: Order,
        *,
        plan: Plan,
        price: Price,
        quantity: int,
        trial_days: int,
        payment_method_id: str,
        promotion_code: str,
        metadata: Mapping[str, str],
    ) -> Paid:
        """Subscribe the account's customer, who is made where there is none."""

        async def prepare() -> Json:
            customer = await self._customers.ensure(order.tenant_id, order.account_id, actor=order.actor)
            return {
                "subscription_id": new_id("sub", self._clock.now()),
                "customer_id": customer.provider_customer_id,
                "sale": sale_to_json(sale_of(order.tenant_id, plan, price)),
                "quantity": quantity,
                "trial_days": trial_days,
                "payment_method_id": payment_method_id,
                "promotion_code": promotion_code,
                "metadata": dict(metadata),
            }

        async def act(operation: Operation) -> _Done:
            chosen = operation.prepared
            sale = sale_from_json(order.tenant_id, chosen["sale"])
            await self._make_room(order, sale, operation.key, but=chosen["subscription_id"])
            observed = await self._provider.create_subscription(
                sale,
                customer_id=chosen["customer_id"],
                account_id=order.account_id,
                subscription_id=chosen["subscription_id"],
                quantity=chosen["quantity"],
                trial_days=chosen["trial_days"],
                payment_method_id=chosen["payment_method_id"],
                promotion_code=chosen["promotion_code"],
                metadata=chosen["metadata"],
                operation_id=operation.key,
            )
            return await self._store(order, "create", observed)

        async def look(operation: Operation) -> _Done | None:
            chosen = operation.prepared
            async for found in self._provider.changed_subscription_ids(since=None, customer_id=chosen["customer_id"]):
                observed = await self._provider.subscription(found)
                if observed is None or observed.metadata.get(SUBSCRIPTION_ATTRIBUTE) != chosen["subscription_id"]:
                    continue
                # One that was refused after all has ended again; the provider says so once more.
                if observed.state in LIVE_STATES:
                    return await self._store(order, "create", observed)
            return None

        return await self._carry_out(
            order,
            kind="create_subscription",
            subject=f"{plan.key}:{price.interval.value}",
            prepare=prepare,
            look=look,
            act=act,
        )

    async def change_now(
        self,
        order: Order,
        row: SubscriptionRow,
        *,
        plan: Plan,
        price: Price,
        quantity: int,
        payment_method_id: str,
        preview_time: datetime | None,
    ) -> Paid:
        """Move the subscription to the price at once; the difference is billed at once. A planned change is dropped."""
        prepared = {
            "sale": sale_to_json(sale_of(order.tenant_id, plan, price)),
            "quantity": quantity,
            "payment_method_id": payment_method_id,
            "proration_time": preview_time.isoformat() if preview_time is not None else None,
        }

        async def is_done(present: ObservedSubscription, chosen: Json) -> bool:
            sale = sale_from_json(order.tenant_id, chosen["sale"])
            return present.schedule is None and _sells(present, sale, chosen["quantity"])

        async def act(present: ObservedSubscription, chosen: Json, key: str) -> ObservedSubscription:
            sale = sale_from_json(order.tenant_id, chosen["sale"])
            await self._make_room(order, sale, key, but=row.subscription.subscription_id)
            time = chosen["proration_time"]
            return await self._provider.change_subscription(
                present,
                sale,
                quantity=chosen["quantity"],
                payment_method_id=chosen["payment_method_id"],
                proration_time=datetime.fromisoformat(time) if time is not None else None,
                operation_id=key,
            )

        async def afterwards(_chosen: Json) -> int:
            return await self._planned.drop(order, row)

        change = _Change(
            kind="change_plan",
            action="change_plan",
            prepared=prepared,
            is_done=is_done,
            act=act,
            afterwards=afterwards,
        )
        return await self._change(order, row, change)

    async def change_later(
        self,
        order: Order,
        row: SubscriptionRow,
        *,
        plan: Plan,
        price: Price | None,
        quantity: int,
        effective_time: datetime | None,
    ) -> Paid:
        """Plan the move for a time (None: the end of the paid period).

        Without a price the plan is a free one: the subscription ends at that time, and a free one follows it.
        """
        if price is None:
            # The account holds the free plan already, or it begins beside: nothing must happen at the very end.
            return await self._end_later(order, row, "change_plan", effective_time)
        present = await self._present(row)
        effective = effective_time or present.period_end_time
        prepared = {
            "sale": sale_to_json(sale_of(order.tenant_id, plan, price)),
            "quantity": quantity,
            "effective_time": effective.isoformat(),
        }

        async def is_done(present: ObservedSubscription, chosen: Json) -> bool:
            if present.schedule is None or not present.schedule.phases:
                return False
            last = present.schedule.phases[-1]
            wanted = await self._provider.ensure_price(sale_from_json(order.tenant_id, chosen["sale"]))
            return (last.price_id, last.quantity, last.start_time) == (
                wanted.price_id,
                chosen["quantity"],
                datetime.fromisoformat(chosen["effective_time"]),
            )

        async def act(present: ObservedSubscription, chosen: Json, key: str) -> None:
            # What ends cannot change later.
            if _is_ending(present):
                present = await self._provider.keep(present.provider_subscription_id, operation_id=key)
            await self._provider.schedule_change(
                present,
                sale_from_json(order.tenant_id, chosen["sale"]),
                quantity=chosen["quantity"],
                effective_time=datetime.fromisoformat(chosen["effective_time"]),
                operation_id=key,
            )

        change = _Change(kind="schedule_change", action="change_plan", prepared=prepared, is_done=is_done, act=act)
        return await self._change(order, row, change)

    async def cancel(self, order: Order, row: SubscriptionRow, *, now: bool, at: datetime | None) -> Paid:
        """Cancel at once, at a time, or (neither) at the end of the paid period."""
        if not now:
            return await self._end_later(order, row, "cancel", at)

        async def is_done(present: ObservedSubscription, _chosen: Json) -> bool:
            return present.state not in LIVE_STATES

        async def act(present: ObservedSubscription, chosen: Json, key: str) -> ObservedSubscription:
            return await self._provider.cancel_now(
                present.provider_subscription_id, reason=chosen["reason"], operation_id=key
            )

        async def afterwards(_chosen: Json) -> int:
            return await self._planned.drop(order, row)

        prepared = {"reason": order.reason}
        change = _Change(
            kind="cancel", action="cancel", prepared=prepared, is_done=is_done, act=act, afterwards=afterwards
        )
        return await self._change(order, row, change)

    async def resume(self, order: Order, row: SubscriptionRow) -> Paid:
        """End a pause, or take back a cancellation that has not taken effect."""

        async def is_done(present: ObservedSubscription, _chosen: Json) -> bool:
            return not _is_paused(present) and not _is_ending(present)

        async def act(present: ObservedSubscription, _chosen: Json, key: str) -> ObservedSubscription | None:
            if _is_paused(present):
                return await self._provider.resume(present.provider_subscription_id, operation_id=key)
            if _is_ending(present):
                return await self._provider.keep(present.provider_subscription_id, operation_id=key)
            return None

        change = _Change(kind="resume", action="resume", prepared={}, is_done=is_done, act=act)
        return await self._change(order, row, change)

    async def pause(self, order: Order, row: SubscriptionRow, *, resume_time: datetime | None) -> Paid:
        """Pause at once."""
        prepared = {"resume_time": resume_time.isoformat() if resume_time is not None else None}

        async def is_done(present: ObservedSubscription, _chosen: Json) -> bool:
            return _is_paused(present)

        async def act(present: ObservedSubscription, _chosen: Json, key: str) -> ObservedSubscription:
            return await self._provider.pause(present.provider_subscription_id, operation_id=key)

        async def afterwards(chosen: Json) -> int:
            time = chosen["resume_time"]
            return await self._planned.resume_at(order, row, datetime.fromisoformat(time) if time is not None else None)

        change = _Change(
            kind="pause", action="pause", prepared=prepared, is_done=is_done, act=act, afterwards=afterwards
        )
        return await self._change(order, row, change)

    async def drop_scheduled_change(self, order: Order, row: SubscriptionRow) -> Paid:
        """Take back what is planned at the provider: a move to another price, or an end."""

        async def is_done(present: ObservedSubscription, _chosen: Json) -> bool:
            return present.schedule is None and not _is_ending(present)

        async def act(present: ObservedSubscription, _chosen: Json, key: str) -> None:
            if present.schedule is not None:
                await self._provider.release_schedule(present.schedule.schedule_id, operation_id=key)
                present = await self._present(row)
            if _is_ending(present):
                await self._provider.keep(present.provider_subscription_id, operation_id=key)

        async def afterwards(_chosen: Json) -> int:
            return await self._planned.drop(order, row)

        change = _Change(
            kind="drop_scheduled_change",
            action="cancel_scheduled_change",
            prepared={},
            is_done=is_done,
            act=act,
            afterwards=afterwards,
        )
        return await self._change(order, row, change)

    # ---- steps

    async def _end_later(self, order: Order, row: SubscriptionRow, action: str, at: datetime | None) -> Paid:
        """Let the subscription end at the time (None: with its period)."""
        prepared = {"at": at.isoformat() if at is not None else None}

        async def is_done(present: ObservedSubscription, chosen: Json) -> bool:
            return present.schedule is None and _ends(present, chosen["at"])

        async def act(present: ObservedSubscription, chosen: Json, key: str) -> ObservedSubscription:
            time = chosen["at"]
            return await self._provider.cancel_at(
                present.provider_subscription_id,
                at=datetime.fromisoformat(time) if time is not None else None,
                operation_id=key,
            )

        async def afterwards(_chosen: Json) -> int:
            return await self._planned.drop(order, row)

        change = _Change(
            kind="cancel_later", action=action, prepared=prepared, is_done=is_done, act=act, afterwards=afterwards
        )
        return await self._change(order, row, change)

    async def _change(
        self,
        order: Order,
        row: SubscriptionRow,
        change: _Change,
    ) -> Paid:
        async def finish(operation: Operation, observed: ObservedSubscription) -> _Done:
            done = await self._store(order, change.action, observed)
            revision = await change.afterwards(operation.prepared) if change.afterwards is not None else 0
            if revision <= done.paid.revision:
                return done
            paid = Paid(
                subscription_id=done.paid.subscription_id,
                revision=revision,
                payment_client_secret=done.paid.payment_client_secret,
                hosted_invoice_url=done.paid.hosted_invoice_url,
            )
            return _Done(paid=paid, provider_subscription_id=done.provider_subscription_id)

        async def look(operation: Operation) -> _Done | None:
            present = await self._present(row)
            return await finish(operation, present) if await change.is_done(present, operation.prepared) else None

        async def carry_out(operation: Operation) -> _Done:
            present = await self._present(row)
            if await change.is_done(present, operation.prepared):
                return await finish(operation, present)
            if present.state not in LIVE_STATES:
                # It ended there before we were told.
                await self._sync.refresh(row.provider_subscription_id, _cause(order, "refresh"))
                raise IllegalTransition(present.state.value, SubscriptionState.ACTIVE.value)
            try:
                observed = await change.act(present, operation.prepared, operation.key)
            except PaymentRefused:
                # A step before the one that was refused may have had its effect.
                with suppress(TallygateError):
                    await self._sync.refresh(row.provider_subscription_id, _cause(order, "refresh"))
                raise
            return await finish(operation, observed or await self._present(row))

        async def prepare() -> Json:
            return change.prepared

        return await self._carry_out(
            order,
            kind=change.kind,
            subject=row.subscription.subscription_id,
            prepare=prepare,
            look=look,
            act=carry_out,
        )

    async def _carry_out(
        self,
        order: Order,
        *,
        kind: str,
        subject: str,
        prepare: Callable[[], Awaitable[Json]],
        look: Callable[[Operation], Awaitable[_Done | None]],
        act: Callable[[Operation], Awaitable[_Done]],
    ) -> Paid:
        work = Work(
            kind=kind, subject=subject, prepare=prepare, look=look, act=act, remember=_remember, recall=self._recall
        )
        done, _ = await self._operations.carry_out(order, work)
        return done.paid

    async def _present(self, row: SubscriptionRow) -> ObservedSubscription:
        present = await self._provider.subscription(row.provider_subscription_id)
        if present is None:
            raise PaymentRefused(
                f"subscription_id: Stripe does not know {row.provider_subscription_id!r}",
                billing_provider=PROVIDER,
                provider_code="resource_missing",
                subscription_id=row.subscription.subscription_id,
            )
        return present

    async def _make_room(self, order: Order, sale: Sale, key: str, *, but: str) -> None:
        """Make sure that the account does not buy the price twice, here or on a page that is open."""
        await self._check_not_bought(order, sale, but)
        await self._pages.close(order.tenant_id, order.account_id, sale.plan_key, actor=order.actor, key=key)
        # On the page that was just closed it may have been paid for.
        await self._check_not_bought(order, sale, but)

    async def _check_not_bought(self, order: Order, sale: Sale, but: str) -> None:
        async with self._database.tenant_transaction(order.tenant_id) as connection:
            await check_not_bought(
                connection,
                order.tenant_id,
                order.account_id,
                plan_key=sale.plan_key,
                interval=sale.price.interval,
                at=self._clock.now(),
                but=but,
            )

    async def _store(self, order: Order, action: str, observed: ObservedSubscription) -> _Done:
        """Store what the provider answered; where a webhook was quicker, `sync` asks once more."""
        applied = await self._sync.apply(observed, _cause(order, action))
        return _done(observed, applied)

    async def _recall(self, result: Json) -> _Done:
        secret = url = ""
        if result["unfinished"]:
            # The secret is kept nowhere; without the provider the answer goes without it.
            with suppress(TallygateError):
                observed = await self._provider.subscription(result["provider_subscription_id"])
                if observed is not None:
                    secret, url = _payment(observed)
        paid = Paid(
            subscription_id=result["subscription_id"],
            revision=result["revision"],
            payment_client_secret=secret,
            hosted_invoice_url=url,
        )
        return _Done(paid=paid, provider_subscription_id=result["provider_subscription_id"])


def _cause(order: Order, action: str) -> Cause:
    asked = {"id": order.request_id, "fingerprint": order.fingerprint} if order.request_id else None
    return Cause(action=action, actor=order.actor, reason=order.reason, request=asked if action != "refresh" else None)


def _done(observed: ObservedSubscription, applied: Applied | None) -> _Done:
    assert applied is not None, "a subscription that was made here says whose it is"
    secret, url = _payment(observed)
    paid = Paid(
        subscription_id=applied.subscription_id,
        revision=applied.revision,
        payment_client_secret=secret,
        hosted_invoice_url=url,
    )
    return _Done(paid=paid, provider_subscription_id=observed.provider_subscription_id)


def _payment(observed: ObservedSubscription) -> tuple[str, str]:
    """Return secret and page of the payment that somebody must finish; empty where none is due."""
    invoice = observed.latest_invoice
    if invoice is None or invoice.state != "open":
        return "", ""
    return invoice.client_secret, invoice.hosted_url


def _remember(done: _Done) -> Json:
    return {
        "subscription_id": done.paid.subscription_id,
        "revision": done.paid.revision,
        "provider_subscription_id": done.provider_subscription_id,
        "unfinished": bool(done.paid.payment_client_secret or done.paid.hosted_invoice_url),
    }


def _sells(present: ObservedSubscription, sale: Sale, quantity: int) -> bool:
    price = present.price
    same = price.lookup_key == sale.lookup_key or (
        bool(sale.price.stripe_price_id) and price.price_id == sale.price.stripe_price_id
    )
    return same and present.quantity == quantity


def _is_paused(present: ObservedSubscription) -> bool:
    return present.state is SubscriptionState.PAUSED or present.collection_paused


def _is_ending(present: ObservedSubscription) -> bool:
    return present.cancel_at_period_end or present.cancel_time is not None


def _ends(present: ObservedSubscription, at: str | None) -> bool:
    """Tell whether it will end at the time (None: with its period)."""
    if present.cancel_at_period_end:
        return at is None or datetime.fromisoformat(at) == present.period_end_time
    if at is None:
        return present.cancel_time is not None and present.cancel_time == present.period_end_time
    return present.cancel_time == datetime.fromisoformat(at)
