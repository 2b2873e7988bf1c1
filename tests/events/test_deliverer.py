"""Every event reaches every endpoint that wants it, at least once, whatever fails in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest

from tallygate_server.events.deliverer import (
    ATTEMPTS_MAX,
    DISABLE_AFTER,
    DISABLE_AFTER_FAILURES_MIN,
    DISABLE_FAILURES,
    JITTER,
    LEASE,
    OF_EACH_ENDPOINT_MAX,
    PAUSE_FAILURES_MIN,
    PAUSE_FIRST,
    PAUSE_MAX,
    RETRY_DELAYS,
    Deliverer,
    pause_after,
    retry_delay,
    standing_after,
)
from tallygate_server.events.endpoints import EndpointChange
from tallygate_server.events.sending import Sent
from tallygate_server.storage.outbox import OutboxEvent
from tallygate_server.storage.webhook_endpoints import EndpointRow
from tallygate_server.telemetry import metrics
from tests.support.events import ACME, GLOBEX, EventWorld, RecordingSender, verified
from tests.support.eventually import eventually
from tests.support.scripted_http import HANG_UP, Reply, ScriptedHttp, scripted_http

REFUSED = Sent(http_status=500, error="answered with status 500")
SECOND = timedelta(seconds=1)


@pytest.fixture
async def consumer() -> AsyncIterator[ScriptedHttp]:
    """Run an endpoint of the tenant's that takes everything."""
    async with scripted_http() as running:
        running.on("POST /hook", Reply(status=204, raw=b""))
        yield running


@dataclass(slots=True)
class HeldSender:
    """Answers some addresses only when it is let."""

    slow: frozenset[str]
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    at: list[str] = field(default_factory=list)
    """Addresses of the attempts that are under way."""
    arrived: list[str] = field(default_factory=list)

    async def send(self, event: OutboxEvent, *, url: str, secrets: tuple[str, ...], now: datetime) -> Sent:  # noqa: ARG002
        """Wait at the gate, or not."""
        self.at.append(url)
        try:
            if url in self.slow:
                await self.gate.wait()
        finally:
            self.at.remove(url)
        self.arrived.append(url)
        return Sent(http_status=200)


async def test_an_event_arrives_signed_in_the_standard_format(world: EventWorld, consumer: ScriptedHttp) -> None:
    created = await world.endpoint(f"{consumer.url}/hook?key=1")
    await world.add("usage.exhausted", account_id="ann", used_quantity=2**60, limit=[1, {"deep": -(2**53) - 1}])
    await world.publisher.publish()

    assert await world.deliverer.run_due() == 1

    (asked,) = consumer.to("POST /hook")
    (event,) = await world.events()
    content = verified(asked, created.secret)
    assert content == {
        "type": "usage.exhausted",
        "timestamp": world.clock.now().isoformat().replace("+00:00", "Z"),
        "event_id": f"evt_{event.event_id}",
        "tenant_id": "acme",
        "account_id": "ann",
        "sequence": event.sequence,
        "revision": 0,
        "data": {"used_quantity": str(2**60), "limit": [1, {"deep": str(-(2**53) - 1)}]},
    }
    assert asked.headers["webhook-id"] == f"evt_{event.event_id}"
    assert asked.headers["webhook-timestamp"] == str(int(world.clock.now().timestamp()))
    assert asked.headers["host"] == f"127.0.0.1:{consumer.port}"
    assert asked.headers["content-type"] == "application/json"
    (delivery,) = await world.deliveries()
    assert (delivery["state"], delivery["attempt_count"], delivery["http_status"]) == ("delivered", 1, 204)
    assert delivery["end_time"] == world.clock.now()
    assert (await world.endpoint_row(created.endpoint.endpoint_id))["success_time"] == world.clock.now()


async def test_each_endpoint_gets_what_it_wants_and_nothing_of_other_tenants(world: EventWorld) -> None:
    await world.endpoint("http://127.0.0.1:9/one")
    await world.endpoint("http://127.0.0.1:9/two", "subscription.*", "usage.exhausted")
    await world.endpoint("http://127.0.0.1:9/three", tenant_id=GLOBEX)
    off = await world.endpoint("http://127.0.0.1:9/four")
    await world.endpoints.update(ACME, off.endpoint.endpoint_id, EndpointChange(disabled=True), actor="test")
    for event_type in ("subscription.created", "usage.threshold_crossed", "usage.exhausted"):
        await world.add(event_type)
    await world.publisher.publish()
    sender = RecordingSender()

    await world.another_deliverer(sender).run_due()

    events = {event.event_type: event.event_id for event in await world.events()}
    assert sorted(sender.sent) == sorted(
        [("http://127.0.0.1:9/one", event_id) for event_id in events.values()]
        + [("http://127.0.0.1:9/two", events[name]) for name in ("subscription.created", "usage.exhausted")]
    )


