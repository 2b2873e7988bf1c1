"""Many callers reserve, commit, release and count at once: no limit is passed, and nothing stays held."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from tallygate_server.domain.catalog import OverrunPolicy
from tallygate_server.domain.reservation import Settlement
from tallygate_server.embedded import EmbeddedServers
from tallygate_server.errors import TallygateError
from tallygate_server.reservations import CommitAnswer, ReserveAnswer
from tallygate_server.service import Service
from tests.support.acme import an_increment, assert_redis_agrees, fetch, outcome_of, services, used
from tests.support.clock import FrozenClock
from tests.support.reservations import (
    a_reserve,
    commit,
    extend,
    held,
    outcomes_of,
    release,
    reserve,
)

LIMIT = 1_000
CALLERS = 40
ROUNDS = 12


@dataclass(slots=True)
class Load:
    """Callers on several servers, and what they leave behind."""

    running: list[Service]
    left: list[str] = field(default_factory=list)
    """Reservations that nobody ended."""
    denials: int = 0

    async def caller(self, number: int) -> None:
        """Work for some rounds, each beginning with a reservation or an increment."""
        chance = random.Random(number)
        for _ in range(ROUNDS):
            service = chance.choice(self.running)
            if chance.random() < 0.25:
                outcome = await outcome_of(service, an_increment("words", chance.randint(1, 3)))
                assert not isinstance(outcome, TallygateError)
                continue
            await self.work(service, chance)

    async def work(self, service: Service, chance: random.Random) -> None:
        """Reserve, and end it on a server of its choice, one way or the other."""
        answer = await reserve(service, "words", chance.randint(1, 40))
        assert answer.used_quantity + answer.held_quantity <= LIMIT
        if answer.reservation is None:
            self.denials += 1
            return
        reservation_id, quantity = answer.reservation.reservation_id, answer.reservation.quantity
        other = chance.choice(self.running)
        way = chance.random()
        if way < 0.6:
            wanted = max(0, quantity + chance.randint(-quantity, 10))
            outcome = await commit(other, reservation_id, wanted)
            assert outcome.used_quantity + outcome.held_quantity <= LIMIT
            if outcome.settlement is Settlement.REJECTED:
                outcome = await commit(other, reservation_id)
            assert outcome.reason.allows
        elif way < 0.8:
            await release(other, reservation_id)
        elif way < 0.9:
            await extend(other, reservation_id, timedelta(hours=2))
            self.left.append(reservation_id)
        else:
            self.left.append(reservation_id)


def ids_of(outcomes: Sequence[ReserveAnswer | TallygateError]) -> list[str]:
    """Return the ids of what was reserved."""
    return [
        each.reservation.reservation_id
        for each in outcomes
        if isinstance(each, ReserveAnswer) and each.reservation is not None
    ]


async def totals(database_url: str) -> tuple[int, int]:
    """Return what is used and reserved of the limit."""
    rows = await fetch(database_url, "SELECT * FROM usage_counters WHERE feature_key = 'words'")
    return sum(row["used_quantity"] for row in rows), sum(row["reserved_quantity"] for row in rows)


@asynccontextmanager
async def meanwhile(disturb: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Do something over and over while the block runs."""
    over = asyncio.Event()

    async def again() -> None:
        while not over.is_set():
            await disturb()

    async with asyncio.TaskGroup() as group:
        group.create_task(again())
        try:
            yield
        finally:
            over.set()


@pytest.mark.parametrize("flushed", [False, True], ids=["", "redis flushed"])
async def test_two_servers_never_pass_a_limit_and_hold_nothing_in_the_end(
    acme_database: str, fresh_redis: str, servers: EmbeddedServers, *, flushed: bool
) -> None:
    async with services(acme_database, fresh_redis, 2) as running:
        load = Load(running)

        async def look() -> None:
            if flushed:
                await servers.flush_redis()
            used_now, reserved_now = await totals(acme_database)
            assert used_now + reserved_now <= LIMIT

        async with meanwhile(look):
            await asyncio.gather(*(load.caller(number) for number in range(CALLERS)))
        before = await held(acme_database, "words")
        await asyncio.gather(*(release(running[i % 2], each) for i, each in enumerate(load.left)))

        assert load.denials > 0
        assert before > 0
        assert await held(acme_database, "words") == 0
        assert await used(acme_database, "words") <= LIMIT
        await assert_redis_agrees(running[0], acme_database)


