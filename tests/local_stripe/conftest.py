"""One local Stripe for all tests of a process, emptied for each; a customer and prices to begin with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

import pytest
import stripe

from tests.support.local_stripe import LocalStripe, local_stripe

START = "2027-01-15T12:00:00+00:00"
HOUR = 3600
DAY = 24 * HOUR


def at(text: str) -> int:
    """Return Unix seconds for an ISO time in UTC."""
    return int(datetime.fromisoformat(f"{text}+00:00").timestamp())


@pytest.fixture(scope="session")
async def stripe_process() -> AsyncIterator[LocalStripe]:
    async with local_stripe("--now", START) as started:
        yield started


@pytest.fixture
async def local(stripe_process: LocalStripe) -> LocalStripe:
    """Empty the local Stripe; its clock goes on from the last test's, so tests count from `now`."""
    await stripe_process.reset()
    return stripe_process


@pytest.fixture
def client(local: LocalStripe) -> stripe.StripeClient:
    return local.client


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """Something to buy."""

    client: stripe.StripeClient
    product: str
    basic: str
    pro: str
    pro_yearly: str
    free: str

    async def clock(self, moment: str) -> str:
        """Make a test clock."""
        clocks = self.client.v1.test_helpers.test_clocks
        return (await clocks.create_async({"frozen_time": at(moment)})).id

    async def customer(self, *, clock: str | None = None, card: str | None = "pm_card_visa") -> str:
        """Make a customer, with a card as default unless told otherwise."""
        given: stripe.params.CustomerCreateParams = {"email": "ada@example.com"}
        if clock is not None:
            given["test_clock"] = clock
        customer = await self.client.v1.customers.create_async(given)
        if card is not None:
            method = await self.client.v1.payment_methods.attach_async(card, {"customer": customer.id})
            await self.client.v1.customers.update_async(
                customer.id, {"invoice_settings": {"default_payment_method": method.id}}
            )
        return customer.id

    async def subscribe(self, customer: str, price: str | None = None, quantity: int = 1) -> stripe.Subscription:
        """Subscribe a customer."""
        return await self.client.v1.subscriptions.create_async(
            {"customer": customer, "items": [{"price": price or self.basic, "quantity": quantity}]}
        )


@pytest.fixture
async def shop(client: stripe.StripeClient) -> Shop:
    product = (await client.v1.products.create_async({"name": "Pro"})).id

    async def price(amount: int, interval: str) -> str:
        created = await client.v1.prices.create_async(
            {"product": product, "currency": "usd", "unit_amount": amount, "recurring": {"interval": interval}}
        )
        return created.id

    return Shop(
        client=client,
        product=product,
        basic=await price(1000, "month"),
        pro=await price(3000, "month"),
        pro_yearly=await price(30000, "year"),
        free=await price(0, "month"),
    )


def only_item(subscription: stripe.Subscription) -> stripe.SubscriptionItem:
    """Return a subscription's one item."""
    [item] = subscription["items"].data
    assert isinstance(item, stripe.SubscriptionItem)
    return item
