"""Grants over real stores: created, used after the allowance, taken back, listed, announced; switches among them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tallygate_server.domain.catalog import LimitMode, Rollover
from tallygate_server.domain.entitlement import LimitOverride, Reason
from tallygate_server.domain.identifier import AccountId, FeatureKey, TenantId
from tallygate_server.domain.limits import GRANTS_PER_ACCOUNT_MAX
from tallygate_server.domain.period import PeriodKind
from tallygate_server.embedded import EmbeddedServers
from tallygate_server.errors import (
    AccountDeleted,
    FeatureNotFound,
    InvalidRequest,
    NotFound,
    RequestIdReused,
    TallygateError,
)
from tallygate_server.grants import FeatureOverride, GrantState, NewGrant, OverrideView
from tallygate_server.grants.rules import AskedKind
from tallygate_server.service import Service
from tallygate_server.storage.engine import Database, DatabaseRole, connect
from tests.support.acme import ACME, ANN, BOB, allowed, an_increment, assert_books_balance, change_plan, services
from tests.support.clock import FrozenClock
from tests.support.credits import (
    CREDITA,
    a_credit,
    apply_catalog,
    assert_credits_balance,
    balances,
    give,
    known,
    look,
    spend,
    spent,
    standing,
)

BEGIN = datetime(2026, 1, 31, 9, 0, tzinfo=UTC)
FEBRUARY = datetime(2026, 2, 1, tzinfo=UTC)
MARCH = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(BEGIN)


@pytest.fixture
async def pair(fresh_database: str, fresh_redis: str, clock: FrozenClock) -> AsyncIterator[list[Service]]:
    """Two servers over the same stores; who paid must be in the books at the end."""
    async with services(fresh_database, fresh_redis, 2, clock=clock) as running:
        await apply_catalog(running[0])
        yield running
    await assert_books_balance(fresh_database)
    await assert_credits_balance(fresh_database)


@pytest.fixture
def server(pair: list[Service]) -> Service:
    return pair[0]


async def override(server: Service, feature_key: str, what: FeatureOverride, **more: Any) -> OverrideView:
    return await server.grants.override(CREDITA, ANN, FeatureKey(feature_key), what, reason="a test", **more)


# --- Burning ------------------------------------------------------------------------------------------------


async def test_a_credit_is_used_after_the_allowance_and_only_once(
    pair: list[Service], fresh_database: str, clock: FrozenClock
) -> None:
    first, second = pair
    grant = await give(first, a_credit(5))
    assert await standing(second) == (15, 0, 15)

    assert await spent(first, 8)
    assert await balances(fresh_database) == {}
    answer = await spend(second, 4)
    assert (answer.limit_quantity, answer.used_quantity, answer.remaining_quantity) == (15, 12, 3)
    assert not await spent(first, 4)
    assert await spent(first, 3)
    assert not await spent(second)
    assert await standing(first) == (15, 15, 0)
    assert await balances(fresh_database) == {(grant.grant.grant_id, BEGIN): (5, 5)}

    # The plan gives again in February; the credit was used in January and is gone.
    clock.set(FEBRUARY)
    assert await standing(second) == (10, 0, 10)
    assert await spent(second, 10)
    assert not await spent(first)


async def test_credits_are_used_by_priority_then_expiry_then_creation(
    server: Service, fresh_database: str, clock: FrozenClock
) -> None:
    late = await give(server, a_credit(1, priority=5))
    clock.advance(timedelta(seconds=1))
    never = await give(server, a_credit(1, priority=1))
    clock.advance(timedelta(seconds=1))
    younger = await give(server, a_credit(1, priority=1))
    soon = await give(server, a_credit(1, priority=1, expire_time=BEGIN + 2 * DAY))
    assert await spent(server, 10)

    order: list[str] = []
    for _ in range(4):
        assert await spent(server)
        order += sorted({grant_id for grant_id, _ in await balances(fresh_database)} - set(order))

    assert order == [view.grant.grant_id for view in (soon, never, younger, late)]
    assert not await spent(server)


async def test_an_expiring_credit_takes_only_its_unused_rest_with_it(server: Service, clock: FrozenClock) -> None:
    await give(server, a_credit(6, expire_time=BEGIN + timedelta(hours=1)))
    assert await spent(server, 12)
    assert await standing(server) == (16, 12, 4)

    clock.set(BEGIN + timedelta(hours=1))

    # Ten by the plan, two by the credit: both stay used, nothing is left.
    assert await standing(server) == (12, 12, 0)
    assert not await spent(server)


async def test_a_credit_over_a_period_boundary_is_not_given_twice(server: Service, clock: FrozenClock) -> None:
    clock.set(FEBRUARY - timedelta(seconds=1))
    await give(server, a_credit(6))
    assert await spent(server, 13)
    clock.set(FEBRUARY)
    assert await standing(server) == (13, 0, 13)
    # Late usage of January is paid by what is left, too.
    assert await spent(server, 2, event_time=FEBRUARY - timedelta(hours=1))
    assert await standing(server) == (11, 0, 11)
    assert await spent(server, 11)
    assert not await spent(server)
    assert not await spent(server, event_time=FEBRUARY - timedelta(hours=1))


async def test_a_recurring_credit_is_given_at_month_ends_and_rolls_over(server: Service, clock: FrozenClock) -> None:
    """Anchored on 31 January: its windows begin on 28 February and 31 March."""
    grant = await give(
        server,
        a_credit(4, recurrence=PeriodKind.MONTH, rollover=Rollover(min_quantity=1, max_quantity=3)),
    )
    assert await spent(server, 11)  # one of the credit
    clock.set(datetime(2026, 2, 28, 8, 59, tzinfo=UTC))
    assert await standing(server) == (13, 0, 13)
    clock.set(datetime(2026, 2, 28, 9, 0, tzinfo=UTC))
    assert await standing(server) == (17, 0, 17)  # three went over
    assert await spent(server, 17)
    clock.set(datetime(2026, 3, 31, 9, 0, tzinfo=UTC))
    assert await standing(server) == (14, 0, 14)  # nothing was left to go over
    clock.set(datetime(2026, 4, 30, 9, 0, tzinfo=UTC))
    assert await standing(server) == (17, 0, 17)
    clock.set(datetime(2026, 12, 31, 9, 0, tzinfo=UTC))
    assert await standing(server) == (17, 0, 17)
    page = await server.grants.page(CREDITA, account_id=ANN, limit=10)
    assert [(view.grant.grant_id, view.used_quantity, view.remaining_quantity) for view in page.grants] == [
        (grant.grant.grant_id, 0, 7)
    ]


async def test_credits_alone_are_all_that_there_is(server: Service) -> None:
    assert (await look(server, "extra")).reason is Reason.NO_ENTITLEMENT
    await give(server, a_credit(2, feature="extra"))

    answer = await spend(server, 2, "extra")

    assert answer.reason is Reason.OK
    assert answer.plan_key == ""
    assert (await spend(server, 1, "extra")).reason is Reason.EXHAUSTED


async def test_without_a_limit_credits_are_not_touched(server: Service, fresh_database: str) -> None:
    await give(server, a_credit(2, feature="endless"))

    assert await spent(server, 1000, "endless")

    assert await standing(server, "endless") == (-1, 1000, -1)
    assert await balances(fresh_database) == {}


async def test_a_soft_limit_uses_credits_before_overage(server: Service) -> None:
    await give(server, a_credit(3, feature="soft"))

    assert (await spend(server, 12, "soft")).reason is Reason.OK
    assert (await spend(server, 3, "soft")).reason is Reason.OVERAGE
    assert (await look(server, "soft")).reason is Reason.OVERAGE


async def test_a_gauge_has_more_room_as_long_as_the_grant_lasts(server: Service, clock: FrozenClock) -> None:
    grant = await give(server, a_credit(2, feature="devices", expire_time=BEGIN + DAY))
    assert await spent(server, 4, "devices")
    assert not await spent(server, 1, "devices")
    assert await spent(server, -2, "devices")
    assert await spent(server, 2, "devices")
    assert grant.remaining_quantity == 2

    clock.advance(DAY)

    assert await standing(server, "devices") == (2, 4, 0)
    assert await spent(server, -3, "devices")
    assert await spent(server, 1, "devices")
    assert not await spent(server, 1, "devices")


async def test_an_atomic_batch_burns_all_or_nothing(server: Service, fresh_database: str) -> None:
    await give(server, a_credit(4))
    items = [an_increment("words", n, tenant_id=CREDITA) for n in (9, 3, 3)]

    outcomes = await server.meter.increment_many(items, atomic=True)
    assert not allowed(outcomes)
    assert await balances(fresh_database) == {}
    outcomes = await server.meter.increment_many(items[:2], atomic=True)

    assert [answer.used_quantity for answer in allowed(outcomes)] == [9, 12]
    assert await standing(server) == (14, 12, 2)


async def test_upgrade_and_downgrade_leave_credits_as_they_are(server: Service, clock: FrozenClock) -> None:
    await give(server, a_credit(5))
    assert await spent(server, 12)
    await change_plan(server, "pro", tenant_id=CREDITA)
    # Two of the twelve were paid by the credit: the larger allowance has ten of a hundred used.
    assert await standing(server) == (105, 12, 93)
    assert await spent(server, 60)
    await change_plan(server, "free", tenant_id=CREDITA)
    # The allowance is far exceeded; the rest of the credit can still be used.
    assert await standing(server) == (75, 72, 3)
    assert await spent(server, 3)
    assert not await spent(server)
    clock.set(FEBRUARY)
    assert await standing(server) == (10, 0, 10)


async def test_what_an_ended_credit_paid_for_is_no_usage_of_the_plan(server: Service, clock: FrozenClock) -> None:
    await give(server, a_credit(5, expire_time=BEGIN + timedelta(hours=1)))
    assert await spent(server, 12)
    clock.set(BEGIN + timedelta(hours=1))

    await change_plan(server, "pro", tenant_id=CREDITA)

    assert await standing(server) == (102, 12, 90)
    assert not await spent(server, 91)
    assert await spent(server, 90)
    clock.set(FEBRUARY)
    assert await standing(server) == (100, 0, 100)
    # Also for January, which is not the present month any more.
    assert not await spent(server, 1, event_time=BEGIN)


async def test_thresholds_go_by_the_limit_with_its_credits_and_are_told_once(
    pair: list[Service], fresh_database: str
) -> None:
    await give(pair[0], a_credit(5))

    outcomes = await asyncio.gather(*(spend(pair[i % 2]) for i in range(40)))

    assert sum(answer.reason.allows for answer in outcomes) == 15
    assert sorted(answer.threshold_percent for answer in outcomes if answer.threshold_percent) == [80, 100]
    events = await _of_tenant(
        fresh_database,
        "SELECT type, payload::json ->> 'used_quantity' AS used FROM outbox_events WHERE type LIKE 'usage.%'",
    )
    assert sorted((row["type"], row["used"]) for row in events) == [
        ("usage.exhausted", "15"),
        ("usage.threshold_crossed", "12"),
        ("usage.threshold_crossed", "15"),
    ]


@pytest.mark.parametrize("feature", ["words", "rolling"])
async def test_two_servers_never_give_more_than_there_is(
    pair: list[Service], fresh_database: str, feature: str
) -> None:
    for n in range(4):
        await give(pair[0], a_credit(7, feature=feature, priority=n % 2))

    outcomes = await asyncio.gather(
        *(spend(pair[i % 2], 1 + i % 3, feature) for i in range(120)), return_exceptions=True
    )

    assert not [each for each in outcomes if isinstance(each, BaseException)]
    total = sum(
        1 + i % 3 for i, each in enumerate(outcomes) if not isinstance(each, BaseException) and each.reason.allows
    )
    assert 10 + 28 - 2 <= total <= 10 + 28
    (limit, used, remaining) = await standing(pair[1], feature)
    assert (limit, used, remaining) == (38, total, 38 - total)
    used_credits = sum(used for _, used in (await balances(fresh_database)).values())
    assert used_credits == total - 10


async def test_two_servers_share_a_credit_across_a_boundary(pair: list[Service], clock: FrozenClock) -> None:
    """Counters of two periods draw on one balance at the same time."""
    clock.set(FEBRUARY)
    await give(pair[0], a_credit(9))
    late = FEBRUARY - timedelta(minutes=1)

    outcomes = await asyncio.gather(*(spend(pair[i % 2], 1, event_time=late if i % 4 < 2 else None) for i in range(60)))

    assert sum(answer.reason.allows for answer in outcomes) == 10 + 10 + 9


async def test_a_retry_hears_its_first_answer(server: Service) -> None:
    await give(server, a_credit(5))
    first = await spend(server, 12, request_id="r1")

    again = await spend(server, 12, request_id="r1")

    assert again.replayed
    assert (again.used_quantity, again.limit_quantity) == (first.used_quantity, first.limit_quantity) == (12, 15)
    assert await standing(server) == (15, 12, 3)


async def test_redis_may_be_lost_at_any_time(server: Service, servers: EmbeddedServers) -> None:
    await give(server, a_credit(5))
    assert await spent(server, 12)
    await servers.flush_redis()
    assert await standing(server) == (15, 12, 3)
    assert not await spent(server, 4)
    assert await spent(server, 3)


# --- Rolling over -------------------------------------------------------------------------------------------


async def test_an_unused_rest_goes_into_the_next_month(server: Service, clock: FrozenClock) -> None:
    await known(server)
    assert await spent(server, 4, "rolling")
    clock.set(FEBRUARY)
    assert await standing(server, "rolling") == (16, 0, 16)
    assert await spent(server, 15, "rolling")
    assert not await spent(server, 2, "rolling")
    # January has handed its rest on: nothing of it is left for late usage.
    assert not await spent(server, 1, "rolling", event_time=FEBRUARY - timedelta(hours=1))
    clock.set(MARCH)
    assert await standing(server, "rolling") == (11, 0, 11)
    # Unused months add up.
    clock.set(datetime(2026, 6, 1, tzinfo=UTC))
    assert await standing(server, "rolling") == (41, 0, 41)
    assert await spent(server, 41, "rolling")
    assert not await spent(server, 1, "rolling")


async def test_late_usage_of_a_month_that_nobody_used_takes_only_what_was_not_handed_on(
    server: Service, clock: FrozenClock
) -> None:
    """Capped: of ten unused at most five go over."""
    await known(server)
    clock.set(MARCH)
    assert await standing(server, "capped") == (15, 0, 15)
    assert await spent(server, 15, "capped")
    late = MARCH - timedelta(hours=1)
    # February had fifteen itself, five of which March has.
    assert await spent(server, 10, "capped", event_time=late)
    assert not await spent(server, 1, "capped", event_time=late)
    # January had ten; five went on.
    assert await spent(server, 5, "capped", event_time=BEGIN)
    assert not await spent(server, 1, "capped", event_time=BEGIN)


async def test_a_rest_below_the_smallest_is_lost(server: Service, clock: FrozenClock) -> None:
    await known(server)
    assert await spent(server, 8, "capped")
    clock.set(FEBRUARY)
    assert await standing(server, "capped") == (10, 0, 10)
    assert await spent(server, 7, "capped")
    clock.set(MARCH)
    assert await standing(server, "capped") == (13, 0, 13)


async def test_the_first_increments_of_a_month_race_for_the_rest_of_the_last(
    pair: list[Service], clock: FrozenClock
) -> None:
    await known(pair[0])
    assert await spent(pair[0], 3, "rolling")
    clock.set(FEBRUARY)
    late = FEBRUARY - timedelta(hours=1)

    outcomes = await asyncio.gather(
        *(spend(pair[i % 2], 1, "rolling", event_time=late if i % 3 == 0 else None) for i in range(60))
    )

    # Three are used; whoever came first decided whether the seven are January's or February's.
    assert sum(answer.reason.allows for answer in outcomes) == 17


async def test_credits_and_a_rollover_pay_together(server: Service, clock: FrozenClock) -> None:
    await known(server)
    await give(server, a_credit(5, feature="rolling"))
    assert await spent(server, 2, "rolling")
    clock.set(FEBRUARY)
    assert await standing(server, "rolling") == (23, 0, 23)
    assert await spent(server, 20, "rolling")
    assert await standing(server, "rolling") == (23, 20, 3)
    clock.set(MARCH)
    assert await standing(server, "rolling") == (13, 0, 13)


# --- Overrides and switches ---------------------------------------------------------------------------------


async def test_an_override_is_the_limit_in_place_of_the_plans(server: Service, clock: FrozenClock) -> None:
    assert await spent(server, 2)
    limit = LimitOverride(quantity=3, mode=LimitMode.HARD)
    await give(
        server,
        NewGrant(feature_key=FeatureKey("words"), kind=AskedKind.OVERRIDE, limit=limit, expire_time=BEGIN + DAY),
    )
    assert await standing(server) == (3, 2, 1)
    clock.advance(timedelta(hours=1))
    assert await spent(server)
    assert not await spent(server)
    clock.set(BEGIN + DAY)
    assert (await look(server)).limit_quantity == 10


async def test_an_override_gives_what_no_plan_gives(server: Service) -> None:
    limit = LimitOverride(quantity=3, mode=LimitMode.HARD, period_kind=PeriodKind.DAY)
    await give(server, NewGrant(feature_key=FeatureKey("extra"), kind=AskedKind.OVERRIDE, limit=limit))

    answer = await look(server, "extra")

    assert (answer.limit_quantity, answer.reset_time) == (3, FEBRUARY)


async def test_an_override_of_a_value(server: Service) -> None:
    view = await give(
        server, NewGrant(feature_key=FeatureKey("history"), kind=AskedKind.OVERRIDE, config_value=[1, "two"])
    )
    assert (await look(server, "history")).value == [1, "two"]

    await server.grants.revoke(CREDITA, ANN, view.grant.grant_id, reason="over")

    assert (await look(server, "history")).value == 30


async def test_a_switch_replaces_the_one_before_and_is_taken_back(pair: list[Service], fresh_database: str) -> None:
    first, second = pair
    assert (await look(second, "export")).reason is Reason.NO_ENTITLEMENT
    on = await override(first, "export", FeatureOverride.ENABLED)
    assert on.answer.reason is Reason.OK
    assert (await look(second, "export")).reason is Reason.OK
    off = await override(second, "export", FeatureOverride.DISABLED)
    assert off.answer.reason is Reason.FEATURE_DISABLED
    assert (await look(first, "export")).revision == off.revision
    cleared = await override(first, "export", FeatureOverride.CLEARED)
    assert cleared.grant is None
    assert (await look(second, "export")).reason is Reason.NO_ENTITLEMENT
    again = await override(first, "export", FeatureOverride.CLEARED)
    assert again.revision == cleared.revision
    page = await first.grants.page(CREDITA, account_id=ANN, limit=10)
    assert [view.state for view in page.grants] == [GrantState.REVOKED] * 2


async def test_a_feature_that_is_switched_off_stays_for_its_grace(server: Service, clock: FrozenClock) -> None:
    view = await override(server, "words", FeatureOverride.DISABLED, grace_days=3)
    answer = view.answer
    assert (answer.reason, answer.grace_end_time) == (Reason.IN_GRACE, BEGIN + 3 * DAY)
    assert await spent(server, 10)
    assert not await spent(server)
    clock.set(BEGIN + 3 * DAY)
    assert (await look(server)).reason is Reason.FEATURE_DISABLED
    assert (await spend(server)).reason is Reason.FEATURE_DISABLED


async def test_a_counter_that_is_switched_on_keeps_its_limit_or_has_none(server: Service) -> None:
    kept = await override(server, "words", FeatureOverride.ENABLED)
    assert kept.answer.limit_quantity == 10
    free = await override(server, "extra", FeatureOverride.ENABLED)
    assert (free.answer.reason, free.answer.limit_quantity) == (Reason.UNLIMITED, -1)


async def test_a_switch_ends_by_itself(server: Service, clock: FrozenClock) -> None:
    await override(server, "export", FeatureOverride.ENABLED, expire_time=BEGIN + DAY)
    assert (await look(server, "export")).reason is Reason.OK
    clock.set(BEGIN + DAY)
    assert (await look(server, "export")).reason is Reason.NO_ENTITLEMENT


# --- Requests -----------------------------------------------------------------------------------------------


async def test_the_same_request_gives_once(pair: list[Service]) -> None:
    made = await asyncio.gather(*(give(pair[i % 2], a_credit(5), request_id="g1") for i in range(8)))

    assert len({view.grant.grant_id for view in made}) == 1
    assert sum(not view.replayed for view in made) == 1
    assert len({view.revision for view in made}) == 1
    assert (await standing(pair[0]))[0] == 15
    with pytest.raises(RequestIdReused):
        await give(pair[0], a_credit(6), request_id="g1")
    with pytest.raises(RequestIdReused):
        await override(pair[0], "export", FeatureOverride.ENABLED, request_id="g1")


async def test_the_same_switch_is_set_once(pair: list[Service]) -> None:
    made = await asyncio.gather(
        *(override(pair[i % 2], "export", FeatureOverride.ENABLED, request_id="s1") for i in range(6))
    )
    assert len({view.grant.grant.grant_id for view in made if view.grant is not None}) == 1
    assert sum(not view.replayed for view in made) == 1
    for n in range(2):
        cleared = await override(pair[n], "export", FeatureOverride.CLEARED, request_id="s2")
        assert cleared.replayed is bool(n)


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        (a_credit(5, feature="export"), "kind"),
        (a_credit(5, kind=AskedKind.OVERRIDE), "credit_quantity"),
        (NewGrant(feature_key=FeatureKey("words"), kind=AskedKind.BONUS, enabled=True), "enabled"),
        (NewGrant(feature_key=FeatureKey("words"), kind=AskedKind.OVERRIDE, config_value=1), "config_value"),
        (
            NewGrant(feature_key=FeatureKey("history"), kind=AskedKind.OVERRIDE, limit=LimitOverride(quantity=1)),
            "limit",
        ),
        (a_credit(5, expire_time=BEGIN), "expire_time"),
        (a_credit(5, start_time=BEGIN + DAY, expire_time=BEGIN + timedelta(hours=1)), "expire_time"),
        (a_credit(5, feature="devices", recurrence=PeriodKind.MONTH), "recurrence"),
        (a_credit(5, rollover=Rollover()), "rollover"),
        (
            a_credit(5, recurrence=PeriodKind.DAY, rollover=Rollover(min_quantity=3, max_quantity=2)),
            "rollover.max_quantity",
        ),
        (
            NewGrant(
                feature_key=FeatureKey("devices"),
                kind=AskedKind.OVERRIDE,
                limit=LimitOverride(quantity=1, period_kind=PeriodKind.DAY),
            ),
            "limit.period",
        ),
    ],
)
async def test_what_does_not_fit_is_refused_by_name(server: Service, wanted: NewGrant, field: str) -> None:
    await known(server)
    before = (await look(server)).revision
    with pytest.raises(InvalidRequest) as refused:
        await give(server, wanted)
    assert [violation.field for violation in refused.value.violations] == [field]
    assert (await look(server)).revision == before


@pytest.mark.parametrize(
    ("what", "more", "field"),
    [
        (FeatureOverride.ENABLED, {"grace_days": 1}, "grace_days"),
        (FeatureOverride.DISABLED, {"grace_days": 91}, "grace_days"),
        (FeatureOverride.DISABLED, {"expire_time": BEGIN}, "expire_time"),
        (FeatureOverride.CLEARED, {"expire_time": BEGIN + DAY}, "expire_time"),
    ],
)
async def test_a_switch_that_makes_no_sense_is_refused(
    server: Service, what: FeatureOverride, more: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await override(server, "export", what, **more)
    assert refused.value.violations[0].field == field


async def test_what_is_not_there_is_said(server: Service, fresh_database: str) -> None:
    with pytest.raises(FeatureNotFound):
        await give(server, a_credit(5, feature="nothing"))
    with pytest.raises(NotFound):
        await server.grants.revoke(CREDITA, ANN, "grant_0", reason="none")
    await known(server)
    view = await give(server, a_credit(5))
    with pytest.raises(NotFound):
        await server.grants.revoke(CREDITA, BOB, view.grant.grant_id, reason="not his")
    await _by_hand(fresh_database, "UPDATE accounts SET state = 'deleted'")
    with pytest.raises(AccountDeleted):
        await give(server, a_credit(5))


async def test_an_account_has_room_for_so_many_grants(server: Service, fresh_database: str) -> None:
    await known(server)
    await _by_hand(
        fresh_database,
        "INSERT INTO grants (tenant_id, account_id, grant_id, feature_key, kind, quantity, start_time, expire_time)"
        f" SELECT 'credita', 'ann', 'g' || n, 'words', 'bonus', 1, '{BEGIN}',"
        f" CASE WHEN n = 0 THEN '{BEGIN}'::timestamptz END FROM generate_series(0, {GRANTS_PER_ACCOUNT_MAX - 1}) AS n",
    )
    # One of them is over, which makes room for one more.
    await give(server, a_credit(5))
    with pytest.raises(InvalidRequest, match=f"{GRANTS_PER_ACCOUNT_MAX} is the most"):
        await give(server, a_credit(5))


# --- Taking back, listing, telling --------------------------------------------------------------------------


async def test_what_was_used_of_a_revoked_grant_stays_used(pair: list[Service]) -> None:
    first, second = pair
    grant = await give(first, a_credit(5))
    assert await spent(first, 12)

    revoked = await first.grants.revoke(CREDITA, ANN, grant.grant.grant_id, reason="refund", actor="ops")

    assert (revoked.state, revoked.used_quantity, revoked.remaining_quantity) == (GrantState.REVOKED, 2, 0)
    assert revoked.revision == grant.revision + 1
    assert await standing(second) == (12, 12, 0)
    again = await second.grants.revoke(CREDITA, ANN, grant.grant.grant_id, reason="again")
    assert (again.revision, again.row.revoke_reason) == (revoked.revision, "refund")


async def test_grants_are_listed_newest_first_in_pages(server: Service, clock: FrozenClock) -> None:
    made = []
    for n in range(5):
        made.append(await give(server, a_credit(1 + n), account_id=AccountId(f"a{n % 2}")))
        clock.advance(timedelta(seconds=1))
    ids = [view.grant.grant_id for view in reversed(made)]

    listed: list[str] = []
    position = None
    for size in (2, 2, 1):
        page = await server.grants.page(CREDITA, before=position, limit=2)
        assert len(page.grants) == size
        listed += [view.grant.grant_id for view in page.grants]
        position = page.position

    assert listed == ids
    assert position is None
    of_one = await server.grants.page(CREDITA, account_id="a1", limit=10)
    assert [view.grant.grant_id for view in of_one.grants] == [ids[1], ids[3]]


async def test_each_state_is_told_from_the_others(server: Service, clock: FrozenClock) -> None:
    await known(server)
    wanted = {
        GrantState.PENDING: a_credit(1, start_time=BEGIN + 2 * DAY),
        GrantState.ACTIVE: a_credit(3, priority=2),
        GrantState.USED_UP: a_credit(2, priority=1),
        GrantState.EXPIRED: a_credit(1, priority=3, expire_time=BEGIN + timedelta(hours=1)),
        GrantState.REVOKED: a_credit(1, priority=4),
    }
    made = {state: (await give(server, each)).grant.grant_id for state, each in wanted.items()}
    assert await spent(server, 13)
    await server.grants.revoke(CREDITA, ANN, made[GrantState.REVOKED], reason="over")
    clock.advance(timedelta(hours=1))

    for state, grant_id in made.items():
        page = await server.grants.page(CREDITA, state=state, limit=10)
        assert [view.grant.grant_id for view in page.grants] == [grant_id], state


async def test_every_change_is_audited_and_told(server: Service, fresh_database: str, clock: FrozenClock) -> None:
    grant = await give(server, a_credit(5, metadata={"order": "o1"}))
    await override(server, "export", FeatureOverride.ENABLED, actor="ops")
    await override(server, "export", FeatureOverride.DISABLED, actor="ops")
    await server.grants.revoke(CREDITA, ANN, grant.grant.grant_id, reason="refund", actor="ops")

    audit = await _of_tenant(fresh_database, "SELECT * FROM audit_entries WHERE action LIKE 'grant.%' ORDER BY 1, 2")
    assert sorted((row["action"], row["actor"]) for row in audit) == [
        ("grant.create", "ops"),
        ("grant.create", "ops"),
        ("grant.create", "tester"),
        ("grant.revoke", "ops"),
        ("grant.revoke", "ops"),
    ]
    events = await _of_tenant(fresh_database, "SELECT * FROM outbox_events WHERE type LIKE 'grant.%'")
    assert sorted(row["type"] for row in events) == ["grant.created"] * 3 + ["grant.revoked"] * 2
    changed = await _of_tenant(
        fresh_database, "SELECT revision FROM outbox_events WHERE type = 'entitlement.changed' AND account_id = 'ann'"
    )
    assert len({row["revision"] for row in changed}) == len(changed)


async def test_what_expires_soon_is_announced_once(
    pair: list[Service], fresh_database: str, clock: FrozenClock
) -> None:
    await known(pair[0])
    soon = await give(pair[0], a_credit(5, expire_time=BEGIN + 8 * DAY))
    await give(pair[0], a_credit(5, expire_time=BEGIN + 20 * DAY))
    gone = await give(pair[0], a_credit(5, expire_time=BEGIN + 8 * DAY))
    await pair[0].grants.revoke(CREDITA, ANN, gone.grant.grant_id, reason="over")
    revision = (await look(pair[0])).revision
    assert await pair[0].expiring_grants.tell() == {}
    clock.advance(DAY)

    told = await asyncio.gather(*(server.expiring_grants.tell() for server in pair))

    assert sum(each.get("told", 0) for each in told) == 1
    assert await pair[1].expiring_grants.tell() == {}
    events = await _of_tenant(fresh_database, "SELECT * FROM outbox_events WHERE type = 'grant.expiring'")
    assert [(row["account_id"], soon.grant.grant_id in row["payload"]) for row in events] == [("ann", True)]
    assert (await look(pair[0])).revision == revision


async def test_tenants_do_not_see_each_others_grants(server: Service, fresh_database: str) -> None:
    await give(server, a_credit(5), request_id="r1")
    assert await spent(server, 12)
    database = Database(fresh_database, pool_size=1)
    try:
        async with database.tenant_transaction(TenantId(ACME)) as connection:
            for table in ("grants", "grant_balances", "grant_requests"):
                assert (await connection.exec_driver_sql(f"SELECT count(*) FROM {table}")).scalar() == 0
        async with database.tenant_transaction(CREDITA) as connection:
            for table in ("grants", "grant_balances", "grant_requests"):
                assert (await connection.exec_driver_sql(f"SELECT count(*) FROM {table}")).scalar() == 1
    finally:
        await database.close()


async def test_without_postgres_nobody_guesses_what_credits_leave(server: Service) -> None:
    await give(server, a_credit(5))
    assert (await look(server)).limit_quantity == 15
    server.ledger.doubt()
    outcome = (await server.meter.increment_many([an_increment("words", tenant_id=CREDITA)], atomic=False))[0]
    assert isinstance(outcome, TallygateError) or outcome.limit_quantity == 15


async def _by_hand(database_url: str, sql: str) -> None:
    """Do what a person with the application's role does."""
    connection = await connect(database_url, DatabaseRole.APP)
    try:
        await connection.execute("SELECT set_config('tallygate.tenant_id', 'credita', false)")
        await connection.execute(sql)
    finally:
        await connection.close()


async def _of_tenant(database_url: str, sql: str) -> list[dict[str, Any]]:
    connection = await connect(database_url, DatabaseRole.READER)
    try:
        await connection.execute("SELECT set_config('tallygate.tenant_id', 'credita', false)")
        return [dict(row) for row in await connection.fetch(sql)]
    finally:
        await connection.close()
