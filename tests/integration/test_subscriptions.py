from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest

from tallygate_server.catalog import CatalogSource
from tallygate_server.domain.catalog import BillingInterval
from tallygate_server.domain.entitlement import AccountSources, resolve
from tallygate_server.domain.identifier import AccountId, PlanKey, TenantId
from tallygate_server.domain.limits import SUBSCRIPTIONS_PER_ACCOUNT_MAX
from tallygate_server.domain.period import add_months
from tallygate_server.domain.subscription import LIVE_STATES, BillingProvider, SubscriptionState
from tallygate_server.errors import (
    AccountNotFound,
    BillingProviderNotConfigured,
    BillingProviderRequired,
    IllegalTransition,
    InvalidRequest,
    NotBuilt,
    PlanNotFound,
    PriceNotFound,
    RequestIdReused,
    SubscriptionExists,
    SubscriptionNotFound,
    TallygateError,
    TenantNotFound,
)
from tallygate_server.storage.engine import DatabaseRole, connect
from tallygate_server.storage.sources import read_documents, sources_from_document
from tallygate_server.subscriptions import ChangeTiming, NewSubscription, SubscriptionView, state_at
from tests.support.use_cases import LEKHAK, UseCases, example, use_cases

ANNA = AccountId("anna")
FITNESS = TenantId("technically-fit")
FREE, PRO, UNLIMITED, PREMIUM = PlanKey("free"), PlanKey("pro"), PlanKey("unlimited"), PlanKey("premium")
MANUAL, STRIPE = BillingProvider.MANUAL, BillingProvider.STRIPE
MONTH, YEAR = BillingInterval.MONTH, BillingInterval.YEAR
DAY = dt.timedelta(days=1)


@pytest.fixture
async def world(database_without_tenants: str) -> AsyncIterator[UseCases]:
    async with use_cases(database_without_tenants) as running:
        await running.catalogs.apply(example("lekhak"))
        await running.catalogs.apply(example("technically-fit"))
        await running.accounts.identify(FITNESS, [], account_id=ANNA)
        yield running


async def subscribe(world: UseCases, plan: PlanKey = PRO, **wanted: object) -> SubscriptionView:
    provider = wanted.pop("provider", MANUAL)
    new = NewSubscription(plan_key=plan, provider=provider, **wanted)  # type: ignore[arg-type]
    return await world.subscriptions.create(LEKHAK, ANNA, new)


async def sources(world: UseCases, tenant_id: TenantId = LEKHAK) -> AccountSources:
    """Read what the hot path would read."""
    connection = await connect(world.url, DatabaseRole.APP)
    try:
        (_, document) = (await read_documents(connection, tenant_id, [ANNA], world.clock.now()))[ANNA]
    finally:
        await connection.close()
    return sources_from_document(tenant_id, ANNA, document)


async def limit_of(world: UseCases, feature: str = "text_rewrite") -> int | None:
    entitlement = resolve(await sources(world), world.clock.now()).entitlements.get(feature)
    return None if entitlement is None or entitlement.denied else entitlement.limit_quantity


# --- Creating ---------------------------------------------------------------------------------------------


async def test_a_plan_paid_outside_runs_from_now_until_it_is_canceled(world: UseCases) -> None:
    view = await subscribe(world, quantity=3, metadata={"invoice": "2026-1"})

    subscription = view.subscription
    assert subscription.subscription_id.startswith("sub_")
    assert (subscription.plan_key, subscription.plan_version) == (PRO, 1)
    assert subscription.state is SubscriptionState.ACTIVE
    assert (subscription.provider, subscription.interval, subscription.quantity) == (MANUAL, MONTH, 3)
    assert subscription.start_time == subscription.period_start_time == world.clock.now()
    assert subscription.period_end_time is None
    assert view.price is not None
    assert view.price.amount_minor == 999
    assert view.current_period_end == add_months(world.clock.now(), 1)
    assert view.end_time is None
    assert view.metadata == {"invoice": "2026-1"}
    assert view.revision == world.marks.revisions[LEKHAK, ANNA] == 3
    assert replace(view, revision=0) == await world.subscriptions.get(LEKHAK, subscription.subscription_id)


