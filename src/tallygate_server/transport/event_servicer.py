"""EventService: converts, calls, converts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, ClassVar, Final

from google.protobuf.descriptor import ServiceDescriptor
from grpc import aio

from tallygate.v1 import entitlement_service_pb2
from tallygate.v1 import event_service_pb2 as wire
from tallygate_server.domain.identifier import TenantId
from tallygate_server.storage.outbox import OutboxEvent
from tallygate_server.transport import convert, event_convert, paging
from tallygate_server.transport.use_cases import EndpointUse, EventLogUse, EventWatchUse, Now

SERVICE: Final[ServiceDescriptor] = wire.DESCRIPTOR.services_by_name["EventService"]

_Context = aio.ServicerContext[Any, Any]


class EventServicer:
    """Tells tenants what happened."""

    SERVICE: ClassVar[ServiceDescriptor] = SERVICE

    def __init__(self, events: EventLogUse, watches: EventWatchUse, endpoints: EndpointUse, now: Now) -> None:
        self._events = events
        self._watches = watches
        self._endpoints = endpoints
        self._now = now
        self._last: tuple[OutboxEvent, wire.WatchEventsResponse] | None = None
        """The event that was converted last: watchers are told the same ones."""

    async def WatchEvents(
        self, request: wire.WatchEventsRequest, _context: _Context
    ) -> AsyncIterator[wire.WatchEventsResponse]:
        """Send events in order, and signs of life while there are none."""
        events = self._watches.watch(
            TenantId(request.tenant_id),
            event_convert.from_api_filter(request),
            after_sequence=convert.optional(request, "after_sequence"),
        )
        async with aclosing(events):
            async for event in events:
                yield self._heartbeat() if event is None else self._told(event)

    async def ListEvents(self, request: wire.ListEventsRequest, _context: _Context) -> wire.ListEventsResponse:
        """List events, newest first."""
        now = self._now()
        size = paging.page_size_of(request.page_size)
        position = paging.page_position(request, now=now)
        events = await self._events.list(
            TenantId(request.tenant_id),
            event_convert.from_api_filter(request),
            start_time=convert.from_api_optional_time(request, "start_time"),
            end_time=convert.from_api_optional_time(request, "end_time"),
            before_sequence=int(position) if position else None,
            limit=size + 1,
        )
        page, more = events[:size], len(events) > size
        return wire.ListEventsResponse(
            events=[event_convert.to_api_event(event) for event in page],
            next_page_token=paging.page_token(request, str(page[-1].sequence), now=now) if more else "",
        )

    async def CreateWebhookEndpoint(
        self, request: wire.CreateWebhookEndpointRequest, _context: _Context
    ) -> wire.CreateWebhookEndpointResponse:
        """Create an endpoint."""
        created = await self._endpoints.create(
            TenantId(request.tenant_id),
            url=request.url,
            event_types=tuple(request.event_types),
            description=request.description,
            request_id=request.request_id,
            actor=convert.actor_of(request),
        )
        return wire.CreateWebhookEndpointResponse(
            endpoint=event_convert.to_api_endpoint(created.endpoint), secret=created.secret
        )

    async def UpdateWebhookEndpoint(
        self, request: wire.UpdateWebhookEndpointRequest, _context: _Context
    ) -> wire.UpdateWebhookEndpointResponse:
        """Change an endpoint, or enable it."""
        endpoint = await self._endpoints.update(
            TenantId(request.tenant_id),
            request.endpoint_id,
            event_convert.from_api_change(request),
            actor=convert.actor_of(request),
        )
        return wire.UpdateWebhookEndpointResponse(endpoint=event_convert.to_api_endpoint(endpoint))

    async def ListWebhookEndpoints(
        self, request: wire.ListWebhookEndpointsRequest, _context: _Context
    ) -> wire.ListWebhookEndpointsResponse:
        """List endpoints, by id."""
        now = self._now()
        size = paging.page_size_of(request.page_size)
        endpoints = await self._endpoints.list(
            TenantId(request.tenant_id),
            after_endpoint_id=paging.page_position(request, now=now),
            limit=size + 1,
        )
        page, more = endpoints[:size], len(endpoints) > size
        return wire.ListWebhookEndpointsResponse(
            endpoints=[event_convert.to_api_endpoint(endpoint) for endpoint in page],
            next_page_token=paging.page_token(request, page[-1].endpoint_id, now=now) if more else "",
        )

    async def DeleteWebhookEndpoint(
        self, request: wire.DeleteWebhookEndpointRequest, _context: _Context
    ) -> wire.DeleteWebhookEndpointResponse:
        """Delete an endpoint."""
        await self._endpoints.delete(TenantId(request.tenant_id), request.endpoint_id, actor=convert.actor_of(request))
        return wire.DeleteWebhookEndpointResponse()

    async def RotateWebhookSecret(
        self, request: wire.RotateWebhookSecretRequest, _context: _Context
    ) -> wire.RotateWebhookSecretResponse:
        """Make a new secret."""
        rotated = await self._endpoints.rotate_secret(
            TenantId(request.tenant_id), request.endpoint_id, actor=convert.actor_of(request)
        )
        return wire.RotateWebhookSecretResponse(
            secret=rotated.secret, old_secret_expire_time=convert.to_api_instant(rotated.old_secret_expire_time)
        )

    async def ListWebhookDeliveries(
        self, request: wire.ListWebhookDeliveriesRequest, _context: _Context
    ) -> wire.ListWebhookDeliveriesResponse:
        """List deliveries, newest first."""
        now = self._now()
        size = paging.page_size_of(request.page_size)
        position = paging.page_position(request, now=now)
        deliveries = await self._endpoints.deliveries(
            TenantId(request.tenant_id),
            endpoint_id=request.endpoint_id,
            event_id=request.event_id,
            state=event_convert.from_api_state(request.state),
            before_delivery_id=int(position) if position else None,
            limit=size + 1,
        )
        page, more = deliveries[:size], len(deliveries) > size
        return wire.ListWebhookDeliveriesResponse(
            deliveries=[event_convert.to_api_delivery(delivery) for delivery in page],
            next_page_token=paging.page_token(request, str(page[-1].delivery_id), now=now) if more else "",
        )

    async def ReplayWebhookDeliveries(
        self, request: wire.ReplayWebhookDeliveriesRequest, _context: _Context
    ) -> wire.ReplayWebhookDeliveriesResponse:
        """Send events again."""
        count = await self._endpoints.replay(
            TenantId(request.tenant_id),
            request.endpoint_id,
            event_ids=tuple(request.event_ids),
            start_time=convert.from_api_optional_time(request, "start_time"),
            end_time=convert.from_api_optional_time(request, "end_time"),
            failed_only=request.failed_only,
            actor=convert.actor_of(request),
        )
        return wire.ReplayWebhookDeliveriesResponse(delivery_count=count)

    def _heartbeat(self) -> wire.WatchEventsResponse:
        now = convert.to_api_instant(self._now())
        return wire.WatchEventsResponse(heartbeat=entitlement_service_pb2.WatchHeartbeat(server_time=now))

    def _told(self, event: OutboxEvent) -> wire.WatchEventsResponse:
        if self._last is None or self._last[0] is not event:
            self._last = (event, wire.WatchEventsResponse(event=event_convert.to_api_event(event)))
        return self._last[1]
