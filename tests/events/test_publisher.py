"""Events get places in one order, whatever the order of their commits and however many servers publish."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from tallygate_server.domain.event_types import PUBLIC_EVENTS, PUBLIC_TYPES
from tallygate_server.events.publisher import BATCH_MAX, RETENTION, Publisher
from tallygate_server.storage import outbox
from tallygate_server.storage.outbox import EventFilter
from tallygate_server.telemetry import metrics
from tests.support.events import ACME, ALL, GLOBEX, EventWorld, first_events
from tests.support.eventually import eventually


async def test_an_event_is_shown_once_it_is_published(world: EventWorld) -> None:
    await world.add(used_quantity=80)
    assert await world.events() == []

    assert await world.publisher.publish() == 1
    assert await world.publisher.publish() == 0

    (event,) = await world.events()
    assert (event.event_type, event.account_id, event.payload) == (
        "usage.threshold_crossed",
        "ann",
        {"used_quantity": 80},
    )
    assert event.create_time == world.clock.now()
    assert event.sequence > 0


async def test_sequences_rise_in_the_order_of_publication_not_of_writing(world: EventWorld) -> None:
    async with world.database.tenant_transaction(ACME) as slow:
        await world.add_in(slow, number=1)
        await world.add(number=2)
        await world.publisher.publish()
        assert [event.payload["number"] for event in await world.events()] == [2]
    await world.publisher.publish()

    events = await world.events()
    assert [event.payload["number"] for event in events] == [2, 1]
    assert events[0].event_id > events[1].event_id


async def test_an_event_that_was_committed_late_is_not_missed_by_a_watcher(world: EventWorld) -> None:
    watch = world.hub.watch(ACME, ALL, after_sequence=0)
    reading = asyncio.ensure_future(first_events(watch, 3))
    async with world.database.tenant_transaction(ACME) as slow:
        await world.add_in(slow, number=1)
        await world.add(number=2)
        await world.publisher.publish()
        world.hub.wake()
        await world.add(number=3)
        await world.publisher.publish()
        world.hub.wake()
        await asyncio.sleep(0)
    await world.publisher.publish()
    world.hub.wake()

    assert [event.payload["number"] for event in await reading] == [2, 3, 1]


async def test_two_publishers_at_once_give_every_event_one_place(world: EventWorld) -> None:
    count = 300
    others = [Publisher(world.outbox_database, clock=world.clock) for _ in range(2)]

    async def write(first: int) -> None:
        for number in range(first, count, 3):
            await world.add(number=number)

    async def publish(publisher: Publisher) -> None:
        for _ in range(30):
            await publisher.publish()

    async with asyncio.TaskGroup() as group:
        for first in range(3):
            group.create_task(write(first))
        for publisher in others:
            group.create_task(publish(publisher))
    await others[0].publish()

    events = await world.events()
    assert sorted(event.payload["number"] for event in events) == list(range(count))
    assert len({event.sequence for event in events}) == count


async def test_while_one_publishes_another_passes_on(world: EventWorld) -> None:
    await world.add()
    async with world.outbox_database.plain_transaction() as connection:
        assert await outbox.take_position(connection) is not None
        assert await world.publisher.publish() == 0

    assert await world.publisher.publish() == 1


@pytest.mark.parametrize("count", [BATCH_MAX, BATCH_MAX + 1])
async def test_more_than_a_batch_is_published_in_several(world: EventWorld, count: int) -> None:
    async with world.database.tenant_transaction(ACME) as connection:
        for number in range(count):
            await world.add_in(connection, number=number)

    assert await world.publisher.publish() == count
    assert [event.payload["number"] for event in (await world.events())[-BATCH_MAX:]] == list(
        range(count - BATCH_MAX, count)
    )


@pytest.mark.parametrize(
    ("inside", "outside", "change"),
    [
        ("catalog.changed", "catalog.applied", None),
        ("subscription.changed", "subscription.updated", "changed"),
        ("subscription.renewed", "subscription.updated", "renewed"),
        ("subscription.trial_will_end", "subscription.trial_ending", None),
        ("account.suspend", "account.suspended", None),
        ("grant.expiring", "grant.expiring", None),
    ],
)
async def test_tenants_know_events_by_their_public_types(
    world: EventWorld, inside: str, outside: str, change: str | None
) -> None:
    await world.publish(1, inside)

    (event,) = await world.events()
    assert (event.event_type, event.payload.get("change")) == (outside, change)


async def test_an_event_of_a_type_for_ourselves_is_never_shown(world: EventWorld) -> None:
    internal = metrics.events_published.value("internal")
    await world.publish(1, "something.inside")

    assert await world.events() == []
    assert metrics.events_published.value("internal") == internal + 1
    assert await world.publisher.publish() == 0


def test_every_public_type_has_the_form_that_filters_take() -> None:
    for inside, public in PUBLIC_EVENTS.items():
        group, _, name = public.type.partition(".")
        assert group.replace("_", "").isalpha()
        assert name.replace("_", "").isalpha(), inside
    assert {"usage.exhausted", "grant.created", "job.failed", "account.erased"} <= PUBLIC_TYPES


async def test_a_tenant_sees_its_own_events_only(world: EventWorld) -> None:
    await world.add(number=1)
    await world.add(number=2, tenant_id=GLOBEX)
    await world.publisher.publish()

    assert [event.payload["number"] for event in await world.events(ACME)] == [1]
    assert [event.payload["number"] for event in await world.events(GLOBEX)] == [2]


async def test_lists_are_filtered_by_account_type_and_time(world: EventWorld) -> None:
    await world.add("usage.exhausted", account_id="ann", number=1)
    world.clock.advance(timedelta(hours=1))
    await world.add("subscription.created", account_id="bob", number=2)
    await world.add("subscription.past_due", account_id="ann", number=3)
    await world.publisher.publish()

    async def numbers(wanted: EventFilter) -> list[int]:
        return [event.payload["number"] for event in await world.events(ACME, wanted)]

    assert await numbers(EventFilter(account_id="ann")) == [1, 3]
    assert await numbers(EventFilter(event_types=("subscription.*",))) == [2, 3]
    assert await numbers(EventFilter(event_types=("usage.exhausted", "subscription.created"))) == [1, 2]
    late = await world.log.list(ACME, ALL, start_time=world.clock.now(), end_time=None, before_sequence=None, limit=10)
    early = await world.log.list(ACME, ALL, start_time=None, end_time=world.clock.now(), before_sequence=None, limit=10)
    assert [event.payload["number"] for event in late] == [3, 2]
    assert [event.payload["number"] for event in early] == [1]


async def test_events_and_deliveries_are_kept_for_35_days_and_no_longer(world: EventWorld) -> None:
    await world.endpoint("http://127.0.0.1:1/hook")
    await world.publish(2)
    world.clock.advance(RETENTION)
    assert await world.publisher.forget() == {}

    world.clock.advance(timedelta(microseconds=1))
    await world.publish(1)
    world.clock.advance(timedelta(hours=1))

    assert await world.publisher.forget() == {"deliveries_forgotten": 2, "events_forgotten": 2}
    assert len(await world.events()) == 1
    assert len(await world.deliveries()) == 1


async def test_the_started_publisher_publishes_by_itself(world: EventWorld) -> None:
    await world.publisher.start()
    await world.add()

    assert await eventually(world.events)
