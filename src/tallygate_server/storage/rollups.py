"""SQL that turns the ledger and recorded events into rollups, exactly once each.

Rows are taken in the order of the transactions that wrote them. A transaction before the oldest one that is still under
way (`pg_snapshot_xmin`) has ended, so its rows are all there, and no more will come; a clock, or a sequence, could not
say that of any row. What is added to rollups and how far it went is one transaction, and the row of progress is locked
first, so that two who do this at once take turns.

Works as `tallygate_meter`, across tenants.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import asyncpg
import structlog

from tallygate_server.storage.engine import CONNECTION_ERRORS, DatabaseRole, connect

log = structlog.get_logger(__name__)

BATCH_ROWS: Final = 250_000
"""Rows after which a batch ends, at the end of a transaction: one that wrote more is taken in one piece."""

STATEMENT_TIMEOUT_MS: Final = 1_800_000
"""Many million rows of one transaction, such as an import, take minutes."""

_WORK_MEM: Final = "32MB"
"""Memory of Postgres for each step of grouping; what needs more goes to disk."""


class RollupSource(Enum):
    """What is rolled up; the values are stored."""

    ENTRIES = "entries"
    EVENTS = "events"


class RollupsDown(Exception):
    """Postgres could not be asked, or went away: the batch was rolled up wholly or not at all."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one batch did."""

    rows: int
    """Lines of the ledger, or readings and costs of events, that went in."""
    finished: bool
    """Whether nothing was left that could be rolled up."""


_EPOCH: Final = "timestamptz '1970-01-01 00:00:00+00'"

# Every source gives the same columns: whose usage, how much of what, when. A value is text where different values are
# counted; then the quantity is 0.
_READINGS: Final = {
    RollupSource.ENTRIES: """
        SELECT e.tenant_id, 'feature' AS subject, e.feature_key AS subject_key, e.account_id,
            COALESCE(e.dimensions, '{{}}'::jsonb) AS dimensions, e.event_time, e.entry_id AS key, e.quantity,
            NULL::text AS value
        FROM usage_entries AS e
        WHERE {rows}
    """,
    RollupSource.EVENTS: """
        SELECT e.tenant_id, 'meter' AS subject, m.meter AS subject_key, e.account_id,
            COALESCE(m.dimensions, '{{}}'::jsonb) AS dimensions, e.event_time, e.event_key AS key,
            CASE WHEN jsonb_typeof(m.value) = 'number' THEN m.value::bigint ELSE 0 END AS quantity,
            CASE WHEN jsonb_typeof(m.value) = 'string' THEN m.value #>> '{{}}' END AS value
        FROM usage_events AS e
        CROSS JOIN LATERAL jsonb_to_recordset(e.readings) AS m(meter text, value jsonb, dimensions jsonb)
        WHERE {rows}
        UNION ALL
        SELECT e.tenant_id, 'ai_cost', '', e.account_id,
            jsonb_build_object(
                'currency_code', e.cost_currency_code,
                'model', COALESCE(e.ai ->> 'model_key', ''),
                'operation', COALESCE(e.ai ->> 'operation', '')
            ),
            e.event_time, e.event_key, e.cost_nanos, NULL
        FROM usage_events AS e
        WHERE {rows} AND e.cost_currency_code <> ''
    """,
}
_TABLE: Final = {RollupSource.ENTRIES: "usage_entries", RollupSource.EVENTS: "usage_events"}

# Which rows of the source a batch takes, and under which numbers of transactions they are found again.
_BY_TRANSACTION: Final = "e.commit_xid >= $1::bigint AND e.commit_xid < $2::bigint"
_WITHOUT_TRANSACTION: Final = (
    "e.commit_xid IS NULL AND e.recorded_time >= $1::timestamptz AND e.recorded_time < $2::timestamptz"
)

# What only meters have; the ledger's sums are all that a feature is asked for.
_EXTREMES: Final = {
    RollupSource.ENTRIES: """
        NULL::bigint AS min_quantity, NULL::bigint AS max_quantity, NULL::timestamptz AS latest_time,
        NULL::bigint AS latest_key, NULL::bigint AS latest_quantity""",
    RollupSource.EVENTS: """
        min(quantity) AS min_quantity, max(quantity) AS max_quantity, max(event_time) AS latest_time,
        (array_agg(key ORDER BY event_time DESC, key DESC))[1] AS latest_key,
        (array_agg(quantity ORDER BY event_time DESC, key DESC))[1] AS latest_quantity""",
}
_EXTREMES_AGAIN: Final = {
    RollupSource.ENTRIES: """
        NULL::bigint AS min_quantity, NULL::bigint AS max_quantity, NULL::timestamptz AS latest_time,
        NULL::bigint AS latest_key, NULL::bigint AS latest_quantity""",
    RollupSource.EVENTS: """
        min(min_quantity) AS min_quantity, max(max_quantity) AS max_quantity, max(latest_time) AS latest_time,
        (array_agg(latest_key ORDER BY latest_time DESC, latest_key DESC))[1] AS latest_key,
        (array_agg(latest_quantity ORDER BY latest_time DESC, latest_key DESC))[1] AS latest_quantity""",
}


