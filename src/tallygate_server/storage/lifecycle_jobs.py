"""SQL of lifecycle jobs: who runs which until when, how far it is, and how it ended.

Whoever claims a job writes its own id and raises the number of attempts; everything that it writes afterwards asks for
both, so a runner that was taken for dead changes nothing any more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, and_, case, delete, func, or_, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import JobKind, JobState
from tallygate_server.domain.lifecycle_job import JobError, JobProgress, LifecycleJob
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.tables import lifecycle_jobs

JobKey = tuple[TenantId, str]
"""Tenant and id of a job."""

RECEIPTS: Final = (JobKind.EXPORT, JobKind.ERASURE)
"""Kinds whose jobs say later what was given to or erased for an account; these are not forgotten by age."""

_c = lifecycle_jobs.c
_PENDING, _RUNNING = int(JobState.PENDING), int(JobState.RUNNING)


async def add_job(connection: Connection, job: LifecycleJob) -> bool:
    """Write a new job; False where the tenant has used its request id for this kind before."""
    values = {name: getattr(job, name) for name in _c.keys()}  # noqa: SIM118 - not a mapping
    values |= {
        "account_id": job.account_id or "",
        "kind": int(job.kind),
        "state": int(job.state),
        "request": dict(job.request),
        "progress": job.progress.to_document(),
        "checkpoint": dict(job.checkpoint),
    }
    # JSON's null is not that of SQL, which they are by themselves.
    del values["result"], values["error"]
    added = await connection.execute(
        insert(lifecycle_jobs)
        .values(**values)
        # As text: a plan for any values matches no index that holds for one.
        .on_conflict_do_nothing(
            index_elements=[_c.tenant_id, _c.kind, _c.request_id], index_where=text("request_id <> ''")
        )
        .returning(_c.job_id)
    )
    return added.one_or_none() is not None


async def read_job(
    connection: Connection, tenant_id: TenantId, job_id: str, *, lock: bool = False
) -> LifecycleJob | None:
    """Return a job; None where there is none."""
    statement = select(lifecycle_jobs).where(_c.tenant_id == tenant_id, _c.job_id == job_id)
    row = (await connection.execute(statement.with_for_update() if lock else statement)).one_or_none()
    return None if row is None else job_of(row)


async def read_job_by_request(
    connection: Connection, tenant_id: TenantId, kind: JobKind, request_id: str
) -> LifecycleJob | None:
    """Return the job of a request id; None where there is none."""
    statement = select(lifecycle_jobs).where(
        _c.tenant_id == tenant_id, _c.kind == int(kind), _c.request_id == request_id
    )
    row = (await connection.execute(statement)).one_or_none()
    return None if row is None else job_of(row)


async def read_jobs_by_key(connection: Connection, keys: Iterable[JobKey]) -> dict[JobKey, LifecycleJob]:
    """Return those of the jobs that are there, of any tenants."""
    rows = await connection.execute(select(lifecycle_jobs).where(tuple_(_c.tenant_id, _c.job_id).in_(sorted(keys))))
    jobs = [job_of(row) for row in rows]
    return {(job.tenant_id, job.job_id): job for job in jobs}


async def page_of_jobs(
    connection: Connection,
    tenant_id: TenantId,
    *,
    account_id: AccountId | None,
    kind: JobKind | None,
    state: JobState | None,
    before_job_id: str,
    limit: int,
) -> list[LifecycleJob]:
    """Return jobs, newest first, those before one; ids are in the order of their making."""
    statement = select(lifecycle_jobs).where(_c.tenant_id == tenant_id)
    if account_id is not None:
        statement = statement.where(_c.account_id == account_id)
    if kind is not None:
        statement = statement.where(_c.kind == int(kind))
    if state is not None:
        statement = statement.where(_c.state == int(state))
    if before_job_id:
        statement = statement.where(_c.job_id < before_job_id)
    rows = await connection.execute(statement.order_by(_c.job_id.desc()).limit(limit))
    return [job_of(row) for row in rows]


async def count_open_jobs(connection: Connection, tenant_id: TenantId) -> int:
    """Return how many jobs of a tenant have not ended."""
    statement = select(func.count()).where(_c.tenant_id == tenant_id, _c.state.in_([_PENDING, _RUNNING]))
    count: int = (await connection.execute(statement)).scalar_one()
    return count


async def due_jobs(
    connection: Connection,
    kinds: Collection[JobKind],
    *,
    now: datetime,
    but: Collection[JobKey],
    per_tenant: int,
    limit: int,
) -> list[tuple[int, JobKey]]:
    """Return jobs of all tenants that nobody runs and that are due, each with its place among its tenant's.

    Those that are first of their tenants' come first, those that were asked for earlier before others.
    """
    turn = func.row_number().over(
        partition_by=_c.tenant_id, order_by=[func.coalesce(_c.schedule_time, _c.create_time), _c.job_id]
    )
    found = (
        select(_c.tenant_id, _c.job_id, turn.label("turn"))
        .where(
            _c.state.in_([_PENDING, _RUNNING]),
            _is_due(now),
            _c.kind.in_([int(kind) for kind in kinds]),
            *([tuple_(_c.tenant_id, _c.job_id).not_in(sorted(but))] if but else []),
        )
        .subquery()
    )
    statement = select(found).where(found.c.turn <= per_tenant).order_by(found.c.turn, found.c.job_id).limit(limit)
    return [(row.turn, (TenantId(row.tenant_id), row.job_id)) for row in await connection.execute(statement)]


async def claim_job(
    connection: Connection, key: JobKey, *, runner_id: str, now: datetime, lease_time: datetime
) -> LifecycleJob | None:
    """Take a job that is due; None where somebody else was quicker.

    Taking one whose lease is over counts a crash of whoever had it.
    """
    tenant_id, job_id = key
    rows = await connection.execute(
        update(lifecycle_jobs)
        .where(_c.tenant_id == tenant_id, _c.job_id == job_id, _c.state.in_([_PENDING, _RUNNING]), _is_due(now))
        .values(
            state=_RUNNING,
            runner_id=runner_id,
            lease_time=lease_time,
            attempt_count=_c.attempt_count + 1,
            crash_count=_c.crash_count + case((_c.state == _RUNNING, 1), else_=0),
            start_time=func.coalesce(_c.start_time, now),
        )
        .returning(lifecycle_jobs)
    )
    row = rows.one_or_none()
    return None if row is None else job_of(row)


async def write_job(connection: Connection, job: LifecycleJob, values: Mapping[str, Any]) -> LifecycleJob | None:
    """Change columns of a job that is ours, as `claim_job` gave it; None where it is ours no more."""
    rows = await connection.execute(
        update(lifecycle_jobs).where(_is_ours(job)).values(**values).returning(lifecycle_jobs)
    )
    row = rows.one_or_none()
    return None if row is None else job_of(row)


async def write_any_job(connection: Connection, key: JobKey, values: Mapping[str, Any]) -> LifecycleJob:
    """Change columns of a job that the caller has locked."""
    tenant_id, job_id = key
    rows = await connection.execute(
        update(lifecycle_jobs)
        .where(_c.tenant_id == tenant_id, _c.job_id == job_id)
        .values(**values)
        .returning(lifecycle_jobs)
    )
    return job_of(rows.one())


async def tenants_with_old_jobs(connection: Connection, *, ended_before: datetime) -> list[TenantId]:
    """Return the tenants that have jobs to be forgotten."""
    rows = await connection.execute(select(_c.tenant_id).where(_is_old(ended_before)).distinct().order_by(_c.tenant_id))
    return [TenantId(tenant_id) for tenant_id in rows.scalars()]


async def forget_jobs(connection: Connection, tenant_id: TenantId, *, ended_before: datetime) -> int:
    """Delete a tenant's old jobs; return how many."""
    rows = await connection.execute(
        delete(lifecycle_jobs).where(_c.tenant_id == tenant_id, _is_old(ended_before)).returning(_c.job_id)
    )
    return len(rows.all())


