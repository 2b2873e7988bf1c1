"""Senders reach the intake over HTTP, and hear whether to send again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest
import structlog

from tallygate_server.errors import StoreUnavailable
from tallygate_server.ops_http import OpsServer
from tallygate_server.telemetry import metrics
from tallygate_server.webhooks.events import WebhookSource
from tallygate_server.webhooks.http import webhook_routes
from tallygate_server.webhooks.intake import Taken
from tallygate_server.webhooks.json_body import BODY_BYTES_MAX
from tests.support.eventually import eventually
from tests.support.webhooks import (
    WebhookWorld,
    ayrshare_headers,
    stripe_event,
    stripe_headers,
    svix_headers,
    webhook_world,
)


@asynccontextmanager
async def client_of(intake: Any, **bounds: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        OpsServer.start(
            host="127.0.0.1", port=0, read_components=list, routes=webhook_routes(intake, **bounds)
        ) as server,
        httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as client,
    ):
        yield client


@pytest.fixture
async def world(empty_webhooks: str) -> AsyncIterator[WebhookWorld]:
    async with webhook_world(empty_webhooks) as running:
        yield running


@pytest.fixture
async def client(world: WebhookWorld) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(world.intake) as opened:
        yield opened


def signed(world: WebhookWorld, payload: bytes) -> dict[str, str]:
    return stripe_headers(payload, world.clock.now())


async def test_a_genuine_webhook_is_received_and_the_second_time_a_duplicate(
    world: WebhookWorld, client: httpx.AsyncClient
) -> None:
    payload = stripe_event()

    first = await client.post("/webhooks/stripe", content=payload, headers=signed(world, payload))
    again = await client.post("/webhooks/stripe", content=payload, headers=signed(world, payload))

    assert (first.status_code, first.json()) == (200, {"received": True, "duplicate": False})
    assert (again.status_code, again.json()) == (200, {"received": True, "duplicate": True})
    assert (await world.row())["payload"] == payload


async def test_the_address_may_name_the_tenant(world: WebhookWorld, client: httpx.AsyncClient) -> None:
    payload = b'{"type":"user.created"}'

    taken = await client.post("/webhooks/clerk/acme", content=payload, headers=svix_headers(payload, world.clock.now()))
    unknown = await client.post(
        "/webhooks/clerk/nobody", content=payload, headers=svix_headers(payload, world.clock.now())
    )
    malformed = await client.post(
        "/webhooks/clerk/NO", content=payload, headers=svix_headers(payload, world.clock.now())
    )

    assert [answer.status_code for answer in (taken, unknown, malformed)] == [200, 404, 400]
    assert (await world.row())["tenant_id"] == "acme"


@pytest.mark.parametrize(
    ("off", "secret"), [(0, "whsec_forged"), (-301, ""), (301, "")], ids=["forged", "too old", "future"]
)
async def test_what_is_not_genuine_is_answered_401_and_nothing_of_it_is_logged(
    world: WebhookWorld, client: httpx.AsyncClient, off: int, secret: str
) -> None:
    payload = stripe_event()
    headers = stripe_headers(
        payload, world.clock.now() + timedelta(seconds=off), **({"secret": secret} if secret else {})
    )

    with structlog.testing.capture_logs() as lines:
        answer = await client.post("/webhooks/stripe", content=payload, headers=headers)

    assert answer.status_code == 401
    assert "nobody-may-log" not in f"{lines} {answer.text}"
    assert "v1=" not in f"{lines} {answer.text}"
    assert "evt_1" not in f"{lines} {answer.text}"
    assert await world.rows() == []


async def test_a_signature_given_twice_is_answered_401(world: WebhookWorld, client: httpx.AsyncClient) -> None:
    payload = stripe_event()
    ((name, value),) = signed(world, payload).items()

    answer = await client.post("/webhooks/stripe", content=payload, headers=[(name, value), (name, value)])

    assert answer.status_code == 401


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"id":"evt_1"}', b"[" * 100_000])
async def test_a_genuine_body_that_is_no_event_is_answered_400(
    world: WebhookWorld, client: httpx.AsyncClient, body: bytes
) -> None:
    answer = await client.post("/webhooks/stripe", content=body, headers=signed(world, body))

    assert answer.status_code == 400
    assert answer.json()["error"].startswith("payload")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/webhooks/github", 404),
        ("POST", "/webhooks/STRIPE", 404),
        ("POST", "/webhooks/ayrshare", 404),
        ("POST", "/webhooks", 404),
        ("POST", "/webhooks/stripe/acme/more", 404),
        ("GET", "/webhooks/stripe", 405),
        ("PUT", "/webhooks/stripe", 405),
    ],
)
async def test_what_is_not_there_is_answered_so(client: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    answer = await client.request(method, path, content=b"{}" if method != "GET" else None)

    assert answer.status_code == status
    assert "TALLYGATE_" not in answer.text


async def test_the_log_says_which_setting_is_missing(world: WebhookWorld, client: httpx.AsyncClient) -> None:
    payload = b'{"action":"social"}'

    with structlog.testing.capture_logs() as lines:
        await client.post("/webhooks/ayrshare", content=payload, headers=ayrshare_headers(payload, world.clock.now()))

    assert [line["why"] for line in lines] == ["TALLYGATE_AYRSHARE_WEBHOOK_SECRET"]


async def in_chunks(payload: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(payload), 65_536):
        yield payload[start : start + 65_536]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_beyond_the_bound_is_answered_413_with_or_without_a_length(
    world: WebhookWorld,
    client: httpx.AsyncClient,
    chunked: bool,  # noqa: FBT001
) -> None:
    room = BODY_BYTES_MAX - len(stripe_event(padding=""))
    fits, exceeds = stripe_event(padding="x" * room), stripe_event(padding="x" * (room + 1))
    counted = metrics.webhooks_refused.value("stripe", "too_large")

    answers = [
        await client.post("/webhooks/stripe", content=in_chunks(body) if chunked else body, headers=signed(world, body))
        for body in (fits, exceeds)
    ]

    assert [answer.status_code for answer in answers] == [200, 413]
    assert metrics.webhooks_refused.value("stripe", "too_large") == counted + 1


async def test_a_body_that_drips_is_given_up(world: WebhookWorld) -> None:
    async with client_of(world.intake, body_seconds_max=0.05) as client:
        url = client.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        try:
            writer.write(b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
            await writer.drain()
            async with asyncio.timeout(30):
                answer = await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()

    assert answer.startswith(b"HTTP/1.1 408 ")


class AnsweringIntake:
    """Raises, or waits, as it is told."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.waiting = 0

    async def take(self, _source: WebhookSource, _payload: bytes, _headers: Any, _tenant_id: str) -> Taken:
        """Answer as told."""
        if self.gate is not None:
            self.waiting += 1
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return Taken(event_id="evt_1", event_type="x", duplicate=False, known=True)

    def note_refusal(self, _source: WebhookSource, _rule: str) -> None:
        """Count nothing."""


