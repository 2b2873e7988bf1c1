"""What data is worth, and plans made from it, through a real channel over real stores."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tallygate.v1 import data_lifecycle_pb2 as data
from tallygate.v1 import data_lifecycle_service_pb2 as wire
from tallygate_server.domain.identifier import AccountId
from tallygate_server.domain.lifecycle import (
    DataSelection,
    Dataset,
    Segment,
    StorageTier,
)
from tallygate_server.lifecycle.jobs import LifecycleJobRunner
from tallygate_server.storage.data_segments import read_segments
from tests.support.acme import ACME, ANN
from tests.support.clock import FrozenClock
from tests.support.lifecycle import NOON, a_dataset, a_table
from tests.support.lifecycle_server import TRANSPORTS, ServedLifecycle, serving_lifecycle

MODEL = "coach"
DAY = timedelta(days=1)


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(NOON + 10 * DAY)


@pytest.fixture
async def served(
    fresh_database: str, fresh_redis: str, tmp_path: Path, clock: FrozenClock
) -> AsyncIterator[ServedLifecycle]:
    async with serving_lifecycle("native", fresh_database, fresh_redis, tmp_path, clock=clock) as served:
        yield served


def a_ride(day: int, *, count: int = 120, offset: float = 0.0) -> pa.Table:
    """Return a minute-by-minute ride: speed follows the heart rate."""
    rate = [
        120 + offset + 20 * math.sin((day * 37 + minute) / 15) + (minute * 7919 % 13) / 10 for minute in range(count)
    ]
    return a_table(
        NOON + day * DAY,
        count,
        heart_rate=rate,
        speed=[each / 10 + (place * 104729 % 7) / 20 for place, each in enumerate(rate)],
    )


async def put_days(
    served: ServedLifecycle,
    days: Sequence[int],
    *,
    account_id: AccountId = ANN,
    data_type: str = "ride",
    quality: Sequence[float] = (),
    offsets: Sequence[float] = (),
    count: int = 120,
) -> Dataset:
    """Put a segment for each day."""
    dataset = await a_dataset(served.lifecycle, account_id=account_id, data_type=data_type)
    segments = served.lifecycle.segments
    for place, day in enumerate(days):
        table = a_ride(day, count=count, offset=offsets[place] if offsets else 0.0)
        prepared = await segments.prepare(
            dataset, table, tier=StorageTier.HOT, quality_score=quality[place] if quality else 1.0
        )
        async with segments.database.tenant_transaction(ACME) as connection:
            await segments.put_hot(connection, prepared)
    return dataset


async def manifest(served: ServedLifecycle) -> list[Segment]:
    async with served.lifecycle.database.tenant_transaction(ACME) as connection:
        return await read_segments(connection, ACME, DataSelection())


async def done(served: ServedLifecycle, answer: Any, state: int = data.LIFECYCLE_JOB_STATE_SUCCEEDED) -> Any:
    """Run what was asked for and return the job as it is afterwards."""
    await LifecycleJobRunner(served.lifecycle.jobs).run_due()
    asked = wire.GetLifecycleJobRequest(tenant_id=ACME, job_id=answer.job.job_id)
    job = (await served.stub.GetLifecycleJob(asked)).job
    assert job.state == state, job
    return job


def rides(account_id: str = ANN) -> data.DataSelection:
    return data.DataSelection(account_id=account_id, data_types=["ride"])


def asked(**more: Any) -> dict[str, Any]:
    return {"tenant_id": ACME, "selection": rides(), **more}


@pytest.mark.parametrize("kind", TRANSPORTS)
async def test_every_call_answers(
    kind: Any, fresh_database: str, fresh_redis: str, tmp_path: Path, clock: FrozenClock
) -> None:
    async with serving_lifecycle(kind, fresh_database, fresh_redis, tmp_path, clock=clock) as served:
        await put_days(served, range(3), offsets=[0, 0, 40])

        scores = (await served.stub.AssessDataValue(wire.AssessDataValueRequest(**asked(model_key=MODEL)))).scores
        critical = await served.stub.IdentifyCriticalData(
            wire.IdentifyCriticalDataRequest(**asked(model_key=MODEL, target_column="speed"))
        )
        samples = await served.stub.SelectRepresentativeSamples(
            wire.SelectRepresentativeSamplesRequest(**asked(sample_count=20, seed=1))
        )
        chosen = await served.stub.OptimizeTrainingDataset(
            wire.OptimizeTrainingDatasetRequest(
                **asked(model_key=MODEL, target_record_count=100, target_column="speed", seed=1)
            )
        )
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
    assert (critical.segment_count, critical.accuracy_full > 0.8) == (1, True)
    assert len(samples.samples) == 20
    assert chosen.record_count == 100
    assert plan.feasible
    assert weights.weights[0].data_type == "ride"
    assert job.optimization.target_reached
