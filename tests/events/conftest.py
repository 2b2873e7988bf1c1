"""A database that the tests of events share in turn, each finding it empty."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.conftest import create_database, drop_database
from tests.support.events import EventWorld, event_world
from tests.support.use_cases import empty_of_tenants

SHARED_DATABASE = "events_in_turn"


@pytest.fixture(scope="session")
async def shared_database(database_url: str, template_database: str) -> AsyncIterator[str]:
    """Make one migrated database for the test process and return its address as its owner."""
    yield await create_database(database_url, SHARED_DATABASE, f"TEMPLATE {template_database} STRATEGY FILE_COPY")
    await drop_database(database_url, SHARED_DATABASE)


@pytest.fixture
async def world(shared_database: str) -> AsyncIterator[EventWorld]:
    """Build the parts over the shared database, emptied of what earlier tests left."""
    await empty_of_tenants(shared_database)
    async with event_world(shared_database) as running:
        yield running
