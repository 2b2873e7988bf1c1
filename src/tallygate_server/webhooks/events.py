"""What the worker hands to those who understand a source's events, and what they say about it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol


class WebhookSource(StrEnum):
    """Who sends webhooks; the values are those of rows, of paths and of labels."""

    STRIPE = "stripe"
    CLERK = "clerk"
    AYRSHARE = "ayrshare"


class WebhookEventState(StrEnum):
    """Where a webhook is in its processing."""

    PENDING = "pending"
    PROCESSED = "processed"
    IGNORED = "ignored"
    RETRYING = "retrying"
    DEAD = "dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """A genuine webhook whose turn it is."""

    source: WebhookSource
    event_id: str
    event_type: str
    payload: bytes
    """The body, byte for byte: a JSON object."""
    event_time: datetime | None
    """When the source says that it happened."""
    attempt: int
    """1 for the first one."""
    tenant_id: str = ""
    """Tenant that the webhook's address names, or that it turned out to be about; empty while unknown."""
    processed_before: bool = False
    """An administrator has it processed again."""

    def content(self) -> dict[str, Any]:
        """Return the body's object; the intake has refused everything else."""
        content: dict[str, Any] = json.loads(self.payload)
        return content


@dataclass(frozen=True, slots=True, kw_only=True)
class Handled:
    """Whom an event was about; empty: nobody of ours, or nobody in particular."""

    tenant_id: str = ""
    account_id: str = ""


class EventHandler(Protocol):
    """Understands the events of one source.

    Events come in any order, several at a time, and more than once, also after an attempt that ended in the middle:
    handling one again ends in the same state.
    """

    @property
    def known_types(self) -> frozenset[str]:
        """Types that are handled; the others are stored, acknowledged and ignored."""

    async def handle(self, event: StoredEvent) -> Handled:
        """Do what follows from the event, and tell whom it was about.

        Whatever it raises makes the event due again, later and later, until it has failed too often. It is cancelled
        when it takes too long.
        """
