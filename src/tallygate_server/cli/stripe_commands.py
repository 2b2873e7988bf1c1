"""Commands about the billing provider: sync."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from tallygate_server.cli.options import TARGET_DEFAULT, Json, Target, with_client
from tallygate_server.cli.output import print_message, print_table

ACTOR: Final = "tallygate command line"
TIMEOUT_S: Final = 600.0
"""Each subscription is asked for at Stripe."""


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    stripe = typer.Typer(no_args_is_help=True, help="Compare with Stripe what is stored here.")
    stripe.callback()(_stripe_group)
    stripe.command("sync")(stripe_sync)
    app.add_typer(stripe, name="stripe", rich_help_panel="Call a running server")


def _stripe_group() -> None:
    """Compare with Stripe what is stored here."""


def stripe_sync(
    *,
    tenant: Annotated[str, typer.Option(envvar="TALLYGATE_TENANT", help="Tenant to look at.", show_default=False)],
    account: Annotated[
        str, typer.Option(help="Only this account, and everything of it. Without: what changed since the last time.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Repair nothing; show what differs.")] = False,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Make subscriptions, invoices and payments what Stripe says they are, for the case that webhooks were lost."""
    from tallygate.v1 import subscription_service_pb2

    request = subscription_service_pb2.ReconcileSubscriptionsRequest(
        tenant_id=tenant, account_id=account, validate_only=dry_run, actor=ACTOR
    )
    response = with_client(
        target,
        lambda client: client.call(client.subscriptions.ReconcileSubscriptions, request, timeout_s=TIMEOUT_S),
    )
    if as_json:
        print_message(response)
        return
    if response.differences:
        print_table(
            ("account", "subscription", "at Stripe", "field", "here", "there", "repaired"),
            (
                tuple(
                    text.replace("[", r"\[")
                    for text in (
                        each.account_id or "-",
                        each.subscription_id or "-",
                        each.provider_subscription_id or "-",
                        each.field,
                        each.value_json,
                        each.provider_value_json,
                        "yes" if each.repaired else "no",
                    )
                )
                for each in response.differences
            ),
        )
    more = response.difference_count - len(response.differences)
    if more:
        typer.echo(f"... and {more:,} more.")
    repaired = "nothing was repaired: --dry-run" if dry_run else f"{response.repaired_count:,} repaired"
    typer.echo(
        f"{response.examined_count:,} subscriptions compared, {response.difference_count:,} differences, {repaired}."
    )
