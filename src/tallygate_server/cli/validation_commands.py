"""`tallygate validate`: compare what is derived with the rows of record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from tallygate_server.cli.explanations import EXIT_NO
from tallygate_server.cli.options import TARGET_DEFAULT, Json, Target, with_client
from tallygate_server.cli.output import message_as_json, print_json, print_table
from tallygate_server.cli.streams import progress_bar

if TYPE_CHECKING:
    from tallygate.v1 import admin_service_pb2
    from tallygate_server.client import Client

TIMEOUT_S: Final = 24 * 3_600.0
ACTOR: Final = "tallygate command line"


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command("validate", rich_help_panel="Call a running server")(validate)


def validate(
    tenant: Annotated[
        str, typer.Argument(metavar="[TENANT]", help="Tenant id; none: all tenants.", show_default=False)
    ] = "",
    account: Annotated[str, typer.Argument(metavar="[ACCOUNT]", help="Only this account.", show_default=False)] = "",
    *,
    repair: Annotated[bool, typer.Option("--repair", help="Repair what differs.")] = False,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Compare counters, Redis and snapshots with the ledger. Exit code 1 when differences remain."""
    from tallygate.v1 import admin_service_pb2

    request = admin_service_pb2.ValidateEntitlementsRequest(
        tenant_id=tenant, account_id=account, repair=repair, actor=ACTOR
    )
    differences: list[admin_service_pb2.EntitlementDifference] = []
    totals = admin_service_pb2.ValidationTotals()

    async def follow(client: Client) -> None:
        with progress_bar("accounts", quiet=as_json) as advance:
            async for update in client.stream(client.admin.ValidateEntitlements, request, timeout_s=TIMEOUT_S):
                match update.WhichOneof("update"):
                    case "difference":
                        differences.append(update.difference)
                    case "progress":
                        advance(update.progress.account_count, update.progress.account_count_total)
                    case "totals":
                        totals.CopyFrom(update.totals)

    with_client(target, follow)
    if as_json:
        print_json({"differences": [message_as_json(each) for each in differences], "totals": message_as_json(totals)})
    else:
        _print(differences, totals)
    if totals.difference_count > totals.repaired_count:
        raise typer.Exit(EXIT_NO)


def _print(
    differences: list[admin_service_pb2.EntitlementDifference], totals: admin_service_pb2.ValidationTotals
) -> None:
    from tallygate.v1 import admin_service_pb2

    if differences:
        print_table(
            ("tenant", "account", "feature", "where", "expected", "found", "repaired"),
            (
                (
                    each.tenant_id,
                    each.account_id,
                    each.feature_key,
                    admin_service_pb2.DifferencePlace.Name(each.place).removeprefix("DIFFERENCE_PLACE_").lower(),
                    each.expected_json.replace("[", r"\["),
                    each.actual_json.replace("[", r"\["),
                    "yes" if each.repaired else "no",
                )
                for each in differences
            ),
        )
    typer.echo(
        f"{totals.account_count:,} accounts, {totals.counter_count:,} counters and {totals.entry_count:,} lines of the"
        f" ledger examined: {totals.difference_count:,} differences, {totals.repaired_count:,} repaired."
    )
