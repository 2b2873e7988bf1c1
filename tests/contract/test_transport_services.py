"""The built RPCs over the real service, a real Postgres and a real Redis, on both transports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from grpc import aio

from tallygate.v1 import (
    access_pb2,
    account_pb2,
    account_service_pb2,
    account_service_pb2_grpc,
    catalog_pb2,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    entitlement_service_pb2,
    entitlement_service_pb2_grpc,
    money_pb2,
    period_pb2,
    subscription_pb2,
    subscription_service_pb2,
    subscription_service_pb2_grpc,
    usage_service_pb2,
    usage_service_pb2_grpc,
)
from tallygate_server.app import servicers
from tallygate_server.clock import SystemClock
from tallygate_server.service import open_service
from tallygate_server.transport.server import TransportKind, build_server
from tests.support.acme import PATIENT
from tests.support.transport_servers import Refusal, refusal_of
from tests.support.use_cases import example

KINDS: tuple[TransportKind, ...] = ("native", "grpcio")


@dataclass(frozen=True, slots=True)
class Client:
    """Stubs of every service."""

    accounts: Any
    catalogs: Any
    entitlements: Any
    subscriptions: Any
    usage: Any


@pytest.fixture(params=KINDS)
async def client(request: pytest.FixtureRequest, fresh_database: str, fresh_redis: str) -> AsyncIterator[Client]:
    async with open_service(
        database_url=fresh_database, redis_url=fresh_redis, clock=SystemClock(), limits=PATIENT
    ) as service:
        server = build_server(request.param, servicers(service), observe=lambda *_call: None)
        port = await server.start("127.0.0.1", 0)
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            yield Client(
                accounts=account_service_pb2_grpc.AccountServiceStub(channel),
                catalogs=catalog_service_pb2_grpc.CatalogServiceStub(channel),
                entitlements=entitlement_service_pb2_grpc.EntitlementServiceStub(channel),
                subscriptions=subscription_service_pb2_grpc.SubscriptionServiceStub(channel),
                usage=usage_service_pb2_grpc.UsageServiceStub(channel),
            )
        await server.drain(drain_delay_ms=0, grace_ms=1_000)


@pytest.fixture
async def lekhak(client: Client) -> Client:
    source = catalog_service_pb2.ApplyCatalogRequest(yaml=example("lekhak").text, actor="test")
    assert (await client.catalogs.ApplyCatalog(source)).applied
    return client


async def refused(call: Any) -> Refusal:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return refusal_of(caught.value)


def increment(account_id: str, **changes: Any) -> usage_service_pb2.IncrementRequest:
    fields = {"tenant_id": "lekhak", "account_id": account_id, "feature_key": "text_rewrite", **changes}
    return usage_service_pb2.IncrementRequest(**fields)


def check(account_id: str, feature_key: str = "text_rewrite") -> entitlement_service_pb2.CheckAccessRequest:
    return entitlement_service_pb2.CheckAccessRequest(
        tenant_id="lekhak", account_id=account_id, feature_key=feature_key
    )


# ---- the first five minutes


async def test_ten_rewrites_a_day_are_free_and_the_eleventh_is_denied_with_a_way_out(lekhak: Client) -> None:
    answers = [await lekhak.usage.Increment(increment("newcomer")) for _ in range(11)]

    assert [answer.used_quantity for answer in answers] == [*range(1, 11), 10]
    assert [answer.threshold_percent for answer in answers[:10]] == [0] * 7 + [80, 0, 100]
    assert all(answer.decision == access_pb2.DECISION_ALLOWED for answer in answers[:10])
    denied = answers[10]
    assert denied.decision == access_pb2.DECISION_DENIED
    assert denied.reason == access_pb2.DECISION_REASON_EXHAUSTED
    assert denied.upgrade_url
    reset = denied.reset_time.ToDatetime(UTC)
    assert reset - datetime.now(UTC) <= timedelta(days=1)
    assert (reset.hour, reset.minute, reset.second) == (0, 0, 0)


async def test_a_check_says_what_is_left(lekhak: Client) -> None:
    await lekhak.usage.Increment(increment("a", quantity=3))

    answer = await lekhak.entitlements.CheckAccess(check("a"))

    assert (answer.limit_quantity, answer.used_quantity, answer.remaining_quantity) == (10, 3, 7)
    assert answer.feature_kind == access_pb2.FEATURE_KIND_COUNTER
    assert answer.plan_key == "free"


async def test_the_same_request_id_hears_the_same_answer_and_other_content_is_refused(lekhak: Client) -> None:
    first = await lekhak.usage.Increment(increment("a", request_id="r-1"))
    again = await lekhak.usage.Increment(increment("a", request_id="r-1"))
    refusal = await refused(lekhak.usage.Increment(increment("a", request_id="r-1", quantity=2)))

    assert (again.replayed, again.used_quantity, again.entry_id) == (True, first.used_quantity, first.entry_id)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")


async def test_batches_usage_quota_and_ledger_agree(lekhak: Client) -> None:
    batch = await lekhak.usage.BatchIncrement(
        usage_service_pb2.BatchIncrementRequest(
            increments=[increment("a", quantity=4), increment("a", quantity=7), increment("a", quantity=5)]
        )
    )
    usage = await lekhak.usage.GetUsage(
        usage_service_pb2.GetUsageRequest(tenant_id="lekhak", account_id="a", feature_key="text_rewrite")
    )
    quota = await lekhak.usage.GetQuota(usage_service_pb2.GetQuotaRequest(tenant_id="lekhak", account_id="a"))
    ledger = await lekhak.usage.ListUsageEntries(
        usage_service_pb2.ListUsageEntriesRequest(tenant_id="lekhak", account_id="a")
    )

    decisions = [result.answer.decision for result in batch.results]
    assert decisions == [access_pb2.DECISION_ALLOWED, access_pb2.DECISION_DENIED, access_pb2.DECISION_ALLOWED]
    assert usage.quota.used_quantity == 9
    assert usage.quota.period_kind == period_pb2.PERIOD_KIND_DAY
    assert [entry.used_quantity for entry in quota.quotas if entry.feature_key == "text_rewrite"] == [9]
    assert [(entry.quantity, entry.used_quantity) for entry in ledger.entries] == [(5, 9), (4, 4)]


async def test_an_atomic_batch_counts_all_or_nothing(lekhak: Client) -> None:
    batch = usage_service_pb2.BatchIncrementRequest(
        increments=[increment("a", quantity=4), increment("a", quantity=7)], atomic=True
    )
    results = (await lekhak.usage.BatchIncrement(batch)).results

    assert [result.answer.reason for result in results] == [
        access_pb2.DECISION_REASON_ATOMIC_BATCH,
        access_pb2.DECISION_REASON_EXHAUSTED,
    ]
    assert (await lekhak.entitlements.CheckAccess(check("a"))).used_quantity == 0


async def test_entitlements_are_listed(lekhak: Client) -> None:
    await lekhak.usage.Increment(increment("a"))
    listed = await lekhak.entitlements.ListEntitlements(
        entitlement_service_pb2.ListEntitlementsRequest(tenant_id="lekhak", account_id="a")
    )
    everything = await lekhak.entitlements.ListEntitlements(
        entitlement_service_pb2.ListEntitlementsRequest(tenant_id="lekhak", account_id="a", include_denied=True)
    )

    assert [entry.feature_key for entry in listed.entitlements] == ["text_rewrite"]
    assert listed.entitlements[0].quota.used_quantity == 1
    assert len(everything.entitlements) > 5


async def test_an_unknown_tenant_is_not_found(lekhak: Client) -> None:
    refusals = [
        await refused(lekhak.usage.Increment(increment("a", tenant_id="nowhere"))),
        await refused(
            lekhak.accounts.GetAccount(account_service_pb2.GetAccountRequest(tenant_id="nowhere", account_id="a"))
        ),
        await refused(lekhak.catalogs.GetCatalog(catalog_service_pb2.GetCatalogRequest(tenant_id="nowhere"))),
    ]

    for refusal in refusals:
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "TENANT_NOT_FOUND")


# ---- accounts


def identify(**changes: Any) -> account_service_pb2.IdentifyAccountRequest:
    fields = {
        "tenant_id": "lekhak",
        "identity": account_pb2.Identity(provider="clerk", external_id="user_1"),
        **changes,
    }
    return account_service_pb2.IdentifyAccountRequest(**fields)


async def test_one_call_identifies_an_account_and_returns_its_quota(lekhak: Client) -> None:
    preferences = Struct()
    preferences.update({"tone": "formal", "levels": [1, 2.5]})
    created = await lekhak.accounts.IdentifyAccount(
        identify(email="A@b.example", display_name="Ana", preferences=preferences, feature_key="text_rewrite")
    )
    found = await lekhak.accounts.IdentifyAccount(
        identify(identity=account_pb2.Identity(provider="email", external_id="a@b.example"))
    )

    assert created.created
    assert not found.created
    assert found.account.account_id == created.account.account_id
    assert created.plan_key == "free"
    assert created.subscription_state == subscription_pb2.SUBSCRIPTION_STATE_ACTIVE
    assert [quota.feature_key for quota in created.quotas] == ["text_rewrite"]
    assert created.access.remaining_quantity == 10
    assert dict(found.account.preferences) == {"tone": "formal", "levels": [1, 2.5]}
    assert {identity.provider for identity in found.account.identities} == {"clerk", "email"}


async def test_an_account_is_found_by_id_and_by_identity_and_changed(lekhak: Client) -> None:
    account_id = (await lekhak.accounts.IdentifyAccount(identify(account_id="u-1"))).account.account_id
    await lekhak.accounts.UpdateAccount(
        account_service_pb2.UpdateAccountRequest(
            tenant_id="lekhak", account_id=account_id, time_zone="Europe/Berlin", metadata={"team": "a"}
        )
    )

    by_id = await lekhak.accounts.GetAccount(
        account_service_pb2.GetAccountRequest(tenant_id="lekhak", account_id="u-1")
    )
    by_identity = await lekhak.accounts.GetAccount(
        account_service_pb2.GetAccountRequest(
            tenant_id="lekhak", identity=account_pb2.Identity(provider="clerk", external_id="user_1")
        )
    )

    assert by_id == by_identity
    assert by_id.account.time_zone == "Europe/Berlin"
    assert dict(by_id.account.metadata) == {"team": "a"}


async def test_a_suspended_account_is_denied_at_once_and_reinstated_at_once(lekhak: Client) -> None:
    await lekhak.usage.Increment(increment("a"))
    suspended = await lekhak.accounts.SuspendAccount(
        account_service_pb2.SuspendAccountRequest(tenant_id="lekhak", account_id="a", reason_text="fraud")
    )
    denied = await lekhak.entitlements.CheckAccess(check("a"))
    await lekhak.accounts.ReinstateAccount(
        account_service_pb2.ReinstateAccountRequest(tenant_id="lekhak", account_id="a")
    )
    allowed = await lekhak.entitlements.CheckAccess(check("a"))

    assert suspended.account.state == account_pb2.ACCOUNT_STATE_SUSPENDED
    assert denied.reason == access_pb2.DECISION_REASON_ACCOUNT_SUSPENDED
    assert allowed.decision == access_pb2.DECISION_ALLOWED
    assert allowed.revision > denied.revision >= suspended.account.revision


async def test_accounts_are_listed_in_pages(lekhak: Client) -> None:
    for number in range(5):
        await lekhak.usage.Increment(increment(f"acct-{number}"))
    request = account_service_pb2.ListAccountsRequest(tenant_id="lekhak", page_size=2)
    ids: list[str] = []
    while True:
        response = await lekhak.accounts.ListAccounts(request)
        ids += [account.account_id for account in response.accounts]
        if not response.next_page_token:
            break
        request.page_token = response.next_page_token

    assert ids == [f"acct-{number}" for number in range(5)]


async def test_what_accounts_cannot_keep_yet_is_refused_by_name(lekhak: Client) -> None:
    refusal = await refused(lekhak.accounts.IdentifyAccount(identify(locale="de-AT")))

    assert refusal.code is grpc.StatusCode.UNIMPLEMENTED
    assert "locale" in refusal.message


# ---- subscriptions


def subscribe(plan_key: str, **changes: Any) -> subscription_service_pb2.CreateSubscriptionRequest:
    fields = {"tenant_id": "lekhak", "account_id": "a", "plan_key": plan_key, **changes}
    return subscription_service_pb2.CreateSubscriptionRequest(**fields)


MANUAL = subscription_pb2.BILLING_PROVIDER_MANUAL


async def test_a_priced_plan_without_a_provider_is_never_free_by_accident(lekhak: Client) -> None:
    refusal = await refused(lekhak.subscriptions.CreateSubscription(subscribe("pro")))
    stripe = await refused(
        lekhak.subscriptions.CreateSubscription(
            subscribe("pro", billing_provider=subscription_pb2.BILLING_PROVIDER_STRIPE)
        )
    )

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BILLING_PROVIDER_REQUIRED")
    assert stripe.reason == "BILLING_PROVIDER_NOT_CONFIGURED"


async def test_a_plan_paid_outside_is_bought_changed_and_canceled(lekhak: Client) -> None:
    bought = await lekhak.subscriptions.CreateSubscription(
        subscribe("pro", billing_provider=MANUAL, interval=catalog_pb2.BILLING_INTERVAL_YEAR, request_id="r-1")
    )
    again = await lekhak.subscriptions.CreateSubscription(
        subscribe("pro", billing_provider=MANUAL, interval=catalog_pb2.BILLING_INTERVAL_YEAR, request_id="r-1")
    )
    subscription_id = bought.subscription.subscription_id
    as_pro = await lekhak.entitlements.CheckAccess(check("a"))
    changed = await lekhak.subscriptions.ChangePlan(
        subscription_service_pb2.ChangePlanRequest(
            tenant_id="lekhak",
            account_id="a",
            subscription_id=subscription_id,
            plan_key="unlimited",
            timing=subscription_service_pb2.CHANGE_TIMING_NOW,
        )
    )
    as_unlimited = await lekhak.entitlements.CheckAccess(check("a"))
    canceled = await lekhak.subscriptions.CancelSubscription(
        subscription_service_pb2.CancelSubscriptionRequest(
            tenant_id="lekhak",
            account_id="a",
            subscription_id=subscription_id,
            timing=subscription_service_pb2.CHANGE_TIMING_NOW,
        )
    )
    twice = await refused(
        lekhak.subscriptions.CancelSubscription(
            subscription_service_pb2.CancelSubscriptionRequest(
                tenant_id="lekhak", account_id="a", subscription_id=subscription_id
            )
        )
    )

    assert bought.subscription.price == money_pb2.Money(minor_units=9_999, currency_code="USD")
    assert bought.subscription.state == subscription_pb2.SUBSCRIPTION_STATE_ACTIVE
    assert (again.replayed, again.subscription.subscription_id) == (True, subscription_id)
    assert as_pro.limit_quantity == 1_000
    assert changed.subscription.plan_key == "unlimited"
    assert as_unlimited.reason == access_pb2.DECISION_REASON_UNLIMITED
    assert as_unlimited.revision >= changed.revision > bought.revision
    assert canceled.subscription.state == subscription_pb2.SUBSCRIPTION_STATE_CANCELED
    assert (twice.code, twice.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ILLEGAL_TRANSITION")


async def test_subscriptions_are_found_and_listed_newest_first(lekhak: Client) -> None:
    await lekhak.usage.Increment(increment("a"))
    for plan_key in ("pro", "unlimited"):
        await lekhak.subscriptions.CreateSubscription(subscribe(plan_key, billing_provider=MANUAL))
    request = subscription_service_pb2.ListSubscriptionsRequest(tenant_id="lekhak", account_id="a", page_size=1)
    plans: list[str] = []
    while True:
        response = await lekhak.subscriptions.ListSubscriptions(request)
        plans += [entry.plan_key for entry in response.subscriptions]
        if not response.next_page_token:
            break
        request.page_token = response.next_page_token
    found = await lekhak.subscriptions.GetSubscription(
        subscription_service_pb2.GetSubscriptionRequest(
            tenant_id="lekhak", subscription_id=response.subscriptions[0].subscription_id
        )
    )

    assert plans == ["unlimited", "pro", "free"]
    assert found.subscription == response.subscriptions[0]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"payment_method_id": "pm_1"}, "payment_method_id"),
        ({"interval": catalog_pb2.BILLING_INTERVAL_WEEK}, "interval"),
        ({"quantity": 0}, "quantity"),
        ({"end_time": datetime(2020, 1, 1, tzinfo=UTC)}, "end_time"),
    ],
)
async def test_a_bad_subscription_names_its_field(lekhak: Client, changes: dict[str, Any], field: str) -> None:
    refusal = await refused(
        lekhak.subscriptions.CreateSubscription(subscribe("pro", billing_provider=MANUAL, **changes))
    )

    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


# ---- catalogs


@pytest.mark.parametrize(
    "name", ["lekhak", "training-analyzer", "technically-fit", "booktalks-buddy", "writing-studio"]
)
async def test_a_catalog_read_as_a_message_applies_again_without_a_difference(client: Client, name: str) -> None:
    applied = await client.catalogs.ApplyCatalog(catalog_service_pb2.ApplyCatalogRequest(yaml=example(name).text))
    shown = await client.catalogs.GetCatalog(catalog_service_pb2.GetCatalogRequest(tenant_id=applied.tenant_id))

    as_message = await client.catalogs.ApplyCatalog(catalog_service_pb2.ApplyCatalogRequest(catalog=shown.catalog))
    as_text = await client.catalogs.ApplyCatalog(catalog_service_pb2.ApplyCatalogRequest(yaml=shown.yaml))

    assert applied.applied
    assert len(applied.changes) > 5
    assert list(as_message.changes) == []
    assert list(as_text.changes) == []
    assert not as_message.applied
    assert shown.catalog.revision == applied.catalog_revision


async def test_validate_only_shows_the_difference_and_changes_nothing(lekhak: Client) -> None:
    await lekhak.usage.Increment(increment("a"))
    catalog = (await lekhak.catalogs.GetCatalog(catalog_service_pb2.GetCatalogRequest(tenant_id="lekhak"))).catalog
    free = next(plan for plan in catalog.plans if plan.key == "free")
    free.allowances[0].limit.quantity = 5
    request = catalog_service_pb2.ApplyCatalogRequest(catalog=catalog, validate_only=True)

    shown = await lekhak.catalogs.ApplyCatalog(request)

    assert not shown.applied
    assert any(change.restrictive and change.path.startswith("plans.free") for change in shown.changes)
    assert shown.affected_account_count == 1
    assert (await lekhak.entitlements.CheckAccess(check("b"))).limit_quantity == 10


async def test_a_bad_catalog_names_line_and_reason(lekhak: Client) -> None:
    refusal = await refused(
        lekhak.catalogs.ApplyCatalog(catalog_service_pb2.ApplyCatalogRequest(yaml="tenant: lekhak\nplan: {}\n"))
    )

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CATALOG_INVALID")
    assert refusal.metadata["line"] == "2"


async def test_what_a_catalog_message_says_in_vain_is_refused_by_name(lekhak: Client) -> None:
    catalog = (await lekhak.catalogs.GetCatalog(catalog_service_pb2.GetCatalogRequest(tenant_id="lekhak"))).catalog
    catalog.tenant.metadata["team"] = "growth"
    catalog.plans[0].allowances[0].grace_days = 5

    refusal = await refused(lekhak.catalogs.ApplyCatalog(catalog_service_pb2.ApplyCatalogRequest(catalog=catalog)))

    assert refusal.reason == "CATALOG_INVALID"
    assert set(refusal.fields) == {
        "catalog.tenant.metadata",
        "catalog.plans[0].allowances[0].grace_days",
    }


async def test_a_stale_editor_is_refused(lekhak: Client) -> None:
    refusal = await refused(
        lekhak.catalogs.ApplyCatalog(
            catalog_service_pb2.ApplyCatalogRequest(yaml=example("lekhak").text, expected_revision=99)
        )
    )

    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "CATALOG_REVISION_MISMATCH",
    )


async def test_plans_features_and_meters_are_listed(lekhak: Client) -> None:
    plans = await lekhak.catalogs.ListPlans(catalog_service_pb2.ListPlansRequest(tenant_id="lekhak", page_size=2))
    rest = await lekhak.catalogs.ListPlans(
        catalog_service_pb2.ListPlansRequest(tenant_id="lekhak", page_size=2, page_token=plans.next_page_token)
    )
    features = await lekhak.catalogs.ListFeatures(
        catalog_service_pb2.ListFeaturesRequest(tenant_id="lekhak", plan_key="free")
    )
    counters = await lekhak.catalogs.ListFeatures(
        catalog_service_pb2.ListFeaturesRequest(tenant_id="lekhak", kind=access_pb2.FEATURE_KIND_COUNTER)
    )
    meters = await lekhak.catalogs.ListMeters(catalog_service_pb2.ListMetersRequest(tenant_id="lekhak"))

    assert [plan.key for plan in [*plans.plans, *rest.plans]] == ["free", "pro", "unlimited"]
    assert rest.next_page_token == ""
    assert "text_rewrite" in [feature.key for feature in features.features]
    assert [feature.key for feature in counters.features] == ["text_rewrite"]
    assert [meter.key for meter in meters.meters] == ["input_characters", "rewritten_characters"]
    (kept,) = meters.meters[1].filters
    assert (kept.dimension, list(kept.values)) == ("action_type", ["text_rewrite"])
    assert dict(meters.meters[1].group_by) == {"action_type": "action_type"}
