from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallygate_server.domain.money import (
    AMOUNT_MINOR_MAX,
    CURRENCIES,
    AmountRefused,
    decimal_places,
    format_amount,
    parse_amount,
)


@pytest.mark.parametrize(("currency", "places"), [("USD", 2), ("EUR", 2), ("JPY", 0), ("KWD", 3), ("CLF", 4)])
def test_currencies_have_the_decimal_places_of_iso_4217(currency: str, places: int) -> None:
    assert decimal_places(currency) == places
    assert currency in CURRENCIES


@given(amount=st.integers(0, AMOUNT_MINOR_MAX), currency=st.sampled_from(sorted(CURRENCIES)))
def test_an_amount_survives_being_written(amount: int, currency: str) -> None:
    assert parse_amount(format_amount(amount, currency), currency) == amount


@given(text=st.text(max_size=12) | st.text("0123456789.,+-eE_ ", max_size=12))
def test_a_text_is_an_exact_amount_or_refused(text: str) -> None:
    try:
        amount = parse_amount(text, "USD")
    except AmountRefused:
        return

    assert float(format_amount(amount, "USD")) == float(text)


@pytest.mark.parametrize(("amount", "text"), [(0, "0.00"), (7, "0.07"), (-7, "-0.07"), (-1250, "-12.50")])
def test_small_and_negative_amounts_are_written_in_full(amount: int, text: str) -> None:
    assert format_amount(amount, "USD") == text
