"""Find what is wrong with a set-up, and say the way out.

Nothing is changed: an embedded database that is not running is started for the look and stopped again, one that does
not exist yet is tried in a directory that is thrown away, and a running one is asked where it is. Nothing is printed:
the command line does that.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import importlib
import importlib.metadata
import json
import os
import shutil
import ssl
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import asyncpg
import redis.asyncio as redis_asyncio
from redis.exceptions import RedisError

from tallygate_server import ports
from tallygate_server.clock import Clock, SystemClock
from tallygate_server.config import Settings, SettingsError, load_settings
from tallygate_server.counters import scripts
from tallygate_server.embedded import EmbeddedError, EmbeddedServers
from tallygate_server.embedded.account import choose_account
from tallygate_server.embedded.data_directory import addresses, lock_holder
from tallygate_server.embedded.programs import find_programs, runnable_programs
from tallygate_server.setup_error import SetupError
from tallygate_server.storage import migrations
from tallygate_server.storage.engine import DatabaseRole

PYTHON_MIN: Final = (3, 11)
POSTGRES_VERSION_MIN: Final = 150_000
FREE_BYTES_MIN: Final = 1024 * 1024 * 1024
CLOCK_SKEW_SECONDS_MAX: Final = 2.0
ANSWER_TIMEOUT_SECONDS: Final = 5.0

GENERATED_MODULES: Final = ("tallygate.v1.entitlement_service_pb2_grpc", "tallygate.v1.usage_service_pb2_grpc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one look found; the way out is empty when all is well."""

    name: str
    ok: bool
    sentence: str
    way_out: str = ""


class _Stores(NamedTuple):
    """Where the databases are while we look."""

    database_url: str
    redis_url: str
    is_trial: bool
    """Whether the database was made for this look, so that nobody can have migrated it."""


def _well(name: str, sentence: str) -> Finding:
    return Finding(name=name, ok=True, sentence=sentence)


def _wrong(name: str, sentence: str, way_out: str) -> Finding:
    return Finding(name=name, ok=False, sentence=sentence, way_out=way_out)


async def examine(clock: Clock | None = None) -> list[Finding]:
    """Look at everything a server needs, as it would start in this environment, and return what was found."""
    findings = [check_python(), check_generated_code()]
    try:
        settings = load_settings()
    except SettingsError as error:
        findings += [
            _wrong("settings", f"{problem}.", "Correct the variable; docs/operations.md lists all of them.")
            for problem in error.problems
        ]
        return findings
    findings.append(_well("settings", "All settings are valid."))
    findings += check_transport(settings)
    # In a thread, for it asks over HTTP who listens there.
    findings += await asyncio.to_thread(check_ports, settings)
    if settings.database_url is None or settings.redis_url is None:
        programs = check_programs(settings)
        data_dir = check_data_dir(settings)
        findings += [programs, data_dir]
        if not (programs.ok and data_dir.ok):
            return findings
    try:
        async with _stores(settings) as stores:
            findings += await check_database(stores, settings=settings, clock=clock or SystemClock())
            findings.append(await check_redis(stores.redis_url))
    except EmbeddedError as error:
        findings.append(_wrong("embedded servers", error.message, error.way_out))
    return findings


