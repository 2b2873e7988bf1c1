"""The data lifecycle behind a real channel, for contract tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpc import aio

from tallygate.v1 import data_lifecycle_service_pb2_grpc
from tallygate_server.app import servicers
from tallygate_server.clock import Clock
from tallygate_server.lifecycle.assembly import Lifecycle
from tallygate_server.transport.server import GrpcServer, TransportKind, build_server
from tests.support.acme import apply_catalog, services
from tests.support.lifecycle import lifecycles

TRANSPORTS: tuple[TransportKind, ...] = ("native", "grpcio")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedLifecycle:
    """A stub of DataLifecycleService, and what stands behind it."""

    stub: Any
    channel: aio.Channel
    lifecycle: Lifecycle
    server: GrpcServer
    address: str


@asynccontextmanager
async def serving_lifecycle(
    kind: TransportKind, database_url: str, redis_url: str, directory: Path, *, clock: Clock | None = None
) -> AsyncIterator[ServedLifecycle]:
    """Serve the whole contract over a database where the tenant acme is made, until the block is left."""
    await apply_catalog(database_url)
    async with (
        services(database_url, redis_url, clock=clock) as [service],
        lifecycles(database_url, service, directory) as lifecycle,
    ):
        server = build_server(kind, servicers(service, lifecycle), observe=lambda *_call: None)
        server.at_drain(lifecycle.jobs.end_watches)
        port = await server.start("127.0.0.1", 0)
        address = f"127.0.0.1:{port}"
        # A pool of its own: channels to a port that was used before must not share a dead connection.
        async with aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            try:
                yield ServedLifecycle(
                    stub=data_lifecycle_service_pb2_grpc.DataLifecycleServiceStub(channel),
                    channel=channel,
                    lifecycle=lifecycle,
                    server=server,
                    address=address,
                )
            finally:
                await server.drain(drain_delay_ms=0, grace_ms=0)
