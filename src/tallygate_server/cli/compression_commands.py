"""Commands that make stored data smaller, say what that loses, and show what is left: compress, impact, analyse."""

from __future__ import annotations

import re
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tallygate_server.cli.explanations import CommandError
from tallygate_server.cli.job_progress import follow_job, print_job, tell_end
from tallygate_server.cli.options import TARGET_DEFAULT, Json, Target, Tenant, time_of, with_client
from tallygate_server.cli.output import bytes_text, message_as_json, print_facts, print_json, print_message, print_table
from tallygate_server.cli.selection_options import (
    DryRun,
    FromTime,
    InTiers,
    OfAccount,
    OfDatasets,
    OfTypes,
    ToTime,
    selection_of,
)

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from tallygate.v1 import data_lifecycle_pb2, data_lifecycle_service_pb2
    from tallygate_server.client import Client

ACTOR: Final = "tallygate command line"
TIMEOUT_S: Final = 900.0
"""Of a measurement with models."""
ROWS_DEFAULT: Final = 20

_STATISTIC: Final = re.compile(r"\.(count|mean|min|max|p50|top|zone\d+_seconds)$")
"""Of windows, those that are shown; JSON and files have all."""
_LENGTH: Final = re.compile(r"(?P<number>[1-9]\d{0,7})(?P<unit>[smhdw])")
_UNITS: Final = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}


class Form(StrEnum):
    """How data is compressed."""

    LOSSLESS = "lossless"
    SUMMARY = "summary"
    BEHAVIORAL = "behavioral"
    STATISTICAL = "statistical"


class Kind(StrEnum):
    """What is wanted of compressed data."""

    ROWS = "rows"
    WINDOWS = "windows"
    SEASONS = "seasons"
    BEHAVIOR = "behavior"


