"""Costs of AI usage: exact, rounded once, at the price that holds at the event's time."""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallygate_server.domain.ai_cost import cost_at, price_at
from tallygate_server.domain.catalog import ModelPrice
from tallygate_server.domain.rounding import divide_half_even
from tallygate_server.domain.usage_event import AiUsage

JANUARY = datetime(2026, 1, 1, tzinfo=UTC)
FEBRUARY = datetime(2026, 2, 1, tzinfo=UTC)
MARCH = datetime(2026, 3, 1, tzinfo=UTC)
APRIL = datetime(2026, 4, 1, tzinfo=UTC)
MICROSECOND = datetime(2026, 1, 1, microsecond=1, tzinfo=UTC) - JANUARY

TOKENS = st.integers(0, 1_000_000_000)
PRICES = st.integers(0, 1_000_000_000_000)


def a_price(
    start: datetime | None = None, end: datetime | None = None, *, micros: int = 3_000_000, cached: int | None = None
) -> ModelPrice:
    return ModelPrice(
        model_key="m",
        currency_code="USD",
        input_micros_per_million=micros,
        output_micros_per_million=2 * micros,
        cached_input_micros_per_million=cached,
        start_time=start,
        end_time=end,
    )


def test_a_million_tokens_cost_the_price() -> None:
    cost = cost_at(AiUsage(model_key="m", input_tokens=1_000_000), a_price(micros=3_000_000))

    assert cost.nanos == 3_000_000_000
    assert cost.currency_code == "USD"


def test_a_small_call_costs_what_it_does_by_hand() -> None:
    """gpt-4o-mini at 0.15 and 0.60 dollars a million: 1,000 tokens in and 500 out are 0.00045 dollars."""
    price = ModelPrice(
        model_key="gpt-4o-mini",
        currency_code="USD",
        input_micros_per_million=150_000,
        output_micros_per_million=600_000,
    )

    assert cost_at(AiUsage(model_key="gpt-4o-mini", input_tokens=1_000, output_tokens=500), price).nanos == 450_000


@pytest.mark.parametrize(("cached_price", "nanos"), [(1_000, 600 + 400 * 1), (None, 1_000), (0, 600)])
def test_cached_tokens_are_part_of_the_input_and_have_a_price_of_their_own(
    cached_price: int | None, nanos: int
) -> None:
    usage = AiUsage(model_key="m", input_tokens=1_000, cached_input_tokens=400)

    assert cost_at(usage, a_price(micros=1_000, cached=cached_price)).nanos == nanos


@pytest.mark.parametrize(("micros", "nanos"), [(499, 0), (500, 0), (501, 1), (1_500, 2), (2_500, 2), (2_501, 3)])
def test_half_a_nano_goes_to_the_even_one(micros: int, nanos: int) -> None:
    assert cost_at(AiUsage(model_key="m", input_tokens=1), a_price(micros=micros)).nanos == nanos


@given(
    tokens=TOKENS,
    cached_share=st.fractions(0, 1, max_denominator=1_000),
    output=TOKENS,
    prices=st.tuples(PRICES, st.none() | PRICES, PRICES),
)
def test_a_cost_is_the_exact_sum_rounded_once(
    tokens: int, cached_share: Fraction, output: int, prices: tuple[int, int | None, int]
) -> None:
    cached = int(tokens * cached_share)
    input_price, cached_price, output_price = prices
    price = ModelPrice(
        model_key="m",
        currency_code="EUR",
        input_micros_per_million=input_price,
        output_micros_per_million=output_price,
        cached_input_micros_per_million=cached_price,
    )
    usage = AiUsage(model_key="m", input_tokens=tokens, cached_input_tokens=cached, output_tokens=output)

    nanos = cost_at(usage, price).nanos

    major_unit = sum(
        Fraction(count, 1_000_000) * Fraction(micros, 1_000_000)
        for count, micros in (
            (tokens - cached, input_price),
            (cached, input_price if cached_price is None else cached_price),
            (output, output_price),
        )
    )
    # Fractions round half to even.
    assert nanos == round(major_unit * 1_000_000_000)
    assert 0 <= nanos < 2**63


@given(numerator=st.integers(-(10**30), 10**30), denominator=st.integers(1, 10**12))
def test_division_rounds_half_to_even(numerator: int, denominator: int) -> None:
    assert divide_half_even(numerator, denominator) == round(Fraction(numerator, denominator))


def test_a_price_holds_from_its_start_until_before_its_end() -> None:
    prices = [a_price(JANUARY, FEBRUARY)]

    assert price_at(prices, JANUARY - MICROSECOND) is None
    assert price_at(prices, JANUARY) is prices[0]
    assert price_at(prices, FEBRUARY - MICROSECOND) is prices[0]
    assert price_at(prices, FEBRUARY) is None


def test_a_price_without_dates_holds_for_ever() -> None:
    prices = [a_price()]

    assert price_at(prices, datetime(2000, 1, 1, tzinfo=UTC)) is prices[0]
    assert price_at(prices, datetime(2099, 1, 1, tzinfo=UTC)) is prices[0]


def test_a_price_without_an_end_holds_until_the_next_one_begins() -> None:
    since_ever, from_february = a_price(), a_price(FEBRUARY)
    prices = [since_ever, from_february]

    assert price_at(prices, FEBRUARY - MICROSECOND) is since_ever
    assert price_at(prices, FEBRUARY) is from_february


def test_an_open_price_does_not_come_back_after_the_one_that_ended_it() -> None:
    prices = [a_price(JANUARY), a_price(FEBRUARY, MARCH)]

    assert price_at(prices, MARCH - MICROSECOND) is prices[1]
    assert price_at(prices, MARCH) is None


def test_of_two_prices_that_hold_the_newest_does() -> None:
    campaign = a_price(FEBRUARY, MARCH)
    prices = [a_price(JANUARY, APRIL), campaign]

    assert price_at(prices, FEBRUARY) is campaign
    assert price_at(prices, MARCH) is prices[0]


def test_without_prices_none_holds() -> None:
    assert price_at([], JANUARY) is None