async def test_the_free_plan_stays_beside_a_paid_one_and_the_more_generous_wins(world: UseCases) -> None:
    await world.accounts.provision(LEKHAK, ANNA)
    assert await limit_of(world) == 10

    await subscribe(world)

    assert await limit_of(world) == 1000
    assert await limit_of(world, "grammar_check") is not None
    found = await world.subscriptions.list(LEKHAK, account_id=ANNA, limit=10)
    assert {view.subscription.plan_key for view in found} == {FREE, PRO}


async def test_an_unknown_account_is_made_where_its_tenant_provisions(world: UseCases) -> None:
    await subscribe(world)

    found = await world.subscriptions.list(LEKHAK, account_id=ANNA, limit=10)
    assert {view.subscription.plan_key for view in found} == {PRO, FREE}


async def test_an_unknown_account_is_refused_where_its_tenant_does_not(world: UseCases) -> None:
    with pytest.raises(AccountNotFound):
        await world.subscriptions.create(FITNESS, AccountId("bert"), NewSubscription(plan_key=FREE))


@pytest.mark.parametrize("provider", [None, BillingProvider.NONE])
async def test_a_priced_plan_is_never_free_by_accident(world: UseCases, provider: BillingProvider | None) -> None:
    with pytest.raises(BillingProviderRequired, match="BILLING_PROVIDER_MANUAL"):
        await subscribe(world, provider=provider)

    assert await world.fetch("SELECT * FROM subscriptions WHERE plan_key = 'pro'") == []


@pytest.mark.parametrize("plan", [FREE, PRO])
async def test_stripe_names_the_setting_that_is_missing(world: UseCases, plan: PlanKey) -> None:
    with pytest.raises(BillingProviderNotConfigured, match="TALLYGATE_STRIPE_API_KEY") as caught:
        await subscribe(world, plan, provider=STRIPE)

    assert caught.value.facts["setting"] == "TALLYGATE_STRIPE_API_KEY"


async def test_nobody_collects_money_for_a_free_plan(world: UseCases) -> None:
    bert = AccountId("bert")
    await world.accounts.identify(FITNESS, [], account_id=bert)
    (free,) = await world.subscriptions.list(FITNESS, account_id=bert, limit=10)
    await world.subscriptions.cancel(FITNESS, bert)

    view = await world.subscriptions.create(FITNESS, bert, NewSubscription(plan_key=FREE, provider=MANUAL))

    assert view.subscription.provider is free.subscription.provider is BillingProvider.NONE
    assert view.subscription.interval is None
    assert view.price is None


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        ({"plan": PlanKey("gold")}, PlanNotFound),
        ({"plan": FREE, "interval": MONTH}, PriceNotFound),
        ({"currency": "EUR"}, PriceNotFound),
        ({"quantity": 0}, InvalidRequest),
        ({"quantity": 1_000_001}, InvalidRequest),
        ({"trial_days": 1}, InvalidRequest),
        ({"trial_days": -1}, InvalidRequest),
        ({"trial_days": 731}, InvalidRequest),
        ({"end_time": dt.datetime(2026, 3, 15, 12, tzinfo=dt.UTC)}, InvalidRequest),
        ({"start_time": dt.datetime(2026, 3, 15, 12, 0, 1, tzinfo=dt.UTC)}, NotBuilt),
        ({"metadata": {str(number): "x" for number in range(33)}}, InvalidRequest),
        ({"metadata": {"x" * 41: "x"}}, InvalidRequest),
        ({"metadata": {"x": "x" * 501}}, InvalidRequest),
    ],
)
async def test_what_cannot_be_sold_is_refused_and_changes_nothing(
    world: UseCases, wanted: dict[str, object], error: type[TallygateError]
) -> None:
    with pytest.raises(error):
        await subscribe(world, **wanted)  # type: ignore[arg-type]

    assert await world.fetch("SELECT * FROM accounts") == []


async def test_unknown_tenants_are_named(world: UseCases) -> None:
    nobody = TenantId("nobody")
    with pytest.raises(TenantNotFound):
        await world.subscriptions.create(nobody, ANNA, NewSubscription(plan_key=FREE))
    with pytest.raises(TenantNotFound):
        await world.subscriptions.list(nobody, limit=1)


