"""One attempt to send an event to an endpoint, in the format of the Standard Webhooks specification."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import httpx
from standardwebhooks import Webhook

from tallygate_server.events.addresses import AddressNotAllowed, AddressRules, Resolver
from tallygate_server.events.contents import event_id_text, safe_json
from tallygate_server.release import release_version
from tallygate_server.storage.outbox import OutboxEvent

ATTEMPT_SECONDS_MAX: Final = 15.0
"""Longest duration of one attempt, from the look-up of the name to the answer."""
RESPONSE_BYTES_MAX: Final = 16 * 1_024
"""More of an answer's body is not read, and what is read is thrown away."""
GONE: Final = 410
"""Status by which an endpoint says that it wants nothing any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """How an attempt ended."""

    http_status: int = 0
    """0 where there was no answer."""
    error: str = ""
    """Empty where it arrived."""

    @property
    def arrived(self) -> bool:
        """Whether the endpoint took it."""
        return not self.error


def body_of(event: OutboxEvent) -> bytes:
    """Write the event as compact JSON: the same bytes at every attempt."""
    content: dict[str, Any] = {
        "type": event.event_type,
        "timestamp": event.create_time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "event_id": event_id_text(event.event_id),
        "tenant_id": event.tenant_id,
        "account_id": event.account_id,
        "sequence": safe_json(event.sequence),
        "revision": safe_json(event.revision),
        "data": safe_json(event.payload),
    }
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()


def headers_of(event: OutboxEvent, body: bytes, *, secrets: Sequence[str], now: datetime) -> dict[str, str]:
    """Sign the body with each secret."""
    event_id, text = event_id_text(event.event_id), body.decode()
    return {
        "content-type": "application/json",
        "user-agent": f"Tallygate/{release_version()}",
        "webhook-id": event_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(event_id, now, text) for secret in secrets),
    }


class Sender:
    """Sends over connections that serve one attempt each."""

    def __init__(self, rules: AddressRules, *, concurrency: int, tls: ssl.SSLContext | None = None) -> None:
        """Send to addresses that the rules allow; `tls` in place of the system's authorities."""
        self._rules = rules
        self._resolver = Resolver(rules, threads=concurrency)
        self._tls = tls
        self._client: httpx.AsyncClient | None = None

    async def close(self) -> None:
        """Close what is open."""
        if self._client is not None:
            await self._client.aclose()
        self._resolver.close()

    async def check(self, url: str) -> None:
        """Return if events may be sent to the URL as far as can be told now; else raise AddressNotAllowed."""
        destination = self._rules.destination_of(url)
        try:
            await self._resolver.address_of(destination)
        except OSError:
            # A name that is not known yet may be known tomorrow; every attempt looks again.
            return

    async def send(self, event: OutboxEvent, *, url: str, secrets: Sequence[str], now: datetime) -> Sent:
        """Send the event; never raises but when it is cancelled."""
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS_MAX):
                status = await self._post(event, url=url, secrets=secrets, now=now)
        except AddressNotAllowed as error:
            return Sent(error=f"the address {error}")
        except TimeoutError:
            return Sent(error=f"no answer within {ATTEMPT_SECONDS_MAX:g} seconds")
        except httpx.TransportError as error:
            return Sent(error=f"the connection failed: {type(error).__name__}")
        except OSError:
            return Sent(error="the name of the host is not known")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return Sent(error=f"not sent: {type(error).__name__}")
        if httpx.codes.is_success(status):
            return Sent(http_status=status)
        return Sent(http_status=status, error=f"answered with status {status}")

    async def _post(self, event: OutboxEvent, *, url: str, secrets: Sequence[str], now: datetime) -> int:
        destination = self._rules.destination_of(url)
        address = await self._resolver.address_of(destination)
        body = body_of(event)
        headers = headers_of(event, body, secrets=secrets, now=now) | {"host": destination.authority}
        request = self._open_client.build_request(
            "POST",
            destination.url_at(address),
            content=body,
            headers=headers,
            # The certificate must be the name's, although the connection goes to the address.
            extensions={"sni_hostname": destination.host},
        )
        response = await self._open_client.send(request, stream=True)
        try:
            await _read_a_little(response)
        finally:
            await response.aclose()
        return int(response.status_code)

    @property
    def _open_client(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = httpx.AsyncClient(
                verify=self._tls if self._tls is not None else True,
                # A proxy would look the name up once more, and connect to whatever it finds.
                trust_env=False,
                follow_redirects=False,
                # The attempt as a whole has a limit; this one must not come first, and say less.
                timeout=2 * ATTEMPT_SECONDS_MAX,
                # Connections are known by address: one that is kept could serve another name at the same address, whose
                # certificate nobody has looked at.
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            )
        return self._client


async def _read_a_little(response: httpx.Response) -> None:
    """Read the body up to the bound, so that an endpoint that writes one is not cut off in the middle."""
    read = 0
    async for chunk in response.aiter_raw():
        read += len(chunk)
        if read >= RESPONSE_BYTES_MAX:
            return
