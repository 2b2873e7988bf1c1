"""grpc.health.v1 as probes and meshes expect it, with List, and with watches that end in a drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, ClassVar, Final

from google.protobuf.descriptor import ServiceDescriptor
from grpc import aio
from grpc_health.v1 import health_pb2

from tallygate_server.errors import Overloaded
from tallygate_server.transport.status import ServiceNotServed

WATCHERS_MAX: Final = 256
"""Open watches; each costs a task and a queue entry per change."""

SERVER: Final = ""
"""The name under which the health of the server as a whole is asked for."""

SERVICE: Final[ServiceDescriptor] = health_pb2.DESCRIPTOR.services_by_name["Health"]

_Context = aio.ServicerContext[Any, Any]
_Status = health_pb2.HealthCheckResponse


class HealthServicer:
    """Tells whether the server, and each of its services, can do its work."""

    SERVICE: ClassVar[ServiceDescriptor] = SERVICE

    def __init__(self, services: Iterable[str], *, watchers_max: int = WATCHERS_MAX) -> None:
        """Know these services, all NOT_SERVING until told otherwise."""
        self._statuses: dict[str, int] = dict.fromkeys((SERVER, *services), _Status.NOT_SERVING)
        self._watchers_max = watchers_max
        self._watcher_count = 0
        self._changed = asyncio.Event()
        self._draining = False
        self._ended = False

    @property
    def draining(self) -> bool:
        """Whether the server has begun to drain."""
        return self._draining

    @property
    def watcher_count(self) -> int:
        """Watches that are open."""
        return self._watcher_count

    def set_serving(self, serving: bool, *, services: Iterable[str] | None = None) -> None:  # noqa: FBT001
        """Report these services (None: the server and all) as serving or not; no effect in a drain."""
        if not self._draining:
            self._set(_Status.SERVING if serving else _Status.NOT_SERVING, services)

    def begin_drain(self) -> None:
        """Report NOT_SERVING everywhere, for good."""
        self._draining = True
        self._set(_Status.NOT_SERVING, None)

    def end_watches(self) -> None:
        """End every watch once it has told its last status, so that nothing keeps the server open."""
        self._ended = True
        self._announce()

    async def Check(self, request: health_pb2.HealthCheckRequest, _context: _Context) -> health_pb2.HealthCheckResponse:
        """Return the status of one service."""
        status = self._statuses.get(request.service)
        if status is None:
            raise ServiceNotServed(request.service)
        return _Status(status=status)

    async def List(self, _request: health_pb2.HealthListRequest, _context: _Context) -> health_pb2.HealthListResponse:
        """Return the status of every service."""
        statuses = {name: _Status(status=status) for name, status in self._statuses.items()}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, _context: _Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Send the status of one service now and at every change; SERVICE_UNKNOWN if it is not known."""
        if self._watcher_count >= self._watchers_max:
            raise Overloaded(f"more than {self._watchers_max} health watches are open", **{"class": "watch"})
        self._watcher_count += 1
        try:
            told: int | None = None
            while True:
                changed = self._changed
                status = self._statuses.get(request.service, _Status.SERVICE_UNKNOWN)
                if status != told:
                    told = status
                    yield _Status(status=status)
                    continue
                if self._ended:
                    return
                await changed.wait()
        finally:
            self._watcher_count -= 1

    def _set(self, status: int, services: Iterable[str] | None) -> None:
        for name in self._statuses if services is None else services:
            self._statuses[name] = status
        self._announce()

    def _announce(self) -> None:
        # Whoever waits holds the old event; whoever comes later sees the new statuses first.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
