"""Planned changes, pauses, ends and trials: right at every instant, and written down by the job afterwards."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event

from tallygate_server.catalog import CatalogSource
from tallygate_server.domain.catalog import BillingInterval
from tallygate_server.domain.entitlement import resolve
from tallygate_server.domain.identifier import AccountId, PlanKey, TenantId
from tallygate_server.domain.subscription import BillingProvider, ScheduledChangeKind, SubscriptionState
from tallygate_server.errors import (
    IllegalTransition,
    InvalidRequest,
    NotFound,
    SubscriptionExists,
    SubscriptionNotFound,
)
from tallygate_server.storage.engine import DatabaseRole, connect
from tallygate_server.storage.sources import read_documents, sources_from_document
from tallygate_server.subscriptions import ChangeTiming, NewSubscription, SubscriptionView
from tests.support.use_cases import UseCases, use_cases

CLUB = TenantId("club")
ANNA, BERT = AccountId("anna"), AccountId("bert")
FREE, BASIC, PRO = PlanKey("free"), PlanKey("basic"), PlanKey("pro")
MANUAL = BillingProvider.MANUAL
DAY = dt.timedelta(days=1)
MOMENT = dt.timedelta(microseconds=1)
STATE = SubscriptionState

CATALOG = """
tenant: club
default_plan: free
auto_provision: true
currency: USD
features: {words: counter, export: boolean, seats: gauge}
plans:
  free: {rank: 0, allowances: {words: {limit: 10, period: day}}}
  basic:
    rank: 10
    prices: {month: 5, year: 50}
    allowances: {words: {limit: 500, period: month, anchor: billing}, seats: 2}
  pro:
    rank: 20
    trial_days: 10
    prices: {month: 10, year: 100}
    allowances: {words: {limit: 1000, period: month, anchor: billing}, export: on, seats: 5}
