from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tallygate_server.billing.observed import (
    ObservedCheckoutSession,
    ObservedCustomer,
    ObservedSchedule,
    PaymentOutcome,
    PostalAddress,
)
from tallygate_server.domain.identifier import AccountId
from tallygate_server.domain.subscription import SubscriptionState
from tallygate_server.errors import InvalidRequest
from tallygate_server.webhooks.events import Handled, StoredEvent, WebhookSource
from tests.support.billing import ANNA, Billing, billing
from tests.support.provider_twin import MONTH, START, ProviderTwin, a_paid, a_payment, a_price, an_invoice
from tests.support.use_cases import LEKHAK

DAY = timedelta(days=1)
S = SubscriptionState
ANNAS = Handled(tenant_id="lekhak", account_id="anna")


@pytest.fixture
def provider() -> ProviderTwin:
    twin = ProviderTwin()
    twin.put(a_paid())
    twin.customers["cus_1"] = ObservedCustomer(
        customer_id="cus_1",
        deleted=False,
        email="anna@example.org",
        name="Anna",
        currency="USD",
        tax_ids=(("eu_vat", "ATU12345678"),),
        address=PostalAddress(city="Graz", country_code="AT"),
        metadata={"tallygate_tenant_id": "lekhak", "tallygate_account_id": "anna", "crm": "7"},
        create_time=START,
    )
    twin.invoices["in_1"] = an_invoice()
    twin.payments["pi_1"] = a_payment()
    twin.charges["ch_1"] = "pi_1"
    return twin


@pytest.fixture
async def server(billing_database: str, provider: ProviderTwin) -> AsyncIterator[Billing]:
    async with billing(billing_database, provider) as [built]:
        yield built


async def payments(server: Billing) -> list[dict[str, Any]]:
    return await server.world.fetch("SELECT * FROM payments ORDER BY provider_payment_id")


async def invoices(server: Billing) -> list[dict[str, Any]]:
    return await server.world.fetch("SELECT * FROM invoices ORDER BY provider_invoice_id")


async def customers(server: Billing) -> list[dict[str, Any]]:
    return await server.world.fetch("SELECT * FROM customers ORDER BY provider_customer_id")


# --- Each kind ------------------------------------------------------------------------------------------------


CONTRACT = {
    "checkout.session": ("completed", "expired", "async_payment_succeeded", "async_payment_failed"),
    "customer": ("created", "updated", "deleted"),
    "customer.subscription": ("created", "updated", "deleted", "paused", "resumed", "trial_will_end"),
    "subscription_schedule": ("created", "updated", "released", "completed", "canceled", "aborted"),
    "invoice": (
        "created",
        "finalized",
        "paid",
        "payment_failed",
        "payment_action_required",
        "upcoming",
        "voided",
        "marked_uncollectible",
    ),
    "charge": ("refunded", "dispute.created", "dispute.closed"),
    "radar.early_fraud_warning": ("created",),
}


async def test_every_type_of_the_contract_is_known(server: Billing) -> None:
    wanted = {f"{about}.{what}" for about, happened in CONTRACT.items() for what in happened}

    assert wanted <= server.stripe_events.known_types


async def test_a_subscription_event_records_its_customer_too(server: Billing) -> None:
    handled = await server.hear("customer.subscription.created", {"id": "sub_P1", "customer": "cus_1"})

    assert handled == ANNAS
    assert (await server.row()).subscription.state is S.ACTIVE
    (customer,) = await customers(server)
    assert (customer["email"], customer["currency"], customer["deleted"]) == ("anna@example.org", "USD", False)
    assert (customer["tax_ids"], customer["metadata"]) == (
        json.dumps([["eu_vat", "ATU12345678"]]),
        json.dumps({"crm": "7"}),
    )


async def test_a_paid_invoice_makes_everything_that_is_missing(server: Billing) -> None:
    handled = await server.hear("invoice.paid", "in_1")

    assert handled == ANNAS
    held = (await server.row()).subscription
    (invoice,) = await invoices(server)
    (payment,) = await payments(server)
    assert (invoice["subscription_id"], invoice["state"], invoice["number"]) == ("sub_ours1", "paid", "LK-0001")
    assert (payment["invoice_id"], payment["subscription_id"]) == (invoice["invoice_id"], held.subscription_id)
    assert (payment["state"], payment["amount_minor"]) == ("succeeded", 999)
    assert await server.events("payment.") == ["payment.succeeded"]


