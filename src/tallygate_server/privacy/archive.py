"""The archive of an export: a ZIP that is sealed piece by piece as it grows, and never lies readable on a disk."""

from __future__ import annotations

import asyncio
import base64
import csv
import hashlib
import io
import json
import math
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from types import TracebackType
from typing import IO, Any, Final, Protocol, Self

import pyarrow as pa
import pyarrow.compute as pc

from tallygate_server.events.contents import SAFE_INTEGER_MAX, safe_json

PIECE_BYTES: Final = 4 * 1_048_576
"""Bytes of the archive that are sealed as one object, but for the last."""
_SPOOL_BYTES: Final = 4 * 1_048_576
"""A file's second form waits in memory up to here, then in a file without a name."""
_COPY_BYTES: Final = 1_048_576
_TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"
"""Seconds are written with as many digits as the column has."""


class PieceStore(Protocol):
    """Takes the pieces of an archive, in order."""

    async def put(self, number: int, content: bytes) -> None:
        """Seal and store a piece."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedFile:
    """A file in the archive, as the manifest tells of it."""

    name: str
    bytes: int
    sha256: str
    rows: int
    columns: Sequence[Mapping[str, str]] = field(default_factory=list)


class _Sink(io.RawIOBase):
    """What the ZIP is written into: cuts it into pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = bytearray()
        self.position = 0
        self.digest = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        piece = bytes(content)
        self.buffer += piece
        self.position += len(piece)
        self.digest.update(piece)
        return len(piece)

    def tell(self) -> int:
        return self.position


class Archive:
    """Writes files into the ZIP, one after another."""

    def __init__(self, pieces: PieceStore) -> None:
        """Write into these pieces."""
        self._pieces = pieces
        self._sink = _Sink()
        self._zip = zipfile.ZipFile(self._sink, "w", zipfile.ZIP_DEFLATED)
        self.piece_count = 0
        self.files: list[ArchivedFile] = []

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._sink.position

    @property
    def checksum(self) -> str:
        """SHA-256 of the whole archive, once it is closed."""
        return self._sink.digest.hexdigest()

    def table(self, name: str, columns: Sequence[Mapping[str, str]]) -> TableWriter:
        """Begin a table, which becomes `name.jsonl` and `name.csv`."""
        return TableWriter(self, name, columns)

    async def add(self, name: str, content: bytes, *, rows: int = 0) -> None:
        """Add a small file."""
        async with self._file(name) as file:
            await file.write(content, rows=rows)

    async def close(self) -> None:
        """Write the end."""
        await asyncio.to_thread(self._zip.close)
        await self._ship(last=True)

    def abandon(self) -> None:
        """Let go of an archive that will not be finished; nothing for one that is."""
        self._zip.close()
        self._sink.buffer.clear()

    async def _ship(self, *, last: bool = False) -> None:
        """Store the pieces that are full, and at the end what is left."""
        buffer = self._sink.buffer
        while len(buffer) >= PIECE_BYTES or (last and buffer):
            piece = bytes(buffer[:PIECE_BYTES])
            await self._pieces.put(self.piece_count, piece)
            del buffer[:PIECE_BYTES]
            self.piece_count += 1

    def _file(self, name: str, columns: Sequence[Mapping[str, str]] = ()) -> _File:
        return _File(self, self._zip, name, columns)


class _File:
    """One file of the ZIP while it is written."""

    def __init__(
        self, archive: Archive, zipped: zipfile.ZipFile, name: str, columns: Sequence[Mapping[str, str]]
    ) -> None:
        self._archive = archive
        self._zip = zipped
        self._name = name
        self._columns = columns
        self._digest = hashlib.sha256()
        self._bytes = self._rows = 0
        self._handle: IO[bytes] | None = None

    async def __aenter__(self) -> Self:
        self._handle = self._zip.open(self._name, "w", force_zip64=True)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        assert self._handle is not None
        self._handle.close()
        if kind is None:
            self._archive.files.append(
                ArchivedFile(
                    name=self._name,
                    bytes=self._bytes,
                    sha256=self._digest.hexdigest(),
                    rows=self._rows,
                    columns=list(self._columns),
                )
            )
            await self._archive._ship()  # noqa: SLF001 - of one module

    async def write(self, content: bytes, *, rows: int = 0) -> None:
        """Write on; compressing is left to a thread."""
        assert self._handle is not None
        await asyncio.to_thread(self._handle.write, content)
        self._digest.update(content)
        self._bytes += len(content)
        self._rows += rows
        await self._archive._ship()  # noqa: SLF001 - of one module


