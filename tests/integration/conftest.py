"""A database that many tests share in turn, each finding it without tenants."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.conftest import create_database, drop_database
from tests.support.use_cases import empty_of_tenants

SHARED_DATABASE = "shared_in_turn"


@pytest.fixture(scope="session")
async def shared_database(database_url: str, template_database: str) -> AsyncIterator[str]:
    """Make one migrated database for the test process and return its address as its owner."""
    yield await create_database(database_url, SHARED_DATABASE, f"TEMPLATE {template_database} STRATEGY FILE_COPY")
    await drop_database(database_url, SHARED_DATABASE)


@pytest.fixture
async def database_without_tenants(shared_database: str) -> str:
    """Return the address of the shared database, emptied of what earlier tests left; a new one takes far longer."""
    await empty_of_tenants(shared_database)
    return shared_database
