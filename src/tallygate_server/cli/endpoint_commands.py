"""Commands about endpoints that events are sent to: create, update, list, delete, rotate, deliveries, replay."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tallygate_server.cli.client_commands import ACTOR
from tallygate_server.cli.explanations import CommandError
from tallygate_server.cli.options import TARGET_DEFAULT, Json, Target, Tenant, time_of, with_client
from tallygate_server.cli.output import print_facts, print_message, print_table, time_text

if TYPE_CHECKING:
    from tallygate.v1 import event_service_pb2

COUNT_DEFAULT: Final = 20
SHOWN_MAX: Final = 1_000
PANEL: Final = "Call a running server"
EVERY_TYPE: Final = "all"

Endpoint = Annotated[str, typer.Argument(metavar="ENDPOINT", help="Id of the endpoint.")]
Types = Annotated[
    list[str] | None,
    typer.Option("--type", help="Type to send; subscription.* stands for all that begin so. May be repeated."),
]
Description = Annotated[str | None, typer.Option("--description", "-d", help="What it is for.")]


class State(StrEnum):
    """Where a delivery is."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(no_args_is_help=True, help="Manage the endpoints of a tenant that events are sent to.")
    group.command("create")(create)
    group.command("update")(update)
    group.command("list")(list_endpoints)
    group.command("delete")(delete)
    group.command("rotate")(rotate)
    group.command("deliveries")(deliveries)
    group.command("replay")(replay)
    app.add_typer(group, name="endpoint", rich_help_panel=PANEL)


