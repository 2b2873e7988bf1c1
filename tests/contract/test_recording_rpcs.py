"""RecordUsage and ListUsageEvents as callers see them, on both transports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from tallygate.v1 import usage_event_pb2, usage_service_pb2, usage_service_pb2_grpc
from tallygate_server.app import servicers
from tallygate_server.domain.limits import BATCH_ITEMS_MAX, EVENT_DATA_BYTES_MAX
from tallygate_server.transport.server import TransportKind, build_server
from tests.support.clock import FrozenClock
from tests.support.recording import METERED, NOON, apply_metered_catalog, metered_services
from tests.support.transport_servers import refusal_of

KINDS: tuple[TransportKind, ...] = ("native", "grpcio")
RECORDED = usage_service_pb2.RECORD_OUTCOME_RECORDED
DUPLICATE = usage_service_pb2.RECORD_OUTCOME_DUPLICATE
REFUSED = usage_service_pb2.RECORD_OUTCOME_REFUSED


@pytest.fixture(params=KINDS)
async def usage(request: pytest.FixtureRequest, fresh_database: str, fresh_redis: str) -> AsyncIterator[Any]:
    """Stub of a server that knows the tenant `metered`; its clock stands still at noon."""
    await apply_metered_catalog(fresh_database)
    async with metered_services(fresh_database, fresh_redis, clock=FrozenClock(NOON)) as [service]:
        server = build_server(request.param, servicers(service), observe=lambda *_call: None)
        port = await server.start("127.0.0.1", 0)
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            yield usage_service_pb2_grpc.UsageServiceStub(channel)
        await server.drain(drain_delay_ms=0, grace_ms=1_000)


def an_event(event_id: str = "1", **changes: Any) -> usage_event_pb2.UsageEvent:
    """Build a valid event of a model's call."""
    fields: dict[str, Any] = {
        "id": event_id,
        "source": "/chat",
        "type": "llm.call",
        "subject": "ann",
        "ai": {"model_key": "small", "input_tokens": 1_000, "output_tokens": 500, "operation": "chat"},
        **changes,
    }
    return usage_event_pb2.UsageEvent(**fields)


def data(**values: Any) -> Struct:
    struct = Struct()
    struct.update(values)
    return struct


async def record(usage: Any, *events: usage_event_pb2.UsageEvent) -> Any:
    return await usage.RecordUsage(usage_service_pb2.RecordUsageRequest(tenant_id=METERED, events=events))


async def listed(usage: Any, **filters: Any) -> Any:
    return await usage.ListUsageEvents(usage_service_pb2.ListUsageEventsRequest(tenant_id=METERED, **filters))


def info_of(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "tallygate.dev"
    return info


def violations_of(status: status_pb2.Status) -> list[str]:
    bad_request = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad_request) for detail in status.details)
    return [violation.field for violation in bad_request.field_violations]


def a_time(offset: timedelta = timedelta(0)) -> Timestamp:
    time = Timestamp()
    time.FromDatetime(NOON + offset)
    return time


async def test_an_event_is_recorded_and_listed_as_it_was(usage: Any) -> None:
    event = an_event(
        time=a_time(-timedelta(minutes=1)),
        data=data(region="eu", nested={"list": [1, 2.5, None, True, "x"]}, empty={}),
        client={"user_agent": "ext/1.0", "ip_address": "2001:db8::1", "input_text_length": 5, "output_text_length": 9},
    )

    response = await record(usage, event)
    page = await listed(usage)

    [result] = response.results
    assert (response.recorded_count, response.duplicate_count, response.refused_count) == (1, 0, 0)
    assert (result.event_id, result.source, result.outcome) == ("1", "/chat", RECORDED)
    assert list(result.meter_keys) == ["ai_cost", "requests", "tokens"]
    assert (result.cost_nanos, result.cost_currency_code) == (450_000, "USD")
    assert not result.HasField("error")
    [recorded] = page.events
    assert recorded.event == event
    assert recorded.receive_time == a_time()
    assert list(recorded.meter_keys) == ["ai_cost", "requests", "tokens"]
    assert (recorded.cost_nanos, recorded.cost_currency_code) == (450_000, "USD")
    assert page.next_page_token == ""


