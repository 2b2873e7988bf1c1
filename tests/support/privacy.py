"""An account that has left something in every table, and a look into everything that could still say its name."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
import structlog
from sqlalchemy import Boolean, Date, DateTime, Double, Integer, LargeBinary, Numeric, Table, Text, insert
from sqlalchemy.dialects.postgresql import ARRAY, INT8MULTIRANGE, JSONB

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.lifecycle.assembly import Lifecycle
from tallygate_server.service import Service
from tallygate_server.storage import tables
from tallygate_server.storage.account_rows import Subject, account_tables, count_rows, read_names
from tallygate_server.storage.engine import connect, owner_engine
from tallygate_server.telemetry import configure_logging

MARK: Final = "zebra7731"
"""In everything that the account is called or says."""
ZEBRA: Final = AccountId(f"{MARK}-account")
READING: Final = 7731.0078125
"""A value of its records that nothing else has."""


def a_row(table: Table, **given: Any) -> dict[str, Any]:
    """Return a row with the mark in every text, and something in every other column that must have it."""
    return {
        column.name: given[column.name] if column.name in given else _something(column.type, column.name)
        for column in table.columns
        if column.name in given or not (column.identity or (column.nullable and column.primary_key))
    }


def _something(kind: Any, name: str) -> Any:
    match kind:
        case Boolean():
            return False
        case Integer() | Numeric() | Double():  # BigInteger and SmallInteger are Integer here
            return 1
        case DateTime():
            return datetime.now(UTC) + (timedelta(hours=1) if "end" in name or "expire" in name else timedelta(0))
        case Date():
            return date(2026, 3, 1)
        case JSONB():
            return {"says": MARK}
        case LargeBinary():
            return MARK.encode()
        case ARRAY():
            return [MARK]
        case INT8MULTIRANGE():
            return None
        case Text():
            return f"{MARK}-{name}"
        case _:
            raise AssertionError(f"{name}: {kind!r}")


async def insert_rows(database_url: str, rows: Mapping[Table, Mapping[str, Any]]) -> None:
    """Insert one row into each table, as the owner."""
    engine = owner_engine(database_url)
    try:
        async with engine.begin() as connection:
            for table, given in rows.items():
                await connection.execute(insert(table).values(a_row(table, **given)))
    finally:
        await engine.dispose()


async def let_the_owner_look(database_url: str) -> None:
    """Let the owner of the tables see every row, whoever it belongs to."""
    connection = await connect(database_url)
    try:
        for table in tables.TENANT_TABLES:
            await connection.execute(f"ALTER TABLE {table.name} NO FORCE ROW LEVEL SECURITY")
    finally:
        await connection.close()


async def look(database_url: str, sql: str, *values: object) -> list[Any]:
    """Read rows as the owner, who was let look before."""
    connection = await connect(database_url)
    try:
        return list(await connection.fetch(sql, *values))
    finally:
        await connection.close()


async def where_the_mark_is(database_url: str) -> list[str]:
    """Return every row of every table, whole, in which the mark stands, also in the hexadecimal of bytes."""
    connection = await connect(database_url)
    found = []
    try:
        for table in tables.metadata.sorted_tables:
            rows = await connection.fetch(
                f"SELECT row::text AS content FROM {table.name} AS row"
                " WHERE strpos(lower(row::text), $1) > 0 OR strpos(row::text, $2) > 0",
                MARK,
                MARK.encode().hex(),
            )
            found += [f"{table.name}: {row['content']}" for row in rows]
    finally:
        await connection.close()
    return found


async def tables_without_a_row(lifecycle: Lifecycle, tenant_id: TenantId, account_id: AccountId) -> set[str]:
    """Return the tables of the register in which the account has nothing."""
    empty = set()
    async with lifecycle.database.tenant_transaction(tenant_id) as connection:
        names = await read_names(connection, tenant_id, account_id)
        subject = Subject(tenant_id=tenant_id, account_id=account_id, names=names)
        for entry in account_tables():
            if not await count_rows(connection, entry, subject):
                empty.add(entry.table.name)
    return empty


async def rows_of(lifecycle: Lifecycle, tenant_id: TenantId, account_id: AccountId) -> dict[str, int]:
    """Return how many rows each table has of an account."""
    async with lifecycle.database.tenant_transaction(tenant_id) as connection:
        subject = Subject(tenant_id=tenant_id, account_id=account_id)
        return {entry.table.name: await count_rows(connection, entry, subject) for entry in account_tables()}


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup of the database and the object store has; of the key store there is none."""

    rows: dict[str, list[Any]]
    objects: Path


BACKED_UP: Final = (tables.datasets, tables.data_keys, tables.data_segments, tables.data_payloads)


async def backed_up(database_url: str, directory: Path) -> Backup:
    """Back up what records lie in."""
    rows = {table.name: await look(database_url, f"SELECT * FROM {table.name}") for table in BACKED_UP}
    objects = directory.with_name("backup")
    shutil.copytree(directory / "objects", objects)
    return Backup(rows, objects)


async def put_back(database_url: str, directory: Path, backup: Backup) -> None:
    """Put a backup back, beside what is there."""
    connection = await connect(database_url)
    try:
        for name, rows in backup.rows.items():
            for row in rows:
                places = ", ".join(f"${number}" for number in range(1, len(row) + 1))
                statement = f"INSERT INTO {name} VALUES ({places}) ON CONFLICT DO NOTHING"
                await connection.execute(statement, *row.values())
    finally:
        await connection.close()
    shutil.copytree(backup.objects, directory / "objects", dirs_exist_ok=True)


@contextmanager
def logging_as_served(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Log as a server does, to what is standard error now, until the block is left."""
    root = logging.getLogger()
    with monkeypatch.context() as patch:
        patch.setattr(root, "handlers", [])
        patch.setattr(root, "level", root.level)
        configure_logging(level="debug", log_format="json")
        try:
            yield
        finally:
            structlog.reset_defaults()


def files_with(directory: Path, *contents: bytes) -> list[Path]:
    """Return the files below a directory that hold any of these bytes, or are called so."""
    return [
        path
        for path in sorted(directory.rglob("*"))
        if path.is_file()
        and any(content in path.read_bytes() or content.decode("latin-1") in str(path) for content in contents)
    ]


async def everything_in_redis(service: Service) -> str:
    """Return all keys and values, as text."""
    redis = service.redis
    said = []
    for key in await redis.execute("KEYS", "*"):
        kind = await redis.execute("TYPE", key)
        command = {b"hash": "HGETALL", b"set": "SMEMBERS", b"string": "GET"}[bytes(kind)]
        said.append(repr((key, await redis.execute(command, key))))
    return "\n".join(said)
