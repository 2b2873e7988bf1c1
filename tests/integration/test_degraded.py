"""What is answered when Redis, Postgres or both are away: explicit, exact where it can be, and counted."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tallygate_server.domain.call import CheckAnswer, IncrementAnswer
from tallygate_server.domain.entitlement import Reason
from tallygate_server.embedded import EmbeddedServers
from tallygate_server.errors import (
    Overloaded,
    RequestIdReused,
    RevisionNotReached,
    StoreUnavailable,
    TallygateError,
    Unavailable,
)
from tallygate_server.service import Service
from tallygate_server.storage.engine import DatabaseRole, connect
from tallygate_server.telemetry import metrics
from tests.support.acme import (
    ACME,
    ANN,
    BOB,
    PATIENT,
    a_check,
    allowed,
    an_increment,
    assert_redis_agrees,
    change_plan,
    denied,
    failed,
    fetch,
    hurry,
    outcome_of,
    services,
    used,
)
from tests.support.eventually import eventually
from tests.support.faulty_proxy import FaultyProxy, postgres_proxy, redis_proxy

AT_ONCE_S = 5.0
"""Less than any time-out that a call could have waited for; see PATIENT."""


@dataclass(frozen=True, slots=True)
class Setup:
    """A service whose ways to both stores can be broken."""

    service: Service
    postgres: FaultyProxy
    redis: FaultyProxy

    async def lose_redis(self) -> None:
        """Break the way to Redis, and wait until the service knows."""
        self.redis.refuses = True
        self.redis.cut()
        await eventually(lambda: not self.service.counters.ready)

    async def find_redis(self) -> None:
        """Mend the way to Redis."""
        self.redis.refuses = False
        await eventually(lambda: self.service.counters.ready)

    async def lose_postgres(self) -> None:
        """Break the way to Postgres, and wait until the service knows."""
        self.postgres.refuses = True
        self.postgres.cut()
        await eventually(lambda: not self.service.ledger.up)

    async def find_postgres(self) -> None:
        """Mend the way to Postgres."""
        self.postgres.refuses = False
        await eventually(lambda: self.service.ledger.up)


@asynccontextmanager
async def setting_up(database_url: str, redis_url: str, **limits: Any) -> AsyncIterator[Setup]:
    """Open a service behind two proxies."""
    with tempfile.TemporaryDirectory(prefix="tallygate-test-") as parent:
        async with (
            postgres_proxy(database_url, Path(parent) / "postgres") as (database_address, postgres),
            redis_proxy(redis_url, Path(parent) / "redis") as (redis_address, redis),
            services(database_address, redis_address, **limits) as [service],
        ):
            yield Setup(service, postgres, redis)


@pytest.fixture
async def setup(acme_database: str, fresh_redis: str) -> AsyncIterator[Setup]:
    async with setting_up(acme_database, fresh_redis, accepted_queue_max=50, hold_ttl_ms=1_000) as made:
        yield made


def fallbacks(kind: str) -> int:
    """Return how often the process has fallen back like this."""
    return metrics.fallbacks.value(kind)


async def check(service: Service, feature_key: str, **more: Any) -> CheckAnswer | TallygateError:
    """Check, and return the answer or the error."""
    return (await service.checker.check_many([a_check(feature_key, **more)]))[0]


# --- Redis away -----------------------------------------------------------------------------------------


async def a_days_work(service: Service, account_id: str) -> list[object]:
    """Do a bit of everything; return what was answered, without what differs from run to run."""
    told: list[object] = []

    async def tell(outcome: object) -> None:
        if isinstance(outcome, IncrementAnswer):
            outcome = replace(outcome, entry_id=bool(outcome.entry_id), held_quantity=0, upgrade_url="")
        if isinstance(outcome, CheckAnswer):
            outcome = replace(outcome, held_quantity=0, upgrade_url="", cache_ttl_ms=0)
        if isinstance(outcome, CheckAnswer | IncrementAnswer) and outcome.limit_quantity == 100:
            # Billing periods begin when the account did.
            outcome = replace(outcome, reset_time=None)
        told.append(type(outcome) if isinstance(outcome, TallygateError) else outcome)

    async def count(feature_key: str, quantity: int = 1, **more: Any) -> None:
        await tell(await outcome_of(service, an_increment(feature_key, quantity, account_id=account_id, **more)))

    async def ask(feature_key: str, quantity: int = 1) -> None:
        await tell(await check(service, feature_key, quantity=quantity, account_id=account_id))

    await ask("ten")
    for quantity in (3, 5, 4, 2, 1):
        await count("ten", quantity)
        await ask("ten")
    for quantity in (4, 2, -3, -2, 5):
        await count("devices", quantity)
    for quantity in (9, 2):
        await count("soft", quantity)
    for feature_key in ("none", "endless", "export", "history", "unknown_feature", "hourly", "billed", "local"):
        await ask(feature_key)
        await count(feature_key)
    await count("words", 2, request_id="r1")
    await count("words", 2, request_id="r1")
    await count("words", 3, request_id="r1")
    for outcome in await service.meter.increment_many(
        [an_increment("words", account_id=account_id), an_increment("none", account_id=account_id)], atomic=True
    ):
        await tell(outcome)
    await service.accounts.suspend(ACME, ANN if account_id == ANN else BOB)
    await ask("ten")
    await count("words")
    return told


@pytest.mark.usefixtures("usual_epochs")
@pytest.mark.parametrize("lost", ["at the start", "in the middle"])
async def test_without_redis_everything_is_answered_the_same(
    acme_database: str, fresh_redis: str, servers: EmbeddedServers, lost: str
) -> None:
    async with AsyncExitStack() as stack:
        [usual] = await stack.enter_async_context(services(acme_database, fresh_redis))
        expected = await a_days_work(usual, ANN)
        if lost == "at the start":
            nowhere = f"unix://{servers.redis_socket}.not-there"
            [without] = await stack.enter_async_context(services(acme_database, nowhere))
        else:
            made = await stack.enter_async_context(setting_up(acme_database, fresh_redis))
            without = made.service
            await check(without, "ten", account_id=BOB)
            await made.lose_redis()
        before = fallbacks("check_without_redis")

        told = await a_days_work(without, BOB)

    assert told == expected
    assert fallbacks("check_without_redis") > before


async def test_redis_coming_and_going_leaves_no_trace(setup: Setup, acme_database: str) -> None:
    total = 0
    for _ in range(4):
        for change in (setup.lose_redis, setup.find_redis):
            outcomes = await setup.service.meter.increment_many([an_increment("words", 3)] * 10, atomic=False)
            await change()
            outcomes += await setup.service.meter.increment_many([an_increment("words", 2)] * 10, atomic=False)
            total += 50

            assert max(answer.used_quantity for answer in allowed(outcomes)) == total
            answer = await check(setup.service, "words")
            assert isinstance(answer, CheckAnswer)
            assert not answer.stale
            assert answer.used_quantity == total
    # What was to be settled when the way broke is left to the sweeper.
    await assert_redis_agrees(setup.service, acme_database, sweeping=True)


async def test_the_limit_holds_without_redis(setup: Setup) -> None:
    await setup.lose_redis()

    outcomes = await setup.service.meter.increment_many([an_increment("ten") for _ in range(200)], atomic=False)

    assert sorted(answer.used_quantity for answer in allowed(outcomes)) == list(range(1, 11))
    assert len(denied(outcomes)) == 190


async def test_accepted_calls_are_answered_after_their_commit_without_redis(setup: Setup, acme_database: str) -> None:
    await setup.lose_redis()

    outcome = await outcome_of(setup.service, an_increment("ten", accepted=True))

    assert allowed([outcome])
    assert await used(acme_database, "ten") == 1


async def epoch(database_url: str) -> list[object]:
    """Return what every server follows when it can't be told of changes through Redis."""
    connection = await connect(database_url, DatabaseRole.APP)
    try:
        return [tuple(row) for row in await connection.fetch("SELECT epoch FROM cache_epochs")]
    finally:
        await connection.close()


