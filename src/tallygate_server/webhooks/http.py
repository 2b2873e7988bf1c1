"""Webhooks over HTTP: `POST /webhooks/{source}` and `POST /webhooks/{source}/{tenant_id}`, on the operators' port."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Final, Protocol

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tallygate_server.errors import (
    InvalidRequest,
    SignatureInvalid,
    TallygateError,
    TenantNotFound,
    Unavailable,
    WebhookSourceNotConfigured,
)
from tallygate_server.webhooks.events import WebhookSource
from tallygate_server.webhooks.intake import Taken
from tallygate_server.webhooks.json_body import BODY_BYTES_MAX

BODY_SECONDS_MAX: Final = 10.0
"""Longest time for a body to come in."""
WEBHOOKS_AT_ONCE_MAX: Final = 64
"""Webhooks at once beyond which senders are told to come back: probes and scrapers need the port as well."""
RETRY_SECONDS: Final = 5
"""What a sender is told to wait when there are too many."""
_DRAINED_BYTES_MAX: Final = 4 * BODY_BYTES_MAX
"""What is read of a body that is too large, so that its sender hears the answer instead of a broken connection."""


class _TooLargeError(Exception):
    """The body exceeds the bound."""


class Intake(Protocol):
    """Takes webhooks in."""

    async def take(self, source: WebhookSource, payload: bytes, headers: Mapping[str, str], tenant_id: str) -> Taken:
        """Check and store a webhook."""

    def note_refusal(self, source: WebhookSource, rule: str) -> None:
        """Count a webhook that is refused before it is looked at."""


def webhook_routes(
    intake: Intake, *, at_once_max: int = WEBHOOKS_AT_ONCE_MAX, body_seconds_max: float = BODY_SECONDS_MAX
) -> list[BaseRoute]:
    """Return the routes that take webhooks in."""
    at_once = 0

    async def receive(request: Request) -> Response:
        nonlocal at_once
        source = _source(request.path_params["source"])
        if at_once >= at_once_max:
            raise HTTPException(503, "too many webhooks at once", {"Retry-After": str(RETRY_SECONDS)})
        at_once += 1
        try:
            return await _take(intake, source, request, body_seconds_max)
        finally:
            at_once -= 1

    return [
        Route("/webhooks/{source}", receive, methods=["POST"]),
        Route("/webhooks/{source}/{tenant_id}", receive, methods=["POST"]),
    ]


def _source(name: str) -> WebhookSource:
    try:
        return WebhookSource(name)
    except ValueError:
        raise HTTPException(404, "Not Found") from None


async def _take(intake: Intake, source: WebhookSource, request: Request, body_seconds_max: float) -> Response:
    try:
        async with asyncio.timeout(body_seconds_max):
            payload = await _body(request)
    except TimeoutError:
        intake.note_refusal(source, "too_slow")
        raise HTTPException(408, "Request Timeout", {"Connection": "close"}) from None
    except _TooLargeError:
        intake.note_refusal(source, "too_large")
        raise HTTPException(413, f"at most {BODY_BYTES_MAX} bytes", {"Connection": "close"}) from None
    except ClientDisconnect:
        # Nobody hears this answer.
        raise HTTPException(400, "the body ended early") from None
    try:
        taken = await intake.take(source, payload, _headers(request), request.path_params.get("tenant_id", ""))
    except TallygateError as error:
        raise _as_http(error) from error
    return JSONResponse({"received": True, "duplicate": taken.duplicate})


async def _body(request: Request) -> bytes:
    """Return the body; raise _TooLargeError for one that exceeds the bound, whatever it says of its length."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= BODY_BYTES_MAX:
            chunks.append(chunk)
        elif size > _DRAINED_BYTES_MAX:
            break
    if size > BODY_BYTES_MAX:
        raise _TooLargeError
    return b"".join(chunks)


def _headers(request: Request) -> dict[str, str]:
    """Return the headers; one that is given twice is put together, as HTTP has it."""
    found: dict[str, str] = {}
    for name, value in request.headers.items():
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _as_http(error: TallygateError) -> HTTPException:
    """Return what the sender is told: enough to know whether to send it again, and which rule it broke."""
    if isinstance(error, SignatureInvalid):
        return HTTPException(401, error.message)
    if isinstance(error, WebhookSourceNotConfigured | TenantNotFound):
        # Which setting is missing is for the operator, in the log.
        return HTTPException(404, "Not Found")
    if isinstance(error, InvalidRequest):
        return HTTPException(400, error.message)
    if isinstance(error, Unavailable):
        seconds = math.ceil(error.retry_delay_ms / 1_000)
        return HTTPException(503, "the webhook could not be stored", {"Retry-After": str(seconds)})
    raise error