async def test_all_of_a_limit_can_be_reserved_and_no_unit_more(acme_database: str, fresh_redis: str) -> None:
    async with services(acme_database, fresh_redis, 2) as running:
        outcomes = await outcomes_of([running[i % 2].reservations.reserve(a_reserve("words", 7)) for i in range(200)])

    allowed = [each for each in outcomes if not isinstance(each, TallygateError) and each.reservation is not None]
    assert len(outcomes) == 200
    assert len(allowed) == LIMIT // 7
    assert await held(acme_database, "words") == LIMIT // 7 * 7


async def test_the_surplus_of_a_limit_is_taken_by_as_many_as_it_has_room_for(
    acme_database: str, fresh_redis: str
) -> None:
    async with services(acme_database, fresh_redis, 2) as running:
        made = await outcomes_of([running[i % 2].reservations.reserve(a_reserve("words", 5)) for i in range(100)])
        ids = ids_of(made)
        outcomes = await outcomes_of([commit(running[i % 2], each, 25) for i, each in enumerate(ids)])

    # 500 units were promised; of the others there are 20 more for each of 25 commits.
    answers = [each for each in outcomes if isinstance(each, CommitAnswer)]
    taken = [each for each in answers if each.settlement is Settlement.SURPLUS_TAKEN]
    assert len(answers) == 100
    assert len(taken) == 25
    assert await used(acme_database, "words") == 25 * 25
    assert await held(acme_database, "words") == 75 * 5


async def test_overdrafts_beside_each_other_count_every_unit(acme_database: str, fresh_redis: str) -> None:
    async with services(acme_database, fresh_redis, 2) as running:
        made = await outcomes_of(
            [
                running[i % 2].reservations.reserve(a_reserve("ten", 1, overrun_policy=OverrunPolicy.OVERDRAW))
                for i in range(10)
            ]
        )
        ids = ids_of(made)
        outcomes = await outcomes_of([commit(running[i % 2], each, 3) for i, each in enumerate(ids)])

        answers = [each for each in outcomes if isinstance(each, CommitAnswer)]
        assert sorted(each.used_quantity for each in answers) == list(range(3, 31, 3))
        assert await used(acme_database, "ten") == 30
        assert await held(acme_database) == 0
        await assert_redis_agrees(running[0], acme_database)


async def test_what_expires_while_it_is_committed_is_counted_once(acme_database: str, fresh_redis: str) -> None:
    clock = FrozenClock()
    async with services(acme_database, fresh_redis, 2, clock=clock) as running:
        made = await outcomes_of(
            [running[i % 2].reservations.reserve(a_reserve("words", 10, ttl=timedelta(seconds=1))) for i in range(60)]
        )
        ids = ids_of(made)
        clock.advance(timedelta(seconds=1))

        outcomes, _, _ = await asyncio.gather(
            outcomes_of([commit(running[i % 2], each, 4) for i, each in enumerate(ids)]),
            running[0].reservation_expiry.expire(),
            running[1].reservation_expiry.expire(),
        )

        assert all(isinstance(each, CommitAnswer) and each.late for each in outcomes)
        assert await used(acme_database, "words") == 240
        assert await held(acme_database, "words") == 0
        await assert_redis_agrees(running[0], acme_database)


async def test_reservations_outlive_servers_and_redis(
    acme_database: str, fresh_redis: str, servers: EmbeddedServers
) -> None:
    async with services(acme_database, fresh_redis) as [service]:
        first = await reserve(service, "ten", 6)
    await servers.flush_redis()

    async with services(acme_database, fresh_redis) as [service]:
        assert first.reservation is not None
        refused = await reserve(service, "ten", 5)
        await servers.flush_redis()
        over = await outcome_of(service, an_increment("ten", 5))
        answer = await commit(service, first.reservation.reservation_id, 4)

        assert refused.reservation is None
        assert not isinstance(over, TallygateError)
        assert not over.reason.allows
        assert (answer.used_quantity, answer.held_quantity) == (4, 0)
        await assert_redis_agrees(service, acme_database)