async def test_a_payment_alone_makes_everything_that_is_missing(server: Billing) -> None:
    assert await server.hear("charge.succeeded", "ch_1") == ANNAS

    assert len(await invoices(server)) == len(await payments(server)) == len(await server.rows()) == 1


async def test_an_upcoming_invoice_has_no_id(server: Billing) -> None:
    subject: dict[str, object] = {
        "object": "invoice",
        "customer": "cus_1",
        "parent": {"subscription_details": {"subscription": "sub_P1"}},
    }

    assert await server.hear("invoice.upcoming", subject) == ANNAS
    assert await invoices(server) == []


async def test_refunds_disputes_and_warnings_are_recorded_and_told_once(
    server: Billing, provider: ProviderTwin
) -> None:
    await server.hear("invoice.paid", "in_1")
    provider.payments["pi_1"] = a_payment(refunded_minor=300)
    for _ in range(2):
        await server.hear("charge.refunded", {"id": "ch_1", "payment_intent": "pi_1"})
    provider.payments["pi_1"] = a_payment(refunded_minor=300, disputed=True, fraud_warning=True)
    for _ in range(2):
        await server.hear("charge.dispute.created", {"id": "du_1", "charge": "ch_1"})
        await server.hear("radar.early_fraud_warning.created", {"id": "issfr_1", "charge": {"id": "ch_1"}})
    provider.payments["pi_1"] = a_payment(refunded_minor=999, outcome=PaymentOutcome.REFUNDED, disputed=False)
    await server.hear("charge.dispute.closed", {"id": "du_1", "charge": "ch_1"})

    (payment,) = await payments(server)
    assert (payment["state"], payment["refunded_minor"], payment["disputed"]) == ("refunded", 999, False)
    assert await server.events("payment.") == [
        "payment.succeeded",
        "payment.refunded",
        "payment.disputed",
        "payment.fraud_warning",
        "payment.refunded",
    ]
    assert (await server.row()).subscription.state is S.ACTIVE


async def test_a_failed_payment_says_why(server: Billing, provider: ProviderTwin) -> None:
    provider.change("sub_P1", state=S.PAST_DUE)
    provider.invoices["in_1"] = an_invoice(state="open", paid_minor=0, paid_time=None)
    provider.payments["pi_1"] = a_payment(outcome=PaymentOutcome.FAILED, failure_code="card_declined")

    await server.hear("invoice.payment_failed", "in_1")
    await server.hear("invoice.payment_failed", "in_1")

    (payment,) = await payments(server)
    assert (payment["state"], payment["failure_code"]) == ("failed", "card_declined")
    assert await server.events("payment.") == ["payment.failed"]
    assert (await server.row()).subscription.state is S.PAST_DUE


async def test_a_deleted_customer_is_flagged_and_its_subscriptions_are_looked_at(
    server: Billing, provider: ProviderTwin
) -> None:
    await server.hear("customer.subscription.created", {"id": "sub_P1", "customer": "cus_1"})
    provider.customers["cus_1"] = ObservedCustomer(customer_id="cus_1", deleted=True)
    provider.change("sub_P1", state=S.CANCELED, end_time=START + DAY)

    await server.hear("customer.deleted", "cus_1")

    (customer,) = await customers(server)
    assert (customer["deleted"], customer["email"]) == (True, "anna@example.org")
    assert (await server.row()).subscription.state is S.CANCELED


async def test_what_an_ended_subscription_owes_is_known_to_be_collected_no_more(
    server: Billing, provider: ProviderTwin
) -> None:
    owed = an_invoice(state="open", paid_minor=0, paid_time=None, next_attempt_time=START + 3 * DAY)
    provider.invoices["in_1"] = owed
    await server.hear("invoice.payment_failed", {"id": "in_1", "customer": "cus_1"})
    assert [row["next_attempt_time"] for row in await invoices(server)] == [START + 3 * DAY]
    # The provider says nothing of the bill when it ends what the bill is for.
    provider.change("sub_P1", state=S.CANCELED, end_time=START + DAY)
    provider.invoices["in_1"] = replace(owed, next_attempt_time=None)

    await server.hear("customer.subscription.deleted", {"id": "sub_P1", "customer": "cus_1"})

    assert [(row["state"], row["next_attempt_time"]) for row in await invoices(server)] == [("open", None)]


