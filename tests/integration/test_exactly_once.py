"""A request id is counted once, whoever repeats it, whenever, and whatever was lost in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from tallygate_server.domain.call import IncrementAnswer
from tallygate_server.domain.entitlement import Reason
from tallygate_server.embedded import EmbeddedServers
from tallygate_server.errors import RequestIdReused, RequestInProgress, TallygateError
from tallygate_server.service import Service
from tests.support.acme import (
    ACME,
    ANN,
    BOB,
    allowed,
    an_increment,
    change_plan,
    denied,
    failed,
    fetch,
    outcome_of,
    services,
    used,
)


@pytest.fixture
async def pair(acme_database: str, fresh_redis: str) -> AsyncIterator[list[Service]]:
    async with services(acme_database, fresh_redis, 2) as running:
        yield running


async def count(service: Service, feature_key: str = "words", quantity: int = 1, **more: Any) -> IncrementAnswer:
    return await service.meter.increment(an_increment(feature_key, quantity, **more))


def alike(first: IncrementAnswer, again: IncrementAnswer) -> bool:
    """Tell whether a replay says what the first answer said."""
    return again.replayed and replace(again, replayed=False) == replace(first, replayed=False, held_quantity=0)


async def test_a_hundred_concurrent_repetitions_count_once(pair: list[Service], acme_database: str) -> None:
    increment = an_increment(quantity=3, request_id="r1")

    answers = await asyncio.gather(*(pair[0].meter.increment(increment) for _ in range(100)))

    assert sum(not answer.replayed for answer in answers) == 1
    assert {answer.used_quantity for answer in answers} == {3}
    assert len({answer.entry_id for answer in answers}) == 1
    assert await used(acme_database, "words") == 3


async def test_a_hundred_repetitions_over_two_servers_count_once(pair: list[Service], acme_database: str) -> None:
    increment = an_increment(quantity=3, request_id="r1")

    answers = await asyncio.gather(*(pair[i % 2].meter.increment(increment) for i in range(100)))

    assert sum(not answer.replayed for answer in answers) == 1
    assert {answer.used_quantity for answer in answers} == {3}
    assert len({answer.entry_id for answer in answers}) == 1
    assert await used(acme_database, "words") == 3


async def test_many_ids_raced_by_two_servers_are_each_counted_once(pair: list[Service], acme_database: str) -> None:
    increments = [an_increment(request_id=f"r{i}") for i in range(150)]

    outcomes = await asyncio.gather(
        *(pair[i % 2].meter.increment(increment) for increment in increments for i in range(2))
    )

    assert sum(not answer.replayed for answer in outcomes) == 150
    assert sorted({answer.used_quantity for answer in outcomes}) == list(range(1, 151))
    assert await used(acme_database, "words") == 150


@pytest.mark.parametrize("flush", [False, True])
async def test_a_restarted_server_replays_the_first_answer(
    acme_database: str, fresh_redis: str, servers: EmbeddedServers, *, flush: bool
) -> None:
    async with services(acme_database, fresh_redis) as [service]:
        first = await count(service, "ten", 8, request_id="r1")
        await count(service, "ten", request_id="r2")
    if flush:
        await servers.flush_redis()

    async with services(acme_database, fresh_redis) as [service]:
        again = await count(service, "ten", 8, request_id="r1")

    assert first.threshold_percent == 80
    assert first.threshold_quantity == 7
    assert alike(first, again)
    assert await used(acme_database, "ten") == 9


@pytest.mark.parametrize(
    "changed",
    [{"quantity": 2}, {"feature_key": "endless"}, {"dimensions": {"model": "b"}}],
    ids=["quantity", "feature", "dimensions"],
)
@pytest.mark.parametrize("server", [0, 1])
async def test_an_id_with_other_content_is_refused(
    pair: list[Service], acme_database: str, changed: dict[str, object], server: int
) -> None:
    first = an_increment(request_id="r1", dimensions={"model": "a"})
    await pair[0].meter.increment(first)

    with pytest.raises(RequestIdReused):
        await pair[server].meter.increment(replace(first, **changed))  # type: ignore[arg-type]

    assert await used(acme_database, "words") == 1
    assert await used(acme_database, "endless") == 0


async def test_an_id_with_other_content_is_refused_while_the_first_is_in_flight(pair: list[Service]) -> None:
    outcomes = await pair[0].meter.increment_many(
        [an_increment(request_id="r1"), an_increment(quantity=2, request_id="r1"), an_increment(request_id="r1")],
        atomic=False,
    )

    first, other, same = outcomes
    assert isinstance(first, IncrementAnswer)
    assert isinstance(other, RequestIdReused)
    assert isinstance(same, IncrementAnswer)
    assert alike(first, same)


async def test_the_same_id_belongs_to_each_account_alone(pair: list[Service]) -> None:
    mine = await count(pair[0], request_id="r1")
    theirs = await count(pair[0], request_id="r1", account_id=BOB)

    assert not mine.replayed
    assert not theirs.replayed


async def test_a_denied_request_stays_denied_after_an_upgrade(pair: list[Service], acme_database: str) -> None:
    await count(pair[0], "ten", 10)
    first = await count(pair[0], "ten", request_id="r1")
    await change_plan(pair[0], "pro")

    again = await count(pair[1], "ten", request_id="r1")
    other = await count(pair[1], "ten", request_id="r2")

    assert first.reason is again.reason is Reason.EXHAUSTED
    assert alike(first, again)
    assert other.reason is Reason.OK
    assert await used(acme_database, "ten") == 11


async def test_a_suspended_account_replays_and_counts_nothing_new(pair: list[Service], acme_database: str) -> None:
    first = await count(pair[0], "ten", request_id="r1")
    await pair[0].accounts.suspend(ACME, ANN)

    again = await count(pair[1], "ten", request_id="r1")
    refused = await count(pair[1], "ten", request_id="r2")
    await pair[0].accounts.suspend(ACME, ANN, suspend=False)
    still_refused = await count(pair[1], "ten", request_id="r2")

    assert alike(first, again)
    assert refused.reason is still_refused.reason is Reason.ACCOUNT_SUSPENDED
    assert still_refused.replayed
    assert await used(acme_database, "ten") == 1


async def test_an_exhausted_counter_replays_what_it_once_allowed(pair: list[Service]) -> None:
    first = await count(pair[0], "ten", 10, request_id="r1")

    for service in pair:
        assert alike(first, await count(service, "ten", 10, request_id="r1"))


async def test_the_id_of_a_feature_that_the_account_lacks_replays_its_denial(pair: list[Service]) -> None:
    await count(pair[0])
    await change_plan(pair[0], "bare")

    first = await count(pair[0], "soft", request_id="r1")
    again = await count(pair[1], "soft", request_id="r1")

    assert first.reason is Reason.NO_ENTITLEMENT
    assert alike(first, again)


async def test_soft_limits_replay_whether_they_were_passed(pair: list[Service]) -> None:
    within = await count(pair[0], "soft", 10, request_id="r1")
    beyond = await count(pair[0], "soft", 1, request_id="r2")

    assert (within.reason, beyond.reason) == (Reason.OK, Reason.OVERAGE)
    assert alike(within, await count(pair[1], "soft", 10, request_id="r1"))
    assert alike(beyond, await count(pair[1], "soft", 1, request_id="r2"))


async def test_gauges_replay_in_both_directions(pair: list[Service], acme_database: str) -> None:
    up = await count(pair[0], "devices", 3, request_id="up")
    down = await count(pair[0], "devices", -2, request_id="down")

    assert alike(up, await count(pair[1], "devices", 3, request_id="up"))
    assert alike(down, await count(pair[1], "devices", -2, request_id="down"))
    assert (up.used_quantity, down.used_quantity) == (3, 1)
    assert await used(acme_database, "devices") == 1


# --- Batches --------------------------------------------------------------------------------------------


async def test_ids_inside_a_batch_are_counted_once_each(pair: list[Service], acme_database: str) -> None:
    batch = [an_increment(request_id=f"r{i % 50}") for i in range(1000)]

    outcomes = await pair[0].meter.increment_many(batch, atomic=False)
    again = await pair[1].meter.increment_many(batch, atomic=False)

    assert sum(not answer.replayed for answer in allowed(outcomes)) == 50
    assert all(answer.replayed for answer in allowed(again))
    assert len(allowed(again)) == 1000
    assert await used(acme_database, "words") == 50


async def test_an_atomic_batch_counts_over_features_and_accounts(pair: list[Service], acme_database: str) -> None:
    batch = [
        an_increment("words", 5, request_id="a"),
        an_increment("ten", 10, request_id="b"),
        an_increment("devices", 2, account_id=BOB, request_id="c"),
        an_increment("words", 7, request_id="d"),
    ]

    outcomes = await pair[0].meter.increment_many(batch, atomic=True)
    again = await pair[1].meter.increment_many(batch, atomic=True)

    assert [answer.used_quantity for answer in allowed(outcomes)] == [5, 10, 2, 12]
    for first, second in zip(allowed(outcomes), allowed(again), strict=True):
        assert alike(first, second)
    assert await used(acme_database, "words") == 12


async def test_one_item_too_many_denies_the_whole_atomic_batch(pair: list[Service], acme_database: str) -> None:
    batch = [
        an_increment("words", 5, request_id="a"),
        an_increment("ten", 6, request_id="b"),
        an_increment("ten", 5, request_id="c"),
        an_increment("devices", 2, account_id=BOB, request_id="d"),
    ]

    outcomes = await pair[0].meter.increment_many(batch, atomic=True)

    assert [answer.reason for answer in denied(outcomes)] == [
        Reason.ATOMIC_BATCH,
        Reason.ATOMIC_BATCH,
        Reason.EXHAUSTED,
        Reason.ATOMIC_BATCH,
    ]
    assert await fetch(acme_database, "SELECT * FROM usage_entries") == []


async def test_a_denied_atomic_batch_replays_as_denied(pair: list[Service], acme_database: str) -> None:
    batch = [an_increment("ten", 6, request_id="a"), an_increment("ten", 5, request_id="b")]
    first = await pair[0].meter.increment_many(batch, atomic=True)
    await change_plan(pair[0], "pro")

    again = await pair[1].meter.increment_many(batch, atomic=True)

    assert [answer.reason for answer in denied(again)] == [answer.reason for answer in denied(first)]
    assert all(answer.replayed for answer in denied(again))
    assert await used(acme_database, "ten") == 0


async def test_an_atomic_batch_with_some_ids_used_elsewhere_counts_nothing(
    pair: list[Service], acme_database: str
) -> None:
    await count(pair[0], "ten", request_id="a")

    outcomes = await pair[1].meter.increment_many(
        [an_increment("ten", request_id="a"), an_increment("words", request_id="b")], atomic=True
    )

    assert all(isinstance(outcome, RequestIdReused) for outcome in outcomes)
    assert await used(acme_database, "ten") == 1
    assert await used(acme_database, "words") == 0


async def test_an_atomic_batch_has_ids_for_all_items_or_for_none(pair: list[Service], acme_database: str) -> None:
    """What was answered for an item without an id could not be said again."""
    outcomes = await pair[0].meter.increment_many(
        [an_increment("ten", request_id="a"), an_increment("words", 2)], atomic=True
    )

    assert [error.reason for error in failed(outcomes)] == ["VALIDATION_FAILED"] * 2
    assert await used(acme_database, "words") == 0


async def test_an_id_twice_in_one_atomic_batch_is_refused_as_a_whole(pair: list[Service], acme_database: str) -> None:
    outcomes = await pair[0].meter.increment_many(
        [an_increment(request_id="a"), an_increment(request_id="a"), an_increment(request_id="b")], atomic=True
    )

    assert len(failed(outcomes)) == 3
    assert await used(acme_database, "words") == 0


async def test_a_thousand_items_are_counted_atomically(pair: list[Service], acme_database: str) -> None:
    batch = [an_increment("words", request_id=f"r{i}") for i in range(1000)]

    outcomes = await pair[0].meter.increment_many(batch, atomic=True)
    one_more = await pair[1].meter.increment_many([an_increment("words"), an_increment("ten")], atomic=True)

    assert [answer.used_quantity for answer in allowed(outcomes)] == list(range(1, 1001))
    assert [answer.reason for answer in denied(one_more)] == [Reason.EXHAUSTED, Reason.ATOMIC_BATCH]
    assert await used(acme_database, "words") == 1000
    assert await used(acme_database, "ten") == 0


async def test_the_same_atomic_batch_raced_by_two_servers_is_counted_once(
    pair: list[Service], acme_database: str
) -> None:
    batch = [an_increment("words", 2, request_id="a"), an_increment("ten", request_id="b")]

    results = await asyncio.gather(*(pair[i % 2].meter.increment_many(batch, atomic=True) for i in range(20)))

    outcomes = [outcome for result in results for outcome in result]
    assert all(isinstance(each, IncrementAnswer | RequestInProgress) for each in outcomes)
    assert sum(not answer.replayed for answer in allowed(outcomes)) == 2
    assert await used(acme_database, "words") == 2
    assert await used(acme_database, "ten") == 1


async def test_crossing_atomic_batches_over_new_counters_never_deadlock(
    pair: list[Service], acme_database: str
) -> None:
    features = ["words", "endless", "billed", "local", "hourly", "devices"]
    rounds = 15

    async def one(i: int, j: int) -> list[IncrementAnswer | TallygateError]:
        chosen = [features[(i + k * (1 + j % 5)) % 6] for k in range(3)]
        return await pair[j % 2].meter.increment_many(
            [an_increment(feature, account_id=f"x{i}") for feature in (chosen if j % 3 else chosen[::-1])],
            atomic=bool(j % 4),
        )

    for i in range(rounds):
        await outcome_of(pair[0], an_increment("words", account_id=f"x{i}"))
        results = await asyncio.gather(*(one(i, j) for j in range(8)))

        assert not failed([outcome for result in results for outcome in result])
