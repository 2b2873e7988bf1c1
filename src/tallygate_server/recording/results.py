"""What became of an event."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tallygate_server.domain.ai_cost import NO_COST, AiCost
from tallygate_server.errors import TallygateError


class RecordOutcome(Enum):
    """What became of an event."""

    RECORDED = "recorded"
    DUPLICATE = "duplicate"
    """Recorded before, with the same content: nothing was counted again."""
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordResult:
    """What became of one event of a batch, and what it counted; of a duplicate, what the first one did."""

    outcome: RecordOutcome
    error: TallygateError | None = None
    """Why it was refused."""
    meter_keys: tuple[str, ...] = ()
    cost: AiCost = NO_COST


def refused(error: TallygateError) -> RecordResult:
    """Return the result of an event that was refused."""
    return RecordResult(outcome=RecordOutcome.REFUSED, error=error)
