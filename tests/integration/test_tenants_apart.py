"""One group commit carries calls of many tenants; none of them ever touches another's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tallygate_server.domain.call import IncrementAnswer
from tallygate_server.domain.identifier import FeatureKey
from tallygate_server.service import Service
from tallygate_server.storage.engine import DatabaseRole, connect
from tallygate_server.storage.tables import METER_TABLES, metadata, usage_rollup_progress
from tests.support.acme import (
    ACME,
    ANN,
    GLOBEX,
    a_check,
    allowed,
    an_increment,
    apply_catalog,
    assert_redis_agrees,
    change_plan,
    denied,
    fetch,
    services,
    used,
)

METERED = {table.name for table in METER_TABLES}
TENANTS = (ACME, GLOBEX)


@pytest.fixture
async def pair(acme_database: str, fresh_redis: str) -> AsyncIterator[list[Service]]:
    await apply_catalog(acme_database, GLOBEX)
    async with services(acme_database, fresh_redis, 2) as running:
        yield running


async def test_the_same_accounts_features_and_request_ids_of_two_tenants_are_kept_apart(
    pair: list[Service], acme_database: str
) -> None:
    batch = [
        an_increment("words", 1 if tenant_id == ACME else 10, tenant_id=tenant_id, request_id=f"r{n}")
        for n in range(50)
        for tenant_id in TENANTS
    ]

    outcomes = await pair[0].meter.increment_many(batch, atomic=False)
    again = await pair[1].meter.increment_many(batch, atomic=False)

    for position, step in ((0, 1), (1, 10)):
        totals = sorted(answer.used_quantity for answer in allowed(outcomes)[position::2])
        assert totals == [step * n for n in range(1, 51)]
    assert [answer.used_quantity for answer in allowed(again)] == [answer.used_quantity for answer in allowed(outcomes)]
    assert await used(acme_database, "words", tenant_id=ACME) == 50
    assert await used(acme_database, "words", tenant_id=GLOBEX) == 500
    await assert_redis_agrees(pair[0], acme_database)


async def test_a_tenants_full_counter_denies_nobody_elses(pair: list[Service]) -> None:
    outcomes = await pair[0].meter.increment_many(
        [an_increment("ten", 10 if n == 0 else 1, tenant_id=ACME) for n in range(20)]
        + [an_increment("ten", tenant_id=GLOBEX) for _ in range(10)],
        atomic=False,
    )

    assert len(denied(outcomes[:20])) == 19
    assert len(allowed(outcomes[20:])) == 10


async def test_a_tenants_change_is_not_anothers(pair: list[Service]) -> None:
    for service in pair:
        await service.checker.check_many([a_check("ten", tenant_id=tenant_id) for tenant_id in TENANTS])

    await change_plan(pair[0], "pro", tenant_id=ACME)

    for service in pair:
        mine, theirs = [await service.checker.check(a_check("ten", tenant_id=tenant_id)) for tenant_id in TENANTS]
        assert (mine.limit_quantity, theirs.limit_quantity) == (20, 10)


async def test_ledgers_are_read_by_their_tenant_alone(pair: list[Service]) -> None:
    await pair[0].meter.increment_many(
        [an_increment("ten", 2, tenant_id=ACME), an_increment("ten", 3, tenant_id=GLOBEX)], atomic=False
    )

    for tenant_id, quantity in ((ACME, 2), (GLOBEX, 3)):
        entries = await pair[1].usage.entries(tenant_id, ANN, limit=10)
        usage = await pair[1].usage.usage(tenant_id, ANN, FeatureKey("ten"))
        assert [entry.quantity for entry in entries] == [quantity]
        assert usage.used_quantity == quantity


async def test_the_meter_reads_and_writes_nothing_but_usage(acme_database: str) -> None:
    connection = await connect(acme_database, DatabaseRole.METER)
    try:
        for table in metadata.sorted_tables:
            # How far rollups have come is said of no tenant.
            if table.name in METERED or table is usage_rollup_progress:
                await connection.fetch(f"SELECT * FROM {table.name}")
                continue
            statements = [f"SELECT * FROM {table.name}", f"DELETE FROM {table.name}", f"TRUNCATE {table.name}"]
            if table.name not in {"outbox_events", "audit_entries"}:
                # Of those that the meter adds to, and reads nothing.
                statements.append(f"INSERT INTO {table.name} DEFAULT VALUES")
            for statement in statements:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)
        for statement in (
            "DELETE FROM usage_entries",
            "UPDATE usage_entries SET quantity = 0",
            "TRUNCATE usage_entries",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()


@pytest.mark.parametrize("role", [DatabaseRole.APP, DatabaseRole.READER])
async def test_nobody_but_the_meter_writes_usage(pair: list[Service], acme_database: str, role: DatabaseRole) -> None:
    await pair[0].meter.increment(an_increment("ten"))
    connection = await connect(acme_database, role)
    try:
        await connection.execute("SELECT set_config('tallygate.tenant_id', 'acme', false)")
        for name in sorted(METERED):
            for statement in (f"DELETE FROM {name}", f"INSERT INTO {name} DEFAULT VALUES", f"TRUNCATE {name}"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("UPDATE usage_counters SET used_quantity = 0")
        seen = await connection.fetch("SELECT tenant_id FROM usage_entries")
    finally:
        await connection.close()

    assert {row["tenant_id"] for row in seen} == {"acme"}


async def test_no_ledger_row_mixes_tenants(pair: list[Service], acme_database: str) -> None:
    """Entries, counters and requests of one commit agree on whose they are."""
    outcomes = await pair[0].meter.increment_many(
        [
            an_increment("endless", n + 1, tenant_id=TENANTS[n % 2], account_id=f"a{n % 3}", request_id=f"r{n}")
            for n in range(200)
        ],
        atomic=False,
    )
    rows = await fetch(
        acme_database,
        "SELECT e.tenant_id, e.account_id, e.quantity, r.quantity AS requested FROM usage_entries AS e"
        " JOIN usage_requests AS r USING (tenant_id, account_id, request_id)",
    )

    assert all(isinstance(outcome, IncrementAnswer) for outcome in outcomes)
    assert len(rows) == 200
    for row in rows:
        n = row["quantity"] - 1
        assert row["requested"] == row["quantity"]
        assert (row["tenant_id"], row["account_id"]) == (TENANTS[n % 2], f"a{n % 3}")
