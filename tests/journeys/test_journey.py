"""The life of a paying account, from its first free use to its last day, against processes as anybody would run them.

Two servers, one Stripe, one clock for all three.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
import pytest
import stripe
from grpc import aio

from tallygate.v1 import access_pb2, billing_pb2, subscription_pb2, subscription_service_pb2, usage_service_pb2
from tallygate.v1.catalog_pb2 import BILLING_INTERVAL_MONTH
from tallygate.v1.entitlement_service_pb2 import CheckAccessRequest, CheckAccessResponse
from tallygate.v1.entitlement_service_pb2_grpc import EntitlementServiceStub
from tallygate.v1.subscription_service_pb2_grpc import SubscriptionServiceStub
from tallygate.v1.usage_service_pb2_grpc import UsageServiceStub
from tallygate_server.embedded.local_stripe import API_KEY, WEBHOOK_SECRET
from tests.support.eventually import eventually
from tests.support.tallygate_process import ROOT, serving_process

WHO: Final[dict[str, Any]] = {"tenant_id": "lekhak", "account_id": "bella"}
DAY: Final = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class _World:
    """Two servers and a Stripe, as a backend sees them."""

    checks: tuple[Any, ...]
    usage: Any
    subscriptions: Any
    stripe: stripe.StripeClient
    control: httpx.AsyncClient

    async def use(self) -> Any:
        """Rewrite one text."""
        return await self.usage.Increment(usage_service_pb2.IncrementRequest(**WHO, feature_key="text_rewrite"))

    async def check(self, feature_key: str) -> list[CheckAccessResponse]:
        """Ask every server."""
        request = CheckAccessRequest(**WHO, feature_key=feature_key)
        return [await server.CheckAccess(request) for server in self.checks]

    async def everywhere(self, feature_key: str, decision: int, reason: int = 0) -> None:
        """Wait until every server decides so."""

        async def decided() -> bool:
            answers = await self.check(feature_key)
            return all(answer.decision == decision and reason in {0, answer.reason} for answer in answers)

        await eventually(decided)

    async def ask_control(self, path: str, **body: object) -> dict[str, Any]:
        """Do something to the local Stripe."""
        answer = await self.control.post(f"/_local/{path}", json=body)
        assert answer.is_success, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def days_pass(self, days: float) -> None:
        """Let time pass, and wait until every webhook of it was answered."""
        await self.ask_control("clock", advance_seconds=int(days * DAY))
        await self.ask_control("webhooks/flush")

    async def subscription(self) -> Any:
        """Return the account's subscription to a paid plan, the newest if there are several."""
        request = subscription_service_pb2.ListSubscriptionsRequest(**WHO)
        found = (await self.subscriptions.ListSubscriptions(request)).subscriptions
        return next(each for each in found if each.billing_provider == subscription_pb2.BILLING_PROVIDER_STRIPE)

    async def is_in_state(self, state: int) -> None:
        """Wait until it is in the state."""

        async def reached() -> bool:
            return bool((await self.subscription()).state == state)

        await eventually(reached)

    async def payments(self, state: billing_pb2.PaymentState) -> int:
        """Count the payments in the state."""
        request = subscription_service_pb2.ListPaymentsRequest(**WHO, state=state)
        return len((await self.subscriptions.ListPayments(request)).payments)


