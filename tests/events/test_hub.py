"""Watchers are told every event once, in order, and hold no more than their share of memory."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import pytest

from tallygate_server.domain.identifier import TenantId
from tallygate_server.errors import Overloaded, ResumePointLost, StoreUnavailable, TenantNotFound, WatcherTooSlow
from tallygate_server.events.hub import PAGE_MAX, EventHub
from tallygate_server.events.publisher import RETENTION
from tallygate_server.storage.outbox import EventFilter, OutboxEvent
from tests.support.events import ACME, ALL, GLOBEX, EventWorld, first_events
from tests.support.eventually import eventually


def numbers(events: list[OutboxEvent]) -> list[int]:
    return [event.payload["number"] for event in events]


async def attached(hub: EventHub, tenant_id: TenantId = ACME) -> None:
    """Wait until somebody is told the news of the tenant."""
    await eventually(lambda: tenant_id in hub._watchers)


async def test_a_watcher_from_now_is_told_what_happens_afterwards(world: EventWorld) -> None:
    await world.publish(2)
    reading = asyncio.ensure_future(first_events(world.hub.watch(ACME, ALL, after_sequence=None), 3))
    await attached(world.hub)

    await world.publish(3)
    world.hub.wake()

    assert numbers(await reading) == [0, 1, 2]


async def test_a_watcher_from_the_beginning_is_told_everything(world: EventWorld) -> None:
    await world.publish(PAGE_MAX + 5)

    events = await first_events(world.hub.watch(ACME, ALL, after_sequence=0), PAGE_MAX + 5)

    assert numbers(events) == list(range(PAGE_MAX + 5))


async def test_a_watch_is_resumed_after_any_event(world: EventWorld) -> None:
    await world.publish(5)
    events = await world.events()
    for index, event in enumerate(events[:-1]):
        resumed = await first_events(world.hub.watch(ACME, ALL, after_sequence=event.sequence), 4 - index)
        assert resumed == events[index + 1 :]


async def test_catching_up_and_the_news_meet_without_gap_or_double(world: EventWorld) -> None:
    """However the publication of events and the attachment of watchers fall together."""
    count = 400
    watches = []
    for number in range(count):
        await world.add(number=number)
        if number % 7 == 0:
            await world.publisher.publish()
            world.hub.wake()
        if number % 25 == 0:
            watch = world.hub.watch(ACME, ALL, after_sequence=0)
            watches.append(asyncio.ensure_future(first_events(watch, count)))
    await world.publisher.publish()
    world.hub.wake()

    for events in await asyncio.gather(*watches):
        assert numbers(events) == list(range(count))
        sequences = [event.sequence for event in events]
        assert sequences == sorted(set(sequences))


async def test_watchers_are_told_what_they_asked_for(world: EventWorld) -> None:
    wanted = EventFilter(account_id="ann", event_types=("subscription.*", "usage.exhausted"))
    live = asyncio.ensure_future(first_events(world.hub.watch(ACME, wanted, after_sequence=None), 2))
    await attached(world.hub)
    for number, (event_type, account_id, tenant_id) in enumerate(
        [
            ("subscription.created", "ann", ACME),
            ("subscription.created", "bob", ACME),
            ("usage.threshold_crossed", "ann", ACME),
            ("subscription.created", "ann", GLOBEX),
            ("usage.exhausted", "ann", ACME),
        ]
    ):
        await world.add(event_type, account_id=account_id, tenant_id=tenant_id, number=number)
    await world.publisher.publish()
    world.hub.wake()

    assert numbers(await live) == [0, 4]
    assert numbers(await first_events(world.hub.watch(ACME, wanted, after_sequence=0), 2)) == [0, 4]


async def test_a_watcher_of_another_tenant_misses_nothing_while_it_attaches(world: EventWorld) -> None:
    first = asyncio.ensure_future(first_events(world.hub.watch(ACME, ALL, after_sequence=None), 50))
    await attached(world.hub)
    second: asyncio.Future[list[OutboxEvent]] | None = None
    for number in range(50):
        await world.add(number=number)
        await world.add(number=number, tenant_id=GLOBEX)
        await world.publisher.publish()
        world.hub.wake()
        if number == 10:
            second = asyncio.ensure_future(first_events(world.hub.watch(GLOBEX, ALL, after_sequence=0), 50))
    world.hub.wake()

    assert second is not None
    assert numbers(await first) == list(range(50))
    assert numbers(await second) == list(range(50))


async def test_silence_is_broken_by_signs_of_life(world: EventWorld) -> None:
    hub = EventHub(world.database, world.outbox_database, tenants=world.tenants, heartbeat_seconds=0.01)
    await hub.start()
    try:
        async with aclosing(hub.watch(ACME, ALL, after_sequence=None)) as watch:
            assert await anext(watch) is None
            assert await anext(watch) is None
    finally:
        await hub.close()


async def held(world: EventWorld, buffer_max: int, count: int) -> tuple[EventHub, Any]:
    """Return a hub, and a watch that has read one event and lets `count` more come together."""
    hub = EventHub(world.database, world.outbox_database, tenants=world.tenants, buffer_max=buffer_max)
    await hub.start()
    watch = hub.watch(ACME, ALL, after_sequence=None)
    reading = asyncio.ensure_future(anext(watch))
    await attached(hub)
    await world.publish(1)
    hub.wake()
    await reading
    await world.publish(count)
    last = (await world.events())[-1].sequence
    hub.wake()
    await eventually(lambda: hub._position >= last)
    return hub, watch


async def test_a_watcher_may_be_behind_by_as_much_as_the_buffer(world: EventWorld) -> None:
    hub, watch = await held(world, 10, 10)
    try:
        assert numbers(await first_events(watch, 10)) == list(range(10))
    finally:
        await hub.close()


async def test_one_who_is_further_behind_is_told_so_and_nothing_is_held_any_more(world: EventWorld) -> None:
    hub, watch = await held(world, 10, 11)
    try:
        assert not hub._watchers
        with pytest.raises(WatcherTooSlow) as slow:
            await anext(watch)
        first = (await world.events())[0]
        assert slow.value.facts == {"sequence": str(first.sequence)}
        assert hub.watcher_count == 0
        resumed = await first_events(hub.watch(ACME, ALL, after_sequence=first.sequence), 11)
        assert numbers(resumed) == list(range(11))
    finally:
        await hub.close()


async def test_a_sequence_that_is_no_longer_kept_is_lost(world: EventWorld) -> None:
    await world.publish(3)
    old = await world.events()
    world.clock.advance(RETENTION + timedelta(seconds=1))
    await world.publish(2)
    assert await world.publisher.forget() == {"events_forgotten": 3}
    kept = await world.events()

    with pytest.raises(ResumePointLost) as lost:
        await anext(world.hub.watch(ACME, ALL, after_sequence=old[0].sequence))
    assert lost.value.facts["oldest"] == str(kept[0].sequence)
    # Nothing is missing after the newest one that is gone.
    assert await first_events(world.hub.watch(ACME, ALL, after_sequence=old[-1].sequence), 2) == kept
    assert await first_events(world.hub.watch(ACME, ALL, after_sequence=0), 2) == kept


async def test_a_sequence_that_was_never_given_is_lost_too(world: EventWorld) -> None:
    await world.publish(1)
    (event,) = await world.events()

    with pytest.raises(ResumePointLost):
        await anext(world.hub.watch(ACME, ALL, after_sequence=event.sequence + 1))


async def test_watches_are_as_many_as_the_bound(world: EventWorld) -> None:
    hub = EventHub(world.database, world.outbox_database, tenants=world.tenants, watchers_max=2)
    await hub.start()
    readings = [asyncio.ensure_future(anext(hub.watch(ACME, ALL, after_sequence=None))) for _ in range(2)]
    try:
        await eventually(lambda: hub.watcher_count == 2)
        with pytest.raises(Overloaded):
            await anext(hub.watch(ACME, ALL, after_sequence=None))
    finally:
        for reading in readings:
            reading.cancel()
        await asyncio.gather(*readings, return_exceptions=True)
        await hub.close()


async def test_the_end_of_all_watches_ends_those_who_wait_and_refuses_new_ones(world: EventWorld) -> None:
    hub = EventHub(world.database, world.outbox_database, tenants=world.tenants)
    await hub.start()
    try:
        reading = asyncio.ensure_future(anext(hub.watch(ACME, ALL, after_sequence=None)))
        await attached(hub)
        hub.end(StoreUnavailable("draining"))

        with pytest.raises(StoreUnavailable):
            await reading
        with pytest.raises(StoreUnavailable):
            await anext(hub.watch(ACME, ALL, after_sequence=None))
        assert hub.watcher_count == 0
    finally:
        await hub.close()


async def test_the_events_of_an_unknown_tenant_cannot_be_watched(world: EventWorld) -> None:
    with pytest.raises(TenantNotFound):
        await anext(world.hub.watch(TenantId("nobody"), ALL, after_sequence=None))
