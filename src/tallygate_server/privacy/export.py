"""Exports everything that is held on an account, as one sealed ZIP that its people can take away."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import DataSelection, Dataset, JobKind, Segment, SegmentState
from tallygate_server.domain.lifecycle_job import LifecycleJob, NewJob
from tallygate_server.errors import (
    AccountNotFound,
    ArchiveCorruption,
    IntegrityViolation,
    InvalidRequest,
    NotFound,
    StoreUnavailable,
)
from tallygate_server.lifecycle import lossy
from tallygate_server.lifecycle.jobs import JobCanceled, JobControl, LifecycleJobs
from tallygate_server.lifecycle.keys import DataKey, DataKeys, KeyDestroyed, KeyUnreadable
from tallygate_server.lifecycle.objects import ObjectMissing, ObjectStoreUnavailable
from tallygate_server.lifecycle.sealing import SealBroken, seal, unseal
from tallygate_server.lifecycle.segments import SegmentStore
from tallygate_server.privacy.archive import PIECE_BYTES, Archive, manifest_of
from tallygate_server.privacy.receipts import time_text
from tallygate_server.service import Service
from tallygate_server.storage.account_exports import (
    EXPORT_COMPLETE,
    EXPORT_WRITING,
    ExportRow,
    change_export,
    delete_export,
    expired_exports,
    let_pieces_leave,
    read_export,
    write_export,
)
from tallygate_server.storage.account_rows import (
    TABLES_WITHOUT_ACCOUNTS,
    AccountTable,
    Subject,
    account_tables,
    count_all,
    exported_columns,
    read_names,
    read_page,
)
from tallygate_server.storage.accounts import account_exists
from tallygate_server.storage.audit import add_audit_entry
from tallygate_server.storage.data_records import read_replaced
from tallygate_server.storage.data_segments import note_object, read_segments, settle_objects
from tallygate_server.storage.datasets import page_of_datasets
from tallygate_server.storage.engine import Database

DOWNLOAD_BYTES_MAX: Final = 262_144
"""Bytes of one message of a download."""
EXPORT_RETENTION: Final = timedelta(days=7)
RECORDS_AT_ONCE: Final = 20_000
"""Records that a thread encodes before others have their turn."""
DATASETS_PER_PAGE: Final = 1_000
FORMAT: Final = "tallygate-account-export"
FORMAT_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedExport:
    """An export that is asked for."""

    tenant_id: TenantId
    account_id: AccountId
    exclude_records: bool = False
    request_id: str = ""
    actor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivePart:
    """A part of a finished archive."""

    offset_bytes: int
    content: bytes
    total_bytes: int


class Exports:
    """Asks for exports, makes them, gives them out, and removes them when their time is over."""

    def __init__(
        self,
        database: Database,
        service: Service,
        *,
        jobs: LifecycleJobs,
        segments: SegmentStore,
        keys: DataKeys,
        retention: timedelta,
        clock: Clock,
    ) -> None:
        """Use a database with the lifecycle's role; archives are removed after `retention`."""
        self._database = database
        self._service = service
        self._jobs = jobs
        self._segments = segments
        self._keys = keys
        self._retention = retention
        self._clock = clock

    async def submit(self, wanted: WantedExport, *, wait: timedelta | None = None) -> LifecycleJob:
        """Ask for an export, and wait for its end for a while. Raises AccountNotFound, and as asking for any job."""
        await self._service.tenants.get(wanted.tenant_id)
        async with self._database.tenant_transaction(wanted.tenant_id) as connection:
            if not await account_exists(connection, wanted.tenant_id, wanted.account_id):
                raise AccountNotFound(wanted.account_id)
        job = NewJob(
            kind=JobKind.EXPORT,
            tenant_id=wanted.tenant_id,
            account_id=wanted.account_id,
            request={"exclude_records": wanted.exclude_records},
            validate_only=False,
            actor=wanted.actor,
            request_id=wanted.request_id,
        )
        return await self._jobs.submit(job, wait)

    async def run(self, job: LifecycleJob, control: JobControl) -> dict[str, Any]:
        """Make the archive, from the beginning whatever an earlier attempt did."""
        tenant_id, account_id = job.tenant_id, job.account_id
        assert account_id is not None
        await self._drop_attempt(tenant_id, job.job_id)
        async with self._database.tenant_transaction(tenant_id) as connection:
            if not await account_exists(connection, tenant_id, account_id):
                raise AccountNotFound(account_id)
            names = await read_names(connection, tenant_id, account_id)
        key = await self._keys.to_seal(tenant_id, account_id)
        now = self._clock.now()
        row = ExportRow(
            tenant_id=tenant_id,
            job_id=job.job_id,
            account_id=account_id,
            state=EXPORT_WRITING,
            key_id=key.key_id,
            # Nothing in a path tells whose it is.
            object_prefix=f"{tenant_id}/exports/{secrets.token_hex(12)}/",
            create_time=now,
            expire_time=now + self._retention,
        )
        async with self._database.tenant_transaction(tenant_id) as connection:
            await write_export(connection, row)
        making = _Making(
            self,
            row,
            Subject(tenant_id=tenant_id, account_id=account_id, names=names),
            Archive(_SealedPieces(self._segments, row, key, self._clock)),
            control,
        )
        archive = making.archive
        try:
            await making.make(with_records=not job.request.get("exclude_records", False))
        except JobCanceled:
            await self._drop_attempt(tenant_id, job.job_id)
            raise
        finally:
            archive.abandon()
        async with self._database.tenant_transaction(tenant_id) as connection:
            done = {"state": EXPORT_COMPLETE, "piece_count": archive.piece_count, "archive_bytes": archive.size}
            if not await change_export(connection, tenant_id, job.job_id, done):
                raise AccountNotFound(account_id)
            await add_audit_entry(
                connection,
                tenant_id,
                actor=job.actor,
                action="data.account_exported",
                subject=f"account:{account_id}",
                detail={"job_id": job.job_id, "archive_bytes": archive.size, "files": len(archive.files)},
            )
        return {
            "archive_bytes": archive.size,
            "checksum_sha256": archive.checksum,
            "file_count": len(archive.files),
            "record_count_by_type": making.counts,
            "expire_time": time_text(row.expire_time),
        }

    async def download(
        self, tenant_id: TenantId, job_id: str, *, offset_bytes: int = 0, actor: str = ""
    ) -> AsyncGenerator[ArchivePart]:
        """Yield an archive from a byte on, in parts of at most 256 KiB; at its end one empty part.

        Raises NotFound for what is no finished export, is expired or erased, and InvalidRequest for an offset beyond.
        """
        await self._service.tenants.get(tenant_id)
        async with self._database.tenant_transaction(tenant_id) as connection:
            row = await read_export(connection, tenant_id, job_id)
        if row is None or row.state != EXPORT_COMPLETE or row.expire_time <= self._clock.now():
            raise NotFound("archive of an export", job_id, field="job_id")
        if offset_bytes > row.archive_bytes:
            raise InvalidRequest.of("offset_bytes", f"the archive has {row.archive_bytes} bytes")
        try:
            secret = await self._keys.to_unseal(tenant_id, row.key_id)
        except (KeyDestroyed, KeyUnreadable):
            raise NotFound("readable export", job_id, field="job_id") from None
        if offset_bytes == 0:
            async with self._database.tenant_transaction(tenant_id) as connection:
                await add_audit_entry(
                    connection,
                    tenant_id,
                    actor=actor,
                    action="data.export_downloaded",
                    subject=f"account:{row.account_id}",
                    detail={"job_id": job_id},
                )
        position = offset_bytes
        if position == row.archive_bytes:
            yield ArchivePart(offset_bytes=position, content=b"", total_bytes=row.archive_bytes)
        while position < row.archive_bytes:
            number, start = divmod(position, PIECE_BYTES)
            piece = await self._piece(row, number, secret)
            for begin in range(start, len(piece), DOWNLOAD_BYTES_MAX):
                content = piece[begin : begin + DOWNLOAD_BYTES_MAX]
                yield ArchivePart(offset_bytes=position, content=content, total_bytes=row.archive_bytes)
                position += len(content)

    async def expire(self) -> dict[str, int]:
        """Remove archives whose time is over; return how many."""
        async with self._database.tenant_snapshot(TenantId("*")) as connection:
            rows = await expired_exports(connection, now=self._clock.now())
        for row in rows:
            await self._drop_attempt(row.tenant_id, row.job_id)
        return {"exports_expired": len(rows)} if rows else {}

    async def _piece(self, row: ExportRow, number: int, secret: bytes) -> bytes:
        path = _path(row, number)
        try:
            sealed = await self._segments.objects.get(path)
            piece = await asyncio.to_thread(unseal, secret, sealed, place=path)
        except (ObjectMissing, SealBroken):
            raise ArchiveCorruption("a piece of the export is damaged", dataset_id="", segment_id=row.job_id) from None
        except ObjectStoreUnavailable as error:
            raise StoreUnavailable("the object store cannot be reached just now") from error
        expected = min(PIECE_BYTES, row.archive_bytes - number * PIECE_BYTES)
        if len(piece) != expected:
            raise ArchiveCorruption("a piece of the export is too short", dataset_id="", segment_id=row.job_id)
        return piece

    async def _drop_attempt(self, tenant_id: TenantId, job_id: str) -> None:
        """Remove what there is of an export."""
        async with self._database.tenant_transaction(tenant_id) as connection:
            row = await read_export(connection, tenant_id, job_id)
            if row is None:
                return
            paths = await let_pieces_leave(connection, row, now=self._clock.now())
            await delete_export(connection, tenant_id, job_id)
        await self._segments.remove_objects(tenant_id, paths)


