"""Commands about events: list, watch."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tallygate_server.cli.options import TARGET_DEFAULT, Json, Target, Tenant, with_client
from tallygate_server.cli.output import message_as_json, print_message, print_table, time_text

if TYPE_CHECKING:
    from tallygate.v1 import event_service_pb2
    from tallygate_server.client import CallFailed, Client

COUNT_DEFAULT: Final = 20
PANEL: Final = "Call a running server"
RECONNECTS_MAX: Final = 60
"""Tries, a second apart, to go on with a watch whose server has gone."""
RECONNECT_SECONDS: Final = 1.0

AccountFilter = Annotated[str, typer.Option("--account", "-a", help="Only this account.")]
Types = Annotated[
    list[str] | None, typer.Option("--type", help="Only this type; subscription.* stands for all. May be repeated.")
]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(no_args_is_help=True, help="Look at what happened, and watch what happens.")
    group.command("list")(list_events)
    group.command("watch")(watch_events)
    app.add_typer(group, name="events", rich_help_panel=PANEL)


def list_events(
    tenant: Tenant,
    *,
    account: AccountFilter = "",
    event_type: Types = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1_000, help="Events to show.")] = COUNT_DEFAULT,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """List the events of a tenant, newest first; they are kept for 35 days."""
    from tallygate.v1 import event_service_pb2

    request = event_service_pb2.ListEventsRequest(
        tenant_id=tenant, account_id=account, event_types=event_type or [], page_size=count
    )
    response = with_client(target, lambda client: client.call(client.events.ListEvents, request))
    if as_json:
        print_message(response)
        return
    if not response.events:
        typer.echo("There are no such events.")
        return
    print_table(
        ("time", "sequence", "type", "account", "data", "id"),
        (
            (
                time_text(event.event_time),
                event.sequence,
                event.type,
                event.account_id or "-",
                _data_text(event).replace("[", r"\["),
                event.event_id,
            )
            for event in response.events
        ),
        numeric=("sequence",),
    )
    if response.next_page_token:
        typer.echo("There are more; --count shows up to 1,000.")


def watch_events(
    tenant: Tenant,
    *,
    account: AccountFilter = "",
    event_type: Types = None,
    after: Annotated[
        int | None,
        typer.Option("--after", min=0, help="Sequence to go on after; 0: all that is kept; none: from now."),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="End after so many events; 0: never.")] = 0,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Watch events as they happen, one line each, until it is interrupted; goes on when a server goes away."""
    from tallygate.v1 import event_service_pb2

    request = event_service_pb2.WatchEventsRequest(
        tenant_id=tenant, account_id=account, event_types=event_type or [], after_sequence=after
    )
    with_client(target, lambda client: _watch(client, request, count=count, as_json=as_json))


async def _watch(client: Client, request: event_service_pb2.WatchEventsRequest, *, count: int, as_json: bool) -> None:
    from tallygate_server.client import CallFailed

    shown, reconnects = 0, 0
    while True:
        try:
            async with aclosing(client.stream(client.events.WatchEvents, request)) as updates:
                async for update in updates:
                    reconnects = 0
                    if update.WhichOneof("update") != "event":
                        continue
                    _print(update.event, as_json=as_json)
                    request.after_sequence = update.event.sequence
                    shown += 1
                    if shown == count:
                        return
        except CallFailed as failure:
            reconnects += 1
            if not _goes_on(failure, shown=shown) or reconnects > RECONNECTS_MAX:
                raise
            await asyncio.sleep(RECONNECT_SECONDS)


def _goes_on(failure: CallFailed, *, shown: int) -> bool:
    """Tell whether to watch again after the last event."""
    if failure.reason in {"SHUTTING_DOWN", "WATCHER_TOO_SLOW"}:
        return True
    # A server that was never there is a mistake; one that was is coming back.
    return shown > 0 and failure.code.name == "UNAVAILABLE"


def _print(event: event_service_pb2.Event, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(message_as_json(event), ensure_ascii=False))
        return
    account = event.account_id or "-"
    typer.echo(f"{time_text(event.event_time)}  {event.sequence}  {event.type}  {account}  {_data_text(event)}")


def _data_text(event: event_service_pb2.Event) -> str:
    data: dict[str, Any] = message_as_json(event.data)
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))
