from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from tallygate_server.billing.observed import ObservedCheckoutSession, ObservedCustomer, PaymentOutcome
from tallygate_server.billing.reconcile import DIFFERENCES_MAX, EVERYTHING_EVERY, Reconciliation, SubscriptionDifference
from tallygate_server.domain.catalog import BillingInterval
from tallygate_server.domain.identifier import PlanKey, TenantId
from tallygate_server.domain.subscription import SubscriptionState
from tallygate_server.errors import BillingProviderNotConfigured, BillingProviderUnavailable, TenantNotFound
from tallygate_server.storage.checkout_sessions import CheckoutSessionRow, add_session
from tests.support.billing import ANNA, WEBHOOK, Billing, billing
from tests.support.provider_twin import MONTH, START, ProviderTwin, a_paid, a_payment, a_price, an_invoice
from tests.support.use_cases import LEKHAK

DAY = timedelta(days=1)
S = SubscriptionState


@pytest.fixture
def provider() -> ProviderTwin:
    twin = ProviderTwin()
    twin.put(a_paid())
    twin.customers["cus_1"] = ObservedCustomer(customer_id="cus_1", deleted=False)
    twin.invoices["in_1"] = an_invoice()
    twin.payments["pi_1"] = a_payment()
    return twin


@pytest.fixture
async def server(billing_database: str, provider: ProviderTwin) -> AsyncIterator[Billing]:
    async with billing(billing_database, provider) as [built]:
        yield built


def fields(found: Reconciliation) -> list[tuple[str, bool]]:
    return sorted((each.field, each.repaired) for each in found.differences)


async def count(server: Billing, table: str) -> int:
    (row,) = await server.world.fetch(f"SELECT count(*) AS rows FROM {table}")
    found: int = row["rows"]
    return found


async def test_what_was_bought_and_never_heard_of_is_found_with_its_money(server: Billing) -> None:
    found = await server.reconciler.run(LEKHAK, actor="ann")

    assert (found.examined_count, found.difference_count, found.repaired_count) == (1, 3, 3)
    assert fields(found) == [("invoice", True), ("payment", True), ("subscription", True)]
    assert found.differences[0].subscription_id == "sub_ours1"
    held = (await server.row()).subscription
    assert held.state is S.ACTIVE
    assert (await count(server, "invoices"), await count(server, "payments")) == (1, 1)
    (step,) = await server.history("sub_ours1")
    assert (step.action, step.actor) == ("reconcile", "ann")
    audited = await server.world.fetch("SELECT actor FROM audit_entries WHERE action = 'subscription.reconciliation'")
    assert [each["actor"] for each in audited] == ["ann"]


async def test_a_second_run_finds_nothing(server: Billing) -> None:
    await server.reconciler.run(LEKHAK)

    again = await server.reconciler.run(LEKHAK, account_id=ANNA)

    assert (again.examined_count, again.difference_count) == (1, 0)
    assert await server.reconciler.run_due() == {}


async def test_every_field_that_differs_is_told(server: Billing, provider: ProviderTwin) -> None:
    await server.reconciler.run(LEKHAK)
    provider.change(
        "sub_P1",
        state=S.PAST_DUE,
        quantity=4,
        price=a_price("unlimited", amount=1_999),
        period_start_time=START + MONTH,
        period_end_time=START + 2 * MONTH,
    )

    told = await server.reconciler.run(LEKHAK, account_id=ANNA, validate_only=True)
    before = (await server.row()).subscription
    repaired = await server.reconciler.run(LEKHAK, account_id=ANNA)

    names = ["current_period", "grace_end_time", "plan_key", "provider_price_id", "quantity", "state"]
    assert fields(told) == [(name, False) for name in names]
    assert {each.field: (each.here, each.there) for each in told.differences}["quantity"] == (1, 4)
    assert before.quantity == 1
    assert fields(repaired) == [(name, True) for name in names]
    assert (await server.row()).subscription.plan_key == "unlimited"


async def test_validating_only_writes_nothing(server: Billing) -> None:
    found = await server.reconciler.run(LEKHAK, validate_only=True)

    assert fields(found) == [("invoice", False), ("payment", False), ("subscription", False)]
    assert await server.rows() == []
    for table in ("accounts", "invoices", "payments", "reconciliations"):
        assert await count(server, table) == 0


async def test_what_the_provider_does_not_know_is_told_and_stays(server: Billing, provider: ProviderTwin) -> None:
    await server.reconciler.run(LEKHAK)
    del provider.subscriptions["sub_P1"], provider.changed["sub_P1"]

    found = await server.reconciler.run(LEKHAK, account_id=ANNA)

    assert fields(found) == [("subscription", False)]
    assert found.differences[0].here == "sub_ours1"
    assert (await server.row()).subscription.state is S.ACTIVE


