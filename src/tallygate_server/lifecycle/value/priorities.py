"""How the weights of the value terms follow a model's performance.

A sort of data that the model found important counts more by what is rare and what is used in it; one that it did
without counts less by these, and so more by being recent and whole. While the model does badly, rare data gains most:
it needs what it has not seen; a model that is right already gains by what it uses. A measurement moves a weight by a
quarter at most before they are made to sum to 1 again, and none leaves its bounds: no single report can turn the order
over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

RECENCY, RARITY, QUALITY, USE = TERMS = ("recency", "rarity", "quality", "use")
WEIGHT_MIN: Final = 0.05
WEIGHT_MAX: Final = 0.7
STEP: Final = 0.25
"""Largest share by which a measurement moves a weight."""
NEUTRAL_IMPORTANCE: Final = 0.5
_ROUNDS: Final = 8


def adapted(weights: Mapping[str, float], *, importance: float, accuracy: float) -> dict[str, float]:
    """Return the weights after a measurement; both are 0 to 1. They sum to 1, each within the bounds."""
    pull = 2.0 * (importance - NEUTRAL_IMPORTANCE)
    error = 1.0 - accuracy
    moves = {
        RARITY: pull * (1.0 + error) / 2.0,
        USE: pull * (1.0 + accuracy) / 2.0,
        QUALITY: error * importance / 2.0,
        RECENCY: 0.0,
    }
    return bounded({term: weight * (1.0 + STEP * moves.get(term, 0.0)) for term, weight in weights.items()})


def bounded(weights: Mapping[str, float]) -> dict[str, float]:
    """Return weights of the same proportions that sum to 1, each within the bounds where it would leave them."""
    found = {term: max(weight, 0.0) for term, weight in weights.items()}
    fixed: dict[str, float] = {}
    for _ in range(_ROUNDS):
        free = {term: weight for term, weight in found.items() if term not in fixed}
        left = 1.0 - sum(fixed.values())
        total = sum(free.values())
        scaled = {term: weight / total * left if total > 0 else left / len(free) for term, weight in free.items()}
        low = {term: WEIGHT_MIN for term, weight in scaled.items() if weight < WEIGHT_MIN}
        # One bound at a time: what is lifted to the smallest takes from those that would exceed the largest.
        beyond = low or {term: WEIGHT_MAX for term, weight in scaled.items() if weight > WEIGHT_MAX}
        if not beyond:
            return {term: fixed.get(term, scaled.get(term, 0.0)) for term in found}
        fixed |= beyond
    return fixed
