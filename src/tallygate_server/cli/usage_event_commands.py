"""Commands about usage events: record a file of them, list what was recorded."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Final

import typer

from tallygate_server.cli.explanations import EXIT_NO, CommandError
from tallygate_server.cli.options import TARGET_DEFAULT, Json, Target, Tenant
from tallygate_server.cli.options import with_client as _with_client
from tallygate_server.cli.output import console, print_facts, print_json, print_message, print_table, time_text

if TYPE_CHECKING:
    from google.rpc import status_pb2

    from tallygate.v1 import usage_event_pb2, usage_service_pb2
    from tallygate_server.client import Client

BATCH_EVENTS_MAX: Final = 1_000
BATCH_BYTES_MAX: Final = 3 * 1_048_576
"""Below what a server takes as one message."""
LINE_BYTES_MAX: Final = 1_048_576
REFUSED_KEPT_MAX: Final = 10_000
"""Refused lines that are told with --json; all are named on standard error as they come."""
GIVE_UP_AFTER_S: Final = 60.0
RETRY_PAUSE_S: Final = 0.5
EVENTS_DEFAULT: Final = 20
NANOS_PER_UNIT: Final = 1_000_000_000
_ATTRIBUTES: Final = ("id", "source", "type", "subject", "time", "data", "ai", "client")
_STANDARD_INPUT: Final = Path("-")


class LineError(Exception):
    """A line is no event; the message says why."""


@dataclass(slots=True)
class Report:
    """What became of a file."""

    recorded: int = 0
    duplicates: int = 0
    refused: list[dict[str, Any]] = field(default_factory=list)
    """By line: `line`, `event_id`, `reason`, `message`; the first ones."""
    refused_count: int = 0
    costs: Counter[str] = field(default_factory=Counter)
    """Nanos of what was recorded, by currency."""

    def refuse(self, line: int, event_id: str, reason: str, message: str) -> None:
        """Name a line that was refused, at once."""
        self.refused_count += 1
        typer.secho(f"line {line}: {message} ({reason})", err=True, fg="red")
        if len(self.refused) < REFUSED_KEPT_MAX:
            self.refused.append({"line": line, "event_id": event_id, "reason": reason, "message": message})

    def as_json(self) -> dict[str, Any]:
        """Return the report for programs."""
        return {
            "recorded": self.recorded,
            "duplicates": self.duplicates,
            "refused": self.refused_count,
            "cost_nanos": dict(self.costs),
            "refused_lines": self.refused,
        }


def record(
    tenant: Tenant,
    file: Annotated[
        Path, typer.Argument(metavar="FILE.jsonl", help="One event a line, as CloudEvents JSON; - for standard input.")
    ],
    *,
    give_up_after: Annotated[
        float, typer.Option(min=0.0, help="Seconds to keep trying while the server is away.")
    ] = GIVE_UP_AFTER_S,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Record a file of usage events, a thousand at a time. Exit code 1 when any line is refused.

    Each line is a JSON object with `id`, `source`, `type` and `subject` (the account), and as may be `time`, `data`,
    `ai` and `client`; other attributes are left out. Events are recorded once by source and id: to go on after an
    interruption, record the same file again.
    """
    if file != _STANDARD_INPUT and not file.is_file():
        raise CommandError(f"{file}: there is no such file")
    report = Report()
    if file == _STANDARD_INPUT:
        _record(target, tenant, sys.stdin.buffer, report, give_up_after=give_up_after, size=0, quiet=as_json)
    else:
        with file.open("rb") as lines:
            size = file.stat().st_size
            _record(target, tenant, lines, report, give_up_after=give_up_after, size=size, quiet=as_json)
    if as_json:
        print_json(report.as_json())
    else:
        _print_report(report)
    if report.refused_count:
        raise typer.Exit(EXIT_NO)


def events(
    tenant: Tenant,
    *,
    account: Annotated[str, typer.Option("--account", "-a", metavar="ACCOUNT", help="Only this account.")] = "",
    event_type: Annotated[str, typer.Option("--type", help="Only events of this type.")] = "",
    source: Annotated[str, typer.Option("--source", help="Only events of this source.")] = "",
    event_id: Annotated[str, typer.Option("--id", help="Only events with this id.")] = "",
    start: Annotated[str, typer.Option("--start", metavar="TIME", help="From here, such as 2026-12-01 (UTC).")] = "",
    end: Annotated[str, typer.Option("--end", metavar="TIME", help="Until before this.")] = "",
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1_000, help="Events to show.")] = EVENTS_DEFAULT,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """List usage events as they were recorded, newest first, with what each one cost."""
    from tallygate.v1 import usage_service_pb2

    request = usage_service_pb2.ListUsageEventsRequest(
        tenant_id=tenant,
        account_id=account,
        event_type=event_type,
        source=source,
        event_id=event_id,
        start_time=_time("--start", start),
        end_time=_time("--end", end),
        page_size=count,
    )
    page = _with_client(target, lambda client: client.call(client.usage.ListUsageEvents, request))
    if as_json:
        print_message(page)
        return
    if not page.events:
        typer.echo("There are no such events.")
        return
    print_table(
        ("happened", "account", "type", "source", "id", "tokens", "cost", "meters"),
        ((_row(each)) for each in page.events),
        numeric=("tokens", "cost"),
    )
    if page.next_page_token:
        typer.echo(f"There are more than {count}.")


def cost_text(nanos: int, currency: str) -> str:
    """Return a cost in the currency's major unit, exactly; empty without a currency."""
    if not currency:
        return ""
    units, rest = divmod(nanos, NANOS_PER_UNIT)
    decimals = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{units:,}.{decimals} {currency}"