async def test_a_page_that_was_paid_on_is_closed_and_gives_access(server: Billing, provider: ProviderTwin) -> None:
    await server.world.accounts.provision(LEKHAK, ANNA)
    async with server.world.database.tenant_transaction(LEKHAK) as connection:
        from tallygate_server.domain.catalog import BillingInterval  # noqa: PLC0415
        from tallygate_server.domain.identifier import PlanKey  # noqa: PLC0415
        from tallygate_server.storage.checkout_sessions import CheckoutSessionRow, add_session  # noqa: PLC0415

        page = CheckoutSessionRow(
            provider_session_id="cs_1",
            account_id=ANNA,
            plan_key=PlanKey("pro"),
            interval=BillingInterval.MONTH,
            fingerprint="f",
            state="open",
            url="https://pay.example/cs_1",
            expire_time=START + DAY,
            create_time=START,
        )
        await add_session(connection, LEKHAK, page)
    provider.sessions["cs_1"] = ObservedCheckoutSession(
        session_id="cs_1",
        state="complete",
        paid=True,
        url="",
        expire_time=START + DAY,
        customer_id="cus_1",
        provider_subscription_id="sub_P1",
        metadata={"tallygate_tenant_id": "lekhak"},
    )

    assert await server.hear("checkout.session.completed", "cs_1") == ANNAS
    (row,) = await server.world.fetch("SELECT state FROM checkout_sessions")
    assert row["state"] == "complete"
    assert (await server.row()).subscription.plan_key == "pro"


async def test_a_released_schedule_is_found_by_what_it_steered(server: Billing, provider: ProviderTwin) -> None:
    provider.schedules["sub_sched_1"] = ObservedSchedule(
        schedule_id="sub_sched_1", provider_subscription_id="sub_P1", state="released", phases=()
    )

    assert await server.hear("subscription_schedule.released", "sub_sched_1") == ANNAS
    assert await server.hear("subscription_schedule.canceled", "sub_sched_unknown") == Handled()
    stated: dict[str, object] = {"id": "sub_sched_2", "released_subscription": "sub_P1"}
    assert await server.hear("subscription_schedule.released", stated) == ANNAS


async def test_the_end_of_a_trial_is_told_once(server: Billing, provider: ProviderTwin) -> None:
    provider.change("sub_P1", state=S.TRIALING, trial_end_time=START + 3 * DAY)
    for _ in range(2):
        await server.hear("customer.subscription.trial_will_end", "sub_P1")

    assert (await server.events()).count("subscription.trial_will_end") == 1


async def test_what_is_nobodys_is_left_alone(server: Billing, provider: ProviderTwin) -> None:
    provider.put(a_paid("sub_other", metadata={}, customer_id="cus_other"))
    provider.invoices["in_other"] = an_invoice("in_other", subscription_id="sub_other", customer_id="cus_other")
    provider.payments["pi_other"] = a_payment("pi_other", invoice_id="in_other", customer_id="cus_other")
    provider.customers["cus_other"] = ObservedCustomer(customer_id="cus_other", deleted=False)

    for event_type, subject in (
        ("customer.subscription.updated", "sub_other"),
        ("invoice.paid", "in_other"),
        ("payment_intent.succeeded", "pi_other"),
        ("customer.updated", "cus_other"),
        ("checkout.session.completed", "cs_unknown"),
        ("charge.refunded", "ch_unknown"),
        ("product.updated", "prod_1"),
    ):
        assert await server.hear(event_type, subject) == Handled()
    assert await invoices(server) == await payments(server) == await customers(server) == []


