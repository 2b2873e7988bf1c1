"""Commands that call a running server: catalog, account, check, increment; usage is shown by usage_commands."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tallygate_server.cli import account_commands, options
from tallygate_server.cli.explanations import EXIT_NO, CommandError
from tallygate_server.cli.options import TARGET_DEFAULT, Account, Feature, Json, Target, Tenant, with_client
from tallygate_server.cli.output import (
    UNLIMITED,
    limit_text,
    message_as_json,
    print_facts,
    print_json,
    print_message,
    print_table,
    time_text,
    usage_text,
)
from tallygate_server.cli.simulation_commands import (
    WINDOW_DEFAULT,
    WindowOption,
    length_of,
    print_simulation,
    read_draft,
    run_simulation,
    simulation_as_json,
)

if TYPE_CHECKING:
    from tallygate.v1 import (
        catalog_service_pb2,
        entitlement_service_pb2,
        subscription_pb2,
        usage_pb2,
        usage_service_pb2,
    )
    from tallygate_server.cli.simulation_commands import Simulation
    from tallygate_server.client import Client

CATALOG_BYTES_MAX: Final = 1_048_576
ENTRIES_DEFAULT: Final = 20
ACTOR: Final = options.ACTOR


class Ack(StrEnum):
    """When an increment is answered."""

    COMMITTED = "committed"
    ACCEPTED = "accepted"


CatalogFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="Catalog as YAML or JSON, see examples/catalogs.", show_default=False)
]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    panel = "Call a running server"
    app.command("check", rich_help_panel=panel)(check)
    app.command("increment", rich_help_panel=panel)(increment)
    catalog = typer.Typer(no_args_is_help=True, help="Declare what a tenant sells, and look at it.")
    catalog.command("apply")(catalog_apply)
    catalog.command("diff")(catalog_diff)
    catalog.command("show")(catalog_show)
    app.add_typer(catalog, name="catalog", rich_help_panel=panel)
    account = typer.Typer(no_args_is_help=True, help="Look at accounts.")
    account.callback()(_account_group)
    account.command("show")(account_show)
    account_commands.add_to(account)
    app.add_typer(account, name="account", rich_help_panel=panel)


def _account_group() -> None:
    """Look at accounts."""


# ---------------------------------------------------------------- catalogs


def catalog_apply(
    file: CatalogFile,
    *,
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Change nothing; show what would change.")
    ] = False,
    migrate_subscriptions: Annotated[
        bool,
        typer.Option("--migrate-subscriptions", help="Move live subscriptions to the new plan versions at once."),
    ] = False,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Make a tenant's catalog what a file says. Applying it twice changes nothing."""
    response = _apply(file, target, validate_only=validate_only, migrate_subscriptions=migrate_subscriptions)
    if as_json:
        print_message(response)
        return
    _print_changes(response)
    if validate_only:
        typer.echo("Nothing was changed: --validate-only.")
    elif response.applied:
        typer.echo(f"Catalog {response.tenant_id} is now at revision {response.catalog_revision}.")


def catalog_diff(
    file: CatalogFile,
    *,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Replay real usage against it, too: who would be blocked.")
    ] = False,
    window: WindowOption = WINDOW_DEFAULT,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Show what applying a file would change. Exit code 0 when nothing differs, 1 when something does."""
    response = _apply(file, target, validate_only=True)
    found = _simulate(file, response.tenant_id, window, target, quiet=as_json) if simulate else None
    if as_json and found is not None:
        print_json({"differences": message_as_json(response), "simulation": simulation_as_json(*found)})
    elif as_json:
        print_message(response)
    else:
        _print_changes(response)
        if found is not None:
            typer.echo()
            print_simulation(*found)
    if response.changes:
        raise typer.Exit(EXIT_NO)


def catalog_show(
    tenant: Tenant,
    *,
    revision: Annotated[int, typer.Option(min=0, help="An earlier revision; 0 for the present one.")] = 0,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Print a tenant's catalog as YAML that can be applied again."""
    from tallygate.v1 import catalog_service_pb2

    request = catalog_service_pb2.GetCatalogRequest(tenant_id=tenant, revision=revision)
    response = with_client(target, lambda client: client.call(client.catalogs.GetCatalog, request))
    if as_json:
        print_message(response.catalog)
    else:
        typer.echo(response.yaml.rstrip("\n"))


