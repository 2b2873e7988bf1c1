"""Between the sums of what is stored and their wire messages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, time
from decimal import Decimal
from typing import Final

from tallygate.v1 import data_lifecycle_pb2, money_pb2
from tallygate.v1 import data_lifecycle_service_pb2 as wire
from tallygate_server.domain.identifier import AccountId
from tallygate_server.domain.lifecycle import StorageOptimization, StorageTier
from tallygate_server.domain.storage_cost import TierFacts
from tallygate_server.domain.storage_trend import StoragePoint
from tallygate_server.lifecycle.storage_metrics import StorageMetrics, StorageOpportunity, WantedMetrics
from tallygate_server.lifecycle.storage_metrics.use_cases import HISTORY_DAYS_DEFAULT
from tallygate_server.storage.storage_sums import StoredGroup, position_of
from tallygate_server.transport import convert

STORAGE_TIER: Final = convert.api_enum(StorageTier, data_lifecycle_pb2.StorageTier, "STORAGE_TIER")
OPTIMIZATION: Final = convert.api_enum(
    StorageOptimization, data_lifecycle_pb2.StorageOptimization, "STORAGE_OPTIMIZATION"
)
_GROUP_NAMES: Final = {
    wire.STORAGE_GROUPING_ACCOUNT: "account_id",
    wire.STORAGE_GROUPING_DATA_TYPE: "data_type",
    wire.STORAGE_GROUPING_TIER: "tier",
}


def wanted_of(request: wire.GetStorageMetricsRequest, *, position: str, limit: int) -> WantedMetrics:
    """Convert what somebody wants to know."""
    return WantedMetrics(
        account_id=AccountId(request.account_id) if request.account_id else None,
        data_type=request.data_type,
        # In one order, whatever that of the request.
        group_by=tuple(name for grouping, name in _GROUP_NAMES.items() if grouping in request.group_by),
        history_days=request.history_days or HISTORY_DAYS_DEFAULT,
        after=json.loads(position) if position else (),
        limit=limit,
    )


def position_text(group: StoredGroup, wanted: WantedMetrics) -> str:
    """Return the position of a group as a page token holds it."""
    return json.dumps(position_of(group, wanted.group_by))


def metrics_to_api(
    metrics: StorageMetrics, page: Sequence[StoredGroup], tiers: TierFacts, *, next_page_token: str
) -> wire.GetStorageMetricsResponse:
    """Convert the answer, with one page of its groups."""
    return wire.GetStorageMetricsResponse(
        rows=[_row(group) for group in page],
        next_page_token=next_page_token,
        total_bytes=metrics.total_bytes,
        compression_savings_bytes=metrics.compression_savings_bytes,
        deletion_savings_bytes=metrics.deletion_savings_bytes,
        projected_growth_bytes=metrics.projected_growth_bytes,
        cost=wire.StorageCost(
            total=_money(metrics.cost, tiers),
            by_tier={tier.name.lower(): _money(cost, tiers) for tier, cost in metrics.cost_by_tier.items()},
            without_lifecycle=_money(metrics.cost_without_lifecycle, tiers),
        ),
        opportunities=[_opportunity(each, tiers) for each in metrics.opportunities],
        history=[_point(point) for point in metrics.history],
        projection=[_point(point) for point in metrics.projection],
    )


def _row(group: StoredGroup) -> wire.StorageRow:
    return wire.StorageRow(
        account_id=group.account_id or "",
        data_type=group.data_type,
        tier=(STORAGE_TIER[group.tier] if group.tier is not None else data_lifecycle_pb2.STORAGE_TIER_UNSPECIFIED),
        record_count=group.record_count,
        stored_bytes=group.stored_bytes,
        original_bytes=group.original_bytes,
        quality_score=group.quality_score,
        access_count=group.access_count,
    )


def _opportunity(opportunity: StorageOpportunity, tiers: TierFacts) -> wire.StorageOpportunity:
    return wire.StorageOpportunity(
        action=OPTIMIZATION[opportunity.action],
        data_type=opportunity.data_type,
        saved_bytes=opportunity.saved_bytes,
        saved_cost=_money(opportunity.saved_cost, tiers),
        value_lost=opportunity.value_lost,
        explanation=opportunity.explanation,
    )


def _point(point: StoragePoint) -> wire.StoragePoint:
    return wire.StoragePoint(
        day_time=convert.to_api_instant(datetime.combine(point.day, time(), UTC)),
        hot_bytes=point.bytes_by_tier.get(StorageTier.HOT, 0),
        warm_bytes=point.bytes_by_tier.get(StorageTier.WARM, 0),
        cold_bytes=point.bytes_by_tier.get(StorageTier.COLD, 0),
    )


def _money(amount: Decimal, tiers: TierFacts) -> money_pb2.Money:
    return money_pb2.Money(minor_units=tiers.minor_units(amount), currency_code=tiers.currency)
