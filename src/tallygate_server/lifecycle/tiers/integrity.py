"""A job that compares what is stored with the manifest, and puts what is damaged in quarantine."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from datetime import datetime
from enum import IntEnum
from typing import Any, Final

from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.lifecycle import CompressionForm, DataSelection, Segment, SegmentState
from tallygate_server.errors import ArchiveCorruption, IntegrityViolation
from tallygate_server.lifecycle import columnar
from tallygate_server.lifecycle.jobs import JobControl, LifecycleJob
from tallygate_server.lifecycle.objects import ObjectMissing
from tallygate_server.lifecycle.segments import SegmentStore, decode_records
from tallygate_server.storage.data_segments import (
    payload_size,
    read_segment,
    read_segments,
    segments_without_place,
    total_of_segments,
    unmentioned_objects,
    unmentioned_payloads,
)

SEGMENTS_PER_LOOK_MAX: Final = 500
FINDINGS_TOLD_MAX: Final = 1_000

Lossy = Callable[[CompressionForm, bytes], None]
"""Decodes a lossy form; raises ValueError for a damaged one."""


class IntegrityDepth(IntEnum):
    """How thoroughly is looked; the numbers are the contract's."""

    PRESENCE = 1
    CHECKSUM = 2
    VALUES = 3


def integrity_request(selection: DataSelection | None, *, depth: IntegrityDepth) -> dict[str, Any]:
    """Return what an integrity job is asked; without a selection it also looks for what no manifest mentions."""
    return {"selection": selection.to_document() if selection is not None else None, "depth": int(depth)}


class _Wrong(Exception):
    """Something does not match."""

    def __init__(self, kind: str, expected: str, actual: str) -> None:
        super().__init__(kind)
        self.kind = kind
        self.expected = expected
        self.actual = actual


def _told(wrong: _Wrong) -> str:
    """Return for people why a segment is in quarantine; digests would tell them nothing."""
    return {
        "CHECKSUM_MISMATCH": "its bytes do not match their checksum",
        "MISSING": wrong.actual,
        "COUNT_MISMATCH": f"it holds {wrong.actual} instead of {wrong.expected}",
        "VALUE_MISMATCH": "its values are not those that were put",
    }.get(wrong.kind, f"it cannot be read: {wrong.actual}")


