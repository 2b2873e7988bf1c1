"""SQL of pages where plans are paid for. Every function runs in the caller's transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, func, select, update
from sqlalchemy.dialects.postgresql import insert

from tallygate_server.domain.catalog import BillingInterval
from tallygate_server.domain.identifier import AccountId, PlanKey, TenantId
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.tables import checkout_sessions

OPEN: Final = "open"
COMPLETE: Final = "complete"
EXPIRED: Final = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckoutSessionRow:
    """A page as stored."""

    provider_session_id: str
    account_id: AccountId
    plan_key: PlanKey
    interval: BillingInterval
    fingerprint: str
    """Of what the page sells and where it leads."""
    state: str
    """`open`, `complete` or `expired`."""
    url: str
    expire_time: datetime
    create_time: datetime


async def read_open_session(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, plan_key: PlanKey
) -> CheckoutSessionRow | None:
    """Return the page of the account and plan that is open as far as is known here, or None."""
    rows = await connection.execute(
        select(checkout_sessions).where(
            checkout_sessions.c.tenant_id == tenant_id,
            checkout_sessions.c.account_id == account_id,
            checkout_sessions.c.plan_key == plan_key,
            checkout_sessions.c.state == OPEN,
        )
    )
    row = rows.one_or_none()
    return _row(row) if row is not None else None


async def add_session(connection: Connection, tenant_id: TenantId, row: CheckoutSessionRow) -> bool:
    """Add a page; False where it is known, in whatever state it is by now."""
    added = await connection.execute(
        insert(checkout_sessions)
        .values(
            tenant_id=tenant_id,
            provider_session_id=row.provider_session_id,
            account_id=row.account_id,
            plan_key=row.plan_key,
            interval=row.interval.value,
            fingerprint=row.fingerprint,
            state=row.state,
            url=row.url,
            expire_time=row.expire_time,
            create_time=row.create_time,
            update_time=row.create_time,
        )
        .on_conflict_do_nothing(index_elements=["tenant_id", "provider_session_id"])
        .returning(checkout_sessions.c.provider_session_id)
    )
    return added.one_or_none() is not None


async def close_checkout_session(
    connection: Connection, tenant_id: TenantId, provider_session_id: str, state: str
) -> None:
    """Record that the page is `complete` or `expired`; one that is closed already, or unknown, stays as it is."""
    assert state in (COMPLETE, EXPIRED)
    await connection.execute(
        update(checkout_sessions)
        .where(
            checkout_sessions.c.tenant_id == tenant_id,
            checkout_sessions.c.provider_session_id == provider_session_id,
            checkout_sessions.c.state == OPEN,
        )
        .values(state=state, update_time=func.now())
    )


def _row(row: Row[Any]) -> CheckoutSessionRow:
    return CheckoutSessionRow(
        provider_session_id=row.provider_session_id,
        account_id=AccountId(row.account_id),
        plan_key=PlanKey(row.plan_key),
        interval=BillingInterval(row.interval),
        fingerprint=row.fingerprint,
        state=row.state,
        url=row.url,
        expire_time=row.expire_time,
        create_time=row.create_time,
    )
