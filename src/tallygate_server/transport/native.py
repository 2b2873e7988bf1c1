"""The native server with fast lanes: hot RPCs answered without a task, a context or a future per call.

The stock server starts a task for every call. For the two hot RPCs that is most of their cost, so their
events are handled where they arrive: decode, accept, hand to the use case, and answer from its callback.
A lane takes only calls that are certainly well-formed; every other call goes the ordinary way through the
endpoint, whose answers are the same.

This leans on internals of pygrpc-native's asyncio server. They are listed in `_INTERNALS`; a release of the
library that lacks one of them gets no lanes, and all calls go the ordinary way.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import inspect
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

# Not "from pygrpc_native import aio": the package's lazy attribute recurses until the submodule is loaded.
import pygrpc_native.aio as native_aio
import structlog
from google.protobuf.message import DecodeError
from pygrpc_native import EVENT_CANCEL, STREAM_CLOSED, STREAM_FULL, NativeGrpcFront

from tallygate_server.errors import TallygateError
from tallygate_server.transport.endpoint import CallObserver
from tallygate_server.transport.fast_lane import FastLane
from tallygate_server.transport.load import InFlight
from tallygate_server.transport.status import Failure, ServerDeadlineExceeded, ShuttingDown, failure_of

_LOG = structlog.get_logger(__name__)

IO_THREADS: Final = 1
"""Threads of the HTTP/2 side. One carries more calls than one Python loop can answer, and it batches better than
two: measured, a tenth less CPU per call."""

FLUSH_SECONDS: Final = 0.1
"""Time between the last answer and the close in a drain: an answer is on the socket within a millisecond."""

SWEEP_SECONDS: Final = 0.5
"""How often lanes look for calls that outlived the server's own deadline."""

PAYLOAD_BYTES_MAX: Final = 64 * 1024
"""Larger messages are not hot; the ordinary way has the real limit."""

ROOM_SECONDS_MIN: Final = 0.001
ROOM_SECONDS_MAX: Final = 0.05
"""Shortest and longest pause between two looks whether a stream whose client is behind has room again."""

STALLED_SECONDS_MAX: Final = 1.0
"""In a drain, a stream whose client has read nothing for so long is ended and not waited for."""

_NEVER: Final = float("inf")

_INTERNALS: Final[Mapping[str, tuple[str, ...]]] = {
    "_on_events": ("self", "events"),
    "_dispatch": ("self",),
    "stop": ("self", "grace"),
}
_STREAM_INTERNALS: Final[Mapping[str, tuple[str, ...]]] = {
    "_send": ("self", "call", "context", "response"),
    "_encode": ("self", "call", "context", "response"),
}
_STATE: Final = ("_front", "_table", "_stopping", "_calls", "_registered")


def lanes_supported() -> bool:
    """Tell whether the installed library has every internal that the lanes lean on."""
    if not _has_methods(_INTERNALS):
        return False
    probe = native_aio.Server()
    return all(hasattr(probe, name) for name in _STATE)


def _has_methods(methods: Mapping[str, tuple[str, ...]]) -> bool:
    """Tell whether the library's server has methods of these names and parameters."""
    for name, parameters in methods.items():
        function = getattr(native_aio.Server, name, None)
        if function is None or tuple(inspect.signature(function).parameters) != parameters:
            return False
    return True


_Flight = tuple[float, float, str]
"""When the call arrived, when the server gives up on it (both on the monotonic clock), and its method."""


