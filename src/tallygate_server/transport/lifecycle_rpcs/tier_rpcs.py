"""Archives, restores and checks."""

from __future__ import annotations

from typing import Any

from tallygate.v1 import data_lifecycle_service_pb2 as wire
from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.lifecycle import StorageTier
from tallygate_server.lifecycle.tiers import STAY_DEFAULT, IntegrityDepth
from tallygate_server.transport import convert
from tallygate_server.transport.lifecycle_rpcs.base import Context, LifecycleRpcs
from tallygate_server.transport.lifecycle_rpcs.job_convert import job_to_api
from tallygate_server.transport.lifecycle_rpcs.selection_convert import from_api_duration, from_api_selection


class TierRpcs(LifecycleRpcs):
    """Archives, restores and checks."""

    async def ArchiveData(self, request: wire.ArchiveDataRequest, _context: Context) -> wire.ArchiveDataResponse:
        """Move data to the cold tier."""
        job = await self._lifecycle.tiers.archive(
            TenantId(request.tenant_id),
            from_api_selection(request.selection),
            retention_days=request.retention_days,
            **_asked(request),
        )
        return wire.ArchiveDataResponse(job=job_to_api(job))

    async def RestoreData(self, request: wire.RestoreDataRequest, _context: Context) -> wire.RestoreDataResponse:
        """Move data back from the cold tier, for a while."""
        job = await self._lifecycle.tiers.restore(
            TenantId(request.tenant_id),
            from_api_selection(request.selection),
            target_tier=StorageTier(request.target_tier) if request.target_tier else StorageTier.WARM,
            stay=from_api_duration(request.stay) if request.HasField("stay") else STAY_DEFAULT,
            **_asked(request),
        )
        return wire.RestoreDataResponse(job=job_to_api(job))

    async def ValidateIntegrity(
        self, request: wire.ValidateIntegrityRequest, _context: Context
    ) -> wire.ValidateIntegrityResponse:
        """Compare what is stored with the manifest."""
        job = await self._lifecycle.tiers.validate(
            TenantId(request.tenant_id),
            from_api_selection(request.selection) if request.HasField("selection") else None,
            depth=IntegrityDepth(request.depth) if request.depth else IntegrityDepth.CHECKSUM,
            **_asked(request),
        )
        return wire.ValidateIntegrityResponse(job=job_to_api(job))


def _asked(request: Any) -> dict[str, Any]:
    """Return what every request for a job has."""
    return {
        "validate_only": request.validate_only,
        "actor": convert.actor_of(request),
        "request_id": request.request_id,
        "wait": from_api_duration(request.wait) if request.HasField("wait") else None,
    }
