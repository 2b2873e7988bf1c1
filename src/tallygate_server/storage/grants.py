"""SQL of grants, their balances and their requests. Every function runs in the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, Select, and_, func, or_, select, text, tuple_, update

from tallygate_server.domain.catalog import FeatureKind
from tallygate_server.domain.credits import StoredBalance
from tallygate_server.domain.entitlement import Grant, GrantKind
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.domain.period import PeriodKind
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.mapping import (
    limit_override_from_json,
    limit_override_to_json,
    rollover_from_json,
    rollover_to_json,
)
from tallygate_server.storage.tables import features, grant_requests, grants

# Written out, as in the partial index: a plan made for any parameters could not use it.
_UNANNOUNCED: Final = text("grants.revoke_time IS NULL AND grants.notice_time IS NULL")


_NEWEST_BALANCES: Final = text("""
SELECT b.account_id, b.grant_id, b.window_start, b.given_quantity, b.used_quantity
FROM unnest(CAST(:account_ids AS text[]), CAST(:grant_ids AS text[]), CAST(:window_starts AS timestamptz[]))
    AS k(account_id, grant_id, window_start)
CROSS JOIN LATERAL (
    SELECT * FROM grant_balances AS e
    WHERE e.tenant_id = :tenant_id AND e.account_id = k.account_id AND e.grant_id = k.grant_id
      AND e.window_start <= k.window_start
    ORDER BY e.window_start DESC
    LIMIT 1
) AS b
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantRow:
    """A grant as stored."""

    account_id: AccountId
    grant: Grant
    reason: str
    actor: str
    metadata: dict[str, str] = field(default_factory=dict)
    revoke_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantRequest:
    """The first answer to a request id."""

    fingerprint: str
    grant_id: str | None
    revision: int


@dataclass(frozen=True, slots=True, order=True)
class ExpiringGrant:
    """A grant that others are to be told of."""

    expire_time: datetime
    tenant_id: TenantId
    account_id: AccountId
    grant_id: str


async def add_grant(connection: Connection, tenant_id: TenantId, row: GrantRow) -> None:
    """Add a grant."""
    grant = row.grant
    await connection.execute(
        grants.insert().values(
            tenant_id=tenant_id,
            account_id=row.account_id,
            grant_id=grant.grant_id,
            feature_key=grant.feature_key,
            kind=grant.kind.value,
            quantity=grant.quantity,
            value=grant.value,
            limit=limit_override_to_json(grant.limit) if grant.limit is not None else None,
            recurrence=grant.recurrence.value if grant.recurrence is not None else None,
            rollover=rollover_to_json(grant.rollover) if grant.rollover is not None else None,
            priority=grant.priority,
            start_time=grant.start_time,
            expire_time=grant.expire_time,
            grace_end_time=grant.grace_end_time,
            reason=row.reason,
            actor=row.actor,
            metadata=row.metadata,
            create_time=grant.create_time,
        )
    )


async def read_grant(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, grant_id: str
) -> GrantRow | None:
    """Return the account's grant, or None."""
    rows = await connection.execute(
        _grants(tenant_id).where(grants.c.account_id == account_id, grants.c.grant_id == grant_id)
    )
    row = rows.one_or_none()
    return _row(row) if row is not None else None


async def count_open_grants(connection: Connection, tenant_id: TenantId, account_id: AccountId, at: datetime) -> int:
    """Return how many of the account's grants are neither revoked nor over at the instant."""
    count = await connection.scalar(
        select(func.count())
        .select_from(grants)
        .where(
            grants.c.tenant_id == tenant_id,
            grants.c.account_id == account_id,
            grants.c.revoke_time.is_(None),
            or_(grants.c.expire_time.is_(None), grants.c.expire_time > at),
        )
    )
    return count or 0


async def open_switches(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, feature_key: FeatureKey, at: datetime
) -> list[GrantRow]:
    """Return the switches of a feature that are neither revoked nor over at the instant."""
    rows = await connection.execute(
        _grants(tenant_id)
        .where(
            grants.c.account_id == account_id,
            grants.c.feature_key == feature_key,
            grants.c.kind.in_([kind.value for kind in GrantKind if kind.switch]),
            grants.c.revoke_time.is_(None),
            or_(grants.c.expire_time.is_(None), grants.c.expire_time > at),
        )
        .order_by(grants.c.grant_id)
    )
    return [_row(row) for row in rows]


async def revoke_grant(
    connection: Connection, tenant_id: TenantId, row: GrantRow, *, at: datetime, reason: str
) -> GrantRow:
    """Take a grant back and return it as it is then."""
    await connection.execute(
        update(grants)
        .where(
            grants.c.tenant_id == tenant_id,
            grants.c.account_id == row.account_id,
            grants.c.grant_id == row.grant.grant_id,
        )
        .values(revoke_time=at, revoke_reason=reason)
    )
    return replace(row, grant=replace(row.grant, revoke_time=at), revoke_reason=reason)


