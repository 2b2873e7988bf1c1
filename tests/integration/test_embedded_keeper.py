"""The keeper of an embedded server ends it with its owner, by force if need be, and bounds its log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tallygate_server.embedded import keeper
from tests.support.eventually import eventually

SHELL = "/bin/sh"


class Kept:
    """A keeper and what it keeps, started with the given command."""

    def __init__(
        self, directory: Path, argv: list[str], stop_signals: tuple[signal.Signals, ...], *, patience_s: float = 60.0
    ) -> None:
        self.log_file = directory / "kept.log"
        order = {
            "title": "Test server",
            "argv": argv,
            "environ": {"PATH": "/usr/bin:/bin"},
            "working_dir": str(directory),
            "user_id": None,
            "group_id": None,
            "log_file": str(self.log_file),
            "stop_signals": stop_signals,
            "stop_step_timeout_s": patience_s,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(keeper.__file__), json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.server_pid = int(self.process.stdout.readline())

    async def wait_until_up(self) -> None:
        """Wait until the server has said that it is up."""
        await eventually(lambda: "up" in self.log_file.read_text())

    def leave(self) -> int:
        """Go away as an owner, and return how the keeper ended."""
        self.process.communicate(timeout=120)
        return self.process.returncode


async def test_a_server_is_asked_to_stop_when_its_owner_leaves(tmp_path: Path) -> None:
    # Not with pause(), which would sleep on if the signal came just before it.
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: sys.exit(7))\n"
        "print('up', flush=True)\n"
        "while True: time.sleep(0.05)\n"
    )
    kept = Kept(tmp_path, [sys.executable, "-c", program], (signal.SIGINT, signal.SIGKILL))
    await kept.wait_until_up()

    assert kept.leave() == 7


async def test_a_server_that_does_not_heed_is_killed(tmp_path: Path) -> None:
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); print('up', flush=True); signal.pause()"
    )
    kept = Kept(tmp_path, [sys.executable, "-c", program], (signal.SIGINT, signal.SIGKILL), patience_s=0.1)
    await kept.wait_until_up()

    assert kept.leave() == 128 + signal.SIGKILL


async def test_a_signal_to_the_group_leaves_keeper_and_server_to_the_owner(tmp_path: Path) -> None:
    program = "import signal; print('up', flush=True); signal.pause()"
    kept = Kept(tmp_path, [sys.executable, "-c", program], (signal.SIGTERM,))
    await kept.wait_until_up()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(kept.process.pid, number)

    assert kept.process.poll() is None
    assert kept.leave() == 128 + signal.SIGTERM


async def test_the_exit_status_of_a_server_that_ends_by_itself_is_passed_on(tmp_path: Path) -> None:
    kept = Kept(tmp_path, [SHELL, "-c", "exit 3"], (signal.SIGTERM,))

    assert kept.process.wait(60) == 3
    kept.leave()


async def test_a_program_that_cannot_be_run_is_named_in_the_log(tmp_path: Path) -> None:
    kept = Kept(tmp_path, ["/nonexistent/program"], (signal.SIGTERM,))

    assert kept.process.wait(60) == keeper.EXIT_CANNOT_START
    assert "/nonexistent/program" in kept.log_file.read_text()
    kept.leave()


async def test_a_full_log_is_moved_aside_once(tmp_path: Path) -> None:
    kept = Kept(tmp_path, [SHELL, "-c", f"head -c {keeper.LOG_BYTES_MAX * 5 // 2} /dev/zero"], (signal.SIGTERM,))

    assert kept.process.wait(60) == 0
    kept.leave()
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"kept.log", "kept.log.1"}
    assert all(0 < size <= keeper.LOG_BYTES_MAX for size in sizes.values())