async def test_the_interval_defaults_to_the_month_or_the_only_one(world: UseCases) -> None:
    await world.catalogs.apply(
        CatalogSource("tenant: club\ncurrency: USD\nplans: {a: {prices: {year: 5}}, b: {prices: {year: 5, month: 1}}}")
    )
    club = TenantId("club")
    await world.accounts.identify(club, [], account_id=ANNA)

    yearly = await world.subscriptions.create(club, ANNA, NewSubscription(plan_key=PlanKey("a"), provider=MANUAL))
    monthly = await world.subscriptions.create(club, ANNA, NewSubscription(plan_key=PlanKey("b"), provider=MANUAL))

    assert yearly.subscription.interval is YEAR
    assert monthly.subscription.interval is MONTH


async def test_one_live_subscription_per_plan_and_interval(world: UseCases) -> None:
    first = await subscribe(world)
    await subscribe(world, interval=YEAR)

    with pytest.raises(SubscriptionExists) as caught:
        await subscribe(world)

    assert caught.value.facts["subscription_id"] == first.subscription.subscription_id


async def test_racing_creations_make_one_subscription(world: UseCases, database_without_tenants: str) -> None:
    await world.accounts.provision(LEKHAK, ANNA)
    async with use_cases(database_without_tenants) as other:
        outcomes = await asyncio.gather(
            *(subscribe(side) for side in (world, other) for _ in range(4)), return_exceptions=True
        )

    assert sum(isinstance(outcome, SubscriptionView) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, SubscriptionExists) for outcome in outcomes) == 7


async def test_an_account_has_a_number_of_live_subscriptions_at_most(world: UseCases) -> None:
    count = SUBSCRIPTIONS_PER_ACCOUNT_MAX
    plans = "".join(f"  p{number}: {{}}\n" for number in range(count + 1))
    await world.catalogs.apply(CatalogSource(f"tenant: club\nplans:\n{plans}"))
    club = TenantId("club")
    await world.accounts.identify(club, [], account_id=ANNA)
    for number in range(count):
        await world.subscriptions.create(club, ANNA, NewSubscription(plan_key=PlanKey(f"p{number}")))

    with pytest.raises(InvalidRequest, match="is the most"):
        await world.subscriptions.create(club, ANNA, NewSubscription(plan_key=PlanKey(f"p{count}")))


# --- Retrying ---------------------------------------------------------------------------------------------


async def test_the_same_request_gets_the_first_answer_again(world: UseCases) -> None:
    new = NewSubscription(plan_key=PRO, provider=MANUAL)
    first = await world.subscriptions.create(LEKHAK, ANNA, new, request_id="r1")
    world.clock.advance(DAY)
    changed = await world.subscriptions.change_plan(
        LEKHAK, ANNA, plan_key=UNLIMITED, subscription_id=first.subscription.subscription_id
    )

    again = await world.subscriptions.create(LEKHAK, ANNA, new, request_id="r1")

    assert again == replace(first, replayed=True, revision=changed.revision)
    assert await world.fetch("SELECT count(*) FROM subscriptions WHERE plan_key <> 'free'") == [{"count": 1}]


async def test_racing_retries_create_once(world: UseCases, database_without_tenants: str) -> None:
    new = NewSubscription(plan_key=PRO, provider=MANUAL)
    async with use_cases(database_without_tenants) as other:
        views = await asyncio.gather(
            *(
                side.subscriptions.create(LEKHAK, ANNA, new, request_id="r1")
                for side in (world, other)
                for _ in range(4)
            )
        )

    assert len({view.subscription.subscription_id for view in views}) == 1
    assert sum(not view.replayed for view in views) == 1


@pytest.mark.parametrize(
    "other",
    [NewSubscription(plan_key=UNLIMITED, provider=MANUAL), NewSubscription(plan_key=PRO, provider=MANUAL, quantity=2)],
)
async def test_a_request_id_for_something_else_is_refused(world: UseCases, other: NewSubscription) -> None:
    await world.subscriptions.create(LEKHAK, ANNA, NewSubscription(plan_key=PRO, provider=MANUAL), request_id="r1")

    with pytest.raises(RequestIdReused):
        await world.subscriptions.create(LEKHAK, ANNA, other, request_id="r1")


