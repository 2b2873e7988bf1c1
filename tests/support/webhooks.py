"""Webhooks as their senders sign them, and handlers to process them with."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from tallygate_server.domain.identifier import TenantId
from tallygate_server.errors import TenantNotFound
from tallygate_server.storage.engine import Database, DatabaseRole, connect
from tallygate_server.webhooks.administration import WebhookAdministration
from tallygate_server.webhooks.events import EventHandler, Handled, StoredEvent, WebhookSource
from tallygate_server.webhooks.intake import Taken, WebhookIntake
from tallygate_server.webhooks.processor import Attempts, WebhookProcessor
from tests.support.clock import FrozenClock

STRIPE_SECRET: Final = "whsec_local"
STRIPE_SECRET_BEFORE: Final = "whsec_local_before"
SVIX_SECRET: Final = "whsec_" + base64.b64encode(b"local").decode()
AYRSHARE_SECRET: Final = "ayrshare-local"
API_VERSION: Final = "2026-01-01.local"


def stripe_headers(payload: bytes, at: datetime, *, secret: str = STRIPE_SECRET) -> dict[str, str]:
    """Sign as Stripe does."""
    seconds = int(at.timestamp())
    signature = hmac.new(secret.encode(), f"{seconds}.".encode() + payload, hashlib.sha256).hexdigest()
    return {"Stripe-Signature": f"t={seconds},v1={signature}"}


def svix_headers(
    payload: bytes, at: datetime, *, message_id: str = "msg_1", secret: str = SVIX_SECRET, prefix: str = "svix"
) -> dict[str, str]:
    """Sign as Svix does."""
    seconds = int(at.timestamp())
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signature = base64.b64encode(
        hmac.new(key, f"{message_id}.{seconds}.".encode() + payload, hashlib.sha256).digest()
    ).decode()
    return {
        f"{prefix}-id": message_id,
        f"{prefix}-timestamp": str(seconds),
        f"{prefix}-signature": f"v1,{signature}",
    }


def ayrshare_headers(payload: bytes, at: datetime, *, secret: str = AYRSHARE_SECRET) -> dict[str, str]:
    """Sign as Ayrshare does."""
    return {
        "X-Authorization-Timestamp": str(int(at.timestamp())),
        "X-Authorization-Content-SHA256": hmac.new(secret.encode(), payload, hashlib.sha256).hexdigest(),
    }


def stripe_event(event_id: str = "evt_1", event_type: str = "invoice.paid", **changes: Any) -> bytes:
    """Write an event as Stripe does."""
    content = {
        "id": event_id,
        "object": "event",
        "type": event_type,
        "created": 1_773_576_000,
        "api_version": API_VERSION,
        "livemode": False,
        "pending_webhooks": 1,
        "data": {"object": {"id": "in_1", "object": "invoice", "note": "a-text-that-nobody-may-log"}},
        **changes,
    }
    return json.dumps(content).encode()


@dataclass(slots=True)
class RecordingHandler:
    """Handles by remembering; fails as it is told to."""

    known_types: frozenset[str] = frozenset({"invoice.paid", "invoice.created"})
    handled: list[StoredEvent] = field(default_factory=list)
    about: Handled = field(default_factory=Handled)
    fail: Callable[[StoredEvent], Exception | None] = lambda _event: None

    async def handle(self, event: StoredEvent) -> Handled:
        """Remember the event."""
        self.handled.append(event)
        if error := self.fail(event):
            raise error
        return self.about

    @property
    def attempts(self) -> list[tuple[str, int]]:
        """Ids and attempts, in the order in which they were handled."""
        return [(event.event_id, event.attempt) for event in self.handled]


class CrashError(Exception):
    """A handler broke off."""


@dataclass(slots=True)
class CrashingHandler:
    """Breaks off every so many attempts, in turn before and after the real handler has done its work."""

    inner: EventHandler
    every: int = 3
    attempts: int = 0

    @property
    def known_types(self) -> frozenset[str]:
        """Those of the real handler."""
        return self.inner.known_types

    async def handle(self, event: StoredEvent) -> Handled:
        """Handle, or break off."""
        self.attempts += 1
        crashes, after = self.attempts % self.every == 0, self.attempts % (2 * self.every) == 0
        if crashes and not after:
            raise CrashError
        handled = await self.inner.handle(event)
        if crashes:
            raise CrashError
        return handled


class EveryTenant:
    """Knows every tenant but `nobody`."""

    async def get(self, tenant_id: TenantId) -> Any:
        """Return nothing of use."""
        if tenant_id == "nobody":
            raise TenantNotFound(tenant_id)


@dataclass(slots=True, kw_only=True)
class WebhookWorld:
    """Intake, processor and administration over one database, at a time that stands still."""

    url: str
    database: Database
    clock: FrozenClock
    handler: EventHandler
    intake: WebhookIntake
    processor: WebhookProcessor
    administration: WebhookAdministration

    async def take(self, payload: bytes | None = None, headers: Mapping[str, str] | None = None) -> Taken:
        """Take in a webhook of Stripe, signed now unless headers are given."""
        payload = stripe_event() if payload is None else payload
        signed = stripe_headers(payload, self.clock.now()) if headers is None else headers
        return await self.intake.take(WebhookSource.STRIPE, payload, signed)

    async def rows(self) -> list[dict[str, Any]]:
        """Return what is stored, in the order of arrival."""
        connection = await connect(self.url, DatabaseRole.INTAKE)
        try:
            return [dict(row) for row in await connection.fetch("SELECT * FROM webhook_events ORDER BY sequence")]
        finally:
            await connection.close()

    async def row(self) -> dict[str, Any]:
        """Return the one event that is stored."""
        (row,) = await self.rows()
        return row


@asynccontextmanager
async def webhook_world(
    database_url: str,
    *,
    handler: EventHandler | None = None,
    attempts: Attempts | None = None,
    concurrency: int = 4,
    tolerance_seconds: int = 300,
) -> AsyncIterator[WebhookWorld]:
    """Build the parts; the processor does nothing unless it is started or run by hand."""
    clock = FrozenClock()
    handler = handler or RecordingHandler()
    database = Database(database_url, role=DatabaseRole.INTAKE, pool_size=10)
    audit_database = Database(database_url, pool_size=2)
    processor = WebhookProcessor(
        database,
        {WebhookSource.STRIPE: handler},
        clock=clock,
        attempts=attempts,
        concurrency=concurrency,
        chance=lambda: 0.0,
    )
    try:
        yield WebhookWorld(
            url=database_url,
            database=database,
            clock=clock,
            handler=handler,
            intake=WebhookIntake(
                database,
                {
                    WebhookSource.STRIPE: (STRIPE_SECRET, STRIPE_SECRET_BEFORE),
                    WebhookSource.CLERK: (SVIX_SECRET,),
                },
                {WebhookSource.STRIPE: handler},
                tenants=EveryTenant(),
                clock=clock,
                tolerance_seconds=tolerance_seconds,
                api_versions={WebhookSource.STRIPE: API_VERSION},
                answer_wait_ms=0,
                wake=processor.wake,
            ),
            processor=processor,
            administration=WebhookAdministration(
                database, audit_database=audit_database, clock=clock, wake=processor.wake
            ),
        )
    finally:
        await processor.close()
        await database.close()
        await audit_database.close()
