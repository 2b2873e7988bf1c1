"""What the servicers need from the rest of the server, as protocols: any class of this shape will do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from tallygate_server.domain.call import Check, CheckAnswer, Increment, IncrementAnswer
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.errors import TallygateError
from tallygate_server.usage_queries import FeatureUsage, UsageEntry

Now = Callable[[], datetime]
"""Tells the time, aware, in UTC."""


class AccessChecks(Protocol):
    """Answers checks."""

    def check_soon(self, check: Check, done: Callable[[CheckAnswer | TallygateError], None]) -> None:
        """Answer through `done`, on the loop, at once or later; never raises."""

    async def check(self, check: Check) -> CheckAnswer:
        """Answer one check."""

    async def check_many(self, checks: Sequence[Check]) -> list[CheckAnswer | TallygateError]:
        """Answer many, in order."""

    async def list_entitlements(self, tenant_id: TenantId, account_id: AccountId) -> list[tuple[str, CheckAnswer]]:
        """Return the answer of every feature of the account, sorted by feature key."""


class Metering(Protocol):
    """Counts."""

    def increment_soon(self, increment: Increment, done: Callable[[IncrementAnswer | TallygateError], None]) -> None:
        """Count and answer through `done`, on the loop, at once or later; never raises."""

    async def increment(self, increment: Increment) -> IncrementAnswer:
        """Count one increment."""

    async def increment_many(
        self, increments: Sequence[Increment], *, atomic: bool
    ) -> list[IncrementAnswer | TallygateError]:
        """Count many, in order."""


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
        """Return lines of the ledger, in id order, those after `after_entry_id`."""
