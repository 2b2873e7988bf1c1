"""Use cases in memory that answer as told: enough to test the edge without what is behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tallygate_server.corrections import Correction, CorrectionAnswer, Reversal, ReversalAnswer
from tallygate_server.domain.ai_cost import AiCost
from tallygate_server.domain.call import Check, CheckAnswer, Increment, IncrementAnswer
from tallygate_server.domain.catalog import FeatureKind, TenantSettings
from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.domain.period import Period, PeriodKind
from tallygate_server.domain.reservation import Reservation, ReservationState, Settlement
from tallygate_server.domain.usage_event import UsageEvent
from tallygate_server.errors import EntryNotFound, FeatureNotFound, TallygateError
from tallygate_server.recording import RecordOutcome, RecordResult
from tallygate_server.reservations import (
    Commit,
    CommitAnswer,
    Extend,
    ExtendAnswer,
    Release,
    ReleaseAnswer,
    Reserve,
    ReserveAnswer,
)
from tallygate_server.rollups import UsageAnswer, UsageQuery
from tallygate_server.storage.usage_events import UsageEventRow
from tallygate_server.tenants import Tenant
from tallygate_server.transport.entitlement_servicer import EntitlementServicer
from tallygate_server.transport.usage_servicer import UsageServicer
from tallygate_server.transport.use_cases import AccessChecks
from tallygate_server.usage_queries import AccountQuota, FeatureUsage, UsageEntry

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
MIDNIGHT = datetime(2026, 11, 21, tzinfo=UTC)


def an_answer(**changes: object) -> CheckAnswer:
    """Build the answer of a check on a daily limit of ten."""
    answer = CheckAnswer(
        reason=Reason.OK,
        revision=7,
        feature_kind=FeatureKind.COUNTER,
        limit_quantity=10,
        used_quantity=3,
        held_quantity=1,
        reset_time=MIDNIGHT,
        plan_key="free",
        cache_ttl_ms=1_500,
    )
    for name, value in changes.items():
        setattr(answer, name, value)
    return answer


class Scripted:
    """Where a call's outcome comes from: by account, else by default; a callable may also wait or raise."""

    def __init__(self) -> None:
        self.gate: asyncio.Event | None = None
        """Set: calls of `account held` wait for it."""
        self.errors: dict[str, BaseException] = {}
        self.waiting = 0
        self.cancelled = 0

    async def wait_if_held(self, account_id: str) -> None:
        """Wait at the gate, for accounts whose id begins with `held`."""
        if account_id.startswith("held") and self.gate is not None:
            self.waiting += 1
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            finally:
                self.waiting -= 1

    def raise_if_scripted(self, account_id: str) -> None:
        """Raise what was scripted for the account."""
        error = self.errors.get(account_id)
        if error is not None:
            raise error


def _soon(coroutine: asyncio.Future[object], done: Callable[[object], None]) -> None:
    def finish(future: asyncio.Future[object]) -> None:
        error = future.exception()
        done(future.result() if error is None else error)

    coroutine.add_done_callback(finish)


