"""Seasons, samples, plans and priorities: rules without I/O, compared with the best there is on small cases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallygate_server.domain.lifecycle import StorageOptimization
from tallygate_server.lifecycle.value.planning import Candidate, Option, plan_steps
from tallygate_server.lifecycle.value.priorities import STEP, TERMS, WEIGHT_MAX, WEIGHT_MIN, adapted, bounded
from tallygate_server.lifecycle.value.seasons import SeasonKind, allocate, strata_of
from tallygate_server.lifecycle.value.selection import COVERAGE_RADIUS, distances, spread
from tests.support.long_run import LONG

EXAMPLES = 300 if LONG else 40
MONDAY = datetime(2026, 3, 2, tzinfo=UTC)

COMPRESS = StorageOptimization.COMPRESS
SUMMARIZE = StorageOptimization.SUMMARIZE
DELETE = StorageOptimization.DELETE


def micros(*times: datetime) -> np.ndarray:
    return np.array([int(time.timestamp()) * 1_000_000 for time in times], dtype=np.int64)


# Seasons


@pytest.mark.parametrize(
    ("time", "name"),
    [
        (MONDAY, "march/monday/00"),
        (MONDAY + timedelta(days=6, hours=23, minutes=59), "march/sunday/23"),
        (datetime(1969, 12, 31, 23, tzinfo=UTC), "december/wednesday/23"),
        (datetime(2024, 2, 29, 8, tzinfo=UTC), "february/thursday/08"),
    ],
)
def test_a_stratum_is_named_by_month_day_and_hour(time: datetime, name: str) -> None:
    _, names = strata_of(micros(time), list(SeasonKind))

    assert names == [name]


def test_without_seasons_days_and_hours_are_taken() -> None:
    strata, names = strata_of(micros(MONDAY, MONDAY + timedelta(hours=1), MONDAY + timedelta(days=7)), [])

    assert names == ["monday/00", "monday/01"]
    assert strata.tolist() == [0, 1, 0]


def test_samples_are_divided_by_the_largest_remainder() -> None:
    assert allocate(np.array([50.0, 30.0, 20.0]), 11, np.array([50, 30, 20])).tolist() == [6, 3, 2]


def test_every_stratum_gets_one_where_there_are_enough() -> None:
    assert allocate(np.array([1e6, 1.0, 1.0]), 3, np.array([10, 1, 5])).tolist() == [1, 1, 1]
    assert allocate(np.array([1e6, 1.0, 1.0]), 4, np.array([10, 1, 5])).tolist() == [2, 1, 1]
    assert allocate(np.array([5.0, 1.0, 1.0]), 2, np.array([10, 1, 5])).sum() == 2


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 20), min_size=1, max_size=12),
    count=st.integers(1, 100),
    shares=st.lists(st.floats(0.001, 1e6), min_size=12, max_size=12),
)
def test_samples_are_divided_exactly_and_within_the_strata(sizes: list[int], count: int, shares: list[float]) -> None:
    given_ = allocate(np.array(shares[: len(sizes)]), count, np.array(sizes))

    assert given_.sum() == min(count, sum(sizes))
    assert all(0 <= each <= size for each, size in zip(given_, sizes, strict=True))
    if count >= sum(size > 0 for size in sizes):
        assert all(each > 0 for each, size in zip(given_, sizes, strict=True) if size)


# Samples


def covered(points: np.ndarray, chosen: list[int]) -> int:
    return int((distances(points, points[chosen]).min(axis=1) <= COVERAGE_RADIUS).sum())


@pytest.mark.parametrize("seed", range(5))
def test_samples_cover_almost_as_much_as_the_best_set(seed: int) -> None:
    numbers = np.random.default_rng(seed)
    points = numbers.normal(size=(14, 2))
    best = max(covered(points, list(each)) for each in combinations(range(14), 3))

    chosen = spread(points, np.ones(14), np.zeros(14, dtype=np.int64), np.array([3]), numbers)

    assert len(set(chosen.tolist())) == 3
    assert covered(points, chosen.tolist()) >= 0.63 * best


def test_strata_share_what_there_is_to_cover() -> None:
    """Two strata with the same two clusters: one takes the one, the other the other."""
    cluster = np.array([[0.0, 0.0], [0.1, 0.0], [9.0, 9.0]])
    points = np.vstack([cluster, cluster])

    chosen = spread(points, np.ones(6), np.array([0, 0, 0, 1, 1, 1]), np.array([1, 1]), np.random.default_rng(0))

    assert covered(points, chosen.tolist()) == 6


def test_the_same_seed_chooses_the_same_and_another_may_not() -> None:
    points = np.zeros((50, 1))

    def choose(seed: int) -> list[int]:
        found = spread(points, np.ones(50), np.zeros(50, dtype=np.int64), np.array([5]), np.random.default_rng(seed))
        return [int(place) for place in found]

    assert choose(1) == choose(1)
    assert len({tuple(choose(seed)) for seed in range(5)}) > 1
    assert all(len(set(choose(seed))) == 5 for seed in range(5))


# Plans


def a_candidate(name: str, stored: int, worth: float, *options: tuple[StorageOptimization, int, float]) -> Candidate:
    return Candidate(
        segment_id=name,
        stored_bytes=stored,
        worth=worth,
        options=tuple(Option(action=action, bytes_after=after, worth_kept=kept) for action, after, kept in options),
    )


def test_what_loses_nothing_comes_first_and_what_is_worth_least_next() -> None:
    candidates = [
        a_candidate("dear", 100, 90.0, (COMPRESS, 60, 1.0), (DELETE, 0, 0.0)),
        a_candidate("cheap", 100, 10.0, (SUMMARIZE, 10, 0.5), (DELETE, 0, 0.0)),
    ]

    assert [(step.segment_id, step.action) for step in plan_steps(candidates, excess_bytes=30)] == [("dear", COMPRESS)]
    assert [(step.segment_id, step.action) for step in plan_steps(candidates, excess_bytes=120)] == [
        ("dear", COMPRESS),
        ("cheap", SUMMARIZE),
    ]
    assert {(step.segment_id, step.action) for step in plan_steps(candidates, excess_bytes=200)} == {
        ("dear", DELETE),
        ("cheap", DELETE),
    }


def test_nothing_is_planned_where_it_fits() -> None:
    assert plan_steps([a_candidate("a", 100, 1.0, (DELETE, 0, 0.0))], excess_bytes=0) == []


def test_a_step_that_became_needless_is_dropped() -> None:
    """The small one is the cheapest for its bytes, but the large one is needed anyhow, and enough."""
    candidates = [
        a_candidate("small", 10, 1.0, (DELETE, 0, 0.0)),
        a_candidate("large", 100, 20.0, (DELETE, 0, 0.0)),
    ]

    assert [step.segment_id for step in plan_steps(candidates, excess_bytes=50)] == ["large"]


OPTIONS = st.lists(
    st.tuples(st.sampled_from([COMPRESS, SUMMARIZE, DELETE]), st.integers(0, 120), st.floats(0, 1)), max_size=3
)
CANDIDATES = st.lists(st.tuples(st.integers(1, 100), st.floats(0, 50), OPTIONS), min_size=1, max_size=4)


@settings(max_examples=EXAMPLES, deadline=None)
@given(told=CANDIDATES, excess=st.integers(1, 300), losable=st.one_of(st.none(), st.floats(0, 100)))
def test_a_plan_saves_enough_wherever_any_does_and_loses_little_more_than_the_best(
    told: list[tuple[int, float, list[tuple[StorageOptimization, int, float]]]], excess: int, losable: float | None
) -> None:
    candidates = [
        a_candidate(str(place), stored, worth, *options) for place, (stored, worth, options) in enumerate(told)
    ]
    steps = plan_steps(candidates, excess_bytes=excess, worth_losable=losable)
    saved, lost = sum(step.saved_bytes for step in steps), sum(step.worth_lost for step in steps)

    by_id = {candidate.segment_id: candidate for candidate in candidates}
    assert len({step.segment_id for step in steps}) == len(steps)
    for step in steps:
        candidate = by_id[step.segment_id]
        assert (step.action, candidate.stored_bytes - step.saved_bytes) in {
            (option.action, option.bytes_after) for option in candidate.options
        }
        assert step.saved_bytes > 0
    if losable is not None:
        assert lost <= losable + 1e-6
        return
    every = [
        (
            sum(
                candidate.stored_bytes - option.bytes_after
                for candidate, option in zip(candidates, each, strict=True)
                if option
            ),
            sum(
                candidate.worth * (1 - option.worth_kept)
                for candidate, option in zip(candidates, each, strict=True)
                if option
            ),
        )
        for each in product(*[(None, *candidate.options) for candidate in candidates])
    ]
    enough = [worth for bytes_, worth in every if bytes_ >= excess]
    if enough:
        # Greedy on the ratio is off by what one candidate is worth, at most.
        assert saved >= excess
        assert lost <= min(enough) + max(candidate.worth for candidate in candidates) + 1e-6
    else:
        assert saved == max(bytes_ for bytes_, _ in every)


# Priorities

SHARES = st.floats(0, 1)


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    raw=st.lists(st.floats(0.05, 1), min_size=4, max_size=4),
    reports=st.lists(st.tuples(SHARES, SHARES), min_size=1, max_size=30),
)
def test_weights_sum_to_one_and_stay_within_their_bounds(raw: list[float], reports: list[tuple[float, float]]) -> None:
    weights = bounded(dict(zip(TERMS, raw, strict=True)))

    for importance, accuracy in reports:
        weights = adapted(weights, importance=importance, accuracy=accuracy)

        assert sum(weights.values()) == pytest.approx(1.0)
        assert all(WEIGHT_MIN - 1e-9 <= weight <= WEIGHT_MAX + 1e-9 for weight in weights.values())


EVEN = dict.fromkeys(TERMS, 0.25)


@pytest.mark.parametrize("accuracy", [0.0, 0.4, 1.0])
def test_what_is_important_gains_by_being_used_and_rare(accuracy: float) -> None:
    shares = [
        adapted(EVEN, importance=importance, accuracy=accuracy)["use"]
        + adapted(EVEN, importance=importance, accuracy=accuracy)["rarity"]
        for importance in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]

    assert shares == sorted(shares)
    assert shares[0] < 0.5 < shares[-1]


def test_a_model_that_does_badly_needs_what_is_rare() -> None:
    rare = [adapted(EVEN, importance=0.9, accuracy=accuracy)["rarity"] for accuracy in (1.0, 0.5, 0.0)]

    assert rare == sorted(rare)


def test_a_report_of_no_news_changes_nothing() -> None:
    assert adapted(EVEN, importance=0.5, accuracy=1.0) == pytest.approx(EVEN)


@settings(max_examples=EXAMPLES, deadline=None)
@given(importance=SHARES, accuracy=SHARES)
def test_no_report_moves_a_weight_by_more_than_the_step(importance: float, accuracy: float) -> None:
    for term, weight in adapted(EVEN, importance=importance, accuracy=accuracy).items():
        assert abs(weight / EVEN[term] - 1) <= 2 * STEP / (1 - STEP), term
