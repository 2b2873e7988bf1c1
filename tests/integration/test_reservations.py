"""Reservations against real stores, on a clock that stands still until it is moved."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from tallygate_server.catalog import CatalogSource
from tallygate_server.domain.catalog import OverrunPolicy
from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.domain.reservation import ReservationState, Settlement
from tallygate_server.errors import (
    FeatureNotMetered,
    RequestIdReused,
    ReservationClosed,
    ReservationNotFound,
    TenantNotFound,
)
from tallygate_server.service import Service
from tallygate_server.storage.engine import DatabaseRole, connect
from tests.support.acme import (
    ACME,
    ANN,
    BOB,
    a_check,
    allowed,
    an_increment,
    assert_redis_agrees,
    change_plan,
    denied,
    fetch,
    outcome_of,
    services,
    used,
)
from tests.support.clock import FrozenClock
from tests.support.reservations import (
    HOUR,
    SECOND,
    a_reserve,
    commit,
    extend,
    held,
    outcomes_of,
    release,
    reserve,
    reserved,
)

NOON = datetime(2026, 3, 15, 12, 0, tzinfo=UTC)
MIDNIGHT = datetime(2026, 3, 16, tzinfo=UTC)
WINDOW = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)

HELD, COMMITTED = ReservationState.HELD, ReservationState.COMMITTED
RELEASED, EXPIRED = ReservationState.RELEASED, ReservationState.EXPIRED


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(NOON)


@pytest.fixture
async def service(acme_database: str, fresh_redis: str, clock: FrozenClock) -> AsyncIterator[Service]:
    """Serve on the frozen clock; Redis must agree with Postgres in the end."""
    async with services(acme_database, fresh_redis, clock=clock) as [running]:
        yield running
        await assert_redis_agrees(running, acme_database)


async def quota(service: Service, feature_key: str = "ten", *, account_id: str = ANN) -> tuple[int, int, int]:
    """Return (used, held, remaining), as everybody sees them."""
    usage = await service.usage.usage(ACME, AccountId(account_id), FeatureKey(feature_key))
    return usage.used_quantity, usage.held_quantity, usage.remaining_quantity


# --- reserve


async def test_a_reservation_is_held_apart_from_what_is_used(service: Service) -> None:
    await outcome_of(service, an_increment("ten", 2))

    answer = await reserve(service, "ten", 5, ttl=HOUR, dimensions={"model": "small"}, request_id="r1")

    assert answer.reason is Reason.OK
    assert (answer.used_quantity, answer.held_quantity, answer.limit_quantity, answer.remaining_quantity) == (
        2,
        5,
        10,
        3,
    )
    assert answer.reset_time == MIDNIGHT
    assert answer.plan_key == "free"
    assert not answer.replayed
    made = answer.reservation
    assert made is not None
    assert (made.state, made.quantity, made.committed_quantity, made.entry_id) == (HELD, 5, 0, 0)
    assert (made.create_time, made.expire_time, made.close_time) == (NOON, NOON + HOUR, None)
    assert (made.period.start, made.period.end) == (MIDNIGHT - timedelta(days=1), MIDNIGHT)
    assert (made.dimensions, made.request_id, made.overrun_policy) == ({"model": "small"}, "r1", OverrunPolicy.REJECT)
    assert await quota(service) == (2, 5, 3)
    check = await service.checker.check(a_check("ten", 4))
    assert (check.reason, check.used_quantity, check.held_quantity) == (Reason.EXHAUSTED, 2, 5)


async def test_what_is_held_stands_in_the_way_of_increments(service: Service, acme_database: str) -> None:
    await reserved(service, "ten", 8)

    over = await outcome_of(service, an_increment("ten", 3))
    fitting = await outcome_of(service, an_increment("ten", 2))

    [no] = denied([over])
    [yes] = allowed([fitting])
    assert (no.reason, no.used_quantity, no.held_quantity) == (Reason.EXHAUSTED, 0, 8)
    assert (yes.used_quantity, yes.held_quantity, yes.remaining_quantity) == (2, 8, 0)
    assert await used(acme_database, "ten") == 2


async def test_a_reservation_that_does_not_fit_is_denied_and_recorded(service: Service, acme_database: str) -> None:
    await reserved(service, "ten", 8)

    answer = await reserve(service, "ten", 3)

    assert (answer.reason, answer.reservation) == (Reason.EXHAUSTED, None)
    assert (answer.used_quantity, answer.held_quantity, answer.limit_quantity, answer.remaining_quantity) == (
        0,
        8,
        10,
        2,
    )
    assert answer.upgrade_url == "https://acme.example/upgrade?account=ann&feature=ten"
    [row] = await fetch(acme_database, "SELECT * FROM usage_denials")
    assert (row["quantity"], row["reason"], row["limit_quantity"]) == (3, int(Reason.EXHAUSTED), 10)
    assert await held(acme_database) == 8


async def test_a_soft_limit_is_passed_as_overage(service: Service) -> None:
    within = await reserve(service, "soft", 10)
    beyond = await reserve(service, "soft", 1)

    assert (within.reason, beyond.reason) == (Reason.OK, Reason.OVERAGE)
    assert beyond.reservation is not None
    assert (beyond.held_quantity, beyond.remaining_quantity) == (11, 0)


async def test_without_a_limit_there_is_always_room(service: Service) -> None:
    answer = await reserve(service, "endless", 1_000_000_000_000)

    assert (answer.reason, answer.limit_quantity, answer.remaining_quantity) == (Reason.UNLIMITED, -1, -1)


async def test_a_gauge_can_be_reserved_from(service: Service, acme_database: str) -> None:
    first = await reserved(service, "devices", 4)
    second = await reserve(service, "devices", 2)
    answer = await commit(service, first, 3)

    assert second.reason is Reason.EXHAUSTED
    assert (answer.used_quantity, answer.held_quantity, answer.reservation.period.end) == (3, 0, None)
    assert await used(acme_database, "devices") == 3


@pytest.mark.parametrize(
    ("tenant_id", "feature_key", "reason"),
    [(ACME, "nonsense", Reason.UNKNOWN_FEATURE), (ACME, "none", Reason.EXHAUSTED)],
)
async def test_the_ladder_denies_as_it_does_increments(
    service: Service, tenant_id: TenantId, feature_key: str, reason: Reason
) -> None:
    answer = await reserve(service, feature_key, tenant_id=tenant_id)

    assert (answer.reason, answer.reservation) == (reason, None)


async def test_a_suspended_account_reserves_nothing(service: Service) -> None:
    await reserved(service)
    await service.accounts.suspend(ACME, ANN, suspend=True, reason="unpaid", actor="test")

    answer = await reserve(service)

    assert answer.reason is Reason.ACCOUNT_SUSPENDED


@pytest.mark.parametrize("feature_key", ["export", "history"])
async def test_what_is_not_counted_cannot_be_reserved(service: Service, feature_key: str) -> None:
    with pytest.raises(FeatureNotMetered):
        await reserve(service, feature_key)


async def test_a_tenant_that_is_not_there_is_named(service: Service) -> None:
    with pytest.raises(TenantNotFound):
        await reserve(service, tenant_id="nobody")


async def test_the_time_of_the_work_decides_the_period(service: Service, acme_database: str) -> None:
    yesterday = NOON - timedelta(days=1)

    answer = await reserve(service, "ten", 5, event_time=yesterday)

    assert answer.reset_time == MIDNIGHT - timedelta(days=1)
    assert await quota(service) == (0, 0, 10)
    assert answer.reservation is not None
    counted = await commit(service, answer.reservation.reservation_id, 4)
    assert counted.used_quantity == 4
    [entry] = await fetch(acme_database, "SELECT * FROM usage_entries")
    assert (entry["event_time"], entry["recorded_time"]) == (yesterday, NOON)


# --- request ids


async def test_a_retry_hears_the_first_answer(service: Service, clock: FrozenClock) -> None:
    first = await reserve(service, "ten", 5, request_id="r1", ttl=HOUR)
    assert first.reservation is not None
    clock.advance(SECOND)
    await extend(service, first.reservation.reservation_id, 2 * HOUR)
    await commit(service, first.reservation.reservation_id, 1)
    await outcome_of(service, an_increment("ten", 3))

    again = await reserve(service, "ten", 5, request_id="r1", ttl=HOUR)

    assert again == replace(first, replayed=True)
    assert await quota(service) == (4, 0, 6)


async def test_a_retry_hears_the_first_answer_whatever_has_become_of_the_account(service: Service) -> None:
    first = await reserve(service, "ten", 5, request_id="r1")
    await service.accounts.suspend(ACME, ANN, suspend=True, reason="unpaid", actor="test")

    again = await reserve(service, "ten", 5, request_id="r1")

    assert again == replace(first, replayed=True)


async def test_a_retry_of_a_denied_reservation_is_denied_again(service: Service) -> None:
    blocking = await reserved(service, "ten", 8)
    first = await reserve(service, "ten", 3, request_id="r1")
    await release(service, blocking)

    again = await reserve(service, "ten", 3, request_id="r1")

    assert first.reason is Reason.EXHAUSTED
    assert again == replace(first, replayed=True)


async def test_one_request_made_many_times_at_once_reserves_once(service: Service, acme_database: str) -> None:
    outcomes = await outcomes_of(
        [service.reservations.reserve(a_reserve("ten", 2, request_id="r1")) for _ in range(20)]
    )

    ids = {
        outcome.reservation.reservation_id
        for outcome in outcomes
        if not isinstance(outcome, Exception) and outcome.reservation
    }
    assert len(ids) == 1
    assert sum(not outcome.replayed for outcome in outcomes if not isinstance(outcome, Exception)) == 1
    assert await held(acme_database) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"quantity": 2},
        {"feature_key": "words"},
        {"ttl": 2 * HOUR},
        {"dimensions": {"model": "large"}},
        {"event_time": NOON},
        {"overrun_policy": OverrunPolicy.OVERDRAW},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_a_request_id_stands_for_one_content(service: Service, change: dict[str, Any]) -> None:
    await reserve(service, "ten", 1, request_id="r1")

    with pytest.raises(RequestIdReused):
        await service.reservations.reserve(replace(a_reserve("ten", 1, request_id="r1"), **change))


async def test_increments_and_reservations_share_request_ids(service: Service) -> None:
    await outcome_of(service, an_increment("ten", 1, request_id="counted"))
    await reserve(service, "ten", 1, request_id="reserved")

    incremented = await outcome_of(service, an_increment("ten", 1, request_id="reserved"))

    assert isinstance(incremented, RequestIdReused)
    with pytest.raises(RequestIdReused):
        await reserve(service, "ten", 1, request_id="counted")


# --- commit


async def test_a_commit_counts_the_actual_quantity_and_returns_the_rest(
    service: Service, acme_database: str, clock: FrozenClock
) -> None:
    reservation_id = await reserved(service, "ten", 8, dimensions={"model": "small", "region": "eu"})
    clock.advance(SECOND)

    answer = await commit(service, reservation_id, 5, dimensions={"model": "large"})

    assert (answer.reason, answer.settlement) == (Reason.OK, Settlement.RETURNED)
    assert (answer.used_quantity, answer.held_quantity, answer.remaining_quantity) == (5, 0, 5)
    assert (answer.overdrawn_quantity, answer.late, answer.replayed) == (0, False, False)
    closed = answer.reservation
    assert (closed.state, closed.quantity, closed.committed_quantity) == (COMMITTED, 8, 5)
    assert closed.close_time == NOON + SECOND
    assert await quota(service) == (5, 0, 5)
    [entry] = await fetch(acme_database, "SELECT * FROM usage_entries")
    assert entry["entry_id"] == closed.entry_id
    assert (entry["kind"], entry["reservation_id"], entry["quantity"]) == (2, reservation_id, 5)
    assert json.loads(entry["dimensions"]) == {"model": "large", "region": "eu"}
    assert (entry["event_time"], entry["recorded_time"]) == (NOON, NOON + SECOND)


async def test_without_a_quantity_a_commit_counts_what_was_reserved(service: Service) -> None:
    answer = await commit(service, await reserved(service, "ten", 8))

    assert (answer.settlement, answer.used_quantity) == (Settlement.EXACT, 8)


async def test_a_commit_of_nothing_closes_the_reservation(service: Service, acme_database: str) -> None:
    reservation_id = await reserved(service, "ten", 8)

    answer = await commit(service, reservation_id, 0)
    again = await commit(service, reservation_id, 0)

    assert (answer.settlement, answer.reservation.state, answer.reservation.entry_id) == (
        Settlement.RETURNED,
        COMMITTED,
        0,
    )
    assert again == replace(answer, replayed=True)
    assert await used(acme_database, "ten") == 0
    assert await quota(service) == (0, 0, 10)


async def test_a_surplus_is_taken_while_there_is_room(service: Service) -> None:
    await outcome_of(service, an_increment("ten", 1))
    await reserved(service, "ten", 2)
    reservation_id = await reserved(service, "ten", 3)

    answer = await commit(service, reservation_id, 7)

    assert (answer.settlement, answer.overdrawn_quantity) == (Settlement.SURPLUS_TAKEN, 0)
    assert (answer.used_quantity, answer.held_quantity, answer.remaining_quantity) == (8, 2, 0)


async def test_a_surplus_beyond_the_limit_is_rejected_and_the_reservation_stays(service: Service) -> None:
    await reserved(service, "ten", 2)
    reservation_id = await reserved(service, "ten", 3)

    rejected = await commit(service, reservation_id, 9)
    smaller = await commit(service, reservation_id, 8)

    assert (rejected.reason, rejected.settlement) == (Reason.EXHAUSTED, Settlement.REJECTED)
    assert (rejected.reservation.state, rejected.used_quantity, rejected.held_quantity) == (HELD, 0, 5)
    assert (smaller.reason, smaller.used_quantity, smaller.held_quantity) == (Reason.OK, 8, 2)


@pytest.mark.parametrize("where", ["reserve", "commit"])
async def test_an_overdraft_counts_wholly(service: Service, acme_database: str, where: str) -> None:
    policies = {where: OverrunPolicy.OVERDRAW}
    reservation_id = await reserved(service, "ten", 3, overrun_policy=policies.get("reserve"))

    answer = await commit(service, reservation_id, 14, overrun_policy=policies.get("commit"))

    assert (answer.reason, answer.settlement) == (Reason.OVERAGE, Settlement.OVERDRAWN)
    assert (answer.overdrawn_quantity, answer.used_quantity, answer.remaining_quantity) == (4, 14, 0)
    assert await used(acme_database, "ten") == 14
    [more] = denied([await outcome_of(service, an_increment("ten"))])
    assert more.reason is Reason.EXHAUSTED


async def test_the_commit_can_be_stricter_than_the_reservation(service: Service) -> None:
    reservation_id = await reserved(service, "ten", 3, overrun_policy=OverrunPolicy.OVERDRAW)

    answer = await commit(service, reservation_id, 14, overrun_policy=OverrunPolicy.REJECT)

    assert answer.settlement is Settlement.REJECTED


async def test_a_commit_again_hears_the_first_answer_and_another_one_is_refused(
    service: Service, acme_database: str
) -> None:
    reservation_id = await reserved(service, "ten", 3)
    first = await commit(service, reservation_id, 2)
    await outcome_of(service, an_increment("ten", 4))

    again = await commit(service, reservation_id, 2)

    assert again == replace(first, replayed=True)
    with pytest.raises(ReservationClosed) as other:
        await commit(service, reservation_id, 3)
    assert other.value.facts["state"] == "committed"
    assert await used(acme_database, "ten") == 6


async def test_many_commits_of_one_reservation_at_once_count_once(service: Service, acme_database: str) -> None:
    reservation_id = await reserved(service, "ten", 3)

    outcomes = await outcomes_of([commit(service, reservation_id, 2) for _ in range(20)])

    assert sum(not outcome.replayed for outcome in outcomes if not isinstance(outcome, Exception)) == 1
    assert await used(acme_database, "ten") == 2


async def test_what_was_promised_counts_after_a_downgrade(service: Service) -> None:
    reservation_id = await reserved(service, "words", 900)
    await change_plan(service, "bare")

    answer = await commit(service, reservation_id, 800)

    assert (answer.settlement, answer.limit_quantity, answer.overdrawn_quantity) == (Settlement.RETURNED, 5, 795)
    assert (answer.used_quantity, answer.held_quantity, answer.remaining_quantity) == (800, 0, 0)


async def test_what_was_promised_counts_while_the_account_is_suspended_but_no_surplus(
    service: Service, acme_database: str
) -> None:
    reservation_id = await reserved(service, "ten", 5)
    await service.accounts.suspend(ACME, ANN, suspend=True, reason="unpaid", actor="test")

    surplus = await commit(service, reservation_id, 6)
    promised = await commit(service, reservation_id, 5)

    assert (surplus.reason, surplus.settlement) == (Reason.ACCOUNT_SUSPENDED, Settlement.REJECTED)
    assert promised.reason.allows
    assert await used(acme_database, "ten") == 5


async def test_a_surplus_after_an_upgrade_is_taken_from_the_new_limit(service: Service) -> None:
    reservation_id = await reserved(service, "ten", 8)
    await change_plan(service, "pro")

    answer = await commit(service, reservation_id, 20)

    assert (answer.settlement, answer.limit_quantity, answer.remaining_quantity) == (Settlement.SURPLUS_TAKEN, 20, 0)


async def test_a_commit_after_the_end_of_the_period_counts_in_the_reservations_own(
    service: Service, acme_database: str, clock: FrozenClock
) -> None:
    clock.set(MIDNIGHT - SECOND)
    reservation_id = await reserved(service, "ten", 8)
    clock.set(MIDNIGHT + SECOND)
    before = await quota(service)

    answer = await commit(service, reservation_id, 6)

    assert before == await quota(service) == (0, 0, 10)
    assert (answer.used_quantity, answer.reservation.period.end) == (6, MIDNIGHT)
    [counter] = await fetch(acme_database, "SELECT * FROM usage_counters WHERE used_quantity > 0")
    assert counter["period_end"] == MIDNIGHT


async def test_a_commit_crosses_thresholds_once_and_announces_them(service: Service, acme_database: str) -> None:
    first = await commit(service, await reserved(service, "ten", 5), 6)
    second = await commit(service, await reserved(service, "ten", 1), 2)
    third = await commit(service, await reserved(service, "ten", 2))

    assert (first.threshold_percent, first.threshold_quantity) == (0, 0)
    assert (second.threshold_percent, second.threshold_quantity) == (80, 7)
    assert (third.threshold_percent, third.threshold_quantity) == (100, 0)
    events = [
        (row["type"], json.loads(row["payload"])["threshold"])
        for row in await rows_of_acme(acme_database, "SELECT * FROM outbox_events WHERE type LIKE 'usage.%'")
    ]
    assert sorted(events) == [
        ("usage.exhausted", 10),
        ("usage.threshold_crossed", 7),
        ("usage.threshold_crossed", 80),
        ("usage.threshold_crossed", 100),
    ]


async def test_a_reservation_of_another_account_is_not_found(service: Service) -> None:
    reservation_id = await reserved(service, "ten", 5)

    for act in (commit, release, extend):
        with pytest.raises(ReservationNotFound):
            await act(service, reservation_id, account_id=BOB)
        with pytest.raises(ReservationNotFound):
            await act(service, "rsv_nonsense")
    # Naming a reservation makes no account.
    accounts = await rows_of_acme(service.database.url, "SELECT account_id FROM accounts")
    assert [row["account_id"] for row in accounts] == [ANN]


# --- expiry


async def test_an_expired_reservation_returns_by_itself_for_everybody(
    service: Service, acme_database: str, clock: FrozenClock
) -> None:
    reservation_id = await reserved(service, "ten", 8, ttl=HOUR)
    clock.set(NOON + HOUR - MICROSECOND)
    assert await quota(service) == (0, 8, 2)

    clock.set(NOON + HOUR)

    assert await quota(service) == (0, 0, 10)
    assert (await service.checker.check(a_check("ten", 10))).reason is Reason.OK
    [listed] = await service.reservations.list(ACME, ANN, limit=10)
    assert (listed.reservation_id, listed.state, listed.close_time) == (reservation_id, EXPIRED, NOON + HOUR)
    # Nobody has written it down so far.
    assert await held(acme_database) == 8


async def test_no_denial_rests_on_an_expired_hold(service: Service, acme_database: str, clock: FrozenClock) -> None:
    await reserved(service, "ten", 8, ttl=HOUR)
    await reserved(service, "words", 1_000, ttl=HOUR)
    clock.set(NOON + HOUR)

    counted = await outcome_of(service, an_increment("ten", 10))
    again = await reserve(service, "words", 1_000)

    assert not denied([counted])
    assert again.reason is Reason.OK
    assert await used(acme_database, "ten") == 10
    assert await held(acme_database, "ten") == 0
    assert await held(acme_database, "words") == 1_000


async def test_the_job_writes_down_what_has_expired(service: Service, acme_database: str, clock: FrozenClock) -> None:
    await reserved(service, "ten", 3, ttl=HOUR)
    lasting = await reserved(service, "ten", 2, ttl=2 * HOUR)
    await reserved(service, "words", 7, ttl=HOUR)
    await reserved(service, "ten", 1, ttl=HOUR, account_id=BOB)
    early = await service.reservation_expiry.expire()
    clock.set(NOON + HOUR)

    expired = await service.reservation_expiry.expire()

    assert (early, expired) == (0, 3)
    assert await service.reservation_expiry.expire() == 0
    assert await held(acme_database, "ten") == 2
    assert await held(acme_database, "words") == 0
    [row] = await fetch(acme_database, "SELECT * FROM reservations WHERE state = 'held'")
    assert row["reservation_id"] == lasting
    assert await quota(service) == (0, 2, 8)


async def test_the_job_ends_more_than_one_transaction_can(
    service: Service, acme_database: str, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tallygate_server.reservations.expiry.EXPIRED_PER_TRANSACTION_MAX", 2)
    for account in range(5):
        await reserved(service, "ten", 3, account_id=f"a{account}")
    clock.advance(HOUR)

    assert await service.reservation_expiry.expire() == 5
    assert not await fetch(acme_database, "SELECT 1 FROM reservations WHERE state = 'held'")


@pytest.mark.parametrize("written_down", [False, True])
async def test_a_late_commit_counts_once_within_its_window(
    service: Service, acme_database: str, clock: FrozenClock, *, written_down: bool
) -> None:
    reservation_id = await reserved(service, "ten", 8, ttl=HOUR)
    clock.set(NOON + HOUR + WINDOW)
    if written_down:
        await service.reservation_expiry.expire()

    answer = await commit(service, reservation_id, 6)
    again = await commit(service, reservation_id, 6)

    assert (answer.reason, answer.settlement, answer.late) == (Reason.OK, Settlement.RETURNED, True)
    assert (answer.used_quantity, answer.held_quantity) == (6, 0)
    assert again == replace(answer, replayed=True)
    assert await used(acme_database, "ten") == 6


async def test_a_late_commit_needs_room(service: Service, acme_database: str, clock: FrozenClock) -> None:
    reservation_id = await reserved(service, "ten", 8, ttl=HOUR)
    clock.set(NOON + HOUR)
    await outcome_of(service, an_increment("ten", 5))

    rejected = await commit(service, reservation_id, 6)
    smaller = await commit(service, reservation_id, 5)

    assert (rejected.reason, rejected.settlement) == (Reason.EXHAUSTED, Settlement.REJECTED)
    assert rejected.reservation.state is EXPIRED
    assert (smaller.settlement, smaller.late) == (Settlement.RETURNED, True)
    assert await used(acme_database, "ten") == 10


async def test_beyond_the_window_a_late_commit_is_refused(
    service: Service, acme_database: str, clock: FrozenClock
) -> None:
    reservation_id = await reserved(service, "ten", 8, ttl=HOUR)
    clock.set(NOON + HOUR + WINDOW + MICROSECOND)

    for act in (commit, release, extend):
        with pytest.raises(ReservationClosed) as refused:
            await act(service, reservation_id)
        assert refused.value.facts == {
            "reservation_id": reservation_id,
            "state": "expired",
            "field": "reservation_id",
        }
    assert await used(acme_database, "ten") == 0


# --- release, extend, list


async def test_a_release_gives_back_once(service: Service, clock: FrozenClock) -> None:
    reservation_id = await reserved(service, "ten", 8)
    clock.advance(SECOND)

    first = await release(service, reservation_id)
    clock.advance(SECOND)
    again = await release(service, reservation_id)

    assert (first.reservation.state, first.reservation.close_time) == (RELEASED, NOON + SECOND)
    assert first.remaining_quantity == 10
    assert again == first
    for act in (commit, extend):
        with pytest.raises(ReservationClosed) as refused:
            await act(service, reservation_id)
        assert refused.value.facts["state"] == "released"


async def test_what_was_committed_is_not_released_or_extended(service: Service) -> None:
    reservation_id = await reserved(service, "ten", 8)
    await commit(service, reservation_id)

    for act in (release, extend):
        with pytest.raises(ReservationClosed) as refused:
            await act(service, reservation_id)
        assert refused.value.facts["state"] == "committed"


async def test_a_released_reservation_can_not_be_committed_late(service: Service, clock: FrozenClock) -> None:
    reservation_id = await reserved(service, "ten", 8, ttl=HOUR)
    clock.set(NOON + HOUR)

    answer = await release(service, reservation_id)

    assert (answer.reservation.state, answer.remaining_quantity) == (RELEASED, 10)
    with pytest.raises(ReservationClosed):
        await commit(service, reservation_id)


async def test_an_extension_counts_from_now(service: Service, acme_database: str, clock: FrozenClock) -> None:
    reservation_id = await reserved(service, "ten", 8, ttl=HOUR)
    clock.set(NOON + HOUR - SECOND)

    answer = await extend(service, reservation_id, HOUR)
    clock.set(NOON + 2 * HOUR - 2 * SECOND)

    assert answer.reservation.expire_time == NOON + 2 * HOUR - SECOND
    assert await service.reservation_expiry.expire() == 0
    assert await quota(service) == (0, 8, 2)
    shorter = await extend(service, reservation_id, SECOND)
    assert shorter.reservation.expire_time == NOON + 2 * HOUR - SECOND
    clock.advance(SECOND)
    assert await quota(service) == (0, 0, 10)
    with pytest.raises(ReservationClosed):
        await extend(service, reservation_id)


async def test_reservations_are_listed_newest_first_by_feature_and_state(service: Service, clock: FrozenClock) -> None:
    ids = []
    for feature_key, ttl in (("ten", HOUR), ("ten", SECOND), ("words", HOUR), ("ten", HOUR), ("ten", HOUR)):
        clock.advance(timedelta(milliseconds=1))
        ids.append(await reserved(service, feature_key, 1, ttl=ttl))
    await commit(service, ids[3])
    await release(service, ids[4])
    await reserved(service, "ten", 1, account_id=BOB)
    clock.advance(SECOND)

    async def listed(**more: Any) -> list[str]:
        found = await service.reservations.list(ACME, ANN, **({"limit": 10} | more))
        return [each.reservation_id for each in found]

    assert await listed() == ids[::-1]
    assert await listed(limit=2) == [ids[4], ids[3]]
    assert await listed(limit=2, before_reservation_id=ids[3]) == [ids[2], ids[1]]
    assert await listed(feature_key="words") == [ids[2]]
    assert await listed(state=HELD) == [ids[2], ids[0]]
    assert await listed(state=EXPIRED) == [ids[1]]
    assert await listed(state=COMMITTED) == [ids[3]]
    assert await listed(state=RELEASED, feature_key="ten") == [ids[4]]


async def test_reservations_that_ended_long_ago_are_forgotten(
    service: Service, acme_database: str, clock: FrozenClock
) -> None:
    old = await reserved(service, "ten", 1)
    await release(service, old)
    clock.advance(timedelta(days=35))
    recent = await reserved(service, "ten", 1)
    await release(service, recent)
    await reserved(service, "ten", 1)
    clock.advance(SECOND)

    assert await service.reservation_expiry.forget(timedelta(days=35)) == 1
    left = [row["reservation_id"] for row in await fetch(acme_database, "SELECT * FROM reservations")]
    assert old not in left
    assert len(left) == 2


async def rows_of_acme(database_url: str, sql: str) -> list[asyncpg.Record]:
    """Look into tables that the meter's role may not read."""
    connection = await connect(database_url, DatabaseRole.READER)
    try:
        await connection.execute("SELECT set_config('tallygate.tenant_id', $1, false)", ACME)
        return list(await connection.fetch(sql))
    finally:
        await connection.close()


_OVERDRAWN_CATALOG = """
tenant: overdrawn
default_plan: free
auto_provision: true
features:
  tokens: {kind: counter}
plans:
  free:
    allowances:
      tokens: {limit: 10, period: day, overrun: overdraw}
"""


async def test_unless_told_otherwise_a_surplus_is_treated_as_the_limit_says(service: Service) -> None:
    await service.catalogs.apply(CatalogSource(_OVERDRAWN_CATALOG))
    first = await reserve(service, "tokens", 5, tenant_id="overdrawn")
    strict = await reserve(service, "tokens", 5, tenant_id="overdrawn", overrun_policy=OverrunPolicy.REJECT)
    assert first.reservation is not None
    assert strict.reservation is not None

    rejected = await commit(service, strict.reservation.reservation_id, 7, tenant_id="overdrawn")
    overdrawn = await commit(service, first.reservation.reservation_id, 7, tenant_id="overdrawn")

    assert first.reservation.overrun_policy is OverrunPolicy.OVERDRAW
    assert rejected.settlement is Settlement.REJECTED
    assert (overdrawn.settlement, overdrawn.overdrawn_quantity) == (Settlement.OVERDRAWN, 2)