def check_python() -> Finding:
    """Look at the interpreter."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < PYTHON_MIN:
        return _wrong(
            "python", f"This is Python {version}.", "Install Python 3.11 or newer and make a new environment."
        )
    return _well("python", f"Python {version} at {sys.executable}.")


def check_generated_code() -> Finding:
    """Import the generated code, which refuses runtimes older than its generator."""
    try:
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("grpcio", "protobuf"))
        for module in GENERATED_MODULES:
            importlib.import_module(module)
    except Exception as error:  # noqa: BLE001 - each library refuses with an error of its own.
        return _wrong(
            "generated code",
            f"The generated code cannot be imported: {type(error).__name__}: {error}",
            "Install the locked versions (pip install --require-hashes -r requirements.txt), or run make gen.",
        )
    return _well("generated code", f"The generated code suits {versions}.")


def check_transport(settings: Settings) -> list[Finding]:
    """Look at what the chosen transport needs."""
    findings = []
    if settings.transport == "native":
        try:
            importlib.import_module("pygrpc_native")
        except ImportError as error:
            findings.append(
                _wrong(
                    "transport",
                    f"The native transport cannot be loaded: {error}.",
                    "Install pygrpc-native for this platform, or set TALLYGATE_TRANSPORT=grpcio.",
                )
            )
        else:
            version = importlib.metadata.version("pygrpc-native")
            findings.append(_well("transport", f"The native transport is there: pygrpc-native {version}."))
    else:
        findings.append(_well("transport", f"The transport is grpcio {importlib.metadata.version('grpcio')}."))
    if settings.tls_cert_file is not None:
        findings.append(_check_tls(settings))
    return findings


def _check_tls(settings: Settings) -> Finding:
    assert settings.tls_cert_file is not None
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
        if settings.tls_client_ca_file is not None:
            context.load_verify_locations(settings.tls_client_ca_file)
    except OSError as error:  # ssl.SSLError is one.
        return _wrong(
            "tls",
            f"The certificate, key or authorities cannot be used: {error}.",
            "Check TALLYGATE_TLS_CERT_FILE, TALLYGATE_TLS_KEY_FILE and TALLYGATE_TLS_CLIENT_CA_FILE.",
        )
    return _well("tls", "Certificate and key fit each other.")


def check_ports(settings: Settings) -> list[Finding]:
    """Look whether both ports are free, or taken by a Tallygate that serves already."""
    findings = []
    serves_already = _is_tallygate(settings.ops_host, settings.ops_port)
    for name, host, port in (
        ("grpc", settings.grpc_host, settings.grpc_port),
        ("ops", settings.ops_host, settings.ops_port),
    ):
        try:
            ports.check_port_free(host, port, setting=f"TALLYGATE_{name.upper()}_PORT")
        except SetupError as error:
            if serves_already:
                findings.append(_well(f"{name} port", f"{host}:{port} is in use, and a Tallygate serves here already."))
            else:
                findings.append(_wrong(f"{name} port", error.message, error.way_out))
        else:
            findings.append(_well(f"{name} port", f"{host}:{port} is free."))
    return findings


def _is_tallygate(host: str, port: int) -> bool:
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    # No proxy: the question is what runs here.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{address}/healthz", timeout=1) as response:
            return bool(json.load(response).get("service") == "tallygate")
    except (OSError, ValueError, AttributeError):
        return False


def check_programs(settings: Settings) -> Finding:
    """Run each embedded program once, as the account that would run it."""
    try:
        programs = find_programs()
        account = choose_account(settings.data_dir)
        with tempfile.TemporaryDirectory(prefix="tallygate-doctor-") as scratch:
            Path(scratch).chmod(0o711)
            programs = runnable_programs(programs, account, Path(scratch))
            versions = [
                account.run([str(program), "--version"], working_dir=Path(scratch)).stdout.strip()
                for program in (programs.postgres, programs.valkey_server)
            ]
    except EmbeddedError as error:
        return _wrong("embedded programs", error.message, error.way_out)
    return _well("embedded programs", f"{versions[0]}; {versions[1].split(' sha=')[0]}.")


def check_data_dir(settings: Settings) -> Finding:
    """Look at the place of the embedded servers: rights, space, and who uses it."""
    name, data_dir = "data directory", settings.data_dir.absolute()
    existing = next(path for path in (data_dir, *data_dir.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return _wrong(
            name,
            f"{data_dir} cannot be {'written' if existing == data_dir else f'made in {existing}'}.",
            "Run as a user who may write there, or set TALLYGATE_DATA_DIR to another directory.",
        )
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < FREE_BYTES_MIN:
        return _wrong(
            name,
            f"Only {free_bytes // 2**20} MiB are free for {data_dir}; the database's log alone may take 1024.",
            "Free some space, or set TALLYGATE_DATA_DIR to a larger disk.",
        )
    holder = lock_holder(data_dir)
    if holder is not None:
        return _well(name, f"{data_dir} is in use by process {holder}.")
    if not (data_dir / "postgres" / "PG_VERSION").exists():
        return _well(name, f"{data_dir} holds no database yet; the first start makes one.")
    return _well(name, f"{data_dir} holds a database; {free_bytes // 2**30} GiB are free.")


@contextlib.asynccontextmanager
async def _stores(settings: Settings) -> AsyncIterator[_Stores]:
    """Say where the databases are, starting embedded ones that should be there and are not running."""
    database_url = settings.database_url.get_secret_value() if settings.database_url else None
    redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
    if database_url is not None and redis_url is not None:
        yield _Stores(database_url, redis_url, is_trial=False)
        return
    data_dir = settings.data_dir.absolute()
    if lock_holder(data_dir) is not None:
        running = addresses(data_dir)
        yield _Stores(database_url or running.database_url, redis_url or running.redis_url, is_trial=False)
        return
    is_trial = database_url is None and not (data_dir / "postgres" / "PG_VERSION").exists()
    with tempfile.TemporaryDirectory(prefix="tallygate-doctor-") as scratch:
        Path(scratch).chmod(0o711)
        async with EmbeddedServers.start(
            data_dir=Path(scratch) / "data" if is_trial or database_url is not None else data_dir,
            with_postgres=database_url is None,
            with_redis=redis_url is None,
        ) as servers:
            yield _Stores(database_url or servers.database_url, redis_url or servers.redis_url, is_trial=is_trial)


async def check_database(stores: _Stores, *, settings: Settings, clock: Clock) -> list[Finding]:
    """Look at the database: reachable, new enough, with the roles and the schema that this release needs."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
            connection = await asyncpg.connect(stores.database_url)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return [
            _wrong(
                "database",
                f"The database cannot be reached: {str(error) or type(error).__name__}.",
                "Check TALLYGATE_DATABASE_URL, or leave it empty for the embedded database.",
            )
        ]
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
            findings = [
                await _check_database_version(connection),
                await _check_clock(connection, clock),
            ]
            if stores.is_trial:
                findings.append(_well("migrations", "The first start migrates the new database."))
                return findings
            current, head = await migrations.current_and_head(stores.database_url)
            findings.append(_judge_schema(current, head, migrates_at_start=settings.migrates_at_start))
            if current == head:
                # The migrations make the roles.
                findings.append(await _check_roles(connection))
    finally:
        connection.terminate()
    return findings


