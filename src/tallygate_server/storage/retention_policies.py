"""SQL of retention policies: every version of each, and the lock that changes and removals meet at."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Row, func, select
from sqlalchemy.dialects.postgresql import insert

from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.retention import RetentionPolicy
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.tables import retention_policies

_c = retention_policies.c


async def lock_protections(connection: Connection, tenant_id: TenantId) -> None:
    """Wait for the removals of the tenant that are under way, and keep others waiting until the transaction ends."""
    await connection.execute(select(func.pg_advisory_xact_lock(_lock_name(tenant_id))))


async def share_protections(connection: Connection, tenant_id: TenantId) -> None:
    """Wait for changes of what is protected, and let there be none until the transaction ends.

    Removals do not wait for each other.
    """
    await connection.execute(select(func.pg_advisory_xact_lock_shared(_lock_name(tenant_id))))


async def read_policies(connection: Connection, tenant_id: TenantId) -> list[RetentionPolicy]:
    """Return the policies in force of a tenant, by data type."""
    statement = select(retention_policies).where(_c.tenant_id == tenant_id, _newest()).order_by(_c.data_type)
    return [_policy(row) for row in await connection.execute(statement)]


async def read_policy(connection: Connection, tenant_id: TenantId, data_type: str) -> RetentionPolicy | None:
    """Return the newest version of a data type's own policy; None where nobody has set one."""
    statement = (
        select(retention_policies)
        .where(_c.tenant_id == tenant_id, _c.data_type == data_type)
        .order_by(_c.version.desc())
        .limit(1)
    )
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else _policy(row)


async def page_of_policies(
    connection: Connection, tenant_id: TenantId, *, after: str = "", limit: int
) -> list[RetentionPolicy]:
    """Return the policies in force by data type, those after one."""
    statement = (
        select(retention_policies)
        .where(_c.tenant_id == tenant_id, _c.data_type > after, _newest())
        .order_by(_c.data_type)
        .limit(limit)
    )
    return [_policy(row) for row in await connection.execute(statement)]


async def add_policy(connection: Connection, policy: RetentionPolicy) -> None:
    """Write a new version."""
    await connection.execute(
        insert(retention_policies).values(
            tenant_id=policy.tenant_id,
            data_type=policy.data_type,
            version=policy.version,
            policy=policy.to_document(),
            actor=policy.actor,
            update_time=policy.update_time,
        )
    )


def _lock_name(tenant_id: TenantId) -> Any:
    return func.hashtextextended(f"tallygate-protections:{tenant_id}", 0)


def _newest() -> ColumnElement[bool]:
    versions = retention_policies.alias()
    newest = select(func.max(versions.c.version)).where(
        versions.c.tenant_id == _c.tenant_id, versions.c.data_type == _c.data_type
    )
    return _c.version == newest.scalar_subquery()


def _policy(row: Row[Any]) -> RetentionPolicy:
    return RetentionPolicy.from_document(
        row.tenant_id, row.policy, version=row.version, update_time=row.update_time, actor=row.actor
    )
