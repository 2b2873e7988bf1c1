"""The root command: its groups, its version, and the one place where errors become sentences."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from tallygate_server.cli import (
    bench_command,
    bench_lifecycle_command,
    bench_query_command,
    bench_simulate_command,
    bench_tiers_command,
    client_commands,
    data_commands,
    endpoint_commands,
    entitlement_commands,
    event_commands,
    grant_commands,
    replay_command,
    reservation_commands,
    server_commands,
    simulation_commands,
    stripe_commands,
    subscription_commands,
    usage_commands,
    validation_commands,
    webhook_commands,
)
from tallygate_server.cli.explanations import EXIT_ERROR, speak
from tallygate_server.cli.options import JSON_KEY
from tallygate_server.release import release_version

PROGRAM: Final = "tallygate"


class SpeakingGroup(TyperGroup):
    """A group that tells errors as sentences: never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; turn what it raises into words and an exit code."""
        # The library logs in its own words what we explain as errors: a refused port, a lost connection.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, OSError, BaseExceptionGroup) as error:
            failure: BaseException = error
        except Exception as error:  # the outermost edge of a command
            if _belongs_to_typer(error):
                raise
            failure = error
        raise typer.Exit(speak(failure, as_json=bool(ctx.meta.get(JSON_KEY))))


def _belongs_to_typer(error: Exception) -> bool:
    """Whether the library itself will show the error: a wrong option, or an exit."""
    return type(error).__module__.split(".")[0] in {"typer", "click"} or hasattr(error, "exit_code")


app = typer.Typer(
    name=PROGRAM,
    cls=SpeakingGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Entitlements and metering over gRPC: may this account do this, and how much is left?\n\n"
        "Exit codes: 0 for success, 1 when the answer is no, 2 when something is wrong."
    ),
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"{PROGRAM} {release_version()}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Hold the options that stand before a command."""


server_commands.add_to(app)
client_commands.add_to(app)
usage_commands.add_to(app)
entitlement_commands.add_to(app)
subscription_commands.add_to(app)
reservation_commands.add_to(app)
grant_commands.add_to(app)
webhook_commands.add_to(app)
event_commands.add_to(app)
endpoint_commands.add_to(app)
stripe_commands.add_to(app)
simulation_commands.add_to(app)
validation_commands.add_to(app)
replay_command.add_to(app)
data_commands.add_to(app)
bench_command.add_to(app)
bench_query_command.add_to(app)
bench_lifecycle_command.add_to(app)
bench_tiers_command.add_to(app)
bench_simulate_command.add_to(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name=PROGRAM)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_ERROR
    except KeyboardInterrupt as error:
        return speak(error, as_json="--json" in sys.argv)
    return 0
