"""SQL that erases an account, batch by batch, as the register of `account_rows` says."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import delete, func, literal, null, or_, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import JobKind, JobState, Segment
from tallygate_server.storage import tables
from tallygate_server.storage.account_exports import ExportRow, delete_export, let_pieces_leave
from tallygate_server.storage.account_rows import (
    ROWS_PER_BATCH,
    AccountTable,
    Fate,
    Subject,
    allow_time,
    chosen,
    entry_of,
    key_of,
    policies_about,
)
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.data_segments import delete_segments, segment_of

_SEGMENTS = entry_of(tables.data_segments)
SEGMENTS_PER_BATCH: Final = 100


async def change_silently(connection: Connection) -> None:
    """Keep the database from announcing what is deleted in this transaction as a change by hand, row by row."""
    await connection.execute(text("SELECT set_config('tallygate.change', 'own', true)"))


async def erase_batch(
    connection: Connection, entry: AccountTable, subject: Subject, anonymous_id: str, *, limit: int = ROWS_PER_BATCH
) -> int:
    """Delete rows of the account, or make them anonymous; return how many, less than the limit when none is left."""
    await allow_time(connection)
    key = key_of(entry.table)
    batch = select(*key).where(*chosen(entry, subject)).limit(limit)
    where = tuple_(*key).in_(batch)
    if entry.fate is Fate.ANONYMIZE:
        assert entry.change is not None, entry.table.name
        statement = update(entry.table).where(where).values(dict(entry.change(subject, anonymous_id)))
        return (await connection.execute(statement)).rowcount
    return (await connection.execute(delete(entry.table).where(where))).rowcount


async def erase_counters(connection: Connection, subject: Subject, *, limit: int = ROWS_PER_BATCH) -> int:
    """Delete counters of the account and add what they say to the sums of all erased accounts; return how many."""
    await allow_time(connection)
    counters, totals = tables.usage_counters, tables.erased_usage_totals
    key = key_of(counters)
    batch = (
        select(*key)
        .where(counters.c.tenant_id == subject.tenant_id, counters.c.account_id == subject.account_id)
        .limit(limit)
    )
    gone = (
        delete(counters)
        .where(tuple_(*key).in_(batch))
        .returning(
            counters.c.tenant_id,
            counters.c.feature_key,
            counters.c.period_kind,
            counters.c.period_start,
            counters.c.used_quantity,
            counters.c.credited_quantity,
        )
    )
    rows = [dict(row) for row in (await connection.execute(gone)).mappings()]
    if rows:
        statement = insert(totals)
        await connection.execute(
            statement.on_conflict_do_update(
                index_elements=[totals.c.tenant_id, totals.c.feature_key, totals.c.period_kind, totals.c.period_start],
                set_={
                    "used_quantity": totals.c.used_quantity + statement.excluded.used_quantity,
                    "credited_quantity": totals.c.credited_quantity + statement.excluded.credited_quantity,
                    "account_count": totals.c.account_count + statement.excluded.account_count,
                },
            ),
            [row | {"account_count": 1} for row in rows],
        )
    return len(rows)


async def erase_exceptions(connection: Connection, subject: Subject) -> int:
    """Remove the account's exceptions from every version of the tenant's policies; return how many versions had any."""
    policies = tables.retention_policies
    rows = await connection.execute(
        select(policies).where(policies.c.tenant_id == subject.tenant_id, policies_about(subject)).with_for_update()
    )
    count = 0
    for row in rows:
        exceptions = row.policy.get("exceptions", [])
        kept = [each for each in exceptions if each.get("account_id") != subject.account_id]
        if len(kept) == len(exceptions):
            # The policy says the same word for another reason.
            continue
        await connection.execute(
            update(policies)
            .where(
                policies.c.tenant_id == subject.tenant_id,
                policies.c.data_type == row.data_type,
                policies.c.version == row.version,
            )
            .values(policy={**row.policy, "exceptions": kept})
        )
        count += 1
    return count


async def anonymize_holds(connection: Connection, subject: Subject, anonymous_id: str, *, ended_at: datetime) -> int:
    """Make holds that are over anonymous; return how many."""
    holds = tables.legal_holds
    over = or_(holds.c.release_time.is_not(None), holds.c.end_time <= ended_at)
    rows = await connection.execute(
        update(holds)
        .where(holds.c.tenant_id == subject.tenant_id, holds.c.account_id == subject.account_id, over)
        .values(
            account_id=anonymous_id,
            selection=literal({"account_id": anonymous_id}, holds.c.selection.type),
            reason_text="erased",
            release_reason="",
            request_id=null(),
        )
        .returning(holds.c.legal_hold_id)
    )
    return len(rows.all())


async def add_anonymous_account(
    connection: Connection, tenant_id: TenantId, anonymous_id: str, *, now: datetime
) -> None:
    """Add the account that stands in the books for one that was erased; idempotent."""
    await connection.execute(
        insert(tables.accounts)
        .values(
            tenant_id=tenant_id,
            account_id=anonymous_id,
            state="deleted",
            create_time=now,
            update_time=now,
            delete_time=now,
        )
        .on_conflict_do_nothing()
    )


async def strip_account(connection: Connection, subject: Subject, *, now: datetime) -> None:
    """Take everything personal from the account's row, and mark it as deleted."""
    accounts = tables.accounts
    await connection.execute(
        update(accounts)
        .where(accounts.c.tenant_id == subject.tenant_id, accounts.c.account_id == subject.account_id)
        .values(
            state="deleted",
            display_name="",
            email="",
            time_zone="UTC",
            preferences=literal({}, accounts.c.preferences.type),
            metadata=literal({}, accounts.c.metadata.type),
            suspend_reason="",
            last_seen_time=null(),
            update_time=now,
            delete_time=func.coalesce(accounts.c.delete_time, now),
        )
    )


