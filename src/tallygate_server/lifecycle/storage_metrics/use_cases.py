"""Answers how much is stored, what it costs, how it grows, and what could be saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import structlog

from tallygate_server.clock import Clock
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import StorageTier
from tallygate_server.domain.storage_cost import TierFacts
from tallygate_server.domain.storage_trend import TREND_DAYS_MAX, StoragePoint, growth_of
from tallygate_server.errors import TallygateError
from tallygate_server.lifecycle.policies import Policies
from tallygate_server.lifecycle.segments import WRITER_TIME_MAX, SegmentStore
from tallygate_server.lifecycle.storage_metrics.opportunities import (
    StorageOpportunity,
    find_opportunities,
    protected_data,
    rule_of,
)
from tallygate_server.storage import storage_sums as rows
from tallygate_server.storage.storage_sums import DueSums, StoredGroup
from tallygate_server.tenants import TenantDirectory

log = structlog.get_logger(__name__)

HISTORY_DAYS_DEFAULT: Final = 30
HISTORY_DAYS_MAX: Final = 365
TYPES_MAX: Final = 200
"""Sorts of data that opportunities are looked for in: those that most is stored of."""
OPPORTUNITIES_MAX: Final = 100
FACTS_PER_TYPE_MAX: Final = 5
FACTS_MAX: Final = 40
"""Segments whose measured worth is looked up for one answer: each is opened with its account's key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedMetrics:
    """What somebody wants to know."""

    account_id: AccountId | None = None
    data_type: str = ""
    group_by: tuple[str, ...] = ()
    """`account_id`, `data_type`, `tier`."""
    history_days: int = HISTORY_DAYS_DEFAULT
    after: Sequence[Any] = ()
    """Position of the last group of the page before."""
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageMetrics:
    """How much is stored, and what follows from it."""

    groups: Sequence[StoredGroup]
    bytes_by_tier: Mapping[StorageTier, int]
    original_bytes: int
    compression_savings_bytes: int
    deletion_savings_bytes: int
    projected_growth_bytes: int
    cost: Decimal
    cost_by_tier: Mapping[StorageTier, Decimal]
    cost_without_lifecycle: Decimal
    """Amounts of a month in the currency's major unit, exactly."""
    opportunities: Sequence[StorageOpportunity]
    history: Sequence[StoragePoint]
    projection: Sequence[StoragePoint]

    @property
    def total_bytes(self) -> int:
        """Bytes in all tiers."""
        return sum(self.bytes_by_tier.values())


class StorageSums:
    """Answers from the manifest, at one instant."""

    def __init__(
        self, segments: SegmentStore, policies: Policies, tenants: TenantDirectory, clock: Clock, tiers: TierFacts
    ) -> None:
        """Use what the settings say of the tiers."""
        self.tiers = tiers
        self._segments = segments
        self._database = segments.database
        self._policies = policies
        self._tenants = tenants
        self._clock = clock

    async def get(self, tenant_id: TenantId, wanted: WantedMetrics) -> StorageMetrics:
        """Return how much is stored. Raises TenantNotFound, StoreUnavailable.

        What was stored on days past, and what was removed, is known by sort of data and not by account: an answer about
        one account has neither.
        """
        await self._tenants.get(tenant_id)
        now = self._clock.now()
        of_all = wanted.account_id is None
        protections = await self._policies.protections(tenant_id)
        async with self._database.tenant_snapshot(tenant_id) as connection:
            groups = await rows.sum_groups(
                connection,
                tenant_id,
                account_id=wanted.account_id,
                data_type=wanted.data_type,
                group_by=wanted.group_by,
                after=wanted.after,
                limit=wanted.limit,
                today=now.date(),
            )
            totals = await rows.sum_all(connection, tenant_id, account_id=wanted.account_id, data_type=wanted.data_type)
            data_types = await rows.data_types_of(connection, tenant_id, data_type=wanted.data_type, limit=TYPES_MAX)
            policies = {data_type: protections.policy_for(data_type) for data_type in data_types}
            due = await rows.sum_due(
                connection,
                tenant_id,
                [rule_of(policy, data_type, now) for data_type, policy in policies.items()],
                account_id=wanted.account_id,
                protected=protected_data(protections, data_types, now),
                now=now,
            )
            orphan_bytes = removed_bytes = 0
            days: list[StoragePoint] = []
            if of_all:
                removed_bytes = await rows.sum_removals(connection, tenant_id, data_type=wanted.data_type)
                first_day = now.date() - timedelta(days=max(wanted.history_days, TREND_DAYS_MAX) - 1)
                days = await rows.read_days(connection, tenant_id, data_type=wanted.data_type, first_day=first_day)
            if of_all and not wanted.data_type:
                orphan_bytes = await rows.sum_orphans(connection, tenant_id, written_before=now - WRITER_TIME_MAX)
        retained = await self._value_retained(tenant_id, due)
        history, growth, projection = self._trend(days, totals.bytes_by_tier, wanted.history_days, now, of_all=of_all)
        tiers = self.tiers
        return StorageMetrics(
            groups=groups,
            bytes_by_tier=totals.bytes_by_tier,
            original_bytes=totals.original_bytes,
            compression_savings_bytes=totals.compression_savings_bytes,
            deletion_savings_bytes=removed_bytes,
            projected_growth_bytes=growth,
            cost=tiers.cost(totals.bytes_by_tier),
            cost_by_tier={tier: tiers.cost({tier: totals.bytes_by_tier.get(tier, 0)}) for tier in StorageTier},
            cost_without_lifecycle=tiers.cost({StorageTier.HOT: totals.original_bytes}),
            opportunities=find_opportunities(due, policies, tiers, value_retained=retained, orphan_bytes=orphan_bytes)[
                :OPPORTUNITIES_MAX
            ],
            history=history,
            projection=projection,
        )

    @staticmethod
    def _trend(
        days: list[StoragePoint],
        bytes_by_tier: Mapping[StorageTier, int],
        history_days: int,
        now: datetime,
        *,
        of_all: bool,
    ) -> tuple[list[StoragePoint], int, list[StoragePoint]]:
        """Return the past with today as it is now, what a month adds, and the future."""
        if not of_all:
            return [], 0, []
        today = StoragePoint(day=now.date(), bytes_by_tier=bytes_by_tier)
        known = [*(point for point in days if point.day < today.day), today]
        growth = growth_of(known)
        shown = [point for point in known if (today.day - point.day).days < history_days]
        if growth is None:
            return shown, 0, []
        return shown, growth.month_bytes, growth.project(today, history_days)

    async def _value_retained(self, tenant_id: TenantId, due: Sequence[DueSums]) -> dict[str, float]:
        """Return the share of worth that forms with loss have measurably kept, by sort of data that could have one."""
        data_types = sorted({each.data_type for each in due if each.shrinkable_bytes})
        measured: dict[str, float] = {}
        looked_up = 0
        for data_type in data_types:
            if looked_up >= FACTS_MAX:
                break
            async with self._database.tenant_snapshot(tenant_id) as connection:
                segments = await rows.newest_lossy_segments(
                    connection, tenant_id, data_type=data_type, limit=FACTS_PER_TYPE_MAX
                )
            kept = weight = 0.0
            for segment in segments:
                looked_up += 1
                try:
                    facts = await self._segments.read_facts(segment)
                except TallygateError as error:
                    log.debug("facts_not_read", segment_id=segment.segment_id, error=type(error).__name__)
                    continue
                share = facts.get("compression", {}).get("value_retained")
                if share is not None:
                    kept += share * segment.record_count
                    weight += segment.record_count
            if weight:
                measured[data_type] = kept / weight
        return measured
