"""ReverseUsage and CorrectUsage over the wire, through both transports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from grpc import aio

from tallygate.v1 import (
    access_pb2,
    admin_service_pb2,
    admin_service_pb2_grpc,
    usage_pb2,
    usage_service_pb2,
    usage_service_pb2_grpc,
)
from tallygate_server.app import servicers
from tallygate_server.clock import SystemClock
from tallygate_server.service import Service, open_service
from tallygate_server.transport.server import build_server
from tests.support.acme import PATIENT
from tests.support.transport_servers import Refusal, refusal_of
from tests.support.use_cases import example

LEKHAK: dict[str, Any] = {"tenant_id": "lekhak", "account_id": "a"}


@dataclass(frozen=True, slots=True)
class Client:
    """A service and who calls it."""

    service: Service
    usage: Any
    admin: Any


@pytest.fixture(params=["native", "grpcio"])
async def client(request: pytest.FixtureRequest, fresh_database: str, fresh_redis: str) -> AsyncIterator[Client]:
    async with open_service(
        database_url=fresh_database, redis_url=fresh_redis, clock=SystemClock(), limits=PATIENT
    ) as service:
        await service.catalogs.apply(example("lekhak"))
        server = build_server(request.param, servicers(service), observe=lambda *_call: None)
        port = await server.start("127.0.0.1", 0)
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            yield Client(
                service,
                usage_service_pb2_grpc.UsageServiceStub(channel),
                admin_service_pb2_grpc.AdminServiceStub(channel),
            )
        await server.drain(drain_delay_ms=0, grace_ms=1_000)


async def refused(call: Any) -> Refusal:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return refusal_of(caught.value)


async def counted(client: Client, quantity: int, request_id: str = "") -> usage_service_pb2.IncrementResponse:
    request = usage_service_pb2.IncrementRequest(
        **LEKHAK, feature_key="text_rewrite", quantity=quantity, request_id=request_id
    )
    response: usage_service_pb2.IncrementResponse = await client.usage.Increment(request)
    return response


def a_reversal(entry_id: str, **more: Any) -> usage_service_pb2.ReverseUsageRequest:
    return usage_service_pb2.ReverseUsageRequest(
        **{**LEKHAK, "entry_id": entry_id, "reason_text": "counted twice", **more}
    )


async def test_usage_is_taken_back_once_and_the_ledger_says_who_and_why(client: Client) -> None:
    wrong = await counted(client, 8)
    await counted(client, 5, "denied")

    answer = await client.usage.ReverseUsage(a_reversal(wrong.entry_id, quantity=6, request_id="r", actor="eve"))
    again = await client.usage.ReverseUsage(a_reversal(wrong.entry_id, quantity=6, request_id="r", actor="eve"))
    too_much = await refused(client.usage.ReverseUsage(a_reversal(wrong.entry_id, quantity=3)))
    nothing = await refused(client.usage.ReverseUsage(a_reversal("1")))
    listed = await client.usage.ListUsageEntries(
        usage_service_pb2.ListUsageEntriesRequest(**LEKHAK, kind=usage_pb2.USAGE_ENTRY_KIND_REVERSAL)
    )

    assert (answer.entry.kind, answer.entry.quantity) == (usage_pb2.USAGE_ENTRY_KIND_REVERSAL, -6)
    assert (answer.entry.reversed_entry_id, answer.entry.plan_key) == (wrong.entry_id, "free")
    assert (answer.entry.reason_text, answer.entry.actor) == ("counted twice", "eve")
    assert (answer.reversible_quantity, answer.quota.used_quantity, answer.quota.limit_quantity) == (2, 2, 10)
    assert answer.revision > 0
    (denial,) = answer.redeemable_denials
    assert (denial.request_id, denial.quantity) == ("denied", 5)
    assert denial.reason == access_pb2.DECISION_REASON_EXHAUSTED
    assert answer.redeemable_denial_count == 1
    assert again.replayed
    assert again.entry == answer.entry
    assert list(listed.entries) == [answer.entry]
    assert (too_much.code, too_much.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ENTRY_ALREADY_REVERSED")
    assert (nothing.code, nothing.reason) == (grpc.StatusCode.NOT_FOUND, "ENTRY_NOT_FOUND")


async def test_an_operator_corrects_a_counter_beyond_its_limit(client: Client) -> None:
    await counted(client, 1)
    wanted: dict[str, Any] = {**LEKHAK, "feature_key": "text_rewrite", "reason_text": "moved from the old books"}

    answer = await client.admin.CorrectUsage(admin_service_pb2.CorrectUsageRequest(**wanted, quantity=40))
    refusal = await refused(client.admin.CorrectUsage(admin_service_pb2.CorrectUsageRequest(**wanted, quantity=-42)))

    assert (answer.entry.kind, answer.entry.used_quantity) == (usage_pb2.USAGE_ENTRY_KIND_CORRECTION, 41)
    assert (answer.entry.reason_text, answer.entry.actor) == ("moved from the old books", "api")
    assert (answer.quota.used_quantity, answer.quota.remaining_quantity) == (41, 0)
    assert answer.quota.reason == access_pb2.DECISION_REASON_EXHAUSTED
    assert not answer.replayed
    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["quantity"])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"quantity": 0}, "quantity"),
        ({"quantity": 1_000_000_000_001}, "quantity"),
        ({"reason_text": ""}, "reason_text"),
        ({"reason_text": "x" * 1_001}, "reason_text"),
        ({"entry_id": ""}, "entry_id"),
        ({"actor": "x" * 201}, "actor"),
        ({"request_id": "x" * 129}, "request_id"),
    ],
)
async def test_a_bad_reversal_names_its_field(client: Client, changes: dict[str, Any], field: str) -> None:
    refusal = await refused(client.usage.ReverseUsage(a_reversal(**{"entry_id": "1", **changes})))

    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
