from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest

from tallygate_server.billing.observed import ObservedSchedule, ObservedSchedulePhase
from tallygate_server.billing.ports import Cause
from tallygate_server.domain.subscription import SubscriptionState, access_window
from tallygate_server.errors import BillingProviderUnavailable
from tests.support.billing import ANNA, WEBHOOK, Billing, billing
from tests.support.provider_twin import MONTH, START, ProviderTwin, a_paid, a_price
from tests.support.use_cases import LEKHAK

DAY = timedelta(days=1)
S = SubscriptionState


@pytest.fixture
def provider() -> ProviderTwin:
    return ProviderTwin()


@pytest.fixture
async def server(billing_database: str, provider: ProviderTwin) -> AsyncIterator[Billing]:
    async with billing(billing_database, provider) as [built]:
        yield built


async def pending(server: Billing) -> list[dict[str, object]]:
    return await server.world.fetch("SELECT * FROM scheduled_changes ORDER BY create_time, scheduled_change_id")


# --- Whose it is ------------------------------------------------------------------------------------------


async def test_a_subscription_that_names_its_account_becomes_a_row_and_makes_the_account(
    server: Billing, provider: ProviderTwin
) -> None:
    provider.put(a_paid(quantity=3))

    applied = await server.sync.refresh("sub_P1", WEBHOOK)

    assert applied is not None
    assert applied.changed
    assert (applied.tenant_id, applied.account_id, applied.subscription_id) == (LEKHAK, ANNA, "sub_ours1")
    row = await server.row()
    held = row.subscription
    assert (held.subscription_id, held.plan_key, held.state) == ("sub_ours1", "pro", S.ACTIVE)
    assert (held.quantity, held.start_time) == (3, START)
    assert (held.period_start_time, held.period_end_time) == (START, START + MONTH)
    assert (row.provider_subscription_id, row.provider_customer_id) == ("sub_P1", "cus_1")
    assert row.metadata == {}
    (step,) = await server.history("sub_ours1")
    assert (step.action, step.actor, step.webhook_event_id) == ("create", "stripe", "evt_1")
    assert await server.events() == ["subscription.created"]
    assert applied.revision == server.world.marks.revisions[LEKHAK, ANNA]


async def test_looking_again_at_what_is_as_it_was_writes_nothing(server: Billing, provider: ProviderTwin) -> None:
    provider.put(a_paid())
    first = await server.sync.refresh("sub_P1", WEBHOOK)
    again = await server.sync.refresh("sub_P1", WEBHOOK)

    assert first is not None
    assert again == replace(first, changed=False)
    assert len(await server.history("sub_ours1")) == 1
    assert await server.events() == ["subscription.created"]


async def test_one_without_attributes_is_its_customers(server: Billing, provider: ProviderTwin) -> None:
    await server.world.accounts.identify(LEKHAK, [], account_id=ANNA)
    await server.world.fetch("SELECT 1")
    async with server.world.database.tenant_transaction(LEKHAK) as connection:
        from tallygate_server.storage.accounts import Identity, link_identities  # noqa: PLC0415

        await link_identities(connection, LEKHAK, ANNA, [Identity("stripe", "cus_1")], at=START)
    provider.put(a_paid(metadata={}))

    applied = await server.sync.refresh("sub_P1", WEBHOOK)

    assert applied is not None
    assert applied.account_id == ANNA
    assert applied.subscription_id.startswith("sub_0")
    again = await server.sync.refresh("sub_P1", WEBHOOK)
    assert again is not None
    assert again.subscription_id == applied.subscription_id


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"tallygate_tenant_id": "nobodys", "tallygate_account_id": "anna"},
        {"tallygate_tenant_id": "lekhak", "tallygate_account_id": "not an id"},
        {"tallygate_tenant_id": "../lekhak", "tallygate_account_id": "anna"},
    ],
)
async def test_what_is_nobodys_is_left_alone(server: Billing, provider: ProviderTwin, metadata: dict[str, str]) -> None:
    provider.put(a_paid(metadata=metadata))

    assert await server.sync.refresh("sub_P1", WEBHOOK) is None
    assert await server.rows() == []


