"""Compresses, measures what that loses, and gives back what a form can give."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

from tallygate.v1 import data_lifecycle_service_pb2 as wire
from tallygate_server.domain.identifier import TenantId
from tallygate_server.lifecycle.compression import AnalysisDocument, AnalysisHeader
from tallygate_server.transport import convert
from tallygate_server.transport.lifecycle_rpcs import compression_convert
from tallygate_server.transport.lifecycle_rpcs.base import Context, LifecycleRpcs
from tallygate_server.transport.lifecycle_rpcs.job_convert import job_to_api
from tallygate_server.transport.lifecycle_rpcs.selection_convert import (
    from_api_duration,
    from_api_selection,
    from_api_settings,
)


class CompressionRpcs(LifecycleRpcs):
    """Compresses, measures what that loses, and gives back what a form can give."""

    async def CompressData(self, request: wire.CompressDataRequest, _context: Context) -> wire.CompressDataResponse:
        """Compress data now, as a job."""
        job = await self._lifecycle.compressions.compress(
            TenantId(request.tenant_id),
            from_api_selection(request.selection),
            from_api_settings(request.settings) if request.HasField("settings") else None,
            validate_only=request.validate_only,
            actor=convert.actor_of(request),
            request_id=request.request_id,
            wait=from_api_duration(request.wait) if request.HasField("wait") else None,
        )
        return wire.CompressDataResponse(job=job_to_api(job))

    async def ScheduleCompression(
        self, request: wire.ScheduleCompressionRequest, _context: Context
    ) -> wire.ScheduleCompressionResponse:
        """Plan to compress data at a time to come."""
        job = await self._lifecycle.compressions.compress(
            TenantId(request.tenant_id),
            from_api_selection(request.selection),
            from_api_settings(request.settings) if request.HasField("settings") else None,
            validate_only=request.validate_only,
            actor=convert.actor_of(request),
            request_id=request.request_id,
            schedule_time=convert.from_api_time(request.schedule_time, "schedule_time"),
        )
        return wire.ScheduleCompressionResponse(job=job_to_api(job))

    async def DecompressForAnalysis(
        self, request: wire.DecompressForAnalysisRequest, _context: Context
    ) -> AsyncIterator[wire.DecompressForAnalysisResponse]:
        """Send what the stored forms can and cannot give, and then what they give."""
        parts = self._lifecycle.analyses.analyse(compression_convert.from_api_analysis(request))
        answers: compression_convert.AnalysisAnswers | None = None
        async with aclosing(parts):
            async for part in parts:
                if isinstance(part, AnalysisHeader):
                    answers = compression_convert.AnalysisAnswers(request.format, part)
                    yield compression_convert.to_api_analysis_header(part)
                elif isinstance(part, AnalysisDocument):
                    yield await asyncio.to_thread(compression_convert.to_api_document, part)
                else:
                    assert answers is not None, "the header comes first"
                    for message in await asyncio.to_thread(answers.messages, part):
                        yield message
        for message in answers.rest() if answers is not None else ():
            yield message

    async def EvaluateCompressionImpact(
        self, request: wire.EvaluateCompressionImpactRequest, _context: Context
    ) -> wire.EvaluateCompressionImpactResponse:
        """Measure what a compression would lose."""
        found = await self._lifecycle.impacts.evaluate(compression_convert.from_api_impact(request))
        return compression_convert.to_api_impact(found)