class _SealedPieces:
    """Stores pieces of one archive as sealed objects."""

    def __init__(self, segments: SegmentStore, row: ExportRow, key: DataKey, clock: Clock) -> None:
        self._segments = segments
        self._row = row
        self._key = key
        self._clock = clock

    async def put(self, number: int, content: bytes) -> None:
        """Seal and store a piece."""
        path, tenant_id = _path(self._row, number), self._row.tenant_id
        sealed = await asyncio.to_thread(seal, self._key.secret, content, place=path)
        async with self._segments.database.tenant_transaction(tenant_id) as connection:
            await note_object(
                connection, tenant_id, path, kind="export", stored_bytes=len(sealed), now=self._clock.now()
            )
        try:
            await self._segments.objects.put(path, sealed)
        except ObjectStoreUnavailable as error:
            raise StoreUnavailable("the object store cannot be reached just now") from error
        async with self._segments.database.tenant_transaction(tenant_id) as connection:
            await settle_objects(connection, tenant_id, [path])


class _Making:
    """One attempt at an archive."""

    def __init__(
        self, exports: Exports, row: ExportRow, subject: Subject, archive: Archive, control: JobControl
    ) -> None:
        self._database = exports._database  # noqa: SLF001 - of one module
        self._segments = exports._segments  # noqa: SLF001 - of one module
        self._row = row
        self._subject = subject
        self.archive = archive
        self._control = control
        self.counts: dict[str, int] = {}
        self._left_out: list[dict[str, Any]] = [
            *(
                {"what": entry.table.name, "why": entry.why_not_exported}
                for entry in account_tables()
                if not entry.exported
            ),
            *({"what": name, "why": why} for name, why in sorted(TABLES_WITHOUT_ACCOUNTS.items())),
        ]
        self._done = self._total = 0

    async def make(self, *, with_records: bool) -> None:
        """Write everything, and the manifest last."""
        entries = [entry for entry in account_tables() if entry.exported]
        datasets = await self._datasets()
        counts = await count_all(self._database, self._subject)
        self._total = sum(counts.get(entry.table.name, 0) for entry in entries)
        for entry in entries:
            await self._table(entry)
        if with_records:
            for dataset in datasets:
                await self._records(dataset)
        else:
            self._left_out.append({"what": "records of datasets", "why": "asked for without them"})
        await self.archive.add(
            "manifest.json",
            manifest_of(
                self.archive.files,
                format=FORMAT,
                version=FORMAT_VERSION,
                tenant_id=self._subject.tenant_id,
                account_id=self._subject.account_id,
                create_time=time_text(self._row.create_time),
                numbers="whole numbers beyond 2^53, decimals, NaN and infinities are texts; times are in UTC",
                not_included=self._left_out,
            ),
        )
        await self.archive.close()

    async def _table(self, entry: AccountTable) -> None:
        name, shown = entry.table.name, set(exported_columns(entry))
        columns = [
            {"name": column.name, "type": str(column.type).lower()}
            for column in entry.table.columns
            if column.name in shown
        ]
        async with self.archive.table(f"account/{name}", columns) as table:
            after: tuple[Any, ...] | None = None
            while True:
                async with self._database.tenant_transaction(self._subject.tenant_id) as connection:
                    rows, after = await read_page(
                        connection, entry, self._subject, after=after, limit=entry.rows_per_page
                    )
                await table.write(rows)
                await self._tell(name, len(rows))
                if after is None:
                    break
        self._count(name, table.row_count)

    async def _records(self, dataset: Dataset) -> None:
        """Write the records of a dataset, segment by segment, and beside them what lossy forms can give."""
        async with self._database.tenant_transaction(dataset.tenant_id) as connection:
            selection = DataSelection(account_id=dataset.account_id, dataset_ids=(dataset.dataset_id,))
            segments = await read_segments(connection, dataset.tenant_id, selection, state=None)
            replaced = await read_replaced(connection, dataset.tenant_id, dataset.dataset_id)
        self._total += sum(segment.record_count for segment in segments)
        readable = [segment for segment in segments if segment.state is SegmentState.LIVE]
        for segment in segments:
            if segment not in readable:
                self._leave_out(segment, "damaged, and in quarantine")
        exact_ones = [segment for segment in readable if segment.form.exact]
        await self._exact_records(dataset, exact_ones, replaced)
        lossy_ones = [segment for segment in readable if not segment.form.exact]
        if lossy_ones:
            await self._lossy_records(dataset, lossy_ones)

    async def _exact_records(self, dataset: Dataset, segments: Sequence[Segment], replaced: Sequence[int]) -> None:
        columns = [{"name": "time", "type": "timestamp"}]
        if dataset.has_record_ids:
            columns.append({"name": "_id", "type": "string"})
        if dataset.columns:
            columns += [
                {"name": column.name, "type": column.type.name.lower(), "unit": column.unit}
                for column in dataset.columns
            ]
        for segment in segments if not dataset.columns else ():
            # Of documents, whose columns no dataset tells; one that is damaged cannot say.
            first = await self._read(segment)
            if first is None:
                continue
            known = {column["name"] for column in columns} | {"_sequence"}
            columns += [{"name": each.name, "type": str(each.type)} for each in first.schema if each.name not in known]
            break
        async with self.archive.table(f"records/{dataset.data_type}", columns) as writer:
            for segment in segments:
                table = await self._read(segment)
                if table is None:
                    continue
                if replaced and "_sequence" in table.column_names:
                    gone = pc.is_in(table["_sequence"], value_set=pa.array(replaced, pa.int64()))
                    table = table.filter(pc.invert(gone))
                for start in range(0, table.num_rows, RECORDS_AT_ONCE):
                    part = table.slice(start, RECORDS_AT_ONCE)
                    await writer.write_records(part)
                    await self._tell(f"records of {dataset.data_type}", part.num_rows)
        self._count(dataset.data_type, writer.row_count)

    async def _lossy_records(self, dataset: Dataset, segments: Sequence[Segment]) -> None:
        """Write what is left of records that were compressed with loss: one line for each segment."""
        columns = [
            {"name": name, "type": "json"}
            for name in ("form", "start_time", "end_time", "record_count", "facts", "kept", "limitation")
        ]
        async with self.archive.table(f"records/{dataset.data_type}.compressed", columns) as writer:
            for segment in segments:
                try:
                    facts = await self._segments.read_facts(segment)
                    kept = await asyncio.to_thread(lossy.decode, await self._segments.read_payload(segment))
                except (IntegrityViolation, ArchiveCorruption, lossy.LossyPayloadDamaged):
                    self._leave_out(segment, "damaged")
                    continue
                given = await asyncio.to_thread(_given_by, kept)
                line = {
                    "form": segment.form.name.lower(),
                    "start_time": segment.start_time,
                    "end_time": segment.end_time,
                    "record_count": segment.record_count,
                    "facts": facts,
                    "kept": given,
                    "limitation": kept.limitation,
                }
                await writer.write([line])
                await self._tell(f"records of {dataset.data_type}", segment.record_count)
                self._count(dataset.data_type, segment.record_count)

    async def _read(self, segment: Segment) -> pa.Table | None:
        try:
            return await self._segments.read(segment)
        except (IntegrityViolation, ArchiveCorruption) as error:
            self._leave_out(segment, str(error.message))
            return None

    def _count(self, kind: str, rows: int) -> None:
        if rows:
            self.counts[kind] = self.counts.get(kind, 0) + rows

    def _leave_out(self, segment: Segment, why: str) -> None:
        self._left_out.append(
            {
                "what": f"{segment.record_count} records of {segment.data_type}",
                "from": time_text(segment.start_time),
                "to": time_text(segment.end_time),
                "why": why,
            }
        )

    async def _datasets(self) -> list[Dataset]:
        subject = self._subject
        async with self._database.tenant_transaction(subject.tenant_id) as connection:
            return await page_of_datasets(
                connection, subject.tenant_id, account_id=subject.account_id, limit=DATASETS_PER_PAGE
            )

    async def _tell(self, what: str, rows: int) -> None:
        self._done += rows
        await self._control.report(
            done=self._done, total=max(self._total, self._done), phase=what, written_bytes=self.archive.size
        )


def _given_by(kept: lossy.Kept) -> dict[str, Any]:
    """Return all that a lossy form can give, by the kind of analysis."""
    given: dict[str, Any] = {}
    for name in (lossy.PATTERNS, lossy.PROFILE, lossy.SESSIONS, lossy.WINDOWS, lossy.ROWS):
        try:
            found = getattr(kept, name)()
        except lossy.AnalysisUnavailable:
            continue
        table = found.table if isinstance(found, lossy.Windows) else found
        given[name] = table.to_pylist() if isinstance(table, pa.Table) else table
    return given


def _path(row: ExportRow, number: int) -> str:
    return f"{row.object_prefix}{number:06d}"
