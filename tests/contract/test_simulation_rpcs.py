"""SimulateLimits and ValidateEntitlements as callers see them, on both transports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from grpc import aio

from tallygate.v1 import (
    access_pb2,
    admin_service_pb2,
    admin_service_pb2_grpc,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    entitlement_service_pb2,
    entitlement_service_pb2_grpc,
    usage_service_pb2,
    usage_service_pb2_grpc,
)
from tallygate_server.app import servicers
from tallygate_server.clock import SystemClock
from tallygate_server.service import Service, open_service
from tallygate_server.transport.server import TransportKind, build_server
from tests.support.acme import PATIENT
from tests.support.eventually import eventually
from tests.support.transport_servers import Refusal, refusal_of
from tests.support.use_cases import example

KINDS: tuple[TransportKind, ...] = ("native", "grpcio")
LEKHAK = "lekhak"


@dataclass(frozen=True, slots=True)
class Client:
    """Stubs, and the service behind them."""

    service: Service
    admin: Any
    catalogs: Any
    entitlements: Any
    usage: Any


@pytest.fixture(params=KINDS)
async def client(request: pytest.FixtureRequest, fresh_database: str, fresh_redis: str) -> AsyncIterator[Client]:
    async with open_service(
        database_url=fresh_database, redis_url=fresh_redis, clock=SystemClock(), limits=PATIENT
    ) as service:
        server = build_server(request.param, servicers(service), observe=lambda *_call: None)
        port = await server.start("127.0.0.1", 0)
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            client = Client(
                service=service,
                admin=admin_service_pb2_grpc.AdminServiceStub(channel),
                catalogs=catalog_service_pb2_grpc.CatalogServiceStub(channel),
                entitlements=entitlement_service_pb2_grpc.EntitlementServiceStub(channel),
                usage=usage_service_pb2_grpc.UsageServiceStub(channel),
            )
            await client.catalogs.ApplyCatalog(catalog_service_pb2.ApplyCatalogRequest(yaml=example(LEKHAK).text))
            for _ in range(13):
                await client.usage.Increment(increment())
            await service.meter._denials.drain()
            yield client
        await server.drain(drain_delay_ms=0, grace_ms=1_000)


def increment(feature_key: str = "text_rewrite") -> usage_service_pb2.IncrementRequest:
    return usage_service_pb2.IncrementRequest(tenant_id=LEKHAK, account_id="ann", feature_key=feature_key)


def simulation(**wanted: Any) -> entitlement_service_pb2.SimulateLimitsRequest:
    start = datetime.now(UTC) - timedelta(days=1)
    return entitlement_service_pb2.SimulateLimitsRequest(tenant_id=LEKHAK, start_time=start, **wanted)


async def told(call: Any) -> list[Any]:
    return [update async for update in call]


async def refused(call: Any) -> Refusal:
    with pytest.raises(aio.AioRpcError) as caught:
        await told(call)
    return refusal_of(caught.value)


async def test_the_plans_in_force_are_told_to_have_denied_what_they_denied(client: Client) -> None:
    updates = await told(client.entitlements.SimulateLimits(simulation(in_force=True, include_denied_usage=True)))

    kinds = [update.WhichOneof("update") for update in updates]
    assert kinds[0] == "progress"
    assert kinds[-2:] == ["account", "totals"]
    account, totals = updates[-2].account, updates[-1].totals
    assert (account.account_id, account.feature_key, account.plan_key) == ("ann", "text_rewrite", "free")
    assert (account.denied_count, account.denied_quantity, account.real_denied_count) == (3, 3, 3)
    assert (account.used_quantity, account.limit_quantity) == (10, 10)
    assert account.reason == access_pb2.DECISION_REASON_EXHAUSTED
    assert account.first_denial_time.ToDatetime(UTC) <= datetime.now(UTC)
    assert (totals.entry_count, totals.account_count, totals.denied_account_count) == (10, 1, 1)
    assert totals.duration.ToTimedelta() > timedelta()


async def test_a_draft_is_taken_as_a_message_and_as_text(client: Client) -> None:
    text = example(LEKHAK).text
    shown = await client.catalogs.GetCatalog(catalog_service_pb2.GetCatalogRequest(tenant_id=LEKHAK))
    [free] = [plan for plan in shown.catalog.plans if plan.key == "free"]
    [limit] = [allowance.limit for allowance in free.allowances if allowance.feature_key == "text_rewrite"]
    limit.quantity = 4

    as_message = await told(client.entitlements.SimulateLimits(simulation(catalog=shown.catalog)))
    unchanged = await told(client.entitlements.SimulateLimits(simulation(yaml=text)))

    assert as_message[-1].totals.denied_count == 6
    assert unchanged[-1].totals.denied_count == 0


async def test_live_calls_are_served_while_a_simulation_waits_for_its_reader(client: Client) -> None:
    call = client.entitlements.SimulateLimits(simulation(in_force=True))
    assert (await call.read()).WhichOneof("update") == "progress"

    for _ in range(20):
        answer = await client.usage.Increment(increment("ai_images"))
        assert answer.reason != access_pb2.DECISION_REASON_UNSPECIFIED
    call.cancel()

    await eventually(lambda: asyncio.sleep(0, client.service.simulations._running == 0))


async def test_a_draft_that_is_none_is_refused_with_its_violations(client: Client) -> None:
    refusal = await refused(client.entitlements.SimulateLimits(simulation(yaml="tenant: lekhak\nplans: 7")))

    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.reason == "CATALOG_INVALID"


async def test_a_window_that_begins_in_the_future_is_refused(client: Client) -> None:
    request = simulation(in_force=True)
    request.start_time.FromDatetime(datetime.now(UTC) + timedelta(days=1))

    refusal = await refused(client.entitlements.SimulateLimits(request))

    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_books_that_are_right_are_told_to_be_right(client: Client) -> None:
    updates = await told(client.admin.ValidateEntitlements(admin_service_pb2.ValidateEntitlementsRequest()))

    totals = updates[-1].totals
    assert [update.WhichOneof("update") for update in updates] == ["progress", "progress", "totals"]
    assert (totals.account_count, totals.counter_count, totals.entry_count) == (1, 1, 10)
    assert (totals.difference_count, totals.repaired_count) == (0, 0)


async def test_what_differs_is_told_as_json_and_repaired_when_asked(client: Client) -> None:
    key = client.service.counters.account_key(LEKHAK, "ann")  # type: ignore[arg-type]
    await client.service.redis.execute("HSET", key, "rev", "99")
    request = admin_service_pb2.ValidateEntitlementsRequest(tenant_id=LEKHAK, account_id="ann", repair=True)

    updates = await told(client.admin.ValidateEntitlements(request))

    [difference] = [update.difference for update in updates if update.WhichOneof("update") == "difference"]
    assert difference.place == admin_service_pb2.DIFFERENCE_PLACE_SNAPSHOT
    assert '"revision": 99' in difference.actual_json
    assert difference.repaired
    assert updates[-1].totals.repaired_count == 1
