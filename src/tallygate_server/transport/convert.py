"""Between wire messages and domain values: instants, JSON values, enums, the hot calls and usage."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import lru_cache
from typing import Any, Final, Protocol, TypeVar, cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import NULL_VALUE, ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from tallygate.v1 import (
    access_pb2,
    entitlement_pb2,
    entitlement_service_pb2,
    period_pb2,
    usage_pb2,
    usage_service_pb2,
)
from tallygate_server.domain.call import Check, CheckAnswer, Increment, IncrementAnswer
from tallygate_server.domain.catalog import ConfigValue, FeatureKind
from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.domain.limits import EVENT_AGE_SECONDS_MAX, EVENT_AHEAD_SECONDS_MAX
from tallygate_server.domain.period import PeriodKind
from tallygate_server.errors import FieldViolation, InvalidRequest, NotBuilt, RevisionNotReached, TallygateError
from tallygate_server.transport.status import status_message_of
from tallygate_server.transport.use_cases import Now
from tallygate_server.usage_queries import FeatureUsage, UsageEntry

ACTOR_DEFAULT: Final = "api"
"""Who did it, while callers are not authenticated and do not say."""

_CACHED_MAX: Final = 8_192
_NANOS_PER_SECOND: Final = 1_000_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS_MIN: Final = -62_135_596_800  # 0001-01-01
_SECONDS_MAX: Final = 253_402_300_799  # 9999-12-31
_EVENT_AGE_MAX: Final = timedelta(seconds=EVENT_AGE_SECONDS_MAX)
_EVENT_AHEAD_MAX: Final = timedelta(seconds=EVENT_AHEAD_SECONDS_MAX)

_ALLOWED: Final = access_pb2.DECISION_ALLOWED
_DENIED: Final = access_pb2.DECISION_DENIED

_Member = TypeVar("_Member", bound=Enum)
_Wire = TypeVar("_Wire", bound=int)


def api_enum(members: type[_Member], wire: type[_Wire], prefix: str) -> dict[_Member, _Wire]:
    """Pair the members of a domain enum with the wire values of the same names; KeyError if one has none."""
    numbers = dict(cast("Any", wire).items())
    return {member: numbers[f"{prefix}_{member.name}"] for member in members}


def domain_enum(members: type[_Member], wire: type[_Wire], prefix: str) -> dict[int, _Member]:
    """Pair wire values with the domain members of the same names; values without a member are left out."""
    return {number: member for member, number in api_enum(members, wire, prefix).items()}


DECISION_REASON: Final = api_enum(Reason, access_pb2.DecisionReason, "DECISION_REASON")
FEATURE_KIND: Final = {
    **dict[FeatureKind | None, access_pb2.FeatureKind](
        api_enum(FeatureKind, access_pb2.FeatureKind, "FEATURE_KIND").items()
    ),
    None: access_pb2.FEATURE_KIND_UNSPECIFIED,
}
PERIOD_KIND: Final = api_enum(PeriodKind, period_pb2.PeriodKind, "PERIOD_KIND")


# Instants and values


@lru_cache(_CACHED_MAX)
def _cached_timestamp(instant: datetime) -> Timestamp:
    return to_api_instant(instant)


def to_api_time(instant: datetime | None) -> Timestamp | None:
    """Convert an instant that many answers share, such as a reset; the message must not be changed."""
    return None if instant is None else _cached_timestamp(instant)


def to_api_optional_instant(instant: datetime | None) -> Timestamp | None:
    """Convert an instant that may be absent."""
    return None if instant is None else to_api_instant(instant)


def to_api_instant(instant: datetime) -> Timestamp:
    """Convert an instant that is unlike all others, such as the time of an entry."""
    elapsed = instant - _EPOCH
    return Timestamp(seconds=elapsed.days * 86_400 + elapsed.seconds, nanos=elapsed.microseconds * 1_000)


def from_api_time(time: Timestamp, field: str) -> datetime:
    """Convert a timestamp, cut to microseconds; raise InvalidRequest of the field if it is no instant."""
    if not 0 <= time.nanos < _NANOS_PER_SECOND or not _SECONDS_MIN <= time.seconds <= _SECONDS_MAX:
        raise InvalidRequest.of(field, "is not an instant between the years 1 and 9999")
    return _EPOCH + timedelta(seconds=time.seconds, microseconds=time.nanos // 1_000)


@lru_cache(_CACHED_MAX)
def _duration(milliseconds: int) -> Duration:
    return Duration(seconds=milliseconds // 1_000, nanos=milliseconds % 1_000 * 1_000_000)


def to_api_value(value: ConfigValue) -> Value:
    """Convert a JSON value."""
    if value is None:
        return Value(null_value=NULL_VALUE)
    if isinstance(value, bool):
        return Value(bool_value=value)
    if isinstance(value, int | float):
        return Value(number_value=value)
    if isinstance(value, str):
        return Value(string_value=value)
    if isinstance(value, list):
        return Value(list_value=ListValue(values=[to_api_value(item) for item in value]))
    return Value(struct_value=to_api_struct(value))


def to_api_struct(values: dict[str, ConfigValue]) -> Struct:
    """Convert a JSON object."""
    struct = Struct()
    for key, value in values.items():
        struct.fields[key].CopyFrom(to_api_value(value))
    return struct


def from_api_value(value: Value) -> ConfigValue:
    """Convert a JSON value; whole numbers become ints."""
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number: float = value.number_value
        return int(number) if number.is_integer() else number
    if kind == "struct_value":
        return from_api_struct(value.struct_value)
    if kind == "list_value":
        return [from_api_value(item) for item in value.list_value.values]
    if kind == "string_value":
        return str(value.string_value)
    if kind == "bool_value":
        return bool(value.bool_value)
    return None


def from_api_struct(struct: Struct) -> dict[str, ConfigValue]:
    """Convert a JSON object."""
    return {key: from_api_value(value) for key, value in struct.fields.items()}


def from_api_optional_time(request: Message, field: str) -> datetime | None:
    """Convert the request's timestamp of this name, None if absent."""
    return from_api_time(getattr(request, field), field) if request.HasField(field) else None


