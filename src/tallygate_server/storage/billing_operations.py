"""SQL of operations at a billing provider. Every function runs in the caller's transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from sqlalchemy import ColumnElement, Row, select, update
from sqlalchemy.dialects.postgresql import insert

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.mapping import Json
from tallygate_server.storage.tables import billing_operations


class OperationState(Enum):
    """What became of an operation."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationRow:
    """An operation as stored."""

    tenant_id: TenantId
    account_id: AccountId
    operation_id: str
    kind: str
    subject: str
    request_id: str
    """Empty where the caller gave none, or where it has been released."""
    fingerprint: str
    prepared: Json
    state: OperationState
    result: Json | None
    key_number: int
    key_time: datetime
    """Since when the present key is used."""
    attempt: str
    """Who works on it; empty while nobody does."""
    attempt_time: datetime
    """When the last attempt began."""
    create_time: datetime


async def add_operation(connection: Connection, row: OperationRow) -> bool:
    """Add a pending operation; False where another one is pending, or has the request id."""
    rows = await connection.execute(
        insert(billing_operations)
        .values(
            tenant_id=row.tenant_id,
            operation_id=row.operation_id,
            account_id=row.account_id,
            kind=row.kind,
            subject=row.subject,
            request_id=row.request_id or None,
            fingerprint=row.fingerprint,
            prepared=row.prepared,
            state=row.state.value,
            key_number=row.key_number,
            key_time=row.key_time,
            attempt=row.attempt or None,
            attempt_time=row.attempt_time,
            create_time=row.create_time,
            update_time=row.create_time,
        )
        .on_conflict_do_nothing()
        .returning(billing_operations.c.operation_id)
    )
    return rows.one_or_none() is not None


async def lock_operation_of_request(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, request_id: str
) -> OperationRow | None:
    """Lock and return the operation that the request began, or None."""
    return await _lock(connection, tenant_id, account_id, billing_operations.c.request_id == request_id)


async def lock_pending_operation(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, *, kind: str, subject: str
) -> OperationRow | None:
    """Lock and return the one of the kind that is pending for the subject, or None."""
    columns = billing_operations.c
    pending = columns.state == OperationState.PENDING.value
    return await _lock(
        connection, tenant_id, account_id, pending & (columns.kind == kind) & (columns.subject == subject)
    )


async def begin_attempt(connection: Connection, row: OperationRow) -> None:
    """Store who works on the operation since when, and with which key."""
    await connection.execute(
        update(billing_operations)
        .where(_is(row))
        .values(
            attempt=row.attempt,
            attempt_time=row.attempt_time,
            key_number=row.key_number,
            key_time=row.key_time,
            update_time=row.attempt_time,
        )
    )


async def end_attempt(connection: Connection, row: OperationRow) -> None:
    """Leave the operation pending, with nobody at work, unless somebody else has taken it over."""
    await connection.execute(
        update(billing_operations).where(_is(row), billing_operations.c.attempt == row.attempt).values(attempt=None)
    )


async def end_operation(
    connection: Connection, row: OperationRow, state: OperationState, result: Json, *, at: datetime
) -> None:
    """Store how a pending operation ended; one that failed gives its request id free."""
    values: dict[str, Any] = {"state": state.value, "result": result, "attempt": None, "update_time": at}
    if state is OperationState.FAILED:
        values["request_id"] = None
    await connection.execute(
        update(billing_operations)
        .where(_is(row), billing_operations.c.state == OperationState.PENDING.value)
        .values(**values)
    )


async def release_request(connection: Connection, row: OperationRow) -> None:
    """Give the request id of an operation free."""
    await connection.execute(update(billing_operations).where(_is(row)).values(request_id=None))


async def _lock(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, which: ColumnElement[bool]
) -> OperationRow | None:
    rows = await connection.execute(
        select(billing_operations)
        .where(billing_operations.c.tenant_id == tenant_id, billing_operations.c.account_id == account_id, which)
        .with_for_update()
    )
    row = rows.one_or_none()
    return _row(row) if row is not None else None


def _is(row: OperationRow) -> ColumnElement[bool]:
    return (billing_operations.c.tenant_id == row.tenant_id) & (billing_operations.c.operation_id == row.operation_id)


def _row(row: Row[Any]) -> OperationRow:
    return OperationRow(
        tenant_id=TenantId(row.tenant_id),
        account_id=AccountId(row.account_id),
        operation_id=row.operation_id,
        kind=row.kind,
        subject=row.subject,
        request_id=row.request_id or "",
        fingerprint=row.fingerprint,
        prepared=row.prepared,
        state=OperationState(row.state),
        result=row.result,
        key_number=row.key_number,
        key_time=row.key_time,
        attempt=row.attempt or "",
        attempt_time=row.attempt_time,
        create_time=row.create_time,
    )