async def test_what_the_provider_does_not_know_is_left_alone(server: Billing) -> None:
    assert await server.sync.refresh("sub_unknown", WEBHOOK) is None


async def test_two_that_were_paid_twice_are_both_kept(server: Billing, provider: ProviderTwin) -> None:
    provider.put(a_paid())
    provider.put(a_paid("sub_P2"))

    await server.sync.refresh("sub_P1", WEBHOOK)
    await server.sync.refresh("sub_P2", WEBHOOK)

    rows = await server.rows()
    assert {row.provider_subscription_id for row in rows} == {"sub_P1", "sub_P2"}
    assert len({row.subscription.subscription_id for row in rows}) == 2


# --- What it becomes ----------------------------------------------------------------------------------------


async def test_a_renewal_moves_the_period_on(server: Billing, provider: ProviderTwin) -> None:
    provider.put(a_paid())
    await server.sync.refresh("sub_P1", WEBHOOK)
    provider.change("sub_P1", period_start_time=START + MONTH, period_end_time=START + 2 * MONTH)

    await server.sync.refresh("sub_P1", WEBHOOK)

    held = (await server.row()).subscription
    assert (held.period_start_time, held.period_end_time) == (START + MONTH, START + 2 * MONTH)
    assert held.start_time == START
    assert [step.action for step in await server.history("sub_ours1")] == ["create", "renewal"]
    assert await server.events() == ["subscription.created", "subscription.renewed"]


async def test_a_failed_payment_has_grace_from_when_its_bill_was_made_and_a_later_one_ends_it(
    server: Billing, provider: ProviderTwin
) -> None:
    renewed = START + MONTH
    provider.put(a_paid())
    await server.sync.refresh("sub_P1", WEBHOOK)
    provider.change(
        "sub_P1",
        state=S.PAST_DUE,
        period_start_time=renewed,
        period_end_time=renewed + MONTH,
        overdue_since_time=renewed + timedelta(hours=1),
    )
    await server.sync.refresh("sub_P1", WEBHOOK)
    overdue = (await server.row()).subscription
    provider.change("sub_P1", state=S.ACTIVE, overdue_since_time=None)
    await server.sync.refresh("sub_P1", WEBHOOK)
    paid = (await server.row()).subscription

    assert overdue.grace_end_time == renewed + timedelta(hours=1) + 14 * DAY
    window = access_window(overdue, 14)
    assert window is not None
    assert window.grace_end == overdue.grace_end_time
    assert (paid.state, paid.grace_end_time) == (S.ACTIVE, None)
    actions = [step.action for step in await server.history("sub_ours1")]
    assert actions == ["create", "payment_failed", "payment_recovered"]
    assert await server.events() == [
        "subscription.created",
        "subscription.past_due",
        "subscription.renewed",
        "subscription.recovered",
    ]


async def test_grace_without_a_known_bill_begins_with_the_period(server: Billing, provider: ProviderTwin) -> None:
    provider.put(a_paid(state=S.PAST_DUE))
    await server.sync.refresh("sub_P1", WEBHOOK)

    assert (await server.row()).subscription.grace_end_time == START + 14 * DAY


async def test_what_is_final_stays_final(server: Billing, provider: ProviderTwin) -> None:
    provider.put(a_paid(state=S.CANCELED, end_time=START + DAY))
    await server.sync.refresh("sub_P1", WEBHOOK)
    provider.change("sub_P1", state=S.ACTIVE, end_time=None)

    applied = await server.sync.refresh("sub_P1", WEBHOOK)
    compared = await server.sync.compare("sub_P1", WEBHOOK, repair=True)

    assert applied is not None
    assert not applied.changed
    held = (await server.row()).subscription
    assert (held.state, held.canceled_time, held.cancel_at_period_end) == (S.CANCELED, START + DAY, False)
    assert compared is not None
    assert [each.field for each in compared.differences] == ["state"]
    assert not compared.repaired


