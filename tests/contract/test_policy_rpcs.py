"""Policies, holds, classification and clean-up through a real channel, on both transports, over real stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode, aio
from sqlalchemy import text

from tallygate.v1 import data_lifecycle_pb2 as data
from tallygate.v1 import data_lifecycle_service_pb2 as wire
from tallygate_server.catalog import CatalogSource
from tallygate_server.domain.identifier import TenantId
from tallygate_server.domain.lifecycle import DataSelection, Dataset, Segment, StorageTier
from tallygate_server.lifecycle.jobs import LifecycleJobRunner
from tallygate_server.storage.data_segments import add_reads, read_segments
from tallygate_server.transport.convert import to_api_instant
from tallygate_server.transport.server import TransportKind
from tests.support.acme import ANN
from tests.support.clock import FrozenClock
from tests.support.lifecycle import NOON, a_dataset, a_table
from tests.support.lifecycle_server import TRANSPORTS, ServedLifecycle, serving_lifecycle
from tests.support.transport_servers import Refusal, refusal_of

SPORTS = TenantId("sports")
CATALOG = """
tenant: sports
default_plan: free
auto_provision: true
features:
  history_days: {kind: config}
  data_retention_days: {kind: config}
plans:
  free: {rank: 0, allowances: {history_days: 180, data_retention_days: 730}}
