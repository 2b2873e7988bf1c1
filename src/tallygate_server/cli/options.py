"""Options that many commands share."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

if TYPE_CHECKING:
    from tallygate_server.client import Client

TARGET_DEFAULT: Final = "127.0.0.1:50051"
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


def with_client(target: str, use: Callable[[Client], Coroutine[Any, Any, Result]]) -> Result:
    """Run a coroutine with a client of the server."""
    import asyncio

    from tallygate_server.client import Client

    async def run() -> Result:
        async with Client(target) as client:
            return await use(client)

    return asyncio.run(run())