async def test_a_request_id_counts_across_methods(world: UseCases) -> None:
    view = await subscribe(world)
    target = view.subscription.subscription_id
    first = await world.subscriptions.cancel(
        LEKHAK, ANNA, subscription_id=target, timing=ChangeTiming.NOW, request_id="r1"
    )
    again = await world.subscriptions.cancel(
        LEKHAK, ANNA, subscription_id=target, timing=ChangeTiming.NOW, request_id="r1"
    )

    assert again == replace(first, replayed=True)
    with pytest.raises(RequestIdReused):
        await world.subscriptions.create(LEKHAK, ANNA, NewSubscription(plan_key=PRO, provider=MANUAL), request_id="r1")


async def test_a_malformed_request_id_is_refused(world: UseCases) -> None:
    with pytest.raises(InvalidRequest):
        await world.subscriptions.create(LEKHAK, ANNA, NewSubscription(plan_key=FREE), request_id="a b")


# --- Trials and ends --------------------------------------------------------------------------------------


async def test_a_trial_comes_from_the_plan_and_billing_begins_when_it_ends(world: UseCases) -> None:
    now = world.clock.now()

    view = await world.subscriptions.create(FITNESS, ANNA, NewSubscription(plan_key=PREMIUM, provider=MANUAL))

    subscription = view.subscription
    assert subscription.state is SubscriptionState.TRIALING
    assert subscription.trial_end_time == subscription.start_time == now + 14 * DAY
    assert (view.current_period_start, view.current_period_end) == (now, now + 14 * DAY)
    granted = resolve(await sources(world, FITNESS), now).entitlements["ai_predictions"]
    assert granted.limit_quantity == 2000
    world.clock.advance(14 * DAY)
    # Paid outside, it is taken as paid from then on, whether or not anybody has written that down.
    after = resolve(await sources(world, FITNESS), world.clock.now()).entitlements["ai_predictions"]
    assert (after.limit_quantity, after.billing_anchor) == (2000, now + 14 * DAY)
    shown = await world.subscriptions.get(FITNESS, subscription.subscription_id)
    assert shown.subscription.state is SubscriptionState.ACTIVE
    assert (shown.current_period_start, shown.current_period_end) == (now + 14 * DAY, add_months(now + 14 * DAY, 1))


@pytest.mark.parametrize(("asked", "given"), [(0, None), (3, 3), (14, 14)])
async def test_a_shorter_trial_or_none_can_be_asked_for(world: UseCases, asked: int, given: int | None) -> None:
    wanted = NewSubscription(plan_key=PREMIUM, provider=MANUAL, trial_days=asked)

    view = await world.subscriptions.create(FITNESS, ANNA, wanted)

    expected = world.clock.now() + given * DAY if given is not None else None
    assert view.subscription.trial_end_time == expected


async def test_a_longer_trial_than_the_plan_gives_is_refused(world: UseCases) -> None:
    with pytest.raises(InvalidRequest, match="at most 14 days"):
        await world.subscriptions.create(
            FITNESS, ANNA, NewSubscription(plan_key=PREMIUM, provider=MANUAL, trial_days=15)
        )


async def test_a_subscription_with_an_end_gives_nothing_after_it_and_makes_room(world: UseCases) -> None:
    await world.accounts.provision(LEKHAK, ANNA)
    first = await subscribe(world, end_time=world.clock.now() + DAY)
    assert first.end_time == world.clock.now() + DAY
    world.clock.advance(DAY)

    assert await limit_of(world) == 10
    ended = await world.subscriptions.get(LEKHAK, first.subscription.subscription_id)
    assert ended.subscription.state is SubscriptionState.EXPIRED
    listed = await world.subscriptions.list(LEKHAK, states=[SubscriptionState.EXPIRED], limit=10)
    assert [view.subscription.subscription_id for view in listed] == [first.subscription.subscription_id]
    assert await world.fetch("SELECT state FROM subscriptions WHERE plan_key = 'pro'") == [{"state": "active"}]

    await subscribe(world)

    states = await world.fetch("SELECT state FROM subscriptions WHERE plan_key = 'pro' ORDER BY create_time")
    assert [row["state"] for row in states] == ["expired", "active"]