async def test_a_failed_delivery_is_attempted_again_later_and_later_and_then_has_failed(world: EventWorld) -> None:
    created = await world.endpoint("http://127.0.0.1:9/one")
    await world.publish(1)
    sender = RecordingSender(lambda _event, _url: REFUSED)
    deliverer = world.another_deliverer(sender)
    began = world.clock.now()
    for attempt, delay in enumerate(RETRY_DELAYS, start=1):
        assert await deliverer.run_due() == 1
        (delivery,) = await world.deliveries()
        assert (delivery["state"], delivery["attempt_count"]) == ("pending", attempt)
        assert delivery["next_attempt_time"] == world.clock.now() + delay
        assert (delivery["http_status"], delivery["error"]) == (500, "answered with status 500")
        world.clock.advance(delay - SECOND)
        assert await deliverer.run_due() == 0
        world.clock.advance(SECOND)

    assert await deliverer.run_due() == 1
    (delivery,) = await world.deliveries()
    assert (delivery["state"], delivery["attempt_count"]) == ("failed", ATTEMPTS_MAX)
    assert delivery["end_time"] == world.clock.now()
    assert timedelta(days=3) <= world.clock.now() - began <= timedelta(days=3, hours=6)
    assert (await world.endpoint_row(created.endpoint.endpoint_id))["failure_count"] == ATTEMPTS_MAX


async def test_an_endpoint_that_comes_back_has_not_failed_any_more(world: EventWorld) -> None:
    created = await world.endpoint("http://127.0.0.1:9/one")
    await world.publish(1)
    answers = [REFUSED, Sent(error="no answer within 15 seconds"), Sent(http_status=200)]
    deliverer = world.another_deliverer(RecordingSender(lambda _event, _url: answers.pop(0)))
    while answers:
        await deliverer.run_due()
        world.clock.advance(timedelta(hours=1))

    (delivery,) = await world.deliveries()
    assert (delivery["state"], delivery["attempt_count"], delivery["error"]) == ("delivered", 3, "")
    row = await world.endpoint_row(created.endpoint.endpoint_id)
    assert (row["failure_count"], row["failing_since_time"], row["retry_time"]) == (0, None, None)


async def test_every_attempt_has_the_same_id_and_body(world: EventWorld, consumer: ScriptedHttp) -> None:
    created = await world.endpoint(f"{consumer.url}/hook")
    consumer.on("POST /hook", HANG_UP, Reply(status=301, headers={"location": "/elsewhere"}), Reply(status=200))
    await world.publish(1)
    for _ in range(3):
        await world.deliverer.run_due()
        world.clock.advance(timedelta(minutes=6))

    asked = consumer.to("POST /hook")
    assert len(asked) == 3
    assert len({each.headers["webhook-id"] for each in asked}) == 1
    assert len({each.body for each in asked}) == 1
    assert not consumer.to("GET /elsewhere")
    verified(asked[0], created.secret)
    (delivery,) = await world.deliveries()
    assert delivery["state"] == "delivered"


async def test_one_whose_server_died_in_the_middle_is_taken_over_when_the_lease_ends(world: EventWorld) -> None:
    await world.endpoint("http://127.0.0.1:9/one")
    await world.publish(1)
    dying = world.another_deliverer(RecordingSender())
    (lost,) = await dying._claim(10, failing=False)
    sender = RecordingSender()
    other = world.another_deliverer(sender)

    assert await other.run_due() == 0
    world.clock.advance(LEASE)
    assert await other.run_due() == 1

    assert len(sender.sent) == 1
    # The one who was thought dead comes too late to write anything down.
    await dying._end(lost, REFUSED, final=False)
    (delivery,) = await world.deliveries()
    assert (delivery["state"], delivery["attempt_count"]) == ("delivered", 2)


async def test_one_that_kills_every_server_has_failed_in_the_end(world: EventWorld) -> None:
    await world.endpoint("http://127.0.0.1:9/one")
    await world.publish(1)
    sender = RecordingSender()
    deliverer = world.another_deliverer(sender)
    for _ in range(ATTEMPTS_MAX):
        assert len(await deliverer._claim(10, failing=False)) == 1
        world.clock.advance(LEASE)

    await deliverer.run_due()

    assert sender.sent == []
    (delivery,) = await world.deliveries()
    assert (delivery["state"], delivery["error"]) == ("failed", "none of its attempts came to an end")