async def test_only_what_changed_since_the_last_run_is_asked_for(server: Billing, provider: ProviderTwin) -> None:
    await server.reconciler.run(LEKHAK)
    now = server.world.clock.now()
    provider.put(a_paid("sub_P2", account="bert", named="sub_ours2"), at=now + timedelta(minutes=30))
    server.world.clock.advance(timedelta(hours=1))

    found = await server.reconciler.run(LEKHAK)

    assert found.examined_count == 1
    assert {each.provider_subscription_id for each in found.differences} == {"sub_P2"}
    from_a_time = await server.reconciler.run(LEKHAK, changed_after=START - DAY)
    assert from_a_time.examined_count == 2


async def test_another_tenants_subscriptions_are_not_touched(server: Billing, provider: ProviderTwin) -> None:
    from tests.support.use_cases import example  # noqa: PLC0415

    await server.world.catalogs.apply(example("technically-fit"))

    found = await server.reconciler.run(TenantId("technically-fit"))

    assert found.examined_count == 0
    assert await server.rows() == []
    with pytest.raises(TenantNotFound):
        await server.reconciler.run(TenantId("nobody"))


async def test_the_job_repairs_all_tenants_and_looks_at_everything_once_a_day(
    server: Billing, provider: ProviderTwin
) -> None:
    first = await server.reconciler.run_due()
    # A refund changes no subscription: nothing that the provider lists as changed points to it.
    provider.payments["pi_1"] = a_payment(refunded_minor=999, outcome=PaymentOutcome.REFUNDED)
    server.world.clock.advance(timedelta(hours=1))
    hourly = await server.reconciler.run_due()
    server.world.clock.advance(EVERYTHING_EVERY)
    daily = await server.reconciler.run_due()

    assert first == {"examined": 1, "differences": 3, "repaired": 3, "failed": 0}
    assert hourly == {}
    assert daily == {"examined": 1, "differences": 1, "repaired": 1, "failed": 0}
    (payment,) = await server.world.fetch("SELECT state FROM payments")
    assert payment["state"] == "refunded"


async def test_a_provider_that_is_down_leaves_the_mark_where_it_was(server: Billing, provider: ProviderTwin) -> None:
    provider.down = True
    with pytest.raises(BillingProviderUnavailable):
        await server.reconciler.run_due()
    provider.down = False

    assert await count(server, "reconciliations") == 0
    assert (await server.reconciler.run_due())["repaired"] == 3


async def test_one_that_nobody_understands_does_not_stop_the_others(server: Billing, provider: ProviderTwin) -> None:
    broken = a_paid("sub_P0", account="bert", named="sub_ours0", metadata=None)
    provider.put(broken)

    found = await server.reconciler.run_due()

    assert (found["failed"], found["repaired"]) == (1, 3)


async def test_pages_that_are_over_are_closed(server: Billing, provider: ProviderTwin) -> None:
    await server.sync.refresh("sub_P1", WEBHOOK)
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
    async with server.world.database.tenant_transaction(LEKHAK) as connection:
        await add_session(connection, LEKHAK, page)
        await add_session(connection, LEKHAK, replace(page, provider_session_id="cs_2", plan_key=PlanKey("unlimited")))
    provider.sessions["cs_1"] = ObservedCheckoutSession(
        session_id="cs_1",
        state="complete",
        paid=True,
        url="",
        expire_time=START + DAY,
        customer_id="cus_1",
        provider_subscription_id="sub_P1",
    )

    await server.reconciler.run_due()

    rows = await server.world.fetch("SELECT state FROM checkout_sessions ORDER BY provider_session_id")
    assert [row["state"] for row in rows] == ["complete", "expired"]


async def test_without_a_provider_it_says_what_to_set(server: Billing) -> None:
    from tallygate_server.billing.reconcile import Reconciler  # noqa: PLC0415

    reconciler = Reconciler(
        server.world.database,
        lookups=server.lookups,
        tenants=server.world.tenants,
        provider=None,
        sync=None,
        recorder=None,
        clock=server.world.clock,
    )

    with pytest.raises(BillingProviderNotConfigured):
        await reconciler.run(LEKHAK)
    assert await reconciler.run_due() == {}


def test_differences_are_counted_beyond_those_that_are_kept() -> None:
    found = Reconciliation()
    for _ in range(DIFFERENCES_MAX + 1):
        found.add(
            SubscriptionDifference(
                tenant_id="lekhak",
                account_id="anna",
                subscription_id="s",
                provider_subscription_id="p",
                field="state",
                here="active",
                there="canceled",
                repaired=True,
            )
        )

    assert (len(found.differences), found.difference_count, found.repaired_count) == (1_000, 1_001, 1_001)
