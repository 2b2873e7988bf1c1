"""Commands about what data is worth, and about making storage smaller by it."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tallygate_server.cli.explanations import EXIT_NO, CommandError
from tallygate_server.cli.job_progress import follow_job, tell_end
from tallygate_server.cli.options import TARGET_DEFAULT, Json, Target, Tenant, time_of, with_client
from tallygate_server.cli.output import bytes_text, print_facts, print_message, print_table, time_text

if TYPE_CHECKING:
    from tallygate.v1 import data_lifecycle_pb2
    from tallygate_server.client import Client

ACTOR: Final = "tallygate command line"
TIMEOUT_S: Final = 600.0
"""Many records take a while to be read and learned from."""
ROWS_MAX: Final = 50
"""Rows of a table; JSON has all that the server tells."""


class Season(StrEnum):
    """What samples are stratified by."""

    HOUR_OF_DAY = "hour_of_day"
    DAY_OF_WEEK = "day_of_week"
    MONTH_OF_YEAR = "month_of_year"


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    value = typer.Typer(no_args_is_help=True, help="Tell what data is worth for training, and choose from it.")
    value.command("assess")(assess)
    value.command("critical")(critical)
    value.command("samples")(samples)
    value.command("training-set")(training_set)
    value.command("priorities")(priorities)
    app.add_typer(value, name="value")
    app.command("plan")(plan)
    app.command("optimize")(optimize)


AccountOption = Annotated[str, typer.Option("--account", "-a", metavar="ACCOUNT", help="Only this account.")]
Types = Annotated[
    list[str] | None, typer.Option("--type", "-d", metavar="TYPE", help="Only this sort of data; repeatable.")
]
Start = Annotated[str, typer.Option("--start", metavar="TIME", help="From here, such as 2026-12-01.")]
End = Annotated[str, typer.Option("--end", metavar="TIME", help="Until before this.")]
Model = Annotated[str, typer.Option("--model", "-m", metavar="MODEL", help="Model that it is for.")]
TargetColumn = Annotated[
    str, typer.Option("--column", "-c", metavar="COLUMN", help="Column that a small model shall predict.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=4_294_967_295, help="The same seed, the same answer.")]
MODEL_DEFAULT: Final = "default"


def assess(
    tenant: Tenant,
    *,
    account: AccountOption = "",
    data_type: Types = None,
    start: Start = "",
    end: End = "",
    model: Model = MODEL_DEFAULT,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1_000, help="Segments to show.")] = ROWS_MAX,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Tell what segments are worth for a model, by recency, rarity, quality and use."""
    from tallygate.v1 import data_lifecycle_service_pb2

    request = data_lifecycle_service_pb2.AssessDataValueRequest(
        tenant_id=tenant, selection=_selection(account, data_type, start, end), model_key=model, page_size=count
    )
    answer: Any = with_client(
        target, lambda client: client.call(client.lifecycle.AssessDataValue, request, timeout_s=TIMEOUT_S)
    )
    if as_json:
        print_message(answer)
        return
    _print_scores(answer.scores)
    if answer.next_page_token:
        typer.echo("There are more; take a narrower choice, or a higher --count.")


