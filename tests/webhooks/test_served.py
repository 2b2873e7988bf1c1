"""Webhooks through whole servers: over HTTP and both gRPC transports, and in the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import httpx
import pytest
import structlog
from grpc import aio
from typer.testing import CliRunner, Result

from tallygate.v1 import account_pb2, account_service_pb2, admin_service_pb2, subscription_service_pb2, webhook_pb2
from tallygate.v1.account_service_pb2_grpc import AccountServiceStub
from tallygate.v1.admin_service_pb2_grpc import AdminServiceStub
from tallygate.v1.subscription_service_pb2_grpc import SubscriptionServiceStub
from tallygate_server.app import App
from tallygate_server.cli import app as command_line
from tallygate_server.config import Settings
from tallygate_server.storage.engine import DatabaseRole, connect
from tallygate_server.webhooks.json_body import BODY_BYTES_MAX
from tests.support.eventually import eventually
from tests.support.transport_servers import refusal_of
from tests.support.webhooks import (
    STRIPE_SECRET,
    STRIPE_SECRET_BEFORE,
    SVIX_SECRET,
    stripe_event,
    stripe_headers,
    svix_headers,
)

PATIENCE_S = 60.0
SOURCE = webhook_pb2.WEBHOOK_SOURCE_CLERK
Say = Callable[..., Awaitable[Result]]


@asynccontextmanager
async def served(database_url: str, redis_url: str, **settings: Any) -> AsyncIterator[App]:
    values = {
        "database_url": database_url,
        "redis_url": redis_url,
        "grpc_port": 0,
        "ops_port": 0,
        "drain_delay_ms": 0,
        "stripe_webhook_secret": f"{STRIPE_SECRET},{STRIPE_SECRET_BEFORE}",
        "clerk_webhook_secret": SVIX_SECRET,
        "webhook_answer_wait_ms": 5_000,
        **settings,
    }
    async with App.open(Settings.model_validate(values)) as app:
        yield app


@pytest.fixture(params=["native", "grpcio"])
async def app(request: pytest.FixtureRequest, acme_database: str, fresh_redis: str) -> AsyncIterator[App]:
    async with served(acme_database, fresh_redis, transport=request.param) as running:
        yield running


@pytest.fixture
async def channel(app: App) -> AsyncIterator[aio.Channel]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with aio.insecure_channel(f"127.0.0.1:{app.grpc_port}", options=options) as opened:
        yield opened


def now() -> datetime:
    return datetime.now(UTC)


def a_user(event_type: str = "user.created", user_id: str = "user_1", **data: Any) -> bytes:
    content = {
        "type": event_type,
        "object": "event",
        "timestamp": 1_773_576_000_000,
        "data": {
            "id": user_id,
            "updated_at": 1_773_576_000_000,
            "first_name": "Ann",
            "last_name": "Lee",
            "primary_email_address_id": "idn_1",
            "email_addresses": [
                {"id": "idn_1", "email_address": "Ann@Example.com", "verification": {"status": "verified"}}
            ],
            **data,
        },
    }
    return json.dumps(content).encode()


def ingest(payload: bytes, headers: dict[str, str], **more: Any) -> subscription_service_pb2.IngestWebhookRequest:
    return subscription_service_pb2.IngestWebhookRequest(
        **{"source": SOURCE, "tenant_id": "acme", "payload": payload, "headers": headers, **more}
    )


async def post(app: App, payload: bytes, headers: dict[str, str], path: str = "/webhooks/clerk/acme") -> httpx.Response:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{app.ops_port}", trust_env=False, timeout=60) as client:
        return await client.post(path, content=payload, headers=headers)


async def account_of(channel: aio.Channel, user_id: str = "user_1") -> Any:
    request = account_service_pb2.GetAccountRequest(
        tenant_id="acme", identity=account_pb2.Identity(provider="clerk", external_id=user_id)
    )
    stub: Any = AccountServiceStub(channel)
    return (await stub.GetAccount(request, timeout=PATIENCE_S)).account


async def test_a_webhook_over_grpc_is_taken_in_and_processed_when_it_is_answered(
    app: App, channel: aio.Channel
) -> None:
    stub: Any = SubscriptionServiceStub(channel)
    payload = a_user()

    first = await stub.IngestWebhook(ingest(payload, svix_headers(payload, now())), timeout=PATIENCE_S)
    again = await stub.IngestWebhook(ingest(payload, svix_headers(payload, now())), timeout=PATIENCE_S)

    assert (first.event_id, first.event_type, first.duplicate, first.known) == ("msg_1", "user.created", False, True)
    assert again.duplicate
    account = await account_of(channel)
    assert (account.email, account.display_name) == ("Ann@Example.com", "Ann Lee")


async def test_refusals_over_grpc_name_the_rule_and_nothing_else(app: App, channel: aio.Channel) -> None:
    stub: Any = SubscriptionServiceStub(channel)
    payload = a_user()
    genuine = svix_headers(payload, now())
    broken = b"\xff" + payload
    cases = [
        (ingest(payload, {**genuine, "svix-id": "msg_2"}), grpc.StatusCode.UNAUTHENTICATED, "SIGNATURE_INVALID"),
        (
            ingest(payload, svix_headers(payload, now() - timedelta(hours=1))),
            grpc.StatusCode.UNAUTHENTICATED,
            "SIGNATURE_INVALID",
        ),
        (
            ingest(payload, svix_headers(payload, now() + timedelta(hours=1))),
            grpc.StatusCode.UNAUTHENTICATED,
            "SIGNATURE_INVALID",
        ),
        (ingest(broken, svix_headers(broken, now())), grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED"),
        (ingest(payload, genuine, tenant_id="nobody"), grpc.StatusCode.NOT_FOUND, "TENANT_NOT_FOUND"),
        (
            ingest(payload, genuine, source=webhook_pb2.WEBHOOK_SOURCE_AYRSHARE),
            grpc.StatusCode.FAILED_PRECONDITION,
            "WEBHOOK_SOURCE_NOT_CONFIGURED",
        ),
        (
            ingest(payload + b" " * BODY_BYTES_MAX, genuine),
            grpc.StatusCode.INVALID_ARGUMENT,
            "VALIDATION_FAILED",
        ),
    ]

    for request, code, reason in cases:
        with pytest.raises(aio.AioRpcError) as error:
            await stub.IngestWebhook(request, timeout=PATIENCE_S)
        refusal = refusal_of(error.value)
        assert (refusal.code, refusal.reason) == (code, reason)
        assert "Example.com" not in refusal.everything
        assert "user_1" not in refusal.everything


async def test_the_largest_webhook_fits_through_grpc(app: App, channel: aio.Channel) -> None:
    stub: Any = SubscriptionServiceStub(channel)
    room = BODY_BYTES_MAX - len(a_user("session.created", padding=""))
    payload = a_user("session.created", padding="x" * room)
    assert len(payload) == BODY_BYTES_MAX

    taken = await stub.IngestWebhook(ingest(payload, svix_headers(payload, now())), timeout=PATIENCE_S)

    assert taken.known is False


async def test_an_administrator_lists_shows_and_replays_webhooks(app: App, channel: aio.Channel) -> None:
    admin: Any = AdminServiceStub(channel)
    payloads = {}
    for number, event_type in enumerate(["user.created", "user.updated", "session.created", "user.updated"]):
        payload = payloads[number] = a_user(event_type, f"user_{number}", email_addresses=[])
        headers = svix_headers(payload, now(), message_id=f"msg_{number}")
        assert (await post(app, payload, headers)).status_code == 200
    other = stripe_event("evt_1", "invoice.paid", api_version="2020-01-01")
    assert (await post(app, other, stripe_headers(other, now()), "/webhooks/stripe")).status_code == 200

    async def listed(**filters: Any) -> list[Any]:
        found: list[Any] = []
        token = ""
        while True:
            request = admin_service_pb2.ListWebhookEventsRequest(page_size=2, page_token=token, **filters)
            page = await admin.ListWebhookEvents(request, timeout=PATIENCE_S)
            found.extend(page.events)
            token = page.next_page_token
            if not token:
                return found

    async def ids(**filters: Any) -> list[str]:
        return [event.event_id for event in await listed(**filters)]

    everything = await listed()
    assert [event.event_id for event in everything] == ["evt_1", "msg_3", "msg_2", "msg_1", "msg_0"]
    assert {event.payload for event in everything} == {b""}
    assert (everything[0].api_version, everything[0].api_version_mismatch) == ("2020-01-01", True)
    assert everything[0].state == webhook_pb2.WEBHOOK_EVENT_STATE_PENDING
    assert await ids(tenant_id="acme") == ["msg_3", "msg_2", "msg_1", "msg_0"]
    assert await ids(source=webhook_pb2.WEBHOOK_SOURCE_STRIPE) == ["evt_1"]
    assert await ids(state=webhook_pb2.WEBHOOK_EVENT_STATE_IGNORED) == ["msg_2"]
    assert await ids(event_type_prefix="user.") == ["msg_3", "msg_1", "msg_0"]
    assert await ids(event_type_prefix="user_") == []
    assert await ids(account_id=everything[1].account_id) == ["msg_3"]
    assert await ids(end_time=everything[4].receive_time) == []

    get = admin_service_pb2.GetWebhookEventRequest(source=SOURCE, event_id="msg_1")
    shown = (await admin.GetWebhookEvent(get, timeout=PATIENCE_S)).event
    assert shown.payload == payloads[1]
    assert shown.state == webhook_pb2.WEBHOOK_EVENT_STATE_PROCESSED
    assert (shown.tenant_id, shown.delivery_count, shown.attempt_count) == ("acme", 1, 1)
    assert shown.account_id

    with pytest.raises(aio.AioRpcError) as error:
        await admin.GetWebhookEvent(
            admin_service_pb2.GetWebhookEventRequest(source=SOURCE, event_id="msg_9"), timeout=PATIENCE_S
        )
    refusal = refusal_of(error.value)
    assert (refusal.code, refusal.metadata["kind"]) == (grpc.StatusCode.NOT_FOUND, "webhook_event")

    replay = admin_service_pb2.ReplayWebhookEventsRequest(source=SOURCE, event_ids=["msg_0", "msg_1"], actor="bob")
    assert (await admin.ReplayWebhookEvents(replay, timeout=PATIENCE_S)).event_count == 2

    async def processed_again() -> bool:
        event = (await admin.GetWebhookEvent(get, timeout=PATIENCE_S)).event
        return bool(
            event.process_time.ToNanoseconds() > shown.process_time.ToNanoseconds()
            and event.state == webhook_pb2.WEBHOOK_EVENT_STATE_PROCESSED
        )

    await eventually(processed_again, PATIENCE_S)
    reader = await connect(app.stores.database_url, DatabaseRole.READER)
    try:
        await reader.execute("SELECT set_config('tallygate.tenant_id', 'acme', false)")
        (entry,) = await reader.fetch("SELECT actor, detail FROM audit_entries WHERE action = 'webhook.replay'")
    finally:
        await reader.close()
    assert entry["actor"] == "bob"
    assert json.loads(entry["detail"]) == {"count": 2, "events": ["clerk:msg_0", "clerk:msg_1"]}

    for wrong, code in (
        ({"source": SOURCE, "event_ids": ["msg_0", "msg_9"]}, grpc.StatusCode.NOT_FOUND),
        ({"event_ids": ["msg_0"]}, grpc.StatusCode.INVALID_ARGUMENT),
        (
            {"source": SOURCE, "event_ids": ["msg_0"], "start_time": shown.receive_time},
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
    ):
        with pytest.raises(aio.AioRpcError) as error:
            await admin.ReplayWebhookEvents(admin_service_pb2.ReplayWebhookEventsRequest(**wrong), timeout=PATIENCE_S)
        assert error.value.code() is code


async def test_what_one_server_takes_in_another_processes_and_the_answer_waits_for_it(
    acme_database: str, fresh_redis: str
) -> None:
    async with AsyncExitStack() as stack:
        front = await stack.enter_async_context(served(acme_database, fresh_redis, run_workers=False))
        await stack.enter_async_context(served(acme_database, fresh_redis, run_workers=True))
        channel = await stack.enter_async_context(aio.insecure_channel(f"127.0.0.1:{front.grpc_port}"))
        payload = a_user()

        answer = await post(front, payload, svix_headers(payload, now()))

        assert answer.status_code == 200

        async def there() -> Any:
            return await account_of(channel)

        await eventually(there, PATIENCE_S, ignore=aio.AioRpcError)


async def test_without_secrets_a_server_takes_no_webhooks(acme_database: str, fresh_redis: str) -> None:
    async with served(acme_database, fresh_redis, stripe_webhook_secret=None, clerk_webhook_secret=None) as app:
        payload = a_user()

        assert (await post(app, payload, svix_headers(payload, now()))).status_code == 404


# --- The command line -------------------------------------------------------------------------------------


@pytest.fixture
async def say(acme_database: str, fresh_redis: str) -> AsyncIterator[Say]:
    """Run commands, in a thread, against a server that has taken in three webhooks."""
    # What the server logs would stand between the lines of the commands, which share its standard output here.
    with structlog.testing.capture_logs():
        async with served(acme_database, fresh_redis) as app:
            for number, event_type in enumerate(["user.created", "session.created"]):
                payload = a_user(event_type, f"user_{number}")
                await post(app, payload, svix_headers(payload, now(), message_id=f"msg_{number}"))
            broken = a_user("user.created", "user_2", email_addresses=7)
            await post(app, broken, svix_headers(broken, now(), message_id="msg_2"))

            async def run(*arguments: str) -> Result:
                env = {"TALLYGATE_TARGET": f"127.0.0.1:{app.grpc_port}"}
                return await asyncio.to_thread(CliRunner().invoke, command_line, list(arguments), env=env)

            yield run


async def test_webhooks_are_listed_as_a_table_and_as_json(say: Say) -> None:
    table = await say("webhook", "list")
    ignored = await say("webhook", "list", "--source", "clerk", "--state", "ignored", "--json")
    none = await say("webhook", "list", "--source", "stripe")

    assert table.exit_code == 0, table.output
    assert [line.split()[-1] for line in table.stdout.splitlines()[1:]] == ["msg_2", "msg_1", "msg_0"]
    assert "user.created" in table.stdout
    assert [event["event_id"] for event in json.loads(ignored.stdout)["events"]] == ["msg_1"]
    assert (none.exit_code, none.stdout) == (0, "There are no such webhooks.\n")


async def test_a_webhook_is_shown_with_what_went_wrong_and_with_its_body_when_asked(say: Say) -> None:
    shown = await say("webhook", "show", "clerk", "msg_2")
    with_body = await say("webhook", "show", "clerk", "msg_2", "--body")
    missing = await say("webhook", "show", "clerk", "msg_9")

    assert "retrying" in shown.stdout
    assert "email_addresses" in shown.stdout
    assert "Ann" not in shown.stdout
    assert '"first_name": "Ann"' in with_body.stdout
    assert missing.exit_code == 2
    assert "there is no webhook_event 'msg_9'" in missing.output


async def test_webhooks_are_replayed_by_id_or_all_that_are_dead(say: Say) -> None:
    one = await say("webhook", "replay", "clerk", "msg_0", "msg_2")
    dead = await say("webhook", "replay", "--dead")
    nothing_said = await say("webhook", "replay")
    both = await say("webhook", "replay", "clerk", "msg_0", "--dead")
    as_json = await say("webhook", "replay", "clerk", "msg_0", "--json")

    assert (one.exit_code, one.stdout) == (0, "2 webhooks will be processed again.\n")
    assert (dead.exit_code, dead.stdout) == (0, "No webhook is dead.\n")
    assert nothing_said.exit_code == 2
    assert both.exit_code == 2
    assert json.loads(as_json.stdout) == {"event_count": "1"}
