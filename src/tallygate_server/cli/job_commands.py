"""Commands about jobs on stored data: list, get, cancel, watch."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tallygate_server.cli.job_progress import follow_job, kind_text, print_job, state_text, tell_end
from tallygate_server.cli.options import TARGET_DEFAULT, Json, Target, Tenant, with_client
from tallygate_server.cli.output import print_message, print_table, time_text

if TYPE_CHECKING:
    from tallygate.v1 import data_lifecycle_pb2
    from tallygate_server.client import Client

COUNT_DEFAULT: Final = 20
ACTOR: Final = "tallygate command line"


class Kind(StrEnum):
    """What jobs do."""

    COMPRESSION = "compression"
    ARCHIVE = "archive"
    RESTORE = "restore"
    CLEANUP = "cleanup"
    OPTIMIZATION = "optimization"
    INTEGRITY = "integrity"
    EXPORT = "export"
    ERASURE = "erasure"
    KEY_ROTATION = "key_rotation"


class State(StrEnum):
    """Where jobs are."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    job = typer.Typer(no_args_is_help=True, help="Look at long work on stored data, and cancel it.")
    job.command("list")(job_list)
    job.command("get")(job_get)
    job.command("cancel")(job_cancel)
    job.command("watch")(job_watch)
    app.add_typer(job, name="job")


JobId = Annotated[str, typer.Argument(metavar="JOB", help="Job id, as the command that began it told.")]


def job_list(
    tenant: Tenant,
    *,
    account: Annotated[str, typer.Option("--account", "-a", help="Only this account.")] = "",
    kind: Annotated[Kind | None, typer.Option(help="Only this kind.")] = None,
    state: Annotated[State | None, typer.Option(help="Only this state.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1_000, help="Jobs to show.")] = COUNT_DEFAULT,
    target: Target = TARGET_DEFAULT,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    from tallygate.v1 import data_lifecycle_pb2 as wire
    from tallygate.v1 import data_lifecycle_service_pb2

    filters: dict[str, Any] = {}
    if kind is not None:
        filters["kind"] = wire.LifecycleJobKind.Value(f"LIFECYCLE_JOB_KIND_{kind.name}")
    if state is not None:
        filters["state"] = wire.LifecycleJobState.Value(f"LIFECYCLE_JOB_STATE_{state.name}")
    request = data_lifecycle_service_pb2.ListLifecycleJobsRequest(
        tenant_id=tenant, account_id=account, page_size=count, **filters
    )
    response: Any = with_client(target, lambda client: client.call(client.lifecycle.ListLifecycleJobs, request))
    if as_json:
        print_message(response)
        return
    print_table(
        ("job", "does", "state", "account", "progress", "asked for", "ended"),
        (
            (
                job.job_id,
                kind_text(job) + (" (dry run)" if job.validate_only else ""),
                state_text(job),
                job.account_id,
                _progress_text(job),
                time_text(job.create_time),
                time_text(job.end_time),
            )
            for job in response.jobs
        ),
        numeric=("progress",),
    )


def job_get(tenant: Tenant, job_id: JobId, *, target: Target = TARGET_DEFAULT, as_json: Json = False) -> None:
    """Show one job, and what came of it."""
    from tallygate.v1 import data_lifecycle_service_pb2

    request = data_lifecycle_service_pb2.GetLifecycleJobRequest(tenant_id=tenant, job_id=job_id)
    response: Any = with_client(target, lambda client: client.call(client.lifecycle.GetLifecycleJob, request))
    if as_json:
        print_message(response.job)
    else:
        print_job(response.job)


def job_cancel(tenant: Tenant, job_id: JobId, *, target: Target = TARGET_DEFAULT, as_json: Json = False) -> None:
    """Cancel a job: it stops after its present step, and what was done stays done."""
    from tallygate.v1 import data_lifecycle_service_pb2

    request = data_lifecycle_service_pb2.CancelLifecycleJobRequest(tenant_id=tenant, job_id=job_id, actor=ACTOR)
    response: Any = with_client(target, lambda client: client.call(client.lifecycle.CancelLifecycleJob, request))
    if as_json:
        print_message(response.job)
    else:
        print_job(response.job)


def job_watch(tenant: Tenant, job_id: JobId, *, target: Target = TARGET_DEFAULT, as_json: Json = False) -> None:
    """Watch a job until it ends. Exit code 2 when it failed, 1 when it was cancelled."""
    from tallygate.v1 import data_lifecycle_service_pb2

    request = data_lifecycle_service_pb2.GetLifecycleJobRequest(tenant_id=tenant, job_id=job_id)

    async def follow(client: Client) -> data_lifecycle_pb2.LifecycleJob:
        response: Any = await client.call(client.lifecycle.GetLifecycleJob, request)
        return await follow_job(client, response.job, quiet=as_json)

    tell_end(with_client(target, follow), as_json=as_json)


def _progress_text(job: data_lifecycle_pb2.LifecycleJob) -> str:
    progress = job.progress
    if not progress.total_count:
        return f"{progress.done_count:,}" if progress.done_count else ""
    if state_text(job) == State.SUCCEEDED:
        # Others may have done a part of what it found at the beginning; nothing of it is left.
        return "100 %"
    return f"{100 * progress.done_count / progress.total_count:.0f} %"
