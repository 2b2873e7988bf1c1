"""SQL of the past: what the ledger and the reservations said of a counter at an instant, and the catalog of then."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import func, select, text

from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.period import PeriodKind
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.ledger import CounterKey
from tallygate_server.storage.tables import catalog_revisions, reservations, usage_entries

RECORDED_BEFORE_MAX: Final = timedelta(days=1)
"""An entry is recorded no earlier than this before its period: some minutes, and what clocks differ by."""


_CREDITS: Final = text("""
SELECT c->>0 AS grant_id, c->>1 AS window_start, sum((c->>2)::bigint)::bigint AS quantity,
    COALESCE(sum((c->>2)::bigint) FILTER (
        WHERE e.period_kind = :period_kind AND e.period_start = CAST(:period_start AS timestamptz)
    ), 0)::bigint AS of_counter
FROM usage_entries AS e, jsonb_array_elements(e.credits) AS c
WHERE e.tenant_id = :tenant_id AND e.account_id = :account_id AND e.feature_key = :feature_key
    AND e.credits IS NOT NULL AND jsonb_typeof(e.credits) = 'array'
    AND e.recorded_time <= CAST(:at AS timestamptz) AND e.recorded_time >= CAST(:since AS timestamptz)
GROUP BY 1, 2
""")


async def used_at(connection: Connection, key: CounterKey, at: datetime) -> int:
    """Return the counter's total at the instant: the sum of what was recorded up to it."""
    columns = usage_entries.c
    query = select(func.coalesce(func.sum(columns.quantity), 0)).where(
        columns.tenant_id == key.tenant_id,
        columns.account_id == key.account_id,
        columns.feature_key == key.feature_key,
        columns.period_kind == key.period_kind,
        columns.period_start == key.period_start,
        columns.recorded_time <= at,
    )
    if key.period_kind != PeriodKind.LIFETIME.value:
        # Spares the partitions of the months before.
        query = query.where(columns.recorded_time >= key.period_start - RECORDED_BEFORE_MAX)
    return int((await connection.execute(query)).scalar_one())


async def credits_at(
    connection: Connection, key: CounterKey, since: datetime, at: datetime
) -> tuple[int, dict[tuple[str, datetime], int]]:
    """Return what credits had paid of the counter at the instant, and what each (grant, window) had paid in all.

    `since` is an instant before which none of the credits that matter had begun.
    """
    rows = await connection.execute(
        _CREDITS,
        {
            "tenant_id": key.tenant_id,
            "account_id": key.account_id,
            "feature_key": key.feature_key,
            "period_kind": key.period_kind,
            "period_start": key.period_start,
            "since": min(since, key.period_start) - RECORDED_BEFORE_MAX,
            "at": at,
        },
    )
    credited = 0
    paid: dict[tuple[str, datetime], int] = {}
    for row in rows:
        credited += row.of_counter
        paid[row.grant_id, datetime.fromisoformat(row.window_start)] = row.quantity
    return credited, paid


async def reserved_at(connection: Connection, key: CounterKey, at: datetime) -> int:
    """Return what reservations held of the counter at the instant."""
    columns = reservations.c
    query = select(func.coalesce(func.sum(columns.quantity), 0)).where(
        columns.tenant_id == key.tenant_id,
        columns.account_id == key.account_id,
        columns.feature_key == key.feature_key,
        columns.period_kind == key.period_kind,
        columns.period_start == key.period_start,
        columns.create_time <= at,
        columns.expire_time > at,
        columns.close_time.is_(None) | (columns.close_time > at),
    )
    return int((await connection.execute(query)).scalar_one())


async def catalog_at(connection: Connection, tenant_id: TenantId, at: datetime) -> tuple[int, str]:
    """Return the revision and the source of the tenant's catalog in force at the instant; (0, "") for none."""
    columns = catalog_revisions.c
    query = (
        select(columns.revision, columns.source)
        .where(columns.tenant_id == tenant_id, columns.create_time <= at)
        .order_by(columns.revision.desc())
        .limit(1)
    )
    row = (await connection.execute(query)).one_or_none()
    return (row.revision, row.source) if row is not None else (0, "")
