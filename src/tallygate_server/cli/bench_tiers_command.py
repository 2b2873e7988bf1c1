"""`tallygate bench-tiers`: measure the way of records from hot to warm to cold against a plain `COPY ... TO`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallygate_server.cli.explanations import EXIT_NO
from tallygate_server.cli.options import Json
from tallygate_server.cli.output import console, print_facts, print_json

if TYPE_CHECKING:
    from tallygate_server.bench.tier_benchmark import TierReport


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command("bench-tiers", rich_help_panel="Prove and measure")(bench_tiers)


def bench_tiers(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[CSV]...", help="Files of records; none: made-up ones.", exists=True, dir_okay=False),
    ] = None,
    *,
    rows: Annotated[int, typer.Option("--rows", min=100_000, help="Records, one each second.")] = 30_000_000,
    directory: Annotated[
        Path | None, typer.Option(help="Where database and objects go while it runs.", exists=True, file_okay=False)
    ] = None,
    as_json: Json = False,
    assert_floor: Annotated[bool, typer.Option("--assert", help="Exit code 1 when a promise is missed.")] = False,
) -> None:
    """Repeat records, move them through the tiers, and compare with copying as many plain rows out of Postgres.

    Takes a few minutes and some gigabytes for a year of seconds. Everything is thrown away afterwards.
    """
    from tallygate_server.bench.record_files import joined
    from tallygate_server.bench.tier_benchmark import run_tier_benchmark
    from tallygate_server.telemetry import configure_logging

    configure_logging(level="warning", log_format="console")
    with console(err=True).status("reading") as status:
        report = asyncio.run(run_tier_benchmark(joined(files or ()), rows, parent_dir=directory, note=status.update))
    if as_json:
        print_json(report.as_json())
    else:
        _print_report(report)
    if assert_floor and not report.holds:
        raise typer.Exit(EXIT_NO)


def _print_report(report: TierReport) -> None:
    from tallygate_server.bench.tier_benchmark import MEMORY_CEILING_BYTES, RATE_FLOOR

    moved_s = report.to_warm_s + report.to_cold_s
    print_facts(
        [
            ("rows", f"{report.rows:,} of {report.columns} columns"),
            (
                "COPY TO",
                f"{report.copy_s:.1f} s, {report.rows / report.copy_s:,.0f} rows/s, {report.copy_bytes:,} bytes",
            ),
            ("put", f"{report.put_s:.1f} s, {report.rows / report.put_s:,.0f} rows/s"),
            ("hot to warm", f"{report.to_warm_s:.1f} s, {report.hot_bytes:,} to {report.warm_bytes:,} bytes"),
            ("warm to cold", f"{report.to_cold_s:.1f} s, {report.cold_bytes:,} bytes in {report.cold_objects} objects"),
            (
                "both moves",
                f"{report.rows / moved_s:,.0f} rows/s, {report.rate_ratio:.2f} of the copy's rate, floor {RATE_FLOOR}",
            ),
            ("memory", f"{report.memory_bytes / 2**20:,.0f} MiB at most, ceiling {MEMORY_CEILING_BYTES / 2**20:,.0f}"),
            (
                "one cold day",
                f"{report.day_query_ms:.0f} ms: {report.day_rows:,} equal rows from {report.day_segments} objects",
            ),
            ("promise", "ok" if report.holds else "missed"),
        ]
    )
