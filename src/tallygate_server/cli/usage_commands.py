"""Commands about usage: where an account stands, its ledger, and usage summed up by window and group."""

from __future__ import annotations

import csv
import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from typer.core import TyperGroup

from tallygate_server.cli import correction_commands, usage_event_commands
from tallygate_server.cli.client_commands import usage
from tallygate_server.cli.explanations import CommandError
from tallygate_server.cli.options import TARGET_DEFAULT, Json, Target, Tenant, with_client
from tallygate_server.cli.output import print_message, print_table

if TYPE_CHECKING:
    from tallygate.v1 import catalog_pb2, usage_service_pb2
    from tallygate_server.client import Client

PANEL: Final = "Call a running server"
SHOW: Final = "show"
BAR_WIDTH: Final = 24
PAGE_SIZE: Final = 1_000
DAYS_DEFAULT: Final = 30
REST: Final = "(all others)"
NOTHING: Final = "(none)"
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"


class Window(StrEnum):
    """Length of a window."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    WHOLE = "whole"


class UsageGroup(TyperGroup):
    """A group whose first command needs no name: `tallygate usage lekhak user_1` shows where the account stands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put in the name that is left out."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [SHOW, *args]
        return super().parse_args(ctx, args)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(
        cls=UsageGroup,
        no_args_is_help=True,
        help="Show usage: where an account stands (`tallygate usage TENANT ACCOUNT`), or sums by time and group.",
    )
    group.command(SHOW)(usage)
    group.command("query")(query)
    group.command("record")(usage_event_commands.record)
    group.command("events")(usage_event_commands.events)
    correction_commands.add_to(group)
    app.add_typer(group, name="usage", rich_help_panel=PANEL)


