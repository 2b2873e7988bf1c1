"""Commands about how much is stored: tiers, sorts of data, savings, costs, growth, and what could be saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tallygate_server.cli.options import TARGET_DEFAULT, Json, Target, Tenant, with_client
from tallygate_server.cli.output import bytes_text, print_facts, print_message, print_table

if TYPE_CHECKING:
    from tallygate.v1 import data_lifecycle_service_pb2, money_pb2
    from tallygate_server.client import Client

DAYS_DEFAULT: Final = 90
DAYS_MAX: Final = 365
ACCOUNTS_DEFAULT: Final = 10
BAR_WIDTH: Final = 32
SPARK_WIDTH: Final = 60
PAGE_SIZE: Final = 1_000
TIERS: Final = ("hot", "warm", "cold")

_SPARKS: Final = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class _Status:
    """What the server says: by sort of data and tier, and by account where that was asked for."""

    metrics: data_lifecycle_service_pb2.GetStorageMetricsResponse
    accounts: data_lifecycle_service_pb2.GetStorageMetricsResponse | None


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("status")(status)


def status(
    tenant: Tenant,
    *,
    account: Annotated[
        str,
        typer.Option("--account", "-a", help="Only this account; then without growth, which is not known by account."),
    ] = "",
    data_type: Annotated[str, typer.Option("--type", help="Only this sort of data, such as heart_rate.")] = "",
    days: Annotated[
        int, typer.Option("--days", min=1, max=DAYS_MAX, help="Days of the past and of the projection.")
    ] = DAYS_DEFAULT,
    accounts: Annotated[
        int, typer.Option("--accounts", min=0, max=PAGE_SIZE, help="Accounts to name, largest first; 0: none.")
    ] = ACCOUNTS_DEFAULT,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            help="Draw growth and tiers, past and projected, into a .png or .svg file.",
            dir_okay=False,
        ),
    ] = None,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Show how much is stored, what it costs, how it grows, and what could be saved."""
    from tallygate.v1 import data_lifecycle_service_pb2 as wire
    from tallygate_server.cli.storage_plot import check_suffix, draw_storage

    if plot is not None:
        # Before anybody waits for the server.
        check_suffix(plot)
    request = wire.GetStorageMetricsRequest(
        tenant_id=tenant,
        account_id=account,
        data_type=data_type,
        group_by=[wire.STORAGE_GROUPING_DATA_TYPE, wire.STORAGE_GROUPING_TIER],
        history_days=days,
        page_size=PAGE_SIZE,
    )

    async def ask(client: Client) -> _Status:
        metrics: Any = await client.call(client.lifecycle.GetStorageMetrics, request)
        if not accounts or account or as_json:
            return _Status(metrics, None)
        by_account = wire.GetStorageMetricsRequest()
        by_account.CopyFrom(request)
        by_account.ClearField("group_by")
        by_account.group_by.append(wire.STORAGE_GROUPING_ACCOUNT)
        by_account.page_size = accounts
        return _Status(metrics, await client.call(client.lifecycle.GetStorageMetrics, by_account))

    found = with_client(target, ask)
    if plot is not None:
        draw_storage(found.metrics, plot, title=f"Stored data of {tenant}")
    if as_json:
        print_message(found.metrics)
        return
    print_status(found.metrics, found.accounts)
    if plot is not None:
        typer.echo(f"\nDrawn into {plot}.")


def print_status(
    metrics: data_lifecycle_service_pb2.GetStorageMetricsResponse,
    accounts: data_lifecycle_service_pb2.GetStorageMetricsResponse | None = None,
) -> None:
    """Print what the server says."""
    if not metrics.total_bytes and not any(_total(point) for point in metrics.history):
        typer.echo("Nothing is stored.")
        return
    _print_tiers(metrics)
    _print_types(metrics)
    if accounts is not None:
        _print_accounts(accounts)
    _print_savings(metrics)
    _print_growth(metrics)
    _print_opportunities(metrics)


def money_text(money: money_pb2.Money) -> str:
    """Return an amount: `12.30 USD`."""
    from tallygate_server.domain.money import format_amount

    return f"{format_amount(money.minor_units, money.currency_code)} {money.currency_code}"


