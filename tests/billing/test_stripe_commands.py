"""`tallygate stripe sync` as a person uses it, against a server and a local Stripe."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner, Result

from tallygate.v1 import subscription_pb2, subscription_service_pb2
from tallygate_server.app import App
from tallygate_server.cli import app as command_line
from tallygate_server.client import Client
from tallygate_server.config import Settings
from tests.support.local_stripe import LocalStripe, local_stripe
from tests.support.tallygate_process import ROOT

CATALOGS = ROOT / "examples" / "catalogs"

Say = Callable[..., Awaitable[Result]]


@dataclass(frozen=True, slots=True)
class Served:
    """A server and its Stripe, which sends it no webhooks."""

    target: str
    local: LocalStripe


@pytest.fixture
async def served(fresh_database: str, fresh_redis: str) -> AsyncIterator[Served]:
    async with local_stripe() as local:
        settings = Settings.model_validate(
            {
                "database_url": fresh_database,
                "redis_url": fresh_redis,
                "grpc_port": 0,
                "ops_port": 0,
                "run_workers": False,
                "drain_delay_ms": 0,
                "stripe_api_key": local.api_key,
                "stripe_api_base": local.url,
                "stripe_timeout_ms": 30_000,
                "stripe_call_timeout_ms": 60_000,
                "request_timeout_ms": 60_000,
            }
        )
        async with App.open(settings, catalogs_dir=CATALOGS) as app:
            yield Served(f"127.0.0.1:{app.grpc_port}", local)


@pytest.fixture
def say(served: Served) -> Say:
    async def say(*arguments: str) -> Result:
        return await asyncio.to_thread(
            CliRunner().invoke, command_line, list(arguments), env={"TALLYGATE_TARGET": served.target}
        )

    return say


async def test_what_happened_without_a_webhook_is_shown_and_then_repaired(served: Served, say: Say) -> None:
    async with Client(served.target) as client:
        await client.call(
            client.subscriptions.CreateSubscription,
            subscription_service_pb2.CreateSubscriptionRequest(
                tenant_id="lekhak",
                account_id="anna",
                plan_key="pro",
                billing_provider=subscription_pb2.BILLING_PROVIDER_STRIPE,
                payment_method_id="pm_card_visa",
                request_id="r1",
            ),
            timeout_s=60,
        )
    (bought,) = (await served.local.client.v1.subscriptions.list_async({"limit": 10})).data
    await say("stripe", "sync", "--tenant", "lekhak")
    await served.local.client.v1.subscriptions.update_async(bought.id, {"cancel_at_period_end": True})

    shown = await say("stripe", "sync", "--tenant", "lekhak", "--account", "anna", "--dry-run")
    repaired = await say("stripe", "sync", "--tenant", "lekhak", "--account", "anna", "--json")
    again = await say("stripe", "sync", "--tenant", "lekhak", "--account", "anna")

    assert shown.exit_code == 0, shown.output
    assert "cancel_at_period_end" in shown.stdout
    assert "nothing was repaired: --dry-run" in shown.stdout
    # The server, in the same process here, may have logged in between.
    answer = json.loads(repaired.stdout[repaired.stdout.index("{") :])
    assert answer["repaired_count"] == answer["difference_count"] != "0"
    assert "1 subscriptions compared, 0 differences, 0 repaired." in again.stdout


async def test_without_a_tenant_it_says_what_is_missing(say: Say) -> None:
    refused = await say("stripe", "sync")
    unknown = await say("stripe", "sync", "--tenant", "nobody")

    assert refused.exit_code == 2
    assert "--tenant" in refused.output
    assert unknown.exit_code == 2
    assert "TENANT_NOT_FOUND" in unknown.output
