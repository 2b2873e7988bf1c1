"""Raw usage moves to cold records and leaves the ledger; every answer that rested on it stays right, or says so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tallygate_server.catalog import CatalogSource
from tallygate_server.corrections import Reversal
from tallygate_server.domain.call import IncrementAnswer
from tallygate_server.domain.identifier import AccountId, FeatureKey
from tallygate_server.domain.lifecycle import DataSelection, StorageTier
from tallygate_server.errors import EntryNotFound, InvalidRequest
from tallygate_server.grants import NewGrant
from tallygate_server.grants.rules import AskedKind
from tallygate_server.lifecycle.assembly import Lifecycle
from tallygate_server.lifecycle.own_data import usage
from tallygate_server.lifecycle.own_data.usage import export_horizon
from tallygate_server.rollups import UsageQuery
from tallygate_server.service import Service
from tallygate_server.simulation import SimulatedAccount, SimulationTotals, WantedSimulation
from tallygate_server.storage import usage_export
from tallygate_server.storage.data_segments import read_segments
from tallygate_server.storage.engine import connect
from tallygate_server.storage.usage_sums import Subject
from tallygate_server.validation import Difference, ValidationTotals
from tests.support.acme import ANN, BOB, a_check, an_increment, fetch, outcome_of
from tests.support.clock import FrozenClock
from tests.support.eventually import eventually
from tests.support.lifecycle import lifecycles
from tests.support.recording import CATALOG, METERED, NOON, a_call, a_job, apply_metered_catalog, metered_services

TABLES = {"usage_entry": "usage_entries", "usage_event": "usage_events", "usage_denial": "usage_denials"}
DAY = timedelta(days=1)
LATER = datetime(2026, 6, 20, tzinfo=UTC)
"""Sixty days before, it is the 21st of April: March lies wholly beyond, April does not."""
RETENTION = "usage_retention_days: 60\n"


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(NOON)


@pytest.fixture
async def lifecycle(
    fresh_database: str, fresh_redis: str, tmp_path: Path, clock: FrozenClock
) -> AsyncIterator[Lifecycle]:
    """Usage of two accounts in March and April, with partitions of their own, long ago."""
    await apply_metered_catalog(fresh_database, more=RETENTION)
    await make_partitions(fresh_database, "2026-03-01", "2026-04-01")
    async with (
        metered_services(fresh_database, fresh_redis, clock=clock) as [service],
        lifecycles(fresh_database, service, tmp_path) as made,
    ):
        credit = NewGrant(
            feature_key=FeatureKey("soft_requests"), kind=AskedKind.BONUS, credit_quantity=40, reason="a test"
        )
        for account_id in (ANN, BOB):
            await service.accounts.identify(METERED, [], account_id=account_id)
            await service.grants.create(METERED, account_id, credit)
            for number in range(6):
                events = [a_call(f"{account_id}/{number}", account_id=account_id), a_job(f"{account_id}/{number}")]
                await service.recorder.record(METERED, events)
                await outcome_of(service, count(account_id, 5))
                await outcome_of(service, count(account_id, 3, "seconds"))
                # Denied, for ten are the limit.
                await outcome_of(service, count(account_id, 11, "requests"))
                clock.advance(5 * DAY)
            clock.set(NOON)
        clock.set(LATER)
        await all_rolled_up(service, fresh_database)
        await eventually(lambda: all_denials_written(fresh_database))
        yield made


def count(account_id: AccountId, quantity: int = 1, feature_key: str = "soft_requests") -> Any:
    return an_increment(
        feature_key, quantity, account_id=account_id, tenant_id=METERED, dimensions={"model": "small", "n": "1"}
    )


async def make_partitions(url: str, *starts: str) -> None:
    owner = await connect(url)
    try:
        for start in starts:
            name = start[:7].replace("-", "_")
            for table in TABLES.values():
                await owner.execute(
                    f"CREATE TABLE {table}_{name} PARTITION OF {table}"
                    f" FOR VALUES FROM ('{start}Z') TO ('{start}Z'::timestamptz + interval '1 month')"
                )
    finally:
        await owner.close()


async def partitions(url: str) -> set[str]:
    rows = await fetch(url, "SELECT inhrelid::regclass::text AS name FROM pg_inherits")
    return {row["name"] for row in rows}


async def all_rolled_up(service: Service, url: str) -> None:
    async def done() -> bool:
        await service.roll_up.run()
        [row] = await fetch(
            url,
            "SELECT (SELECT max(commit_xid) FROM usage_entries) <"
            " (SELECT next_xid FROM usage_rollup_progress WHERE source = 'entries')"
            " AND (SELECT max(commit_xid) FROM usage_events) <"
            " (SELECT next_xid FROM usage_rollup_progress WHERE source = 'events')",
        )
        return bool(row[0])

    await eventually(done)


async def all_denials_written(url: str) -> bool:
    [row] = await fetch(url, "SELECT count(*) FROM usage_denials")
    return bool(row[0] == 12)


async def rows_of(url: str, data_type: str) -> list[dict[str, Any]]:
    rows = await fetch(url, f"SELECT * FROM {TABLES[data_type]} ORDER BY tenant_id, account_id, recorded_time, 3")
    return [dict(row) for row in rows]


async def records_of(lifecycle: Lifecycle, data_type: str) -> list[dict[str, Any]]:
    """Return what was exported, in the shape of the rows."""
    async with lifecycle.database.tenant_transaction(METERED) as connection:
        segments = await read_segments(connection, METERED, DataSelection(data_types=(data_type,)))
    assert {segment.tier for segment in segments} <= {StorageTier.COLD}
    records = []
    for segment in sorted(segments, key=lambda segment: (segment.account_id, segment.start_time)):
        for record in (await lifecycle.segments.read(segment)).to_pylist():
            owner = {"tenant_id": METERED, "account_id": segment.account_id, "recorded_time": record.pop("time")}
            records.append(owner | record)
    return records


async def differences(service: Service) -> Sequence[Difference]:
    async with aclosing(service.validations.validate()) as updates:
        found = [update async for update in updates]
    assert isinstance(found[-1], ValidationTotals)
    return [update for update in found if isinstance(update, Difference)]


async def sums(service: Service, **more: Any) -> list[tuple[Any, ...]]:
    subjects = ((Subject.FEATURE, "soft_requests"), (Subject.METER, "tokens"), (Subject.METER, "authors"))
    found: list[tuple[Any, ...]] = []
    for subject, key in subjects:
        wanted: dict[str, Any] = {"start": NOON - 20 * DAY, "end": LATER, "limit": 100, "group_by": ("account_id",)}
        query = UsageQuery(tenant_id=METERED, subject=subject, subject_key=key, **(wanted | more))
        answer = await service.usage_sums.query(query)
        found += [(key, row.group, row.quantity, row.event_count) for row in answer.rows]
    return found


async def test_what_was_exported_reads_back_as_it_was_and_every_answer_stays(
    lifecycle: Lifecycle, fresh_database: str, clock: FrozenClock
) -> None:
    service = lifecycle.service
    odd = """reason_text = E'a, "b"\\n\\tc \\u00e9', plan_key = '', actor = 'NULL', request_id = NULL"""
    await execute(fresh_database, f"UPDATE usage_entries SET {odd} WHERE recorded_time < '2026-03-16Z'")
    before = {data_type: await rows_of(fresh_database, data_type) for data_type in TABLES}
    horizon = export_horizon(clock.now(), 60 * DAY)
    past = {kind: [row for row in rows if row["recorded_time"] < horizon] for kind, rows in before.items()}
    assert all(0 < len(past[kind]) < len(before[kind]) for kind in TABLES)
    assert any(row["credits"] for row in past["usage_entry"])
    assert {row["reason_text"] for row in past["usage_entry"]} == {None, 'a, "b"\n\tc é'}
    sums_before, since = await sums(service), NOON + 28 * DAY
    explained = await service.explainer.explain(a_check("soft_requests", tenant_id=METERED), since)
    assert await differences(service) == []

    planned = await lifecycle.own_data.run("export_usage", validate_only=True)
    assert {kind: await rows_of(fresh_database, kind) for kind in TABLES} == before
    done = await lifecycle.own_data.run("export_usage")

    total = sum(map(len, past.values()))
    assert (planned["records"], done["records"]) == (total, total)
    for data_type, rows in past.items():
        assert await records_of(lifecycle, data_type) == rows, data_type
        left = [row for row in before[data_type] if row not in rows]
        assert await rows_of(fresh_database, data_type) == left
    # March is empty now, and April is not.
    assert {"usage_entries_2026_03", "usage_events_2026_03", "usage_denials_2026_03"}.isdisjoint(
        await partitions(fresh_database)
    )
    assert {"usage_entries_2026_04", "usage_entries_default"} <= await partitions(fresh_database)
    assert done["partitions_dropped"] == 3
    # Books, sums and explanations are what they were.
    assert await differences(service) == []
    assert await sums(service) == sums_before
    again = await service.explainer.explain(a_check("soft_requests", tenant_id=METERED), since)
    assert (again.answer, again.history_complete) == (explained.answer, True)
    assert await lifecycle.own_data.run("export_usage") == {}
    # Counting goes on, also on a counter that began before.
    assert isinstance(await outcome_of(service, count(ANN)), IncrementAnswer)
    assert await differences(service) == []


async def test_what_needs_the_exported_lines_says_that_they_were_exported(
    lifecycle: Lifecycle, fresh_database: str
) -> None:
    service = lifecycle.service
    exported = (await rows_of(fresh_database, "usage_entry"))[0]
    await lifecycle.own_data.run("export_usage")

    reversal = Reversal(
        tenant_id=METERED, account_id=ANN, entry_id=str(exported["entry_id"]), reason_text="a test", actor="tester"
    )
    with pytest.raises(EntryNotFound, match="moved to the archive"):
        await service.corrections.reverse(reversal)
    with pytest.raises(InvalidRequest, match="by the minute"):
        await sums(service, start=exported["event_time"] + timedelta(seconds=1))
    with pytest.raises(InvalidRequest, match="cannot be replayed"):
        async with aclosing(
            service.simulations.simulate(WantedSimulation(tenant_id=METERED, draft=None, start_time=NOON))
        ) as updates:
            await anext(updates)
    explained = await service.explainer.explain(a_check("soft_requests", tenant_id=METERED), NOON + DAY)
    assert not explained.history_complete


async def test_a_draft_s_longer_period_knows_what_was_exported(lifecycle: Lifecycle) -> None:
    catalog = CATALOG.format(tenant=METERED, auto_provision="true") + RETENTION
    day, lifetime = "seconds: {limit: 1000000000000, period: day", "seconds: {limit: 7000, period: lifetime"
    assert day in catalog
    wanted = WantedSimulation(
        tenant_id=METERED,
        draft=CatalogSource(catalog.replace(day, lifetime)),
        start_time=datetime(2026, 4, 1, tzinfo=UTC),
    )

    before = await simulated(lifecycle.service, wanted)
    await lifecycle.own_data.run("export_usage")

    assert await simulated(lifecycle.service, wanted) == before
    assert before[0].denied_count > 0


async def simulated(service: Service, wanted: WantedSimulation) -> tuple[SimulationTotals, int]:
    """Return the totals, and how many accounts would have been denied something."""
    async with aclosing(service.simulations.simulate(wanted)) as updates:
        found = [update async for update in updates]
    assert isinstance(found[-1], SimulationTotals)
    accounts = sum(isinstance(update, SimulatedAccount) for update in found)
    return replace(found[-1], duration=timedelta()), accounts


async def test_whoever_dies_between_writing_and_deleting_loses_nothing_and_doubles_nothing(
    lifecycle: Lifecycle, fresh_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await rows_of(fresh_database, "usage_entry")

    async def die(*args: Any) -> bool:
        await usage_export.take_out(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(usage, "take_out", die)
    with pytest.raises(KeyboardInterrupt):
        await lifecycle.own_data.run("export_usage")
    monkeypatch.undo()

    assert await rows_of(fresh_database, "usage_entry") == before
    assert await records_of(lifecycle, "usage_entry") == []
    await lifecycle.own_data.run("export_usage")
    records = await records_of(lifecycle, "usage_entry")
    assert records + await rows_of(fresh_database, "usage_entry") != []
    assert sorted([*records, *await rows_of(fresh_database, "usage_entry")], key=_id) == sorted(before, key=_id)
    assert await differences(lifecycle.service) == []


def _id(row: dict[str, Any]) -> tuple[str, int]:
    return row["account_id"], row["entry_id"]


async def test_what_is_not_in_the_rollups_waits(lifecycle: Lifecycle, fresh_database: str) -> None:
    before = await rows_of(fresh_database, "usage_entry")
    await execute(fresh_database, "UPDATE usage_rollup_progress SET next_xid = 0 WHERE source = 'entries'")

    done = await lifecycle.own_data.run("export_usage")

    assert done["accounts_waiting"] == 2
    assert await rows_of(fresh_database, "usage_entry") == before
    assert "usage_entries_2026_03" in await partitions(fresh_database)
    await execute(fresh_database, f"UPDATE usage_rollup_progress SET next_xid = {2**62} WHERE source = 'entries'")


@pytest.mark.parametrize(("bound", "reached"), [("ROWS_PER_SEGMENT_MAX", 2), ("BYTES_PER_SEGMENT_MAX", 250)])
async def test_batches_are_bounded_and_add_up(
    lifecycle: Lifecycle, fresh_database: str, monkeypatch: pytest.MonkeyPatch, bound: str, reached: int
) -> None:
    monkeypatch.setattr(usage, bound, reached)
    before = await rows_of(fresh_database, "usage_entry")

    done = await lifecycle.own_data.run("export_usage")

    assert done["segments"] > 6
    assert sorted(
        [*await records_of(lifecycle, "usage_entry"), *await rows_of(fresh_database, "usage_entry")], key=_id
    ) == sorted(before, key=_id)
    assert await differences(lifecycle.service) == []


async def test_a_partition_in_use_is_not_waited_for(lifecycle: Lifecycle, fresh_database: str) -> None:
    owner = await asyncpg.connect(fresh_database)
    try:
        async with owner.transaction():
            await owner.execute("LOCK TABLE ONLY usage_denials IN ACCESS SHARE MODE")
            done = await lifecycle.own_data.run("export_usage")
            assert done["partitions_dropped"] == 2
            assert "usage_denials_2026_03" in await partitions(fresh_database)
    finally:
        await owner.close()
    assert await lifecycle.own_data.run("export_usage") == {"partitions_dropped": 1}


async def execute(url: str, sql: str) -> None:
    owner = await asyncpg.connect(url)
    try:
        await owner.execute(sql)
    finally:
        await owner.close()


@pytest.mark.parametrize(
    ("now", "days", "horizon"),
    [
        (datetime(2026, 6, 30, tzinfo=UTC), 60, datetime(2026, 5, 1, tzinfo=UTC)),
        (datetime(2026, 6, 29, 23, tzinfo=UTC), 60, datetime(2026, 4, 1, tzinfo=UTC)),
        # Less than answers to repeated requests need counts as that.
        (datetime(2026, 6, 10, tzinfo=UTC), 1, datetime(2026, 5, 1, tzinfo=UTC)),
        (datetime(2026, 6, 9, 23, tzinfo=UTC), 1, datetime(2026, 4, 1, tzinfo=UTC)),
    ],
)
def test_months_lie_wholly_beyond_the_retention(now: datetime, days: int, horizon: datetime) -> None:
    assert export_horizon(now, timedelta(days=days)) == horizon
