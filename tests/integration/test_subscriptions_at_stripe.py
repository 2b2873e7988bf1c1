"""What is handed to whoever changes subscriptions at Stripe, and what is decided before: against a twin of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tallygate_server.billing.ports import Order, Paid
from tallygate_server.catalog import CatalogSource
from tallygate_server.domain.catalog import BillingInterval, Plan, Price
from tallygate_server.domain.identifier import AccountId, PlanKey, TenantId
from tallygate_server.domain.subscription import BillingProvider, Subscription, SubscriptionState
from tallygate_server.errors import (
    BillingProviderUnavailable,
    IllegalTransition,
    InvalidRequest,
    RequestIdReused,
    SubscriptionExists,
)
from tallygate_server.storage import subscriptions as rows
from tallygate_server.storage.subscriptions import SubscriptionRow
from tallygate_server.subscriptions import ChangeTiming, NewSubscription, SubscriptionView
from tests.integration.test_subscription_lifecycle import CATALOG
from tests.support.use_cases import UseCases, use_cases

CLUB, ANNA = TenantId("club"), AccountId("anna")
FREE, BASIC, PRO = PlanKey("free"), PlanKey("basic"), PlanKey("pro")
STRIPE, MANUAL = BillingProvider.STRIPE, BillingProvider.MANUAL
STATE = SubscriptionState
DAY = dt.timedelta(days=1)


@dataclass
class _PaidTwin:
    """Satisfies `billing.ports.PaidSubscriptions`: stores what Stripe would have said, and remembers what was asked."""

    calls: list[tuple[str, Order, dict[str, Any]]] = field(default_factory=list)
    world: UseCases | None = None
    state: SubscriptionState = STATE.ACTIVE
    error: Exception | None = None

    async def _write(self, order: Order, subscription: Subscription) -> Paid:
        assert self.world is not None
        world = self.world
        request = {"id": order.request_id, "fingerprint": order.fingerprint} if order.request_id else None
        async with world.changes.begin(order.tenant_id, [order.account_id], actor=order.actor, cause="t") as change:
            before = await rows.read_subscription(change.connection, order.tenant_id, subscription.subscription_id)
            now = world.clock.now()
            if before is None:
                row = SubscriptionRow(
                    account_id=order.account_id, subscription=subscription, create_time=now, update_time=now,
                    provider_subscription_id="sub_at_stripe", provider_customer_id="cus_1", provider_price_id="price_1",
                )  # fmt: skip
                await rows.add_subscription(change.connection, order.tenant_id, row)
            else:
                await rows.write_subscription(change.connection, order.tenant_id, subscription, at=now)
            await rows.add_history(
                change.connection, order.tenant_id, account_id=order.account_id, action=self.calls[-1][0],
                before=before.subscription if before is not None else None, after=subscription, actor=order.actor,
                reason=order.reason, at=now, request=request,
            )  # fmt: skip
        return Paid(
            subscription_id=subscription.subscription_id,
            revision=change.revisions[order.account_id],
            payment_client_secret="pi_local_secret_local",
            hosted_invoice_url="https://pay.example.test/1",
        )

    def _note(self, name: str, order: Order, **what: Any) -> None:
        self.calls.append((name, order, what))
        if self.error is not None:
            raise self.error

    async def create(
        self, order: Order, *, plan: Plan, price: Price, quantity: int, trial_days: int, payment_method_id: str,
        promotion_code: str, metadata: Mapping[str, str],
    ) -> Paid:  # fmt: skip
        self._note(
            "create", order, plan=plan.key, interval=price.interval, quantity=quantity, trial_days=trial_days,
            payment_method_id=payment_method_id, promotion_code=promotion_code, metadata=dict(metadata),
        )  # fmt: skip
        assert self.world is not None
        now = self.world.clock.now()
        return await self._write(
            order,
            Subscription(
                subscription_id=f"sub_{len(self.calls)}", plan_key=plan.key, plan_version=plan.version,
                state=self.state, provider=STRIPE, interval=price.interval, quantity=quantity, start_time=now,
                period_start_time=now, period_end_time=now + 30 * DAY,
            ),
        )  # fmt: skip

    async def change_now(
        self, order: Order, row: SubscriptionRow, *, plan: Plan, price: Price, quantity: int, payment_method_id: str,
        preview_time: dt.datetime | None,
    ) -> Paid:  # fmt: skip
        self._note(
            "change_now", order, plan=plan.key, quantity=quantity, preview_time=preview_time,
            payment_method_id=payment_method_id,
        )  # fmt: skip
        moved = replace(
            row.subscription, plan_key=plan.key, plan_version=plan.version, interval=price.interval, quantity=quantity
        )
        return await self._write(order, moved)

    async def change_later(
        self, order: Order, row: SubscriptionRow, *, plan: Plan, price: Price | None, quantity: int,
        effective_time: dt.datetime | None,
    ) -> Paid:  # fmt: skip
        self._note(
            "change_later", order, plan=plan.key, price=price is not None, quantity=quantity,
            effective_time=effective_time,
        )  # fmt: skip
        return await self._write(order, row.subscription)

    async def cancel(self, order: Order, row: SubscriptionRow, *, now: bool, at: dt.datetime | None) -> Paid:
        self._note("cancel", order, now=now, at=at)
        assert self.world is not None
        time = self.world.clock.now()
        if now:
            return await self._write(order, replace(row.subscription, state=STATE.CANCELED, canceled_time=time))
        return await self._write(order, replace(row.subscription, cancel_at_period_end=True, canceled_time=time))

    async def resume(self, order: Order, row: SubscriptionRow) -> Paid:
        self._note("resume", order)
        return await self._write(
            order,
            replace(
                row.subscription, state=STATE.ACTIVE, cancel_at_period_end=False, canceled_time=None,
                pause_start_time=None, resume_time=None,
            ),
        )  # fmt: skip

    async def pause(self, order: Order, row: SubscriptionRow, *, resume_time: dt.datetime | None) -> Paid:
        self._note("pause", order, resume_time=resume_time)
        assert self.world is not None
        now = self.world.clock.now()
        return await self._write(
            order, replace(row.subscription, state=STATE.PAUSED, pause_start_time=now, resume_time=resume_time)
        )

    async def drop_scheduled_change(self, order: Order, row: SubscriptionRow) -> Paid:
        self._note("drop_scheduled_change", order)
        return await self._write(order, row.subscription)


@pytest.fixture
def stripe() -> _PaidTwin:
    return _PaidTwin()


@pytest.fixture
async def world(database_without_tenants: str, stripe: _PaidTwin) -> AsyncIterator[UseCases]:
    async with use_cases(database_without_tenants, paid=stripe) as running:
        stripe.world = running
        await running.catalogs.apply(CatalogSource(CATALOG))
        yield running


async def buy(world: UseCases, plan: PlanKey = PRO, *, request_id: str = "", **wanted: object) -> SubscriptionView:
    new = NewSubscription(plan_key=plan, **wanted)  # type: ignore[arg-type]
    return await world.subscriptions.create(CLUB, ANNA, new, request_id=request_id, actor="shop")


def id_of(view: SubscriptionView) -> str:
    return view.subscription.subscription_id


async def test_a_priced_plan_is_stripes_unless_somebody_else_collects(world: UseCases, stripe: _PaidTwin) -> None:
    view = await buy(
        world, payment_method_id="pm_1", promotion_code="SPRING", quantity=2, metadata={"order": "7"}, request_id="r1"
    )
    manual = await buy(world, BASIC, provider=MANUAL)

    ((name, order, what),) = stripe.calls
    assert name == "create"
    assert (order.tenant_id, order.account_id, order.actor, order.request_id) == (CLUB, ANNA, "shop", "r1")
    assert what == {
        "plan": PRO, "interval": BillingInterval.MONTH, "quantity": 2, "trial_days": 10, "payment_method_id": "pm_1",
        "promotion_code": "SPRING", "metadata": {"order": "7"},
    }  # fmt: skip
    assert view.subscription.provider is STRIPE
    assert (view.provider_subscription_id, view.provider_customer_id) == ("sub_at_stripe", "cus_1")
    assert view.payment_client_secret == "pi_local_secret_local"
    assert view.hosted_invoice_url == "https://pay.example.test/1"
    assert view.revision > 0
    assert manual.subscription.provider is MANUAL


async def test_a_retry_gets_the_first_answer_without_asking_stripe_again(world: UseCases, stripe: _PaidTwin) -> None:
    first = await buy(world, request_id="r1")

    again = await buy(world, request_id="r1")

    assert len(stripe.calls) == 1
    assert (again.replayed, id_of(again), again.payment_client_secret) == (True, id_of(first), "")
    with pytest.raises(RequestIdReused):
        await buy(world, request_id="r1", quantity=5)


async def test_a_second_subscription_to_the_same_price_is_refused_before_stripe_is_asked(
    world: UseCases, stripe: _PaidTwin
) -> None:
    await buy(world)

    with pytest.raises(SubscriptionExists):
        await buy(world)
    with pytest.raises(SubscriptionExists):
        await buy(world, provider=MANUAL)

    assert len(stripe.calls) == 1


async def test_what_stripe_does_not_say_is_not_stored(world: UseCases, stripe: _PaidTwin) -> None:
    stripe.error = BillingProviderUnavailable("Stripe", "no answer")

    with pytest.raises(BillingProviderUnavailable):
        await buy(world)

    found = await world.subscriptions.list(CLUB, account_id=ANNA, limit=10)
    assert [view.subscription.plan_key for view in found] == [FREE]


@pytest.mark.parametrize("field_name", ["start_time", "end_time"])
async def test_stripe_renews_by_itself(world: UseCases, stripe: _PaidTwin, field_name: str) -> None:
    with pytest.raises(InvalidRequest, match=field_name):
        await buy(world, **{field_name: world.clock.now() + DAY})

    assert stripe.calls == []


async def test_from_free_to_priced_a_subscription_begins_beside_the_free_one(
    world: UseCases, stripe: _PaidTwin
) -> None:
    await world.accounts.provision(CLUB, ANNA)

    view = await world.subscriptions.change_plan(CLUB, ANNA, plan_key=PRO, payment_method_id="pm_1")

    assert stripe.calls[0][0] == "create"
    assert stripe.calls[0][2]["trial_days"] == 0
    assert view.subscription.provider is STRIPE
    live = await world.subscriptions.list(CLUB, account_id=ANNA, states=[STATE.ACTIVE], limit=10)
    assert {each.subscription.plan_key for each in live} == {FREE, PRO}


async def test_upgrades_go_now_and_downgrades_at_the_period_end(world: UseCases, stripe: _PaidTwin) -> None:
    target = id_of(await buy(world, BASIC))
    previewed = world.clock.now()

    await world.subscriptions.change_plan(
        CLUB, ANNA, plan_key=PRO, subscription_id=target, quantity=3, preview_time=previewed
    )
    await world.subscriptions.change_plan(CLUB, ANNA, plan_key=BASIC, subscription_id=target)
    at = previewed + 3 * DAY
    await world.subscriptions.change_plan(
        CLUB, ANNA, plan_key=BASIC, subscription_id=target, timing=ChangeTiming.AT_TIME, effective_time=at
    )
    unchanged = await world.subscriptions.change_plan(CLUB, ANNA, plan_key=PRO, subscription_id=target)

    assert [(name, what) for name, _, what in stripe.calls[1:]] == [
        ("change_now", {"plan": PRO, "quantity": 3, "preview_time": previewed, "payment_method_id": ""}),
        ("change_later", {"plan": BASIC, "price": True, "quantity": 3, "effective_time": None}),
        ("change_later", {"plan": BASIC, "price": True, "quantity": 3, "effective_time": at}),
    ]
    assert unchanged.subscription.plan_key == PRO


async def test_from_stripe_to_free_the_subscription_ends_and_the_free_one_stands_by(
    world: UseCases, stripe: _PaidTwin
) -> None:
    target = id_of(await buy(world))
    (free,) = await world.subscriptions.list(CLUB, account_id=ANNA, plan_key=FREE, limit=2)
    await world.subscriptions.cancel(CLUB, ANNA, subscription_id=id_of(free))

    await world.subscriptions.change_plan(CLUB, ANNA, plan_key=FREE, subscription_id=target)
    await world.subscriptions.change_plan(CLUB, ANNA, plan_key=FREE, subscription_id=target)

    assert [name for name, _, _ in stripe.calls] == ["create", "change_later", "change_later"]
    assert stripe.calls[1][2] == {"plan": FREE, "price": False, "quantity": 1, "effective_time": None}
    live = await world.subscriptions.list(CLUB, account_id=ANNA, states=[STATE.ACTIVE], limit=10)
    assert sorted(each.subscription.plan_key for each in live) == [FREE, PRO]


async def test_who_collects_does_not_change_under_way(world: UseCases) -> None:
    target = id_of(await buy(world))

    with pytest.raises(InvalidRequest, match="billing_provider"):
        await world.subscriptions.change_plan(CLUB, ANNA, plan_key=BASIC, subscription_id=target, provider=MANUAL)


async def test_cancelling_is_stripes_to_do(world: UseCases, stripe: _PaidTwin) -> None:
    target = id_of(await buy(world))
    at = world.clock.now() + 40 * DAY

    later = await world.subscriptions.cancel(CLUB, ANNA, subscription_id=target)
    resumed = await world.subscriptions.resume(CLUB, ANNA)
    await world.subscriptions.cancel(CLUB, ANNA, subscription_id=target, timing=ChangeTiming.AT_TIME, effective_time=at)
    await world.subscriptions.cancel_scheduled_change(CLUB, ANNA, subscription_id=target)
    ended = await world.subscriptions.cancel(
        CLUB, ANNA, subscription_id=target, timing=ChangeTiming.NOW, request_id="end"
    )
    again = await world.subscriptions.cancel(
        CLUB, ANNA, subscription_id=target, timing=ChangeTiming.NOW, request_id="end"
    )

    assert [(name, what) for name, _, what in stripe.calls[1:]] == [
        ("cancel", {"now": False, "at": None}),
        ("resume", {}),
        ("cancel", {"now": False, "at": at}),
        ("resume", {}),
        ("cancel", {"now": True, "at": None}),
    ]
    assert later.ends_with_period
    assert resumed.end_time is None
    assert (ended.subscription.state, again.replayed) == (STATE.CANCELED, True)
    with pytest.raises(IllegalTransition, match="from canceled to canceled"):
        await world.subscriptions.cancel(CLUB, ANNA, subscription_id=target)
    with pytest.raises(IllegalTransition, match="from canceled to paused"):
        await world.subscriptions.pause(CLUB, ANNA, subscription_id=target)


async def test_what_is_not_paid_for_is_canceled_at_once(world: UseCases, stripe: _PaidTwin) -> None:
    stripe.state = STATE.INCOMPLETE
    target = id_of(await buy(world))

    await world.subscriptions.cancel(CLUB, ANNA, subscription_id=target)

    assert stripe.calls[-1][2] == {"now": True, "at": None}


async def test_a_pause_is_stripes_at_once_and_ours_to_remember_for_later(world: UseCases, stripe: _PaidTwin) -> None:
    bought = await buy(world)
    target, end = id_of(bought), bought.current_period_end
    assert end is not None

    planned = await world.subscriptions.pause(CLUB, ANNA, subscription_id=target, resume_time=end + 5 * DAY)

    assert planned.scheduled_change is not None
    assert planned.scheduled_change.effective_time == end
    assert len(stripe.calls) == 1
    assert await world.due.write_down() == {}
    world.clock.set(end)
    stripe.error = BillingProviderUnavailable("Stripe", "no answer")
    assert await world.due.write_down() == {"failed": 1}
    stripe.error = None
    assert await world.due.write_down() == {}
    world.clock.advance(dt.timedelta(minutes=1))
    assert await world.due.write_down() == {"steps": 1}
    assert await world.due.write_down() == {}
    names = [(name, order.request_id) for name, order, _ in stripe.calls[1:]]
    assert [name for name, _ in names] == ["pause", "pause"]
    # Both attempts are one operation.
    assert names[0] == names[1]
    assert (await world.subscriptions.get(CLUB, target)).subscription.state is STATE.PAUSED

    world.clock.set(end + 5 * DAY)
    assert await world.due.write_down() == {"steps": 1}

    assert stripe.calls[-1][0] == "resume"
    assert (await world.subscriptions.get(CLUB, target)).subscription.state is STATE.ACTIVE
    assert await world.due.write_down() == {}
    states = await world.fetch("SELECT state FROM scheduled_changes", tenant_id=CLUB)
    assert states == [{"state": "done"}]
