"""Commands that put, query and list stored records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, aclosing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tallygate_server.cli import record_files
from tallygate_server.cli.explanations import CommandError
from tallygate_server.cli.options import TARGET_DEFAULT, Account, Json, Target, Tenant, time_of, with_client
from tallygate_server.cli.output import bytes_text, message_as_json, print_facts, print_json, print_table, time_text
from tallygate_server.cli.selection_options import (
    FromTime,
    InTiers,
    OfAccount,
    OfDatasets,
    OfTypes,
    ToTime,
    selection_of,
)
from tallygate_server.cli.streams import progress_bar

if TYPE_CHECKING:
    from tallygate.v1 import data_lifecycle_pb2, data_lifecycle_service_pb2
    from tallygate_server.client import Client

CALL_TIMEOUT_S: Final = 120.0
ROWS_DEFAULT: Final = 20
PAGE_DEFAULT: Final = 50

DataType = Annotated[str, typer.Argument(metavar="TYPE", help="Sort of data, such as heart_rate.")]


class State(StrEnum):
    """Where a segment is in its life."""

    LIVE = "live"
    REPLACED = "replaced"
    QUARANTINED = "quarantined"


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("put")(put)
    app.command("query")(query)
    app.command("datasets")(datasets)
    app.command("segments")(segments)


# --- Putting ----------------------------------------------------------------------------------------------------


def put(
    tenant: Tenant,
    account: Account,
    data_type: DataType,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="CSV, Parquet or Arrow stream with a column of times, or JSON Lines.",
            exists=True,
            dir_okay=False,
        ),
    ],
    *,
    time_column: Annotated[str, typer.Option("--time-column", help="Name of the times in the file.")] = "time",
    documents: Annotated[bool, typer.Option("--documents", help="Keep JSON Lines as documents.")] = False,
    source: Annotated[
        str, typer.Option("--source", help="Where the records come from. [default: the file's name]")
    ] = "",
    again: Annotated[bool, typer.Option("--again", help="Also if this very file was put before.")] = False,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Put the records of a file. Putting the same file again, after an error, puts nothing twice."""
    from tallygate.v1 import data_lifecycle_service_pb2 as wire

    def requests() -> Iterator[wire.PutRecordsRequest]:
        digest = "" if again else record_files.digest_of(file)
        for number, batch in enumerate(_batches(file, time_column)):
            yield wire.PutRecordsRequest(
                tenant_id=tenant,
                account_id=account,
                data_type=data_type,
                shape="DATASET_SHAPE_DOCUMENTS" if documents else None,
                request_id=f"file-{digest}-{number}" if digest else "",
                source=source or file.name[:200],
                **batch,
            )

    answers = _put_all(requests, target, quiet=as_json)
    if not answers:
        raise CommandError(f"{file}: holds no record")
    if as_json:
        print_json([message_as_json(answer) for answer in answers])
    else:
        _print_put(answers)


def _batches(file: Path, time_column: str) -> Iterator[dict[str, Any]]:
    suffix = file.suffix.lower()
    if suffix in record_files.JSON_LINES:
        for batch in record_files.record_batches(file, time_column=time_column):
            yield {"records": batch}
    elif suffix in record_files.TABLES:
        for stream, _count in record_files.arrow_streams(file, time_column=time_column):
            yield {"arrow_stream": stream}
    else:
        known = ", ".join(sorted(record_files.JSON_LINES | record_files.TABLES))
        raise CommandError(f"{file}: must end in one of {known}")


def _put_all(
    requests: Callable[[], Iterator[data_lifecycle_service_pb2.PutRecordsRequest]], target: str, *, quiet: bool
) -> list[data_lifecycle_service_pb2.PutRecordsResponse]:
    async def ask(client: Client) -> list[data_lifecycle_service_pb2.PutRecordsResponse]:
        answers = []
        done = 0
        with progress_bar("records", quiet=quiet) as advance:
            for request in requests():
                answer = await client.call(client.lifecycle.PutRecords, request, timeout_s=CALL_TIMEOUT_S)
                answers.append(answer)
                done += answer.record_count
                advance(done, 0)
        return answers

    return with_client(target, ask)


