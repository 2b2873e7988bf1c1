"""Puts, queries and lists records."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime

from tallygate.v1 import data_lifecycle_service_pb2 as wire
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import Segment, SegmentState
from tallygate_server.lifecycle.records import RecordsHeader, RecordsTotals
from tallygate_server.transport import paging
from tallygate_server.transport.lifecycle_rpcs import record_convert, selection_convert
from tallygate_server.transport.lifecycle_rpcs.base import Context, LifecycleRpcs


class RecordRpcs(LifecycleRpcs):
    """Puts, queries and lists records."""

    async def PutRecords(self, request: wire.PutRecordsRequest, _context: Context) -> wire.PutRecordsResponse:
        """Put all records, or none."""
        wanted = await asyncio.to_thread(record_convert.from_api_records, request)
        return record_convert.to_api_put(await self._lifecycle.records.put(wanted))

    async def QueryRecords(
        self, request: wire.QueryRecordsRequest, _context: Context
    ) -> AsyncGenerator[wire.QueryRecordsResponse]:
        """Send how exact the answer is, the records by time, and the sums."""
        parts = self._lifecycle.record_queries.query(record_convert.from_api_query(request))
        answers: record_convert.RecordAnswers | None = None
        async with aclosing(parts):
            async for part in parts:
                if isinstance(part, RecordsHeader):
                    answers = record_convert.answers_of(part, request.format)
                    yield record_convert.to_api_header(part)
                    continue
                assert answers is not None, "the header comes first"
                if isinstance(part, RecordsTotals):
                    for message in answers.rest():
                        yield message
                    yield record_convert.to_api_totals(part)
                else:
                    for message in await asyncio.to_thread(answers.messages, part):
                        yield message

    async def ListDatasets(self, request: wire.ListDatasetsRequest, _context: Context) -> wire.ListDatasetsResponse:
        """List datasets by account and sort of data."""
        now = self._now()
        size = paging.page_size_of(request.page_size)
        account_id, _, data_type = paging.page_position(request, now=now).partition("\n")
        found = await self._lifecycle.record_lists.datasets(
            TenantId(request.tenant_id),
            account_id=AccountId(request.account_id) if request.account_id else None,
            data_type=request.data_type,
            after=(account_id, data_type) if data_type else None,
            limit=size + 1,
        )
        page, more = found[:size], len(found) > size
        position = f"{page[-1].account_id}\n{page[-1].data_type}" if more else ""
        return wire.ListDatasetsResponse(
            datasets=[record_convert.to_api_dataset(view) for view in page],
            next_page_token=paging.page_token(request, position, now=now) if more else "",
        )

    async def ListDataSegments(
        self, request: wire.ListDataSegmentsRequest, _context: Context
    ) -> wire.ListDataSegmentsResponse:
        """List segments by span."""
        now = self._now()
        size = paging.page_size_of(request.page_size)
        position = paging.page_position(request, now=now)
        found = await self._lifecycle.record_lists.segments(
            TenantId(request.tenant_id),
            selection_convert.from_api_selection(request.selection),
            state=SegmentState(request.state) if request.state else None,
            after=_segment_position(position) if position else None,
            limit=size + 1,
        )
        page, more = found[:size], len(found) > size
        return wire.ListDataSegmentsResponse(
            segments=[record_convert.to_api_segment(segment) for segment in page],
            next_page_token=paging.page_token(request, _position_of(page[-1]), now=now) if more else "",
        )


def _position_of(segment: Segment) -> str:
    return f"{segment.start_time.isoformat()} {segment.segment_id}"


def _segment_position(position: str) -> tuple[datetime, str]:
    start_time, _, segment_id = position.partition(" ")
    return datetime.fromisoformat(start_time), segment_id
