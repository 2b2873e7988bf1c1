"""Records as a plain table keeps them, one row each: what their compressed forms are compared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tallygate_server.storage.engine import connect

ACCOUNT: Final = "account-0001"
COPY_TIMEOUT_S: Final = 600.0

_CREATE: Final = """
CREATE TABLE plain_records (account_id text NOT NULL, time timestamptz NOT NULL, number integer NOT NULL, {columns})
"""
_KEY: Final = "ALTER TABLE plain_records ADD PRIMARY KEY (account_id, time{number})"
_SIZES: Final = "SELECT pg_table_size('plain_records'), pg_indexes_size('plain_records')"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainSize:
    """Bytes of a table and of its index."""

    heap_bytes: int
    index_bytes: int

    @property
    def total_bytes(self) -> int:
        """Both together."""
        return self.heap_bytes + self.index_bytes


async def plain_size(
    database_url: str,
    column_types: Mapping[str, str],
    rows: Iterable[Sequence[Any]],
    *,
    times_distinct: bool,
) -> PlainSize:
    """Copy rows of a time and values into a table of its own, and return what it takes; the table is dropped.

    `column_types` holds SQL types by column. The key is account and time, and a row's number where times occur twice.
    """
    names = [f"value_{place}" for place in range(len(column_types))]
    columns = ", ".join(f"{name} {kind}" for name, kind in zip(names, column_types.values(), strict=True))
    create = _CREATE.format(columns=columns or "nothing integer")
    if times_distinct:
        create = create.replace(" number integer NOT NULL,", "")
    numbered = ((ACCOUNT, row[0], *(() if times_distinct else (number,)), *row[1:]) for number, row in enumerate(rows))
    connection = await connect(database_url)
    try:
        await connection.execute(create)
        await connection.execute(_KEY.format(number="" if times_distinct else ", number"))
        await connection.copy_records_to_table(
            "plain_records",
            records=numbered,
            columns=["account_id", "time", *(() if times_distinct else ("number",)), *names],
            timeout=COPY_TIMEOUT_S,
        )
        heap_bytes, index_bytes = await connection.fetchrow(_SIZES)
        await connection.execute("DROP TABLE plain_records")
    finally:
        await connection.close()
    return PlainSize(heap_bytes=heap_bytes, index_bytes=index_bytes)
