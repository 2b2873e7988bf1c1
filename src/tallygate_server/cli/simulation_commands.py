"""Commands about limits that might be: who would be blocked under a draft."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tallygate_server.cli.explanations import CommandError
from tallygate_server.cli.options import TARGET_DEFAULT, Json, Target, Tenant, with_client
from tallygate_server.cli.output import limit_text, message_as_json, print_json, print_table, time_text
from tallygate_server.cli.streams import progress_bar

if TYPE_CHECKING:
    from tallygate.v1 import entitlement_service_pb2
    from tallygate_server.client import Client

    Simulation = tuple[list[entitlement_service_pb2.SimulatedAccount], entitlement_service_pb2.SimulationTotals]

PANEL: Final = "Call a running server"
WINDOW_DEFAULT: Final = "30d"
TIMEOUT_S: Final = 3_600.0
ROWS_DEFAULT: Final = 50

_LENGTH: Final = re.compile(r"(?P<number>[1-9]\d{0,5})(?P<unit>[mhdw])")
_UNITS: Final = {
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("simulate", rich_help_panel=PANEL)(simulate)


WindowOption = Annotated[
    str,
    typer.Option("--window", "-w", metavar="LENGTH", help="The last 90m, 12h, 30d or 4w of usage."),
]


def simulate(
    tenant: Tenant,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="Draft catalog as YAML or JSON; none: the plans in force.", show_default=False
        ),
    ] = None,
    *,
    window: WindowOption = WINDOW_DEFAULT,
    start: Annotated[str, typer.Option("--start", metavar="TIME", help="From here, in place of --window.")] = "",
    end: Annotated[str, typer.Option("--end", metavar="TIME", help="Until before this. [default: now]")] = "",
    account: Annotated[str, typer.Option("--account", "-a", help="Only this account.")] = "",
    feature: Annotated[str, typer.Option("--feature", "-f", help="Only this feature.")] = "",
    plan: Annotated[str, typer.Option("--plan", "-p", help="Only accounts on this plan.")] = "",
    include_denied: Annotated[
        bool, typer.Option("--include-denied", help="Try again what was denied, too, as far as it is recorded.")
    ] = False,
    rows: Annotated[
        int, typer.Option("--rows", min=1, help="Rows of the table; those with most denials.")
    ] = ROWS_DEFAULT,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Replay real usage against a draft: who would be blocked, when first, and how often. Nothing is changed."""
    from tallygate.v1 import entitlement_service_pb2

    until = _time("--end", end) or datetime.now(UTC)
    begin = _time("--start", start) or until - length_of(window)
    request = entitlement_service_pb2.SimulateLimitsRequest(
        tenant_id=tenant,
        start_time=begin,
        end_time=until,
        account_id=account,
        feature_key=feature,
        plan_key=plan,
        include_denied_usage=include_denied,
    )
    if file is None:
        request.in_force = True
    else:
        request.yaml = read_draft(file)
    accounts, totals = run_simulation(request, target, quiet=as_json)
    if as_json:
        print_json(simulation_as_json(accounts, totals))
    else:
        print_simulation(accounts, totals, rows=rows)


def read_draft(file: Path) -> str:
    """Return the text of a catalog file."""
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise CommandError(f"{file}: is not text in UTF-8 (byte {error.start})") from None


def length_of(window: str) -> timedelta:
    """Return the length that a text such as `30d` names."""
    found = _LENGTH.fullmatch(window)
    if found is None:
        raise CommandError(f"--window {window}: say 90m, 12h, 30d or 4w")
    return int(found["number"]) * _UNITS[found["unit"]]


def run_simulation(request: entitlement_service_pb2.SimulateLimitsRequest, target: str, *, quiet: bool) -> Simulation:
    """Run a simulation to its end, with a progress bar; return who would be denied, and the totals."""
    from tallygate.v1 import entitlement_service_pb2

    accounts: list[entitlement_service_pb2.SimulatedAccount] = []
    totals = entitlement_service_pb2.SimulationTotals()

    async def follow(client: Client) -> None:
        with progress_bar("entries", quiet=quiet) as advance:
            async for update in client.stream(client.entitlements.SimulateLimits, request, timeout_s=TIMEOUT_S):
                match update.WhichOneof("update"):
                    case "account":
                        accounts.append(update.account)
                    case "progress":
                        advance(update.progress.entry_count, update.progress.entry_count_total)
                    case "totals":
                        totals.CopyFrom(update.totals)

    with_client(target, follow)
    return accounts, totals


def simulation_as_json(
    accounts: list[entitlement_service_pb2.SimulatedAccount], totals: entitlement_service_pb2.SimulationTotals
) -> dict[str, Any]:
    """Return what a simulation found, for programs."""
    return {"accounts": [message_as_json(account) for account in accounts], "totals": message_as_json(totals)}


def print_simulation(
    accounts: list[entitlement_service_pb2.SimulatedAccount],
    totals: entitlement_service_pb2.SimulationTotals,
    *,
    rows: int = ROWS_DEFAULT,
) -> None:
    """Print who would be blocked, those with most denials first."""
    from tallygate.v1 import access_pb2

    if accounts:
        ordered = sorted(accounts, key=lambda each: (-each.denied_count, each.account_id, each.feature_key))
        columns = (
            "account",
            "feature",
            "plan",
            "limit",
            "used",
            "denied calls",
            "denied units",
            "first",
            "why",
            "really denied",
        )
        print_table(
            columns,
            (
                (
                    each.account_id,
                    each.feature_key,
                    each.plan_key,
                    limit_text(each.limit_quantity),
                    f"{each.used_quantity:,}",
                    f"{each.denied_count:,}",
                    f"{each.denied_quantity:,}",
                    time_text(each.first_denial_time),
                    access_pb2.DecisionReason.Name(each.reason)
                    .removeprefix("DECISION_REASON_")
                    .lower()
                    .replace("_", " "),
                    f"{each.real_denied_count:,}",
                )
                for each in ordered[:rows]
            ),
            title="Would be blocked",
            numeric=("limit", "used", "denied calls", "denied units", "really denied"),
        )
        if len(ordered) > rows:
            typer.echo(f"and {len(ordered) - rows:,} more; --json lists all")
    typer.echo(
        f"{totals.denied_account_count:,} of {totals.account_count:,} accounts would be blocked,"
        f" {totals.first_day_account_count:,} of them within the first day:"
        f" {totals.denied_count:,} calls, {totals.denied_quantity:,} units."
    )
    typer.echo(
        f"{totals.entry_count:,} lines of the ledger replayed in {totals.duration.ToTimedelta().total_seconds():.1f} s."
    )


def _time(option: str, text: str) -> datetime | None:
    if not text:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{option} {text}: say a time such as 2026-12-01 or 2026-12-01T12:00:00+01:00") from None
    return instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC)