async def test_each_event_is_judged_alone_and_bad_ones_are_named(usage: Any) -> None:
    response = await record(
        usage,
        an_event("1"),
        an_event(""),
        an_event("2", type="job.done"),
        an_event("1"),
        an_event("1", subject="bob"),
        an_event("3", time=a_time(timedelta(minutes=6))),
        an_event("4", source=""),
    )

    assert [result.outcome for result in response.results] == [
        *(RECORDED, REFUSED, REFUSED, DUPLICATE, REFUSED, REFUSED, REFUSED)
    ]
    assert (response.recorded_count, response.duplicate_count, response.refused_count) == (1, 1, 5)
    errors = {index: result.error for index, result in enumerate(response.results) if result.HasField("error")}
    assert {index: (grpc.StatusCode(_code(error)), info_of(error).reason) for index, error in errors.items()} == {
        1: (grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED"),
        2: (grpc.StatusCode.INVALID_ARGUMENT, "EVENT_PROPERTY_INVALID"),
        4: (grpc.StatusCode.ALREADY_EXISTS, "EVENT_ID_REUSED"),
        5: (grpc.StatusCode.INVALID_ARGUMENT, "EVENT_TIME_OUT_OF_RANGE"),
        6: (grpc.StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED"),
    }
    assert violations_of(errors[1]) == ["events[1].id"]
    assert violations_of(errors[6]) == ["events[6].source"]
    assert dict(info_of(errors[2]).metadata) == {
        "event_id": "2",
        "meter_key": "authors",
        "property": "author",
        "field": "events[2].data.author",
    }


def _code(status: status_pb2.Status) -> tuple[int, str]:
    return next(code.value for code in grpc.StatusCode if code.value[0] == status.code)


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"event_id": "with space"}, "id"),
    ({"event_id": "x" * 129}, "id"),
    ({"source": "x" * 257}, "source"),
    ({"type": ""}, "type"),
    ({"subject": "-"}, "subject"),
    ({"time": Timestamp(seconds=1)}, "time"),
    ({"ai": {}}, "ai.model_key"),
    ({"ai": {"model_key": "m", "input_tokens": -1}}, "ai.input_tokens"),
    ({"ai": {"model_key": "m", "input_tokens": 4, "cached_input_tokens": 5}}, "ai.cached_input_tokens"),
    ({"client": {"ip_address": "1.2.3"}}, "client.ip_address"),
    ({"client": {"ip_address": "1.2.3.400"}}, "client.ip_address"),
    ({"client": {"input_text_length": -1}}, "client.input_text_length"),
    ({"data": data(x="a\0b")}, "data"),
    ({"data": data(x=[{"y\0": 1}])}, "data"),
    ({"data": data(x=float("nan"))}, "data"),
    ({"data": data(x=float("-inf"))}, "data"),
]


async def test_a_rule_that_an_event_breaks_is_named_by_its_field(usage: Any) -> None:
    events = [an_event(**{"event_id": str(index), **changes}) for index, (changes, _) in enumerate(BROKEN)]

    response = await record(usage, *events, an_event("good"))

    assert [result.outcome for result in response.results] == [REFUSED] * len(BROKEN) + [RECORDED]
    named = [violations_of(result.error) for result in response.results[:-1]]
    assert named == [[f"events[{index}].{field}"] for index, (_, field) in enumerate(BROKEN)]


async def test_data_has_a_bound(usage: Any) -> None:
    room = EVENT_DATA_BYTES_MAX - len('{"x":""}')

    response = await record(
        usage,
        an_event("at", data=data(x="a" * room)),
        an_event("past", data=data(x="a" * (room + 1))),
        an_event("escaped", data=data(x="\\u0000")),
    )

    assert [result.outcome for result in response.results] == [RECORDED, REFUSED, RECORDED]
    assert violations_of(response.results[1].error) == ["events[1].data"]


@pytest.mark.parametrize("count", [0, BATCH_ITEMS_MAX + 1])
async def test_a_call_has_1_to_1000_events(usage: Any, count: int) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await record(usage, *(an_event(str(n)) for n in range(count)))

    assert refusal_of(caught.value).reason == "VALIDATION_FAILED"


async def test_an_unknown_tenant_fails_the_calls(usage: Any) -> None:
    for call in (
        usage.RecordUsage(usage_service_pb2.RecordUsageRequest(tenant_id="nobody", events=[an_event()])),
        usage.ListUsageEvents(usage_service_pb2.ListUsageEventsRequest(tenant_id="nobody")),
    ):
        with pytest.raises(aio.AioRpcError) as caught:
            await call
        assert refusal_of(caught.value).reason == "TENANT_NOT_FOUND"


async def test_events_are_paged_and_filtered(usage: Any) -> None:
    await record(usage, *(an_event(str(n), subject=f"a{n % 2}", time=a_time(-timedelta(minutes=n))) for n in range(7)))

    first = await listed(usage, account_id="a0", page_size=3)
    rest = await listed(usage, account_id="a0", page_size=3, page_token=first.next_page_token)
    late = await listed(usage, start_time=a_time(-timedelta(minutes=2)), end_time=a_time())

    assert [each.event.id for each in first.events] == ["6", "4", "2"]
    assert [each.event.id for each in rest.events] == ["0"]
    assert rest.next_page_token == ""
    assert [each.event.id for each in late.events] == ["2", "1"]
    with pytest.raises(aio.AioRpcError) as caught:
        await listed(usage, account_id="a1", page_token=first.next_page_token)
    assert refusal_of(caught.value).reason == "PAGE_TOKEN_INVALID"


async def test_a_page_has_100_events_unless_told_otherwise(usage: Any) -> None:
    await record(usage, *(an_event(str(n)) for n in range(101)))

    assert len((await listed(usage)).events) == 100
    assert len((await listed(usage, page_size=1_000)).events) == 101


async def test_the_ledger_shows_what_events_counted(usage: Any) -> None:
    await record(usage, an_event("1"))

    request = usage_service_pb2.GetUsageRequest(tenant_id=METERED, account_id="ann", feature_key="tokens")
    quota = (await usage.GetUsage(request)).quota

    assert (quota.used_quantity, quota.remaining_quantity) == (1_500, 8_500)
