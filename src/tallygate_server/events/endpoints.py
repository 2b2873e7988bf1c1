"""Endpoints of tenants: where events are sent to, and what became of them there."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from tallygate_server.clock import Clock
from tallygate_server.domain.event_types import PUBLIC_TYPES
from tallygate_server.domain.identifier import TenantId
from tallygate_server.errors import FieldViolation, InvalidRequest, NotFound, RequestIdReused
from tallygate_server.events.addresses import AddressNotAllowed
from tallygate_server.events.contents import event_id_number, event_id_text
from tallygate_server.storage import outbox, webhook_deliveries
from tallygate_server.storage import webhook_endpoints as rows
from tallygate_server.storage.audit import add_audit_entry
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.engine import Database
from tallygate_server.storage.webhook_deliveries import DeliveryRow, DeliveryState, ReplayedEvents
from tallygate_server.storage.webhook_endpoints import EndpointRow
from tallygate_server.tenants import TenantDirectory
from tallygate_server.unique_ids import new_id

ENDPOINTS_PER_TENANT_MAX: Final = 20
OLD_SECRET_VALID: Final = timedelta(hours=24)
"""How long events are signed with a replaced secret as well."""
REPLAY_BATCH_MAX: Final = 1_000
"""Events looked at in one transaction of a replay."""
AUDITED_IDS_MAX: Final = 100
"""Ids that one audit entry names; it counts them all."""
ENDPOINT_PREFIX: Final = "we"
_SECRET_BYTES: Final = 32
_GROUPS: Final = frozenset(f"{name.partition('.')[0]}.*" for name in PUBLIC_TYPES)


class AddressCheck(Protocol):
    """Knows where events may be sent to."""

    async def check(self, url: str) -> None:
        """Return if they may be sent there; else raise AddressNotAllowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointChange:
    """What is to be changed; None: it stays."""

    url: str | None = None
    event_types: tuple[str, ...] | None = None
    description: str | None = None
    disabled: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedEndpoint:
    """A new endpoint, and the secret that is shown once."""

    endpoint: EndpointRow
    secret: str = field(repr=False)
    """Empty for whoever asks again after the secret was replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RotatedSecret:
    """A new secret, shown once."""

    secret: str = field(repr=False)
    old_secret_expire_time: datetime


class Endpoints:
    """Creates, changes and shows endpoints, and sends events to them again."""

    def __init__(
        self,
        database: Database,
        addresses: AddressCheck,
        *,
        tenants: TenantDirectory,
        clock: Clock,
        make_secret: Callable[[], bytes] = lambda: secrets.token_bytes(_SECRET_BYTES),
    ) -> None:
        """Work as the application."""
        self._database = database
        self._addresses = addresses
        self._tenants = tenants
        self._clock = clock
        self._make_secret = make_secret

    async def create(
        self,
        tenant_id: TenantId,
        *,
        url: str,
        event_types: Sequence[str] = (),
        description: str = "",
        request_id: str = "",
        actor: str,
    ) -> CreatedEndpoint:
        """Create an endpoint; with the same request id again, return the first.

        Raises TenantNotFound, InvalidRequest, RequestIdReused.
        """
        await self._tenants.get(tenant_id)
        types = _types(event_types)
        await self._check(url)
        now = self._clock.now()
        endpoint = EndpointRow(
            tenant_id=tenant_id,
            endpoint_id=new_id(ENDPOINT_PREFIX, now),
            url=url,
            event_types=types,
            description=description,
            secret=self._new_secret(),
            request_id=request_id or None,
            fingerprint=_fingerprint(url, types, description) if request_id else None,
            create_time=now,
            update_time=now,
        )
        async with self._database.tenant_transaction(tenant_id) as connection:
            await rows.lock_tenant(connection, tenant_id)
            if request_id:
                first = await rows.read_endpoint_of_request(connection, tenant_id, request_id)
                if first is not None:
                    if first.fingerprint != endpoint.fingerprint:
                        raise RequestIdReused(request_id)
                    # The row has the present secret; the first one is known to whoever replaced it.
                    return CreatedEndpoint(
                        endpoint=first, secret="" if first.old_secret_expire_time is not None else first.secret
                    )
            if await rows.count_endpoints(connection, tenant_id) >= ENDPOINTS_PER_TENANT_MAX:
                raise InvalidRequest.of("tenant_id", f"a tenant has at most {ENDPOINTS_PER_TENANT_MAX} endpoints")
            await rows.add_endpoint(connection, endpoint)
            await self._audit(
                connection,
                endpoint,
                "create",
                {"url": url, "event_types": list(types), "description": description},
                actor,
            )
        return CreatedEndpoint(endpoint=endpoint, secret=endpoint.secret)

    async def update(self, tenant_id: TenantId, endpoint_id: str, change: EndpointChange, *, actor: str) -> EndpointRow:
        """Change what is given; enabling an endpoint begins anew with what waits for it.

        Raises NotFound, InvalidRequest.
        """
        values: dict[str, Any] = {}
        if change.url is not None:
            await self._check(change.url)
            # Another address has not failed yet.
            values |= {"url": change.url, "retry_time": None}
        if change.event_types is not None:
            values["event_types"] = list(_types(change.event_types))
        if change.description is not None:
            values["description"] = change.description
        async with self._database.tenant_transaction(tenant_id) as connection:
            before = await _existing(connection, tenant_id, endpoint_id, lock=True)
            if change.disabled and not before.disabled:
                values |= {"disabled": True, "disable_reason": f"disabled by {actor}" if actor else "disabled by hand"}
            elif change.disabled is False:
                values |= {
                    "disabled": False,
                    "disable_reason": "",
                    "failure_count": 0,
                    "failing_since_time": None,
                    "retry_time": None,
                }
            told = {name: value for name, value in values.items() if name in ("url", "event_types", "description")}
            if change.disabled is not None:
                told["disabled"] = change.disabled
            if not told:
                return before
            await rows.write_endpoint(connection, tenant_id, endpoint_id, values | {"update_time": self._clock.now()})
            await self._audit(connection, before, "update", told, actor)
            if before.disabled and change.disabled is False:
                await webhook_deliveries.make_due(connection, tenant_id, endpoint_id, now=self._clock.now())
                await outbox.announce(connection)
            return await _existing(connection, tenant_id, endpoint_id)

    async def list(self, tenant_id: TenantId, *, after_endpoint_id: str, limit: int) -> Sequence[EndpointRow]:
        """Return endpoints by id, those after one. Raises TenantNotFound."""
        await self._tenants.get(tenant_id)
        async with self._database.tenant_transaction(tenant_id) as connection:
            return await rows.page_of_endpoints(connection, tenant_id, after_endpoint_id=after_endpoint_id, limit=limit)

    async def delete(self, tenant_id: TenantId, endpoint_id: str, *, actor: str) -> None:
        """Delete the endpoint and what waits for it. Raises NotFound."""
        async with self._database.tenant_transaction(tenant_id) as connection:
            endpoint = await _existing(connection, tenant_id, endpoint_id, lock=True)
            await rows.delete_endpoint(connection, tenant_id, endpoint_id)
            await self._audit(connection, endpoint, "delete", {"url": endpoint.url}, actor)

    async def rotate_secret(self, tenant_id: TenantId, endpoint_id: str, *, actor: str) -> RotatedSecret:
        """Make a new secret; events are signed with the old one as well for a day. Raises NotFound."""
        secret = self._new_secret()
        async with self._database.tenant_transaction(tenant_id) as connection:
            before = await _existing(connection, tenant_id, endpoint_id, lock=True)
            now = self._clock.now()
            expire_time = now + OLD_SECRET_VALID
            await rows.write_endpoint(
                connection,
                tenant_id,
                endpoint_id,
                {
                    "secret": secret,
                    "old_secret": before.secret,
                    "old_secret_expire_time": expire_time,
                    "update_time": now,
                },
            )
            await self._audit(connection, before, "rotate", {"old_secret_expire_time": expire_time.isoformat()}, actor)
        return RotatedSecret(secret=secret, old_secret_expire_time=expire_time)

    async def deliveries(
        self,
        tenant_id: TenantId,
        *,
        endpoint_id: str,
        event_id: str,
        state: DeliveryState | None,
        before_delivery_id: int | None,
        limit: int,
    ) -> Sequence[DeliveryRow]:
        """Return deliveries, newest first, those before one. Raises TenantNotFound."""
        await self._tenants.get(tenant_id)
        number = event_id_number(event_id)
        if event_id and number is None:
            return []
        async with self._database.tenant_transaction(tenant_id) as connection:
            return await webhook_deliveries.page_of_deliveries(
                connection,
                tenant_id,
                endpoint_id=endpoint_id,
                event_id=number,
                state=state,
                before_delivery_id=before_delivery_id,
                limit=limit,
            )

    async def replay(
        self,
        tenant_id: TenantId,
        endpoint_id: str,
        *,
        event_ids: Sequence[str] = (),
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        failed_only: bool = False,
        actor: str,
    ) -> int:
        """Send events again: those named, whatever their types, else those of a time range that the endpoint wants.

        Return how many. Raises NotFound for the endpoint, or the first event that is not kept; InvalidRequest.
        """
        numbers = _event_numbers(event_ids)
        if event_ids:
            for name, time in (("start_time", start_time), ("end_time", end_time)):
                if time is not None:
                    raise InvalidRequest.of(name, "only without event_ids")
        elif start_time is None and not failed_only:
            raise InvalidRequest.of("start_time", "name events, or the time from which on they are to be sent")
        count, after_sequence = 0, 0
        wanted: ReplayedEvents | None = None
        while True:
            async with self._database.tenant_transaction(tenant_id) as connection:
                endpoint = await _existing(connection, tenant_id, endpoint_id)
                now = self._clock.now()
                if wanted is None:
                    wanted = ReplayedEvents(
                        endpoint_id=endpoint_id,
                        event_ids=numbers,
                        event_types=endpoint.event_types,
                        start_time=start_time,
                        end_time=end_time,
                        up_to_sequence=await outbox.last_sequence(connection),
                        failed_only=failed_only,
                    )
                    missing = await webhook_deliveries.missing_event(connection, tenant_id, numbers)
                    if missing is not None:
                        raise NotFound("event", event_id_text(missing), field="event_ids")
                sent, looked_at, last = await webhook_deliveries.replay(
                    connection, tenant_id, wanted, after_sequence=after_sequence, now=now, limit=REPLAY_BATCH_MAX
                )
                count += sent
                if sent:
                    named = list(event_ids[:AUDITED_IDS_MAX])
                    detail = {"count": sent, "failed_only": failed_only} | ({"event_ids": named} if named else {})
                    await self._audit(connection, endpoint, "replay", detail, actor)
                    await outbox.announce(connection)
            if looked_at < REPLAY_BATCH_MAX or last is None:
                return count
            after_sequence = last

    async def _check(self, url: str) -> None:
        try:
            await self._addresses.check(url)
        except AddressNotAllowed as error:
            raise InvalidRequest.of("url", str(error)) from error

    def _new_secret(self) -> str:
        return "whsec_" + base64.b64encode(self._make_secret()).decode()

    async def _audit(
        self, connection: Connection, endpoint: EndpointRow, action: str, detail: dict[str, Any], actor: str
    ) -> None:
        await add_audit_entry(
            connection,
            endpoint.tenant_id,
            actor=actor,
            action=f"endpoint.{action}",
            subject=f"endpoint:{endpoint.endpoint_id}",
            detail=detail,
        )


async def _existing(
    connection: Connection, tenant_id: TenantId, endpoint_id: str, *, lock: bool = False
) -> EndpointRow:
    endpoint = await rows.read_endpoint(connection, tenant_id, endpoint_id, lock=lock)
    if endpoint is None:
        raise NotFound("webhook_endpoint", endpoint_id, field="endpoint_id")
    return endpoint


def _types(event_types: Sequence[str]) -> tuple[str, ...]:
    """Return the types, each once; one that there is not is probably misspelt, and would never be sent."""
    violations = [
        FieldViolation(f"event_types[{index}]", f"there are no events of type {name!r}")
        for index, name in enumerate(event_types)
        if name not in PUBLIC_TYPES and name not in _GROUPS
    ]
    if violations:
        raise InvalidRequest(violations)
    return tuple(dict.fromkeys(event_types))


def _event_numbers(event_ids: Sequence[str]) -> tuple[int, ...]:
    numbers = []
    for event_id in dict.fromkeys(event_ids):
        number = event_id_number(event_id)
        if number is None:
            raise NotFound("event", event_id, field="event_ids")
        numbers.append(number)
    return tuple(numbers)


def _fingerprint(*content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