class FakeChecks(Scripted):
    """AccessChecks in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = an_answer()
        self.checks: list[Check] = []
        self._tasks: set[asyncio.Future[object]] = set()

    def check_soon(self, check: Check, done: Callable[[CheckAnswer | TallygateError], None]) -> None:
        """Answer through a task, as the real thing answers from a later tick."""
        task: asyncio.Future[object] = asyncio.ensure_future(self.check(check))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        _soon(task, done)  # type: ignore[arg-type]

    async def check(self, check: Check) -> CheckAnswer:
        """Answer as scripted."""
        self.checks.append(check)
        await self.wait_if_held(check.account_id)
        self.raise_if_scripted(check.account_id)
        return self.answer

    async def check_many(self, checks: Sequence[Check]) -> list[CheckAnswer | TallygateError]:
        """Answer each as scripted."""
        outcomes: list[CheckAnswer | TallygateError] = []
        for check in checks:
            try:
                outcomes.append(await self.check(check))
            except TallygateError as error:
                outcomes.append(error)
        return outcomes

    async def list_entitlements(self, _tenant_id: TenantId, account_id: AccountId) -> list[tuple[str, CheckAnswer]]:
        """Answer with five features."""
        self.raise_if_scripted(account_id)
        return [(f"feature_{index}", self.answer) for index in range(5)]


class FakeRecording(Scripted):
    """UsageRecording in memory: records everything that breaks no rule, once, and lists it."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded: list[UsageEvent] = []
        self.pages: list[tuple[object, ...]] = []

    async def record(self, _tenant_id: TenantId, events: Sequence[UsageEvent | TallygateError]) -> list[RecordResult]:
        """Record what is new."""
        results = []
        for event in events:
            if isinstance(event, TallygateError):
                results.append(RecordResult(outcome=RecordOutcome.REFUSED, error=event))
                continue
            await self.wait_if_held(event.account_id)
            self.raise_if_scripted(event.account_id)
            known = any((each.source, each.event_id) == (event.source, event.event_id) for each in self.recorded)
            self.recorded.append(event)
            outcome = RecordOutcome.DUPLICATE if known else RecordOutcome.RECORDED
            results.append(RecordResult(outcome=outcome, meter_keys=("calls",), cost=AiCost(450_000, "USD")))
        return results

    async def page(
        self,
        tenant_id: TenantId,
        *,
        account_id: str,
        event_type: str,
        source: str,
        event_id: str,
        start: datetime | None,
        end: datetime | None,
        before_event_key: int | None,
        limit: int,
    ) -> list[UsageEventRow]:
        """Return what was recorded, newest first."""
        self.pages.append((tenant_id, account_id, event_type, source, event_id, start, end))
        rows = [
            UsageEventRow(
                account_id=event.account_id,
                event_key=index,
                recorded_time=NOW,
                source=event.source,
                event_id=event.event_id,
                type=event.type,
                event_time=event.time or NOW,
                data=event.data,
                ai=asdict(event.ai) if event.ai is not None else None,
                client=asdict(event.client) if event.client is not None else None,
                readings=[{"meter": "calls", "value": 1, "dimensions": {}}],
                cost_nanos=450_000,
                cost_currency_code="USD",
            )
            for index, event in enumerate(self.recorded, 1)
        ]
        older = [row for row in rows if before_event_key is None or row.event_key < before_event_key]
        return older[::-1][:limit]


class FakeMetering(Scripted):
    """Metering in memory: counts for real, per account and feature, against one limit."""

    def __init__(self, limit: int = 1_000_000) -> None:
        super().__init__()
        self.limit = limit
        self.used: dict[tuple[str, str, str], int] = {}
        self.increments: list[Increment] = []
        self._tasks: set[asyncio.Future[object]] = set()

    def increment_soon(self, increment: Increment, done: Callable[[IncrementAnswer | TallygateError], None]) -> None:
        """Count through a task."""
        task: asyncio.Future[object] = asyncio.ensure_future(self.increment(increment))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        _soon(task, done)  # type: ignore[arg-type]

    async def increment(self, increment: Increment) -> IncrementAnswer:
        """Count if the limit allows."""
        self.increments.append(increment)
        await self.wait_if_held(increment.account_id)
        self.raise_if_scripted(increment.account_id)
        key = (increment.tenant_id, increment.account_id, increment.feature_key)
        used = self.used.get(key, 0)
        fits = used + increment.quantity <= self.limit
        if fits:
            used = self.used[key] = used + increment.quantity
        return IncrementAnswer(
            reason=Reason.OK if fits else Reason.EXHAUSTED,
            revision=7,
            feature_kind=FeatureKind.COUNTER,
            limit_quantity=self.limit,
            used_quantity=used,
            reset_time=MIDNIGHT,
            plan_key="free",
            entry_id=len(self.increments) if fits else 0,
        )

    async def increment_many(
        self, increments: Sequence[Increment], *, atomic: bool
    ) -> list[IncrementAnswer | TallygateError]:
        """Count each, or raise the first error of an atomic batch."""
        outcomes: list[IncrementAnswer | TallygateError] = []
        for increment in increments:
            try:
                outcomes.append(await self.increment(increment))
            except TallygateError as error:
                if atomic:
                    raise
                outcomes.append(error)
        return outcomes


