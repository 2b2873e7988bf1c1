"""Rotates keys: wraps data keys with the present master key, and where asked seals everything with new data keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

import structlog

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import DataSelection, JobKind, Segment, SegmentState
from tallygate_server.domain.lifecycle_job import LifecycleJob, NewJob
from tallygate_server.errors import AccountNotFound, ArchiveCorruption, IntegrityViolation, SegmentsChanged
from tallygate_server.lifecycle.jobs import JobControl, LifecycleJobs
from tallygate_server.lifecycle.keys import DataKey, DataKeys, KeyDestroyed, KeyUnreadable
from tallygate_server.lifecycle.segments import SegmentStore
from tallygate_server.service import Service
from tallygate_server.storage.accounts import account_exists
from tallygate_server.storage.audit import add_audit_entry
from tallygate_server.storage.data_keys import (
    KeyState,
    announce_destroyed,
    key_in_use,
    lock_key,
    read_keys,
    set_key_state,
)
from tallygate_server.storage.data_segments import read_segments
from tallygate_server.storage.engine import Database

log = structlog.get_logger(__name__)

ATTEMPTS_MAX: Final = 3
"""Times that a segment is sealed anew while others keep changing it; the next rotation finds it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedRotation:
    """A rotation that is asked for."""

    tenant_id: TenantId
    account_id: AccountId | None = None
    """None: all accounts, and the tenant's own key."""
    reencrypt: bool = False
    validate_only: bool = False
    request_id: str = ""
    actor: str = ""


