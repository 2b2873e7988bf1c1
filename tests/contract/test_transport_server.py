"""Assembly: addresses, TLS, what the native transport leans on, and servicers that fit the contract."""

from __future__ import annotations

import asyncio
import inspect
import socket
from typing import Any

import grpc
import pygrpc_native.aio as native_aio
import pytest
from grpc import aio
from structlog.testing import capture_logs

from tallygate.v1 import access_pb2, data_lifecycle_service_pb2, subscription_service_pb2
from tallygate.v1.entitlement_service_pb2 import CheckAccessResponse
from tallygate.v1.entitlement_service_pb2_grpc import (
    EntitlementServiceServicer,
    EntitlementServiceStub,
    add_EntitlementServiceServicer_to_server,
)
from tallygate_server.transport import native
from tallygate_server.transport.account_servicer import AccountServicer
from tallygate_server.transport.admin_servicer import AdminServicer
from tallygate_server.transport.catalog_servicer import CatalogServicer
from tallygate_server.transport.data_lifecycle_servicer import DataLifecycleServicer
from tallygate_server.transport.entitlement_servicer import EntitlementServicer
from tallygate_server.transport.event_servicer import EventServicer
from tallygate_server.transport.server import (
    ANALYSING_RECORDS,
    ASKING_THE_PROVIDER,
    WAITING_FOR_JOBS,
    AddressRefused,
    AddressTaken,
    GrpcServer,
    Servicer,
    Tls,
    TransportKind,
    build_server,
)
from tallygate_server.transport.subscription_servicer import SubscriptionServicer
from tallygate_server.transport.usage_servicer import UsageServicer
from tests.support import tls_material
from tests.support.transport_servers import a_check, serving
from tests.support.use_case_fakes import FakeChecks, a_usage_servicer, an_entitlement_servicer

KINDS: tuple[TransportKind, ...] = ("native", "grpcio")
SERVICERS: tuple[type[Servicer], ...] = (
    AccountServicer,
    AdminServicer,
    CatalogServicer,
    DataLifecycleServicer,
    EntitlementServicer,
    EventServicer,
    SubscriptionServicer,
    UsageServicer,
)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> TransportKind:
    found: TransportKind = request.param
    return found


def a_server(kind: TransportKind, **changes: Any) -> GrpcServer:
    return build_server(kind, [an_entitlement_servicer()], observe=lambda *_call: None, **changes)


async def test_a_taken_port_is_one_clear_sentence(kind: TransportKind) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        with pytest.raises(AddressTaken, match=rf"127\.0\.0\.1:{port} is in use"):
            await a_server(kind).start("127.0.0.1", port)


async def test_a_second_server_of_ours_finds_the_port_taken_too(kind: TransportKind) -> None:
    first = a_server(kind)
    port = await first.start("127.0.0.1", 0)

    with pytest.raises(AddressTaken):
        await a_server(kind).start("127.0.0.1", port)
    await first.drain(drain_delay_ms=0, grace_ms=0)


async def test_ports_are_shared_when_asked(kind: TransportKind) -> None:
    first, second = a_server(kind, reuse_port=True), a_server(kind, reuse_port=True)
    port = await first.start("127.0.0.1", 0)

    assert await second.start("127.0.0.1", port) == port
    for server in (first, second):
        await server.drain(drain_delay_ms=0, grace_ms=0)


async def test_an_address_of_somebody_else_is_refused_with_the_systems_reason(kind: TransportKind) -> None:
    with pytest.raises(AddressRefused, match=r"cannot listen on 192\.0\.2\.1:0"):
        await a_server(kind).start("192.0.2.1", 0)


async def test_a_stopped_server_frees_its_port(kind: TransportKind) -> None:
    first = a_server(kind)
    port = await first.start("127.0.0.1", 0)
    await first.drain(drain_delay_ms=0, grace_ms=0)
    await asyncio.wait_for(first.wait_for_termination(), 60)

    second = a_server(kind)
    assert await second.start("127.0.0.1", port) == port
    await second.drain(drain_delay_ms=0, grace_ms=0)


async def test_ipv6_addresses_are_written_as_such(kind: TransportKind) -> None:
    server = a_server(kind)
    try:
        port = await server.start("::1", 0)
    except AddressRefused as error:
        # A machine without IPv6: the refusal still names the address properly.
        assert "[::1]:0" in str(error)  # noqa: PT017 - either way is right
    else:
        async with aio.insecure_channel(f"[::1]:{port}") as channel:
            assert (await EntitlementServiceStub(channel).CheckAccess(a_check())).plan_key == "free"
        await server.drain(drain_delay_ms=0, grace_ms=0)


async def test_a_drain_before_the_start_does_nothing_bad(kind: TransportKind) -> None:
    await asyncio.wait_for(a_server(kind).drain(drain_delay_ms=0, grace_ms=0), 60)


async def _stock_answer(_request: Any, _context: Any) -> CheckAccessResponse:
    return CheckAccessResponse(plan_key="stock")


def _register_stock(plain: aio.Server) -> None:
    servicer: Any = type("Stock", (EntitlementServiceServicer,), {"CheckAccess": staticmethod(_stock_answer)})()
    add_EntitlementServiceServicer_to_server(servicer, plain)


async def test_a_stock_servicer_can_be_registered_without_our_wrapping(kind: TransportKind) -> None:
    server = build_server(kind, [], observe=lambda *_call: None, reflection=False)
    server.register_plain(_register_stock)
    port = await server.start("127.0.0.1", 0)

    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        # Not a valid request: nothing looks at it.
        response = await EntitlementServiceStub(channel).CheckAccess(a_check(tenant_id=""))

    assert response.plan_key == "stock"
    await server.drain(drain_delay_ms=0, grace_ms=0)