def optional(request: Message, field: str) -> Any:
    """Return the value of the optional field of this name, None if absent."""
    return getattr(request, field) if request.HasField(field) else None


class _WithActor(Protocol):
    actor: str


def actor_of(request: _WithActor) -> str:
    """Return who the audit log shall name."""
    return request.actor or ACTOR_DEFAULT


def refuse_unless(built: bool, what: str) -> None:  # noqa: FBT001 - reads as a sentence
    """Return if what is asked is built; else raise NotBuilt naming it."""
    if not built:
        raise NotBuilt(what)


def demand_revision(wanted: int, current: int) -> None:
    """Return if the answer has reached the wanted revision; else raise RevisionNotReached."""
    if current < wanted:
        raise RevisionNotReached(wanted=wanted, current=current)


# Checks


def from_api_check(request: entitlement_service_pb2.CheckAccessRequest) -> Check:
    """Convert a valid check."""
    return Check(
        TenantId(request.tenant_id),
        AccountId(request.account_id),
        FeatureKey(request.feature_key),
        # Zero is refused by the rules, so a zero is an absent field, which means 1.
        request.quantity or 1,
        request.min_revision,
    )


def to_api_check(answer: CheckAnswer) -> entitlement_service_pb2.CheckAccessResponse:
    """Convert the answer of a check."""
    reason = answer.reason
    reset_time = answer.reset_time
    grace_end_time = answer.grace_end_time
    return entitlement_service_pb2.CheckAccessResponse(
        decision=_ALLOWED if reason <= Reason.OVERAGE else _DENIED,
        reason=DECISION_REASON[reason],
        feature_kind=FEATURE_KIND[answer.feature_kind],
        value=None if answer.value is None else to_api_value(answer.value),
        limit_quantity=answer.limit_quantity,
        used_quantity=answer.used_quantity,
        held_quantity=answer.held_quantity,
        remaining_quantity=answer.remaining_quantity,
        reset_time=None if reset_time is None else _cached_timestamp(reset_time),
        threshold_percent=answer.threshold_percent,
        grace_end_time=None if grace_end_time is None else _cached_timestamp(grace_end_time),
        upgrade_url=answer.upgrade_url,
        plan_key=answer.plan_key,
        revision=answer.revision,
        cache_ttl=_duration(answer.cache_ttl_ms),
        stale=answer.stale,
        threshold_quantity=answer.threshold_quantity,
    )


