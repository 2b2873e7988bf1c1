"""Start a server, watch over it, start it again when it dies, and stop it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import structlog

from tallygate_server.embedded.account import SERVER_ENVIRON, Account
from tallygate_server.embedded.errors import EmbeddedError
from tallygate_server.embedded.small_files import first_number, write_atomically
from tallygate_server.telemetry import metrics

START_TIMEOUT_S = 60.0
"""Longest wait for a server to answer; crash recovery of a large cluster needs the most."""

LEFTOVER_TIMEOUT_S = 10.0
"""Longest wait for a leftover server to end after it was told to."""

STOP_STEP_TIMEOUT_S = 10.0
"""Wait between two signals of a stop, from fast shutdown to kill."""

HEALTHY_UPTIME_S = 1.0
"""A server that lived this long starts its next restarts without delay again."""

RESTART_DELAY_MAX_S = 2.0
"""Longest pause between two restarts of a server that keeps dying."""

log = structlog.get_logger(__name__)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
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
        """File name of the server's program."""
        return Path(self.argv[0]).name


class _Keeper:
    """One running server, through the process that keeps it (see `keeper`)."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        ended: asyncio.StreamReader,
        transport: asyncio.ReadTransport,
    ) -> None:
        self._process = process
        self._ended = ended
        self._transport = transport
        self.server_pid = 0
        self.started_s = time.monotonic()

    @classmethod
    async def spawn(cls, order: dict[str, object]) -> Self:
        """Start a server and learn its pid."""
        script = str(Path(__file__).with_name("keeper.py"))
        process = subprocess.Popen(  # noqa: ASYNC220 - takes a millisecond, and asyncio's has no pipe to spare for us.
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
        try:
            transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(ended), process.stdout)
        except BaseException:
            # Cancelled within its first moments: it ends as soon as it sees the closed pipe.
            process.stdin.close()
            process.stdout.close()
            process.wait()
            raise
        keeper = cls(process, ended, transport)
        try:
            line = await ended.readline()
        except asyncio.CancelledError:
            await keeper.stop()
            raise
        if not line:
            await keeper.end()
            raise EmbeddedError(
                f"The process that keeps {order['title']} ended at once.",
                f"Look into {order['log_file']} and run tallygate doctor.",
            )
        keeper.server_pid = int(line)
        return keeper

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


class SupervisedServer:
    """A server that is started, watched, started again when it dies, and stopped."""

    def __init__(self, recipe: Recipe, *, data_dir: Path, account: Account) -> None:
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
            write_atomically(self._pid_file, f"{self._keeper.server_pid}\n", mode=0o644)
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
                f"A {recipe.title} of an earlier run still uses {recipe.working_dir} (pids {pids}) and does not end.",
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


def _living_postmaster(cluster_dir: Path, pids: list[int]) -> int | None:
    """Return the leftover that leads the others, if it still lives."""
    chief = first_number(cluster_dir / "postmaster.pid")
    return chief if chief in pids else None


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


async def _wait_until_gone(program: str, working_dir: Path) -> list[int]:
    """Wait until no process of the program is left in the directory; return those that stayed."""
    deadline_s = time.monotonic() + LEFTOVER_TIMEOUT_S
    # There is nothing to be told by: these are not our children.
    while (pids := server_pids(program, working_dir)) and time.monotonic() < deadline_s:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return pids
