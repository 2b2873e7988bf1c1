"""Commands about policies: what becomes of data, what is on hold, what data is worth, and removal of what is not."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tallygate_server.cli.explanations import CommandError
from tallygate_server.cli.job_progress import follow_job, tell_end
from tallygate_server.cli.message_files import read_message_file
from tallygate_server.cli.options import TARGET_DEFAULT, Json, Target, Tenant, time_of, with_client
from tallygate_server.cli.output import print_facts, print_message, print_table, time_text
from tallygate_server.cli.selection_options import (
    DryRun,
    FromTime,
    InTiers,
    OfAccount,
    OfDatasets,
    OfTypes,
    ToTime,
    selection_of,
)

if TYPE_CHECKING:
    from tallygate.v1 import data_lifecycle_pb2
    from tallygate_server.client import Client

ACTOR: Final = "tallygate command line"
FOR_EVER: Final = -1
SHOWN_MAX: Final = 100


class Importance(StrEnum):
    """How important data is."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


DataType = Annotated[str, typer.Argument(metavar="TYPE", help="Sort of data, such as heart_rate; '*' for all others.")]
Reason = Annotated[str, typer.Option("--reason", "-r", help="Why, for the audit log.")]
RequestId = Annotated[str, typer.Option("--request-id", help="Makes a retry safe: the same id is done once.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    policy = typer.Typer(no_args_is_help=True, help="What becomes of each sort of data.")
    policy.command("get")(get_policy)
    policy.command("set")(set_policy)
    policy.command("list")(list_policies)
    app.add_typer(policy, name="policy")
    hold = typer.Typer(no_args_is_help=True, help="Data that must not be removed, whatever a policy says.")
    hold.command("create")(create_hold)
    hold.command("release")(release_hold)
    hold.command("list")(list_holds)
    app.add_typer(hold, name="hold")
    app.command("classify")(classify)
    app.command("cleanup")(cleanup)


# --- Policies ------------------------------------------------------------------------------------------------------


def get_policy(
    tenant: Tenant,
    data_type: DataType = "*",
    *,
    account: Annotated[str, typer.Option("--account", "-a", help="Take this account's plan into account.")] = "",
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Show what becomes of a sort of data, and of an account's."""
    from tallygate.v1 import data_lifecycle_service_pb2 as wire

    request = wire.GetRetentionPolicyRequest(tenant_id=tenant, data_type=data_type, account_id=account)
    found = with_client(target, lambda client: client.call(client.lifecycle.GetRetentionPolicy, request))
    if as_json:
        print_message(found)
        return
    _print_policy(found.policy)
    if account:
        typer.echo(f"{typer.style(f'account {account}', bold=True)}: plan and policy together")
        print_facts([("kept", _days(found.effective_retention_days)), ("seen", _seen(found.visible_days))])


def set_policy(
    tenant: Tenant,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="The policy, whole, in YAML or JSON.")
    ],
    *,
    expected_version: Annotated[
        int | None, typer.Option("--expected-version", min=0, help="Only if the present one is this; 0: there is none.")
    ] = None,
    dry_run: DryRun = False,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Set what becomes of a sort of data; with --dry-run only tell what it would let happen."""
    from tallygate.v1 import data_lifecycle_pb2
    from tallygate.v1 import data_lifecycle_service_pb2 as wire

    request = wire.SetRetentionPolicyRequest(
        tenant_id=tenant,
        policy=read_message_file(file, data_lifecycle_pb2.RetentionPolicy()),
        validate_only=dry_run,
        expected_version=expected_version,
        actor=ACTOR,
    )
    answer = with_client(target, lambda client: client.call(client.lifecycle.SetRetentionPolicy, request, timeout_s=60))
    if as_json:
        print_message(answer)
        return
    _print_policy(answer.policy)
    typer.echo("It would let happen, as far as age goes:" if dry_run else "It lets happen, as far as age goes:")
    print_facts(
        [
            ("may be compressed with loss", f"{answer.compressible_record_count:,} records"),
            ("may be deleted", f"{answer.deletable_record_count:,} records"),
            ("kept as their plan says", f"{answer.plan_bound_account_count:,} accounts"),
        ]
    )


def list_policies(tenant: Tenant, *, target: Target = TARGET_DEFAULT, as_json: Json = False) -> None:
    """List the policies of a tenant."""
    from tallygate.v1 import data_lifecycle_service_pb2 as wire

    request = wire.ListRetentionPoliciesRequest(tenant_id=tenant, page_size=SHOWN_MAX)
    page = with_client(target, lambda client: client.call(client.lifecycle.ListRetentionPolicies, request))
    if as_json:
        print_message(page)
    elif page.policies:
        print_table(
            ["type", "version", "critical", "standard", "lossy from", "deleted from", "hot", "warm", "set"],
            (
                [
                    each.data_type,
                    each.version,
                    _days(each.critical_retention_days),
                    _days(each.standard_retention_days),
                    _from_days(each.compression_threshold_days),
                    _from_days(each.deletion_threshold_days),
                    _days(each.hot_days),
                    _days(each.warm_days),
                    time_text(each.update_time),
                ]
                for each in page.policies
            ),
            numeric=["version"],
        )
        _tell_more(page.next_page_token)
    else:
        typer.echo("No policies: everything is kept for ever.")


# --- Holds ---------------------------------------------------------------------------------------------------------


def create_hold(
    tenant: Tenant,
    *,
    reason: Reason,
    account: OfAccount = "",
    types: OfTypes = None,
    datasets: OfDatasets = None,
    from_time: FromTime = "",
    to_time: ToTime = "",
    end: Annotated[str, typer.Option("--end", metavar="TIME", help="When it ends by itself.")] = "",
    request_id: RequestId = "",
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Forbid removal of data until the hold is released."""
    from tallygate.v1 import data_lifecycle_service_pb2 as wire

    request = wire.CreateLegalHoldRequest(
        tenant_id=tenant,
        selection=selection_of(account=account, types=types, datasets=datasets, from_time=from_time, to_time=to_time),
        end_time=time_of("--end", end),
        reason_text=reason,
        request_id=request_id,
        actor=ACTOR,
    )
    answer = with_client(target, lambda client: client.call(client.lifecycle.CreateLegalHold, request, timeout_s=30))
    if as_json:
        print_message(answer)
        return
    typer.echo(f"{typer.style(answer.legal_hold.legal_hold_id, bold=True)}: {answer.record_count:,} records are held")


def release_hold(
    tenant: Tenant,
    hold: Annotated[str, typer.Argument(metavar="ID", help="Id of the hold.")],
    *,
    reason: Reason,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Release a hold: policies apply again."""
    from tallygate.v1 import data_lifecycle_service_pb2 as wire

    request = wire.ReleaseLegalHoldRequest(tenant_id=tenant, legal_hold_id=hold, reason_text=reason, actor=ACTOR)
    answer = with_client(target, lambda client: client.call(client.lifecycle.ReleaseLegalHold, request))
    if as_json:
        print_message(answer)
        return
    typer.echo(f"{hold}: released at {time_text(answer.legal_hold.release_time)}")


def list_holds(
    tenant: Tenant,
    *,
    account: OfAccount = "",
    released: Annotated[bool, typer.Option("--released", help="List released ones too.")] = False,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """List holds, newest first; for an account, those on it and those on all."""
    from tallygate.v1 import data_lifecycle_service_pb2 as wire

    request = wire.ListLegalHoldsRequest(
        tenant_id=tenant, account_id=account, include_released=released, page_size=SHOWN_MAX
    )
    page = with_client(target, lambda client: client.call(client.lifecycle.ListLegalHolds, request))
    if as_json:
        print_message(page)
    elif page.legal_holds:
        print_table(
            ["id", "data", "why", "by", "since", "ends", "released"],
            (
                [
                    each.legal_hold_id,
                    _selection_text(each.selection),
                    each.reason_text,
                    each.actor,
                    time_text(each.create_time),
                    time_text(each.end_time),
                    time_text(each.release_time),
                ]
                for each in page.legal_holds
            ),
        )
        _tell_more(page.next_page_token)
    else:
        typer.echo("No holds.")


# --- Worth ---------------------------------------------------------------------------------------------------------


def classify(
    tenant: Tenant,
    *,
    account: OfAccount = "",
    types: OfTypes = None,
    datasets: OfDatasets = None,
    from_time: FromTime = "",
    to_time: ToTime = "",
    tiers: InTiers = None,
    model: Annotated[str, typer.Option("--model", help="Model that the worth is for.")] = "",
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1_000, help="How many to show.")] = 50,
    explain: Annotated[bool, typer.Option("--explain", help="Show the terms of each score, and what decided.")] = False,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Tell what data is worth and what should become of it."""
    from tallygate.v1 import data_lifecycle_service_pb2 as wire

    request = wire.ClassifyDataRequest(
        tenant_id=tenant,
        selection=selection_of(
            account=account, types=types, datasets=datasets, from_time=from_time, to_time=to_time, tiers=tiers
        ),
        model_key=model,
        page_size=count,
    )
    page = with_client(target, lambda client: client.call(client.lifecycle.ClassifyData, request, timeout_s=60))
    if as_json:
        print_message(page)
        return
    if not page.classifications:
        typer.echo("No data.")
        return
    if explain:
        for each in page.classifications:
            _explain(each)
    else:
        print_table(
            ["segment", "type", "until", "importance", "value", "quality", "reads", "kept", "should"],
            (
                [
                    each.segment_id,
                    each.data_type,
                    time_text(each.span.end_time),
                    _importance(each),
                    f"{each.training_value:.3f}",
                    f"{each.quality_score:.3f}",
                    each.access_count,
                    _days(each.retention_days),
                    _should(each),
                ]
                for each in page.classifications
            ),
            numeric=["value", "quality", "reads"],
        )
    if page.next_page_token:
        typer.echo(f"There are more than {count}; choose less, or show more with --count.")


def cleanup(
    tenant: Tenant,
    *,
    before: Annotated[str, typer.Option("--before", metavar="TIME", help="Only records before this time.")],
    types: Annotated[list[str], typer.Option("--type", help="Sort of data; may be given several times.")],
    account: OfAccount = "",
    max_importance: Annotated[
        Importance, typer.Option("--max-importance", help="Only data of this importance or less.")
    ] = Importance.LOW,
    request_id: RequestId = "",
    dry_run: DryRun = False,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Remove data of low value that is older than a time; held and critical data stays."""
    from tallygate.v1 import data_lifecycle_service_pb2 as wire

    cutoff_time = time_of("--before", before)
    if cutoff_time is None:
        raise CommandError("--before: say a time, such as 2026-01-01")
    request = wire.CleanupDataRequest(
        tenant_id=tenant,
        cutoff_time=cutoff_time,
        data_types=types,
        account_id=account,
        max_importance=f"DATA_IMPORTANCE_{max_importance.name}",
        validate_only=dry_run,
        request_id=request_id,
        actor=ACTOR,
    )

    async def ask(client: Client) -> data_lifecycle_pb2.LifecycleJob:
        answer: Any = await client.call(client.lifecycle.CleanupData, request)
        return await follow_job(client, answer.job, quiet=as_json)

    tell_end(with_client(target, ask), as_json=as_json)


# --- How it is told ------------------------------------------------------------------------------------------------


def _print_policy(policy: data_lifecycle_pb2.RetentionPolicy) -> None:
    from tallygate.v1 import data_lifecycle_pb2 as wire

    version = f"version {policy.version}" if policy.version else "nobody has set one; these are the defaults"
    typer.echo(f"{typer.style(policy.data_type, bold=True)}: {version}")
    form = wire.CompressionForm.Name(policy.compression.form).removeprefix("COMPRESSION_FORM_").lower()
    print_facts(
        [
            ("critical data is kept", _days(policy.critical_retention_days)),
            ("other data is kept", _days(policy.standard_retention_days)),
            ("may lose something from", _from_days(policy.compression_threshold_days)),
            ("low value may go from", _from_days(policy.deletion_threshold_days)),
            ("training value kept whole", f"from {policy.ai_value_threshold:g}"),
            ("quality of low value", f"below {policy.quality_threshold:g}"),
            ("leaves the hot tier after", _days(policy.hot_days)),
            ("leaves the warm tier after", _days(policy.warm_days)),
            ("compressed to", form),
            ("consent for training", policy.training_purpose),
            ("set", time_text(policy.update_time)),
            ("by", policy.actor),
        ]
    )
    for rule in policy.importance_rules:
        importance = wire.DataImportance.Name(rule.importance).removeprefix("DATA_IMPORTANCE_").lower()
        typer.echo(f"  rule {rule.name}: {importance}{_rule_text(rule)}")
    for each in policy.exceptions:
        ends = f", until {time_text(each.expire_time)}" if each.HasField("expire_time") else ""
        typer.echo(f"  exception: {_selection_text(each)} kept {_days(each.retention_days)}{ends} ({each.reason_text})")


def _rule_text(rule: data_lifecycle_pb2.ImportanceRule) -> str:
    parts = [rule.column] if rule.column else []
    parts += [f"from {rule.min_value:g}"] if rule.HasField("min_value") else []
    parts += [f"to {rule.max_value:g}"] if rule.HasField("max_value") else []
    parts += [f"worth {rule.min_training_value:g} or more"] if rule.min_training_value else []
    return f" where {' '.join(parts)}" if parts else ""


def _explain(each: data_lifecycle_pb2.DataClassification) -> None:
    typer.echo(f"{typer.style(each.segment_id, bold=True)}: {_importance(each)}, {_should(each)}")
    print_facts(
        [
            ("data", f"{each.data_type} until {time_text(each.span.end_time)}"),
            ("why", each.explanation),
            ("kept", _days(each.retention_days)),
            ("may lose something", "yes" if each.compression_eligible else "no"),
            ("training value", f"{each.training_value:.3f}"),
            *((f"  {term.name} x {term.weight:g}", f"{term.value:.3f}  {term.explanation}") for term in each.terms),
        ]
    )


def _importance(each: data_lifecycle_pb2.DataClassification) -> str:
    from tallygate.v1 import data_lifecycle_pb2 as wire

    return wire.DataImportance.Name(each.importance).removeprefix("DATA_IMPORTANCE_").lower()


def _should(each: data_lifecycle_pb2.DataClassification) -> str:
    from tallygate.v1 import data_lifecycle_pb2 as wire

    name = wire.StorageOptimization.Name(each.storage_optimization).removeprefix("STORAGE_OPTIMIZATION_").lower()
    return "stay as it is" if name == "none" else name


def _selection_text(selection: Any) -> str:
    """Return what a selection, or an exception, is about."""
    parts = [f"account {selection.account_id}"] if selection.account_id else []
    parts += getattr(selection, "data_types", [])
    parts += getattr(selection, "dataset_ids", [])
    parts += [f"from {time_text(selection.start_time)}"] if selection.HasField("start_time") else []
    parts += [f"to {time_text(selection.end_time)}"] if selection.HasField("end_time") else []
    return ", ".join(parts) or "everything"


def _tell_more(next_page_token: str) -> None:
    if next_page_token:
        typer.echo(f"There are more than {SHOWN_MAX}.")


def _days(days: int) -> str:
    if days == FOR_EVER:
        return "for ever"
    return "1 day" if days == 1 else f"{days:,} days"


def _from_days(days: int) -> str:
    return "never" if days == FOR_EVER else _days(days)


def _seen(days: int) -> str:
    return "everything" if days == FOR_EVER else f"the last {_days(days)}"