def encode_check(answer: CheckAnswer) -> bytes:
    """Encode the answer of a check, in half the time that `to_api_check` and the encoder take.

    What answers share is encoded once: encoded messages may be put one behind the other, and a reader merges
    their fields.
    """
    if answer.value is not None or answer.grace_end_time is not None or answer.upgrade_url or answer.stale:
        return to_api_check(answer).SerializeToString()
    own = entitlement_service_pb2.CheckAccessResponse()
    own.used_quantity = answer.used_quantity
    own.remaining_quantity = answer.remaining_quantity
    if answer.held_quantity:
        own.held_quantity = answer.held_quantity
    if answer.threshold_percent:
        own.threshold_percent = answer.threshold_percent
    if answer.threshold_quantity:
        own.threshold_quantity = answer.threshold_quantity
    return (
        _CHECK_DECISIONS[answer.feature_kind][answer.reason]
        + own.SerializeToString()
        + _check_terms(answer.limit_quantity, answer.reset_time, answer.plan_key, answer.revision)
        + _cache_ttl(answer.cache_ttl_ms)
    )


_CHECK_DECISIONS: Final = {
    kind: {
        reason: entitlement_service_pb2.CheckAccessResponse(
            decision=_ALLOWED if reason.allows else _DENIED,
            reason=DECISION_REASON[reason],
            feature_kind=wire_kind,
        ).SerializeToString()
        for reason in Reason
    }
    for kind, wire_kind in FEATURE_KIND.items()
}


@lru_cache(_CACHED_MAX)
def _check_terms(limit_quantity: int, reset_time: datetime | None, plan_key: str, revision: int) -> bytes:
    return entitlement_service_pb2.CheckAccessResponse(
        limit_quantity=limit_quantity,
        reset_time=to_api_time(reset_time),
        plan_key=plan_key,
        revision=revision,
    ).SerializeToString()


@lru_cache(_CACHED_MAX)
def _cache_ttl(cache_ttl_ms: int) -> bytes:
    return entitlement_service_pb2.CheckAccessResponse(cache_ttl=_duration(cache_ttl_ms)).SerializeToString()


def to_api_check_result(
    outcome: CheckAnswer | TallygateError, *, method: str
) -> entitlement_service_pb2.BatchCheckAccessResult:
    """Convert the outcome of one check of a batch."""
    if isinstance(outcome, TallygateError):
        return entitlement_service_pb2.BatchCheckAccessResult(error=status_message_of(outcome, method=method))
    return entitlement_service_pb2.BatchCheckAccessResult(answer=to_api_check(outcome))


def wanted_entitlements(
    request: entitlement_service_pb2.ListEntitlementsRequest, everything: Sequence[tuple[str, CheckAnswer]]
) -> list[tuple[str, CheckAnswer]]:
    """Keep what the request's filters let through."""
    return [
        (key, answer)
        for key, answer in everything
        if (request.include_denied or answer.reason.allows or answer.reason is Reason.EXHAUSTED)
        and request.feature_key in ("", key)
        and request.kind in (access_pb2.FEATURE_KIND_UNSPECIFIED, FEATURE_KIND[answer.feature_kind])
    ]


def to_api_entitlement(feature_key: str, answer: CheckAnswer) -> entitlement_pb2.Entitlement:
    """Convert the answer of a check of one unit to an entry in the list of entitlements."""
    metered = answer.feature_kind is not None and answer.feature_kind.metered
    decision = _ALLOWED if answer.reason.allows else _DENIED
    quota = usage_pb2.Quota(
        feature_key=feature_key,
        feature_kind=FEATURE_KIND[answer.feature_kind],
        decision=decision,
        reason=DECISION_REASON[answer.reason],
        limit_quantity=answer.limit_quantity,
        used_quantity=answer.used_quantity,
        held_quantity=answer.held_quantity,
        remaining_quantity=answer.remaining_quantity,
        reset_time=to_api_time(answer.reset_time),
        threshold_percent=answer.threshold_percent,
        threshold_quantity=answer.threshold_quantity,
        plan_key=answer.plan_key,
        grace_end_time=to_api_time(answer.grace_end_time),
    )
    return entitlement_pb2.Entitlement(
        feature_key=feature_key,
        feature_kind=FEATURE_KIND[answer.feature_kind],
        decision=decision,
        reason=DECISION_REASON[answer.reason],
        value=to_api_value(answer.value) if answer.feature_kind is FeatureKind.CONFIG else None,
        quota=quota if metered else None,
        grace_end_time=to_api_time(answer.grace_end_time),
    )