def a_usage(feature_key: str = "text_rewrite", *, feature_kind: FeatureKind = FeatureKind.COUNTER) -> FeatureUsage:
    """Describe a daily counter, or a gauge."""
    counter = feature_kind is FeatureKind.COUNTER
    return FeatureUsage(
        feature_key=feature_key,
        feature_kind=feature_kind,
        limit_quantity=10,
        used_quantity=3,
        held_quantity=1,
        period_kind=PeriodKind.DAY if counter else PeriodKind.LIFETIME,
        period_start=datetime(2026, 11, 20, tzinfo=UTC),
        period_end=MIDNIGHT if counter else None,
        threshold_percent=0,
        plan_key="free",
        revision=7,
        reason=Reason.OK,
    )


def an_entry(entry_id: int) -> UsageEntry:
    """Describe a line of the ledger."""
    return UsageEntry(
        entry_id=entry_id,
        feature_key="text_rewrite",
        quantity=1,
        used_after=entry_id,
        limit_quantity=10,
        period_kind=PeriodKind.DAY,
        period_start=datetime(2026, 11, 20, tzinfo=UTC),
        period_end=MIDNIGHT,
        event_time=NOW,
        recorded_time=NOW,
        request_id="",
        dimensions={"model": "small"},
    )


class FakeTenants:
    """TenantUse in memory: every tenant exists and has a page to buy at."""

    async def get(self, tenant_id: TenantId) -> Tenant:
        """Return the tenant."""
        settings = TenantSettings(tenant_id=tenant_id, upgrade_url="https://example.test/buy?a={account_id}")
        return Tenant(settings=settings, features={}, retired_features={}, catalog_revision=1)


def a_reservation(reservation_id: str = "rsv_1", **changes: Any) -> Reservation:
    """Describe a reservation of five units for a minute."""
    reservation = Reservation(
        tenant_id=TenantId("acme"),
        account_id=AccountId("ann"),
        reservation_id=reservation_id,
        feature_key=FeatureKey("text_rewrite"),
        period=Period(PeriodKind.DAY, datetime(2026, 11, 20, tzinfo=UTC), MIDNIGHT),
        quantity=5,
        create_time=NOW,
        expire_time=NOW + timedelta(minutes=1),
    )
    return replace(reservation, **changes)


class FakeReservations(Scripted):
    """ReservationUse in memory: remembers what is asked, and answers as told."""

    def __init__(self) -> None:
        super().__init__()
        self.wishes: list[Reserve | Commit | Release | Extend] = []
        self.listed: tuple[str, ReservationState | None] | None = None
        self.reserve_answer = ReserveAnswer(reason=Reason.OK, reservation=a_reservation(), limit_quantity=10)
        self.commit_answer = CommitAnswer(
            reason=Reason.OK,
            reservation=a_reservation(),
            settlement=Settlement.EXACT,
            used_quantity=5,
            held_quantity=0,
            limit_quantity=10,
            revision=7,
        )
        self.all_reservations = [a_reservation(f"rsv_{number:02}") for number in range(25, 0, -1)]

    async def reserve(self, wish: Reserve) -> ReserveAnswer:
        """Answer as told."""
        self.wishes.append(wish)
        self.raise_if_scripted(wish.account_id)
        return self.reserve_answer

    async def commit(self, wish: Commit) -> CommitAnswer:
        """Answer as told."""
        self.wishes.append(wish)
        self.raise_if_scripted(wish.account_id)
        return self.commit_answer

    async def release(self, wish: Release) -> ReleaseAnswer:
        """Release."""
        self.wishes.append(wish)
        return ReleaseAnswer(
            reservation=a_reservation(state=ReservationState.RELEASED, close_time=NOW), remaining_quantity=10
        )

    async def extend(self, wish: Extend) -> ExtendAnswer:
        """Extend."""
        self.wishes.append(wish)
        return ExtendAnswer(reservation=a_reservation(expire_time=NOW + wish.ttl))

    async def list(
        self,
        _tenant_id: TenantId,
        account_id: AccountId,
        *,
        feature_key: str,
        state: ReservationState | None,
        before_reservation_id: str,
        limit: int,
    ) -> list[Reservation]:
        """Page through the reservations, newest first."""
        self.raise_if_scripted(account_id)
        self.listed = (feature_key, state)
        return [
            each
            for each in self.all_reservations
            if not before_reservation_id or each.reservation_id < before_reservation_id
        ][:limit]


