"""The test stand: private stores in a directory that is thrown away, and a server process on each transport."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import psutil

from tallygate_server.bench.statistics import median
from tallygate_server.embedded import EmbeddedServers
from tallygate_server.storage.engine import DatabaseRole, connect

TransportKind = Literal["native", "grpcio"]
TRANSPORTS: Final[tuple[TransportKind, ...]] = ("native", "grpcio")

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 20.0
FSYNC_TRIALS: Final = 50
LAST_WORDS: Final = 5


class StandError(Exception):
    """The servers to be measured did not start, or did not stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One running server process."""

    transport: TransportKind
    address: str
    ops_address: str
    loop: str
    process: asyncio.subprocess.Process
    log_file: Path

    async def answers(self) -> dict[tuple[str, str], int]:
        """Return the server's own count of finished calls, by method and gRPC code."""
        return parse_answers(await asyncio.to_thread(_fetch, f"http://{self.ops_address}/metrics"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """Processor seconds used so far."""

    server_s: float
    postgres_s: float
    valkey_s: float

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.server_s + self.postgres_s + self.valkey_s

    def __sub__(self, earlier: Cpu) -> Cpu:
        """Return what was used since."""
        return Cpu(
            server_s=self.server_s - earlier.server_s,
            postgres_s=self.postgres_s - earlier.postgres_s,
            valkey_s=self.valkey_s - earlier.valkey_s,
        )

    def __add__(self, other: Cpu) -> Cpu:
        """Return both together."""
        return Cpu(
            server_s=self.server_s + other.server_s,
            postgres_s=self.postgres_s + other.postgres_s,
            valkey_s=self.valkey_s + other.valkey_s,
        )


def machine_busy_s() -> float:
    """Return the processor seconds that the whole machine has spent working, or was kept from working, so far."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def our_cpu_s() -> float:
    """Return the processor seconds of this process and of the load generators that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """Everything that runs."""

    directory: Path
    stores: EmbeddedServers
    servers: Mapping[TransportKind, Server]

    def cpu(self, transport: TransportKind) -> Cpu:
        """Return the processor time of one server and of both stores so far."""
        postgres_pid, valkey_pid = self.stores.postgres_pid, self.stores.redis_pid
        if postgres_pid is None or valkey_pid is None:
            raise StandError("a store went down during the measurement")
        return Cpu(
            server_s=_own_s(psutil.Process(self.servers[transport].process.pid)),
            postgres_s=_tree_s(psutil.Process(postgres_pid)),
            valkey_s=_own_s(psutil.Process(valkey_pid)),
        )

    async def ledger_rows(self, tenant_id: str) -> int:
        """Count the tenant's lines in the ledger, in the database itself."""
        connection = await connect(self.stores.database_url, DatabaseRole.READER, **{"tallygate.tenant_id": tenant_id})
        try:
            # A tenant of its own: the whole table is read once, at the end.
            count: int = await connection.fetchval("SELECT count(*) FROM usage_entries", timeout=60)
        finally:
            await connection.close()
        return count

    async def store_versions(self) -> dict[str, str]:
        """Return versions and durability settings of Postgres, and the version of Valkey."""
        connection = await connect(self.stores.database_url)
        try:
            versions = {
                name: await connection.fetchval(f"SHOW {setting}")
                for name, setting in (
                    ("postgres", "server_version"),
                    ("fsync", "fsync"),
                    ("synchronous_commit", "synchronous_commit"),
                )
            }
        finally:
            await connection.close()
        versions["valkey"] = await _valkey_version(self.stores.redis_socket)
        return versions


@contextlib.asynccontextmanager
async def open_stand(parent_dir: Path | None = None) -> AsyncIterator[Stand]:
    """Start stores and servers in a new directory, stop them at the end, and remove it.

    `parent_dir` chooses the disk. Raises StandError or SetupError.
    """
    with tempfile.TemporaryDirectory(prefix="tallygate-bench-", dir=parent_dir) as name:
        directory = Path(name)
        # Root's stores run as somebody else, who must be able to pass.
        directory.chmod(0o711)
        async with (
            EmbeddedServers.start(data_dir=directory / "data") as stores,
            contextlib.AsyncExitStack() as stack,
        ):
            servers: dict[TransportKind, Server] = {}
            for transport in TRANSPORTS:
                # One after the other: the first one migrates.
                servers[transport] = await stack.enter_async_context(_server(transport, stores, directory))
            yield Stand(directory=directory, stores=stores, servers=servers)


@contextlib.asynccontextmanager
async def _server(transport: TransportKind, stores: EmbeddedServers, directory: Path) -> AsyncIterator[Server]:
    log_file = directory / f"server-{transport}.log"
    # The settings of whoever runs the benchmark must not change it.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TALLYGATE_")} | {
        "TALLYGATE_DATABASE_URL": stores.database_url,
        "TALLYGATE_REDIS_URL": stores.redis_url,
        "TALLYGATE_AUTO_MIGRATE": "true",
        "TALLYGATE_LOG_LEVEL": "warning",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    with log_file.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tallygate_server", "serve", "--json", "--empty-call", "--no-catalogs"),
            *("--host", "127.0.0.1", "--port", "0", "--ops-port", "0", "--transport", transport),
            env=environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            # Away from our terminal: a Ctrl-C reaches us, and we stop it.
            start_new_session=True,
        )
    try:
        announced = await _announcement(process, log_file)
        yield Server(
            transport=transport,
            address=announced["grpc_address"],
            ops_address=announced["ops_address"],
            loop=announced["loop"],
            process=process,
            log_file=log_file,
        )
    finally:
        await stop_process(process)


async def _announcement(process: asyncio.subprocess.Process, log_file: Path) -> dict[str, str]:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            line = await process.stdout.readline()
    except TimeoutError:
        line = b""
    if not line:
        raise StandError(f"the server did not start: {_last_words(log_file)}")
    announced: dict[str, str] = json.loads(line)
    return announced


def _last_words(log_file: Path) -> str:
    """Return the reason that the server gave, or else the end of its log."""
    lines = [line for line in log_file.read_text(errors="replace").splitlines() if line.strip()]
    with contextlib.suppress(IndexError, ValueError, KeyError, TypeError):
        return str(json.loads(lines[-1])["error"]["message"])
    return " | ".join(lines[-LAST_WORDS:]) or "it said nothing"


async def stop_process(process: asyncio.subprocess.Process) -> None:
    """Ask a process to end, insist after a while, and wait for it."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def parse_answers(metrics: str) -> dict[tuple[str, str], int]:
    """Read the count of finished calls, by `Service/Method` and code, from the metrics' text."""
    answers: dict[tuple[str, str], int] = {}
    for line in metrics.splitlines():
        if not line.startswith("grpc_server_handled_total{"):
            continue
        labels_text, _, value = line.partition("{")[2].rpartition("} ")
        labels = dict(part.split("=", 1) for part in labels_text.split(","))
        method = f"{labels['grpc_service']}/{labels['grpc_method']}".replace('"', "")
        key = (method, labels["grpc_code"].strip('"'))
        answers[key] = answers.get(key, 0) + int(float(value.split()[0]))
    return answers


def fsync_ms(directory: Path) -> float:
    """Measure how long the disk takes to make one write durable: the median of a few, in milliseconds."""
    durations_ms = []
    with (directory / "fsync.trial").open("wb", buffering=0) as file:
        for _ in range(FSYNC_TRIALS):
            file.write(b"\0" * 8_192)
            began_s = time.perf_counter()
            os.fdatasync(file.fileno())
            durations_ms.append((time.perf_counter() - began_s) * 1_000)
    return median(durations_ms)


def _fetch(url: str) -> str:
    # No proxy: it is our own server.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as response:
        text: str = response.read().decode()
    return text


def _own_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _tree_s(process: psutil.Process) -> float:
    """Return the time of a process, of its children, and of children that have ended."""
    times = process.cpu_times()
    total = float(times.user + times.system + times.children_user + times.children_system)
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += _own_s(child)
    return total


async def _valkey_version(socket_path: Path) -> str:
    reader, writer = await asyncio.open_unix_connection(str(socket_path))
    try:
        writer.write(b"INFO server\r\n")
        size = int((await reader.readline()).lstrip(b"$"))
        text = (await reader.readexactly(size)).decode()
    finally:
        writer.close()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return fields.get("valkey_version") or f"{fields.get('redis_version', '?')} (Redis)"
