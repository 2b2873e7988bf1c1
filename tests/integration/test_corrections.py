"""Usage that was counted wrongly is taken back, or put right: once, within bounds, and seen by everybody."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tallygate_server.catalog import CatalogSource
from tallygate_server.corrections import Correction, CorrectionAnswer, Reversal, ReversalAnswer, use_cases
from tallygate_server.corrections.attempts import Attempt
from tallygate_server.domain.call import IncrementAnswer
from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.domain.usage import EntryKind
from tallygate_server.errors import (
    AccountNotFound,
    EntryAlreadyReversed,
    EntryNotFound,
    FeatureNotFound,
    FeatureNotMetered,
    InvalidRequest,
    OutcomeUnknown,
    Overloaded,
    PeriodClosed,
    RequestIdReused,
    StoreUnavailable,
    TallygateError,
)
from tallygate_server.service import Service
from tallygate_server.storage.engine import DatabaseRole, connect
from tallygate_server.storage.ledger import ExactTransaction, GroupRefused
from tests.support import credits as credit
from tests.support.acme import (
    ACME,
    ANN,
    BOB,
    a_check,
    an_increment,
    assert_books_balance,
    fetch,
    redis_counters,
    services,
)
from tests.support.clock import FrozenClock
from tests.support.eventually import eventually
from tests.support.faulty_proxy import postgres_proxy

NOON = datetime(2026, 3, 15, 12, 0, tzinfo=UTC)
STRICT = TenantId("strict")

LENIENT_CATALOG = """
tenant: {tenant}
default_plan: free
auto_provision: true
closed_period_corrections: {corrections}
features: {{words: counter, ten: counter, open: counter, devices: gauge, export: boolean, gold: counter}}
plans:
  free:
    rank: 0
    allowances:
      words: {{limit: 1000, period: day, thresholds: [50%, 80%]}}
      ten: {{limit: 10, period: day}}
      open: {{limit: unlimited, period: lifetime}}
      devices: 5
      export: on