"""


@pytest.fixture
async def served(
    request: pytest.FixtureRequest, fresh_database: str, fresh_redis: str, tmp_path: Path
) -> AsyncIterator[ServedLifecycle]:
    clock = FrozenClock(NOON)
    kind: TransportKind = getattr(request, "param", "native")
    async with serving_lifecycle(kind, fresh_database, fresh_redis, tmp_path, clock=clock) as served:
        await served.lifecycle.service.catalogs.apply(CatalogSource(CATALOG))
        yield served


async def put(
    served: ServedLifecycle, dataset: Dataset, *, days_ago: float, count: int = 10, quality: float = 1.0, **columns: Any
) -> Segment:
    segments = served.lifecycle.segments
    table = a_table(NOON - timedelta(days=days_ago, seconds=count), count, **columns)
    prepared = await segments.prepare(dataset, table, tier=StorageTier.HOT, quality_score=quality)
    async with segments.database.tenant_transaction(dataset.tenant_id) as connection:
        await segments.put_hot(connection, prepared)
    return prepared.segment


async def manifest(served: ServedLifecycle) -> dict[str, int]:
    async with served.lifecycle.database.tenant_transaction(SPORTS) as connection:
        return {
            segment.segment_id: segment.record_count
            for segment in await read_segments(connection, SPORTS, DataSelection())
        }


async def refused(call: Any) -> Refusal:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return refusal_of(caught.value)


async def done(served: ServedLifecycle, answer: Any) -> data.LifecycleJob:
    """Run what was asked for and return the job as it is afterwards."""
    await LifecycleJobRunner(served.lifecycle.jobs).run_due()
    asked = wire.GetLifecycleJobRequest(tenant_id=SPORTS, job_id=answer.job.job_id)
    job: data.LifecycleJob = (await served.stub.GetLifecycleJob(asked)).job
    return job


def set_policy(served: ServedLifecycle, policy: data.RetentionPolicy, **more: Any) -> Any:
    request = wire.SetRetentionPolicyRequest(tenant_id=SPORTS, policy=policy, actor="jo", **more)
    return served.stub.SetRetentionPolicy(request)


def a_policy(data_type: str = "ride", **more: Any) -> data.RetentionPolicy:
    return data.RetentionPolicy(data_type=data_type, **more)


@pytest.mark.parametrize("served", TRANSPORTS, indirect=True)
async def test_a_policy_comes_back_as_it_was_set(served: ServedLifecycle) -> None:
    policy = a_policy(
        critical_retention_days=-1,
        standard_retention_days=365,
        compression_threshold_days=0,
        deletion_threshold_days=90,
        ai_value_threshold=0.75,
        quality_threshold=0.0,
        hot_days=7,
        compression=data.CompressionSettings(
            form=data.COMPRESSION_FORM_SUMMARY, zones={"speed": data.ZoneBounds(values=[1, 2])}
        ),
        exceptions=[
            data.RetentionException(
                account_id=ANN, start_time=to_api_instant(NOON), retention_days=-1, reason_text="a study"
            )
        ],
        importance_rules=[
            data.ImportanceRule(name="sprint", column="speed", min_value=0, importance=data.DATA_IMPORTANCE_CRITICAL)
        ],
        training_purpose="ai_training",
    )

    answer = await set_policy(served, policy, expected_version=0)
    stale = await refused(set_policy(served, policy, expected_version=0))
    await set_policy(served, a_policy("*"))
    got = await served.stub.GetRetentionPolicy(
        wire.GetRetentionPolicyRequest(tenant_id=SPORTS, data_type="ride", account_id=ANN)
    )
    other = await served.stub.GetRetentionPolicy(wire.GetRetentionPolicyRequest(tenant_id=SPORTS, data_type="run"))

    assert (stale.code, stale.reason) == (StatusCode.FAILED_PRECONDITION, "POLICY_VERSION_MISMATCH")
    set_by_server = data.RetentionPolicy(
        tenant_id=SPORTS, version=1, update_time=to_api_instant(NOON), actor="jo", warm_days=90
    )
    settings = got.policy.compression
    assert (settings.level, settings.max_error_ratio) == (5, 0.01)
    expected = data.RetentionPolicy()
    expected.MergeFrom(policy)
    expected.MergeFrom(set_by_server)
    expected.compression.CopyFrom(settings)
    assert got.policy == answer.policy == expected
    assert (got.effective_retention_days, got.visible_days) == (365, -1)
    # Nobody knows of ann yet. What nobody said of a sort of data is that it is kept.
    assert (other.policy.data_type, other.policy.standard_retention_days, other.policy.deletion_threshold_days) == (
        "*", -1, -1,
    )  # fmt: skip
    await served.lifecycle.service.accounts.provision(SPORTS, ANN)
    known = await served.stub.GetRetentionPolicy(
        wire.GetRetentionPolicyRequest(tenant_id=SPORTS, data_type="ride", account_id=ANN)
    )
    assert (known.effective_retention_days, known.visible_days) == (730, 180)
    page = await served.stub.ListRetentionPolicies(wire.ListRetentionPoliciesRequest(tenant_id=SPORTS, page_size=1))
    rest = await served.stub.ListRetentionPolicies(
        wire.ListRetentionPoliciesRequest(tenant_id=SPORTS, page_size=1, page_token=page.next_page_token)
    )
    assert [each.data_type for each in (*page.policies, *rest.policies)] == ["*", "ride"]
    assert rest.next_page_token == ""


async def test_what_makes_no_sense_is_refused_with_its_field(served: ServedLifecycle) -> None:
    refusal = await refused(set_policy(served, a_policy(hot_days=100)))
    unknown = await refused(
        served.stub.SetRetentionPolicy(wire.SetRetentionPolicyRequest(tenant_id="nobody", policy=a_policy()))
    )

    assert (refusal.code, refusal.reason) == (StatusCode.INVALID_ARGUMENT, "VALIDATION_FAILED")
    assert "policy.hot_days" in refusal.message
    assert unknown.reason == "TENANT_NOT_FOUND"


@pytest.mark.parametrize("served", TRANSPORTS, indirect=True)
async def test_what_is_on_hold_is_not_cleaned_up_until_it_is_released(served: ServedLifecycle) -> None:
    dataset = await a_dataset(served.lifecycle, tenant_id=SPORTS)
    held = await put(served, dataset, days_ago=50, quality=0.1)
    low = await put(served, dataset, days_ago=40, quality=0.1, count=20)
    good = await put(served, dataset, days_ago=30)
    cut = await put(served, dataset, days_ago=20 - 5 / 86_400, quality=0.2)
    hold = await served.stub.CreateLegalHold(
        wire.CreateLegalHoldRequest(
            tenant_id=SPORTS,
            selection=data.DataSelection(account_id=ANN, end_time=to_api_instant(held.end_time)),
            reason_text="a suit",
            request_id="r1",
        )
    )
    request = wire.CleanupDataRequest(
        tenant_id=SPORTS,
        cutoff_time=to_api_instant(NOON - timedelta(days=20)),
        data_types=["ride"],
        validate_only=True,
        actor="jo",
    )

    dry = await done(served, await served.stub.CleanupData(request))
    untouched = await manifest(served)
    request.validate_only = False
    job = await done(served, await served.stub.CleanupData(request))

    assert set(untouched) == {held.segment_id, low.segment_id, good.segment_id, cut.segment_id}
    assert job.state == dry.state == data.LIFECYCLE_JOB_STATE_SUCCEEDED
    for report in (dry.cleanup, job.cleanup):
        # One whole segment, and five of the ten records of that which the cutoff cuts.
        assert (report.segment_count, report.record_count) == (1, 25)
        assert dict(report.record_count_by_type) == {"ride": 25}
        assert report.freed_bytes > low.stored_bytes
        assert {(each.segment_id, each.kind) for each in report.skipped} == {
            (held.segment_id, "legal_hold"),
            (good.segment_id, "policy"),
        }
        assert {each.importance for each in report.sample} == {data.DATA_IMPORTANCE_LOW}
    left = await manifest(served)
    assert left[held.segment_id] == left[good.segment_id] == 10
    assert sorted(left.values()) == [5, 10, 10]
    async with served.lifecycle.database.tenant_transaction(SPORTS) as connection:
        [removals] = await connection.execute(text("SELECT * FROM storage_removals"))
    assert (removals.data_type, removals.record_count, removals.day) == ("ride", 25, NOON.date())

    released = await served.stub.ReleaseLegalHold(
        wire.ReleaseLegalHoldRequest(
            tenant_id=SPORTS, legal_hold_id=hold.legal_hold.legal_hold_id, reason_text="it is over"
        )
    )
    again = await done(served, await served.stub.CleanupData(request))
    assert hold.record_count == 10
    assert released.legal_hold.release_time == to_api_instant(NOON)
    assert again.cleanup.record_count == 10
    open_holds = await served.stub.ListLegalHolds(wire.ListLegalHoldsRequest(tenant_id=SPORTS))
    all_holds = await served.stub.ListLegalHolds(
        wire.ListLegalHoldsRequest(tenant_id=SPORTS, include_released=True, account_id=ANN)
    )
    assert not open_holds.legal_holds
    assert [each.reason_text for each in all_holds.legal_holds] == ["a suit"]


async def test_critical_data_stops_a_clean_up_unless_it_is_left_out(served: ServedLifecycle) -> None:
    rule = data.ImportanceRule(name="sprint", column="speed", min_value=8.5, importance=data.DATA_IMPORTANCE_CRITICAL)
    await set_policy(served, a_policy("*", deletion_threshold_days=1, importance_rules=[rule]))
    dataset = await a_dataset(served.lifecycle, tenant_id=SPORTS)
    low = await put(served, dataset, days_ago=50, quality=0.1)
    critical = await put(served, dataset, days_ago=40, quality=0.1, count=40)
    request = wire.CleanupDataRequest(
        tenant_id=SPORTS,
        cutoff_time=to_api_instant(NOON),
        data_types=["ride"],
        max_importance=data.DATA_IMPORTANCE_CRITICAL,
    )

    failed = await done(served, await served.stub.CleanupData(request))
    untouched = await manifest(served)
    request.max_importance = data.DATA_IMPORTANCE_HIGH
    job = await done(served, await served.stub.CleanupData(request))

    assert failed.state == data.LIFECYCLE_JOB_STATE_FAILED
    assert "critical" in failed.error.message
    assert set(untouched) == {low.segment_id, critical.segment_id}
    assert set(await manifest(served)) == {critical.segment_id}
    assert [(each.segment_id, each.kind) for each in job.cleanup.skipped] == [(critical.segment_id, "critical")]


async def test_classification_is_explained_term_by_term_and_paged(served: ServedLifecycle) -> None:
    await set_policy(served, a_policy(standard_retention_days=365, deletion_threshold_days=30))
    dataset = await a_dataset(served.lifecycle, tenant_id=SPORTS)
    usual = [await put(served, dataset, days_ago=days) for days in (100, 90, 80)]
    odd = await put(served, dataset, days_ago=70, heart_rate=[250 + each for each in range(10)])
    bad = await put(served, dataset, days_ago=60, quality=0.1)
    async with served.lifecycle.database.tenant_transaction(SPORTS) as connection:
        await add_reads(connection, SPORTS, [usual[2].segment_id], now=NOON - timedelta(days=40))
        await add_reads(connection, SPORTS, [usual[2].segment_id], now=NOON - timedelta(days=4))
    request = wire.ClassifyDataRequest(tenant_id=SPORTS, selection=data.DataSelection(account_id=ANN), page_size=3)

    first = await served.stub.ClassifyData(request)
    request.page_token = first.next_page_token
    rest = await served.stub.ClassifyData(request)

    found = {each.segment_id: each for each in (*first.classifications, *rest.classifications)}
    assert list(found) == [each.segment_id for each in (*usual, odd, bad)]
    assert rest.next_page_token == ""
    for each in found.values():
        assert [term.name for term in each.terms] == ["recency", "rarity", "quality", "use"]
        mean = sum(term.value * term.weight for term in each.terms) / sum(term.weight for term in each.terms)
        assert each.training_value == pytest.approx(mean)
        assert each.retention_days == 365
        assert "retention" in each.explanation or "keeps" in each.explanation
    rarity = {segment_id: each.terms[1].value for segment_id, each in found.items()}
    assert max(rarity, key=lambda segment_id: rarity[segment_id]) == odd.segment_id
    assert (found[usual[2].segment_id].access_count, found[usual[1].segment_id].access_count) == (1, 0)
    assert found[usual[2].segment_id].access_time == to_api_instant((NOON - timedelta(days=4)).replace(hour=0))
    assert not found[odd.segment_id].HasField("access_time")
    assert found[bad.segment_id].importance == data.DATA_IMPORTANCE_LOW
    assert found[bad.segment_id].storage_optimization == data.STORAGE_OPTIMIZATION_DELETE
    assert "quality_threshold" in found[bad.segment_id].explanation
    assert found[usual[0].segment_id].storage_optimization == data.STORAGE_OPTIMIZATION_COMPRESS
