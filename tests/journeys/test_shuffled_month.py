"""A month of a hundred subscriptions, told again in any order, thrice, to a worker that keeps crashing.

The month is lived once, in order, against a local Stripe: renewals, declined cards, upgrades, planned downgrades,
cancellations, refunds and disputes. Then its events are delivered to empty databases. Each must end as the first
one did.

The suite does so with a few subscriptions and seeds; `make proof` with a hundred of each.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
import stripe

from tallygate_server.billing.assembly import StripeOptions
from tallygate_server.domain.catalog import BillingInterval
from tallygate_server.domain.identifier import AccountId, PlanKey, TenantId
from tallygate_server.domain.subscription import BillingProvider
from tallygate_server.embedded import EmbeddedServers
from tallygate_server.service import Service, open_service
from tallygate_server.storage.engine import Database, DatabaseRole, connect
from tallygate_server.subscriptions import ChangeTiming, NewSubscription
from tallygate_server.webhooks.assembly import WebhookOptions
from tallygate_server.webhooks.events import EventHandler, Handled, StoredEvent, WebhookSource
from tallygate_server.webhooks.processor import Attempts, WebhookProcessor
from tests.conftest import copied_database
from tests.support.clock import FrozenClock
from tests.support.local_stripe import API_KEY, WEBHOOK_SECRET, LocalStripe, local_stripe
from tests.support.long_run import LONG
from tests.support.use_cases import LEKHAK, example

SUBSCRIPTIONS: Final = int(os.environ.get("SUBSCRIPTIONS") or (100 if LONG else 6))
SEEDS: Final = int(os.environ.get("SEEDS") or (100 if LONG else 2))
DAYS: Final = 36
DELIVERIES: Final = 3
CRASH_EVERY: Final = 3
START: Final = datetime(2026, 1, 30, 9, 0, tzinfo=UTC)

# What may differ: when a row was written here, and what the caller of the first telling alone knew.
_OURS: Final = frozenset(
    {"update_time", "create_time", "create_request_id", "create_fingerprint", "scheduled_change_id", "actor", "reason"}
)
_TABLES: Final = {
    "subscriptions": ("provider = 'stripe'", "provider_subscription_id"),
    "customers": ("true", "provider_customer_id"),
    "invoices": ("true", "provider_invoice_id"),
    "payments": ("true", "provider_payment_id"),
    "scheduled_changes": ("state = 'pending'", "subscription_id"),
}


class _Crash(Exception):
    """The worker ends in the middle."""


@dataclass(slots=True)
class _Crashing:
    """A handler whose every third attempt ends before it begins, in its middle, or before anybody hears of its end."""

    handler: EventHandler
    chance: random.Random
    attempts: int = 0
    crashes: int = 0

    @property
    def known_types(self) -> frozenset[str]:
        """As the handler's own."""
        return self.handler.known_types

    async def handle(self, event: StoredEvent) -> Handled:
        """Handle the event, or crash."""
        self.attempts += 1
        if self.attempts % CRASH_EVERY:
            return await self.handler.handle(event)
        self.crashes += 1
        where = self.chance.choice(("before", "within", "within", "after"))
        if where == "before":
            raise _Crash
        if where == "after":
            await self.handler.handle(event)
            raise _Crash
        work = asyncio.ensure_future(self.handler.handle(event))
        # So many turns of the loop, wherever that leads to: into a call to Stripe, or into a transaction.
        for _ in range(self.chance.randrange(1, 60)):
            await asyncio.sleep(0)
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            return await work
        raise _Crash


@dataclass(slots=True, kw_only=True)
class _Telling:
    """One service that is told of the month."""

    service: Service
    clock: FrozenClock
    url: str
    processor: WebhookProcessor
    handler: _Crashing | EventHandler

    async def deliver(self, event: str) -> None:
        """Hand over an event as Stripe does."""
        stamp = int(self.clock.now().timestamp())
        signature = stripe.WebhookSignature.generate_signature_header(event, WEBHOOK_SECRET, timestamp=stamp)
        await self.service.webhooks.intake.take(WebhookSource.STRIPE, event.encode(), {"Stripe-Signature": signature})

    async def rows(self) -> dict[str, list[dict[str, Any]]]:
        """Return everything about money that is on record, without what is ours alone."""
        connection = await connect(self.url, DatabaseRole.READER)
        try:
            await connection.execute("SELECT set_config('tallygate.tenant_id', $1, false)", LEKHAK)
            return {
                table: [
                    {name: value for name, value in row.items() if name not in _OURS}
                    for row in await connection.fetch(f"SELECT * FROM {table} WHERE {which} ORDER BY {order}")
                ]
                for table, (which, order) in _TABLES.items()
            }
        finally:
            await connection.close()

    async def open_events(self) -> int:
        """Count the events that are not done with."""
        connection = await connect(self.url, DatabaseRole.INTAKE)
        try:
            found: int = await connection.fetchval(
                "SELECT count(*) FROM webhook_events WHERE state NOT IN ('processed', 'ignored')"
            )
            return found
        finally:
            await connection.close()