def _print_put(answers: list[data_lifecycle_service_pb2.PutRecordsResponse]) -> None:
    dataset = answers[-1].dataset
    put_before = sum(answer.record_count for answer in answers if answer.replayed)
    total = sum(answer.record_count for answer in answers)
    print_facts(
        [
            ("dataset", dataset.dataset_id),
            ("records put", f"{total - put_before:,}"),
            ("put before", f"{put_before:,}" if put_before else ""),
            ("took another's place", f"{sum(answer.replaced_count for answer in answers):,}"),
            ("records in all", f"{dataset.record_count:,}"),
            ("quality", f"{dataset.quality_score:.3f}"),
        ]
    )
    findings = [finding for answer in answers for finding in answer.quality.findings]
    if findings:
        print_table(
            ["finding", "column", "count", "first", "what was found"],
            [
                (each.kind, each.column, f"{each.count:,}", time_text(each.first_time), each.explanation)
                for each in sorted(findings, key=lambda each: -each.count)[:ROWS_DEFAULT]
            ],
            numeric=["count"],
        )


# --- Querying ---------------------------------------------------------------------------------------------------


def query(
    tenant: Tenant,
    account: Account,
    data_type: DataType,
    *,
    start: Annotated[str, typer.Option("--from", metavar="TIME", help="Only records at or after it.")] = "",
    end: Annotated[str, typer.Option("--to", metavar="TIME", help="Only records before it.")] = "",
    columns: Annotated[list[str] | None, typer.Option("--column", "-c", help="Only this one; may be repeated.")] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=0, help="Most records; 0: all. [default: 20, or all with --output]")
    ] = None,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Also what only a compressed form is left of, nearly as it was.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="Write to a file: .csv, .parquet, .arrow or .jsonl."),
    ] = None,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Show records of every tier, in the order of time, or write them to a file."""
    from tallygate.v1 import data_lifecycle_service_pb2 as wire

    most = limit if limit is not None else 0 if output is not None else ROWS_DEFAULT
    lines = output is None or output.suffix.lower() in record_files.JSON_LINES
    if output is not None and output.suffix.lower() not in record_files.JSON_LINES | record_files.TABLES:
        raise CommandError(f"{output}: must end in .csv, .parquet, .arrow or .jsonl")
    request = wire.QueryRecordsRequest(
        tenant_id=tenant,
        account_id=account,
        data_type=data_type,
        start_time=time_of("--from", start),
        end_time=time_of("--to", end),
        columns=columns or (),
        record_count_max=most,
        allow_approximation=approximate,
        format="RECORD_FORMAT_RECORDS" if lines else "RECORD_FORMAT_ARROW",
    )
    if output is not None:
        header, totals = _write(request, output, target, quiet=as_json)
        if as_json:
            print_json({"header": message_as_json(header), "totals": message_as_json(totals)})
            return
        _print_gaps(header)
        typer.echo(f"{totals.record_count:,} records from {totals.segment_count:,} segments are in {output}")
        return
    header, records, totals = _read(request, target)
    if as_json:
        print_json(
            {
                "header": message_as_json(header),
                "records": [message_as_json(record) for record in records],
                "totals": message_as_json(totals),
            }
        )
        return
    _print_gaps(header)
    _print_records(header, records)
    read = bytes_text(totals.read_bytes)
    typer.echo(f"{totals.record_count:,} records from {totals.segment_count:,} segments ({read})")


def _read(
    request: data_lifecycle_service_pb2.QueryRecordsRequest, target: str
) -> tuple[
    data_lifecycle_service_pb2.RecordsHeader,
    list[data_lifecycle_pb2.Record],
    data_lifecycle_service_pb2.RecordsTotals,
]:
    from tallygate.v1 import data_lifecycle_service_pb2 as wire

    header, totals = wire.RecordsHeader(), wire.RecordsTotals()
    records: list[data_lifecycle_pb2.Record] = []

    async def ask(client: Client) -> None:
        async with aclosing(client.stream(client.lifecycle.QueryRecords, request)) as parts:
            async for part in parts:
                match part.WhichOneof("part"):
                    case "header":
                        header.CopyFrom(part.header)
                    case "records":
                        records.extend(part.records.records)
                    case "totals":
                        totals.CopyFrom(part.totals)

    with_client(target, ask)
    return header, records, totals


def _write(
    request: data_lifecycle_service_pb2.QueryRecordsRequest, output: Path, target: str, *, quiet: bool
) -> tuple[data_lifecycle_service_pb2.RecordsHeader, data_lifecycle_service_pb2.RecordsTotals]:
    from tallygate.v1 import data_lifecycle_service_pb2 as wire

    header, totals = wire.RecordsHeader(), wire.RecordsTotals()

    async def ask(client: Client) -> None:
        done = 0
        async with AsyncExitStack() as stack:
            parts = await stack.enter_async_context(aclosing(client.stream(client.lifecycle.QueryRecords, request)))
            advance = stack.enter_context(progress_bar("bytes", quiet=quiet))
            file = stack.enter_context(record_files.written(output))
            async for part in parts:
                match part.WhichOneof("part"):
                    case "header":
                        header.CopyFrom(part.header)
                    case "records":
                        done += file.write("".join(map(_line, part.records.records)).encode())
                    case "arrow_stream":
                        done += file.write(part.arrow_stream)
                    case "totals":
                        totals.CopyFrom(part.totals)
                advance(done, 0)

    with_client(target, ask)
    return header, totals


def _line(record: data_lifecycle_pb2.Record) -> str:
    from google.protobuf import json_format

    told: dict[str, Any] = {record_files.TIME: record.time.ToJsonString()}
    if record.record_id:
        told[record_files.RECORD_ID] = record.record_id
    return json.dumps(told | json_format.MessageToDict(record.values), ensure_ascii=False) + "\n"


def _print_gaps(header: data_lifecycle_service_pb2.RecordsHeader) -> None:
    if header.HasField("visible_start_time"):
        typer.echo(f"The account's plan shows data from {time_text(header.visible_start_time)} on.")
    if header.gaps:
        print_table(
            ["not exact", "from", "to", "why"],
            [
                (gap.kind, time_text(gap.span.start_time), time_text(gap.span.end_time), gap.explanation)
                for gap in header.gaps
            ],
        )


def _print_records(header: data_lifecycle_service_pb2.RecordsHeader, records: list[data_lifecycle_pb2.Record]) -> None:
    from google.protobuf import json_format

    values = [json_format.MessageToDict(record.values) for record in records]
    names = [column.name for column in header.columns]
    with_ids = any(record.record_id for record in records)
    heads = ["time", *(["id"] if with_ids else []), *(names or ["document"])]
    rows = []
    for record, told in zip(records, values, strict=True):
        cells = [_cell(told.get(name)) for name in names] if names else [json.dumps(told, ensure_ascii=False)]
        rows.append([record.time.ToJsonString(), *([record.record_id] if with_ids else []), *cells])
    units = {column.name: f"{column.name} [{column.unit}]" for column in header.columns if column.unit}
    print_table([units.get(head, head) for head in heads], rows)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- Listing ----------------------------------------------------------------------------------------------------


def datasets(
    tenant: Tenant,
    *,
    account: OfAccount = "",
    data_type: Annotated[str, typer.Option("--type", help="Only this sort of data.")] = "",
    page_size: Annotated[int, typer.Option("--page-size", min=1, max=1_000, help="Most to show.")] = PAGE_DEFAULT,
    page_token: Annotated[str, typer.Option("--page-token", help="Goes on after the page before.")] = "",
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """List which records there are of whom, and what each tier holds of them."""
    from tallygate.v1 import data_lifecycle_pb2 as messages
    from tallygate.v1 import data_lifecycle_service_pb2 as wire

    request = wire.ListDatasetsRequest(
        tenant_id=tenant, account_id=account, data_type=data_type, page_size=page_size, page_token=page_token
    )

    async def ask(client: Client) -> wire.ListDatasetsResponse:
        return await client.call(client.lifecycle.ListDatasets, request)

    answer = with_client(target, ask)
    if as_json:
        print_json(message_as_json(answer))
        return
    rows = []
    for each in answer.datasets:
        held: dict[int, str] = {tier.tier: bytes_text(tier.stored_bytes) for tier in each.tiers}
        rows.append(
            (
                each.account_id,
                each.data_type,
                f"{each.record_count:,}",
                time_text(each.span.start_time),
                time_text(each.span.end_time),
                *(held.get(tier, "") for tier in messages.StorageTier.values()[1:]),
                f"{each.quality_score:.3f}",
                each.dataset_id,
            )
        )
    print_table(
        ["account", "type", "records", "from", "to", "hot", "warm", "cold", "quality", "dataset"],
        rows,
        numeric=["records", "hot", "warm", "cold", "quality"],
    )
    _print_next(answer.next_page_token)


def segments(
    tenant: Tenant,
    *,
    account: OfAccount = "",
    types: OfTypes = None,
    dataset_ids: OfDatasets = None,
    from_time: FromTime = "",
    to_time: ToTime = "",
    tiers: InTiers = None,
    state: Annotated[State | None, typer.Option("--state", help="Only those in this state.")] = None,
    page_size: Annotated[int, typer.Option("--page-size", min=1, max=1_000, help="Most to show.")] = PAGE_DEFAULT,
    page_token: Annotated[str, typer.Option("--page-token", help="Goes on after the page before.")] = "",
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """List the pieces that records lie in: where, in which form, and how large."""
    from tallygate.v1 import data_lifecycle_pb2 as messages
    from tallygate.v1 import data_lifecycle_service_pb2 as wire

    request = wire.ListDataSegmentsRequest(
        tenant_id=tenant,
        selection=selection_of(
            account=account, types=types, datasets=dataset_ids, from_time=from_time, to_time=to_time, tiers=tiers
        ),
        state=f"SEGMENT_STATE_{state.name}" if state is not None else None,
        page_size=page_size,
        page_token=page_token,
    )

    async def ask(client: Client) -> wire.ListDataSegmentsResponse:
        return await client.call(client.lifecycle.ListDataSegments, request)

    answer = with_client(target, ask)
    if as_json:
        print_json(message_as_json(answer))
        return

    def word(names: Any, prefix: str, number: int) -> str:
        return str(names.Name(number)).removeprefix(prefix).lower()

    print_table(
        ["account", "type", "from", "to", "tier", "form", "state", "records", "stored", "plain", "segment"],
        [
            (
                each.account_id,
                each.data_type,
                time_text(each.span.start_time),
                time_text(each.span.end_time),
                word(messages.StorageTier, "STORAGE_TIER_", each.tier),
                word(messages.CompressionForm, "COMPRESSION_FORM_", each.form),
                word(messages.SegmentState, "SEGMENT_STATE_", each.state),
                f"{each.record_count:,}",
                bytes_text(each.stored_bytes),
                bytes_text(each.original_bytes),
                each.segment_id,
            )
            for each in answer.segments
        ],
        numeric=["records", "stored", "plain"],
    )
    _print_next(answer.next_page_token)


def _print_next(token: str) -> None:
    if token:
        typer.echo(f"There is more: --page-token {token}")
