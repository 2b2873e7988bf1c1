"""SQL of accounts and their identities. Every function runs in the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, exists, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from tallygate_server.domain.entitlement import AccountState
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.subscription import LIVE_STATES
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.tables import account_identities, accounts, subscriptions


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """An id that somebody else gave to an account: `clerk` and `user_2x`, `email` and `a@b.example`."""

    provider: str
    external_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who holds subscriptions and consumes."""

    tenant_id: TenantId
    account_id: AccountId
    state: AccountState
    revision: int
    time_zone: str
    display_name: str
    email: str
    preferences: dict[str, Any]
    metadata: dict[str, str]
    suspend_reason: str
    create_time: datetime
    update_time: datetime
    last_seen_time: datetime | None
    identities: tuple[Identity, ...] = ()
    """In the order in which they were linked."""


async def read_account(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, *, lock: bool = False
) -> Account | None:
    """Return the account with its identities, or None; `lock` keeps others from changing it meanwhile."""
    statement = select(accounts).where(accounts.c.tenant_id == tenant_id, accounts.c.account_id == account_id)
    if lock:
        statement = statement.with_for_update()
    row = (await connection.execute(statement)).one_or_none()
    if row is None:
        return None
    identities = await _identities(connection, tenant_id, [account_id])
    return _account(row, identities.get(account_id, ()))


async def account_exists(connection: Connection, tenant_id: TenantId, account_id: AccountId) -> bool:
    """Tell whether there is such an account, in whatever state."""
    found = await connection.execute(
        select(exists().where(accounts.c.tenant_id == tenant_id, accounts.c.account_id == account_id))
    )
    return bool(found.scalar_one())


async def owners(
    connection: Connection, tenant_id: TenantId, identities: Sequence[Identity]
) -> dict[Identity, AccountId]:
    """Return whose the identities are; those that are nobody's are left out."""
    columns = account_identities.c
    rows = await connection.execute(
        select(columns.provider, columns.external_id, columns.account_id).where(
            columns.tenant_id == tenant_id,
            tuple_(columns.provider, columns.external_id).in_(
                [(identity.provider, identity.external_id) for identity in identities]
            ),
        )
    )
    return {Identity(row.provider, row.external_id): AccountId(row.account_id) for row in rows}


async def add_account(connection: Connection, account: Account) -> bool:
    """Add the account, without identities; False where its id is taken, also by somebody at the same time."""
    rows = await connection.execute(
        insert(accounts)
        .values(
            tenant_id=account.tenant_id,
            account_id=account.account_id,
            state=account.state.value,
            revision=account.revision,
            time_zone=account.time_zone,
            display_name=account.display_name,
            email=account.email,
            preferences=account.preferences,
            metadata=account.metadata,
            suspend_reason=account.suspend_reason,
            create_time=account.create_time,
            update_time=account.update_time,
            last_seen_time=account.last_seen_time,
        )
        .on_conflict_do_nothing(index_elements=["tenant_id", "account_id"])
        .returning(accounts.c.account_id)
    )
    return rows.one_or_none() is not None


async def link_identities(
    connection: Connection,
    tenant_id: TenantId,
    account_id: AccountId,
    identities: Sequence[Identity],
    *,
    at: datetime,
) -> list[Identity]:
    """Link identities that are nobody's; return those that turned out to be somebody's.

    Waits for a transaction that is linking one of them. One statement each, in order, so that two such
    transactions never wait for each other in a circle; the caller has locked the account's row before.
    """
    refused = []
    for identity in sorted(set(identities)):
        rows = await connection.execute(
            insert(account_identities)
            .values(
                tenant_id=tenant_id,
                provider=identity.provider,
                external_id=identity.external_id,
                account_id=account_id,
                create_time=at,
            )
            .on_conflict_do_nothing(index_elements=["tenant_id", "provider", "external_id"])
            .returning(account_identities.c.account_id)
        )
        if rows.one_or_none() is None:
            refused.append(identity)
    return refused


async def unlink_identities(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, identities: Sequence[Identity]
) -> None:
    """Take identities from the account; those that are not its own stay as they are."""
    columns = account_identities.c
    await connection.execute(
        delete(account_identities).where(
            columns.tenant_id == tenant_id,
            columns.account_id == account_id,
            tuple_(columns.provider, columns.external_id).in_(
                [(identity.provider, identity.external_id) for identity in identities]
            ),
        )
    )


async def write_account(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, values: Mapping[str, Any]
) -> None:
    """Store columns of the account."""
    await connection.execute(
        update(accounts).where(accounts.c.tenant_id == tenant_id, accounts.c.account_id == account_id).values(**values)
    )


async def page_of_accounts(
    connection: Connection,
    tenant_id: TenantId,
    *,
    state: AccountState | None,
    plan_key: str,
    account_id_prefix: str,
    after_account_id: str,
    limit: int,
) -> list[Account]:
    """Return accounts by id, from after the given one. Without a state: all but the deleted."""
    columns = accounts.c
    statement = select(accounts).where(columns.tenant_id == tenant_id)
    if state is None:
        statement = statement.where(columns.state != AccountState.DELETED.value)
    else:
        statement = statement.where(columns.state == state.value)
    if plan_key:
        statement = statement.where(
            exists().where(
                subscriptions.c.tenant_id == tenant_id,
                subscriptions.c.account_id == columns.account_id,
                subscriptions.c.plan_key == plan_key,
                subscriptions.c.state.in_([live.value for live in LIVE_STATES]),
            )
        )
    if account_id_prefix:
        statement = statement.where(columns.account_id.startswith(account_id_prefix, autoescape=True))
    if after_account_id:
        statement = statement.where(columns.account_id > after_account_id)
    rows = (await connection.execute(statement.order_by(columns.account_id).limit(limit))).all()
    identities = await _identities(connection, tenant_id, [row.account_id for row in rows])
    return [_account(row, identities.get(row.account_id, ())) for row in rows]


async def _identities(
    connection: Connection, tenant_id: TenantId, account_ids: Sequence[str]
) -> dict[str, tuple[Identity, ...]]:
    columns = account_identities.c
    rows = await connection.execute(
        select(account_identities)
        .where(columns.tenant_id == tenant_id, columns.account_id.in_(account_ids))
        .order_by(columns.create_time, columns.provider, columns.external_id)
    )
    found: dict[str, tuple[Identity, ...]] = {}
    for row in rows:
        identity = Identity(row.provider, row.external_id)
        found[row.account_id] = (*found.get(row.account_id, ()), identity)
    return found


def _account(row: Row[Any], identities: tuple[Identity, ...]) -> Account:
    return Account(
        tenant_id=TenantId(row.tenant_id),
        account_id=AccountId(row.account_id),
        state=AccountState(row.state),
        revision=row.revision,
        time_zone=row.time_zone,
        display_name=row.display_name,
        email=row.email,
        preferences=row.preferences,
        metadata=row.metadata,
        suspend_reason=row.suspend_reason,
        create_time=row.create_time,
        update_time=row.update_time,
        last_seen_time=row.last_seen_time,
        identities=identities,
    )