@contextlib.asynccontextmanager
async def _telling(
    database_url: str,
    redis_url: str,
    stripe_url: str,
    *,
    now: datetime,
    crashing: random.Random | None = None,
) -> AsyncIterator[_Telling]:
    clock = FrozenClock(now)
    async with contextlib.AsyncExitStack() as stack:
        service = await stack.enter_async_context(
            open_service(
                database_url=database_url,
                redis_url=redis_url,
                clock=clock,
                stripe=StripeOptions(api_key=API_KEY, api_base=stripe_url),
                webhook_options=WebhookOptions(secrets={WebhookSource.STRIPE: (WEBHOOK_SECRET,)}, answer_wait_ms=0),
            )
        )
        await service.catalogs.apply(example("lekhak"), actor="test")
        intake = Database(database_url, role=DatabaseRole.INTAKE)
        stack.push_async_callback(intake.close)
        assert service.billing.events is not None
        handler: _Crashing | EventHandler = service.billing.events
        if crashing is not None:
            handler = _Crashing(service.billing.events, crashing)
        processor = WebhookProcessor(
            intake,
            {WebhookSource.STRIPE: handler},
            clock=clock,
            # Due again at once: the clock stands still.
            attempts=Attempts(count_max=60, first_delay=timedelta(0), delay_max=timedelta(0)),
        )
        yield _Telling(service=service, clock=clock, url=database_url, processor=processor, handler=handler)


