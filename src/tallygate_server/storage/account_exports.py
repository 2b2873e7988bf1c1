"""SQL of exports: where the sealed pieces of an account's archive lie, and until when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.data_segments import OBJECT_LEAVING
from tallygate_server.storage.tables import account_exports, stored_objects

EXPORT_WRITING, EXPORT_COMPLETE = 1, 2
EXPIRED_PER_RUN_MAX: Final = 100

_c = account_exports.c


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRow:
    """An export."""

    tenant_id: TenantId
    job_id: str
    account_id: AccountId
    state: int
    key_id: str
    object_prefix: str
    piece_count: int = 0
    archive_bytes: int = 0
    create_time: datetime
    expire_time: datetime


async def write_export(connection: Connection, row: ExportRow) -> None:
    """Write an export that begins, in the place of an earlier attempt of the same job."""
    values = {name: getattr(row, name) for name in _c.keys()}  # noqa: SIM118 - not a mapping
    await connection.execute(
        insert(account_exports)
        .values(values)
        .on_conflict_do_update(index_elements=[_c.tenant_id, _c.job_id], set_=values)
    )


async def change_export(connection: Connection, tenant_id: TenantId, job_id: str, values: Mapping[str, Any]) -> bool:
    """Change columns of an export; False where it is gone."""
    done = await connection.execute(
        update(account_exports).where(_c.tenant_id == tenant_id, _c.job_id == job_id).values(**values)
    )
    return done.rowcount > 0


async def read_export(connection: Connection, tenant_id: TenantId, job_id: str) -> ExportRow | None:
    """Return an export; None where there is none."""
    statement = select(account_exports).where(_c.tenant_id == tenant_id, _c.job_id == job_id)
    row = (await connection.execute(statement)).mappings().one_or_none()
    return None if row is None else ExportRow(**row)


async def expired_exports(connection: Connection, *, now: datetime) -> list[ExportRow]:
    """Return exports of all tenants whose time is over, the oldest first."""
    rows = await connection.execute(
        select(account_exports).where(_c.expire_time <= now).order_by(_c.expire_time).limit(EXPIRED_PER_RUN_MAX)
    )
    return [ExportRow(**row) for row in rows.mappings()]


async def delete_export(connection: Connection, tenant_id: TenantId, job_id: str) -> None:
    """Delete the row of an export whose pieces are leaving."""
    await connection.execute(delete(account_exports).where(_c.tenant_id == tenant_id, _c.job_id == job_id))


async def let_pieces_leave(connection: Connection, row: ExportRow, *, now: datetime) -> list[str]:
    """Mark the pieces of an export as leaving; return their paths."""
    objects = stored_objects.c
    rows = await connection.execute(
        update(stored_objects)
        .where(objects.tenant_id == row.tenant_id, func.starts_with(objects.object_path, row.object_prefix))
        .values(state=OBJECT_LEAVING, leave_time=func.coalesce(objects.leave_time, now))
        .returning(objects.object_path)
    )
    return list(rows.scalars())
