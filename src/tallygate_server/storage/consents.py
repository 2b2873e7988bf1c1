"""SQL of consents: every statement that was made, and the one of each purpose that counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select, tuple_
from sqlalchemy.dialects.postgresql import distinct_on

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.tables import consents

_c = consents.c


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """A statement of an account that its data may, or may not, be used for a purpose."""

    tenant_id: TenantId
    consent_id: str
    account_id: AccountId
    purpose: str
    granted: bool
    policy_version: str
    source: str
    consent_time: datetime
    expire_time: datetime | None
    actor: str
    request_id: str
    fingerprint: str
    create_time: datetime
    sequence: int = 0
    """Order of recording, which decides between statements of one instant; the database gives it."""

    def allows(self, now: datetime) -> bool:
        """Tell whether it gives consent at an instant, if it is the statement that counts then."""
        return self.granted and (self.expire_time is None or self.expire_time > now)


async def add_consent(connection: Connection, consent: Consent) -> Consent:
    """Write a statement; the caller has locked the account's row."""
    values = {name: getattr(consent, name) for name in _c.keys() if name != "sequence"}  # noqa: SIM118 - no mapping
    return _consent((await connection.execute(consents.insert().values(values).returning(consents))).one())


async def read_consent_of_request(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, request_id: str
) -> Consent | None:
    """Return the statement that a request recorded."""
    statement = select(consents).where(
        _c.tenant_id == tenant_id, _c.account_id == account_id, _c.request_id == request_id
    )
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else _consent(row)


async def read_consent_in_force(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, purpose: str, *, now: datetime
) -> Consent | None:
    """Return the newest statement about a purpose that was made until now, whatever it says."""
    statement = (
        select(consents)
        .where(
            _c.tenant_id == tenant_id,
            _c.account_id == account_id,
            _c.purpose == purpose,
            _c.consent_time <= now,
        )
        .order_by(_c.consent_time.desc(), _c.sequence.desc())
        .limit(1)
    )
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else _consent(row)


async def page_of_consents(
    connection: Connection,
    tenant_id: TenantId,
    account_id: AccountId,
    *,
    purpose: str,
    in_force_at: datetime | None,
    before: tuple[datetime, int] | None,
    limit: int,
) -> Sequence[Consent]:
    """Return statements, newest first, those before a (consent time, sequence).

    `in_force_at` leaves only the newest statement of each purpose that was made until then and has not expired.
    """
    chosen = [_c.tenant_id == tenant_id, _c.account_id == account_id]
    if purpose:
        chosen.append(_c.purpose == purpose)
    statement = select(consents).where(*chosen)
    if in_force_at is not None:
        newest = (
            select(_c.sequence)
            .where(*chosen, _c.consent_time <= in_force_at)
            .ext(distinct_on(_c.purpose))
            .order_by(_c.purpose, _c.consent_time.desc(), _c.sequence.desc())
        )
        statement = statement.where(_c.sequence.in_(newest), _c.expire_time.is_(None) | (_c.expire_time > in_force_at))
    if before is not None:
        statement = statement.where(tuple_(_c.consent_time, _c.sequence) < before)
    rows = await connection.execute(statement.order_by(_c.consent_time.desc(), _c.sequence.desc()).limit(limit))
    return [_consent(row) for row in rows]


def _consent(row: Row[Any]) -> Consent:
    return Consent(**row._mapping)  # noqa: SLF001 - public in spite of its name
