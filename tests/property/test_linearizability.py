"""Concurrent increments on two servers look like one after the other on one; the check can tell when they do not."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallygate_server.domain.call import IncrementAnswer
from tallygate_server.embedded import EmbeddedServers
from tallygate_server.service import Service
from tests.support.acme import a_check, an_increment, assert_redis_agrees, outcome_of, services
from tests.support.history import Step, timed, why_not_linearizable

Count = Callable[[int], Awaitable[int | None]]


async def history_of(counts: list[Count], *, seed: int, callers: int = 40, calls: int = 15) -> list[Step]:
    """Let callers count concurrently, each on a server of its choice at each call."""
    steps: list[Step] = []

    async def caller(i: int) -> None:
        chance = random.Random(seed * 1000 + i)
        for _ in range(calls):
            quantity = chance.choice([1, 1, 2, 5])
            count = chance.choice(counts)
            step = await timed(lambda count=count, quantity=quantity: count(quantity), quantity)  # type: ignore[misc]
            if step is not None:
                steps.append(step)
            if chance.random() < 0.3:
                await asyncio.sleep(0)

    await asyncio.gather(*(caller(i) for i in range(callers)))
    return steps


def counting(service: Service, feature_key: str, *, request_ids: bool = False) -> Count:
    """Return how to count on a server."""
    numbers = iter(range(1_000_000))

    async def count(quantity: int) -> int | None:
        request_id = f"{service.server_id}-{next(numbers)}" if request_ids else ""
        outcome = await outcome_of(service, an_increment(feature_key, quantity, request_id=request_id))
        assert isinstance(outcome, IncrementAnswer)
        return outcome.used_quantity if outcome.reason.allows else None

    return count


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("feature_key", ["endless", "words", "soft"])
async def test_answers_of_two_servers_are_linearizable(
    acme_database: str, fresh_redis: str, feature_key: str, seed: int
) -> None:
    async with services(acme_database, fresh_redis, 2) as running:
        history = await history_of(
            [counting(service, feature_key, request_ids=seed == 1) for service in running], seed=seed
        )

        assert len(history) > 300
        assert why_not_linearizable(history) is None
        await assert_redis_agrees(running[0], acme_database)


async def test_answers_are_linearizable_while_redis_forgets(
    acme_database: str, fresh_redis: str, servers: EmbeddedServers
) -> None:
    async with services(acme_database, fresh_redis, 2) as running:
        over = False

        async def flush() -> None:
            while not over:
                await servers.flush_redis()

        async with asyncio.TaskGroup() as group:
            group.create_task(flush())
            try:
                history = await history_of([counting(service, "endless") for service in running], seed=7)
            finally:
                over = True

        assert len(history) == 600
        assert why_not_linearizable(history) is None


async def test_a_check_sees_every_increment_that_was_answered_before(acme_database: str, fresh_redis: str) -> None:
    async with services(acme_database, fresh_redis, 2) as [one, other]:
        for n in range(1, 151):
            counting_on, checking = (one, other) if n % 2 else (other, one)
            await outcome_of(counting_on, an_increment("endless"))

            answer = await checking.checker.check(a_check("endless"))

            # What Redis has not settled yet, it still holds.
            assert answer.used_quantity + answer.held_quantity == n


# --- The check itself -----------------------------------------------------------------------------------


class LostUpdates:
    """Reads, then writes: two that read the same total write the same total."""

    def __init__(self) -> None:
        self.total = 0

    async def count(self, quantity: int) -> int:
        """Count, wrongly."""
        before = self.total
        await asyncio.sleep(0)
        self.total = before + quantity
        return self.total


class CachedReads:
    """Counts exactly, but answers from what it knew a moment ago."""

    def __init__(self) -> None:
        self.total = 0

    async def count(self, quantity: int) -> int:
        """Count, and answer wrongly."""
        known = self.total
        self.total += quantity
        await asyncio.sleep(0)
        return known + quantity if quantity == 1 else self.total


class Blocks:
    """Every server counts in blocks of its own: no number twice and no gap, yet in no order."""

    def __init__(self) -> None:
        self.next_block = 0

    def server(self) -> Count:
        """Return how to count on one server."""
        free: list[int] = []

        async def count(quantity: int) -> int | None:
            await asyncio.sleep(0)
            if quantity != 1:
                return None
            if not free:
                free.extend(range(self.next_block + 10, self.next_block, -1))
                self.next_block += 10
            return free.pop()

        return count


@pytest.mark.parametrize("seed", range(5))
async def test_lost_updates_are_caught(seed: int) -> None:
    meter = LostUpdates()

    assert why_not_linearizable(await history_of([meter.count], seed=seed)) is not None


@pytest.mark.parametrize("seed", range(5))
async def test_answers_from_a_cache_are_caught(seed: int) -> None:
    meter = CachedReads()

    assert why_not_linearizable(await history_of([meter.count], seed=seed)) is not None


@pytest.mark.parametrize("seed", range(5))
async def test_numbers_out_of_order_are_caught(seed: int) -> None:
    blocks = Blocks()

    history = await history_of([blocks.server(), blocks.server()], seed=seed)

    assert why_not_linearizable(history) is not None


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 20), st.integers(0, 20)), max_size=30))
def test_every_history_of_one_counter_is_accepted(drawn: list[tuple[int, int, int]]) -> None:
    """Whatever the calls overlapped, as long as each took effect at one instant of its own time."""
    history, total = [], 0
    for instant, (quantity, before, after) in enumerate(drawn):
        total += quantity
        history.append(Step(start_ns=instant - before, end_ns=instant + after, quantity=quantity, used_after=total))

    assert why_not_linearizable(history) is None
