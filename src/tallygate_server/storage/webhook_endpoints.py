"""SQL of endpoints: addresses of tenants that events are sent to."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, func, select, update

from tallygate_server.domain.identifier import TenantId
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.tables import webhook_deliveries, webhook_endpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointRow:
    """An address that events are sent to."""

    tenant_id: TenantId
    endpoint_id: str
    url: str
    event_types: tuple[str, ...]
    """Empty: all; `subscription.*` stands for all that begin so."""
    description: str
    disabled: bool = False
    disable_reason: str = ""
    failure_count: int = 0
    """Attempts that failed one after another."""
    failing_since_time: datetime | None = None
    """When the first of them failed."""
    retry_time: datetime | None = None
    """Nothing is attempted before, while it fails."""
    success_time: datetime | None = None
    secret: str = field(repr=False)
    old_secret: str = field(default="", repr=False)
    old_secret_expire_time: datetime | None = None
    request_id: str | None = None
    fingerprint: str | None = None
    create_time: datetime
    update_time: datetime

    def secrets_at(self, now: datetime) -> tuple[str, ...]:
        """Return the secrets to sign with, the newest first."""
        expire_time = self.old_secret_expire_time
        if self.old_secret and expire_time is not None and now < expire_time:
            return self.secret, self.old_secret
        return (self.secret,)


async def lock_tenant(connection: Connection, tenant_id: TenantId) -> None:
    """Let one transaction at a time create endpoints of the tenant."""
    await connection.execute(
        select(func.pg_advisory_xact_lock(func.hashtextextended(f"tallygate-endpoints:{tenant_id}", 0)))
    )


async def count_endpoints(connection: Connection, tenant_id: TenantId) -> int:
    """Return how many endpoints the tenant has."""
    statement = select(func.count()).where(webhook_endpoints.c.tenant_id == tenant_id)
    return int((await connection.execute(statement)).scalar_one())


async def add_endpoint(connection: Connection, endpoint: EndpointRow) -> None:
    """Write a new endpoint."""
    values = {name: getattr(endpoint, name) for name in webhook_endpoints.c.keys()}  # noqa: SIM118 - not a mapping
    await connection.execute(webhook_endpoints.insert().values(values | {"event_types": list(endpoint.event_types)}))


async def read_endpoint(
    connection: Connection, tenant_id: TenantId, endpoint_id: str, *, lock: bool = False
) -> EndpointRow | None:
    """Return the endpoint, locked if wanted; None where there is none."""
    columns = webhook_endpoints.c
    statement = select(webhook_endpoints).where(columns.tenant_id == tenant_id, columns.endpoint_id == endpoint_id)
    row = (await connection.execute(statement.with_for_update() if lock else statement)).one_or_none()
    return None if row is None else _row(row)


async def read_endpoint_of_request(connection: Connection, tenant_id: TenantId, request_id: str) -> EndpointRow | None:
    """Return the endpoint that the request created."""
    columns = webhook_endpoints.c
    statement = select(webhook_endpoints).where(columns.tenant_id == tenant_id, columns.request_id == request_id)
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else _row(row)


async def page_of_endpoints(
    connection: Connection, tenant_id: TenantId, *, after_endpoint_id: str, limit: int
) -> list[EndpointRow]:
    """Return endpoints by id, those after one."""
    columns = webhook_endpoints.c
    rows = await connection.execute(
        select(webhook_endpoints)
        .where(columns.tenant_id == tenant_id, columns.endpoint_id > after_endpoint_id)
        .order_by(columns.endpoint_id)
        .limit(limit)
    )
    return [_row(row) for row in rows]


async def enabled_endpoints(connection: Connection, tenant_ids: Collection[str]) -> list[EndpointRow]:
    """Return the endpoints of these tenants that events are sent to."""
    columns = webhook_endpoints.c
    rows = await connection.execute(
        select(webhook_endpoints)
        .where(columns.tenant_id.in_(sorted(tenant_ids)), ~columns.disabled)
        .order_by(columns.tenant_id, columns.endpoint_id)
    )
    return [_row(row) for row in rows]


async def write_endpoint(
    connection: Connection, tenant_id: TenantId, endpoint_id: str, values: Mapping[str, Any]
) -> None:
    """Change columns of the endpoint."""
    columns = webhook_endpoints.c
    await connection.execute(
        update(webhook_endpoints)
        .where(columns.tenant_id == tenant_id, columns.endpoint_id == endpoint_id)
        .values(**values)
    )


async def delete_endpoint(connection: Connection, tenant_id: TenantId, endpoint_id: str) -> bool:
    """Delete the endpoint and the deliveries to it that wait; False where there is none."""
    columns, deliveries = webhook_endpoints.c, webhook_deliveries.c
    gone = await connection.execute(
        delete(webhook_endpoints)
        .where(columns.tenant_id == tenant_id, columns.endpoint_id == endpoint_id)
        .returning(columns.endpoint_id)
    )
    if gone.one_or_none() is None:
        return False
    await connection.execute(
        delete(webhook_deliveries).where(
            deliveries.tenant_id == tenant_id, deliveries.endpoint_id == endpoint_id, deliveries.state == "pending"
        )
    )
    return True


def _row(row: Row[Any]) -> EndpointRow:
    values = dict(row._mapping)  # noqa: SLF001 - public in spite of its name
    values["event_types"] = tuple(values["event_types"])
    return EndpointRow(**values)
