"""Keep one embedded server: start it, carry its log to a file of bounded size, and end it with its owner.

Run as a script, one process per server. The owner holds the other end of the pipe on standard input and never
writes to it: the pipe closes when the owner asks for a stop and, through the kernel, when the owner dies of
anything at all, SIGKILL included. Either way the server is stopped, so it never outlives its owner.

A process of its own rather than PR_SET_PDEATHSIG: that signal is tied to the thread that forked, is cleared by a
change of user, exists on Linux only, and cannot turn a stop that hangs into a kill.

Only `os`-level modules are imported (start-up about 10 ms), and there is one thread, which makes `fork` safe.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time

LOG_BYTES_MAX = 4 * 1024 * 1024
"""Size at which the log file is moved to `<name>.1`, replacing the one before."""

EXIT_CANNOT_START = 127
"""Exit status when the server's program could not be executed at all."""


class _Log:
    """Append to a file, and start a new one when it is full."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = self._open()
        self._size = os.fstat(self._file).st_size

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, text: bytes) -> None:
        if self._size + len(text) > LOG_BYTES_MAX:
            os.close(self._file)
            os.replace(self._path, self._path + ".1")  # noqa: PTH105 - pathlib would double the start-up time.
            self._file = self._open()
            self._size = 0
        self._size += os.write(self._file, text)


def _become_server(order: dict[str, object], log_pipe: int) -> None:
    """Replace this (child) process by the server, as the wanted user."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # An ignored signal stays ignored across exec, and the server needs these.
        signal.signal(number, signal.SIG_DFL)
    user_id, group_id = order["user_id"], order["group_id"]
    if isinstance(user_id, int) and isinstance(group_id, int):
        os.setgroups([])
        os.setgid(group_id)
        os.setuid(user_id)
    os.umask(0o077)
    os.chdir(str(order["working_dir"]))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log_pipe, 1)
    os.dup2(log_pipe, 2)
    argv, environ = order["argv"], order["environ"]
    assert isinstance(argv, list)
    assert isinstance(environ, dict)
    os.execve(argv[0], argv, environ)  # noqa: S606 - a fixed program, never a shell.


def _drain(log_pipe: int, log: _Log) -> bool:
    """Copy what is waiting in the pipe; False when its last writer is gone."""
    while True:
        try:
            text = os.read(log_pipe, 65536)
        except BlockingIOError:
            return True
        if not text:
            return False
        log.write(text)


def keep(order: dict[str, object]) -> int:
    """Run the ordered server until it ends or the owner goes away; return its exit status (negative: a signal)."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A Ctrl-C or a terminate sent to the whole group is the owner's to handle: it still drains its callers.
        signal.signal(number, signal.SIG_IGN)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write)
    log_read, log_write = os.pipe()
    os.set_blocking(log_read, False)
    log = _Log(str(order["log_file"]))

    server_pid = os.fork()
    if server_pid == 0:
        try:
            _become_server(order, log_write)
        except OSError as error:
            os.write(log_write, f"cannot start {order['argv']}: {error}\n".encode())
        finally:
            os._exit(EXIT_CANNOT_START)
    os.close(log_write)
    # The pipe stays open for as long as this process lives: its end tells the owner that the server is gone.
    os.write(1, b"%d\n" % server_pid)

    steps = [int(number) for number in order["stop_signals"]]  # type: ignore[attr-defined]
    step_timeout_s = float(order["stop_step_timeout_s"])  # type: ignore[arg-type]
    waiting = [0, wake_read, log_read]
    next_step_s: float | None = None
    while True:
        timeout_s = None if next_step_s is None else max(0.0, next_step_s - time.monotonic())
        ready, _, _ = select.select(waiting, [], [], timeout_s)
        if log_read in ready and not _drain(log_read, log):
            waiting.remove(log_read)
        if wake_read in ready:
            os.read(wake_read, 4096)
        ended_pid, status = os.waitpid(server_pid, os.WNOHANG)
        if ended_pid:
            if log_read in waiting:
                _drain(log_read, log)
            return os.waitstatus_to_exitcode(status)
        if 0 in ready and not os.read(0, 1):
            waiting.remove(0)
            next_step_s = time.monotonic()
        if next_step_s is not None and time.monotonic() >= next_step_s:
            os.kill(server_pid, steps.pop(0) if len(steps) > 1 else steps[0])
            next_step_s = time.monotonic() + step_timeout_s


if __name__ == "__main__":
    exit_status = keep(json.loads(sys.argv[1]))
    sys.exit(exit_status if exit_status >= 0 else 128 - exit_status)
