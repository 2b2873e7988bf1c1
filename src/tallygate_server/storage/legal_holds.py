"""SQL of legal holds: what must not be removed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import DataSelection
from tallygate_server.domain.retention import LegalHold
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.tables import legal_holds

_c = legal_holds.c


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldPage:
    """Some holds, and whether there are more."""

    holds: tuple[LegalHold, ...]
    position: tuple[datetime, str] | None
    """After which the next page begins; None on the last one."""


async def open_holds(connection: Connection, tenant_id: TenantId) -> list[LegalHold]:
    """Return the holds of a tenant that nobody has released, also those that have ended by themselves."""
    rows = await connection.execute(
        select(legal_holds).where(_c.tenant_id == tenant_id, _c.release_time.is_(None)).order_by(_c.legal_hold_id)
    )
    return [_hold(row) for row in rows]


async def read_hold(
    connection: Connection, tenant_id: TenantId, legal_hold_id: str, *, lock: bool = False
) -> LegalHold | None:
    """Return a hold, locked if wanted; None where there is none."""
    statement = select(legal_holds).where(_c.tenant_id == tenant_id, _c.legal_hold_id == legal_hold_id)
    row = (await connection.execute(statement.with_for_update() if lock else statement)).one_or_none()
    return None if row is None else _hold(row)


async def hold_of_request(connection: Connection, tenant_id: TenantId, request_id: str) -> LegalHold | None:
    """Return the hold that a request made; None where it made none."""
    statement = select(legal_holds).where(_c.tenant_id == tenant_id, _c.request_id == request_id)
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else _hold(row)


async def add_hold(connection: Connection, hold: LegalHold, *, request_id: str = "") -> None:
    """Write a new hold."""
    await connection.execute(
        insert(legal_holds).values(
            tenant_id=hold.tenant_id,
            legal_hold_id=hold.legal_hold_id,
            account_id=hold.selection.account_id or "",
            selection=hold.selection.to_document(),
            reason_text=hold.reason_text,
            actor=hold.actor,
            request_id=request_id or None,
            create_time=hold.create_time,
            end_time=hold.end_time,
        )
    )


async def release_hold(
    connection: Connection, tenant_id: TenantId, legal_hold_id: str, *, reason: str, now: datetime
) -> None:
    """Note that a hold is released."""
    await connection.execute(
        update(legal_holds)
        .where(_c.tenant_id == tenant_id, _c.legal_hold_id == legal_hold_id)
        .values(release_time=now, release_reason=reason)
    )


async def page_of_holds(
    connection: Connection,
    tenant_id: TenantId,
    *,
    account_id: AccountId | None = None,
    include_released: bool = False,
    before: tuple[datetime, str] | None = None,
    limit: int,
) -> HoldPage:
    """Return holds, newest first, those behind a position; of an account also those of all accounts."""
    statement = select(legal_holds).where(_c.tenant_id == tenant_id)
    if account_id is not None:
        statement = statement.where(or_(_c.account_id == account_id, _c.account_id == ""))
    if not include_released:
        statement = statement.where(_c.release_time.is_(None))
    if before is not None:
        statement = statement.where(tuple_(_c.create_time, _c.legal_hold_id) < tuple_(*before))
    statement = statement.order_by(_c.create_time.desc(), _c.legal_hold_id.desc()).limit(limit + 1)
    holds = [_hold(row) for row in await connection.execute(statement)]
    more = len(holds) > limit
    holds = holds[:limit]
    return HoldPage(holds=tuple(holds), position=(holds[-1].create_time, holds[-1].legal_hold_id) if more else None)


def _hold(row: Row[Any]) -> LegalHold:
    return LegalHold(
        tenant_id=row.tenant_id,
        legal_hold_id=row.legal_hold_id,
        selection=DataSelection.from_document(row.selection),
        reason_text=row.reason_text,
        actor=row.actor,
        create_time=row.create_time,
        end_time=row.end_time,
        release_time=row.release_time,
    )
