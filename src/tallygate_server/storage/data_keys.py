"""SQL of the data keys: which account has which, and what became of it. The keys themselves lie in the key store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any, Final

from sqlalchemy import Row, func, literal, select, text, update
from sqlalchemy.dialects.postgresql import insert

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.errors import StoreUnavailable
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.engine import CONNECTION_ERRORS, DatabaseRole
from tallygate_server.storage.listener import Listener
from tallygate_server.storage.tables import (
    account_exports,
    accounts,
    data_keys,
    data_record_ids,
    data_requests,
    data_segments,
    datasets,
)

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


async def read_keys(connection: Connection, tenant_id: TenantId, account_id: AccountId | None) -> list[KeyRow]:
    """Return the keys of a tenant (None), or of one account, that are not destroyed; by account, oldest first."""
    columns = data_keys.c
    statement = select(data_keys).where(columns.tenant_id == tenant_id, columns.state != int(KeyState.DESTROYED))
    if account_id is not None:
        statement = statement.where(columns.account_id == account_id)
    rows = await connection.execute(statement.order_by(columns.account_id, columns.create_time, columns.key_id))
    return [_row(row) for row in rows]


async def lock_key(connection: Connection, tenant_id: TenantId, key_id: str) -> KeyRow | None:
    """Return a key, locked: nobody retires or destroys it, nor begins to seal with it, meanwhile."""
    columns = data_keys.c
    statement = select(data_keys).where(columns.tenant_id == tenant_id, columns.key_id == key_id)
    row = (await connection.execute(statement.with_for_update())).one_or_none()
    return None if row is None else _row(row)


async def key_in_use(connection: Connection, key: KeyRow) -> bool:
    """Tell whether anything is sealed with a key, or any record is known by a digest that is keyed with it."""
    segments, exports, requests = data_segments.c, account_exports.c, data_requests.c
    ids, sets = data_record_ids.c, datasets.c
    of_account = select(sets.dataset_id).where(sets.tenant_id == key.tenant_id, sets.account_id == key.account_id)
    uses = (
        select(literal(1)).where(segments.tenant_id == key.tenant_id, segments.key_id == key.key_id),
        select(literal(1)).where(exports.tenant_id == key.tenant_id, exports.key_id == key.key_id),
        select(literal(1)).where(
            requests.tenant_id == key.tenant_id,
            requests.account_id == key.account_id,
            requests.answer["key_id"].astext == key.key_id,
        ),
        select(literal(1)).where(ids.tenant_id == key.tenant_id, ids.dataset_id.in_(of_account)),
    )
    return any([(await connection.execute(use.limit(1))).first() is not None for use in uses])


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


async def is_being_erased(connection: Connection, tenant_id: TenantId, account_id: AccountId) -> bool:
    """Tell whether the account is deleted; it stays as it is until the transaction ends."""
    columns = accounts.c
    statement = select(columns.state).where(columns.tenant_id == tenant_id, columns.account_id == account_id)
    state: str | None = (await connection.execute(statement.with_for_update(read=True))).scalar_one_or_none()
    return state == "deleted"


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