# ---- TLS


def test_native_has_no_tls_and_says_what_has() -> None:
    with pytest.raises(ValueError, match="grpcio transport"):
        a_server("native", tls=Tls(certificate_chain=b"", private_key=b""))


def test_a_private_key_is_never_shown() -> None:
    assert "secret" not in repr(Tls(certificate_chain=b"c", private_key=b"secret"))


async def test_tls_is_served_and_plaintext_is_not() -> None:
    server = a_server(
        "grpcio", tls=Tls(certificate_chain=tls_material.CERTIFICATE, private_key=tls_material.PRIVATE_KEY)
    )
    port = await server.start("127.0.0.1", 0)
    credentials = grpc.ssl_channel_credentials(tls_material.CERTIFICATE)

    async with aio.secure_channel(f"localhost:{port}", credentials) as channel:
        assert (await EntitlementServiceStub(channel).CheckAccess(a_check())).plan_key == "free"
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(aio.AioRpcError):
            await EntitlementServiceStub(channel).CheckAccess(a_check(), timeout=60)
    await server.drain(drain_delay_ms=0, grace_ms=0)


async def test_with_a_client_ca_a_certificate_is_demanded() -> None:
    server = a_server(
        "grpcio",
        tls=Tls(
            certificate_chain=tls_material.CERTIFICATE,
            private_key=tls_material.PRIVATE_KEY,
            client_ca=tls_material.CERTIFICATE,
        ),
    )
    port = await server.start("127.0.0.1", 0)
    without = grpc.ssl_channel_credentials(tls_material.CERTIFICATE)
    with_one = grpc.ssl_channel_credentials(
        tls_material.CERTIFICATE, tls_material.PRIVATE_KEY, tls_material.CERTIFICATE
    )

    async with aio.secure_channel(f"localhost:{port}", without) as channel:
        with pytest.raises(aio.AioRpcError) as caught:
            await EntitlementServiceStub(channel).CheckAccess(a_check(), timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    async with aio.secure_channel(f"localhost:{port}", with_one) as channel:
        assert (await EntitlementServiceStub(channel).CheckAccess(a_check())).plan_key == "free"
    await server.drain(drain_delay_ms=0, grace_ms=0)


# ---- what the fast lanes lean on


def test_the_installed_library_has_what_the_lanes_lean_on() -> None:
    assert native.lanes_supported()


@pytest.mark.parametrize("name", ["_on_events", "_dispatch"])
def test_a_library_without_it_gets_no_lanes(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delattr(native_aio.Server, name)

    assert not native.lanes_supported()


async def test_without_lanes_hot_calls_go_the_ordinary_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "lanes_supported", lambda: False)

    with capture_logs() as logs:
        async with serving("native") as served:
            response = await served.entitlements.CheckAccess(a_check())

    assert response.decision == access_pb2.DECISION_ALLOWED
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["fast_lanes_off"]


async def test_both_hot_calls_have_a_lane() -> None:
    async with serving("native") as served:
        server = served.server._server
        assert isinstance(server, native.NativeServer)
        assert server.lane_paths == {
            "/tallygate.v1.EntitlementService/CheckAccess",
            "/tallygate.v1.UsageService/Increment",
        }


async def test_lane_calls_start_no_task() -> None:
    class Immediate(FakeChecks):
        def check_soon(self, _check: Any, done: Any) -> None:
            tasks.append(asyncio.current_task())
            done(self.answer)

    tasks: list[object] = []
    server = build_server("native", [an_entitlement_servicer(Immediate())], observe=lambda *_call: None)
    port = await server.start("127.0.0.1", 0)
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await EntitlementServiceStub(channel).CheckAccess(a_check())

    assert tasks == [None]
    await server.drain(drain_delay_ms=0, grace_ms=0)


# ---- servicers and the contract


@pytest.mark.parametrize("servicer", SERVICERS, ids=lambda cls: cls.__name__)
def test_every_public_method_of_a_servicer_is_an_rpc_of_its_service(servicer: type[Servicer]) -> None:
    public = {
        name
        for name, _function in inspect.getmembers(servicer, inspect.isfunction)
        if not name.startswith("_") and name != "fast_lanes"
    }

    assert public <= set(servicer.SERVICE.methods_by_name)


def test_a_servicer_can_be_built_from_fakes() -> None:
    servicer = a_usage_servicer()

    assert servicer.SERVICE.name == "UsageService"


def test_methods_that_ask_the_billing_provider_are_methods() -> None:
    methods = {
        f"/{service.full_name}/{method.name}"
        for service in (subscription_service_pb2.DESCRIPTOR.services_by_name["SubscriptionService"],)
        for method in service.methods
    }

    assert methods >= ASKING_THE_PROVIDER
    # What only reads our own rows has the usual deadline.
    assert not {path for path in ASKING_THE_PROVIDER if path.rpartition("/")[2].startswith(("Get", "List"))}


def test_long_methods_on_data_are_unary_methods_of_the_contract() -> None:
    service = data_lifecycle_service_pb2.DESCRIPTOR.services_by_name["DataLifecycleService"]
    unary = {f"/{service.full_name}/{method.name}" for method in service.methods if not method.server_streaming}

    assert unary >= ANALYSING_RECORDS | WAITING_FOR_JOBS
    assert not ANALYSING_RECORDS & WAITING_FOR_JOBS
