"""SQL that takes raw usage out of the ledger's partitions, and keeps what it came to. Under the lifecycle's role.

Lines, events and denials never change once they are written, so those that are read are those that are deleted; the
count and a hash over them are compared all the same.
"""

from __future__ import annotations

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
    """Some of the oldest raw usage of an account: all that was recorded before an instant, up to a key."""

    source: UsageSource
    tenant_id: TenantId
    account_id: AccountId
    before: datetime
    last_key: int
    row_count: int
    row_hash: int
    """All rows' hashes, one upon the other."""


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


async def read_rows(
    connection: Connection,
    source: UsageSource,
    tenant_id: TenantId,
    account_id: AccountId,
    *,
    before: datetime,
    limit: int,
    bytes_max: int,
) -> bytes:
    """Return the account's oldest rows of before the instant, at most so many, as CSV with a header.

    Beside `recorded_time` and the source's columns a row has its hash (`row_hash`) and, as 0 or 1, whether it is not in
    the rollups yet (`waits`). Rows end after the one with which so many bytes are reached. As text, and not as values:
    what makes millions of them holds up whoever answers calls in this process.
    """
    names = ", ".join(f"e.{column.name}" for column in source.columns)
    waits = "false"
    if source.rolled_up_as:
        waits = (
            "COALESCE(e.commit_xid >= p.next_xid OR e.commit_xid IS NULL AND e.recorded_time >= p.next_recorded_time,"
            " false)"
        )
    chunks: list[bytes] = []

    async def take(chunk: bytes) -> None:
        chunks.append(chunk)

    raw = await connection.get_raw_connection()
    assert raw.driver_connection is not None
    await raw.driver_connection.copy_from_query(
        f"""
        SELECT e.recorded_time, {waits}::int AS waits, hashtextextended(row_text, 0) AS row_hash, {names}
        FROM (
            SELECT *, sum(octet_length(row_text)) OVER (ORDER BY {source.key}) - octet_length(row_text) AS bytes_before
            FROM (
                SELECT *, u::text AS row_text FROM {source.table.name} AS u
                WHERE tenant_id = $1 AND account_id = $2 AND recorded_time < $3 ORDER BY {source.key} LIMIT $4
            ) AS oldest
        ) AS e
        LEFT JOIN usage_rollup_progress AS p ON p.source = '{source.rolled_up_as}'
        WHERE bytes_before < $5
        ORDER BY e.{source.key}
        """,  # noqa: S608 - names of our own.
        tenant_id,
        account_id,
        before,
        limit,
        bytes_max,
        output=take,
        format="csv",
        header=True,
    )
    return b"".join(chunks)


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
SELECT count(*), COALESCE(bit_xor(row_hash), 0) FROM gone
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
    return tuple(found.one()) == (batch.row_count, batch.row_hash)


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
