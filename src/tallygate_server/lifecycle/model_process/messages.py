"""What a server and a model process say to each other: a line of JSON each, and after the job its tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Final

import pyarrow as pa

ANSWER_BYTES_MAX: Final = 64 * 1_048_576
JOB_LINE_BYTES_MAX: Final = 8 * 1_048_576
TABLES_MAX: Final = 16


class ModelJobRefused(Exception):
    """The job cannot be done with what was given."""

    def __init__(self, field: str, description: str) -> None:
        """Name the field of the request that is to blame, and say why."""
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description


class ModelProcessFailed(Exception):
    """A model process ended early, took too long, or failed in a way that nobody foresaw."""


def job_bytes(job: str, parameters: Mapping[str, Any], tables: Sequence[pa.Table]) -> list[bytes | memoryview]:
    """Return a job in pieces: its line, and an Arrow IPC stream for each table."""
    assert len(tables) <= TABLES_MAX
    streams = [_as_ipc(table) for table in tables]
    line = _line({"job": job, "parameters": dict(parameters), "streams": [stream.size for stream in streams]})
    assert len(line) <= JOB_LINE_BYTES_MAX
    return [line, *(memoryview(stream) for stream in streams)]


def read_job(source: BinaryIO) -> tuple[str, dict[str, Any], list[pa.Table]] | None:
    """Return the job that `job_bytes` wrote, or None when whoever started the process has gone away."""
    line = source.readline(JOB_LINE_BYTES_MAX)
    if not line.endswith(b"\n"):
        return None
    told: dict[str, Any] = json.loads(line)
    tables: list[pa.Table] = []
    for size in told["streams"]:
        content = source.read(size)
        if len(content) < size:
            return None
        with pa.ipc.open_stream(content) as stream:
            tables.append(stream.read_all())
    return told["job"], told["parameters"], tables


def answer_line(result: Mapping[str, Any]) -> bytes:
    """Return a result as a line."""
    return _line({"result": dict(result)})


def error_line(error: Exception) -> bytes:
    """Return as a line why there is no result; of what nobody foresaw the type alone."""
    if isinstance(error, ModelJobRefused):
        return _line({"refused": [error.field, error.description]})
    return _line({"failed": type(error).__name__})


def parse_answer(line: bytes) -> dict[str, Any]:
    """Return the result that a line tells. Raises ModelJobRefused and ModelProcessFailed."""
    if not line.endswith(b"\n"):
        raise ModelProcessFailed("the process ended early")
    told: dict[str, Any] = json.loads(line)
    if (refused := told.get("refused")) is not None:
        raise ModelJobRefused(*refused)
    if (failed := told.get("failed")) is not None:
        raise ModelProcessFailed(str(failed))
    result: dict[str, Any] = told["result"]
    return result


def _line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _as_ipc(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()
