"""The private servers of one data directory, as one thing to start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

from tallygate_server.embedded.data_directory import POSTGRES_PORT, DataDirectory, locked
from tallygate_server.embedded.errors import EmbeddedError
from tallygate_server.embedded.supervision import Recipe, SupervisedServer

REDIS_MEMORY_BYTES_MAX = 1024 * 1024 * 1024
"""Beyond this, writes to Valkey fail and Postgres decides alone: slower, still exact."""

POSTGRES_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    # Three servers, each with all its pools full (about 45), and whoever looks on.
    "max_connections": "150",
    "shared_buffers": "128MB",
    "wal_buffers": "8MB",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "15min",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # Queries here are short; compiling them costs more than it saves.
    "jit": "off",
    # Two cores: workers of a parallel query would take the processor from the group commit.
    "max_parallel_workers_per_gather": "0",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    # The settings would fill the log at each start.
    "log_checkpoints": "off",
}


class EmbeddedServers:
    """The private servers of one data directory, running.

    Use `async with EmbeddedServers.start(data_dir=...) as servers`.
    """

    def __init__(self, directory: DataDirectory) -> None:
        self._directory = directory
        self._postgres: SupervisedServer | None = None
        self._redis: SupervisedServer | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def start(
        cls, *, data_dir: Path, with_postgres: bool = True, with_redis: bool = True
    ) -> AsyncIterator[EmbeddedServers]:
        """Start the servers, keep them running, and stop them at the end.

        Raise EmbeddedError when the data directory is in use, not ours, or made by another version, or when a server
        does not start.
        """
        # The servers run elsewhere, where a relative path would mean another place.
        data_dir = data_dir.resolve()
        with locked(data_dir):
            directory = await asyncio.to_thread(DataDirectory.prepare, data_dir)
            servers = cls(directory)
            try:
                await servers._start(with_postgres=with_postgres, with_redis=with_redis)
                yield servers
            finally:
                await servers.stop()

    @property
    def database_url(self) -> str:
        """Address of the database as its owner, for asyncpg and, with another scheme, SQLAlchemy."""
        return self._directory.addresses.database_url

    @property
    def redis_url(self) -> str:
        """Address of Valkey."""
        return self._directory.addresses.redis_url

    @property
    def redis_socket(self) -> Path:
        """Path of Valkey's socket."""
        return self._directory.redis_socket

    @property
    def postgres_pid(self) -> int | None:
        """Pid of the database server, None while it is down."""
        return None if self._postgres is None else self._postgres.pid

    @property
    def redis_pid(self) -> int | None:
        """Pid of Valkey, None while it is down."""
        return None if self._redis is None else self._redis.pid

    @property
    def postgres_restarts(self) -> int:
        """How often the database server was started again."""
        return 0 if self._postgres is None else self._postgres.restarts

    @property
    def redis_restarts(self) -> int:
        """How often Valkey was started again."""
        return 0 if self._redis is None else self._redis.restarts

    async def flush_redis(self) -> None:
        """Forget everything in Valkey, as may happen to any Redis at any moment."""
        await self._directory.ask_redis(b"FLUSHALL", expected=b"+OK")

    async def stop(self) -> None:
        """Stop both servers cleanly; a second call changes nothing."""
        running = [server for server in (self._redis, self._postgres) if server is not None]
        await asyncio.gather(*(server.stop() for server in running))
        self._directory.remove_runtime_dir()

    async def _start(self, *, with_postgres: bool, with_redis: bool) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                if with_postgres:
                    group.create_task(self._start_postgres())
                if with_redis:
                    group.create_task(self._start_redis())
        except BaseExceptionGroup as failures:
            # A person reads this: the first reason is enough, and the other server is stopped anyway.
            for failure in failures.exceptions:
                if isinstance(failure, EmbeddedError):
                    raise failure from None
            raise

    async def _start_postgres(self) -> None:
        directory = self._directory
        await asyncio.to_thread(directory.make_cluster)
        settings = {**POSTGRES_SETTINGS, "unix_socket_directories": str(directory.runtime_dir), "port": POSTGRES_PORT}
        recipe = Recipe(
            name="postgres",
            title="PostgreSQL",
            argv=(
                str(directory.programs.postgres),
                *("-D", str(directory.cluster_dir)),
                *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
            ),
            working_dir=directory.cluster_dir,
            # Fast shutdown, immediate shutdown (recovers at the next start), kill.
            stop_signals=(signal.SIGINT, signal.SIGQUIT, signal.SIGKILL),
            probe=directory.ensure_database,
            before_start=directory.clear_stale_postmaster_pid,
        )
        self._postgres = SupervisedServer(recipe, data_dir=directory.data_dir, account=directory.account)
        await self._postgres.start()

    async def _start_redis(self) -> None:
        directory = self._directory
        directory.make_server_dir(directory.redis_dir)
        settings = {
            "port": "0",
            "unixsocket": str(directory.redis_socket),
            "unixsocketperm": "700",
            "dir": str(directory.redis_dir),
            "daemonize": "no",
            "logfile": "",
            # Redis is disposable here, as everywhere: a restart that comes back empty is a tested path, and one that
            # comes back with old counters would be a harder one.
            "save": "",
            "appendonly": "no",
            # Losing a random key would lose a hold; a refused write falls back to Postgres.
            "maxmemory-policy": "noeviction",
            "maxmemory": str(REDIS_MEMORY_BYTES_MAX),
        }
        recipe = Recipe(
            name="redis",
            title="Valkey",
            argv=(
                str(directory.programs.valkey_server),
                *(part for name, value in settings.items() for part in (f"--{name}", value)),
            ),
            working_dir=directory.redis_dir,
            stop_signals=(signal.SIGTERM, signal.SIGKILL),
            probe=lambda: directory.ask_redis(b"PING", expected=b"+PONG"),
            before_start=lambda: directory.redis_socket.unlink(missing_ok=True),
        )
        self._redis = SupervisedServer(recipe, data_dir=directory.data_dir, account=directory.account)
        await self._redis.start()
