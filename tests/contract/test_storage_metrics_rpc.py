"""GetStorageMetrics as callers see it, on both transports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from grpc import aio

from tallygate.v1 import data_lifecycle_pb2 as data
from tallygate.v1 import data_lifecycle_service_pb2 as calls
from tallygate_server.domain.lifecycle import StorageTier
from tests.support.acme import ACME, ANN, BOB
from tests.support.clock import FrozenClock
from tests.support.lifecycle import NOON
from tests.support.lifecycle_server import TRANSPORTS, ServedLifecycle, serving_lifecycle
from tests.support.stored_segments import a_segment, add_rows
from tests.support.transport_servers import refusal_of

GB = 1_000_000_000


@pytest.fixture(params=TRANSPORTS)
async def served(
    request: pytest.FixtureRequest, fresh_database: str, fresh_redis: str, tmp_path: Path
) -> AsyncIterator[ServedLifecycle]:
    async with serving_lifecycle(
        request.param, fresh_database, fresh_redis, tmp_path, clock=FrozenClock(NOON)
    ) as served:
        yield served


async def test_rows_totals_costs_and_days_reach_the_caller(served: ServedLifecycle) -> None:
    clock = served.lifecycle.clock
    assert isinstance(clock, FrozenClock)
    for day in range(3):
        number = 10 * day
        await add_rows(
            served.lifecycle,
            [
                a_segment(number + 1, stored_bytes=GB, original_bytes=GB),
                a_segment(
                    number + 2, account_id=BOB, tier=StorageTier.COLD, lossless=True, stored_bytes=2 * GB, age_days=100
                ),
            ],
        )
        await served.lifecycle.measuring.measure()
        clock.advance(timedelta(days=1))
    wanted = calls.GetStorageMetricsRequest(
        tenant_id=ACME,
        group_by=[calls.STORAGE_GROUPING_TIER, calls.STORAGE_GROUPING_ACCOUNT],
        history_days=7,
        page_size=1,
    )
    first = await served.stub.GetStorageMetrics(wanted)

    [row] = first.rows
    assert (row.account_id, row.tier, row.data_type) == (BOB, data.STORAGE_TIER_COLD, "")
    assert (row.stored_bytes, row.record_count) == (6 * GB, 20 + 120 + 220)
    assert first.total_bytes == 9 * GB
    assert (first.cost.total.minor_units, first.cost.total.currency_code) == (75 + 14, "USD")
    assert {tier: cost.minor_units for tier, cost in first.cost.by_tier.items()} == {"hot": 75, "warm": 0, "cold": 14}
    assert [(point.hot_bytes, point.cold_bytes) for point in first.history] == [
        (n * GB, 2 * n * GB) for n in (1, 2, 3, 3)
    ]
    assert first.history[0].day_time.ToJsonString() == "2026-03-01T00:00:00Z"
    assert len(first.projection) == 7
    assert first.projected_growth_bytes > 0

    wanted.page_token = first.next_page_token
    second = await served.stub.GetStorageMetrics(wanted)
    assert [(row.account_id, row.tier) for row in second.rows] == [(ANN, data.STORAGE_TIER_HOT)]
    assert second.next_page_token == ""
    wanted.ClearField("group_by")
    with pytest.raises(aio.AioRpcError) as caught:
        await served.stub.GetStorageMetrics(wanted)
    assert refusal_of(caught.value).reason == "PAGE_TOKEN_INVALID"
    wanted.tenant_id = "nobody"
    wanted.page_token = ""
    with pytest.raises(aio.AioRpcError) as caught:
        await served.stub.GetStorageMetrics(wanted)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