# Increments


def from_api_increment(request: usage_service_pb2.IncrementRequest, now: Now, *, path: str = "") -> Increment:
    """Convert a valid increment; raise InvalidRequest of `path` + event_time if that is out of its window."""
    event_time: datetime | None = None
    if request.HasField("event_time"):
        event_time = from_api_event_time(request.event_time, now(), f"{path}event_time")
    dimensions = request.dimensions
    return Increment(
        TenantId(request.tenant_id),
        AccountId(request.account_id),
        FeatureKey(request.feature_key),
        request.quantity or 1,
        request.request_id,
        event_time,
        # Copying an empty map costs as much as the rest of the conversion.
        dict(dimensions) if dimensions else {},
        request.ack == usage_service_pb2.ACK_MODE_ACCEPTED,
    )


def from_api_increments(request: usage_service_pb2.BatchIncrementRequest, now: Now) -> list[Increment]:
    """Convert a valid batch; an InvalidRequest names every item at fault."""
    increments: list[Increment] = []
    violations: list[FieldViolation] = []
    at = now()
    for index, item in enumerate(request.increments):
        try:
            increments.append(from_api_increment(item, lambda: at, path=f"increments[{index}]."))
        except InvalidRequest as error:
            violations.extend(error.violations)
    if request.atomic and not violations:
        violations = _unlike_items(increments)
    if violations:
        raise InvalidRequest(violations)
    return increments


def to_api_increment(answer: IncrementAnswer) -> usage_service_pb2.IncrementResponse:
    """Convert the answer of an increment."""
    reason = answer.reason
    reset_time = answer.reset_time
    grace_end_time = answer.grace_end_time
    return usage_service_pb2.IncrementResponse(
        decision=_ALLOWED if reason <= Reason.OVERAGE else _DENIED,
        reason=DECISION_REASON[reason],
        used_quantity=answer.used_quantity,
        held_quantity=answer.held_quantity,
        limit_quantity=answer.limit_quantity,
        remaining_quantity=answer.remaining_quantity,
        reset_time=None if reset_time is None else _cached_timestamp(reset_time),
        threshold_percent=answer.threshold_percent,
        replayed=answer.replayed,
        entry_id=str(answer.entry_id) if answer.entry_id else "",
        revision=answer.revision,
        upgrade_url=answer.upgrade_url,
        plan_key=answer.plan_key,
        grace_end_time=None if grace_end_time is None else _cached_timestamp(grace_end_time),
        threshold_quantity=answer.threshold_quantity,
    )


def encode_increment(answer: IncrementAnswer) -> bytes:
    """Encode the answer of an increment quickly; see `encode_check`."""
    if answer.grace_end_time is not None or answer.upgrade_url:
        return to_api_increment(answer).SerializeToString()
    own = usage_service_pb2.IncrementResponse()
    own.used_quantity = answer.used_quantity
    own.remaining_quantity = answer.remaining_quantity
    if answer.held_quantity:
        own.held_quantity = answer.held_quantity
    if answer.threshold_percent:
        own.threshold_percent = answer.threshold_percent
    if answer.threshold_quantity:
        own.threshold_quantity = answer.threshold_quantity
    if answer.replayed:
        own.replayed = True
    if answer.entry_id:
        own.entry_id = str(answer.entry_id)
    return (
        _INCREMENT_DECISIONS[answer.reason]
        + own.SerializeToString()
        + _increment_terms(answer.limit_quantity, answer.reset_time, answer.plan_key, answer.revision)
    )


_INCREMENT_DECISIONS: Final = {
    reason: usage_service_pb2.IncrementResponse(
        decision=_ALLOWED if reason.allows else _DENIED, reason=DECISION_REASON[reason]
    ).SerializeToString()
    for reason in Reason
}


