"""Two hundred clients of two server processes race for the last unit of a limit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import grpc
import pytest
from grpc import aio

from tallygate.v1.access_pb2 import DECISION_ALLOWED, DECISION_DENIED
from tallygate.v1.usage_service_pb2 import IncrementRequest, IncrementResponse
from tallygate.v1.usage_service_pb2_grpc import UsageServiceStub
from tallygate_server.client import CallFailed
from tallygate_server.embedded import EmbeddedServers
from tests.support.acme import assert_books_balance, used
from tests.support.tallygate_process import serving_process

CLIENTS: Final = 200
LIMIT: Final = 1_000
CHANNELS_PER_SERVER: Final = 4


@contextlib.asynccontextmanager
async def stubs(addresses: Sequence[str]) -> AsyncIterator[list[Any]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [
            UsageServiceStub(
                await stack.enter_async_context(
                    aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
                )
            )
            for _ in range(CHANNELS_PER_SERVER)
            for address in addresses
        ]


async def take_all(stub: Any) -> list[IncrementResponse]:
    """Take one unit after the other until there is none left; return what was allowed."""
    allowed: list[IncrementResponse] = []
    while True:
        try:
            answer = await stub.Increment(
                IncrementRequest(tenant_id="acme", account_id="ann", feature_key="words"), timeout=120
            )
        except aio.AioRpcError as error:
            # Of a machine that is too busy for the servers' time-outs. Nothing was counted, so asking again is exact.
            if CallFailed.of(error, method="Increment", target="").reason != "STORE_UNAVAILABLE":
                raise
            continue
        if answer.decision == DECISION_DENIED:
            return allowed
        assert answer.decision == DECISION_ALLOWED
        allowed.append(answer)


@pytest.mark.chaos
@pytest.mark.parametrize("flushing", [False, True], ids=["undisturbed", "flushed"])
@pytest.mark.parametrize("transport", ["native", "grpcio"])
async def test_two_hundred_clients_of_two_processes_get_exactly_the_limit(
    acme_database: str, fresh_redis: str, servers: EmbeddedServers, transport: str, *, flushing: bool
) -> None:
    settings = {
        "TALLYGATE_DATABASE_URL": acme_database,
        "TALLYGATE_REDIS_URL": fresh_redis,
        "TALLYGATE_TRANSPORT": transport,
    }
    racing = True

    async def flush() -> None:
        while racing:
            await servers.flush_redis()
            await asyncio.sleep(0.02)

    async with (
        serving_process("--port", "0", settings=settings) as one,
        serving_process("--port", "0", settings=settings) as other,
        stubs([one.address, other.address]) as channels,
    ):
        flusher = asyncio.create_task(flush()) if flushing else None
        try:
            taken = await asyncio.gather(*(take_all(channels[i % len(channels)]) for i in range(CLIENTS)))
        finally:
            racing = False
            if flusher is not None:
                await flusher

    answers = [answer for each in taken for answer in each]
    assert sorted(answer.used_quantity for answer in answers) == list(range(1, LIMIT + 1))
    assert await used(acme_database, "words") == LIMIT
    await assert_books_balance(acme_database)


async def test_what_a_client_sends_wrongly_changes_nothing(acme_database: str, fresh_redis: str) -> None:
    settings = {"TALLYGATE_DATABASE_URL": acme_database, "TALLYGATE_REDIS_URL": fresh_redis}
    wrong: dict[str, list[dict[str, Any]]] = {
        "quantity": [{"quantity": 0}, {"quantity": -1}, {"quantity": 2**62}],
        "account_id": [{"account_id": ""}, {"account_id": "a" * 10_240}],
        "tenant_id": [{"tenant_id": ""}, {"tenant_id": "nobody"}],
        "feature_key": [{"feature_key": ""}, {"feature_key": "w" * 10_240}],
        "request_id": [{"request_id": "r" * 10_240}],
        "ack": [{"ack": 77}],
    }

    async with serving_process("--port", "0", settings=settings) as server, stubs([server.address]) as channels:
        for field, requests in wrong.items():
            for request in requests:
                good: dict[str, Any] = {"tenant_id": "acme", "account_id": "ann", "feature_key": "words"}
                with pytest.raises(grpc.RpcError) as refused:
                    await channels[0].Increment(IncrementRequest(**{**good, **request}), timeout=120)
                assert refused.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
                assert field in str(refused.value.details())

    assert await used(acme_database, "words") == 0
