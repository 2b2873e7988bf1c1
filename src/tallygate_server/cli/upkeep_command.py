"""`tallygate data upkeep`: keep our own data small, once and now."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

import typer

from tallygate_server.cli.options import Json
from tallygate_server.cli.output import print_json, print_table
from tallygate_server.cli.server_commands import DataDir


class UpkeepStep(StrEnum):
    """What can be done, by the names of the jobs."""

    ARCHIVE_WEBHOOKS = "archive_webhooks"
    EXPORT_USAGE = "export_usage"
    SWEEP_ORPHANS = "sweep_orphans"
    PURGE_LEFTOVERS = "purge_leftovers"


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command("upkeep")(upkeep)


def upkeep(
    steps: Annotated[
        list[UpkeepStep] | None,
        typer.Argument(help="What to do; none: all of it.", show_default=False),
    ] = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Archive old webhooks, export old usage, remove orphans and purge what was deleted, once and now.

    The jobs of a server do the same again and again; both at once do no harm. Works on the stores that the settings
    name, as `tallygate worker` does.
    """
    from tallygate_server.config import load_settings
    from tallygate_server.telemetry import configure_logging

    settings = load_settings(**({} if data_dir is None else {"data_dir": data_dir}))
    # What is done is told below.
    configure_logging(level="warning", log_format=settings.log_format)

    async def run() -> dict[str, dict[str, int]]:
        from tallygate_server.app import lifecycle_options, open_clock, open_migrated_service, open_stores
        from tallygate_server.lifecycle.assembly import open_lifecycle

        async with (
            open_stores(settings) as stores,
            open_clock(settings) as clock,
            open_migrated_service(settings, stores, clock) as service,
            open_lifecycle(stores.database_url, service, lifecycle_options(settings), clock=clock) as lifecycle,
        ):
            return {
                step.value: await lifecycle.own_data.run(step.value, validate_only=dry_run)
                for step in steps or UpkeepStep
            }

    _print(asyncio.run(run()), dry_run=dry_run, as_json=as_json)


def _print(done: Mapping[str, Mapping[str, int]], *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        print_json({"dry_run": dry_run, "steps": done})
        return
    print_table(
        ("step", "would be" if dry_run else "what", "count"),
        (
            (step, what.replace("_", " "), f"{count:,}")
            for step, counts in done.items()
            for what, count in (counts or {"nothing": 0}).items()
        ),
    )
