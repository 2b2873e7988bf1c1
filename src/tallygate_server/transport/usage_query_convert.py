"""Conversions of QueryUsage: the query, its rows, and the place where a page ends."""

from __future__ import annotations

import base64
import binascii
import json
from datetime import UTC, datetime, timedelta
from typing import Final, assert_never

from tallygate.v1 import period_pb2, usage_service_pb2
from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.usage_windows import WindowSize
from tallygate_server.errors import FieldViolation, PageTokenInvalid
from tallygate_server.rollups import QueriedRow, UsageAnswer, UsageQuery
from tallygate_server.storage.usage_sums import Position, Subject, group_digest
from tallygate_server.transport import convert, paging

POSITION_BYTES_MAX: Final = 640
"""Of a position in a page token, which has 1,000 characters in all; a longer group goes by its digest."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_WINDOW_SIZE: Final = convert.domain_enum(WindowSize, usage_service_pb2.WindowSize, "WINDOW_SIZE")


def from_api_query(request: usage_service_pb2.QueryUsageRequest, *, now: datetime) -> UsageQuery:
    """Convert a query and the page that is wanted of it."""
    subject, subject_key = _subject(request)
    position = paging.page_position(request, now=now)
    return UsageQuery(
        tenant_id=TenantId(request.tenant_id),
        subject=subject,
        subject_key=subject_key,
        start=convert.from_api_time(request.start_time, "start_time"),
        end=convert.from_api_optional_time(request, "end_time"),
        window_size=_WINDOW_SIZE.get(request.window_size),
        time_zone=request.time_zone,
        account_ids=tuple(request.account_ids),
        group_by=tuple(request.group_by),
        filters=tuple((each.dimension, tuple(each.values)) for each in request.filters),
        top_count=request.top_count,
        after=_from_text(position) if position else None,
        limit=paging.page_size_of(request.page_size),
    )


def to_api_answer(
    request: usage_service_pb2.QueryUsageRequest, answer: UsageAnswer, *, now: datetime
) -> usage_service_pb2.QueryUsageResponse:
    """Convert a page of rows."""
    return usage_service_pb2.QueryUsageResponse(
        rows=[_to_api_row(row) for row in answer.rows],
        next_page_token=(paging.page_token(request, _to_text(answer.next), now=now) if answer.next is not None else ""),
        total_quantity=answer.total_quantity,
        fresh_time=convert.to_api_instant(answer.fresh_time),
    )


def _subject(request: usage_service_pb2.QueryUsageRequest) -> tuple[Subject, str]:
    match request.WhichOneof("subject"):
        case "meter_key":
            return Subject.METER, request.meter_key
        case "feature_key":
            return Subject.FEATURE, request.feature_key
        case "ai_cost" | None:
            # Validation has refused a query without a subject.
            return Subject.AI_COST, ""
        case other:
            assert_never(other)


def _to_api_row(row: QueriedRow) -> usage_service_pb2.UsageRow:
    return usage_service_pb2.UsageRow(
        window=period_pb2.Period(
            start_time=convert.to_api_instant(row.window_start), end_time=convert.to_api_instant(row.window_end)
        ),
        group=row.group,
        quantity=row.quantity,
        decimal_quantity=row.decimal_quantity,
        event_count=row.event_count,
        rest=row.rest,
    )


def _to_text(position: Position) -> str:
    start_us = (position.window_start - _EPOCH) // _MICROSECOND
    text = json.dumps([start_us, position.rest, list(position.group)], ensure_ascii=False, separators=(",", ":"))
    if len(text.encode()) <= POSITION_BYTES_MAX:
        return text
    digest = base64.b64encode(group_digest(position.group)).decode()
    return json.dumps([start_us, position.rest, digest], separators=(",", ":"))


def _from_text(text: str) -> Position:
    # The token's digest says that it is ours; what is in it is looked at all the same.
    try:
        start_us, rest, group = json.loads(text)
        start = _EPOCH + int(start_us) * _MICROSECOND
        if isinstance(group, str):
            return Position(start, bool(rest), digest=base64.b64decode(group))
        return Position(start, bool(rest), [str(value) for value in group])
    except (ValueError, TypeError, OverflowError, binascii.Error) as error:
        raise PageTokenInvalid([FieldViolation("page_token", "is no page token")]) from error
