"""A gateway that talks to a scripted server, and a local Stripe for whole journeys."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tallygate_server.billing.stripe_gateway import StripeGateway
from tests.support.clock import FrozenClock
from tests.support.local_stripe import LocalStripe, local_stripe
from tests.support.scripted_http import ScriptedHttp, scripted_http

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