def sparkline(values: Sequence[int], *, width: int = SPARK_WIDTH) -> str:
    """Draw values from nothing to the largest in one line of at most so many characters, the last one always."""
    if len(values) > width:
        step = len(values) / width
        values = [values[min(len(values) - 1, int((n + 1) * step) - 1)] for n in range(width)]
    top = max(values, default=0)
    if not top:
        return _SPARKS[0] * len(values)
    return "".join(_SPARKS[min(len(_SPARKS) - 1, value * len(_SPARKS) // top)] for value in values)


def _print_tiers(metrics: data_lifecycle_service_pb2.GetStorageMetricsResponse) -> None:
    plain = sum(row.original_bytes for row in metrics.rows)
    typer.echo(
        f"{typer.style(bytes_text(metrics.total_bytes), bold=True)} stored, {bytes_text(plain)} as plain rows,"
        f" {sum(row.record_count for row in metrics.rows):,} records"
    )
    by_tier = {tier: [row for row in metrics.rows if row.tier == number] for number, tier in enumerate(TIERS, start=1)}
    for tier, rows in by_tier.items():
        stored = sum(row.stored_bytes for row in rows)
        share = stored / metrics.total_bytes if metrics.total_bytes else 0.0
        filled = round(share * BAR_WIDTH)
        bar = typer.style("█" * filled, fg=_COLORS[tier]) + "░" * (BAR_WIDTH - filled)
        cost = metrics.cost.by_tier.get(tier)
        typer.echo(
            f"  {tier:<5} {bar} {bytes_text(stored):>10} {share:>6.1%}"
            f"  {sum(row.record_count for row in rows):>14,} records"
            + (f"  {money_text(cost)} a month" if cost is not None else "")
        )


def _print_types(metrics: data_lifecycle_service_pb2.GetStorageMetricsResponse) -> None:
    by_type: dict[str, list[Any]] = {}
    for row in metrics.rows:
        by_type.setdefault(row.data_type, []).append(row)
    ordered = sorted(by_type.items(), key=lambda each: (-sum(row.stored_bytes for row in each[1]), each[0]))
    typer.echo()
    print_table(
        ("sort of data", "stored", *TIERS, "plain", "ratio", "records", "quality", "reads (30 d)"),
        (
            (
                data_type,
                bytes_text(stored := sum(row.stored_bytes for row in rows)),
                *(bytes_text(sum(row.stored_bytes for row in rows if row.tier == number)) for number in (1, 2, 3)),
                bytes_text(plain := sum(row.original_bytes for row in rows)),
                _ratio_text(stored, plain),
                f"{(records := sum(row.record_count for row in rows)):,}",
                f"{sum(row.quality_score * row.record_count for row in rows) / records:.2f}" if records else "",
                f"{sum(row.access_count for row in rows):,}",
            )
            for data_type, rows in ordered
        ),
        numeric=("stored", *TIERS, "plain", "ratio", "records", "quality", "reads (30 d)"),
    )
    if metrics.next_page_token:
        typer.echo("There are more sorts of data, each smaller than these; --type shows one.")


def _print_accounts(accounts: data_lifecycle_service_pb2.GetStorageMetricsResponse) -> None:
    typer.echo()
    print_table(
        ("account", "stored", "plain", "ratio", "records", "reads (30 d)"),
        (
            (
                row.account_id or "(the tenant's own)",
                bytes_text(row.stored_bytes),
                bytes_text(row.original_bytes),
                _ratio_text(row.stored_bytes, row.original_bytes),
                f"{row.record_count:,}",
                f"{row.access_count:,}",
            )
            for row in accounts.rows
        ),
        title="Largest accounts" if accounts.next_page_token else "Accounts",
        numeric=("stored", "plain", "ratio", "records", "reads (30 d)"),
    )


def _print_savings(metrics: data_lifecycle_service_pb2.GetStorageMetricsResponse) -> None:
    cost = metrics.cost
    typer.echo()
    print_facts(
        [
            (
                "saved",
                (
                    f"{bytes_text(metrics.compression_savings_bytes)} by compression,"
                    f" {bytes_text(metrics.deletion_savings_bytes)} by deletion"
                ),
            ),
            (
                "costs",
                f"{money_text(cost.total)} a month; as plain rows in the hot tier {money_text(cost.without_lifecycle)}",
            ),
        ]
    )


def _print_growth(metrics: data_lifecycle_service_pb2.GetStorageMetricsResponse) -> None:
    if not metrics.history:
        return
    past = [_total(point) for point in metrics.history]
    future = [_total(point) for point in metrics.projection]
    line = sparkline([*past, *future])
    # The same scale for both, the projection dimmed.
    cut = round(len(line) * len(past) / (len(past) + len(future)))
    facts = [("growth", line[:cut] + typer.style(line[cut:], dim=True))]
    if future:
        sign = "+" if metrics.projected_growth_bytes >= 0 else ""
        facts += [
            (
                "",
                (
                    f"{sign}{bytes_text(metrics.projected_growth_bytes)} a month;"
                    f" {bytes_text(future[-1])} in {len(future)} days (median slope of the last days, at most 90)"
                ),
            )
        ]
    else:
        facts += [("", f"days known so far: {len(past)}, too few for a projection")]
    width = len("growth")
    for name, value in facts:
        typer.echo(f"  {typer.style(name.ljust(width), dim=True)}  {value}")


def _print_opportunities(metrics: data_lifecycle_service_pb2.GetStorageMetricsResponse) -> None:
    from tallygate.v1 import data_lifecycle_pb2

    if not metrics.opportunities:
        return
    typer.echo()
    print_table(
        ("do", "sort of data", "saves", "a month", "loses of its worth", "why"),
        (
            (
                data_lifecycle_pb2.StorageOptimization.Name(each.action).removeprefix("STORAGE_OPTIMIZATION_").lower()
                if each.action != data_lifecycle_pb2.STORAGE_OPTIMIZATION_NONE
                else "move",
                each.data_type,
                bytes_text(each.saved_bytes),
                money_text(each.saved_cost),
                f"{each.value_lost:.1%}",
                each.explanation,
            )
            for each in metrics.opportunities
        ),
        title="What could be saved (estimated)",
        numeric=("saves", "a month", "loses of its worth"),
    )


_COLORS: Final = {"hot": "red", "warm": "yellow", "cold": "blue"}


def _ratio_text(stored: int, plain: int) -> str:
    return f"{stored / plain:.2g}" if plain else ""


def _total(point: Any) -> int:
    return int(point.hot_bytes + point.warm_bytes + point.cold_bytes)
