"""The doing half of a billing provider in memory: it keeps what it answered under a key, and fails as it is told.

`provider_twin` has the asking half. The real client against the local Stripe is tried in
tests/billing/test_purchases_at_local_stripe.py.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from enum import Enum
from itertools import count
from typing import Any, TypeVar

from tallygate_server.billing.observed import (
    ObservedCheckoutSession,
    ObservedCustomer,
    ObservedInvoice,
    ObservedPrice,
    ObservedProration,
    ObservedSchedule,
    ObservedSchedulePhase,
    ObservedSubscription,
)
from tallygate_server.billing.provider import (
    ACCOUNT_ATTRIBUTE,
    PLAN_ATTRIBUTE,
    PLAN_VERSION_ATTRIBUTE,
    SUBSCRIPTION_ATTRIBUTE,
    TENANT_ATTRIBUTE,
    CustomerDetails,
    Sale,
)
from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.subscription import SubscriptionState
from tallygate_server.errors import BillingProviderUnavailable, PaymentRefused
from tests.support.provider_twin import MONTH, ProviderTwin

R = TypeVar("R")


class Fault(Enum):
    """How a call goes wrong."""

    BEFORE = "before"
    """Nothing has happened, and nothing is known."""
    AFTER = "after"
    """It has happened, but nobody hears of it; the same key hears of it."""
    STORED = "stored"
    """It has happened, but the provider keeps a failure under the key."""
    STORED_NOTHING = "stored_nothing"
    """Nothing has happened, and the provider keeps a failure under the key."""
    REFUSED = "refused"
    """The provider says no."""


class PaymentProviderInMemory(ProviderTwin):
    """Satisfies `billing.provider.PaymentProvider`."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._numbers = count(1)
        self._answers: dict[str, tuple[Any, Any]] = {}
        """What was asked and answered, by key."""
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        """How the next calls of a method go wrong."""
        self.calls: Counter[str] = Counter()
        self.gates: dict[str, asyncio.Event] = {}
        """A call of a method waits here before anything happens."""
        self.waiting = asyncio.Event()
        """Set when one does."""
        self.needs_payment = False
        """Whether the next subscription is incomplete until somebody pays."""

    # ---- what tests look at and do

    def made(self) -> dict[str, int]:
        """Return how many of each thing there are."""
        return {
            "customers": len([each for each in self.customers.values() if not each.deleted]),
            "subscriptions": len(self.subscriptions),
            "sessions": len(self.sessions),
            "open_sessions": len([each for each in self.sessions.values() if each.state == "open"]),
        }

    def delete_customer(self, customer_id: str) -> None:
        """Delete a customer, as somebody does in the provider's dashboard."""
        self.customers[customer_id] = ObservedCustomer(customer_id=customer_id, deleted=True)

    def pay(self, session_id: str) -> ObservedSubscription:
        """Complete a page, as somebody with a card does."""
        session = self.sessions[session_id]
        price = next(each for each in self.prices.values() if each.price_id == session.metadata["price"])
        subscription = self._new_subscription(price, session.customer_id, session.metadata, 1, 0)
        self.sessions[session_id] = replace(
            session, state="complete", paid=True, provider_subscription_id=subscription.provider_subscription_id
        )
        return subscription

    # ---- asking

    async def find_customer(
        self, tenant_id: TenantId, account_id: AccountId, *, created_since: datetime
    ) -> ObservedCustomer | None:
        """Answer with the account's customer."""
        await self._answer("find_customer")
        for customer in self.customers.values():
            mine = customer.metadata.get(TENANT_ATTRIBUTE), customer.metadata.get(ACCOUNT_ATTRIBUTE)
            assert customer.create_time is not None
            if mine == (tenant_id, account_id) and customer.create_time >= created_since and not customer.deleted:
                return customer
        return None

    async def open_checkout_sessions(self, customer_id: str) -> Sequence[ObservedCheckoutSession]:
        """Answer with the customer's open pages."""
        await self._answer("open_checkout_sessions")
        return [each for each in self.sessions.values() if each.customer_id == customer_id and each.state == "open"]

    # ---- doing

    async def ensure_price(self, sale: Sale) -> ObservedPrice:
        """Find or make the price."""
        await self._answer("ensure_price")
        price_id = f"price_{sale.lookup_key}"
        return self.prices.setdefault(
            price_id,
            ObservedPrice(
                price_id=price_id,
                lookup_key=sale.lookup_key,
                unit_amount_minor=sale.price.amount_minor,
                currency=sale.price.currency,
                interval=sale.price.interval.value,
                interval_count=1,
                metadata={TENANT_ATTRIBUTE: sale.tenant_id, PLAN_ATTRIBUTE: sale.plan_key},
            ),
        )

    async def create_customer(
        self, tenant_id: TenantId, account_id: AccountId, details: CustomerDetails, *, operation_id: str
    ) -> ObservedCustomer:
        """Make a customer."""

        def make() -> ObservedCustomer:
            customer = ObservedCustomer(
                customer_id=f"cus_{next(self._numbers)}",
                deleted=False,
                email=details.email or "",
                name=details.name or "",
                metadata={TENANT_ATTRIBUTE: tenant_id, ACCOUNT_ATTRIBUTE: account_id},
                create_time=self._clock.now(),
            )
            self.customers[customer.customer_id] = customer
            return customer

        return await self._once("create_customer", operation_id, (tenant_id, account_id, asdict(details)), make)

    async def update_customer(
        self, customer_id: str, details: CustomerDetails, *, operation_id: str
    ) -> ObservedCustomer:
        """Change a customer."""

        def change() -> ObservedCustomer:
            customer = self.customers[customer_id]
            merged = dict(customer.metadata) | dict(details.metadata)
            customer = replace(
                customer,
                email=customer.email if details.email is None else details.email,
                name=customer.name if details.name is None else details.name,
                default_payment_method_id=customer.default_payment_method_id
                if details.default_payment_method_id is None
                else details.default_payment_method_id,
                tax_ids=customer.tax_ids if details.tax_ids is None else details.tax_ids,
                address=customer.address if details.address is None else details.address,
                metadata={key: value for key, value in merged.items() if value},
            )
            self.customers[customer_id] = customer
            return customer

        return await self._once("update_customer", operation_id, (customer_id, asdict(details)), change)

    async def create_subscription(
        self,
        sale: Sale,
        *,
        customer_id: str,
        account_id: AccountId,
        subscription_id: str,
        quantity: int,
        trial_days: int,
        payment_method_id: str,
        promotion_code: str,
        metadata: Mapping[str, str],
        operation_id: str,
    ) -> ObservedSubscription:
        """Subscribe the customer."""
        price = await self.ensure_price(sale)
        named = _named(sale, account_id, subscription_id) | dict(metadata)
        asked = (price.price_id, customer_id, named, quantity, trial_days, payment_method_id, promotion_code)
        return await self._once(
            "create_subscription",
            operation_id,
            asked,
            lambda: self._new_subscription(price, customer_id, named, quantity, trial_days),
        )

    async def change_subscription(
        self,
        present: ObservedSubscription,
        sale: Sale,
        *,
        quantity: int,
        payment_method_id: str,
        proration_time: datetime | None,
        operation_id: str,
    ) -> ObservedSubscription:
        """Change price and quantity."""
        price = await self.ensure_price(sale)
        asked = (present.provider_subscription_id, price.price_id, quantity, payment_method_id, proration_time)
        return await self._once(
            "change_subscription",
            operation_id,
            asked,
            lambda: self.change(present.provider_subscription_id, price=price, quantity=quantity, schedule=None),
        )

    async def schedule_change(
        self,
        present: ObservedSubscription,
        sale: Sale,
        *,
        quantity: int,
        effective_time: datetime,
        operation_id: str,
    ) -> ObservedSchedule:
        """Plan a change."""
        price = await self.ensure_price(sale)
        assert not present.cancel_at_period_end, "a subscription that ends is kept first"

        def plan() -> ObservedSchedule:
            schedule = ObservedSchedule(
                schedule_id=f"sub_sched_{next(self._numbers)}",
                provider_subscription_id=present.provider_subscription_id,
                state="active",
                phases=(
                    ObservedSchedulePhase(
                        price_id=present.price.price_id,
                        quantity=present.quantity,
                        start_time=present.period_start_time,
                        end_time=effective_time,
                    ),
                    ObservedSchedulePhase(
                        price_id=price.price_id, quantity=quantity, start_time=effective_time, end_time=None
                    ),
                ),
            )
            self.schedules[schedule.schedule_id] = schedule
            self.change(present.provider_subscription_id, schedule=schedule)
            return schedule

        asked = (present.provider_subscription_id, price.price_id, quantity, effective_time)
        return await self._once("schedule_change", operation_id, asked, plan)

    async def release_schedule(self, schedule_id: str, *, operation_id: str) -> None:
        """Take a plan back."""

        def release() -> None:
            schedule = self.schedules[schedule_id]
            self.schedules[schedule_id] = replace(schedule, state="released", provider_subscription_id="")
            if schedule.provider_subscription_id:
                self.change(schedule.provider_subscription_id, schedule=None)

        await self._once("release_schedule", operation_id, schedule_id, release)

    async def cancel_now(
        self, provider_subscription_id: str, *, reason: str, operation_id: str
    ) -> ObservedSubscription:
        """End the subscription."""

        def end() -> ObservedSubscription:
            now = self._clock.now()
            return self.change(
                provider_subscription_id, state=SubscriptionState.CANCELED, end_time=now, cancel_request_time=now
            )

        return await self._once("cancel_now", operation_id, (provider_subscription_id, reason), end)

    async def cancel_at(
        self, provider_subscription_id: str, *, at: datetime | None, operation_id: str
    ) -> ObservedSubscription:
        """End the subscription later."""

        def plan() -> ObservedSubscription:
            present = self.subscriptions[provider_subscription_id]
            return self.change(
                provider_subscription_id,
                schedule=None,
                cancel_at_period_end=at is None,
                cancel_time=at or present.period_end_time,
                cancel_request_time=self._clock.now(),
            )

        return await self._once("cancel_at", operation_id, (provider_subscription_id, at), plan)

    async def keep(self, provider_subscription_id: str, *, operation_id: str) -> ObservedSubscription:
        """Take a cancellation back."""
        return await self._once(
            "keep",
            operation_id,
            provider_subscription_id,
            lambda: self.change(
                provider_subscription_id, cancel_at_period_end=False, cancel_time=None, cancel_request_time=None
            ),
        )

    async def pause(self, provider_subscription_id: str, *, operation_id: str) -> ObservedSubscription:
        """Pause the subscription."""
        return await self._once(
            "pause",
            operation_id,
            provider_subscription_id,
            lambda: self.change(provider_subscription_id, state=SubscriptionState.PAUSED, schedule=None),
        )

    async def resume(self, provider_subscription_id: str, *, operation_id: str) -> ObservedSubscription:
        """Resume the subscription."""
        now = self._clock.now()
        return await self._once(
            "resume",
            operation_id,
            provider_subscription_id,
            lambda: self.change(
                provider_subscription_id,
                state=SubscriptionState.ACTIVE,
                start_time=now,
                period_start_time=now,
                period_end_time=now + MONTH,
            ),
        )

    async def preview_change(
        self, present: ObservedSubscription, sale: Sale, *, quantity: int, proration_time: datetime
    ) -> ObservedProration:
        """Say what a change would cost, had nothing been paid yet."""
        assert present.state is not SubscriptionState.CANCELED
        return ObservedProration(
            due_now_minor=sale.price.amount_minor * quantity,
            next_invoice_minor=sale.price.amount_minor * quantity,
            currency=sale.price.currency,
            lines=(),
            proration_time=proration_time,
        )

    async def create_checkout_session(
        self,
        sale: Sale,
        *,
        customer_id: str,
        account_id: AccountId,
        subscription_id: str,
        quantity: int,
        trial_days: int,
        success_url: str,
        cancel_url: str,
        promotion_code: str,
        expire_time: datetime,
        operation_id: str,
    ) -> ObservedCheckoutSession:
        """Open a page."""
        price = await self.ensure_price(sale)
        named = _named(sale, account_id, subscription_id)

        def make() -> ObservedCheckoutSession:
            number = next(self._numbers)
            session = ObservedCheckoutSession(
                session_id=f"cs_{number}",
                state="open",
                paid=False,
                url=f"https://checkout.example/{number}",
                expire_time=expire_time,
                customer_id=customer_id,
                provider_subscription_id="",
                metadata=named | {"price": price.price_id},
            )
            self.sessions[session.session_id] = session
            return session

        asked = (
            price.price_id, customer_id, named, quantity, trial_days, success_url, cancel_url, promotion_code,
            expire_time,
        )  # fmt: skip
        return await self._once("create_checkout_session", operation_id, asked, make)

    async def expire_checkout_session(self, session_id: str, *, operation_id: str) -> None:
        """Close a page."""

        def close() -> None:
            session = self.sessions[session_id]
            if session.state == "open":
                self.sessions[session_id] = replace(session, state="expired")

        await self._once("expire_checkout_session", operation_id, session_id, close)

    async def create_portal_session(self, customer_id: str, *, return_url: str) -> str:
        """Open the page where billing is managed."""
        await self._answer("create_portal_session")
        return f"https://portal.example/{customer_id}?back={return_url}"

    # ---- how

    async def _once(self, method: str, operation_id: str, asked: object, do: Callable[[], R]) -> R:
        self.calls[method] += 1
        await asyncio.sleep(0)
        if method in self.gates:
            self.waiting.set()
            await self.gates[method].wait()
        if self.down:
            raise BillingProviderUnavailable("stripe", "down")
        faults = self.faults[method]
        fault = faults.pop(0) if faults else None
        if fault is Fault.BEFORE:
            raise BillingProviderUnavailable("stripe", "no answer")
        if fault is Fault.REFUSED:
            raise PaymentRefused("the card was declined", billing_provider="stripe", provider_code="card_declined")
        key = f"{method}:{operation_id}"
        if key in self._answers:
            before, answer = self._answers[key]
            assert before == asked, f"{key} was asked for something else before"
        else:
            answer = None if fault is Fault.STORED_NOTHING else do()
            if fault in (Fault.STORED, Fault.STORED_NOTHING):
                answer = BillingProviderUnavailable("stripe", "status 500")
            self._answers[key] = (asked, answer)
        if isinstance(answer, BillingProviderUnavailable):
            raise answer
        if fault is Fault.AFTER:
            raise BillingProviderUnavailable("stripe", "no answer in time")
        return answer  # type: ignore[no-any-return]  # as it was stored under this method's key

    def _new_subscription(
        self, price: ObservedPrice, customer_id: str, metadata: Mapping[str, str], quantity: int, trial_days: int
    ) -> ObservedSubscription:
        if customer_id not in self.customers or self.customers[customer_id].deleted:
            raise PaymentRefused(
                "Stripe does not know what the request names",
                billing_provider="stripe",
                provider_code="resource_missing",
            )
        now, number = self._clock.now(), next(self._numbers)
        incomplete, self.needs_payment = self.needs_payment, False
        trial_end = now + timedelta(days=trial_days) if trial_days else None
        state = SubscriptionState.TRIALING if trial_days else SubscriptionState.ACTIVE
        end = trial_end or now + MONTH
        subscription = ObservedSubscription(
            provider_subscription_id=f"sub_P{number}",
            customer_id=customer_id,
            state=SubscriptionState.INCOMPLETE if incomplete else state,
            price=price,
            item_id=f"si_{number}",
            quantity=quantity,
            start_time=end if trial_days else now,
            create_time=now,
            period_start_time=now,
            period_end_time=end,
            trial_start_time=now if trial_days else None,
            trial_end_time=trial_end,
            cancel_at_period_end=False,
            cancel_time=None,
            cancel_request_time=None,
            end_time=None,
            overdue_since_time=None,
            collection_paused=False,
            resume_time=None,
            default_payment_method_id="",
            metadata={key: value for key, value in metadata.items() if key != "price"},
            latest_invoice=self._bill(f"sub_P{number}", customer_id, price, incomplete=incomplete, now=now),
        )
        return self.put(subscription, at=now)

    def _bill(
        self, subscription_id: str, customer_id: str, price: ObservedPrice, *, incomplete: bool, now: datetime
    ) -> ObservedInvoice:
        return ObservedInvoice(
            invoice_id=f"in_{subscription_id}",
            customer_id=customer_id,
            provider_subscription_id=subscription_id,
            state="open" if incomplete else "paid",
            number="",
            currency=price.currency,
            due_minor=price.unit_amount_minor,
            paid_minor=0 if incomplete else price.unit_amount_minor,
            tax_minor=0,
            period_start_time=now,
            period_end_time=now + MONTH,
            due_time=None,
            attempt_count=1,
            next_attempt_time=None,
            hosted_url=f"https://invoice.example/{subscription_id}",
            create_time=now,
            paid_time=None if incomplete else now,
            client_secret=f"pi_{subscription_id}_secret_local" if incomplete else "",
        )


def _named(sale: Sale, account_id: AccountId, subscription_id: str) -> dict[str, str]:
    return {
        TENANT_ATTRIBUTE: sale.tenant_id,
        ACCOUNT_ATTRIBUTE: account_id,
        SUBSCRIPTION_ATTRIBUTE: subscription_id,
        PLAN_ATTRIBUTE: sale.plan_key,
        PLAN_VERSION_ATTRIBUTE: str(sale.plan_version),
    }
