"""grpc.health.v1 on every transport."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from tallygate_server.transport import health
from tests.support.eventually import eventually
from tests.support.transport_servers import FLAVOURS, Served, refusal_of, serving

USAGE = "tallygate.v1.UsageService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.fixture(params=FLAVOURS)
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    async with serving(request.param) as running:
        yield running


def stub(served: Served) -> Any:
    return HealthStub(served.channel)


def asked(service: str) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


async def statuses(watch: Any) -> list[int]:
    told: list[int] = []
    while (response := await watch.read()) is not aio.EOF:
        told.append(response.status)
    return told


@pytest.mark.parametrize("service", ["", USAGE, "tallygate.v1.EntitlementService"])
async def test_the_server_and_each_service_have_a_status(served: Served, service: str) -> None:
    assert (await stub(served).Check(asked(service))).status == SERVING

    served.server.health.set_serving(False, services=[service])

    assert (await stub(served).Check(asked(service))).status == NOT_SERVING


async def test_an_unknown_service_is_not_found(served: Served) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await stub(served).Check(asked("nonsense"))

    assert refusal_of(caught.value).code is grpc.StatusCode.NOT_FOUND
    assert refusal_of(caught.value).metadata == {"kind": "service", "id": "nonsense"}


async def test_all_statuses_are_listed(served: Served) -> None:
    served.server.health.set_serving(False, services=[USAGE])

    response = await stub(served).List(health_pb2.HealthListRequest())

    assert {name: entry.status for name, entry in response.statuses.items()} == {
        "": SERVING,
        USAGE: NOT_SERVING,
        "tallygate.v1.EntitlementService": SERVING,
        "tallygate.v1.DataLifecycleService": SERVING,
    }


async def test_a_server_is_not_serving_until_it_is_told(served: Served) -> None:
    assert health.HealthServicer([USAGE])._statuses == {"": NOT_SERVING, USAGE: NOT_SERVING}


async def test_a_watch_tells_the_status_and_every_change_and_ends_with_the_drain(served: Served) -> None:
    watch = stub(served).Watch(asked(USAGE))
    assert (await watch.read()).status == SERVING
    served.server.health.set_serving(False, services=[USAGE])
    assert (await watch.read()).status == NOT_SERVING
    served.server.health.set_serving(True)
    assert (await watch.read()).status == SERVING
    began = time.monotonic()

    await served.server.drain(drain_delay_ms=0, grace_ms=120_000)

    assert await statuses(watch) == [NOT_SERVING]
    assert time.monotonic() - began < 60
    assert await watch.code() is grpc.StatusCode.OK


async def test_a_watch_of_an_unknown_service_stays_open(served: Served) -> None:
    watch = stub(served).Watch(asked("nonsense"))
    assert (await watch.read()).status == SERVICE_UNKNOWN

    served.server.health.end_watches()

    assert await statuses(watch) == []
    assert await watch.code() is grpc.StatusCode.OK


async def test_a_cancelled_watch_is_forgotten(served: Served) -> None:
    watch = stub(served).Watch(asked(""))
    await watch.read()
    assert served.server.health.watcher_count == 1

    watch.cancel()

    await eventually(lambda: served.server.health.watcher_count == 0)


async def test_watches_are_bounded_and_checks_are_not(served: Served) -> None:
    served.server.health._watchers_max = 2
    watches = [stub(served).Watch(asked("")) for _ in range(2)]
    for watch in watches:
        await watch.read()

    with pytest.raises(aio.AioRpcError) as caught:
        await stub(served).Watch(asked("")).read()

    assert refusal_of(caught.value).reason == "OVERLOADED"
    assert (await stub(served).Check(asked(""))).status == SERVING


async def test_probes_see_not_serving_while_calls_still_work(served: Served) -> None:
    drain = asyncio.ensure_future(served.server.drain(drain_delay_ms=60_000, grace_ms=2_000))
    await eventually(lambda: served.server.draining)

    assert (await stub(served).Check(asked(""))).status == NOT_SERVING
    served.server.health.set_serving(True)
    assert (await stub(served).Check(asked(""))).status == NOT_SERVING
    drain.cancel()
