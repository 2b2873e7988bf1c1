"""Compression over the real service, on both transports: compressed, planned, analysed and measured."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from tallygate.v1 import data_lifecycle_pb2 as messages
from tallygate.v1 import data_lifecycle_service_pb2 as pb
from tests.support.acme import ACME
from tests.support.lifecycle import NOON
from tests.support.lifecycle_jobs import running_jobs
from tests.support.lifecycle_server import TRANSPORTS, ServedLifecycle, serving_lifecycle
from tests.support.transport_servers import Refusal, refusal_of

COUNT = 1_500
CHOSEN = messages.DataSelection(account_id="ann", data_types=["ride"])
STATISTICAL = messages.CompressionSettings(form=messages.COMPRESSION_FORM_STATISTICAL)
SUMMARY = messages.CompressionSettings(form=messages.COMPRESSION_FORM_SUMMARY, window=Duration(seconds=300))
WAIT = Duration(seconds=60)


@pytest.fixture(params=TRANSPORTS)
async def served(
    request: pytest.FixtureRequest, fresh_database: str, fresh_redis: str, tmp_path: Path
) -> AsyncIterator[ServedLifecycle]:
    async with (
        serving_lifecycle(request.param, fresh_database, fresh_redis, tmp_path) as served,
        running_jobs(served.lifecycle),
    ):
        numbers = random.Random(5)
        columns = [
            messages.ColumnValues(
                name="rate",
                double_values=messages.DoubleValues(
                    values=[120 + 20 * math.sin(place / 80) + numbers.gauss(0, 0.3) for place in range(COUNT)]
                ),
            ),
            messages.ColumnValues(
                name="what",
                string_values=messages.StringValues(
                    values=["climb" if place // 250 % 2 else "roll" for place in range(COUNT)]
                ),
            ),
        ]
        start = int(NOON.timestamp()) * 1_000_000
        times = [start + place * 1_000_000 for place in range(COUNT)]
        batch = messages.ColumnBatch(time_micros=times, columns=columns)
        await served.stub.PutRecords(
            pb.PutRecordsRequest(tenant_id=ACME, account_id="ann", data_type="ride", columns=batch)
        )
        yield served


async def compressed(served: ServedLifecycle, **wanted: Any) -> messages.LifecycleJob:
    request = pb.CompressDataRequest(tenant_id=ACME, selection=CHOSEN, wait=WAIT, **wanted)
    response: pb.CompressDataResponse = await served.stub.CompressData(request)
    return response.job


async def analysed(served: ServedLifecycle, **wanted: Any) -> list[pb.DecompressForAnalysisResponse]:
    request = pb.DecompressForAnalysisRequest(**{"tenant_id": ACME, "selection": CHOSEN, **wanted})
    return [part async for part in served.stub.DecompressForAnalysis(request)]


async def refused(call: Any) -> Refusal:
    with pytest.raises(aio.AioRpcError) as error:
        await call
    return refusal_of(error.value)


async def test_rows_come_back_within_the_bound_in_every_format(served: ServedLifecycle) -> None:
    job = await compressed(served, settings=STATISTICAL, actor="ops")
    [result] = job.compression.results
    rows = await analysed(served, analysis=pb.ANALYSIS_KIND_ROWS)
    columns = await analysed(served, analysis=pb.ANALYSIS_KIND_ROWS, format=pb.RECORD_FORMAT_COLUMNS, columns=["rate"])
    arrow = await analysed(served, analysis=pb.ANALYSIS_KIND_ROWS, format=pb.RECORD_FORMAT_ARROW)

    assert (job.state, job.actor) == (messages.LIFECYCLE_JOB_STATE_SUCCEEDED, "ops")
    assert result.form == messages.COMPRESSION_FORM_STATISTICAL
    assert 0 < result.compression_ratio < 0.2
    assert 0.9 < result.value_retained <= 1
    assert result.retrieval.available_analyses == ["rows", "windows", "patterns"]
    assert MessageToDict(result.summary_metrics)["rate"]["count"] == COUNT
    [rate, what] = result.columns
    assert 0 < rate.max_error < 0.5
    assert what.max_error == 0
    header = rows[0].header
    assert dict(header.gaps[0].max_errors) == {"rate": rate.max_error}
    assert set(header.segments) == {result.segment_id}
    records = [record for part in rows[1:] for record in part.records.records]
    given = [record.values["rate"] for record in records]
    assert len(given) == COUNT
    assert [value for part in columns[1:] for value in part.columns.columns[0].double_values.values] == given
    with pa.ipc.open_stream(b"".join(part.arrow_stream for part in arrow[1:])) as stream:
        assert stream.read_all().column("rate").to_pylist() == given


async def test_windows_documents_and_what_is_gone(served: ServedLifecycle) -> None:
    behaviour = await analysed(served, analysis=pb.ANALYSIS_KIND_BEHAVIOR)
    seasons = await analysed(served, analysis=pb.ANALYSIS_KIND_SEASONS)
    await compressed(served, settings=SUMMARY)
    windows = await analysed(served, analysis=pb.ANALYSIS_KIND_WINDOWS, resolution=Duration(seconds=600))
    no_rows = await refused(analysed(served, analysis=pb.ANALYSIS_KIND_ROWS))
    nothing = await analysed(
        served, analysis=pb.ANALYSIS_KIND_ROWS, selection=messages.DataSelection(account_id="nobody")
    )

    content = MessageToDict(behaviour[1].document.content)
    assert content["profile"]["actions"] == {"climb": COUNT / 2, "roll": COUNT / 2}
    assert len(content["sessions"]) == 1
    assert MessageToDict(seasons[1].document.content)["rate"]["cycle"] == "none"
    assert "rate.p50" in {column.name for column in windows[0].header.columns}
    told = [record.values for part in windows[1:] for record in part.records.records]
    assert [values["rate.count"] for values in told] == [600, 600, 300]
    assert "approximate" in windows[0].header.gaps[0].explanation
    assert (no_rows.code.name, no_rows.reason) == ("FAILED_PRECONDITION", "FORM_NOT_RESTORABLE")
    assert len(nothing) == 1
    assert not nothing[0].header.segments


async def test_plans_dry_runs_impact_and_what_is_refused_change_nothing(served: ServedLifecycle) -> None:
    when = Timestamp(seconds=int((NOON + timedelta(days=10_000)).timestamp()))
    far = pb.ScheduleCompressionRequest(
        tenant_id=ACME, selection=CHOSEN, settings=SUMMARY, schedule_time=when, request_id="plan-7"
    )
    planned = (await served.stub.ScheduleCompression(far)).job
    again = (await served.stub.ScheduleCompression(far)).job
    dry = await compressed(served, settings=STATISTICAL, validate_only=True)
    impact = await served.stub.EvaluateCompressionImpact(
        pb.EvaluateCompressionImpactRequest(
            tenant_id=ACME, selection=CHOSEN, settings=STATISTICAL, target_column="what", seed=1
        )
    )
    wrong = await refused(
        served.stub.EvaluateCompressionImpact(
            pb.EvaluateCompressionImpactRequest(
                tenant_id=ACME, selection=CHOSEN, settings=STATISTICAL, target_column="gone"
            )
        )
    )
    zones = {"rate": messages.ZoneBounds(values=[2.0, 1.0])}
    turned = await refused(
        compressed(served, settings=messages.CompressionSettings(form=messages.COMPRESSION_FORM_SUMMARY, zones=zones))
    )
    nothing = messages.CompressionSettings(form=messages.COMPRESSION_FORM_BEHAVIORAL, action_column="gone")
    failed = await compressed(served, settings=nothing)
    rows = await analysed(served, analysis=pb.ANALYSIS_KIND_ROWS)

    assert (planned.state, planned.schedule_time) == (messages.LIFECYCLE_JOB_STATE_PENDING, when)
    assert again.job_id == planned.job_id
    assert dry.validate_only
    assert dry.compression.results[0].segment_id == ""
    assert impact.record_count == COUNT
    assert impact.accuracy_before.metric == impact.accuracy_after.metric == "accuracy"
    assert impact.accuracy_before.value > 0.8
    assert 0.9 < impact.value_retained <= 1
    assert impact.compressed_bytes < impact.original_bytes
    assert (wrong.code.name, wrong.reason) == ("INVALID_ARGUMENT", "VALIDATION_FAILED")
    assert not rows[0].header.gaps
    assert turned.code.name == "INVALID_ARGUMENT"
    assert failed.state == messages.LIFECYCLE_JOB_STATE_FAILED
    assert "action_column" in failed.error.message
