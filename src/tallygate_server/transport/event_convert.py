"""Between the wire messages of events, endpoints and deliveries and those of the use cases."""

from __future__ import annotations

from typing import Final

from tallygate.v1 import event_service_pb2
from tallygate_server.events.contents import delivery_id_text, event_id_text, safe_json
from tallygate_server.events.endpoints import EndpointChange
from tallygate_server.storage.outbox import EventFilter, OutboxEvent
from tallygate_server.storage.webhook_deliveries import DeliveryRow, DeliveryState
from tallygate_server.storage.webhook_endpoints import EndpointRow
from tallygate_server.transport.convert import (
    api_enum,
    domain_enum,
    optional,
    to_api_instant,
    to_api_optional_instant,
    to_api_struct,
)

_API_STATE: Final = api_enum(DeliveryState, event_service_pb2.WebhookDeliveryState, "WEBHOOK_DELIVERY_STATE")
_STATES: Final = domain_enum(DeliveryState, event_service_pb2.WebhookDeliveryState, "WEBHOOK_DELIVERY_STATE")


def from_api_filter(
    request: event_service_pb2.WatchEventsRequest | event_service_pb2.ListEventsRequest,
) -> EventFilter:
    """Convert what a caller wants to see."""
    return EventFilter(account_id=request.account_id, event_types=tuple(request.event_types))


def from_api_state(state: int) -> DeliveryState | None:
    """Convert a state to filter by; None for unset."""
    return _STATES.get(state)


def from_api_change(request: event_service_pb2.UpdateWebhookEndpointRequest) -> EndpointChange:
    """Convert what is to be changed."""
    return EndpointChange(
        url=optional(request, "url"),
        event_types=tuple(request.event_types.values) if request.HasField("event_types") else None,
        description=optional(request, "description"),
        disabled=optional(request, "disabled"),
    )


def to_api_event(event: OutboxEvent) -> event_service_pb2.Event:
    """Convert an event; integers that a Struct cannot hold exactly become text."""
    return event_service_pb2.Event(
        event_id=event_id_text(event.event_id),
        tenant_id=event.tenant_id,
        account_id=event.account_id,
        type=event.event_type,
        event_time=to_api_instant(event.create_time),
        sequence=event.sequence,
        data=to_api_struct(safe_json(event.payload)),
        revision=event.revision,
    )


def to_api_endpoint(endpoint: EndpointRow) -> event_service_pb2.WebhookEndpoint:
    """Convert an endpoint, without its secrets."""
    return event_service_pb2.WebhookEndpoint(
        endpoint_id=endpoint.endpoint_id,
        tenant_id=endpoint.tenant_id,
        url=endpoint.url,
        event_types=endpoint.event_types,
        description=endpoint.description,
        disabled=endpoint.disabled,
        disable_reason=endpoint.disable_reason,
        failure_count=endpoint.failure_count,
        success_time=to_api_optional_instant(endpoint.success_time),
        create_time=to_api_instant(endpoint.create_time),
        update_time=to_api_instant(endpoint.update_time),
    )


def to_api_delivery(delivery: DeliveryRow) -> event_service_pb2.WebhookDelivery:
    """Convert a delivery."""
    return event_service_pb2.WebhookDelivery(
        delivery_id=delivery_id_text(delivery.delivery_id),
        endpoint_id=delivery.endpoint_id,
        event_id=event_id_text(delivery.event_id),
        event_type=delivery.event_type,
        state=_API_STATE[delivery.state],
        attempt_count=delivery.attempt_count,
        http_status=delivery.http_status,
        error_text=delivery.error,
        next_attempt_time=to_api_optional_instant(delivery.next_attempt_time),
        create_time=to_api_instant(delivery.create_time),
        end_time=to_api_optional_instant(delivery.end_time),
    )
