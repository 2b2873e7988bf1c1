"""The process of a simulation: takes a job on its standard input, tells what it finds on its standard output.

It ends when it is done, and when whoever started it goes away: then its standard input ends, and nobody reads what it
says.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Final

import structlog

from tallygate_server.errors import TallygateError
from tallygate_server.simulation.job import (
    LINE_BYTES_MAX,
    SimulationJob,
    SimulationProgress,
    SimulationUpdate,
    error_line,
    update_line,
)
from tallygate_server.simulation.replaying import simulate
from tallygate_server.telemetry import configure_logging

log = structlog.get_logger(__name__)

NICENESS: Final = 5
"""Of 19: whatever serves live calls comes first."""
_DONE, _ABANDONED = 0, 1


async def _run() -> int:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        line = await reader.readline()
        if not line.endswith(b"\n"):
            return _ABANDONED
        job = SimulationJob.from_line(line)
        working = asyncio.create_task(_work(job))
        abandoned = asyncio.create_task(reader.read())
        await asyncio.wait((working, abandoned), return_when=asyncio.FIRST_COMPLETED)
        done = working.done()
        for task in (working, abandoned):
            task.cancel()
        await asyncio.gather(working, abandoned, return_exceptions=True)
        return _DONE if done else _ABANDONED
    finally:
        transport.close()


async def _work(job: SimulationJob) -> None:
    output = sys.stdout.buffer

    def tell(update: SimulationUpdate) -> None:
        # Waits while nobody reads: what is not said yet is not read from the database yet.
        output.write(update_line(update))
        if isinstance(update, SimulationProgress):
            output.flush()

    try:
        await simulate(job, tell)
    except BrokenPipeError:
        return
    except TallygateError as error:
        output.write(error_line(error))
    except Exception as error:  # the edge of the process: whatever it is, the server hears of it
        log.exception("simulation_failed")
        output.write(error_line(error))
    output.flush()


def main() -> int:
    """Do the job that stands on the standard input."""
    os.nice(NICENESS)
    # Our own log goes to the standard error; the standard output is for the server.
    configure_logging(level="warning", log_format="json")
    return asyncio.run(_run())


if __name__ == "__main__":
    sys.exit(main())
