"""EntitlementService: converts, calls, converts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, ClassVar, Final

from google.protobuf.descriptor import ServiceDescriptor
from grpc import aio

from tallygate.v1 import entitlement_service_pb2
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.errors import NotBuilt
from tallygate_server.transport import convert, explanation_convert, paging, watch_convert
from tallygate_server.transport.acceptance import accepts_check
from tallygate_server.transport.fast_lane import Done, FastLane
from tallygate_server.transport.use_cases import AccessChecks, AccessExplanations, EntitlementWatchUse, Now
from tallygate_server.watching.watches import WatchUpdate

SERVICE: Final[ServiceDescriptor] = entitlement_service_pb2.DESCRIPTOR.services_by_name["EntitlementService"]

_Context = aio.ServicerContext[Any, Any]
_BATCH_CHECK: Final = f"/{SERVICE.full_name}/BatchCheckAccess"


class EntitlementServicer:
    """Says whether accounts may do things, and how much is left."""

    SERVICE: ClassVar[ServiceDescriptor] = SERVICE

    def __init__(
        self,
        checks: AccessChecks,
        now: Now,
        *,
        explanations: AccessExplanations | None = None,
        watches: EntitlementWatchUse | None = None,
    ) -> None:
        self._checks = checks
        self._now = now
        self._explanations = explanations
        self._watches = watches
        self._last: tuple[WatchUpdate, entitlement_service_pb2.WatchEntitlementsResponse] | None = None
        """The change that was converted last: watchers of one account are told the same ones."""

    def fast_lanes(self) -> Sequence[FastLane]:
        """Return how the native transport answers the hot calls."""
        checks = self._checks

        def start(request: entitlement_service_pb2.CheckAccessRequest, done: Done) -> None:
            checks.check_soon(convert.from_api_check(request), done)

        return [
            FastLane(
                path=f"/{SERVICE.full_name}/CheckAccess",
                request=entitlement_service_pb2.CheckAccessRequest,
                accept=accepts_check,
                start=start,
                encode=convert.encode_check,
            )
        ]

    async def CheckAccess(
        self, request: entitlement_service_pb2.CheckAccessRequest, _context: _Context
    ) -> entitlement_service_pb2.CheckAccessResponse:
        """Answer one check."""
        return convert.to_api_check(await self._checks.check(convert.from_api_check(request)))

    async def BatchCheckAccess(
        self, request: entitlement_service_pb2.BatchCheckAccessRequest, _context: _Context
    ) -> entitlement_service_pb2.BatchCheckAccessResponse:
        """Answer many checks, each alone."""
        outcomes = await self._checks.check_many([convert.from_api_check(check) for check in request.checks])
        return entitlement_service_pb2.BatchCheckAccessResponse(
            results=[convert.to_api_check_result(outcome, method=_BATCH_CHECK) for outcome in outcomes]
        )

    async def ListEntitlements(
        self, request: entitlement_service_pb2.ListEntitlementsRequest, _context: _Context
    ) -> entitlement_service_pb2.ListEntitlementsResponse:
        """List what the account is entitled to, by feature key."""
        everything = await self._checks.list_entitlements(TenantId(request.tenant_id), AccountId(request.account_id))
        revision = max((answer.revision for _key, answer in everything), default=0)
        convert.demand_revision(request.min_revision, revision)
        wanted = convert.wanted_entitlements(request, everything)
        page, next_page_token = paging.page_of([key for key, _answer in wanted], request, now=self._now())
        return entitlement_service_pb2.ListEntitlementsResponse(
            entitlements=[convert.to_api_entitlement(key, answer) for key, answer in wanted[page]],
            next_page_token=next_page_token,
            revision=revision,
            stale=any(answer.stale for _key, answer in everything),
        )

    async def WatchEntitlements(
        self, request: entitlement_service_pb2.WatchEntitlementsRequest, _context: _Context
    ) -> AsyncIterator[entitlement_service_pb2.WatchEntitlementsResponse]:
        """Send everything, then each change in order, and signs of life while there is none."""
        if self._watches is None:
            raise NotBuilt("WatchEntitlements")
        updates = self._watches.watch(
            TenantId(request.tenant_id),
            AccountId(request.account_id),
            feature_keys=request.feature_keys,
            resume_revision=request.resume_revision,
        )
        async with aclosing(updates):
            async for update in updates:
                yield self._told(update)

    async def ExplainAccess(
        self, request: entitlement_service_pb2.ExplainAccessRequest, _context: _Context
    ) -> entitlement_service_pb2.ExplainAccessResponse:
        """Explain an answer, now or in the past."""
        if self._explanations is None:
            raise NotBuilt("ExplainAccess")
        explanation = await self._explanations.explain(
            explanation_convert.from_api_explained_check(request), convert.from_api_optional_time(request, "at_time")
        )
        return explanation_convert.to_api_explanation(explanation)

    def _told(self, update: WatchUpdate) -> entitlement_service_pb2.WatchEntitlementsResponse:
        if self._last is None or self._last[0] is not update:
            self._last = (update, watch_convert.to_api_update(update, now=self._now))
        return self._last[1]