async def test_states_that_no_webhook_told_are_skipped(server: Billing, provider: ProviderTwin) -> None:
    provider.put(a_paid(state=S.INCOMPLETE))
    await server.sync.refresh("sub_P1", WEBHOOK)
    provider.change("sub_P1", state=S.UNPAID)
    await server.sync.refresh("sub_P1", WEBHOOK)
    provider.change("sub_P1", state=S.TRIALING, trial_end_time=START + 7 * DAY)
    await server.sync.refresh("sub_P1", WEBHOOK)

    held = (await server.row()).subscription
    assert (held.state, held.start_time) == (S.TRIALING, START + 7 * DAY)
    assert [(s.before or {}).get("state") for s in await server.history("sub_ours1")] == [None, "incomplete", "unpaid"]


async def test_an_end_of_the_period_and_an_end_within_it_close_the_period(
    server: Billing, provider: ProviderTwin
) -> None:
    provider.put(a_paid(cancel_at_period_end=True, cancel_time=START + MONTH, cancel_request_time=START + DAY))
    await server.sync.refresh("sub_P1", WEBHOOK)
    at_end = (await server.row()).subscription
    provider.change("sub_P1", cancel_at_period_end=False, cancel_time=START + 5 * DAY)
    await server.sync.refresh("sub_P1", WEBHOOK)
    within = (await server.row()).subscription
    provider.change("sub_P1", cancel_time=None, cancel_request_time=None)
    await server.sync.refresh("sub_P1", WEBHOOK)
    kept = (await server.row()).subscription

    assert (at_end.cancel_at_period_end, at_end.period_end_time) == (True, START + MONTH)
    assert at_end.canceled_time == START + DAY
    assert (within.cancel_at_period_end, within.period_end_time) == (True, START + 5 * DAY)
    assert (kept.cancel_at_period_end, kept.period_end_time, kept.canceled_time) == (False, START + MONTH, None)
    assert [s.action for s in await server.history("sub_ours1")] == ["create", "update", "resume"]


async def test_an_end_after_the_period_is_planned_and_takes_effect(server: Billing, provider: ProviderTwin) -> None:
    provider.put(a_paid(cancel_time=START + 3 * MONTH, cancel_request_time=START + DAY))
    await server.sync.refresh("sub_P1", WEBHOOK)
    (planned,) = await pending(server)
    held = (await server.row()).subscription
    provider.change("sub_P1", state=S.CANCELED, end_time=START + 3 * MONTH)
    await server.sync.refresh("sub_P1", WEBHOOK)
    (done,) = await pending(server)

    assert (held.cancel_at_period_end, held.period_end_time) == (False, START + MONTH)
    assert (planned["kind"], planned["state"]) == ("cancellation", "pending")
    assert (planned["effective_time"], planned["provider_schedule_id"]) == (START + 3 * MONTH, "sub_P1")
    assert done["state"] == "done"


async def test_an_upgrade_elsewhere_changes_the_plan(server: Billing, provider: ProviderTwin) -> None:
    provider.put(a_paid())
    await server.sync.refresh("sub_P1", WEBHOOK)
    provider.change("sub_P1", price=a_price("unlimited", interval="year", amount=19_999))

    await server.sync.refresh("sub_P1", WEBHOOK)

    held = (await server.row()).subscription
    assert held.interval is not None
    assert (held.plan_key, held.interval.value) == ("unlimited", "year")
    assert [s.action for s in await server.history("sub_ours1")] == ["create", "change_plan"]


async def test_a_price_that_is_no_plan_keeps_the_plan_and_is_reported(server: Billing, provider: ProviderTwin) -> None:
    strange = a_price(price_id="price_x", lookup_key="", metadata={})
    provider.put(a_paid())
    await server.sync.refresh("sub_P1", WEBHOOK)
    provider.change("sub_P1", price=strange, quantity=7)
    provider.put(a_paid("sub_P2", named="", price=strange))

    await server.sync.refresh("sub_P1", WEBHOOK)
    unknown = await server.sync.refresh("sub_P2", WEBHOOK)
    compared = await server.sync.compare("sub_P1", WEBHOOK, repair=False)

    held = (await server.row()).subscription
    assert (held.plan_key, held.quantity) == ("pro", 7)
    assert unknown is None
    assert compared is not None
    assert [(each.field, each.there) for each in compared.differences] == [("price", "price_x")]


