"""What stands around every RPC: decode, validate, call, encode, and nothing unexpected to the outside.

Handlers are wrapped when they are registered, not by interceptors, so that the very same code serves every
transport, and so that the bytes of a request are decoded where a failure can be answered properly.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import grpc
import protovalidate
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc import aio

from tallygate_server.errors import FieldViolation, InvalidRequest, MalformedMessage, NotBuilt
from tallygate_server.transport.load import InFlight
from tallygate_server.transport.status import Failure, ServerDeadlineExceeded, failure_of

TIMEOUT_MS_DEFAULT: Final = 10_000
"""Deadline of a unary call whose client set none."""

_NO_DEADLINE_SECONDS: Final = 10 * 365 * 86_400.0
"""Transports report the absence of a deadline as None or as a very large number."""

_OK: Final = "OK"
_CANCELLED: Final = "CANCELLED"

Accept = Callable[[Any], bool]
"""Tells whether a message certainly obeys its rules."""


class CallObserver(Protocol):
    """Whoever wants to know about every finished call."""

    def __call__(self, method: str, code: str, seconds: float, /) -> None:
        """Take note of one call: full method name, gRPC code name, duration."""


class HandlerRegistry(Protocol):
    """The part of a gRPC server that takes handlers."""

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: dict[str, grpc.RpcMethodHandler[Any, Any]], /
    ) -> None:
        """Serve the methods of the service."""


LARGE_REQUEST_BYTES: Final = 65_536
"""Above this a request is decoded and checked beside the loop, which others wait for meanwhile."""


class Rules:
    """Checks messages against the rules declared in the protos."""

    def __init__(self, accepts: Mapping[type[Message], Accept] | None = None) -> None:
        """Use the quick checks where there are some; the validator decides everything else."""
        self._validator = protovalidate.Validator()
        self._accepts = dict(accepts or {})

    def warm(self, messages: Iterable[type[Message]]) -> None:
        """Compile the rules of these messages now, which takes milliseconds each, instead of at first use."""
        for message in messages:
            self._validator.collect_violations(message())

    def enforce(self, message: Message) -> None:
        """Return if the message obeys its rules; else raise InvalidRequest naming every field at fault."""
        accept = self._accepts.get(type(message))
        if accept is not None and accept(message):
            return
        violations = self._validator.collect_violations(message)
        if violations:
            raise InvalidRequest([_field_violation(violation) for violation in violations])


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC of the contract."""

    path: str
    request: type[Message]
    streaming: bool

    @classmethod
    def of(cls, descriptor: MethodDescriptor) -> Method:
        """Read the RPC from its descriptor."""
        return cls(
            path=f"/{descriptor.containing_service.full_name}/{descriptor.name}",
            request=GetMessageClass(descriptor.input_type),
            streaming=bool(descriptor.server_streaming),
        )


