"""What a validation tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from tallygate_server.domain.identifier import AccountId, TenantId


class DifferencePlace(Enum):
    """Where something differs from the rows of record."""

    COUNTER = "counter"
    """A counter, or the balance of a credit, in Postgres."""
    CACHED_COUNTER = "cached_counter"
    """A counter in Redis."""
    HOLDS = "holds"
    """What is held, in Redis or in a counter's row."""
    SNAPSHOT = "snapshot"
    """An account's sources, in Redis, in the process or in its history."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Something that differs from what the rows of record say."""

    tenant_id: TenantId
    account_id: AccountId
    feature_key: str
    """Empty when it is about the account."""
    place: DifferencePlace
    expected: Mapping[str, Any] = field(default_factory=dict)
    actual: Mapping[str, Any] = field(default_factory=dict)
    repaired: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationProgress:
    """How far it is."""

    account_count: int
    account_count_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationTotals:
    """The sums."""

    account_count: int = 0
    counter_count: int = 0
    entry_count: int = 0
    difference_count: int = 0
    repaired_count: int = 0


ValidationUpdate = Difference | ValidationProgress | ValidationTotals
