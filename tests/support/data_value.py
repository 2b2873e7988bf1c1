"""Data whose worth is known, and calls about it, for tests."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import pyarrow as pa

from tallygate.v1 import data_lifecycle_pb2 as data
from tallygate.v1 import data_lifecycle_service_pb2 as wire
from tallygate_server.domain.identifier import AccountId
from tallygate_server.domain.lifecycle import DataSelection, Dataset, Segment, StorageTier
from tallygate_server.lifecycle.jobs import LifecycleJobRunner
from tallygate_server.lifecycle.model_process.jobs import job_function
from tallygate_server.storage.data_segments import read_segments
from tests.support.acme import ACME, ANN
from tests.support.lifecycle import NOON, a_dataset, a_table
from tests.support.lifecycle_server import ServedLifecycle

MODEL: Final = "coach"
DAY: Final = timedelta(days=1)


class ModelsHere:
    """Does what a model process does, in a thread: starting one takes a second."""

    async def run(self, job: str, parameters: Mapping[str, Any], tables: Sequence[pa.Table] = ()) -> dict[str, Any]:
        """Do a job; what it is given and what it answers goes through JSON as there."""
        told = json.loads(json.dumps(parameters))
        answer = await asyncio.to_thread(job_function(job), told, tables)
        result: dict[str, Any] = json.loads(json.dumps(answer, allow_nan=False))
        return result


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
