"""Whether a segment may lose anything: what protects data, and what the policy says of its age and worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final, Protocol

from tallygate_server.domain.lifecycle import DataImportance, Segment, SegmentState
from tallygate_server.domain.retention import FOR_EVER, RetentionPolicy
from tallygate_server.domain.retention_rules import Protections
from tallygate_server.lifecycle.tiers.documents import time_document


class SkipKind(Enum):
    """Why a segment was left alone; the words of the contract."""

    LEGAL_HOLD = "legal_hold"
    EXCEPTION = "exception"
    CRITICAL = "critical"
    POLICY = "policy"
    QUARANTINE = "quarantine"
    FORM = "form"
    NO_GAIN = "no_gain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """Why a segment was left alone."""

    kind: SkipKind
    explanation: str
    possible_time: datetime | None = None

    def to_document(self, segment: Segment) -> dict[str, Any]:
        """Return it as the contract's JSON has it."""
        document = {"segment_id": segment.segment_id, "kind": self.kind.value, "explanation": self.explanation}
        if self.possible_time is not None:
            document["possible_time"] = time_document(self.possible_time)
        return document


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What a segment is worth, as far as that protects it."""

    importance: DataImportance = DataImportance.MEDIUM
    training_value: float = 0.0


class Worths(Protocol):
    """Where the worth of segments is asked for."""

    async def worths(self, segments: Sequence[Segment]) -> Mapping[str, Worth]:
        """Return the worth of segments of one tenant, by id."""


USUAL: Final = Worth()


def why_not(
    segment: Segment, worth: Worth, policy: RetentionPolicy, protections: Protections, now: datetime
) -> Skip | None:
    """Tell why a segment must not be compressed with loss; None where it may be.

    Holds, exceptions and critical data come first. Then, where somebody has set a policy: high importance, the age
    threshold (-1: never), and the training value from which on data is kept whole.
    """
    if segment.state is SegmentState.QUARANTINED:
        return Skip(kind=SkipKind.QUARANTINE, explanation=f"it is damaged: {segment.quarantine_reason}")
    importance = worth.importance
    if policy.version == 0:
        # Nobody has said from which worth on data is kept whole: who compresses by hand has decided.
        importance = min(importance, DataImportance.MEDIUM) if importance is not DataImportance.CRITICAL else importance
    kept = protections.why_lossless(segment, importance, now)
    if kept is not None:
        return Skip(kind=SkipKind(kept.kind.value), explanation=kept.explanation, possible_time=kept.possible_time)
    if policy.version == 0:
        return None
    days = policy.compression_threshold_days
    if days == FOR_EVER:
        return Skip(kind=SkipKind.POLICY, explanation="the policy never lets this sort of data lose anything")
    due_time = segment.end_time + timedelta(days=days)
    if now < due_time:
        return Skip(
            kind=SkipKind.POLICY,
            explanation=f"the policy lets it lose nothing before it is {days} days old",
            possible_time=due_time,
        )
    if worth.training_value >= policy.ai_value_threshold:
        return Skip(
            kind=SkipKind.POLICY,
            explanation=(
                f"its training value {worth.training_value:.2f} reaches the policy's"
                f" ai_value_threshold {policy.ai_value_threshold:.2f}"
            ),
        )
    return None
