"""A thousand watchers on one server: each hears its own account's changes, on either transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc import aio

from tallygate.v1 import entitlement_service_pb2 as wire
from tallygate.v1.entitlement_service_pb2_grpc import EntitlementServiceStub
from tallygate_server.domain.identifier import AccountId
from tallygate_server.service import Service
from tallygate_server.transport.server import GrpcServer, TransportKind, build_server
from tests.support.acme import ACME, a_check, services
from tests.support.eventually import eventually
from tests.support.transport_servers import refusal_of
from tests.support.use_case_fakes import an_entitlement_servicer

WATCHERS = 1_000
ACCOUNTS = 100
WATCHERS_PER_CHANNEL = 90
"""Fewer than a connection to either transport may have calls under way."""


@pytest.fixture
async def service(acme_database: str, fresh_redis: str) -> AsyncIterator[Service]:
    async with services(acme_database, fresh_redis) as (running,):
        yield running


@asynccontextmanager
async def served(service: Service, kind: TransportKind) -> AsyncIterator[tuple[GrpcServer, int]]:
    """Serve EntitlementService over the real use cases until the block is left."""
    servicer = an_entitlement_servicer(service.checker, watches=service.watches)
    server = build_server(kind, [servicer], observe=lambda *_call: None)
    server.at_drain(service.watches.end)
    port = await server.start("127.0.0.1", 0)
    try:
        yield server, port
    finally:
        await server.drain(drain_delay_ms=0, grace_ms=1_000)


@asynccontextmanager
async def channels(port: int, count: int) -> AsyncIterator[list[aio.Channel]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                # Or else channels to one address share a connection.
                aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
            )
            for _ in range(count)
        ]


class Watch:
    """One watcher over the wire."""

    def __init__(self, channel: aio.Channel, account_id: str) -> None:
        stub: Any = EntitlementServiceStub(channel)
        self.account_id = account_id
        self.call = stub.WatchEntitlements(
            wire.WatchEntitlementsRequest(tenant_id=ACME, account_id=account_id), timeout=300
        )

    async def read(self) -> wire.WatchEntitlementsResponse:
        """Return the next message that is no sign of life."""
        while True:
            update = await self.call.read()
            assert isinstance(update, wire.WatchEntitlementsResponse), await self.call.details()
            if update.WhichOneof("update") != "heartbeat":
                return update


async def suspend(service: Service, accounts: Sequence[AccountId]) -> dict[str, int]:
    """Suspend accounts, some at a time; return their revisions."""
    revisions = {}
    for start in range(0, len(accounts), 10):
        for account in await asyncio.gather(
            *(service.accounts.suspend(ACME, account_id) for account_id in accounts[start : start + 10])
        ):
            revisions[str(account.account_id)] = account.revision
    return revisions


@pytest.mark.parametrize("kind", ["native", "grpcio"])
async def test_a_thousand_watchers_hear_what_changes(service: Service, kind: TransportKind) -> None:
    accounts = [AccountId(f"account-{n}") for n in range(ACCOUNTS)]
    async with (
        served(service, kind) as (server, port),
        channels(port, -(-WATCHERS // WATCHERS_PER_CHANNEL)) as open_channels,
    ):
        watches = [Watch(open_channels[n // WATCHERS_PER_CHANNEL], accounts[n % ACCOUNTS]) for n in range(WATCHERS)]

        snapshots = await asyncio.gather(*(watch.read() for watch in watches))
        revisions = await suspend(service, accounts)
        changes = await asyncio.gather(*(watch.read() for watch in watches))

        assert {update.WhichOneof("update") for update in snapshots} == {"snapshot"}
        for watch, snapshot, update in zip(watches, snapshots, changes, strict=True):
            assert update.change.revision == revisions[watch.account_id]
            assert update.change.cause == "account.suspended"
            keys = {entitlement.feature_key for entitlement in snapshot.snapshot.entitlements}
            assert set(update.change.removed_feature_keys) == keys
        assert service.watches.watcher_count == WATCHERS
        # A watch lasts for hours: it is not among the calls that the server has under way.
        assert server.in_flight.count == 0
        await service.checker.check(a_check("ten"))

        for watch in watches[::2]:
            watch.call.cancel()
        await eventually(lambda: service.watches.watcher_count == WATCHERS // 2)
    assert service.watches.watcher_count == 0


@pytest.mark.parametrize("kind", ["native", "grpcio"])
async def test_a_drain_ends_watches_as_unavailable(service: Service, kind: TransportKind) -> None:
    async with served(service, kind) as (server, port), channels(port, 1) as (channel,):
        watch = Watch(channel, "ann")
        await watch.read()

        await server.drain(drain_delay_ms=0, grace_ms=10_000)

        with pytest.raises(aio.AioRpcError) as raised:
            await watch.call.read()
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert refusal_of(raised.value).reason == "SHUTTING_DOWN"
