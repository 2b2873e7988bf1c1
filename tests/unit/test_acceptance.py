"""The quick checks never accept what the declared rules refuse, and accept what callers really send."""

from __future__ import annotations

import protovalidate
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from tallygate.v1.entitlement_service_pb2 import BatchCheckAccessRequest, CheckAccessRequest
from tallygate.v1.usage_service_pb2 import BatchIncrementRequest, IncrementRequest
from tallygate_server.domain import limits
from tallygate_server.transport import acceptance
from tests.support.transport_servers import a_check, an_increment

_VALIDATOR = protovalidate.Validator()


def _near(*values: int) -> st.SearchStrategy[int]:
    return st.one_of(
        st.sampled_from([v + d for v in values for d in (-1, 0, 1)]),
        st.integers(min_value=-(2**63), max_value=2**63 - 1),
    )


def _text(allowed: str, longest: int) -> st.SearchStrategy[str]:
    return st.one_of(
        st.text(alphabet=allowed, max_size=8),
        st.builds(lambda c, n: c * n, st.sampled_from(allowed), st.sampled_from([longest - 1, longest, longest + 1])),
        st.text(alphabet=st.characters(codec="utf-8"), max_size=4),
        st.builds(lambda a, b: a + b, st.text(alphabet=allowed, max_size=4), st.sampled_from("\n\r\0 {}é\x7f")),
    )


_KEYS = _text("abz09_.-", limits.KEY_LENGTH_MAX)
_SUBJECT = {
    "tenant_id": _text("abz09-", limits.TENANT_ID_LENGTH_MAX),
    "account_id": _text("aZ0._:@+=/|~-", limits.ACCOUNT_ID_LENGTH_MAX),
    "feature_key": _KEYS,
}
_CHECKS = st.builds(
    CheckAccessRequest,
    **_SUBJECT,
    quantity=st.none() | _near(0, 1, limits.QUANTITY_MAX),
    min_revision=_near(0),
)
_TIMES = st.builds(
    Timestamp,
    seconds=_near(acceptance.EVENT_SECONDS_MIN, acceptance.EVENT_SECONDS_MAX + 1, 0),
    nanos=st.integers(min_value=-(2**31), max_value=2**31 - 1) | st.just(0),
)
_INCREMENTS = st.builds(
    IncrementRequest,
    **_SUBJECT,
    quantity=st.none() | _near(0, 1, limits.QUANTITY_MAX, -limits.QUANTITY_MAX),
    request_id=_text("!~aZ0", limits.REQUEST_ID_LENGTH_MAX),
    event_time=st.none() | _TIMES,
    dimensions=st.dictionaries(_KEYS, _text("a ~\t", limits.DIMENSION_VALUE_LENGTH_MAX), max_size=3)
    | st.sampled_from([{f"k{i}": "v" for i in range(n)} for n in (15, 16, 17, 32, 33)]),
    ack=st.integers(min_value=-1, max_value=4),
)


@settings(max_examples=1_000)
@given(_CHECKS)
def test_no_check_is_accepted_that_the_rules_refuse(request: CheckAccessRequest) -> None:
    if acceptance.accepts_check(request):
        assert not _VALIDATOR.collect_violations(request)


@settings(max_examples=1_000)
@given(_INCREMENTS)
def test_no_increment_is_accepted_that_the_rules_refuse(request: IncrementRequest) -> None:
    if acceptance.accepts_increment(request):
        assert not _VALIDATOR.collect_violations(request)


@given(st.lists(_CHECKS, max_size=4))
def test_no_batch_of_checks_is_accepted_that_the_rules_refuse(checks: list[CheckAccessRequest]) -> None:
    request = BatchCheckAccessRequest(checks=checks)
    if acceptance.accepts_batch_check(request):
        assert not _VALIDATOR.collect_violations(request)


@given(st.lists(_INCREMENTS, max_size=4))
def test_no_batch_of_increments_is_accepted_that_the_rules_refuse(increments: list[IncrementRequest]) -> None:
    request = BatchIncrementRequest(increments=increments)
    if acceptance.accepts_batch_increment(request):
        assert not _VALIDATOR.collect_violations(request)


@pytest.mark.parametrize(
    "request_",
    [
        a_check(),
        a_check(quantity=1),
        a_check(quantity=limits.QUANTITY_MAX, min_revision=2**62),
        a_check(account_id="a" * limits.ACCOUNT_ID_LENGTH_MAX, tenant_id="t" * limits.TENANT_ID_LENGTH_MAX),
        a_check(feature_key="f" * limits.KEY_LENGTH_MAX),
    ],
)
def test_checks_up_to_every_bound_are_accepted(request_: CheckAccessRequest) -> None:
    assert acceptance.accepts_check(request_)


@pytest.mark.parametrize(
    "request_",
    [
        an_increment(),
        an_increment(quantity=limits.QUANTITY_MAX, request_id="~" * limits.REQUEST_ID_LENGTH_MAX),
        an_increment(quantity=-limits.QUANTITY_MAX, ack=2),
        an_increment(event_time=Timestamp(seconds=acceptance.EVENT_SECONDS_MIN)),
        an_increment(event_time=Timestamp(seconds=acceptance.EVENT_SECONDS_MAX, nanos=999_999_999)),
        an_increment(dimensions={f"k{i}": "ö" * limits.DIMENSION_VALUE_LENGTH_MAX for i in range(16)}),
    ],
)
def test_increments_up_to_every_bound_are_accepted(request_: IncrementRequest) -> None:
    assert acceptance.accepts_increment(request_)


def test_batches_are_bounded_at_a_thousand() -> None:
    assert acceptance.accepts_batch_check(BatchCheckAccessRequest(checks=[a_check()] * 1_000))
    assert not acceptance.accepts_batch_check(BatchCheckAccessRequest(checks=[a_check()] * 1_001))
    assert not acceptance.accepts_batch_increment(BatchIncrementRequest())


def test_remembering_ids_is_bounded() -> None:
    for index in range(10_000):
        assert acceptance.accepts_check(a_check(tenant_id=f"t{index}"))

    assert len(acceptance._tenant_ids) <= 4_096