async def delete_account(connection: Connection, subject: Subject) -> bool:
    """Delete the account's own row; False where it was gone."""
    accounts = tables.accounts
    done = await connection.execute(
        delete(accounts).where(accounts.c.tenant_id == subject.tenant_id, accounts.c.account_id == subject.account_id)
    )
    return done.rowcount > 0


async def announce_removal(connection: Connection, subject: Subject) -> None:
    """Let every server forget the account when this transaction is committed."""
    await connection.execute(
        text("SELECT pg_notify('tallygate_changed', :name)"), {"name": f"{subject.tenant_id}/{subject.account_id}"}
    )


async def other_open_erasure(connection: Connection, subject: Subject) -> bool:
    """Tell whether an earlier erasure of the account is under way."""
    jobs = tables.lifecycle_jobs.c
    statement = (
        select(literal(1))
        .where(
            jobs.tenant_id == subject.tenant_id,
            jobs.account_id == subject.account_id,
            jobs.kind == int(JobKind.ERASURE),
            jobs.state.in_([int(JobState.PENDING), int(JobState.RUNNING)]),
            ~jobs.validate_only,
            jobs.job_id < subject.job_id,
        )
        .limit(1)
    )
    return (await connection.execute(statement)).first() is not None


async def unfinished_erasure(connection: Connection, subject: Subject) -> dict[str, Any] | None:
    """Return the checkpoint of the account's latest erasure that was begun and ended without its receipt."""
    jobs = tables.lifecycle_jobs.c
    statement = (
        select(jobs.checkpoint)
        .where(
            jobs.tenant_id == subject.tenant_id,
            jobs.account_id == subject.account_id,
            jobs.kind == int(JobKind.ERASURE),
            jobs.state.in_([int(JobState.FAILED), int(JobState.CANCELED)]),
            jobs.checkpoint.has_key("phase"),
            jobs.job_id != subject.job_id,
        )
        .order_by(jobs.job_id.desc())
        .limit(1)
    )
    checkpoint: dict[str, Any] | None = (await connection.execute(statement)).scalar_one_or_none()
    return checkpoint


async def decline_cancellation(connection: Connection, subject: Subject) -> None:
    """Let the erasure go on although somebody cancelled it."""
    jobs = tables.lifecycle_jobs
    await connection.execute(
        update(jobs)
        .where(jobs.c.tenant_id == subject.tenant_id, jobs.c.job_id == subject.job_id, jobs.c.cancel_requested)
        .values(cancel_requested=False)
    )


async def anonymize_job(connection: Connection, subject: Subject, *, actor: str, request_id: str) -> None:
    """Take the account from the row of its erasure; the rest of the row stays, so that a retry finds the receipt."""
    jobs = tables.lifecycle_jobs
    await connection.execute(
        update(jobs)
        .where(jobs.c.tenant_id == subject.tenant_id, jobs.c.job_id == subject.job_id)
        .values(account_id="", request=literal({}, jobs.c.request.type), actor=actor, request_id=request_id)
    )


async def dry_run_since(connection: Connection, tenant_id: TenantId, account_id: AccountId, *, since: datetime) -> bool:
    """Tell whether a dry run of the account's erasure ended well since then."""
    jobs = tables.lifecycle_jobs.c
    statement = (
        select(literal(1))
        .where(
            jobs.tenant_id == tenant_id,
            jobs.account_id == account_id,
            jobs.kind == int(JobKind.ERASURE),
            jobs.validate_only,
            jobs.state == int(JobState.SUCCEEDED),
            jobs.end_time >= since,
        )
        .limit(1)
    )
    return (await connection.execute(statement)).first() is not None