def query(
    tenant: Tenant,
    *,
    feature: Annotated[str, typer.Option("--feature", "-f", help="What the ledger has of this feature.")] = "",
    meter: Annotated[str, typer.Option("--meter", "-m", help="What this meter measured.")] = "",
    ai_cost: Annotated[bool, typer.Option("--ai-cost", help="What AI usage cost, in billionths of a unit.")] = False,
    start: Annotated[
        str, typer.Option("--start", metavar="TIME", help="From here, such as 2026-12-01. [default: 30 days ago]")
    ] = "",
    end: Annotated[str, typer.Option("--end", metavar="TIME", help="Until before this. [default: now]")] = "",
    window: Annotated[Window, typer.Option("--window", "-w", help="Length of a window.")] = Window.DAY,
    time_zone: Annotated[
        str, typer.Option("--zone", "-z", metavar="ZONE", help="IANA zone in which days begin, and times are read.")
    ] = "",
    group_by: Annotated[
        list[str] | None,
        typer.Option("--by", "-b", metavar="DIMENSION", help="Group by this; `account_id` too; repeatable."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="DIMENSION=VALUE[,VALUE]", help="Keep only these values; repeatable."),
    ] = None,
    account: Annotated[
        list[str] | None, typer.Option("--account", "-a", metavar="ACCOUNT", help="Only this account; repeatable.")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=0, max=1_000, help="Only the largest groups; 0 for all.")] = 0,
    as_csv: Annotated[bool, typer.Option("--csv", help="Answer in CSV.")] = False,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Sum up usage by window and group."""
    from tallygate.v1 import usage_service_pb2

    if sum(map(bool, (feature, meter, ai_cost))) != 1:
        raise CommandError("name one of --feature, --meter and --ai-cost")
    if as_csv and as_json:
        raise CommandError("--csv and --json exclude each other")
    begin = _time("--start", start, time_zone) or datetime.now(UTC) - timedelta(days=DAYS_DEFAULT)
    request = usage_service_pb2.QueryUsageRequest(
        tenant_id=tenant,
        start_time=begin,
        end_time=_time("--end", end, time_zone),
        window_size=f"WINDOW_SIZE_{'UNSPECIFIED' if window is Window.WHOLE else window.name}",
        time_zone=time_zone,
        account_ids=account or [],
        group_by=group_by or [],
        filters=[_filter(each) for each in where or []],
        top_count=top,
        page_size=PAGE_SIZE,
    )
    if feature:
        request.feature_key = feature
    elif meter:
        request.meter_key = meter
    else:
        request.ai_cost = True
    answer = with_client(target, lambda client: _all_pages(client, request))
    if as_json:
        print_message(answer)
    elif as_csv:
        _print_csv(answer, group_by or [])
    elif answer.rows:
        _print_rows(answer, group_by or [], time_zone)
    else:
        typer.echo("No usage.")


async def _all_pages(
    client: Client, request: usage_service_pb2.QueryUsageRequest
) -> usage_service_pb2.QueryUsageResponse:
    """Return the answer with the rows of all pages; the server bounds how many there can be."""
    answer = await client.call(client.usage.QueryUsage, request)
    page = answer
    while page.next_page_token:
        request.page_token = page.next_page_token
        page = await client.call(client.usage.QueryUsage, request)
        answer.rows.extend(page.rows)
    answer.next_page_token = ""
    return answer


def _time(option: str, text: str, time_zone: str) -> datetime | None:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    if not text:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{option} {text}: is no time; write 2026-12-01 or 2026-12-01T09:30") from None
    try:
        zone = ZoneInfo(time_zone or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise CommandError(f"--zone {time_zone}: is no IANA time zone such as Europe/Berlin") from None
    return (instant if instant.tzinfo is not None else instant.replace(tzinfo=zone)).astimezone(UTC)


def _filter(text: str) -> catalog_pb2.DimensionFilter:
    from tallygate.v1 import catalog_pb2

    dimension, equals, values = text.partition("=")
    if not equals:
        raise CommandError(f"--where {text}: write it as DIMENSION=VALUE")
    return catalog_pb2.DimensionFilter(dimension=dimension, values=values.split(","))


def _print_rows(answer: usage_service_pb2.QueryUsageResponse, group_by: list[str], time_zone: str) -> None:
    largest = max(abs(row.quantity) for row in answer.rows)
    print_table(
        ("window", *group_by, "quantity", "events", ""),
        (
            (
                _window_text(row, time_zone),
                *(REST if row.rest else _literal(row.group[name]) or NOTHING for name in group_by),
                row.decimal_quantity or f"{row.quantity:,}",
                f"{row.event_count:,}",
                bar(row.quantity, largest),
            )
            for row in answer.rows
        ),
        numeric=("quantity", "events"),
    )
    if answer.total_quantity:
        typer.echo(f"Total {answer.total_quantity:,}")


def bar(quantity: int, largest: int) -> str:
    """Draw a quantity beside the largest one; a tiny one is still seen, a negative one has none."""
    if quantity <= 0 or largest <= 0:
        return ""
    eighths = max(1, round(quantity * BAR_WIDTH * 8 / largest))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _print_csv(answer: usage_service_pb2.QueryUsageResponse, group_by: list[str]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("start_time", "end_time", *group_by, "quantity", "decimal_quantity", "event_count", "rest"))
    for row in answer.rows:
        writer.writerow(
            (
                row.window.start_time.ToJsonString(),
                row.window.end_time.ToJsonString(),
                *(row.group.get(name, "") for name in group_by),
                row.quantity,
                row.decimal_quantity,
                row.event_count,
                int(row.rest),
            )
        )


def _window_text(row: usage_service_pb2.UsageRow, time_zone: str) -> str:
    from zoneinfo import ZoneInfo

    start = row.window.start_time.ToDatetime(UTC).astimezone(ZoneInfo(time_zone or "UTC"))
    return start.strftime("%Y-%m-%d" if (start.hour, start.minute, start.second) == (0, 0, 0) else "%Y-%m-%d %H:%M %Z")


def _literal(text: str) -> str:
    """Return text that the table shows as it is."""
    from rich.markup import escape

    return escape(text)
