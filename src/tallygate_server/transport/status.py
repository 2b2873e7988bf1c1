"""The one table that turns errors into gRPC statuses.

An error's public reason is its class's `reason`, the name of an `ErrorReason`; its code is here.

Every failed call carries a `google.rpc.Status` whose first detail is an `ErrorInfo`; violations of fields
add a `BadRequest`, and what may be retried adds a `RetryInfo`. Whatever is not in the table is a defect of
ours: the caller gets a fixed sentence and an incident id, the log gets the stack.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from tallygate_server import errors
from tallygate_server.errors import InvalidRequest, TallygateError

_LOG = structlog.get_logger(__name__)

ERROR_DOMAIN: Final = "tallygate.dev"

MESSAGE_LENGTH_MAX: Final = 500
"""Characters of a status message; what is cut off is also in the details."""

DETAILS_BYTES_MAX: Final = 4_096
"""Size of the packed status. Clients refuse trailers beyond 8 KiB, and base64 adds a third."""

FACT_LENGTH_MAX: Final = 256
"""Characters of one metadata value."""

INTERNAL_MESSAGE: Final = "the server met an unexpected condition; its log has the details under the incident id"

_DETAILS_KEY: Final = "grpc-status-details-bin"


class ServerDeadlineExceeded(TallygateError):
    """The server's own deadline passed, for a call without one of the client's."""

    reason = "DEADLINE_EXCEEDED"

    def __init__(self, timeout_ms: int) -> None:
        """State the deadline."""
        super().__init__(f"the call took longer than {timeout_ms} ms", timeout_ms=timeout_ms)


class ShuttingDown(errors.Unavailable):
    """The server is draining and takes no new work."""

    reason = "SHUTTING_DOWN"
    retry_delay_ms: ClassVar[int] = 100

    def __init__(self) -> None:
        """Say so."""
        super().__init__("the server is shutting down")


class ServiceNotServed(TallygateError):
    """Health was asked for a service that is not served here."""

    reason = "NOT_FOUND"

    def __init__(self, service: str) -> None:
        """Name the service."""
        super().__init__(f"no service {service!r} is served here", kind="service", id=service)


_Code = grpc.StatusCode

CODE_BY_ERROR: Final[Mapping[type[TallygateError], grpc.StatusCode]] = {
    errors.InvalidRequest: _Code.INVALID_ARGUMENT,
    errors.MalformedMessage: _Code.INVALID_ARGUMENT,
    errors.PageTokenInvalid: _Code.INVALID_ARGUMENT,
    errors.CatalogInvalid: _Code.INVALID_ARGUMENT,
    errors.TenantNotFound: _Code.NOT_FOUND,
    errors.AccountNotFound: _Code.NOT_FOUND,
    errors.FeatureNotFound: _Code.NOT_FOUND,
    errors.MeterNotFound: _Code.NOT_FOUND,
    errors.QueryTooLarge: _Code.INVALID_ARGUMENT,
    errors.PlanNotFound: _Code.NOT_FOUND,
    errors.ReservationNotFound: _Code.NOT_FOUND,
    errors.SubscriptionNotFound: _Code.NOT_FOUND,
    errors.NotFound: _Code.NOT_FOUND,
    ServiceNotServed: _Code.NOT_FOUND,
    errors.RequestIdReused: _Code.ALREADY_EXISTS,
    errors.SubscriptionExists: _Code.ALREADY_EXISTS,
    errors.IdentityConflict: _Code.ALREADY_EXISTS,
    errors.EntryNotFound: _Code.NOT_FOUND,
    errors.EntryAlreadyReversed: _Code.FAILED_PRECONDITION,
    errors.PeriodClosed: _Code.FAILED_PRECONDITION,
    errors.CompressionFailed: _Code.INTERNAL,
    errors.IntegrityViolation: _Code.DATA_LOSS,
    errors.SegmentGone: _Code.UNAVAILABLE,
    errors.StorageLimitExceeded: _Code.FAILED_PRECONDITION,
    errors.CriticalDataLoss: _Code.FAILED_PRECONDITION,
    errors.ArchiveCorruption: _Code.DATA_LOSS,
    errors.RetrievalTimeout: _Code.DEADLINE_EXCEEDED,
    errors.ConsentRequired: _Code.FAILED_PRECONDITION,
    errors.LegalHoldActive: _Code.FAILED_PRECONDITION,
    errors.SchemaDrift: _Code.FAILED_PRECONDITION,
    errors.FormNotRestorable: _Code.FAILED_PRECONDITION,
    errors.JobEnded: _Code.FAILED_PRECONDITION,
    errors.PlanOutdated: _Code.FAILED_PRECONDITION,
    errors.PolicyVersionMismatch: _Code.FAILED_PRECONDITION,
    errors.DryRunRequired: _Code.FAILED_PRECONDITION,
    errors.IllegalTransition: _Code.FAILED_PRECONDITION,
    errors.FeatureNotMetered: _Code.FAILED_PRECONDITION,
    errors.ReservationClosed: _Code.FAILED_PRECONDITION,
    errors.BillingProviderRequired: _Code.FAILED_PRECONDITION,
    errors.BillingProviderNotConfigured: _Code.FAILED_PRECONDITION,
    errors.PaymentRefused: _Code.FAILED_PRECONDITION,
    errors.CustomerNotFound: _Code.FAILED_PRECONDITION,
    errors.WebhookSourceNotConfigured: _Code.FAILED_PRECONDITION,
    errors.SignatureInvalid: _Code.UNAUTHENTICATED,
    errors.EventTimeOutOfRange: _Code.INVALID_ARGUMENT,
    errors.EventPropertyInvalid: _Code.INVALID_ARGUMENT,
    errors.EventIdReused: _Code.ALREADY_EXISTS,
    errors.ModelPriceNotFound: _Code.FAILED_PRECONDITION,
    errors.RevisionNotReached: _Code.FAILED_PRECONDITION,
    errors.PriceNotFound: _Code.NOT_FOUND,
    errors.AccountDeleted: _Code.FAILED_PRECONDITION,
    errors.CatalogConflict: _Code.FAILED_PRECONDITION,
    errors.CatalogRevisionMismatch: _Code.FAILED_PRECONDITION,
    errors.RequestInProgress: _Code.ABORTED,
    errors.OperationInProgress: _Code.ABORTED,
    errors.Unavailable: _Code.UNAVAILABLE,
    errors.StoreUnavailable: _Code.UNAVAILABLE,
    errors.BillingProviderUnavailable: _Code.UNAVAILABLE,
    errors.OutcomeUnknown: _Code.UNAVAILABLE,
    errors.CountersUnavailable: _Code.UNAVAILABLE,
    ShuttingDown: _Code.UNAVAILABLE,
    errors.Overloaded: _Code.RESOURCE_EXHAUSTED,
    errors.WatcherTooSlow: _Code.RESOURCE_EXHAUSTED,
    errors.ResumePointLost: _Code.OUT_OF_RANGE,
    ServerDeadlineExceeded: _Code.DEADLINE_EXCEEDED,
    errors.NotBuilt: _Code.UNIMPLEMENTED,
}


_CODE_BY_REASON: Final = {error.reason: code for error, code in CODE_BY_ERROR.items()}


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed call as it goes over the wire."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]

    @property
    def code_number(self) -> int:
        """The code as gRPC numbers it."""
        return _code_number(self.code)


def failure_of(error: BaseException, *, method: str) -> Failure:
    """Return what the caller of the method is told about the error; unexpected errors are logged here."""
    code, status = _status_of(error, method=method)
    return Failure(code, status.message, ((_DETAILS_KEY, status.SerializeToString()),))


def status_message_of(error: BaseException, *, method: str) -> status_pb2.Status:
    """Return the error as the outcome of one item of a batch."""
    return _status_of(error, method=method)[1]


def status_of_facts(
    reason: str, message: str, facts: Mapping[str, str], violations: Sequence[tuple[str, str]] = ()
) -> status_pb2.Status:
    """Return an error that was written down before as its status: reason, message, facts, and wrong fields."""
    code = _CODE_BY_REASON.get(reason, _Code.INTERNAL)
    info = error_details_pb2.ErrorInfo(
        reason=reason,
        domain=ERROR_DOMAIN,
        metadata={key: _cut(value, FACT_LENGTH_MAX) for key, value in facts.items()},
    )
    status = status_pb2.Status(code=_code_number(code), message=_cut(message, MESSAGE_LENGTH_MAX))
    status.details.append(_packed(info))
    if violations:
        error = InvalidRequest([errors.FieldViolation(field, description) for field, description in violations])
        status.details.append(_packed(_bad_request(error, DETAILS_BYTES_MAX - status.ByteSize())))
    return status


def _status_of(error: BaseException, *, method: str) -> tuple[grpc.StatusCode, status_pb2.Status]:
    code = _code_of(error)
    if code is None or not isinstance(error, TallygateError):
        return _Code.INTERNAL, _incident(error, method)
    info = error_details_pb2.ErrorInfo(
        reason=error.reason,
        domain=ERROR_DOMAIN,
        metadata={key: _cut(value, FACT_LENGTH_MAX) for key, value in error.facts.items()},
    )
    status = status_pb2.Status(code=_code_number(code), message=_cut(error.message, MESSAGE_LENGTH_MAX))
    if isinstance(error, InvalidRequest):
        info.metadata["violations"] = str(len(error.violations))
    status.details.append(_packed(info))
    if isinstance(error, errors.Unavailable | errors.Overloaded | errors.RequestInProgress):
        retry = error_details_pb2.RetryInfo(retry_delay=Duration())
        retry.retry_delay.FromMilliseconds(error.retry_delay_ms)
        status.details.append(_packed(retry))
    if isinstance(error, InvalidRequest):
        room = DETAILS_BYTES_MAX - status.ByteSize()
        status.details.append(_packed(_bad_request(error, room)))
    return code, status


def _code_of(error: BaseException) -> grpc.StatusCode | None:
    """Return the code in the error's own row, or in that of its nearest ancestor."""
    return next((CODE_BY_ERROR[cls] for cls in type(error).__mro__ if cls in CODE_BY_ERROR), None)