def _coarser(source: RollupSource, finer: str, minutes: int, series: str = "series_id") -> str:
    return f"""
    SELECT tenant_id, {series} AS series_id, date_bin('{minutes} minutes', start_time, {_EPOCH}) AS start_time,
        sum(event_count)::bigint AS event_count, sum(quantity) AS quantity, {_EXTREMES_AGAIN[source]}
    FROM {finer}
    GROUP BY tenant_id, {series}, date_bin('{minutes} minutes', start_time, {_EPOCH})"""  # noqa: S608 - parts of our own.


_XIDS: Final = {
    _BY_TRANSACTION: "int8multirange(int8range($1::bigint, $2::bigint))",
    # No transaction has such a number: it says that the rows have none.
    _WITHOUT_TRANSACTION: "int8multirange(int8range(-1, 0))",
}
RANGES_MAX: Final = 32
"""Ranges of transactions that a minute remembers; stragglers beyond that make one wide range of them."""

_OWNER_COLUMNS: Final = "tenant_id, subject, subject_key, account_id, dimensions"
_DIGEST: Final = "sha256(convert_to(dimensions::text, 'UTF8'))"
_SAME_SERIES: Final = "(s.tenant_id, s.subject, s.subject_key, s.digest, s.account_id)"


def _make_series(source: RollupSource, rows: str) -> str:
    """Return the statement that makes the series that the chosen rows belong to, where they are missing."""
    return f"""
WITH owner AS MATERIALIZED (
    SELECT DISTINCT {_OWNER_COLUMNS} FROM ({_READINGS[source].format(rows=rows)}) AS reading
),
wanted AS MATERIALIZED (
    SELECT *, {_DIGEST} AS digest
    FROM (
        SELECT {_OWNER_COLUMNS} FROM owner
        UNION
        SELECT tenant_id, subject, subject_key, '', dimensions FROM owner
    ) AS u
)
INSERT INTO usage_series (tenant_id, subject, subject_key, account_id, digest, dimensions)
SELECT w.tenant_id, w.subject, w.subject_key, w.account_id, w.digest, w.dimensions
FROM wanted AS w
LEFT JOIN LATERAL (
    SELECT s.series_id FROM usage_series AS s
    WHERE {_SAME_SERIES} = (w.tenant_id, w.subject, w.subject_key, w.digest, w.account_id)
    OFFSET 0
) AS s ON true
WHERE s.series_id IS NULL
"""  # noqa: S608 - parts of our own.


