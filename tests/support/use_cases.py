"""The catalog, account and subscription use cases over one database, as the service wires them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tallygate_server.accounts import Accounts
from tallygate_server.billing.ports import PaidSubscriptions
from tallygate_server.catalog import Catalogs, CatalogSource
from tallygate_server.domain.identifier import TenantId
from tallygate_server.entitlement_changes import EntitlementChanges
from tallygate_server.storage.engine import Database, DatabaseRole, connect
from tallygate_server.storage.tables import METER_TABLES, TENANT_TABLES
from tallygate_server.subscriptions import Subscriptions
from tallygate_server.subscriptions.due_work import DueSubscriptions
from tallygate_server.tenants import TenantDirectory
from tests.support.clock import FrozenClock
from tests.support.revision_marks import InMemoryRevisionMarks

EXAMPLES = Path(__file__).parents[2] / "examples" / "catalogs"
EXAMPLE_NAMES = ("booktalks-buddy", "lekhak", "technically-fit", "training-analyzer", "writing-studio")
LEKHAK = TenantId("lekhak")


def example(name: str) -> CatalogSource:
    """Return one of the example catalogs."""
    return CatalogSource((EXAMPLES / f"{name}.yaml").read_text("utf-8"))


@dataclass(frozen=True, slots=True, kw_only=True)
class UseCases:
    """One server's use cases."""

    url: str
    database: Database
    lookups: Database
    clock: FrozenClock
    marks: InMemoryRevisionMarks
    changes: EntitlementChanges
    tenants: TenantDirectory
    catalogs: Catalogs
    accounts: Accounts
    subscriptions: Subscriptions
    due: DueSubscriptions

    async def fetch(self, sql: str, *values: object, tenant_id: str = LEKHAK) -> list[dict[str, Any]]:
        """Look into the tables as a reader of one tenant; even their owner sees no rows without one."""
        connection = await connect(self.url, DatabaseRole.READER)
        try:
            await connection.execute("SELECT set_config('tallygate.tenant_id', $1, false)", tenant_id)
            return [dict(row) for row in await connection.fetch(sql, *values)]
        finally:
            await connection.close()


async def empty_of_tenants(database_url: str) -> None:
    """Remove every tenant, account and subscription, with their records; several times as quick as a new database.

    As the owner, because truncating knows no row-level security; usage tables are left as they are.
    """
    connection = await connect(database_url)
    try:
        names = ", ".join(table.name for table in TENANT_TABLES if table not in METER_TABLES)
        await connection.execute(f"TRUNCATE {names}")
    finally:
        await connection.close()


@asynccontextmanager
async def use_cases(
    database_url: str, clock: FrozenClock | None = None, *, paid: PaidSubscriptions | None = None
) -> AsyncIterator[UseCases]:
    """Build the use cases over a migrated database; close its connections afterwards."""
    clock = clock or FrozenClock()
    database = Database(database_url, pool_size=5)
    lookups = Database(database_url, role=DatabaseRole.INTAKE, pool_size=2)
    marks = InMemoryRevisionMarks()
    changes = EntitlementChanges(database, marks, clock=clock)
    tenants = TenantDirectory(database, clock)
    accounts = Accounts(database, changes, tenants=tenants, clock=clock)
    try:
        yield UseCases(
            url=database_url,
            database=database,
            lookups=lookups,
            clock=clock,
            marks=marks,
            changes=changes,
            tenants=tenants,
            catalogs=Catalogs(database, tenants, clock=clock),
            accounts=accounts,
            subscriptions=Subscriptions(database, changes, tenants=tenants, accounts=accounts, clock=clock, paid=paid),
            due=DueSubscriptions(database, lookups, changes, clock=clock, paid=paid),
        )
    finally:
        await tenants.close()
        await lookups.close()
        await database.close()