def critical(
    tenant: Tenant,
    *,
    account: AccountOption = "",
    data_type: Types = None,
    start: Start = "",
    end: End = "",
    model: Model = MODEL_DEFAULT,
    column: TargetColumn = "",
    ratio: Annotated[
        float, typer.Option("--ratio", min=0.0, max=1.0, help="Share of the accuracy that must be kept.")
    ] = 0.95,
    seed: Seed = 0,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Find the data that a model could not do without."""
    from tallygate.v1 import data_lifecycle_service_pb2

    request = data_lifecycle_service_pb2.IdentifyCriticalDataRequest(
        tenant_id=tenant,
        selection=_selection(account, data_type, start, end),
        model_key=model,
        target_column=column,
        min_accuracy_ratio=ratio,
        seed=seed,
    )
    answer: Any = with_client(
        target, lambda client: client.call(client.lifecycle.IdentifyCriticalData, request, timeout_s=TIMEOUT_S)
    )
    if as_json:
        print_message(answer)
        return
    _print_scores(answer.segments[:ROWS_MAX])
    print_facts(
        [
            ("segments", f"{answer.segment_count:,}"),
            ("records", f"{answer.record_count:,}"),
            ("accuracy with all", f"{answer.accuracy_full:.3f}" if column else ""),
            ("accuracy with these", f"{answer.accuracy_critical:.3f}" if column else ""),
        ]
    )
    typer.echo(answer.explanation)


def samples(
    tenant: Tenant,
    *,
    account: AccountOption = "",
    data_type: Types = None,
    start: Start = "",
    end: End = "",
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=10_000, help="Samples to select.")] = 20,
    season: Annotated[
        list[Season] | None, typer.Option("--season", "-s", help="Stratify by this; repeatable. [default: day, hour]")
    ] = None,
    seed: Seed = 0,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Select records that represent all, by season."""
    from tallygate.v1 import data_lifecycle_service_pb2 as wire

    request = wire.SelectRepresentativeSamplesRequest(
        tenant_id=tenant,
        selection=_selection(account, data_type, start, end),
        sample_count=count,
        seasons=[f"SEASON_KIND_{each.name}" for each in season or []],
        seed=seed,
    )
    answer: Any = with_client(
        target, lambda client: client.call(client.lifecycle.SelectRepresentativeSamples, request, timeout_s=TIMEOUT_S)
    )
    if as_json:
        print_message(answer)
        return
    print_table(
        ("time", "stratum", "weight", "values"),
        (
            (
                time_text(each.record.time),
                each.stratum,
                f"{each.weight:.2%}",
                _literal(_values_text(each.record)),
            )
            for each in answer.samples[:ROWS_MAX]
        ),
        numeric=("weight",),
    )
    _tell_more(len(answer.samples))
    print_facts(
        [("samples", f"{len(answer.samples):,}"), ("coverage", f"{answer.coverage:.1%} of all data lies close to one")]
    )


def training_set(
    tenant: Tenant,
    records: Annotated[int, typer.Argument(metavar="RECORDS", min=1, help="Records that it shall have.")],
    *,
    account: AccountOption = "",
    data_type: Types = None,
    start: Start = "",
    end: End = "",
    model: Model = MODEL_DEFAULT,
    column: TargetColumn = "",
    seed: Seed = 0,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Select the training set of a size that is worth most."""
    from tallygate.v1 import data_lifecycle_service_pb2

    request = data_lifecycle_service_pb2.OptimizeTrainingDatasetRequest(
        tenant_id=tenant,
        selection=_selection(account, data_type, start, end),
        model_key=model,
        target_record_count=records,
        target_column=column,
        seed=seed,
    )
    answer: Any = with_client(
        target, lambda client: client.call(client.lifecycle.OptimizeTrainingDataset, request, timeout_s=TIMEOUT_S)
    )
    if as_json:
        print_message(answer)
        return
    print_table(
        ("dataset", "from", "until", "every", "weight", "why"),
        (
            (
                span.dataset_id,
                time_text(span.span.start_time),
                time_text(span.span.end_time),
                span.stride,
                f"{span.weight:.1f}",
                span.explanation,
            )
            for span in answer.spans[:ROWS_MAX]
        ),
        numeric=("every", "weight"),
    )
    _tell_more(len(answer.spans))
    unconsented = answer.unconsented_record_count
    print_facts(
        [
            ("records", f"{answer.record_count:,}"),
            ("left out", f"{answer.excluded_record_count:,}"),
            ("left out without consent", f"{unconsented:,}" if unconsented else ""),
            ("coverage", f"{answer.coverage:.1%}"),
            ("worth kept", f"{answer.value_retained:.1%}"),
            ("accuracy with all", f"{answer.accuracy_full:.3f}" if column else ""),
            ("accuracy with these", f"{answer.accuracy_optimized:.3f}" if column else ""),
        ]
    )


def priorities(
    tenant: Tenant,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model.")],
    accuracy: Annotated[float, typer.Argument(metavar="ACCURACY", min=0.0, max=1.0, help="How well it did, 0 to 1.")],
    *,
    importance: Annotated[
        list[str],
        typer.Option("--importance", "-i", metavar="TYPE=SHARE", help="How important this was, 0 to 1; repeatable."),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing, and only tell the effect.")] = False,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Adapt what counts for a model to how it performed."""
    from tallygate.v1 import data_lifecycle_service_pb2

    request = data_lifecycle_service_pb2.UpdatePrioritiesRequest(
        tenant_id=tenant,
        model_key=model,
        accuracy=accuracy,
        importance_by_type=dict(_importance(each) for each in importance),
        validate_only=dry_run,
        actor=ACTOR,
    )
    answer: Any = with_client(target, lambda client: client.call(client.lifecycle.UpdatePriorities, request))
    if as_json:
        print_message(answer)
        return
    print_table(
        ("data type", "term", "before", "after"),
        (
            (each.data_type, term, f"{each.weights_before[term]:.3f}", f"{each.weights_after[term]:.3f}")
            for each in answer.weights
            for term in sorted(each.weights_after)
        ),
        numeric=("before", "after"),
    )
    typer.echo(
        f"The importance of {answer.changed_segment_count:,} segments {'would change' if dry_run else 'changes'}."
    )


def plan(
    tenant: Tenant,
    limit: Annotated[str, typer.Argument(metavar="SIZE", help="What data must fit into: 500MB, 2GiB, 1000000.")],
    *,
    account: AccountOption = "",
    data_type: Types = None,
    start: Start = "",
    end: End = "",
    model: Model = "",
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Plan what to keep, compress or remove so that data fits. Exit code 1 when it cannot."""
    from tallygate.v1 import data_lifecycle_service_pb2

    request = data_lifecycle_service_pb2.PlanRetentionRequest(
        tenant_id=tenant,
        selection=_selection(account, data_type, start, end),
        storage_limit_bytes=bytes_of(limit),
        model_key=model,
    )
    answer: Any = with_client(
        target, lambda client: client.call(client.lifecycle.PlanRetention, request, timeout_s=TIMEOUT_S)
    )
    if as_json:
        print_message(answer)
    else:
        _print_steps(answer.steps)
        print_facts(
            [
                ("plan", answer.plan_id),
                ("now", bytes_text(answer.present_bytes)),
                ("afterwards", bytes_text(answer.planned_bytes)),
                ("worth kept", f"{answer.value_retained:.1%}"),
                ("fits", "yes" if answer.feasible else "no: what protects the data forbids it"),
                ("good until", time_text(answer.expire_time)),
            ]
        )
        if answer.steps:
            typer.echo(f"Carry it out with: tallygate data optimize {tenant} --plan {answer.plan_id}")
    if not answer.feasible:
        raise typer.Exit(EXIT_NO)


def optimize(
    tenant: Tenant,
    *,
    reduction: Annotated[
        float, typer.Option("--by", metavar="SHARE", min=0.0, max=1.0, help="Plan to save this share of the bytes.")
    ] = 0.0,
    plan_id: Annotated[str, typer.Option("--plan", metavar="PLAN", help="Carry out this plan.")] = "",
    account: AccountOption = "",
    data_type: Types = None,
    start: Start = "",
    end: End = "",
    keep: Annotated[
        float, typer.Option("--keep", metavar="SHARE", min=0.0, max=1.0, help="Worth that must be left.")
    ] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check whether the plan can be carried out.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return at once; the job goes on.")] = False,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """Make storage smaller: first a plan (--by), which a second call carries out (--plan)."""
    from tallygate.v1 import data_lifecycle_service_pb2

    if bool(reduction) == bool(plan_id):
        raise CommandError("name one of --by and --plan")
    goal: dict[str, Any] = {"plan_id": plan_id} if plan_id else {"target_reduction_ratio": reduction}
    request = data_lifecycle_service_pb2.OptimizeStorageRequest(
        tenant_id=tenant,
        selection=_selection(account, data_type, start, end),
        min_value_retained=keep,
        validate_only=dry_run,
        actor=ACTOR,
        **goal,
    )

    async def ask(client: Client) -> data_lifecycle_pb2.LifecycleJob:
        answer: Any = await client.call(client.lifecycle.OptimizeStorage, request)
        return answer.job if detach else await follow_job(client, answer.job, quiet=as_json)

    job = with_client(target, ask)
    tell_end(job, as_json=as_json)
    if not as_json and job.optimization.plan_id and not plan_id:
        typer.echo(f"Carry it out with: tallygate data optimize {tenant} --plan {job.optimization.plan_id}")


_UNITS: Final = {"": 1, "B": 1, "kB": 1_000} | {
    f"{prefix}{ending}": base**power
    for power, prefix in enumerate("KMGT", start=1)
    for ending, base in (("B", 1000), ("iB", 1024))
}


def bytes_of(text: str) -> int:
    """Read a size: digits, and a unit of thousands (MB) or of 1,024 (MiB). Raises CommandError."""
    digits = text.rstrip("BkKMGTi ")
    unit = text[len(digits) :].strip()
    try:
        size = float(digits) * _UNITS[unit]
    except (ValueError, KeyError):
        raise CommandError(f"{text}: is no size; write 500MB, 2GiB or 1000000") from None
    if not 0 <= size <= 1e15:  # noqa: PLR2004 - the contract's bound
        raise CommandError(f"{text}: must be between 0 and 1000 TB")
    return int(size)


def _selection(account: str, data_types: list[str] | None, start: str, end: str) -> data_lifecycle_pb2.DataSelection:
    from tallygate.v1 import data_lifecycle_pb2

    return data_lifecycle_pb2.DataSelection(
        account_id=account,
        data_types=data_types or [],
        start_time=time_of("--start", start),
        end_time=time_of("--end", end),
    )


def _importance(text: str) -> tuple[str, float]:
    data_type, _, share = text.partition("=")
    try:
        return data_type, float(share)
    except ValueError:
        raise CommandError(f"--importance {text}: write it as TYPE=SHARE, such as heart_rate=0.8") from None


def _print_scores(scores: Any) -> None:
    names = [term.name for term in scores[0].terms] if scores else []
    print_table(
        ("segment", "from", "until", "worth", *names),
        (
            (
                each.segment_id,
                time_text(each.span.start_time),
                time_text(each.span.end_time),
                f"{each.score:.3f}",
                *(f"{term.value:.2f} x {term.weight:.2f}" for term in each.terms),
            )
            for each in scores
        ),
        numeric=("worth", *names),
    )


def _print_steps(steps: Any) -> None:
    from tallygate.v1 import data_lifecycle_pb2 as wire

    print_table(
        ("segment", "becomes", "saves", "loses", "why"),
        (
            (
                step.segment_id,
                wire.StorageOptimization.Name(step.action).removeprefix("STORAGE_OPTIMIZATION_").lower(),
                bytes_text(step.saved_bytes),
                f"{step.value_lost:.0%}",
                step.explanation,
            )
            for step in steps[:ROWS_MAX]
        ),
        numeric=("saves", "loses"),
    )
    _tell_more(len(steps))


def _tell_more(count: int) -> None:
    if count > ROWS_MAX:
        typer.echo(f"and {count - ROWS_MAX:,} more; --json lists all")


def _values_text(record: data_lifecycle_pb2.Record) -> str:
    from google.protobuf.json_format import MessageToDict

    return json.dumps(MessageToDict(record.values), ensure_ascii=False)


def _literal(text: str) -> str:
    """Return text that the table shows as it is."""
    from rich.markup import escape

    return escape(text)