def _roll_up(source: RollupSource, rows: str) -> str:
    """Return the statement that adds the chosen rows, whose series are there, to the rollups.

    Grouping goes from fine to coarse, so that each row of the source is looked at once. A series is looked up by a
    subquery of its own: no plan then reads all series to find a few.
    """
    return f"""
WITH reading AS ({_READINGS[source].format(rows=rows)}),
fine AS MATERIALIZED (
    SELECT {_OWNER_COLUMNS}, date_bin('1 minute', event_time, {_EPOCH}) AS start_time,
        count(*) AS event_count, sum(quantity) AS quantity, {_EXTREMES[source]}
    FROM reading
    GROUP BY {_OWNER_COLUMNS}, date_bin('1 minute', event_time, {_EPOCH})
),
owner AS MATERIALIZED (
    SELECT o.*, own.series_id, shared.series_id AS shared_series_id
    FROM (
        SELECT {_OWNER_COLUMNS}, {_DIGEST} AS digest
        FROM (SELECT DISTINCT {_OWNER_COLUMNS} FROM fine) AS d
    ) AS o
    CROSS JOIN LATERAL (
        SELECT s.series_id FROM usage_series AS s
        WHERE {_SAME_SERIES} = (o.tenant_id, o.subject, o.subject_key, o.digest, o.account_id)
        OFFSET 0
    ) AS own
    CROSS JOIN LATERAL (
        SELECT s.series_id FROM usage_series AS s
        WHERE {_SAME_SERIES} = (o.tenant_id, o.subject, o.subject_key, o.digest, '')
        OFFSET 0
    ) AS shared
),
placed AS MATERIALIZED (
    SELECT tenant_id, series_id, shared_series_id, {_NUMBERS}
    FROM fine
    JOIN owner USING ({_OWNER_COLUMNS})
),
own_15 AS MATERIALIZED ({_coarser(source, "placed", 15)}),
own_1440 AS ({_coarser(source, "own_15", 1440)}),
shared_1 AS MATERIALIZED ({_coarser(source, "placed", 1, "shared_series_id")}),
shared_15 AS MATERIALIZED ({_coarser(source, "shared_1", 15)}),
shared_1440 AS ({_coarser(source, "shared_15", 1440)}),
every AS (
    SELECT tenant_id, series_id, 1 AS minutes, start_time, event_count, quantity, min_quantity, max_quantity,
        latest_time, latest_key, latest_quantity, NULL::int8multirange AS xids
    FROM placed
    UNION ALL SELECT tenant_id, series_id, 15, {_NUMBERS}, NULL FROM own_15
    UNION ALL SELECT tenant_id, series_id, 1440, {_NUMBERS}, NULL FROM own_1440
    UNION ALL SELECT tenant_id, series_id, 1, {_NUMBERS}, {_XIDS[rows]} FROM shared_1
    UNION ALL SELECT tenant_id, series_id, 15, {_NUMBERS}, NULL FROM shared_15
    UNION ALL SELECT tenant_id, series_id, 1440, {_NUMBERS}, NULL FROM shared_1440
),
written AS (
    INSERT INTO usage_rollups AS r (tenant_id, series_id, minutes, {_NUMBERS}, xids)
    SELECT tenant_id, series_id, minutes, {_NUMBERS}, xids FROM every
    ORDER BY series_id, minutes, start_time
    ON CONFLICT (tenant_id, series_id, minutes, start_time) DO UPDATE
    SET event_count = r.event_count + EXCLUDED.event_count,
        quantity = r.quantity + EXCLUDED.quantity,
        min_quantity = LEAST(r.min_quantity, EXCLUDED.min_quantity),
        max_quantity = GREATEST(r.max_quantity, EXCLUDED.max_quantity),
        latest_time = GREATEST(r.latest_time, EXCLUDED.latest_time),
        latest_key = CASE
            WHEN (EXCLUDED.latest_time, EXCLUDED.latest_key) > (r.latest_time, r.latest_key)
            THEN EXCLUDED.latest_key ELSE r.latest_key END,
        latest_quantity = CASE
            WHEN (EXCLUDED.latest_time, EXCLUDED.latest_key) > (r.latest_time, r.latest_key)
            THEN EXCLUDED.latest_quantity ELSE r.latest_quantity END,
        -- Batches follow each other without gaps, so that those of one minute's own time make one range.
        xids = CASE
            WHEN (SELECT count(*) FROM unnest(r.xids + EXCLUDED.xids)) > {RANGES_MAX}
            THEN int8multirange(range_merge(r.xids + EXCLUDED.xids)) ELSE r.xids + EXCLUDED.xids END
)
SELECT (SELECT COALESCE(sum(event_count), 0) FROM fine)::bigint,
    (SELECT COALESCE(sum(event_count), 0) FROM placed)::bigint
"""  # noqa: S608 - parts of our own.


_NUMBERS: Final = (
    "start_time, event_count, quantity, min_quantity, max_quantity, latest_time, latest_key, latest_quantity"
)

_KEEP_VALUES: Final = f"""
INSERT INTO usage_rollup_values (tenant_id, series_id, minutes, start_time, value)
SELECT DISTINCT v.tenant_id, s.series_id, b.minutes, date_bin(make_interval(mins => b.minutes), v.start_time, {_EPOCH}),
    v.value
FROM (
    SELECT DISTINCT tenant_id, subject, subject_key, account_id,
        sha256(convert_to(dimensions::text, 'UTF8')) AS digest,
        date_bin('1 minute', event_time, {_EPOCH}) AS start_time, value
    FROM ({_READINGS[RollupSource.EVENTS].format(rows=_BY_TRANSACTION)}) AS reading
    WHERE value IS NOT NULL
) AS v
CROSS JOIN LATERAL (
    SELECT s.series_id FROM usage_series AS s
    WHERE (s.tenant_id, s.subject, s.subject_key, s.digest) = (v.tenant_id, v.subject, v.subject_key, v.digest)
        AND s.account_id IN (v.account_id, '')
    OFFSET 0
) AS s
CROSS JOIN (VALUES (1), (15), (1440)) AS b(minutes)
ON CONFLICT DO NOTHING
"""  # noqa: S608 - parts of our own.


def _oldest_day(source: RollupSource) -> str:
    """Return the statement that finds the first day, by time of recording, with rows that name no transaction."""
    return f"""
SELECT GREATEST(d, next_recorded_time), d + interval '1 day'
FROM usage_rollup_progress
CROSS JOIN LATERAL (
    SELECT date_bin('1 day', min(e.recorded_time), {_EPOCH}) FROM {_TABLE[source]} AS e
    WHERE e.commit_xid IS NULL AND e.recorded_time >= next_recorded_time
) AS t(d)
WHERE source = $1 AND d IS NOT NULL
"""  # noqa: S608 - names of our own.


