"""`tallygate grant ...` and `tallygate feature override` as a person uses them, and the calls behind them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from grpc import StatusCode, aio
from typer.testing import CliRunner, Result

from tallygate.v1 import entitlement_pb2, entitlement_service_pb2, entitlement_service_pb2_grpc, period_pb2
from tallygate_server.app import App
from tallygate_server.cli import app as command_line
from tallygate_server.config import Settings
from tests.support.credits import apply_catalog

Say = Callable[..., Awaitable[Result]]


@pytest.fixture
async def served(fresh_database: str, fresh_redis: str) -> AsyncIterator[App]:
    settings = Settings.model_validate(
        {
            "database_url": fresh_database,
            "redis_url": fresh_redis,
            "grpc_port": 0,
            "ops_port": 0,
            "run_workers": False,
            "drain_delay_ms": 0,
        }
    )
    async with App.open(settings) as app:
        await apply_catalog(app.service)
        yield app


@pytest.fixture
def say(served: App) -> Say:
    """Run commands in a thread: they have a loop of their own."""

    async def say(*arguments: str) -> Result:
        return await asyncio.to_thread(
            CliRunner().invoke,
            command_line,
            [*arguments],
            env={"TALLYGATE_TARGET": f"127.0.0.1:{served.grpc_port}"},
        )

    return say


@pytest.fixture
async def stub(served: App) -> AsyncIterator[Any]:
    async with aio.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel:
        yield entitlement_service_pb2_grpc.EntitlementServiceStub(channel)


async def as_json(said: Awaitable[Result]) -> Any:
    result = await said
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


async def test_a_credit_is_given_used_listed_and_taken_back(say: Say) -> None:
    given = await as_json(
        say(
            *("grant", "create", "credita", "ann", "words", "bonus", "5", "--every", "month"),
            *("--rollover-max", "3", "--reason", "sorry", "--request-id", "r1", "--json"),
        )
    )
    again = await say(
        *("grant", "create", "credita", "ann", "words", "bonus", "5", "--every", "month"),
        *("--rollover-max", "3", "--reason", "sorry", "--request-id", "r1"),
    )
    grant_id = given["grant"]["grant_id"]
    assert given["grant"]["recurrence"] == "PERIOD_KIND_MONTH"
    assert "the first answer again" in again.output

    counted = await as_json(say("increment", "credita", "ann", "words", "-q", "12", "--json"))
    assert (counted["limit_quantity"], counted["remaining_quantity"]) == ("15", "3")
    listed = await say("grant", "list", "credita", "ann", "--state", "active")
    assert "bonus 5 every month" in listed.output
    assert grant_id in listed.output

    revoked = await say("grant", "revoke", "credita", "ann", grant_id, "--reason", "refund")
    assert "revoked" in revoked.output
    assert "2, 0 left" in revoked.output
    assert (await say("grant", "list", "credita", "ann", "--state", "active")).output.strip() == "No grants."


async def test_limits_values_and_switches_are_overridden(say: Say) -> None:
    limit = await say("grant", "create", "credita", "ann", "words", "override", "3", "--expire", "2099-01-01")
    assert "override 3" in limit.output
    value = await as_json(say("grant", "create", "credita", "ann", "history", "override", "=365", "--json"))
    assert value["grant"]["config_value"] == 365
    on = await say("feature", "override", "credita", "ann", "export", "on")
    assert "export is allowed: ok" in on.output
    off = await say("feature", "override", "credita", "ann", "words", "off", "--grace-days", "3")
    assert "words is allowed: in grace" in off.output
    cleared = await as_json(say("feature", "override", "credita", "ann", "words", "clear", "--json"))
    assert cleared["answer"]["limit_quantity"] == "3"
    assert "grant" not in cleared
    listed = await as_json(say("grant", "list", "credita", "--kind", "switch", "--json"))
    assert {each["feature_key"]: each["state"] for each in listed["grants"]} == {
        "export": "GRANT_STATE_ACTIVE",
        "words": "GRANT_STATE_REVOKED",
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ("words", "bonus", "many"),
        ("words", "switch", "maybe"),
        ("history", "override", "nothing"),
        ("words", "bonus", "5", "--expire", "soon"),
        ("export", "bonus", "5"),
    ],
)
async def test_what_makes_no_sense_is_explained(say: Say, arguments: tuple[str, ...]) -> None:
    said = await say("grant", "create", "credita", "ann", *arguments)
    assert said.exit_code == 2
    assert "Traceback" not in said.output


async def test_the_calls_answer_as_their_contract_says(stub: Any) -> None:
    request = entitlement_service_pb2.CreateGrantRequest(
        tenant_id="credita", account_id="ann", feature_key="words", kind="GRANT_KIND_PURCHASE", credit_quantity=5,
        recurrence="PERIOD_KIND_MONTH", priority=7, reason_text="order", actor="ops", metadata={"order": "o1"},
        request_id="r1",
    )  # fmt: skip
    request.rollover.min_quantity = 1
    created = await stub.CreateGrant(request)
    replayed = await stub.CreateGrant(request)
    grant = created.grant
    assert (grant.kind, grant.credit_quantity, grant.remaining_quantity) == (entitlement_pb2.GRANT_KIND_PURCHASE, 5, 5)
    assert (grant.recurrence, grant.rollover.min_quantity) == (period_pb2.PERIOD_KIND_MONTH, 1)
    assert (grant.priority, grant.actor, dict(grant.metadata)) == (7, "ops", {"order": "o1"})
    assert (replayed.grant, replayed.revision, replayed.replayed) == (grant, created.revision, True)

    for n in range(3):
        request.request_id, request.priority = f"more{n}", n
        await stub.CreateGrant(request)
    listing = entitlement_service_pb2.ListGrantsRequest(tenant_id="credita", page_size=3)
    first = await stub.ListGrants(listing)
    listing.page_token = first.next_page_token
    second = await stub.ListGrants(listing)
    assert [each.priority for each in (*first.grants, *second.grants)] == [2, 1, 0, 7]
    assert not second.next_page_token

    switched = await stub.SetFeatureOverride(
        entitlement_service_pb2.SetFeatureOverrideRequest(
            tenant_id="credita", account_id="ann", feature_key="words", override="FEATURE_OVERRIDE_DISABLED",
            grace_days=2, reason_text="abuse",
        )
    )  # fmt: skip
    assert switched.grant.kind == entitlement_pb2.GRANT_KIND_SWITCH
    assert switched.grant.WhichOneof("gift") == "enabled"
    assert switched.grant.grace_end_time == switched.answer.grace_end_time
    with pytest.raises(aio.AioRpcError) as refused:
        await stub.RevokeGrant(
            entitlement_service_pb2.RevokeGrantRequest(
                tenant_id="credita", account_id="ann", grant_id="grant_none", reason_text="x"
            )
        )
    assert refused.value.code() is StatusCode.NOT_FOUND
    bad = entitlement_service_pb2.CreateGrantRequest(
        tenant_id="credita", account_id="ann", feature_key="words", kind="GRANT_KIND_OVERRIDE", reason_text="x"
    )
    bad.limit.quantity, bad.limit.trial_quantity = 5, 7
    with pytest.raises(aio.AioRpcError) as refused:
        await stub.CreateGrant(bad)
    assert refused.value.code() is StatusCode.INVALID_ARGUMENT
    assert "limit.trial_quantity" in (refused.value.details() or "")
