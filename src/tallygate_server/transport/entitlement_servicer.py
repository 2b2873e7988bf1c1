"""EntitlementService: converts, calls, converts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, ClassVar, Final

from google.protobuf.descriptor import ServiceDescriptor
from grpc import aio

from tallygate.v1 import entitlement_service_pb2
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.transport import (
    convert,
    explanation_convert,
    grant_convert,
    paging,
    simulation_convert,
    watch_convert,
)
from tallygate_server.transport.acceptance import accepts_check
from tallygate_server.transport.fast_lane import Done, FastLane
from tallygate_server.transport.use_cases import (
    AccessChecks,
    AccessExplanations,
    EntitlementWatchUse,
    GrantsUse,
    LimitSimulationUse,
    Now,
)
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
        explanations: AccessExplanations,
        watches: EntitlementWatchUse,
        grants: GrantsUse,
        simulations: LimitSimulationUse,
    ) -> None:
        self._checks = checks
        self._now = now
        self._explanations = explanations
        self._watches = watches
        self._grants = grants
        self._simulations = simulations
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

    async def SimulateLimits(
        self, request: entitlement_service_pb2.SimulateLimitsRequest, _context: _Context
    ) -> AsyncGenerator[entitlement_service_pb2.SimulateLimitsResponse]:
        """Tell who would have been blocked under a draft."""
        wanted = simulation_convert.from_api_simulation(request)
        async with aclosing(self._simulations.simulate(wanted)) as updates:
            async for update in updates:
                yield simulation_convert.to_api_update(update)

    async def WatchEntitlements(
        self, request: entitlement_service_pb2.WatchEntitlementsRequest, _context: _Context
    ) -> AsyncIterator[entitlement_service_pb2.WatchEntitlementsResponse]:
        """Send everything, then each change in order, and signs of life while there is none."""
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
        explanation = await self._explanations.explain(
            explanation_convert.from_api_explained_check(request), convert.from_api_optional_time(request, "at_time")
        )
        return explanation_convert.to_api_explanation(explanation)

    async def CreateGrant(
        self, request: entitlement_service_pb2.CreateGrantRequest, _context: _Context
    ) -> entitlement_service_pb2.CreateGrantResponse:
        """Give an account an extra."""
        view = await self._grants.create(
            TenantId(request.tenant_id),
            AccountId(request.account_id),
            grant_convert.from_api_grant(request),
            request_id=request.request_id,
            actor=convert.actor_of(request),
        )
        return entitlement_service_pb2.CreateGrantResponse(
            grant=grant_convert.to_api_grant(view), revision=view.revision, replayed=view.replayed
        )

    async def RevokeGrant(
        self, request: entitlement_service_pb2.RevokeGrantRequest, _context: _Context
    ) -> entitlement_service_pb2.RevokeGrantResponse:
        """Take a grant back."""
        view = await self._grants.revoke(
            TenantId(request.tenant_id),
            AccountId(request.account_id),
            request.grant_id,
            reason=request.reason_text,
            actor=convert.actor_of(request),
        )
        return entitlement_service_pb2.RevokeGrantResponse(
            grant=grant_convert.to_api_grant(view), revision=view.revision
        )

    async def ListGrants(
        self, request: entitlement_service_pb2.ListGrantsRequest, _context: _Context
    ) -> entitlement_service_pb2.ListGrantsResponse:
        """List grants, newest first."""
        now = self._now()
        page = await self._grants.page(
            TenantId(request.tenant_id),
            account_id=request.account_id,
            feature_key=request.feature_key,
            kinds=grant_convert.from_api_kinds(request),
            state=grant_convert.from_api_state(request),
            before=grant_convert.position_of(paging.page_position(request, now=now)),
            limit=paging.page_size_of(request.page_size),
        )
        position = grant_convert.position_text(page.position) if page.position is not None else ""
        return entitlement_service_pb2.ListGrantsResponse(
            grants=[grant_convert.to_api_grant(view) for view in page.grants],
            next_page_token=paging.page_token(request, position, now=now) if position else "",
        )

    async def SetFeatureOverride(
        self, request: entitlement_service_pb2.SetFeatureOverrideRequest, _context: _Context
    ) -> entitlement_service_pb2.SetFeatureOverrideResponse:
        """Switch a feature on or off for one account, or take such a switch back."""
        return grant_convert.to_api_override(
            await self._grants.override(
                TenantId(request.tenant_id),
                AccountId(request.account_id),
                FeatureKey(request.feature_key),
                grant_convert.from_api_override(request),
                grace_days=request.grace_days,
                expire_time=convert.from_api_optional_time(request, "expire_time"),
                reason=request.reason_text,
                request_id=request.request_id,
                actor=convert.actor_of(request),
            )
        )

    def _told(self, update: WatchUpdate) -> entitlement_service_pb2.WatchEntitlementsResponse:
        if self._last is None or self._last[0] is not update:
            self._last = (update, watch_convert.to_api_update(update, now=self._now))
        return self._last[1]
