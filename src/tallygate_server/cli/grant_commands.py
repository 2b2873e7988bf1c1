"""Commands about the extras of single accounts: grant create, revoke, list; feature override."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tallygate_server.cli.client_commands import ACTOR
from tallygate_server.cli.explanations import CommandError
from tallygate_server.cli.options import TARGET_DEFAULT, Account, Feature, Json, Target, Tenant, with_client
from tallygate_server.cli.output import limit_text, print_facts, print_message, print_table, time_text, usage_text

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from tallygate.v1 import catalog_pb2, entitlement_pb2

PANEL: Final = "Call a running server"
SHOWN_DEFAULT: Final = 50
UNLIMITED_WORD: Final = "unlimited"


class Kind(StrEnum):
    """What sort of extra."""

    BONUS = "bonus"
    PURCHASE = "purchase"
    OVERRIDE = "override"
    SWITCH = "switch"


class State(StrEnum):
    """Where a grant is in its life."""

    PENDING = "pending"
    ACTIVE = "active"
    USED_UP = "used_up"
    EXPIRED = "expired"
    REVOKED = "revoked"


class Recurrence(StrEnum):
    """How often a credit is given anew, or how long the period of a limit is."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"
    LIFETIME = "lifetime"


class Override(StrEnum):
    """What to do with a feature."""

    ON = "on"
    OFF = "off"
    CLEAR = "clear"