def job_of(row: Row[Any]) -> LifecycleJob:
    """Return the job of a row."""
    values = dict(row._mapping)  # noqa: SLF001 - public in spite of its name
    values["account_id"] = values["account_id"] or None
    values["kind"] = JobKind(values["kind"])
    values["state"] = JobState(values["state"])
    values["progress"] = JobProgress.from_document(values["progress"])
    values["error"] = JobError.from_document(values["error"]) if values["error"] is not None else None
    return LifecycleJob(**values)


def _is_due(now: datetime) -> ColumnElement[bool]:
    return and_(
        or_(_c.state == _RUNNING, _c.schedule_time.is_(None), _c.schedule_time <= now),
        or_(_c.lease_time.is_(None), _c.lease_time <= now),
    )


def _is_ours(job: LifecycleJob) -> ColumnElement[bool]:
    return and_(
        _c.tenant_id == job.tenant_id,
        _c.job_id == job.job_id,
        _c.state == _RUNNING,
        _c.runner_id == job.runner_id,
        _c.attempt_count == job.attempt_count,
    )


def _is_old(ended_before: datetime) -> ColumnElement[bool]:
    return and_(
        _c.end_time < ended_before,
        or_(_c.kind.not_in([int(kind) for kind in RECEIPTS]), _c.validate_only),
    )
