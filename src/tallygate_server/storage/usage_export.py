"""SQL that takes raw usage out of the ledger's partitions, and keeps what it came to. Under the lifecycle's role.

Lines, events and denials never change once they are written, so those that are read are those that are deleted; the
count and a hash over them are compared all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import BigInteger, DateTime, Integer, SmallInteger, Table, Text, text
from sqlalchemy.dialects.postgresql import JSONB

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import ColumnType, DataColumn
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.tables import usage_denials, usage_entries, usage_events

USAGE_ENTRY: Final = "usage_entry"
ROWS_PER_FETCH: Final = 2_000
"""Rows that are turned into values between two turns of the event loop."""
_OF_THE_DATASET: Final = frozenset({"tenant_id", "account_id", "recorded_time"})
"""Columns that a record has anyway: whose it is, and its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSource:
    """A partitioned table of raw usage, and the data type of its rows as records."""

    data_type: str
    table: Table
    key: str
    """Column of ids that rise with time."""
    rolled_up_as: str = ""
    """Name of its progress row; empty for what is not summed up."""

    @property
    def columns(self) -> tuple[DataColumn, ...]:
        """Return what a record holds beside its time; JSON is text as Postgres writes it, so numbers are exact."""
        return tuple(
            DataColumn(name=column.name, type=_type_of(column.type), nullable=bool(column.nullable))
            for column in self.table.c
            if column.name not in _OF_THE_DATASET
        )


