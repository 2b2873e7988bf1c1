"""Events, webhook endpoints, and the delivery of signed webhooks with whatever is done to it on purpose."""

from __future__ import annotations

import asyncio
import fnmatch
import hashlib
import hmac
import json
import random
import secrets
import time
from dataclasses import asdict, dataclass, field
from typing import Final

import httpx
from stripe import params

from tallygate_local_stripe.errors import refused
from tallygate_local_stripe.objects import JsonObject, merge_metadata, public
from tallygate_local_stripe.routing import Call, Routes
from tallygate_local_stripe.world import API_VERSION, World

routes = Routes()

# Seconds from one attempt to the next, shorter than Stripe's hours so that a developer sees a retry.
RETRY_SECONDS: Final = (1, 5, 30, 120, 600)
TIMEOUT_SECONDS: Final = 10.0
_WRONG_SECRET: Final = "whsec_wrong"  # noqa: S105 - Wrong on purpose: it signs what must be refused.


@routes("GET", "/v1/events", params.EventListParams)
def list_events(call: Call) -> JsonObject:
    """List events, newest first, by type (which may end in `*`), types or time."""
    kind, kinds = call.get("type"), call.get("types")

    def wanted(event: JsonObject) -> bool:
        return (kind is None or fnmatch.fnmatch(event["type"], kind)) and (kinds is None or event["type"] in kinds)

    found = call.world.store.all("event", wanted)
    return call.page(list(found), ignoring=frozenset({"type", "types", "delivery_success"}))


@routes("GET", "/v1/events/{id}", params.EventRetrieveParams)
def retrieve_event(call: Call) -> JsonObject:
    """Return an event."""
    return call.world.store.get("event", call.id)


def add_endpoint(world: World, given: JsonObject, *, secret: str | None = None) -> JsonObject:
    """Create a webhook endpoint; its secret is shown this once."""
    return world.store.add(
        "webhook_endpoint",
        url=given["url"],
        enabled_events=given["enabled_events"],
        api_version=given.get("api_version"),
        description=given.get("description"),
        metadata=merge_metadata({}, given.get("metadata")),
        status="enabled",
        created=world.now(),
        _secrets=[secret or f"whsec_{secrets.token_hex(16)}"],
    )


@routes("POST", "/v1/webhook_endpoints", params.WebhookEndpointCreateParams)
def create_endpoint(call: Call) -> JsonObject:
    """Create a webhook endpoint."""
    endpoint = add_endpoint(call.world, call.params)
    return {**public(endpoint), "secret": endpoint["_secrets"][0]}


@routes("GET", "/v1/webhook_endpoints", params.WebhookEndpointListParams)
def list_endpoints(call: Call) -> JsonObject:
    """List webhook endpoints."""
    return call.page(list(call.world.store.all("webhook_endpoint")))


@routes("GET", "/v1/webhook_endpoints/{id}", params.WebhookEndpointRetrieveParams)
def retrieve_endpoint(call: Call) -> JsonObject:
    """Return a webhook endpoint."""
    return call.world.store.get("webhook_endpoint", call.id)


@routes("POST", "/v1/webhook_endpoints/{id}", params.WebhookEndpointUpdateParams)
def update_endpoint(call: Call) -> JsonObject:
    """Change a webhook endpoint, or switch it off."""
    endpoint = call.world.store.get("webhook_endpoint", call.id)
    for name in ("url", "enabled_events", "description"):
        if name in call.params:
            endpoint[name] = call.get(name)
    if "disabled" in call.params:
        endpoint["status"] = "disabled" if call.get("disabled") else "enabled"
    endpoint["metadata"] = merge_metadata(endpoint["metadata"], call.get("metadata"))
    return endpoint


@routes("DELETE", "/v1/webhook_endpoints/{id}")
def delete_endpoint(call: Call) -> JsonObject:
    """Delete a webhook endpoint."""
    call.world.store.remove("webhook_endpoint", call.id)
    return {"id": call.id, "object": "webhook_endpoint", "deleted": True}


