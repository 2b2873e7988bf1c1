"""Policies, legal holds, classification and clean-up."""

from __future__ import annotations

from tallygate.v1 import data_lifecycle_service_pb2 as wire
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import JobKind
from tallygate_server.lifecycle.classification import cleanup_request
from tallygate_server.lifecycle.jobs import NewJob
from tallygate_server.transport import convert
from tallygate_server.transport.lifecycle_rpcs.base import Context, LifecycleRpcs
from tallygate_server.transport.lifecycle_rpcs.job_convert import job_to_api
from tallygate_server.transport.lifecycle_rpcs.policy_convert import (
    from_api_hold,
    from_api_importance,
    from_api_policy,
    position_of,
    position_text,
    to_api_classification,
    to_api_hold,
    to_api_policy,
    to_api_set_policy,
)
from tallygate_server.transport.lifecycle_rpcs.selection_convert import from_api_duration, from_api_selection
from tallygate_server.transport.paging import page_position, page_size_of, page_token


class PolicyRpcs(LifecycleRpcs):
    """Policies, legal holds, classification and clean-up."""

    async def SetRetentionPolicy(
        self, request: wire.SetRetentionPolicyRequest, _context: Context
    ) -> wire.SetRetentionPolicyResponse:
        """Set what becomes of one sort of data."""
        policy, effect = await self._lifecycle.policies.set(
            from_api_policy(TenantId(request.tenant_id), request.policy),
            expected_version=convert.optional(request, "expected_version"),
            validate_only=request.validate_only,
            actor=convert.actor_of(request),
        )
        return to_api_set_policy(policy, effect)

    async def GetRetentionPolicy(
        self, request: wire.GetRetentionPolicyRequest, _context: Context
    ) -> wire.GetRetentionPolicyResponse:
        """Get what becomes of one sort of data."""
        view = await self._lifecycle.policies.get(
            TenantId(request.tenant_id),
            request.data_type,
            AccountId(request.account_id) if request.account_id else None,
        )
        return wire.GetRetentionPolicyResponse(
            policy=to_api_policy(view.policy),
            effective_retention_days=view.effective_retention_days,
            visible_days=view.visible_days,
        )

    async def ListRetentionPolicies(
        self, request: wire.ListRetentionPoliciesRequest, _context: Context
    ) -> wire.ListRetentionPoliciesResponse:
        """List the policies of a tenant."""
        size = page_size_of(request.page_size)
        found = await self._lifecycle.policies.page(
            TenantId(request.tenant_id), after=page_position(request, now=self._now()), limit=size + 1
        )
        policies = found[:size]
        more = len(found) > size
        return wire.ListRetentionPoliciesResponse(
            policies=[to_api_policy(each) for each in policies],
            next_page_token=page_token(request, policies[-1].data_type, now=self._now()) if more else "",
        )

    async def CreateLegalHold(
        self, request: wire.CreateLegalHoldRequest, _context: Context
    ) -> wire.CreateLegalHoldResponse:
        """Forbid removal of data."""
        hold, record_count = await self._lifecycle.holds.create(
            TenantId(request.tenant_id),
            from_api_hold(request),
            request_id=request.request_id,
            actor=convert.actor_of(request),
        )
        return wire.CreateLegalHoldResponse(legal_hold=to_api_hold(hold), record_count=record_count)

    async def ReleaseLegalHold(
        self, request: wire.ReleaseLegalHoldRequest, _context: Context
    ) -> wire.ReleaseLegalHoldResponse:
        """Let policies apply again."""
        hold = await self._lifecycle.holds.release(
            TenantId(request.tenant_id),
            request.legal_hold_id,
            reason=request.reason_text,
            actor=convert.actor_of(request),
        )
        return wire.ReleaseLegalHoldResponse(legal_hold=to_api_hold(hold))

    async def ListLegalHolds(
        self, request: wire.ListLegalHoldsRequest, _context: Context
    ) -> wire.ListLegalHoldsResponse:
        """List the holds of a tenant, newest first."""
        page = await self._lifecycle.holds.page(
            TenantId(request.tenant_id),
            account_id=AccountId(request.account_id) if request.account_id else None,
            include_released=request.include_released,
            before=position_of(page_position(request, now=self._now())),
            limit=page_size_of(request.page_size),
        )
        position = page.position
        return wire.ListLegalHoldsResponse(
            legal_holds=[to_api_hold(each) for each in page.holds],
            next_page_token=page_token(request, position_text(position), now=self._now()) if position else "",
        )

    async def ClassifyData(self, request: wire.ClassifyDataRequest, _context: Context) -> wire.ClassifyDataResponse:
        """Tell what data is worth and what should become of it."""
        page = await self._lifecycle.classifier.page(
            TenantId(request.tenant_id),
            from_api_selection(request.selection),
            model_key=request.model_key,
            after=position_of(page_position(request, now=self._now())),
            limit=page_size_of(request.page_size),
        )
        position = page.position
        return wire.ClassifyDataResponse(
            classifications=[to_api_classification(each) for each in page.classifications],
            next_page_token=page_token(request, position_text(position), now=self._now()) if position else "",
        )

    async def CleanupData(self, request: wire.CleanupDataRequest, _context: Context) -> wire.CleanupDataResponse:
        """Remove data of low value that is older than a time."""
        account_id = AccountId(request.account_id) if request.account_id else None
        job = await self._lifecycle.jobs.submit(
            NewJob(
                kind=JobKind.CLEANUP,
                tenant_id=TenantId(request.tenant_id),
                account_id=account_id,
                request=cleanup_request(
                    cutoff_time=convert.from_api_time(request.cutoff_time, "cutoff_time"),
                    data_types=request.data_types,
                    account_id=account_id,
                    max_importance=from_api_importance(request.max_importance),
                ),
                validate_only=request.validate_only,
                actor=convert.actor_of(request),
                request_id=request.request_id,
            ),
            wait=from_api_duration(request.wait) if request.HasField("wait") else None,
        )
        return wire.CleanupDataResponse(job=job_to_api(job))
