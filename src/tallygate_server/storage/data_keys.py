"""SQL of the data keys: which account has which, and what became of it. The keys themselves lie in the key store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any, Final

from sqlalchemy import Row, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.errors import StoreUnavailable
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.engine import CONNECTION_ERRORS, DatabaseRole
from tallygate_server.storage.listener import Listener
from tallygate_server.storage.tables import data_keys

CHANNEL: Final = "tallygate_keys"
"""Where a key that was destroyed is announced, as tenant/key."""


class KeyState(IntEnum):
    """Where a key is in its life."""

    ACTIVE = 1
    RETIRED = 2
    """Opens what it sealed; seals no more."""
    DESTROYED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRow:
    """A data key of an account."""

    tenant_id: TenantId
    key_id: str
    account_id: AccountId
    """Empty: the tenant's own."""
    state: KeyState
    create_time: datetime
    retire_time: datetime | None = None
    destroy_time: datetime | None = None


async def read_active_key(connection: Connection, tenant_id: TenantId, account_id: AccountId) -> KeyRow | None:
    """Return the key that seals for the account; None where it has none yet."""
    columns = data_keys.c
    statement = select(data_keys).where(
        columns.tenant_id == tenant_id, columns.account_id == account_id, columns.state == KeyState.ACTIVE
    )
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else _row(row)


async def read_key(connection: Connection, tenant_id: TenantId, key_id: str) -> KeyRow | None:
    """Return the key with this id."""
    columns = data_keys.c
    statement = select(data_keys).where(columns.tenant_id == tenant_id, columns.key_id == key_id)
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else _row(row)


async def read_keys_of_account(connection: Connection, tenant_id: TenantId, account_id: AccountId) -> list[KeyRow]:
    """Return every key that the account has had, oldest first."""
    columns = data_keys.c
    rows = await connection.execute(
        select(data_keys)
        .where(columns.tenant_id == tenant_id, columns.account_id == account_id)
        .order_by(columns.create_time, columns.key_id)
    )
    return [_row(row) for row in rows]


async def add_active_key(connection: Connection, key: KeyRow) -> bool:
    """Write a new active key; False where the account has one already."""
    values = {name: getattr(key, name) for name in data_keys.c.keys()}  # noqa: SIM118 - not a mapping
    columns = data_keys.c
    statement = (
        insert(data_keys)
        .values(values | {"state": int(key.state)})
        # As text: a plan for any values matches no index that holds for one.
        .on_conflict_do_nothing(index_elements=[columns.tenant_id, columns.account_id], index_where=text("state = 1"))
        .returning(columns.key_id)
    )
    return (await connection.execute(statement)).one_or_none() is not None


async def set_key_state(
    connection: Connection, tenant_id: TenantId, key_id: str, state: KeyState, *, now: datetime
) -> None:
    """Retire or destroy a key."""
    columns = data_keys.c
    times = {KeyState.RETIRED: {"retire_time": now}, KeyState.DESTROYED: {"destroy_time": now}}
    await connection.execute(
        update(data_keys)
        .where(columns.tenant_id == tenant_id, columns.key_id == key_id)
        .values(state=int(state), **times.get(state, {}))
    )


async def announce_destroyed(connection: Connection, tenant_id: TenantId, key_id: str) -> None:
    """Let every server forget a key when this transaction is committed."""
    await connection.execute(select(func.pg_notify(CHANNEL, f"{tenant_id}/{key_id}")))


@asynccontextmanager
async def hearing_of_destroyed_keys(
    database_url: str, on_destroyed: Callable[[TenantId, str], None]
) -> AsyncIterator[None]:
    """Call `on_destroyed`, on the loop, for each key that is destroyed, until the block is left.

    Raises StoreUnavailable.
    """

    def hear(payload: str) -> None:
        tenant_id, _, key_id = payload.partition("/")
        on_destroyed(TenantId(tenant_id), key_id)

    listener = Listener(database_url, CHANNEL, hear, role=DatabaseRole.LIFECYCLE)
    try:
        await listener.start()
    except CONNECTION_ERRORS as error:
        raise StoreUnavailable(f"Postgres cannot be reached: {error}") from error
    try:
        yield
    finally:
        await listener.close()


def _row(row: Row[Any]) -> KeyRow:
    values = dict(row._mapping)  # noqa: SLF001 - public in spite of its name
    values["state"] = KeyState(values["state"])
    return KeyRow(**values)
