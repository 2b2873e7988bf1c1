"""Measure QueryUsage against a scan of the raw rows: a month by day, grouped by a dimension, over many entries.

The ledger is made in SQL, in the order of time, by transactions of many entries each, as a busy month leaves it. Then
the job rolls it up. Some entries stay raw, as they do while a server is busy; the answers must be equal all the same.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tallygate_server.bench.statistics import median
from tallygate_server.catalog import Catalogs, CatalogSource
from tallygate_server.clock import SystemClock
from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.period import add_months
from tallygate_server.domain.usage_windows import WindowSize
from tallygate_server.embedded import EmbeddedServers
from tallygate_server.rollups import QueriedRow, UsageQuery, UsageSums, open_roll_up
from tallygate_server.storage import migrations
from tallygate_server.storage.engine import Database
from tallygate_server.storage.synthetic_ledger import SyntheticLedger
from tallygate_server.storage.usage_sums import Subject
from tallygate_server.tenants import TenantDirectory

ENTRIES_DEFAULT: Final = 5_000_000
ACCOUNTS: Final = 1_000
TAIL_ENTRIES: Final = 2_000
"""Entries that are not rolled up when the queries run."""
ROLL_UP_TIMEOUT_S: Final = 3_600.0
QUERIES: Final = 30
SCANS: Final = 3
RATIO_FLOOR: Final = 200.0
ROWS_MAX: Final = 1_000

TENANT: Final = TenantId("bench")
FEATURE: Final = "tokens"
DIMENSION: Final = "model"
MODELS: Final = ("haiku", "large", "medium", "mini", "nano", "opus", "small", "vision")
_CATALOG: Final = f"tenant: {TENANT}\nfeatures:\n  {FEATURE}: {{kind: counter}}\n"


class QueriesDiffer(Exception):
    """A query's answer is not what the raw rows say: its speed means nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryReport:
    """What was measured."""

    entries: int
    accounts: int
    write_s: float
    roll_up_s: float
    rollup_rows: int
    query_ms: float
    query_ms_max: float
    scan_ms: float
    answer_rows: int
    total_quantity: int

    @property
    def ratio(self) -> float:
        """Time of the raw scan over that of the query, both medians."""
        return self.scan_ms / self.query_ms

    @property
    def roll_up_s_per_million(self) -> float:
        """Seconds that rolling up a million entries takes."""
        return self.roll_up_s / self.entries * 1_000_000

    @property
    def holds(self) -> bool:
        """Whether the promised ratio is reached."""
        return self.ratio >= RATIO_FLOOR

    def as_json(self) -> dict[str, Any]:
        """Return the same for programs."""
        return {
            "entries": self.entries,
            "accounts": self.accounts,
            "write_s": self.write_s,
            "roll_up_s": self.roll_up_s,
            "roll_up_s_per_million": self.roll_up_s_per_million,
            "rollup_rows": self.rollup_rows,
            "query_ms": self.query_ms,
            "query_ms_max": self.query_ms_max,
            "scan_ms": self.scan_ms,
            "ratio": self.ratio,
            "ratio_floor": RATIO_FLOOR,
            "holds": self.holds,
            "answer_rows": self.answer_rows,
            "total_quantity": self.total_quantity,
        }


async def run_query_benchmark(
    entries: int, *, parent_dir: Path | None = None, note: Callable[[str], None] = lambda _: None
) -> QueryReport:
    """Make a ledger in a database of its own, measure, and remove it; raise QueriesDiffer or SetupError."""
    with tempfile.TemporaryDirectory(prefix="tallygate-bench-", dir=parent_dir) as name:
        directory = Path(name)
        # Root's stores run as somebody else, who must be able to pass.
        directory.chmod(0o711)
        async with EmbeddedServers.start(data_dir=directory / "data", with_redis=False) as servers:
            return await measure_queries(servers.database_url, entries, note=note)


async def measure_queries(
    database_url: str, entries: int, *, note: Callable[[str], None] = lambda _: None
) -> QueryReport:
    """Fill an empty database and measure; raise QueriesDiffer."""
    await migrations.upgrade(database_url)
    clock = SystemClock()
    start = clock.now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = add_months(start, 1)
    ledger = SyntheticLedger(
        database_url, tenant_id=TENANT, feature_key=FEATURE, dimension=DIMENSION, values=MODELS, accounts=ACCOUNTS
    )
    database = Database(database_url, pool_size=1)
    tenants = TenantDirectory(database, clock)
    try:
        await Catalogs(database, tenants, clock=SystemClock()).apply(CatalogSource(_CATALOG))
        note(f"writing {entries:,} entries")
        write_s = await ledger.write(entries, start, end)
        note("rolling up")
        began_s = time.perf_counter()
        async with open_roll_up(database_url) as roll_up, asyncio.timeout(ROLL_UP_TIMEOUT_S):
            rolled_up = 0
            while True:
                rolled_up += (await roll_up.run()).get("entries", 0)
                if rolled_up == entries:
                    break
                # A transaction of somebody else, such as autovacuum's, is older than the last entries.
                await asyncio.sleep(0.01)
        roll_up_s = time.perf_counter() - began_s
        await ledger.write(TAIL_ENTRIES, start, end)
        await ledger.analyze()
        note("querying")
        sums = UsageSums(database, tenants=tenants, clock=clock)
        query = UsageQuery(
            tenant_id=TENANT,
            subject=Subject.FEATURE,
            subject_key=FEATURE,
            start=start,
            end=end,
            window_size=WindowSize.DAY,
            group_by=(DIMENSION,),
            limit=ROWS_MAX,
        )
        answer = await sums.query(query)
        query_times_ms = []
        for _ in range(QUERIES):
            began_s = time.perf_counter()
            answer = await sums.query(query)
            query_times_ms.append((time.perf_counter() - began_s) * 1_000)
        note("scanning raw rows")
        scan_times_ms = []
        for _ in range(SCANS):
            began_s = time.perf_counter()
            scanned = await ledger.scan(start, end)
            scan_times_ms.append((time.perf_counter() - began_s) * 1_000)
            if _as_tuples(answer.rows) != scanned:
                raise QueriesDiffer("the query and the raw rows do not agree")
        return QueryReport(
            entries=entries,
            accounts=ACCOUNTS,
            write_s=write_s,
            roll_up_s=roll_up_s,
            rollup_rows=await ledger.rollup_rows(),
            query_ms=median(query_times_ms),
            query_ms_max=max(query_times_ms),
            scan_ms=median(scan_times_ms),
            answer_rows=len(answer.rows),
            total_quantity=answer.total_quantity,
        )
    finally:
        await tenants.close()
        await database.close()


def _as_tuples(rows: Sequence[QueriedRow]) -> list[tuple[datetime, str, int, int]]:
    return [(row.window_start.astimezone(UTC), row.group[DIMENSION], row.quantity, row.event_count) for row in rows]
