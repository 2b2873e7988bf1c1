"""Commands about webhooks that came in: list, show, replay."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tallygate_server.cli.explanations import CommandError
from tallygate_server.cli.options import TARGET_DEFAULT, Json, Target, with_client
from tallygate_server.cli.output import print_facts, print_message, print_table, time_text

if TYPE_CHECKING:
    from tallygate.v1 import webhook_pb2

COUNT_DEFAULT: Final = 20
ACTOR: Final = "tallygate command line"


class Source(StrEnum):
    """Who sends webhooks."""

    STRIPE = "stripe"
    CLERK = "clerk"
    AYRSHARE = "ayrshare"


class State(StrEnum):
    """Where a webhook is in its processing."""

    PENDING = "pending"
    PROCESSED = "processed"
    IGNORED = "ignored"
    RETRYING = "retrying"
    DEAD = "dead"


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    webhook = typer.Typer(no_args_is_help=True, help="Look at webhooks that came in, and process them again.")
    webhook.command("list")(webhook_list)
    webhook.command("show")(webhook_show)
    webhook.command("replay")(webhook_replay)
    app.add_typer(webhook, name="webhook", rich_help_panel="Call a running server")


def webhook_list(
    *,
    tenant: Annotated[str, typer.Option(help="Only this tenant.")] = "",
    source: Annotated[Source | None, typer.Option(help="Only this source.")] = None,
    state: Annotated[State | None, typer.Option(help="Only this state.")] = None,
    event_type: Annotated[str, typer.Option("--type", help="Only types that begin so, such as invoice.")] = "",
    account: Annotated[str, typer.Option(help="Only this account.")] = "",
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1_000, help="Webhooks to show.")] = COUNT_DEFAULT,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """List webhooks, newest first."""
    from tallygate.v1 import admin_service_pb2

    request = admin_service_pb2.ListWebhookEventsRequest(
        tenant_id=tenant,
        source=_api_source(source),
        state=f"WEBHOOK_EVENT_STATE_{state.name if state else 'UNSPECIFIED'}",
        event_type_prefix=event_type,
        account_id=account,
        page_size=count,
    )
    response = with_client(target, lambda client: client.call(client.admin.ListWebhookEvents, request))
    if as_json:
        print_message(response)
        return
    if not response.events:
        typer.echo("There are no such webhooks.")
        return
    print_table(
        ("received", "source", "type", "state", "attempts", "tenant", "id"),
        (
            (
                time_text(event.receive_time),
                _source_text(event.source),
                event.event_type.replace("[", r"\["),
                _state_text(event.state),
                event.attempt_count,
                event.tenant_id or "-",
                event.event_id.replace("[", r"\["),
            )
            for event in response.events
        ),
        numeric=("attempts",),
    )
    if response.next_page_token:
        typer.echo("There are more; --count shows up to 1,000.")


def webhook_show(
    source: Annotated[Source, typer.Argument(metavar="SOURCE", help="Who sent it: stripe, clerk or ayrshare.")],
    event_id: Annotated[str, typer.Argument(metavar="ID", help="Its id at the source.")],
    *,
    body: Annotated[bool, typer.Option("--body", help="Show the body as it came in.")] = False,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Show one webhook, and what became of it."""
    from tallygate.v1 import admin_service_pb2

    request = admin_service_pb2.GetWebhookEventRequest(source=_api_source(source), event_id=event_id)
    response = with_client(target, lambda client: client.call(client.admin.GetWebhookEvent, request))
    event = response.event
    if as_json:
        print_message(response)
        return
    typer.echo(f"{_source_text(event.source)} {event.event_id}")
    print_facts(
        (
            ("type", event.event_type),
            ("state", _state_text(event.state)),
            ("error", event.error_text),
            ("attempts", event.attempt_count),
            ("attempted next", time_text(event.next_attempt_time)),
            ("processed", time_text(event.process_time)),
            ("tenant", event.tenant_id),
            ("account", event.account_id),
            ("happened", time_text(event.event_time)),
            ("received", time_text(event.receive_time)),
            ("deliveries", event.delivery_count),
            ("version", event.api_version + (" (not ours)" if event.api_version_mismatch else "")),
        )
    )
    if body:
        typer.echo(event.payload.decode(errors="replace"))


def webhook_replay(
    source: Annotated[Source | None, typer.Argument(metavar="[SOURCE]", help="Who sent them.")] = None,
    event_ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Their ids at the source.")] = None,
    *,
    dead: Annotated[bool, typer.Option("--dead", help="All that failed too often, of the source if one is given.")] = (
        False
    ),
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Process webhooks again: some by id, or all that failed too often."""
    from tallygate.v1 import admin_service_pb2

    if dead == bool(event_ids):
        raise CommandError("name the source and ids of webhooks, or give --dead for all that failed too often")
    request = admin_service_pb2.ReplayWebhookEventsRequest(
        source=_api_source(source), event_ids=event_ids or [], actor=ACTOR
    )
    response = with_client(target, lambda client: client.call(client.admin.ReplayWebhookEvents, request))
    if as_json:
        print_message(response)
    elif not response.event_count:
        typer.echo("No webhook is dead.")
    elif response.event_count == 1:
        typer.echo("1 webhook will be processed again.")
    else:
        typer.echo(f"{response.event_count:,} webhooks will be processed again.")


def _api_source(source: Source | None) -> str:
    return f"WEBHOOK_SOURCE_{source.name if source else 'UNSPECIFIED'}"


def _source_text(source: webhook_pb2.WebhookSource) -> str:
    from tallygate.v1 import webhook_pb2

    return webhook_pb2.WebhookSource.Name(source).removeprefix("WEBHOOK_SOURCE_").lower()


def _state_text(state: webhook_pb2.WebhookEventState) -> str:
    from tallygate.v1 import webhook_pb2

    return webhook_pb2.WebhookEventState.Name(state).removeprefix("WEBHOOK_EVENT_STATE_").lower()