async def test_an_active_row_whose_period_and_grace_are_over_grants_nothing(world: UseCases) -> None:
    view = await subscribe(world)
    await world.subscriptions.cancel(
        LEKHAK,
        ANNA,
        subscription_id=(await world.subscriptions.list(LEKHAK, plan_key=FREE, limit=1))[
            0
        ].subscription.subscription_id,
    )
    async with world.database.tenant_transaction(LEKHAK) as connection:
        await connection.exec_driver_sql(
            "UPDATE subscriptions SET period_start_time = start_time - interval '3 months',"
            " period_end_time = start_time - interval '2 months' WHERE subscription_id = $1",
            (view.subscription.subscription_id,),
        )

    assert (await world.fetch("SELECT state FROM subscriptions WHERE plan_key = 'pro'")) == [{"state": "active"}]
    assert await limit_of(world) is None


async def test_a_start_in_the_past_anchors_the_periods_there(world: UseCases) -> None:
    start = dt.datetime(2026, 1, 31, 9, tzinfo=dt.UTC)

    view = await subscribe(world, start_time=start)

    assert view.current_period_start == dt.datetime(2026, 2, 28, 9, tzinfo=dt.UTC)
    assert view.current_period_end == dt.datetime(2026, 3, 31, 9, tzinfo=dt.UTC)


# --- Changing the plan ------------------------------------------------------------------------------------


async def test_an_upgrade_takes_effect_now_and_keeps_the_billing_anchor(world: UseCases) -> None:
    before = await subscribe(world)
    target = before.subscription.subscription_id
    world.clock.advance(10 * DAY)

    after = await world.subscriptions.change_plan(LEKHAK, ANNA, plan_key=UNLIMITED, subscription_id=target)

    assert after.subscription == replace(before.subscription, plan_key=UNLIMITED)
    assert after.current_period_start == before.current_period_start
    assert after.price is not None
    assert after.price.amount_minor == 1999
    assert after.revision == before.revision + 1 == world.marks.revisions[LEKHAK, ANNA]
    assert await limit_of(world) == -1
    assert replace(after, revision=0) == await world.subscriptions.get(LEKHAK, target)


async def test_another_interval_moves_the_billing_anchor_to_now(world: UseCases) -> None:
    before = await subscribe(world)
    world.clock.advance(10 * DAY)

    after = await world.subscriptions.change_plan(
        LEKHAK, ANNA, plan_key=PRO, interval=YEAR, subscription_id=before.subscription.subscription_id
    )

    assert after.subscription.interval is YEAR
    assert after.subscription.start_time == after.subscription.period_start_time == world.clock.now()
    assert after.current_period_end == add_months(world.clock.now(), 12)


async def test_from_free_to_priced_needs_somebody_who_collects(world: UseCases) -> None:
    await world.accounts.provision(LEKHAK, ANNA)
    world.clock.advance(10 * DAY)

    with pytest.raises(BillingProviderRequired):
        await world.subscriptions.change_plan(LEKHAK, ANNA, plan_key=PRO)
    with pytest.raises(BillingProviderNotConfigured):
        await world.subscriptions.change_plan(LEKHAK, ANNA, plan_key=PRO, provider=STRIPE)
    after = await world.subscriptions.change_plan(LEKHAK, ANNA, plan_key=PRO, provider=MANUAL)

    assert (after.subscription.provider, after.subscription.interval) == (MANUAL, MONTH)
    assert after.subscription.start_time == world.clock.now()


async def test_a_downgrade_waits_for_the_period_end_unless_asked_for_now(world: UseCases) -> None:
    view = await subscribe(world, UNLIMITED)
    target = view.subscription.subscription_id

    later = await world.subscriptions.change_plan(LEKHAK, ANNA, plan_key=PRO, subscription_id=target)

    assert later.subscription == view.subscription
    assert later.scheduled_change is not None
    assert later.scheduled_change.effective_time == view.current_period_end
    now = await world.subscriptions.change_plan(
        LEKHAK, ANNA, plan_key=PRO, subscription_id=target, timing=ChangeTiming.NOW
    )
    assert (now.subscription.plan_key, now.scheduled_change) == (PRO, None)
    assert await limit_of(world) == 1000


