"""Archiving, restoring and checking, as callers ask for them."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import DataSelection, JobKind, StorageTier
from tallygate_server.lifecycle.jobs import LifecycleJob, LifecycleJobs, NewJob
from tallygate_server.lifecycle.tiers.archiving import archive_request, restore_request
from tallygate_server.lifecycle.tiers.integrity import IntegrityDepth, integrity_request

STAY_DEFAULT: Final = timedelta(days=7)


class Tiers:
    """Asks for jobs that move and check data."""

    def __init__(self, jobs: LifecycleJobs) -> None:
        """Submit to these jobs."""
        self._jobs = jobs

    async def archive(
        self,
        tenant_id: TenantId,
        selection: DataSelection,
        *,
        retention_days: int,
        validate_only: bool,
        actor: str,
        request_id: str,
        wait: timedelta | None,
    ) -> LifecycleJob:
        """Move data to the cold tier."""
        job = NewJob(
            kind=JobKind.ARCHIVE,
            tenant_id=tenant_id,
            account_id=selection.account_id,
            request=archive_request(selection, retention_days=retention_days),
            validate_only=validate_only,
            actor=actor,
            request_id=request_id,
        )
        return await self._jobs.submit(job, wait=wait)

    async def restore(
        self,
        tenant_id: TenantId,
        selection: DataSelection,
        *,
        target_tier: StorageTier,
        stay: timedelta,
        validate_only: bool,
        actor: str,
        request_id: str,
        wait: timedelta | None,
    ) -> LifecycleJob:
        """Move data back from the cold tier, for a while."""
        job = NewJob(
            kind=JobKind.RESTORE,
            tenant_id=tenant_id,
            account_id=selection.account_id,
            request=restore_request(selection, target_tier=target_tier, stay=stay),
            validate_only=validate_only,
            actor=actor,
            request_id=request_id,
        )
        return await self._jobs.submit(job, wait=wait)

    async def validate(
        self,
        tenant_id: TenantId,
        selection: DataSelection | None,
        *,
        depth: IntegrityDepth,
        validate_only: bool,
        actor: str,
        request_id: str,
        wait: timedelta | None,
    ) -> LifecycleJob:
        """Compare what is stored with the manifest."""
        account_id: AccountId | None = selection.account_id if selection is not None else None
        job = NewJob(
            kind=JobKind.INTEGRITY,
            tenant_id=tenant_id,
            account_id=account_id,
            request=integrity_request(selection, depth=depth),
            validate_only=validate_only,
            actor=actor,
            request_id=request_id,
        )
        return await self._jobs.submit(job, wait=wait)
