"""A database that the tests of webhooks share in turn, each finding it empty."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.conftest import drop_database, with_database
from tests.support.use_cases import empty_of_tenants

SHARED_DATABASE = "webhooks_in_turn"


@pytest.fixture(scope="session")
async def shared_database(database_url: str, template_database: str) -> AsyncIterator[str]:
    """Make one migrated database for the test process and return its address as its owner."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(f"CREATE DATABASE {SHARED_DATABASE} TEMPLATE {template_database} STRATEGY FILE_COPY")
    finally:
        await connection.close()
    yield with_database(database_url, SHARED_DATABASE)
    await drop_database(database_url, SHARED_DATABASE)


@pytest.fixture
async def empty_webhooks(shared_database: str) -> str:
    """Return the address of the shared database, emptied of what earlier tests left; a new one takes far longer."""
    await empty_of_tenants(shared_database)
    return shared_database
