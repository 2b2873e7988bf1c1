"""Real servers for every test that asks for them: one private PostgreSQL and one Valkey per test process.

Nothing is ever skipped for want of a server: if one cannot start, the tests that need it fail and say why.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from tallygate_server.embedded import EmbeddedServers
from tests.support.eventually import eventually
from tests.support.length import LONG

TEMPLATE_DATABASE = "migrated_template"

# Settings of whoever runs the tests must not reach them, nor the processes they start.
for _name in [name for name in os.environ if name.startswith("TALLYGATE_")]:
    del os.environ[_name]

_database_numbers = itertools.count(1)


def pytest_report_header() -> str:
    """Say how long the tests of faults run."""
    return f"tests of faults: {'long' if LONG else 'short'} form"


def with_database(database_url: str, name: str) -> str:
    """Return the same address with another database."""
    return urlunsplit(urlsplit(database_url)._replace(path=f"/{name}"))


async def drop_database(database_url: str, name: str) -> None:
    """Drop a database, on a new connection: the test may have killed the server."""
    connection = await asyncpg.connect(database_url)
    try:
        # An autovacuum worker may be at work in it, whom only a superuser may end; it is done in a moment.
        await eventually(
            lambda: connection.execute(f"DROP DATABASE {name} WITH (FORCE)"),
            ignore=(asyncpg.InsufficientPrivilegeError, asyncpg.ObjectInUseError),
        )
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def reachable_dir() -> Iterator[Path]:
    """Make a directory that every user can pass to, as the servers need when root runs the tests.

    pytest's own directories admit their owner only.
    """
    directory = Path(tempfile.mkdtemp(prefix=f"tallygate-test-{os.getpid()}-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
async def servers(reachable_dir: Path) -> AsyncIterator[EmbeddedServers]:
    """Start this test process's servers; they are supervised, so a test may kill them."""
    async with EmbeddedServers.start(data_dir=reachable_dir / "shared") as running:
        yield running


@pytest.fixture(scope="session")
def database_url(servers: EmbeddedServers) -> str:
    """Address of an empty database of the shared server; tests use it to look, not to write."""
    return servers.database_url


@pytest.fixture(scope="session")
def redis_url(servers: EmbeddedServers) -> str:
    """Address of the shared Valkey, as other tests left it."""
    return servers.redis_url


@pytest.fixture(scope="session")
async def template_database(database_url: str) -> str:
    """Apply every migration once per test process, into a database that others are copied from."""
    from tallygate_server.storage import migrations  # noqa: PLC0415 - tests of parts without storage need none of it.

    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(f"CREATE DATABASE {TEMPLATE_DATABASE}")
    finally:
        await connection.close()
    await migrations.upgrade(with_database(database_url, TEMPLATE_DATABASE))
    return TEMPLATE_DATABASE


@pytest.fixture
async def fresh_database(database_url: str, template_database: str) -> AsyncIterator[str]:
    """Make a migrated database for one test and return its address as its owner."""
    name = f"test_{next(_database_numbers)}"
    connection = await asyncpg.connect(database_url)
    try:
        # Copying files beats writing them through the log for a database of this size.
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template_database} STRATEGY FILE_COPY")
    finally:
        await connection.close()
    yield with_database(database_url, name)
    await drop_database(database_url, name)


@pytest.fixture
async def empty_database(database_url: str) -> AsyncIterator[str]:
    """Make a database without tables for one test and return its address as its owner."""
    name = f"test_{next(_database_numbers)}"
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(f"CREATE DATABASE {name} STRATEGY FILE_COPY")
    finally:
        await connection.close()
    yield with_database(database_url, name)
    await drop_database(database_url, name)


@pytest.fixture
async def fresh_redis(servers: EmbeddedServers) -> str:
    """Empty the shared Valkey and return its address."""
    await servers.flush_redis()
    return servers.redis_url


@pytest.fixture
async def acme_database(fresh_database: str) -> AsyncIterator[str]:
    """Make a database with the tenant `acme` (see tests/support/acme.py); its books must balance after the test."""
    from tests.support import acme  # noqa: PLC0415 - as above.

    await acme.apply_catalog(fresh_database)
    yield fresh_database
    await acme.assert_books_balance(fresh_database)