async def test_a_priced_plan_is_left_for_the_free_one(world: UseCases) -> None:
    await world.accounts.provision(LEKHAK, ANNA)
    await world.subscriptions.change_plan(LEKHAK, ANNA, plan_key=PRO, provider=MANUAL)

    after = await world.subscriptions.change_plan(LEKHAK, ANNA, plan_key=FREE, timing=ChangeTiming.NOW)

    assert (after.subscription.provider, after.subscription.interval) == (BillingProvider.NONE, None)
    assert after.price is None
    assert await limit_of(world) == 10


async def test_a_subscription_moves_to_the_newest_version_of_its_plan_when_asked(world: UseCases) -> None:
    view = await subscribe(world)
    text = example("lekhak").text.replace("limit: 1000,", "limit: 2000,")
    await world.catalogs.apply(CatalogSource(text))
    assert await limit_of(world) == 1000

    after = await world.subscriptions.change_plan(
        LEKHAK, ANNA, plan_key=PRO, subscription_id=view.subscription.subscription_id
    )

    assert after.subscription == replace(view.subscription, plan_version=2)
    assert await limit_of(world) == 2000


async def test_seats_are_changed(world: UseCases) -> None:
    view = await subscribe(world)

    after = await world.subscriptions.change_plan(
        LEKHAK, ANNA, plan_key=PRO, subscription_id=view.subscription.subscription_id, quantity=5
    )

    assert after.subscription == replace(view.subscription, quantity=5)


async def test_asking_for_what_it_is_changes_nothing(world: UseCases) -> None:
    view = await subscribe(world)

    after = await world.subscriptions.change_plan(
        LEKHAK, ANNA, plan_key=PRO, subscription_id=view.subscription.subscription_id
    )

    assert after == view


async def test_a_change_does_not_collide_with_another_subscription(world: UseCases) -> None:
    await subscribe(world)
    other = await subscribe(world, UNLIMITED)

    with pytest.raises(SubscriptionExists):
        await world.subscriptions.change_plan(
            LEKHAK, ANNA, plan_key=PRO, subscription_id=other.subscription.subscription_id, timing=ChangeTiming.NOW
        )


async def test_without_an_id_the_only_live_subscription_is_meant(world: UseCases) -> None:
    with pytest.raises(AccountNotFound):
        await world.subscriptions.change_plan(LEKHAK, ANNA, plan_key=PRO, provider=MANUAL)
    await subscribe(world)

    with pytest.raises(InvalidRequest, match="several live subscriptions"):
        await world.subscriptions.change_plan(LEKHAK, ANNA, plan_key=UNLIMITED)

    for view in await world.subscriptions.list(LEKHAK, account_id=ANNA, limit=10):
        await world.subscriptions.cancel(
            LEKHAK, ANNA, subscription_id=view.subscription.subscription_id, timing=ChangeTiming.NOW
        )
    with pytest.raises(SubscriptionNotFound, match="no subscription is live"):
        await world.subscriptions.change_plan(LEKHAK, ANNA, plan_key=UNLIMITED)


async def test_a_subscription_of_somebody_else_is_not_found(world: UseCases) -> None:
    view = await subscribe(world)
    bert = AccountId("bert")
    await world.accounts.provision(LEKHAK, bert)

    with pytest.raises(SubscriptionNotFound):
        await world.subscriptions.cancel(LEKHAK, bert, subscription_id=view.subscription.subscription_id)
    with pytest.raises(SubscriptionNotFound):
        await world.subscriptions.get(FITNESS, view.subscription.subscription_id)


