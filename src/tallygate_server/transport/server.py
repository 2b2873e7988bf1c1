"""Assembly of the gRPC server: services, health, reflection, limits, start and drain, on either transport."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, Protocol, cast, runtime_checkable

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from grpc import aio

from tallygate.v1 import entitlement_service_pb2, usage_service_pb2
from tallygate_server.errors import TallygateError
from tallygate_server.transport import acceptance
from tallygate_server.transport.endpoint import (
    TIMEOUT_MS_DEFAULT,
    Accept,
    CallObserver,
    Endpoint,
    HandlerRegistry,
    Rules,
)
from tallygate_server.transport.fast_lane import FastLane
from tallygate_server.transport.health import HealthServicer
from tallygate_server.transport.load import IN_FLIGHT_DEFAULT, InFlight
from tallygate_server.transport.native import NativeServer
from tallygate_server.transport.reflection import register_reflection
from tallygate_server.transport.status import ShuttingDown

TransportKind = Literal["native", "grpcio"]

MESSAGE_BYTES_MAX: Final = 4 * 1_048_576
METADATA_BYTES_MAX: Final = 16 * 1_024
STREAMS_NATIVE: Final = 256
STREAMS_GRPCIO: Final = 100
"""Calls at a time on one connection. grpc.aio needs the low one: else rapid resets disturb others."""
KEEPALIVE_MS: Final = 300_000
KEEPALIVE_TIMEOUT_MS: Final = 20_000
PING_INTERVAL_MS_MIN: Final = 10_000
CATALOG_TIMEOUT_MS: Final = 60_000

_ACCEPTS: Final[Mapping[type[Message], Accept]] = {
    entitlement_service_pb2.CheckAccessRequest: acceptance.accepts_check,
    entitlement_service_pb2.BatchCheckAccessRequest: acceptance.accepts_batch_check,
    usage_service_pb2.IncrementRequest: acceptance.accepts_increment,
    usage_service_pb2.BatchIncrementRequest: acceptance.accepts_batch_increment,
}
_TIMEOUTS_MS: Final = {"/tallygate.v1.CatalogService/ApplyCatalog": CATALOG_TIMEOUT_MS}
BILLING_TIMEOUT_MS_DEFAULT: Final = 60_000
ASKING_THE_PROVIDER: Final = frozenset(
    f"/tallygate.v1.SubscriptionService/{name}"
    for name in (
        "CreateSubscription",
        "ChangePlan",
        "CancelSubscription",
        "ResumeSubscription",
        "PauseSubscription",
        "CancelScheduledChange",
        "PreviewPlanChange",
        "CreateCheckoutSession",
        "CreatePortalSession",
        "UpdateCustomer",
        "ReconcileSubscriptions",
    )
)
"""Methods that may wait for the billing provider, several times in a row."""
JOB_TIMEOUT_MS: Final = 65_000
WAITING_FOR_JOBS: Final = frozenset(
    f"/tallygate.v1.DataLifecycleService/{name}"
    for name in (
        "CompressData",
        "ArchiveData",
        "RestoreData",
        "CleanupData",
        "OptimizeStorage",
        "ValidateIntegrity",
        "ExportAccountData",
        "EraseAccountData",
    )
)
"""Methods whose callers may ask them to wait a minute for the end of a job."""
ANALYSIS_TIMEOUT_MS: Final = 60_000
ANALYSING_RECORDS: Final = frozenset(
    f"/tallygate.v1.DataLifecycleService/{name}"
    for name in (
        "AssessDataValue",
        "ClassifyData",
        "EvaluateCompressionImpact",
        "GetStorageMetrics",
        "IdentifyCriticalData",
        "OptimizeTrainingDataset",
        "PlanRetention",
        "SelectRepresentativeSamples",
        "SetRetentionPolicy",
        "UpdatePriorities",
        "VerifyErasureReceipt",
    )
)
"""Methods that read as many records or segments as the caller chose, or fit a model to them."""

WATCHES: Final = frozenset(
    {
        "/tallygate.v1.EntitlementService/WatchEntitlements",
        "/tallygate.v1.EventService/WatchEvents",
        "/tallygate.v1.DataLifecycleService/WatchLifecycleJob",
    }
)
"""Streams that never end by themselves, or not for hours."""


class AddressTaken(OSError):
    """Another program listens on the address."""

    def __init__(self, address: str) -> None:
        """Name the address, and the way out."""
        super().__init__(errno.EADDRINUSE, f"{address} is in use by another program; stop it or choose another port")


class AddressRefused(OSError):
    """The address cannot be listened on."""

    def __init__(self, address: str, error: OSError | None) -> None:
        """Name the address and the system's reason."""
        why = "the transport gave no reason" if error is None else (error.strerror or str(error))
        super().__init__(errno.EADDRNOTAVAIL if error is None else error.errno, f"cannot listen on {address}: {why}")


