"""A billing provider in memory: objects as values that a test changes, and answers that are always fresh.

Only what is asked of a provider; what is done at one is tried against the local Stripe.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tallygate_server.billing.observed import (
    ObservedCheckoutSession,
    ObservedCustomer,
    ObservedInvoice,
    ObservedPayment,
    ObservedPrice,
    ObservedSchedule,
    ObservedSubscription,
    PaymentOutcome,
)
from tallygate_server.billing.provider import (
    ACCOUNT_ATTRIBUTE,
    PLAN_ATTRIBUTE,
    SUBSCRIPTION_ATTRIBUTE,
    TENANT_ATTRIBUTE,
)
from tallygate_server.domain.subscription import SubscriptionState
from tallygate_server.errors import BillingProviderUnavailable

START = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
MONTH = timedelta(days=31)


class ProviderTwin:
    """Has the asking half of `billing.provider.PaymentProvider`."""

    def __init__(self) -> None:
        self.subscriptions: dict[str, ObservedSubscription] = {}
        self.customers: dict[str, ObservedCustomer] = {}
        self.invoices: dict[str, ObservedInvoice] = {}
        self.payments: dict[str, ObservedPayment] = {}
        self.charges: dict[str, str] = {}
        """Payments by charge."""
        self.schedules: dict[str, ObservedSchedule] = {}
        self.prices: dict[str, ObservedPrice] = {}
        self.sessions: dict[str, ObservedCheckoutSession] = {}
        self.changed: dict[str, datetime] = {}
        """When something last happened to each subscription."""
        self.down = False
        self.fetches: Counter[str] = Counter()
        self.gate: asyncio.Event | None = None
        """Set: an answer that is ready waits for it, as on a slow way back."""
        self.answering = asyncio.Event()
        """Set while an answer waits."""

    # ---- what tests do

    def put(self, subscription: ObservedSubscription, *, at: datetime = START) -> ObservedSubscription:
        """Let the provider have this subscription."""
        self.subscriptions[subscription.provider_subscription_id] = subscription
        self.prices[subscription.price.price_id] = subscription.price
        self.changed[subscription.provider_subscription_id] = at
        return subscription

    def change(self, subscription_id: str, *, at: datetime = START, **fields: Any) -> ObservedSubscription:
        """Change fields of a subscription."""
        return self.put(replace(self.subscriptions[subscription_id], **fields), at=at)

    async def _answer(self, kind: str) -> None:
        self.fetches[kind] += 1
        if self.down:
            raise BillingProviderUnavailable("stripe", "down")
        if self.gate is not None:
            gate, self.gate = self.gate, None
            self.answering.set()
            await gate.wait()
            self.answering.clear()
        else:
            await asyncio.sleep(0)

    # ---- what a provider answers

    async def subscription(self, provider_subscription_id: str) -> ObservedSubscription | None:
        """Answer with the subscription as it was when it was asked for."""
        found = self.subscriptions.get(provider_subscription_id)
        await self._answer("subscription")
        return found

    async def changed_subscription_ids(self, *, since: datetime | None, customer_id: str = "") -> AsyncIterator[str]:
        """Answer with ids, the latest change first."""
        await self._answer("changed")
        for subscription_id, changed in sorted(self.changed.items(), key=lambda item: item[1], reverse=True):
            of_customer = self.subscriptions[subscription_id].customer_id in (customer_id or None, customer_id)
            if (since is None or changed >= since) and (not customer_id or of_customer):
                yield subscription_id

    async def customer(self, customer_id: str) -> ObservedCustomer | None:
        """Answer with the customer."""
        found = self.customers.get(customer_id)
        await self._answer("customer")
        return found

    async def invoice(self, invoice_id: str) -> ObservedInvoice | None:
        """Answer with the invoice."""
        found = self.invoices.get(invoice_id)
        await self._answer("invoice")
        return found

    async def invoices_of_subscription(self, provider_subscription_id: str) -> Sequence[ObservedInvoice]:
        """Answer with the invoices of the subscription."""
        found = [each for each in self.invoices.values() if each.provider_subscription_id == provider_subscription_id]
        await self._answer("invoices_of_subscription")
        return found

    async def payment(self, payment_id: str) -> ObservedPayment | None:
        """Answer with the payment."""
        found = self.payments.get(payment_id)
        await self._answer("payment")
        return found

    async def payment_of_charge(self, charge_id: str) -> ObservedPayment | None:
        """Answer with the payment of the charge."""
        found = self.payments.get(self.charges.get(charge_id, ""))
        await self._answer("payment_of_charge")
        return found

    async def payments_of_invoice(self, invoice_id: str) -> Sequence[ObservedPayment]:
        """Answer with the payments of the invoice."""
        found = [payment for payment in self.payments.values() if payment.invoice_id == invoice_id]
        await self._answer("payments_of_invoice")
        return found

    async def schedule(self, schedule_id: str) -> ObservedSchedule | None:
        """Answer with the schedule."""
        found = self.schedules.get(schedule_id)
        await self._answer("schedule")
        return found

    async def price(self, price_id: str) -> ObservedPrice | None:
        """Answer with the price."""
        found = self.prices.get(price_id)
        await self._answer("price")
        return found

    async def checkout_session(self, session_id: str) -> ObservedCheckoutSession | None:
        """Answer with the page."""
        found = self.sessions.get(session_id)
        await self._answer("checkout_session")
        return found


def a_price(
    plan: str = "pro",
    *,
    tenant: str = "lekhak",
    interval: str = "month",
    amount: int = 999,
    price_id: str = "",
    **more: Any,
) -> ObservedPrice:
    """Sell a plan of the tenant, under the lookup key that Tallygate gives it."""
    price = ObservedPrice(
        price_id=price_id or f"price_{plan}_{interval}",
        lookup_key=f"{tenant}:{plan}:{interval}:USD:{amount}",
        unit_amount_minor=amount,
        currency="USD",
        interval=interval,
        interval_count=1,
        metadata={TENANT_ATTRIBUTE: tenant, PLAN_ATTRIBUTE: plan},
    )
    return replace(price, **more)


def a_paid(
    subscription_id: str = "sub_P1",
    *,
    tenant: str = "lekhak",
    account: str = "anna",
    named: str = "sub_ours1",
    start: datetime = START,
    price: ObservedPrice | None = None,
    **more: Any,
) -> ObservedSubscription:
    """Describe an active subscription to the plan `pro` in its first month, as checkout leaves it."""
    metadata = {TENANT_ATTRIBUTE: tenant, ACCOUNT_ATTRIBUTE: account}
    if named:
        metadata[SUBSCRIPTION_ATTRIBUTE] = named
    subscription = ObservedSubscription(
        provider_subscription_id=subscription_id,
        customer_id="cus_1",
        state=SubscriptionState.ACTIVE,
        price=price or a_price(tenant=tenant),
        item_id="si_1",
        quantity=1,
        start_time=start,
        create_time=start,
        period_start_time=start,
        period_end_time=start + MONTH,
        trial_start_time=None,
        trial_end_time=None,
        cancel_at_period_end=False,
        cancel_time=None,
        cancel_request_time=None,
        end_time=None,
        overdue_since_time=None,
        collection_paused=False,
        resume_time=None,
        default_payment_method_id="pm_1",
        metadata=metadata,
    )
    return replace(subscription, **more)


def an_invoice(invoice_id: str = "in_1", *, subscription_id: str = "sub_P1", **more: Any) -> ObservedInvoice:
    """Describe a paid bill of the first month."""
    invoice = ObservedInvoice(
        invoice_id=invoice_id,
        customer_id="cus_1",
        provider_subscription_id=subscription_id,
        state="paid",
        number="LK-0001",
        currency="USD",
        due_minor=999,
        paid_minor=999,
        tax_minor=0,
        period_start_time=START,
        period_end_time=START + MONTH,
        due_time=None,
        attempt_count=1,
        next_attempt_time=None,
        hosted_url="https://pay.example/in_1",
        create_time=START,
        paid_time=START,
    )
    return replace(invoice, **more)


def a_payment(payment_id: str = "pi_1", *, invoice_id: str = "in_1", **more: Any) -> ObservedPayment:
    """Describe the payment of that bill."""
    payment = ObservedPayment(
        payment_id=payment_id,
        customer_id="cus_1",
        invoice_id=invoice_id,
        outcome=PaymentOutcome.SUCCEEDED,
        currency="USD",
        amount_minor=999,
        refunded_minor=0,
        disputed=False,
        fraud_warning=False,
        failure_code="",
        description="Pro",
        create_time=START,
    )
    return replace(payment, **more)
