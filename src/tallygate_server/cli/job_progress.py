"""Jobs on stored data as people see them: a bar while they run, and what came of them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import typer

from tallygate_server.cli.explanations import EXIT_ERROR, EXIT_NO
from tallygate_server.cli.output import bytes_text, console, print_facts, print_message, print_table, time_text

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from tallygate.v1 import data_lifecycle_pb2
    from tallygate_server.client import Client

RETRY_S: Final = 0.5
"""Pause before a watch is taken up again that broke: the job may go on elsewhere."""
RETRIES_MAX: Final = 120
"""Watches in a row that break at once before the command gives up; the job goes on all the same."""
ROWS_MAX: Final = 10
"""Rows of a list in a report; JSON has all."""
HIDDEN: Final = frozenset(
    {"checksum_sha256", "codec", "create_time", "compress_time", "dataset_id", "encrypted", "state"}
)
"""Columns of such lists that only programs look at."""


async def follow_job(
    client: Client, job: data_lifecycle_pb2.LifecycleJob, *, quiet: bool = False
) -> data_lifecycle_pb2.LifecycleJob:
    """Watch a job to its end, with a bar unless it is quiet; return it as it is then.

    Goes on when the server is restarted in between, as the job does. Raises CallFailed.
    """
    from tallygate.v1 import data_lifecycle_service_pb2
    from tallygate_server.client import CallFailed

    request = data_lifecycle_service_pb2.WatchLifecycleJobRequest(tenant_id=job.tenant_id, job_id=job.job_id)
    retries = 0
    try:
        with _bar(job, quiet=quiet) as show:
            while not has_ended(job):
                try:
                    async for message in client.stream(client.lifecycle.WatchLifecycleJob, request):
                        job = message.job
                        show(job)
                        retries = 0
                except CallFailed as error:
                    retries += 1
                    if not error.may_be_retried or retries > RETRIES_MAX:
                        raise
                    await asyncio.sleep(RETRY_S)
    except asyncio.CancelledError:
        typer.echo(
            f"The job goes on. Watch it with: tallygate data job watch {job.tenant_id} {job.job_id}",
            err=True,
        )
        raise
    return job


def has_ended(job: data_lifecycle_pb2.LifecycleJob) -> bool:
    """Tell whether nothing will happen to the job any more."""
    from tallygate.v1 import data_lifecycle_pb2 as wire

    return job.state not in {
        wire.LIFECYCLE_JOB_STATE_UNSPECIFIED,
        wire.LIFECYCLE_JOB_STATE_PENDING,
        wire.LIFECYCLE_JOB_STATE_RUNNING,
    }


def tell_end(job: data_lifecycle_pb2.LifecycleJob, *, as_json: bool) -> None:
    """Print a job and what came of it; exits with 2 for one that failed, and with 1 for one that was cancelled."""
    from tallygate.v1 import data_lifecycle_pb2 as wire

    if as_json:
        print_message(job)
    else:
        print_job(job)
    if job.state == wire.LIFECYCLE_JOB_STATE_FAILED:
        raise typer.Exit(EXIT_ERROR)
    if job.state == wire.LIFECYCLE_JOB_STATE_CANCELED:
        raise typer.Exit(EXIT_NO)


def print_job(job: data_lifecycle_pb2.LifecycleJob) -> None:
    """Print a job and, when it has ended, its report or its error."""
    dry = " (a dry run: nothing was changed)" if job.validate_only else ""
    typer.echo(f"{typer.style(f'{kind_text(job)} {job.job_id}', bold=True)}: {state_text(job)}{dry}")
    progress = job.progress
    print_facts(
        [
            ("account", job.account_id),
            ("phase", "" if has_ended(job) else progress.phase),
            ("steps", _steps_text(progress)),
            ("read", bytes_text(progress.read_bytes) if progress.read_bytes else ""),
            ("written", bytes_text(progress.written_bytes) if progress.written_bytes else ""),
            ("asked for by", job.actor),
            ("request id", job.request_id),
            ("attempts", job.attempt_count if job.attempt_count > 1 else ""),
            ("asked for", time_text(job.create_time)),
            ("due", time_text(job.schedule_time)),
            ("started", time_text(job.start_time)),
            ("ended", time_text(job.end_time)),
            ("will end", "" if has_ended(job) else time_text(progress.estimated_end_time)),
        ]
    )
    if job.HasField("error"):
        typer.echo(f"{typer.style('error', bold=True)}: {job.error.message} ({_reason(job)})")
    if (result := job.WhichOneof("result")) is not None:
        print_report(getattr(job, result))


def print_report(report: Message) -> None:
    """Print any report: its values, and the first of what it lists."""
    facts: list[tuple[str, object]] = []
    lists: list[tuple[str, list[Message]]] = []
    told = {field.name for field, _ in report.ListFields()}
    # That nothing was found or done is an answer too.
    facts += [
        (name.replace("_", " "), "0")
        for name in ("segment_count", "record_count", "finding_count")
        if name in report.DESCRIPTOR.fields_by_name and name not in told
    ]
    for field, value in report.ListFields():
        name = field.name.replace("_", " ")
        if field.is_repeated and field.message_type is not None and field.message_type.GetOptions().map_entry:
            facts += [(f"{name}: {key}", _map_text(value[key])) for key in sorted(value)]
        elif field.is_repeated and field.message_type is not None:
            lists.append((name, list(value)))
        elif field.is_repeated:
            facts.append((name, ", ".join(str(each) for each in value)))
        elif field.message_type is not None and field.message_type.full_name != _TIMESTAMP:
            typer.echo(typer.style(name, bold=True))
            print_report(value)
        else:
            facts.append((name, _value_text(field, value)))
    print_facts(facts)
    for name, rows in lists:
        _print_list(name, rows)


def kind_text(job: data_lifecycle_pb2.LifecycleJob) -> str:
    """Return what the job does, in words."""
    from tallygate.v1 import data_lifecycle_pb2 as wire

    return _words(wire.LifecycleJobKind.Name(job.kind), "LIFECYCLE_JOB_KIND_")


def state_text(job: data_lifecycle_pb2.LifecycleJob) -> str:
    """Return where the job is, in words."""
    from tallygate.v1 import data_lifecycle_pb2 as wire

    return _words(wire.LifecycleJobState.Name(job.state), "LIFECYCLE_JOB_STATE_")


_TIMESTAMP: Final = "google.protobuf.Timestamp"


@contextmanager
def _bar(job: data_lifecycle_pb2.LifecycleJob, *, quiet: bool) -> Iterator[Any]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[moved]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console(err=True),
        disable=quiet or not sys.stderr.isatty(),
        transient=True,
    ) as progress:
        task = progress.add_task(kind_text(job), total=None, moved="")

        def show(job: data_lifecycle_pb2.LifecycleJob) -> None:
            known = job.progress
            progress.update(
                task,
                description=f"{kind_text(job)}: {known.phase or state_text(job)}",
                completed=known.done_count,
                total=known.total_count or None,
                moved=_moved_text(known),
            )

        show(job)
        yield show


def _moved_text(progress: data_lifecycle_pb2.JobProgress) -> str:
    parts = []
    if progress.read_bytes:
        parts.append(f"{bytes_text(progress.read_bytes)} read")
    if progress.written_bytes:
        parts.append(f"{bytes_text(progress.written_bytes)} written")
    return ", ".join(parts)


def _steps_text(progress: data_lifecycle_pb2.JobProgress) -> str:
    if not progress.total_count:
        return f"{progress.done_count:,}" if progress.done_count else ""
    return f"{progress.done_count:,} of {progress.total_count:,}"


def _reason(job: data_lifecycle_pb2.LifecycleJob) -> str:
    from google.rpc import error_details_pb2

    info = error_details_pb2.ErrorInfo()
    found = any(detail.Unpack(info) for detail in job.error.details)
    return info.reason if found else ""


def _print_list(name: str, rows: list[Message]) -> None:
    shown = rows[:ROWS_MAX]
    fields = [field for field in shown[0].DESCRIPTOR.fields if _is_plain(field) and _any_set(field, shown)]
    if not fields:
        typer.echo(f"{name}: {len(rows):,}")
        return
    numeric = [field.name.replace("_", " ") for field in fields if field.cpp_type in _numbers()]
    print_table(
        [field.name.replace("_", " ") for field in fields],
        ([_value_text(field, getattr(row, field.name)) for field in fields] for row in shown),
        title=name,
        numeric=numeric,
    )
    if len(rows) > len(shown):
        typer.echo(f"and {len(rows) - len(shown):,} more; --json lists all")


def _is_plain(field: Any) -> bool:
    message = field.message_type
    return field.name not in HIDDEN and not field.is_repeated and (message is None or message.full_name == _TIMESTAMP)


def _any_set(field: Any, rows: Iterable[Message]) -> bool:
    return any(field in {each for each, _ in row.ListFields()} for row in rows)


def _numbers() -> frozenset[int]:
    from google.protobuf.descriptor import FieldDescriptor as Field

    return frozenset({Field.CPPTYPE_INT32, Field.CPPTYPE_INT64, Field.CPPTYPE_DOUBLE})


def _value_text(field: Any, value: Any) -> str:
    if field.message_type is not None:
        return time_text(value)
    if field.enum_type is not None:
        name = field.enum_type.values_by_number[value].name
        # The prefix is the enum's own name, as in every enum of the contract.
        return _words(name, _prefix(field.enum_type.name))
    if field.name.endswith("_bytes") or field.name == "bytes":
        return bytes_text(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return value.hex() if isinstance(value, bytes) else str(value)


def _map_text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _prefix(enum_name: str) -> str:
    return "".join(f"_{letter}" if letter.isupper() else letter for letter in enum_name).lstrip("_").upper() + "_"


def _words(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower().replace("_", " ")
