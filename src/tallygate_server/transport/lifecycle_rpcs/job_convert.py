"""Between jobs and their wire messages: the report of a kind, and an error with its details."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from google.protobuf import json_format
from google.protobuf.message import Message

from tallygate.v1 import data_lifecycle_pb2 as wire
from tallygate_server.domain.lifecycle import JobKind, JobState
from tallygate_server.domain.lifecycle_job import JobProgress, LifecycleJob
from tallygate_server.transport import convert
from tallygate_server.transport.status import status_message_of, status_of_facts

JOB_KIND: Final = convert.api_enum(JobKind, wire.LifecycleJobKind, "LIFECYCLE_JOB_KIND")
JOB_STATE: Final = convert.api_enum(JobState, wire.LifecycleJobState, "LIFECYCLE_JOB_STATE")

RESULT_FIELD: Final[Mapping[JobKind, str]] = {
    JobKind.COMPRESSION: "compression",
    JobKind.ARCHIVE: "move",
    JobKind.RESTORE: "move",
    JobKind.CLEANUP: "cleanup",
    JobKind.OPTIMIZATION: "optimization",
    JobKind.INTEGRITY: "integrity",
    JobKind.EXPORT: "export",
    JobKind.ERASURE: "erasure",
    JobKind.KEY_ROTATION: "key_rotation",
}
"""Field of the job's `result` that the report of a kind stands in."""


def job_to_api(job: LifecycleJob) -> wire.LifecycleJob:
    """Convert a job."""
    api = wire.LifecycleJob(
        job_id=job.job_id,
        tenant_id=job.tenant_id,
        account_id=job.account_id or "",
        kind=JOB_KIND[job.kind],
        state=JOB_STATE[job.state],
        validate_only=job.validate_only,
        progress=progress_to_api(job.progress),
        actor=job.actor,
        request_id=job.request_id,
        attempt_count=job.attempt_count,
        schedule_time=convert.to_api_optional_instant(job.schedule_time),
        create_time=convert.to_api_instant(job.create_time),
        start_time=convert.to_api_optional_instant(job.start_time),
        end_time=convert.to_api_optional_instant(job.end_time),
    )
    if job.error is not None:
        error = job.error
        api.error.CopyFrom(status_of_facts(error.reason, error.message, error.facts, error.violations))
    if job.result is not None:
        field = RESULT_FIELD[job.kind]
        # There, though it may say nothing.
        cast("Message", getattr(api, field)).SetInParent()
        try:
            document_to_api(job.result, getattr(api, field))
        except json_format.ParseError as error:
            # A defect of its handler: other jobs of the list are none the worse for it.
            api.ClearField("result")
            api.error.CopyFrom(status_message_of(error, method=f"LifecycleJob/{job.kind.name.lower()}"))
    return api


def document_to_api(document: Mapping[str, Any], message: Message) -> None:
    """Fill a message from its JSON form; raises json_format.ParseError for what it has no place for."""
    json_format.ParseDict(dict(document), message, ignore_unknown_fields=False)


def progress_to_api(progress: JobProgress) -> wire.JobProgress:
    """Convert how far a job is."""
    return wire.JobProgress(
        done_count=progress.done,
        total_count=progress.total,
        read_bytes=progress.read_bytes,
        written_bytes=progress.written_bytes,
        phase=progress.phase,
        estimated_end_time=convert.to_api_optional_instant(progress.estimated_end_time),
    )