FormOption = Annotated[
    Form | None, typer.Option("--form", help="How; none: as the policy of each sort of data says.", show_default=False)
]
LevelOption = Annotated[int, typer.Option("--level", min=0, max=9, help="Effort, 1 fast to 9 small; 0: 5.")]
WindowOption = Annotated[
    str, typer.Option("--window", metavar="LENGTH", help="Summary: 90s, 10m, 1h, 1d. [default: 1h]")
]
ZonesOption = Annotated[
    list[str] | None,
    typer.Option("--zones", metavar="COLUMN=BOUNDS", help="Summary: time between bounds, heart_rate=120,140,160."),
]
MaxErrorOption = Annotated[
    float | None,
    typer.Option("--max-error", min=0, max=1, help="Statistical: share of each column's range. [default: 0.01]"),
]
ColumnErrorOption = Annotated[
    list[str] | None, typer.Option("--column-error", metavar="COLUMN=SHARE", help="Statistical: for one column.")
]
SeasonalOption = Annotated[bool, typer.Option("--seasonal", help="Statistical: trend, profile and spread, no rows.")]
GapOption = Annotated[
    str, typer.Option("--gap", metavar="LENGTH", help="Behavioral: silence between sessions. [default: 30m]")
]
ActionOption = Annotated[str, typer.Option("--action", metavar="COLUMN", help="Behavioral: what names the action.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("compress")(compress)
    app.command("impact")(impact)
    app.command("analyse")(analyse)


def compress(
    tenant: Tenant,
    *,
    account: OfAccount = "",
    types: OfTypes = None,
    datasets: OfDatasets = None,
    from_time: FromTime = "",
    to_time: ToTime = "",
    tiers: InTiers = None,
    form: FormOption = None,
    level: LevelOption = 0,
    window: WindowOption = "",
    zones: ZonesOption = None,
    max_error: MaxErrorOption = None,
    column_error: ColumnErrorOption = None,
    seasonal: SeasonalOption = False,
    gap: GapOption = "",
    action: ActionOption = "",
    at: Annotated[str, typer.Option("--at", metavar="TIME", help="Not now, but then.")] = "",
    dry_run: DryRun = False,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Compress data, now or later; --dry-run measures what would come of it."""
    from tallygate.v1 import data_lifecycle_service_pb2 as wire

    settings = settings_of(
        form=form,
        level=level,
        window=window,
        zones=zones,
        max_error=max_error,
        column_error=column_error,
        seasonal=seasonal,
        gap=gap,
        action=action,
    )
    asked: dict[str, Any] = {
        "tenant_id": tenant,
        "selection": selection_of(
            account=account, types=types, datasets=datasets, from_time=from_time, to_time=to_time, tiers=tiers
        ),
        "settings": settings,
        "validate_only": dry_run,
        "actor": ACTOR,
    }

    async def ask(client: Client) -> data_lifecycle_pb2.LifecycleJob:
        if at and not dry_run:
            planned = wire.ScheduleCompressionRequest(**asked, schedule_time=time_of("--at", at))
            return (await client.call(client.lifecycle.ScheduleCompression, planned)).job
        answer = await client.call(client.lifecycle.CompressData, wire.CompressDataRequest(**asked))
        return await follow_job(client, answer.job, quiet=as_json)

    job = with_client(target, ask)
    if as_json or job.WhichOneof("result") != "compression":
        tell_end(job, as_json=as_json)
        return
    print_compression(job)


def impact(
    tenant: Tenant,
    *,
    account: OfAccount = "",
    types: OfTypes = None,
    datasets: OfDatasets = None,
    from_time: FromTime = "",
    to_time: ToTime = "",
    tiers: InTiers = None,
    form: FormOption = None,
    level: LevelOption = 0,
    window: WindowOption = "",
    zones: ZonesOption = None,
    max_error: MaxErrorOption = None,
    column_error: ColumnErrorOption = None,
    seasonal: SeasonalOption = False,
    gap: GapOption = "",
    action: ActionOption = "",
    predict: Annotated[
        str, typer.Option("--predict", metavar="COLUMN", help="Fit a small model that predicts it, before and after.")
    ] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of everything random.")] = 0,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Measure on the data what a compression would lose. Nothing is changed."""
    from tallygate.v1 import data_lifecycle_service_pb2 as wire

    settings = settings_of(
        form=form or Form.LOSSLESS,
        level=level,
        window=window,
        zones=zones,
        max_error=max_error,
        column_error=column_error,
        seasonal=seasonal,
        gap=gap,
        action=action,
    )
    request = wire.EvaluateCompressionImpactRequest(
        tenant_id=tenant,
        selection=selection_of(
            account=account, types=types, datasets=datasets, from_time=from_time, to_time=to_time, tiers=tiers
        ),
        settings=settings,
        target_column=predict,
        seed=seed,
    )

    async def ask(client: Client) -> data_lifecycle_service_pb2.EvaluateCompressionImpactResponse:
        return await client.call(client.lifecycle.EvaluateCompressionImpact, request, timeout_s=TIMEOUT_S)

    answer = with_client(target, ask)
    if as_json:
        print_message(answer)
    else:
        print_impact(answer)


def analyse(
    tenant: Tenant,
    *,
    kind: Annotated[Kind, typer.Option("--kind", help="What is wanted.")] = Kind.ROWS,
    account: OfAccount = "",
    types: OfTypes = None,
    datasets: OfDatasets = None,
    from_time: FromTime = "",
    to_time: ToTime = "",
    tiers: InTiers = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", "-c", help="Only this column; may be repeated.")
    ] = None,
    resolution: Annotated[
        str, typer.Option("--resolution", metavar="LENGTH", help="Distance of rows or length of windows: 10m.")
    ] = "",
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows that are shown.")] = ROWS_DEFAULT,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write rows or windows there, as an Arrow IPC stream.")
    ] = None,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Show what compressed data can still give, and what it cannot."""
    from tallygate.v1 import data_lifecycle_service_pb2 as wire

    request = wire.DecompressForAnalysisRequest(
        tenant_id=tenant,
        selection=selection_of(
            account=account, types=types, datasets=datasets, from_time=from_time, to_time=to_time, tiers=tiers
        ),
        analysis=f"ANALYSIS_KIND_{kind.name}",
        columns=columns or (),
        resolution=_length("--resolution", resolution),
        format=wire.RECORD_FORMAT_ARROW if output is not None else wire.RECORD_FORMAT_RECORDS,
    )

    async def ask(client: Client) -> list[data_lifecycle_service_pb2.DecompressForAnalysisResponse]:
        parts: list[data_lifecycle_service_pb2.DecompressForAnalysisResponse] = []
        shown = 0
        async for part in client.stream(client.lifecycle.DecompressForAnalysis, request):
            shown += len(part.records.records)
            # Only as many rows are kept as are shown: a dataset is larger than a terminal.
            if as_json or output is not None or shown - len(part.records.records) <= rows:
                parts.append(part)
        return parts

    parts = with_client(target, ask)
    if output is not None:
        output.write_bytes(b"".join(part.arrow_stream for part in parts))
    if as_json:
        print_json([message_as_json(part) for part in parts if not part.arrow_stream])
    else:
        print_analysis(parts, rows=rows)


def settings_of(
    *,
    form: Form | None,
    level: int,
    window: str,
    zones: list[str] | None,
    max_error: float | None,
    column_error: list[str] | None,
    seasonal: bool,
    gap: str,
    action: str,
) -> data_lifecycle_pb2.CompressionSettings | None:
    """Return the settings that the options make; None without a form: the policy decides."""
    from tallygate.v1 import data_lifecycle_pb2 as wire

    others = (level, window, zones, max_error, column_error, seasonal, gap, action)
    if form is None:
        if any(others):
            raise CommandError("say --form too: without it the policy decides everything")
        return None
    settings = wire.CompressionSettings(
        form=f"COMPRESSION_FORM_{form.name}",
        level=level,
        window=_length("--window", window),
        max_error_ratio=max_error,
        column_error_ratios=dict(_named_number("--column-error", each) for each in column_error or ()),
        seasonal=seasonal,
        session_gap=_length("--gap", gap),
        action_column=action,
    )
    for each in zones or ():
        column, equals, bounds = each.partition("=")
        try:
            settings.zones[column].values.extend(float(bound) for bound in bounds.split(","))
        except ValueError:
            equals = ""
        if not equals:
            raise CommandError(f"--zones {each}: write heart_rate=120,140,160")
    return settings


def print_compression(job: data_lifecycle_pb2.LifecycleJob) -> None:
    """Print what came of compressing: sums, each result in a line, and what was left alone."""
    report = job.compression
    results, skipped = list(report.results), list(report.skipped)
    del report.results[:]
    del report.skipped[:]
    print_job(job)
    if results:
        print_table(
            ("segment", "form", "records", "before", "after", "ratio", "value left", "can give"),
            (
                (
                    each.segment_id or f"({each.original_segment_id})",
                    _form_text(each.form),
                    f"{each.record_count:,}",
                    bytes_text(each.original_bytes),
                    bytes_text(each.compressed_bytes),
                    f"{each.compression_ratio:.3f}",
                    f"{each.value_retained:.3f}",
                    ", ".join(each.retrieval.available_analyses),
                )
                for each in results[:ROWS_DEFAULT]
            ),
            title="Compressed",
            numeric=("records", "before", "after", "ratio", "value left"),
        )
        _print_columns(results[0].columns)
        if results[0].retrieval.limitation:
            typer.echo(results[0].retrieval.limitation)
    if skipped:
        print_table(
            ("segment", "why", "explanation"),
            ((each.segment_id, each.kind, each.explanation) for each in skipped[:ROWS_DEFAULT]),
            title="Left alone",
        )
    hidden = max(len(results) - ROWS_DEFAULT, 0) + max(len(skipped) - ROWS_DEFAULT, 0)
    if hidden:
        typer.echo(f"and {hidden:,} more; --json lists all")


def print_impact(answer: data_lifecycle_service_pb2.EvaluateCompressionImpactResponse) -> None:
    """Print what a compression would lose."""
    _print_columns(answer.columns)
    facts: list[tuple[str, object]] = [
        ("records", f"{answer.record_count:,}"),
        ("before", bytes_text(answer.original_bytes)),
        ("after", bytes_text(answer.compressed_bytes)),
        ("value left", f"{answer.value_retained:.3f}"),
    ]
    if answer.HasField("accuracy_before"):
        before, after = answer.accuracy_before, answer.accuracy_after
        facts.append((f"{before.metric} of {before.model}", f"{before.value:.4f} before, {after.value:.4f} afterwards"))
    print_facts(facts)


def print_analysis(
    parts: list[data_lifecycle_service_pb2.DecompressForAnalysisResponse], *, rows: int = ROWS_DEFAULT
) -> None:
    """Print the first rows or windows, the documents, and what cannot be given."""
    records = [record for part in parts for record in part.records.records]
    if records:
        known = {name for record in records[:rows] for name in record.values.fields}
        told = [column.name for part in parts for column in part.header.columns]
        names = [name for name in told if name in known] or sorted(known)
        if any(name.endswith(".p50") for name in names):
            # Twenty statistics of each column are more than a terminal shows.
            names = [name for name in names if _STATISTIC.search(name)]
        print_table(
            ("time", *names),
            (
                (
                    record.time.ToJsonString(),
                    *(_value_text(record.values[name]) if name in record.values else "" for name in names),
                )
                for record in records[:rows]
            ),
        )
        if len(records) > rows:
            typer.echo("and more; --rows shows more of them, --output writes all to a file")
    for part in parts:
        if part.HasField("document"):
            typer.echo(typer.style(f"segment {part.document.segment_id}", bold=True))
            print_json(message_as_json(part.document)["content"])
    for part in parts:
        for gap in part.header.gaps:
            begin, end = gap.span.start_time.ToJsonString(), gap.span.end_time.ToJsonString()
            errors = ", ".join(f"{name} {gap.max_errors[name]:.6g}" for name in sorted(gap.max_errors))
            typer.echo(f"{begin} to {end}: {gap.kind}: {gap.explanation}{f' ({errors})' if errors else ''}")
    if not any(part.header.segments or part.header.gaps for part in parts):
        typer.echo("There is no such data.")


def _print_columns(columns: Any) -> None:
    print_table(
        ("column", "codec", "before", "after", "largest error", "rms error"),
        (
            (
                each.column,
                each.codec,
                bytes_text(each.original_bytes),
                bytes_text(each.compressed_bytes),
                f"{each.max_error:.6g}",
                f"{each.root_mean_square_error:.6g}",
            )
            for each in columns
        ),
        numeric=("before", "after", "largest error", "rms error"),
    )


def _form_text(form: int) -> str:
    from tallygate.v1 import data_lifecycle_pb2 as wire

    return wire.CompressionForm.Name(form).removeprefix("COMPRESSION_FORM_").lower()


def _value_text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _length(option: str, text: str) -> Duration | None:
    from google.protobuf.duration_pb2 import Duration

    if not text:
        return None
    found = _LENGTH.fullmatch(text)
    if found is None:
        raise CommandError(f"{option} {text}: write 90s, 10m, 1h, 1d or 1w")
    length = Duration()
    length.FromTimedelta(int(found["number"]) * _UNITS[found["unit"]])
    return length


def _named_number(option: str, text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        return name, float(number)
    except ValueError:
        raise CommandError(f"{option} {text}: write column=0.05") from None