SOURCES: Final = (
    UsageSource(data_type=USAGE_ENTRY, table=usage_entries, key="entry_id", rolled_up_as="entries"),
    UsageSource(data_type="usage_event", table=usage_events, key="event_key", rolled_up_as="events"),
    # After the lines: a reversal of a line looks at the denials that came after it.
    UsageSource(data_type="usage_denial", table=usage_denials, key="entry_id"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageBatch:
    """The oldest raw usage of an account."""

    source: UsageSource
    tenant_id: TenantId
    account_id: AccountId
    before: datetime
    times: Sequence[datetime]
    values: Mapping[str, Sequence[Any]]
    """By column."""
    last_key: int
    hashes: int
    """All rows' hashes, added up."""
    rolled_up: bool
    """Whether all of them are in the rollups, so that sums can do without them."""

    @property
    def row_count(self) -> int:
        """How many rows there are."""
        return len(self.times)


async def retentions(connection: Connection) -> dict[TenantId, timedelta]:
    """Return how long each tenant that says so keeps raw usage; in a transaction that sees all tenants."""
    rows = await connection.execute(
        text(
            "SELECT tenant_id, (settings ->> 'usage_retention_days')::int FROM tenants"
            " WHERE (settings ->> 'usage_retention_days')::int > 0 ORDER BY tenant_id"
        )
    )
    return {TenantId(row[0]): timedelta(days=row[1]) for row in rows}


async def next_account(
    connection: Connection, source: UsageSource, tenant_id: TenantId, *, after: str, before: datetime
) -> AccountId | None:
    """Return the next account by id that has rows recorded before the instant."""
    found = await connection.execute(
        text(
            f"SELECT account_id FROM {source.table.name}"  # noqa: S608 - names of our own.
            " WHERE tenant_id = :tenant_id AND account_id > :after AND recorded_time < :before"
            " ORDER BY account_id LIMIT 1"
        ),
        {"tenant_id": tenant_id, "after": after, "before": before},
    )
    return found.scalar_one_or_none()


async def count_rows(connection: Connection, source: UsageSource, tenant_id: TenantId, *, before: datetime) -> int:
    """Return how many rows of the tenant were recorded before the instant."""
    found = await connection.execute(
        text(f"SELECT count(*) FROM {source.table.name} WHERE tenant_id = :tenant_id AND recorded_time < :before"),  # noqa: S608
        {"tenant_id": tenant_id, "before": before},
    )
    return int(found.scalar_one())


async def read_batch(
    connection: Connection,
    source: UsageSource,
    tenant_id: TenantId,
    account_id: AccountId,
    *,
    before: datetime,
    limit: int,
) -> UsageBatch | None:
    """Return the account's oldest rows that were recorded before the instant, at most so many; None for none."""
    names = [column.name for column in source.columns]
    selected = ", ".join(
        f"{name}::text AS {name}" if isinstance(source.table.c[name].type, JSONB) else name for name in names
    )
    waits = "false"
    if source.rolled_up_as:
        waits = (
            "(SELECT e.commit_xid >= p.next_xid OR e.commit_xid IS NULL AND e.recorded_time >= p.next_recorded_time"  # noqa: S608 - names of our own.
            f" FROM usage_rollup_progress AS p WHERE p.source = '{source.rolled_up_as}')"
        )
    rows = await connection.stream(
        text(
            f"SELECT recorded_time, COALESCE({waits}, false), hashtextextended(e::text, 0), {selected}"  # noqa: S608
            f" FROM {source.table.name} AS e"
            " WHERE tenant_id = :tenant_id AND account_id = :account_id AND recorded_time < :before"
            f" ORDER BY {source.key} LIMIT :limit"
        ),
        {"tenant_id": tenant_id, "account_id": account_id, "before": before, "limit": limit},
        execution_options={"yield_per": ROWS_PER_FETCH},
    )
    found: list[tuple[Any, ...]] = []
    async for page in rows.partitions():
        found += [tuple(row) for row in page]
    if not found:
        return None
    times, waiting, hashes, *values = zip(*found, strict=True)
    by_name = dict(zip(names, values, strict=True))
    return UsageBatch(
        source=source,
        tenant_id=tenant_id,
        account_id=account_id,
        before=before,
        times=times,
        values=by_name,
        last_key=by_name[source.key][-1],
        hashes=sum(hashes),
        rolled_up=not any(waiting),
    )


_KEEP_SUMS: Final = """,
summed AS (
    INSERT INTO exported_usage_sums AS s (
        tenant_id, account_id, feature_key, period_kind, period_start, quantity, credited_quantity, entry_count,
        last_recorded_time, last_entry_id, last_used_after
    )
    SELECT tenant_id, account_id, feature_key, period_kind, period_start, sum(quantity)::bigint,
        COALESCE(sum((
            SELECT sum((credit ->> 2)::bigint) FROM jsonb_array_elements(credits) AS credit
        )), 0)::bigint,
        count(*), max(recorded_time), (array_agg(entry_id ORDER BY recorded_time DESC, entry_id DESC))[1],
        (array_agg(used_after ORDER BY recorded_time DESC, entry_id DESC))[1]
    FROM gone
    GROUP BY tenant_id, account_id, feature_key, period_kind, period_start
    ON CONFLICT (tenant_id, account_id, feature_key, period_kind, period_start) DO UPDATE SET
        quantity = s.quantity + excluded.quantity,
        credited_quantity = s.credited_quantity + excluded.credited_quantity,
        entry_count = s.entry_count + excluded.entry_count,
        (last_recorded_time, last_entry_id, last_used_after) = (
            SELECT CASE WHEN newer THEN excluded.last_recorded_time ELSE s.last_recorded_time END,
                CASE WHEN newer THEN excluded.last_entry_id ELSE s.last_entry_id END,
                CASE WHEN newer THEN excluded.last_used_after ELSE s.last_used_after END
            FROM (
                SELECT (excluded.last_recorded_time, excluded.last_entry_id)
                    > (s.last_recorded_time, s.last_entry_id) AS newer
            ) AS compared
        )
),
credited AS (
    INSERT INTO exported_credit_sums AS s (
        tenant_id, account_id, feature_key, grant_id, window_start, period_kind, period_start, quantity
    )
    SELECT tenant_id, account_id, feature_key, credit ->> 0, (credit ->> 1)::timestamptz, period_kind, period_start,
        sum((credit ->> 2)::bigint)::bigint
    FROM gone, jsonb_array_elements(credits) AS credit
    WHERE credits IS NOT NULL
    GROUP BY 1, 2, 3, 4, 5, 6, 7
    ON CONFLICT (tenant_id, account_id, feature_key, grant_id, window_start, period_kind, period_start)
    DO UPDATE SET quantity = s.quantity + excluded.quantity
)"""


async def take_out(connection: Connection, batch: UsageBatch) -> bool:
    """Delete the rows of a batch and keep what they came to; False where they are not what they were.

    Then the transaction must not commit.
    """
    source = batch.source
    table, keep_sums = source.table.name, _KEEP_SUMS if source.data_type == USAGE_ENTRY else ""
    found = await connection.execute(
        text(
            f"""
WITH gone AS (
    DELETE FROM {table} AS e
    WHERE tenant_id = :tenant_id AND account_id = :account_id AND recorded_time < :before AND {source.key} <= :last_key
    RETURNING e.*, hashtextextended(e::text, 0) AS row_hash
){keep_sums},
noted AS (
    INSERT INTO usage_exports AS x (tenant_id, account_id, data_type, record_count, last_recorded_time)
    SELECT tenant_id, account_id, :data_type, count(*), max(recorded_time) FROM gone GROUP BY tenant_id, account_id
    ON CONFLICT (tenant_id, account_id, data_type) DO UPDATE SET
        record_count = x.record_count + excluded.record_count,
        last_recorded_time = GREATEST(x.last_recorded_time, excluded.last_recorded_time)
)
SELECT count(*), COALESCE(sum(row_hash), 0)::numeric FROM gone
"""  # noqa: S608 - names of our own.
        ),
        {
            "tenant_id": batch.tenant_id,
            "account_id": batch.account_id,
            "before": batch.before,
            "last_key": batch.last_key,
            "data_type": source.data_type,
        },
    )
    count, hashes = found.one()
    return (int(count), int(hashes)) == (batch.row_count, batch.hashes)


async def last_exported_time(connection: Connection, tenant_id: TenantId, data_type: str) -> datetime | None:
    """Return when the newest of the tenant's exported rows was recorded; None where none was exported."""
    found = await connection.execute(
        text(
            "SELECT max(last_recorded_time) FROM usage_exports WHERE tenant_id = :tenant_id AND data_type = :data_type"
        ),
        {"tenant_id": tenant_id, "data_type": data_type},
    )
    latest: datetime | None = found.scalar_one()
    return latest


def _type_of(kind: Any) -> ColumnType:
    if isinstance(kind, BigInteger | Integer | SmallInteger):
        return ColumnType.INT64
    if isinstance(kind, DateTime):
        return ColumnType.TIMESTAMP
    assert isinstance(kind, Text | JSONB), f"{kind} has no counterpart in records"
    return ColumnType.STRING
