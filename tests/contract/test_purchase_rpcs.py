"""The RPCs that buy: over the real service, Postgres, Redis and a local Stripe, on both transports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from grpc import aio

from tallygate.v1 import (
    access_pb2,
    account_pb2,
    account_service_pb2,
    account_service_pb2_grpc,
    billing_pb2,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    entitlement_service_pb2,
    entitlement_service_pb2_grpc,
    subscription_pb2,
    subscription_service_pb2,
    subscription_service_pb2_grpc,
)
from tallygate_server.app import servicers
from tallygate_server.billing.assembly import StripeOptions
from tallygate_server.clock import SystemClock
from tallygate_server.service import open_service
from tallygate_server.transport.server import TransportKind, build_server
from tests.support.local_stripe import LocalStripe, local_stripe
from tests.support.transport_servers import Refusal, refusal_of
from tests.support.use_cases import example

KINDS: tuple[TransportKind, ...] = ("native", "grpcio")
RPCS = ("CreateCheckoutSession", "CreatePortalSession", "UpdateCustomer")


class Client:
    """Stubs of the services that take part."""

    def __init__(self, channel: aio.Channel) -> None:
        self.subscriptions: Any = subscription_service_pb2_grpc.SubscriptionServiceStub(channel)
        self.entitlements: Any = entitlement_service_pb2_grpc.EntitlementServiceStub(channel)
        self.accounts: Any = account_service_pb2_grpc.AccountServiceStub(channel)
        self.catalogs: Any = catalog_service_pb2_grpc.CatalogServiceStub(channel)

    def call(self, rpc: str, **changes: Any) -> Any:
        """Call one of the RPCs for anna, with what it needs at least."""
        fields: dict[str, Any] = {"tenant_id": "lekhak", "account_id": "anna"}
        if rpc == "CreateCheckoutSession":
            fields |= {"plan_key": "pro", "success_url": "https://a.example/ok", "cancel_url": "https://a.example/no"}
        if rpc == "CreatePortalSession":
            fields |= {"return_url": "https://a.example/plans"}
        request = getattr(subscription_service_pb2, f"{rpc}Request")(**(fields | changes))
        return getattr(self.subscriptions, rpc)(request, timeout=60)


@pytest.fixture(scope="module")
async def stripe_process() -> AsyncIterator[LocalStripe]:
    async with local_stripe() as started:
        yield started


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> TransportKind:
    found: TransportKind = request.param
    return found


@asynccontextmanager
async def serve(
    kind: TransportKind, database_url: str, redis_url: str, stripe: StripeOptions | None
) -> AsyncIterator[Client]:
    async with open_service(
        database_url=database_url, redis_url=redis_url, clock=SystemClock(), stripe=stripe
    ) as service:
        server = build_server(kind, servicers(service), observe=lambda *_call: None)
        port = await server.start("127.0.0.1", 0)
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            client = Client(channel)
            source = catalog_service_pb2.ApplyCatalogRequest(yaml=example("lekhak").text, actor="test")
            await client.catalogs.ApplyCatalog(source)
            await client.accounts.IdentifyAccount(
                account_service_pb2.IdentifyAccountRequest(
                    tenant_id="lekhak",
                    account_id="anna",
                    identity=account_pb2.Identity(provider="clerk", external_id="user_anna"),
                    email="anna@lekhak.example",
                    display_name="Anna",
                )
            )
            try:
                yield client
            finally:
                await server.drain(drain_delay_ms=0, grace_ms=1_000)


@pytest.fixture
async def client(
    kind: TransportKind, fresh_database: str, fresh_redis: str, stripe_process: LocalStripe
) -> AsyncIterator[Client]:
    await stripe_process.reset()
    options = StripeOptions(api_key="sk_test_local", api_base=stripe_process.url, retries_max=0)
    async with serve(kind, fresh_database, fresh_redis, options) as served:
        yield served


@pytest.fixture
async def unconnected(kind: TransportKind, fresh_database: str, fresh_redis: str) -> AsyncIterator[Client]:
    async with serve(kind, fresh_database, fresh_redis, None) as served:
        yield served


async def refused(call: Any) -> Refusal:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return refusal_of(caught.value)


async def test_a_page_is_opened_reused_and_changes_nothing(client: Client) -> None:
    page = await client.call("CreateCheckoutSession", quantity=2)
    again = await client.call("CreateCheckoutSession", quantity=2)

    assert page.url.startswith("http")
    assert page.provider_session_id.startswith("cs_")
    assert timedelta(0) < page.expire_time.ToDatetime(UTC) - datetime.now(UTC) <= timedelta(days=1)
    assert not page.reused
    assert again.reused
    assert (again.url, again.provider_session_id) == (page.url, page.provider_session_id)
    check = entitlement_service_pb2.CheckAccessRequest(
        tenant_id="lekhak", account_id="anna", feature_key="text_rewrite"
    )
    access = await client.entitlements.CheckAccess(check)
    assert access.plan_key == "free"
    assert access.decision == access_pb2.DECISION_ALLOWED


async def test_a_customer_is_created_and_changed_and_reaches_the_portal(client: Client) -> None:
    refusal = await refused(client.call("CreatePortalSession"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CUSTOMER_NOT_FOUND")

    made = (
        await client.call(
            "UpdateCustomer",
            name="Anna & Co",
            tax_ids=[billing_pb2.TaxId(type="eu_vat", value="ATU12345678")],
            address=billing_pb2.PostalAddress(line1="Main Street 1", city="Linz", country_code="AT"),
            metadata={"crm": "17"},
            request_id="r1",
        )
    ).customer
    assert made.provider_customer_id.startswith("cus_")
    assert made.billing_provider == subscription_pb2.BILLING_PROVIDER_STRIPE
    assert (made.email, made.name) == ("anna@lekhak.example", "Anna & Co")
    assert [(each.type, each.value) for each in made.tax_ids] == [("eu_vat", "ATU12345678")]
    assert (made.address.city, made.address.country_code) == ("Linz", "AT")
    assert dict(made.metadata) == {"crm": "17"}

    changed = (await client.call("UpdateCustomer", email="billing@lekhak.example")).customer
    assert (changed.customer_id, changed.name, changed.email) == (
        made.customer_id,
        "Anna & Co",
        "billing@lekhak.example",
    )
    assert (await client.call("CreatePortalSession")).url.startswith("http")


async def test_a_paid_plan_is_bought_at_stripe_once(client: Client, stripe_process: LocalStripe) -> None:
    def buy() -> Any:
        request = subscription_service_pb2.CreateSubscriptionRequest(
            tenant_id="lekhak",
            account_id="anna",
            plan_key="pro",
            payment_method_id="pm_card_visa",
            request_id="r1",
            trial_days=0,
        )
        return client.subscriptions.CreateSubscription(request, timeout=60)

    await stripe_process.fault("POST /v1/subscriptions", "cut_after")
    refusal = await refused(buy())
    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    bought = await buy()
    again = await buy()

    assert bought.subscription.state == subscription_pb2.SUBSCRIPTION_STATE_ACTIVE
    assert bought.subscription.provider_subscription_id.startswith("sub_")
    assert again.replayed
    assert again.subscription.subscription_id == bought.subscription.subscription_id
    counts = await stripe_process.counts()
    assert (counts["customer"], counts["subscription"]) == (1, 1)
    refusal = await refused(client.call("CreateCheckoutSession"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "SUBSCRIPTION_EXISTS")


async def test_an_absent_stripe_is_told_with_when_to_try_again(client: Client, stripe_process: LocalStripe) -> None:
    await stripe_process.fault("POST /v1/*", "error_500", count=1_000)

    for rpc in ("CreateCheckoutSession", "UpdateCustomer"):
        refusal = await refused(client.call(rpc))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "BILLING_PROVIDER_UNAVAILABLE")
        assert refusal.retry_delay_ms > 0
        assert refusal.metadata["billing_provider"] == "stripe"

    await stripe_process.clear_faults()
    assert (await client.call("CreateCheckoutSession")).url


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"plan_key": "free"}, grpc.StatusCode.INVALID_ARGUMENT, "plan_key"),
        ({"plan_key": "gold"}, grpc.StatusCode.NOT_FOUND, "plan_key"),
        ({"currency_code": "EUR"}, grpc.StatusCode.NOT_FOUND, "currency_code"),
        ({"trial_days": 700}, grpc.StatusCode.INVALID_ARGUMENT, "trial_days"),
        ({"success_url": "ftp://a.example"}, grpc.StatusCode.INVALID_ARGUMENT, "success_url"),
        ({"quantity": 0}, grpc.StatusCode.INVALID_ARGUMENT, "quantity"),
    ],
)
async def test_what_is_not_sold_is_refused_by_name(
    client: Client, changes: dict[str, Any], code: grpc.StatusCode, field: str
) -> None:
    refusal = await refused(client.call("CreateCheckoutSession", **changes))

    assert refusal.code is code
    assert field in (*refusal.fields, refusal.metadata.get("field"))


async def test_without_stripe_everything_that_needs_it_says_what_to_set(unconnected: Client) -> None:
    for rpc in RPCS:
        refusal = await refused(unconnected.call(rpc))
        assert (refusal.code, refusal.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "BILLING_PROVIDER_NOT_CONFIGURED",
        )
        assert refusal.metadata["setting"] == "TALLYGATE_STRIPE_API_KEY"
        assert "TALLYGATE_STRIPE_API_KEY" in refusal.message