async def test_a_deliverer_that_is_closed_gives_back_what_is_under_way(world: EventWorld) -> None:
    await world.endpoint("http://127.0.0.1:9/slow")
    await world.publish(1)
    sender = HeldSender(frozenset({"http://127.0.0.1:9/slow"}))
    deliverer = world.another_deliverer(sender)
    await deliverer.start()
    await eventually(lambda: sender.at)
    await deliverer.close()

    (delivery,) = await world.deliveries()
    assert (delivery["state"], delivery["attempt_count"]) == ("pending", 0)
    other = RecordingSender()
    assert await world.another_deliverer(other).run_due() == 1


async def test_endpoints_that_hang_delay_nobody_else(world: EventWorld) -> None:
    slow = [f"http://127.0.0.1:9/slow-{number}" for number in range(3)]
    for url in (*slow, "http://127.0.0.1:9/quick"):
        await world.endpoint(url)
    await world.publish(10)
    sender = HeldSender(frozenset(slow))
    deliverer = world.another_deliverer(sender, concurrency=len(slow) * OF_EACH_ENDPOINT_MAX + 1)
    await deliverer.start()
    try:
        await eventually(lambda: sender.arrived.count("http://127.0.0.1:9/quick") == 10)
        assert all(1 <= sender.at.count(url) <= OF_EACH_ENDPOINT_MAX for url in slow)
        sender.gate.set()
        deliverer.wake()
        await eventually(lambda: len(sender.arrived) == 40)
    finally:
        sender.gate.set()
        await deliverer.close()


async def test_endpoints_that_fail_have_one_attempt_each_and_half_of_the_places(world: EventWorld) -> None:
    urls = [f"http://127.0.0.1:9/failing-{number}" for number in range(6)]
    endpoints = [await world.endpoint(url) for url in urls]
    await world.endpoint("http://127.0.0.1:9/well")
    await world.publish(3)
    for created in endpoints:
        async with world.outbox_database.plain_transaction() as connection:
            await connection.exec_driver_sql(
                "UPDATE webhook_endpoints SET failure_count = 1 WHERE endpoint_id = $1", (created.endpoint.endpoint_id,)
            )
    sender = HeldSender(frozenset(urls))
    deliverer = world.another_deliverer(sender, concurrency=8)
    await deliverer.start()
    try:
        await eventually(lambda: sender.arrived.count("http://127.0.0.1:9/well") == 3)
        await eventually(lambda: len(sender.at) == 4)
        assert len(set(sender.at)) == 4
        sender.gate.set()
        deliverer.wake()
        await eventually(lambda: len(sender.arrived) == 7 * 3)
    finally:
        sender.gate.set()
        await deliverer.close()


async def test_two_deliverers_share_the_work_and_send_nothing_twice(world: EventWorld) -> None:
    for number in range(4):
        await world.endpoint(f"http://127.0.0.1:9/{number}")
    await world.publish(50)
    sender = RecordingSender()
    deliverers = [world.another_deliverer(sender) for _ in range(2)]
    for deliverer in deliverers:
        await deliverer.start()
    try:
        await eventually(lambda: len(sender.sent) >= 200)
        for deliverer in deliverers:
            await deliverer.close()
    finally:
        for deliverer in deliverers:
            await deliverer.close()

    assert len(sender.sent) == len(set(sender.sent)) == 200


async def test_an_endpoint_that_is_gone_is_disabled_at_once_and_that_is_an_event(world: EventWorld) -> None:
    created = await world.endpoint("http://127.0.0.1:9/gone")
    disabled = metrics.endpoints_disabled.value()
    await world.publish(2)
    deliverer = world.another_deliverer(RecordingSender(lambda _event, _url: Sent(http_status=410, error="gone")))
    await deliverer.run_due()
    await world.publisher.publish()

    row = await world.endpoint_row(created.endpoint.endpoint_id)
    assert row["disabled"]
    assert "410" in row["disable_reason"]
    assert metrics.endpoints_disabled.value() == disabled + 1
    told = (await world.events())[-1]
    assert told.event_type == "endpoint.disabled"
    assert told.payload["endpoint_id"] == created.endpoint.endpoint_id
    # Nothing is sent to it any more, and what happens now is not for it.
    await world.publish(1)
    world.clock.advance(timedelta(days=1))
    assert await deliverer.run_due() == 0


