"""`tallygate bench`: measure the hot path against an empty call, on this machine, in one run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallygate_server.cli.explanations import EXIT_NO
from tallygate_server.cli.output import console, print_table

if TYPE_CHECKING:
    from tallygate_server.bench.benchmark import BenchReport
    from tallygate_server.bench.scenarios import Scenario


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command("bench", rich_help_panel="Prove and measure")(bench)


def bench(
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="About half a minute: shorter slices, one account only.")
    ] = False,
    turns: Annotated[int | None, typer.Option(min=5, max=100, help="Slices of each kind of call. [default: 6]")] = None,
    slice_s: Annotated[
        float | None, typer.Option("--slice", min=0.1, max=60.0, help="Seconds of one slice. [default: 0.9]")
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            help="Where the database goes while it runs: this disk is measured.", exists=True, file_okay=False
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers here too.")
    ] = None,
    assert_floors: Annotated[
        bool, typer.Option("--assert", help="Exit code 1 when a promised ratio is missed.")
    ] = False,
) -> None:
    """Measure checks and increments against an empty call of the same transport, on this machine.

    Starts a private PostgreSQL and Valkey in a directory that is thrown away, and a server on each transport; needs
    h2load. All kinds of calls take turns, so compare ratios, not rates: rates belong to the machine.
    """
    from tallygate_server.bench.benchmark import SLICE_S_DEFAULT, SLICE_S_QUICK, TURNS_DEFAULT, run_benchmark
    from tallygate_server.telemetry import configure_logging

    configure_logging(level="warning", log_format="console")
    with _progress() as (start, note):
        report = asyncio.run(
            run_benchmark(
                turns=turns or TURNS_DEFAULT,
                slice_s=slice_s or (SLICE_S_QUICK if quick else SLICE_S_DEFAULT),
                spread=not quick,
                parent_dir=directory,
                on_start=start,
                progress=note,
            )
        )
    _print_report(report)
    if json_file is not None:
        json_file.write_text(json.dumps(report.as_json(), indent=2) + "\n")
    if assert_floors and not report.holds:
        raise typer.Exit(EXIT_NO)


class _Bar:
    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console(err=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self.task = self.bar.add_task("starting servers", total=None)

    def start(self, slices: int) -> None:
        self.bar.update(self.task, total=slices)

    def note(self, scenario: Scenario) -> None:
        self.bar.update(self.task, advance=1, description=f"{scenario.transport}: {scenario.title}")


@contextlib.contextmanager
def _progress() -> Iterator[tuple[Callable[[int], None], Callable[[Scenario], None]]]:
    bar = _Bar()
    with bar.bar:
        yield bar.start, bar.note


def _print_report(report: BenchReport) -> None:
    out = console()
    out.print("  ".join(f"{name} {value}" for name, value in report.versions.items()), style="dim")
    loads = dict.fromkeys(result.scenario.load.name for result in report.results)
    for load in loads:
        typer.echo()
        print_table(
            (
                "transport", "call", "calls/s", "slices from", "to", "p50 ms", "p99 ms", "server us", "postgres us",
                "valkey us", "server load", "ratio to empty", "CPU ratio",
            ),
            (
                (
                    result.scenario.transport,
                    result.scenario.title,
                    f"{result.calls_per_s:,.0f}",
                    f"{result.calls_per_s_min:,.0f}",
                    f"{result.calls_per_s_max:,.0f}",
                    f"{result.p50_ms:.2f}",
                    f"{result.p99_ms:.2f}",
                    f"{result.server_us:,.1f}",
                    f"{result.postgres_us:,.1f}",
                    f"{result.valkey_us:,.1f}",
                    f"{result.server_load:.0%}",
                    f"{result.ratio:.2f}",
                    f"{result.cpu_ratio:.2f}",
                )
                for result in sorted(report.results, key=lambda result: result.scenario.transport, reverse=True)
                if result.scenario.load.name == load
            ),
            title=f"{load}, 64 calls at a time, or 8 batches",
            numeric=(
                "calls/s", "slices from", "to", "p50 ms", "p99 ms", "server us", "postgres us", "valkey us",
                "server load", "ratio to empty", "CPU ratio",
            ),
        )  # fmt: skip
    typer.echo(
        f"\nMedians of {report.turns} slices in turns, {report.elapsed_s:.0f} s in all; us are processor time for one"
        " call; ratios of batches are by item.\nEvery call was answered OK by the server's own count, and the ledger"
        f" has exactly the {report.ledger_rows:,} lines of the calls made."
    )
    if not report.is_quiet:
        typer.secho(
            f"Other programs took {report.others_share:.0%} of the processors: measure again on a quiet machine.",
            fg="yellow",
        )
    typer.echo()
    print_table(
        ("promised ratio", "measured", "floor", "goal", ""),
        (
            (
                bar.name,
                f"{bar.value:.2f}",
                f"{bar.floor:.2f}",
                f"{bar.goal:.2f}",
                "[green]ok[/green]" if bar.holds else "[red]missed[/red]",
            )
            for bar in report.bars
        ),
        numeric=("measured", "floor", "goal"),
    )
