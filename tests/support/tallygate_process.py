"""`tallygate serve` as a process of its own, for tests that kill it or speak to it as a stranger would."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

START_TIMEOUT_S = 300
ROOT = Path(__file__).parents[2]


def environ(**settings: str) -> dict[str, str]:
    """Return an environment in which the package is found and nothing of ours is set but the given settings."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("TALLYGATE_")},
        "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT / "generated"))),
        "TALLYGATE_LOG_LEVEL": "error",
        # Stores and callers are slow on a busy machine, and are waited for.
        "TALLYGATE_COMMIT_TIMEOUT_MS": "9000",
        "TALLYGATE_REDIS_TIMEOUT_MS": "5000",
        "TALLYGATE_REQUEST_TIMEOUT_MS": "60000",
        **settings,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a command left behind."""

    code: int
    output: str
    errors: str


async def tallygate(*arguments: str, settings: Mapping[str, str] | None = None) -> Finished:
    """Run a command to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tallygate_server", *arguments, env=environ(**settings or {}),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Finished(code=process.returncode, output=output.decode(), errors=errors.decode())


@dataclass(frozen=True, slots=True, kw_only=True)
class TallygateProcess:
    """A server that has announced itself."""

    process: asyncio.subprocess.Process
    address: str
    announced: dict[str, object]

    @property
    def port(self) -> int:
        """The port that the system chose."""
        return int(self.address.rpartition(":")[2])

    async def kill(self) -> None:
        """Kill it as a crash would, and wait until it is gone."""
        self.process.kill()
        await self.process.wait()

    async def interrupt(self) -> int:
        """Press Ctrl-C, and return the exit code."""
        self.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(START_TIMEOUT_S):
            return await self.process.wait()


@asynccontextmanager
async def running(
    *arguments: str, settings: Mapping[str, str]
) -> AsyncIterator[tuple[asyncio.subprocess.Process, asyncio.StreamReader]]:
    """Start a command that runs until it is told to stop; give it and its output, and kill it if it is still there."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tallygate_server", *arguments),
        env=environ(TALLYGATE_DRAIN_DELAY_MS="0", **settings),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            yield process, process.stdout
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@asynccontextmanager
async def serving_process(*arguments: str, settings: Mapping[str, str]) -> AsyncIterator[TallygateProcess]:
    """Start `tallygate serve` with these options and settings; kill it at the end unless it has ended."""
    async with running("serve", "--json", "--ops-port", "0", *arguments, settings=settings) as (process, output):
        line = await output.readline()
        assert line, "the server ended before it served"
        announced = json.loads(line)
        yield TallygateProcess(process=process, address=announced["grpc_address"], announced=announced)