async def test_a_running_trial_goes_on_through_a_change_of_interval(world: UseCases) -> None:
    before = await world.subscriptions.create(FITNESS, ANNA, NewSubscription(plan_key=PREMIUM, provider=MANUAL))
    target = before.subscription.subscription_id
    world.clock.advance(3 * DAY)

    after = await world.subscriptions.change_plan(
        FITNESS, ANNA, plan_key=PREMIUM, interval=YEAR, subscription_id=target
    )

    assert after.subscription == replace(before.subscription, interval=YEAR)


async def test_a_trial_that_is_over_has_become_a_subscription(world: UseCases) -> None:
    before = await world.subscriptions.create(FITNESS, ANNA, NewSubscription(plan_key=PREMIUM, provider=MANUAL))
    target = before.subscription.subscription_id
    world.clock.advance(20 * DAY)

    after = await world.subscriptions.change_plan(FITNESS, ANNA, plan_key=PREMIUM, subscription_id=target, quantity=2)

    assert after.subscription.state is SubscriptionState.ACTIVE
    assert after.subscription.start_time == before.subscription.trial_end_time
    steps = await world.subscriptions.history(FITNESS, ANNA, subscription_id=target)
    assert [step.action for step in steps] == ["create", "trial_end", "change_plan"]
    assert steps[1].create_time == before.subscription.trial_end_time


# --- Canceling --------------------------------------------------------------------------------------------


async def test_canceling_at_once_ends_access_at_once(world: UseCases) -> None:
    view = await subscribe(world)

    after = await world.subscriptions.cancel(
        LEKHAK, ANNA, subscription_id=view.subscription.subscription_id, timing=ChangeTiming.NOW, reason="too dear"
    )

    assert after.subscription.state is SubscriptionState.CANCELED
    assert after.end_time == after.subscription.canceled_time == world.clock.now()
    assert after.revision == view.revision + 1
    assert await limit_of(world) == 10


@pytest.mark.parametrize("timing", [None, ChangeTiming.PERIOD_END])
async def test_canceling_keeps_what_is_paid_for_and_nothing_more(world: UseCases, timing: ChangeTiming | None) -> None:
    view = await subscribe(world)
    target = view.subscription.subscription_id
    world.clock.advance(40 * DAY)
    end = add_months(view.subscription.start_time, 2)

    after = await world.subscriptions.cancel(LEKHAK, ANNA, subscription_id=target, timing=timing)

    assert after.subscription.state is SubscriptionState.ACTIVE
    assert after.subscription.cancel_at_period_end
    assert after.end_time == after.current_period_end == end
    assert await world.subscriptions.cancel(LEKHAK, ANNA, subscription_id=target, timing=timing) == after
    world.clock.set(end - dt.timedelta(microseconds=1))
    assert await limit_of(world) == 1000
    world.clock.set(end)
    assert await limit_of(world) == 10
    assert (await world.subscriptions.get(LEKHAK, target)).subscription.state is SubscriptionState.CANCELED
    with pytest.raises(IllegalTransition, match="from canceled to canceled"):
        await world.subscriptions.cancel(LEKHAK, ANNA, subscription_id=target)
    with pytest.raises(IllegalTransition, match="from canceled to active"):
        await world.subscriptions.change_plan(LEKHAK, ANNA, plan_key=UNLIMITED, subscription_id=target)


async def test_a_free_subscription_has_no_paid_period_and_ends_at_once(world: UseCases) -> None:
    await world.accounts.provision(LEKHAK, ANNA)

    after = await world.subscriptions.cancel(LEKHAK, ANNA)

    assert after.subscription.state is SubscriptionState.CANCELED
    assert await limit_of(world) is None


async def test_canceling_a_trial_keeps_it_until_it_ends(world: UseCases) -> None:
    view = await world.subscriptions.create(FITNESS, ANNA, NewSubscription(plan_key=PREMIUM, provider=MANUAL))

    after = await world.subscriptions.cancel(FITNESS, ANNA, subscription_id=view.subscription.subscription_id)

    assert after.subscription.state is SubscriptionState.TRIALING
    assert after.end_time == view.subscription.trial_end_time