async def test_a_new_version_of_the_plan_moves_nobody(server: Billing, provider: ProviderTwin) -> None:
    provider.put(a_paid())
    await server.sync.refresh("sub_P1", WEBHOOK)
    from tallygate_server.catalog import CatalogSource  # noqa: PLC0415
    from tests.support.use_cases import example  # noqa: PLC0415

    source = example("lekhak").text.replace("limit: 1000,", "limit: 2000,")
    await server.world.catalogs.apply(CatalogSource(source))
    provider.change("sub_P1", quantity=2)
    provider.put(a_paid("sub_P2", named="sub_ours2", create_time=START + DAY))

    await server.sync.refresh("sub_P1", WEBHOOK)
    await server.sync.refresh("sub_P2", WEBHOOK)

    first, second = await server.rows()
    assert (first.subscription.plan_version, second.subscription.plan_version) == (1, 2)


# --- Schedules ------------------------------------------------------------------------------------------------


def a_downgrade(**more: object) -> ObservedSchedule:
    schedule = ObservedSchedule(
        schedule_id="sub_sched_1",
        provider_subscription_id="sub_P1",
        state="active",
        phases=(
            ObservedSchedulePhase(
                price_id="price_unlimited_month", quantity=1, start_time=START, end_time=START + MONTH
            ),
            ObservedSchedulePhase(price_id="price_pro_month", quantity=1, start_time=START + MONTH, end_time=None),
        ),
    )
    return replace(schedule, **more)  # type: ignore[arg-type]


@pytest.fixture
async def scheduled(server: Billing, provider: ProviderTwin) -> Billing:
    provider.prices["price_pro_month"] = a_price("pro")
    provider.put(a_paid(price=a_price("unlimited", amount=1_999)))
    await server.sync.refresh("sub_P1", WEBHOOK)
    provider.change("sub_P1", schedule=a_downgrade())
    await server.sync.refresh("sub_P1", WEBHOOK)
    return server


async def test_a_schedule_is_a_planned_change(scheduled: Billing) -> None:
    (planned,) = await pending(scheduled)
    assert (planned["kind"], planned["state"], planned["plan_key"]) == ("plan", "pending", "pro")
    assert (planned["effective_time"], planned["provider_schedule_id"]) == (START + MONTH, "sub_sched_1")
    assert (planned["interval"], planned["quantity"]) == ("month", 1)
    assert (await scheduled.row()).subscription.plan_key == "unlimited"
    assert await scheduled.events() == ["subscription.created", "subscription.scheduled"]
    assert [s.action for s in await scheduled.history("sub_ours1")] == ["create", "schedule_change"]


async def test_a_schedule_that_took_effect_is_done(scheduled: Billing, provider: ProviderTwin) -> None:
    scheduled.world.clock.set(START + MONTH + DAY)
    provider.change(
        "sub_P1",
        price=a_price("pro"),
        period_start_time=START + MONTH,
        period_end_time=START + 2 * MONTH,
        schedule=a_downgrade(),
    )
    await scheduled.sync.refresh("sub_P1", WEBHOOK)

    assert (await scheduled.row()).subscription.plan_key == "pro"
    assert [each["state"] for each in await pending(scheduled)] == ["done"]
    assert "subscription.schedule_canceled" not in await scheduled.events()


async def test_a_schedule_that_was_released_is_taken_back(scheduled: Billing, provider: ProviderTwin) -> None:
    provider.change("sub_P1", schedule=None)
    await scheduled.sync.refresh("sub_P1", WEBHOOK)

    assert [each["state"] for each in await pending(scheduled)] == ["canceled"]
    assert (await scheduled.events())[-1] == "subscription.schedule_canceled"


async def test_a_schedule_that_the_provider_is_late_with_stays_planned(
    scheduled: Billing, provider: ProviderTwin
) -> None:
    scheduled.world.clock.set(START + MONTH + timedelta(seconds=5))
    await scheduled.sync.refresh("sub_P1", WEBHOOK)

    assert [each["state"] for each in await pending(scheduled)] == ["pending"]


# --- Causes and order -----------------------------------------------------------------------------------------