# --- Hostile bodies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b'{"data": null}',
        b'{"data": {"object": "sub_P1"}}',
        b'{"data": {"object": {}}}',
        b'{"data": {"object": {"id": 7}}}',
        b'{"data": {"object": {"id": ["sub_P1"]}}}',
        b'{"data": {"object": {"id": "../../customers/cus_1"}}}',
        b'{"data": {"object": {"id": "sub_P1?expand[]=x"}}}',
        b'{"data": {"object": {"id": ""}}}',
        b'{"data": {"object": {"id": {"id": {"id": "sub_P1"}}}}}',
        b"\xff\xfe",
        ('{"data": {"object": {"id": "' + "a" * 300 + '"}}}').encode(),
    ],
)
async def test_a_body_that_is_not_what_it_should_be_is_refused(
    server: Billing, provider: ProviderTwin, body: bytes
) -> None:
    for event_type in sorted(server.stripe_events.known_types):
        event = StoredEvent(
            source=WebhookSource.STRIPE,
            event_id="evt_1",
            event_type=event_type,
            payload=body,
            event_time=None,
            attempt=1,
        )
        with pytest.raises(InvalidRequest):
            await server.stripe_events.handle(event)
    assert not provider.fetches


# --- Any order ------------------------------------------------------------------------------------------------


Hint = tuple[str, dict[str, object]]
Step = Callable[[], list[Hint]]


class Month:
    """What happens to some subscriptions at the provider, step by step, and the hints that each step sends."""

    def __init__(self, seed: int, subscriptions: int) -> None:
        self._chance = random.Random(seed)
        self._number = 0
        self.provider = ProviderTwin()
        self.steps: list[Step] = []
        lives = [self._life(number) for number in range(subscriptions)]
        while any(lives):
            self.steps.append(self._chance.choice([life for life in lives if life]).pop(0))

    def _life(self, number: int) -> list[Step]:
        sub, cus, account = f"sub_S{number}", f"cus_{number}", f"user{number}"
        twin, chance = self.provider, self._chance
        steps: list[Step] = []

        def begin() -> list[Hint]:
            twin.customers[cus] = ObservedCustomer(customer_id=cus, deleted=False, email=f"{account}@example.org")
            twin.put(
                a_paid(sub, account=account, named=f"sub_ours{number}", customer_id=cus, state=S.INCOMPLETE),
            )
            return [("customer.created", {"id": cus}), about("customer.subscription.created")]

        def about(event_type: str) -> Hint:
            return (event_type, {"id": sub, "customer": cus})

        def bill(outcome: PaymentOutcome, state: SubscriptionState) -> Step:
            def happen() -> list[Hint]:
                present = twin.subscriptions[sub]
                paid = outcome is PaymentOutcome.SUCCEEDED
                open_bill = next(
                    (each for each in twin.invoices.values() if each.state == "open" and each.customer_id == cus), None
                )
                if open_bill is None:
                    self._number += 1
                    begins = present.period_end_time if present.state is not S.INCOMPLETE else START
                    open_bill = an_invoice(
                        f"in_{number}x{self._number}",
                        subscription_id=sub,
                        customer_id=cus,
                        state="open",
                        create_time=begins,
                        paid_time=None,
                        paid_minor=0,
                        period_start_time=begins,
                        period_end_time=begins + MONTH,
                    )
                    twin.change(sub, period_start_time=begins, period_end_time=begins + MONTH)
                invoice = replace(open_bill, attempt_count=open_bill.attempt_count + 1)
                payment_id = invoice.invoice_id.replace("in_", "pi_")
                if paid:
                    invoice = replace(invoice, state="paid", paid_minor=999, paid_time=invoice.create_time)
                twin.invoices[invoice.invoice_id] = invoice
                twin.payments[payment_id] = a_payment(
                    payment_id,
                    invoice_id=invoice.invoice_id,
                    customer_id=cus,
                    outcome=outcome,
                    create_time=invoice.create_time,
                    failure_code="" if paid else "card_declined",
                )
                twin.charges[payment_id.replace("pi_", "ch_")] = payment_id
                twin.change(sub, state=state, overdue_since_time=None if paid else invoice.create_time)
                return [
                    ("invoice.created", {"id": invoice.invoice_id, "customer": cus}),
                    ("invoice.paid" if paid else "invoice.payment_failed", {"id": invoice.invoice_id}),
                    ("charge.succeeded" if paid else "charge.failed", {"id": "ch_x", "payment_intent": payment_id}),
                    about("customer.subscription.updated"),
                ]

            return happen

        def refund() -> list[Hint]:
            payment_id = min(each for each in twin.payments if each.startswith(f"pi_{number}x"))
            twin.payments[payment_id] = replace(
                twin.payments[payment_id], outcome=PaymentOutcome.REFUNDED, refunded_minor=999
            )
            return [("charge.refunded", {"id": payment_id.replace("pi_", "ch_")})]

        def upgrade() -> list[Hint]:
            twin.change(sub, price=a_price("unlimited", amount=1_999), quantity=chance.randint(1, 4))
            return [about("customer.subscription.updated")]

        def cancel() -> list[Hint]:
            present = twin.subscriptions[sub]
            twin.change(sub, state=S.CANCELED, end_time=present.period_start_time + DAY)
            return [about("customer.subscription.deleted")]

        steps += [begin, bill(PaymentOutcome.SUCCEEDED, S.ACTIVE)]
        for _ in range(chance.randint(1, 3)):
            kind = chance.randint(0, 3)
            if kind == 0:
                steps.append(upgrade)
            elif kind == 1:
                steps += [bill(PaymentOutcome.FAILED, S.PAST_DUE), bill(PaymentOutcome.SUCCEEDED, S.ACTIVE)]
            elif kind == 2:
                steps.append(refund)
            else:
                steps.append(bill(PaymentOutcome.SUCCEEDED, S.ACTIVE))
        if chance.random() < 0.4:
            steps.append(cancel)
        return steps