class FakeCorrections:
    """UsageCorrections without a ledger: no line is ever found, and nothing is counted."""

    async def reverse(self, reversal: Reversal) -> ReversalAnswer:
        """Find no such line."""
        raise EntryNotFound(reversal.entry_id)

    async def correct(self, correction: Correction) -> CorrectionAnswer:
        """Know no such feature."""
        raise FeatureNotFound(correction.feature_key)


class FakeUsageSums:
    """UsageSumsUse in memory: answers every query with what it was given."""

    def __init__(self) -> None:
        self.answer = UsageAnswer(rows=(), total_quantity=0, fresh_time=NOW, next=None)
        self.asked: list[UsageQuery] = []

    async def query(self, wanted: UsageQuery) -> UsageAnswer:
        """Answer."""
        self.asked.append(wanted)
        return self.answer


class FakeUsageQueries(Scripted):
    """UsageQueries in memory."""

    filtered_by: tuple[int, str] = (0, "")

    def __init__(self) -> None:
        super().__init__()
        self.asked: tuple[str, datetime | None, datetime | None] | None = None
        self.all_entries = [an_entry(entry_id) for entry_id in range(25, 0, -1)]

    async def usage(
        self, _tenant_id: TenantId, account_id: AccountId, feature_key: FeatureKey, _at: datetime | None
    ) -> FeatureUsage:
        """Answer as scripted."""
        self.raise_if_scripted(account_id)
        return a_usage(feature_key)

    async def quota(self, _tenant_id: TenantId, account_id: AccountId) -> AccountQuota:
        """Answer with two counters."""
        self.raise_if_scripted(account_id)
        usages = (a_usage(), a_usage("devices", feature_kind=FeatureKind.GAUGE))
        return AccountQuota(usages=usages, plan_key="free", revision=7)

    async def entries(
        self,
        _tenant_id: TenantId,
        account_id: AccountId,
        *,
        feature_key: str,
        start: datetime | None,
        end: datetime | None,
        kind: int,
        request_id: str,
        before_entry_id: int | None,
        limit: int,
    ) -> list[UsageEntry]:
        """Page through the entries, newest first."""
        self.raise_if_scripted(account_id)
        self.asked = (feature_key, start, end)
        self.filtered_by = (kind, request_id)
        return [e for e in self.all_entries if before_entry_id is None or e.entry_id < before_entry_id][:limit]


class Unused:
    """A use case that a test does not call: whatever is asked of it fails."""

    def __getattr__(self, name: str) -> Any:
        message = f"{name} is not part of this test"
        raise AssertionError(message)


def an_entitlement_servicer(checks: AccessChecks | None = None, **others: Any) -> EntitlementServicer:
    """Build the servicer of entitlements on fakes; of what is not given nothing may be asked."""
    unused: dict[str, Any] = dict.fromkeys(("explanations", "watches", "grants", "simulations"), Unused())
    return EntitlementServicer(checks or FakeChecks(), lambda: NOW, **(unused | others))


def a_usage_servicer(
    *,
    metering: FakeMetering | None = None,
    queries: FakeUsageQueries | None = None,
    recording: FakeRecording | None = None,
    reservations: FakeReservations | None = None,
) -> UsageServicer:
    """Build the servicer of usage on fakes."""
    recording = recording or FakeRecording()
    return UsageServicer(
        metering or FakeMetering(),
        queries or FakeUsageQueries(),
        lambda: NOW,
        tenants=FakeTenants(),
        recording=recording,
        events=recording,
        sums=FakeUsageSums(),
        corrections=FakeCorrections(),
        reservations=reservations or FakeReservations(),
    )