_READ_PROGRESS: Final = "SELECT next_xid, next_recorded_time IS NOT NULL FROM usage_rollup_progress WHERE source = $1"
_LOCK_PROGRESS: Final = _READ_PROGRESS + " FOR UPDATE"
_HORIZON: Final = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"


class Rollups:
    """A connection of the meter role, with time for large batches; opened when it is first needed."""

    def __init__(self, database_url: str, *, batch_rows: int = BATCH_ROWS) -> None:
        """Prepare; nothing is opened yet."""
        self._url = database_url
        self._batch_rows = batch_rows
        self._connection: asyncpg.Connection | None = None

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            connection.terminate()

    async def advance(self, source: RollupSource) -> Batch:
        """Roll up one batch of what is final; raises RollupsDown."""
        try:
            connection = await self._connected()
            progress = await connection.fetchrow(_READ_PROGRESS, source.value)
            assert progress is not None, "the migration makes a row for each source"
            if not progress[1] and not await self._any(connection, source, progress[0]):
                return Batch(0, finished=True)
            async with connection.transaction():
                next_xid, has_older = await connection.fetchrow(_LOCK_PROGRESS, source.value)
                if has_older:
                    return await self._roll_up_older(connection, source)
                return await self._roll_up_newer(connection, source, next_xid)
        except CONNECTION_ERRORS as error:
            await self.close()
            raise RollupsDown(str(error)) from error
        except BaseException:
            # Also a cancelled statement leaves a connection that nobody should wait for.
            await self.close()
            raise

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(
                self._url,
                DatabaseRole.METER,
                statement_timeout=str(STATEMENT_TIMEOUT_MS),
                work_mem=_WORK_MEM,
                # Sizes of intermediate results cannot be known: a loop over what is not small never ends.
                enable_nestloop="off",
                enable_mergejoin="off",
                plan_cache_mode="force_custom_plan",
            )
        return self._connection

    async def _any(self, connection: asyncpg.Connection, source: RollupSource, next_xid: int) -> bool:
        """Tell whether there is anything to do: most looks find nothing, and should write nothing."""
        horizon: int = await connection.fetchval(_HORIZON)
        if horizon < next_xid:
            # A dump of another cluster: numbers of transactions begin anew here. Queries are refused.
            log.error("rollups_of_another_cluster")
        found: bool = await connection.fetchval(
            f"SELECT EXISTS (SELECT FROM {_TABLE[source]} AS e WHERE {_BY_TRANSACTION})",  # noqa: S608
            next_xid,
            horizon,
        )
        return found

    async def _roll_up_newer(self, connection: asyncpg.Connection, source: RollupSource, next_xid: int) -> Batch:
        """Roll up the rows of whole transactions, from the next one to at most the oldest that has not ended."""
        horizon: int = await connection.fetchval(_HORIZON)
        if horizon <= next_xid:
            return Batch(0, finished=True)
        beyond: int | None = await connection.fetchval(
            f"SELECT e.commit_xid FROM {_TABLE[source]} AS e WHERE {_BY_TRANSACTION}"  # noqa: S608
            " ORDER BY e.commit_xid OFFSET $3 LIMIT 1",
            next_xid,
            horizon,
            self._batch_rows,
        )
        until = horizon if beyond is None else max(beyond, next_xid + 1)
        rows = await _add(connection, source, _BY_TRANSACTION, next_xid, until)
        if source is RollupSource.EVENTS:
            await connection.execute(_KEEP_VALUES, next_xid, until)
        await connection.execute(
            "UPDATE usage_rollup_progress SET next_xid = $2 WHERE source = $1", source.value, until
        )
        return Batch(rows, finished=until == horizon)

    async def _roll_up_older(self, connection: asyncpg.Connection, source: RollupSource) -> Batch:
        """Roll up rows of the first releases, which do not say who wrote them: no more of them come. Day by day."""
        rows = 0
        day = await connection.fetchrow(_oldest_day(source), source.value)
        if day is not None:
            rows = await _add(connection, source, _WITHOUT_TRANSACTION, *day)
        await connection.execute(
            "UPDATE usage_rollup_progress SET next_recorded_time = $2 WHERE source = $1",
            source.value,
            day[1] if day is not None else None,
        )
        return Batch(rows, finished=False)


async def _add(connection: asyncpg.Connection, source: RollupSource, rows: str, first: Any, beyond: Any) -> int:
    """Add the chosen rows to the rollups; return how many there were."""
    await connection.execute(_make_series(source, rows), first, beyond)
    found, placed = await connection.fetchrow(_roll_up(source, rows), first, beyond)
    assert found == placed, "every row has its series: they were made in this very transaction"
    count: int = found
    return count
