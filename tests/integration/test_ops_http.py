"""Operators get metrics, liveness and readiness over HTTP, whatever state the stores are in."""

from __future__ import annotations

import socket

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tallygate_server.ops_http import Component, OpsServer
from tallygate_server.ports import PortError


def all_up() -> list[Component]:
    return [Component(name="postgres", up=True, required=True)]


async def get(server: OpsServer, path: str, method: str = "GET") -> httpx.Response:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        return await client.request(method, path)


async def test_metrics_are_openmetrics() -> None:
    async with OpsServer.start(host="127.0.0.1", port=0, read_components=all_up) as server:
        response = await get(server, "/metrics")

    assert response.status_code == 200
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    families = {family.name for family in text_string_to_metric_families(response.text)}  # type: ignore[no-untyped-call]
    assert "tallygate_increment" in families


async def test_liveness_does_not_depend_on_components() -> None:
    def nobody_knows() -> list[Component]:
        raise RuntimeError("no components")

    async with OpsServer.start(host="127.0.0.1", port=0, read_components=nobody_knows) as server:
        response = await get(server, "/healthz")
        readiness = await get(server, "/readyz")

    assert (response.status_code, response.json()["status"]) == (200, "alive")
    assert readiness.status_code == 500
    assert "no components" not in readiness.text


@pytest.mark.parametrize(("up", "required", "status"), [(True, True, 200), (False, False, 200), (False, True, 503)])
async def test_readiness_depends_on_required_components_only(up: bool, required: bool, status: int) -> None:  # noqa: FBT001
    def components() -> list[Component]:
        return [*all_up(), Component(name="redis", up=up, required=required, detail="as told")]

    async with OpsServer.start(host="127.0.0.1", port=0, read_components=components) as server:
        response = await get(server, "/readyz")

    assert response.status_code == status
    assert response.json()["components"]["redis"] == {"up": up, "required": required, "detail": "as told"}


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/", 404), ("GET", "/nope", 404), ("POST", "/metrics", 405)]
)
async def test_anything_else_is_refused(method: str, path: str, status: int) -> None:
    async with OpsServer.start(host="127.0.0.1", port=0, read_components=all_up) as server:
        response = await get(server, path, method)

    assert response.status_code == status
    assert "error" in response.json()
    assert "server" not in response.headers


async def test_further_routes_are_served_beside_ours() -> None:
    async def hello(_request: Request) -> Response:
        return PlainTextResponse("hello")

    async with OpsServer.start(
        host="127.0.0.1", port=0, read_components=all_up, routes=[Route("/hello", hello)]
    ) as server:
        assert (await get(server, "/hello")).text == "hello"


async def test_a_taken_port_is_said_in_a_sentence_with_a_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        with pytest.raises(PortError) as refused:
            async with OpsServer.start(host="127.0.0.1", port=port, read_components=all_up):
                pass

    assert f"127.0.0.1:{port} is taken by process" in refused.value.message
    assert "TALLYGATE_OPS_PORT" in refused.value.way_out


async def test_the_port_is_free_again_after_the_server_stopped() -> None:
    async with OpsServer.start(host="127.0.0.1", port=0, read_components=all_up) as first:
        await get(first, "/healthz")

    async with OpsServer.start(host="127.0.0.1", port=first.port, read_components=all_up) as second:
        assert (await get(second, "/healthz")).status_code == 200
