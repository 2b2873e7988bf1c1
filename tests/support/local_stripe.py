"""The local Stripe as a process of its own, its control endpoints as typed methods, and a place to receive webhooks."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import stripe

from tests.support.eventually import eventually

START_TIMEOUT_S = 60
ROOT = Path(__file__).parents[2]
API_KEY = "sk_test_local"
WEBHOOK_SECRET = "whsec_local"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalStripe:
    """A local Stripe that has announced itself."""

    url: str
    pid: int
    client: stripe.StripeClient
    http: httpx.AsyncClient
    api_key: str = API_KEY

    async def control(self, path: str, **body: Any) -> dict[str, Any]:
        """Call a control endpoint under /_local."""
        answer = await self.http.post(f"/_local/{path}", json=body)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    async def counts(self) -> dict[str, int]:
        """Return how many objects of each kind there are."""
        objects: dict[str, int] = (await self.http.get("/_local/state")).json()["objects"]
        return objects

    async def reset(self) -> None:
        """Forget everything but the endpoint registered at the start."""
        await self.control("reset")

    async def now(self) -> int:
        """Return the time of all objects without a test clock, in Unix seconds."""
        moment: int = (await self.http.get("/_local/clock")).json()["now"]
        return moment

    async def advance(self, seconds: int) -> int:
        """Move the time of all objects without a test clock, doing all that falls due."""
        moment: int = (await self.control("clock", advance_seconds=seconds))["now"]
        return moment

    async def advance_to(self, moment: int) -> int:
        """Move the time of all objects without a test clock to a moment."""
        reached: int = (await self.control("clock", now=moment))["now"]
        return reached

    async def advance_test_clock(self, clock_id: str, moment: int) -> None:
        """Advance a test clock and wait until it is ready."""
        clocks = self.client.v1.test_helpers.test_clocks
        await clocks.advance_async(clock_id, {"frozen_time": moment})

        async def is_ready() -> bool:
            return (await clocks.retrieve_async(clock_id)).status == "ready"

        await eventually(is_ready, 60)

    async def billing_settings(self, **changed: Any) -> dict[str, Any]:
        """Change retry_days, after_retries, upcoming_days, trial_will_end_days or draft_seconds."""
        return await self.control("settings", **changed)

    async def fault(self, on: str, kind: str, **more: Any) -> None:
        """Have something go wrong: `on` is "METHOD path", see `tallygate_local_stripe.faults` for the kinds."""
        await self.control("faults", on=on, kind=kind, **more)

    async def waiting_faults(self) -> int:
        """Return how many faults have not met their request yet."""
        return len((await self.http.get("/_local/faults")).json()["faults"])

    async def clear_faults(self) -> None:
        """Let nothing go wrong any more."""
        (await self.http.delete("/_local/faults")).raise_for_status()

    async def webhook_mode(self, mode: str, **more: Any) -> None:
        """Choose what is done to webhooks: normal, duplicate, reorder, delay, drop, bad_signature or hold."""
        await self.control("webhooks", mode=mode, **more)

    async def release_webhooks(self) -> int:
        """Let go what is held back or delayed; return how many."""
        released: int = (await self.control("webhooks/release"))["released"]
        return released

    async def flush_webhooks(self) -> dict[str, Any]:
        """Wait until all webhooks that are due have been delivered; what failed is tried once more."""
        return await self.control("webhooks/flush")

    async def resend(self, event_id: str) -> None:
        """Send a stored event again."""
        await self.control("webhooks/resend", event=event_id)

    async def add_endpoint(self, url: str, *, secret: str = WEBHOOK_SECRET, **more: Any) -> str:
        """Register a webhook endpoint with a known secret; return its id."""
        identity: str = (await self.control("webhook_endpoints", url=url, secret=secret, **more))["id"]
        return identity

    async def roll_secret(self, endpoint_id: str, secret: str, *, expire_old: bool = False) -> None:
        """Give an endpoint a new secret; the old one signs too until it is expired."""
        await self.control(f"webhook_endpoints/{endpoint_id}/roll_secret", secret=secret, expire_old=expire_old)

    async def complete_checkout(
        self, session_id: str, *, payment_method: str = "pm_card_visa", outcome: str = "paid"
    ) -> dict[str, Any]:
        """Act as the customer on the checkout page; `outcome` is paid or async_pending."""
        return await self.control(f"checkout/{session_id}/complete", payment_method=payment_method, outcome=outcome)

    async def decline_checkout(self, session_id: str) -> None:
        """Act as a customer whose card is declined; the session stays open."""
        answer = await self.http.post(f"/_local/checkout/{session_id}/complete", json={"outcome": "declined"})
        assert answer.status_code == 402, answer.text

    async def settle_checkout(self, session_id: str, *, outcome: str = "succeeded") -> dict[str, Any]:
        """Let the asynchronous payment of a completed session succeed or fail."""
        return await self.control(f"checkout/{session_id}/async", outcome=outcome)

    async def act_in_portal(
        self, session_id: str, action: str, subscription_id: str, choice: str | None = None
    ) -> dict[str, Any]:
        """Act as the customer in the billing portal: cancel, resume, switch or card."""
        return await self.control(f"portal/{session_id}", action=action, subscription=subscription_id, choice=choice)

    async def authenticate(self, intent_id: str, *, outcome: str = "succeeded") -> dict[str, Any]:
        """Act as the customer in the bank's window."""
        return await self.control(f"payment_intents/{intent_id}/authenticate", outcome=outcome)

    async def dispute(self, charge_id: str, **more: Any) -> dict[str, Any]:
        """Have a cardholder dispute a charge."""
        return await self.control(f"charges/{charge_id}/dispute", **more)

    async def close_dispute(self, dispute_id: str, status: str) -> dict[str, Any]:
        """Decide a dispute: won, lost or warning_closed."""
        return await self.control(f"disputes/{dispute_id}/close", status=status)

    async def warn_of_fraud(self, charge_id: str) -> dict[str, Any]:
        """Have the card's network warn of a fraudulent charge."""
        return await self.control(f"charges/{charge_id}/fraud_warning")