class IntegrityHandler:
    """Checks segments one by one; whoever is sound again after a quarantine becomes live again."""

    def __init__(self, store: SegmentStore, *, decode_lossy: Lossy) -> None:
        """Check what this store holds."""
        self._store = store
        self._decode_lossy = decode_lossy

    async def run(self, job: LifecycleJob, control: JobControl) -> dict[str, Any]:
        """Check everything that is chosen; goes on after a crash where it was."""
        depth = IntegrityDepth(job.request["depth"])
        chosen = job.request["selection"]
        selection = DataSelection.from_document(chosen) if chosen is not None else DataSelection()
        report: dict[str, Any] = dict(control.checkpoint) or {
            "segment_count": 0,
            "record_count": 0,
            "read_bytes": 0,
            "findings": [],
            "finding_count": 0,
            "after": None,
        }
        async with self._store.database.tenant_transaction(job.tenant_id) as connection:
            total = await total_of_segments(connection, job.tenant_id, selection)
        while True:
            after = report["after"] and (datetime.fromisoformat(report["after"][0]), report["after"][1])
            async with self._store.database.tenant_transaction(job.tenant_id) as connection:
                page = await read_segments(
                    connection, job.tenant_id, selection, state=None, after=after, limit=SEGMENTS_PER_LOOK_MAX
                )
            if not page:
                break
            for segment in page:
                await self._look_at(segment, depth, report, job)
                report["after"] = [segment.start_time.isoformat(), segment.segment_id]
                await control.report(
                    done=report["segment_count"],
                    total=total,
                    phase="checking segments",
                    read_bytes=report["read_bytes"],
                    checkpoint=report,
                )
        if chosen is None:
            await self._look_for_the_unmentioned(job.tenant_id, report)
        return {name: value for name, value in report.items() if name != "after"}

    async def _look_at(
        self, segment: Segment, depth: IntegrityDepth, report: dict[str, Any], job: LifecycleJob
    ) -> None:
        try:
            read_bytes = await self._check(segment, depth)
        except _Wrong as wrong:
            async with self._store.database.tenant_transaction(segment.tenant_id) as connection:
                present = await read_segment(connection, segment.tenant_id, segment.segment_id)
            if present is None:
                # It was moved or removed while we looked: its successor was compared when it was written.
                return
            quarantined = segment.state is SegmentState.QUARANTINED
            if not job.validate_only and not quarantined:
                quarantined = await self._store.quarantine(segment, _told(wrong), actor=job.actor)
            _find(report, segment.segment_id, segment.dataset_id, wrong, quarantined=quarantined)
        else:
            report["read_bytes"] += read_bytes
            if segment.state is SegmentState.QUARANTINED and depth is IntegrityDepth.VALUES and not job.validate_only:
                await self._store.release(segment, actor=job.actor)
        report["segment_count"] += 1
        report["record_count"] += segment.record_count

    async def _check(self, segment: Segment, depth: IntegrityDepth) -> int:
        """Return the bytes that were read. Raises _Wrong."""
        if depth is IntegrityDepth.PRESENCE:
            size = await self._size(segment)
            if size != segment.stored_bytes:
                raise _Wrong("CHECKSUM_MISMATCH", f"{segment.stored_bytes} bytes", f"{size} bytes")
            return 0
        try:
            sealed = await self._store.read_sealed(segment)
        except (ArchiveCorruption, IntegrityViolation) as error:
            raise _Wrong("MISSING", f"{segment.stored_bytes} bytes", str(error.facts["why"])) from error
        checksum = (await asyncio.to_thread(hashlib.sha256, sealed)).digest()
        if checksum != segment.checksum:
            raise _Wrong("CHECKSUM_MISMATCH", segment.checksum.hex(), checksum.hex())
        try:
            payload = await self._store.read_payload(segment)
        except (ArchiveCorruption, IntegrityViolation) as error:
            raise _Wrong("UNREADABLE", "a payload that opens", str(error.facts["why"])) from error
        await asyncio.to_thread(self._check_payload, segment, payload, depth)
        return len(sealed)

    def _check_payload(self, segment: Segment, payload: bytes, depth: IntegrityDepth) -> None:
        try:
            if not segment.form.exact:
                self._decode_lossy(segment.form, payload)
                return
            if depth is IntegrityDepth.CHECKSUM and segment.form is CompressionForm.LOSSLESS:
                # The header tells how many records there are; the checksum has vouched for the rest.
                count = columnar.describe(payload).rows
                digest = segment.values_digest
            else:
                table = decode_records(segment.form, payload)
                count, digest = table.num_rows, columnar.values_digest(table)
        except (columnar.SegmentDamaged, ValueError) as error:
            raise _Wrong("UNREADABLE", "records", str(error)) from error
        if count != segment.record_count:
            raise _Wrong("COUNT_MISMATCH", f"{segment.record_count} records", f"{count} records")
        if digest != segment.values_digest:
            raise _Wrong("VALUE_MISMATCH", segment.values_digest.hex(), digest.hex())

    async def _size(self, segment: Segment) -> int:
        if segment.object_path:
            try:
                return await self._store.objects.size(segment.object_path)
            except ObjectMissing:
                raise _Wrong("MISSING", f"{segment.stored_bytes} bytes", "its object is missing") from None
        async with self._store.database.tenant_transaction(segment.tenant_id) as connection:
            size = await payload_size(connection, segment.tenant_id, segment.segment_id)
        if size is None:
            raise _Wrong("MISSING", f"{segment.stored_bytes} bytes", "its payload is missing")
        return size

    async def _look_for_the_unmentioned(self, tenant_id: TenantId, report: dict[str, Any]) -> None:
        async with self._store.database.tenant_transaction(tenant_id) as connection:
            objects = await unmentioned_objects(connection, tenant_id, limit=FINDINGS_TOLD_MAX)
            payloads = await unmentioned_payloads(connection, tenant_id, limit=FINDINGS_TOLD_MAX)
            homeless = await segments_without_place(connection, tenant_id, limit=FINDINGS_TOLD_MAX)
        for path in objects:
            _find(report, path.rpartition("/")[2], "", _Wrong("ORPHAN", "a segment", "an object that none mentions"))
        for segment_id in payloads:
            _find(report, segment_id, "", _Wrong("ORPHAN", "a segment", "a payload that none mentions"))
        for segment_id, dataset_id in homeless:
            _find(report, segment_id, dataset_id, _Wrong("COVERAGE", "its dataset", "a segment of no dataset"))


def _find(
    report: dict[str, Any], segment_id: str, dataset_id: str, wrong: _Wrong, *, quarantined: bool = False
) -> None:
    report["finding_count"] += 1
    if len(report["findings"]) < FINDINGS_TOLD_MAX:
        report["findings"].append(
            {
                "segment_id": segment_id,
                "dataset_id": dataset_id,
                "kind": f"INTEGRITY_FINDING_KIND_{wrong.kind}",
                "expected": wrong.expected,
                "actual": wrong.actual,
                "quarantined": quarantined,
            }
        )
