"""The gateway against a server that answers as scripted: keys, tries, errors, bounds, the breaker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import stripe
from structlog.testing import capture_logs

from tallygate_server.billing.observed import ObservedSubscription
from tallygate_server.billing.provider import CustomerDetails, PaymentProvider
from tallygate_server.billing.stripe_calls import API_VERSION, KEYS_MAX
from tallygate_server.billing.stripe_gateway import EVENT_DAYS, StripeGateway
from tallygate_server.billing.stripe_objects import StripeObjectInvalid, subscription_of
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.errors import BillingProviderUnavailable, PaymentRefused
from tallygate_server.telemetry import metrics
from tests.support import stripe_shapes as shapes
from tests.support.clock import FrozenClock
from tests.support.eventually import eventually
from tests.support.scripted_http import HANG_UP, SILENCE, Asked, Reply, ScriptedHttp, stripe_error
from tests.support.stripe_shapes import MONTH, NOW, sale

API_ERROR = Reply(status=500, body=stripe_error("api_error"))
STORED_ERROR = Reply(status=500, body=stripe_error("api_error"), headers={"Idempotent-Replayed": "true"})
PRESENT: ObservedSubscription = subscription_of(shapes.subscription())

Call = Callable[[PaymentProvider], Awaitable[object]]


def subscribe(provider: PaymentProvider, **changed: Any) -> Awaitable[ObservedSubscription]:
    given: dict[str, Any] = {
        "customer_id": "cus_1",
        "account_id": AccountId("acct-1"),
        "subscription_id": "sub_ours",
        "quantity": 1,
        "trial_days": 0,
        "payment_method_id": "",
        "promotion_code": "",
        "metadata": {},
        "operation_id": "op-1",
    }
    return provider.create_subscription(sale(), **(given | changed))


def change(provider: PaymentProvider, **changed: Any) -> Awaitable[ObservedSubscription]:
    given: dict[str, Any] = {"quantity": 1, "payment_method_id": "", "proration_time": None, "operation_id": "op-1"}
    return provider.change_subscription(PRESENT, sale("team", 3_000), **(given | changed))


def open_page(provider: PaymentProvider, **changed: Any) -> Awaitable[object]:
    given: dict[str, Any] = {
        "customer_id": "cus_1",
        "account_id": AccountId("acct-1"),
        "subscription_id": "sub_ours",
        "quantity": 1,
        "trial_days": 0,
        "success_url": "https://shop.example.test/done",
        "cancel_url": "https://shop.example.test/",
        "promotion_code": "",
        "expire_time": datetime.fromtimestamp(NOW + 3_600, UTC),
        "operation_id": "op-1",
    }
    return provider.create_checkout_session(sale(), **(given | changed))


def set_up(web: ScriptedHttp) -> None:
    """Script a Stripe on which everything succeeds."""
    web.on("GET /v1/prices", shapes.listed())
    web.on("POST /v1/products", {"id": "tallygate_x", "object": "product"})
    web.on("POST /v1/prices", shapes.price())
    web.on("GET /v1/customers/cus_1", shapes.customer())
    web.on("POST /v1/customers", shapes.customer())
    web.on("POST /v1/customers/cus_1", shapes.customer())
    web.on("GET /v1/customers/cus_1/tax_ids", shapes.listed())
    web.on("POST /v1/customers/cus_1/tax_ids", {"id": "txi_1", "object": "tax_id"})
    web.on("POST /v1/payment_methods/pm_1/attach", {"id": "pm_1", "object": "payment_method", "customer": "cus_1"})
    web.on("GET /v1/subscriptions", shapes.listed())
    web.on("POST /v1/subscriptions", shapes.subscription())
    web.on("GET /v1/subscriptions/sub_1", shapes.subscription())
    web.on("POST /v1/subscriptions/sub_1", shapes.subscription())
    web.on("POST /v1/subscriptions/sub_1/pause", shapes.subscription(status="paused"))
    web.on("POST /v1/subscription_schedules", shapes.schedule())
    web.on("GET /v1/subscription_schedules/sub_sched_1", shapes.schedule())
    web.on("POST /v1/subscription_schedules/sub_sched_1", shapes.schedule())
    web.on("POST /v1/subscription_schedules/sub_sched_1/release", shapes.schedule(status="released"))
    web.on("POST /v1/checkout/sessions", shapes.session())
    web.on("GET /v1/checkout/sessions/cs_1", shapes.session())
    web.on("POST /v1/checkout/sessions/cs_1/expire", shapes.session(status="expired"))
    web.on("GET /v1/promotion_codes", shapes.listed({"id": "promo_1", "object": "promotion_code"}))
    web.on("GET /v1/invoice_payments", shapes.listed())


def posts(web: ScriptedHttp) -> list[Asked]:
    return [asked for asked in web.asked if asked.method == "POST"]


# ------------------------------------------------------------------ keys

WRITES: dict[str, Call] = {
    "create_customer": lambda provider: provider.create_customer(
        TenantId("acme"), AccountId("acct-1"), CustomerDetails(email="a@example.test"), operation_id="op-1"
    ),
    "update_customer": lambda provider: provider.update_customer(
        "cus_1",
        CustomerDetails(name="New", default_payment_method_id="pm_1", tax_ids=(("eu_vat", "DE1"), ("eu_vat", "DE2"))),
        operation_id="op-1",
    ),
    "create_subscription": lambda provider: subscribe(provider, payment_method_id="pm_1", promotion_code="SPRING"),
    "schedule_change": lambda provider: provider.schedule_change(
        PRESENT, sale(), quantity=1, effective_time=PRESENT.period_end_time, operation_id="op-1"
    ),
    "release_schedule": lambda provider: provider.release_schedule("sub_sched_1", operation_id="op-1"),
    "cancel_at": lambda provider: provider.cancel_at("sub_1", at=None, operation_id="op-1"),
    "pause": lambda provider: provider.pause("sub_1", operation_id="op-1"),
    "create_checkout_session": open_page,
    "expire_checkout_session": lambda provider: provider.expire_checkout_session("cs_1", operation_id="op-1"),
}


@pytest.mark.parametrize("call", WRITES.values(), ids=WRITES)
async def test_every_write_has_a_key_of_its_operation_and_step(
    web: ScriptedHttp, gateway: StripeGateway, call: Call
) -> None:
    set_up(web)

    await call(gateway)
    first = [(asked.path, asked.key) for asked in posts(web)]
    web.asked.clear()
    await call(gateway)

    ours = [(path, key) for path, key in first if not path.startswith(("/v1/prices", "/v1/products"))]
    assert ours
    assert all(key.startswith("op-1:") and len(key) <= 255 for _, key in ours)
    assert len({key for _, key in first}) == len(first)
    # The price is remembered; all else is asked for again, under the same keys.
    assert [(asked.path, asked.key) for asked in posts(web)] == ours


async def test_the_key_of_a_price_is_derived_from_what_it_is(web: ScriptedHttp, gateway: StripeGateway) -> None:
    set_up(web)

    await gateway.ensure_price(sale())

    [made] = web.to("POST /v1/prices")
    assert made.key == "price:acme:pro:month:USD:1000"
    assert made.form["lookup_key"] == "acme:pro:month:USD:1000"
    assert made.form["product"] == web.to("POST /v1/products")[0].form["id"]


async def test_requests_name_the_pinned_version_and_nothing_of_this_machine(
    web: ScriptedHttp, gateway: StripeGateway
) -> None:
    set_up(web)

    await gateway.subscription("sub_1")

    [asked] = web.asked
    assert asked.headers["stripe-version"] == API_VERSION == stripe.api_version
    assert "telemetry" not in asked.headers["x-stripe-client-user-agent"]


# ------------------------------------------------------------------ failing after the effect


async def test_a_lost_answer_is_asked_for_again_under_the_same_key(web: ScriptedHttp, clock: FrozenClock) -> None:
    set_up(web)
    web.on(
        "POST /v1/subscriptions",
        HANG_UP,
        Reply(status=409, body=stripe_error("idempotency_error")),
        shapes.subscription(),
    )
    gateway = StripeGateway(api_key="sk_test_local", api_base=web.url, clock=clock, retries_max=2)

    observed = await subscribe(gateway)

    assert observed.provider_subscription_id == "sub_1"
    assert [asked.key for asked in web.to("POST /v1/subscriptions")] == ["op-1:subscription"] * 3
    await gateway.close()


async def test_after_a_stored_failure_what_was_made_is_found(web: ScriptedHttp, gateway: StripeGateway) -> None:
    set_up(web)
    made = shapes.subscription(metadata={"tallygate_operation_id": "op-1"})
    web.on("GET /v1/subscriptions", shapes.listed(), shapes.listed(made))
    web.on("POST /v1/subscriptions", STORED_ERROR)

    observed = await subscribe(gateway)

    assert observed.provider_subscription_id == "sub_1"
    assert len(web.to("POST /v1/subscriptions")) == 1


async def test_after_a_stored_failure_without_effect_another_key_is_used(
    web: ScriptedHttp, gateway: StripeGateway
) -> None:
    set_up(web)
    web.on("POST /v1/subscriptions", STORED_ERROR, shapes.subscription())

    await subscribe(gateway)

    assert [asked.key for asked in web.to("POST /v1/subscriptions")] == ["op-1:subscription", "op-1:subscription:2"]


async def test_two_failures_of_one_key_count_as_stored_when_no_header_says_so(
    web: ScriptedHttp, clock: FrozenClock
) -> None:
    set_up(web)
    web.on("POST /v1/subscriptions", API_ERROR, API_ERROR, shapes.subscription())
    gateway = StripeGateway(api_key="sk_test_local", api_base=web.url, clock=clock, retries_max=1)

    await subscribe(gateway)

    keys = [asked.key for asked in web.to("POST /v1/subscriptions")]
    assert keys == ["op-1:subscription", "op-1:subscription", "op-1:subscription:2"]
    await gateway.close()


async def test_one_failure_is_not_taken_for_a_stored_one(web: ScriptedHttp, gateway: StripeGateway) -> None:
    set_up(web)
    web.on("POST /v1/subscriptions", API_ERROR)

    with pytest.raises(BillingProviderUnavailable):
        await subscribe(gateway)

    assert len(web.to("POST /v1/subscriptions")) == 1


async def test_the_keys_of_a_step_are_bounded(web: ScriptedHttp, gateway: StripeGateway) -> None:
    set_up(web)
    web.on("POST /v1/subscriptions", STORED_ERROR)

    with pytest.raises(BillingProviderUnavailable):
        await subscribe(gateway)

    assert len(web.to("POST /v1/subscriptions")) == KEYS_MAX


async def test_a_subscription_that_the_operation_has_made_is_not_made_again_when_keys_are_forgotten(
    web: ScriptedHttp, gateway: StripeGateway
) -> None:
    set_up(web)
    other = shapes.subscription("sub_0", metadata={"tallygate_operation_id": "op-0"})
    made = shapes.subscription(metadata={"tallygate_subscription_id": "sub_ours"})
    web.on("GET /v1/subscriptions", shapes.listed(other, has_more=True), shapes.listed(made))

    observed = await subscribe(gateway)

    assert observed.provider_subscription_id == "sub_1"
    assert posts(web) == []
    assert web.to("GET /v1/subscriptions")[1].form["starting_after"] == "sub_0"


async def test_the_answer_of_an_earlier_try_is_read_anew(web: ScriptedHttp, gateway: StripeGateway) -> None:
    set_up(web)
    stale = Reply(body=shapes.session(), headers={"Idempotent-Replayed": "true"})
    web.on("POST /v1/checkout/sessions", stale)
    web.on("GET /v1/checkout/sessions/cs_1", shapes.session(status="complete", payment_status="paid", url=None))

    page = await open_page(gateway)

    assert getattr(page, "state", "") == "complete"


async def test_other_content_under_the_same_key_finds_what_was_made_else_is_a_refusal(
    web: ScriptedHttp, gateway: StripeGateway
) -> None:
    set_up(web)
    web.on("POST /v1/subscriptions", Reply(status=400, body=stripe_error("idempotency_error")))

    with pytest.raises(PaymentRefused) as caught:
        await subscribe(gateway)

    assert caught.value.facts["provider_code"] == "idempotency_error"
    assert len(web.to("POST /v1/subscriptions")) == KEYS_MAX


@pytest.mark.parametrize(
    ("route", "call", "found"),
    [
        (
            "POST /v1/customers",
            WRITES["create_customer"],
            ("GET /v1/customers", shapes.listed(shapes.customer(metadata={"tallygate_operation_id": "op-1"}))),
        ),
        (
            "POST /v1/checkout/sessions",
            open_page,
            ("GET /v1/checkout/sessions", shapes.listed(shapes.session(metadata={"tallygate_operation_id": "op-1"}))),
        ),
        (
            "POST /v1/prices",
            lambda provider: provider.ensure_price(sale()),
            ("GET /v1/prices", shapes.listed(shapes.price())),
        ),
        (
            "POST /v1/subscriptions/sub_1/pause",
            WRITES["pause"],
            ("GET /v1/subscriptions/sub_1", shapes.subscription(status="paused")),
        ),
        (
            "POST /v1/subscription_schedules",
            WRITES["schedule_change"],
            ("GET /v1/subscriptions/sub_1", shapes.subscription(schedule=shapes.schedule())),
        ),
        (
            "POST /v1/payment_methods/pm_1/attach",
            lambda provider: subscribe(provider, payment_method_id="pm_1"),
            ("GET /v1/payment_methods/pm_1", {"id": "pm_1", "object": "payment_method", "customer": "cus_1"}),
        ),
    ],
    ids=["customer", "page", "price", "pause", "schedule", "method"],
)
async def test_whatever_a_failed_request_has_made_is_found(
    web: ScriptedHttp, gateway: StripeGateway, route: str, call: Call, found: tuple[str, dict[str, Any]]
) -> None:
    """The request fails although it was carried out: the look before it finds nothing, the look after it does."""
    set_up(web)
    looked_at, after = found

    def fail_after_the_effect(_: Asked) -> Reply:
        web.on(looked_at, after)
        return STORED_ERROR

    web.on(route, fail_after_the_effect)

    await call(gateway)

    assert len(web.to(route)) == 1


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("reply", "code", "field"),
    [
        (Reply(status=402, body=stripe_error("card_error", code="expired_card")), "expired_card", ""),
        (
            Reply(status=402, body=stripe_error("card_error", code="card_declined", decline_code="insufficient_funds")),
            "insufficient_funds",
            "",
        ),
        (
            Reply(status=400, body=stripe_error("invalid_request_error", code="resource_missing", param="customer")),
            "resource_missing",
            "customer_id",
        ),
        (
            Reply(
                status=400,
                body=stripe_error(
                    "invalid_request_error", code="promotion_code_expired", param="discounts[0][promotion_code]"
                ),
            ),
            "promotion_code_expired",
            "promotion_code",
        ),
        (
            Reply(status=400, body=stripe_error("invalid_request_error", param="quantity")),
            "invalid_request_error",
            "quantity",
        ),
        (Reply(status=400, body=stripe_error("invalid_request_error", code="<b>odd</b>")), "invalid_request_error", ""),
        (Reply(status=400, body=stripe_error("<b>odd</b>", code="x" * 65)), "refused", ""),
        (
            Reply(status=404, body=stripe_error("invalid_request_error", code="resource_missing")),
            "resource_missing",
            "",
        ),
    ],
)
async def test_what_stripe_says_about_the_request_is_a_refusal(
    web: ScriptedHttp, gateway: StripeGateway, reply: Reply, code: str, field: str
) -> None:
    set_up(web)
    web.on("POST /v1/subscriptions", reply)

    with pytest.raises(PaymentRefused) as caught:
        await subscribe(gateway)

    assert caught.value.facts["provider_code"] == code
    assert caught.value.facts.get("field", "") == field
    assert "stays inside" not in caught.value.message
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=401, body=stripe_error("invalid_request_error")),
        Reply(status=403, body=stripe_error("invalid_request_error")),
        Reply(status=409, body=stripe_error("idempotency_error", code="idempotency_key_in_use")),
        Reply(status=429, body=stripe_error("invalid_request_error", code="rate_limit")),
        Reply(status=400, body=stripe_error("invalid_request_error", code="rate_limit")),
        Reply(status=429, body=stripe_error("card_error", code="lock_timeout")),
        API_ERROR,
        Reply(status=502, raw=b"<html>Bad gateway</html>"),
        Reply(status=503, body={"error": "text"}),
        Reply(status=200, raw=b"<html>Log in to the hotel's network</html>"),
        Reply(status=404, raw=b"not here"),
        Reply(status=500, body=[]),
        Reply(status=200, body=[]),
        Reply(status=404, body={"error": "text"}),
        Reply(status=403, raw=b"<html>Blocked</html>"),
        HANG_UP,
    ],
    ids=lambda reply: str(reply.status),
)
async def test_what_stripe_says_about_itself_is_unavailable(
    web: ScriptedHttp, gateway: StripeGateway, reply: Reply
) -> None:
    set_up(web)
    web.on("POST /v1/subscriptions", reply)

    with pytest.raises(BillingProviderUnavailable) as caught:
        await subscribe(gateway)

    assert caught.value.retry_delay_ms > 0
    assert caught.value.facts == {"billing_provider": "stripe"}
    assert "stays inside" not in caught.value.message


async def test_a_wrong_key_is_logged_once_for_all_and_never_shown(web: ScriptedHttp, clock: FrozenClock) -> None:
    web.on(
        "GET /v1/subscriptions/sub_1",
        Reply(
            status=401, body={"error": {"type": "invalid_request_error", "message": "Invalid API Key: sk_test_wr*ng"}}
        ),
    )
    gateway = StripeGateway(api_key="sk_test_wrong_key", api_base=web.url, clock=clock, retries_max=0)

    with capture_logs() as logs, pytest.raises(BillingProviderUnavailable) as caught:
        await gateway.subscription("sub_1")

    assert [(log["event"], log["log_level"]) for log in logs] == [("stripe_key_not_accepted", "error")]
    assert "sk_test" not in f"{logs}{caught.value}{caught.value.facts}{caught.value.__cause__}"
    await gateway.close()


async def test_an_object_of_another_shape_is_a_defect_that_is_counted(
    web: ScriptedHttp, gateway: StripeGateway
) -> None:
    web.on("GET /v1/subscriptions/sub_1", shapes.subscription(items=shapes.listed()))
    before = metrics.billing_calls.value("subscription", "invalid")

    with capture_logs() as logs, pytest.raises(StripeObjectInvalid):
        await gateway.subscription("sub_1")

    assert metrics.billing_calls.value("subscription", "invalid") == before + 1
    assert [log["event"] for log in logs] == ["stripe_object_invalid"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"object": 5},
        {"object": "subscription"},
        {"object": "subscription", "id": 7, "items": "none"},
        {"object": "list", "data": 5},
        {"object": "list", "data": ["sub_1", None, {"object": []}]},
        {"object": "customer", "id": "cus_1", "metadata": 3},
        {"id": "sub_1", "object": "subscription", "items": {"object": "list", "data": {"a": 1}}},
        {"id": "sub_1", "object": {"object": "price"}, "items": [[[]]]},
        shapes.subscription(customer={"object": "customer", "id": None}),
    ],
    ids=repr,
)
async def test_a_hostile_answer_raises_nothing_but_the_typed_error(
    web: ScriptedHttp, gateway: StripeGateway, body: dict[str, Any]
) -> None:
    web.on("GET /v1/subscriptions/sub_1", body)
    web.on("GET /v1/subscriptions", body)

    with pytest.raises(StripeObjectInvalid):
        await gateway.subscription("sub_1")


@pytest.mark.parametrize(
    "read",
    [
        lambda provider, name: provider.subscription(name),
        lambda provider, name: provider.customer(name),
        lambda provider, name: provider.invoice(name),
        lambda provider, name: provider.payment(name),
        lambda provider, name: provider.payment_of_charge(name),
        lambda provider, name: provider.schedule(name),
        lambda provider, name: provider.checkout_session(name),
    ],
)
@pytest.mark.parametrize("name", ["gone_1", ""])
async def test_what_is_not_there_is_none(
    gateway: StripeGateway, read: Callable[[PaymentProvider, str], Awaitable[object]], name: str
) -> None:
    assert await read(gateway, name) is None


async def test_an_id_cannot_reach_another_resource(web: ScriptedHttp, gateway: StripeGateway) -> None:
    assert await gateway.subscription("../customers/cus_1") is None

    assert web.asked[0].path.startswith("/v1/subscriptions/")
    assert ".." not in web.asked[0].path.split("/")


# ------------------------------------------------------------------ bounds


async def test_an_answer_that_does_not_come_is_waited_for_so_long_and_no_longer(
    web: ScriptedHttp, clock: FrozenClock
) -> None:
    web.on("GET /v1/subscriptions/sub_1", SILENCE)
    gateway = StripeGateway(api_key="sk_test_local", api_base=web.url, clock=clock, retries_max=0, timeout_ms=50)

    with pytest.raises(BillingProviderUnavailable):
        await gateway.subscription("sub_1")

    await gateway.close()


async def test_all_requests_and_tries_of_a_call_have_one_bound(web: ScriptedHttp, clock: FrozenClock) -> None:
    web.on("GET /v1/subscriptions/sub_1", SILENCE)
    gateway = StripeGateway(
        api_key="sk_test_local", api_base=web.url, clock=clock, retries_max=10, timeout_ms=60_000, call_timeout_ms=50
    )

    with pytest.raises(BillingProviderUnavailable):
        await gateway.subscription("sub_1")

    assert len(web.asked) == 1
    await gateway.close()


async def test_the_breaker_opens_and_lets_one_try_later(
    web: ScriptedHttp, gateway: StripeGateway, clock: FrozenClock
) -> None:
    web.on("GET /v1/subscriptions/sub_1", API_ERROR)
    for _ in range(5):
        with pytest.raises(BillingProviderUnavailable):
            await gateway.subscription("sub_1")

    with pytest.raises(BillingProviderUnavailable):
        await gateway.subscription("sub_1")
    assert len(web.asked) == 5
    [state] = metrics.billing_breaker_state.family().samples
    assert state.value == 2

    web.on("GET /v1/subscriptions/sub_1", shapes.subscription())
    clock.advance(timedelta(seconds=10))
    assert await gateway.subscription("sub_1") is not None
    [state] = metrics.billing_breaker_state.family().samples
    assert state.value == 0


async def test_refusals_open_no_breaker(web: ScriptedHttp, gateway: StripeGateway) -> None:
    set_up(web)
    web.on("POST /v1/subscriptions", Reply(status=402, body=stripe_error("card_error", code="card_declined")))

    for _ in range(10):
        with pytest.raises(PaymentRefused):
            await subscribe(gateway)

    assert len(web.to("POST /v1/subscriptions")) == 10


async def test_a_call_that_is_given_up_counts_as_neither(web: ScriptedHttp, gateway: StripeGateway) -> None:
    web.on("GET /v1/subscriptions/sub_1", SILENCE)
    before = metrics.billing_calls.value("subscription", "canceled")

    async def asked() -> bool:
        return bool(web.asked)

    task = asyncio.create_task(gateway.subscription("sub_1"))
    await eventually(asked)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert metrics.billing_calls.value("subscription", "canceled") == before + 1


async def test_calls_are_counted_by_method_and_outcome(web: ScriptedHttp, gateway: StripeGateway) -> None:
    set_up(web)
    done = metrics.billing_calls.value("subscription", "done")
    seconds = metrics.billing_seconds.count("subscription")

    await gateway.subscription("sub_1")

    assert metrics.billing_calls.value("subscription", "done") == done + 1
    assert metrics.billing_seconds.count("subscription") == seconds + 1


# ------------------------------------------------------------------ prices


async def test_a_price_is_found_by_its_lookup_key_and_remembered(web: ScriptedHttp, gateway: StripeGateway) -> None:
    web.on("GET /v1/prices", shapes.listed(shapes.price("price_9")))

    found = [await gateway.ensure_price(sale()) for _ in range(3)]

    assert {price.price_id for price in found} == {"price_9"}
    assert len(web.asked) == 1


async def test_the_price_that_the_catalog_names_is_used(web: ScriptedHttp, gateway: StripeGateway) -> None:
    web.on("GET /v1/prices/price_7", shapes.price("price_7"))

    price = await gateway.ensure_price(sale(stripe_price_id="price_7"))

    assert price.price_id == "price_7"
    assert posts(web) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"unit_amount": 1_001},
        {"currency": "eur"},
        {"recurring": {"interval": "year", "interval_count": 1}},
        {"recurring": {"interval": "month", "interval_count": 3}},
        {"recurring": None},
    ],
)
async def test_a_price_that_takes_other_money_than_the_catalog_says_is_refused(
    web: ScriptedHttp, gateway: StripeGateway, wrong: dict[str, Any]
) -> None:
    web.on("GET /v1/prices/price_7", shapes.price("price_7", **wrong))

    with pytest.raises(PaymentRefused) as caught:
        await gateway.ensure_price(sale(stripe_price_id="price_7"))

    assert caught.value.facts["provider_code"] == "price_mismatch"


async def test_a_product_that_is_there_already_is_the_plans(web: ScriptedHttp, gateway: StripeGateway) -> None:
    set_up(web)
    web.on(
        "POST /v1/products",
        Reply(status=400, body=stripe_error("invalid_request_error", code="resource_already_exists")),
    )

    assert (await gateway.ensure_price(sale())).price_id == "price_pro"


async def test_a_price_that_was_archived_is_looked_for_again(web: ScriptedHttp, gateway: StripeGateway) -> None:
    set_up(web)
    web.on("GET /v1/prices", shapes.listed(shapes.price("price_old")), shapes.listed(shapes.price("price_new")))
    web.on(
        "POST /v1/subscriptions",
        Reply(status=400, body=stripe_error("invalid_request_error", param="items[0][price]")),
        shapes.subscription(),
    )

    with pytest.raises(PaymentRefused):
        await subscribe(gateway)
    await subscribe(gateway)

    used = [asked.form["items[0][price]"] for asked in web.to("POST /v1/subscriptions")]
    assert used == ["price_old", "price_new"]


# ------------------------------------------------------------------ what is sent


async def test_a_new_subscription_is_flexible_and_carries_whose_it_is(
    web: ScriptedHttp, gateway: StripeGateway
) -> None:
    set_up(web)

    await subscribe(gateway, metadata={"order": "7", "tallygate_account_id": "forged"}, trial_days=14, quantity=3)

    [made] = web.to("POST /v1/subscriptions")
    assert made.form["billing_mode[type]"] == "flexible"
    assert made.form["items[0][quantity]"] == "3"
    assert made.form["trial_period_days"] == "14"
    assert made.form["trial_settings[end_behavior][missing_payment_method]"] == "cancel"
    assert made.form["metadata[order]"] == "7"
    assert made.form["metadata[tallygate_account_id]"] == "acct-1"
    assert made.form["metadata[tallygate_subscription_id]"] == "sub_ours"
    assert made.form["metadata[tallygate_operation_id]"] == "op-1"


@pytest.mark.parametrize(
    ("customer", "method", "behavior"),
    [
        (shapes.customer(), "", "default_incomplete"),
        (shapes.customer(invoice_settings={"default_payment_method": "pm_0"}), "", "allow_incomplete"),
        (shapes.customer(default_source="card_1"), "", "allow_incomplete"),
        (shapes.customer(), "pm_1", "allow_incomplete"),
    ],
)
async def test_the_first_payment_is_tried_at_once_where_there_is_a_method(
    web: ScriptedHttp, gateway: StripeGateway, customer: dict[str, Any], method: str, behavior: str
) -> None:
    set_up(web)
    web.on("GET /v1/customers/cus_1", customer)

    await subscribe(gateway, payment_method_id=method)

    [made] = web.to("POST /v1/subscriptions")
    assert made.form["payment_behavior"] == behavior
    assert made.form.get("default_payment_method", "") == method


@pytest.mark.parametrize(
    ("status", "error", "refused"),
    [
        ("requires_payment_method", {"code": "card_declined"}, True),
        ("requires_action", None, False),
        ("requires_payment_method", None, False),
        ("processing", None, False),
    ],
)
async def test_only_a_definite_decline_of_the_given_method_refuses_and_undoes(
    web: ScriptedHttp, gateway: StripeGateway, status: str, error: dict[str, Any] | None, *, refused: bool
) -> None:
    set_up(web)
    web.on("GET /v1/subscriptions/sub_1", shapes.subscription(status="incomplete"))
    web.on("GET /v1/invoice_payments", shapes.listed(shapes.invoice_payment()))
    web.on("GET /v1/payment_intents/pi_1", shapes.intent(status=status, last_payment_error=error))
    web.on("DELETE /v1/subscriptions/sub_1", shapes.subscription(status="canceled"))
    web.on("GET /v1/invoices/in_1", shapes.invoice())
    web.on("POST /v1/invoices/in_1/void", shapes.invoice(status="void"))

    if refused:
        with pytest.raises(PaymentRefused) as caught:
            await subscribe(gateway, payment_method_id="pm_1")
        assert caught.value.facts["provider_code"] == "card_declined"
    else:
        await subscribe(gateway, payment_method_id="pm_1")

    assert len(web.to("DELETE /v1/subscriptions/sub_1")) == int(refused)
    assert len(web.to("POST /v1/invoices/in_1/void")) == int(refused)


async def test_a_promotion_code_is_looked_up_and_a_coupon_is_taken_too(
    web: ScriptedHttp, gateway: StripeGateway
) -> None:
    set_up(web)
    await subscribe(gateway, promotion_code="SPRING", operation_id="op-1")
    web.on("GET /v1/promotion_codes", shapes.listed())
    web.on("GET /v1/coupons/half", {"id": "half", "object": "coupon", "valid": True})
    web.on("GET /v1/coupons/old", {"id": "old", "object": "coupon", "valid": False})
    await subscribe(gateway, promotion_code="half", operation_id="op-2")

    sent = [asked.form for asked in web.to("POST /v1/subscriptions")]
    assert sent[0]["discounts[0][promotion_code]"] == "promo_1"
    assert sent[1]["discounts[0][coupon]"] == "half"
    for unknown in ("old", "nothing"):
        with pytest.raises(PaymentRefused) as caught:
            await subscribe(gateway, promotion_code=unknown, operation_id="op-3")
        assert caught.value.facts["provider_code"] == "promotion_code_unknown"


async def test_a_change_is_billed_at_once_and_waits_for_its_payment(web: ScriptedHttp, gateway: StripeGateway) -> None:
    set_up(web)
    web.on("GET /v1/prices", shapes.listed(shapes.price("price_team")))
    changed = shapes.subscription(price_id="price_team")
    web.on("GET /v1/subscriptions/sub_1", shapes.subscription(), shapes.subscription(), changed)

    observed = await change(gateway, proration_time=datetime.fromtimestamp(NOW + 60, UTC))

    assert observed.price.price_id == "price_team"
    [sent] = web.to("POST /v1/subscriptions/sub_1")
    assert sent.form["items[0][id]"] == "si_1"
    assert sent.form["items[0][price]"] == "price_team"
    assert sent.form["proration_behavior"] == "always_invoice"
    assert sent.form["payment_behavior"] == "pending_if_incomplete"
    assert sent.form["proration_date"] == str(NOW + 60)
    # Stripe takes nothing else together with a pending update.
    assert not any(name.startswith(("metadata", "default_payment")) for name in sent.form)


async def test_a_change_that_took_effect_before_its_answer_was_lost_is_not_made_again(
    web: ScriptedHttp, gateway: StripeGateway
) -> None:
    set_up(web)
    web.on("GET /v1/prices", shapes.listed(shapes.price("price_team")))
    web.on("GET /v1/subscriptions/sub_1", shapes.subscription(price_id="price_team"))

    observed = await change(gateway)

    assert observed.price.price_id == "price_team"
    assert web.to("POST /v1/subscriptions/sub_1") == []


async def test_a_method_that_cannot_wait_for_its_payment_must_pay_or_be_refused(
    web: ScriptedHttp, gateway: StripeGateway
) -> None:
    """Bank debits know no pending updates."""
    set_up(web)
    web.on("GET /v1/prices", shapes.listed(shapes.price("price_team")))
    web.on(
        "GET /v1/subscriptions/sub_1",
        shapes.subscription(),
        shapes.subscription(),
        shapes.subscription(price_id="price_team"),
    )
    web.on(
        "POST /v1/subscriptions/sub_1",
        Reply(status=400, body=stripe_error("invalid_request_error", param="payment_behavior")),
        shapes.subscription(price_id="price_team"),
    )

    await change(gateway)

    behaviors = [asked.form["payment_behavior"] for asked in web.to("POST /v1/subscriptions/sub_1")]
    assert behaviors == ["pending_if_incomplete", "error_if_incomplete"]


async def test_a_planned_change_keeps_discount_method_and_trial(web: ScriptedHttp, gateway: StripeGateway) -> None:
    set_up(web)
    web.on("GET /v1/prices", shapes.listed(shapes.price("price_team")))
    phase = shapes.schedule()["phases"][0] | {
        "default_payment_method": "pm_1",
        "discounts": [{"coupon": "half", "discount": None, "promotion_code": "promo_1"}],
    }
    web.on("GET /v1/subscription_schedules/sub_sched_1", shapes.schedule(phases=[phase]))
    trialing = subscription_of(shapes.subscription(status="trialing", trial_start=NOW, trial_end=NOW + 60))
    end = datetime.fromtimestamp(NOW + 30, UTC)

    await gateway.schedule_change(trialing, sale("team", 3_000), quantity=2, effective_time=end, operation_id="op-1")

    [made] = web.to("POST /v1/subscription_schedules")
    assert made.form == {"from_subscription": "sub_1"}
    [sent] = web.to("POST /v1/subscription_schedules/sub_sched_1")
    expected = {
        "end_behavior": "release",
        "phases[0][items][0][price]": "price_pro",
        "phases[0][start_date]": str(NOW),
        "phases[0][end_date]": str(NOW + 30),
        "phases[0][trial_end]": str(NOW + 30),
        "phases[0][discounts][0][promotion_code]": "promo_1",
        "phases[0][default_payment_method]": "pm_1",
        "phases[1][items][0][price]": "price_team",
        "phases[1][items][0][quantity]": "2",
        "phases[1][proration_behavior]": "none",
        "phases[1][discounts][0][promotion_code]": "promo_1",
        "phases[1][duration][interval]": "month",
        "metadata[tallygate_operation_id]": "op-1",
    }
    assert expected.items() <= sent.form.items()


@pytest.mark.parametrize(
    "call",
    [
        lambda provider: provider.cancel_at("sub_1", at=None, operation_id="op-1"),
        lambda provider: provider.cancel_now("sub_1", reason="", operation_id="op-1"),
        lambda provider: provider.pause("sub_1", operation_id="op-1"),
        change,
    ],
    ids=["cancel_at", "cancel_now", "pause", "change"],
)
async def test_a_schedule_is_released_before_anybody_else_changes_what_it_steers(
    web: ScriptedHttp, gateway: StripeGateway, call: Call
) -> None:
    set_up(web)
    web.on("GET /v1/prices", shapes.listed(shapes.price()))
    web.on("GET /v1/subscriptions/sub_1", shapes.subscription(schedule=shapes.schedule()))
    web.on("DELETE /v1/subscriptions/sub_1", shapes.subscription(status="canceled"))

    await call(gateway)

    writes = [asked.path for asked in web.asked if asked.method != "GET"]
    assert writes[0] == "/v1/subscription_schedules/sub_sched_1/release"


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"cancel_at_period_end": True}, {"cancel_at_period_end": "false"}),
        ({"cancel_at": NOW + 60}, {"cancel_at": ""}),
        ({}, None),
    ],
)
async def test_a_cancellation_is_taken_back_as_it_was_set(
    web: ScriptedHttp, gateway: StripeGateway, fields: dict[str, Any], sent: dict[str, str] | None
) -> None:
    set_up(web)
    web.on("GET /v1/subscriptions/sub_1", shapes.subscription(**fields))

    await gateway.keep("sub_1", operation_id="op-1")

    assert [asked.form for asked in web.to("POST /v1/subscriptions/sub_1")] == ([sent] if sent else [])


async def test_a_subscription_that_somebody_ended_in_between_is_canceled(
    web: ScriptedHttp, gateway: StripeGateway
) -> None:
    ended = shapes.subscription(status="canceled", ended_at=NOW)
    web.on("GET /v1/subscriptions/sub_1", shapes.subscription(), ended)
    web.on(
        "DELETE /v1/subscriptions/sub_1",
        Reply(status=404, body=stripe_error("invalid_request_error", code="resource_missing")),
    )

    observed = await gateway.cancel_now("sub_1", reason="too expensive", operation_id="op-1")

    assert observed.end_time == datetime.fromtimestamp(NOW, UTC)
    [sent] = web.to("DELETE /v1/subscriptions/sub_1")
    assert sent.form["cancellation_details[comment]"] == "too expensive"
    assert (sent.form["prorate"], sent.form["invoice_now"]) == ("false", "false")


async def test_a_mere_pause_of_collection_is_lifted(web: ScriptedHttp, gateway: StripeGateway) -> None:
    set_up(web)
    web.on("GET /v1/subscriptions/sub_1", shapes.subscription(pause_collection={"behavior": "void"}))

    await gateway.resume("sub_1", operation_id="op-1")

    [sent] = web.to("POST /v1/subscriptions/sub_1")
    assert sent.form == {"pause_collection": ""}


async def test_a_page_has_a_code_set_or_a_field_for_one(web: ScriptedHttp, gateway: StripeGateway) -> None:
    set_up(web)

    await open_page(gateway)
    await open_page(gateway, promotion_code="SPRING", operation_id="op-2", trial_days=7)

    plain, reduced = (asked.form for asked in web.to("POST /v1/checkout/sessions"))
    assert plain["allow_promotion_codes"] == "true"
    assert plain["client_reference_id"] == "acct-1"
    assert plain["subscription_data[metadata][tallygate_subscription_id]"] == "sub_ours"
    assert plain["subscription_data[billing_mode][type]"] == "flexible"
    assert plain["expires_at"] == str(NOW + 3_600)
    assert reduced["discounts[0][promotion_code]"] == "promo_1"
    assert "allow_promotion_codes" not in reduced
    assert reduced["subscription_data[trial_period_days]"] == "7"


@pytest.mark.parametrize("status", ["complete", "expired"])
async def test_a_page_that_is_closed_is_left_alone(web: ScriptedHttp, gateway: StripeGateway, status: str) -> None:
    web.on("GET /v1/checkout/sessions/cs_1", shapes.session(status=status))

    await gateway.expire_checkout_session("cs_1", operation_id="op-1")

    assert posts(web) == []


async def test_tax_ids_are_added_before_others_are_removed(web: ScriptedHttp, gateway: StripeGateway) -> None:
    set_up(web)
    web.on(
        "GET /v1/customers/cus_1/tax_ids",
        shapes.listed(
            {"id": "txi_keep", "object": "tax_id", "type": "eu_vat", "value": "DE1"},
            {"id": "txi_gone", "object": "tax_id", "type": "gb_vat", "value": "GB1"},
        ),
    )
    web.on("DELETE /v1/customers/cus_1/tax_ids/txi_gone", {"id": "txi_gone", "object": "tax_id", "deleted": True})

    details = CustomerDetails(tax_ids=(("eu_vat", "DE1"), ("us_ein", "12")))
    await gateway.update_customer("cus_1", details, operation_id="op-1")

    writes = [(asked.method, asked.path) for asked in web.asked if asked.method != "GET"]
    assert writes == [
        ("POST", "/v1/customers/cus_1/tax_ids"),
        ("DELETE", "/v1/customers/cus_1/tax_ids/txi_gone"),
    ]


async def test_an_update_sends_what_is_to_change_only(web: ScriptedHttp, gateway: StripeGateway) -> None:
    set_up(web)

    await gateway.update_customer("cus_1", CustomerDetails(email="", metadata={"old": ""}), operation_id="op-1")

    [sent] = web.to("POST /v1/customers/cus_1")
    assert sent.form == {"email": "", "metadata[old]": ""}


# ------------------------------------------------------------------ what is overdue, and what has changed


async def test_overdue_counts_from_the_oldest_bill_that_was_tried(web: ScriptedHttp, gateway: StripeGateway) -> None:
    web.on("GET /v1/subscriptions/sub_1", shapes.subscription(status="past_due"))

    def bills(asked: Asked) -> Reply:
        if asked.form["status"] == "uncollectible":
            return Reply(body=shapes.listed(shapes.invoice("in_3", status="uncollectible", created=NOW - 30)))
        if "starting_after" in asked.form:
            return Reply(body=shapes.listed(shapes.invoice("in_1", created=NOW - 60)))
        untried = shapes.invoice("in_0", created=NOW - 90, attempt_count=0)
        return Reply(body=shapes.listed(shapes.invoice("in_2", created=NOW - 10), untried, has_more=True))

    web.on("GET /v1/invoices", bills)

    observed = await gateway.subscription("sub_1")

    assert observed is not None
    assert observed.overdue_since_time == datetime.fromtimestamp(NOW - 60, UTC)
    assert {asked.form["subscription"] for asked in web.to("GET /v1/invoices")} == {"sub_1"}


@pytest.mark.parametrize(("due", "overdue"), [(NOW, True), (NOW + 1, False), (None, False)])
async def test_a_bill_that_is_sent_is_overdue_once_it_is_due(
    web: ScriptedHttp, gateway: StripeGateway, due: int | None, *, overdue: bool
) -> None:
    web.on("GET /v1/subscriptions/sub_1", shapes.subscription(status="past_due"))
    web.on("GET /v1/invoices", shapes.listed(shapes.invoice(attempt_count=0, due_date=due)))

    observed = await gateway.subscription("sub_1")

    assert observed is not None
    assert (observed.overdue_since_time is not None) is overdue


async def test_nobody_asks_for_bills_of_what_is_paid(web: ScriptedHttp, gateway: StripeGateway) -> None:
    set_up(web)

    observed = await gateway.subscription("sub_1")

    assert observed is not None
    assert observed.overdue_since_time is None
    assert web.to("GET /v1/invoices") == []


def event(event_id: str, subject: dict[str, Any]) -> dict[str, Any]:
    return {"id": event_id, "object": "event", "data": {"object": subject}}


async def test_what_has_changed_is_told_by_events_each_once(web: ScriptedHttp, gateway: StripeGateway) -> None:
    web.on(
        "GET /v1/events",
        shapes.listed(
            event("evt_3", shapes.subscription("sub_b")),
            event("evt_2", shapes.invoice()),
            event("evt_1", shapes.invoice(parent=None)),
            has_more=True,
        ),
        shapes.listed(event("evt_0", shapes.schedule())),
    )
    since = datetime.fromtimestamp(NOW - 60, UTC)

    found = [found async for found in gateway.changed_subscription_ids(since=since)]

    assert found == ["sub_b", "sub_1"]
    first, second = web.asked
    assert first.form["created[gte]"] == str(NOW - 60)
    assert len([name for name in first.form if name.startswith("types[")]) == 20
    assert second.form["starting_after"] == "evt_1"


@pytest.mark.parametrize(
    ("since", "customer_id"),
    [(None, ""), (timedelta(days=EVENT_DAYS), ""), (timedelta(hours=1), "cus_1"), (None, "cus_1")],
)
async def test_all_are_listed_where_events_cannot_tell(
    web: ScriptedHttp, gateway: StripeGateway, clock: FrozenClock, since: timedelta | None, customer_id: str
) -> None:
    web.on("GET /v1/subscriptions", shapes.listed(shapes.subscription("sub_2"), shapes.subscription("sub_1")))
    instant = None if since is None else clock.now() - since

    changed = gateway.changed_subscription_ids(since=instant, customer_id=customer_id)
    found = [found async for found in changed]

    assert found == ["sub_2", "sub_1"]
    [asked] = web.asked
    assert asked.form["status"] == "all"
    assert asked.form.get("customer", "") == customer_id


async def test_a_list_that_breaks_off_is_unavailable(web: ScriptedHttp, gateway: StripeGateway) -> None:
    web.on("GET /v1/subscriptions", shapes.listed(shapes.subscription(), has_more=True), API_ERROR)

    with pytest.raises(BillingProviderUnavailable):
        _ = [found async for found in gateway.changed_subscription_ids(since=None)]


# ------------------------------------------------------------------ payments


async def test_a_payment_is_told_with_its_invoice_dispute_and_warning(
    web: ScriptedHttp, gateway: StripeGateway
) -> None:
    web.on("GET /v1/payment_intents/pi_1", shapes.intent(latest_charge=shapes.charge(disputed=True)))
    web.on("GET /v1/invoice_payments", shapes.listed(shapes.invoice_payment()))
    web.on("GET /v1/disputes", shapes.listed({"id": "dp_1", "object": "dispute", "status": "needs_response"}))
    web.on(
        "GET /v1/radar/early_fraud_warnings", shapes.listed({"id": "issfr_1", "object": "radar.early_fraud_warning"})
    )

    payment = await gateway.payment("pi_1")

    assert payment is not None
    assert (payment.invoice_id, payment.disputed, payment.fraud_warning) == ("in_1", True, True)


@pytest.mark.parametrize(("status", "disputed"), [("lost", True), ("under_review", True), ("won", False)])
async def test_a_dispute_that_was_won_leaves_the_money_here(
    web: ScriptedHttp, gateway: StripeGateway, status: str, *, disputed: bool
) -> None:
    web.on("GET /v1/payment_intents/pi_1", shapes.intent(latest_charge=shapes.charge(disputed=True)))
    web.on("GET /v1/invoice_payments", shapes.listed())
    web.on("GET /v1/disputes", shapes.listed({"id": "dp_1", "object": "dispute", "status": status}))
    web.on("GET /v1/radar/early_fraud_warnings", shapes.listed())

    payment = await gateway.payment("pi_1")

    assert payment is not None
    assert payment.disputed is disputed


async def test_every_payment_of_an_invoice_is_told_once(web: ScriptedHttp, gateway: StripeGateway) -> None:
    web.on(
        "GET /v1/invoice_payments",
        shapes.listed(
            shapes.invoice_payment("pi_2"),
            shapes.invoice_payment("pi_1"),
            shapes.invoice_payment("pi_1") | {"id": "inpay_again"},
            {
                "id": "inpay_cash",
                "object": "invoice_payment",
                "payment": {"type": "out_of_band"},
            },
        ),
    )
    for payment_id in ("pi_1", "pi_2"):
        web.on(f"GET /v1/payment_intents/{payment_id}", shapes.intent(payment_id))

    payments = await gateway.payments_of_invoice("in_1")

    assert [payment.payment_id for payment in payments] == ["pi_2", "pi_1"]
    assert {payment.invoice_id for payment in payments} == {"in_1"}


async def test_a_charge_without_an_intent_belongs_to_no_payment(web: ScriptedHttp, gateway: StripeGateway) -> None:
    web.on("GET /v1/charges/ch_1", shapes.charge(payment_intent=None))

    assert await gateway.payment_of_charge("ch_1") is None


async def test_a_preview_asks_for_the_change_and_for_a_whole_period_after_it(
    web: ScriptedHttp, gateway: StripeGateway
) -> None:
    web.on("GET /v1/prices", shapes.listed(shapes.price("price_team")))
    web.on(
        "POST /v1/invoices/create_preview",
        shapes.invoice(total=1_900, lines=shapes.listed(shapes.line(proration=True, amount=1_900))),
        shapes.invoice(total=3_000),
    )
    proration_time = datetime.fromtimestamp(NOW + MONTH // 2, UTC)

    preview = await gateway.preview_change(PRESENT, sale("team", 3_000), quantity=1, proration_time=proration_time)

    assert (preview.due_now_minor, preview.next_invoice_minor) == (1_900, 3_000)
    change_asked, recurring = (asked.form for asked in web.to("POST /v1/invoices/create_preview"))
    assert change_asked["subscription_details[proration_date]"] == str(NOW + MONTH // 2)
    assert change_asked["subscription_details[proration_behavior]"] == "always_invoice"
    assert recurring["preview_mode"] == "recurring"