class KeyRotations:
    """Asks for rotations, and carries them out."""

    def __init__(
        self,
        database: Database,
        service: Service,
        *,
        jobs: LifecycleJobs,
        segments: SegmentStore,
        keys: DataKeys,
        clock: Clock,
    ) -> None:
        """Use a database with the lifecycle's role."""
        self._database = database
        self._service = service
        self._jobs = jobs
        self._segments = segments
        self._keys = keys
        self._clock = clock

    async def submit(self, wanted: WantedRotation, *, wait: timedelta | None = None) -> LifecycleJob:
        """Ask for a rotation. Raises AccountNotFound, and what asking for any job raises."""
        await self._service.tenants.get(wanted.tenant_id)
        if wanted.account_id is not None:
            async with self._database.tenant_transaction(wanted.tenant_id) as connection:
                if not await account_exists(connection, wanted.tenant_id, wanted.account_id):
                    raise AccountNotFound(wanted.account_id)
        job = NewJob(
            kind=JobKind.KEY_ROTATION,
            tenant_id=wanted.tenant_id,
            account_id=wanted.account_id,
            request={"reencrypt": wanted.reencrypt},
            validate_only=wanted.validate_only,
            actor=wanted.actor,
            request_id=wanted.request_id,
        )
        return await self._jobs.submit(job, wait)

    async def run(self, job: LifecycleJob, control: JobControl) -> dict[str, Any]:
        """Rotate account by account; what was done before a crash is found done."""
        async with self._database.tenant_transaction(job.tenant_id) as connection:
            rows = await read_keys(connection, job.tenant_id, job.account_id)
        accounts = sorted({row.account_id for row in rows})
        checkpoint: dict[str, Any] = {"wrapped": 0, "segments": 0, "done": [], "retired": []} | control.checkpoint
        for number, account_id in enumerate(accounts):
            if account_id in checkpoint["done"]:
                continue
            key_ids = [row.key_id for row in rows if row.account_id == account_id]
            checkpoint["wrapped"] += await self._wrap(job, key_ids)
            if job.request.get("reencrypt"):
                if not job.validate_only and account_id not in checkpoint["retired"]:
                    await self._keys.retire(job.tenant_id, account_id)
                    checkpoint["retired"] = [account_id]
                    await control.report(
                        done=number, total=len(accounts), phase="sealing", checkpoint=checkpoint, at_once=True
                    )
                checkpoint["segments"] += await self._reencrypt(job, account_id, control, number, len(accounts))
            checkpoint["done"] = [*checkpoint["done"], account_id]
            await control.report(done=number + 1, total=len(accounts), phase="wrapping", checkpoint=checkpoint)
        report = {"wrapped_key_count": checkpoint["wrapped"], "segment_count": checkpoint["segments"]}
        if not job.validate_only:
            async with self._database.tenant_transaction(job.tenant_id) as connection:
                await add_audit_entry(
                    connection,
                    job.tenant_id,
                    actor=job.actor,
                    action="data.keys_rotated",
                    subject=f"account:{job.account_id}" if job.account_id else f"tenant:{job.tenant_id}",
                    detail=report,
                )
        return report

    async def _wrap(self, job: LifecycleJob, key_ids: Sequence[str]) -> int:
        """Wrap keys anew that an older master key wraps; return how many."""
        count, store = 0, self._keys.store
        for key_id in key_ids:
            try:
                if await store.wrapped_with(job.tenant_id, key_id) == store.master_keys.current_id:
                    continue
                if job.validate_only:
                    count += 1
                    continue
                async with self._database.tenant_transaction(job.tenant_id) as connection:
                    # Whoever destroys a key says so in its row first: one that is destroyed never comes back.
                    row = await lock_key(connection, job.tenant_id, key_id)
                    if row is None or row.state is KeyState.DESTROYED:
                        continue
                    await store.write(job.tenant_id, key_id, await store.read(job.tenant_id, key_id))
            except (KeyDestroyed, KeyUnreadable) as error:
                log.warning("key_not_wrapped", error=type(error).__name__)
                continue
            count += 1
        return count

    async def _reencrypt(
        self, job: LifecycleJob, account_id: AccountId, control: JobControl, number: int, total: int
    ) -> int:
        """Seal an account's segments with its new key, then destroy old keys that seal nothing more."""
        key = None if job.validate_only else await self._keys.to_seal(job.tenant_id, account_id)
        selection = DataSelection(account_id=account_id)
        async with self._database.tenant_transaction(job.tenant_id) as connection:
            segments = await read_segments(connection, job.tenant_id, selection, state=None)
        count = 0
        for segment in segments:
            if key is None:
                count += segment.state is SegmentState.LIVE
                continue
            if segment.key_id != key.key_id and await self._seal_anew(segment, key, job.actor):
                count += 1
                await control.report(done=number, total=total, phase="sealing", written_bytes=segment.stored_bytes)
        if key is not None:
            await self._destroy_unused(job.tenant_id, account_id)
        return count

    async def _seal_anew(self, segment: Segment, key: DataKey, actor: str) -> bool:
        """Put a segment sealed with the new key in the place of one; False where it is gone or damaged."""
        if segment.state is not SegmentState.LIVE:
            return False
        try:
            prepared = await self._segments.prepare_copy(segment, tier=segment.tier, key=key)
            kept = replace(
                prepared.segment,
                retention_end_time=segment.retention_end_time,
                stay_end_time=segment.stay_end_time,
            )
            await self._segments.replace(
                [segment], [replace(prepared, segment=kept)], actor=actor, action="data.resealed"
            )
        except (SegmentsChanged, IntegrityViolation, ArchiveCorruption):
            # Moved or removed meanwhile, or damaged: the old key stays as long as anything is sealed with it.
            return False
        return True

    async def _destroy_unused(self, tenant_id: TenantId, account_id: AccountId) -> None:
        """Destroy retired keys of an account that nothing is sealed with any more."""
        async with self._database.tenant_transaction(tenant_id) as connection:
            rows = await read_keys(connection, tenant_id, account_id)
        for row in rows:
            if row.state is not KeyState.RETIRED:
                continue
            async with self._database.tenant_transaction(tenant_id) as connection:
                present = await lock_key(connection, tenant_id, row.key_id)
                if present is None or present.state is not KeyState.RETIRED:
                    continue
                if await key_in_use(connection, present):
                    continue
                await set_key_state(connection, tenant_id, row.key_id, KeyState.DESTROYED, now=self._clock.now())
                await announce_destroyed(connection, tenant_id, row.key_id)
            await self._keys.store.destroy(tenant_id, row.key_id)
            self._keys.forget(tenant_id, row.key_id)
