"""SQL of the past: what the ledger and the reservations said of a counter at an instant, and the catalog of then."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sqlalchemy import func, select, text

from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.period import PeriodKind
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.ledger import CounterKey
from tallygate_server.storage.tables import catalog_revisions, exported_usage_sums, reservations, usage_entries

RECORDED_BEFORE_MAX: Final = timedelta(days=1)
"""An entry is recorded no earlier than this before its period: some minutes, and what clocks differ by."""


# What was exported counts as a whole: it is older than anything that can still be told apart.
_CREDITS: Final = text("""
SELECT grant_id, window_start, sum(quantity)::bigint AS quantity,
    COALESCE(sum(quantity) FILTER (
        WHERE period_kind = :period_kind AND period_start = CAST(:period_start AS timestamptz)
    ), 0)::bigint AS of_counter
FROM (
    SELECT c->>0 AS grant_id, (c->>1)::timestamptz AS window_start, (c->>2)::bigint AS quantity, e.period_kind,
        e.period_start
    FROM usage_entries AS e, jsonb_array_elements(e.credits) AS c
    WHERE e.tenant_id = :tenant_id AND e.account_id = :account_id AND e.feature_key = :feature_key
        AND e.credits IS NOT NULL AND jsonb_typeof(e.credits) = 'array'
        AND e.recorded_time <= CAST(:at AS timestamptz) AND e.recorded_time >= CAST(:since AS timestamptz)
    UNION ALL
    SELECT grant_id, window_start, quantity, period_kind, period_start
    FROM exported_credit_sums
    WHERE tenant_id = :tenant_id AND account_id = :account_id AND feature_key = :feature_key
) AS paid
GROUP BY grant_id, window_start
""")


class UsedAt(NamedTuple):
    """A counter's total at an instant."""

    quantity: int
    complete: bool
    """Whether it is certain: of what was exported only the whole is known, not when each part came."""


async def used_at(connection: Connection, key: CounterKey, at: datetime) -> UsedAt:
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
    counted = int((await connection.execute(query)).scalar_one())
    sums = exported_usage_sums.c
    exported = (
        await connection.execute(
            select(sums.quantity, sums.last_recorded_time).where(
                sums.tenant_id == key.tenant_id,
                sums.account_id == key.account_id,
                sums.feature_key == key.feature_key,
                sums.period_kind == key.period_kind,
                sums.period_start == key.period_start,
            )
        )
    ).one_or_none()
    if exported is None:
        return UsedAt(counted, complete=True)
    return UsedAt(counted + exported.quantity, complete=exported.last_recorded_time <= at)


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
        paid[row.grant_id, row.window_start] = row.quantity
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
