"""Watchers hear everything first, then every change, once and in order, on every server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tallygate_server.catalog import CatalogSource
from tallygate_server.domain.call import IncrementAnswer
from tallygate_server.domain.entitlement import Reason
from tallygate_server.domain.identifier import AccountId, PlanKey, TenantId
from tallygate_server.domain.subscription import BillingProvider
from tallygate_server.errors import (
    AccountNotFound,
    Overloaded,
    StoreUnavailable,
    TenantNotFound,
    WatcherTooSlow,
)
from tallygate_server.service import Service
from tallygate_server.storage.engine import DatabaseRole, connect
from tallygate_server.subscriptions import ChangeTiming, NewSubscription
from tallygate_server.watching.changes import AccountSnapshot
from tallygate_server.watching.watches import WATCHERS_MAX, EntitlementWatches, Heartbeat
from tests.support.acme import ACME, ANN, a_check, an_increment, change_plan, outcome_of, services
from tests.support.clock import FrozenClock
from tests.support.eventually import eventually
from tests.support.watching import Following, following

NOBODY = AccountId("nobody")


@pytest.fixture
async def pair(acme_database: str, fresh_redis: str) -> AsyncIterator[list[Service]]:
    """Two servers, of which the first publishes what happens."""
    async with services(acme_database, fresh_redis, 2) as running:
        await running[0].events.publisher.start()
        await running[0].checker.check(a_check("ten"))
        yield running
        await running[0].events.publisher.close()


@asynccontextmanager
async def watches(service: Service, **changes: Any) -> AsyncIterator[EntitlementWatches]:
    """Make watches with other bounds than usual, which nobody tells of anything."""
    own = EntitlementWatches(
        checker=service.checker,
        accounts=service.hot_accounts,
        ledger=service.ledger,
        database=service.database,
        tenants=service.tenants,
        news=service.events.hub,
        clock=service.clock,
        **changes,
    )
    await own.start()
    try:
        yield own
    finally:
        await own.close()


def follow(service: Service, **more: Any) -> Any:
    return following(service.watches, ACME, ANN, **more)


def revisions(followed: Following) -> list[int]:
    return [change.revision for change in followed.changes]


# --- Snapshots -------------------------------------------------------------------------------------------


async def test_first_comes_everything_that_the_account_is_entitled_to(pair: list[Service]) -> None:
    await outcome_of(pair[0], an_increment("ten", 7))
    listed = await pair[1].checker.list_entitlements(ACME, ANN)

    async with follow(pair[1]) as followed:
        snapshot = await followed.began()

    # Of a limit of 0 nothing is left; it is had all the same.
    assert snapshot.entitlements == {
        key: answer for key, answer in listed if answer.reason.allows or answer.reason is Reason.EXHAUSTED
    }
    assert snapshot.entitlements["ten"].used_quantity == 7
    assert snapshot.revision == listed[0][1].revision


async def test_what_was_answered_before_a_watch_begins_is_in_its_snapshot(pair: list[Service]) -> None:
    async with follow(pair[1]) as first:
        await first.began()
        for n in range(20):
            revision = await change_plan(pair[0], ("pro", "free")[n % 2])
            async with follow(pair[1]) as followed:
                assert (await followed.began()).revision >= revision


async def test_an_account_that_may_be_made_is_made(pair: list[Service]) -> None:
    async with following(pair[0].watches, ACME, AccountId("newcomer")) as followed:
        snapshot = await followed.began()

    assert snapshot.entitlements["ten"].plan_key == "free"


async def test_named_features_are_all_that_is_told(pair: list[Service]) -> None:
    async with follow(pair[0], feature_keys=("ten", "export")) as followed:
        snapshot = await followed.began()
        revision = await change_plan(pair[0], "bare")
        (change,) = await followed.reached(revision)

    assert set(snapshot.entitlements) == {"ten", "export"}
    assert (set(change.changed), change.removed) == ({"ten"}, ("export",))


# --- Changes by revision ---------------------------------------------------------------------------------


async def test_each_change_is_told_on_every_server_once_and_in_order(pair: list[Service]) -> None:
    async with follow(pair[0]) as one, follow(pair[1]) as other:
        start = last = (await one.began()).revision
        await other.began()
        for n in range(30):
            last = await change_plan(pair[n % 2], ("pro", "bare", "free")[n % 3])
        await one.reached(last)
        await other.reached(last)

    for followed in (one, other):
        assert revisions(followed) == list(range(start + 1, last + 1))
        assert {change.cause for change in followed.changes} == {"subscription.updated"}
        limits = [change.changed["ten"].limit_quantity for change in followed.changes]
        assert limits == [20, 1, 10] * 10
        times = [change.change_time for change in followed.changes]
        assert times == sorted(times)


async def test_a_suspension_takes_everything_and_its_end_gives_it_back(pair: list[Service]) -> None:
    async with follow(pair[1]) as followed:
        snapshot = await followed.began()
        for suspend in (True, False, True, False):
            await pair[0].accounts.suspend(ACME, ANN, suspend=suspend)
        changes = await followed.reached(snapshot.revision + 4)

    everything = set(snapshot.entitlements)
    assert [change.cause for change in changes] == ["account.suspended", "account.reinstated"] * 2
    assert [(set(change.removed), set(change.changed)) for change in changes] == [
        (everything, set()),
        (set(), everything),
    ] * 2


async def test_a_revision_that_changes_none_of_the_features_is_told_all_the_same(pair: list[Service]) -> None:
    async with follow(pair[0], feature_keys=("hourly",)) as followed:
        await followed.began()
        async with pair[1].accounts._changes.begin(ACME, [ANN], actor="test", cause="catalog.changed") as change:
            pass
        (told,) = await followed.reached(change.revisions[ANN])

    assert (told.empty, told.cause) == (True, "catalog.applied")


async def test_a_change_by_hand_is_told(pair: list[Service], acme_database: str) -> None:
    async with follow(pair[0]) as followed:
        snapshot = await followed.began()
        connection = await connect(acme_database, DatabaseRole.APP)
        try:
            async with connection.transaction():
                await connection.execute("SELECT set_config('tallygate.tenant_id', 'acme', true)")
                await connection.execute("UPDATE accounts SET state = 'suspended' WHERE account_id = $1", ANN)
        finally:
            await connection.close()
        (change,) = await followed.reached(snapshot.revision + 1)

    assert set(change.removed) == set(snapshot.entitlements)


async def test_an_account_that_makes_no_sense_stops_nobody_else(pair: list[Service], acme_database: str) -> None:
    bob = AccountId("bob")
    async with follow(pair[0]) as followed, following(pair[0].watches, ACME, bob) as other:
        await followed.began()
        revision = (await other.began()).revision
        connection = await connect(acme_database, DatabaseRole.APP)
        try:
            async with connection.transaction():
                await connection.execute("SELECT set_config('tallygate.tenant_id', 'acme', true)")
                await connection.execute("UPDATE accounts SET time_zone = 'Nowhere' WHERE account_id = $1", ANN)
        finally:
            await connection.close()
        account = await pair[0].accounts.suspend(ACME, bob)
        changes = await other.reached(account.revision)

    assert (account.revision, len(changes)) == (revision + 1, 1)
    assert followed.changes == []


async def test_what_nobody_announced_is_found_by_looking_now_and_then(pair: list[Service], acme_database: str) -> None:
    async with watches(pair[0], poll_seconds=0.05) as own, following(own, ACME, ANN) as followed:
        snapshot = await followed.began()
        connection = await connect(acme_database, DatabaseRole.APP)
        try:
            async with connection.transaction():
                await connection.execute("SELECT set_config('tallygate.tenant_id', 'acme', true)")
                await connection.execute("SELECT set_config('tallygate.change', 'own', true)")
                await connection.execute("UPDATE accounts SET revision = revision + 3 WHERE account_id = $1", ANN)
        finally:
            await connection.close()
        (change,) = await followed.reached(snapshot.revision + 3)

    assert change.revision == snapshot.revision + 3


# --- Resuming --------------------------------------------------------------------------------------------


async def test_a_watch_that_resumes_where_nothing_has_changed_hears_changes_only(pair: list[Service]) -> None:
    async with follow(pair[0]) as before:
        seen = (await before.began()).revision
    async with follow(pair[1], resume_revision=seen) as followed:
        # Nothing comes first, so wait until it is attached.
        await eventually(lambda: any(each.watchers for each in pair[1].watches._watched.values()))
        revision = await change_plan(pair[0], "pro")
        await followed.reached(revision)

    assert [type(update).__name__ for update in followed.updates] == ["AccountChange"]
    assert revisions(followed) == [revision]


async def test_a_watch_that_resumes_from_an_older_revision_begins_with_everything(pair: list[Service]) -> None:
    async with follow(pair[0]) as before:
        seen = (await before.began()).revision
    revision = await change_plan(pair[0], "pro")

    for resume_revision in (seen, revision + 7):
        async with follow(pair[1], resume_revision=resume_revision) as followed:
            snapshot = await followed.began()
        assert snapshot.revision == revision
        assert snapshot.entitlements["ten"].limit_quantity == 20


# --- Usage -----------------------------------------------------------------------------------------------


async def test_thresholds_and_the_limit_are_told_and_not_every_increment(pair: list[Service]) -> None:
    """The marks of `ten` are 7, 8 and 10 units."""
    async with follow(pair[1], feature_keys=("ten", "words")) as followed:
        await followed.began()
        for _ in range(10):
            assert isinstance(await outcome_of(pair[0], an_increment("ten")), IncrementAnswer)
        last = await followed.caused("usage.exhausted")

    assert last.changed["ten"].reason is Reason.EXHAUSTED
    assert last.changed["ten"].used_quantity == 10
    assert 1 <= len(followed.changes) <= 3
    assert {change.cause for change in followed.changes[:-1]} <= {"usage.threshold_crossed"}
    assert all(set(change.changed) == {"ten"} for change in followed.changes)


async def test_a_threshold_alone_is_told(pair: list[Service]) -> None:
    async with follow(pair[1]) as followed:
        snapshot = await followed.began()
        await outcome_of(pair[0], an_increment("ten", 7))
        change = await followed.caused("usage.threshold_crossed")

    assert (change.revision, set(change.changed)) == (snapshot.revision, {"ten"})
    assert change.changed["ten"].threshold_quantity == 7


# --- Time ------------------------------------------------------------------------------------------------


CLUB = TenantId("club")
CATALOG = """
tenant: club
default_plan: free
auto_provision: true
currency: USD
features: {words: counter, export: boolean}
plans:
  free: {rank: 0, allowances: {words: {limit: 10, period: day, thresholds: [50%]}}}
  pro:
    rank: 20
    trial_days: 2
    grace_days: 3
    prices: {month: 10}
    allowances: {words: {limit: 1000, period: month, anchor: billing}, export: on}