async def live_paid_subscriptions(
    connection: Connection, tenant_id: TenantId, account_id: AccountId, *, states: Sequence[str]
) -> list[tuple[str, str]]:
    """Return (id, state) of what the account still pays for at the billing provider."""
    columns = tables.subscriptions.c
    rows = await connection.execute(
        select(columns.subscription_id, columns.state).where(
            columns.tenant_id == tenant_id,
            columns.account_id == account_id,
            columns.provider == "stripe",
            columns.state.in_(states),
        )
    )
    return [(row.subscription_id, row.state) for row in rows]


async def active_holds(connection: Connection, subject: Subject, *, now: datetime) -> list[dict[str, Any]]:
    """Return the holds that are in force and may be about the account."""
    holds = tables.legal_holds.c
    rows = await connection.execute(
        select(tables.legal_holds).where(
            holds.tenant_id == subject.tenant_id,
            holds.account_id.in_(["", subject.account_id]),
            holds.release_time.is_(None),
            or_(holds.end_time.is_(None), holds.end_time > now),
        )
    )
    return [dict(row) for row in rows.mappings()]


async def erase_segments(
    connection: Connection, subject: Subject, *, now: datetime, limit: int = SEGMENTS_PER_BATCH
) -> list[Segment]:
    """Delete rows of the manifest with their payloads; return them. Their objects are marked as leaving."""
    segments = tables.data_segments
    rows = await connection.execute(
        select(segments)
        .where(*chosen(_SEGMENTS, subject))
        .order_by(segments.c.segment_id)
        .limit(limit)
        .with_for_update()
    )
    found = [segment_of(row) for row in rows]
    await delete_segments(connection, found, now=now)
    return found


async def erase_exports(connection: Connection, subject: Subject, *, now: datetime) -> tuple[int, list[str]]:
    """Delete exports; return how many, and the paths of their pieces, which are marked as leaving."""
    exports = tables.account_exports
    rows = await connection.execute(
        select(exports).where(exports.c.tenant_id == subject.tenant_id, exports.c.account_id == subject.account_id)
    )
    paths, found = [], [ExportRow(**row) for row in rows.mappings()]
    for row in found:
        paths += await let_pieces_leave(connection, row, now=now)
        await delete_export(connection, row.tenant_id, row.job_id)
    return len(found), paths


async def sums_of_segments(connection: Connection, subject: Subject) -> list[tuple[str, int, int, int, int]]:
    """Return (data type, tier, segments, records, bytes) of what would be erased."""
    segments = tables.data_segments.c
    rows = await connection.execute(
        select(
            segments.data_type,
            segments.tier,
            func.count(),
            func.sum(segments.record_count),
            func.sum(segments.stored_bytes),
        )
        .where(*chosen(_SEGMENTS, subject))
        .group_by(segments.data_type, segments.tier)
        .order_by(segments.data_type, segments.tier)
    )
    return [(row[0], row[1], row[2], int(row[3]), int(row[4])) for row in rows]


async def delete_key(connection: Connection, tenant_id: TenantId, key_id: str) -> None:
    """Delete the row of a key that was destroyed."""
    keys = tables.data_keys
    await connection.execute(delete(keys).where(keys.c.tenant_id == tenant_id, keys.c.key_id == key_id))


async def anonymize_shared_series(connection: Connection, subject: Subject) -> int:
    """Take from the sums over all accounts what only this one can have said: values of dimensions, and values counted.

    The sums stay as they are. Must come before the account's own series go, which tell what it said.
    """
    await allow_time(connection)
    changed = 0
    for series in await _shared_series(connection, subject):
        dimensions = {
            name: value if await _others_say(connection, subject, series, name, value) else _nobody()
            for name, value in series.dimensions.items()
        }
        if dimensions != series.dimensions:
            changed += 1
            await connection.execute(
                _WRITE_DIMENSIONS,
                {
                    "tenant_id": subject.tenant_id,
                    "series_id": series.series_id,
                    "dimensions": json.dumps(dimensions),
                },
            )
    rows = await connection.execute(
        _ANONYMIZE_VALUES,
        {"tenant_id": subject.tenant_id, "account_id": subject.account_id, "salt": secrets.token_hex(16)},
    )
    return changed + rows.rowcount


async def _shared_series(connection: Connection, subject: Subject) -> list[Any]:
    """Return the series over all accounts that have the dimensions of one of the account's."""
    series, mine = tables.usage_series, tables.usage_series.alias("mine")
    statement = select(series).where(
        series.c.tenant_id == subject.tenant_id,
        series.c.account_id == "",
        tuple_(series.c.subject, series.c.subject_key, series.c.digest).in_(
            select(mine.c.subject, mine.c.subject_key, mine.c.digest).where(
                mine.c.tenant_id == subject.tenant_id, mine.c.account_id == subject.account_id
            )
        ),
    )
    return list(await connection.execute(statement))