async def test_while_it_cannot_be_stored_the_sender_is_told_to_come_back() -> None:
    intake = AnsweringIntake()
    intake.error = StoreUnavailable("a-text-for-us")

    async with client_of(intake) as client:
        answer = await client.post("/webhooks/stripe", content=b"{}")

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_a_defect_of_ours_is_answered_500_without_a_word_of_it() -> None:
    intake = AnsweringIntake()
    intake.error = ValueError("a-text-for-us")

    async with client_of(intake) as client:
        answer = await client.post("/webhooks/stripe", content=b"{}")

    assert answer.status_code == 500
    assert "a-text-for-us" not in answer.text


async def test_too_many_at_once_are_told_to_come_back_and_probes_are_answered() -> None:
    intake = AnsweringIntake()
    intake.gate = asyncio.Event()

    async with client_of(intake, at_once_max=2) as client:
        held = [asyncio.create_task(client.post("/webhooks/stripe", content=b"{}")) for _ in range(2)]
        await eventually(lambda: intake.waiting == 2, 30)
        refused = await client.post("/webhooks/stripe", content=b"{}")
        alive = await client.get("/healthz")
        intake.gate.set()
        answers = await asyncio.gather(*held)

    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert alive.status_code == 200
    assert [answer.status_code for answer in answers] == [200, 200]
    assert json.loads(answers[0].text) == {"received": True, "duplicate": False}