def roll_secret(world: World, endpoint_id: str, *, secret: str | None, expire_old: bool) -> str:
    """Give an endpoint a new secret; the old one signs too until it is expired."""
    endpoint = world.store.get("webhook_endpoint", endpoint_id)
    fresh = secret or f"whsec_{secrets.token_hex(16)}"
    endpoint["_secrets"] = [fresh] if expire_old else [fresh, endpoint["_secrets"][0]]
    world.store.revision += 1
    return fresh


def signature(secrets_in_use: list[str], timestamp: int, payload: str) -> str:
    """Return the Stripe-Signature header: a v1 per secret in use and, as in test mode, a v0 that proves nothing."""
    signed = f"{timestamp}.{payload}".encode()
    values = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets_in_use]
    meaningless = hashlib.sha256(signed).hexdigest()
    return ",".join([f"t={timestamp}", *(f"v1={value}" for value in values), f"v0={meaningless}"])


@dataclass(slots=True, kw_only=True)
class Mode:
    """What is done to webhooks on purpose: normal, duplicate, reorder, delay, drop, bad_signature or hold."""

    mode: str = "normal"
    # Copies of a duplicated event; seconds of a delay; how old (below zero: how far ahead) a signature claims to be.
    times: int = 2
    delay_seconds: float = 0.0
    signature_age_seconds: int = 0
    # Only these types are touched (None: all), and only that many events (None: until the mode is changed).
    types: list[str] | None = None
    count: int | None = None
    seed: int = 0


MODES: Final = ("normal", "duplicate", "reorder", "delay", "drop", "bad_signature", "hold")


@dataclass(slots=True, kw_only=True)
class Delivery:
    """One event on its way to one endpoint."""

    event: str
    endpoint: str
    due: float
    mode: str = "normal"
    signature_age_seconds: int = 0
    attempts: int = 0
    last_status: int | None = None


@dataclass(slots=True)
class Outcome:
    """What has been delivered since the last reset."""

    delivered: int = 0
    refused: int = 0
    dropped: int = 0
    given_up: int = 0
    statuses: dict[str, int] = field(default_factory=dict)


