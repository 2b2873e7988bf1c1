from __future__ import annotations

import pytest
import stripe

from tests.local_stripe.conftest import DAY, Shop, at, only_item
from tests.support.local_stripe import LocalStripe


async def scheduled_downgrade(shop: Shop, subscription: stripe.Subscription) -> stripe.SubscriptionSchedule:
    """Have a subscription change to the basic price when its period ends."""
    schedules = shop.client.v1.subscription_schedules
    schedule = await schedules.create_async({"from_subscription": subscription.id})
    [now] = schedule.phases
    return await schedules.update_async(
        schedule.id,
        {
            "end_behavior": "release",
            "phases": [
                {
                    "items": [{"price": shop.pro, "quantity": 1}],
                    "start_date": now.start_date,
                    "end_date": now.end_date,
                },
                {
                    "items": [{"price": shop.basic, "quantity": 1}],
                    "duration": {"interval": "month"},
                    "proration_behavior": "none",
                    "metadata": {"plan": "basic"},
                },
            ],
        },
    )


async def test_a_downgrade_takes_effect_when_the_period_ends(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    clock = await shop.clock("2027-01-31T10:00:00")
    subscription = await shop.subscribe(await shop.customer(clock=clock), shop.pro)
    schedule = await scheduled_downgrade(shop, subscription)

    await local.advance_test_clock(clock, at("2027-02-28T09:59:59"))
    before = await client.v1.subscriptions.retrieve_async(subscription.id)
    await local.advance_test_clock(clock, at("2027-02-28T12:00:00"))
    after = await client.v1.subscriptions.retrieve_async(subscription.id, {"expand": ["latest_invoice"]})
    await local.advance_test_clock(clock, at("2027-03-31T12:00:00"))
    released = await client.v1.subscription_schedules.retrieve_async(schedule.id)

    assert (schedule.status, schedule.subscription) == ("active", subscription.id)
    assert (only_item(before).price.id, only_item(after).price.id) == (shop.pro, shop.basic)
    assert isinstance(after.latest_invoice, stripe.Invoice)
    assert [line.amount for line in after.latest_invoice.lines.data] == [1000]
    assert only_item(after).id == only_item(before).id
    assert only_item(after).current_period_end == at("2027-03-31T10:00:00")
    assert after.metadata.to_dict() == {"plan": "basic"}
    assert (released.status, released.released_subscription) == ("released", subscription.id)
    kept = await client.v1.subscriptions.retrieve_async(subscription.id)
    assert (kept.status, kept.schedule, only_item(kept).price.id) == ("active", None, shop.basic)


async def test_a_downgrade_to_another_interval_begins_its_cycle_with_the_phase(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    clock = await shop.clock("2027-02-28T10:00:00")
    subscription = await shop.subscribe(await shop.customer(clock=clock), shop.pro_yearly)
    schedules = client.v1.subscription_schedules
    schedule = await schedules.create_async({"from_subscription": subscription.id})
    [now] = schedule.phases
    await schedules.update_async(
        schedule.id,
        {
            "phases": [
                {"items": [{"price": shop.pro_yearly}], "start_date": now.start_date, "end_date": now.end_date},
                {"items": [{"price": shop.basic}], "duration": {"interval": "month", "interval_count": 2}},
            ]
        },
    )

    await local.advance_test_clock(clock, at("2028-02-28T12:00:00"))

    after = await client.v1.subscriptions.retrieve_async(subscription.id, {"expand": ["latest_invoice"]})
    assert only_item(after).price.id == shop.basic
    assert only_item(after).current_period_end == at("2028-03-28T10:00:00")
    assert isinstance(after.latest_invoice, stripe.Invoice)
    assert after.latest_invoice.total == 1000


async def test_a_subscription_with_a_schedule_is_not_changed_directly(shop: Shop, client: stripe.StripeClient) -> None:
    subscription = await shop.subscribe(await shop.customer(), shop.pro)
    schedule = await scheduled_downgrade(shop, subscription)

    with pytest.raises(stripe.InvalidRequestError, match=schedule.id):
        await client.v1.subscriptions.update_async(subscription.id, {"cancel_at_period_end": True})
    released = await client.v1.subscription_schedules.release_async(schedule.id)
    cancelled = await client.v1.subscriptions.update_async(subscription.id, {"cancel_at_period_end": True})

    assert released.status == "released"
    assert cancelled.cancel_at_period_end
    assert only_item(cancelled).price.id == shop.pro


async def test_a_change_of_the_current_phase_reaches_the_subscription_at_once(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    clock = await shop.clock("2027-04-01T00:00:00")
    subscription = await shop.subscribe(await shop.customer(clock=clock))
    schedules = client.v1.subscription_schedules
    schedule = await schedules.create_async({"from_subscription": subscription.id})
    await local.advance_test_clock(clock, at("2027-04-16T00:00:00"))
    [now] = schedule.phases

    await schedules.update_async(
        schedule.id,
        {
            "proration_behavior": "always_invoice",
            "phases": [{"items": [{"price": shop.pro}], "start_date": now.start_date, "end_date": now.end_date}],
        },
    )

    changed = await client.v1.subscriptions.retrieve_async(subscription.id, {"expand": ["latest_invoice"]})
    assert only_item(changed).price.id == shop.pro
    assert isinstance(changed.latest_invoice, stripe.Invoice)
    assert [line.amount for line in changed.latest_invoice.lines.data] == [-500, 1500]


async def test_the_end_of_a_subscription_ends_its_schedule(shop: Shop, client: stripe.StripeClient) -> None:
    subscription = await shop.subscribe(await shop.customer(), shop.pro)
    schedule = await scheduled_downgrade(shop, subscription)

    await client.v1.subscriptions.cancel_async(subscription.id)

    assert (await client.v1.subscription_schedules.retrieve_async(schedule.id)).status == "canceled"
    events = await client.v1.events.list_async({"type": "subscription_schedule.*"})
    assert [event.type for event in events.data] == [
        "subscription_schedule.canceled",
        "subscription_schedule.updated",
        "subscription_schedule.created",
    ]


async def test_a_schedule_can_start_a_subscription_later_and_cancel_it(
    local: LocalStripe, shop: Shop, client: stripe.StripeClient
) -> None:
    clock = await shop.clock("2027-04-01T00:00:00")
    customer = await shop.customer(clock=clock)
    schedule = await client.v1.subscription_schedules.create_async(
        {
            "customer": customer,
            "start_date": at("2027-04-11T00:00:00"),
            "end_behavior": "cancel",
            "phases": [{"items": [{"price": shop.basic}], "duration": {"interval": "month"}}],
        }
    )

    await local.advance_test_clock(clock, at("2027-04-11T00:00:00") + DAY)
    started = await client.v1.subscription_schedules.retrieve_async(schedule.id)
    assert isinstance(started.subscription, str)
    running = await client.v1.subscriptions.retrieve_async(started.subscription)
    await local.advance_test_clock(clock, at("2027-05-12T00:00:00"))

    assert (schedule.status, started.status, running.status) == ("not_started", "active", "active")
    assert (await client.v1.subscription_schedules.retrieve_async(schedule.id)).status == "completed"
    assert (await client.v1.subscriptions.retrieve_async(running.id)).status == "canceled"
