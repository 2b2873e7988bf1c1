"""Compression, as callers ask for it."""

from __future__ import annotations

from datetime import datetime, timedelta

from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.lifecycle import CompressionForm, CompressionSettings, DataSelection, JobKind
from tallygate_server.errors import InvalidRequest
from tallygate_server.lifecycle.compression.handler import compression_request
from tallygate_server.lifecycle.jobs import LifecycleJob, LifecycleJobs, NewJob
from tallygate_server.lifecycle.lossy import LossySettingsInvalid, lossy_settings


class Compressions:
    """Asks for jobs that compress data."""

    def __init__(self, jobs: LifecycleJobs) -> None:
        """Submit to these jobs."""
        self._jobs = jobs

    async def compress(
        self,
        tenant_id: TenantId,
        selection: DataSelection,
        settings: CompressionSettings | None,
        *,
        validate_only: bool,
        actor: str,
        request_id: str,
        wait: timedelta | None = None,
        schedule_time: datetime | None = None,
    ) -> LifecycleJob:
        """Compress data now or at a time to come; settings None: as the policy of each sort of data says.

        With `validate_only` the effect is measured now. Raises TenantNotFound, InvalidRequest, RequestIdReused,
        Overloaded, StoreUnavailable.
        """
        if settings is not None and settings.form is CompressionForm.NONE:
            raise InvalidRequest.of("settings.form", "plain rows are no compression")
        if settings is not None and not settings.form.exact:
            try:
                lossy_settings(settings)
            except LossySettingsInvalid as error:
                raise InvalidRequest.of(f"settings.{error.field}", error.description) from error
        job = NewJob(
            kind=JobKind.COMPRESSION,
            tenant_id=tenant_id,
            account_id=selection.account_id,
            request=compression_request(selection, settings),
            validate_only=validate_only,
            actor=actor,
            request_id=request_id,
            schedule_time=None if validate_only else schedule_time,
        )
        return await self._jobs.submit(job, wait=wait)
