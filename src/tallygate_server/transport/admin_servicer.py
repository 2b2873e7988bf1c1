"""AdminService: converts, calls, converts. What is not here answers UNIMPLEMENTED."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, ClassVar, Final

from google.protobuf.descriptor import ServiceDescriptor
from grpc import aio

from tallygate.v1 import admin_service_pb2
from tallygate_server.transport import convert, correction_convert, paging, validation_convert, webhook_convert
from tallygate_server.transport.use_cases import Now, UsageCorrections, ValidationUse, WebhookAdministrationUse

SERVICE: Final[ServiceDescriptor] = admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"]

_Context = aio.ServicerContext[Any, Any]


class AdminServicer:
    """Shows and runs the installation."""

    SERVICE: ClassVar[ServiceDescriptor] = SERVICE

    def __init__(
        self,
        webhooks: WebhookAdministrationUse,
        now: Now,
        *,
        corrections: UsageCorrections,
        validations: ValidationUse,
    ) -> None:
        self._webhooks = webhooks
        self._corrections = corrections
        self._now = now
        self._validations = validations

    async def CorrectUsage(
        self, request: admin_service_pb2.CorrectUsageRequest, _context: _Context
    ) -> admin_service_pb2.CorrectUsageResponse:
        """Add to a counter or a gauge, or take away from it."""
        answer = await self._corrections.correct(correction_convert.from_api_correction(request))
        return correction_convert.to_api_correction(request, answer)

    async def ListWebhookEvents(
        self, request: admin_service_pb2.ListWebhookEventsRequest, _context: _Context
    ) -> admin_service_pb2.ListWebhookEventsResponse:
        """List webhooks, newest first."""
        now = self._now()
        size = paging.page_size_of(request.page_size)
        position = paging.page_position(request, now=now)
        events = await self._webhooks.list(
            tenant_id=request.tenant_id,
            source=webhook_convert.from_api_optional_source(request.source),
            state=webhook_convert.from_api_state(request.state),
            event_type_prefix=request.event_type_prefix,
            account_id=request.account_id,
            start_time=convert.from_api_optional_time(request, "start_time"),
            end_time=convert.from_api_optional_time(request, "end_time"),
            before_sequence=int(position) if position else None,
            limit=size + 1,
        )
        page, more = events[:size], len(events) > size
        return admin_service_pb2.ListWebhookEventsResponse(
            events=[webhook_convert.to_api_event(event) for event in page],
            next_page_token=paging.page_token(request, str(page[-1].sequence), now=now) if more else "",
        )

    async def GetWebhookEvent(
        self, request: admin_service_pb2.GetWebhookEventRequest, _context: _Context
    ) -> admin_service_pb2.GetWebhookEventResponse:
        """Return one webhook with its body."""
        event = await self._webhooks.get(webhook_convert.from_api_source(request.source), request.event_id)
        return admin_service_pb2.GetWebhookEventResponse(event=webhook_convert.to_api_event(event))

    async def ReplayWebhookEvents(
        self, request: admin_service_pb2.ReplayWebhookEventsRequest, _context: _Context
    ) -> admin_service_pb2.ReplayWebhookEventsResponse:
        """Process webhooks again."""
        count = await self._webhooks.replay(
            source=webhook_convert.from_api_optional_source(request.source),
            event_ids=list(request.event_ids),
            start_time=convert.from_api_optional_time(request, "start_time"),
            end_time=convert.from_api_optional_time(request, "end_time"),
            actor=convert.actor_of(request),
        )
        return admin_service_pb2.ReplayWebhookEventsResponse(event_count=count)

    async def ValidateEntitlements(
        self, request: admin_service_pb2.ValidateEntitlementsRequest, _context: _Context
    ) -> AsyncGenerator[admin_service_pb2.ValidateEntitlementsResponse]:
        """Compare counters, Redis and snapshots with the rows of record."""
        validating = self._validations.validate(
            tenant_id=request.tenant_id,
            account_id=request.account_id,
            repair=request.repair,
            actor=convert.actor_of(request),
        )
        async with aclosing(validating) as updates:
            async for update in updates:
                yield validation_convert.to_api_update(update)
