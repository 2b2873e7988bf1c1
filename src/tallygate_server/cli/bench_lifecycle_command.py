"""`tallygate bench-lifecycle`: measure the archive's codec against Parquet, Postgres and CSV, in one run."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tallygate_server.cli.explanations import EXIT_NO, CommandError
from tallygate_server.cli.options import Json
from tallygate_server.cli.output import console, print_facts, print_json, print_table

if TYPE_CHECKING:
    from tallygate_server.bench.lifecycle import CodecReport

SIZE_COLUMNS: Final = (
    *("file", "rows", "CSV", "Postgres heap", "index", "Parquet zstd 3", "Parquet tuned", "cold"),
    *("cold / Parquet", "cold / tuned", "identical"),
)
SPEED_COLUMNS: Final = ("file", "rows", "encode", "Parquet", "times", "decode", "Parquet", "all threads", "times")


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command("bench-lifecycle", rich_help_panel="Prove and measure")(bench_lifecycle)


def bench_lifecycle(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[CSV]...", help="Files of records; none: made-up ones.", exists=True, dir_okay=False),
    ] = None,
    *,
    level: Annotated[int, typer.Option("--level", min=1, max=9, help="From 1 (fast) to 9 (small).")] = 5,
    turns: Annotated[int, typer.Option("--turns", min=1, help="Repetitions, of which the median counts.")] = 31,
    directory: Annotated[
        Path | None, typer.Option(help="Where the database goes while it runs.", exists=True, file_okay=False)
    ] = None,
    as_json: Json = False,
    assert_floor: Annotated[bool, typer.Option("--assert", help="Exit code 1 when a promise is missed.")] = False,
) -> None:
    """Measure bytes and speed of archived records against Parquet with zstd, plain Postgres rows and CSV.

    The time of a record is the column named like one, or the first. Starts a private PostgreSQL in a directory that is
    thrown away.
    """
    from tallygate_server.bench.lifecycle import run_codec_benchmark
    from tallygate_server.bench.record_files import NoRecords
    from tallygate_server.telemetry import configure_logging

    configure_logging(level="warning", log_format="console")
    with console(err=True).status("reading") as status:
        try:
            report = asyncio.run(
                run_codec_benchmark(files or (), level=level, turns=turns, parent_dir=directory, note=status.update)
            )
        except NoRecords as error:
            raise CommandError(str(error)) from None
    if as_json:
        print_json(report.as_json())
    else:
        _print_report(report)
    if assert_floor and not report.holds:
        raise typer.Exit(EXIT_NO)


def _print_report(report: CodecReport) -> None:
    from tallygate_server.bench.lifecycle import ENVELOPE_BYTES, RATIO_CEILING, SPEED_FLOOR
    from tallygate_server.lifecycle.columnar import SEGMENT_ROWS_MAX

    print_table(
        SIZE_COLUMNS,
        [
            (
                file.name,
                f"{file.rows:,}",
                f"{file.sizes.csv_bytes:,}",
                f"{file.sizes.postgres_heap_bytes:,}",
                f"{file.sizes.postgres_index_bytes:,}",
                f"{file.sizes.parquet_bytes:,}",
                f"{file.sizes.parquet_best_bytes:,}",
                f"{file.sizes.cold_bytes:,}",
                f"{file.sizes.ratio:.3f}",
                f"{file.sizes.cold_bytes / file.sizes.parquet_best_bytes:.3f}",
                "yes" if file.identical else "NO",
            )
            for file in report.files
        ],
        title=f"bytes (level {report.level}; cold includes {ENVELOPE_BYTES} bytes of envelope)",
        numeric=SIZE_COLUMNS[1:-1],
    )
    print_table(
        SPEED_COLUMNS,
        [
            (
                file.name,
                f"{rows:,}",
                *(f"{speeds.encode_mb_per_s:,.0f}", f"{speeds.parquet_encode_mb_per_s:,.0f}"),
                f"{speeds.encode_ratio:.2f}",
                *(f"{speeds.decode_mb_per_s:,.0f}", f"{speeds.parquet_decode_mb_per_s:,.0f}"),
                f"{speeds.parquet_decode_all_threads_mb_per_s:,.0f}",
                f"{speeds.decode_ratio:.2f}",
            )
            for file in report.files
            for rows, speeds in ((file.rows, file.speeds), (SEGMENT_ROWS_MAX, file.full_segment))
        ],
        title=f"MB/s of Arrow data on one thread; each file as it is, and repeated to {SEGMENT_ROWS_MAX:,} rows",
        numeric=SPEED_COLUMNS[1:],
    )
    print_facts(
        (
            ("cold / Parquet", f"{report.ratio:.3f} (geometric mean), ceiling {RATIO_CEILING:.2f}"),
            ("encode", f"{report.encode_ratio:.2f} times Parquet (geometric mean), floor {SPEED_FLOOR:.1f}"),
            ("decode", f"{report.decode_ratio:.2f} times Parquet (geometric mean), floor {SPEED_FLOOR:.1f}"),
            ("identical", "yes" if report.identical else "NO"),
            ("promise", "ok" if report.holds else "missed"),
        )
    )