async def test_a_request_whose_effect_a_webhook_wrote_first_is_still_recognised(
    server: Billing, provider: ProviderTwin
) -> None:
    observed = provider.put(a_paid())
    await server.sync.refresh("sub_P1", WEBHOOK)
    asked = Cause(action="create", actor="ann@ops", reason="trial", request={"id": "r1", "fingerprint": "f"})

    applied = await server.sync.apply(observed, asked)
    await server.sync.apply(observed, asked)

    assert applied is not None
    assert not applied.changed
    steps = await server.history("sub_ours1")
    assert [(s.action, s.actor) for s in steps] == [("create", "stripe"), ("create", "ann@ops")]
    assert steps[1].request == {"id": "r1", "fingerprint": "f"}


async def test_what_was_fetched_before_somebody_stored_something_newer_is_not_believed(
    server: Billing, provider: ProviderTwin
) -> None:
    provider.put(a_paid())
    await server.sync.refresh("sub_P1", WEBHOOK)
    old = provider.change("sub_P1", quantity=5)
    provider.change("sub_P1", quantity=9)
    await server.sync.refresh("sub_P1", WEBHOOK)

    await server.sync.apply(old, Cause(action="change_plan", actor="ann"))

    assert (await server.row()).subscription.quantity == 9


async def test_a_slow_answer_never_overwrites_a_newer_one_of_another_server(
    billing_database: str, provider: ProviderTwin
) -> None:
    async with billing(billing_database, provider, servers=2) as [one, two]:
        provider.put(a_paid())
        await one.sync.refresh("sub_P1", WEBHOOK)
        provider.change("sub_P1", state=S.PAST_DUE)
        gate = provider.gate = asyncio.Event()
        slow = asyncio.create_task(one.sync.refresh("sub_P1", WEBHOOK))
        async with asyncio.timeout(30):
            await provider.answering.wait()
        # The slow answer says PAST_DUE already; meanwhile it is paid, and its webhook reaches the other server.
        provider.change("sub_P1", state=S.ACTIVE)
        quick = asyncio.create_task(two.sync.refresh("sub_P1", WEBHOOK))
        for _ in range(20):
            await asyncio.sleep(0.01)
        gate.set()
        await asyncio.gather(slow, quick)

        assert (await one.row()).subscription.state is S.ACTIVE
        actions = [step.action for step in await one.history("sub_ours1")]
        assert actions == ["create", "payment_failed", "payment_recovered"]


async def test_many_at_once_on_two_servers_make_one_row_and_one_step(
    billing_database: str, provider: ProviderTwin
) -> None:
    async with billing(billing_database, provider, servers=2) as [one, two]:
        observed = provider.put(a_paid())
        asked = Cause(action="create", actor="ann", request={"id": "r1", "fingerprint": "f"})

        outcomes = await asyncio.gather(
            *(server.sync.refresh("sub_P1", WEBHOOK) for server in (one, two) for _ in range(10)),
            one.sync.apply(observed, asked),
        )

        assert len({outcome.subscription_id for outcome in outcomes if outcome is not None}) == 1
        assert sum(outcome.changed for outcome in outcomes if outcome is not None) == 1
        assert await one.events() == ["subscription.created"]
        assert not one.locks._local


async def test_a_provider_that_is_down_is_said_to_be(server: Billing, provider: ProviderTwin) -> None:
    provider.put(a_paid())
    provider.down = True

    with pytest.raises(BillingProviderUnavailable):
        await server.sync.refresh("sub_P1", WEBHOOK)

    provider.down = False
    assert await server.sync.refresh("sub_P1", WEBHOOK) is not None


async def test_the_end_of_a_trial_is_announced_once(server: Billing, provider: ProviderTwin) -> None:
    provider.put(a_paid(state=S.TRIALING, trial_end_time=START + 3 * DAY, period_end_time=START + 3 * DAY))
    applied = await server.sync.refresh("sub_P1", WEBHOOK)
    assert applied is not None

    await asyncio.gather(*(server.sync.announce_trial_end(applied, WEBHOOK) for _ in range(3)))

    assert await server.events() == ["subscription.created", "subscription.trial_will_end"]