"""


@pytest.fixture
async def world(database_without_tenants: str) -> AsyncIterator[UseCases]:
    async with use_cases(database_without_tenants) as running:
        await running.catalogs.apply(CatalogSource(CATALOG))
        yield running


async def buy(world: UseCases, plan: PlanKey = PRO, account_id: AccountId = ANNA, **wanted: object) -> SubscriptionView:
    new = NewSubscription(plan_key=plan, provider=MANUAL, **({"trial_days": 0} | wanted))  # type: ignore[arg-type]
    return await world.subscriptions.create(CLUB, account_id, new)


def id_of(view: SubscriptionView) -> str:
    return view.subscription.subscription_id


async def words(world: UseCases, account_id: AccountId = ANNA) -> int | None:
    """Read the limit as the hot path would."""
    connection = await connect(world.url, DatabaseRole.APP)
    try:
        (_, document) = (await read_documents(connection, CLUB, [account_id], world.clock.now()))[account_id]
    finally:
        await connection.close()
    sources = sources_from_document(CLUB, account_id, document)
    entitlement = resolve(sources, world.clock.now()).entitlements.get("words")
    return None if entitlement is None or entitlement.denied is not None else entitlement.limit_quantity


async def events(world: UseCases, target: str) -> list[str]:
    found = await world.fetch(
        "SELECT type, payload FROM outbox_events WHERE type LIKE 'subscription.%' ORDER BY event_id", tenant_id=CLUB
    )
    return [
        row["type"].removeprefix("subscription.")
        for row in found
        if json.loads(row["payload"])["subscription"]["subscription_id"] == target
    ]


async def causes(world: UseCases, target: str) -> list[str]:
    return [step.action for step in await world.subscriptions.history(CLUB, ANNA, subscription_id=target)]


async def change_states(world: UseCases) -> list[str]:
    rows = await world.fetch("SELECT state FROM scheduled_changes ORDER BY create_time, state", tenant_id=CLUB)
    return [row["state"] for row in rows]


# --- Planned moves ------------------------------------------------------------------------------------------


async def test_a_downgrade_takes_effect_at_the_period_end_with_or_without_the_job(world: UseCases) -> None:
    bought = await buy(world)
    target, end = id_of(bought), bought.current_period_end
    assert end is not None
    world.clock.advance(10 * DAY)

    later = await world.subscriptions.change_plan(
        CLUB, ANNA, plan_key=BASIC, subscription_id=target, actor="anna", reason="cheaper"
    )

    assert later.subscription == bought.subscription
    planned = later.scheduled_change
    assert planned is not None
    assert (planned.kind, planned.plan_key, planned.effective_time) == (ScheduledChangeKind.PLAN, BASIC, end)
    assert (planned.actor, planned.interval) == ("anna", BillingInterval.MONTH)
    world.clock.set(end - MOMENT)
    assert await words(world) == 1000
    world.clock.set(end)
    assert await words(world) == 500
    shown = await world.subscriptions.get(CLUB, target)
    assert (shown.subscription.plan_key, shown.scheduled_change) == (BASIC, None)
    assert shown.subscription.start_time == bought.subscription.start_time
    assert (await world.fetch("SELECT plan_key FROM subscriptions WHERE plan_key <> 'free'", tenant_id=CLUB)) == [
        {"plan_key": "pro"}
    ]

    assert await world.due.write_down() == {"steps": 1}

    assert await words(world) == 500
    written = await world.subscriptions.get(CLUB, target)
    assert replace(written, update_time=shown.update_time) == shown
    assert await causes(world, target) == ["create", "change_plan", "scheduled_change"]
    steps = await world.subscriptions.list_changes(CLUB, ANNA, subscription_id=target, limit=1)
    assert (steps[0].actor, steps[0].reason, steps[0].change_time) == ("anna", "cheaper", end)
    assert (steps[0].plan_key_before, steps[0].plan_key_after) == (PRO, BASIC)
    assert await events(world, target) == ["created", "scheduled", "changed"]
    assert await change_states(world) == ["done"]
    assert await world.due.write_down() == {}


async def test_a_move_can_wait_for_any_time(world: UseCases) -> None:
    target = id_of(await buy(world))
    at = world.clock.now() + 5 * DAY

    view = await world.subscriptions.change_plan(
        CLUB, ANNA, plan_key=BASIC, interval=BillingInterval.YEAR, quantity=3, subscription_id=target,
        timing=ChangeTiming.AT_TIME, effective_time=at,
    )  # fmt: skip

    assert view.scheduled_change is not None
    assert view.scheduled_change.effective_time == at
    world.clock.set(at)
    shown = await world.subscriptions.get(CLUB, target)
    assert (shown.subscription.interval, shown.subscription.quantity) == (BillingInterval.YEAR, 3)
    # Another interval begins a period of its own.
    assert shown.current_period_start == at


async def test_a_planned_move_takes_the_version_that_was_newest_when_it_was_asked_for(world: UseCases) -> None:
    bought = await buy(world)
    await world.subscriptions.change_plan(CLUB, ANNA, plan_key=BASIC, subscription_id=id_of(bought))
    await world.catalogs.apply(CatalogSource(CATALOG.replace("limit: 500,", "limit: 400,")))

    assert bought.current_period_end is not None
    world.clock.set(bought.current_period_end)

    assert await words(world) == 500


async def test_a_second_plan_replaces_the_first_and_asking_twice_changes_nothing(world: UseCases) -> None:
    target = id_of(await buy(world))
    first = await world.subscriptions.change_plan(CLUB, ANNA, plan_key=BASIC, subscription_id=target)

    again = await world.subscriptions.change_plan(CLUB, ANNA, plan_key=BASIC, subscription_id=target)
    second = await world.subscriptions.change_plan(CLUB, ANNA, plan_key=BASIC, quantity=2, subscription_id=target)

    assert again == first
    assert second.scheduled_change is not None
    assert second.scheduled_change.quantity == 2
    assert sorted(await change_states(world)) == ["canceled", "pending"]
    assert await events(world, target) == ["created", "scheduled", "schedule_canceled", "scheduled"]


async def test_a_planned_move_can_be_taken_back(world: UseCases) -> None:
    bought = await buy(world)
    target = id_of(bought)
    planned = (
        await world.subscriptions.change_plan(CLUB, ANNA, plan_key=BASIC, subscription_id=target)
    ).scheduled_change
    assert planned is not None
    with pytest.raises(NotFound):
        await world.subscriptions.cancel_scheduled_change(
            CLUB, ANNA, subscription_id=target, scheduled_change_id="chg_other"
        )

    view = await world.subscriptions.cancel_scheduled_change(
        CLUB, ANNA, subscription_id=target, scheduled_change_id=planned.scheduled_change_id
    )

    assert view.scheduled_change is None
    assert bought.current_period_end is not None
    world.clock.set(bought.current_period_end + DAY)
    assert await words(world) == 1000
    assert await world.due.write_down() == {}
    assert await change_states(world) == ["canceled"]
    with pytest.raises(NotFound):
        await world.subscriptions.cancel_scheduled_change(CLUB, ANNA, subscription_id=target)


async def test_staying_as_it_is_drops_what_is_planned(world: UseCases) -> None:
    target = id_of(await buy(world))
    await world.subscriptions.change_plan(CLUB, ANNA, plan_key=BASIC, subscription_id=target)

    view = await world.subscriptions.change_plan(CLUB, ANNA, plan_key=PRO, subscription_id=target)

    assert view.scheduled_change is None
    assert await change_states(world) == ["canceled"]


async def test_a_downgrade_to_the_free_plan_ends_it_where_the_account_has_that_plan_anyway(world: UseCases) -> None:
    bought = await buy(world)
    target = id_of(bought)

    view = await world.subscriptions.change_plan(CLUB, ANNA, plan_key=FREE, subscription_id=target)

    assert view.scheduled_change is not None
    assert view.scheduled_change.plan_key == FREE
    assert view.end_time == bought.current_period_end
    assert bought.current_period_end is not None
    world.clock.set(bought.current_period_end)
    assert await words(world) == 10
    await world.due.write_down()
    found = await world.subscriptions.list(CLUB, account_id=ANNA, limit=10)
    assert {(each.subscription.plan_key, each.subscription.state) for each in found} == {
        (PRO, STATE.CANCELED),
        (FREE, STATE.ACTIVE),
    }


async def test_a_downgrade_to_a_free_plan_that_the_account_lacks_moves_the_subscription(world: UseCases) -> None:
    bought = await buy(world)
    (free,) = await world.subscriptions.list(CLUB, account_id=ANNA, plan_key=FREE, limit=2)
    await world.subscriptions.cancel(CLUB, ANNA, subscription_id=id_of(free))

    await world.subscriptions.change_plan(CLUB, ANNA, plan_key=FREE)

    assert bought.current_period_end is not None
    world.clock.set(bought.current_period_end)
    assert await words(world) == 10
    await world.due.write_down()
    shown = await world.subscriptions.get(CLUB, id_of(bought))
    assert (shown.subscription.plan_key, shown.subscription.provider) == (FREE, BillingProvider.NONE)
    assert shown.subscription.state is STATE.ACTIVE


async def test_the_price_that_a_move_is_planned_to_is_taken(world: UseCases) -> None:
    target = id_of(await buy(world))
    await world.subscriptions.change_plan(CLUB, ANNA, plan_key=BASIC, subscription_id=target)

    with pytest.raises(SubscriptionExists, match="planned to move"):
        await buy(world, BASIC)


async def test_nothing_is_planned_for_after_the_end(world: UseCases) -> None:
    bought = await buy(world)
    target = id_of(bought)
    await world.subscriptions.cancel(CLUB, ANNA, subscription_id=target)

    with pytest.raises(InvalidRequest, match="resume it first"):
        await world.subscriptions.change_plan(CLUB, ANNA, plan_key=BASIC, subscription_id=target)
    with pytest.raises(InvalidRequest, match="resume it first"):
        await world.subscriptions.pause(CLUB, ANNA, subscription_id=target)


@pytest.mark.parametrize(
    ("timing", "days"),
    [(ChangeTiming.AT_TIME, None), (ChangeTiming.AT_TIME, 0), (ChangeTiming.NOW, 1), (None, 1)],
)
async def test_a_time_and_its_timing_belong_together(
    world: UseCases, timing: ChangeTiming | None, days: int | None
) -> None:
    target = id_of(await buy(world))
    at = None if days is None else world.clock.now() + days * DAY

    with pytest.raises(InvalidRequest, match="effective_time"):
        await world.subscriptions.change_plan(
            CLUB, ANNA, plan_key=BASIC, subscription_id=target, timing=timing, effective_time=at
        )
    with pytest.raises(InvalidRequest, match="effective_time"):
        await world.subscriptions.cancel(CLUB, ANNA, subscription_id=target, timing=timing, effective_time=at)
    with pytest.raises(InvalidRequest, match="effective_time"):
        await world.subscriptions.pause(CLUB, ANNA, subscription_id=target, timing=timing, effective_time=at)


# --- Ends ---------------------------------------------------------------------------------------------------


async def test_a_cancellation_drops_what_is_planned_and_can_be_taken_back(world: UseCases) -> None:
    bought = await buy(world)
    target = id_of(bought)
    await world.subscriptions.change_plan(CLUB, ANNA, plan_key=BASIC, subscription_id=target)

    canceled = await world.subscriptions.cancel(CLUB, ANNA, subscription_id=target)
    resumed = await world.subscriptions.resume(CLUB, ANNA)

    assert canceled.scheduled_change is not None
    assert canceled.scheduled_change.kind is ScheduledChangeKind.CANCELLATION
    assert canceled.ends_with_period
    assert resumed.subscription == bought.subscription
    assert (resumed.scheduled_change, resumed.end_time) == (None, None)
    assert await causes(world, target) == ["create", "change_plan", "cancel", "resume"]


async def test_a_subscription_is_canceled_at_a_given_time(world: UseCases) -> None:
    bought = await buy(world)
    target, at = id_of(bought), world.clock.now() + 45 * DAY

    view = await world.subscriptions.cancel(
        CLUB, ANNA, subscription_id=target, timing=ChangeTiming.AT_TIME, effective_time=at
    )

    assert (view.end_time, view.ends_with_period) == (at, False)
    assert view.current_period_end == bought.current_period_end
    world.clock.set(at - MOMENT)
    assert await words(world) == 1000
    assert (await world.subscriptions.get(CLUB, target)).ends_with_period
    world.clock.set(at)
    assert await words(world) == 10
    await world.due.write_down()
    assert (await world.subscriptions.get(CLUB, target)).subscription.state is STATE.CANCELED
    assert await events(world, target) == ["created", "changed", "canceled"]


async def test_a_cancellation_of_a_fixed_term_that_is_taken_back_leaves_the_term(world: UseCases) -> None:
    end = world.clock.now() + 400 * DAY
    bought = await buy(world, end_time=end)
    canceled = await world.subscriptions.cancel(CLUB, ANNA, subscription_id=id_of(bought))
    assert canceled.end_time == bought.current_period_end

    taken_back = await world.subscriptions.cancel_scheduled_change(CLUB, ANNA, subscription_id=id_of(bought))

    assert taken_back.subscription == bought.subscription
    assert taken_back.end_time == end


async def test_no_cancellation_puts_a_fixed_end_off(world: UseCases) -> None:
    end = world.clock.now() + 10 * DAY
    target = id_of(await buy(world, end_time=end))

    async def cancel_at(time: dt.datetime) -> SubscriptionView:
        return await world.subscriptions.cancel(
            CLUB, ANNA, subscription_id=target, timing=ChangeTiming.AT_TIME, effective_time=time
        )

    with pytest.raises(InvalidRequest, match="ends at 2026-03-25 12:00:00 UTC anyway"):
        await cancel_at(end + DAY)
    assert (await cancel_at(end - 5 * DAY)).end_time == end - 5 * DAY
    assert (await cancel_at(end - DAY)).end_time == end - DAY
    with pytest.raises(InvalidRequest, match="anyway"):
        await cancel_at(end + DAY)


async def test_what_expires_is_written_down_once(world: UseCases) -> None:
    bought = await buy(world, end_time=world.clock.now() + DAY)
    world.clock.advance(3 * DAY)

    assert await world.due.write_down() == {"steps": 1}
    assert await world.due.write_down() == {}

    rows = await world.fetch("SELECT state FROM subscriptions WHERE plan_key = 'pro'", tenant_id=CLUB)
    assert rows == [{"state": "expired"}]
    step = (await world.subscriptions.list_changes(CLUB, ANNA, limit=1))[0]
    assert (step.cause, step.actor, step.change_time) == ("expiry", "clock", bought.end_time)
    assert await events(world, id_of(bought)) == ["created", "expired"]


async def test_resuming_needs_something_to_resume(world: UseCases) -> None:
    target = id_of(await buy(world))

    with pytest.raises(IllegalTransition, match="from active to active"):
        await world.subscriptions.resume(CLUB, ANNA, subscription_id=target)
    with pytest.raises(SubscriptionNotFound):
        await world.subscriptions.resume(CLUB, ANNA)
    await world.subscriptions.cancel(CLUB, ANNA, subscription_id=target, timing=ChangeTiming.NOW)
    with pytest.raises(IllegalTransition, match="from canceled to active"):
        await world.subscriptions.resume(CLUB, ANNA, subscription_id=target)
    with pytest.raises(IllegalTransition, match="from canceled to paused"):
        await world.subscriptions.pause(CLUB, ANNA, subscription_id=target)


# --- Pauses -------------------------------------------------------------------------------------------------


async def test_a_pause_gives_no_access_until_it_is_resumed_and_moves_no_period(world: UseCases) -> None:
    bought = await buy(world)
    target = id_of(bought)

    paused = await world.subscriptions.pause(CLUB, ANNA, subscription_id=target, timing=ChangeTiming.NOW)

    assert paused.subscription.state is STATE.PAUSED
    assert await words(world) == 10
    with pytest.raises(IllegalTransition, match="from paused to paused"):
        await world.subscriptions.pause(CLUB, ANNA, subscription_id=target, timing=ChangeTiming.NOW)
    world.clock.advance(3 * DAY)
    resumed = await world.subscriptions.resume(CLUB, ANNA)
    assert resumed.subscription == bought.subscription
    assert await words(world) == 1000
    assert await events(world, target) == ["created", "paused", "resumed"]


async def test_a_pause_waits_for_the_period_end_and_ends_by_itself(world: UseCases) -> None:
    bought = await buy(world)
    target, end = id_of(bought), bought.current_period_end
    assert end is not None

    view = await world.subscriptions.pause(CLUB, ANNA, subscription_id=target, resume_time=end + 7 * DAY)

    assert view.subscription.state is STATE.ACTIVE
    assert view.scheduled_change is not None
    assert (view.scheduled_change.kind, view.scheduled_change.effective_time) == (ScheduledChangeKind.PAUSE, end)
    seen = []
    for instant in (end - MOMENT, end, end + 7 * DAY - MOMENT, end + 7 * DAY):
        world.clock.set(instant)
        shown = await world.subscriptions.get(CLUB, target)
        seen.append((await words(world), shown.subscription.state))
    assert seen == [(1000, STATE.ACTIVE), (10, STATE.PAUSED), (10, STATE.PAUSED), (1000, STATE.ACTIVE)]
    # However late the job comes, both steps are written down, each with its own time.
    assert await world.due.write_down() == {"steps": 2}
    steps = await world.subscriptions.history(CLUB, ANNA, subscription_id=target)
    assert [(step.action, step.create_time) for step in steps[-2:]] == [
        ("scheduled_change", end),
        ("resumption", end + 7 * DAY),
    ]


async def test_the_end_of_a_pause_can_be_taken_back(world: UseCases) -> None:
    bought = await buy(world)
    paused = await world.subscriptions.pause(
        CLUB, ANNA, subscription_id=id_of(bought), timing=ChangeTiming.NOW, resume_time=world.clock.now() + DAY
    )
    assert paused.scheduled_change is not None
    assert paused.scheduled_change.kind is ScheduledChangeKind.RESUMPTION

    view = await world.subscriptions.cancel_scheduled_change(
        CLUB, ANNA, subscription_id=id_of(bought), scheduled_change_id=paused.scheduled_change.scheduled_change_id
    )

    assert view.scheduled_change is None
    world.clock.advance(9 * DAY)
    assert (await world.subscriptions.get(CLUB, id_of(bought))).subscription.state is STATE.PAUSED


async def test_a_pause_ends_after_it_began(world: UseCases) -> None:
    target = id_of(await buy(world))

    with pytest.raises(InvalidRequest, match="resume_time"):
        await world.subscriptions.pause(CLUB, ANNA, subscription_id=target, resume_time=world.clock.now() + DAY)
    with pytest.raises(InvalidRequest, match="resume_time"):
        await world.subscriptions.pause(
            CLUB, ANNA, subscription_id=target, timing=ChangeTiming.NOW, resume_time=world.clock.now()
        )


async def test_what_costs_nothing_pauses_at_once(world: UseCases) -> None:
    await world.accounts.provision(CLUB, ANNA)

    view = await world.subscriptions.pause(CLUB, ANNA)

    assert view.subscription.state is STATE.PAUSED
    assert await words(world) is None


# --- Retries ------------------------------------------------------------------------------------------------


async def test_every_change_gives_its_first_answer_again(world: UseCases) -> None:
    target = id_of(await buy(world))
    use = world.subscriptions

    async def each() -> list[SubscriptionView]:
        return [
            await use.change_plan(CLUB, ANNA, plan_key=BASIC, subscription_id=target, request_id="move"),
            await use.pause(CLUB, ANNA, subscription_id=target, timing=ChangeTiming.NOW, request_id="pause"),
            await use.resume(CLUB, ANNA, subscription_id=target, request_id="resume"),
            await use.cancel(CLUB, ANNA, subscription_id=target, request_id="cancel"),
        ]

    first = await each()
    world.clock.advance(DAY)
    again = await each()

    assert all(view.replayed for view in again)
    assert [replace(view, revision=0, replayed=False) for view in again] == [
        replace(view, revision=0) for view in first
    ]
    assert again[0].scheduled_change is not None
    assert len(await causes(world, target)) == 5


# --- The job ------------------------------------------------------------------------------------------------


async def test_a_trial_is_announced_once_and_then_becomes_a_subscription(world: UseCases) -> None:
    bought = await buy(world, trial_days=10)
    target = id_of(bought)
    assert await world.due.tell() == {}
    world.clock.advance(7 * DAY)

    assert await world.due.tell() == {"told": 1}
    assert await world.due.tell() == {}
    world.clock.advance(3 * DAY)
    assert await world.due.write_down() == {"steps": 1}

    assert await events(world, target) == ["created", "trial_will_end", "changed"]
    assert await causes(world, target) == ["create", "trial_will_end", "trial_end"]
    assert await words(world) == 1000


async def test_the_end_of_a_grace_is_told_once_for_each_grace(world: UseCases) -> None:
    target = id_of(await buy(world))

    async def fall_behind(days: int) -> None:
        async with world.database.tenant_transaction(CLUB) as connection:
            await connection.exec_driver_sql(
                "UPDATE subscriptions SET state = 'past_due', provider = 'stripe', grace_end_time = $2"
                " WHERE subscription_id = $1",
                (target, world.clock.now() + days * DAY),
            )

    await fall_behind(2)
    assert await words(world) == 1000
    assert await world.due.tell() == {}
    world.clock.advance(2 * DAY)
    assert await words(world) == 10
    assert await world.due.tell() == {"told": 1}
    assert await world.due.tell() == {}
    await fall_behind(1)
    world.clock.advance(DAY)
    assert await world.due.tell() == {"told": 1}

    assert await events(world, target) == ["created", "grace_ended", "grace_ended"]
    shown = await world.subscriptions.get(CLUB, target)
    assert (shown.subscription.state, shown.grace_end_time) == (STATE.PAST_DUE, world.clock.now())


async def test_servers_that_do_the_same_work_at_once_do_it_once(world: UseCases, database_without_tenants: str) -> None:
    async with use_cases(database_without_tenants, world.clock) as other:
        for number in range(6):
            await buy(world, account_id=AccountId(f"a{number}"), end_time=world.clock.now() + DAY)
        world.clock.advance(2 * DAY)

        done = await asyncio.gather(*(side.due.write_down() for side in (world, other, world, other)))

    assert sum(each.get("steps", 0) for each in done) == 6
    steps = await world.fetch("SELECT count(*) FROM subscription_history WHERE action = 'expiry'", tenant_id=CLUB)
    assert steps == [{"count": 6}]


async def test_the_job_finds_what_is_due_in_every_tenant(world: UseCases) -> None:
    await world.catalogs.apply(CatalogSource(CATALOG.replace("tenant: club", "tenant: guild")))
    new = NewSubscription(plan_key=BASIC, provider=MANUAL, end_time=world.clock.now() + DAY)
    for tenant_id in (CLUB, TenantId("guild")):
        await world.subscriptions.create(tenant_id, ANNA, new)
    world.clock.advance(DAY)

    assert await world.due.write_down() == {"steps": 2}


async def test_looking_for_what_is_due_reads_indexes_and_no_table(world: UseCases) -> None:
    """Whatever the parameters: the plan that is made for any of them can use the partial indexes."""
    statements: list[str] = []
    lookups = world.lookups

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    engine = lookups._engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        await world.due.write_down()
        await world.due.tell()
    finally:
        event.remove(engine, "before_cursor_execute", note)

    assert len(statements) == 3
    used: set[str] = set()
    connection = await connect(world.url, DatabaseRole.INTAKE)
    try:
        await connection.execute("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan")
        for number, statement in enumerate(statements):
            await connection.execute(f"PREPARE looked_{number} AS {statement}")
            values = ", ".join(["NULL"] * len(set(re.findall(r"\$\d+", statement))))
            plan = await connection.fetch(f"EXPLAIN EXECUTE looked_{number} ({values})")
            used |= set(re.findall(r"(?:Scan using|Scan on) (\w+)", "\n".join(row[0] for row in plan)))
    finally:
        await connection.close()
    # Indexes of few rows, whichever of them is the cheapest just now, and never the whole of a table.
    assert used <= {
        "ix_subscriptions_ending",
        "ix_subscriptions_in_trial",
        "ix_subscriptions_resuming",
        "ix_subscriptions_overdue",
        "ix_scheduled_changes_due",
        "uq_scheduled_changes_pending",
        "subscriptions",
        "scheduled_changes",
    }, used
    assert "ix_subscriptions_ending" in used


async def test_one_account_that_cannot_be_done_keeps_no_other_waiting(world: UseCases) -> None:
    broken = id_of(await buy(world, end_time=world.clock.now() + DAY))
    await buy(world, account_id=BERT, end_time=world.clock.now() + DAY)
    world.clock.advance(DAY)
    async with world.database.tenant_transaction(CLUB) as connection:
        # A trial without an end and an end that it has not: what nobody writes, and nothing can be made of.
        await connection.exec_driver_sql(
            "UPDATE subscriptions SET period_start_time = period_end_time + interval '-1 second',"
            " quantity = 9223372036854775807, start_time = 'infinity' WHERE subscription_id = $1",
            (broken,),
        )

    outcome = await world.due.write_down()

    assert outcome.get("steps", 0) >= 1
    rows = await world.fetch(
        "SELECT state FROM subscriptions WHERE account_id = 'bert' AND plan_key = 'pro'", tenant_id=CLUB
    )
    assert rows == [{"state": "expired"}]


async def test_a_change_of_what_has_ended_otherwise_is_dropped_when_its_time_comes(world: UseCases) -> None:
    bought = await buy(world)
    await world.subscriptions.change_plan(CLUB, ANNA, plan_key=BASIC, subscription_id=id_of(bought))
    async with world.database.tenant_transaction(CLUB) as connection:
        await connection.exec_driver_sql("UPDATE subscriptions SET state = 'canceled' WHERE plan_key = 'pro'")
    world.clock.advance(40 * DAY)

    assert await world.due.write_down() == {"steps": 1}

    assert await change_states(world) == ["canceled"]
    assert await world.due.write_down() == {}


# --- Records ------------------------------------------------------------------------------------------------


async def test_history_is_paged_newest_first_and_says_what_changed(world: UseCases) -> None:
    bought = await buy(world)
    target = id_of(bought)
    await world.subscriptions.change_plan(
        CLUB, ANNA, plan_key=PRO, quantity=4, subscription_id=target, actor="anna", reason="more of us"
    )
    last = await world.subscriptions.cancel(CLUB, ANNA, subscription_id=target, timing=ChangeTiming.NOW, actor="ops")

    first_page = await world.subscriptions.list_changes(CLUB, ANNA, subscription_id=target, limit=2)
    rest = await world.subscriptions.list_changes(
        CLUB, ANNA, subscription_id=target, before_change_id=first_page[-1].change_id, limit=2
    )

    assert [step.cause for step in (*first_page, *rest)] == ["cancel", "change_plan", "create"]
    assert [step.actor for step in first_page] == ["ops", "anna"]
    assert first_page[0].revision == last.revision
    assert first_page[1].difference == {"quantity": {"before": 1, "after": 4}}
    assert first_page[1].reason == "more of us"
    assert rest[0].state_before is None
    assert rest[0].revision == bought.revision
    everything = await world.subscriptions.list_changes(CLUB, ANNA, limit=10)
    assert len(everything) == 4


async def test_lists_show_states_and_plans_of_now_page_by_page(world: UseCases) -> None:
    for number in range(5):
        world.clock.advance(DAY)
        account_id = AccountId(f"a{number}")
        bought = await buy(world, account_id=account_id)
        if number % 2:
            await world.subscriptions.change_plan(CLUB, account_id, plan_key=BASIC, subscription_id=id_of(bought))
        else:
            await world.subscriptions.pause(CLUB, account_id, subscription_id=id_of(bought))
    world.clock.advance(40 * DAY)

    async def listed(**filters: object) -> list[str]:
        found: list[str] = []
        before = ""
        while True:
            page = await world.subscriptions.list(CLUB, before_subscription_id=before, limit=1, **filters)  # type: ignore[arg-type]
            if not page:
                return found
            found.append(page[0].account_id)
            before = id_of(page[0])

    for _ in range(2):
        assert await listed(plan_key=BASIC) == ["a3", "a1"]
        assert await listed(plan_key=PRO) == ["a4", "a2", "a0"]
        assert await listed(states=[STATE.PAUSED]) == ["a4", "a2", "a0"]
        assert len(await listed(states=[STATE.ACTIVE])) == 7
        await world.due.write_down()
