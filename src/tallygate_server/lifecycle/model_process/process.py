"""Starts a model process for each job, and passes on what it answers."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

import pyarrow as pa

from tallygate_server.errors import Overloaded
from tallygate_server.lifecycle.model_process.messages import (
    ANSWER_BYTES_MAX,
    ModelProcessFailed,
    job_bytes,
    parse_answer,
)

PROCESSES_AT_ONCE_MAX: Final = 2
"""Of one server process; each takes up to a processor's time."""
WAITING_MAX: Final = 16
"""Jobs that wait for a process; more are refused."""
TIMEOUT: Final = timedelta(minutes=10)
_CHUNK_BYTES: Final = 1_048_576


class ModelProcesses:
    """Runs jobs, each in a process of its own."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._free = asyncio.Semaphore(PROCESSES_AT_ONCE_MAX)
        self._waiting = 0

    async def run(
        self,
        job: str,
        parameters: Mapping[str, Any],
        tables: Sequence[pa.Table] = (),
        *,
        timeout: timedelta = TIMEOUT,
    ) -> dict[str, Any]:
        """Do a job of `jobs.py` and return its result; the process ends with this call, however it ends.

        Raises ModelJobRefused, ModelProcessFailed, Overloaded.
        """
        if self._free.locked() and self._waiting >= WAITING_MAX:
            raise Overloaded("too many models are being fitted")
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            pieces = await asyncio.to_thread(job_bytes, job, parameters, tables)
            process = await _start()
            try:
                async with asyncio.timeout(timeout.total_seconds()):
                    line = await _converse(process, pieces)
                return await asyncio.to_thread(parse_answer, line)
            except TimeoutError:
                raise ModelProcessFailed(f"it took longer than {timeout}") from None
            finally:
                await _end(process)
        finally:
            self._free.release()


async def _start() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tallygate_server.lifecycle.model_process",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=ANSWER_BYTES_MAX,
        # The same code, wherever this process has found it; none of the settings, and so none of their secrets. One
        # thread: the other processors serve calls, and sums come out the same every time.
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("TALLYGATE_")},
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        },
    )


async def _converse(process: asyncio.subprocess.Process, pieces: Sequence[bytes | memoryview]) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError, ConnectionResetError):
        for piece in pieces:
            for offset in range(0, len(piece), _CHUNK_BYTES):
                process.stdin.write(piece[offset : offset + _CHUNK_BYTES])
                await process.stdin.drain()
    # Its input stays open: the process ends by itself when that does.
    return await process.stdout.readline()


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the process, whatever it does, and its pipes."""
    assert process.stdin is not None
    assert process.stdout is not None
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
    process.stdin.close()
    while await process.stdout.read(_CHUNK_BYTES):
        pass
    await process.wait()