async def test_what_has_ended_is_over(world: UseCases) -> None:
    view = await subscribe(world)
    target = view.subscription.subscription_id
    await world.subscriptions.cancel(LEKHAK, ANNA, subscription_id=target, timing=ChangeTiming.NOW)

    with pytest.raises(IllegalTransition) as caught:
        await world.subscriptions.change_plan(LEKHAK, ANNA, plan_key=UNLIMITED, subscription_id=target)

    assert caught.value.facts == {"before": "canceled", "after": "active"}
    assert not world.marks.changing


# --- Records ----------------------------------------------------------------------------------------------


async def test_every_step_is_in_history_audit_and_outbox(world: UseCases) -> None:
    new = NewSubscription(plan_key=PRO, provider=MANUAL)
    view = await world.subscriptions.create(LEKHAK, ANNA, new, actor="shop", reason="bought")
    target = view.subscription.subscription_id
    world.clock.advance(DAY)
    await world.subscriptions.change_plan(
        LEKHAK, ANNA, plan_key=UNLIMITED, subscription_id=target, actor="anna", reason="more"
    )
    await world.subscriptions.cancel(
        LEKHAK, ANNA, subscription_id=target, timing=ChangeTiming.NOW, actor="ops", reason="refund"
    )

    steps = await world.subscriptions.history(LEKHAK, ANNA, subscription_id=target)
    assert [(step.action, step.actor, step.reason) for step in steps] == [
        ("create", "shop", "bought"),
        ("change_plan", "anna", "more"),
        ("cancel", "ops", "refund"),
    ]
    assert steps[0].before is None
    assert steps[1].before is not None
    assert (steps[1].before["plan_key"], steps[1].after["plan_key"]) == ("pro", "unlimited")
    assert steps[2].after["state"] == "canceled"
    audit = await world.fetch("SELECT action, actor FROM audit_entries WHERE subject = $1", f"subscription:{target}")
    assert [(row["action"], row["actor"]) for row in audit] == [
        ("subscription.create", "shop"),
        ("subscription.change_plan", "anna"),
        ("subscription.cancel", "ops"),
    ]
    events = await world.fetch(
        "SELECT type, payload FROM outbox_events WHERE type LIKE 'subscription.%' ORDER BY event_id"
    )
    own = [
        event["type"] for event in events if json.loads(event["payload"])["subscription"]["subscription_id"] == target
    ]
    assert own == ["subscription.created", "subscription.changed", "subscription.canceled"]


async def test_history_cannot_be_rewritten_by_the_application(world: UseCases) -> None:
    await subscribe(world)
    connection = await connect(world.url, DatabaseRole.APP)
    try:
        await connection.execute("SELECT set_config('tallygate.tenant_id', 'lekhak', false)")
        for table in ("subscription_history", "audit_entries", "catalog_revisions"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"DELETE FROM {table}")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(f"UPDATE {table} SET actor = 'x'")
    finally:
        await connection.close()


async def test_subscriptions_are_listed_newest_first_in_pages(world: UseCases) -> None:
    for index in range(3):
        world.clock.advance(DAY)
        await world.accounts.provision(LEKHAK, AccountId(f"user-{index}"))

    first = await world.subscriptions.list(LEKHAK, limit=2)
    rest = await world.subscriptions.list(
        LEKHAK, before_subscription_id=first[-1].subscription.subscription_id, limit=2
    )

    assert [view.account_id for view in (*first, *rest)] == ["user-2", "user-1", "user-0"]


async def test_states_in_sql_and_in_python_agree(world: UseCases) -> None:
    view = await subscribe(world, end_time=world.clock.now() + DAY)
    await subscribe(world, UNLIMITED)
    await world.subscriptions.cancel(
        LEKHAK,
        ANNA,
        subscription_id=(await world.subscriptions.list(LEKHAK, plan_key=UNLIMITED, limit=1))[
            0
        ].subscription.subscription_id,
    )

    for step in (0, 1, 30, 60):
        world.clock.advance(step * DAY)
        for state in SubscriptionState:
            for found in await world.subscriptions.list(LEKHAK, states=[state], limit=10):
                assert found.subscription.state is state
        every = await world.subscriptions.list(LEKHAK, states=list(SubscriptionState), limit=10)
        assert len(every) == 3
    assert state_at(view.subscription, world.clock.now()) not in LIVE_STATES
