"""A thin gRPC client for our own command line: one channel, typed stubs, errors that read as sentences."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from tallygate.v1 import (
    account_service_pb2_grpc,
    admin_service_pb2_grpc,
    catalog_service_pb2_grpc,
    data_lifecycle_service_pb2_grpc,
    entitlement_service_pb2_grpc,
    event_service_pb2_grpc,
    subscription_service_pb2_grpc,
    usage_service_pb2_grpc,
)

TARGET_DEFAULT: Final = "127.0.0.1:50051"
TIMEOUT_S_DEFAULT: Final = 15.0
MESSAGE_BYTES_MAX: Final = 64 * 1_048_576
"""A page of a thousand ledger lines with long dimensions exceeds gRPC's own 4 MiB."""

_DETAILS_KEY: Final = "grpc-status-details-bin"
_RETRYABLE: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
_BROKEN_CONNECTION: Final = frozenset({grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL})
"""What a client library reports, besides UNAVAILABLE, when a server dies in the middle of an answer."""

_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    # A server that comes back is found within a second; gRPC's own pause grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Retries belong to those who know what may be repeated.
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One field of a request that the server refuses, and why."""

    field: str
    description: str


@dataclass(slots=True, kw_only=True)
class CallFailed(Exception):
    """A call that ended without an answer."""

    method: str
    target: str
    code: grpc.StatusCode
    message: str
    reason: str = ""
    """Name of the `ErrorReason`; empty when the failure was not told by a Tallygate server."""
    violations: tuple[Violation, ...] = ()
    retry_delay_s: float = 0.0
    """What the server asks us to wait; 0 when it says nothing."""
    facts: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Say in one sentence what went wrong."""
        return self.sentence

    @property
    def may_be_retried(self) -> bool:
        """Whether the same call with the same request id may succeed later."""
        return self.code in _RETRYABLE or (self.code in _BROKEN_CONNECTION and not self.reason)

    @property
    def sentence(self) -> str:
        """One sentence for a person: the field, what is wrong, and the reason's name."""
        if not self.reason:
            return self._sentence_without_reason()
        if self.violations:
            what = "; ".join(
                f"{violation.field}: {violation.description}" if violation.field else violation.description
                for violation in self.violations
            )
        else:
            what = self.message
        if incident_id := self.facts.get("incident_id"):
            what += f" {incident_id}"
        return f"{what} ({self.reason})"

    def _sentence_without_reason(self) -> str:
        if self.code is grpc.StatusCode.UNAVAILABLE:
            return (
                f"no Tallygate server answers at {self.target}; start one with `tallygate serve`"
                " or name another with --target"
            )
        if self.code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"the server at {self.target} did not answer {self.method} in time"
        if self.code is grpc.StatusCode.UNIMPLEMENTED:
            return f"the server at {self.target} does not know {self.method}; is it a Tallygate server?"
        return f"{self.method} failed with {self.code.name}: {self.message or 'no reason given'}"

    def as_json(self) -> dict[str, Any]:
        """Return the same for programs."""
        return {
            "code": self.code.name,
            "reason": self.reason,
            "message": self.sentence,
            "fields": {violation.field: violation.description for violation in self.violations},
            "facts": self.facts,
        }

    @classmethod
    def of(cls, error: aio.AioRpcError, *, method: str, target: str) -> Self:
        """Read the rich details that a Tallygate server attaches; do without when there are none."""
        failure = cls(method=method, target=target, code=error.code(), message=error.details() or "")
        for key, value in error.trailing_metadata() or ():
            if key != _DETAILS_KEY or not isinstance(value, bytes):
                continue
            try:
                failure._read(status_pb2.Status.FromString(value))
            except DecodeError:
                continue
        return failure

    def _read(self, status: status_pb2.Status) -> None:
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            bad_request = error_details_pb2.BadRequest()
            retry = error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                self.reason = info.reason
                self.facts = dict(info.metadata)
            elif detail.Unpack(bad_request):
                self.violations = tuple(
                    Violation(field=violation.field, description=violation.description)
                    for violation in bad_request.field_violations
                )
            elif detail.Unpack(retry):
                self.retry_delay_s = retry.retry_delay.ToTimedelta().total_seconds()


class Client:
    """An open channel to one server, with a stub for each service that the command line needs."""

    def __init__(self, target: str, *, timeout_s: float = TIMEOUT_S_DEFAULT) -> None:
        """Name the server; nothing is sent before the first call."""
        self.target = target
        self.timeout_s = timeout_s
        self._channel = aio.insecure_channel(target, options=_OPTIONS)
        self.entitlements = entitlement_service_pb2_grpc.EntitlementServiceStub(self._channel)
        self.usage = usage_service_pb2_grpc.UsageServiceStub(self._channel)
        self.catalogs = catalog_service_pb2_grpc.CatalogServiceStub(self._channel)
        self.accounts = account_service_pb2_grpc.AccountServiceStub(self._channel)
        self.admin = admin_service_pb2_grpc.AdminServiceStub(self._channel)
        self.events = event_service_pb2_grpc.EventServiceStub(self._channel)
        self.lifecycle = data_lifecycle_service_pb2_grpc.DataLifecycleServiceStub(self._channel)
        self.subscriptions = subscription_service_pb2_grpc.SubscriptionServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        """Use the client; it is closed at the end."""
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the channel."""
        await self.close()

    async def close(self) -> None:
        """Close the channel; calls under way end with CANCELLED."""
        await self._channel.close()

    async def call(
        self,
        method: Callable[..., Awaitable[Response]],
        request: Request,
        *,
        timeout_s: float | None = None,
    ) -> Response:
        """Make one call on one of the stubs' methods; raise CallFailed."""
        try:
            return await method(request, timeout=timeout_s or self.timeout_s)
        except aio.AioRpcError as error:
            raise CallFailed.of(
                error, method=type(request).__name__.removesuffix("Request"), target=self.target
            ) from None

    async def stream(
        self,
        method: Callable[..., AsyncIterable[Response]],
        request: Request,
        *,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[Response]:
        """Yield what a streaming method of one of the stubs answers; raise CallFailed. No time limit unless given."""
        try:
            async for response in method(request, timeout=timeout_s):
                yield response
        except aio.AioRpcError as error:
            raise CallFailed.of(
                error, method=type(request).__name__.removesuffix("Request"), target=self.target
            ) from None

    def method(
        self,
        path: str,
        request: type[Request],
        response: type[Response],
    ) -> Callable[..., Awaitable[Response]]:
        """Return a method that no stub has, such as the benchmark's empty call, by its path."""
        return self._channel.unary_unary(
            path, request_serializer=request.SerializeToString, response_deserializer=response.FromString
        )
