"""Between the wire messages of webhooks and those of the use cases."""

from __future__ import annotations

from typing import Final

from tallygate.v1 import subscription_service_pb2, webhook_pb2
from tallygate_server.storage.webhook_events import WebhookEventRow
from tallygate_server.transport.convert import api_enum, domain_enum, to_api_instant, to_api_optional_instant
from tallygate_server.webhooks.events import WebhookEventState, WebhookSource
from tallygate_server.webhooks.intake import Taken

_SOURCES: Final = domain_enum(WebhookSource, webhook_pb2.WebhookSource, "WEBHOOK_SOURCE")
_API_SOURCE: Final = api_enum(WebhookSource, webhook_pb2.WebhookSource, "WEBHOOK_SOURCE")
_STATES: Final = domain_enum(WebhookEventState, webhook_pb2.WebhookEventState, "WEBHOOK_EVENT_STATE")
_API_STATE: Final = api_enum(WebhookEventState, webhook_pb2.WebhookEventState, "WEBHOOK_EVENT_STATE")


def from_api_source(source: int) -> WebhookSource:
    """Convert a source; the rules refuse unset ones."""
    return _SOURCES[source]


def from_api_optional_source(source: int) -> WebhookSource | None:
    """Convert a source to filter by; None for unset."""
    return _SOURCES.get(source)


def from_api_state(state: int) -> WebhookEventState | None:
    """Convert a state to filter by; None for unset."""
    return _STATES.get(state)


def to_api_taken(taken: Taken) -> subscription_service_pb2.IngestWebhookResponse:
    """Convert what was taken in."""
    return subscription_service_pb2.IngestWebhookResponse(
        event_id=taken.event_id, event_type=taken.event_type, duplicate=taken.duplicate, known=taken.known
    )


def to_api_event(event: WebhookEventRow) -> webhook_pb2.WebhookEvent:
    """Convert a webhook."""
    return webhook_pb2.WebhookEvent(
        source=_API_SOURCE[event.source],
        event_id=event.event_id,
        event_type=event.event_type,
        tenant_id=event.tenant_id,
        account_id=event.account_id,
        state=_API_STATE[event.state],
        attempt_count=event.attempt_count,
        error_text=event.error,
        next_attempt_time=to_api_optional_instant(event.next_attempt_time),
        api_version=event.api_version,
        api_version_mismatch=event.api_version_mismatch,
        payload=event.payload,
        event_time=to_api_optional_instant(event.event_time),
        receive_time=to_api_instant(event.receive_time),
        delivery_count=event.delivery_count,
        process_time=to_api_optional_instant(event.process_time),
    )
