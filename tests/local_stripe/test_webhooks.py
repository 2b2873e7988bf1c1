from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import stripe

from tests.local_stripe.conftest import Shop
from tests.support.eventually import eventually
from tests.support.local_stripe import WEBHOOK_SECRET, LocalStripe, WebhookSink, stripe_client, webhook_sink

# The clock of the tests stands at a time of its own, so the age of signatures is not looked at here.
ANY_AGE = 10**10


@pytest.fixture
async def sink() -> AsyncIterator[WebhookSink]:
    async with webhook_sink() as listening:
        yield listening


@pytest.fixture
async def endpoint(local: LocalStripe, sink: WebhookSink) -> str:
    return await local.add_endpoint(sink.url)


def verified(sink: WebhookSink, secret: str = WEBHOOK_SECRET) -> list[stripe.Event]:
    """Return what the sink received, verified by the real library."""
    return [stripe.Webhook.construct_event(body, header, secret, tolerance=ANY_AGE) for body, header in sink.received]


async def test_events_are_signed_and_arrive_in_order(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient, sink: WebhookSink, endpoint: str
) -> None:
    subscription = await shop.subscribe(await shop.customer())

    report = await local.flush_webhooks()

    events = verified(sink)
    stored = (await client.v1.events.list_async({"limit": 100})).data
    after = [event for event in reversed(stored) if event.type.split(".")[0] not in ("product", "price")]
    assert [event.id for event in events][-len(after) :] == [event.id for event in after]
    assert report["pending"] == 0
    [created] = [event for event in events if event.type == "customer.subscription.created"]
    assert created.data.object["id"] == subscription.id
    assert created.api_version == stripe.api_version
    assert (await client.v1.events.retrieve_async(created.id)).pending_webhooks == 0


async def test_an_event_keeps_the_object_of_its_moment(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    subscription = await shop.subscribe(await shop.customer(card="pm_card_authenticationRequired"))
    await client.v1.subscriptions.update_async(subscription.id, {"metadata": {"seats": "3"}})

    events = await client.v1.events.list_async({"types": ["customer.subscription.updated"]})

    [changed] = events.data
    assert changed.data.previous_attributes is not None
    assert changed.data.previous_attributes.to_dict() == {"metadata": {"seats": None}}
    assert changed.data.object["status"] == "incomplete"
    assert changed.request is not None
    assert changed.request.idempotency_key is not None


async def test_both_secrets_sign_while_one_is_rolled(
    local: LocalStripe, client: stripe.StripeClient, sink: WebhookSink, endpoint: str
) -> None:
    await local.roll_secret(endpoint, "whsec_next")
    await client.v1.customers.create_async({})
    await local.flush_webhooks()
    [(_, header)] = sink.received

    assert header.count("v1=") == 2
    assert [event.type for event in verified(sink)] == ["customer.created"]
    assert [event.type for event in verified(sink, "whsec_next")] == ["customer.created"]


async def test_refused_webhooks_are_sent_again(
    local: LocalStripe, client: stripe.StripeClient, sink: WebhookSink, endpoint: str
) -> None:
    sink.status = 500
    await client.v1.customers.create_async({})
    await eventually(lambda: len(sink.received) == 1, 60)
    sink.status = 200

    report = await local.flush_webhooks()

    assert report["refused"] >= 1
    assert report["pending"] == 0
    assert len({event.id for event in verified(sink)}) == 1


async def test_webhooks_are_duplicated_dropped_and_badly_signed_on_request(
    local: LocalStripe, client: stripe.StripeClient, sink: WebhookSink, endpoint: str
) -> None:
    await local.webhook_mode("duplicate", times=3)
    await client.v1.customers.create_async({})
    await local.flush_webhooks()
    copies = len(sink.received)
    await local.webhook_mode("drop")
    await client.v1.customers.create_async({})
    dropped = await local.flush_webhooks()
    await local.webhook_mode("bad_signature", count=1)
    await client.v1.customers.create_async({})
    await client.v1.customers.create_async({})
    await local.flush_webhooks()

    assert (copies, dropped["dropped"], len(sink.received)) == (3, 1, 5)
    with pytest.raises(stripe.SignatureVerificationError):
        verified(sink)
    sink.received.pop(3)
    assert len(verified(sink)) == 4


async def test_held_webhooks_wait_and_reordered_ones_come_shuffled(
    local: LocalStripe, client: stripe.StripeClient, sink: WebhookSink, endpoint: str
) -> None:
    await local.webhook_mode("hold")
    await client.v1.customers.create_async({})
    held = await local.flush_webhooks()
    before = len(sink.received)
    released = await local.release_webhooks()
    await local.webhook_mode("reorder", seed=4)
    names = [f"customer {number}" for number in range(8)]
    for name in names:
        await client.v1.customers.create_async({"name": name})
    await local.flush_webhooks()

    arrived = [event.data.object["name"] for event in verified(sink)[1:]]
    assert (held["held"], before, released) == (1, 0, 1)
    assert arrived != names
    assert sorted(arrived) == names


async def test_a_signature_can_claim_another_age(
    local: LocalStripe, client: stripe.StripeClient, sink: WebhookSink, endpoint: str
) -> None:
    await local.webhook_mode("normal")
    await local.webhook_mode("duplicate", times=1, signature_age_seconds=301)
    await client.v1.customers.create_async({})
    await local.flush_webhooks()
    [(_, header)] = sink.received

    assert header.startswith(f"t={await local.now() - 301},")


async def test_an_endpoint_gets_the_events_it_asked_for(
    local: LocalStripe, client: stripe.StripeClient, sink: WebhookSink
) -> None:
    created = await client.v1.webhook_endpoints.create_async(
        {"url": sink.url, "enabled_events": ["customer.deleted"], "api_version": "2026-10-28.endive"}
    )
    customer = await client.v1.customers.create_async({})
    await client.v1.customers.delete_async(customer.id)
    await local.flush_webhooks()
    assert created.secret is not None

    assert sink.types() == ["customer.deleted"]
    assert len(verified(sink, created.secret)) == 1
    listed = await client.v1.webhook_endpoints.list_async()
    assert not any(hasattr(shown, "secret") for shown in listed.data)


async def test_a_second_client_sees_the_same_state(local: LocalStripe, client: stripe.StripeClient) -> None:
    customer = await client.v1.customers.create_async({"email": "x@example.com"})

    async with stripe_client(local.url) as other:
        found = await other.v1.customers.list_async({"email": "x@example.com"})

    assert [entry.id for entry in found.data] == [customer.id]
