"""`tallygate bench-simulate`: measure SimulateLimits, and increments beside it, on this machine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from tallygate_server.cli.output import console, print_facts

if TYPE_CHECKING:
    from tallygate_server.bench.simulation import SimulationMeasured


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command("bench-simulate", rich_help_panel="Prove and measure")(bench_simulate)


def bench_simulate(
    *,
    entries: Annotated[
        int | None, typer.Option("--entries", "-n", min=1_000, help="Entries of the ledger. [default: 1,000,000]")
    ] = None,
    accounts: Annotated[
        int | None, typer.Option("--accounts", min=1, max=100_000, help="Accounts that have them. [default: 2,000]")
    ] = None,
) -> None:
    """Simulate half of every limit over a month of usage, while increments go on one after the other.

    Starts a private PostgreSQL and Valkey in a directory that is thrown away, and fills a ledger there.
    """
    from tallygate_server.bench.simulation import ACCOUNTS_DEFAULT, ENTRIES_DEFAULT, run_simulation_benchmark
    from tallygate_server.telemetry import configure_logging

    configure_logging(level="warning", log_format="console")
    with console(err=True).status("filling a ledger, and simulating"):
        measured = asyncio.run(
            run_simulation_benchmark(entries=entries or ENTRIES_DEFAULT, accounts=accounts or ACCOUNTS_DEFAULT)
        )
    _print(measured)


def _print(measured: SimulationMeasured) -> None:
    before, beside = measured.idle_ms, measured.beside_ms
    print_facts(
        (
            ("replayed", f"{measured.entry_count:,} entries of {measured.account_count:,} accounts"),
            ("in", f"{measured.seconds:.1f} s, {measured.entries_per_second:,.0f} entries/s"),
            ("process", f"{measured.processor_seconds:.1f} s of a processor, {measured.memory_mib:.0f} MiB at most"),
            ("denied", f"{measured.denied_count:,} calls of {measured.accounts_told:,} accounts would be"),
            ("increment before", f"{before[0]:.2f} ms, p99 {before[1]:.2f} ms"),
            ("increment beside", f"{beside[0]:.2f} ms, p99 {beside[1]:.2f} ms, {measured.calls_beside:,} calls"),
        )
    )