async def _check_database_version(connection: asyncpg.Connection) -> Finding:
    version = int(await connection.fetchval("SHOW server_version_num"))
    if version < POSTGRES_VERSION_MIN:
        return _wrong("database", f"The database is PostgreSQL {version // 10_000}.", "Use PostgreSQL 15 or newer.")
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        if await connection.fetchval(f"SHOW {setting}") == "off":
            return _wrong(
                "database",
                f"The database runs with {setting} = off: a crash would lose increments that were confirmed.",
                f"Set {setting} = on.",
            )
    return _well("database", f"PostgreSQL {version // 10_000}.{version % 10_000} answers.")


async def _check_clock(connection: asyncpg.Connection, clock: Clock) -> Finding:
    before = clock.now()
    there: dt.datetime = await connection.fetchval("SELECT clock_timestamp()")
    # Somewhere between question and answer: an answer that took long is no difference.
    skew_seconds = max((before - there).total_seconds(), (there - clock.now()).total_seconds(), 0.0)
    if skew_seconds > CLOCK_SKEW_SECONDS_MAX:
        return _wrong(
            "clock",
            f"Our clock and the database's differ by {skew_seconds:.1f} s: periods would start at different instants.",
            "Synchronise both machines' clocks (NTP).",
        )
    return _well("clock", "Our clock and the database's agree.")


def _judge_schema(current: str | None, head: str, *, migrates_at_start: bool) -> Finding:
    if current == head:
        return _well("migrations", f"The schema is current (revision {head}).")
    if migrates_at_start:
        return _well("migrations", f"The schema is at {current or 'no revision'}; the next start brings it to {head}.")
    return _wrong(
        "migrations",
        f"The schema is at {current or 'no revision'}, and this release needs {head}.",
        "Run tallygate migrate, or set TALLYGATE_AUTO_MIGRATE=true.",
    )


async def _check_roles(connection: asyncpg.Connection) -> Finding:
    names = [role.value for role in DatabaseRole]
    known = {
        row["rolname"]: row
        for row in await connection.fetch(
            "SELECT rolname, rolsuper OR rolbypassrls AS above_rules, pg_has_role(current_user, oid, 'SET') AS usable"
            " FROM pg_roles WHERE rolname = ANY($1)"
            if connection.get_server_version().major >= 16  # noqa: PLR2004 - SET became a right of its own in 16.
            else "SELECT rolname, rolsuper OR rolbypassrls AS above_rules,"
            " pg_has_role(current_user, oid, 'MEMBER') AS usable FROM pg_roles WHERE rolname = ANY($1)",
            names,
        )
    }
    missing = [name for name in names if name not in known]
    if missing:
        return _wrong("roles", f"The roles {', '.join(missing)} are missing.", "Run tallygate migrate.")
    if unusable := [name for name in names if not known[name]["usable"]]:
        return _wrong(
            "roles",
            f"The login may not act as {', '.join(unusable)}.",
            f"As an administrator: GRANT {', '.join(unusable)} TO the login of TALLYGATE_DATABASE_URL.",
        )
    if above := [name for name in names if known[name]["above_rules"]]:
        return _wrong(
            "roles",
            f"The roles {', '.join(above)} are above row-level security: one tenant could see another's rows.",
            f"As an administrator: ALTER ROLE {above[0]} NOSUPERUSER NOBYPASSRLS.",
        )
    return _well("roles", "All roles are there and bound by row-level security.")


async def check_redis(redis_url: str) -> Finding:
    """Look at Redis: reachable, takes our scripts, and throws no key away on its own."""
    name = "redis"
    client = redis_asyncio.Redis.from_url(
        redis_url, socket_timeout=ANSWER_TIMEOUT_SECONDS, socket_connect_timeout=ANSWER_TIMEOUT_SECONDS
    )
    try:
        await client.ping()
        for script in scripts.ALL:
            await client.script_load(script.source)
        info = await client.info()
    except (RedisError, OSError) as error:
        return _wrong(
            name,
            f"Redis cannot be used: {error}.",
            "Check TALLYGATE_REDIS_URL, or leave it empty for the embedded one. Without it calls are slower.",
        )
    finally:
        await client.aclose()
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        return _wrong(
            name,
            f"Redis removes keys on its own when memory runs short (maxmemory-policy {policy}).",
            "Set maxmemory-policy noeviction: then writes fail instead, and Postgres decides.",
        )
    product = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version", info.get("redis_version", "of unknown version"))
    return _well(name, f"{product} {version} answers and takes our {len(scripts.ALL)} scripts.")
