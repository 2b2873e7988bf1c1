"""One data directory: who uses it, where its parts lie, and what makes it complete."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import asyncpg
import structlog

from tallygate_server.embedded.account import Account, choose_account
from tallygate_server.embedded.errors import EmbeddedError
from tallygate_server.embedded.programs import POSTGRES_MAJOR, Programs, find_programs, runnable_programs
from tallygate_server.embedded.small_files import first_number, write_atomically

POSTGRES_PORT = 5432
"""Names the socket file only; nothing listens on a network."""

REDIS_SOCKET_NAME = "redis.sock"

DATABASE_NAME = "tallygate"

DATABASE_ROLE = "tallygate"

SUPERUSER_ROLE = "postgres"

ROOT_SERVER_HOME = Path("/var/lib/tallygate")
"""Where root puts server files when the unprivileged account cannot reach the data directory."""

PROBE_TIMEOUT_S = 5.0
"""Longest wait for one attempt to get an answer."""

SOCKET_PATH_BYTES_MAX = 107
"""Bound of the operating system on the path of a Unix socket."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataDirectory:
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
        account = choose_account(data_dir)
        server_home = _choose_server_home(data_dir, account)
        programs = runnable_programs(find_programs(), account, server_home)
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
        """The database cluster."""
        return self.server_home / "postgres"

    @property
    def redis_dir(self) -> Path:
        """Valkey's working directory, always empty."""
        return self.server_home / "redis"

    @property
    def redis_socket(self) -> Path:
        """Valkey's socket."""
        return self.runtime_dir / REDIS_SOCKET_NAME

    @property
    def addresses(self) -> Addresses:
        """Where the servers answer."""
        return _addresses(self.runtime_dir, self.password)

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
            write_atomically(password_file, self.password, mode=0o600)
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
                    "Check free space and permissions with tallygate doctor, then start again; nothing was left.",
                )
            cluster.rename(self.cluster_dir)
        log.info("embedded_cluster_made", directory=str(self.cluster_dir), seconds=time.monotonic() - started_s)

    def clear_stale_postmaster_pid(self) -> None:
        """Remove a pid file that is empty, or whose number now belongs to a process that is no database server.

        PostgreSQL clears the file of a dead process itself, but after a restart of the machine or container the number
        is soon taken again, and one that was killed before it wrote its number left an empty file: it would refuse to
        start. No server of ours runs here: the leftovers were ended.
        """
        for file in (self.cluster_dir / "postmaster.pid", self.runtime_dir / f".s.PGSQL.{POSTGRES_PORT}.lock"):
            pid = first_number(file)
            if pid is None or Path(f"/proc/{pid}").exists():
                file.unlink(missing_ok=True)

    async def ensure_database(self) -> None:
        """Connect, and make our role and database if they are missing; raise OSError while that does not succeed."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await self._ensure_database()
        except asyncpg.InvalidPasswordError:
            raise EmbeddedError(
                f"The database in {self.cluster_dir} does not take the password in {_password_file(self.data_dir)}.",
                f"Put back the file of this database, or start empty: mv {self.data_dir} {self.data_dir}.old",
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


class Addresses(NamedTuple):
    """Where the embedded servers of a data directory answer while they run."""

    database_url: str
    redis_url: str


def addresses(data_dir: Path) -> Addresses:
    """Return where the servers of a data directory answer; raise EmbeddedError if it never had a database."""
    file = _password_file(data_dir)
    try:
        password = file.read_text().strip()
    except OSError as error:
        raise EmbeddedError(
            f"The password file {file} cannot be read: {error.strerror}.",
            "Run as the user who owns the data directory, or start Tallygate there once.",
        ) from error
    return _addresses(runtime_dir(data_dir), password)


def _addresses(sockets: Path, password: str) -> Addresses:
    return Addresses(
        database_url=f"postgresql://{DATABASE_ROLE}:{password}@/{DATABASE_NAME}?host={sockets}",
        redis_url=f"unix://{sockets / REDIS_SOCKET_NAME}",
    )


def lock_holder(data_dir: Path) -> str | None:
    """Return the pid of the process that uses a data directory, None when nobody does."""
    try:
        descriptor = os.open(data_dir / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(descriptor)
    else:
        return None
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, 32, 0).decode().strip() or "unknown"


@contextlib.contextmanager
def locked(data_dir: Path) -> Iterator[None]:
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
            holder = _holder(descriptor)
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


def runtime_dir(data_dir: Path) -> Path:
    """Name the socket directory of a data directory: short, because a socket's path has at most 107 bytes."""
    digest = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:12]
    parent = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())  # noqa: S108 - checked when made.
    return parent / f"tallygate-{os.geteuid()}-{digest}"


def _choose_server_home(data_dir: Path, account: Account) -> Path:
    """Find where the servers' own files go: the data directory, or a place that their account can reach."""
    link = data_dir / "postgres"
    if link.is_symlink():
        home = link.resolve().parent
        if not home.is_dir():
            raise EmbeddedError(
                f"The database of {data_dir} lies in {home}, which is gone.",
                f"Bring that directory back, or start empty: mv {data_dir} {data_dir}.old",
            )
        return home
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


def _refuse_unusable_cluster(cluster_dir: Path, account: Account) -> None:
    """Raise EmbeddedError for a cluster that this installation cannot run."""
    if not cluster_dir.is_dir() or not any(cluster_dir.iterdir()):
        return
    aside = f"mv {cluster_dir} {cluster_dir}.old"
    version_file = cluster_dir / "PG_VERSION"
    if cluster_dir.stat().st_uid != account.user_id:
        raise EmbeddedError(
            f"The database in {cluster_dir} belongs to user {cluster_dir.stat().st_uid}; we are {account.user_id}.",
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
    write_atomically(file, password, mode=0o600)
    return password
