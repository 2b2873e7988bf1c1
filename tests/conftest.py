"""Real servers for every test that asks for them: one private PostgreSQL and one Valkey per test process.

Nothing is ever skipped for want of a server: if one cannot start, the tests that need it fail and say why.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil
import pytest
from hypothesis import HealthCheck, settings

from tallygate_server import hot_accounts
from tallygate_server.embedded import EmbeddedServers
from tallygate_server.storage import cache_epochs, migrations
from tallygate_server.storage.partitions import create_partitions_ahead
from tests.support.eventually import eventually
from tests.support.long_run import LONG

TEMPLATE_DATABASE = "migrated_template"
MEMORY_DIR = Path("/dev/shm")  # noqa: S108 - what is made there has a name that nobody can guess.
MEMORY_FREE_BYTES_MIN = 12 * 1024**3

DAY_S = 86_400
ROOM_BEFORE_MIDNIGHT_S = 90
"""Longer than any test takes, and short enough to wait for."""

OTHERS_SETTINGS = {
    # Everything here is on this machine; gRPC would look for it behind the proxy.
    *("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"),
    # What commands print would be coloured, or broken into other lines.
    *("force_color", "py_colors", "github_actions", "columns", "lines"),
}

# Settings of whoever runs the tests must not reach them, nor the processes they start.
for _name in [name for name in os.environ if name.startswith("TALLYGATE_") or name.lower() in OTHERS_SETTINGS]:
    del os.environ[_name]

# Models are fitted by one thread, as in a model process: threads that wait for a processor that is busy cost seconds.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

# The same examples on every machine, however long one takes; new ones at every run in the long form.
settings.register_profile(
    "tallygate",
    derandomize=not LONG,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile("tallygate")

_database_numbers = itertools.count(1)


def with_database(database_url: str, name: str) -> str:
    """Return the same address with another database."""
    return urlunsplit(urlsplit(database_url)._replace(path=f"/{name}"))


async def create_database(database_url: str, name: str, more: str = "") -> str:
    """Make a database and return its address as its owner."""
    connection = await asyncpg.connect(database_url)
    try:
        # Somebody's connection to the one that it is copied from may take a moment to end.
        await eventually(lambda: connection.execute(f"CREATE DATABASE {name} {more}"), ignore=asyncpg.ObjectInUseError)
    finally:
        await connection.close()
    return with_database(database_url, name)


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


@pytest.fixture(autouse=True)
def _one_day() -> None:
    """Let each test run within one day of UTC, and so within one month: what it counts "today" is one count.

    Processes that tests start have the machine's clock, so a clock of our own would not do.
    """
    left_s = DAY_S - time.time() % DAY_S
    if left_s < ROOM_BEFORE_MIDNIGHT_S:
        time.sleep(left_s + 0.1)


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no server take Postgres for absent because the machine is busy."""
    monkeypatch.setattr(cache_epochs, "HEARD_SECONDS", 10.0)
    monkeypatch.setattr(cache_epochs, "SETTLED_SECONDS", 10.1)
    monkeypatch.setattr(cache_epochs, "SILENT_SECONDS", 60.0)
    monkeypatch.setattr(hot_accounts, "_LOAD_TIMEOUT_SECONDS", 60.0)


@pytest.fixture
def usual_epochs(_patience: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a change without Redis wait for as long as it does in production, and no longer."""
    monkeypatch.setattr(cache_epochs, "HEARD_SECONDS", 1.0)
    monkeypatch.setattr(cache_epochs, "SETTLED_SECONDS", 1.1)


def _roomy_memory() -> Path | None:
    """Return a directory in memory, if the machine has one with room to spare; None: the usual place will do."""
    if not (MEMORY_DIR.is_dir() and os.access(MEMORY_DIR, os.W_OK | os.X_OK)):
        return None
    free = min(shutil.disk_usage(MEMORY_DIR).free, psutil.virtual_memory().available)
    return MEMORY_DIR if free >= MEMORY_FREE_BYTES_MIN else None


@pytest.fixture(scope="session")
def reachable_dir() -> Iterator[Path]:
    """Make a directory that every user can pass to, as the servers need when root runs the tests.

    pytest's own directories admit their owner only. Where there is memory to spare it lies in memory: a thousand
    databases are made and dropped, and a disk takes longer for each than the test that wants it.
    """
    directory = Path(tempfile.mkdtemp(prefix=f"tallygate-test-{os.getpid()}-", dir=_roomy_memory()))
    directory.chmod(0o711)
    yield directory
    # What a killed server's children still write there is in nobody's way.
    shutil.rmtree(directory, ignore_errors=True)


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
    """Apply every migration once per test process, into a database that others are copied from.

    With partitions for this month and the next: every one of them is a dozen of files to copy, for each test.
    """
    address = await create_database(database_url, TEMPLATE_DATABASE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrations, "create_partitions_ahead", partial(create_partitions_ahead, months_ahead=1))
        await migrations.upgrade(address)
    return TEMPLATE_DATABASE


@asynccontextmanager
async def copied_database(database_url: str, template_database: str) -> AsyncIterator[str]:
    """Make a migrated database and give its address as its owner; drop it at the end."""
    name = f"test_{next(_database_numbers)}"
    # Copying files beats writing them through the log for a database of this size.
    yield await create_database(database_url, name, f"TEMPLATE {template_database} STRATEGY FILE_COPY")
    await drop_database(database_url, name)


@pytest.fixture
async def fresh_database(database_url: str, template_database: str) -> AsyncIterator[str]:
    """Make a migrated database for one test and return its address as its owner."""
    async with copied_database(database_url, template_database) as url:
        yield url


@pytest.fixture
async def empty_database(database_url: str) -> AsyncIterator[str]:
    """Make a database without tables for one test and return its address as its owner."""
    name = f"test_{next(_database_numbers)}"
    yield await create_database(database_url, name, "STRATEGY FILE_COPY")
    await drop_database(database_url, name)


@pytest.fixture
async def fresh_redis(servers: EmbeddedServers) -> str:
    """Empty the shared Valkey and return its address."""
    await servers.flush_redis()
    return servers.redis_url


@pytest.fixture
async def acme_database(fresh_database: str) -> AsyncIterator[str]:
    """Make a database with the tenant `acme` (see tests/support/acme.py); its books must balance after the test."""
    from tests.support import acme  # noqa: PLC0415 - tests of parts without a service need none of it.

    await acme.apply_catalog(fresh_database)
    yield fresh_database
    await acme.assert_books_balance(fresh_database)
