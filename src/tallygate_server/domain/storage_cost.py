"""What storage costs, and how long data takes to come back from each tier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

from tallygate_server.domain.lifecycle import StorageTier
from tallygate_server.domain.money import decimal_places

GB_BYTES: Final = 1_000_000_000
"""A gigabyte as it is billed."""

PRICES_DEFAULT: Final = {
    StorageTier.HOT: Decimal("0.25"),
    StorageTier.WARM: Decimal("0.12"),
    StorageTier.COLD: Decimal("0.023"),
}
RETRIEVAL_DEFAULT: Final = {
    StorageTier.HOT: timedelta(milliseconds=10),
    StorageTier.WARM: timedelta(milliseconds=50),
    StorageTier.COLD: timedelta(milliseconds=500),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TierFacts:
    """What the settings say about the tiers."""

    currency: str = "USD"
    prices_per_gb: Mapping[StorageTier, Decimal] = field(default_factory=lambda: dict(PRICES_DEFAULT))
    """Of a gigabyte for a month, in the currency's major unit."""
    retrieval: Mapping[StorageTier, timedelta] = field(default_factory=lambda: dict(RETRIEVAL_DEFAULT))
    """How long it takes until data of the tier can be read."""

    def cost(self, stored_bytes: Mapping[StorageTier, int]) -> Decimal:
        """Return what bytes cost in a month, exactly, in the currency's major unit."""
        prices = self.prices_per_gb
        return sum((prices[tier] * count / GB_BYTES for tier, count in stored_bytes.items()), Decimal(0))

    def minor_units(self, amount: Decimal) -> int:
        """Round an amount to the currency's minor unit, half of one away from zero."""
        return int((amount * 10 ** decimal_places(self.currency)).quantize(Decimal(1), rounding=ROUND_HALF_UP))
