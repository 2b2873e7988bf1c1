"""The whole way from Stripe to access: the real client, the local Stripe, the service, and the answers of checks."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tallygate_server.billing.assembly import StripeOptions
from tallygate_server.catalog import Catalogs
from tallygate_server.domain.call import Check, Increment
from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.identifier import AccountId, FeatureKey, PlanKey
from tallygate_server.domain.subscription import BillingProvider, Subscription, SubscriptionState
from tallygate_server.service import Service, open_service
from tallygate_server.storage.engine import DatabaseRole, connect
from tallygate_server.subscriptions import ChangeTiming, NewSubscription, SubscriptionView
from tallygate_server.webhooks.events import StoredEvent, WebhookSource
from tests.support.acme import PATIENT
from tests.support.clock import FrozenClock
from tests.support.local_stripe import LocalStripe, local_stripe
from tests.support.use_cases import LEKHAK, example

ANNA = AccountId("anna")
PRO, UNLIMITED = PlanKey("pro"), PlanKey("unlimited")
REWRITE, TONE = FeatureKey("text_rewrite"), FeatureKey("tone_adjustment")
HOUR = 3_600
DAY = 24 * HOUR
S = SubscriptionState


@pytest.fixture(scope="session")
async def stripe_process() -> AsyncIterator[LocalStripe]:
    async with local_stripe("--now", "2027-01-15T12:00:00+00:00") as started:
        yield started


@dataclass(slots=True, kw_only=True)
class Shop:
    """A service that sells lekhak's plans through a local Stripe."""

    local: LocalStripe
    service: Service
    clock: FrozenClock
    database_url: str
    heard: set[str] = field(default_factory=set)
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    async def travel(self, seconds: int) -> None:
        """Let time pass, here and at Stripe."""
        moment = await self.local.advance(seconds)
        self.clock.set(datetime.fromtimestamp(moment, UTC))

    async def miss(self) -> None:
        """Lose every webhook so far."""
        for event in await self._events():
            self.heard.add(event["id"])

    async def hear(self) -> None:
        """Take in every webhook that was not heard yet: each twice, in any order."""
        events = [event for event in await self._events() if event["id"] not in self.heard]
        waiting = events * 2
        self.chance.shuffle(waiting)
        handler = self.service.billing.events
        assert handler is not None
        for event in waiting:
            self.heard.add(event["id"])
            stored = StoredEvent(
                source=WebhookSource.STRIPE,
                event_id=event["id"],
                event_type=event["type"],
                payload=json.dumps(event, default=str).encode(),
                event_time=None,
                attempt=1,
            )
            await handler.handle(stored)

    async def _events(self) -> list[dict[str, Any]]:
        listed = await self.local.client.v1.events.list_async({"limit": 100})
        return [event.to_dict() async for event in listed.auto_paging_iter()]

    async def buy(self, plan: PlanKey = PRO, **more: Any) -> SubscriptionView:
        """Subscribe anna with a good card."""
        wanted = NewSubscription(
            plan_key=plan,
            provider=BillingProvider.STRIPE,
            **({"payment_method_id": "pm_card_visa"} | more),
        )
        return await self.service.subscriptions.create(LEKHAK, ANNA, wanted, request_id="r1", actor="shop")

    async def held(self) -> Subscription:
        """Return anna's only subscription at Stripe, as its row says."""
        (row,) = await self.fetch("SELECT subscription_id FROM subscriptions WHERE provider = 'stripe'")
        view = await self.service.subscriptions.get(LEKHAK, row["subscription_id"])
        return view.subscription

    async def provider_ids(self) -> dict[str, Any]:
        """Return the ids of anna's subscription at Stripe."""
        (row,) = await self.fetch("SELECT * FROM subscriptions WHERE provider = 'stripe'")
        return row

    async def reason(self, feature: FeatureKey = TONE) -> Reason:
        """Ask whether anna may."""
        answer = await self.service.checker.check(
            Check(tenant_id=LEKHAK, account_id=ANNA, feature_key=feature, quantity=1)
        )
        return answer.reason

    async def fetch(self, sql: str) -> list[dict[str, Any]]:
        """Look into lekhak's tables."""
        connection = await connect(self.database_url, DatabaseRole.READER)
        try:
            await connection.execute("SELECT set_config('tallygate.tenant_id', $1, false)", LEKHAK)
            return [dict(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    async def use_card(self, card: str) -> None:
        """Let anna's next invoices be taken from another card."""
        customer = (await self.provider_ids())["provider_customer_id"]
        method = await self.local.client.v1.payment_methods.attach_async(card, {"customer": customer})
        await self.local.client.v1.customers.update_async(
            customer, {"invoice_settings": {"default_payment_method": method.id}}
        )
        subscription = (await self.provider_ids())["provider_subscription_id"]
        await self.local.client.v1.subscriptions.update_async(subscription, {"default_payment_method": method.id})


@pytest.fixture
async def shop(fresh_database: str, fresh_redis: str, stripe_process: LocalStripe) -> AsyncIterator[Shop]:
    await stripe_process.reset()
    await stripe_process.billing_settings(after_retries="past_due")
    clock = FrozenClock(datetime.fromtimestamp(await stripe_process.now(), UTC))
    async with open_service(
        database_url=fresh_database,
        redis_url=fresh_redis,
        clock=clock,
        limits=PATIENT,
        stripe=StripeOptions(
            api_key=stripe_process.api_key, api_base=stripe_process.url, timeout_ms=30_000, call_timeout_ms=60_000
        ),
    ) as service:
        catalogs: Catalogs = service.catalogs
        await catalogs.apply(example("lekhak"))
        yield Shop(local=stripe_process, service=service, clock=clock, database_url=fresh_database)


async def test_a_purchase_gives_access_and_its_webhooks_change_nothing(shop: Shop) -> None:
    view = await shop.buy()
    told = await shop.reason()
    before = await shop.held()
    await shop.hear()

    assert told is Reason.OK
    assert view.subscription.state is S.ACTIVE
    assert await shop.held() == before
    (payment,) = await shop.fetch("SELECT * FROM payments")
    (invoice,) = await shop.fetch("SELECT * FROM invoices")
    assert (payment["state"], payment["amount_minor"], payment["currency"]) == ("succeeded", 999, "USD")
    assert (invoice["state"], invoice["paid_minor"]) == ("paid", 999)
    assert payment["subscription_id"] == invoice["subscription_id"] == view.subscription.subscription_id
    assert payment["invoice_id"] == invoice["invoice_id"]
    (customer,) = await shop.fetch("SELECT * FROM customers")
    assert (customer["account_id"], customer["deleted"]) == ("anna", False)


async def test_what_is_bought_on_a_page_gives_access_with_the_webhook(shop: Shop) -> None:
    from tallygate_server.billing.checkout import WantedPage  # noqa: PLC0415

    await shop.service.accounts.provision(LEKHAK, ANNA)
    page = await shop.service.billing.checkout.open_page(
        LEKHAK,
        ANNA,
        WantedPage(plan_key=PRO, success_url="https://lekhak.example/ok", cancel_url="https://lekhak.example/no"),
        request_id="r1",
        actor="shop",
    )
    await shop.local.complete_checkout(page.provider_session_id)
    before = await shop.reason()
    await shop.hear()

    assert before is Reason.NO_ENTITLEMENT
    assert await shop.reason() is Reason.OK
    (row,) = await shop.fetch("SELECT state FROM checkout_sessions")
    assert row["state"] == "complete"


async def test_a_renewal_resets_what_is_counted_by_billing_month(shop: Shop) -> None:
    await shop.buy()
    increment = Increment(
        tenant_id=LEKHAK,
        account_id=ANNA,
        feature_key=REWRITE,
        quantity=700,
        request_id="i1",
        event_time=shop.clock.now(),
    )
    first = await shop.service.meter.increment(increment)
    await shop.travel(31 * DAY + 2 * HOUR)
    await shop.hear()
    usage = await shop.service.usage.usage(LEKHAK, ANNA, REWRITE, None)

    assert first.used_quantity == 700
    assert usage.used_quantity == 0
    held = await shop.held()
    assert held.period_start_time > held.start_time
    assert held.period_start_time <= shop.clock.now() < (held.period_end_time or held.period_start_time)
    assert [row["state"] for row in await shop.fetch("SELECT state FROM payments")] == ["succeeded"] * 2
    actions = await shop.fetch(
        "SELECT action FROM subscription_history WHERE jsonb_typeof(before) = 'object' ORDER BY history_id"
    )
    assert [row["action"] for row in actions] == ["renewal"]


async def test_a_failed_payment_has_grace_then_nothing_and_a_later_one_opens_at_once(shop: Shop) -> None:
    await shop.buy()
    await shop.use_card("pm_card_chargeCustomerFail")
    await shop.travel(31 * DAY + 2 * HOUR)
    await shop.hear()
    failed = await shop.held()
    in_grace = await shop.reason()
    await shop.travel(15 * DAY)
    # No webhook and no job is needed for the end of grace.
    closed = await shop.reason()
    await shop.hear()
    still_closed = await shop.reason()

    await shop.use_card("pm_card_visa")
    listed = await shop.local.client.v1.invoices.list_async({"status": "open"})
    await shop.local.client.v1.invoices.pay_async(listed.data[0].id)
    await shop.hear()

    assert failed.state is S.PAST_DUE
    assert failed.grace_end_time is not None
    assert timedelta(days=13) < failed.grace_end_time - failed.period_start_time < timedelta(days=15)
    assert in_grace is Reason.IN_GRACE
    assert closed is still_closed is Reason.SUBSCRIPTION_INACTIVE
    assert await shop.reason() is Reason.OK
    assert (await shop.held()).state is S.ACTIVE
    steps = [row["action"] for row in await shop.fetch("SELECT action FROM subscription_history ORDER BY history_id")]
    assert "payment_failed" in steps
    assert steps[-1] == "payment_recovered"
    states = [row["state"] for row in await shop.fetch("SELECT state FROM payments ORDER BY create_time")]
    assert states.count("succeeded") == 2


async def test_a_cancellation_takes_effect_at_the_end_of_the_period(shop: Shop) -> None:
    view = await shop.buy()
    await shop.service.subscriptions.cancel(
        LEKHAK, ANNA, subscription_id=view.subscription.subscription_id, actor="anna", reason="too dear"
    )
    await shop.hear()
    ending = await shop.held()
    during = await shop.reason()
    await shop.travel(32 * DAY)
    after = await shop.reason()
    await shop.hear()

    assert (ending.state, ending.cancel_at_period_end) == (S.ACTIVE, True)
    assert during is Reason.OK
    assert after is Reason.SUBSCRIPTION_INACTIVE
    assert (await shop.held()).state is S.CANCELED
    (row,) = await shop.fetch("SELECT state FROM subscriptions WHERE provider = 'stripe'")
    assert row["state"] == "canceled"
    assert view.subscription.subscription_id == ending.subscription_id


async def test_a_downgrade_waits_for_the_end_of_the_period(shop: Shop) -> None:
    view = await shop.buy(UNLIMITED)
    await shop.service.subscriptions.change_plan(
        LEKHAK, ANNA, subscription_id=view.subscription.subscription_id, plan_key=PRO, actor="anna"
    )
    await shop.hear()
    (planned,) = await shop.fetch("SELECT * FROM scheduled_changes")
    before = await shop.reason(FeatureKey("api_access"))
    await shop.travel(31 * DAY + 2 * HOUR)
    await shop.hear()

    assert (planned["kind"], planned["state"], planned["plan_key"]) == ("plan", "pending", "pro")
    assert before is Reason.OK
    assert (await shop.held()).plan_key == PRO
    assert await shop.reason(FeatureKey("api_access")) is not Reason.OK
    assert await shop.reason() is Reason.OK
    (done,) = await shop.fetch("SELECT state FROM scheduled_changes")
    assert done["state"] == "done"


async def test_a_free_plan_that_was_planned_follows_the_paid_one(shop: Shop) -> None:
    # An account without a free subscription beside the paid one.
    await shop.buy()
    free = [
        view
        for view in await shop.service.subscriptions.list(LEKHAK, account_id=ANNA, limit=10)
        if view.subscription.provider is BillingProvider.NONE
    ]
    for view in free:
        await shop.service.subscriptions.cancel(
            LEKHAK, ANNA, subscription_id=view.subscription.subscription_id, timing=ChangeTiming.NOW
        )
    await shop.service.subscriptions.change_plan(LEKHAK, ANNA, plan_key=PlanKey("free"), actor="anna")
    await shop.travel(32 * DAY)
    await shop.hear()

    live = await shop.fetch("SELECT plan_key, provider FROM subscriptions WHERE state = 'active'")
    assert [(row["plan_key"], row["provider"]) for row in live] == [("free", "none")]
    assert await shop.reason(REWRITE) is Reason.OK
    assert await shop.reason() is not Reason.OK


async def test_refunds_disputes_and_warnings_are_on_record(shop: Shop) -> None:
    await shop.buy()
    await shop.hear()
    (charge,) = (await shop.local.client.v1.charges.list_async({"limit": 10})).data
    await shop.local.client.v1.refunds.create_async({"charge": charge.id, "amount": 300})
    await shop.hear()
    (refunded,) = await shop.fetch("SELECT * FROM payments")
    await shop.local.dispute(charge.id)
    await shop.local.warn_of_fraud(charge.id)
    await shop.hear()
    (disputed,) = await shop.fetch("SELECT * FROM payments")

    assert (refunded["state"], refunded["refunded_minor"]) == ("succeeded", 300)
    assert (disputed["disputed"], disputed["fraud_warning"]) == (True, True)
    assert await shop.reason() is Reason.OK
    told = await shop.fetch("SELECT type FROM outbox_events WHERE type LIKE 'payment.%' ORDER BY event_id")
    assert sorted(row["type"] for row in told) == [
        "payment.disputed",
        "payment.fraud_warning",
        "payment.refunded",
        "payment.succeeded",
    ]


async def test_a_month_of_lost_webhooks_is_repaired(shop: Shop) -> None:
    await shop.buy()
    await shop.hear()
    await shop.service.billing.reconciler.run_due()
    await shop.use_card("pm_card_chargeCustomerFail")
    await shop.travel(31 * DAY + 2 * HOUR)
    await shop.miss()

    found = await shop.service.billing.reconciler.run(LEKHAK, actor="ann")
    again = await shop.service.billing.reconciler.run(LEKHAK, account_id=ANNA, actor="ann")

    assert (await shop.held()).state is S.PAST_DUE
    assert {"state", "current_period", "grace_end_time", "invoice"} <= {each.field for each in found.differences}
    assert all(each.repaired for each in found.differences)
    assert again.difference_count == 0
    assert len(await shop.fetch("SELECT * FROM invoices")) == 2
    assert len(await shop.fetch("SELECT * FROM payments")) == 2


async def test_what_was_bought_while_every_webhook_was_lost_is_found(shop: Shop) -> None:
    from tallygate_server.billing.checkout import WantedPage  # noqa: PLC0415

    await shop.service.accounts.provision(LEKHAK, ANNA)
    page = await shop.service.billing.checkout.open_page(
        LEKHAK,
        ANNA,
        WantedPage(plan_key=PRO, success_url="https://lekhak.example/ok", cancel_url="https://lekhak.example/no"),
        request_id="r1",
        actor="shop",
    )
    await shop.local.complete_checkout(page.provider_session_id)
    await shop.miss()

    done = await shop.service.billing.reconciler.run_due()

    assert done["repaired"] >= 3
    assert await shop.reason() is Reason.OK
    (row,) = await shop.fetch("SELECT state FROM checkout_sessions")
    assert row["state"] == "complete"
    assert [row["state"] for row in await shop.fetch("SELECT state FROM payments")] == ["succeeded"]
    assert await shop.service.billing.reconciler.run_due() == {}
