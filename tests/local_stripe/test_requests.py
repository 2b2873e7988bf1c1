"""What holds for every endpoint: keys, parameters, pages, idempotency and faults."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import stripe

from tests.local_stripe.conftest import DAY, Shop
from tests.support.eventually import eventually
from tests.support.local_stripe import LocalStripe, stripe_client


async def test_a_request_without_a_test_key_is_refused(local: LocalStripe) -> None:
    without = await local.http.get("/v1/customers")
    live = await local.http.get("/v1/customers", headers={"Authorization": "Bearer sk_live_x"})

    assert (without.status_code, live.status_code) == (401, 401)
    assert without.json()["error"]["type"] == "invalid_request_error"
    assert without.headers["request-id"].startswith("req_")


@pytest.mark.parametrize(
    ("given", "param", "code"),
    [
        ({"emial": "x"}, "emial", "parameter_unknown"),
        ({"address": {"planet": "x"}}, "address[planet]", "parameter_unknown"),
        ({"balance": "much"}, "balance", "parameter_invalid_integer"),
        ({"tax_exempt": "perhaps"}, "tax_exempt", None),
        ({"tax_id_data": [{"type": "eu_vat"}]}, "tax_id_data[0][value]", "parameter_missing"),
    ],
)
async def test_wrong_parameters_are_refused_by_name(
    client: stripe.StripeClient, given: dict[str, object], param: str, code: str | None
) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await client.v1.customers.create_async(given)  # type: ignore[arg-type]

    assert (refused.value.param, refused.value.code, refused.value.http_status) == (param, code, 400)


async def test_a_missing_object_is_404(client: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await client.v1.subscriptions.retrieve_async("sub_nothing")

    assert (refused.value.http_status, refused.value.code) == (404, "resource_missing")


async def test_lists_are_paged_both_ways(client: stripe.StripeClient) -> None:
    made = [(await client.v1.customers.create_async({"name": str(n)})).name for n in range(5)]

    first = await client.v1.customers.list_async({"limit": 2})
    second = await client.v1.customers.list_async({"limit": 2, "starting_after": first.data[-1].id})
    back = await client.v1.customers.list_async({"limit": 2, "ending_before": second.data[0].id})
    walked = [customer.name async for customer in first.auto_paging_iter()]

    assert (first.has_more, [customer.name for customer in second.data]) == (True, ["2", "1"])
    assert [customer.id for customer in back.data] == [customer.id for customer in first.data]
    assert walked == list(reversed(made))


async def test_lists_filter_by_time(local: LocalStripe, client: stripe.StripeClient) -> None:
    await client.v1.customers.create_async({"name": "early"})
    moment = await local.advance(60)
    await client.v1.customers.create_async({"name": "late"})

    found = await client.v1.customers.list_async({"created": {"gte": moment}})

    assert [customer.name for customer in found.data] == ["late"]


async def test_metadata_is_merged_and_unset(client: stripe.StripeClient) -> None:
    customer = await client.v1.customers.create_async({"metadata": {"a": "1", "b": "2"}})

    merged = await client.v1.customers.update_async(customer.id, {"metadata": {"b": "", "c": "3"}})
    emptied = await client.v1.customers.update_async(customer.id, {"metadata": ""})

    assert merged.metadata is not None
    assert merged.metadata.to_dict() == {"a": "1", "c": "3"}
    assert emptied.metadata is not None
    assert emptied.metadata.to_dict() == {}


async def test_a_lookup_key_can_be_transferred(shop: Shop, client: stripe.StripeClient) -> None:
    price: stripe.params.PriceCreateParams = {
        "product": shop.product,
        "currency": "usd",
        "unit_amount": 500,
        "recurring": {"interval": "month"},
        "lookup_key": "pro_monthly",
    }
    await client.v1.prices.create_async(price)
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.prices.create_async(price)
    newer = await client.v1.prices.create_async({**price, "transfer_lookup_key": True})

    found = await client.v1.prices.list_async({"lookup_keys": ["pro_monthly"]})

    assert [entry.id for entry in found.data] == [newer.id]


async def test_a_customer_has_tax_ids(client: stripe.StripeClient) -> None:
    customer = await client.v1.customers.create_async({"tax_id_data": [{"type": "eu_vat", "value": "DE123456789"}]})
    added = await client.v1.customers.tax_ids.create_async(customer.id, {"type": "gb_vat", "value": "GB123456789"})
    await client.v1.customers.tax_ids.delete_async(customer.id, added.id)

    shown = await client.v1.customers.retrieve_async(customer.id, {"expand": ["tax_ids"]})

    assert shown.tax_ids is not None
    assert [tax_id.value for tax_id in shown.tax_ids.data] == ["DE123456789"]


async def test_cards_behave_as_their_names_say(shop: Shop, client: stripe.StripeClient) -> None:
    customer = await shop.customer(card=None)

    with pytest.raises(stripe.CardError) as refused:
        await client.v1.payment_methods.attach_async("pm_card_chargeDeclined", {"customer": customer})
    token = await client.v1.payment_methods.create_async({"type": "card", "card": {"token": "tok_mastercard"}})
    attached = await client.v1.payment_methods.attach_async(token.id, {"customer": customer})
    detached = await client.v1.payment_methods.detach_async(token.id)

    assert (refused.value.code, refused.value.http_status) == ("card_declined", 402)
    assert attached.card is not None
    assert (attached.card.brand, attached.customer, detached.customer) == ("mastercard", customer, None)


async def test_money_goes_back_and_is_disputed(local: LocalStripe, shop: Shop, client: stripe.StripeClient) -> None:
    customer = await shop.customer()
    await shop.subscribe(customer)
    [charge] = (await client.v1.charges.list_async({"customer": customer})).data

    await client.v1.refunds.create_async({"charge": charge.id, "amount": 300})
    partly = await client.v1.charges.retrieve_async(charge.id)
    await client.v1.refunds.create_async({"charge": charge.id})
    wholly = await client.v1.charges.retrieve_async(charge.id)
    dispute = await local.dispute(charge.id)
    await local.close_dispute(dispute["id"], "lost")
    await local.warn_of_fraud(charge.id)

    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.refunds.create_async({"charge": charge.id})
    events = await client.v1.events.list_async({"limit": 5})
    assert (partly.amount_refunded, partly.refunded) == (300, False)
    assert (wholly.amount_refunded, wholly.refunded) == (1000, True)
    assert [event.type for event in events.data] == [
        "radar.early_fraud_warning.created",
        "charge.dispute.closed",
        "charge.dispute.created",
        "charge.refunded",
        "refund.created",
    ]


async def test_a_repeated_key_repeats_the_first_answer(local: LocalStripe) -> None:
    headers = {"Authorization": "Bearer sk_test_local", "Idempotency-Key": "op-1"}

    first = await local.http.post("/v1/customers", data={"email": "a@example.com"}, headers=headers)
    again = await local.http.post("/v1/customers", data={"email": "a@example.com"}, headers=headers)
    other = await local.http.post("/v1/customers", data={"email": "b@example.com"}, headers=headers)
    elsewhere = await local.http.post("/v1/products", data={"name": "a"}, headers=headers)
    await local.advance(DAY)
    next_day = await local.http.post("/v1/customers", data={"email": "b@example.com"}, headers=headers)

    assert first.json() == again.json()
    assert (again.headers["idempotent-replayed"], "idempotent-replayed" in first.headers) == ("true", False)
    assert (other.status_code, other.json()["error"]["type"]) == (400, "idempotency_error")
    assert elsewhere.status_code == 400
    assert next_day.status_code == 200
    assert (await local.counts())["customer"] == 2


async def test_a_refused_request_leaves_its_key_unused(client: stripe.StripeClient) -> None:
    with pytest.raises(stripe.InvalidRequestError):
        await client.v1.customers.create_async({"foo": "x"}, {"idempotency_key": "op-2"})  # type: ignore[arg-type]

    assert (await client.v1.customers.create_async({}, {"idempotency_key": "op-2"})).id


async def given_up(request: Awaitable[object], once: Callable[[], Awaitable[bool]]) -> None:
    """Send a request and give up on its answer once something is true."""
    sending = asyncio.ensure_future(request)
    await eventually(once, 60)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending


async def test_one_key_runs_one_request_at_a_time(local: LocalStripe) -> None:
    await local.fault("POST /v1/customers", "slow_ms", slow_ms=600_000)
    headers = {"Authorization": "Bearer sk_test_local", "Idempotency-Key": "op-3"}
    first = asyncio.ensure_future(local.http.post("/v1/customers", headers=headers))

    async def has_begun() -> bool:
        return await local.waiting_faults() == 0

    await eventually(has_begun, 60)
    second = await local.http.post("/v1/customers", headers=headers)
    await local.clear_faults()

    assert (second.status_code, second.json()["error"]["code"]) == (409, "idempotency_key_in_use")
    assert (await first).status_code == 200
    assert (await local.counts())["customer"] == 1


async def test_a_card_error_is_saved_under_its_key(shop: Shop, client: stripe.StripeClient) -> None:
    customer = await shop.customer(card="pm_card_chargeCustomerFail")
    given: stripe.params.SubscriptionCreateParams = {
        "customer": customer,
        "items": [{"price": shop.basic}],
        "payment_behavior": "error_if_incomplete",
    }
    with pytest.raises(stripe.CardError):
        await client.v1.subscriptions.create_async(given, {"idempotency_key": "op-4"})
    good = await client.v1.payment_methods.attach_async("pm_card_visa", {"customer": customer})
    await client.v1.customers.update_async(customer, {"invoice_settings": {"default_payment_method": good.id}})

    with pytest.raises(stripe.CardError):
        await client.v1.subscriptions.create_async(given, {"idempotency_key": "op-4"})


async def test_an_outage_before_the_effect_is_survived_by_a_retry(local: LocalStripe) -> None:
    await local.fault("POST /v1/customers", "error_500")

    async with stripe_client(local.url, max_network_retries=2) as patient:
        created = await patient.v1.customers.create_async({})

    assert created.id
    assert (await local.counts())["customer"] == 1


async def test_an_outage_after_the_effect_is_repeated_under_its_key(
    local: LocalStripe, client: stripe.StripeClient
) -> None:
    await local.fault("POST /v1/customers", "error_after")

    for _ in range(2):
        with pytest.raises(stripe.APIError):
            await client.v1.customers.create_async({}, {"idempotency_key": "op-5"})

    assert (await local.counts())["customer"] == 1


async def test_half_an_answer_is_had_whole_by_asking_again(local: LocalStripe, client: stripe.StripeClient) -> None:
    await local.fault("POST /v1/customers", "cut_after")

    with pytest.raises(stripe.APIConnectionError):
        await client.v1.customers.create_async({"name": "once"}, {"idempotency_key": "op-6"})
    again = await client.v1.customers.create_async({"name": "once"}, {"idempotency_key": "op-6"})

    assert again.name == "once"
    assert (await local.counts())["customer"] == 1


async def test_an_answer_that_never_comes_is_had_by_asking_again(
    local: LocalStripe, client: stripe.StripeClient
) -> None:
    await local.fault("POST /v1/customers", "timeout_after")

    async def has_happened() -> bool:
        return (await local.counts()).get("customer") == 1

    creating = client.v1.customers.create_async({"name": "once"}, {"idempotency_key": "op-7"})
    await given_up(creating, has_happened)
    again = await client.v1.customers.create_async({"name": "once"}, {"idempotency_key": "op-7"})

    assert again.name == "once"
    assert (await local.counts())["customer"] == 1


async def test_a_request_that_is_lost_has_no_effect(local: LocalStripe, client: stripe.StripeClient) -> None:
    await local.fault("POST /v1/customers", "cut_before")
    with pytest.raises(stripe.APIConnectionError):
        await client.v1.customers.create_async({})
    await local.fault("POST /v1/customers", "timeout_before")

    async def is_lost() -> bool:
        return await local.waiting_faults() == 0

    await given_up(client.v1.customers.create_async({}), is_lost)

    assert "customer" not in await local.counts()


async def test_a_rate_limit_says_that_a_retry_is_welcome(local: LocalStripe, client: stripe.StripeClient) -> None:
    await local.fault("GET /v1/customers/*", "rate_limit_429")
    customer = await client.v1.customers.create_async({})

    with pytest.raises(stripe.RateLimitError) as limited:
        await client.v1.customers.retrieve_async(customer.id)

    assert limited.value.headers is not None
    assert limited.value.headers["stripe-should-retry"] == "true"
    assert (await client.v1.customers.retrieve_async(customer.id)).id == customer.id