@asynccontextmanager
async def stripe_client(
    url: str, *, max_network_retries: int = 0, timeout_s: float = 30.0
) -> AsyncIterator[stripe.StripeClient]:
    """Give the real client, pointed at a local Stripe, and close its connections."""
    http_client = stripe.HTTPXClient(timeout=timeout_s)
    try:
        yield stripe.StripeClient(
            API_KEY, base_addresses={"api": url}, http_client=http_client, max_network_retries=max_network_retries
        )
    finally:
        await http_client.close_async()  # type: ignore[no-untyped-call]


@asynccontextmanager
async def local_stripe(*arguments: str) -> AsyncIterator[LocalStripe]:
    """Start a local Stripe on a free port with more arguments, and end it for sure."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TALLYGATE_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tallygate_local_stripe", *arguments,
        env={**inherited, "PYTHONPATH": str(ROOT / "src")},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            announced = json.loads(await process.stdout.readline())
        async with (
            stripe_client(announced["url"]) as client,
            httpx.AsyncClient(base_url=announced["url"], timeout=60.0) as http,
        ):
            yield LocalStripe(url=announced["url"], pid=announced["pid"], client=client, http=http)
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


@dataclass(slots=True, kw_only=True)
class WebhookSink:
    """An endpoint that keeps what it is sent; set `status` to have it refuse."""

    url: str = ""
    status: int = 200
    received: list[tuple[bytes, str]] = field(default_factory=list)

    def events(self, secret: str = WEBHOOK_SECRET) -> list[stripe.Event]:
        """Return what was received, each verified by the real library."""
        return [stripe.Webhook.construct_event(body, header, secret) for body, header in self.received]

    def types(self) -> list[str]:
        """Return the types of what was received."""
        return [json.loads(body)["type"] for body, _ in self.received]


@asynccontextmanager
async def webhook_sink() -> AsyncIterator[WebhookSink]:
    """Listen for webhooks on a free port."""
    sink = WebhookSink()
    open_writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_writers.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                headers = dict(line.split(": ", 1) for line in head.decode().lower().split("\r\n")[1:] if ": " in line)
                body = await reader.readexactly(int(headers["content-length"]))
                sink.received.append((body, headers["stripe-signature"]))
                writer.write(f"HTTP/1.1 {sink.status} Answer\r\nContent-Length: 0\r\n\r\n".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            open_writers.discard(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    sink.url = f"http://{host}:{port}/webhooks"
    try:
        yield sink
    finally:
        server.close()
        # A sender keeps its connection; closing it ends the task that serves it.
        for writer in list(open_writers):
            writer.close()
        await eventually(lambda: not open_writers, START_TIMEOUT_S)
