"""Options that many commands share."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from tallygate_server.cli.explanations import CommandError

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from tallygate_server.client import Client

TARGET_DEFAULT: Final = "127.0.0.1:50051"
ACTOR: Final = "tallygate command line"
JSON_KEY: Final = "tallygate.json"

Result = TypeVar("Result")


def _note_json(context: typer.Context, value: bool) -> bool:
    # Errors are told in the same form as answers, also by the group, which does not see this option.
    context.meta[JSON_KEY] = value
    return value


Target = Annotated[
    str,
    typer.Option(
        "--target", "-t", envvar="TALLYGATE_TARGET", metavar="HOST:PORT", help="Server to call.", show_default=True
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Answer in JSON; errors too.", callback=_note_json, is_eager=True),
]
Tenant = Annotated[str, typer.Argument(metavar="TENANT", help="Tenant id, such as lekhak.")]
Account = Annotated[str, typer.Argument(metavar="ACCOUNT", help="Account id, as the caller names it.")]
Feature = Annotated[str, typer.Argument(metavar="FEATURE", help="Feature key, such as text_rewrite.")]


def time_of(option: str, text: str) -> Timestamp | None:
    """Read the value of an option as an instant, in UTC unless it says otherwise; None for none."""
    from datetime import UTC, datetime

    from google.protobuf.timestamp_pb2 import Timestamp

    if not text:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{option} {text}: is no time; write 2026-12-01 or 2026-12-01T09:30") from None
    time = Timestamp()
    time.FromDatetime(instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC))
    return time


def with_client(target: str, use: Callable[[Client], Coroutine[Any, Any, Result]]) -> Result:
    """Run a coroutine with a client of the server."""
    import asyncio

    from tallygate_server.client import Client

    async def run() -> Result:
        async with Client(target) as client:
            return await use(client)

    return asyncio.run(run())
