"""Between the wire messages of corrections and the use cases."""

from __future__ import annotations

from tallygate.v1 import access_pb2, admin_service_pb2, usage_service_pb2
from tallygate_server.corrections import Correction, CorrectionAnswer, Reversal, ReversalAnswer
from tallygate_server.domain.corrections import Denial
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.transport import convert


def from_api_reversal(request: usage_service_pb2.ReverseUsageRequest) -> Reversal:
    """Convert a valid reversal."""
    return Reversal(
        tenant_id=TenantId(request.tenant_id),
        account_id=AccountId(request.account_id),
        entry_id=request.entry_id,
        quantity=request.quantity if request.HasField("quantity") else None,
        reason_text=request.reason_text,
        request_id=request.request_id,
        actor=convert.actor_of(request),
    )


def to_api_reversal(
    request: usage_service_pb2.ReverseUsageRequest, answer: ReversalAnswer
) -> usage_service_pb2.ReverseUsageResponse:
    """Convert what became of the reversal."""
    return usage_service_pb2.ReverseUsageResponse(
        entry=convert.to_api_usage_entry(answer.entry, tenant_id=request.tenant_id, account_id=request.account_id),
        reversible_quantity=answer.reversible_quantity,
        quota=convert.to_api_quota(answer.usage),
        redeemable_denials=[_to_api_denial(denial) for denial in answer.redeemable_denials],
        redeemable_denial_count=answer.redeemable_denial_count,
        replayed=answer.replayed,
        revision=answer.usage.revision,
    )


def from_api_correction(request: admin_service_pb2.CorrectUsageRequest) -> Correction:
    """Convert a valid correction; raise InvalidRequest of its time if that is no instant."""
    return Correction(
        tenant_id=TenantId(request.tenant_id),
        account_id=AccountId(request.account_id),
        feature_key=FeatureKey(request.feature_key),
        quantity=request.quantity,
        event_time=convert.from_api_optional_time(request, "event_time"),
        reason_text=request.reason_text,
        request_id=request.request_id,
        actor=convert.actor_of(request),
    )


def to_api_correction(
    request: admin_service_pb2.CorrectUsageRequest, answer: CorrectionAnswer
) -> admin_service_pb2.CorrectUsageResponse:
    """Convert what became of the correction."""
    return admin_service_pb2.CorrectUsageResponse(
        entry=convert.to_api_usage_entry(answer.entry, tenant_id=request.tenant_id, account_id=request.account_id),
        quota=convert.to_api_quota(answer.usage),
        replayed=answer.replayed,
    )


def _to_api_denial(denial: Denial) -> usage_service_pb2.UsageDenial:
    return usage_service_pb2.UsageDenial(
        denial_time=convert.to_api_instant(denial.position.recorded_time),
        feature_key=denial.feature_key,
        quantity=denial.quantity,
        reason=access_pb2.DECISION_REASON_EXHAUSTED,
        request_id=denial.request_id,
    )
