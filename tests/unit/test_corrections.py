"""What of a line can be taken back, and which denials would have been calls without it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallygate_server.domain.corrections import Denial, Position, Redemption, TakenBack, reversible
from tallygate_server.domain.usage import fits

START = datetime(2026, 3, 15, 12, 0, tzinfo=UTC)


def at(minute: int) -> Position:
    return Position(START + timedelta(minutes=minute), minute)


def taken(quantity: int, minute: int = 100) -> TakenBack:
    return TakenBack(at(minute), quantity)


def a_denial(quantity: int, *, minute: int = 1, used: int = 10, limit: int = 10) -> Denial:
    return Denial(position=at(minute), feature_key="ten", quantity=quantity, used_quantity=used, limit_quantity=limit)


@pytest.mark.parametrize(
    ("quantity", "before", "used", "left"),
    [
        (10, (), 10, 10),
        (10, (4,), 6, 6),
        (10, (4, 6), 5, 0),
        (10, (), 3, 3),
        (10, (9,), 0, 0),
        (-3, (), 10, 0),
    ],
)
def test_a_line_is_taken_back_as_far_as_it_goes(quantity: int, before: tuple[int, ...], used: int, left: int) -> None:
    found = reversible(quantity=quantity, taken_back=[taken(each) for each in before], used=used)

    assert found == left


def test_denials_are_let_in_one_after_the_other() -> None:
    redemption = Redemption([taken(10)])
    wanted = (3, 4, 5, 2, 1, 1)

    assert [redemption.admits(a_denial(each, minute=n)) for n, each in enumerate(wanted, 1)] == [
        True,
        True,
        False,
        True,
        True,
        False,
    ]


def test_what_was_left_of_the_limit_counts_as_well() -> None:
    redemption = Redemption([taken(2)])

    assert not redemption.admits(a_denial(6, used=7))
    assert redemption.admits(a_denial(5, used=7))


def test_what_was_taken_back_before_a_denial_is_in_its_numbers_already() -> None:
    redemption = Redemption([taken(5, minute=10), taken(5, minute=20)])

    assert redemption.admits(a_denial(10, minute=9))
    again = Redemption([taken(5, minute=10), taken(5, minute=20)])
    assert not again.admits(a_denial(6, minute=11))
    assert again.admits(a_denial(5, minute=12))
    assert not Redemption([taken(5, minute=10)]).admits(a_denial(1, minute=11))


@given(
    quantities=st.lists(st.integers(1, 12), max_size=12),
    wrong=st.integers(1, 20),
    limit=st.integers(0, 30),
)
def test_they_are_those_that_a_second_life_without_the_line_would_allow(
    quantities: list[int], wrong: int, limit: int
) -> None:
    """Live through the calls twice, with the wrong line and without: more fits, and none that fitted is lost."""
    with_it, denials = wrong, []
    for minute, quantity in enumerate(quantities, 1):
        if fits(used=with_it, quantity=quantity, limit=limit):
            with_it += quantity
        else:
            denials.append(a_denial(quantity, minute=minute, used=with_it, limit=limit))
    redemption = Redemption([taken(wrong)])

    let_in = [denial for denial in denials if redemption.admits(denial)]

    # Each of them fits at its moment into what was used by then without the line, those let in before it included.
    for index, denial in enumerate(let_in):
        before = sum(each.quantity for each in let_in[:index])
        assert denial.used_quantity - wrong + before + denial.quantity <= limit
    # And those that are not let in do not.
    for denial in denials:
        if denial not in let_in:
            before = sum(each.quantity for each in let_in if each.position < denial.position)
            assert denial.used_quantity - wrong + before + denial.quantity > limit