def _incident(error: BaseException, method: str) -> status_pb2.Status:
    incident_id = secrets.token_hex(8)
    _LOG.error("call_failed_unexpectedly", method=method, incident_id=incident_id, exc_info=error)
    info = error_details_pb2.ErrorInfo(reason="INTERNAL", domain=ERROR_DOMAIN, metadata={"incident_id": incident_id})
    return status_pb2.Status(code=_code_number(_Code.INTERNAL), message=INTERNAL_MESSAGE, details=[_packed(info)])


def _bad_request(error: InvalidRequest, bytes_max: int) -> error_details_pb2.BadRequest:
    """Name as many violations, first ones first, as fit; `violations` in the metadata has their number."""
    bad_request = error_details_pb2.BadRequest()
    for violation in error.violations:
        bad_request.field_violations.add(
            field=_cut(violation.field, FACT_LENGTH_MAX),
            description=_cut(violation.description, FACT_LENGTH_MAX),
            reason=violation.rule,
        )
        if bad_request.ByteSize() > bytes_max and len(bad_request.field_violations) > 1:
            del bad_request.field_violations[-1]
            break
    return bad_request


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def _cut(text: str, length_max: int) -> str:
    return text if len(text) <= length_max else text[: length_max - 1] + "…"


def _code_number(code: grpc.StatusCode) -> int:
    number: int = code.value[0]
    return number
