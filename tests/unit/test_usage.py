from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tallygate_server.domain.usage import (
    MarkKind,
    admit,
    crossed,
    fits,
    peak_after,
    threshold_percent_crossed,
    threshold_percent_reached,
    usage_marks,
)

quantities = st.lists(st.integers(1, 50), max_size=60)


@given(quantities=quantities, limit=st.integers(0, 300))
def test_admitted_quantities_never_pass_the_limit_and_nothing_that_fits_is_refused(
    quantities: list[int], limit: int
) -> None:
    used = 0
    for quantity, admitted in zip(quantities, admit(quantities, used=0, limit=limit), strict=True):
        assert admitted == (used + quantity <= limit)
        used += quantity if admitted else 0
    assert used <= limit


def test_a_gauge_goes_down_to_zero_and_no_further() -> None:
    assert fits(used=1, quantity=-1, limit=1)
    assert not fits(used=1, quantity=-2, limit=1)


def test_going_down_is_allowed_above_the_limit() -> None:
    assert fits(used=5, quantity=-1, limit=1)


@given(quantities=quantities, limit=st.integers(1, 200), thresholds=st.sets(st.integers(1, 150), max_size=8))
def test_each_threshold_is_crossed_by_exactly_one_call_of_a_sequence(
    quantities: list[int], limit: int, thresholds: set[int]
) -> None:
    crossings: dict[int, int] = dict.fromkeys(thresholds, 0)
    used = 0
    for quantity in quantities:
        for threshold in thresholds:
            crossings[threshold] += bool(
                threshold_percent_crossed(
                    used_before=used, used_after=used + quantity, limit=limit, thresholds=[threshold]
                )
            )
        used += quantity

    assert crossings == {threshold: int(used * 100 >= threshold * limit) for threshold in thresholds}


def test_the_eighth_of_ten_crosses_eighty_percent() -> None:
    crossed = [
        threshold_percent_crossed(used_before=n - 1, used_after=n, limit=10, thresholds=[80, 100]) for n in range(1, 11)
    ]

    assert crossed == [0, 0, 0, 0, 0, 0, 0, 80, 0, 100]


def test_one_call_that_crosses_two_thresholds_reports_the_higher() -> None:
    assert threshold_percent_crossed(used_before=0, used_after=10, limit=10, thresholds=[80, 100]) == 100


def test_thresholds_mean_nothing_without_a_limit() -> None:
    assert threshold_percent_crossed(used_before=0, used_after=10, limit=-1, thresholds=[80]) == 0
    assert threshold_percent_reached(used=10, limit=-1, thresholds=[80]) == 0


@given(
    limit=st.integers(-1, 60),
    percents=st.lists(st.integers(1, 200), max_size=4, unique=True),
    absolutes=st.lists(st.integers(1, 80), max_size=4, unique=True),
    steps=st.lists(st.integers(-20, 20), max_size=30),
)
def test_each_mark_is_crossed_once_however_often_the_total_falls(
    limit: int, percents: list[int], absolutes: list[int], steps: list[int]
) -> None:
    marks = usage_marks(limit=limit, hard=True, thresholds_percent=percents, thresholds_absolute=absolutes)
    used, peak, seen = 0, None, []
    highest = 0
    for change in steps:
        after = max(0, used + change)
        seen += crossed(marks, used_before=used if peak is None else peak, used_after=after)
        peak = peak_after(peak=peak, used_before=used, used_after=after)
        used, highest = after, max(highest, after)

        assert peak == (highest if highest > used else None)
        assert sorted(seen, key=repr) == sorted((mark for mark in marks if mark.quantity <= highest), key=repr)


@given(limit=st.integers(1, 1_000), percent=st.integers(1, 1_000), used=st.integers(0, 2_000))
def test_a_percent_mark_is_reached_when_that_much_of_the_limit_is_used(limit: int, percent: int, used: int) -> None:
    [mark] = [
        each
        for each in usage_marks(limit=limit, hard=True, thresholds_percent=[percent], thresholds_absolute=[])
        if each.kind is MarkKind.PERCENT
    ]

    assert (used >= mark.quantity) == (used * 100 >= percent * limit)


def test_without_a_limit_only_absolute_thresholds_are_marks() -> None:
    for limit in (-1, 0):
        marks = usage_marks(limit=limit, hard=True, thresholds_percent=[50, 100], thresholds_absolute=[7])
        assert [(mark.kind, mark.quantity) for mark in marks] == [(MarkKind.QUANTITY, 7)]


def test_a_soft_limit_is_never_exhausted() -> None:
    marks = usage_marks(limit=10, hard=False, thresholds_percent=[100], thresholds_absolute=[])

    assert [mark.kind for mark in marks] == [MarkKind.PERCENT]
