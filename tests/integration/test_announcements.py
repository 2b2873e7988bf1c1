"""Thresholds and the ends of limits are announced once in a period, by the very step that crosses them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tallygate_server.domain.call import IncrementAnswer
from tallygate_server.domain.catalog import FeatureKind
from tallygate_server.domain.usage import EntryKind, usage_marks
from tallygate_server.metering.announcing import step
from tallygate_server.service import Service
from tallygate_server.storage.engine import DatabaseRole, connect
from tallygate_server.storage.ledger import CounterKey, ExactEntry
from tests.support.acme import ACME, allowed, an_increment, change_plan, denied, fetch, services

WORDS = [("percent", 50, 500), ("percent", 80, 800), ("exhausted", 1_000, 1_000), ("percent", 100, 1_000)]


@pytest.fixture
async def pair(acme_database: str, fresh_redis: str) -> AsyncIterator[list[Service]]:
    """Two servers on the same stores."""
    async with services(acme_database, fresh_redis, 2) as both:
        yield both


async def announced(database_url: str, account_id: str = "ann") -> list[dict[str, Any]]:
    connection = await connect(database_url, DatabaseRole.READER)
    try:
        await connection.execute("SELECT set_config('tallygate.tenant_id', $1, false)", ACME)
        rows = await connection.fetch(
            "SELECT type, revision, create_time, payload FROM outbox_events"
            " WHERE type LIKE 'usage.%' AND account_id = $1 ORDER BY event_id",
            account_id,
        )
    finally:
        await connection.close()
    return [json.loads(row["payload"]) | {"type": row["type"], "revision": row["revision"]} for row in rows]


def marks(events: list[dict[str, Any]]) -> list[tuple[str, int, int]]:
    return sorted(
        ((each["kind"], each["threshold"], each["used_quantity"]) for each in events),
        key=lambda mark: (mark[2], mark[0], mark[1]),
    )


async def take_back(service: Service, database_url: str, quantity: int) -> None:
    """Lower the total of Ann's words with a line of the ledger, as a correction does."""
    [row] = await fetch(database_url, "SELECT * FROM usage_counters WHERE feature_key = 'words'")
    key = CounterKey(*(row[name] for name in CounterKey._fields))
    async with service.ledger.exact() as transaction:
        locked = await transaction.lock_counters([(key, row["period_end"])])
        counter = locked[key]
        announcements = step(
            key,
            counter,
            -quantity,
            kind=FeatureKind.COUNTER,
            limit=1_000,
            told_limit=1_000,
            marks=usage_marks(limit=1_000, hard=True, thresholds_percent=[50], thresholds_absolute=[]),
            plan_key="free",
            revision=1,
            entry_id=1,
            period_end=row["period_end"],
            at=service.clock.now(),
        )
        entry = ExactEntry(
            key=key,
            period_end=row["period_end"],
            entry_id=1,
            recorded_time=service.clock.now(),
            quantity=-quantity,
            used_after=counter.used,
            limit=1_000,
            event_time=None,
            request_id=None,
            dimensions=None,
            kind=EntryKind.REVERSAL,
        )
        await transaction.write(counters=locked, entries=[entry], announcements=announcements)
    assert announcements == []
    assert counter.peak == 850


@pytest.mark.parametrize("with_ids", [False, True], ids=["without ids", "with ids"])
async def test_two_thousand_at_once_cross_each_threshold_once(
    pair: list[Service], acme_database: str, *, with_ids: bool
) -> None:
    calls = [an_increment(request_id=f"r{i}" if with_ids else "") for i in range(2_000)]

    outcomes = [
        outcome
        for half in await asyncio.gather(
            *(service.meter.increment_many(calls[i::2], atomic=False) for i, service in enumerate(pair))
        )
        for outcome in half
    ]

    events = await announced(acme_database)
    assert len(allowed(outcomes)) == 1_000
    assert marks(events) == WORDS
    by_entry = {str(answer.entry_id): answer for answer in allowed(outcomes)}
    for event in events:
        answer = by_entry[event["entry_id"]]
        assert answer.used_quantity == event["used_quantity"]
        assert answer.threshold_percent == (100 if event["kind"] == "exhausted" else event["threshold"])


async def test_a_step_over_several_thresholds_crosses_them_all(pair: list[Service], acme_database: str) -> None:
    await pair[0].meter.increment(an_increment("words", 499))
    await pair[1].meter.increment(an_increment("words", 400))

    events = await announced(acme_database)

    assert marks(events) == [("percent", 50, 899), ("percent", 80, 899)]


async def test_the_exact_commit_announces_what_the_group_commit_does(pair: list[Service], acme_database: str) -> None:
    """Ann's call goes with a group; Bob's, in an atomic batch, is decided under lock."""
    await pair[0].meter.increment(an_increment("ten", 10))
    [outcome] = await pair[1].meter.increment_many([an_increment("ten", 10, account_id="bob")], atomic=True)

    of_ann, of_bob = await announced(acme_database), await announced(acme_database, "bob")

    assert isinstance(outcome, IncrementAnswer)
    assert {each["entry_id"] for each in of_bob} == {str(outcome.entry_id)}
    assert marks(of_ann) == marks(of_bob)
    assert len(of_ann) == 4
    for one, other in zip(
        *(sorted(each, key=lambda event: (event["kind"], event["threshold"])) for each in (of_ann, of_bob)), strict=True
    ):
        assert {**one, "entry_id": ""} == {**other, "entry_id": ""}


async def test_a_denied_or_repeated_call_announces_nothing(pair: list[Service], acme_database: str) -> None:
    first = await pair[0].meter.increment_many([an_increment("ten", 10, request_id="all")], atomic=False)
    before = await announced(acme_database)

    again = await pair[1].meter.increment_many(
        [an_increment("ten", 10, request_id="all"), an_increment("ten", 1)], atomic=False
    )

    assert len(allowed(first)) == 1
    assert len(denied(again)) == 1
    assert await announced(acme_database) == before


async def test_a_higher_limit_has_thresholds_of_its_own(pair: list[Service], acme_database: str) -> None:
    await pair[0].meter.increment(an_increment("words", 1_000))
    await change_plan(pair[1], "pro")

    await pair[0].meter.increment(an_increment("words", 99_000))

    events = await announced(acme_database)
    assert marks(events)[4:] == [
        ("exhausted", 100_000, 100_000),
        ("percent", 50, 100_000),
        ("percent", 80, 100_000),
        ("percent", 100, 100_000),
    ]
    assert {each["limit_quantity"] for each in events} == {1_000, 100_000}


async def test_what_was_reached_before_a_correction_is_not_crossed_again(
    pair: list[Service], acme_database: str
) -> None:
    """A total below its period's peak is the exact commit's, until it has passed the peak."""
    await pair[0].meter.increment(an_increment("words", 850))
    await take_back(pair[0], acme_database, 450)
    before = await announced(acme_database)

    answers = [
        await service.meter.increment(an_increment("words", 300, request_id=f"{i}")) for i, service in enumerate(pair)
    ]

    assert [answer.used_quantity for answer in answers] == [700, 1_000]
    assert [answer.threshold_percent for answer in answers] == [0, 100]
    assert marks(await announced(acme_database))[len(before) :] == [
        ("exhausted", 1_000, 1_000),
        ("percent", 100, 1_000),
    ]
    replayed = await pair[0].meter.increment(an_increment("words", 300, request_id="1"))
    assert replayed.threshold_percent == 100
    [counter] = await fetch(acme_database, "SELECT peak_quantity FROM usage_counters WHERE feature_key = 'words'")
    assert counter["peak_quantity"] is None