class Sender:
    """Deliver events in the background, one after the other, in the order in which they happened."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._queue: list[Delivery] = []
        self._mode = Mode()
        self._wake = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._client: httpx.AsyncClient | None = None
        self._random = random.Random(0)  # noqa: S311 - An order to repeat, not a secret.
        self.outcome = Outcome()

    def take(self, event: JsonObject) -> None:
        """Queue an event for every endpoint that wants it."""
        endpoints = [entry for entry in self._world.store.all("webhook_endpoint") if _wants(entry, event["type"])]
        event["pending_webhooks"] = len(endpoints)
        for endpoint in endpoints:
            self._queue_one(event, endpoint)
        if endpoints:
            self._wake.set()

    def _queue_one(self, event: JsonObject, endpoint: JsonObject) -> None:
        mode = self._mode
        touched = mode.mode != "normal" and (mode.types is None or event["type"] in mode.types) and mode.count != 0
        name = mode.mode if touched else "normal"
        if touched and mode.count is not None:
            mode.count -= 1
        if name == "drop":
            self.outcome.dropped += 1
            event["pending_webhooks"] -= 1
            return
        due = time.monotonic() + (mode.delay_seconds if name == "delay" else 0.0)
        age = mode.signature_age_seconds if touched else 0
        for _ in range(mode.times if name == "duplicate" else 1):
            self._queue.append(
                Delivery(event=event["id"], endpoint=endpoint["id"], due=due, mode=name, signature_age_seconds=age)
            )

    def set_mode(self, mode: Mode) -> None:
        """Change what is done to webhooks from now on.

        Raises:
            StripeError: there is no such mode.

        """
        if mode.mode not in MODES:
            raise refused(f"Unknown mode: {mode.mode}; there are {', '.join(MODES)}.", param="mode")
        self._mode = mode
        self._random = random.Random(mode.seed)  # noqa: S311 - An order to repeat, not a secret.

    def release(self) -> int:
        """Let go what is held back, in a shuffled order if the mode is `reorder`; return how many."""
        held = [delivery for delivery in self._queue if delivery.mode in ("hold", "reorder", "delay")]
        shuffled = [delivery for delivery in held if delivery.mode == "reorder"]
        self._random.shuffle(shuffled)
        others = [delivery for delivery in self._queue if delivery not in shuffled]
        for delivery in held:
            delivery.mode, delivery.due = "normal", time.monotonic()
        self._queue = others + shuffled
        self._wake.set()
        return len(held)

    async def flush(self) -> JsonObject:
        """Deliver all that is due and try once more what failed; what is held back stays, a reordered batch goes."""
        async with self._one_at_a_time:
            if any(delivery.mode == "reorder" for delivery in self._queue):
                self.release()
            for delivery in self._queue:
                if delivery.attempts > 0:
                    delivery.due = time.monotonic()
            await self._deliver_due()
        return self.report()

    def report(self) -> JsonObject:
        """Return what has been delivered and what waits."""
        held = sum(delivery.mode in ("hold", "reorder") for delivery in self._queue)
        return {**asdict(self.outcome), "pending": len(self._queue), "held": held, "mode": asdict(self._mode)}

    def reset(self) -> None:
        """Forget the queue, the mode and the counts."""
        self._queue.clear()
        self._mode = Mode()
        self.outcome = Outcome()

    async def run(self) -> None:
        """Deliver until cancelled."""
        try:
            while True:
                async with self._one_at_a_time:
                    await self._deliver_due()
                moments = [delivery.due for delivery in self._queue if delivery.mode not in ("hold", "reorder")]
                self._wake.clear()
                wait = max(0.0, min(moments) - time.monotonic()) if moments else None
                try:
                    await asyncio.wait_for(self._wake.wait(), wait)
                except TimeoutError:
                    continue
        finally:
            await self.close()

    async def close(self) -> None:
        """Close the connections to the endpoints."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _deliver_due(self) -> None:
        while True:
            now = time.monotonic()
            due = next((d for d in self._queue if d.mode not in ("hold", "reorder") and d.due <= now), None)
            if due is None:
                return
            self._queue.remove(due)
            await self._deliver(due)

    async def _deliver(self, delivery: Delivery) -> None:
        event = self._world.store.find(delivery.event)
        endpoint = self._world.store.find(delivery.endpoint)
        if event is None or endpoint is None:
            return
        status = await self._post(event, endpoint, delivery)
        self.outcome.statuses[str(status)] = self.outcome.statuses.get(str(status), 0) + 1
        if 200 <= status < 300:  # noqa: PLR2004 - HTTP's own bounds of success.
            self.outcome.delivered += 1
            event["pending_webhooks"] = max(0, event["pending_webhooks"] - 1)
            return
        self.outcome.refused += 1
        delivery.attempts += 1
        delivery.last_status = status
        if delivery.attempts > len(RETRY_SECONDS):
            self.outcome.given_up += 1
            return
        delivery.due = time.monotonic() + RETRY_SECONDS[delivery.attempts - 1]
        self._queue.append(delivery)

    async def _post(self, event: JsonObject, endpoint: JsonObject, delivery: Delivery) -> int:
        if self._client is None:
            self._client = httpx.AsyncClient(timeout=TIMEOUT_SECONDS)
        body = {**public(event), "api_version": endpoint["api_version"] or API_VERSION}
        payload = json.dumps(body, indent=2, ensure_ascii=False)
        # Stripe signs with the time of delivery, whatever the clock of the event's objects says.
        timestamp = self._world.clocks.now(None) - delivery.signature_age_seconds
        in_use = [_WRONG_SECRET] if delivery.mode == "bad_signature" else endpoint["_secrets"]
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "Stripe-Signature": signature(in_use, timestamp, payload),
            "User-Agent": "Stripe/1.0 (local)",
        }
        try:
            answer = await self._client.post(endpoint["url"], content=payload.encode(), headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL):
            return 0
        return answer.status_code


def _wants(endpoint: JsonObject, kind: str) -> bool:
    return endpoint["status"] == "enabled" and bool({"*", kind} & set(endpoint["enabled_events"]))