async def page_of_grants(
    connection: Connection,
    tenant_id: TenantId,
    *,
    account_id: str,
    feature_key: str,
    kinds: Sequence[GrantKind],
    before: tuple[datetime, str] | None,
    limit: int,
) -> list[GrantRow]:
    """Return grants, newest first, older than the position (creation time, id), at most so many."""
    statement = _grants(tenant_id).order_by(grants.c.create_time.desc(), grants.c.grant_id.desc()).limit(limit)
    if account_id:
        statement = statement.where(grants.c.account_id == account_id)
    if feature_key:
        statement = statement.where(grants.c.feature_key == feature_key)
    if kinds:
        statement = statement.where(grants.c.kind.in_([kind.value for kind in kinds]))
    if before is not None:
        statement = statement.where(tuple_(grants.c.create_time, grants.c.grant_id) < tuple_(*before))
    return [_row(row) for row in await connection.execute(statement)]


async def read_balances(
    connection: Connection, tenant_id: TenantId, wanted: Mapping[tuple[AccountId, str], datetime]
) -> dict[tuple[AccountId, str], StoredBalance]:
    """Return the newest balance up to a window's start of each credit (account, grant) that has one."""
    if not wanted:
        return {}
    found = await connection.execute(
        _NEWEST_BALANCES,
        {
            "tenant_id": tenant_id,
            "account_ids": [account_id for account_id, _ in wanted],
            "grant_ids": [grant_id for _, grant_id in wanted],
            "window_starts": list(wanted.values()),
        },
    )
    return {
        (AccountId(row.account_id), row.grant_id): StoredBalance(
            row.window_start, row.given_quantity, row.used_quantity
        )
        for row in found
    }


async def read_request(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, request_id: str
) -> GrantRequest | None:
    """Return what the request id was answered first, or None."""
    rows = await connection.execute(
        select(grant_requests).where(
            grant_requests.c.tenant_id == tenant_id,
            grant_requests.c.account_id == account_id,
            grant_requests.c.request_id == request_id,
        )
    )
    row = rows.one_or_none()
    if row is None:
        return None
    return GrantRequest(fingerprint=row.fingerprint, grant_id=row.grant_id, revision=row.revision)


async def add_request(
    connection: Connection,
    tenant_id: TenantId,
    account_id: AccountId,
    request_id: str,
    request: GrantRequest,
    *,
    at: datetime,
) -> None:
    """Keep the first answer to a request id."""
    await connection.execute(
        grant_requests.insert().values(
            tenant_id=tenant_id,
            account_id=account_id,
            request_id=request_id,
            fingerprint=request.fingerprint,
            grant_id=request.grant_id,
            revision=request.revision,
            create_time=at,
        )
    )


# --- What expires soon --------------------------------------------------------------------------------------


async def expiring_grants(
    connection: Connection, at: datetime, until: datetime, *, after: ExpiringGrant | None, limit: int
) -> list[ExpiringGrant]:
    """Return unannounced grants of every tenant that expire after the first instant and not after the second.

    For a connection of the intake role, which sees ids and instants only.
    """
    g = grants.c
    statement = select(g.expire_time, g.tenant_id, g.account_id, g.grant_id).where(
        _UNANNOUNCED, g.start_time <= at, g.expire_time > at, g.expire_time <= until
    )
    if after is not None:
        statement = statement.where(
            tuple_(g.expire_time, g.tenant_id, g.account_id, g.grant_id)
            > tuple_(after.expire_time, after.tenant_id, after.account_id, after.grant_id)
        )
    statement = statement.order_by(g.expire_time, g.tenant_id, g.account_id, g.grant_id).limit(limit)
    return [
        ExpiringGrant(row.expire_time, TenantId(row.tenant_id), AccountId(row.account_id), row.grant_id)
        for row in await connection.execute(statement)
    ]


async def mark_announced(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, grant_id: str, at: datetime
) -> bool:
    """Note that it was announced that the grant expires; False where somebody has, or it was revoked."""
    # What decides entitlements stays as it is.
    await connection.execute(text("SELECT set_config('tallygate.change', 'own', true)"))
    marked = await connection.execute(
        update(grants)
        .where(
            _UNANNOUNCED,
            grants.c.tenant_id == tenant_id,
            grants.c.account_id == account_id,
            grants.c.grant_id == grant_id,
        )
        .values(notice_time=at)
    )
    return marked.rowcount > 0


def _grants(tenant_id: TenantId) -> Select[Any]:
    return (
        select(grants, features.c.kind.label("feature_kind"))
        .join(
            features,
            and_(features.c.tenant_id == grants.c.tenant_id, features.c.feature_key == grants.c.feature_key),
        )
        .where(grants.c.tenant_id == tenant_id)
    )


def _row(row: Row[Any]) -> GrantRow:
    return GrantRow(
        account_id=AccountId(row.account_id),
        grant=Grant(
            grant_id=row.grant_id,
            feature_key=FeatureKey(row.feature_key),
            feature_kind=FeatureKind(row.feature_kind),
            kind=GrantKind(row.kind),
            quantity=row.quantity,
            value=row.value,
            limit=limit_override_from_json(row.limit) if row.limit is not None else None,
            recurrence=PeriodKind(row.recurrence) if row.recurrence is not None else None,
            rollover=rollover_from_json(row.rollover) if row.rollover is not None else None,
            priority=row.priority,
            start_time=row.start_time,
            expire_time=row.expire_time,
            create_time=row.create_time,
            grace_end_time=row.grace_end_time,
            revoke_time=row.revoke_time,
        ),
        reason=row.reason,
        actor=row.actor,
        metadata=dict(row.metadata),
        revoke_reason=row.revoke_reason,
    )
