"""Every denial is recorded once, whatever the reason and whichever way it took."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tallygate_server.domain.call import IncrementAnswer
from tallygate_server.domain.entitlement import Reason
from tallygate_server.metering.denial_log import DENIALS_WAITING_MAX
from tallygate_server.service import Service
from tallygate_server.telemetry import metrics
from tests.support.acme import ACME, ANN, an_increment, change_plan, denied, fetch, outcome_of, services
from tests.support.eventually import eventually
from tests.support.faulty_proxy import postgres_proxy


@pytest.fixture
async def service(acme_database: str, fresh_redis: str) -> AsyncIterator[Service]:
    async with services(acme_database, fresh_redis) as [running]:
        await outcome_of(running, an_increment("hourly"))
        yield running


async def recorded(database_url: str, count: int) -> Counter[tuple[str, int, int]]:
    """Return (feature, reason, quantity) of the denials, once there are so many."""

    async def all_there() -> bool:
        return bool((await fetch(database_url, "SELECT count(*) >= $1 FROM usage_denials", count))[0][0])

    await eventually(all_there)
    rows = await fetch(database_url, "SELECT feature_key, reason, quantity FROM usage_denials")
    return Counter((row["feature_key"], row["reason"], row["quantity"]) for row in rows)


@pytest.mark.parametrize("with_ids", [False, True], ids=["without ids", "with ids"])
async def test_denials_of_every_kind_are_recorded_with_their_units(
    service: Service, acme_database: str, *, with_ids: bool
) -> None:
    expected: Counter[tuple[str, int, int]] = Counter()
    n = 0

    async def deny(feature_key: str, quantity: int, reason: Reason) -> None:
        nonlocal n
        n += 1
        request_id = f"r{n}" if with_ids else ""
        outcome = await outcome_of(service, an_increment(feature_key, quantity, request_id=request_id))
        assert isinstance(outcome, IncrementAnswer)
        assert outcome.reason is reason
        expected[feature_key, reason, quantity] += 1
        if with_ids:
            again = await outcome_of(service, an_increment(feature_key, quantity, request_id=request_id))
            assert isinstance(again, IncrementAnswer)
            assert again.replayed

    for _ in range(3):
        await deny("ten", 11, Reason.EXHAUSTED)
        await deny("none", 1, Reason.EXHAUSTED)
        await deny("devices", 6, Reason.EXHAUSTED)
        await deny("devices", -1, Reason.BELOW_ZERO)
        await deny("unknown_feature", 2, Reason.UNKNOWN_FEATURE)
    await change_plan(service, "bare")
    await deny("soft", 1, Reason.NO_ENTITLEMENT)
    await service.accounts.suspend(ACME, ANN)
    await deny("ten", 1, Reason.ACCOUNT_SUSPENDED)

    assert await recorded(acme_database, expected.total()) == expected


async def test_a_denied_atomic_batch_is_recorded_item_by_item(service: Service, acme_database: str) -> None:
    outcomes = await service.meter.increment_many(
        [an_increment("words", 3), an_increment("none", 1), an_increment("ten", 2)], atomic=True
    )

    assert len(denied(outcomes)) == 3
    assert await recorded(acme_database, 3) == {
        ("words", Reason.ATOMIC_BATCH, 3): 1,
        ("none", Reason.EXHAUSTED, 1): 1,
        ("ten", Reason.ATOMIC_BATCH, 2): 1,
    }


async def test_a_thousand_concurrent_denials_are_all_recorded(service: Service, acme_database: str) -> None:
    await outcome_of(service, an_increment("ten", 10))

    outcomes = await service.meter.increment_many([an_increment("ten", 2) for _ in range(1000)], atomic=False)
    outcomes += await service.meter.increment_many(
        [an_increment("ten", 3, request_id=f"r{i}") for i in range(200)], atomic=False
    )

    assert len(denied(outcomes)) == 1200
    assert await recorded(acme_database, 1200) == {
        ("ten", Reason.EXHAUSTED, 2): 1000,
        ("ten", Reason.EXHAUSTED, 3): 200,
    }


async def test_denials_beyond_the_bound_of_their_log_are_counted_instead(acme_database: str, fresh_redis: str) -> None:
    with tempfile.TemporaryDirectory(prefix="tallygate-test-") as parent:
        async with (
            postgres_proxy(acme_database, Path(parent) / "wire") as (address, proxy),
            services(address, fresh_redis, commit_queue_max=30_000) as [service],
        ):
            await outcome_of(service, an_increment("ten", 10))
            proxy.refuses = True
            proxy.cut()
            await eventually(lambda: not service.ledger.up)
            before = metrics.denials_unrecorded.value()

            for _ in range(21):
                await service.meter.increment_many([an_increment("ten") for _ in range(1000)], atomic=False)
            unrecorded = metrics.denials_unrecorded.value() - before
            proxy.refuses = False

            assert unrecorded == 21_000 - DENIALS_WAITING_MAX
            assert await recorded(acme_database, DENIALS_WAITING_MAX) == {
                ("ten", Reason.EXHAUSTED, 1): DENIALS_WAITING_MAX
            }
