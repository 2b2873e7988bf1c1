"""Credits and rollovers as pure rules: tables, and a naive model that takes one unit and one period at a time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallygate_server.domain.catalog import FeatureKind, LimitMode, Rollover
from tallygate_server.domain.credits import (
    CARRIED_MAX,
    NOTHING_ROLLED,
    Burn,
    CounterAccount,
    CreditBalance,
    Payment,
    PeriodBefore,
    StoredBalance,
    Totals,
    Window,
    balance_at,
    carried,
    give_back,
    given_after,
    roll,
    window_at,
)
from tallygate_server.domain.entitlement import (
    Entitlement,
    Grant,
    GrantKind,
    LimitOverride,
    Reason,
    allowed_reason,
    resolve,
)
from tallygate_server.domain.identifier import FeatureKey
from tallygate_server.domain.limits import LIMIT_UNLIMITED
from tallygate_server.domain.period import PeriodAnchor, PeriodKind, period_at, periods_between
from tests.support.builders import DAY, NOW, a_counter, a_gauge, a_grant, a_subscription, a_switch, a_value, an_account

ROLLOVERS = st.one_of(
    st.none(),
    st.builds(Rollover, min_quantity=st.integers(0, 8), max_quantity=st.integers(0, 12)),
)
WINDOW = Window(NOW, None)


# --- Rolling over -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "rollover", "over"),
    [
        (5, None, 0),
        (5, Rollover(), 5),
        (0, Rollover(), 0),
        (-3, Rollover(), 0),
        (5, Rollover(min_quantity=5), 5),
        (4, Rollover(min_quantity=5), 0),
        (5, Rollover(max_quantity=3), 3),
        (CARRIED_MAX, Rollover(), CARRIED_MAX),
        (CARRIED_MAX + 1, Rollover(), CARRIED_MAX),
    ],
)
def test_what_goes_over(rest: int, rollover: Rollover | None, over: int) -> None:
    assert carried(rest, rollover) == over


@given(st.integers(0, 20), st.integers(0, 9), ROLLOVERS, st.integers(1, 40))
def test_many_steps_at_once_are_as_one_after_the_other(
    carry: int, amount: int, rollover: Rollover | None, steps: int
) -> None:
    naive = amount + carry
    for _ in range(steps - 1):
        naive = amount + carried(naive, rollover)

    assert given_after(carry, amount=amount, rollover=rollover, steps=steps) == naive


def test_a_hundred_thousand_steps_take_no_time_and_stay_in_bounds() -> None:
    given = given_after(0, amount=CARRIED_MAX, rollover=Rollover(), steps=1_000_000)

    assert given == 2 * CARRIED_MAX


@given(
    st.sampled_from([kind for kind in PeriodKind if kind is not PeriodKind.LIFETIME]),
    st.sampled_from(PeriodAnchor),
    st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Asia/Kathmandu"]),
    st.datetimes(datetime(2020, 1, 1), datetime(2026, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001
    st.integers(0, 60),
)
def test_periods_are_counted_as_they_come(
    kind: PeriodKind, anchor: PeriodAnchor, zone_name: str, at: datetime, count: int
) -> None:
    zone = ZoneInfo(zone_name)
    billing_anchor = datetime(2019, 12, 31, 7, 30, tzinfo=UTC)
    first = period = period_at(kind, anchor, at, billing_anchor=billing_anchor, time_zone=zone)
    for _ in range(count):
        assert period.end is not None
        period = period_at(kind, anchor, period.end, billing_anchor=billing_anchor, time_zone=zone)

    calendar = zone if anchor is PeriodAnchor.ACCOUNT_TIMEZONE else UTC
    counted = periods_between(kind, first.start, period.start, calendar)

    # An hour that a zone cuts short is the only one that is off.
    assert counted == count or (kind is PeriodKind.HOUR and abs(counted - count) <= 1)


# --- Balances -----------------------------------------------------------------------------------------------


def a_credit(quantity: int = 4, **more: object) -> Grant:
    return replace(
        a_grant(GrantKind.BONUS, quantity=quantity, start_time=datetime(2026, 1, 31, 9, tzinfo=UTC)),
        **more,  # type: ignore[arg-type]
    )


def test_windows_begin_at_the_start_and_are_clamped_at_month_ends() -> None:
    credit = a_credit(recurrence=PeriodKind.MONTH, expire_time=datetime(2026, 3, 15, tzinfo=UTC))

    windows = [
        window_at(credit, datetime(2026, month, day, 9, tzinfo=UTC)) for month, day in ((1, 31), (2, 28), (3, 1))
    ]

    first, second = datetime(2026, 1, 31, 9, tzinfo=UTC), datetime(2026, 2, 28, 9, tzinfo=UTC)
    assert windows == [Window(first, second), *[Window(second, datetime(2026, 3, 15, tzinfo=UTC))] * 2]
    assert window_at(replace(credit, recurrence=None), NOW) == Window(first, credit.expire_time)


@given(
    st.integers(1, 9),
    ROLLOVERS,
    st.lists(st.integers(0, 12), max_size=12),
    st.sampled_from([PeriodKind.HOUR, PeriodKind.DAY, PeriodKind.WEEK, PeriodKind.MONTH, PeriodKind.YEAR]),
)
def test_balances_from_the_newest_row_are_as_from_window_to_window(
    quantity: int, rollover: Rollover | None, wishes: list[int], kind: PeriodKind
) -> None:
    """Wishes are per window, taken as far as there is; a row is stored only where something is taken."""
    credit = a_credit(quantity, recurrence=kind, rollover=rollover)
    at, naive_given, stored = credit.start_time, quantity, None
    for wish in wishes:
        balance = balance_at(credit, at, stored)
        assert (balance.given, balance.used) == (naive_given, 0)
        taken = min(wish, balance.remaining)
        if taken:
            stored = StoredBalance(balance.window.start, balance.given, taken)
            again = balance_at(credit, at, stored)
            assert (again.given, again.used, again.stored) == (naive_given, taken, True)
        naive_given = quantity + carried(naive_given - taken, rollover)
        assert balance.window.end is not None
        at = balance.window.end


def test_a_window_whose_rest_went_on_has_nothing_left_where_a_clock_steps_back() -> None:
    credit = a_credit(recurrence=PeriodKind.MONTH, rollover=Rollover())
    assert balance_at(credit, credit.start_time, None, later=True).remaining == 0
    assert balance_at(replace(credit, rollover=None), credit.start_time, None, later=True).remaining == 4


# --- One counter --------------------------------------------------------------------------------------------


def a_balance(given: int, used: int = 0, *, grant_id: str = "g1") -> CreditBalance:
    return CreditBalance(grant_id, WINDOW, given, used)


def an_account_of(limit: int, *balances: CreditBalance, hard: bool = True, **totals: int) -> CounterAccount:
    return CounterAccount(limit=limit, hard=hard, counter=Totals(**totals), credits=balances)


@pytest.mark.parametrize(
    ("account", "limit_quantity", "remaining"),
    [
        (an_account_of(10), 10, 10),
        (an_account_of(10, a_balance(5)), 15, 15),
        (an_account_of(10, a_balance(5), used=4), 15, 11),
        (an_account_of(10, a_balance(5, 2), used=12, credited=2), 15, 3),
        (an_account_of(10, used=12, credited=2), 12, 0),
        (an_account_of(10, used=15), 10, 0),
        (an_account_of(10, a_balance(5), used=15), 20, 5),
        (an_account_of(10, a_balance(5), used=4, reserved=9), 15, 2),
        (an_account_of(10, a_balance(5), reserved=20), 15, 0),
        (an_account_of(10, used=3, rolled_in=4), 14, 11),
        (an_account_of(10, used=3, rolled_in=4, rolled_out=11), 3, 0),
        (an_account_of(0, a_balance(5)), 5, 5),
        (an_account_of(LIMIT_UNLIMITED, a_balance(5), used=4), LIMIT_UNLIMITED, LIMIT_UNLIMITED),
    ],
)
def test_where_an_account_stands(account: CounterAccount, limit_quantity: int, remaining: int) -> None:
    assert (account.limit_quantity, account.remaining) == (limit_quantity, remaining)
    if limit_quantity >= 0:
        counter = account.counter
        assert max(0, limit_quantity - counter.used - counter.reserved) == remaining


def test_the_allowance_pays_first_then_credits_in_order() -> None:
    account = an_account_of(10, a_balance(3), a_balance(9, grant_id="g2"), used=8)

    assert account.plan(4) == Payment(4, (Burn("g1", NOW, 2),))
    assert account.plan(7) == Payment(7, (Burn("g1", NOW, 3), Burn("g2", NOW, 2)))
    assert account.plan(14) is not None
    assert account.plan(15) is None


def test_what_is_reserved_took_from_the_allowance_first() -> None:
    account = an_account_of(10, a_balance(3), used=4, reserved=5)

    assert account.plan(2) == Payment(2, (Burn("g1", NOW, 1),))
    assert account.plan(5) is None


def test_what_is_counted_anyway_is_paid_as_far_as_there_is() -> None:
    account = an_account_of(10, a_balance(3), used=9)

    assert account.pay(6) == Payment(6, (Burn("g1", NOW, 3),), uncovered=2)
    assert an_account_of(10, a_balance(3), hard=False, used=9).plan(6) == account.pay(6)


@given(
    st.integers(0, 12),
    st.lists(st.integers(1, 8), max_size=4),
    st.lists(st.integers(1, 6), max_size=15),
    st.integers(0, 5),
)
def test_payments_agree_with_one_unit_at_a_time(
    limit: int, given_units: list[int], quantities: list[int], reserved: int
) -> None:
    account = an_account_of(
        limit, *(a_balance(n, grant_id=f"g{i}") for i, n in enumerate(given_units)), reserved=reserved
    )
    pots = [max(0, limit - reserved), *given_units]
    # What is reserved beyond the allowance is kept from credits, but paid by none of them yet.
    beyond = max(0, reserved - limit)
    for quantity in quantities:
        fits = quantity <= sum(pots) - beyond
        payment = account.plan(quantity)
        assert (payment is not None) == fits
        if payment is None:
            continue
        before = (account.counter.credited, [credit.used for credit in account.credits])
        account.burn(payment)
        account.unburn(payment)
        assert before == (account.counter.credited, [credit.used for credit in account.credits])
        limit_before = account.limit_quantity
        account.burn(payment)
        account.counter.used += quantity
        for _ in range(quantity):
            pots[next(i for i, pot in enumerate(pots) if pot)] -= 1
        assert [credit.remaining for credit in account.credits] == pots[1:]
        assert account.remaining == max(0, sum(pots) - beyond)
        assert account.limit_quantity == limit_before
    assert account.counter.credited == sum(given_units) - sum(pots[1:])


@given(st.lists(st.integers(1, 6), max_size=4), st.integers(0, 9), st.data())
def test_what_is_reversed_goes_back_to_those_who_paid_last(paid: list[int], base: int, data: st.DataObject) -> None:
    burns = [Burn(f"g{i}", NOW, quantity) for i, quantity in enumerate(paid)]
    total = base + sum(paid)
    units = ["base"] * base + [burn.grant_id for burn in burns for _ in range(burn.quantity)]
    reversed_before = 0
    while reversed_before < total:
        quantity = data.draw(st.integers(1, total - reversed_before))
        back = give_back(burns, quantity, reversed_before=reversed_before)
        popped = [units.pop() for _ in range(quantity)]
        assert {burn.grant_id: burn.quantity for burn in back} == {
            name: popped.count(name) for name in popped if name != "base"
        }
        reversed_before += quantity


# --- Rolling an allowance over ------------------------------------------------------------------------------

MONTHLY = Entitlement(
    feature_key=FeatureKey("words"),
    kind=FeatureKind.COUNTER,
    limit_quantity=10,
    period_kind=PeriodKind.MONTH,
    billing_anchor=datetime(2026, 1, 15, tzinfo=UTC),
    rollover=Rollover(min_quantity=2, max_quantity=25),
)


def month(number: int) -> datetime:
    return datetime(2026, number, 1, tzinfo=UTC)


def before(number: int, used: int = 0, **more: int | None) -> PeriodBefore:
    values: dict[str, int | None] = {
        "reserved": 0, "credited": 0, "limit": 10, "rolled_in": 0, "rolled_out": 0, **more
    }  # fmt: skip
    return PeriodBefore(month(number), used, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("period", "found", "later", "rolled"),
    [
        (1, None, False, (0, 0, None)),  # The month in which the plan began.
        (2, None, False, (10, 0, None)),
        (3, None, False, (20, 0, None)),
        (5, None, False, (25, 0, None)),
        (3, before(2, 4), False, (6, 0, 6)),
        (3, before(2, 9), False, (0, 0, 0)),  # Less than the smallest.
        (3, before(2, 15, rolled_in=10), False, (5, 0, 5)),
        (3, before(2, 15, credited=5), False, (0, 0, 0)),
        (3, before(2, 12, credited=7), False, (5, 0, 5)),
        (3, before(2, 4, reserved=3), False, (3, 0, 3)),
        (3, before(2, 4, limit=8), False, (4, 0, 4)),
        (3, before(2, 4, limit=-1), False, (6, 0, 6)),
        (3, before(2, 4, rolled_in=None), False, (0, 0, None)),  # Counted without a rollover.
        (4, before(2, 4), False, (16, 0, 6)),
        (3, before(2, 4, rolled_out=6), True, (6, 16, None)),
        (2, None, True, (10, 20, None)),
        (1, None, True, (0, 10, None)),
        (1, before(1, 4)._replace(period_start=datetime(2025, 12, 1, tzinfo=UTC)), False, (0, 0, None)),
    ],
)
def test_what_rolls_into_a_month(
    period: int,
    found: PeriodBefore | None,
    later: bool,  # noqa: FBT001
    rolled: tuple[int, int, int | None],
) -> None:
    here = MONTHLY.period_at(month(period), UTC)

    assert roll(MONTHLY, here, found, later=later, time_zone=UTC) == rolled


def test_without_a_rollover_nothing_rolls() -> None:
    here = MONTHLY.period_at(month(5), UTC)
    for other in (replace(MONTHLY, rollover=None), replace(MONTHLY, limit_quantity=LIMIT_UNLIMITED)):
        assert roll(other, here, before(4), later=False, time_zone=UTC) == NOTHING_ROLLED


# --- Grants in an entitlement -------------------------------------------------------------------------------


def entitled(*grants: Grant, plan: object = None, feature: str = "words") -> Entitlement | None:
    sources = an_account(*([a_subscription(plan)] if plan is not None else []), grants=grants)  # type: ignore[arg-type]
    return resolve(sources, NOW).entitlements.get(feature)


def test_credits_do_not_raise_the_allowance_and_stand_in_order() -> None:
    grants = [
        a_grant(GrantKind.BONUS, grant_id="late", quantity=1, priority=2),
        a_grant(GrantKind.PURCHASE, grant_id="never", quantity=1, priority=1),
        a_grant(GrantKind.BONUS, grant_id="soon", quantity=1, priority=1, expire_time=NOW + DAY),
        a_grant(GrantKind.BONUS, grant_id="older", quantity=1, priority=1, create_time=NOW - 9 * DAY),
        a_grant(GrantKind.BONUS, grant_id="over", quantity=1, expire_time=NOW),
        a_grant(GrantKind.BONUS, grant_id="revoked", quantity=1, revoke_time=NOW - timedelta(hours=1)),
    ]

    found = entitled(*grants, plan=a_counter(10))

    assert found is not None
    assert found.limit_quantity == 10
    assert [credit.grant_id for credit in found.credits] == ["soon", "older", "never", "late"]
    assert found.credited_until == NOW


def test_a_gauge_has_more_room_while_the_grant_lasts() -> None:
    more = a_grant(GrantKind.BONUS, feature="devices", feature_kind=FeatureKind.GAUGE, quantity=2)
    found = entitled(more, plan=a_gauge(3), feature="devices")
    assert found is not None
    assert (found.limit_quantity, found.credits) == (5, ())


def test_an_override_keeps_what_it_does_not_name() -> None:
    plan = a_counter(10, period=PeriodKind.WEEK, limit_mode=LimitMode.SOFT, thresholds_percent=(80,))
    bare = entitled(a_grant(GrantKind.OVERRIDE, limit=LimitOverride(quantity=3)), plan=plan)
    full = entitled(
        a_grant(
            GrantKind.OVERRIDE,
            limit=LimitOverride(quantity=3, mode=LimitMode.HARD, period_kind=PeriodKind.DAY, thresholds_percent=(50,)),
        ),
        plan=plan,
    )
    alone = entitled(a_grant(GrantKind.OVERRIDE, limit=LimitOverride(quantity=3)))

    assert bare is not None
    assert full is not None
    assert alone is not None
    assert (bare.limit_quantity, bare.period_kind, bare.limit_mode, bare.thresholds_percent) == (
        3, PeriodKind.WEEK, LimitMode.SOFT, (80,),
    )  # fmt: skip
    assert (full.period_kind, full.limit_mode, full.thresholds_percent) == (PeriodKind.DAY, LimitMode.HARD, (50,))
    assert (alone.limit_quantity, alone.period_kind, alone.limit_mode) == (3, PeriodKind.MONTH, LimitMode.HARD)


def test_a_switch_has_the_last_word_whatever_is_given_beside_it() -> None:
    off = a_grant(GrantKind.DISABLE, grant_id="off", priority=900)
    bonus = a_grant(GrantKind.BONUS, grant_id="bonus", quantity=5, priority=1)
    found = entitled(off, bonus, plan=a_counter(10))
    assert found is not None
    assert found.denied is Reason.FEATURE_DISABLED


def test_a_counter_that_is_switched_on_keeps_its_limit_or_has_none() -> None:
    on = a_grant(GrantKind.ENABLE)
    kept, none = entitled(on, plan=a_counter(10)), entitled(on)
    lapsed = a_subscription(a_counter(10), period_end=NOW - 30 * DAY)
    still = resolve(an_account(lapsed, grants=(on,)), NOW).entitlements["words"]

    assert kept is not None
    assert none is not None
    assert (kept.limit_quantity, none.limit_quantity, still.limit_quantity) == (10, LIMIT_UNLIMITED, 10)
    assert (none.denied, still.denied) == (None, None)
    assert allowed_reason(none) is Reason.UNLIMITED


def test_a_switch_turns_on_what_the_plan_has_off() -> None:
    on = a_grant(GrantKind.ENABLE, feature="export", feature_kind=FeatureKind.BOOLEAN)
    found = entitled(on, plan=a_switch(on=False), feature="export")
    assert found is not None
    assert found.denied is None


def test_an_override_of_a_value_needs_no_plan() -> None:
    value = a_grant(GrantKind.OVERRIDE, feature="history_days", feature_kind=FeatureKind.CONFIG, value=365)
    for plan in (None, a_value(30)):
        found = entitled(value, plan=plan, feature="history_days")
        assert found is not None
        assert found.value == 365


def test_nothing_at_all_never_allows() -> None:
    assert entitled() is None
    assert entitled(a_grant(GrantKind.BONUS, quantity=5, expire_time=NOW)) is None