"""
NOON = datetime(2026, 3, 15, 12, tzinfo=UTC)


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock(NOON)


@pytest.fixture
async def club(fresh_database: str, fresh_redis: str, clock: FrozenClock) -> AsyncIterator[Service]:
    async with services(fresh_database, fresh_redis, clock=clock) as (running,):
        await running.catalogs.apply(CatalogSource(CATALOG))
        await running.checker.check(a_check("words", tenant_id=CLUB))
        yield running


async def test_a_period_that_ends_is_told_without_anybody_doing_anything(club: Service, clock: FrozenClock) -> None:
    await outcome_of(club, an_increment("words", 6, tenant_id=CLUB))
    async with following(club.watches, CLUB, ANN) as followed:
        snapshot = await followed.began()
        clock.set(NOON.replace(hour=0) + timedelta(days=1))
        change = await followed.caused("period.reset")

    assert snapshot.entitlements["words"].used_quantity == 6
    assert change.changed["words"].used_quantity == 0
    assert change.changed["words"].reset_time == NOON.replace(hour=0) + timedelta(days=2)
    assert (change.revision, change.change_time) == (snapshot.revision, NOON.replace(hour=0) + timedelta(days=1))
    assert len(followed.changes) == 1


async def test_what_was_canceled_for_later_ends_by_itself(club: Service, clock: FrozenClock) -> None:
    bought = await club.subscriptions.create(
        CLUB, ANN, NewSubscription(plan_key=PlanKey("pro"), provider=BillingProvider.MANUAL)
    )
    ends = clock.now() + timedelta(hours=5)
    canceled = await club.subscriptions.cancel(
        CLUB,
        ANN,
        subscription_id=bought.subscription.subscription_id,
        timing=ChangeTiming.AT_TIME,
        effective_time=ends,
    )
    async with following(club.watches, CLUB, ANN) as followed:
        snapshot = await followed.began()
        clock.set(ends)
        await eventually(lambda: followed.changes)
        (change,) = followed.changes

    assert snapshot.revision == canceled.revision
    assert (change.revision, change.change_time) == (snapshot.revision, ends)
    assert (set(change.changed), change.removed) == ({"words"}, ("export",))
    assert change.changed["words"].plan_key == "free"


# --- Bounds ----------------------------------------------------------------------------------------------


async def test_a_slow_watcher_is_told_so_and_holds_no_more_than_its_bound(pair: list[Service]) -> None:
    async with watches(pair[0], buffer_max=3, poll_seconds=0.05) as own:
        updates = own.watch(ACME, ANN)
        async with aclosing(updates):
            snapshot = await anext(updates)
            assert isinstance(snapshot, AccountSnapshot)
            (watcher,) = own._watched[ACME, ANN].watchers
            for n in range(5):
                await change_plan(pair[0], ("pro", "free")[n % 2])
                own.mark(ACME, ANN)
                assert len(watcher.stream) <= 3
            await eventually(lambda: watcher.stream.ended)

            assert len(watcher.stream) == 0
            with pytest.raises(WatcherTooSlow) as raised:
                await anext(updates)
        assert raised.value.facts["revision"] == str(snapshot.revision)
        assert (own.watcher_count, own._watched) == (0, {})


async def test_as_many_changes_as_are_held_are_all_told(pair: list[Service]) -> None:
    async with watches(pair[0], buffer_max=3) as own:
        updates = own.watch(ACME, ANN)
        async with aclosing(updates):
            snapshot = await anext(updates)
            for n in range(3):
                await change_plan(pair[0], ("pro", "free")[n % 2])
            own.mark(ACME, ANN)

            told = [await anext(updates) for _ in range(3)]
    assert [each.revision for each in told] == [snapshot.revision + n for n in (1, 2, 3)]


async def test_watches_are_bounded_in_number(pair: list[Service]) -> None:
    assert WATCHERS_MAX >= 2_000
    async with watches(pair[0], watchers_max=2) as own:
        async with following(own, ACME, ANN) as one, following(own, ACME, ANN) as two:
            await one.began()
            await two.began()
            async with following(own, ACME, ANN) as three:
                assert isinstance(await three.failed(), Overloaded)
        async with following(own, ACME, ANN) as four:
            await four.began()


async def test_who_watches_nothing_that_is_there_hears_so(pair: list[Service]) -> None:
    await pair[0].catalogs.apply(CatalogSource(CATALOG.replace("auto_provision: true", "auto_provision: false")))

    async with following(pair[0].watches, CLUB, NOBODY) as followed:
        assert isinstance(await followed.failed(), AccountNotFound)
    async with following(pair[0].watches, TenantId("elsewhere"), NOBODY) as followed:
        assert isinstance(await followed.failed(), TenantNotFound)
    assert pair[0].watches.watcher_count == 0


async def test_signs_of_life_come_while_nothing_changes(pair: list[Service]) -> None:
    async with watches(pair[0], heartbeat_seconds=0.02) as own, following(own, ACME, ANN) as followed:
        snapshot = await followed.began()
        await eventually(lambda: len(followed.updates) >= 4)

    assert set(followed.updates[1:]) == {Heartbeat(snapshot.revision)}


async def test_the_end_of_the_server_ends_every_watch_and_refuses_new_ones(pair: list[Service]) -> None:
    async with watches(pair[0]) as own, following(own, ACME, ANN) as followed:
        await followed.began()
        own.end(StoreUnavailable("closing"))

        assert isinstance(await followed.failed(), StoreUnavailable)
        async with following(own, ACME, ANN) as late:
            assert isinstance(await late.failed(), StoreUnavailable)


async def test_nothing_is_kept_of_an_account_that_nobody_watches_any_more(pair: list[Service]) -> None:
    async with watches(pair[0]) as own:
        for _ in range(3):
            async with following(own, ACME, ANN) as followed, following(own, ACME, ANN) as twin:
                await asyncio.gather(followed.began(), twin.began())
                assert len(own._watched) == 1
        assert (own._watched, own._listening, own.watcher_count) == ({}, {}, 0)
