"""What an observation makes of our rows: decision tables, without a database."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from tallygate_server.billing.observation import Sold, action_of, happenings, row_as_observed, sold_by
from tallygate_server.billing.observed import ObservedSubscription
from tallygate_server.domain.catalog import BillingInterval, Plan, Price
from tallygate_server.domain.identifier import AccountId, PlanKey, TenantId
from tallygate_server.domain.subscription import (
    LIVE_STATES,
    BillingProvider,
    Subscription,
    SubscriptionState,
    access_window,
)
from tallygate_server.storage.subscriptions import SubscriptionRow
from tests.support.provider_twin import MONTH, START, a_paid, a_price

S = SubscriptionState
DAY = timedelta(days=1)
LEKHAK = TenantId("lekhak")
MONTHLY = Price(interval=BillingInterval.MONTH, amount_minor=999, currency="USD")
YEARLY = Price(interval=BillingInterval.YEAR, amount_minor=9_999, currency="USD", stripe_price_id="price_ours")
PRO = Plan(key=PlanKey("pro"), version=1, prices=(MONTHLY, YEARLY), grace_days=3)


def row_of(observed: ObservedSubscription, present: SubscriptionRow | None = None) -> SubscriptionRow:
    return row_as_observed(
        present,
        observed,
        Sold(plan=PRO, interval=BillingInterval.MONTH),
        subscription_id="sub_ours1",
        account_id=AccountId("anna"),
        at=START + DAY,
    )


def held(**more: object) -> Subscription:
    return replace(row_of(a_paid()).subscription, **more)  # type: ignore[arg-type]


def access_until(observed: ObservedSubscription) -> tuple[datetime | None, datetime | None] | None:
    """Return the ends of paid access and of grace; None for no access at all."""
    window = access_window(row_of(observed).subscription, PRO.grace_days)
    return None if window is None else (window.paid_end, window.grace_end)


END = START + MONTH


@pytest.mark.parametrize(
    ("observed", "access"),
    [
        (a_paid(), (END, END + 3 * DAY)),
        (a_paid(state=S.INCOMPLETE), None),
        (a_paid(state=S.INCOMPLETE_EXPIRED, end_time=START + DAY), None),
        (a_paid(state=S.TRIALING, trial_end_time=START + 7 * DAY), (START + 7 * DAY, START + 7 * DAY)),
        (a_paid(state=S.PAST_DUE), (START, START + 3 * DAY)),
        (a_paid(state=S.PAST_DUE, overdue_since_time=START + DAY), (START, START + 4 * DAY)),
        (a_paid(state=S.UNPAID), None),
        (a_paid(state=S.PAUSED), None),
        (a_paid(state=S.CANCELED, end_time=START + DAY), None),
        (a_paid(collection_paused=True), (END, END + 3 * DAY)),
        (a_paid(cancel_at_period_end=True, cancel_time=END), (END, END)),
        (a_paid(cancel_time=START + 5 * DAY), (START + 5 * DAY, START + 5 * DAY)),
        (a_paid(cancel_time=END), (END, END)),
        (a_paid(cancel_time=END + DAY), (END, END + 3 * DAY)),
    ],
)
def test_a_state_and_its_dates_give_access_until(
    observed: ObservedSubscription, access: tuple[datetime, datetime] | None
) -> None:
    assert access_until(observed) == access


@pytest.mark.parametrize("final", [state for state in S if state not in LIVE_STATES])
@pytest.mark.parametrize("state", [state for state in S if state is not S.EXPIRED])
def test_what_is_final_never_changes(final: SubscriptionState, state: SubscriptionState) -> None:
    present = replace(row_of(a_paid()), subscription=held(state=final))

    assert row_of(a_paid(state=state, quantity=9), present) is present


@pytest.mark.parametrize(
    ("ended", "at_period_end", "canceled_time"),
    [(END, True, START + DAY), (END + DAY, True, START + DAY), (START + 5 * DAY, False, START + 5 * DAY)],
)
def test_an_end_is_that_of_the_period_or_one_of_its_own(
    *, ended: datetime, at_period_end: bool, canceled_time: datetime
) -> None:
    observed = a_paid(
        state=S.CANCELED,
        cancel_at_period_end=True,
        cancel_time=END,
        cancel_request_time=START + DAY,
        end_time=ended,
    )

    found = row_of(observed).subscription

    assert (found.cancel_at_period_end, found.canceled_time, found.period_end_time) == (
        at_period_end,
        canceled_time,
        END,
    )


def test_an_empty_period_is_stored_as_a_short_one() -> None:
    found = row_of(a_paid(period_end_time=START)).subscription

    assert found.period_end_time is not None
    assert found.period_end_time > found.period_start_time


def test_attributes_of_ours_are_no_metadata() -> None:
    observed = a_paid()
    observed = replace(observed, metadata=dict(observed.metadata) | {"crm": "7", "tallygate_operation_id": "op_1"})

    assert row_of(observed).metadata == {"crm": "7"}


@pytest.mark.parametrize(
    ("before", "after", "happened", "action"),
    [
        (S.INCOMPLETE, S.ACTIVE, ["changed"], "payment_succeeded"),
        (S.INCOMPLETE, S.INCOMPLETE_EXPIRED, ["expired"], "expiry"),
        (S.TRIALING, S.ACTIVE, ["changed"], "trial_end"),
        (S.TRIALING, S.PAST_DUE, ["past_due"], "payment_failed"),
        (S.ACTIVE, S.PAST_DUE, ["past_due"], "payment_failed"),
        (S.ACTIVE, S.UNPAID, ["past_due"], "payment_failed"),
        (S.PAST_DUE, S.UNPAID, ["changed"], "payment_given_up"),
        (S.PAST_DUE, S.ACTIVE, ["recovered"], "payment_recovered"),
        (S.UNPAID, S.ACTIVE, ["recovered"], "payment_recovered"),
        (S.ACTIVE, S.PAUSED, ["paused"], "pause"),
        (S.PAUSED, S.ACTIVE, ["resumed"], "resume"),
        (S.PAST_DUE, S.CANCELED, ["canceled"], "cancel"),
        (S.PAUSED, S.PAST_DUE, ["past_due"], "payment_failed"),
    ],
)
def test_a_move_is_told_and_named(
    before: SubscriptionState, after: SubscriptionState, happened: list[str], action: str
) -> None:
    assert happenings(held(state=before), held(state=after)) == happened
    assert action_of(held(state=before), held(state=after)) == action


def test_a_period_that_moves_on_is_a_renewal_also_beside_a_failed_payment() -> None:
    later = {"period_start_time": END, "period_end_time": END + MONTH}

    assert happenings(held(), held(**later)) == ["renewed"]
    assert happenings(held(), held(state=S.PAST_DUE, **later)) == ["past_due", "renewed"]
    assert happenings(held(state=S.TRIALING), held(**later)) == ["changed"]
    assert happenings(held(), held(state=S.CANCELED, **later)) == ["canceled"]


def test_the_end_of_a_period_that_was_asked_for_is_an_expiry() -> None:
    assert action_of(held(cancel_at_period_end=True), held(state=S.CANCELED, cancel_at_period_end=True)) == "expiry"


@pytest.mark.parametrize(
    ("changes", "action"),
    [
        ({"plan_key": PlanKey("unlimited")}, "change_plan"),
        ({"interval": BillingInterval.YEAR}, "change_plan"),
        ({"quantity": 2}, "change_quantity"),
        ({"cancel_at_period_end": True}, "cancel"),
        ({"trial_end_time": START}, "update"),
    ],
)
def test_a_change_without_a_move_is_named_by_what_changed(changes: dict[str, object], action: str) -> None:
    assert action_of(held(), held(**changes)) == action


# --- Prices -----------------------------------------------------------------------------------------------------

NEWER = replace(PRO, version=2, prices=(MONTHLY,))
NEWEST = replace(PRO, version=3, prices=(replace(MONTHLY, amount_minor=1_299),))
VERSIONS = (NEWEST, NEWER, PRO)


def version_sold(price: object, present: Subscription | None = None) -> tuple[str, int, BillingInterval | None] | None:
    found = sold_by(price, LEKHAK, VERSIONS, present)  # type: ignore[arg-type]
    return None if found is None else (found.plan.key, found.plan.version, found.interval)


def test_the_newest_version_with_the_price_is_sold() -> None:
    assert version_sold(a_price()) == ("pro", 2, BillingInterval.MONTH)
    assert version_sold(a_price(amount=1_299)) == ("pro", 3, BillingInterval.MONTH)
    # Sold at that price by no version any more: the plan is still that plan.
    assert version_sold(a_price(amount=1)) == ("pro", 3, BillingInterval.MONTH)


def test_the_pinned_version_stays_while_the_plan_stays() -> None:
    assert version_sold(a_price(), held(plan_version=1)) == ("pro", 1, BillingInterval.MONTH)
    assert version_sold(a_price(), held(plan_key=PlanKey("other"))) == ("pro", 2, BillingInterval.MONTH)


def test_a_price_of_the_catalogs_own_is_found_by_its_id() -> None:
    theirs = a_price(price_id="price_ours", interval="year", lookup_key="", metadata={})

    assert version_sold(theirs) == ("pro", 1, BillingInterval.YEAR)
    assert version_sold(replace(theirs, price_id="price_unknown")) is None


def test_a_price_of_another_tenant_is_no_plan_of_this_one() -> None:
    assert version_sold(a_price(tenant="elsewhere")) is None


def test_an_interval_that_is_not_sold_leaves_the_one_that_is_held() -> None:
    quarterly = a_price(interval_count=3)

    assert version_sold(quarterly, held(interval=BillingInterval.YEAR)) == ("pro", 1, BillingInterval.YEAR)
    assert version_sold(quarterly) == ("pro", 2, BillingInterval.MONTH)


def test_a_row_at_the_provider_is_the_providers() -> None:
    row = row_of(a_paid())

    assert row.subscription.provider is BillingProvider.STRIPE
    assert (row.provider_subscription_id, row.provider_customer_id, row.provider_price_id) == (
        "sub_P1",
        "cus_1",
        "price_pro_month",
    )
