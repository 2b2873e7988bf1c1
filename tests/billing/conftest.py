"""A database that the billing tests share in turn, each finding it without tenants."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.conftest import drop_database, with_database
from tests.support.use_cases import empty_of_tenants

SHARED_DATABASE = "billing_in_turn"


@pytest.fixture(scope="session")
async def shared_billing_database(database_url: str, template_database: str) -> AsyncIterator[str]:
    """Make one migrated database for the test process and return its address as its owner."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(f"CREATE DATABASE {SHARED_DATABASE} TEMPLATE {template_database} STRATEGY FILE_COPY")
    finally:
        await connection.close()
    yield with_database(database_url, SHARED_DATABASE)
    await drop_database(database_url, SHARED_DATABASE)


@pytest.fixture
async def billing_database(shared_billing_database: str) -> str:
    """Return the address of the shared database, emptied of what earlier tests left."""
    await empty_of_tenants(shared_billing_database)
    return shared_billing_database
