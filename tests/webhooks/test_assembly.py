"""Servers tell each other what came in and what was processed, through Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import stripe

from tallygate_server.errors import StoreUnavailable
from tallygate_server.storage.engine import Database, DatabaseRole, connect
from tallygate_server.tenants import TenantDirectory
from tallygate_server.webhooks.assembly import API_VERSIONS, WebhookOptions, Webhooks, open_webhooks
from tallygate_server.webhooks.events import EventHandler, WebhookSource
from tests.support.clock import FrozenClock
from tests.support.eventually import eventually
from tests.support.webhooks import STRIPE_SECRET, RecordingHandler, stripe_event, stripe_headers

PATIENCE_S = 60.0
NEVER_MS = 3_600_000
CLOCK = FrozenClock()


@asynccontextmanager
async def opened(database_url: str, handler: EventHandler, *, answer_wait_ms: int = 0) -> AsyncIterator[Webhooks]:
    async with AsyncExitStack() as stack:
        database = Database(database_url, pool_size=2)
        stack.push_async_callback(database.close)
        intake_database = Database(database_url, role=DatabaseRole.INTAKE, pool_size=4)
        stack.push_async_callback(intake_database.close)
        tenants = TenantDirectory(database, CLOCK)
        stack.push_async_callback(tenants.close)
        yield await stack.enter_async_context(
            open_webhooks(
                database_url,
                intake_database=intake_database,
                database=database,
                handlers={WebhookSource.STRIPE: handler},
                tenants=tenants,
                clock=CLOCK,
                options=WebhookOptions(secrets={WebhookSource.STRIPE: (STRIPE_SECRET,)}, answer_wait_ms=answer_wait_ms),
            )
        )


async def take(webhooks: Webhooks, event_id: str = "evt_1") -> None:
    payload = stripe_event(event_id)
    await webhooks.intake.take(WebhookSource.STRIPE, payload, stripe_headers(payload, CLOCK.now()))


async def test_an_answer_waits_for_the_attempt_that_another_server_makes(empty_webhooks: str) -> None:
    worker = RecordingHandler()
    async with (
        opened(empty_webhooks, RecordingHandler(), answer_wait_ms=NEVER_MS) as front,
        opened(empty_webhooks, worker) as back,
    ):
        await back.processor.start()

        # Only what the other server announces ends this wait.
        async with asyncio.timeout(PATIENCE_S):
            await take(front)

        assert worker.attempts == [("evt_1", 1)]


async def test_what_comes_in_wakes_every_other_server(empty_webhooks: str) -> None:
    async with opened(empty_webhooks, RecordingHandler()) as front, opened(empty_webhooks, RecordingHandler()) as back:
        await take(front)

        await eventually(back.processor._woken.is_set, PATIENCE_S)


async def test_a_server_that_lost_its_ear_gets_a_new_one(empty_webhooks: str) -> None:
    async with opened(empty_webhooks, RecordingHandler()) as front, opened(empty_webhooks, RecordingHandler()) as back:
        owner = await connect(empty_webhooks)
        try:
            ended = await owner.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query LIKE 'LISTEN%'"
            )
        finally:
            await owner.close()

        assert ended == 2
        numbers = iter(range(1_000))

        async def heard() -> bool:
            await take(front, f"evt_{next(numbers)}")
            return back.processor._woken.is_set()

        await eventually(heard, PATIENCE_S, ignore=StoreUnavailable)


async def test_without_postgres_nothing_is_opened() -> None:
    with pytest.raises(StoreUnavailable):
        async with opened("postgresql://nobody@127.0.0.1:1/nothing", RecordingHandler()):
            pass


def test_the_version_of_stripe_is_the_one_that_its_library_is_made_for() -> None:
    assert API_VERSIONS[WebhookSource.STRIPE] == stripe.api_version
