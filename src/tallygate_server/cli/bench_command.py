"""`tallygate bench`: measure the hot path against an empty call, on this machine, in one run."""

from __future__ import annotations

import typer


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command("bench", rich_help_panel="Prove and measure")(bench)


def bench() -> None:
    """Measure."""
