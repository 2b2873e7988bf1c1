"""Commands that put usage right: reverse a line of the ledger, correct a counter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.markup import escape

from tallygate_server.cli.client_commands import ACTOR
from tallygate_server.cli.explanations import CommandError
from tallygate_server.cli.options import TARGET_DEFAULT, Account, Feature, Json, Target, Tenant, with_client
from tallygate_server.cli.output import print_facts, print_message, print_table, time_text, usage_text

if TYPE_CHECKING:
    from tallygate.v1 import usage_pb2, usage_service_pb2

DENIALS_SHOWN_MAX: Final = 20

Reason = Annotated[str, typer.Option("--reason", "-r", metavar="TEXT", help="Why, for the ledger.", show_default=False)]
RequestId = Annotated[str, typer.Option("--request-id", help="Makes it safe to try again.")]
By = Annotated[str, typer.Option("--actor", help="Who does it, for the ledger.")]


def add_to(group: typer.Typer) -> None:
    """Add these commands to the group of usage."""
    group.command("reverse")(reverse)
    group.command("correct")(correct)


def reverse(
    tenant: Tenant,
    account: Account,
    entry: Annotated[str, typer.Argument(metavar="ENTRY", help="Line of the ledger, as `usage --entries` shows it.")],
    *,
    reason: Reason,
    quantity: Annotated[
        int, typer.Option("--quantity", "-q", min=0, help="Units to take back. [default: all that is left of the line]")
    ] = 0,
    request_id: RequestId = "",
    actor: By = ACTOR,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Take back what a line of the ledger counted; show who was denied because of it."""
    from tallygate.v1 import usage_service_pb2

    request = usage_service_pb2.ReverseUsageRequest(
        tenant_id=tenant,
        account_id=account,
        entry_id=entry,
        quantity=quantity or None,
        reason_text=reason,
        request_id=request_id,
        actor=actor,
    )
    response = with_client(target, lambda client: client.call(client.usage.ReverseUsage, request))
    if as_json:
        print_message(response)
        return
    _print_line(response.entry, response.quota, replayed=response.replayed)
    print_facts((("left of the line", f"{response.reversible_quantity:,}"),))
    _print_denials(response)


def correct(
    tenant: Tenant,
    account: Account,
    feature: Feature,
    quantity: Annotated[
        str, typer.Argument(metavar="QUANTITY", help="Units to add: `+5`; or to take away: `-5`.", show_default=False)
    ],
    *,
    reason: Reason,
    at: Annotated[
        str, typer.Option("--at", metavar="TIME", help="In the period of this instant, such as 2026-12-01T10:00:00Z.")
    ] = "",
    request_id: RequestId = "",
    actor: By = ACTOR,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Add to a counter or take away from it, whatever the limit says. Put `--` before a negative quantity."""
    from tallygate.v1 import admin_service_pb2

    try:
        units = int(quantity)
    except ValueError:
        raise CommandError(f"{quantity}: a whole number belongs here, such as +5 or -5") from None
    request = admin_service_pb2.CorrectUsageRequest(
        tenant_id=tenant,
        account_id=account,
        feature_key=feature,
        quantity=units,
        reason_text=reason,
        request_id=request_id,
        actor=actor,
    )
    if at:
        try:
            request.event_time.FromJsonString(at)
        except ValueError:
            raise CommandError(f"--at {at}: write it like 2026-12-01T10:00:00Z") from None
    response = with_client(target, lambda client: client.call(client.admin.CorrectUsage, request))
    if as_json:
        print_message(response)
        return
    _print_line(response.entry, response.quota, replayed=response.replayed)


def _print_line(entry: usage_pb2.UsageEntry, quota: usage_pb2.Quota, *, replayed: bool) -> None:
    print_facts(
        (
            ("ledger entry", entry.entry_id),
            ("reverses", entry.reversed_entry_id),
            ("feature", entry.feature_key),
            ("quantity", f"{entry.quantity:+,}"),
            ("usage", usage_text(quota.used_quantity, quota.limit_quantity, quota.remaining_quantity)),
            ("period begins", time_text(entry.period.start_time)),
            ("period ends", time_text(entry.period.end_time)),
            ("by", escape(entry.actor)),
            ("replayed", "yes: the first answer again, nothing more was counted" if replayed else ""),
        )
    )


def _print_denials(response: usage_service_pb2.ReverseUsageResponse) -> None:
    count = response.redeemable_denial_count
    if not count:
        typer.echo("Nobody was denied because of it.")
        return
    typer.echo(f"{count:,} denied call{'s' if count > 1 else ''} would have been allowed without it:")
    print_table(
        ("denied", "feature", "quantity", "request"),
        (
            (time_text(denial.denial_time), denial.feature_key, f"{denial.quantity:,}", escape(denial.request_id))
            for denial in response.redeemable_denials[:DENIALS_SHOWN_MAX]
        ),
        numeric=("quantity",),
    )
    if count > DENIALS_SHOWN_MAX:
        typer.echo("There are more; --json shows up to 1,000.")
