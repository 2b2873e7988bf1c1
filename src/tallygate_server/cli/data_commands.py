"""`tallygate data ...`: stored data, by topic."""

from __future__ import annotations

import typer

from tallygate_server.cli import (
    compression_commands,
    job_commands,
    policy_commands,
    record_commands,
    storage_commands,
    tier_commands,
    upkeep_command,
    value_commands,
)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    data = typer.Typer(no_args_is_help=True, help="Look after stored data: what is kept, where, and for how long.")
    record_commands.add_to(data)
    policy_commands.add_to(data)
    tier_commands.add_to(data)
    compression_commands.add_to(data)
    value_commands.add_to(data)
    storage_commands.add_to(data)
    job_commands.add_to(data)
    upkeep_command.add_to(data)
    app.add_typer(data, name="data", rich_help_panel="Call a running server")
