"""What an AI model's work costs, exactly.

Prices are millionths of a currency's major unit for a million tokens, costs are billionths (nanos) of the major unit:
one token at a price of p costs p / 1,000 nanos. The sum over input, cached input and output tokens is exact; it is
rounded once, half to even, to whole nanos. No float is ever involved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from tallygate_server.domain.catalog import ModelPrice
from tallygate_server.domain.rounding import divide_half_even
from tallygate_server.domain.usage_event import AiUsage

_NANOS_PER_MICRO: Final = 1_000
_TOKENS_PER_PRICE: Final = 1_000_000
_SINCE_EVER: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class AiCost:
    """A cost in billionths of the currency's major unit."""

    nanos: int = 0
    currency_code: str = ""
    """ISO 4217 code; empty when no price applies, and then the cost is 0."""


NO_COST: Final = AiCost()


def cost_at(usage: AiUsage, price: ModelPrice) -> AiCost:
    """Return what the tokens cost at the price."""
    cached_price = price.cached_input_micros_per_million
    if cached_price is None:
        cached_price = price.input_micros_per_million
    micros_times_million = (
        (usage.input_tokens - usage.cached_input_tokens) * price.input_micros_per_million
        + usage.cached_input_tokens * cached_price
        + usage.output_tokens * price.output_micros_per_million
    )
    nanos = divide_half_even(micros_times_million * _NANOS_PER_MICRO, _TOKENS_PER_PRICE)
    return AiCost(nanos, price.currency_code)


def price_at(prices: Sequence[ModelPrice], at: datetime) -> ModelPrice | None:
    """Return the price of one model that holds at the instant; None when none does.

    A price holds in `[start_time, end_time)`, without an end until another one of the model begins. Where several hold,
    the one that began last does.
    """
    begun = [price for price in prices if price.start_time is None or price.start_time <= at]
    newest = max((price.start_time for price in begun if price.start_time is not None), default=None)
    holding = [price for price in begun if _not_over(price, at, newest)]
    return max(holding, key=lambda price: price.start_time or _SINCE_EVER, default=None)


def _not_over(price: ModelPrice, at: datetime, newest: datetime | None) -> bool:
    """Tell whether a price that has begun still holds, where the newest that has begun did so at that time."""
    if price.end_time is not None:
        return at < price.end_time
    return price.start_time == newest
