"""Wire messages and domain values say the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from tallygate.v1 import access_pb2
from tallygate.v1.entitlement_service_pb2 import CheckAccessResponse, ListEntitlementsRequest
from tallygate.v1.usage_service_pb2 import ACK_MODE_ACCEPTED, BatchIncrementRequest, IncrementResponse
from tallygate_server.domain.call import CheckAnswer, IncrementAnswer
from tallygate_server.domain.catalog import FeatureKind
from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.limits import EVENT_AGE_SECONDS_MAX, EVENT_AHEAD_SECONDS_MAX
from tallygate_server.errors import InvalidRequest, RevisionNotReached
from tallygate_server.transport import convert
from tests.support.transport_servers import a_check, an_increment
from tests.support.use_case_fakes import MIDNIGHT, NOW, a_usage, an_answer

_INSTANTS = st.datetimes(timezones=st.just(UTC))
_AMOUNTS = st.integers(min_value=0, max_value=10**15)
_LIMITS = st.just(-1) | _AMOUNTS
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(min_value=-(2**53), max_value=2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(_JSON)
def test_json_values_survive_the_round_trip(value: object) -> None:
    assert convert.from_api_value(convert.to_api_value(value)) == value  # type: ignore[arg-type]


@given(_INSTANTS)
def test_instants_survive_the_round_trip(instant: datetime) -> None:
    assert convert.from_api_time(convert.to_api_instant(instant), "t") == instant
    assert convert.to_api_instant(instant).ToDatetime(UTC) == instant


@pytest.mark.parametrize(
    "time",
    [
        Timestamp(seconds=2**62),
        Timestamp(seconds=-(2**62)),
        Timestamp(seconds=253_402_300_800),
        Timestamp(seconds=-62_135_596_801),
        Timestamp(nanos=-1),
        Timestamp(nanos=1_000_000_000),
    ],
)
def test_what_is_no_instant_is_refused_by_field(time: Timestamp) -> None:
    with pytest.raises(InvalidRequest) as caught:
        convert.from_api_time(time, "start_time")
    assert caught.value.violations[0].field == "start_time"


def test_an_absent_quantity_is_one() -> None:
    assert convert.from_api_check(a_check()).quantity == 1
    assert convert.from_api_increment(an_increment(), lambda: NOW).quantity == 1


def test_an_increment_carries_everything() -> None:
    request = an_increment(
        quantity=-3,
        request_id="r-1",
        event_time=NOW - timedelta(days=1),
        dimensions={"model": "small"},
        ack=ACK_MODE_ACCEPTED,
    )

    increment = convert.from_api_increment(request, lambda: NOW)

    assert (increment.tenant_id, increment.account_id, increment.feature_key) == (
        "lekhak",
        "acct-1",
        "text_rewrite",
    )
    assert (increment.quantity, increment.request_id) == (-3, "r-1")
    assert increment.event_time == NOW - timedelta(days=1)
    assert increment.dimensions == {"model": "small"}
    assert increment.accepted


@pytest.mark.parametrize(
    ("offset_s", "accepted"),
    [
        (-EVENT_AGE_SECONDS_MAX, True),
        (-EVENT_AGE_SECONDS_MAX - 1, False),
        (EVENT_AHEAD_SECONDS_MAX, True),
        (EVENT_AHEAD_SECONDS_MAX + 1, False),
    ],
)
def test_event_times_have_a_window(offset_s: int, accepted: bool) -> None:  # noqa: FBT001
    request = an_increment(event_time=NOW + timedelta(seconds=offset_s))

    if accepted:
        assert convert.from_api_increment(request, lambda: NOW).event_time == NOW + timedelta(seconds=offset_s)
    else:
        with pytest.raises(InvalidRequest) as caught:
            convert.from_api_increment(request, lambda: NOW)
        assert caught.value.violations[0].field == "event_time"


def test_a_batch_names_every_item_at_fault() -> None:
    late = an_increment(event_time=NOW - timedelta(days=36))
    request = BatchIncrementRequest(increments=[an_increment(), late, an_increment(), late])

    with pytest.raises(InvalidRequest) as caught:
        convert.from_api_increments(request, lambda: NOW)
    assert [v.field for v in caught.value.violations] == [
        "increments[1].event_time",
        "increments[3].event_time",
    ]


def test_an_atomic_batch_is_of_one_tenant_and_one_kind() -> None:
    other = an_increment(tenant_id="other", ack=ACK_MODE_ACCEPTED)
    request = BatchIncrementRequest(increments=[an_increment(), other])

    assert len(convert.from_api_increments(request, lambda: NOW)) == 2
    request.atomic = True
    with pytest.raises(InvalidRequest) as caught:
        convert.from_api_increments(request, lambda: NOW)
    assert [v.field for v in caught.value.violations] == ["increments[1].tenant_id", "increments[1].ack"]


def test_the_answer_of_a_check_carries_everything() -> None:
    response = convert.to_api_check(an_answer())

    assert response.decision == access_pb2.DECISION_ALLOWED
    assert response.reason == access_pb2.DECISION_REASON_OK
    assert response.feature_kind == access_pb2.FEATURE_KIND_COUNTER
    assert (response.limit_quantity, response.used_quantity, response.held_quantity) == (10, 3, 1)
    assert response.remaining_quantity == 6
    assert response.reset_time.ToDatetime(UTC) == MIDNIGHT
    assert response.cache_ttl.ToMilliseconds() == 1_500
    assert (response.plan_key, response.revision, response.stale) == ("free", 7, False)
    assert not response.HasField("value")
    assert not response.HasField("grace_end_time")


def test_a_config_value_is_shown() -> None:
    response = convert.to_api_check(an_answer(feature_kind=FeatureKind.CONFIG, value=180))

    assert response.value.number_value == 180


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_a_wire_value_and_a_decision(reason: Reason) -> None:
    response = convert.to_api_check(an_answer(reason=reason))

    assert access_pb2.DecisionReason.Name(response.reason) == f"DECISION_REASON_{reason.name}"
    assert response.decision == (access_pb2.DECISION_ALLOWED if reason.allows else access_pb2.DECISION_DENIED)


@given(
    st.builds(
        CheckAnswer,
        reason=st.sampled_from(list(Reason)),
        revision=_AMOUNTS,
        feature_kind=st.none() | st.sampled_from(list(FeatureKind)),
        value=st.none() | st.just(180),
        limit_quantity=_LIMITS,
        used_quantity=_AMOUNTS,
        held_quantity=_AMOUNTS,
        reset_time=st.none() | _INSTANTS,
        threshold_percent=st.integers(min_value=0, max_value=1_000),
        grace_end_time=st.none() | _INSTANTS,
        upgrade_url=st.sampled_from(["", "https://example.test/buy"]),
        plan_key=st.sampled_from(["", "free", "pro"]),
        cache_ttl_ms=st.integers(min_value=0, max_value=100_000),
        stale=st.booleans(),
    )
)
def test_the_quick_encoding_of_a_check_says_the_same(answer: CheckAnswer) -> None:
    assert CheckAccessResponse.FromString(convert.encode_check(answer)) == convert.to_api_check(answer)


@given(
    st.builds(
        IncrementAnswer,
        reason=st.sampled_from(list(Reason)),
        revision=_AMOUNTS,
        limit_quantity=_LIMITS,
        used_quantity=st.integers(min_value=-(10**6), max_value=10**15),
        held_quantity=_AMOUNTS,
        reset_time=st.none() | _INSTANTS,
        threshold_percent=st.integers(min_value=0, max_value=1_000),
        grace_end_time=st.none() | _INSTANTS,
        upgrade_url=st.sampled_from(["", "https://example.test/buy"]),
        plan_key=st.sampled_from(["", "free", "pro"]),
        replayed=st.booleans(),
        entry_id=_AMOUNTS,
    )
)
def test_the_quick_encoding_of_an_increment_says_the_same(answer: IncrementAnswer) -> None:
    assert IncrementResponse.FromString(convert.encode_increment(answer)) == convert.to_api_increment(answer)


def test_a_quota_of_a_counter_has_a_period_and_one_of_a_gauge_has_none() -> None:
    counter = convert.to_api_quota(a_usage())
    gauge = convert.to_api_quota(a_usage(feature_kind=FeatureKind.GAUGE))

    assert counter.period.end_time == counter.reset_time
    assert not gauge.HasField("period")
    assert not gauge.HasField("reset_time")


def test_a_revision_that_is_not_reached_is_refused() -> None:
    convert.demand_revision(7, 7)
    with pytest.raises(RevisionNotReached):
        convert.demand_revision(8, 7)


def test_listed_entitlements_go_through_the_filters() -> None:
    everything = [
        ("a", an_answer()),
        ("b", an_answer(reason=Reason.NO_ENTITLEMENT)),
        ("c", an_answer(feature_kind=FeatureKind.BOOLEAN)),
    ]

    def keys(**filters: object) -> list[str]:
        request = ListEntitlementsRequest(**filters)  # type: ignore[arg-type]
        return [key for key, _answer in convert.wanted_entitlements(request, everything)]

    assert keys() == ["a", "c"]
    assert keys(include_denied=True) == ["a", "b", "c"]
    assert keys(feature_key="a") == ["a"]
    assert keys(kind=access_pb2.FEATURE_KIND_BOOLEAN) == ["c"]
