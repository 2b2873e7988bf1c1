"""Traces of LLM calls as CSV: when, how many tokens went in, how many came out.

A file needs a header. Columns are found by name, whatever their case, order and punctuation; others are ignored.
The whole file is read and judged before anything is done with it, so a bad row is named before the first call.
"""

from __future__ import annotations

import csv
import hashlib
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tallygate_server.domain.limits import QUANTITY_MAX

TIME_NAMES: Final = ("timestamp", "time", "arrivaltime", "starttime")
CONTEXT_NAMES: Final = ("contexttokens", "inputtokens", "prompttokens", "inputlength")
GENERATED_NAMES: Final = ("generatedtokens", "outputtokens", "completiontokens", "outputlength")

ROWS_MAX: Final = 50_000_000
"""Sixteen bytes a row are kept in memory."""

_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?")
_WHOLE_NUMBER: Final = re.compile(r"\d{1,18}")


class TraceError(Exception):
    """The file is no trace; the message names the line and what is wrong with it."""

    def __init__(self, path: Path, line: int, description: str) -> None:
        """Name the place; line 0 stands for the whole file."""
        place = f"{path}, line {line}" if line else str(path)
        super().__init__(f"{place}: {description}")
        self.line = line


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A trace in memory; row numbers start at 1 and do not count the header."""

    path: Path
    digest: str
    """SHA-256 of the file: a resumed replay must use the same one."""
    times_s: Sequence[float]
    """When each call was made, in seconds since any epoch."""
    quantities: Sequence[int]
    """Context and generated tokens of each call together."""
    contexts: Sequence[int] = ()
    """Context tokens of each call: what is known before it is made."""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.quantities)

    @property
    def tokens(self) -> int:
        """Tokens of all calls together."""
        return sum(self.quantities)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Columns:
    time: int
    context: int
    generated: int


def read_trace(path: Path, *, time_column: str = "", context_column: str = "", generated_column: str = "") -> Trace:
    """Read a trace; raise TraceError for the first thing that is wrong.

    Columns that are not named here are looked for by their usual names.
    """
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _parse(
                path,
                csv.reader(file),
                digest,
                {"time": time_column, "context": context_column, "generated": generated_column},
            )
    except OSError as error:
        raise TraceError(path, 0, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TraceError(path, 0, "is not text in UTF-8") from None


def _parse(path: Path, rows: Iterable[list[str]], digest: str, wanted: Mapping[str, str]) -> Trace:
    times_s = array("d")
    quantities, contexts = array("q"), array("q")
    columns: _Columns | None = None
    line = 0
    try:
        for cells in rows:
            # A reader of the csv module counts lines; a quoted cell may span several.
            line = getattr(rows, "line_num", line + 1)
            if not any(cell.strip() for cell in cells):
                continue
            if columns is None:
                columns = _find_columns(path, line, cells, wanted)
                continue
            if len(quantities) == ROWS_MAX:
                raise TraceError(path, line, f"a trace has at most {ROWS_MAX:,} rows")
            times_s.append(_time_s(path, line, _cell(path, line, cells, columns.time, "time")))
            context = _tokens(path, line, _cell(path, line, cells, columns.context, "context tokens"))
            generated = _tokens(path, line, _cell(path, line, cells, columns.generated, "generated tokens"))
            quantity = context + generated
            if quantity > QUANTITY_MAX:
                raise TraceError(path, line, f"{quantity:,} tokens are more than one call may count")
            quantities.append(quantity)
            contexts.append(context)
    except csv.Error as error:
        raise TraceError(path, line + 1, f"is not CSV: {error}") from None
    if columns is None:
        raise TraceError(path, 0, "is empty; a header with time, context tokens and generated tokens is needed")
    if not quantities:
        raise TraceError(path, 0, "has a header, but no rows")
    return Trace(path=path, digest=digest, times_s=times_s, quantities=quantities, contexts=contexts)


def _find_columns(path: Path, line: int, header: list[str], wanted: Mapping[str, str]) -> _Columns:
    names = [_plain(cell) for cell in header]
    found = {}
    for role, usual in (("time", TIME_NAMES), ("context", CONTEXT_NAMES), ("generated", GENERATED_NAMES)):
        accepted = (_plain(wanted[role]),) if wanted[role] else usual
        # By the order of the accepted names, so that a file with two of them has one meaning.
        name = next((name for name in accepted if name in names), None)
        if name is None:
            looked_for = repr(wanted[role]) if wanted[role] else " or ".join(usual)
            raise TraceError(path, line, f"no column {looked_for} among {', '.join(map(repr, header))} in the header")
        if names.count(name) > 1:
            raise TraceError(path, line, f"the header has the column {name!r} twice")
        found[role] = names.index(name)
    return _Columns(**found)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _cell(path: Path, line: int, cells: list[str], index: int, what: str) -> str:
    if index >= len(cells) or not cells[index].strip():
        raise TraceError(path, line, f"{what}: missing")
    return cells[index].strip()


def _time_s(path: Path, line: int, text: str) -> float:
    """Read ISO 8601, with any number of fractional digits, or seconds."""
    if _NUMBER.fullmatch(text):
        return float(text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise TraceError(path, line, f"time: {text!r} is neither a date with a time nor a number of seconds") from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _tokens(path: Path, line: int, text: str) -> int:
    if not _WHOLE_NUMBER.fullmatch(text):
        raise TraceError(path, line, f"tokens: {text!r} is not a whole number of 0 or more")
    return int(text)
