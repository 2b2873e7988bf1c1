"""RecordUsage: each event alone, once, in its period; what it costs, and what it counts on limits."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from random import Random
from typing import Any

import pytest

from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.identifier import AccountId, TenantId
from tallygate_server.domain.limits import EVENT_AGE_SECONDS_MAX, EVENT_AHEAD_SECONDS_MAX
from tallygate_server.domain.usage import EntryKind
from tallygate_server.domain.usage_event import AiUsage, ClientContext, UsageEvent
from tallygate_server.errors import (
    EventPropertyInvalid,
    EventTimeOutOfRange,
    InvalidRequest,
    ModelPriceNotFound,
    TallygateError,
    TenantNotFound,
)
from tallygate_server.recording import RecordOutcome
from tallygate_server.service import Service
from tallygate_server.storage.engine import DatabaseRole, connect
from tallygate_server.workers.ledger_upkeep import forget_event_keys
from tests.support.acme import (
    ANN,
    BOB,
    a_check,
    an_increment,
    assert_books_balance,
    assert_redis_agrees,
    change_plan,
    fetch,
    outcome_of,
    services,
)
from tests.support.clock import FrozenClock
from tests.support.credits import a_credit, assert_credits_balance, balances
from tests.support.recording import (
    CLOSED,
    METERED,
    NOON,
    a_call,
    a_job,
    apply_metered_catalog,
    events_in,
    metered_services,
    outcomes,
    totals,
)

MICROSECOND = timedelta(microseconds=1)
AGE_MAX = timedelta(seconds=EVENT_AGE_SECONDS_MAX)
AHEAD_MAX = timedelta(seconds=EVENT_AHEAD_SECONDS_MAX)


@pytest.fixture
async def metered_database(fresh_database: str) -> AsyncIterator[str]:
    """Make a database with the tenant `metered`; its books must balance after the test."""
    await apply_metered_catalog(fresh_database)
    yield fresh_database
    await assert_books_balance(fresh_database)


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(NOON)


@pytest.fixture
async def service(metered_database: str, fresh_redis: str, clock: FrozenClock) -> AsyncIterator[Service]:
    async with metered_services(metered_database, fresh_redis, clock=clock) as [running]:
        yield running


async def announced(database_url: str) -> list[tuple[str, int, int]]:
    connection = await connect(database_url, DatabaseRole.READER)
    try:
        await connection.execute("SELECT set_config('tallygate.tenant_id', $1, false)", METERED)
        rows = await connection.fetch("SELECT payload FROM outbox_events WHERE type LIKE 'usage.%' ORDER BY event_id")
    finally:
        await connection.close()
    payloads = [json.loads(row["payload"]) for row in rows]
    return [(each["feature_key"] + " " + each["kind"], each["threshold"], each["used_quantity"]) for each in payloads]


# --- What is recorded --------------------------------------------------------------------------------------


async def test_an_event_is_kept_with_what_it_said_and_cost(service: Service, metered_database: str) -> None:
    happened = NOON - timedelta(hours=1)
    event = a_call(
        "1", time=happened, data={"region": "eu", "n": [1, None, True, 0.5, "x"]}, client=ClientContext(user_agent="x")
    )

    [result] = await service.recorder.record(METERED, [event])

    assert result.outcome is RecordOutcome.RECORDED
    assert result.meter_keys == ("ai_cost", "requests", "tokens")
    assert (result.cost.nanos, result.cost.currency_code) == (450_000, "USD")
    [row] = await fetch(metered_database, "SELECT * FROM usage_events")
    assert (row["tenant_id"], row["account_id"], row["source"], row["event_id"]) == (METERED, ANN, "/chat", "1")
    assert (row["event_time"], row["recorded_time"]) == (happened, NOON)
    assert json.loads(row["data"]) == event.data
    assert json.loads(row["ai"]) == {
        "model_key": "small",
        "input_tokens": 1_000,
        "output_tokens": 500,
        "cached_input_tokens": 0,
        "operation": "chat",
    }
    assert json.loads(row["client"])["user_agent"] == "x"
    assert (row["cost_nanos"], row["cost_currency_code"]) == (450_000, "USD")
    assert json.loads(row["readings"]) == [
        {"meter": "ai_cost", "value": 450_000, "dimensions": {"model": "small"}},
        {"meter": "requests", "value": 1, "dimensions": {"model": "small", "region": "eu"}},
        {"meter": "tokens", "value": 1_500, "dimensions": {"model": "small", "operation": "chat"}},
    ]


async def test_an_event_without_a_time_happened_when_it_came(service: Service, metered_database: str) -> None:
    await service.recorder.record(METERED, [a_call("1")])

    [row] = await fetch(metered_database, "SELECT event_time, recorded_time FROM usage_events")
    assert row["event_time"] == row["recorded_time"] == NOON


async def test_an_event_that_no_meter_reads_is_recorded(service: Service, metered_database: str) -> None:
    event = UsageEvent(source="s", event_id="1", type="other", account_id=ANN)

    [result] = await service.recorder.record(METERED, [event])

    assert (result.outcome, result.meter_keys) == (RecordOutcome.RECORDED, ())
    assert await events_in(metered_database) == 1
    assert await totals(metered_database) == {}


async def test_readings_of_every_aggregation_are_kept(service: Service, metered_database: str) -> None:
    await service.recorder.record(METERED, [a_job("1", "0.0015", author=7)])

    [row] = await fetch(metered_database, "SELECT readings FROM usage_events")
    readings = {each["meter"]: each["value"] for each in json.loads(row["readings"])}
    assert readings == {"authors": "7", "seconds": 2, "slowest": 2}


async def test_an_unknown_tenant_fails_the_call(service: Service) -> None:
    with pytest.raises(TenantNotFound):
        await service.recorder.record(TenantId("nobody"), [a_call("1")])


# --- Once ----------------------------------------------------------------------------------------------------


async def test_the_same_event_again_counts_nothing(service: Service, metered_database: str, clock: FrozenClock) -> None:
    event = a_call("1")
    [first] = await service.recorder.record(METERED, [event])
    clock.advance(timedelta(hours=1))

    [again] = await service.recorder.record(METERED, [event])

    assert again.outcome is RecordOutcome.DUPLICATE
    assert (set(again.meter_keys), again.cost) == (set(first.meter_keys), first.cost)
    assert await events_in(metered_database) == 1
    assert (await totals(metered_database))["requests"] == 1


async def test_the_same_id_with_other_content_is_refused(service: Service, metered_database: str) -> None:
    await service.recorder.record(METERED, [a_call("1")])

    results = await service.recorder.record(METERED, [a_call("1", ai={"output_tokens": 501}), a_call("1")])

    assert outcomes(results) == ["EVENT_ID_REUSED", "duplicate"]
    error = results[0].error
    assert error is not None
    assert error.facts == {"source": "/chat", "event_id": "1", "field": "events[0].id"}
    assert (await totals(metered_database))["tokens"] == 1_500


async def test_an_id_is_unique_for_its_source_and_tenant_only(service: Service, metered_database: str) -> None:
    await apply_metered_catalog(metered_database, TenantId("second"))
    await service.recorder.record(METERED, [a_call("1")])

    here = await service.recorder.record(METERED, [replace(a_call("1"), source="/other")])
    there = await service.recorder.record(TenantId("second"), [a_call("1")])

    assert outcomes([*here, *there]) == ["recorded", "recorded"]


async def test_repetitions_inside_a_batch_count_once(service: Service, metered_database: str) -> None:
    results = await service.recorder.record(
        METERED, [a_call("1"), a_call("2"), a_call("1"), a_call("1", model="dated"), a_call("1")]
    )

    assert outcomes(results) == ["recorded", "recorded", "duplicate", "EVENT_ID_REUSED", "duplicate"]
    assert results[2].cost == results[0].cost
    assert (await totals(metered_database))["requests"] == 2


async def test_after_a_refused_event_its_id_is_free(service: Service) -> None:
    results = await service.recorder.record(METERED, [a_job("1", "x"), a_job("1", 1)])

    assert outcomes(results) == ["EVENT_PROPERTY_INVALID", "recorded"]


async def test_keys_are_forgotten_after_their_window(
    service: Service, metered_database: str, clock: FrozenClock
) -> None:
    await service.recorder.record(METERED, [a_call("1", time=NOON)])
    clock.advance(timedelta(days=35))
    kept = await forget_event_keys(service.ledger, clock, 35)
    late = outcomes(await service.recorder.record(METERED, [a_call("1", time=NOON)]))
    clock.advance(MICROSECOND)

    forgotten = await forget_event_keys(service.ledger, clock, 35)

    assert (kept, late, forgotten) == ({}, ["duplicate"], {"event_keys_forgotten": 1})
    # Too old to come again as it was.
    assert outcomes(await service.recorder.record(METERED, [a_call("1", time=NOON)])) == ["EVENT_TIME_OUT_OF_RANGE"]
    assert outcomes(await service.recorder.record(METERED, [a_call("1")])) == ["recorded"]


async def test_one_batch_from_ten_callers_is_counted_once(
    metered_database: str, fresh_redis: str, clock: FrozenClock
) -> None:
    batch = [a_call(str(n), account_id=f"a{n % 3}") for n in range(60)]
    async with metered_services(metered_database, fresh_redis, 2, clock=clock) as pair:
        # In different orders, as two senders would have them.
        results = await asyncio.gather(
            *(pair[n % 2].recorder.record(METERED, batch if n % 3 else batch[::-1]) for n in range(10))
        )

        counted = [outcome for batch_results in results for outcome in outcomes(batch_results)]
        assert counted.count("recorded") == 60
        assert counted.count("duplicate") == 540
        assert await events_in(metered_database) == 60
        for account_id in ("a0", "a1", "a2"):
            assert (await totals(metered_database, account_id=account_id))["requests"] == 20
        await assert_redis_agrees(pair[0], metered_database)


# --- In its time ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "outcome"),
    [
        (-AGE_MAX, "recorded"),
        (-AGE_MAX - MICROSECOND, "EVENT_TIME_OUT_OF_RANGE"),
        (AHEAD_MAX, "recorded"),
        (AHEAD_MAX + MICROSECOND, "EVENT_TIME_OUT_OF_RANGE"),
    ],
)
async def test_events_are_taken_from_35_days_ago_to_5_minutes_ahead(
    service: Service, offset: timedelta, outcome: str
) -> None:
    # No limit hangs on it, so no period is over for it.
    event = UsageEvent(source="s", event_id="1", type="other", account_id=ANN, time=NOON + offset)

    [result] = await service.recorder.record(METERED, [event])

    assert outcomes([result]) == [outcome]
    if result.error is not None:
        assert isinstance(result.error, EventTimeOutOfRange)
        facts = {"event_id": "1", "event_time": (NOON + offset).isoformat(), "field": "events[0].time"}
        assert result.error.facts == facts


async def test_a_late_event_counts_in_the_period_of_its_time(service: Service, metered_database: str) -> None:
    await service.recorder.record(METERED, [a_job("1", 1, time=NOON), a_job("2", 2, time=NOON - timedelta(hours=13))])

    rows = await fetch(metered_database, "SELECT period_start, used_quantity FROM usage_counters ORDER BY period_start")
    midnight = NOON.replace(hour=0)
    assert [tuple(row) for row in rows] == [(midnight - timedelta(days=1), 2_000), (midnight, 1_000)]


@pytest.mark.parametrize(("over_for", "outcome"), [(0, "recorded"), (1, "EVENT_TIME_OUT_OF_RANGE")])
@pytest.mark.parametrize("hours", [None, 3])
async def test_a_period_takes_events_until_it_has_been_over_for_the_window(
    fresh_database: str, fresh_redis: str, hours: int | None, over_for: int, outcome: str
) -> None:
    """To the microsecond: a day ended at midnight. Without a window of the tenant it is a day."""
    await apply_metered_catalog(fresh_database, more="" if hours is None else f"late_event_window: {hours}h\n")
    window = timedelta(hours=24 if hours is None else hours)
    midnight = NOON.replace(hour=0)
    clock = FrozenClock(midnight + window + over_for * MICROSECOND)
    async with metered_services(fresh_database, fresh_redis, clock=clock) as [service]:
        results = await service.recorder.record(
            METERED, [a_job("1", 1, time=midnight - MICROSECOND), a_job("2", 1, time=midnight)]
        )

    assert outcomes(results) == [outcome, "recorded"]


async def test_an_event_at_the_boundary_counts_in_the_period_that_begins(
    service: Service, metered_database: str
) -> None:
    midnight = NOON.replace(hour=0)

    await service.recorder.record(METERED, [a_job("1", 1, time=midnight - MICROSECOND), a_job("2", 2, time=midnight)])

    rows = await fetch(metered_database, "SELECT period_start, used_quantity FROM usage_counters ORDER BY period_start")
    assert [tuple(row) for row in rows] == [(midnight - timedelta(days=1), 1_000), (midnight, 2_000)]


async def test_what_counts_on_no_limit_is_never_too_late(service: Service, metered_database: str) -> None:
    """A value of 0 moves no counter, and neither does an event that no limit reads."""
    long_ago = NOON - timedelta(days=20)
    results = await service.recorder.record(
        METERED,
        [
            a_job("1", 0, time=long_ago),
            a_job("2", 1, time=long_ago),
            UsageEvent(source="s", event_id="3", type="other", account_id=ANN, time=long_ago),
        ],
    )

    assert outcomes(results) == ["recorded", "EVENT_TIME_OUT_OF_RANGE", "recorded"]
    assert await totals(metered_database) == {}


async def test_a_repetition_is_known_even_when_it_would_be_too_late(
    service: Service, metered_database: str, clock: FrozenClock
) -> None:
    event = a_job("1", 1, time=NOON)
    await service.recorder.record(METERED, [event])
    clock.advance(timedelta(days=3))

    results = await service.recorder.record(METERED, [event, a_job("2", 1, time=NOON)])

    assert outcomes(results) == ["duplicate", "EVENT_TIME_OUT_OF_RANGE"]
    assert await totals(metered_database) == {"seconds": 1_000}


# --- Good ones land, bad ones are named --------------------------------------------------------------------


async def test_bad_events_are_named_and_good_ones_land(service: Service, metered_database: str) -> None:
    broken: TallygateError = InvalidRequest.of("events[1].id", "is empty")
    events: list[UsageEvent | TallygateError] = [
        a_call("1"),
        broken,
        a_job("2", "many"),
        a_job("3", author=["ann"]),
        a_call("4", model="dated", time=datetime(2026, 3, 11, tzinfo=UTC)),
        a_call("5", time=NOON + timedelta(hours=1)),
        a_call("6"),
        UsageEvent(source="/chat", event_id="7", type="llm.call", account_id=ANN),
    ]

    results = await service.recorder.record(METERED, events)

    assert outcomes(results) == [
        "recorded",
        "VALIDATION_FAILED",
        "EVENT_PROPERTY_INVALID",
        "EVENT_PROPERTY_INVALID",
        "MODEL_PRICE_NOT_FOUND",
        "EVENT_TIME_OUT_OF_RANGE",
        "recorded",
        "EVENT_PROPERTY_INVALID",
    ]
    errors = [result.error for result in results]
    assert errors[1] is broken
    assert isinstance(errors[2], EventPropertyInvalid)
    assert errors[2].facts == {
        "event_id": "2",
        "meter_key": "seconds",
        "property": "timing.seconds",
        "field": "events[2].data.timing.seconds",
    }
    assert isinstance(errors[3], EventPropertyInvalid)
    assert (errors[3].facts["meter_key"], errors[3].facts["property"]) == ("authors", "author")
    assert isinstance(errors[4], ModelPriceNotFound)
    assert errors[4].facts == {
        "model_key": "dated",
        "event_time": "2026-03-11T00:00:00+00:00",
        "field": "events[4].ai.model_key",
    }
    assert isinstance(errors[7], EventPropertyInvalid)
    assert errors[7].facts["property"] == "ai.cost_nanos"
    assert await events_in(metered_database) == 2
    assert (await totals(metered_database))["requests"] == 2


async def test_a_batch_of_bad_events_is_an_answer(service: Service, metered_database: str) -> None:
    results = await service.recorder.record(METERED, [a_job("1", "x"), a_job("2", None)])

    assert outcomes(results) == ["EVENT_PROPERTY_INVALID", "EVENT_PROPERTY_INVALID"]
    assert await events_in(metered_database) == 0


async def test_an_unknown_account_is_made_where_the_tenant_allows_that(service: Service, metered_database: str) -> None:
    await apply_metered_catalog(metered_database, CLOSED, auto_provision=False)
    await service.accounts.identify(CLOSED, [], account_id=BOB)

    here = await service.recorder.record(METERED, [a_call("1", account_id="new")])
    there = await service.recorder.record(CLOSED, [a_call("1", account_id="new"), a_call("2", account_id=BOB)])

    assert outcomes(here) == ["recorded"]
    assert outcomes(there) == ["ACCOUNT_NOT_FOUND", "recorded"]
    assert there[0].error is not None
    assert there[0].error.facts == {"account_id": "new", "field": "events[0].subject"}


async def test_a_suspended_account_is_recorded(service: Service, metered_database: str) -> None:
    await service.accounts.identify(METERED, [], account_id=ANN)
    await service.accounts.suspend(METERED, ANN, suspend=True, reason="", actor="test")

    results = await service.recorder.record(METERED, [a_call("1")])

    assert outcomes(results) == ["recorded"]
    assert (await totals(metered_database))["requests"] == 1


# --- What it costs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "at", "nanos", "currency"),
    [
        ("small", "2026-03-14", 450_000, "USD"),
        ("dated", "2026-03-09", 2_000_000, "USD"),
        ("dated", "2026-03-12", 4_000_000, "EUR"),
        ("unheard-of", "2026-03-14", 0, ""),
    ],
)
async def test_an_event_costs_what_the_price_at_its_time_says(
    service: Service, model: str, at: str, nanos: int, currency: str
) -> None:
    """Of a model without any price nothing is known, so it costs nothing; no daily limit hangs on this account."""
    await service.accounts.identify(METERED, [], account_id=ANN)
    await change_plan(service, "pro", tenant_id=METERED)
    happened = datetime.fromisoformat(at).replace(hour=12, tzinfo=UTC)
    event = replace(a_call("1", model=model, time=happened), type="llm.unmetered")

    [result] = await service.recorder.record(METERED, [event])

    assert result.outcome is RecordOutcome.RECORDED
    assert (result.cost.nanos, result.cost.currency_code) == (nanos, currency)


async def test_cached_tokens_cost_less(service: Service) -> None:
    event = a_call("1", ai={"cached_input_tokens": 600})

    [result] = await service.recorder.record(METERED, [event])

    # 400 x 0.15 + 600 x 0.075 + 500 x 0.60 dollars a million.
    assert result.cost.nanos == 60_000 + 45_000 + 300_000


# --- What it counts on limits ------------------------------------------------------------------------------


async def test_events_count_on_every_limit_that_hangs_on_their_meters(service: Service, metered_database: str) -> None:
    await service.recorder.record(
        METERED, [a_call("1"), a_call("2", ai={"operation": "summary"}), a_job("3", "1.0005"), a_job("4", 2)]
    )

    assert await totals(metered_database) == {
        "requests": 2,
        "soft_requests": 2,
        # The meter's filter keeps one of them out.
        "tokens": 1_500,
        "ai_cost": 900_000,
        "seconds": 1_000 + 2_000,
    }
    rows = await fetch(metered_database, "SELECT * FROM usage_entries WHERE feature_key = 'tokens'")
    assert [(row["kind"], row["quantity"], row["used_after"], row["limit_quantity"]) for row in rows] == [
        (EntryKind.EVENT, 1_500, 1_500, 10_000)
    ]
    assert json.loads(rows[0]["dimensions"]) == {"model": "small", "operation": "chat"}
    assert (rows[0]["event_time"], rows[0]["plan_key"]) == (NOON, "free")
    await assert_redis_agrees(service, metered_database)


async def test_checks_and_increments_see_what_was_recorded(service: Service, metered_database: str) -> None:
    # Redis knows the counter before.
    assert (await service.checker.check(a_check("requests", tenant_id=METERED))).used_quantity == 0

    await service.recorder.record(METERED, [a_call(str(n)) for n in range(7)])

    check = await service.checker.check(a_check("requests", 4, tenant_id=METERED))
    increment = await service.meter.increment(an_increment("requests", 3, tenant_id=METERED))
    assert (check.reason, check.used_quantity, check.remaining_quantity) == (Reason.EXHAUSTED, 7, 3)
    assert (increment.reason, increment.used_quantity) == (Reason.OK, 10)
    await assert_redis_agrees(service, metered_database)


async def test_events_go_beyond_a_hard_limit_and_exhaust_it(service: Service, metered_database: str) -> None:
    """What happened, happened."""
    results = await service.recorder.record(METERED, [a_call(str(n)) for n in range(12)])

    assert set(outcomes(results)) == {"recorded"}
    check = await service.checker.check(a_check("requests", tenant_id=METERED))
    increment = await service.meter.increment(an_increment("requests", tenant_id=METERED))
    assert (check.reason, check.used_quantity, check.remaining_quantity) == (Reason.EXHAUSTED, 12, 0)
    assert (increment.reason, increment.used_quantity) == (Reason.EXHAUSTED, 12)
    # More may still happen.
    assert outcomes(await service.recorder.record(METERED, [a_call("x")])) == ["recorded"]
    assert (await totals(metered_database))["requests"] == 13


async def test_the_cost_of_ai_can_be_a_limit(service: Service, metered_database: str) -> None:
    """Each call costs 450,000 nanos; the limit is a thousandth of a dollar."""
    allowed = []
    for n in range(4):
        allowed.append((await service.checker.check(a_check("ai_cost", tenant_id=METERED))).reason.allows)
        await service.recorder.record(METERED, [a_call(str(n), ai={"operation": "other"})])

    assert allowed == [True, True, True, False]
    assert (await totals(metered_database))["ai_cost"] == 1_800_000
    assert [each for each in await announced(metered_database) if each[0].startswith("ai_cost")] == [
        ("ai_cost percent", 50, 900_000),
        ("ai_cost exhausted", 1_000_000, 1_350_000),
    ]


async def test_thresholds_are_crossed_once_by_the_event_that_crosses_them(
    metered_database: str, fresh_redis: str, clock: FrozenClock
) -> None:
    async with metered_services(metered_database, fresh_redis, 2, clock=clock) as pair:
        await asyncio.gather(
            *(pair[n % 2].recorder.record(METERED, [a_call(f"{n}-{m}") for m in range(2)]) for n in range(8))
        )

    crossed = await announced(metered_database)
    assert sorted(each for each in crossed if each[0].startswith("requests")) == [
        ("requests exhausted", 10, 10),
        ("requests percent", 80, 8),
        ("requests percent", 100, 10),
    ]
    assert [each for each in crossed if each[0].startswith("soft")] == [("soft_requests percent", 100, 2)]
    assert sorted(each for each in crossed if each[0].startswith("tokens")) == [
        ("tokens exhausted", 10_000, 10_500),
        ("tokens percent", 50, 6_000),
        ("tokens quantity", 5_000, 6_000),
    ]


async def test_only_features_that_the_account_has_are_counted(service: Service, metered_database: str) -> None:
    await service.accounts.identify(METERED, [], account_id=ANN)
    await change_plan(service, "pro", tenant_id=METERED)

    await service.recorder.record(METERED, [a_call("1")])

    assert await totals(metered_database) == {"requests": 1, "pro_requests": 1}


async def test_a_negative_value_is_refused_where_a_limit_hangs_on_the_meter(service: Service) -> None:
    [result] = await service.recorder.record(METERED, [a_job("1", -1)])

    assert isinstance(result.error, EventPropertyInvalid)
    assert "below 0" in result.error.message


async def test_a_total_beyond_64_bits_is_refused(service: Service, metered_database: str) -> None:
    """The rest of the batch lands."""
    most = (2**63 - 1) // 1_000
    results = await service.recorder.record(METERED, [a_job("1", most), a_job("2", most), a_job("3", "0.807")])

    assert outcomes(results) == ["recorded", "EVENT_PROPERTY_INVALID", "recorded"]
    assert await totals(metered_database) == {"seconds": 2**63 - 1}
    assert results[1].error is not None
    assert "64 bits" in results[1].error.message


async def test_events_and_increments_of_one_counter_add_up(service: Service, metered_database: str) -> None:
    """They meet at the same counter, from the fast path and from the exact one."""
    await service.recorder.record(METERED, [a_call("first")])

    done = await asyncio.gather(
        *(service.recorder.record(METERED, [a_call(f"{n}-{m}") for m in range(5)]) for n in range(6)),
        *(outcome_of(service, an_increment("soft_requests", tenant_id=METERED)) for _ in range(40)),
    )

    assert len(done) == 46
    assert (await totals(metered_database))["soft_requests"] == 1 + 30 + 40
    await assert_redis_agrees(service, metered_database)


async def test_the_totals_are_right_after_redis_forgot(service: Service, servers: Any, metered_database: str) -> None:
    await service.recorder.record(METERED, [a_call("1")])
    await servers.flush_redis()

    await service.recorder.record(METERED, [a_call("2")])

    assert (await service.checker.check(a_check("requests", tenant_id=METERED))).used_quantity == 2
    await servers.flush_redis()
    assert (await service.checker.check(a_check("requests", tenant_id=METERED))).used_quantity == 2


# --- Listing ------------------------------------------------------------------------------------------------


async def test_events_are_listed_newest_first_page_by_page(service: Service) -> None:
    await service.recorder.record(METERED, [a_call(str(n), account_id=f"a{n % 2}") for n in range(5)])
    first = await service.usage_events.page(METERED, limit=3)
    second = await service.usage_events.page(METERED, before_event_key=first[-1].event_key, limit=3)

    assert [row.event_id for row in first] == ["4", "3", "2"]
    assert [row.event_id for row in second] == ["1", "0"]
    assert first[0].meter_keys == ("ai_cost", "requests", "tokens")
    assert first[0].cost_nanos == 450_000


async def test_events_are_found_by_each_filter(service: Service) -> None:
    hour = timedelta(hours=1)
    await service.recorder.record(
        METERED,
        [
            a_call("1", time=NOON - 2 * hour),
            a_call("2", account_id=BOB, time=NOON - hour),
            a_job("3", time=NOON),
            a_job("4", account_id=BOB, time=NOON),
        ],
    )

    async def found(**filters: Any) -> list[str]:
        return [row.event_id for row in await service.usage_events.page(METERED, limit=10, **filters)]

    assert await found() == ["4", "3", "2", "1"]
    assert await found(account_id=BOB) == ["4", "2"]
    assert await found(event_type="llm.call") == ["2", "1"]
    assert await found(source="/jobs") == ["4", "3"]
    assert await found(event_id="3") == ["3"]
    assert await found(start=NOON - hour) == ["4", "3", "2"]
    assert await found(end=NOON) == ["2", "1"]
    assert await found(start=NOON - hour, end=NOON, account_id=BOB) == ["2"]
    assert await found(start=NOON + MICROSECOND) == []


async def test_events_of_another_tenant_are_not_listed(service: Service, metered_database: str) -> None:
    await apply_metered_catalog(metered_database, TenantId("second"))
    await service.recorder.record(METERED, [a_call("1")])

    assert await service.usage_events.page(TenantId("second"), limit=10) == []
    with pytest.raises(TenantNotFound):
        await service.usage_events.page(TenantId("nobody"), limit=10)


@pytest.mark.parametrize("role", [DatabaseRole.APP, DatabaseRole.READER])
async def test_rows_of_another_tenant_are_not_seen(service: Service, metered_database: str, role: DatabaseRole) -> None:
    await service.recorder.record(METERED, [a_call("1")])
    connection = await connect(metered_database, role)
    try:
        for tenant_id, seen in (("", 0), ("second", 0), (METERED, 1)):
            await connection.execute("SELECT set_config('tallygate.tenant_id', $1, false)", tenant_id)
            for table in ("usage_events", "usage_event_keys"):
                assert await connection.fetchval(f"SELECT count(*) FROM {table}") == seen, (table, tenant_id)
    finally:
        await connection.close()


async def test_a_batch_of_a_thousand_is_taken(service: Service, metered_database: str) -> None:
    events = [a_call(str(n), account_id=f"a{n % 50}") for n in range(1_000)]

    results = await service.recorder.record(METERED, events)

    assert set(outcomes(results)) == {"recorded"}
    assert await events_in(metered_database) == 1_000
    assert (await totals(metered_database, account_id="a7"))["tokens"] == 20 * 1_500


def test_ai_usage_adds_up() -> None:
    assert AiUsage(model_key="m", input_tokens=2, output_tokens=3).total_tokens == 5


async def test_two_servers_agree(metered_database: str, fresh_redis: str) -> None:
    clock = FrozenClock(NOON)
    async with services(metered_database, fresh_redis, 2, clock=clock) as [one, other]:
        await one.recorder.record(METERED, [a_call("1")])

        again = await other.recorder.record(METERED, [a_call("1"), a_call("2")])

        assert outcomes(again) == ["duplicate", "recorded"]
        check = await one.checker.check(a_check("requests", tenant_id=METERED, account_id=AccountId(ANN)))
        assert check.used_quantity == 2


# --- Credits ------------------------------------------------------------------------------------------------


async def test_credits_pay_after_the_allowance_and_the_rest_counts_all_the_same(
    service: Service, metered_database: str
) -> None:
    await service.accounts.identify(METERED, [], account_id=ANN)
    credit = await service.grants.create(METERED, ANN, a_credit(3, feature="requests"), actor="test")

    results = await service.recorder.record(METERED, [a_call(str(n)) for n in range(15)])

    assert set(outcomes(results)) == {"recorded"}
    assert list((await balances(metered_database)).values()) == [(3, 3)]
    rows = await fetch(
        metered_database, "SELECT used_after, credits FROM usage_entries WHERE feature_key = 'requests' ORDER BY 1"
    )
    paid = {row["used_after"]: json.loads(row["credits"]) for row in rows if row["credits"] is not None}
    assert sorted(paid) == [11, 12, 13]
    assert {burn[0] for burns in paid.values() for burn in burns} == {credit.grant.grant_id}
    check = await service.checker.check(a_check("requests", tenant_id=METERED))
    assert (check.reason, check.used_quantity, check.remaining_quantity) == (Reason.EXHAUSTED, 15, 0)
    assert not (await service.meter.increment(an_increment("requests", tenant_id=METERED))).reason.allows
    await assert_credits_balance(metered_database)
    crossed = [each for each in await announced(metered_database) if each[0].startswith("requests")]
    assert [each[0] for each in crossed].count("requests exhausted") == 1


async def test_one_batch_from_many_callers_burns_a_credit_once(
    metered_database: str, fresh_redis: str, clock: FrozenClock
) -> None:
    async with metered_services(metered_database, fresh_redis, 2, clock=clock) as pair:
        await pair[0].accounts.identify(METERED, [], account_id=ANN)
        await pair[0].grants.create(METERED, ANN, a_credit(100, feature="requests"), actor="test")
        batch = [a_call(str(n)) for n in range(20)]

        await asyncio.gather(*(pair[n % 2].recorder.record(METERED, batch) for n in range(6)))

        assert list((await balances(metered_database)).values()) == [(100, 10)]
        check = await pair[0].checker.check(a_check("requests", tenant_id=METERED))
        assert (check.used_quantity, check.remaining_quantity) == (20, 90)
    await assert_credits_balance(metered_database)


# --- All together -------------------------------------------------------------------------------------------


async def test_a_stream_in_disorder_agrees_with_a_recount(
    metered_database: str, fresh_redis: str, clock: FrozenClock
) -> None:
    """Late, repeated, contradicting and broken events, from six senders over two servers."""
    random = Random(2026)
    yesterday = NOON - timedelta(hours=20)
    events = [
        a_call(
            f"{n}",
            account_id=random.choice(("ann", "bob", "cid")),
            model=random.choice(("small", "small", "unheard-of")),
            time=random.choice((None, NOON, yesterday, NOON + timedelta(minutes=4))),
            data=random.choice((None, {"region": "eu"}, {"region": random.choice(("us", ["no", "text"]))})),
            ai={
                "input_tokens": (tokens := random.randrange(100_000)),
                "cached_input_tokens": random.randrange(tokens + 1),
                "output_tokens": random.randrange(10_000),
                "operation": random.choice(("chat", "rewrite", "summary", "")),
            },
        )
        for n in range(200)
    ]
    contradicting = [replace(each, data={"region": "xx"}) for each in random.sample(events, 30)]

    def shuffled() -> list[UsageEvent]:
        return random.sample([*events, *contradicting], k=150)

    async with metered_services(metered_database, fresh_redis, 2, clock=clock) as pair:
        sent = [shuffled() for _ in range(6)]
        answers = await asyncio.gather(*(pair[n % 2].recorder.record(METERED, batch) for n, batch in enumerate(sent)))

        stored = {row["event_id"]: row for row in await fetch(metered_database, "SELECT * FROM usage_events")}
        by_outcome: Counter[str] = Counter()
        for batch, results in zip(sent, answers, strict=True):
            for event, result in zip(batch, results, strict=True):
                said = outcomes([result])[0]
                by_outcome[said] += 1
                kept = json.loads(stored[event.event_id]["data"] or "null") if event.event_id in stored else ()
                assert (said in ("recorded", "duplicate")) == (kept == event.data), (event, said)
        assert by_outcome["recorded"] == len(stored) == await events_in(metered_database)
        assert {"duplicate", "EVENT_ID_REUSED", "EVENT_PROPERTY_INVALID"} <= by_outcome.keys()

        expected: Counter[tuple[str, str, datetime]] = Counter()
        day, month = NOON.replace(hour=0), NOON.replace(day=1, hour=0)
        for row in stored.values():
            ai = json.loads(row["ai"])
            account_id, happened = row["account_id"], row["event_time"]
            cost = Fraction(0)
            if ai["model_key"] == "small":
                fresh = ai["input_tokens"] - ai["cached_input_tokens"]
                cost = fresh * Fraction("0.15") + ai["cached_input_tokens"] * Fraction("0.075")
                cost += ai["output_tokens"] * Fraction("0.6")
            nanos = round(cost * 1_000)
            assert row["cost_nanos"] == nanos
            expected[account_id, "requests", day if happened >= day else day - timedelta(days=1)] += 1
            expected[account_id, "soft_requests", month] += 1
            expected[account_id, "ai_cost", month] += nanos
            if ai["operation"] in ("chat", "rewrite"):
                expected[account_id, "tokens", month] += ai["input_tokens"] + ai["output_tokens"]
        counters = await fetch(metered_database, "SELECT * FROM usage_counters WHERE used_quantity > 0")
        counted = {
            (row["account_id"], row["feature_key"], row["period_start"]): row["used_quantity"] for row in counters
        }
        assert counted == {key: total for key, total in expected.items() if total}
        await assert_redis_agrees(pair[0], metered_database)