class TableWriter:
    """Writes rows twice: as JSON Lines at once, and as CSV when all are there, for a ZIP takes one file at a time."""

    def __init__(self, archive: Archive, name: str, columns: Sequence[Mapping[str, str]]) -> None:
        self._archive = archive
        self._name = name
        self._columns = columns
        self._names = [column["name"] for column in columns]
        self._stack = AsyncExitStack()
        self.row_count = 0

    async def __aenter__(self) -> Self:
        self._lines = await self._stack.enter_async_context(
            self._archive._file(f"{self._name}.jsonl", self._columns)  # noqa: SLF001 - of one module
        )
        # Deleted before anything is in it: nothing of it is left when the process dies.
        self._spool = tempfile.SpooledTemporaryFile(_SPOOL_BYTES)  # noqa: SIM115 - closed when the file ends
        self._spool.write(_csv([self._names]))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Whatever ends it, also in the middle of copying: the rows that are spooled are let go.
        with self._spool:
            if kind is not None:
                await self._stack.__aexit__(kind, error, traceback)
                return
            await self._lines.__aexit__(None)
            self._spool.seek(0)
            async with self._archive._file(f"{self._name}.csv", self._columns) as file:  # noqa: SLF001 - of one module
                rows = self.row_count
                while content := await asyncio.to_thread(self._spool.read, _COPY_BYTES):
                    await file.write(content, rows=rows)
                    rows = 0

    async def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows; encoding them is left to a thread."""
        await self._write(await asyncio.to_thread(self._encode, rows), len(rows))

    async def write_records(self, records: pa.Table) -> None:
        """Write records column by column, several times as fast as row by row."""
        await self._write(await asyncio.to_thread(self._encode_records, records), records.num_rows)

    async def _write(self, encoded: tuple[bytes, bytes], rows: int) -> None:
        lines, table = encoded
        await self._lines.write(lines, rows=rows)
        await asyncio.to_thread(self._spool.write, table)
        self.row_count += rows

    def _encode_records(self, records: pa.Table) -> tuple[bytes, bytes]:
        """Write values as `exact` would: as JSON, and as the cells of a table."""
        as_json, as_cells = [], []
        for name in self._names:
            values = _values(records.column(name)) if name in records.column_names else [None] * records.num_rows
            key = json.dumps(name, ensure_ascii=False) + ": "
            as_json.append([key + _as_json(value) for value in values])
            as_cells.append([_cell(value) for value in values])
        lines = "".join("{" + ", ".join(row) + "}\n" for row in zip(*as_json, strict=True))
        return lines.encode(), _csv(zip(*as_cells, strict=True))

    def _encode(self, rows: Sequence[Mapping[str, Any]]) -> tuple[bytes, bytes]:
        plain = [[exact(row.get(name)) for name in self._names] for row in rows]
        lines = "".join(
            json.dumps(dict(zip(self._names, values, strict=True)), ensure_ascii=False) + "\n" for values in plain
        )
        return lines.encode(), _csv([[_cell(value) for value in values] for values in plain])


def exact(value: Any) -> Any:
    """Return a value as JSON can say it without loss: what its readers would round or refuse becomes text."""
    # Most values are of these; exports have many millions.
    kind = type(value)
    if value is None or kind is str or kind is bool:
        return value
    if kind is int and -SAFE_INTEGER_MAX <= value <= SAFE_INTEGER_MAX:
        return value
    match value:
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case Decimal():
            return str(value)
        case datetime():
            return value.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
        case date():
            return value.isoformat()
        case bytes() | memoryview():
            content = bytes(value)
            try:
                return content.decode()
            except UnicodeDecodeError:
                return "base64:" + base64.b64encode(content).decode()
        case dict():
            return {str(name): exact(each) for name, each in value.items()}
        case list() | tuple():
            return [exact(each) for each in value]
        case _:
            return safe_json(value)


def manifest_of(files: Iterable[ArchivedFile], **facts: Any) -> bytes:
    """Return the manifest, which tells of every other file."""
    return json.dumps({**facts, "files": [asdict(each) for each in files]}, indent=2, ensure_ascii=False).encode()


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Return a column's values as `exact` gives them."""
    if pa.types.is_timestamp(column.type):
        plain = pc.strftime(column.cast(pa.timestamp(column.type.unit)), _TIME_FORMAT)
        return list(plain.to_pylist())
    values = column.to_pylist()
    if pa.types.is_string(column.type) or pa.types.is_boolean(column.type):
        return list(values)
    return [exact(value) for value in values]


def _as_json(value: Any) -> str:
    if value is None:
        return "null"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)


def _cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    return value


def _csv(rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
