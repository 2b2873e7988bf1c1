"""Use cases in memory that answer as told: enough to test the edge without what is behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tallygate_server.domain.call import Check, CheckAnswer, Increment, IncrementAnswer
from tallygate_server.domain.catalog import FeatureKind
from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.domain.period import PeriodKind
from tallygate_server.errors import TallygateError

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

    async def list_entitlements(
        self, tenant_id: TenantId, account_id: AccountId
    ) -> list[tuple[str, CheckAnswer]]:
        """Answer with five features."""
        self.raise_if_scripted(account_id)
        return [(f"feature_{index}", self.answer) for index in range(5)]


class FakeMetering(Scripted):
    """Metering in memory: counts for real, per account and feature, against one limit."""

    def __init__(self, limit: int = 1_000_000) -> None:
        super().__init__()
        self.limit = limit
        self.used: dict[tuple[str, str, str], int] = {}
        self.increments: list[Increment] = []
        self._tasks: set[asyncio.Future[object]] = set()

    def increment_soon(
        self, increment: Increment, done: Callable[[IncrementAnswer | TallygateError], None]
    ) -> None:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeUsage:
    """FeatureUsage in memory."""

    feature_key: str = "text_rewrite"
    feature_kind: FeatureKind = FeatureKind.COUNTER
    limit_quantity: int = 10
    used_quantity: int = 3
    held_quantity: int = 1
    remaining_quantity: int = 6
    period_kind: PeriodKind = PeriodKind.DAY
    period_start: datetime = datetime(2026, 11, 20, tzinfo=UTC)
    period_end: datetime | None = MIDNIGHT
    threshold_percent: int = 0
    plan_key: str = "free"
    revision: int = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeEntry:
    """UsageEntry in memory."""

    entry_id: int
    feature_key: str = "text_rewrite"
    quantity: int = 1
    used_after: int = 1
    limit_quantity: int = 10
    period_kind: PeriodKind = PeriodKind.DAY
    period_start: datetime = datetime(2026, 11, 20, tzinfo=UTC)
    event_time: datetime = NOW
    recorded_time: datetime = NOW
    request_id: str | None = None
    dimensions: dict[str, str] = field(default_factory=dict)


class FakeUsageQueries(Scripted):
    """UsageQueries in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.all_entries = [FakeEntry(entry_id=entry_id) for entry_id in range(25, 0, -1)]

    async def usage(
        self, _tenant_id: TenantId, account_id: AccountId, feature_key: FeatureKey, _at: datetime | None
    ) -> FakeUsage:
        """Answer as scripted."""
        self.raise_if_scripted(account_id)
        return FakeUsage(feature_key=feature_key)

    async def quota(self, _tenant_id: TenantId, account_id: AccountId) -> list[FakeUsage]:
        """Answer with two counters."""
        self.raise_if_scripted(account_id)
        return [
            FakeUsage(),
            FakeUsage(feature_key="devices", feature_kind=FeatureKind.GAUGE, period_end=None),
        ]

    async def entries(
        self,
        _tenant_id: TenantId,
        account_id: AccountId,
        *,
        feature_key: str,
        start: datetime | None,
        end: datetime | None,
        after_entry_id: int,
        limit: int,
    ) -> list[FakeEntry]:
        """Page through the entries, newest first."""
        self.raise_if_scripted(account_id)
        older = [entry for entry in self.all_entries if not after_entry_id or entry.entry_id < after_entry_id]
        return older[:limit]