@dataclass(slots=True)
class _Month:
    """What happened, and what came of it."""

    stripe: LocalStripe
    chance: random.Random
    told: _Telling
    seen: set[str] = field(default_factory=set)
    events: list[str] = field(default_factory=list)
    """As Stripe sends them, in order."""

    async def live(self) -> None:
        """Live it."""
        accounts = [AccountId(f"acc-{number}") for number in range(SUBSCRIPTIONS)]
        for account_id in accounts:
            await self._subscribe(account_id)
        await self._hear()
        for _ in range(DAYS):
            await self.stripe.advance(86_400)
            self.told.clock.advance(timedelta(days=1))
            for account_id in self.chance.sample(accounts, max(1, len(accounts) // 10)):
                # What cannot be done just now is left alone: a charge that is disputed already, say.
                with contextlib.suppress(stripe.InvalidRequestError, stripe.CardError, httpx.HTTPStatusError):
                    await self._act(account_id)
            await self._hear()

    async def _subscribe(self, account_id: AccountId) -> None:
        await self.told.service.subscriptions.create(
            LEKHAK,
            account_id,
            NewSubscription(
                plan_key=PlanKey(self.chance.choice(["pro", "pro", "unlimited"])),
                interval=BillingInterval.MONTH,
                provider=BillingProvider.STRIPE,
                payment_method_id="pm_card_visa",
            ),
            request_id=f"first-{account_id}",
        )

    async def _act(self, account_id: AccountId) -> None:
        """Have something happen to the account: at Stripe, as its owner or its bank would do it, or through us."""
        customer = await self._customer(account_id)
        client = self.stripe.client.v1
        found = (await client.subscriptions.list_async({"customer": customer, "status": "all"})).data
        live = [each for each in found if each.status not in {"canceled", "incomplete_expired"}]
        if not live:
            return
        subject = live[0]
        service = self.told.service.subscriptions
        match self.chance.randrange(10):
            case 0:
                await self._card(customer, "pm_card_chargeCustomerFail")
            case 1:
                await self._card(customer, "pm_card_visa")
                for invoice in (await client.invoices.list_async({"customer": customer, "status": "open"})).data:
                    assert invoice.id is not None
                    await client.invoices.pay_async(invoice.id)
            case 2:
                await client.subscriptions.update_async(subject.id, {"cancel_at_period_end": True})
            case 3:
                await client.subscriptions.update_async(subject.id, {"cancel_at_period_end": False})
            case 4:
                await client.subscriptions.cancel_async(subject.id)
            case 5:
                await client.subscriptions.update_async(
                    subject.id,
                    {"items": [{"id": subject["items"].data[0].id, "quantity": self.chance.randrange(1, 9)}]},
                )
            case 6:
                charge = (await client.charges.list_async({"customer": customer})).data[0]
                await client.refunds.create_async(
                    {"charge": charge.id, "amount": self.chance.choice([100, charge.amount])}
                )
            case 7:
                charge = (await client.charges.list_async({"customer": customer})).data[0]
                await self.stripe.dispute(charge.id)
            case 8:
                with contextlib.suppress(Exception):
                    await service.change_plan(
                        LEKHAK, account_id, plan_key=PlanKey("pro"), timing=ChangeTiming.PERIOD_END,
                        subscription_id=subject.metadata["tallygate_subscription_id"],
                    )  # fmt: skip
            case _:
                await client.customers.update_async(customer, {"name": f"Name {self.chance.randrange(1000)}"})

    async def _customer(self, account_id: AccountId) -> str:
        row = await self.told.service.billing.customers.find(TenantId(LEKHAK), account_id)
        return row.provider_customer_id

    async def _card(self, customer: str, method: str) -> None:
        client = self.stripe.client.v1
        attached = await client.payment_methods.attach_async(method, {"customer": customer})
        await client.customers.update_async(customer, {"invoice_settings": {"default_payment_method": attached.id}})
        for each in (await client.subscriptions.list_async({"customer": customer})).data:
            await client.subscriptions.update_async(each.id, {"default_payment_method": attached.id})

    async def _hear(self) -> None:
        """Take in what happened since the last time, in order, and process it."""
        fresh: list[dict[str, Any]] = []
        page: dict[str, Any] = {"has_more": True}
        while page["has_more"]:
            # As text, not as the library's objects: what is told again shall be what was sent.
            after = {"starting_after": fresh[-1]["id"]} if fresh else {}
            answer = await self.stripe.http.get(
                "/v1/events", params={"limit": "100"} | after, headers={"authorization": f"Bearer {API_KEY}"}
            )
            page = answer.raise_for_status().json()
            known = [event for event in page["data"] if event["id"] in self.seen]
            fresh += [event for event in page["data"] if event["id"] not in self.seen]
            if known:
                break
        for event in reversed(fresh):
            self.seen.add(event["id"])
            self.events.append(json.dumps(event))
            await self.told.deliver(self.events[-1])
            await self.told.processor.run_due()


async def test_any_order_any_repetition_and_any_crash_end_as_the_ordered_month(
    database_url: str, template_database: str, servers: EmbeddedServers
) -> None:
    redis_url = servers.redis_url
    async with local_stripe("--now", START.isoformat()) as server:
        async with (
            copied_database(database_url, template_database) as first_database,
            _telling(first_database, redis_url, server.url, now=START) as first,
        ):
            month = _Month(server, random.Random(20260130), first)
            await month.live()
            assert await first.open_events() == 0
            expected = await first.rows()
            end = first.clock.now()
        assert len(expected["subscriptions"]) == SUBSCRIPTIONS
        assert len({row["state"] for row in expected["subscriptions"]}) > 1
        assert len(expected["payments"]) > SUBSCRIPTIONS
        for seed in range(SEEDS):
            chance = random.Random(seed)
            # Of another installation, as far as the next database knows.
            await servers.flush_redis()
            async with (
                copied_database(database_url, template_database) as url,
                _telling(
                    url,
                    redis_url,
                    server.url,
                    now=end,
                    crashing=chance,
                ) as told,
            ):
                deliveries = month.events * DELIVERIES
                chance.shuffle(deliveries)
                for number, event in enumerate(deliveries):
                    await told.deliver(event)
                    if number % 40 == 0:
                        await told.processor.run_due()
                await told.processor.run_due()
                assert await told.open_events() == 0
                found = await told.rows()
                assert isinstance(told.handler, _Crashing)
                assert told.handler.crashes >= told.handler.attempts // CRASH_EVERY > 0
            for table, rows in expected.items():
                assert found[table] == rows, (seed, table)