async def everything(server: Billing) -> dict[str, list[dict[str, Any]]]:
    """Return all rows, without the times at which they were written."""
    tables = {
        "subscriptions": "SELECT * FROM subscriptions WHERE provider = 'stripe' ORDER BY subscription_id",
        "invoices": "SELECT * FROM invoices ORDER BY invoice_id",
        "payments": "SELECT * FROM payments ORDER BY payment_id",
        "customers": "SELECT * FROM customers ORDER BY provider_customer_id",
    }
    found = {}
    for name, sql in tables.items():
        rows = await server.world.fetch(sql)
        dropped = {"update_time"} | ({"create_time", "customer_id"} if name == "customers" else set())
        found[name] = [{key: value for key, value in row.items() if key not in dropped} for row in rows]
    return found


@pytest.mark.simulation
@pytest.mark.parametrize("seed", range(3))
async def test_hints_in_any_order_repeated_and_interrupted_end_as_the_ordered_run(
    billing_database: str, seed: int
) -> None:
    chance = random.Random(seed)
    ordered_month = Month(seed, 5)
    async with billing(billing_database, ordered_month.provider) as [server]:
        for step in ordered_month.steps:
            for event_type, subject in step():
                await server.hear(event_type, subject)
        expected = await everything(server)
        paid_once = sorted(await server.events("payment."))
    from tests.support.use_cases import empty_of_tenants  # noqa: PLC0415

    await empty_of_tenants(billing_database)
    month = Month(seed, 5)
    async with billing(billing_database, month.provider, servers=2) as servers:
        waiting: list[Hint] = []

        async def process(hint: Hint) -> None:
            attempt = asyncio.create_task(chance.choice(servers).hear(*hint))
            if chance.random() < 1 / 3:
                # A server that dies in the middle: somewhere between two turns of its loop.
                for _ in range(chance.randint(0, 60)):
                    await asyncio.sleep(0)
                attempt.cancel()
                waiting.append(hint)
            await asyncio.gather(attempt, return_exceptions=True)
            if not attempt.cancelled() and attempt.exception() is not None:
                raise AssertionError from attempt.exception()

        for step in month.steps:
            waiting += step() * 3
            # The provider goes on while hints wait, in whatever order.
            while waiting and chance.random() < 0.5:
                await process(waiting.pop(chance.randrange(len(waiting))))
        while waiting:
            chance.shuffle(waiting)
            batch, waiting[:] = waiting[:6], waiting[6:]
            await asyncio.gather(*(process(hint) for hint in batch))

        assert await everything(servers[0]) == expected
        succeeded = [each for each in await servers[0].events("payment.") if each == "payment.succeeded"]
        assert len(succeeded) == paid_once.count("payment.succeeded")
        accounts = {AccountId(row["account_id"]) for row in expected["subscriptions"]}
        assert len(accounts) == 5