@contextlib.asynccontextmanager
async def _world(database_url: str, redis_url: str, data_dir: Path, transport: str) -> AsyncIterator[_World]:
    settings = {
        "TALLYGATE_DATABASE_URL": database_url,
        "TALLYGATE_REDIS_URL": redis_url,
        "TALLYGATE_TRANSPORT": transport,
        "TALLYGATE_DATA_DIR": str(data_dir),
    }
    catalogs = str(ROOT / "examples" / "catalogs")
    with_stripe = ("--with-local-stripe", "--local-stripe-port", "0", "--catalogs", catalogs)
    async with contextlib.AsyncExitStack() as stack:
        first = await stack.enter_async_context(serving_process("--port", "0", *with_stripe, settings=settings))
        url = str(first.announced["local_stripe"])
        second = await stack.enter_async_context(
            serving_process(
                *("--port", "0", "--no-catalogs"),
                settings=settings
                | {
                    "TALLYGATE_STRIPE_API_KEY": API_KEY,
                    "TALLYGATE_STRIPE_API_BASE": url,
                    "TALLYGATE_STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
                    "TALLYGATE_DEVELOPMENT_CLOCK_URL": f"{url}/_local/clock",
                },
            )
        )
        channels = [await stack.enter_async_context(aio.insecure_channel(server.address)) for server in (first, second)]
        transport_of_stripe = stripe.HTTPXClient()
        stack.push_async_callback(transport_of_stripe.close_async)
        yield _World(
            checks=tuple(EntitlementServiceStub(channel) for channel in channels),
            usage=UsageServiceStub(channels[0]),
            # Changes come in at one server, and are looked for on both.
            subscriptions=SubscriptionServiceStub(channels[1]),
            stripe=stripe.StripeClient(API_KEY, base_addresses={"api": url}, http_client=transport_of_stripe),
            control=await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=60)),
        )


