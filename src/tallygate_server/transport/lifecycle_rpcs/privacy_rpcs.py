"""Exports, erases, and keeps keys."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from tallygate.v1 import data_lifecycle_service_pb2 as wire
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.privacy.erasure import WantedErasure
from tallygate_server.privacy.export import WantedExport
from tallygate_server.privacy.key_rotation import WantedRotation
from tallygate_server.transport import convert
from tallygate_server.transport.lifecycle_rpcs import privacy_convert
from tallygate_server.transport.lifecycle_rpcs.base import Context, LifecycleRpcs
from tallygate_server.transport.lifecycle_rpcs.job_convert import job_to_api
from tallygate_server.transport.lifecycle_rpcs.selection_convert import from_api_duration


class PrivacyRpcs(LifecycleRpcs):
    """Exports, erases, and keeps keys."""

    async def ExportAccountData(
        self, request: wire.ExportAccountDataRequest, _context: Context
    ) -> wire.ExportAccountDataResponse:
        """Export everything that is held on an account."""
        wanted = WantedExport(
            tenant_id=TenantId(request.tenant_id),
            account_id=AccountId(request.account_id),
            exclude_records=request.exclude_records,
            request_id=request.request_id,
            actor=convert.actor_of(request),
        )
        wait = from_api_duration(request.wait) if request.HasField("wait") else None
        job = await self._lifecycle.privacy.exports.submit(wanted, wait=wait)
        return wire.ExportAccountDataResponse(job=job_to_api(job))

    async def DownloadExport(
        self, request: wire.DownloadExportRequest, _context: Context
    ) -> AsyncIterator[wire.DownloadExportResponse]:
        """Send the archive of an export, from any byte on."""
        parts = self._lifecycle.privacy.exports.download(
            TenantId(request.tenant_id),
            request.job_id,
            offset_bytes=request.offset_bytes,
            actor=convert.ACTOR_DEFAULT,
        )
        async with aclosing(parts):
            async for part in parts:
                yield wire.DownloadExportResponse(
                    offset_bytes=part.offset_bytes, content=part.content, total_bytes=part.total_bytes
                )

    async def EraseAccountData(
        self, request: wire.EraseAccountDataRequest, _context: Context
    ) -> wire.EraseAccountDataResponse:
        """Erase an account, or tell what that would do."""
        wanted = WantedErasure(
            tenant_id=TenantId(request.tenant_id),
            account_id=AccountId(request.account_id),
            reason_text=request.reason_text,
            validate_only=request.validate_only,
            force=request.force,
            request_id=request.request_id,
            actor=convert.actor_of(request),
        )
        wait = from_api_duration(request.wait) if request.HasField("wait") else None
        job = await self._lifecycle.privacy.erasures.submit(wanted, wait=wait)
        return wire.EraseAccountDataResponse(job=job_to_api(job))

    async def GetErasureReceipt(
        self, request: wire.GetErasureReceiptRequest, _context: Context
    ) -> wire.GetErasureReceiptResponse:
        """Get the receipt of an erasure."""
        document = await self._lifecycle.privacy.receipts.get(TenantId(request.tenant_id), request.receipt_id)
        return wire.GetErasureReceiptResponse(receipt=privacy_convert.to_api_receipt(document))

    async def VerifyErasureReceipt(
        self, request: wire.VerifyErasureReceiptRequest, _context: Context
    ) -> wire.VerifyErasureReceiptResponse:
        """Tell whether a receipt is genuine, and still true."""
        receipt, unchanged = privacy_convert.from_api_receipt(request.receipt)
        found = await self._lifecycle.privacy.verifications.verify(
            receipt, unchanged=unchanged, account_id=AccountId(request.account_id) if request.account_id else None
        )
        return wire.VerifyErasureReceiptResponse(
            signature_valid=found.signature_valid,
            account_matches=found.account_matches,
            still_erased=found.still_erased,
            explanation=found.explanation,
        )

    async def RotateDataKeys(
        self, request: wire.RotateDataKeysRequest, _context: Context
    ) -> wire.RotateDataKeysResponse:
        """Wrap data keys anew, and seal segments anew when asked."""
        wanted = WantedRotation(
            tenant_id=TenantId(request.tenant_id),
            account_id=AccountId(request.account_id) if request.account_id else None,
            reencrypt=request.reencrypt,
            validate_only=request.validate_only,
            request_id=request.request_id,
            actor=convert.actor_of(request),
        )
        job = await self._lifecycle.privacy.key_rotations.submit(wanted)
        return wire.RotateDataKeysResponse(job=job_to_api(job))
