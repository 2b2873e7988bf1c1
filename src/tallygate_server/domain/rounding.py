"""Division of whole numbers, rounded once, half to even."""

from __future__ import annotations


def divide_half_even(numerator: int, denominator: int) -> int:
    """Return the whole number nearest to the exact quotient, the even one of two; the denominator is above 0."""
    quotient, rest = divmod(numerator, denominator)
    # The rest is never negative, whatever the numerator's sign: the quotient was rounded down.
    twice = 2 * rest
    if twice > denominator or (twice == denominator and quotient % 2):
        quotient += 1
    return quotient