"""


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(NOON)


@pytest.fixture
async def pair(acme_database: str, fresh_redis: str, clock: FrozenClock) -> AsyncIterator[list[Service]]:
    """Two servers on the same stores, at the same moment; ended periods may be corrected."""
    async with services(acme_database, fresh_redis, 2, clock=clock) as both:
        for tenant_id, corrections in ((ACME, "true"), (STRICT, "false")):
            text = LENIENT_CATALOG.format(tenant=tenant_id, corrections=corrections)
            await both[0].catalogs.apply(CatalogSource(text))
            await both[1].tenants.refresh(tenant_id)
        yield both


async def count(service: Service, feature_key: str = "ten", quantity: int = 1, **more: Any) -> IncrementAnswer:
    answer = await service.meter.increment(an_increment(feature_key, quantity, **more))
    assert answer.reason.allows, answer
    return answer


async def be_denied(service: Service, quantity: int, feature_key: str = "ten", **more: Any) -> None:
    answer = await service.meter.increment(an_increment(feature_key, quantity, **more))
    assert answer.reason is Reason.EXHAUSTED


def a_reversal(entry_id: int | str, quantity: int | None = None, **more: Any) -> Reversal:
    given = {"tenant_id": ACME, "account_id": ANN, "reason_text": "counted twice", "actor": "eve"} | more
    return Reversal(entry_id=str(entry_id), quantity=quantity, **given)


def a_correction(feature_key: str, quantity: int, **more: Any) -> Correction:
    given = {"tenant_id": ACME, "account_id": ANN, "reason_text": "by hand", "actor": "eve"} | more
    return Correction(feature_key=FeatureKey(feature_key), quantity=quantity, **given)


async def used_now(service: Service, feature_key: str = "ten", account_id: AccountId = ANN) -> int:
    return (await service.usage.usage(ACME, account_id, FeatureKey(feature_key))).used_quantity


async def denials_are_written(database_url: str, number: int) -> None:
    async def written() -> bool:
        return len(await fetch(database_url, "SELECT FROM usage_denials")) == number

    await eventually(written)


# --- Reversals --------------------------------------------------------------------------------------------


async def test_a_reversal_is_a_line_of_its_own(pair: list[Service], acme_database: str) -> None:
    first, second = pair
    wrong = await count(first, "ten", 7, dimensions={"model": "quill"}, event_time=NOON - timedelta(hours=2))

    answer = await first.corrections.reverse(a_reversal(wrong.entry_id))

    entry = answer.entry
    assert (entry.kind, entry.quantity, entry.used_after) == (EntryKind.REVERSAL, -7, 0)
    assert (entry.reversed_entry_id, entry.reason_text, entry.actor) == (wrong.entry_id, "counted twice", "eve")
    assert (entry.plan_key, entry.dimensions) == ("free", {"model": "quill"})
    assert (entry.event_time, entry.recorded_time) == (NOON - timedelta(hours=2), NOON)
    assert answer.reversible_quantity == 0
    assert (answer.usage.used_quantity, answer.usage.limit_quantity, answer.usage.reason) == (0, 10, Reason.OK)
    assert answer.usage.period_start == datetime(2026, 3, 15, tzinfo=UTC)
    assert (answer.redeemable_denials, answer.redeemable_denial_count) == ((), 0)
    assert not answer.replayed
    listed = await second.usage.entries(ACME, ANN, limit=10)
    assert listed[0] == entry
    assert (listed[1].kind, listed[1].quantity) == (EntryKind.INCREMENT, 7)
    # Every server lets ten more through, and no more.
    await count(second, "ten", 10)
    await be_denied(first, 1)
    await assert_books_balance(acme_database)


async def test_parts_are_taken_back_until_nothing_is_left(pair: list[Service], acme_database: str) -> None:
    wrong = await count(pair[0], "ten", 6)
    await count(pair[0], "ten", 4)

    one = await pair[0].corrections.reverse(a_reversal(wrong.entry_id, 2))
    two = await pair[1].corrections.reverse(a_reversal(wrong.entry_id, 3))
    with pytest.raises(EntryAlreadyReversed) as too_much:
        await pair[1].corrections.reverse(a_reversal(wrong.entry_id, 2))
    rest = await pair[0].corrections.reverse(a_reversal(wrong.entry_id))
    with pytest.raises(EntryAlreadyReversed) as again:
        await pair[0].corrections.reverse(a_reversal(wrong.entry_id))

    assert [each.reversible_quantity for each in (one, two, rest)] == [4, 1, 0]
    assert [each.entry.quantity for each in (one, two, rest)] == [-2, -3, -1]
    assert [each.usage.used_quantity for each in (one, two, rest)] == [8, 5, 4]
    assert too_much.value.facts["reversible_quantity"] == "1"
    assert again.value.facts["reversible_quantity"] == "0"
    await assert_books_balance(acme_database)


async def test_two_reversals_of_one_line_at_once_never_take_back_too_much(
    pair: list[Service], acme_database: str
) -> None:
    wrong = await count(pair[0], "ten", 9)

    outcomes = await asyncio.gather(
        *(pair[n % 2].corrections.reverse(a_reversal(wrong.entry_id, 4)) for n in range(6)), return_exceptions=True
    )

    assert len([each for each in outcomes if isinstance(each, ReversalAnswer)]) == 2
    assert len([each for each in outcomes if isinstance(each, EntryAlreadyReversed)]) == 4
    assert await used_now(pair[1]) == 1
    await assert_books_balance(acme_database)


async def test_the_same_request_is_one_reversal(pair: list[Service], acme_database: str) -> None:
    wrong = await count(pair[0], "ten", 9)
    wanted = a_reversal(wrong.entry_id, 4, request_id="fix-1")

    answers = await asyncio.gather(*(pair[n % 2].corrections.reverse(wanted) for n in range(4)))
    await count(pair[0], "ten", 1)
    later = await pair[1].corrections.reverse(wanted)

    assert sorted(each.replayed for each in answers) == [False, True, True, True]
    assert {each.entry.entry_id for each in (*answers, later)} == {answers[0].entry.entry_id}
    assert later.replayed
    assert (later.reversible_quantity, later.usage.used_quantity) == (5, 5)
    assert await used_now(pair[0]) == 6
    for other in (
        a_reversal(wrong.entry_id, 3, request_id="fix-1"),
        a_reversal(wrong.entry_id, 4, request_id="fix-1", reason_text="another"),
    ):
        with pytest.raises(RequestIdReused):
            await pair[0].corrections.reverse(other)
    with pytest.raises(RequestIdReused):
        await pair[0].corrections.correct(a_correction("ten", 1, request_id="fix-1"))
    with pytest.raises(RequestIdReused):
        await pair[0].meter.increment(an_increment("ten", 1, request_id="fix-1"))
    await assert_books_balance(acme_database)


@pytest.mark.parametrize("entry_id", ["1", "0", "07", "-5", "x", "9" * 30, "٣"])
async def test_what_names_no_line_of_the_account_is_not_found(pair: list[Service], entry_id: str) -> None:
    await count(pair[0])

    with pytest.raises(EntryNotFound):
        await pair[0].corrections.reverse(a_reversal(entry_id))


async def test_a_line_of_another_account_is_not_found(pair: list[Service]) -> None:
    wrong = await count(pair[0])
    await count(pair[0], account_id=BOB)

    with pytest.raises(EntryNotFound):
        await pair[0].corrections.reverse(a_reversal(wrong.entry_id, account_id=BOB))


async def test_only_what_was_counted_can_be_taken_back(pair: list[Service]) -> None:
    wrong = await count(pair[0], "devices", 3)
    down = await count(pair[0], "devices", -1)
    reversal = await pair[0].corrections.reverse(a_reversal(wrong.entry_id, 1))

    for entry_id in (down.entry_id, reversal.entry.entry_id):
        with pytest.raises(EntryAlreadyReversed, match="takes usage back itself"):
            await pair[0].corrections.reverse(a_reversal(entry_id))


async def test_a_total_never_falls_below_zero(pair: list[Service], acme_database: str) -> None:
    wrong = await count(pair[0], "devices", 3)
    await count(pair[0], "devices", -2)

    with pytest.raises(EntryAlreadyReversed) as refused:
        await pair[0].corrections.reverse(a_reversal(wrong.entry_id, 2))
    answer = await pair[0].corrections.reverse(a_reversal(wrong.entry_id))

    assert refused.value.facts["reversible_quantity"] == "1"
    assert (answer.entry.quantity, answer.usage.used_quantity, answer.reversible_quantity) == (-1, 0, 0)
    assert answer.usage.period_end is None
    await assert_books_balance(acme_database)


async def test_redis_hears_of_a_falling_total_before_the_answer(pair: list[Service]) -> None:
    wrong = await count(pair[0], "ten", 10)
    await be_denied(pair[1], 1)

    await pair[0].corrections.reverse(a_reversal(wrong.entry_id, 6))

    check = await pair[1].checker.check(a_check("ten", 6))
    assert check.reason is Reason.OK
    assert check.used_quantity == 4
    assert [each["c"] for each in (await redis_counters(pair[0])).values()] == ["4"]


# --- Ended periods ----------------------------------------------------------------------------------------


async def test_an_ended_period_is_corrected_where_the_tenant_says_so(
    pair: list[Service], acme_database: str, clock: FrozenClock
) -> None:
    wrong = await count(pair[0], "ten", 7)
    strictly = await count(pair[0], "ten", 7, tenant_id=STRICT)
    clock.advance(timedelta(days=1))
    await count(pair[0], "ten", 2)

    answer = await pair[0].corrections.reverse(a_reversal(wrong.entry_id, 5))
    corrected = await pair[0].corrections.correct(a_correction("ten", 20, event_time=NOON))

    assert answer.entry.period_start == datetime(2026, 3, 15, tzinfo=UTC)
    assert (answer.usage.used_quantity, answer.usage.period_end) == (2, datetime(2026, 3, 16, tzinfo=UTC))
    assert (corrected.usage.used_quantity, corrected.entry.event_time) == (22, NOON)
    assert await used_now(pair[0]) == 2
    await assert_books_balance(acme_database)
    with pytest.raises(PeriodClosed) as closed:
        await pair[0].corrections.reverse(a_reversal(strictly.entry_id, tenant_id=STRICT))
    assert closed.value.facts["period_end_time"] == "2026-03-16T00:00:00+00:00"
    assert closed.value.facts["entry_id"] == str(strictly.entry_id)
    with pytest.raises(PeriodClosed):
        await pair[0].corrections.correct(a_correction("ten", 1, tenant_id=STRICT, event_time=NOON))


async def test_the_period_closes_with_its_last_instant(pair: list[Service], clock: FrozenClock) -> None:
    wrong = await count(pair[0], "ten", 7, tenant_id=STRICT)
    again = a_reversal(wrong.entry_id, 2, tenant_id=STRICT, request_id="in-time")
    clock.set(datetime(2026, 3, 16, tzinfo=UTC) - timedelta(microseconds=1))
    await pair[0].corrections.reverse(again)
    clock.set(datetime(2026, 3, 16, tzinfo=UTC))

    with pytest.raises(PeriodClosed):
        await pair[0].corrections.reverse(a_reversal(wrong.entry_id, 2, tenant_id=STRICT))
    # What was answered once is answered again.
    assert (await pair[0].corrections.reverse(again)).replayed


# --- Denials ----------------------------------------------------------------------------------------------


async def test_the_answer_names_who_was_denied_because_of_it(
    pair: list[Service], acme_database: str, clock: FrozenClock
) -> None:
    await be_denied(pair[0], 11, request_id="before")
    wrong = await count(pair[0], "ten", 10)
    for number, quantity in enumerate((3, 4, 5, 2, 1, 1)):
        clock.advance(timedelta(minutes=1))
        await be_denied(pair[number % 2], quantity, request_id=f"call-{number}")
    await be_denied(pair[0], 6, "devices")
    clock.advance(timedelta(minutes=1))
    await denials_are_written(acme_database, 8)

    answer = await pair[0].corrections.reverse(a_reversal(wrong.entry_id, request_id="fix"))
    clock.advance(timedelta(minutes=1))
    await count(pair[0], "ten", 10)
    await be_denied(pair[0], 1, request_id="after")
    await denials_are_written(acme_database, 9)
    again = await pair[1].corrections.reverse(a_reversal(wrong.entry_id, request_id="fix"))

    assert [(each.request_id, each.quantity) for each in answer.redeemable_denials] == [
        ("call-0", 3),
        ("call-1", 4),
        ("call-3", 2),
        ("call-4", 1),
    ]
    assert answer.redeemable_denial_count == 4
    assert answer.redeemable_denials[0].position.recorded_time == NOON + timedelta(minutes=1)
    assert again.redeemable_denials == answer.redeemable_denials
    assert again.replayed


async def test_who_was_denied_a_moment_ago_is_named_as_well(pair: list[Service]) -> None:
    wrong = await count(pair[0], "ten", 10)
    await be_denied(pair[0], 4, request_id="just now")

    answer = await pair[0].corrections.reverse(a_reversal(wrong.entry_id))

    assert [each.request_id for each in answer.redeemable_denials] == ["just now"]


async def test_an_answer_lists_a_thousand_denials_and_counts_them_all(
    pair: list[Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(use_cases, "REDEEMABLE_DENIALS_MAX", 2)
    wrong = await count(pair[0], "words", 1_000)
    for _ in range(3):
        await be_denied(pair[0], 1, "words")

    answer = await pair[0].corrections.reverse(a_reversal(wrong.entry_id))

    assert len(answer.redeemable_denials) == 2
    assert answer.redeemable_denial_count == 3


# --- Thresholds -------------------------------------------------------------------------------------------


async def test_a_threshold_is_announced_once_although_usage_fell_below_it(
    pair: list[Service], acme_database: str
) -> None:
    wrong = await count(pair[0], "words", 600)
    await pair[0].corrections.reverse(a_reversal(wrong.entry_id, 300))
    crossing = [await count(pair[n % 2], "words", 100) for n in range(6)]

    assert [each.threshold_percent for each in crossing] == [0, 0, 0, 0, 80, 0]
    events = await announced(acme_database)
    assert [(each["kind"], each["threshold"], each["used_quantity"]) for each in events] == [
        ("percent", 50, 600),
        ("percent", 80, 800),
    ]
    await assert_books_balance(acme_database)


async def test_a_correction_that_crosses_a_threshold_announces_it(pair: list[Service], acme_database: str) -> None:
    await count(pair[0], "words", 400)

    answer = await pair[0].corrections.correct(a_correction("words", 100))

    assert answer.usage.threshold_percent == 50
    [event] = await announced(acme_database)
    assert (event["threshold"], event["entry_id"]) == (50, str(answer.entry.entry_id))


async def announced(database_url: str) -> list[dict[str, Any]]:
    connection = await connect(database_url, DatabaseRole.READER)
    try:
        await connection.execute("SELECT set_config('tallygate.tenant_id', $1, false)", ACME)
        rows = await connection.fetch("SELECT payload FROM outbox_events WHERE type LIKE 'usage.%' ORDER BY event_id")
    finally:
        await connection.close()
    return [json.loads(row["payload"]) for row in rows]


# --- Corrections ------------------------------------------------------------------------------------------


async def test_a_correction_may_exceed_the_limit_but_never_fall_below_zero(
    pair: list[Service], acme_database: str
) -> None:
    await count(pair[0], "ten", 4)

    up = await pair[0].corrections.correct(a_correction("ten", 20))
    await be_denied(pair[1], 1)
    down = await pair[1].corrections.correct(a_correction("ten", -24))
    with pytest.raises(InvalidRequest, match="more away than the 0 units"):
        await pair[0].corrections.correct(a_correction("ten", -1))

    assert (up.entry.kind, up.entry.quantity, up.entry.used_after) == (EntryKind.CORRECTION, 20, 24)
    assert (up.usage.used_quantity, up.usage.remaining_quantity, up.usage.reason) == (24, 0, Reason.EXHAUSTED)
    assert (down.usage.used_quantity, down.usage.reason) == (0, Reason.OK)
    await count(pair[0], "ten", 10)
    await assert_books_balance(acme_database)


async def test_a_correction_can_be_the_first_line_and_can_be_reversed(pair: list[Service], acme_database: str) -> None:
    await count(pair[0], "words")
    first = await pair[0].corrections.correct(a_correction("devices", 4, request_id="c-1"))
    again = await pair[1].corrections.correct(a_correction("devices", 4, request_id="c-1"))

    taken = await pair[0].corrections.reverse(a_reversal(first.entry.entry_id, 1))

    assert again.replayed
    assert again.entry == first.entry
    assert again.usage == first.usage
    assert taken.usage.used_quantity == 3
    await assert_books_balance(acme_database)


@pytest.mark.parametrize(
    ("feature_key", "error"),
    [("nothing", FeatureNotFound), ("export", FeatureNotMetered), ("gold", InvalidRequest)],
)
async def test_what_is_not_counted_is_not_corrected(
    pair: list[Service], feature_key: str, error: type[TallygateError]
) -> None:
    await count(pair[0])

    with pytest.raises(error):
        await pair[0].corrections.correct(a_correction(feature_key, 1))


async def test_the_future_is_not_corrected(pair: list[Service]) -> None:
    await count(pair[0])
    await pair[0].corrections.correct(a_correction("ten", 1, event_time=NOON + timedelta(minutes=5)))

    with pytest.raises(InvalidRequest, match="more than 5 minutes in the future"):
        await pair[0].corrections.correct(
            a_correction("ten", 1, event_time=NOON + timedelta(minutes=5, microseconds=1))
        )


async def test_an_account_that_nobody_knows_is_named(pair: list[Service], acme_database: str) -> None:
    text = LENIENT_CATALOG.format(tenant="closed", corrections="true").replace("auto_provision: true", "")
    await pair[0].catalogs.apply(CatalogSource(text))

    for wanted in (a_reversal(1, tenant_id=TenantId("closed")), a_correction("ten", 1, tenant_id=TenantId("closed"))):
        with pytest.raises(AccountNotFound):
            await outcome_of(pair[0], wanted)


async def outcome_of(service: Service, wanted: Reversal | Correction) -> ReversalAnswer | CorrectionAnswer:
    if isinstance(wanted, Reversal):
        return await service.corrections.reverse(wanted)
    return await service.corrections.correct(wanted)


async def test_both_are_in_the_audit_log(pair: list[Service], acme_database: str) -> None:
    wrong = await count(pair[0], "ten", 3)
    await pair[0].corrections.reverse(a_reversal(wrong.entry_id, 2))
    await pair[0].corrections.correct(a_correction("ten", 5))

    connection = await connect(acme_database, DatabaseRole.READER)
    try:
        await connection.execute("SELECT set_config('tallygate.tenant_id', $1, false)", ACME)
        rows = await connection.fetch(
            "SELECT actor, action, subject, detail, create_time FROM audit_entries"
            " WHERE action LIKE 'usage.%' ORDER BY audit_id"
        )
    finally:
        await connection.close()
    assert [(row["actor"], row["action"], row["subject"], row["create_time"]) for row in rows] == [
        ("eve", "usage.reverse", "account:ann", NOON),
        ("eve", "usage.correct", "account:ann", NOON),
    ]
    details = [json.loads(row["detail"]) for row in rows]
    assert [(each["quantity"], each["reason_text"]) for each in details] == [(2, "counted twice"), (5, "by hand")]
    assert details[0]["reversed_entry_id"] == str(wrong.entry_id)


async def test_a_caller_who_goes_away_undoes_nothing(pair: list[Service], acme_database: str) -> None:
    wrong = await count(pair[0], "ten", 9)
    call = asyncio.ensure_future(pair[0].corrections.reverse(a_reversal(wrong.entry_id, 4)))
    await asyncio.sleep(0)

    call.cancel()
    await asyncio.gather(call, return_exceptions=True)

    async def taken_back() -> bool:
        return await used_now(pair[1]) == 5

    await eventually(taken_back)
    await assert_books_balance(acme_database)


# --- Credits ----------------------------------------------------------------------------------------------


@pytest.fixture
async def credited(fresh_database: str, fresh_redis: str, clock: FrozenClock) -> AsyncIterator[list[Service]]:
    """Two servers with a tenant whose accounts have credits; who paid must be in the books at the end."""
    async with services(fresh_database, fresh_redis, 2, clock=clock) as both:
        await credit.apply_catalog(both[0])
        yield both
    await assert_books_balance(fresh_database)
    await credit.assert_credits_balance(fresh_database)


def a_credited_reversal(entry_id: int, quantity: int | None = None) -> Reversal:
    return a_reversal(entry_id, quantity, tenant_id=credit.CREDITA)


async def test_credits_get_back_what_they_paid_the_last_one_first(
    credited: list[Service], fresh_database: str, clock: FrozenClock
) -> None:
    first, second = credited
    early = await credit.give(first, credit.a_credit(3))
    clock.advance(timedelta(seconds=1))
    late = await credit.give(first, credit.a_credit(5))
    # Ten of the plan, three of the first credit, two of the second.
    wrong = await credit.spend(first, 15)
    assert await credit.standing(second) == (18, 15, 3)

    one = await first.corrections.reverse(a_credited_reversal(wrong.entry_id, 3))
    after_one = await credit.balances(fresh_database)
    two = await second.corrections.reverse(a_credited_reversal(wrong.entry_id, 6))
    after_two = await credit.balances(fresh_database)

    spans = [(grant.grant.grant_id, grant.grant.start_time) for grant in (early, late)]
    assert [after_one[span] for span in spans] == [(3, 2), (5, 0)]
    assert [after_two[span] for span in spans] == [(3, 0), (5, 0)]
    assert (one.usage.limit_quantity, one.usage.used_quantity, one.usage.remaining_quantity) == (18, 12, 6)
    assert (two.usage.limit_quantity, two.usage.used_quantity, two.usage.remaining_quantity) == (18, 6, 12)
    assert two.reversible_quantity == 6
    assert await credit.standing(first) == (18, 6, 12)
    assert await credit.spent(second, 12)
    assert not await credit.spent(first)


async def test_a_correction_upwards_is_paid_by_credits_as_far_as_they_go(
    credited: list[Service], fresh_database: str
) -> None:
    grant = await credit.give(credited[0], credit.a_credit(4))
    await credit.spend(credited[0], 8)

    answer = await credited[0].corrections.correct(a_correction("words", 4, tenant_id=credit.CREDITA))

    span = (grant.grant.grant_id, grant.grant.start_time)
    assert await credit.balances(fresh_database) == {span: (4, 2)}
    assert (answer.usage.limit_quantity, answer.usage.used_quantity, answer.usage.remaining_quantity) == (14, 12, 2)
    await credited[0].corrections.reverse(a_credited_reversal(answer.entry.entry_id))
    assert await credit.balances(fresh_database) == {span: (4, 0)}
    assert await credit.standing(credited[1]) == (14, 8, 6)


async def test_a_reversal_in_a_rolling_period_leaves_more_to_use(credited: list[Service]) -> None:
    wrong = await credit.spend(credited[0], 9, "rolling")

    answer = await credited[0].corrections.reverse(a_credited_reversal(wrong.entry_id, 4))

    assert (answer.usage.used_quantity, answer.usage.remaining_quantity) == (5, 5)
    assert await credit.standing(credited[1], "rolling") == (10, 5, 5)


# --- Doubt ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_id", ["", "fix"])
@pytest.mark.parametrize("sort", ["reversal", "correction"])
async def test_a_correction_whose_answer_was_lost_is_made_once(
    acme_database: str, fresh_redis: str, monkeypatch: pytest.MonkeyPatch, sort: str, request_id: str
) -> None:
    tries = 0
    reach = Attempt.reach

    async def reach_and_lose_the_answer(attempt: Attempt, transaction: ExactTransaction) -> None:
        nonlocal tries
        await reach(attempt, transaction)
        tries += 1
        if tries == 1:
            proxy.swallows_after = b"COMMIT;"

    monkeypatch.setattr(Attempt, "reach", reach_and_lose_the_answer)
    with tempfile.TemporaryDirectory(prefix="tallygate-test-") as parent:
        async with (
            postgres_proxy(acme_database, Path(parent) / "wire") as (address, proxy),
            services(address, fresh_redis) as [service],
        ):
            wrong = await count(service, "devices", 5)
            wanted: Reversal | Correction = a_reversal(wrong.entry_id, 3, request_id=request_id)
            if sort == "correction":
                wanted = a_correction("devices", -3, request_id=request_id)
            call = asyncio.ensure_future(outcome_of(service, wanted))

            async def committed() -> bool:
                return len(await fetch(acme_database, "SELECT FROM usage_entries WHERE kind IN (4, 5)")) == 1

            await eventually(committed)
            proxy.cut()
            answer = await call

            assert tries == 2
            assert (answer.entry.quantity, answer.usage.used_quantity, answer.replayed) == (-3, 2, False)
            if isinstance(answer, ReversalAnswer):
                assert answer.reversible_quantity == 2
            if request_id:
                again = await outcome_of(service, wanted)
                assert (again.entry, again.replayed) == (answer.entry, True)
            assert await used_now(service, "devices") == 2
            await assert_books_balance(acme_database)


async def test_a_correction_that_stays_in_doubt_says_so(
    acme_database: str, fresh_redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="tallygate-test-") as parent:
        async with (
            postgres_proxy(acme_database, Path(parent) / "wire") as (address, proxy),
            services(address, fresh_redis) as [service],
        ):
            wrong = await count(service, "devices", 5)
            service.corrections._timeout_seconds = 0.2
            reach = Attempt.reach

            async def reach_and_lose_the_answer(attempt: Attempt, transaction: ExactTransaction) -> None:
                await reach(attempt, transaction)
                proxy.swallows_after = b"COMMIT;"
                proxy.refuses = True

            monkeypatch.setattr(Attempt, "reach", reach_and_lose_the_answer)
            call = asyncio.ensure_future(service.corrections.reverse(a_reversal(wrong.entry_id, 3, request_id="fix")))

            async def committed() -> bool:
                return len(await fetch(acme_database, "SELECT FROM usage_entries WHERE kind = 4")) == 1

            await eventually(committed)
            proxy.cut()
            with pytest.raises(OutcomeUnknown):
                await call
            monkeypatch.setattr(Attempt, "reach", reach)
            service.corrections._timeout_seconds = 60.0
            proxy.refuses = False

            async def heard() -> bool:
                return (await service.corrections.reverse(a_reversal(wrong.entry_id, 3, request_id="fix"))).replayed

            # The one that asks again hears what became of it, as soon as Postgres is back.
            await eventually(heard, ignore=(OutcomeUnknown, StoreUnavailable))
            await assert_books_balance(acme_database)


@pytest.mark.parametrize(("times", "goes_on"), [(use_cases.REFUSALS_MAX - 1, True), (use_cases.REFUSALS_MAX, False)])
async def test_a_correction_that_postgres_refuses_is_tried_again_so_often(
    pair: list[Service], monkeypatch: pytest.MonkeyPatch, times: int, *, goes_on: bool
) -> None:
    await count(pair[0], "devices", 2)
    reach, tries = Attempt.reach, 0

    async def refuse(attempt: Attempt, transaction: ExactTransaction) -> None:
        nonlocal tries
        tries += 1
        if tries <= times:
            raise GroupRefused("DeadlockDetectedError")
        await reach(attempt, transaction)

    monkeypatch.setattr(Attempt, "reach", refuse)

    if goes_on:
        assert (await pair[0].corrections.correct(a_correction("devices", 1))).usage.used_quantity == 3
    else:
        with pytest.raises(StoreUnavailable):
            await pair[0].corrections.correct(a_correction("devices", 1))
    assert await used_now(pair[0], "devices") == (3 if goes_on else 2)


async def test_only_so_many_corrections_wait(pair: list[Service], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(use_cases, "CORRECTIONS_WAITING_MAX", 2)
    await count(pair[0], "devices", 1)

    outcomes = await asyncio.gather(
        *(pair[0].corrections.correct(a_correction("words", 1)) for _ in range(4)), return_exceptions=True
    )

    # One is written and two wait; the one that finds them there is told to come back.
    assert [type(each) for each in outcomes] == [CorrectionAnswer, CorrectionAnswer, CorrectionAnswer, Overloaded]
    assert await used_now(pair[0], "words") == 3
