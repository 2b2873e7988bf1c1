"""A ledger made in SQL, to measure with: a month of one feature, in the order of time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from tallygate_server.storage.engine import DatabaseRole, connect

TRANSACTION_ENTRIES: Final = 100_000
SCAN_TIMEOUT_MS: Final = 600_000

# Skewed as real usage is: the square of a number between 0 and 1 favours the first accounts and values.
_WRITE: Final = """
INSERT INTO usage_entries (
    tenant_id, account_id, entry_id, recorded_time, feature_key, period_kind, period_start, quantity, used_after,
    limit_quantity, event_time, dimensions
)
SELECT $1, 'account-' || floor(power(random(), 2) * $3::int)::int, $9::bigint + i, t, $2, 'm', $4,
    1 + floor(random() * 2000)::int, 0, -1, t - random() * interval '2 seconds',
    jsonb_build_object($5::text, ($6::text[])[1 + floor(power(random(), 2) * cardinality($6))::int])
FROM (
    SELECT i, $4::timestamptz + lag + ($10::timestamptz - $4 - lag) * ((i + random()) / $8::float) AS t
    FROM generate_series($7::bigint, LEAST($7 + $11, $8) - 1) AS i
    CROSS JOIN (VALUES (interval '2 seconds')) AS l(lag)
) AS moments
"""

_SCAN: Final = """
SELECT date_trunc('day', event_time) AS day, dimensions ->> $5 COLLATE "C" AS value, sum(quantity)::bigint, count(*)
FROM usage_entries
WHERE tenant_id = $1 AND feature_key = $2 AND event_time >= $3 AND event_time < $4
GROUP BY 1, 2
ORDER BY 1, 2
"""


class SyntheticLedger:
    """Entries of one tenant and feature, with one dimension."""

    def __init__(
        self,
        database_url: str,
        *,
        tenant_id: str,
        feature_key: str,
        dimension: str,
        values: Sequence[str],
        accounts: int,
    ) -> None:
        """Prepare; the tables are there already."""
        self._url = database_url
        self._tenant_id = tenant_id
        self._feature_key = feature_key
        self._dimension = dimension
        self._values = list(values)
        self._accounts = accounts
        self._written = 0

    async def write(self, entries: int, start: datetime, end: datetime) -> float:
        """Write entries over the time, several transactions of them; return the seconds that it took."""
        began_s = time.perf_counter()
        connection = await connect(self._url, DatabaseRole.METER, statement_timeout=str(SCAN_TIMEOUT_MS))
        try:
            for first in range(0, entries, TRANSACTION_ENTRIES):
                await connection.execute(
                    _WRITE,
                    self._tenant_id,
                    self._feature_key,
                    self._accounts,
                    start,
                    self._dimension,
                    self._values,
                    first,
                    entries,
                    self._written,
                    end,
                    TRANSACTION_ENTRIES,
                )
        finally:
            await connection.close()
        self._written += entries
        return time.perf_counter() - began_s

    async def analyze(self) -> None:
        """Do what autovacuum does after a while."""
        connection = await connect(self._url)
        try:
            await connection.execute("VACUUM ANALYZE usage_entries")
            await connection.execute("VACUUM ANALYZE usage_series")
            await connection.execute("VACUUM ANALYZE usage_rollups")
        finally:
            await connection.close()

    async def scan(self, start: datetime, end: datetime) -> list[tuple[datetime, str, int, int]]:
        """Sum up the raw rows by day and value, as the application sees them: day, value, quantity, lines."""
        connection = await connect(
            self._url,
            DatabaseRole.APP,
            statement_timeout=str(SCAN_TIMEOUT_MS),
            **{"tallygate.tenant_id": self._tenant_id},
        )
        try:
            rows = await connection.fetch(_SCAN, self._tenant_id, self._feature_key, start, end, self._dimension)
        finally:
            await connection.close()
        return [tuple(row) for row in rows]

    async def rollup_rows(self) -> int:
        """Count the rows of the rollups."""
        connection = await connect(self._url, DatabaseRole.METER, statement_timeout=str(SCAN_TIMEOUT_MS))
        try:
            count: int = await connection.fetchval("SELECT count(*) FROM usage_rollups")
        finally:
            await connection.close()
        return count
