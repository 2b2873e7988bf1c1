"""A server of the contract on a real port, over use cases in memory, and what tests need to talk to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from tallygate.v1.data_lifecycle_service_pb2_grpc import DataLifecycleServiceStub
from tallygate.v1.entitlement_service_pb2 import CheckAccessRequest
from tallygate.v1.entitlement_service_pb2_grpc import EntitlementServiceStub
from tallygate.v1.usage_service_pb2 import IncrementRequest
from tallygate.v1.usage_service_pb2_grpc import UsageServiceStub
from tallygate_server.transport.data_lifecycle_servicer import DataLifecycleServicer
from tallygate_server.transport.server import GrpcServer, ServerLimits, TransportKind, build_server
from tests.support.use_case_fakes import (
    FakeChecks,
    FakeMetering,
    FakeRecording,
    FakeReservations,
    FakeUsageQueries,
    a_usage_servicer,
    an_entitlement_servicer,
)

Flavour = Literal["native", "native_without_lanes", "grpcio"]
FLAVOURS: tuple[Flavour, ...] = ("native", "native_without_lanes", "grpcio")


@dataclass(slots=True, kw_only=True)
class Served:
    """A running server, its fakes, and a channel to it."""

    server: GrpcServer
    port: int
    channel: aio.Channel
    checks: FakeChecks
    metering: FakeMetering
    queries: FakeUsageQueries
    reservations: FakeReservations
    observed: list[tuple[str, str]] = field(default_factory=list)
    """Method and code of every finished call."""

    @property
    def entitlements(self) -> Any:
        """Stub of EntitlementService."""
        return EntitlementServiceStub(self.channel)

    @property
    def usage(self) -> Any:
        """Stub of UsageService."""
        return UsageServiceStub(self.channel)

    @property
    def lifecycle(self) -> Any:
        """Stub of DataLifecycleService, of which nothing is there."""
        return DataLifecycleServiceStub(self.channel)

    async def call_raw(self, path: str, payload: bytes) -> bytes:
        """Call a unary method with bytes and return the bytes of the response."""
        method: Any = self.channel.unary_unary(path)
        response: bytes = await method(payload, timeout=60)
        return response


class NothingBuilt:
    """A service of the contract of which no RPC is there."""

    SERVICE: ClassVar[ServiceDescriptor] = DataLifecycleServicer.SERVICE


@asynccontextmanager
async def serving(
    flavour: Flavour,
    *,
    limits: ServerLimits | None = None,
    metering: FakeMetering | None = None,
    options: list[tuple[str, Any]] | None = None,
) -> AsyncIterator[Served]:
    """Serve until the block is left."""
    checks, queries, recording = FakeChecks(), FakeUsageQueries(), FakeRecording()
    reservations = FakeReservations()
    metering = metering or FakeMetering()
    observed: list[tuple[str, str]] = []
    kind: TransportKind = "grpcio" if flavour == "grpcio" else "native"
    server = build_server(
        kind,
        [
            an_entitlement_servicer(checks),
            a_usage_servicer(metering=metering, queries=queries, recording=recording, reservations=reservations),
            NothingBuilt(),
        ],
        observe=lambda method, code, _seconds: observed.append((method, code)),
        limits=limits,
        fast_lanes=flavour == "native",
    )
    port = await server.start("127.0.0.1", 0)
    server.health.set_serving(True)
    # A pool of its own: channels to a port that was used before must not share a dead connection.
    channel_options = [("grpc.use_local_subchannel_pool", 1), *(options or [])]
    async with aio.insecure_channel(f"127.0.0.1:{port}", options=channel_options) as channel:
        try:
            yield Served(
                server=server,
                port=port,
                channel=channel,
                checks=checks,
                metering=metering,
                queries=queries,
                reservations=reservations,
                observed=observed,
            )
        finally:
            for gate in (checks.gate, metering.gate):
                if gate is not None:
                    gate.set()
            await server.drain(drain_delay_ms=0, grace_ms=0)


def a_check(**changes: Any) -> CheckAccessRequest:
    """Build a valid check."""
    return CheckAccessRequest(
        **{"tenant_id": "lekhak", "account_id": "acct-1", "feature_key": "text_rewrite", **changes}
    )


def an_increment(**changes: Any) -> IncrementRequest:
    """Build a valid increment."""
    return IncrementRequest(**{"tenant_id": "lekhak", "account_id": "acct-1", "feature_key": "text_rewrite", **changes})


@dataclass(slots=True, kw_only=True)
class Refusal:
    """What a failed call told its caller."""

    code: grpc.StatusCode
    message: str
    status: status_pb2.Status
    trailers: dict[str, str | bytes]
    everything: str
    """All text that reached the caller."""

    def detail(self, kind: type[Message]) -> Any:
        """Return the detail of this type, an empty one if there is none."""
        found = kind()
        for packed in self.status.details:
            if packed.Unpack(found):
                break
        return found

    @property
    def reason(self) -> str:
        """The ErrorInfo's reason."""
        info = self.detail(error_details_pb2.ErrorInfo)
        assert info.domain == "tallygate.dev"
        return str(info.reason)

    @property
    def metadata(self) -> dict[str, str]:
        """The ErrorInfo's metadata."""
        return dict(self.detail(error_details_pb2.ErrorInfo).metadata)

    @property
    def fields(self) -> list[str]:
        """Fields that the BadRequest names."""
        return [str(v.field) for v in self.detail(error_details_pb2.BadRequest).field_violations]

    @property
    def retry_delay_ms(self) -> int:
        """The RetryInfo's delay."""
        return int(self.detail(error_details_pb2.RetryInfo).retry_delay.ToMilliseconds())


def refusal_of(error: aio.AioRpcError) -> Refusal:
    """Take a failed call apart."""
    trailers: dict[str, str | bytes] = dict(error.trailing_metadata() or ())
    packed = trailers.get("grpc-status-details-bin", b"")
    status = status_pb2.Status.FromString(packed if isinstance(packed, bytes) else packed.encode())
    if packed:
        assert status.code == error.code().value[0]
        assert status.message == error.details()
    return Refusal(
        code=error.code(),
        message=error.details() or "",
        status=status,
        trailers=trailers,
        everything=f"{error.details()} {error.debug_error_string()} {trailers}",
    )