class NativeServer(native_aio.Server):
    """The native asyncio server, with fast lanes for some methods and a shutdown that waits for them."""

    def __init__(
        self,
        *,
        lanes: Sequence[FastLane] = (),
        in_flight: InFlight,
        observe: CallObserver,
        timeout_ms: int,
        options: Iterable[tuple[str, Any]] = (),
    ) -> None:
        """Serve the lanes' methods, which must also be registered, without tasks.

        `timeout_ms` ends lane calls whose client set no deadline.
        """
        super().__init__(options=list(options), io_threads=IO_THREADS)
        self._lanes = {lane.path: lane for lane in lanes} if lanes_supported() else {}
        if lanes and not self._lanes:
            version = importlib.metadata.version("pygrpc-native")
            _LOG.warning("fast_lanes_off", pygrpc_native=version, effect="hot calls are slower, answers are equal")
        self._waits_for_room = _has_methods(_STREAM_INTERNALS)
        self._in_flight = in_flight
        self._observe = observe
        self._timeout_ms = timeout_ms
        self._takers: list[Callable[[int, bytes, float | None], bool] | None] = []
        self._flying: dict[int, _Flight] = {}
        """Lane calls not answered yet."""
        self._landed = asyncio.Event()
        self._refusing: Failure | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def lane_paths(self) -> frozenset[str]:
        """Methods that are answered without a task."""
        return frozenset(self._lanes)

    @property
    def _open_front(self) -> NativeGrpcFront:
        """The HTTP/2 side; there once a port was added."""
        assert self._front is not None
        return self._front

    async def start(self) -> None:
        """Start serving."""
        await super().start()
        self._takers = [
            None if lane is None else self._taker(lane)
            for lane in (self._lanes.get(path) for path, _handler in self._table)
        ]
        if self._lanes:
            self._sweep()

    async def stop(self, grace: float | None) -> None:
        """Refuse new calls with UNAVAILABLE, give those under way `grace` seconds, and close.

        Without grace nothing is waited for, not even answers on their way to the socket.
        """
        if self._refusing is None:
            self._refusing = failure_of(ShuttingDown(), method="")
            if grace and self._front is not None:
                grace = await self._wait_for_calls(grace)
            if self._sweeper is not None:
                self._sweeper.cancel()
            for call_id in list(self._flying):
                self._fail_lane(call_id, self._refusing)
        await super().stop(grace)

    async def _wait_for_calls(self, grace: float) -> float:
        """Wait until no call is under way, at most `grace` seconds; return what is left of them."""
        began = time.monotonic()
        tasks: list[asyncio.Future[Any]] = [call.task for call in self._calls.values() if call.task is not None]
        if self._flying:
            self._landed.clear()
            tasks.append(asyncio.ensure_future(self._landed.wait()))
        if tasks:
            _done, late = await asyncio.wait(tasks, timeout=grace)
            if late:
                _LOG.warning("drain_incomplete", calls=len(late))
        # Closing drops what the HTTP/2 side has not written yet, and nothing tells when it has.
        await asyncio.sleep(FLUSH_SECONDS)
        # Not 0, which would cancel what ends in this very tick.
        return max(0.001, grace - (time.monotonic() - began))

    async def _send(self, call: Any, context: Any, response: Any) -> bool:
        """Send a message of a stream; False when there is nobody to send it to any more.

        The library waits for a client that is behind in a thread of the loop's: a handful of clients that read nothing
        would take them all, and look-ups of names with them. Here the loop looks again now and then.
        """
        if not self._waits_for_room:
            return bool(await super()._send(call, context, response))
        data = self._encode(call, context, response)
        if data is None:
            return False
        context._initial_sent = True  # noqa: SLF001 - as the library does
        front, pause = self._open_front, ROOM_SECONDS_MIN
        began = time.monotonic()
        while (sent := front.stream_try_send(call.call_id, data)) == STREAM_FULL:
            if self._refusing is not None and time.monotonic() - began > STALLED_SECONDS_MAX:
                failure = self._refusing
                front.fail(
                    call.call_id,
                    failure.code_number,
                    failure.message,
                    trailing_metadata=list(failure.trailing_metadata),
                )
                return False
            await asyncio.sleep(pause)
            pause = min(2 * pause, ROOM_SECONDS_MAX)
        return bool(sent != STREAM_CLOSED)

    def _on_events(self, events: list[tuple[Any, ...]]) -> None:
        front, takers = self._open_front, self._takers
        refusing, flying = self._refusing, self._flying
        ordinary: list[tuple[Any, ...]] = []
        for event in events:
            kind, call_id, method_id, payload, _client_key, details = event
            if kind == EVENT_CANCEL:
                # The client has left a lane's call: its outcome goes nowhere. The use case runs on.
                flight = flying.pop(call_id, None)
                if flight is None:
                    ordinary.append(event)
                else:
                    self._land(flight, "CANCELLED")
                continue
            if refusing is not None:
                front.fail(
                    call_id,
                    refusing.code_number,
                    refusing.message,
                    trailing_metadata=list(refusing.trailing_metadata),
                )
                continue
            taker = takers[method_id]
            if taker is None or not taker(call_id, payload, details[2]):
                ordinary.append(event)
        if ordinary:
            super()._on_events(ordinary)

    def _taker(self, lane: FastLane) -> Callable[[int, bytes, float | None], bool]:
        """Build the function that takes a call into the lane, or leaves it to the ordinary way by False."""
        decode = lane.request.FromString
        accept, start, encode, path = lane.accept, lane.start, lane.encode, lane.path
        front, flying, in_flight, observe = self._open_front, self._flying, self._in_flight, self._observe
        respond, clock = front.respond, time.monotonic
        timeout_seconds = self._timeout_ms / 1_000
        landed = self._landed
        last_outcome: Any = None
        last_bytes = b""

        def answer(call_id: int, outcome: Any) -> None:
            nonlocal last_outcome, last_bytes
            flight = flying.pop(call_id, None)
            if flight is None:
                return
            in_flight.count -= 1
            if isinstance(outcome, BaseException):
                code = self._send_error(call_id, outcome, path)
            else:
                try:
                    # Calls that asked the same in one moment share one answer: it is encoded once.
                    if outcome is not last_outcome:
                        last_bytes = encode(outcome)
                        last_outcome = outcome
                    respond(call_id, last_bytes)
                    code = "OK"
                except Exception as error:  # noqa: BLE001 - the edge: the caller gets a status, the log the rest
                    code = self._send_error(call_id, error, path)
            observe(path, code, clock() - flight[0])
            if not flying:
                landed.set()

        def take(call_id: int, payload: bytes, time_remaining: float | None) -> bool:
            if len(payload) > PAYLOAD_BYTES_MAX or in_flight.count >= in_flight.maximum:
                return False
            try:
                request = decode(payload)
            except DecodeError:
                return False
            if not accept(request):
                return False
            started = clock()
            # A client's own deadline is kept by the front, which tells us when it has passed.
            flying[call_id] = (started, started + timeout_seconds if time_remaining is None else _NEVER, path)
            in_flight.count += 1
            try:
                start(request, partial(answer, call_id))
            except TallygateError:
                # Refused in conversion: nothing was started, and the ordinary way finds the same and says it.
                del flying[call_id]
                in_flight.count -= 1
                return False
            except Exception as error:  # noqa: BLE001 - a defect of ours
                answer(call_id, error)
            return True

        return take

    def _send_error(self, call_id: int, error: BaseException, path: str) -> str:
        failure = failure_of(error, method=path)
        self._open_front.fail(
            call_id, failure.code_number, failure.message, trailing_metadata=list(failure.trailing_metadata)
        )
        return failure.code.name

    def _fail_lane(self, call_id: int, failure: Failure) -> None:
        flight = self._flying.pop(call_id, None)
        if flight is not None:
            self._open_front.fail(
                call_id, failure.code_number, failure.message, trailing_metadata=list(failure.trailing_metadata)
            )
            self._land(flight, failure.code.name)

    def _land(self, flight: _Flight, code: str) -> None:
        started, _deadline, path = flight
        self._in_flight.leave()
        self._observe(path, code, time.monotonic() - started)
        if not self._flying:
            self._landed.set()

    def _sweep(self) -> None:
        """End lane calls that outlived the server's own deadline."""
        now = time.monotonic()
        late = [call_id for call_id, (_started, deadline, _path) in self._flying.items() if deadline <= now]
        if late:
            failure = failure_of(ServerDeadlineExceeded(self._timeout_ms), method="")
            for call_id in late:
                self._fail_lane(call_id, failure)
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)