def event_of(line: bytes) -> usage_event_pb2.UsageEvent:
    """Return the event that a line is; raise LineError."""
    from google.protobuf.json_format import ParseDict, ParseError

    from tallygate.v1 import usage_event_pb2

    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise LineError(f"is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise LineError("is no JSON object")
    known = {name: found[name] for name in _ATTRIBUTES if found.get(name) is not None}
    if not isinstance(known.get("data", {}), dict):
        raise LineError("data: is no JSON object")
    try:
        return ParseDict(known, usage_event_pb2.UsageEvent())
    except (ParseError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise LineError(str(error)) from None


@dataclass(slots=True)
class _Batch:
    """Events on their way, with the lines that they stand on."""

    events: list[usage_event_pb2.UsageEvent] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    read_bytes: int = 0
    message_bytes: int = 0

    @property
    def full(self) -> bool:
        return len(self.events) >= BATCH_EVENTS_MAX or self.message_bytes >= BATCH_BYTES_MAX


def _record(
    target: str,
    tenant: str,
    lines: IO[bytes],
    report: Report,
    *,
    give_up_after: float,
    size: int,
    quiet: bool,
) -> None:
    async def send_all(client: Client) -> None:
        with _progress_bar(size, report, quiet=quiet) as note:
            for batch in _batches(lines, report):
                if batch.events:
                    await _send(client, tenant, batch, report, give_up_after=give_up_after)
                note(batch.read_bytes)

    _with_client(target, send_all)


def _batches(lines: IO[bytes], report: Report) -> Iterator[_Batch]:
    batch = _Batch()
    number = 0
    while line := lines.readline(LINE_BYTES_MAX + 1):
        number += 1
        batch.read_bytes += len(line)
        if len(line) > LINE_BYTES_MAX:
            report.refuse(number, "", "LINE_TOO_LONG", f"is longer than {LINE_BYTES_MAX} bytes")
            while line and not line.endswith(b"\n"):
                line = lines.readline(LINE_BYTES_MAX)
                batch.read_bytes += len(line)
            continue
        if not line.strip():
            continue
        try:
            event = event_of(line)
        except LineError as error:
            report.refuse(number, "", "LINE_UNREADABLE", str(error))
            continue
        batch.events.append(event)
        batch.lines.append(number)
        batch.message_bytes += event.ByteSize()
        if batch.full:
            yield batch
            batch = _Batch()
    yield batch


async def _send(client: Client, tenant: str, batch: _Batch, report: Report, *, give_up_after: float) -> None:
    """Record one batch, again and again while the server is away: what was recorded is not recorded twice."""
    from tallygate.v1 import usage_service_pb2
    from tallygate_server.client import CallFailed

    request = usage_service_pb2.RecordUsageRequest(tenant_id=tenant, events=batch.events)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + give_up_after
    while True:
        try:
            response = await client.call(client.usage.RecordUsage, request)
        except CallFailed as failure:
            if not failure.may_be_retried or loop.time() >= deadline:
                raise
            await asyncio.sleep(max(RETRY_PAUSE_S, failure.retry_delay_s))
        else:
            _note_results(batch, response, report)
            return


def _note_results(batch: _Batch, response: usage_service_pb2.RecordUsageResponse, report: Report) -> None:
    from tallygate.v1 import usage_service_pb2

    for index, (line, result) in enumerate(zip(batch.lines, response.results, strict=True)):
        if result.outcome == usage_service_pb2.RECORD_OUTCOME_REFUSED:
            # Where it stands in the file is told instead.
            message = result.error.message.replace(f"events[{index}].", "")
            report.refuse(line, result.event_id, _reason(result.error), message)
        elif result.outcome == usage_service_pb2.RECORD_OUTCOME_DUPLICATE:
            report.duplicates += 1
        else:
            report.recorded += 1
            if result.cost_currency_code:
                report.costs[result.cost_currency_code] += result.cost_nanos


def _reason(error: status_pb2.Status) -> str:
    from google.rpc import error_details_pb2

    info = error_details_pb2.ErrorInfo()
    return next((info.reason for detail in error.details if detail.Unpack(info)), "UNKNOWN")


@contextmanager
def _progress_bar(size: int, report: Report, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Show how much of the file is done; give the function that notes bytes."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    with Progress(
        TextColumn("events"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[recorded]:,} recorded, {task.fields[refused]:,} refused"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console(err=True),
        disable=quiet or not sys.stderr.isatty(),
        transient=True,
    ) as progress:
        task = progress.add_task("events", total=size or None, recorded=0, refused=0)

        def note(read_bytes: int) -> None:
            progress.update(task, advance=read_bytes, recorded=report.recorded, refused=report.refused_count)

        yield note


def _print_report(report: Report) -> None:
    print_facts(
        (
            ("recorded", f"{report.recorded:,}"),
            ("recorded before", f"{report.duplicates:,}" if report.duplicates else ""),
            ("refused", f"{report.refused_count:,}" if report.refused_count else ""),
            *(("cost", cost_text(nanos, currency)) for currency, nanos in sorted(report.costs.items())),
        )
    )


def _row(recorded: usage_event_pb2.RecordedUsageEvent) -> tuple[object, ...]:
    event = recorded.event
    tokens = f"{event.ai.input_tokens + event.ai.output_tokens:,}" if event.HasField("ai") else ""
    return (
        time_text(event.time),
        event.subject,
        event.type,
        event.source,
        event.id,
        tokens,
        cost_text(recorded.cost_nanos, recorded.cost_currency_code),
        ", ".join(recorded.meter_keys),
    )


def _time(option: str, text: str) -> datetime | None:
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{option} {text}: say a time such as 2026-12-01 or 2026-12-01T09:30") from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