async def test_new_accounts_are_made_without_redis_at_once(setup: Setup, acme_database: str) -> None:
    """Nobody can know a new account by an older revision: nobody has to be told, and so nobody waited for."""
    await setup.lose_redis()
    before = await epoch(acme_database)

    outcomes = await setup.service.meter.increment_many(
        [an_increment("ten", account_id=f"new-{i}") for i in range(20)], atomic=False
    )

    assert len(allowed(outcomes)) == 20
    assert await epoch(acme_database) == before


# --- Postgres away --------------------------------------------------------------------------------------


async def warm(setup: Setup) -> int:
    """Let the service know the account; return its revision."""
    await outcome_of(setup.service, an_increment("ten", 4))
    await outcome_of(setup.service, an_increment("open", 4))
    await outcome_of(setup.service, an_increment("words", 1))
    answer = await check(setup.service, "ten")
    assert isinstance(answer, CheckAnswer)
    assert not answer.stale
    return answer.revision


async def test_checks_go_on_without_postgres_and_say_that_they_are_stale(setup: Setup) -> None:
    revision = await warm(setup)
    await setup.lose_postgres()

    for feature_key, expected in (("ten", 4), ("open", 4), ("export", 0), ("history", 0)):
        answer = await check(setup.service, feature_key)

        assert isinstance(answer, CheckAnswer)
        assert answer.stale
        assert answer.reason is Reason.OK
        assert answer.used_quantity == expected
        assert answer.revision == revision
    await setup.find_postgres()
    await eventually(lambda: not setup.service.checker._stale)
    assert not (await setup.service.checker.check(a_check("ten"))).stale


