"""UsageService: converts, calls, converts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from google.protobuf.descriptor import ServiceDescriptor
from grpc import aio

from tallygate.v1 import usage_service_pb2
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.recording import RecordOutcome
from tallygate_server.transport import (
    convert,
    correction_convert,
    paging,
    recording_convert,
    reservation_convert,
    usage_query_convert,
)
from tallygate_server.transport.acceptance import accepts_increment
from tallygate_server.transport.fast_lane import Done, FastLane
from tallygate_server.transport.use_cases import (
    Metering,
    Now,
    ReservationUse,
    TenantUse,
    UsageCorrections,
    UsageEventQueries,
    UsageQueries,
    UsageRecording,
    UsageSumsUse,
)

SERVICE: Final[ServiceDescriptor] = usage_service_pb2.DESCRIPTOR.services_by_name["UsageService"]

_Context = aio.ServicerContext[Any, Any]
_BATCH_INCREMENT: Final = f"/{SERVICE.full_name}/BatchIncrement"
_RECORD_USAGE: Final = f"/{SERVICE.full_name}/RecordUsage"
EVENTS_PAGE_SIZE_DEFAULT: Final = 100


class UsageServicer:
    """Counts, and shows what was counted."""

    SERVICE: ClassVar[ServiceDescriptor] = SERVICE

    def __init__(
        self,
        metering: Metering,
        queries: UsageQueries,
        now: Now,
        *,
        tenants: TenantUse,
        recording: UsageRecording,
        events: UsageEventQueries,
        sums: UsageSumsUse,
        reservations: ReservationUse,
        corrections: UsageCorrections,
    ) -> None:
        self._metering = metering
        self._queries = queries
        self._now = now
        self._tenants = tenants
        self._recording = recording
        self._events = events
        self._event_rules = recording_convert.event_rules()
        self._sums = sums
        self._reservations = reservations
        self._corrections = corrections

    def fast_lanes(self) -> Sequence[FastLane]:
        """Return how the native transport answers the hot calls."""
        metering, now = self._metering, self._now

        def start(request: usage_service_pb2.IncrementRequest, done: Done) -> None:
            metering.increment_soon(convert.from_api_increment(request, now), done)

        return [
            FastLane(
                path=f"/{SERVICE.full_name}/Increment",
                request=usage_service_pb2.IncrementRequest,
                accept=accepts_increment,
                start=start,
                encode=convert.encode_increment,
            )
        ]

    async def Increment(
        self, request: usage_service_pb2.IncrementRequest, _context: _Context
    ) -> usage_service_pb2.IncrementResponse:
        """Count one increment."""
        increment = convert.from_api_increment(request, self._now)
        return convert.to_api_increment(await self._metering.increment(increment))

    async def BatchIncrement(
        self, request: usage_service_pb2.BatchIncrementRequest, _context: _Context
    ) -> usage_service_pb2.BatchIncrementResponse:
        """Count many increments, each alone or all together."""
        increments = convert.from_api_increments(request, self._now)
        outcomes = await self._metering.increment_many(increments, atomic=request.atomic)
        return usage_service_pb2.BatchIncrementResponse(
            results=[convert.to_api_increment_result(outcome, method=_BATCH_INCREMENT) for outcome in outcomes]
        )

    async def Reserve(
        self, request: usage_service_pb2.ReserveRequest, _context: _Context
    ) -> usage_service_pb2.ReserveResponse:
        """Take quantity from a limit for a while."""
        wish = reservation_convert.from_api_reserve(request, self._now)
        return reservation_convert.to_api_reserve(await self._reservations.reserve(wish))

    async def CommitReservation(
        self, request: usage_service_pb2.CommitReservationRequest, _context: _Context
    ) -> usage_service_pb2.CommitReservationResponse:
        """Count the actual quantity of a reservation."""
        wish = reservation_convert.from_api_commit(request)
        return reservation_convert.to_api_commit(await self._reservations.commit(wish))

    async def ReleaseReservation(
        self, request: usage_service_pb2.ReleaseReservationRequest, _context: _Context
    ) -> usage_service_pb2.ReleaseReservationResponse:
        """Give a reservation back."""
        answer = await self._reservations.release(reservation_convert.from_api_release(request))
        return usage_service_pb2.ReleaseReservationResponse(
            reservation=reservation_convert.to_api_reservation(answer.reservation),
            remaining_quantity=answer.remaining_quantity,
        )

    async def ExtendReservation(
        self, request: usage_service_pb2.ExtendReservationRequest, _context: _Context
    ) -> usage_service_pb2.ExtendReservationResponse:
        """Set a new time to live for a reservation."""
        answer = await self._reservations.extend(reservation_convert.from_api_extend(request))
        return usage_service_pb2.ExtendReservationResponse(
            reservation=reservation_convert.to_api_reservation(answer.reservation)
        )

    async def ListReservations(
        self, request: usage_service_pb2.ListReservationsRequest, _context: _Context
    ) -> usage_service_pb2.ListReservationsResponse:
        """List the reservations of an account."""
        now = self._now()
        size = paging.page_size_of(request.page_size)
        found = await self._reservations.list(
            TenantId(request.tenant_id),
            AccountId(request.account_id),
            feature_key=request.feature_key,
            state=reservation_convert.from_api_state(request.state),
            before_reservation_id=paging.page_position(request, now=now),
            limit=size + 1,
        )
        page, more = found[:size], len(found) > size
        return usage_service_pb2.ListReservationsResponse(
            reservations=[reservation_convert.to_api_reservation(each) for each in page],
            next_page_token=paging.page_token(request, page[-1].reservation_id, now=now) if more else "",
        )

    async def ReverseUsage(
        self, request: usage_service_pb2.ReverseUsageRequest, _context: _Context
    ) -> usage_service_pb2.ReverseUsageResponse:
        """Take back what a line of the ledger counted."""
        answer = await self._corrections.reverse(correction_convert.from_api_reversal(request))
        return correction_convert.to_api_reversal(request, answer)

    async def GetUsage(
        self, request: usage_service_pb2.GetUsageRequest, _context: _Context
    ) -> usage_service_pb2.GetUsageResponse:
        """Return where an account stands with one feature."""
        usage = await self._queries.usage(
            TenantId(request.tenant_id), AccountId(request.account_id), FeatureKey(request.feature_key), None
        )
        convert.demand_revision(request.min_revision, usage.revision)
        return usage_service_pb2.GetUsageResponse(quota=convert.to_api_quota(usage), revision=usage.revision)

    async def GetQuota(
        self, request: usage_service_pb2.GetQuotaRequest, _context: _Context
    ) -> usage_service_pb2.GetQuotaResponse:
        """Return where an account stands with everything that is counted."""
        quota = await self._queries.quota(TenantId(request.tenant_id), AccountId(request.account_id))
        convert.demand_revision(request.min_revision, quota.revision)
        tenant = await self._tenants.get(TenantId(request.tenant_id))
        return usage_service_pb2.GetQuotaResponse(
            quotas=[convert.to_api_quota(usage) for usage in quota.usages],
            plan_key=quota.plan_key,
            next_reset_time=convert.to_api_time(
                min((usage.period_end for usage in quota.usages if usage.period_end is not None), default=None)
            ),
            revision=quota.revision,
            upgrade_url=tenant.settings.upgrade_link(request.account_id, ""),
        )

    async def QueryUsage(
        self, request: usage_service_pb2.QueryUsageRequest, _context: _Context
    ) -> usage_service_pb2.QueryUsageResponse:
        """Sum up usage in windows of time, by group."""
        now = self._now()
        answer = await self._sums.query(usage_query_convert.from_api_query(request, now=now))
        return usage_query_convert.to_api_answer(request, answer, now=now)

    async def ListUsageEntries(
        self, request: usage_service_pb2.ListUsageEntriesRequest, _context: _Context
    ) -> usage_service_pb2.ListUsageEntriesResponse:
        """List lines of an account's ledger."""
        now = self._now()
        size = paging.page_size_of(request.page_size)
        entries = await self._queries.entries(
            TenantId(request.tenant_id),
            AccountId(request.account_id),
            feature_key=request.feature_key,
            start=convert.from_api_optional_time(request, "start_time"),
            end=convert.from_api_optional_time(request, "end_time"),
            kind=request.kind,
            request_id=request.request_id,
            before_entry_id=convert.entry_id_of(paging.page_position(request, now=now)),
            limit=size + 1,
        )
        page, more = entries[:size], len(entries) > size
        return usage_service_pb2.ListUsageEntriesResponse(
            entries=[
                convert.to_api_usage_entry(entry, tenant_id=request.tenant_id, account_id=request.account_id)
                for entry in page
            ],
            next_page_token=paging.page_token(request, str(page[-1].entry_id), now=now) if more else "",
        )

    async def RecordUsage(
        self, request: usage_service_pb2.RecordUsageRequest, _context: _Context
    ) -> usage_service_pb2.RecordUsageResponse:
        """Record events, each alone."""
        rules = self._event_rules
        results = await self._recording.record(
            TenantId(request.tenant_id),
            [
                recording_convert.from_api_event(event, rules, path=f"events[{index}]")
                for index, event in enumerate(request.events)
            ],
        )
        outcomes = Counter(result.outcome for result in results)
        return usage_service_pb2.RecordUsageResponse(
            results=[
                recording_convert.to_api_record_result(event, result, method=_RECORD_USAGE)
                for event, result in zip(request.events, results, strict=True)
            ],
            recorded_count=outcomes[RecordOutcome.RECORDED],
            duplicate_count=outcomes[RecordOutcome.DUPLICATE],
            refused_count=outcomes[RecordOutcome.REFUSED],
        )

    async def ListUsageEvents(
        self, request: usage_service_pb2.ListUsageEventsRequest, _context: _Context
    ) -> usage_service_pb2.ListUsageEventsResponse:
        """List events as they were recorded."""
        now = self._now()
        size = paging.page_size_of(request.page_size or EVENTS_PAGE_SIZE_DEFAULT)
        rows = await self._events.page(
            TenantId(request.tenant_id),
            account_id=request.account_id,
            event_type=request.event_type,
            source=request.source,
            event_id=request.event_id,
            start=convert.from_api_optional_time(request, "start_time"),
            end=convert.from_api_optional_time(request, "end_time"),
            before_event_key=convert.entry_id_of(paging.page_position(request, now=now)),
            limit=size + 1,
        )
        page, more = rows[:size], len(rows) > size
        return usage_service_pb2.ListUsageEventsResponse(
            events=[recording_convert.to_api_recorded_event(row) for row in page],
            next_page_token=paging.page_token(request, str(page[-1].event_key), now=now) if more else "",
        )