@lru_cache(_CACHED_MAX)
def _increment_terms(limit_quantity: int, reset_time: datetime | None, plan_key: str, revision: int) -> bytes:
    return usage_service_pb2.IncrementResponse(
        limit_quantity=limit_quantity,
        reset_time=to_api_time(reset_time),
        plan_key=plan_key,
        revision=revision,
    ).SerializeToString()


def to_api_increment_result(
    outcome: IncrementAnswer | TallygateError, *, method: str
) -> usage_service_pb2.BatchIncrementResult:
    """Convert the outcome of one increment of a batch."""
    if isinstance(outcome, TallygateError):
        return usage_service_pb2.BatchIncrementResult(error=status_message_of(outcome, method=method))
    return usage_service_pb2.BatchIncrementResult(answer=to_api_increment(outcome))


def from_api_event_time(time: Timestamp, now: datetime, field: str) -> datetime:
    """Convert when usage happened; raise InvalidRequest of the field if that is out of its window."""
    event_time = from_api_time(time, field)
    if event_time < now - _EVENT_AGE_MAX:
        raise InvalidRequest.of(field, f"is more than {_EVENT_AGE_MAX.days} days ago")
    if event_time > now + _EVENT_AHEAD_MAX:
        raise InvalidRequest.of(field, f"is more than {EVENT_AHEAD_SECONDS_MAX // 60} minutes in the future")
    return event_time


def _unlike_items(increments: Sequence[Increment]) -> list[FieldViolation]:
    """Name the items that cannot share a transaction with the first one."""
    first = increments[0]
    violations: list[FieldViolation] = []
    for index, increment in enumerate(increments):
        if increment.tenant_id != first.tenant_id:
            violations.append(
                FieldViolation(f"increments[{index}].tenant_id", "differs from the first item's in an atomic batch")
            )
        if increment.accepted != first.accepted:
            violations.append(
                FieldViolation(f"increments[{index}].ack", "differs from the first item's in an atomic batch")
            )
    return violations


# Usage


def entry_id_of(position: str) -> int | None:
    """Return the ledger entry at which the page before ended; None for the first page."""
    return int(position) if position else None


def to_api_quota(usage: FeatureUsage) -> usage_pb2.Quota:
    """Convert where an account stands with a feature."""
    reason = usage.reason
    return usage_pb2.Quota(
        feature_key=usage.feature_key,
        feature_kind=FEATURE_KIND[usage.feature_kind],
        decision=_ALLOWED if reason.allows else _DENIED,
        reason=DECISION_REASON[reason],
        limit_quantity=usage.limit_quantity,
        used_quantity=usage.used_quantity,
        held_quantity=usage.held_quantity,
        remaining_quantity=usage.remaining_quantity,
        period_kind=PERIOD_KIND[usage.period_kind],
        period=_period(usage) if usage.feature_kind is FeatureKind.COUNTER else None,
        reset_time=to_api_time(usage.period_end),
        threshold_percent=usage.threshold_percent,
        plan_key=usage.plan_key,
    )


def to_api_usage_entry(entry: UsageEntry, *, tenant_id: str, account_id: str) -> usage_pb2.UsageEntry:
    """Convert a line of the account's ledger."""
    return usage_pb2.UsageEntry(
        entry_id=str(entry.entry_id),
        tenant_id=tenant_id,
        account_id=account_id,
        feature_key=entry.feature_key,
        # The stored numbers are those of the contract.
        kind=usage_pb2.UsageEntryKind.Name(entry.kind),
        quantity=entry.quantity,
        used_quantity=entry.used_after,
        request_id=entry.request_id,
        event_time=to_api_instant(entry.event_time),
        commit_time=to_api_instant(entry.recorded_time),
        period=(
            None
            if entry.period_kind is PeriodKind.LIFETIME
            else period_pb2.Period(start_time=to_api_time(entry.period_start), end_time=to_api_time(entry.period_end))
        ),
        dimensions=entry.dimensions,
        reversed_entry_id=str(entry.reversed_entry_id) if entry.reversed_entry_id is not None else "",
        reservation_id=entry.reservation_id,
        reason_text=entry.reason_text,
        actor=entry.actor,
        plan_key=entry.plan_key,
    )


def _period(usage: FeatureUsage) -> period_pb2.Period:
    return period_pb2.Period(start_time=to_api_time(usage.period_start), end_time=to_api_time(usage.period_end))