KindArgument = Annotated[Kind, typer.Argument(metavar="KIND", help="bonus, purchase, override or switch.")]
Gift = Annotated[
    str,
    typer.Argument(
        metavar="GIFT",
        help="Units of a credit; a limit (or 'unlimited') or value (='JSON') of an override; 'on' or 'off'.",
    ),
]
GrantId = Annotated[str, typer.Argument(metavar="GRANT", help="Id of the grant.")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why, for the audit log.")]
RequestId = Annotated[str, typer.Option("--request-id", help="Makes a retry safe: the same id is done once.")]
Expire = Annotated[
    str, typer.Option("--expire", metavar="TIME", help="When it ends, such as 2026-12-01 (UTC); never when absent.")
]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(no_args_is_help=True, help="Give accounts extras, and take them back.")
    group.command("create")(create)
    group.command("revoke")(revoke)
    group.command("list")(show_all)
    app.add_typer(group, name="grant", rich_help_panel=PANEL)
    feature = typer.Typer(no_args_is_help=True, help="Switch features of single accounts.")
    feature.callback()(_feature_group)
    feature.command("override")(override)
    app.add_typer(feature, name="feature", rich_help_panel=PANEL)


def _feature_group() -> None:
    """Switch features of single accounts."""


def create(
    tenant: Tenant,
    account: Account,
    feature: Feature,
    kind: KindArgument,
    gift: Gift,
    *,
    reason: Reason = "by hand",
    priority: Annotated[int, typer.Option("--priority", "-p", help="Order of use: the smaller number first.")] = 0,
    start: Annotated[str, typer.Option("--start", metavar="TIME", help="When it begins; now when absent.")] = "",
    expire: Expire = "",
    recurrence: Annotated[Recurrence | None, typer.Option("--every", help="Give the credit anew so often.")] = None,
    rollover_max: Annotated[
        int | None, typer.Option("--rollover-max", help="Most of a rest that goes into the next period; 0: all.")
    ] = None,
    rollover_min: Annotated[int, typer.Option("--rollover-min", help="Smallest rest that goes over.")] = 0,
    period: Annotated[
        Recurrence | None, typer.Option("--period", help="Period of a limit; as the plan has it when absent.")
    ] = None,
    soft: Annotated[bool, typer.Option("--soft", help="The limit is only reported, not enforced.")] = False,
    request_id: RequestId = "",
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Give an account an extra: units, another limit or value, or a switch."""
    from tallygate.v1 import catalog_pb2, entitlement_pb2, entitlement_service_pb2, period_pb2

    request = entitlement_service_pb2.CreateGrantRequest(
        tenant_id=tenant,
        account_id=account,
        feature_key=feature,
        kind=_wire(entitlement_pb2.GrantKind, f"GRANT_KIND_{kind.name}"),
        priority=priority,
        start_time=_time("--start", start),
        expire_time=_time("--expire", expire),
        reason_text=reason,
        request_id=request_id,
        actor=ACTOR,
    )
    if recurrence is not None:
        request.recurrence = _wire(period_pb2.PeriodKind, f"PERIOD_KIND_{recurrence.name}")
    rollover = None
    if rollover_max is not None or rollover_min:
        rollover = catalog_pb2.Rollover(min_quantity=rollover_min, max_quantity=rollover_max or 0)
    if kind in (Kind.BONUS, Kind.PURCHASE):
        request.credit_quantity = _units(gift)
        if rollover is not None:
            request.rollover.CopyFrom(rollover)
    elif kind is Kind.SWITCH:
        if gift not in ("on", "off"):
            raise CommandError(f"{gift}: a switch is on or off")
        request.enabled = gift == "on"
    else:
        _set_override(request, gift, period, rollover, soft=soft)
    response = with_client(target, lambda client: client.call(client.entitlements.CreateGrant, request))
    if as_json:
        print_message(response)
        return
    _print_grant(response.grant)
    print_facts(
        (
            ("revision", response.revision),
            ("replayed", "yes: the first answer again" if response.replayed else ""),
        )
    )


def revoke(
    tenant: Tenant,
    account: Account,
    grant: GrantId,
    *,
    reason: Reason = "by hand",
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Take a grant back from now on. What was used of it stays used."""
    from tallygate.v1 import entitlement_service_pb2

    request = entitlement_service_pb2.RevokeGrantRequest(
        tenant_id=tenant, account_id=account, grant_id=grant, reason_text=reason, actor=ACTOR
    )
    response = with_client(target, lambda client: client.call(client.entitlements.RevokeGrant, request))
    if as_json:
        print_message(response)
        return
    _print_grant(response.grant)
    print_facts((("revision", response.revision),))


def show_all(
    tenant: Tenant,
    account: Annotated[str, typer.Argument(metavar="[ACCOUNT]", help="Only this account.")] = "",
    *,
    feature: Annotated[str, typer.Option("--feature", "-f", help="Only this feature.")] = "",
    kind: Annotated[Kind | None, typer.Option("--kind", "-k", help="Only this kind.")] = None,
    state: Annotated[State | None, typer.Option("--state", "-s", help="Only this state.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="Most to show.")] = SHOWN_DEFAULT,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """List grants of a tenant or of one account, newest first."""
    from tallygate.v1 import entitlement_pb2, entitlement_service_pb2

    request = entitlement_service_pb2.ListGrantsRequest(
        tenant_id=tenant, account_id=account, feature_key=feature, page_size=limit
    )
    if kind is not None:
        request.kind = _wire(entitlement_pb2.GrantKind, f"GRANT_KIND_{kind.name}")
    if state is not None:
        request.state = _wire(entitlement_pb2.GrantState, f"GRANT_STATE_{state.name}")
    page = with_client(target, lambda client: client.call(client.entitlements.ListGrants, request))
    if as_json:
        print_message(page)
    elif not page.grants:
        typer.echo("No grants.")
    else:
        _print_grants(list(page.grants))
        if page.next_page_token:
            typer.echo("There are more; raise --limit, or narrow the list.")


def override(
    tenant: Tenant,
    account: Account,
    feature: Feature,
    what: Annotated[Override, typer.Argument(metavar="ON|OFF|CLEAR", help="Switch it on, off, or back to the plan.")],
    *,
    reason: Reason = "by hand",
    grace_days: Annotated[int, typer.Option("--grace-days", help="Days that it stays available when off.")] = 0,
    expire: Expire = "",
    request_id: RequestId = "",
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Switch a feature on or off for one account whatever its plan says, or take such a switch back."""
    from tallygate.v1 import access_pb2, entitlement_service_pb2

    names = {Override.ON: "ENABLED", Override.OFF: "DISABLED", Override.CLEAR: "CLEARED"}
    request = entitlement_service_pb2.SetFeatureOverrideRequest(
        tenant_id=tenant,
        account_id=account,
        feature_key=feature,
        override=_wire(entitlement_service_pb2.FeatureOverride, f"FEATURE_OVERRIDE_{names[what]}"),
        grace_days=grace_days,
        expire_time=_time("--expire", expire),
        reason_text=reason,
        request_id=request_id,
        actor=ACTOR,
    )
    response = with_client(target, lambda client: client.call(client.entitlements.SetFeatureOverride, request))
    if as_json:
        print_message(response)
        return
    answer = response.answer
    counted = answer.feature_kind in (access_pb2.FEATURE_KIND_COUNTER, access_pb2.FEATURE_KIND_GAUGE)
    decision = access_pb2.Decision.Name(answer.decision).removeprefix("DECISION_").lower()
    reason_name = access_pb2.DecisionReason.Name(answer.reason).removeprefix("DECISION_REASON_").lower()
    typer.echo(f"{feature} is {decision}: {reason_name.replace('_', ' ')}")
    print_facts(
        (
            ("usage", usage_text(answer.used_quantity, answer.limit_quantity, answer.remaining_quantity)
             if counted else ""),
            ("grace ends", time_text(answer.grace_end_time)),
            ("switch", response.grant.grant_id or "none"),
            ("revision", response.revision),
            ("replayed", "yes: the first answer again" if response.replayed else ""),
        )
    )  # fmt: skip


# ---------------------------------------------------------------- what is asked


def _set_override(
    request: Any, gift: str, period: Recurrence | None, rollover: catalog_pb2.Rollover | None, *, soft: bool
) -> None:
    """Set a limit where the gift is a number or `unlimited` and something says that it is one; else a value.

    Whether a number is a limit or a value depends on the feature, which the server knows: without an option that only
    limits have, `=180` and `"..."` are values.
    """
    from tallygate.v1 import catalog_pb2, period_pb2

    text = gift.removeprefix("=")
    if text == gift and (gift == UNLIMITED_WORD or gift.lstrip("-").isdigit()):
        request.limit.quantity = -1 if gift == UNLIMITED_WORD else int(gift)
        if period is not None:
            request.limit.period = _wire(period_pb2.PeriodKind, f"PERIOD_KIND_{period.name}")
        if soft:
            request.limit.enforcement = catalog_pb2.ENFORCEMENT_SOFT
        if rollover is not None:
            request.limit.rollover.CopyFrom(rollover)
        return
    from google.protobuf.json_format import ParseDict

    try:
        value = json.loads(text)
    except ValueError:
        raise CommandError(f'{gift}: is neither a limit nor JSON; write ="text" for a text') from None
    ParseDict(value, request.config_value)


def _wire(names: Any, name: str) -> Any:
    return names.Value(name)


def _units(gift: str) -> int:
    try:
        return int(gift.replace(",", "").replace("_", ""))
    except ValueError:
        raise CommandError(f"{gift}: is no number of units") from None


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


def _print_grant(shown: entitlement_pb2.Grant) -> None:
    typer.echo(shown.grant_id)
    credit = shown.WhichOneof("gift") == "credit_quantity"
    print_facts(
        (
            ("feature", shown.feature_key),
            ("gives", _gift(shown)),
            ("state", _state(shown)),
            ("used", f"{shown.used_quantity:,}, {shown.remaining_quantity:,} left" if credit else ""),
            ("priority", shown.priority),
            ("begins", time_text(shown.start_time)),
            ("ends", time_text(shown.expire_time)),
            ("grace ends", time_text(shown.grace_end_time)),
            ("why", shown.reason_text),
            ("by", shown.actor),
            ("revoked", time_text(shown.revoke_time)),
            ("revoked why", shown.revoke_reason),
        )
    )


def _print_grants(grants: list[entitlement_pb2.Grant]) -> None:
    print_table(
        ("account", "feature", "gives", "state", "used", "left", "ends", "why", "id"),
        (
            (
                item.account_id,
                item.feature_key,
                _gift(item),
                _state(item),
                f"{item.used_quantity:,}" if item.WhichOneof("gift") == "credit_quantity" else "",
                f"{item.remaining_quantity:,}" if item.WhichOneof("gift") == "credit_quantity" else "",
                time_text(item.expire_time) or "never",
                item.reason_text.replace("[", r"\["),
                item.grant_id,
            )
            for item in grants
        ),
        numeric=("used", "left"),
    )


def _gift(grant: entitlement_pb2.Grant) -> str:
    from google.protobuf.json_format import MessageToDict

    from tallygate.v1 import entitlement_pb2, period_pb2

    kind = entitlement_pb2.GrantKind.Name(grant.kind).removeprefix("GRANT_KIND_").lower()
    gift = grant.WhichOneof("gift")
    if gift == "enabled":
        return f"{kind} {'on' if grant.enabled else 'off'}"
    if gift == "config_value":
        return f"{kind} {json.dumps(MessageToDict(grant.config_value), ensure_ascii=False)}".replace("[", r"\[")
    if gift == "limit":
        return f"{kind} {limit_text(grant.limit.quantity)}"
    every = ""
    if grant.recurrence:
        every = f" every {period_pb2.PeriodKind.Name(grant.recurrence).removeprefix('PERIOD_KIND_').lower()}"
    return f"{kind} {grant.credit_quantity:,}{every}"


def _state(grant: entitlement_pb2.Grant) -> str:
    from tallygate.v1 import entitlement_pb2

    return entitlement_pb2.GrantState.Name(grant.state).removeprefix("GRANT_STATE_").lower().replace("_", " ")