async def test_an_endpoint_that_is_enabled_again_gets_what_waits_at_once(world: EventWorld) -> None:
    created = await world.endpoint("http://127.0.0.1:9/one")
    await world.publish(1)
    await world.another_deliverer(RecordingSender(lambda _event, _url: REFUSED)).run_due()
    endpoint_id = created.endpoint.endpoint_id
    await world.endpoints.update(ACME, endpoint_id, EndpointChange(disabled=True), actor="ann")
    world.clock.advance(timedelta(hours=1))
    sender = RecordingSender()
    deliverer = world.another_deliverer(sender)
    assert await deliverer.run_due() == 0

    enabled = await world.endpoints.update(ACME, endpoint_id, EndpointChange(disabled=False), actor="ann")

    assert (enabled.disabled, enabled.disable_reason, enabled.failure_count) == (False, "", 0)
    assert await deliverer.run_due() == 1


async def test_a_deleted_endpoint_gets_nothing_any_more(world: EventWorld) -> None:
    created = await world.endpoint("http://127.0.0.1:9/one")
    await world.publish(2)
    deliverer = world.another_deliverer(RecordingSender())
    claimed = await deliverer._claim(1, failing=False)
    await world.endpoints.delete(ACME, created.endpoint.endpoint_id, actor="test")

    await deliverer._attempt(claimed[0])
    assert await deliverer.run_due() == 0
    assert await world.deliveries() == []


async def test_the_started_parts_deliver_by_themselves(world: EventWorld, consumer: ScriptedHttp) -> None:
    created = await world.endpoint(f"{consumer.url}/hook")
    await world.publisher.start()
    await world.deliverer.start()
    await world.add()

    (asked,) = await eventually(lambda: consumer.to("POST /hook"))
    verified(asked, created.secret)


def _endpoint(**changes: Any) -> EndpointRow:
    now = datetime.fromisoformat("2026-03-15T12:00:00+00:00")
    values: dict[str, Any] = {
        "tenant_id": ACME,
        "endpoint_id": "we_1",
        "url": "https://one.example/",
        "event_types": (),
        "description": "",
        "secret": "none",
        "create_time": now,
        "update_time": now,
    }
    return EndpointRow(**values | changes)


NOW = datetime.fromisoformat("2026-03-20T12:00:00+00:00")


@pytest.mark.parametrize(
    ("failures_before", "failing_for", "disabled"),
    [
        (DISABLE_FAILURES - 2, timedelta(0), False),
        (DISABLE_FAILURES - 1, timedelta(0), True),
        (DISABLE_AFTER_FAILURES_MIN - 1, DISABLE_AFTER, True),
        (DISABLE_AFTER_FAILURES_MIN - 2, DISABLE_AFTER, False),
        (DISABLE_AFTER_FAILURES_MIN - 1, DISABLE_AFTER - SECOND, False),
    ],
)
def test_an_endpoint_is_disabled_after_so_many_failures_or_so_long(
    failures_before: int,
    failing_for: timedelta,
    disabled: bool,  # noqa: FBT001
) -> None:
    endpoint = _endpoint(failure_count=failures_before, failing_since_time=NOW - failing_for)

    standing = standing_after(endpoint, REFUSED, now=NOW)

    assert bool(standing.disable_reason) is disabled
    assert standing.values.get("disabled", False) is disabled
    assert standing.values["failure_count"] == failures_before + 1


def test_an_endpoint_that_fails_on_is_left_alone_for_longer_and_longer() -> None:
    assert pause_after(PAUSE_FAILURES_MIN - 1) is None
    assert pause_after(PAUSE_FAILURES_MIN) == PAUSE_FIRST
    assert pause_after(PAUSE_FAILURES_MIN + 1) == 2 * PAUSE_FIRST
    assert pause_after(10_000) == PAUSE_MAX


def test_chance_makes_a_pause_longer_or_shorter_by_a_tenth() -> None:
    assert retry_delay(2, chance=0.5) == RETRY_DELAYS[1]
    assert retry_delay(2, chance=0.0) == RETRY_DELAYS[1] * (1 - JITTER)
    assert retry_delay(2, chance=1.0) == RETRY_DELAYS[1] * (1 + JITTER)


async def test_an_endpoint_in_a_pause_is_not_attempted(world: EventWorld) -> None:
    created = await world.endpoint("http://127.0.0.1:9/one")
    await world.publish(PAUSE_FAILURES_MIN + 3)
    sender = RecordingSender(lambda _event, _url: REFUSED)
    deliverer: Deliverer = world.another_deliverer(sender)

    await deliverer.run_due()

    failures = (await world.endpoint_row(created.endpoint.endpoint_id))["failure_count"]
    assert failures == PAUSE_FAILURES_MIN
    world.clock.advance(PAUSE_FIRST)
    assert await deliverer.run_due() == 1
