from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tallygate_server.domain.identifier import AccountId, PlanKey, TenantId
from tallygate_server.domain.subscription import BillingProvider
from tallygate_server.storage.engine import DatabaseRole, connect
from tallygate_server.storage.tables import METER_TABLES, TENANT_TABLES
from tallygate_server.subscriptions import NewSubscription
from tests.support.use_cases import LEKHAK, UseCases, example, use_cases

FITNESS = TenantId("technically-fit")
ANNA = AccountId("anna")
OF_THE_INTAKE = "webhook_events"
"""Webhooks come in before anybody knows whose they are: no tenant sees them."""
NAMES = sorted(table.name for table in TENANT_TABLES if table.name != OF_THE_INTAKE)
METERED = {table.name for table in METER_TABLES}
FILLED = (
    "tenants",
    "features",
    "plans",
    "catalog_revisions",
    "accounts",
    "account_identities",
    "subscriptions",
    "subscription_history",
    "outbox_events",
    "audit_entries",
)


@pytest.fixture
async def world(database_without_tenants: str) -> AsyncIterator[UseCases]:
    """Two tenants with an account of the same name and a paid subscription each."""
    async with use_cases(database_without_tenants) as running:
        for name, plan in (("lekhak", "pro"), ("technically-fit", "premium")):
            await running.catalogs.apply(example(name))
            await running.accounts.identify(TenantId(name), [], account_id=ANNA, email="anna@example.com")
            wanted = NewSubscription(plan_key=PlanKey(plan), provider=BillingProvider.MANUAL)
            await running.subscriptions.create(TenantId(name), ANNA, wanted)
        yield running


async def connection_as(world: UseCases, role: DatabaseRole, tenant_id: str = "") -> asyncpg.Connection:
    connection = await connect(world.url, role)
    if tenant_id:
        await connection.execute("SELECT set_config('tallygate.tenant_id', $1, false)", tenant_id)
    return connection


async def test_every_tenant_table_has_row_level_security_enabled_and_forced(world: UseCases) -> None:
    tables = await world.fetch(
        """
        SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity,
               (SELECT count(*) FROM pg_policy AS p WHERE p.polrelid = c.oid) AS policies, c.relispartition
        FROM pg_class AS c
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
        """
    )

    assert {table["relname"] for table in tables if not table["relispartition"]} == {*NAMES, OF_THE_INTAKE}
    for table in tables:
        assert table["relrowsecurity"], table
        assert table["relforcerowsecurity"], table
        # A partition has none of its own: by its own name nobody gets at any of its rows.
        policies_min = 1 if table["relname"] == OF_THE_INTAKE else 2
        assert table["policies"] >= policies_min or table["relispartition"], table


@pytest.mark.parametrize("role", [DatabaseRole.APP, DatabaseRole.READER])
@pytest.mark.parametrize("tenant_id", ["", "nobody"])
async def test_without_its_tenant_nothing_is_seen(world: UseCases, role: DatabaseRole, tenant_id: str) -> None:
    connection = await connection_as(world, role, tenant_id)
    try:
        for name in NAMES:
            assert await connection.fetchval(f"SELECT count(*) FROM {name}") == 0, name
    finally:
        await connection.close()


@pytest.mark.parametrize("role", [DatabaseRole.APP, DatabaseRole.READER])
@pytest.mark.parametrize("tenant_id", [LEKHAK, FITNESS])
async def test_a_tenant_sees_its_own_rows_and_no_others(
    world: UseCases, role: DatabaseRole, tenant_id: TenantId
) -> None:
    connection = await connection_as(world, role, tenant_id)
    try:
        for name in FILLED:
            seen = {row["tenant_id"] for row in await connection.fetch(f"SELECT tenant_id FROM {name}")}
            assert seen == {tenant_id}, name
    finally:
        await connection.close()


@pytest.mark.parametrize("name", FILLED)
async def test_a_row_of_another_tenant_cannot_be_written(world: UseCases, name: str) -> None:
    connection = await connection_as(world, DatabaseRole.APP, LEKHAK)
    try:
        columns = [
            row["attname"]
            for row in await connection.fetch(
                "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND attidentity = ''"
                " AND NOT attisdropped AND attname <> 'tenant_id'",
                name,
            )
        ]
        copied = ", ".join(columns)
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await connection.execute(
                f"INSERT INTO {name} (tenant_id, {copied}) SELECT 'technically-fit', {copied} FROM {name}"
            )
    finally:
        await connection.close()


