"""Policies and holds over a real database: versions, effects, plans, and removals that are under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tallygate_server.catalog import CatalogSource
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.lifecycle import DataSelection, Dataset, Segment, StorageTier
from tallygate_server.domain.retention import RetentionException, RetentionPolicy
from tallygate_server.domain.retention_rules import PLAN_GRACE
from tallygate_server.errors import (
    InvalidRequest,
    LegalHoldActive,
    NotFound,
    PolicyVersionMismatch,
    RequestIdReused,
    TenantNotFound,
)
from tallygate_server.lifecycle.assembly import Lifecycle
from tallygate_server.lifecycle.policies import NewLegalHold
from tallygate_server.storage.connection import Connection
from tests.support.acme import ANN, change_plan, fetch, services
from tests.support.clock import FrozenClock
from tests.support.eventually import eventually
from tests.support.lifecycle import a_dataset, a_table, lifecycles

TENANT = TenantId("sports")
BOB = AccountId("bob")
CATALOG = """
tenant: sports
default_plan: free
auto_provision: true
features:
  history_days: {kind: config}
  data_retention_days: {kind: config}
plans:
  free: {rank: 0, allowances: {history_days: 180, data_retention_days: 30}}
  pro: {rank: 1, allowances: {history_days: unlimited, data_retention_days: unlimited}}
