from __future__ import annotations

import pytest
import stripe

from tests.local_stripe.conftest import DAY, Shop, only_item
from tests.support.local_stripe import LocalStripe


async def open_session(shop: Shop, **more: object) -> stripe.checkout.Session:
    """Open a session for the basic price."""
    given = {
        "mode": "subscription",
        "line_items": [{"price": shop.basic, "quantity": 2}],
        "client_reference_id": "acct_7",
        "success_url": "https://shop.example/done?session={CHECKOUT_SESSION_ID}",
        "cancel_url": "https://shop.example/back",
        "subscription_data": {"metadata": {"account": "7"}},
        **more,
    }
    return await shop.client.v1.checkout.sessions.create_async(given)  # type: ignore[arg-type]


async def checkout_events(client: stripe.StripeClient) -> list[str]:
    events = await client.v1.events.list_async({"type": "checkout.session.*"})
    return [event.type for event in reversed(events.data)]


async def test_a_customer_who_pays_has_a_subscription(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    session = await open_session(shop, customer_email="new@example.com")

    await local.complete_checkout(session.id)

    done = await client.v1.checkout.sessions.retrieve_async(session.id, {"expand": ["subscription", "line_items"]})
    assert (session.status, session.amount_total) == ("open", 2000)
    assert (done.status, done.payment_status, done.client_reference_id) == ("complete", "paid", "acct_7")
    assert isinstance(done.subscription, stripe.Subscription)
    assert (done.subscription.status, done.subscription.metadata.to_dict()) == ("active", {"account": "7"})
    assert (only_item(done.subscription).price.id, only_item(done.subscription).quantity) == (shop.basic, 2)
    assert isinstance(done.customer, str)
    assert (await client.v1.customers.retrieve_async(done.customer)).email == "new@example.com"
    assert done.line_items is not None
    assert [item.quantity for item in done.line_items.data] == [2]
    assert await checkout_events(client) == ["checkout.session.completed"]


async def test_a_declined_card_leaves_the_session_open(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    session = await open_session(shop, customer=await shop.customer())

    await local.decline_checkout(session.id)

    assert (await client.v1.checkout.sessions.retrieve_async(session.id)).status == "open"
    assert "subscription" not in await local.counts()


@pytest.mark.parametrize(("outcome", "status"), [("succeeded", "active"), ("failed", "past_due")])
async def test_an_asynchronous_payment_comes_later_or_not(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient, outcome: str, status: str
) -> None:
    session = await open_session(shop, customer=await shop.customer())

    completed = await local.complete_checkout(session.id, outcome="async_pending")
    settled = await local.settle_checkout(session.id, outcome=outcome)

    subscription = await client.v1.subscriptions.retrieve_async(completed["subscription"])
    assert (completed["status"], completed["payment_status"]) == ("complete", "unpaid")
    assert settled["payment_status"] == ("paid" if outcome == "succeeded" else "unpaid")
    assert subscription.status == status
    assert await checkout_events(client) == ["checkout.session.completed", f"checkout.session.async_payment_{outcome}"]


async def test_a_session_expires_by_itself_or_on_request(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    customer = await shop.customer()
    first = await open_session(shop, customer=customer)
    second = await open_session(shop, customer=customer)

    await client.v1.checkout.sessions.expire_async(first.id)
    await local.advance(DAY)

    expired = await client.v1.checkout.sessions.list_async({"customer": customer, "status": "expired"})
    assert {session.id for session in expired.data} == {first.id, second.id}
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.checkout.sessions.expire_async(first.id)


async def test_a_trial_needs_no_payment_yet(local: LocalStripe, shop: Shop, client: stripe.StripeClient) -> None:
    session = await open_session(shop, subscription_data={"trial_period_days": 14})

    done = await local.complete_checkout(session.id)

    assert done["payment_status"] == "no_payment_required"
    assert (await client.v1.subscriptions.retrieve_async(done["subscription"])).status == "trialing"


async def test_the_page_pays_with_a_button(local: LocalStripe, shop: Shop, client: stripe.StripeClient) -> None:
    session = await open_session(shop, customer=await shop.customer())
    assert session.url is not None

    page = await local.http.get(session.url)
    declined = await local.http.post(session.url, data={"outcome": "declined"})
    paid = await local.http.post(session.url, data={"outcome": "paid"})

    assert "Pay 20.00 USD" in page.text
    assert (declined.status_code, "declined" in declined.text) == (200, True)
    assert paid.headers["location"] == f"https://shop.example/done?session={session.id}"


async def test_the_portal_cancels_switches_and_takes_a_card(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    customer = await shop.customer()
    subscription = await shop.subscribe(customer)
    session = await client.v1.billing_portal.sessions.create_async(
        {"customer": customer, "return_url": "https://shop.example/account"}
    )

    page = await local.http.get(session.url)
    cancelled = await local.act_in_portal(session.id, "cancel", subscription.id)
    resumed = await local.act_in_portal(session.id, "resume", subscription.id)
    switched = await local.act_in_portal(session.id, "switch", subscription.id, shop.pro)
    failing = await local.act_in_portal(session.id, "card", subscription.id, "pm_card_chargeCustomerFail")
    posted = await local.http.post(session.url, data={"action": "cancel", "subscription": subscription.id})

    assert "Cancel at period end" in page.text
    assert (cancelled["cancel_at_period_end"], resumed["cancel_at_period_end"]) == (True, False)
    assert switched["items"]["data"][0]["price"]["id"] == shop.pro
    assert failing["default_payment_method"] is not None
    assert "Keep it" in posted.text
