"""Validation: what counters, Redis and snapshots say, compared with the rows of record; and its repair."""

from __future__ import annotations

from tallygate_server.validation.differences import (
    Difference,
    DifferencePlace,
    ValidationProgress,
    ValidationTotals,
    ValidationUpdate,
)
from tallygate_server.validation.validator import ACCOUNTS_PER_PAGE_MAX, VALIDATIONS_AT_ONCE_MAX, Validations

__all__ = [
    "ACCOUNTS_PER_PAGE_MAX",
    "VALIDATIONS_AT_ONCE_MAX",
    "Difference",
    "DifferencePlace",
    "ValidationProgress",
    "ValidationTotals",
    "ValidationUpdate",
    "Validations",
]