async def _others_say(connection: Connection, subject: Subject, series: Any, name: str, value: Any) -> bool:
    """Tell whether a value of a dimension is not the account's alone: the catalog's, or another account's too."""
    if value == "" or name == "currency_code":
        return True
    prices, others = tables.model_prices.c, tables.usage_series.c
    priced = select(literal(1)).where(prices.tenant_id == subject.tenant_id, prices.model_key == str(value))
    said = select(literal(1)).where(
        others.tenant_id == subject.tenant_id,
        others.account_id.not_in(["", subject.account_id]),
        others.subject == series.subject,
        others.subject_key == series.subject_key,
        others.dimensions[name].astext == str(value),
    )
    return any([(await connection.execute(each.limit(1))).first() is not None for each in (priced, said)])


def _nobody() -> str:
    return f"erased:{secrets.token_hex(8)}"


_WRITE_DIMENSIONS = text("""
    UPDATE usage_series
    SET dimensions = CAST(:dimensions AS jsonb),
        digest = sha256(convert_to(CAST(:dimensions AS jsonb)::text, 'UTF8'))
    WHERE tenant_id = :tenant_id AND series_id = :series_id
""")
# Days have every value that their minutes have, so it is enough to look at those.
_ANONYMIZE_VALUES = text("""
    WITH mine AS (
        SELECT DISTINCT s.subject, s.subject_key, v.value
        FROM usage_series AS s JOIN usage_rollup_values AS v USING (tenant_id, series_id)
        WHERE s.tenant_id = :tenant_id AND s.account_id = :account_id
    ), others AS (
        SELECT DISTINCT s.subject, s.subject_key, v.value
        FROM usage_series AS s JOIN usage_rollup_values AS v USING (tenant_id, series_id)
        WHERE s.tenant_id = :tenant_id AND s.account_id NOT IN ('', :account_id) AND v.minutes = 1440
    ), alone AS (
        SELECT * FROM mine EXCEPT SELECT * FROM others
    )
    UPDATE usage_rollup_values AS v
    SET value = 'erased:' || encode(sha256(convert_to(:salt || v.value, 'UTF8')), 'hex')
    FROM usage_series AS s JOIN alone USING (subject, subject_key)
    WHERE s.tenant_id = :tenant_id AND s.account_id = ''
        AND v.tenant_id = s.tenant_id AND v.series_id = s.series_id AND v.value = alone.value
""")


async def living_segments(
    connection: Connection, tenant_id: TenantId, segment_ids: Collection[str], *, but: AccountId
) -> set[str]:
    """Return those of the segments that are there, and another account's."""
    segments = tables.data_segments.c
    rows = await connection.execute(
        select(segments.segment_id).where(
            segments.tenant_id == tenant_id,
            segments.account_id != but,
            segments.segment_id.in_(sorted(segment_ids)),
        )
    )
    return set(rows.scalars())


async def names_of_data(connection: Connection, subject: Subject) -> set[str]:
    """Return the ids of the account's datasets and segments."""
    found: set[str] = set()
    for column in (tables.datasets.c.dataset_id, tables.data_segments.c.segment_id):
        columns = column.table.c
        rows = await connection.execute(
            select(column).where(columns.tenant_id == subject.tenant_id, columns.account_id == subject.account_id)
        )
        found.update(rows.scalars())
    return found


async def jobs_about_many(connection: Connection, subject: Subject, *, after: str, limit: int) -> list[Any]:
    """Return jobs of the tenant that are about no single account, by id, those after one, locked."""
    jobs = tables.lifecycle_jobs.c
    rows = await connection.execute(
        select(jobs.job_id, jobs.request, jobs.checkpoint, jobs.result, jobs.error)
        .where(jobs.tenant_id == subject.tenant_id, jobs.account_id == "", jobs.job_id > after)
        .where(jobs.job_id != subject.job_id, jobs.kind != int(JobKind.ERASURE))
        .order_by(jobs.job_id)
        .limit(limit)
        .with_for_update()
    )
    return list(rows)


async def write_job_documents(
    connection: Connection, tenant_id: TenantId, job_id: str, documents: dict[str, Any]
) -> None:
    """Write documents of a job that was locked."""
    jobs = tables.lifecycle_jobs
    await connection.execute(
        update(jobs).where(jobs.c.tenant_id == tenant_id, jobs.c.job_id == job_id).values(**documents)
    )