class Endpoint:
    """Wraps servicers for registration with a server."""

    def __init__(
        self,
        *,
        rules: Rules,
        in_flight: InFlight,
        observe: CallObserver,
        timeout_ms: int = TIMEOUT_MS_DEFAULT,
        timeouts_ms: Mapping[str, int] | None = None,
        watches: Collection[str] = (),
    ) -> None:
        """Enforce the rules, count into `in_flight`, report to `observe`; `timeouts_ms` is by method path.

        Calls of `watches`, method paths too, stay open for hours and are bounded by their use cases: they are not
        counted.
        """
        self._rules = rules
        self._in_flight = in_flight
        self._observe = observe
        self._timeout_ms = timeout_ms
        self._timeouts_ms = dict(timeouts_ms or {})
        self._watches = frozenset(watches)

    def register(
        self,
        registry: HandlerRegistry,
        service: ServiceDescriptor,
        servicer: object,
        *,
        sheddable: bool = True,
    ) -> None:
        """Serve every method of the service; those that the servicer lacks answer UNIMPLEMENTED.

        A service that is not sheddable is answered however busy the server is.
        """
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        for descriptor in service.methods:
            method = Method.of(descriptor)
            function = getattr(servicer, descriptor.name, None)
            if function is not None:
                self._rules.warm([method.request])
            handlers[descriptor.name] = self._handler(method, function, sheddable=sheddable)
        registry.add_registered_method_handlers(service.full_name, handlers)

    def decode(self, method: Method, payload: bytes | None) -> Message:
        """Return the request if the bytes are one and obey the rules."""
        try:
            request = method.request.FromString(payload or b"")
        except DecodeError:
            # The parser's own words stay here: they quote the caller's bytes.
            type_name = method.request.DESCRIPTOR.full_name
            raise MalformedMessage(f"the request is not a {type_name} message", type=type_name) from None
        self._rules.enforce(request)
        return request

    async def _decoded(self, method: Method, payload: bytes | None) -> Message:
        """Decode, a large request in a thread: the rules of ten thousand records take a tenth of a second."""
        if payload is not None and len(payload) > LARGE_REQUEST_BYTES:
            return await asyncio.to_thread(self.decode, method, payload)
        return self.decode(method, payload)

    def _handler(
        self, method: Method, function: Callable[..., Any] | None, *, sheddable: bool
    ) -> grpc.RpcMethodHandler[Any, Any]:
        in_flight = self._in_flight if sheddable and method.path not in self._watches else None
        if method.streaming:
            stream = self._stream(method, function, in_flight)
            return grpc.unary_stream_rpc_method_handler(cast("Any", stream))
        unary = self._unary(method, function, in_flight)
        return grpc.unary_unary_rpc_method_handler(cast("Any", unary))

    def _unary(
        self, method: Method, function: Callable[..., Awaitable[Message]] | None, in_flight: InFlight | None
    ) -> Callable[[bytes | None, aio.ServicerContext[Any, Any]], Awaitable[bytes]]:
        timeout_ms = self._timeouts_ms.get(method.path, self._timeout_ms)
        timeout_seconds = timeout_ms / 1_000
        observe, path = self._observe, method.path

        async def answer(payload: bytes | None, context: aio.ServicerContext[Any, Any]) -> bytes:
            if function is None:
                raise NotBuilt(path[1:])
            if _has_deadline(context):
                response = await function(await self._decoded(method, payload), context)
            else:
                limit = asyncio.timeout(timeout_seconds)
                try:
                    async with limit:
                        response = await function(await self._decoded(method, payload), context)
                except TimeoutError:
                    if not limit.expired():
                        raise
                    raise ServerDeadlineExceeded(timeout_ms) from None
            return response.SerializeToString()

        async def handle(payload: bytes | None, context: aio.ServicerContext[Any, Any]) -> bytes:
            started = time.perf_counter()
            code = _CANCELLED
            entered = False
            response = b""
            failure: Failure | None = None
            try:
                if in_flight is not None:
                    in_flight.enter()
                    entered = True
                response = await answer(payload, context)
                code = _OK
            except Exception as error:  # noqa: BLE001 - the edge: whatever it is, the caller gets a status
                failure = failure_of(error, method=path)
                code = failure.code.name
            finally:
                if entered and in_flight is not None:
                    in_flight.leave()
                observe(path, code, time.perf_counter() - started)
            if failure is not None:
                await context.abort(failure.code, failure.message, failure.trailing_metadata)
            return response

        return handle

    def _open(
        self,
        method: Method,
        function: Callable[..., AsyncGenerator[Message]] | None,
        payload: bytes | None,
        context: aio.ServicerContext[Any, Any],
    ) -> aclosing[AsyncGenerator[Message]]:
        if function is None:
            raise NotBuilt(method.path[1:])
        return aclosing(function(self.decode(method, payload), context))

    def _stream(
        self,
        method: Method,
        function: Callable[..., AsyncGenerator[Message]] | None,
        in_flight: InFlight | None,
    ) -> Callable[[bytes | None, aio.ServicerContext[Any, Any]], AsyncIterator[bytes]]:
        observe, path = self._observe, method.path

        async def handle(payload: bytes | None, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[bytes]:
            started = time.perf_counter()
            code = _CANCELLED
            entered = False
            failure: Failure | None = None
            try:
                if in_flight is not None:
                    in_flight.enter()
                    entered = True
                async with self._open(method, function, payload, context) as responses:
                    async for response in responses:
                        yield response.SerializeToString()
                code = _OK
            except Exception as error:  # noqa: BLE001 - the edge: whatever it is, the caller gets a status
                failure = failure_of(error, method=path)
                code = failure.code.name
            finally:
                if entered and in_flight is not None:
                    in_flight.leave()
                observe(path, code, time.perf_counter() - started)
            if failure is not None:
                await context.abort(failure.code, failure.message, failure.trailing_metadata)

        return handle


def _has_deadline(context: aio.ServicerContext[Any, Any]) -> bool:
    remaining = cast("float | None", context.time_remaining())
    return remaining is not None and remaining < _NO_DEADLINE_SECONDS


def _field_violation(violation: protovalidate.Violation) -> FieldViolation:
    proto = violation.proto
    path = "" if proto.field is None else _path(proto.field.elements)
    description = proto.message or proto.rule_id or "breaks its rule"
    return FieldViolation(path, f"key {description}" if proto.for_key else description, proto.rule_id or "")


def _path(elements: Iterable[Any]) -> str:
    """Write a field path as callers know it: `increments[3].dimensions["model"]`."""
    parts: list[str] = []
    for element in elements:
        subscript = element.subscript
        if subscript is None:
            parts.append(element.field_name)
        elif isinstance(subscript.value, str):
            parts.append(f'{element.field_name}["{subscript.value}"]')
        else:
            parts.append(f"{element.field_name}[{subscript.value}]")
    return ".".join(parts)