async def test_a_row_cannot_be_moved_to_another_tenant(world: UseCases) -> None:
    connection = await connection_as(world, DatabaseRole.APP, LEKHAK)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await connection.execute("UPDATE accounts SET tenant_id = 'technically-fit', account_id = 'moved'")
        changed = await connection.execute("UPDATE accounts SET email = 'x' WHERE tenant_id = 'technically-fit'")
        assert changed == "UPDATE 0"
    finally:
        await connection.close()


async def test_the_reader_writes_nothing_and_the_application_no_usage(world: UseCases) -> None:
    reader = await connection_as(world, DatabaseRole.READER, LEKHAK)
    application = await connection_as(world, DatabaseRole.APP, LEKHAK)
    try:
        for name in NAMES:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await reader.execute(f"UPDATE {name} SET tenant_id = tenant_id")
        for name in METERED:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await application.execute(f"INSERT INTO {name} (tenant_id) VALUES ('lekhak')")
    finally:
        await reader.close()
        await application.close()


async def test_the_meter_reaches_usage_tables_only(world: UseCases) -> None:
    meter = await connection_as(world, DatabaseRole.METER)
    try:
        for name in set(NAMES) - METERED:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await meter.fetchval(f"SELECT count(*) FROM {name}")
        for name in METERED:
            assert await meter.fetchval(f"SELECT count(*) FROM {name}") == 0
    finally:
        await meter.close()


async def test_a_setting_does_not_outlive_its_transaction_in_the_pool(world: UseCases) -> None:
    async with world.database.tenant_transaction(LEKHAK) as connection:
        rows = await connection.exec_driver_sql("SELECT count(*) FROM accounts")
        assert rows.scalar_one() == 1

    for _ in range(10):
        async with world.database.plain_transaction() as connection:
            rows = await connection.exec_driver_sql("SELECT count(*) FROM accounts")
            assert rows.scalar_one() == 0


@pytest.mark.parametrize("role", [DatabaseRole.APP, DatabaseRole.READER, DatabaseRole.METER])
@pytest.mark.parametrize("verb", ["SELECT count(*) FROM", "DELETE FROM", "INSERT INTO"])
async def test_webhooks_are_for_the_intake_alone(world: UseCases, role: DatabaseRole, verb: str) -> None:
    connection = await connection_as(world, role, LEKHAK)
    try:
        statement = f"{verb} {OF_THE_INTAKE}" + (" DEFAULT VALUES" if verb == "INSERT INTO" else "")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_the_intake_learns_whose_somebody_is_and_nothing_else_of_tenants(world: UseCases) -> None:
    connection = await connection_as(world, DatabaseRole.INTAKE)
    try:
        owners = await connection.fetch("SELECT tenant_id, account_id FROM account_identities WHERE provider = 'email'")
        assert {(row["tenant_id"], row["account_id"]) for row in owners} == {(LEKHAK, ANNA), (FITNESS, ANNA)}
        for name in NAMES:
            for statement in (f"SELECT * FROM {name}", f"UPDATE {name} SET tenant_id = tenant_id"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(f"DELETE FROM {OF_THE_INTAKE}")
    finally:
        await connection.close()


async def test_the_outbox_reaches_events_endpoints_and_deliveries_only(world: UseCases) -> None:
    own = {"outbox_events", "outbox_horizons", "webhook_endpoints", "webhook_deliveries"}
    connection = await connection_as(world, DatabaseRole.OUTBOX)
    try:
        tenants = await connection.fetch("SELECT DISTINCT tenant_id FROM outbox_events")
        assert {row["tenant_id"] for row in tenants} == {LEKHAK, FITNESS}
        for name in {*NAMES, OF_THE_INTAKE} - own:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetchval(f"SELECT count(*) FROM {name}")
        for statement in (
            "UPDATE outbox_events SET payload = '{}'",
            "UPDATE webhook_endpoints SET url = url",
            "UPDATE webhook_endpoints SET secret = secret",
            "INSERT INTO webhook_endpoints DEFAULT VALUES",
            "DELETE FROM webhook_endpoints",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()
