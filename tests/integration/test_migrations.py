"""Migrations: up, down and up again, from many processes, and to the schema that the code describes."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import asyncpg
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection

from tallygate_server.storage import migrations
from tallygate_server.storage.engine import owner_engine
from tallygate_server.storage.tables import PARTITIONED_TABLES, metadata
from tests.support.acme import an_increment, apply_catalog, outcome_of, services, used

ROOT = Path(__file__).parents[2]
PARTITIONS = tuple(f"{table.name}_" for table in PARTITIONED_TABLES)
_SCHEMA = """
SELECT n.nspname, c.relname, c.relkind::text, c.relrowsecurity, c.relforcerowsecurity,
    (SELECT array_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull ORDER BY a.attnum)
     FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
    (SELECT array_agg(p.polname::text ORDER BY p.polname) FROM pg_policy AS p WHERE p.polrelid = c.oid) AS policies,
    c.relacl::text
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'public' ORDER BY c.relname
"""


async def schema(database_url: str) -> list[tuple[object, ...]]:
    connection = await asyncpg.connect(database_url)
    try:
        return [tuple(row) for row in await connection.fetch(_SCHEMA)]
    finally:
        await connection.close()


async def test_down_and_up_again_is_as_before(empty_database: str) -> None:
    await migrations.upgrade(empty_database)
    before = await schema(empty_database)

    await migrations.downgrade(empty_database, "base")
    nothing = await schema(empty_database)
    await migrations.upgrade(empty_database)

    assert [row[1] for row in nothing] == ["alembic_version", "alembic_version_pkc"]
    assert await schema(empty_database) == before
    current, head = await migrations.current_and_head(empty_database)
    assert current == head


async def test_what_was_migrated_serves(empty_database: str, fresh_redis: str) -> None:
    await migrations.upgrade(empty_database)
    await migrations.downgrade(empty_database, "base")
    await migrations.upgrade(empty_database)
    await apply_catalog(empty_database)

    async with services(empty_database, fresh_redis) as [service]:
        await outcome_of(service, an_increment("ten"))

    assert await used(empty_database, "ten") == 1


async def test_upgrading_twice_changes_nothing(empty_database: str) -> None:
    await migrations.upgrade(empty_database)
    before = await schema(empty_database)

    await migrations.upgrade(empty_database)

    assert await schema(empty_database) == before


async def test_the_tables_of_the_code_are_those_of_the_database(fresh_database: str) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "compare_server_default": True,
                # Partitions belong to their parents, which the code describes.
                "include_object": lambda _item, name, kind, reflected, _other: (
                    not (kind == "table" and reflected and name.startswith(PARTITIONS))
                ),
            },
        )
        return list(compare_metadata(context, metadata))

    engine = owner_engine(fresh_database)
    try:
        async with engine.connect() as connection:
            assert await connection.run_sync(differences) == []
    finally:
        await engine.dispose()


async def test_many_processes_migrate_at_once(empty_database: str) -> None:
    program = (
        "import asyncio, sys; from tallygate_server.storage import migrations;"
        " asyncio.run(migrations.upgrade(sys.argv[1]))"
    )
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, empty_database),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=asyncio.subprocess.PIPE,
        )
        for _ in range(3)
    ]
    said = [await process.communicate() for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0], said
    current, head = await migrations.current_and_head(empty_database)
    assert current == head


async def test_an_empty_database_says_that_it_is_not_migrated(empty_database: str) -> None:
    current, head = await migrations.current_and_head(empty_database)

    assert current is None
    assert head == "0004"
