"""A webhook comes in once, whoever brings it how often, and nothing comes in that is not genuine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import structlog

from tallygate_server.errors import (
    InvalidRequest,
    SignatureInvalid,
    StoreUnavailable,
    TallygateError,
    TenantNotFound,
    WebhookSourceNotConfigured,
)
from tallygate_server.storage.engine import Database, DatabaseRole
from tallygate_server.telemetry import metrics
from tallygate_server.webhooks.events import WebhookSource
from tallygate_server.webhooks.intake import REFUSAL_LOG_SECONDS, FirstAttempts, WebhookIntake
from tallygate_server.webhooks.json_body import BODY_BYTES_MAX
from tests.support.clock import FrozenClock
from tests.support.webhooks import (
    API_VERSION,
    STRIPE_SECRET,
    STRIPE_SECRET_BEFORE,
    EveryTenant,
    RecordingHandler,
    WebhookWorld,
    ayrshare_headers,
    stripe_event,
    stripe_headers,
    svix_headers,
    webhook_world,
)

STRIPE = WebhookSource.STRIPE


@pytest.fixture
async def world(empty_webhooks: str) -> AsyncIterator[WebhookWorld]:
    async with webhook_world(empty_webhooks) as running:
        yield running


def refused(rule: str) -> int:
    return metrics.webhooks_refused.value("stripe", rule)


async def refusal_of(world: WebhookWorld, payload: bytes, headers: dict[str, str]) -> TallygateError:
    with pytest.raises(TallygateError) as error:
        await world.take(payload, headers)
    return error.value


async def test_a_genuine_webhook_is_stored_as_it_came(world: WebhookWorld) -> None:
    payload = stripe_event()

    taken = await world.take(payload)

    row = await world.row()
    assert (taken.event_id, taken.event_type, taken.duplicate, taken.known) == ("evt_1", "invoice.paid", False, True)
    assert (row["source"], row["event_id"], row["event_type"], row["state"]) == (
        "stripe", "evt_1", "invoice.paid", "pending",
    )  # fmt: skip
    assert row["payload"] == payload
    assert row["receive_time"] == world.clock.now()
    assert row["event_time"].timestamp() == 1_773_576_000
    assert (row["api_version"], row["api_version_mismatch"]) == (API_VERSION, False)
    assert (row["delivery_count"], row["attempt_count"], row["tenant_id"]) == (1, 0, None)


async def test_while_secrets_are_replaced_both_will_do(world: WebhookWorld) -> None:
    for event_id, secret in (("evt_1", STRIPE_SECRET), ("evt_2", STRIPE_SECRET_BEFORE)):
        payload = stripe_event(event_id)
        await world.take(payload, stripe_headers(payload, world.clock.now(), secret=secret))

    assert len(await world.rows()) == 2


async def test_names_of_headers_are_taken_in_any_case(world: WebhookWorld) -> None:
    payload = stripe_event()
    ((_, value),) = stripe_headers(payload, world.clock.now()).items()

    await world.take(payload, {"STRIPE-SIGNATURE": value})

    other = stripe_event("evt_2")
    ((_, second),) = stripe_headers(other, world.clock.now()).items()
    with pytest.raises(SignatureInvalid):
        await world.take(other, {"Stripe-Signature": second, "stripe-signature": value})


async def test_a_second_delivery_is_counted_and_not_stored_again(world: WebhookWorld) -> None:
    before = metrics.webhooks_received.value("stripe", "duplicate")
    first = await world.take()
    world.clock.advance(timedelta(minutes=10))
    again = await world.take()

    assert (first.duplicate, again.duplicate) == (False, True)
    assert (await world.row())["delivery_count"] == 2
    assert metrics.webhooks_received.value("stripe", "duplicate") == before + 1


async def test_twenty_deliveries_at_once_are_one_event(world: WebhookWorld) -> None:
    taken = await asyncio.gather(*(world.take() for _ in range(20)))

    assert sorted(each.duplicate for each in taken) == [False] + [True] * 19
    assert (await world.row())["delivery_count"] == 20


async def test_a_known_id_with_other_content_is_refused_and_leaves_no_trace(world: WebhookWorld) -> None:
    payload = stripe_event()
    await world.take(payload)
    other = stripe_event(data={"object": {"id": "in_2"}})
    before = refused("content_changed")

    error = await refusal_of(world, other, stripe_headers(other, world.clock.now()))

    row = await world.row()
    assert isinstance(error, SignatureInvalid)
    assert error.facts["rule"] == "content_changed"
    assert (row["payload"], row["delivery_count"]) == (payload, 1)
    assert refused("content_changed") == before + 1


async def test_endpoints_that_still_wait_for_an_event_do_not_make_it_another_one(world: WebhookWorld) -> None:
    await world.take(stripe_event(pending_webhooks=2))

    assert (await world.take(stripe_event(pending_webhooks=1))).duplicate


async def test_one_event_in_the_words_of_two_versions_is_one_event(world: WebhookWorld) -> None:
    await world.take(stripe_event())
    older = stripe_event(api_version="2020-01-01", data={"object": {"id": "in_1", "paid": True}})
    another = stripe_event(api_version="2020-01-01", data={"object": {"id": "in_2", "paid": True}})

    assert (await world.take(older)).duplicate
    with pytest.raises(SignatureInvalid):
        await world.take(another)


async def test_an_old_webhook_is_refused_when_it_is_brought_again_whatever_became_of_it(world: WebhookWorld) -> None:
    payload = stripe_event()
    headers = stripe_headers(payload, world.clock.now())
    await world.take(payload, headers)
    before = refused("too_old")
    world.clock.advance(timedelta(seconds=301))

    error = await refusal_of(world, payload, headers)

    assert error.facts == {"source": "stripe", "rule": "too_old"}
    assert refused("too_old") == before + 1
    assert (await world.row())["delivery_count"] == 1


@pytest.mark.parametrize(
    ("rule", "at", "secret"),
    [
        ("mismatch", timedelta(0), "whsec_forged"),
        ("too_old", timedelta(seconds=-301), STRIPE_SECRET),
        ("in_future", timedelta(seconds=301), STRIPE_SECRET),
    ],
)
async def test_what_is_not_genuine_is_counted_and_nothing_of_it_is_kept_or_logged(
    world: WebhookWorld, rule: str, at: timedelta, secret: str
) -> None:
    payload = stripe_event()
    headers = stripe_headers(payload, world.clock.now() + at, secret=secret)
    before = refused(rule)

    with structlog.testing.capture_logs() as lines:
        error = await refusal_of(world, payload, headers)

    said = f"{lines} {error} {error.facts}"
    assert refused(rule) == before + 1
    assert await world.rows() == []
    assert [line["event"] for line in lines] == ["webhook_refused"]
    assert {(line["source"], line["rule"]) for line in lines} == {("stripe", rule)}
    for secret_text in ("nobody-may-log", "evt_1", "in_1", headers["Stripe-Signature"], "v1="):
        assert secret_text not in said


async def test_a_flood_of_refusals_is_counted_each_but_logged_once_a_minute(world: WebhookWorld) -> None:
    payload = stripe_event()
    before = refused("missing")

    with structlog.testing.capture_logs() as lines:
        for _ in range(50):
            await refusal_of(world, payload, {})
        world.clock.advance(timedelta(seconds=REFUSAL_LOG_SECONDS))
        await refusal_of(world, payload, {})

    assert refused("missing") == before + 51
    assert len(lines) == 2


async def test_a_genuine_body_that_is_no_event_is_refused_by_its_field(world: WebhookWorld) -> None:
    bodies = [
        b"\xff",
        b"[]",
        b'{"id": "evt_1"}',
        b'{"type": "invoice.paid"}',
        stripe_event(id=7),
        stripe_event(""),
        stripe_event("x" * 256),
        stripe_event("evt 1"),
        stripe_event(event_type=""),
        stripe_event(event_type="x" * 129),
        stripe_event(event_type="a\nb"),
        b'{"id": "evt_1", "id": "evt_2", "type": "invoice.paid"}',
        b"",
    ]
    for body in bodies:
        error = await refusal_of(world, body, stripe_headers(body, world.clock.now()))
        assert isinstance(error, InvalidRequest), body
        assert [violation.field for violation in error.violations] == ["payload"]
        assert "evt_" not in str(error)

    assert await world.rows() == []


async def test_a_body_may_have_a_mebibyte_and_no_more(world: WebhookWorld) -> None:
    room = BODY_BYTES_MAX - len(stripe_event(padding=""))
    fits, exceeds = stripe_event(padding="x" * room), stripe_event(padding="x" * (room + 1))
    assert len(fits) == BODY_BYTES_MAX

    await world.take(fits)
    error = await refusal_of(world, exceeds, stripe_headers(exceeds, world.clock.now()))

    assert isinstance(error, InvalidRequest)
    assert (await world.row())["payload"] == fits


@pytest.mark.parametrize(
    ("created", "year"),
    [
        (1_773_576_000, 2026),
        ("2026-03-15T12:00:00Z", 2026),
        ("2026-03-15T12:00:00.123456+05:30", 2026),
        (None, None),
        ("yesterday", None),
        (True, None),
        (-1, None),
        (10**40, None),
        (1e300, None),
        ("0001-01-01T00:00:00+14:00", None),
        ([], None),
    ],
)
async def test_when_it_happened_is_kept_where_it_is_an_instant(
    world: WebhookWorld, created: Any, year: int | None
) -> None:
    await world.take(stripe_event(created=created))

    event_time = (await world.row())["event_time"]
    assert (event_time.year if event_time else None) == year


async def test_a_type_that_nothing_follows_from_is_stored_and_acknowledged(world: WebhookWorld) -> None:
    taken = await world.take(stripe_event(event_type="person.sneezed"))

    row = await world.row()
    assert taken.known is False
    assert (row["state"], row["next_attempt_time"]) == ("ignored", None)
    assert await world.processor.run_due() == 0


async def test_another_version_of_the_interface_is_flagged_and_logged_once(world: WebhookWorld) -> None:
    before = metrics.webhook_version_mismatches.value("stripe")

    with structlog.testing.capture_logs() as lines:
        for event_id in ("evt_1", "evt_2"):
            await world.take(stripe_event(event_id, api_version="2020-01-01"))
    await world.take(stripe_event("evt_3", api_version=None))
    await world.take(stripe_event("evt_4", api_version=5))

    flagged = [row["api_version_mismatch"] for row in await world.rows()]
    assert flagged == [True, True, False, False]
    assert [(line["event"], line["version"]) for line in lines] == [("webhook_version_mismatch", "2020-01-01")]
    assert metrics.webhook_version_mismatches.value("stripe") == before + 2


async def test_a_source_without_a_secret_takes_nothing_and_says_which_setting_is_missing(world: WebhookWorld) -> None:
    payload = b'{"action":"social"}'

    with pytest.raises(WebhookSourceNotConfigured) as error:
        await world.intake.take(
            WebhookSource.AYRSHARE, payload, ayrshare_headers(payload, world.clock.now(), secret="")
        )

    assert error.value.facts == {"source": "ayrshare", "setting": "TALLYGATE_AYRSHARE_WEBHOOK_SECRET"}
    assert await world.rows() == []


async def test_an_event_without_an_id_of_its_own_is_known_by_its_bytes(empty_webhooks: str) -> None:
    clock = FrozenClock()
    database = Database(empty_webhooks, role=DatabaseRole.INTAKE, pool_size=2)
    intake = WebhookIntake(
        database,
        {WebhookSource.AYRSHARE: ("local",)},
        {WebhookSource.AYRSHARE: RecordingHandler(known_types=frozenset({"social"}))},
        tenants=EveryTenant(),
        clock=clock,
        answer_wait_ms=0,
    )
    try:
        first = b'{"action":"social","created":"2026-03-15T11:59:00Z"}'
        taken = [
            await intake.take(WebhookSource.AYRSHARE, body, ayrshare_headers(body, clock.now(), secret="local"))
            for body in (first, first, first + b" ")
        ]
    finally:
        await database.close()

    assert [each.duplicate for each in taken] == [False, True, False]
    assert len({each.event_id for each in taken}) == 2


async def test_svix_names_its_messages_in_a_header(world: WebhookWorld) -> None:
    payload = json.dumps({"type": "user.created", "timestamp": 1_773_576_000_123, "data": {}}).encode()

    taken = await world.intake.take(
        WebhookSource.CLERK, payload, svix_headers(payload, world.clock.now(), message_id="msg_7")
    )

    assert (taken.event_id, taken.event_type) == ("msg_7", "user.created")
    assert (await world.row())["event_time"].timestamp() == 1_773_576_000.123


async def test_the_tenant_of_the_address_is_kept_and_must_be_one(world: WebhookWorld) -> None:
    payload = stripe_event()
    headers = stripe_headers(payload, world.clock.now())

    with pytest.raises(TenantNotFound):
        await world.intake.take(STRIPE, payload, headers, "nobody")
    with pytest.raises(InvalidRequest):
        await world.intake.take(STRIPE, payload, headers, "No Tenant")
    await world.intake.take(STRIPE, payload, headers, "acme")

    assert (await world.row())["tenant_id"] == "acme"


async def test_without_postgres_the_sender_is_told_to_come_back() -> None:
    clock = FrozenClock()
    database = Database("postgresql://nobody@127.0.0.1:1/nothing", role=DatabaseRole.INTAKE)
    intake = WebhookIntake(database, {STRIPE: (STRIPE_SECRET,)}, {}, tenants=EveryTenant(), clock=clock)
    payload = stripe_event()

    try:
        with pytest.raises(StoreUnavailable):
            await intake.take(STRIPE, payload, stripe_headers(payload, clock.now()))
    finally:
        await database.close()


async def test_the_answer_waits_for_the_first_attempt_but_not_for_ever(empty_webhooks: str) -> None:
    clock = FrozenClock()
    database = Database(empty_webhooks, role=DatabaseRole.INTAKE, pool_size=2)
    first_attempts = FirstAttempts()
    woken = 0

    def wake() -> None:
        nonlocal woken
        woken += 1
        if woken == 1:
            asyncio.get_running_loop().call_soon(first_attempts.ended, (STRIPE, "evt_1"))

    intake = WebhookIntake(
        database,
        {STRIPE: (STRIPE_SECRET,)},
        {STRIPE: RecordingHandler()},
        tenants=EveryTenant(),
        clock=clock,
        first_attempts=first_attempts,
        answer_wait_ms=60_000,
        wake=wake,
    )
    impatient = WebhookIntake(
        database,
        {STRIPE: (STRIPE_SECRET,)},
        {STRIPE: RecordingHandler()},
        tenants=EveryTenant(),
        clock=clock,
        first_attempts=first_attempts,
        answer_wait_ms=20,
        wake=wake,
    )
    try:
        first, second = stripe_event("evt_1"), stripe_event("evt_2")
        async with asyncio.timeout(30):
            await intake.take(STRIPE, first, stripe_headers(first, clock.now()))
            await impatient.take(STRIPE, second, stripe_headers(second, clock.now()))
            # A duplicate has nothing to wait for.
            await intake.take(STRIPE, second, stripe_headers(second, clock.now()))
    finally:
        await database.close()

    assert woken == 2
