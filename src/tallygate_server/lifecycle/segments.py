"""The one way in which stored data is written, read and replaced.

Nothing is removed before its successor was written, read back and compared, and both changes are one transaction with
the manifest: whoever dies in between leaves the old form complete, or the new one. Objects are noted before they are
written, so those that nobody came to need are found and removed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import structlog

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.lifecycle import (
    ONE_MICROSECOND,
    CompressionForm,
    Dataset,
    Segment,
    SegmentState,
    StorageTier,
)
from tallygate_server.errors import (
    ArchiveCorruption,
    IntegrityViolation,
    SegmentGone,
    SegmentsChanged,
    StoreUnavailable,
)
from tallygate_server.lifecycle import columnar
from tallygate_server.lifecycle.keys import DataKey, DataKeys, KeyDestroyed, KeyUnreadable
from tallygate_server.lifecycle.objects import ObjectMissing, ObjectStore, ObjectStoreUnavailable
from tallygate_server.lifecycle.sealing import SealBroken, seal, unseal
from tallygate_server.storage import data_segments as rows
from tallygate_server.storage.audit import add_audit_entry
from tallygate_server.storage.connection import Connection
from tallygate_server.storage.data_keys import KeyState, read_key
from tallygate_server.storage.datasets import read_dataset_by_id
from tallygate_server.storage.engine import Database

log = structlog.get_logger(__name__)

WRITER_TIME_MAX: Final = timedelta(hours=1)
"""An object that is still being written after this was left behind."""
OBJECTS_PER_SWEEP_MAX: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedSegment:
    """A segment that is not written yet."""

    segment: Segment
    sealed: bytes = field(repr=False)
    verify: Callable[[bytes], None] = field(repr=False)
    """Compares the plain payload, as it was read back, with what it should hold; raises ValueError."""
    key: DataKey


class SegmentStore:
    """Segments of all tiers: rows and objects, behind one manifest."""

    def __init__(self, database: Database, objects: ObjectStore, keys: DataKeys, clock: Clock) -> None:
        """Use a database with the lifecycle's role."""
        self.database = database
        self.objects = objects
        self.keys = keys
        self._clock = clock

    async def prepare(
        self,
        dataset: Dataset,
        table: pa.Table,
        *,
        tier: StorageTier,
        form: CompressionForm | None = None,
        level: int = 5,
        quality_score: float = 1.0,
        facts: Mapping[str, Any] | None = None,
        key: DataKey | None = None,
    ) -> PreparedSegment:
        """Encode and seal records, sorted by time, without loss: plain for the hot tier, by column for the others.

        `form` overrides what is usual in the tier: hot data may be by column too.
        `facts` are kept sealed beside the statistics of the columns (`statistics`).
        """
        key = key or await self._key_to_seal(dataset)
        now = self._clock.now()

        def work() -> PreparedSegment:
            digest = columnar.values_digest(table)
            usual = CompressionForm.NONE if tier is StorageTier.HOT else CompressionForm.LOSSLESS
            chosen = form or usual
            if chosen is CompressionForm.NONE:
                codecs, payload = {}, columnar.to_ipc(table)
            else:
                encoded = columnar.encode(table, level=level)
                codecs, payload = dict(encoded.codecs), encoded.payload
            times = table.column("time")
            bounds = pc.min_max(times).as_py()
            return _sealed(
                dataset,
                payload,
                key=key,
                tier=tier,
                form=chosen,
                span=(bounds["min"], bounds["max"] + ONE_MICROSECOND),
                record_count=table.num_rows,
                original_bytes=columnar.plain_bytes(table),
                values_digest=digest,
                codecs=codecs,
                quality_score=quality_score,
                facts={"statistics": statistics_of(table), **(facts or {})},
                verify=_same_records(chosen, digest, table.num_rows),
                now=now,
            )

        return await asyncio.to_thread(work)

    async def prepare_lossy(
        self,
        dataset: Dataset,
        payload: bytes,
        *,
        form: CompressionForm,
        replaced: Sequence[Segment],
        facts: Mapping[str, Any],
        verify: Callable[[bytes], None],
        codecs: Mapping[str, str],
        tier: StorageTier,
    ) -> PreparedSegment:
        """Seal a lossy form of the records of live segments, which it will stand for."""
        key = await self._key_to_seal(dataset)
        weight = sum(segment.record_count for segment in replaced)
        digest = hashlib.sha256(b"".join(sorted(segment.values_digest for segment in replaced))).digest()
        return await asyncio.to_thread(
            _sealed,
            dataset,
            payload,
            key=key,
            tier=tier,
            form=form,
            span=(min(s.start_time for s in replaced), max(s.end_time for s in replaced)),
            record_count=weight,
            original_bytes=sum(segment.original_bytes for segment in replaced),
            values_digest=digest,
            codecs=dict(codecs),
            quality_score=sum(s.quality_score * s.record_count for s in replaced) / max(weight, 1),
            facts=facts,
            verify=verify,
            now=self._clock.now(),
        )

    async def prepare_copy(
        self,
        segment: Segment,
        *,
        tier: StorageTier,
        facts: Mapping[str, Any] | None = None,
        key: DataKey | None = None,
    ) -> PreparedSegment:
        """Seal the payload of a segment anew, as it is, for another tier or with the account's present key.

        Not for a hot segment, whose form belongs to its tier. Raises as `read`.
        """
        payload = await self.read_payload(segment)
        facts = await self.read_facts(segment) if facts is None else facts
        key = key or await self._key_to_seal(segment)
        verify = (
            _same_records(segment.form, segment.values_digest, segment.record_count)
            if segment.form.exact
            else _same_bytes(hashlib.sha256(payload).digest())
        )
        return await asyncio.to_thread(
            _sealed,
            segment,
            payload,
            key=key,
            tier=tier,
            form=segment.form,
            span=(segment.start_time, segment.end_time),
            record_count=segment.record_count,
            original_bytes=segment.original_bytes,
            values_digest=segment.values_digest,
            codecs=segment.codecs,
            quality_score=segment.quality_score,
            facts=facts,
            verify=verify,
            now=self._clock.now(),
        )

    async def put_hot(self, connection: Connection, prepared: PreparedSegment) -> None:
        """Write a prepared segment as rows within the caller's transaction."""
        segment = prepared.segment
        await rows.add_segments(connection, [segment])
        await rows.add_payload(connection, segment.tenant_id, segment.segment_id, prepared.sealed)

    async def replace(
        self,
        old: Sequence[Segment],
        new: Sequence[PreparedSegment],
        *,
        actor: str,
        action: str,
        in_transaction: Callable[[Connection], Any] | None = None,
    ) -> list[Segment]:
        """Put segments of one dataset in the place of others; return the new ones.

        New ones are written, read back and compared first. `in_transaction` (a coroutine function) runs in the
        transaction, after the old ones are locked, and may raise to stop it. With no new ones the old are removed: the
        caller has made sure that they may be. Raises SegmentsChanged, StoreUnavailable, and IntegrityViolation or
        ArchiveCorruption where what was read back is not what was written.
        """
        segments = list(old) + [prepared.segment for prepared in new]
        tenant_id, dataset_id = segments[0].tenant_id, segments[0].dataset_id
        assert all(s.dataset_id == dataset_id and s.tenant_id == tenant_id for s in segments), "one dataset at a time"
        cold = [prepared for prepared in new if prepared.segment.object_path]
        for prepared in cold:
            await self._write_object(prepared)
        async with self.database.tenant_transaction(tenant_id) as connection:
            # Written and compared before anything is locked, so that nobody waits for it.
            for prepared in new:
                if not prepared.segment.object_path:
                    await self._write_row(connection, prepared)
            # The dataset's row first: puts that take the place of records by id wait for it too.
            await read_dataset_by_id(connection, tenant_id, dataset_id, lock=True)
            present = await rows.lock_segments(connection, tenant_id, [segment.segment_id for segment in old])
            if {_identity(segment) for segment in present} != {_identity(segment) for segment in old}:
                raise SegmentsChanged(dataset_id)
            if in_transaction is not None:
                await in_transaction(connection)
            await rows.add_segments(connection, [prepared.segment for prepared in new])
            if new and old:
                await rows.hand_reads_on(connection, old, new[0].segment)
            settled = await rows.settle_objects(connection, tenant_id, [p.segment.object_path for p in cold])
            if settled != len(cold):
                raise SegmentsChanged(dataset_id)
            await rows.delete_segments(connection, list(old), now=self._clock.now())
            await add_audit_entry(
                connection,
                tenant_id,
                actor=actor,
                action=action,
                subject=f"dataset/{dataset_id}",
                detail=_audit_detail(old, new),
            )
        await self.remove_objects(tenant_id, [segment.object_path for segment in old if segment.object_path])
        return [prepared.segment for prepared in new]

    async def read(self, segment: Segment, *, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the records of an exact segment, all columns or some (and always `time`).

        Raises IntegrityViolation (in Postgres) or ArchiveCorruption (an object) where it is damaged, SegmentGone where
        it was replaced or removed since it was found, and StoreUnavailable.
        """
        async with self._unless_gone(segment):
            sealed = await self._sealed_bytes(segment)
            return await asyncio.to_thread(self._decode, segment, await self._secret(segment), sealed, columns)

    async def read_many(self, segments: Sequence[Segment], *, columns: Sequence[str] | None = None) -> list[pa.Table]:
        """Return the records of exact segments of one tenant whose payloads are rows, all in one go. Raises as `read`.

        The error names the first segment that cannot be read.
        """
        tenant_id = segments[0].tenant_id
        async with self.database.tenant_transaction(tenant_id) as connection:
            found = await rows.read_payloads(connection, tenant_id, [segment.segment_id for segment in segments])
        secrets_by_key: dict[str, bytes] = {}
        for segment in segments:
            async with self._unless_gone(segment):
                if segment.segment_id not in found:
                    raise self._damaged(segment, "its payload is missing")
                if segment.key_id not in secrets_by_key:
                    secrets_by_key[segment.key_id] = await self._secret(segment)

        def work() -> list[pa.Table]:
            return [
                self._decode(segment, secrets_by_key[segment.key_id], found[segment.segment_id], columns)
                for segment in segments
            ]

        return await asyncio.to_thread(work)

    async def read_payload(self, segment: Segment) -> bytes:
        """Return the plain payload of a segment of any form. Raises as `read`."""
        async with self._unless_gone(segment):
            sealed = await self._sealed_bytes(segment)
            return await asyncio.to_thread(self._open, segment, await self._secret(segment), sealed)

    async def read_facts(self, segment: Segment) -> dict[str, Any]:
        """Return what is kept sealed about a segment. Raises as `read`."""
        if not segment.facts:
            return {}
        async with self._unless_gone(segment):
            secret = await self._secret(segment)
            try:
                facts: dict[str, Any] = json.loads(unseal(secret, segment.facts, place=_place(segment) + "/facts"))
            except (SealBroken, ValueError) as error:
                raise self._damaged(segment, f"its facts cannot be read: {error}") from error
            return facts

    async def read_sealed(self, segment: Segment) -> bytes:
        """Return the bytes of a segment as they are stored, unchecked. Raises as `read`."""
        async with self._unless_gone(segment):
            return await self._sealed_bytes(segment)

    @asynccontextmanager
    async def _unless_gone(self, segment: Segment) -> AsyncIterator[None]:
        """Tell apart what is damaged from what somebody has replaced or removed meanwhile."""
        try:
            yield
        except (IntegrityViolation, ArchiveCorruption) as error:
            async with self.database.tenant_transaction(segment.tenant_id) as connection:
                present = await rows.read_segment(connection, segment.tenant_id, segment.segment_id)
            if present is None:
                raise SegmentGone(dataset_id=segment.dataset_id, segment_id=segment.segment_id) from error
            raise

    async def _sealed_bytes(self, segment: Segment) -> bytes:
        if segment.object_path:
            try:
                return await self.objects.get(segment.object_path)
            except ObjectMissing:
                raise self._damaged(segment, "its object is missing") from None
            except ObjectStoreUnavailable as error:
                raise StoreUnavailable("the object store cannot be reached just now") from error
        async with self.database.tenant_transaction(segment.tenant_id) as connection:
            sealed = await rows.read_payload(connection, segment.tenant_id, segment.segment_id)
        if sealed is None:
            raise self._damaged(segment, "its payload is missing")
        return sealed

    async def quarantine(self, segment: Segment, why: str, *, actor: str) -> bool:
        """Take a damaged segment out of queries.

        False where it is gone, was taken out before, or only cannot be opened here: a server with other key stores or
        master keys than its fellows must not take their data away.
        """
        if not await self._opens_here(segment):
            log.warning("segment_not_opened", segment_id=segment.segment_id, dataset_id=segment.dataset_id, why=why)
            return False
        async with self.database.tenant_transaction(segment.tenant_id) as connection:
            present = await rows.lock_segments(connection, segment.tenant_id, [segment.segment_id])
            if not present or present[0].state is not SegmentState.LIVE:
                return False
            await rows.write_segment(
                connection,
                segment.tenant_id,
                segment.segment_id,
                {"state": int(SegmentState.QUARANTINED), "quarantine_reason": why},
            )
            await add_audit_entry(
                connection,
                segment.tenant_id,
                actor=actor,
                action="data.quarantined",
                subject=f"dataset/{segment.dataset_id}",
                detail={"segment_id": segment.segment_id, "why": why},
            )
        log.warning("segment_quarantined", segment_id=segment.segment_id, dataset_id=segment.dataset_id, why=why)
        return True

    async def _opens_here(self, segment: Segment) -> bool:
        """Tell whether this server has the segment's key, or nobody has it any more."""
        try:
            await self.keys.to_unseal(segment.tenant_id, segment.key_id)
        except KeyUnreadable:
            return False
        except KeyDestroyed:
            async with self.database.tenant_transaction(segment.tenant_id) as connection:
                key = await read_key(connection, segment.tenant_id, segment.key_id)
            return key is not None and key.state is KeyState.DESTROYED
        return True

    async def release(self, segment: Segment, *, actor: str) -> bool:
        """Let a segment that was found sound take part in queries again; False where it is not in quarantine."""
        async with self.database.tenant_transaction(segment.tenant_id) as connection:
            present = await rows.lock_segments(connection, segment.tenant_id, [segment.segment_id])
            if not present or present[0].state is not SegmentState.QUARANTINED:
                return False
            await rows.write_segment(
                connection,
                segment.tenant_id,
                segment.segment_id,
                {"state": int(SegmentState.LIVE), "quarantine_reason": ""},
            )
            await add_audit_entry(
                connection,
                segment.tenant_id,
                actor=actor,
                action="data.released_from_quarantine",
                subject=f"dataset/{segment.dataset_id}",
                detail={"segment_id": segment.segment_id},
            )
        return True

    async def sweep_objects(self, tenant_id: TenantId) -> int:
        """Remove objects that are leaving, or whose writer died; return how many."""
        written_before = self._clock.now() - WRITER_TIME_MAX
        async with self.database.tenant_transaction(tenant_id) as connection:
            paths = await rows.leaving_objects(
                connection, tenant_id, written_before=written_before, limit=OBJECTS_PER_SWEEP_MAX
            )
        return await self.remove_objects(tenant_id, paths)

    async def remove_objects(self, tenant_id: TenantId, paths: Sequence[str]) -> int:
        """Remove objects that the manifest no longer has; return how many. What fails is left to the next sweep."""
        if not paths:
            return 0
        async with self.database.tenant_transaction(tenant_id) as connection:
            leaving = await rows.mark_leaving(connection, tenant_id, paths, now=self._clock.now())
        gone = []
        for path in leaving:
            try:
                await self.objects.delete(path)
            except ObjectStoreUnavailable as error:
                log.warning("object_not_removed", error=str(error))
                break
            gone.append(path)
        if gone:
            async with self.database.tenant_transaction(tenant_id) as connection:
                await rows.forget_objects(connection, tenant_id, gone)
        return len(gone)

    async def _write_object(self, prepared: PreparedSegment) -> None:
        segment = prepared.segment
        async with self.database.tenant_transaction(segment.tenant_id) as connection:
            await rows.note_object(
                connection,
                segment.tenant_id,
                segment.object_path,
                kind="segment",
                stored_bytes=segment.stored_bytes,
                now=self._clock.now(),
            )
        try:
            await self.objects.put(segment.object_path, prepared.sealed)
        except ObjectStoreUnavailable as error:
            raise StoreUnavailable("the object store cannot be reached just now") from error
        await asyncio.to_thread(self._compare, prepared, await self._sealed_bytes(segment))

    async def _write_row(self, connection: Connection, prepared: PreparedSegment) -> None:
        segment = prepared.segment
        await rows.add_payload(connection, segment.tenant_id, segment.segment_id, prepared.sealed)
        sealed = await rows.read_payload(connection, segment.tenant_id, segment.segment_id)
        await asyncio.to_thread(self._compare, prepared, sealed or b"")

    def _compare(self, prepared: PreparedSegment, sealed: bytes) -> None:
        try:
            prepared.verify(self._open(prepared.segment, prepared.key.secret, sealed))
        except (ValueError, columnar.SegmentDamaged) as error:
            raise self._damaged(prepared.segment, f"what was written reads back differently: {error}") from error

    def _decode(self, segment: Segment, secret: bytes, sealed: bytes, columns: Sequence[str] | None) -> pa.Table:
        payload = self._open(segment, secret, sealed)
        try:
            table = decode_records(segment.form, payload, columns)
        except columnar.SegmentDamaged as error:
            raise self._damaged(segment, f"it cannot be decoded: {error}") from error
        if table.num_rows != segment.record_count:
            raise self._damaged(segment, f"it has {table.num_rows} records in place of {segment.record_count}")
        return table

    def _open(self, segment: Segment, secret: bytes, sealed: bytes) -> bytes:
        if hashlib.sha256(sealed).digest() != segment.checksum:
            raise self._damaged(segment, "its bytes do not match their checksum")
        try:
            return unseal(secret, sealed, place=_place(segment))
        except SealBroken as error:
            raise self._damaged(segment, str(error)) from error

    async def _key_to_seal(self, dataset: Dataset | Segment) -> DataKey:
        try:
            return await self.keys.to_seal(dataset.tenant_id, dataset.account_id)
        except KeyDestroyed:
            # The account is being erased just now, and all this with it.
            raise SegmentsChanged(dataset.dataset_id) from None

    async def _secret(self, segment: Segment) -> bytes:
        try:
            return await self.keys.to_unseal(segment.tenant_id, segment.key_id)
        except KeyDestroyed:
            raise self._damaged(segment, "its key was destroyed") from None
        except KeyUnreadable:
            raise self._damaged(segment, "its key does not open with any master key") from None

    def _damaged(self, segment: Segment, why: str) -> IntegrityViolation | ArchiveCorruption:
        kind = ArchiveCorruption if segment.object_path else IntegrityViolation
        return kind(why, dataset_id=segment.dataset_id, segment_id=segment.segment_id)


def decode_records(form: CompressionForm, payload: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the records of an exact form. Raises columnar.SegmentDamaged."""
    if form is CompressionForm.LOSSLESS:
        return columnar.decode(payload, columns=columns)
    table = columnar.from_ipc(payload)
    if columns is None:
        return table
    return table.select(["time", *(name for name in table.column_names if name in set(columns) and name != "time")])


def statistics_of(table: pa.Table) -> dict[str, dict[str, float]]:
    """Return count, missing values, min, max, mean and standard deviation of each numeric column.

    Values that are not finite are left out.
    """
    statistics: dict[str, dict[str, float]] = {}
    for name in table.column_names:
        column = table.column(name)
        if name.startswith("_") or not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            continue
        values = column.cast(pa.float64(), safe=False)
        finite = values.filter(pc.fill_null(pc.is_finite(values), fill_value=False))
        entry: dict[str, float] = {"count": len(finite), "missing": column.null_count}
        if len(finite):
            bounds = pc.min_max(finite).as_py()
            entry |= {"min": bounds["min"], "max": bounds["max"]}
            entry |= {"mean": pc.mean(finite).as_py(), "std": pc.stddev(finite).as_py()}
        statistics[name] = entry
    return statistics


def new_segment_id(now: datetime) -> str:
    """Return a new id; later ones sort behind."""
    return f"seg_{int(now.timestamp() * 1000):011x}{secrets.token_hex(8)}"


def _sealed(
    dataset: Dataset | Segment,
    payload: bytes,
    *,
    key: DataKey,
    tier: StorageTier,
    form: CompressionForm,
    span: tuple[datetime, datetime],
    record_count: int,
    original_bytes: int,
    values_digest: bytes,
    codecs: Mapping[str, str],
    quality_score: float,
    facts: Mapping[str, Any],
    verify: Callable[[bytes], None],
    now: datetime,
) -> PreparedSegment:
    segment_id = new_segment_id(now)
    bare = Segment(
        tenant_id=dataset.tenant_id,
        segment_id=segment_id,
        dataset_id=dataset.dataset_id,
        account_id=dataset.account_id,
        data_type=dataset.data_type,
        tier=tier,
        form=form,
        start_time=span[0],
        end_time=span[1],
        record_count=record_count,
        stored_bytes=0,
        original_bytes=original_bytes,
        checksum=b"",
        values_digest=values_digest,
        key_id=key.key_id,
        # Nothing in a path tells whose it is.
        object_path=f"{dataset.tenant_id}/{segment_id[-2:]}/{segment_id}" if tier is StorageTier.COLD else "",
        codecs=dict(codecs),
        quality_score=quality_score,
        create_time=now,
    )
    sealed = seal(key.secret, payload, place=_place(bare))
    sealed_facts = seal(key.secret, json.dumps(facts).encode(), place=_place(bare) + "/facts")
    segment = replace(bare, stored_bytes=len(sealed), checksum=hashlib.sha256(sealed).digest(), facts=sealed_facts)
    return PreparedSegment(segment=segment, sealed=sealed, verify=verify, key=key)


def _same_records(form: CompressionForm, digest: bytes, record_count: int) -> Callable[[bytes], None]:
    def verify(payload: bytes) -> None:
        table = decode_records(form, payload)
        if table.num_rows != record_count:
            raise ValueError(f"{table.num_rows} records in place of {record_count}")
        if columnar.values_digest(table) != digest:
            raise ValueError("other values")

    return verify


def _same_bytes(digest: bytes) -> Callable[[bytes], None]:
    def verify(payload: bytes) -> None:
        if hashlib.sha256(payload).digest() != digest:
            raise ValueError("other bytes")

    return verify


def _place(segment: Segment) -> str:
    """Return what a seal is bound to: bytes moved to another segment do not open."""
    return f"{segment.tenant_id}/{segment.dataset_id}/{segment.segment_id}"


def _identity(segment: Segment) -> tuple[str, int, bytes]:
    return segment.segment_id, int(segment.state), segment.checksum


def _audit_detail(old: Sequence[Segment], new: Sequence[PreparedSegment]) -> dict[str, Any]:
    return {
        "removed_segments": len(old),
        "removed_records": sum(segment.record_count for segment in old),
        "removed_bytes": sum(segment.stored_bytes for segment in old),
        "written_segments": [prepared.segment.segment_id for prepared in new],
        "written_records": sum(prepared.segment.record_count for prepared in new),
        "written_bytes": sum(prepared.segment.stored_bytes for prepared in new),
    }