class Servicer(Protocol):
    """A servicer names its service and has a method for each RPC that is built."""

    SERVICE: ClassVar[ServiceDescriptor]


@runtime_checkable
class HotServicer(Protocol):
    """A servicer some of whose RPCs have a fast lane."""

    def fast_lanes(self) -> Sequence[FastLane]:
        """Return the lanes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """PEM bytes for TLS; with `client_ca`, clients must show a certificate."""

    certificate_chain: bytes
    private_key: bytes = field(repr=False)
    client_ca: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What the server accepts at a time."""

    message_bytes_max: int = MESSAGE_BYTES_MAX
    metadata_bytes_max: int = METADATA_BYTES_MAX
    streams_max: int = 0
    """Calls at a time on one connection; 0 means what suits the transport."""
    in_flight_max: int = IN_FLIGHT_DEFAULT
    timeout_ms: int = TIMEOUT_MS_DEFAULT
    """Deadline of calls whose client set none."""
    billing_timeout_ms: int = BILLING_TIMEOUT_MS_DEFAULT
    """The same for methods that may wait for the billing provider."""


class GrpcServer:
    """A gRPC server on one address, from start to drain."""

    def __init__(
        self,
        *,
        kind: TransportKind,
        server: aio.Server,
        health: HealthServicer,
        in_flight: InFlight,
        tls: Tls | None,
    ) -> None:
        """Use `build_server`."""
        self.kind = kind
        self.health = health
        self.in_flight = in_flight
        self._server = server
        self._tls = tls
        self._end_streams: list[Callable[[TallygateError], None]] = []

    def at_drain(self, end: Callable[[TallygateError], None]) -> None:
        """Have `end` called in a drain, with the error that streams which never end by themselves are to end with."""
        self._end_streams.append(end)

    def register_plain(self, add: Callable[[aio.Server], None]) -> None:
        """Let `add` register a stock servicer without any of our wrapping; for the benchmark's empty call."""
        add(self._server)

    async def start(self, host: str, port: int) -> int:
        """Listen and serve; return the port, which the system chooses when 0 is asked for.

        Raises AddressTaken or AddressRefused. Health says NOT_SERVING until it is told otherwise.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._tls is None:
                bound = self._server.add_insecure_port(address)
            else:
                bound = self._server.add_secure_port(address, _credentials(self._tls))
        except RuntimeError:
            bound = 0
        if bound == 0:
            raise _bind_error(host, port, address)
        await self._server.start()
        return bound

    async def drain(self, *, drain_delay_ms: int, grace_ms: int) -> None:
        """Stop without failing calls: say NOT_SERVING, serve on for the delay, then finish what is under way.

        The delay gives load balancers time to look elsewhere. What is not finished after the grace is ended.
        """
        self.health.begin_drain()
        await asyncio.sleep(drain_delay_ms / 1_000)
        self.health.end_watches()
        for end in self._end_streams:
            end(ShuttingDown())
        await self._server.stop(grace_ms / 1_000)

    @property
    def draining(self) -> bool:
        """Whether the server has begun to drain."""
        return self.health.draining

    async def wait_for_termination(self) -> None:
        """Return when the server has stopped."""
        await self._server.wait_for_termination()


def build_server(
    kind: TransportKind,
    servicers: Sequence[Servicer],
    *,
    observe: CallObserver,
    limits: ServerLimits | None = None,
    fast_lanes: bool = True,
    reflection: bool = True,
    reuse_port: bool = False,
    tls: Tls | None = None,
) -> GrpcServer:
    """Put a server together on the native or the grpcio transport; must run in the loop that will serve.

    Every finished call is reported to `observe`. With `reuse_port` several processes may share a port;
    without, a taken port is an error.
    """
    if kind == "native" and tls is not None:
        raise ValueError("the native transport has no TLS; choose the grpcio transport for a TLS listener")
    limits = limits or ServerLimits()
    in_flight = InFlight(limits.in_flight_max)
    endpoint = Endpoint(
        rules=Rules(_ACCEPTS),
        in_flight=in_flight,
        observe=observe,
        timeout_ms=limits.timeout_ms,
        timeouts_ms={
            **_TIMEOUTS_MS,
            **dict.fromkeys(ASKING_THE_PROVIDER, limits.billing_timeout_ms),
            **dict.fromkeys(WAITING_FOR_JOBS, JOB_TIMEOUT_MS),
            **dict.fromkeys(ANALYSING_RECORDS, ANALYSIS_TIMEOUT_MS),
        },
        watches=WATCHES,
    )
    options = _options(kind, limits, reuse_port=reuse_port)
    server: aio.Server
    registry: HandlerRegistry
    if kind == "native":
        lanes = [lane for servicer in servicers if isinstance(servicer, HotServicer) for lane in servicer.fast_lanes()]
        server = NativeServer(
            lanes=lanes if fast_lanes else (),
            in_flight=in_flight,
            observe=observe,
            timeout_ms=limits.timeout_ms,
            options=options,
        )
        registry = cast("HandlerRegistry", server)
    else:
        server = aio.server(options=options)
        registry = _GenericRegistry(server)
    health = HealthServicer(servicer.SERVICE.full_name for servicer in servicers)
    for servicer in servicers:
        endpoint.register(registry, servicer.SERVICE, servicer)
    endpoint.register(registry, health.SERVICE, health, sheddable=False)
    if reflection:
        names = [health.SERVICE.full_name, *(servicer.SERVICE.full_name for servicer in servicers)]
        register_reflection(registry, names)
    return GrpcServer(kind=kind, server=server, health=health, in_flight=in_flight, tls=tls)


class _GenericRegistry:
    """Registers with grpc.aio as one generic handler per service.

    Registering by method as well makes grpc.aio wait on one future per RPC at every accept, which costs more
    with each of our hundred RPCs.
    """

    def __init__(self, server: aio.Server) -> None:
        self._server = server

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: dict[str, grpc.RpcMethodHandler[Any, Any]], /
    ) -> None:
        handler = grpc.method_handlers_generic_handler(service_name, method_handlers)
        self._server.add_generic_rpc_handlers((handler,))


def _options(kind: TransportKind, limits: ServerLimits, *, reuse_port: bool) -> list[tuple[str, Any]]:
    streams_max = limits.streams_max or (STREAMS_NATIVE if kind == "native" else STREAMS_GRPCIO)
    return [
        ("grpc.so_reuseport", int(reuse_port)),
        ("grpc.max_receive_message_length", limits.message_bytes_max),
        ("grpc.max_concurrent_streams", streams_max),
        # Or else grpc.aio resets the calls that a client sends before it has read the limit, as UNAVAILABLE.
        ("grpc.http.overload_protection", 0),
        ("grpc.absolute_max_metadata_size", limits.metadata_bytes_max),
        ("grpc.max_metadata_size", limits.metadata_bytes_max // 2),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", PING_INTERVAL_MS_MIN),
    ]


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(tls.private_key, tls.certificate_chain)],
        root_certificates=tls.client_ca,
        require_client_auth=tls.client_ca is not None,
    )


def _bind_error(host: str, port: int, address: str) -> OSError:
    """Find out why the transport could not listen; it does not say."""
    try:
        family, _type, _protocol, _name, sockaddr = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(sockaddr)
            probe.listen()
    except OSError as error:
        return AddressTaken(address) if error.errno == errno.EADDRINUSE else AddressRefused(address, error)
    return AddressRefused(address, None)