async def test_checks_go_on_without_postgres_after_redis_came_back_empty(
    setup: Setup, servers: EmbeddedServers
) -> None:
    await warm(setup)
    await setup.lose_postgres()
    await setup.lose_redis()
    await servers.flush_redis()
    await setup.find_redis()
    before = fallbacks("check_from_cache")
    started = time.monotonic()

    export, ten, opened = [await check(setup.service, key) for key in ("export", "ten", "open")]

    assert isinstance(export, CheckAnswer)
    assert export.stale
    assert export.reason is Reason.OK
    assert isinstance(ten, StoreUnavailable)
    assert isinstance(opened, CheckAnswer)
    assert opened.stale
    assert fallbacks("check_from_cache") == before + 3
    assert time.monotonic() - started < AT_ONCE_S


async def test_with_both_away_the_failure_mode_decides(setup: Setup) -> None:
    await warm(setup)
    await setup.lose_postgres()
    await setup.lose_redis()
    before = (fallbacks("fail_open"), fallbacks("fail_closed"))

    export, ten, opened = [await check(setup.service, key) for key in ("export", "ten", "open")]
    stranger = await check(setup.service, "export", account_id="stranger")
    count = await outcome_of(setup.service, an_increment("open"))

    assert isinstance(export, CheckAnswer)
    assert isinstance(ten, StoreUnavailable)
    assert isinstance(opened, CheckAnswer)
    assert opened.stale
    assert opened.reason is Reason.OK
    assert isinstance(stranger, Unavailable)
    assert isinstance(count, StoreUnavailable)
    assert (fallbacks("fail_open"), fallbacks("fail_closed")) == (before[0] + 1, before[1] + 1)


async def test_a_wanted_revision_cannot_be_promised_without_postgres(setup: Setup) -> None:
    revision = await warm(setup)
    with pytest.raises(RevisionNotReached):
        await setup.service.checker.check(a_check("ten", min_revision=revision + 1))
    await setup.lose_postgres()

    reached = await check(setup.service, "ten", min_revision=revision)
    beyond = await check(setup.service, "ten", min_revision=revision + 1)

    assert isinstance(reached, CheckAnswer)
    assert isinstance(beyond, StoreUnavailable)


async def test_increments_are_turned_away_at_once_without_postgres(setup: Setup, acme_database: str) -> None:
    await warm(setup)
    await setup.lose_postgres()
    started = time.monotonic()

    outcomes = await setup.service.meter.increment_many(
        [an_increment("ten", request_id=f"r{i}") for i in range(100)]
        + [an_increment("devices", -1)]
        + [an_increment("ten", account_id="stranger")],
        atomic=False,
    )
    outcomes += await setup.service.meter.increment_many([an_increment("ten"), an_increment("words")], atomic=True)
    took = time.monotonic() - started
    await setup.find_postgres()

    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 104
    assert took < AT_ONCE_S
    assert await used(acme_database, "ten") == 4
    await assert_redis_agrees(setup.service, acme_database)


async def test_exhausted_limits_are_still_denied_without_postgres(setup: Setup) -> None:
    await outcome_of(setup.service, an_increment("ten", 10))
    await setup.lose_postgres()

    outcome = await outcome_of(setup.service, an_increment("ten"))

    assert [answer.reason for answer in denied([outcome])] == [Reason.EXHAUSTED]


async def test_denials_of_an_outage_are_recorded_after_it(setup: Setup, acme_database: str) -> None:
    await outcome_of(setup.service, an_increment("ten", 10))
    await setup.lose_postgres()
    await setup.service.meter.increment_many([an_increment("ten") for _ in range(30)], atomic=False)
    await setup.find_postgres()

    async def recorded() -> bool:
        return len(await fetch(acme_database, "SELECT 1 FROM usage_denials")) == 30

    await eventually(recorded)


# --- ACCEPTED -------------------------------------------------------------------------------------------


