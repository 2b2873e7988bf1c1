"""Planning, pausing, previewing and history over the wire, with a clock that the test moves."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from grpc import aio

from tallygate.v1 import (
    catalog_pb2,
    entitlement_service_pb2,
    entitlement_service_pb2_grpc,
    subscription_pb2,
    subscription_service_pb2,
    subscription_service_pb2_grpc,
)
from tallygate_server.app import servicers
from tallygate_server.service import Service, open_service
from tallygate_server.transport.server import build_server
from tests.support.acme import PATIENT
from tests.support.clock import FrozenClock
from tests.support.transport_servers import Refusal, refusal_of
from tests.support.use_cases import example

WHO: dict[str, Any] = {"tenant_id": "lekhak", "account_id": "a"}
MANUAL = subscription_pb2.BILLING_PROVIDER_MANUAL
DAY = dt.timedelta(days=1)
pb = subscription_service_pb2


@dataclass(frozen=True, slots=True)
class World:
    """A served service, and stubs for it."""

    service: Service
    clock: FrozenClock
    subscriptions: Any
    entitlements: Any

    async def buy(self, plan_key: str = "unlimited", **more: Any) -> subscription_pb2.Subscription:
        """Subscribe the account, paid outside."""
        request = pb.CreateSubscriptionRequest(**WHO, plan_key=plan_key, billing_provider=MANUAL, **more)
        return (await self.subscriptions.CreateSubscription(request)).subscription  # type: ignore[no-any-return]

    async def limit(self) -> int:
        """Ask how much the account may do."""
        answer = await self.entitlements.CheckAccess(
            entitlement_service_pb2.CheckAccessRequest(**WHO, feature_key="text_rewrite")
        )
        return int(answer.limit_quantity)


@pytest.fixture
async def world(fresh_database: str, fresh_redis: str) -> AsyncIterator[World]:
    clock = FrozenClock()
    async with open_service(database_url=fresh_database, redis_url=fresh_redis, clock=clock, limits=PATIENT) as service:
        await service.catalogs.apply(example("lekhak"))
        server = build_server("native", servicers(service), observe=lambda *_call: None)
        port = await server.start("127.0.0.1", 0)
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            yield World(
                service,
                clock,
                subscription_service_pb2_grpc.SubscriptionServiceStub(channel),
                entitlement_service_pb2_grpc.EntitlementServiceStub(channel),
            )
        await server.drain(drain_delay_ms=0, grace_ms=0)


async def refused(call: Any) -> Refusal:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return refusal_of(caught.value)


async def test_a_downgrade_is_planned_shown_taken_back_planned_again_and_in_force_in_time(world: World) -> None:
    bought = await world.buy()
    move = pb.ChangePlanRequest(
        **WHO, subscription_id=bought.subscription_id, plan_key="pro", actor="anna", request_id="r1"
    )

    planned = await world.subscriptions.ChangePlan(move)
    again = await world.subscriptions.ChangePlan(move)

    change = planned.subscription.scheduled_change
    assert change.kind == subscription_pb2.SCHEDULED_CHANGE_KIND_PLAN
    assert (change.plan_key, change.actor, change.quantity) == ("pro", "anna", 1)
    assert change.interval == catalog_pb2.BILLING_INTERVAL_MONTH
    assert change.effective_time == bought.current_period.end_time
    assert planned.subscription.plan_key == "unlimited"
    assert (again.replayed, again.subscription) == (True, planned.subscription)
    taken_back = await world.subscriptions.CancelScheduledChange(
        pb.CancelScheduledChangeRequest(
            **WHO, subscription_id=bought.subscription_id, scheduled_change_id=change.scheduled_change_id
        )
    )
    assert not taken_back.subscription.HasField("scheduled_change")
    none_left = await refused(
        world.subscriptions.CancelScheduledChange(
            pb.CancelScheduledChangeRequest(**WHO, subscription_id=bought.subscription_id)
        )
    )
    assert (none_left.code, none_left.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    move.request_id = "r2"
    await world.subscriptions.ChangePlan(move)
    assert await world.limit() == -1
    world.clock.set(bought.current_period.end_time.ToDatetime(dt.UTC))
    assert await world.limit() == 1000


async def test_a_pause_is_shown_with_its_end_and_closes_access_meanwhile(world: World) -> None:
    bought = await world.buy("pro")
    resume = world.clock.now() + 3 * DAY

    paused = await world.subscriptions.PauseSubscription(
        pb.PauseSubscriptionRequest(
            **WHO, subscription_id=bought.subscription_id, timing=pb.CHANGE_TIMING_NOW, resume_time=resume
        )
    )

    held = paused.subscription
    assert held.state == subscription_pb2.SUBSCRIPTION_STATE_PAUSED
    assert held.pause_period.start_time.ToDatetime(dt.UTC) == world.clock.now()
    assert held.pause_period.end_time.ToDatetime(dt.UTC) == resume
    assert held.scheduled_change.kind == subscription_pb2.SCHEDULED_CHANGE_KIND_RESUMPTION
    assert await world.limit() == 10
    resumed = await world.subscriptions.ResumeSubscription(pb.ResumeSubscriptionRequest(**WHO))
    assert resumed.subscription.state == subscription_pb2.SUBSCRIPTION_STATE_ACTIVE
    assert not resumed.subscription.HasField("pause_period")
    assert resumed.revision == paused.revision + 1
    assert await world.limit() == 1000


async def test_a_cancellation_at_a_time_is_no_end_with_the_period_before_its_last(world: World) -> None:
    bought = await world.buy("pro")
    at = world.clock.now() + 45 * DAY
    request = pb.CancelSubscriptionRequest(
        **WHO, subscription_id=bought.subscription_id, timing=pb.CHANGE_TIMING_AT_TIME, effective_time=at
    )

    canceled = (await world.subscriptions.CancelSubscription(request)).subscription

    assert canceled.end_time.ToDatetime(dt.UTC) == at
    assert not canceled.cancel_at_period_end
    assert canceled.scheduled_change.kind == subscription_pb2.SCHEDULED_CHANGE_KIND_CANCELLATION
    assert canceled.cancel_request_time.ToDatetime(dt.UTC) == world.clock.now()
    world.clock.set(at)
    ended = await world.subscriptions.GetSubscription(
        pb.GetSubscriptionRequest(tenant_id="lekhak", subscription_id=bought.subscription_id)
    )
    assert ended.subscription.state == subscription_pb2.SUBSCRIPTION_STATE_CANCELED
    request.ClearField("timing")
    request.ClearField("effective_time")
    refusal = await refused(world.subscriptions.CancelSubscription(request))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ILLEGAL_TRANSITION")
    assert refusal.metadata == {"before": "canceled", "after": "canceled"}


async def test_a_preview_tells_prices_and_what_is_lost(world: World) -> None:
    bought = await world.buy("pro")

    preview = await world.subscriptions.PreviewPlanChange(
        pb.PreviewPlanChangeRequest(**WHO, subscription_id=bought.subscription_id, plan_key="free")
    )

    assert preview.direction == pb.PLAN_CHANGE_DIRECTION_DOWNGRADE
    assert (preview.present_price.minor_units, preview.present_price.currency_code) == (999, "USD")
    assert not preview.HasField("new_price")
    assert not preview.HasField("due_now")
    assert preview.effective_time == bought.current_period.end_time
    assert "grammar_check" in preview.lost_feature_keys
    assert preview.preview_time.ToDatetime(dt.UTC) == world.clock.now()


async def test_history_is_paged_and_tells_who_what_when_and_why(world: World) -> None:
    bought = await world.buy("pro")
    for quantity in (2, 3):
        world.clock.advance(DAY)
        await world.subscriptions.ChangePlan(
            pb.ChangePlanRequest(
                **WHO, subscription_id=bought.subscription_id, plan_key="pro", quantity=quantity, actor="anna",
                reason_text=f"{quantity} of us",
            )
        )  # fmt: skip
    request = pb.ListSubscriptionChangesRequest(**WHO, subscription_id=bought.subscription_id, page_size=2)

    first = await world.subscriptions.ListSubscriptionChanges(request)
    request.page_token = first.next_page_token
    rest = await world.subscriptions.ListSubscriptionChanges(request)

    assert [step.cause for step in (*first.changes, *rest.changes)] == ["change_plan", "change_plan", "create"]
    newest = first.changes[0]
    assert (newest.actor, newest.reason_text) == ("anna", "3 of us")
    assert json.loads(newest.difference_json) == {"quantity": {"before": 2, "after": 3}}
    assert newest.change_time.ToDatetime(dt.UTC) == world.clock.now()
    assert newest.state_before == newest.state_after == subscription_pb2.SUBSCRIPTION_STATE_ACTIVE
    assert rest.changes[0].state_before == subscription_pb2.SUBSCRIPTION_STATE_UNSPECIFIED
    assert rest.next_page_token == ""
    request.account_id = "b"
    assert (await refused(world.subscriptions.ListSubscriptionChanges(request))).code is (
        grpc.StatusCode.INVALID_ARGUMENT
    )
    request.page_token = ""
    assert (await refused(world.subscriptions.ListSubscriptionChanges(request))).reason == "ACCOUNT_NOT_FOUND"


@pytest.mark.parametrize("method", ["ChangePlan", "CancelSubscription", "PauseSubscription", "PreviewPlanChange"])
async def test_a_time_needs_its_timing(world: World, method: str) -> None:
    bought = await world.buy("pro")
    plan: dict[str, Any] = {"plan_key": "free"} if method in ("ChangePlan", "PreviewPlanChange") else {}
    request = getattr(pb, f"{method}Request")(
        **WHO, **plan, subscription_id=bought.subscription_id, timing=pb.CHANGE_TIMING_AT_TIME
    )

    refusal = await refused(getattr(world.subscriptions, method)(request))

    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["effective_time"])
