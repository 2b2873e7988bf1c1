"""What data is worth, and plans made from it, on both transports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tallygate.v1 import data_lifecycle_service_pb2 as wire
from tests.support.acme import ACME
from tests.support.clock import FrozenClock
from tests.support.data_value import DAY, MODEL, asked, done, put_days
from tests.support.lifecycle import NOON
from tests.support.lifecycle_server import TRANSPORTS, serving_lifecycle


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_every_call_answers(kind: Any, fresh_database: str, fresh_redis: str, tmp_path: Path) -> None:
    clock = FrozenClock(NOON + 10 * DAY)
    async with serving_lifecycle(kind, fresh_database, fresh_redis, tmp_path, clock=clock) as served:
        await put_days(served, range(3), offsets=[0, 0, 40])

        scores = (await served.stub.AssessDataValue(wire.AssessDataValueRequest(**asked(model_key=MODEL)))).scores
        plan = await served.stub.PlanRetention(wire.PlanRetentionRequest(**asked(storage_limit_bytes=1)))
        weights = await served.stub.UpdatePriorities(
            wire.UpdatePrioritiesRequest(
                tenant_id=ACME, model_key=MODEL, accuracy=0.5, importance_by_type={"ride": 0.9}
            )
        )
        job = await done(
            served, await served.stub.OptimizeStorage(wire.OptimizeStorageRequest(**asked(target_reduction_ratio=0.5)))
        )

    assert [score.terms[0].name for score in scores] == ["recency"] * 3
    assert plan.feasible
    assert weights.weights[0].data_type == "ride"
    assert job.optimization.target_reached
