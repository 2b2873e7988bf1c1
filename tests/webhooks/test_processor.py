"""Every stored webhook is processed until it is done, whatever breaks off in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest
import structlog

from tallygate_server.errors import BillingProviderUnavailable, NotFound
from tallygate_server.storage import webhook_events as rows
from tallygate_server.storage.engine import DatabaseRole, connect
from tallygate_server.storage.webhook_events import CHANNEL
from tallygate_server.telemetry import metrics
from tallygate_server.webhooks.events import Handled, StoredEvent, WebhookEventState, WebhookSource
from tallygate_server.webhooks.processor import ERROR_LENGTH_MAX, Attempts, error_text
from tests.support.eventually import eventually
from tests.support.webhooks import (
    CrashingHandler,
    RecordingHandler,
    WebhookWorld,
    stripe_event,
    webhook_world,
)

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
PATIENCE_S = 30.0


def always_fail(_event: StoredEvent) -> Exception | None:
    return ValueError("a-text-that-nobody-may-log")


@dataclass(slots=True)
class HeldHandler:
    """Handles when it is let; tells how many it is at."""

    known_types: frozenset[str] = frozenset({"invoice.paid"})
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    begun: list[str] = field(default_factory=list)
    at_once: int = 0
    at_once_max: int = 0

    async def handle(self, event: StoredEvent) -> Handled:
        """Wait at the gate."""
        self.begun.append(event.event_id)
        self.at_once += 1
        self.at_once_max = max(self.at_once_max, self.at_once)
        try:
            await self.gate.wait()
        finally:
            self.at_once -= 1
        return Handled()


@pytest.fixture
async def handler() -> RecordingHandler:
    return RecordingHandler(about=Handled(tenant_id="acme", account_id="ann"))


@pytest.fixture
async def world(empty_webhooks: str, handler: RecordingHandler) -> AsyncIterator[WebhookWorld]:
    async with webhook_world(empty_webhooks, handler=handler) as running:
        yield running


async def test_what_came_in_is_handled_once_with_all_that_is_known_of_it(
    world: WebhookWorld, handler: RecordingHandler
) -> None:
    payload = stripe_event()
    await world.take(payload)
    world.clock.advance(2 * SECOND)
    counted = metrics.webhooks_processed.value("stripe", "processed")

    assert await world.processor.run_due() == 1
    assert await world.processor.run_due() == 0

    (event,) = handler.handled
    row = await world.row()
    assert (event.source, event.event_id, event.event_type, event.attempt) == (
        WebhookSource.STRIPE, "evt_1", "invoice.paid", 1,
    )  # fmt: skip
    assert event.payload == payload
    assert event.content()["data"]["object"]["id"] == "in_1"
    assert (row["state"], row["tenant_id"], row["account_id"]) == ("processed", "acme", "ann")
    assert (row["process_time"], row["next_attempt_time"], row["error"]) == (world.clock.now(), None, "")
    assert metrics.webhooks_processed.value("stripe", "processed") == counted + 1


async def test_a_failed_attempt_is_repeated_later_and_later_up_to_an_hour(
    world: WebhookWorld, handler: RecordingHandler
) -> None:
    handler.fail = always_fail
    await world.take()
    delays = []

    while (await world.processor.run_due()) == 1 and (row := await world.row())["state"] == "retrying":
        delays.append((row["next_attempt_time"] - world.clock.now()) / SECOND)
        world.clock.set(row["next_attempt_time"] - SECOND / 1_000)
        assert await world.processor.run_due() == 0
        world.clock.set(row["next_attempt_time"])

    assert delays == [1, 4, 16, 64, 256, 1024, 3600, 3600, 3600, 3600, 3600]
    assert handler.attempts == [("evt_1", attempt) for attempt in range(1, 13)]


@pytest.mark.parametrize("attempt", [1, 2, 5, 12, 100, 1_000_000])
def test_chance_takes_up_to_a_quarter_off_a_delay(attempt: int) -> None:
    plan = Attempts()
    longest, shortest = plan.delay_after(attempt, chance=0.0), plan.delay_after(attempt, chance=1.0)

    assert longest <= HOUR
    assert shortest == longest * 0.75


async def test_what_failed_too_often_is_dead_and_left_alone(world: WebhookWorld, handler: RecordingHandler) -> None:
    handler.fail = always_fail
    await world.take()
    counted = metrics.webhooks_processed.value("stripe", "dead")

    with structlog.testing.capture_logs() as lines:
        for _ in range(20):
            await world.processor.run_due()
            world.clock.advance(HOUR)

    row = await world.row()
    assert (row["state"], row["attempt_count"], row["next_attempt_time"]) == ("dead", 12, None)
    assert row["error"] == "ValueError"
    assert metrics.webhooks_processed.value("stripe", "dead") == counted + 1
    assert [line["event"] for line in lines].count("webhook_dead") == 1
    assert "nobody-may-log" not in str(lines)


async def test_a_later_success_ends_it_and_clears_the_error(world: WebhookWorld, handler: RecordingHandler) -> None:
    handler.fail = lambda event: BillingProviderUnavailable("stripe", "no answer") if event.attempt < 3 else None
    await world.take()
    await world.processor.run_due()
    assert "stripe does not answer just now" in (await world.row())["error"]

    for _ in range(2):
        world.clock.advance(HOUR)
        await world.processor.run_due()

    row = await world.row()
    assert (row["state"], row["attempt_count"], row["error"]) == ("processed", 3, "")


def test_of_foreign_errors_only_the_type_is_kept() -> None:
    assert error_text(KeyError("a-text-that-nobody-may-log")) == "KeyError"
    assert error_text(NotFound("thing", "x", field="f")) == "NotFound: f: there is no thing 'x'"
    assert len(error_text(NotFound("thing", "x" * 9_999 + "\0", field="f"))) == ERROR_LENGTH_MAX
    assert "\0" not in error_text(BillingProviderUnavailable("stripe", "\0\udfff"))


async def test_an_attempt_that_takes_too_long_is_broken_off(empty_webhooks: str) -> None:
    held = HeldHandler()
    async with webhook_world(empty_webhooks, handler=held, attempts=Attempts(seconds_max=0.01)) as world:
        await world.take()

        await world.processor.run_due()

        row = await world.row()
        assert (row["state"], row["error"], held.at_once) == ("retrying", "TimeoutError", 0)


async def test_an_event_whose_worker_died_is_taken_again_when_its_lease_ends(
    world: WebhookWorld, handler: RecordingHandler
) -> None:
    await world.take()
    now = world.clock.now()
    async with world.database.plain_transaction() as connection:
        # As far as a worker that is killed while it handles the event gets.
        (lost,) = await rows.claim(
            connection, [WebhookSource.STRIPE], now=now, lease_end=now + timedelta(seconds=60), limit=10
        )
    assert lost.attempt == 1

    world.clock.advance(timedelta(seconds=59))
    assert await world.processor.run_due() == 0
    world.clock.advance(SECOND)
    assert await world.processor.run_due() == 1

    assert handler.attempts == [("evt_1", 2)]
    assert (await world.row())["state"] == "processed"


async def test_an_event_that_kills_its_workers_is_dead_in_the_end(
    world: WebhookWorld, handler: RecordingHandler
) -> None:
    await world.take()
    for _ in range(12):
        async with world.database.plain_transaction() as connection:
            now = world.clock.now()
            await rows.claim(connection, [WebhookSource.STRIPE], now=now, lease_end=now + SECOND, limit=10)
        world.clock.advance(SECOND)

    await world.processor.run_due()

    row = await world.row()
    assert handler.handled == []
    assert (row["state"], row["error"]) == ("dead", "none of its attempts came to an end")


async def test_whoever_outlived_its_lease_no_longer_decides(world: WebhookWorld, handler: RecordingHandler) -> None:
    await world.take()
    async with world.database.plain_transaction() as connection:
        now = world.clock.now()
        (slow,) = await rows.claim(connection, [WebhookSource.STRIPE], now=now, lease_end=now + SECOND, limit=10)
    world.clock.advance(SECOND)
    await world.processor.run_due()

    async with world.database.plain_transaction() as connection:
        late = await rows.finish(connection, slow, state=WebhookEventState.DEAD, error="late")
        await rows.release(connection, slow, now=now)

    row = await world.row()
    assert late is False
    assert (row["state"], row["error"], row["next_attempt_time"]) == ("processed", "", None)


async def test_what_breaks_off_every_third_time_is_processed_all_the_same(empty_webhooks: str) -> None:
    inner = RecordingHandler()
    crashing = CrashingHandler(inner, every=3)
    async with webhook_world(empty_webhooks, handler=crashing) as world:
        for number in range(30):
            await world.take(stripe_event(f"evt_{number}"))

        while await world.processor.run_due():
            world.clock.advance(HOUR)

        assert {row["state"] for row in await world.rows()} == {"processed"}
        assert {event.event_id for event in inner.handled} == {f"evt_{number}" for number in range(30)}
        assert len(inner.handled) > 30


async def test_two_processors_share_the_work_and_handle_nothing_twice(empty_webhooks: str) -> None:
    first, second = RecordingHandler(), RecordingHandler()
    async with (
        webhook_world(empty_webhooks, handler=first) as one,
        webhook_world(empty_webhooks, handler=second) as other,
    ):
        for number in range(40):
            await one.take(stripe_event(f"evt_{number}"))

        await asyncio.gather(one.processor.run_due(), other.processor.run_due())

        handled = [event.event_id for event in (*first.handled, *second.handled)]
        assert sorted(handled) == sorted(f"evt_{number}" for number in range(40))
        assert {row["attempt_count"] for row in await one.rows()} == {1}


async def test_no_more_are_worked_on_at_once_than_allowed(empty_webhooks: str) -> None:
    held = HeldHandler()
    async with webhook_world(empty_webhooks, handler=held, concurrency=3) as world:
        for number in range(10):
            await world.take(stripe_event(f"evt_{number}"))
        await world.processor.start()
        await eventually(lambda: held.at_once == 3, PATIENCE_S)

        held.gate.set()

        await eventually(lambda: len(held.begun) == 10, PATIENCE_S)
        assert held.at_once_max == 3

        async def all_processed() -> bool:
            return {row["state"] for row in await world.rows()} == {"processed"}

        await eventually(all_processed, PATIENCE_S)


async def test_events_under_way_are_given_back_when_the_processor_stops(empty_webhooks: str) -> None:
    held = HeldHandler()
    async with webhook_world(empty_webhooks, handler=held) as world:
        await world.take()
        await world.processor.start()
        await eventually(lambda: held.at_once == 1, PATIENCE_S)

        await world.processor.close()

        row = await world.row()
        assert (row["state"], row["next_attempt_time"]) == ("pending", world.clock.now())


async def test_a_started_processor_is_woken_by_what_comes_in_and_goes_on_by_itself(
    world: WebhookWorld, handler: RecordingHandler
) -> None:
    await world.processor.start()

    await world.take()

    await eventually(lambda: handler.attempts == [("evt_1", 1)], PATIENCE_S)

    async def backlog_is_read() -> bool:
        return world.processor.backlog() == {("pending",): 0, ("retrying",): 0, ("dead",): 0}

    await eventually(backlog_is_read, PATIENCE_S)


async def test_a_processor_outlives_postgres_being_away(empty_webhooks: str) -> None:
    handler = RecordingHandler()
    async with webhook_world(empty_webhooks, handler=handler) as world:
        await world.processor.start()
        await world.take(stripe_event("evt_1"))
        await eventually(lambda: len(handler.handled) == 1, PATIENCE_S)

        owner = await connect(world.url)
        try:
            await owner.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        finally:
            await owner.close()

        async def taken() -> Any:
            return await world.take(stripe_event("evt_2"))

        await eventually(taken, PATIENCE_S, ignore=Exception)
        await eventually(lambda: [event.event_id for event in handler.handled][-1] == "evt_2", PATIENCE_S)


async def test_what_nobody_can_handle_yet_waits(empty_webhooks: str) -> None:
    async with webhook_world(empty_webhooks) as world:
        await world.take()
        world.processor._handlers.clear()

        assert await world.processor.run_due() == 0
        assert (await world.row())["state"] == "pending"


async def test_new_events_and_ended_attempts_are_announced(world: WebhookWorld) -> None:
    heard: list[str] = []
    listener: asyncpg.Connection = await connect(world.url, DatabaseRole.INTAKE)
    try:
        await listener.add_listener(CHANNEL, lambda *said: heard.append(said[3]))

        await world.take(stripe_event())
        await world.take(stripe_event())
        await world.take(stripe_event("evt_2", "person.sneezed"))
        await world.processor.run_due()

        await eventually(lambda: heard == ["stored", "stripe/evt_1"], PATIENCE_S)
    finally:
        await listener.close()


# --- Processing again -------------------------------------------------------------------------------------


async def test_the_dead_are_processed_again_from_the_first_attempt(
    world: WebhookWorld, handler: RecordingHandler
) -> None:
    handler.fail = always_fail
    for number in range(3):
        await world.take(stripe_event(f"evt_{number}"))
        world.clock.advance(SECOND)
    for _ in range(12):
        await world.processor.run_due()
        world.clock.advance(HOUR)
    handler.fail = lambda _event: None
    dead = await world.rows()
    assert {row["state"] for row in dead} == {"dead"}

    between = await world.administration.replay(
        start_time=dead[1]["receive_time"], end_time=dead[2]["receive_time"], actor="bob"
    )
    assert between == 1
    await world.processor.run_due()
    assert [row["state"] for row in await world.rows()] == ["dead", "processed", "dead"]

    assert await world.administration.replay(source=WebhookSource.CLERK, actor="bob") == 0
    assert await world.administration.replay(actor="bob") == 2
    await world.processor.run_due()

    assert [(row["state"], row["attempt_count"], row["error"]) for row in await world.rows()] == [
        ("processed", 1, "")
    ] * 3


async def test_what_was_processed_is_processed_again_and_its_handler_knows(
    world: WebhookWorld, handler: RecordingHandler
) -> None:
    await world.take()
    await world.processor.run_due()
    first: datetime = (await world.row())["process_time"]
    world.clock.advance(HOUR)

    count = await world.administration.replay(source=WebhookSource.STRIPE, event_ids=["evt_1", "evt_1"], actor="bob")
    assert (count, await world.processor.run_due()) == (1, 1)

    row = await world.row()
    assert [event.processed_before for event in handler.handled] == [False, True]
    assert (row["state"], row["process_time"]) == ("processed", first + HOUR)


async def test_an_ignored_event_is_looked_at_again_and_ignored_again(
    world: WebhookWorld, handler: RecordingHandler
) -> None:
    await world.take(stripe_event(event_type="person.sneezed"))

    await world.administration.replay(source=WebhookSource.STRIPE, event_ids=["evt_1"], actor="bob")
    await world.processor.run_due()

    assert handler.handled == []
    assert (await world.row())["state"] == "ignored"


async def test_a_retry_is_pulled_forward_and_keeps_its_attempts(world: WebhookWorld, handler: RecordingHandler) -> None:
    handler.fail = lambda event: ValueError() if event.attempt == 1 else None
    await world.take()
    await world.processor.run_due()

    await world.administration.replay(source=WebhookSource.STRIPE, event_ids=["evt_1"], actor="bob")
    await world.processor.run_due()

    assert handler.attempts == [("evt_1", 1), ("evt_1", 2)]