async def test_accepted_calls_queue_up_to_their_bound_and_are_committed_afterwards(
    setup: Setup, acme_database: str
) -> None:
    await warm(setup)
    await setup.lose_postgres()

    outcomes = await setup.service.meter.increment_many(
        [an_increment("words", accepted=True) for _ in range(80)], atomic=False
    )
    waiting = setup.service.meter.in_flight
    meanwhile = await check(setup.service, "words")
    await setup.find_postgres()
    await eventually(lambda: setup.service.meter.in_flight == 0)

    assert len(allowed(outcomes)) == 50
    assert [type(error) for error in failed(outcomes)] == [Overloaded] * 30
    assert waiting == 50
    assert isinstance(meanwhile, CheckAnswer)
    assert (meanwhile.used_quantity, meanwhile.held_quantity) == (1, 50)
    assert await used(acme_database, "words") == 51
    await assert_redis_agrees(setup.service, acme_database)


async def test_an_accepted_call_is_answered_before_its_commit(setup: Setup, acme_database: str) -> None:
    await warm(setup)
    setup.postgres.flows.clear()
    outcome = await outcome_of(setup.service, an_increment("ten", accepted=True))
    before = await used(acme_database, "ten")
    setup.postgres.flows.set()
    await eventually(lambda: setup.service.meter.in_flight == 0)

    assert isinstance(outcome, IncrementAnswer)
    assert outcome.used_quantity == 5
    assert outcome.entry_id
    assert before == 4
    assert await used(acme_database, "ten") == 5


async def test_accepted_calls_never_pass_a_limit_although_redis_forgets_them(
    setup: Setup, acme_database: str, servers: EmbeddedServers
) -> None:
    await outcome_of(setup.service, an_increment("ten"))
    await setup.lose_postgres()
    refused = metrics.accepted_refusals.value()
    first = await setup.service.meter.increment_many([an_increment("ten", accepted=True)] * 9, atomic=False)
    full = await outcome_of(setup.service, an_increment("ten", accepted=True))
    # Redis loses the holds, and somebody tells it the total that Postgres knows.
    await servers.flush_redis()
    key = setup.service.hot_accounts.cached(ACME, ANN)
    assert key is not None
    feature = key.feature("ten", setup.service.clock.now_ms())
    assert feature is not None
    await setup.service.redis.execute("HSET", feature.counter_key, "c", "1", "v", "1")
    await setup.service.redis.execute("HSET", key.key, "rev", key.revision_text)
    second = await setup.service.meter.increment_many([an_increment("ten", accepted=True)] * 5, atomic=False)
    await setup.find_postgres()
    await eventually(lambda: setup.service.meter.in_flight == 0)

    assert len(allowed(first)) == 9
    assert not allowed([full])
    assert len(allowed(second)) == 5
    assert await used(acme_database, "ten") == 10
    assert metrics.accepted_refusals.value() == refused + 5
    await assert_redis_agrees(setup.service, acme_database)


async def test_the_retry_of_an_accepted_call_hears_the_same_before_the_commit(setup: Setup, acme_database: str) -> None:
    await warm(setup)
    await setup.lose_postgres()
    increment = an_increment("words", 3, request_id="r1", accepted=True)
    first = await outcome_of(setup.service, increment)

    async with asyncio.timeout(60):
        again = await outcome_of(setup.service, increment)
        other = await outcome_of(setup.service, replace(increment, quantity=4))
    await setup.find_postgres()
    await eventually(lambda: setup.service.meter.in_flight == 0)

    assert isinstance(first, IncrementAnswer)
    assert again == replace(first, replayed=True)
    assert isinstance(other, RequestIdReused)
    assert await used(acme_database, "words") == 4


async def test_a_committed_retry_of_an_accepted_call_is_not_kept_waiting_for_ever(
    acme_database: str, fresh_redis: str
) -> None:
    async with setting_up(acme_database, fresh_redis) as setup:
        await warm(setup)
        await setup.lose_postgres()
        hurry(setup.service, 200)
        increment = an_increment("words", 3, request_id="r1", accepted=True)
        await outcome_of(setup.service, increment)

        async with asyncio.timeout(60):
            committed = await outcome_of(setup.service, replace(increment, accepted=False))
        hurry(setup.service, PATIENT.commit_timeout_ms)
        await setup.find_postgres()
        await eventually(lambda: setup.service.meter.in_flight == 0)
        again = await outcome_of(setup.service, replace(increment, accepted=False))

    assert isinstance(committed, Unavailable)
    assert isinstance(again, IncrementAnswer)
    assert again.replayed
    assert await used(acme_database, "words") == 4


@pytest.mark.usefixtures("usual_epochs")
async def test_changes_of_plans_go_on_without_redis(setup: Setup) -> None:
    await warm(setup)
    await setup.lose_redis()

    revision = await change_plan(setup.service, "pro")
    answer = await setup.service.checker.check(a_check("ten"))

    assert answer.revision == revision
    assert answer.limit_quantity == 20