def _apply(
    file: Path, target: str, *, validate_only: bool, migrate_subscriptions: bool = False
) -> catalog_service_pb2.ApplyCatalogResponse:
    from tallygate.v1 import catalog_service_pb2

    with file.open("rb") as opened:
        content = opened.read(CATALOG_BYTES_MAX + 1)
    if len(content) > CATALOG_BYTES_MAX:
        raise CommandError(f"{file}: a catalog has at most {CATALOG_BYTES_MAX:,} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise CommandError(f"{file}: is not text in UTF-8 (byte {error.start})") from None
    if not text.strip():
        raise CommandError(f"{file}: is empty")
    request = catalog_service_pb2.ApplyCatalogRequest(
        yaml=text, validate_only=validate_only, migrate_subscriptions=migrate_subscriptions, actor=ACTOR
    )
    return with_client(target, lambda client: client.call(client.catalogs.ApplyCatalog, request, timeout_s=60))


_SIGNS: Final = {"ADDED": "[green]+[/green]", "REMOVED": "[red]-[/red]", "CHANGED": "[yellow]~[/yellow]"}


def _print_changes(response: catalog_service_pb2.ApplyCatalogResponse) -> None:
    from tallygate.v1 import catalog_service_pb2

    if not response.changes:
        typer.echo(f"Catalog {response.tenant_id}: nothing differs (revision {response.catalog_revision}).")
        return
    print_table(
        ("", "tenant", "what", "before", "after", "accounts"),
        (
            (
                _SIGNS[catalog_service_pb2.CatalogChangeKind.Name(change.kind).rpartition("_")[2]],
                change.tenant_id,
                change.path + (" [red](gives less)[/red]" if change.restrictive else ""),
                _literal(change.before_json),
                _literal(change.after_json),
                change.affected_account_count or "",
            )
            for change in response.changes
        ),
        numeric=("accounts",),
    )
    typer.echo(
        f"{len(response.changes)} differences; {response.affected_account_count:,} accounts and"
        f" {response.affected_subscription_count:,} subscriptions are affected."
    )


def _simulate(file: Path, tenant_id: str, window: str, target: str, *, quiet: bool) -> Simulation:
    from tallygate.v1 import entitlement_service_pb2

    now = datetime.now(UTC)
    request = entitlement_service_pb2.SimulateLimitsRequest(
        tenant_id=tenant_id, start_time=now - length_of(window), end_time=now, yaml=read_draft(file)
    )
    return run_simulation(request, target, quiet=quiet)


def _literal(text: str) -> str:
    """Return text that is shown as it is, brackets included."""
    return text.replace("[", r"\[")


# ---------------------------------------------------------------- accounts


def account_show(tenant: Tenant, account: Account, *, target: Target = TARGET_DEFAULT, as_json: Json = False) -> None:
    """Show an account, its subscriptions and where it stands with everything that is counted."""
    from tallygate.v1 import account_pb2, account_service_pb2, subscription_service_pb2, usage_service_pb2

    get = account_service_pb2.GetAccountRequest(tenant_id=tenant, account_id=account)
    list_subscriptions = subscription_service_pb2.ListSubscriptionsRequest(tenant_id=tenant, account_id=account)
    get_quota = usage_service_pb2.GetQuotaRequest(tenant_id=tenant, account_id=account)

    async def ask(
        client: Client,
    ) -> tuple[
        account_service_pb2.GetAccountResponse,
        subscription_service_pb2.ListSubscriptionsResponse,
        usage_service_pb2.GetQuotaResponse,
    ]:
        return (
            await client.call(client.accounts.GetAccount, get),
            await client.call(client.subscriptions.ListSubscriptions, list_subscriptions),
            await client.call(client.usage.GetQuota, get_quota),
        )

    found, subscriptions, quota = with_client(target, ask)
    if as_json:
        print_json(
            {
                "account": message_as_json(found.account),
                "subscriptions": [message_as_json(item) for item in subscriptions.subscriptions],
                "quotas": [message_as_json(item) for item in quota.quotas],
            }
        )
        return
    shown = found.account
    typer.echo(f"{shown.tenant_id}/{shown.account_id}")
    print_facts(
        (
            ("state", account_pb2.AccountState.Name(shown.state).removeprefix("ACCOUNT_STATE_").lower()),
            ("suspended because", shown.suspend_reason),
            ("identities", ", ".join(f"{item.provider}:{item.external_id}" for item in shown.identities)),
            ("name", shown.display_name),
            ("e-mail", shown.email),
            ("time zone", shown.time_zone),
            ("created", time_text(shown.create_time)),
            ("last seen", time_text(shown.last_seen_time)),
            ("revision", shown.revision),
        )
    )
    typer.echo("\nSubscriptions:" if subscriptions.subscriptions else "\nNo subscriptions.")
    if subscriptions.subscriptions:
        _print_subscriptions(list(subscriptions.subscriptions))
    typer.echo("\nQuota:" if quota.quotas else "\nNothing is counted for this account.")
    if quota.quotas:
        _print_quotas(list(quota.quotas))


def _print_subscriptions(subscriptions: list[subscription_pb2.Subscription]) -> None:
    from tallygate.v1 import subscription_pb2

    print_table(
        ("plan", "version", "state", "since", "period ends", "id"),
        (
            (
                item.plan_key,
                item.plan_version,
                subscription_pb2.SubscriptionState.Name(item.state).removeprefix("SUBSCRIPTION_STATE_").lower(),
                time_text(item.start_time),
                time_text(item.current_period.end_time) or "-",
                item.subscription_id,
            )
            for item in subscriptions
        ),
    )


# ---------------------------------------------------------------- the hot calls


def check(
    tenant: Tenant,
    account: Account,
    feature: Feature,
    *,
    quantity: Annotated[int | None, typer.Option("--quantity", "-q", help="Units wanted; 1 when absent.")] = None,
    min_revision: Annotated[int, typer.Option(help="Revision that the answer must have reached.")] = 0,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Ask whether an account may use a feature now. Exit code 1 when it may not. Counts nothing."""
    from tallygate.v1 import access_pb2, entitlement_service_pb2

    request = entitlement_service_pb2.CheckAccessRequest(
        tenant_id=tenant, account_id=account, feature_key=feature, quantity=quantity, min_revision=min_revision
    )
    response = with_client(target, lambda client: client.call(client.entitlements.CheckAccess, request))
    if as_json:
        print_message(response)
    else:
        _print_decision(response)
        _print_check(response)
    if response.decision != access_pb2.DECISION_ALLOWED:
        raise typer.Exit(EXIT_NO)


def _print_decision(
    response: entitlement_service_pb2.CheckAccessResponse | usage_service_pb2.IncrementResponse,
) -> None:
    from tallygate.v1 import access_pb2

    decision = access_pb2.Decision.Name(response.decision).removeprefix("DECISION_").lower()
    reason = access_pb2.DecisionReason.Name(response.reason).removeprefix("DECISION_REASON_").lower()
    typer.secho(
        f"{decision} ({reason.replace('_', ' ')})",
        fg="green" if response.decision == access_pb2.DECISION_ALLOWED else "red",
        bold=True,
    )


def _print_check(response: entitlement_service_pb2.CheckAccessResponse) -> None:
    from google.protobuf.json_format import MessageToJson

    from tallygate.v1 import access_pb2

    metered = response.feature_kind in {access_pb2.FEATURE_KIND_COUNTER, access_pb2.FEATURE_KIND_GAUGE}
    print_facts(
        (
            ("kind", access_pb2.FeatureKind.Name(response.feature_kind).removeprefix("FEATURE_KIND_").lower()),
            ("value", MessageToJson(response.value) if response.HasField("value") else ""),
            ("usage", usage_text(response.used_quantity, response.limit_quantity, response.remaining_quantity)
             if metered else ""),
            ("held", f"{response.held_quantity:,}" if response.held_quantity else ""),
            ("threshold reached", f"{response.threshold_percent}%" if response.threshold_percent else ""),
            ("resets", time_text(response.reset_time)),
            ("grace ends", time_text(response.grace_end_time)),
            ("plan", response.plan_key),
            ("buy more", response.upgrade_url),
            ("revision", response.revision),
            ("stale", "yes: the database is away" if response.stale else ""),
        )
    )  # fmt: skip


def increment(
    tenant: Tenant,
    account: Account,
    feature: Feature,
    *,
    quantity: Annotated[
        int | None, typer.Option("--quantity", "-q", help="Units used; 1 when absent; negative for gauges only.")
    ] = None,
    request_id: Annotated[
        str, typer.Option("--request-id", help="Makes a retry safe: the same id is counted once.")
    ] = "",
    dimension: Annotated[
        list[str] | None,
        typer.Option("--dimension", "-d", metavar="NAME=VALUE", help="What usage can be grouped by; repeatable."),
    ] = None,
    ack: Annotated[Ack, typer.Option(help="Answer once committed, or once accepted.")] = Ack.COMMITTED,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Count usage if the limit allows it. Exit code 1 when it does not, and nothing is counted."""
    from tallygate.v1 import access_pb2, usage_service_pb2

    request = usage_service_pb2.IncrementRequest(
        tenant_id=tenant,
        account_id=account,
        feature_key=feature,
        quantity=quantity,
        request_id=request_id,
        dimensions=dict(dimensions_of(dimension or [])),
        ack=usage_service_pb2.ACK_MODE_COMMITTED if ack is Ack.COMMITTED else usage_service_pb2.ACK_MODE_ACCEPTED,
    )
    response = with_client(target, lambda client: client.call(client.usage.Increment, request))
    if as_json:
        print_message(response)
    else:
        _print_decision(response)
        print_facts(
            (
                ("usage", usage_text(response.used_quantity, response.limit_quantity, response.remaining_quantity)),
                ("threshold crossed", f"{response.threshold_percent}%" if response.threshold_percent else ""),
                ("resets", time_text(response.reset_time)),
                ("grace ends", time_text(response.grace_end_time)),
                ("plan", response.plan_key),
                ("buy more", response.upgrade_url),
                ("ledger entry", response.entry_id),
                ("replayed", "yes: the first answer again, nothing more was counted" if response.replayed else ""),
                ("revision", response.revision),
            )
        )
    if response.decision != access_pb2.DECISION_ALLOWED:
        raise typer.Exit(EXIT_NO)


def dimensions_of(pairs: list[str]) -> Iterator[tuple[str, str]]:
    """Read options of the form NAME=VALUE; raise CommandError."""
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise CommandError(f"--dimension {pair}: write it as NAME=VALUE")
        yield name, value


def usage(
    tenant: Tenant,
    account: Account,
    feature: Annotated[str, typer.Argument(metavar="[FEATURE]", help="Only this feature.")] = "",
    *,
    entries: Annotated[bool, typer.Option("--entries", "-e", help="Show the ledger, newest first.")] = False,
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, max=1_000, help="Lines of the ledger to show.")
    ] = ENTRIES_DEFAULT,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Show where an account stands with everything that is counted, or its ledger."""
    from tallygate.v1 import usage_service_pb2

    if entries:
        listing = usage_service_pb2.ListUsageEntriesRequest(
            tenant_id=tenant, account_id=account, feature_key=feature, page_size=count
        )
        page = with_client(target, lambda client: client.call(client.usage.ListUsageEntries, listing))
        if as_json:
            print_message(page)
        else:
            _print_entries(list(page.entries), more=bool(page.next_page_token))
        return
    if feature:
        one = usage_service_pb2.GetUsageRequest(tenant_id=tenant, account_id=account, feature_key=feature)
        found = with_client(target, lambda client: client.call(client.usage.GetUsage, one))
        if as_json:
            print_message(found)
        else:
            _print_quotas([found.quota])
        return
    every = usage_service_pb2.GetQuotaRequest(tenant_id=tenant, account_id=account)
    quota = with_client(target, lambda client: client.call(client.usage.GetQuota, every))
    if as_json:
        print_message(quota)
    elif quota.quotas:
        _print_quotas(list(quota.quotas))
    else:
        typer.echo("Nothing is counted for this account.")


def _print_quotas(quotas: list[usage_pb2.Quota]) -> None:
    from tallygate.v1 import period_pb2

    print_table(
        ("feature", "used", "held", "limit", "left", "period", "resets", "plan"),
        (
            (
                item.feature_key,
                f"{item.used_quantity:,}",
                f"{item.held_quantity:,}",
                limit_text(item.limit_quantity),
                "-" if item.remaining_quantity == UNLIMITED else f"{item.remaining_quantity:,}",
                period_pb2.PeriodKind.Name(item.period_kind).removeprefix("PERIOD_KIND_").lower(),
                time_text(item.reset_time) or "never",
                item.plan_key,
            )
            for item in quotas
        ),
        numeric=("used", "held", "limit", "left"),
    )


def _print_entries(entries: list[usage_pb2.UsageEntry], *, more: bool) -> None:
    from tallygate.v1 import usage_pb2

    if not entries:
        typer.echo("The ledger has no such lines.")
        return
    print_table(
        ("entry", "happened", "kind", "feature", "quantity", "total after", "request"),
        (
            (
                item.entry_id,
                time_text(item.event_time),
                usage_pb2.UsageEntryKind.Name(item.kind).removeprefix("USAGE_ENTRY_KIND_").lower(),
                item.feature_key,
                f"{item.quantity:,}",
                f"{item.used_quantity:,}",
                _literal(item.request_id),
            )
            for item in entries
        ),
        numeric=("quantity", "total after"),
    )
    if more:
        typer.echo("There are more; --count shows up to 1,000.")
