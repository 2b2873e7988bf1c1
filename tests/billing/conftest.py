"""What billing is tried on: a shared database, a gateway with a scripted server, a local Stripe."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tallygate_server.billing.stripe_gateway import StripeGateway
from tests.conftest import drop_database, with_database
from tests.support.clock import FrozenClock
from tests.support.local_stripe import LocalStripe, local_stripe
from tests.support.scripted_http import ScriptedHttp, scripted_http
from tests.support.use_cases import empty_of_tenants

SHARED_DATABASE = "billing_in_turn"

START = "2027-01-15T12:00:00+00:00"
"""Where the local Stripe's clock begins."""


@pytest.fixture
async def web() -> AsyncIterator[ScriptedHttp]:
    async with scripted_http() as scripted:
        yield scripted


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
async def gateway(web: ScriptedHttp, clock: FrozenClock) -> AsyncIterator[StripeGateway]:
    """Make a gateway that tries once: what the library does between tries takes real time."""
    made = StripeGateway(api_key="sk_test_local", api_base=web.url, clock=clock, retries_max=0)
    yield made
    await made.close()


@pytest.fixture(scope="session")
async def stripe_process() -> AsyncIterator[LocalStripe]:
    async with local_stripe("--now", START) as started:
        yield started


@pytest.fixture
async def local(stripe_process: LocalStripe) -> LocalStripe:
    """Empty the local Stripe; its clock goes on from the last test's."""
    await stripe_process.reset()
    return stripe_process


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
