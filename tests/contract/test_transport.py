"""What callers see is the same on every transport: one suite, run over all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio
from structlog.testing import capture_logs

from tallygate.v1 import access_pb2, entitlement_service_pb2, usage_service_pb2
from tallygate.v1.data_lifecycle_service_pb2 import PutRecordsRequest, QueryRecordsRequest
from tallygate.v1.entitlement_service_pb2 import BatchCheckAccessRequest, ListEntitlementsRequest
from tallygate.v1.usage_service_pb2 import (
    BatchIncrementRequest,
    GetQuotaRequest,
    GetUsageRequest,
    ListUsageEntriesRequest,
)
from tallygate_server import errors
from tallygate_server.errors import InvalidRequest, TallygateError
from tallygate_server.transport.server import ServerLimits
from tallygate_server.transport.status import CODE_BY_ERROR
from tests.support import raw_http2
from tests.support.eventually import eventually
from tests.support.transport_servers import (
    FLAVOURS,
    Flavour,
    Refusal,
    Served,
    a_check,
    an_increment,
    refusal_of,
    serving,
)
from tests.support.use_case_fakes import NOW, FakeMetering, an_answer

CHECK = "/tallygate.v1.EntitlementService/CheckAccess"
INCREMENT = "/tallygate.v1.UsageService/Increment"


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> Flavour:
    found: Flavour = request.param
    return found


@pytest.fixture
async def served(flavour: Flavour) -> AsyncIterator[Served]:
    async with serving(flavour) as running:
        yield running


async def refused(call: Any) -> Refusal:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return refusal_of(caught.value)


# ---- answers


async def test_a_check_is_answered(served: Served) -> None:
    response = await served.entitlements.CheckAccess(a_check(quantity=2, min_revision=7))

    assert response.decision == access_pb2.DECISION_ALLOWED
    assert response.remaining_quantity == 6
    assert served.checks.checks[0].quantity == 2
    assert served.checks.checks[0].min_revision == 7


async def test_an_increment_is_answered(served: Served) -> None:
    first = await served.usage.Increment(an_increment(quantity=3, request_id="r-1"))
    second = await served.usage.Increment(an_increment(quantity=4))

    assert (first.used_quantity, second.used_quantity) == (3, 7)
    assert first.entry_id == "1"
    assert served.metering.increments[0].request_id == "r-1"


async def test_a_denial_is_an_answer(flavour: Flavour) -> None:
    async with serving(flavour, metering=FakeMetering(limit=1)) as served:
        response = await served.usage.Increment(an_increment(quantity=2))

    assert response.decision == access_pb2.DECISION_DENIED
    assert response.reason == access_pb2.DECISION_REASON_EXHAUSTED
    assert response.entry_id == ""


async def test_a_batch_of_checks_answers_in_order_with_errors_in_place(served: Served) -> None:
    served.checks.errors["bad"] = errors.TenantNotFound("nowhere")
    checks = [a_check(account_id=account) for account in ("a", "bad", "c")]

    response = await served.entitlements.BatchCheckAccess(BatchCheckAccessRequest(checks=checks))

    assert [result.WhichOneof("outcome") for result in response.results] == ["answer", "error", "answer"]
    assert response.results[1].error.code == grpc.StatusCode.NOT_FOUND.value[0]
    assert [check.account_id for check in served.checks.checks] == ["a", "bad", "c"]


async def test_a_batch_of_increments_answers_in_order_with_errors_in_place(served: Served) -> None:
    served.metering.errors["bad"] = errors.RequestIdReused("r-1")
    increments = [an_increment(account_id=account) for account in ("a", "bad", "a")]

    response = await served.usage.BatchIncrement(BatchIncrementRequest(increments=increments))

    assert [result.answer.used_quantity for result in response.results] == [1, 0, 2]
    assert response.results[1].error.code == grpc.StatusCode.ALREADY_EXISTS.value[0]


async def test_an_atomic_batch_with_an_error_fails_as_a_whole(served: Served) -> None:
    served.metering.errors["bad"] = errors.RequestIdReused("r-1")
    increments = [an_increment(account_id=account) for account in ("a", "bad")]

    refusal = await refused(served.usage.BatchIncrement(BatchIncrementRequest(increments=increments, atomic=True)))

    assert refusal.code is grpc.StatusCode.ALREADY_EXISTS


async def test_a_batch_takes_a_thousand_items_and_no_more(served: Served) -> None:
    thousand = BatchIncrementRequest(increments=[an_increment()] * 1_000)
    response = await served.usage.BatchIncrement(thousand)

    assert [result.answer.used_quantity for result in response.results] == list(range(1, 1_001))
    thousand.increments.append(an_increment())
    refusal = await refused(served.usage.BatchIncrement(thousand))
    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["increments"])
    assert len(served.metering.increments) == 1_000


async def test_entitlements_are_listed_in_pages(served: Served) -> None:
    request = ListEntitlementsRequest(tenant_id="lekhak", account_id="a", page_size=2)
    keys: list[str] = []
    while True:
        response = await served.entitlements.ListEntitlements(request)
        keys += [entitlement.feature_key for entitlement in response.entitlements]
        if not response.next_page_token:
            break
        request.page_token = response.next_page_token

    assert keys == [f"feature_{index}" for index in range(5)]
    assert response.revision == 7


async def test_the_ledger_is_listed_in_pages(served: Served) -> None:
    request = ListUsageEntriesRequest(
        tenant_id="lekhak", account_id="a", page_size=10, start_time=NOW, end_time=NOW + timedelta(days=1)
    )
    ids: list[str] = []
    while True:
        response = await served.usage.ListUsageEntries(request)
        ids += [entry.entry_id for entry in response.entries]
        if not response.next_page_token:
            break
        request.page_token = response.next_page_token

    assert ids == [str(number) for number in range(25, 0, -1)]
    assert served.queries.asked == ("", NOW, NOW + timedelta(days=1))


async def test_a_foreign_page_token_is_refused(served: Served) -> None:
    request = ListUsageEntriesRequest(tenant_id="lekhak", account_id="a", page_size=10)
    token = (await served.usage.ListUsageEntries(request)).next_page_token
    request.account_id = "b"
    request.page_token = token

    refusal = await refused(served.usage.ListUsageEntries(request))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")
    assert refusal.fields == ["page_token"]


async def test_usage_and_quota_are_answered(served: Served) -> None:
    usage = await served.usage.GetUsage(
        GetUsageRequest(tenant_id="lekhak", account_id="a", feature_key="text_rewrite", min_revision=7)
    )
    quota = await served.usage.GetQuota(GetQuotaRequest(tenant_id="lekhak", account_id="a"))

    assert (usage.quota.used_quantity, usage.revision) == (3, 7)
    assert [entry.feature_key for entry in quota.quotas] == ["text_rewrite", "devices"]
    assert quota.next_reset_time == usage.quota.reset_time


async def test_usage_of_a_revision_to_come_is_refused(served: Served) -> None:
    refusal = await refused(
        served.usage.GetUsage(GetUsageRequest(tenant_id="lekhak", account_id="a", feature_key="f", min_revision=8))
    )

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REVISION_NOT_REACHED")


# ---- errors

_SAMPLES: list[TallygateError] = [
    InvalidRequest.of("a.b", "is wrong"),
    errors.TenantNotFound("t"),
    errors.AccountNotFound("a"),
    errors.FeatureNotFound("f"),
    errors.PlanNotFound("p"),
    errors.SubscriptionNotFound("s"),
    errors.SubscriptionExists("exists", plan_key="pro"),
    errors.IdentityConflict("belongs to another account"),
    errors.IllegalTransition("active", "incomplete"),
    errors.FeatureNotMetered("f", "boolean"),
    errors.BillingProviderRequired("a priced plan needs a provider"),
    errors.BillingProviderNotConfigured("stripe is not set up"),
    errors.RequestIdReused("r"),
    errors.RevisionNotReached(wanted=2, current=1),
    errors.StoreUnavailable("gone"),
    errors.OutcomeUnknown("perhaps"),
    errors.CountersUnavailable("gone"),
    errors.Overloaded("busy"),
]


@pytest.mark.parametrize("error", _SAMPLES, ids=lambda error: type(error).__name__)
async def test_every_error_reaches_the_caller_with_its_details(flavour: Flavour, error: TallygateError) -> None:
    async with serving(flavour) as served:
        served.checks.errors["acct-1"] = served.metering.errors["acct-1"] = error
        refusals = [
            await refused(served.entitlements.CheckAccess(a_check())),
            await refused(served.usage.Increment(an_increment())),
            await refused(
                served.entitlements.ListEntitlements(ListEntitlementsRequest(tenant_id="t", account_id="acct-1"))
            ),
        ][: 3 if not isinstance(error, errors.FeatureNotMetered) else 2]

    for refusal in refusals:
        assert refusal.code is CODE_BY_ERROR[type(error)]
        assert refusal.reason == error.reason
        assert refusal.message == error.message
        assert error.facts.items() <= refusal.metadata.items()
        assert (refusal.retry_delay_ms > 0) == isinstance(error, errors.Unavailable | errors.Overloaded)


async def test_no_text_of_an_unexpected_exception_gets_out(served: Served) -> None:
    served.checks.errors["acct-1"] = served.metering.errors["acct-1"] = ValueError("password=hunter2")
    with capture_logs() as logs:
        refusals = [
            await refused(served.entitlements.CheckAccess(a_check())),
            await refused(served.usage.Increment(an_increment())),
            await refused(
                served.entitlements.ListEntitlements(ListEntitlementsRequest(tenant_id="t", account_id="acct-1"))
            ),
        ]

    for refusal in refusals:
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
        assert "hunter2" not in refusal.everything
        assert "ValueError" not in refusal.everything
    incidents = [entry["incident_id"] for entry in logs if entry["event"] == "call_failed_unexpectedly"]
    assert incidents == [refusal.metadata["incident_id"] for refusal in refusals]


async def test_an_answer_that_cannot_be_encoded_is_an_incident(served: Served) -> None:
    served.checks.answer = an_answer(limit_quantity="ten")
    with capture_logs():
        refusal = await refused(served.entitlements.CheckAccess(a_check()))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "ten" not in refusal.message


async def test_what_is_not_built_says_so(served: Served) -> None:
    unary = await refused(served.lifecycle.PutRecords(PutRecordsRequest()))
    assert (unary.code, unary.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED")
    assert unary.metadata == {"method": "tallygate.v1.DataLifecycleService/PutRecords"}

    with pytest.raises(aio.AioRpcError) as caught:
        async for _ in served.lifecycle.QueryRecords(QueryRecordsRequest()):
            pass
    assert refusal_of(caught.value).reason == "NOT_IMPLEMENTED"


async def test_an_unknown_method_is_unimplemented(served: Served) -> None:
    refusal = await refused(served.call_raw("/tallygate.v1.UsageService/Nonsense", b""))

    assert refusal.code is grpc.StatusCode.UNIMPLEMENTED


# ---- bad input: (request, fields that the error names)

_SUBJECT = ["tenant_id", "account_id", "feature_key"]
_BAD_CHECKS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "empty tenant": ({"tenant_id": ""}, ["tenant_id"]),
    "empty account": ({"account_id": ""}, ["account_id"]),
    "empty feature": ({"feature_key": ""}, ["feature_key"]),
    "everything empty": (dict.fromkeys(_SUBJECT, ""), _SUBJECT),
    "10 kB account": ({"account_id": "a" * 10_240}, ["account_id"]),
    "10 kB tenant": ({"tenant_id": "a" * 10_240}, ["tenant_id"]),
    "10 kB feature": ({"feature_key": "a" * 10_240}, ["feature_key"]),
    "braces": ({"account_id": "a}{b"}, ["account_id"]),
    "newline at the end": ({"account_id": "a\n"}, ["account_id"]),
    "quantity 0": ({"quantity": 0}, ["quantity"]),
    "quantity negative": ({"quantity": -1}, ["quantity"]),
    "quantity 2^62": ({"quantity": 2**62}, ["quantity"]),
    "revision negative": ({"min_revision": -1}, ["min_revision"]),
}  # fmt: skip
_NOW_S = int(NOW.timestamp())
_BAD_INCREMENTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "quantity 0": ({"quantity": 0}, ["quantity"]),
    "quantity 2^62": ({"quantity": 2**62}, ["quantity"]),
    "quantity -2^62": ({"quantity": -(2**62)}, ["quantity"]),
    "empty tenant": ({"tenant_id": ""}, ["tenant_id"]),
    "10 kB account": ({"account_id": "a" * 10_240}, ["account_id"]),
    "long request id": ({"request_id": "r" * 129}, ["request_id"]),
    "request id with a space": ({"request_id": "a b"}, ["request_id"]),
    "unknown enum number": ({"ack": 77}, ["ack"]),
    "too long ago": ({"event_time": NOW - timedelta(days=35, seconds=1)}, ["event_time"]),
    "too far ahead": ({"event_time": NOW + timedelta(minutes=5, seconds=1)}, ["event_time"]),
    "year 292 billion": ({"event_time": Timestamp(seconds=2**62)}, ["event_time"]),
    "before time": ({"event_time": Timestamp(seconds=-(2**62))}, ["event_time"]),
    "nanoseconds out of range": ({"event_time": Timestamp(seconds=_NOW_S, nanos=2_000_000_000)}, ["event_time"]),
    "dimension key": ({"dimensions": {"A b": "x"}}, ['dimensions["A b"]']),
    "dimension value": ({"dimensions": {"model": "x" * 257}}, ['dimensions["model"]']),
    "many dimensions": ({"dimensions": {f"k{i}": "" for i in range(40)}}, ["dimensions"]),
}  # fmt: skip


@pytest.mark.parametrize("case", _BAD_CHECKS)
async def test_a_bad_check_names_its_fields(flavour: Flavour, case: str) -> None:
    changes, fields = _BAD_CHECKS[case]
    async with serving(flavour) as served:
        refusal = await refused(served.entitlements.CheckAccess(a_check(**changes)))

        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED")
        assert refusal.fields == fields
        assert served.checks.checks == []


@pytest.mark.parametrize("case", _BAD_INCREMENTS)
async def test_a_bad_increment_names_its_fields_and_changes_nothing(flavour: Flavour, case: str) -> None:
    changes, fields = _BAD_INCREMENTS[case]
    async with serving(flavour) as served:
        refusal = await refused(served.usage.Increment(an_increment(**changes)))
        batch = BatchIncrementRequest(increments=[an_increment(), an_increment(**changes)])
        in_batch = await refused(served.usage.BatchIncrement(batch))

        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED")
        assert refusal.fields == fields
        assert in_batch.fields == [f"increments[1].{field}" for field in fields]
        assert served.metering.increments == []


async def test_an_empty_batch_is_refused(served: Served) -> None:
    refusal = await refused(served.entitlements.BatchCheckAccess(BatchCheckAccessRequest()))

    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["checks"])


@pytest.mark.parametrize("payload", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xc3\x28", b"\x00" * 3])
@pytest.mark.parametrize("path", [CHECK, INCREMENT, "/tallygate.v1.UsageService/GetUsage"])
async def test_garbage_is_called_malformed_and_not_quoted(served: Served, path: str, payload: bytes) -> None:
    refusal = await refused(served.call_raw(path, payload))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")
    assert "Error" not in refusal.message
    assert refusal.metadata["type"].startswith("tallygate.v1.")


async def test_an_unknown_field_is_ignored(served: Served) -> None:
    payload = a_check().SerializeToString() + b"\xba\x3e\x03abc"

    response = entitlement_service_pb2.CheckAccessResponse.FromString(await served.call_raw(CHECK, payload))

    assert response.decision == access_pb2.DECISION_ALLOWED


async def test_a_message_over_the_limit_is_refused_and_one_below_it_is_read(flavour: Flavour) -> None:
    async with serving(flavour, limits=ServerLimits(message_bytes_max=10_000)) as served:
        # An unknown field of 8,000 bytes.
        assert await served.call_raw(CHECK, a_check().SerializeToString() + b"\xba\x3e\xc0\x3e" + b"x" * 8_000)
        refusal = await refused(served.call_raw(CHECK, b"x" * 10_001))

    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_large_hot_message_goes_the_ordinary_way_and_is_answered(served: Served) -> None:
    payload = a_check().SerializeToString() + b"\xba\x3e\xf0\xa2\x04" + b"x" * 70_000

    assert await served.call_raw(CHECK, payload)


async def test_metadata_over_the_limit_is_refused(served: Served) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await served.entitlements.CheckAccess(a_check(), metadata=(("x-large", "x" * 20_000),))

    # The native transport answers with HTTP status 431, which clients call UNKNOWN.
    expected = {"grpcio": grpc.StatusCode.RESOURCE_EXHAUSTED, "native": grpc.StatusCode.UNKNOWN}
    assert caught.value.code() is expected[served.server.kind]
    assert (await served.entitlements.CheckAccess(a_check())).decision == access_pb2.DECISION_ALLOWED


_OPEN = raw_http2.frame(raw_http2.HEADERS, raw_http2.END_HEADERS, 1, raw_http2.headers(CHECK))
_NOT_QUITE_A_CALL = {
    "no message": raw_http2.frame(
        raw_http2.HEADERS, raw_http2.END_HEADERS | raw_http2.END_STREAM, 1, raw_http2.headers(CHECK)
    ),
    "empty data": _OPEN + raw_http2.frame(raw_http2.DATA, raw_http2.END_STREAM, 1),
    "truncated message": _OPEN + raw_http2.frame(raw_http2.DATA, raw_http2.END_STREAM, 1, b"\0\0\0\0\xffx"),
    "unannounced compression": _OPEN + raw_http2.frame(raw_http2.DATA, raw_http2.END_STREAM, 1, b"\1\0\0\0\1x"),
    "two messages": _OPEN + raw_http2.frame(raw_http2.DATA, raw_http2.END_STREAM, 1, raw_http2.message(b"") * 2),
    "frames of nonsense": b"\xff" * 100,
}


@pytest.mark.parametrize("case", _NOT_QUITE_A_CALL)
async def test_what_is_not_quite_a_call_neither_hangs_nor_disturbs(flavour: Flavour, case: str) -> None:
    async with serving(flavour) as served:
        # grpc.aio never answers a unary call whose message does not come, and gives nothing of ours a chance
        # to; the stream ends with its connection, and there are at most a hundred on each.
        waits_for_ever = flavour == "grpcio" and case in ("no message", "empty data", "truncated message")
        timeout_s = 0.2 if waits_for_ever else 60.0

        ended = await raw_http2.stream_ends(served.port, _NOT_QUITE_A_CALL[case], timeout_s=timeout_s)

        assert ended or waits_for_ever
        assert (await served.entitlements.CheckAccess(a_check())).decision == access_pb2.DECISION_ALLOWED
        assert {code for _method, code in served.observed} <= {"OK", "INVALID_ARGUMENT"}


# ---- time, load, cancellation


@pytest.mark.parametrize("call", ["check", "increment", "batch"])
async def test_a_clients_deadline_ends_the_call(served: Served, call: str) -> None:
    served.checks.gate = served.metering.gate = asyncio.Event()
    if call == "check":
        pending = served.entitlements.CheckAccess(a_check(account_id="held"), timeout=0.1)
    elif call == "increment":
        pending = served.usage.Increment(an_increment(account_id="held"), timeout=0.1)
    else:
        pending = served.entitlements.BatchCheckAccess(
            BatchCheckAccessRequest(checks=[a_check(account_id="held")]), timeout=0.1
        )

    refusal = await refused(pending)

    assert refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(lambda: served.server.in_flight.count == 0)


@pytest.mark.parametrize("call", ["check", "list"])
async def test_without_a_clients_deadline_the_servers_own_holds(flavour: Flavour, call: str) -> None:
    async with serving(flavour, limits=ServerLimits(timeout_ms=50)) as served:
        served.checks.gate = asyncio.Event()
        pending = (
            served.entitlements.CheckAccess(a_check(account_id="held"))
            if call == "check"
            else served.entitlements.BatchCheckAccess(BatchCheckAccessRequest(checks=[a_check(account_id="held")]))
        )

        refusal = await refused(pending)

        assert (refusal.code, refusal.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
        assert refusal.metadata == {"timeout_ms": "50"}
        assert served.server.in_flight.count == 0


async def test_a_cancelled_call_is_forgotten_and_its_late_outcome_goes_nowhere(served: Served) -> None:
    served.checks.gate = asyncio.Event()
    calls = [served.entitlements.CheckAccess(a_check(account_id="held")) for _ in range(10)]
    await eventually(lambda: served.checks.waiting == 10)
    for call in calls:
        call.cancel()

    await eventually(lambda: served.server.in_flight.count == 0)
    assert served.observed == [(CHECK, "CANCELLED")] * 10
    served.checks.gate.set()
    assert (await served.entitlements.CheckAccess(a_check())).decision == access_pb2.DECISION_ALLOWED
    assert served.server.in_flight.count == 0


async def test_above_its_bound_the_server_sheds_but_still_answers_probes(flavour: Flavour) -> None:
    async with serving(flavour, limits=ServerLimits(in_flight_max=3)) as served:
        served.checks.gate = asyncio.Event()
        held = [asyncio.ensure_future(served.entitlements.CheckAccess(a_check(account_id="held"))) for _ in range(3)]
        await eventually(lambda: served.checks.waiting == 3)

        for call in (
            served.entitlements.CheckAccess(a_check()),
            served.usage.Increment(an_increment()),
            served.usage.GetQuota(GetQuotaRequest(tenant_id="t", account_id="a")),
        ):
            refusal = await refused(call)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
            assert refusal.retry_delay_ms == 100
        assert await served.call_raw("/grpc.health.v1.Health/Check", b"") == b"\x08\x01"

        served.checks.gate.set()
        assert len(await asyncio.gather(*held)) == 3
        assert (await served.entitlements.CheckAccess(a_check())).decision == access_pb2.DECISION_ALLOWED
        assert served.server.in_flight.shed_count == 3


async def test_two_hundred_clients_get_exactly_the_limit(flavour: Flavour) -> None:
    async with serving(flavour, metering=FakeMetering(limit=1_000)) as served:

        async def spend() -> int:
            return sum(
                [
                    (await served.usage.Increment(an_increment())).decision == access_pb2.DECISION_ALLOWED
                    for _ in range(6)
                ]
            )

        granted = await asyncio.gather(*(spend() for _ in range(200)))

        assert sum(granted) == 1_000
        assert served.server.in_flight.count == 0


async def test_every_finished_call_is_observed(served: Served) -> None:
    served.checks.errors["bad"] = errors.StoreUnavailable("gone")
    await served.entitlements.CheckAccess(a_check())
    await refused(served.entitlements.CheckAccess(a_check(account_id="bad")))
    await refused(served.entitlements.CheckAccess(a_check(quantity=0)))
    await served.usage.Increment(an_increment())
    await refused(served.lifecycle.PutRecords(PutRecordsRequest()))

    assert served.observed == [
        (CHECK, "OK"),
        (CHECK, "UNAVAILABLE"),
        (CHECK, "INVALID_ARGUMENT"),
        (INCREMENT, "OK"),
        ("/tallygate.v1.DataLifecycleService/PutRecords", "UNIMPLEMENTED"),
    ]


# ---- shutting down


async def test_a_drain_finishes_calls_under_way(flavour: Flavour) -> None:
    async with serving(flavour) as served:
        served.checks.gate = served.metering.gate = asyncio.Event()
        calls = [
            asyncio.ensure_future(served.entitlements.CheckAccess(a_check(account_id="held"))),
            asyncio.ensure_future(served.usage.Increment(an_increment(account_id="held"))),
            asyncio.ensure_future(
                served.entitlements.BatchCheckAccess(BatchCheckAccessRequest(checks=[a_check(account_id="held")]))
            ),
        ]
        await eventually(lambda: served.checks.waiting + served.metering.waiting == 3)

        drain = asyncio.ensure_future(served.server.drain(drain_delay_ms=0, grace_ms=60_000))
        await eventually(lambda: served.server.draining)
        served.checks.gate.set()

        assert len(await asyncio.gather(*calls)) == 3
        await asyncio.wait_for(drain, 60)


async def test_a_drain_ends_what_outlives_the_grace(flavour: Flavour) -> None:
    async with serving(flavour, options=[("grpc.enable_retries", 0)]) as served:
        served.checks.gate = asyncio.Event()
        calls = [
            asyncio.ensure_future(served.entitlements.CheckAccess(a_check(account_id="held"))),
            asyncio.ensure_future(
                served.entitlements.BatchCheckAccess(BatchCheckAccessRequest(checks=[a_check(account_id="held")]))
            ),
        ]
        await eventually(lambda: served.checks.waiting == 2)
        began = time.monotonic()

        await served.server.drain(drain_delay_ms=0, grace_ms=100)

        assert time.monotonic() - began < 60
        for call in calls:
            refusal = await refused(call)
            assert refusal.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert served.server.in_flight.count == 0


async def test_a_stopped_server_refuses_with_unavailable(flavour: Flavour) -> None:
    async with serving(flavour, options=[("grpc.enable_retries", 0)]) as served:
        await served.entitlements.CheckAccess(a_check())
        await served.server.drain(drain_delay_ms=0, grace_ms=100)

        refusal = await refused(served.entitlements.CheckAccess(a_check(), timeout=60))

    assert refusal.code is grpc.StatusCode.UNAVAILABLE


async def test_no_call_of_a_busy_client_is_lost_in_a_drain(flavour: Flavour) -> None:
    """Every call sent before the stop is answered; later ones are refused, none is left hanging."""
    async with serving(flavour, options=[("grpc.enable_retries", 0)]) as served:
        answered = 0
        stopping = False
        hung = 0

        async def caller() -> None:
            nonlocal answered, hung
            while True:
                try:
                    await served.entitlements.CheckAccess(a_check(), timeout=60)
                    answered += 1
                except aio.AioRpcError as error:
                    hung += error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                    assert stopping
                    return

        callers = [asyncio.ensure_future(caller()) for _ in range(20)]
        await eventually(lambda: answered > 200)
        stopping = True
        await served.server.drain(drain_delay_ms=0, grace_ms=60_000)
        await asyncio.gather(*callers)

        assert hung == 0
        # What the server counted as answered, its client got.
        assert answered == served.observed.count((CHECK, "OK"))


def test_the_contract_has_the_methods_under_test() -> None:
    assert "Increment" in usage_service_pb2.DESCRIPTOR.services_by_name["UsageService"].methods_by_name
