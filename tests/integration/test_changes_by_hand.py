"""Rows that somebody changes in the database, past the service."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tallygate_server.domain.call import CheckAnswer, IncrementAnswer
from tallygate_server.domain.entitlement import Reason
from tallygate_server.errors import StoreUnavailable
from tallygate_server.service import Service
from tallygate_server.storage.engine import DatabaseRole, connect
from tests.support.acme import BOB, a_check, an_increment, change_plan, outcome_of, services
from tests.support.eventually import eventually


@pytest.fixture
async def pair(acme_database: str, fresh_redis: str) -> AsyncIterator[list[Service]]:
    async with services(acme_database, fresh_redis, 2) as running:
        for service in running:
            await service.checker.check(a_check("export"))
        yield running


async def by_hand(database_url: str, sql: str) -> None:
    """Do what a person with the application's role does; the owner of the tables sees no tenant's rows."""
    connection = await connect(database_url, DatabaseRole.APP)
    try:
        await connection.execute("SELECT set_config('tallygate.tenant_id', 'acme', false)")
        await connection.execute(sql)
    finally:
        await connection.close()


async def reasons(pair: list[Service], feature_key: str) -> set[Reason]:
    return {(await service.checker.check(a_check(feature_key))).reason for service in pair}


async def test_a_row_that_still_says_active_grants_nothing_once_period_and_grace_are_over(
    pair: list[Service], acme_database: str
) -> None:
    assert await reasons(pair, "export") == {Reason.OK}

    await by_hand(
        acme_database,
        "UPDATE subscriptions SET period_start_time = now() - interval '100 days',"
        " period_end_time = now() - interval '70 days'",
    )

    async def closed() -> bool:
        return await reasons(pair, "export") == {Reason.SUBSCRIPTION_INACTIVE}

    await eventually(closed)


async def test_an_account_suspended_by_hand_is_suspended_on_every_server(
    pair: list[Service], acme_database: str
) -> None:
    await by_hand(acme_database, "UPDATE accounts SET state = 'suspended'")

    async def suspended() -> bool:
        return await reasons(pair, "export") == {Reason.ACCOUNT_SUSPENDED}

    await eventually(suspended)


async def test_a_grant_inserted_by_hand_counts(pair: list[Service], acme_database: str) -> None:
    await by_hand(
        acme_database,
        "INSERT INTO grants (tenant_id, account_id, grant_id, feature_key, kind, quantity, start_time)"
        " VALUES ('acme', 'ann', 'g1', 'none', 'override', 7, now() - interval '1 day')",
    )

    async def given() -> bool:
        return [(await service.checker.check(a_check("none"))).limit_quantity for service in pair] == [7, 7]

    await eventually(given)


async def test_the_services_own_changes_raise_the_revision_by_one(pair: list[Service]) -> None:
    before = (await pair[0].checker.check(a_check("export"))).revision

    after = await change_plan(pair[0], "pro")

    assert after == before + 1
    assert {(await service.checker.check(a_check("export"))).revision for service in pair} == {after}


async def test_nonsense_written_by_hand_fails_its_account_alone(pair: list[Service], acme_database: str) -> None:
    """A time zone that does not exist must not take the calls of other accounts with it."""
    for service in pair:
        await outcome_of(service, an_increment("ten"))
        await outcome_of(service, an_increment("ten", account_id=BOB))
    await by_hand(acme_database, "UPDATE accounts SET time_zone = 'Mars/Olympus' WHERE account_id = 'ann'")

    async def noticed() -> bool:
        return all([(await service.checker.check(a_check("ten"))).stale for service in pair])

    await eventually(noticed)
    for service in pair:
        checks = await service.checker.check_many([a_check("ten"), a_check("ten", account_id=BOB)])
        counts = await service.meter.increment_many(
            [an_increment("ten"), an_increment("ten", account_id=BOB)], atomic=False
        )

        # What the server still knows of the account may be out of date, and says so.
        assert isinstance(checks[0], CheckAnswer)
        assert checks[0].stale
        assert isinstance(checks[1], CheckAnswer)
        assert not checks[1].stale
        assert isinstance(counts[0], StoreUnavailable)
        assert isinstance(counts[1], IncrementAnswer)
