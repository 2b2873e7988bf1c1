"""Between wire messages and domain values: reservations."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from google.protobuf.duration_pb2 import Duration

from tallygate.v1 import access_pb2, catalog_pb2, period_pb2, reservation_pb2, usage_service_pb2
from tallygate_server.domain.catalog import OverrunPolicy
from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.domain.period import PeriodKind
from tallygate_server.domain.reservation import Reservation, ReservationState, Settlement
from tallygate_server.reservations import Commit, CommitAnswer, Extend, Release, Reserve, ReserveAnswer
from tallygate_server.transport import convert
from tallygate_server.transport.use_cases import Now

_STATE: Final = convert.api_enum(ReservationState, reservation_pb2.ReservationState, "RESERVATION_STATE")
_STATE_OF: Final = convert.domain_enum(ReservationState, reservation_pb2.ReservationState, "RESERVATION_STATE")
_POLICY: Final = convert.api_enum(OverrunPolicy, catalog_pb2.OverrunPolicy, "OVERRUN_POLICY")
_POLICY_OF: Final = convert.domain_enum(OverrunPolicy, catalog_pb2.OverrunPolicy, "OVERRUN_POLICY")
_SETTLEMENT: Final = convert.api_enum(Settlement, usage_service_pb2.ReservationSettlement, "RESERVATION_SETTLEMENT")
_REASON: Final = convert.api_enum(Reason, access_pb2.DecisionReason, "DECISION_REASON")


def from_api_reserve(request: usage_service_pb2.ReserveRequest, now: Now) -> Reserve:
    """Convert a valid request; raise InvalidRequest of event_time if that is out of its window."""
    event_time = None
    if request.HasField("event_time"):
        event_time = convert.from_api_event_time(request.event_time, now(), "event_time")
    return Reserve(
        tenant_id=TenantId(request.tenant_id),
        account_id=AccountId(request.account_id),
        feature_key=FeatureKey(request.feature_key),
        # Zero is refused by the rules, so a zero is an absent field, which means 1.
        quantity=request.quantity or 1,
        ttl=_from_api_duration(request.ttl),
        request_id=request.request_id,
        event_time=event_time,
        dimensions=dict(request.dimensions),
        overrun_policy=_POLICY_OF.get(request.overrun_policy),
    )


def from_api_commit(request: usage_service_pb2.CommitReservationRequest) -> Commit:
    """Convert a valid request."""
    return Commit(
        tenant_id=TenantId(request.tenant_id),
        account_id=AccountId(request.account_id),
        reservation_id=request.reservation_id,
        quantity=convert.optional(request, "quantity"),
        overrun_policy=_POLICY_OF.get(request.overrun_policy),
        dimensions=dict(request.dimensions),
    )


def from_api_release(request: usage_service_pb2.ReleaseReservationRequest) -> Release:
    """Convert a valid request."""
    return Release(
        tenant_id=TenantId(request.tenant_id),
        account_id=AccountId(request.account_id),
        reservation_id=request.reservation_id,
    )


def from_api_extend(request: usage_service_pb2.ExtendReservationRequest) -> Extend:
    """Convert a valid request."""
    return Extend(
        tenant_id=TenantId(request.tenant_id),
        account_id=AccountId(request.account_id),
        reservation_id=request.reservation_id,
        ttl=_from_api_duration(request.ttl),
    )


def from_api_state(state: int) -> ReservationState | None:
    """Convert the state of a filter; None for any."""
    return _STATE_OF.get(state)


def to_api_reservation(reservation: Reservation) -> reservation_pb2.Reservation:
    """Convert a reservation."""
    period = reservation.period
    return reservation_pb2.Reservation(
        reservation_id=reservation.reservation_id,
        tenant_id=reservation.tenant_id,
        account_id=reservation.account_id,
        feature_key=reservation.feature_key,
        state=_STATE[reservation.state],
        quantity=reservation.quantity,
        committed_quantity=reservation.committed_quantity,
        expire_time=convert.to_api_instant(reservation.expire_time),
        period=None
        if period.kind is PeriodKind.LIFETIME
        else period_pb2.Period(start_time=convert.to_api_time(period.start), end_time=convert.to_api_time(period.end)),
        overrun_policy=_POLICY[reservation.overrun_policy],
        dimensions=reservation.dimensions,
        request_id=reservation.request_id,
        entry_id=str(reservation.entry_id) if reservation.entry_id else "",
        create_time=convert.to_api_instant(reservation.create_time),
        close_time=convert.to_api_optional_instant(reservation.close_time),
    )


def to_api_reserve(answer: ReserveAnswer) -> usage_service_pb2.ReserveResponse:
    """Convert the answer of Reserve."""
    return usage_service_pb2.ReserveResponse(
        decision=_decision(answer.reason),
        reason=_REASON[answer.reason],
        reservation=to_api_reservation(answer.reservation) if answer.reservation is not None else None,
        used_quantity=answer.used_quantity,
        held_quantity=answer.held_quantity,
        limit_quantity=answer.limit_quantity,
        remaining_quantity=answer.remaining_quantity,
        reset_time=convert.to_api_time(answer.reset_time),
        replayed=answer.replayed,
        revision=answer.revision,
        upgrade_url=answer.upgrade_url,
        plan_key=answer.plan_key,
        grace_end_time=convert.to_api_time(answer.grace_end_time),
    )


def to_api_commit(answer: CommitAnswer) -> usage_service_pb2.CommitReservationResponse:
    """Convert the answer of CommitReservation."""
    reservation = answer.reservation
    counted = answer.settlement is not Settlement.REJECTED
    return usage_service_pb2.CommitReservationResponse(
        decision=_decision(answer.reason),
        reason=_REASON[answer.reason],
        reservation=to_api_reservation(reservation),
        settlement=_SETTLEMENT[answer.settlement],
        committed_quantity=reservation.committed_quantity if counted else 0,
        overdrawn_quantity=answer.overdrawn_quantity,
        used_quantity=answer.used_quantity,
        held_quantity=answer.held_quantity,
        limit_quantity=answer.limit_quantity,
        remaining_quantity=answer.remaining_quantity,
        reset_time=convert.to_api_time(reservation.period.end),
        threshold_percent=answer.threshold_percent,
        threshold_quantity=answer.threshold_quantity,
        replayed=answer.replayed,
        late=answer.late,
        entry_id=str(reservation.entry_id) if counted and reservation.entry_id else "",
        revision=answer.revision,
    )


def _decision(reason: Reason) -> access_pb2.Decision:
    return access_pb2.DECISION_ALLOWED if reason.allows else access_pb2.DECISION_DENIED


def _from_api_duration(duration: Duration) -> timedelta:
    """Convert a duration that the rules bound, cut to microseconds."""
    return timedelta(seconds=duration.seconds, microseconds=duration.nanos // 1_000)
