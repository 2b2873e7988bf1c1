"""What every topic's RPCs stand on."""

from __future__ import annotations

from typing import Any

from grpc import aio

from tallygate_server.lifecycle.assembly import Lifecycle
from tallygate_server.transport.use_cases import Now

Context = aio.ServicerContext[Any, Any]


class LifecycleRpcs:
    """Holds the use cases."""

    def __init__(self, lifecycle: Lifecycle, now: Now) -> None:
        self._lifecycle = lifecycle
        self._now = now