"""


@pytest.fixture
async def lifecycle(fresh_database: str, fresh_redis: str, tmp_path: Path) -> AsyncIterator[Lifecycle]:
    async with (
        services(fresh_database, fresh_redis, clock=FrozenClock()) as [service],
        lifecycles(fresh_database, service, tmp_path) as made,
    ):
        await service.catalogs.apply(CatalogSource(CATALOG))
        yield made


async def put(lifecycle: Lifecycle, dataset: Dataset, *, days_ago: float, count: int = 10) -> Segment:
    start = lifecycle.clock.now() - timedelta(days=days_ago, seconds=count)
    prepared = await lifecycle.segments.prepare(dataset, a_table(start, count), tier=StorageTier.HOT)
    async with lifecycle.database.tenant_transaction(dataset.tenant_id) as connection:
        await lifecycle.segments.put_hot(connection, prepared)
    return prepared.segment


def a_policy(data_type: str = "ride", **more: Any) -> RetentionPolicy:
    return RetentionPolicy(tenant_id=TENANT, data_type=data_type, **more)


def a_hold(reason: str = "a suit", **more: Any) -> NewLegalHold:
    return NewLegalHold(selection=DataSelection(**more), reason_text=reason)


async def test_policies_have_versions_and_their_own_type_before_all(lifecycle: Lifecycle) -> None:
    policies = lifecycle.policies
    await policies.set(a_policy("*", standard_retention_days=100), actor="jo")
    first, _ = await policies.set(a_policy(standard_retention_days=10), expected_version=0, actor="jo")
    second, _ = await policies.set(a_policy(standard_retention_days=20), expected_version=1, actor="kim")
    dry, _ = await policies.set(a_policy(standard_retention_days=30), validate_only=True, actor="kim")

    with pytest.raises(PolicyVersionMismatch):
        await policies.set(a_policy(), expected_version=1, actor="jo")

    assert (first.version, second.version, dry.version) == (1, 2, 3)
    assert (await policies.policy_for(TENANT, "ride")) == second
    assert (await policies.policy_for(TENANT, "run")).standard_retention_days == 100
    assert [(each.data_type, each.version) for each in await policies.page(TENANT, limit=10)] == [
        ("*", 1),
        ("ride", 2),
    ]
    assert [each.data_type for each in await policies.page(TENANT, after="*", limit=10)] == ["ride"]
    with pytest.raises(TenantNotFound):
        await policies.page(TenantId("nobody"), limit=1)


async def test_a_policy_that_makes_no_sense_names_the_fields(lifecycle: Lifecycle) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await lifecycle.policies.set(
            a_policy(hot_days=91, deletion_threshold_days=1, compression_threshold_days=2), actor="jo"
        )

    assert [each.field for each in caught.value.violations] == ["policy.compression_threshold_days", "policy.hot_days"]


async def test_the_effect_is_told_before_it_happens(lifecycle: Lifecycle) -> None:
    await lifecycle.service.accounts.provision(TENANT, ANN)
    ride = await a_dataset(lifecycle, tenant_id=TENANT)
    bobs = await a_dataset(lifecycle, tenant_id=TENANT, account_id=BOB)
    run = await a_dataset(lifecycle, tenant_id=TENANT, data_type="run")
    await put(lifecycle, ride, days_ago=31, count=1)
    await put(lifecycle, ride, days_ago=29, count=2)
    await put(lifecycle, bobs, days_ago=101, count=4)
    await put(lifecycle, bobs, days_ago=99, count=8)
    await put(lifecycle, run, days_ago=365, count=16)
    await lifecycle.holds.create(TENANT, a_hold(data_types=("run",)), actor="jo")

    wish = a_policy(standard_retention_days=100, compression_threshold_days=30)
    _, effect = await lifecycle.policies.set(wish, validate_only=True, actor="jo")
    kept = RetentionException(account_id=BOB, retention_days=-1, reason_text="a study")
    _, excepted = await lifecycle.policies.set(
        a_policy(standard_retention_days=100, exceptions=(kept,)), validate_only=True, actor="jo"
    )
    _, for_all = await lifecycle.policies.set(
        a_policy("*", standard_retention_days=1, compression_threshold_days=1), validate_only=True, actor="jo"
    )

    # Ann's plan keeps 30 days; bob is no account, so the policy alone counts.
    assert (effect.deletable_records, effect.compressible_records, effect.plan_bound_accounts) == (1 + 4, 1 + 4 + 8, 1)
    assert excepted.deletable_records == 1
    assert (for_all.deletable_records, for_all.compressible_records) == (1 + 4 + 8, 15)
    assert (await lifecycle.policies.policy_for(TENANT, "ride")).version == 0


async def test_the_plan_says_what_is_kept_and_seen(lifecycle: Lifecycle) -> None:
    policies, now = lifecycle.policies, lifecycle.clock.now()
    await lifecycle.service.accounts.provision(TENANT, ANN)
    await policies.set(a_policy(standard_retention_days=100), actor="jo")

    free = await policies.get(TENANT, "ride", ANN)
    assert (free.effective_retention_days, free.visible_days) == (30, 180)
    assert await policies.visible_start(TENANT, ANN, now) == now - timedelta(days=180)
    assert await policies.effective_retention_days(TENANT, ANN, "ride", now) == 30
    await change_plan(lifecycle.service, "pro", account_id=ANN, tenant_id=TENANT)
    pro = await policies.get(TENANT, "ride", ANN)

    assert (pro.effective_retention_days, pro.visible_days) == (-1, -1)
    assert await policies.visible_start(TENANT, ANN, now) is None
    unknown = await policies.get(TENANT, "ride", BOB)
    assert (unknown.effective_retention_days, unknown.visible_days) == (100, -1)
    assert (await policies.get(TENANT, "ride")).effective_retention_days == 0


async def test_a_plan_that_keeps_less_removes_nothing_for_a_week(lifecycle: Lifecycle) -> None:
    clock, policies = lifecycle.clock, lifecycle.policies
    assert isinstance(clock, FrozenClock)
    await lifecycle.service.accounts.provision(TENANT, ANN)
    await change_plan(lifecycle.service, "pro", account_id=ANN, tenant_id=TENANT)
    clock.advance(timedelta(days=10))
    await change_plan(lifecycle.service, "free", account_id=ANN, tenant_id=TENANT)

    at_once = await policies.get(TENANT, "ride", ANN)
    clock.advance(PLAN_GRACE - timedelta(seconds=1))
    in_time = await policies.get(TENANT, "ride", ANN)
    clock.advance(timedelta(seconds=1))
    afterwards = await policies.get(TENANT, "ride", ANN)

    assert (at_once.effective_retention_days, at_once.visible_days) == (-1, 180)
    assert in_time.effective_retention_days == -1
    assert afterwards.effective_retention_days == 30


async def test_a_hold_is_made_once_for_a_request_listed_and_released(lifecycle: Lifecycle) -> None:
    holds = lifecycle.holds
    dataset = await a_dataset(lifecycle, tenant_id=TENANT)
    await put(lifecycle, dataset, days_ago=2, count=3)

    hold, record_count = await holds.create(TENANT, a_hold(account_id=ANN), request_id="r1", actor="jo")
    again, _ = await holds.create(TENANT, a_hold(account_id=ANN), request_id="r1", actor="kim")
    other, nothing = await holds.create(TENANT, a_hold(data_types=("run",)), actor="jo")
    with pytest.raises(RequestIdReused):
        await holds.create(TENANT, a_hold("another suit", account_id=ANN), request_id="r1", actor="jo")
    with pytest.raises(InvalidRequest):
        await holds.create(TENANT, a_hold(tiers=(StorageTier.COLD,)), actor="jo")
    now = lifecycle.clock.now()
    with pytest.raises(InvalidRequest):
        await holds.create(TENANT, NewLegalHold(selection=DataSelection(), reason_text="x", end_time=now), actor="jo")

    assert (hold, record_count, nothing) == (again, 3, 0)
    listed = await holds.page(TENANT, account_id=BOB, limit=10)
    assert [each.legal_hold_id for each in listed.holds] == [other.legal_hold_id]
    page = await holds.page(TENANT, limit=1)
    rest = await holds.page(TENANT, before=page.position, limit=1)
    assert {each.legal_hold_id for each in page.holds + rest.holds} == {hold.legal_hold_id, other.legal_hold_id}
    assert rest.position is None

    released = await holds.release(TENANT, hold.legal_hold_id, reason="it is over", actor="jo")
    assert released.release_time == now
    assert await holds.release(TENANT, hold.legal_hold_id, reason="twice", actor="jo") == released
    assert len((await holds.page(TENANT, limit=10)).holds) == 1
    assert len((await holds.page(TENANT, include_released=True, limit=10)).holds) == 2
    with pytest.raises(NotFound):
        await holds.release(TENANT, "lh_none", reason="x", actor="jo")


async def test_a_hold_waits_for_removals_under_way_and_stops_those_to_come(lifecycle: Lifecycle) -> None:
    dataset = await a_dataset(lifecycle, tenant_id=TENANT)
    early = await put(lifecycle, dataset, days_ago=3, count=3)
    late = await put(lifecycle, dataset, days_ago=2, count=4)
    checked, go_on = asyncio.Event(), asyncio.Event()

    async def check(connection: Connection) -> None:
        protections = await lifecycle.policies.protections_in(connection, TENANT)
        for segment in (early, late):
            held = protections.why_held(segment, lifecycle.clock.now())
            if held is not None:
                raise LegalHoldActive(held.explanation, legal_hold_id=held.legal_hold_id)
        checked.set()
        await go_on.wait()

    async def remove(segment: Segment) -> None:
        await lifecycle.segments.replace([segment], [], actor="test", action="data.removed", in_transaction=check)

    async def waits() -> bool:
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        return bool((await fetch(lifecycle.database.url, waiting))[0][0])

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(remove(early))
        await checked.wait()
        holding = tasks.create_task(lifecycle.holds.create(TENANT, a_hold(), actor="jo"))
        await eventually(waits)
        assert not holding.done()
        go_on.set()
    _, record_count = holding.result()

    # What was answered is what is left, and it stays.
    assert record_count == 4
    with pytest.raises(LegalHoldActive):
        await remove(late)
    assert (await lifecycle.segments.read(late)).num_rows == 4