def create(
    tenant: Tenant,
    url: Annotated[str, typer.Argument(metavar="URL", help="Address, beginning with https://.")],
    *,
    event_type: Types = None,
    description: Description = None,
    request_id: Annotated[str, typer.Option("--request-id", help="Makes a retry safe.")] = "",
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Create an endpoint and show its secret, once."""
    from tallygate.v1 import event_service_pb2

    request = event_service_pb2.CreateWebhookEndpointRequest(
        tenant_id=tenant,
        url=url,
        event_types=event_type or [],
        description=description or "",
        request_id=request_id,
        actor=ACTOR,
    )
    response = with_client(target, lambda client: client.call(client.events.CreateWebhookEndpoint, request))
    if as_json:
        print_message(response)
        return
    _print_endpoint(response.endpoint)
    if response.secret:
        typer.echo(f"Its secret, shown only now: {response.secret}")


def update(
    tenant: Tenant,
    endpoint: Endpoint,
    *,
    url: Annotated[str | None, typer.Option("--url", help="Another address.")] = None,
    event_type: Annotated[
        list[str] | None,
        typer.Option("--type", help=f"Types in place of the present ones; `{EVERY_TYPE}` for all. May be repeated."),
    ] = None,
    description: Description = None,
    disabled: Annotated[
        bool | None, typer.Option("--disable/--enable", help="Send nothing, or send again.", show_default=False)
    ] = None,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Change an endpoint, or enable one that was disabled after too many failures."""
    from tallygate.v1 import event_service_pb2

    types = None
    if event_type:
        values = [] if event_type == [EVERY_TYPE] else event_type
        types = event_service_pb2.WebhookEventTypes(values=values)
    request = event_service_pb2.UpdateWebhookEndpointRequest(
        tenant_id=tenant,
        endpoint_id=endpoint,
        url=url,
        event_types=types,
        description=description,
        disabled=disabled,
        actor=ACTOR,
    )
    response = with_client(target, lambda client: client.call(client.events.UpdateWebhookEndpoint, request))
    if as_json:
        print_message(response)
    else:
        _print_endpoint(response.endpoint)


def list_endpoints(tenant: Tenant, *, target: Target = TARGET_DEFAULT, as_json: Json = False) -> None:
    """List the endpoints of a tenant."""
    from tallygate.v1 import event_service_pb2

    request = event_service_pb2.ListWebhookEndpointsRequest(tenant_id=tenant, page_size=SHOWN_MAX)
    response = with_client(target, lambda client: client.call(client.events.ListWebhookEndpoints, request))
    if as_json:
        print_message(response)
        return
    if not response.endpoints:
        typer.echo("There are no endpoints.")
        return
    print_table(
        ("id", "address", "types", "state", "failures", "last success"),
        (
            (
                endpoint.endpoint_id,
                endpoint.url.replace("[", r"\["),
                ", ".join(endpoint.event_types) or "all",
                "disabled" if endpoint.disabled else "enabled",
                endpoint.failure_count,
                time_text(endpoint.success_time) or "-",
            )
            for endpoint in response.endpoints
        ),
        numeric=("failures",),
    )


def delete(tenant: Tenant, endpoint: Endpoint, *, target: Target = TARGET_DEFAULT, as_json: Json = False) -> None:
    """Delete an endpoint; what waits for it is dropped."""
    from tallygate.v1 import event_service_pb2

    request = event_service_pb2.DeleteWebhookEndpointRequest(tenant_id=tenant, endpoint_id=endpoint, actor=ACTOR)
    response = with_client(target, lambda client: client.call(client.events.DeleteWebhookEndpoint, request))
    if as_json:
        print_message(response)
    else:
        typer.echo(f"{endpoint} is deleted.")


def rotate(tenant: Tenant, endpoint: Endpoint, *, target: Target = TARGET_DEFAULT, as_json: Json = False) -> None:
    """Make a new secret and show it, once; events are signed with both for 24 hours."""
    from tallygate.v1 import event_service_pb2

    request = event_service_pb2.RotateWebhookSecretRequest(tenant_id=tenant, endpoint_id=endpoint, actor=ACTOR)
    response = with_client(target, lambda client: client.call(client.events.RotateWebhookSecret, request))
    if as_json:
        print_message(response)
        return
    typer.echo(f"The new secret, shown only now: {response.secret}")
    typer.echo(f"Events are signed with the old one too until {time_text(response.old_secret_expire_time)}.")


def deliveries(
    tenant: Tenant,
    *,
    endpoint: Annotated[str, typer.Option("--endpoint", "-e", help="Only this endpoint.")] = "",
    event: Annotated[str, typer.Option("--event", help="Only this event.")] = "",
    state: Annotated[State | None, typer.Option(help="Only this state.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1_000, help="Deliveries to show.")] = COUNT_DEFAULT,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """List deliveries, newest first."""
    from tallygate.v1 import event_service_pb2

    request = event_service_pb2.ListWebhookDeliveriesRequest(
        tenant_id=tenant,
        endpoint_id=endpoint,
        event_id=event,
        state=f"WEBHOOK_DELIVERY_STATE_{state.name if state else 'UNSPECIFIED'}",
        page_size=count,
    )
    response = with_client(target, lambda client: client.call(client.events.ListWebhookDeliveries, request))
    if as_json:
        print_message(response)
        return
    if not response.deliveries:
        typer.echo("There are no such deliveries.")
        return
    print_table(
        ("created", "event", "type", "state", "attempts", "status", "next attempt", "error", "endpoint"),
        (
            (
                time_text(delivery.create_time),
                delivery.event_id,
                delivery.event_type,
                _state_text(delivery.state),
                delivery.attempt_count,
                delivery.http_status or "-",
                time_text(delivery.next_attempt_time) or "-",
                delivery.error_text.replace("[", r"\[") or "-",
                delivery.endpoint_id,
            )
            for delivery in response.deliveries
        ),
        numeric=("attempts", "status"),
    )
    if response.next_page_token:
        typer.echo("There are more; --count shows up to 1,000.")


def replay(
    tenant: Tenant,
    endpoint: Endpoint,
    event_ids: Annotated[list[str] | None, typer.Argument(metavar="[EVENT]...", help="Events to send.")] = None,
    *,
    start: Annotated[str, typer.Option("--from", metavar="TIME", help="Those from this time on (UTC).")] = "",
    end: Annotated[str, typer.Option("--to", metavar="TIME", help="Those before this time (UTC).")] = "",
    failed: Annotated[bool, typer.Option("--failed", help="Only what never arrived.")] = False,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Send events to an endpoint again: some by id, those of a time, or what never arrived."""
    from tallygate.v1 import event_service_pb2

    if not (event_ids or start or failed):
        raise CommandError("name events, or give --from, or --failed for all that never arrived")
    request = event_service_pb2.ReplayWebhookDeliveriesRequest(
        tenant_id=tenant,
        endpoint_id=endpoint,
        event_ids=event_ids or [],
        start_time=time_of("--from", start),
        end_time=time_of("--to", end),
        failed_only=failed,
        actor=ACTOR,
    )
    response = with_client(target, lambda client: client.call(client.events.ReplayWebhookDeliveries, request))
    if as_json:
        print_message(response)
    elif response.delivery_count == 1:
        typer.echo("1 event will be sent again.")
    else:
        typer.echo(f"{response.delivery_count:,} events will be sent again.")


def _print_endpoint(endpoint: event_service_pb2.WebhookEndpoint) -> None:
    typer.echo(endpoint.endpoint_id)
    print_facts(
        (
            ("address", endpoint.url),
            ("types", ", ".join(endpoint.event_types) or "all"),
            ("for", endpoint.description),
            ("state", "disabled" if endpoint.disabled else "enabled"),
            ("why", endpoint.disable_reason),
            ("failures", endpoint.failure_count or ""),
            ("last success", time_text(endpoint.success_time)),
            ("created", time_text(endpoint.create_time)),
        )
    )


def _state_text(state: event_service_pb2.WebhookDeliveryState) -> str:
    from tallygate.v1 import event_service_pb2

    return event_service_pb2.WebhookDeliveryState.Name(state).removeprefix("WEBHOOK_DELIVERY_STATE_").lower()
