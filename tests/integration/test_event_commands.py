"""`tallygate events ...` and `tallygate endpoint ...` as a person uses them, against a server in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tallygate_server.app import App
from tallygate_server.cli import app as command_line
from tallygate_server.config import Settings
from tallygate_server.domain.identifier import AccountId, TenantId
from tests.support.events import verified
from tests.support.eventually import eventually
from tests.support.scripted_http import Reply, scripted_http
from tests.support.tallygate_process import ROOT

LEKHAK = TenantId("lekhak")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A server with its workers, and a command line."""

    app: App
    say: Callable[..., Awaitable[Result]]

    async def identify(self, account_id: str) -> None:
        """Make an account, which is an event."""
        await self.app.service.accounts.identify(LEKHAK, [], account_id=AccountId(account_id))


@pytest.fixture
async def world(fresh_database: str, fresh_redis: str) -> AsyncIterator[World]:
    """Serve the example catalogs, and run commands in a thread: they have a loop of their own."""
    settings = Settings.model_validate(
        {
            "database_url": fresh_database,
            "redis_url": fresh_redis,
            "grpc_port": 0,
            "ops_port": 0,
            "drain_delay_ms": 0,
            "delivery_private_networks": True,
            "delivery_plain_http": True,
        }
    )
    async with App.open(settings, catalogs_dir=ROOT / "examples" / "catalogs") as app:

        async def say(*arguments: str) -> Result:
            return await asyncio.to_thread(
                CliRunner().invoke,
                command_line,
                list(arguments),
                env={"TALLYGATE_TARGET": f"127.0.0.1:{app.grpc_port}"},
            )

        yield World(app=app, say=say)


async def as_json(said: Awaitable[Result]) -> Any:
    result = await said
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


async def test_events_are_listed_and_watched(world: World) -> None:
    await world.identify("ann")

    async def there() -> bool:
        return "account.created" in (await world.say("events", "list", "lekhak")).stdout

    await eventually(there)
    listed = await as_json(world.say("events", "list", "lekhak", "--type", "account.created", "--json"))
    (event,) = listed["events"]
    assert event["account_id"] == "ann"
    none = await world.say("events", "list", "lekhak", "--account", "bob")
    assert none.stdout.strip() == "There are no such events."
    watched = await world.say(
        "events", "watch", "lekhak", "--type", "account.*", "--after", "0", "--count", "1", "--json"
    )
    assert watched.exit_code == 0, watched.output
    assert json.loads(watched.stdout) == event
    line = await world.say("events", "watch", "lekhak", "--account", "ann", "--after", "0", "-n", "1")
    assert "  ann  " in line.stdout
    unknown = await world.say("events", "watch", "nobody", "-n", "1")
    assert unknown.exit_code == 2
    assert "TENANT_NOT_FOUND" in unknown.output


async def test_an_endpoint_is_managed_from_the_command_line(world: World) -> None:
    async with scripted_http() as consumer:
        consumer.on("POST /hook", Reply(status=200))
        url = f"{consumer.url}/hook"
        created = await as_json(
            world.say("endpoint", "create", "lekhak", url, "--type", "account.*", "-d", "CRM", "--json")
        )
        secret, target = created["secret"], created["endpoint"]["endpoint_id"]
        await world.identify("ann")
        (asked,) = await eventually(lambda: consumer.to("POST /hook"))
        event_id = verified(asked, secret)["event_id"]

        async def delivered() -> bool:
            said = await world.say("endpoint", "deliveries", "lekhak", "-e", target, "--state", "delivered")
            return event_id in said.stdout

        await eventually(delivered)
        rotated = await world.say("endpoint", "rotate", "lekhak", target)
        assert "whsec_" in rotated.stdout
        replayed = await world.say("endpoint", "replay", "lekhak", target, event_id)
        assert replayed.stdout.strip() == "1 event will be sent again."
        await eventually(lambda: len(consumer.to("POST /hook")) == 2)
    updated = await world.say("endpoint", "update", "lekhak", target, "--type", "all", "--disable")
    assert "disabled by tallygate" in updated.stdout
    enabled = await as_json(world.say("endpoint", "update", "lekhak", target, "--enable", "--json"))
    assert enabled["endpoint"]["disabled"] is False
    table = await world.say("endpoint", "list", "lekhak")
    assert {target, url, "enabled"} <= set(table.stdout.split())
    failed = await world.say("endpoint", "replay", "lekhak", target, "--failed", "--from", "2099-01-01")
    assert failed.stdout.strip() == "0 events will be sent again."
    nothing = await world.say("endpoint", "replay", "lekhak", target)
    assert nothing.exit_code == 2
    deleted = await world.say("endpoint", "delete", "lekhak", target)
    assert deleted.stdout.strip() == f"{target} is deleted."
    assert (await world.say("endpoint", "list", "lekhak")).stdout.strip() == "There are no endpoints."


async def test_a_created_endpoint_and_its_secret_are_shown_once(world: World) -> None:
    created = await world.say("endpoint", "create", "lekhak", "http://127.0.0.1:9/hook")
    assert created.exit_code == 0, created.output
    assert "Its secret, shown only now: whsec_" in created.stdout

    listed = await world.say("endpoint", "list", "lekhak", "--json")
    assert "whsec_" not in listed.stdout
