"""Commands about what accounts may do: explain an answer, watch an account."""

from __future__ import annotations

import json
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer

from tallygate_server.cli.explanations import EXIT_NO, CommandError
from tallygate_server.cli.options import TARGET_DEFAULT, Account, Feature, Json, Target, Tenant, with_client
from tallygate_server.cli.output import (
    limit_text,
    message_as_json,
    print_facts,
    print_message,
    print_table,
    time_text,
    usage_text,
)

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from tallygate.v1 import entitlement_pb2, entitlement_service_pb2
    from tallygate_server.client import Client

PANEL: Final = "Call a running server"
REASON_PREFIX: Final = "DECISION_REASON_"


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("explain", rich_help_panel=PANEL)(explain)
    app.command("watch", rich_help_panel=PANEL)(watch)


def explain(
    tenant: Tenant,
    account: Account,
    feature: Feature,
    *,
    quantity: Annotated[int, typer.Option("--quantity", "-q", min=1, help="Units that are wanted.")] = 1,
    at: Annotated[
        str,
        typer.Option(
            "--at", metavar="TIME", help="A time in the past, such as 2026-12-01T09:30 (UTC); now when absent."
        ),
    ] = "",
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Explain why an account may use a feature, or may not: every rule, every source, every number.

    Exit code 0 when it may, or might; 1 when not.
    """
    from tallygate.v1 import access_pb2, entitlement_service_pb2

    request = entitlement_service_pb2.ExplainAccessRequest(
        tenant_id=tenant, account_id=account, feature_key=feature, quantity=quantity, at_time=_time("--at", at)
    )
    explained = with_client(target, lambda client: client.call(client.entitlements.ExplainAccess, request))
    if as_json:
        print_message(explained)
    else:
        _print_explanation(explained)
    if explained.answer.decision == access_pb2.DECISION_DENIED:
        raise typer.Exit(EXIT_NO)


def watch(
    tenant: Tenant,
    account: Account,
    features: Annotated[
        list[str] | None, typer.Argument(metavar="[FEATURE]...", help="Only these; all when absent.")
    ] = None,
    *,
    resume: Annotated[
        int, typer.Option("--resume", metavar="REVISION", min=0, help="Leave out what is known at this revision.")
    ] = 0,
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="End after so many messages; 0: never.")] = 0,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Show what an account is entitled to, and every change as it happens, until interrupted.

    With --json each message is one line.
    """
    from tallygate.v1 import entitlement_service_pb2

    request = entitlement_service_pb2.WatchEntitlementsRequest(
        tenant_id=tenant, account_id=account, feature_keys=features or (), resume_revision=resume
    )

    async def follow(client: Client) -> None:
        shown = 0
        async with aclosing(client.stream(client.entitlements.WatchEntitlements, request)) as updates:
            async for update in updates:
                if update.WhichOneof("update") == "heartbeat":
                    continue
                if as_json:
                    typer.echo(json.dumps(message_as_json(update), ensure_ascii=False))
                else:
                    _print_update(update)
                shown += 1
                if shown == count:
                    return

    with_client(target, follow)


def _time(option: str, text: str) -> Timestamp | None:
    from google.protobuf.timestamp_pb2 import Timestamp

    if not text:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{option} {text}: is no time; write 2026-12-01 or 2026-12-01T09:30") from None
    time = Timestamp()
    time.FromDatetime(instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC))
    return time


# ---------------------------------------------------------------- what is shown


def _print_explanation(explained: entitlement_service_pb2.ExplainAccessResponse) -> None:
    from tallygate.v1 import access_pb2

    answer = explained.answer
    allowed = answer.decision == access_pb2.DECISION_ALLOWED
    word = typer.style("allowed", fg="green") if allowed else typer.style("denied", fg="red")
    typer.echo(f"{word} ({_reason(answer.reason)})")
    quota = explained.quota if explained.HasField("quota") else None
    print_facts(
        (
            ("at", time_text(explained.at_time)),
            ("plan", answer.plan_key),
            (
                "usage",
                usage_text(quota.used_quantity, quota.limit_quantity, quota.remaining_quantity) if quota else None,
            ),
            ("held", f"{quota.held_quantity:,}" if quota and quota.held_quantity else None),
            ("resets", time_text(quota.reset_time) if quota else None),
            ("grace ends", time_text(answer.grace_end_time)),
            ("revision", f"{answer.revision} (catalog {explained.catalog_revision})"),
            ("history", None if explained.history_complete else "part of it is no longer kept: this is the best left"),
        )
    )
    print_table(
        ("", "rule", "found"),
        (
            (
                ("[green]*[/green]" if allowed else "[red]*[/red]") if step.decided else "",
                _reason(step.reason),
                _literal(step.explanation),
            )
            for step in explained.steps
        ),
    )
    if explained.sources:
        print_table(
            ("source", "gives", "from", "to", "counts"),
            (
                (
                    _source(source),
                    _gift(source),
                    time_text(source.validity.start_time),
                    time_text(source.validity.end_time),
                    "yes" if source.effective else _literal(f"no: {source.explanation}"),
                )
                for source in explained.sources
            ),
        )


def _print_update(update: entitlement_service_pb2.WatchEntitlementsResponse) -> None:
    if update.WhichOneof("update") == "snapshot":
        typer.echo(f"revision {update.snapshot.revision}")
        _print_entitlements(update.snapshot.entitlements)
        return
    change = update.change
    typer.echo(f"revision {change.revision}  {time_text(change.change_time)}  {change.cause}")
    _print_entitlements(change.changed_entitlements)
    for feature_key in change.removed_feature_keys:
        typer.echo(f"{feature_key}: no longer")


def _print_entitlements(entitlements: object) -> None:
    rows = [
        (entitlement.feature_key, _reason(entitlement.reason), _standing(entitlement))
        for entitlement in entitlements  # type: ignore[attr-defined]
    ]
    if rows:
        print_table(("feature", "now", ""), rows)


def _standing(entitlement: entitlement_pb2.Entitlement) -> str:
    if entitlement.HasField("quota"):
        quota = entitlement.quota
        until = time_text(quota.reset_time)
        standing = usage_text(quota.used_quantity, quota.limit_quantity, quota.remaining_quantity)
        return f"{standing}, until {until}" if until else standing
    if entitlement.HasField("value"):
        return _literal(json.dumps(message_as_json(entitlement.value), ensure_ascii=False))
    return ""


def _source(source: entitlement_pb2.EntitlementSource) -> str:
    if source.WhichOneof("origin") == "grant_id":
        return source.grant_id
    return f"{source.subscription_id} ({source.plan_key}, version {source.plan_version})"


def _gift(source: entitlement_pb2.EntitlementSource) -> str:
    gift = source.allowance.WhichOneof("gift")
    if gift == "limit":
        return limit_text(source.allowance.limit.quantity)
    if gift == "config_value":
        return _literal(json.dumps(message_as_json(source.allowance.config_value), ensure_ascii=False))
    return "on" if source.allowance.enabled else "off"


def _reason(reason: int) -> str:
    from tallygate.v1 import access_pb2

    return access_pb2.DecisionReason.Name(reason).removeprefix(REASON_PREFIX).lower().replace("_", " ")


def _literal(text: str) -> str:
    """Return text that is shown as it is, brackets included."""
    return text.replace("[", r"\[")
