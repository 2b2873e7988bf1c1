"""What the servicers need from the rest of the server, as protocols: any class of this shape will do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from tallygate_server.domain.call import Check, CheckAnswer, Increment, IncrementAnswer
from tallygate_server.domain.catalog import FeatureKind
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.domain.period import PeriodKind
from tallygate_server.errors import TallygateError

Clock = Callable[[], datetime]
"""Tells the time, aware, in UTC."""


class AccessChecks(Protocol):
    """Answers checks."""

    def check_soon(self, check: Check, done: Callable[[CheckAnswer | TallygateError], None]) -> None:
        """Answer through `done`, on the loop, at once or later; never raises."""

    async def check(self, check: Check) -> CheckAnswer:
        """Answer one check."""

    async def check_many(self, checks: Sequence[Check]) -> list[CheckAnswer | TallygateError]:
        """Answer many, in order."""

    async def list_entitlements(
        self, tenant_id: TenantId, account_id: AccountId
    ) -> list[tuple[str, CheckAnswer]]:
        """Return the answer of every feature of the account, sorted by feature key."""


class Metering(Protocol):
    """Counts."""

    def increment_soon(
        self, increment: Increment, done: Callable[[IncrementAnswer | TallygateError], None]
    ) -> None:
        """Count and answer through `done`, on the loop, at once or later; never raises."""

    async def increment(self, increment: Increment) -> IncrementAnswer:
        """Count one increment."""

    async def increment_many(
        self, increments: Sequence[Increment], *, atomic: bool
    ) -> list[IncrementAnswer | TallygateError]:
        """Count many, in order."""


class FeatureUsage(Protocol):
    """Where an account stands with one counter or gauge."""

    @property
    def feature_key(self) -> str:
        """Feature that is counted."""

    @property
    def feature_kind(self) -> FeatureKind:
        """Counter or gauge."""

    @property
    def limit_quantity(self) -> int:
        """Limit in the period; -1 is unlimited."""

    @property
    def used_quantity(self) -> int:
        """In the ledger."""

    @property
    def held_quantity(self) -> int:
        """Held."""

    @property
    def remaining_quantity(self) -> int:
        """Left."""

    @property
    def period_kind(self) -> PeriodKind:
        """Length of the period."""

    @property
    def period_start(self) -> datetime:
        """First instant of the period."""

    @property
    def period_end(self) -> datetime | None:
        """First instant after it; None for a lifetime."""

    @property
    def threshold_percent(self) -> int:
        """Highest percent threshold reached."""

    @property
    def plan_key(self) -> str:
        """Plan that gives the limit."""

    @property
    def revision(self) -> int:
        """Revision of the account that this was computed from."""


class UsageEntry(Protocol):
    """One line of the ledger."""

    @property
    def entry_id(self) -> int:
        """Id of the line; rises."""

    @property
    def feature_key(self) -> str:
        """Feature that was counted."""

    @property
    def quantity(self) -> int:
        """Units."""

    @property
    def used_after(self) -> int:
        """Running total."""

    @property
    def period_kind(self) -> PeriodKind:
        """Length of the period."""

    @property
    def period_start(self) -> datetime:
        """First instant of the period it counts in."""

    @property
    def event_time(self) -> datetime:
        """When the usage happened."""

    @property
    def recorded_time(self) -> datetime:
        """When the line was written."""

    @property
    def request_id(self) -> str | None:
        """Request id of the caller, if it gave one."""

    @property
    def dimensions(self) -> Mapping[str, str]:
        """Dimensions of the caller."""


class UsageQueries(Protocol):
    """Reads usage."""

    async def usage(
        self, tenant_id: TenantId, account_id: AccountId, feature_key: FeatureKey, at: datetime | None
    ) -> FeatureUsage:
        """Return one counter."""

    async def quota(self, tenant_id: TenantId, account_id: AccountId) -> Sequence[FeatureUsage]:
        """Return all counters and gauges of an account."""

    async def entries(
        self,
        tenant_id: TenantId,
        account_id: AccountId,
        *,
        feature_key: str,
        start: datetime | None,
        end: datetime | None,
        after_entry_id: int,
        limit: int,
    ) -> Sequence[UsageEntry]:
        """Return lines of the ledger, newest first, below `after_entry_id` unless that is 0."""