@pytest.mark.parametrize("transport", ["native", "grpcio"])
async def test_from_the_first_free_use_to_the_last_paid_day(
    fresh_database: str, fresh_redis: str, tmp_path: Path, transport: str
) -> None:
    allowed, denied = access_pb2.DECISION_ALLOWED, access_pb2.DECISION_DENIED
    async with _world(fresh_database, fresh_redis, tmp_path, transport) as world:
        # Ten free uses, and no eleventh.
        answers = [await world.use() for _ in range(11)]
        assert [answer.decision for answer in answers] == [allowed] * 10 + [denied]
        assert answers[-1].reason == access_pb2.DECISION_REASON_EXHAUSTED
        assert answers[-1].upgrade_url == "https://lekhak.ai/upgrade?user_id=bella"

        # A page to pay at; a second call gives the same one. Nothing is open before the money is there.
        wanted = subscription_service_pb2.CreateCheckoutSessionRequest(
            **WHO, plan_key="pro", interval=BILLING_INTERVAL_MONTH, success_url="https://a.example/yes",
            cancel_url="https://a.example/no",
        )  # fmt: skip
        page = await world.subscriptions.CreateCheckoutSession(wanted)
        again = await world.subscriptions.CreateCheckoutSession(wanted)
        assert (again.url, again.reused) == (page.url, True)
        assert (await world.control.get(page.url)).status_code == 200
        assert (await world.check("text_rewrite"))[0].decision == denied

        await world.ask_control(f"checkout/{page.provider_session_id}/complete")
        await world.ask_control("webhooks/flush")
        await world.everywhere("text_rewrite", allowed)
        await world.everywhere("grammar_check", allowed)
        await world.is_in_state(subscription_pb2.SUBSCRIPTION_STATE_ACTIVE)
        bought = await world.subscription()
        assert (bought.plan_key, bought.price.minor_units, bought.price.currency_code) == ("pro", 999, "USD")

        # A thousand in a month of its own.
        assert [(await world.use()).used_quantity for _ in range(3)] == [1, 2, 3]
        quota_request = usage_service_pb2.GetUsageRequest(**WHO, feature_key="text_rewrite")
        first_month = (await world.usage.GetUsage(quota_request)).quota
        assert (first_month.used_quantity, first_month.limit_quantity) == (3, 1000)

        # The renewal resets the counter and takes the money once more.
        await world.days_pass(31.5)

        async def renewed() -> bool:
            return await world.payments(billing_pb2.PAYMENT_STATE_SUCCEEDED) == 2

        await eventually(renewed)

        async def counts_anew() -> bool:
            quota = (await world.usage.GetUsage(quota_request)).quota
            return (quota.used_quantity, quota.period.start_time) == (0, first_month.period.end_time)

        await eventually(counts_anew)
        assert (await world.subscription()).current_period.start_time == first_month.period.end_time

        # A card that is declined: grace.
        await world.subscriptions.UpdateCustomer(
            subscription_service_pb2.UpdateCustomerRequest(
                **WHO, default_payment_method_id="pm_card_chargeCustomerFail"
            )
        )
        await world.ask_control("settings", after_retries="unpaid")
        await world.days_pass(31)
        await world.is_in_state(subscription_pb2.SUBSCRIPTION_STATE_PAST_DUE)
        await world.everywhere("grammar_check", allowed, access_pb2.DECISION_REASON_IN_GRACE)
        assert await world.payments(billing_pb2.PAYMENT_STATE_SUCCEEDED) == 2

        # Fourteen days later it is closed: what the free plan gives is left, and nothing else.
        await world.days_pass(14)
        await world.everywhere("grammar_check", denied, access_pb2.DECISION_REASON_SUBSCRIPTION_INACTIVE)
        assert [answer.limit_quantity for answer in await world.check("text_rewrite")] == [10, 10]

        # Paid after all: open at once.
        await world.subscriptions.UpdateCustomer(
            subscription_service_pb2.UpdateCustomerRequest(**WHO, default_payment_method_id="pm_card_visa")
        )
        overdue = await world.stripe.v1.invoices.list_async(params={"status": "open"})
        assert len(overdue.data) == 1
        assert overdue.data[0].id is not None
        await world.stripe.v1.invoices.pay_async(overdue.data[0].id)
        await world.ask_control("webhooks/flush")
        await world.everywhere("grammar_check", allowed, access_pb2.DECISION_REASON_OK)
        await world.is_in_state(subscription_pb2.SUBSCRIPTION_STATE_ACTIVE)

        # Up at once, down at the end of what is paid for.
        up = await world.subscriptions.ChangePlan(
            subscription_service_pb2.ChangePlanRequest(
                **WHO, subscription_id=bought.subscription_id, plan_key="unlimited"
            )
        )
        assert up.subscription.plan_key == "unlimited"
        # Read your writes, on the other server too.
        assert [answer.decision for answer in await world.check("api_access")] == [allowed, allowed]
        down = await world.subscriptions.ChangePlan(
            subscription_service_pb2.ChangePlanRequest(**WHO, subscription_id=bought.subscription_id, plan_key="pro")
        )
        assert down.subscription.plan_key == "unlimited"
        assert down.subscription.scheduled_change.plan_key == "pro"
        assert down.subscription.scheduled_change.effective_time == down.subscription.current_period.end_time
        assert [answer.decision for answer in await world.check("api_access")] == [allowed, allowed]
        await world.days_pass(31.5)
        await world.everywhere("api_access", denied)
        await world.everywhere("grammar_check", allowed)
        assert (await world.subscription()).plan_key == "pro"

        # The last month.
        canceled = await world.subscriptions.CancelSubscription(
            subscription_service_pb2.CancelSubscriptionRequest(**WHO, subscription_id=bought.subscription_id)
        )
        assert canceled.subscription.cancel_at_period_end
        assert [answer.decision for answer in await world.check("grammar_check")] == [allowed, allowed]
        await world.days_pass(31.5)
        await world.everywhere("grammar_check", denied)
        await world.is_in_state(subscription_pb2.SUBSCRIPTION_STATE_CANCELED)
        with pytest.raises(grpc.RpcError) as refused:
            await world.subscriptions.ResumeSubscription(
                subscription_service_pb2.ResumeSubscriptionRequest(**WHO, subscription_id=bought.subscription_id)
            )
        assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert "canceled" in str(refused.value.details())

        # Nothing was deleted, and everything is told.
        history = await world.subscriptions.ListSubscriptionChanges(
            subscription_service_pb2.ListSubscriptionChangesRequest(**WHO, subscription_id=bought.subscription_id)
        )
        steps = [change.cause for change in reversed(history.changes)]
        assert steps[0] == "create"
        for step in ("renewal", "payment_failed", "change_plan", "cancel"):
            assert step in steps, (step, steps)
        for former, latter in zip(history.changes[1:], history.changes, strict=False):
            assert former.state_after == latter.state_before
        assert [answer.limit_quantity for answer in await world.check("text_rewrite")] == [10, 10]
