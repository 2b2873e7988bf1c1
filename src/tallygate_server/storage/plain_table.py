"""Many records in a plain table, one row each: what moving them between tiers is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import asyncpg
import pyarrow as pa

from tallygate_server.storage.engine import connect

_TABLE = "plain_table"


class PlainTable:
    """A plain table of records, filled by repeating a few."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        """Use `create`."""
        self._connection = connection

    @classmethod
    async def create(cls, database_url: str, table: pa.Table, *, count: int, step: timedelta) -> PlainTable:
        """Make the table with `count` rows: the given ones again and again, one each step from their first time."""
        connection = await connect(database_url)
        names = [name for name in table.column_names if name != "time"]
        columns = ", ".join(f'"{name}" {_type(table.schema.field(name).type)}' for name in names)
        await connection.execute(f"CREATE TEMP TABLE seed (place bigint, {columns})")
        await connection.copy_records_to_table("seed", records=_rows(table, names), columns=["place", *names])
        first = table.column("time")[0].as_py()
        chosen = ", ".join(f's."{name}"' for name in names)
        await connection.execute(f'CREATE TABLE {_TABLE} (account_id text, "time" timestamptz, {columns})')
        await connection.execute(
            # The names are quoted, and come from a file of whoever measures.
            f"INSERT INTO {_TABLE} SELECT 'ann', $1::timestamptz + (r * $2::bigint + s.place) * $3::interval, {chosen}"  # noqa: S608
            " FROM generate_series(0, $4::bigint) AS r CROSS JOIN seed AS s"
            " WHERE r * $2::bigint + s.place < $5::bigint ORDER BY r, s.place",
            first,
            table.num_rows,
            step,
            (count - 1) // table.num_rows,
            count,
            timeout=3_600,
        )
        return cls(connection)

    async def copy_out(self) -> int:
        """Read all rows with `COPY ... TO`, as text; return the bytes that came."""
        received = 0

        async def count(data: bytes) -> None:
            nonlocal received
            received += len(data)

        await self._connection.copy_from_table(_TABLE, output=count, timeout=3_600)
        return received

    async def close(self) -> None:
        """Drop the table."""
        await self._connection.execute(f"DROP TABLE {_TABLE}")
        await self._connection.close()


def _rows(table: pa.Table, names: Sequence[str]) -> list[tuple[object, ...]]:
    columns = [table.column(name).to_pylist() for name in names]
    return [(place, *values) for place, values in enumerate(zip(*columns, strict=True))]


def _type(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind):
        return "bigint"
    if pa.types.is_floating(kind):
        return "double precision"
    if pa.types.is_boolean(kind):
        return "boolean"
    return "text"
