"""Reservations as callers see them: what goes in, what comes out, what is refused at the edge."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from tallygate.v1 import access_pb2, catalog_pb2, reservation_pb2, usage_service_pb2
from tallygate.v1.usage_service_pb2 import (
    CommitReservationRequest,
    ExtendReservationRequest,
    ListReservationsRequest,
    ReleaseReservationRequest,
    ReserveRequest,
)
from tallygate_server.domain.catalog import OverrunPolicy
from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.domain.period import LIFETIME
from tallygate_server.domain.reservation import ReservationState, Settlement
from tallygate_server.errors import ReservationClosed, ReservationNotFound
from tallygate_server.reservations import Commit, Extend, Release, Reserve, ReserveAnswer
from tests.support.transport_servers import FLAVOURS, Served, refusal_of, serving
from tests.support.use_case_fakes import MIDNIGHT, NOW, a_reservation

DAYS_35 = timedelta(days=35)
MINUTES_5 = timedelta(minutes=5)
MICROSECOND = timedelta(microseconds=1)
ANN: dict[str, Any] = {"tenant_id": "acme", "account_id": "ann"}
WHO: dict[str, Any] = {"tenant_id": TenantId("acme"), "account_id": AccountId("ann")}


@pytest.fixture(params=FLAVOURS)
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    async with serving(request.param) as running:
        yield running


def a_request(**changes: Any) -> ReserveRequest:
    return ReserveRequest(**(ANN | {"feature_key": "text_rewrite", "ttl": Duration(seconds=60)} | changes))


def instant(at: Any) -> Timestamp:
    time = Timestamp()
    time.FromDatetime(at)
    return time


async def test_a_reserve_goes_in_and_comes_out_whole(served: Served) -> None:
    served.reservations.reserve_answer = ReserveAnswer(
        reason=Reason.IN_GRACE,
        reservation=a_reservation(
            dimensions={"model": "small"}, request_id="r1", overrun_policy=OverrunPolicy.OVERDRAW
        ),
        used_quantity=2,
        held_quantity=5,
        limit_quantity=10,
        reset_time=MIDNIGHT,
        replayed=True,
        revision=7,
        plan_key="pro",
        grace_end_time=MIDNIGHT,
    )

    answer = await served.usage.Reserve(
        a_request(
            quantity=5,
            ttl=Duration(seconds=90, nanos=500_000_000),
            request_id="r1",
            event_time=instant(NOW - MINUTES_5),
            dimensions={"model": "small"},
            overrun_policy=catalog_pb2.OVERRUN_POLICY_OVERDRAW,
        )
    )

    assert served.reservations.wishes == [
        Reserve(
            **WHO,
            feature_key=FeatureKey("text_rewrite"),
            quantity=5,
            ttl=timedelta(seconds=90.5),
            request_id="r1",
            event_time=NOW - MINUTES_5,
            dimensions={"model": "small"},
            overrun_policy=OverrunPolicy.OVERDRAW,
        )
    ]
    assert (answer.decision, answer.reason) == (access_pb2.DECISION_ALLOWED, access_pb2.DECISION_REASON_IN_GRACE)
    assert (answer.used_quantity, answer.held_quantity, answer.limit_quantity) == (2, 5, 10)
    assert (answer.remaining_quantity, answer.replayed, answer.revision, answer.plan_key) == (3, True, 7, "pro")
    assert answer.reset_time == answer.grace_end_time == instant(MIDNIGHT)
    made = answer.reservation
    assert (made.reservation_id, made.tenant_id, made.account_id) == ("rsv_1", "acme", "ann")
    assert (made.feature_key, made.quantity, made.request_id) == ("text_rewrite", 5, "r1")
    assert made.state == reservation_pb2.RESERVATION_STATE_HELD
    assert made.overrun_policy == catalog_pb2.OVERRUN_POLICY_OVERDRAW
    assert dict(made.dimensions) == {"model": "small"}
    assert made.expire_time == instant(NOW + timedelta(minutes=1))
    assert made.period.end_time == instant(MIDNIGHT)
    assert not made.HasField("close_time")


async def test_absent_fields_have_their_stated_meaning(served: Served) -> None:
    await served.usage.Reserve(a_request())
    await served.usage.CommitReservation(CommitReservationRequest(**ANN, reservation_id="rsv_1"))
    await served.usage.CommitReservation(CommitReservationRequest(**ANN, reservation_id="rsv_1", quantity=0))

    reserve, as_reserved, nothing = served.reservations.wishes
    assert reserve == Reserve(**WHO, feature_key=FeatureKey("text_rewrite"), quantity=1, ttl=timedelta(minutes=1))
    assert as_reserved == Commit(**WHO, reservation_id="rsv_1", quantity=None)
    assert nothing == Commit(**WHO, reservation_id="rsv_1", quantity=0)


async def test_a_denied_reserve_has_no_reservation(served: Served) -> None:
    served.reservations.reserve_answer = ReserveAnswer(
        reason=Reason.EXHAUSTED, used_quantity=10, limit_quantity=10, upgrade_url="https://example.test/buy"
    )

    answer = await served.usage.Reserve(a_request())

    assert (answer.decision, answer.reason) == (access_pb2.DECISION_DENIED, access_pb2.DECISION_REASON_EXHAUSTED)
    assert not answer.HasField("reservation")
    assert not answer.HasField("reset_time")
    assert answer.upgrade_url == "https://example.test/buy"


async def test_a_commit_goes_in_and_comes_out_whole(served: Served) -> None:
    closed = a_reservation(
        state=ReservationState.COMMITTED, committed_quantity=9, entry_id=77, close_time=NOW, period=LIFETIME
    )
    served.reservations.commit_answer = replace(
        served.reservations.commit_answer,
        reason=Reason.OVERAGE,
        reservation=closed,
        settlement=Settlement.OVERDRAWN,
        overdrawn_quantity=2,
        used_quantity=12,
        threshold_percent=100,
        threshold_quantity=11,
        replayed=True,
        late=True,
    )

    answer = await served.usage.CommitReservation(
        CommitReservationRequest(
            **ANN,
            reservation_id="rsv_1",
            quantity=9,
            overrun_policy=catalog_pb2.OVERRUN_POLICY_OVERDRAW,
            dimensions={"model": "large"},
        )
    )

    assert served.reservations.wishes == [
        Commit(
            **WHO,
            reservation_id="rsv_1",
            quantity=9,
            overrun_policy=OverrunPolicy.OVERDRAW,
            dimensions={"model": "large"},
        )
    ]
    assert (answer.decision, answer.reason) == (access_pb2.DECISION_ALLOWED, access_pb2.DECISION_REASON_OVERAGE)
    assert answer.settlement == usage_service_pb2.RESERVATION_SETTLEMENT_OVERDRAWN
    assert (answer.committed_quantity, answer.overdrawn_quantity, answer.entry_id) == (9, 2, "77")
    assert (answer.used_quantity, answer.held_quantity, answer.remaining_quantity) == (12, 0, 0)
    assert (answer.threshold_percent, answer.threshold_quantity) == (100, 11)
    assert (answer.replayed, answer.late, answer.revision) == (True, True, 7)
    assert answer.reservation.state == reservation_pb2.RESERVATION_STATE_COMMITTED
    assert answer.reservation.close_time == instant(NOW)
    assert not answer.reservation.HasField("period")
    assert not answer.HasField("reset_time")


async def test_a_rejected_commit_has_counted_nothing(served: Served) -> None:
    served.reservations.commit_answer = replace(
        served.reservations.commit_answer, reason=Reason.EXHAUSTED, settlement=Settlement.REJECTED
    )

    answer = await served.usage.CommitReservation(CommitReservationRequest(**ANN, reservation_id="rsv_1"))

    assert answer.decision == access_pb2.DECISION_DENIED
    assert answer.settlement == usage_service_pb2.RESERVATION_SETTLEMENT_REJECTED
    assert (answer.committed_quantity, answer.entry_id) == (0, "")


async def test_release_and_extend(served: Served) -> None:
    released = await served.usage.ReleaseReservation(ReleaseReservationRequest(**ANN, reservation_id="rsv_1"))
    extended = await served.usage.ExtendReservation(
        ExtendReservationRequest(**ANN, reservation_id="rsv_1", ttl=Duration(seconds=5))
    )

    assert released.reservation.state == reservation_pb2.RESERVATION_STATE_RELEASED
    assert released.remaining_quantity == 10
    assert extended.reservation.expire_time == instant(NOW + timedelta(seconds=5))
    assert served.reservations.wishes == [
        Release(**WHO, reservation_id="rsv_1"),
        Extend(**WHO, reservation_id="rsv_1", ttl=timedelta(seconds=5)),
    ]


async def test_reservations_are_listed_page_by_page(served: Served) -> None:
    request = ListReservationsRequest(**ANN, page_size=10)
    pages = []
    while True:
        page = await served.usage.ListReservations(request)
        pages.append([each.reservation_id for each in page.reservations])
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token

    assert [len(page) for page in pages] == [10, 10, 5]
    assert [each for page in pages for each in page] == [f"rsv_{number:02}" for number in range(25, 0, -1)]


async def test_filters_of_a_list_go_through(served: Served) -> None:
    await served.usage.ListReservations(
        ListReservationsRequest(**ANN, feature_key="text_rewrite", state=reservation_pb2.RESERVATION_STATE_EXPIRED)
    )

    assert served.reservations.listed == ("text_rewrite", ReservationState.EXPIRED)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"quantity": 0}, "quantity"),
        ({"quantity": -1}, "quantity"),
        ({"quantity": 1_000_000_000_001}, "quantity"),
        ({"ttl": Duration(nanos=999_999_999)}, "ttl"),
        ({"ttl": Duration(seconds=86_400, nanos=1)}, "ttl"),
        ({"ttl": None}, "ttl"),
        ({"request_id": "r" * 129}, "request_id"),
        ({"feature_key": "Text"}, "feature_key"),
        ({"event_time": instant(NOW - DAYS_35 - MICROSECOND)}, "event_time"),
        ({"event_time": instant(NOW + MINUTES_5 + MICROSECOND)}, "event_time"),
        ({"overrun_policy": 9}, "overrun_policy"),
    ],
)
async def test_a_bad_reserve_is_refused_by_its_field(served: Served, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await served.usage.Reserve(a_request(**changes))

    refusal = refusal_of(caught.value)
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(refusal.fields) == {field}
    assert not served.reservations.wishes


@pytest.mark.parametrize(
    "changes",
    [
        {"quantity": 1_000_000_000_000},
        {"ttl": Duration(seconds=1)},
        {"ttl": Duration(seconds=86_400)},
        {"event_time": instant(NOW - DAYS_35)},
        {"event_time": instant(NOW + MINUTES_5)},
        {"request_id": "r" * 128},
    ],
)
async def test_what_is_at_a_bound_is_accepted(served: Served, changes: dict[str, Any]) -> None:
    await served.usage.Reserve(a_request(**changes))

    assert len(served.reservations.wishes) == 1


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (ReservationNotFound("rsv_1"), grpc.StatusCode.NOT_FOUND, "RESERVATION_NOT_FOUND"),
        (ReservationClosed("rsv_1", "expired"), grpc.StatusCode.FAILED_PRECONDITION, "RESERVATION_CLOSED"),
    ],
)
async def test_errors_carry_their_facts(
    served: Served, error: ReservationNotFound | ReservationClosed, code: grpc.StatusCode, reason: str
) -> None:
    served.reservations.errors["ann"] = error

    with pytest.raises(aio.AioRpcError) as caught:
        await served.usage.CommitReservation(CommitReservationRequest(**ANN, reservation_id="rsv_1"))

    refusal = refusal_of(caught.value)
    assert (refusal.code, refusal.reason) == (code, reason)
    assert refusal.metadata == error.facts
