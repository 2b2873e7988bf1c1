"""Errors become statuses: every type, every fact, nothing else."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from structlog.testing import capture_logs

from tallygate.v1.error_reason_pb2 import ErrorReason
from tallygate_server import errors
from tallygate_server.errors import FieldViolation, InvalidRequest, TallygateError
from tallygate_server.transport import status
from tallygate_server.transport.status import CODE_BY_ERROR, DETAILS_BYTES_MAX, failure_of


def _subclasses(cls: type[TallygateError]) -> set[type[TallygateError]]:
    return {found for direct in cls.__subclasses__() for found in {direct, *_subclasses(direct)}}


ERROR_TYPES = sorted(_subclasses(TallygateError), key=lambda cls: cls.__name__)


def _unpacked(failure: status.Failure) -> status_pb2.Status:
    packed = dict(failure.trailing_metadata)["grpc-status-details-bin"]
    assert isinstance(packed, bytes)
    return status_pb2.Status.FromString(packed)


def _info(failure: status.Failure) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo()
    assert _unpacked(failure).details[0].Unpack(info)
    return info


@pytest.mark.parametrize("error_type", ERROR_TYPES, ids=lambda cls: cls.__name__)
def test_every_error_has_a_code_and_a_public_reason(error_type: type[TallygateError]) -> None:
    assert error_type in CODE_BY_ERROR
    assert f"ERROR_REASON_{error_type.reason}" in dict(ErrorReason.items())


def test_the_root_has_a_public_reason_too() -> None:
    assert f"ERROR_REASON_{TallygateError.reason}" in dict(ErrorReason.items())


def test_a_rule_about_the_whole_request_reads_as_a_sentence() -> None:
    error = InvalidRequest([FieldViolation("", "end_time must be after start_time"), FieldViolation("c", "is missing")])

    assert failure_of(error, method="/a/b").message == "end_time must be after start_time; c: is missing"


def test_facts_become_metadata() -> None:
    failure = failure_of(errors.RevisionNotReached(wanted=9, current=7), method="/a/b")

    assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
    assert _info(failure).reason == "REVISION_NOT_REACHED"
    assert _info(failure).domain == "tallygate.dev"
    assert dict(_info(failure).metadata) == {"wanted": "9", "current": "7", "field": "min_revision"}


def test_the_status_repeats_code_and_message() -> None:
    failure = failure_of(errors.TenantNotFound("nowhere"), method="/a/b")

    assert _unpacked(failure).code == failure.code_number == 5
    assert _unpacked(failure).message == failure.message == "tenant_id: there is no tenant 'nowhere'"


def test_violations_become_a_bad_request() -> None:
    error = InvalidRequest([FieldViolation("a.b", "is wrong", "string.pattern"), FieldViolation("c", "is missing")])

    failure = failure_of(error, method="/a/b")

    bad_request = error_details_pb2.BadRequest()
    assert _unpacked(failure).details[1].Unpack(bad_request)
    assert [(v.field, v.description, v.reason) for v in bad_request.field_violations] == [
        ("a.b", "is wrong", "string.pattern"),
        ("c", "is missing", ""),
    ]
    assert _info(failure).metadata["violations"] == "2"


def test_many_violations_are_cut_to_what_a_client_takes_in_trailers() -> None:
    error = InvalidRequest([FieldViolation(f"increments[{i}].account_id", "is wrong " * 20) for i in range(1_000)])

    failure = failure_of(error, method="/a/b")

    bad_request = error_details_pb2.BadRequest()
    assert _unpacked(failure).details[1].Unpack(bad_request)
    assert _unpacked(failure).ByteSize() <= DETAILS_BYTES_MAX + 100
    assert len(bad_request.field_violations) > 5
    assert _info(failure).metadata["violations"] == "1000"
    assert len(failure.message) <= status.MESSAGE_LENGTH_MAX


def test_a_single_violation_is_never_cut_away() -> None:
    failure = failure_of(InvalidRequest.of("x" * 10_000, "y" * 10_000), method="/a/b")

    bad_request = error_details_pb2.BadRequest()
    assert _unpacked(failure).details[1].Unpack(bad_request)
    assert len(bad_request.field_violations) == 1
    assert _unpacked(failure).ByteSize() <= DETAILS_BYTES_MAX


@pytest.mark.parametrize(
    ("error", "delay_ms"), [(errors.StoreUnavailable("gone"), 500), (errors.Overloaded("busy"), 100)]
)
def test_what_may_be_retried_says_when(error: TallygateError, delay_ms: int) -> None:
    failure = failure_of(error, method="/a/b")

    retry = error_details_pb2.RetryInfo()
    assert _unpacked(failure).details[1].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == delay_ms


def test_an_unexpected_error_shows_nothing_of_itself_and_is_logged_with_its_stack() -> None:
    with capture_logs() as logs:
        failure = failure_of(ValueError("password=hunter2"), method="/a/b")

    assert failure.code is grpc.StatusCode.INTERNAL
    assert _info(failure).reason == "INTERNAL"
    assert "hunter2" not in repr(failure)
    assert logs[0]["incident_id"] == _info(failure).metadata["incident_id"]
    assert isinstance(logs[0]["exc_info"], ValueError)


def test_a_bare_root_error_counts_as_unexpected() -> None:
    with capture_logs() as logs:
        failure = failure_of(TallygateError("half-finished"), method="/a/b")

    assert failure.code is grpc.StatusCode.INTERNAL
    assert "half-finished" not in repr(failure)
    assert len(logs) == 1
