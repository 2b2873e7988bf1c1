"""`tallygate bench-query`: measure QueryUsage against a scan of the raw rows, on this machine, in one run."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallygate_server.cli.explanations import EXIT_NO
from tallygate_server.cli.output import console, print_facts

if TYPE_CHECKING:
    from tallygate_server.bench.query_benchmark import QueryReport


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command("bench-query", rich_help_panel="Prove and measure")(bench_query)


def bench_query(
    *,
    entries: Annotated[
        int | None, typer.Option("--entries", "-n", min=1_000, help="Entries of the ledger. [default: 5,000,000]")
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(help="Where the database goes while it runs; about 1 GB a million.", exists=True, file_okay=False),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here too.")
    ] = None,
    assert_floor: Annotated[
        bool, typer.Option("--assert", help="Exit code 1 when the promised ratio is missed.")
    ] = False,
) -> None:
    """Measure a month by day, grouped by model, from rollups, against a scan of the raw rows; both must agree.

    Starts a private PostgreSQL in a directory that is thrown away, and fills a ledger there.
    """
    from tallygate_server.bench.query_benchmark import ENTRIES_DEFAULT, run_query_benchmark
    from tallygate_server.telemetry import configure_logging

    configure_logging(level="warning", log_format="console")
    with console(err=True).status("starting Postgres") as status:
        report = asyncio.run(run_query_benchmark(entries or ENTRIES_DEFAULT, parent_dir=directory, note=status.update))
    _print_report(report)
    if json_file is not None:
        json_file.write_text(json.dumps(report.as_json(), indent=2) + "\n")
    if assert_floor and not report.holds:
        raise typer.Exit(EXIT_NO)


def _print_report(report: QueryReport) -> None:
    from tallygate_server.bench.query_benchmark import RATIO_FLOOR

    rolled_up = f"{report.roll_up_s:.1f} s, {report.roll_up_s_per_million:.1f} s a million, {report.rollup_rows:,} rows"
    print_facts(
        (
            (
                "ledger",
                f"{report.entries:,} entries of {report.accounts:,} accounts, written in {report.write_s:.1f} s",
            ),
            ("rolled up in", rolled_up),
            (
                "query",
                f"{report.query_ms:.1f} ms (median; slowest {report.query_ms_max:.1f}), a month by day and model",
            ),
            ("raw scan", f"{report.scan_ms:,.0f} ms (median)"),
            ("ratio", f"{report.ratio:,.0f}, floor {RATIO_FLOOR:.0f}: {'ok' if report.holds else 'missed'}"),
            ("equal", f"yes: all {report.answer_rows} rows, {report.total_quantity:,} units"),
        )
    )
