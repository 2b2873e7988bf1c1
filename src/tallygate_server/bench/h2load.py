"""Drive a server with `h2load` and read what it says: the summary it prints and the log of single requests.

One process repeats one body. To use several accounts at a time, several processes run side by side.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

INSTALL_HINT: Final = "install it: apt-get install nghttp2-client (Debian, Ubuntu), or the package nghttp2 elsewhere"
TIMEOUT_S: Final = 90.0

_FINISHED: Final = re.compile(r"^finished in .*?, ", re.MULTILINE)
_REQUESTS: Final = re.compile(
    r"^requests: (?P<total>\d+) total, (?P<started>\d+) started, (?P<done>\d+) done, (?P<succeeded>\d+) succeeded,"
    r" (?P<failed>\d+) failed, (?P<errored>\d+) errored, (?P<timeout>\d+) timeout",
    re.MULTILINE,
)
_STATUSES: Final = re.compile(
    r"^status codes: (?P<ok>\d+) 2xx, (?P<redirect>\d+) 3xx, (?P<refused>\d+) 4xx, (?P<broken>\d+) 5xx", re.MULTILINE
)
_HTTP_OK: Final = "200"


class H2loadError(Exception):
    """h2load is missing, failed, or said something that we do not understand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What h2load prints at the end."""

    total: int
    succeeded: int
    failed: int
    """Failed, errored and timed out together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The requests of one process, in the order in which they ended."""

    start_us: Sequence[int]
    duration_us: Sequence[int]

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self.start_us)


def find_h2load() -> str:
    """Return the program's path; raise H2loadError with the way to get it."""
    program = shutil.which("h2load")
    if program is None:
        raise H2loadError(f"h2load, which makes the load, is missing; {INSTALL_HINT}")
    return program


def frame(message: bytes) -> bytes:
    """Return a message as it stands in the body of a gRPC request: uncompressed, with its length."""
    return b"\0" + struct.pack(">I", len(message)) + message


def parse_summary(text: str) -> Summary:
    """Read the counts; raise H2loadError when the run did not finish or some answer was no HTTP 2xx."""
    requests = _REQUESTS.search(text)
    statuses = _STATUSES.search(text)
    if _FINISHED.search(text) is None or requests is None or statuses is None:
        tail = " | ".join(line for line in text.strip().splitlines()[-5:] if line)
        raise H2loadError(f"h2load did not finish; it said: {tail or 'nothing'}")
    summary = Summary(
        total=int(requests["total"]),
        succeeded=int(requests["succeeded"]),
        failed=int(requests["failed"]) + int(requests["errored"]) + int(requests["timeout"]),
    )
    if summary.failed or summary.succeeded != summary.total or int(statuses["ok"]) != summary.total:
        raise H2loadError(f"not every request was answered: {requests[0]}; {statuses[0]}")
    return summary


def parse_log(text: str) -> Sample:
    """Read the log: start in microseconds since 1970, HTTP status, microseconds until the end of the answer."""
    start_us, duration_us = array("q"), array("q")
    for number, line in enumerate(text.splitlines(), start=1):
        cells = line.split("\t")
        try:
            start, status, duration = int(cells[0]), cells[1], int(cells[2])
        except (IndexError, ValueError):
            raise H2loadError(f"line {number} of h2load's log is no request: {line!r}") from None
        if status != _HTTP_OK:
            raise H2loadError(f"line {number} of h2load's log has the status {status}")
        start_us.append(start)
        duration_us.append(duration)
    return Sample(start_us=start_us, duration_us=duration_us)


async def read_version(program: str) -> str:
    """Return what the program says of itself."""
    process = await asyncio.create_subprocess_exec(
        program, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    return output.decode(errors="replace").strip()


async def run_h2load(
    program: str,
    *,
    address: str,
    path: str,
    bodies: Sequence[bytes],
    requests: int,
    connections: int,
    streams: int,
    directory: Path,
) -> list[Sample]:
    """Send so many requests, spread over one process for each body, and return every process's sample.

    `connections` and `streams` are those of one process. Raises H2loadError unless each request was answered.
    """
    share, rest = divmod(requests, len(bodies))
    tasks = [
        _run_process(
            program,
            address=address,
            path=path,
            body=body,
            requests=share + (index < rest),
            connections=connections,
            streams=streams,
            stem=directory / f"h2load-{index}",
        )
        for index, body in enumerate(bodies)
    ]
    return list(await asyncio.gather(*tasks))


async def _run_process(
    program: str,
    *,
    address: str,
    path: str,
    body: bytes,
    requests: int,
    connections: int,
    streams: int,
    stem: Path,
) -> Sample:
    body_file, log_file = stem.with_suffix(".body"), stem.with_suffix(".log")
    body_file.write_bytes(frame(body))
    # It appends to a log that exists.
    log_file.unlink(missing_ok=True)
    process = await asyncio.create_subprocess_exec(
        program,
        *("-n", str(requests), "-c", str(min(connections, requests)), "-m", str(streams), "-t", "1"),
        *("-H", "content-type: application/grpc", "-H", "te: trailers"),
        *("-d", str(body_file), f"--log-file={log_file}", f"http://{address}{path}"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        raise H2loadError(f"h2load did not finish {requests} requests within {TIMEOUT_S:.0f} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    summary = parse_summary(output.decode(errors="replace"))
    sample = parse_log(log_file.read_text())
    if len(sample) != summary.total or summary.total != requests:
        raise H2loadError(f"h2load was to send {requests} requests, says {summary.total} and logged {len(sample)}")
    return sample
