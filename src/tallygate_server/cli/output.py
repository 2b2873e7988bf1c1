"""How answers are shown: tables and short lists for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp

PIPE_WIDTH: Final = 160
"""Columns of a table that no terminal limits."""

UNLIMITED: Final = -1
_UNIT_BYTES: Final = 1_024


def console(*, err: bool = False) -> Console:
    """Return a console on standard output, or standard error, as it is now."""
    stream = sys.stderr if err else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else PIPE_WIDTH, highlight=False)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def message_as_json(message: Message) -> Any:
    """Return a message as proto3 JSON under the names of the .proto files; 64-bit integers are strings there."""
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def print_message(message: Message) -> None:
    """Print a message as JSON."""
    print_json(message_as_json(message))


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Print named values under each other; those without a value are left out."""
    shown = [(name, str(value)) for name, value in facts if value not in ("", None)]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        typer.echo(f"  {typer.style(name.ljust(width), dim=True)}  {value}")


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "", numeric: Sequence[str] = ()
) -> None:
    """Print a table; numeric columns stand to the right."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    out = console()
    with out.capture() as captured:
        out.print(table)
    # The last column is padded like the others, which a pipe has no use for.
    for line in captured.get().splitlines():
        typer.echo(line.rstrip())


def bytes_text(count: int) -> str:
    """Return a size to three digits: `512 B`, `1.21 MiB`."""
    size = float(abs(count))
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < _UNIT_BYTES or unit == "TiB":
            break
        size /= _UNIT_BYTES
    digits = 0 if unit == "B" or size >= 100 else 1 if size >= 10 else 2  # noqa: PLR2004 - three digits in all.
    return f"{'-' if count < 0 else ''}{size:,.{digits}f} {unit}"


def limit_text(limit: int) -> str:
    """Return a limit in words."""
    return "unlimited" if limit == UNLIMITED else f"{limit:,}"


def usage_text(used: int, limit: int, remaining: int) -> str:
    """Return where a counter stands."""
    if limit == UNLIMITED:
        return f"{used:,} used, unlimited"
    return f"{used:,} of {limit:,} used, {remaining:,} left"


def time_text(time: Timestamp | None) -> str:
    """Return an instant in UTC, to the second; empty for none."""
    if time is None or not time.seconds:
        return ""
    return datetime.fromtimestamp(time.seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
