"""Monthly partitions of the ledger: made ahead by migrations and by a daily job, dropped by retention."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from tallygate_server.domain.period import add_months
from tallygate_server.storage.tables import PARTITIONED_TABLES

MONTHS_AHEAD = 12


async def create_partitions_ahead(
    connection: AsyncConnection, *, at: datetime | None = None, months_ahead: int = MONTHS_AHEAD
) -> list[str]:
    """Create each missing month's partition from the instant's month on, as owner; return the names made.

    `at` defaults to the database's clock. A default partition catches what no month covers, so an insert
    never fails for want of a partition.
    """
    if at is None:
        at = (await connection.execute(text("SELECT now()"))).scalar_one()
    month = at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    made: list[str] = []
    for table in PARTITIONED_TABLES:
        names = [(f"{table.name}_default", "DEFAULT")]
        for index in range(months_ahead + 1):
            start, end = add_months(month, index), add_months(month, index + 1)
            bounds = f"FOR VALUES FROM ('{start.isoformat()}') TO ('{end.isoformat()}')"
            names.append((f"{table.name}_{start:%Y_%m}", bounds))
        for name, bounds in names:
            exists = (await connection.execute(text("SELECT to_regclass(:name)"), {"name": name})).scalar_one()
            if exists is None:
                await connection.execute(text(f"CREATE TABLE {name} PARTITION OF {table.name} {bounds}"))
                # A partition reached by its own name must be as closed as its parent.
                await connection.execute(text(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY"))
                await connection.execute(text(f"ALTER TABLE {name} FORCE ROW LEVEL SECURITY"))
                made.append(name)
    return made
