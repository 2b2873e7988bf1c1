"""ListCustomers, ListInvoices, ListPayments and ReconcileSubscriptions, from the message to the rows and back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest

from tallygate.v1 import billing_pb2, subscription_pb2, subscription_service_pb2
from tallygate_server.billing.observed import ObservedCustomer, PaymentOutcome, PostalAddress
from tallygate_server.billing.reconcile import Reconciler
from tallygate_server.billing.records import BillingRecords
from tallygate_server.errors import BillingProviderNotConfigured, PageTokenInvalid, TenantNotFound
from tallygate_server.transport.subscription_servicer import SubscriptionServicer
from tests.support.billing import WEBHOOK, Billing, billing
from tests.support.provider_twin import START, ProviderTwin, a_paid, a_payment, an_invoice

DAY = timedelta(days=1)
NOTHING = cast("Any", None)
"""A context, and parts of the servicer, that these methods do not need."""


@pytest.fixture
def provider() -> ProviderTwin:
    twin = ProviderTwin()
    for number, account in ((1, "anna"), (2, "bert")):
        twin.put(a_paid(f"sub_P{number}", account=account, named=f"sub_ours{number}", customer_id=f"cus_{number}"))
        twin.customers[f"cus_{number}"] = ObservedCustomer(
            customer_id=f"cus_{number}",
            deleted=False,
            email=f"{account}@example.org",
            currency="USD",
            tax_ids=(("eu_vat", "ATU12345678"),),
            address=PostalAddress(line1="Ring 1", city="Wien", country_code="AT"),
            metadata={"tallygate_tenant_id": "lekhak", "crm": "7"},
            create_time=START + number * DAY,
        )
    for month in range(5):
        twin.invoices[f"in_{month}"] = an_invoice(
            f"in_{month}",
            create_time=START + month * DAY,
            state="paid" if month < 4 else "open",
            period_start_time=START if month else None,
            period_end_time=START + DAY if month else None,
            due_time=START + 9 * DAY,
            tax_minor=100,
        )
        twin.payments[f"pi_{month}"] = a_payment(
            f"pi_{month}",
            invoice_id=f"in_{month}",
            create_time=START + month * DAY,
            outcome=PaymentOutcome.SUCCEEDED if month < 4 else PaymentOutcome.FAILED,
            failure_code="" if month < 4 else "card_declined",
            refunded_minor=50 if month == 0 else 0,
        )
    twin.invoices["in_b"] = an_invoice("in_b", subscription_id="sub_P2", customer_id="cus_2")
    twin.payments["pi_b"] = a_payment("pi_b", invoice_id="in_b", customer_id="cus_2")
    return twin


@pytest.fixture
async def server(billing_database: str, provider: ProviderTwin) -> AsyncIterator[Billing]:
    async with billing(billing_database, provider) as [built]:
        for customer_id, subscription_id in (("cus_1", "sub_P1"), ("cus_2", "sub_P2")):
            await built.sync.refresh(subscription_id, WEBHOOK)
            await built.recorder.customer(customer_id)
        for payment_id in provider.payments:
            await built.recorder.payment(payment_id, WEBHOOK)
        yield built


@pytest.fixture
def service(server: Billing) -> SubscriptionServicer:
    return SubscriptionServicer(
        NOTHING,
        server.world.clock.now,
        previews=NOTHING,
        webhooks=NOTHING,
        checkout=NOTHING,
        customers=NOTHING,
        records=BillingRecords(server.world.database, server.world.tenants),
        reconciler=server.reconciler,
    )


async def test_payments_come_newest_first_page_by_page(service: SubscriptionServicer) -> None:
    request = subscription_service_pb2.ListPaymentsRequest(tenant_id="lekhak", account_id="anna", page_size=2)
    found: list[billing_pb2.Payment] = []
    while True:
        response = await service.ListPayments(request, NOTHING)
        assert len(response.payments) <= 2
        found += response.payments
        if not response.next_page_token:
            break
        request.page_token = response.next_page_token

    assert [each.provider_payment_id for each in found] == ["pi_4", "pi_3", "pi_2", "pi_1", "pi_0"]
    failed, oldest = found[0], found[-1]
    assert (failed.state, failed.failure_code) == (billing_pb2.PAYMENT_STATE_FAILED, "card_declined")
    assert (oldest.amount.minor_units, oldest.amount.currency_code) == (999, "USD")
    assert oldest.refunded_amount.minor_units == 50
    assert oldest.subscription_id == "sub_ours1"
    assert oldest.billing_provider == subscription_pb2.BILLING_PROVIDER_STRIPE
    assert oldest.create_time.ToDatetime(tzinfo=START.tzinfo) == START


async def test_payments_are_filtered(service: SubscriptionServicer) -> None:
    async def ids(**filters: Any) -> list[str]:
        request = subscription_service_pb2.ListPaymentsRequest(tenant_id="lekhak", **filters)
        return [each.provider_payment_id for each in (await service.ListPayments(request, NOTHING)).payments]

    assert len(await ids()) == 6
    assert await ids(subscription_id="sub_ours2") == ["pi_b"]
    assert await ids(state="PAYMENT_STATE_FAILED") == ["pi_4"]
    assert await ids(account_id="anna", start_time=START + DAY, end_time=START + 3 * DAY) == ["pi_2", "pi_1"]
    assert await ids(account_id="nobody") == []


async def test_a_page_token_of_other_filters_is_refused(service: SubscriptionServicer) -> None:
    request = subscription_service_pb2.ListPaymentsRequest(tenant_id="lekhak", account_id="anna", page_size=1)
    request.page_token = (await service.ListPayments(request, NOTHING)).next_page_token
    request.account_id = "bert"

    with pytest.raises(PageTokenInvalid):
        await service.ListPayments(request, NOTHING)


async def test_invoices_come_newest_first_and_are_filtered(service: SubscriptionServicer) -> None:
    async def invoices(**filters: Any) -> list[billing_pb2.Invoice]:
        request = subscription_service_pb2.ListInvoicesRequest(tenant_id="lekhak", **filters)
        return list((await service.ListInvoices(request, NOTHING)).invoices)

    found = await invoices(account_id="anna")
    (open_one,) = await invoices(state="INVOICE_STATE_OPEN")
    request = subscription_service_pb2.ListInvoicesRequest(tenant_id="lekhak", page_size=4)
    first = await service.ListInvoices(request, NOTHING)
    request.page_token = first.next_page_token
    second = await service.ListInvoices(request, NOTHING)

    assert [each.provider_invoice_id for each in found] == ["in_4", "in_3", "in_2", "in_1", "in_0"]
    assert open_one.provider_invoice_id == "in_4"
    assert (open_one.due_amount.minor_units, open_one.tax_amount.minor_units) == (999, 100)
    assert open_one.period.start_time.ToDatetime(tzinfo=START.tzinfo) == START
    assert not found[-1].HasField("period")
    assert (len(first.invoices), len(second.invoices), second.next_page_token) == (4, 2, "")
    assert len(await invoices(subscription_id="sub_ours2")) == 1
    assert await invoices(end_time=START) == []


async def test_customers_come_newest_first(service: SubscriptionServicer) -> None:
    request = subscription_service_pb2.ListCustomersRequest(tenant_id="lekhak", page_size=1)
    first = await service.ListCustomers(request, NOTHING)
    request.page_token = first.next_page_token
    second = await service.ListCustomers(request, NOTHING)

    (bert,), (anna,) = first.customers, second.customers
    assert (bert.account_id, anna.account_id, second.next_page_token) == ("bert", "anna", "")
    assert (anna.email, anna.currency_code, dict(anna.metadata)) == ("anna@example.org", "USD", {"crm": "7"})
    assert [(each.type, each.value) for each in anna.tax_ids] == [("eu_vat", "ATU12345678")]
    assert (anna.address.line1, anna.address.country_code) == ("Ring 1", "AT")


async def test_a_tenant_that_is_not_there_is_said_to_be_none(service: SubscriptionServicer) -> None:
    with pytest.raises(TenantNotFound):
        await service.ListPayments(subscription_service_pb2.ListPaymentsRequest(tenant_id="nobody"), NOTHING)
    with pytest.raises(TenantNotFound):
        await service.ListInvoices(subscription_service_pb2.ListInvoicesRequest(tenant_id="nobody"), NOTHING)
    with pytest.raises(TenantNotFound):
        await service.ListCustomers(subscription_service_pb2.ListCustomersRequest(tenant_id="nobody"), NOTHING)


async def test_a_reconciliation_tells_each_difference_as_json(
    service: SubscriptionServicer, provider: ProviderTwin
) -> None:
    provider.change("sub_P1", quantity=3)
    request = subscription_service_pb2.ReconcileSubscriptionsRequest(
        tenant_id="lekhak", account_id="anna", validate_only=True
    )
    told = await service.ReconcileSubscriptions(request, NOTHING)
    request.validate_only = False
    repaired = await service.ReconcileSubscriptions(request, NOTHING)

    assert (told.examined_count, told.difference_count, told.repaired_count) == (1, 1, 0)
    (difference,) = told.differences
    assert (difference.field, difference.value_json, difference.provider_value_json) == ("quantity", "1", "3")
    assert (difference.account_id, difference.subscription_id) == ("anna", "sub_ours1")
    assert [each.repaired for each in repaired.differences] == [True]
    assert repaired.repaired_count == 1


async def test_records_are_shown_without_a_provider_and_reconciling_says_what_to_set(server: Billing) -> None:
    world = server.world
    service = SubscriptionServicer(
        NOTHING,
        world.clock.now,
        previews=NOTHING,
        webhooks=NOTHING,
        checkout=NOTHING,
        customers=NOTHING,
        records=BillingRecords(world.database, world.tenants),
        reconciler=Reconciler(
            world.database,
            lookups=server.lookups,
            tenants=world.tenants,
            provider=None,
            sync=None,
            recorder=None,
            clock=world.clock,
        ),
    )

    listed = await service.ListPayments(subscription_service_pb2.ListPaymentsRequest(tenant_id="lekhak"), NOTHING)
    with pytest.raises(BillingProviderNotConfigured) as refused:
        await service.ReconcileSubscriptions(
            subscription_service_pb2.ReconcileSubscriptionsRequest(tenant_id="lekhak"), NOTHING
        )

    assert len(listed.payments) == 6
    assert refused.value.facts["setting"] == "TALLYGATE_STRIPE_API_KEY"


async def test_what_is_recorded_again_is_written_only_where_it_differs(server: Billing, provider: ProviderTwin) -> None:
    before = await server.world.fetch("SELECT * FROM payments ORDER BY payment_id")
    invoices = await server.world.fetch("SELECT * FROM invoices ORDER BY invoice_id")
    server.world.clock.advance(DAY)
    for payment_id in provider.payments:
        await server.recorder.payment(payment_id, WEBHOOK)
    for invoice_id in provider.invoices:
        await server.recorder.invoice(invoice_id, WEBHOOK)
    provider.invoices["in_4"] = replace(provider.invoices["in_4"], attempt_count=2)
    await server.recorder.invoice("in_4", WEBHOOK)

    assert await server.world.fetch("SELECT * FROM payments ORDER BY payment_id") == before
    after = await server.world.fetch("SELECT * FROM invoices ORDER BY invoice_id")
    changed = [row["provider_invoice_id"] for row, old in zip(after, invoices, strict=True) if row != old]
    assert changed == ["in_4"]
