"""When calls go out, and when they fail at once."""

from __future__ import annotations

import pytest

from tallygate_server.billing.circuit_breaker import BreakerState, CircuitBreaker

OPEN_MS = 10_000
OPEN_NS = OPEN_MS * 1_000_000


def opened(failures_max: int = 3) -> CircuitBreaker:
    breaker = CircuitBreaker(failures_max=failures_max, open_ms=OPEN_MS)
    for _ in range(failures_max):
        assert breaker.admit(0)
        breaker.failed(0)
    return breaker


def test_it_opens_at_the_bound_and_not_one_before() -> None:
    breaker = CircuitBreaker(failures_max=3, open_ms=OPEN_MS)

    states = []
    for _ in range(3):
        assert breaker.admit(0)
        breaker.failed(0)
        states.append(breaker.state(0))

    assert states == [BreakerState.CLOSED, BreakerState.CLOSED, BreakerState.OPEN]
    assert not breaker.admit(0)


def test_an_answer_in_between_starts_the_count_anew() -> None:
    breaker = CircuitBreaker(failures_max=2, open_ms=OPEN_MS)

    for _ in range(5):
        breaker.failed(0)
        breaker.answered()

    assert breaker.state(0) is BreakerState.CLOSED


@pytest.mark.parametrize(("now_ns", "admitted"), [(OPEN_NS - 1, False), (OPEN_NS, True)])
def test_it_lets_one_try_when_its_time_is_over(now_ns: int, *, admitted: bool) -> None:
    breaker = opened()

    assert breaker.admit(now_ns) is admitted


def test_half_open_lets_only_one_try_at_a_time() -> None:
    breaker = opened()

    assert breaker.state(OPEN_NS) is BreakerState.HALF_OPEN
    assert breaker.admit(OPEN_NS)
    assert not breaker.admit(OPEN_NS)


def test_a_try_that_is_answered_closes_it() -> None:
    breaker = opened()
    breaker.admit(OPEN_NS)

    breaker.answered()

    assert breaker.state(OPEN_NS) is BreakerState.CLOSED
    assert breaker.admit(OPEN_NS)


def test_a_try_that_fails_opens_it_for_the_whole_time_again() -> None:
    breaker = opened()
    breaker.admit(OPEN_NS)

    breaker.failed(OPEN_NS)

    assert not breaker.admit(2 * OPEN_NS - 1)
    assert breaker.admit(2 * OPEN_NS)


def test_a_try_that_is_given_up_leaves_room_for_another() -> None:
    breaker = opened()
    breaker.admit(OPEN_NS)

    breaker.abandoned()

    assert breaker.state(OPEN_NS) is BreakerState.HALF_OPEN
    assert breaker.admit(OPEN_NS)
