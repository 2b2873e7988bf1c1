"""The parts that deal with webhooks, wired to each other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import stripe

from tallygate_server.clock import Clock
from tallygate_server.errors import StoreUnavailable
from tallygate_server.storage.engine import CONNECTION_ERRORS, Database, DatabaseRole
from tallygate_server.storage.listener import Listener
from tallygate_server.storage.webhook_events import CHANNEL, ended_event
from tallygate_server.tenants import TenantDirectory
from tallygate_server.webhooks.administration import WebhookAdministration
from tallygate_server.webhooks.events import EventHandler, WebhookSource
from tallygate_server.webhooks.intake import FirstAttempts, WebhookIntake
from tallygate_server.webhooks.processor import Attempts, WebhookProcessor

API_VERSIONS: Final[Mapping[WebhookSource, str]] = {WebhookSource.STRIPE: stripe.api_version}
"""Versions that this release is built for: Stripe's library is made for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookOptions:
    """What the settings of the same names say."""

    secrets: Mapping[WebhookSource, tuple[str, ...]] = field(default_factory=dict)
    clerk_tenant_id: str = ""
    tolerance_seconds: int = 300
    answer_wait_ms: int = 200
    attempts: Attempts = field(default_factory=Attempts)
    concurrency: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhooks:
    """Everything about webhooks that come in; the processor works only once it is started."""

    intake: WebhookIntake
    processor: WebhookProcessor
    administration: WebhookAdministration


@asynccontextmanager
async def open_webhooks(
    database_url: str,
    *,
    intake_database: Database,
    database: Database,
    handlers: Mapping[WebhookSource, EventHandler],
    tenants: TenantDirectory,
    clock: Clock,
    options: WebhookOptions,
) -> AsyncIterator[Webhooks]:
    """Wire the parts and listen for what other processes announce; raises StoreUnavailable."""
    first_attempts = FirstAttempts()
    processor = WebhookProcessor(
        intake_database,
        handlers,
        clock=clock,
        attempts=options.attempts,
        concurrency=options.concurrency,
        on_ended=first_attempts.ended,
    )

    def hear(announcement: str) -> None:
        ended = ended_event(announcement)
        if ended is None:
            processor.wake()
        else:
            first_attempts.ended(ended)

    listener = Listener(database_url, CHANNEL, hear, role=DatabaseRole.INTAKE)
    try:
        await listener.start()
    except CONNECTION_ERRORS as error:
        await listener.close()
        raise StoreUnavailable(f"Postgres cannot be reached: {error}") from error
    try:
        yield Webhooks(
            intake=WebhookIntake(
                intake_database,
                options.secrets,
                handlers,
                tenants=tenants,
                clock=clock,
                tolerance_seconds=options.tolerance_seconds,
                api_versions=API_VERSIONS,
                first_attempts=first_attempts,
                answer_wait_ms=options.answer_wait_ms,
                wake=processor.wake,
            ),
            processor=processor,
            administration=WebhookAdministration(
                intake_database, audit_database=database, clock=clock, wake=processor.wake
            ),
        )
    finally:
        await processor.close()
        await listener.close()
