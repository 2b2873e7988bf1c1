"""The HTTP server for those who operate Tallygate: metrics, liveness and readiness, on a port of its own.

It runs in the loop of the service. That is the point of the liveness answer: it comes as long as the loop turns, and
depends on no store. Readiness asks the components.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

import structlog
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tallygate_server import ports
from tallygate_server.telemetry import METRICS_CONTENT_TYPE, render_metrics

CONNECTIONS_MAX: Final = 200
"""Connections at once beyond which requests are answered 503: scrapers and probes need a handful."""

HEADER_BYTES_MAX: Final = 16_384

KEEP_ALIVE_SECONDS: Final = 5

CLOSE_TIMEOUT_SECONDS: Final = 1

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """How one part of the service is."""

    name: str
    up: bool
    required: bool
    """Whether the service should get no calls while this part is down; a degraded mode makes a part optional."""
    detail: str = ""


ReadComponents = Callable[[], Sequence[Component]]
"""Tell how the components are now, from what is known: it must not wait."""


class OpsServer:
    """The running HTTP server."""

    def __init__(self, *, host: str, port: int) -> None:
        """Keep where it listens."""
        self.host = host
        self.port = port

    @property
    def url(self) -> str:
        """Address of the server, without a path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @classmethod
    @contextlib.asynccontextmanager
    async def start(
        cls, *, host: str, port: int, read_components: ReadComponents, routes: Sequence[BaseRoute] = ()
    ) -> AsyncIterator[Self]:
        """Serve until the context ends; port 0 picks a free one, `routes` are served beside ours.

        Raises PortError when the address is not to be had.
        """
        listener = ports.bind(host, port, setting="TALLYGATE_OPS_PORT")
        server = _Server(_application(read_components, routes))
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="ops-http")
        try:
            await server.wait_until_started(serving)
            yield cls(host=host, port=listener.getsockname()[1])
        finally:
            server.should_exit = True
            await asyncio.wait([serving])
            listener.close()


class _Server(uvicorn.Server):
    """Uvicorn inside somebody else's loop: it leaves signals alone and says when it has started."""

    def __init__(self, application: Starlette) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=CONNECTIONS_MAX,
                h11_max_incomplete_event_size=HEADER_BYTES_MAX,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=CLOSE_TIMEOUT_SECONDS,
            )
        )
        self._up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing: the application drains on signals, and this server stays up meanwhile."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._up.set()

    async def wait_until_started(self, serving: asyncio.Task[None]) -> None:
        """Return once it listens; raise what went wrong if it never does."""
        up = asyncio.create_task(self._up.wait())
        try:
            await asyncio.wait([up, serving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            up.cancel()
        if serving.done():
            serving.result()


def _application(read_components: ReadComponents, routes: Sequence[BaseRoute]) -> Starlette:
    async def metrics(_request: Request) -> Response:
        return Response(render_metrics(), headers={"content-type": METRICS_CONTENT_TYPE})

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "alive", "service": "tallygate"})

    async def readyz(_request: Request) -> Response:
        components = read_components()
        ready = all(component.up for component in components if component.required)
        return JSONResponse(
            {
                "status": "ready" if ready else "not ready",
                "components": {
                    component.name: {"up": component.up, "required": component.required, "detail": component.detail}
                    for component in components
                },
            },
            status_code=200 if ready else 503,
        )

    async def refuse(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": error.detail}, status_code=error.status_code, headers=error.headers)

    async def fail(request: Request, error: Exception) -> Response:
        log.error("ops_request_failed", path=request.url.path, exc_info=error)
        return JSONResponse({"error": "Internal Server Error"}, status_code=500)

    return Starlette(
        routes=[
            Route("/metrics", metrics),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            *routes,
        ],
        exception_handlers={HTTPException: refuse, Exception: fail},
    )
